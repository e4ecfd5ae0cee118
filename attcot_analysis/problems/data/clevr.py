"""CLEVR: questions about rendered objects, with evidence boxes and twins from its scene graphs.

The published folder ``CLEVR_v1.0`` (arXiv 1612.06890): ``questions/CLEVR_<split>_questions.json``,
``scenes/CLEVR_<split>_scenes.json``, ``images/<split>/``. The test split has neither scenes nor
answers. Questions as the generator itself writes them, whose answers are numbers and true or false,
are read as well.

Scene graphs give an object's centre and depth in the picture, not its outline; `object_outlines`
finds what the dataset's camera shows of its shape. Evidence are the objects that the question's
program singles out or counts.

A twin is the smallest edit that changes the program's answer: an evidence object gets another
colour, or one is removed (painted over from its surroundings), or all that are counted; its answer
is the program's on the scene as edited. Shadows and reflections stay. Nothing is edited whose
outline touches that of an object that stays as it is, and where the program has no answer on the
edited scene there is no twin. The control is the same kind of edit of an object on which the
answer does not hang; where there is none, as much empty ground is painted over for a removal, and
a recolouring has no control.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Any, Literal, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw
from scipy.spatial import ConvexHull

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.controls import control_rectangles
from attcot_analysis.problems.data.fields import joined_id
from attcot_analysis.problems.data.place import Place, Show
from attcot_analysis.problems.data.records import Made, Record, each, json_list
from attcot_analysis.problems.fills import Mask, bounding_box, lab, occluded, rgb
from attcot_analysis.problems.objects import grown, recoloured, shifted
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


def object_boxes(objects: Objects, size: tuple[int, int]) -> list[Box]:
    """The boxes of all objects of a scene graph, cut at the picture's edges.

    Args:
        objects: See `object_outlines`.
        size: Width and height of the picture.

    Raises:
        ValueError: As `object_outlines`, and if an object lies outside of the picture.
    """
    boxes = []
    for outline, thing in zip(object_outlines(objects, size), objects, strict=True):
        x0, y0 = (float(edge) for edge in np.maximum(outline.min(axis=0), 0.0))
        x1, y1 = (float(edge) for edge in np.minimum(outline.max(axis=0), size))
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"an object lies outside of the picture, at {thing['pixel_coords']}")
        boxes.append((x0, y0, x1, y1))
    return boxes


def object_masks(objects: Objects, size: tuple[int, int]) -> list[Mask]:
    """The pixels within the outlines of all objects, what hides a part of them included."""
    masks = []
    for outline in object_outlines(objects, size):
        drawn = Image.new("1", size)
        hull = outline[ConvexHull(outline).vertices]
        ImageDraw.Draw(drawn).polygon([(float(x), float(y)) for x, y in hull - 0.5], fill=1)
        masks.append(np.asarray(drawn))
    return masks


def object_outlines(objects: Objects, size: tuple[int, int]) -> list[FloatArray]:
    """Points around all that is drawn of each object, of which the hull is its outline.

    Args:
        objects: With ``3d_coords``, ``pixel_coords`` (x, y, depth), ``shape``, ``size``,
            ``rotation``.
        size: Width and height of the picture, which may be another than 480 x 320.

    Returns:
        Per object ``(points, 2)``, x and y in pixels.

    Raises:
        ValueError: If objects are not where CLEVR's camera sees them.
    """
    width, height = size
    scale = width / _WIDTH
    if abs(height - _HEIGHT * scale) > 1:
        raise ValueError(f"a picture of {width}x{height} is no CLEVR picture, which are 3 to 2")
    places = np.array([one["3d_coords"] for one in objects], dtype=float).reshape(-1, 3)
    seen = np.array([one["pixel_coords"] for one in objects], dtype=float).reshape(-1, 3)
    camera = _camera(places, seen)
    return [
        _outline(camera, place, thing) * scale for place, thing in zip(places, objects, strict=True)
    ]


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


def _outline(camera: FloatArray, place: FloatArray, thing: Mapping[str, Any]) -> FloatArray:
    """Points around what is drawn of an object, at a width of 480."""
    radius, shape = _RADIUS[thing["size"]], thing["shape"]
    angles = np.linspace(0, 2 * np.pi, 256)
    if shape == "sphere":
        # Seen is the circle in which lines from the camera touch it.
        centre = _in_view(camera, place[None])[0]
        far = float(np.linalg.norm(centre))
        ahead = centre / far
        right = np.cross(ahead, (0.0, 1.0, 0.0)) / np.hypot(ahead[0], ahead[2])
        ring = np.outer(np.cos(angles), right) + np.outer(np.sin(angles), np.cross(right, ahead))
        touching = (
            centre - ahead * radius**2 / far + ring * radius * np.sqrt(1 - (radius / far) ** 2)
        )
        return _pixels(touching)[:, :2]
    if shape == "cube":
        radius *= _CUBE
        angles = float(thing["rotation"]) + np.pi / 4 + np.arange(4) * np.pi / 2
    elif shape != "cylinder":
        raise ValueError(f"shape {shape!r} is none of CLEVR's")
    reach = radius * (np.sqrt(2) if shape == "cube" else 1.0)
    ring = np.stack([np.cos(angles) * reach, np.sin(angles) * reach], axis=1)
    ends = [np.insert(ring, 2, end, axis=1) for end in (-radius, radius)]
    return _pixels(_in_view(camera, place + np.concatenate(ends)))[:, :2]


SPLIT = "val"


_MARGIN = 3 / 480
"""What is painted over around an object, over the picture's width: its edges are soft."""

