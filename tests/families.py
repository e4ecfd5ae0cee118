"""Tiny checkpoints of every supported family: own config and processor classes, random weights."""

import functools
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_mllm, tiny_processor, tiny_tokenizer
from tokenizers import processors as post_processors

from attcot_analysis.models import Mllm, wrap_mllm

# isort: split
# After our models package, which makes torchvision importable.
import transformers

FAMILY_NAMES = (
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "llava",
    "llava_next",
    "llava_onevision",
    "gemma3",
    "idefics3",
    "smolvlm",
    "molmo2",
)
"""The model types that every test over families runs on."""

MORE_FAMILIES = (
    "qwen2_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "glm4v",
    "glm4v_moe",
    "glm46v",
    "gemma4",
    "mistral3",
    "pixtral",
    "aya_vision",
    "cohere2_vision",
    "ovis2",
    "lfm2_vl",
    "minicpmv4_6",
)
"""Further ones: their maps, ids and positions are tested, and what `check_model` checks."""

HIDDEN = 64


def tiny_family(name: str, **changes: Any) -> Mllm:
    """A random-weight model: hidden 64, 3 layers, 4 heads over 2 key heads, head size 16.

    Tiles are 32 px, tokens 8 px (16 px in Qwen-VL and Gemma 3); ``changes`` go to the image
    processor. The same call gives the same weights. Build anew what you mean to change.
    """
    if name == "qwen2_5_vl":
        return tiny_mllm()
    prefix, build = _BUILDERS[name]
    processor, settings = build(**changes)
    tokenizer = processor.tokenizer
    config = getattr(transformers, f"{prefix}Config")(**settings, tie_word_embeddings=False)
    torch.manual_seed(0)
    made = getattr(transformers, f"{prefix}ForConditionalGeneration")
    model = made._from_config(config, attn_implementation="sdpa").float().eval()
    _randomise(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return wrap_mllm(model, processor, name=f"tiny {name}")


def llava_over(attention: str = "sdpa", **text: Any) -> Mllm:
    """LLaVA over another text stack, for kinds of attention that no family here has."""
    processor, settings = _llava()
    own = {name: value for name, value in settings["text_config"].items() if name != "head_dim"}
    settings["text_config"] = own | text
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration._from_config(
        transformers.LlavaConfig(**settings, tie_word_embeddings=False),
        attn_implementation={"text_config": attention, "vision_config": "sdpa"},
    )
    _randomise(model.float().eval())
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return wrap_mllm(model, processor, name=f"LLaVA over {text['model_type']}")


LATENT = {
    "model_type": "deepseek_v3",
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
}
"""Keys and values from one small vector per token (MLA), values narrower than keys."""

INDEXED = {
    **LATENT,
    "model_type": "deepseek_v32",
    "index_topk": 24,
    "index_n_heads": 16,  # With few, many scores are 0, and which of these are chosen is chance.
    "index_head_dim": 16,
}
"""The same, and of all keys an index chooses 24 for each row."""


@functools.cache
def shared_family(name: str) -> Mllm:
    """`tiny_family`, built once per session; leave it as you found it."""
    return tiny_family(name)


def save_tiny_family(name: str, folder: str | Path, **changes: Any) -> Path:
    """Write `tiny_family` as a checkpoint folder, as `load_mllm` reads it."""
    mllm = tiny_family(name, **changes)
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return Path(folder)


@torch.no_grad()
def _randomise(model: torch.nn.Module) -> None:
    """Larger weights than usual in the text stack, so that attention is far from uniform.

    The towers' stay small: a token's feature then is mostly its own pixels, as painting needs.
    """
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            continue
        tower = any(part in name for part in ("vision", "visual", "connector", "projector"))
        # A gated projector multiplies what is small with what is small.
        spread = 0.4 if "image_projector" in name else 0.08 if tower else 0.2
        weight.normal_(0.0, spread, generator=generator)


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _tower(image_size: int, patch_size: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
        **more,
    }


def _tokenizer(
    *, added: tuple[str, ...] = (), bos: str | None = None, **named: str
) -> transformers.PreTrainedTokenizerFast:
    """The tiny tokenizer with a family's own tokens; one with ``bos`` writes it by itself."""
    core = tiny_tokenizer().backend_tokenizer
    special = [*added, *named.values(), *([] if bos is None else [bos])]
    core.add_special_tokens(list(dict.fromkeys(special)))
    if bos is not None:
        core.post_processor = post_processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=bos,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=named,
    )


