"""What bench `access` compares: a plain pass, one with the probe, one with all weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attcot_analysis.attention.probe import read_masses
from attcot_analysis.models import Mllm
from benchmarks.bench import Shape, forward

GROUPS = 20
"""Groups of keys: image, other text, system, question, and evidence of 16 steps."""

MIB = 2**20


def probe_inputs(batch: dict[str, Tensor], n_rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Columns ``(1, T, GROUPS)`` and rows ``(1, R)``: of the last R tokens, T / 4 by default."""
    length = batch["input_ids"].shape[1]
    n_rows = length // 4 if n_rows is None else n_rows
    generator = torch.Generator().manual_seed(1)
    cols = (torch.rand(1, length, GROUPS, generator=generator) < 0.5).float()
    # The row of token t is t - 1, so the last token of the sequence is predicted by T - 2.
    rows = torch.arange(length - 1 - n_rows, length - 1)[None]
    device = batch["input_ids"].device
    return cols.to(device), rows.to(device)


def probed(mllm: Mllm, batch: dict[str, Tensor]) -> dict[int, Tensor]:
    """Masses of the last quarter's rows, all layers and heads."""
    return read_masses(mllm, batch, *probe_inputs(batch))


def eager(mllm: Mllm, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """All weights of all layers, as `transformers` gives them; the model is put back to SDPA."""
    mllm.model.set_attn_implementation({"text_config": "eager"})
    try:
        weights: tuple[Tensor, ...] = forward(mllm, batch, output_attentions=True).attentions
        return weights
    finally:
        mllm.model.set_attn_implementation({"text_config": "sdpa"})


VARIANTS: dict[str, Callable[[Mllm, dict[str, Tensor]], Any]] = {
    "plain": forward,
    "probed": probed,
    "eager": eager,
}
"""What is compared, by name."""


def eager_bytes(shape: Shape, length: int, size: int = 4) -> int:
    """Bytes of all attention weights of one sequence."""
    return shape.layers * shape.heads * length**2 * size
