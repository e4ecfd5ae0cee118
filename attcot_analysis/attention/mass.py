"""Attention mass of chosen rows on groups of keys, from queries and keys, without a T x T tensor.

The mass that a row puts on a group of keys equals attention's output when the values are the
group's indicator, so one call of a fused kernel on the chosen rows gives exact masses with exact
gradients (identity: softmax weights are linear in the values; `Probe` applies it in a model).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from attcot_analysis.errors import MeasureError


def group_masses(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    cols: Tensor | None,
    rows: Tensor | None,
    scaling: float | None = None,
) -> Tensor:
    """Mass of each chosen row on each group of keys, differentiable in query and key.

    Args:
        query: ``(B, H, Tq, D)``.
        key: ``(B, Hkv, Tk, D)``, cached keys included.
        mask: ``None`` (causal), bool, or additive, ``(B or 1, H or 1, Tq, >= Tk)``.
        cols: ``(B, T, C)`` weight of each key in each group, in [0, 1]; keys after T are in none.
        rows: ``(B, R)`` query positions of this call, -1 for none; ``None`` for all.
        scaling: Factor on q.k; default ``D ** -0.5``.

    Returns:
        ``(B, H, R, C)`` fp32 in [0, 1]; 0 for rows that are -1 or see no key.

    Raises:
        MeasureError: If columns or rows do not fit the batch.
    """
    batch, heads, _, size = query.shape
    n_keys = key.shape[2]
    if cols is None or cols.ndim != 3 or cols.shape[0] != batch:
        shape = None if cols is None else tuple(cols.shape)
        raise MeasureError(
            f"Probe columns have shape {shape}; expected (batch, keys, groups) with batch {batch}."
        )
    # Autocast would turn the fp32 arithmetic back into bf16.
    with torch.autocast(query.device.type, enabled=False):
        keys = key.float()
        if key.shape[1] != heads:
            keys = keys.repeat_interleave(heads // key.shape[1], dim=1)
        values = cols.to(query.device, torch.float32)[:, :n_keys]
        values = F.pad(values, (0, 0, 0, n_keys - values.shape[1]))
        first = _first_of_run(query, key, mask, rows)
        if first is not None:
            return _run_masses(query, keys, values, first, rows, scaling)
        queries, visible, seen = _choose(query, key, mask, rows)
        found = []
        for part in values.split(size, dim=-1):
            width = part.shape[-1]
            # The CPU kernel wants values as wide as keys, the CUDA ones a multiple of eight.
            pad = size - width if query.device.type == "cpu" else -width % 8
            padded = F.pad(part, (0, pad))[:, None].expand(batch, heads, -1, -1)
            output = F.scaled_dot_product_attention(
                queries, keys, padded, attn_mask=visible, scale=scaling
            )
            found.append(output[..., :width])
        return torch.where(seen, torch.cat(found, dim=-1), 0.0)


def _first_of_run(
    query: Tensor, key: Tensor, mask: Tensor | None, rows: Tensor | None
) -> int | None:
    """First row, if `_run_masses` can do it: causal, consecutive rows, on the CPU, no gradient."""
    if mask is not None or query.device.type != "cpu" or query.shape[2] != key.shape[2]:
        return None
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad):
        return None
    if rows is None:
        return 0
    if not rows.numel() or rows.shape[0] != query.shape[0]:
        return None
    if int(rows[0, 0]) < 0 or int(rows[0, -1]) >= query.shape[2]:
        return None
    run = rows[:1, :1] + torch.arange(rows.shape[1], device=rows.device)
    return int(rows[0, 0]) if bool((rows == run).all()) else None


def _run_masses(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    first: int,
    rows: Tensor | None,
    scaling: float | None,
) -> Tensor:
    """Masses of consecutive rows under the causal mask, in two calls that need no mask.

    All of the rows see the keys before the first of them, and causally their own. The kernel's
    log-sum-exp says how the two parts weigh; its gradient is not to be had, and only it is why
    this is not the only way. At a quarter of the rows it takes two thirds of the time: a mask has
    to be read once per head, and half of the rows' own keys need no arithmetic.
    """
    batch, heads, _, size = query.shape
    n_rows = query.shape[2] if rows is None else rows.shape[1]
    own = slice(first, first + n_rows)
    queries = query[:, :, own].float()
    found = []
    for part in values.split(size, dim=-1):
        width = part.shape[-1]
        padded = F.pad(part, (0, size - width))[:, None].expand(batch, heads, -1, -1)
        output, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            queries, keys[:, :, own], padded[:, :, own], 0.0, True, scale=scaling
        )
        if first:
            before, total_before = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                queries, keys[:, :, :first], padded[:, :, :first], 0.0, False, scale=scaling
            )
            output = output.lerp(before, (total_before - total).sigmoid()[..., None])
        found.append(output[..., :width])
    return torch.cat(found, dim=-1)


@torch.no_grad()
def key_weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    keep: Tensor | None,
    rows: Tensor | None,
    scaling: float | None = None,
) -> Tensor:
    """Attention weights of each chosen row on single keys, by an explicit softmax.

    Arguments as in `group_masses`; ``keep`` are the key positions to return, ``(N,)``, all if
    ``None``. Needs ``H * R * Tk`` floats for the duration of the call.

    Returns:
        ``(B, H, R, N)`` fp32.
    """
    n_kv, size = key.shape[1], query.shape[-1]
    with torch.autocast(query.device.type, enabled=False):
        queries, visible, seen = _choose(query, key, mask, rows)
        grouped = queries.unflatten(1, (n_kv, query.shape[1] // n_kv))
        scores = (grouped @ key.float().transpose(-1, -2)[:, :, None]).flatten(1, 2)
        scores = scores * (size**-0.5 if scaling is None else scaling)
        if visible is not None and visible.dtype == torch.bool:
            scores = scores.masked_fill(~visible, float("-inf"))
        elif visible is not None:
            scores = scores + visible
        weights = scores.softmax(-1)
        if keep is not None:
            weights = weights[..., keep.to(weights.device)]
        return torch.where(seen, weights, 0.0)


def _choose(
    query: Tensor, key: Tensor, mask: Tensor | None, rows: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Queries of the rows ``(B, H, R, D)`` fp32, their mask, and whether they see any key.

    Rows that see none get a mask that lets them see all: a softmax over nothing would be NaN, and
    so would its gradient even where the result is dropped.
    """
    batch, heads, n_queries, size = query.shape
    n_keys = key.shape[2]
    if rows is None:
        rows = torch.arange(n_queries, device=query.device).expand(batch, -1)
    if rows.shape[0] != batch:
        raise MeasureError(f"Rows for {rows.shape[0]} items do not fit a batch of {batch}.")
    n_rows = rows.shape[1]
    real = (rows >= 0)[:, None, :, None]
    at = rows.clamp(min=0)[:, None, :, None]
    queries = query.gather(2, at.expand(batch, heads, n_rows, size)).float()
    if mask is None:
        if n_queries == 1:
            return queries, None, real
        return queries, torch.arange(n_keys, device=query.device) <= at, real
    mask = mask[..., :n_keys].expand(batch, -1, -1, -1)
    chosen = mask.gather(2, at.expand(batch, mask.shape[1], n_rows, n_keys))
    if chosen.dtype == torch.bool:
        seen = chosen.any(-1, keepdim=True) & real
        return queries, chosen | ~seen, seen
    seen = (chosen > torch.finfo(chosen.dtype).min / 2).any(-1, keepdim=True) & real
    return queries, chosen.float().masked_fill(~seen, 0.0), seen
