"""`ResponseMaps`: where a response's tokens, steps or answer look in the picture, from any source.

Attention, rollout, gradients and attributions all end in this one record, so that whatever draws
or compares one of them draws and compares them all.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from attcot_analysis.attention.probe import read_maps
from attcot_analysis.errors import LayoutError
from attcot_analysis.measures.targets import ResponseParts, response_parts
from attcot_analysis.models import Mllm, TokenGrid
from attcot_analysis.models.inputs import ImageLike
from attcot_analysis.problems import Box, Problem

FloatArray = npt.NDArray[np.float32]

Source = Literal[
    "attention",
    "rollout",
    "gradient_relevance",
    "occlusion",
    "shapley",
    "integrated_gradients",
]

QUANTITIES: dict[Source, str] = {
    "attention": "attention mass per image token",
    "rollout": "attention rollout per image token",
    "gradient_relevance": "gradient-weighted relevance per image token",
    "occlusion": "log p lost when occluded",
    "shapley": "Shapley value of log p",
    "integrated_gradients": "integrated gradient of log p",
}
"""What the weights of each source are, for colour bars."""


@dataclass(frozen=True, eq=False)
class ResponseMaps:
    """Weights of a response's parts on the image tokens of its picture.

    Attributes:
        weights: ``(L, H, R, N)``, one row per part of the response, in most uses one per token:
            the row that predicts it. Attention weights are softmax weights; sources without
            layers and heads have L = H = 1, and attributions may be negative.
        grid: Where each of the N image tokens lies.
        tokens: The R parts' text.
        steps: Per part the step it belongs to, 1..K; 0 outside of steps.
        boxes: Per part the evidence boxes of its step; empty outside of steps.
        answer: Which part the stated answer is or starts with; ``None`` if none is stated.
        source: Where the weights come from.
    """

    weights: FloatArray
    grid: TokenGrid
    tokens: tuple[str, ...]
    steps: tuple[int, ...]
    boxes: tuple[tuple[Box, ...], ...]
    answer: int | None = None
    source: Source = "attention"

    @property
    def quantity(self) -> str:
        """What the weights are, for a colour bar."""
        return QUANTITIES[self.source]

    @property
    def n_steps(self) -> int:
        """Number of steps with a map, K."""
        return max(self.steps, default=0)

    def step_weights(self, layers: Collection[int] | None = None) -> FloatArray:
        """Mean weights of each step over its rows, all heads and the chosen layers, ``(K, N)``.

        Args:
            layers: Indices into the layers read; default all.

        Raises:
            LayoutError: If no row belongs to a step.
        """
        if not self.n_steps:
            raise LayoutError("No row of these maps belongs to a step, so steps have no map.")
        chosen = self._layers(layers)
        numbers = np.asarray(self.steps)
        means = [
            chosen[:, :, numbers == step].mean(axis=(0, 1, 2))
            for step in range(1, self.n_steps + 1)
        ]
        return np.stack(means)

    def answer_weights(self, layers: Collection[int] | None = None) -> FloatArray:
        """Weights of the answer (of its first token), mean over heads and layers, ``(N,)``.

        Args:
            layers: Indices into the layers read; default all.

        Raises:
            LayoutError: If the response states no answer.
        """
        if self.answer is None:
            raise LayoutError("The response states no answer, so there is no map of it.")
        mean = self._layers(layers)[:, :, self.answer].mean(axis=(0, 1))
        return np.asarray(mean, dtype=np.float32)

    def step_maps(self, layers: Collection[int] | None = None) -> FloatArray:
        """Mean map of each step, ``(K, rows, cols)``; see `step_weights`.

        Of attention, a map's sum is the step's mean visual mass.
        """
        found = [self.grid.to_map(weights) for weights in self.step_weights(layers)]
        return np.stack(found).astype(np.float32)

    def answer_map(self, layers: Collection[int] | None = None) -> FloatArray:
        """Map of the answer, ``(rows, cols)``; see `answer_weights`.

        Of attention, its sum is that row's mean visual mass.
        """
        return np.asarray(self.grid.to_map(self.answer_weights(layers)), dtype=np.float32)

    def shares(self) -> "ResponseMaps":
        """The same with L = H = 1 and every row's positive weights divided by their sum.

        Sources measure in units of their own; as shares their maps fit one colour scale. A row
        without positive weight stays zero.
        """
        mean = self.weights.mean(axis=(0, 1), dtype=np.float64).clip(min=0)
        total = mean.sum(axis=-1, keepdims=True)
        shared = np.divide(mean, total, out=np.zeros_like(mean), where=total > 0)
        return ResponseMaps(
            shared[None, None].astype(np.float32),
            self.grid,
            self.tokens,
            self.steps,
            self.boxes,
            self.answer,
            self.source,
        )

    def _layers(self, layers: Collection[int] | None) -> FloatArray:
        return self.weights if layers is None else self.weights[list(layers)]


def maps_of_parts(
    asked: ResponseParts, weights: npt.NDArray[np.floating], source: Source
) -> ResponseMaps:
    """Put weights ``(L, H, P, N)`` of an item's parts, or ``(P, N)``, into their record."""
    parts = asked.parts
    return ResponseMaps(
        weights=np.asarray(weights if weights.ndim == 4 else weights[None, None], dtype=np.float32),
        grid=asked.item.layout.grids[0],
        tokens=tuple(part.text for part in parts),
        steps=tuple(part.step for part in parts),
        boxes=tuple(part.boxes for part in parts),
        answer=asked.answer,
        source=source,
    )


def response_maps(
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    *,
    image: ImageLike | None = None,
    layers: Collection[int] | None = None,
    answer: str | None = None,
) -> ResponseMaps:
    """Teacher-force a response and read where each of its tokens attends.

    Args:
        mllm: The model.
        problem: The item, with one picture.
        response: Text, or token ids as generated.
        image: Another picture to show instead of the item's own.
        layers: Layers to read; all with full attention if ``None``.
        answer: An answer to force after the rationale, instead of what the response says there.

    Raises:
        LayoutError: If the item has not exactly one image, or the response no step.
    """
    asked = response_parts(mllm, problem, response, "tokens", answer=answer, image=image)
    layout = asked.item.layout
    weights = read_maps(mllm, asked.item, layout.rows(layout.response), layers)
    return maps_of_parts(asked, weights, "attention")
