"""Branches: the forced answers after every step of an item, asked in one forward pass.

The answer cue (and, where candidates share first tokens, the tokens they share) is packed once
per step behind the sequence. A block mask lets each branch see its own prefix only, so one
forward pass reads what a loop of one forward pass per step and candidate would.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, collate, positions
from attcot_analysis.problems.response import ANSWER_CLOSE, ANSWER_CUE, THINK_OPEN


@dataclass(frozen=True)
class CandidateTokens:
    """Candidate answers behind an answer cue, as a token tree.

    Attributes:
        candidates: The candidate strings.
        shared: Tokens that the cue and every candidate have in common; never empty.
        tails: Per candidate, the shortest run of further tokens that tells it from all others.
            Their joint probability is the candidate's probability.

    Raises:
        MeasureError: If fewer than two candidates are given, their numbers differ, ``shared``
            is empty, or one tail equals or begins another.
    """

    candidates: tuple[str, ...]
    shared: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Check that the tails tell the candidates apart."""
        if len(self.candidates) < 2 or len(self.tails) != len(self.candidates):
            raise MeasureError(
                f"Got {len(self.candidates)} candidates and {len(self.tails)} token tails; "
                "give at least two candidates and one tail each."
            )
        if not self.shared:
            raise MeasureError(
                f"Candidates {list(self.candidates)} share no token with each other; put an "
                "answer cue before them."
            )
        for at, tail in enumerate(self.tails):
            for other in range(at):
                if _common(tail, self.tails[other]) == min(len(tail), len(self.tails[other])):
                    raise MeasureError(
                        f"Candidates {self.candidates[other]!r} and {self.candidates[at]!r} "
                        "tokenise ambiguously (one's tokens equal or begin the other's); reword "
                        "one of them."
                    )

    @cached_property
    def tree(self) -> "CandidateTree":
        """The tokens a branch must hold to read every candidate."""
        tokens = list(self.shared)
        parents = list(range(-1, len(self.shared) - 1))
        node_of: dict[tuple[int, ...], int] = {(): len(self.shared) - 1}
        edges: dict[tuple[int, int], int] = {}
        paths = []
        for tail in self.tails:
            path = []
            for depth, token in enumerate(tail):
                node = node_of.get(tail[:depth])
                if node is None:
                    node = node_of[tail[:depth]] = len(tokens)
                    tokens.append(tail[depth - 1])
                    parents.append(node_of[tail[: depth - 1]])
                path.append(edges.setdefault((node, token), len(edges)))
            paths.append(tuple(path))
        return CandidateTree(tuple(tokens), tuple(parents), tuple(edges), tuple(paths))


