"""Texts of datasets as ours: rationales cut into steps, options in the question, yes and no."""

import re
from collections.abc import Sequence

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.problem import Step

YES_NO = ("Yes", "No")

_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")
_INLINE = re.compile(r"(?:^|(?<=\s))(?:step\s*)?(\d{1,2})[.):]\s+", re.IGNORECASE)
_AT_LINE = re.compile(r"^[ \t]*(?:step[ \t]*)?(\d{1,2})[.):][ \t]+", re.IGNORECASE | re.MULTILINE)
_HEAD = re.compile(r"^\s*(?:[-*\u2022]|(?:step\s*)?\d{1,2}[.):])\s+", re.IGNORECASE)


def rationale_steps(text: str) -> tuple[Step, ...]:
    """Cut a rationale into steps: at its own numbers 1, 2, ..., else its lines, else sentences."""
    parts = _numbered(text) or [line for line in text.splitlines() if line.strip()]
    if len(parts) == 1:
        parts = _SENTENCE.split(parts[0])
    plain = [_HEAD.sub("", " ".join(part.split())).strip() for part in parts]
    return tuple(Step(part) for part in plain if part)


def _numbered(text: str) -> list[str]:
    """The parts behind the numbers 1, 2, ... of a text; empty unless it begins with 1."""
    for pattern in (_AT_LINE, _INLINE):
        heads: list[re.Match[str]] = []
        for found in pattern.finditer(text):
            if int(found[1]) == len(heads) + 1:
                heads.append(found)
        if len(heads) > 1 and not text[: heads[0].start()].strip():
            ends = [*(head.start() for head in heads[1:]), len(text)]
            return [text[head.end() : end] for head, end in zip(heads, ends, strict=True)]
    return []


def with_options(question: str, options: Sequence[str]) -> str:
    """A question that lists its options by letter, so that a letter can be read as an answer.

    Raises:
        ProblemError: If there are more options than letters.
    """
    if len(options) > 26:
        raise ProblemError(f"A question has {len(options)} options, more than there are letters.")
    listed = "\n".join(f"{chr(65 + at)}) {option}" for at, option in enumerate(options))
    return f"{question.strip()}\n{listed}"


def yes_or_no(answer: str) -> tuple[str, ...]:
    """Candidates of a question whose answer is yes or no; none for another."""
    return YES_NO if answer.strip().casefold() in ("yes", "no") else ()
