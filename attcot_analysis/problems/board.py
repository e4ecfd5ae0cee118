"""Boards of cells with a coloured shape and an arrow each, and how they are drawn."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

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
