"""Parts of a response, its tokens, steps or answer, and the log-probability a model gives them.

A map of a part says what the model looked at for it; an attribution says what its log-probability
depends on. Both name the parts alike, so that their maps can be laid side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from attcot_analysis.errors import LayoutError, MeasureError
from attcot_analysis.models import Encoded, Mllm, Span, encode_problem, token_starts
from attcot_analysis.models.inputs import ImageLike
from attcot_analysis.problems import Box, Problem, parse_response
from attcot_analysis.problems.response import ANSWER_CLOSE, ANSWER_CUE

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
            raise MeasureError(
                "The model's logits are not finite on this response; check its weights and dtype "
                "(fp16 overflows where bf16 does not)."
            )
        return found


def response_parts(
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    targets: Targets = "steps",
    *,
    answer: str | None = None,
    image: ImageLike | None = None,
) -> ResponseParts:
    """Encode an item with its response and cut the response into the parts asked about.

    Args:
        mllm: The model.
        problem: The item, with one picture.
        response: Text, or token ids as generated.
        targets: ``"tokens"``, ``"steps"`` (and the answer, if there is one) or ``"answer"``.
        answer: An answer to force after the rationale, instead of what the response says there.
        image: Another picture to show instead of the item's own.

    Raises:
        MeasureError: If the targets are unknown.
        LayoutError: If the item has not exactly one image, or its response not the parts.
    """
    if targets not in get_args(Targets):
        raise MeasureError(
            f"Targets {targets!r} are unknown; choose from {', '.join(get_args(Targets))}."
        )
    if answer is not None:
        response = _forced(mllm, problem, response, answer)
    item = encode_problem(mllm, problem, response=response, image=image)
    layout = item.layout
    if len(layout.grids) != 1:
        raise LayoutError(
            f"Problem {problem.id} has {len(layout.grids)} images; maps need exactly one."
        )
    if targets != "answer" and not layout.steps:
        raise LayoutError(
            f"The response to problem {problem.id} has no step; maps of tokens and steps need at "
            "least one step inside <think>...</think>."
        )
    stated = layout.answer is not None and layout.answer.size > 0
    if targets == "answer" and not stated:
        raise LayoutError(
            f"The response to problem {problem.id} states no answer, so there is no map of it; "
            "give it one inside <answer>...</answer>, or pass answer=."
        )

    def part(start: int, stop: int, step: int = 0) -> Part:
        boxes = problem.step_boxes(step) if step else ()
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
            said = parse_response(mllm.decode(item.response_ids), opened=item.opened).answer
            # Tokenizers join the answer with the tags around it.
            parts.append(replace(part(*layout.answer), text=said or ""))
    return ResponseParts(item, tuple(parts), place)


def _forced(
    mllm: Mllm, problem: Problem, response: str | Sequence[int], answer: str
) -> str | list[int]:
    """The response with its rationale as it is, token by token, and another answer."""
    text, starts = (
        (response, None) if isinstance(response, str) else token_starts(mllm.tokenizer, response)
    )
    think = parse_response(text, opened=mllm.opens_rationale).think
    if think is None:
        raise LayoutError(
            f"The response to problem {problem.id} has no rationale to force an answer after; "
            "write it inside <think>...</think>."
        )
    ending = f"{ANSWER_CUE}{answer}{ANSWER_CLOSE}"
    if isinstance(response, str) or starts is None:
        return f"{text[: think[1]]}{ending}"
    # The last token may run from the rationale into the tag behind it.
    ends = [*starts[1:].tolist(), len(text)]
    kept = sum(end <= think[1] for end in ends)
    cut = int(starts[kept]) if kept < len(ends) else len(text)
    tail = f"{text[cut : think[1]]}{ending}"
    return [*response[:kept], *mllm.tokenizer(tail, add_special_tokens=False)["input_ids"]]
