"""Pictures of one to three coloured shapes, and short questions about them in natural English.

For models with a real vocabulary: the bridge to real weights is taught and measured on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from attcot_analysis.problems.formats import Mode
from attcot_analysis.problems.problem import Box, Edit, Problem, Step
from attcot_lab.testbed.arrows import COLOURS, Split, check_count, item_rng, pick

SIDE = 112
"""Pixels per side of a picture."""
SHAPES = ("circle", "square", "triangle", "star", "cross")
_SMOOTH = 4
_OUTLINES = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -1.0), (1.0, 0.85), (-1.0, 0.85)],
    "cross": [
        *[(-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35)],
        *[(0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35)],
    ],
    "star": [
        (r * np.sin(np.pi * at / 5), -r * np.cos(np.pi * at / 5))
        for at, r in enumerate([1.0, 0.42] * 5)
    ],
    "circle": [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 60)],
}
"""Corners around (0, 0), at most 1 away in either direction."""


class Thing(NamedTuple):
    """One shape: its colour, its middle and half its width, in pixels."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float

    @property
    def box(self) -> Box:
        """The whole pixels that it lies in."""
        x, y, r = self.x, self.y, self.radius
        # The outline itself is drawn as well.
        right, low = (min(SIDE, ceil(middle + r) + 1) for middle in (x, y))
        return (floor(x - r), floor(y - r), right, low)


@dataclass(frozen=True)
class Lesson:
    """One thing to learn: a prompt, and what is to be said.

    Attributes:
        image: The picture; ``None`` where the scene is told in the question.
        question: The question, without instruction.
        mode: How the answer is asked for; ``None`` for a description, which has no instruction.
        steps: The rationale's.
        answer: The answer, or the description.
        things: What is to be seen.
    """

    image: Image.Image | None
    question: str
    mode: Mode | None
    steps: tuple[str, ...]
    answer: str
    things: tuple[Thing, ...]


def draw_things(things: Sequence[Thing], ground: int) -> Image.Image:
    """Draw shapes on a plain ground of one grey level."""
    image = Image.new("RGB", (SIDE * _SMOOTH, SIDE * _SMOOTH), (ground, ground, ground))
    draw = ImageDraw.Draw(image)
    for shape, colour, x, y, radius in things:
        corners = [
            ((x + radius * dx) * _SMOOTH, (y + radius * dy) * _SMOOTH)
            for dx, dy in _OUTLINES[shape]
        ]
        draw.polygon(corners, fill=COLOURS[colour])
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)


