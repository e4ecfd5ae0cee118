"""CLEVR: questions about rendered objects, with evidence boxes and twins from its scene graphs.

The published folder ``CLEVR_v1.0`` (arXiv 1612.06890): ``questions/CLEVR_<split>_questions.json``,
``scenes/CLEVR_<split>_scenes.json``, ``images/<split>/``. The test split has neither scenes nor
answers. Questions as the generator itself writes them, whose answers are numbers and true or false,
are read as well.

Scene graphs give an object's centre and depth in the picture, not its box; `clevr_camera` finds
what the dataset's camera shows of its shape. Evidence are the objects that the question's program
singles out or counts.

A twin hides evidence objects, all that is drawn of them, under the picture's mean colour (their
shadows stay); its answer is the program's on the scene without them. One is hidden if that changes
the answer, else all that are counted, and none whose box meets that of an object that stays.
Control edits hide as much where no object is. Questions whose answer cannot be recomputed (the
colour of a hidden object, say) have no twin.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, floor
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.controls import control_rectangles
from attcot_analysis.problems.data.source import (
    Folder,
    Made,
    Place,
    Record,
    each,
    file_id,
    json_list,
    picture,
)
from attcot_analysis.problems.fills import Rectangle, occluded
from attcot_analysis.problems.problem import Box, Edit, Problem

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "color": ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    "shape": ("cube", "sphere", "cylinder"),
    "size": ("large", "small"),
    "material": ("rubber", "metal"),
}
"""What objects differ in, and the values of each."""

COUNTS = tuple(str(n) for n in range(11))
"""How many objects a scene has at most."""


Objects = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Run:
    """What a program gives on a scene.

    Attributes:
        answer: As in the dataset; ``None`` if the question makes no sense there.
        evidence: Objects that it hangs on: every one that the program singles out, and those that
            it counts or says to exist.
        counted: Those of them that are counted or said to exist.
    """

    answer: str | None
    evidence: tuple[int, ...]
    counted: tuple[int, ...]


def candidates(program: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The possible answers of a program's last function."""
    last = _function(program[-1])
    if last == "count":
        return COUNTS
    if last.startswith("query_"):
        return ATTRIBUTES[last.removeprefix("query_")]
    return ("yes", "no")


def run(
    program: Sequence[Mapping[str, Any]],
    objects: Objects,
    relationships: Mapping[str, Sequence[Sequence[int]]],
    without: frozenset[int] = frozenset(),
) -> Run:
    """Run a program on a scene, or on what is left of it.

    Args:
        program: Functions with ``function`` (in generated data ``type``), ``inputs`` and
            ``value_inputs``.
        objects: Of the scene.
        relationships: Per relation and object the objects that stand so to it.
        without: Objects that are not there.

    Raises:
        KeyError: If a function or a value is unknown.
        IndexError: If an input does not exist.
    """
    values: list[Any] = []
    evidence: set[int] = set()
    counted: set[int] = set()
    for node in program:
        name = _function(node)
        inputs = [values[at] for at in node["inputs"]]
        given = node.get("value_inputs", node.get("side_inputs", []))
        if None in inputs:
            values.append(None)
            continue
        if name == "scene":
            value: Any = {at for at in range(len(objects)) if at not in without}
        elif name == "unique":
            value = next(iter(inputs[0])) if len(inputs[0]) == 1 else None
            evidence |= inputs[0] if value is not None else set()
        elif name.startswith("filter_"):
            key = name.removeprefix("filter_")
            value = {at for at in inputs[0] if objects[at][key] == given[0]}
        elif name.startswith("same_"):
            key, own = name.removeprefix("same_"), inputs[0]
            value = {
                at
                for at in range(len(objects))
                if at not in without and at != own and objects[at][key] == objects[own][key]
            }
        elif name == "relate":
            value = {at for at in relationships[given[0]][inputs[0]] if at not in without}
        elif name in _PLAIN:
            value = _PLAIN[name](*inputs)
            if name in ("count", "exist"):
                evidence |= inputs[0]
                counted |= inputs[0]
        elif name.startswith("query_"):
            value = objects[inputs[0]][name.removeprefix("query_")]
        elif name.startswith("equal_"):
            value = inputs[0] == inputs[1]
        else:
            raise KeyError(name)
        values.append(value)
    last = values[-1]
    answer = _YES_NO[last] if isinstance(last, bool) else None if last is None else str(last)
    return Run(answer, tuple(sorted(evidence)), tuple(sorted(counted)))


_PLAIN: Mapping[str, Callable[..., Any]] = {
    "union": lambda a, b: a | b,
    "intersect": lambda a, b: a & b,
    "count": len,
    "exist": bool,
    "less_than": lambda a, b: a < b,
    "greater_than": lambda a, b: a > b,
}

_YES_NO = {True: "yes", False: "no"}


def _function(node: Mapping[str, Any]) -> str:
    return str(node.get("function") or node["type"])


FloatArray = npt.NDArray[np.float64]


_WIDTH, _HEIGHT, _FOCAL = 480, 320, 525.0

_USUAL = (2.425, 0.495, 11.3)
"""Heading and descent of the view in radians, and distance from the origin: the average camera."""

_RADIUS = {"large": 0.7, "small": 0.35}

_CUBE = 0.94
"""Half of what is drawn of a cube's edge over its ``size``; measured on published pictures."""

