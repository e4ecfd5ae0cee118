"""Problems on disk: a folder with `problems.jsonl` and one PNG per picture.

Layout::

    problems.jsonl              one JSON object per line, in order
    images/<id>.png             the picture; see `picture_file` for ids that are no file names
    images/<id>.twin.png        the twin's, where the problem has a twin
    images/<id>.control.png     the control edit's, likewise
    images/2/<id>.png           the second picture, of a problem with several; then images/3/...
    edits.json                  which edits were rejected, where somebody looked at them

A line has the fields of `Problem` without the pictures; `twin` and `control` hold `answer`,
`steps` and `boxes`. Boxes are pixels of the picture as it is shown, upright. Of several pictures
`n_images` says how many there are, `pictures` of a step in which its boxes lie, `picture` of an
edit which it replaces.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NoReturn

from PIL import Image

from attcot_analysis.errors import ProblemError, writing
from attcot_analysis.escapes import for_file_name
from attcot_analysis.files import not_there, path_of, regular, write_folder
from attcot_analysis.problems.box_forms import BoxForms
from attcot_analysis.problems.decisions import (
    DECISIONS,
    Decisions,
    read_decisions,
    warn_of_rejected,
    without_rejected,
)
from attcot_analysis.problems.pictures import DAMAGED_PNG, StoredPicture, check_inside, open_picture
from attcot_analysis.problems.problem import Box, Edit, Problem, Step, shortened

_REQUIRED = ("id", "question", "candidates", "answer")

_OPTIONAL = (
    *("habitual", "steps", "evidence", "tolerance", "scoring", "references"),
    *("twin", "control", "metadata", "n_images", "evidence_pictures", "picture_labels"),
)

_OF_SEVERAL = ("evidence_pictures", "picture_labels")

_EDIT = ("answer", "steps", "boxes")


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
    for kind, edit in _edits_of(problem):
        record[kind] = {
            "answer": edit.answer,
            "steps": [_step_record(step) for step in edit.steps],
            "boxes": _box_record(edit.boxes),
            **({"picture": edit.picture} if edit.picture > 1 else {}),
        }
    if problem.metadata:
        record["metadata"] = {key: problem.metadata[key] for key in sorted(problem.metadata)}
    if problem.n_images > 1:
        record["n_images"] = problem.n_images
    if problem.evidence_pictures:
        record["evidence_pictures"] = list(problem.evidence_pictures)
    if problem.picture_labels:
        record["picture_labels"] = list(problem.picture_labels)
    return record


def _step_record(step: Step) -> dict[str, Any]:
    record: dict[str, Any] = {"text": step.text, "boxes": _box_record(step.boxes)}
    return record | ({"pictures": list(step.pictures)} if step.pictures else {})


def _box_record(boxes: Sequence[Box]) -> list[list[float]]:
    return [[float(number) for number in box] for box in boxes]


def problem_from_record(
    record: object, picture: Callable[[str | None], Image.Image], where: str
) -> Problem:
    """Build a problem from what `problem_record` wrote, or somebody by hand.

    Args:
        record: The JSON value.
        picture: Gives the picture of the original (``None``), ``"twin"`` or ``"control"``, or of
            several the second (``"2"``), the third and so on.
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
        inner = _fields(top[kind], _EDIT, ("picture",), place)
        steps, which = _steps(inner["steps"], place), inner.get("picture", 1)
        return Edit(kind, picture(kind), inner["answer"], steps, inner["boxes"], which)

    n_images = top.get("n_images", 1)
    if type(n_images) is not int or not 1 <= n_images <= MOST_IMAGES:
        raise ProblemError(
            f"{where}: n_images is {shortened(n_images)}; expected a whole number from 1 to "
            f"{MOST_IMAGES}."
        )
    plain = ("candidates", "habitual", "evidence", "tolerance", "scoring", "references", "metadata")
    try:
        return Problem(
            id=top["id"],
            image=picture(None),
            question=top["question"],
            answer=top["answer"],
            steps=_steps(top.get("steps", []), where),
            twin=edit("twin"),
            control=edit("control"),
            more_images=tuple(picture(str(number)) for number in range(2, n_images + 1)),
            **{name: top[name] for name in (*plain, *_OF_SEVERAL) if name in top},
        )
    except ProblemError as error:
        if str(error).startswith(where):
            raise
        raise ProblemError(f"{where}: {error}") from error


