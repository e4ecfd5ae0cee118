"""CLEVR: questions about rendered objects, with evidence boxes and twins from its scene graphs.

The published folder ``CLEVR_v1.0`` (arXiv 1612.06890): ``questions/CLEVR_<split>_questions.json``,
``scenes/CLEVR_<split>_scenes.json``, ``images/<split>/``. The test split has neither scenes nor
answers.

Scene graphs give an object's centre and depth in the picture, not its box; `clevr_camera` finds
what the dataset's camera shows of its shape. Evidence are the objects that the question's program
singles out or counts.

A twin hides evidence objects, all that is drawn of them, under the picture's mean colour (their
shadows stay); its answer is the program's on the scene without them. One is hidden if that changes
the answer, else all that are counted, and none whose box meets that of an object that stays.
Control edits hide as much where no object is. Questions whose answer cannot be recomputed (the
colour of a hidden object, say) have no twin.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import ceil, floor
from pathlib import Path
from typing import Any, Literal

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data.clevr_camera import object_boxes
from attcot_analysis.problems.data.clevr_program import Run, candidates, run
from attcot_analysis.problems.data.source import (
    Made,
    Place,
    Record,
    each,
    file_id,
    json_list,
    picture,
)
from attcot_analysis.problems.occlusion import Rectangle, control_rectangles, occluded
from attcot_analysis.problems.problem import Box, Edit, Problem

SPLIT = "val"

_MARGIN = 2 / 480
"""What an edit covers around an object, over the picture's width: its edges are soft."""


def read(place: Place) -> Iterator[Made]:
    """Questions of the published folder."""
    folder = place.folder("CLEVR", "unpack CLEVR_v1.0.zip of its home page and give CLEVR_v1.0")
    held = sorted((folder / "questions").glob("CLEVR_*_questions.json"))
    there = [one.name.removeprefix("CLEVR_").removesuffix("_questions.json") for one in held]
    split = place.split or (there[0] if len(there) == 1 else SPLIT)
    if split not in there:
        raise ProblemError(
            f"{folder} has no questions/CLEVR_{split}_questions.json; it has "
            f"{', '.join(there) or 'none'}: choose one with --split."
        )
    scenes: dict[object, Record] = {}
    for record in json_list(folder / "scenes" / f"CLEVR_{split}_scenes.json", "scenes"):
        if isinstance(record, Record):
            scenes[record.value.get("image_index")] = record
    questions = json_list(folder / "questions" / f"CLEVR_{split}_questions.json", "questions")
    images = [place.images or folder / "images" / split]
    return each(questions, partial(_problems, scenes=scenes, images=images))


def _problems(
    record: Record, scenes: Mapping[object, Record], images: Sequence[Path]
) -> list[Problem]:
    answer, program = record.field("answer"), record.field("program", list)
    scene = scenes.get(record.value.get("image_index"))
    if scene is None:
        raise ProblemError(f"{record.where}: the scene of its picture is not there.")
    objects, relations = scene.field("objects", list), scene.field("relationships", dict)
    try:
        whole = run(program, objects, relations)
        names = candidates(program)
        image = picture(record.field("image_filename"), record.where, *images)
        boxes = object_boxes(objects, image.size)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ProblemError(
            f"{record.where}: its program or scene is not as CLEVR has them ({error!r})."
        ) from error
    if whole.answer != answer:
        raise ProblemError(
            f"{record.where}: its program gives {whole.answer!r} on the scene and its answer is "
            f"{answer!r}; do questions and scenes belong together?"
        )
    problem = Problem(
        id=file_id("clevr", scene.value.get("split", ""), record.value.get("question_index")),
        image=image,
        question=record.field("question"),
        candidates=names,
        answer=answer,
        evidence=tuple(boxes[at] for at in whole.evidence),
        metadata={"dataset": "clevr", "family": int(record.value.get("question_family_index", -1))},
    )
    covers = _covers(boxes, image.size)
    hidden = _hidden(program, objects, relations, boxes, covers, whole)
    return [problem if hidden is None else _with_edits(problem, covers, *hidden)]


def _covers(boxes: Sequence[Box], size: tuple[int, int]) -> tuple[Rectangle, ...]:
    """What must be filled for nothing of each object to be seen."""
    width, height = size
    more = _MARGIN * width
    return tuple(
        (
            floor(max(x0 - more, 0)),
            floor(max(y0 - more, 0)),
            ceil(min(x1 + more, width)),
            ceil(min(y1 + more, height)),
        )
        for x0, y0, x1, y1 in boxes
    )


def _hidden(
    program: Sequence[Mapping[str, Any]],
    objects: Sequence[Mapping[str, Any]],
    relations: Mapping[str, Sequence[Sequence[int]]],
    boxes: Sequence[Box],
    covers: Sequence[Rectangle],
    whole: Run,
) -> tuple[tuple[int, ...], str] | None:
    """The fewest evidence objects whose absence gives another answer, and that answer.

    What covers them touches nothing that stays.
    """
    tries: list[tuple[int, ...]] = [(at,) for at in (*whole.counted, *whole.evidence)]
    if len(whole.counted) > 1:
        tries.append(whole.counted)
    for gone in tries:
        stay = [box for at, box in enumerate(boxes) if at not in gone]
        if not any(_overlap(covers[at], box) for at in gone for box in stay):
            left = run(program, objects, relations, frozenset(gone)).answer
            if left is not None and left != whole.answer:
                return gone, left
    return None


def _with_edits(
    problem: Problem, covers: Sequence[Rectangle], gone: tuple[int, ...], answer: str
) -> Problem:
    hidden = tuple(dict.fromkeys(covers[at] for at in gone))
    twin = _edit(problem, "twin", answer, hidden)
    beside = control_rectangles(problem, hidden, avoid=covers)
    control = None if beside is None else _edit(problem, "control", problem.answer, beside)
    return replace(problem, twin=twin, control=control)


def _edit(
    problem: Problem, kind: Literal["twin", "control"], answer: str, hidden: Sequence[Rectangle]
) -> Edit:
    boxes = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in hidden)
    return Edit(kind, occluded(problem.image, hidden), answer, (), boxes)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
