"""Edited pictures: what is shown instead of an item's own to see whether its answer follows."""

import os
import re
import sys
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TypeAlias

import numpy as np
from PIL import Image

from attcot_analysis.errors import MeasureError, check_numbers
from attcot_analysis.problems import whole
from attcot_analysis.problems.controls import (
    covered_area,
    evidence_rectangles,
    matched_control,
    whole_pixels,
)
from attcot_analysis.problems.decisions import REJECTED
from attcot_analysis.problems.fills import (
    FILLS,
    GREY,
    Fill,
    Mask,
    Rectangle,
    mask_of,
    occluded,
    shuffled,
)
from attcot_analysis.problems.problem import Edit, Problem

EditKind: TypeAlias = str
"""The name of an edit, one of `EDIT_KINDS`."""


@dataclass(frozen=True)
class EditOptions:
    """How pictures are blurred and occluded.

    Attributes:
        blur: Standard deviation of the Gaussian blur, as a share of the picture's shorter side.
        steps: Steps whose evidence is occluded, from 1; ``None`` for all. Items that lack one of
            them are left out.
        fill: What an occluded box shows: a name in `FILLS`, or a function such as an inpainting
            model.
        seed: Decides where control occlusions are placed.
        picture: Of items with several pictures: which one is edited, from 1.

    Raises:
        MeasureError: If one of them is out of range.
    """

    blur: float = 0.1
    steps: tuple[int, ...] | None = None
    fill: Fill = "mean"
    seed: int = 0
    picture: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_numbers(seed=self.seed)
        if not self.blur > 0:
            raise MeasureError(f"Blur is {self.blur}; it is a share of the side, above 0.")
        if self.steps is not None and (not self.steps or min(self.steps) < 1):
            raise MeasureError(
                f"Steps to occlude are {list(self.steps)}; name at least one, counted from 1."
            )
        if isinstance(self.fill, str) and self.fill not in FILLS:
            raise MeasureError(f"Fill is {self.fill!r}; choose one of {', '.join(FILLS)}.")


