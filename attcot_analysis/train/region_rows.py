"""Which rows of a generated response can count for the region reward, against which boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attcot_analysis.models import Encoded, Mllm
from attcot_analysis.problems import Box
from attcot_analysis.train.data import evidence_weights
from attcot_analysis.train.region_config import RegionRewardConfig

Boxes = Sequence[Sequence[Box]]
"""Per rationale step its evidence boxes, in pixels of the original image."""
Missing = Literal["no_image", "no_box", "unseen", "empty", "no_step", "sinks"]
"""Why there is no reward: the prompt has no image; the problem has no box; no image token lies in
one (the processor cropped it away); nothing was generated; no generated step has boxes of its own;
all image tokens in the boxes are attention sinks."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows of an item could count, and what each is held against.

    Attributes:
        rows: Positions, long ``(R,)``.
        groups: Per row the column of its boxes, from 1, long ``(R,)``.
        cols: ``(N, C)`` per image token 1 in column 0, and how far the boxes of each other column
            cover it.
        missing: Why there are no rows.
    """

    rows: Tensor
    groups: Tensor
    cols: Tensor
    missing: Missing | None = None


def plan_rows(mllm: Mllm, item: Encoded, boxes: Boxes, config: RegionRewardConfig) -> Plan:
    """The rows of one item that could count.

    Raises:
        TrainingError: If there are boxes, but several images.
    """
    layout, start = item.layout, item.prompt_length
    none = torch.zeros(0, dtype=torch.long)
    whole = torch.ones(len(layout.image), 1)

    def without(reason: Missing) -> Plan:
        return Plan(none, none, whole, reason)

    if not layout.grids:
        return without("no_image")
    every = [box for step in boxes for box in step]
    if not every:
        return without("no_box")
    regions = [every] if config.region == "problem" else boxes
    covered = [
        evidence_weights(item, [(x0, y0, x1, y1) for x0, y0, x1, y1 in one]) for one in regions
    ]
    if not any(bool(weights.any()) for weights in covered):
        return without("unseen")
    stop = set(mllm.stop_ids)
    ids = item.response_ids
    length = next((at for at, token in enumerate(ids) if token in stop), len(ids))
    if not length:
        return without("empty")
    cols = torch.cat([whole, torch.stack(covered, dim=1)], dim=1)
    if config.region == "problem":
        rows = torch.arange(start - 1, start - 1 + length)
        return Plan(rows, torch.ones_like(rows), cols)
    spans = [
        (torch.as_tensor(layout.rows(span), dtype=torch.long), column)
        for column, (span, weights) in enumerate(zip(layout.steps, covered, strict=False), start=1)
        if span.size and bool(weights.any())
    ]
    if not spans:
        return without("no_step")
    groups = torch.cat([torch.full_like(rows, column) for rows, column in spans])
    return Plan(torch.cat([rows for rows, _ in spans]), groups, cols)
