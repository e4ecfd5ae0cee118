"""Means over training seeds × items: one model of their variance, for intervals and p values alike.

Whatever is compared is a mean over items, and in most cases over training seeds (and pretrained
models) crossed with them. One model says how such a mean would vary were all of these drawn anew;
the interval and the p value are made of it by the same formula, so that p < 0.05 exactly where the
95 % interval excludes zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, special

from attcot_analysis.errors import MeasureError, check_numbers
from attcot_analysis.stats.intervals import (
    FloatArray,
    Interval,
    Numbers,
    as_matrix,
    percentile_interval,
    resampled_means,
)

_LEAST_P = 1e-15
_ROUNDING = 1e-18

_EFFECTS = ((-3,), (-2,), (-1,), (-3, -2), (-3, -1), (-2, -1), (-3, -2, -1))
"""Axes (models, seeds, items) of main effects and interactions."""

Parts = tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Estimate:
    """A mean with what is needed for intervals and p values of any level.

    Attributes:
        value: The mean; NaN without data.
        parts: Its variance in parts, each with its degrees of freedom; empty if it cannot be told.
        n_items: Items with a value, over all kinds.
        n_seeds: Training seeds with a value; the fewest that a cell has.
        n_models: Pretrained models that were drawn.
    """

    value: float
    parts: Parts
    n_items: int
    n_seeds: int
    n_models: int = 1

    @property
    def error(self) -> float:
        """Standard error; NaN if it cannot be told."""
        return float(np.sqrt(sum(part for part, _ in self.parts))) if self.parts else float("nan")

    @property
    def one_run(self) -> bool:
        """Whether it speaks of one training run only, "this checkpoint"."""
        return self.n_seeds < 2 and self.n_models < 2

    def interval(self, level: float = 0.95) -> Interval:
        """Its interval; the ends are NaN if they cannot be told."""
        if not self.parts:
            return Interval(self.value, np.nan, np.nan, self.n_items, level)
        half = float(half_width(self.parts, (1 - level) / 2))
        return Interval(self.value, self.value - half, self.value + half, self.n_items, level)

    def p_value(self, bound: float = 0.0) -> float:
        """Two-sided p value of "the true mean is this": below 1 - level where it lies outside."""
        if not self.parts:
            return float("nan")
        distance = abs(self.value - bound)

        def beyond(log_p: float) -> float:
            return float(half_width(self.parts, np.exp(log_p) / 2)) - distance

        least = np.log(_LEAST_P)
        if distance <= _ROUNDING**0.5:
            return 1.0
        return _LEAST_P if beyond(least) < 0 else float(np.exp(optimize.brentq(beyond, least, 0.0)))

    def p_at_most(self, bound: float) -> float:
        """One-sided p value of "the true mean is at most this": small if it is clearly above."""
        half = self.p_value(bound) / 2
        return half if self.value > bound else 1 - half

    def p_at_least(self, bound: float) -> float:
        """One-sided p value of "the true mean is at least this": small if it is clearly below."""
        half = self.p_value(bound) / 2
        return half if self.value < bound else 1 - half


def seeds_items(matrix: Numbers) -> Estimate:
    """The mean over seeds × items, were both drawn anew.

    Its variance is that of the two-way random-effects model, between seeds + between items − rest,
    never below either of the first two. The half-width of an interval is the root of the sum of
    every part of the variance times the square of its own t quantile (S − 1 degrees of freedom for
    what seeds may have done, N − 1 for the rest). That is never narrower than Cochran's weighted
    quantile, and unlike Satterthwaite's degrees of freedom it keeps its promise with two and three
    seeds and at the small levels of a corrected test; the price is that it is wider than it needs
    to be where seeds hardly differ and are few. How often it holds the true mean stands in
    ``docs/statistics.md``. With one seed it is the t interval over items and speaks of that
    training run only.

    Where all values are −1, 0 or 1 the part of items is never below what two items would make, one
    at each end, that nobody saw, because a share of which nothing was seen need not be nothing.

    Args:
        matrix: (S, N) numbers, or (N,) for one seed; NaN marks a missing cell, which counts as the
            mean, so that an item or seed with fewer values moves less.

    Returns:
        Mean of the cells that are there. There is no interval with fewer than two items.

    Source: crossed random effects; Cochran 1964 on quantiles of mixed variances (ours are squared
    before weighting); Agresti & Coull 1998 on adding unseen items. The simulation is ours.
    """
    cells = as_matrix(matrix, "matrix")
    cells = cells[~np.isnan(cells).all(axis=1)][:, ~np.isnan(cells).all(axis=0)]
    if not cells.size:
        return Estimate(np.nan, (), 0, 0)
    return estimate_of(float(np.nanmean(cells)), [moved_cells(cells)], unseen=unseen_items(cells))


def moved_cells(cells: FloatArray, weight: float = 1.0) -> FloatArray:
    """How far every cell moves a mean over cells; missing ones do not.

    Args:
        cells: Any shape; NaN where missing.
        weight: Of these cells' mean in a larger mean.
    """
    there = ~np.isnan(cells)
    return np.nan_to_num(cells - np.nanmean(cells)) * (weight / max(int(there.sum()), 1))


def unseen_items(cells: FloatArray, weight: float = 1.0) -> float:
    """The variance that two unseen items, one at each end, make of a mean of yes and no.

    Args:
        cells: (..., N); NaN where missing.
        weight: Of these cells' mean in a larger mean.

    Returns:
        0 where values are no yes and no, unless they never differ.
    """
    known = cells[~np.isnan(cells)]
    if known.size and np.ptp(known) > 1e-9 and not np.isin(known, (-1.0, 0.0, 1.0)).all():
        return 0.0
    n = int((~np.isnan(cells)).any(axis=tuple(range(cells.ndim - 1))).sum())
    return 2 * (weight / max(n, 1)) ** 2


def estimate_of(
    value: float,
    kinds: Sequence[FloatArray],
    *,
    seeds: Sequence[npt.NDArray[np.intp]] | None = None,
    unseen: float = 0.0,
    n_seeds: int | None = None,
) -> Estimate:
    """An estimate from what every cell moves its value by.

    Args:
        value: The mean.
        kinds: Per kind of items (seeds, items) or (models, seeds, items), from `moved_cells`;
            items with no value left out. Kinds share models and seeds, and no items.
        seeds: Per kind, which seed each of its rows is; default the same ones in all.
        unseen: From `unseen_items`, the least that items contribute.
        n_seeds: What is reported as such; default those of all kinds.
    """
    kinds = [moved if moved.ndim == 3 else moved[None] for moved in kinds]
    n_items = sum(moved.shape[-1] for moved in kinds)
    labels = seeds or [np.arange(moved.shape[1]) for moved in kinds]
    found = len(np.unique(np.concatenate(labels)))
    parts: Parts = ()
    if min(moved.shape[-1] for moved in kinds) >= 2:
        split = variance_parts(kinds, labels, unseen)
        parts = tuple((float(part), df) for part, df in split)
    return Estimate(value, parts, n_items, found if n_seeds is None else n_seeds, kinds[0].shape[0])


def variance_parts(
    kinds: Sequence[FloatArray],
    seeds: Sequence[npt.NDArray[np.intp]] | None = None,
    unseen: FloatArray | float = 0.0,
) -> list[tuple[FloatArray, int]]:
    """Split the variance of a mean into what models, seeds and items contribute.

    The mean squares of the crossed random-effects model, main effects and interactions, added with
    alternating signs. What a model or a seed does is summed over kinds first, so that it may be the
    same in all of them; items belong to one kind.

    Args:
        kinds: Per kind (..., models, seeds, items), how far every cell moves the mean.
        seeds: Per kind, which seed each row is.
        unseen: The least that items contribute.

    Returns:
        ``(variance (...), degrees of freedom)``, fewest degrees first; models and seeds only if
        there are several.
    """
    labels = list(seeds or [np.arange(moved.shape[-2]) for moved in kinds])
    known = np.unique(np.concatenate(labels))
    labels = [np.searchsorted(known, rows) for rows in labels]
    n_seeds = len(known)
    sums = np.zeros((*kinds[0].shape[:-2], n_seeds))
    for moved, rows in zip(kinds, labels, strict=True):
        sums[..., rows] += moved.sum(axis=-1)
    squares = {
        axes: np.sum(
            [_mean_square(moved, axes) for moved in (kinds if -1 in axes else [sums[..., None]])],
            axis=0,
        )
        for axes in _EFFECTS
    }
    total = np.sum([(-1) ** (len(axes) + 1) * one for axes, one in squares.items()], axis=0)
    degrees = sum(moved.shape[-1] for moved in kinds) - len(kinds)
    by_items = np.maximum(squares[-1,], unseen)
    found = [(squares[-3,], sums.shape[-2] - 1), (squares[-2,], n_seeds - 1), (by_items, degrees)]
    floor = np.maximum.reduce([square for square, _ in found])
    return allot(np.maximum(total, floor), found)


def _mean_square(moved: FloatArray, axes: tuple[int, ...]) -> FloatArray:
    """The mean square of an effect or interaction, as a variance of the mean; 0 if it has none."""
    sizes = [moved.shape[axis] for axis in axes]
    if min(sizes) < 2:
        return np.zeros(moved.shape[:-3])
    others = tuple(axis for axis in (-3, -2, -1) if axis not in axes)
    contrast = moved.sum(axis=others, keepdims=True) if others else moved
    for axis in axes:
        contrast = contrast - contrast.mean(axis=axis, keepdims=True)
    scale = np.prod([size / (size - 1) for size in sizes])
    return np.asarray(scale * (contrast**2).sum(axis=(-3, -2, -1)), dtype=np.float64)


def allot(
    total: FloatArray | float, found: Sequence[tuple[FloatArray | float, int]]
) -> list[tuple[FloatArray, int]]:
    """Give a variance to its sources, those with the fewest degrees of freedom first."""
    left, parts = np.asarray(total, dtype=np.float64), []
    *first, last = sorted(((part, df) for part, df in found if df > 0), key=lambda one: one[1])
    for part, df in first:
        own = np.minimum(left, part)
        parts.append((own, df))
        left = left - own
    return [*parts, (left, last[1])]


def half_width(parts: Sequence[tuple[FloatArray | float, int]], tail: float) -> FloatArray:
    """Half the width of an interval that leaves this much on each side; see `seeds_items`."""
    squares = [part * special.stdtrit(df, tail) ** 2 for part, df in parts]
    return np.sqrt(np.maximum(sum(squares), _ROUNDING))


@dataclass(frozen=True)
class Mean:
    """A mean with its interval and p value.

    Attributes:
        interval: Excludes zero exactly where `p_value` is below 1 - its level.
        p_value: Two-sided p value of "the true mean is 0"; NaN where the interval has no ends.
        test: ``"t, seeds × items"``, or ``"bootstrap, items"`` of one run.
        n_seeds: Training seeds with a value.
    """

    interval: Interval
    p_value: float
    test: str
    n_seeds: int


def mean_of(matrix: Numbers, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95) -> Mean:
    """The mean over seeds × items with interval and p value, as all tables of this project have it.

    With several seeds they are of `seeds_items` and speak about new seeds and items. With one they
    are of the percentile bootstrap over items, as `bootstrap_mean` has it, the p value by
    inversion, and speak about other items and this very run: two trainings alike in all but their
    seed differ by more, so it decides nothing about a method.

    Args:
        matrix: (S, N) numbers, or (N,) for one seed; NaN marks a missing cell.
        n_boot: Resamples, of one run only.
        seed: Seed of the resampling.
        level: Confidence level.
    """
    check_numbers(n_boot=n_boot, seed=seed, level=level)
    cells = as_matrix(matrix, "matrix")
    cells = cells[~np.isnan(cells).all(axis=1)]
    if len(cells) > 1:
        estimate = seeds_items(cells)
        p_value = estimate.p_value()
        return Mean(estimate.interval(level), p_value, "t, seeds × items", len(cells))
    values = cells[~np.isnan(cells)]
    means = resampled_means(values, np.ones(values.size), n_boot=n_boot, seed=seed)
    value = float(values.mean()) if values.size else np.nan
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    # No + 1: the interval's ends lie between two draws.
    p_value = min(1.0, max(2 * beyond, 1) / (means.size + 1)) if means.size else np.nan
    interval = percentile_interval(value, means, values.size, level)
    return Mean(interval, p_value, "bootstrap, items", len(cells))


def paired_matrix(a: Numbers, b: Numbers) -> FloatArray:
    """Differences b − a, (S, N), of two arms measured on the same items.

    Args:
        a: (S, N), (1, N) or (N,); a single row is paired with every row of b.
        b: Likewise.

    Raises:
        MeasureError: If items differ in number, or both arms have several, different, numbers
            of seeds.
    """
    first, second = as_matrix(a, "a"), as_matrix(b, "b")
    if first.shape[1] != second.shape[1]:
        raise MeasureError(
            f"a has {first.shape[1]} items and b has {second.shape[1]}; "
            "a paired comparison needs the same items in the same order."
        )
    if first.shape[0] != second.shape[0] and 1 not in (first.shape[0], second.shape[0]):
        raise MeasureError(
            f"a has {first.shape[0]} seeds and b has {second.shape[0]}; pair equal numbers of "
            "seeds, or give one arm a single row."
        )
    return np.asarray(second - first, dtype=np.float64)


def paired_difference(
    a: Numbers, b: Numbers, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of b − a, paired by item and seed, with the interval of `mean_of`.

    Args:
        a: (S, N), (1, N) or (N,); a single row is paired with every row of b.
        b: Likewise.
        n_boot: Resamples, of one run only.
        seed: Seed of the resampling.
        level: Confidence level.
    """
    matrix = paired_matrix(a, b)
    return mean_of(matrix, n_boot=n_boot, seed=seed, level=level).interval


def step_curve(runs: Mapping[int, pd.DataFrame], *, axis: str, n_boot: int = 2000) -> pd.DataFrame:
    """Mean of a quantity at every step, over seeds crossed with items.

    Args:
        runs: Training seed → table with columns ``item``, `axis`, ``value``, one row per item
            and step. Items need not have all steps.
        axis: Name of the step column, kept in the result.
        n_boot: Resamples, of one run only; see `mean_of`.

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
        mean = mean_of(matrix.to_numpy(float), n_boot=n_boot).interval
        rows.append(
            {
                axis: step,
                "value": mean.value,
                "low": mean.low,
                "high": mean.high,
                "n": matrix.shape[1],
                "n_seeds": matrix.shape[0],
            }
        )
    return pd.DataFrame(rows)