@dataclass(frozen=True)
class EditedImage:
    """One item with one edit of its picture.

    Attributes:
        at: The item's place among the problems.
        kind: The edit.
        image: The edited picture.
        expected: The right answer on it; ``None`` where there is none.
        boxes: Rectangles in which pixels may differ; empty where all may.
        mask: Where in them pixels may differ, if not everywhere: ``(height, width)``.
        change: What was done to the picture, in words.
        why: Why ``expected`` is right on it.
        picture: Which of the item's pictures this replaces, from 1.
    """

    at: int
    kind: EditKind
    image: Image.Image
    expected: str | None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: Mask | None = field(default=None, compare=False)
    change: str = ""
    why: str = ""
    picture: int = 1

    def shown(self, problem: Problem) -> Image.Image | tuple[Image.Image, ...]:
        """What an item shows under the edit: the picture, or all of several with it among them."""
        if problem.n_images == 1:
            return self.image
        before, after = problem.images[: self.picture - 1], problem.images[self.picture :]
        return (*before, self.image, *after)

    @property
    def region(self) -> Mask:
        """Where pixels may differ: ``(height, width)``."""
        if self.mask is not None:
            return self.mask
        if not self.boxes:
            return np.ones(self.image.size[::-1], dtype=bool)
        return mask_of(whole_pixels(self.boxes), self.image.size)

    @property
    def area(self) -> float:
        """Share of the picture in which pixels may differ."""
        if self.mask is not None or not self.boxes:
            return float(self.region.mean())
        width, height = self.image.size
        return covered_area(whole_pixels(self.boxes)) / (width * height)


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
    * ``"occlude_control"`` fills boxes that overlap no evidence, of the same shapes and areas where
      there is room, else smaller ones or strips (see `matched_control`), so the answer must stay;
    * ``"blank_mean"``, ``"blank_noise"``: one colour, or nothing but noise;
    * ``"blur_1"`` to ``"blur_5"``: blurs whose standard deviation doubles each time, from 1 % of
      the shorter side (`BLURS`);
    * ``"diffusion"``: noise as VCD adds it; ``"patch_shuffle"``, ``"pixelate"``, ``"greyscale"``,
      ``"channel_swap"`` (red and blue);
    * ``"crop"``: what lies around the evidence is cut off, so the answer must stay;
    * ``"mirror"``, ``"rotate"`` (by half a turn): with the answer computed (`turned_answer`), on
      items where that is safe and no text is seen in the picture;
    * ``"module:function"``: a function of your own.

    Of items with several pictures the edit's name says which one is edited (``"blank@2"`` the
    second), or ``options.picture``; their own twins and controls say it themselves.

    Items without what an edit needs (a twin, evidence boxes, any room for control boxes) are left
    out, and so are edits that somebody rejected (`attcot edits preview`); `left_out` names them.

    Args:
        problems: The items.
        kind: The edit.
        only: Places of the items to edit, where the others are there to lend their pictures;
            then it is no error if none of these allows the edit.
        options: How to blur and occlude.

    Raises:
        MeasureError: If there is no such edit, no item allows it, or it is not said which of
            several pictures is edited.

    Source: kinds of edits as in arXiv 2606.01558 (reconstruction: only the occlusion of key
    regions is known to be used there); matched control as in CED, arXiv 2608.08021.
    """
    make, options = edit_function(kind), options or EditOptions()
    found: list[EditedImage] = []
    named = _NUMBERED.fullmatch(kind)
    options = replace(options, picture=int(named[2])) if named else options
    n_images = [one.n_images for one in problems]
    problems, picture = _with_one_picture(problems, kind, options)
    places = range(len(problems))
    if wrong := [at for at in (() if only is None else only) if at not in places]:
        raise MeasureError(f"There is no item at place {wrong[0]} of {len(problems)}.")
    for at in places if only is None else sorted(only):
        if n_images[at] < (picture or 1):
            continue
        if kind in str(problems[at].metadata.get(REJECTED, "")).split():
            continue
        one = make(problems, at, options)
        if one is not None and not isinstance(one, EditedImage):
            raise MeasureError(
                f"The edit {kind!r} returned a {type(one).__name__}; expected an EditedImage, or "
                "None where an item does not allow it."
            )
        if one is not None:
            # Measured by the name it was asked for, whatever a function of your own calls it.
            found.append(one if one.kind == kind else replace(one, kind=kind))
    if picture is not None:
        found = [replace(one, picture=picture) for one in found]
    if not found and only is None:
        raise MeasureError(
            f"No item allows the edit {kind!r}; leave it out of edits or give problems that do."
        )
    return found


def _with_one_picture(
    problems: Sequence[Problem], kind: EditKind, options: EditOptions
) -> tuple[Sequence[Problem], int | None]:
    """The items with the picture that is edited alone, where they have several, and its number."""
    several, number = next((one for one in problems if one.n_images > 1), None), options.picture
    if (several is None and number in (None, 1)) or kind in ("twin", "control"):
        return problems, None
    if number is None:
        assert several is not None
        raise MeasureError(
            f"Item {several.id} has {several.n_images} pictures, so say which one the edit "
            f"{kind!r} is of, '{kind}@1' for the first, or leave it out of the edits."
        )
    # Those with fewer stay in their places, and are left out.
    return [one.alone(number) if number <= one.n_images else one for one in problems], number


_NUMBERED = re.compile(r"(?!twin|control)(.+)@([1-9]\d{0,3})")
"""An edit of one of several pictures."""


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
    if edit is None:
        return None
    why = "the answer that its maker says is right on it"
    change = "the item's own twin"
    return _of_item(at, edit, change, why)


def _control(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    edit = problems[at].control
    if edit is None:
        return None
    why = "its maker says that the answer stays"
    change = "the item's own control edit"
    return _of_item(at, edit, change, why)


def _of_item(at: int, edit: Edit, change: str, why: str) -> EditedImage:
    shown = edit.kind, edit.image, edit.answer, edit.boxes
    return EditedImage(at, *shown, change=change, why=why, picture=edit.picture)


def _blank(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    image = Image.new("RGB", problems[at].size, GREY)
    return EditedImage(at, "blank", image, None, change="a mid-grey picture")


def _swap(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    n = len(problems)
    others = (problems[place % n] for place in range(at + 1, at + n))
    other = next((one for one in others if one.answer != problems[at].answer), None)
    if other is None:
        return None
    return EditedImage(at, "swap", other.image, None, change=f"the picture of item {other.id}")


def _blur(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    image = problems[at].image
    change = f"blurred, standard deviation {options.blur * min(image.size):.1f} pixels"
    return EditedImage(at, "blur", whole.blurred(image, options.blur), None, change=change)


def _all_of(
    kind: EditKind, change: str, make: Callable[[Image.Image, np.random.Generator], Image.Image]
) -> EditFunction:
    """An edit of the whole picture, on which no answer is known to be right."""

    def edit(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
        rng = np.random.default_rng([options.seed, zlib.crc32(problems[at].id.encode())])
        return EditedImage(at, kind, make(problems[at].image, rng), None, change=change)

    return edit


def _blurred(number: int, share: float) -> EditFunction:
    change = f"blurred, standard deviation {share:.0%} of the shorter side"
    return _all_of(f"blur_{number}", change, lambda image, rng: whole.blurred(image, share))


def _crop(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    problem = problems[at]
    evidence = _evidence(problem, options)
    if not evidence:
        return None
    box = whole.evidence_crop(problem.image, evidence)
    return EditedImage(
        at,
        "crop",
        problem.image.crop(box),
        problem.answer,
        change=f"cut down to the evidence, pixels {box}",
        why="all evidence is in it",
    )


def _turned(kind: EditKind, change: str, heights: bool) -> EditFunction:
    def edit(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
        found = whole.turned_answer(problems[at], heights=heights)
        if found is None:
            return None
        turn = Image.Transpose.ROTATE_180 if heights else Image.Transpose.FLIP_LEFT_RIGHT
        answer, why = found
        image = problems[at].image.transpose(turn)
        return EditedImage(at, kind, image, answer, change=change, why=why)

    return edit


def _occlude(problems: Sequence[Problem], at: int, options: EditOptions) -> EditedImage | None:
    problem = problems[at]
    hidden = _evidence(problem, options)
    if not hidden:
        return None
    return EditedImage(
        at,
        "occlude",
        occluded(problem.image, hidden, options.fill, seed=options.seed),
        None,
        hidden,
        change=f"evidence filled ({fill_name(options.fill)})",
    )


_FORMS = {
    "same": "as much of the rest filled",
    "smaller": "less of the rest filled, for lack of room: {share:.0%} of the evidence's area",
    "strips": "strips of the rest filled, for lack of room: {share:.0%} of the evidence's area",
}


def _occlude_control(
    problems: Sequence[Problem], at: int, options: EditOptions
) -> EditedImage | None:
    problem = problems[at]
    control = matched_control(problem, _evidence(problem, options), seed=options.seed)
    if control is None:
        return None
    return EditedImage(
        at,
        "occlude_control",
        occluded(problem.image, control.boxes, options.fill, seed=options.seed),
        problem.answer,
        control.boxes,
        change=f"{_FORMS[control.form].format(share=control.share)} ({fill_name(options.fill)})",
        why="no evidence is covered",
    )


def fill_name(fill: Fill) -> str:
    """What to call a fill."""
    return fill if isinstance(fill, str) else getattr(fill, "__name__", "a function")


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
    "blank_mean": _all_of(
        "blank_mean", "the picture's mean colour", lambda image, rng: whole.mean_colour(image)
    ),
    "blank_noise": _all_of("blank_noise", "nothing but noise", whole.white_noise),
    **{f"blur_{number}": _blurred(number, share) for number, share in enumerate(whole.BLURS, 1)},
    "diffusion": _all_of(
        "diffusion", f"diffusion noise, step {whole.DIFFUSION_STEP} of 1000", whole.diffused
    ),
    "patch_shuffle": _all_of(
        "patch_shuffle",
        "8 x 8 patches in another order",
        lambda image, rng: Image.fromarray(shuffled(np.asarray(image), rng)),
    ),
    "pixelate": _all_of("pixelate", "coarse squares", lambda image, rng: whole.pixelated(image)),
    "greyscale": _all_of(
        "greyscale", "without colour", lambda image, rng: image.convert("L").convert("RGB")
    ),
    "channel_swap": _all_of(
        "channel_swap",
        "red and blue exchanged",
        lambda image, rng: Image.merge("RGB", image.split()[::-1]),
    ),
    "crop": _crop,
    "mirror": _turned("mirror", "left and right exchanged", heights=False),
    "rotate": _turned("rotate", "turned by half a turn", heights=True),
}
"""Every edit by name; ``None`` from a function where an item does not allow the edit.

