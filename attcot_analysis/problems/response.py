"""The text form of a response: numbered steps inside ``<think>``, then ``<answer>``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from attcot_analysis.problems.problem import Step

THINK_OPEN = "<think>\n"
"""What a rationale starts with; the forced answer at k = 0 is asked right after it."""
ANSWER_CUE = "</think>\n<answer>"
"""What ends a rationale and asks for the answer, wherever the rationale is cut."""
DIRECT_CUE = "<answer>"
ANSWER_CLOSE = "</answer>"

_OPEN, _CLOSE = "<think>", "</think>"
_TAG = re.compile(r"</?(?:think|answer)>")
_MENTIONED = re.compile(r"([`'\"])</?(?:think|answer)>\1|[\u2018\u201c]</?(?:think|answer)>")
_EMPTY = re.compile(r"<(think|answer)>[^\w<]*</\1>(?!\s*(?:</think>)?\s*\Z)")
_FORM = re.compile(r"<think>[^\n<]*</think>(?: ?<answer>[^\n<]*</answer>)?(?=[^\n]*\S)")
_DRESS = r"(?:\*\*|__|[*_])?"
_HEAD = re.compile(
    rf"(?P<before>[ \t]*(?:(?:\#{{1,6}}|[-*>])[ \t]+)?{_DRESS}\(?)"
    rf"(?P<step>step[ \t]*)?(?P<number>[0-9]{{1,3}})"
    rf"(?P<mark>{_DRESS}[.:)]{{1,2}}{_DRESS}(?=\s|\Z)|{_DRESS}(?=\s*\Z))",
    re.IGNORECASE,
)
_INLINE = re.compile(r"\s(?:step[ \t]*)?2[.:)]\s", re.IGNORECASE)

Cut = Literal["numbers", "lines", "whole"]


@dataclass(frozen=True)
class ParsedResponse:
    """Where the parts of a response lie, as character ranges ``(start, stop)`` of its text.

    Attributes:
        text: The response.
        think: The rationale, between the tags; ``None`` for a direct answer.
        steps: Each step with its number and line end, in order; they tile the rationale from
            its first line with text on.
        answer: The answer string between the tags; ``None`` if the response states none.
        answer_range: Where that answer stands.
        cut: Where the steps come from: ``"numbers"``, ``"lines"``, or ``"whole"`` if the
            rationale is one paragraph without numbered lines, so that it is one step; ``None``
            without steps.
    """

    text: str
    think: tuple[int, int] | None
    steps: tuple[tuple[int, int], ...]
    answer: str | None
    answer_range: tuple[int, int] | None
    cut: Cut | None = None

    @property
    def step_texts(self) -> tuple[str, ...]:
        """The steps' text, numbers included, stripped."""
        return tuple(self.text[start:stop].strip() for start, stop in self.steps)


def render_response(steps: "Sequence[Step | str]", answer: str) -> str:
    """Write a response: ``<think>`` with numbered steps, then ``<answer>``.

    Without steps the result is the direct form, ``<answer>answer</answer>``.
    """
    final = f"{DIRECT_CUE}{answer}{ANSWER_CLOSE}"
    if not steps:
        return final
    texts = [step if isinstance(step, str) else step.text for step in steps]
    lines = "".join(f"{number}. {text}\n" for number, text in enumerate(texts, start=1))
    return f"{THINK_OPEN}{lines}</think>\n{final}"


def is_open(prompt: str) -> bool:
    """Whether a rendered prompt ends in an open ``<think>``, as those of thinking checkpoints do.

    What a model writes behind it begins inside the rationale and holds no opening tag.
    """
    return re.search(r"<think>\s*\Z", prompt) is not None


def with_opening(text: str) -> str:
    """A response with the opening tag that its prompt has written, unless it repeats it."""
    return text if text.lstrip().startswith("<think>") else f"{THINK_OPEN}{text}"


def without_opening(text: str) -> str:
    """A response as it stands behind a prompt that has opened the rationale."""
    return re.sub(r"\A\s*<think>\n?", "", text)


