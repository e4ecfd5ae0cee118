"""Position ids as the models compute them: M-RoPE, or plainly the place in the batch."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attcot_analysis.errors import LayoutError


def mrope_positions(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Three-dimensional positions by the model's own ``get_rope_index``, ``(3, B, T)``."""
    input_ids, mask = batch["input_ids"], batch["attention_mask"]
    grid, types = batch.get("image_grid_thw"), batch.get("mm_token_type_ids")
    if grid is None:
        return text_positions(mask).expand(3, -1, -1)
    if types is None:
        raise LayoutError(
            "The batch has images but no mm_token_type_ids, so M-RoPE positions cannot be "
            "computed; build it with collate()."
        )
    owner = next(module for module in model.modules() if hasattr(module, "get_rope_index"))
    found, _ = owner.get_rope_index(
        input_ids, mm_token_type_ids=types, image_grid_thw=grid, attention_mask=mask
    )
    return found


def plain_positions(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """The place in the padded sequence, ``(B, T)``: these models do not skip padding.

    Rotary embeddings only see differences, so that left padding changes nothing.
    """
    input_ids = batch["input_ids"]
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    return places.expand(input_ids.shape[0], -1)


def text_positions(mask: Tensor) -> Tensor:
    """Plain positions ``(B, T)`` that skip padding, 0 on padding."""
    mask = mask.long()
    return (mask.cumsum(-1) - 1).clamp(min=0) * mask
