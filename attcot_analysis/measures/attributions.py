"""Attributions: how a response's log-probability depends on the picture's regions, by captum.

Occlusion and Shapley values paint over regions of the ORIGINAL picture and run it through the
processor again, so they mean the same for every family. Integrated gradients follow the pixels
that the processor made, in tiles too; they are refused where these are not laid out as the image
tokens are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.linalg import block_diag
from torch import Tensor

from attcot_analysis.attention.flow import frozen
from attcot_analysis.errors import LayoutError, MeasureError, check_numbers
from attcot_analysis.measures.maps import (
    ResponseMaps,
    ResponseParts,
    Targets,
    maps_of_parts,
    response_parts,
)
from attcot_analysis.models import Encoded, Mllm, TokenGrid, collate, encode_problem, evaluating
from attcot_analysis.models.inputs import ImageLike, Shown, read_image
from attcot_analysis.problems import Problem
from attcot_analysis.problems.fills import occluded

Method = Literal["occlusion", "shapley", "integrated_gradients"]

Fill = Literal["mean", "grey"]

_FINEST = 64
"""Most image tokens that are regions of their own unless asked for; each costs a forward pass."""


def attribution_maps(
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    *,
    method: Method = "occlusion",
    targets: Targets = "steps",
    answer: str | None = None,
    image: Shown | None = None,
    regions: tuple[int, int] | None = None,
    fill: Fill = "mean",
    n_samples: int = 25,
    n_steps: int = 32,
    max_steps: int = 1024,
    tolerance: float = 0.1,
    seed: int = 0,
    batch_size: int = 8,
) -> ResponseMaps:
    """How the log-probability of what a response says depends on each part of the picture.

    * ``"occlusion"``: log p lost when one region is painted over and the rest stays. Blind to
      what two regions say alike: each can be spared alone.
    * ``"shapley"``: a region's mean gain of log p when regions appear in random order on a
      painted-over picture. Adds up to ``log p(picture) - log p(painted over)``.
    * ``"integrated_gradients"``: gradients of log p along the straight line from the painted-over
      picture to the picture, times the difference, summed over a token's pixels. Adds up to the
      same but for the integral's error; where log p changes abruptly on the way, a few dozen
      points miss it by far, so points are added until the sum is right.

    A region's value is spread over its image tokens by area, so a map adds up to what its regions
    do. The rationale is kept; only the picture changes.

    Args:
        mllm: The model; in bf16 log p is coarse, so load it in float32 for small differences.
        problem: The item; several pictures are painted over one region at a time, and mapped side
            by side.
        response: Text, or token ids as generated.
        method: See above.
        targets: Parts with a map; with gradients every part costs passes of its own, with the
            other methods all parts are read from the same passes.
        answer: An answer to force after the rationale, instead of what the response says there.
        image: Another picture to explain instead of the item's own; of several, all of them.
        regions: ``(rows, cols)`` of equal regions to paint over. Default: the boxes of the image
            tokens if they form one grid of at most 64, else 8 x 8.
        fill: What they are painted with, and where gradients start: the picture's mean colour, or
            mid-grey.
        n_samples: Orders to draw for Shapley values; each costs a forward pass per region.
        n_steps: Points of the integral to start with, each a forward and backward pass per part;
            doubled as long as the sum is wrong.
        max_steps: Most points of the integral.
        tolerance: How far the sum of integrated gradients may be off: nats, or as a share of
            what it should be where that is more than a nat. ``math.inf`` takes ``n_steps`` points.
        seed: Of the orders.
        batch_size: Pictures per forward pass.

    Returns:
        ``source=method``; weights ``(1, 1, R, N)`` in nats, negative where the picture speaks
        against the part.

    Raises:
        MeasureError: If the method or fill is unknown, log p is not finite, or integrated
            gradients do not add up or are not defined for how the processor lays out pixels, or
            for several pictures.
        LayoutError: If the item has no image, or its response not the parts.

    Source: captum's ``FeatureAblation``, ``ShapleyValueSampling`` (Castro et al. 2009) and
    ``IntegratedGradients`` (Sundararajan et al. 2017, arXiv 1703.01365).
    """
    for name, value, known in (("method", method, Method), ("fill", fill, Fill)):
        if value not in get_args(known):
            raise MeasureError(f"{name} is {value!r}; choose from {', '.join(get_args(known))}.")
    pictures = shown_pictures(problem, image)
    asked = response_parts(mllm, problem, response, targets, answer=answer, image=pictures)
    grids = asked.item.layout.grids
    boxes = [_regions(grid, regions) for grid in grids]
    score = shown_scores(mllm, problem, asked, pictures, boxes, fill)
    if method == "integrated_gradients":
        if len(pictures) > 1:
            raise MeasureError(
                f"Problem {problem.id} has {len(pictures)} pictures, of which integrated gradients "
                "are not defined here; use occlusion or shapley."
            )
        bare = occluded(pictures[0], np.rint(boxes[0]).astype(int).tolist(), fill)
        start = encode_problem(mllm, problem, response=asked.item.response_ids, image=bare)
        counts = [n_steps]
        while tolerance < math.inf and 2 * counts[-1] <= max_steps:
            counts.append(2 * counts[-1])
        found = _integrated(mllm, asked, start, counts, tolerance, batch_size)
    else:
        values = region_values(score, sum(map(len, boxes)), method, n_samples, seed, batch_size)
        found = values @ block_diag(*map(spread, grids, boxes)).T
    return maps_of_parts(asked, found, method)


def shown_pictures(problem: Problem, image: Shown | None) -> list[Image.Image]:
    """An item's pictures, or those to show instead."""
    shown = problem.held if image is None else image
    return [read_image(one) for one in ([shown] if isinstance(shown, ImageLike) else shown)]


