"""Painting: does a token's feature answer to the pixels of the token's box?

The map from image tokens to pixel boxes is computed from what the processor says. This is its
check against the model itself: paint the pixels of one box and see which token's vision feature
moves most.
"""

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from attcot_analysis.errors import LayoutError, check_numbers
from attcot_analysis.models.grid import IntArray, TokenGrid
from attcot_analysis.models.inputs import Encoded, ImageLike, encode, read_image
from attcot_analysis.models.load import Mllm, evaluating

COLUMNS = ("token", "view", "moved", "hit", "shift", "runner_up")
"""Of the table of `painted_tokens`."""


@torch.no_grad()
def image_features(mllm: Mllm, encoded: Encoded) -> Tensor:
    """The vision features of an item's image tokens as they are put into the sequence.

    Returns:
        ``(N, D)`` fp32 on the CPU, one row per token of ``encoded.layout.image``.

    Raises:
        LayoutError: If the item has no image, or the model makes another number of features.
    """
    if not encoded.layout.grids:
        raise LayoutError("A text-only prompt has no image features; give an image.")
    vision = {key: value.to(mllm.device) for key, value in encoded.vision.items()}
    with evaluating(mllm.model):
        found = mllm.model.get_image_features(**vision, return_dict=True).pooler_output
    parts = [found] if isinstance(found, Tensor) else list(found)
    rows = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]).float().cpu()
    grids = encoded.layout.grids
    ends = np.cumsum([grid.n_placeholders for grid in grids])
    if len(rows) != ends[-1]:
        raise LayoutError(
            f"The model makes {len(rows)} image features for {ends[-1]} image tokens; its "
            "processor belongs to another model or other settings."
        )
    starts = [0, *ends[:-1]]
    places = [start + grid.placeholders for start, grid in zip(starts, grids, strict=True)]
    return rows[torch.from_numpy(np.concatenate(places))]


def painted_tokens(
    mllm: Mllm, image: ImageLike, places: Sequence[int] | IntArray | None = None
) -> pd.DataFrame:
    """Paint the box of one token after the other and see whose feature moves most.

    A box is painted in the one of black, white and the six pure colours that is farthest from its
    mean colour. Of the features, the one with the largest Euclidean change has moved most, among
    the tokens of the painted token's own view: a picture's overview sees every change too.

    Args:
        mllm: The model.
        image: The picture; noise, or anything whose tokens are a few pixels wide.
        places: Which tokens of the image to paint; default `paintable_tokens`.

    Returns:
        One row per place: ``token``; its ``view``; ``moved``, the token that moved most; ``hit``,
        whether it is the painted one; ``shift``, how far the painted one moved; ``runner_up``,
        how far the farthest other one did.

    Raises:
        LayoutError: If a place is no token or its box holds no whole pixel.

    Source: reconstruction; occlusion as in Zeiler & Fergus (arXiv 1311.2901), read at the features.
    """
    picture = read_image(image)
    plain = encode(mllm, picture, "")
    (grid,) = plain.layout.grids
    before = image_features(mllm, plain)
    view_of = np.zeros(len(grid), dtype=np.int64)
    for number, view in enumerate(grid.views):
        view_of[view.ravel()] = number
    rows = []
    for place in paintable_tokens(grid) if places is None else places:
        if not isinstance(place, Integral):
            raise LayoutError(f"{place} is no place of a token; give whole numbers.")
        token = int(place)
        painted = encode(mllm, _painted(picture, grid, token), "")
        shifts = (image_features(mllm, painted) - before).norm(dim=-1).numpy()
        peers = np.flatnonzero(view_of == view_of[token])
        others = peers[peers != token]
        moved = int(peers[shifts[peers].argmax()])
        runner_up = float(shifts[others].max()) if len(others) else 0.0
        rows.append(
            (token, int(view_of[token]), moved, moved == token, float(shifts[token]), runner_up)
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def paintable_tokens(
    grid: TokenGrid, n: int | None = None, *, seed: int = 0, least: float = 2.0
) -> IntArray:
    """Tokens whose boxes lie in the image and are ``least`` pixels or more on each side.

    Args:
        grid: Of the image.
        n: Draw this many at random, as evenly from the views as they allow; default all.
        seed: For the draw.
        least: Pixels.

    Raises:
        MeasureError: If a number is out of range.
    """
    check_numbers(seed=seed, n=1 if n is None else n)
    x0, y0, x1, y1 = grid.boxes.T
    width, height = grid.image_size
    edge = 1e-6
    inside = (x0 >= -edge) & (y0 >= -edge) & (x1 <= width + edge) & (y1 <= height + edge)
    fit = inside & (np.minimum(x1 - x0, y1 - y0) >= least - edge)
    views = grid.views or (np.arange(len(grid)),)
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(view.ravel()[fit[view.ravel()]]) for view in views]
    turns = np.concatenate([np.arange(len(tokens)) for tokens in drawn])
    chosen = np.concatenate(drawn)[np.argsort(turns, kind="stable")]
    return np.sort(chosen if n is None else chosen[:n])


def _painted(picture: Image.Image, grid: TokenGrid, token: int) -> Image.Image:
    if not 0 <= token < len(grid):
        raise LayoutError(f"There is no token {token} to paint; the image has {len(grid)}.")
    width, height = picture.size
    x0, y0, x1, y1 = grid.boxes[token].round().astype(int)
    box = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise LayoutError(
            f"Token {token} has no whole pixel of the image to paint; take a larger picture or "
            "one of paintable_tokens()."
        )
    painted = picture.copy()
    mean = np.asarray(picture.crop(box), dtype=float).mean(axis=(0, 1))
    red, green, blue = (0 if channel > 127.5 else 255 for channel in mean)
    painted.paste((red, green, blue), box)
    return painted
