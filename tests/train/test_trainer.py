"""Att-CoT inside the Trainer: exact at weight 0, differentiable, and it leaves nothing behind."""

import json

import pytest
import torch
from transformers import Trainer, TrainingArguments, set_seed

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import Problem
from attcot_analysis.train import (
    AttCoTConfig,
    FinetuneConfig,
    RationaleCollator,
    RationaleDataset,
    make_trainer,
)
from attcot_analysis.train.data import probe_rows
from attcot_analysis.train.finetune import finetune

BOTH = AttCoTConfig(lambda_vis=0.5, lambda_commit=1.0, warmup=0.0)


def _weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _run(checkpoint, problems, folder, config, **arguments):
    set_seed(config.seed)
    mllm = load_mllm(checkpoint, dtype=torch.float32)
    trainer = make_trainer(
        mllm, problems, config, folder, logging_steps=1, report_to=[], **arguments
    )
    trainer.train()
    return trainer, mllm


def _gradients(checkpoint, problems, folder, attcot, *, accumulation=1, **arguments):
    """Gradient of one step's loss on all problems, without an optimizer step."""
    mllm = load_mllm(checkpoint, dtype=torch.float32)
    config = FinetuneConfig(
        steps=1, batch_size=len(problems), accumulation=accumulation, attcot=attcot
    )
    # With rate 0 nothing moves, so every split sees the same weights.
    trainer = make_trainer(
        mllm,
        problems,
        config,
        folder,
        learning_rate=0.0,
        max_grad_norm=0.0,
        report_to=[],
        **arguments,
    )
    found = {}

    class Keep(torch.optim.SGD):
        def step(self, closure=None):
            found.update(
                {n: p.grad.clone() for n, p in mllm.model.named_parameters() if p.grad is not None}
            )

    trainer.optimizer = Keep(mllm.model.parameters(), lr=0.0)
    trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer)
    trainer.train()
    return found


def test_weight_zero_is_plain_sft_bit_for_bit(random_checkpoint, training_problems, tmp_path):
    config = FinetuneConfig(steps=4, batch_size=4)
    ours, mllm = _run(random_checkpoint, training_problems, tmp_path, config)

    set_seed(config.seed)
    plain = load_mllm(random_checkpoint, dtype=torch.float32)
    collate = RationaleCollator(plain)

    def without_examples(examples):
        batch = collate(examples)
        del batch["attcot"]
        return batch

    arguments = {
        name: getattr(ours.args, name)
        for name in (
            "output_dir",
            "max_steps",
            "per_device_train_batch_size",
            "learning_rate",
            "warmup_steps",
            "lr_scheduler_type",
            "seed",
            "data_seed",
            "logging_steps",
            "save_strategy",
            "report_to",
            "remove_unused_columns",
            "disable_tqdm",
            "dataloader_drop_last",
            "dataloader_pin_memory",
        )
    }
    trainer = Trainer(
        model=plain.model,
        args=TrainingArguments(**arguments),
        train_dataset=RationaleDataset(plain, training_problems),
        data_collator=without_examples,
    )
    trainer.train()
    assert _losses(ours) == _losses(trainer)
    first, second = _weights(mllm.model), _weights(plain.model)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_terms_change_training_and_are_logged(random_checkpoint, training_problems, tmp_path):
    plain, _ = _run(
        random_checkpoint, training_problems, tmp_path, FinetuneConfig(steps=3, batch_size=4)
    )
    config = FinetuneConfig(steps=3, batch_size=4, attcot=BOTH)
    ours, mllm = _run(random_checkpoint, training_problems, tmp_path, config)
    assert _losses(ours) != _losses(plain)
    logged = ours.state.log_history[0]
    assert {"visual_mass", "loss_vis", "early_confidence", "loss_commit"} <= set(logged)
    assert 0 <= logged["commitment_position"] <= 1
    assert 0 < logged["visual_mass"] < 1
    assert mllm.model.config.get_text_config()._attn_implementation == "sdpa"


