"""Numbers as texts write them: signs, thousands, fractions, exponents, words, units."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from attcot_analysis.problems.phrases import WIDE

_RUN = re.compile(
    rf"(?:(?<![\w.^])(?<!\w[-/_.])|(?<=[{WIDE}])(?<!\u7b2c))(?P<sign>[-+])?"
    r"(?P<digits>\d+ \d+/\d+|\.?\d(?:\d|[.,:/'^x-](?=\d)| (?=\d{3}(?!\d)))*(?:[eE][-+]?\d+\b)?)"
    r"(?P<unit>cm|mm|km|m|kg|mg|g|ml|l|s|h|min|px|ft|lb|[kK]|M|bn)?"
    rf"(?P<rest>(?:(?![{WIDE}])[\w+])*)"
)

_PLAIN = re.compile(r"(?:\d+(\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?|[1-9]\d{0,2}(?:,\d{3})+(\.\d+)?")

_SPACED = re.compile(r"[1-9]\d{0,2}(?:( \d{3})+|('\d{3})+)(\.\d+)?")

_FRACTION = re.compile(r"(?:(\d+) )?(\d+)/(\d+)")

_LIMIT = re.compile(
    r"(?:[<>\u2264\u2265\u00b1]|\b(?:(?:more|less|fewer|greater|larger|smaller|higher|lower) than"
    r"|at (?:least|most)"
    r"|(?:is|are|was|were|slightly|just|bit|little|well|far) (?:over|under|above|below))"
    r"|(?:^|[\n=:(]|\bis)\s*-\s)\s*$",
    re.IGNORECASE,
)

_FUNCTION = r"sqrt|log|ln|lg|sin|cos|tan|cot|sec|csc"
_INSIDE = re.compile(
    rf"(?:\\(?:{_FUNCTION}|d?frac|pm|mp|[gl]eq?|[gl]t|neq?)|(?<![a-z])(?:{_FUNCTION})(?=\())"
    r"(?:[_^]?(?:\w|\{[^{}]*\})|\[[^\[\]]*\])?\s*[\[({]?\s*$"
)
"""What makes a number behind it a part of a formula."""
_FACTOR = re.compile(rf"\s*(?:\\?(?:pi|{_FUNCTION})(?![a-z])|\^\{{?[\w-])")
"""What makes a number before it one."""

_ABOUT = re.compile(
    r"(?:~|about|approximately|approx\.?|around|roughly|ca\.)?"
    r"\s*(?:[$\u20ac\u00a3\u00a5]|(?:USD|EUR|GBP)\b)?\s*",
    re.IGNORECASE,
)

_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9} | {
    "trillion": 10**12
}

_SHORT = {"k": 10**3, "K": 10**3, "M": 10**6, "bn": 10**9}

_UNIT = re.compile(r"\s*(?:%|\u00b0|per ?cent\b)?\s*([^\W\d_]+(?: [^\W\d_]+)?)?")

_PREFIXES = (("", ""), ("centi", "c"), ("milli", "m"), ("kilo", "k"))
_UNITS = {
    **{f"{long}met{end}": f"{short}m" for long, short in _PREFIXES for end in ("er", "re")},
    **{f"{long}gram": f"{short}g" for long, short in _PREFIXES},
    **{"liter": "l", "litre": "l", "foot": "ft", "feet": "ft", "pound": "lb", "pixel": "px"},
    **{"second": "s", "sec": "s", "minute": "min", "hour": "h"},
}
"""Units by their names, without the plural's s."""

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_COUNTS = {word: at for at, word in enumerate(_ONES)} | {
    word: 10 * at for at, word in enumerate(_TENS, start=2)
}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "tenth": 10}

_TO_99 = rf"(?:(?:{'|'.join(_TENS)})(?:[ -](?:{'|'.join(_ONES[1:10])}))?|{'|'.join(_ONES[::-1])})\b"
_TO_999 = rf"(?:{_TO_99}|a(?= hundred| thousand| million))(?: hundred\b(?: (?:and )?{_TO_99})?)?"
_SPELT = re.compile(
    r"(?<![\w-])(?<!hundred )(?<!thousand )(?P<sign>(?:minus|negative) )?"
    rf"(?P<whole>{_TO_999}(?: (?:thousand|million|billion|trillion)\b(?:,? (?:and )?{_TO_999})?)*)"
    rf"(?:(?P<more> and (?:a|one|two|three))?[ -](?P<part>{'|'.join(_PARTS)})s?\b)?",
    re.IGNORECASE,
)
"""A number in English words."""

_COUNTING_ONE = re.compile(r"(?:^|[:=]|\b(?:is|are|only|exactly|just|has|have|see|contains))\W*$")

