"""Runs on two pictures, and activations of the one put in the place of the other's."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from attcot_analysis.attention.flow import frozen
from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.packing import Packed, candidate_tokens, pack
from attcot_analysis.attention.taps import Place, Tap, resumed, tapped
from attcot_analysis.measures._items import Items
from attcot_analysis.measures.causal import Window
from attcot_analysis.measures.probed import probed
from attcot_analysis.models import Encoded, encode_problem, evaluating
from attcot_analysis.models.load import TextStack
from attcot_analysis.problems.edits import EditedImage

Site = Literal["residual", "attention", "mlp", "head"]

Group = Literal["evidence", "image_rest", "question", "rationale", "answer", "image", "all"]

Method = Literal["exact", "attribution"]

Source = Literal["edit", "control"]

PARTS: tuple[Group, ...] = ("evidence", "image_rest", "question", "rationale", "answer")
"""The groups that a sequence falls into; ``"image"`` is the first two, ``"all"`` all of them."""

_PLACES: Mapping[Site, Place] = {
    "residual": "residual",
    "attention": "attention",
    "mlp": "mlp",
    "head": "attention",
}


class Patch(NamedTuple):
    """What is replaced; ``head`` is -1 for all of them."""

    site: Site
    window: Window
    head: int
    group: Group

    def acts(self, layer: int) -> bool:
        """Whether it replaces anything in a layer."""
        return self.window[0] <= layer <= self.window[1]


AT_ONCE = 8
"""Layers whose activations are held at a time."""

_Found = list[npt.NDArray[np.float64]]


@dataclass(eq=False)
class _Run:
    """A run that is taken some layers at a time.

    Attributes:
        packed: Its inputs.
        rows: Where what it passes on is kept; ``None`` for everywhere.
        log_odds: What it answers, per item ``(n_k,)``.
        passed: What it passes on in the layers at hand.
        first: The first of these.
        state: What the layer before that passes on, everywhere.
        features: Of its pictures.
    """

    packed: Packed
    rows: Tensor | None
    log_odds: _Found = field(default_factory=list)
    passed: dict[tuple[Place, int], Tensor] = field(default_factory=dict)
    first: int = 0
    state: Tensor | None = None
    features: dict[str, Any] = field(default_factory=dict)


class PatchedBatch:
    """Items patched together."""

    def __init__(
        self,
        items: Items,
        stack: TextStack,
        sources: Mapping[int, Mapping[Source, EditedImage]],
        groups: Sequence[Group],
        max_steps: int | None,
    ) -> None:
        """Encode and pack what the runs share.

        Args:
            items: All items.
            stack: The model's text stack.
            sources: By place of the item, what is patched from.
            groups: Whose positions to find.
            max_steps: As `patching`.
        """
        self.mllm, self.stack, self.groups = items.mllm, stack, list(groups)
        own = {at: items.encode(at) for at in sources}
        encoded: dict[Source, dict[int, Encoded]] = {
            kind: {
                at: encode_problem(
                    items.mllm,
                    items.problems[at],
                    response=items.responses[at],
                    image=one[kind].shown(items.problems[at]),
                )
                for at, one in sources.items()
                if kind in one
            }
            for kind in get_args(Source)
        }
        self.places = [at for at in sources if _same(own[at], encoded["edit"][at])]
        self.unequal = [at for at in sources if at not in self.places]
        self.problems = [items.problems[at] for at in self.places]
        if not self.places:
            return
        edits = [sources[at]["edit"] for at in self.places]
        self.pairs = [
            (one.candidates.index(one.answer), one.candidates.index(str(edit.expected)))
            for one, edit in zip(self.problems, edits, strict=True)
        ]
        self.own = [own[at] for at in self.places]
        self.tokens = [candidate_tokens(self.mllm, one.candidates) for one in self.problems]
        self.steps = [probed(one, max_steps) for one in self.own]
        self.packed = self._pack(self.own)
        # Items without a control run on their own picture there, and get no rows.
        self.donors: dict[Source, list[Encoded]] = {}
        self.there: dict[Source, list[bool]] = {}
        for kind, found in encoded.items():
            usable = [at in found and _same(own[at], found[at]) for at in self.places]
            if any(usable):
                self.there[kind] = usable
                self.donors[kind] = [
                    found[at] if ok else own[at] for at, ok in zip(self.places, usable, strict=True)
                ]
        self.masks = {
            kind: self._masks([sources[at].get(kind) for at in self.places]) for kind in self.donors
        }
        every = torch.stack([mask for one in self.masks.values() for mask in one.values()])
        self.rows = every.any(0).any(0).nonzero()[:, 0].to(self.mllm.device)

    def measure(self, patches: Sequence[Patch], methods: Sequence[Method]) -> list[pd.DataFrame]:
        """Table rows of all patches, which are given by first layer."""
        self.own_run = _Run(self.packed, None)
        runs = {
            source: _Run(self._pack(donors), self.rows) for source, donors in self.donors.items()
        }
        # Gradients need all layers at once, whatever is held of them.
        at_once = self.mllm.n_layers if "attribution" in methods else AT_ONCE
        frames: dict[tuple[Source, Method], list[pd.DataFrame]] = {
            (source, method): [] for source in runs for method in get_args(Method)
        }
        parts = [list(some) for _, some in groupby(patches, lambda one: one.window[0] // at_once)]
        for some, following in zip_longest(parts, parts[1:]):
            onward = following[0].window[0] if following else None
            firsts: set[tuple[Place, int]] = {
                ("residual", one.window[0] - 1) for one in some if one.window[0]
            }
            needed = {
                (_PLACES[one.site], layer)
                for one in some
                for layer in range(one.window[0], one.window[1] + 1)
            }
            self._advance(self.own_run, firsts, onward)
            for source, run in runs.items():
                self._advance(run, needed, onward)
                if "exact" in methods:
                    for patch in some:
                        after = self._patched(patch, source, run)
                        got = [a - b for a, b in zip(after, self.own_run.log_odds, strict=True)]
                        frames[source, "exact"].append(self._rows("exact", source, run, patch, got))
                if "attribution" in methods:
                    for patch, got in self._attributed(some, needed, source, run):
                        frame = self._rows("attribution", source, run, patch, got)
                        frames[source, "attribution"].append(frame)
        return [frame for own in frames.values() for frame in own]

    def _pack(self, encoded: Sequence[Encoded]) -> Packed:
        return pack(
            self.mllm,
            encoded,
            self.tokens,
            steps=self.steps,
            names=[one.id for one in self.problems],
        )

    def _masks(self, edits: Sequence[EditedImage | None]) -> dict[Group, Tensor]:
        """Per group the positions of each item, bool ``(B, T')``."""
        shape = self.packed.inputs["input_ids"].shape
        found = {group: torch.zeros(shape, dtype=torch.bool) for group in (*PARTS, "image", "all")}
        for at, (encoded, problem, edit) in enumerate(
            zip(self.own, self.problems, edits, strict=True)
        ):
            layout = encoded.layout
            boxes = {number: problem.boxes_in(number) for number in problem.numbers}
            if edit is not None and edit.boxes:
                boxes = {edit.picture: edit.boxes}
            grids = enumerate(layout.grids, start=1)
            on = np.concatenate([grid.coverage(boxes.get(n, ())) for n, grid in grids]) > 0
            found["evidence"][at, layout.image[on]] = True
            found["image_rest"][at, layout.image[~on]] = True
            found["question"][at, layout.question] = True
            found["rationale"][at, encoded.prompt_length : layout.cuts[-1].stop] = True
            found["answer"][at, self.packed.base_length :] = True
        found["image"] = found["evidence"] | found["image_rest"]
        found["all"] = torch.stack([found[group] for group in PARTS]).any(0)
        return {group: found[group].to(self.mllm.device) for group in self.groups}

    def _advance(
        self, run: _Run, needed: Collection[tuple[Place, int]], onward: int | None
    ) -> None:
        """Take a run on from its first layer, keeping what is needed, and to where it goes on."""
        run.passed, states = {}, list[Tensor]()

        def keep(place: Place, layer: int, value: Tensor) -> Tensor:
            if (place, layer) in needed:
                run.passed[place, layer] = value if run.rows is None else value[:, run.rows]
            if onward and place == "residual" and layer == onward - 1:
                states.append(value)
            return value

        places: set[Place] = {place for place, _ in needed}
        if onward:
            places.add("residual")
        with torch.no_grad():
            found = self._forward(run, keep, places, run.first, run.state)
        run.log_odds = run.log_odds or [one.double().cpu().numpy() for one in found]
        if onward:
            run.first, run.state = onward, states[-1]

    def _forward(
        self,
        run: _Run,
        tap: Tap,
        places: Collection[Place],
        first: int,
        state: Tensor | None,
    ) -> list[Tensor]:
        """Log-odds ``(n_k,)`` of each item, from layer ``first`` on."""
        model = self.mllm.model
        with (
            evaluating(model),
            attached(model),
            resumed(model, self.stack, first, state, run.features),
            tapped(self.stack, tap, places),
        ):
            output = model(**run.packed.inputs, logits_to_keep=run.packed.keep, use_cache=False)
        read = run.packed.log_probs(output.logits)
        return [one[:, b] - one[:, a] for one, (a, b) in zip(read, self.pairs, strict=True)]

    def _patched(self, patch: Patch, source: Source, run: _Run) -> _Found:
        place, mask = _PLACES[patch.site], self.masks[source][patch.group][:, self.rows]

        def replace(where: Place, layer: int, value: Tensor) -> Tensor:
            if where != place or not patch.acts(layer):
                return value
            chosen = mask.view(*mask.shape, *[1] * (value.ndim - 2))
            if patch.head >= 0:
                heads = torch.arange(value.shape[2], device=value.device) == patch.head
                chosen = chosen & heads[:, None]
            changed = value.clone()
            changed[:, self.rows] = torch.where(
                chosen, run.passed[where, layer], value[:, self.rows]
            )
            return changed

        first = patch.window[0]
        state = self.own_run.passed.get(("residual", first - 1))
        with torch.no_grad():
            found = self._forward(self.own_run, replace, [place], first, state)
        return [one.double().cpu().numpy() for one in found]

    def _attributed(
        self,
        patches: Sequence[Patch],
        needed: Collection[tuple[Place, int]],
        source: Source,
        run: _Run,
    ) -> Iterator[tuple[Patch, _Found]]:
        """First-order estimates of all patches, from one pass with gradients."""
        kept: dict[tuple[Place, int], Tensor] = {}

        def watch(place: Place, layer: int, value: Tensor) -> Tensor:
            if (place, layer) in needed:
                if not value.requires_grad:
                    value.requires_grad_()
                kept[place, layer] = value
            return value

        model, masks = self.mllm.model, self.masks[source]
        with torch.enable_grad(), frozen(model):
            places = {place for place, _ in needed}
            odds = self._forward(self.own_run, watch, places, 0, None)
            n_ks = [len(one) for one in odds]
            # Per k and place: what its group would add, (B,) or of attention (B, H).
            added: list[dict[tuple[Place, int, Group], npt.NDArray[np.float64]]] = []
            for slot in range(max(n_ks)):
                total = torch.stack([one[slot] for one in odds if slot < len(one)]).sum()
                slopes = torch.autograd.grad(
                    total, list(kept.values()), retain_graph=True, materialize_grads=True
                )
                here = {}
                for (place, layer), slope in zip(kept, slopes, strict=True):
                    change = run.passed[place, layer] - kept[place, layer].detach()[:, self.rows]
                    gain = (change.float() * slope[:, self.rows].float()).sum(-1)
                    for group, mask in masks.items():
                        chosen = mask[:, self.rows]
                        chosen = chosen if gain.ndim == 2 else chosen[..., None]
                        value = torch.where(chosen, gain, 0.0).sum(1)
                        here[place, layer, group] = value.double().cpu().numpy()
                added.append(here)
        for patch in patches:
            layers = range(patch.window[0], patch.window[1] + 1)
            parts = [
                [slot[_PLACES[patch.site], layer, patch.group] for layer in layers]
                for slot in added
            ]
            summed = np.stack([np.sum(one, axis=0) for one in parts], axis=1)
            if summed.ndim == 3:
                summed = summed.sum(-1) if patch.head < 0 else summed[..., patch.head]
            yield patch, [row[:n] for row, n in zip(summed, n_ks, strict=True)]

    def _rows(
        self,
        method: Method,
        source: Source,
        run: _Run,
        patch: Patch,
        recovered: Sequence[npt.NDArray[np.float64]],
    ) -> pd.DataFrame:
        here = [at for at, there in enumerate(self.there[source]) if there]
        sizes = [len(self.steps[at]) for at in here]
        table = {
            "item": np.repeat(np.array([self.problems[at].id for at in here], dtype=object), sizes),
            "method": method,
            "source": source,
            "site": patch.site,
            "head": patch.head,
            "first_layer": patch.window[0],
            "last_layer": patch.window[1],
            "group": patch.group,
            "k": np.concatenate([np.array(self.steps[at]) for at in here]),
            "n_steps": np.repeat([self.steps[at][-1] for at in here], sizes),
            "log_odds_before": np.concatenate([self.own_run.log_odds[at] for at in here]),
            "log_odds_source": np.concatenate([run.log_odds[at] for at in here]),
            "recovered": np.concatenate([recovered[at] for at in here]),
        }
        return pd.DataFrame(table)


def _same(own: Encoded, other: Encoded) -> bool:
    """Whether two runs hold the same tokens, and their pictures the same grid."""
    if not torch.equal(own.input_ids, other.input_ids):
        return False
    grids = zip(own.layout.grids, other.layout.grids, strict=True)
    return all(np.array_equal(one.boxes, two.boxes) for one, two in grids)
