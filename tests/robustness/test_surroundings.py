"""Odd environments, limits of the system, signals: a command that cannot go on says why."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attcot_analysis.cli import Exit
from attcot_analysis.problems import save_problems
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab.testbed.arrows import generate_arrows

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]
VARIABLES = [
    {"RANK": "1"},
    {"WORLD_SIZE": "abc"},
    {"WORLD_SIZE": "2"},
    {"RANK": "x", "WORLD_SIZE": "2"},
    {"RANK": "5", "WORLD_SIZE": "2"},
    {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"},
    {"RANK": "-1", "WORLD_SIZE": "1", "LOCAL_RANK": "zz"},
    {"OMP_NUM_THREADS": "junk", "CUDA_VISIBLE_DEVICES": "x"},
    {"HF_HOME": "/proc/x", "XDG_CACHE_HOME": "/proc/x", "MPLCONFIGDIR": "/proc/x"},
    {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
    {"MPLBACKEND": "nonsense", "COLUMNS": "junk", "TERM": "dumb"},
    {"LC_ALL": "C", "PYTHONUTF8": "0"},
]
BEFORE = [
    "ulimit -v 4000000",
    "ulimit -n 20",
    "export PYTHONDONTWRITEBYTECODE=1; ulimit -f 1",
    "exec <&-",
    "exec >&-",
    "mkdir gone; cd gone; rmdir ../gone",
]
AFTER = [0.0, 1.0, 2.0, 3.0, 4.0]
"""Seconds from when it begins to listen to the signal."""


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """Begin a command, in a shell that does something first."""
    folder = tmp_path_factory.mktemp("surroundings")
    problems = save_problems(generate_arrows(20, seed=0), folder / "problems")
    attcot = Path(sys.executable).with_name("attcot")

    def started(command, out, variables=None, before="true"):
        words = [attcot, command, shipped(TESTBED_MODEL), problems, "--out", folder / out]
        line = f"{before}; exec {' '.join(map(str, words))} --quiet"
        return subprocess.Popen(
            ["bash", "-c", line],
            cwd=folder,
            env=os.environ | (variables or {}),
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


def ends_well(process):
    said = process.communicate(timeout=300)[1]
    told = f"{process.returncode}: {said}"
    assert process.returncode in set(Exit) and "Traceback" not in said, told
    if process.returncode:
        assert "attcot: " in said.splitlines()[-1], told
    return process.returncode


@pytest.mark.parametrize("variables", VARIABLES, ids=str)
def test_an_odd_environment(begin, fault, variables):
    with fault("odd environments and limits"):
        ends_well(begin("measure", f"in {len(str(variables))}".replace(" ", "-"), variables))


@pytest.mark.parametrize("before", BEFORE)
def test_limits_of_the_system_and_closed_places(begin, fault, before):
    with fault("odd environments and limits"):
        ends_well(begin("measure", f"under-{BEFORE.index(before)}", before=before))


def listens(process):
    """Whether it handles the signal; before, Python itself is still being started."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1


@pytest.mark.parametrize("command", ["measure", "finetune"])
def test_a_signal_at_any_moment_is_an_interruption(begin, fault, command):
    for at, seconds in enumerate(AFTER):
        with fault("SIGTERM"):
            process = begin(command, f"{command}-{at}")
            while not listens(process):
                time.sleep(0.02)
            time.sleep(seconds)
            process.send_signal(signal.SIGTERM)
            assert ends_well(process) == Exit.INTERRUPTED
