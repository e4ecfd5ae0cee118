"""`Place`: what a person points at, and the pictures that records name in it."""

import base64
import binascii
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.box_forms import FORMS, BoxForms
from attcot_analysis.problems.pictures import check_inside, open_picture
from attcot_analysis.problems.problem import Problem

_LARGEST = 2**28
"""Bytes of a picture in an archive, unpacked."""


class Look:
    """What pictures and evidence are like that were read, for a person to see whether it is so."""

    def __init__(self) -> None:
        """Start with none."""
        self._shares: list[float] = []
        self._counts: Counter[str] = Counter()

    def add(self, problem: Problem) -> None:
        """Look at one more."""
        pixels, boxes = sum(map(prod, problem.sizes)), problem.evidence_boxes
        area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
        if boxes:
            self._shares.append(min(area / pixels, 1.0))
        exact = not problem.candidates and problem.scoring == "exact"
        brightest = np.asarray(problem.image.getextrema()).max()
        found = {
            "tiny": bool(boxes) and area < min(_TOKEN, pixels),
            "sentences": exact and len(problem.answer.split()) > _WORDS,
            "humans": problem.scoring == "vqa",
            "dark": bool(brightest < _DARK),
            "on_white": bool(problem.image.info.get("on_white")),
        }
        self._counts.update(name for name, holds in found.items() if holds)

    def sentences(self, form: str | None) -> list[str]:
        """What to say of it; evidence was written in this form, ``None`` for its format's own."""
        said = []
        if self._shares:
            covered = float(np.median(self._shares))
            said.append(
                f"Evidence of {len(self._shares)} items was read"
                + (f" as {FORMS[form]}" if form else "")
                + f"; it covers {covered:.2%} of the picture (median)."
            )
        counts = self._counts
        return said + [words.format(counts[name]) for name, words in _SAID.items() if counts[name]]


_TOKEN = 14 * 14
"""Pixels of a small image token."""
_DARK = 32
"""Of 255: a picture without anything brighter is nearly black."""
_WORDS = 8
"""With more an answer is a sentence."""
_SAID = {
    "tiny": "The evidence of {} of them is smaller than an image token of 14x14 pixels: is its "
    "form the right one (--boxes)?",
    "sentences": "The answers of {} open items are sentences, and no response that words them "
    "otherwise counts as right: give scores with the responses (correct).",
    "humans": "{} items are scored as in VQA, by how many people gave an answer.",
    "dark": "{} pictures are nearly black: do 16-bit files hold 10 or 12 bits?",
    "on_white": "{} pictures are clear in places and were put on white.",
}


Folder: TypeAlias = Path | zipfile.Path
"""Where pictures lie: a folder, or a place in a ZIP file."""

Show: TypeAlias = Callable[[object, str], Image.Image]
"""Gives the picture that a record names or holds; the second argument is for messages."""


@dataclass(frozen=True)
class Place:
    """What a person points at, and what was found there.

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
    look: Look = field(default_factory=Look, compare=False)
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

    def show(self, *folders: Folder) -> Show:
        """What gives the pictures of these folders, default `folders`."""
        own = None if self.outside else self.folders
        return partial(picture, folders=folders or self.folders, own=own)

    def find(self, name: object, where: str, folders: Sequence[Folder] = ()) -> Path:
        """A video, or a folder of its frames, in these folders, default `folders`.

        Raises:
            ProblemError: If there is none, or it lies outside of the folders.
        """
        if not isinstance(name, str) or not name:
            raise ProblemError(f"{where}: video is {name!r:.60}; expected a file or a folder.")
        own = None if self.outside else self.folders
        film = found(name, f"{where}: video {name}", folders or self.folders, own, film=True)
        if isinstance(film, zipfile.Path):
            raise ProblemError(f"{where}: video {name} lies in a ZIP file; unpack it.")
        return film


def picture(
    value: object,
    where: str,
    folders: Sequence[Folder] = (),
    own: Sequence[Folder] | None = None,
) -> Image.Image:
    """A picture as `upright_rgb` gives it.

    Args:
        value: A file's name, its bytes, also in base64 or as a ``data:`` address, a picture, or
            what a parquet file holds of one (``{"bytes": ..., "path": ...}``).
        where: For messages.
        folders: Where to look for the file, in this order.
        own: Folders that it must lie in, if it lies in none of ``folders``; default anywhere.

    Raises:
        ProblemError: If it is missing, damaged, too large, of no known range, or outside of the
            folders.
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
    name = f"{where}: picture {value}"
    file = found(str(value), name, folders, own)
    if isinstance(file, zipfile.Path):
        unpacked = file.root.getinfo(file.at).file_size
        if unpacked > _LARGEST:
            raise ProblemError(f"{name} unpacks to {unpacked >> 20} MB; make it smaller.")
        return open_picture(io.BytesIO(file.read_bytes()), name)
    return open_picture(file, name)


def found(
    value: str,
    name: str,
    folders: Sequence[Folder],
    own: Sequence[Folder] | None = None,
    *,
    film: bool = False,
) -> Folder:
    """Where a file lies that a record names, or of a ``film`` a folder; else as `picture`.

    Raises:
        ProblemError: If it does not exist, or lies outside of the folders.
    """
    names = dict.fromkeys((value, value.replace("\\", "/")))
    places: list[Folder] = [f / one for one in names for f in folders or (Path(),)]
    file = next((place for place in places if _is_file(place, film)), None)
    if file is None:
        shown = ("this folder" if str(one) == "." else str(one) for one in folders)
        looked = ", ".join(dict.fromkeys(shown)) or "this folder"
        hint = "; say where pictures lie with --images" if ":" in value[1:3] else ""
        raise ProblemError(f"{name} does not exist in {looked}{hint}.")
    if own is not None and isinstance(file, Path):
        # A link among the folders may lead out of what the user has named.
        paths = [one for one in folders or (Path(),) if isinstance(one, Path)]
        safe = [one for one in paths if not one.is_symlink()]
        safe += [one for one in own if isinstance(one, Path)]
        hint = "say where pictures lie with --images, or --allow-outside if you trust the data"
        check_inside(file, name, hint, *safe)
    return file


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


def _is_file(path: Folder, or_folder: bool) -> bool:
    try:
        return path.is_file() or (or_folder and path.is_dir())
    except (OSError, ValueError):  # No name that a file can have.
        return False
