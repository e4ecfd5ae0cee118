"""The testbed problem `counting`: enumerate and compare objects in a cluttered scene.

Objects stand off the middle of the cells of an invisible grid, some cells are empty, and every
scene holds objects that share a colour or a shape with those that count. The rationale goes
through the scene row by row, whatever it finds there, so its length says nothing about the answer.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from num2words import num2words
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.problem import Box, Edit, Problem, Step
from attcot_lab.testbed.arrows import (
    CELL,
    COLOURS,
    SHAPES,
    Split,
    add_cast,
    cast_field,
    check_clarity,
    check_count,
    draw_answer,
    draw_shape,
    habits,
    item_rng,
    pick,
)

Task = Literal["count", "compare"]
_GROUND = (236, 236, 230)
_OFF = 5
"""How far, in pixels, an object stands off the middle of its cell at most."""
MOST = 5
"""The largest count that is asked for."""
NOTHING = "empty"
"""What a rationale says of a cell without an object."""


class Thing(NamedTuple):
    """One object: colour, shape, and where its middle lies from the middle of its cell."""

    colour: str
    shape: str
    off: tuple[int, int]


Scene = Mapping[tuple[int, int], Thing]
"""(column, row) → object; cells without one are not in it."""


@dataclass(frozen=True)
class CountingConfig:
    """The knobs of `counting`.

    Attributes:
        task: ``"count"`` the objects of one colour and shape, or ``"compare"`` how many shapes
            there are of two colours.
        any_shape: Whether a count is of one colour only, whatever the shape.
        colour: The colour whose objects are counted in every problem; ``None`` means another one
            each time, which a rationale must then hold every object against.
        size: Cells per side of the scene; a cell is 32 pixels wide.
        fill: Share of the cells that hold an object.
        noise: As in `ArrowsConfig`.
        prior: Share of items whose answer is the named person's habitual one; ``None`` means
            balanced.
        states_evidence: Whether steps say the counts they find, or only name the row.
        enumerates: Whether stated evidence is the colour in each cell and the count so far, in
            words, instead of the row's own counts.

    Raises:
        ProblemError: If a knob is out of range.
    """

    task: Task = "count"
    any_shape: bool = False
    colour: str | None = None
    size: int = 3
    fill: float = 0.8
    noise: float = 0.0
    prior: float | None = None
    states_evidence: bool = False
    enumerates: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.task not in get_args(Task):
            raise ProblemError(
                f"Counting task is {self.task!r}; choose one of {', '.join(get_args(Task))}."
            )
        if self.colour is not None and (self.task != "count" or self.colour not in COLOURS):
            raise ProblemError(
                f"Counted colour is {self.colour!r} in the task {self.task!r}; only a count has "
                f"one, and it is one of {', '.join(COLOURS)}."
            )
        if not 3 <= self.size <= 9:
            raise ProblemError(f"Scene size is {self.size}; choose 3 to 9 cells per side.")
        if self.n_things < MOST + 2:
            raise ProblemError(
                f"A fill of {self.fill} leaves {self.n_things} objects, too few for counts up to "
                f"{MOST} and something that does not count; choose a larger fill or size."
            )
        if self.fill > 1:
            raise ProblemError(f"Fill is {self.fill}; it is a share of the cells, at most 1.")
        check_clarity(self.noise, self.prior)

    @property
    def n_things(self) -> int:
        """Objects in a scene."""
        return round(self.fill * self.size * self.size)

    @property
    def answers(self) -> tuple[str, ...]:
        """The candidate answers of the task."""
        if self.task == "compare":
            return tuple(COLOURS)
        return tuple(str(count) for count in range(1, MOST + 1))


def generate_counting(
    n: int, config: CountingConfig | None = None, *, seed: int = 0, split: Split = "test"
) -> list[Problem]:
    """Generate `n` problems; the i-th depends only on `config`, `seed`, `split` and i.

    Raises:
        ProblemError: If `n` is negative or a knob is out of range.
    """
    check_count(n)
    config = config or CountingConfig()
    return [_generate_one(index, config, seed, split) for index in range(n)]


class _Asked(NamedTuple):
    """What is asked about: one kind of object, or two colours to compare."""

    task: Task
    colours: tuple[str, ...]
    shape: str | None

    def counts(self, thing: Thing) -> bool:
        return thing.colour in self.colours and self.shape in (None, thing.shape)


def solve_scene(scene: Scene, asked: _Asked) -> str | None:
    """The answer, counted in the scene; ``None`` where there is none among the candidates."""
    numbers = [
        sum(asked.counts(thing) and thing.colour == colour for thing in scene.values())
        for colour in asked.colours
    ]
    if asked.task == "count":
        return str(numbers[0]) if 1 <= numbers[0] <= MOST else None
    first, second = numbers
    return None if first == second else asked.colours[first < second]


def _generate_one(index: int, config: CountingConfig, seed: int, split: Split) -> Problem:
    rng = item_rng(seed, split, index)
    habit = habits(config.answers)
    person = pick(rng, list(habit))
    wanted = draw_answer(rng, habit[person], config.prior, config.answers)
    scene, asked, twin, control = _random_scene(rng, config, wanted)
    cast = cast_field(rng, config.size, config.noise)

    def edited(kind: Literal["twin", "control"], cell: tuple[int, int], colour: str) -> Edit:
        changed = {**scene, cell: scene[cell]._replace(colour=colour)}
        return Edit(
            kind=kind,
            image=draw_scene(changed, config.size, cast),
            answer=str(solve_scene(changed, asked)),
            steps=_steps(changed, asked, config),
            boxes=(_box(cell[0], cell[1], 1),),
        )

    return Problem(
        id=f"counting-{split}-{seed}-{index:05d}",
        image=draw_scene(scene, config.size, cast),
        question=f"{person} looks at the scene. {_question(asked)}",
        candidates=config.answers,
        answer=wanted,
        steps=_steps(scene, asked, config),
        twin=edited("twin", *twin),
        control=edited("control", *control),
        habitual=habit[person],
        metadata={
            "person": person,
            "task": config.task,
            "noise": config.noise,
            "split": split,
        },
    )


Recolour = tuple[tuple[int, int], str]


def _random_scene(
    rng: np.random.Generator, config: CountingConfig, wanted: str
) -> tuple[Scene, _Asked, Recolour, Recolour]:
    """A scene with the wanted answer, what is asked, and the cells that twin and control recolour.

    Twin and control recolour objects of one shape, so that they change as many pixels.
    """
    cells = [(column, row) for row in range(config.size) for column in range(config.size)]
    while True:
        asked = _random_question(rng, config, wanted)
        chosen = [cells[at] for at in sorted(rng.permutation(len(cells))[: config.n_things])]
        counting: set[int] | None = None
        if asked.task == "count":
            counting = {int(at) for at in rng.permutation(len(chosen))[: int(wanted)]}
        scene = {
            cell: _random_thing(rng, asked, None if counting is None else at in counting)
            for at, cell in enumerate(chosen)
        }
        if solve_scene(scene, asked) != wanted:
            continue
        twins, controls = [], []
        for cell, thing in scene.items():
            for colour in COLOURS:
                if colour == thing.colour:
                    continue
                changed = thing._replace(colour=colour)
                answer = solve_scene({**scene, cell: changed}, asked)
                if answer is not None and answer != wanted:
                    twins.append((cell, colour))
                elif not asked.counts(thing) and not asked.counts(changed):
                    controls.append((cell, colour))
        pairs = [
            (twin, control)
            for twin in twins
            for control in controls
            if scene[twin[0]].shape == scene[control[0]].shape
        ]
        if pairs:
            twin, control = pick(rng, pairs)
            return scene, asked, twin, control


def _random_question(rng: np.random.Generator, config: CountingConfig, wanted: str) -> _Asked:
    task = config.task
    if task == "count":
        colour = config.colour or pick(rng, list(COLOURS))
        return _Asked(task, (colour,), None if config.any_shape else pick(rng, SHAPES))
    other = pick(rng, [colour for colour in COLOURS if colour != wanted])
    pair = (wanted, other) if rng.random() < 0.5 else (other, wanted)
    return _Asked(task, pair, None)


def _random_thing(rng: np.random.Generator, asked: _Asked, counts: bool | None) -> Thing:
    """An object that shares colour or shape with what is asked about more often than by chance.

    Args:
        rng: Where chance comes from.
        asked: What is asked about.
        counts: Whether it is one of those that count; ``None`` leaves that to chance.
    """
    colours = [*COLOURS, *asked.colours * 3]
    shapes = [*SHAPES, *([asked.shape] * 3 if asked.shape else [])]
    off = rng.integers(-_OFF, _OFF + 1, 2)
    while True:
        thing = Thing(pick(rng, colours), pick(rng, shapes), (int(off[0]), int(off[1])))
        if counts is None or asked.counts(thing) == counts:
            return thing


def _question(asked: _Asked) -> str:
    if asked.task == "count":
        return f"How many {asked.colours[0]} {asked.shape or 'shape'}s are there?"
    return f"Are there more {asked.colours[0]} or more {asked.colours[1]} shapes?"


def _steps(scene: Scene, asked: _Asked, config: CountingConfig) -> tuple[Step, ...]:
    steps = []
    for row in range(config.size):
        text = f"Look at row {row + 1}."
        if config.states_evidence and config.enumerates:
            cells = []
            for column in range(config.size):
                thing = scene.get((column, row))
                done = {at: one for at, one in scene.items() if at[::-1] <= (row, column)}
                so_far = " to ".join(map(num2words, _numbers(done, asked, range(row + 1))))
                cells.append(f"{thing.colour if thing else NOTHING} {so_far}")
            text = f"Row {row + 1}: {', '.join(cells)}."
        elif config.states_evidence:
            numbers = _numbers(scene, asked, (row,))
            words = " and ".join(f"{n} {c}" for n, c in zip(numbers, asked.colours, strict=True))
            text = f"Row {row + 1} has {numbers[0] if asked.task == 'count' else words}."
        steps.append(Step(text, (_box(0, row, config.size),)))
    whole = tuple(_box(0, row, config.size) for row in range(config.size))
    last = "Add them up." if asked.task == "count" else "Compare the sums."
    return (*steps, Step(last, whole))


def _numbers(scene: Scene, asked: _Asked, rows: Collection[int]) -> list[int]:
    """How many of the things asked about stand in some rows, per colour."""
    things = [thing for (_, row), thing in scene.items() if row in rows and asked.counts(thing)]
    return [sum(thing.colour == colour for thing in things) for colour in asked.colours]


def _box(column: int, row: int, width: int) -> Box:
    """The pixel box of `width` cells from ``(column, row)`` on to the right."""
    return (column * CELL, row * CELL, (column + width) * CELL, (row + 1) * CELL)


def draw_scene(scene: Scene, size: int, cast: NDArray[np.float64]) -> Image.Image:
    """Draw a scene and add `cast` as `draw_board` does."""
    image = Image.new("RGB", (size * CELL, size * CELL), _GROUND)
    draw = ImageDraw.Draw(image)
    for (column, row), thing in scene.items():
        x, y = (
            CELL * at + CELL // 2 + off for at, off in zip((column, row), thing.off, strict=True)
        )
        draw_shape(draw, x, y, thing.shape, COLOURS[thing.colour])
    return Image.fromarray(add_cast(np.asarray(image), cast), "RGB")
