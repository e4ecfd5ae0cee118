"""`Records`: one table of a run, kept part by part while it is computed, then merged by item.

Layout inside the run folder::

    parts/<name>/<number>-<hash>.parquet       rows of some items; gone once merged
    arrays/<name>/<number>-<hash>.safetensors  arrays of some items, by item
    arrays/<name>/index.json                   which of these files holds which item
    tables/<name>.parquet                      the rows of all items, in their order

A part is one file that is there whole or not at all; the hash in its name is that of its content,
so that damage is found. It lists its items, so that those without rows count as computed too.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from attcot_analysis.errors import RunError, passing
from attcot_analysis.files import write_whole
from attcot_analysis.runs.run import UNREADABLE, RunFolder, damaged, frame_of, one_line
from attcot_analysis.runs.table_checks import MARK
import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError
from attcot_analysis.errors import RunError, lacks_memory, passing
from attcot_analysis.files import remove_unfinished, write_whole
from attcot_analysis.runs.run import RunFolder, frame_of, one_line


META = b"attcot"

"""Key of what a part says about itself."""



def stretches(parts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Parts of a table in as many groups as there can be whose items follow one another.

    Args:
        parts: The places of each part's items; every place from 0 on is in one of them.

    Yields:
        Which parts belong together, groups in the order of their items.
    """
    group: list[int] = []
    seen = reach = 0
    for at in sorted(range(len(parts)), key=lambda at: min(parts[at])):
        group.append(at)
        seen += len(parts[at])
        reach = max(reach, max(parts[at]) + 1)
        if seen == reach:
            yield group
            group = []



def common_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema for the rows of all parts, numbers as wide as any of them needs.

    Raises:
        RunError: If a column holds things of different kinds.
    """
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            known = types.get(field.name, pa.null())
            try:
                types[field.name] = _wider(known, field.type)
            except pa.ArrowException:
                raise RunError(
                    f"Column {field.name} is {known} in one part and {field.type} in another, so "
                    "that they make no table; measure into another folder."
                ) from None
    about = {
        key: text for key, text in (schemas[0].metadata or {}).items() if key not in (META, MARK)
    }
    return pa.schema(types.items(), metadata=about)



def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds what both hold; what has no value yet fits any."""
    if pa.types.is_null(one) or one == other:
        return other
    if pa.types.is_null(other):
        return one
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(_wider(one.value_type, other.value_type))
    both = [pa.schema([("x", kind)]) for kind in (one, other)]
    return pa.unify_schemas(both, promote_options="permissive").field("x").type



def write_pieces(path: Path, pieces: Iterable[pd.DataFrame], schema: pa.Schema) -> None:
    """Write a table of which one piece is in memory at a time.

    Args:
        path: The file.
        pieces: The rows, in order, at least one piece.
        schema: Of all of them.

    Raises:
        RunError: If a piece does not fit the schema, or the file cannot be written.
    """

    def write(part: Path) -> None:
        with pq.ParquetWriter(part, schema) as writer:
            for piece in pieces:
                table = pa.Table.from_pandas(piece, schema=schema, preserve_index=False)
                writer.write_table(table)

    try:
        write_whole(path, write)
    except RunError:
        raise
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise passing(error, path) or RunError(
            f"Table {path.stem} cannot be written as parquet: {one_line(error)}."
        ) from error



def read_blocks(run: RunFolder, name: str, rows: int = 1_000_000) -> Iterator[pd.DataFrame]:
    """Read a table with a column ``item`` a block of whole items at a time.

    Args:
        run: The run.
        name: Of the table; the rows of an item follow one another.
        rows: About how many rows are in memory at a time.

    Yields:
        At least one table, as `RunFolder.read_table` would give it.

    Raises:
        RunError: If it is missing or damaged.
    """
    path = run.table_path(name)
    if not path.is_file():
        run.read_table(name)

    def whole_items() -> Iterator[pd.DataFrame]:
        with pq.ParquetFile(path) as file:
            held = file.schema_arrow.empty_table()
            for batch in file.iter_batches(batch_size=rows):
                # The last item that is held may go on in this batch.
                items = held.column("item").to_numpy()
                cut = int((items == items[-1]).argmax()) if len(items) else 0
                if cut:
                    yield frame_of(held.slice(0, cut))
                more = pa.Table.from_batches([batch]).cast(held.schema)
                held = pa.concat_tables([held.slice(cut), more])
            yield frame_of(held)

    try:
        check = run.table_check(name, pq.read_schema(path))
        for block in whole_items():
            check.rows(block)
            yield block
        check.whole()
    except RunError:
        raise
    except UNREADABLE as error:
        raise damaged(path, error) from error


Array = npt.NDArray[Any]


_INDEX = "index.json"



