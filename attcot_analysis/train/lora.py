"""LoRA as Att-CoT wants it: on the language model only, and where attention is decided."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "adapter"
"""Folder of the adapters, beside the weights that they are merged into."""

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


def add_adapters(mllm: Mllm, rank: int, alpha: float | None = None) -> Any:
    """Put fresh adapters into a model's text stack and freeze everything else, in place.

    They are float32 whatever the model's own type, and change nothing before they are trained.

    Args:
        mllm: The model.
        rank: Of the adapters.
        alpha: See `language_lora`.

    Returns:
        The `peft.PeftModel` that is to be trained; `mllm.model` is the model inside.

    Raises:
        TrainingError: If `peft` is not installed, or the model has no layers that they go into.
    """
    if find_spec("peft") is None:
        raise TrainingError(
            "LoRA needs peft, which is not installed; pip install 'attcot-analysis[train]', or "
            "leave lora out."
        )
    from peft import get_peft_model

    options = {} if alpha is None else {"lora_alpha": alpha}
    try:
        return get_peft_model(mllm.model, language_lora(rank, **options))
    except ValueError as error:
        if "Target modules" not in str(error):
            raise
        raise TrainingError(
            f"{type(mllm.model).__name__} has none of the projections of attention and MLP that "
            "LoRA is put into (q_proj to down_proj of its language model); leave lora out, or use "
            "a peft_config of your own in your own trainer."
        ) from error


def merge_adapters(model: Any, folder: Path) -> None:
    """Save a model's adapters into ``<folder>/adapter`` and merge them into its weights, in place.

    Args:
        model: From `add_adapters`.
        folder: Where the merged model will be saved.
    """
    model.save_pretrained(folder / ADAPTER)
    # A page about the adapters with nothing filled in.
    (folder / ADAPTER / "README.md").unlink(missing_ok=True)
    model.merge_and_unload(safe_merge=True)
