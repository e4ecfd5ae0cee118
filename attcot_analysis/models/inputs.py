"""Model inputs: prompts in chat form, token ids with their layout, and batches of them."""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attcot_analysis.errors import LayoutError, one_line
from attcot_analysis.models.families import ProcessedPrompt
from attcot_analysis.models.grid import TokenGrid
from attcot_analysis.models.layout import (
    ReadResponse,
    TokenLayout,
    check_response,
    find_prompt,
    read_response,
    with_response,
)
from attcot_analysis.models.load import Mllm, out_of_memory
from attcot_analysis.problems import Problem
from attcot_analysis.problems.formats import FORMATS, TAGS, Mode, ResponseFormat
from attcot_analysis.problems.pictures import StoredPicture, open_picture
from attcot_analysis.problems.problem import check_text

ImageLike = Image.Image | StoredPicture | str | Path

Shown = ImageLike | Sequence[ImageLike]
"""What is shown instead of an item's own picture, or instead of all of its several pictures."""

PROMPTS: Mapping[Mode, str] = {"cot": TAGS.cot, "direct": TAGS.direct}
"""The instruction that follows the question, per mode, in the default format."""

_OTHER_OPENING = re.compile(
    r"([<\[\u25c1][^<>\[\]\u25c1\u25b7/]*(?:think|thought|reason)[^<>\[\]\u25c1\u25b7/]*[>\]\u25b7])\s*\Z",
    re.IGNORECASE,
)

_TEXT_KEYS = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})


@dataclass(frozen=True, eq=False)
class Encoded:
    """One item's input, without padding and without a batch dimension.

    Attributes:
        input_ids: ``(T,)`` long: prompt, then response.
        layout: What each token is.
        vision: The processor's image tensors for this item; empty for a text-only prompt.
        token_types: ``(T,)`` long, what the model takes as the family's ``token_types`` input
            (``mm_token_type_ids``, say), zero on the response; ``None`` for families without.
        prompt_length: Number of prompt tokens.
        opened: Whether the prompt ends in an open rationale, so that the response begins inside
            the rationale.
    """

    input_ids: Tensor
    layout: TokenLayout
    vision: Mapping[str, Tensor]
    token_types: Tensor | None
    prompt_length: int
    opened: bool = False

    @property
    def response_ids(self) -> tuple[int, ...]:
        """Token ids of the response."""
        return tuple(self.input_ids[self.prompt_length :].tolist())

    def plain(self) -> dict[str, Any]:
        """What each token is, as lists and numbers that JSON and other packages take.

        Returns:
            ``ids``, the whole sequence; ``image``, ``newlines``, ``system`` and ``question``,
            positions in it; ``response``, ``think``, ``answer`` (``None`` if there is none) and
            each of ``steps`` as ``[start, stop]``, tokens start to stop − 1, which are predicted at
            start − 1 to stop − 2; and per picture in ``grids`` its ``image_size`` (width, height)
            and, in the order of ``image``, the ``boxes`` ``[x0, y0, x1, y1]`` that its tokens stand
            for, in pixels of the original, with ``shape`` (rows, columns) where they form one grid.
        """
        layout = self.layout
        spans = {name: getattr(layout, name) for name in ("response", "think", "answer")}
        return {
            "ids": self.input_ids.tolist(),
            **{
                name: getattr(layout, name).tolist()
                for name in ("image", "newlines", "system", "question")
            },
            **{name: None if span is None else list(span) for name, span in spans.items()},
            "steps": [list(step) for step in layout.steps],
            "grids": [
                {
                    "image_size": list(grid.image_size),
                    "shape": None if grid.shape is None else list(grid.shape),
                    "boxes": grid.boxes.tolist(),
                }
                for grid in layout.grids
            ],
        }


