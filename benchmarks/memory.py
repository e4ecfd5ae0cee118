"""Bench `memory`: peak memory of a whole run, shared against every pass alone, and its batch plan.

A run makes the default tables on responses of its own, as `suite` does with that bench's model,
each in a fresh process. *Predicted* is what ``--batch-size auto`` reckons with for a batch of that
size, *measured* what a run adds to a process that has loaded the model and measured one small item.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from attcot_analysis.attention.packing import candidate_tokens
from attcot_analysis.models import encode_problem
from attcot_analysis.runs import measure as runs
from attcot_analysis.runs.memory import in_process, item_bytes
from attcot_lab.testbed.arrows import generate_arrows
from benchmarks.bench import Peak, Row, Scale, judged, peak_memory, random_mllm
from benchmarks.suite import FULL as SUITE
from benchmarks.suite import QUICK as SUITE_QUICK
from benchmarks.suite import larger, responses

FULL = Scale(**vars(SUITE), batches=(2, 4, 8))
QUICK = Scale(**vars(SUITE_QUICK), batches=(2,))
MIB = 2**20


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure on a random model.

    Returns:
        Ratios with bars at full scale, and the amounts that they are made of.
    """
    scale = QUICK if quick else FULL
    rows: list[Row] = []
    peaks: dict[bool, Peak] = {}
    for n in scale.batches:
        last = n == scale.batches[-1]
        for alone in (False, True) if last else (False,):
            options = {"n": n, "alone": alone, "quick": quick, "device": device}
            if device.startswith("cuda"):
                peaks[alone] = _device_peak(running(**options), device)
            else:
                peaks[alone] = peak_memory(__name__, "running", options)
        needed = predicted(n, quick=quick, device=device)
        at = f"{n} items"
        rows += [
            judged(
                f"memory of a run, predicted / measured, {at}",
                needed / peaks[False].added,
                "x",
                at_least=0.9,
                at_most=2,
            ),
            Row(f"memory of a run, measured, {at}", peaks[False].added / MIB, "MiB"),
        ]
    ratio = peaks[False].peak / peaks[True].peak
    rows.append(judged(f"peak memory, shared / alone, {at}", ratio, "x", at_most=1.1))
    for alone, name in ((False, "shared"), (True, "alone")):
        rows.append(Row(f"peak memory, {name}, {at}", peaks[alone].peak / MIB, "MiB"))
    return rows


def running(n: int, *, alone: bool, quick: bool, device: str) -> Callable[[], object]:
    """What makes the default tables of so many items, after those of a small one."""
    scale = QUICK if quick else FULL
    mllm = random_mllm(scale.shape, device=device, vision=scale.tower)
    problems = generate_arrows(n, seed=0)
    sharing = runs.sharing

    def measured(some: int, side: int) -> object:
        shown = [larger(one, side) for one in problems[:some]]
        written = replace(responses(mllm, shown), foreign=False)
        settings = {"batch_size": n, "max_new_tokens": scale.new_tokens}
        runs.sharing = _apart if alone else sharing
        try:
            return runs.measure(mllm, shown, generations=written, **settings)
        finally:
            runs.sharing = sharing

    measured(1, 64)
    return lambda: measured(n, scale.side)


def predicted(n: int, *, quick: bool, device: str) -> int:
    """Bytes that the batch plan reckons with for so many items, without the model's own."""
    scale = QUICK if quick else FULL
    mllm = random_mllm(scale.shape, device=device, vision=scale.tower)
    problems = [larger(one, scale.side) for one in generate_arrows(n, seed=0)]
    longest = max(len(one.ids) for one in responses(mllm, problems).of.values())
    read = len(candidate_tokens(mllm, problems[0].candidates).tree.read_nodes)
    each = sum(item_bytes(mllm, encode_problem(mllm, problems[0]), longest, read=read))
    return n * in_process(each, mllm.device)


def _apart(mllm: Any) -> tuple[Any, Callable[[], None]]:
    return mllm, lambda: None


def _device_peak(call: Callable[[], object], device: str) -> Peak:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return Peak(before, torch.cuda.max_memory_allocated(device))
