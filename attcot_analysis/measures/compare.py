"""Metrics summed up: estimates with intervals per model, and paired comparisons of models."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.values import COLUMNS, item_values, need_columns
from attcot_analysis.stats.catalogue import METRICS, Metric
from attcot_analysis.stats.intervals import (
    FloatArray,
    bootstrap_seeds_items,
    crossed_t_interval,
    paired_matrix,
)
from attcot_analysis.stats.significance import (
    PairedTest,
    cohens_dz,
    holm,
    mcnemar,
    permutation_test,
    seeds_items_test,
)

__all__ = ["METRICS", "Metric", "compare", "item_values", "summarise", "wider_intervals"]


def summarise(
    values: pd.DataFrame, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Average every metric of every model over items and seeds, with intervals.

    Args:
        values: From `item_values`, of any number of models and seeds.
        n_boot: Bootstrap resamples.
        seed: Seed of the bootstrap.
        level: Confidence level.

    Returns:
        ``model``, ``metric``, ``value``; ``low``, ``high`` (two-way bootstrap, see
        `bootstrap_seeds_items`); ``low_t``, ``high_t`` (crossed t interval, see
        `crossed_t_interval`; to be preferred with two to seven seeds); ``n_items``, ``n_seeds``
        (with a value). Undefined values are left out; ``n_items`` is what remains.

    Raises:
        MeasureError: If columns are missing or an item occurs twice in a run.
    """
    _check_values(values)
    rows = []
    for model in values["model"].unique():
        for name, matrix in _matrices(values[values["model"] == model]):
            rows.append(
                {"model": model, "metric": name}
                | _estimate(matrix.to_numpy(float), n_boot=n_boot, seed=seed, level=level)
            )
    return pd.DataFrame(rows)


