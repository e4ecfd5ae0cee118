"""A response taken apart: where its rationale, its steps and its answer lie."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from attcot_analysis.problems.formats import TAGS, ResponseFormat, Tags
from attcot_analysis.problems.phrases import END
from attcot_analysis.problems.statement import boxed, find_statement
from attcot_analysis.problems.steps import Cut, Range, cut_steps

if TYPE_CHECKING:
    from attcot_analysis.problems.problem import Step

THINK_OPEN = TAGS.begin
"""What a rationale in tags starts with; the forced answer at k = 0 is asked right after it."""
ANSWER_CUE = TAGS.cue
"""What ends a rationale in tags and asks for the answer, wherever the rationale is cut."""
DIRECT_CUE = TAGS.direct_cue
ANSWER_CLOSE = TAGS.close


@dataclass(frozen=True)
class ParsedResponse:
    """Where the parts of a response lie, as character ranges ``(start, stop)`` of its text.

    Attributes:
        text: The response.
        think: The rationale, without tags; ``None`` for a direct answer.
        steps: Each step with its number and line end, in order; they tile the rationale from
            its first line with text on.
        answer: The answer string; ``None`` if the response states none.
        answer_range: Where that answer stands.
        cut: What the steps were cut by, see `attcot_analysis.problems.steps.cut_steps`;
            ``"whole"`` if the rationale is one step, ``None`` without steps.
        marked: Whether the answer stands in tags of its own.
        outside: What stands outside the rationale, where an answer is looked for if none is
            marked.
        visible: What no tags mark as the rationale: all of a text without tags.
        surplus: How many tags stand there that took no part, mentioned ones left out.
        closed: Whether the answer stands between both of its tags. If not, a response that was
            cut states none.
    """

    text: str
    think: Range | None
    steps: tuple[Range, ...]
    answer: str | None
    answer_range: Range | None
    cut: Cut | None = None
    marked: bool = True
    outside: Range = (0, 0)
    visible: Range = (0, 0)
    surplus: int = 0
    closed: bool = False

    @property
    def step_texts(self) -> tuple[str, ...]:
        """The steps' text, numbers included, stripped."""
        return tuple(self.text[start:stop].strip() for start, stop in self.steps)


def render_response(steps: "Sequence[Step | str]", answer: str) -> str:
    """Write a response in tags: ``<think>`` with numbered steps, then ``<answer>``.

    Without steps the result is the direct form, ``<answer>answer</answer>``.
    """
    return TAGS.render(steps, answer)


def parse_response(
    text: str, form: ResponseFormat = TAGS, *, opened: bool = False
) -> ParsedResponse:
    """Find rationale, steps and answer in a response, however a model wrote it.

    With tags around the rationale, it starts after the opening one. Where the prompt ended in an
    open rationale, it starts with the response, or after the tag if the response repeats it. A
    closing tag without an opening one before it says that the prompt opened the rationale, also
    without ``opened``.

    With tags around the answer, it is the last complete pair that has the end of the rationale
    before it, and the rationale ends at the last closing tag before this answer: tags that a
    rationale mentions are text. Without closing tag the rationale ends at an answer that begins a
    line or ends the response, else with the response. Without a complete pair, the last opening
    tag behind the rationale counts up to the response's end.

    Without tags around the answer it is looked for behind the rationale, see
    `attcot_analysis.problems.statement.find_statement`. Without any tags, the rationale is the
    text before the sentence that states the answer.

    Steps: see `attcot_analysis.problems.steps.cut_steps`.

    Args:
        text: The response.
        form: The format it is in.
        opened: Whether the prompt ended in an open rationale, as chat templates of thinking
            models do.
    """
    rationale, begin = form.rationale, form.begin
    if rationale is None and TAGS.rationale and text.lstrip().startswith(TAGS.rationale[0]):
        # Written although nobody asked for them.
        rationale, begin = TAGS.rationale, TAGS.begin
    tags = _tags(rationale, form.answer, begin)
    think, written, surplus, end = None, None, 0, 0
    start = tags.think_start(text, opened)
    if start is not None or form.answer is not None:
        think, written, surplus, end = tags.parts(text, start)
    visible = end
    marked = written is not None
    closed = written is not None and text.startswith((form.answer or ("", ""))[1], written[1])
    if written is None:
        think, written, end = _untagged(text, think, end, form)
    if written is not None:
        written = _bare(text, *written, form)
    steps, cut = ((), None) if think is None else cut_steps(text, *think, form)
    return ParsedResponse(
        text=text,
        think=think,
        steps=steps,
        answer=None if written is None else text[slice(*written)].strip(),
        answer_range=written,
        cut=cut,
        marked=marked,
        outside=(end, max(end, _stop(text, end, form))),
        visible=(visible, max(visible, _stop(text, visible, form))),
        surplus=surplus,
        closed=closed,
    )


