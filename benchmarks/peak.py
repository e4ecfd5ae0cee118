"""Peak memory of one call, each in a fresh process so that no allocator remembers another's.

A child process builds what the call needs, forgets its peak so far, makes the call, and reports
its resident memory before and at the peak. On Linux both are the kernel's figures for the child's
own address space (``VmRSS``, ``VmHWM``; ``ru_maxrss`` would carry the parent's peak along).
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from attcot_analysis.errors import MeasureError

_STATUS = Path("/proc/self/status")
_PREFIX = "attcot-peak "


@dataclass(frozen=True)
class Peak:
    """Resident memory of a process, in bytes.

    Attributes:
        before: When the call began: libraries, weights and inputs.
        peak: The most during the call.
    """

    before: int
    peak: int

    @property
    def added(self) -> int:
        """What the call itself needed at its peak."""
        return self.peak - self.before


def peak_memory(module: str, function: str, options: Mapping[str, Any]) -> Peak:
    """Peak memory of a call in a fresh process with as many torch threads as this one.

    Args:
        module: To import there.
        function: Of that module; called with the options, it prepares and returns what to call.
        options: Plain values that JSON can carry.

    Raises:
        MeasureError: If the process fails, for example for want of memory.
    """
    import torch

    order = {
        "module": module,
        "function": function,
        "options": dict(options),
        "threads": torch.get_num_threads(),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", json.dumps(order)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(_PREFIX)]
    if done.returncode or not answers:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MeasureError(
            f"The process that measures {function}({dict(options)}) ended with code "
            f"{done.returncode}: {last}; it may need more memory than there is."
        )
    return Peak(**json.loads(answers[-1].removeprefix(_PREFIX)))


def _measure(call: Callable[[], object]) -> Peak:
    gc.collect()
    if not _STATUS.exists():
        before = _maximum()
        result = call()
        del result
        return Peak(before, _maximum())
    # 5 resets the high-water mark; where that is forbidden, the mark of the preparation remains.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return Peak(before, peak)


def _status(field: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def _maximum() -> int:
    import resource

    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


def _main() -> None:
    import torch

    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    prepare = getattr(import_module(order["module"]), order["function"])
    found = _measure(prepare(**order["options"]))
    print(_PREFIX + json.dumps({"before": found.before, "peak": found.peak}))


if __name__ == "__main__":
    _main()
