"""Attention of a few queries to many keys."""

import torch.nn.functional as F
from torch import Tensor


def attend_few(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> Tensor:
    """SDPA that copies no keys where several query heads share a key head.

    The heads that share one are put one after another, as queries of that one head. That repeats
    the mask instead, which is cheaper while there are fewer queries than a head has dimensions.

    Args:
        query: ``(B, H, n, D)``.
        key: ``(B, Hkv, Tk, D)``.
        value: ``(B, Hkv, Tk, Dv)``.
        mask: ``(B, 1, n, Tk)``, or ``None`` to see all keys.
        dropout: Of the weights.
        scaling: Factor on q.k; default ``D ** -0.5``.

    Returns:
        ``(B, n, H, Dv)``.
    """
    n_kv, n_queries = key.shape[1], query.shape[2]
    shared_by = query.shape[1] // n_kv
    output = F.scaled_dot_product_attention(
        query.unflatten(1, (n_kv, shared_by)).flatten(2, 3),
        key,
        value,
        attn_mask=None if mask is None else mask.repeat(1, 1, shared_by, 1),
        dropout_p=dropout,
        scale=scaling,
    )
    return output.unflatten(2, (shared_by, n_queries)).flatten(1, 2).transpose(1, 2)
