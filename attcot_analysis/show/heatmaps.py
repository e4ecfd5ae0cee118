"""Figures of token maps over the picture: one row of steps, or before and after on one scale."""

import textwrap
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from attcot_analysis.errors import ShowError
from attcot_analysis.problems import Box
from attcot_analysis.problems.problem import check_boxes
from attcot_analysis.show.style import (
    BOX_COLOR,
    DIVERGING,
    OVERLAY,
    arm_label,
    figure_style,
    new_figure,
    shades,
)

BLACK = 48
"""How light the picture's black is under a map, of 255."""
OPACITY = 0.85
"""Of an overlay where the map is strongest."""


def backdrop(image: Image.Image, side: int) -> Image.Image:
    """Return the picture in grey, as RGB, its longer side ``side`` pixels.

    Grey, so that every colour in an overlay comes from the map; its black a little lighter, so that
    the map's darkest colour stands out from it.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BILINEAR
    grey = image.convert("L").point(lambda value: round(BLACK + value * (255 - BLACK) / 255))
    return grey.convert("RGB").resize(size, method)


def colorize(values: np.ndarray, low: float, high: float, cmap: str = OVERLAY) -> np.ndarray:
    """Map values to colours, ``(rows, cols)`` floats to ``(rows, cols, 3)`` bytes.

    Values outside ``low`` to ``high`` take the end colours.
    """
    span = high - low
    level = (values - low) / span if span > 0 else np.zeros_like(values, dtype=float)
    return shades(cmap)[np.clip(np.rint(level * 255), 0, 255).astype(np.uint8)]


def overlay(
    image: Image.Image,
    values: np.ndarray,
    *,
    low: float = 0.0,
    high: float | None = None,
    opacity: float = OPACITY,
    cmap: str = OVERLAY,
    boxes: Sequence[Box] = (),
    side: int = 384,
) -> Image.Image:
    """Blend a token map over the picture in grey and draw evidence boxes on it.

    A weight of zero leaves the picture as it is, and opacity grows in proportion to the weight.

    Args:
        image: The original picture, any size.
        values: ``(rows, cols)`` one value per image token; tokens tile the picture evenly.
        low: Value of the map's first colour.
        high: Value of its last colour; the largest value if not given.
        opacity: Where the map is strongest; 0 shows only the picture.
        cmap: Name of a matplotlib colour map.
        boxes: Pixel rectangles in the coordinates of ``image``.
        side: Longer side of the result in pixels.

    Raises:
        ShowError: If the map is not two-dimensional, not finite, or the opacity not in 0 to 1.
    """
    values = check_map(values)
    if not 0.0 <= opacity <= 1.0:
        raise ShowError(f"The overlay's opacity is {opacity}; give a number from 0 to 1.")
    top = float(values.max()) if high is None else high
    painted = backdrop(image, side).convert("RGBA")
    alphas = np.rint(255 * opacity * strength(values, low, top)).astype(np.uint8)
    colors = np.dstack([colorize(values, low, top, cmap), alphas])
    layer = Image.fromarray(colors).resize(painted.size, Image.Resampling.NEAREST)
    painted = Image.alpha_composite(painted, layer).convert("RGB")
    draw_boxes(painted, boxes, image.size)
    return painted


def strength(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """How far values are from zero, or from the low end of a scale without zero; 0 to 1."""
    start, end = (0.0, max(-low, high)) if low < 0 else (low, high)
    span = end - start
    return np.clip(np.abs(values - start) / span, 0, 1) if span > 0 else np.zeros_like(values)


def draw_boxes(canvas: Image.Image, boxes: Sequence[Box], size: tuple[int, int]) -> None:
    """Draw boxes given in a ``size`` picture onto a canvas of another size, in place."""
    pen = ImageDraw.Draw(canvas)
    across, down = canvas.width / size[0], canvas.height / size[1]
    line = max(1, round(max(canvas.size) / 130))
    for x0, y0, x1, y1 in boxes:
        corners = (
            round(x0 * across),
            round(y0 * down),
            max(round(x1 * across) - 1, round(x0 * across)),
            max(round(y1 * down) - 1, round(y0 * down)),
        )
        pen.rectangle(corners, outline="#101418", width=3 * line)
        left, top, right, bottom = corners
        if min(right - left, bottom - top) > 2 * line:
            inner = (left + line, top + line, right - line, bottom - line)
            pen.rectangle(inner, outline=BOX_COLOR, width=line)


def check_map(values: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Return a token map as float array, or say what is wrong with it.

    Raises:
        ShowError: If it is not ``(rows, cols)``, not of the expected shape, or not finite.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or array.size == 0:
        raise ShowError(
            f"A token map has shape {array.shape}; expected (rows, cols), "
            "so reshape it with the token grid's to_map."
        )
    if shape is not None and array.shape != shape:
        raise ShowError(f"A token map has shape {array.shape}, but the others have {shape}.")
    if not np.isfinite(array).all():
        raise ShowError("A token map holds NaN or infinite values; check the row it was read from.")
    return array


def png_bytes(image: Image.Image, *, compress_level: int = 1) -> bytes:
    """Encode as PNG; the default favours speed over size."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=compress_level)
    return buffer.getvalue()


