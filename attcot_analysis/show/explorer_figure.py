"""The still picture of an explorer: the maps of one selection, and the curves over the text."""

from io import BytesIO
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from attcot_analysis.show.explorer_choice import PlaneKey, Selection
from attcot_analysis.show.explorer_data import ExplorerRecord
from attcot_analysis.show.explorer_planes import is_signed, plane_cells, plane_weights
from attcot_analysis.show.explorer_spec import arm_of, commitment_arrays, stated_answer
from attcot_analysis.show.figures import figure_png
from attcot_analysis.show.overlay import backdrop, blend, colorize, png_bytes
from attcot_analysis.show.style import (
    DIVERGING,
    GRID,
    INK,
    SEQUENTIAL,
    arm_style,
    figure_style,
    new_figure,
    styled_arms,
)

_SIDE = 240
_OPACITY = 0.65


def explorer_figure(
    record: ExplorerRecord, selection: Selection, models: tuple[int, ...] | None = None
) -> Figure:
    """Draw what an explorer shows for a selection.

    Args:
        record: The record.
        selection: What is selected.
        models: Indices of one model, or of two to compare; default, the first two.

    Returns:
        Above, the maps of the token on one colour scale, and with two models their difference;
        below, over the tokens of the text, visual mass and the probability of the stated answer
        when an answer is forced.
    """
    chosen = tuple(range(len(record.models)))[:2] if models is None else models
    keys = [PlaneKey(selection.source, at, selection.layer, selection.head) for at in chosen]
    weights = [plane_weights(record, key) for key in keys]
    cells = [plane_cells(record, one) for one in weights]
    labels = [record.models[at].label for at in chosen]
    arms = [arm_of(label) for label in labels]
    forced = [commitment_arrays(record, record.models[at])[0] for at in chosen]
    answer = stated_answer(record) or record.problem.answer
    rows = 2 + any(p is not None for p in forced)
    with figure_style(), styled_arms(arms):
        figure = new_figure(7.2, 2.65 + 1.25 * (rows - 1))
        ratios = [2.2] + [1.0] * (rows - 1)
        parts: Any = figure.subfigures(rows, 1, height_ratios=ratios)
        shown = list(record.parts[record.part_of(selection)])
        _maps(parts[0], record, selection, [one[shown].mean(axis=0) for one in cells], labels)
        masses = [one.sum(axis=1, dtype=np.float64) for one in weights]
        ax = parts[1].subplots()
        _curve(ax, record, masses, arms, labels, selection.token)
        ax.set_ylabel("mass")
        if rows == 3:
            after = steps_before(record.steps)
            number = record.problem.candidates.index(answer)
            nothing = np.full(len(after), np.nan)
            lines = [
                nothing if p is None else p[np.minimum(after, len(p) - 1), number] for p in forced
            ]
            ax = parts[2].subplots()
            _curve(ax, record, lines, arms, labels, selection.token, steps=True)
            ax.set_ylim(-0.03, 1.03)
            ax.set_ylabel(f"p({answer})"[:18])
            ax.set_xlabel("token of the text")
    return figure


def explorer_png(record: ExplorerRecord, selection: Selection) -> bytes:
    """The figure as a small PNG of 256 colours, for viewers that strip scripts."""
    buffer = BytesIO(figure_png(explorer_figure(record, selection), dpi=90))
    image = Image.open(buffer).convert("RGB")
    return png_bytes(
        image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE),
        compress_level=9,
    )


def steps_before(steps: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Per token, how many steps are finished when it is predicted, ``(R,)``."""
    last = {step: at for at, step in enumerate(steps) if step}
    ends = np.array(sorted(last.values()), dtype=np.int64)
    return np.searchsorted(ends, np.arange(len(steps)), side="left")


def _maps(
    part: SubFigure,
    record: ExplorerRecord,
    selection: Selection,
    maps: list[npt.NDArray[np.float32]],
    labels: list[str],
) -> None:
    text = selection.text.strip() or "line end"
    place = f", step {selection.step}" if selection.step else ""
    what = f"token {selection.token} “{text}”{place}"
    if selection.unit == "step":
        what = f"step {selection.step}, mean over its tokens"
    part.suptitle(
        f"{record.problem.id}: {what}; "
        f"{selection.source.replace('_', ' ')}, layer {selection.layer}, head {selection.head}",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    drawn = [np.nan_to_num(one) for one in maps]
    top = max(float(np.abs(one).max()) for one in drawn)
    signed = is_signed(record, selection.source)
    colours = [
        colorize(one, -top if signed else 0.0, top, DIVERGING if signed else SEQUENTIAL)
        for one in drawn
    ]
    titles = [f"{label}: 0 to {top:.2g}" for label in labels]
    if len(drawn) == 2:
        change = drawn[1] - drawn[0]
        limit = float(np.abs(change).max())
        colours.append(colorize(change, -limit, limit, DIVERGING))
        titles.append(f"difference: ±{limit:.2g}")
    axs = part.subplots(1, 1 + len(colours) if len(colours) == 1 else len(colours), squeeze=False)[
        0
    ]
    ground, size = backdrop(record.picture, _SIDE), record.picture.size
    pictures = [
        blend(ground, one, _OPACITY, size, record.boxes[selection.token]) for one in colours
    ]
    if len(colours) == 1:
        pictures.insert(0, record.picture)
        titles.insert(0, "picture")
    for ax, picture, title in zip(axs, pictures, titles, strict=True):
        ax.imshow(np.asarray(picture), interpolation="nearest")
        ax.set_title(title, fontsize=8.5)
        ax.axis("off")


def _curve(
    ax: Axes,
    record: ExplorerRecord,
    lines: list[npt.NDArray[np.float64]],
    arms: list[str],
    labels: list[str],
    token: int,
    *,
    steps: bool = False,
) -> None:
    places = np.arange(len(record.tokens))
    for number, run in groupby(places, key=lambda at: record.steps[at]):
        tokens = list(run)
        if number:
            ax.axvspan(
                tokens[0] - 0.5, tokens[-1] + 0.5, color=GRID, alpha=0.1 + 0.1 * (number % 2), lw=0
            )
            if not steps:
                ax.annotate(
                    f"step {number}",
                    ((tokens[0] + tokens[-1]) / 2, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(0, -9),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7.5,
                )
    for line, arm, label in zip(lines, arms, labels, strict=True):
        look = arm_style(arm)
        kind = "steps-mid" if steps else "default"
        ax.plot(places, line, color=look.color, ls=look.line, drawstyle=kind, label=label)
    ax.axvline(token, color=INK, lw=1)
    ax.set_xlim(-0.5, len(places) - 0.5)
    if len(lines) > 1 and not steps:
        ax.legend(loc="lower left", ncols=2, fontsize=7.5)