def _untagged(
    text: str, think: Range | None, end: int, form: ResponseFormat
) -> tuple[Range | None, Range | None, int]:
    """Rationale and answer where no tags are around the answer, and where the outside starts."""
    stop = max(end, _stop(text, end, form))
    found = find_statement(text[:stop], end) if text[end:stop].strip() else None
    if form.answer is not None and (found is None or not found.explicit):
        # Where answers stand in tags, a last line is none.
        if think is None and form.rationale is None and len(cut_steps(text, 0, stop, form)[0]) > 1:
            return (0, stop), None, stop
        return think, None, end
    if think is not None or form is TAGS:
        return think, None if found is None else found.answer, end
    if found is not None:
        before = (0, found.begin) if text[: found.begin].strip() else None
        return before, found.answer, found.begin
    # A single sentence is an answer, several are a rationale that states none.
    several = len(cut_steps(text, 0, stop, form)[0]) > 1
    return ((0, stop) if several else None), None, 0


def _stop(text: str, start: int, form: ResponseFormat) -> int:
    """Where a response ends, without what ends a turn."""
    ending = END.search(text, start)
    stop = len(text) if ending is None else ending.start()
    while piece := next((one for one in form.strip if text[:stop].rstrip().endswith(one)), None):
        stop = len(text[:stop].rstrip()) - len(piece)
    return stop


def _bare(text: str, start: int, stop: int, form: ResponseFormat) -> Range:
    """The box in a range, if there is one, else the range without what the format strips."""
    box = boxed(text, start, stop)
    if box is not None:
        return box
    part = text[start:stop]
    kept = part.strip()
    while piece := next((one for one in form.strip if kept.startswith(one)), None):
        kept = kept[len(piece) :].lstrip()
    while piece := next((one for one in form.strip if kept.endswith(one)), None):
        kept = kept[: -len(piece)].rstrip()
    if kept == part.strip():
        return start, stop
    at = start + part.index(kept)
    return at, at + len(kept)


