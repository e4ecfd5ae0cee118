"""Where a dataset's records come from: files as published, or the hub through `datasets`."""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from attcot_analysis.errors import ProblemError, passing
from attcot_analysis.problems.data.splits import choose, says_split
from attcot_analysis.problems.box_forms import BoxForms
from attcot_analysis.problems.pictures import open_picture
from attcot_analysis.problems.problem import Problem


@dataclass(frozen=True)
class Place:
    """What a person points at.

    Attributes:
        source: A file or folder, or a hub id.
        images: Folder of the pictures, where they do not lie beside the records.
        split: Of the dataset; ``None`` for the format's own default.
        boxes: Form of one's own boxes, a name in `FORMS`; ``None`` for pixels, unless they show
            another form.
        seen: Counts the boxes, to tell their form.
    """

    source: str
    images: Path | None = None
    split: str | None = None
    boxes: str | None = None
    seen: BoxForms = field(default_factory=BoxForms, compare=False)

    @property
    def folders(self) -> list[Path]:
        """Where pictures that a record names are looked for."""
        path = Path(self.source)
        own = path if path.is_dir() else path.parent
        return [own] if self.images is None else [self.images, own]

    @property
    def path(self) -> Path | None:
        """The file or folder; ``None`` if there is none, so that it must be a hub id."""
        path = Path(self.source)
        return path if path.exists() else None

    def folder(self, name: str, how: str) -> Path:
        """The folder, for formats that cannot be had from the hub as rows.

        Raises:
            ProblemError: If there is none.
        """
        if self.path is None:
            raise ProblemError(f"{self.source} does not exist; {name} is read from files: {how}.")
        return self.path


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
            raise ProblemError(f"{self.where}: {name} is {value!r:.60}, not what it should be.")
        return value


Made = Callable[[], list[Problem]]
"""Makes the problems of one record; may raise `ProblemError`."""


def json_lines(path: Path) -> Iterator[Record | ProblemError]:
    """Records of a JSON lines file; a line that is none comes as its error."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ProblemError(f"{path} cannot be read ({error.strerror}).") from error
    with file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _record(f"{path}, line {number}", line)


def _record(where: str, line: bytes) -> Record | ProblemError:
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
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
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ProblemError(f"{path} does not exist; is the dataset there as published?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise passing(error, path, ProblemError) or ProblemError(
            f"{path} cannot be read as JSON ({error})."
        ) from error


def json_list(path: Path, key: str | None = None) -> Iterator[Record | ProblemError]:
    """Records of a JSON file that holds a list, or an object with a list under ``key``."""
    held = json_file(path)
    if key is not None:
        held = held.get(key) if isinstance(held, dict) else None
    if not isinstance(held, list):
        inside = f" under {key!r}" if key else ""
        raise ProblemError(f"{path} holds no list{inside}; is it the file as published?")
    for number, value in enumerate(held, start=1):
        where = f"{path}, entry {number}"
        if isinstance(value, dict):
            yield Record(where, value)
        else:
            yield ProblemError(f"{where} is {value!r:.60}; expected a JSON object.")


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
    files = [place.path]
    if place.path.is_dir():
        found = ([*place.path.rglob(f"*{kind}")] for kind in _TABLES)
        files = sorted(next((some for some in found if some), []))
    if not files or files[0].suffix not in _TABLES:
        raise ProblemError(f"{place.source} holds no parquet file; give one, or the hub's id.")
    yield from of_split(place, files, split, lambda file: _TABLES[file.suffix](file))


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


def _parquet(path: Path) -> Iterator[Record]:
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield Record(f"{path}, row {number}", row)
    except (pa.ArrowException, OSError) as error:
        raise passing(error, path, ProblemError) or ProblemError(
            f"{path} is damaged or no parquet file ({error})."
        ) from error


_TABLES = {".parquet": _parquet, ".jsonl": json_lines, ".json": json_list}
"""What reads a table, in the order in which they are looked for."""


def hub_rows(source: str, split: str) -> Iterator[Record]:
    """Rows of a dataset on the hub, or in its cache; no loading script is run.

    Raises:
        ProblemError: If `datasets` is missing or cannot load it.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ProblemError(
            f"{source} is no file here, and reading the hub needs the datasets package; install "
            "attcot-analysis[train]."
        ) from error
    try:
        loaded = load_dataset(source, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ProblemError(
            f"{source} is no file here, and its split {split!r} cannot be loaded from the hub "
            f"({reason})."
        ) from error
    for number, row in enumerate(loaded, start=1):
        yield Record(f"{source}, {split}, row {number}", row, number)


def picture(value: object, where: str, *folders: Path) -> Image.Image:
    """A picture as `upright_rgb` gives it.

    Args:
        value: A file's name, its bytes, a picture, or what a parquet file holds of one
            (``{"bytes": ..., "path": ...}``).
        where: For messages.
        folders: Where to look for the file, in this order.

    Raises:
        ProblemError: If it is missing, damaged, too large or of no known range.
    """
    if isinstance(value, Mapping):
        held = value.get("bytes")
        value = value.get("path") if held is None else held
    if isinstance(value, Image.Image):
        return open_picture(value, f"{where}: its picture")
    if isinstance(value, bytes | bytearray | memoryview):
        return open_picture(io.BytesIO(value), f"{where}: its picture")
    if not isinstance(value, str | Path) or not str(value):
        raise ProblemError(f"{where} has no picture ({value!r:.60}).")
    name = f"picture {value}"
    found = next((f / value for f in folders or (Path(),) if (f / value).is_file()), None)
    if found is None:
        looked = ", ".join(map(str, dict.fromkeys(folders))) or "this folder"
        raise ProblemError(f"{where}: {name} does not exist in {looked}.")
    return open_picture(found, f"{where}: {name}")


def file_id(*parts: object) -> str:
    """An id that can name a file, of what a dataset calls an item."""
    text = "-".join(str(part) for part in parts)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:150] or "item"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def each(
    records: Iterable[Record | ProblemError], make: Callable[[Record], list[Problem]]
) -> Iterator[Made]:
    """What makes the problems of every record, with the record's place in every message."""
    for record in records:
        yield partial(_made, record, make)


def _made(record: Record | ProblemError, make: Callable[[Record], list[Problem]]) -> list[Problem]:
    if isinstance(record, ProblemError):
        raise record
    try:
        return make(record)
    except ProblemError as error:
        if str(error).startswith(record.where):
            raise
        raise ProblemError(f"{record.where}: {error}") from error
