"""The text form of a response: numbered steps inside ``<think>``, then ``<answer>``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from attcot_analysis.problems.problem import Step

THINK_OPEN = "<think>\n"
"""What a rationale starts with; the forced answer at k = 0 is asked right after it."""
ANSWER_CUE = "</think>\n<answer>"
"""What ends a rationale and asks for the answer, wherever the rationale is cut."""
DIRECT_CUE = "<answer>"
ANSWER_CLOSE = "</answer>"

_THINK = re.compile(r"<think>\n?(.*?)(?:</think>|<answer>|\Z)", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_STEP = re.compile(r"[ \t]*(?:step[ \t]*)?\d+[.:)][ \t]*\S", re.IGNORECASE)


@dataclass(frozen=True)
class ParsedResponse:
    """Where the parts of a response lie, as character ranges ``(start, stop)`` of its text.

    Attributes:
        text: The response.
        think: The rationale, between the tags; ``None`` for a direct answer.
        steps: Each step with its number and line end, in order; they tile the rationale from
            the first step on.
        answer: The answer string between the tags; ``None`` if the response states none.
        answer_range: Where that answer stands.
    """

    text: str
    think: tuple[int, int] | None
    steps: tuple[tuple[int, int], ...]
    answer: str | None
    answer_range: tuple[int, int] | None

    @property
    def step_texts(self) -> tuple[str, ...]:
        """The steps' text, numbers included, stripped."""
        return tuple(self.text[start:stop].strip() for start, stop in self.steps)


def render_response(steps: Sequence[Step | str], answer: str) -> str:
    """Write a response: ``<think>`` with numbered steps, then ``<answer>``.

    Without steps the result is the direct form, ``<answer>answer</answer>``.
    """
    final = f"{DIRECT_CUE}{answer}{ANSWER_CLOSE}"
    if not steps:
        return final
    texts = [step.text if isinstance(step, Step) else step for step in steps]
    lines = "".join(f"{number}. {text}\n" for number, text in enumerate(texts, start=1))
    return f"{THINK_OPEN}{lines}</think>\n{final}"


def parse_response(text: str) -> ParsedResponse:
    """Find rationale, steps and answer in a response, however a model wrote it.

    A step starts at a line that begins with a number (``1.``, ``2)``, ``Step 3:``). A rationale
    with no numbered line is cut into its non-empty lines. Unclosed tags end with the text.
    """
    found = _THINK.search(text)
    think = found.span(1) if found else None
    steps: tuple[tuple[int, int], ...] = ()
    if think is not None:
        steps = _step_ranges(text, *think)
    answer = _ANSWER.search(text, think[1] if think else 0)
    return ParsedResponse(
        text=text,
        think=think,
        steps=steps,
        answer=answer.group(1).strip() if answer else None,
        answer_range=answer.span(1) if answer else None,
    )


def _step_ranges(text: str, start: int, stop: int) -> tuple[tuple[int, int], ...]:
    lines = []
    position = start
    for line in text[start:stop].splitlines(keepends=True):
        lines.append((position, line))
        position += len(line)
    heads = [at for at, line in lines if _STEP.match(line)]
    if not heads:
        heads = [at for at, line in lines if line.strip()]
    return tuple(zip(heads, [*heads, stop][1:], strict=True)) if heads else ()
