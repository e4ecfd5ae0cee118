"""The main job: fine-tune the testbed model with and without Att-CoT, measure, and report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from attcot_analysis.errors import RunError
from attcot_analysis.measure.metrics import compare, summarise, wider_intervals
from attcot_analysis.measure.provenance import build_manifest
from attcot_analysis.measure.run import RunFolder, next_free
from attcot_analysis.measure.suite import measure_all, suite_values
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import ArrowsConfig, Problem, generate_arrows
from attcot_analysis.problems.folder import load_problems
from attcot_analysis.run_report import Tables, write_run_report
from attcot_analysis.shipped import TESTBED_MODEL, TESTBED_PROBLEMS, shipped
from attcot_analysis.train import AttCoTConfig, FinetuneConfig, finetune

BASE = "base"
COT_SFT = "cot_sft"
ATT_COT = "att_cot"
PAIRS = ((BASE, COT_SFT), (BASE, ATT_COT), (COT_SFT, ATT_COT))
"""Which arms are compared, reference first."""
_MAX_NEW_TOKENS = 64


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
    progress: bool = True,
) -> RunFolder:
    """Run the whole comparison and write tables, `results.json`, figures and `report.html`.

    An unfinished run of the same configuration is continued; a finished one is never touched:
    the next free folder (`runs/reproduce-2`, ...) is taken instead.

    Args:
        folder: Where to write.
        config: What to run.
        base: Checkpoint to start from; default the shipped tiny model.
        problems: Test items; default the shipped ones.
        progress: Show progress bars.

    Returns:
        The finished run folder.
    """
    config = config or ReproduceConfig()
    base = shipped(TESTBED_MODEL) if base is None else Path(base)
    if problems is None:
        problems = load_problems(shipped(TESTBED_PROBLEMS), limit=config.items)
    run = _open(
        Path(folder),
        build_manifest(
            seed=config.seeds[0],
            config=asdict(config),
            models={BASE: base},
            data={"test": problems},
        ),
    )
    checkpoints: dict[str, str | Path] = {BASE: base}
    tables: dict[str, dict[int, dict[str, pd.DataFrame]]] = {
        BASE: {0: _measure(run, BASE, 0, base, problems, progress)}
    }
    for seed in config.seeds:
        training = training_problems(config, seed)
        for arm, objective in config.arms().items():
            checkpoint = run.path / "models" / f"{arm}-{seed}"
            checkpoints.setdefault(arm, checkpoint)
            if not checkpoint.exists():
                if progress:
                    print(f"Fine-tuning {arm}, seed {seed}", flush=True)
                checkpoint.parent.mkdir(exist_ok=True)
                settings = {**vars(config.finetune), "seed": seed, "attcot": objective}
                finetune(base, training, checkpoint, FinetuneConfig(**settings), progress=progress)
            measured = _measure(run, arm, seed, checkpoint, problems, progress)
            tables.setdefault(arm, {})[seed] = measured
    finish(run, tables, config, checkpoints, problems)
    return run


def training_problems(config: ReproduceConfig, seed: int) -> list[Problem]:
    """The prior-laden problems that the arms of one seed are trained on."""
    arrows = ArrowsConfig(noise=config.noise, prior=config.train_prior)
    return generate_arrows(config.train_items, arrows, seed=seed, split="train")


def _open(folder: Path, manifest: dict[str, Any]) -> RunFolder:
    """The folder itself if it is new or an unfinished run of the same kind, else a new one."""
    if folder.exists() and not (folder / "results.json").exists():
        try:
            return RunFolder.create(folder, manifest, resume=True)
        except RunError as error:
            print(f"{error} Starting a new folder.", flush=True)
    return RunFolder.create(next_free(folder), manifest)


def _measure(
    run: RunFolder,
    arm: str,
    seed: int,
    checkpoint: str | Path,
    problems: Sequence[Problem],
    progress: bool,
) -> dict[str, pd.DataFrame]:
    """Measure one model, or read what an earlier attempt has measured."""
    if progress:
        print(f"Measuring {arm}, seed {seed}", flush=True)
    return measure_all(
        load_mllm(checkpoint),
        problems,
        max_new_tokens=_MAX_NEW_TOKENS,
        keep=lambda name, make: run.table(f"{arm}-{seed}.{name}", make),
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
    write_run_report(
        run,
        tables,
        problems,
        checkpoints,
        title="CoT fine-tuning with and without Att-CoT",
        lead=_lead(config, len(problems)),
        before=COT_SFT,
        after=ATT_COT,
    )
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
