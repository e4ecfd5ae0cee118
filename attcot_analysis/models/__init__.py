"""Models: load any supported MLLM, build its inputs, say what each token is, generate."""

from attcot_analysis.models._torchvision import ensure_torchvision

ensure_torchvision()

from attcot_analysis.models.families import FAMILIES, Family, family_of  # noqa: E402
from attcot_analysis.models.generate import Generation, generate  # noqa: E402
from attcot_analysis.models.grid import TokenGrid  # noqa: E402
from attcot_analysis.models.inputs import (  # noqa: E402
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
from attcot_analysis.models.layout import Span, TokenLayout, token_starts  # noqa: E402
from attcot_analysis.models.load import Mllm, evaluating, load_mllm, wrap_mllm  # noqa: E402
from attcot_analysis.models.memory import PromptMemory, remembering  # noqa: E402

__all__ = [
    "FAMILIES",
    "PROMPTS",
    "Encoded",
    "Family",
    "Generation",
    "Mllm",
    "Mode",
    "PromptMemory",
    "Span",
    "TokenGrid",
    "TokenLayout",
    "build_messages",
    "collate",
    "encode",
    "encode_problem",
    "encode_prompt",
    "ensure_torchvision",
    "evaluating",
    "family_of",
    "generate",
    "load_mllm",
    "positions",
    "prefix_ids",
    "read_image",
    "remembering",
    "token_starts",
    "wrap_mllm",
]