@dataclass(frozen=True)
class _Tags:
    """The tags of a format, and what about them is only mentioned.

    Attributes:
        rationale: Around the rationale; ``None`` where it is not marked.
        answer: Around the answer; ``None`` where it is not marked.
        rest: What stands between the opening tag and the rationale.
        tag: Any of the tags.
        mentions: Tags that are text: in quotes, with nothing between, or as the form is quoted.
    """

    rationale: Tags | None
    answer: Tags | None
    rest: str
    tag: re.Pattern[str]
    mentions: tuple[re.Pattern[str], ...]

    def think_start(self, text: str, opened: bool) -> int | None:
        """Where the rationale starts, behind the tag; ``None`` without one."""
        if self.rationale is None:
            return None
        opening, closing = self.rationale
        first = text.find(opening)
        if first >= 0 and not text[:first].strip():
            at = first + len(opening)
        elif opened or text.count(closing) > text.count(opening):
            at = 0
        elif first >= 0:
            at = first + len(opening)
        else:
            return None
        if text.startswith(self.rest, at):
            return at + len(self.rest)
        return at + text.startswith("\n", at)

    def parts(self, text: str, start: int | None) -> tuple[Range | None, Range | None, int, int]:
        """The ranges of rationale and answer, surplus tags, and where the outside starts."""
        begin = start or 0
        mentioned = [one.span() for form in self.mentions for one in form.finditer(text, begin)]
        closes: list[Range] = []
        opens: list[int] = []
        answers: list[Range] = []
        total = 0
        opening, closing = self.answer or (None, None)
        for found in self.tag.finditer(text, begin):
            if any(a <= found.start() < b for a, b in mentioned):
                continue
            total += 1
            if self.rationale is not None and found[0] == self.rationale[1]:
                closes.append(found.span())
            elif found[0] == opening:
                opens.append(found.end())
            elif found[0] == closing and opens:
                answers.append((opens.pop(), found.start()))
                opens.clear()
        # The last complete one counts, else the last.
        written = [*[(at, len(text)) for at in opens], *answers]
        think, answer, end = self._chosen(text, start, closes, answers, written)
        used = (2 if answer in answers else 1) if answer is not None else 0
        used += bool(closes) and start is not None
        return think, answer, max(0, total - used), end

    def _chosen(
        self,
        text: str,
        start: int | None,
        closes: list[Range],
        answers: list[Range],
        written: list[Range],
    ) -> tuple[Range | None, Range | None, int]:
        if self.rationale is None or start is None:
            answer = written[-1] if written else None
            if self.rationale is not None or answer is None:
                return None, answer, 0
            begin = self._begin(answer)
            return ((0, begin) if text[:begin].strip() else None), answer, begin
        if not closes:
            for answer in reversed(written):
                at = self._begin(answer)
                begins_line = not text[start:at].rpartition("\n")[2].strip()
                if begins_line or (answer in answers and not self._says(text[answer[1] :])):
                    return (start, at), answer, at
            return (start, len(text)), None, len(text)
        behind = [answer for answer in written if answer[0] > closes[-1][0]]
        if not behind and answers and not self._says(text[answers[-1][1] :]):
            behind = answers
        if not behind:
            return (start, closes[-1][0]), None, closes[-1][1]
        before = [close for close in closes if close[0] < behind[-1][0]]
        if before:
            return (start, before[-1][0]), behind[-1], before[-1][1]
        at = self._begin(behind[-1])
        return (start, at), behind[-1], at

    def _begin(self, answer: Range) -> int:
        return answer[0] - len(self.answer[0]) if self.answer is not None else answer[0]

    def _says(self, text: str) -> bool:
        """Whether anything but tags and white space is in a text."""
        return bool(self.tag.sub("", text).strip())


@lru_cache(maxsize=64)
def _tags(rationale: Tags | None, answer: Tags | None, begin: str) -> _Tags:
    pairs = [pair for pair in (rationale, answer) if pair is not None]
    every = "|".join(re.escape(tag) for pair in pairs for tag in pair) or r"(?!)"
    first = "".join(sorted({re.escape(tag[0]) for pair in pairs for tag in pair}))
    quoted = rf"([`'\"])(?:{every})\1|[\u2018\u201c](?:{every})"
    mentions = [quoted] if pairs else []
    last = re.escape(rationale[1]) if rationale is not None else "(?!)"
    for opening, closing in pairs:
        empty = rf"{re.escape(opening)}[^\w{first}]*{re.escape(closing)}"
        mentions.append(rf"{empty}(?!\s*(?:{last})?\s*\Z)")
    if rationale is not None:
        inside = rf"[^\n{first}]*"
        form = rf"{re.escape(rationale[0])}{inside}{re.escape(rationale[1])}"
        if answer is not None:
            form += rf"(?: ?{re.escape(answer[0])}{inside}{re.escape(answer[1])})?"
        mentions.append(rf"{form}(?=[^\n]*\S)")
    rest = ""
    if rationale is not None and begin.startswith(rationale[0]):
        rest = begin[len(rationale[0]) :]
    return _Tags(rationale, answer, rest, re.compile(every), tuple(map(re.compile, mentions)))
