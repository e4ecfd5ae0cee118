"""Disks that are full, folders that may not be written to, and runs that meet in one folder."""

import contextlib
import errno
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from faults import disk, read_only, sentence
from PIL import Image
from processes import FAKE_ITEMS, WITH_MAPS, FakeStages

from attcot_analysis.cli import main
from attcot_analysis.errors import AttCoTError, ProblemError, RunError, TrainingError
from attcot_analysis.files import write_bytes
from attcot_analysis.problems import Problem, load_problems, save_problems
from attcot_analysis.runs import measure as suite
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.train.checkpoints import alone
from attcot_lab.testbed.arrows import generate_arrows

LIMIT = 20_000


@contextlib.contextmanager
def small_disk():
    """No file may grow beyond `LIMIT` bytes, whoever writes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    compiles = sys.dont_write_bytecode
    # What Python compiles would be cut off and kept, and no later process could import it.
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = compiles


@pytest.fixture
def measure(monkeypatch):
    """`measure` on made-up numbers, into a folder."""
    monkeypatch.setattr(suite, "Stages", FakeStages)
    monkeypatch.setattr(suite, "ResponseStages", FakeStages)
    problems = generate_arrows(FAKE_ITEMS, seed=0)

    def into(folder: Path) -> dict[str, bytes]:
        run = RunFolder.create(folder, {"seed": 0}, resume=True)
        with run.locked():
            suite.measure(None, problems, WITH_MAPS, run=run, batch_size=3)
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name not in ("manifest.json", ".lock")
        }

    return into


def noisy(n: int) -> list[Problem]:
    """Problems whose pictures do not compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 100, 100, 3), dtype=np.uint8)
    return [
        Problem(f"p{at}", Image.fromarray(one), "Which?", ("a", "b"), "a")
        for at, one in enumerate(pixels)
    ]


# --- full ---------------------------------------------------------------------------------------


def test_a_disk_that_is_full_at_any_moment_loses_nothing(measure, tmp_path, fault):
    whole = measure(tmp_path / "whole")
    # From the run's first file to its last ones.
    for after in (0, 2, 9, 20, 35):
        folder = tmp_path / str(after)
        with fault("disk full while measuring"):
            with disk(folder, errno.ENOSPC, after), pytest.raises(RunError) as caught:
                measure(folder)
            assert "No space left on device" in sentence(caught.value)
            kept = {path for path in folder.rglob("*") if path.suffix == ".parquet"}
            times = {path: path.stat().st_mtime_ns for path in kept}
            assert measure(folder) == whole
            for path in kept & set(folder.rglob("*")):
                assert path.stat().st_mtime_ns == times[path], f"{path} was computed again"


def test_a_file_that_cannot_grow_is_one_sentence(random_mllm, tmp_path, fault):
    """Written by arrow, Rust, C++ and Python; each says it in another way."""
    run = RunFolder.create(tmp_path / "run", {"seed": 0})
    numbers = pd.DataFrame({"x": np.random.default_rng(0).normal(size=LIMIT)})
    model = tmp_path / "model"
    model.mkdir()
    state = random_mllm.model.state_dict()

    def checkpoint() -> None:
        with alone(model):
            random_mllm.model.save_pretrained(model)

    def optimizer() -> None:
        with alone(model):
            torch.save(state, model / "optimizer.pt")

    for kind, write, error in (
        ("table", lambda: run.write_table("t", numbers), RunError),
        ("JSON", lambda: run.write_json("j", numbers["x"].to_numpy()), RunError),
        ("pictures", lambda: save_problems(noisy(2), tmp_path / "set"), ProblemError),
        ("page", lambda: write_bytes(tmp_path / "page.html", bytes(2 * LIMIT)), RunError),
        ("checkpoint", checkpoint, TrainingError),
        ("optimizer", optimizer, TrainingError),
    ):
        with fault("disk full while writing a file"):
            with small_disk(), pytest.raises(error) as caught:
                write()
            assert "cannot be written" in sentence(caught.value), kind
    assert run.tables == [] and not run.has("j")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "model"}


# --- read-only ----------------------------------------------------------------------------------


def test_a_folder_that_may_not_be_written_to(measure, tmp_path, fault, capsys):
    whole = measure(tmp_path / "run")
    with fault("read-only folder"), read_only(tmp_path):
        with pytest.raises(RunError, match="Read-only file system"):
            measure(tmp_path / "new")
        with pytest.raises(RunError, match="Read-only file system"):
            measure(tmp_path / "run")
    with fault("read-only folder"):
        assert measure(tmp_path / "run") == whole
    with fault("read-only folder"), read_only(tmp_path):
        with pytest.raises(ProblemError, match="choose a folder that can be written to"):
            save_problems(noisy(1), tmp_path / "set")
        with pytest.raises(RunError, match="Read-only"), alone(tmp_path / "tuned"):
            pass
    with fault("read-only folder"), read_only(tmp_path):
        assert main(["testbed", "problems", str(tmp_path / "set"), "--items", "1"]) == 1
        said = capsys.readouterr().err
        assert said.startswith("attcot: ") and said.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_folder_inside_a_file(measure, tmp_path, fault):
    (tmp_path / "file").write_text("x")
    with fault("read-only folder"), pytest.raises(RunError, match=r"Not a directory|is a file"):
        measure(tmp_path / "file" / "run")


def test_what_no_function_has_foreseen_ends_in_a_sentence_too(tmp_path, fault, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))

    monkeypatch.setattr("attcot_analysis.problems.folder.save_problems", full)
    with fault("disk full while writing a file"):
        assert main(["testbed", "problems", str(tmp_path / "set"), "--items", "1"]) == 1
        assert "x cannot be written (No space left on device)" in capsys.readouterr().err


# --- two at once --------------------------------------------------------------------------------


def test_a_second_run_is_refused_and_the_first_goes_on(measure, tmp_path, fault):
    whole = measure(tmp_path / "whole")
    folder = tmp_path / "run"
    with fault("two runs on one folder"):
        run = RunFolder.create(folder, {"seed": 0})
        with run.locked(), pytest.raises(RunError, match="written to by another process"):
            measure(folder)
        assert measure(folder) == whole


def test_a_second_training_is_refused_and_leaves_no_lock(tmp_path, fault):
    folder = tmp_path / "tuned"
    with fault("two runs on one folder"), alone(folder):
        with pytest.raises(RunError) as caught, alone(folder):
            pass
        assert f"{folder} is being written to by another process" in sentence(caught.value)
    with fault("two runs on one folder"):
        with pytest.raises(KeyError), alone(folder):
            raise KeyError
        with alone(folder):
            (tmp_path / ".tuned.lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_a_training_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="sizes do not match"), alone(tmp_path / "x"):
        raise RuntimeError("sizes do not match")
    with pytest.raises(OSError, match="odd"), alone(tmp_path / "x"):
        raise OSError("odd")
    assert not isinstance(RuntimeError(), AttCoTError)


def test_problems_replaced_on_a_full_disk_are_still_there(tmp_path, fault):
    folder = tmp_path / "set"
    save_problems(noisy(1), folder)
    before = load_problems(folder)[0].image.tobytes()
    with fault("disk full while writing a file"):
        with small_disk(), pytest.raises(ProblemError):
            save_problems(noisy(3), folder, overwrite=True)
        assert load_problems(folder)[0].image.tobytes() == before
