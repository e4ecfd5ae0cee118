"""A training run that is killed goes on from its last checkpoint and ends as if it had not been."""

import json
import os
import shutil
import signal
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import Child
from safetensors.torch import load_file
from transformers import Trainer
from tuning import problems, train

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import load_mllm
from attcot_analysis.train import AttCoTConfig, FinetuneConfig, attach, make_trainer
from attcot_analysis.train.checkpoints import last_complete, open_unfinished
from attcot_analysis.train.finetune import finetune

# The weights warm up over the first half, so that a run resumed without its place would show.
BOTH = AttCoTConfig(lambda_vis=0.5, lambda_commit=1.0, warmup=0.5)
CONFIG = FinetuneConfig(steps=20, batch_size=2, attcot=BOTH)


@pytest.fixture(scope="module")
def uninterrupted(one_thread, random_checkpoint, tmp_path_factory) -> Path:
    return finetune(
        random_checkpoint, problems(), tmp_path_factory.mktemp("whole") / "tuned", CONFIG
    )


def same(a: Path, b: Path) -> bool:
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("killed_at", "left"),
    [
        # Model and optimizer of the second checkpoint are there, what says where it was is not.
        (os.path.join("checkpoint-20", "trainer_state.json"), "checkpoint-10"),
        # All steps are done, but the result is not in its place.
        ("training_log.json", "checkpoint-20"),
    ],
)
def test_a_killed_run_ends_with_the_weights_and_the_log_of_one_that_was_not(
    uninterrupted, random_checkpoint, tmp_path, killed_at, left
):
    folder = tmp_path / "tuned"
    child = Child(
        partial(train, base=random_checkpoint, config=CONFIG, killed_at=killed_at), folder
    )
    assert child.wait() == -signal.SIGKILL, child.error
    assert not folder.exists()
    assert last_complete(tmp_path / ".tuned.unfinished").name == left
    finetune(random_checkpoint, problems(), folder, CONFIG, save_every=10)
    assert same(folder, uninterrupted)
    logs = [json.loads((one / "training_log.json").read_text()) for one in (folder, uninterrupted)]
    assert logs[0] == logs[1] and len(logs[0]["history"]) == 2
    assert {one.name for one in folder.iterdir()} == {one.name for one in uninterrupted.iterdir()}


def test_remains_of_another_run_are_not_gone_on_with(tmp_path):
    folder = tmp_path / "unfinished"
    assert open_unfinished(folder, {"seed": 0}) is None
    done = folder / "checkpoint-10"
    done.mkdir()
    assert open_unfinished(folder, {"seed": 0}) is None
    (done / "complete").touch()
    (folder / "checkpoint-9").mkdir()
    (folder / "checkpoint-9" / "complete").touch()
    assert open_unfinished(folder, {"seed": 0}) == done
    with pytest.warns(UserWarning, match=r"\(its seed is 0, now it is 1\); it is kept as") as said:
        assert open_unfinished(folder, {"seed": 1}) is None and not done.exists()
    aside = tmp_path / "unfinished-2"
    assert str(aside) in str(said[0].message)
    # Moved back, the same settings go on with it.
    shutil.rmtree(folder)
    aside.rename(folder)
    assert open_unfinished(folder, {"seed": 0}) == done
    # What was not begun with these settings and has trained nothing is not worth keeping.
    shutil.rmtree(done)
    shutil.rmtree(folder / "checkpoint-9")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_unfinished(folder, {"seed": 2}) is None
    assert [one.name for one in tmp_path.iterdir()] == ["unfinished"]


@pytest.mark.parametrize("save_every", [0, 15, -10])
def test_checkpoints_lie_between_log_entries(random_checkpoint, tmp_path, save_every):
    with pytest.raises(TrainingError, match="multiple of 10"):
        finetune(random_checkpoint, problems(), tmp_path / "x", save_every=save_every)


@pytest.mark.parametrize("attached", [False, True])
def test_a_trainer_resumes_with_the_weights_it_saved(
    one_thread, random_checkpoint, tmp_path, attached
):
    """`transformers.Trainer` by itself goes on with the weights of the base."""

    def trainer():
        mllm = load_mllm(random_checkpoint, dtype=torch.float32)
        saving = {"save_strategy": "steps", "save_steps": 2}
        config = FinetuneConfig(steps=4, batch_size=2)
        made = make_trainer(mllm, problems(), config, tmp_path, **saving)
        if attached:
            data = {"train_dataset": made.train_dataset, "data_collator": made.data_collator}
            made = attach(Trainer(mllm.model, made.args, **data), mllm, AttCoTConfig())
        return made, mllm.model

    first, weights = trainer()
    first.train()
    second, found = trainer()
    assert not torch.equal(weights.lm_head.weight, found.lm_head.weight)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = weights.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())
