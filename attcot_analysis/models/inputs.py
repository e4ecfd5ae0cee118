"""Model inputs: prompts in chat form, token ids with their layout, and batches of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from attcot_analysis.errors import LayoutError, ProblemError
from attcot_analysis.models.layout import TokenLayout, find_layout
from attcot_analysis.models.load import Mllm
from attcot_analysis.problems import Problem

Mode = Literal["cot", "direct"]
ImageLike = Image.Image | str | Path

PROMPTS: Mapping[Mode, str] = {
    "cot": "Think step by step in <think></think>, then answer in <answer></answer>.",
    "direct": "Answer directly in <answer></answer>.",
}
"""The instruction that follows the question, per mode."""

_TEXT_KEYS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})


@dataclass(frozen=True, eq=False)
class Encoded:
    """One item's input, without padding and without a batch dimension.

    Attributes:
        input_ids: ``(T,)`` long: prompt, then response.
        layout: What each token is.
        vision: The processor's image tensors for this item; empty for a text-only prompt.
        token_types: ``(T,)`` long, the processor's ``mm_token_type_ids``, zero on the response;
            ``None`` for families without them.
        prompt_length: Number of prompt tokens.
    """

    input_ids: Tensor
    layout: TokenLayout
    vision: Mapping[str, Tensor]
    token_types: Tensor | None
    prompt_length: int

    @property
    def response_ids(self) -> tuple[int, ...]:
        """Token ids of the response."""
        return tuple(self.input_ids[self.prompt_length :].tolist())


def build_messages(
    question: str, mode: Mode = "cot", *, with_image: bool = True
) -> list[dict[str, Any]]:
    """The chat messages of a prompt: image (if any), question and the mode's instruction.

    Raises:
        LayoutError: If the mode is unknown.
    """
    if mode not in PROMPTS:
        raise LayoutError(f"Mode {mode!r} is unknown; choose one of {', '.join(PROMPTS)}.")
    text = {"type": "text", "text": f"{question}\n{PROMPTS[mode]}"}
    content = [{"type": "image"}, text] if with_image else [text]
    return [{"role": "user", "content": content}]


def read_image(image: ImageLike) -> Image.Image:
    """An image as RGB, from memory or from a file.

    Raises:
        ProblemError: If the file is missing or no readable image.
    """
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except FileNotFoundError as error:
        raise ProblemError(f"Image {image} does not exist; check the path.") from error
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise ProblemError(f"Image {image} cannot be read; it is damaged or no image.") from error


def encode(
    mllm: Mllm,
    image: ImageLike | None,
    question: str,
    *,
    mode: Mode = "cot",
    response: str | Sequence[int] | None = None,
    end: bool = False,
) -> Encoded:
    """Encode one question, with its image (or text-only), and optionally a response to it.

    Args:
        mllm: The model whose processor and chat template are used.
        image: Picture or path; ``None`` for a text-only prompt.
        question: Without instruction.
        mode: ``"cot"`` or ``"direct"``.
        response: Text, or token ids, which are kept as they are.
        end: Append the tokenizer's end token to the response, as training needs it.

    Raises:
        ProblemError: If the image cannot be read.
        LayoutError: If image tokens and grid disagree, or the processor refuses the prompt.
    """
    placeholder = mllm.tokenizer.convert_ids_to_tokens(mllm.image_token_id)
    if placeholder in question:
        raise LayoutError(
            f"The question holds the image placeholder {placeholder!r}; remove it, the image is "
            "put before the question."
        )
    picture = None if image is None else read_image(image)
    messages = build_messages(question, mode, with_image=picture is not None)
    prompt = mllm.processor.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    prompt_ids, token_types, vision = _process(mllm, prompt, picture)
    sizes = [] if picture is None else [picture.size]
    grids = mllm.family.grids(mllm.processor, vision, sizes)
    response_ids = _response_ids(mllm, response, end)
    layout = find_layout(
        mllm.tokenizer,
        prompt_ids,
        response_ids,
        image_token_id=mllm.image_token_id,
        grids=grids,
        stop_ids=mllm.stop_ids,
    )
    if token_types is not None:
        token_types = [*token_types, *[0] * len(response_ids)]
    return Encoded(
        input_ids=torch.tensor([*prompt_ids, *response_ids], dtype=torch.long),
        layout=layout,
        vision=vision,
        token_types=None if token_types is None else torch.tensor(token_types, dtype=torch.long),
        prompt_length=len(prompt_ids),
    )


def encode_problem(
    mllm: Mllm,
    problem: Problem,
    *,
    mode: Mode = "cot",
    response: str | Sequence[int] | None = None,
    image: ImageLike | None = None,
    text_only: bool = False,
    end: bool = False,
) -> Encoded:
    """Encode a problem; ``image`` replaces its picture (a twin's, say), ``text_only`` drops it.

    Raises:
        ProblemError: If the image cannot be read.
        LayoutError: If image tokens and grid disagree.
    """
    picture = None if text_only else (problem.image if image is None else image)
    return encode(mllm, picture, problem.question, mode=mode, response=response, end=end)


def collate(
    mllm: Mllm,
    items: Sequence[Encoded],
    *,
    padding_side: Literal["right", "left"] = "right",
    device: str | torch.device | None = None,
) -> dict[str, Tensor]:
    """Batch items into model inputs, without labels.

    Args:
        mllm: The model they were encoded for.
        items: At least one; items with and without image may be mixed.
        padding_side: With ``"right"`` the positions of each item's layout stay valid.
        device: Default: the model's. Give ``"cpu"`` inside a data loader.

    Returns:
        ``input_ids``, ``attention_mask`` and, where the family has them, ``mm_token_type_ids``,
        each ``(B, T)`` long, and the image tensors of all items, concatenated.
    """
    if not items:
        raise LayoutError("An empty batch cannot be collated; give at least one item.")
    left = padding_side == "left"

    def pad(rows: Sequence[Tensor], value: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            list(rows), batch_first=True, padding_value=value, padding_side=padding_side
        )

    lengths = torch.tensor([len(item.input_ids) for item in items])
    longest = int(lengths.max())
    places = torch.arange(longest)
    mask = places >= longest - lengths[:, None] if left else places < lengths[:, None]
    batch = {
        "input_ids": pad([item.input_ids for item in items], mllm.tokenizer.pad_token_id),
        "attention_mask": mask.long(),
    }
    types = [item.token_types for item in items if item.token_types is not None]
    if len(types) == len(items):
        batch["mm_token_type_ids"] = pad(types, 0)
    keys = dict.fromkeys(key for item in items for key in item.vision)
    for key in keys:
        batch[key] = torch.cat([item.vision[key] for item in items if key in item.vision])
    device = mllm.device if device is None else device
    return {key: value.to(device) for key, value in batch.items()}


def positions(mllm: Mllm, batch: Mapping[str, Tensor]) -> Tensor:
    """Position ids as the model itself would compute them for a batch of `collate`.

    Returns:
        ``(B, T)`` long, or ``(3, B, T)`` for families with M-RoPE.
    """
    return mllm.family.positions(mllm.model, batch)


def _process(
    mllm: Mllm, prompt: str, picture: Image.Image | None
) -> tuple[list[int], list[int] | None, dict[str, Tensor]]:
    images = {} if picture is None else {"images": [picture]}
    try:
        found = mllm.processor(text=[prompt], **images, return_tensors="pt")
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise LayoutError(f"The processor refused the prompt or its image: {reason}") from error
    types = found.get("mm_token_type_ids")
    vision = {key: value for key, value in found.items() if key not in _TEXT_KEYS}
    return found["input_ids"][0].tolist(), None if types is None else types[0].tolist(), vision


def _response_ids(mllm: Mllm, response: str | Sequence[int] | None, end: bool) -> list[int]:
    if response is None:
        ids: list[int] = []
    elif isinstance(response, str):
        ids = mllm.tokenizer(response, add_special_tokens=False)["input_ids"]
    else:
        ids = [int(token) for token in response]
    return [*ids, mllm.tokenizer.eos_token_id] if end else ids
