"""Branches: the forced answers after every step of an item, asked in one forward pass.

The answer cue (and, where candidates share first tokens, the tokens they share) is packed once
per step behind the sequence. A block mask lets each branch see its own prefix only, so one
forward pass reads what a loop of one forward pass per step and candidate would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from attcot_analysis.errors import MeasureError
from attcot_analysis.measure.block_masks import TYPE_KEYS, block_masks, mask_input
from attcot_analysis.measure.candidates import CandidateTokens, CandidateTree, candidate_tokens
from attcot_analysis.models import Encoded, Mllm, collate, evaluating, positions

__all__ = [
    "CandidateTokens",
    "Packed",
    "Readout",
    "candidate_tokens",
    "forced_answers",
    "pack",
]

_CLOSING = ("</think>", "<answer>")


@dataclass(frozen=True)
class Readout:
    """Where one item's candidates are read.

    Attributes:
        name: The item, for error messages.
        steps: The k asked for, ``(n_k,)``.
        rows: Positions in the packed sequence whose logits are needed, long ``(n_k, n_rows)``.
        edge_rows: Which of these rows each edge is read at, long ``(n_edges,)``.
        edge_tokens: Which token each edge reads, long ``(n_edges,)``.
        paths: Float ``(n_candidates, n_edges)``, one where an edge belongs to a candidate.
    """

    name: str
    steps: tuple[int, ...]
    rows: Tensor
    edge_rows: Tensor
    edge_tokens: Tensor
    paths: Tensor

    def to(self, device: torch.device) -> "Readout":
        """The same with its tensors on another device."""
        return Readout(
            self.name,
            self.steps,
            self.rows.to(device),
            self.edge_rows.to(device),
            self.edge_tokens.to(device),
            self.paths.to(device),
        )

    def log_probs(self, logits: Tensor) -> Tensor:
        """Candidates' log-probabilities ``(n_k, n_candidates)`` in fp32, differentiable.

        Args:
            logits: At ``rows``, ``(n_k, n_rows, V)``.
        """
        read = logits.float()
        total = torch.logsumexp(read, dim=-1)
        edges = read[:, self.edge_rows, self.edge_tokens] - total[:, self.edge_rows]
        return edges @ self.paths.T


@dataclass(frozen=True)
class Packed:
    """A batch with branches behind its sequences.

    Attributes:
        inputs: Model inputs, ready for ``model(**inputs)``: ``input_ids (B, T')``, a 4-D
            boolean ``attention_mask (B, 1, T', T')`` (a dictionary of one per kind of layer for
            models that mix full and sliding attention; additive for eager attention),
            ``position_ids``, and the vision inputs. The first ``base_length`` tokens are the
            batch as `collate` makes it, so labels, probe rows and probe columns keep their
            positions.
        base_length: T, length of the sequences without branches.
        keep: Positions whose logits are read, long ``(n,)``, sorted. Passing them as
            ``logits_to_keep`` saves computing all other logits.
        readouts: One per item.
    """

    inputs: dict[str, Any]
    base_length: int
    keep: Tensor
    readouts: tuple[Readout, ...]

    def log_probs(self, logits: Tensor) -> list[Tensor]:
        """Read the candidates' log-probabilities, differentiably and in fp32.

        Args:
            logits: ``(B, T', V)``, or ``(B, n, V)`` from a forward pass that was given
                ``logits_to_keep=packed.keep``.

        Returns:
            Per item ``(n_k, n_candidates)``: joint log-probability of the tokens that tell each
            candidate from the others. Not normalised over candidates: use ``log_softmax`` over
            the last dimension for the probabilities p_k.

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
        results = []
        for at, readout in enumerate(self.readouts):
            rows = torch.searchsorted(self.keep, readout.rows) if kept else readout.rows
            results.append(readout.log_probs(logits[at, rows]))
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
    device = base.device
    plans = [
        [_branch(mllm, item, own, k) for k in ks]
        for item, own, ks in zip(items, candidates, asked, strict=True)
    ]
    width = max(len(tree.tokens) for plan in plans for _, tree in plan)
    extra = width * max(len(plan) for plan in plans)

    ids = base.new_full((n_items, extra), mllm.tokenizer.pad_token_id)
    where = base_positions.new_zeros((*base_positions.shape[:-1], extra))
    masks = block_masks(mllm, batch, extra)
    # The next text position is one past the largest so far on any axis (M-RoPE after an image).
    axes = base_positions if base_positions.ndim == 3 else base_positions[None]
    following = axes.amax(0).cummax(-1).values + 1
    for at, (item, plan) in enumerate(zip(items, plans, strict=True)):
        start = length - item.layout.n_tokens if padding_side == "left" else 0
        for branch, (end, tree) in enumerate(plan):
            low, high = branch * width, branch * width + len(tree.tokens)
            ids[at, low:high] = torch.tensor(tree.tokens, device=device)
            where[..., at, low:high] = following[at, start + end - 1] + tree.depths().to(device)
            prefix, place = range(start, start + end), range(length + low, length + high)
            for mask in masks:
                mask.add_branch(at, prefix, place, tree.ancestors())
    readouts = tuple(
        _readout(name, ks, [tree for _, tree in plan], length, width).to(device)
        for name, ks, plan in zip(names, asked, plans, strict=True)
    )
    inputs: dict[str, Any] = dict(batch)
    for key in TYPE_KEYS:
        if key in batch:
            inputs[key] = torch.nn.functional.pad(batch[key], (0, extra))
    inputs["input_ids"] = torch.cat([base, ids], dim=1)
    inputs["attention_mask"] = mask_input(mllm, masks)
    inputs["position_ids"] = torch.cat([base_positions, where], dim=-1)
    keep = torch.unique(torch.cat([readout.rows.flatten() for readout in readouts]))
    return Packed(inputs, length, keep, readouts)


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

    In ``...right.</think>`` the last step's last token may run into the tag (``.</``). Such a
    token is left out and the part of it that belongs to the step opens the branch.
    """
    end = int(item.layout.step_ends[k])
    after = item.input_ids[end - 1 : end + 8].tolist()
    last, text = mllm.tokenizer.decode(after[:1]), mllm.tokenizer.decode(after)
    tags = [at for at in (text.find(tag) for tag in _CLOSING) if 0 < at < len(last)]
    if k == 0 or not tags:
        return end, candidates.tree
    bridge = mllm.tokenizer(last[: min(tags)], add_special_tokens=False)["input_ids"]
    return end - 1, replace(candidates, shared=(*bridge, *candidates.shared)).tree


def _readout(
    name: str, ks: Sequence[int], trees: Sequence[CandidateTree], length: int, width: int
) -> Readout:
    first = trees[0]
    paths = torch.zeros(len(first.paths), len(first.edges))
    for candidate, path in enumerate(first.paths):
        paths[candidate, list(path)] = 1.0
    nodes = [sorted({node for node, _ in tree.edges}) for tree in trees]
    return Readout(
        name=name,
        steps=tuple(ks),
        rows=length + width * torch.arange(len(ks))[:, None] + torch.tensor(nodes),
        edge_rows=torch.tensor([nodes[0].index(node) for node, _ in first.edges]),
        edge_tokens=torch.tensor([token for _, token in first.edges]),
        paths=paths,
    )


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
