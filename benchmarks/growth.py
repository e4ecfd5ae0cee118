"""Bench `growth`: what a run takes as pictures, rationales and samples grow, and what extras cost.

The model is that of `suite`. Given responses are measured with the default tables at three sizes of
the picture and three lengths of the rationale; with one and more samples of each item, so many are
written as well. A straight line is drawn through the first and the last of each three, and the
middle one is held against it. *Extras* are five samples and three cues, against one of each, in
the shape of `suite` but for shorter steps: pictures of 729 tokens, responses of 157. Dependence is
of the first sample, as it is unless asked for otherwise, or of all.
"""

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
from benchmarks.bench import Row, Scale, judged, own_clock, random_mllm, timed
from benchmarks.suite import QUICK as SUITE_QUICK
from benchmarks.suite import QUICK_TOWER, READ, SENTENCE, SHAPE, TOWER, larger, responses

FULL = Scale(
    shape=SHAPE,
    tower=TOWER,
    sides=(256, 640, 1024),
    steps=(2, 17, 32),
    samples=(1, 8, 16),
    new_tokens=48,
    items=4,
    side=432,
    extra=5,
    response=160,
)
QUICK = Scale(
    shape=SUITE_QUICK.shape,
    tower=QUICK_TOWER,
    sides=(32, 64, 96),
    steps=(2, 3, 4),
    samples=(1, 2, 3),
    new_tokens=4,
    items=4,
    side=64,
    extra=2,
    response=4,
)
STEP = "The star is in cell a1, and now its arrow points right."
"""Five of these make a response of about 160 tokens, 157."""
TOGETHER = 32
"""Sequences per pass and generation, where there are several samples."""


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
    clock = own_clock(device)
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
    several = [larger(one, scale.side) for one in generate_arrows(scale.items, seed=0)]
    both = partial(_write, mllm, several, n=scale.response, sentence=STEP)
    extras = {"samples": scale.extra, "controls": (*CONTROLS, *CUES)}
    turns = {
        "one sample": partial(both, samples=1),
        "extras": partial(both, **extras),
        "extras, edits of all": partial(both, **extras, edited_samples=scale.extra),
    }
    taken = {name: timed(call, device, clock) / scale.items for name, call in turns.items()}
    rows += [Row(f"{name}, 729 image tokens", one, "s per item") for name, one in taken.items()]
    one = taken.pop("one sample")
    worth, every = (found / one for found in taken.values())
    rows.append(judged("time, five samples of three cues / one of one", worth, "x", at_most=1.5))
    rows.append(Row("the same, with edits of every sample", every, "x"))
    return rows


def _read(mllm: Mllm, problems: list[Problem], n_steps: int) -> object:
    written = responses(mllm, problems, n_steps)
    return runs.measure(mllm, problems, READ, generations=written, batch_size=len(problems))


def _write(
    mllm: Mllm,
    problems: list[Problem],
    samples: int,
    n: int,
    sentence: str = SENTENCE,
    **more: Any,
) -> object:
    """Write so many responses of `n` tokens to each item, and measure on as many with steps."""
    same: dict[str, Any] = {"batch_size": TOGETHER, "max_new_tokens": n}
    random: dict[str, Any] = {"temperature": 1.0, "samples": samples}
    runs.measure(mllm, problems, ("answers",), **same, **random)
    written = responses(mllm, problems, samples=samples, sentence=sentence)
    own = replace(written, foreign=False)
    return runs.measure(mllm, problems, generations=own, **same, **random, **more)
