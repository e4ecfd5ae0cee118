"""What differs between families of MLLMs: token grids and position ids, one place for all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attcot_analysis.errors import LayoutError, ModelError
from attcot_analysis.models.grid import TokenGrid

GridFunction = Callable[
    [Any, Mapping[str, Tensor], Sequence[tuple[int, int]]], tuple[TokenGrid, ...]
]
PositionFunction = Callable[[Any, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Family:
    """One family of MLLMs.

    Attributes:
        name: What we call it.
        model_types: The ``config.model_type`` values that belong to it.
        grids: ``(processor, vision, image_sizes) -> grids``: from the processor's own output for
            one item and the ``(width, height)`` of its images, one `TokenGrid` per image.
        positions: ``(model, batch) -> position ids`` as the model itself computes them, ``(B, T)``
            or ``(3, B, T)`` for M-RoPE.
    """

    name: str
    model_types: tuple[str, ...]
    grids: GridFunction
    positions: PositionFunction


def _qwen_grids(
    processor: Any, vision: Mapping[str, Tensor], image_sizes: Sequence[tuple[int, int]]
) -> tuple[TokenGrid, ...]:
    """``image_grid_thw`` counts patches; ``merge_size`` squared of them make one token."""
    sizes = vision.get("image_grid_thw")
    n_grids = 0 if sizes is None else len(sizes)
    if n_grids != len(image_sizes):
        raise LayoutError(
            f"The processor returned {n_grids} image grids for {len(image_sizes)} images; "
            "expected one each."
        )
    if sizes is None:
        return ()
    merge = processor.image_processor.merge_size
    grids = []
    for (frames, height, width), image_size in zip(sizes.tolist(), image_sizes, strict=True):
        if frames != 1:
            raise LayoutError(f"An image came out as {frames} frames; videos are not supported.")
        grids.append(TokenGrid.regular(image_size, height // merge, width // merge))
    return tuple(grids)


def _mrope_positions(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Three-dimensional positions by the model's own ``get_rope_index``."""
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


FAMILIES: tuple[Family, ...] = (
    Family("qwen2_5_vl", ("qwen2_5_vl",), _qwen_grids, _mrope_positions),
)


def family_of(config: Any) -> Family:
    """The family a model configuration belongs to.

    Raises:
        ModelError: If none does.
    """
    model_type = getattr(config, "model_type", None)
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise ModelError(
        f"Model type {model_type!r} belongs to no supported family; supported model types: {known}."
    )
