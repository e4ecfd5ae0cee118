"""Token grids of families that look at an image once: Qwen-VL, GLM-V, LLaVA-1.5, Pixtral, Gemma."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import numpy as np

from attcot_analysis.errors import LayoutError
from attcot_analysis.models.families.family import ProcessedPrompt
from attcot_analysis.models.families.frame import Frame, cells
from attcot_analysis.models.grid import TokenGrid


def qwen_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """``image_grid_thw`` counts patches; ``merge_size`` squared of them make one token.

    The image is stretched to whole tokens, so that they cover it exactly.
    """
    sizes = prompt.vision.get("image_grid_thw")
    n_grids = 0 if sizes is None else len(sizes)
    if sizes is None or n_grids != len(prompt.image_sizes):
        raise LayoutError(
            f"The processor returned {n_grids} image grids for {len(prompt.image_sizes)} images; "
            "expected one each."
        )
    merge = prompt.processor.image_processor.merge_size
    grids = []
    for (frames, height, width), size in zip(sizes.tolist(), prompt.image_sizes, strict=True):
        if frames != 1:
            raise LayoutError(f"An image came out as {frames} frames; videos are not supported.")
        grids.append(TokenGrid.regular(size, height // merge, width // merge))
    return tuple(grids)


def gemma3_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """The image is stretched to a square; the patches of a square are pooled to one token."""
    side = isqrt(prompt.processor.image_seq_length)
    prompt.require(
        prompt.runs == (side * side,) * len(prompt.image_sizes),
        f"image tokens come in runs of {prompt.runs} for {len(prompt.image_sizes)} images of "
        f"{side * side} tokens (pan and scan is not supported)",
    )
    patch = prompt.config.vision_config.patch_size
    width, height = prompt.pixel_size
    columns = cells(side, width // patch // side * patch)
    rows = cells(side, height // patch // side * patch)
    slots = np.arange(side * side).reshape(side, side)
    return tuple(
        TokenGrid.of_views(
            size, [(Frame(size).resize(width, height).boxes(columns, rows), slots)], side * side
        )
        for size in prompt.image_sizes
    )


def gemma4_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """The image is stretched to as many whole tokens as its budget allows, each of pooled patches.

    How many patches it has across and down is said by their positions; -1 pads.
    """
    positions = prompt.vision["image_position_ids"]
    shapes = [(int(down) + 1, int(across) + 1) for across, down in positions.amax(1).tolist()]
    return _whole_tokens(prompt, shapes, prompt.processor.image_processor.pooling_kernel_size)


def pixtral_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """The image is stretched to whole tokens; a token that is no image token ends each row."""
    token = prompt.processor.patch_size * prompt.processor.spatial_merge_size
    return _whole_tokens(prompt, prompt.vision["image_sizes"].tolist(), token)


def _whole_tokens(
    prompt: ProcessedPrompt, shapes: Sequence[Sequence[int]], token: int
) -> tuple[TokenGrid, ...]:
    """Grids of images stretched to ``shapes``: height, width in units of 1 / ``token``."""
    prompt.require(
        len(shapes) == len(prompt.image_sizes)
        and not any(down % token or across % token for down, across in shapes),
        f"{len(shapes)} images of {shapes} (height, width) for {len(prompt.image_sizes)} pictures "
        f"and tokens of {token} x {token}",
    )
    return tuple(
        TokenGrid.regular(size, down // token, across // token)
        for size, (down, across) in zip(prompt.image_sizes, shapes, strict=True)
    )


def llava_grids(prompt: ProcessedPrompt) -> tuple[TokenGrid, ...]:
    """One grid of patches over what padding, resizing and centre crop leave of the image.

    Published LLaVA-1.5 processors crop: of a wide image the tokens see the middle square only.
    A class token that the model keeps (strategy "full") stands for no pixels. Pixtral 12B is of
    this model type too, with a processor that says each image's size.
    """
    if "image_sizes" in prompt.vision:
        return pixtral_grids(prompt)
    processor = prompt.processor
    patch = processor.patch_size
    width, height = prompt.pixel_size
    columns, rows = cells(width // patch, patch), cells(height // patch, patch)
    dropped = processor.vision_feature_select_strategy == "default"
    first = processor.num_additional_image_tokens - int(dropped)
    prompt.require(first in (0, 1), f"{first} image tokens beside those of the patches")
    n_tokens = len(rows) * len(columns)
    slots = first + np.arange(n_tokens).reshape(len(rows), len(columns))
    grids = []
    for size in prompt.image_sizes:
        frame = _cropped(processor.image_processor, size)
        prompt.require(
            frame.size == (width, height),
            f"an image of {size} is {(width, height)} and not {frame.size} pixels after resizing",
        )
        view = (frame.boxes(columns, rows), slots)
        grids.append(TokenGrid.of_views(size, [view], first + n_tokens))
    return tuple(grids)


def padded_to_square(size: tuple[int, int]) -> Frame:
    """A picture in the middle of the smallest square that holds it."""
    width, height = size
    side = max(size)
    return Frame(size).place(side, side, (side - width) // 2, (side - height) // 2)


def _cropped(image_processor: Any, size: tuple[int, int]) -> Frame:
    """What a CLIP-style image processor does to a picture of this size."""
    pads = getattr(image_processor, "do_pad", False) and hasattr(image_processor, "pad_to_square")
    frame = padded_to_square(size) if pads else Frame(size)
    if getattr(image_processor, "do_resize", False):
        frame = frame.resize(*_resized(frame.size, image_processor.size))
    if getattr(image_processor, "do_center_crop", False):
        target: Mapping[str, int] = image_processor.crop_size
        width, height = target["width"], target["height"]
        left, top = (_middle(*pair) for pair in zip(frame.size, (width, height), strict=True))
        frame = frame.place(width, height, left, top)
    return frame


def _resized(size: tuple[int, int], target: Mapping[str, int]) -> tuple[int, int]:
    short = target.get("shortest_edge")
    if short:
        longer = int(short * max(size) / min(size))
        return (short, longer) if size[0] <= size[1] else (longer, short)
    if target.get("height") and target.get("width"):
        return target["width"], target["height"]
    raise LayoutError(
        f"The image processor resizes to {dict(target)}; supported are height and width, "
        "or shortest_edge."
    )


def _middle(now: int, target: int) -> int:
    return (target - now) // 2 if target > now else -((now - target) // 2)
