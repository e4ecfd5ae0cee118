"""Metrics summed up: estimates with intervals per model, and paired comparisons of models."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

from attcot_analysis.errors import MeasureError, check_known, check_table, one_line
from attcot_analysis.measures._items import Result
from attcot_analysis.measures.access import VisualAccess
from attcot_analysis.measures.causal import GROUP, CausalAccess
from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.measures.dependence import (
    Dependence,
    control_ratio,
    prior_reliance,
    share_lost,
)
from attcot_analysis.measures.edited import edit_values
from attcot_analysis.measures.open_answers import OpenCommitment
from attcot_analysis.measures.samples import SAMPLE, agreement
from attcot_analysis.measures.unread import GIVEN
from attcot_analysis.problems.problem import check_text
from attcot_analysis.stats.catalogue import METRICS, Metric
from attcot_analysis.stats.crossed import Mean, mean_of, paired_matrix
from attcot_analysis.stats.intervals import FloatArray, mean_over_samples
from attcot_analysis.stats.significance import (
    benjamini_hochberg,
    cell_effect_sizes,
    cohens_dz,
    holm,
    max_statistic_test,
    resample_items,
)

COLUMNS = ("model", "seed", "item", "metric", "value")
"""Columns of the table of values."""


STEPS = "rationale_steps"
"""The metric that says how many steps a rationale has."""

_READ: Mapping[str, Any] = yaml.safe_load(
    Path(__file__).with_name("values.yaml").read_text(encoding="utf-8")
)
"""Which columns of a measurement's items become which metrics."""
_COUNTED = {f"contradicting_{mode}": "contradiction" for mode in ("cot", "direct")}
_COUNTED["scored_cot"] = GIVEN
"""Metrics that count flags of answers; there only where some answer has the flag."""


Columns = dict[str, pd.Series]


def item_values(
    *,
    model: str,
    seed: int,
    cot: pd.DataFrame | None = None,
    direct: pd.DataFrame | None = None,
    text_only: pd.DataFrame | None = None,
    commitment: Commitment | pd.DataFrame | None = None,
    open_commitment: OpenCommitment | pd.DataFrame | None = None,
    access: VisualAccess | pd.DataFrame | None = None,
    dependence: Dependence | pd.DataFrame | None = None,
    causal: CausalAccess | pd.DataFrame | None = None,
    focus: pd.DataFrame | None = None,
    patching: pd.DataFrame | None = None,
    behaviour: pd.DataFrame | None = None,
    perceptions: pd.DataFrame | None = None,
    results: Iterable[Result] = (),
) -> pd.DataFrame:
    """Turn one run's tables into one long table of metric values per item.

    Args:
        model: Name of the arm, such as ``"base"`` or ``"att_cot"``.
        seed: Its training seed; any one number for an arm that has only one.
        cot: From `answer_problems`.
        direct: From ``answer_problems(..., mode="direct")``.
        text_only: From ``answer_problems(..., text_only=True)``.
        commitment: From `commitment`, or its `items`.
        open_commitment: From `open_commitment`, or its `items`.
        access: From `visual_access`, its table or its `items`.
        dependence: From `dependence`, or its table.
        causal: From `causal_access`, its table or its `items`; read are the fixed rationales, cut
            in all layers from step 0 on.
        focus: From `VisualAccess.focus`.
        patching: `wide_values` of a `Patching`.
        behaviour: `wide_values` of a `Behaviour`.
        perceptions: `wide_values` of `Perceptions`.
        results: Further results that say their metrics themselves: of `behaviour`,
            `perceptions`, `patching`, `hidden_commitment` and `steering`.

    Tables with a column ``sample`` hold several responses to each item: an item's value is then the
    mean over those of its samples that have one (see `mean_over_samples`), and what only samples
    can say comes in addition (``self_consistency``, ``accuracy_majority``, ``commitment_spread``).

    Returns:
        ``model``, ``seed``, ``item``, ``metric`` (a name in `METRICS`), ``value`` (float; shares
        as 0 and 1; NaN where the metric is not defined for the item). Only what the given
        tables allow is there.

    Raises:
        MeasureError: If no table is given, one lacks columns or holds an item twice, or a table
            of answers was made in another mode.
    """
    tables = {
        "cot": cot,
        "direct": direct,
        "text_only": text_only,
        "commitment": commitment,
        "open_commitment": open_commitment,
        "access": access,
        "dependence": dependence,
        "causal": causal,
        "focus": focus,
        "patching": patching,
        "behaviour": behaviour,
        "perceptions": perceptions,
        "results": list(results),
    }
    sampled = any(isinstance(one, pd.DataFrame) and SAMPLE in one for one in tables.values())
    values = (_sampled if sampled else _unsampled)(model, seed, tables)
    flagged = values.groupby("metric")["value"].transform("max") > 0
    return values[flagged | ~values["metric"].isin(_COUNTED)].reset_index(drop=True)


