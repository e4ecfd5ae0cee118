"""Paint a token map over its picture with PIL: no figure, fast enough for a slider."""

from collections.abc import Sequence
from functools import cache
from io import BytesIO

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from attcot_analysis.errors import ShowError
from attcot_analysis.problems import Box
from attcot_analysis.show.style import BOX_COLOR, SEQUENTIAL


def backdrop(image: Image.Image, side: int) -> Image.Image:
    """Return the picture in grey, as RGB, its longer side ``side`` pixels.

    Grey, so that every colour in an overlay comes from the map.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BILINEAR
    return image.convert("L").convert("RGB").resize(size, method)


def colorize(values: np.ndarray, low: float, high: float, cmap: str = SEQUENTIAL) -> np.ndarray:
    """Map values to colours, ``(rows, cols)`` floats to ``(rows, cols, 3)`` bytes.

    Values outside ``low`` to ``high`` take the end colours.
    """
    span = high - low
    level = (values - low) / span if span > 0 else np.zeros_like(values, dtype=float)
    return _lookup(cmap)[np.clip(np.rint(level * 255), 0, 255).astype(np.uint8)]


def overlay(
    image: Image.Image,
    values: np.ndarray,
    *,
    low: float = 0.0,
    high: float | None = None,
    opacity: float = 0.65,
    cmap: str = SEQUENTIAL,
    boxes: Sequence[Box] = (),
    side: int = 384,
) -> Image.Image:
    """Blend a token map over the picture in grey and draw evidence boxes on it.

    Args:
        image: The original picture, any size.
        values: ``(rows, cols)`` one value per image token; tokens tile the picture evenly.
        low: Value of the map's first colour.
        high: Value of its last colour; the largest value if not given.
        opacity: 0 shows only the picture, 1 only the map.
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
    return blend(
        backdrop(image, side), colorize(values, low, top, cmap), opacity, image.size, boxes
    )


def blend(
    ground: Image.Image,
    colors: np.ndarray,
    opacity: float,
    size: tuple[int, int],
    boxes: Sequence[Box] = (),
) -> Image.Image:
    """Lay token colours ``(rows, cols, 3)`` over a backdrop; boxes are in a ``size`` picture."""
    layer = Image.fromarray(colors).resize(ground.size, Image.Resampling.NEAREST)
    painted = Image.blend(ground, layer, opacity)
    draw_boxes(painted, boxes, size)
    return painted


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


@cache
def _lookup(cmap: str) -> np.ndarray:
    return np.asarray(colormaps[cmap](np.arange(256), bytes=True))[:, :3]
