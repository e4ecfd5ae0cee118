"""Where a dataset's records come from: files as published, or the hub through `datasets`."""

import base64
import binascii
import codecs
import csv
import gzip
import heapq
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from attcot_analysis.errors import ProblemError, passing
from attcot_analysis.problems.box_forms import FORMS, BoxForms, fits, other_forms, to_pixels
from attcot_analysis.problems.pictures import check_inside, open_picture
from attcot_analysis.problems.problem import Box, Problem, Step

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
        if _holds(words, _WORD.findall(wanted.casefold())):
            return wanted, False
        known = next((word for word in words if word in _KNOWN), None)
        if known is not None:
            return known, False
    if _SHARD.search(whole.stem):
        return inside[0], True
    name = base.name.casefold()
    if name == wanted.casefold():
        return wanted, True
    return (name, True) if name in _KNOWN else ("", False)


def _holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    n = len(wanted)
    return n > 0 and any(list(words[at : at + n]) == list(wanted) for at in range(len(words)))


_BEYOND = 0.01
"""Of a side: how far published boxes reach beyond their picture by rounding."""


def corner_boxes(
    given: Sequence[Any],
    image_size: tuple[int, int],
    where: str,
    *,
    form: str = "pixels",
    of: tuple[float, float] | None = None,
    seen: BoxForms | None = None,
    cut: bool = False,
) -> tuple[Box, ...]:
    """Boxes as ``(x0, y0, x1, y1)``, each once.

    Args:
        given: Four numbers each.
        image_size: Width and height of the picture as it is read.
        where: For messages.
        form: Of the numbers, a name in `FORMS`.
        of: Width and height of the picture that the numbers are of, where it was resized.
        seen: Where to count boxes that should be in pixels.
        cut: Take what lies in the picture, however far a box reaches beyond; default is to refuse
            more than rounding.

    Raises:
        ProblemError: If one is no box, or no box of this form in the picture.
    """
    width, height = image_size
    source = (float(width), float(height)) if of is None else of
    beyond = inf if cut else max(2.0, _BEYOND * max(source))
    boxes = []
    for box in given:
        numbers = list(box) if isinstance(box, list | tuple) else []
        if len(numbers) != 4 or not all(
            isinstance(n, int | float) and not isinstance(n, bool) for n in numbers
        ):
            raise ProblemError(f"{where}: box {box!r:.60} is not four numbers.")
        if seen is not None:
            seen.add(numbers, source, beyond)
        x0, y0, x1, y1 = to_pixels(numbers, source, form)
        across, down = width / source[0], height / source[1]
        x0, x1 = (min(max(x * across, 0.0), float(width)) for x in (x0, x1))
        y0, y1 = (min(max(y * down, 0.0), float(height)) for y in (y0, y1))
        if not (fits(numbers, source, form, beyond=beyond) and x0 < x1 and y0 < y1):
            maybe = other_forms(numbers, source) or "; check that it is the right picture"
            raise ProblemError(
                f"{where}: box {box!r:.60} covers nothing of its {width}x{height} picture, or "
                f"reaches beyond it{maybe}."
            )
        boxes.append((x0, y0, x1, y1))
    return tuple(dict.fromkeys(boxes))


YES_NO = ("Yes", "No")


_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])")

_INLINE = re.compile(r"(?:^|(?<=\s))(?:step\s*)?(\d{1,2})[.):]\s+", re.IGNORECASE)

_AT_LINE = re.compile(r"^[ \t]*(?:step[ \t]*)?(\d{1,2})[.):][ \t]+", re.IGNORECASE | re.MULTILINE)

_HEAD = re.compile(r"^\s*(?:[-*\u2022]|(?:step\s*)?\d{1,2}[.):])\s+", re.IGNORECASE)


