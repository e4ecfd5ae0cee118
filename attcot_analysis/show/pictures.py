"""Figures of the pictures themselves: a problem with its evidence boxes, image tokens and edits."""

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.models import TokenGrid
from attcot_analysis.problems import Box, Problem
from attcot_analysis.problems.problem import check_boxes
from attcot_analysis.show.style import INK, PAPER, figure_style, new_figure

_WIDTH = 2.15
_LARGE = 3.2
_COVERED = "#0173b2"
_WRITTEN = 64
"""Up to so many covered tokens carry a number; more would be too small to read."""


def problem_pictures(problems: Problem | Sequence[Problem]) -> Figure:
    """Draw problems, one row per picture: it with its evidence boxes, the twin, the control.

    A solid box is the evidence of the step whose number it carries; a dashed box is where an edit
    has changed the picture. Titles say the right answer of each picture.

    Args:
        problems: One problem or several.

    Raises:
        ShowError: If there is no problem to draw.
    """
    given = [problems] if isinstance(problems, Problem) else list(problems)
    shown = [one if one.n_images == 1 else one.alone(n) for one in given for n in one.numbers]
    if not shown:
        raise ShowError("There are no problems to draw; give at least one.")
    columns = max(1 + sum(edit is not None for edit in (p.twin, p.control)) for p in shown)
    ratio = max(problem.image.height / problem.image.width for problem in shown)
    with figure_style():
        figure = new_figure(_WIDTH * columns + 0.1, (_WIDTH * ratio + 0.3) * len(shown))
        axs = figure.subplots(len(shown), columns, squeeze=False)
        for row, problem in zip(axs, shown, strict=True):
            _picture(row[0], problem.image, f"picture: {problem.answer}")
            for number, step in enumerate(problem.steps, start=1):
                for box in step.boxes:
                    _box(row[0], box, problem.image, str(number))
            edits = [edit for edit in (problem.twin, problem.control) if edit is not None]
            for ax, edit in zip(row[1:], edits, strict=False):
                _picture(ax, edit.image, f"{edit.kind}: {edit.answer}")
                for box in edit.boxes:
                    _box(ax, box, edit.image, "")
            for ax in row[1 + len(edits) :]:
                ax.set_visible(False)
    return figure


def region_picture(image: Image.Image, grid: TokenGrid, boxes: Sequence[Sequence[Box]]) -> Figure:
    """Draw a picture with its evidence boxes, and how far they cover each image token.

    Args:
        image: The original picture.
        grid: Its image tokens.
        boxes: Per step the evidence boxes, in pixels of the picture; each carries the number of
            its step.

    Returns:
        The figure: the picture with its boxes, and beside it its image tokens, the more opaque
        the more of a token lies in any box; the number in a token is that share.

    Raises:
        ShowError: If the grid is of a picture of another size.
    """
    if grid.image_size != image.size:
        raise ShowError(
            f"The grid of image tokens is of a picture of {grid.image_size} pixels, this one has "
            f"{image.size}; encode this picture and take the layout's grid."
        )
    boxes = [check_boxes(list(step), "boxes") for step in boxes]
    covered = grid.coverage([box for step in boxes for box in step])
    ratio = image.height / image.width
    with figure_style():
        figure = new_figure(2 * _LARGE + 0.1, _LARGE * ratio + 0.3)
        axs = figure.subplots(1, 2)
        _picture(axs[0], image, "evidence boxes, by step")
        _picture(axs[1], image.convert("L").convert("RGB"), "image tokens, share in a box")
        cells = [Rectangle((x0, y0), x1 - x0, y1 - y0) for x0, y0, x1, y1 in grid.boxes]
        shades = [to_rgba(_COVERED, 0.75 * share) for share in covered]
        axs[1].add_collection(
            PatchCollection(cells, facecolors=shades, edgecolors=INK, linewidths=0.6)
        )
        if (covered > 0).sum() <= _WRITTEN:
            for (x0, y0, x1, y1), share in zip(grid.boxes, covered, strict=True):
                if share > 0:
                    place = (x0 + x1) / 2, (y0 + y1) / 2
                    _number(axs[1], place, f"{share:.2f}".rstrip("0").rstrip("."))
        for number, step in enumerate(boxes, start=1):
            for box in step:
                _box(axs[0], box, image, str(number))
    return figure


def _number(ax: Axes, place: tuple[float, float], text: str) -> None:
    ax.text(*place, text, ha="center", va="center", fontsize=8, fontweight="bold", color=PAPER)


def _picture(ax: Axes, image: Image.Image, title: str) -> None:
    width, height = image.size
    ax.imshow(np.asarray(image), extent=(0, width, height, 0), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.set_title(title)


def _box(ax: Axes, box: Box, image: Image.Image, name: str) -> None:
    x0, y0, x1, y1 = box
    inset = max(image.size) / 160
    # White on dark: seen on any picture, where one colour would be lost among the picture's own.
    dark = [patheffects.Stroke(linewidth=5.5, foreground=INK), patheffects.Normal()]
    ax.add_patch(
        Rectangle(
            (x0 + inset, y0 + inset),
            x1 - x0 - 2 * inset,
            y1 - y0 - 2 * inset,
            fill=False,
            edgecolor=PAPER,
            linewidth=2.2,
            linestyle="-" if name else (0, (2.5, 1.5)),
            path_effects=dark,
        )
    )
    if name:
        ax.annotate(
            name,
            (x1, y1),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=9,
            fontweight="bold",
            color=INK,
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": PAPER, "edgecolor": INK},
        )
