"""Curves over the steps of a rationale, averaged over training seeds and items."""

from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measure.statistics import bootstrap_seeds_items
from attcot_analysis.problems import Problem


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
) -> pd.DataFrame:
    """One candidate's probability after every step, from a `commitment` table of one run.

    Args:
        table: From `commitment`.
        problems: The items.
        which: The final answer of the item's own rationale, the right one, or the habitual one
            (items without one are left out).
        control: Whose rationale.

    Returns:
        ``item``, ``k``, ``value``; items whose number of steps is not the most common one are
        left out, so that every item counts at every k.
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
