"""Time of several ways to do the same thing, interleaved, in one process."""

import gc
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

Seconds = dict[str, npt.NDArray[np.float64]]


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    device: str = "cpu",
    warm_up: bool = True,
    progress: bool = False,
    name: str = "",
) -> Seconds:
    """Time variants in turns (A B A B ...), so that a machine that slows down slows all.

    Args:
        variants: What to call, by name.
        repeats: Rounds that count.
        device: Waited for before the clock is read.
        warm_up: Run one round that does not count first.
        progress: Show a progress bar over rounds.
        name: Shown on it.

    Returns:
        Per variant its seconds, ``(repeats,)``.
    """
    found: dict[str, list[float]] = {variant: [] for variant in variants}
    for turn in tqdm(range(repeats + warm_up), desc=name, disable=not progress):
        for variant, call in variants.items():
            gc.collect()
            seconds = timed(call, device)
            if turn >= warm_up:
                found[variant].append(seconds)
    return {variant: np.array(seconds) for variant, seconds in found.items()}


def timed(call: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call; what it returns is dropped after the clock is read."""
    wait(device)
    start = time.perf_counter()
    result = call()
    wait(device)
    seconds = time.perf_counter() - start
    del result
    return seconds


def wait(device: str) -> None:
    """Wait until an asynchronous device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def ratio(seconds: Seconds, of: str, over: str) -> float:
    """Median over rounds of how much longer one variant took than the other in that round."""
    return float(np.median(seconds[of] / seconds[over]))
