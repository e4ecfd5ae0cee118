"""Tables of causal access reduced: to one row per item and cut, and to curves with intervals."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.integrate import trapezoid

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.intervals import bootstrap_mean

COLUMNS = (
    "item",
    "kind",
    "keys",
    "rows",
    "first_layer",
    "last_layer",
    "k",
    "n_steps",
    "rationale",
    "answer_before",
    "answer_after",
    "correct_before",
    "correct_after",
    "flipped",
    "delta_accuracy",
    "log_p_before",
    "log_p_after",
    "delta_log_p",
    "log_p_right_before",
    "log_p_right_after",
    "delta_log_p_right",
)
"""Columns of the table of causal access."""

GROUP = ("kind", "keys", "rows", "rationale", "first_layer", "last_layer")
"""What tells one intervention from another, but for the step it starts at."""

Quantity = Literal["delta_log_p", "delta_log_p_right", "delta_accuracy", "flipped"]


def causal_items(table: pd.DataFrame) -> pd.DataFrame:
    """Reduce a table of causal access to one row per item and intervention.

    Args:
        table: From `causal_access`, one run.

    Returns:
        ``item``, `GROUP`, ``n_steps``; ``k``, the first step cut from; ``delta_log_p``,
        ``delta_log_p_right``, ``delta_accuracy``, ``flipped`` of that, the largest cut; and of
        ``delta_log_p`` and ``delta_accuracy`` also ``_last``, of the smallest cut, from the last k
        measured on, and ``_area``, the mean over k/K from the first k to the last (trapezoid rule;
        the value itself for one k). An area near the first value means that the image is needed to
        the end, one near zero that it is needed at the start only. Missing where the table has
        none, as log-probabilities of regenerated rationales.

    Raises:
        MeasureError: If the table lacks columns or holds several runs.
    """
    rows = []
    for key, part in _checked(table).groupby(["item", *GROUP], sort=False):
        position = (part["k"] / part["n_steps"].clip(lower=1)).to_numpy(float)
        row = dict(zip(("item", *GROUP), key, strict=True))
        row |= {"n_steps": part["n_steps"].iloc[0], "k": part["k"].iloc[0]}
        for name in ("delta_log_p", "delta_log_p_right", "delta_accuracy", "flipped"):
            row[name] = part[name].iloc[0]
        for name in ("delta_log_p", "delta_accuracy"):
            values = part[name].to_numpy(float)
            row[f"{name}_last"] = values[-1]
            row[f"{name}_area"] = values[0]
            if len(values) > 1:
                span = position[-1] - position[0]
                row[f"{name}_area"] = float(trapezoid(values, position) / span)
        rows.append(row)
    return pd.DataFrame(rows).astype({"flipped": "boolean"})


def causal_curve(
    table: pd.DataFrame,
    quantity: Quantity = "delta_log_p",
    *,
    axis: Literal["auto", "k", "position"] = "auto",
    points: int = 11,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Average a change over items, per intervention and step cut from, with intervals.

    Args:
        table: From `causal_access`, one run.
        quantity: What to average.
        axis: ``"k"``, steps before the cut; ``"position"``, k/K, on which every item's values are
            read by linear interpolation between the first and last k measured of it; ``"auto"``
            takes k where all items have the same K.
        points: Points of the position axis, from 0 to 1.
        n_boot: Bootstrap resamples, over items.
        seed: Seed of the bootstrap.
        level: Confidence level.

    Returns:
        One row per intervention (`GROUP`) and point: ``k`` or ``position``, ``value``, ``low``,
        ``high``, ``n`` (items). Points at which nothing was measured are left out. For a sweep
        over depth take the rows of one k.

    Raises:
        MeasureError: If the table lacks columns or holds several runs.
    """
    table = _checked(table)
    if axis == "auto":
        axis = "k" if table["n_steps"].nunique() == 1 else "position"
    measured = table[table[quantity].notna()]
    if measured.empty:
        raise MeasureError(
            f"The table of causal access has no {quantity}; choose another quantity."
        )
    if axis == "position":
        measured = _on_positions(measured, quantity, np.linspace(0.0, 1.0, points))
    rows = []
    for key, part in measured.groupby([*GROUP, axis], sort=False):
        values = part[quantity].to_numpy(float)
        found = bootstrap_mean(values, part["item"], n_boot=n_boot, seed=seed, level=level)
        rows.append((*key, found.value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=[*GROUP, axis, "value", "low", "high", "n"])


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing or table.empty:
        raise MeasureError(
            f"The table of causal access is empty or lacks {missing}; make it with causal_access()."
        )
    twice = table.duplicated(["item", *GROUP, "k"])
    if twice.any():
        row = table[twice].iloc[0]
        raise MeasureError(
            f"Item {row['item']} has the kind {row['kind']} from step {row['k']} on twice; pass "
            "the rows of one run."
        )
    return table.sort_values("k", kind="stable")


def _on_positions(
    table: pd.DataFrame, quantity: str, places: npt.NDArray[np.float64]
) -> pd.DataFrame:
    """Every item's values read at positions k/K; between its first and last k only."""
    frames = []
    for key, part in table.groupby(["item", *GROUP], sort=False):
        position = (part["k"] / part["n_steps"].clip(lower=1)).to_numpy(float)
        inside = places[(places >= position[0]) & (places <= position[-1])]
        values = np.interp(inside, position, part[quantity].to_numpy(float))
        names = {
            name: [value] * len(inside) for name, value in zip(("item", *GROUP), key, strict=True)
        }
        frames.append(pd.DataFrame({**names, "position": inside, quantity: values}))
    return pd.concat(frames, ignore_index=True)
