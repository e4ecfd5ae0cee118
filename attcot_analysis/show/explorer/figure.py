"""The still picture of an explorer: the maps of one selection, and the curves over the text."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from attcot_analysis.show.explorer.choice import PlaneKey, Selection
from attcot_analysis.show.explorer.planes import is_signed, plane_cells, plane_weights
from attcot_analysis.show.explorer.record import ExplorerRecord
from attcot_analysis.show.explorer.spec import arm_of, commitment_arrays
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
    part = list(record.parts[record.part_of(selection)])
    shown = [plane_cells(record, one[part].mean(axis=0, keepdims=True))[0] for one in weights]
    labels = [record.models[at].label for at in chosen]
    arms = [arm_of(label) for label in labels]
    curves = [("mass", [one.sum(axis=1, dtype=np.float64) for one in weights])]
    forced = [commitment_arrays(record, record.models[at])[0] for at in chosen]
    if any(p is not None for p in forced):
        curves.append(_answer_lines(record, forced))
    with figure_style(), styled_arms(arms):
        figure = new_figure(7.2, 2.9 + 1.2 * len(curves))
        parts: Any = figure.subfigures(2, 1, height_ratios=[2.3, 1.1 * len(curves)])
        upper, lower = parts
        _maps(upper, record, selection, shown, labels)
        axs = lower.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
        for ax, (name, lines) in zip(axs, curves, strict=True):
            _curve(ax, record, lines, arms, labels, selection.token, steps=name != "mass")
            ax.set_ylabel(_cut(name, 18))
        axs[0].set_ylim(0, 1.1 * max(float(np.nanmax(line)) for line in curves[0][1]) or 1)
        _name_steps(axs[0], record)
        axs[-1].set_xlabel("token of the text")
        if len(labels) > 1:
            axs[0].legend(loc="lower right", bbox_to_anchor=(1, 1.12), ncols=2, fontsize=7.5)
    return figure


def _answer_lines(
    record: ExplorerRecord, forced: Sequence[npt.NDArray[np.float64] | None]
) -> tuple[str, list[npt.NDArray[np.float64]]]:
    """Per model the probability of the answer that it ends with, over the tokens."""
    after = steps_before(record.steps)
    nothing = np.full(len(after), np.nan)
    lines = [
        nothing if p is None else p[np.minimum(after, len(p) - 1), int(p[-1].argmax())]
        for p in forced
    ]
    return "p(final answer)", lines


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
    text = _cut(selection.text, 24) or "line end"
    place = f", step {selection.step}" if selection.step else ""
    what = f"token {selection.token} “{text}”{place}"
    if selection.unit == "step":
        what = f"step {selection.step}, mean over its tokens"
    source = selection.source.replace("_", " ")
    question = _cut(record.problem.question, 100)
    part.suptitle(
        f"{question}\n{what}; {source}, layer {selection.layer}, head {selection.head}",
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
    names = [_cut(label, 22) for label in labels]
    titles = [f"{name}: {-top if signed else 0:.2g} to {top:.2g}" for name in names]
    if len(drawn) == 2:
        change = drawn[1] - drawn[0]
        limit = float(np.abs(change).max())
        colours.append(colorize(change, -limit, limit, DIVERGING))
        titles.append(f"difference: ±{limit:.2g}")
    ground, boxes = backdrop(record.picture, _SIDE), record.boxes[selection.token]
    pictures = [blend(ground, one, _OPACITY, record.picture.size, boxes) for one in colours]
    if len(pictures) == 1:
        pictures.insert(0, record.picture)
        titles.insert(0, "picture")
    axs = part.subplots(1, len(pictures), squeeze=False)[0]
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
    for step, (first, last) in _spans(record).items():
        ax.axvspan(first - 0.5, last + 0.5, color=GRID, alpha=0.1 + 0.1 * (step % 2), lw=0)
    for line, arm, label in zip(lines, arms, labels, strict=True):
        look = arm_style(arm)
        kind = "steps-mid" if steps else "default"
        name = _cut(label, 32)
        ax.plot(places, line, color=look.color, ls=look.line, drawstyle=kind, label=name)
    ax.axvline(token, color=INK, lw=1)
    ax.set_xlim(-0.5, len(places) - 0.5)
    if steps:
        ax.set_ylim(-0.04, 1.04)


def _cut(text: str, length: int) -> str:
    """A text in one line, cut off with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _spans(record: ExplorerRecord) -> dict[int, tuple[int, int]]:
    """Per step its first and last token."""
    return {
        record.steps[tokens[0]]: (tokens[0], tokens[-1])
        for tokens in record.parts[len(record.tokens) :]
    }


def _name_steps(ax: Axes, record: ExplorerRecord) -> None:
    for step, (first, last) in _spans(record).items():
        wide = (last - first + 1) / len(record.tokens) > 0.08
        ax.annotate(
            f"step {step}" if wide else f"{step}",
            ((first + last) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
        )
