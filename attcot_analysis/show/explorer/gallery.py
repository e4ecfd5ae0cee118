"""The gallery of an explorer of several items: what is shown of each, and how they are sorted."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from attcot_analysis.errors import ShowError, check_table
from attcot_analysis.problems import Problem
from attcot_analysis.show.explorer.page import picture_url

ORDERS = {
    "most premature (commitment area)": "commitment_area",
    "largest loss on the twin (nats)": "delta_log_p_twin",
}
"""By what items can be sorted, its highest value first, and the metric that says it."""
_GROUPS = {"premature": "premature", "unread": "unparsed_cot"}
_HURT = "hurt by CoT"
_THUMBNAIL = 96


def gallery_entries(
    problems: Sequence[Problem], values: pd.DataFrame | None = None
) -> list[dict[str, Any]]:
    """What the gallery shows of every item, JSON values.

    Args:
        problems: The items.
        values: Values per item as in a run's table ``values``, of one model; means over seeds.

    Returns:
        Per item ``item``, ``question``, ``picture`` (a thumbnail), ``sort`` (order → value, of
        those in `ORDERS` that it has) and ``groups``: ``"hurt by CoT"`` where the direct answer is
        right more often than the CoT answer, ``"premature"``, ``"unread"``.

    Raises:
        ShowError: If there is no item, one is there twice, or the values are of several models.
    """
    ids = [problem.id for problem in problems]
    if not ids or len(set(ids)) < len(ids):
        raise ShowError(
            f"A gallery was given {len(ids)} items, {len(set(ids))} of them different; give at "
            "least one, and each once."
        )
    if values is not None:
        check_table(values, "of values", ("item", "model", "metric", "value"), ShowError)
    models = () if values is None else values["model"].unique()
    if len(models) > 1:
        raise ShowError(
            f"The values are of {len(models)} models ({', '.join(map(str, models[:3]))}); give "
            "those of one, by which the items are sorted."
        )
    known = item_means(values)
    return [_entry(problem, known.get(problem.id, {})) for problem in problems]


def _entry(problem: Problem, values: dict[str, float]) -> dict[str, Any]:
    sort = {name: values[metric] for name, metric in ORDERS.items() if metric in values}
    groups = [name for name, metric in _GROUPS.items() if values.get(metric, 0) > 0]
    if values.get("accuracy_direct", 0) > values.get("accuracy_cot", 1):
        groups.insert(0, _HURT)
    return {
        "item": problem.id,
        "question": problem.question,
        "picture": picture_url(problem.sheet.image, _THUMBNAIL),
        "sort": sort,
        "groups": groups,
    }


def item_means(values: pd.DataFrame | None) -> dict[str, dict[str, float]]:
    """Item → metric → mean over seeds, of one model's values per item."""
    if values is None:
        return {}
    means = values.dropna(subset="value").groupby(["item", "metric"])["value"].mean().reset_index()
    found: dict[str, dict[str, float]] = {}
    for row in means.to_dict("records"):
        found.setdefault(str(row["item"]), {})[str(row["metric"])] = round(float(row["value"]), 6)
    return found
