"""Attention rollout and gradient-weighted relevance: attention followed through all layers.

A layer's attention says what a row read in that layer. What it read had itself been read from
elsewhere before; both methods follow this back to the image tokens the model was given.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attcot_analysis.attention.flow import Capture, carry, carry_gradients, frozen
from attcot_analysis.attention.hook import attached, reading
from attcot_analysis.measures.maps import ResponseMaps, maps_of_parts
from attcot_analysis.measures.targets import ResponseParts, Targets, response_parts
from attcot_analysis.models import Mllm, collate, evaluating
from attcot_analysis.models.inputs import ImageLike
from attcot_analysis.problems import Problem


def rollout_maps(
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    *,
    targets: Targets = "tokens",
    answer: str | None = None,
    image: ImageLike | None = None,
    block: int | None = None,
) -> ResponseMaps:
    """Attention rollout from a response's rows to the image tokens.

    The rollout matrix is the product over layers of ``(A + I) / 2``, A the mean over heads; a
    row of it says how much of what stands there was passed on from each input token, if
    attention alone passed things on and every head and layer counted the same. It does not know
    what the row was used for. Exact, at the memory of the queries and keys of all layers; a
    layer's T x T attention is never held.

    Args:
        mllm: The model.
        problem: The item, with one picture.
        response: Text, or token ids as generated.
        targets: Which rows: of every token, or the means over every step's and the answer's.
        answer: An answer to force after the rationale, instead of what the response says there.
        image: Another picture to show instead of the item's own.
        block: Query positions at a time; the result does not depend on it.

    Returns:
        ``source="rollout"``; weights ``(1, 1, R, N)``, non-negative, a row sums to at most 1.

    Raises:
        MeasureError: If attention cannot be followed through every layer.
        LayoutError: If the item has not exactly one image, or its response not the parts.

    Source: Abnar & Zuidema 2020 (arXiv 2005.00928).
    """
    asked = response_parts(mllm, problem, response, targets, answer=answer, image=image)
    capture = Capture()
    model = mllm.model
    with torch.no_grad(), evaluating(model), attached(model), reading(capture):
        model(**collate(mllm, [asked.item]), logits_to_keep=1, use_cache=False)
    flow = carry(capture.layers(mllm), _start(asked).to(mllm.device), block)
    return maps_of_parts(asked, _image(asked, flow).numpy(), "rollout")


def gradient_maps(
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    *,
    targets: Targets = "steps",
    answer: str | None = None,
    image: ImageLike | None = None,
    block: int | None = None,
) -> ResponseMaps:
    """Gradient-weighted relevance of the image tokens for what a response says.

    Layer by layer ``R <- R + E_h[(A * dA)^+] R``, with dA the gradient of the part's
    log-probability with respect to the attention A; a part's map is the mean of its rows of R.
    Unlike rollout it asks for what raised this very text. Exact; one forward pass, and one
    backward pass per part, which stops at the first layer. A layer's T x T attention is never
    held, nor its gradient.

    Args:
        mllm: The model.
        problem: The item, with one picture.
        response: Text, or token ids as generated.
        targets: Parts with a map, each at the cost of a backward pass: ``"tokens"``, ``"steps"``
            (and the answer) or ``"answer"``.
        answer: An answer to force after the rationale, instead of what the response says there.
        image: Another picture to show instead of the item's own.
        block: Query positions at a time; the result does not depend on it.

    Returns:
        ``source="gradient_relevance"``; weights ``(1, 1, R, N)``, non-negative, without unit.

    Raises:
        MeasureError: If attention cannot be followed through every layer, or log p is not finite.
        LayoutError: If the item has not exactly one image, or its response not the parts.

    Source: Chefer, Gur & Wolf, ICCV 2021 (arXiv 2103.15679), its rules for self-attention.
    """
    asked = response_parts(mllm, problem, response, targets, answer=answer, image=image)
    capture = Capture(gradients=True)
    model = mllm.model
    with (
        torch.enable_grad(),
        frozen(model),
        evaluating(model),
        attached(model),
        reading(capture),
    ):
        batch = collate(mllm, [asked.item])
        rows = asked.rows.to(mllm.device)
        logits = model(**batch, logits_to_keep=rows, use_cache=False).logits
        log_p = asked.log_probs(logits)[0].unbind()
    calls = capture.layers(mllm)
    outputs = [call.output for call in calls if call.output is not None]
    starts = _start(asked).to(mllm.device)
    found = []
    for at, start in enumerate(starts):
        last = at == len(starts) - 1
        grads = torch.autograd.grad(log_p[at], outputs, retain_graph=not last)
        found.append(_image(asked, carry_gradients(calls, list(grads), start[None], block)))
    return maps_of_parts(asked, torch.cat(found).numpy(), "gradient_relevance")


def _start(asked: ResponseParts) -> Tensor:
    """``(P, T)``: per part the mean of its rows of the identity."""
    member = asked.membership()
    start = torch.zeros(len(asked.parts), asked.item.layout.n_tokens)
    start[:, asked.rows] = member / member.sum(1, keepdim=True)
    return start


def _image(asked: ResponseParts, flow: Tensor) -> Tensor:
    """What arrived at the image tokens, ``(P, N)``."""
    return flow.cpu()[:, torch.from_numpy(asked.item.layout.image)]
