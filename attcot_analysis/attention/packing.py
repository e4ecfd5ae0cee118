"""Branches: the forced answers after every step of an item, asked in one forward pass.

The answer cue (and, where candidates share first tokens, the tokens they share) is packed once
per step behind the sequence. A block mask lets each branch see its own prefix only, so one
forward pass reads what a loop of one forward pass per step and candidate would.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor
from transformers.masking_utils import create_masks_for_generate

from attcot_analysis.attention.candidates import (
    CandidateTokens,
    CandidateTree,
    JointReadout,
    Readout,
    behind,
    candidate_tokens,
    join,
    readout,
)
from attcot_analysis.attention.forked import branch_logits
from attcot_analysis.attention.hook import Intervention, Revision, attached, intervening
from attcot_analysis.attention.kinds import PACKABLE, keeps_state, layer_kinds
from attcot_analysis.errors import MeasureError, not_finite
from attcot_analysis.models import Encoded, Mllm, collate, evaluating, positions

TYPE_KEYS = ("mm_token_type_ids", "token_type_ids")
"""Inputs of a batch, ``(B, T)``, that say which tokens are image tokens."""


@dataclass(frozen=True, eq=False)
class BranchTokens:
    """The tokens packed behind a batch: which prefix each continues and what it may see.

    Attributes:
        starts: Where each sequence starts, long ``(B,)``.
        ends: Where the prefix that a token continues ends, long ``(B, n)``; 0 for padding.
        sees: Which of these tokens each may see at most, itself included, bool ``(B, n, n)``;
            none for padding.
    """

    starts: Tensor
    ends: Tensor
    sees: Tensor

    def rows(self, length: int, window: int | None) -> Tensor:
        """What they may attend, bool ``(B, n, T + n)``, as if each stood behind its prefix.

        Args:
            length: T, length of the batch without them.
            window: How many tokens a query sees, itself included; ``None`` for all before it.
        """
        keys = torch.arange(length, device=self.ends.device)
        prefix = (keys >= self.starts[:, None, None]) & (keys < self.ends[..., None])
        if window is None:
            return torch.cat([prefix, self.sees], dim=-1)
        # Windows count tokens, so a branch token counts where it would stand without packing.
        at = self.ends - 1 + self.sees.sum(-1)
        prefix &= at[..., None] - keys < window
        own = self.sees & (at[..., None] - at[:, None, :] < window)
        return torch.cat([prefix, own], dim=-1)


def block_mask(
    mllm: Mllm, batch: Mapping[str, Tensor], branches: BranchTokens
) -> Tensor | dict[str, Tensor]:
    """The model's own mask on a batch, with branches behind it, as the model takes it.

    Args:
        mllm: The model.
        batch: From `collate`, of length T.
        branches: n tokens per item.

    Returns:
        ``(B, 1, T + n, T + n)``, or one such mask per kind of attention layer by its name.
        Boolean, but additive where the model runs eager attention, which would add a boolean mask
        to its scores without a word.

    Raises:
        MeasureError: If the model's attention cannot take block masks.
    """
    require_packable(mllm)
    valid = batch["attention_mask"].bool()
    n_items, length = valid.shape
    whole = length + branches.ends.shape[1]
    inputs = {}
    for kind, own in _own_masks(mllm, batch).items():
        allowed = valid.new_zeros((n_items, whole, whole))
        if own is None:
            allowed[:, :length, :length] = valid[:, None, :]
            allowed[:, :length, :length].tril_()
        else:
            allowed[:, :length, :length] = own[:, 0]
        allowed[:, length:] = branches.rows(length, _window(mllm, kind))
        _see_something(allowed, 0)
        inputs[kind] = allowed[:, None]
        if mllm.text_config._attn_implementation == "eager":
            lowest = torch.finfo(mllm.dtype).min
            zeros = torch.zeros_like(allowed[:, None], dtype=mllm.dtype)
            inputs[kind] = zeros.masked_fill(~allowed[:, None], lowest)
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs


def rows_mask(branches: BranchTokens, length: int) -> Tensor:
    """What the branches' tokens may attend in layers of full attention, ``(B, 1, n, T + n)``."""
    allowed = branches.rows(length, None)
    _see_something(allowed, length)
    return allowed[:, None]


