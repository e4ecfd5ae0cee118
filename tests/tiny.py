"""A tiny Qwen2.5-VL with random weights, built in code: the model of most tests."""

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from attcot_analysis.models import Mllm, wrap_mllm

ADDED = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

SENTENCES = (
    "You are a helpful assistant.",
    "Think step by step in <think></think>, then answer in <answer></answer>.",
    "Answer directly in <answer></answer>.",
    "Start at the star and follow the arrow. What color is the shape you reach?",
    "1. The star is in cell a1 and its arrow points right.\n2. Cell b1 holds a red circle.\n",
    "3. The square in cell c2 is green; its arrow points down, left or up.\n",
    "red green blue yellow purple orange black white circle square triangle star",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(vocab_size: int = 420) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(ADDED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    core.add_tokens(list(TAGS))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How the tokenizers of Qwen 2.5 and 3 cut a text before they merge; Llama 3's is much alike."""

MERGED = ("A", "B", "C", "Mon", "No", "The", "I", "-", "(", "$")
"""What follows `<answer>` in answers whose first token joins the tag's `>`, as in Qwen's."""


def merging_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE that joins tags and text as published tokenizers do: ``>A``, ``.</``."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(ADDED),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tags = ["<think>\n1. ", "right.</think>\n", "<answer>", "5%</answer>", "(B)</answer>"]
    said = [f"<answer>{text}</answer>" for text in MERGED]
    core.train_from_iterator([*SENTENCES, *(9 * [*tags, *said, "Monday", "Money"])], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def tiny_processor(tokenizer: object = None) -> transformers.Qwen2_5_VLProcessor:
    """Patches of 8 px, merged 2 x 2: one token per 16 x 16 px, any image up to 16,384 tokens."""
    sizes = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}
    return transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=8, merge_size=2, size=sizes),
        tokenizer=tokenizer or tiny_tokenizer(),
        video_processor=transformers.Qwen2VLVideoProcessor(patch_size=8, merge_size=2),
        chat_template=CHAT_TEMPLATE,
    )


def tiny_mllm(*, layers: int = 3, seed: int = 0, tokenizer: object = None, **text: object) -> Mllm:
    """A random-weight model: hidden 64, 4 heads over 2 key heads, head size 16.

    Weights are larger than usual, so that attention is far from uniform.
    """
    processor = tiny_processor(tokenizer)
    token = processor.tokenizer.convert_tokens_to_ids
    torch.manual_seed(seed)
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
            },
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
            "initializer_range": 0.2,
            **text,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 32,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.1,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    model = transformers.Qwen2_5_VLForConditionalGeneration._from_config(
        config, attn_implementation="sdpa"
    )
    return wrap_mllm(model.float().eval(), processor, name="tiny")


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
