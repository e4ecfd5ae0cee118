"""Block masks: what every token of a batch may attend, for each kind of attention layer.

For the tokens of the batch itself that is the model's own mask, taken from the model and not
derived again (sliding windows, image blocks that see themselves in both directions). Branches
packed behind it get rows of their own.
"""

import copy
from collections.abc import Mapping
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
class BranchTokens:
    """The tokens packed behind a batch: which prefix each continues and what it may see.

    Attributes:
        starts: Where each sequence starts, long ``(B,)``.
        ends: Where the prefix that a token continues ends, long ``(B, n)``; 0 for padding.
        sees: Which of these tokens each may see at most, itself included, bool ``(B, n, n)``;
            none for padding.
    """

    starts: Tensor
    ends: Tensor
    sees: Tensor

    def rows(self, length: int, window: int | None) -> Tensor:
        """What they may attend, bool ``(B, n, T + n)``, as if each stood behind its prefix.

        Args:
            length: T, length of the batch without them.
            window: How many tokens a query sees, itself included; ``None`` for all before it.
        """
        keys = torch.arange(length, device=self.ends.device)
        prefix = (keys >= self.starts[:, None, None]) & (keys < self.ends[..., None])
        if window is None:
            return torch.cat([prefix, self.sees], dim=-1)
        # Windows count tokens, so a branch token counts where it would stand without packing.
        at = self.ends - 1 + self.sees.sum(-1)
        prefix &= at[..., None] - keys < window
        own = self.sees & (at[..., None] - at[:, None, :] < window)
        return torch.cat([prefix, own], dim=-1)


def block_mask(
    mllm: Mllm, batch: Mapping[str, Tensor], branches: BranchTokens
) -> Tensor | dict[str, Tensor]:
    """The model's own mask on a batch, with branches behind it, as the model takes it.

    Args:
        mllm: The model.
        batch: From `collate`, of length T.
        branches: n tokens per item.

    Returns:
        ``(B, 1, T + n, T + n)``, or one such mask per kind of attention layer by its name.
        Boolean, but additive where the model runs eager attention, which would add a boolean mask
        to its scores without a word.

    Raises:
        MeasureError: If the model's attention cannot take block masks.
    """
    _check_attention(mllm)
    valid = batch["attention_mask"].bool()
    n_items, length = valid.shape
    whole = length + branches.ends.shape[1]
    inputs = {}
    for kind, own in _own_masks(mllm, batch).items():
        allowed = valid.new_zeros((n_items, whole, whole))
        if own is None:
            allowed[:, :length, :length] = valid[:, None, :]
            allowed[:, :length, :length].tril_()
        else:
            allowed[:, :length, :length] = own[:, 0]
        allowed[:, length:] = branches.rows(length, _window(mllm, kind))
        _see_something(allowed, 0)
        inputs[kind] = allowed[:, None]
        if mllm.text_config._attn_implementation == "eager":
            lowest = torch.finfo(mllm.dtype).min
            zeros = torch.zeros_like(allowed[:, None], dtype=mllm.dtype)
            inputs[kind] = zeros.masked_fill(~allowed[:, None], lowest)
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs


def rows_mask(branches: BranchTokens, length: int) -> Tensor:
    """What the branches' tokens may attend in layers of full attention, ``(B, 1, n, T + n)``."""
    allowed = branches.rows(length, None)
    _see_something(allowed, length)
    return allowed[:, None]


def plainly_causal(mllm: Mllm, batch: Mapping[str, Tensor]) -> bool:
    """Whether each token of a batch, padding aside, sees all tokens before it in every layer."""
    if mllm.text_config._attn_implementation == "eager":
        return False
    _check_attention(mllm)
    # Padding on the right hides nothing that a causal mask shows.
    bare = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    own = _own_masks(mllm, bare)
    windows = [_window(mllm, kind) for kind in own]
    return all(mask is None for mask in own.values()) and windows == [None]


def _see_something(allowed: Tensor, first: int) -> None:
    """Let rows that see nothing see themselves; row 0 is that of key ``first``."""
    # Nothing to see gives NaN, which spreads to the gradient of every other row.
    allowed.diagonal(first, dim1=-2, dim2=-1).logical_or_(~allowed.any(-1))


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
