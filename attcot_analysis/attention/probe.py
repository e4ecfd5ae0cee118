"""The probe: collects the attention mass of chosen rows while a model runs, differentiably.

It reads the attention of `attcot_analysis.attention.hook`: one more call of the fused kernel on
the chosen rows (`attcot_analysis.attention.probe`).

Row convention, here and everywhere: the row of token t is position t - 1, whose query PREDICTS t.

Training passes the probe as forward arguments, because a context manager that is closed before
``backward()`` would make a checkpointed layer recompute something else than it computed::

    with attached(model):
        probe = Probe()
        loss = model(**batch, attcot_probe=probe, attcot_cols=cols, attcot_rows=rows).loss
        masses = probe.masses(differentiable=True)      # {layer: (B, H, R, C)}

``generate()`` refuses unknown arguments, so there the probe is active by context::

    with attached(model), probe.active(cols):
        model.generate(**batch)
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from attcot_analysis.attention.hook import AttentionCall, attached, reading
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, collate, evaluating
from attcot_analysis.models.inputs import last_row


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


LayerCols = Callable[[int, Tensor], Tensor]
"""From a layer and the columns given, ``(B, T, C)``, the columns to read there, ``(B, T, C')``."""


class Probe:
    """Collects, per layer, the attention of chosen rows.

    Attributes:
        layers: Layers to read; ``None`` for all with full attention. Layers with a sliding window
            are read only if they are named: most image tokens are out of their sight.
        maps: Collect attention weights on single keys instead of masses on groups; without
            gradient, in fp32.
        keys: With ``maps``, the key positions to keep, ``(N,)``; ``None`` for all.
        layer_cols: Makes each layer's own columns of those given, as sinks need it; called when
            the layer attends. ``None`` reads the same columns everywhere.
        sink: What was collected, ``{layer: (B, H, R, C)}`` fp32 (``(B, H, R, N)`` with maps).
            Keyed by layer, first write wins: recomputation by gradient checkpointing is ignored.
    """

    def __init__(
        self,
        layers: Collection[int] | None = None,
        maps: bool = False,
        keys: Tensor | None = None,
        layer_cols: LayerCols | None = None,
    ) -> None:
        """Read ``layers``, or all."""
        self.layers = None if layers is None else frozenset(layers)
        self.maps = maps
        self.keys = keys
        self.layer_cols = layer_cols
        self.sink: dict[int, Tensor] = {}
        self._active_cols: Tensor | None = None
        self._calls: dict[int, list[Tensor]] = {}

    def begin(self) -> None:
        """Forget what was collected; call before every forward pass."""
        self.sink = {}
        self._calls = {}

    def masses(self, *, differentiable: bool = False) -> dict[int, Tensor]:
        """What was collected, checked.

        Args:
            differentiable: Also require that gradients flow through it.

        Raises:
            MeasureError: If nothing was collected, or its gradient was lost.
        """
        if not self.sink:
            raise MeasureError(
                "The probe collected nothing; run the model inside attached(model), pass "
                "attcot_probe and attcot_cols, and probe layers with full attention."
            )
        if differentiable and not all(mass.requires_grad for mass in self.sink.values()):
            raise MeasureError(
                "The probed attention carries no gradient, so a loss on it would train nothing; "
                "use gradient_checkpointing_kwargs={'use_reentrant': False} and do not freeze "
                "every weight below the probed layers."
            )
        return dict(sorted(self.sink.items()))

    @contextlib.contextmanager
    def active(self, cols: Tensor) -> Iterator["Probe"]:
        """Collect during ``generate()``: one row per generated token, the one that predicts it.

        On leaving, `sink` holds ``(B, H, tokens generated, C)``.

        Args:
            cols: ``(B, T, C)`` of the prompt, padding included; generated keys are in no group.
        """
        self.begin()
        self._active_cols = cols
        try:
            with reading(self):
                yield self
        finally:
            self._active_cols = None
            self.sink = {layer: torch.cat(calls, dim=2) for layer, calls in self._calls.items()}
            self._calls = {}

    def take(self) -> dict[int, Tensor]:
        """What was collected since the last call while `active`, and forget it.

        After each token of a generation that is the row which predicts it: maps of all tokens
        together would be as large as the text is long.

        Returns:
            ``{layer: (B, H, rows, C)}``, layers ascending.
        """
        taken = {layer: torch.cat(calls, dim=2) for layer, calls in sorted(self._calls.items())}
        self._calls = {}
        return taken

    def reads(self, module: Any) -> bool:
        """Whether this layer is one to read."""
        if self.layers is None:
            return getattr(module, "sliding_window", None) is None
        return module.layer_idx in self.layers

    def read(self, call: AttentionCall, cols: Tensor | None, rows: Tensor | None) -> None:
        """Collect the chosen rows of a forward pass; see `group_masses` for the arguments."""
        self.sink.setdefault(call.module.layer_idx, self._collect(call, cols, rows))

    def read_active(self, call: AttentionCall) -> None:
        """Collect the last row of a pass of ``generate()``, which predicts the next token."""
        if torch.is_grad_enabled():
            raise MeasureError(
                "Probe.active() is for generation without gradient; in training pass the probe "
                "as attcot_probe, attcot_cols and attcot_rows to the forward call."
            )
        if getattr(call.module, "sliding_window", None) is not None:
            raise MeasureError(
                f"Layer {call.module.layer_idx} has a sliding window, whose cache drops keys, so "
                "it cannot be read during generation; read the response afterwards, or other "
                "layers."
            )
        batch, _, n_queries, _ = call.query.shape
        last = call.query.new_full((batch, 1), n_queries - 1, dtype=torch.long)
        found = self._collect(call, self._active_cols, last)
        self._calls.setdefault(call.module.layer_idx, []).append(found)

    def _collect(self, call: AttentionCall, cols: Tensor | None, rows: Tensor | None) -> Tensor:
        if self.maps:
            return key_weights(call.query, call.key, call.mask, self.keys, rows, call.scaling)
        if self.layer_cols is not None and cols is not None:
            cols = self.layer_cols(call.module.layer_idx, cols)
        return group_masses(call.query, call.key, call.mask, cols, rows, call.scaling)


def read_masses(
    mllm: Mllm,
    batch: Mapping[str, Tensor],
    cols: Tensor,
    rows: Tensor,
    *,
    layers: Collection[int] | None = None,
    layer_cols: LayerCols | None = None,
    **forward: Any,
) -> dict[int, Tensor]:
    """Masses of a batch's rows on groups of its tokens, from one forward pass.

    Args:
        mllm: The model.
        batch: Model inputs as from `collate`, of length T.
        cols: ``(B, T, C)`` weight of each token in each group, in [0, 1].
        rows: ``(B, R)`` positions, -1 for none. The row of token t is t - 1.
        layers: Layers to read; all with full attention if ``None``.
        layer_cols: Makes each layer's own columns of ``cols``; see `Probe`.
        forward: Further arguments of the forward call.

    Returns:
        ``{layer: (B, H, R, C)}`` fp32, without gradient, on the model's device.

    Raises:
        MeasureError: If rows, columns or layers do not fit.
    """
    shape = batch["input_ids"].shape
    if cols.shape[:2] != shape:
        raise MeasureError(
            f"Probe columns have shape {tuple(cols.shape)}; expected (batch, tokens, groups) with "
            f"(batch, tokens) = {tuple(shape)}."
        )
    _check_rows(rows, shape)
    probe = Probe(layers if layers is None else chosen_layers(mllm, layers), layer_cols=layer_cols)
    return run_probe(mllm, batch, probe, rows, cols, forward)


def read_maps(
    mllm: Mllm,
    encoded: Encoded,
    rows: Sequence[int] | npt.NDArray[np.int64],
    layers: Collection[int] | None = None,
) -> npt.NDArray[np.float32]:
    """Attention weights of one item's rows on each of its image tokens, for heatmaps.

    Args:
        mllm: The model.
        encoded: One item with an image.
        rows: Positions; the row of token t is t - 1.
        layers: Layers to read; all with full attention if ``None``.

    Returns:
        ``(L, H, R, N)`` softmax weights, layers ascending; sums over N are visual masses.

    Raises:
        MeasureError: If rows or layers do not fit.
    """
    batch = collate(mllm, [encoded])
    places = torch.as_tensor(np.asarray(rows, dtype=np.int64), device=mllm.device)[None]
    _check_rows(places, batch["input_ids"].shape)
    keys = torch.as_tensor(encoded.layout.image)
    probe = Probe(layers if layers is None else chosen_layers(mllm, layers), maps=True, keys=keys)
    found = run_probe(mllm, batch, probe, places)
    return np.stack([weights[0].cpu().numpy() for weights in found.values()])


@torch.no_grad()
def run_probe(
    mllm: Mllm,
    batch: Mapping[str, Tensor],
    probe: Probe,
    rows: Tensor,
    cols: Tensor | None = None,
    forward: Mapping[str, Any] = MappingProxyType({}),
) -> dict[int, Tensor]:
    """Run the model once, without gradient, and return what the probe collected.

    Raises:
        MeasureError: If the probe shall read a layer that does not attend.
    """
    model = mllm.model
    with evaluating(model), attached(model):
        model(
            **{"use_cache": False, "logits_to_keep": last_row(batch), **batch, **forward},
            attcot_probe=probe,
            attcot_cols=cols,
            attcot_rows=rows.to(mllm.device),
        )
    found = probe.masses()
    if probe.layers is not None and probe.layers != found.keys():
        raise MeasureError(
            f"Layers {sorted(probe.layers - found.keys())} have no attention that could be read; "
            f"choose from {sorted(found)}."
        )
    return found


def _check_rows(rows: Tensor, shape: Sequence[int]) -> None:
    if rows.ndim != 2 or rows.shape[0] != shape[0]:
        raise MeasureError(
            f"Rows have shape {tuple(rows.shape)}; expected (batch, rows) with batch {shape[0]}."
        )
    if rows.numel() and (int(rows.min()) < -1 or int(rows.max()) >= shape[1]):
        raise MeasureError(
            f"Rows reach from {int(rows.min())} to {int(rows.max())}; expected positions below "
            f"{shape[1]}, or -1 for none."
        )


def chosen_layers(mllm: Mllm, layers: Collection[int] | None) -> list[int]:
    """The layers to read, in order; all where none are named.

    Raises:
        MeasureError: If the list is empty, or the model has no such layer.
    """
    known = range(mllm.n_layers)
    layers = list(known) if layers is None else list(layers)
    if not (layers and set(layers) <= set(known)):
        raise MeasureError(
            f"Layers are {layers}; choose from 0 to {known[-1]}, those of {mllm.name}, at "
            "least one."
        )
    return sorted(set(layers))
