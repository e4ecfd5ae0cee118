"""The text stack's parts: hidden states at chosen positions, and the logits they would give."""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Mllm

_LOGITS_AT_ONCE = 2**24
"""Logits held at once when reading many rows (64 MB in fp32)."""


@dataclass(frozen=True, eq=False)
class TextStack:
    """Layers, final norm and output head of a model's text stack.

    Attributes:
        layers: The decoder layers, in order.
        norm: The norm behind the last of them.
        head: From normed hidden states to logits.
        vocabulary: Number of logits, V.
    """

    layers: tuple[Any, ...]
    norm: Any
    head: Any
    vocabulary: int

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., V)`` in fp32 that hidden states ``(..., d)`` of any layer would give."""
        return self.head(self.norm(hidden)).float()

    def rows_at_once(self, per_row: int = 1) -> int:
        """How many rows to read at once, each of ``per_row`` logit vectors."""
        return max(1, _LOGITS_AT_ONCE // (self.vocabulary * per_row))

    def require_own(self, hidden: Tensor, logits: Tensor) -> None:
        """Check the parts: the last layer's states must give the model's own logits.

        Args:
            hidden: Of the last layer, ``(n, d)``.
            logits: The model's output at the same places, ``(n, V)``.

        Raises:
            MeasureError: If they do not; the model then does more after its last layer.
        """
        exact = logits.dtype in (torch.float32, torch.float64)
        tolerance = 1e-3 if exact else 0.05
        found, own = self.logits(hidden), logits.float()
        scale = own.abs().amax().clamp(min=1.0)
        if own.isfinite().all() and float((found - own).abs().amax() / scale) > tolerance:
            raise MeasureError(
                "The model's final norm and output head do not turn its last hidden states into "
                "its logits (they are scaled or capped elsewhere), so hidden states cannot be "
                "read; take a model that ends in norm and head."
            )


def text_stack(mllm: Mllm) -> TextStack:
    """Find the parts of a model's text stack.

    Raises:
        MeasureError: If they are not where `transformers` keeps them.
    """
    model = mllm.model
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers, norm = getattr(decoder, "layers", ()), getattr(decoder, "norm", None)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if len(layers) != mllm.n_layers or norm is None or head is None:
        raise MeasureError(
            f"{type(model).__name__} does not show its text layers, final norm and output head "
            "(get_decoder(), get_output_embeddings()); use a model class of transformers."
        )
    return TextStack(tuple(layers), norm, head, int(mllm.text_config.vocab_size))


@contextlib.contextmanager
def hidden_states(
    stack: TextStack, layers: Collection[int], rows: Tensor
) -> Iterator[dict[int, Tensor]]:
    """Keep what layers put out at some rows, in every forward pass inside (the last one counts).

    Args:
        stack: The text stack.
        layers: Which layers, from 0.
        rows: Positions, long ``(n,)``.

    Yields:
        Layer → hidden states ``(B, n, d)``, detached; filled by the forward pass.
    """
    kept: dict[int, Tensor] = {}

    def keep(layer: int, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        kept[layer] = states.detach()[:, rows.to(states.device)]

    with contextlib.ExitStack() as hooks:
        for layer in layers:
            hook = stack.layers[layer].register_forward_hook(
                lambda _module, _inputs, output, layer=layer: keep(layer, output)
            )
            hooks.callback(hook.remove)
        yield kept
