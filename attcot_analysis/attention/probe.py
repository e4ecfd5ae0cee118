"""The probe: collects the attention mass of chosen rows while a model runs, differentiably.

It reads the attention of `attcot_analysis.attention.hook`: one more call of the fused kernel on
the chosen rows (`attcot_analysis.attention.mass`).

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
from torch import Tensor

from attcot_analysis.attention.hook import AttentionCall, attached, reading
from attcot_analysis.attention.mass import group_masses, key_weights
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, collate, evaluating

LayerCols = Callable[[int, Tensor], Tensor]
"""From a layer and the columns given, ``(B, T, C)``, the columns to read there, ``(B, T, C')``."""


class Probe:
    """Collects, per layer, the attention of chosen rows.

    Attributes:
        layers: Layers to read; ``None`` for all with full attention. Layers with a sliding window
            are never read: most image tokens are out of their sight.
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

    def reads(self, module: Any) -> bool:
        """Whether this layer is one to read."""
        if getattr(module, "sliding_window", None) is not None:
            return False
        return self.layers is None or module.layer_idx in self.layers

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
    probe = Probe(checked_layers(mllm, layers), layer_cols=layer_cols)
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
    probe = Probe(checked_layers(mllm, layers), maps=True, keys=keys)
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
        MeasureError: If the probe shall read a layer that has no full attention.
    """
    model = mllm.model
    with evaluating(model), attached(model):
        model(
            **batch,
            **{"use_cache": False, "logits_to_keep": 1, **forward},
            attcot_probe=probe,
            attcot_cols=cols,
            attcot_rows=rows.to(mllm.device),
        )
    found = probe.masses()
    if probe.layers is not None and probe.layers != found.keys():
        raise MeasureError(
            f"Layers {sorted(probe.layers - found.keys())} have no full attention and cannot be "
            f"read; choose from {sorted(found)}."
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


def checked_layers(mllm: Mllm, layers: Collection[int] | None) -> Collection[int] | None:
    """The layers to read, as given.

    Raises:
        MeasureError: If the model has no such layer.
    """
    if layers is not None and not set(layers) <= set(range(mllm.n_layers)):
        raise MeasureError(
            f"Layers {sorted(layers)} are not all in 0..{mllm.n_layers - 1}, the layers of "
            f"{mllm.name}."
        )
    return layers
