"""What fields of records hold: boxes, rationales, options, ids; and what none may hold."""

import re
from collections.abc import Sequence
from math import inf
from typing import Any

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.box_forms import BoxForms, fits, other_forms, to_pixels
from attcot_analysis.problems.problem import Box, Problem, Step

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
    boxes = []
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
        boxes.append((x0, y0, x1, y1))
    return tuple(dict.fromkeys(boxes))


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
        for number in pattern.finditer(text):
            if int(number[1]) == len(heads) + 1:
                heads.append(number)
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


_PLACE = re.compile(r"^(?:\s*<image>)+|(?:<image>\s*)+$")


def bare_question(text: str) -> str:
    """A question without the placeholder of its picture before or behind it."""
    return _PLACE.sub("", text).strip()


def yes_or_no(answer: str) -> tuple[str, ...]:
    """Candidates of a question whose answer is yes or no; none for another."""
    return YES_NO if answer.strip().casefold() in ("yes", "no") else ()


INSTRUCTION = re.compile(
    r"\s*(?:Please (?:answer|output|choose|select|respond)|\nAnswer with)\b[^\n]*$", re.IGNORECASE
)
_LETTER = re.compile(r"(?<![\w(])\(?([A-Za-z])\s*[:.)\uff0e\uff1a]\s*")
_UNCUT = re.compile(r"^;|;\s*[A-Z]\.\s")
_LISTING = re.compile(r"\s*(?:\bOptions?\s*:?)?[\s(]*$", re.IGNORECASE)


def listed_options(question: str, where: str) -> tuple[str, tuple[str, ...]]:
    """A question without its list of options, and the options: ``A: one; B: two`` or the like.

    Raises:
        ProblemError: If it lists no two options A and B, or the same twice.
    """
    text = INSTRUCTION.sub("", question)
    marks: list[re.Match[str]] = []
    for mark in _LETTER.finditer(text):
        letter = mark[1].upper()
        if letter == chr(65 + len(marks)):
            marks.append(mark)
        elif letter == "A" and len(marks) < 2:
            marks = [mark]
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    options = tuple(
        text[mark.end() : end].strip().rstrip(";,").rstrip()
        for mark, end in zip(marks, ends, strict=False)
    )
    if any(_UNCUT.search(one) for one in options):
        raise ProblemError(f"{where}: its options {question!r:.70} are not in the order A, B, C.")
    if len(options) < 2:
        raise ProblemError(f"{where}: its question {question!r:.80} lists no two options A and B.")
    if len(set(options)) < len(options):
        raise ProblemError(f"{where}: its question {question!r:.80} lists an option twice.")
    return _LISTING.sub("", text[: marks[0].start()]), options


def joined_id(*parts: object) -> str:
    """An id of what a dataset calls an item; every text is one."""
    return "-".join(map(str, parts))


RESERVED = re.compile(
    # Of chat templates, as in <|im_start|>, <|image_pad|>, <|eot_id|>, <|begin_of_box|>.
    r"<\|[A-Za-z0-9_]{1,40}\|>"
    # Of pictures: LLaVA and Idefics, InternVL, Gemma 3, Pixtral.
    r"|<image>|<video>|<global-img>|<fake_token_around_image>|<row_\d+_col_\d+>"
    r"|</?img>|<IMG_CONTEXT>|<image_soft_token>|<(?:start|end)_of_image>|\[IMG(?:_END|_BREAK)?\]"
    # Of turns: Gemma, Idefics3 and SmolVLM, Mistral.
    r"|<(?:start|end)_of_turn>|<end_of_utterance>|\[/?INST\]|<(?:bos|eos|pad)>"
)
"""Placeholders of pictures and tokens of chat templates, of the families that are supported."""


def check_reserved(problem: Problem) -> None:
    """Refuse a problem whose question or candidates hold such a text.

    What else a model's own tokenizer reserves is refused where a prompt is encoded for it.

    Raises:
        ProblemError: Names the text.
    """
    for what, text in (
        ("question", problem.question),
        *(("candidate", one) for one in problem.candidates),
        *(("label", one) for one in problem.picture_labels),
    ):
        found = RESERVED.search(text)
        if found is not None:
            raise ProblemError(
                f"Problem {problem.id}: a {what} holds {found[0]!r}, which models read as a "
                "picture or as the end of a turn; remove it, pictures are put into the prompt."
            )