An edit of your own is a further entry, or takes part by its place, ``"module:function"``:
`dependence` and every other measurement then know it.
"""


def edit_function(kind: EditKind) -> EditFunction:
    """The function of an edit: from `EDIT_KINDS`, or your own by its place.

    Args:
        kind: A name in `EDIT_KINDS`, or ``"module:function"``; the module is looked for in the
            working folder, too, and its code is run. The number of a picture may follow.

    Raises:
        MeasureError: If there is no such edit, module or function.
    """
    named = _NUMBERED.fullmatch(kind)
    kind = named[1] if named else kind
    if kind in EDIT_KINDS:
        return EDIT_KINDS[kind]
    module, colon, name = kind.partition(":")
    if not (colon and module and name):
        raise MeasureError(
            f"There is no edit {kind!r}; choose one of {', '.join(EDIT_KINDS)}, or name a function "
            "of your own as module:function."
        )
    here = os.getcwd()
    sys.path.append(here)
    try:
        found: EditFunction | None = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise MeasureError(
            f"The edit {kind!r} names the module {module}, which cannot be imported ({error}); "
            "start in the folder that holds it, or install it."
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise MeasureError(
            f"The module {module} has no function {name!r}; an edit is a function of (problems, "
            "at, options) that returns an EditedImage or None."
        )
    return found