def _template(image: str, *, start: str = "", user: str = "<|im_start|>user\n") -> str:
    """A chat template in the manner of the family's: ``image`` is what stands for an image."""
    return (
        f"{start}{{% for message in messages %}}"
        f"{{% if message['role'] == 'user' %}}{user}{{% else %}}<|im_start|>"
        "{{ message['role'] }}\n{% endif %}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def _qwen(processor: str, text: dict[str, Any], **changes: Any) -> tuple[Any, dict[str, Any]]:
    """Qwen-VL and GLM-V: patches of 8 px, merged 2 x 2; the processor's prefix, a text stack."""
    plain = tiny_processor()
    glm = processor.startswith("Glm")
    named = {"image_token": "<|image|>", "video_token": "<|video|>"} if glm else {}
    more = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
    tokenizer = _tokenizer(added=more, **named) if glm else plain.tokenizer
    image, video = ("Glm4v", "Glm4v") if glm else ("Qwen2VL", processor)
    sizes = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256 * (2 if glm else 1)}
    settings = {"patch_size": 8, "merge_size": 2, "size": sizes, **changes}
    made = getattr(transformers, f"{processor}Processor")(
        image_processor=getattr(transformers, f"{image}ImageProcessor")(**settings),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, f"{video}VideoProcessor")(patch_size=8, merge_size=2),
        chat_template=_template("<|begin_of_image|><|image|><|end_of_image|>")
        if glm
        else plain.chat_template,
    )
    token = tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    tower = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": HIDDEN,
    }
    if processor == "Qwen3VL":
        tower["num_position_embeddings"] = 64
        if "linear_num_key_heads" not in text:
            tower["deepstack_visual_indexes"] = [0]
    if processor == "Qwen2VL":
        del tower["out_hidden_size"], tower["intermediate_size"]
        tower |= {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
    if glm:
        tower |= {"image_size": 64}
        places = {
            "image_token_id": token("<|image|>"),
            "video_token_id": token("<|video|>"),
            "image_start_token_id": token(more[0]),
            "image_end_token_id": token(more[1]),
            "video_start_token_id": token(more[2]),
            "video_end_token_id": token(more[3]),
        }
    else:
        places = {
            "image_token_id": token("<|image_pad|>"),
            "video_token_id": token("<|video_pad|>"),
            "vision_start_token_id": token("<|vision_start|>"),
            "vision_end_token_id": token("<|vision_end|>"),
        }
    return made, {
        "text_config": _text(tokenizer, rope_parameters=rope | text.get("rope", {}), **text),
        "vision_config": tower,
        **places,
    }


EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
GLM_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "rope": {"mrope_section": [1, 1, 2]},
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "rope": {"partial_rotary_factor": 1.0},
}


def _internvl(**changes: Any) -> tuple[Any, dict[str, Any]]:
    tokenizer = _tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    image = {
        "size": {"height": 32, "width": 32},
        "max_patches": 6,
        "crop_to_patches": True,
        **changes,
    }
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(**image),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size=image["size"]),
        image_seq_length=16,
        chat_template=_template("<IMG_CONTEXT>\n"),
    )
    return processor, {
        "text_config": _text(tokenizer, model_type="qwen2"),
        "vision_config": _tower(32, 4),
        "image_token_id": tokenizer.context_image_token_id,
        "image_seq_length": 16,
        "downsample_ratio": 0.5,
    }


