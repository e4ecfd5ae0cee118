"""Bench `growth`: what a run takes as pictures, rationales and samples grow, and what extras cost.

The model is that of `suite`. Given responses are measured with the default tables at three sizes of
the picture and three lengths of the rationale; with one and more samples of each item, so many are
written as well. A straight line is drawn through the first and the last of each three, and the
middle one is held against it. *Extras* are five samples and three cues, against one of each:
everything is measured of every sample, responses to edited pictures included.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from attcot_analysis.measures.commitment import CONTROLS, CUES
from attcot_analysis.models import Mllm, encode_problem
from attcot_analysis.models.processors import limit_pictures
from attcot_analysis.problems import Problem
from attcot_analysis.runs import measure as runs
from attcot_lab.testbed.arrows import generate_arrows
from benchmarks.bench import Row, Scale, judged, random_mllm, timed
from benchmarks.suite import QUICK as SUITE_QUICK
from benchmarks.suite import QUICK_TOWER, READ, SHAPE, TOWER, larger, responses

FULL = Scale(
    shape=SHAPE,
    tower=TOWER,
    sides=(256, 640, 1024),
    steps=(2, 17, 32),
    samples=(1, 8, 16),
    extra=5,
    new_tokens=48,
)
QUICK = Scale(
    shape=SUITE_QUICK.shape,
    tower=QUICK_TOWER,
    sides=(32, 64, 96),
    steps=(2, 3, 4),
    samples=(1, 2, 3),
    extra=2,
    new_tokens=4,
)


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure on a random model.

    Returns:
        Seconds per item of every case, how far each middle one lies from its line, and the extras.
    """
    scale = QUICK if quick else FULL
    mllm = random_mllm(scale.shape, device=device, vision=scale.tower)
    one, *others = generate_arrows(8, seed=0)
    plain = [one, next(other for other in others if other.answer != one.answer)]
    middle = [larger(one, scale.sides[0]) for one in plain]
    # The testbed's processor would make the larger pictures smaller.
    most = {"max_pixels": scale.sides[-1] ** 2}
    limit_pictures(mllm.family, mllm.processor, mllm.model.config, most)
    cases: dict[str, dict[float, Callable[[], object]]] = {
        "image tokens": {
            len(encode_problem(mllm, some[0]).layout.grids[0]): partial(_read, mllm, some, 5)
            for some in ([larger(one, side) for one in plain] for side in scale.sides)
        },
        "steps": {n: partial(_read, mllm, middle, n) for n in scale.steps},
        "samples": {n: partial(_write, mllm, middle, n, scale.new_tokens) for n in scale.samples},
    }
    # Other programs share the cores where it runs longest.
    clock = time.process_time if device == "cpu" else time.perf_counter
    _read(mllm, middle, 2)
    rows = []
    for what, of in cases.items():
        seconds = {size: timed(call, device, clock) / len(plain) for size, call in of.items()}
        rows += [Row(f"{size:g} {what}", one, "s per item") for size, one in seconds.items()]
        (low, first), (size, found), (high, last) = seconds.items()
        slope = (last - first) / (high - low)
        line = first + slope * (size - low)
        rows.append(Row(f"slope, per {what[:-1]}", slope, "s per item"))
        rows.append(Row(f"middle over the line, {what}", found / line, "x"))
    extras = {"controls": (*CONTROLS, *CUES)}
    turns = {
        "without": partial(_write, mllm, middle, 1, scale.new_tokens),
        "with": partial(_write, mllm, middle, scale.extra, scale.new_tokens, **extras),
    }
    taken = {name: timed(call, device, clock) for name, call in turns.items()}
    worth = taken["with"] / taken["without"]
    rows.append(judged("time, five samples of three cues / one of one", worth, "x", at_most=1.5))
    return rows


def _read(mllm: Mllm, problems: list[Problem], n_steps: int) -> object:
    written = responses(mllm, problems, n_steps)
    return runs.measure(mllm, problems, READ, generations=written, batch_size=len(problems))


def _write(mllm: Mllm, problems: list[Problem], samples: int, n: int, **more: Any) -> object:
    """Write so many responses of `n` tokens to each item, and measure on as many with steps."""
    same: dict[str, Any] = {"batch_size": len(problems), "max_new_tokens": n}
    random: dict[str, Any] = {"temperature": 1.0, "samples": samples}
    runs.measure(mllm, problems, ("answers",), **same, **random)
    own = replace(responses(mllm, problems, samples=samples), foreign=False)
    return runs.measure(mllm, problems, generations=own, **same, **more)
