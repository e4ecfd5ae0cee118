"""Continuations: any text forced after every step, token by token, in one forward pass."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attcot_analysis.attention.candidates import CandidateTree, _common, _tokens_inside
from attcot_analysis.attention.forked import branch_logits
from attcot_analysis.attention.kinds import keeps_state
from attcot_analysis.attention.packing import branched_inputs, can_share
from attcot_analysis.errors import MeasureError, not_finite
from attcot_analysis.models import Encoded, Mllm, evaluating, token_starts

_FOLLOWING = string.ascii_letters + string.digits + string.punctuation + " \n"
"""What is tried behind a cue, to see which of its last tokens may join what follows."""


@dataclass(frozen=True)
class Continuation:
    """An answer cue and a text behind it, as the tokens of the whole.

    Attributes:
        shared: The tokens of the cue that nothing behind it joins; never empty.
        tail: All further tokens, those of the closing tag included. Tokenizers join cue and text
            (``<answer>No`` is ``<``, ``answer``, ``>No``), so it may begin with a part of the cue.
        text: Which of the tail overlap the text without white space at its ends: from, to.
    """

    shared: tuple[int, ...]
    tail: tuple[int, ...]
    text: tuple[int, int]


class AnswerCue:
    """The cue of a model's format, behind which any text can be forced.

    Attributes:
        mllm: The model, whose format says cue and closing text.
    """

    def __init__(self, mllm: Mllm) -> None:
        """Take the model; tokens are made when they are asked for."""
        self.mllm = mllm
        self._stable: dict[tuple[str, bool], tuple[tuple[int, ...], str]] = {}

    def stable(self, before: str = "", *, first: bool = False) -> tuple[int, ...]:
        """The cue's first tokens, up to where one may join what follows.

        Args:
            before: What stands before the cue and may join it; see `Cut.rest`.
            first: Whether the response begins with the cue; SentencePiece puts a space there.

        Raises:
            MeasureError: If there is none.
        """
        return self._split(before, first)[0]

    def behind(self, text: str, before: str = "", *, first: bool = False) -> Continuation:
        """Tokenise a text behind the cue, as it would stand in a response.

        Args:
            text: What is forced.
            before: As `stable`.
            first: As `stable`.

        Raises:
            MeasureError: If the text is empty, or the tokenizer does not write it as it is.
        """
        form = self.mllm.format
        if not text.strip():
            raise MeasureError("An empty text cannot be forced; give one with something in it.")
        ids = self._tokens(f"{before}{form.cue}{text}{form.close}", first)
        n_shared = _common(self.stable(before, first=first), ids)
        written, starts = token_starts(self.mllm.tokenizer, ids)
        # Tokens that share a character start with it and all end behind it.
        later = np.searchsorted(starts, starts, side="right")
        stops = np.append(starts, len(written))[later]
        # Counted from the end: SentencePiece may leave out a space at the beginning.
        begin = len(written) - len(form.close) - len(text.lstrip())
        end = begin + len(text.strip())
        own = [at for at in range(len(ids)) if stops[at] > begin and starts[at] < end]
        if not n_shared or not own or own[0] < n_shared:
            raise MeasureError(
                f"The tokenizer does not write {text[:40]!r} behind the cue {form.cue!r} as it "
                "stands, so it cannot be forced; leave the item out or use another format."
            )
        place = own[0] - n_shared, own[-1] + 1 - n_shared
        return Continuation(tuple(ids[:n_shared]), tuple(ids[n_shared:]), place)

    def said(
        self, ids: Sequence[int], before: str = "", *, first: bool = False
    ) -> tuple[str, bool]:
        """The answer in what was written behind the cue's stable tokens.

        It ends at the closing text. Where a model closes what it takes for its rationale and
        answers again, as it may where there is no rationale yet, the first answer ends there. In
        formats without tags around the answer it ends with its line at the latest.

        Returns:
            The answer, empty if the cue was not written to its end; and whether it came to an end.
        """
        form = self.mllm.format
        shared, rest = self._split(before, first)
        written = self.mllm.decode([*shared, *ids])[len(self.mllm.decode(shared)) :]
        if not written.startswith(rest):
            return "", False
        text = written.removeprefix(rest)
        ends = [_end(text, form.close), _end(text, form.cue)]
        if form.answer is None:
            ends.append(text.find("\n", len(text) - len(text.lstrip())))
        there = [at for at in ends if at >= 0]
        return text[: min(there, default=len(text))], bool(there)

    def _split(self, before: str, first: bool) -> tuple[tuple[int, ...], str]:
        """The cue's stable tokens, and the text of the others."""
        if (before, first) not in self._stable:
            cue = f"{before}{self.mllm.format.cue}"
            alone = self._tokens(cue, first)
            n = len(alone)
            for one in _FOLLOWING:
                n = min(n, _common(alone, self._tokens(f"{cue}{one}", first)))
            if not n:
                raise MeasureError(
                    f"The tokenizer joins the whole cue {cue!r} with what follows, so there is no "
                    "place to force an answer at; use a format with a longer cue."
                )
            written = self.mllm.decode(alone)[len(self.mllm.decode(alone[:n])) :]
            self._stable[before, first] = tuple(alone[:n]), written
        return self._stable[before, first]

    def _tokens(self, text: str, first: bool) -> list[int]:
        return _tokens_inside(self.mllm, text, first)


