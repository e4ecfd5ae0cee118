"""Prefix resampling: where a wrong rationale left what the model says when it looks last."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import (
    Encoded,
    Mllm,
    Mode,
    build_messages,
    collate,
    encode_prompt,
    evaluating,
)
from attcot_analysis.models.load import hidden_states, text_stack
from attcot_analysis.problems import Problem
from attcot_analysis.train.data import RationaleDataset
from attcot_analysis.train.finetune import FinetuneConfig, finetune

CRITICAL = (
    "position",
    "token",
    "replacement",
    "rank",
    "p_token",
    "p_replacement",
    "top",
)
"""Columns of the table of critical tokens."""


def reordered_prompt(mllm: Mllm, question: str) -> str:
    """The prompt with the picture behind the question and its instruction.

    Where the chat template puts pictures first whatever the order of the message is, the picture's
    placeholder, with whatever the template writes between it and the question, is moved.

    Raises:
        TrainingError: If the picture cannot be put behind the question.

    Source: arXiv 2605.11931 (order system, instruction, picture); how templates are dealt with
    is a reconstruction.
    """
    *system, message = build_messages(question, form=mllm.format)
    image, text = sorted(message["content"], key=lambda part: str(part["type"]))
    plain, moved = (
        mllm.prompt([*system, {**message, "content": content}])
        for content in ([image, text], [text, image])
    )
    if moved != plain:
        return moved
    said = str(text["text"])
    placeholder = getattr(mllm.processor, "image_token", None) or str(
        mllm.tokenizer.convert_ids_to_tokens(mllm.image_token_id)
    )
    first, at = plain.find(placeholder), plain.find(said)
    if first < 0 or at < first:
        raise TrainingError(
            f"The chat template of {mllm.name} does not show where it puts picture and question, "
            "so that they cannot be reordered; use extra='plain' or 'none'."
        )
    picture = plain[first:at]
    return plain[:first] + said + "\n" + picture.rstrip("\n") + plain[at + len(said) :]


def critical_tokens(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int]],
    *,
    top: int = 5,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Find the first token of each response that the reordered prompt makes improbable.

    The response is read behind the reordered prompt, token by token; the first one that is not
    among the `top` most probable is critical, and the most probable token that neither ends the
    response nor stands for a picture replaces it. All tokens of the response are looked at,
    tags and answer included.

    Args:
        mllm: The model that wrote the responses.
        problems: Their questions, one per response.
        responses: Token ids, without the end token.
        top: So many tokens are thought plausible; ties count as plausible.
        batch_size: Responses per forward pass.

    Returns:
        One row per response: ``position`` in the response, from 0 (missing if no token is
        critical, with all that follows); ``token`` and ``replacement``, ids; ``rank``, the number
        of tokens that are more probable; ``p_token`` and ``p_replacement``, probabilities at that
        place; ``top``, the ids of the most probable tokens there, in order.

    Raises:
        TrainingError: If the prompt cannot be reordered, or a response is empty.

    Source: arXiv 2605.11931; where it looks, ties, and tokens that cannot replace are a
    reconstruction.
    """
    if len(problems) != len(responses) or not all(len(one) for one in responses):
        raise TrainingError(
            f"{len(problems)} problems came with {len(responses)} responses, some of them empty "
            "perhaps; give one response with at least one token per problem."
        )
    banned = _image_ids(mllm)
    unfit = [*banned, *mllm.stop_ids]
    rows = []
    for start in range(0, len(problems), batch_size):
        chunk = slice(start, start + batch_size)
        items = [
            encode_prompt(
                mllm, reordered_prompt(mllm, problem.question), problem.images, response=response
            )
            for problem, response in zip(problems[chunk], responses[chunk], strict=True)
        ]
        for item, parts in zip(items, response_logits(mllm, items), strict=True):
            rows.append(_critical(item, parts, top, banned, unfit))
    table = pd.DataFrame(rows, columns=list(CRITICAL))
    whole = {name: "Int64" for name in ("position", "token", "replacement", "rank")}
    return table.astype({**whole, "p_token": "float64", "p_replacement": "float64"})


def mended_prefix(response: Sequence[int], position: int, replacement: int) -> tuple[int, ...]:
    """What is left of a response before its critical token, and the token that replaces it."""
    return (*response[:position], replacement)


