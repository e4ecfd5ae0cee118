"""A run that trained nothing, or leaves no model, says so; a damaged checkpoint is not resumed."""

import io
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments
from tuning import problems

from attcot_analysis.errors import ModelError, TrainingError
from attcot_analysis.models import load_mllm
from attcot_analysis.models.picture_cost import image_tokens
from attcot_analysis.train import AttCoTConfig, FinetuneConfig, attach, checkpoints
from attcot_analysis.train.checkpoints import (
    KeepLast,
    _hashes,
    check_checkpoint,
    last_complete,
)
from attcot_analysis.train.data import RationaleCollator, RationaleDataset
from attcot_analysis.train.finetune import finetune
from attcot_analysis.train.trainer import AttCoTTrainer
from attcot_lab.sayo import SayoConfig, finetune_sayo, make_sayo_trainer
from attcot_lab.settings import check_plain
from attcot_lab.testbed.build import save_testbed_model

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = FinetuneConfig(steps=20, batch_size=2)
OVERFLOWING = 1e39
"""A learning rate whose first step takes float32 weights to infinity."""
SAYO = SayoConfig(steps=1, questions=2, num_generations=2, max_completion=4)


def own_trainer(checkpoint, folder, attached, n=6, **settings):
    """A trainer as users build it, with the mixin or with the terms attached."""
    mllm = load_mllm(checkpoint, dtype=torch.float32)
    settings = {"max_steps": 1, "save_strategy": "no", "report_to": [], **settings}
    arguments = TrainingArguments(
        output_dir=str(folder), remove_unused_columns=False, disable_tqdm=True, **settings
    )
    parts = {
        "model": mllm.model,
        "args": arguments,
        "train_dataset": RationaleDataset(mllm, problems()[:n]),
        "data_collator": RationaleCollator(mllm),
    }
    if attached:
        return attach(Trainer(**parts), mllm, AttCoTConfig())
    return AttCoTTrainer(**parts, mllm=mllm, attcot=AttCoTConfig())


# --- nothing trained ------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
def test_fewer_problems_than_a_batch_are_refused(random_checkpoint, tmp_path, accumulation):
    config = replace(CONFIG, batch_size=4, accumulation=accumulation)
    with pytest.raises(TrainingError, match="3 examples do not fill a batch of 4"):
        finetune(random_checkpoint, problems()[:3], tmp_path / "tuned", config)
    assert not (tmp_path / "tuned").exists()


def test_a_model_keeps_the_limit_that_it_was_trained_with(random_checkpoint, tmp_path):
    config = replace(CONFIG, steps=1, max_pixels=4096)
    tuned = load_mllm(finetune(random_checkpoint, problems()[:4], tmp_path / "tuned", config))
    assert (
        image_tokens(tuned, (200, 200))
        <= 16
        < image_tokens(load_mllm(random_checkpoint), (200, 200))
    )
    with pytest.raises(TrainingError, match="takes no max_pixels"):
        check_plain(config, "SAYO")
    with pytest.raises(ModelError, match="give max_pixels"):
        other = replace(CONFIG, max_patches=2)
        finetune(random_checkpoint, problems()[:4], tmp_path / "other", other)


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 8, "dataloader_drop_last": True},
        {"max_steps": -1, "num_train_epochs": 0},
    ],
)
def test_a_trainer_that_takes_no_step_says_so(random_checkpoint, tmp_path, attached, settings):
    trainer = own_trainer(random_checkpoint, tmp_path, attached, **settings)
    with pytest.raises(TrainingError, match="took no optimizer step"):
        trainer.train()


def test_accumulation_over_more_batches_than_there_are_takes_a_step(random_checkpoint, tmp_path):
    trainer = own_trainer(
        random_checkpoint,
        tmp_path,
        False,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=8,
    )
    before = trainer.model.lm_head.weight.clone()
    trainer.train()
    assert trainer.state.global_step == 1
    assert not torch.equal(before, trainer.model.lm_head.weight)


def test_weights_that_have_not_changed_are_no_result(random_checkpoint, tmp_path):
    # The only step is one of warm-up, at rate 0.
    config = replace(CONFIG, steps=1, warmup=0.9)
    with pytest.raises(TrainingError, match="Every weight is as it was before, after 1 of 1 steps"):
        finetune(random_checkpoint, problems(), tmp_path / "tuned", config)
    with pytest.raises(TrainingError, match="rewards differ"):
        finetune_sayo(
            random_checkpoint, problems(), tmp_path / "tuned", replace(SAYO, learning_rate=0.0)
        )
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize("rate", [0, -1e-3, float("nan"), float("inf"), "fast", None])
def test_a_learning_rate_is_a_number_above_zero(rate):
    with pytest.raises(TrainingError, match=r"learning_rate is .*; give a rate above 0"):
        FinetuneConfig(learning_rate=rate)
    with pytest.raises(TrainingError, match="warmup is 1; give the share"):
        FinetuneConfig(warmup=1)
    assert FinetuneConfig(learning_rate="1e-4")


# --- no model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, 2])
def test_weights_that_are_not_finite_are_not_saved(random_checkpoint, tmp_path, lora):
    config = replace(CONFIG, steps=1, warmup=0, learning_rate=OVERFLOWING, lora=lora)
    named = "lora_" if lora else "model"
    with pytest.raises(TrainingError, match=rf"NaN or infinity after step 1 \(first: .*{named}"):
        finetune(random_checkpoint, problems(), tmp_path / "tuned", config)
    assert not (tmp_path / "tuned").exists()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_good_checkpoint_before_stays(random_checkpoint, tmp_path, monkeypatch):
    class Spoils(KeepLast):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 20:
                model.lm_head.weight.data[0, 0] = float("nan")

    monkeypatch.setattr(checkpoints, "KeepLast", Spoils)
    with pytest.raises(TrainingError, match=r"after step 20 .*kept"):
        finetune(random_checkpoint, problems(), tmp_path / "tuned", CONFIG, save_every=10)
    last = last_complete(tmp_path / ".tuned.unfinished")
    assert last.name == "checkpoint-10" and not (tmp_path / "tuned").exists()
    check_checkpoint(last)
    assert not list(last.parent.glob("checkpoint-20/*.safetensors"))


