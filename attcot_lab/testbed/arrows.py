"""The testbed problem `arrows`: follow arrows over a board, then name the colour you end on.

Everything a diagnostic needs is exact here: which cell each step must be read from, which edit
changes the answer, and how strongly the wording of the question suggests an answer. Four knobs
set the difficulty: the number of hops, the clarity of the picture, the strength of the textual
prior, and whether the rationale states the evidence or only names the cell. Two more serve to plant
failures on purpose: a rationale beside the point, and an end that is known without the walk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise, product
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.problem import Box, Edit, Problem, Step

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 40),
    "purple": (150, 50, 180),
    "orange": (245, 140, 30),
}

SHAPES = ("circle", "square", "triangle", "star")

DIRECTIONS: dict[str, tuple[int, int]] = {
    "up": (0, -1),
    "right": (1, 0),
    "down": (0, 1),
    "left": (-1, 0),
}

CELL = 32
"""Pixels per cell side."""

PATCH = 8
"""Pixels per side of the patches that share one colour cast."""

_GROUND = (236, 236, 230)

_LINE = (200, 200, 194)

_INK = (20, 20, 20)


@dataclass(frozen=True)
class Cell:
    """What stands in one cell: a shape, its colour, and where its arrow points."""

    colour: str
    shape: str
    direction: str


Board = dict[tuple[int, int], Cell]
"""(column, row) → cell."""


def cast_field(rng: np.random.Generator, size: int, noise: float) -> NDArray[np.float64]:
    """A colour cast for a board of `size` cells a side; shape (pixels, pixels, 3), grey levels."""
    patches = size * CELL // PATCH
    cast = rng.normal(0.0, 1.0, (patches, patches, 3)) * noise
    return cast.repeat(PATCH, axis=0).repeat(PATCH, axis=1)


def draw_board(board: Board, size: int, cast: NDArray[np.float64]) -> Image.Image:
    """Draw a board and add `cast`; two boards under one cast differ only where their cells do."""
    return Image.fromarray(add_cast(board_pixels(board, size), cast), "RGB")


def board_pixels(board: Board, size: int) -> NDArray[np.uint8]:
    """The crisp picture of a board; shape (pixels, pixels, 3)."""
    rows = [
        np.concatenate([_tile(board[column, row]) for column in range(size)], axis=1)
        for row in range(size)
    ]
    return np.concatenate(rows, axis=0)


def read_board(image: Image.Image) -> Board:
    """The board that a picture shows: at every cell the tile that is nearest to it."""
    cells = [Cell(*one) for one in product(COLOURS, SHAPES, DIRECTIONS)]
    tiles = np.stack([_tile(cell) for cell in cells]).astype(np.int64)
    pixels = np.asarray(image.convert("RGB"), dtype=np.int64)
    found: Board = {}
    for column, row in product(range(image.width // CELL), range(image.height // CELL)):
        own = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
        found[column, row] = cells[int(np.abs(tiles - own).sum(axis=(1, 2, 3)).argmin())]
    return found


def add_cast(pixels: NDArray[np.uint8], cast: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Add a colour cast and clip to the range of a picture."""
    return np.clip(np.rint(pixels + cast), 0, 255).astype(np.uint8)


@cache
def _tile(cell: Cell) -> NDArray[np.uint8]:
    image = Image.new("RGB", (CELL, CELL), _GROUND)
    draw = ImageDraw.Draw(image)
    draw.line([(0, 0), (CELL, 0)], fill=_LINE)
    draw.line([(0, 0), (0, CELL)], fill=_LINE)
    draw_shape(draw, 11, 11, cell.shape, COLOURS[cell.colour])
    _draw_arrow(draw, 24, 24, cell.direction)
    return np.asarray(image)


def draw_shape(
    draw: ImageDraw.ImageDraw, x: int, y: int, shape: str, colour: tuple[int, int, int]
) -> None:
    """Draw a shape of about 17 pixels around ``(x, y)``."""
    if shape == "circle":
        draw.ellipse([x - 8, y - 8, x + 8, y + 8], fill=colour)
    elif shape == "square":
        draw.rectangle([x - 7, y - 7, x + 7, y + 7], fill=colour)
    elif shape == "triangle":
        draw.polygon([(x, y - 8), (x + 8, y + 7), (x - 8, y + 7)], fill=colour)
    else:
        angles = np.pi * (np.arange(10) / 5 - 0.5)
        radii = np.where(np.arange(10) % 2 == 0, 9.0, 4.5)
        points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
        draw.polygon([(float(px), float(py)) for px, py in points], fill=colour)


