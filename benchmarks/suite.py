"""Bench `suite`: the tables of `measure` with what passes share run once, against every pass alone.

The model has the proportions of a 0.5B one with a vision tower as costly per picture token as its
text stack, eight layers deep and 256 wide where that has 24 and 896; pictures of 729 tokens,
rationales of five steps. *Alone* is the same code with sharing switched off: every pass and every
generation prepares its picture, runs the tower and prefills anew. The *floor* is one prefill of
every picture variant with its rationale, and the tokens of the two control rationales behind it:
forward passes only, no reading of attention, no tables.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from attcot_analysis.attention.packing import candidate_tokens, forced_readings
from attcot_analysis.attention.prefixes import Prefixes
from attcot_analysis.measures.commitment import filler_rationale
from attcot_analysis.models import Generation, Mllm, PromptCache, encode_problem
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.problems.edits import edited_images
from attcot_analysis.runs import measure as suite
from attcot_analysis.runs.generations import Generations
from attcot_analysis.runs.profile import profiled
from attcot_lab.testbed.arrows import generate_arrows
from benchmarks.bench import Row, Scale, Shape, interleaved, judged, own_clock, random_mllm, ratio

SHAPE = Shape(hidden=256, layers=8, heads=4, kv_heads=1, intermediate=1390)
TOWER = {"depth": 7, "hidden_size": 320, "intermediate_size": 1280, "num_heads": 4}
QUICK_TOWER = {"depth": 1, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2}
SENTENCE = "The star is in cell a1 and its arrow points right, so look at the cell beside it."

FULL = Scale(shape=SHAPE, tower=TOWER, items=4, side=432, repeats=1, new_tokens=60)
QUICK = Scale(
    shape=Shape(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128),
    tower=QUICK_TOWER,
    items=4,
    side=64,
    repeats=1,
    new_tokens=8,
)
READ = ("commitment", "access", "dependence")


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure on a random model.

    Returns:
        Times as ratios with bars at full scale, the largest difference of a number, tokens.
    """
    scale = QUICK if quick else FULL
    mllm = random_mllm(scale.shape, device=device, vision=scale.tower)
    problems = [larger(one, scale.side) for one in generate_arrows(scale.items, seed=0)]
    written = responses(mllm, problems)
    own = replace(written, foreign=False)

    def read() -> Any:
        return _measure(mllm, problems, READ, written)

    def write() -> Any:
        _measure(mllm, problems, ("answers",), None, scale.new_tokens)
        return _measure(mllm, problems, suite.DEFAULT, own, scale.new_tokens)

    variants: dict[str, Callable[[], object]] = {
        "reading": read,
        "reading, alone": _alone(read),
        "reading, floor": lambda: _floor(mllm, problems, written),
        "writing": write,
        "writing, alone": _alone(write),
    }
    seconds = interleaved(
        variants,
        scale.repeats,
        device=device,
        progress=progress,
        name="suite",
        warm_up=quick,
        # Other programs share the cores where it runs longest.
        clock=own_clock(device),
    )
    with profiled(mllm) as profile:
        found = read()
    rows = [
        judged(
            "time, alone / shared, given responses",
            ratio(seconds, "reading, alone", "reading"),
            "x",
            at_least=3,
        ),
        judged(
            "time, shared / floor, given responses",
            ratio(seconds, "reading", "reading, floor"),
            "x",
            at_most=1.35,
        ),
        judged(
            "time, alone / shared, with the model's own writing",
            ratio(seconds, "writing, alone", "writing"),
            "x",
            at_least=2,
        ),
        judged("largest difference", _worst(found, _alone(read)()), "", at_most=1e-4),
    ]
    rows += [Row(f"time, {name}", float(np.median(one)), "s") for name, one in seconds.items()]
    record = profile.record(scale.items)
    for kind in ("pictures", "behind"):
        rows.append(Row(f"tokens per item, {kind}", record[kind]["tokens"] / scale.items, "tokens"))
    return rows


def _measure(
    mllm: Mllm, problems: list[Problem], what: Any, written: Generations | None, n: int = 8
) -> dict[str, pd.DataFrame]:
    return suite.measure(
        mllm, problems, what, generations=written, batch_size=len(problems), max_new_tokens=n
    )


@contextmanager
def _switched_off() -> Iterator[None]:
    sharing = suite.sharing
    suite.sharing = lambda mllm: (mllm, lambda: None)
    try:
        yield
    finally:
        suite.sharing = sharing


def _alone(work: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with _switched_off():
            return work()

    return call


def larger(problem: Problem, side: int) -> Problem:
    """The same problem with pictures of so many pixels."""

    def resized(picture: Image.Image) -> Image.Image:
        return picture.resize((side, side))

    edits = {
        name: replace(edit, image=resized(edit.image), boxes=())
        for name in ("twin", "control")
        if (edit := getattr(problem, name)) is not None
    }
    steps = tuple(replace(step, boxes=()) for step in problem.steps)
    return replace(problem, image=resized(problem.image), steps=steps, **edits)


def responses(
    mllm: Mllm,
    problems: list[Problem],
    n_steps: int = 5,
    samples: int = 1,
    sentence: str = SENTENCE,
) -> Generations:
    """Responses of so many steps to every item, with the right answer; no two are the same."""
    made: dict[str, list[Generation]] = {}
    for at, one in enumerate(problems):
        for first in range(at, at + 10 * samples, 10):
            steps = [f"{sentence} {number + first}" for number in range(n_steps)]
            text = render_response(steps, one.answer)
            ids = mllm.tokenizer(text, add_special_tokens=False)["input_ids"]
            made.setdefault(one.id, []).append(Generation(tuple(ids), text, finished=True))
    return Generations(
        {item: of[0] for item, of in made.items()},
        foreign=True,
        more={item: tuple(of[1:]) for item, of in made.items() if of[1:]},
    )


def _floor(mllm: Mllm, problems: list[Problem], written: Generations) -> None:
    """One prefill per picture variant, and the suffixes of the other rationales."""
    prefixes = Prefixes(mllm)
    shared = replace(mllm, prefixes=prefixes, cache=PromptCache())
    tokens = [candidate_tokens(mllm, one.candidates) for one in problems]
    ids = [list(written.of[one.id].ids) for one in problems]

    def items(responses: list[list[int]], pictures: list[Any] | None = None) -> list[Any]:
        return [
            encode_problem(shared, one, response=response, image=picture)
            for one, response, picture in zip(
                problems, responses, pictures or [None] * len(problems), strict=True
            )
        ]

    own = items(ids)
    prefixes.fill(shared, own, whole=True)
    for asked in (own, [filler_rationale(shared, one) for one in own], items([*ids[1:], ids[0]])):
        forced_readings(shared, asked, tokens)
    for kind in ("twin", "control", "blank"):
        edited = edited_images(problems, kind)
        with prefixes.while_needed():
            some = items(ids, [one.image for one in edited])
            prefixes.fill(shared, some, whole=True)
            forced_readings(shared, some, tokens, steps=[[5]] * len(some))


def _worst(found: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame]) -> float:
    """The largest difference of a number in the tables."""
    worst = 0.0
    for name in READ:
        numbers = found[name].select_dtypes("float64").columns
        gap = (found[name][numbers] - other[name][numbers]).abs().to_numpy()
        worst = max(worst, float(np.nanmax(gap)))
    return worst
