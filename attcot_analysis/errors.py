"""The errors a user can meet: one sentence each, naming what was wrong and what to do."""

import errno
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args

from attcot_analysis.escapes import for_sentence


class AttCoTError(ValueError):
    """Base of every error this package raises on purpose.

    What it quotes may come from anybody, so its sentence is made harmless for a terminal.
    """

    def __init__(self, *told: object) -> None:
        """Take the sentence."""
        super().__init__(*(for_sentence(one) if isinstance(one, str) else one for one in told))


class ProblemError(AttCoTError):
    """A problem, its picture, its steps or its edits contradict each other or cannot be read."""


class ModelError(AttCoTError):
    """A checkpoint cannot be loaded or belongs to no supported family."""


class LayoutError(AttCoTError):
    """The tokens of an input do not have the structure that a measurement needs."""


class MeasureError(AttCoTError):
    """A measurement was asked for on input it is not defined for."""


class NothingMeasuredError(MeasureError):
    """None of the items given has what a measurement needs."""


class TrainingError(AttCoTError):
    """A fine-tuning run is configured, or has turned, into something that must not go on."""


class NotebookError(AttCoTError):
    """A notebook is missing, does not run, or lacks what its place in the course asks for."""


class RunError(AttCoTError):
    """A run folder is missing, damaged, or would be overwritten."""


class InUseError(RunError):
    """Another process is writing to the folder."""


class NoMemoryError(AttCoTError, MemoryError):
    """Something that is whole, as far as is known, did not fit into memory."""


class ShowError(AttCoTError):
    """A figure, an explorer or a report was asked for something that its data do not hold."""


def check_known(given: object, known: Any, sentence: str) -> None:
    """Refuse a word, or words, that are not among those known.

    Args:
        given: One or several.
        known: A literal type, or the words.
        sentence: The beginning of the error's sentence, which ends with what is known.

    Raises:
        MeasureError: If one is not known, or none is given.
    """
    words = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    names = list(get_args(known) or known)
    if not words or any(word not in names for word in words):
        raise MeasureError(f"{sentence}; choose from {', '.join(names)}.")


def one_line(error: BaseException) -> str:
    """The first line of an error's message without its full stop, to be put into a sentence."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return (line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} ...").rstrip(".")


_LONGEST_REASON = 400
"""Signs of what another library says, which may list all that it knows."""

_WHOLE = {
    "seed": (0, 2**63 - 1),
    **dict.fromkeys(("batch_size", "max_new_tokens", "limit", "n", "steps"), (1, 2**31 - 1)),
    **dict.fromkeys(("samples", "edited_samples"), (1, 2**31 - 1)),
    "points": (2, 10**6),
    "max_steps": (2, 2**31 - 1),
    **dict.fromkeys(("n_boot", "n_permutations"), (1, 10**7)),
}
"""Least and largest value of arguments that are whole numbers, wherever they are called so."""


def check_numbers(**given: object) -> None:
    """Refuse what an argument of that name cannot be, in one sentence.

    Args:
        **given: Any of ``seed``, ``batch_size``, ``max_new_tokens``, ``n_boot``, ``n``,
            ``n_permutations``, ``points``, ``limit``, ``steps``, ``max_steps``,
            ``samples`` and ``edited_samples``, whole numbers; ``learning_rate``, a number above 0;
            or ``level``, a share between 0 and 1, and ``quantile``, which may be either.

    Raises:
        MeasureError: Names the argument, its value and what it may be.
    """
    for name, value in given.items():
        if name in _WHOLE:
            least, most = _WHOLE[name]
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise MeasureError(f"{name} is {value!r:.60}; give a whole number.")
            if not least <= int(value) <= most:
                raise MeasureError(f"{name} is {value}; give one from {least} to {most}.")
        elif name == "learning_rate":
            if not isinstance(value, Real) or not 0 < float(value) < math.inf:
                raise MeasureError(f"{name} is {value!r:.60}; give a rate above 0.")
        elif not isinstance(value, Real) or not (
            0 <= float(value) <= 1 if name == "quantile" else 0 < float(value) < 1
        ):
            raise MeasureError(f"{name} is {value!r:.60}; expected a share such as 0.95.")


def check_table(
    table: Any, name: str, columns: Iterable[str], error: type[AttCoTError] = MeasureError
) -> None:
    """Refuse a table that lacks columns or labels, or holds texts where numbers are read.

    Args:
        table: The table.
        name: What to call it.
        columns: Those that it must have.
        error: The kind of error.

    Raises:
        AttCoTError: Of the kind given; names the columns.
    """
    missing = [column for column in columns if column not in table]
    if missing:
        held = ", ".join(map(str, table))[:300]
        raise error(
            f"The table {name} lacks {', '.join(missing)}; it has {held}, so give it as the "
            "measurement returned it."
        )
    texts = [one for one in table if one in _NUMBERS and not _holds_numbers(table[one])]
    if len(table) and texts:
        raise error(
            f"The table {name} holds something else than numbers in {', '.join(texts)}; give it as "
            "the measurement returned it."
        )
    unnamed = [one for one in columns if one in _LABELS and table[one].isna().any()]
    if unnamed:
        raise error(
            f"The table {name} has rows without {', '.join(unnamed)}; say of every row whose it is."
        )


def _holds_numbers(column: Any) -> bool:
    """Whether a column holds numbers or nothing, be it as objects, as pandas joins empty tables."""
    if column.dtype.kind in "biuf":
        return True
    from pandas.api.types import infer_dtype

    return infer_dtype(column) in ("floating", "integer", "mixed-integer-float", "boolean", "empty")


_LABELS = ("item", "model", "metric", "a", "b", "step", "n_steps", "k", "layer", "head")
_NUMBERS = (
    *("value", "low", "high", "p", "p_value", "mass", "share", "delta_log_p", "loss", "position"),
    *("over_system", "density", "evidence_mass", "evidence_share", "evidence_area"),
    *("step", "n_steps", "k", "layer", "head", "length", "n", "n_items", "n_seeds"),
)
"""Columns that hold numbers in every table of this package."""


def not_finite(what: str) -> MeasureError:
    """The error for numbers of a model that are not finite.

    Args:
        what: The beginning of its sentence, up to where they are not.
    """
    return MeasureError(
        f"{what}; check its weights and dtype (fp16 overflows where bf16 does not)."
    )


_DISK = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "make room, or raise the limit on the size of files",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EIO: "check the disk",
    errno.EBUSY: "choose another folder",
    errno.EEXIST: "something else is there, so choose another place",
    errno.ENOTDIR: "choose a folder whose parents are folders",
    errno.EISDIR: "a folder is there, so give the file another name",
    errno.ELOOP: "choose a folder whose links lead somewhere",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What a disk can refuse, and what helps."""
