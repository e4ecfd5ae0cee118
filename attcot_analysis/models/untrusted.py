"""What a checkpoint and a command line name, tried before much is done with it."""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from attcot_analysis.errors import ModelError, lacks_memory, one_line

_SECONDS = 10
"""Of a processor, in which a chat template has long written its prompt."""
_ROOM = 2**32
"""Bytes that it may take for that."""
_TRIED: set[str] = set()
"""Those that came to an end in this process."""
_QUESTION = "What colour is the kettle, and what stands beside it? " * 20


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device that is meant; default the first GPU, or else the CPU.

    Raises:
        ModelError: If it is not there, or holds no numbers.
    """
    n = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        chosen = torch.device(device or ("cuda" if n else "cpu"))
        torch.empty(1, device=chosen)
        if chosen.type == "meta":
            raise ValueError("it holds no numbers")
    # Every backend fails in its own way where it is missing.
    except Exception as error:
        if lacks_memory(error):
            raise
        there = ", ".join(["cpu", *(f"cuda:{at}" for at in range(n))])
        raise ModelError(
            f"The device {str(device)!r} cannot be used here ({one_line(error):.100}); choose "
            f"from {there}."
        ) from error
    return chosen


def check_template(mllm: Any) -> None:
    """Let a chat template and a tokenizer show in a child process that they come to an end.

    They are programs of whoever published the checkpoint. Systems without ``fork`` go without.

    Raises:
        ModelError: If they take too long, or more memory than there should be need for.
    """
    # The same template and files again need no second try; what is in memory only is always tried.
    folder = Path(getattr(mllm.tokenizer, "name_or_path", ""))
    files = sorted(folder.glob("*token*.json")) if folder.is_dir() and folder.name else []
    template = getattr(getattr(mllm, "processor", None), "chat_template", None)
    tried = (template, *((f, f.stat().st_mtime_ns) for f in files))
    if files and str(tried) in _TRIED:
        return

    def work() -> None:
        parts = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
        text = mllm.prompt([{"role": "user", "content": parts}])
        mllm.tokenizer(text)

    found = _ended(work)
    if found is not None:
        raise ModelError(
            f"The chat template or the tokenizer of {mllm.name} takes more than {found} for one "
            "question; get the checkpoint again from a source you trust."
        )
    _TRIED.add(str(tried))


def _ended(work: Callable[[], None]) -> str | None:
    """What a child process ran out of; ``None`` if it ended, even with an error."""
    if not hasattr(os, "fork"):
        return None
    with warnings.catch_warnings():  # Of threads, which the child does without.
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        ran_out = False
        try:
            _limit()
            work()
        except BaseException as error:  # Whoever uses it meets the error and says it.
            ran_out = any(isinstance(one, MemoryError) for one in (error, error.__cause__))
        finally:
            os._exit(int(ran_out))
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    if ended == -signal.SIGXCPU:
        return f"{_SECONDS} seconds"
    # Rust aborts where there is no memory. An alarm tells of a child that waited, not of work.
    return f"{_ROOM // 2**30} GiB" if ended in (1, -signal.SIGABRT, -signal.SIGKILL) else None


def _limit() -> None:
    """Limits of a child process, at which the system ends it."""
    import resource

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(30 * _SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 1))
    if sys.platform.startswith("linux"):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        taken = pages * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = taken + _ROOM if hard == resource.RLIM_INFINITY else min(taken + _ROOM, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
