"""Models with random weights in the shapes of real ones: benches need no downloads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attcot_analysis.models import Mllm, evaluating, wrap_mllm
from attcot_analysis.shipped import TESTBED_MODEL, shipped

# isort: split
# After our models package, which makes torchvision importable.
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor


@dataclass(frozen=True)
class Shape:
    """The text stack of a model.

    Attributes:
        hidden: Width.
        layers: How many.
        heads: Query heads.
        kv_heads: Key and value heads.
        intermediate: Width inside the feed-forward layers.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def layer_weights(self) -> int:
        """Weights in matrices, all layers together."""
        kv = self.kv_heads * self.head_size
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * kv
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


QWEN_0_5B = Shape(hidden=896, layers=24, heads=14, kv_heads=2, intermediate=4864)
QWEN_7B = Shape(hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18944)
SMALL = Shape(hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128)


def random_mllm(
    shape: Shape, *, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> Mllm:
    """A Qwen2.5-VL with random weights and a text stack of the given shape.

    Vocabulary (some hundred tokens), processor and the small vision tower are the testbed
    model's: they take next to no time or memory and so hide no difference.
    """
    folder = shipped(TESTBED_MODEL)
    config = AutoConfig.from_pretrained(folder)
    text = config.text_config
    text.hidden_size = shape.hidden
    text.num_hidden_layers = text.max_window_layers = shape.layers
    text.layer_types = ["full_attention"] * shape.layers
    text.num_attention_heads = shape.heads
    text.num_key_value_heads = shape.kv_heads
    text.intermediate_size = shape.intermediate
    text.max_position_embeddings = 65536
    half = shape.head_size // 2
    side = half * 3 // 8
    text.rope_parameters = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [half - 2 * side, side, side],
    }
    config.vision_config.out_hidden_size = shape.hidden
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model: Any = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        )
    processor = AutoProcessor.from_pretrained(folder)
    return wrap_mllm(model.to(device).eval(), processor, name="random")


def random_batch(mllm: Mllm, length: int, *, seed: int = 0) -> dict[str, Tensor]:
    """One sequence of random tokens: 16 of text, half of them image tokens, then text again.

    No pixels are given, so the image tokens keep their word embedding and no vision tower runs.
    """
    generator = torch.Generator().manual_seed(seed)
    forbidden = min(mllm.image_token_id, *mllm.stop_ids)
    ids = torch.randint(0, forbidden, (1, length), generator=generator)
    ids[0, 16 : 16 + length // 2] = mllm.image_token_id
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {key: value.to(mllm.device) for key, value in batch.items()}


@torch.no_grad()
def forward(mllm: Mllm, batch: dict[str, Tensor], **options: Any) -> Any:
    """A plain forward pass under the model's own attention; one row of logits, no cache.

    All variants keep one row only, so that no large head hides what attention costs.
    """
    with evaluating(mllm.model):
        return mllm.model(**batch, use_cache=False, logits_to_keep=1, **options)
