"""Independent jobs: all are done, on one process or two, and an error stops the rest."""

from functools import partial
from pathlib import Path

import pytest

from attcot_analysis.jobs import run_jobs


def _touch(folder: Path, name: str) -> None:
    if name == "bad":
        raise ValueError("this job fails")
    (folder / name).write_text(name)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done(tmp_path, workers):
    run_jobs(partial(_touch, tmp_path), ["a", "b", "c"], workers=workers, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_reaches_the_caller_and_nothing_done_is_lost(tmp_path, workers):
    with pytest.raises(ValueError, match="this job fails"):
        run_jobs(partial(_touch, tmp_path), ["a", "bad", "c"], workers=workers, progress=False)
    assert (tmp_path / "a").exists()
    assert not (tmp_path / "bad").exists()
