"""Edits of one object: recolour, remove, move, paste; its mask; twin and control from a box."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageChops, ImageColor
from scipy import ndimage

from attcot_analysis.errors import MeasureError
from attcot_analysis.escapes import for_html
from attcot_analysis.problems.controls import evidence_rectangles, matched_control, whole_pixels
from attcot_analysis.problems.edits import EditedImage, EditOptions, edited_images, fill_name
from attcot_analysis.problems.fills import (
    Fill,
    Mask,
    Rectangle,
    Residual,
    bounding_box,
    lab,
    mask_of,
    occluded,
    residual,
    rgb,
)
from attcot_analysis.problems.lettering import replaced_text
from attcot_analysis.problems.pictures import open_picture
from attcot_analysis.problems.problem import Box, Edit, Problem, check_boxes, shortened

How = Literal["fill", "remove", "recolour", "move", "paste", "text"]
"""What is done to a region, see `edit`."""

_MARGIN = 0.01
"""Of the shorter side: what is removed around an object, whose edge is in the pixels beside it."""
_ROUNDS = 5
_PANEL = 240


def object_mask(image: Image.Image, box: Box) -> Mask:
    """The object in a box, told from its ground by GrabCut; the whole box where that finds none.

    Args:
        image: RGB.
        box: Around the object; a box that is the whole picture leaves no ground and is the mask.

    Returns:
        ``(height, width)``; nothing outside the box.

    Source: Rother et al. 2004, OpenCV's implementation, 5 rounds.
    """
    import cv2

    (whole,) = whole_pixels(check_boxes([box], "box"))
    inside = mask_of([whole], image.size)
    x0, y0, x1, y1 = bounding_box(inside)
    if inside.all() or min(x1 - x0, y1 - y0) < 3:
        return inside
    labels = np.zeros(image.size[::-1], dtype=np.uint8)
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(np.asarray(image)[..., ::-1]),
        labels,
        (x0, y0, x1 - x0, y1 - y0),
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        _ROUNDS,
        cv2.GC_INIT_WITH_RECT,
    )
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)) & inside
    return found if found.any() else inside


def rle_mask(rle: Mapping[str, Any]) -> Mask:
    """The mask of COCO's run-length code, with counts as a list or packed into a string.

    Args:
        rle: ``{"size": [height, width], "counts": ...}``.

    Raises:
        MeasureError: If that is not what it is, or the counts do not add up to the size.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
        if isinstance(counts, bytes):
            counts = counts.decode("ascii")
        runs = _unpacked(counts) if isinstance(counts, str) else [int(count) for count in counts]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise MeasureError(
            f"The mask is {shortened(dict(rle))}; expected size, [height, width], and counts."
        ) from error
    if height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise MeasureError(f"A mask of {height}x{width} pixels is larger than a picture may be.")
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise MeasureError(
            f"The runs of the mask add up to {sum(runs)} pixels and its size is {height}x{width}; "
            "give size as [height, width] and the counts that belong to it."
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    """Counts of COCO's string: five bits a character, differences to the count before last."""
    runs: list[int] = []
    place = 0
    while place < len(text):
        value = shift = 0
        more = True
        while more:
            bits = ord(text[place]) - 48
            value |= (bits & 0x1F) << shift
            shift += 5
            place += 1
            more = bool(bits & 0x20)
            if not more and bits & 0x10:
                value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def read_mask(source: Mask | Image.Image | Mapping[str, Any] | str | Path) -> Mask:
    """A mask from an array, a picture or its file (what is not black is in it), or COCO's RLE."""
    if isinstance(source, Mapping):
        return rle_mask(source)
    if isinstance(source, np.ndarray):
        return source.astype(bool)
    image = source if isinstance(source, Image.Image) else open_picture(source, str(source))
    return np.asarray(image.convert("L")) > 0


def recoloured(image: Image.Image, mask: Mask, colour: str) -> Image.Image:
    """A copy in which a region's mean colour is another; light, shade and texture stay.

    Args:
        image: RGB.
        mask: The region.
        colour: A name or code that Pillow knows, such as ``"blue"`` or ``"#3060c0"``.

    Raises:
        MeasureError: If there is no such colour.

    Source: own; a shift in CIELAB, cut to what a screen can show.
    """
    try:
        wanted = ImageColor.getrgb(colour)[:3]
    except ValueError as error:
        raise MeasureError(
            f"Colour is {colour!r}, which is not known; give a name such as 'blue' or a code such "
            "as '#3060c0'."
        ) from error
    values = lab(np.asarray(image))
    target = lab(np.array([[wanted]], dtype=np.uint8))[0, 0]
    values[mask] += target - values[mask].mean(axis=0)
    return Image.fromarray(np.where(mask[..., None], rgb(values), np.asarray(image)))


def grown(mask: Mask, pixels: int | None = None) -> Mask:
    """A mask and what lies around it, by default 1 % of the picture's shorter side, at least 2."""
    rounds = max(round(_MARGIN * min(mask.shape)), 2) if pixels is None else pixels
    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=rounds))