def _llava(**changes: Any) -> tuple[Any, dict[str, Any]]:
    tokenizer = _tokenizer(bos="<s>", image_token="<image>")
    image = {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        **changes,
    }
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(**image),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>\n", user="USER: "),
    )
    return processor, {
        "text_config": _text(tokenizer, model_type="llama"),
        "vision_config": _tower(32, 8, model_type="clip_vision_model"),
        "image_token_index": tokenizer.image_token_id,
        "image_seq_length": 16,
    }


PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]


def _llava_next(**changes: Any) -> tuple[Any, dict[str, Any]]:
    tokenizer = _tokenizer(bos="<s>", image_token="<image>")
    image = {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "image_grid_pinpoints": PINPOINTS,
        **changes,
    }
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessor(**image),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>\n", user="USER: "),
    )
    return processor, {
        "text_config": _text(tokenizer, model_type="mistral", sliding_window=None),
        "vision_config": _tower(32, 8, model_type="clip_vision_model"),
        "image_token_index": tokenizer.image_token_id,
        "image_grid_pinpoints": image["image_grid_pinpoints"],
    }


def _llava_onevision(**changes: Any) -> tuple[Any, dict[str, Any]]:
    tokenizer = _tokenizer(image_token="<image>", video_token="<video>")
    points = [[32 * rows, 32 * cols] for rows in range(1, 5) for cols in range(1, 5)]
    image = {
        "size": {"height": 32, "width": 32},
        "image_grid_pinpoints": points,
        **changes,
    }
    side = image["size"]["height"] // 8
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(**image),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=image["size"]),
        num_image_tokens=side * side,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=_template("<image>"),
    )
    return processor, {
        "text_config": _text(tokenizer, model_type="qwen2"),
        "vision_config": _tower(
            image["size"]["height"], 8, model_type="siglip_vision_model", vision_use_head=False
        ),
        "image_token_index": tokenizer.image_token_id,
        "video_token_index": tokenizer.video_token_id,
        "image_grid_pinpoints": image["image_grid_pinpoints"],
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_4",
    }


def _gemma3(**changes: Any) -> tuple[Any, dict[str, Any]]:
    tokenizer = _tokenizer(
        bos="<bos>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(
            **{"size": {"height": 64, "width": 64}, **changes}
        ),
        tokenizer=tokenizer,
        image_seq_length=16,
        chat_template=_template(
            "<start_of_image>", start="{{ bos_token }}", user="<|im_start|>user\n"
        ),
    )
    layers = ["sliding_attention", "full_attention", "full_attention"]
    return processor, {
        "text_config": _text(
            tokenizer, sliding_window=24, layer_types=layers, query_pre_attn_scalar=16
        ),
        "vision_config": _tower(64, 8, vision_use_head=False),
        "image_token_index": tokenizer.image_token_id,
        "boi_token_index": tokenizer.boi_token_id,
        "eoi_token_index": tokenizer.eoi_token_id,
        "mm_tokens_per_image": 16,
    }


def _gemma4(**changes: Any) -> tuple[Any, dict[str, Any]]:
    """Patches of 8 px, pooled 3 x 3: a picture is stretched to at most 70 tokens of 24 x 24 px.

    Two widths of heads, per-layer inputs, a layer that takes the keys of the one before, and
    logits that are capped.
    """
    named = {
        f"{part}_token": f"<{part}>" for part in ("image", "boi", "eoi", "audio", "boa", "eoa")
    }
    tokenizer = _tokenizer(bos="<bos>", **named)
    image = {"patch_size": 8, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    processor = transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=transformers.Gemma4ImageProcessor(**image | changes),
        tokenizer=tokenizer,
        video_processor=transformers.Gemma4VideoProcessor(**image),
        image_seq_length=70,
        chat_template=_template("<image>", start="{{ bos_token }}"),
    )
    text = _text(
        tokenizer,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
        use_bidirectional_attention="vision",
        num_kv_shared_layers=1,
        global_head_dim=32,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=len(tokenizer),
        final_logit_softcapping=30.0,
    )
    tower = _tower(0, 8, num_key_value_heads=2, head_dim=16, position_embedding_size=128)
    del tower["image_size"]
    return processor, {
        "text_config": text,
        "vision_config": tower,
        "audio_config": None,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": processor.video_token_id,
        "boi_token_id": tokenizer.boi_token_id,
        "eoi_token_id": tokenizer.eoi_token_id,
        "audio_token_id": tokenizer.audio_token_id,
    }