def _draw_arrow(draw: ImageDraw.ImageDraw, x: int, y: int, direction: str) -> None:
    dx, dy = DIRECTIONS[direction]
    tip, tail = (x + 6 * dx, y + 6 * dy), (x - 6 * dx, y - 6 * dy)
    neck = (x + dx, y + dy)
    draw.line([tail, neck], fill=_INK, width=3)
    head = [tip, (neck[0] + 5 * dy, neck[1] + 5 * dx), (neck[0] - 5 * dy, neck[1] - 5 * dx)]
    draw.polygon(head, fill=_INK)


T = TypeVar("T")

Split = Literal["train", "test", "pretrain"]

_SPLITS: dict[Split, int] = {"train": 0, "test": 1, "pretrain": 2}


NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix")
"""The people that questions name; each has a habitual answer, which is the textual prior."""


def habits(answers: Sequence[T]) -> dict[str, T]:
    """Person -> habitual answer; with fewer answers than people some share one."""
    return {name: answers[at % len(answers)] for at, name in enumerate(NAMES)}


def item_rng(seed: int, split: Split, index: int) -> np.random.Generator:
    """The randomness of one item, which depends on nothing else."""
    return np.random.default_rng([seed, _SPLITS[split], index])


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def draw_answer(
    rng: np.random.Generator, habitual: T, prior: float | None, answers: Sequence[T]
) -> T:
    """The habitual answer in a share `prior` of the draws, else one of the others.

    ``None`` means balanced: the answer does not depend on the habit.
    """
    share = 1 / len(answers) if prior is None else prior
    if rng.random() < share:
        return habitual
    return pick(rng, [answer for answer in answers if answer != habitual])


def check_count(n: int) -> None:
    """Refuse a negative number of problems.

    Raises:
        ProblemError: If `n` is negative.
    """
    if n < 0:
        raise ProblemError(f"Cannot generate {n} problems; ask for 0 or more.")


def check_clarity(noise: float, prior: float | None) -> None:
    """Check the two knobs that all generators have.

    Raises:
        ProblemError: If noise is negative or the prior no share.
    """
    if noise < 0:
        raise ProblemError(f"Noise is {noise}; it is a standard deviation, at least 0.")
    if prior is not None and not 0 <= prior <= 1:
        raise ProblemError(f"Prior is {prior}; it is a share between 0 and 1, or None.")


HABITS = habits(tuple(COLOURS))
"""Courier → the colour at which that courier habitually ends: the textual prior."""


Path = list[tuple[int, int]]


@dataclass(frozen=True)
class ArrowsConfig:
    """The knobs of `arrows`.

    Attributes:
        size: Cells per side of the board; a cell is 32 pixels wide.
        hops: Arrows to follow, so the rationale has ``hops + 1`` steps.
        noise: Standard deviation, in grey levels of 255, of a random colour cast on every 8x8
            pixel patch; 0 is a crisp picture.
        prior: Share of items whose answer is the named courier's habitual colour; ``None``
            means balanced, that is independent of the name.
        states_evidence: Whether the last step says the colour, or only names the cell.
        relevant: Whether the rationale follows the walk that is asked about, or another one on
            the same board: then it is true, has the same form, and is beside the point.
        end: (column, row) in which every walk that is asked about ends, so that the answer can be
            read without following an arrow; ``None`` for anywhere.

    Raises:
        ProblemError: If a knob is out of range.
    """

    size: int = 3
    hops: int = 2
    noise: float = 0.0
    prior: float | None = None
    states_evidence: bool = False
    relevant: bool = True
    end: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 2 <= self.size <= 9:
            raise ProblemError(f"Board size is {self.size}; choose 2 to 9 cells per side.")
        if not 1 <= self.hops <= self.size * self.size - 2:
            raise ProblemError(
                f"{self.hops} hops do not fit on a {self.size}x{self.size} board with a cell "
                f"left for the control edit; choose 1 to {self.size * self.size - 2}."
            )
        if self.end is not None and not all(0 <= place < self.size for place in self.end):
            raise ProblemError(
                f"Walks are to end in {self.end}, which is not on a {self.size}x{self.size} board; "
                f"give (column, row) below {self.size}, or None."
            )
        check_clarity(self.noise, self.prior)


def generate_arrows(
    n: int, config: ArrowsConfig | None = None, *, seed: int = 0, split: Split = "test"
) -> list[Problem]:
    """Generate `n` problems; the i-th depends only on `config`, `seed`, `split` and i.

    Raises:
        ProblemError: If `n` is negative or a knob is out of range.
    """
    check_count(n)
    config = config or ArrowsConfig()
    return [_generate_one(index, config, seed, split) for index in range(n)]


