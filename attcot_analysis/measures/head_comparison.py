"""Two models held against each other head by head, on the same items."""

from typing import Literal, get_args

import numpy as np
import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.cells import cell_effect_sizes, max_statistic_test, resample_items
from attcot_analysis.stats.significance import benjamini_hochberg, holm

Correction = Literal["max", "holm", "fdr"]


def compare_heads(
    before: pd.DataFrame,
    after: pd.DataFrame,
    quantity: str = "mass",
    *,
    correction: Correction = "max",
    n_permutations: int = 10_000,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Compare every head of two access tables of the same items: after - before, paired by item.

    An item's value is its mean over steps. Attention is not evidence: a head that looks more is
    not a model that depends more on what it sees.

    Args:
        before: From `visual_access` or `answer_access`.
        after: Likewise, of the other model, with the same layers and heads.
        quantity: Column to compare.
        correction: For the number of heads. ``"max"`` (`max_statistic_test`) and ``"holm"`` keep
            the chance of even one false head at the level of the test; ``"fdr"``
            (Benjamini-Hochberg) keeps the share of false ones among those found. ``"max"`` knows
            that heads move together and finds more than ``"holm"``.
        n_permutations: Sign patterns of the test.
        n_boot: Bootstrap resamples.
        seed: Seed of both.
        level: Confidence level.

    Returns:
        One row per layer and head: ``layer``, ``head``, ``before``, ``after`` (means over the
        items both have), ``difference``, ``low``, ``high`` (bootstrap over items, each head by
        itself), ``p_value`` (sign-flip, each head by itself), ``p_adjusted``, ``correction``,
        ``dz`` (mean over standard deviation of the items' differences), ``n`` (items).

    Raises:
        MeasureError: If a column is missing, a table holds several training seeds, heads differ,
            no item is shared, or there are too few sign patterns for the correction ever to find a
            head.
    """
    if correction not in get_args(Correction):
        raise MeasureError(
            f"Correction {correction!r} is unknown; choose one of "
            f"{', '.join(get_args(Correction))}."
        )
    first, second = _items(before, "before", quantity), _items(after, "after", quantity)
    if not first.columns.equals(second.columns):
        raise MeasureError(
            f"before has {len(first.columns)} heads and after {len(second.columns)}, or others; "
            "measure the same layers of models of one shape."
        )
    items = first.index.intersection(second.index)
    if items.empty:
        raise MeasureError("before and after have no item in common; measure the same items.")
    one, other = first.loc[items].to_numpy(float), second.loc[items].to_numpy(float)
    differences = other - one
    one, other = (np.where(np.isnan(differences), np.nan, values) for values in (one, other))
    test = max_statistic_test(differences, n_permutations=n_permutations, seed=seed)
    adjusted = test.p_family
    if correction != "max":
        adjusted = (holm if correction == "holm" else benjamini_hochberg)(test.p_value)
    n_tests = int((~np.isnan(test.p_value)).sum())
    if correction == "holm" and test.n_patterns and n_tests / test.n_patterns > 1 - level:
        raise MeasureError(
            f"With {test.n_patterns} sign patterns and {n_tests} heads, Holm's correction can "
            "find nothing; use correction='max', or more permutations and items."
        )
    drawn = resample_items(differences, n_boot=n_boot, seed=seed)
    low, high = drawn.interval(level)
    heads = first.columns.to_frame(index=False)
    return heads.assign(
        before=resample_items(one, n_boot=1).value,
        after=resample_items(other, n_boot=1).value,
        difference=drawn.value,
        low=low,
        high=high,
        p_value=test.p_value,
        p_adjusted=adjusted,
        correction=correction,
        dz=cell_effect_sizes(differences),
        n=(~np.isnan(differences)).sum(axis=0),
    )


def _items(table: pd.DataFrame, name: str, quantity: str) -> pd.DataFrame:
    """Item × (layer, head), means over steps."""
    missing = {"item", "layer", "head", quantity} - set(table.columns)
    if missing:
        raise MeasureError(
            f"The table {name} lacks {', '.join(sorted(missing))}; give one made by "
            "visual_access() or answer_access()."
        )
    if "seed" in table.columns and table["seed"].nunique() > 1:
        raise MeasureError(
            f"The table {name} holds {table['seed'].nunique()} training seeds, whose differences "
            "a test over items would take for the models'; compare one run with one."
        )
    means = table.groupby(["item", "layer", "head"], sort=False)[quantity].mean()
    return means.unstack(["layer", "head"]).sort_index(axis=1)
