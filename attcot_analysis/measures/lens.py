"""Logit lens: what a forced answer would be if it were read after each layer."""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from torch import Tensor
from tqdm.auto import tqdm

from attcot_analysis.attention.candidates import Readout
from attcot_analysis.attention.packing import candidate_tokens, pack
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.commitment import with_steps
from attcot_analysis.models import Mllm, encode_problem, evaluating
from attcot_analysis.models.load import TextStack, hidden_states, text_stack
from attcot_analysis.problems import Problem

COLUMNS = ("item", "step", "n_steps", "layer", "candidate", "log_p", "p")
"""Columns of the table of the lens."""


def lens_commitment(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int] | str],
    *,
    images: Sequence[Image.Image] | None = None,
    layers: Collection[int] | None = None,
    empty: Literal["error", "skip"] = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> pd.DataFrame:
    """Force an answer after every step and read the candidates after every layer.

    The hidden state at a forced answer's row is put through the model's final norm and output
    head after each layer, not only after the last. One forward pass reads all steps and layers.

    Decodable is not used: that an answer can be read in the middle of the stack does not show
    that the model relies on it there, and that it cannot be read by *this* head does not show
    that it is not there (early layers speak another basis).

    Args:
        mllm: The model.
        problems: The items.
        responses: Per item the response, as token ids (what the model wrote) or as text.
        images: Other pictures to show instead of the items' own.
        layers: Which layers, from 0; default all.
        empty: What to do with responses that have no rationale step: raise an error, or leave
            the item out of the table.
        batch_size: Items per forward pass.
        progress: Show a progress bar.

    Returns:
        One row per item, step, layer and candidate: ``item``, ``step`` (0 to ``n_steps``),
        ``n_steps``, ``layer`` (read behind it; the last is the model's own output),
        ``candidate``, ``log_p`` (nats; of the candidate's whole text, as in `commitment`), ``p``
        (softmax of ``log_p`` over the candidates).

    Raises:
        MeasureError: As `commitment`; if a layer does not exist; or if the model's output is not
            its last hidden state through norm and head.

    Source: reconstruction; logit lens (nostalgebraist 2020; for VLMs arXiv 2410.02762 and
    2410.07149) at the forced answers of Lanham et al., arXiv 2307.13702.
    """
    used = with_steps(mllm, problems, responses, images=images, empty=empty, forced=True)
    stack = text_stack(mllm)
    last = mllm.n_layers - 1
    chosen = sorted(set(range(mllm.n_layers) if layers is None else layers))
    if not chosen or chosen[0] < 0 or chosen[-1] > last:
        raise MeasureError(f"Layers are {chosen}; choose from 0 to {last}, at least one.")
    tokens = {at: candidate_tokens(mllm, problems[at].candidates) for at in used}
    frames = []
    order = list(used)
    for start in tqdm(range(0, len(order), batch_size), desc="lens", disable=not progress):
        chunk = order[start : start + batch_size]
        items = [
            encode_problem(
                mllm,
                problems[at],
                mode="cot",
                response=responses[at],
                image=None if images is None else images[at],
            )
            for at in chunk
        ]
        packed = pack(
            mllm, items, [tokens[at] for at in chunk], names=[problems[at].id for at in chunk]
        )
        with (
            torch.no_grad(),
            evaluating(mllm.model),
            hidden_states(stack, {*chosen, last}, packed.keep) as states,
        ):
            own = mllm.model(**packed.inputs, logits_to_keep=packed.keep[-1:], use_cache=False)
            stack.require_own(states[last][:, -1], own.logits[:, -1])
            read = []
            for place, one in enumerate(packed.readouts):
                readout = one.to(packed.keep.device)
                rows = torch.searchsorted(packed.keep, readout.rows)
                every = [_read(stack, readout, states[layer][place, rows]) for layer in chosen]
                read.append(torch.stack(every, dim=1))
        packed.check_finite(read)
        for at, log_p in zip(chunk, read, strict=True):
            frames.append(_rows(problems[at], chosen, log_p.double().cpu().numpy()))
    return pd.concat(frames, ignore_index=True)


def lens_items(table: pd.DataFrame) -> pd.DataFrame:
    """From which layer on each forced answer already is the final one.

    Args:
        table: From `lens_commitment`, one run, with the model's last layer.

    Returns:
        One row per item and step: ``item``, ``step``, ``n_steps``, ``final`` (most probable
        candidate in the last layer after the last step: the answer that is given in the end);
        ``first_layer``, the earliest layer in which it is the most probable candidate (in early
        layers this happens by chance in one of as many items as there are candidates);
        ``settled_layer``, the earliest from which on it stays so up to the last. Missing where
        there is none: at that step the model would answer something else.

    Raises:
        MeasureError: If columns are missing or an item does not hold every layer at every step.
    """
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing or table.empty:
        raise MeasureError(
            f"The table of the lens is empty or lacks {missing}; make it with lens_commitment()."
        )
    layers = np.sort(table["layer"].unique())
    table = table.reset_index(drop=True)
    rows = []
    for item, part in table.groupby("item", sort=False):
        best = part.loc[part.groupby(["step", "layer"])["p"].idxmax()]
        grid = best.pivot(index="step", columns="layer", values="candidate")
        n_steps = int(part["n_steps"].iloc[0])
        twice = part.duplicated(["step", "layer", "candidate"]).any()
        if twice or grid.isna().to_numpy().any() or grid.shape != (n_steps + 1, len(layers)):
            raise MeasureError(
                f"Item {item}: the table does not hold each candidate once per layer and step "
                "from 0 to n_steps; pass the rows of one run, and all of them."
            )
        final = grid.iloc[-1, -1]
        for step, holds in zip(grid.index, (grid == final).to_numpy(), strict=True):
            rows.append((item, step, n_steps, final, *_layers(holds, layers)))
    columns = ["item", "step", "n_steps", "final", "first_layer", "settled_layer"]
    return pd.DataFrame(rows, columns=columns)


def _layers(holds: NDArray[np.bool_], layers: NDArray[np.int64]) -> tuple[float, float]:
    """The first layer where something holds, and the first from which on it does to the end."""
    if not holds.any():
        return np.nan, np.nan
    first = float(layers[holds.argmax()])
    if not holds[-1]:
        return first, np.nan
    failures = np.flatnonzero(~holds)
    return first, float(layers[failures[-1] + 1 if len(failures) else 0])


def _read(stack: TextStack, readout: Readout, hidden: Tensor) -> Tensor:
    """Candidates' log-probabilities ``(n_k, n_candidates)`` from states ``(n_k, n_rows, d)``."""
    parts = hidden.split(stack.rows_at_once(hidden.shape[1]))
    return torch.cat([readout.log_probs(stack.logits(part)) for part in parts])


def _rows(problem: Problem, layers: Sequence[int], log_p: NDArray[np.float64]) -> pd.DataFrame:
    """Rows of one item's ``(n_k, n_layers, n_candidates)``."""
    n_k, n_layers, n_candidates = log_p.shape
    return pd.DataFrame(
        {
            "item": problem.id,
            "step": np.repeat(np.arange(n_k), n_layers * n_candidates),
            "n_steps": n_k - 1,
            "layer": np.tile(np.repeat(layers, n_candidates), n_k),
            "candidate": list(problem.candidates) * (n_k * n_layers),
            "log_p": log_p.ravel(),
            "p": softmax(log_p, axis=-1).ravel(),
        }
    )
