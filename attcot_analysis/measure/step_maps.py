"""Maps for heatmaps: where the tokens and the steps of a response attend in the picture."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attcot_analysis.errors import LayoutError
from attcot_analysis.measure.probe import read_maps
from attcot_analysis.models import Mllm, TokenGrid, encode_problem
from attcot_analysis.models.inputs import ImageLike
from attcot_analysis.problems import Box, Problem


@dataclass(frozen=True, eq=False)
class ResponseMaps:
    """Attention of a response's tokens on the image tokens of its picture.

    Attributes:
        weights: ``(L, H, R, N)`` softmax weights, one row per response token: the row that
            predicts it.
        grid: Where each of the N image tokens lies.
        tokens: The R tokens' text.
        steps: Per token the step it belongs to, 1..K; 0 outside of steps.
        boxes: Per token the evidence boxes of its step; empty outside of steps.
        answer: Which token the stated answer starts with; ``None`` if none is stated.
    """

    weights: npt.NDArray[np.float32]
    grid: TokenGrid
    tokens: tuple[str, ...]
    steps: tuple[int, ...]
    boxes: tuple[tuple[Box, ...], ...]
    answer: int | None = None

    def step_maps(self, layers: Collection[int] | None = None) -> npt.NDArray[np.float32]:
        """Mean map of each step over its rows, all heads and the chosen layers.

        Args:
            layers: Indices into the layers read; default all.

        Returns:
            ``(K, rows, cols)``; a map's sum is the step's mean visual mass.
        """
        chosen = self.weights if layers is None else self.weights[list(layers)]
        numbers = np.asarray(self.steps)
        means = [
            chosen[:, :, numbers == step].mean(axis=(0, 1, 2))
            for step in range(1, int(numbers.max(initial=0)) + 1)
        ]
        return np.stack([self.grid.to_map(mean) for mean in means])

    def answer_map(self, layers: Collection[int] | None = None) -> npt.NDArray[np.float32]:
        """Map of the row that predicts the answer's first token, mean over heads and layers.

        Args:
            layers: Indices into the layers read; default all.

        Returns:
            ``(rows, cols)``; its sum is that row's mean visual mass.

        Raises:
            LayoutError: If the response states no answer.
        """
        if self.answer is None:
            raise LayoutError("The response states no answer, so there is no map of it.")
        chosen = self.weights if layers is None else self.weights[list(layers)]
        mean = chosen[:, :, self.answer].mean(axis=(0, 1))
        return np.asarray(self.grid.to_map(mean), dtype=np.float32)


def response_maps(
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    *,
    image: ImageLike | None = None,
    layers: Collection[int] | None = None,
) -> ResponseMaps:
    """Teacher-force a response and read where each of its tokens attends.

    Args:
        mllm: The model.
        problem: The item, with one picture.
        response: Text, or token ids as generated.
        image: Another picture to show instead of the item's own.
        layers: Layers to read; all with full attention if ``None``.

    Raises:
        LayoutError: If the item has not exactly one image, or the response no step.
    """
    encoded = encode_problem(mllm, problem, response=response, image=image)
    layout = encoded.layout
    if len(layout.grids) != 1 or not layout.steps:
        raise LayoutError(
            f"Problem {problem.id} has {len(layout.grids)} images and {len(layout.steps)} steps "
            "in its response; maps need one image and at least one step."
        )
    steps = np.zeros(layout.n_tokens, dtype=int)
    for number, span in enumerate(layout.steps, start=1):
        steps[span.start : span.stop] = number
    numbers = tuple(int(number) for number in steps[layout.response.start :])
    boxes = [
        problem.steps[number - 1].boxes if 0 < number <= len(problem.steps) else ()
        for number in numbers
    ]
    return ResponseMaps(
        weights=read_maps(mllm, encoded, layout.rows(layout.response), layers),
        grid=layout.grids[0],
        tokens=tuple(mllm.tokenizer.decode([token]) for token in encoded.response_ids),
        steps=numbers,
        boxes=tuple(boxes),
        answer=None if layout.answer is None else layout.answer.start - layout.response.start,
    )
