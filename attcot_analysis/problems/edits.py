"""Edited pictures: what is shown instead of an item's own to see whether its answer follows."""

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageFilter, ImageStat

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems.problem import Box, Problem

Rectangle = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)`` whole pixels, half open."""

Fill = Literal["mean", "grey"]


GREY = (128, 128, 128)
"""Colour of a blank picture."""


_TRIES = 20_000

_RANDOM_PLACES = 16


def evidence_rectangles(
    problem: Problem, steps: Sequence[int] | None = None
) -> tuple[Rectangle, ...]:
    """Evidence boxes of a problem, each once, widened to whole pixels.

    Args:
        problem: The item.
        steps: Of which steps, from 1; default of all, and of the item as a whole. Steps that the
            item does not have add nothing.
    """
    if steps is None:
        return whole_pixels(problem.evidence_boxes)
    asked = [k for k in range(1, len(problem.steps) + 1) if k in steps]
    return whole_pixels([box for k in asked for box in problem.step_boxes(k)])


def whole_pixels(boxes: Iterable[Box]) -> tuple[Rectangle, ...]:
    """Boxes widened to whole pixels, each once."""
    found = [(floor(x0), floor(y0), ceil(x1), ceil(y1)) for x0, y0, x1, y1 in boxes]
    return tuple(dict.fromkeys(found))


def control_rectangles(
    problem: Problem,
    hidden: Sequence[Rectangle],
    *,
    avoid: Sequence[Rectangle] = (),
    seed: int = 0,
) -> tuple[Rectangle, ...] | None:
    """Find a place of no evidence for rectangles of the same shapes and areas.

    Rectangles that overlap each other are moved together, so that what they cover together stays
    as large. Places are tried in an order drawn from ``seed`` and the item's id: those flush with
    the picture's edge, with evidence, or with each other (where there is room, there is room at
    such a place), and some at random.

    Args:
        problem: The item; no evidence of any of its steps is covered.
        hidden: The rectangles to match.
        avoid: What else is not to be covered.
        seed: For the order.

    Returns:
        One rectangle per rectangle, or ``None`` if no place is found.
    """
    groups = sorted(_groups(hidden), key=_area, reverse=True)
    rng = np.random.default_rng([seed, zlib.crc32(problem.id.encode())])
    width, height = problem.image.size
    search = _Search(groups, [*evidence_rectangles(problem), *avoid], (width, height), rng)
    moved = search.place([])
    if moved is None:
        return None
    place_of = {
        before: after
        for group, there in zip(groups, moved, strict=True)
        for before, after in zip(group, there, strict=True)
    }
    return tuple(place_of[rectangle] for rectangle in hidden)


def occluded(image: Image.Image, hidden: Sequence[Rectangle], fill: Fill = "mean") -> Image.Image:
    """A copy of a picture with rectangles filled by its mean colour, or by grey."""
    red, green, blue = (round(value) for value in ImageStat.Stat(image).mean)
    colour = (red, green, blue) if fill == "mean" else GREY
    copy = image.copy()
    for rectangle in hidden:
        copy.paste(colour, rectangle)
    return copy


class _Search:
    """Depth-first search for a place of every group."""

    def __init__(
        self,
        groups: Sequence[tuple[Rectangle, ...]],
        evidence: Sequence[Rectangle],
        size: tuple[int, int],
        rng: np.random.Generator,
    ) -> None:
        self.groups, self.evidence, self.size, self.rng = groups, evidence, size, rng
        self.tries = 0

    def place(self, placed: list[tuple[Rectangle, ...]]) -> list[tuple[Rectangle, ...]] | None:
        """Place the groups that are left, given those that are placed."""
        if len(placed) == len(self.groups):
            return placed
        group = self.groups[len(placed)]
        taken = [*self.evidence, *(one for other in placed for one in other)]
        for moved in self._places(group, taken):
            self.tries += 1
            if self.tries > _TRIES:
                return None
            if any(_overlap(one, other) for one in moved for other in taken):
                continue
            found = self.place([*placed, moved])
            if found is not None:
                return found
        return None

    def _places(
        self, group: tuple[Rectangle, ...], taken: Sequence[Rectangle]
    ) -> Iterator[tuple[Rectangle, ...]]:
        """The group moved to every place to try, inside the picture."""
        x0, y0 = min(one[0] for one in group), min(one[1] for one in group)
        width, height = max(one[2] for one in group) - x0, max(one[3] for one in group) - y0
        places = {
            (x, y) for x in self._starts(width, 0, taken) for y in self._starts(height, 1, taken)
        }
        for _ in range(_RANDOM_PLACES):
            spare = (self.size[0] - width + 1, self.size[1] - height + 1)
            if min(spare) > 0:
                places.add((int(self.rng.integers(spare[0])), int(self.rng.integers(spare[1]))))
        ordered = sorted(places)
        for at in self.rng.permutation(len(ordered)):
            dx, dy = ordered[at][0] - x0, ordered[at][1] - y0
            yield tuple((a + dx, b + dy, c + dx, d + dy) for a, b, c, d in group)

    def _starts(self, extent: int, axis: int, taken: Sequence[Rectangle]) -> list[int]:
        edges = {0, self.size[axis]}
        edges |= {edge for one in taken for edge in (one[axis], one[axis + 2])}
        starts = edges | {edge - extent for edge in edges}
        return sorted(start for start in starts if 0 <= start <= self.size[axis] - extent)


def _groups(rectangles: Sequence[Rectangle]) -> list[tuple[Rectangle, ...]]:
    """Rectangles that overlap, directly or through others, belong together."""
    groups: list[tuple[Rectangle, ...]] = []
    for rectangle in rectangles:
        touched = [g for g in groups if any(_overlap(rectangle, one) for one in g)]
        groups = [g for g in groups if g not in touched]
        groups.append((*(one for g in touched for one in g), rectangle))
    return groups


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _area(group: Sequence[Rectangle]) -> int:
    return sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in group)


EditKind: TypeAlias = str
"""The name of an edit, one of `EDIT_KINDS`."""


@dataclass(frozen=True)
class EditOptions:
    """How pictures are blurred and occluded.

    Attributes:
        blur: Standard deviation of the Gaussian blur, as a share of the picture's shorter side.
        steps: Steps whose evidence is occluded, from 1; ``None`` for all. Items that lack one of
            them are left out.
        fill: What an occluded box shows: the picture's mean colour or grey.
        seed: Decides where control occlusions are placed.

    Raises:
        MeasureError: If one of them is out of range.
    """

    blur: float = 0.1
    steps: tuple[int, ...] | None = None
    fill: Fill = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.blur > 0:
            raise MeasureError(f"Blur is {self.blur}; it is a share of the side, above 0.")
        if self.steps is not None and (not self.steps or min(self.steps) < 1):
            raise MeasureError(
                f"Steps to occlude are {list(self.steps)}; name at least one, counted from 1."
            )
        if self.fill not in get_args(Fill):
            raise MeasureError(f"Fill is {self.fill!r}; choose {' or '.join(get_args(Fill))}.")


@dataclass(frozen=True)
class EditedImage:
    """One item with one edit of its picture.

    Attributes:
        at: The item's place among the problems.
        kind: The edit.
        image: The edited picture.
        expected: The right answer on it; ``None`` where there is none.
        boxes: Rectangles in which pixels may differ; empty where all may.
    """

    at: int
    kind: EditKind
    image: Image.Image
    expected: str | None
    boxes: tuple[tuple[float, float, float, float], ...] = ()


def edited_images(
    problems: Sequence[Problem],
    kind: EditKind,
    *,
    only: Collection[int] | None = None,
    options: EditOptions | None = None,
) -> list[EditedImage]:
    """Edit the picture of every item that allows it.

    * ``"twin"`` and ``"control"`` are the items' own edits;
    * ``"blank"`` is a mid-grey picture of the same size;
    * ``"swap"`` the picture of the next item (cyclic) with a different answer;
    * ``"blur"`` the item's own, blurred until details are gone and colours stay;
    * ``"occlude"`` fills the evidence boxes of all steps, or of chosen ones;
    * ``"occlude_control"`` fills boxes of the same shapes and areas that overlap no evidence
      (see `control_rectangles`), so the answer must stay.

    Items without what an edit needs (a twin, evidence boxes, room for control boxes) are left
    out; `left_out` names them.

    Args:
        problems: The items.
        kind: The edit.
        only: Places of the items to edit, where the others are there to lend their pictures;
            then it is no error if none of these allows the edit.
        options: How to blur and occlude.

    Raises:
        MeasureError: If there is no such edit, or no item allows it.

    Source: kinds of edits as in arXiv 2606.01558 (reconstruction: only the occlusion of key
    regions is known to be used there); matched control as in CED, arXiv 2608.08021.
    """
    if kind not in EDIT_KINDS:
        raise MeasureError(f"There is no edit {kind!r}; choose one of {', '.join(EDIT_KINDS)}.")
    options = options or EditOptions()
    found = []
    for at in range(len(problems)) if only is None else sorted(only):
        one = EDIT_KINDS[kind](problems, at, options)
        if one is not None:
            found.append(one)
    if not found and only is None:
        raise MeasureError(
            f"No item allows the edit {kind!r}; leave it out of edits or give problems that do."
        )
    return found


def left_out(
    problems: Sequence[Problem], edited: Sequence[EditedImage], kinds: Sequence[EditKind]
) -> dict[str, list[str]]:
    """Per edit the ids of the items that do not allow it; edits that all allow are not there."""
    missing = {}
    for kind in kinds:
        there = {one.at for one in edited if one.kind == kind}
        missing[str(kind)] = [p.id for at, p in enumerate(problems) if at not in there]
    return {kind: items for kind, items in missing.items() if items}


EditFunction = Callable[[Sequence[Problem], int, EditOptions], EditedImage | None]


def _twin(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    edit = problems[at].twin
    return None if edit is None else EditedImage(at, "twin", edit.image, edit.answer, edit.boxes)


def _control(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    edit = problems[at].control
    return None if edit is None else EditedImage(at, "control", edit.image, edit.answer, edit.boxes)


def _blank(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    return EditedImage(at, "blank", Image.new("RGB", problems[at].image.size, GREY), None)


def _swap(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    n = len(problems)
    others = (problems[place % n] for place in range(at + 1, at + n))
    other = next((one for one in others if one.answer != problems[at].answer), None)
    return None if other is None else EditedImage(at, "swap", other.image, None)


def _blur(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    image = problems[at].image
    radius = options.blur * min(image.size)
    return EditedImage(at, "blur", image.filter(ImageFilter.GaussianBlur(radius)), None)


def _occlude(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    problem = problems[at]
    hidden = _evidence(problem, options)
    if not hidden:
        return None
    return EditedImage(at, "occlude", occluded(problem.image, hidden, options.fill), None, hidden)


def _occlude_control(
    problems: Sequence[Problem], at: int, options: EditOptions
) -> EditedImage | None:
    problem = problems[at]
    evidence = _evidence(problem, options)
    hidden = evidence and control_rectangles(problem, evidence, seed=options.seed)
    if not hidden:
        return None
    image = occluded(problem.image, hidden, options.fill)
    return EditedImage(at, "occlude_control", image, problem.answer, hidden)


def _evidence(problem: Problem, options: EditOptions) -> tuple[Rectangle, ...]:
    """What to fill; nothing where an item lacks a step that is asked for."""
    if options.steps is not None and max(options.steps) > len(problem.steps):
        return ()
    return evidence_rectangles(problem, options.steps)


EDIT_KINDS: dict[EditKind, EditFunction] = {
    "twin": _twin,
    "control": _control,
    "blank": _blank,
    "swap": _swap,
    "blur": _blur,
    "occlude": _occlude,
    "occlude_control": _occlude_control,
}
"""Every edit by name; ``None`` from a function where an item does not allow the edit.

An edit of your own is a further entry: `dependence` and every other measurement then know it.
"""


def _hidden(problem: Problem, kind: EditKind, options: EditOptions) -> tuple[Rectangle, ...] | None:
    """What to fill; nothing where an item has no evidence for it or no room beside it."""
    if options.steps is not None and max(options.steps) > len(problem.steps):
        return None
    evidence = evidence_rectangles(problem, options.steps)
    if kind == "occlude" or not evidence:
        return evidence
    return control_rectangles(problem, evidence, seed=options.seed)
