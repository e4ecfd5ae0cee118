"""How right an answer to an open question is, by the rule that its benchmark was published with.

==============  ==========================================================================
rule            an answer's score
==============  ==========================================================================
``"exact"``     1 if it is an accepted answer but for letter case, surrounding punctuation,
                article and white space, or the same number
``"relaxed"``   as exact; a number may be off by a relative `Problem.tolerance`, and ``12%``
                is ``12`` and ``0.12``; a year must be exact (ChartQA, arXiv 2203.10244)
``"anls"``      1 − normalised Levenshtein distance to the nearest accepted answer, and 0
                from a distance of 0.5 on (arXiv 1905.13648)
``"vqa"``       min(humans who said it / 3, 1), averaged over all sets of all humans but one
                (arXiv 1505.00468), on texts in that paper's normal form
``"list"``      1 if it has the same entries in any order, each as in exact
``"math"``      1 if it is mathematically equivalent, as ``math-verify`` finds
==============  ==========================================================================
"""

import importlib.util
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, get_args

from rapidfuzz.distance import Levenshtein

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.problem import RELAXED, Scoring
from attcot_analysis.problems.reading import cleaned, open_answer, plain_form, stated_piece

RIGHT = 0.5
"""The score from which on an answer counts as right where the rule is graded."""

_YEAR = re.compile(r"(?:1[5-9]|20)\d\d")
_ASKS_YEAR = re.compile(
    r"\b(?:which|what)\s+(?:\w+\s+){0,2}?years?\b(?!\s*\(?\d)|^\W*when\b|\bwhen\s+(?:did|do|does|was"
    r"|were|is)\b|\bthe\s+years?\s+(?:with|when|where|which|that|in\s+which|of\s+the|was|is|had|did)\b",
    re.IGNORECASE,
)


class Score(NamedTuple):
    """An answer to an open question.

    Attributes:
        answer: The known answer that it is; else itself in a plain form, so that like answers are
            equal; ``None`` if nothing can be read.
        scores: The score of each known answer if that were the right one, 0 to 1.
    """

    answer: str | None
    scores: Mapping[str, float]


def asks_year(question: str, answer: str) -> bool:
    """Whether an answer is a year, which is never right by being near.

    That is four digits from 1500 to 2099 without separator, sign or unit, to a question that asks
    "which year", "what ... year", "when", or for "the year with", "of the", "in which" and the
    like. A year that the question only names ("the value in the year 2018") does not count.
    ChartQA's own code has no such exception, its successor ChartQAPro marks years by hand.
    """
    return bool(_YEAR.fullmatch(answer.strip()) and _ASKS_YEAR.search(question))


def score_open(
    stated: str,
    known: Sequence[str],
    *,
    scoring: Scoring = "exact",
    references: Sequence[str] = (),
    tolerance: float = 0.0,
    question: str = "",
) -> Score:
    """Read and score an answer to an open question.

    Args:
        stated: What a response gives as its answer.
        known: Answers to recognise, the right one first: it is the one with the references.
        scoring: The rule.
        references: Further accepted answers; for ``"vqa"`` those of all humans.
        tolerance: Of ``"relaxed"``.
        question: The question, which says whether a year is asked for.

    Raises:
        ProblemError: If the rule needs a package that is not there.
    """
    check_scoring(scoring)
    known = list(dict.fromkeys(known))
    if scoring in ("exact", "relaxed"):
        near = tolerance or (RELAXED if scoring == "relaxed" else 0.0)
        if asks_year(question, known[0]):
            near = 0.0
        own = {**dict.fromkeys(references, known[0]), **{answer: answer for answer in known}}
        found = open_answer(stated, list(own), tolerance=near)
        found = own.get(found, found) if found is not None else None
        return Score(found, {answer: float(answer == found) for answer in known})
    piece = stated_piece(stated, whole=scoring == "list")
    if piece is None or not plain_form(piece):
        return Score(None, dict.fromkeys(known, 0.0))
    if scoring == "vqa" and len(piece.split()) > 2:
        # "Yes, it is" says yes, and "there are 2 dogs" says 2.
        spoken = open_answer(piece, [*known, *references])
        piece = spoken if spoken in {*known, *references} else piece
    # What math-verify reads, it finds by itself.
    rule, given = _RULES[scoring], stated if scoring == "math" else piece
    scores = {}
    for answer in known:
        accepted = [answer, *references] if answer == known[0] else [answer]
        if scoring == "vqa":
            # An edited picture's answer was not asked of ten humans.
            accepted = list(references) if answer == known[0] else [answer] * 4
        scores[answer] = rule(given, accepted)
    best = max(known, key=lambda answer: scores[answer])
    return Score(best if scores[best] >= RIGHT else plain_form(piece), scores)


