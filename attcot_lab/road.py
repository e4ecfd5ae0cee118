"""The whole road on one model: check, measure, fine-tune, measure again, compare; resumable.

Layout of the folder::

    manifest.json, check.json    what was asked for, and whether the model is read right
    base/, cot_sft-0/, ...       one run of `measure_run` per model
    models/cot_sft-0/, ...       fine-tuned checkpoints
    pages/base-att_cot/, ...     comparisons; pages/base.html where nothing was fine-tuned
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.utils import cached_file

from attcot_analysis.errors import ModelError, RunError
from attcot_analysis.measures.check import check_model
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import Problem
from attcot_analysis.problems.folder import load_problems
from attcot_analysis.runs.differences import first_difference
from attcot_analysis.runs.measure import measure_run
from attcot_analysis.runs.provenance import model_record, note_sources, problems_records, versions
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.report.compare import compare_runs, report_run
from attcot_lab.arms import train_arm
from attcot_lab.run_file import RunFile, Tuning

BASE = "base"
CHECK = "check"
REFERENCE = "cot_sft"
"""The arm that the others are compared with, beside the base."""

_OF_FOLDERS = ("weights_sha256", "files")

Say = Callable[[str], object]


def follow_road(config: RunFile, *, progress: bool = False, say: Say = print) -> Path:
    """Do all that a run file asks for; called again it goes on where it was.

    Args:
        config: From `read_run_file`.
        progress: Show progress bars.
        say: Called with one line when a part is done.

    Returns:
        The folder.

    Raises:
        ModelError: If the model fails its check, or is not what its preset says.
        RunError: If the folder was begun with other settings or problems, or is in use.
        AttCoTError: As the parts raise it.
    """
    problems = load_problems(config.problems, limit=config.measure.get("items"))
    tuning = config.tuning
    training = load_problems(tuning.problems, limit=tuning.items) if tuning else []
    with RunFolder.begun(config.out, _manifest(config, problems, training), resume=True) as run:
        if training and {one.id for one in training} & {one.id for one in problems}:
            say("note: some items are both trained on and measured on; gains on them prove little")
        if config.check:
            _check(run, config, say)
        _measure(run, BASE, config.model, config, problems, progress, say)
        for name, folder in _trained(run, config, tuning, training, progress, say):
            _measure(run, name, folder, config, problems, progress, say)
        _pages(run, config, say)
    return run.path


def _manifest(config: RunFile, problems: list[Problem], training: list[Problem]) -> dict[str, Any]:
    # Where things lie is no setting; what they hold is.
    settings = asdict(config)
    for name in ("out", "problems", "compare", "check"):
        del settings[name]
    if config.tuning is not None:
        del settings["tuning"]["problems"]
    folder = Path(config.model)
    settings["model"] = folder.resolve().name if folder.is_dir() else config.model
    sets = {"test": problems, "train": training}
    return {
        "seed": config.seed,
        "config": settings,
        "models": {BASE: model_record(folder)} if folder.is_dir() else {},
        **problems_records({name: s for name, s in sets.items() if s}),
        "versions": versions(),
    }


def _commit(model: str, revision: str | None) -> str | None:
    """The commit that a hub id stands for now; ``None`` if that cannot be told."""
    try:
        found = AutoConfig.from_pretrained(model, revision=revision)
    # Whatever is wrong with it is said where it is loaded.
    except (OSError, ValueError):
        return None
    return getattr(found, "_commit_hash", None)


def _check(run: RunFolder, config: RunFile, say: Say) -> None:
    if not run.has(CHECK):
        found = check_model(config.model, revision=config.revision, dtype="float32")
        if not found.holds:
            failed = [str(check) for check in found.checks if not check.ok]
            raise ModelError(
                f"{config.model} is not read right, so it must not be measured: {failed[0]} "
                "(attcot check-model says all; check: false in the run file measures nevertheless)."
            )
        run.write_json(CHECK, {"verdict": found.verdict, "checks": list(found.checks)})
    say(f"check: {run.read_json(CHECK)['verdict']}")


def _measure(
    run: RunFolder,
    name: str,
    model: str | Path,
    config: RunFile,
    problems: list[Problem],
    progress: bool,
    say: Say,
) -> None:
    folder = run.path / name
    if RunFolder(folder).has("summary"):
        _check_measured(RunFolder(folder), model, config.revision)
    else:
        base = name == BASE
        mllm = load_mllm(model, dtype=config.dtype, revision=config.revision if base else None)
        if base and config.n_layers not in (None, mllm.n_layers):
            raise ModelError(
                f"The preset of {config.model} says {config.n_layers} layers, but it has "
                f"{mllm.n_layers}; give the hub id instead, with measure.layers."
            )
        settings = {key: value for key, value in config.measure.items() if key != "items"}
        done = measure_run(folder, mllm, problems, seed=config.seed, progress=progress, **settings)
        note_sources(done, model=model, problems=config.problems)
    say(f"measured: {folder}")


def _check_measured(run: RunFolder, model: str | Path, revision: str | None) -> None:
    """See that a model that counts as measured is the one that is there now."""
    held = run.manifest["models"]["model"]
    if Path(model).is_dir():
        now = {key: value for key, value in model_record(model).items() if key in _OF_FOLDERS}
    else:
        commit = _commit(str(model), revision)
        now = {} if commit is None else {"revision": commit}
    now = {key: value for key, value in now.items() if held.get(key) is not None}
    difference = first_difference({key: held[key] for key in now}, now)
    if difference is not None:
        raise RunError(
            f"{run.path} was measured with another model than is at {model} now: {difference}; "
            "remove that folder to measure it anew, or write to another one."
        )


def _trained(
    run: RunFolder,
    config: RunFile,
    tuning: Tuning | None,
    training: list[Problem],
    progress: bool,
    say: Say,
) -> Iterator[tuple[str, Path]]:
    """Every arm and seed fine-tuned, one after the other: its name and its checkpoint."""
    for arm, seed, name in _names(tuning):
        folder = run.path / "models" / name
        if tuning is not None and not folder.is_dir():
            train_arm(
                tuning.arms[arm],
                _base(config),
                training,
                folder,
                replace(tuning.config, seed=seed),
                save_every=tuning.save_every,
                progress=progress,
            )
        say(f"fine-tuned: {folder}")
        yield name, folder


def _base(config: RunFile) -> str:
    """What is fine-tuned: the revision that is measured, where one is named."""
    if config.revision is None or Path(config.model).is_dir():
        return config.model
    # Measuring the base has brought its files here.
    found = cached_file(config.model, "config.json", revision=config.revision)
    return str(Path(str(found)).parent)


def _names(tuning: Tuning | None) -> list[tuple[str, int, str]]:
    if tuning is None:
        return []
    return [(arm, seed, f"{arm}-{seed}") for seed in tuning.seeds for arm in tuning.arms]


def _pages(run: RunFolder, config: RunFile, say: Say) -> None:
    pages = run.path / "pages"
    if config.tuning is None:
        page = pages / f"{BASE}.html"
        values = RunFolder(run.path / BASE).table_path("values")
        if not page.exists() or page.stat().st_mtime < values.stat().st_mtime:
            report_run(
                run.path / BASE, page, problems=config.problems, seed=config.seed, overwrite=True
            )
        say(f"report: {page}")
        return
    if not config.compare:
        return
    arms = list(config.tuning.arms)
    sides = {
        arm: [run.path / name for one, _, name in _names(config.tuning) if one == arm]
        for arm in arms
    }
    sides[BASE] = [run.path / BASE]
    pairs = [(BASE, arm) for arm in arms]
    pairs += [(REFERENCE, arm) for arm in arms if REFERENCE in arms and arm != REFERENCE]
    for before, after in pairs:
        found = compare_runs(
            sides[before],
            sides[after],
            pages / f"{before}-{after}",
            names=(before, after),
            problems=config.problems,
            seed=config.seed,
        )
        say(f"{before} -> {after}: {found.answers.headline}\nreport: {found.report}")
