"""Token grids of LLaVA-NeXT and LLaVA-OneVision: the whole image, then tiles less their padding."""

from math import ceil, isqrt, sqrt
from typing import Any

import numpy as np
from transformers.image_processing_utils import select_best_resolution

from attcot_analysis.models.families.family import ProcessedPrompt
from attcot_analysis.models.families.frame import Frame, cells, shares
from attcot_analysis.models.families.single import padded_to_square
from attcot_analysis.models.grid import FloatArray, IntArray, TokenGrid

View = tuple[FloatArray, IntArray]


def llava_next_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """The whole image stretched to one tile, then tiles of the best fitting resolution.

    The tiles' tokens form one grid, cut down to the rows and columns that hold image and not
    padding, with a newline token behind every row.
    """
    processor = prompt.processor
    dropped = processor.vision_feature_select_strategy == "default"
    extra = processor.num_additional_image_tokens - int(dropped)
    prompt.require(extra == 0, f"{extra} image tokens per tile beside those of the patches")
    side = prompt.pixel_size[0] // processor.patch_size
    return tuple(
        _anyres(prompt, size, side, processor.patch_size, None) for size in prompt.image_sizes
    )


def llava_onevision_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """Like LLaVA-NeXT; many tiles are resampled to fewer tokens.

    Several images in one prompt are padded to squares and not tiled, with one newline token each.
    """
    processor = prompt.processor
    side = isqrt(processor.num_image_tokens)
    patch = prompt.config.vision_config.patch_size
    if len(prompt.image_sizes) == 1:
        limit = processor.vision_aspect_ratio.removeprefix("anyres_max_")
        prompt.require(limit.isdigit(), f"its vision_aspect_ratio is {limit}")
        return (_anyres(prompt, prompt.image_sizes[0], side, patch, int(limit)),)
    _check_tile(prompt, side, patch)
    stretch = cells(side, patch)
    slots = np.arange(side * side).reshape(side, side)
    return tuple(
        TokenGrid.of_views(
            size,
            [(padded_to_square(size).resize(*prompt.pixel_size).boxes(stretch, stretch), slots)],
            side * side + 1,
        )
        for size in prompt.image_sizes
    )


def _anyres(
    prompt: ProcessedPrompt, size: tuple[int, int], side: int, patch: int, limit: int | None
) -> TokenGrid:
    _check_tile(prompt, side, patch)
    tile = prompt.pixel_size[0]
    pinpoints = prompt.processor.image_processor.image_grid_pinpoints
    height, width = select_best_resolution(size[::-1], pinpoints)
    prompt.require(
        width % tile == height % tile == 0,
        f"the resolution {width} x {height} is cut into tiles of {tile} pixels",
    )
    stretch = cells(side, patch)
    slots = np.arange(side * side).reshape(side, side)
    whole = (Frame(size).resize(tile, tile).boxes(stretch, stretch), slots)

    columns = cells(side, patch, tiles=width // tile, tile=tile)
    rows = cells(side, patch, tiles=height // tile, tile=tile)
    rows, columns = _without_padding(rows, columns, size)
    if limit is not None:
        ratio = sqrt(len(rows) * len(columns) / (limit * side**2))
        if ratio > 1.1:
            rows = shares(rows, int(len(rows) // ratio))
            columns = shares(columns, int(len(columns) // ratio))
    line = np.arange(len(rows))[:, None] * (len(columns) + 1)
    places = side * side + line + np.arange(len(columns))
    fine = (_fitted(size, (width, height)).boxes(columns, rows), places)
    return TokenGrid.of_views(size, [whole, fine], side * side + len(rows) * (len(columns) + 1))


def _fitted(size: tuple[int, int], target: tuple[int, int]) -> Frame:
    """A picture scaled into the middle of a target as its processor does, aspect ratio kept."""
    across, down = target[0] / size[0], target[1] / size[1]
    if across < down:
        width, height = target[0], min(ceil(size[1] * across), target[1])
    else:
        width, height = min(ceil(size[0] * down), target[0]), target[1]
    left, top = (target[0] - width) // 2, (target[1] - height) // 2
    return Frame(size).resize(width, height).place(*target, left, top)


def _without_padding(
    rows: FloatArray, columns: FloatArray, size: tuple[int, int]
) -> tuple[FloatArray, FloatArray]:
    """The rows and columns of tokens that the model keeps of a padded picture."""
    width, height = size
    n_rows, n_columns = len(rows), len(columns)
    if width / height > n_columns / n_rows:
        kept = int(round(height * (n_columns / width), 7))
        cut = (n_rows - kept) // 2
        return rows[cut : n_rows - cut], columns
    kept = int(round(width * (n_rows / height), 7))
    cut = (n_columns - kept) // 2
    return rows, columns[cut : n_columns - cut]


def _check_tile(prompt: ProcessedPrompt, side: int, patch: int) -> None:
    """Tiles must reach the tower as they are cut: one square size for all settings."""
    width, height = prompt.pixel_size
    settings = prompt.processor.image_processor
    wanted = {_edge(settings.size)}
    if getattr(settings, "do_center_crop", False):
        wanted.add(_edge(settings.crop_size))
    prompt.require(
        wanted == {width} and width == height and side == width // patch,
        f"tiles of {width} x {height} pixels, size {dict(settings.size)} and {side} tokens of "
        f"{patch} pixels do not fit each other",
    )


def _edge(size: Any) -> int | None:
    if size.get("shortest_edge"):
        return int(size["shortest_edge"])
    return int(size["height"]) if size["height"] == size["width"] else None
