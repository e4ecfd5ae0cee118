"""Sink tokens: tokens that draw attention by massive activations, not by what they show.

Attention needs somewhere to go when a head has nothing to say. It goes to tokens whose hidden
state holds a massive activation, the first token among them, and in the picture often to tokens of
the background: masking those changes nothing (VisAttnSink, arXiv 2503.03321). Visual mass without
them says more about looking; it is still attention, and attention is not evidence.
"""

import contextlib
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attcot_analysis.attention.prefixes import Behind
from attcot_analysis.attention.probe import chosen_layers
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, collate, evaluating
from attcot_analysis.models.inputs import last_row
from attcot_analysis.models.load import text_stack

_PAPER_THRESHOLD = 20.0
_REACHABLE = 0.7
_TOKENS_AT_ONCE = 1024


@dataclass(frozen=True)
class SinkRule:
    """What makes a token a sink: ``phi(x) = max over sink dimensions d of |RMSNorm(x)_d|``.

    x is the token's hidden state where a layer takes it in, and RMSNorm is without its learned
    weight. Source: VisAttnSink, arXiv 2503.03321, with threshold 20 and, for LLaMA-2 7B, the sink
    dimensions 2533 and 1415. How to find them for other models, and the smaller threshold of small
    models, are our inference.

    Attributes:
        threshold: phi from which on a token is a sink. As ``|RMSNorm(x)_d|`` cannot exceed the
            square root of the hidden size, ``None`` means 20, but no more than 0.7 of that root
            (half of the hidden state's energy in one dimension): less than 20 below hidden size
            817.
        dims: The sink dimensions. ``None`` finds them for each item and layer: the dimensions with
            the largest values over all tokens, among those that reach the threshold at some token
            while the median token stays below half of it.
        max_dims: How many dimensions to find at most.

    Raises:
        MeasureError: If a number makes no sense.
    """

    threshold: float | None = None
    dims: tuple[int, ...] | None = None
    max_dims: int = 2

    def __post_init__(self) -> None:
        """Refuse numbers that would find everything or nothing."""
        if self.threshold is not None and not self.threshold > 0:
            raise MeasureError(f"The sink threshold is {self.threshold}; give a positive number.")
        if self.max_dims < 1 or (self.dims is not None and not self.dims):
            raise MeasureError(
                "Sink tokens need at least one sink dimension; give dims, or max_dims of 1 or more."
            )

    def threshold_for(self, hidden_size: int) -> float:
        """The threshold for a model.

        Raises:
            MeasureError: If no token of that hidden size could reach it, or lacks a dimension.
        """
        bound = math.sqrt(hidden_size)
        if self.dims is not None and not all(0 <= dim < hidden_size for dim in self.dims):
            raise MeasureError(
                f"Sink dimensions {list(self.dims)} are not all in 0..{hidden_size - 1}, the "
                "dimensions of the model's hidden states."
            )
        if self.threshold is None:
            return min(_PAPER_THRESHOLD, _REACHABLE * bound)
        if self.threshold >= bound:
            raise MeasureError(
                f"No token can reach the sink threshold {self.threshold:g}: with hidden size "
                f"{hidden_size} phi stays below {bound:.3g}; give a lower one, or none."
            )
        return self.threshold


@dataclass(frozen=True, eq=False)
class Sinks:
    """Where one item's sink tokens are.

    Attributes:
        tokens: ``(L, T)``, whether the token is a sink where the layer takes it in.
        strength: ``(L, T)``, phi; 0 in a layer without sink dimensions.
        dims: Per layer its sink dimensions, the most massive first.
        layers: The L layers.
        threshold: phi from which on a token is a sink.
    """

    tokens: npt.NDArray[np.bool_]
    strength: npt.NDArray[np.float32]
    dims: tuple[tuple[int, ...], ...]
    layers: tuple[int, ...]
    threshold: float