def shown_scores(
    mllm: Mllm,
    problem: Problem,
    asked: ResponseParts,
    pictures: Sequence[Image.Image],
    boxes: Sequence[npt.NDArray[np.float64]],
    fill: Fill,
) -> Callable[[Tensor], Tensor]:
    """Log p of an item's parts by which boxes of each picture are shown, the others painted over.

    Returns:
        ``(B, n)`` floats, 1 where a box is shown, to ``(B, P)``.
    """
    rectangles = [np.rint(own).astype(int).tolist() for own in boxes]

    def encoded(keep: Sequence[bool]) -> Encoded:
        kept = iter(keep)
        hidden = [[place for place in own if not next(kept)] for own in rectangles]
        shown = [
            occluded(picture, own, fill) if own else picture
            for picture, own in zip(pictures, hidden, strict=True)
        ]
        return encode_problem(mllm, problem, response=asked.item.response_ids, image=shown)

    def score(shown: Tensor) -> Tensor:
        items = [encoded(keep) for keep in (shown > 0.5).tolist()]
        with torch.no_grad(), evaluating(mllm.model):
            return _log_p(mllm, asked, collate(mllm, items)).cpu()

    return score


def region_values(
    score: Callable[[Tensor], Tensor],
    n_regions: int,
    method: Literal["occlusion", "shapley"],
    n_samples: int = 25,
    seed: int = 0,
    batch_size: int = 8,
) -> npt.NDArray[np.float64]:
    """Values of regions for a score of which regions are shown, by captum.

    Args:
        score: ``(B, n_regions)`` floats, 1 where a region is shown and 0 where it is not, to
            ``(B, P)`` scores.
        n_regions: Number of regions.
        method: ``"occlusion"`` or ``"shapley"``.
        n_samples: Orders to draw for Shapley values.
        seed: Of the orders.
        batch_size: Most rows per call of the score.

    Returns:
        ``(P, n_regions)``.
    """
    # Imported where it is used: it is slow to import, and little here needs it.
    from captum.attr import FeatureAblation, ShapleyValueSampling

    check_numbers(seed=seed, batch_size=batch_size)
    shown = torch.ones(1, n_regions)
    options: dict[str, Any] = {"perturbations_per_eval": batch_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if method == "occlusion":
            found = FeatureAblation(score).attribute(shown, **options)
        else:
            found = ShapleyValueSampling(score).attribute(shown, n_samples=n_samples, **options)
    return np.asarray(found.reshape(-1, n_regions).double().numpy())


def spread(grid: TokenGrid, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How much of each region's value each image token gets, ``(N, n_regions)``.

    By the area they share; where tokens overlap (tiles over a thumbnail), they share. Columns
    sum to 1, to 0 where no token sees the region.
    """
    x0, y0, x1, y1 = grid.boxes.T[..., None]
    width = np.clip(np.minimum(x1, boxes[:, 2]) - np.maximum(x0, boxes[:, 0]), 0, None)
    height = np.clip(np.minimum(y1, boxes[:, 3]) - np.maximum(y0, boxes[:, 1]), 0, None)
    area = width * height
    total = area.sum(axis=0, keepdims=True)
    return np.asarray(np.divide(area, total, out=np.zeros_like(area), where=total > 0))


def token_sums(
    mllm: Mllm, item: Encoded, values: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Sum values of the processor's pixels, shaped as ``pixel_values``, over image tokens.

    Returns:
        ``(N,)``.

    Raises:
        MeasureError: If the pixels are not laid out as the tokens are.
    """
    grid = item.layout.grids[0]
    if "image_grid_thw" in item.vision and values.ndim == 2 and len(values) % len(grid) == 0:
        # One row per patch; the patches of a token follow each other.
        return np.asarray(values.reshape(len(grid), -1).sum(axis=1))
    # Rows of flattened patches (LFM2-VL, Gemma 4, MiniCPM-V) are no picture of square tokens.
    one = values.ndim > 3 and values.size == np.prod(values.shape[-3:])
    if len(grid.views) == 1 and one:
        (view,) = grid.views
        (rows, cols), (height, width) = view.shape, values.shape[-2:]
        if height % rows == width % cols == 0 and height // rows == width // cols:
            blocks = values.reshape(-1, rows, height // rows, cols, width // cols)
            found = np.empty(len(grid))
            found[view] = blocks.sum(axis=(0, 2, 4))
            return found
    tiles = values.reshape(-1, *values.shape[-3:]) if values.ndim > 2 else values[:0]
    side = math.isqrt(len(grid) // max(len(tiles), 1))
    if len(tiles) > 1 and _by_tiles(grid, len(tiles), side):
        _, depth, height, width = tiles.shape
        blocks = tiles.reshape(-1, depth, side, height // side, side, width // side)
        if blocks.size == values.size and height % side == width % side == 0:
            return np.asarray(blocks.sum(axis=(1, 3, 5)).ravel())
    raise MeasureError(
        f"Integrated gradients are not defined here: the processor of {mllm.name} makes pixels "
        f"of shape {values.shape} that are not laid out as its {len(grid)} image tokens (tiles, "
        "padding); use occlusion or shapley."
    )


def _by_tiles(grid: TokenGrid, n_tiles: int, side: int) -> bool:
    """Whether tokens stand tile after tile, row by row in each, as the pixels of tiles do."""
    if len(grid) != n_tiles * side * side:
        return False
    found = []
    for view in grid.views:
        rows, cols = view.shape
        if rows % side or cols % side:
            return False
        tiles = view.reshape(rows // side, side, cols // side, side).transpose(0, 2, 1, 3)
        found.append(tiles.reshape(-1, side * side))
    places = np.concatenate(found)
    starts, within = places[:, :1], np.arange(side * side)
    whole = np.array_equal(np.sort(starts, axis=0)[:, 0], np.arange(n_tiles) * side * side)
    return whole and bool((places == starts + within).all())


def _integrated(
    mllm: Mllm,
    asked: ResponseParts,
    start: Encoded,
    counts: Sequence[int],
    tolerance: float,
    batch_size: int,
) -> npt.NDArray[np.float64]:
    """Integrated gradients of every part, summed over tokens, ``(P, N)``."""
    from captum.attr import IntegratedGradients

    pixels, painted = (
        item.vision["pixel_values"].to(mllm.device, torch.float32)[None]
        for item in (asked.item, start)
    )
    token_sums(mllm, asked.item, np.zeros(pixels.shape[1:]))
    batches: dict[int, dict[str, Tensor]] = {}

    def log_p(between: Tensor) -> Tensor:
        size = len(between)
        if size not in batches:
            batches[size] = collate(mllm, [asked.item] * size)
        joined = between.flatten(0, 1)
        return _log_p(mllm, asked, {**batches[size], "pixel_values": joined})

    def integrated(part: int, expected: float) -> npt.NDArray[np.float64]:
        for n_steps in counts:
            slopes = explainer.attribute(
                pixels,
                baselines=painted,
                target=part,
                n_steps=n_steps,
                internal_batch_size=batch_size,
            )
            sums = token_sums(mllm, asked.item, slopes[0].detach().cpu().double().numpy())
            if abs(sums.sum() - expected) <= tolerance * max(1.0, abs(expected)):
                return sums
        raise MeasureError(
            f"Integrated gradients of {asked.parts[part].text!r} add up to {sums.sum():.3g} with "
            f"{counts[-1]} points where log p differs by {expected:.3g}; raise max_steps, or "
            "accept the error with a larger tolerance."
        )

    explainer = IntegratedGradients(log_p)
    with frozen(mllm.model), evaluating(mllm.model):
        with torch.no_grad():
            gains = (log_p(pixels) - log_p(painted))[0].tolist()
        with torch.enable_grad():
            return np.stack([integrated(part, gain) for part, gain in enumerate(gains)])


def _log_p(mllm: Mllm, asked: ResponseParts, batch: dict[str, Tensor]) -> Tensor:
    """Log-probability of every part on every picture of a batch, ``(B, P)``."""
    rows = asked.rows.to(mllm.device)
    return asked.log_probs(mllm.model(**batch, logits_to_keep=rows, use_cache=False).logits)


def _regions(grid: TokenGrid, regions: tuple[int, int] | None) -> npt.NDArray[np.float64]:
    """Boxes of the regions, ``(n, 4)`` in original pixels."""
    if regions is None:
        if grid.shape is not None and len(grid) <= _FINEST:
            return grid.boxes
        regions = (8, 8)
    if min(regions) < 1 or regions[0] > grid.image_size[1] or regions[1] > grid.image_size[0]:
        raise LayoutError(
            f"Regions are {regions}; expected (rows, cols), at least (1, 1) and no more than the "
            f"{grid.image_size[1]} x {grid.image_size[0]} pixels of the picture."
        )
    return TokenGrid.regular(grid.image_size, *regions).boxes