def _unsampled(model: str, seed: int, tables: Mapping[str, Any]) -> pd.DataFrame:
    """`item_values` of tables with one response to each item, flags that none has among them."""
    given = {name: table for name, table in tables.items() if table is not None}
    columns: Columns = {}
    for name, read in _READERS.items():
        if name in given:
            columns |= read(given[name])
    if {"cot", "text_only"} <= given.keys():
        reliance = prior_reliance(given["cot"], given["text_only"]).set_index("item")
        columns["prior_agreement"] = _floats(reliance["agrees"])
        columns["prior_override"] = _floats(reliance["overridden"])
    if "flip_blank" in columns:
        grey = columns["prior_agreement_grey"] = 1 - columns["flip_blank"]
        if "prior_agreement" in columns:
            columns["prior_grey_difference"] = grey - columns["prior_agreement"]
    for result in tables.get("results", ()):
        columns |= {name: _floats(found) for name, found in result.values().items()}
    if not columns:
        raise MeasureError(
            "No table was given, or none with rows; give at least one measurement's table."
        )
    ordered = {name: columns[name] for name in METRICS if name in columns}
    table = pd.concat(ordered, names=["metric", "item"]).rename("value").reset_index()
    check_text(model, "The name of the model")
    return table.assign(model=model, seed=seed)[list(COLUMNS)]


def _sampled(model: str, seed: int, tables: Mapping[str, Any]) -> pd.DataFrame:
    """`item_values` of tables with several samples."""
    sampled = {
        name: table
        for name, table in tables.items()
        if isinstance(table, pd.DataFrame) and SAMPLE in table
    }
    parts = []
    for sample in sorted(set().union(*(table[SAMPLE] for table in sampled.values()))):
        own = {
            name: table[table[SAMPLE] == sample].drop(columns=SAMPLE)
            for name, table in sampled.items()
        }
        kept = {name: table for name, table in own.items() if len(table)}
        others = {name: table for name, table in tables.items() if name not in sampled}
        parts.append(_unsampled(model, seed, {**others, **kept}))
    every = pd.concat(parts, ignore_index=True)
    # A mean of unlike numbers of steps is the number of none: nothing can be matched with it.
    numbers = every[every["metric"] == STEPS].groupby("item")["value"].nunique()
    unlike = every["item"].isin(numbers.index[numbers > 1]) & (every["metric"] == STEPS)
    every = every[~unlike]
    means = [mean_over_samples(every, ["model", "seed", "item", "metric"])]
    if "cot" in sampled:
        agreed = agreement(sampled["cot"]).melt("item", var_name="metric")
        means.append(agreed.assign(model=model, seed=seed))
    positions = every[every["metric"] == "commitment_position"]
    if len(positions):
        spread = positions.groupby("item", sort=False)["value"].std().reset_index()
        means.append(spread.assign(model=model, seed=seed, metric="commitment_spread"))
    table = pd.concat(means, ignore_index=True)[list(COLUMNS)]
    order = table["metric"].map(list(METRICS).index)
    return table.iloc[order.argsort(kind="stable")].reset_index(drop=True)


