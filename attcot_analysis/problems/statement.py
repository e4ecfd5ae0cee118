"""Where an untagged text states its answer: a box, "the answer is", or a short last line."""

import re
from typing import NamedTuple

from attcot_analysis.problems.phrases import ABSTRACT, BOXED, GLM_BOX, ITEM, LEAD, PHRASE, asserted

Range = tuple[int, int]

_ASCII = {0xFF01 + at: 0x21 + at for at in range(94)} | {0x3000: 0x20}
"""Full-width forms, one character for one, so that places stay."""
_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"')\]*_]*(?:\s+|(?<=[\u3002\uff01\uff1f]))")
_SHORTENED = re.compile(
    r"(?:\b(?:St|Drs?|Mrs?|Ms|Prof|Mt|Ft|Gen|Col|Lt|Rev|Sen|Rep|Gov|Capt|Co|vs|i\.e|e\.g)"
    r"|(?<![A-Z])[A-Z]\.[ ]?[A-Z])\.\Z"
)
"""A full stop behind an abbreviation, or the second of two initials."""
_NAME = re.compile(r"\W*[A-Z][a-z]+(?: [A-Z]\.)+ [A-Z][\w'-]+\W*")
"""A name with an initial, which ends no sentence."""
_BECAUSE = re.compile(r",?\s+(?:because|since|as the|as it)\b", re.IGNORECASE)
_CORRECT = re.compile(
    r"(?:\b(?i:so|thus|therefore|hence|option|choice),?\s+)*"
    r"(?P<answer>[(\[]?[A-Z][)\]]?(?:[.:]?[ \t]+[^.\n]{1,80}?)?)"
    r"[ \t]+(?:is|would be|must be)(?:[ \t]+(?:the|most|likely))*[ \t]+(?:correct|right|best)"
    r"(?:[ \t]+(?:answer|option|choice))?[ \t]*[.!*]*(?=\s|\Z)",
)
"""A sentence such as "So (C) is correct."; the letter is a capital."""
_TITLE = re.compile(
    r"[ \t]*(?:#{1,6}[ \t]*|(?:\*\*|__))\W*(?:(?:the|final|correct|my)[ \t]+)*"
    r"(?:answer|conclusion|\u7b54\u6848|\u7ed3\u8bba|\u7b54\u3048)\W*",
    re.IGNORECASE,
)
"""A heading of its own above an answer."""
_ITEMS = re.compile(rf"(?:{ITEM.pattern}[^\n]*\n+)+{ITEM.pattern}[^\n]*")
"""A list behind what announces it: several answers."""
_BULLET = re.compile(r"[ \t]*[-*\u2022][ \t]+(?!\d)")
_LISTED = re.compile(
    r":[*_ \t]*\n+((?:[ \t]*[-*\u2022][ \t][^\n]*\n+)+[ \t]*[-*\u2022][ \t][^\n]*)\s*\Z"
)
"""A list at the end."""
_COPULA = re.compile(
    r"(?:\u3067\u3059|\u3067\u3042\u308b|\u3060|\uc785\ub2c8\ub2e4|\uc774\ub2e4)\Z"
)
"""What ends a Japanese or Korean sentence behind its answer."""
_BOLD = re.compile(r"(\*\*|__).*[^:]\1[.!]?")
_FIRST = re.compile(
    r"(?!\s*\d+[.)]\s*\Z)[\s*_`\"'(]*(?:yes|no|[-+]?[$\u20ac\u00a3]?\d[\d.,]*\s?%?)[.!*_`\"')\s]*",
    re.IGNORECASE,
)
"""A line that is yes, no or a number; that of a list's item is none."""
_LATER = re.compile(
    r"[\W\d]*\Z|\W*(?:so|thus|therefore|hence|wait|actually|(?:in )?total|final)\b"
    r"|.*\b(?:yes|no)\b",
    re.IGNORECASE,
)
"""A last line that may state another one."""
_FEW = 4
"""Words before "the answer is" that still belong to it, such as "Therefore, the"."""
_INTRO = re.compile(
    r"\W*(?:based on|from|given|according to|looking at|considering|in conclusion|in summary)\b",
    re.IGNORECASE,
)
"""What leads to an answer and is no reasoning: "Based on all of this, the"."""
_LINK = re.compile(
    r"(?:(?:^|[\s,;:]+)(?:and|so|thus|hence|therefore|which means|that|the|my|our|final|correct"
    r"|best)\b)+[\s,:]*\Z",
    re.IGNORECASE,
)
"""What stands between a reason and "answer is" in one sentence."""
_SHORT = 6
"""Words that a last line may have to be an answer."""


