"""Intervals over items: what a single run says, and shares.

An item is the unit that repeats: these intervals speak about other items, with everything measured
on them, and this very run. What is crossed with training seeds is in `crossed`. Several responses
to one item are one item: see `mean_over_samples`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from attcot_analysis.errors import MeasureError, check_numbers, check_table, one_line

Numbers = npt.ArrayLike | pd.Series

FloatArray = npt.NDArray[np.float64]


# Numbers held at once while resampling (32 MB), whatever the number of items.
_BLOCK = 4_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        value: The estimate; NaN if nothing was left to estimate it from.
        low: Lower end; NaN if fewer than two independent units were there.
        high: Upper end; NaN together with `low`.
        n: Independent units behind it (items, or clusters where clusters were given).
        level: Confidence level, between 0 and 1.

    Raises:
        MeasureError: If the ends are in the wrong order, only one of them is NaN, or n < 0.
    """

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be an interval."""
        if not 0 < self.level < 1:
            raise MeasureError(f"Interval level is {self.level}; expected a share such as 0.95.")
        if self.n < 0:
            raise MeasureError(f"Interval n is {self.n}; expected a count of at least 0.")
        if np.isnan(self.low) != np.isnan(self.high):
            raise MeasureError(
                f"Interval ends are {self.low} and {self.high}; give both or neither."
            )
        if self.low > self.high:
            raise MeasureError(
                f"Interval runs from {self.low} to {self.high}; the lower end must come first."
            )

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside; ``False`` where the ends are not defined."""
        return bool(self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        """Write it as ``0.512 [0.470, 0.553] n=192``."""
        return format(self, ".3f")

    def __format__(self, spec: str) -> str:
        """Write it with its numbers in a format of their own, ``f"{interval:.2f}"``."""
        if not spec:
            return str(self)
        if np.isnan(self.value):
            return f"undefined n={self.n}"
        if np.isnan(self.low):
            return f"{self.value:{spec}} [undefined] n={self.n}"
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}] n={self.n}"


