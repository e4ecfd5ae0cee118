"""Forms in which boxes are written down, and whether they are pixels as they have to be."""

from collections.abc import Mapping, Sequence
from math import log

FORMS: Mapping[str, str] = {
    "pixels": "pixels (x0, y0, x1, y1)",
    "unit": "shares of the picture from 0 to 1",
    "thousand": "thousandths of the picture from 0 to 1000",
    "xywh": "pixels (x, y, width, height)",
}
"""Forms by name."""

_TINY = 16
"""Pixels: in a smaller picture a box within the first pixel may be meant."""
_SURE = log(0.01)
"""Of how small a chance it is that no box reaches beyond 1000 pixels."""
_STRAY = 0.02
"""The share of boxes that may be slips of the pen and not of another form."""


def to_pixels(
    box: Sequence[float], size: tuple[float, float], form: str
) -> tuple[float, float, float, float]:
    """A box of some form as pixels ``(x0, y0, x1, y1)`` of a picture of this size."""
    x0, y0, x1, y1 = box
    if form == "xywh":
        return x0, y0, x0 + x1, y0 + y1
    width, height = (1.0, 1.0) if form == "pixels" else size
    whole = 1000 if form == "thousand" else 1
    return x0 * width / whole, y0 * height / whole, x1 * width / whole, y1 * height / whole


def fits(
    box: Sequence[float], size: tuple[float, float], form: str = "pixels", *, beyond: float = 0.0
) -> bool:
    """Whether a box of this form lies in a picture of this size, up to some pixels beyond it.

    Nothing of a large picture lies within its first pixel, nor within its first thousandth: such
    boxes are shares.
    """
    width, height = size
    shares = max(box[2:]) <= 1 and max(size) > _TINY
    if form in ("pixels", "thousand") and shares:
        return False
    x0, y0, x1, y1 = to_pixels(box, size, form)
    inside = -beyond <= x0 < x1 <= width + beyond
    return inside and -beyond <= y0 < y1 <= height + beyond


def other_forms(box: Sequence[float], size: tuple[float, float]) -> str:
    """A question to whoever wrote a box that is no pixel box: what else it might be."""
    found = [form for form in ("unit", "xywh", "thousand") if fits(box, size, form)]
    titles = " or ".join(f"{FORMS[form]} ({form})" for form in found)
    return f"; is it {titles}? Convert it, as attcot data convert --boxes does" if found else ""


class BoxForms:
    """Tells the form of a whole dataset's boxes, which that of one box may not show."""

    def __init__(self) -> None:
        """Start with none."""
        self._n = 0
        self._fit = dict.fromkeys(FORMS, 0)
        self._chance = 0.0
        self._within = True
        self._largest = 0.0

    def add(self, box: Sequence[float], size: tuple[float, float], beyond: float = 0.0) -> None:
        """Count one more, as it was written."""
        self._n += 1
        for form in FORMS:
            self._fit[form] += fits(box, size, form, beyond=beyond)
        self._within &= max(box) <= 1000
        for end, side in zip(box[2:], size, strict=True):
            self._largest = max(self._largest, side)
            self._chance += min(0.0, log(1000 / side)) if end <= 1000 else 0.0

    @property
    def fault(self) -> str | None:
        """A sentence if some are no pixel boxes and all are of one other form."""
        wrong = self._n - self._fit["pixels"]
        forms = [form for form in FORMS if self._fit[form] == self._n]
        if not forms or wrong <= _STRAY * self._n:
            return None
        return (
            f"{wrong} of {self._n} boxes are no {FORMS['pixels']} of their pictures and all may be "
            f"{' or '.join(FORMS[form] for form in forms)}; say what they are with --boxes "
            f"{' or '.join(forms)}."
        )

    @property
    def doubt(self) -> str | None:
        """A sentence if all fit as pixels, but none reaches where large pictures go on."""
        if not self._within or self._chance > _SURE or self._fit["pixels"] < self._n:
            return None
        return (
            f"No box reaches beyond 1000 though pictures have up to {self._largest:.0f} pixels a "
            f"side: if boxes are {FORMS['thousand']}, convert them with --boxes thousand."
        )
