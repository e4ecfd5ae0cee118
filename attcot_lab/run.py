"""A plan carried out: every cell is trained, measured into a run folder of its own, and kept.

Layout of the folder::

    manifest.json, grid.json   what was asked for; what the names of arms, problems, models mean
    check.json                 whether the models are read correctly
    cells/MODEL.KIND.ARM-SEED/ one run folder per cell; its cell.json is written last
    models/MODEL.KIND.ARM-SEED/ fine-tuned checkpoints, where they are kept
    errors/                    tracebacks of cells that failed
    tables/values.parquet      the values of all cells, see `plan_values`
    pages/, report.html        what the plan's pages are, see `attcot_lab.pages`
"""

import json
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import AutoConfig
from transformers.utils import cached_file

from attcot_analysis.errors import InUseError, ModelError, RunError, one_line
from attcot_analysis.escapes import for_terminal
from attcot_analysis.files import write_bytes
from attcot_analysis.measures.check import check_model
from attcot_analysis.models import Mllm, PromptCache, load_mllm
from attcot_analysis.models.load import load_processor
from attcot_analysis.models.picture_cost import describe_cost
from attcot_analysis.problems import Problem
from attcot_analysis.problems.formats import TAGS
from attcot_analysis.runs.manifests import first_difference, recorded
from attcot_analysis.runs.measure import measure_run
from attcot_analysis.runs.provenance import (
    build_manifest,
    model_record,
    note_sources,
    problems_hash,
)
from attcot_analysis.runs.run import RunFolder, has_results, next_free
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.train.finetune import FinetuneConfig
from attcot_lab.arms import RECIPES, Arm, train_arm, training_values
from attcot_lab.jobs import run_jobs
from attcot_lab.metrics import MEASURES, headline_values
from attcot_lab.pages import PAGES, PARTS, Say
from attcot_lab.plan import Cell, Plan, ProblemSet, find_folder
from attcot_lab.testbed.named import MAIN_MODEL, TESTBED_B, TESTBED_MODELS, testbed_model

COLUMNS = ("model", "family", "scale", "kind", "arm", "seed", "item", "metric", "value")
"""Columns of the table of values."""
CHECK = "check"
_CELL = "cell"
_TRAINING = "training"
_TRAINED_WITH = {"finetune", "train_items", "train_prior", "train_sha256"}
_WORDS = ("title", "about", "look")
_OF_FOLDERS = ("weights_sha256", "files")


def run_plan(
    plan: Plan,
    folder: str | Path | None = None,
    *,
    fresh: bool = False,
    workers: int = 1,
    progress: bool = True,
    say: Say = lambda _: None,
) -> RunFolder:
    """Train and measure every cell of a plan, write the table ``values``, and its pages.

    Called again on the same folder it resumes: finished cells are kept, a cell that was killed in
    its training resumes from its last checkpoint. The plan may have grown meanwhile by models,
    problems, arms, seeds or blocks; what it had must be as it was.

    Args:
        plan: The plan.
        folder: New, empty, or of the same plan; default the plan's own ``out``.
        fresh: Leave a finished run, or that of another plan, as it is, and take the next free
            folder (``runs/reproduce-2``, ...).
        workers: Processes that share the cells, each on its share of the cores. The numbers depend
            on the threads per process in the last digits only.
        progress: Show progress.
        say: Called with one line when a part is done.

    Returns:
        The run folder, with the table ``values`` (see `plan_values`).

    Raises:
        ModelError: If a model fails its check, or is not what its preset says.
        RunError: If the folder holds another run or is in use, or if cells failed, when all others
            are done and written.
    """
    out = folder or plan.out
    if out is None:
        raise RunError("The plan names no folder; give one, as with --out FOLDER.")
    bases = {name: _base(place, plan, progress) for name, place in plan.models.items()}
    with _begun(Path(out).expanduser(), plan, bases, fresh) as run:
        _warn_of_shared_items(plan, say)
        if plan.check:
            _check_models(run, plan, bases, say)
        if plan.measure is not None:
            _say_cost(plan, bases, say)
        cells = plan.cells()
        finished = [cell for cell in cells if _is_finished(run, cell)]
        for cell in finished:
            _check_measured(run, plan, bases, cell)
        waiting = [cell for cell in cells if cell not in finished]
        quiet = not progress or workers > 1
        try:
            run_jobs(
                partial(_attempt, run.path, plan, bases, quiet),
                waiting,
                workers=min(workers, max(1, len(waiting))),
                progress=progress,
            )
        finally:
            if any(_is_finished(run, cell) for cell in cells):
                run.write_table("values", plan_values(run), overwrite=True)
        failed = [cell for cell in cells if not _is_finished(run, cell)]
        if failed:
            last = _error_file(run.path, failed[0]).read_text().strip().splitlines()[-1]
            raise RunError(
                f"{len(failed)} of {len(cells)} cells failed, the first one, {failed[0]}, with: "
                f"{last.rstrip('.')}; see {run.path / 'errors'} and run the same command again to "
                "try them again."
            )
        say(f"measured: {len(cells)} cells in {run.path / 'cells'}")
        PAGES[plan.pages](run, plan, say)
    return run


