"""The attention that `transformers` runs for us: SDPA, open to readers and interventions.

One function is registered with `transformers` under `NAME`. It does what its own SDPA attention
does, and in between lets *interventions* change what a layer attends with (`intervening`) and a
*reader*, the probe, see what it attended with.

A forward call with ``attcot_probe`` is read by that reader; ``generate()`` refuses unknown
arguments, so there the reader is set by context (`reading`). Interventions are set by context in
both cases, and are therefore for measuring, not for training.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from attcot_analysis.errors import MeasureError
from attcot_analysis.models import ensure_torchvision

# isort: split
# After our models package, which makes torchvision importable.
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["NAME", "AttentionCall", "Intervention", "Reader", "attached", "intervening", "reading"]

ensure_torchvision()

NAME = "attcot"
"""The registered attention implementation; `transformers` gives meaning to "flash" or "/" in it."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """What one layer attends with.

    Attributes:
        module: The attention module; ``module.layer_idx`` says which layer.
        query: ``(B, H, Tq, D)``.
        key: ``(B, Hkv, Tk, D)``, cached keys included.
        value: ``(B, Hkv, Tk, Dv)``.
        mask: ``None`` (causal), bool (may attend), or additive, ``(B or 1, H or 1, Tq, >= Tk)``.
        scaling: Factor on q.k; ``None`` for ``D ** -0.5``.
        output: ``(B, Tq, H, Dv)``, what came of it; only readers are told.
    """

    module: Any
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float | None
    output: Tensor | None = None


class Intervention(Protocol):
    """Changes what the layers of the text stack attend with."""

    def edit(self, call: AttentionCall) -> AttentionCall:
        """Return the call as the layer shall make it; called once per layer and forward pass."""
        ...


class Reader(Protocol):
    """Reads what a layer attends with."""

    def reads(self, module: Any) -> bool:
        """Whether this attention module is one to read."""
        ...

    def read(self, call: AttentionCall, cols: Tensor | None, rows: Tensor | None) -> None:
        """Read a call of a forward pass that was given this reader."""
        ...

    def read_active(self, call: AttentionCall) -> None:
        """Read a call inside `reading`."""
        ...


_READER: contextvars.ContextVar[Reader | None] = contextvars.ContextVar("reader", default=None)
_EDITS: contextvars.ContextVar[tuple[Intervention, ...]] = contextvars.ContextVar(
    "interventions", default=()
)


def attcot_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    attcot_probe: Reader | None = None,
    attcot_cols: Tensor | None = None,
    attcot_rows: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA attention as `transformers` does it, edited by interventions and shown to a reader.

    Args:
        module: The attention module.
        query: ``(B, H, Tq, D)``.
        key: ``(B, Hkv, Tk, D)``, cached keys included.
        value: ``(B, Hkv, Tk, Dv)``.
        attention_mask: ``None`` (causal), bool, or additive, ``(B or 1, H or 1, Tq, >= Tk)``.
        dropout: Of the attention itself; a reader reads before dropout.
        scaling: Factor on q.k; default ``D ** -0.5``.
        attcot_probe: The reader; ``None`` for the one of `reading`, if any.
        attcot_cols: Passed to the reader.
        attcot_rows: Passed to the reader.
        options: Passed on.
    """
    call = AttentionCall(module, query, key, value, attention_mask, scaling)
    if is_text(module):
        for edit in _EDITS.get():
            call = edit.edit(call)
    output, _ = sdpa_attention_forward(
        module,
        call.query,
        call.key,
        call.value,
        call.mask,
        dropout=dropout,
        scaling=call.scaling,
        **options,
    )
    reader = _READER.get() if attcot_probe is None else attcot_probe
    if reader is None or not is_text(module) or not reader.reads(module):
        return output, None
    if options.get("s_aux") is not None or options.get("position_bias") is not None:
        raise MeasureError(
            f"Layer {module.layer_idx} adds learned sinks or biases to its attention; "
            "the probe cannot read it, choose other layers."
        )
    call = replace(call, output=output)
    if attcot_probe is None:
        reader.read_active(call)
    else:
        reader.read(call, attcot_cols, attcot_rows)
    return output, None


AttentionInterface.register(NAME, attcot_attention)
# Without a mask function of the same name, padding would silently be attended.
AttentionMaskInterface.register(NAME, sdpa_mask)


def is_text(module: Any) -> bool:
    """Whether an attention module belongs to the text stack, not to a vision tower."""
    return getattr(module, "layer_idx", None) is not None and getattr(module, "is_causal", True)


@contextlib.contextmanager
def reading(reader: Reader) -> Iterator[None]:
    """Let a reader read every forward pass inside, as in ``generate()``."""
    token = _READER.set(reader)
    try:
        yield
    finally:
        _READER.reset(token)


@contextlib.contextmanager
def intervening(*edits: Intervention) -> Iterator[None]:
    """Apply interventions, in order, in every forward pass inside; may be nested.

    They act only where the model runs our attention (`attached`).
    """
    token = _EDITS.set((*_EDITS.get(), *edits))
    try:
        yield
    finally:
        _EDITS.reset(token)


@contextlib.contextmanager
def attached(model: Any) -> Iterator[None]:
    """Run a model's text stack on our attention; restores its own implementation on leaving.

    May be nested. Without reader and intervention the model computes what it does under SDPA.

    Raises:
        MeasureError: If the model does not let its attention be replaced.
    """
    config = model.config
    text = config.get_text_config()
    before = text._attn_implementation
    key = next((key for key in config.sub_configs if getattr(config, key, None) is text), None)

    def switch(name: str) -> None:
        model.set_attn_implementation(name if key is None else {key: name})

    switch(NAME)
    try:
        if text._attn_implementation != NAME:
            raise MeasureError(
                f"{type(model).__name__} does not let its attention implementation be replaced; "
                "use a model class that is part of transformers."
            )
        yield
    finally:
        switch(before)
