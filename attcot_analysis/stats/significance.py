"""Paired tests and effect sizes: do two arms differ on the same items?"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.intervals import (
    FloatArray,
    Numbers,
    as_vector,
    complete_cells,
    mean_squares,
    times_drawn,
)

ITEMS_ONLY = "sign-flip"
"""Name of the test that knows items only, and no training seeds."""

FEWEST_SEEDS = 3
"""With fewer, but more than one, there is no p value."""

_BLOCK = 4_000_000


@dataclass(frozen=True)
class PairedTest:
    """The outcome of a paired test.

    Attributes:
        test: Name of the test.
        p_value: Two-sided p value; NaN without data.
        effect: Mean of b − a.
        n: Pairs used.
    """

    test: str
    p_value: float
    effect: float
    n: int


def mcnemar(a: Numbers, b: Numbers) -> PairedTest:
    """McNemar's exact test: do two arms differ in a yes/no outcome on the same items?

    Args:
        a: (N,) of 0/1; pairs with a NaN on either side are left out.
        b: Likewise, same items in the same order.

    Raises:
        MeasureError: If a value is neither 0 nor 1, or the lengths differ.
    """
    first, second = _pairs(a, b)
    for name, x in (("a", first), ("b", second)):
        odd = x[(x != 0) & (x != 1)]
        if odd.size:
            raise MeasureError(
                f"McNemar's test found {odd[0]} in {name}; it takes 0 and 1 only. "
                "Use permutation_test for other values."
            )
    if not first.size:
        return PairedTest("mcnemar", np.nan, np.nan, 0)
    lost, gained = int((first > second).sum()), int((first < second).sum())
    p_value = min(1.0, 2 * float(stats.binom.cdf(min(lost, gained), lost + gained, 0.5)))
    return PairedTest("mcnemar", p_value, float((second - first).mean()), first.size)


def permutation_test(
    a: Numbers, b: Numbers | None = None, *, n_permutations: int = 10_000, seed: int = 0
) -> PairedTest:
    """Paired sign-flip permutation test of mean(b − a) = 0.

    Under the null an item's difference is as likely +d as −d. It knows of no training seeds, whose
    luck all items share: see `seeds_items_test`. It is `max_statistic_test` of a single cell.

    Args:
        a: (N,) values, or the differences themselves when `b` is not given.
        b: (N,) values on the same items; pairs with a NaN are left out.
        n_permutations: Random sign patterns.
        seed: Seed of the patterns.
    """
    differences = _differences(a, b)
    if not differences.size:
        return PairedTest(ITEMS_ONLY, np.nan, np.nan, 0)
    scale = np.abs(differences).max() or 1.0
    test = max_statistic_test(
        differences[:, None] / scale, n_permutations=n_permutations, seed=seed
    )
    return PairedTest(ITEMS_ONLY, float(test.p_value[0]), float(differences.mean()), test.n)


def seeds_items_test(differences: Numbers) -> PairedTest:
    """Test that a mean over seeds × items is 0, were seeds and items drawn anew.

    The standard error is `crossed_t_interval`'s. Few seeds tell little of how seeds vary, so the
    mean is held against the t quantiles of S − 1 and of N − 1 degrees of freedom, weighted by the
    seeds' part of the variance and the rest (Cochran), not against Satterthwaite's, whose test
    rejects up to 8 % at 5 % with three seeds, and 8 times too often at 0.05 / 18. Simulated with
    any mixture of seeds' and items' variance this one rejects at most 5.2 % at 5 %; it is
    stricter than that (1 to 2 %) where noise of item by seed is all there is.

    Args:
        differences: (S, N); items with a NaN in any seed are left out.

    Returns:
        p is NaN with fewer than three seeds, because two tell too little of how seeds vary: p
        values corrected for 18 tests would be below 0.05 in up to 18 % of the cases. It is NaN
        with fewer than two items, too, and where nothing varies about a mean that is not 0.

    Source: Cochran 1964, approximate significance levels of the Behrens-Fisher test; the
    simulation is ours.
    """
    cells = complete_cells(differences)
    n_seeds, n_items = cells.shape
    name = "t, seeds × items"
    if n_seeds < FEWEST_SEEDS or n_items < 2:
        return PairedTest(name, np.nan, float(cells.mean()) if cells.size else np.nan, n_items)
    mean = float(cells.mean())
    ms_seed, ms_item, ms_rest = mean_squares(cells)
    variance = max(ms_seed + ms_item - ms_rest, ms_item)
    if variance <= 1e-18:
        return PairedTest(name, 1.0 if abs(mean) <= 1e-9 else np.nan, mean, n_items)
    distance = abs(mean) / np.sqrt(variance / cells.size)
    share = min(1.0, ms_seed / variance)

    def beyond(log_p: float) -> float:
        tail = np.exp(log_p) / 2
        of_seeds, of_items = -special.stdtrit([n_seeds - 1, n_items - 1], tail)
        return float(share * of_seeds + (1 - share) * of_items - distance)

    least = np.log(1e-15)
    p_value = 1e-15 if beyond(least) < 0 else np.exp(optimize.brentq(beyond, least, 0.0))
    return PairedTest(name, float(p_value), mean, n_items)


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
        if not 0 < level < 1:
            raise MeasureError(f"level is {level}; expected a share such as 0.95.")
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
    if n_boot < 1:
        raise MeasureError(f"n_boot is {n_boot}; ask for at least one resample (2000 is usual).")
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
