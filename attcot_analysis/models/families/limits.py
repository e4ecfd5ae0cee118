"""What a picture may cost, by family: new settings of an image processor for a limit."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from attcot_analysis.errors import ModelError


def qwen_pixels(processor: Any, most: int) -> dict[str, Any]:
    """At most so many pixels after resizing, ``(patch_size * merge_size)²`` of them per token."""
    settings = processor.image_processor
    token = (settings.patch_size * settings.merge_size) ** 2
    if most < token:
        raise ModelError(
            f"max_pixels is {most}, and one image token of this processor stands for {token} "
            "pixels; give at least that."
        )
    # Small pictures are enlarged to whole tokens, rounded up: the least must stay well below.
    least = min(int(settings.size["shortest_edge"]), max(token, most // 4))
    return {"size": {"shortest_edge": least, "longest_edge": most}}


def glm_pixels(processor: Any, most: int) -> dict[str, Any]:
    """As `qwen_pixels`; GLM-V counts a picture's pixels once for each frame of a patch."""
    frames = int(processor.image_processor.temporal_patch_size)
    size = qwen_pixels(processor, most)["size"]
    return {"size": {name: frames * pixels for name, pixels in size.items()}}


def internvl_patches(processor: Any, most: int) -> dict[str, Any]:
    """At most so many tiles; where there are several, the whole picture is one more."""
    least = min(int(processor.image_processor.min_patches), most)
    return {"max_patches": most, "min_patches": least, "crop_to_patches": most > 1}


def molmo2_patches(processor: Any, most: int) -> dict[str, Any]:
    """At most so many tiles; the whole picture is one more."""
    return {"max_crops": most}


def minicpm_patches(processor: Any, most: int) -> dict[str, Any]:
    """At most so many slices, of which there are two or more; the whole picture is one more."""
    return {"max_slice_nums": most}


def lfm2_patches(processor: Any, most: int) -> dict[str, Any]:
    """At most so many tiles, of which there are two or more; the whole picture is one more."""
    least = min(int(processor.image_processor.min_tiles), most)
    return {"max_tiles": most, "min_tiles": least, "do_image_splitting": most > 1}


def idefics3_patches(processor: Any, most: int) -> dict[str, Any]:
    """At most so many tiles, as a square: where there are several, the whole picture is one more.

    These processors resize to a longest edge, so that a limit that is no square number is lowered
    to the next one.
    """
    tile = int(_edges(processor.image_processor.max_image_size)["longest_edge"])
    return {"size": {"longest_edge": isqrt(most) * tile}}


def anyres_patches(processor: Any, most: int) -> dict[str, Any]:
    """Only the resolutions of at most so many tiles; the whole picture is one more."""
    settings = processor.image_processor
    size = _edges(settings.size)
    tile = int(size.get("shortest_edge") or size["height"])
    tiles = {tuple(one): one[0] * one[1] // tile**2 for one in settings.image_grid_pinpoints}
    kept = [list(one) for one, n in tiles.items() if n <= most]
    if not kept:
        raise ModelError(
            f"max_patches is {most}, and the smallest resolution of this processor has "
            f"{min(tiles.values())} tiles; give at least that."
        )
    return {"image_grid_pinpoints": kept}


def _edges(size: Any) -> dict[str, Any]:
    items = size.items() if isinstance(size, Mapping) else vars(size).items()
    return {name: value for name, value in items if value is not None}
