"""Block masks: what every token of a batch may attend, for each kind of attention layer.

For the tokens of the batch itself that is the model's own mask, taken from the model and not
derived again (sliding windows, image blocks that see themselves in both directions). Branches
packed behind it get rows of their own.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Mllm

# isort: split
# After our models package, which makes torchvision importable.
from transformers.masking_utils import create_masks_for_generate

_KINDS = frozenset({"full_attention", "sliding_attention"})
TYPE_KEYS = ("mm_token_type_ids", "token_type_ids")
"""Inputs of a batch, ``(B, T)``, that say which tokens are image tokens."""


@dataclass(frozen=True, eq=False)
class BlockMask:
    """What the tokens of a batch may attend in the layers of one kind.

    Attributes:
        kind: ``"full_attention"`` or ``"sliding_attention"``.
        allowed: Boolean ``(B, T', T')``, query by key; written to by `add_branch`.
        window: How many tokens a query sees, itself included; ``None`` for all before it.
    """

    kind: str
    allowed: Tensor
    window: int | None

    def add_branch(self, item: int, prefix: range, branch: range, tree: Tensor) -> None:
        """Let a branch see its prefix and itself, as if it stood right behind the prefix.

        Args:
            item: Which sequence of the batch.
            prefix: Positions the branch continues.
            branch: Positions it is packed at.
            tree: Boolean ``(n, n)``: which of its tokens each of them may see at most.
        """
        device = self.allowed.device
        tree = tree.to(device)
        # Windows count tokens, so a branch token counts where it would stand without packing.
        at = prefix.stop - 1 + tree.sum(-1)
        keys = torch.arange(prefix.start, prefix.stop, device=device)
        rows = self.allowed[item, branch.start : branch.stop]
        rows[:, prefix.start : prefix.stop] = self._near(at, keys)
        rows[:, branch.start : branch.stop] = tree & self._near(at, at)

    def _near(self, queries: Tensor, keys: Tensor) -> Tensor:
        distance = queries[:, None] - keys
        if self.window is None:
            return torch.ones_like(distance, dtype=torch.bool)
        return distance < self.window


def block_masks(mllm: Mllm, batch: Mapping[str, Tensor], extra: int) -> list[BlockMask]:
    """The model's own masks on a batch, with room for tokens behind it.

    Args:
        mllm: The model.
        batch: From `collate`.
        extra: Further positions, which see nothing and are seen by nothing yet.

    Returns:
        One mask per kind of attention layer.

    Raises:
        MeasureError: If the model's attention cannot take block masks.
    """
    _check_attention(mllm)
    valid = batch["attention_mask"].bool()
    n_items, length = valid.shape
    masks = []
    for kind, own in _own_masks(mllm, batch).items():
        allowed = valid.new_zeros((n_items, length + extra, length + extra))
        if own is None:
            allowed[:, :length, :length] = valid[:, None, :]
            allowed[:, :length, :length].tril_()
        else:
            allowed[:, :length, :length] = own[:, 0]
        masks.append(BlockMask(kind, allowed, _window(mllm, kind)))
    return masks


def mask_input(mllm: Mllm, masks: Sequence[BlockMask]) -> Tensor | dict[str, Tensor]:
    """Masks as the model takes them: ``(B, 1, T', T')``, or one per kind of layer by its name.

    Boolean, but additive where the model runs eager attention, which would add a boolean mask to
    its scores without a word.
    """
    inputs = {}
    for mask in masks:
        allowed = mask.allowed
        # A row that sees nothing gives NaN, which spreads to the gradient of every other row.
        allowed.diagonal(dim1=-2, dim2=-1).logical_or_(~allowed.any(-1))
        inputs[mask.kind] = allowed[:, None]
        if mllm.text_config._attn_implementation == "eager":
            lowest = torch.finfo(mllm.dtype).min
            zeros = torch.zeros_like(allowed[:, None], dtype=mllm.dtype)
            inputs[mask.kind] = zeros.masked_fill(~allowed[:, None], lowest)
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs


def _own_masks(mllm: Mllm, batch: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """Per kind of layer the model's boolean ``(B, 1, T, T)``, ``None`` where it is causal."""
    config = copy.copy(mllm.text_config)
    config._attn_implementation = "sdpa"
    owner = next((m for m in mllm.model.modules() if hasattr(m, "create_masks_for_generate")), None)
    create = create_masks_for_generate if owner is None else owner.create_masks_for_generate
    mask = batch["attention_mask"]
    types: dict[str, Any] = {key: batch[key] for key in TYPE_KEYS if key in batch}
    found = create(
        config=config,
        # Read for its size, type and device only.
        inputs_embeds=torch.empty((*mask.shape, 0), dtype=mllm.dtype, device=mask.device),
        attention_mask=mask,
        past_key_values=None,
        position_ids=None,
        **types,
    )
    kinds = getattr(config, "layer_types", None)
    if not isinstance(found, dict):
        return {"full_attention" if kinds is None else kinds[0]: found}
    return {kind: found[kind] for kind in dict.fromkeys(kinds or found)}


def _window(mllm: Mllm, kind: str) -> int | None:
    config = mllm.text_config
    window = getattr(config, "sliding_window", None)
    # Without layer types, a window is that of every layer.
    slides = kind == "sliding_attention" or getattr(config, "layer_types", None) is None
    return int(window) if slides and window is not None else None


def _check_attention(mllm: Mllm) -> None:
    config = mllm.text_config
    name = str(getattr(config, "_attn_implementation", ""))
    if "flash" in name or "flex" in name:
        raise MeasureError(
            f"The model runs {name} attention, which takes no block mask; load it with "
            "attn_implementation='sdpa'."
        )
    kinds = set(getattr(config, "layer_types", None) or [])
    if getattr(config, "attention_chunk_size", None) is not None:
        kinds.add("chunked_attention")
    if kinds - _KINDS:
        raise MeasureError(
            f"The model has {', '.join(sorted(kinds - _KINDS))} layers; packed branches are "
            "defined for full and sliding attention, so take another model."
        )
