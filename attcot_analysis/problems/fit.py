"""Whether responses are in a format, which one they are in, and how one is cut, as text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from attcot_analysis.errors import ProblemError
from attcot_analysis.escapes import for_sentence
from attcot_analysis.problems.formats import FORMATS, ResponseFormat
from attcot_analysis.problems.response import ParsedResponse, parse_response

_STRANGE = re.compile(
    r"\s*(?:<(?!(?:answer|b|i|u|p|em|strong|code|div|span|table|[uo]l|h\d)>)([A-Za-z][\w:-]*)>"
    r".*</\1>|\[([A-Z]{3,})\].*\[/\2\]|<\|channel\|>)",
    re.DOTALL,
)
"""Tags at the start that no format here knows, such as those of a rationale."""
ENOUGH = 0.5
"""The share of responses that a format must fit."""


@dataclass(frozen=True)
class FormatFit:
    """How well a format fits responses.

    Attributes:
        format: The format.
        parsed: The responses, taken apart.
        fitting: For each, whether it is in this format: the format's tags stand in it and no
            others do. One without any tags fits untagged formats, and one that was cut fits if
            it begins as the format does.
        told: Whether most responses hold all tags of the format; a bare answer, or one that was
            cut early, fits many formats.
    """

    format: ResponseFormat
    parsed: tuple[ParsedResponse, ...]
    fitting: tuple[bool, ...]
    told: bool

    @property
    def share(self) -> float:
        """The share of responses that fit; 0 of none."""
        return sum(self.fitting) / len(self.fitting) if self.fitting else 0.0

    @cached_property
    def unread(self) -> tuple[int, ...]:
        """Which responses do not fit, or have neither steps nor answer."""
        return tuple(
            at
            for at, one in enumerate(self.parsed)
            if not self.fitting[at] or (not one.steps and one.answer is None)
        )

    def __str__(self) -> str:
        """The shares and what the steps were cut by, in one sentence."""
        cuts = [one.cut for one in self.parsed if one.cut is not None]
        rules = ", ".join(f"{cuts.count(cut)} {cut}" for cut in dict.fromkeys(cuts))
        n = max(len(self.parsed), 1)
        steps = sum(bool(one.steps) for one in self.parsed) / n
        answers = sum(one.answer is not None for one in self.parsed) / n
        return (
            f"Format {self.format.name} fits {self.share:.0%} of {len(self.parsed)} responses; "
            f"{steps:.0%} have steps{f' (cut by: {rules})' if rules else ''}, "
            f"{answers:.0%} state an answer."
        )


@dataclass(frozen=True)
class Detection:
    """Which format responses are in, and why.

    Attributes:
        fit: The format that was chosen, with the responses as it cuts them.
        why: What it was decided by, in one sentence.
        others: How well the other named formats fit, best first.
    """

    fit: FormatFit
    why: str
    others: tuple[FormatFit, ...]

    @property
    def format(self) -> ResponseFormat:
        """The format that was chosen."""
        return self.fit.format

    def __str__(self) -> str:
        """What was decided and why."""
        return f"Format {self.format.name}: {self.why}"


def fit_format(
    texts: Sequence[str],
    form: ResponseFormat,
    *,
    opened: bool = False,
    finished: Sequence[bool] | None = None,
) -> FormatFit:
    """See how well a format fits responses.

    Args:
        texts: The responses.
        form: The format.
        opened: Whether their prompts ended in an open rationale.
        finished: For each, whether it came to its end; default: all did.
    """
    ended = [True] * len(texts) if finished is None else list(finished)
    parsed = tuple(parse_response(text, form, opened=opened) for text in texts)
    both = zip(parsed, ended, strict=True)
    found = [_fits(one, form, opened, end) for one, end in both]
    shown = found.count("shown")
    told = shown > 0 and shown >= ENOUGH * (len(found) - found.count("begun"))
    return FormatFit(form, parsed, tuple(map(bool, found)), told)


def detect_format(
    texts: Sequence[str],
    *,
    prompt: str = "",
    finished: Sequence[bool] | None = None,
    own: Sequence[ResponseFormat] = (),
) -> Detection:
    """Decide which named format responses are in, from a handful of them and their prompt.

    Of the formats that fit at least half of the responses, the one with most tags is chosen, then
    the one that fits most. If the prompt ends in an open rationale, only formats that open it so
    come into question.

    Args:
        texts: The responses; a handful is enough.
        prompt: The end of a prompt as the chat template renders it; empty if it is not known.
        finished: For each response, whether it came to its end; default: all did.
        own: Further formats, such as the tokenizer's own; of equals they are taken.

    Raises:
        ProblemError: If there are no responses and the prompt opens no rationale, or no format
            fits half of them.
    """
    every = [*own, *FORMATS.values()]
    opening = [form for form in every if form.is_open(prompt)]
    known = opening or every
    if not any(text.strip() for text in texts):
        if not opening:
            raise ProblemError(
                "There are no responses to decide a format from; give some, or name the format."
            )
        # Nothing but the prompt: the format that marks no answer promises least.
        known = [form for form in opening if form.answer is None] or opening
    fits = [fit_format(texts, form, opened=form in opening, finished=finished) for form in known]
    best = max(fits, key=_rank) if any(text.strip() for text in texts) else fits[0]
    if texts and best.share < ENOUGH:
        best = max(fits, key=lambda fit: fit.share)
        raise ProblemError(
            f"No named format fits half of the {len(texts)} responses (best: {best.format.name}, "
            f"{best.share:.0%}); write one as YAML and name it, see docs/formats.md."
        )
    reasons = []
    if opening:
        reasons.append(f"the chat template ends in {opening[0].rationale[0]!r}")  # type: ignore[index]
    if any(text.strip() for text in texts):
        sign = [f"what matches {best.format.sign}"] if best.format.sign is not None else []
        names = [*map(repr, _ends(best.format)), *sign]
        marks = " and ".join(names) if best.told else "no other tags"
        reasons.append(f"{best.share:.0%} of {len(texts)} responses hold {marks}")
    others = tuple(sorted((fit for fit in fits if fit is not best), key=lambda fit: -fit.share))
    return Detection(best, "; ".join(reasons) + ".", others)


def check_fit(fit: FormatFit, others: Sequence[FormatFit] = ()) -> None:
    """Refuse a format that fits fewer than half of the responses.

    Args:
        fit: The format with the responses.
        others: Other formats with the same responses, of which the best is named.

    Raises:
        ProblemError: If it fits fewer.
    """
    if fit.share >= ENOUGH or not fit.parsed:
        return
    known = (one for one in others if one.format.name != fit.format.name)
    best = max(known, key=_rank, default=fit)
    meant = (
        f"{best.format.name} fits {best.share:.0%}: give --format {best.format.name}."
        if best.share > fit.share
        else "no named format fits better: write one as YAML, see docs/formats.md."
    )
    raise ProblemError(
        f"Format {fit.format.name} fits {fit.share:.0%} of {len(fit.parsed)} responses; {meant}"
    )


def shown_cut(parsed: ParsedResponse) -> str:
    """A response as it was cut, one line per step, safe for a terminal."""
    lines = []
    if parsed.think is None:
        lines.append("  no rationale")
    for number, text in enumerate(parsed.step_texts, start=1):
        lines.append(f"  step {number:>2} | {plain_line(text)}")
    answer = "none stated" if parsed.answer is None else plain_line(parsed.answer)
    lines.append(f"  answer  | {answer}")
    if parsed.cut is not None:
        lines.append(f"  cut by {parsed.cut}" + (", one step" if len(parsed.steps) == 1 else ""))
    if parsed.surplus:
        lines.append(f"  {parsed.surplus} surplus tags")
    return "\n".join(lines)


def plain_line(text: str, width: int = 76) -> str:
    """A text in one line for a terminal: control signs are written out, long middles left out."""
    safe = for_sentence(" ".join(text.split()))
    if len(safe) <= width:
        return safe
    tail = width // 3
    return f"{safe[: width - tail - 5]} ... {safe[-tail:]}"


def _ends(form: ResponseFormat) -> tuple[str, ...]:
    """Tags that stand in every response in a format that came to its end."""
    return (*(form.rationale or ())[1:], *(form.answer or ())[:1])


def _marks(form: ResponseFormat) -> list[str]:
    """Patterns that stand there: the tags, and the sign where the format has one."""
    return [*map(re.escape, _ends(form)), *([] if form.sign is None else [form.sign])]


def _rank(fit: FormatFit) -> tuple[bool, int, float]:
    """Formats that fit, first those with most tags if the responses show them, else with fewest."""
    marks = len(_marks(fit.format))
    return fit.share >= ENOUGH, marks if fit.told else -marks, fit.share


def _fits(
    parsed: ParsedResponse, form: ResponseFormat, opened: bool, finished: bool
) -> Literal["shown", "begun", "bare", ""]:
    """Whether a response is in a format, and whether all of the format's tags show it."""
    text = parsed.text
    if not text.strip():
        return ""
    # Of all named formats, those that end a rationale or surround an answer.
    known = {
        tag for one in FORMATS.values() for tag in (*(one.rationale or ())[1:], *(one.answer or ()))
    }
    held = {tag for tag in known if tag in text}
    own = {tag for pair in (form.rationale, form.answer) if pair is not None for tag in pair}
    first = _STRANGE.match(text)
    strange = first is not None and not own & {f"<{first[1]}>", f"[{first[2]}]"}
    if strange and form.rationale is None:
        return ""
    marks = _marks(form)
    if all(re.search(mark, text) for mark in marks):
        if form.rationale is None and held - own:
            return ""
        if marks:
            return "shown"
        return "" if held else "bare"
    begun = opened or (form.rationale is not None and text.lstrip().startswith(form.rationale[0]))
    if begun and form.rationale is not None and form.rationale[1] not in text:
        # Cut inside the rationale; without knowing that it was cut, this may be another format.
        return "" if held - own else "begun"
    direct = form.answer is not None and text.lstrip().startswith(form.answer[0])
    direct_words = form.answer is None and not held and not strange
    bare = direct_words and parsed.think is None and parsed.answer is not None
    if direct:
        return "shown"
    return "bare" if bare or (not finished and form.rationale is None and not held) else ""