def walk(board: Board, start: tuple[int, int], hops: int) -> list[tuple[int, int]]:
    """Follow `hops` arrows from `start`; the (column, row) cells visited, start included."""
    path = [start]
    for _ in range(hops):
        column, row = path[-1]
        dx, dy = DIRECTIONS[board[column, row].direction]
        path.append((column + dx, row + dy))
    return path


def solve(board: Board, start: tuple[int, int], hops: int) -> str:
    """The answer, read from the board: the colour on which the walk ends."""
    return board[walk(board, start, hops)[-1]].colour


def _generate_one(index: int, config: ArrowsConfig, seed: int, split: Split) -> Problem:
    rng = item_rng(seed, split, index)
    courier = pick(rng, list(HABITS))
    board, path, told = _random_board(rng, config)
    start, end = path[0], path[-1]
    board[end] = replace(
        board[end], colour=draw_answer(rng, HABITS[courier], config.prior, tuple(COLOURS))
    )
    answer = solve(board, start, config.hops)

    off_path = [cell for cell in board if cell not in path]
    control_cell = pick(rng, off_path)
    # The control edit recolours the same shape, so that it changes as many pixels as the twin.
    board[control_cell] = replace(board[control_cell], shape=board[end].shape)
    cast = cast_field(rng, config.size, config.noise)

    def edited(kind: Literal["twin", "control"], cell: tuple[int, int]) -> Edit:
        changed = dict(board)
        others = [colour for colour in COLOURS if colour != board[cell].colour]
        changed[cell] = replace(board[cell], colour=pick(rng, others))
        return Edit(
            kind=kind,
            image=draw_board(changed, config.size, cast),
            answer=solve(changed, start, config.hops),
            steps=_steps(changed, told, config),
            boxes=(cell_box(cell),),
        )

    return Problem(
        id=f"arrows-{split}-{seed}-{index:05d}",
        image=draw_board(board, config.size, cast),
        question=(
            f"{courier} starts at {cell_name(start)} and follows {config.hops} "
            f"{'arrow' if config.hops == 1 else 'arrows'}. On which colour does the walk end?"
        ),
        candidates=tuple(COLOURS),
        answer=answer,
        steps=_steps(board, told, config),
        twin=edited("twin", end),
        control=edited("control", control_cell),
        habitual=HABITS[courier],
        metadata={"courier": courier, "hops": config.hops, "noise": config.noise, "split": split},
    )


def _random_board(rng: np.random.Generator, config: ArrowsConfig) -> tuple[Board, Path, Path]:
    """A board, a walk on it that visits `hops + 1` different cells, and the one that is told."""
    size = config.size
    while True:
        board: Board = {
            (column, row): Cell(
                colour=pick(rng, list(COLOURS)),
                shape=pick(rng, SHAPES),
                direction=pick(rng, _inward(column, row, size)),
            )
            for row in range(size)
            for column in range(size)
        }
        start = (int(rng.integers(size)), int(rng.integers(size)))
        path = walk(board, start, config.hops)
        if len(set(path)) < len(path) or config.end not in (None, path[-1]):
            continue
        if config.relevant:
            return board, path, path
        others = [walk(board, other, config.hops) for other in board if other != start]
        others = [o for o in others if len(set(o)) == len(o) and o[-1] != path[-1]]
        if others:
            return board, path, pick(rng, others)


def _inward(column: int, row: int, size: int) -> list[str]:
    return [
        name
        for name, (dx, dy) in DIRECTIONS.items()
        if 0 <= column + dx < size and 0 <= row + dy < size
    ]


def _steps(board: Board, path: Sequence[tuple[int, int]], config: ArrowsConfig) -> tuple[Step, ...]:
    steps = [
        Step(
            f"{cell_name(here)} points {board[here].direction} to {cell_name(there)}.",
            (cell_box(here),),
        )
        for here, there in pairwise(path)
    ]
    end = path[-1]
    last = f"{cell_name(end)} is the end."
    if config.states_evidence:
        last = f"{cell_name(end)} is the end, a {board[end].colour} {board[end].shape}."
    return (*steps, Step(last, (cell_box(end),)))


def cell_name(cell: tuple[int, int]) -> str:
    """``(0, 0)`` is ``a1``, the top left; letters count columns, numbers rows."""
    return f"{chr(ord('a') + cell[0])}{cell[1] + 1}"


def cell_box(cell: tuple[int, int]) -> Box:
    """The pixel box of a cell."""
    column, row = cell
    return (column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL)
