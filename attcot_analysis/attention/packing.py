"""Branches: the forced answers after every step of an item, asked in one forward pass.

The answer cue (and, where candidates share first tokens, the tokens they share) is packed once
per step behind the sequence. A block mask lets each branch see its own prefix only, so one
forward pass reads what a loop of one forward pass per step and candidate would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from attcot_analysis.attention.block_masks import (
    TYPE_KEYS,
    BranchTokens,
    block_mask,
    plainly_causal,
    rows_mask,
)
from attcot_analysis.attention.candidates import (
    CandidateTokens,
    CandidateTree,
    behind,
    candidate_tokens,
)
from attcot_analysis.attention.readout import JointReadout, Readout, join, readout
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, collate, evaluating, positions

__all__ = [
    "CandidateTokens",
    "Packed",
    "candidate_tokens",
    "forced_answers",
    "pack",
]


@dataclass(frozen=True)
class Packed:
    """A batch with branches behind its sequences.

    Attributes:
        inputs: Model inputs, ready for ``model(**inputs)``: ``input_ids (B, T')``, a 4-D
            boolean ``attention_mask (B, 1, T', T')`` (a dictionary of one per kind of layer for
            models that mix full and sliding attention; additive for eager attention; of the
            branches' rows only, with ``attcot_base``, where `pack` was asked for that),
            ``position_ids``, and the vision inputs. The first ``base_length`` tokens are the
            batch as `collate` makes it, so labels, probe rows and probe columns keep their
            positions.
        base_length: T, length of the sequences without branches.
        keep: Positions whose logits are read, long ``(n,)``, sorted. Passing them as
            ``logits_to_keep`` saves computing all other logits.
        readouts: One per item, on the CPU.
        joint: All of them together, on the model's device.
    """

    inputs: dict[str, Any]
    base_length: int
    keep: Tensor
    readouts: tuple[Readout, ...]
    joint: JointReadout

    def log_probs(self, logits: Tensor) -> list[Tensor]:
        """Read the candidates' log-probabilities, differentiably and in fp32.

        Args:
            logits: ``(B, T', V)``, or ``(B, n, V)`` from a forward pass that was given
                ``logits_to_keep=packed.keep``.

        Returns:
            Per item ``(n_k, n_candidates)``: log-probability of each candidate's text with the
            closing tag, from the last token on that all candidates share. Not normalised over
            candidates: use ``log_softmax`` over the last dimension for the probabilities p_k.

        Raises:
            MeasureError: If the logits have another shape or are not finite where they are read.
        """
        length = self.inputs["input_ids"].shape[1]
        kept = logits.shape[1] == len(self.keep)
        if logits.shape[0] != len(self.readouts) or not (kept or logits.shape[1] == length):
            raise MeasureError(
                f"Logits have shape {tuple(logits.shape)}; expected {len(self.readouts)} items "
                f"of {length} positions, or of {len(self.keep)} with logits_to_keep=packed.keep."
            )
        rows = torch.searchsorted(self.keep, self.joint.rows) if kept else self.joint.rows
        results = self.joint.log_probs(logits[self.joint.items, rows])
        self.check_finite(results)
        return results

    def check_finite(self, log_probs: Sequence[Tensor]) -> None:
        """Raise `MeasureError` naming the first item whose values are not finite."""
        finite = torch.stack([values.detach().isfinite().all() for values in log_probs])
        if not bool(finite.all()):
            name = self.readouts[finite.tolist().index(False)].name
            raise MeasureError(
                f"Item {name}: the model's logits are not finite at a forced answer; check its "
                "weights and dtype (fp16 overflows where bf16 does not)."
            )


def pack(
    mllm: Mllm,
    items: Sequence[Encoded],
    candidates: Sequence[CandidateTokens],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] | None = None,
    padding_side: Literal["right", "left"] = "right",
    batch: Mapping[str, Tensor] | None = None,
    apart: bool = False,
) -> Packed:
    """Pack one branch per item and step behind a batch of sequences.

    Args:
        mllm: The model that will run the batch, with SDPA, eager or the attcot attention; its
            layers may mix full and sliding attention.
        items: Encoded prompts with a response that has a rationale.
        candidates: Per item its candidates, from `candidate_tokens`.
        steps: Per item the k to ask after, 0 (no step yet) to K; by default all of them.
        names: Item names for error messages; by default their place in the batch.
        padding_side: Where shorter sequences are padded, ``"right"`` or ``"left"``.
        batch: The items as `collate` has batched them, if that is done already.
        apart: Let the model attend the batch's own tokens as without branches, and the branches
            apart from them, where its own mask is plainly causal: no mask of all tokens by all
            is made or read. For the attcot attention with right padding.

    Raises:
        MeasureError: If an item has no rationale or not the steps asked for, or if the model's
            attention cannot take a block mask.

    Source: reconstruction; early answering as in Lanham et al. (arXiv 2307.13702), one forward
    pass per step replaced by one for all.
    """
    names = [f"number {at}" for at in range(len(items))] if names is None else names
    if not items or not len(items) == len(candidates) == len(names):
        raise MeasureError(
            f"Got {len(items)} items, {len(candidates)} candidate sets and {len(names)} names; "
            "give one candidate set and one name per item, and at least one item."
        )
    asked = _asked(items, steps, names)
    if batch is None:
        batch = collate(mllm, items, padding_side=padding_side)
    base = batch["input_ids"]
    base_positions = positions(mllm, batch)
    n_items, length = base.shape
    plans = [
        [_branch(mllm, item, own, k) for k in ks]
        for item, own, ks in zip(items, candidates, asked, strict=True)
    ]
    width = max(len(tree.tokens) for plan in plans for _, tree in plan)
    extra = width * max(len(plan) for plan in plans)

    ids = np.full((n_items, extra), mllm.tokenizer.pad_token_id)
    ends = np.zeros((n_items, extra), dtype=np.int64)
    sees = np.zeros((n_items, extra, extra), dtype=np.bool_)
    starts = np.zeros(n_items, dtype=np.int64)
    for at, (item, plan) in enumerate(zip(items, plans, strict=True)):
        starts[at] = length - item.layout.n_tokens if padding_side == "left" else 0
        for branch, (end, tree) in enumerate(plan):
            own = slice(branch * width, branch * width + len(tree.tokens))
            ids[at, own] = tree.tokens
            ends[at, own] = starts[at] + end
            sees[at, own, own] = tree.sees
    branches = BranchTokens(
        *(torch.from_numpy(each).to(base.device) for each in (starts, ends, sees))
    )
    # The next text position is one past the largest so far on any axis (M-RoPE after an image).
    axes = base_positions if base_positions.ndim == 3 else base_positions[None]
    following = axes.amax(0).cummax(-1).values + 1
    where = following.gather(1, (branches.ends - 1).clamp(min=0)) + branches.sees.sum(-1) - 1
    where = torch.where(branches.ends > 0, where, 0).expand(*base_positions.shape[:-1], -1)
    readouts = tuple(
        readout(name, ks, [tree for _, tree in plan], length, width)
        for name, ks, plan in zip(names, asked, plans, strict=True)
    )
    inputs: dict[str, Any] = dict(batch)
    for key in TYPE_KEYS:
        if key in batch:
            inputs[key] = torch.nn.functional.pad(batch[key], (0, extra))
    inputs["input_ids"] = torch.cat([base, torch.from_numpy(ids).to(base)], dim=1)
    inputs["position_ids"] = torch.cat([base_positions, where], dim=-1)
    if apart and padding_side == "right" and plainly_causal(mllm, batch):
        inputs["attention_mask"] = rows_mask(branches, length)
        inputs["attcot_base"] = length
    else:
        inputs["attention_mask"] = block_mask(mllm, batch, branches)
    keep = np.unique(np.concatenate([one.rows.flatten() for one in readouts]))
    return Packed(
        inputs,
        length,
        torch.from_numpy(keep).to(base.device),
        readouts,
        join(readouts, base.device),
    )


def forced_answers(
    mllm: Mllm,
    items: Sequence[Encoded],
    candidates: Sequence[CandidateTokens],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] | None = None,
) -> list[Tensor]:
    """Run `pack`'s batch once, without gradient, and read its log-probabilities.

    Returns:
        Per item fp32 ``(n_k, n_candidates)`` on the CPU, as `Packed.log_probs`.
    """
    packed = pack(mllm, items, candidates, steps=steps, names=names)
    with torch.no_grad(), evaluating(mllm.model):
        output = mllm.model(**packed.inputs, logits_to_keep=packed.keep, use_cache=False)
        return [value.cpu() for value in packed.log_probs(output.logits)]


def _branch(
    mllm: Mllm, item: Encoded, candidates: CandidateTokens, k: int
) -> tuple[int, CandidateTree]:
    """How many tokens of the item the branch after step k sees, and what it holds.

    A token that runs across the cut (``.</`` in ``...right.</think>``) is left out; what of it
    belongs to the prefix is written with the cue.
    """
    cut = item.layout.cuts[k]
    if not cut.rest:
        return cut.stop, candidates.tree
    return cut.stop, behind(mllm, candidates, cut.rest).tree


def _asked(
    items: Sequence[Encoded], steps: Sequence[Sequence[int]] | None, names: Sequence[str]
) -> list[tuple[int, ...]]:
    if steps is not None and len(steps) != len(items):
        raise MeasureError(f"Got steps for {len(steps)} of {len(items)} items; give them for each.")
    asked = []
    for at, (item, name) in enumerate(zip(items, names, strict=True)):
        n_steps = len(item.layout.steps)
        if item.layout.think is None or n_steps == 0:
            raise MeasureError(
                f"Item {name}: its response has no rationale steps, so there is nothing to force "
                "an answer after; leave the item out or give it a response with numbered steps "
                "inside <think>."
            )
        ks = tuple(range(n_steps + 1)) if steps is None else tuple(int(k) for k in steps[at])
        if not ks or min(ks) < 0 or max(ks) > n_steps:
            raise MeasureError(
                f"Item {name}: forced answers were asked for after steps {list(ks)}; its "
                f"rationale allows 0 to {n_steps}, and at least one is needed."
            )
        asked.append(ks)
    return asked
