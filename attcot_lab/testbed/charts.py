"""The testbed problem `charts`: read, compare and combine the values of a small chart.

A chart has six columns, one per colour, and values from 1 to 5 on a ruled ground. The renderer is
our own and deterministic: a column is 16 pixels wide and a unit 16 pixels high, so that one image
token of the tiny models sees one unit of one column. As in `arrows`, evidence, twin, control and
textual prior are exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.problem import Box, Edit, Problem, Step
from attcot_lab.testbed.arrows import (
    CELL,
    COLOURS,
    Split,
    add_cast,
    cast_field,
    check_clarity,
    check_count,
    draw_answer,
    habits,
    item_rng,
    pick,
)

Task = Literal["read", "compare", "combine"]
Style = Literal["bar", "line"]
Chart = Mapping[str, int]
"""Colour → value, in the order of the columns from left to right."""

UNIT = 16
"""Pixels per unit of value, and per column."""
HIGHEST = 5
_CELLS = 3
_SIDE = _CELLS * CELL
_GROUND = (236, 236, 230)
_RULE = (200, 200, 194)
_INK = (20, 20, 20)


@dataclass(frozen=True)
class ChartsConfig:
    """The knobs of `charts`.

    Attributes:
        task: ``"read"`` one value, ``"compare"`` three columns for the tallest, or ``"combine"``
            two values into their difference.
        style: ``"bar"``, or ``"line"``: dots in the columns' colours, joined by a line.
        noise: As in `ArrowsConfig`.
        prior: Share of items whose answer is the named person's habitual one; ``None`` means
            balanced.
        states_evidence: Whether steps say the values they read, or only name the column.
        names_places: Whether columns are named by their place from the left instead of their
            colour, so that they need not be searched for.

    Raises:
        ProblemError: If a knob is out of range.
    """

    task: Task = "combine"
    style: Style = "bar"
    noise: float = 0.0
    prior: float | None = None
    states_evidence: bool = False
    names_places: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, value, known in (
            ("task", self.task, get_args(Task)),
            ("style", self.style, get_args(Style)),
        ):
            if value not in known:
                raise ProblemError(f"Chart {name} is {value!r}; choose one of {', '.join(known)}.")
        if self.names_places and self.task == "compare":
            raise ProblemError(
                "Comparisons answer with a colour, so their columns are named by colour; choose "
                "task read or combine with names_places."
            )
        check_clarity(self.noise, self.prior)

    @property
    def answers(self) -> tuple[str, ...]:
        """The candidate answers of the task."""
        if self.task == "compare":
            return tuple(COLOURS)
        highest = HIGHEST if self.task == "read" else HIGHEST - 1
        return tuple(str(value) for value in range(1, highest + 1))


def generate_charts(
    n: int, config: ChartsConfig | None = None, *, seed: int = 0, split: Split = "test"
) -> list[Problem]:
    """Generate `n` problems; the i-th depends only on `config`, `seed`, `split` and i.

    Raises:
        ProblemError: If `n` is negative or a knob is out of range.
    """
    check_count(n)
    config = config or ChartsConfig()
    return [_generate_one(index, config, seed, split) for index in range(n)]


def solve_chart(chart: Chart, named: Sequence[str], task: Task) -> str | None:
    """The answer, read from the chart; ``None`` where there is no single or positive one."""
    values = [chart[colour] for colour in named]
    if task == "read":
        return str(values[0])
    if task == "compare":
        best = max(values)
        return named[values.index(best)] if values.count(best) == 1 else None
    return str(values[0] - values[1]) if values[0] > values[1] else None


def _generate_one(index: int, config: ChartsConfig, seed: int, split: Split) -> Problem:
    rng = item_rng(seed, split, index)
    habit = habits(config.answers)
    person = pick(rng, list(habit))
    wanted = draw_answer(rng, habit[person], config.prior, config.answers)
    chart, named, twin, control = _random_chart(rng, config.task, wanted)
    cast = cast_field(rng, _CELLS, config.noise)

    def edited(kind: Literal["twin", "control"], move: Move) -> Edit:
        changed = {**chart, **dict([move])}
        return Edit(
            kind=kind,
            image=draw_chart(changed, config.style, cast),
            answer=str(solve_chart(changed, named, config.task)),
            steps=_steps(changed, named, config),
            boxes=(_edit_box(list(chart).index(move[0]), config.style),),
        )

    return Problem(
        id=f"charts-{split}-{seed}-{index:05d}",
        image=draw_chart(chart, config.style, cast),
        question=f"{person} looks at the chart. {_question(chart, named, config)}",
        candidates=config.answers,
        answer=wanted,
        steps=_steps(chart, named, config),
        twin=edited("twin", twin),
        control=edited("control", control),
        habitual=habit[person],
        metadata={
            "person": person,
            "task": config.task,
            "style": config.style,
            "noise": config.noise,
            "split": split,
        },
    )


Move = tuple[str, int]
"""A colour and the value its column gets instead."""


def _random_chart(
    rng: np.random.Generator, task: Task, wanted: str
) -> tuple[Chart, list[str], Move, Move]:
    """A chart with the wanted answer, the colours asked about in order, and two moves.

    The twin's moves a column that is asked about by as little as changes the answer; the
    control's moves another one as far.
    """
    colours = [list(COLOURS)[at] for at in rng.permutation(len(COLOURS))]
    n_named = {"read": 1, "compare": 3, "combine": 2}[task]
    while True:
        chart = {colour: int(rng.integers(1, HIGHEST + 1)) for colour in colours}
        named = [colours[at] for at in rng.permutation(len(colours))[:n_named]]
        if solve_chart(chart, named, task) != wanted:
            continue
        for distance in range(1, HIGHEST):
            twins = [
                (colour, value)
                for colour, value in _moves(chart, named, distance)
                if solve_chart({**chart, colour: value}, named, task) not in (None, wanted)
            ]
            if twins:
                others = [colour for colour in colours if colour not in named]
                controls = _moves(chart, others, distance)
                if controls:
                    return chart, named, pick(rng, twins), pick(rng, controls)
                break


def _moves(chart: Chart, colours: Sequence[str], distance: int) -> list[Move]:
    """How columns can move by so much inside the chart."""
    return [
        (colour, value)
        for colour in colours
        for value in (chart[colour] - distance, chart[colour] + distance)
        if 1 <= value <= HIGHEST
    ]


def _question(chart: Chart, named: Sequence[str], config: ChartsConfig) -> str:
    thing = "bar" if config.style == "bar" else "dot"
    if config.task == "compare":
        listed = f"{named[0]}, {named[1]} and {named[2]}"
        return f"Which of the {thing}s {listed} is the highest?"
    if config.names_places:
        names = [f"{thing} {place}" for place in _places(chart, named)]
    else:
        names = [f"the {colour} {thing}" for colour in named]
    if config.task == "read":
        return f"How high is {names[0]}?"
    other = names[1] if config.names_places else f"the {named[1]} one"
    return f"By how much is {names[0]} higher than {other}?"


def _steps(chart: Chart, named: Sequence[str], config: ChartsConfig) -> tuple[Step, ...]:
    thing = "Bar" if config.style == "bar" else "Dot"
    steps = []
    for place, colour in zip(_places(chart, named), named, strict=True):
        reached = f"reaches {chart[colour]}."
        if config.names_places:
            stated = f"{thing} {place} {reached}"
            text = stated if config.states_evidence else f"Look at {thing.lower()} {place}."
        else:
            text = f"{colour} is in column {place}"
            text += f" and {reached}" if config.states_evidence else "."
        steps.append(Step(text, (column_box(place - 1),)))
    boxes = tuple(column_box(place - 1) for place in _places(chart, named))
    names = [str(p) for p in _places(chart, named)] if config.names_places else named
    if config.task == "read":
        last = f"Read off {names[0]}."
    elif config.task == "compare":
        last = "Take the highest."
    else:
        taken = [chart[colour] for colour in named] if config.states_evidence else names
        last = f"Take {taken[1]} from {taken[0]}."
    return (*steps, Step(last, boxes))


def _places(chart: Chart, named: Sequence[str]) -> list[int]:
    """Columns of the named colours, counted from 1 at the left."""
    columns = list(chart)
    return [columns.index(colour) + 1 for colour in named]


def column_box(place: int) -> Box:
    """The pixel box of the column at a place, counted from 0 at the left."""
    return (place * UNIT, 0, (place + 1) * UNIT, _SIDE)


def _edit_box(place: int, style: Style) -> Box:
    """Where pixels change when the column at a place does; a line's neighbours move with it."""
    x0, y0, x1, y1 = column_box(place)
    if style == "bar":
        return (x0, y0, x1, y1)
    return (max(0, x0 - UNIT), y0, min(_SIDE, x1 + UNIT), y1)


def draw_chart(chart: Chart, style: Style, cast: NDArray[np.float64]) -> Image.Image:
    """Draw a chart and add `cast` as `draw_board` does."""
    image = Image.new("RGB", (_SIDE, _SIDE), _GROUND)
    draw = ImageDraw.Draw(image)
    for value in range(HIGHEST + 1):
        draw.line([(0, _height(value)), (_SIDE, _height(value))], fill=_RULE)
    dots = [(at * UNIT + UNIT // 2, _height(value)) for at, value in enumerate(chart.values())]
    if style == "line":
        draw.line(dots, fill=_INK, width=1)
    for (x, y), colour in zip(dots, chart, strict=True):
        if style == "bar":
            draw.rectangle([x - 6, y, x + 5, _height(0)], fill=COLOURS[colour])
        else:
            draw.ellipse([x - 6, y - 6, x + 6, y + 6], fill=COLOURS[colour])
    return Image.fromarray(add_cast(np.asarray(image), cast), "RGB")


def _height(value: int) -> int:
    """Pixel row of a value; the ground line is the last row."""
    return _SIDE - 1 - value * UNIT
