"""Answers: what a model answers on its own, with and without a rationale or the picture."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures._items import batches
from attcot_analysis.measures.unread import GIVEN
from attcot_analysis.models import PROMPTS, Generation, Mllm, encode_problem, generate
from attcot_analysis.models.generate import Sampling
from attcot_analysis.models.inputs import Mode, Shown
from attcot_analysis.problems import ParsedResponse, Problem, parse_response
from attcot_analysis.problems.formats import TAGS, ResponseFormat
from attcot_analysis.problems.reading import choice_text, read_choice, stated_answer
from attcot_analysis.problems.scoring import RIGHT, check_scoring, score_open

COLUMNS = (
    "item",
    "mode",
    "text_only",
    "text",
    "ids",
    "stated",
    "answer",
    "match",
    "flag",
    "correct",
    "score",
    "habitual",
    "finished",
    "n_steps",
    "steps",
    "cut",
)
"""Columns of the table of answers."""


def answer_problems(
    mllm: Mllm,
    problems: Sequence[Problem],
    *,
    mode: Mode = "cot",
    text_only: bool = False,
    images: Sequence[Shown] | None = None,
    answers: Mapping[str, str] | None = None,
    batch_size: int = 32,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    sampling: Sampling | None = None,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Let a model answer problems by itself; nothing is teacher-forced.

    Args:
        mllm: The model.
        problems: At least one.
        mode: ``"cot"`` (rationale, then answer) or ``"direct"``.
        text_only: Leave the picture out: what is answered then is the textual prior.
        images: Other pictures to show instead of the items' own, one per problem.
        answers: Right answers by item id where they are not the problems' own (pictures of
            twins).
        batch_size: Items generated at once.
        max_new_tokens: Length limit of a response.
        temperature: 0 for greedy, else sampling.
        sampling: ``"recommended"`` for what the checkpoint's publisher recommends, in place of a
            temperature; see `generate`.
        seed: For sampling.
        progress: Show a progress bar.

    Returns:
        One row per item: ``item``, ``mode``, ``text_only``, ``text`` and ``ids`` (the response),
        ``stated`` (what it gives as its answer, see `stated_answer`), ``answer`` (the candidate
        that this is, missing if none can be told; of an open question what is stated, see
        `score_open`), ``match`` (``"exact"``, ``"loose"`` or ``"none"``), ``flag`` (what is wrong
        with the answer: ``"contradiction"``, ``"several"``, see `read_choice`, ``"surplus tags"``,
        see `ParsedResponse`, or that its score came with the response, ``"given"``; parted by
        ``", "``, else empty), ``correct`` (false where the answer is missing), ``score`` (0 to 1 by
        the rule `Problem.scoring`; where that is graded, ``correct`` is 0.5 and more), ``habitual``
        (the answer is the habitual one; missing where the problem has none), ``finished`` (ended by
        the model, not by the length limit), ``n_steps`` (rationale steps), ``steps`` (their texts),
        ``cut`` (what they were cut by, see `ParsedResponse`; missing without steps).

    Raises:
        MeasureError: If the inputs do not fit together.
        ModelError: If nothing is recommended that can be used.
    """
    writing = {"max_new_tokens": max_new_tokens, "temperature": temperature, "sampling": sampling}
    return answers_by_seed(
        mllm,
        problems,
        mode=mode,
        text_only=text_only,
        images=images,
        answers=answers,
        batch_size=batch_size,
        seeds=[seed],
        progress=progress,
        **writing,
    )[0]


def answers_by_seed(
    mllm: Mllm,
    problems: Sequence[Problem],
    *,
    mode: Mode = "cot",
    text_only: bool = False,
    images: Sequence[Shown] | None = None,
    answers: Mapping[str, str] | None = None,
    batch_size: int,
    seeds: Sequence[int],
    progress: bool = False,
    **writing: Any,
) -> list[pd.DataFrame]:
    """What `answer_problems` gives with each of some seeds; see `generate`."""
    _check(problems, mode, text_only, images)
    made: list[list[Generation]] = [[] for _ in seeds]
    name = "answers, text only" if text_only else f"answers, {mode}"
    for chunk in batches(range(len(problems)), batch_size, name, progress):
        prompts = [
            encode_problem(
                mllm,
                problems[at],
                mode=mode,
                image=None if images is None else images[at],
                text_only=text_only,
            )
            for at in chunk
        ]
        own = [seed + chunk[0] for seed in seeds]
        written = generate(mllm, prompts, batch_size=batch_size, seed=own, **writing)
        for at, one in enumerate(made):
            one += written[at * len(chunk) : (at + 1) * len(chunk)]
    right, form = answers or {}, mllm.format
    tables = [
        [
            answer_row(problem, one, mode=mode, text_only=text_only, right=right, form=form)
            for problem, one in zip(problems, own, strict=True)
        ]
        for own in made
    ]
    types = {"habitual": "boolean"}
    return [pd.DataFrame(rows, columns=list(COLUMNS)).astype(types) for rows in tables]


