"""Benches: time and memory of the fast paths against the plain ones, and whether our bars hold.

One module per bench, with ``run(*, progress, quick, device) -> list[Row]``. A further bench is a
further module and a line in `BENCHES`.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module

import torch

# Before any module here asks transformers for torchvision; see models._torchvision.
import attcot_analysis.models  # noqa: F401
from attcot_analysis.errors import MeasureError
from benchmarks.bench import Row, circumstances

__all__ = ["BENCHES", "Row", "run_bench"]

BENCHES: Mapping[str, str] = {
    "access": "visual access of a 0.5B-shaped model against plain SDPA and eager forward passes",
    "commitment": "all forced answers of an item in one pass against one pass each",
    "suite": "the tables of measure with what passes share run once, against every pass alone",
    "growth": "a run as pictures, rationales and samples grow, and with five samples and more cues",
    "beside": "what workers for pictures, a static cache and compiled passes could save a run",
    "memory": "peak memory of a run, shared against every pass alone, and its batch plan",
    "patching": "a patching sweep over layers, tokens and steps against one pass with hooks each",
    "traces": "memory of commitment on a rationale of 6,000 tokens, at some steps and at all",
    "report": "memory of a run's page over 60 large pictures, against all of them decoded",
    "training": "a training step with both Att-CoT terms against one of CoT-SFT and the eager way",
    "sayo": "the region reward's share of a GRPO step",
    "vista": "hard questions that gain a right rationale by prefix resampling and by plain samples",
    "grpo": "what GRPO raises with the region reward, with right answers and with both",
    "explorer": "key press to painted map in a real browser, and the size of what is sent",
}
"""What each bench measures, by name; the name is its module's, too."""


def run_bench(
    name: str, *, progress: bool = False, quick: bool = False, device: str = "cpu"
) -> list[Row]:
    """Run one bench.

    Args:
        name: One of `BENCHES`.
        progress: Show a progress bar.
        quick: Small shapes, to see that the bench works; no bar is judged.
        device: Where the models run, as torch names it.

    Returns:
        What was measured, then how, as `Row`.

    Raises:
        MeasureError: If there is no such bench or device.
    """
    if name not in BENCHES:
        listed = "; ".join(f"{known}: {what}" for known, what in BENCHES.items())
        raise MeasureError(f"There is no bench {name!r}; choose one of these:\n{listed}.")
    _check_device(device)
    module = import_module(f"benchmarks.{name}")
    rows: list[Row] = module.run(progress=progress, quick=quick, device=device)
    if quick:
        rows = [replace(row, bar=None, holds=None) for row in rows]
    return [*rows, *circumstances(device, quick)]


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MeasureError(
            f"Device {device!r} cannot be used here; choose cpu, or install a torch that has it."
        ) from error
