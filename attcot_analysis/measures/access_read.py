"""Reading visual access: blocks of rows of several items, from one forward pass, as tables."""

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from attcot_analysis.attention.probe import LayerCols, read_masses
from attcot_analysis.attention.sinks import SinkFinder, SinkRule
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access_blocks import (
    ANSWER_QUANTITIES,
    EVIDENCE,
    QUANTITIES,
    SINK_QUANTITIES,
    Block,
    access_columns,
    answer_blocks,
    quantities,
    step_blocks,
    with_sinks,
)
from attcot_analysis.models import Encoded, Mllm, collate
from attcot_analysis.problems import ParsedResponse, Problem


class Kind(NamedTuple):
    """A kind of table.

    Attributes:
        blocks: Makes the blocks of an item.
        there: Whether a response has any.
        lack: What a response does wrong that has none.
        labels: The columns of a block's labels.
        quantities: The measured columns.
    """

    blocks: Callable[[Problem, Encoded], list[Block]]
    there: Callable[[ParsedResponse], bool]
    lack: str
    labels: tuple[str, ...]
    quantities: tuple[str, ...]


STEPS = Kind(
    step_blocks,
    lambda parsed: bool(parsed.steps),
    "has an empty rationale; visual access needs at least one step inside <think>...</think>",
    ("step", "n_steps"),
    QUANTITIES,
)
ANSWER = Kind(
    answer_blocks,
    lambda parsed: parsed.answer_range is not None,
    "states no answer inside <answer>...</answer>",
    ("n_steps",),
    ANSWER_QUANTITIES,
)

Part = list[tuple[Problem, Encoded]]
"""Items that go through one forward pass."""


def read_access(
    mllm: Mllm,
    part: Part,
    kinds: Sequence[Kind],
    layers: Collection[int] | None,
    rule: SinkRule | None,
) -> list[list[pd.DataFrame]]:
    """Per kind, the tables of some items, from one forward pass."""
    blocks = [[kind.blocks(*pair) for kind in kinds] for pair in part]
    flat = [[block for some in of_item for block in some] for of_item in blocks]
    columns = [
        access_columns(item, [weights for block in some for weights in block.evidence.values()])
        for (_, item), some in zip(part, flat, strict=True)
    ]
    widest = max(column.shape[1] for column in columns)
    longest = max(len(column) for column in columns)
    cols = torch.stack(
        [
            torch.nn.functional.pad(column, (0, widest - column.shape[1], 0, longest - len(column)))
            for column in columns
        ]
    )
    chosen = [
        torch.from_numpy(np.concatenate([np.empty(0, np.int64), *(block.rows for block in some)]))
        for some in flat
    ]
    rows = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)
    if not rows.numel():
        return [[] for _ in kinds]
    batch = collate(mllm, [item for _, item in part])
    layer_cols: LayerCols | None = None
    with contextlib.ExitStack() as stack:
        if rule is not None:
            finder = SinkFinder(mllm, rule, batch["attention_mask"])
            stack.enter_context(finder.watching())
            layer_cols = _sink_cols(finder)
        cols = cols.to(mllm.device)
        masses = read_masses(mllm, batch, cols, rows, layers=layers, layer_cols=layer_cols)
    stacked = torch.stack(list(masses.values()), dim=1).cpu().double().numpy()
    for (problem, _), own, read in zip(part, chosen, stacked, strict=True):
        if not np.isfinite(read[:, :, : len(own)]).all():
            raise MeasureError(
                f"Item {problem.id}: the model's attention is not finite; check its weights and "
                "dtype (fp16 overflows where bf16 does not)."
            )
    tables: list[list[pd.DataFrame]] = [[] for _ in kinds]
    for index, (problem, item) in enumerate(part):
        row, column = 0, EVIDENCE
        for found, kind, some in zip(tables, kinds, blocks[index], strict=True):
            for block in some:
                stop = row + len(block.rows)
                read = stacked[index][:, :, row:stop]
                found.append(_table(problem, item, kind, block, read, masses, column, rule))
                row, column = stop, column + len(block.evidence)
    return tables


def _sink_cols(finder: SinkFinder) -> LayerCols:
    return lambda layer, cols: with_sinks(cols, finder.tokens[layer])


def _table(
    problem: Problem,
    item: Encoded,
    kind: Kind,
    block: Block,
    masses: npt.NDArray[np.float64],
    layers: Collection[int],
    column: int,
    rule: SinkRule | None,
) -> pd.DataFrame:
    """One block's rows of the table; ``masses`` are ``(L, H, R, C)``."""
    n_layers, n_heads, n_rows, n_columns = masses.shape
    layer, head = np.meshgrid(list(layers), range(n_heads), indexing="ij")
    evidence = {
        prefix: None if weights is None else column + offset
        for offset, (prefix, weights) in enumerate(block.evidence.items())
    }
    found = quantities(
        masses.reshape(n_layers * n_heads, n_rows, n_columns),
        n_image=len(item.layout.image),
        n_visible=block.rows + 1,
        evidence=evidence,
        sinks=rule is not None,
    )
    if kind is STEPS:
        seen = block.evidence["evidence"]
        found["evidence_area"] = np.nan if seen is None else seen.mean()
    labels = {"item": problem.id, **block.labels, "layer": layer.ravel(), "head": head.ravel()}
    return pd.DataFrame({**labels, **found, "rows": n_rows})


def joined(
    found: Sequence[Sequence[pd.DataFrame]], kind: Kind, rule: SinkRule | None
) -> pd.DataFrame:
    """One table of many; with all columns even if there are none."""
    tables = [table for part in found for table in part]
    if tables:
        return pd.concat(tables, ignore_index=True)
    area = ("evidence_area",) if kind is STEPS else ()
    measured = (*kind.quantities, *(() if rule is None else SINK_QUANTITIES), *area)
    return pd.DataFrame(columns=["item", *kind.labels, "layer", "head", *measured, "rows"])