def _fields(
    record: object, required: Sequence[str], optional: Sequence[str], where: str
) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise ProblemError(f"{where} holds {shortened(record)}; expected a JSON object.")
    missing = [key for key in required if key not in record]
    if missing:
        raise ProblemError(f"{where} lacks {_listed(missing)}; it must have {_listed(required)}.")
    unknown = [key for key in record if key not in required and key not in optional]
    if unknown:
        raise ProblemError(
            f"{where} has the unknown field {shortened(unknown[0])}; "
            f"known are {_listed([*required, *optional])}."
        )
    return record


def _steps(value: Any, where: str) -> Any:
    """Steps of a list of objects; what is no list is refused by whoever it is given to."""
    if not isinstance(value, list):
        return value
    known = ("boxes", "pictures")
    fields = [_fields(step, ("text",), known, f"{where}, step") for step in value]
    return [Step(**step) for step in fields]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


LINES = "problems.jsonl"

IMAGES = "images"

MOST_IMAGES = 1000
"""A line that asks for more pictures is a mistake."""


_EDITS = (".twin", ".control")

_PUBLISHED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)
"""Ids under which earlier versions, and people, write pictures as they are."""


def picture_file(folder: Path, name: str, kind: str | None = None) -> Path:
    """Where a picture of a problem folder lies.

    Args:
        folder: The problem folder.
        name: The item's id. One that is a file name on every disk (small letters, digits, dots,
            underscores and hyphens, at most 100) names the file; of others the file's name is a
            digest, unless it lies there under the id itself.
        kind: ``"twin"`` or ``"control"``; ``"2"`` for the second of several pictures and so on;
            ``None`` for the original.
    """
    further = kind is not None and kind.isdecimal()
    images = folder / IMAGES / str(kind) if further else folder / IMAGES
    ending = ".png" if kind is None or further else f".{kind}.png"
    file = images / f"{for_file_name(name, _EDITS)}{ending}"
    if not _PUBLISHED.fullmatch(name) or name.endswith(_EDITS) or file.exists():
        return file
    written = images / f"{name}{ending}"
    return written if written.exists() else file


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
        ProblemError: If an id occurs twice, the folder holds something already, or the disk is
            full.
    """
    target = path_of(folder, ProblemError)
    occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if occupied and not overwrite:
        raise ProblemError(
            f"{target} exists already; choose another folder, or replace it with overwrite=True "
            "(--overwrite on the command line)."
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
            _store(problem.image, picture_file(part, problem.id), stored)
            for kind, edit in _edits_of(problem):
                _store(edit.image, picture_file(part, problem.id, kind), stored)
            for number, image in enumerate(problem.more_images, start=2):
                file_of = picture_file(part, problem.id, str(number))
                file_of.parent.mkdir(exist_ok=True)
                _store(image, file_of, stored)
    if not seen:
        raise ProblemError("No problems were given to write; give at least one.")


def _store(image: Image.Image, part: Path, stored: dict[bytes, Path]) -> None:
    """Write a picture; one that was written before is linked, where the disk can."""
    pixels = image.tobytes()
    key = sha256(repr(image.size).encode() + pixels).digest()
    first = stored.setdefault(key, part)
    if first is not part:
        try:
            os.link(first, part)
        except OSError:  # No links there, or as many as one file can have.
            shutil.copyfile(first, part)
        return
    # A copy of the pixels alone: what else an image carries would change the bytes.
    Image.frombytes("RGB", image.size, pixels).save(part, format="PNG")


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
    root = path_of(folder, ProblemError)
    path = root / LINES
    if limit is not None and limit < 1:
        raise ProblemError(f"limit is {limit}; ask for at least one problem, or None for all.")
    try:
        raw = regular(path).read_bytes()
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
        for number in problem.numbers:
            for box in problem.boxes_in(number):
                seen_boxes.add(box, problem.sizes[number - 1])
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


def _edits_of(problem: Problem) -> list[tuple[str, Edit]]:
    return [(edit.kind, edit) for edit in (problem.twin, problem.control) if edit is not None]


def check_id(name: object, seen: set[str], where: str) -> None:
    """Refuse an id that is none or is there already, and remember it.

    Raises:
        ProblemError: Says where it stands.
    """
    if not isinstance(name, str) or not name.strip():
        raise ProblemError(f"{where}: id is {shortened(name)}; expected a text.")
    if name in seen:
        raise ProblemError(f"{where}: id {name!r} occurs twice; ids must be unique.")
    seen.add(name)


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
        file = picture_file(root, name, kind)
        title = f"{where}: image {file}"
        if any(one.is_symlink() for one in (file, file.parent, root / IMAGES)):
            check_inside(file, title, "copy the picture itself there", root)
        if keep:
            return open_picture(file, title, damaged=DAMAGED_PNG, formats=["PNG"])
        return StoredPicture.at(file, title)

    return problem_from_record(record, picture, where)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