def shifted(mask: Mask, by: tuple[int, int]) -> Mask:
    """A mask moved by ``(right, down)`` pixels.

    Raises:
        MeasureError: If it would leave the picture.
    """
    x0, y0, x1, y1 = bounding_box(mask)
    right, down = by
    if min(x0 + right, y0 + down) < 0 or x1 + right > mask.shape[1] or y1 + down > mask.shape[0]:
        raise MeasureError(
            f"Moved by {by}, the region {x0, y0, x1, y1} leaves the picture of {mask.shape[1]}x"
            f"{mask.shape[0]}; give a shift (right, down) that keeps it inside."
        )
    moved = np.zeros_like(mask)
    moved[y0 + down : y1 + down, x0 + right : x1 + right] = mask[y0:y1, x0:x1]
    return moved


@dataclass(frozen=True)
class PictureEdit:
    """An edit beside its original; shows both, the mask and the difference in a notebook.

    Attributes:
        problem: The item.
        edited: The edited picture with what changed, and which answer is right on it and why.
    """

    problem: Problem
    edited: EditedImage

    @property
    def residual(self) -> Residual | None:
        """How much of the region is still visible; ``None`` where the picture's size differs."""
        if self.edited.image.size != self.problem.size:
            return None
        return residual(self.problem.image, self.edited.image, self.edited.region)

    def pictures(self) -> dict[str, Image.Image]:
        """Before, after, region and difference (brightness three times that of the pixels'), small.

        There is no difference where the sizes differ.
        """
        before, after = self.problem.image, self.edited.image
        region = Image.fromarray(self.edited.region.astype(np.uint8) * 255)
        shown = {"before": before, "after": after, "region": region}
        if after.size == before.size:
            shown["difference"] = ImageChops.difference(before, after).point(lambda gap: gap * 3)
        small = {name: one.convert("RGB") for name, one in shown.items()}
        for one in small.values():
            one.thumbnail((_PANEL, _PANEL))
        return small

    def panels(self) -> Image.Image:
        """The `pictures` side by side."""
        shown = self.pictures().values()
        high = max(one.height for one in shown)
        sheet = Image.new("RGB", ((_PANEL + 4) * len(shown) - 4, high), "white")
        for at, one in enumerate(shown):
            sheet.paste(one, (at * (_PANEL + 4), 0))
        return sheet

    def __str__(self) -> str:
        """What changed, what is right on it and why, and what is left."""
        edited = self.edited
        words = [f"{self.problem.id}, {edited.kind}: {edited.change or 'edited'}."]
        right = "not known" if edited.expected is None else repr(edited.expected)
        words.append(f"Right answer: {right}{f' ({edited.why})' if edited.why else ''}.")
        left = self.residual
        return " ".join(words if left is None else [*words, f"{str(left).capitalize()}"])

    def _repr_html_(self) -> str:
        """The pictures over the words, every character of these escaped."""
        shown = []
        for name, one in self.pictures().items():
            file = BytesIO()
            one.save(file, "PNG")
            data = base64.b64encode(file.getvalue()).decode("ascii")
            shown.append(f'<img alt="{name}" title="{name}" src="data:image/png;base64,{data}">')
        return f"<figure>{' '.join(shown)}<figcaption>{for_html(str(self))}</figcaption></figure>"


