"""Answers: what a model answers on its own, with and without a rationale or the picture."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from attcot_analysis.errors import MeasureError
from attcot_analysis.measure.controls import states
from attcot_analysis.models import PROMPTS, Generation, Mllm, encode_problem, generate
from attcot_analysis.models.inputs import ImageLike, Mode
from attcot_analysis.problems import ParsedResponse, Problem, parse_response

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
)
"""Columns of the table of answers."""

_AROUND = " \t\r\n.,;:!?'\"`*_()[]{}$"


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
        seed: For sampling.
        progress: Show a progress bar.

    Returns:
        One row per item: ``item``, ``mode``, ``text_only``, ``text`` and ``ids`` (the response),
        ``stated`` (what it gives as its answer), ``answer`` (the candidate that this is, missing
        if none can be told; of an open question what is stated, see `open_answer`), ``match``
        (``"exact"``, ``"loose"`` or ``"none"``, see `match_answer`), ``correct`` (false where the
        answer is missing), ``habitual`` (the answer is the habitual one; missing where the problem
        has none), ``finished`` (ended by the model, not by the length limit), ``n_steps``
        (rationale steps).

    Raises:
        MeasureError: If the inputs do not fit together.
    """
    _check(problems, mode, text_only, images)
    made: list[Generation] = []
    starts = range(0, len(problems), batch_size)
    name = "answers, text only" if text_only else f"answers, {mode}"
    for start in tqdm(starts, desc=name, disable=not progress):
        chunk = range(start, min(start + batch_size, len(problems)))
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
            batch_size=batch_size,
            seed=seed + start,
        )
    rows = [
        answer_row(problem, one, mode=mode, text_only=text_only, right=(answers or {}))
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
) -> dict[str, Any]:
    """Read one response; a row of the table that `answer_problems` describes."""
    parsed = parse_response(generation.text)
    stated = stated_answer(parsed, finished=generation.finished)
    answer = None
    if stated is not None:
        answer = read_answer(stated, problem)
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
    }


def stated_answer(parsed: ParsedResponse, *, finished: bool) -> str | None:
    """What a response gives as its answer.

    That is the text in its answer tags. A finished response without answer tags states its
    answer in the last non-empty line outside the rationale; one that was cut states none.
    """
    if parsed.answer is not None:
        return parsed.answer or None
    if not finished:
        return None
    outside = parsed.text
    if parsed.think is not None:
        outside = outside[parsed.think[1] :].removeprefix("</think>")
    lines = [line.strip() for line in outside.splitlines() if line.strip()]
    return lines[-1] if lines else None


def read_answer(stated: str, problem: Problem) -> str | None:
    """What a stated answer answers to a problem: see `match_answer`, or `open_answer`."""
    if problem.candidates:
        return match_answer(stated, problem.candidates, question=problem.question)
    edits = [edit.answer for edit in (problem.twin, problem.control) if edit is not None]
    known = [problem.answer, *edits, *([problem.habitual] if problem.habitual else [])]
    return open_answer(stated, known, tolerance=problem.tolerance)


def open_answer(stated: str, known: Sequence[str], *, tolerance: float = 0.0) -> str | None:
    """Read an answer to an open question, so that like answers are equal strings.

    It is the first known answer that it equals but for letter case, surrounding punctuation, a
    leading article and white space; else the nearest that is the same number (``1,200`` is
    ``1200``; ``%`` is left out) up to the relative tolerance; else itself, in this plain form.

    Args:
        stated: What a response gives as its answer.
        known: Answers to recognise, such as the right one.
        tolerance: Relative to the known number.

    Returns:
        ``None`` if nothing but punctuation is stated.
    """
    plain = _plain(stated)
    same = [answer for answer in known if _plain(answer) == plain]
    if same or not plain:
        return same[0] if same else None
    value = _number(plain)
    near: list[tuple[float, str]] = []
    for answer in known:
        target = _number(_plain(answer))
        if value is not None and target is not None:
            error = abs(value - target)
            if error <= tolerance * abs(target):
                near.append((error, answer))
    return min(near, key=lambda one: one[0])[1] if near else plain


def _plain(text: str) -> str:
    words = " ".join(text.strip(f"{_AROUND}%").casefold().split())
    return re.sub(r"^(a|an|the) (?=\S)", "", words)


def _number(plain: str) -> float | None:
    if not re.fullmatch(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?|[-+]?\.\d+", plain):
        return None
    return float(plain.replace(",", ""))


def match_answer(stated: str, candidates: Sequence[str], *, question: str = "") -> str | None:
    """Find which candidate a stated answer is.

    The first of these that finds exactly one candidate decides:

    1. it is the candidate, letter for letter;
    2. it is the candidate but for letter case and surrounding punctuation;
    3. it is an option letter (``B``, ``(b)``, ``B.``) that the question itself gives to a
       candidate, as in ``B) red``;
    4. it contains one candidate as a word of its own, and no other except as a part of that
       one; so ``not red`` counts as ``red``.

    Returns:
        The candidate, or ``None`` if there is none or more than one.
    """
    if stated in candidates:
        return stated
    bare = stated.strip(_AROUND).casefold()
    same = [c for c in candidates if c.strip(_AROUND).casefold() == bare]
    if len(same) == 1:
        return same[0]
    if len(bare) == 1 and bare.isalpha():
        lettered = [c for c in candidates if _lettered(bare, c, question)]
        return lettered[0] if len(lettered) == 1 else None
    found = [c for c in candidates if states(stated, c)]
    whole = [c for c in found if not any(c != other and states(other, c) for other in found)]
    return whole[0] if len(whole) == 1 else None


def _lettered(letter: str, candidate: str, question: str) -> bool:
    option = rf"(?<!\w)\(?{letter}\s*[).:]\s*{re.escape(candidate)}(?!\w)"
    return re.search(option, question, re.IGNORECASE) is not None


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
