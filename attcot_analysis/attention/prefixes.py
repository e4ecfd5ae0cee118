"""Prefixes: keys and values of sequences that later passes begin with, computed once.

What a run asks of an item mostly begins with the same tokens: the picture, the question, often the
rationale. `Prefixes` keeps the keys and values of whole sequences for as long as a batch lasts, and
runs what begins like one of them on the tokens that are new. A measurement uses them if its model
holds some (``dataclasses.replace(mllm, prefixes=Prefixes(mllm))``), else every pass is one of its
own.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.cache_utils import Cache, DynamicLayer

from attcot_analysis.attention.kinds import keeps_state
from attcot_analysis.attention.packing import BranchTokens, next_positions, plainly_causal
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, collate, evaluating, positions

Massive = Mapping[int, tuple[Tensor, Tensor]]
"""Of a sequence, per layer: the dimensions ``(n,)`` of its input that reach the sink threshold at
some token, and their values at every token, ``(T, n)``."""

_ROOM = 32
"""Places added to the keys and values of a response whenever they are full."""

_LEAVE = 0.75
"""Ended responses leave the batch when no more than this share of its rows is still written."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """A sequence: its tokens and pictures, and the keys and values of those after the first n.

    Those before are its parent's. Keys and values are ``(Hkv, T - n, D)``, one pair per layer.
    ``massive`` is what `SinkFinder` noted of one that was run whole.
    """

    ids: NDArray[np.int64]
    picture: bytes
    parent: "_Kept | None"
    n: int
    states: tuple[tuple[Tensor, Tensor], ...]
    massive: Massive | None = None

    def copy(self, layer: int, upto: int, keys: Tensor, values: Tensor) -> None:
        """Write the first ``upto`` tokens' keys and values into the places given."""
        if self.parent is not None:
            self.parent.copy(layer, min(upto, self.n), keys, values)
        if upto > self.n:
            own = self.states[layer]
            keys[:, self.n : upto] = own[0][:, : upto - self.n]
            values[:, self.n : upto] = own[1][:, : upto - self.n]


_Found = tuple[_Kept | None, int]


class _Layer(DynamicLayer):
    """One layer's prefixes, padded on the left, and what comes behind them."""

    keys: Any
    values: Any

    def __init__(self, layer: int, kept: Sequence[_Kept], lengths: Sequence[int], keep: str):
        super().__init__()
        self.is_initialized = True
        self.layer, self.kept, self.lengths, self.keep = layer, kept, lengths, keep
        self.before = max(lengths, default=0)
        self.used = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values with the prefixes before them."""
        if self.keep == "new":
            self.keys, self.values = key_states, value_states
        if self.keep != "all":
            if not self.before:
                return key_states, value_states
            keys, values = self._prefixes(key_states, key_states.shape[2])
            keys[:, :, self.before :], values[:, :, self.before :] = key_states, value_states
            return keys, values
        n = key_states.shape[2]
        if self.keys is None:
            self.keys, self.values = self._prefixes(key_states, n + _ROOM)
            self.used = self.before
        elif self.used + n > self.keys.shape[2]:
            pad = (0, 0, 0, n + _ROOM)
            self.keys = torch.nn.functional.pad(self.keys, pad)
            self.values = torch.nn.functional.pad(self.values, pad)
        new = slice(self.used, self.used + n)
        self.keys[:, :, new], self.values[:, :, new] = key_states, value_states
        self.used += n
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def get_seq_length(self) -> int:
        """How many tokens lie before the next ones."""
        return max(self.before, self.used)

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences only."""
        self.keys, self.values = self.keys[rows], self.values[rows]

    def _prefixes(self, like: Tensor, more: int) -> tuple[Tensor, Tensor]:
        batch, heads, _, size = like.shape
        # Zeros, since what no token may see must still be a number.
        keys = like.new_zeros((batch, heads, self.before + more, size))
        values = torch.zeros_like(keys)
        for at, (one, n) in enumerate(zip(self.kept, self.lengths, strict=True)):
            place = slice(self.before - n, self.before)
            one.copy(self.layer, n, keys[at, :, place], values[at, :, place])
        return keys, values


