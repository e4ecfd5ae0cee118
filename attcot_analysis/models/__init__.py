"""Models: load any supported MLLM, build its inputs, say what each token is, generate."""

# First: the others ask transformers, and so torchvision, for image processors.
from attcot_analysis.models import _torchvision  # noqa: F401
from attcot_analysis.models.cache import PromptCache
from attcot_analysis.models.families import FAMILIES, family_of
from attcot_analysis.models.generate import Generation, generate
from attcot_analysis.models.grid import TokenGrid
from attcot_analysis.models.inputs import (
    PROMPTS,
    Encoded,
    Mode,
    build_messages,
    collate,
    encode,
    encode_problem,
    encode_prompt,
    positions,
    prefix_ids,
    read_image,
)
from attcot_analysis.models.layout import Span, TokenLayout, token_starts
from attcot_analysis.models.load import Mllm, evaluating, load_mllm, wrap_mllm

__all__ = [
    "FAMILIES",
    "PROMPTS",
    "Encoded",
    "Generation",
    "Mllm",
    "Mode",
    "PromptCache",
    "Span",
    "TokenGrid",
    "TokenLayout",
    "build_messages",
    "collate",
    "encode",
    "encode_problem",
    "encode_prompt",
    "evaluating",
    "family_of",
    "generate",
    "load_mllm",
    "positions",
    "prefix_ids",
    "read_image",
    "token_starts",
    "wrap_mllm",
]
