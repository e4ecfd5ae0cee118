"""What an exit code of `attcot` means, and which one an error has."""

from enum import IntEnum

from attcot_analysis.errors import AttCoTError, refused_write


class Exit(IntEnum):
    """The codes; `MEANINGS` says them in words."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    DOES_NOT_HOLD = 3
    NO_ROOM = 4
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done, and everything that was checked holds",
    Exit.ERROR: "an error: one sentence says what is wrong and what to do",
    Exit.USAGE: "the command line cannot be understood",
    Exit.DOES_NOT_HOLD: "done, but something that was checked does not hold",
    Exit.NO_ROOM: "memory ran out; what is finished is kept",
    Exit.INTERRUPTED: "interrupted: the same command goes on",
}


def exit_of(error: BaseException) -> tuple[Exit, str] | None:
    """The exit code of an error and the sentence to print; ``None`` for one nobody foresaw."""
    if isinstance(error, AttCoTError):
        return Exit.NO_ROOM if isinstance(error, MemoryError) else Exit.ERROR, str(error)
    if isinstance(error, OSError):
        sentence = refused_write(error)
        return None if sentence is None else (Exit.ERROR, sentence)
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED, "interrupted; run the same command again to go on."
    # By name, since torch must not be imported to say that something else failed.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Exit.NO_ROOM, (
            "Memory ran out; what is finished is kept. Give a smaller --batch-size (a run that was "
            "begun with another one needs a new folder), a smaller model or --dtype bfloat16."
        )
    return None
