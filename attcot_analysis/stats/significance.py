"""Paired tests and effect sizes: do two arms differ on the same items?"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from attcot_analysis.errors import MeasureError, check_numbers
from attcot_analysis.stats.intervals import (
    FloatArray,
    Numbers,
    as_vector,
    times_drawn,
)

_BLOCK = 4_000_000


def holm(p_values: Numbers) -> FloatArray:
    """Holm's correction for several tests; NaN stays NaN and does not count as a test.

    Raises:
        MeasureError: If a p value lies outside [0, 1].
    """
    raw, there = _p_values(p_values)
    p = raw[there]
    # As statsmodels' multipletests, which takes seconds to import and collects garbage every call.
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.full(raw.shape, np.nan)
    adjusted[np.flatnonzero(there)[order]] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(p_values: Numbers) -> FloatArray:
    """Benjamini and Hochberg's correction: of the tests below α, a share of α is false on average.

    Weaker than `holm`, which keeps the chance of even one false test. NaN stays NaN and does not
    count as a test.

    Raises:
        MeasureError: If a p value lies outside [0, 1].
    """
    raw, there = _p_values(p_values)
    adjusted = np.full(raw.shape, np.nan)
    if there.any():
        adjusted[there] = stats.false_discovery_control(raw[there], method="bh")
    return adjusted


def cohens_dz(a: Numbers, b: Numbers | None = None) -> float:
    """Paired effect size: mean difference over its standard deviation across items.

    Args:
        a: (N,) values, or the differences themselves when `b` is not given.
        b: (N,) values on the same items.

    Returns:
        NaN with fewer than two pairs or when all differences are equal.
    """
    differences = _differences(a, b)
    if differences.size < 2 or np.ptp(differences) == 0:
        return float("nan")
    return float(differences.mean() / differences.std(ddof=1))


def _p_values(p_values: Numbers) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """The p values, and which of them are there."""
    raw = as_vector(p_values, "p_values")
    there = ~np.isnan(raw)
    if ((raw[there] < 0) | (raw[there] > 1)).any():
        raise MeasureError(f"p_values hold {raw[there].tolist()}; each must lie in [0, 1].")
    return raw, there


def _differences(a: Numbers, b: Numbers | None) -> FloatArray:
    """Differences b - a of the items that have both, or the differences themselves."""
    if b is not None:
        first, second = _pairs(a, b)
        return second - first
    differences = as_vector(a, "differences")
    return differences[~np.isnan(differences)]


def _pairs(a: Numbers, b: Numbers) -> tuple[FloatArray, FloatArray]:
    first, second = as_vector(a, "a"), as_vector(b, "b")
    if first.shape != second.shape:
        raise MeasureError(
            f"a has {first.size} items and b has {second.size}; "
            "a paired test needs the same items in the same order."
        )
    keep = ~(np.isnan(first) | np.isnan(second))
    return first[keep], second[keep]


@dataclass(frozen=True, eq=False)
class Resampled:
    """Means over items, and the same over resampled items.

    Attributes:
        value: ``(C,)``; NaN for a cell without numbers.
        resampled: ``(n_boot, C)``.
        n: Items with a number in any cell.
    """

    value: FloatArray
    resampled: FloatArray
    n: int

    def interval(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Lower and upper ends, ``(C,)`` each, percentile bootstrap; NaN with fewer than 2 items.

        They hold for each cell by itself, not for all at once.
        """
        check_numbers(level=level)
        low = np.full(self.value.shape, np.nan)
        high = low.copy()
        there = ~np.isnan(self.value)
        if self.n > 1 and there.any():
            tail = (1 - level) / 2
            ends = np.nanquantile(self.resampled[:, there], [tail, 1 - tail], axis=0)
            low[there], high[there] = ends
        return low, high


def resample_items(cells: FloatArray, *, n_boot: int = 2000, seed: int = 0) -> Resampled:
    """Bootstrap the mean of every cell over items, all cells with the same resampled items.

    Args:
        cells: ``(N, C)``, item by cell; NaN where an item has no number.
        n_boot: Resamples.
        seed: Seed of the resampling.

    Raises:
        MeasureError: If the shape is another, or n_boot is not positive.
    """
    cells = as_cells(cells)
    check_numbers(n_boot=n_boot, seed=seed)
    cells = cells[~np.isnan(cells).all(axis=1)]
    there = ~np.isnan(cells)
    drawn = times_drawn(np.random.default_rng(seed), max(len(cells), 1), n_boot)[:, : len(cells)]
    with np.errstate(invalid="ignore"):
        value = np.nan_to_num(cells).sum(axis=0) / there.sum(axis=0)
        counts = drawn.sum(axis=1, keepdims=True) if there.all() else drawn @ there.astype(float)
        resampled = (drawn @ np.nan_to_num(cells)) / counts
    return Resampled(value, resampled, len(cells))


