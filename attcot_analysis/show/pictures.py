"""Figures of the pictures themselves: a problem with its evidence boxes and its edits."""

from collections.abc import Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.problems import Box, Problem
from attcot_analysis.show.style import INK, PAPER, figure_style, new_figure

_WIDTH = 2.15


def problem_pictures(problems: Problem | Sequence[Problem]) -> Figure:
    """Draw problems, one row each: the picture with its evidence boxes, the twin, the control.

    A solid box is the evidence of the step whose number it carries; a dashed box is where an edit
    has changed the picture. Titles say the right answer of each picture.

    Args:
        problems: One problem or several.

    Raises:
        ShowError: If there is no problem to draw.
    """
    shown = [problems] if isinstance(problems, Problem) else list(problems)
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
