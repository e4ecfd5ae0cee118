"""The claims table: every claim's effect in every cell and pooled, with interval and verdict."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from attcot_analysis.errors import AttCoTError, MeasureError, RunError, check_table, one_line
from attcot_analysis.escapes import for_markdown
from attcot_analysis.files import write_bytes, write_whole
from attcot_analysis.runs.parts import damaged
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.table_checks import UNREADABLE, read_parquet, wrong_column
from attcot_analysis.runs.values import CHANCE
from attcot_analysis.stats.crossed import Estimate
from attcot_analysis.stats.intervals import FloatArray, Interval
from attcot_analysis.stats.significance import holm
from attcot_lab.claims.claim import (
    BASE,
    CLAIMS,
    Claim,
    Term,
    Verdict,
    negligible,
    p_values,
    placebo,
    verdict,
)
from attcot_lab.claims.pool import Cell, Pool

VALUES = ("model", "family", "scale", "kind", "arm", "seed", "item", "metric", "value")
"""Columns of a grid's table of values."""

ALL = "all"
"""What family, scale or kind say in a row that is pooled over them."""

LEVELS = ("all", "kind", "family", "scale", "cell")
"""How far a row is pooled, from all cells to one."""

_SCALES = ("tiny", "small", "large")

VERDICTS: tuple[Verdict, ...] = ("supported", "opposite", "not supported", "undecided")

NOT_TESTED = "not tested"
"""What stands in a verdict's place where one training seed says something of a checkpoint only."""


class _Kind(NamedTuple):
    """Values of one kind: (model, arm, metric) → seed → one value per item."""

    items: list[str]
    runs: dict[tuple[str, str, str], dict[int, FloatArray]]


