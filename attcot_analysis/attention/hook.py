"""The attention that `transformers` runs for us: SDPA, open to readers and interventions.

One function is registered with `transformers` under `NAME`. It does what its own SDPA attention
does, and in between lets *interventions* change what a layer attends with (`intervening`),
*revisions* change what came out of it, and a *reader*, the probe, see what it attended with.

A forward call with ``attcot_probe`` is read by that reader; ``generate()`` refuses unknown
arguments, so there the reader is set by context (`reading`). Interventions and revisions are set by
context in both cases. Gradients flow through them, but a layer that is checkpointed would be
recomputed without them, so they are for measuring, not for training.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from attcot_analysis.errors import MeasureError


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


__all__ = [
    "NAME",
    "AttentionCall",
    "Intervention",
    "Reader",
    "Revision",
    "attached",
    "intervening",
    "reading",
    "running",
]


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


Attend = Callable[[AttentionCall], Tensor]
"""Runs the attention on a call: ``(B, Tq, H, Dv)``."""


@runtime_checkable
class Intervention(Protocol):
    """Changes what the layers of the text stack attend with."""

    def edit(self, call: AttentionCall) -> AttentionCall:
        """Return the call as the layer shall make it; called once per layer and forward pass."""
        ...


@runtime_checkable
class Revision(Protocol):
    """Changes what comes out of the attention, where no call of all rows could give it."""

    def revise(self, call: AttentionCall, output: Tensor, attend: Attend) -> Tensor:
        """Return the output as the layer shall pass it on.

        Called once per layer and forward pass, after all interventions.

        Args:
            call: As it was made.
            output: What came out, ``(B, Tq, H, Dv)``.
            attend: Runs the attention on another call.
        """
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


_OTHERWISE = {
    "softcap": "caps its attention scores (Gemma 2)",
    "s_aux": "adds learned sinks to its attention (gpt-oss)",
    "block_indices": "chooses blocks of keys (MiniMax M3)",
}
"""What SDPA leaves out: by the name under which a layer hands it over."""

_READER: contextvars.ContextVar[Reader | None] = contextvars.ContextVar("reader", default=None)


@dataclass(eq=False)
class _Active:
    """What `intervening` set, and whether any attention has met it."""

    edits: tuple[Intervention | Revision, ...] = ()
    met: bool = False


_ACTIVE: contextvars.ContextVar[_Active | None] = contextvars.ContextVar("edits", default=None)


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
    attcot_base: int | None = None,
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
        attcot_base: How many tokens attend causally among themselves. The mask is then of the
            rows behind them only, branches as `attcot_analysis.attention.packing.pack` packs them
            ``apart``, which the reader does not see.
        options: Passed on.
    """
    for name, what in _OTHERWISE.items():
        if options.get(name) is not None and is_text(module):
            raise MeasureError(
                f"Layer {module.layer_idx} {what}, which the attention that is read and edited "
                "here does not; measure what it answers (commitment, dependence), or take another "
                "model."
            )
    indices = options.pop("indices", None)
    if indices is not None:
        assert attention_mask is not None  # The index has chosen by it.
        attention_mask = _of_indices(attention_mask, indices, key.shape[2])
    call = AttentionCall(module, query, key, value, attention_mask, scaling)
    edits: tuple[Intervention | Revision, ...] = ()
    active = _ACTIVE.get()
    if active is not None and is_text(module):
        active.met = True
        edits = active.edits

    def attend(call: AttentionCall) -> Tensor:
        return sdpa_attention_forward(
            module,
            call.query,
            call.key,
            call.value,
            call.mask,
            dropout=dropout,
            scaling=call.scaling,
            **options,
        )[0]

    for edit in edits:
        if isinstance(edit, Intervention):
            call = edit.edit(call)
    behind = None
    if attcot_base is not None:
        if edits:
            raise MeasureError(
                "Interventions do not reach branches that attend apart; pack without apart."
            )
        call, behind = _apart(call, attcot_base, dropout)
    output = attend(call)
    for edit in edits:
        if isinstance(edit, Revision):
            output = edit.revise(call, output, attend)
    whole = output if behind is None else torch.cat([output, behind], dim=1)
    reader = _READER.get() if attcot_probe is None else attcot_probe
    if reader is None or not is_text(module) or not reader.reads(module):
        return whole, None
    if options.get("position_bias") is not None:
        raise MeasureError(
            f"Layer {module.layer_idx} adds biases to its attention; the probe cannot read it, "
            "choose other layers."
        )
    call = replace(call, output=output)
    if attcot_probe is None:
        reader.read_active(call)
    else:
        reader.read(call, attcot_cols, attcot_rows)
    return whole, None


def _of_indices(mask: Tensor, indices: Tensor, n_keys: int) -> Tensor:
    """A layer's mask less the keys that its index has not chosen for each row, ``(B, Tq, k)``.

    The classes do this themselves under the names "eager" and "sdpa" only.
    """
    chosen = torch.zeros((*indices.shape[:2], n_keys), dtype=torch.bool, device=mask.device)
    chosen = chosen.scatter(-1, indices.long(), True)[:, None]
    mask = mask[..., :n_keys]
    if mask.dtype == torch.bool:
        return mask & chosen
    return mask.masked_fill(~chosen, torch.finfo(mask.dtype).min)


def _apart(call: AttentionCall, n: int, dropout: float) -> tuple[AttentionCall, Tensor]:
    """The call of the first n tokens, causally among themselves, and the output of the others."""
    own, others = call.query.split([n, call.query.shape[2] - n], dim=2)
    output = attend_few(others, call.key, call.value, call.mask, dropout, call.scaling)
    key, value = call.key[:, :, :n], call.value[:, :, :n]
    return replace(call, query=own, key=key, value=value, mask=None), output


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
def intervening(*edits: Intervention | Revision) -> Iterator[None]:
    """Apply interventions and revisions, in order, in every forward pass inside; may be nested.

    They act only where the model runs our attention (`attached`).

    Raises:
        MeasureError: On leaving, if no attention met them, so that nothing was changed.
    """
    outer = _ACTIVE.get()
    active = _Active((*(outer.edits if outer else ()), *edits))
    token = _ACTIVE.set(active)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
        if outer is not None:
            outer.met |= active.met
    if edits and not active.met:
        raise MeasureError(
            "An intervention was set, but no attention met it, so nothing was changed; run the "
            "model inside it and inside attached(model)."
        )


@contextlib.contextmanager
def attached(model: Any) -> Iterator[None]:
    """Run a model's text stack on our attention; restores its own implementation on leaving.

    May be nested. Without reader and intervention the model computes what it does under SDPA.

    Raises:
        MeasureError: If the model does not let its attention be replaced.
    """
    text = model.config.get_text_config()
    with running(model, NAME):
        if text._attn_implementation != NAME:
            raise MeasureError(
                f"{type(model).__name__} does not let its attention implementation be replaced; "
                "use a model class that is part of transformers."
            )
        yield


@contextlib.contextmanager
def running(model: Any, name: str) -> Iterator[None]:
    """Run a model's text stack on another attention implementation; restores its own on leaving."""
    config = model.config
    text = config.get_text_config()
    before = text._attn_implementation
    key = next((key for key in config.sub_configs if getattr(config, key, None) is text), None)
    model.set_attn_implementation(name if key is None else {key: name})
    try:
        yield
    finally:
        model.set_attn_implementation(before if key is None else {key: before})