def _ovis2(**changes: Any) -> tuple[Any, dict[str, Any]]:
    """Tiles of 32 px, patches of 4 px, 2 x 2 of which make a token; five tags have features."""
    tags = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokenizer = _tokenizer(added=(*tags, "<IMG_ATOM>", "<image>"))
    image = {
        "size": {"height": 32, "width": 32},
        "crop_to_patches": True,
        "max_patches": 6,
        **changes,
    }
    processor = transformers.Ovis2Processor(
        image_processor=transformers.Ovis2ImageProcessor(**image),
        tokenizer=tokenizer,
        image_seq_length=16,
        chat_template=_template("<image>\n"),
    )
    token = tokenizer.convert_tokens_to_ids
    return processor, {
        "text_config": _text(tokenizer, model_type="qwen2"),
        "vision_config": _tower(32, 4, hidden_stride=2, vocab_size=64),
        "image_token_id": token("<IMG_ATOM>"),
        "visual_indicator_token_ids": [token(tag) for tag in tags],
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
    }


def _lfm2(**changes: Any) -> tuple[Any, dict[str, Any]]:
    """Patches of 4 px, 2 x 2 of which make a token; layers with a state of a short convolution."""
    tags = [f"<|img_row_{row}_col_{col}|>" for row in range(1, 7) for col in range(1, 7)]
    named = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }
    tokenizer = _tokenizer(added=tuple(tags), **named)
    image = {
        "size": {"height": 32, "width": 32},
        "tile_size": 32,
        "encoder_patch_size": 4,
        "min_image_tokens": 4,
        "max_image_tokens": 24,
        "max_tiles": 6,
        **changes,
    }
    processor = transformers.Lfm2VlProcessor(
        image_processor=transformers.Lfm2VlImageProcessor(**image),
        tokenizer=tokenizer,
        chat_template=_template("<image>"),
    )
    layers = ["conv", "full_attention", "conv"]
    text = _text(tokenizer, model_type="lfm2", layer_types=layers, conv_L_cache=3)
    tower = _tower(0, 4, model_type="siglip2_vision_model", num_patches=64, vision_use_head=False)
    del tower["image_size"]
    return processor, {
        "text_config": text,
        "vision_config": tower,
        "image_token_id": tokenizer.image_token_id,
        "projector_hidden_size": 48,
        "downsample_factor": 2,
    }


