"""Boxes that models write into their responses, in the forms of Qwen and InternVL, as pixels."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from attcot_analysis.problems.box_forms import fits, to_pixels
from attcot_analysis.problems.problem import Box

Unit = Literal["auto", "pixels", "thousand"]

_N = r"\s*(-?\d+(?:\.\d+)?)\s*"
_FOUR = rf"\[{_N},{_N},{_N},{_N}\]"
_JSON = re.compile(rf'"bbox(?:_2d)?"\s*:\s*{_FOUR}')
_LIST = re.compile(r"<box>\s*\[(.*?)\]\s*</box>", re.DOTALL)
_PAIRS = re.compile(
    rf"(?:<[|]box_start[|]>|<box>)\s*\({_N},{_N}\)\s*,\s*\({_N},{_N}\)\s*(?:<[|]box_end[|]>|</box>)"
)
_STRAY = 0.02
"""The share of boxes that may be slips of the pen and not of another unit."""


class WrittenBoxes(NamedTuple):
    """What a text says of places.

    Attributes:
        boxes: In pixels of the original picture, in the order of each form.
        unread: How many more were written that lie outside the picture, or have no area.
    """

    boxes: tuple[Box, ...]
    unread: int


def written_boxes(
    text: str,
    size: tuple[int, int],
    *,
    seen: tuple[int, int] | None = None,
    unit: Unit = "auto",
) -> WrittenBoxes:
    """Read the boxes that a model wrote.

    ``"bbox_2d": [x0, y0, x1, y1]`` in JSON (Qwen2.5-VL: pixels of the picture as the processor
    resized it; Qwen3-VL: thousandths), ``<box>[[x0, y0, x1, y1], ...]</box>`` (InternVL) and
    ``<|box_start|>(x0,y0),(x1,y1)<|box_end|>`` (Qwen2-VL), both thousandths.

    Args:
        text: A response or a part of it.
        size: Width and height of the original picture.
        seen: Of the picture as the model saw it; default the original.
        unit: Of boxes in JSON, which does not say it. ``"auto"``: as `unit_of` tells of this text.
    """
    shown = size if seen is None else seen
    json = [_numbers(found.groups()) for found in _JSON.finditer(text)]
    if unit == "auto":
        unit = unit_of([(text, shown)])
    listed = [one for found in _LIST.finditer(text) for one in re.findall(_FOUR, found[1])]
    listed += [found.groups() for found in _PAIRS.finditer(text)]
    made = [to_pixels(box, shown, unit) for box in json]
    wide, high = size[0] / shown[0], size[1] / shown[1]
    made = [(a * wide, b * high, c * wide, d * high) for a, b, c, d in made]
    made += [to_pixels(_numbers(one), size, "thousand") for one in listed]
    width, height = size
    kept = [
        (max(a, 0.0), max(b, 0.0), min(c, float(width)), min(d, float(height)))
        for a, b, c, d in made
        if fits((a, b, c, d), size, beyond=0.01 * max(size))
    ]
    return WrittenBoxes(tuple(kept), len(made) - len(kept))


def unit_of(texts: Iterable[tuple[str, tuple[int, int]]]) -> Literal["pixels", "thousand"]:
    """The unit of the boxes in JSON that one model wrote.

    Pixels if all of them, but for slips of the pen, lie in their pictures, else thousandths. Few
    boxes, or those of large pictures, may pass for either: then it has to be known.

    Args:
        texts: What it wrote, each with width and height of the picture as it saw it.
    """
    inside = [
        fits(_numbers(found.groups()), size, beyond=1)
        for text, size in texts
        for found in _JSON.finditer(text)
    ]
    return "pixels" if inside.count(False) <= _STRAY * len(inside) else "thousand"


def iou(one: Box, other: Box) -> float:
    """Area that two boxes share over the area that they cover together."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (one, other)]
    return shared / (sum(areas) - shared)


def _numbers(texts: Sequence[str]) -> Box:
    x0, y0, x1, y1 = map(float, texts)
    return x0, y0, x1, y1