def test_bf16_trains_as_fp32_does(random_checkpoint, training_problems, tmp_path):
    config = FinetuneConfig(steps=3, batch_size=4, attcot=BOTH)
    full, _ = _run(random_checkpoint, training_problems, tmp_path, config)
    half, mllm = _run(
        random_checkpoint, training_problems, tmp_path, config, bf16=True, use_cpu=True
    )
    assert _losses(half) != _losses(full)
    assert _losses(half) == pytest.approx(_losses(full), rel=0.02)
    assert all(value.isfinite().all() for value in _weights(mllm.model).values())
    for one, other in zip(half.state.log_history, full.state.log_history, strict=True):
        for name in {"visual_mass", "loss_vis", "loss_commit"} & set(one):
            assert one[name] == pytest.approx(other[name], abs=0.02)


def test_the_terms_reach_tensorboard(random_checkpoint, training_problems, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    mllm = load_mllm(random_checkpoint, dtype=torch.float32)
    config = FinetuneConfig(steps=2, batch_size=4, attcot=BOTH)
    trainer = make_trainer(mllm, training_problems, config, tmp_path, logging_steps=1)
    trainer.train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    written = EventAccumulator(str(events)).Reload()
    for name in (
        "loss_vis",
        "loss_commit",
        "visual_mass",
        "early_confidence",
        "commitment_position",
    ):
        logged = [entry[name] for entry in trainer.state.log_history if name in entry]
        found = written.Scalars(f"train/{name}")
        assert [scalar.step for scalar in found] == [1, 2]
        assert [scalar.value for scalar in found] == pytest.approx(logged)


@pytest.mark.parametrize(
    "attcot",
    [
        AttCoTConfig(lambda_vis=1.0, warmup=0.0),
        AttCoTConfig(lambda_vis=1.0, warmup=0.0, vis_region="evidence", vis_form="log"),
        AttCoTConfig(lambda_commit=1.0, warmup=0.0),
        # Random weights do not exceed the rising margins of this form.
        AttCoTConfig(
            lambda_commit=1.0,
            warmup=0.0,
            commit_form="answer",
            commit_margins="constant",
            commit_until=1.0,
        ),
        AttCoTConfig(lambda_vis=1.0, warmup=0.0, vis_region="sink_free"),
    ],
    ids=["image", "evidence-log", "confidence", "answer", "sink-free"],
)
def test_each_term_reaches_the_weights(random_checkpoint, training_problems, tmp_path, attcot):
    problems = training_problems[:12]
    plain = _gradients(random_checkpoint, problems, tmp_path, AttCoTConfig())
    ours = _gradients(random_checkpoint, problems, tmp_path, attcot)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.allclose(plain[name], ours[name], rtol=1e-4, atol=1e-7)


def test_gradient_checkpointing_gives_the_same_gradients(
    random_checkpoint, training_problems, tmp_path
):
    problems = training_problems[:4]
    plain = _gradients(random_checkpoint, problems, tmp_path, BOTH)
    checkpointed = _gradients(
        random_checkpoint,
        problems,
        tmp_path,
        BOTH,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-7)


def test_the_loss_does_not_depend_on_how_a_batch_is_split(random_checkpoint, tmp_path):
    # Equal token counts, since cross-entropy averages over the tokens of each part.
    from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

    problems = generate_arrows(40, ArrowsConfig(prior=0.95), seed=1, split="train")
    mllm = load_mllm(random_checkpoint)
    dataset = RationaleDataset(mllm, problems)
    lengths = [len(dataset[i].encoded.response_ids) for i in range(len(problems))]
    common = max(set(lengths), key=lengths.count)
    same = [p for p, n in zip(problems, lengths, strict=True) if n == common][:4]
    whole = _gradients(random_checkpoint, same, tmp_path, BOTH)
    for accumulation in (2, 4):
        parts = _gradients(random_checkpoint, same, tmp_path, BOTH, accumulation=accumulation)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_reentrant_checkpointing_is_refused(random_checkpoint, training_problems, tmp_path):
    mllm = load_mllm(random_checkpoint)
    with pytest.raises(TrainingError, match="use_reentrant"):
        make_trainer(
            mllm,
            training_problems,
            FinetuneConfig(attcot=BOTH),
            tmp_path,
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": True},
        )


def test_dropping_columns_is_refused(random_checkpoint, training_problems, tmp_path):
    mllm = load_mllm(random_checkpoint)
    with pytest.raises(TrainingError, match="remove_unused_columns"):
        make_trainer(
            mllm,
            training_problems,
            FinetuneConfig(attcot=BOTH),
            tmp_path,
            remove_unused_columns=True,
        )


@pytest.mark.parametrize("attcot", [AttCoTConfig(), BOTH], ids=["plain", "att_cot"])
def test_a_loss_that_is_not_a_number_stops_the_run(
    random_checkpoint, training_problems, tmp_path, attcot
):
    mllm = load_mllm(random_checkpoint, dtype=torch.float32)
    with torch.no_grad():
        mllm.model.model.language_model.norm.weight.fill_(float("nan"))
    config = FinetuneConfig(steps=2, batch_size=4, attcot=attcot)
    trainer = make_trainer(mllm, training_problems, config, tmp_path)
    with pytest.raises(TrainingError, match="loss is nan at step 1"):
        trainer.train()
    assert mllm.model.config.get_text_config()._attn_implementation == "sdpa"


def test_finetune_saves_a_checkpoint_with_its_log(random_checkpoint, training_problems, tmp_path):
    folder = tmp_path / "tuned"
    config = FinetuneConfig(steps=2, batch_size=4, attcot=BOTH)
    assert finetune(random_checkpoint, training_problems, folder, config) == folder
    assert load_mllm(folder).n_layers == load_mllm(random_checkpoint).n_layers
    log = json.loads((folder / "training_log.json").read_text())
    assert log["config"]["attcot"]["lambda_vis"] == 0.5
    with pytest.raises(TrainingError, match="exists already"):
        finetune(random_checkpoint, training_problems, folder, config)


def test_an_interrupted_run_leaves_no_folder_that_looks_finished(
    random_checkpoint, training_problems, tmp_path, monkeypatch
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("attcot_analysis.train.terms.commitment_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune(
            random_checkpoint,
            training_problems,
            tmp_path / "tuned",
            FinetuneConfig(steps=2, batch_size=4, attcot=BOTH),
        )
    assert not (tmp_path / "tuned").exists()


def test_problems_without_a_rationale_are_refused(random_mllm, training_problems):
    bare = [
        Problem(p.id, p.image, p.question, p.candidates, p.answer) for p in training_problems[:2]
    ]
    with pytest.raises(TrainingError, match="no rationale steps"):
        RationaleDataset(random_mllm, bare)
    assert len(RationaleDataset(random_mllm, bare, mode="direct")) == 2
    with pytest.raises(TrainingError, match="no problems"):
        RationaleDataset(random_mllm, [])


@pytest.mark.parametrize("evidence", [False, True])
def test_rows_predict_rationale_tokens_and_columns_mark_the_picture(
    random_mllm, training_problems, evidence
):
    dataset = RationaleDataset(random_mllm, training_problems)
    examples = [dataset[index] for index in range(3)]
    rows, groups, cols = probe_rows(examples, evidence=evidence)
    for at, example in enumerate(examples):
        layout = example.encoded.layout
        expected = [token - 1 for span in layout.steps for token in range(span.start, span.stop)]
        assert rows[at][rows[at] >= 0].tolist() == expected
        outside = torch.ones(cols.shape[1], dtype=torch.bool)
        outside[torch.as_tensor(layout.image)] = False
        assert cols[at, outside].sum() == 0
        assert cols.shape[2] == (len(example.evidence) if evidence else 1)
        assert int(groups[at].max()) == (len(layout.steps) - 1 if evidence else 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"batch_size": 4, "accumulation": 3},
    ],
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(TrainingError):
        FinetuneConfig(**wrong)
