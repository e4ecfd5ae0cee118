"""Kinds of attention: what each layer of a text stack reads, and what can be done with it."""

from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Mllm

WITH_STATE = frozenset({"linear_attention", "conv", "hybrid", "hybrid_sliding"})
"""Layers that fold all tokens before into a state: there is no weight from a row to a token."""

PACKABLE = frozenset({"full_attention", "sliding_attention"})
"""Layers whose mask says all that a token sees, so that branches can be packed behind others."""


def layer_kinds(mllm: Mllm) -> tuple[str, ...]:
    """Per layer of the text stack its kind, as `transformers` names it in ``layer_types``."""
    config = mllm.text_config
    named = getattr(config, "layer_types", None)
    if named is not None:
        return tuple(named)[: mllm.n_layers]
    chunked = getattr(config, "attention_chunk_size", None) is not None
    slides = getattr(config, "sliding_window", None) is not None
    kind = "chunked_attention" if chunked else "sliding_attention" if slides else "full_attention"
    return (kind,) * mllm.n_layers


def keeps_state(mllm: Mllm) -> bool:
    """Whether some layers fold the tokens before into a state, beside or instead of attention."""
    return not WITH_STATE.isdisjoint(layer_kinds(mllm))


def require_no_state(mllm: Mllm, what: str, instead: str) -> None:
    """Refuse a measurement that needs every way from token to token to be attention.

    Args:
        mllm: The model.
        what: Which measurement, as the subject of a sentence.
        instead: What to use.

    Raises:
        MeasureError: If some layers keep a state.
    """
    kinds = layer_kinds(mllm)
    n_state = sum(kind in WITH_STATE for kind in kinds)
    if n_state:
        raise MeasureError(
            f"{what} is not defined on {mllm.name}: {n_state} of its {len(kinds)} layers "
            f"({', '.join(sorted(WITH_STATE & {*kinds}))}) carry tokens in a state that no "
            f"attention mask cuts; {instead}."
        )