def plan_values(run: RunFolder) -> pd.DataFrame:
    """The values of all finished cells of a plan, also of one that is still running.

    Returns:
        ``model``, ``family``, ``scale``, ``kind``, ``arm``, ``seed``, ``item``, ``metric`` (a name
        in `METRICS`, or ``"chance"``), ``value``: one row per cell, item and metric. An arm that
        is not trained has seed 0, one that never saw a rationale only the metrics of direct
        answers. Items are the test items, and training questions for what the training itself
        tells (`training_values`), each in its own seed only.

    Raises:
        RunError: If no cell is finished.
    """
    # Grids of earlier versions kept one table per cell beside the table of all.
    parts = [run.read_table(name) for name in run.tables if name.startswith(f"{_CELL}.")]
    for path in sorted(run.path.glob(f"cells/*/{_CELL}.json")):
        cell = RunFolder(path.parent)
        names = cell.read_json(_CELL)
        for table in ("values", _TRAINING):
            if cell.has(table):
                values = cell.read_table(table).rename(columns={"question": "item"})
                parts.append(values.assign(**names)[list(COLUMNS)])
    if not parts:
        raise RunError(f"{run.path} has no finished cell; run the plan first.")
    keys = ["model", "kind", "arm", "seed"]
    return pd.concat(parts, ignore_index=True).sort_values(keys, kind="stable", ignore_index=True)


def _checkpoint(run: Path, plan: Plan, bases: Mapping[str, str], cell: Cell) -> str:
    """What a cell measures: its own checkpoint, or the base as it is."""
    trained = plan.arms[cell.arm].trained
    return str(cell.model_folder(run)) if trained else bases[cell.model]


def _attempt(folder: Path, plan: Plan, bases: Mapping[str, str], quiet: bool, cell: Cell) -> None:
    """Run one cell; an error is written down and does not stop the others."""
    note = _error_file(folder, cell)
    try:
        _work(RunFolder(folder), plan, bases, quiet, cell)
    except Exception as error:
        text = f"{traceback.format_exc()}\n{one_line(error)}\n"
        write_bytes(note, text.encode(errors="replace"))
        print(for_terminal(f"Cell {cell} failed: {one_line(error)}."), file=sys.stderr, flush=True)
    else:
        note.unlink(missing_ok=True)


