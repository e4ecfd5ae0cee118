"""Attention through all layers, in blocks of rows: no T x T tensor of a layer ever exists.

`Capture` keeps what every layer attended with; the rows that a map is made of are then carried
from the last layer to the first, and a layer's attention is built anew for a few rows at a time.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attcot_analysis.attention.hook import AttentionCall
from attcot_analysis.attention.probe import key_weights
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Mllm

_FLOATS = 2**22
"""Weights of one block, heads included: 16 MB."""


class Capture:
    """A reader that keeps the calls of all layers of one item's forward pass.

    Attributes:
        gradients: Keep values and outputs too, and let gradients flow from the outputs on even
            if no weight below them asks for any.
        calls: By layer.
    """

    def __init__(self, gradients: bool = False) -> None:
        """Keep what `carry_gradients` needs, or only what `carry` needs."""
        self.gradients = gradients
        self.calls: dict[int, AttentionCall] = {}

    def reads(self, module: Any) -> bool:
        """Every layer is read: what flows past one cannot be left out."""
        return True

    def read(self, call: AttentionCall, cols: Tensor | None, rows: Tensor | None) -> None:
        """Not for training."""
        raise MeasureError("A capture reads by context; use it inside reading(capture).")

    def read_active(self, call: AttentionCall) -> None:
        """Keep a call."""
        if not self.gradients:
            call = replace(call, value=call.value.new_empty(0), output=None)
        elif call.output is not None and not call.output.requires_grad:
            call.output.requires_grad_()
        self.calls[call.module.layer_idx] = call

    def layers(self, mllm: Mllm) -> list[AttentionCall]:
        """The calls, first layer first.

        Raises:
            MeasureError: If a layer did not attend, or over other keys than the rows themselves.
        """
        missing = sorted(set(range(mllm.n_layers)) - self.calls.keys())
        if missing:
            raise MeasureError(
                f"Layers {missing} of {mllm.name} have no attention of their own (they are "
                "recurrent or share another layer's), so attention cannot be followed through "
                "them; use an attribution instead."
            )
        calls = [self.calls[layer] for layer in sorted(self.calls)]
        if any(call.query.shape[2] != call.key.shape[2] for call in calls):
            raise MeasureError("Attention can be followed in a forward pass without cache only.")
        return calls


@contextlib.contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Keep a model's weights out of gradients; each asks for them again on leaving."""
    asking = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in asking:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in asking:
            weight.requires_grad_(True)


@torch.no_grad()
def carry(calls: list[AttentionCall], start: Tensor, block: int | None = None) -> Tensor:
    """Carry row vectors through attention rollout, from the last layer to the first.

    ``v <- (v + v A) / 2`` with A a layer's attention, mean over heads: half of what a position
    holds comes from itself, past the attention (the residual stream).

    Args:
        calls: All layers of one item, first layer first.
        start: ``(P, T)`` rows of the identity, or means of several.
        block: Query positions at a time; default: as many as make 16 MB of weights.

    Returns:
        ``(P, T)`` fp32, the rows of the rollout matrix; a row sums to what it started with.

    Source: Abnar & Zuidema 2020 (arXiv 2005.00928), section 3.
    """
    flow = start.float()
    for call in reversed(calls):
        gained = torch.zeros_like(flow)
        for low, high in _blocks(call, flow, block):
            weights = _weights(call, low, high)
            gained[:, : weights.shape[-1]] += flow[:, low:high] @ weights.mean(0)
        flow = (flow + gained) / 2
    return flow


@torch.no_grad()
def carry_gradients(
    calls: list[AttentionCall], grads: list[Tensor], start: Tensor, block: int | None = None
) -> Tensor:
    """Carry row vectors through gradient-weighted relevance, from the last layer to the first.

    ``v <- v + v E_h[(A * dA)^+]`` with A a layer's attention and dA the target's gradient with
    respect to it. Attention's output is ``O = A V``, so ``dA = dO V^T``, row by row.

    Args:
        calls: All layers of one item, first layer first, with their values.
        grads: Per layer the target's gradient with respect to the output, ``(1, T, H, Dv)``.
        start: ``(P, T)``, as in `carry`.
        block: As in `carry`.

    Returns:
        ``(P, T)`` fp32, the rows of the relevance matrix R.

    Source: Chefer, Gur & Wolf, ICCV 2021 (arXiv 2103.15679), equations 5 and 6.
    """
    flow = start.float()
    for call, grad in zip(reversed(calls), reversed(grads), strict=True):
        gained = torch.zeros_like(flow)
        values = call.value[0].float().transpose(-1, -2)[:, None]
        for low, high in _blocks(call, flow, block):
            weights = _weights(call, low, high)
            n_keys = weights.shape[-1]
            asked = grad[0, low:high].float().transpose(0, 1).unflatten(0, (len(values), -1))
            slope = (asked @ values[..., :n_keys]).flatten(0, 1)
            gained[:, :n_keys] += flow[:, low:high] @ (weights * slope).clamp(min=0).mean(0)
        flow = flow + gained
    return flow


def _weights(call: AttentionCall, low: int, high: int) -> Tensor:
    """A layer's attention in some rows on the keys up to the last they see, ``(H, rows, keys)``."""
    rows = torch.arange(low, high, device=call.query.device)[None]
    key = call.key[:, :, :high] if call.mask is None else call.key
    return key_weights(call.query, key, call.mask, None, rows, call.scaling)[0]


def _blocks(call: AttentionCall, flow: Tensor, block: int | None) -> Iterator[tuple[int, int]]:
    """Blocks of rows that carry anything."""
    _, heads, n_rows, _ = call.query.shape
    size = max(1, _FLOATS // (heads * n_rows)) if block is None else block
    for low in range(0, n_rows, size):
        high = min(low + size, n_rows)
        if bool(flow[:, low:high].any()):
            yield low, high