class Statement(NamedTuple):
    """Where an answer is stated.

    Attributes:
        begin: Where the sentence starts that states it.
        answer: The answer in it.
        explicit: Whether something says that it is the answer; else it is a short last line.
    """

    begin: int
    answer: Range
    explicit: bool


def find_statement(text: str, start: int = 0) -> Statement | None:
    r"""Find what an untagged text gives as its answer.

    That is the content of the last ``\boxed{}`` (or of GLM's box tokens), else what follows the
    last "the answer is", "Answer:" and the like (also in Chinese, Japanese and Korean) up to the
    sentence's end, else a last line of at most six words or one that begins with an option's
    letter.

    Args:
        text: A response.
        start: Where to look from.

    Returns:
        ``None`` if it states none.
    """
    text = text[:start] + asserted(text[start:])
    plain = text.translate(_ASCII)
    correct = _last_correct(plain, text, start)
    box = boxed(text, start, len(text))
    if box is not None:
        place = max(plain.rfind(sign, start, box[0]) for sign in ("\\boxed", "<|begin_of_box|>"))
        return Statement(_begin(plain, start, place), box, True)
    for found in reversed(list(PHRASE.finditer(plain, start))):
        if ABSTRACT.match(plain, found.end()):
            continue
        answer = _behind(plain, text, found.end())
        if answer is not None:
            said = Statement(_begin(plain, start, found.start()), answer, True)
            return said if correct is None or correct.begin < said.answer[0] else correct
    if correct is not None:
        return correct
    lines = [line for line in re.finditer(r"[^\n]+", plain[start:]) if line[0].strip(" \t*_`#-")]
    if not lines:
        return None
    if len(lines) > 1 and _FIRST.fullmatch(lines[0][0]) and not _LATER.match(lines[-1][0]):
        # Yes, or a number, and then the reason.
        begin = lines[0].start() + start
        return Statement(begin, _bare(text, begin, lines[0].end() + start), False)
    if titled(plain[start:]) or lines[-1][0].lstrip()[0] == "|":
        return None
    listed = _LISTED.search(plain, start)
    if listed and all(len(one.split()) <= _SHORT for one in listed[1].splitlines()):
        return Statement(_begin(plain, start, listed.start(1)), listed.span(1), False)
    begin, stop = lines[-1].start() + start, lines[-1].end() + start
    head = re.match(r"\s*(?:[-*>#]+\s+)?", plain[begin:stop])
    answer = _bare(text, begin + (head.end() if head else 0), stop)
    above = lines[-2] if len(lines) > 1 else None
    # An option with its letter may be long, unless it is the last of a list of options.
    option = LEAD.match(plain[begin:stop]) and not (above and LEAD.match(above[0]))
    short = len(text[slice(*answer)].split()) <= _SHORT
    if not (short or option) or answer[0] == answer[1]:
        return None
    if above is not None and above[0].rstrip("*_ \t").endswith(":"):
        # "Based on the picture:" leads to the answer and is no step.
        begin = above.start() + start
    return Statement(_begin(plain, start, begin), answer, False)


