"""Bench `access`: what reading visual access costs on top of a plain forward pass.

Rows are the last quarter of the sequence, as a rationale would be, in all layers and heads, on 20
groups of keys. Compared are `read_masses`, a plain SDPA forward pass, and eager attention with
``output_attentions=True`` (the pass alone: summing its weights up is not counted).

On the CPU a 0.5B-shaped model in fp32 is measured, with bars. On another device it is a 7B-shaped
one in bf16, without bars, and how far it is from the hardware: floors are what the arithmetic or
the memory traffic of the work takes at the speed that a large matrix product and a large copy reach
on the same device, whichever is longer.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attcot_analysis.attention.hook import AttentionCall, attached
from attcot_analysis.attention.probe import Probe, read_masses
from attcot_analysis.models import Mllm, evaluating
from benchmarks.bench import (
    QWEN_0_5B,
    QWEN_7B,
    SMALL,
    Peak,
    Row,
    Scale,
    Seconds,
    Shape,
    forward,
    interleaved,
    judged,
    peak_memory,
    random_batch,
    random_mllm,
    ratio,
    sdpa_kernels,
    timed,
)

GROUPS = 20
"""Groups of keys: image, other text, system, question, and evidence of 16 steps."""

MIB = 2**20

SHAPES = {"0.5B": QWEN_0_5B, "small": SMALL}

FULL = Scale(
    shape="0.5B",
    length=2048,  # tokens at which eager attention is compared, too
    long=8192,  # tokens at which it could not run
    repeats=(7, 5),  # timed rounds at each of the two
    growth=(1024, 2048, 4096, 8192),  # lengths over which the extra cost is followed
    growth_rows=256,  # rows read at each of them
    growth_layers=4,  # layers of the model it is followed on
)
QUICK = Scale(
    shape="small",
    length=192,
    long=256,
    repeats=(2, 1),
    growth=(64, 128, 256),
    growth_rows=32,
    growth_layers=2,
)
DEVICE_FULL = Scale(
    shape=QWEN_7B,
    lengths=(4096, 16384, 32768),  # tokens
    repeats=10,  # timed rounds
    side=8192,  # of the matrices by which the device's speed is measured
)
DEVICE_QUICK = Scale(shape=SMALL, lengths=(64, 128), repeats=1, side=64)


def probe_inputs(batch: dict[str, Tensor], n_rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Columns ``(1, T, GROUPS)`` and rows ``(1, R)``: of the last R tokens, T / 4 by default."""
    length = batch["input_ids"].shape[1]
    n_rows = length // 4 if n_rows is None else n_rows
    generator = torch.Generator().manual_seed(1)
    cols = (torch.rand(1, length, GROUPS, generator=generator) < 0.5).float()
    # The row of token t is t - 1, so the last token of the sequence is predicted by T - 2.
    rows = torch.arange(length - 1 - n_rows, length - 1)[None]
    device = batch["input_ids"].device
    return cols.to(device), rows.to(device)


def probed(mllm: Mllm, batch: dict[str, Tensor]) -> dict[int, Tensor]:
    """Masses of the last quarter's rows, all layers and heads."""
    return read_masses(mllm, batch, *probe_inputs(batch))