_GONE = "choose a folder that is there and takes files"


def refused_write(error: OSError, path: str | Path | None = None) -> str | None:
    """The sentence for a write that the disk or the file system refused.

    Args:
        error: What was raised.
        path: What was being written; default, what the error names.

    Returns:
        ``None`` if the error is of another kind.
    """
    # Libraries in other languages give the words, but not always the number.
    code = error.errno or next((code for code in _DISK if os.strerror(code) in str(error)), 0)
    helps = _DISK.get(code)
    if helps is None and code == errno.ENOENT and path is not None and error.filename:
        # A folder that went away, or one of the system's; not another file that is looked for.
        one, other = Path(path), Path(os.fsdecode(error.filename))
        helps = _GONE if one.is_relative_to(other) or other.is_relative_to(one) else None
    if helps is None:
        return None
    what = path or error.filename or "A file"
    return (
        f"{what} cannot be written ({os.strerror(code)}); {helps} and run the same command "
        "again: what was finished before is kept."
    )


@contextmanager
def writing(path: str | Path, kind: type[AttCoTError] = RunError) -> Iterator[None]:
    """Turn a refused write of `path`, or of what lies in it, into an error of one sentence."""
    try:
        yield
    except OSError as error:
        sentence = refused_write(error, path)
        if sentence is None:
            raise
        raise kind(sentence) from error


_PASSING = {
    errno.EACCES: "allow yourself to read it",
    errno.EPERM: "allow yourself to read it",
    errno.EMFILE: "close other programs or raise the limit on open files",
    errno.ENFILE: "close other programs or raise the limit on open files",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EIO: "check the disk",
    errno.ESTALE: "see that the disk is mounted",
    errno.ENOTCONN: "see that the disk is mounted",
    errno.ETIMEDOUT: "see that the disk is mounted",
    errno.EAGAIN: "wait a little",
    errno.EBUSY: "wait a little",
    errno.EINTR: "wait a little",
}
"""What can keep a whole file from being read, and what helps."""
_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "memory allocation",
    "alloc_failed",
    "bad_alloc",
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, in main memory or on a GPU."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return not isinstance(error, AttCoTError) and any(
        saying in str(error).lower() for saying in _MEMORY
    )


def total_memory() -> int | None:
    """Bytes of memory that this process may use: the machine's, or its container's limit."""
    limits = []
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits, default=None)


def passing(
    error: BaseException, path: str | Path, kind: type[AttCoTError] = RunError
) -> AttCoTError | None:
    """The error for a read that failed for a reason that says nothing against the file.

    Args:
        error: What was raised.
        path: What was being read.
        kind: Of the error that is returned, unless memory is what is lacking.

    Returns:
        ``None`` if the error is of another kind, such as a damaged file's.
    """
    if isinstance(error, AttCoTError):
        return error
    if lacks_memory(error):
        return NoMemoryError(
            f"There is not enough memory for {path}; free some, or give the process more, and run "
            "the same command again."
        )
    code = error.errno if isinstance(error, OSError) else None
    if code not in _PASSING:
        return None
    return kind(
        f"{path} cannot be read now ({os.strerror(code)}); {_PASSING[code]} and run the same "
        "command again."
    )


@contextmanager
def notebook_packages(what: str, instead: str) -> Iterator[None]:
    """Say in a sentence which package an import inside lacks, of those that widgets are made of.

    Args:
        what: What needs it, such as ``explorer``.
        instead: What does without.

    Raises:
        ShowError: If one is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("anywidget", "ipywidgets", "traitlets"):
            raise
        raise ShowError(
            f"The {what} needs {error.name}, which is not installed; run "
            f"`pip install 'attcot-analysis[notebooks]'`, or {instead}."
        ) from error
