"""Kill -9 at random moments: what is resumed equals what was never interrupted."""

import contextlib
import itertools
import json
import os
import random
import signal
from functools import partial
from pathlib import Path

import pytest
from processes import Child, real_measure
from tiny import tiny_mllm
from torch.nn.modules.module import register_module_forward_pre_hook

from attcot_analysis.runs import measure as suite
from attcot_analysis.train import AttCoTConfig, FinetuneConfig
from attcot_analysis.train.finetune import finetune
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

CONFIG = FinetuneConfig(
    steps=20, batch_size=1, attcot=AttCoTConfig(lambda_vis=0.5, lambda_commit=1.0, warmup=0.5)
)


def counted(folder: Path, work, kill_at: int = 0) -> None:
    """Do some work; killed before the module call of that number, else the calls are noted."""
    calls, answered = 0, 0

    def count(*_) -> None:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    class Noting(suite.ResponseStages):
        def __init__(self, *given) -> None:
            nonlocal answered
            answered = calls
            super().__init__(*given)

    suite.ResponseStages = Noting
    register_module_forward_pre_hook(count)
    work(folder)
    Path(f"{folder}.calls").write_text(f"{answered} {calls}")


def train(folder: Path, base: Path) -> None:
    # There where the kill came behind the last change: then the run is done.
    if folder.exists():
        return
    problems = generate_arrows(6, ArrowsConfig(prior=0.95), seed=1, split="train")
    finetune(base, problems, folder, CONFIG, save_every=10)


def contents(folder: Path) -> dict[str, object]:
    """Every file that a run leaves, but for times and places."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name in ("manifest.json", "sources.json", "training_args.bin"):
            continue
        if name.startswith("runs"):
            continue
        found[name] = path.read_bytes()
        if path.name == "training_log.json":
            found[name] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    mllm = tiny_mllm(layers=2)
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return folder


def run_killed(work, target: Path, moment: int) -> bool:
    """Whether a run was killed before it was done."""
    child = Child(partial(counted, work=work, kill_at=moment), target)
    code = child.wait()
    assert code in (0, -signal.SIGKILL), child.error
    return code != 0


def kill(work, folder: Path, moments: range, kills: int, whole: Path, plant) -> None:
    """Kill the work so often, in as many folders as that takes, and finish it in each."""
    draw, done = random.Random(kills), 0
    for number in itertools.count():
        target = folder / str(number)
        with contextlib.ExitStack() as faults:
            planted = 0
            # What is done already is not done again, so that a later run may end before its kill.
            while done + planted < kills and run_killed(work, target, draw.choice(moments)):
                faults.enter_context(plant())
                planted += 1
                if draw.random() < 0.25:
                    break
            assert not run_killed(work, target, 0)
            assert contents(target) == contents(whole)
        done += planted
        if done == kills:
            return


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured") / "whole"
    assert not run_killed(real_measure, folder, 0)
    answered, calls = map(int, Path(f"{folder}.calls").read_text().split())
    return folder, answered, calls


@pytest.fixture
def kills(request) -> int:
    """How often each of the three is killed."""
    return max(1, request.config.getoption("--kills", 3) // 3)


def test_measuring_goes_on_after_kills(measured, tmp_path, fault, kills):
    whole, answered, calls = measured
    plant = partial(fault, "kill -9 while measuring")
    kill(real_measure, tmp_path, range(answered + 1, calls + 1), kills, whole, plant)


def test_generating_goes_on_after_kills(measured, tmp_path, fault, kills):
    whole, answered, _ = measured
    plant = partial(fault, "kill -9 while generating")
    kill(real_measure, tmp_path, range(1, answered + 1), kills, whole, plant)


def test_finetuning_goes_on_after_kills(base, tmp_path, fault, kills):
    work, whole = partial(train, base=base), tmp_path / "whole"
    assert not run_killed(work, whole, 0)
    calls = int(Path(f"{whole}.calls").read_text().split()[1])
    plant = partial(fault, "kill -9 while fine-tuning")
    kill(work, tmp_path / "killed", range(1, calls + 1), kills, whole, plant)
