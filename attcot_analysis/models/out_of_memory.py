"""Memory: how an error says that it has run out, and a limit to what a process may take."""

import contextlib
import re
import sys
from collections.abc import Iterator

import torch

from attcot_analysis.errors import ModelError, lacks_memory

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, so that less at once may do."""
    return isinstance(error, RuntimeError | MemoryError) and lacks_memory(error)


def parse_memory(text: str) -> int:
    """Bytes of an amount such as ``20GiB``, ``800 MB`` or ``1.5G`` (which is GB).

    Raises:
        ModelError: If it is none.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ModelError(f"{text!r} is no amount of memory; write it as 20GiB or 800MB.")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _UNITS[found[2].upper()])


@contextlib.contextmanager
def memory_limit(amount: int | None, device: str | torch.device | None = None) -> Iterator[None]:
    """Let this process take no more memory than that; whatever wants more fails as out of memory.

    On a GPU the limit is on what torch allocates there, on the CPU on the data of the whole
    process, libraries included (some hundred MB).

    Args:
        amount: Bytes; ``None`` for no limit.
        device: Where the model will be; default as `load_mllm`.

    Raises:
        ModelError: If the system knows no such limit.
    """
    if amount is None:
        yield
        return
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda":
        index = torch.cuda.current_device() if chosen.index is None else chosen.index
        total = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, amount / total), index)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, index)
        return
    if chosen.type != "cpu" or not sys.platform.startswith("linux"):
        raise ModelError(
            f"Memory cannot be limited on {chosen.type} under {sys.platform}; leave --max-memory "
            "out, batches that do not fit are halved all the same."
        )
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    hard = amount if before[1] == resource.RLIM_INFINITY else min(amount, before[1])
    resource.setrlimit(resource.RLIMIT_DATA, (hard, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