def edit(
    problem: Problem,
    how: How | str,
    *,
    box: Box | None = None,
    mask: Mask | Image.Image | Mapping[str, Any] | str | Path | None = None,
    answer: str | None = None,
    colour: str | None = None,
    by: tuple[int, int] | None = None,
    source: Image.Image | None = None,
    text: str | None = None,
    font: str | Path | None = None,
    fill: Fill = "telea",
    seed: int = 0,
) -> PictureEdit:
    """Edit one item's picture and see before, after, mask and difference.

    * ``"fill"``: the region is filled; ``"remove"``: the object in it is, with its edge;
    * ``"recolour"``: the object gets the mean colour ``colour``;
    * ``"move"``: the object is removed and pasted ``by`` pixels (right, down) away;
    * ``"paste"``: the region shows ``source``, brought to the region's size;
    * ``"text"``: the word or value in the region is replaced by ``text`` (`replaced_text`);
    * a name of `edited_images`, such as ``"blur_3"`` or ``"mirror"``: that edit of the picture.

    Args:
        problem: The item.
        how: See above.
        box: The region, pixels; default the evidence boxes. With ``"remove"``, ``"recolour"`` and
            ``"move"`` GrabCut tells the object in it from its ground.
        mask: The object's mask instead; see `read_mask`.
        answer: The answer that is right on the edited picture, if you know it.
        colour: For ``"recolour"``.
        by: For ``"move"``.
        source: For ``"paste"``.
        text: For ``"text"``.
        font: For ``"text"``: a font file; default Pillow's own.
        fill: What is painted where something was filled or removed.
        seed: Of fills with chance.

    Raises:
        MeasureError: If an edit lacks what it needs, or there is no such edit.
    """
    if how not in get_args(How):
        options = EditOptions(seed=seed, fill=fill)
        (found,) = edited_images([problem], how, options=options)
        if answer is not None:
            found = replace(found, expected=answer, why="as given")
        return PictureEdit(problem, found)
    if problem.n_images > 1:
        raise MeasureError(
            f"Item {problem.id} has {problem.n_images} pictures; edit one of them, as "
            "problem.alone(number)."
        )
    region = _region(problem, how, box, mask)
    image = problem.image
    if how == "recolour":
        if colour is None:
            raise MeasureError("The edit 'recolour' needs a colour; give one such as 'blue'.")
        shown, changed, words = recoloured(image, region, colour), region, f"recoloured, {colour}"
    elif how == "move":
        if by is None:
            raise MeasureError("The edit 'move' needs by=(right, down), in pixels.")
        there, gone = shifted(region, by), grown(region)
        pixels = np.array(occluded(image, gone, fill, seed=seed))
        pixels[there] = np.asarray(image)[region]
        shown, changed = Image.fromarray(pixels), gone | there
        words = f"moved by {by[0]} pixels right and {by[1]} down"
    elif how == "paste":
        if source is None:
            raise MeasureError("The edit 'paste' needs the picture to paste as source=.")
        x0, y0, x1, y1 = bounding_box(region)
        canvas = image.copy()
        canvas.paste(source.convert("RGB").resize((x1 - x0, y1 - y0)), (x0, y0))
        pixels = np.where(region[..., None], np.asarray(canvas), np.asarray(image))
        shown, changed, words = Image.fromarray(pixels), region, "another picture pasted"
    elif how == "text":
        if text is None:
            raise MeasureError("The edit 'text' needs the new text as text=.")
        shown, changed = replaced_text(
            image, bounding_box(region), text, font=font, fill=fill, seed=seed
        )
        words = f"text replaced by {text!r}"
    else:
        changed = grown(region) if how == "remove" else region
        shown = occluded(image, changed, fill, seed=seed)
        words = f"{'removed' if how == 'remove' else 'filled'} ({fill_name(fill)})"
    edited = EditedImage(
        0,
        how,
        shown,
        answer,
        (bounding_box(changed),),
        mask=changed,
        change=words,
        why="" if answer is None else "as given",
    )
    return PictureEdit(problem, edited)


def with_twin(
    problem: Problem,
    answer: str,
    how: How = "remove",
    *,
    box: Box | None = None,
    mask: Mask | Image.Image | Mapping[str, Any] | str | Path | None = None,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """A problem with the twin that an edit of a region makes, and a control edit elsewhere.

    The control does the same to a region without evidence (`matched_control`): as large where
    there is room. Where an object is moved or text replaced, the control is a filled region, since
    there is no second object.

    Args:
        problem: The item.
        answer: The right answer on the twin; you say it, it is not checked against the picture.
        how: What is done to the region, see `edit`.
        box: The region; default the evidence boxes.
        mask: The object's mask instead.
        seed: Decides the control's place, and fills with chance.
        options: Of `edit`: ``colour``, ``by``, ``source``, ``text``, ``font``, ``fill``.

    Returns:
        The problem with ``twin`` and ``control``; without a control where the picture has no room
        for any.

    Raises:
        MeasureError: If the edit lacks what it needs.
        ProblemError: If the answer is the item's own, or not among its candidates.
    """
    made = edit(problem, how, box=box, mask=mask, answer=answer, seed=seed, **options).edited
    twin = Edit("twin", made.image, answer, (), _floats([bounding_box(made.region)]))
    place = matched_control(problem, [bounding_box(made.region)], seed=seed)
    if place is None:
        return replace(problem, twin=twin, control=None)
    if how in ("move", "text"):
        shown = occluded(problem.image, place.boxes, options.get("fill", "telea"), seed=seed)
    else:
        plain = "fill" if how == "remove" else how
        region = mask_of(place.boxes, problem.size)
        shown = edit(problem, plain, mask=region, seed=seed, **options).edited.image
    control = Edit("control", shown, problem.answer, (), _floats(place.boxes))
    return replace(problem, twin=twin, control=control)


def _region(problem: Problem, how: str, box: Box | None, mask: Any) -> Mask:
    if mask is not None:
        found = read_mask(mask)
        if found.shape != problem.size[::-1] or not found.any():
            raise MeasureError(
                f"The mask is {found.shape[1]}x{found.shape[0]} with {int(found.sum())} pixels in "
                f"it and the picture of {problem.id} {problem.size[0]}x{problem.size[1]}; give one "
                "of the picture's size with at least one pixel."
            )
        return found
    rectangles = (
        evidence_rectangles(problem) if box is None else whole_pixels(check_boxes([box], "box"))
    )
    if not rectangles or not mask_of(rectangles, problem.size).any():
        raise MeasureError(
            f"Item {problem.id} has no evidence boxes in its picture to {how}; give box= or mask=."
        )
    if how in ("fill", "paste", "text"):
        return mask_of(rectangles, problem.size)
    found = np.zeros(problem.size[::-1], dtype=bool)
    for rectangle in rectangles:
        found |= object_mask(problem.image, rectangle)
    return found


def _floats(rectangles: Sequence[Rectangle]) -> tuple[Box, ...]:
    return tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in rectangles)
