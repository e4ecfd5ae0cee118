"""Responses that a model samples to questions, or to prefixes of responses, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from attcot_analysis.measures.answers import answer_row
from attcot_analysis.measures.controls import response_text
from attcot_analysis.models import Generation, Mllm, PromptMemory, encode_problem, generate
from attcot_analysis.models.memory import current_memory, remembering
from attcot_analysis.problems import Problem, parse_response
from attcot_lab.vista.config import Origin, VistaConfig

COLUMNS = (
    "item",
    "origin",
    "parent",
    "kept",
    "ids",
    "text",
    "answer",
    "correct",
    "finished",
    "sound",
)
"""Columns of a table of responses."""


@dataclass(frozen=True)
class Start:
    """What a response begins with.

    Attributes:
        problem: Its question.
        prefix: The tokens it begins with.
        parent: Number of the response that the prefix was mended from.
    """

    problem: Problem
    prefix: tuple[int, ...] = ()
    parent: int | None = None


def sample_responses(
    mllm: Mllm,
    starts: Sequence[Start],
    *,
    origin: Origin,
    config: VistaConfig,
    seed: int,
    progress: bool = False,
) -> pd.DataFrame:
    """Sample one response per start.

    Args:
        mllm: The model.
        starts: Name a start K times to get K samples of it.
        origin: What these responses are to be called.
        config: Temperature, length limit and batch size.
        seed: Of the sampling; results also depend on the batch size.
        progress: Show a progress bar.

    Returns:
        One row per start: ``item``; ``origin``; ``parent`` (missing for whole responses);
        ``kept``, the number of tokens that come from the prefix; ``ids`` and ``text`` of prefix
        and continuation together; ``answer``, ``correct`` and ``finished`` as in
        `answer_problems`; ``sound``, whether the rationale is the problem's own, word for word
        (missing where the problem has none): a right answer after another rationale may be a
        guess, so this is a lower bound of the right rationales.
    """
    # Samples of a question share its picture.
    with remembering(current_memory() or PromptMemory()):
        prompts = [encode_problem(mllm, one.problem, response=one.prefix) for one in starts]
    made = generate(
        mllm,
        prompts,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=seed,
        progress=progress,
    )
    rows = [_row(mllm, *pair, origin) for pair in zip(starts, made, strict=True)]
    return typed(pd.DataFrame(rows, columns=list(COLUMNS)))


def typed(responses: pd.DataFrame) -> pd.DataFrame:
    """A table of responses with the types that hold missing values, also if it is empty."""
    return responses.astype(
        {
            "parent": "Int64",
            "kept": "int64",
            "correct": "bool",
            "finished": "bool",
            "sound": "boolean",
        }
    )


def _row(mllm: Mllm, start: Start, made: Generation, origin: Origin) -> dict[str, object]:
    ids = (*start.prefix, *made.ids)
    whole = replace(made, ids=ids, text=response_text(mllm, ids))
    read = answer_row(start.problem, whole, mode="cot")
    return {
        "item": start.problem.id,
        "origin": origin,
        "parent": start.parent,
        "kept": len(start.prefix),
        "sound": _sound(start.problem, whole),
        **{name: read[name] for name in ("ids", "text", "answer", "correct", "finished")},
    }


def _sound(problem: Problem, made: Generation) -> bool | None:
    if not problem.steps:
        return None
    own = tuple(f"{number}. {step.text}" for number, step in enumerate(problem.steps, start=1))
    return parse_response(made.text).step_texts == own