def eager(mllm: Mllm, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """All weights of all layers, as `transformers` gives them; the model is put back to SDPA."""
    mllm.model.set_attn_implementation({"text_config": "eager"})
    try:
        weights: tuple[Tensor, ...] = forward(mllm, batch, output_attentions=True).attentions
        return weights
    finally:
        mllm.model.set_attn_implementation({"text_config": "sdpa"})


VARIANTS: Mapping[str, Callable[[Mllm, dict[str, Tensor]], Any]] = {
    "plain": forward,
    "probed": probed,
    "eager": eager,
}
"""What is compared, by name."""


def eager_bytes(shape: Shape, length: int, size: int = 4) -> int:
    """Bytes of all attention weights of one sequence."""
    return shape.layers * shape.heads * length**2 * size


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure.

    Returns:
        On the CPU, times and peak memory as ratios, with bars, and how the extra cost grows with
        the length at a fixed number of rows; elsewhere `device_rows`.
    """
    if device != "cpu":
        return device_rows(DEVICE_QUICK if quick else DEVICE_FULL, device, progress)
    scale = QUICK if quick else FULL
    return [*_memory_rows(scale), *_time_rows(scale, progress), *_growth_rows(scale, progress)]


def prepare(variant: str, shape: str, length: int) -> Callable[[], object]:
    """Build a model and its inputs; what is returned runs a variant once."""
    mllm = random_mllm(SHAPES[shape])
    batch = random_batch(mllm, length)
    call = VARIANTS[variant]
    # Threads and kernels take their own memory on first use, the same for all variants.
    call(mllm, random_batch(mllm, 64))
    return lambda: call(mllm, batch)


def _memory_rows(scale: Scale) -> list[Row]:
    def measured(variant: str, length: int) -> Peak:
        options = {"variant": variant, "shape": scale.shape, "length": length}
        return peak_memory(__name__, "prepare", options)

    rows = []
    for length in (scale.length, scale.long):
        at = f"T={length}"
        plain, probe = measured("plain", length), measured("probed", length)
        rows += [
            judged(
                f"peak memory, probed / plain, {at}", probe.peak / plain.peak, "x", at_most=1.05
            ),
            Row(f"peak memory, plain, {at}", plain.peak / MIB, "MiB"),
            Row(f"peak memory, probed, {at}", probe.peak / MIB, "MiB"),
            Row(f"memory of the pass alone, plain, {at}", plain.added / MIB, "MiB"),
            Row(f"memory of the pass alone, probed, {at}", probe.added / MIB, "MiB"),
        ]
        if length == scale.length:
            weights = measured("eager", length)
            # Peaks of two processes differ by some pages; less than 1 MiB counts as 1 MiB.
            more = (weights.peak - plain.peak) / max(probe.peak - plain.peak, MIB)
            rows += [
                Row(f"peak memory, eager, {at}", weights.peak / MIB, "MiB"),
                judged(f"memory on top of plain, eager / probed, {at}", more, "x", at_least=20),
            ]
    gigabytes = eager_bytes(SHAPES[scale.shape], scale.long) / 1e9
    return [*rows, Row(f"eager weights, by arithmetic, T={scale.long}", gigabytes, "GB")]


def _time_rows(scale: Scale, progress: bool) -> list[Row]:
    mllm = random_mllm(SHAPES[scale.shape])
    rows = []
    lengths = ((scale.length, list(VARIANTS), 1.06), (scale.long, ["plain", "probed"], 1.12))
    for (length, names, bar), repeats in zip(lengths, scale.repeats, strict=True):
        calls = _calls(mllm, random_batch(mllm, length), names)
        rows += _compared(calls, length, repeats, progress=progress, at_most=bar, eager=2.3)[1]
    batch = random_batch(mllm, scale.length)
    return [*rows, *_kernels(_calls(mllm, batch, VARIANTS)), _difference(mllm, batch)]


def _calls(
    mllm: Mllm, batch: dict[str, Tensor], names: Iterable[str]
) -> dict[str, Callable[[], object]]:
    return {name: partial(VARIANTS[name], mllm, batch) for name in names}


def _compared(
    calls: Mapping[str, Callable[[], object]],
    length: int,
    repeats: int,
    *,
    device: str = "cpu",
    progress: bool,
    at_most: float | None = None,
    eager: float | None = None,
) -> tuple[Seconds, list[Row]]:
    """Seconds of every variant, and the rows that report them; the bars are of the two ratios."""
    at = f"T={length}"
    seconds = interleaved(calls, repeats, device=device, progress=progress, name=f"access {at}")
    slower = ratio(seconds, "probed", "plain")
    rows = [
        judged(f"time, probed / plain, {at}", slower, "x", at_most=at_most),
        *(
            Row(f"time, {name}, {at}", float(np.median(values)), "s")
            for name, values in seconds.items()
        ),
    ]
    if "eager" in seconds:
        faster = ratio(seconds, "eager", "probed")
        rows.append(judged(f"time, eager / probed, {at}", faster, "x", at_least=eager))
    return seconds, rows


def _kernels(calls: Mapping[str, Callable[[], object]], at: str = "") -> list[Row]:
    names = ("plain", "probed")
    return [
        Row(f"kernels of the {one} pass{at}", sdpa_kernels(calls[one]), "name") for one in names
    ]


def _difference(mllm: Mllm, batch: dict[str, Tensor]) -> Row:
    """Masses against sums over eager's weights."""
    cols, rows = probe_inputs(batch)
    masses, worst = probed(mllm, batch), 0.0
    for layer, weights in enumerate(eager(mllm, batch)):
        expected = weights[:, :, rows[0]] @ cols[:, None]
        worst = max(worst, float((masses[layer] - expected).abs().max()))
    length = batch["input_ids"].shape[1]
    return Row(f"largest difference of a mass to eager, T={length}", worst, "mass")


class TimedProbe(Probe):
    """A probe that adds up the seconds it takes.

    The extra cost of few rows is a small part of a pass: as a difference of two passes it would
    drown in their noise.
    """

    seconds = 0.0

    def read(self, call: AttentionCall, cols: Tensor | None, rows: Tensor | None) -> None:
        """Collect, and take the time."""
        start = time.perf_counter()
        super().read(call, cols, rows)
        self.seconds += time.perf_counter() - start


def _growth_rows(scale: Scale, progress: bool) -> list[Row]:
    layers = scale.growth_layers
    mllm = random_mllm(replace(SHAPES[scale.shape], layers=layers))
    taken: dict[int, list[float]] = {length: [] for length in scale.growth}

    def read(length: int) -> None:
        batch = random_batch(mllm, length)
        cols, rows = probe_inputs(batch, scale.growth_rows)
        probe = TimedProbe()
        with torch.no_grad(), evaluating(mllm.model), attached(mllm.model):
            mllm.model(
                **batch,
                use_cache=False,
                logits_to_keep=1,
                attcot_probe=probe,
                attcot_cols=cols,
                attcot_rows=rows,
            )
        taken[length].append(probe.seconds)

    calls = {str(length): partial(read, length) for length in scale.growth}
    interleaved(calls, scale.repeats[0], progress=progress, name="access, growth")
    medians = {length: float(np.median(seconds[1:])) for length, seconds in taken.items()}
    first, last = scale.growth[0], scale.growth[-1]
    what = f"{scale.growth_rows} rows, {layers} layers"
    return [
        *(Row(f"extra time, {what}, T={n}", 1e3 * s, "ms") for n, s in medians.items()),
        judged(
            f"growth of the extra time from T={first} to {last} over growth of T",
            medians[last] / medians[first] / (last / first),
            "x",
            at_most=1.2,
        ),
        judged(
            "extra time, farthest from a straight line in T",
            100 * _bend(list(medians), list(medians.values())),
            "%",
            at_most=20,
        ),
    ]


def _bend(lengths: Sequence[int], seconds: Sequence[float]) -> float:
    """Largest relative distance of times from the best straight line, fixed cost included."""
    times = np.asarray(seconds)
    line = np.stack([np.ones(len(lengths)), np.asarray(lengths, dtype=float)], axis=1)
    weighed = line / times[:, None]
    best = np.linalg.lstsq(weighed, np.ones(len(times)), rcond=None)[0]
    return float(np.abs(weighed @ best - 1).max())


def device_rows(scale: Scale, device: str, progress: bool = False) -> list[Row]:
    """Ratios, attention kernels that ran, and distances to the floor, per length; no bars.

    On a device other than CUDA the rows of device memory are left out.
    """
    mllm = random_mllm(scale.shape, dtype=torch.bfloat16, device=device)
    speeds = device_speeds(device, scale.side)
    rows = [
        Row("matrix product, bf16", speeds.half / 1e12, "TFLOP/s"),
        Row("matrix product, fp32", speeds.single / 1e12, "TFLOP/s"),
        Row("copy", speeds.copy / 1e9, "GB/s"),
    ]
    for length in scale.lengths:
        at = f"T={length}"
        weights = eager_bytes(scale.shape, length, size=2)
        # Eager holds all weights, and two fp32 copies of one layer's.
        fits = weights * (1 + 4 / scale.shape.layers) < _free(device)
        names = [name for name in VARIANTS if fits or name != "eager"]
        calls = _calls(mllm, random_batch(mllm, length), names)
        seconds, times = _compared(calls, length, scale.repeats, device=device, progress=progress)
        plain = float(np.median(seconds["plain"]))
        extra = float(np.median(seconds["probed"] - seconds["plain"]))
        over_plain = plain / pass_floor(scale.shape, speeds, length)
        over_probe = extra / probe_floor(scale.shape, speeds, length)
        rows += [
            *times,
            Row(f"eager weights, by arithmetic, {at}", weights / 1e9, "GB"),
            *_device_memory(calls, at, device),
            *_kernels(calls, f", {at}"),
            Row(f"plain pass over its floor, {at}", over_plain, "x"),
            Row(f"extra of the probe over its floor, {at}", over_probe, "x"),
        ]
    return rows


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


def device_speeds(device: str, side: int) -> Speeds:
    """Measure a device by square matrix products and a copy."""

    def best(call: Callable[[], object]) -> float:
        timed(call, device)
        return min(timed(call, device) for _ in range(5))

    def product(dtype: torch.dtype) -> float:
        matrix = torch.randn(side, side, device=device).to(dtype)
        return 2 * side**3 / best(lambda: matrix @ matrix)

    source = torch.zeros(side * side * 4, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.numel() / best(lambda: target.copy_(source))
    return Speeds(product(torch.bfloat16), product(torch.float32), copy)


def pass_floor(shape: Shape, speeds: Speeds, length: int) -> float:
    """Seconds below which no forward pass of one sequence can be, head not counted."""
    dense = 2 * shape.layer_weights * length
    # Scores and weighted values of half of all pairs, the causal ones.
    attention = shape.layers * shape.heads * 2 * length**2 * shape.head_size
    traffic = 2 * shape.layer_weights
    return max((dense + attention) / speeds.half, traffic / speeds.copy)


def probe_floor(shape: Shape, speeds: Speeds, length: int) -> float:
    """Seconds below which masses of the last quarter's rows cannot be read, all layers."""
    n_rows = length // 4
    pairs = n_rows * (length - n_rows / 2)
    operations = shape.heads * 2 * pairs * (shape.head_size + GROUPS)
    queries = 2 * shape.heads * n_rows * shape.head_size
    keys = 2 * shape.kv_heads * length * shape.head_size
    traffic = queries + keys + 4 * length * GROUPS + 4 * shape.heads * n_rows * GROUPS
    return shape.layers * max(operations / speeds.single, traffic / speeds.copy)


def _free(device: str) -> float:
    return float(torch.cuda.mem_get_info(device)[0]) if device.startswith("cuda") else float("inf")


def _device_memory(calls: Mapping[str, Callable[[], object]], at: str, device: str) -> list[Row]:
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
