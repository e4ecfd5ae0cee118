"""Problems whose pictures stay on the disk, since memory may not hold those of a whole data set."""

from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import Image

from attcot_analysis.problems.problem import Edit, Problem

Read = Callable[[Path], Image.Image]
Kind = Literal["twin", "control"]
T = TypeVar("T", Problem, Edit)

_KEPT = 16
"""Pictures of the last looks, which are often at the same one."""


class _OnDisk:
    """Reads ``image`` when it is looked at; one that is set is kept, as in any other problem."""

    __dict__: dict[str, Any]

    @property
    def image(self) -> Image.Image:
        """The picture, read from its file."""
        own = self.__dict__.get("_image")
        if own is not None:
            return own
        file, read = self.__dict__["_file"]
        return _look(file, read, _stamp(file))

    @image.setter
    def image(self, image: Image.Image) -> None:
        self.__dict__["_image"] = image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture, without reading it."""
        own = self.__dict__.get("_image")
        return own.size if own is not None else self.__dict__["_size"]


class StoredEdit(_OnDisk, Edit):
    """An edit whose picture is read when it is looked at."""


class StoredProblem(_OnDisk, Problem):
    """A problem whose picture is read when it is looked at."""


def stored(problem: Problem, file: Callable[[str | None], Path], read: Read) -> Problem:
    """The same problem without its pictures in memory.

    Args:
        problem: With pictures, or blank ones of the same size.
        file: Where the picture of the original (``None``), twin or control lies.
        read: Reads a file; must be a function of a module, to be sent to other processes.
    """
    light = _without(problem, StoredProblem, file(None), read)
    for kind in ("twin", "control"):
        edit = getattr(problem, kind)
        if edit is not None:
            light.__dict__[kind] = _without(edit, StoredEdit, file(kind), read)
    return light


def _without(one: T, kind: type[T], file: Path, read: Read) -> T:
    light = object.__new__(kind)
    light.__dict__.update(
        {field.name: getattr(one, field.name) for field in fields(one) if field.name != "image"}
    )
    light.__dict__.update(_file=(file, read), _size=one.image.size)
    return light


def _stamp(file: Path) -> tuple[int, ...]:
    """What tells a file from one that was written in its place since."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


@lru_cache(maxsize=_KEPT)
def _look(file: Path, read: Read, stamp: tuple[int, ...]) -> Image.Image:
    return read(file)