def cell_effect_sizes(differences: FloatArray) -> FloatArray:
    """Cohen's dz of every cell, ``(C,)``: mean over standard deviation across items.

    Args:
        differences: ``(N, C)``; NaN where an item has none. See `cohens_dz`.
    """
    cells = as_cells(differences)
    there = ~np.isnan(cells)
    n = there.sum(axis=0)
    filled = np.nan_to_num(cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = filled.sum(axis=0) / n
        spread = np.sqrt(np.where(there, (cells - mean) ** 2, 0.0).sum(axis=0) / (n - 1))
        equal = np.where(there, np.abs(cells - mean), 0.0).max(axis=0, initial=0.0)
        scale = np.abs(filled).max(axis=0, initial=0.0)
        return np.where((n < 2) | (equal <= 1e-12 * scale), np.nan, mean / spread)


@dataclass(frozen=True, eq=False)
class CellTest:
    """A sign-flip test of many cells.

    Attributes:
        p_value: ``(C,)``, each cell by itself; NaN without data.
        p_family: ``(C,)``, corrected for all cells: rejecting what is below α finds even one false
            cell with a chance of no more than α.
        n: Items.
        n_patterns: Sign patterns used; no p value can be below 1 over it.
    """

    p_value: FloatArray
    p_family: FloatArray
    n: int
    n_patterns: int


def max_statistic_test(
    differences: FloatArray, *, n_permutations: int = 10_000, seed: int = 0
) -> CellTest:
    """Paired sign-flip test of every cell, with the maximum statistic as correction.

    Under the null an item's differences are as likely +d as -d, all cells of an item together, so
    that cells stay as correlated as they are. A cell's statistic is ``|sum d| / sqrt(sum d²)``,
    which orders sign patterns as the t statistic does; its corrected p is the share of patterns
    whose largest statistic over all cells reaches it. All 2^N patterns are used when they are no
    more than `n_permutations`, else random ones with the observed pattern counted in.

    Args:
        differences: ``(N, C)``, item by cell; NaN where an item has none.
        n_permutations: Random sign patterns.
        seed: Seed of the patterns.

    Raises:
        MeasureError: If the shape is another or a value is infinite.

    Source: Westfall & Young 1993, single-step maxT, with sign flips for paired data (Nichols &
    Holmes 2002).
    """
    check_numbers(n_permutations=n_permutations, seed=seed)
    cells = as_cells(differences)
    cells = cells[~np.isnan(cells).all(axis=1)]
    n, n_cells = cells.shape
    empty = np.isnan(cells).all(axis=0)
    if n == 0 or empty.all():
        nothing = np.full(n_cells, np.nan)
        return CellTest(nothing, nothing.copy(), n, 0)
    filled = np.nan_to_num(cells)
    norm = np.sqrt((filled**2).sum(axis=0))
    scaled = np.divide(filled, norm, out=np.zeros_like(filled), where=norm > 0)
    # Sums that differ only by rounding are ties, and ties count against the effect.
    bound = np.abs(scaled.sum(axis=0)) - 1e-9
    exact = n < 63 and 2**n <= n_permutations
    total = 2**n if exact else n_permutations
    rng = np.random.default_rng(seed)
    alone, family = np.zeros(n_cells), np.zeros(n_cells)
    block = max(1, _BLOCK // max(n, n_cells))
    for start in range(0, total, block):
        rows = np.arange(start, min(start + block, total))
        if exact:
            negative = (rows[:, None] >> np.arange(n)[None, :]) & 1
        else:
            negative = rng.integers(2, size=(rows.size, n))
        flipped = np.abs((1.0 - 2.0 * negative) @ scaled)
        alone += (flipped >= bound).sum(axis=0)
        largest = np.sort(flipped.max(axis=1))
        family += rows.size - np.searchsorted(largest, bound)
    extra = 0 if exact else 1
    p_value, p_family = (
        np.where(empty, np.nan, (hits + extra) / (total + extra)) for hits in (alone, family)
    )
    return CellTest(p_value, p_family, n, total + extra)


def as_cells(values: FloatArray) -> FloatArray:
    """Read ``(N, C)`` floats; refuse another shape and infinities."""
    cells = np.asarray(values, dtype=np.float64)
    if cells.ndim != 2:
        raise MeasureError(f"The cells have shape {cells.shape}; expected (items, cells).")
    if np.isinf(cells).any():
        raise MeasureError("The cells hold an infinite value; drop it or mark it as NaN.")
    return cells
