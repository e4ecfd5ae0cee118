"""Boxes of datasets as ours: corners in pixels of the picture, cut at its edges."""

from collections.abc import Sequence
from math import inf
from typing import Any

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.box_forms import BoxForms, fits, other_forms, to_pixels
from attcot_analysis.problems.problem import Box

_BEYOND = 0.01
"""Of a side: how far published boxes reach beyond their picture by rounding."""


def corner_boxes(
    given: Sequence[Any],
    image_size: tuple[int, int],
    where: str,
    *,
    form: str = "pixels",
    of: tuple[float, float] | None = None,
    seen: BoxForms | None = None,
    cut: bool = False,
) -> tuple[Box, ...]:
    """Boxes as ``(x0, y0, x1, y1)``, each once.

    Args:
        given: Four numbers each.
        image_size: Width and height of the picture as it is read.
        where: For messages.
        form: Of the numbers, a name in `FORMS`.
        of: Width and height of the picture that the numbers are of, where it was resized.
        seen: Where to count boxes that should be in pixels.
        cut: Take what lies in the picture, however far a box reaches beyond; default is to refuse
            more than rounding.

    Raises:
        ProblemError: If one is no box, or no box of this form in the picture.
    """
    width, height = image_size
    source = (float(width), float(height)) if of is None else of
    beyond = inf if cut else max(2.0, _BEYOND * max(source))
    found = []
    for box in given:
        numbers = list(box) if isinstance(box, list | tuple) else []
        if len(numbers) != 4 or not all(
            isinstance(n, int | float) and not isinstance(n, bool) for n in numbers
        ):
            raise ProblemError(f"{where}: box {box!r:.60} is not four numbers.")
        if seen is not None:
            seen.add(numbers, source, beyond)
        x0, y0, x1, y1 = to_pixels(numbers, source, form)
        across, down = width / source[0], height / source[1]
        x0, x1 = (min(max(x * across, 0.0), float(width)) for x in (x0, x1))
        y0, y1 = (min(max(y * down, 0.0), float(height)) for y in (y0, y1))
        if not (fits(numbers, source, form, beyond=beyond) and x0 < x1 and y0 < y1):
            maybe = other_forms(numbers, source) or "; check that it is the right picture"
            raise ProblemError(
                f"{where}: box {box!r:.60} covers nothing of its {width}x{height} picture, or "
                f"reaches beyond it{maybe}."
            )
        found.append((x0, y0, x1, y1))
    return tuple(dict.fromkeys(found))
