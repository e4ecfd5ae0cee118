"""`finetune` with adapters: what it writes, what it leaves alone, and that it goes on as it was."""

import importlib
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from processes import Child
from safetensors.torch import load_file
from tiny import tiny_mllm
from tuning import problems, train

from attcot_analysis.cli import main
from attcot_analysis.errors import TrainingError
from attcot_analysis.models import collate, load_mllm
from attcot_analysis.train import (
    AttCoTConfig,
    FinetuneConfig,
    RationaleDataset,
    make_trainer,
)
from attcot_analysis.train.finetune import add_adapters, finetune
from attcot_lab.arms import read_arm, train_arm
from attcot_lab.plan import plan_of

BOTH = AttCoTConfig(lambda_vis=0.5, lambda_commit=1.0, warmup=0.5)
CONFIG = FinetuneConfig(
    steps=12,
    batch_size=1,
    attcot=BOTH,
    lora=2,
    lora_alpha=8,
    dtype="bfloat16",
    gradient_checkpointing=True,
)
pytestmark = pytest.mark.usefixtures("one_thread")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def tuned(random_checkpoint, tmp_path_factory) -> Path:
    """Adapters in float32, trained fast enough to move something."""
    config = FinetuneConfig(steps=6, batch_size=2, learning_rate=0.02, attcot=BOTH, lora=4)
    return finetune(
        random_checkpoint, problems(), tmp_path_factory.mktemp("lora") / "tuned", config
    )


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def logits_of(mllm, model) -> torch.Tensor:
    dataset = RationaleDataset(mllm, problems())
    batch = collate(mllm, [dataset[at].encoded for at in range(3)])
    with torch.no_grad():
        return model.eval()(**batch).logits[batch["attention_mask"].bool()]


def test_the_merged_checkpoint_says_what_the_adapters_say(tuned, random_checkpoint):
    merged, base = load_mllm(tuned), load_mllm(random_checkpoint)
    plain = logits_of(base, base.model)
    adapted = logits_of(base, PeftModel.from_pretrained(base.model, tuned / "adapter"))
    assert (adapted - plain).abs().max() > 0.1
    apart = (logits_of(merged, merged.model) - adapted).abs().max()
    assert apart <= 1e-5 * adapted.abs().max()


def test_only_the_language_model_has_changed(tuned, random_checkpoint):
    before, after = weights_of(random_checkpoint), weights_of(tuned)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = [name for name in before if "visual" not in name and ".layers." in name]
    projections = {name for name in layers if name.split(".")[-2] in PROJECTIONS}
    assert changed == {name for name in projections if name.endswith("weight")}
    assert len(changed) == len(PROJECTIONS) * load_mllm(tuned).n_layers


