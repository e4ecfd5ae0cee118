"""Responses behind prompts that run only once, however many responses share them.

In GRPO all completions of a question follow the same prompt and picture, which are most of the
tokens. They go through the model once, and their keys and values are handed to every completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from attcot_analysis.attention.hook import attached
from attcot_analysis.models import Encoded, Mllm, Span, collate, evaluating, positions


@dataclass(frozen=True, eq=False)
class SharedPrompts:
    """The distinct prompts of some items, left-padded to P.

    Attributes:
        inputs: Model inputs of all their tokens but the last, which the responses start with.
        last: Positions of the last tokens, ``(D, 1)`` or ``(3, D, 1)``.
        which: The prompt of each item, ``(B,)``.
    """

    inputs: dict[str, Tensor]
    last: Tensor
    which: Tensor

    def columns(self, items: Sequence[Encoded], values: Sequence[Tensor]) -> Tensor:
        """Values of each item's image tokens, ``(N, C)``, at their places: ``(B, P - 1, C)``."""
        length = self.inputs["input_ids"].shape[1]
        width = max(value.shape[1] for value in values)
        found = torch.zeros(len(items), length, width)
        for at, (item, value) in enumerate(zip(items, values, strict=True)):
            places = torch.as_tensor(item.layout.image) + length + 1 - item.prompt_length
            found[at, places, : value.shape[1]] = value
        return found.to(self.inputs["input_ids"].device)


def continued(prompt: Encoded, response: Sequence[int]) -> Encoded:
    """A prompt with a response, which is not looked into: its steps and answer are not found."""
    ids = torch.tensor(list(response), dtype=torch.long)
    length = len(prompt.input_ids)
    layout = replace(
        prompt.layout,
        n_tokens=length + len(ids),
        response=Span(length, length + len(ids)),
    )
    types = prompt.token_types
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, ids]),
        token_types=None if types is None else torch.cat([types, torch.zeros_like(ids)]),
        layout=layout,
    )


def shared_prompts(mllm: Mllm, items: Sequence[Encoded]) -> SharedPrompts:
    """Find the distinct prompts of items: the same tokens and the very same image tensors."""
    places: dict[Any, int] = {}
    prompts: list[Encoded] = []
    which = []
    for item in items:
        ids = item.input_ids[: item.prompt_length]
        key = (tuple(ids.tolist()), *(id(tensor) for tensor in item.vision.values()))
        if key not in places:
            places[key] = len(prompts)
            types = None if item.token_types is None else item.token_types[: item.prompt_length]
            prompts.append(replace(item, input_ids=ids, token_types=types))
        which.append(places[key])
    whole = collate(mllm, prompts, padding_side="left")
    by_token = {"input_ids", "attention_mask", mllm.family.token_types}
    return SharedPrompts(
        inputs={key: v[:, :-1] if key in by_token else v for key, v in whole.items()},
        last=positions(mllm, whole)[..., -1:],
        which=torch.tensor(which, device=mllm.device),
    )


@torch.no_grad()
def run_prompts(
    mllm: Mllm, shared: SharedPrompts, items: Sequence[Encoded], lengths: Sequence[int]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run the prompts, and make the inputs of the pass that continues them.

    Args:
        mllm: The model.
        shared: The prompts of the items.
        items: Prompts with responses.
        lengths: How many rows of each are wanted. Row 0 is the one that predicts the first
            response token; it is in the pass even where none is wanted.

    Returns:
        Model inputs, right-padded, whose place r is row r of the response; and further arguments
        of the forward call.
    """
    model = mllm.model
    with evaluating(model), attached(model):
        cache = model(**shared.inputs, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_select_indices(shared.which)
    tails = [
        item.input_ids[item.prompt_length - 1 :][: max(1, length)]
        for item, length in zip(items, lengths, strict=True)
    ]
    ids = pad_sequence(tails, batch_first=True, padding_value=mllm.tokenizer.pad_token_id)
    places = torch.arange(ids.shape[1])
    mask = places < torch.tensor([[len(tail)] for tail in tails])
    before = shared.inputs["attention_mask"][shared.which]
    where = shared.last[..., shared.which, :] + places.to(shared.last.device)
    inputs = {
        "input_ids": ids.to(mllm.device),
        "attention_mask": torch.cat([before, mask.to(before)], dim=1),
    }
    return inputs, {"past_key_values": cache, "use_cache": True, "position_ids": where}
