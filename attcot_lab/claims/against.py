"""One claim against another, cell by cell: is there more of the cure where more is wrong?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.crossed import allot, half_width
from attcot_analysis.stats.intervals import FloatArray, Interval

CELL = ("family", "scale", "kind")
_FEWEST = 4
"""Cells below which a line is not drawn through them."""


@dataclass(frozen=True)
class CellLine:
    """A straight line through cells.

    Attributes:
        slope: Effect per unit of the failure.
        at_zero: Effect where the failure is zero.
        r: Pearson's correlation.
        r_without: r without each kind, family and scale in turn, where enough cells are left.
    """

    slope: Interval
    at_zero: Interval
    r: Interval
    r_without: pd.Series


def claim_against_claim(
    failures: pd.DataFrame, failure: str, cures: pd.DataFrame, cure: str
) -> pd.DataFrame:
    """The effects of two claims side by side, one row per cell that both were tested in.

    Take the two from different grids, with other seeds and test items: from the same one, an arm
    that is in both claims (CoT-SFT commits early; Att-CoT commits later than CoT-SFT) ties them
    together by its mere noise (regression to the mean).

    Args:
        failures: A claims table.
        failure: Claim in it, such as ``"early_p0_cot_sft"``.
        cures: A claims table; the same one, or that of another grid.
        cure: Claim in it, such as ``"att_later"``.

    Returns:
        ``family``, ``scale``, ``kind``, and the effects with their intervals: ``failure``,
        ``failure_low``, ``failure_high``, ``cure``, ``cure_low``, ``cure_high``.

    Raises:
        MeasureError: If the two have no cell in common.
    """
    sides = []
    for table, claim, name in ((failures, failure, "failure"), (cures, cure, "cure")):
        rows = table[(table["claim"] == claim) & (table["level"] == "cell")]
        names = {"effect": name, "low": f"{name}_low", "high": f"{name}_high"}
        sides.append(rows[[*CELL, *names]].rename(columns=names))
    cells = sides[0].merge(sides[1], on=list(CELL))
    if cells.empty:
        raise MeasureError(
            f"The claims {failure} and {cure} have no cell in common; give tables that hold both, "
            "of the same models and kinds."
        )
    return cells


def line_through_cells(cells: pd.DataFrame, *, level: float = 0.95) -> CellLine:
    """How far the cure grows with the failure, over cells.

    Cells of one kind share items and those of one model much else, so that they are not as many
    independent ones. Intervals speak of other models and other kinds: they rest on how much a
    value moves when each model, and each kind, is left out in turn (the jackknife over clusters;
    r on Fisher's scale), the two variances added and that of single cells taken off, never below
    either; half-widths as in `seeds_items`, with the number of models or kinds less one as degrees
    of freedom. Three kinds are few: the intervals are wide where the line hangs on one of them.

    Args:
        cells: From `claim_against_claim`.
        level: Confidence level.

    Returns:
        Least-squares slope and intercept, Pearson's r; n is the number of cells.

    Raises:
        MeasureError: If there are fewer than four cells, or the failure is the same in all, or in
            all that are left without a model or kind.

    Source: Cameron, Gelbach & Miller 2011 on two-way clusters; Efron 1982 on the jackknife.
    """
    x, y = cells["failure"].to_numpy(float), cells["cure"].to_numpy(float)
    if len(cells) < _FEWEST or np.ptp(x) == 0:
        raise MeasureError(
            f"A line needs {_FEWEST} cells that differ in the failure, and there are "
            f"{len(cells)}; give the claims of a larger grid."
        )
    models = cells["family"].astype(str) + " " + cells["scale"].astype(str)
    kinds, alone = cells["kind"].astype(str), pd.Series(range(len(cells)))
    moved = [_left_out(x, y, labels.to_numpy()) for labels in (models, kinds, alone)]
    of_models, of_kinds, of_cells = (variance for variance, _ in moved)
    floor = np.maximum(of_models, of_kinds)
    total = np.maximum(of_models + of_kinds - of_cells, floor)
    half = half_width(allot(total, moved[:2]), (1 - level) / 2)
    slope, at_zero, z = _line(x, y)
    ends = [
        (value - width, value + width)
        for value, width in zip((slope, at_zero, z), half, strict=True)
    ]
    values = (slope, at_zero, np.tanh(z))
    ends[2] = (np.tanh(ends[2][0]), np.tanh(ends[2][1]))
    made = [
        Interval(float(value), float(low), float(high), len(cells), level)
        for value, (low, high) in zip(values, ends, strict=True)
    ]
    by_slope, by_intercept, by_r = made
    return CellLine(by_slope, by_intercept, by_r, _without(cells))


def _line(x: FloatArray, y: FloatArray) -> FloatArray:
    """Slope, intercept and Fisher's z of r."""
    line = stats.linregress(x, y)
    return np.array(
        [line.slope, line.intercept, np.arctanh(np.clip(line.rvalue, -1 + 1e-12, 1 - 1e-12))]
    )


def _left_out(x: FloatArray, y: FloatArray, labels: npt.NDArray[Any]) -> tuple[FloatArray, int]:
    """Jackknife variance of the line over clusters, and its degrees of freedom; 0 with one."""
    names = pd.unique(labels)
    if len(names) < 2:
        return np.zeros(3), 0
    kept = [labels != name for name in names]
    if any(keep.sum() < 3 or np.ptp(x[keep]) == 0 for keep in kept):
        raise MeasureError(
            "A line needs cells that differ in the failure whichever model or kind is left out; "
            "give the claims of a larger grid."
        )
    lines = np.array([_line(x[keep], y[keep]) for keep in kept])
    spread = ((lines - lines.mean(axis=0)) ** 2).sum(axis=0)
    return spread * (len(names) - 1) / len(names), len(names) - 1


def _without(cells: pd.DataFrame) -> pd.Series:
    correlations = {}
    for column in CELL:
        for name in dict.fromkeys(cells[column]):
            rest = cells[cells[column] != name]
            if len(rest) >= _FEWEST and np.ptp(rest["failure"]) > 0:
                r = stats.pearsonr(rest["failure"], rest["cure"]).statistic
                correlations[str(name)] = r
    return pd.Series(correlations, name="r", dtype=float)
