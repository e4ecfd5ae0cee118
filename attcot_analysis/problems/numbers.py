"""Numbers as answers write them: signs, decimals, thousands, fractions, percent and units."""

import math
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

_RAISED = str.maketrans({sign: f"^{at % 10}" for at, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉")})
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d\u201e", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        "\u2044": "/",
    }
)
_LATEX = (
    (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2"),
    (r"\\(?:text(?:bf|rm|it)?|math(?:bf|rm|it)|mbox)\s*\{([^{}]*)\}", r"\1"),
    (r"\\[()\[\],;! ]|(?<!\w)\$(?=\D)|\$$|(?<=\d)\$|\\(?=[%$])|\$(?=[^$\n]*\$)", ""),
)
_RUN = re.compile(
    r"(?<![\w.^])(?<!\w[-/_.])(?P<sign>[-+])?"
    r"(?P<digits>\d+ \d+/\d+|\.?\d(?:\d|[.,:/'^x-](?=\d)| (?=\d{3}(?!\d)))*)"
    r"(?P<unit>cm|mm|km|m|kg|mg|g|ml|l|s|h|min|px|ft|lb)?(?P<rest>[\w+]*)"
)
_PLAIN = re.compile(r"\d+(\.\d+)?|\.\d+|[1-9]\d{0,2}(?:,\d{3})+(\.\d+)?")
_SPACED = re.compile(r"[1-9]\d{0,2}(?:( \d{3})+|('\d{3})+)(\.\d+)?")
_FRACTION = re.compile(r"(?:(\d+) )?(\d+)/(\d+)")
_LIMIT = re.compile(
    r"(?:[<>\u2264\u2265\u00b1]|\b(?:(?:more|less|fewer) than|at (?:least|most))"
    r"|(?:^|[\n=:(]|\bis)\s*-\s)\s*$",
    re.IGNORECASE,
)
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
_ABOUT = re.compile(
    r"(?:~|about|approximately|approx\.?|around|roughly|ca\.)?\s*[$\u20ac\u00a3\u00a5]?\s*",
    re.IGNORECASE,
)
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_UNIT = re.compile(r"\s*(?:%|\u00b0|percent\b)?\s*([^\W\d_]+(?: [^\W\d_]+)?)?")


class Number(NamedTuple):
    """A number in a text: where it stands, its value (NaN for ``12:30``, ``3-5``), its unit."""

    start: int
    stop: int
    value: float
    unit: str


def plain_text(text: str) -> str:
    """A text with one form for each sign: full-width forms, quotes, minus signs, LaTeX."""
    text = re.sub(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])", " ", text.translate(_RAISED))
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    for pattern, new in _LATEX:
        text = re.sub(pattern, new, text)
    text = re.sub(r"(?<=\d) ?/ ?(?=\d)", "/", text)
    return re.sub(r"(?<![a-z])(?:minus|negative) (?=\.?\d)", "-", text, flags=re.IGNORECASE)


def numbers(text: str) -> Iterator[Number]:
    """The numbers of a `plain_text`, in order."""
    for found in _RUN.finditer(text):
        value = math.nan if found["rest"] else _value(found["digits"])
        if _LIMIT.search(text, max(0, found.start() - 20), found.start()):
            value = math.nan
        if found["sign"] == "-":
            value = -value
        unit = found["unit"] or ""
        if not unit:
            unit = (_UNIT.match(text, found.end())[1] or "").casefold()  # type: ignore[index]
            scale, _, rest = unit.partition(" ")
            if scale in _SCALES:
                value, unit = value * _SCALES[scale], rest
        yield Number(found.start(), found.end(), value, unit.casefold())


def one_number(text: str) -> Number | None:
    """The number that a `plain_text` is as a whole, with its unit or what it counts."""
    text = text.strip(" \t\r\n,;:!?'\"`*_()[]{}").rstrip(".")
    if text.casefold() in _WORDS:
        return Number(0, len(text), float(_WORDS.index(text.casefold())), "")
    text = text[_ABOUT.match(text).end() :]  # type: ignore[union-attr]
    found = next(numbers(text), None)
    if found is None or found.start or math.isnan(found.value):
        return None
    several = found.unit.split(" ")[0] in ("and", "or", "to", "of", "plus", "times", "out")
    return found if _UNIT.fullmatch(text, found.stop) and not several else None


def _value(digits: str) -> float:
    if _PLAIN.fullmatch(digits):
        return float(digits.replace(",", ""))
    if _SPACED.fullmatch(digits):
        return float(digits.replace(" ", "").replace("'", ""))
    part = _FRACTION.fullmatch(digits)
    if part and int(part[3]):
        return int(part[1] or 0) + int(part[2]) / int(part[3])
    return math.nan