def _answers(mode: str, table: pd.DataFrame) -> Columns:
    found = _by_item(table, mode, ("correct", "habitual", "answer", "mode", "text_only"))
    if (found["mode"] != mode).any() or found["text_only"].any():
        raise MeasureError(
            f"The table {mode} was not made by answer_problems(..., mode={mode!r}) with the "
            "picture; give that one."
        )
    # Tables of earlier versions have neither score nor flag.
    columns = {
        f"accuracy_{mode}": _floats(found.get("score", found["correct"])),
        f"unparsed_{mode}": _floats(found["answer"].isna()),
        f"habitual_{mode}": _floats(found["habitual"]),
    }
    if "flag" in found:
        flags = found["flag"].fillna("").str.split(", ")
        for name, flag in _COUNTED.items():
            if name.endswith(mode):
                columns[name] = flags.map(lambda own, flag=flag: float(flag in own))
    return columns


def _text_only(table: pd.DataFrame) -> Columns:
    found = _by_item(table, "text_only", ("habitual", "text_only"))
    if not found["text_only"].all():
        raise MeasureError(
            "The table text_only was made with the picture; use text_only=True for it."
        )
    return {"habitual_text_only": _floats(found["habitual"])}


def _reduced(
    kind: type[Any], given: Any, items: str | None = None, columns: Sequence[str] = ()
) -> pd.DataFrame:
    """The items of a result, or a table: of items if it has that column of theirs."""
    if isinstance(given, pd.DataFrame) and items is not None and items not in given:
        given = kind(given)
    table = given if isinstance(given, pd.DataFrame) else given.items()
    return _by_item(table, kind.name, columns) if columns else table


def _access(given: VisualAccess | pd.DataFrame) -> Columns:
    found = _reduced(VisualAccess, given, "mass_slope", _READ["access"])
    names = [*_READ["access"], *_READ["access_later"]]
    return {name: _floats(found[name]) for name in names if name in found}


def _commitment(given: Commitment | pd.DataFrame) -> Columns:
    table = _reduced(Commitment, given)
    if "candidate" in table.columns:
        raise MeasureError(
            "The commitment table has a row per candidate; reduce it with "
            "Commitment(table, problems).items() first."
        )
    every = table
    if "control" in table.columns:
        table = table[table["control"] == "rationale"]
    named = _READ["commitment"]
    found = _by_item(table, "commitment", (*named, "correct", "leak_step"))
    named = named | _READ["commitment_later"]
    columns = {metric: _floats(found[name]) for name, metric in named.items() if name in found}
    premature = found["premature"].astype(bool) & ~found["correct"].astype(bool)
    columns["premature_wrong"] = _floats(premature)
    columns["leaked"] = _floats(found["leak_step"].notna())
    for control, column, metric in _READ["controls"]:
        if column in every and "control" in every and (every["control"] == control).any():
            rows = every[every["control"] == control]
            columns[metric] = _floats(_by_item(rows, "commitment", (column,))[column])
    return columns


def _dependence(given: Dependence | pd.DataFrame) -> Columns:
    table = given if isinstance(given, pd.DataFrame) else given.table
    check_table(
        table, "dependence", ("item", "edit", "rationale", "followed", "flipped", "delta_log_p")
    )
    columns: Columns = {}
    for edit, rationale, column, name in _READ["dependence"]:
        part = table[(table["edit"] == edit) & (table["rationale"] == rationale)]
        if len(part):
            columns[name] = _floats(_by_item(part, "dependence", (column,))[column])
    columns |= edit_values(table)
    for name, (edit, control) in _READ["net"].items():
        if edit in columns and control in columns:
            ratio = control_ratio(table, "occlude" if name == "net_occlusion" else "twin")
            columns[name] = columns[edit] - columns[control] * ratio
    if "net_dependence" in columns and "can_lose" in table:
        # Tables of earlier versions do not say what could be lost.
        part = table[(table["edit"] == "twin") & (table["rationale"] == "fixed")]
        columns["net_dependence_share"] = share_lost(
            columns["net_dependence"], part.set_index("item")["can_lose"]
        )
    return columns


def _causal(given: CausalAccess | pd.DataFrame) -> Columns:
    items = _reduced(CausalAccess, given, "delta_log_p_area")
    check_table(items, "causal", ("item", "k", "delta_log_p", *GROUP))
    whole = (items["first_layer"] == 0) & (items["last_layer"] == items["last_layer"].max())
    items = items[whole & (items["keys"] == "image") & (items["rationale"] == "fixed")]
    columns: Columns = {}
    for kind, name in _READ["causal"].items():
        part = items[(items["kind"] == kind) & (items["rows"] == "both")]
        if kind != "removal":
            part = part[part["k"] == 0]
        if len(part):
            columns[name] = _floats(_by_item(part, "causal", ("delta_log_p",))["delta_log_p"])
    return columns