class SinkFinder:
    """Finds the sinks of a batch while a model runs, layer by layer, before attention is read.

    Attributes:
        tokens: ``{layer: (B, T)}`` bool, False on padding.
        strength: ``{layer: (B, T)}`` fp32, phi.
        dims: ``{layer: (B, D')}`` the dimensions looked at, -1 for none.
        massive: Per item what a later pass behind it needs to know; see `BehindFinder`.
    """

    def __init__(
        self,
        mllm: Mllm,
        rule: SinkRule,
        mask: Tensor,
        layers: Collection[int] | None = None,
        *,
        noting: bool = False,
    ) -> None:
        """Look for sinks where some layers, or all, take them in.

        Args:
            mllm: The model.
            rule: What makes a sink.
            mask: Among which tokens, ``(B, T)``, nonzero where not padding; tokens behind T are
                not looked at.
            layers: Which layers; ``None`` for all.
            noting: Note what is massive, for a rule that names no dimensions.
        """
        self.rule = rule
        self.threshold = rule.threshold_for(int(mllm.text_config.hidden_size))
        self.tokens: dict[int, Tensor] = {}
        self.strength: dict[int, Tensor] = {}
        self.dims: dict[int, Tensor] = {}
        self.massive: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in mask] if noting else []
        self._real = mask.bool()
        stack = text_stack(mllm).layers
        chosen = range(len(stack)) if layers is None else layers
        self._layers = {index: stack[index] for index in chosen}

    @contextlib.contextmanager
    def watching(self) -> Iterator["SinkFinder"]:
        """Look at the input of these layers in the passes inside; the hooks go on leaving."""
        with contextlib.ExitStack() as stack:
            for index, layer in self._layers.items():
                handle = layer.register_forward_pre_hook(self._hook(index), with_kwargs=True)
                stack.callback(handle.remove)
            yield self

    def _hook(self, index: int) -> Any:
        def look(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            self._look(index, hidden[:, : self._real.shape[1]])

        return look

    @torch.no_grad()
    def _look(self, index: int, hidden: Tensor) -> None:
        if self.massive:
            scale = _scale(hidden, self._real)
            largest = _largest(hidden, scale)
            strength, dims = _strength(
                hidden, self._real, self.rule, self.threshold, scale, largest
            )
            for at, noted in enumerate(self.massive):
                reached = (largest[at] >= self.threshold).nonzero()[:, 0]
                noted[index] = reached, hidden[at][:, reached].float().abs() * scale[at]
        else:
            strength, dims = sink_strength(hidden, self._real, self.rule, self.threshold)
        self.strength[index] = strength
        self.tokens[index] = strength >= self.threshold
        self.dims[index] = dims


class BehindFinder(SinkFinder):
    """`SinkFinder` of a pass behind kept tokens: which are sinks depends on these as well.

    ``tokens`` and ``strength`` are of the keys, ``(B, P + S)``, as the pass has them.

    Attributes:
        lost: Whether a dimension was massive behind the kept tokens alone, so that its values at
            these are not known; what was found is then wrong.
    """

    def __init__(self, mllm: Mllm, rule: SinkRule, behind: Behind) -> None:
        """Look for sinks behind sequences of which it is noted what is massive."""
        super().__init__(mllm, rule, behind.real)
        kept = [(one.massive, n) for one, n in behind.found if one is not None]
        self._noted = [(massive, n) for massive, n in kept if massive is not None]
        self._before = int(behind.lengths.max())
        self._lost: list[Tensor] = []

    @property
    def lost(self) -> bool:
        """Whether what was found is wrong."""
        return any(bool(one) for one in self._lost)

    @torch.no_grad()
    def _look(self, index: int, hidden: Tensor) -> None:
        scale = _scale(hidden, self._real)
        new = _largest(hidden, scale) >= self.threshold
        before, own = self._before, self._real.sum(-1).tolist()
        strength = hidden.new_zeros((len(hidden), before + hidden.shape[1]), dtype=torch.float32)
        for at, ((massive, n), m) in enumerate(zip(self._noted, own, strict=True)):
            dims, values = massive[index]
            new[at, dims] = False
            if len(dims):
                behind = hidden[at, :m][:, dims].float().abs() * scale[at, :m]
                columns = torch.cat([values[:n], behind])[None]
                peak, order = columns.amax(1).topk(min(4 * self.rule.max_dims, len(dims)))
                real = torch.ones_like(columns[..., 0], dtype=torch.bool)
                phi, _ = _phi(columns[..., order[0]], peak, real, self.rule, self.threshold)
                strength[at, before - n : before + m] = phi[0]
        self._lost.append(new.any())
        self.strength[index] = strength
        self.tokens[index] = strength >= self.threshold


@torch.no_grad()
def sink_strength(
    hidden: Tensor, real: Tensor, rule: SinkRule, threshold: float
) -> tuple[Tensor, Tensor]:
    """Phi of every token of a layer's input.

    Args:
        hidden: ``(B, T, D)`` hidden states.
        real: ``(B, T)`` bool, False on padding.
        rule: Says which dimensions count.
        threshold: See `SinkRule.threshold_for`.

    Returns:
        phi, ``(B, T)`` fp32, 0 on padding and where there is no sink dimension; and the
        dimensions, ``(B, D')`` long, -1 for none.
    """
    scale = _scale(hidden, real)

    if rule.dims is not None:
        dims = torch.tensor(rule.dims, device=hidden.device).expand(len(hidden), -1)
        return (hidden[..., list(rule.dims)].float().abs() * scale).amax(-1), dims

    return _strength(hidden, real, rule, threshold, scale, _largest(hidden, scale))


def _strength(
    hidden: Tensor,
    real: Tensor,
    rule: SinkRule,
    threshold: float,
    scale: Tensor,
    largest: Tensor,
) -> tuple[Tensor, Tensor]:
    """`sink_strength` of a rule that names no dimensions, from what was found on the way."""
    # More than are wanted, because some will turn out to be large at every token.
    peak, dims = largest.topk(min(4 * rule.max_dims, hidden.shape[-1]))
    columns = hidden.gather(2, dims[:, None].expand(-1, hidden.shape[1], -1)).float().abs() * scale
    strength, massive = _phi(columns, peak, real.to(hidden.device), rule, threshold)
    return strength, dims.masked_fill(~massive, -1)


def _scale(hidden: Tensor, real: Tensor) -> Tensor:
    """What RMSNorm multiplies each token by, ``(B, T, 1)``, 0 on padding."""
    norm = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    scale = math.sqrt(hidden.shape[-1]) / norm.clamp(min=1e-12)
    return torch.where(real.to(hidden.device), scale, 0.0)[..., None]


def _largest(hidden: Tensor, scale: Tensor) -> Tensor:
    """The largest value of every dimension over the tokens, ``(B, D)``."""
    largest = hidden.new_zeros(len(hidden), hidden.shape[-1], dtype=torch.float32)
    parts = (hidden.split(_TOKENS_AT_ONCE, dim=1), scale.split(_TOKENS_AT_ONCE, dim=1))
    for part, factor in zip(*parts, strict=True):
        largest = torch.maximum(largest, (part.float().abs() * factor).amax(1))
    return largest


def _phi(
    columns: Tensor, peak: Tensor, real: Tensor, rule: SinkRule, threshold: float
) -> tuple[Tensor, Tensor]:
    """Phi ``(B, T)`` of the values of some dimensions, the largest first; which are massive."""
    usual = columns.masked_fill(~real[..., None], float("nan")).nanmedian(1).values
    massive = (peak >= threshold) & (usual < threshold / 2)
    massive &= massive.cumsum(-1) <= rule.max_dims
    return columns.masked_fill(~massive[:, None], 0.0).amax(-1), massive


def find_sinks(
    mllm: Mllm,
    encoded: Encoded,
    *,
    rule: SinkRule | None = None,
    layers: Collection[int] | None = None,
) -> Sinks:
    """Find one item's sink tokens, text and image, from one forward pass.

    Args:
        mllm: The model.
        encoded: One item.
        rule: Default ``SinkRule()``.
        layers: Layers to return; default all.

    Raises:
        MeasureError: If the model has no such layer, or the rule does not fit it.
    """
    chosen = chosen_layers(mllm, layers)
    batch = collate(mllm, [encoded])
    finder = SinkFinder(mllm, rule or SinkRule(), batch["attention_mask"])
    with torch.no_grad(), evaluating(mllm.model), finder.watching():
        mllm.model(**batch, use_cache=False, logits_to_keep=last_row(batch))
    return Sinks(
        tokens=np.stack([finder.tokens[layer][0].cpu().numpy() for layer in chosen]),
        strength=np.stack([finder.strength[layer][0].cpu().numpy() for layer in chosen]),
        dims=tuple(
            tuple(int(dim) for dim in finder.dims[layer][0].tolist() if dim >= 0)
            for layer in chosen
        ),
        layers=tuple(chosen),
        threshold=finder.threshold,
    )


def sink_rule(sinks: "bool | SinkRule") -> SinkRule | None:
    """The rule meant by a ``sinks`` argument: ``True`` for the default one, ``False`` for none."""
    if isinstance(sinks, bool):
        return SinkRule() if sinks else None
    return sinks
