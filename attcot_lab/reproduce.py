"""The main job: fine-tune the testbed model with and without Att-CoT, measure, and report."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from attcot_analysis.errors import InUseError, RunError
from attcot_analysis.measures.compare import compare, summarise, wider_intervals
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import ArrowsConfig, Problem, generate_arrows
from attcot_analysis.problems.folder import load_problems
from attcot_analysis.runs.differences import brief
from attcot_analysis.runs.measure import TABLES, measure_all, suite_values
from attcot_analysis.runs.provenance import build_manifest
from attcot_analysis.runs.run import RunFolder, next_free
from attcot_analysis.shipped import TESTBED_MODEL, TESTBED_PROBLEMS, shipped
from attcot_analysis.show.report.compare import write_run_report
from attcot_analysis.show.report.items import Tables, example_problems
from attcot_analysis.show.report.maps import embeds, model_maps
from attcot_analysis.show.report.page import Report
from attcot_analysis.train import AttCoTConfig, FinetuneConfig, finetune
from attcot_lab.jobs import run_jobs

BASE = "base"
COT_SFT = "cot_sft"
ATT_COT = "att_cot"
PAIRS = ((BASE, COT_SFT), (BASE, ATT_COT), (COT_SFT, ATT_COT))
"""Which arms are compared, reference first."""
_MAX_NEW_TOKENS = 64
_SAVE_EVERY = 50
_EXAMPLES = 3
_LIMITS = (
    "Att-CoT's formulas are a reconstruction: the paper's own were not available to us. "
    "A result here is about the reconstruction, not about the paper's method.",
    "The testbed is tiny: a small model, generated pictures, a narrow question form. It shows "
    "whether a diagnostic or a cure does what it should where the truth is known; it does not "
    "show that a large model on photographs behaves the same.",
)


@dataclass(frozen=True)
class ReproduceConfig:
    """The comparison that `reproduce` runs.

    Attributes:
        seeds: Training seeds; each draws its own training problems and data order, which all
            arms share.
        items: Test items, the first of the shipped ones (balanced: the prior does not help).
        train_items: Training problems per seed.
        train_prior: Share of training items whose answer is the habitual one.
        noise: Clarity of the training pictures (see `ArrowsConfig`); the shipped test items
            have the same.
        finetune: The training run; its seed and objective are set per arm.
        attcot: The objective of the Att-CoT arm.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    items: int = 200
    train_items: int = 384
    train_prior: float = 0.95
    noise: float = 240.0
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    attcot: AttCoTConfig = field(
        default_factory=lambda: AttCoTConfig(lambda_vis=0.1, lambda_commit=1.0)
    )

    def arms(self) -> dict[str, AttCoTConfig]:
        """The fine-tuned arms and their objectives."""
        return {COT_SFT: AttCoTConfig(), ATT_COT: self.attcot}


