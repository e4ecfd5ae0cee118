"""A grid of training runs: every cell is fine-tuned, measured, and kept as values per item."""

import json
import shutil
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from attcot_analysis.errors import RunError
from attcot_analysis.models import PromptMemory, load_mllm, remembering
from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import EditedImage
from attcot_analysis.runs.differences import first_difference, told
from attcot_analysis.runs.headline import MEASURES, headline_edits, headline_values
from attcot_analysis.runs.provenance import build_manifest, model_record, problems_hash
from attcot_analysis.runs.run import RunFolder, next_free, one_line
from attcot_analysis.train.finetune import FinetuneConfig
from attcot_lab.arms import Arm, train_arm, training_values
from attcot_lab.grid_config import Cell, GridConfig, read_grid
from attcot_lab.jobs import run_jobs
from attcot_lab.testbed.build import TESTBED_MODELS, testbed_model

__all__ = ["Cell", "GridConfig", "grid_values", "read_grid", "run_grid"]

COLUMNS = ("model", "family", "scale", "kind", "arm", "seed", "item", "metric", "value")
"""Columns of the table of values."""
_CELL = "cell."
_WORDS = ("title", "about")
PARTS = "grid"
"""Name of the file that says what the arms, kinds and models of the table are."""


def run_grid(
    folder: str | Path,
    config: GridConfig,
    *,
    workers: int = 1,
    progress: bool = True,
) -> RunFolder:
    """Run every cell of a grid and write the table ``values``.

    Called again on the same folder it goes on: finished cells are kept, a cell that was killed in
    its training goes on from its last checkpoint. The grid may have grown meanwhile by models,
    kinds, arms, seeds or blocks; what it had must be as it was.

    Args:
        folder: New, empty, or of the same grid.
        config: The grid.
        workers: Processes that share the cells.
        progress: Show progress.

    Returns:
        The run folder, with the table ``values`` (see `grid_values`).

    Raises:
        RunError: If the folder holds another run, or if cells failed, when all others are done
            and written.
    """
    folders = {name: _model_folder(path, progress) for name, path in config.models.items()}
    with RunFolder.begun(folder, _manifest(config), resume=True) as run:
        _note_parts(run, config, folders)
        cells = config.cells()
        open_cells = [cell for cell in cells if not run.has(_CELL + str(cell))]
        quiet = not progress or workers > 1
        try:
            run_jobs(
                partial(_attempt, run.path, config, folders, quiet),
                open_cells,
                workers=min(workers, max(1, len(open_cells))),
                progress=progress,
            )
        finally:
            if any(run.has(_CELL + str(cell)) for cell in cells):
                run.write_table("values", grid_values(run), overwrite=True)
    failed = [cell for cell in cells if not run.has(_CELL + str(cell))]
    if failed:
        last = _error_file(run.path, failed[0]).read_text().strip().splitlines()[-1]
        raise RunError(
            f"{len(failed)} of {len(cells)} cells failed, the first one, {failed[0]}, with: "
            f"{last.rstrip('.')}; see {run.path / 'errors'} and run the same command again to try "
            "them again."
        )
    return run


def grid_values(run: RunFolder) -> pd.DataFrame:
    """The values of all finished cells of a grid, also of one that is still running.

    Returns:
        ``model``, ``family``, ``scale``, ``kind``, ``arm``, ``seed``, ``item``, ``metric`` (a name
        in `METRICS`, or ``"chance"``), ``value``: one row per cell, item and metric. An arm that
        is not trained has seed 0, one that never saw a rationale only the metrics of direct
        answers. Items are the test items, and training questions for what the training itself
        tells (`training_values`), each in its own seed only.

    Raises:
        RunError: If no cell is finished.
    """
    names = [name for name in run.tables if name.startswith(_CELL)]
    if not names:
        raise RunError(f"{run.path} has no finished cell; run the grid first.")
    table = pd.concat([run.read_table(name) for name in names], ignore_index=True)
    keys = ["model", "kind", "arm", "seed"]
    return table.sort_values(keys, kind="stable", ignore_index=True)


def _attempt(
    folder: Path, config: GridConfig, folders: Mapping[str, Path], quiet: bool, cell: Cell
) -> None:
    """Run one cell; an error is written down and does not stop the others."""
    note = _error_file(folder, cell)
    try:
        _work(folder, config, folders, quiet, cell)
    except Exception as error:
        note.parent.mkdir(exist_ok=True)
        note.write_text(f"{traceback.format_exc()}\n{one_line(error)}\n")
        print(f"Cell {cell} failed: {one_line(error)}.", file=sys.stderr, flush=True)
    else:
        note.unlink(missing_ok=True)


