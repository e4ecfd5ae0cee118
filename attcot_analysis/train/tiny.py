"""The parts of a tiny MLLM of a real class: tokenizer, processor, configuration, random weights."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Words, single digits, punctuation with the line end behind it, white space.
_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class TinySpec:
    """Sizes of a tiny Qwen2.5-VL.

    Attributes:
        hidden: Width of text and vision.
        text_layers: Decoder layers.
        vision_layers: Layers of the vision tower.
        heads: Attention heads of both.
        key_heads: Key/value heads of the text stack.
        feed_forward: Width of the feed-forward layers, in multiples of `hidden`.
        patch: Pixels per patch side; a token is ``merge`` × ``merge`` patches.
        merge: See `patch`.
        vocabulary: Size of the BPE vocabulary before special tokens.
    """

    hidden: int = 128
    text_layers: int = 4
    vision_layers: int = 2
    heads: int = 4
    key_heads: int = 2
    feed_forward: int = 2
    patch: int = 16
    merge: int = 1
    vocabulary: int = 512


def tiny_tokenizer(sentences: Iterable[str], vocabulary: int) -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer trained on `sentences`, with Qwen's special tokens."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(sentences, trainer)
    learned = json.loads(core.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(_SPECIAL),
    )
    tokenizer.add_tokens(list(_TAGS))
    return tokenizer


def tiny_processor(sentences: Iterable[str], spec: TinySpec) -> Qwen2_5_VLProcessor:
    """A Qwen2.5-VL processor with small patches and a tokenizer for `sentences`."""
    vision: dict[str, Any] = {
        "patch_size": spec.patch,
        "merge_size": spec.merge,
        "temporal_patch_size": 1,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 512 * 512},
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**vision),
        tokenizer=tiny_tokenizer(sentences, spec.vocabulary),
        video_processor=Qwen2VLVideoProcessor(**vision),
        chat_template=CHAT_TEMPLATE,
    )


def tiny_model(
    processor: Qwen2_5_VLProcessor, spec: TinySpec, *, seed: int
) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised model for `processor`, in fp32."""
    token = processor.tokenizer.convert_tokens_to_ids
    quarter = spec.hidden // spec.heads // 8
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": spec.hidden,
            "intermediate_size": spec.feed_forward * spec.hidden,
            "num_hidden_layers": spec.text_layers,
            "num_attention_heads": spec.heads,
            "num_key_value_heads": spec.key_heads,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [
                    quarter,
                    (spec.hidden // spec.heads // 2 - quarter) // 2,
                    spec.hidden // spec.heads // 2
                    - quarter
                    - (spec.hidden // spec.heads // 2 - quarter) // 2,
                ],
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "pad_token_id": token("<|endoftext|>"),
            "eos_token_id": token("<|im_end|>"),
        },
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
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = token("<|im_end|>")
    model.generation_config.pad_token_id = token("<|endoftext|>")
    return model