_DRAWN = {
    "gray": "#535251",
    "red": "#733938",
    "blue": "#3f4e7a",
    "green": "#34582c",
    "brown": "#634d2f",
    "purple": "#673c78",
    "cyan": "#407a79",
    "yellow": "#857f41",
}
"""Mean colours of rubber objects on published pictures; metal ones differ from each other alike."""

Moves = Sequence[tuple[int, int]]


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
    show = place.show(place.images or folder / "images" / split)
    return each(questions, partial(_problems, scenes=scenes, show=show))


def _problems(record: Record, scenes: Mapping[object, Record], show: Show) -> list[Problem]:
    answer, program = _answer(record), record.field("program", list)
    scene = scenes.get(record.value.get("image_index"))
    if scene is None:
        raise ProblemError(f"{record.where}: the scene of its picture is not there.")
    objects, relations = scene.field("objects", list), scene.field("relationships", dict)
    try:
        whole = run(program, objects, relations)
        names = candidates(program)
        image = show(record.field("image_filename"), record.where)
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
        id=joined_id("clevr", scene.value.get("split", ""), record.value.get("question_index")),
        image=image,
        question=record.field("question"),
        candidates=names,
        answer=answer,
        evidence=tuple(boxes[at] for at in whole.evidence),
        metadata={
            "dataset": "clevr",
            "family": int(record.value.get("question_family_index", -1)),
            # What is said of the picture is held against it, see measures.statements.
            "scene": json.dumps([{name: one.get(name) for name in ATTRIBUTES} for one in objects]),
        },
    )
    return [_with_edits(problem, _Scene(program, objects, relations, image), whole)]


def _answer(record: Record) -> str:
    """As published; the generator's own files hold counts as numbers, and yes as true."""
    value = record.value.get("answer")
    if isinstance(value, bool):
        return _YES_NO[value]
    return str(record.field("answer", (str, int)))


