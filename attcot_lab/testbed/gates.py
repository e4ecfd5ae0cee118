"""Gates of testbed B: what a base must be able to do before anything is trained from it.

A base is used or discarded by these alone, never by what an arm does with it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import answer_access
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem


class Gate(NamedTuple):
    """A bar that was set before any base was measured.

    Attributes:
        about: What is measured.
        bar: What it must reach, or stay below.
        least: Whether the bar is the least that will do.
    """

    about: str
    bar: float
    least: bool = True

    def holds(self, value: float) -> bool:
        """Whether a value passes; a missing one does not."""
        return value >= self.bar if self.least else value <= self.bar


GATES: dict[str, Gate] = {
    "direct": Gate("accuracy of direct answers about pictures", 0.7),
    "text_cot": Gate("accuracy with a rationale where the scene is given in words", 0.9),
    "unparsed": Gate(
        "share of rationale responses about pictures without a readable answer", 0.02, least=False
    ),
    "evidence": Gate("attention of the direct answer's row to the evidence, times uniform", 2.0),
    "twin": Gate("accuracy of direct answers about the twins", 0.7),
}


def gates(
    mllm: Mllm, problems: Sequence[Problem], *, batch_size: int = 64, max_new_tokens: int = 96
) -> pd.DataFrame:
    """Measure every gate on problems of one kind.

    The attention is that of the row that predicts a direct answer: the share of its mass on the
    picture that lies on the evidence boxes over the share of the picture that they cover, mean over
    heads and items, in the layer where that is largest.

    Args:
        mllm: The base.
        problems: Of one kind of testbed B, at least one.
        batch_size: Items per forward pass.
        max_new_tokens: Length limit of a response.

    Returns:
        ``gate, value, bar, holds, n``, a row per gate; one whose value is missing does not hold.
    """
    run: dict[str, Any] = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    in_words = [
        replace(problem, question=f"{problem.metadata['words']}\n{problem.question}")
        for problem in problems
    ]
    direct = answer_problems(mllm, problems, mode="direct", **run)
    thought = answer_problems(mllm, problems, mode="cot", **run)
    text = answer_problems(mllm, in_words, mode="cot", text_only=True, **run)
    twins = [problem.twin for problem in problems if problem.twin]
    twin = answer_problems(
        mllm,
        problems,
        mode="direct",
        images=[one.image for one in twins],
        answers={p.id: one.answer for p, one in zip(problems, twins, strict=True)},
        **run,
    )
    values = {
        "direct": direct["correct"].mean(),
        "text_cot": text["correct"].mean(),
        "unparsed": thought["answer"].isna().mean(),
        "evidence": _evidence(mllm, problems, list(direct["text"]), batch_size),
        "twin": twin["correct"].mean(),
    }
    rows = [
        {
            "gate": name,
            "value": float(values[name]),
            "bar": gate.bar,
            "holds": gate.holds(float(values[name])),
            "n": len(problems),
        }
        for name, gate in GATES.items()
    ]
    return pd.DataFrame(rows)


def _evidence(
    mllm: Mllm, problems: Sequence[Problem], responses: Sequence[str], batch_size: int
) -> float:
    try:
        access = answer_access(mllm, problems, responses, empty="skip", batch_size=batch_size)
    except MeasureError:  # No response states an answer: no row predicts one.
        return float("nan")
    share = access.table.groupby("layer")["evidence_share"].mean().max()
    return float(share / np.mean([_covered(problem) for problem in problems]))


def _covered(problem: Problem) -> float:
    """The share of a picture that its evidence boxes cover."""
    width, height = problem.size
    inside = np.zeros((height, width), dtype=bool)
    for step in problem.steps:
        for x0, y0, x1, y1 in step.boxes:
            inside[int(y0) : int(y1), int(x0) : int(x1)] = True
    return float(inside.mean())
