"""A stated family of primary claims, corrected together; everything else is exploratory."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.crossed import Estimate, estimate_of, moved_cells, unseen_items
from attcot_analysis.stats.intervals import FloatArray
from attcot_analysis.stats.significance import holm

EFFECTS = ("claim", "model", "kind", "seed", "item", "value")
"""Columns of a table of effects."""


def claim_family(
    effects: pd.DataFrame, primary: Sequence[str], *, level: float = 0.95
) -> pd.DataFrame:
    """Estimate and test claims that were stated beforehand, and describe all others.

    The mean is over kinds of the mean over a kind's cells. It is as uncertain as if **pretrained
    models × training seeds × items** had been drawn anew: `model` names one pretrained checkpoint
    (one pretraining seed of one class and scale), `seed` the training that followed, and `item`
    the test item, which belongs to its kind. The three are crossed random effects, with all of
    their interactions (`variance_parts`); models and seeds may do the same in every kind, and the
    kinds are these very ones. The half-width is that of `seeds_items`, so that a p value is below
    1 - level exactly where the interval excludes zero.

    Name training seeds as they are: the same number in several models says that they share
    something (the training problems, their order), and with two such seeds an interval is wide,
    since two tell little of how seeds vary. A number that only one model has is a training of its
    own, and what training seeds do is then part of what models do. The design that gets most from
    its trainings is one training per pretrained model, on as many pretrained models as can be had.

    Args:
        effects: One row per `EFFECTS`; `value` is the paired effect on the item, such as accuracy
            of one arm minus that of another, signed so that the claim is about its mean.
        primary: The claims of the family, as they were registered; Holm's correction counts all of
            them, whatever was measured.
        level: Confidence level.

    Returns:
        One row per claim, primary ones first in the order given: ``claim``, ``role`` (``"primary"``
        or ``"exploratory"``), ``value``, ``low``, ``high`` (at `level`), ``low_holm``,
        ``high_holm`` (at the level at which Holm's procedure tests it, so that they exclude zero
        exactly where ``p_holm`` < 1 - level; NaN for exploratory claims), ``p_value``, ``p_holm``
        (NaN for exploratory claims), ``n_items`` (over all kinds), ``n_seeds``, ``n_models``,
        ``n_kinds``, ``scope``: ``"models × seeds × items"``, or what of it was drawn more than
        once; ``"this checkpoint"`` where neither models nor seeds were, which gets no p value
        and decides no claim: its interval is over items only.

    Raises:
        MeasureError: If columns are missing, a cell is there twice, a primary claim is not there,
            or a claim lacks one of its models in one of its kinds.
    """
    missing = [name for name in EFFECTS if name not in effects.columns]
    if missing:
        raise MeasureError(
            f"The table of effects lacks {', '.join(missing)}; it needs {', '.join(EFFECTS)}."
        )
    twice = effects.duplicated(list(EFFECTS[:-1]))
    if twice.any():
        row = effects[twice].iloc[0]
        raise MeasureError(
            f"Claim {row['claim']} has item {row['item']} of {row['model']}, seed {row['seed']}, "
            "twice; give one value per item and training."
        )
    present = list(map(str, dict.fromkeys(effects["claim"])))
    absent = [name for name in primary if name not in present]
    if absent or len(set(primary)) < len(primary) or not primary:
        raise MeasureError(
            f"The primary claims {', '.join(absent) or ', '.join(primary) or 'are none'} are not "
            "in the table of effects once each; a registered claim must be measured to be tested."
        )
    names = [*primary, *(name for name in present if name not in primary)]
    by_claim = {str(name): part for name, part in effects.groupby("claim", sort=False)}
    estimates = {name: _estimate(name, by_claim[name]) for name in names}
    raw = [np.nan if estimates[name].one_run else estimates[name].p_value() for name in primary]
    adjusted, levels = _holm_levels(np.array(raw, dtype=np.float64), 1 - level)
    rows = []
    for at, name in enumerate(names):
        one, of_family = estimates[name], at < len(primary)
        interval = one.interval(level)
        corrected = one.interval(1 - levels[at]) if of_family and not one.one_run else None
        rows.append(
            {
                "claim": name,
                "role": "primary" if of_family else "exploratory",
                "value": one.value,
                "low": interval.low,
                "high": interval.high,
                "low_holm": corrected.low if corrected else np.nan,
                "high_holm": corrected.high if corrected else np.nan,
                "p_value": np.nan if one.one_run else one.p_value(),
                "p_holm": adjusted[at] if of_family else np.nan,
                "n_items": one.n_items,
                "n_seeds": one.n_seeds,
                "n_models": one.n_models,
                "n_kinds": by_claim[name]["kind"].nunique(),
                "scope": scope(one),
            }
        )
    return pd.DataFrame(rows)


def scope(estimate: Estimate) -> str:
    """What an estimate's interval speaks of: new items, and new trainings where it saw several."""
    if estimate.one_run:
        return "this checkpoint"
    drawn = [("models", estimate.n_models), ("seeds", estimate.n_seeds)]
    return " × ".join([*(name for name, n in drawn if n > 1), "items"])


def _holm_levels(p_values: FloatArray, alpha: float) -> tuple[FloatArray, FloatArray]:
    """Holm's corrected p values, and the level at which his procedure tests each.

    A missing p value counts as a test that failed.
    """
    known = np.where(np.isnan(p_values), 1.0, p_values)
    adjusted = holm(known)
    levels = np.empty(known.size)
    failed = 0.0
    for rank, at in enumerate(np.argsort(known, kind="stable")):
        levels[at] = failed or alpha / (known.size - rank)
        if known[at] >= levels[at] and not failed:
            failed = levels[at]
    return np.where(np.isnan(p_values), np.nan, adjusted), levels


def _estimate(name: str, effects: pd.DataFrame) -> Estimate:
    """One claim's mean over kinds, with its variance."""
    models = list(dict.fromkeys(effects["model"]))
    kinds = list(dict.fromkeys(effects["kind"]))
    wide = effects.assign(value=effects["value"].astype(float)).pivot(
        index=["kind", "model", "seed"], columns="item", values="value"
    )
    own = effects.groupby("seed")["model"].nunique().max() == 1 and len(models) > 1
    labels = list(dict.fromkeys(effects["seed"]))
    means, moved, rows, unseen, counts = [], [], [], 0.0, []
    for kind in kinds:
        table = wide.loc[kind].dropna(axis=1, how="all").dropna(axis=0, how="all")
        there = table.index.get_level_values("model")
        lacking = [str(model) for model in models if model not in there]
        if lacking:
            raise MeasureError(
                f"Claim {name} has no value of {lacking[0]} on {kind}; measure every model on "
                "every kind, or leave the model or the kind out of the claim."
            )
        seeds = list(dict.fromkeys(table.index.get_level_values("seed")))
        index = pd.MultiIndex.from_product([models, seeds])
        cells = table.reindex(index).to_numpy(float).reshape(len(models), len(seeds), -1)
        means.append(float(np.nanmean(cells)))
        change = moved_cells(cells, 1 / len(kinds))
        moved.append(change.sum(axis=1, keepdims=True) if own else change)
        rows.append(np.array([0] if own else [labels.index(seed) for seed in seeds]))
        unseen += unseen_items(cells, 1 / len(kinds))
        counts.append(len(seeds))
    return estimate_of(float(np.mean(means)), moved, seeds=rows, unseen=unseen, n_seeds=min(counts))
