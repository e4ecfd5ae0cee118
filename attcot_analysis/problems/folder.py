"""Problems on disk: a folder with `problems.jsonl` and one PNG per picture.

Layout::

    problems.jsonl              one JSON object per line, in order
    images/<id>.png             the picture
    images/<id>.twin.png        the twin's, where the problem has a twin
    images/<id>.control.png     the control edit's, likewise

A line has the fields of `Problem` without the pictures; `twin` and `control` hold `answer`,
`steps` and `boxes`. Boxes are pixels of the picture as it is shown, upright.
"""

import json
import re
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from PIL import Image

from attcot_analysis.errors import ProblemError, writing
from attcot_analysis.problems.box_forms import BoxForms
from attcot_analysis.problems.pictures import open_picture
from attcot_analysis.problems.problem import Problem
from attcot_analysis.problems.record import problem_from_record, problem_record
from attcot_analysis.problems.stored import stored

LINES = "problems.jsonl"
IMAGES = "images"

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)


def save_problems(
    problems: Iterable[Problem], folder: str | Path, *, overwrite: bool = False
) -> Path:
    """Write problems to a folder; the same problems give the same bytes.

    Everything is written beside the folder first and then moved there, so a failure leaves what
    was there before untouched. Problems are taken one by one: a generator of more than fit into
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
        _write(problems, target)
    return target


def _write(problems: Iterable[Problem], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _write_part(problems, part)
        if target.exists():
            old = target.with_name(f".{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            try:
                part.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        else:
            part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_part(problems: Iterable[Problem], part: Path) -> None:
    (part / IMAGES).mkdir(parents=True)
    seen: set[str] = set()
    with (part / LINES).open("wb") as file:
        for problem in problems:
            _check_id(problem.id, seen, "Cannot save")
            file.write(_line(problem).encode())
            for name, image in _images(problem):
                # A copy of the pixels alone: what else an image carries would change the bytes.
                clean = Image.frombytes("RGB", image.size, image.tobytes())
                clean.save(part / IMAGES / name, format="PNG")
    if not seen:
        raise ProblemError("No problems were given to write; give at least one.")


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
    root = Path(folder)
    path = root / LINES
    if limit is not None and limit < 1:
        raise ProblemError(f"limit is {limit}; ask for at least one problem, or None for all.")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ProblemError(
            f"{root} has no {LINES}; give a folder written by save_problems."
        ) from None
    except OSError as error:
        raise ProblemError(f"{path} cannot be read ({error.strerror}).") from error
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if limit is not None and len(problems) == limit:
            break
        if line.strip():
            where = f"{path}, line {number}"
            problems.append(_problem(root, line, where, seen, keep_pictures))
    if not problems:
        raise ProblemError(f"{path} holds no problems; it needs one JSON object per line.")
    seen_boxes = BoxForms()
    for problem in problems:
        for box in problem.evidence_boxes:
            seen_boxes.add(box, problem.size)
    if seen_boxes.doubt is not None:
        warnings.warn(f"{path}: {seen_boxes.doubt}", stacklevel=2)
    return problems


def _line(problem: Problem) -> str:
    try:
        line = json.dumps(problem_record(problem), ensure_ascii=False, allow_nan=False)
        line.encode()
    except (TypeError, ValueError) as error:
        raise ProblemError(f"Problem {problem.id} cannot be written as JSON: {error}.") from error
    return line + "\n"


def _images(problem: Problem) -> list[tuple[str, Image.Image]]:
    found = [(f"{problem.id}.png", problem.image)]
    for edit in (problem.twin, problem.control):
        if edit is not None:
            found.append((f"{problem.id}.{edit.kind}.png", edit.image))
    return found


def _check_id(name: object, seen: set[str], where: str) -> None:
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


def _problem(root: Path, line: bytes, where: str, seen: set[str], keep: bool) -> Problem:
    try:
        record = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{where} is not valid JSON: {error}.") from error
    name = record.get("id", "") if isinstance(record, dict) else ""

    def file(kind: str | None) -> Path:
        return root / IMAGES / f"{name}{'' if kind is None else f'.{kind}'}.png"

    def picture(kind: str | None) -> Image.Image:
        _check_id(name, seen if kind is None else set(), where)
        return _read_image(file(kind), where, blank=not keep)

    problem = problem_from_record(record, picture, where)
    return problem if keep else stored(problem, file, _read_later)


def _read_later(path: Path) -> Image.Image:
    return _read_image(path, str(path.parent.parent))


def _read_image(path: Path, where: str, *, blank: bool = False) -> Image.Image:
    """A picture, or a blank one of the size that its header tells."""
    return open_picture(
        path,
        f"{where}: image {path}",
        damaged="is damaged or not a PNG",
        formats=["PNG"],
        blank=blank,
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
