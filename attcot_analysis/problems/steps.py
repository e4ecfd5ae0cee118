"""Where the steps of a rationale start: numbered lines, headings, paragraphs, lines, sentences."""

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal

import sentencex

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.formats import ResponseFormat

Cut = Literal[
    "numbers", "headings", "paragraphs", "lines", "sentences", "words", "stages", "own", "whole"
]
"""What a rationale was cut by; ``"whole"`` if it is one step."""

Range = tuple[int, int]

_DRESS = r"(?:\*\*|__|[*_])?"
_HEAD = re.compile(
    rf"(?P<before>[ \t]*(?:(?:\#{{1,6}}|[-*>])[ \t]+)?{_DRESS}\(?)"
    rf"(?P<step>step[ \t]*)?(?P<number>[0-9]{{1,3}})"
    rf"(?P<mark>{_DRESS}[.:)]{{1,2}}{_DRESS}(?=\s|\Z)|{_DRESS}(?=\s*\Z))",
    re.IGNORECASE,
)
_INLINE = re.compile(
    r"(?:(?<=[.!?:;,)] )|\A[ \t]*)(?:step[ \t]*)?\(?(\d{1,3})[.:)](?= )", re.IGNORECASE
)
"""A number behind a sentence or a colon; that of "in row 2. Then" is none."""
_HEADING = re.compile(r"[ \t]*(?:#{1,6}[ \t]+\S|(?:\*\*|__)[^*_\n]+(?:\*\*|__)[ \t]*:?[ \t]*$)")
_ABBREVIATED = re.compile(r"\b(?:approx|ca|resp|incl|max|min|avg|fig|eq)\.\s*\Z", re.IGNORECASE)
_UNIT_END = re.compile(r"\d ?[a-z]{1,2}\.\s+(?=[A-Z])")
"""Where a sentence ends in a unit such as "5 m.", which looks like an abbreviation."""
_WORD = re.compile(r"\S+")


def cut_steps(
    text: str, start: int, stop: int, form: ResponseFormat
) -> tuple[tuple[Range, ...], Cut | None]:
    """Cut a rationale into steps, each with its number and line end; they tile it.

    Rules, of which ``"auto"`` takes the first that gives more than one step (one numbered line
    is a step, too, unless several paragraphs stand before it):

    * ``"numbers"``: lines that begin with the next number from 1 on: ``1. ``, ``2) ``,
      ``Step 3: ``, ``**4.** ``, ``### Step 5``. Other numbers (``3.5 cm``, ``12:30``,
      ``2019: 30``) are text of the step they stand in. Without such lines, the same numbers
      behind the sentences of one paragraph.
    * ``"headings"``: markdown headings and lines that are bold as a whole, with what follows.
    * ``"paragraphs"``: what blank lines part; one that ends in a colon goes with the next.
    * ``"lines"``: lines with text.
    * ``"sentences"``: as `sentencex` cuts them, which knows abbreviations, decimals and CJK.
    * a number n: n words each, the same for every tokenizer.
    * a function: from the rationale's text to where steps start in it.

    Text before the first start belongs to the first step.

    Args:
        text: The response.
        start: Where the rationale starts.
        stop: Where it ends.
        form: The format, with its rule in ``cut``.

    Returns:
        Ranges of ``text``, and what they were cut by; none and ``None`` if nothing is there.

    Raises:
        ProblemError: If a function gives no places inside the text.
    """
    part = text[start:stop]
    if not part.strip():
        return (), None
    first = len(part) - len(part.lstrip())
    # The first step starts with its line, indent included.
    first = part.rfind("\n", 0, first) + 1
    if form.stages:
        starts, cut = _stages(part, form)
    else:
        starts, cut = _starts(part, form)
    bounds = [first]
    for at in sorted({at for at in starts if first < at < len(part)}):
        # White space is no step of its own.
        if part[bounds[-1] : at].strip() and part[at:].strip():
            bounds.append(at)
    ranges = list(pairwise([*bounds, len(part)]))
    if len(ranges) == 1 and cut != "numbers":
        cut = "whole"
    return tuple((start + a, start + b) for a, b in ranges), cut


def number_range(step: str) -> Range:
    """Where the number of a step stands in its text, with the space behind it; empty without one.

    Text may stand before it in the first step.
    """
    for position, line in _lines(step):
        head = _HEAD.match(line)
        if head and _is_head(head):
            rest = line[head.end() :].lstrip(" \t")
            return position, position + len(line) - len(rest)
    return 0, 0


