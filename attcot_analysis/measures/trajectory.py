"""Visual access summed up per item: its level, and its course over the rationale."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access_blocks import QUANTITIES, SINK_QUANTITIES

_COURSES = {"mass": "", "share": "share_", "sink_free_mass": "sink_free_"}
"""Quantities whose course over the steps is summed up, and how late over early is called."""


def access_trajectory(table: pd.DataFrame, *, rho: float | None = None) -> pd.DataFrame:
    """Sum up `visual_access` per item: level and course over the rationale.

    Layers and heads are averaged first; select rows of the table to sum up some of them only
    (`at_heads`).

    Args:
        table: From `visual_access`.
        rho: Also count the steps that look less than this.

    Returns:
        One row per item: ``item, n_steps``; ``mass``, ``share``, ``density``, ``evidence_mass``
        and ``evidence_share``, means over steps; ``mass_first_step``, ``mass_last_step``;
        ``mass_slope``, the least-squares slope of mass against step position k/K (NaN for one
        step); ``late_over_early``, mean mass of the last third of steps over the first third
        (NaN for one step); ``share_slope`` and ``share_late_over_early``, the same of share: a
        fall of mass that share does not show is dilution by the model's own text. Where the table
        has sinks also ``sink_free_mass``, ``sink_share``, ``sink_free_mass_slope`` and
        ``sink_free_late_over_early``. With ``rho`` also ``steps_below``, the share of steps whose
        mass is less than it.

    Raises:
        MeasureError: If the table lacks a column.
    """
    missing = {"item", "step", "n_steps", *QUANTITIES} - set(table.columns)
    if missing:
        raise MeasureError(
            f"The table lacks {', '.join(sorted(missing))}; give one made by visual_access()."
        )
    sinks = [name for name in SINK_QUANTITIES if name in table.columns]
    columns = ["n_steps", *QUANTITIES, *sinks]
    steps = table.groupby(["item", "step"], sort=False)[columns].mean().reset_index()
    steps = steps.sort_values("step", kind="stable")
    items = steps.groupby("item", sort=False)
    course = pd.DataFrame.from_records(
        [{"item": item, **_courses(group, rho)} for item, group in items],
        columns=["item", *_courses(steps.iloc[:0], rho)],
    )
    found = items[columns].mean().reset_index().merge(course, on="item")
    return found.astype({"n_steps": int})


def _courses(steps: pd.DataFrame, rho: float | None) -> dict[str, float]:
    """The course of one item's steps, given in order."""
    mass = steps["mass"].to_numpy()
    found = {
        "mass_first_step": float(mass[0]) if len(mass) else np.nan,
        "mass_last_step": float(mass[-1]) if len(mass) else np.nan,
    }
    for quantity, prefix in _COURSES.items():
        if quantity in steps.columns:
            slope, late = _course(steps[quantity].to_numpy())
            found |= {f"{quantity}_slope": slope, f"{prefix}late_over_early": late}
    if rho is not None:
        found["steps_below"] = float((mass < rho).mean()) if len(mass) else np.nan
    return found


def _course(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Slope against k/K, and mean of the last third over mean of the first."""
    n_steps = len(values)
    if n_steps < 2:
        return float("nan"), float("nan")
    third = -(-n_steps // 3)
    slope = float(np.polyfit(np.arange(1, n_steps + 1) / n_steps, values, 1)[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return slope, float(values[-third:].mean() / values[:third].mean())
