"""CLEVR: questions about rendered objects, with evidence boxes and twins from its scene graphs.

The published folder ``CLEVR_v1.0`` (arXiv 1612.06890): ``questions/CLEVR_<split>_questions.json``,
``scenes/CLEVR_<split>_scenes.json``, ``images/<split>/``. The test split has neither scenes nor
answers.

Scene graphs give an object's centre and depth in the picture, not its box. The box here is the
object's bounding sphere seen through the dataset's camera, ±f·r/depth pixels: r is 0.7 for large
and 0.35 for small objects, f is 525 pixels at a width of 480 (a lens of 35 mm before a sensor of
32 mm, Blender's default). Evidence are the objects that the question's program singles out or
counts.

A twin hides evidence objects under the picture's mean colour; its answer is the program's on the
scene without them. Only objects that overlap no other are hidden, one if that changes the answer,
else all that are counted. Control edits hide as much where no object is. Questions whose answer
cannot be recomputed (the colour of a hidden object, say) have no twin.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.adapters.clevr_program import Run, candidates, run
from attcot_analysis.problems.adapters.source import (
    Made,
    Place,
    Record,
    each,
    file_id,
    json_list,
    picture,
)
from attcot_analysis.problems.occlusion import Rectangle, control_rectangles, occluded, whole_pixels
from attcot_analysis.problems.problem import Box, Edit, Problem

SPLIT = "val"

_FOCAL = 525 / 480
"""Focal length over the picture's width."""
_RADIUS = {"large": 0.7, "small": 0.35}


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
        boxes = [object_box(one, image.size) for one in objects]
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
    hidden = _hidden(program, objects, relations, boxes, whole)
    return [problem if hidden is None else _with_edits(problem, boxes, *hidden)]


def object_box(thing: Mapping[str, Any], size: tuple[int, int]) -> Box:
    """The box of an object's bounding sphere, cut at the picture's edges.

    Args:
        thing: An object of a scene graph: ``pixel_coords`` (x, y, depth) and ``size``.
        size: Of the picture; its coordinates are those of a picture 480 pixels wide.
    """
    width, height = size
    x, y, depth = (float(number) for number in thing["pixel_coords"])
    scale = width / 480
    half = _FOCAL * width * _RADIUS[thing["size"]] / depth
    x0, x1 = max(x * scale - half, 0.0), min(x * scale + half, float(width))
    y0, y1 = max(y * scale - half, 0.0), min(y * scale + half, float(height))
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"an object lies outside of the picture, at {x:g}, {y:g}")
    return x0, y0, x1, y1


def _hidden(
    program: Sequence[Mapping[str, Any]],
    objects: Sequence[Mapping[str, Any]],
    relations: Mapping[str, Sequence[Sequence[int]]],
    boxes: Sequence[Box],
    whole: Run,
) -> tuple[tuple[int, ...], str] | None:
    """The fewest evidence objects whose absence gives another answer, and that answer."""
    overlapping = {
        at
        for a, b in combinations(range(len(boxes)), 2)
        if _overlap(boxes[a], boxes[b])
        for at in (a, b)
    }
    tries: list[tuple[int, ...]] = [(at,) for at in (*whole.counted, *whole.evidence)]
    if len(whole.counted) > 1:
        tries.append(whole.counted)
    for objects_gone in tries:
        if overlapping.isdisjoint(objects_gone):
            left = run(program, objects, relations, frozenset(objects_gone)).answer
            if left is not None and left != whole.answer:
                return objects_gone, left
    return None


def _with_edits(
    problem: Problem, boxes: Sequence[Box], gone: tuple[int, ...], answer: str
) -> Problem:
    hidden = whole_pixels(boxes[at] for at in gone)
    twin = _edit(problem, "twin", answer, hidden)
    beside = control_rectangles(problem, hidden, avoid=whole_pixels(boxes))
    control = None if beside is None else _edit(problem, "control", problem.answer, beside)
    return replace(problem, twin=twin, control=control)


def _edit(
    problem: Problem, kind: Literal["twin", "control"], answer: str, hidden: Sequence[Rectangle]
) -> Edit:
    boxes = tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in hidden)
    return Edit(kind, occluded(problem.image, hidden), answer, (), boxes)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