def _work(run: RunFolder, plan: Plan, bases: Mapping[str, str], quiet: bool, cell: Cell) -> None:
    arm = plan.arms[cell.arm]
    checkpoint = _checkpoint(run.path, plan, bases, cell)
    if arm.trained and not Path(checkpoint).exists():
        _train(plan, _weights(bases[cell.model], plan.revision), Path(checkpoint), quiet, cell)
    revision = None if arm.trained else plan.revision
    mllm = load_mllm(
        checkpoint,
        dtype=plan.dtype,
        revision=revision,
        format=plan.response_format,
        **plan.limits,
    )
    if plan.n_layers not in (None, mllm.n_layers):
        raise ModelError(
            f"The preset of {bases[cell.model]} says {plan.n_layers} layers, but it has "
            f"{mllm.n_layers}; give the hub id instead, with measure.layers."
        )
    tests = _tests(plan, cell)
    done = _measured(RunFolder(cell.folder(run.path)), plan, cell, mllm, tests, not quiet)
    test = plan.problems[cell.kind].test
    if test is not None:
        note_sources(done, model=checkpoint, problems=find_folder(test))
    if arm.trained:
        training = plan.problems[cell.kind].training_problems(cell.seed)
        values = training_values(arm, bases[cell.model], training, checkpoint)
        if len(values):
            # Its items are not the run's.
            questions = values.rename(columns={"item": "question"})
            done.write_table(_TRAINING, questions, overwrite=True)
        own = RECIPES[arm.recipe].tables
        if own is not None:
            tables = own(mllm, tests.problems, done.read_table("answers_cot"))
            for name, table in tables.items():
                done.write_table(name, table, overwrite=True)
    family, _, scale = cell.model.rpartition("-")
    done.write_json(_CELL, {**asdict(cell), "family": family, "scale": scale}, overwrite=True)
    if arm.trained and not plan.keep_models:
        shutil.rmtree(checkpoint)


def _train(plan: Plan, base: str, checkpoint: Path, quiet: bool, cell: Cell) -> None:
    checkpoint.parent.mkdir(exist_ok=True)
    problems = plan.problems[cell.kind]
    train_arm(
        plan.arms[cell.arm],
        base,
        problems.training_problems(cell.seed),
        checkpoint,
        replace(problems.training(cell.seed), **plan.limits),
        save_every=plan.save_every,
        format=plan.response_format,
        progress=not quiet,
    )


def _measured(
    run: RunFolder, plan: Plan, cell: Cell, mllm: Mllm, tests: "_Tests", progress: bool
) -> RunFolder:
    """The cell's run folder with a table ``values``: of the full suite, or of its headlines."""
    length: dict[str, Any] = {"batch_size": plan.batch_size, "max_new_tokens": plan.max_new_tokens}
    if plan.measure is not None:
        return measure_run(
            run.path,
            mllm,
            tests.problems,
            seed=plan.seed,
            progress=progress,
            **length,
            **plan.measure.options(),
        )
    arm = plan.arms[cell.arm]
    config = {**length, "mode": arm.mode, "measures": list(plan.measures)}
    manifest = build_manifest(
        seed=cell.seed, config=config, models={"model": mllm}, data={"test": tests.problems}
    )
    with RunFolder.begun(run.path, manifest, resume=True):
        values = headline_values(
            replace(mllm, cache=tests.cache),
            tests.problems,
            mode=arm.mode,
            measures=plan.measures,
            **length,
        )
        run.write_table("values", values, overwrite=True)
    return run


@dataclass(frozen=True)
class _Tests:
    """What the cells of one model and kind share: fine-tuning leaves the processor as it is."""

    key: tuple[str, ...]
    problems: list[Problem]
    cache: PromptCache


_LAST: list[_Tests] = []
"""Those of this process's last cell; cells that share them follow each other."""


def _tests(plan: Plan, cell: Cell) -> _Tests:
    problems = plan.problems[cell.kind]
    key = (cell.model, repr((problems, plan.items, plan.test_seed)))
    if not _LAST or _LAST[0].key != key:
        tests = problems.test_problems(plan.items, plan.test_seed)
        _LAST[:] = [_Tests(key, tests, PromptCache())]
    return _LAST[0]


# --- what a run is begun and resumed with ---------------------------------------------------------


@contextmanager
def _begun(folder: Path, plan: Plan, bases: Mapping[str, str], fresh: bool) -> Iterator[RunFolder]:
    """The run folder, locked: a new one, or that of the same plan."""
    with ExitStack() as held:
        # A page over everything is the last thing that is written.
        if fresh and (folder / "results.json").exists():
            folder = next_free(folder)
        try:
            run = held.enter_context(RunFolder.begun(folder, _manifest(plan), resume=True))
            _note_parts(run, plan, bases)
        except InUseError:
            raise
        except RunError as error:
            if not fresh:
                raise
            held.close()
            print(f"{error} Starting a new folder.", flush=True)
            run = held.enter_context(RunFolder.begun(next_free(folder), _manifest(plan)))
            _note_parts(run, plan, bases)
        yield run


