"""Settings of recipes: read from names with values, and what a recipe cannot do."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from attcot_analysis.errors import TrainingError
from attcot_analysis.train.finetune import FinetuneConfig

Settings = TypeVar("Settings")


def read_settings(kind: type[Settings], given: Any, **fixed: Any) -> Settings:
    """Settings from names with values, as a file gives them; its lists become tuples.

    Args:
        kind: The dataclass.
        given: Names with values.
        fixed: Further values; those that `given` names go before them.

    Raises:
        TrainingError: If a name is unknown, or a value does not fit.
    """
    known = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(given, Mapping):
        raise TrainingError(f"{kind.__name__} is {given!r}; give names with values.")
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise TrainingError(
            f"{kind.__name__} has no {' and no '.join(unknown)}; it has {', '.join(known)}."
        )
    values = {key: tuple(one) if isinstance(one, list) else one for key, one in given.items()}
    return kind(**{**fixed, **values})


def check_plain(config: FinetuneConfig, who: str) -> None:
    """See that all weights are to be trained in float32, which is all that some recipes know.

    Args:
        config: The run.
        who: Who knows no more, as the sentence begins.

    Raises:
        TrainingError: If something else is asked for.
    """
    plain = FinetuneConfig()
    names = ("lora", "lora_alpha", "dtype", "gradient_checkpointing", *config.limits)
    asked = [name for name in names if getattr(config, name) != getattr(plain, name)]
    if asked:
        raise TrainingError(
            f"{who} takes no {' and no '.join(asked)}: these are for CoT-SFT and Att-CoT; "
            "leave them out (an arm of SAYO has its own option lora)."
        )
