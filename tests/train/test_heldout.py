"""Held-out items beside somebody's training: values of the measurements, nothing disturbed."""

import pytest
import torch
from transformers import Trainer, TrainingArguments, set_seed
from trl import SFTConfig, SFTTrainer

from attcot_analysis.attention.packing import candidate_tokens
from attcot_analysis.errors import TrainingError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import render_response
from attcot_analysis.problems.problem import replaced
from attcot_analysis.train import HeldOut, RationaleCollator, RationaleDataset
from attcot_analysis.train.trainer import prompt_completion_rows
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-3,
    "logging_steps": 2,
    "remove_unused_columns": False,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def held_out():
    return generate_arrows(3, ArrowsConfig(hops=2), seed=9)


def plain(checkpoint, problems, folder, **more):
    set_seed(0)
    mllm = load_mllm(checkpoint, dtype=torch.float32)
    trainer = Trainer(
        model=mllm.model,
        args=TrainingArguments(output_dir=str(folder), **SETTINGS, **more),
        train_dataset=RationaleDataset(mllm, problems),
        data_collator=RationaleCollator(mllm),
    )
    return trainer, mllm


def of_trl(checkpoint, problems, folder):
    set_seed(0)
    mllm = load_mllm(checkpoint, dtype=torch.float32)
    for module in mllm.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1  # Training draws random numbers, measuring must not.
    args = SFTConfig(output_dir=str(folder), max_length=None, bf16=False, **SETTINGS)
    trainer = SFTTrainer(
        model=mllm.model,
        processing_class=mllm.processor,
        args=args,
        train_dataset=prompt_completion_rows(mllm, problems),
    )
    return trainer, mllm


def logged(trainer, ours):
    times = ("runtime", "per_second", "eval_" if not ours else "epoch")
    return [
        {name: value for name, value in entry.items() if not any(one in name for one in times)}
        for entry in trainer.state.log_history
        if ("eval_mass" in entry) == ours
    ]


@pytest.mark.parametrize("make", [plain, pytest.param(of_trl, marks=pytest.mark.long)])
def test_training_goes_on_as_without_it(
    make, random_checkpoint, training_problems, held_out, tmp_path
):
    alone, before = make(random_checkpoint, training_problems, tmp_path / "a")
    alone.train()
    trainer, mllm = make(random_checkpoint, training_problems, tmp_path / "b")
    trainer.add_callback(HeldOut(trainer, mllm, held_out, every=1))
    trainer.train()
    assert logged(trainer, False) == logged(alone, False) and len(logged(alone, False)) >= 2
    pairs = zip(mllm.model.parameters(), before.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert [entry["step"] for entry in logged(trainer, True)] == [0, 1, 2]
    assert not any("eval_mass" in entry for entry in alone.state.log_history)


def test_values_are_those_of_the_measurements(
    random_checkpoint, training_problems, held_out, tmp_path
):
    trainer, mllm = plain(random_checkpoint, training_problems, tmp_path)
    trainer.add_callback(HeldOut(trainer, mllm, held_out, every=2, layers=[1]))
    trainer.train()
    first, last = logged(trainer, True)
    texts = [render_response(problem.steps, problem.answer) for problem in held_out]
    access = visual_access(mllm, held_out, texts, layers=[1]).items()
    curves = commitment(mllm, held_out, texts, controls=("rationale",)).items()
    assert last == {
        "eval_mass": pytest.approx(access["mass"].mean(), rel=1e-12),
        "eval_evidence_share": pytest.approx(access["evidence_share"].mean(), rel=1e-12),
        "eval_commitment_area": pytest.approx(curves["area"].mean(), rel=1e-12),
        "step": 2,
    }
    assert first["step"] == 0 and first["eval_commitment_area"] != last["eval_commitment_area"]


def test_a_model_that_is_sure_at_once_has_a_larger_area(random_checkpoint, held_out, tmp_path):
    trainer, mllm = plain(random_checkpoint, held_out, tmp_path)
    before = HeldOut(trainer, mllm, held_out).values()
    # Whatever is asked, after any step: the first candidate.
    known = candidate_tokens(mllm, held_out[0].candidates)
    head = mllm.model.lm_head
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    head.bias.data[known.tails[0][0]] = 40.0
    sure = HeldOut(trainer, mllm, held_out).values()
    assert sure["eval_commitment_area"] > 0.99 > 0.95 > before["eval_commitment_area"]
    assert sure["eval_mass"] == before["eval_mass"]


def test_what_no_item_has_is_not_logged_and_what_cannot_be_measured_refused(
    random_checkpoint, random_mllm, held_out, tmp_path
):
    trainer, mllm = plain(random_checkpoint, held_out, tmp_path)
    bare = [replaced(one, candidates=(), habitual=None, twin=None) for one in held_out[:1]]
    texts = ["<think>\n1. A first step.\n</think>\n<answer>red</answer>"]
    values = HeldOut(trainer, mllm, bare, responses=texts).values()
    assert "eval_mass" in values and "eval_commitment_area" not in values
    with pytest.raises(TrainingError, match="does not train the given model"):
        HeldOut(trainer, random_mllm, held_out)
    with pytest.raises(TrainingError, match="every is 0"):
        HeldOut(trainer, mllm, held_out, every=0)
    with pytest.raises(TrainingError, match="1 of 1 held-out problems have no rationale steps"):
        HeldOut(trainer, mllm, [replaced(held_out[0], steps=())])
