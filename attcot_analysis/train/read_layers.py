"""Which layers of a model the visual term can read."""

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm
from attcot_analysis.train.objective import AttCoTConfig


def readable_layers(mllm: Mllm, config: AttCoTConfig) -> tuple[int, ...]:
    """The layers of an objective that have full attention in a model.

    Most image tokens are out of a sliding window's sight, so that mass read there says nothing.

    Raises:
        TrainingError: If the objective names layers or heads the model does not have, or a layer
            without full attention, or if none is left.
    """
    chosen = config.layers(mllm.n_layers)
    for layer in chosen:
        config.heads(layer, mllm.n_heads)
    kinds = getattr(mllm.text_config, "layer_types", None)
    if kinds is None:
        slides = getattr(mllm.text_config, "sliding_window", None) is not None
        kinds = ["sliding_attention" if slides else "full_attention"] * mllm.n_layers
    found = tuple(layer for layer in chosen if kinds[layer] == "full_attention")
    named = config.vis_heads is not None or isinstance(config.vis_layers, tuple)
    if config.lambda_vis > 0 and (not found or (named and found != chosen)):
        full = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
        raise TrainingError(
            f"Of layers {list(chosen)}, whose attention L_vis is to read, only {list(found)} have "
            f"full attention and so see the image; set vis_layers to some of {full}."
        )
    return found
