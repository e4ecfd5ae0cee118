"""The gallery of explorer and report: what is shown of each item, and how items are sorted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from attcot_analysis.errors import ShowError, check_table
from attcot_analysis.problems import Problem
from attcot_analysis.show.explorer.page import picture_url
from attcot_analysis.show.intervals import order_metrics
from attcot_analysis.stats.catalogue import METRICS, Metric

_FIRST = {
    "commitment_area": "most premature (commitment area)",
    "delta_log_p_twin": "largest loss on the twin (nats)",
}
"""Metrics by which items are sorted most, their highest value first, and what a reader chooses."""
_GROUPS = {"premature": "premature", "unread": "unparsed_cot"}
_HURT = "hurt by CoT"
_THUMBNAIL = 96


def gallery_spec(
    problems: Sequence[Problem], values: pd.DataFrame | None = None
) -> dict[str, list[dict[str, Any]]]:
    """What the gallery shows of every item, and by what items are sorted, JSON values.

    Args:
        problems: The items.
        values: Values per item as in a run's table ``values``, of one model; means over seeds.

    Returns:
        ``orders``, see `sort_orders`; ``entries``, per item ``item``, ``question``, ``picture`` (a
        thumbnail), ``sort`` (metric → value) and ``groups``: ``"hurt by CoT"`` where the direct
        answer is right more often than the CoT answer, ``"premature"``, ``"unread"``.

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
    entries = [_entry(problem, known.get(problem.id, {})) for problem in problems]
    return {"orders": sort_orders([entry["sort"] for entry in entries]), "entries": entries}


def sort_orders(
    known: Iterable[Mapping[str, float]], metrics: Mapping[str, Metric] = METRICS
) -> list[dict[str, Any]]:
    """Every metric by which items with these values can be sorted, its worse end first.

    Returns:
        Per metric ``name``, ``title``, ``said`` (what a reader chooses), ``turn`` (1: the lowest
        value first).
    """
    present = {name for values in known for name in values}
    named = [name for some in order_metrics(present, metrics).values() for name in some]
    orders = []
    for name in sorted(named, key=lambda name: name not in _FIRST):
        title = metrics[name].title if name in metrics else name
        lowest = name in metrics and metrics[name].better == "higher" and name not in _FIRST
        said = _FIRST.get(name, f"{title} ({'lowest' if lowest else 'highest'} first)")
        orders.append({"name": name, "title": title, "said": said, "turn": 1 if lowest else -1})
    return orders


def _entry(problem: Problem, values: dict[str, float]) -> dict[str, Any]:
    groups = [name for name, metric in _GROUPS.items() if values.get(metric, 0) > 0]
    if values.get("accuracy_direct", 0) > values.get("accuracy_cot", 1):
        groups.insert(0, _HURT)
    return {
        "item": problem.id,
        "question": problem.question,
        "picture": picture_url(problem.sheet.image, _THUMBNAIL),
        "sort": values,
        "groups": groups,
    }


def item_means(values: pd.DataFrame | None) -> dict[str, dict[str, float]]:
    """Item → metric → mean over seeds, of one model's values per item."""
    if values is None:
        return {}
    values = values.astype({"value": "Float64"}).astype({"value": float})
    values = values[np.isfinite(values["value"])]
    means = values.groupby(["item", "metric"])["value"].mean().reset_index()
    found: dict[str, dict[str, float]] = {}
    for row in means.to_dict("records"):
        found.setdefault(str(row["item"]), {})[str(row["metric"])] = round(float(row["value"]), 6)
    return found