_FITS = 2.0
"""Pixels; published coordinates are rounded to whole ones."""


def object_boxes(objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> list[Box]:
    """The boxes of all objects of a scene graph, cut at the picture's edges.

    Args:
        objects: With ``3d_coords``, ``pixel_coords`` (x, y, depth), ``shape``, ``size``,
            ``rotation``.
        size: Width and height of the picture, which may be another than 480 x 320.

    Raises:
        ValueError: If objects are not where CLEVR's camera sees them, or outside of the picture.
    """
    width, height = size
    scale = width / _WIDTH
    if abs(height - _HEIGHT * scale) > 1:
        raise ValueError(f"a picture of {width}x{height} is no CLEVR picture, which are 3 to 2")
    places = np.array([one["3d_coords"] for one in objects], dtype=float).reshape(-1, 3)
    seen = np.array([one["pixel_coords"] for one in objects], dtype=float).reshape(-1, 3)
    camera = _camera(places, seen)
    boxes = []
    for place, thing in zip(places, objects, strict=True):
        low, high = (edge * scale for edge in _extent(camera, place, thing))
        x0, y0 = (float(edge) for edge in np.maximum(low, 0.0))
        x1, y1 = (float(edge) for edge in np.minimum(high, (width, height)))
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"an object lies outside of the picture, at {thing['pixel_coords']}")
        boxes.append((x0, y0, x1, y1))
    return boxes


def _camera(places: FloatArray, seen: FloatArray) -> FloatArray:
    """Heading, descent and distance that show the places where they are seen."""

    def wrong(camera: FloatArray) -> FloatArray:
        across, down, depth = _pixels(_in_view(camera, places)).T
        # A unit of depth moves what is drawn by about as many pixels.
        near = np.stack([across - seen[:, 0], down - seen[:, 1], (depth - seen[:, 2]) * 40])
        return np.asarray(near.ravel())

    camera, small = np.array(_USUAL), 1e-6
    for _ in range(10):
        now = wrong(camera)
        slope = [(wrong(camera + step) - now) / small for step in small * np.eye(3)]
        camera = camera - np.linalg.lstsq(np.stack(slope, axis=1), now, rcond=None)[0]
    off = float(np.abs(wrong(camera)).max(initial=0.0))
    if not off <= _FITS:
        raise ValueError(f"its objects lie {off:.0f} pixels from where CLEVR's camera shows them")
    return camera


def _in_view(camera: FloatArray, points: FloatArray) -> FloatArray:
    """Points as the camera sees them: to the right, upwards and ahead of it."""
    heading, descent, distance = camera
    ahead = np.array([np.cos(heading), np.sin(heading), 0.0]) * np.cos(descent)
    ahead[2] = -np.sin(descent)
    right = np.array([np.sin(heading), -np.cos(heading), 0.0])
    axes = np.stack([right, np.cross(right, ahead), ahead])
    return np.asarray(points @ axes.T + np.array([0.0, 0.0, distance]))


def _pixels(points: FloatArray) -> FloatArray:
    x, y, depth = points.T
    return np.stack([_WIDTH / 2 + _FOCAL * x / depth, _HEIGHT / 2 - _FOCAL * y / depth, depth], 1)


def _extent(
    camera: FloatArray, place: FloatArray, thing: Mapping[str, Any]
) -> tuple[FloatArray, FloatArray]:
    """Upper left and lower right corner of what is drawn of an object, at a width of 480."""
    radius, shape = _RADIUS[thing["size"]], thing["shape"]
    if shape == "sphere":
        return _sphere(_in_view(camera, place[None])[0], radius)
    if shape == "cylinder":
        angles = np.linspace(0, 2 * np.pi, 128)
    elif shape == "cube":
        radius *= _CUBE
        angles = float(thing["rotation"]) + np.pi / 4 + np.arange(4) * np.pi / 2
    else:
        raise ValueError(f"shape {shape!r} is none of CLEVR's")
    reach = radius * (np.sqrt(2) if shape == "cube" else 1.0)
    ring = [np.cos(angles) * reach, np.sin(angles) * reach]
    ends = [np.stack([*ring, np.full(len(angles), end)], axis=1) for end in (-radius, radius)]
    points = place + np.concatenate(ends)
    drawn = _pixels(_in_view(camera, points))[:, :2]
    return drawn.min(axis=0), drawn.max(axis=0)


def _sphere(centre: FloatArray, radius: float) -> tuple[FloatArray, FloatArray]:
    """Where the planes through the camera that touch a sphere meet the picture."""
    side, depth = centre[:2], centre[2]
    near = depth**2 - radius**2
    reach = radius * np.sqrt(side**2 + near)
    low, high = (_FOCAL * (side * depth + sign * reach) / near for sign in (-1, 1))
    left, right = _WIDTH / 2 + low[0], _WIDTH / 2 + high[0]
    return (
        np.array([left, _HEIGHT / 2 - high[1]]),
        np.array([right, _HEIGHT / 2 - low[1]]),
    )


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
    record: Record, scenes: Mapping[object, Record], images: Sequence[Folder]
) -> list[Problem]:
    answer, program = _answer(record), record.field("program", list)
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


def _answer(record: Record) -> str:
    """As published; the generator's own files hold counts as numbers, and yes as true."""
    value = record.value.get("answer")
    if isinstance(value, bool):
        return _YES_NO[value]
    return str(record.field("answer", (str, int)))


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