@dataclass(frozen=True, eq=False)
class Behind:
    """What of a batch lies behind kept prefixes, as its sequences would stand right-padded.

    Attributes:
        lengths: How many tokens of each sequence are kept, ``(B,)``.
        ids: The others, ``(B, S)``, padded on the right.
        real: Which of these are no padding, ``(B, S)``.
        positions: Their position ids, ``(B, S)`` or ``(3, B, S)``.
        next_positions: Position of a token behind each token of the sequence, ``(B, T)``.
        mask: What each may attend: ``(B, 1, S, P + S)``, with P the longest prefix.
        cache: The prefixes, as the model takes them.
        found: The kept sequences that these begin with, and for how many tokens.
    """

    lengths: Tensor
    ids: Tensor
    real: Tensor
    positions: Tensor
    next_positions: Tensor
    mask: Tensor
    cache: Any
    found: Sequence[_Found]

    @property
    def noted(self) -> bool:
        """Whether it is noted what is massive in what all of them begin with."""
        return all(kept is not None and kept.massive is not None for kept, _ in self.found)

    @property
    def inputs(self) -> dict[str, Any]:
        """Model inputs: the batch, with the logits of its last row."""
        return {
            "input_ids": self.ids,
            "position_ids": self.positions,
            "attention_mask": self.mask,
            "past_key_values": self.cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }

    def by_key(self, values: Tensor) -> Tensor:
        """What is said of every token of the right-padded sequences, ``(B, T, C)``, of the keys."""
        at = torch.arange(self.mask.shape[-1], device=values.device) - self.shift[:, None]
        there = (at >= 0) & (at < values.shape[1])
        at = at.clamp(0, values.shape[1] - 1)[..., None].expand(-1, -1, values.shape[2])
        return values.gather(1, at) * there[..., None]

    @property
    def shift(self) -> Tensor:
        """Where each sequence begins among the keys, ``(B,)``."""
        return self.lengths.max() - self.lengths

    def with_branches(self, ids: Tensor, places: Tensor, branches: BranchTokens) -> dict[str, Any]:
        """Model inputs: the batch, and branches behind it.

        Args:
            ids: Of the branches' tokens, ``(B, n)``.
            places: Their position ids.
            branches: What they may see, counted in the right-padded sequences.
        """
        before, own = int(self.lengths.max()), self.ids.shape[1]
        shift = self.shift.to(branches.ends.device)
        ends = torch.where(branches.ends > 0, branches.ends + shift[:, None], 0)
        rows = BranchTokens(shift, ends, branches.sees).rows(before + own, None)
        upper = torch.nn.functional.pad(self.mask[:, 0], (0, ids.shape[1]))
        mask = torch.cat([upper, rows], dim=1)
        # A row that sees nothing is NaN; it sees itself.
        mask.diagonal(before, dim1=-2, dim2=-1).logical_or_(~mask.any(-1))
        return {
            "input_ids": torch.cat([self.ids, ids], dim=1),
            "position_ids": torch.cat([self.positions, places], dim=-1),
            "attention_mask": mask[:, None],
            "past_key_values": self.cache,
            "use_cache": True,
        }


