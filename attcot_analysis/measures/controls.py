"""Control rationales for commitment, and the check whether a rationale states an answer."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Literal

import torch
from PIL import Image

from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, token_starts
from attcot_analysis.problems import ParsedResponse, Problem, parse_response
from attcot_analysis.problems.response import number_range, with_opening

FILLER = " ..."
"""Text whose tokens replace a step's (Lanham et al., arXiv 2307.13702, use the same)."""

_NUMBERING = re.compile(
    r"^[ \t#>*_(-]*(?:step[ \t]*)?\d+[*_]*[.:)](?=[\s*_]|$)", re.IGNORECASE | re.MULTILINE
)


def filler_rationale(mllm: Mllm, encoded: Encoded) -> Encoded:
    """Replace the words of every step by dots, token for token.

    A step keeps its number and its line end, so the filler has the same number of steps, the
    same number of tokens in each, and the same layout.

    Raises:
        MeasureError: If the tokenizer cannot write the filler without letters or digits.
    """
    dots = list(mllm.tokenizer(FILLER, add_special_tokens=False)["input_ids"])
    if not dots or any(char.isalnum() for char in mllm.tokenizer.decode(dots)):
        raise MeasureError(
            f"The tokenizer cannot write {FILLER!r}, so there is no filler rationale; leave "
            "'filler' out of the controls."
        )
    ids = encoded.input_ids.clone()
    cuts = encoded.layout.cuts
    for span, cut in zip(encoded.layout.steps, cuts[1:], strict=True):
        step = ids[span.start : span.stop].tolist()
        kept = {span.start + at for at in _number_tokens(mllm, step)}
        # Tokens that hold a part of the tags around the rationale stay as they are.
        start = max(span.start, cuts[0].stop + bool(cuts[0].rest))
        stop = min(span.stop - _ends_line(mllm, step), cut.stop)
        words = [at for at in range(start, stop) if at not in kept]
        fill = (dots * (len(words) // len(dots) + 1))[: len(words)]
        ids[words] = torch.tensor(fill, dtype=ids.dtype, device=ids.device)
    return replace(encoded, input_ids=ids)


def other_items(answers: Sequence[str], n_steps: Sequence[int], names: Sequence[str]) -> list[int]:
    """Pair every item with the one whose rationale it gets as a control.

    The partner is the next item, counted cyclically, with a different answer and at least as
    many steps; where no such item has enough steps, the next one of those with the most steps.

    Raises:
        MeasureError: If all other items have the same answer.
    """
    n = len(answers)
    partners = []
    for at, (answer, needed, name) in enumerate(zip(answers, n_steps, names, strict=True)):
        best: int | None = None
        for other in (place % n for place in range(at + 1, at + n)):
            if answers[other] != answer and (best is None or n_steps[other] > n_steps[best]):
                best = other
                if n_steps[best] >= needed:
                    break
        if best is None:
            raise MeasureError(
                f"Item {name}: no other item has a different answer, so there is no rationale "
                "for the other_item control; add items or leave 'other_item' out of the controls."
            )
        partners.append(best)
    return partners


def other_rationales(problems: Sequence[Problem], responses: Sequence[ParsedResponse]) -> list[str]:
    """Per item the text of its partner's response (see `other_items`), up to its own K.

    Raises:
        MeasureError: If all other items have the same answer.
    """
    n_steps = [len(response.steps) for response in responses]
    partners = other_items([p.answer for p in problems], n_steps, [p.id for p in problems])
    texts = []
    for partner, wanted in zip(partners, n_steps, strict=True):
        source = responses[partner]
        texts.append(source.text[: source.steps[:wanted][-1][1]])
    return texts


def response_text(mllm: Mllm, response: Sequence[int] | str) -> str:
    """A response as text, with the ``<think>`` that the chat template may have written before it.

    Token ids are read up to the first that ends a response.
    """
    if not isinstance(response, str):
        stop = set(mllm.stop_ids)
        response = mllm.decode(list(takewhile(lambda token: token not in stop, map(int, response))))
    return with_opening(response) if mllm.opens_rationale else response


def parsed_responses(mllm: Mllm, responses: Sequence[Sequence[int] | str]) -> list[ParsedResponse]:
    """Parse responses to prompts of a model, which may open the rationale themselves."""
    return [parse_response(response_text(mllm, one)) for one in responses]


def with_steps(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int] | str],
    *,
    images: Sequence[Image.Image] | None = None,
    empty: Literal["error", "skip"] = "error",
    forced: bool = False,
) -> dict[int, ParsedResponse]:
    """Parse responses and keep those with rationale steps, by their place.

    Args:
        mllm: The model.
        problems: The items.
        responses: One per item.
        images: Other pictures, to be counted only.
        empty: What to do with responses without a step.
        forced: Whether answers are to be forced, for which an item must have candidates.

    Raises:
        MeasureError: If the inputs differ in number, a response has no step
            (``empty="error"``), or none has, or an item to be forced is an open question.
    """
    if len(responses) != len(problems) or (images is not None and len(images) != len(problems)):
        raise MeasureError(
            f"Got {len(problems)} problems, {len(responses)} responses and "
            f"{'no' if images is None else len(images)} images; give one of each per problem."
        )
    parsed = parsed_responses(mllm, responses)
    used = {at: response for at, response in enumerate(parsed) if response.steps}
    if empty == "error" and len(used) < len(problems):
        name = problems[next(at for at in range(len(problems)) if at not in used)].id
        raise MeasureError(
            f"Item {name}: its response has no rationale steps, so there is no step to commit "
            "at; give it steps inside <think>, or pass empty='skip' to leave such items out."
        )
    if not used:
        raise MeasureError("No response has a rationale step, so there is nothing to measure.")
    open_items = [problems[at].id for at in used if forced and not problems[at].candidates]
    if open_items:
        raise MeasureError(
            f"Item {open_items[0]} is an open question, so no answer can be forced on it; give it "
            "candidates or leave it out."
        )
    return used


def prefix_texts(mllm: Mllm, encoded: Encoded) -> list[str]:
    """Decode the rationale up to every step: K + 1 texts, the first one empty.

    Step numbers are taken out, so that they are not mistaken for numeric answers.
    """
    first, *cuts = encoded.layout.cuts
    texts = []
    for cut in cuts:
        ids = encoded.input_ids[first.stop : cut.stop].tolist()
        texts.append(str(mllm.tokenizer.decode(ids))[len(first.rest) :] + cut.rest)
    return ["", *(_NUMBERING.sub(" ", text) for text in texts)]


def _number_tokens(mllm: Mllm, step: Sequence[int]) -> list[int]:
    """The places of a step's tokens that write nothing but its number."""
    text, starts = token_starts(mllm.tokenizer, step)
    first, last = number_range(text)
    ends = [*starts[1:].tolist(), len(text)]
    return [at for at, end in enumerate(ends) if first <= starts[at] and end <= last]


def _ends_line(mllm: Mllm, step: Sequence[int]) -> int:
    text = mllm.tokenizer.decode(step[-1:])
    return int(text.endswith("\n") and not any(char.isalnum() for char in text))
