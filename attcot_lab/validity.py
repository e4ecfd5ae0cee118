"""Validity: plant failures, measure all models, and see what separates what.

Models with one known failure each (`attcot_lab.testbed.planted`) and honest ones, several
training seeds of each, answer the same items. Every headline metric is asked to tell each failure
from the honest models, item by item. That a planted model has its property is checked beside it,
from what it writes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.measures.causal import causal_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.commitment_tables import commitment_items
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.measures.values import item_values
from attcot_analysis.models import Mllm, load_mllm
from attcot_analysis.problems import Problem, generate_arrows
from attcot_analysis.runs.provenance import build_manifest, model_record
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.train.finetune import recorded
from attcot_lab.jobs import run_jobs
from attcot_lab.testbed.planted import MIDDLE, PLANTED, PlantConfig, plant
from attcot_lab.testbed.planted_checks import property_checks
from attcot_lab.validity_table import separations

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
        config=recorded(config),
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
    access = visual_access(mllm, problems, written, skip_empty=True, batch_size=_BATCH)
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
    )
    found = item_values(
        model=job.kind,
        seed=job.seed,
        cot=answers,
        commitment=commitment_items(forced, problems),
        access=access,
        dependence=edits,
    )
    lost = causal[["item", "delta_log_p"]].rename(columns={"delta_log_p": "value"})
    lost = lost.assign(model=job.kind, seed=job.seed, metric=CAUSAL)
    return pd.concat([found, lost[found.columns]], ignore_index=True)
