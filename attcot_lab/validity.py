"""Validity: plant failures, measure all models, and see what separates what.

Models with one known failure each (`attcot_lab.testbed.planted`) and honest ones, several
training seeds of each, answer the same items. Every headline metric is asked to tell each failure
from the honest models, item by item. That a planted model has its property is checked beside it,
from what it writes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.measures.causal import causal_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.compare import item_values
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.models import Mllm, load_mllm
from attcot_analysis.problems import Problem, generate_arrows
from attcot_analysis.runs.provenance import build_manifest, model_record
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.stats.intervals import FloatArray, Interval, Numbers, as_matrix
from attcot_lab.jobs import run_jobs
from attcot_lab.testbed.planted import (
    BLIND,
    EARLY,
    FAILURES,
    HONEST,
    LOOK_AWAY,
    MIDDLE,
    PLANTED,
    PlantConfig,
    plant,
    property_checks,
)

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


Expected = Literal["rings", "silent", "open"]


HEADLINES: Mapping[str, str] = MappingProxyType(
    {"commitment": "p0_final", "access": "mass_last_step", "dependence": "net_dependence"}
)

"""Axis → its headline metric; see docs/validity.md for when and why they were chosen."""

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
    values: pd.DataFrame, metrics: Sequence[str] = tuple(HIGH_FAILS), *, n_boot: int = 2000
) -> pd.DataFrame:
    """Hold every failure against the honest models, metric by metric.

    Args:
        values: ``model`` (of `PLANTED`), ``seed``, ``item``, ``metric``, ``value``.
        metrics: Of `HIGH_FAILS`; those without values are left out.
        n_boot: Bootstrap resamples.

    Returns:
        One row per failure and metric: ``failure``, ``axis``, ``metric``, ``headline``;
        ``auroc``, ``low``, ``high`` (95 % interval over items), ``seed_min``, ``seed_max`` (of
        one seed's models), ``caught`` (share of failing items at 5 % false alarms), ``failing``
        and ``honest`` (means), ``n_items``, ``n_seeds``; ``expected`` (headlines only) and
        ``verdict``: ``"rings"``, ``"silent"`` or ``"undecided"``.
    """
    rows = []
    for failure in FAILURES:
        for metric in metrics:
            bad, good = (_matrix(values, model, metric) for model in (failure, HONEST))
            if bad.empty or good.empty:
                continue
            bad, good = bad.align(good, join="inner", axis=1)
            found = separation(bad, good, high_fails=HIGH_FAILS[metric], n_boot=n_boot)
            rows.append(_row(failure, metric, found, len(bad)))
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
    """The axis that a metric of `HIGH_FAILS` belongs to."""
    if metric in ("p0_final", "commitment_area", "commitment_position"):
        return "commitment"
    return "dependence" if metric in ("net_dependence", "follow_twin") else "access"


def _row(failure: str, metric: str, found: Separation, n_seeds: int) -> dict[str, object]:
    axis = axis_of(metric)
    headline = HEADLINES[axis] == metric
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


def _matrix(values: pd.DataFrame, model: str, metric: str) -> pd.DataFrame:
    """Seeds × items."""
    part = values[(values["model"] == model) & (values["metric"] == metric)]
    return part.pivot(index="seed", columns="item", values="value").sort_index(axis=1)


CAUSAL = "causal_access"

"""Name of the values of causal access: log p lost when no rationale row can read the picture."""

_TEST_SEED = 1000

_MAX_NEW_TOKENS = 40

_BATCH = 32


@dataclass(frozen=True)
class ValidityConfig:
    """What `validity` runs.

    Attributes:
        seeds: Training seeds of every kind of model.
        items: Test items, the same for all models. Their walks end in the middle, as those do
            on which `EARLY` was trained; their habitual answer is always wrong, so that an answer
            from the text is told from one from the picture.
        plant: How the models are made.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3)
    items: int = 100
    plant: PlantConfig = field(default_factory=PlantConfig)

    def problems(self) -> list[Problem]:
        """The test items."""
        arrows = replace(self.plant.arrows, prior=0.0, end=MIDDLE)
        return generate_arrows(self.items, arrows, seed=_TEST_SEED, split="test")


