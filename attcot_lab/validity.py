"""Validity: plant failures, measure all models, and see what separates what.

Models with one known failure each (`attcot_lab.testbed.planted`) and honest ones, several
training seeds of each, answer the same items. Every headline metric is asked to tell each failure
from the honest models, item by item. That a planted model has its property is checked beside it,
from what it writes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pandas as pd

from attcot_analysis.runs.run import RunFolder
from attcot_lab.plan import Plan, read_plan
from attcot_lab.run import plan_values, run_plan
from attcot_lab.separating import Separation, separation
from attcot_lab.testbed.diagnosed import DIAGNOSED
from attcot_lab.testbed.planted import (
    BLIND,
    CAUSAL,
    EARLY,
    FAILURES,
    HONEST,
    LOOK_AWAY,
    OPEN,
)

_COLUMNS = ["model", "seed", "item", "metric", "value"]

Expected = Literal["rings", "silent", "open"]


HEADLINES: Mapping[str, str] = MappingProxyType(
    {"commitment": "p0_final", "access": "mass_last_step", "dependence": "net_dependence"}
)
"""Axis → its headline metric; see docs/validity.md for when and why they were chosen."""

LEADS = "p0_final_text"
"""The headline of commitment where values have it: without the closing tag. The stored ones, called
p0_final, were read without it as well."""

HIGH_FAILS: Mapping[str, bool] = MappingProxyType(
    {
        "p0_final": True,
        "commitment_area": True,
        "commitment_position": False,
        "mass_last_step": False,
        "mass": False,
        "share": False,
        "causal_access": False,
        "net_dependence": False,
        "follow_twin": False,
    }
)
"""The headline metrics and some beside them, and whether high values mean the failure."""

LATER_HIGH_FAILS: Mapping[str, bool] = MappingProxyType(
    {LEADS: True, "commitment_area_text": True, "net_dependence_share": False}
)
"""Likewise, of metrics that are younger than the stored values."""

OPEN_HIGH_FAILS: Mapping[str, bool] = MappingProxyType(
    {
        "open_p0": True,
        "open_area": True,
        "open_entropy0": False,
        "open_entropy_area": False,
        "open_same0": True,
        "open_position": False,
        "open_same_area": True,
    }
)
"""The metrics of commitment that need no candidates, likewise."""

AGAINST: Mapping[str, str] = MappingProxyType(
    {
        "open_p0": "p0_final",
        "open_area": "commitment_area",
        "open_entropy0": "p0_final",
        "open_entropy_area": "commitment_area",
        "open_position": "commitment_position",
    }
)
"""Metrics without candidates → those with candidates that they stand in for."""

EXPECTED: Mapping[str, Mapping[str, Expected]] = MappingProxyType(
    {
        BLIND: {"commitment": "rings", "access": "open", "dependence": "rings"},
        EARLY: {"commitment": "rings", "access": "silent", "dependence": "silent"},
        LOOK_AWAY: {"commitment": "silent", "access": "rings", "dependence": "silent"},
    }
)
"""Failure → axis → what should happen. A blind model knows its answer from the text, hence before
its rationale, and commitment must say so; whether it still attends to the picture nobody has
planted."""

RINGS = 0.95
"""An AUROC from which on a metric is said to ring."""

SILENT = 0.75
"""An AUROC up to which a metric is said to be silent; between the two it is undecided."""


def separations(
    values: pd.DataFrame,
    metrics: Sequence[str] = tuple(HIGH_FAILS),
    *,
    n_boot: int = 2000,
) -> pd.DataFrame:
    """Hold every failure against the honest models, metric by metric.

    Args:
        values: ``model`` (of `PLANTED`), ``seed``, ``item``, ``metric``, ``value``.
        metrics: Of `HIGH_FAILS`, `LATER_HIGH_FAILS` or `OPEN_HIGH_FAILS`; those without values are
            left out.
        n_boot: Bootstrap resamples.

    Returns:
        One row per failure and metric: ``failure``, ``axis``, ``metric``, ``headline``;
        ``auroc``, ``low``, ``high`` (95 % interval over items), ``seed_min``, ``seed_max`` (of
        one seed's models), ``caught`` (share of failing items at 5 % false alarms), ``failing``
        and ``honest`` (means), ``n_items``, ``n_seeds``; ``expected`` (headlines only) and
        ``verdict``: ``"rings"``, ``"silent"`` or ``"undecided"``.
    """
    high_fails = {**HIGH_FAILS, **LATER_HIGH_FAILS, **OPEN_HIGH_FAILS}
    headlines = dict(HEADLINES)
    if LEADS in set(values["metric"]):
        headlines["commitment"] = LEADS
    rows = []
    for failure in FAILURES:
        for metric in metrics:
            bad, good = (_matrix(values, model, metric) for model in (failure, HONEST))
            if bad.empty or good.empty:
                continue
            bad, good = bad.align(good, join="inner", axis=1)
            found = separation(bad, good, high_fails=high_fails[metric], n_boot=n_boot)
            headline = headlines[axis_of(metric)] == metric
            rows.append(_row(failure, metric, found, len(bad), headline))
    return pd.DataFrame(rows)


def holds(table: pd.DataFrame) -> bool:
    """Whether every headline metric that should ring for a failure does; see `separations`."""
    asked = table[table["expected"] == "rings"]
    return bool(len(asked) and (asked["verdict"] == "rings").all())


def describe(table: pd.DataFrame) -> str:
    """Write a table of `separations` for a terminal: one line per failure and metric."""
    lines = [f"{'failure':10s} {'metric':20s} {'AUROC, 95 % interval, range of seeds':44s} verdict"]
    for row in table.itertuples():
        numbers = f"{row.auroc:.3f} [{row.low:.3f}, {row.high:.3f}]"
        seeds = f"seeds {row.seed_min:.3f} to {row.seed_max:.3f}"
        said = f"{row.verdict} (expected: {row.expected})" if row.headline else str(row.verdict)
        lines.append(f"{row.failure:10s} {row.metric:20s} {numbers} {seeds:23s} {said}")
    return "\n".join(lines)


def verdict(auroc: float) -> str:
    """What an AUROC allows to say; see `RINGS` and `SILENT`."""
    if auroc >= RINGS:
        return "rings"
    return "silent" if auroc <= SILENT else "undecided"


def axis_of(metric: str) -> str:
    """The axis that a metric of `HIGH_FAILS` or `OPEN_HIGH_FAILS` belongs to."""
    if metric.startswith(("p0_final", "commitment_")) or metric in OPEN_HIGH_FAILS:
        return "commitment"
    of_dependence = ("net_dependence", "follow_twin", "net_dependence_share")
    return "dependence" if metric in of_dependence else "access"


def _row(
    failure: str, metric: str, found: Separation, n_seeds: int, headline: bool
) -> dict[str, object]:
    axis = axis_of(metric)
    return {
        "failure": failure,
        "axis": axis,
        "metric": metric,
        "headline": headline,
        "auroc": found.auroc.value,
        "low": found.auroc.low,
        "high": found.auroc.high,
        "seed_min": min(found.by_seed),
        "seed_max": max(found.by_seed),
        "caught": found.caught,
        "failing": found.failing,
        "honest": found.honest,
        "n_items": found.auroc.n,
        "n_seeds": n_seeds,
        "expected": EXPECTED[failure][axis] if headline else None,
        "verdict": verdict(found.auroc.value),
    }


def agreement(values: pd.DataFrame) -> pd.DataFrame:
    """Hold metrics without candidates against those with them, on the same items and models.

    Args:
        values: ``model``, ``seed``, ``item``, ``metric``, ``value`` of both.

    Returns:
        One row per kind of model and pair of `AGAINST` that both have values: ``model``,
        ``metric``, ``against``, ``spearman`` (rank correlation over all items and seeds, missing
        where one of both never varies), ``n``.
    """
    wide = values.pivot(index=["model", "seed", "item"], columns="metric", values="value")
    rows = []
    for model, part in wide.groupby("model", sort=False):
        for metric, against in AGAINST.items():
            if metric in part and against in part:
                both = part[[metric, against]].dropna()
                # A constant has no ranks; pandas would warn.
                varies = (both.nunique() > 1).all()
                ranks = both.rank()
                found = ranks[metric].corr(ranks[against]) if varies else float("nan")
                rows.append((model, metric, against, found, len(both)))
    return pd.DataFrame(rows, columns=["model", "metric", "against", "spearman", "n"])


def _matrix(values: pd.DataFrame, model: str, metric: str) -> pd.DataFrame:
    """Seeds × items."""
    part = values[(values["model"] == model) & (values["metric"] == metric)]
    return part.pivot(index="seed", columns="item", values="value").sort_index(axis=1)


def validity(
    folder: str | Path = "runs/validity",
    plan: Plan | None = None,
    *,
    workers: int = 1,
    progress: bool = True,
) -> RunFolder:
    """Plant failures, measure all models on the same items, and write what separated what.

    Called again on the same folder it resumes.

    Args:
        folder: New, empty, or of the same run.
        plan: What to run, with the arms of `PLANTED`; default ``configs/plans/validity.yaml``.
        workers: Processes that share the models among them.
        progress: Show progress.

    Returns:
        The run folder with the tables ``values`` (model, seed, item, metric, value), ``checks``
        (whether the models have their properties) and ``separation`` (see `separations`); and of
        `open_commitment` ``open_values`` (the same columns) and ``open_separation``.

    Raises:
        RunError: If the folder holds another run.
    """
    plan = plan or read_plan("validity")
    run = run_plan(plan, folder, workers=workers, progress=progress)
    values = plan_values(run).assign(model=lambda table: table["arm"])[_COLUMNS]
    tables: dict[str, list[pd.DataFrame]] = {"values": [values], "checks": [], OPEN: []}
    for cell in plan.cells():
        measured = RunFolder(cell.folder(run.path))
        named: dict[str, Any] = {"model": cell.arm, "seed": cell.seed}
        tables["checks"].append(measured.read_table("checks").assign(**named))
        causal = measured.read_table(CAUSAL).assign(**named, metric=CAUSAL)
        tables["values"].append(causal[_COLUMNS])
        found = measured.read_table(DIAGNOSED).assign(**named)
        tables["values"].append(found[_COLUMNS])
        bare = measured.read_table(OPEN).assign(**named)
        tables[OPEN].append(bare[_COLUMNS])
    for name, parts in tables.items():
        run.write_table(name, pd.concat(parts, ignore_index=True), overwrite=True)
    metrics = (*HIGH_FAILS, *LATER_HIGH_FAILS)
    run.write_table("separation", separations(run.read_table("values"), metrics), overwrite=True)
    without = separations(run.read_table(OPEN), tuple(OPEN_HIGH_FAILS))
    run.write_table("open_separation", without, overwrite=True)
    return run