@dataclass(frozen=True)
class Part:
    """What one batch of items gave.

    Attributes:
        rows: A table with a column ``item``; items may have any number of rows, also none.
        arrays: An array for some of the items.
    """

    rows: pd.DataFrame
    arrays: Mapping[str, Array] | None = None



@dataclass(frozen=True)
class _Held:
    """A part on disk."""

    path: Path
    items: tuple[str, ...]
    n_rows: int
    schema: pa.Schema
    arrays: str | None
    with_array: tuple[str, ...]



class Records:
    """One table of a run that grows part by part."""

    def __init__(self, run: RunFolder, name: str) -> None:
        """Point at a run's table without touching anything.

        Args:
            run: The run's folder.
            name: Of the table, as in `RunFolder.write_table`.
        """
        self._run = run
        self._name = name
        self._parts = run.path / "parts" / name
        self._arrays = run.path / "arrays" / name

    def write(self, number: int, items: Sequence[str], part: Part) -> None:
        """Keep what a batch of items gave; it is on the disk when this returns.

        Args:
            number: Of the batch; only orders the files.
            items: All items of the batch, with or without rows.
            part: What they gave.

        Raises:
            RunError: If a row or an array is not of one of the items, an item is named twice, or
                the part cannot be written.
        """
        arrays = dict(part.arrays or {})
        named = set(part.rows["item"]) | set(arrays)
        if not items or len(set(items)) < len(items) or not named <= set(items):
            raise RunError(
                f"A part of {self._name} was to hold {len(items)} items ({_few(items)}) with rows "
                f"or arrays of {_few(named)}; name every item of the batch once, and no other."
            )
        try:
            file = None
            if arrays:
                whole = {item: np.ascontiguousarray(array) for item, array in arrays.items()}
                content = safetensors.numpy.save(whole)
                file = _write(self._arrays, number, ".safetensors", content)
            table = pa.Table.from_pandas(part.rows, preserve_index=False)
            meta = json.dumps({"items": list(items), "arrays": file, "run": self._run.digest()})
            table = table.replace_schema_metadata({**table.schema.metadata, META: meta.encode()})
            buffer = pa.BufferOutputStream()
            pq.write_table(table, buffer)
            _write(self._parts, number, ".parquet", buffer.getvalue().to_pybytes())
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            if lacks_memory(error):
                raise (passing(error, self._parts) or error) from error
            refused = error.__cause__ if isinstance(error, RunError) else None
            reason = refused if isinstance(refused, OSError) else error
            raise RunError(
                f"A part of {self._name} ({_few(items)}) cannot be written to {self._run.path}: "
                f"{one_line(reason)}; parts that were written before are kept."
            ) from error

    def items(self) -> set[str]:
        """Items that are in parts on the disk.

        Raises:
            RunError: If a part is damaged, or two hold the same item.
        """
        return {item for part in self._held() for item in part.items}

    def merge(self, items: Sequence[str]) -> pd.DataFrame:
        """`keep`, then read the table.

        Args:
            items: Every item of the run, in the order that the table is to have.

        Returns:
            The table, as `RunFolder.read_table` reads it.

        Raises:
            RunError: As `keep`.
        """
        self.keep(items)
        return self._run.read_table(self._name)

    def keep(self, items: Sequence[str]) -> None:
        """Make the table of all parts on the disk, then remove them.

        In memory are the rows of one part at a time, or of as many as hold a stretch of items
        between them; see `attcot_analysis.runs.batches.WINDOW`.

        Args:
            items: Every item of the run, in the order that the table is to have.

        Raises:
            RunError: If a part is damaged, or an item is missing, held twice, or not the run's.
        """
        held = list(self._held())
        found = {item for part in held for item in part.items}
        known = set(items)
        foreign = [part for part in held if not known.issuperset(part.items)]
        if foreign:
            raise RunError(
                f"{foreign[0].path} holds items that the run has not "
                f"({_few(set(foreign[0].items) - known)}); delete it, or write to "
                "another folder."
            )
        missing = [item for item in items if item not in found]
        if missing:
            raise RunError(
                f"{self._parts} lacks {len(missing)} of {len(items)} items ({_few(missing)}); run "
                "the same command again to compute them."
            )
        self._index(held)
        places = {item: at for at, item in enumerate(items)}
        pieces = (
            joined((_read(held[at].path)[1] for at in stretch), items)
            for stretch in stretches([[places[item] for item in part.items] for part in held])
        )
        schema = common_schema([part.schema for part in held if part.n_rows] or [held[0].schema])
        mark = {MARK: self._run.mark(self._name)}
        schema = schema.with_metadata({**(schema.metadata or {}), **mark})
        write_pieces(self._run.table_path(self._name), pieces, schema)
        self.clear()

    def clear(self) -> None:
        """Remove the parts, and what killed runs have left."""
        shutil.rmtree(self._parts, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._parts.parent.rmdir()
        remove_unfinished(self._arrays)

    def arrays(self, items: Collection[str] | None = None) -> dict[str, Array]:
        """Read the arrays of a merged table.

        Args:
            items: Of these items only; default all that have one.

        Raises:
            RunError: If there are none, an item has none, or a file is damaged.
        """
        try:
            index: dict[str, str] = json.loads((self._arrays / _INDEX).read_text("utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self._run.path} has no arrays of {self._name}.") from None
        except (OSError, ValueError) as error:
            raise passing(error, self._arrays / _INDEX) or RunError(
                f"{self._arrays / _INDEX} is damaged ({one_line(error)})."
            ) from error
        if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
            raise RunError(f"{self._arrays / _INDEX} is damaged (it names no file per item).")
        wanted = list(index) if items is None else list(items)
        unknown = [item for item in wanted if item not in index]
        if unknown:
            raise RunError(
                f"{self._name} has no array of {_few(unknown)}; it has {_few(index)}, "
                f"{len(index)} in all."
            )
        table = self._run.path / "tables" / f"{self._name}.parquet"
        files = {name: self._load(name, table) for name in {index[item] for item in wanted}}
        astray = [item for item in wanted if item not in files[index[item]]]
        if astray:
            raise RunError(
                f"{self._arrays / _INDEX} is damaged (it says that {index[astray[0]]!r} holds "
                f"{astray[0]!r})."
            )
        return {item: files[index[item]][item] for item in wanted}

    def _held(self) -> Iterator[_Held]:
        where: dict[str, Path] = {}
        run = self._run.digest()
        for path in sorted(self._parts.glob("*.parquet")):
            meta, rows, schema = _read(path)
            if meta.get("run", run) != run:
                raise RunError(
                    f"{path} is of another run, which had another model, other items or settings; "
                    "delete it to have its items computed again."
                )
            items, arrays = tuple(meta["items"]), meta["arrays"]
            for item in items:
                if item in where:
                    raise RunError(
                        f"{path} and {where[item].name} beside it both hold item {item}; delete "
                        "one of them."
                    )
                where[item] = path
            loaded = {} if arrays is None else self._load(arrays, path)
            with_array = tuple(item for item in items if item in loaded)
            yield _Held(path, items, len(rows), schema, arrays, with_array)

    def _index(self, held: Sequence[_Held]) -> None:
        """Say which file holds which item's array; remove files that no part knows."""
        if not self._arrays.is_dir():
            return
        index = {item: part.arrays for part in held for item in part.with_array}
        for path in self._arrays.glob("*.safetensors"):
            if path.name not in set(index.values()):
                path.unlink()
        text = json.dumps(index, indent=1, ensure_ascii=False)
        write_whole(self._arrays / _INDEX, lambda part: part.write_text(text, encoding="utf-8"))

    def _load(self, name: str, of: Path) -> dict[str, Array]:
        path = self._arrays / name
        try:
            return dict(safetensors.numpy.load(_checked_bytes(path)))
        except (OSError, ValueError, SafetensorError) as error:
            shown = path if name.isprintable() else self._arrays / repr(name)
            raise passing(error, shown) or RunError(
                f"{shown} is damaged ({one_line(error)}); delete it and {of} to have both computed "
                "again."
            ) from error



def joined(frames: Iterable[pd.DataFrame], items: Sequence[str]) -> pd.DataFrame:
    """Join tables of some items each; rows of one item stay in order.

    Args:
        frames: Tables with a column ``item``; those without rows only count where all are.
        items: All items, in the order that the rows are to have.
    """
    found = list(frames)
    table = pd.concat([f for f in found if len(f)] or found[:1], ignore_index=True)
    order = table["item"].map({item: at for at, item in enumerate(items)}).argsort(kind="stable")
    table = table.iloc[order].reset_index(drop=True)
    # Notes on one batch say nothing about all.
    table.attrs = {}
    return table



def _write(folder: Path, number: int, ending: str, content: bytes) -> str:
    name = f"{number:06d}-{_digest(content)}{ending}"
    write_whole(folder / name, lambda part: part.write_bytes(content))
    return name



def _read(path: Path) -> tuple[dict[str, Any], pd.DataFrame, pa.Schema]:
    try:
        table = pq.read_table(pa.BufferReader(_checked_bytes(path)))
        meta = json.loads(table.schema.metadata[META])
        return meta, frame_of(table), table.schema
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise passing(error, path) or RunError(
            f"{path} is damaged ({one_line(error)}); delete it to have its items computed again."
        ) from error



def _checked_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if path.stem.rpartition("-")[2] != _digest(content):
        raise OSError("its content is not what was written")
    return content



def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]



def _few(items: Iterable[object]) -> str:
    names = sorted(map(str, items))
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"
