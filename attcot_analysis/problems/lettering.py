"""Lettering: text in a picture, found by its shape without reading it, and replaced."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems.fills import (
    Fill,
    Mask,
    Rectangle,
    bounding_box,
    lab,
    mask_of,
    occluded,
)

_LONGEST_SIDE = 1024
_LETTERS = 4
"""Fewer like shapes in a row are anything."""
_LOWEST = 6
_TALLEST = 0.2
"""Heights of letters: pixels, and share of the picture's height."""


def has_text(image: Image.Image) -> bool:
    """Whether a picture seems to hold text; errs towards yes, as fences and windows look alike.

    Source: own (connected components, chained into lines by height, place and gap).
    """
    return bool(text_lines(image))


def text_lines(image: Image.Image) -> list[Rectangle]:
    """Boxes of what looks like lines of text: at least four like shapes side by side.

    Shapes are connected regions darker or lighter than their surroundings, at least 6 pixels high
    after the picture's longer side was brought to at most 1024.

    Args:
        image: RGB.

    Returns:
        From top to bottom; empty where there is none.
    """
    import cv2

    scale = min(_LONGEST_SIDE / max(image.size), 1.0)
    small = image if scale == 1 else image.resize([max(round(n * scale), 1) for n in image.size])
    grey = np.asarray(small.convert("L"))
    if min(grey.shape) < _LOWEST or grey.max() - grey.min() < 16:
        return []
    window = max(min(grey.shape) // 16 * 2 + 1, 11)
    found: list[Rectangle] = []
    for shown in (grey, 255 - grey):
        dark = cv2.adaptiveThreshold(
            shown, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, window, 20
        )
        _, _, stats, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
        found += _lines(_letters(stats[1:, :5].astype(int), grey.shape[0]))
    return sorted(
        {
            (int(x0 / scale), int(y0 / scale), int(np.ceil(x1 / scale)), int(np.ceil(y1 / scale)))
            for x0, y0, x1, y1 in found
        },
        key=lambda box: (box[1], box[0]),
    )


def _letters(stats: np.ndarray, height: int) -> np.ndarray:
    """Rows ``x, y, wide, high`` of the shapes that may be letters, from left to right."""
    wide, high, area = stats[:, 2], stats[:, 3], stats[:, 4]
    fits = (high >= _LOWEST) & (high <= max(_TALLEST * height, 12)) & (wide <= 2 * high)
    fits &= (area >= 0.15 * wide * high) & (area >= 6)
    kept = stats[fits, :4]
    return np.asarray(kept[np.argsort(kept[:, 0], kind="stable")])


def _lines(letters: np.ndarray) -> list[Rectangle]:
    """Chains of letters of like height, on one line, with gaps of at most their height."""
    chains: list[list[np.ndarray]] = []
    tallest = int(letters[:, 3].max(initial=0))
    still_open: list[list[np.ndarray]] = []
    for one in letters:
        still_open = [c for c in still_open if c[-1][0] + c[-1][2] + tallest >= one[0]]
        for chain in still_open:
            last = chain[-1]
            low, high = sorted((last[3], one[3]))
            overlap = min(last[1] + last[3], one[1] + one[3]) - max(last[1], one[1])
            gap = one[0] - (last[0] + last[2])
            if high <= 1.7 * low and overlap >= 0.6 * low and -0.3 * high <= gap <= high:
                chain.append(one)
                break
        else:
            chains.append([one])
            still_open.append(chains[-1])
    lines = [np.array(chain) for chain in chains if len(chain) >= _LETTERS]
    corners = [(*one[:, :2].min(axis=0), *(one[:, :2] + one[:, 2:]).max(axis=0)) for one in lines]
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in corners]


def replaced_text(
    image: Image.Image,
    box: Rectangle,
    text: str,
    *,
    font: str | Path | None = None,
    fill: Fill = "telea",
    seed: int = 0,
) -> tuple[Image.Image, Mask]:
    """Write something else where a word, a label or a value stands.

    The ink in the box is told from its ground by colour and painted over from its surroundings;
    the new text is drawn in the ink's colour, as high as the old one (smaller if it would be wider
    than the picture), around the same centre.

    Args:
        image: RGB.
        box: Around the old text, on an even ground.
        text: The new one, one line.
        font: A font file that looks like the picture's; default Pillow's own. The face is not
            found by itself, nor are weight and slant.
        fill: What the old text is painted over with.
        seed: Of fills with chance.

    Returns:
        The picture, and where its pixels may have changed.

    Raises:
        MeasureError: If there is no ink in the box, the new text is empty or has several lines, or
            the font cannot be read.
    """
    if not text.strip() or len(text.splitlines()) > 1:
        raise MeasureError(f"The new text is {text!r}; give one line with at least a character.")
    inside = mask_of([box], image.size)
    ring = ndimage.binary_dilation(inside, iterations=2) & ~inside
    colours = lab(np.asarray(image))
    ground = np.median(colours[ring if ring.any() else inside], axis=0)
    gap = np.linalg.norm(colours - ground, axis=-1) * inside
    if gap.max() < 10:
        raise MeasureError(
            f"No text was found in the box {tuple(box)}: all of it has the colour of its ground; "
            "give a box around the text."
        )
    ink = gap > gap.max() / 2
    colour = np.median(np.asarray(image)[gap > 0.8 * gap.max()], axis=0).round().astype(int)
    old = np.asarray(ndimage.binary_dilation((gap > 5) & inside, iterations=1)) & inside
    cleaned = occluded(image, old, fill, seed=seed)
    x0, y0, x1, y1 = bounding_box(ink)
    for size in range(4 * (y1 - y0) + 8, 3, -1):
        face = _face(font, size)
        left, top, right, bottom = face.getbbox(text)
        if bottom - top <= y1 - y0 and right - left <= image.width:
            break
    canvas = Image.new("L", image.size)
    place = ((x0 + x1 - right - left) / 2, (y0 + y1 - bottom - top) / 2)
    ImageDraw.Draw(canvas).text(place, text, fill=255, font=face)
    drawn = cleaned.copy()
    drawn.paste((int(colour[0]), int(colour[1]), int(colour[2])), mask=canvas)
    return drawn, old | (np.asarray(canvas) > 0)


def _face(font: str | Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if font is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(str(font), size)
    except OSError as error:
        raise MeasureError(
            f"{font} cannot be read as a font ({error}); give a .ttf file."
        ) from error
