"""The problems of testbed B: crisp pictures, several pieces of evidence, nothing given away.

Three kinds: `relation` (which way from one piece to another), `walk` (the colour of the piece next
to another) and `bars` (how far the highest of some bars stands above another). A rationale reads
one thing per step, and before its last step the text neither states nor determines the answer
(`possible_answers` decides that by going through every picture that the text allows). Each item
also has its picture in words, from which a language model can learn to reason without a picture.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, TypeVar, get_args

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
    cell_box,
    cell_name,
    check_clarity,
    check_count,
    draw_answer,
    habits,
    item_rng,
    pick,
)
from attcot_lab.testbed.charts import HIGHEST, UNIT, column_box, draw_chart

T = TypeVar("T")
Place = tuple[int, int]
"""(column, row), counted from 0 at the top left."""
Form = Literal["words", "letters", "open"]

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
_SIZES = {
    "circle": 0.78,
    "square": 0.81,
    "triangle": 1.01,
    "star": 1.03,
    "diamond": 1.05,
    "cross": 0.94,
}
"""Radius for an area of 1.9 squares of the radius 1, so that edits of any piece are as large."""
SIDE = 3
"""Cells per side of a scene."""
WAYS: dict[str, Place] = {
    "north": (0, -1),
    "northeast": (1, -1),
    "east": (1, 0),
    "southeast": (1, 1),
    "south": (0, 1),
    "southwest": (-1, 1),
    "west": (-1, 0),
    "northwest": (-1, -1),
}
SIDES: dict[str, Place] = {
    "right of": (1, 0),
    "left of": (-1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
_PLACES = [(column, row) for row in range(SIDE) for column in range(SIDE)]
_GROUND = (244, 244, 240)
_LINE = (214, 214, 208)
_FINE = 4
"""Pictures are drawn so many times larger and then made smaller, so that edges are smooth."""


class Piece(NamedTuple):
    """A coloured shape."""

    shape: str
    colour: str


Scene = dict[Place, Piece]


@dataclass(frozen=True)
class _Knobs:
    """What all kinds have.

    Attributes:
        noise: Standard deviation, in grey levels of 255, of a colour cast on every 8×8 pixels.
        prior: Share of items whose answer is the named person's habitual one; ``None`` means
            balanced.
        form: ``"words"``: the answer is one of a closed set of words; ``"letters"``: four options
            in the question, answered with a letter; ``"open"``: words, without a closed set.
    """

    noise: float = 0.0
    prior: float | None = None
    form: Form = "words"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.form not in get_args(Form):
            raise ProblemError(f"Form is {self.form!r}; choose one of {', '.join(get_args(Form))}.")
        check_clarity(self.noise, self.prior)


@dataclass(frozen=True)
class RelationConfig(_Knobs):
    """The knobs of `relation`: those of all kinds, and how finely a rationale reads.

    Attributes:
        by: ``"cell"``: a step per piece (K = 2); ``"line"``: its column and its row each (K = 4);
            ``"search"``: finding it as well (K = 6).

    Raises:
        ProblemError: If a knob is out of range.
    """

    by: Literal["cell", "line", "search"] = "line"

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.by not in ("cell", "line", "search"):
            raise ProblemError(f"Steps go by {self.by!r}; choose cell, line or search.")


@dataclass(frozen=True)
class WalkConfig(_Knobs):
    """The knobs of `walk`: those of all kinds.

    Raises:
        ProblemError: If a knob is out of range.
    """


@dataclass(frozen=True)
class BarsConfig(_Knobs):
    """The knobs of `bars`: those of all kinds, and how many bars are read.

    Attributes:
        bars: Bars that are asked about, K = 2 to 6.

    Raises:
        ProblemError: If a knob is out of range.
    """

    bars: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not 2 <= self.bars <= len(COLOURS):
            raise ProblemError(f"{self.bars} bars are asked about; choose 2 to {len(COLOURS)}.")


class _World(NamedTuple):
    """An item's picture, before it is drawn and asked about.

    Attributes:
        picture: Without noise.
        words: What there is to see, a sentence each.
        answer: The answer.
        steps: The rationale.
    """

    picture: Image.Image
    words: list[str]
    answer: str
    steps: tuple[Step, ...]


class _Drawn(NamedTuple):
    question: str
    own: _World
    twin: _World
    twin_boxes: tuple[Box, ...]
    control: _World
    control_boxes: tuple[Box, ...]
    columns: str = ""


def generate_relation(
    n: int, config: RelationConfig | None = None, *, seed: int = 0, split: Split = "test"
) -> list[Problem]:
    """Generate `n` problems "which way is it from one piece to another?".

    Raises:
        ProblemError: If `n` is negative.
    """
    config = config or RelationConfig()
    return _generate("relation", n, config, tuple(WAYS), _relation(config), seed, split)


def generate_walk(
    n: int, config: WalkConfig | None = None, *, seed: int = 0, split: Split = "test"
) -> list[Problem]:
    """Generate `n` problems "which colour is the piece right of another?".

    Raises:
        ProblemError: If `n` is negative.
    """
    return _generate("walk", n, config or WalkConfig(), tuple(COLOURS), _walk, seed, split)


def generate_bars(
    n: int, config: BarsConfig | None = None, *, seed: int = 0, split: Split = "test"
) -> list[Problem]:
    """Generate `n` problems "by how much is the highest of some bars above another?".

    Raises:
        ProblemError: If `n` is negative.
    """
    config = config or BarsConfig()
    answers = tuple(str(value) for value in range(1, HIGHEST))
    return _generate("bars", n, config, answers, _bars(config), seed, split)


_Draw = Callable[[np.random.Generator, str], _Drawn | None]
"""Tries to draw an item with a wanted answer."""


def _generate(
    kind: str,
    n: int,
    config: _Knobs,
    answers: tuple[str, ...],
    draw: _Draw,
    seed: int,
    split: Split,
) -> list[Problem]:
    check_count(n)
    habit = habits(answers)
    problems = []
    for index in range(n):
        rng = item_rng(seed, split, index)
        person = pick(rng, list(habit))
        wanted = draw_answer(rng, habit[person], config.prior, answers)
        drawn = None
        while drawn is None or _given_away(drawn):
            drawn = draw(rng, wanted)
        cast = cast_field(rng, SIDE, config.noise)
        shown = _shown(rng, config.form, answers, [drawn.own.answer, drawn.twin.answer])

        def image(world: _World, cast: NDArray[np.float64] = cast) -> Image.Image:
            return Image.fromarray(add_cast(np.asarray(world.picture), cast), "RGB")

        def edit(
            name: Literal["twin", "control"],
            world: _World,
            boxes: tuple[Box, ...],
            image: Callable[[_World], Image.Image] = image,
            shown: Mapping[str, str] = shown,
        ) -> Edit:
            return Edit(name, image(world), shown[world.answer], world.steps, boxes)

        options = " ".join(f"{letter}) {word}" for word, letter in shown.items())
        asked = f"{person} asks: {drawn.question}"
        problems.append(
            Problem(
                id=f"{kind}-{split}-{seed}-{index:05d}",
                image=image(drawn.own),
                question=f"{asked} {options}" if config.form == "letters" else asked,
                candidates=() if config.form == "open" else tuple(shown.values()),
                answer=shown[drawn.own.answer],
                steps=drawn.own.steps,
                twin=edit("twin", drawn.twin, drawn.twin_boxes),
                control=edit("control", drawn.control, drawn.control_boxes),
                habitual=shown.get(habit[person]),
                metadata={
                    "kind": kind,
                    "person": person,
                    "noise": config.noise,
                    "split": split,
                    "words": " ".join(drawn.own.words),
                    "columns": drawn.columns,
                },
            )
        )
    return problems


def _given_away(drawn: _Drawn) -> bool:
    """Whether the answer is known before the last step, on the picture or on its twin."""
    return any(
        len(possible_answers(drawn.question, [step.text for step in world.steps[:-1]])) < 2
        for world in (drawn.own, drawn.twin)
    )


def _shown(
    rng: np.random.Generator, form: Form, answers: Sequence[str], needed: Sequence[str]
) -> dict[str, str]:
    """Answer → how it is given: itself, or the letter of one of four options."""
    if form != "letters":
        return {answer: answer for answer in answers}
    others = [answer for answer in answers if answer not in needed]
    chosen = list(dict.fromkeys(needed))
    chosen += shuffled(rng, others)[: 4 - len(chosen)]
    return dict(zip(shuffled(rng, chosen), "ABCD", strict=True))


def _relation(config: RelationConfig) -> _Draw:
    def draw(rng: np.random.Generator, wanted: str) -> _Drawn | None:
        scene = random_scene(rng, 5)
        start, end = list(scene)[:2]
        if _way(start, end) != wanted:
            return None
        free = [place for place in _PLACES if place not in scene]
        twins = [new for new in free if _near(end, new) and _way(start, new) != wanted]
        controls = [(old, new) for old in list(scene)[2:] for new in free if _near(old, new)]
        if not twins or not controls:
            return None
        named = scene[start].shape, scene[end].shape

        def world(moves: Sequence[tuple[Place, Place]] = ()) -> _World:
            changed = {dict(moves).get(place, place): piece for place, piece in scene.items()}
            at = {piece.shape: place for place, piece in changed.items()}
            steps = tuple(
                Step(text, (cell_box(at[shape]),))
                for shape in named
                for text in _located(shape, at[shape], config.by)
            )
            answer = _way(at[named[0]], at[named[1]])
            return _World(draw_pieces(changed), _words(rng, changed), answer, steps)

        twin, control = (end, pick(rng, twins)), pick(rng, controls)
        return _Drawn(
            f"which way is it from the {named[0]} to the {named[1]}?",
            world(),
            world([twin]),
            tuple(map(cell_box, twin)),
            world([control]),
            tuple(map(cell_box, control)),
        )

    return draw


def _walk(rng: np.random.Generator, wanted: str) -> _Drawn | None:
    scene = random_scene(rng, 6)
    start, end, other = list(scene)[:3]
    side = next((name for name, step in SIDES.items() if _moved(start, step) == end), None)
    if side is None:
        return None
    scene[end] = scene[end]._replace(colour=wanted)

    def world(at: Place | None = None, colour: str = "") -> _World:
        changed = {**scene, **({at: scene[at]._replace(colour=colour)} if at else {})}
        steps = (
            Step(f"The {scene[start].shape} is in {cell_name(start)}.", (cell_box(start),)),
            Step(f"{side.capitalize()} {cell_name(start)} is {cell_name(end)}.", (cell_box(end),)),
            Step(f"The piece in {cell_name(end)} is {changed[end].colour}.", (cell_box(end),)),
        )
        return _World(draw_pieces(changed), _words(rng, changed), changed[end].colour, steps)

    def another(at: Place) -> str:
        return pick(rng, [colour for colour in COLOURS if colour != scene[at].colour])

    return _Drawn(
        f"which colour is the piece {side} the {scene[start].shape}?",
        world(),
        world(end, another(end)),
        (cell_box(end),),
        world(other, another(other)),
        (cell_box(other),),
    )


def _bars(config: BarsConfig) -> _Draw:
    def answer(chart: Mapping[str, int], named: Sequence[str]) -> int:
        return max(chart[colour] for colour in named[:-1]) - chart[named[-1]]

    def draw(rng: np.random.Generator, wanted: str) -> _Drawn | None:
        colours = shuffled(rng, list(COLOURS))
        chart = {colour: int(rng.integers(1, HIGHEST + 1)) for colour in colours}
        named = shuffled(rng, colours)[: config.bars]
        others = [colour for colour in colours if colour not in named] or [named[0]]
        right = answer(chart, named)
        if str(right) != wanted:
            return None
        moves = [
            (colour, value)
            for colour in colours
            for value in (chart[colour] - 1, chart[colour] + 1)
            if 1 <= value <= HIGHEST and 1 <= answer({**chart, colour: value}, named) < HIGHEST
        ]
        twins = [one for one in moves if answer({**chart, **dict([one])}, named) != right]
        controls = [
            one
            for one in moves
            if answer({**chart, **dict([one])}, named) == right and one[0] in others
        ]
        if not twins or not controls:
            return None

        def world(*move: tuple[str, int]) -> _World:
            changed = {**chart, **dict(move)}
            steps = tuple(
                Step(f"The {one} bar reaches {changed[one]}.", (_filled(colours, changed, one),))
                for one in named
            )
            said = [f"The {one} bar reaches {value}." for one, value in changed.items()]
            words = shuffled(rng, said)
            flat = cast_field(rng, SIDE, 0.0)
            return _World(
                draw_chart(changed, "bar", flat), words, str(answer(changed, named)), steps
            )

        *group, last = named
        first = " and ".join([", ".join(group[:-1]), group[-1]] if group[1:] else group)
        first = f"the highest of the {first} bars" if group[1:] else f"the {first} bar"
        twin, control = pick(rng, twins), pick(rng, controls)
        return _Drawn(
            f"by how much is {first} higher than the {last} one?",
            world(),
            world(twin),
            (bar_box(colours, twin[0]),),
            world(control),
            (bar_box(colours, control[0]),),
            " ".join(colours),
        )

    return draw


def shuffled(rng: np.random.Generator, items: Sequence[T]) -> list[T]:
    """The items in a random order."""
    return [items[int(at)] for at in rng.permutation(len(items))]


def random_scene(rng: np.random.Generator, n: int) -> Scene:
    """`n` pieces of different shapes in cells of their own, in the order that they were drawn."""
    places = shuffled(rng, _PLACES)[:n]
    shapes = shuffled(rng, SHAPES)[:n]
    return {
        place: Piece(shape, pick(rng, list(COLOURS)))
        for place, shape in zip(places, shapes, strict=True)
    }


def _words(rng: np.random.Generator, scene: Scene) -> list[str]:
    return shuffled(rng, [piece_sentence(place, piece) for place, piece in scene.items()])


def piece_sentence(place: Place, piece: Piece) -> str:
    """What there is to see of one piece."""
    return f"The {piece.shape} in {cell_name(place)} is {piece.colour}."


def _located(shape: str, place: Place, by: str) -> list[str]:
    """The steps that say where a piece is."""
    if by == "cell":
        return [f"The {shape} is in {cell_name(place)}."]
    name = cell_name(place)
    column, row = name[0], name[1:]
    lines = [f"The {shape} is in column {column}.", f"The {shape} is in row {row}."]
    return lines if by == "line" else [f"Look for the {shape}.", *lines]


def _way(start: Place, end: Place) -> str:
    step = (int(np.sign(end[0] - start[0])), int(np.sign(end[1] - start[1])))
    return next(name for name, way in WAYS.items() if way == step)


def _near(one: Place, other: Place) -> bool:
    return max(abs(one[0] - other[0]), abs(one[1] - other[1])) == 1


def _moved(place: Place, step: Place) -> Place:
    return place[0] + step[0], place[1] + step[1]


def _filled(colours: Sequence[str], chart: Mapping[str, int], colour: str) -> Box:
    """The bar itself, from its top to the ground."""
    x0, _, x1, ground = bar_box(colours, colour)
    return x0, ground - UNIT * chart[colour], x1, ground


def bar_box(colours: Sequence[str], colour: str) -> Box:
    """Where a bar stands among the colours from left to right."""
    return column_box(colours.index(colour))


def draw_pieces(scene: Scene) -> Image.Image:
    """The crisp picture of a scene: 3×3 cells of 32 pixels between thin lines."""
    rows = [
        np.concatenate([_tile(scene.get((column, row))) for column in range(SIDE)], axis=1)
        for row in range(SIDE)
    ]
    return Image.fromarray(np.concatenate(rows), "RGB")


@cache
def _tile(piece: Piece | None) -> NDArray[np.uint8]:
    fine = CELL * _FINE
    image = Image.new("RGB", (fine, fine), _GROUND)
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, fine - 1, fine - 1], outline=_LINE, width=_FINE // 2)
    if piece is not None:
        _draw_piece(draw, fine / 2, fine / 2, 0.36 * fine, piece.shape, COLOURS[piece.colour])
    return np.asarray(image.resize((CELL, CELL), Image.Resampling.BOX))


def _draw_piece(
    draw: ImageDraw.ImageDraw, x: float, y: float, r: float, shape: str, fill: tuple[int, int, int]
) -> None:
    """A shape of radius about `r` pixels around ``(x, y)``; all cover as much."""
    r *= _SIZES[shape]
    corners: dict[str, list[tuple[float, float]]] = {
        "square": [(-0.93, -0.93), (0.82, -0.93), (0.82, 0.82), (-0.93, 0.82)],
        "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
        "diamond": [(0, -1.1), (0.75, 0), (0, 1.1), (-0.75, 0)],
        "star": [
            (radius * np.sin(np.pi * at / 5), -radius * np.cos(np.pi * at / 5))
            for at in range(10)
            for radius in [1.12 if at % 2 == 0 else 0.5]
        ],
    }
    if shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    elif shape == "cross":
        draw.rectangle([x - r, y - 0.32 * r, x + r, y + 0.32 * r], fill=fill)
        draw.rectangle([x - 0.32 * r, y - r, x + 0.32 * r, y + r], fill=fill)
    else:
        draw.polygon([(x + r * dx, y + r * dy) for dx, dy in corners[shape]], fill=fill)


def possible_answers(question: str, steps: Sequence[str]) -> set[str]:
    """Every answer that is right in some picture in which all these steps are true.

    Args:
        question: Of a problem of this module, in words.
        steps: Any number of its steps.

    Returns:
        One answer where the text determines it; all of them where it says nothing.

    Raises:
        ProblemError: If it is no question of this module.
    """
    text = " ".join(steps)
    if found := re.search(r"from the (\w+) to the (\w+)\?", question):
        worlds = _placings(text, found.groups())
        return {_way(*places) for places in worlds}
    if found := re.search(r"the piece (.+) the (\w+)\?", question):
        colours = re.findall(r"piece in \w\d is (\w+)\.", text)
        return set(colours[-1:] or COLOURS)
    if found := re.search(r"is the (.+) higher than the (\w+) one", question):
        named = [one for one in re.findall(r"\w+", found[1]) if one in COLOURS] + [found[2]]
        read = dict(re.findall(r"The (\w+) bar reaches (\d)", text))
        values = [[int(read[one])] if one in read else range(1, HIGHEST + 1) for one in named]
        differences = {max(one[:-1]) - one[-1] for one in itertools.product(*values)}
        return {str(value) for value in differences if 1 <= value < HIGHEST}
    raise ProblemError(f"{question!r} is no question of testbed B; give one in words.")


def _placings(text: str, shapes: Sequence[str]) -> Iterator[tuple[Place, Place]]:
    """Where two pieces can be, by what a rationale says of them."""
    for pair in itertools.permutations(_PLACES, 2):
        for shape, place in zip(shapes, pair, strict=True):
            name = cell_name(place)
            column, row = name[0], name[1:]
            said = re.findall(rf"The {shape} is in (?:column (\w)|row (\d)|(\w\d))\.", text)
            if any(
                (c or column, r or row, x or column + row) != (column, row, column + row)
                for c, r, x in said
            ):
                break
        else:
            yield pair
