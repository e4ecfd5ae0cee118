"""Your own data: JSON lines beside a folder of pictures.

One object per line; only ``image``, ``question`` and ``answer`` must be there::

    {"id": "kitchen-7", "image": "photos/7.jpg", "question": "What colour is the kettle?",
     "answer": "red", "candidates": ["red", "blue", "green"], "habitual": "blue",
     "steps": ["The kettle stands by the window.",
               {"text": "It is red.", "boxes": [[210, 80, 290, 170]]}],
     "twin": {"image": "photos/7-blue.png", "answer": "blue", "boxes": [[210, 80, 290, 170]]},
     "control": {"image": "photos/7-cup.png", "boxes": [[20, 80, 100, 170]]}}

``rationale`` may stand for ``steps`` as one text, ``boxes`` for evidence of which it is not known
what step reads it. Pictures are named relative to the file. Boxes are pixels ``[x0, y0, x1, y1]``
of the picture as it is shown, upright.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.box_forms import to_pixels
from attcot_analysis.problems.data.source import (
    Made,
    Place,
    Record,
    choose,
    each,
    json_lines,
    picture,
    rationale_steps,
)
from attcot_analysis.problems.folder import problem_from_record
from attcot_analysis.problems.problem import Problem

FIELDS = (
    "id",
    "image",
    "question",
    "answer",
    "candidates",
    "habitual",
    "rationale",
    "steps",
    "boxes",
    "tolerance",
    "scoring",
    "references",
    "twin",
    "control",
    "metadata",
)
"""Fields of a line."""

_EDITS = ("twin", "control")
_EDIT_FIELDS = ("image", "answer", "rationale", "steps", "boxes")


def read(place: Place) -> Iterator[Made]:
    """Lines of a file, or of the one file ``*.jsonl`` of a folder."""
    path = place.folder("your own data", "give a .jsonl file, or the folder that holds one")
    if path.is_dir():
        files = sorted(path.glob("*.jsonl")) or sorted(path.rglob("*.jsonl"))
        if place.split is not None and files:
            files = choose(files, path, place.split)
        if len(files) != 1:
            raise ProblemError(
                f"{path} holds {len(files)} .jsonl files; name the one that is meant."
            )
        path = files[0]
    elif place.split is not None:
        choose([path], path, place.split)
    folders = [path.parent] if place.images is None else [place.images, path.parent]
    return each(json_lines(path), partial(_problems, folders=folders, place=place))


def _problems(record: Record, folders: list[Path], place: Place) -> list[Problem]:
    where = record.where
    _known(record.value, FIELDS, where)
    for name in ("image", "question", "answer"):
        record.field(name)
    fields = dict(record.value)
    images: dict[str | None, object] = {None: fields.pop("image")}
    fields.setdefault("id", f"item-{where.rpartition(' ')[2]}")
    fields.setdefault("candidates", [])
    if "boxes" in fields:
        fields["evidence"] = fields.pop("boxes")
    fields["steps"] = _steps(fields, where)
    for kind in _EDITS:
        if fields.get(kind) is None:
            fields.pop(kind, None)
            continue
        edit = Record(f"{where}, {kind}", fields[kind])
        if not isinstance(fields[kind], dict):
            raise ProblemError(f"{edit.where} holds {fields[kind]!r:.60}; expected a JSON object.")
        _known(edit.value, _EDIT_FIELDS, edit.where)
        images[kind] = edit.field("image")
        if kind == "twin":
            edit.field("answer")
        inner = dict(edit.value)
        fields[kind] = {
            "answer": inner.get("answer", fields["answer"]),
            "steps": _steps(inner, edit.where),
            "boxes": inner.get("boxes", []),
        }

    def show(kind: str | None) -> Image.Image:
        return picture(images[kind], where if kind is None else f"{where}, {kind}", *folders)

    whole = show(None)
    _in_pixels(fields, whole.size, place)
    return [problem_from_record(fields, lambda kind: show(kind) if kind else whole, where)]


def _in_pixels(fields: Any, size: tuple[int, int], place: Place) -> None:
    """Turn boxes that are said to be of another form into pixels, and count the others."""
    if not isinstance(fields, dict):
        return
    for name in ("evidence", "boxes"):
        held = fields.get(name)
        for box in filter(_is_box, held if isinstance(held, list) else []):
            if place.boxes is None:
                place.seen.add(box, size)
            else:
                box[:] = to_pixels(box, size, place.boxes)
    steps = fields.get("steps")
    for inner in (*(steps if isinstance(steps, list) else ()), *map(fields.get, _EDITS)):
        _in_pixels(inner, size, place)


def _is_box(value: object) -> bool:
    """Whether it is four numbers of any size that a picture has; others are refused later."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(n, int | float) and abs(n) < 1e9 for n in value)
    )


def _steps(fields: dict[str, Any], where: str) -> object:
    """The steps of a line or an edit, each as an object."""
    text = fields.pop("rationale", None)
    steps = fields.get("steps")
    if text is None:
        if not isinstance(steps, list):
            return [] if steps is None else steps
        return [{"text": step} if isinstance(step, str) else step for step in steps]
    if steps:
        raise ProblemError(f"{where} has both rationale and steps; keep one of them.")
    if not isinstance(text, str):
        raise ProblemError(f"{where}: rationale is {text!r:.60}; expected a string.")
    return [{"text": step.text} for step in rationale_steps(text)]


def _known(fields: Any, known: tuple[str, ...], where: str) -> None:
    unknown = [key for key in fields if key not in known]
    if unknown:
        raise ProblemError(
            f"{where} has the unknown field {unknown[0]!r:.60}; known are {', '.join(known)} "
            "(anything else goes into metadata)."
        )
