"""Which files of a dataset are of which split, by their names and folders."""

import re
from collections.abc import Sequence
from pathlib import Path

from attcot_analysis.errors import ProblemError

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
            # One split by two names.
            return (wanted if {known, wanted} == {"val", "validation"} else known), False
    if _SHARD.search(whole.stem):
        return inside[0], True
    name = base.name.casefold()
    if name == wanted.casefold():
        return wanted, True
    return (name, True) if name in _KNOWN else ("", False)


def _holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    n = len(wanted)
    return n > 0 and any(list(words[at : at + n]) == list(wanted) for at in range(len(words)))