def titled(text: str) -> bool:
    """Whether a text is a short bold line and then sentences: that line may be the answer."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" \t*_`#-")]
    heads = [line for line in lines if line.startswith("#") or _BOLD.fullmatch(line)]
    return (
        len(lines) > 1
        and heads == lines[:1]
        and not (heads[0].startswith("#") or _TITLE.fullmatch(heads[0]))
        and len(heads[0].split()) <= _SHORT
        and len(lines[-1].split()) > 2
    )


def _last_correct(plain: str, text: str, start: int) -> Statement | None:
    found = [
        one
        for one in _CORRECT.finditer(plain, start)
        if _sentence_start(plain, start, one.start()) == one.start()
    ]
    if not found:
        return None
    return Statement(found[-1].start(), _bare(text, *found[-1].span("answer")), True)


def boxed(text: str, start: int, stop: int) -> Range | None:
    r"""The content of the last ``\boxed{}`` or GLM box in a part of a text."""
    boxes = [*BOXED.finditer(text, start, stop), *GLM_BOX.finditer(text, start, stop)]
    if not boxes:
        return None
    last = max(boxes, key=lambda box: box.start())
    # A box inside GLM's box is the answer itself.
    inner = BOXED.search(text, *last.span(1))
    return _bare(text, *(inner or last).span(1))


def _behind(plain: str, text: str, at: int) -> Range | None:
    """The answer behind a phrase: the rest of its sentence, or the next line with text."""
    for line in re.finditer(r"[^\n]+", plain[at:]):
        if not line[0].strip(" \t*_:-`\"'"):
            continue
        start, stop = at + line.start(), at + line.end()
        if plain[start - 1] == "\n":
            if several := _ITEMS.match(plain, start):
                return several.span()
            bullet = _BULLET.match(plain, start, stop)
            start = bullet.end() if bullet else start
        lead = LEAD.match(plain[start:stop])
        ends = _END.finditer(plain, start + (lead.end() if lead else 0), stop)
        end = next(
            (one for one in ends if not _SHORTENED.search(plain, start, one.start() + 1)), None
        )
        if end and not _NAME.fullmatch(plain, start, stop):
            stop = end.start() + 1
        reason = _BECAUSE.search(plain, start + 1, stop)
        if reason:
            stop = reason.start()
        answer = _bare(text, start, stop)
        if answer[0] < answer[1]:
            return answer
    return None


def _begin(plain: str, start: int, place: int) -> int:
    """Where the statement at a place begins, with a heading of its own above it."""
    begin = _sentence_start(plain, start, place)
    while begin > start and plain[begin - 1] in "$*[\\_ \t":
        begin -= 1
    above = plain[start:begin].rstrip()
    line = start + above.rfind("\n") + 1
    ends_line = "\n" in plain[start + len(above) : begin]
    return line if ends_line and _TITLE.fullmatch(plain, line, start + len(above)) else begin


def _sentence_start(plain: str, start: int, place: int) -> int:
    """The start of the sentence at a place; the place, if much stands before it there."""
    line = max(plain.rfind("\n", start, place) + 1, start)
    ends = [end.end() for end in _END.finditer(plain, line, place)]
    begin = ends[-1] if ends else line
    phrase = PHRASE.search(plain, begin, place)
    if phrase:
        place = phrase.start()
    before = plain[begin:place]
    if len(before.split()) <= _FEW or _INTRO.match(before):
        return begin
    link = _LINK.search(before)
    return place if link is None else begin + link.start()


def _bare(text: str, start: int, stop: int) -> Range:
    """A range without white space, markdown and quotes around it and a final full stop."""
    around = ' \t\r\n*_`$"\u201c\u201d'
    part = text[start:stop]
    start += len(part) - len(part.lstrip(around + ":"))
    part = text[start:stop].rstrip(around)
    if part.endswith((".", "\u3002")):
        part = part[:-1].rstrip(around)
    part = _COPULA.sub("", part)
    return start, max(start, start + len(part))
