"""`VistaConfig`: the settings of VISTA's self-improvement."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from attcot_analysis.errors import TrainingError

Objective = Literal["sft", "dpo"]
Extra = Literal["prefix", "plain", "none"]
Origin = Literal["sampled", "continued", "plain"]


@dataclass(frozen=True)
class VistaConfig:
    """How VISTA draws, filters and trains (arXiv 2605.11931).

    The defaults are the paper's where a summary of it that is public to us names them: K, J, T,
    temperature, top, tau, beta and nll. All else is a reconstruction.

    Attributes:
        objective: ``"sft"`` on kept positives, or ``"dpo"`` on pairs with random negatives.
        rounds: T; each trains the base anew on what the round before's model wrote.
        samples: K responses per question.
        extra: What is drawn beside them and trained on: ``"prefix"`` (continuations of mended
            prefixes of wrong responses), ``"plain"`` (as many more plain samples of the same
            questions) or ``"none"``.
        control: Also draw the other one of ``"prefix"`` and ``"plain"``, not to train on it but
            to compare what they yield at an equal number of samples.
        continuations: J per wrong response.
        top: A token of a wrong response is critical if at least so many are more probable behind
            the reordered prompt.
        temperature: Of all samples.
        max_new_tokens: Length limit of a response, and of what continues a prefix.
        vas: Whether positives are filtered by their vision-aware attention score.
        tau: Positives with a score below it are dropped.
        layer: Whose attention is scored; ``None`` for the middle one.
        beta: Of DPO.
        nll: Weight of the chosen responses' likelihood beside DPO.
        learning_rate: Instead of the fine-tuning's, whose rate is made for cross-entropy.
        batch_size: Sequences per generation or forward pass.
        block: Questions drawn between two writings to the disk.
        keep_models: Keep the models of all rounds, not only the last one's.

    Raises:
        TrainingError: If a value is unknown or out of range.
    """

    objective: Objective = "sft"
    rounds: int = 3
    samples: int = 10
    extra: Extra = "prefix"
    control: bool = False
    continuations: int = 3
    top: int = 5
    temperature: float = 1.0
    max_new_tokens: int = 256
    vas: bool = True
    tau: float = -0.5
    layer: int | None = None
    beta: float = 0.1
    nll: float = 0.5
    learning_rate: float | None = None
    batch_size: int = 64
    block: int = 32
    keep_models: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        for name, known in (("objective", get_args(Objective)), ("extra", get_args(Extra))):
            if getattr(self, name) not in known:
                raise TrainingError(
                    f"VISTA's {name} is {getattr(self, name)!r}; choose one of {', '.join(known)}."
                )
        for name in (
            "rounds",
            "samples",
            "continuations",
            "top",
            "max_new_tokens",
            "batch_size",
            "block",
        ):
            if getattr(self, name) < 1:
                raise TrainingError(
                    f"VISTA's {name} is {getattr(self, name)}; it must be at least 1."
                )
        for name in ("temperature", "beta", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise TrainingError(f"VISTA's {name} is {value}; it must be above 0.")
        if self.nll < 0:
            raise TrainingError(f"VISTA's nll is {self.nll}; a weight is a number from 0 on.")

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Which responses are trained on."""
        more: dict[Extra, tuple[Origin, ...]] = {
            "prefix": ("continued",),
            "plain": ("plain",),
            "none": (),
        }
        return ("sampled", *more[self.extra])

    @property
    def drawn(self) -> tuple[Origin, ...]:
        """Which responses are drawn, those for comparison included."""
        both: tuple[Origin, ...] = ("sampled", "continued", "plain")
        return both if self.control and self.extra != "none" else self.origins


OPTIONS = tuple(one.name for one in fields(VistaConfig))
"""What an arm of the recipe ``vista`` can set."""


def vista_config(options: Mapping[str, Any]) -> VistaConfig:
    """The settings from an arm's options.

    Raises:
        TrainingError: If one is unknown, of a wrong type, or out of range.
    """
    try:
        return VistaConfig(**options)
    except TypeError as error:
        raise TrainingError(f"An option of VISTA has a wrong name or type: {error}.") from error