class _Scene:
    """A question's scene and picture, which can be edited."""

    def __init__(
        self,
        program: Sequence[Mapping[str, Any]],
        objects: Objects,
        relations: Mapping[str, Sequence[Sequence[int]]],
        image: Image.Image,
    ) -> None:
        self.program, self.objects, self.relations, self.image = program, objects, relations, image
        self.masks = object_masks(objects, image.size)
        more = ceil(_MARGIN * image.width)
        self.regions = [grown(mask, more) for mask in self.masks]

    def answer(self, change: "_Change") -> str | None:
        """The program's on the scene as edited."""
        objects, gone = self.objects, frozenset(change.at)
        if change.colour is not None:
            objects = [
                {**one, "color": change.colour} if at in gone else one
                for at, one in enumerate(objects)
            ]
            gone = frozenset()
        return run(self.program, objects, self.relations, gone).answer

    def clear(self, change: "_Change") -> bool:
        """Whether the edit touches nothing that stays as it is."""
        rest = [mask for at, mask in enumerate(self.masks) if at not in change.at]
        return not any((self.regions[at] & mask).any() for at in change.at for mask in rest)

    def edit(
        self, kind: Literal["twin", "control"], answer: str, change: "_Change", to: Moves = ()
    ) -> Edit:
        """The picture with a change made, or with as much ground painted over elsewhere."""
        if change.colour is None:
            moves = to or [(0, 0)] * len(change.at)
            regions = [
                shifted(self.regions[at], by) for at, by in zip(change.at, moves, strict=True)
            ]
            # All at once, or one that is still there would be painted into the other.
            image = occluded(self.image, np.logical_or.reduce(regions), "telea")
        else:
            (at,) = change.at
            regions = [self.masks[at]]
            image = self._painted(at, change.colour)
        boxes = [tuple(map(float, bounding_box(region))) for region in regions]
        found = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in dict.fromkeys(boxes))
        return Edit(kind, image, answer, (), found)

    def _painted(self, at: int, colour: str) -> Image.Image:
        """An object whose colour is changed as others of the two colours differ."""
        old, new = (
            lab(np.array([[ImageColor.getrgb(_DRAWN[one])]], dtype=np.uint8))[0, 0]
            for one in (self.objects[at]["color"], colour)
        )
        mean = lab(np.asarray(self.image))[self.masks[at]].mean(axis=0)
        red, green, blue = rgb((mean + new - old)[None, None])[0, 0]
        return recoloured(self.image, self.masks[at], f"#{red:02x}{green:02x}{blue:02x}")


class _Change(NamedTuple):
    """Objects that are removed, or that get a colour."""

    at: tuple[int, ...]
    colour: str | None = None


def _with_edits(problem: Problem, scene: _Scene, whole: Run) -> Problem:
    rng = np.random.default_rng(crc32(problem.id.encode()))
    colours = rng.permutation(np.array(ATTRIBUTES["color"])).tolist()
    evidence = tuple(dict.fromkeys((*whole.counted, *whole.evidence)))
    tries = [_Change((at,), one) for at in evidence for one in colours]
    tries += [_Change((at,)) for at in evidence]
    tries += [_Change(whole.counted)] if len(whole.counted) > 1 else []
    for change in tries:
        answer = scene.answer(change)
        if answer is not None and answer != whole.answer and scene.clear(change):
            twin = scene.edit("twin", answer, change)
            what = "removed" if change.colour is None else "recoloured"
            return replace(
                problem,
                twin=twin,
                control=_control(problem, scene, change, evidence),
                metadata={**problem.metadata, "twin": what},
            )
    return problem


def _control(
    problem: Problem, scene: _Scene, change: _Change, evidence: Sequence[int]
) -> Edit | None:
    """The same edit of the object nearest in size whose change leaves the answer as it is."""
    area = sum(int(scene.masks[at].sum()) for at in change.at)
    others = [at for at in range(len(scene.objects)) if at not in evidence]
    others.sort(key=lambda at: abs(int(scene.masks[at].sum()) - area))
    colours = [None] if change.colour is None else [change.colour, *ATTRIBUTES["color"]]
    for other in (_Change((at,), colour) for at in others for colour in colours):
        same = other.colour == scene.objects[other.at[0]]["color"]
        if not same and scene.clear(other) and scene.answer(other) == problem.answer:
            return scene.edit("control", problem.answer, other)
    if change.colour is not None:
        return None  # A patch of colour on the ground might be taken for an object.
    boxes = [bounding_box(scene.regions[at]) for at in change.at]
    taken = [bounding_box(region) for region in scene.regions]
    beside = control_rectangles(problem, boxes, avoid=taken)
    if beside is None:
        return None
    moves = [(to[0] - x[0], to[1] - x[1]) for x, to in zip(boxes, beside, strict=True)]
    return scene.edit("control", problem.answer, change, moves)