def rationale_steps(text: str) -> tuple[Step, ...]:
    """Cut a rationale into steps: at its own numbers 1, 2, ..., else its lines, else sentences."""
    parts = _numbered(text) or [line for line in text.splitlines() if line.strip()]
    if len(parts) == 1:
        parts = _SENTENCE.split(parts[0])
    plain = [_HEAD.sub("", " ".join(part.split())).strip() for part in parts]
    return tuple(Step(part) for part in plain if part)


def _numbered(text: str) -> list[str]:
    """The parts behind the numbers 1, 2, ... of a text; empty unless it begins with 1."""
    for pattern in (_AT_LINE, _INLINE):
        heads: list[re.Match[str]] = []
        for number in pattern.finditer(text):
            if int(number[1]) == len(heads) + 1:
                heads.append(number)
        if len(heads) > 1 and not text[: heads[0].start()].strip():
            ends = [*(head.start() for head in heads[1:]), len(text)]
            return [text[head.end() : end] for head, end in zip(heads, ends, strict=True)]
    return []


def with_options(question: str, options: Sequence[str]) -> str:
    """A question that lists its options by letter, so that a letter can be read as an answer.

    Raises:
        ProblemError: If there are more options than letters.
    """
    if len(options) > 26:
        raise ProblemError(f"A question has {len(options)} options, more than there are letters.")
    listed = "\n".join(f"{chr(65 + at)}) {option}" for at, option in enumerate(options))
    return f"{question.strip()}\n{listed}"


_PLACE = re.compile(r"^(?:\s*<image>)+|(?:<image>\s*)+$")


def bare_question(text: str) -> str:
    """A question without the placeholder of its picture before or behind it."""
    return _PLACE.sub("", text).strip()


def yes_or_no(answer: str) -> tuple[str, ...]:
    """Candidates of a question whose answer is yes or no; none for another."""
    return YES_NO if answer.strip().casefold() in ("yes", "no") else ()


Folder: TypeAlias = Path | zipfile.Path
"""Where pictures lie: a folder, or a place in a ZIP file."""


@dataclass(frozen=True)
class Place:
    """What a person points at.

    Attributes:
        source: A file or folder, or a hub id.
        images: Folder or ZIP file of the pictures, where they do not lie beside the records.
        split: Of the dataset; ``None`` for the format's own default.
        boxes: Form of your own boxes, a name in `FORMS`; ``None`` for pixels, unless they show
            another form.
        names: For your own data: what a field of the records is called here.
        outside: Whether records may name pictures outside of the folders.
        seen: Counts the boxes, to tell their form.
        look: Counts what pictures and evidence are like.
        kept: Fields of your own that went into the metadata.
        unread: Fields of your own that were not read.
    """

    source: str
    images: Folder | None = None
    split: str | None = None
    boxes: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    outside: bool = False
    seen: BoxForms = field(default_factory=BoxForms, compare=False)
    look: "Look" = field(default_factory=lambda: Look(), compare=False)
    kept: set[str] = field(default_factory=set, compare=False)
    unread: set[str] = field(default_factory=set, compare=False)

    @property
    def folders(self) -> list[Folder]:
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


PLACE: ContextVar[Place] = ContextVar("place")
"""What is being read, whose records name pictures; see `picture`."""


