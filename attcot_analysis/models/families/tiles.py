"""Token grids of families that stretch an image over tiles: InternVL, Cohere, Idefics3, Molmo 2."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import isqrt

import numpy as np
import torch
from torch import Tensor
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from attcot_analysis.models.families.family import ProcessedPrompt
from attcot_analysis.models.families.frame import Frame, cells
from attcot_analysis.models.grid import FloatArray, IntArray, TokenGrid


def internvl_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """Tiles in row-major order, then the whole image as one more tile if there are several."""
    patch = prompt.config.vision_config.patch_size
    token = round((patch if isinstance(patch, int) else patch[0]) / prompt.config.downsample_ratio)
    per_tile = int(prompt.processor.image_seq_length)
    return _canvas_grids(prompt, per_tile, get_optimal_tiled_canvas, token)


def aya_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """As InternVL's, with a tag before every tile."""
    side = prompt.processor.img_size // prompt.processor.patch_size
    return _canvas_grids(prompt, side * side, get_optimal_tiled_canvas)


def cohere_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """As InternVL's, with a line break behind every tile and a canvas of its own choice."""
    # Of its own module, which older versions do not have.
    from transformers.models.cohere2_vision import image_processing_cohere2_vision as cohere

    per_tile = int(prompt.processor.patch_size**2)
    return _canvas_grids(prompt, per_tile, cohere.get_optimal_tiled_canvas)


def _canvas_grids(
    prompt: ProcessedPrompt,
    per_tile: int,
    canvas: Callable[[tuple[int, int], tuple[int, int], int, int], tuple[int, int]],
    token: int | None = None,
) -> tuple[TokenGrid, ...]:
    """Tiles as an image processor's canvas arranges them, unless all images are one tile each.

    How they are arranged is what the processor computes from the size of the image.
    """
    settings = prompt.processor.image_processor
    tile_size = prompt.pixel_size[::-1]
    shapes = [(1, 1)] * len(prompt.image_sizes)
    total = sum(prompt.runs)
    if total != per_tile * len(shapes):
        chosen = [
            canvas(size[::-1], tile_size, settings.min_patches, settings.max_patches)
            for size in prompt.image_sizes
        ]
        shapes = [(int(rows), int(cols)) for cols, rows in chosen]
    n_tiles = [rows * cols + (rows * cols > 1) for rows, cols in shapes]
    prompt.require(
        total == per_tile * sum(n_tiles),
        f"{total} image tokens are not those of {n_tiles} tiles of {per_tile}",
    )
    token = token or prompt.pixel_size[0] // isqrt(per_tile)
    return tuple(
        _tiled(prompt, size, rows, cols, per_tile, token)
        for size, (rows, cols) in zip(prompt.image_sizes, shapes, strict=True)
    )


def idefics3_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """Tiles in row-major order, each tagged with its row and column, then the whole image.

    How the tiles are arranged is read off these tags in the prompt.
    """
    per_tile = prompt.processor.image_seq_len
    whole_tag = getattr(prompt.processor, "global_image_tag", None)  # SmolVLM: another name.
    whole_tag = prompt.processor.global_image_token if whole_tag is None else whole_tag
    tags = re.findall(rf"<row_(\d+)_col_(\d+)>|({re.escape(whole_tag)})", _written(prompt))
    n_images = sum(bool(whole) for *_, whole in tags)
    prompt.require(
        prompt.runs == (per_tile,) * len(tags) and n_images == len(prompt.image_sizes),
        f"{len(tags)} tagged tiles and {n_images} whole images stand beside runs of {prompt.runs} "
        f"image tokens for {len(prompt.image_sizes)} images",
    )
    token = prompt.config.vision_config.patch_size * prompt.config.scale_factor
    grids = []
    rows = cols = count = 0
    sizes = iter(prompt.image_sizes)
    for row, col, whole in tags:
        if not whole:
            rows, cols, count = int(row), int(col), count + 1
            continue
        prompt.require(count == rows * cols, f"{count} tiles are tagged up to {rows} x {cols}")
        grids.append(_tiled(prompt, next(sizes), max(rows, 1), max(cols, 1), per_tile, token))
        rows = cols = count = 0
    return tuple(grids)


