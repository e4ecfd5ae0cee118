"""Answers: what a model answers on its own, with and without a rationale or the picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures._items import batches
from attcot_analysis.models import PROMPTS, Generation, Mllm, encode_problem, generate
from attcot_analysis.models.generate import Sampling
from attcot_analysis.models.inputs import ImageLike, Mode
from attcot_analysis.problems import ParsedResponse, Problem, parse_response
from attcot_analysis.problems.formats import TAGS, ResponseFormat
from attcot_analysis.problems.reading import match_answer, open_answer, stated_answer

COLUMNS = (
    "item",
    "mode",
    "text_only",
    "text",
    "ids",
    "stated",
    "answer",
    "match",
    "correct",
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
    images: Sequence[ImageLike] | None = None,
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
        `open_answer`), ``match``
        (``"exact"``, ``"loose"`` or ``"none"``, see `match_answer`), ``correct`` (false where the
        answer is missing), ``habitual`` (the answer is the habitual one; missing where the problem
        has none), ``finished`` (ended by the model, not by the length limit), ``n_steps``
        (rationale steps), ``steps`` (their texts), ``cut`` (what they were cut by, see
        `ParsedResponse`; missing without steps).

    Raises:
        MeasureError: If the inputs do not fit together.
        ModelError: If nothing is recommended that can be used.
    """
    _check(problems, mode, text_only, images)
    made: list[Generation] = []
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
        made += generate(
            mllm,
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            sampling=sampling,
            batch_size=batch_size,
            seed=seed + chunk[0],
        )
    rows = [
        answer_row(
            problem, one, mode=mode, text_only=text_only, right=(answers or {}), form=mllm.format
        )
        for problem, one in zip(problems, made, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"habitual": "boolean"})


def answer_row(
    problem: Problem,
    generation: Generation,
    *,
    mode: Mode,
    text_only: bool = False,
    right: Mapping[str, str] | None = None,
    form: ResponseFormat = TAGS,
) -> dict[str, Any]:
    """Read one response in a format; a row of the table that `answer_problems` describes."""
    parsed = parse_response(generation.text, form)
    stated = stated_answer(parsed, finished=generation.finished)
    answer = None if stated is None else read_answer(stated, problem, form)
    match = "none" if answer is None else "exact" if stated == answer else "loose"
    return {
        "item": problem.id,
        "mode": mode,
        "text_only": text_only,
        "text": generation.text,
        "ids": list(generation.ids),
        "stated": stated,
        "answer": answer,
        "match": match,
        "correct": answer == (right or {}).get(problem.id, problem.answer),
        "habitual": None if problem.habitual is None else answer == problem.habitual,
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
    parsed: ParsedResponse, problem: Problem, form: ResponseFormat = TAGS
) -> str | None:
    """What a finished response answers to a problem; ``None`` if that cannot be told."""
    stated = stated_answer(parsed, finished=True)
    return None if stated is None else read_answer(stated, problem, form)


def read_answer(stated: str, problem: Problem, form: ResponseFormat = TAGS) -> str | None:
    """What a stated answer answers to a problem: see `match_answer`, or `open_answer`."""
    if problem.candidates:
        question = form.question(problem.question, problem.candidates)
        return match_answer(stated, problem.candidates, question=question)
    edits = [edit.answer for edit in (problem.twin, problem.control) if edit is not None]
    known = [problem.answer, *edits, *([problem.habitual] if problem.habitual else [])]
    return open_answer(stated, known, tolerance=problem.tolerance)


def _check(
    problems: Sequence[Problem],
    mode: str,
    text_only: bool,
    images: Sequence[ImageLike] | None,
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
    ids = [problem.id for problem in problems]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise MeasureError(f"Item {twice} is there twice; give every problem an id of its own.")