class Look:
    """What pictures and evidence are like that were read, for a person to see whether it is so."""

    _TOKEN = 14 * 14
    """Pixels of a small image token."""
    _WORDS = 8
    """With more an answer is a sentence."""

    def __init__(self) -> None:
        """Start with none."""
        self._shares: list[float] = []
        self._tiny = 0
        self._on_white = 0
        self._sentences = 0

    def add(self, problem: Problem) -> None:
        """Look at one more."""
        self._on_white += bool(problem.image.info.get("on_white"))
        open_text = not problem.candidates and problem.scoring == "exact"
        self._sentences += open_text and len(problem.answer.split()) > self._WORDS
        boxes = problem.evidence_boxes
        if boxes:
            area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
            self._shares.append(min(area / (problem.size[0] * problem.size[1]), 1.0))
            self._tiny += area < min(self._TOKEN, problem.size[0] * problem.size[1])

    def sentences(self, form: str) -> list[str]:
        """What to say of it; evidence was written in this form."""
        said = []
        if self._shares:
            covered = float(np.median(self._shares))
            said.append(
                f"Evidence of {len(self._shares)} items was read as {FORMS[form]}; it covers "
                f"{covered:.2%} of the picture (median)."
            )
        if self._tiny:
            said.append(
                f"The evidence of {self._tiny} of them is smaller than an image token of 14x14 "
                "pixels: is its form the right one (--boxes)?"
            )
        if self._sentences:
            said.append(
                f"The answers of {self._sentences} open items are sentences, and no response that "
                "words them otherwise counts as right: give scores with the responses (correct)."
            )
        if self._on_white:
            said.append(f"{self._on_white} pictures are clear in places and were put on white.")
        return said


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


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _lines(path: Path) -> Iterator[bytes]:
    """Lines in UTF-8, of a file in UTF-8 or UTF-16, maybe compressed."""
    try:
        with _opened(path) as file:
            head = file.read(2)
            if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                yield from (head + file.read()).decode("utf-16").encode().split(b"\n")
                return
            file.seek(0)
            yield from file
    except (OSError, EOFError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProblemError(f"{path} cannot be read ({reason}).") from error


def json_lines(path: Path) -> Iterator[Record | ProblemError]:
    """Records of a JSON lines file; a line that is none comes as its error."""
    for number, line in enumerate(_lines(path), start=1):
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
        table = csv.DictReader(_chained(head, texts), delimiter=mark)
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


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


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
    if not path.exists():
        raise ProblemError(f"{path} does not exist; is the dataset there as published?")
    try:
        with _opened(path) as file:
            held = file.read()
        wide = held.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return json.loads(held.decode("utf-16" if wide else "utf-8-sig"))
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise passing(error, path, ProblemError) or ProblemError(
            f"{path} cannot be read as JSON ({error})."
        ) from error


def json_list(path: Path, key: str | None = None) -> Iterator[Record | ProblemError]:
    """Records of a JSON file that holds a list, or an object with a list under ``key``.

    Without a key an object may hold a single list of objects.
    """
    held = json_file(path)
    if key is not None:
        held = held.get(key) if isinstance(held, dict) else None
    elif isinstance(held, dict):
        lists = [one for one in held.values() if isinstance(one, list) and one]
        held = lists[0] if len(lists) == 1 and isinstance(lists[0][0], dict) else None
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
    files = tables(place.path) if place.path.is_dir() else [place.path]
    if not files or kind_of(files[0]) not in TABLES:
        raise ProblemError(f"{place.source} holds no parquet file; give one, or the hub's id.")
    yield from of_split(place, files, split, read_table)


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


_LARGEST_ROW = 2**28
"""Bytes of a row of a table, unpacked, in the mean; and about what is unpacked at once."""


def _parquet(path: Path) -> Iterator[Record]:
    with _readable(path, "no parquet file"), pq.ParquetFile(path) as file:
        about = file.metadata
        whole = sum(about.row_group(at).total_byte_size for at in range(about.num_row_groups))
        each = whole // max(1, about.num_rows)
        if each > _LARGEST_ROW:
            raise ProblemError(
                f"{path} has rows of {each >> 20} MB, expected at most {_LARGEST_ROW >> 20}; get "
                "it again from a source you trust."
            )
        at_once = max(1, min(64, _LARGEST_ROW // max(1, each)))
        yield from _rows(path, file.iter_batches(batch_size=at_once))


def _arrow(path: Path) -> Iterator[Record]:
    """Rows of a file that ``save_to_disk`` of the datasets package wrote."""
    with (
        _readable(path, "not written by save_to_disk"),
        pa.memory_map(str(path)) as file,
        pa.ipc.open_stream(file) as batches,
    ):
        yield from _rows(path, batches)


@contextmanager
def _readable(path: Path, other: str) -> Iterator[None]:
    """Say in a sentence what is wrong with a table's file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise passing(error, path, ProblemError) or ProblemError(
            f"{path} is damaged or {other} ({error})."
        ) from error


def _rows(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[Record]:
    rows = (row for batch in batches for row in batch.to_pylist())
    for number, row in enumerate(rows, start=1):
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
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ProblemError(
            f"{source} is not a file here, and its split {split!r} cannot be loaded from the hub "
            f"({reason})."
        ) from error
    for name, feature in (loaded.features or {}).items():
        if isinstance(feature, ImageFeature):  # Read here as everywhere.
            loaded = loaded.cast_column(name, ImageFeature(decode=False))
    for number, row in enumerate(loaded, start=1):
        yield Record(f"{source}, {split}, row {number}", row, number)


def picture(value: object, where: str, *folders: Folder) -> Image.Image:
    """A picture as `upright_rgb` gives it.

    Args:
        value: A file's name, its bytes, also in base64 or as a ``data:`` address, a picture, or
            what a parquet file holds of one (``{"bytes": ..., "path": ...}``).
        where: For messages.
        folders: Where to look for the file, in this order.

    Raises:
        ProblemError: If it is missing, damaged, too large, of no known range, or, while a data set
            is read that does not allow it, outside of the folders and of `PLACE`.
    """
    if isinstance(value, Mapping):
        held = value.get("bytes")
        value = value.get("path") if held is None else held
    if isinstance(value, str) and (written := _base64(value)) is not None:
        value = written
    if isinstance(value, Image.Image):
        return open_picture(value, f"{where}: its picture")
    if isinstance(value, bytes | bytearray | memoryview):
        return open_picture(io.BytesIO(value), f"{where}: its picture")
    if not isinstance(value, str | Path) or not str(value):
        raise ProblemError(f"{where} has no picture ({value!r:.60}).")
    name = f"picture {value}"
    names = dict.fromkeys((str(value), str(value).replace("\\", "/")))
    places: list[Folder] = [f / one for one in names for f in folders or (Path(),)]
    file = next((place for place in places if _is_file(place)), None)
    if file is None:
        looked = ", ".join(dict.fromkeys(map(str, folders))) or "this folder"
        hint = "; say where pictures lie with --images" if ":" in str(value)[1:3] else ""
        raise ProblemError(f"{where}: {name} does not exist in {looked}{hint}.")
    if isinstance(file, zipfile.Path):
        return open_picture(io.BytesIO(file.read_bytes()), f"{where}: {name}")
    place = PLACE.get(None)
    if place is not None and not place.outside:
        # A link among the folders may lead out of what the user has named.
        paths = [one for one in folders or (Path(),) if isinstance(one, Path)]
        own = [one for one in paths if not one.is_symlink()]
        own += [one for one in place.folders if isinstance(one, Path)]
        hint = "say where pictures lie with --images, or --allow-outside if you trust the data"
        check_inside(file, f"{where}: {name}", hint, *own)
    return open_picture(file, f"{where}: {name}")


_ENCODED = re.compile(r"(?:data:[\w/+.-]*;base64,)?([A-Za-z0-9+/\s]{64,}={0,2}\s*)", re.ASCII)


def _base64(value: str) -> bytes | None:
    """The bytes of a text in base64; ``None`` for a file's name."""
    found = _ENCODED.fullmatch(value)
    if found is None or not (value.startswith("data:") or found[1].startswith(_ENCODED_HEADS)):
        return None
    try:
        return base64.b64decode("".join(found[1].split()), validate=True)
    except binascii.Error:
        return b""


_ENCODED_HEADS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkqA", "TU0AK")
"""How PNG, JPEG, GIF, WebP, BMP and TIFF begin in base64."""


def _is_file(path: Folder) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # No name that a file can have.
        return False


def file_id(*parts: object) -> str:
    """An id that can name a file, of what a dataset calls an item."""
    text = "-".join(str(part) for part in parts)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._-")[:150] or "item"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


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
