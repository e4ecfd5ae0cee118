"""Records of a dataset: of files as published, by split, or of the hub through `datasets`."""

import codecs
import csv
import gzip
import heapq
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from attcot_analysis.errors import ProblemError, one_line, passing, total_memory
from attcot_analysis.problems.data.place import Place
from attcot_analysis.problems.problem import Problem

_JSON = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class Record(NamedTuple):
    """One record of a dataset.

    Attributes:
        where: Where it stands, for messages.
        value: Its fields.
        number: Its place among all rows of the split, from 1.
    """

    where: str
    value: Mapping[str, Any]
    number: int = 0

    def field(self, name: str, kind: type | tuple[type, ...] = str) -> Any:
        """A field of a wanted type.

        Raises:
            ProblemError: If it is missing or of another type.
        """
        if name not in self.value:
            raise ProblemError(
                f"{self.where} lacks {name}; it has {', '.join(map(str, self.value)) or 'nothing'}."
            )
        value = self.value[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            expected = " or ".join(
                _JSON[one] for one in (kind if isinstance(kind, tuple) else (kind,))
            )
            raise ProblemError(f"{self.where}: {name} is {value!r:.60}; it must be {expected}.")
        return value


class Made(NamedTuple):
    """Makes the problems of one record; may raise `ProblemError`."""

    record: Record | ProblemError
    make: Callable[[Record], list[Problem]]

    @property
    def where(self) -> str:
        """Where the record stands."""
        return self.record.where if isinstance(self.record, Record) else str(self.record)

    def __call__(self) -> list[Problem]:
        """The problems, with the record's place in every message."""
        if isinstance(self.record, ProblemError):
            raise self.record
        try:
            return self.make(self.record)
        except ProblemError as error:
            if str(error).startswith(self.record.where):
                raise
            raise ProblemError(f"{self.record.where}: {error}") from error


def each(
    records: Iterable[Record | ProblemError], make: Callable[[Record], list[Problem]]
) -> Iterator[Made]:
    """What makes the problems of every record."""
    return (Made(record, make) for record in records)


_TYPES = (
    *("question_type", "Question_Type", "Question Type", "type", "sub_task", "task", "category"),
    *("question_family_index", "topic", "domain", "subject", "dataset"),
)
"""Fields that say of what type a question is; the first that is there counts."""


def sampled(made: Iterable[Made], n: int, seed: int) -> list[Made]:
    """About ``n`` records, drawn at random and of every type in proportion.

    Only as many as may be chosen are held. Any first part of the list is spread over the types,
    too, so that one may stop where records give several problems each.

    Args:
        made: All.
        n: How many; where there are no more, all come in their order.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[tuple[float, int, Made]]] = {}
    counts: Counter[str] = Counter()
    for at, one in enumerate(made):
        fields = one.record.value if isinstance(one.record, Record) else {}
        kind = next((str(fields[name]) for name in _TYPES if fields.get(name) is not None), "")
        counts[kind] += 1
        held = drawn.setdefault(kind, [])
        # Kept are the n smallest; the place breaks ties, so records are never compared.
        entry = (-float(rng.random()), -at, one)
        heapq.heappush(held, entry) if len(held) < n else heapq.heappushpop(held, entry)
    if sum(counts.values()) <= n:
        every = [entry for held in drawn.values() for entry in held]
        return [one for _, _, one in sorted(every, key=lambda entry: -entry[1])]
    spread = [
        ((rank + 0.5) / counts[kind], kind, one)
        for kind, held in drawn.items()
        for rank, (_, _, one) in enumerate(sorted(held, key=lambda entry: (-entry[0], -entry[1])))
    ]
    spread.sort(key=lambda entry: entry[:2])
    return [one for _, _, one in spread[:n]]


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _at_once(path: Path, file: IO[bytes]) -> bytes:
    """All of a file, which may be compressed, if it leaves memory for what it says."""
    most = (total_memory() or 2**34) // 16
    held = file.read(most + 1)
    if len(held) > most:
        raise ProblemError(
            f"{path} holds more than {most >> 20} MB, which cannot be read at once here; write its "
            "records as JSON lines."
        )
    return held


def _lines(path: Path) -> Iterator[bytes]:
    """Lines in UTF-8, of a file in UTF-8 or UTF-16, maybe compressed."""
    try:
        with _opened(path) as file:
            head = file.read(2)
            if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                yield from (head + _at_once(path, file)).decode("utf-16").encode().split(b"\n")
                return
            file.seek(0)
            while line := file.readline(_LARGEST_ROW + 1):
                if len(line) > _LARGEST_ROW:
                    raise ProblemError(
                        f"{path} has a line of more than {_LARGEST_ROW >> 20} MB; write one record "
                        "per line."
                    )
                yield line
    except (OSError, EOFError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProblemError(f"{path} cannot be read ({reason}).") from error


def json_lines(path: Path) -> Iterator[Record | ProblemError]:
    """Records of a JSON lines file; a line that is none comes as its error."""
    for number, line in enumerate(_lines(path), start=1):
        if number == 1 and line.startswith((b"[{", b"[\n", b"[\r\n")):
            yield from json_list(path)
            return
        if line.strip():
            yield _record(f"{path}, line {number}", line)


def separated(path: Path) -> Iterator[Record | ProblemError]:
    """Rows of a CSV or TSV file; empty cells are as if they were not there.

    In VLMEvalKit's TSV files the cell of a picture may name the row that holds it.
    """
    csv.field_size_limit(2**31 - 1)
    texts = (line.decode("utf-8-sig") for line in _lines(path))
    pictures: dict[str, str] = {}
    try:
        head = next(texts, "")
        mark = max(("\t", ";", ","), key=head.count)
        table = csv.DictReader(chain([head], texts), delimiter=mark)
        columns = Counter(name.strip() for name in table.fieldnames or () if name.strip())
        if twice := [name for name, n in columns.items() if n > 1]:
            raise ProblemError(
                f"{path} has two columns {twice[0]!r}; rename or remove the one that is not meant."
            )
        for row in table:
            where = f"{path}, line {table.line_num}"
            if None in row:
                yield ProblemError(f"{where} has more cells than the first line names columns.")
                continue
            held = {name.strip(): cell for name, cell in row.items() if cell and cell.strip()}
            if mark == "\t" and "index" in held and "image" in held:
                if held["image"] in pictures:
                    held["image"] = pictures[held["image"]]
                elif len(held["image"]) > 64:
                    pictures[held["index"]] = held["image"]
            yield Record(where, held)
    except UnicodeDecodeError as error:
        raise ProblemError(f"{path} is neither UTF-8 nor UTF-16; save it as UTF-8.") from error
    except csv.Error as error:
        raise ProblemError(f"{path} is no table of cells ({error}).") from error


def _record(where: str, line: bytes) -> Record | ProblemError:
    try:
        value = json.loads(
            line.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_once
        )
    except (ValueError, RecursionError) as error:
        return ProblemError(f"{where} is not valid JSON: {error}.")
    if not isinstance(value, dict):
        return ProblemError(f"{where} holds {value!r:.60}; expected a JSON object.")
    return Record(where, value)


def json_file(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ProblemError: If it cannot be read.
    """
    if not path.exists():
        raise ProblemError(f"{path} does not exist; is the dataset there as published?")
    try:
        with _opened(path) as file:
            held = _at_once(path, file)
        wide = held.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = held.decode("utf-16" if wide else "utf-8-sig")
        return json.loads(text, object_pairs_hook=_once)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise passing(error, path, ProblemError) or ProblemError(
            f"{path} cannot be read as JSON ({error})."
        ) from error


def json_list(path: Path, key: str | None = None) -> Iterator[Record | ProblemError]:
    """Records of a JSON file that holds a list, or an object with a list under ``key``.

    Without a key an object may hold a single list of objects, or objects by their id.
    """
    held = json_file(path)
    if key is not None:
        held = held.get(key) if isinstance(held, dict) else None
    elif isinstance(held, dict):
        lists = [one for one in held.values() if isinstance(one, list) and one]
        lists = [one for one in lists if isinstance(one[0], dict)]
        by_id = held and all(isinstance(one, dict) for one in held.values())
        named = [{"id": name, **one} for name, one in held.items()] if by_id else None
        held = lists[0] if len(lists) == 1 else named
    if not isinstance(held, list):
        inside = f" under {key!r}" if key else ""
        raise ProblemError(
            f"{path} holds no list of records{inside}, nor one object per id; is it the file as "
            "published?"
        )
    for number, value in enumerate(held, start=1):
        where = f"{path}, entry {number}"
        if isinstance(value, dict):
            yield Record(where, value)
        else:
            yield ProblemError(f"{where} is {value!r:.60}; expected a JSON object.")


_ABOUT = ("dataset_info.json", "dataset_dict.json", "state.json")
"""What the datasets package writes about a dataset beside it."""


def tables(folder: Path) -> list[Path]:
    """Files of a folder that hold records: those of the first kind in `TABLES` that is there."""
    there = [file for file in folder.rglob("*") if file.is_file() and file.name not in _ABOUT]
    kinds = {kind: [file for file in there if kind_of(file) == kind] for kind in TABLES}
    return sorted(next((files for files in kinds.values() if files), []))


def kind_of(file: Path) -> str:
    """How the name of a file ends, ``.gz`` left out."""
    return Path(file.name.removesuffix(".gz")).suffix.casefold()


def read_table(file: Path) -> Iterator[Record | ProblemError]:
    """Records of a file, read as its name ends."""
    return TABLES[kind_of(file)](file)


_LARGEST_ROW = 2**28
"""Bytes of a row of a table, unpacked, in the mean; and about what is unpacked at once."""


def _parquet(path: Path) -> Iterator[Record]:
    with _readable(path, "no parquet file"), pq.ParquetFile(path) as file:
        about = file.metadata
        groups = [about.row_group(at).total_byte_size for at in range(about.num_row_groups)]
        each = sum(groups) // max(1, about.num_rows)
        if each > _LARGEST_ROW:
            raise ProblemError(
                f"{path} has rows of {each >> 20} MB, expected at most {_LARGEST_ROW >> 20}; get "
                "it again from a source you trust."
            )
        # A file may hold once what stands in every row.
        once = 16 * _LARGEST_ROW // max(1, *groups)
        at_once = max(1, min(64, _LARGEST_ROW // max(1, each), once))
        _check_rows(path, about.num_rows)
        yield from _rows(path, file.iter_batches(batch_size=at_once))


def _arrow(path: Path) -> Iterator[Record]:
    """Rows of a file that ``save_to_disk`` of the datasets package wrote."""
    with _readable(path, "not written by save_to_disk"), pa.memory_map(str(path)) as file:
        messages = pa.ipc.MessageReader.open_stream(file)
        first = messages.read_next_message()
        if first.type != "schema":  # Which brings pyarrow down.
            raise pa.ArrowInvalid("it begins with no schema")
        schema = pa.ipc.read_schema(first)
        if any(_growing(field.type) for field in schema) or not len(schema):
            raise pa.ArrowInvalid("its columns are of types that nothing writes")
        number = 0
        for message in messages:
            if message.type != "record batch" or _compressed(message.metadata):
                raise pa.ArrowInvalid("it holds something else than rows that are not compressed")
            batch = pa.ipc.read_record_batch(message, schema)
            batch.validate(full=True)
            _check_rows(path, number + batch.num_rows)
            pieces = (batch.slice(at, 64) for at in range(0, batch.num_rows, 64))
            yield from _rows(path, pieces, number)
            number += batch.num_rows


def _growing(kind: pa.DataType) -> bool:
    """Whether values of a type can share bytes, so that a small file holds any number of them."""
    if any(word in str(kind) for word in ("_view", "dictionary<", "run_end_encoded<")):
        return True
    return kind.num_fields > 0 and any(
        _growing(kind.field(at).type) for at in range(kind.num_fields)
    )


def _compressed(metadata: pa.Buffer) -> bool:
    """Whether the batch that a message holds is compressed, which pyarrow does not tell.

    As the Arrow columnar format has it: a flatbuffer of ``Message``, whose third field is the
    ``RecordBatch``, whose fourth field is there only if it is compressed.
    """
    held = metadata.to_pybytes()

    def field(table: int, number: int) -> int:
        (back,) = struct.unpack_from("<i", held, table)
        size, *_ = struct.unpack_from("<H", held, table - back)
        at = 4 + 2 * number
        return struct.unpack_from("<H", held, table - back + at)[0] if at < size else 0

    (message,) = struct.unpack_from("<I", held)
    place = message + field(message, 2)
    return field(place + struct.unpack_from("<I", held, place)[0], 3) != 0


def _check_rows(path: Path, rows: int) -> None:
    """Refuse more rows than a file has bytes, which are all of nothing and take for ever."""
    if rows > max(10**6, path.stat().st_size):
        raise ProblemError(
            f"{path} has {rows} rows in {path.stat().st_size} bytes; get it again from a source "
            "you trust."
        )


_UNREADABLE = (
    *(pa.ArrowException, OSError, EOFError, StopIteration, struct.error),
    *(ValueError, ArithmeticError),  # Names in no UTF-8, years that Python has no date for.
)


@contextmanager
def _readable(path: Path, other: str) -> Iterator[None]:
    """Say in a sentence what is wrong with a table's file."""
    try:
        yield
    except _UNREADABLE as error:
        raise passing(error, path, ProblemError) or ProblemError(
            f"{path} is damaged or {other} ({one_line(error)})."
        ) from error


def _rows(path: Path, batches: Iterable[pa.RecordBatch], before: int = 0) -> Iterator[Record]:
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows, start=before + 1):
        yield Record(f"{path}, row {number}", row)


TABLES: Mapping[str, Callable[[Path], Iterator[Record | ProblemError]]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".csv": separated,
    ".tsv": separated,
    ".json": json_list,
}
"""What reads a table by how its name ends, in the order in which they are looked for."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, of which nobody knows which of two equal names counts."""
    held = dict(pairs)
    if len(held) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"it has {max(names, key=lambda name: names[name])!r} twice")
    return held


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def rows(place: Place, split: str) -> Iterator[Record | ProblemError]:
    """Rows of a dataset that is published as tables.

    Local are a file (parquet, JSON lines, or JSON with a list), or a folder of them, of which
    those of the split are read. What does not exist is loaded from the hub.

    Raises:
        ProblemError: If there is nothing to read, or not the split that is asked for.
    """
    if place.path is None:
        yield from hub_rows(place.source, place.split or split)
        return
    files = tables(place.path) if place.path.is_dir() else [place.path]
    if not files or kind_of(files[0]) not in TABLES:
        raise ProblemError(f"{place.source} holds no parquet file; give one, or the hub's id.")
    yield from of_split(place, files, split, read_table)


def of_split(
    place: Place,
    files: Sequence[Path],
    default: str,
    read: Callable[[Path], Iterator[Record | ProblemError]],
) -> Iterator[Record | ProblemError]:
    """Records of the files of a split; where files do not tell theirs, of the records' own field.

    Raises:
        ProblemError: If there is no such split.
    """
    by_record = place.split is not None and not says_split(files, Path(place.source), place.split)
    chosen = files if by_record else choose(files, Path(place.source), place.split, default)
    others: set[str] = set()
    number = 0
    for record in (record for file in chosen for record in read(file)):
        if isinstance(record, Record):
            own = str(record.value.get("split") or "")
            if by_record and own.casefold() != str(place.split).casefold():
                others.add(own)
                continue
            number += 1
            yield record._replace(number=number)
        else:
            yield record
    if by_record and not number:
        named = ", ".join(sorted(others - {""}))
        rest = f"it has {named}" if named else "it does not say of what split its records are"
        raise ProblemError(f"{place.source} has no split {place.split!r}; {rest}.")


_KNOWN = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")

_SHARD = re.compile(r"-\d{5}(-of-\d{5})?$")

_WORD = re.compile(r"[^\W\d_]+|\d+")


def choose(files: Sequence[Path], root: Path, split: str | None, default: str = "") -> list[Path]:
    """The files of a split, going by their names and those of their folders.

    A name counts as a whole word, so that ``test`` is in ``CLEVR_test_questions`` and in
    ``test-00000-of-00002``, and not in ``latest``; what stands nearest to the file decides.

    Args:
        files: In order.
        root: What a person pointed at; outside of it only a folder's whole name counts.
        split: As asked for; ``None`` for ``default`` if it is there, else all if they are of one.
        default: The format's own.

    Raises:
        ProblemError: If there is no such split, or ``None`` is given and there are several others.
    """
    wanted = split or default
    names = {file: _split(file, root, wanted) for file in files}
    there = sorted({name for name, _ in names.values() if name})
    mine = {file: whole for file, (name, whole) in names.items() if name == wanted}
    if wanted and mine:
        return [file for file, whole in mine.items() if whole or not any(mine.values())]
    if split is None and len(there) < 2:
        return list(files)
    if not there:
        raise ProblemError(
            f"{root} does not say what splits its files are of, so split {split!r} cannot be "
            "chosen; leave --split out, or give the file that is meant."
        )
    asked = f"no split {split!r}" if split else f"several splits and none is {default!r}"
    raise ProblemError(f"{root} has {asked}; it has {', '.join(there)}: choose one with --split.")


def says_split(files: Sequence[Path], root: Path, split: str) -> bool:
    """Whether any file's name or folder tells its split."""
    return any(_split(file, root, split)[0] for file in files)


def _split(file: Path, root: Path, wanted: str) -> tuple[str, bool]:
    """The split of a file, empty if it does not say, and whether that is a whole name."""
    whole, base = file.absolute(), root.absolute()  # Not resolved: the hub's cache links to blobs.
    base = base if base.is_dir() else base.parent
    inside = [_SHARD.sub("", whole.stem), *(p.name for p in whole.parents if base in p.parents)]
    for part in inside:
        if part.casefold() == wanted.casefold():
            return wanted, True
        words = _WORD.findall(part.casefold())
        asked = _WORD.findall(wanted.casefold())
        if asked and any(words[at : at + len(asked)] == asked for at in range(len(words))):
            return wanted, False
        known = next((word for word in words if word in _KNOWN), None)
        if known is not None:
            # One split by two names.
            return (wanted if {known, wanted} == {"val", "validation"} else known), False
    if _SHARD.search(whole.stem):
        return inside[0], True
    name = base.name.casefold()
    if name == wanted.casefold():
        return wanted, True
    return (name, True) if name in _KNOWN else ("", False)


def hub_rows(source: str, split: str) -> Iterator[Record]:
    """Rows of a dataset on the hub, or in its cache; no loading script is run.

    Raises:
        ProblemError: If `datasets` is missing or cannot load it.
    """
    try:
        from datasets import Image as ImageFeature
        from datasets import load_dataset
    except ImportError as error:
        raise ProblemError(
            f"{source} is not a file here, and reading the hub needs the datasets package; install "
            "attcot-analysis[train]."
        ) from error
    try:
        loaded = load_dataset(source, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise ProblemError(
            f"{source} is not a file here, and its split {split!r} cannot be loaded from the hub "
            f"({one_line(error)})."
        ) from error
    for name, feature in (loaded.features or {}).items():
        if isinstance(feature, ImageFeature):  # Read here as everywhere.
            loaded = loaded.cast_column(name, ImageFeature(decode=False))
    for number, row in enumerate(loaded, start=1):
        yield Record(f"{source}, {split}, row {number}", row, number)