def random_things(rng: np.random.Generator, colours: Sequence[str]) -> tuple[Thing, ...]:
    """Different shapes of these colours, each in its own quarter of the picture."""
    quarter = SIDE / 2
    things = []
    shapes = rng.permutation(len(SHAPES))
    for colour, shape, place in zip(colours, shapes, rng.permutation(4), strict=False):
        radius = rng.uniform(0.3, 0.42) * quarter
        room = quarter / 2 - radius
        x, y = (
            (at + 0.5) * quarter + rng.uniform(-room, room)
            for at in (int(place) % 2, int(place) // 2)
        )
        things.append(Thing(SHAPES[shape], colour, float(x), float(y), float(radius)))
    return tuple(things)


def colour_problems(n: int, *, seed: int = 0, split: Split = "test") -> list[Problem]:
    """Problems that compare the colours of two shapes out of three: yes or no, half of each.

    Each of the two steps says one colour, so the answer is open until the last step. The twin
    recolours the second shape, the control edit the third one.

    Args:
        n: How many; the i-th depends only on `seed`, `split` and i.
        seed: Of everything drawn.
        split: Train, test and pretraining items share no randomness.

    Raises:
        ProblemError: If `n` is negative.
    """
    check_count(n)
    return [_problem(at, seed, split) for at in range(n)]


def _problem(at: int, seed: int, split: Split) -> Problem:
    rng = item_rng(seed, split, at)
    ground, (first, second, third) = _scene(rng, 3, same=at % 2 == 0)
    other = [colour for colour in COLOURS if colour not in (first.colour, second.colour)]
    colour = pick(rng, other) if first.colour == second.colour else first.colour
    free = [one for one in COLOURS if one not in (first.colour, second.colour, third.colour)]

    def edited(kind: Literal["twin", "control"], changed: Thing) -> Edit:
        seen = (first, changed, third) if kind == "twin" else (first, second, changed)
        return Edit(
            kind=kind,
            image=draw_things(seen, ground),
            answer=_same(*seen[:2]),
            steps=_steps(*seen[:2]),
            boxes=(changed.box,),
        )

    return Problem(
        id=f"colours-{split}-{seed}-{at:05d}",
        image=draw_things((first, second, third), ground),
        question=_asked(first, second),
        candidates=("yes", "no"),
        answer=_same(first, second),
        steps=_steps(first, second),
        twin=edited("twin", second._replace(colour=colour)),
        control=edited("control", third._replace(colour=pick(rng, free))),
    )


def _scene(
    rng: np.random.Generator, n: int, *, same: bool | None = None
) -> tuple[int, tuple[Thing, ...]]:
    """A ground, and `n` things whose first two share their colour or not."""
    colours = [pick(rng, list(COLOURS)) for _ in range(n)]
    if same is not None:
        others = [colour for colour in COLOURS if colour != colours[0]]
        colours[1] = colours[0] if same else pick(rng, others)
    return int(rng.integers(200, 256)), random_things(rng, colours)


def _same(first: Thing, second: Thing) -> str:
    return "yes" if first.colour == second.colour else "no"


def _asked(first: Thing, second: Thing) -> str:
    return f"Do the {first.shape} and the {second.shape} have the same colour?"


def _steps(*things: Thing) -> tuple[Step, ...]:
    return tuple(Step(f"The {one.shape} is {one.colour}.", (one.box,)) for one in things)


def told(things: Sequence[Thing]) -> str:
    """A scene in words, such as "A red square, a blue star and an orange cross"."""
    words = [
        f"{'an' if one.colour[0] in 'aeiou' else 'a'} {one.colour} {one.shape}" for one in things
    ]
    text = " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
    return f"{text[0].upper()}{text[1:]}."


def single_lesson(rng: np.random.Generator) -> Lesson:
    """The colour or the shape of a single thing."""
    return _lookup(rng, 1)


def mixed_lesson(rng: np.random.Generator) -> Lesson:
    """Descriptions and direct answers on pictures; direct answers and rationales on told scenes.

    No picture comes with a rationale.
    """
    kind = rng.random()
    if kind < 0.25:
        ground, things = _scene(rng, int(rng.integers(1, 4)))
        # In reading order, or a description could not be told from another one.
        things = tuple(sorted(things, key=lambda one: (one.y > SIDE / 2, one.x)))
        picture = draw_things(things, ground)
        return Lesson(picture, "Describe the picture.", None, (), told(things), things)
    if kind < 0.55:
        return _lookup(rng, int(rng.integers(1, 4)))
    ground, things = _scene(rng, 3, same=bool(rng.integers(2)))
    first, second = things[:2]
    question, answer = _asked(first, second), _same(first, second)
    if kind < 0.75:
        return Lesson(draw_things(things, ground), question, "direct", (), answer, things)
    in_words = f"{told([things[int(at)] for at in rng.permutation(3)])} {question}"
    if kind < 0.85:
        return Lesson(None, in_words, "direct", (), answer, things)
    steps = tuple(step.text for step in _steps(first, second))
    return Lesson(None, in_words, "cot", steps, answer, things)


def _lookup(rng: np.random.Generator, n: int) -> Lesson:
    ground, things = _scene(rng, n)
    one = things[0]
    picture = draw_things(things, ground)
    unique = sum(other.colour == one.colour for other in things) == 1
    if unique and rng.random() < 0.5:
        question, answer = f"Which shape is {one.colour}?", one.shape
    else:
        question, answer = f"What colour is the {one.shape}?", one.colour
    return Lesson(picture, question, "direct", (), answer, things)