def plainly_causal(mllm: Mllm, batch: Mapping[str, Tensor]) -> bool:
    """Whether each token of a batch, padding aside, sees all tokens before it in every layer."""
    if mllm.text_config._attn_implementation == "eager":
        return False
    require_packable(mllm)
    # Padding on the right hides nothing that a causal mask shows.
    bare = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    own = _own_masks(mllm, bare)
    windows = [_window(mllm, kind) for kind in own]
    return all(mask is None for mask in own.values()) and windows == [None]


def _see_something(allowed: Tensor, first: int) -> None:
    """Let rows that see nothing see themselves; row 0 is that of key ``first``."""
    # Nothing to see gives NaN, which spreads to the gradient of every other row.
    allowed.diagonal(first, dim1=-2, dim2=-1).logical_or_(~allowed.any(-1))


def _own_masks(mllm: Mllm, batch: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """Per kind of layer the model's boolean ``(B, 1, T, T)``, ``None`` where it is causal."""
    config = copy.copy(mllm.text_config)
    config._attn_implementation = "sdpa"
    owner = next((m for m in mllm.model.modules() if hasattr(m, "create_masks_for_generate")), None)
    create = create_masks_for_generate if owner is None else owner.create_masks_for_generate
    mask = batch["attention_mask"]
    types: dict[str, Any] = {key: batch[key] for key in TYPE_KEYS if key in batch}
    found = create(
        config=config,
        # Read for its size, type and device only.
        inputs_embeds=torch.empty((*mask.shape, 0), dtype=mllm.dtype, device=mask.device),
        attention_mask=mask,
        past_key_values=None,
        position_ids=None,
        **types,
    )
    kinds = getattr(config, "layer_types", None)
    if not isinstance(found, dict):
        return {"full_attention" if kinds is None else kinds[0]: found}
    return {kind: found[kind] for kind in dict.fromkeys(kinds or found)}


def _window(mllm: Mllm, kind: str) -> int | None:
    config = mllm.text_config
    window = getattr(config, "sliding_window", None)
    # Without layer types, a window is that of every layer.
    slides = kind == "sliding_attention" or getattr(config, "layer_types", None) is None
    return int(window) if slides and window is not None else None


def require_forced(mllm: Mllm) -> None:
    """Refuse a model on which no answers can be forced, packed or in turn.

    Raises:
        MeasureError: If its attention takes no block mask and its layers keep no state either.
    """
    if not keeps_state(mllm):
        require_packable(mllm)


def require_packable(mllm: Mllm) -> None:
    """Refuse a model whose attention takes no block mask.

    Raises:
        MeasureError: If it does not.
    """
    config = mllm.text_config
    name = str(getattr(config, "_attn_implementation", ""))
    if "flash" in name or "flex" in name:
        raise MeasureError(
            f"The model runs {name} attention, which takes no block mask; load it with "
            "attn_implementation='sdpa'."
        )
    unlike = {*layer_kinds(mllm)} - PACKABLE
    if unlike:
        raise MeasureError(
            f"The model has {', '.join(sorted(unlike))} layers; packed branches are "
            "defined for full and sliding attention, so take another model for this measurement."
        )


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

    def text_log_probs(self, logits: Tensor, tokenizer: Any) -> list[Tensor]:
        """The same without the closing tag, ``(n_k, n_candidates)``; see `Readout`.

        Args:
            logits: As for `log_probs`.
            tokenizer: The model's.
        """
        found = []
        for at, one in enumerate(self.readouts):
            rows = one.rows.to(logits.device)
            if logits.shape[1] == len(self.keep):
                rows = torch.searchsorted(self.keep, rows)
            found.append(one.to(logits.device).text_log_probs(logits[at, rows], tokenizer))
        self.check_finite(found)
        return found

    def check_finite(self, log_probs: Sequence[Tensor]) -> None:
        """Raise `MeasureError` naming the first item whose values are not finite."""
        check_finite(self.readouts, log_probs)


def check_finite(readouts: Sequence[Readout], log_probs: Sequence[Tensor]) -> None:
    """Raise `MeasureError` naming the first item whose values are not finite."""
    finite = torch.stack([values.detach().isfinite().all() for values in log_probs])
    if not bool(finite.all()):
        name = readouts[finite.tolist().index(False)].name
        raise not_finite(f"Item {name}: the model's logits are not finite at a forced answer")


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
    shared: bool = False,
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
        shared: Leave out what the model's prefixes hold already (see `can_share`): positions in
            the result are then counted from the first token that is left.

    Raises:
        MeasureError: If an item has no rationale or not the steps asked for, or if the model's
            attention cannot take a block mask.

    Source: reconstruction; early answering as in Lanham et al. (arXiv 2307.13702), one forward
    pass per step replaced by one for all.
    """
    names, asked, plans = _planned(mllm, items, candidates, steps, names)
    inputs, length, width = branched_inputs(
        mllm, items, plans, padding_side=padding_side, batch=batch, apart=apart, shared=shared
    )
    readouts = tuple(
        readout(name, ks, [tree for _, tree in plan], length, width)
        for name, ks, plan in zip(names, asked, plans, strict=True)
    )
    keep = np.unique(np.concatenate([one.rows.flatten() for one in readouts]))
    return Packed(
        inputs,
        length,
        torch.from_numpy(keep).to(inputs["input_ids"].device),
        readouts,
        join(readouts, inputs["input_ids"].device),
    )


_Plan = list[tuple[int, CandidateTree]]
"""Of an item, per branch: how many of its tokens it sees, and what it holds."""


def _planned(
    mllm: Mllm,
    items: Sequence[Encoded],
    candidates: Sequence[CandidateTokens],
    steps: Sequence[Sequence[int]] | None,
    names: Sequence[str] | None,
) -> tuple[Sequence[str], list[tuple[int, ...]], list[_Plan]]:
    """Names, the steps asked after, and the branches of each item; see `pack`."""
    names = [f"number {at}" for at in range(len(items))] if names is None else names
    if not items or not len(items) == len(candidates) == len(names):
        raise MeasureError(
            f"Got {len(items)} items, {len(candidates)} candidate sets and {len(names)} names; "
            "give one candidate set and one name per item, and at least one item."
        )
    asked = _asked(items, steps, names)
    moved: dict[_Moved, CandidateTree] = {}
    plans = [
        [_branch(mllm, item, own, k, moved) for k in ks]
        for item, own, ks in zip(items, candidates, asked, strict=True)
    ]
    return names, asked, plans


def branched_inputs(
    mllm: Mllm,
    items: Sequence[Encoded],
    plans: Sequence[Sequence[tuple[int, CandidateTree]]],
    *,
    padding_side: Literal["right", "left"] = "right",
    batch: Mapping[str, Tensor] | None = None,
    apart: bool = False,
    shared: bool = False,
) -> tuple[dict[str, Any], int, int]:
    """Model inputs of a batch with branches behind it; arguments as of `pack`.

    ``plans`` says per item and branch how many of the item's tokens it sees, and what it holds.

    Returns:
        The inputs (see `Packed`), the position T at which the branches begin, and how many
        positions each takes: node n of an item's b-th branch stands at T + b · width + n.
    """
    behind = mllm.prefixes.behind(mllm, items) if shared else None
    if behind is not None:
        batch, base, base_positions = {}, behind.ids, behind.positions
    else:
        if batch is None:
            batch = collate(mllm, items, padding_side=padding_side)
        base, base_positions = batch["input_ids"], positions(mllm, batch)
    n_items, length = base.shape
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
    following = next_positions(base_positions) if behind is None else behind.next_positions
    where = following.gather(1, (branches.ends - 1).clamp(min=0)) + branches.sees.sum(-1) - 1
    where = torch.where(branches.ends > 0, where, 0).expand(*base_positions.shape[:-1], -1)
    packed_ids = torch.from_numpy(ids).to(base)
    if behind is not None:
        return behind.with_branches(packed_ids, where, branches), length, width
    inputs: dict[str, Any] = dict(batch)
    for key in TYPE_KEYS:
        if key in batch:
            inputs[key] = torch.nn.functional.pad(batch[key], (0, extra))
    inputs["input_ids"] = torch.cat([base, packed_ids], dim=1)
    inputs["position_ids"] = torch.cat([base_positions, where], dim=-1)
    if apart and padding_side == "right" and plainly_causal(mllm, batch):
        inputs["attention_mask"] = rows_mask(branches, length)
        inputs["attcot_base"] = length
    else:
        inputs["attention_mask"] = block_mask(mllm, batch, branches)
    return inputs, length, width


def next_positions(places: Tensor) -> Tensor:
    """Position of a token that follows each one, ``(B, T)``, of position ids as `positions` gives.

    It is one past the largest so far on any axis (M-RoPE after an image).
    """
    axes = places if places.ndim == 3 else places[None]
    return axes.amax(0).cummax(-1).values + 1


def can_share(mllm: Mllm, items: Sequence[Encoded]) -> bool:
    """Whether a model holds prefixes that items of this batch can begin with."""
    return mllm.prefixes is not None and mllm.prefixes.shares(mllm, items)


def forced_answers(
    mllm: Mllm,
    items: Sequence[Encoded],
    candidates: Sequence[CandidateTokens],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] | None = None,
    apart: bool = False,
) -> list[Tensor]:
    """Run `pack`'s batch once, without gradient, and read its log-probabilities.

    Arguments as of `pack`; ``apart`` is for long sequences with few branches.

    Returns:
        Per item fp32 ``(n_k, n_candidates)`` on the CPU, as `Packed.log_probs`.
    """
    read = forced_readings(
        mllm, items, candidates, steps=steps, names=names, apart=apart, texts=False
    )
    return [closed for closed, _ in read]


def final_answers(
    mllm: Mllm,
    items: Sequence[Encoded],
    candidates: Sequence[CandidateTokens],
    names: Sequence[str],
) -> list[NDArray[np.float64]]:
    """Per item ``(n_candidates,)`` log-probabilities after the last step, normalised over them."""
    steps = [[item.layout.n_steps] for item in items]
    read = forced_answers(mllm, items, candidates, steps=steps, names=names)
    return [log_softmax(one[-1].double().numpy()) for one in read]


def forced_readings(
    mllm: Mllm,
    items: Sequence[Encoded],
    candidates: Sequence[CandidateTokens],
    *,
    steps: Sequence[Sequence[int]] | None = None,
    names: Sequence[str] | None = None,
    apart: bool = False,
    texts: bool = True,
) -> list[tuple[Tensor, Tensor]]:
    """`forced_answers` and, of the same forward pass, the candidates' texts without closing tag.

    Returns:
        Per item two tensors ``(n_k, n_candidates)`` on the CPU, as `Packed.log_probs` and
        `Packed.text_log_probs`; the first twice without ``texts``.
    """
    if keeps_state(mllm):
        return _forked_readings(mllm, items, candidates, steps, names, texts)
    packed = pack(
        mllm,
        items,
        candidates,
        steps=steps,
        names=names,
        apart=apart,
        shared=can_share(mllm, items),
    )
    ours = attached(mllm.model) if "attcot_base" in packed.inputs else nullcontext()
    with torch.no_grad(), evaluating(mllm.model), ours:
        output = mllm.model(**{"use_cache": False, **packed.inputs}, logits_to_keep=packed.keep)
        closed = packed.log_probs(output.logits)
        open_ = packed.text_log_probs(output.logits, mllm.tokenizer) if texts else closed
    return [(one.cpu(), two.cpu()) for one, two in zip(closed, open_, strict=True)]


def _forked_readings(
    mllm: Mllm,
    items: Sequence[Encoded],
    candidates: Sequence[CandidateTokens],
    steps: Sequence[Sequence[int]] | None,
    names: Sequence[str] | None,
    texts: bool,
) -> list[tuple[Tensor, Tensor]]:
    """`forced_readings` one branch after the other, for models whose layers keep a state."""
    names, asked, plans = _planned(mllm, items, candidates, steps, names)
    found = []
    for name, item, ks, plan in zip(names, items, asked, plans, strict=True):
        one = readout(name, ks, [tree for _, tree in plan], 0, 0)
        read = zip(branch_logits(mllm, item, plan), plan, strict=True)
        logits = torch.stack([own[tree.read_nodes].cpu() for own, (_, tree) in read])
        closed = one.log_probs(logits)
        check_finite([one], [closed])
        found.append((closed, one.text_log_probs(logits, mllm.tokenizer) if texts else closed))
    return found


_Moved = tuple[CandidateTokens, str, bool]
"""Candidates, what stands before their cue, and whether the response begins there."""


def _branch(
    mllm: Mllm,
    item: Encoded,
    candidates: CandidateTokens,
    k: int,
    moved: dict[_Moved, CandidateTree],
) -> tuple[int, CandidateTree]:
    """How many tokens of the item the branch after step k sees, and what it holds.

    A token that runs across the cut (``.</`` in ``...right.</think>``) is left out; what of it
    belongs to the prefix is written with the cue. Steps and items mostly share that rest, so what
    the candidates become behind it is kept in ``moved``.
    """
    cut = item.layout.cuts[k]
    first = cut.stop == item.prompt_length
    if not cut.rest and not first:
        return cut.stop, candidates.tree
    key = (candidates, cut.rest, first)
    if key not in moved:
        moved[key] = behind(mllm, *key[:2], first=first).tree
    return cut.stop, moved[key]


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


class ForcedAnswers:
    """One packed batch, to be read under any number of interventions.

    Attributes:
        packed: The batch; one branch per item.
        start: Tokens before this position are run once. Interventions must leave their rows
            alone. 0 where prompts differ so much in length that a shorter one's response starts
            before a longer one's image ends, and in models with sliding attention.
    """

    def __init__(self, mllm: Mllm, packed: Packed, items: Sequence[Encoded]) -> None:
        """Prepare a batch.

        Args:
            mllm: The model it was packed for.
            packed: From `pack`, right-padded.
            items: The items it was packed from.
        """
        self.packed = packed
        self._mllm = mllm
        self._cache: Any = None
        first = min(item.layout.step_ends[0] for item in items) - 1
        seen = max((int(item.layout.image.max(initial=-1)) for item in items), default=-1)
        whole = isinstance(packed.inputs["attention_mask"], Tensor)
        self.start = first if whole and seen < first else 0

    def read(self, *edits: Intervention | Revision) -> list[NDArray[np.float64]]:
        """Per item the candidates' log-probabilities under the edits, normalised over them.

        Returns:
            Per item ``(n_candidates,)`` in nats, of its last branch.
        """
        model = self._mllm.model
        with torch.no_grad(), evaluating(model), attached(model):
            if self.start and self._cache is None:
                self._cache = model(**self._before(), use_cache=True).past_key_values
            with intervening(*edits):
                logits = model(**self._after()).logits
            if self.start:
                self._cache.crop(self.start - self.packed.inputs["input_ids"].shape[1])
            read = self.packed.log_probs(logits)
        return [log_softmax(one[-1].double().cpu().numpy()) for one in read]

    def _before(self) -> dict[str, Any]:
        inputs, start = self.packed.inputs, self.start
        by_token = ("input_ids", *TYPE_KEYS)
        cut = {k: v[:, :start] if k in by_token else v for k, v in inputs.items()}
        cut["attention_mask"] = inputs["attention_mask"][..., :start, :start]
        cut["position_ids"] = inputs["position_ids"][..., :start]
        return cut | {"logits_to_keep": 1}

    def _after(self) -> dict[str, Any]:
        inputs, start, keep = self.packed.inputs, self.start, self.packed.keep
        if not start:
            return inputs | {"logits_to_keep": keep, "use_cache": False}
        return {
            "input_ids": inputs["input_ids"][:, start:],
            "attention_mask": inputs["attention_mask"][..., start:, :],
            "position_ids": inputs["position_ids"][..., start:],
            "past_key_values": self._cache,
            "use_cache": True,
            "logits_to_keep": keep - start,
        }