@pytest.mark.parametrize("kind", ["mixin", "attached", "sayo", "testbed"])
def test_every_trainer_saves_finite_weights_only(random_checkpoint, random_mllm, tmp_path, kind):
    if kind == "testbed":
        mllm = load_mllm(random_checkpoint, dtype=torch.float32)
        model, save = mllm.model, partial(save_testbed_model, mllm, tmp_path / "saved")
    else:
        if kind == "sayo":
            mllm = load_mllm(random_checkpoint, dtype=torch.float32)
            trainer = make_sayo_trainer(mllm, problems(), SAYO, tmp_path)
        else:
            trainer = own_trainer(random_checkpoint, tmp_path, kind == "attached")
        model, save = trainer.model, partial(trainer.save_model, str(tmp_path / "saved"))
    model.lm_head.weight.data[0, 0] = float("inf")
    with pytest.raises(TrainingError, match=r"1 of \d+ tensors .*\(first: lm_head.weight\)"):
        save()
    assert not (tmp_path / "saved").exists()
    model.lm_head.weight.data[0, 0] = 0.0
    save()
    assert list((tmp_path / "saved").glob("*.safetensors"))


# --- damaged checkpoints --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(random_checkpoint, tmp_path_factory):
    """The folder of a run that was stopped behind its first checkpoint, of two."""
    folder = tmp_path_factory.mktemp("stopped")

    class Stops(KeepLast):
        def on_save(self, *args, **kwargs):
            super().on_save(*args, **kwargs)
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "KeepLast", Stops)
        with pytest.raises(KeyboardInterrupt):
            finetune(random_checkpoint, problems(), folder / "tuned", CONFIG, save_every=10)
    assert (folder / ".tuned.unfinished" / "checkpoint-10").is_dir()
    return folder


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [remove, cut, edit])
@pytest.mark.parametrize(
    "name",
    ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"],
)
def test_a_damaged_checkpoint_is_refused_by_name(stopped, random_checkpoint, tmp_path, name, harm):
    folder = shutil.copytree(stopped, tmp_path / "run")
    checkpoint = folder / ".tuned.unfinished" / "checkpoint-10"
    harm(checkpoint / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = "is missing" if harm is remove else "is not what was written"
    with pytest.raises(TrainingError, match=rf"checkpoint-10 is damaged: {name} {said}"):
        finetune(random_checkpoint, problems(), folder / "tuned", CONFIG, save_every=10)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


class _Runs:
    """What an unsafe load would run."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def saved(value):
    held = io.BytesIO()
    torch.save(value, held)
    return held.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("optimizer.pt", saved({"state": _Runs()}), "its optimizer or scheduler cannot be loaded"),
        ("scheduler.pt", b"PK\x03\x04 no archive", "its optimizer or scheduler cannot be loaded"),
        ("rng_state.pth", saved({"python": 7}), "its state of the random numbers cannot be loaded"),
        ("trainer_state.json", b"[]", "its trainer_state.json cannot be loaded"),
        ("trainer_state.json", b'{"global_step": -3, "max_steps": 9}', "it says step -3 of 9"),
        ("model.safetensors", b"\xff" * 16, "cannot be loaded|cannot be read"),
    ],
)
def test_a_state_that_somebody_else_has_made_is_one_sentence(
    stopped, random_checkpoint, tmp_path, monkeypatch, name, content, said
):
    """With a list of digests of their own."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(stopped, tmp_path / "run")
    checkpoint = folder / ".tuned.unfinished" / "checkpoint-10"
    (checkpoint / name).write_bytes(content)
    (checkpoint / "complete").write_text(json.dumps(_hashes(checkpoint)))
    with pytest.raises(TrainingError, match=f"checkpoint-10.*({said}).*Nothing was trained"):
        finetune(random_checkpoint, problems(), folder / "tuned", CONFIG, save_every=10)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_whose_list_is_damaged_is_refused(stopped, tmp_path):
    checkpoint = shutil.copytree(stopped / ".tuned.unfinished" / "checkpoint-10", tmp_path / "c")
    check_checkpoint(checkpoint)
    for text in ("", "[]"):
        (checkpoint / "complete").write_text(text)
        with pytest.raises(TrainingError, match="list of files, cannot be read"):
            check_checkpoint(checkpoint)


def test_without_the_damaged_one_a_run_begins_anew(stopped, random_checkpoint, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    shutil.rmtree(folder / ".tuned.unfinished" / "checkpoint-10")
    assert finetune(random_checkpoint, problems(), folder / "tuned", CONFIG, save_every=10).is_dir()


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_nor_do_users_trainers_go_on_without_a_piece(random_checkpoint, tmp_path, attached, name):
    saving = {"save_strategy": "steps", "save_steps": 1}
    own_trainer(random_checkpoint, tmp_path, attached, **saving).train()
    checkpoint = tmp_path / "checkpoint-1"
    (checkpoint / name).unlink()
    for marked in (True, False):
        if not marked:
            # As other trainers leave them.
            (checkpoint / "complete").unlink()
        again = own_trainer(random_checkpoint, tmp_path, attached, max_steps=2)
        with pytest.raises(TrainingError, match=f"damaged: {name.split('.')[0]}.* is missing"):
            again.train(resume_from_checkpoint=str(checkpoint))
