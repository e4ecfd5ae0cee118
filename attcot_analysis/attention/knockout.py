"""Knockout: take from chosen rows what they read from chosen keys, in chosen layers.

`Knockout` cuts the edges; `MeanValue` leaves the attention as it is and makes what it carries
uninformative. Both act on the registered attention, and only inside two context managers::

    with attached(model), intervening(Knockout(rows, keys, layers=range(8, 16))):
        model(**batch)

Positions are those of the padded sequence. The row of token t is position t - 1, whose query
predicts t: to keep tokens a to b - 1 from the image, cut rows a - 1 to b - 2. What other rows read
before stays readable where they stored it: a cut from step k on leaves the earlier steps all they
know of the image. (Taking the picture away at step k and encoding the text again does not; that
is the kind ``"removal"`` of `causal_access`.)
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attcot_analysis.attention.hook import Attend, AttentionCall
from attcot_analysis.errors import MeasureError

__all__ = ["Knockout", "MeanValue"]


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the chosen edges lie in one call.

    Attributes:
        low: First chosen query.
        high: One past the last.
        rows: Which queries from low to high are chosen, ``(B, high - low)``.
        keys: Which keys are chosen, ``(B, Tk)``.
        own: Which key is the first query's own.
    """

    low: int
    high: int
    rows: Tensor
    keys: Tensor
    own: int


class _Edges:
    """Chosen row -> key edges of a batch, found again in every call."""

    def __init__(
        self,
        rows: Tensor,
        keys: Tensor,
        layers: Collection[int] | None = None,
        *,
        generated: bool | None = None,
    ) -> None:
        """Choose edges.

        Args:
            rows: Bool ``(B, T)``, positions of the sequence with its padding.
            keys: Bool ``(B, T)``; an item's chosen rows lose all its chosen keys.
            layers: Where; all layers if ``None``.
            generated: Whether rows after T, those of tokens generated on top of a prompt of
                length T, are chosen too; ``None`` refuses them. Keys after T are never chosen.

        Raises:
            MeasureError: If rows and keys are not boolean and of one shape.
        """
        if rows.dtype != torch.bool or keys.dtype != torch.bool or rows.shape != keys.shape:
            raise MeasureError(
                f"Rows are {rows.dtype} {tuple(rows.shape)} and keys {keys.dtype} "
                f"{tuple(keys.shape)}; give two boolean tensors of shape (batch, tokens)."
            )
        self.rows, self.keys = rows.detach().cpu().clone(), keys.detach().cpu().clone()
        self.layers = None if layers is None else frozenset(layers)
        self.generated = generated
        # Sliding caches drop keys, so in such layers the queries are counted instead.
        self._counted: dict[int, int] = {}
        self._found: dict[tuple[Any, ...], _Place | None] = {}

    def place(self, call: AttentionCall) -> _Place | None:
        """Where the edges lie in a call; ``None`` if it has none of them."""
        layer = call.module.layer_idx
        if self.layers is not None and layer not in self.layers:
            return None
        n_queries, n_keys = call.query.shape[2], call.key.shape[2]
        stop = self._stop(call)
        # The same for all layers of a forward pass, but for those with a sliding window.
        this = (stop, n_queries, n_keys, call.query.device)
        if this not in self._found:
            if len(self._found) > 1:
                self._found.clear()
            self._found[this] = self._find(*this)
        return self._found[this]

    def _find(self, stop: int, n_queries: int, n_keys: int, device: torch.device) -> _Place | None:
        rows = _span(self.rows, stop - n_queries, stop, bool(self.generated))
        keys = _span(self.keys, stop - n_keys, stop, False)
        chosen = rows.any(0).nonzero()
        if not len(chosen) or not bool(keys.any()):
            return None
        low, high = int(chosen[0]), int(chosen[-1]) + 1
        own = n_keys - n_queries + low
        return _Place(low, high, rows[:, low:high].to(device), keys.to(device), own)

    def _stop(self, call: AttentionCall) -> int:
        """The position after the call's last query, in the padded sequence."""
        batch, _, n_queries, _ = call.query.shape
        n_keys, (n_items, length) = call.key.shape[2], self.rows.shape
        if batch != n_items:
            raise MeasureError(
                f"Rows and keys are for {n_items} items, the model runs {batch}; give one row of "
                "each per item, and no beams."
            )
        if n_keys > n_queries and (n_queries >= length or (n_queries > 1 and call.mask is None)):
            raise MeasureError(
                "The cache holds more keys than the sequence has, so rows cannot be found in it; "
                "use a dynamic cache, as generate() does by default."
            )
        stop = n_keys
        if getattr(call.module, "sliding_window", None) is not None:
            layer = call.module.layer_idx
            before = 0 if n_keys == n_queries else self._counted.get(layer, 0)
            stop = self._counted[layer] = before + n_queries
            if stop < n_keys:
                raise MeasureError(
                    f"Layer {layer} has a sliding window and keys from before the intervention; "
                    "set it before the sequence starts."
                )
        if stop > length and self.generated is None:
            raise MeasureError(
                f"Rows are given for {length} positions, the sequence has {stop}; say with "
                "generated=True or False whether later rows are chosen."
            )
        return stop


