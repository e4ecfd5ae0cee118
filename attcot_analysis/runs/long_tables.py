"""Long tables: written and read a stretch of items at a time, since memory need not hold them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attcot_analysis.errors import RunError, passing
from attcot_analysis.files import write_whole
from attcot_analysis.runs.run import UNREADABLE, RunFolder, damaged, frame_of, one_line
from attcot_analysis.runs.table_checks import MARK

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