def ovis2_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """The whole image, then, if there are several, tiles in row-major order, parted by tags."""
    vision, per_tile = prompt.config.vision_config, int(prompt.processor.image_seq_length)
    images = _written(prompt).split("<IMG_END>")[:-1]
    shapes = [(one.count("<IMG_ROW>") + 1, one.count("<IMG_COL>")) for one in images]
    shapes = [(rows, breaks // rows + 1) for rows, breaks in shapes]
    n_tiles = [rows * cols + (rows * cols > 1) for rows, cols in shapes]
    prompt.require(
        len(images) == len(prompt.image_sizes) and prompt.runs == (per_tile,) * sum(n_tiles),
        f"tags of {n_tiles} tiles of {per_tile} tokens stand beside runs of {prompt.runs} image "
        f"tokens for {len(prompt.image_sizes)} images",
    )
    token = vision.patch_size * vision.hidden_stride
    return tuple(
        _tiled(prompt, size, rows, cols, per_tile, token, whole_first=True)
        for size, (rows, cols) in zip(prompt.image_sizes, shapes, strict=True)
    )


def lfm2_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """Square tiles in row-major order, each tagged, then the whole image; or only the latter.

    The whole image keeps its shape, in whole tokens. How many patches each piece has across and
    down is said by the processor.
    """
    tags = r"<\|img_row_(\d+)_col_(\d+)\|>|(<\|img_thumbnail\|>)|(<\|image_end\|>)"
    factor = int(prompt.processor.image_processor.downsample_factor)
    patches = prompt.vision["spatial_shapes"].tolist()
    shapes = [(down // factor, across // factor) for down, across in patches]
    images: list[list[tuple[int, int]]] = [[]]  # Per image the rows and columns of its pieces.
    for row, col, _, end in re.findall(tags, _written(prompt)):
        images[-1] += [(int(row or 0), int(col or 0))] * (not end)
        images += [[]] * bool(end)
    counts = [max(1, len(pieces)) for pieces in images[:-1]]
    prompt.require(
        len(counts) == len(prompt.image_sizes)
        and sum(counts) == len(shapes)
        and not any(down % factor or across % factor for down, across in patches),
        f"tags of {counts} pieces stand beside pieces of {patches} patches, merged {factor} x "
        f"{factor}, for {len(prompt.image_sizes)} images",
    )
    grids = []
    for size, pieces in zip(prompt.image_sizes, images, strict=False):
        rows, cols = max(pieces, default=(0, 0))
        views = []
        if rows:
            side, n_tiles = shapes[0][0], rows * cols
            prompt.require(
                shapes[:n_tiles] == [(side, side)] * n_tiles, f"tiles of {shapes[:n_tiles]} tokens"
            )
            views.append(
                _stretched(size, rows * side, cols * side, _tile_order(rows, cols, side, side))
            )
            shapes = shapes[n_tiles:]
        n_slots = sum(places.size for _, places in views)
        if not pieces or len(pieces) > rows * cols:
            down, across = shapes.pop(0)
            order = n_slots + np.arange(down * across).reshape(down, across)
            views.append(_stretched(size, down, across, order))
            n_slots += order.size
        grids.append(TokenGrid.of_views(size, views, n_slots))
    return tuple(grids)


def minicpm_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """The whole image, then, where it is cut, slices in row-major order, each in tags.

    Each keeps its shape in whole tokens, of 4 x 4 patches or of 2 x 2.
    """
    processor = prompt.processor
    side = 2 if processor.image_processor.downsample_mode == "4x" else 4
    pieces = [
        (down // side, across // side) for down, across in prompt.vision["target_sizes"].tolist()
    ]
    begin, end = processor.slice_start_token, processor.slice_end_token
    images = _written(prompt).split(processor.image_start_token)[1:]
    counts = [one.count(begin) for one in images]
    prompt.require(
        len(images) == len(prompt.image_sizes)
        and prompt.runs == tuple(down * across for down, across in pieces)
        and sum(counts) + len(images) == len(pieces),
        f"tags of {counts} slices stand beside runs of {prompt.runs} image tokens and pieces of "
        f"{pieces} tokens for {len(prompt.image_sizes)} images",
    )
    grids = []
    for size, written, n_slices in zip(prompt.image_sizes, images, counts, strict=True):
        own, pieces = pieces[: 1 + n_slices], pieces[1 + n_slices :]
        rows = written.count(f"{end}\n{begin}") + 1
        prompt.require(len(set(own[1:])) < 2, f"slices of {own[1:]} tokens in one picture")
        views, n_slots = [], 0
        for cut, shape in [((1, 1), own[0]), ((rows, n_slices // rows), own[-1])][: len(own)]:
            order = n_slots + _tile_order(*cut, *shape)
            views.append(_stretched(size, len(order), len(order.T), order))
            n_slots += order.size
        grids.append(TokenGrid.of_views(size, views, n_slots))
    return tuple(grids)


def minicpm_pixels(items: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """MiniCPM-V lines the patches of all pieces up in the last dimension, ``(1, 3, p, N * p)``."""
    return torch.cat([item["pixel_values"] for item in items], dim=-1)


def molmo2_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """The whole image twice: as one tile, then over several that overlap.

    Which patches each token is pooled of is said by the processor; -1 stands for none, in tokens at
    the edge.
    """
    pool = tuple(prompt.processor.image_processor.pooling_size)
    pools = prompt.vision["image_token_pooling"].numpy() >= 0
    shapes = prompt.vision["image_grids"].tolist()
    n_tokens = sum(a * b + c * d for a, b, c, d in shapes)
    prompt.require(
        len(shapes) == len(prompt.image_sizes)
        and sum(prompt.runs) == n_tokens == len(pools)
        and pools.shape[1] == pool[0] * pool[1],
        f"{sum(prompt.runs)} image tokens and {len(pools)} pools of {pools.shape[1]} patches stand "
        f"beside grids of {shapes} for {len(prompt.image_sizes)} images",
    )
    grids = []
    for size, (*whole, down, across) in zip(prompt.image_sizes, shapes, strict=True):
        views, n_slots = [], 0
        for rows, cols in (whole, (down, across)):
            order = np.arange(rows * cols).reshape(rows, cols)
            own, pools = pools[: order.size].reshape(rows, cols, *pool), pools[order.size :]
            boxes = np.empty((rows, cols, 4))
            for axis, counts in enumerate((own.any((0, 2)).sum(-1), own.any((1, 3)).sum(-1))):
                ends = np.cumsum([0, *counts]) * size[axis] / counts.sum()
                edges = np.expand_dims(np.stack([ends[:-1], ends[1:]], axis=-1), axis)
                boxes[..., axis::2] = edges
            views.append((boxes, n_slots + order))
            n_slots += order.size
        grids.append(TokenGrid.of_views(size, views, n_slots))
    return tuple(grids)


def molmo2_pools(items: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Molmo 2 counts the patches that a token is pooled of through all pictures of a batch."""
    before = accumulate((item["pixel_values"].shape[:2].numel() for item in items), initial=0)
    pools = [item["image_token_pooling"] for item in items]
    return torch.cat(
        [torch.where(own >= 0, own + n, own) for own, n in zip(pools, before, strict=False)]
    )


def _stretched(
    size: tuple[int, int], rows: int, cols: int, order: IntArray
) -> tuple[FloatArray, IntArray]:
    """A view of equal tokens that cover the image."""
    return TokenGrid.regular(size, rows, cols).boxes.reshape(rows, cols, 4), order


def _written(prompt: ProcessedPrompt) -> str:
    """The prompt with all its tags."""
    text: str = prompt.processor.tokenizer.decode(
        prompt.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


def _tiled(
    prompt: ProcessedPrompt,
    size: tuple[int, int],
    rows: int,
    cols: int,
    per_tile: int,
    token: int,
    *,
    whole_first: bool = False,
) -> TokenGrid:
    """Rows x cols tiles that the image is stretched over and, if several, the whole image."""
    side = isqrt(per_tile)
    width, height = prompt.pixel_size
    prompt.require(
        side * side == per_tile and side == width // token == height // token,
        f"{per_tile} tokens of {token} pixels make no square tile of {width} x {height} pixels",
    )
    views = []
    n_slots = 0
    shapes = [(rows, cols)] + [(1, 1)] * (rows * cols > 1)
    for down, across in shapes[::-1] if whole_first else shapes:
        boxes = (
            Frame(size)
            .resize(across * width, down * height)
            .boxes(
                cells(side, token, tiles=across, tile=width),
                cells(side, token, tiles=down, tile=height),
            )
        )
        slots = n_slots + _tile_order(down, across, side, side)
        n_slots += slots.size
        views.append((boxes, slots))
    return TokenGrid.of_views(size, views, n_slots)


def _tile_order(rows: int, cols: int, down: int, across: int) -> IntArray:
    """Places in the sequence of the tokens of tiles, ``(rows * down, cols * across)``."""
    order = np.arange(rows * cols * down * across).reshape(rows, cols, down, across)
    return order.transpose(0, 2, 1, 3).reshape(rows * down, cols * across)
