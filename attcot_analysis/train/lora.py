"""LoRA as Att-CoT wants it: on the language model only, and where attention is decided."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import LoraConfig

LANGUAGE_MODULES = (
    r".*(?:language_model|text_model)\.(?:.*\.)?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Attention and MLP of the text stack; ``"all-linear"`` would train the vision tower as well.

Supervised attention can only act through queries and keys, so both are in it.
"""


def language_lora(r: int = 16, **options: Any) -> "LoraConfig":
    """A LoRA configuration for the text stack of any supported family.

    Args:
        r: Rank; ``lora_alpha`` is twice that unless given.
        options: Further fields of `peft.LoraConfig`.
    """
    from peft import LoraConfig

    settings = {"lora_alpha": 2 * r, "target_modules": LANGUAGE_MODULES, "task_type": "CAUSAL_LM"}
    return LoraConfig(r=r, **{**settings, **options})