_HAN = dict(
    zip("\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d", range(10), strict=True)
)
_HAN |= {"\u4e24": 2, "\u5169": 2}
_HAN_SCALES = {"\u5341": 10, "\u767e": 100, "\u5343": 1000}
_HAN_RUN = re.compile(
    rf"(?<![{WIDE}\u7b2c])[{''.join([*_HAN, *_HAN_SCALES])}]+(?![{WIDE}])"
    rf"|[{''.join([*_HAN, *_HAN_SCALES])}]+"
    "(?=[\u4e2a\u500b\u53ea\u96bb\u4eba\u5f20\u5f35\u672c\u8f86\u8f1b\u6761\u689d\u4ef6\u4f4d\u53f0])"
)
"""A Chinese number that is a whole statement, or before a measure word."""


_NO_UNIT = ("and", "or", "to", "of", "plus", "times", "out", "is", "are", "was", "were")


class Number(NamedTuple):
    """A number in a text.

    Attributes:
        start: Where it begins.
        stop: Where its digits end.
        value: NaN for what is no single number, or can be read in two ways: ``12:30``, ``0,5``.
        unit: Its unit, or what it counts; empty without one.
        percent: Whether it is in percent; the value is as it is written.
    """

    start: int
    stop: int
    value: float
    unit: str
    percent: bool = False


def numbers(text: str) -> Iterator[Number]:
    """The numbers of a `plain_text` that stand in digits, in order."""
    for found in _RUN.finditer(text):
        value = math.nan if found["rest"] else _value(found["digits"])
        before = max(0, found.start() - 20), found.start()
        if (
            _LIMIT.search(text, *before)
            or _INSIDE.search(text, *before)
            or _FACTOR.match(text, found.end("digits"))
        ):
            value = math.nan
        if found["sign"] == "-":
            value = -value
        unit = found["unit"] or ""
        behind = _UNIT.match(text, found.end())
        if unit in _SHORT:
            value, unit = value * _SHORT[unit], ""
        if not unit and behind:
            unit = (behind[1] or "").casefold()
            scale, _, rest = unit.partition(" ")
            if scale in _SCALES:
                value, unit = value * _SCALES[scale], rest
        first, space, rest = unit.casefold().partition(" ")
        unit = _UNITS.get(first.removesuffix("s"), first) + space + rest
        percent = behind is not None and re.match(r"\s*(?:%|per ?cent)", behind[0]) is not None
        yield Number(found.start(), found.end(), value, unit, percent)


def one_number(text: str) -> Number | None:
    """The number that a `plain_text` is as a whole, with its unit or what it counts."""
    text = text.strip(" \t\r\n,;:!?'\"`*_()[]{}").rstrip(".")
    part = _PARTS.get(re.sub(r"^an? ", "", text.casefold()))
    if part is not None:
        return Number(0, len(text), 1 / part, "")
    if _SPELT.fullmatch(text) or _HAN_RUN.fullmatch(text):
        text = in_digits(text)
    text = text[_ABOUT.match(text).end() :]  # type: ignore[union-attr]
    found = next(numbers(text), None)
    if found is None or found.start or math.isnan(found.value):
        return None
    several = found.unit.split(" ")[0] in _NO_UNIT
    return found if _UNIT.fullmatch(text, found.stop) and not several else None


def in_digits(text: str) -> str:
    """A `plain_text` with digits for numbers in words; a pronoun "one" stays."""

    def written(found: re.Match[str]) -> str:
        before = text[max(0, found.start() - 20) : found.start()]
        if found[0].casefold() == "one" and (
            not _COUNTING_ONE.search(before) or text[found.end() :].startswith(" of ")
        ):
            return found[0]
        whole, sign = _spelt(found["whole"]), "-" if found["sign"] else ""
        if not found["part"]:
            return f"{sign}{whole}"
        below = _PARTS[found["part"].casefold()]
        if not found["more"]:
            return f"{sign}{whole}/{below}"
        above = {"a": 1, "one": 1, "two": 2, "three": 3}[found["more"].split()[-1].casefold()]
        return f"{sign}{whole} {above}/{below}"

    return _HAN_RUN.sub(lambda found: str(_han(found[0])), _SPELT.sub(written, text))


def _spelt(words: str) -> int:
    total = current = 0
    for word in re.findall("[a-z]+", words.casefold()):
        if word == "hundred":
            current *= 100
        elif word in _SCALES:
            total, current = total + current * _SCALES[word], 0
        elif word != "and":
            current += 1 if word == "a" else _COUNTS[word]
    return total + current


def _han(signs: str) -> int | str:
    """The value of a Chinese number; digits beside each other stay as they are."""
    total, digit = 0, None
    for sign in signs:
        if sign in _HAN_SCALES:
            total, digit = total + (1 if digit is None else digit) * _HAN_SCALES[sign], None
        elif digit in (None, 0):
            digit = _HAN[sign]
        else:
            return signs
    return total + (digit or 0)


def _value(digits: str) -> float:
    found = math.nan
    if _PLAIN.fullmatch(digits):
        found = float(digits.replace(",", ""))
    elif _SPACED.fullmatch(digits):
        found = float(digits.replace(" ", "").replace("'", ""))
    elif (part := _FRACTION.fullmatch(digits)) and int(part[3]):
        found = float(part[1] or 0) + float(part[2]) / float(part[3])
    return found if math.isfinite(found) else math.nan
