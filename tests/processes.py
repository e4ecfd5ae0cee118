"""Measuring in processes of its own: killed at a chosen moment, or several that share a run."""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from attcot_analysis.errors import MeasureError, RunError
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import Problem, load_problems
from attcot_analysis.runs import measure as suite
from attcot_analysis.runs.parts import Part
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.shards import Shards
from attcot_analysis.shipped import TESTBED_MODEL, TESTBED_PROBLEMS, shipped
from attcot_lab.testbed.arrows import generate_arrows

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
"""Audit events that stand for a change of the run folder; a kill comes just before one."""

# Children are forked from a server that has imported what takes seconds, but computed nothing.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "attcot_analysis.runs.measure",
        "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
        "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
        "accelerate",
    ]
)

REAL = {"batch_size": 2, "max_new_tokens": 40, "edits": ("twin", "swap")}
REAL_ITEMS = 3
WITH_MAPS = (*suite.DEFAULT, "maps")
FAKE_ITEMS = 8


class Child:
    """A process that counts its changes of a folder and can be killed before one of them."""

    def __init__(
        self,
        work: Callable[..., object],
        folder: Path,
        *,
        kill_at: int = 0,
        rank: int = 0,
        port: int = 0,
        count: int = 1,
    ) -> None:
        self._events = CONTEXT.RawValue("i", 0)
        self._ours, theirs = CONTEXT.Pipe(duplex=False)
        environment = {}
        if count > 1:
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count}
            environment |= {"LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
            environment |= {"MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        arguments = (work, folder, kill_at, self._events, theirs, environment)
        self.process = CONTEXT.Process(target=_child, args=arguments)
        self.process.start()
        theirs.close()

    @property
    def events(self) -> int:
        return self._events.value

    def wait(self, seconds: float = 120) -> int:
        """Its exit code: 0 done, 1 failed with `error`, -9 killed."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the process hangs"
        return self.process.exitcode

    @property
    def error(self) -> str:
        try:
            return str(self._ours.recv())
        except EOFError:
            return ""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def real_measure(folder: Path) -> None:
    """The shipped model on a few problems, as `attcot measure` does it."""
    problems = load_problems(shipped(TESTBED_PROBLEMS), limit=REAL_ITEMS)
    with Shards.here() as shards, shards.together():
        mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
        suite.measure_run(folder, mllm, problems, shards=shards, **REAL)


def fake_measure(folder: Path, fail_on: int | None = None, die_on: int | None = None) -> None:
    """The whole of `measure` but for the model: tables of numbers made of the items' places.

    `fail_on`, `die_on`: rank of the process whose measurement of access fails, or is killed.
    """
    problems = generate_arrows(FAKE_ITEMS, seed=0)
    with Shards.here() as shards, shards.together():

        class Stages(FakeStages):
            def access(self, at: Sequence[int]) -> Part:
                if shards.rank == fail_on:
                    raise MeasureError("The answer is 42; ask again.")
                if shards.rank == die_on:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().access(at)

        suite.Stages = suite.ResponseStages = Stages
        run = shards.from_main(lambda: RunFolder.create(folder, {"seed": 0}, resume=True))
        suite.measure(
            None, problems, WITH_MAPS, run=run, prefix="base-0.", batch_size=3, shards=shards
        )


def begin_together(folder: Path, seed: int, rounds: int, barrier, pipe) -> None:  # type: ignore[no-untyped-def]
    """Begin new folders at the same moments as others; tell whose manifest each lock was over."""
    found = []
    for number in range(rounds):
        barrier.wait(60)
        try:
            run = RunFolder.create(folder / str(number), {"seed": seed}, resume=True)
            with run.locked():
                found.append(run.manifest["seed"])
        except RunError:
            found.append(None)
    pipe.send(found)


def fake_failing(folder: Path) -> None:
    fake_measure(folder, fail_on=1)


def fake_dying(folder: Path) -> None:
    fake_measure(folder, die_on=1)


class FakeStages:
    """`Stages` and `ResponseStages` in one, without a model."""

    def __init__(self, *given: object) -> None:
        of = given[0]
        if isinstance(of, FakeStages):
            self.problems: Sequence[Problem] = of.problems
        else:
            self.mllm = of
            self.problems, self.settings = given[1:]

    def check(self, what: object) -> None:
        pass

    def _rows(self, at: Sequence[int], salt: int, most: int = 3) -> Part:
        rows = []
        for place in at:
            random = np.random.default_rng([salt, place])
            for step in range(random.integers(0, most + 1)):
                word = None if place < 3 else f"word {place}"
                rows.append((self.problems[place].id, step, random.normal(), word))
        return Part(pd.DataFrame(rows, columns=["item", "step", "x", "word"]))

    def answers(self, at: Sequence[int], mode: str, text_only: bool = False) -> Part:
        rows = [(self.problems[place].id, list(range(place % 4)), mode, text_only) for place in at]
        return Part(pd.DataFrame(rows, columns=["item", "ids", "mode", "text_only"]))

    def commitment(self, at: Sequence[int]) -> Part:
        return self._rows(at, 1)

    def access(self, at: Sequence[int]) -> Part:
        return self._rows(at, 2, most=1)

    def dependence(self, at: Sequence[int]) -> Part:
        return Part(self._rows(at, 3).rows.sort_values("step"))

    def maps(self, at: Sequence[int]) -> Part:
        chosen = [place for place in at if place % 3]
        arrays = {
            self.problems[place].id: np.random.default_rng(place).normal(size=(2, 3, place))
            for place in chosen
        }
        return Part(pd.DataFrame({"item": list(arrays), "n_steps": 2}), arrays)


def _child(work, folder, kill_at, events, pipe, environment) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    os.environ.update({name: str(value) for name, value in environment.items()})

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            events.value += 1
            if events.value == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        work(folder)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        sys.exit(1)
