"""The headline metrics of one model per item, without keeping its tables."""

from collections.abc import Collection, Sequence
from typing import Literal, get_args

import pandas as pd

from attcot_analysis.measures.commitment import CONTROLS
from attcot_analysis.models import Mllm, Mode
from attcot_analysis.problems import Problem
from attcot_analysis.runs.measure import measure
from attcot_analysis.runs.values import CHANCE, suite_values

Measure = Literal["direct", "text_only", "commitment", "access", "dependence"]
"""What can be measured beside the answers in the model's own mode."""
MEASURES: tuple[Measure, ...] = get_args(Measure)


def headline_values(
    mllm: Mllm,
    problems: Sequence[Problem],
    *,
    mode: Mode = "cot",
    measures: Collection[str] = MEASURES,
    batch_size: int = 64,
    max_new_tokens: int = 96,
) -> pd.DataFrame:
    """Values per item of the metrics that a cell keeps: those of `measure`, and chance.

    Args:
        mllm: The model.
        problems: The items.
        mode: ``"direct"`` for a model that never saw a rationale: only its direct answers are
            asked for.
        measures: Some of `MEASURES`, for fewer metrics in less time; answers in `mode` are
            always asked for.
        batch_size: Items per forward pass or generation.
        max_new_tokens: Length limit of a response.

    Returns:
        ``item``, ``metric`` (a name in `METRICS`, or ``"chance"``, NaN for an open question),
        ``value``.

    Raises:
        MeasureError: If a measure is unknown.
    """
    # Another item's rationale needs an item with another answer.
    told = {problem.answer for problem in problems}
    tables = measure(
        mllm,
        problems,
        ("direct",) if mode == "direct" else ("answers", *measures),
        controls=CONTROLS if len(told) > 1 else CONTROLS[:2],
        regenerated_log_p=False,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    if mode == "cot" and not (tables["answers_cot"]["n_steps"] > 0).any():
        # Where no response has a rationale, there is none to hold an edit's answer against.
        tables.pop("dependence", None)
    values = suite_values(tables, problems, model="", seed=0, keep_empty=True)
    chance = pd.DataFrame(
        {
            "item": [problem.id for problem in problems],
            "metric": CHANCE,
            "value": [1 / (len(problem.candidates) or float("nan")) for problem in problems],
        }
    )
    return pd.concat([values[["item", "metric", "value"]], chance], ignore_index=True)