def check_scoring(scoring: Scoring) -> None:
    """See that a rule is known, and what it needs is there.

    Raises:
        ProblemError: If not.
    """
    if scoring not in get_args(Scoring):
        raise ProblemError(
            f"There is no scoring {scoring!r}; choose from {', '.join(get_args(Scoring))}."
        )
    if scoring == "math" and importlib.util.find_spec("math_verify") is None:
        raise ProblemError(
            "Scoring 'math' needs the package math-verify; install attcot-analysis[math], or "
            "choose another scoring."
        )


def anls(answer: str, accepted: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the nearest accepted answer; 0 up to half.

    Letter case and white space do not count.

    Source: arXiv 1905.13648, equation 1, threshold 0.5.
    """
    own, *known = (" ".join(text.casefold().split()) for text in (answer, *accepted))
    near = max((1 - Levenshtein.normalized_distance(own, one) for one in known), default=0.0)
    return float(near) if near > RIGHT else 0.0


def vqa_accuracy(answer: str, humans: Sequence[str]) -> float:
    """Mean over all sets of all humans but one of min(those who said it / 3, 1).

    Source: arXiv 1505.00468, as its published code computes it (ten humans, ten sets of nine),
    with that code's normal form of punctuation, numbers in words, articles and contractions.
    """
    count = Counter(map(_vqa_form, humans))[_vqa_form(answer)]
    left_out = [min((count - 1) / 3, 1.0)] * count + [min(count / 3, 1.0)] * (len(humans) - count)
    return sum(left_out) / len(humans)


def same_list(answer: str, accepted: Sequence[str]) -> float:
    """1 if an answer has an accepted answer's entries in any order, else 0.

    Entries are parted by commas, semicolons, lines, "and" and "&"; a comma before three digits is
    one of thousands.
    """
    found = _entries(answer)
    for one in accepted:
        left = _entries(one)
        if len(left) != len(found):
            continue
        for entry in found:
            same = open_answer(entry, left)
            if same in left:
                left.remove(same)
        if not left:
            return 1.0
    return 0.0


def same_mathematics(answer: str, accepted: Sequence[str]) -> float:
    """1 if an answer is equivalent to an accepted answer, else 0.

    Source: ``math-verify``.
    """
    from math_verify import parse, verify

    # Its time limits are alarms, which only the main thread can set.
    limit = 5 if threading.current_thread() is threading.main_thread() else None

    def parsed(text: str) -> Any:
        # Without signs around it, only the numbers of a formula would be found.
        bare = stated_piece(text, raw=True) or text
        formula = "$" not in bare and "\\boxed" not in bare and not _PROSE.search(bare)
        return parse(f"${bare.rstrip('.')}$" if formula else text, parsing_timeout=limit)

    own = parsed(answer)
    return float(any(verify(parsed(one), own, timeout_seconds=limit) for one in accepted))


_PROSE = re.compile(r"(?<![\\A-Za-z])(?!sin|cos|tan|log|exp|sqrt|min|max)[A-Za-z]{3,}")

_RULES: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "anls": anls,
    "vqa": vqa_accuracy,
    "list": same_list,
    "math": same_mathematics,
}

_PARTED = re.compile(r"\s*(?:[;\n\u3001\uff1b]|,(?!\d{3}(?!\d))|\band\b|&)\s*", re.IGNORECASE)


def _entries(text: str) -> list[str]:
    bare = re.sub(r"(?m)^\s*(?:[-*\u2022]|\d+[.)])\s+", "", cleaned(text)).strip(" \t\n[](){}.")
    return [one.strip(" \"'") for one in _PARTED.split(bare) if one.strip(" \"'")]


_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_COUNTS = dict(
    zip(
        ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        "00123456789",
        strict=True,
    )
) | {"ten": "10"}
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am
mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't shan't she'd've
should've shouldn't shouldn't've that's there'd there'd've there're there's they'd they'd've
they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    "".join(letters): word
    for word in _CONTRACTED.split()
    for letters in product(*(("'", "") if letter == "'" else (letter,) for letter in word))
}
"""Contractions by themselves with any of their apostrophes left out."""


def _vqa_form(text: str) -> str:
    """An answer in the normal form of VQA's evaluation code."""
    text = re.sub(r"\s", " ", text).strip()
    thousands = re.search(r"\d,\d", text) is not None
    kept = text
    for sign in _SIGNS:
        alone = f"{sign} " in text or f" {sign}" in text or thousands
        kept = kept.replace(sign, "" if alone else " ")
    kept = re.sub(r"\.(?!\d)", "", kept)
    words = [_COUNTS.get(word, word) for word in kept.casefold().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


_ARTICLES = ("a", "an", "the")
