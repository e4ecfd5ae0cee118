"""Independent jobs: all are done, on one process or two, and an error stops the rest."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from attcot_lab.jobs import run_jobs


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


def stay(path):
    """A job that says it has begun and goes on until it is ended."""
    with open(path, "wb", buffering=0) as said:
        said.write(b"x")
        signal.pause()


def test_workers_end_with_a_main_process_that_is_killed(tmp_path):
    os.mkfifo(tmp_path / "alive")
    said = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    program = (
        "from attcot_lab.jobs import run_jobs\n"
        "from test_jobs import stay\n"
        "import sys\n"
        "if __name__ == '__main__':\n"
        "    run_jobs(stay, [sys.argv[1]] * 2, workers=2, progress=False)\n"
    )
    (tmp_path / "program.py").write_text(program)
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    main = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", tmp_path / "alive"],
        env={**os.environ, "PYTHONPATH": paths},
    )
    heard = b""
    while len(heard) < 2:
        assert select.select([said], [], [], 120)[0], "the workers have not begun"
        heard += os.read(said, 2)
    main.kill()
    main.wait()
    # Readable and empty once no worker holds the other end.
    assert select.select([said], [], [], 60)[0], "a worker goes on without its main process"
    assert os.read(said, 1) == b""
    os.close(said)
