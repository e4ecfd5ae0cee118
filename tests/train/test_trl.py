"""Att-CoT in TRL: exact at weight 0, the same terms as in our own trainer, LoRA, refusals."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from transformers import set_seed
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import load_problems, save_problems
from attcot_analysis.problems.pictures import _read_stored
from attcot_analysis.train import AttCoTConfig, FinetuneConfig, attach, language_lora, make_trainer
from attcot_analysis.train.data import RationaleDataset, collate_examples
from attcot_analysis.train.rewards import grpo_rows
from attcot_analysis.train.terms import AttCoTTerms
from attcot_analysis.train.trainer import AttCoTSFTTrainer, CotCollator, prompt_completion_rows

BOTH = AttCoTConfig(lambda_vis=0.5, lambda_commit=1.0, warmup=0.0, vis_region="evidence")


def _arguments(folder, **options):
    settings = {
        "output_dir": str(folder),
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_length": None,
        "gradient_checkpointing": False,
        "bf16": False,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 1,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "completion_only_loss": True,
        "use_cpu": True,
    }
    return SFTConfig(**{**settings, **options})


def _dataset(mllm, problems):
    return prompt_completion_rows(mllm, problems)


def _losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _trainer(checkpoint, problems, folder, attcot, cls=AttCoTSFTTrainer, peft=None, **options):
    set_seed(0)
    mllm = load_mllm(checkpoint, dtype=torch.float32)
    extra = {} if cls is SFTTrainer else {"mllm": mllm, "attcot": attcot}
    trainer = cls(
        model=mllm.model,
        processing_class=mllm.processor,
        args=_arguments(folder, **options),
        train_dataset=_dataset(mllm, problems),
        peft_config=peft,
        **extra,
    )
    return trainer, mllm


def _gradients(checkpoint, problems, folder, attcot, **options):
    """Gradient of one step on all problems."""
    trainer, _ = _trainer(
        checkpoint, problems, folder, attcot, learning_rate=0.0, max_steps=1, **options
    )
    found = {}

    class Keep(torch.optim.SGD):
        def step(self, closure=None):
            named = trainer.model.named_parameters()
            found.update({n: p.grad.clone() for n, p in named if p.grad is not None})

    trainer.args.max_grad_norm = 0.0
    trainer.optimizer = Keep([p for p in trainer.model.parameters() if p.requires_grad], lr=0.0)
    trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer)
    trainer.train()
    return found


def test_weight_zero_is_plain_trl_bit_for_bit(random_checkpoint, training_problems, tmp_path):
    ours, mllm = _trainer(random_checkpoint, training_problems, tmp_path, AttCoTConfig())
    ours.train()
    plain, other = _trainer(random_checkpoint, training_problems, tmp_path, None, cls=SFTTrainer)
    plain.train()
    assert _losses(ours) == _losses(plain)
    first, second = _weights(mllm.model), _weights(other.model)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_our_batches_are_those_of_trl(random_mllm, training_problems, tmp_path):
    rows = prompt_completion_rows(random_mllm, training_problems[:3])
    theirs = DataCollatorForVisionLanguageModeling(
        random_mllm.processor, completion_only_loss=True
    )([dict(row) for row in rows])
    ours = CotCollator(random_mllm)(rows)
    assert ours.keys() == {*theirs.keys(), "attcot"}
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def test_rows_of_pictures_on_a_disk_are_decoded_when_they_are_looked_at(
    random_mllm, training_problems, tmp_path, monkeypatch
):
    folder = save_problems(training_problems[:4], tmp_path / "set")
    read = partial(load_problems, folder, keep_pictures=False)
    files = [problem.held[0].file for problem in read()]
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(files[1]) as image:
        image.load()
    image.save(files[1], exif=turned)  # Square, so that it fits its problem as it did.
    with Image.open(files[2]) as image:
        clear = image.convert("RGBA")
    clear.putalpha(100)
    clear.save(files[2])
    problems, decoded, load = read(), [], PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda self: decoded.append(1) or load(self))
    for make in (partial(prompt_completion_rows, random_mllm), grpo_rows):
        _read_stored.cache_clear()
        decoded.clear()
        rows = make(problems)
        few = len(decoded)
        pictures = [row["images"] for row in rows]
        assert len(decoded) >= few + len(problems)
        # Only those that readers see in different ways.
        assert few <= 2 * 3
        for (found,), problem in zip(pictures, problems, strict=True):
            assert np.array_equal(np.asarray(found), np.asarray(problem.image))
        (row,) = make(training_problems[:1])
        assert np.array_equal(np.asarray(row["images"][0]), np.asarray(training_problems[0].image))


def test_conversations_are_rendered_as_trl_renders_them(random_mllm, training_problems):
    problem = training_problems[0]
    row = {
        "prompt": [{"role": "user", "content": problem.question}],
        "completion": [{"role": "assistant", "content": "<think>\n1. So.\n</think>"}],
        "image": problem.image,
        "candidates": list(problem.candidates),
        "answer": problem.answer,
    }
    ours = CotCollator(random_mllm)([row])
    theirs = DataCollatorForVisionLanguageModeling(
        random_mllm.processor, completion_only_loss=True
    )([dict(row)])
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    assert torch.equal(ours["labels"], theirs["labels"])
    assert ours["attcot"][0].evidence == (None,)


def test_the_terms_gradient_is_that_of_our_own_trainer(
    random_checkpoint, training_problems, tmp_path
):
    problems = training_problems[:4]
    trl = [_gradients(random_checkpoint, problems, tmp_path, c) for c in (AttCoTConfig(), BOTH)]

    def own(attcot):
        mllm = load_mllm(random_checkpoint, dtype=torch.float32)
        config = FinetuneConfig(steps=1, batch_size=4, attcot=attcot)
        trainer = make_trainer(mllm, problems, config, tmp_path)
        dataset = RationaleDataset(mllm, problems)
        batch = collate_examples(mllm, [dataset[at] for at in range(4)])
        mllm.model.train()
        trainer.compute_loss(mllm.model, batch).backward()
        return {n: p.grad for n, p in mllm.model.named_parameters() if p.grad is not None}

    ours = [own(AttCoTConfig()), own(BOTH)]
    for name in trl[0]:
        expected, found = ours[1][name] - ours[0][name], trl[1][name] - trl[0][name]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert (trl[1][name] - trl[0][name]).abs().max() > 1e-6


def test_a_batch_may_be_split_in_any_way(random_checkpoint, training_problems, tmp_path):
    problems = training_problems[:8]
    whole = _gradients(random_checkpoint, problems, tmp_path, BOTH, per_device_train_batch_size=8)
    for size in (4, 2):
        parts = _gradients(
            random_checkpoint,
            problems,
            tmp_path,
            BOTH,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
        )
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_lora_checkpointing_and_accumulation_go_together(
    random_checkpoint, training_problems, tmp_path
):
    """One gradient, however items are split and layers recomputed; no factor of LoRA is zero."""
    problems = training_problems[:8]
    lora = {"peft": language_lora(4, init_lora_weights=False)}
    whole = _gradients(
        random_checkpoint, problems, tmp_path, BOTH, per_device_train_batch_size=8, **lora
    )
    parts = _gradients(
        random_checkpoint,
        problems,
        tmp_path,
        BOTH,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        **lora,
    )
    assert whole.keys() == parts.keys() and all(gradient.any() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_lora_trains_the_language_model_only_and_gets_the_terms(
    random_checkpoint, training_problems, tmp_path
):
    problems = training_problems[:4]
    plain = _gradients(random_checkpoint, problems, tmp_path, AttCoTConfig(), peft=language_lora(4))
    ours = _gradients(
        random_checkpoint,
        problems,
        tmp_path,
        BOTH,
        peft=language_lora(4),
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    assert ours and all("lora" in name and "visual" not in name for name in ours)
    # B starts at zero, so only its gradient is not.
    changed = [n for n in ours if not torch.allclose(ours[n], plain[n], rtol=1e-3, atol=1e-8)]
    assert any("q_proj" in name for name in changed) and any("k_proj" in name for name in changed)


def test_attached_to_an_object_it_trains_as_the_class_does(
    random_checkpoint, training_problems, tmp_path
):
    ours, mllm = _trainer(random_checkpoint, training_problems, tmp_path, BOTH)
    ours.train()
    plain, other = _trainer(random_checkpoint, training_problems, tmp_path, None, cls=SFTTrainer)
    plain.data_collator = CotCollator(other)
    attach(plain, other, BOTH).train()
    assert _losses(ours) == _losses(plain)
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(m.state_dict().values() for m in (mllm.model, other.model)), strict=True)
    )
    logged = plain.state.log_history[0]
    assert {"loss_vis", "loss_commit", "visual_mass", "commitment_position"} <= set(logged)


def test_evaluation_needs_no_training(random_checkpoint, training_problems, tmp_path):
    trainer, mllm = _trainer(random_checkpoint, training_problems, tmp_path, BOTH)
    found = trainer.evaluate(_dataset(mllm, training_problems[:4]))
    assert found["eval_loss"] > 0
    (logged,) = trainer.state.log_history
    assert 0 < logged["eval_visual_mass"] < 1 and "visual_mass" not in logged
    assert mllm.text_config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_length": 512}, "max_length"),
        ({"remove_unused_columns": True}, "remove_unused_columns"),
        (
            {
                "gradient_checkpointing": True,
                "gradient_checkpointing_kwargs": {"use_reentrant": True},
            },
            "use_reentrant",
        ),
    ],
)
def test_what_would_lose_the_terms_is_refused(
    random_checkpoint, training_problems, tmp_path, options, said
):
    with pytest.raises(TrainingError, match=said):
        _trainer(random_checkpoint, training_problems, tmp_path, BOTH, **options)
    _trainer(random_checkpoint, training_problems, tmp_path, AttCoTConfig(), **options)


def test_rows_without_what_the_terms_need_are_refused(random_mllm, training_problems):
    row = prompt_completion_rows(random_mllm, training_problems[:1])[0]
    with pytest.raises(TrainingError, match="candidates"):
        CotCollator(random_mllm)([{**row, "answer": "mauve"}])
    with pytest.raises(TrainingError, match="lacks completion"):
        CotCollator(random_mllm)([{k: v for k, v in row.items() if k != "completion"}])


def test_a_batch_of_other_tokens_is_refused(random_mllm, training_problems):
    rows = prompt_completion_rows(random_mllm, training_problems[:2])
    batch = CotCollator(random_mllm)(rows)
    examples = batch.pop("attcot")
    terms = AttCoTTerms(random_mllm, BOTH)
    cut = {
        k: v[:, :-3] if v.ndim == 2 and k != "pixel_values" and k != "image_grid_thw" else v
        for k, v in batch.items()
    }
    with pytest.raises(TrainingError, match="other tokens"):
        terms.prepare(cut, examples)
    del batch["mm_token_type_ids"]
    with pytest.raises(TrainingError, match="mm_token_type_ids"):
        terms.prepare(batch, examples)


def test_a_model_the_trainer_does_not_train_is_refused(
    random_checkpoint, training_problems, tmp_path, random_mllm
):
    trainer, _ = _trainer(random_checkpoint, training_problems, tmp_path, None, cls=SFTTrainer)
    with pytest.raises(TrainingError, match="does not train"):
        attach(trainer, random_mllm, BOTH)


def test_terms_are_attached_once_and_where_nothing_hides_them(
    random_checkpoint, training_problems, tmp_path
):
    trainer, mllm = _trainer(random_checkpoint, training_problems, tmp_path, None, cls=SFTTrainer)
    trainer.compute_loss = trainer.compute_loss
    with pytest.raises(TrainingError, match=r"compute_loss was replaced .* in a subclass"):
        attach(trainer, mllm, BOTH)
    del trainer.compute_loss
    assert isinstance(attach(trainer, mllm, BOTH), SFTTrainer)
    with pytest.raises(TrainingError, match="already; attach them only once"):
        attach(trainer, mllm, BOTH)


def test_a_resumed_run_ends_with_the_weights_and_losses_of_one_that_was_not(
    random_checkpoint, training_problems, tmp_path
):
    def trained(resume=None):
        saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        trainer, mllm = _trainer(random_checkpoint, training_problems, tmp_path, BOTH, **saving)
        trainer.train(resume_from_checkpoint=resume)
        return _weights(mllm.model), _losses(trainer)

    weights, losses = trained()
    again, resumed = trained(str(tmp_path / "checkpoint-2"))
    assert losses == resumed and len(losses) == 4
    assert all(torch.equal(value, again[name]) for name, value in weights.items())