def _open(given: OpenCommitment | pd.DataFrame) -> Columns:
    named = _READ["open_commitment"]
    found = _reduced(OpenCommitment, given, None, tuple(named))
    return {metric: _floats(found[column]) for column, metric in named.items()}


def _focus(table: pd.DataFrame) -> Columns:
    found = _by_item(table, "focus", _READ["focus"])
    return {name: _floats(found[name]) for name in _READ["focus"]}


def wide_values(result: Result) -> pd.DataFrame:
    """The metrics that a result says itself, a row per item: ``item`` and the metrics' names."""
    return pd.DataFrame(dict(result.values())).rename_axis("item").reset_index()


def _wide(table: pd.DataFrame) -> Columns:
    found = _by_item(table, "of wide values", ())
    return {str(name): _floats(found[name]) for name in found if name in METRICS}


_READERS: Mapping[str, Callable[[Any], Columns]] = {
    "cot": partial(_answers, "cot"),
    "direct": partial(_answers, "direct"),
    "text_only": _text_only,
    "commitment": _commitment,
    "open_commitment": _open,
    "access": _access,
    "focus": _focus,
    "dependence": _dependence,
    "causal": _causal,
    "patching": _wide,
    "behaviour": _wide,
    "perceptions": _wide,
}
"""What each table of `item_values` is read by."""


def _by_item(table: pd.DataFrame, name: str, columns: Iterable[str]) -> pd.DataFrame:
    check_table(table, name, ("item", *columns))
    twice = table["item"][table["item"].duplicated()]
    if len(twice):
        raise MeasureError(
            f"The table {name} holds item {twice.iloc[0]} twice; give the table of one run."
        )
    return table.set_index("item")


def _floats(column: pd.Series) -> pd.Series:
    try:
        if column.dtype == object:
            column = column.astype("boolean")
        return column.astype("Float64").astype(float)
    except (TypeError, ValueError) as error:
        raise MeasureError(
            f"The column {column.name} holds something else than numbers ({one_line(error)})."
        ) from error


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
    check_known(correction, Correction, f"Correction {correction!r} is unknown")
    first, second = _items(before, "before", quantity), _items(after, "after", quantity)
    if not first.columns.equals(second.columns):
        raise MeasureError(
            f"before has {len(first.columns)} heads and after {len(second.columns)}, or others; "
            "measure the same layers of models of one shape."
        )
    items = first.index.intersection(second.index)
    if items.empty:
        raise MeasureError("before and after have no item in common; measure the same items.")
    matrices = first.loc[items].to_numpy(float), second.loc[items].to_numpy(float)
    differences = matrices[1] - matrices[0]
    means = [
        resample_items(np.where(np.isnan(differences), np.nan, matrix), n_boot=1).value
        for matrix in matrices
    ]
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
        before=means[0],
        after=means[1],
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


__all__ = ["METRICS", "Metric", "compare", "item_values", "summarise"]