def _end(text: str, close: str) -> int:
    """Where a closing text stands: a brace that nothing opened, a sign that ends a word; or -1."""
    if close == "}":
        depth = 0
        for at, char in enumerate(text):
            depth += {"{": 1, "}": -1}.get(char, 0)
            if depth < 0:
                return at
        return -1
    # The point of 3.5 ends no answer.
    behind = r"(?=\s|\Z)" if not any(char.isalnum() for char in close) else ""
    found = re.search(re.escape(close) + behind, text)
    return -1 if found is None else found.start()


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model says of each token of one continuation's tail.

    Attributes:
        log_p: Log-probability of the token, in nats, ``(n,)``.
        entropy: Entropy of the distribution that it is drawn from, over the whole vocabulary, in
            nats, ``(n,)``.
        greedy: Whether it is the most probable token there, ``(n,)``.
    """

    log_p: np.ndarray
    entropy: np.ndarray
    greedy: np.ndarray


def read_continuations(
    mllm: Mllm,
    items: Sequence[Encoded],
    asked: Sequence[Sequence[tuple[int, Continuation]]],
    *,
    names: Sequence[str] | None = None,
) -> list[list[Reading]]:
    """Teacher-force continuations behind steps of a batch, all in one forward pass.

    Args:
        mllm: The model.
        items: Encoded prompts with a response that has a rationale.
        asked: Per item the steps k, from 0, each with what is forced after it; at least one.
        names: Item names for error messages; by default their place in the batch.

    Returns:
        Per item and step asked a `Reading`, computed in fp32.

    Raises:
        MeasureError: If the model's attention cannot take a block mask, or logits are not finite.

    Source: early answering as in Lanham et al. (arXiv 2307.13702), one forward pass per step
    replaced by one for all.
    """
    names = [str(at) for at in range(len(items))] if names is None else names
    plans = [
        [(item.layout.cuts[k].stop, _chain(one)) for k, one in own]
        for item, own in zip(items, asked, strict=True)
    ]
    if keeps_state(mllm):
        return [
            [
                _reading(logits[len(one.shared) - 1 :], one.tail, name)
                for logits, (_, one) in zip(branch_logits(mllm, item, plan), own, strict=True)
            ]
            for name, item, plan, own in zip(names, items, plans, asked, strict=True)
        ]
    inputs, length, width = branched_inputs(mllm, items, plans, shared=can_share(mllm, items))
    rows = [
        length + width * at + len(one.shared) - 1 + np.arange(len(one.tail))
        for own in asked
        for at, (_, one) in enumerate(own)
    ]
    keep = np.unique(np.concatenate(rows))
    device = inputs["input_ids"].device
    kept = torch.from_numpy(keep).to(device)
    with torch.no_grad(), evaluating(mllm.model):
        logits = mllm.model(**{"use_cache": False, **inputs}, logits_to_keep=kept).logits
    found: list[list[Reading]] = []
    every = iter(rows)
    for place, (name, own) in enumerate(zip(names, asked, strict=True)):
        found.append([])
        for _, one in own:
            at = torch.from_numpy(np.searchsorted(keep, next(every))).to(device)
            found[-1].append(_reading(logits[place, at], one.tail, name))
    return found


def _chain(one: Continuation) -> CandidateTree:
    """A branch that holds all but the last token, which is read and need not be there."""
    tokens = (*one.shared, *one.tail[:-1])
    return CandidateTree(tokens, tuple(range(-1, len(tokens) - 1)), (), ())


def _reading(logits: Tensor, tail: Sequence[int], name: str) -> Reading:
    log_p = logits.float().log_softmax(-1)
    if not bool(log_p.isfinite().any(-1).all()):
        raise not_finite(f"Item {name}: the model's logits are not finite at a forced answer")
    targets = torch.tensor(tail, device=logits.device)
    return Reading(
        log_p=log_p.gather(-1, targets[:, None])[:, 0].double().cpu().numpy(),
        entropy=torch.special.entr(log_p.exp()).sum(-1).double().cpu().numpy(),
        greedy=(log_p.argmax(-1) == targets).cpu().numpy(),
    )
