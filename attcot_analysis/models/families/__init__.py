"""What differs between families of MLLMs: token grids and position ids, one place for all."""

from typing import Any

from attcot_analysis.errors import ModelError
from attcot_analysis.models.families.anyres import llava_next_grids, llava_onevision_grids
from attcot_analysis.models.families.family import (
    Family,
    ProcessedPrompt,
    mrope_positions,
    text_positions,
)
from attcot_analysis.models.families.limits import (
    anyres_patches,
    glm_pixels,
    idefics3_patches,
    internvl_patches,
    lfm2_patches,
    minicpm_patches,
    molmo2_patches,
    qwen_pixels,
)
from attcot_analysis.models.families.single import (
    gemma3_grids,
    gemma4_grids,
    llava_grids,
    pixtral_grids,
    qwen_grids,
)
from attcot_analysis.models.families.tiles import (
    aya_grids,
    cohere_grids,
    idefics3_grids,
    internvl_grids,
    lfm2_grids,
    minicpm_grids,
    minicpm_pixels,
    molmo2_grids,
    molmo2_pools,
    ovis2_grids,
)

__all__ = ["FAMILIES", "Family", "ProcessedPrompt", "family_of", "text_positions"]

_MROPE: dict[str, Any] = {"positions": mrope_positions, "token_types": "mm_token_type_ids"}
_PIXELS, _GLM = {"max_pixels": qwen_pixels}, {"max_pixels": glm_pixels}
_TILES, _ANYRES = {"max_patches": internvl_patches}, {"max_patches": anyres_patches}
_SQUARES, _PIECES = {"max_patches": idefics3_patches}, {"max_patches": lfm2_patches}
_CROPS: dict[str, Any] = {
    "limits": {"max_patches": molmo2_patches},
    "joins": {"image_token_pooling": molmo2_pools},
}
_SLICES: dict[str, Any] = {
    "limits": {"max_patches": minicpm_patches},
    "joins": {"pixel_values": minicpm_pixels},
}
_QWEN3 = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")

FAMILIES: list[Family] = [
    Family("qwen2_5_vl", ("qwen2_vl", "qwen2_5_vl"), qwen_grids, limits=_PIXELS, **_MROPE),
    Family("qwen3_vl", _QWEN3, qwen_grids, limits=_PIXELS, **_MROPE),
    Family("glm4v", ("glm4v", "glm4v_moe", "glm46v"), qwen_grids, limits=_GLM, **_MROPE),
    Family("internvl", ("internvl",), internvl_grids, limits=_TILES),
    Family("llava", ("llava",), llava_grids),
    Family("llava_next", ("llava_next",), llava_next_grids, limits=_ANYRES),
    Family("llava_onevision", ("llava_onevision",), llava_onevision_grids, limits=_ANYRES),
    Family("gemma3", ("gemma3",), gemma3_grids, token_types="token_type_ids"),
    Family("gemma4", ("gemma4",), gemma4_grids, token_types="mm_token_type_ids"),
    Family("mistral3", ("mistral3",), pixtral_grids),
    Family("aya_vision", ("aya_vision",), aya_grids, limits=_TILES),
    Family("cohere2_vision", ("cohere2_vision",), cohere_grids, limits=_TILES),
    Family("ovis2", ("ovis2",), ovis2_grids, limits=_TILES),
    Family("lfm2_vl", ("lfm2_vl",), lfm2_grids, limits=_PIECES),
    Family("molmo2", ("molmo2",), molmo2_grids, token_types="mm_token_type_ids", **_CROPS),
    Family("minicpmv4_6", ("minicpmv4_6",), minicpm_grids, **_SLICES),
    Family("idefics3", ("idefics3", "smolvlm"), idefics3_grids, limits=_SQUARES),
]
"""Every family; `FAMILIES.append(Family(...))` adds one of your own."""


def family_of(config: Any) -> Family:
    """The family a model configuration belongs to.

    Raises:
        ModelError: If none does.
    """
    model_type = getattr(config, "model_type", None)
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    if model_type == "paligemma":
        raise ModelError(
            "PaliGemma has no chat template, takes no prompt without a picture, caps its attention "
            "scores and gives all layers one mask, which no measurement here reads; take another "
            "family (Gemma 3, say)."
        )
    known = ", ".join(name for family in FAMILIES for name in family.model_types)
    raise ModelError(
        f"Model type {model_type!r} belongs to no supported family; supported model types: {known}."
    )
