"""Fills: what a picture shows instead of a region, and how much of the region is still visible."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from scipy import ndimage

from attcot_analysis.errors import MeasureError, check_numbers

Rectangle = tuple[int, int, int, int]
"""``(x0, y0, x1, y1)`` whole pixels, half open."""

Mask: TypeAlias = npt.NDArray[np.bool_]
"""``(height, width)``, true in the region."""

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""``(height, width, 3)``, RGB."""

FillFunction: TypeAlias = Callable[[Pixels, Mask, np.random.Generator], npt.ArrayLike]
"""Takes a picture, a region and a source of chance; returns a picture (an array or a PIL image).

What it returns outside the region is not used, and another size is brought to the picture's. An
inpainting model takes part as it is: ``lambda pixels, mask, rng: pipeline(image=
Image.fromarray(pixels), mask_image=Image.fromarray(mask), prompt="").images[0]``.
"""

Fill: TypeAlias = str | FillFunction
"""A name in `FILLS`, or a function."""

GREY = (128, 128, 128)
"""Colour of a blank picture."""

_PATCH = 8
_RING = 8
_INPAINT_RADIUS = 5
_NOTHING = 0.25
"""Mean square, in units of CIELAB, below which a region has no edges or no colours to lose."""


def mask_of(rectangles: Sequence[Rectangle], size: tuple[int, int]) -> Mask:
    """The region that rectangles cover together in a picture of ``size`` (width, height)."""
    mask = np.zeros(size[::-1], dtype=bool)
    for x0, y0, x1, y1 in rectangles:
        mask[max(y0, 0) : y1, max(x0, 0) : x1] = True
    return mask


def bounding_box(mask: Mask) -> Rectangle:
    """The smallest rectangle around a region that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def occluded(
    image: Image.Image,
    hidden: Sequence[Rectangle] | Mask,
    fill: Fill = "mean",
    *,
    seed: int = 0,
) -> Image.Image:
    """A copy of a picture with a region filled; outside the region no pixel changes.

    Args:
        image: RGB.
        hidden: Rectangles, or a mask of the picture's size.
        fill: A name in `FILLS`, or a function such as an inpainting model, see `FillFunction`.
        seed: Of fills with chance.

    Raises:
        MeasureError: If there is no such fill, a mask has another size, or a fill needs
            surroundings and the region is the whole picture.
    """
    if isinstance(fill, str) and fill not in FILLS:
        raise MeasureError(f"Fill is {fill!r}; choose one of {', '.join(FILLS)}.")
    check_numbers(seed=seed)
    pixels = np.asarray(image)
    mask = hidden if isinstance(hidden, np.ndarray) else mask_of(hidden, image.size)
    if mask.shape != pixels.shape[:2]:
        raise MeasureError(
            f"The mask is {mask.shape[1]}x{mask.shape[0]} and the picture {image.width}x"
            f"{image.height}; give a mask of the picture's size."
        )
    if not mask.any():
        return image.copy()
    make = FILLS[fill] if isinstance(fill, str) else fill
    made = make(pixels, mask, np.random.default_rng(seed))
    shown = made if isinstance(made, Image.Image) else Image.fromarray(np.asarray(made, np.uint8))
    if shown.size != image.size:
        shown = shown.resize(image.size, Image.Resampling.LANCZOS)
    return Image.fromarray(np.where(mask[..., None], np.asarray(shown.convert("RGB")), pixels))


def _mean(pixels: Pixels, mask: Mask, rng: np.random.Generator) -> npt.ArrayLike:
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    return np.broadcast_to(colour, pixels.shape)


def _grey(pixels: Pixels, mask: Mask, rng: np.random.Generator) -> npt.ArrayLike:
    return np.broadcast_to(np.array(GREY, dtype=np.uint8), pixels.shape)


def _blur(pixels: Pixels, mask: Mask, rng: np.random.Generator) -> npt.ArrayLike:
    x0, y0, x1, y1 = bounding_box(mask)
    radius = min(x1 - x0, y1 - y0) / 4
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _noise(pixels: Pixels, mask: Mask, rng: np.random.Generator) -> npt.ArrayLike:
    rest = pixels[~mask] if not mask.all() else pixels.reshape(-1, 3)
    filled = pixels.copy()
    filled[mask] = rest[rng.integers(len(rest), size=int(mask.sum()))]
    return filled


def _shuffle(pixels: Pixels, mask: Mask, rng: np.random.Generator) -> npt.ArrayLike:
    x0, y0, x1, y1 = bounding_box(mask)
    filled = pixels.copy()
    filled[y0:y1, x0:x1] = shuffled(pixels[y0:y1, x0:x1], rng)
    return filled


def shuffled(pixels: Pixels, rng: np.random.Generator, per_side: int = 8) -> Pixels:
    """A picture cut into ``per_side`` x ``per_side`` equal patches that change places.

    What is left over at the right and at the bottom, fewer than ``per_side`` pixels, stays.
    """
    high, wide = pixels.shape[0] // per_side, pixels.shape[1] // per_side
    if not high or not wide:
        order = rng.permutation(pixels.shape[0] * pixels.shape[1])
        return pixels.reshape(-1, 3)[order].reshape(pixels.shape)
    whole = pixels[: high * per_side, : wide * per_side]
    patches = whole.reshape(per_side, high, per_side, wide, 3).swapaxes(1, 2)
    moved = patches.reshape(-1, high, wide, 3)[rng.permutation(per_side**2)]
    shown = pixels.copy()
    shown[: high * per_side, : wide * per_side] = (
        moved.reshape(per_side, per_side, high, wide, 3).swapaxes(1, 2).reshape(whole.shape)
    )
    return shown


def _inpainted(method: str) -> FillFunction:
    def fill(pixels: Pixels, mask: Mask, rng: np.random.Generator) -> npt.ArrayLike:
        import cv2

        if mask.all():
            raise MeasureError(
                "The region to inpaint is the whole picture, which leaves nothing to paint it "
                "from; choose the fill 'mean', 'grey', 'noise' or 'shuffle'."
            )
        return cv2.inpaint(pixels, mask.astype(np.uint8), _INPAINT_RADIUS, getattr(cv2, method))

    return fill


FILLS: dict[str, FillFunction] = {
    "mean": _mean,
    "grey": _grey,
    "blur": _blur,
    "noise": _noise,
    "shuffle": _shuffle,
    "telea": _inpainted("INPAINT_TELEA"),
    "navier_stokes": _inpainted("INPAINT_NS"),
}
"""Every fill by name; one of your own is a further entry.

