"""Forced answers in turn, on copies of the cache: for models whose layers keep a state.

Layers of linear attention and short convolutions fold all tokens before into one state, which a
branch packed behind the sequence would change for the next one. So the sequence is run once, from
cut to cut; at every cut the cache is copied, and the branch's tokens run on the copy.
"""

import copy
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attcot_analysis.attention.candidates import CandidateTree
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, collate, evaluating, positions

_CONTINUES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Models that were seen to compute from a cache what they compute in one pass."""

_TOLERANCE = {torch.float32: 1e-2, torch.float64: 1e-2}
_HALF_TOLERANCE = 0.5


@torch.no_grad()
def branch_logits(
    mllm: Mllm, item: Encoded, plan: Sequence[tuple[int, CandidateTree]]
) -> list[Tensor]:
    """Logits at every token of the branches behind one item.

    Args:
        mllm: The model.
        item: What the branches continue.
        plan: Per branch how many of the item's tokens it sees, at least the whole prompt, and
            what it holds.

    Returns:
        Per branch ``(nodes, V)``, on the model's device.

    Raises:
        MeasureError: If this version of `transformers` computes something else from a cache of
            this model than in one pass.
    """
    batch = collate(mllm, [item])
    places = positions(mllm, batch)
    axes = places if places.ndim == 3 else places[None]
    following = axes.amax(0).cummax(-1).values[0] + 1
    found: dict[int, Tensor] = {}
    cache: Any = None
    done = 0
    with evaluating(mllm.model):
        for at in sorted(range(len(plan)), key=lambda one: plan[one][0]):
            end, tree = plan[at]
            if end > done:
                inputs = {"input_ids": batch["input_ids"][:, done:end]}
                if cache is None:
                    types = mllm.family.token_types
                    inputs = {**batch, **inputs, "attention_mask": batch["attention_mask"][:, :end]}
                    if types in batch:
                        inputs[types] = batch[types][:, :end]
                cache = mllm.model(
                    **inputs,
                    position_ids=places[..., done:end],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=torch.tensor([end - done - 1], device=mllm.device),
                ).past_key_values
                done = end
            found[at] = _run(mllm, cache, tree, int(following[end - 1]), places.ndim)
        _check_once(mllm, batch, places, plan, found)
    return [found[at] for at in range(len(plan))]


def _run(mllm: Mllm, cache: Any, tree: CandidateTree, first: int, ndim: int) -> Tensor:
    """A branch on a copy of the cache: one row per leaf, which holds its whole path."""
    leaves = sorted(set(range(len(tree.tokens))) - {*tree.parents})
    paths = [tree.sees[leaf].nonzero()[0].tolist() for leaf in leaves]
    longest = max(map(len, paths))
    ids = torch.full((len(paths), longest), int(mllm.tokenizer.pad_token_id), device=mllm.device)
    for row, path in enumerate(paths):
        ids[row, : len(path)] = torch.tensor([tree.tokens[node] for node in path])
    fork = copy.deepcopy(cache)
    if len(paths) > 1:
        fork.reorder_cache(torch.zeros(len(paths), dtype=torch.long, device=mllm.device))
    # Padding on the right comes after all that is read, so that no mask is needed.
    where = (first + torch.arange(longest, device=mllm.device)).expand(len(paths), -1)
    logits = mllm.model(
        input_ids=ids,
        position_ids=where.expand(3, -1, -1) if ndim == 3 else where,
        past_key_values=fork,
        use_cache=True,
    ).logits
    nodes = {node: (row, at) for row, path in enumerate(paths) for at, node in enumerate(path)}
    rows, ats = zip(*(nodes[node] for node in range(len(tree.tokens))), strict=True)
    return logits[list(rows), list(ats)]


def _check_once(
    mllm: Mllm,
    batch: dict[str, Tensor],
    places: Tensor,
    plan: Sequence[tuple[int, CandidateTree]],
    found: dict[int, Tensor],
) -> None:
    """Compare one path of a model's first branches with one plain forward pass.

    Whether a state is continued over several tokens at once depends on the model class and on the
    version of `transformers`; some start from nothing instead, without a word.
    """
    if mllm.model in _CONTINUES:
        return
    at = max(range(len(plan)), key=lambda one: plan[one][0])
    end, tree = plan[at]
    leaf = max(range(len(tree.tokens)), key=lambda node: int(tree.sees[node].sum()))
    path = tree.sees[leaf].nonzero()[0].tolist()
    behind = torch.tensor([[tree.tokens[node] for node in path]], device=mllm.device)
    inputs: dict[str, Any] = dict(batch)
    inputs["input_ids"] = torch.cat([batch["input_ids"][:, :end], behind], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    types = mllm.family.token_types
    if types in batch:
        inputs[types] = torch.nn.functional.pad(batch[types][:, :end], (0, len(path)))
    keep = torch.arange(end, end + len(path), device=mllm.device)
    whole = mllm.model(**inputs, use_cache=False, logits_to_keep=keep).logits[0]
    off = (whole.float().log_softmax(-1) - found[at][path].float().log_softmax(-1)).abs().max()
    if not float(off) <= _TOLERANCE.get(mllm.dtype, _HALF_TOLERANCE):
        raise MeasureError(
            f"{type(mllm.model).__name__} computes other log-probabilities from its cache than in "
            f"one pass (by {float(off):.2g}), so answers cannot be forced step by step; use a "
            "newer version of transformers."
        )
    _CONTINUES[mllm.model] = True
