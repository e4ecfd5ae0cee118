"""`ResponseMaps`: where a response's tokens, steps or answer look in the picture, from any source.

Attention, rollout, gradients and attributions all end in this one record, so that whatever draws
or compares one of them draws and compares them all.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attcot_analysis.attention.probe import read_maps
from attcot_analysis.errors import LayoutError, check_known, not_finite
from attcot_analysis.models import Encoded, Mllm, Span, TokenGrid, encode_problem, token_starts
from attcot_analysis.models.inputs import Shown
from attcot_analysis.problems import Box, Problem, parse_response

Targets = Literal["tokens", "steps", "answer"]
"""What gets a map of its own: every token of the response, every step and the answer, or the
answer alone."""


@dataclass(frozen=True)
class Part:
    """Some tokens of a response.

    Attributes:
        text: Their text.
        span: Where they lie in the item's sequence.
        step: The step they belong to, 1..K; 0 outside of steps.
        boxes: Evidence boxes of that step; empty outside of steps.
    """

    text: str
    span: Span
    step: int = 0
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, eq=False)
class ResponseParts:
    """An item with the parts of its response that are asked about.

    Attributes:
        item: Prompt and response.
        parts: In order; never empty.
        answer: Which part the answer is, or starts with; ``None`` if the response states none.
    """

    item: Encoded
    parts: tuple[Part, ...]
    answer: int | None

    @property
    def rows(self) -> Tensor:
        """Every row that predicts a token of a part, long ``(n,)``, ascending."""
        found = [torch.from_numpy(self.item.layout.rows(part.span)) for part in self.parts]
        return torch.unique(torch.cat(found))

    def membership(self) -> Tensor:
        """Float ``(P, n)``: one where a row of `rows` belongs to a part."""
        rows = self.rows
        first = torch.tensor([part.span.start - 1 for part in self.parts])[:, None]
        last = torch.tensor([part.span.stop - 2 for part in self.parts])[:, None]
        return ((first <= rows) & (rows <= last)).float()

    def log_probs(self, logits: Tensor) -> Tensor:
        """Log-probability of every part, differentiably and in fp32.

        Args:
            logits: ``(B, n, V)``, from a forward pass that was given ``logits_to_keep=rows``.

        Returns:
            ``(B, P)``: sums over the parts' tokens.

        Raises:
            MeasureError: If the logits are not finite.
        """
        ids = self.item.input_ids[self.rows + 1].to(logits.device)
        logits = logits.float()
        chosen = logits.gather(-1, ids.expand(len(logits), -1)[..., None])[..., 0]
        found = (chosen - logits.logsumexp(-1)) @ self.membership().to(logits.device).T
        if not bool(found.detach().isfinite().all()):
            raise not_finite("The model's logits are not finite on this response")
        return found


def response_parts(
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    targets: Targets = "steps",
    *,
    answer: str | None = None,
    image: Shown | None = None,
) -> ResponseParts:
    """Encode an item with its response and cut the response into the parts asked about.

    Args:
        mllm: The model.
        problem: The item.
        response: Text, or token ids as generated.
        targets: ``"tokens"``, ``"steps"`` (and the answer, if there is one) or ``"answer"``.
        answer: An answer to force after the rationale, instead of what the response says there.
        image: Another picture to show instead of the item's own.

    Raises:
        MeasureError: If the targets are unknown.
        LayoutError: If the item has no image, or its response not the parts.
    """
    check_known(targets, Targets, f"Targets {targets!r} are unknown")
    if answer is not None:
        response = _forced(mllm, problem, response, answer)
    item = encode_problem(mllm, problem, response=response, image=image)
    layout = item.layout
    if not layout.grids:
        raise LayoutError(f"Problem {problem.id} has no image to map; give it one.")
    sheet = problem.sheet
    if not layout.response.size or (targets == "steps" and not layout.steps):
        raise LayoutError(
            f"The response to problem {problem.id} has no step; maps of steps need at least one in "
            "the model's format, and maps of tokens a response that is not empty."
        )
    stated = layout.answer is not None and layout.answer.size > 0
    if targets == "answer" and not stated:
        raise LayoutError(
            f"The response to problem {problem.id} states no answer, so there is no map of it; "
            "give it one in the model's format, or pass answer=."
        )

    def part(start: int, stop: int, step: int = 0) -> Part:
        boxes = sheet.step_boxes(step) if step else ()
        text = mllm.tokenizer.decode(item.input_ids[start:stop].tolist())
        return Part(text if targets == "tokens" else text.strip(), Span(start, stop), step, boxes)

    steps = list(enumerate(layout.steps, start=1))
    if targets == "tokens":
        step_of = {at: number for number, span in steps for at in range(*span)}
        spoken = range(layout.response.start, layout.response.stop)
        parts = [part(at, at + 1, step_of.get(at, 0)) for at in spoken]
        place = None if layout.answer is None else layout.answer.start - layout.response.start
    else:
        kept = [(number, span) for number, span in steps if span.size and targets == "steps"]
        parts = [part(*span, number) for number, span in kept]
        place = len(parts) if stated else None
        if layout.answer is not None and stated:
            said = parse_response(
                mllm.decode(item.response_ids), mllm.format, opened=item.opened
            ).answer
            # Tokenizers join the answer with the tags around it.
            parts.append(replace(part(*layout.answer), text=said or ""))
    return ResponseParts(item, tuple(parts), place)


def _forced(
    mllm: Mllm, problem: Problem, response: str | Sequence[int], answer: str
) -> str | list[int]:
    """The response with its rationale as it is, token by token, and another answer."""
    text, starts = (
        (response, None)
        if isinstance(response, str)
        else token_starts(mllm.tokenizer, mllm.check_ids(response))
    )
    form = mllm.format
    think = parse_response(text, form, opened=mllm.opens_rationale).think
    if think is None:
        raise LayoutError(
            f"The response to problem {problem.id} has no rationale to force an answer after; "
            "write it in the model's format."
        )
    named = form.named(answer, problem.candidates)
    ending = f"{form.closing(text[slice(*think)])}{form.cue}{named}{form.close}"
    if isinstance(response, str) or starts is None:
        return f"{text[: think[1]]}{ending}"
    # The last token may run from the rationale into the tag behind it.
    ends = [*starts[1:].tolist(), len(text)]
    kept = sum(end <= think[1] for end in ends)
    cut = int(starts[kept]) if kept < len(ends) else len(text)
    tail = f"{text[cut : think[1]]}{ending}"
    return [*response[:kept], *mllm.tokenizer(tail, add_special_tokens=False)["input_ids"]]


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

    Of several pictures they lie side by side, as on `Problem.sheet`.

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
        grid=TokenGrid.beside(asked.item.layout.grids),
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
    image: Shown | None = None,
    layers: Collection[int] | None = None,
    answer: str | None = None,
) -> ResponseMaps:
    """Teacher-force a response and read where each of its tokens attends.

    Args:
        mllm: The model.
        problem: The item; several pictures are mapped side by side.
        response: Text, or token ids as generated.
        image: Another picture to show instead of the item's own.
        layers: Layers to read; all with full attention if ``None``.
        answer: An answer to force after the rationale, instead of what the response says there.

    Raises:
        LayoutError: If the item has no image, or the response is empty.
    """
    asked = response_parts(mllm, problem, response, "tokens", answer=answer, image=image)
    layout = asked.item.layout
    weights = read_maps(mllm, asked.item, layout.rows(layout.response), layers)
    return maps_of_parts(asked, weights, "attention")