def _molmo2(**changes: Any) -> tuple[Any, dict[str, Any]]:
    """Crops of 5 x 5 patches of 4 px that overlap by two; tokens of 2 x 2 patches and fewer."""
    tags = ("im_patch", "im_col", "im_start", "low_res_im_start", "frame_start")
    tags = tuple(f"<{tag}>" for tag in (*tags, "im_end", "frame_end", "im_low"))
    tokenizer = _tokenizer(added=(*tags, "<|image|>", "<|video|>"))
    image = {
        "size": {"height": 20, "width": 20},
        "patch_size": 4,
        "overlap_margins": [1, 1],
        "max_crops": 6,
        **changes,
    }
    processor = transformers.Molmo2Processor(
        image_processor=transformers.Molmo2ImageProcessor(**image),
        tokenizer=tokenizer,
        video_processor=transformers.Molmo2VideoProcessor(size=image["size"], patch_size=4),
        chat_template=_template("<|image|>"),
    )
    token = tokenizer.convert_tokens_to_ids
    text = _text(tokenizer, additional_vocab_size=16)
    text["vocab_size"] = token(tags[0])
    heads = {"num_key_value_heads": 2, "head_dim": 16}
    tower = _tower(0, 4, **heads) | {"image_size": [20, 20]}
    adapter = {**heads, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    return processor, {
        "text_config": text,
        "vision_config": tower,
        "adapter_config": adapter | {"vision_feature_layer": [1, 0], "text_hidden_size": HIDDEN},
        "image_start_token_id": token("<im_start>"),
        "low_res_image_start_token_id": token("<low_res_im_start>"),
        "image_end_token_id": token("<im_end>"),
        "image_patch_id": token("<im_patch>"),
        "frame_start_token_id": token("<frame_start>"),
        "frame_end_token_id": token("<frame_end>"),
    }


def _minicpm(**changes: Any) -> tuple[Any, dict[str, Any]]:
    """Patches of 4 px, merged 2 x 2 twice; slices of about 48 x 48 px over hybrid layers."""
    tags = ("image_start", "image_end", "slice_start", "slice_end", "image_id_start")
    named = {f"{tag}_token": f"<{tag}>" for tag in (*tags, "image_id_end", "image", "video")}
    tokenizer = _tokenizer(**named)
    image = {"patch_size": 4, "scale_resolution": 48, "max_slice_nums": 6, **changes}
    processor = transformers.MiniCPMV4_6Processor(
        image_processor=transformers.MiniCPMV4_6ImageProcessor(**image),
        tokenizer=tokenizer,
        video_processor=transformers.MiniCPMV4_6VideoProcessor(patch_size=4, scale_resolution=48),
        chat_template=_template("<image>\n"),
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    text = {**LINEAR, "rope_parameters": rope | LINEAR["rope"], "model_type": "qwen3_5_text"}
    return processor, {
        "text_config": _text(tokenizer, **text),
        "vision_config": _tower(64, 4),
        "image_size": 64,
        "insert_layer_id": 0,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
    }


def _pixtral(model: str, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """Pictures keep their shape; each row of tokens ends in a token that is no image token."""
    merge = 2 if model == "mistral3" else 1
    tokenizer = _tokenizer(bos="<s>", added=("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    patch = 16 // merge
    processor = transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(
            **{"size": {"longest_edge": 128}, "patch_size": patch, **changes}
        ),
        tokenizer=tokenizer,
        patch_size=patch,
        spatial_merge_size=merge,
        chat_template=_template("[IMG]", user="USER: "),
    )
    tower = _tower(128, patch, model_type="pixtral", head_dim=16)
    more = {"spatial_merge_size": 2} if merge == 2 else {}
    return processor, {
        "text_config": _text(tokenizer, model_type="mistral", sliding_window=None),
        "vision_config": tower,
        "image_token_index": processor.image_token_id,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        **more,
    }


def _cohere(aya: bool, **changes: Any) -> tuple[Any, dict[str, Any]]:
    names = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "<image>", "TILE_GLOBAL")
    tiles = [f"TILE_{number}" for number in range(1, 13)]
    named = {
        "image_token": "<|IMG_PATCH|>",
        "boi_token": names[0],
        "eoi_token": names[1],
        "img_line_break_token": names[2],
    }
    tokenizer = _tokenizer(added=(*names, *tiles), bos="<BOS>", **named)
    image = {"size": {"height": 32, "width": 32}, "max_patches": 6, **changes}
    prefix, more = ("GotOcr2", {"crop_to_patches": True}) if aya else ("Cohere2Vision", {})
    if not aya:
        more = {"patch_size": 4}
    images = getattr(transformers, f"{prefix}ImageProcessor")(**image | more)
    template = _template("<image>" if aya else "<|IMG_PATCH|>", start="{{ bos_token }}")
    shape = {"patch_size": 8, "img_size": 32, "img_patch_token": "<|IMG_PATCH|>"} if aya else {}
    processor = getattr(transformers, "AyaVisionProcessor" if aya else "Cohere2VisionProcessor")(
        image_processor=images, tokenizer=tokenizer, chat_template=template, **shape
    )
    text = _text(
        tokenizer,
        model_type="cohere2",
        logit_scale=0.5,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )
    del text["head_dim"]
    key = "image_token_index" if aya else "image_token_id"
    wide = {} if aya else {"alignment_intermediate_size": 96}
    return processor, {
        "text_config": text,
        "vision_config": _tower(32, 4, model_type="siglip_vision_model", vision_use_head=False),
        "downsample_factor": 2,
        key: tokenizer.image_token_id,
        **wide,
    }


def _idefics(prefix: str, **changes: Any) -> tuple[Any, dict[str, Any]]:
    tags = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
    names = ("<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tags)
    tokenizer = _tokenizer(added=names, image_token="<image>")
    image = {
        "size": {"longest_edge": 64},
        "max_image_size": {"longest_edge": 32},
        **changes,
    }
    parts = {
        "image_processor": getattr(transformers, f"{prefix}ImageProcessor")(**image),
        "tokenizer": tokenizer,
        "image_seq_len": 16,
        "chat_template": _template("<image>", user="<|im_start|>User:"),
    }
    if prefix == "SmolVLM":
        video = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 32}}
        parts["video_processor"] = transformers.SmolVLMVideoProcessor(**video)
    processor = getattr(transformers, f"{prefix}Processor")(**parts)
    return processor, {
        "text_config": _text(tokenizer, model_type="llama"),
        "vision_config": _tower(32, 4),
        "image_token_id": processor.image_token_id,
        "scale_factor": 2,
    }


_BUILDERS: dict[str, tuple[str, Any]] = {
    "qwen2_vl": ("Qwen2VL", functools.partial(_qwen, "Qwen2VL", {})),
    "qwen3_vl": ("Qwen3VL", functools.partial(_qwen, "Qwen3VL", {})),
    "qwen3_vl_moe": ("Qwen3VLMoe", functools.partial(_qwen, "Qwen3VL", EXPERTS)),
    "qwen3_5": ("Qwen3_5", functools.partial(_qwen, "Qwen3VL", LINEAR)),
    "qwen3_5_moe": ("Qwen3_5Moe", functools.partial(_qwen, "Qwen3VL", LINEAR | EXPERTS)),
    "glm4v": ("Glm4v", functools.partial(_qwen, "Glm4v", {})),
    "glm4v_moe": ("Glm4vMoe", functools.partial(_qwen, "Glm4v", GLM_EXPERTS)),
    "glm46v": ("Glm46V", functools.partial(_qwen, "Glm46V", {"model_type": "glm4v_text"})),
    "internvl": ("InternVL", _internvl),
    "llava": ("Llava", _llava),
    "llava_next": ("LlavaNext", _llava_next),
    "llava_onevision": ("LlavaOnevision", _llava_onevision),
    "gemma3": ("Gemma3", _gemma3),
    "gemma4": ("Gemma4", _gemma4),
    "mistral3": ("Mistral3", functools.partial(_pixtral, "mistral3")),
    "pixtral": ("Llava", functools.partial(_pixtral, "llava")),
    "aya_vision": ("AyaVision", functools.partial(_cohere, True)),
    "cohere2_vision": ("Cohere2Vision", functools.partial(_cohere, False)),
    "ovis2": ("Ovis2", _ovis2),
    "lfm2_vl": ("Lfm2Vl", _lfm2),
    "molmo2": ("Molmo2", _molmo2),
    "minicpmv4_6": ("MiniCPMV4_6", _minicpm),
    "idefics3": ("Idefics3", functools.partial(_idefics, "Idefics3")),
    "smolvlm": ("SmolVLM", functools.partial(_idefics, "SmolVLM")),
}
"""By model type the prefix of its classes' names in `transformers`, and what builds its parts."""