def bootstrap_mean(
    values: Numbers,
    clusters: Sequence[object] | npt.NDArray[Any] | pd.Series | None = None,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean with a percentile bootstrap interval, resampling whole clusters.

    Args:
        values: (N,) numbers; NaN is dropped.
        clusters: (N,) labels of what belongs together (usually the item); default: each value
            stands alone.
        n_boot: Resamples.
        seed: Seed of the resampling.
        level: Confidence level.

    Returns:
        The mean of the values (not of the cluster means); `n` counts clusters.

    Raises:
        MeasureError: If the shapes do not fit or a value is infinite.
    """
    x = as_vector(values, "values")
    labels = pd.Series(range(x.size) if clusters is None else list(clusters), dtype=object)
    if labels.size != x.size:
        raise MeasureError(
            f"{x.size} values came with {labels.size} clusters; give one label each."
        )
    if labels.isna().any():
        raise MeasureError("A cluster label is missing; say for every value what it belongs to.")
    keep = ~np.isnan(x)
    try:
        codes, names = pd.factorize(labels[keep])
    except TypeError as error:
        raise MeasureError(f"A cluster label is no label ({error}); give texts or ids.") from error
    sums = np.bincount(codes, weights=x[keep], minlength=len(names)).astype(np.float64)
    counts = np.bincount(codes, minlength=len(names)).astype(np.float64)
    check_numbers(level=level)
    means = resampled_means(sums, counts, n_boot=n_boot, seed=seed)
    value = float(sums.sum() / counts.sum()) if sums.size else np.nan
    return percentile_interval(value, means, sums.size, level)


def percentile_interval(value: float, means: FloatArray, n: int, level: float) -> Interval:
    """The interval that leaves the same share of resampled means on either side."""
    if not means.size:
        return Interval(value, np.nan, np.nan, n, level)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n, level)


def resampled_means(
    sums: FloatArray, counts: FloatArray, *, n_boot: int = 2000, seed: int = 0
) -> FloatArray:
    """``(n_boot,)`` means of resampled clusters; none where there are fewer than two.

    Args:
        sums: (N,), the sum of every cluster.
        counts: (N,), how many values it is of.
        n_boot: Resamples.
        seed: Seed of the resampling.
    """
    check_numbers(n_boot=n_boot, seed=seed)
    if sums.size < 2:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    means = []
    block = max(1, _BLOCK // sums.size)
    for start in range(0, n_boot, block):
        drawn = times_drawn(rng, sums.size, min(block, n_boot - start))
        means.append((drawn * sums).sum(axis=1) / (drawn * counts).sum(axis=1))
    return np.concatenate(means)


def mean_over_samples(
    table: pd.DataFrame, keys: Sequence[str], column: str = "value"
) -> pd.DataFrame:
    """Average an item's samples, so that intervals over items can be made of what remains.

    Samples of one item share the item: an easy one is answered right in nearly all of them. N items
    with K samples each therefore say less than N · K items would, and an interval that resamples
    rows is too narrow, its variance by about 1 + (K − 1) ρ, where ρ is the correlation of two
    samples of an item (Kish's design effect). With the mean first, the item is what is resampled,
    the interval speaks about other items, and what the samples scatter within an item is in it
    already, since it makes the items' means scatter. An item counts once, however many of its
    samples have a value.

    Args:
        table: One row per item and sample.
        keys: Columns that an item's samples share.
        column: What is averaged; NaN is left out.

    Returns:
        One row per item: ``keys`` and ``column``, in the order in which the items first appear.

    Source: Kish 1965, *Survey Sampling*; clusters as in Miller, arXiv 2411.00640.
    """
    return table.groupby(list(keys), sort=False)[column].mean().reset_index()


def share_interval(share: float, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share; unlike a bootstrap it is honest at 0 of 5 and 5 of 5.

    Args:
        share: Between 0 and 1.
        n: Independent units behind it; with none nothing is defined.
        level: Confidence level.

    Source: Wilson 1927.
    """
    if n < 1:
        return Interval(np.nan, np.nan, np.nan, 0, level)
    z2 = float(stats.norm.ppf((1 + level) / 2)) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(
        share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), n, level
    )


def share_difference(first: Interval, second: Interval) -> Interval:
    """First minus second of two shares of different units, with Newcombe's hybrid score interval.

    Args:
        first: From `share_interval`.
        second: Likewise, of other units, at the same level.

    Returns:
        The difference; ``n`` is that of the smaller of the two.

    Source: Newcombe 1998, method 10.
    """
    value = first.value - second.value
    low = value - np.hypot(first.value - first.low, second.high - second.value)
    high = value + np.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, float(low), float(high), min(first.n, second.n), first.level)


def times_drawn(rng: np.random.Generator, n: int, size: int) -> FloatArray:
    """(size, n): how often each of n units is drawn in n draws with replacement."""
    drawn = rng.integers(n, size=(size, n)) + np.arange(size)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def as_vector(values: Numbers, name: str) -> FloatArray:
    """Read (N,) floats; refuse another shape and infinities."""
    x = _floats(values, name)
    if x.ndim != 1:
        raise MeasureError(f"{name} has shape {x.shape}; expected one number per item, (N,).")
    return x


def _floats(values: Numbers, name: str) -> FloatArray:
    try:
        x = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise MeasureError(f"{name} cannot be read as numbers ({one_line(error)}).") from error
    if np.isinf(x).any():
        raise MeasureError(f"{name} holds an infinite value; drop it or mark it as NaN.")
    return x


def as_matrix(values: Numbers, name: str) -> FloatArray:
    """Read (seeds, items) floats, (N,) as one seed; refuse another shape and infinities."""
    x = _floats(values, name)
    if x.ndim == 1:
        x = x[None, :]
    if x.ndim != 2:
        raise MeasureError(f"{name} has shape {x.shape}; expected (seeds, items).")
    return x


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

    Raises:
        MeasureError: If a column is missing or holds no numbers.
    """
    check_numbers(points=points)
    check_table(table, "of curves", ("item", axis, "value"))
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
