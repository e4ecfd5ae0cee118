"""`RunFolder`: tables and results of one run, written so that a failure loses nothing.

Layout::

    manifest.json          what the run was made with
    <name>.json            results
    tables/<name>.parquet  a table in one file
    tables/<name>/         a table in parts, and
    arrays/<name>/         arrays beside it: see `attcot_analysis.runs.parts`

Every file is written beside its place and moved there when complete, so what is there is whole.
"""

import dataclasses
import json
import math
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attcot_analysis.errors import RunError, one_line, passing, writing
from attcot_analysis.files import (
    LOCK,
    check_free,
    locked,
    no_linked_folders,
    not_there,
    own_folder,
    path_of,
    regular,
    write_whole,
)
from attcot_analysis.runs.manifests import (
    COMPARED,
    ITEMS,
    NOTED,
    changed_versions,
    first_difference,
    manifest_digest,
    not_recorded,
)
from attcot_analysis.runs.parts import Array, Parts, damaged, frame_of
from attcot_analysis.runs.table_checks import (
    MARK,
    SAMPLE,
    UNREADABLE,
    TableCheck,
    check_columns,
    check_mark,
    read_parquet,
)

MANIFEST = "manifest"
MADE_WITH = "made_with"
"""Note of the model, items and settings that `measure` was called with."""
RESPONSES = "answers_cot"
"""The table of the responses that the others are measured on."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


class RunFolder:
    """One run's folder; make it with `create` or `open`.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Point at a folder without touching it."""
        self.path = path_of(path)

    def __repr__(self) -> str:
        """Name the folder."""
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(
        cls, path: str | Path, manifest: Mapping[str, Any], *, resume: bool = False
    ) -> "RunFolder":
        """Make a new run folder, or resume one that was interrupted; see `begun`."""
        with cls.begun(path, manifest, resume=resume, correct=False) as run:
            return run

    @classmethod
    @contextmanager
    def begun(
        cls,
        path: str | Path,
        manifest: Mapping[str, Any],
        *,
        resume: bool = False,
        correct: bool = True,
    ) -> Iterator["RunFolder"]:
        """Make a new run folder, or resume one, and keep other runs out of it while inside.

        The folder is locked before it is decided whose it is, so that of several that begin at
        the same moment one does, and the others are refused or find its manifest.

        Args:
            path: New or empty folder; with `resume` also one of an earlier run.
            manifest: From `build_manifest`; the time is added.
            resume: Resume the folder's run if its manifest has the same seed, config, models and
                data; other package versions or another number of processes are noted in it.
            correct: Take over other settings, too, as long as nothing was computed with the old.

        Raises:
            InUseError: If another process is writing to the folder.
            RunError: If the folder holds something and is not to be, or cannot be, resumed.
        """
        run = cls(path)
        new = _plain({"created": _now(), **manifest}, "manifest")
        run._check_free(resume)
        with run.locked():
            run._check_free(resume)
            no_linked_folders(run.path)
            if run.has(MANIFEST):
                run._resume(new, correct)
            else:
                run.write_json(MANIFEST, new | {"digest": manifest_digest(new)})
            yield run

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open the folder of an earlier run to read it.

        Raises:
            RunError: If there is none, or its manifest is damaged.
        """
        run = cls(path)
        if not run.path.exists():
            raise RunError(not_there(run.path))
        if not run.has(MANIFEST):
            raise RunError(f"{run.path} is no run folder: it has no manifest.json.")
        run.read_json(MANIFEST)
        return run

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs from writing to the folder while inside; a dead one holds no lock.

        Raises:
            RunError: On entering, if another process is writing to it.
        """
        return locked(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run was made with."""
        manifest = self.read_json(MANIFEST)
        if not isinstance(manifest, dict):
            raise RunError(f"{self._json(MANIFEST)} is damaged: it holds no JSON object.")
        return manifest

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are there, whole."""
        paths = list((self.path / "tables").glob("*"))
        files = {path.stem for path in paths if path.suffix == ".parquet" and path.is_file()}
        in_parts = {path.name for path in paths if Parts(self.path, path.name, b"").complete}
        return sorted(files | in_parts)

    def table_path(self, name: str) -> Path:
        """Where a table of that name lies, or would lie, if it is in one file."""
        return self._table(name)

    def parts(self, name: str) -> Parts:
        """A table of that name that lies, or is to be written, in parts."""
        return Parts(self.path, _checked(name), self._mark(name))

    def has(self, name: str) -> bool:
        """Whether a table or JSON file of that name is there (whole, as all files are)."""
        if self._table(name).is_file() or self._json(name).is_file():
            return True
        return Parts(self.path, name, b"").complete

    def write_table(self, name: str, table: pd.DataFrame, *, overwrite: bool = False) -> Path:
        """Write a table into one file; its row index is not kept.

        Raises:
            RunError: If it is there already (and not `overwrite`), or cannot be written as
                parquet.
        """
        path, parts = self._table(name), self.parts(name)
        check_free(parts.path if parts else path, overwrite)
        if any(level is not None for level in table.index.names):
            raise RunError(
                f"Table {name} has the named index {list(table.index.names)}, which would be "
                "lost; call reset_index() first."
            )
        try:
            content = pa.Table.from_pandas(table, preserve_index=False)
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise passing(error, path) or RunError(
                f"Table {name} cannot be written as parquet: {one_line(error)}."
            ) from error
        content = content.replace_schema_metadata(
            {**(content.schema.metadata or {}), MARK: self._mark(name)}
        )
        write_whole(path, lambda part: pq.write_table(content, part))
        if parts:
            shutil.rmtree(parts.path)
        return path

    def read_table(self, name: str) -> pd.DataFrame:
        """Read a table; cells that held lists hold lists again.

        Raises:
            RunError: If it is missing or damaged.
        """
        table = self._rows(name)
        if table is None:
            raise RunError(
                f"{self.path} has no table {name}; it has {', '.join(self.tables) or 'none'}."
            )
        check = self._check(name)
        check.rows(table)
        check.whole()
        return table

    def read_blocks(self, name: str) -> Iterator[pd.DataFrame]:
        """Read a table so that little of it is in memory at a time: one part after the other.

        Yields:
            Rows as `read_table` gives them, all of an item in one block; blocks in any order.

        Raises:
            RunError: If it is missing or damaged.
        """
        parts = self.parts(name)
        if self._table(name).is_file() or not parts:
            yield self.read_table(name)
            return
        check = self._check(name)
        for block in parts.blocks():
            check.rows(block)
            yield block
        check.whole()

    def read_arrays(self, name: str, items: Collection[str] | None = None) -> dict[str, Array]:
        """Read the arrays that lie beside a table.

        Args:
            name: Of the table.
            items: Of these items only; default all that have one.

        Raises:
            RunError: If there are none, an item has none, or a file is damaged.
        """
        return self.parts(name).arrays(items)

    def _rows(self, name: str) -> pd.DataFrame | None:
        """A table as it lies there, seen to be of this run; ``None`` if there is none."""
        path, parts = self._table(name), self.parts(name)
        if not path.is_file():
            return parts.frame() if parts else None
        try:
            content = read_parquet(path)
            table = frame_of(content)
        except UNREADABLE as error:
            raise damaged(path, error) from error
        check_columns(path, name, content)
        mark = (content.schema.metadata or {}).get(MARK)
        if mark is not None or (self.has(MANIFEST) and self.manifest.get(ITEMS)):
            unmarked = check_mark(path, mark, self._mark(name))
            if unmarked is not None:
                warnings.warn(unmarked, stacklevel=3)
        return table

    def _check(self, name: str) -> TableCheck:
        """What a table that is read must hold."""
        file = self._table(name)
        path = file if file.is_file() else self.parts(name).path
        manifest = self.manifest if self.has(MANIFEST) else {}
        made, responses = (
            f"{name.rpartition('.')[0]}.{one}".lstrip(".") for one in (MADE_WITH, RESPONSES)
        )
        if self._json(made).is_file() and isinstance(noted := self.read_json(made), dict):
            manifest = {**manifest, "config": noted.get("config")}
        answers = self._rows(responses) if responses != name else None
        if answers is None or not {"item", "n_steps"} <= set(answers):
            return TableCheck(path, name, manifest, None)
        known = [name for name in ("item", "n_steps", SAMPLE) if name in answers]
        return TableCheck(path, name, manifest, answers[known])

    def _digest(self) -> str:
        """Digest of what the run was begun with."""
        manifest = self.manifest if self.has(MANIFEST) else {}
        return str(manifest.get("digest") or manifest_digest(manifest))

    def _mark(self, name: str) -> bytes:
        """What a table of the run says of itself, by the key `MARK`."""
        return f"{self._digest()} {name}".encode()

    def table(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Read a table if it is there, else compute and write it: what makes a run resumable."""
        if name not in self.tables:
            self.write_table(name, make())
        return self.read_table(name)

    def write_json(self, name: str, data: object, *, overwrite: bool = False) -> Path:
        """Write results as JSON; NaN and infinities become null, dataclasses objects.

        Raises:
            RunError: If it is there already (and not `overwrite`), or a value has no JSON form.
        """
        path = self._json(name)
        check_free(path, overwrite)
        text = json.dumps(_plain(data, name), indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
        return path

    def read_json(self, name: str) -> Any:
        """Read a JSON file.

        Raises:
            RunError: If it is missing or damaged.
        """
        path = self._json(name)
        try:
            data = json.loads(regular(path).read_text(encoding="utf-8"))
            json.dumps(data, ensure_ascii=False).encode()  # Refuses half characters.
            return data
        except FileNotFoundError:
            raise RunError(f"{self.path} has no {path.name}.") from None
        except (OSError, ValueError, RecursionError) as error:
            raise passing(error, path) or RunError(
                f"{path} is damaged ({one_line(error)})."
            ) from error

    def _check_free(self, resume: bool) -> None:
        """See that the folder is new, empty or, with `resume`, a run's."""
        with writing(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise RunError(f"{self.path} is a file; choose another path for the run.")
            occupied = _occupied(self.path)
        if occupied and not self.has(MANIFEST):
            raise RunError(
                f"{self.path} holds files but no manifest.json, so it is no run; "
                "choose another path."
            )
        if occupied and not resume:
            raise RunError(
                f"{self.path} holds a run already; pass resume=True to resume it, or write to "
                f"{next_free(self.path)}."
            )

    def _resume(self, new: Mapping[str, Any], correct: bool) -> None:
        old = self.manifest
        before, now = ({key: held[key] for key in COMPARED if key in held} for held in (old, new))
        if correct and before != now and not has_results(self.path):
            self.write_json(MANIFEST, {**new, "digest": manifest_digest(new)}, overwrite=True)
            return
        self._check_same(before, now)
        resumed = old.get("resumed", [])
        if not isinstance(resumed, list) or not all(isinstance(one, dict) for one in resumed):
            raise RunError(f"{self._json(MANIFEST)} is damaged: 'resumed' holds no list of notes.")
        last = {**old, **(resumed[-1] if resumed else {})}
        if any(last.get(key) != new.get(key) for key in NOTED):
            changed = changed_versions(last, new)
            if changed:
                warnings.warn(
                    f"{self.path} was begun with {'; '.join(changed)}: what is computed from here "
                    "on can differ in its last digits, or in its definition.",
                    stacklevel=5,
                )
            note = {key: new[key] for key in ("created", *NOTED) if key in new}
            self.write_json(MANIFEST, {**old, "resumed": [*resumed, note]}, overwrite=True)

    def made_with(self, name: str, record: Mapping[str, Any]) -> None:
        """Record what some tables of the run are made with, or check that it is still the same.

        Args:
            name: Of the record, a JSON file.
            record: JSON values.

        Raises:
            RunError: If it is another one than was recorded.
        """
        new = _plain(record, name)
        if self._json(name).is_file() and has_results(self.path):
            self._check_same(self.read_json(name), new)
        else:
            self.write_json(name, new, overwrite=True)

    def _check_same(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        difference = first_difference(old, new)
        if difference is not None:
            raise RunError(
                f"{self.path} cannot be resumed: {difference}; write to {next_free(self.path)} "
                "instead."
            )
        self.warn_of_unknown(old, new)

    def warn_of_unknown(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """Warn of what an earlier version did not record, so that it is not compared."""
        unknown = not_recorded(old, new)
        if unknown:
            warnings.warn(
                f"{self.path} was begun before {' and '.join(unknown)} were noted, so whether they "
                "have changed since cannot be checked; write to a new folder to be sure.",
                stacklevel=5,
            )

    def add(self, config: Mapping[str, Any], what: Sequence[str]) -> None:
        """Say in the manifest that more is measured, and when, than the run was begun for.

        Args:
            config: The settings of all that is there then.
            what: What comes to it.
        """
        manifest = {**self.manifest, "digest": self._digest(), "config": config}
        entry = {"created": _now(), "what": what}
        self.write_json(
            MANIFEST, manifest | {"added": [*manifest.get("added", []), entry]}, overwrite=True
        )

    def note(self, key: str, value: object) -> None:
        """Add to the manifest something about how the run went, which is never compared."""
        self.write_json(MANIFEST, {**self.manifest, key: value}, overwrite=True)

    def _table(self, name: str) -> Path:
        return own_folder(self.path, "tables") / f"{_checked(name)}.parquet"

    def _json(self, name: str) -> Path:
        return self.path / f"{_checked(name)}.json"


def has_results(folder: Path) -> bool:
    """Whether anything was computed into a folder: a table, arrays, or weights."""
    kinds = ("*.parquet", "*.safetensors")
    return any(True for kind in kinds for _ in folder.rglob(kind))


def next_free(path: str | Path) -> Path:
    """The first of ``path``, ``path-2``, ``path-3``, ... that is new or an empty folder."""
    first = path_of(path)
    candidate, number = first, 1
    while _occupied(candidate):
        number += 1
        candidate = first.with_name(f"{first.name}-{number}")
    return candidate


def _occupied(path: Path) -> bool:
    """Whether there is anything but what a run leaves that was killed before its first file."""
    if not path.is_dir():
        return path.exists()
    names = [child.name for child in path.iterdir()]
    return any(name != LOCK and not re.fullmatch(r"\..*\.part", name) for name in names)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise RunError(
            f"{name!r} cannot name a table or result; use letters, digits, '.', '_' and '-', "
            "starting with a letter or digit, without folder or ending."
        )
    return name


def _plain(value: Any, where: str) -> Any:
    """The value as JSON can hold it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence | set | frozenset):
        entries = value if isinstance(value, Sequence) else sorted(value)
        return [_plain(entry, f"{where}[{at}]") for at, entry in enumerate(entries)]
    raise RunError(f"{where} is a {type(value).__name__}, which has no JSON form; convert it.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
