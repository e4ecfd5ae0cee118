"""Where real checkpoints' files and real datasets' samples lie, for the tests that need them.

They are not part of this repository. Without them the tests that are marked say what did not run;
each of them has a small stand-in beside it that runs everywhere.
"""

import functools
import os
from pathlib import Path

import pytest
import torch

from attcot_analysis.models import Mllm, wrap_mllm

# isort: split
# After our models package, which makes torchvision importable.
import transformers

_SHARED = Path(__file__).parents[2] / "shared"


def _folder(variable: str, default: str) -> Path | None:
    folder = Path(os.environ.get(variable) or _SHARED / default)
    return folder if folder.is_dir() else None


def real_files() -> Path | None:
    """The folder with one folder per checkpoint: config, template, tokenizer, no weights."""
    return _folder("ATTCOT_REAL_FILES", "real-files")


def real_data() -> Path | None:
    """The folder with one folder per dataset, a few published rows each."""
    return _folder("ATTCOT_REAL_DATA", "real-data")


needs_real_files = pytest.mark.skipif(
    real_files() is None,
    reason="not run on real tokenizers and templates: set ATTCOT_REAL_FILES to their folder",
)
needs_real_data = pytest.mark.skipif(
    real_data() is None,
    reason="not run on published data: set ATTCOT_REAL_DATA to its folder",
)

CHECKPOINTS = (
    "gemma3",
    "idefics3_8b",
    "idefics3_granite",
    "internvl3",
    "llava15",
    "llava_next_mistral",
    "llava_onevision",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_thinking",
    "smolvlm2",
)
"""The folders of `real_files`."""


@functools.lru_cache(maxsize=2)
def real_mllm(name: str) -> Mllm:
    """A model with a real checkpoint's configuration, tokenizer, processor and template.

    Its weights are random; leave it as you found it.
    """
    folder = real_files()
    assert folder is not None, "mark the test with needs_real_files"
    processor = transformers.AutoProcessor.from_pretrained(folder / name)
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(folder / name)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    generation = folder / name / "generation_config.json"
    if generation.is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder / name)
    return wrap_mllm(model.float().eval(), processor, name=name)
