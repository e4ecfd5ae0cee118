"""Problems on disk: a folder with `problems.jsonl` and one PNG per picture.

Layout::

    problems.jsonl              one JSON object per line, in order
    images/<id>.png             the picture
    images/<id>.twin.png        the twin's, where the problem has a twin
    images/<id>.control.png     the control edit's, likewise
    edits.json                  which edits were rejected, where somebody looked at them

A line has the fields of `Problem` without the pictures; `twin` and `control` hold `answer`,
`steps` and `boxes`. Boxes are pixels of the picture as it is shown, upright.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, cast

from PIL import Image

from attcot_analysis.errors import ProblemError, writing
from attcot_analysis.files import not_there, write_folder
from attcot_analysis.problems.box_forms import BoxForms
from attcot_analysis.problems.decisions import (
    DECISIONS,
    Decisions,
    read_decisions,
    warn_of_rejected,
    without_rejected,
)
from attcot_analysis.problems.pictures import (
    DAMAGED_PNG,
    StoredPicture,
    check_inside,
    open_picture,
)
from attcot_analysis.problems.problem import Box, Edit, Problem, Scoring, Step

_REQUIRED = ("id", "question", "candidates", "answer")

_OPTIONAL = (
    *("habitual", "steps", "evidence", "tolerance", "scoring", "references"),
    *("twin", "control", "metadata"),
)

_EDIT = ("answer", "steps", "boxes")


T = TypeVar("T")


def problem_record(problem: Problem) -> dict[str, Any]:
    """Everything about a problem but its pictures, as JSON values in a fixed order."""
    record: dict[str, Any] = {
        "id": problem.id,
        "question": problem.question,
        "candidates": list(problem.candidates),
        "answer": problem.answer,
    }
    if problem.habitual is not None:
        record["habitual"] = problem.habitual
    record["steps"] = [_step_record(step) for step in problem.steps]
    if problem.evidence:
        record["evidence"] = _box_record(problem.evidence)
    if problem.tolerance:
        record["tolerance"] = problem.tolerance
    elif problem.scoring != "exact":
        record["scoring"] = problem.scoring
    if problem.references:
        record["references"] = list(problem.references)
    for edit in (problem.twin, problem.control):
        if edit is not None:
            record[edit.kind] = {
                "answer": edit.answer,
                "steps": [_step_record(step) for step in edit.steps],
                "boxes": _box_record(edit.boxes),
            }
    if problem.metadata:
        record["metadata"] = {key: problem.metadata[key] for key in sorted(problem.metadata)}
    return record


def _step_record(step: Step) -> dict[str, Any]:
    return {"text": step.text, "boxes": _box_record(step.boxes)}


def _box_record(boxes: Sequence[Box]) -> list[list[float]]:
    return [[float(number) for number in box] for box in boxes]


def problem_from_record(
    record: object, picture: Callable[[str | None], Image.Image], where: str
) -> Problem:
    """Build a problem from what `problem_record` wrote, or somebody by hand.

    Args:
        record: The JSON value.
        picture: Gives the picture of the original (``None``), ``"twin"`` or ``"control"``.
        where: Where the record stands; starts every error message.

    Raises:
        ProblemError: If a field is missing, unknown or of the wrong type, or the parts contradict
            each other.
    """
    top = _fields(record, _REQUIRED, _OPTIONAL, where)

    def edit(kind: Literal["twin", "control"]) -> Edit | None:
        if top.get(kind) is None:
            return None
        place = f"{where}, {kind}"
        inner = _fields(top[kind], _EDIT, (), place)
        return Edit(
            kind=kind,
            image=picture(kind),
            answer=_text(inner["answer"], "answer", place),
            steps=_each(inner["steps"], "steps", place, _step),
            boxes=_each(inner["boxes"], "boxes", place, _box),
        )

    def candidate(value: object, place: str) -> str:
        return _text(value, "candidate", place)

    def reference(value: object, place: str) -> str:
        return _text(value, "reference", place)

    habitual = top.get("habitual")
    try:
        return Problem(
            id=_text(top["id"], "id", where),
            image=picture(None),
            question=_text(top["question"], "question", where),
            candidates=_each(top["candidates"], "candidates", where, candidate),
            answer=_text(top["answer"], "answer", where),
            steps=_each(top.get("steps", []), "steps", where, _step),
            twin=edit("twin"),
            control=edit("control"),
            habitual=None if habitual is None else _text(habitual, "habitual", where),
            evidence=_each(top.get("evidence", []), "evidence", where, _box),
            tolerance=_number(top.get("tolerance", 0.0), "tolerance", where),
            scoring=cast(Scoring, _text(top.get("scoring", "exact"), "scoring", where)),
            references=_each(top.get("references", []), "references", where, reference),
            metadata=_metadata(top.get("metadata", {}), where),
        )
    except ProblemError as error:
        if str(error).startswith(where):
            raise
        raise ProblemError(f"{where}: {error}") from error


def _fields(
    record: object, required: Sequence[str], optional: Sequence[str], where: str
) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise ProblemError(f"{where} holds {_short(record)}; expected a JSON object.")
    missing = [key for key in required if key not in record]
    if missing:
        raise ProblemError(f"{where} lacks {_listed(missing)}; it must have {_listed(required)}.")
    unknown = [key for key in record if key not in required and key not in optional]
    if unknown:
        raise ProblemError(
            f"{where} has the unknown field {_short(unknown[0])}; "
            f"known are {_listed([*required, *optional])}."
        )
    return record


def _text(value: object, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise ProblemError(f"{where}: {name} is {_short(value)}; expected a string.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ProblemError(
            f"{where}: {name} {_short(value)} holds half of a surrogate pair, which is no "
            "character; write it in UTF-8."
        ) from None
    return value


def _number(value: object, name: str, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ProblemError(f"{where}: {name} is {_short(value)}; expected a number.")
    return float(value)


def _each(value: object, name: str, where: str, read: Callable[[Any, str], T]) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise ProblemError(f"{where}: {name} is {_short(value)}; expected a list.")
    return tuple(read(entry, where) for entry in value)


def _step(value: object, where: str) -> Step:
    step = _fields(value, ("text",), ("boxes",), f"{where}, step")
    return Step(
        text=_text(step["text"], "step text", where),
        boxes=_each(step.get("boxes", []), "boxes", where, _box),
    )


def _box(value: object, where: str) -> Box:
    if (
        not isinstance(value, list)
        or len(value) != 4
        or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in value)
    ):
        raise ProblemError(f"{where}: box is {_short(value)}; expected four numbers.")
    try:
        x0, y0, x1, y1 = (float(n) for n in value)
    except OverflowError:
        raise ProblemError(f"{where}: box {_short(value)} holds too large a number.") from None
    return x0, y0, x1, y1


def _metadata(value: object, where: str) -> dict[str, str | int | float | bool]:
    if not isinstance(value, dict):
        raise ProblemError(f"{where}: metadata is {_short(value)}; expected a JSON object.")
    for key, entry in value.items():
        if not isinstance(entry, str | int | float | bool):
            raise ProblemError(
                f"{where}: metadata {key!r} is {_short(entry)}; expected a string, number or "
                "true/false."
            )
        for text in (key, entry):
            if isinstance(text, str):
                _text(text, "metadata", where)
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


LINES = "problems.jsonl"

IMAGES = "images"


_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)


def save_problems(
    problems: Iterable[Problem], folder: str | Path, *, overwrite: bool = False
) -> Path:
    """Write problems to a folder; the same problems give the same bytes.

    Everything is written beside the folder first and then moved there, so a failure leaves what
    was there before untouched. Pictures that are the same share one file on the disk (hard links).
    Problems are taken one by one: a generator of more than fit into
    memory is fine.

    Args:
        problems: At least one.
        folder: Where to; parents are made.
        overwrite: Replace a problem folder that is already there.

    Returns:
        The folder.

    Raises:
        ProblemError: If an id cannot be a file name or occurs twice, a value cannot be written as
            JSON, the folder holds something already, or the disk is full.
    """
    target = Path(folder)
    occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if occupied and not overwrite:
        raise ProblemError(
            f"{target} exists already; choose another folder or pass overwrite=True."
        )
    if occupied and not (target / LINES).is_file():
        raise ProblemError(
            f"{target} is not a problem folder (it has no {LINES}), so it is not overwritten; "
            "choose another folder."
        )
    with writing(target, ProblemError):
        write_folder(target, lambda part: _write_part(problems, part))
    return target


def _write_part(problems: Iterable[Problem], part: Path) -> None:
    (part / IMAGES).mkdir()
    seen: set[str] = set()
    stored: dict[bytes, Path] = {}
    with (part / LINES).open("wb") as file:
        for problem in problems:
            check_id(problem.id, seen, "Cannot save")
            file.write(problem_line(problem).encode())
            for name, image in _images(problem):
                _store(image, part / IMAGES / name, stored)
    if not seen:
        raise ProblemError("No problems were given to write; give at least one.")


def _store(image: Image.Image, path: Path, stored: dict[bytes, Path]) -> None:
    """Write a picture; one that was written before is linked, where the disk can."""
    pixels = image.tobytes()
    key = sha256(repr(image.size).encode() + pixels).digest()
    first = stored.setdefault(key, path)
    if first is not path:
        try:
            os.link(first, path)
        except OSError:  # No links there, or as many as one file can have.
            shutil.copyfile(first, path)
        return
    # A copy of the pixels alone: what else an image carries would change the bytes.
    Image.frombytes("RGB", image.size, pixels).save(path, format="PNG")


def load_problems(
    folder: str | Path, limit: int | None = None, *, keep_pictures: bool = True
) -> list[Problem]:
    """Read problems from a folder written by `save_problems` or by hand.

    Args:
        folder: Folder with `problems.jsonl` and `images/`.
        limit: Read only the first so many; default: all.
        keep_pictures: Hold all pictures in memory. Without, only their headers are read now, and
            a picture whenever it is looked at, which is for sets that memory does not hold.

    Raises:
        ProblemError: One sentence with file and line, at the first thing that is wrong.
    """
    root = Path(folder).expanduser()
    path = root / LINES
    if limit is not None and limit < 1:
        raise ProblemError(f"limit is {limit}; ask for at least one problem, or None for all.")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        lacks = f"{root} has no {LINES}; give a folder written by save_problems."
        raise ProblemError(lacks if root.exists() else not_there(root)) from None
    except OSError as error:
        raise ProblemError(f"{path} cannot be read ({error.strerror}).") from error
    problems: list[Problem] = []
    seen: set[str] = set()
    decisions = read_decisions(root)
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if limit is not None and len(problems) == limit:
            break
        if line.strip():
            where = f"{path}, line {number}"
            problems.append(_problem(root, line, where, seen, keep_pictures, decisions))
    if not problems:
        raise ProblemError(f"{path} holds no problems; it needs one JSON object per line.")
    seen_boxes = BoxForms()
    for problem in problems:
        for box in problem.evidence_boxes:
            seen_boxes.add(box, problem.size)
    if seen_boxes.doubt is not None:
        warnings.warn(f"{path}: {seen_boxes.doubt}", stacklevel=2)
    warn_of_rejected(root / DECISIONS, decisions)
    return problems


def problem_line(problem: Problem) -> str:
    """A problem without its pictures as a line of JSON.

    Raises:
        ProblemError: If a value cannot be written.
    """
    try:
        line = json.dumps(problem_record(problem), ensure_ascii=False, allow_nan=False)
        line.encode()
    except (TypeError, ValueError) as error:
        raise ProblemError(f"Problem {problem.id} cannot be written as JSON: {error}.") from error
    return line + "\n"


def _images(problem: Problem) -> list[tuple[str, Image.Image]]:
    images = [(f"{problem.id}.png", problem.image)]
    for edit in (problem.twin, problem.control):
        if edit is not None:
            images.append((f"{problem.id}.{edit.kind}.png", edit.image))
    return images


def check_id(name: object, seen: set[str], where: str) -> None:
    """Refuse an id that cannot name a file or is there already, and remember it.

    Raises:
        ProblemError: Says where it stands.
    """
    if not isinstance(name, str) or not _SAFE_ID.fullmatch(name):
        raise ProblemError(
            f"{where}: id {name!r} cannot name a file; use letters, digits, '.', '_' and '-', "
            "starting with a letter or digit, at most 200."
        )
    if name.endswith((".twin", ".control")):
        raise ProblemError(
            f"{where}: id {name!r} would clash with the pictures of edits; do not end it in "
            "'.twin' or '.control'."
        )
    # Some file systems do not tell upper from lower case.
    if name.lower() in seen:
        raise ProblemError(
            f"{where}: id {name!r} occurs twice (letter case does not count); ids must be unique."
        )
    seen.add(name.lower())


def _problem(
    root: Path, line: bytes, where: str, seen: set[str], keep: bool, decisions: Decisions
) -> Problem:
    try:
        record = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{where} is not valid JSON: {error}.") from error
    if isinstance(record, dict):
        record = without_rejected(record, decisions)
    return folder_problem(root, record, where, seen, keep=keep)


def folder_problem(root: Path, record: Any, where: str, seen: set[str], *, keep: bool) -> Problem:
    """The problem of a line of a problem folder, with its pictures.

    Args:
        root: The folder.
        record: What the line holds.
        where: For messages.
        seen: Ids so far; this one is added.
        keep: Hold the pictures in memory.

    Raises:
        ProblemError: If anything about it is wrong.
    """
    name = record.get("id", "") if isinstance(record, Mapping) else ""

    def picture(kind: str | None) -> Any:
        check_id(name, seen if kind is None else set(), where)
        file = root / IMAGES / f"{name}{'' if kind is None else f'.{kind}'}.png"
        title = f"{where}: image {file}"
        if file.is_symlink() or (root / IMAGES).is_symlink():
            check_inside(file, title, "copy the picture itself there", root)
        if keep:
            return open_picture(file, title, damaged=DAMAGED_PNG, formats=["PNG"])
        return StoredPicture.at(file, title)

    return problem_from_record(record, picture, where)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
