"""Files of a run folder: written whole or not at all, and by one run at a time; missing folders."""

import errno
import glob
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import IO

from attcot_analysis.errors import AttCoTError, InUseError, RunError, writing

LOCK = ".lock"
"""Name of the lock file in a run folder; it stays there, what counts is who holds it."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def path_of(given: str | Path, error: type[AttCoTError] = RunError) -> Path:
    """A path as somebody gave it, with ``~`` for the home folder.

    Args:
        given: The path.
        error: The kind of error.

    Raises:
        AttCoTError: Of the kind given, if no file can have that name.
    """
    try:
        path = Path(given).expanduser()
        parts = [os.fsencode(part) for part in path.parts]
    except (TypeError, ValueError, RuntimeError) as reason:
        raise error(f"{given!r:.200} is no path ({reason}); give that of a file.") from reason
    if any(b"\0" in part for part in parts):
        raise error(f"{str(given)[:200]!r} holds NUL, which no name of a file may; leave it out.")
    if any(len(part) > 255 for part in parts) or len(os.fsencode(path)) > 4095:
        raise error(f"{str(given)[:60]}... is longer than the name of a file can be; shorten it.")
    return path


def name_of(given: str | Path, error: type[AttCoTError]) -> str:
    """A folder or hub id as somebody gave it; a folder keeps its ``./``, so that it is no hub id.

    Raises:
        AttCoTError: As `path_of`.
    """
    path_of(given, error)
    return os.path.expanduser(given)


def check_free(path: Path, overwrite: bool, error: type[AttCoTError] = RunError) -> None:
    """Refuse to write over what is there, unless that is asked for.

    Raises:
        AttCoTError: Of the kind given.
    """
    if path.exists() and not overwrite:
        raise error(
            f"{path} is already there; choose another name, or replace it with overwrite=True "
            "(--overwrite on the command line)."
        )


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside its place and move it there when it is complete and on the disk.

    Whoever looks, also after a crash at any moment, finds the old file or the new one.

    Args:
        path: Where to; its folder is made.
        write: Called with the path to write to.

    Raises:
        RunError: If the disk is full, or the file may not be written.
    """
    part = _part_of(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666))
            write(part)
            _to_disk(part)
            os.replace(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        if sys.platform != "win32":
            _to_disk(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of that content, as `write_whole` does."""
    write_whole(path, lambda part: part.write_bytes(content))


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Make a folder beside its place and move it there when it is complete, over an earlier one.

    Args:
        path: Where to; its parents are made.
        write: Called with the new, empty folder to write into.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 16}.part"):
        shutil.rmtree(left, ignore_errors=True)
    part.mkdir()
    try:
        write(part)
        if not path.exists():
            part.rename(path)
            return
        old = part.with_suffix(".old")
        path.rename(old)
        try:
            part.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part_of(path: Path) -> Path:
    """Where to write before it is complete: a name that nobody can have laid a link under."""
    return path.parent / f".{path.name}.{secrets.token_hex(8)}.part"


def near_folder(path: Path) -> Path | None:
    """The folder that may be meant by a path that leads nowhere."""
    there = next((folder for folder in path.parents if folder.is_dir()), Path())
    name, *below = path.relative_to(there).parts
    try:
        beside = [one.name for one in there.iterdir() if one.is_dir()]
    except OSError:
        return None
    found = [there / near for near in get_close_matches(name, beside, n=1)]
    whole = [near.joinpath(*below) for near in found if near.joinpath(*below).is_dir()]
    return next(iter(whole or found), None)


def not_there(path: Path) -> str:
    """The sentence for a folder that does not exist, with the one that may be meant."""
    near = near_folder(path)
    return f"There is no folder {path}; " + (f"did you mean {near}?" if near else "check the path.")


def own_folder(folder: Path, name: str) -> Path:
    """A folder inside another, which must not be a link out of it.

    Raises:
        RunError: If it is one.
    """
    path = folder / name
    if path.is_symlink():
        raise RunError(
            f"{path} is a link, so that writing there would change files elsewhere; remove it or "
            "choose another folder."
        )
    return path


def no_linked_folders(folder: Path) -> None:
    """See that nothing in a folder that is written to leads out of it; links to files are replaced.

    Raises:
        RunError: If something does.
    """
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.is_file():
            own_folder(path.parent, path.name)


def regular(path: Path) -> Path:
    """A path in a folder of anybody, at which a pipe would be waited for for ever.

    Raises:
        OSError: If something is there that is no file.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file")
    return path


def inside(file: Path, *folders: Path) -> bool:
    """Whether a file lies in one of some folders, wherever links on its way lead."""
    try:
        whole = file.resolve()
    except (OSError, RuntimeError):  # Links that lead round in circles.
        return False
    return any(whole.is_relative_to(folder.resolve()) for folder in folders)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed calls of `write_whole` have left in a folder."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, beside: bool = False) -> Iterator[None]:
    """Hold a folder's lock, so that no other run writes to it.

    The operating system holds the lock for as long as this process lives, so a dead process
    leaves none behind. On a file system without locks a warning says that none is held.

    Args:
        folder: The folder.
        beside: Put the lock file beside the folder, which need not exist, and take it away
            afterwards.

    Raises:
        InUseError: If another process holds it.
        RunError: If the lock file cannot be written.
    """
    path = folder.with_name(f".{folder.name}{LOCK}") if beside else folder / LOCK
    with writing(path):
        file = open_to_append(path)
    with file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                warnings.warn(
                    f"{folder} is on a file system without locks ({error.strerror}); make sure "
                    "that no other run writes to it.",
                    stacklevel=3,
                )
            else:
                file.seek(0)
                holder = file.read(20).strip()
                raise InUseError(
                    f"{folder} is being written to by another process"
                    f"{f' (number {holder})' if holder else ''}; wait for it or end it, or "
                    "choose another folder."
                ) from None
        if beside and not _same_file(file, path):
            raise InUseError(
                f"Another process has just finished with {folder}; run the same command again."
            )
        with writing(path):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                file.truncate(0)
                if beside:
                    path.unlink()


def open_to_append(path: Path) -> IO[str]:
    """Open a file for lines behind those that it has, or a new one; for reading, too.

    Raises:
        RunError: If it is a link, or no file.
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        what = "a link, so that writing to it would change a file elsewhere"
        raise RunError(
            f"{path} is {what if path.is_symlink() else 'no file'}; remove it or choose another "
            "place."
        )
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_LINK, 0o666)
    return open(descriptor, "a+", encoding="utf-8")


def _same_file(file: IO[str], path: Path) -> bool:
    """Whether an open file is still what its path names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        # A byte far behind the text, which others may then still read.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