def summarise(
    values: pd.DataFrame, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Average every metric of every model over items and seeds, with intervals.

    Args:
        values: From `item_values`, of any number of models and seeds.
        n_boot: Bootstrap resamples, of models with one run.
        seed: Seed of the bootstrap.
        level: Confidence level.

    Returns:
        ``model``, ``metric``, ``value``; ``low``, ``high`` (see `mean_of`; shares and
        probabilities end at what is possible); ``n_items``, ``n_seeds`` (with a value). Undefined
        values are left out; ``n_items`` is what remains.

    Raises:
        MeasureError: If columns are missing or an item occurs twice in a run.
    """
    _check_values(values)
    rows = []
    for model in values["model"].unique():
        for name, matrix in _matrices(values[values["model"] == model]):
            mean = mean_of(matrix.to_numpy(float), n_boot=n_boot, seed=seed, level=level)
            rows.append({"model": model, "metric": name} | _estimate(mean, name, 0.0))
    return pd.DataFrame(rows)


def compare(
    values: pd.DataFrame,
    a: str,
    b: str,
    *,
    n_boot: int = 2000,
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
        n_boot: Bootstrap resamples, where there is one run of each.
        seed: Seed of the bootstrap.
        level: Confidence level.

    The commitment area is compared twice, first on those items (and seeds) where both rationales
    have the same number of steps (``commitment_area_matched``, which is to be read first): the
    last step alone counts for 1/2K of the area, so one whose rationales are shorter has more of it
    however it decides. Reading both curves on one grid of k/K would not mend that.

    Returns:
        One row per metric: ``metric``, ``a``, ``b``, ``value`` (mean of b − a), ``low``,
        ``high``, ``n_items``, ``n_seeds`` (as `summarise`, on the differences); ``seed_min``,
        ``seed_max`` (smallest and largest difference of one seed); ``p_value`` and ``test``: of
        the very model that the interval is made of (`mean_of`), so that p is below 1 - level
        exactly where the interval excludes zero. With several seeds both speak about new seeds and
        items; with one run of each about other items and these two checkpoints only. ``p_holm``:
        p corrected for the number of metrics in the table; ``effect_size``: mean over standard
        deviation of the items' differences.

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
    pairs: dict[str, tuple[FloatArray, FloatArray]] = {}
    for name in (name for name in first if name in second):
        pair = _aligned(first[name], second[name], name, a, b)
        if name in _READ["matched"] and STEPS in first and STEPS in second:
            of_a, of_b = (one[STEPS].reindex_like(one[name]) for one in (first, second))
            ks = _aligned(of_a, of_b, name, a, b)
            unlike = paired_matrix(*ks) != 0  # NaN, of unknown numbers, is unlike too
            if not unlike.all():
                pairs[_READ["matched"][name]] = (pair[0], np.where(unlike, np.nan, pair[1]))
        pairs[name] = pair
    rows = []
    for name, (values_a, values_b) in pairs.items():
        differences = paired_matrix(values_a, values_b)
        known = differences[~np.isnan(differences).all(axis=1)]
        by_seed = [float(np.nanmean(row)) for row in known] or [np.nan]
        mean = mean_of(differences, n_boot=n_boot, seed=seed, level=level)
        measured = known[:, ~np.isnan(known).all(axis=0)]
        effect_size = cohens_dz(np.nanmean(measured, axis=0) if measured.size else [])
        rows.append(
            {"metric": name, "a": a, "b": b}
            | _estimate(mean, name, -1.0)
            | {"seed_min": min(by_seed), "seed_max": max(by_seed)}
            | {"p_value": mean.p_value, "test": mean.test, "effect_size": effect_size}
        )
    if not rows:
        raise MeasureError(f"{a} and {b} have no metric in common; measure both alike.")
    table = pd.DataFrame(rows)
    table.insert(list(table.columns).index("test"), "p_holm", holm(table["p_value"]))
    return table


def _check_values(values: pd.DataFrame) -> None:
    check_table(values, "values", COLUMNS)
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


def _estimate(mean: Mean, name: str, least: float) -> dict[str, float | int]:
    """What tables hold of a mean; shares and probabilities end at what is possible."""
    low, high = mean.interval.low, mean.interval.high
    if name in METRICS and METRICS[name].bounded:
        low, high = max(low, least), min(high, 1.0)
    return {
        "value": mean.interval.value,
        "low": low,
        "high": high,
        "n_items": mean.interval.n,
        "n_seeds": mean.n_seeds,
    }


def _aligned(
    first: pd.DataFrame, second: pd.DataFrame, name: str, a: str, b: str
) -> tuple[FloatArray, FloatArray]:
    items = first.columns.intersection(second.columns)
    if items.empty:
        raise MeasureError(f"{a} and {b} have no item in common on {name}; measure the same items.")
    if len(first) > 1 and len(second) > 1:
        seeds = first.index.intersection(second.index)
        if seeds.empty:
            raise MeasureError(
                f"{a} has seeds {list(first.index)} and {b} {list(second.index)}; give runs that "
                "are to be paired the same seed."
            )
        first, second = first.loc[seeds], second.loc[seeds]
    return first[items].to_numpy(float), second[items].to_numpy(float)
