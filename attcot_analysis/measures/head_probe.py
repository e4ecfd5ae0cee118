"""What tells visual heads, per row: visual mass, its density, its entropy, its part on sinks."""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attcot_analysis.attention.hook import AttentionCall
from attcot_analysis.attention.mass import key_weights
from attcot_analysis.attention.probe import Probe, checked_layers, run_probe
from attcot_analysis.attention.sinks import SinkFinder, SinkRule
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, collate

Where = Literal["rationale", "answer", "prompt"]

_NUMBERS_AT_ONCE = 2**23
"""Attention weights held at once (32 MB in fp32, a few times over)."""


class HeadProbe(Probe):
    """Collects what tells visual heads, per row: ``(B, H, R, 4)`` fp32.

    Mass, ratio, entropy and mass on sinks; columns are the image tokens, then its sinks.
    """

    def _collect(self, call: AttentionCall, cols: Tensor | None, rows: Tensor | None) -> Tensor:
        if cols is None or rows is None:
            raise MeasureError("A HeadProbe needs columns, (B, T, 2), and rows.")
        if self.layer_cols is not None:
            cols = self.layer_cols(call.module.layer_idx, cols)
        batch, heads = call.query.shape[:2]
        at_once = max(1, _NUMBERS_AT_ONCE // (batch * heads * call.key.shape[2]))
        image, sinks = cols.to(call.query.device).float().unbind(-1)
        found = []
        # Entropy needs single weights: some rows at a time, never T x T.
        for some in rows.split(at_once, dim=1):
            weights = key_weights(call.query, call.key, call.mask, None, some, call.scaling)
            found.append(row_quantities(weights, image, sinks, some))
        return torch.cat(found, dim=2)


def row_quantities(weights: Tensor, image: Tensor, sinks: Tensor, rows: Tensor) -> Tensor:
    """Mass, ratio, entropy and mass on sinks of rows of attention weights.

    Args:
        weights: ``(B, H, R, T)``, each row summing to 1.
        image: ``(B, T)``, 1 on image tokens.
        sinks: ``(B, T)``, 1 on image tokens that are sinks.
        rows: ``(B, R)`` positions in sequences that are padded on the right, -1 for none.

    Returns:
        ``(B, H, R, 4)``.
    """
    inside = weights * image[:, None, None]
    mass = inside.sum(-1)
    n_image = image.sum(-1)[:, None, None].clamp(min=1)
    ratio = mass / n_image * (rows + 1)[:, None]
    some = mass.clamp(min=torch.finfo(weights.dtype).tiny)
    spread = some.log() - torch.special.xlogy(inside, inside).sum(-1) / some
    entropy = torch.where(mass == some, spread.clamp(min=0), n_image.log())
    return torch.stack([mass, ratio, entropy, (weights * sinks[:, None, None]).sum(-1)], dim=-1)


def head_rows(item: Encoded, where: Where) -> npt.NDArray[np.int64]:
    """The rows of an item to read; none if its response has no such part."""
    layout = item.layout
    if where == "prompt":
        return np.array([item.prompt_length - 1])
    if where == "answer":
        return np.array([] if layout.answer is None else [layout.answer.start - 1], dtype=np.int64)
    return np.concatenate([np.empty(0, np.int64), *(layout.rows(step) for step in layout.steps)])


def read_heads(
    mllm: Mllm,
    items: Sequence[Encoded],
    where: Where,
    layers: Collection[int] | None,
    rule: SinkRule | None,
) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """The layers read, and means over rows ``(B, L * H, 4)``."""
    batch = collate(mllm, items)
    image = torch.zeros(batch["input_ids"].shape)
    for index, item in enumerate(items):
        image[index, torch.from_numpy(item.layout.image)] = 1
    cols = torch.stack([image, torch.zeros_like(image)], dim=-1).to(mllm.device)
    chosen = [torch.from_numpy(head_rows(item, where)) for item in items]
    rows = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)
    probe = HeadProbe(checked_layers(mllm, layers))
    if rule is None:
        found = run_probe(mllm, batch, probe, rows, cols)
    else:
        finder = SinkFinder(mllm, rule, batch["attention_mask"])
        probe.layer_cols = lambda layer, given: torch.stack(
            [given[..., 0], given[..., 0] * finder.tokens[layer].to(given)], dim=-1
        )
        with finder.watching():
            found = run_probe(mllm, batch, probe, rows, cols)
    real = (rows >= 0)[:, None, :, None].to(mllm.device)
    means = [torch.where(real, values, 0.0).sum(2) / real.sum(2) for values in found.values()]
    stacked = torch.stack(means, dim=1).flatten(1, 2)
    return tuple(found), stacked.cpu().double().numpy()
