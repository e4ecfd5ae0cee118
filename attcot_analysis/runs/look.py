"""Responses that exist already: which format they are in and what can be read of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from attcot_analysis.errors import MeasureError, ProblemError
from attcot_analysis.measures.answers import parsed_answer
from attcot_analysis.measures.unread import LIMIT, unread_sentence
from attcot_analysis.models import Mllm, encode_problem, generate
from attcot_analysis.problems import Problem
from attcot_analysis.problems.fit import (
    ENOUGH,
    Detection,
    FormatFit,
    check_fit,
    detect_format,
    fit_format,
    plain_line,
    shown_cut,
)
from attcot_analysis.problems.formats import (
    FORMATS,
    ResponseFormat,
    response_format,
    template_format,
)
from attcot_analysis.runs.generations import Generations, read_batch


@dataclass(frozen=True)
class ResponseLook:
    """What was found in a file of responses.

    Attributes:
        decided: Which format they are read in, and why.
        items: Their ids.
        fit: How well the format fits, with the responses as it cuts them.
        others: How well the other named formats fit.
        finished: For each response, whether it came to its end.
        faults: One sentence for every line that holds no response.
        n_ids: Lines with token ids and no text, which only the model's tokenizer can read.
        unread: Which responses are not in the format or say neither step nor answer.
        answers: What each answers to its problem; ``None`` without problems.
    """

    decided: str
    items: tuple[str, ...]
    fit: FormatFit
    others: tuple[FormatFit, ...]
    finished: tuple[bool, ...]
    faults: tuple[str, ...] = ()
    n_ids: int = 0
    answers: tuple[str | None, ...] | None = None

    @property
    def unread(self) -> tuple[int, ...]:
        """Which responses could not be read: no answer, or not in the format."""
        bare = [at for at, one in enumerate(self.answers or ()) if one is None]
        return tuple(sorted({*self.fit.unread, *bare}))

    def report(self, show: int = 3) -> str:
        """The shares, then some responses as they were cut, then some that could not be read.

        Args:
            show: How many of each.
        """
        lines = []
        if self.answers is not None and self.answers:
            share = sum(one is None for one in self.answers) / len(self.answers)
            if share > LIMIT:
                lines.append(unread_sentence(share, "answers"))
        lines += [self.decided, str(self.fit)]
        cut = len(self.finished) - sum(self.finished)
        if cut:
            lines.append(f"{cut} were cut at the length limit.")
        if self.n_ids:
            lines.append(f"{self.n_ids} lines hold token ids without text; they were not read.")
        if self.answers is not None:
            n_read = sum(one is not None for one in self.answers)
            lines.append(f"{n_read} of {len(self.answers)} answers could be read.")
        unread = set(self.unread)
        for at in [at for at in range(len(self.items)) if at not in unread][:show]:
            lines += ["", plain_line(self.items[at]), shown_cut(self.fit.parsed[at])]
        if unread and show:
            lines += ["", f"{len(unread)} could not be read, such as:"]
            for at in sorted(unread)[:show]:
                text = plain_line(self.fit.parsed[at].text, 200) or "(empty)"
                lines += ["", plain_line(self.items[at]), f"  {text}"]
                lines.append(shown_cut(self.fit.parsed[at]))
        return "\n".join(lines)

    def check(self) -> None:
        """Refuse a format that fits fewer than half of the responses.

        Raises:
            ProblemError: If it does.
        """
        check_fit(self.fit, self.others)


def look_at_responses(
    path: str | Path,
    form: str | Path = "auto",
    *,
    opened: bool = False,
    problems: Sequence[Problem] = (),
) -> ResponseLook:
    """Read a file of responses without a model, and see what a format makes of them.

    Args:
        path: JSON lines as `read_generations` takes them, or the output of a batch.
        form: A named format, a YAML file, or ``"auto"``.
        opened: Whether the chat template had opened the rationale, so that its opening tag is not
            in the responses.
        problems: What they answer, to read their answers; default: not known.

    Raises:
        MeasureError: If the file cannot be read or holds no text.
        ProblemError: If there is no such format, or none fits with ``"auto"``.
    """
    batch = read_batch(path, [problem.id for problem in problems])
    lines = [line for line in batch.lines if line.get("text") is not None]
    if not lines:
        first = f" ({batch.faults[0]})" if batch.faults else ""
        raise MeasureError(
            f"{path} holds no response as text{first}; give JSON lines with id and text."
        )
    texts = [str(line["text"]) for line in lines]
    finished = [line.get("finish_reason") != "length" for line in lines]
    prompt = "<think>\n" if opened else ""
    if str(form) == "auto":
        found = detect_format(texts, prompt=prompt, finished=finished)
        fit, others, decided = found.fit, found.others, str(found)
    else:
        fitted = partial(fit_format, texts, opened=opened, finished=finished)
        fit, others = fitted(response_format(form)), tuple(map(fitted, FORMATS.values()))
        decided = f"Format {fit.format.name}: as asked for."
    return ResponseLook(
        decided=decided,
        items=tuple(str(line["id"]) for line in lines),
        fit=fit,
        others=others,
        finished=tuple(finished),
        faults=batch.faults,
        n_ids=len(batch.lines) - len(lines),
        answers=_answers(fit, finished, lines, problems),
    )


def _answers(
    fit: FormatFit,
    finished: Sequence[bool],
    lines: Sequence[Mapping[str, object]],
    problems: Sequence[Problem],
) -> tuple[str | None, ...] | None:
    if not problems:
        return None
    known = {problem.id: problem for problem in problems}
    found: list[str | None] = []
    for parsed, ended, line in zip(fit.parsed, finished, lines, strict=True):
        problem = known.get(str(line["id"]))
        if problem is None:
            raise MeasureError(
                f"Item {line['id']!r} is none of the {len(known)} problems; give the folder that "
                "was asked about."
            )
        found.append(parsed_answer(parsed, problem, fit.format, finished=ended))
    return tuple(found)


PROBED = 8
"""Responses that a format is decided from where none were given."""


def detected_format(
    mllm: Mllm,
    problems: Sequence[Problem],
    generations: str | Path | None = None,
    *,
    max_new_tokens: int = 256,
) -> Detection:
    """Decide which format a model speaks, from its chat template and a handful of responses.

    Args:
        mllm: The model.
        problems: What it is asked; the first few of them.
        generations: A file of responses written elsewhere, to decide from; default: some are
            written here, greedily: asked for as in ``thinking`` where the template opens the
            rationale, else in ``tags``, and if most do not hold these, as in ``prose``.
        max_new_tokens: Length limit of these.

    Raises:
        MeasureError: If the file cannot be read.
        ProblemError: If no format fits half of the responses.
    """
    messages = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    prompt = replace(mllm, format=FORMATS["prose"]).prompt(messages)
    template = template_format(getattr(mllm.tokenizer, "response_template", None))
    own = [] if template is None else [template]
    if generations is not None:
        lines = read_batch(generations).lines
        texts = [
            str(line["text"]) if line.get("text") is not None else mllm.decode(line["ids"])
            for line in lines
        ]
        finished = [line.get("finish_reason") != "length" for line in lines]
        return detect_format(texts, prompt=prompt, finished=finished, own=own)
    opened = FORMATS["thinking"].is_open(prompt)

    def asked_in(name: str) -> Detection:
        asked = replace(mllm, format=FORMATS[name])
        made = generate(
            asked,
            [encode_problem(asked, problem) for problem in problems[:PROBED]],
            max_new_tokens=max_new_tokens,
        )
        finished = [one.finished for one in made]
        return detect_format([one.text for one in made], prompt=prompt, finished=finished, own=own)

    if opened:
        return asked_in("thinking")
    try:
        found = asked_in("tags")
    except ProblemError:
        found = None
    if found is not None and found.format == FORMATS["tags"]:
        return found
    return asked_in("prose")


def shown_detection(found: Detection, show: int = 3) -> str:
    """What was decided and why, and some responses as they are cut."""
    return "\n".join([str(found), str(found.fit), *map(shown_cut, found.fit.parsed[:show])])


def check_generations(mllm: Mllm, written: Generations) -> None:
    """Refuse responses written elsewhere that the model's format does not fit.

    Raises:
        ProblemError: If it fits fewer than half of them.
    """
    made = list(written.of.values())
    texts, finished = [one.text for one in made], [one.finished for one in made]
    fit = partial(fit_format, texts, opened=mllm.opens_rationale, finished=finished)
    own = fit(mllm.format)
    others = () if own.share >= ENOUGH else tuple(map(fit, FORMATS.values()))
    check_fit(own, others)


def misfit_note(form: ResponseFormat, answers: pd.DataFrame) -> str | None:
    """Say that a run's responses are not in the format they were read in; ``None`` if they are.

    Args:
        form: The format.
        answers: Rows of `answer_problems`, with a rationale.
    """
    texts, finished = list(answers["text"].astype(str)), list(answers["finished"].astype(bool))
    own = fit_format(texts, form, finished=finished)
    if own.share >= ENOUGH or not texts:
        return None
    others = [fit_format(texts, one, finished=finished) for one in FORMATS.values()]
    try:
        check_fit(own, others)
    except ProblemError as error:
        return str(error)
    return None
