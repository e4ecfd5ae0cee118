"""Lettering: lines of text that stand in a picture, found by their shape without reading them."""

import numpy as np
from PIL import Image

from attcot_analysis.problems.fills import Rectangle

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
    return [
        (
            int(min(one[0] for one in chain)),
            int(min(one[1] for one in chain)),
            int(max(one[0] + one[2] for one in chain)),
            int(max(one[1] + one[3] for one in chain)),
        )
        for chain in chains
        if len(chain) >= _LETTERS
    ]
