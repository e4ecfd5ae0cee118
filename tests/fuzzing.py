"""Inputs drawn at random: damaged bytes, JSON values in the wrong places, and command lines."""

import json
import random
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults import HOSTILE
from hypothesis import strategies as st

from attcot_analysis.cli import command_line

WORDS = st.text('ab1 \n\t\x00<&:{["é漢\u2028', max_size=6)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | WORDS
    | st.sampled_from([HOSTILE, "", "\x00", "arrows", "../..", "1e999", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
SEEDS = st.integers(0, 2**32 - 1)


def harmed(content: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut out, doubled, or put in, in up to three places."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(changed) + 1)
        stop = min(len(changed), start + draw.choice((0, 1, 1, 2, 30)))
        changed[start:stop] = draw.choice(
            (b"", bytes([draw.randrange(256)]), bytes(changed[start:stop]) * 2, b'\xff\xfe{["')
        )
    return bytes(changed)


def planted(data: object, draw: random.Random, value: object) -> object:
    """A JSON value with another value somewhere in it, or with a part of it gone."""
    if isinstance(data, dict) and data and draw.random() < 0.8:
        key = draw.choice(sorted(data))
        rest = dict(data)
        if draw.random() < 0.15:
            rest.pop(key)
        else:
            rest[key] = planted(data[key], draw, value)
        return rest
    if isinstance(data, list) and data and draw.random() < 0.7:
        at = draw.randrange(len(data))
        return [*data[:at], planted(data[at], draw, value), *data[at + 1 :]]
    return value


# --- command lines ------------------------------------------------------------------------------

LONG = {
    ("reproduce",): "trains and measures for minutes, and takes no file",
    ("testbed", "build"): "trains, and takes no file",
    ("testbed", "validity"): "trains, and takes no file",
    ("testbed", "claims"): "draws forty figures; its damaged files are in tests/test_strangers.py",
}
"""Commands that are not drawn, and why."""
SLOW = (
    *("generate", "measure", "check-model", "finetune", "run", "grid", "report", "compare"),
    *("figures", "testbed gates", "testbed study"),
)
"""Commands that load a model or draw many figures where their input is whole."""
_KINDS = {
    "model": ("model",),
    "models": ("model",),
    "problems": ("problems",),
    "before": ("run",),
    "after": ("run",),
    "run": ("run",),
    "run_folder": ("run",),
    "path": ("problems", "records", "responses"),
    "file": ("plan",),
    "decisions": ("decisions",),
    "generations": ("responses",),
    "folder": ("new",),
    "out": ("new",),
    "requests": ("new",),
}
_SMALL = {"--steps": "1", "--items": "2", "--max-new-tokens": "4", "--examples": "1"}
_TEXTS = (
    "",
    "0",
    "-1",
    "1",
    "2",
    "1e999",
    "nan",
    "x",
    "a,b",
    "~",
    "..",
    HOSTILE,
    "\udcff",
    "9" * 30,
)


def commands() -> dict[tuple[str, ...], Any]:
    """Every command of the command line, by its words."""

    def below(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from below(command, (*path, name))
            else:
                yield (*path, name), command

    return dict(below(command_line(), ()))


def drawn_command(world: Path, draw: random.Random, *, slow: bool = True) -> list[str]:
    """A command with arguments and options that are mostly of the right kind.

    Args:
        world: Holds files and folders that may be named: ``problems``, ``run``, ``model``, ...
        draw: What is drawn from.
        slow: Also commands of `SLOW`.
    """
    every = commands()
    names = [one for one in every if one not in LONG and (slow or " ".join(one) not in SLOW)]
    name = draw.choice(names)
    words = [*name]
    there = sorted(path.name for path in world.iterdir())

    def value(of: str) -> str:
        kinds = _KINDS.get(of, ())
        if kinds and draw.random() < 0.85:
            kind = draw.choice(kinds)
            return str(world / (f"new-{draw.randrange(3)}" if kind == "new" else kind))
        if draw.random() < 0.3:
            return str(world / draw.choice(there))
        return draw.choice(_TEXTS)

    options = []
    for one in every[name].params:
        of = str(one.name)
        if one.param_type_name == "argument":
            words += [value(of)] if one.required or draw.random() < 0.5 else []
            continue
        option = next((text for text in one.opts if text.startswith("--")), None)
        if option in (None, "--help", "--install-completion", "--show-completion"):
            continue
        if option in _SMALL and draw.random() < 0.9:
            options += [option, _SMALL[option]]
        elif one.required or draw.random() < 0.12:
            choices = [str(choice) for choice in getattr(one, "choices", None) or ()]
            takes = 0 if one.is_flag else max(1, one.nargs)
            chosen = choices if choices and draw.random() < 0.7 else None
            values = [draw.choice(chosen) if chosen else value(of) for _ in range(takes)]
            options += [option, *values]
    return [*words, *options]


def damage(world: Path, draw: random.Random, value: object) -> str:
    """Damage one file of a world, of a kind that a stranger could have written; its name."""
    files = sorted(path for path in world.rglob("*") if path.is_file())
    kinds = sorted({path.suffix for path in files})
    kind = draw.choice(kinds)
    path = draw.choice([path for path in files if path.suffix == kind])
    content = path.read_bytes()
    if kind in (".json", ".jsonl") and draw.random() < 0.7:
        lines = content.splitlines() if kind == ".jsonl" else [content]
        at = draw.randrange(len(lines) or 1)
        try:
            changed = planted(json.loads(lines[at]), draw, value)
            lines[at] = json.dumps(changed).encode()
        except (ValueError, IndexError):
            pass
        path.write_bytes(b"\n".join(lines))
    else:
        path.write_bytes(harmed(content, draw))
    return path.relative_to(world).as_posix()


@contextmanager
def copied(world: Path, place: Path) -> Iterator[Path]:
    """A copy of a world, taken away again."""
    shutil.copytree(world, place)
    try:
        yield place
    finally:
        shutil.rmtree(place)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise what no code of ours catches where something takes too long."""

    def stop(*_: object) -> None:
        raise TookTooLong(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again: what is raised in a finaliser is only printed.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class TookTooLong(BaseException):
    """An input that something never comes to an end with."""


STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
