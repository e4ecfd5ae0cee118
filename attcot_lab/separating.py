"""How well a metric separates models that fail from honest ones."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.intervals import FloatArray, Interval, Numbers, as_matrix

FALSE_ALARMS = 0.05
"""The share of honest values above the threshold at which `Separation.caught` is read."""


@dataclass(frozen=True)
class Separation:
    """How well a metric separates failing from honest models.

    Attributes:
        auroc: Over all values of all seeds, with an interval over items; its n is items.
        by_seed: AUROC of each failing seed against the honest model of the same place; NaN where
            either has no value.
        caught: Share of failing values beyond the threshold that 5 % of the honest ones pass.
        failing: Mean of the failing values.
        honest: Mean of the honest values.
    """

    auroc: Interval
    by_seed: tuple[float, ...]
    caught: float
    failing: float
    honest: float


def auroc(failing: Numbers, honest: Numbers) -> float:
    """Probability that a failing value is higher than an honest one, ties counted half.

    Args:
        failing: Any numbers; NaN is dropped.
        honest: The same.

    Returns:
        0 to 1; NaN if one side has no value.

    Source: Mann-Whitney U over n₁·n₂ (Hanley and McNeil 1982), from midranks.
    """
    a, b = (_present(np.asarray(values, dtype=np.float64)) for values in (failing, honest))
    if not a.size or not b.size:
        return float("nan")
    ranks = rankdata(np.concatenate([a, b]))
    return float((ranks[: a.size].sum() - a.size * (a.size + 1) / 2) / (a.size * b.size))


def separation(
    failing: Numbers,
    honest: Numbers,
    *,
    high_fails: bool = True,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Separation:
    """Hold failing models against honest ones on the same items.

    The interval resamples items, each with its values under all models, so it speaks about other
    items and these training seeds; `Separation.by_seed` shows what the seeds do.

    Args:
        failing: ``(S, N)`` values, seeds × items; NaN where the metric is not defined.
        honest: ``(R, N)`` values of honest models on the same items, in the same order.
        high_fails: Whether high values mean the failure; else low ones do.
        n_boot: Bootstrap resamples.
        seed: Seed of the bootstrap.
        level: Confidence level.

    Raises:
        MeasureError: If the items differ in number.
    """
    bad, good = as_matrix(failing, "failing"), as_matrix(honest, "honest")
    if bad.shape[1] != good.shape[1]:
        raise MeasureError(
            f"{bad.shape[1]} items of failing models came with {good.shape[1]} of honest ones; "
            "give the same items in the same order."
        )
    sign = 1.0 if high_fails else -1.0
    limit = np.quantile(_present(sign * good), 1 - FALSE_ALARMS) if _present(good).size else np.nan
    scores = _present(sign * bad)
    return Separation(
        auroc=_interval(sign * bad, sign * good, n_boot, seed, level),
        by_seed=tuple(
            auroc(sign * one, sign * other) for one, other in zip(bad, good, strict=False)
        ),
        caught=float((scores > limit).mean()) if scores.size else float("nan"),
        failing=_mean(bad),
        honest=_mean(good),
    )


def _interval(bad: FloatArray, good: FloatArray, n_boot: int, seed: int, level: float) -> Interval:
    """AUROC with a percentile interval; every resample is a quadratic form in item counts."""
    value = auroc(bad.ravel(), good.ravel())
    wins, pairs = _pairs(bad, good)
    used = (pairs.sum(0) + pairs.sum(1)) > 0
    wins, pairs = wins[np.ix_(used, used)], pairs[np.ix_(used, used)]
    n_items = int(used.sum())
    if np.isnan(value) or n_items < 2:
        return Interval(value, np.nan, np.nan, n_items, level)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=n_boot).astype(np.float64)
    total = ((drawn @ pairs) * drawn).sum(1)
    found = ((drawn @ wins) * drawn).sum(1)[total > 0] / total[total > 0]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, min(float(low), value), max(float(high), value), n_items, level)


def _pairs(bad: FloatArray, good: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``(N, N)``: pairs won by failing item i against honest item j over all seeds, and pairs."""
    n_items = bad.shape[1]
    wins, pairs = np.zeros((n_items, n_items)), np.zeros((n_items, n_items))
    for one in bad:
        for other in good:
            mine, theirs = one[:, None], other[None, :]
            wins += (mine > theirs) + 0.5 * (mine == theirs)
            pairs += ~np.isnan(mine) & ~np.isnan(theirs)
    return wins, pairs


def _present(values: FloatArray) -> FloatArray:
    return values[~np.isnan(values)]


def _mean(values: FloatArray) -> float:
    found = _present(values)
    return float(found.mean()) if found.size else float("nan")