@dataclass(frozen=True)
class CandidateTree:
    """What one branch holds, and where each candidate is read in it.

    Attributes:
        tokens: Token of each node: the shared tokens, then tokens that several candidates
            share. When all candidates differ in their first token, only the shared ones.
        parents: Node before each node, ``-1`` for the first.
        edges: ``(node, token)`` pairs: the probability of ``token`` is read at ``node``.
        paths: Per candidate the edges whose log-probabilities add up to its own.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    paths: tuple[tuple[int, ...], ...]

    def ancestors(self) -> Tensor:
        """Boolean ``(nodes, nodes)``: which nodes each node sees, itself included."""
        sees = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees

    def depths(self) -> Tensor:
        """Long ``(nodes,)``: how many tokens of the branch come before each node."""
        return self.ancestors().sum(-1) - 1


def candidate_tokens(
    mllm: Mllm, candidates: Sequence[str], cue: str = ANSWER_CUE
) -> CandidateTokens:
    """Tokenise candidate answers behind the cue that asks for them.

    Each candidate is tokenised as it stands in a response (opening of the rationale, cue,
    candidate, closing tag), so tokens that straddle the cue's end are handled.

    Args:
        mllm: The model whose tokenizer is used.
        candidates: At least two answer strings.
        cue: Text that asks for the answer after a rationale prefix.

    Raises:
        MeasureError: If two candidates cannot be told apart by their tokens.
    """
    sequences = [_tokens_after(mllm, THINK_OPEN, f"{cue}{c}{ANSWER_CLOSE}") for c in candidates]
    n_shared = min((_common(sequences[0], s) for s in sequences), default=0)
    tails = []
    for at, sequence in enumerate(sequences):
        rivals = [_common(sequence, s) for other, s in enumerate(sequences) if other != at]
        tails.append(tuple(sequence[n_shared : max(rivals, default=n_shared) + 1]))
    return CandidateTokens(tuple(candidates), tuple(sequences[0][:n_shared]), tuple(tails))


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


@dataclass(frozen=True)
class Packed:
    """A batch with branches behind its sequences.

    Attributes:
        inputs: Model inputs, ready for ``model(**inputs)``: ``input_ids (B, T')``, a 4-D
            boolean ``attention_mask (B, 1, T', T')``, ``position_ids``, and the vision inputs.
            The first ``base_length`` tokens are the batch as :func:`collate` makes it, so
            labels, probe rows and probe columns keep their positions.
        base_length: T, length of the sequences without branches.
        keep: Positions whose logits are read, long ``(n,)``, sorted. Passing them as
            ``logits_to_keep`` saves computing all other logits.
        readouts: One per item.
    """

    inputs: dict[str, Tensor]
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
            read = logits[at, rows].float()
            total = torch.logsumexp(read, dim=-1)
            edges = read[:, readout.edge_rows, readout.edge_tokens] - total[:, readout.edge_rows]
            results.append(edges @ readout.paths.T)
        finite = torch.stack([result.detach().isfinite().all() for result in results])
        if not bool(finite.all()):
            name = self.readouts[finite.tolist().index(False)].name
            raise MeasureError(
                f"Item {name}: the model's logits are not finite at a forced answer; check its "
                "weights and dtype (fp16 overflows where bf16 does not)."
            )
        return results


def pack(
    mllm: Mllm,
    items: Sequence[Encoded],
    candidates: Sequence[CandidateTokens],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] | None = None,
    padding_side: Literal["right", "left"] = "right",
) -> Packed:
    """Pack one branch per item and step behind a batch of sequences.

    Args:
        mllm: The model that will run the batch, with SDPA or the attcot attention.
        items: Encoded prompts with a response that has a rationale.
        candidates: Per item its candidates, from :func:`candidate_tokens`.
        steps: Per item the k to ask after, 0 (no step yet) to K; by default all of them.
        names: Item names for error messages; by default their place in the batch.
        padding_side: Where shorter sequences are padded, ``"right"`` or ``"left"``.

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
    _check_attention(mllm)
    asked = _asked(items, steps, names)
    batch = collate(mllm, items, padding_side=padding_side)
    base = batch["input_ids"]
    valid = batch["attention_mask"].bool()
    base_positions = positions(mllm, batch)
    n_items, length = base.shape
    width = max(len(c.tree.tokens) for c in candidates)
    extra = width * max(len(ks) for ks in asked)
    device = base.device

    ids = base.new_full((n_items, extra), mllm.tokenizer.pad_token_id)
    where = base_positions.new_zeros((*base_positions.shape[:-1], extra))
    mask = torch.zeros((n_items, length + extra, length + extra), dtype=torch.bool, device=device)
    mask[:, :length, :length] = valid[:, None, :]
    mask[:, :length, :length].tril_()
    # The next text position is one past the largest so far on any axis (M-RoPE after an image).
    axes = base_positions if base_positions.ndim == 3 else base_positions[None]
    following = axes.amax(0).cummax(-1).values + 1
    readouts = []
    for at, (item, own, ks, name) in enumerate(zip(items, candidates, asked, names, strict=True)):
        tree = own.tree
        tokens = torch.tensor(tree.tokens, device=device)
        sees, depths = tree.ancestors().to(device), tree.depths().to(device)
        start = length - item.layout.n_tokens if padding_side == "left" else 0
        ends = item.layout.step_ends
        for branch, k in enumerate(ks):
            cut = start + int(ends[k])
            low, high = branch * width, branch * width + len(tree.tokens)
            ids[at, low:high] = tokens
            where[..., at, low:high] = following[at, cut - 1] + depths
            mask[at, length + low : length + high, start:cut] = True
            mask[at, length + low : length + high, length + low : length + high] = sees
        readouts.append(_readout(name, tree, ks, length, width, device))
    # A row that sees nothing gives NaN, which spreads to the gradient of every other row.
    mask.diagonal(dim1=-2, dim2=-1).logical_or_(~mask.any(-1))

    inputs = dict(batch)
    if "mm_token_type_ids" in batch:
        types = batch["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, types.new_zeros((n_items, extra))], dim=1)
    inputs["input_ids"] = torch.cat([base, ids], dim=1)
    inputs["attention_mask"] = mask[:, None]
    inputs["position_ids"] = torch.cat([base_positions, where], dim=-1)
    keep = torch.unique(torch.cat([readout.rows.flatten() for readout in readouts]))
    return Packed(inputs, length, keep, tuple(readouts))


def forced_answers(
    mllm: Mllm,
    items: Sequence[Encoded],
    candidates: Sequence[CandidateTokens],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] | None = None,
) -> list[Tensor]:
    """Run :func:`pack`'s batch once, without gradient, and read its log-probabilities.

    Returns:
        Per item fp32 ``(n_k, n_candidates)`` on the CPU, as :meth:`Packed.log_probs`.
    """
    packed = pack(mllm, items, candidates, steps=steps, names=names)
    with torch.no_grad(), _evaluating(mllm.model):
        output = mllm.model(**packed.inputs, logits_to_keep=packed.keep, use_cache=False)
        return [value.cpu() for value in packed.log_probs(output.logits)]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _readout(
    name: str, tree: CandidateTree, ks: Sequence[int], length: int, width: int, device: Any
) -> Readout:
    nodes = sorted({node for node, _ in tree.edges})
    paths = torch.zeros(len(tree.paths), len(tree.edges))
    for candidate, path in enumerate(tree.paths):
        paths[candidate, list(path)] = 1.0
    starts = length + width * torch.arange(len(ks), device=device)
    return Readout(
        name=name,
        steps=tuple(ks),
        rows=starts[:, None] + torch.tensor(nodes, device=device),
        edge_rows=torch.tensor([nodes.index(node) for node, _ in tree.edges], device=device),
        edge_tokens=torch.tensor([token for _, token in tree.edges], device=device),
        paths=paths.to(device),
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


def _check_attention(mllm: Mllm) -> None:
    config = mllm.text_config
    name = str(getattr(config, "_attn_implementation", ""))
    if "flash" in name or "flex" in name:
        raise MeasureError(
            f"The model runs {name} attention, which takes no block mask; load it with "
            "attn_implementation='sdpa'."
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise MeasureError(
            f"The model has {', '.join(sorted(kinds - {'full_attention'}))} layers; packed "
            "branches are defined for full attention in every layer."
        )


def _tokens_after(mllm: Mllm, before: str, text: str) -> list[int]:
    def tokens(string: str) -> list[int]:
        return list(mllm.tokenizer(string, add_special_tokens=False)["input_ids"])

    head, whole = tokens(before), tokens(before + text)
    # Tokenisers that join the last token of `before` with the text see the text alone instead.
    return whole[len(head) :] if whole[: len(head)] == head else tokens(text)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    n = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        n += 1
    return n