Boxes = Sequence[Sequence[Box] | None] | None

_PER_ROW = 8

_SIDE = 256

_MID_GREY = 0.85  # the picture behind the bar


def heatmap_row(
    image: Image.Image,
    maps: Sequence[np.ndarray],
    labels: Sequence[str],
    *,
    boxes: Boxes = None,
    high: float | None = None,
    opacity: float = OPACITY,
    quantity: str = "attention mass per image token",
) -> Figure:
    """Draw the picture and, beside it, one map per step or token, all on one colour scale.

    Args:
        image: The original picture.
        maps: One ``(rows, cols)`` map per panel.
        labels: One short text per panel (the step or the token).
        boxes: Per panel the evidence boxes, or ``None`` where there are none.
        high: Top of the colour scale; the largest value of all maps if not given.
        opacity: Of the map over the picture.
        quantity: What the values are, for the colour bar.

    Raises:
        ShowError: If numbers or shapes of maps, labels and boxes do not fit together.
    """
    stack, panel_boxes = _check(image, maps, labels, boxes)
    titles = _wrapped(labels)
    extra = 0.15 * max(title.count("\n") for title in titles)
    top = float(stack.max()) if high is None else high
    columns = min(len(stack) + 1, _PER_ROW)
    lines = -(-(len(stack) + 1) // columns)
    ratio = image.height / image.width
    with figure_style():
        figure = new_figure(1.35 * columns + 1.1, (1.35 * ratio + 0.28 + extra) * lines + 0.1)
        axs = figure.subplots(lines, columns, squeeze=False)
        flat = list(axs.flat)
        _panel(flat[0], image, "picture")
        for ax, values, label, drawn in zip(flat[1:], stack, titles, panel_boxes, strict=False):
            _map_panel(ax, image, values, drawn, (0.0, top), OVERLAY, opacity)
            ax.set_title(label, fontsize=8.5, fontweight="normal")
        for ax in flat[len(stack) + 1 :]:
            ax.set_visible(False)
        _bar(figure, flat, (OVERLAY, opacity), 0.0, top, textwrap.fill(quantity, 20 * lines))
    return figure


def before_after(
    image: Image.Image,
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
    labels: Sequence[str],
    *,
    names: tuple[str, str] = ("before", "after"),
    boxes: Boxes = None,
    opacity: float = OPACITY,
    quantity: str = "attention mass per image token",
) -> Figure:
    """Draw maps before and after on one shared scale, and their difference below.

    Args:
        image: The original picture.
        before: One ``(rows, cols)`` map per panel, from the first model.
        after: The same from the second model.
        labels: One short text per panel.
        names: What the two rows are called; an arm's name becomes its label.
        boxes: Per panel the evidence boxes, or ``None`` where there are none.
        opacity: Of the maps over the picture.
        quantity: What the values are, for the colour bars.

    Returns:
        The figure. Both rows share one colour scale from zero; the differences (second minus
        first) stand on a diverging scale centred at zero; both scales are written in it.

    Raises:
        ShowError: If numbers or shapes of maps, labels and boxes do not fit together.
    """
    first, panel_boxes = _check(image, before, labels, boxes)
    second, _ = _check(image, after, labels, boxes)
    if first.shape != second.shape:
        raise ShowError(
            f"The maps before have shape {first.shape[1:]} and those after {second.shape[1:]}; "
            "compare maps of the same picture on the same token grid."
        )
    top = float(max(first.max(), second.max()))
    limit = float(np.abs(second - first).max()) or 1.0
    titles = _wrapped(labels)
    extra = 0.15 * max(title.count("\n") for title in titles)
    columns = len(first)
    ratio = image.height / image.width
    with figure_style():
        figure = new_figure(1.45 * columns + 2.0, 3 * (1.45 * ratio + 0.12) + 0.8 + extra)
        axs = figure.subplots(3, columns, squeeze=False)
        for line, stack in ((0, first), (1, second)):
            for ax, values, drawn in zip(axs[line], stack, panel_boxes, strict=True):
                _map_panel(ax, image, values, drawn, (0.0, top), OVERLAY, opacity)
        for ax, values, drawn in zip(axs[2], second - first, panel_boxes, strict=True):
            _map_panel(ax, image, values, drawn, (-limit, limit), DIVERGING, opacity)
        for ax, label in zip(axs[0], titles, strict=True):
            ax.set_title(label, fontsize=8.5, fontweight="normal")
        first_name, second_name = (arm_label(name) for name in names)
        rows = (first_name, second_name, f"{second_name} \N{MINUS SIGN}\n{first_name}")
        for ax, name in zip(axs[:, 0], rows, strict=True):
            ax.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
        _bar(
            figure,
            axs[:2].ravel().tolist(),
            (OVERLAY, opacity),
            0.0,
            top,
            textwrap.fill(quantity, 26),
        )
        _bar(figure, axs[2].tolist(), (DIVERGING, opacity), -limit, limit, "difference")
        figure.supxlabel(
            f"one scale for both rows, 0 to {top:.2g}; difference \N{PLUS-MINUS SIGN}{limit:.2g}"
            + ("; outlined: evidence of the step" if any(panel_boxes) else ""),
            fontsize=8.5,
        )
    return figure


def _check(
    image: Image.Image, maps: Sequence[np.ndarray], labels: Sequence[str], boxes: Boxes
) -> tuple[np.ndarray, list[tuple[Box, ...]]]:
    if not min(image.size):
        raise ShowError(f"The picture has {image.size} pixels; give one that has any.")
    if len(maps) == 0:
        raise ShowError("There are no maps to draw; give at least one (rows, cols) map.")
    if len(labels) != len(maps) or (boxes is not None and len(boxes) != len(maps)):
        raise ShowError(
            f"There are {len(maps)} maps, {len(labels)} labels and "
            f"{'no' if boxes is None else len(boxes)} box lists; give one of each per map."
        )
    first = check_map(maps[0])
    shape = (first.shape[0], first.shape[1])
    stack = np.stack([check_map(values, shape) for values in maps])
    return stack, [
        check_boxes([] if one is None else list(one), "boxes")
        for one in boxes or [None] * len(maps)
    ]


def _map_panel(
    ax: Axes,
    image: Image.Image,
    values: np.ndarray,
    boxes: Sequence[Box],
    scale: tuple[float, float],
    cmap: str,
    opacity: float,
) -> None:
    low, high = scale
    painted = overlay(
        image, values, low=low, high=high, opacity=opacity, cmap=cmap, boxes=boxes, side=_SIDE
    )
    _panel(ax, painted, "")
    ax.set_gid(f"map {low:.6g} to {high:.6g}")


def _panel(ax: Axes, image: Image.Image, title: str) -> None:
    ax.imshow(np.asarray(image), interpolation="none")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=8.5, fontweight="normal")


def _bar(
    figure: Figure,
    axs: list[Axes],
    look: tuple[str, float],
    low: float,
    high: float,
    label: str,
) -> None:
    cmap, opacity = look
    levels = np.linspace(low, high, 256)[None]
    alpha = opacity * strength(levels, low, high)[0][:, None]
    colors = colorize(levels, low, high, cmap)[0] / 255 * alpha + _MID_GREY * (1 - alpha)
    scale = ScalarMappable(Normalize(low, high), ListedColormap(colors, name=cmap))
    bar = figure.colorbar(scale, ax=axs, fraction=0.04, pad=0.015, shrink=0.9)
    bar.set_label(label, fontsize=8.5)
    bar.outline.set_visible(False)


def _wrapped(labels: Sequence[str]) -> list[str]:
    """Break labels into at most three short lines each."""
    wrapped = []
    for label in labels:
        lines = textwrap.wrap(" ".join(label.split()), 21)
        if len(lines) > 3:
            lines = [*lines[:2], lines[2][:20] + "\N{HORIZONTAL ELLIPSIS}"]
        wrapped.append("\n".join(lines))
    return wrapped