def _manifest(plan: Plan) -> dict[str, Any]:
    names = ("items", "test_seed", "batch_size", "max_new_tokens", "dtype")
    config: dict[str, Any] = {name: getattr(plan, name) for name in names}
    config |= plan.limits
    if plan.response_format != TAGS:
        config["format"] = plan.response_format.record()
    if plan.measure is not None:
        config["measure"] = plan.measure.options()
    elif plan.measures != list(MEASURES):
        config["measures"] = plan.measures
    return build_manifest(seed=plan.seed, config=config)


def _base(place: str, plan: Plan, progress: bool) -> str:
    """The checkpoint folder or hub id of one of a plan's models."""
    if Path(place).is_dir():
        return place
    if place == MAIN_MODEL:
        return str(shipped(TESTBED_MODEL))
    if place in TESTBED_MODELS or place in TESTBED_B:
        return str(testbed_model(place, progress=progress))
    if "/" in place and not place.startswith((".", "/")):
        return place
    raise RunError(
        f"{place} is neither a checkpoint folder nor a testbed model, a preset or a hub id "
        f"(OWNER/NAME); testbed models are {', '.join((*TESTBED_MODELS, *TESTBED_B, MAIN_MODEL))}."
    )


def _weights(base: str, revision: str | None) -> str:
    """What is fine-tuned: the revision that is measured, where one is named."""
    if revision is None or Path(base).is_dir():
        return base
    return str(Path(str(cached_file(base, "config.json", revision=revision))).parent)


def _commit(model: str, revision: str | None) -> str | None:
    """The commit that a hub id stands for now; ``None`` if that cannot be told."""
    try:
        found = AutoConfig.from_pretrained(model, revision=revision)
    # Whatever is wrong with it is said where it is loaded.
    except (OSError, ValueError):
        return None
    return getattr(found, "_commit_hash", None)


def _say_cost(plan: Plan, bases: Mapping[str, str], say: Say) -> None:
    for name, base in bases.items():
        mllm = load_processor(base, revision=plan.revision, **plan.limits)
        for kind, problems in plan.problems.items():
            sizes = [one.size for one in problems.test_problems(plan.items, plan.test_seed)]
            say(f"{name}, {kind}: {describe_cost(mllm, sizes)}")


def _check_models(run: RunFolder, plan: Plan, bases: Mapping[str, str], say: Say) -> None:
    verdicts = run.read_json(CHECK) if run.has(CHECK) else {}
    digest = run.manifest.get("digest")
    for name, base in bases.items():
        # Settings may have been corrected since.
        if verdicts.get(name, {}).get("digest", digest) != digest:
            del verdicts[name]
        if name not in verdicts:
            found = check_model(
                base,
                revision=plan.revision,
                dtype="float32",
                format=plan.response_format,
                **plan.limits,
            )
            if not found.holds:
                failed = [str(check) for check in found.checks if not check.ok]
                raise ModelError(
                    f"{base} is not read correctly, so it must not be measured: {failed[0]} "
                    "(attcot check-model says all; check: false in the plan measures nevertheless)."
                )
            checks = list(found.checks)
            verdicts[name] = {"verdict": found.verdict, "checks": checks, "digest": digest}
            run.write_json(CHECK, verdicts, overwrite=True)
        say(f"check: {verdicts[name]['verdict']}")


def _check_measured(run: RunFolder, plan: Plan, bases: Mapping[str, str], cell: Cell) -> None:
    """See that a model that counts as measured is the one that is there now."""
    measured = RunFolder(cell.folder(run.path))
    model = _checkpoint(run.path, plan, bases, cell)
    held = measured.manifest["models"]["model"]
    if Path(model).is_dir():
        now = {key: value for key, value in model_record(model).items() if key in _OF_FOLDERS}
    elif plan.arms[cell.arm].trained:
        return
    else:
        commit = _commit(model, plan.revision)
        now = {} if commit is None else {"revision": commit}
    now = {key: value for key, value in now.items() if held.get(key) is not None}
    difference = first_difference({key: held[key] for key in now}, now)
    if difference is not None:
        raise RunError(
            f"{measured.path} was measured with another model than is at {model} now: "
            f"{difference}; remove that folder to measure it anew, or write to another one."
        )


