"""Independent jobs: all are done, on one process or two, and an error stops the rest."""

from pathlib import Path

import pytest

from attcot_analysis.jobs import run_jobs


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done(tmp_path, workers):
    run_jobs(Path.touch, [tmp_path / name for name in "abc"], workers=workers, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_reaches_the_caller_and_nothing_done_is_lost(tmp_path, workers):
    jobs = [tmp_path / "a", tmp_path / "missing" / "b", tmp_path / "c"]
    with pytest.raises(FileNotFoundError):
        run_jobs(Path.touch, jobs, workers=workers, progress=False)
    assert (tmp_path / "a").exists()