@torch.no_grad()
def response_logits(mllm: Mllm, items: Sequence[Encoded]) -> list[Iterator[Tensor]]:
    """Per item the logits ``(n, V)`` of the rows that predict its response's tokens, in parts.

    One forward pass; logits are made a few rows at a time, so memory does not grow with the
    vocabulary.

    Raises:
        MeasureError: If the model's output is not its last hidden state through norm and head.
    """
    stack, last = text_stack(mllm), mllm.n_layers - 1
    rows = [torch.as_tensor(item.layout.rows(item.layout.response)) for item in items]
    union = torch.unique(torch.cat(rows)).to(mllm.device)
    batch = collate(mllm, items)
    with evaluating(mllm.model), hidden_states(stack, [last], union) as states:
        output = mllm.model(**batch, logits_to_keep=union[-1:], use_cache=False)
        stack.require_own(states[last][:, -1], output.logits[:, -1])

    def read(at: int) -> Iterator[Tensor]:
        own = torch.searchsorted(union, rows[at].to(union.device))
        for part in states[last][at, own].split(stack.rows_at_once()):
            with torch.no_grad():
                logits = stack.logits(part)
            yield logits

    return [read(at) for at in range(len(items))]


def _critical(
    item: Encoded, parts: Iterator[Tensor], top: int, banned: Sequence[int], unfit: Sequence[int]
) -> dict[str, object]:
    start = 0
    tokens = item.input_ids[item.prompt_length :]
    for logits in parts:
        logits = logits.clone()
        logits[:, list(banned)] = float("-inf")
        own = tokens[start : start + len(logits)].to(logits.device)[:, None]
        ranks = (logits > logits.gather(1, own)).sum(1)
        beyond = (ranks >= top).nonzero()[:, 0]
        if len(beyond):
            at = int(beyond[0])
            return _found(logits[at], start + at, int(own[at, 0]), int(ranks[at]), top, unfit)
        start += len(logits)
    return dict.fromkeys(CRITICAL)


def _found(
    logits: Tensor, position: int, token: int, rank: int, top: int, unfit: Sequence[int]
) -> dict[str, object]:
    fit = logits.clone()
    fit[list(unfit)] = float("-inf")
    replacement = int(fit.argmax())
    p = logits.softmax(0)
    return {
        "position": position,
        "token": token,
        "replacement": replacement,
        "rank": rank,
        "p_token": float(p[token]),
        "p_replacement": float(p[replacement]),
        "top": logits.topk(top).indices.tolist(),
    }


def _image_ids(mllm: Mllm) -> list[int]:
    """Ids that stand for pictures, which no response can hold."""
    config = mllm.model.config
    video = [getattr(config, name, None) for name in ("video_token_id", "video_token_index")]
    return [mllm.image_token_id, *(int(one) for one in video if one is not None)]


class BothOrders(RationaleDataset):
    """Every problem twice: as usual, and behind a prompt with the picture last.

    Raises:
        TrainingError: As `RationaleDataset`, or if answers are to be direct.
    """

    def __init__(self, mllm: Mllm, problems: Sequence[Problem], *, mode: Mode = "cot") -> None:
        """The first half of the examples is as usual, the second reordered."""
        if mode != "cot":
            raise TrainingError(
                "Both orders of the prompt are learned on rationales; leave out mode='direct'."
            )
        super().__init__(mllm, [*problems, *problems], mode=mode)
        self._usual = len(problems)

    def _encoded(self, index: int) -> Encoded:
        if index < self._usual:
            return super()._encoded(index)
        problem = self._problems[index]
        prompt = reordered_prompt(self._mllm, problem.question)
        response = self._response(problem)
        return encode_prompt(self._mllm, prompt, problem.images, response=response, end=True)


def learn_both_orders(
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig | None = None,
    **options: Any,
) -> Path:
    """Fine-tune `base` on rationales behind both orders of the prompt; see `finetune`.

    Args:
        base: Local folder or hub id.
        problems: Items with rationale steps; each is learned in both orders.
        folder: Where to save; must not exist.
        config: The run.
        options: As `finetune` takes them, ``save_every`` and ``progress`` among them.

    Returns:
        `folder`, a checkpoint that `load_mllm` reads.

    Raises:
        TrainingError: As `finetune`, or if the prompt cannot be reordered.
    """
    return finetune(base, problems, folder, config, dataset=BothOrders, **options)