def _work(
    folder: Path, config: GridConfig, folders: Mapping[str, Path], quiet: bool, cell: Cell
) -> None:
    run, arm = RunFolder.open(folder), config.arms[cell.arm]
    checkpoint = folders[cell.model]
    if arm.trained:
        checkpoint = folder / "models" / str(cell)
        if not checkpoint.exists():
            _train(config, folders[cell.model], checkpoint, quiet, cell)
    tests = _tests(config, cell)
    with remembering(tests.memory):
        values = headline_values(
            load_mllm(checkpoint, dtype=torch.float32),
            tests.problems,
            mode=arm.mode,
            measures=config.measures,
            edited=tests.edited,
            batch_size=config.batch_size,
            max_new_tokens=config.max_new_tokens,
        )
    if arm.trained:
        told = _told(config, folders[cell.model], checkpoint, cell)
        values = pd.concat([values, told], ignore_index=True) if len(told) else values
    family, _, scale = cell.model.rpartition("-")
    names = {**asdict(cell), "family": family, "scale": scale}
    run.write_table(_CELL + str(cell), values.assign(**names)[list(COLUMNS)])
    if arm.trained and not config.keep_models:
        shutil.rmtree(checkpoint)


def _train(config: GridConfig, base: Path, checkpoint: Path, quiet: bool, cell: Cell) -> None:
    checkpoint.parent.mkdir(exist_ok=True)
    training = _training(config, cell)
    with remembering(training.memory):
        train_arm(
            config.arms[cell.arm],
            base,
            training.problems,
            checkpoint,
            config.kinds[cell.kind].training(cell.seed),
            save_every=config.save_every,
            progress=not quiet,
        )


def _told(config: GridConfig, base: Path, checkpoint: Path, cell: Cell) -> pd.DataFrame:
    """What the cell's training tells beside its model."""
    training = _training(config, cell)
    with remembering(training.memory):
        return training_values(config.arms[cell.arm], base, training.problems, checkpoint)


@dataclass(frozen=True)
class _Shared:
    """What the cells of one model and kind share: fine-tuning leaves the processor as it is."""

    key: tuple[str, ...]
    problems: list[Problem]
    edited: list[EditedImage]
    memory: PromptMemory


_LAST: dict[str, _Shared] = {}
"""Those of this process's last cell; cells that share them follow each other."""


def _tests(config: GridConfig, cell: Cell) -> _Shared:
    kind = config.kinds[cell.kind]
    key = (cell.model, repr((kind, config.items, config.test_seed, config.measures)))
    if "test" not in _LAST or _LAST["test"].key != key:
        problems = kind.test_problems(config.items, config.test_seed)
        edited = headline_edits(problems) if "dependence" in config.measures else []
        _LAST["test"] = _Shared(key, problems, edited, PromptMemory())
    return _LAST["test"]


def _training(config: GridConfig, cell: Cell) -> _Shared:
    kind = config.kinds[cell.kind]
    key = (cell.model, repr(kind), str(cell.seed))
    if "train" not in _LAST or _LAST["train"].key != key:
        _LAST["train"] = _Shared(key, kind.training_problems(cell.seed), [], PromptMemory())
    return _LAST["train"]


def _model_folder(path: str, progress: bool) -> Path:
    if Path(path).is_dir():
        return Path(path)
    if path in TESTBED_MODELS:
        return testbed_model(path, progress=progress)
    raise RunError(
        f"{path} is neither a checkpoint folder nor a testbed model; the latter are "
        f"{', '.join(TESTBED_MODELS)}."
    )


def _manifest(config: GridConfig) -> dict[str, Any]:
    common = {
        name: getattr(config, name)
        for name in ("items", "test_seed", "batch_size", "max_new_tokens")
    }
    # Left out as long as it is the default, so that grids begun before there was a choice go on.
    if config.measures != MEASURES:
        common["measures"] = list(config.measures)
    return build_manifest(seed=config.test_seed, config=common)


def _note_parts(run: RunFolder, config: GridConfig, folders: Mapping[str, Path]) -> None:
    """Note what the names in the table stand for, and see that none has changed its meaning."""
    now: dict[str, dict[str, Any]] = {
        "arms": {name: asdict(arm) for name, arm in config.arms.items()},
        "kinds": {
            name: {
                **asdict(kind),
                "test_sha256": problems_hash(kind.test_problems(config.items, config.test_seed)),
            }
            for name, kind in config.kinds.items()
        },
        "models": {name: model_record(path) for name, path in folders.items()},
    }
    now = _plain(now)
    before = run.read_json(PARTS) if run.has(PARTS) else {part: {} for part in now}
    defaults = {
        "arms": asdict(Arm("name", "title", "about")),
        "kinds": {"finetune": asdict(FinetuneConfig())},
        "models": {},
    }
    for part, entries in now.items():
        for name, entry in entries.items():
            held = before[part].get(name, entry)
            if not _same(held, told(held, entry), _plain(defaults[part])):
                difference = first_difference(held, entry) if part == "models" else None
                raise RunError(
                    f"{run.path} was begun with another {part.removesuffix('s')} {name} "
                    f"({difference or f'see its {PARTS}.json'}); write to {next_free(run.path)} "
                    "instead."
                )
            run.warn_of_unknown(held, entry)
    merged = {part: {**before[part], **entries} for part, entries in now.items()}
    if merged != before:
        run.write_json(PARTS, merged, overwrite=True)


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


def _error_file(folder: Path, cell: Cell) -> Path:
    return folder / "errors" / f"{cell}.txt"