def validity(
    folder: str | Path = "runs/validity",
    config: ValidityConfig | None = None,
    *,
    base: str | Path | None = None,
    workers: int = 1,
    progress: bool = True,
) -> RunFolder:
    """Plant failures, measure all models on the same items, and write what separated what.

    Called again on the same folder it goes on where it stopped.

    Args:
        folder: New, empty, or of the same run.
        config: What to run.
        base: Checkpoint to start from; default the shipped tiny model.
        workers: Processes that share the models among them.
        progress: Show progress.

    Returns:
        The run folder with the tables ``values`` (model, seed, item, metric, value), ``checks``
        (whether the models have their properties) and ``separation`` (see `separations`).

    Raises:
        RunError: If the folder holds another run.
    """
    config = config or ValidityConfig()
    base = shipped(TESTBED_MODEL) if base is None else Path(base)
    problems = config.problems()
    manifest = build_manifest(
        seed=config.seeds[0],
        config=asdict(config),
        models={"base": base},
        data={"test": problems},
    )
    with RunFolder.begun(folder, manifest, resume=True) as run:
        jobs = [_Job(kind, seed) for seed in config.seeds for kind in PLANTED]
        run_jobs(
            partial(_work, run.path, config, base, progress and workers == 1),
            jobs,
            workers=workers,
            progress=progress,
        )
        for name in ("values", "checks"):
            parts = [run.read_table(f"{job.kind}-{job.seed}.{name}") for job in jobs]
            run.write_table(name, pd.concat(parts, ignore_index=True), overwrite=True)
        run.write_table("separation", separations(run.read_table("values")), overwrite=True)
    return run


@dataclass(frozen=True)
class _Job:
    """One model to plant and measure."""

    kind: str
    seed: int

    def __str__(self) -> str:
        return f"{self.kind}, seed {self.seed}"


def _work(folder: Path, config: ValidityConfig, base: Path, progress: bool, job: _Job) -> None:
    """Do one job, as far as an earlier attempt has not; its tables are then in the run folder."""
    run, name = RunFolder.open(folder), f"{job.kind}-{job.seed}"
    if run.has(f"{name}.values") and run.has(f"{name}.checks"):
        return
    checkpoint = folder / "models" / name
    if not checkpoint.exists():
        checkpoint.parent.mkdir(exist_ok=True)
        plant(job.kind, base, checkpoint, config.plant, seed=job.seed, progress=progress)
    run.made_with(f"{name}.made_with", {"models": {"model": model_record(checkpoint)}})
    mllm = load_mllm(checkpoint, dtype=torch.float32)
    problems = config.problems()

    def kept(table: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        return run.table(f"{name}.{table}", make)

    answers = kept("answers", lambda: _answers(mllm, problems))
    written = [list(ids) for ids in answers["ids"]]
    kept("values", lambda: _values(mllm, problems, answers, written, job))
    kept(
        "checks",
        lambda: property_checks(mllm, problems, answers, config.plant).assign(
            model=job.kind, seed=job.seed
        ),
    )


def _answers(mllm: Mllm, problems: Sequence[Problem]) -> pd.DataFrame:
    return answer_problems(mllm, problems, max_new_tokens=_MAX_NEW_TOKENS, batch_size=_BATCH)


def _values(
    mllm: Mllm,
    problems: Sequence[Problem],
    answers: pd.DataFrame,
    written: Sequence[Sequence[int]],
    job: _Job,
) -> pd.DataFrame:
    """What the diagnostics say, on the rationales that the model wrote itself."""
    forced = commitment(
        mllm, problems, written, controls=("rationale",), empty="skip", batch_size=_BATCH
    )
    access = visual_access(mllm, problems, written, empty="skip", batch_size=_BATCH)
    edits = dependence(
        mllm,
        problems,
        written,
        edits=("twin", "control"),
        empty="skip",
        batch_size=_BATCH,
        max_new_tokens=_MAX_NEW_TOKENS,
    )
    causal = causal_access(
        mllm,
        problems,
        written,
        kinds=("knockout",),
        steps=(0,),
        rows="rationale",
        empty="skip",
        batch_size=_BATCH,
    ).table
    found = item_values(
        model=job.kind,
        seed=job.seed,
        cot=answers,
        commitment=forced.items(),
        access=access,
        dependence=edits,
    )
    lost = causal[["item", "delta_log_p"]].rename(columns={"delta_log_p": "value"})
    lost = lost.assign(model=job.kind, seed=job.seed, metric=CAUSAL)
    return pd.concat([found, lost[found.columns]], ignore_index=True)
