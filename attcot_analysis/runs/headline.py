"""The headline metrics of one model per item, as cheaply as they can be had."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.problems.edits import EditedImage, EditKind, edited_images
from attcot_analysis.measures.compare import item_values
from attcot_analysis.models import Mllm, Mode
from attcot_analysis.problems import Problem

EDITS: tuple[EditKind, ...] = ("twin", "control", "blank")
"""The edits of dependence."""
CHANCE = "chance"
"""Beside the metrics of the catalogue: one over the number of the item's candidates (NaN for an
open question)."""
Measure = Literal["direct", "text_only", "commitment", "access", "dependence"]
"""What can be measured beside the answers in the model's own mode."""
MEASURES: tuple[Measure, ...] = get_args(Measure)


def headline_edits(problems: Sequence[Problem]) -> list[EditedImage]:
    """The edited pictures that `headline_values` needs, to be made once for many models.

    Raises:
        MeasureError: If no item has a twin, or none a control.
    """
    return [one for kind in EDITS for one in edited_images(problems, kind)]


def headline_values(
    mllm: Mllm,
    problems: Sequence[Problem],
    *,
    mode: Mode = "cot",
    measures: Collection[Measure] = MEASURES,
    edited: Sequence[EditedImage] | None = None,
    batch_size: int = 64,
    max_new_tokens: int = 96,
) -> pd.DataFrame:
    """Values per item of the metrics that `measure_all` has by default, without its tables.

    Commitment (its rationale curve only), access, focus and dependence on the model's own
    rationales; items without one have no values there.

    Args:
        mllm: The model.
        problems: The items.
        mode: ``"direct"`` for a model that never saw a rationale: only its direct answers are
            asked for.
        measures: Some of `MEASURES`, for fewer metrics in less time; answers in `mode` are
            always asked for.
        edited: From `headline_edits`.
        batch_size: Items per forward pass or generation.
        max_new_tokens: Length limit of a response.

    Returns:
        ``item``, ``metric`` (a name in `METRICS`, or ``"chance"``), ``value``.

    Raises:
        MeasureError: If a measure is unknown.
    """
    check_measures(measures)
    length: dict[str, Any] = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    tables = {}
    if mode == "direct" or "direct" in measures:
        tables["direct"] = answer_problems(mllm, problems, mode="direct", **length)
    if mode == "cot":
        tables["cot"] = cot = answer_problems(mllm, problems, **length)
        if "text_only" in measures:
            tables["text_only"] = answer_problems(mllm, problems, text_only=True, **length)
        if (cot["n_steps"] > 0).any():
            tables |= _of_rationales(
                mllm, problems, cot, measures, edited, batch_size, max_new_tokens
            )
    values = item_values(model="", seed=0, **tables)[["item", "metric", "value"]]
    chance = pd.DataFrame(
        {
            "item": [problem.id for problem in problems],
            "metric": CHANCE,
            "value": [1 / (len(problem.candidates) or float("nan")) for problem in problems],
        }
    )
    return pd.concat([values, chance], ignore_index=True)


def check_measures(measures: Collection[str]) -> None:
    """Raise `MeasureError` naming the measures that do not exist."""
    unknown = [one for one in measures if one not in MEASURES]
    if unknown:
        raise MeasureError(
            f"There is no measure {', '.join(map(repr, unknown))}; choose from "
            f"{', '.join(MEASURES)}."
        )


def _of_rationales(
    mllm: Mllm,
    problems: Sequence[Problem],
    cot: pd.DataFrame,
    measures: Collection[Measure],
    edited: Sequence[EditedImage] | None,
    batch_size: int,
    max_new_tokens: int,
) -> dict[str, pd.DataFrame]:
    """The tables that need a rationale."""
    written = [list(ids) for ids in cot["ids"]]
    tables = {}
    if "commitment" in measures:
        forced = commitment(
            mllm, problems, written, controls=("rationale",), empty="skip", batch_size=batch_size
        )
        tables["commitment"] = forced.items()
    if "access" in measures:
        access = visual_access(mllm, problems, written, empty="skip", batch_size=batch_size)
        tables |= {"access": access.items(), "focus": access.focus()}
    if "dependence" in measures:
        tables["dependence"] = dependence(
            mllm,
            problems,
            written,
            edits=EDITS,
            edited=headline_edits(problems) if edited is None else edited,
            empty="skip",
            regenerated_log_p=False,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
        ).table
    return tables
