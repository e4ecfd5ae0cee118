"""Curves over the steps of a rationale, averaged over training seeds and items."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems import Problem
from attcot_analysis.stats.intervals import bootstrap_seeds_items


def step_curve(runs: Mapping[int, pd.DataFrame], *, axis: str, n_boot: int = 2000) -> pd.DataFrame:
    """Mean of a quantity at every step, over seeds crossed with items.

    Args:
        runs: Training seed → table with columns ``item``, `axis`, ``value``, one row per item
            and step. Items need not have all steps.
        axis: Name of the step column, kept in the result.
        n_boot: Resamples of the two-way bootstrap.

    Returns:
        One row per step: `axis`, ``value``, ``low``, ``high``, ``n`` (items), ``n_seeds``.

    Raises:
        MeasureError: If there is no run, or an item has a step twice.
    """
    if not runs:
        raise MeasureError("A curve needs at least one run; none was given.")
    for seed, table in runs.items():
        if table.duplicated(["item", axis]).any():
            raise MeasureError(
                f"The run of seed {seed} has an item with one {axis} twice; reduce layers, heads "
                "and candidates to one value first."
            )
    stacked = pd.concat([table.assign(seed=seed) for seed, table in runs.items()])
    rows = []
    for step, part in stacked.groupby(axis, sort=True):
        matrix = part.pivot(index="seed", columns="item", values="value")
        found = bootstrap_seeds_items(matrix.to_numpy(float), n_boot=n_boot)
        rows.append(
            {
                axis: step,
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "n": matrix.shape[1],
                "n_seeds": matrix.shape[0],
            }
        )
    return pd.DataFrame(rows)


def candidate_steps(
    table: pd.DataFrame,
    problems: Sequence[Problem],
    which: Literal["final", "answer", "habitual"],
    *,
    control: str = "rationale",
    lengths: Literal["common", "all"] = "common",
) -> pd.DataFrame:
    """One candidate's probability after every step, from a `commitment` table of one run.

    Args:
        table: From `commitment`.
        problems: The items.
        which: The final answer of the item's own rationale, the right one, or the habitual one
            (items without one are left out).
        control: Whose rationale.
        lengths: ``"common"`` leaves out items whose number of steps is not the most common one,
            so that every item counts at every k; ``"all"`` keeps them, for `at_positions`.

    Returns:
        ``item``, ``k``, ``value``.
    """
    if which == "final":
        own = table[(table["control"] == "rationale") & (table["step"] == table["n_steps"])]
        best = own.loc[own.groupby("item")["p"].idxmax()]
        target = dict(zip(best["item"], best["candidate"], strict=True))
    else:
        chosen = {p.id: p.answer if which == "answer" else p.habitual for p in problems}
        target = {item: answer for item, answer in chosen.items() if answer is not None}
    rows = table[table["control"] == control]
    rows = rows[rows["candidate"] == rows["item"].map(target)]
    if lengths == "common":
        rows = rows[rows["n_steps"] == rows["n_steps"].mode().iloc[0]]
    return rows.rename(columns={"step": "k", "p": "value"})[["item", "k", "value"]]


def access_steps(table: pd.DataFrame, quantity: str = "mass") -> pd.DataFrame:
    """A quantity of a `visual_access` table per item and step, mean over layers and heads.

    Returns:
        ``item``, ``step``, ``value``; steps without evidence boxes are left out of the
        quantities that need them.
    """
    means = table.groupby(["item", "step"], sort=False)[quantity].mean().dropna()
    return means.rename("value").reset_index()


def at_positions(table: pd.DataFrame, axis: str, *, points: int = 11) -> pd.DataFrame:
    """Read every item's curve at the same shares of its rationale, by linear interpolation.

    So that items and models with different numbers of steps share one axis, and every item counts
    at every point.

    Args:
        table: Columns ``item``, `axis`, ``value``; the last step of an item is its position 1.
        axis: Name of the step column: 0 before the first step, or from 1.
        points: From 0 to 1; the first is left out where curves start at step 1.

    Returns:
        ``item``, ``position``, ``value``.
    """
    places = np.linspace(0.0, 1.0, points)
    if len(table) and table[axis].min() > 0:
        places = places[1:]
    parts = []
    for item, curve in table.groupby("item", sort=False):
        steps = curve.sort_values(axis)
        position = steps[axis].to_numpy(float) / max(float(steps[axis].max()), 1.0)
        read = np.interp(places, position, steps["value"].to_numpy(float))
        parts.append(pd.DataFrame({"item": item, "position": places, "value": read}))
    return pd.concat(parts, ignore_index=True) if parts else table.assign(position=np.nan)