class Knockout(_Edges):
    """Cuts edges: the chosen rows do not see the chosen keys.

    The weights that a row keeps are renormalised by the softmax; a row that would see nothing
    keeps its own key. Nothing else changes. Costs one mask ``(B, 1, Tq, Tk)`` per forward pass,
    shared by all layers with the same mask; a call none of whose edges is cut is left as it is.

    Source: attention knockout, Geva et al. (arXiv 2304.14767), on images as in arXiv 2410.07149
    and 2411.18620.
    """

    _made: tuple[Tensor | None, _Place, Tensor] | None = None

    def edit(self, call: AttentionCall) -> AttentionCall:
        """Put the cut into the call's mask."""
        place = self.place(call)
        if place is None:
            return call
        made = self._made
        if made is None or made[0] is not call.mask or made[1] is not place:
            self._made = made = (call.mask, place, _cut(_rows_of_mask(call), place))
        return replace(call, mask=made[2])


class MeanValue(_Edges):
    """Replaces values: what the chosen rows read from the chosen keys is the keys' mean.

    The rows keep their attention weights, so the mass stays where it was, but each chosen key
    hands them the mean of all of the item's chosen keys' values (per layer and key head). Only
    the chosen rows change, so they alone are attended a second time. Layers with a sliding window
    take the mean over the keys that they still hold.

    Source: the counterfactual of CFPO (arXiv 2606.23206, Δout = (A ⊙ M)(V̄ - V)), with M the
    chosen edges instead of those above a threshold.
    """

    def revise(self, call: AttentionCall, output: Tensor, attend: Attend) -> Tensor:
        """Attend the chosen rows again, with mean values, and put them into the output."""
        place = self.place(call)
        if place is None:
            return output
        low, high = place.low, place.high
        keys = place.keys[:, None, :, None]
        total = call.value.masked_fill(~keys, 0.0).sum(2, keepdim=True, dtype=torch.float32)
        mean = (total / keys.sum(2, keepdim=True).clamp(min=1)).to(call.value.dtype)
        changed = attend(
            replace(
                call,
                query=call.query[:, :, low:high],
                value=torch.where(keys, mean, call.value),
                mask=_rows_of_mask(call, low, high),
            )
        )
        found = torch.where(place.rows[:, :, None, None], changed, output[:, low:high])
        return torch.cat([output[:, :low], found, output[:, high:]], dim=1)


def _span(chosen: Tensor, start: int, stop: int, fill: bool) -> Tensor:
    """Positions start to stop - 1 of ``(B, T)``, those from T on filled."""
    length = chosen.shape[1]
    inside = chosen[:, min(start, length) : min(stop, length)]
    return F.pad(inside, (0, stop - start - inside.shape[1]), value=fill)


def _rows_of_mask(call: AttentionCall, low: int = 0, high: int | None = None) -> Tensor:
    """The call's mask for queries low to high - 1, made if it has none: ``(., ., rows, Tk)``."""
    n_queries, n_keys = call.query.shape[2], call.key.shape[2]
    if call.mask is not None:
        return call.mask[:, :, low:high, :n_keys]
    last = torch.arange(n_queries, device=call.query.device)[low:high, None] + n_keys - n_queries
    return (torch.arange(n_keys, device=call.query.device) <= last)[None, None]


def _cut(mask: Tensor, place: _Place) -> Tensor:
    """A mask without the chosen edges, ``(B, 1 or H, Tq, Tk)``."""
    mask = mask.expand(len(place.rows), -1, -1, -1).clone()
    part = mask[:, :, place.low : place.high]
    cut = place.rows[:, None, :, None] & place.keys[:, None, None, :]
    plain = mask.dtype == torch.bool
    lowest = False if plain else torch.finfo(mask.dtype).min
    seen = part if plain else part > lowest / 2
    nothing_left = seen.any(-1, keepdim=True) & ~(seen & ~cut).any(-1, keepdim=True)
    own = torch.zeros_like(cut[:1])
    own[0, 0].diagonal(place.own).fill_(True)
    # A softmax over nothing is NaN, which spreads to the gradient of every other row.
    kept = nothing_left & own
    found = part.masked_fill(cut & ~kept, lowest)
    mask[:, :, place.low : place.high] = found.masked_fill(kept & ~seen, True if plain else 0.0)
    return mask
