"""`Parts`: a table of a run as one file per batch of items, and what a table on disk is read with.

Layout inside the run folder::

    tables/<name>/<number>-of-<total>-<hash>.parquet     rows of some items
    arrays/<name>/<number>-of-<total>-<hash>.safetensors  arrays of some items, by item

A part is one file that is there whole or not at all; the hash in its name is that of its content,
so that damage is found. It lists its items, so that those without rows count as computed too, and
their places among all items, which give the order of the rows.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from safetensors import SafetensorError

from attcot_analysis.errors import AttCoTError, RunError, lacks_memory, one_line, passing
from attcot_analysis.files import own_folder, regular, remove_unfinished, write_bytes
from attcot_analysis.runs.table_checks import (
    MARK,
    UNREADABLE,
    check_columns,
    check_mark,
    read_parquet,
)

Array = npt.NDArray[Any]
Places = Sequence[int]
"""A batch: places of its items among all items."""

_META = b"attcot"
"""Key of what a part says about itself."""


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
class _Stored:
    """A part that was read.

    Attributes:
        path: Its file.
        items: Its items.
        places: Theirs among all items.
        arrays: Name of the file of its arrays.
        with_array: Those of its items that have one.
        content: Its rows.
    """

    path: Path
    items: Sequence[str]
    places: Places
    arrays: str | None
    with_array: Sequence[str]
    content: pa.Table


class Parts:
    """One table of a run that grows part by part."""

    def __init__(self, folder: Path, name: str, mark: bytes) -> None:
        """Point at a table without touching anything; see `RunFolder.parts`.

        Args:
            folder: The run's folder.
            name: Of the table.
            mark: What tells its files from those of other runs and tables.
        """
        self._run = folder
        self.path = own_folder(own_folder(folder, "tables"), name)
        self._arrays = own_folder(own_folder(folder, "arrays"), name)
        self._name, self._mark = name, mark

    def __bool__(self) -> bool:
        """Whether there is any part."""
        return bool(self._files())

    @property
    def complete(self) -> bool:
        """Whether all parts are there."""
        numbers = set(map(_numbers, self._files()))
        return bool(numbers) and numbers == {(at, len(numbers)) for at in range(len(numbers))}

    def write(
        self, number: int, batches: Sequence[Places], items: Sequence[str], part: Part
    ) -> None:
        """Keep what a batch of items gave; it is on the disk when this returns.

        Args:
            number: Of the batch.
            batches: All batches of the table.
            items: All items of the run.
            part: What those of the batch gave.

        Raises:
            RunError: If a row or an array is not of one of the items, an item is named twice, or
                the part cannot be written.
        """
        own = [items[place] for place in batches[number]]
        arrays = dict(part.arrays or {})
        named = set(part.rows["item"]) | set(arrays)
        if not own or len(set(own)) < len(own) or not named <= set(own):
            raise RunError(
                f"A part of {self._name} was to hold {len(own)} items ({few(own)}) with rows "
                f"or arrays of {few(named)}; name every item of the batch once, and no other."
            )
        stem = f"{number:05d}-of-{len(batches):05d}"
        try:
            file = None
            if arrays:
                whole = {item: np.ascontiguousarray(array) for item, array in arrays.items()}
                content = safetensors.numpy.save(whole)
                file = _write(self._arrays, stem, ".safetensors", content)
            table = pa.Table.from_pandas(part.rows, preserve_index=False)
            meta = {
                "items": own,
                "places": list(batches[number]),
                "arrays": file,
                "with_array": list(arrays),
            }
            about = {_META: json.dumps(meta).encode(), MARK: self._mark}
            table = table.replace_schema_metadata({**table.schema.metadata, **about})
            buffer = pa.BufferOutputStream()
            pq.write_table(table, buffer)
            _write(self.path, stem, ".parquet", buffer.getvalue().to_pybytes())
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            if lacks_memory(error):
                raise (passing(error, self.path) or error) from error
            refused = error.__cause__ if isinstance(error, RunError) else None
            reason = refused if isinstance(refused, OSError) else error
            raise RunError(
                f"A part of {self._name} ({few(own)}) cannot be written to {self.path}: "
                f"{one_line(reason)}; parts that were written before are kept."
            ) from error

    def missing(self, batches: Sequence[Places], items: Sequence[str]) -> list[int]:
        """Numbers of the batches that are not on the disk yet.

        Args:
            batches: All batches of the table.
            items: All items of the run.

        Raises:
            RunError: If a part is damaged, of another run or of other batches.
        """
        there = set()
        for stored in self._stored():
            foreign = set(stored.items) - set(items)
            if foreign:
                raise RunError(
                    f"{stored.path} holds items that the run has not ({few(foreign)}); delete it, "
                    "or write to another folder."
                )
            number, total = _numbers(stored.path)
            if total != len(batches) or list(stored.places) != list(batches[number]):
                raise RunError(
                    f"The parts in {self.path} were made with another batch_size; resume with "
                    "that one, or write to another folder."
                )
            there.add(number)
        return [number for number in range(len(batches)) if number not in there]

    def tidy(self) -> None:
        """Remove what killed runs have left."""
        remove_unfinished(self.path)
        remove_unfinished(self._arrays)
        if self._arrays.is_dir():
            known = {stored.arrays for stored in self._stored()}
            for path in self._arrays.glob("*.safetensors"):
                if path.name not in known:
                    path.unlink()

    def frame(self) -> pd.DataFrame:
        """The whole table, with the rows in the order of the items.

        Raises:
            RunError: As `blocks`.
        """
        parts = list(self._whole())
        rows = pa.concat_tables([part.content for part in parts])
        places = {
            item: place
            for part in parts
            for item, place in zip(part.items, part.places, strict=True)
        }
        order = rows.column("item").to_pandas().map(places).argsort(kind="stable")
        return frame_of(rows.take(pa.array(order)))

    def blocks(self) -> Iterator[pd.DataFrame]:
        """The table a part at a time, with the types of the whole; an item is in one part only.

        Raises:
            RunError: If a part is missing, damaged or of another run, or they make no table.
        """
        for part in self._whole():
            yield frame_of(part.content)

    def arrays(self, items: Collection[str] | None = None) -> dict[str, Array]:
        """Read the arrays of a table.

        Args:
            items: Of these items only; default all that have one.

        Raises:
            RunError: If there are none, an item has none, or a file is damaged.
        """
        files = self._array_files()
        if not files:
            raise RunError(f"{self._run} has no arrays of {self._name}.")
        wanted = list(files) if items is None else list(items)
        unknown = [item for item in wanted if item not in files]
        if unknown:
            raise RunError(
                f"{self._name} has no array of {few(unknown)}; it has {few(files)}, "
                f"{len(files)} in all."
            )
        arrays: dict[str, Array] = {}
        for file, table in {files[item] for item in wanted}:
            arrays |= self._load(file, table)
        astray = [item for item in wanted if item not in arrays]
        if astray:
            raise RunError(f"{self._arrays} is damaged (no file holds {astray[0]!r}).")
        return {item: arrays[item] for item in wanted}

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("[0-9]*-of-[0-9]*-*.parquet"))

    def _stored(self) -> Iterator[_Stored]:
        """The parts one by one, each held against its digest and its run."""
        where: dict[str, Path] = {}
        for path in self._files():
            stored = _read(path)
            check_columns(path, self._name, stored.content)
            check_mark(path, stored.content.schema.metadata.get(MARK, b""), self._mark)
            for item in stored.items:
                if item in where:
                    raise RunError(
                        f"{path} and {where[item].name} beside it both hold item {item}; delete "
                        "one of them."
                    )
                where[item] = path
            yield stored

    def _whole(self) -> Iterator[_Stored]:
        """The parts of a complete table, those with rows if any has, with the types of all."""
        files = self._files()
        if not self.complete:
            total = _numbers(files[-1])[1]
            raise RunError(
                f"{self.path} lacks {total - len(files)} of {total} parts; run the same command "
                "again to compute them."
            )
        headers = [_header(path) for path in files]
        kept = [schema for n_rows, schema in headers if n_rows] or [headers[0][1]]
        try:
            schema = pa.unify_schemas(kept, promote_options="permissive")
            none = schema.empty_table()
            for number, part in enumerate(self._stored()):
                if part.content.num_rows or (number == 0 and len(kept) == 1):
                    both = pa.concat_tables([none, part.content], promote_options="permissive")
                    yield replace(part, content=both)
        except pa.ArrowException as error:
            raise RunError(
                f"The parts in {self.path} make no table ({one_line(error)}); measure into "
                "another folder."
            ) from error

    def _array_files(self) -> dict[str, tuple[str, Path]]:
        """By item, in their order, the file of its array and the file of its rows."""
        placed = [
            (place, item, (str(part.arrays), part.path))
            for part in self._stored()
            for item, place in zip(part.items, part.places, strict=True)
            if item in part.with_array
        ]
        return {item: file for _, item, file in sorted(placed)}

    def _load(self, name: str, of: Path) -> dict[str, Array]:
        path = self._arrays / name
        if Path(name).name != name:
            raise RunError(
                f"{self._arrays} names the file {name!r:.80}, which is not in it; measure again."
            )
        try:
            return dict(safetensors.numpy.load(_checked_bytes(path)))
        except (OSError, ValueError, SafetensorError) as error:
            raise passing(error, path) or RunError(
                f"{path} is damaged ({one_line(error)}); delete it and {of} to have both computed "
                "again."
            ) from error


def joined(frames: Iterable[pd.DataFrame], items: Sequence[str]) -> pd.DataFrame:
    """Join tables of some items each; rows of one item stay in order.

    Args:
        frames: Tables with a column ``item``; those without rows only count where all are.
        items: All items, in the order that the rows are to have.
    """
    tables = list(frames)
    table = pd.concat([one for one in tables if len(one)] or tables[:1], ignore_index=True)
    order = table["item"].map({item: at for at, item in enumerate(items)}).argsort(kind="stable")
    table = table.iloc[order].reset_index(drop=True)
    # Notes on one batch say nothing about all.
    table.attrs = {}
    return table


def frame_of(content: pa.Table) -> pd.DataFrame:
    """A parquet table as a data frame; cells that held lists hold lists again."""
    table = content.to_pandas()
    for field in content.schema:
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            lists = content.column(field.name).to_pylist()
            table[field.name] = pd.Series(lists, dtype=object)
    return table


def damaged(path: Path, error: Exception) -> AttCoTError:
    """The error for a table on the disk that cannot be read; a full memory is no damage."""
    return passing(error, path) or RunError(
        f"{path} is damaged ({one_line(error)}); delete it to have it computed again."
    )


def few(items: Iterable[object]) -> str:
    """The first of some names, to be put into a sentence."""
    names = sorted(map(str, items))
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def _write(folder: Path, stem: str, ending: str, content: bytes) -> str:
    name = f"{stem}-{_digest(content)}{ending}"
    write_bytes(folder / name, content)
    return name


def _read(path: Path) -> _Stored:
    try:
        content = read_parquet(path, _checked_bytes(path))
        about = json.loads(content.schema.metadata[_META])
        stored = _Stored(path, content=content, **about)
        whole = [*map(int, stored.places)]
        if not set(stored.with_array) <= set(stored.items) or len(whole) != len(stored.items):
            raise ValueError("its items, places and arrays do not belong together")
        return stored
    except UNREADABLE as error:
        raise damaged(path, error) from error


def _header(path: Path) -> tuple[int, pa.Schema]:
    try:
        with pq.ParquetFile(regular(path)) as file:
            return file.metadata.num_rows, file.schema_arrow
    except UNREADABLE as error:
        raise damaged(path, error) from error


def _checked_bytes(path: Path) -> bytes:
    content = regular(path).read_bytes()
    if path.stem.rpartition("-")[2] != _digest(content):
        raise OSError("its content is not what was written")
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _numbers(path: Path) -> tuple[int, int]:
    """The number of a part, and of how many."""
    number, total = path.name.split("-")[0:3:2]
    return int(number), int(total)