def _starts(part: str, form: ResponseFormat) -> tuple[list[int], Cut]:
    if callable(form.cut):
        places = [int(at) for at in form.cut(part)]
        if not all(0 <= at <= len(part) for at in places):
            raise ProblemError(
                f"Format {form.name}: its function cut a rationale of {len(part)} characters at "
                f"{places}; give places inside it."
            )
        return places, "own"
    if isinstance(form.cut, int):
        words = [word.start() for word in _WORD.finditer(part)]
        return words[:: form.cut], "words"
    if form.cut != "auto":
        return _RULES[form.cut](part), form.cut
    numbered = _numbered(_lines(part))
    if len(numbered) > 1:
        return numbered[1:], "numbers"
    # A single number behind several lines numbers no steps.
    if numbered and len(part[: numbered[0]].split("\n\n")) < 3:
        return _inline(part), "numbers"
    for rule in ("inline", "headings", "paragraphs", "lines", "sentences"):
        starts = _RULES[rule](part)
        if len([at for at in starts if part[:at].strip()]) > 0:
            return starts, "numbers" if rule == "inline" else rule  # type: ignore[return-value]
    return [], "whole"


def _stages(part: str, form: ResponseFormat) -> tuple[list[int], Cut]:
    """A step per stage; the last stage is cut by the rule."""
    starts: list[int] = []
    for name in form.stages[1:]:
        # Behind a quotation mark a tag is only mentioned.
        tag = re.compile(rf"(?<![\"'`\u201c\u2018])<{name}>")
        written = tag.search(part, max(starts, default=0))
        if written is not None:
            starts.append(written.start())
    last = max(starts, default=0)
    inner, _ = _starts(part[last:], form)
    return [*starts, *(last + at for at in inner)], "stages"


def _numbers(part: str) -> list[int]:
    lines = _numbered(_lines(part))
    return lines[1:] if len(lines) > 1 else _inline(part)


def _inline(part: str) -> list[int]:
    """Where the numbers 2, 3, ... of a list inside a paragraph stand."""
    found: list[int] = []
    for mark in _INLINE.finditer(part):
        if int(mark[1]) == len(found) + 1:
            found.append(mark.start())
    return found[1:]


def _headings(part: str) -> list[int]:
    starts = [at for at, line in _lines(part) if _HEADING.match(line.rstrip("\n"))]
    return starts if len(starts) == 1 and part[: starts[0]].strip() else starts[1:]


def _paragraphs(part: str) -> list[int]:
    ends = re.finditer(r"\n[ \t]*\n\s*?(?=[ \t]*\S)", part)
    # What ends in a colon belongs to what follows it.
    return [
        at.end() for at in ends if not part[: at.start()].rstrip("*_ \t").endswith((":", "\uff1a"))
    ]


def _filled(part: str) -> list[int]:
    return [at for at, line in _lines(part) if line.strip()]


def _sentences(part: str) -> list[int]:
    pieces = sentencex.segment("en", part)
    if "".join(pieces) != part:
        return []
    starts = [
        at
        for at in accumulate(map(len, pieces))
        if not _ABBREVIATED.search(part, max(0, at - 12), at)
    ]
    return sorted({*starts[:-1], *(unit.end() for unit in _UNIT_END.finditer(part))})


_RULES = {
    "numbers": _numbers,
    "inline": _inline,
    "headings": _headings,
    "paragraphs": _paragraphs,
    "lines": _filled,
    "sentences": _sentences,
    "whole": lambda part: [],
}


def _lines(part: str) -> list[tuple[int, str]]:
    """The lines of a text, each with its place."""
    lines = part.splitlines(keepends=True)
    return list(zip(accumulate(map(len, lines), initial=0), lines, strict=False))


def _numbered(lines: Sequence[tuple[int, str]]) -> list[int]:
    """Where the lines with the numbers 1, 2, ... start.

    Of several lines with the next number, the one that is written most like the first counts, so
    that a list inside a step stays in it.
    """
    found = [(at, head) for at, line in lines if (head := _HEAD.match(line)) and _is_head(head)]
    heads: list[tuple[int, re.Match[str]]] = []
    while True:
        behind = heads[-1][0] if heads else -1
        later = [
            (at, head)
            for at, head in found
            if at > behind and int(head["number"]) == len(heads) + 1
        ]
        if not later:
            return [at for at, _ in heads]
        first = (heads or later)[0][1]
        heads.append(max(later, key=lambda one: _alike(first, one[1])))


def _is_head(head: re.Match[str]) -> bool:
    return head["step"] is not None or any(sign in head["mark"] for sign in ".:)")


def _alike(first: re.Match[str], second: re.Match[str]) -> int:
    """In how many ways two numbers are written alike; the word "Step" weighs most."""
    words = (first["step"] is None) == (second["step"] is None)
    marks = first["mark"].strip("*_")[:1] == second["mark"].strip("*_")[:1]
    return 3 * words + (first["before"] == second["before"]) + marks
