"""Bench `access` on a CUDA device: a 7B-shaped model in bf16, and how far from the hardware.

Floors are what the arithmetic or the memory traffic of the work takes at the speed that a large
matrix product and a large copy reach on the same device, whichever is longer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.bench import (
    QWEN_7B,
    SMALL,
    Row,
    Shape,
    circumstances,
    forward,
    interleaved,
    random_batch,
    random_mllm,
    ratio,
    sdpa_kernels,
    timed,
)
from benchmarks.variants import GROUPS, MIB, eager, eager_bytes, probed


@dataclass(frozen=True)
class Speeds:
    """What a device reaches.

    Attributes:
        half: Floating point operations per second in bf16.
        single: The same in fp32, which the probe calculates in.
        copy: Bytes per second, read and written.
    """

    half: float
    single: float
    copy: float


@dataclass(frozen=True)
class Scale:
    """How large a bench is.

    Attributes:
        shape: The text stack.
        lengths: Tokens.
        repeats: Timed rounds.
        side: Of the matrices by which the device's speed is measured.
    """

    shape: Shape
    lengths: tuple[int, ...]
    repeats: int
    side: int


FULL = Scale(QWEN_7B, (4096, 16384, 32768), 10, 8192)
QUICK = Scale(SMALL, (64, 128), 1, 64)


def run_cuda(*, progress: bool = False, quick: bool = False, device: str = "cuda") -> list[Row]:
    """Time and memory of plain and probed passes; no bars, they are set for the CPU.

    Args:
        progress: Show a progress bar.
        quick: Small shapes.
        device: A CUDA device. On any other the rows of device memory are left out.

    Returns:
        Ratios, attention kernels that ran, and distances to the floor, per length.
    """
    scale = QUICK if quick else FULL
    mllm = random_mllm(scale.shape, dtype=torch.bfloat16, device=device)
    speeds = device_speeds(device, scale.side)
    rows = [
        Row("matrix product, bf16", speeds.half / 1e12, "TFLOP/s"),
        Row("matrix product, fp32", speeds.single / 1e12, "TFLOP/s"),
        Row("copy", speeds.copy / 1e9, "GB/s"),
    ]
    for length in scale.lengths:
        at = f"T={length}"
        batch = random_batch(mllm, length)
        calls: dict[str, Callable[[], object]] = {
            "plain": partial(forward, mllm, batch),
            "probed": partial(probed, mllm, batch),
        }
        weights = eager_bytes(scale.shape, length, size=2)
        # Eager holds all weights, and two fp32 copies of one layer's.
        needed = weights * (1 + 4 / scale.shape.layers)
        if needed < _free(device):
            calls["eager"] = partial(eager, mllm, batch)
        seconds = interleaved(
            calls, scale.repeats, device=device, progress=progress, name=f"access {at}"
        )
        rows += [
            Row(f"time, probed / plain, {at}", ratio(seconds, "probed", "plain"), "x"),
            *(
                Row(f"time, {name}, {at}", float(np.median(values)), "s")
                for name, values in seconds.items()
            ),
        ]
        if "eager" in seconds:
            rows.append(Row(f"time, eager / probed, {at}", ratio(seconds, "eager", "probed"), "x"))
        rows.append(Row(f"eager weights, by arithmetic, {at}", weights / 1e9, "GB"))
        rows += _memory(calls, at, device)
        rows += [
            Row(f"kernels of the plain pass, {at}", sdpa_kernels(calls["plain"]), "name"),
            Row(f"kernels of the probed pass, {at}", sdpa_kernels(calls["probed"]), "name"),
        ]
        plain = float(np.median(seconds["plain"]))
        extra = float(np.median(seconds["probed"] - seconds["plain"]))
        rows += [
            Row(f"plain pass over its floor, {at}", plain / pass_floor(scale, speeds, length), "x"),
            Row(
                f"extra of the probe over its floor, {at}",
                extra / probe_floor(scale, speeds, length),
                "x",
            ),
        ]
    return [*rows, *circumstances(device, quick)]


def device_speeds(device: str, side: int) -> Speeds:
    """Measure a device by square matrix products and a copy."""

    def product(dtype: torch.dtype) -> float:
        matrix = torch.randn(side, side, device=device).to(dtype)
        return 2 * side**3 / _best(lambda: matrix @ matrix, device)

    source = torch.zeros(side * side * 4, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.numel() / _best(lambda: target.copy_(source), device)
    return Speeds(product(torch.bfloat16), product(torch.float32), copy)


def pass_floor(scale: Scale, speeds: Speeds, length: int) -> float:
    """Seconds below which no forward pass of one sequence can be, head not counted."""
    shape = scale.shape
    dense = 2 * shape.layer_weights * length
    # Scores and weighted values of half of all pairs, the causal ones.
    attention = shape.layers * shape.heads * 2 * length**2 * shape.head_size
    traffic = 2 * shape.layer_weights
    return max((dense + attention) / speeds.half, traffic / speeds.copy)


def probe_floor(scale: Scale, speeds: Speeds, length: int) -> float:
    """Seconds below which masses of the last quarter's rows cannot be read, all layers."""
    shape, n_rows = scale.shape, length // 4
    pairs = n_rows * (length - n_rows / 2)
    operations = shape.heads * 2 * pairs * (shape.head_size + GROUPS)
    queries = 2 * shape.heads * n_rows * shape.head_size
    keys = 2 * shape.kv_heads * length * shape.head_size
    traffic = queries + keys + 4 * length * GROUPS + 4 * shape.heads * n_rows * GROUPS
    return shape.layers * max(operations / speeds.single, traffic / speeds.copy)


def _best(call: Callable[[], object], device: str) -> float:
    timed(call, device)
    return min(timed(call, device) for _ in range(5))


def _free(device: str) -> float:
    return float(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else float("inf")


def _memory(calls: dict[str, Callable[[], object]], at: str, device: str) -> list[Row]:
    if not device.startswith("cuda"):
        return []
    peaks = {}
    for name, call in calls.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        timed(call, device)
        peaks[name] = torch.cuda.max_memory_allocated(device)
    return [
        Row(f"peak memory, probed / plain, {at}", peaks["probed"] / peaks["plain"], "x"),
        *(Row(f"peak memory, {name}, {at}", peak / MIB, "MiB") for name, peak in peaks.items()),
    ]