def test_the_folder_is_a_checkpoint_with_the_adapters_beside_it(tuned):
    log = json.loads((tuned / "training_log.json").read_text())
    assert (log["config"]["lora"], log["config"]["dtype"]) == (4, "float32")
    settings = json.loads((tuned / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert {one.name for one in (tuned / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert not [one.name for one in tuned.iterdir() if "adapter" in one.name[1:]]


def test_a_killed_run_ends_as_one_that_was_not(random_checkpoint, tmp_path):
    """In bfloat16 and with checkpointing, which have no part in it."""
    whole = finetune(random_checkpoint, problems(), tmp_path / "whole", CONFIG)
    folder = tmp_path / "tuned"
    killed_at = os.path.join("checkpoint-12", "trainer_state.json")
    child = Child(
        partial(train, base=random_checkpoint, config=CONFIG, killed_at=killed_at), folder
    )
    assert child.wait() == -signal.SIGKILL, child.error
    assert (tmp_path / ".tuned.unfinished" / "checkpoint-10" / "complete").is_file()
    finetune(random_checkpoint, problems(), folder, CONFIG, save_every=10)
    for name in ("model.safetensors", os.path.join("adapter", "adapter_model.safetensors")):
        first, second = load_file(whole / name), load_file(folder / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    logs = [json.loads((one / "training_log.json").read_text()) for one in (whole, folder)]
    assert logs[0] == logs[1]
    assert {one.name for one in whole.iterdir()} == {one.name for one in folder.iterdir()}
    # The base in its type, what was trained in float32.
    assert {one.dtype for one in weights_of(whole).values()} == {torch.bfloat16}
    adapters = load_file(whole / "adapter" / "adapter_model.safetensors")
    assert {one.dtype for one in adapters.values()} == {torch.float32}
    frozen = weights_of(random_checkpoint)
    name = next(one for one in frozen if "visual" in one)
    assert torch.equal(weights_of(whole)[name], frozen[name].bfloat16())


def test_every_adapter_gets_the_gradient_of_both_terms(random_checkpoint, tmp_path):
    def gradients(attcot):
        torch.manual_seed(0)
        mllm = load_mllm(random_checkpoint, dtype=torch.float32)
        config = FinetuneConfig(steps=1, batch_size=4, attcot=attcot, lora=2)
        trainer = make_trainer(mllm, problems(), config, tmp_path, report_to=[], max_grad_norm=0.0)
        # Fresh adapters have a factor that is 0, and the other one no gradient.
        with torch.no_grad():
            for name, value in trainer.model.named_parameters():
                if "lora_B" in name:
                    value.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        found = {}

        class Keep(torch.optim.SGD):
            def step(self, closure=None):
                named = trainer.model.named_parameters()
                found.update({n: p.grad.clone() for n, p in named if p.requires_grad})

        trainer.optimizer = Keep([p for p in trainer.model.parameters() if p.requires_grad], lr=0.0)
        trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer)
        trainer.train()
        return found

    plain = gradients(AttCoTConfig())
    assert plain and all("lora_" in name and "visual" not in name for name in plain)
    for attcot in (
        AttCoTConfig(lambda_vis=1.0, warmup=0.0, vis_layers="all"),
        AttCoTConfig(lambda_commit=1.0, warmup=0.0),
    ):
        own = gradients(attcot)
        moved = {n for n in own if not torch.allclose(own[n], plain[n], rtol=1e-3, atol=1e-9)}
        # What the last layer makes of its attention is behind the attention that L_vis reads.
        last = {n for n in own if ".layers.2." in n and not ("q_proj" in n or "k_proj" in n)}
        assert moved >= set(own) - (last if attcot.lambda_vis else set())


def test_adapters_are_float32_and_change_nothing_at_first():
    mllm = tiny_mllm()
    before = logits_of(mllm, mllm.model)
    mllm.model.bfloat16()
    model = add_adapters(mllm, 2)
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    kept = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert (trained, kept) == ({torch.float32}, {torch.bfloat16})
    mllm.model.float()
    assert (logits_of(mllm, model) - before).abs().max() < 0.5


def test_bfloat16_without_adapters_keeps_the_weights_in_float32(random_checkpoint, tmp_path):
    config = FinetuneConfig(steps=1, batch_size=2, dtype="bfloat16")
    folder = finetune(random_checkpoint, problems(), tmp_path / "tuned", config)
    assert {one.dtype for one in weights_of(folder).values()} == {torch.float32}
    assert not (folder / "adapter").exists()


def test_checkpointing_is_the_kind_that_keeps_the_terms_gradient(tmp_path):
    config = FinetuneConfig(steps=1, batch_size=2, attcot=BOTH, gradient_checkpointing=True)
    args = make_trainer(tiny_mllm(), problems(), config, tmp_path, report_to=[]).args
    names = [n for n in ("activation", "gradient") if hasattr(args, f"{n}_checkpointing")]
    assert any(getattr(args, f"{name}_checkpointing") for name in names)
    options = [getattr(args, f"{name}_checkpointing_kwargs") for name in names]
    assert {"use_reentrant": False} in options


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"lora": 0}, "lora is 0; give the adapters' rank"),
        ({"lora": "16"}, "lora is '16'"),
        ({"lora": True}, "lora is True"),
        ({"lora_alpha": 8}, "there are none; give lora"),
        ({"lora": 2, "lora_alpha": 0}, "lora_alpha is 0; give a number above 0"),
        ({"dtype": "float16"}, "dtype is 'float16'; train in float32 or bfloat16"),
        ({"gradient_checkpointing": "yes"}, "give true or false"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, sentence):
    with pytest.raises(TrainingError, match=sentence):
        FinetuneConfig(**wrong)


def test_a_device_without_bfloat16_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "An old card")
    with pytest.raises(TrainingError, match="An old card cannot compute in bfloat16; train in"):
        finetune("none", problems(), tmp_path / "x", FinetuneConfig(dtype="bfloat16"))


def test_a_model_without_such_layers_is_named(random_mllm, monkeypatch):
    # As an attribute of the package, `finetune` is the function.
    module = importlib.import_module("attcot_analysis.train.finetune")
    monkeypatch.setattr(module, "LANGUAGE_MODULES", "nothing")
    with pytest.raises(TrainingError, match=r"Qwen2_5_VL\w* has none of the projections"):
        add_adapters(tiny_mllm(), 2)


@pytest.mark.parametrize("name", ["sayo", "vista_sft"])
def test_other_recipes_take_none_of_it(training_problems, tmp_path, name):
    with pytest.raises(TrainingError, match=rf"Arm {name}: .* takes no lora and no dtype"):
        config = FinetuneConfig(lora=2, dtype="bfloat16")
        train_arm(read_arm(name), "base", training_problems, tmp_path / "x", config)


# --- command line and plans -----------------------------------------------------------------


def test_the_command_hands_its_options_on(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("attcot_analysis.problems.folder.load_problems", lambda *_, **__: [])
    monkeypatch.setattr(
        "attcot_lab.arms.train_arm", lambda *given, **_: seen.append(given) or given[3]
    )
    options = ["--lora", "8", "--lora-alpha", "4", "--dtype", "bfloat16", "--batch-size", "8"]
    command = ["finetune", "a/b", "problems", "--out", str(tmp_path / "out"), *options]
    assert main([*command, "--gradient-checkpointing", "--accumulate", "4"]) == 0
    config = seen[0][4]
    assert (config.lora, config.lora_alpha, config.dtype) == (8, 4, "bfloat16")
    assert (config.gradient_checkpointing, config.batch_size, config.accumulation) == (True, 8, 4)
    assert main([*command[:5], "--lora", "0"]) == 1
    assert "whole number from 1" in capsys.readouterr().err


PLAN = {
    "about": "A try.",
    "models": ["a/b"],
    "problems": {"photos": {"test": "test", "train": "train"}},
    "arms": ["base", "att_cot"],
    "measure": {},
}


def test_a_plan_takes_the_same_settings():
    tuning = {"lora": 16, "dtype": "bfloat16"}
    read = plan_of({**PLAN, "finetune": tuning})
    config = read.problems["photos"].finetune
    assert (config.lora, config.dtype) == (16, "bfloat16")
    assert "LoRA of rank 16" in str(read)
    with pytest.raises(TrainingError, match="lora is -1"):
        plan_of({**PLAN, "finetune": {**tuning, "lora": -1}})