def compare(
    values: pd.DataFrame,
    a: str,
    b: str,
    *,
    n_boot: int = 2000,
    n_permutations: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare two models on every metric both have: b − a, paired by item and seed.

    A model with one seed is held against every seed of the other; what it would be with another
    seed is then not part of the interval. Two models with several seeds are paired by seed, and
    seeds that only one has are left out.

    Args:
        values: From `item_values`, with both models.
        a: The model compared with.
        b: The model compared.
        n_boot: Bootstrap resamples.
        n_permutations: Sign patterns of the permutation test.
        seed: Seed of both.
        level: Confidence level.

    Returns:
        One row per metric: ``metric``, ``a``, ``b``, ``value`` (mean of b − a), ``low``,
        ``high``, ``low_t``, ``high_t``, ``n_items``, ``n_seeds`` (as `summarise`, on the
        differences); ``seed_min``, ``seed_max`` (smallest and largest difference of one seed);
        ``p_value`` and ``test``: with several seeds `seeds_items_test`, which like the intervals
        speaks about new seeds and items (NaN with two seeds); with one run of each model
        ``"mcnemar"`` (exact) for binary metrics, else ``"sign-flip"`` (`permutation_test`), which
        speak about other items and these two runs only; ``p_holm``: p corrected for the number of
        metrics in the table; ``effect_size``: mean over standard deviation of the items'
        differences.

    Raises:
        MeasureError: If a model is not there, or the two share no metric, item or seed.
    """
    _check_values(values)
    present = list(values["model"].unique())
    for name in (a, b):
        if name not in present:
            raise MeasureError(f"There is no model {name!r}; there are {', '.join(present)}.")
    if a == b:
        raise MeasureError(f"{a!r} was to be compared with itself; name two models.")
    first = dict(_matrices(values[values["model"] == a]))
    second = dict(_matrices(values[values["model"] == b]))
    rows = []
    for name in (name for name in first if name in second):
        one, other = _aligned(first[name], second[name], name, a, b)
        differences = paired_matrix(one, other)
        known = differences[~np.isnan(differences).all(axis=1)]
        by_seed = [float(np.nanmean(row)) for row in known] or [np.nan]
        items = _item_means(known)
        test = _test(name, one, other, known, n_permutations, seed)
        rows.append(
            {"metric": name, "a": a, "b": b}
            | _estimate(differences, n_boot=n_boot, seed=seed, level=level)
            | {"seed_min": min(by_seed), "seed_max": max(by_seed)}
            | {"p_value": test.p_value, "test": test.test, "effect_size": cohens_dz(items)}
        )
    if not rows:
        raise MeasureError(f"{a} and {b} have no metric in common; measure both alike.")
    table = pd.DataFrame(rows)
    table.insert(list(table.columns).index("test"), "p_holm", holm(table["p_value"]))
    return table


def wider_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Replace ``low`` and ``high`` by the wider of bootstrap and crossed t interval.

    With few training seeds the bootstrap alone is too narrow (see `bootstrap_seeds_items`), so
    whoever draws a verdict from several seeds should read this one. Rows of one seed, where both
    speak about items only, stay as they are. A t interval knows nothing of the range of a share,
    so the ends of shares and probabilities are cut at what is possible.

    Args:
        table: From `summarise` or `compare`.
    """
    several = table["n_seeds"] > 1
    low = table[["low", "low_t"]].min(axis=1).where(several, table["low"])
    high = table[["high", "high_t"]].max(axis=1).where(several, table["high"])
    bounded = table["metric"].map(lambda name: name in METRICS and METRICS[name].bounded)
    least = -1.0 if "b" in table.columns else 0.0
    return table.assign(
        low=low.mask(bounded, low.clip(lower=least)), high=high.mask(bounded, high.clip(upper=1.0))
    )


def _check_values(values: pd.DataFrame) -> None:
    need_columns(values, "values", COLUMNS)
    if values.empty:
        raise MeasureError("The table of values has no rows; measure at least one item first.")
    twice = values.duplicated(["model", "seed", "item", "metric"])
    if twice.any():
        row = values[twice].iloc[0]
        raise MeasureError(
            f"Metric {row['metric']} of item {row['item']} is there twice for {row['model']}, "
            f"seed {row['seed']}; give every run a model and seed of its own."
        )


def _matrices(values: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Per metric, in the catalogue's order, its values as seeds × items."""
    present = list(values["metric"].unique())
    known = [name for name in METRICS if name in present]
    for name in [*known, *(name for name in present if name not in METRICS)]:
        part = values[values["metric"] == name]
        yield name, part.pivot(index="seed", columns="item", values="value")


def _estimate(
    matrix: FloatArray, *, n_boot: int, seed: int, level: float
) -> dict[str, float | int]:
    bootstrap = bootstrap_seeds_items(matrix, n_boot=n_boot, seed=seed, level=level)
    crossed = crossed_t_interval(matrix, level=level)
    return {
        "value": bootstrap.value,
        "low": bootstrap.low,
        "high": bootstrap.high,
        "low_t": crossed.low,
        "high_t": crossed.high,
        "n_items": bootstrap.n,
        "n_seeds": int((~np.isnan(matrix)).any(axis=1).sum()),
    }


def _aligned(
    one: pd.DataFrame, other: pd.DataFrame, name: str, a: str, b: str
) -> tuple[FloatArray, FloatArray]:
    items = one.columns.intersection(other.columns)
    if items.empty:
        raise MeasureError(f"{a} and {b} have no item in common on {name}; measure the same items.")
    if len(one) > 1 and len(other) > 1:
        seeds = one.index.intersection(other.index)
        if seeds.empty:
            raise MeasureError(
                f"{a} has seeds {list(one.index)} and {b} {list(other.index)}; give runs that are "
                "to be paired the same seed."
            )
        one, other = one.loc[seeds], other.loc[seeds]
    return one[items].to_numpy(float), other[items].to_numpy(float)


def _item_means(differences: FloatArray) -> FloatArray:
    known = differences[:, ~np.isnan(differences).all(axis=0)]
    if not known.size:
        return np.empty(0)
    return np.asarray(np.nanmean(known, axis=0), dtype=np.float64)


def _test(
    name: str,
    one: FloatArray,
    other: FloatArray,
    known: FloatArray,
    n_permutations: int,
    seed: int,
) -> PairedTest:
    if len(known) > 1:
        return seeds_items_test(known)
    if name in METRICS and METRICS[name].binary and len(one) == len(other) == 1:
        return mcnemar(one[0], other[0])
    return permutation_test(_item_means(known), n_permutations=n_permutations, seed=seed)
