"""Forms in which boxes are written down, and whether they are pixels as they have to be."""

from collections.abc import Collection, Mapping, Sequence
from math import log

_UNITS = {
    "pixels": ("pixels", 1.0),
    "unit": ("shares of the picture from 0 to 1", 1.0),
    "percent": ("percent of the picture", 100.0),
    "thousand": ("thousandths of the picture from 0 to 1000", 1000.0),
}

_CORNERS = {"xywh": "(x, y, width, height)", "centre": "(centre x, centre y, width, height)"}

FORMS: Mapping[str, str] = {
    "pixels": "pixels (x0, y0, x1, y1)",
    **{unit: title for unit, (title, _) in _UNITS.items() if unit != "pixels"},
    **{
        corner if unit == "pixels" else f"{unit}-{corner}": f"{title} {names}"
        for unit, (title, _) in _UNITS.items()
        for corner, names in _CORNERS.items()
    },
}
"""Forms by name: a unit, maybe with the way in which corners are given; ``xywh`` and ``centre``
are in pixels."""

_GUESSED = ("percent", "unit", "unit-xywh", "unit-centre", "xywh", "centre", "thousand")
"""Forms that are asked about; percent only for whole sets, of which each may pass for pixels."""

_TINY = 16
"""Pixels: in a smaller picture a box within the first pixel may be meant."""
_SURE = log(0.01)
"""Of how small a chance it is that no box reaches beyond 100 or 1000 pixels."""
_WHOLES = {100: "percent", 1000: "thousand"}
"""What a side is in a form whose numbers may pass for pixels."""
_STRAY = 0.02
"""The share of boxes that may be slips of the pen and not of another form."""


def to_pixels(
    box: Sequence[float], size: tuple[float, float], form: str
) -> tuple[float, float, float, float]:
    """A box of some form as pixels ``(x0, y0, x1, y1)`` of a picture of this size."""
    unit, _, corner = f"pixels-{form}".rpartition("-") if form in _CORNERS else form.partition("-")
    x0, y0, x1, y1 = box
    if corner == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    elif corner == "centre":
        x0, y0, x1, y1 = x0 - x1 / 2, y0 - y1 / 2, x0 + x1 / 2, y0 + y1 / 2
    width, height = (1.0, 1.0) if unit == "pixels" else size
    whole = _UNITS[unit][1]
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
    if shares and not form.startswith("unit"):
        return False
    x0, y0, x1, y1 = to_pixels(box, size, form)
    inside = -beyond <= x0 < x1 <= width + beyond
    return inside and -beyond <= y0 < y1 <= height + beyond


def other_forms(box: Sequence[float], size: tuple[float, float]) -> str:
    """A question to whoever wrote a box that is no pixel box: what else it might be."""
    found = _simplest([form for form in _GUESSED[1:] if fits(box, size, form)])
    titles = " or ".join(f"{FORMS[form]} ({form})" for form in found)
    return f"; is it {titles}? Convert it, as attcot data convert --boxes does" if found else ""


def _simplest(forms: Collection[str]) -> list[str]:
    """Forms without those of a unit that fits already by its corners."""
    return [
        form for form in FORMS if form in forms and form.partition("-")[0] not in {*forms} - {form}
    ]


class BoxForms:
    """Tells the form of a whole dataset's boxes, which that of one box may not show."""

    def __init__(self) -> None:
        """Start with none."""
        self._n = 0
        self._fit = dict.fromkeys(FORMS, 0)
        self._chance = dict.fromkeys(_WHOLES, 0.0)
        self._furthest = 0.0
        self._largest = 0.0

    def add(self, box: Sequence[float], size: tuple[float, float], beyond: float = 0.0) -> None:
        """Count one more, as it was written."""
        self._n += 1
        for form in FORMS:
            self._fit[form] += fits(box, size, form, beyond=beyond)
        self._furthest = max(self._furthest, *box)
        for side in size:
            self._largest = max(self._largest, side)
            for whole in _WHOLES:
                self._chance[whole] += min(0.0, log(whole / side))

    @property
    def fault(self) -> str | None:
        """A sentence if some are no pixel boxes and all are of one other form."""
        wrong = self._n - self._fit["pixels"]
        forms = _simplest([form for form in _GUESSED if self._fit[form] == self._n])
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
        if self._fit["pixels"] < self._n:
            return None
        for whole, form in _WHOLES.items():
            if self._furthest <= whole and self._chance[whole] <= _SURE:
                return (
                    f"No box reaches beyond {whole} though pictures have up to "
                    f"{self._largest:.0f} pixels a side: if boxes are {FORMS[form]}, convert them "
                    f"with --boxes {form}."
                )
        return None