def answer_row(
    problem: Problem,
    generation: Generation,
    *,
    mode: Mode,
    text_only: bool = False,
    right: Mapping[str, str] | None = None,
    form: ResponseFormat = TAGS,
    given: float | None = None,
) -> dict[str, Any]:
    """Read one response in a format; a row of the table that `answer_problems` describes.

    Args:
        problem: The item.
        generation: Its response.
        mode: How it was asked for.
        text_only: Whether the picture was left out.
        right: Right answers by item id where they are not the problems' own.
        form: The format of the response.
        given: The score that came with the response, which is taken instead of what is read.
    """
    parsed = parse_response(generation.text, form)
    stated = stated_answer(parsed, finished=generation.finished)
    answer_right = (right or {}).get(problem.id, problem.answer)
    read = _read(parsed, problem, answer_right, form, finished=generation.finished)
    match = "none" if read.answer is None else "exact" if stated == read.answer else "loose"
    flags = [read.flag, "surplus tags" * (parsed.surplus > 0), GIVEN * (given is not None)]
    return {
        "item": problem.id,
        "mode": mode,
        "text_only": text_only,
        "text": generation.text,
        "ids": list(generation.ids),
        "stated": stated,
        "answer": read.answer,
        "match": match,
        "flag": ", ".join(flag for flag in flags if flag),
        "correct": read.answer == answer_right if given is None else given >= RIGHT,
        "score": read.score if given is None else given,
        "habitual": None if problem.habitual is None else read.answer == problem.habitual,
        "finished": generation.finished,
        "n_steps": len(parsed.steps),
        "steps": list(parsed.step_texts),
        "cut": parsed.cut,
    }


def steps_of(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """The texts of the steps of a row of answers.

    Tables of earlier versions do not hold them: their responses are in tags.
    """
    steps = row.get("steps")
    return parse_response(str(row["text"])).step_texts if steps is None else tuple(steps)


def parsed_answer(
    parsed: ParsedResponse, problem: Problem, form: ResponseFormat = TAGS, *, finished: bool = True
) -> str | None:
    """What a response answers to a problem; ``None`` if that cannot be told."""
    return _read(parsed, problem, problem.answer, form, finished=finished).answer


def read_answer(stated: str, problem: Problem, form: ResponseFormat = TAGS) -> str | None:
    """What a stated answer answers to a problem: see `read_choice`, or `score_open`."""
    return _read_text(stated, problem, problem.answer, form).answer


class _Read(NamedTuple):
    answer: str | None
    flag: str = ""
    score: float = 0.0


def _read(
    parsed: ParsedResponse, problem: Problem, right: str, form: ResponseFormat, *, finished: bool
) -> _Read:
    of = choice_text if problem.candidates else stated_answer
    text = of(parsed, finished=finished)
    return _Read(None) if text is None else _read_text(text, problem, right, form)


def _read_text(stated: str, problem: Problem, right: str, form: ResponseFormat) -> _Read:
    if problem.candidates:
        question = form.question(problem.question, problem.candidates)
        choice = read_choice(stated, problem.candidates, question=question)
        return _Read(*choice, float(choice.answer == right))
    edits = [edit.answer for edit in (problem.twin, problem.control) if edit is not None]
    habitual = [] if problem.habitual is None else [problem.habitual]
    found = score_open(
        stated,
        [problem.answer, *edits, *habitual, right],
        scoring=problem.scoring,
        references=problem.references,
        tolerance=problem.tolerance,
        question=problem.question,
    )
    return _Read(found.answer, "", found.scores[right])


def _check(
    problems: Sequence[Problem],
    mode: str,
    text_only: bool,
    images: Sequence[Shown] | None,
) -> None:
    if not problems:
        raise MeasureError("No problems were given to answer; give at least one.")
    if mode not in PROMPTS:
        raise MeasureError(f"Mode {mode!r} is unknown; choose one of {', '.join(PROMPTS)}.")
    if text_only and images is not None:
        raise MeasureError("text_only leaves pictures out, so it takes no images; drop one.")
    if images is not None and len(images) != len(problems):
        raise MeasureError(
            f"{len(problems)} problems came with {len(images)} images; give one per problem."
        )
    for scoring in {problem.scoring for problem in problems}:
        check_scoring(scoring)
    ids = [problem.id for problem in problems]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise MeasureError(f"Item {twice} is there twice; give every problem an id of its own.")
