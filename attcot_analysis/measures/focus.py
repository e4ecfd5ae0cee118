"""Focus: does a step's attention on the picture lie on its evidence, more than if spread evenly?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from attcot_analysis.measures.values import need_columns
from attcot_analysis.models import TokenGrid
from attcot_analysis.problems import Problem

WIDE = 0.5
"""Evidence that covers more of the picture cannot be missed: such steps have no focus."""
_COLUMNS = ("item", "focus", "unfocused_first_step", "refocused")


def focus_items(access: pd.DataFrame, problems: Sequence[Problem]) -> pd.DataFrame:
    """Focus of every item's rationale, and whether it comes back to evidence that it missed.

    A step's focus is (r² - 1) / (r² + 1), where r is the share of its visual mass that lies on its
    evidence boxes over the share that an even spread over all image tokens would put there (their
    share of the picture's area where `access` does not hold ``evidence_area``); means over layers
    and heads are taken first. It is 0 where attention is spread evenly, 0.6 at twice and -0.6 at
    half of that. Steps without boxes, with boxes of which the model sees nothing, or with boxes on
    more than `WIDE` of the picture, have none.

    Args:
        access: From `visual_access`.
        problems: The items.

    Returns:
        One row per item that has such a step: ``item``; ``focus``, mean over these steps;
        ``unfocused_first_step``, 1 if the first one's is below 0, else 0; ``refocused``, whether
        the last one's is 0 or above, missing (NaN) unless the first one's is below and there are
        two of them.

    Raises:
        MeasureError: If `access` lacks a column.

    Source: score of arXiv 2602.08241 (there: last layer, chosen tokens, all boxes); steps, layers
    and what counts as a correction are a reconstruction.
    """
    need_columns(access, "access", ("item", "step", "mass", "evidence_mass"))
    known = {problem.id: problem for problem in problems}
    even = ["evidence_area"] if "evidence_area" in access.columns else []
    steps = access.groupby(["item", "step"], sort=False)[["mass", "evidence_mass", *even]].mean()
    area = np.array(
        [_area(known[item], int(step)) if item in known else np.nan for item, step in steps.index]
    )
    if even:
        found = steps["evidence_area"].to_numpy()
        seen = np.where((found > 0) & (found <= WIDE), found, np.nan)
        area = np.where(np.isnan(found) | np.isnan(area), area, seen)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = (steps["evidence_mass"] / steps["mass"] / area) ** 2
    focus = ((squared - 1) / (squared + 1)).dropna().rename("focus").reset_index()
    rows = []
    for item, own in focus.sort_values("step", kind="stable").groupby("item", sort=False):
        scores = own["focus"].to_numpy()
        missed = scores[0] < 0
        back = float(scores[-1] >= 0) if missed and len(scores) > 1 else np.nan
        rows.append((item, float(scores.mean()), float(missed), back))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _area(problem: Problem, number: int) -> float:
    """The share of the picture that a step's boxes cover; NaN for none, or too much of it."""
    boxes = problem.step_boxes(number)
    area = float(TokenGrid.regular(problem.image.size, 1, 1).coverage(boxes)[0])
    return area if 0 < area <= WIDE else np.nan
