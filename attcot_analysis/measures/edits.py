"""Edited pictures: what is shown instead of an item's own to see whether its answer follows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image, ImageFilter

from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Mllm, encode_problem
from attcot_analysis.problems import Problem
from attcot_analysis.problems.occlusion import (
    GREY,
    Fill,
    Rectangle,
    control_rectangles,
    evidence_rectangles,
    occluded,
)

__all__ = [
    "GREY",
    "EditKind",
    "EditOptions",
    "EditedImage",
    "edited_images",
    "left_out",
    "seen_edits",
]

EditKind = Literal["twin", "control", "blank", "swap", "blur", "occlude", "occlude_control"]


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
        MeasureError: If no item allows the edit.

    Source: kinds of edits as in arXiv 2606.01558 (reconstruction: only the occlusion of key
    regions is known to be used there); matched control as in CED, arXiv 2608.08021.
    """
    options = options or EditOptions()
    found = []
    for at in range(len(problems)) if only is None else sorted(only):
        one = _edited(problems, at, kind, options)
        if one is not None:
            found.append(one)
    if not found and only is None:
        raise MeasureError(
            f"No item allows the edit {kind!r}; leave it out of edits or give problems that do."
        )
    return found


def seen_edits(
    mllm: Mllm, problems: Sequence[Problem], edited: Sequence[EditedImage]
) -> list[EditedImage]:
    """The edits of which the model sees something: a processor that crops may hide all of one.

    Where the model's input stays the same, that its answer does is no finding.
    """
    sees = {
        at: encode_problem(mllm, problems[at]).layout.grids[0].sees
        for at in {one.at for one in edited if one.boxes}
    }
    return [one for one in edited if not one.boxes or sees[one.at](one.boxes)]


def left_out(
    problems: Sequence[Problem], edited: Sequence[EditedImage], kinds: Sequence[EditKind]
) -> dict[str, list[str]]:
    """Per edit the ids of the items that do not allow it; edits that all allow are not there."""
    missing = {}
    for kind in kinds:
        there = {one.at for one in edited if one.kind == kind}
        missing[str(kind)] = [p.id for at, p in enumerate(problems) if at not in there]
    return {kind: items for kind, items in missing.items() if items}


def _edited(
    problems: Sequence[Problem], at: int, kind: EditKind, options: EditOptions
) -> EditedImage | None:
    problem = problems[at]
    if kind == "blank":
        return EditedImage(at, kind, Image.new("RGB", problem.image.size, GREY), None)
    if kind == "blur":
        radius = options.blur * min(problem.image.size)
        return EditedImage(at, kind, problem.image.filter(ImageFilter.GaussianBlur(radius)), None)
    if kind == "swap":
        n = len(problems)
        others = (problems[place % n] for place in range(at + 1, at + n))
        other = next((one for one in others if one.answer != problem.answer), None)
        return None if other is None else EditedImage(at, kind, other.image, None)
    if kind in ("occlude", "occlude_control"):
        hidden = _hidden(problem, kind, options)
        if not hidden:
            return None
        image = occluded(problem.image, hidden, options.fill)
        expected = problem.answer if kind == "occlude_control" else None
        return EditedImage(at, kind, image, expected, hidden)
    edit = problem.twin if kind == "twin" else problem.control
    return None if edit is None else EditedImage(at, kind, edit.image, edit.answer, edit.boxes)


def _hidden(problem: Problem, kind: EditKind, options: EditOptions) -> tuple[Rectangle, ...] | None:
    """What to fill; nothing where an item has no evidence for it or no room beside it."""
    if options.steps is not None and max(options.steps) > len(problem.steps):
        return None
    evidence = evidence_rectangles(problem, options.steps)
    if kind == "occlude" or not evidence:
        return evidence
    return control_rectangles(problem, evidence, seed=options.seed)
