"""Bench `access`: what reading visual access costs on top of a plain forward pass.

Rows are the last quarter of the sequence, as a rationale would be, in all layers and heads, on 20
groups of keys. Compared are `read_masses`, a plain SDPA forward pass, and eager attention with
``output_attentions=True`` (the pass alone: summing its weights up is not counted).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from attcot_analysis.attention.hook import AttentionCall, attached
from attcot_analysis.attention.probe import Probe
from attcot_analysis.models import Mllm, evaluating
from benchmarks.access_cuda import run_cuda
from benchmarks.bench import (
    QWEN_0_5B,
    SMALL,
    Peak,
    Row,
    Seconds,
    Shape,
    circumstances,
    interleaved,
    judged,
    peak_memory,
    random_batch,
    random_mllm,
    ratio,
    sdpa_kernels,
)
from benchmarks.variants import MIB, VARIANTS, eager, eager_bytes, probe_inputs, probed


@dataclass(frozen=True)
class Scale:
    """How large a bench is.

    Attributes:
        name: Of the shape, in row names.
        shape: The text stack.
        length: Tokens at which eager attention is compared, too.
        long: Tokens at which it could not run.
        repeats: Timed rounds at each of the two.
        growth: Lengths over which the extra cost is followed.
        growth_rows: Rows read at each of them.
        growth_layers: Layers of the model it is followed on.
        judge: Whether our bars are for this scale.
    """

    name: str
    shape: Shape
    length: int
    long: int
    repeats: tuple[int, int]
    growth: tuple[int, ...]
    growth_rows: int
    growth_layers: int
    judge: bool


FULL = Scale("0.5B", QWEN_0_5B, 2048, 8192, (7, 5), (1024, 2048, 4096, 8192), 256, 4, True)
QUICK = Scale("small", SMALL, 192, 256, (2, 1), (64, 128, 256), 32, 2, False)


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure; on a CUDA device the table of `benchmarks.access_cuda`.

    Returns:
        Times and peak memory as ratios, with bars at full scale on the CPU, and how the extra
        cost grows with the length at a fixed number of rows.
    """
    if device != "cpu":
        return run_cuda(progress=progress, quick=quick, device=device)
    scale = QUICK if quick else FULL
    rows = [*_memory_rows(scale), *_time_rows(scale, progress), *_growth_rows(scale, progress)]
    return [*rows, *circumstances(device, quick)]


def prepare(variant: str, scale: str, length: int) -> Callable[[], object]:
    """Build a model and its inputs; what is returned runs a variant once."""
    shape = {own.name: own for own in (FULL, QUICK)}[scale].shape
    mllm = random_mllm(shape)
    batch = random_batch(mllm, length)
    call = VARIANTS[variant]
    # Threads and kernels take their own memory on first use, the same for all variants.
    call(mllm, random_batch(mllm, 64))
    return lambda: call(mllm, batch)


def _memory_rows(scale: Scale) -> list[Row]:
    def measured(variant: str, length: int) -> Peak:
        options = {"variant": variant, "scale": scale.name, "length": length}
        return peak_memory(__name__, "prepare", options)

    rows = []
    for length in (scale.length, scale.long):
        at = f"T={length}"
        plain, probe = measured("plain", length), measured("probed", length)
        rows += [
            judged(
                f"peak memory, probed / plain, {at}",
                probe.peak / plain.peak,
                "x",
                at_most=1.05,
                judge=scale.judge,
            ),
            Row(f"peak memory, plain, {at}", plain.peak / MIB, "MiB"),
            Row(f"peak memory, probed, {at}", probe.peak / MIB, "MiB"),
            Row(f"memory of the pass alone, plain, {at}", plain.added / MIB, "MiB"),
            Row(f"memory of the pass alone, probed, {at}", probe.added / MIB, "MiB"),
        ]
        if length == scale.length:
            rows += _eager_memory(scale, plain, probe, measured("eager", length))
    gigabytes = eager_bytes(scale.shape, scale.long) / 1e9
    rows.append(Row(f"eager weights, by arithmetic, T={scale.long}", gigabytes, "GB"))
    return rows


def _eager_memory(scale: Scale, plain: Peak, probe: Peak, weights: Peak) -> list[Row]:
    at = f"T={scale.length}"
    # Peaks of two processes differ by some pages; less than 1 MiB counts as 1 MiB.
    extra = max(probe.peak - plain.peak, MIB)
    return [
        Row(f"peak memory, eager, {at}", weights.peak / MIB, "MiB"),
        judged(
            f"memory on top of plain, eager / probed, {at}",
            (weights.peak - plain.peak) / extra,
            "x",
            at_least=20,
            judge=scale.judge,
        ),
    ]


def _time_rows(scale: Scale, progress: bool) -> list[Row]:
    mllm = random_mllm(scale.shape)
    rows = []
    lengths = ((scale.length, 1.12), (scale.long, 1.18))
    for (length, bar), repeats in zip(lengths, scale.repeats, strict=True):
        at = f"T={length}"
        batch = random_batch(mllm, length)
        seconds = _timed(mllm, batch, repeats, eager=length == scale.length, progress=progress)
        rows += [
            judged(
                f"time, probed / plain, {at}",
                ratio(seconds, "probed", "plain"),
                "x",
                at_most=bar,
                judge=scale.judge,
            ),
            *(
                Row(f"time, {variant}, {at}", float(np.median(values)), "s")
                for variant, values in seconds.items()
            ),
        ]
        if "eager" in seconds:
            speed_up = ratio(seconds, "eager", "probed")
            name = f"time, eager / probed, {at}"
            rows.append(judged(name, speed_up, "x", at_least=2.3, judge=scale.judge))
    batch = random_batch(mllm, scale.length)
    return [
        *rows,
        Row(
            "kernels of the plain pass",
            sdpa_kernels(lambda: VARIANTS["plain"](mllm, batch)),
            "name",
        ),
        Row("kernels of the probed pass", sdpa_kernels(lambda: probed(mllm, batch)), "name"),
        _difference(mllm, batch),
    ]


def _timed(
    mllm: Mllm, batch: dict[str, Tensor], repeats: int, *, eager: bool, progress: bool
) -> Seconds:
    names = [name for name in VARIANTS if eager or name != "eager"]
    calls = {name: partial(VARIANTS[name], mllm, batch) for name in names}
    length = batch["input_ids"].shape[1]
    return interleaved(calls, repeats, progress=progress, name=f"access T={length}")


def _difference(mllm: Mllm, batch: dict[str, Tensor]) -> Row:
    """Masses against sums over eager's weights."""
    cols, rows = probe_inputs(batch)
    found, worst = probed(mllm, batch), 0.0
    for layer, weights in enumerate(eager(mllm, batch)):
        expected = weights[:, :, rows[0]] @ cols[:, None]
        worst = max(worst, float((found[layer] - expected).abs().max()))
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
    mllm = random_mllm(replace(scale.shape, layers=layers))
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
            judge=scale.judge,
        ),
        judged(
            "extra time, farthest from a straight line in T",
            100 * _bend(list(medians), list(medians.values())),
            "%",
            at_most=20,
            judge=scale.judge,
        ),
    ]


def _bend(lengths: Sequence[int], seconds: Sequence[float]) -> float:
    """Largest relative distance of times from the best straight line, fixed cost included."""
    times = np.asarray(seconds)
    line = np.stack([np.ones(len(lengths)), np.asarray(lengths, dtype=float)], axis=1)
    weighed = line / times[:, None]
    best = np.linalg.lstsq(weighed, np.ones(len(times)), rcond=None)[0]
    return float(np.abs(weighed @ best - 1).max())
