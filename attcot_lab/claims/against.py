"""One claim against another, cell by cell: is there more of the cure where more is wrong?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from attcot_analysis.errors import MeasureError
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


def line_through_cells(
    cells: pd.DataFrame, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> CellLine:
    """How far the cure grows with the failure, over cells.

    Args:
        cells: From `claim_against_claim`.
        n_boot: Bootstrap resamples of cells (bias-corrected and accelerated intervals).
        seed: Seed of the bootstrap.
        level: Confidence level.

    Returns:
        Least-squares slope and intercept, Pearson's r, n the number of cells. Cells of one kind
        share items and those of one family much else, so that they are not as many independent
        ones: see ``r_without``.

    Raises:
        MeasureError: If there are fewer than four cells, or the failure is the same in all.
    """
    x, y = cells["failure"].to_numpy(float), cells["cure"].to_numpy(float)
    if len(cells) < _FEWEST or np.ptp(x) == 0:
        raise MeasureError(
            f"A line needs {_FEWEST} cells that differ in the failure, and there are "
            f"{len(cells)}; give the claims of a larger grid."
        )
    ends = stats.bootstrap(
        (x, y),
        _line,
        paired=True,
        vectorized=False,
        n_resamples=n_boot,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    slope, at_zero, r = (
        Interval(float(value), float(low), float(high), len(cells), level)
        for value, low, high in zip(_line(x, y), ends.low, ends.high, strict=True)
    )
    return CellLine(slope, at_zero, r, _without(cells))


def _line(x: FloatArray, y: FloatArray) -> FloatArray:
    line = stats.linregress(x, y)
    return np.array([line.slope, line.intercept, line.rvalue])


def _without(cells: pd.DataFrame) -> pd.Series:
    correlations = {}
    for column in CELL:
        for name in dict.fromkeys(cells[column]):
            rest = cells[cells[column] != name]
            if len(rest) >= _FEWEST and np.ptp(rest["failure"]) > 0:
                r = stats.pearsonr(rest["failure"], rest["cure"]).statistic
                correlations[str(name)] = r
    return pd.Series(correlations, name="r", dtype=float)