def _warn_of_shared_items(plan: Plan, say: Say) -> None:
    for problems in plan.problems.values():
        if problems.train is not None and problems.test is not None:
            test = problems.test_problems(plan.items, plan.test_seed)
            ids = {problem.id for problem in test}
            if any(problem.id in ids for problem in problems.training_problems(0)):
                say(
                    "note: some items are both trained on and measured on; gains on them prove "
                    "little"
                )


def _note_parts(run: RunFolder, plan: Plan, bases: Mapping[str, str]) -> None:
    """Note what the names in the table stand for, and see that none has changed its meaning."""
    now: dict[str, dict[str, Any]] = _plain(
        {
            "arms": {name: arm.model_dump() for name, arm in plan.arms.items()},
            "kinds": {name: _record(plan, one) for name, one in plan.problems.items()},
            "models": {
                name: model_record(base) if Path(base).is_dir() else {"name": base}
                for name, base in bases.items()
            },
        }
    )
    before = run.read_json(PARTS) if run.has(PARTS) else {part: {} for part in now}
    defaults = {
        "arms": Arm(name="name", title="title", about="about").model_dump(),
        "kinds": {"finetune": asdict(FinetuneConfig())},
        "models": {},
    }
    if not isinstance(before, dict) or not all(isinstance(before.get(part), dict) for part in now):
        raise RunError(
            f"{run.path / PARTS}.json is damaged: it does not say what {', '.join(now)} are; "
            f"write to {next_free(run.path)} instead."
        )
    for part, entries in now.items():
        for name, entry in entries.items():
            held = before[part].get(name, entry)
            same = _same(held, recorded(held, entry), _plain(defaults[part]))
            if not same and _had_effect(run, plan, part, name, held, entry):
                difference = first_difference(held, recorded(held, entry))
                raise RunError(
                    f"{run.path} cannot be resumed: it was begun with another "
                    f"{part.removesuffix('s')} {name} ({difference}); write to "
                    f"{next_free(run.path)} instead."
                )
            run.warn_of_unknown(held, entry)
    merged = {part: {**before[part], **entries} for part, entries in now.items()}
    if merged != before:
        run.write_json(PARTS, merged, overwrite=True)


def _had_effect(
    run: RunFolder, plan: Plan, part: str, name: str, held: Any, entry: Mapping[str, Any]
) -> bool:
    """Whether something was computed with what a name stood for.

    What is only trained with has no effect on arms without training.
    """
    place = {"models": f"*{name}.*", "kinds": f"*.{name}.*", "arms": f"*.{name}-*"}[part]
    held = held if isinstance(held, dict) else {}
    changed = {key for key in {*held, *entry} if held.get(key) != entry.get(key)}
    untrained = tuple(f".{arm}-0" for arm, one in plan.arms.items() if not one.trained)
    return any(
        has_results(folder)
        for kind in ("cells", "models")
        for folder in run.path.joinpath(kind).glob(place)
        if not (changed <= _TRAINED_WITH and folder.name.endswith(untrained))
    )


def _record(plan: Plan, problems: ProblemSet) -> dict[str, Any]:
    """Problems as they are noted: where they lie is no setting, what they hold is."""
    record = problems.model_dump(exclude={"test", "train", "kind"}) | {"name": problems.kind}
    test = problems.test_problems(plan.items, plan.test_seed)
    record["test_sha256"] = problems_hash(test)
    if problems.train is not None:
        record["train_sha256"] = problems_hash(problems.training_problems(0))
    return record


def _same(before: Any, now: Any, default: Any) -> bool:
    """Whether two records mean the same; a setting that is new must have its default."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return bool(before == now)
    default = default if isinstance(default, dict) else {}
    return set(before) <= set(now) and all(
        _same(before[key], now[key], default.get(key))
        if key in before
        else now[key] == default.get(key)
        for key in now
        if key not in _WORDS
    )


def _plain(record: Any) -> Any:
    """The record as it is read from JSON."""
    return json.loads(json.dumps(record))


def _is_finished(run: RunFolder, cell: Cell) -> bool:
    return RunFolder(cell.folder(run.path)).has(_CELL)


def _error_file(folder: Path, cell: Cell) -> Path:
    return folder / "errors" / f"{cell}.txt"