def claims_table(
    values: pd.DataFrame,
    claims: Sequence[Claim] = CLAIMS,
    *,
    chance: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Hold every claim against a grid's values, cell by cell and pooled.

    A cell is one model (family and scale) on one kind of problem. Its interval is that of
    `seeds_items`. A pool's is the same on the mean over a kind's models, item by item and seed by
    seed, because these share both (`Pool.estimate`). It speaks about new seeds and items, on
    these very cells; ``low_beyond`` and ``high_beyond`` speak about other models and kinds, too
    (`Pool.beyond`). With one training seed the interval is over items only and says nothing of a
    method (`of_one_seed`): such claims have `NOT_TESTED` for every verdict.

    Args:
        values: Columns `VALUES`; one row per item, seed, arm, model and metric.
        claims: What to test; claims whose arms or metrics are not there are left out.
        chance: Kind → one over the number of candidates, where `values` has no metric
            ``chance``.
        level: Confidence level.

    Returns:
        Per claim one row for each of `LEVELS`: ``claim``, ``paper``, ``level``, ``family``,
        ``scale``, ``kind`` (``"all"`` where pooled over), ``effect``, ``low``, ``high``,
        ``n_items``, ``n_seeds``, ``n_cells``, ``verdict`` (see `verdict`) and ``negligible``
        (whether the interval lies within the margin); ``verdict_corrected`` (cells only): the
        same with p values corrected by Holm for the claim's number of cells; ``low_beyond``,
        ``high_beyond``, ``verdict_beyond`` (pools of three models or more); and for pools of
        several cells the smallest and largest cell, ``effect_min`` and ``effect_max``, and how
        many cells have each verdict: ``cells_supported``, ``cells_supported_corrected``, ....

    Raises:
        MeasureError: If columns are missing, a value is there twice, or no claim can be tested.
    """
    check_table(values, "values", VALUES)
    measured = _measured(values, claims)
    combinations = values[["model", "family", "scale", "kind"]].drop_duplicates()
    names = sorted(
        (tuple(map(str, row)) for row in combinations.itertuples(index=False)), key=_rank
    )
    rows: list[dict[str, Any]] = []
    for claim in claims:
        cells, places = [], []
        for model, family, scale, kind in names:
            effects = _effects(claim, measured.get(kind), model, (chance or {}).get(kind))
            if effects is not None:
                cells.append(Cell(model, kind, effects))
                places.append({"family": family, "scale": scale, "kind": kind})
        if cells:
            rows += _claim_rows(claim, Pool(cells), places, level)
    if not rows:
        raise MeasureError(
            "None of the claims can be tested on these values; they need arms such as base, "
            "cot_sft and att_cot on the same items."
        )
    table = pd.DataFrame(rows)
    untried = table["claim"].isin([claim.id for claim in of_one_seed(table, claims)])
    for column in ("verdict", "verdict_corrected", "verdict_beyond"):
        table[column] = table[column].mask(untried & table[column].notna(), NOT_TESTED)
    counts = [name for name in table.columns if name.startswith("cells_")]
    table.loc[untried, counts] *= 0
    return table


def placebo_table(values: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """What no training at all does: every claim's effect with the base in its first arm's place.

    In the cells and against the training seeds that the claim itself is measured in, so that both
    can stand side by side.

    Args:
        values: As for `claims_table`.
        claims: Those that `placebo` has an answer for are held against the values.

    Returns:
        Rows as of `claims_table`, under the names of the claims; empty where there is no base.
    """
    keys = ["model", "kind", "seed"]
    tables = [pd.DataFrame(columns=["claim", "level"])]
    for claim in claims:
        instead = placebo(claim)
        if instead is None:
            continue
        rows = values[values["metric"].isin([term.metric for term in instead.terms])]
        first = rows[rows["arm"] == claim.terms[0].arm][keys].drop_duplicates()
        others = rows[rows["arm"].isin([arm for arm in instead.arms if arm != BASE])]
        base = rows[rows["arm"] == BASE].merge(first[keys[:2]].drop_duplicates())
        compared = pd.concat([base, others.merge(first)], ignore_index=True)
        if len(base) and len(compared) > len(base):
            with suppress(MeasureError):  # Another metric of the base than is measured.
                tables.append(claims_table(compared, [instead]))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def of_one_seed(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> list[Claim]:
    """The claims about trained arms that rest on one training seed: they test a checkpoint."""
    rows = headline_rows(table)
    return [
        claim
        for claim in claims
        if claim.arms != (BASE,) and rows.get(claim.id, {}).get("n_seeds") == 1
    ]


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a claims table that are pooled over everything, one per claim."""
    return table[table["level"] == "all"].reset_index(drop=True)


def headline_rows(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The rows of `headline` by claim."""
    records = headline(table).to_dict("records")
    return {str(row["claim"]): {str(key): value for key, value in row.items()} for row in records}


def untested(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> list[Claim]:
    """The claims that a table has no row for, because arms or metrics were not measured."""
    present = set(table["claim"])
    return [claim for claim in claims if claim.id not in present]


def _claim_rows(
    claim: Claim, pool: Pool, places: Sequence[Mapping[str, str]], level: float
) -> list[dict[str, Any]]:
    """The pooled rows of a claim, then its cells'; places: family, scale and kind of every cell."""
    every = range(len(places))
    estimates = [pool.estimate((at,)) for at in every]
    cells = [
        _row(claim, estimates[at], "cell", places[at], level) | {"verdict_corrected": corrected}
        for at, corrected in enumerate(_corrected(claim, estimates, 1 - level))
    ]
    rows = [_pooled(claim, pool, every, "all", {}, level)]
    for column in ("kind", "family", "scale"):
        for name in dict.fromkeys(place[column] for place in places):
            chosen = [at for at in every if places[at][column] == name]
            if 1 < len(chosen) < len(places):
                rows.append(_pooled(claim, pool, chosen, column, {column: name}, level))
    for row in rows:
        pooled_over = [
            cell
            for cell, place in zip(cells, places, strict=True)
            if all(row[column] in (ALL, name) for column, name in place.items())
        ]
        row["effect_min"] = min(cell["effect"] for cell in pooled_over)
        row["effect_max"] = max(cell["effect"] for cell in pooled_over)
        for name in VERDICTS:
            for column, end in (("verdict", ""), ("verdict_corrected", "_corrected")):
                n_cells = sum(cell[column] == name for cell in pooled_over)
                row[f"cells_{name.replace(' ', '_')}{end}"] = n_cells
    return rows + cells


def _row(
    claim: Claim,
    estimate: Estimate,
    name: str,
    where: Mapping[str, str],
    level: float,
    n_cells: int = 1,
) -> dict[str, Any]:
    interval = estimate.interval(level)
    return {
        "claim": claim.id,
        "paper": claim.paper,
        "level": name,
        **{column: where.get(column, ALL) for column in ("family", "scale", "kind")},
        "effect": estimate.value,
        "low": interval.low,
        "high": interval.high,
        "n_items": estimate.n_items,
        "n_seeds": estimate.n_seeds,
        "n_cells": n_cells,
        "verdict": verdict(claim, interval),
        "negligible": negligible(claim, interval),
        "verdict_corrected": None,
        "low_beyond": np.nan,
        "high_beyond": np.nan,
        "verdict_beyond": None,
    }


def _pooled(
    claim: Claim,
    pool: Pool,
    chosen: Sequence[int],
    name: str,
    where: Mapping[str, str],
    level: float,
) -> dict[str, Any]:
    row = _row(claim, pool.estimate(chosen), name, where, level, len(chosen))
    other = pool.beyond(chosen)
    if other is not None:
        wider = other.interval(level)
        low, high = min(wider.low, row["low"]), max(wider.high, row["high"])
        beyond = verdict(claim, Interval(wider.value, low, high, wider.n, level))
        row |= {"low_beyond": low, "high_beyond": high, "verdict_beyond": beyond}
    return row


def _corrected(claim: Claim, cells: Sequence[Estimate], alpha: float) -> list[Verdict]:
    """Every cell's verdict, each of its p values corrected for the number of cells."""
    by_cell = [p_values(claim, cell) for cell in cells]
    corrected = {name: holm([p[name] for p in by_cell]) for name in by_cell[0]}
    return [
        next((name for name, p in corrected.items() if p[at] < alpha), "undecided")
        for at in range(len(cells))
    ]


def _rank(names: tuple[str, ...]) -> tuple[object, ...]:
    """Where a cell stands: by kind, family and scale, the smaller scale first."""
    model, family, scale, kind = names
    return kind, family, _SCALES.index(scale) if scale in _SCALES else len(_SCALES), scale, model


def _measured(values: pd.DataFrame, claims: Sequence[Claim]) -> dict[str, _Kind]:
    """Every kind's values, as far as a claim needs them."""
    metrics = {term.metric for claim in claims for term in claim.terms}
    keys = ["model", "arm", "metric", "seed", "item"]
    wanted = values[values["metric"].isin(metrics)]
    measured = {}
    for kind, part in wanted.groupby("kind", observed=True):
        part = part.astype({name: str for name in keys if name != "seed"})
        twice = part.duplicated(keys)
        if twice.any():
            row = part[twice].iloc[0]
            raise MeasureError(
                f"Metric {row['metric']} of item {row['item']} is there twice for {row['model']}, "
                f"{row['arm']}, seed {row['seed']}; give the values of one grid."
            )
        wide = part.set_index(keys)["value"].astype(float).unstack("item")
        runs: dict[tuple[str, str, str], dict[int, FloatArray]] = {}
        for at, values_of in zip(wide.index, wide.to_numpy(float), strict=True):
            model, arm, metric, seed = at
            runs.setdefault((model, arm, metric), {})[int(seed)] = values_of
        measured[str(kind)] = _Kind(list(wide.columns), runs)
    return measured


def _effects(
    claim: Claim, kind: _Kind | None, model: str, chance: float | None
) -> pd.DataFrame | None:
    """Seeds × items of a claim's effect in one cell; ``None`` if it cannot be told there."""
    if kind is None:
        return None
    parts: list[tuple[Term, dict[int, FloatArray]]] = []
    constant = -claim.reference
    for term in claim.terms:
        runs = kind.runs.get((model, term.arm, term.metric))
        if runs is not None:
            parts.append((term, runs))
        elif term.metric == CHANCE and chance is not None:
            constant += term.weight * chance
        else:
            return None
    trained = [set(runs) for term, runs in parts if term.arm != BASE]
    seeds = sorted(set.intersection(*trained)) if trained else sorted(parts[0][1])
    if not seeds:
        return None
    total = np.full((len(seeds), len(kind.items)), constant)
    for term, runs in parts:
        if term.arm == BASE and len(runs) != 1:
            raise MeasureError(
                f"{model}: the base has values of {len(runs)} seeds; an arm without training has "
                "one."
            )
        only = next(iter(runs.values())) if term.arm == BASE else None
        total += term.weight * np.array([runs[seed] if only is None else only for seed in seeds])
    if np.isnan(total).all():
        return None
    # Test items and training questions share a column each; a claim is about one of the two.
    return pd.DataFrame(total, index=seeds, columns=kind.items).dropna(axis=1, how="all")


VALUES_FILE = "tables/values.parquet"

TABLE_FILE = "claims.parquet"

JSON_FILE = "claims.json"


_TEXTS = ("model", "family", "scale", "kind", "arm", "item", "metric")
_POOLED = ("claim", "paper", "level", "family", "scale", "kind", "verdict")
_NUMBERS = ("effect", "low", "high", "low_beyond", "high_beyond", "effect_min", "effect_max")
_VALUE_KINDS = {**dict.fromkeys(_TEXTS, "text"), "seed": "a whole number", "value": "a number"}
_CLAIM_KINDS = {
    **dict.fromkeys((*_POOLED, "verdict_corrected", "verdict_beyond"), "text"),
    **dict.fromkeys(_NUMBERS, "a number"),
    **dict.fromkeys(("n_items", "n_seeds", "n_cells"), "a whole number"),
    "negligible": "true or false",
}
"""What columns hold."""


def read_values(folder: str | Path) -> pd.DataFrame:
    """The values of a grid's run folder, or of the shipped results.

    Raises:
        RunError: If there are none, or they cannot be read.
    """
    missing = f"run `attcot grid FILE --out {folder}` first"
    return _read_table(Path(folder), VALUES_FILE, _VALUE_KINDS, (*_TEXTS, "seed"), (), missing)


def read_claims(folder: str | Path) -> pd.DataFrame:
    """The claims table of a folder, as `write_claims` left it.

    Raises:
        RunError: If there is none, or it cannot be read.
    """
    missing = f"run `attcot testbed claims --results {folder}` first"
    counts = ("n_items", "n_seeds", "n_cells")
    return _read_table(Path(folder), TABLE_FILE, _CLAIM_KINDS, (*_POOLED, *counts), counts, missing)


def _read_table(
    folder: Path,
    name: str,
    kinds: Mapping[str, str],
    filled: Sequence[str],
    counts: Sequence[str],
    missing: str,
) -> pd.DataFrame:
    path = folder / name
    if not path.is_file():
        raise RunError(f"{folder} has no {name}; {missing}.")
    try:
        content = read_parquet(path)
        wrong = wrong_column(content, kinds, needed=list(kinds), filled=filled, counts=counts)
        table: pd.DataFrame = content.to_pandas()
    except UNREADABLE as error:
        raise damaged(path, error) from error
    if wrong is not None:
        raise RunError(f"{path} is damaged: {wrong}; make it again.")
    return table


def write_claims(folder: str | Path, table: pd.DataFrame) -> None:
    """Write ``claims.parquet``, all rows, and ``claims.json``, every claim with its pooled row."""
    folder = Path(folder)
    write_whole(folder / TABLE_FILE, lambda part: table.to_parquet(part, index=False))
    rows = headline_rows(table)
    entries = [
        {
            "id": claim.id,
            "title": claim.title,
            "topic": claim.topic,
            "paper": claim.paper,
            "sentence": claim.sentence,
            "metric": claim.metric,
            "unit": claim.unit,
            "direction": claim.direction,
            "margin": claim.margin,
            **_plain(rows.get(claim.id, {"verdict": "not measured"})),
        }
        for claim in CLAIMS
    ]
    text = json.dumps({"claims": entries}, indent=1, ensure_ascii=False)
    write_bytes(folder / JSON_FILE, f"{text}\n".encode())


def run_facts(folder: str | Path) -> dict[str, str]:
    """What the page should say about a grid's run, from its records and the seeds of its values.

    Raises:
        RunError: If one of these is damaged.
    """
    try:
        return _run_facts(Path(folder))
    except AttCoTError:
        raise
    except UNREADABLE as error:
        raise RunError(
            f"{folder} has a damaged manifest.json or grid.json ({one_line(error)}); get them "
            "again, or leave them out."
        ) from error


def _run_facts(folder: Path) -> dict[str, str]:
    run = RunFolder(folder)
    manifest, parts = (
        _for_markdown(run.read_json(name) if run.has(name) else {}) for name in ("manifest", "grid")
    )
    values = read_values(folder)
    facts = {}
    for name, kind in parts.get("kinds", {}).items():
        knobs = ", ".join(f"{key} {value}" for key, value in kind.get("knobs", {}).items())
        training = kind.get("finetune", {})
        facts[f"`{name}`"] = (
            f"{knobs or 'as they come'}; trained on {kind.get('train_items')} problems whose "
            f"answer is the habitual one in {kind.get('train_prior', 0):.0%}, "
            f"{training.get('steps')} steps of {training.get('batch_size')} at "
            f"{training.get('learning_rate')}; tested on {_tested_on(kind.get('test_prior'))}"
        )
    seeds = sorted({int(seed) for seed in values.loc[values["arm"] != BASE, "seed"]})
    if seeds:
        gaps = [str(seed) for seed in range(seeds[0], seeds[-1]) if seed not in seeds]
        missing = f"; {' and '.join(gaps)} of this range missing" if gaps else ""
        facts["Training seeds"] = f"{', '.join(map(str, seeds))}{missing}"
    if parts.get("arms"):
        facts["Arms"] = ", ".join(f"`{name}`" for name in parts["arms"])
    config = manifest.get("config", {})
    if config.get("measures"):
        facts["Measured"] = f"CoT answers, {', '.join(config['measures'])}"
    if config.get("test_seed") is not None:
        facts["Test problems"] = f"drawn with seed {config['test_seed']}"
    if manifest.get("created"):
        facts["Begun"] = str(manifest["created"])[:10]
    return facts


def _tested_on(prior: float | None) -> str:
    return (
        "balanced ones"
        if prior is None
        else f"ones whose answer is the habitual one in {prior:.0%}"
    )


def _for_markdown(value: Any) -> Any:
    """JSON values whose texts, names included, may stand in a page."""
    if isinstance(value, dict):
        return {for_markdown(name): _for_markdown(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_for_markdown(one) for one in value]
    return for_markdown(value) if isinstance(value, str) else value


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A pooled row as JSON can hold it, without what the entry says already."""
    left_out = ("claim", "paper", "level", "family", "scale", "kind", "verdict_corrected")
    plain = {}
    for key, value in row.items():
        if key not in left_out:
            value = value.item() if isinstance(value, np.generic) else value
            plain[key] = None if pd.isna(value) else value
    return plain