* ``"mean"``: the picture's mean colour; ``"grey"``: mid-grey;
* ``"blur"``: the picture blurred by a quarter of the region's shorter side;
* ``"noise"``: every pixel one of the rest of the picture, drawn at random;
* ``"shuffle"``: 8 x 8 patches of the region's bounding box change places;
* ``"telea"``, ``"navier_stokes"``: inpainted from the region's edge (Telea 2004; Bertalmio et al.
  2001; both OpenCV's).
"""


@dataclass(frozen=True)
class Residual:
    """What an edit left of a region.

    Attributes:
        edges: Amplitude of the region's own edges that remains, 0 to 1: its gradients before and
            after, as a regression of those after on those before. Edges that moved are gone.
        colours: The same of its colours' distance from their surroundings.
        unnatural: Share of the region's 8 x 8 patches that are flatter or rougher than 98 % of the
            patches of the unedited picture.
        area: Share of the picture that the region covers.

    ``edges`` and ``colours`` are missing (NaN) where the region had none to lose.
    """

    edges: float
    colours: float
    unnatural: float
    area: float

    def __str__(self) -> str:
        """Write it as a sentence."""
        left = [
            f"{name} {'none to lose' if np.isnan(value) else f'{value:.0%} left'}"
            for name, value in (("edges", self.edges), ("colours", self.colours))
        ]
        return (
            f"{'; '.join(left)}; {self.unnatural:.0%} of patches out of the picture's own range; "
            f"{self.area:.1%} of the picture."
        )


def residual(
    before: Image.Image, after: Image.Image, region: Sequence[Rectangle] | Mask
) -> Residual:
    """How much of a region an edit left visible, and how unlike the picture it made it.

    In CIELAB. ``edges`` looks at lightness inside the region, without its outline, which an edit
    draws itself; ``colours`` at the difference from a ring of 8 pixels around it (from the whole
    picture where there is no ring).

    Args:
        before: The picture.
        after: The edited one, of the same size.
        region: What was to disappear.

    Raises:
        MeasureError: If the pictures differ in size, or the region is empty.

    Source: own.
    """
    if before.size != after.size:
        raise MeasureError(
            f"The edited picture is {after.width}x{after.height} and the original {before.width}x"
            f"{before.height}; what is left of a region is defined for pictures of one size."
        )
    mask = region if isinstance(region, np.ndarray) else mask_of(region, before.size)
    if not mask.any():
        raise MeasureError("The region is empty; give at least one pixel that was edited.")
    first, second = lab(np.asarray(before)), lab(np.asarray(after))
    slopes = [np.asarray(np.gradient(one[..., 0])) for one in (first, second)]
    inside = ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=1)
    ring = ndimage.binary_dilation(mask, iterations=_RING) & ~mask
    around = first[ring if ring.any() else np.ones_like(mask)].mean(axis=0)
    rough = [np.sqrt(_patches((one.astype(float) ** 2).sum(axis=0))) for one in slopes]
    low, high = np.quantile(rough[0], (0.01, 0.99))
    share = _patches(mask.astype(float))
    # The patches mostly inside the region; of a region smaller than any, those it touches most.
    own = rough[1][share >= min(0.5, share.max())]
    return Residual(
        edges=_left(slopes[0][:, inside], slopes[1][:, inside]),
        colours=_left(first[mask] - around, second[mask] - around),
        unnatural=float(((own < low) | (own > high)).mean()),
        area=float(mask.mean()),
    )


def lab(pixels: Pixels) -> npt.NDArray[np.float32]:
    """A picture in CIELAB: lightness 0 to 100, a and b in units of the same size."""
    import cv2

    return cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float32)


def rgb(colours: npt.NDArray[np.float32]) -> Pixels:
    """The picture of CIELAB colours, those that no screen can show brought to the nearest."""
    import cv2

    shown = cv2.cvtColor(colours.astype(np.float32), cv2.COLOR_LAB2RGB)
    return (shown.clip(0, 1) * 255).round().astype(np.uint8)


def _left(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> float:
    energy = float((before.astype(float) ** 2).sum())
    pixels = max(before.size / 3, 1)
    if energy / pixels < _NOTHING:
        return nan
    return float(np.clip((before.astype(float) * after).sum() / energy, 0, 1))


def _patches(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means over patches; the last of a row or column may be smaller."""
    rows = np.arange(0, values.shape[0], _PATCH)
    columns = np.arange(0, values.shape[1], _PATCH)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    high = np.diff([*rows, values.shape[0]])
    wide = np.diff([*columns, values.shape[1]])
    return np.asarray(sums / np.outer(high, wide))