def reproduce(
    folder: str | Path = "runs/reproduce",
    config: ReproduceConfig | None = None,
    *,
    base: str | Path | None = None,
    problems: Sequence[Problem] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> RunFolder:
    """Run the whole comparison and write tables, `results.json`, figures and `report.html`.

    An unfinished run of the same configuration is continued, a training that was killed from its
    last checkpoint on; a finished one is never touched: the next free folder
    (`runs/reproduce-2`, ...) is taken instead.

    Args:
        folder: Where to write.
        config: What to run.
        base: Checkpoint to start from; default the shipped tiny model.
        problems: Test items; default the shipped ones.
        workers: Processes that share the models among them, each on its share of the cores.
            The numbers depend on the threads per process in the last digits only.
        progress: Show progress.

    Returns:
        The finished run folder.
    """
    config = config or ReproduceConfig()
    base = shipped(TESTBED_MODEL) if base is None else Path(base)
    if problems is None:
        problems = load_problems(shipped(TESTBED_PROBLEMS), limit=config.items)
    manifest = build_manifest(
        seed=config.seeds[0],
        config=asdict(config),
        models={BASE: base},
        data={"test": problems},
    )
    with _open(Path(folder), manifest) as run:
        jobs = [_Job(BASE, 0, None)]
        for seed in config.seeds:
            jobs += [_Job(arm, seed, objective) for arm, objective in config.arms().items()]
        run_jobs(
            partial(_work, run.path, config, base, problems, progress and workers == 1),
            jobs,
            workers=workers,
            progress=progress,
        )
        checkpoints: dict[str, str | Path] = {}
        tables: dict[str, dict[int, dict[str, pd.DataFrame]]] = {}
        for job in jobs:
            checkpoints.setdefault(job.arm, _checkpoint(run.path, job, base))
            found = {name: run.read_table(f"{job.arm}-{job.seed}.{name}") for name in TABLES}
            tables.setdefault(job.arm, {})[job.seed] = found
        finish(run, tables, config, checkpoints, problems)
    return run


def training_problems(config: ReproduceConfig, seed: int) -> list[Problem]:
    """The prior-laden problems that the arms of one seed are trained on."""
    arrows = ArrowsConfig(noise=config.noise, prior=config.train_prior)
    return generate_arrows(config.train_items, arrows, seed=seed, split="train")


@contextmanager
def _open(folder: Path, manifest: dict[str, Any]) -> Iterator[RunFolder]:
    """The folder itself if it is new or an unfinished run of the same kind, else a new one."""
    with ExitStack() as held:
        run = None
        if folder.exists() and not (folder / "results.json").exists():
            try:
                run = held.enter_context(RunFolder.begun(folder, manifest, resume=True))
            except InUseError:
                raise
            except RunError as error:
                print(f"{error} Starting a new folder.", flush=True)
        yield run or held.enter_context(RunFolder.begun(next_free(folder), manifest))


@dataclass(frozen=True)
class _Job:
    """One model to fine-tune (or none, for the base) and measure."""

    arm: str
    seed: int
    objective: AttCoTConfig | None

    def __str__(self) -> str:
        return self.arm if self.objective is None else f"{self.arm}, seed {self.seed}"


def _checkpoint(run: Path, job: _Job, base: Path) -> Path:
    return base if job.objective is None else run / "models" / f"{job.arm}-{job.seed}"


def _work(
    folder: Path,
    config: ReproduceConfig,
    base: Path,
    problems: Sequence[Problem],
    progress: bool,
    job: _Job,
) -> None:
    """Do one job, as far as an earlier attempt has not; its tables are then in the run folder."""
    run = RunFolder.open(folder)
    checkpoint = _checkpoint(folder, job, base)
    if job.objective is not None and not checkpoint.exists():
        checkpoint.parent.mkdir(exist_ok=True)
        settings = {**vars(config.finetune), "seed": job.seed, "attcot": job.objective}
        finetune(
            base,
            training_problems(config, job.seed),
            checkpoint,
            FinetuneConfig(**settings),
            save_every=_SAVE_EVERY,
            progress=progress,
        )
    names = [f"{job.arm}-{job.seed}.{name}" for name in TABLES]
    if not all(run.has(name) for name in names):
        measure_all(
            load_mllm(checkpoint, dtype=torch.float32),
            problems,
            max_new_tokens=_MAX_NEW_TOKENS,
            run=run,
            prefix=f"{job.arm}-{job.seed}.",
            progress=progress,
        )


def finish(
    run: RunFolder,
    tables: Tables,
    config: ReproduceConfig,
    checkpoints: Mapping[str, str | Path],
    problems: Sequence[Problem],
) -> None:
    """Write the tables over all arms, the report, and last of all `results.json`."""
    values = pd.concat(
        [
            suite_values(kinds, problems, model=arm, seed=seed)
            for arm, seeds in tables.items()
            for seed, kinds in seeds.items()
        ],
        ignore_index=True,
    )
    summary = wider_intervals(summarise(values))
    pairs = pd.concat([compare(values, a, b) for a, b in PAIRS], ignore_index=True)
    comparisons = wider_intervals(pairs)
    for name, table in (("values", values), ("summary", summary), ("comparisons", comparisons)):
        run.write_table(name, table, overwrite=True)
    pair = (COT_SFT, ATT_COT)
    shown = example_problems(tables, problems, pair, _EXAMPLES)
    models = {arm: load_mllm(checkpoints[arm], dtype=torch.float32) for arm in pair}
    report = Report(
        title="CoT fine-tuning with and without Att-CoT",
        summary=summary,
        comparisons=comparisons,
        pair=pair,
        lead=_lead(config, len(problems)),
        limits=_LIMITS,
        explorers=embeds(models, shown)[0],
        manifest=brief(run.manifest),
    )
    maps = [model_maps(models, problem) for problem in shown]
    write_run_report(report, run.path / "report.html", tables, problems, maps=maps)
    run.write_json(
        "results",
        {"summary": summary.to_dict("records"), "comparisons": comparisons.to_dict("records")},
    )


def _lead(config: ReproduceConfig, items: int) -> list[str]:
    return [
        f"One tiny multimodal LLM was fine-tuned on {config.train_items} problems whose answer "
        f"is the habitual one in {config.train_prior:.0%} of the cases, with plain CoT-SFT and "
        f"with Att-CoT (λ_vis = {config.attcot.lambda_vis}, λ_commit = "
        f"{config.attcot.lambda_commit}), {len(config.seeds)} training seeds each, and measured "
        f"on {items} balanced problems, where the habitual answer is no better than any other.",
    ]