def parse_response(text: str, *, opened: bool = False) -> ParsedResponse:
    """Find rationale, steps and answer in a response, however a model wrote it.

    The rationale starts after ``<think>``. Where the prompt ended in an open ``<think>``, it
    starts with the response, or after the tag if the response repeats it. A ``</think>`` without
    ``<think>`` before it says that the prompt opened the rationale, also without ``opened``.

    The answer is the last complete ``<answer>...</answer>`` that has a ``</think>`` before it,
    and the rationale ends at the last ``</think>`` before this answer: tags that a rationale
    mentions are text. Without ``</think>`` the rationale ends at an answer that begins a line or
    ends the response, else with the response. Without a complete answer, the last ``<answer>``
    behind the rationale counts up to the response's end.

    A step starts at a line that begins with the next number from 1 on: ``1. ``, ``2) ``,
    ``Step 3: ``, also ``**4.** `` and ``### Step 5``. Other numbers (``3.5 cm``, ``12:30``,
    ``2019: 30``) are text of the step they stand in. Text before the first number belongs to the
    first step. A rationale with no numbered line is cut into its non-empty lines.

    Args:
        text: The response.
        opened: Whether the prompt ended in an open ``<think>``, as chat templates of thinking
            models do.
    """
    start = _think_start(text, opened)
    think, written = _parts(text, start)
    steps, cut = ((), None) if think is None else _step_ranges(text, *think)
    return ParsedResponse(
        text=text,
        think=think,
        steps=steps,
        answer=None if written is None else text[slice(*written)].strip(),
        answer_range=written,
        cut=cut,
    )


def number_range(step: str) -> tuple[int, int]:
    """Where the number of a step stands in its text, with the space behind it; empty without one.

    Text may stand before it in the first step.
    """
    position = 0
    for line in step.splitlines(keepends=True):
        head = _HEAD.match(line)
        if head and _is_head(head):
            space = len(line[head.end() :]) - len(line[head.end() :].lstrip(" \t"))
            return position, position + head.end() + space
        position += len(line)
    return 0, 0


def _think_start(text: str, opened: bool) -> int | None:
    """Where the rationale starts, behind the tag and one line end."""
    first = text.find(_OPEN)
    if first >= 0 and not text[:first].strip():
        at = first + len(_OPEN)
    elif opened or text.count(_CLOSE) > text.count(_OPEN):
        at = 0
    elif first >= 0:
        at = first + len(_OPEN)
    else:
        return None
    return at + text.startswith("\n", at)


def _parts(text: str, start: int | None) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """The ranges of rationale and answer."""
    begin = start or 0
    forms = (_MENTIONED, _EMPTY, _FORM)
    mentioned = [one.span() for form in forms for one in form.finditer(text, begin)]
    closes: list[int] = []
    opens: list[int] = []
    answers: list[tuple[int, int]] = []
    for found in _TAG.finditer(text, begin):
        if any(a <= found.start() < b for a, b in mentioned):
            continue
        if found[0] == _CLOSE:
            closes.append(found.start())
        elif found[0] == DIRECT_CUE:
            opens.append(found.end())
        elif found[0] == ANSWER_CLOSE and opens:
            answers.append((opens.pop(), found.start()))
            opens.clear()
    # The last complete one counts, else the last.
    written = [*[(at, len(text)) for at in opens], *answers]
    if start is None:
        return None, written[-1] if written else None
    if not closes:
        for answer in reversed(written):
            at = answer[0] - len(DIRECT_CUE)
            begins_line = not text[start:at].rpartition("\n")[2].strip()
            if begins_line or (answer in answers and not _says(text[answer[1] :])):
                return (start, at), answer
        return (start, len(text)), None
    behind = [answer for answer in written if answer[0] > closes[-1]]
    if not behind and answers and not _says(text[answers[-1][1] :]):
        behind = answers
    if not behind:
        return (start, closes[-1]), None
    before = [close for close in closes if close < behind[-1][0]]
    return (start, before[-1] if before else behind[-1][0] - len(DIRECT_CUE)), behind[-1]


def _says(text: str) -> bool:
    """Whether anything but tags and white space is in a text."""
    return bool(_TAG.sub("", text).strip())


def _step_ranges(
    text: str, start: int, stop: int
) -> tuple[tuple[tuple[int, int], ...], Cut | None]:
    lines = []
    position = start
    for line in text[start:stop].splitlines(keepends=True):
        lines.append((position, line))
        position += len(line)
    filled = [at for at, line in lines if line.strip()]
    if not filled:
        return (), None
    heads = _numbered(lines)
    cut: Cut = "numbers" if heads else "lines"
    starts = [filled[0], *heads[1:]] if heads else filled
    if len(starts) == 1 and (not heads or _INLINE.search(text, start, stop)):
        cut = "whole"
    return tuple(zip(starts, [*starts, stop][1:], strict=True)), cut


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