class Prefixes:
    """Keys and values of the sequences of a batch, for all that begins like one of them.

    They are let go by `clear`, or one by one on leaving `while_needed`. Sequences are told apart by
    their tokens and the processor's image tensors. Only models whose layers all attend causally to
    everything before can share: not those with windows, recurrent states or image blocks that see
    one another, which run every pass on its own as without.
    """

    def __init__(self, mllm: Mllm) -> None:
        """Start empty, for a model as it was loaded."""
        self._kept: list[_Kept] = []
        self._pictures: Any = WeakTensorKeyDictionary()
        config = mllm.text_config
        # While attention is read, a model that adds masks to its scores does not say so.
        eager = config._attn_implementation == "eager"
        without = eager or keeps_state(mllm) or getattr(config, "num_kv_shared_layers", 0)
        self._shares: bool | None = False if without else None

    @property
    def n_bytes(self) -> int:
        """What the keys and values take."""
        tensors = [state for one in self._kept for pair in one.states for state in pair]
        return sum(one.numel() * one.element_size() for one in tensors)

    def clear(self) -> None:
        """Let everything go."""
        self._kept.clear()

    @contextlib.contextmanager
    def while_needed(self) -> Iterator[None]:
        """Let go on leaving what was kept inside."""
        before = len(self._kept)
        try:
            yield
        finally:
            del self._kept[before:]

    def shares(self, mllm: Mllm, items: Sequence[Encoded]) -> bool:
        """Whether this model can run tokens behind kept ones."""
        if self._shares is None:
            shown = [item for item in items if item.vision]
            one = _bare((shown or items)[0])
            try:
                causal = plainly_causal(mllm, collate(mllm, [one]))
            except MeasureError:
                causal = False
            if not (shown and causal):
                return causal
            self._shares = causal
        return self._shares

    def fill(self, mllm: Mllm, items: Sequence[Encoded], *, whole: bool = False) -> None:
        """Keep sequences: those whose picture is new in one pass, the others in a second one.

        Args:
            mllm: The model, which `shares`.
            items: The sequences; what is kept already is left out.
            whole: Run all of them from their beginning, as a measurement that reads the whole does,
                or behind their prompts, see `openings`.
        """
        missing = [item for item in items if self._longest(item)[1] < len(item.input_ids)]
        # All of a batch or none, so that it does not matter which of them were kept before.
        missing = list(items) if whole and missing else missing
        behind = self.openings(mllm, missing) if whole and missing else None
        if behind is None:
            rest = self._fill_new(mllm, missing, whole)
            # The same question about the same picture twice leaves nothing to run.
            missing = [item for item in rest if self._longest(item)[1] < len(item.input_ids)]
            if missing:
                found = [self._longest(item) for item in missing]
                behind = self._behind(mllm, missing, found, keep="new")
        if behind is not None:
            with torch.no_grad(), evaluating(mllm.model):
                mllm.model(**behind.inputs)
            self.take_behind(missing, behind)

    def _fill_new(self, mllm: Mllm, items: Sequence[Encoded], whole: bool) -> list[Encoded]:
        """Keep those whose picture is new; the others."""
        new, rest = [], []
        pictures = set()
        for item in items:
            picture, (kept, _) = self._picture(item), self._longest(item)
            if whole or (kept is None and (not picture or picture not in pictures)):
                new.append(item)
                pictures.add(picture)
            else:
                rest.append(item)
        if new:
            batch, cache = self.opened(mllm, collate(mllm, new))
            with torch.no_grad(), evaluating(mllm.model):
                mllm.model(**batch, logits_to_keep=1)
            self.take(new, cache)
        return rest

    def openings(self, mllm: Mllm, items: Sequence[Encoded]) -> Behind | None:
        """Responses behind their prompts' last token, where sequences were run whole that begin so.

        Returns:
            The batch for `take_behind`; ``None`` where one of the items has no such prompt.
        """
        found = []
        for item in items:
            n, ids, picture = item.prompt_length - 1, item.input_ids.numpy(), self._picture(item)
            alike = (
                one
                for one in self._kept
                if one.parent is None and one.picture == picture and len(one.ids) > n
                if (one.ids[:n] == ids[:n]).all()
            )
            kept = next(alike, None)
            if kept is None or int(item.layout.image.max(initial=-1)) >= n:
                return None
            found.append((kept, n))
        return self._behind(mllm, items, found, keep="new")

    def opened(self, mllm: Mllm, batch: Mapping[str, Tensor]) -> tuple[dict[str, Any], Any]:
        """A right-padded batch of `collate` as inputs of a pass that `take` keeps; its cache."""
        cache = Cache(layers=[_Layer(at, (), (), "new") for at in range(mllm.n_layers)])
        # Padding on the right hides nothing that a causal mask shows, and no mask is faster.
        own = {
            "position_ids": positions(mllm, batch),
            "attention_mask": torch.ones_like(batch["attention_mask"]),
        }
        return {**batch, **own, "past_key_values": cache, "use_cache": True}, cache

    def take(
        self, items: Sequence[Encoded], cache: Any, massive: Sequence[Massive] | None = None
    ) -> None:
        """Keep what a pass of `opened` has left in its cache, and what was noted of each item."""
        self._take(items, [(None, 0)] * len(items), cache, massive)

    def take_behind(self, items: Sequence[Encoded], behind: Behind) -> None:
        """Keep what a pass of `openings` has left in its cache."""
        self._take(items, behind.found, behind.cache)

    def behind(
        self, mllm: Mllm, items: Sequence[Encoded], *, at_least: int = 0, keep: bool = False
    ) -> Behind:
        """What of a batch lies behind what is kept; what begins like nothing kept is filled first.

        Args:
            mllm: The model.
            items: The sequences.
            at_least: How many of each one's last tokens are run in any case.
            keep: Keep all keys and values in the cache, for tokens behind them.
        """
        if any(self._longest(item)[0] is None for item in items):
            self.fill(mllm, items)
        found = [
            (kept, min(n, len(item.input_ids) - at_least))
            for item in items
            for kept, n in [self._longest(item)]
        ]
        return self._behind(mllm, items, found, keep="all" if keep else "none")

    def write(
        self,
        mllm: Mllm,
        prompts: Sequence[Encoded],
        *,
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        banned: Sequence[int],
        watch: Callable[[Any, Tensor], object],
    ) -> list[list[int]]:
        """Write responses token by token, as `attcot_analysis.models.generate.generate` does.

        Draws are those of `transformers` for the same batch and seed, whatever else is written
        beside it. Prompts are kept, and sequences that have ended leave the batch.

        Args:
            mllm: The model, which `shares`.
            prompts: What is continued.
            max_new_tokens: Length limit.
            temperature: 0 for greedy.
            seeds: The prompts are continued once with each.
            banned: Tokens that are never written.
            watch: Called with every step's logits.

        Returns:
            Per seed and prompt the tokens written, up to the length limit, the time limit or the
            first that ends a response, that one included.
        """
        self.fill(mllm, prompts)
        device, n_prompts = mllm.device, len(prompts)
        draws = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        prompts = [*prompts] * len(seeds)
        n = len(prompts)
        behind = self.behind(mllm, prompts, at_least=1, keep=True)
        ends = torch.tensor([len(one.input_ids) for one in prompts], device=device)
        following = behind.next_positions.gather(1, ends[:, None] - 1)
        ids, places, cache = behind.ids, behind.positions, behind.cache
        seen = torch.nn.functional.pad(behind.mask[:, 0, 0], (0, max_new_tokens), value=True)
        stop = torch.tensor(mllm.stop_ids, device=device)
        rows = torch.arange(n, device=device)
        going = torch.ones(n, dtype=torch.bool, device=device)
        written: list[list[int]] = [[] for _ in prompts]
        until = time.monotonic() + mllm.max_seconds
        for step in range(max_new_tokens):
            width = seen.shape[1] - max_new_tokens + step
            logits = mllm.model(
                input_ids=ids,
                position_ids=places,
                attention_mask=seen[:, None, None, :width],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
            scores = logits[:, -1].to(copy=True, dtype=torch.float32)
            scores[:, list(banned)] = float("-inf")
            watch(None, scores[going])
            if temperature:
                # A draw takes random numbers for all prompts, as if none had left the batch.
                shares = scores.new_ones((n, scores.shape[1]))
                shares[rows] = (scores / temperature).softmax(-1).nan_to_num()
                parts = zip(shares.split(n_prompts), draws, strict=True)
                drawn = [torch.multinomial(part, 1, generator=draw) for part, draw in parts]
                chosen = torch.cat(drawn)[rows, 0]
            else:
                chosen = scores.argmax(-1)
            for row, token, goes in zip(*(t.tolist() for t in (rows, chosen, going)), strict=True):
                if goes:
                    written[row].append(token)
            going = going & ~torch.isin(chosen, stop)
            left = int(going.sum())
            if not left or time.monotonic() > until:
                break
            ids = chosen[:, None]
            if left <= _LEAVE * len(rows):
                for layer in cache.layers:
                    layer.select(going)
                rows, ids, seen, following = (t[going] for t in (rows, ids, seen, following))
                places, going = places[..., going, :], going[going]
            places = following.expand_as(places)
            following = following + 1
        return written

    def _behind(
        self,
        mllm: Mllm,
        items: Sequence[Encoded],
        found: Sequence[_Found],
        keep: str,
    ) -> Behind:
        lengths = [n for _, n in found]
        whole = collate(mllm, [_bare(item) for item in items])
        places = positions(mllm, whole)
        device = mllm.device
        n_kept = torch.tensor(lengths, device=device)
        n_all = whole["attention_mask"].sum(-1)
        width, before = int((n_all - n_kept).max()), max(lengths)
        at = n_kept[:, None] + torch.arange(width, device=device)
        real = at < n_all[:, None]
        at = at.clamp(max=whole["input_ids"].shape[1] - 1)
        ids = whole["input_ids"].gather(1, at).masked_fill(~real, mllm.tokenizer.pad_token_id)
        keys = torch.arange(before + width, device=device)
        seen = keys >= before - n_kept[:, None, None]
        mask = seen & (keys <= before + torch.arange(width, device=device)[:, None])
        kept = [one for one, _ in found if one is not None]
        layers: list[Any] = [_Layer(n, kept, lengths, keep) for n in range(mllm.n_layers)]
        return Behind(
            lengths=n_kept,
            ids=ids,
            real=real,
            positions=places.gather(-1, at.expand(*places.shape[:-1], -1)),
            next_positions=next_positions(places),
            mask=mask[:, None],
            cache=Cache(layers=layers),
            found=found,
        )

    def _take(
        self,
        items: Sequence[Encoded],
        found: Sequence[_Found],
        cache: Any,
        massive: Sequence[Massive] | None = None,
    ) -> None:
        for at, (item, (parent, n)) in enumerate(zip(items, found, strict=True)):
            ids = item.input_ids.numpy()
            if self._longest(item)[1] == len(ids):
                continue
            own = len(ids) - n
            states = tuple(
                (layer.keys[at, :, :own], layer.values[at, :, :own]) for layer in cache.layers
            )
            noted = None if massive is None else massive[at]
            self._kept.append(_Kept(ids, self._picture(item), parent, n, states, noted))

    def _longest(self, item: Encoded) -> tuple[_Kept | None, int]:
        """What begins most like an item, and for how many tokens; all image tokens among them."""
        ids, picture = item.input_ids.numpy(), self._picture(item)
        needed = max(int(item.layout.image.max(initial=-1)) + 1, 1)
        best: tuple[_Kept | None, int] = (None, 0)
        for one in self._kept:
            # What differs at the last token that must be the same, or is none longer, is passed by.
            at = max(needed, best[1])
            if one.picture != picture or len(one.ids) < at or one.ids[at - 1] != ids[at - 1]:
                continue
            length = min(len(ids), len(one.ids))
            same = ids[:length] == one.ids[:length]
            n = length if same.all() else int(same.argmin())
            if n >= needed and n > best[1]:
                best = (one, n)
                if n == len(ids):
                    break
        return best

    def _picture(self, item: Encoded) -> bytes:
        """What tells an item's image tensors from others'; empty without."""
        found = b""
        for name in sorted(item.vision):
            tensor = item.vision[name]
            if tensor not in self._pictures:
                data = tensor.contiguous().numpy().tobytes()
                self._pictures[tensor] = hashlib.blake2b(data, digest_size=16).digest()
            found += f"{name}{tuple(tensor.shape)}".encode() + self._pictures[tensor]
        return found


@contextlib.contextmanager
def while_needed(mllm: Mllm) -> Iterator[None]:
    """Let go on leaving what a model's prefixes and cache have come to keep inside."""
    with contextlib.ExitStack() as stack:
        for one in (mllm.prefixes, mllm.cache):
            if one is not None:
                stack.enter_context(one.while_needed())
        yield


def _bare(item: Encoded) -> Encoded:
    """An item without its pixels: what positions are computed from."""
    small = {name: one for name, one in item.vision.items() if not one.is_floating_point()}
    return replace(item, vision=small)
