"""`Family`: what the rest of the package asks about a family of MLLMs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attcot_analysis.errors import LayoutError
from attcot_analysis.models.grid import IntArray, TokenGrid


@dataclass(frozen=True, eq=False)
class ProcessedPrompt:
    """What a processor made of one prompt with images.

    Attributes:
        processor: The processor.
        config: The model's configuration.
        ids: The prompt's token ids, ``(T,)``.
        image_token_id: Which of them are image placeholders.
        vision: The image tensors.
        image_sizes: ``(width, height)`` of the original images, in order.
    """

    processor: Any
    config: Any
    ids: IntArray
    image_token_id: int
    vision: Mapping[str, Tensor]
    image_sizes: Sequence[tuple[int, int]]

    @property
    def runs(self) -> tuple[int, ...]:
        """Lengths of the unbroken runs of image placeholders."""
        is_image = np.concatenate([[False], self.ids == self.image_token_id, [False]])
        starts, stops = np.flatnonzero(np.diff(is_image.astype(np.int8))).reshape(-1, 2).T
        return tuple((stops - starts).tolist())

    @property
    def pixel_size(self) -> tuple[int, int]:
        """``(width, height)`` of the pictures that reach the vision tower."""
        height, width = self.vision["pixel_values"].shape[-2:]
        return int(width), int(height)

    def require(self, holds: bool, what: str) -> None:
        """Refuse processor output that is not what this family's processors make.

        Raises:
            LayoutError: If it does not hold.
        """
        if not holds:
            raise LayoutError(
                f"The processor's output does not have the form of its family: {what}; "
                "use the processor and the settings that were saved beside the model."
            )


GridFunction = Callable[[ProcessedPrompt], tuple[TokenGrid, ...]]

PositionFunction = Callable[[Any, Mapping[str, Tensor]], Tensor]

LimitFunction = Callable[[Any, int], dict[str, Any]]

JoinFunction = Callable[[Sequence[Mapping[str, Tensor]]], Tensor]


def plain_positions(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """The place in the padded sequence, ``(B, T)``: these models do not skip padding.

    Rotary embeddings only see differences, so that left padding changes nothing.
    """
    input_ids = batch["input_ids"]
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    return places.expand(input_ids.shape[0], -1)


@dataclass(frozen=True)
class Family:
    """One family of MLLMs.

    Attributes:
        name: What we call it.
        model_types: The ``config.model_type`` values that belong to it.
        grids: From the processor's own output for a prompt with images, one `TokenGrid` per image.
        positions: ``(model, batch) -> position ids`` as the model itself computes them, ``(B, T)``
            or ``(3, B, T)`` for M-RoPE; default `plain_positions`.
        token_types: The model input that tells image tokens from text; ``None`` for families
            that need none.
        limits: What a picture may cost, as `load_mllm` takes it: ``"max_pixels"`` or
            ``"max_patches"``, each with ``(processor, limit) -> settings of its image processor``.
            Empty for families in which every picture costs the same.
        joins: By name how the image tensors of several items become one, of those that do not just
            follow each other: from all image tensors of each item.
    """

    name: str
    model_types: tuple[str, ...]
    grids: GridFunction
    positions: PositionFunction = plain_positions
    token_types: str | None = None
    limits: Mapping[str, LimitFunction] = field(default_factory=dict)
    joins: Mapping[str, JoinFunction] = field(default_factory=dict)


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


def text_positions(mask: Tensor) -> Tensor:
    """Plain positions ``(B, T)`` that skip padding, 0 on padding."""
    mask = mask.long()
    return (mask.cumsum(-1) - 1).clamp(min=0) * mask
