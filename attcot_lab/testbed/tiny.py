"""The parts of a tiny MLLM of a real class: tokenizer, processor, configuration, random weights.

Three families are built, each as its published checkpoints are: Qwen2.5-VL (M-RoPE, patches of the
picture as it is), InternVL (a square tower, pixel shuffle, an MLP) and LLaVA-1.5 (a CLIP tower, a
Llama text stack). A picture of the testbed is 6×6 image tokens in all of them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import processors as post_processors
from transformers import (
    CLIPImageProcessor,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from attcot_analysis.errors import TrainingError

_TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_INTERNVL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Cell names, words, single digits, punctuation with the line end behind it, white space.
_WORDS = r" ?[a-i][1-9](?!\p{N})| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% if message['role'] == 'assistant' %}</s>{% else %} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


@dataclass(frozen=True)
class TinySpec:
    """Family and sizes of a tiny MLLM.

    Attributes:
        family: ``"qwen2_5_vl"``, ``"internvl"`` or ``"llava"``.
        hidden: Width of text and vision.
        text_layers: Decoder layers.
        vision_layers: Layers of the vision tower.
        heads: Attention heads of both.
        key_heads: Key/value heads of the text stack.
        feed_forward: Width of the feed-forward layers, in multiples of `hidden`.
        patch: Pixels per patch side; a token is ``merge`` × ``merge`` patches.
        merge: See `patch`; LLaVA has no merging.
        image: Pixels per side of the pictures that the towers of InternVL and LLaVA take.
        vocabulary: Size of the BPE vocabulary before special tokens.

    Raises:
        TrainingError: If the family is not one of the three.
    """

    family: str = "qwen2_5_vl"
    hidden: int = 128
    text_layers: int = 4
    vision_layers: int = 2
    heads: int = 4
    key_heads: int = 2
    feed_forward: int = 2
    patch: int = 16
    merge: int = 1
    image: int = 96
    vocabulary: int = 512

    def __post_init__(self) -> None:
        """Check the family."""
        if self.family not in _FAMILIES:
            raise TrainingError(
                f"There is no tiny {self.family!r}; choose one of {', '.join(_FAMILIES)}."
            )
        if self.family == "llava" and self.merge != 1:
            raise TrainingError(f"LLaVA merges no patches; merge is {self.merge}, expected 1.")

    @property
    def image_tokens(self) -> int:
        """Image tokens of one picture of `image` pixels a side."""
        return (self.image // (self.patch * self.merge)) ** 2


def tiny_processor(sentences: Iterable[str], spec: TinySpec) -> Any:
    """A processor of the family with small patches and a tokenizer for `sentences`."""
    return _FAMILIES[spec.family][0](_vocabulary(sentences, spec.vocabulary), spec)


def tiny_model(processor: Any, spec: TinySpec, *, seed: int) -> PreTrainedModel:
    """A randomly initialised model for `processor`, in fp32.

    Weight matrices have the scale 1/√(width of their input): the families' own 0.02 is made for
    widths of thousands and leaves a tiny model on a plateau for hundreds of steps.
    """
    torch.manual_seed(seed)
    model: PreTrainedModel = _FAMILIES[spec.family][1](processor.tokenizer, spec)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2 and id(weight) not in embeddings:
                weight.normal_(0.0, weight.shape[1] ** -0.5)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model


def _vocabulary(sentences: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE tokenizer trained on `sentences`."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(sentences, trainer)
    return core


def _qwen_tokenizer(
    core: Tokenizer, special: Iterable[str], named: Mapping[str, str]
) -> Qwen2Tokenizer:
    """Qwen's tokenizer, which InternVL has as well, with further special tokens."""
    learned = json.loads(core.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[*_TURNS, *special],
        extra_special_tokens=dict(named),
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*_TURNS, *special]})
    tokenizer.add_tokens(list(_TAGS))
    return tokenizer


def _text(spec: TinySpec, tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": spec.hidden,
        "intermediate_size": spec.feed_forward * spec.hidden,
        "num_hidden_layers": spec.text_layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.key_heads,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **more,
    }


def _tower(spec: TinySpec, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": spec.hidden,
        "intermediate_size": spec.feed_forward * spec.hidden,
        "num_hidden_layers": spec.vision_layers,
        "num_attention_heads": spec.heads,
        "patch_size": spec.patch,
        "image_size": spec.image,
        **more,
    }


def _qwen_processor(core: Tokenizer, spec: TinySpec) -> Any:
    vision: dict[str, Any] = {
        "patch_size": spec.patch,
        "merge_size": spec.merge,
        "temporal_patch_size": 1,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 512 * 512},
    }
    template = CHAT_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**vision),
        tokenizer=_qwen_tokenizer(core, _QWEN, {}),
        video_processor=Qwen2VLVideoProcessor(**vision),
        chat_template=template,
    )


def _qwen_model(tokenizer: Any, spec: TinySpec) -> PreTrainedModel:
    token = tokenizer.convert_tokens_to_ids
    half = spec.hidden // spec.heads // 2
    time = half // 4
    height = (half - time) // 2
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [time, height, half - time - height],
    }
    config = Qwen2_5_VLConfig(
        text_config=_text(spec, tokenizer, rope_parameters=rope),
        vision_config={
            "depth": spec.vision_layers,
            "hidden_size": spec.hidden,
            "intermediate_size": spec.feed_forward * spec.hidden,
            "num_heads": spec.heads,
            "patch_size": spec.patch,
            "spatial_merge_size": spec.merge,
            "temporal_patch_size": 1,
            "out_hidden_size": spec.hidden,
            "window_size": 8 * spec.patch * spec.merge,
            "fullatt_block_indexes": list(range(spec.vision_layers)),
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _internvl_processor(core: Tokenizer, spec: TinySpec) -> Any:
    size = {"height": spec.image, "width": spec.image}
    tokenizer = _qwen_tokenizer(core, _INTERNVL.values(), _INTERNVL)
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(crop_to_patches=False, size=size),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=spec.image_tokens,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )


def _internvl_model(tokenizer: Any, spec: TinySpec) -> PreTrainedModel:
    config = InternVLConfig(
        text_config=_text(spec, tokenizer, model_type="qwen2"),
        vision_config=_tower(spec),
        image_token_id=tokenizer.convert_tokens_to_ids(_INTERNVL["context_image_token"]),
        image_seq_length=spec.image_tokens,
        downsample_ratio=1 / spec.merge,
        tie_word_embeddings=True,
    )
    return InternVLForConditionalGeneration(config)


def _llava_processor(core: Tokenizer, spec: TinySpec) -> Any:
    # Digits stand alone, as in Llama's and in Qwen's tokenizers.
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), core.pre_tokenizer]
    )
    core.add_special_tokens(["<s>", "</s>", "<unk>", "<pad>", "<image>"])
    core.add_tokens(list(_TAGS))
    core.post_processor = post_processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    size = {"height": spec.image, "width": spec.image}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": spec.image}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=spec.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )


def _llava_model(tokenizer: Any, spec: TinySpec) -> PreTrainedModel:
    # Biases as in the other families' text stacks: without them, attention to a place or to a word
    # so many tokens before is learned late or never.
    config = LlavaConfig(
        text_config=_text(spec, tokenizer, model_type="llama", attention_bias=True),
        vision_config=_tower(spec, model_type="clip_vision_model"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=spec.image_tokens,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


_FAMILIES = {
    "qwen2_5_vl": (_qwen_processor, _qwen_model),
    "internvl": (_internvl_processor, _internvl_model),
    "llava": (_llava_processor, _llava_model),
}