def build_messages(
    question: str,
    mode: Mode = "cot",
    *,
    n_images: int = 1,
    form: ResponseFormat = TAGS,
    candidates: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The chat messages of a prompt: images (if any), question and the mode's instruction.

    Args:
        question: Without instruction.
        mode: ``"cot"`` or ``"direct"``.
        n_images: How many pictures.
        form: The format, which says what stands around the question.
        candidates: Options to show, where the format shows them.
        labels: What to say before each picture; none, or one per picture.

    Raises:
        LayoutError: If the mode is unknown.
    """
    if mode not in PROMPTS:
        raise LayoutError(f"Mode {mode!r} is unknown; choose one of {', '.join(PROMPTS)}.")
    parts = [form.question(question, candidates), form.instruction(mode)]
    text = {"type": "text", "text": "\n".join(part for part in parts if part)}
    said = [[{"type": "text", "text": f"{label} "}] for label in labels] or [[]] * n_images
    images = [part for before in said for part in (*before, {"type": "image"})]
    content = [*images, text] if form.picture == "before" else [text, *images]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if form.system is not None:
        system = {"type": "text", "text": form.system}
        messages.insert(0, {"role": "system", "content": [system]})
    return messages


def read_image(image: ImageLike) -> Image.Image:
    """A picture as RGB, upright and on white, from memory or from a file, as datasets are read.

    Raises:
        ProblemError: If the file is missing, no readable picture or of no known range.
    """
    if isinstance(image, StoredPicture):
        return image.read()
    name = "The image" if isinstance(image, Image.Image) else f"Image {image}"
    return open_picture(image, name, damaged="cannot be read; it is damaged or no image")


def encode(
    mllm: Mllm,
    image: Shown | None,
    question: str,
    *,
    mode: Mode = "cot",
    response: str | Sequence[int] | None = None,
    end: bool = False,
    candidates: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> Encoded:
    """Encode one question, with its image (or text-only), and optionally a response to it.

    Args:
        mllm: The model whose processor and chat template are used.
        image: Picture or path, or several, which are put before the question in order; ``None``
            for a text-only prompt.
        question: Without instruction.
        mode: ``"cot"`` or ``"direct"``.
        response: Text, or token ids, which are kept as they are. Where the chat template itself
            opens the rationale, the text's own opening tag is left out; in mode ``"direct"`` an
            empty rationale is put behind such a prompt.
        end: Append the tokenizer's end token to the response, as training needs it.
        candidates: Options to show, where the model's format shows them.
        labels: What to say before each picture; none, or one per picture.

    Raises:
        ProblemError: If the image cannot be read.
        LayoutError: If image tokens and grid disagree, the processor refuses the prompt, or the
            chat template does not write labels before their pictures.
        ModelError: If the chat template fails.
    """
    given: Sequence[ImageLike] = []
    if isinstance(image, ImageLike):
        given = [image]
    elif image is not None:
        given = image
    form, cache, options = mllm.format, mllm.cache, tuple(candidates or ())

    def text() -> tuple[ResponseFormat, str]:
        return form, prompt_text(mllm, question, mode, len(given), options, labels)

    key = (question, mode, len(given), options, tuple(labels), id(form))
    _, prompt = text() if cache is None else cache.prompt(key, text)
    return encode_prompt(mllm, prompt, given, response=response, end=end)


def prompt_text(
    mllm: Mllm,
    question: str,
    mode: Mode = "cot",
    n_images: int = 1,
    candidates: Sequence[str] = (),
    labels: Sequence[str] = (),
) -> str:
    """The prompt as the chat template writes it; the arguments are those of `build_messages`.

    Raises:
        LayoutError: If a text holds what the model reads as a picture, or labels would not stand
            before their pictures.
        ModelError: If the chat template fails.
    """
    words = [("question", question), *(("option", one) for one in candidates)]
    _check_words(mllm, [*words, *(("label", one) for one in labels)])
    if labels:
        _check_labels(mllm, labels, n_images)
    form = mllm.format
    messages = build_messages(
        question, mode, n_images=n_images, form=form, candidates=candidates, labels=labels
    )
    prompt = mllm.prompt(messages)
    if mode == "direct" and form.rationale is not None and form.is_open(prompt):
        # An empty rationale, as the templates of thinking models write it.
        prompt = f"{prompt.rstrip()}\n\n{form.rationale[1]}\n\n"
    return prompt


def _check_labels(mllm: Mllm, labels: Sequence[str], n_images: int) -> None:
    """Refuse labels that a chat template parts from their pictures, as those that sort parts do."""
    if len(labels) != n_images:
        raise LayoutError(
            f"{len(labels)} labels were given for {n_images} pictures; give each one, or none."
        )
    mark = {"type": "text", "text": "zqlabelqz"}
    parts = [*[mark, {"type": "image"}] * n_images, mark]
    between = mllm.prompt([{"role": "user", "content": parts}]).split(mark["text"])[1:-1]
    if len(between) != n_images or not all(one.strip() for one in between):
        raise LayoutError(
            f"The chat template of {mllm.name} writes all pictures before all texts, so that the "
            f"label {labels[0]!r} would not stand before its picture; leave labels out and say in "
            "the question which picture is which, or take another model."
        )


def encode_prompt(
    mllm: Mllm,
    prompt: str,
    images: Sequence[ImageLike] = (),
    *,
    response: str | Sequence[int] | None = None,
    end: bool = False,
) -> Encoded:
    """Encode a prompt that a chat template has already been applied to.

    Args:
        mllm: The model whose processor is used.
        prompt: Text with one image placeholder per image, as the template writes it.
        images: Pictures or paths, in the order of the placeholders.
        response: Text, or token ids, which are kept as they are.
        end: Append the tokenizer's end token to the response.

    Raises:
        ProblemError: If an image cannot be read.
        LayoutError: If image tokens and grid disagree, or the processor refuses the prompt.
    """
    pictures = [one if isinstance(one, StoredPicture) else read_image(one) for one in images]
    cache, form, stop = mllm.cache, mllm.format, mllm.stop_ids

    def bare() -> Encoded:
        return _encode_bare(mllm, prompt, [read_image(one) for one in pictures])

    key = () if cache is None else (prompt, *(cache.digest(one) for one in pictures))
    encoded = bare() if cache is None else cache.prompt(key, bare)
    opened = _opened(mllm, prompt)
    if opened and isinstance(response, str):
        response = form.without_opening(response)
    ids = _response_ids(mllm, response, end)
    if not ids:
        return replace(encoded, opened=opened)
    check_response(ids, mllm.image_token_id)

    def read() -> ReadResponse:
        return read_response(mllm.tokenizer, ids, stop_ids=stop, form=form, opened=opened)

    written = read() if cache is None else cache.response((*ids, opened, id(form)), read)
    types = encoded.token_types
    return replace(
        encoded,
        input_ids=torch.cat([encoded.input_ids, torch.tensor(ids, dtype=torch.long)]),
        layout=with_response(encoded.layout, written, len(ids)),
        token_types=None if types is None else torch.nn.functional.pad(types, (0, len(ids))),
        opened=opened,
    )


def encode_problem(
    mllm: Mllm,
    problem: Problem,
    *,
    mode: Mode = "cot",
    response: str | Sequence[int] | None = None,
    image: Shown | None = None,
    text_only: bool = False,
    end: bool = False,
) -> Encoded:
    """Encode a problem; ``image`` replaces its picture (a twin's, say), ``text_only`` drops it.

    All of several pictures are shown in order; ``image`` is then a list that replaces all of them.

    Raises:
        ProblemError: If the image cannot be read.
        LayoutError: If image tokens and grid disagree, the processor refuses the picture, or
            ``image`` is not as many pictures as the problem has.
    """
    n_given = len(image) if isinstance(image, list | tuple) else 1
    if image is not None and n_given != problem.n_images:
        raise LayoutError(
            f"Problem {problem.id} has {problem.n_images} pictures, and {n_given} were given to "
            "show instead; give as many, in order (EditedImage.shown does)."
        )
    picture = None if text_only else (problem.held if image is None else image)
    try:
        return encode(
            mllm,
            picture,
            problem.question,
            mode=mode,
            response=response,
            end=end,
            candidates=problem.candidates,
            labels=() if text_only else problem.picture_labels,
        )
    except LayoutError as error:
        raise LayoutError(f"Problem {problem.id}: {error}") from error


def prefix_ids(mllm: Mllm, encoded: Encoded, k: int) -> list[int]:
    """The response's token ids up to the end of step k, 0 for the start of the rationale.

    Where a token runs across that place, the part of it before is written in tokens of its own.

    Raises:
        LayoutError: If the response has no rationale.
    """
    ids = encoded.input_ids[encoded.prompt_length : encoded.layout.step_ends[k]].tolist()
    rest = encoded.layout.cuts[k].rest
    return [*ids, *(mllm.tokenizer(rest, add_special_tokens=False)["input_ids"] if rest else [])]


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
        ``input_ids``, ``attention_mask`` and, where the family has them, its token types
        (``mm_token_type_ids``, say), each ``(B, T)`` long, and the image tensors of all items,
        concatenated. Where they count tiles in their second dimension, or pictures keep their own
        sizes, the smaller ones are filled up with zeros, which the models leave out.
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
    if mllm.family.token_types is not None and len(types) == len(items):
        batch[mllm.family.token_types] = pad(types, 0)
    keys = dict.fromkeys(key for item in items for key in item.vision)
    for key in keys:
        shown = [item.vision for item in items if key in item.vision]
        join = mllm.family.joins.get(key)
        batch[key] = _join([one[key] for one in shown]) if join is None else join(shown)
    device = mllm.device if device is None else device
    return {key: value.to(device) for key, value in batch.items()}


def last_row(batch: Mapping[str, Tensor]) -> Tensor:
    """``logits_to_keep`` where no logits are wanted: the last position, ``(1,)`` long.

    As the number 1, models whose later layers share keys (Gemma 4) would drop their other rows.
    """
    ids = batch["input_ids"]
    return torch.tensor([ids.shape[1] - 1], device=ids.device)


def positions(mllm: Mllm, batch: Mapping[str, Tensor]) -> Tensor:
    """Position ids as the model itself would compute them for a batch of `collate`.

    Returns:
        ``(B, T)`` long, or ``(3, B, T)`` for families with M-RoPE.
    """
    return mllm.family.positions(mllm.model, batch)


def _join(tensors: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(shapes) > 1 and tensors[0].ndim > 2:
        largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        tensors = [
            torch.nn.functional.pad(
                tensor,
                [
                    extra
                    for size, own in zip(reversed(largest), reversed(tensor.shape[1:]), strict=True)
                    for extra in (0, size - own)
                ],
            )
            for tensor in tensors
        ]
    return torch.cat(list(tensors))


def _check_words(mllm: Mllm, texts: Sequence[tuple[str, str]]) -> None:
    """Refuse a question and options that hold what this tokenizer does not read as text."""
    placeholders = _placeholders(mllm)
    for where, text in texts:
        check_text(text, f"The {where}")
        found = next((one for one in (*placeholders, *mllm.special_tokens) if one in text), None)
        if found is not None:
            what = "image placeholder" if found in placeholders else "special token"
            raise LayoutError(
                f"The {where} holds the {what} {found!r} of {mllm.name}; remove it, pictures and "
                "turns are put into the prompt by themselves."
            )


def _placeholders(mllm: Mllm) -> set[str]:
    """What stands for an image in a prompt, before and after the processor expands it."""
    found = {mllm.tokenizer.convert_ids_to_tokens(mllm.image_token_id)}
    # Gemma 3 writes the second one, and older transformers give the expanded one as image_token.
    written = (getattr(mllm.processor, name, None) for name in ("image_token", "boi_token"))
    return found | {str(one) for one in written if one is not None}


def _encode_bare(mllm: Mllm, prompt: str, pictures: Sequence[Image.Image]) -> Encoded:
    """A prompt without a response."""
    ids, types, vision = _process(mllm, prompt, pictures)
    grids = _grids(mllm, ids, vision, pictures) if pictures else ()
    return Encoded(
        input_ids=torch.tensor(ids, dtype=torch.long),
        layout=find_prompt(ids, mllm.image_token_id, grids),
        vision=vision,
        token_types=None if types is None else torch.tensor(types, dtype=torch.long),
        prompt_length=len(ids),
    )


def _process(
    mllm: Mllm, prompt: str, pictures: Sequence[Image.Image]
) -> tuple[list[int], list[int] | None, dict[str, Tensor]]:
    # One list per prompt: some processors treat several images in one prompt in another way.
    options: dict[str, Any] = {"images": [list(pictures)]} if pictures else {}
    start = mllm.tokenizer.bos_token
    if start is not None and prompt.startswith(start):
        options["add_special_tokens"] = False
    try:
        with nullcontext() if mllm.cache is None else mllm.cache.preparing(mllm.processor):
            found = mllm.processor(text=[prompt], **options, return_tensors="pt")
    # With settings of a wrong type it fails wherever these are first used.
    except (
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        if out_of_memory(error):
            raise
        raise LayoutError(
            f"The processor refused the prompt or its image: {one_line(error)}."
        ) from error
    ids = found["input_ids"][0].tolist()
    vision = {key: value for key, value in found.items() if key not in _TEXT_KEYS}
    key = mllm.family.token_types
    if key is None:
        return ids, None, vision
    types = found[key][0].tolist() if key in found else [0] * len(ids)
    return ids, types, vision


def _grids(
    mllm: Mllm,
    prompt_ids: Sequence[int],
    vision: Mapping[str, Tensor],
    pictures: Sequence[Image.Image],
) -> tuple[TokenGrid, ...]:
    prompt = ProcessedPrompt(
        processor=mllm.processor,
        config=mllm.model.config,
        ids=np.asarray(prompt_ids, dtype=np.int64),
        image_token_id=mllm.image_token_id,
        vision=vision,
        image_sizes=[picture.size for picture in pictures],
    )
    return mllm.family.grids(prompt)


def _opened(mllm: Mllm, prompt: str) -> bool:
    """Whether the prompt ends in an open rationale; another opening tag is refused."""
    if mllm.format.is_open(prompt):
        return True
    other = _OTHER_OPENING.search(prompt)
    if other is not None and (mllm.format.rationale or mllm.format.answer is None):
        known = [
            name
            for name, form in FORMATS.items()
            if form.rationale is not None and form.rationale[0] == other[1]
        ]
        remedy = (
            f"choose a format that reads it ({', '.join(known)})"
            if known
            else "give the model a template or a format (docs/formats.md) that fits"
        )
        raise LayoutError(
            f"The chat template of {mllm.name} opens the rationale with {other[1]!r}, which the "
            f"format {mllm.format.name} does not read; {remedy}."
        )
    return False


def _response_ids(mllm: Mllm, response: str | Sequence[int] | None, end: bool) -> list[int]:
    if response is None:
        ids: list[int] = []
    elif isinstance(response, str):
        check_text(response, "A response")
        ids = mllm.tokenizer(response, add_special_tokens=False)["input_ids"]
    else:
        ids = mllm.check_ids(response)
    return [*ids, mllm.tokenizer.eos_token_id] if end else ids
