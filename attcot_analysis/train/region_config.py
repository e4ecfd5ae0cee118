"""What the region reward looks at."""

from dataclasses import dataclass
from typing import Literal

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.read_layers import readable_layers


@dataclass(frozen=True)
class RegionRewardConfig:
    """What the region reward looks at; the defaults are those of SAYO's published code.

    Attributes:
        layers: ``"last"``, the last layer with full attention; ``"middle"``, the middle third
            (ours: where other work locates visual reading); or the layers themselves, from 0.
        entropy_top: The share of generated tokens that counts, those with the highest entropy at
            the sampling temperature; 1 for all.
        region: ``"problem"``: every token is held against all boxes of the problem (SAYO has one
            region per question). ``"step"``: the tokens of the k-th generated step are held
            against the boxes of the problem's k-th step, and no others count (ours).
        sink_free: Leave attention sinks out, in boxes and image, as `find_sinks` finds them among
            the prompt's tokens (ours: the last layer is full of them).
        mass_weight: How much of the mean visual mass, in [0, 1], is added to the reward (ours:
            the ratio alone is indifferent to a model that stops looking at the image at all).
        only_correct: Completions with a wrong answer get no reward (EASE, arXiv 2605.30912,
            supervises attention on successful rollouts only).

    Raises:
        TrainingError: If a value is out of range.
    """

    layers: tuple[int, ...] | Literal["last", "middle"] = "last"
    entropy_top: float = 0.3
    region: Literal["problem", "step"] = "problem"
    sink_free: bool = False
    mass_weight: float = 0.0
    only_correct: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        named = isinstance(self.layers, tuple) and bool(self.layers)
        if not named and self.layers not in ("last", "middle"):
            raise TrainingError(
                f"layers is {self.layers!r}; choose last, middle, or name at least one layer."
            )
        if not 0 < self.entropy_top <= 1:
            raise TrainingError(
                f"entropy_top is {self.entropy_top}; expected a share above 0, up to 1."
            )
        if self.region not in ("problem", "step"):
            raise TrainingError(f"region is {self.region!r}; choose problem or step.")
        if not 0 <= self.mass_weight < float("inf"):
            raise TrainingError(
                f"mass_weight is {self.mass_weight}; a weight is a number from 0 on."
            )

    def chosen_layers(self, mllm: Mllm) -> tuple[int, ...]:
        """The layers to read in a model.

        Raises:
            TrainingError: If one of them does not exist or has no full attention.
        """
        if self.layers == "middle":
            return readable_layers(mllm, AttCoTConfig(lambda_vis=1.0))
        readable = readable_layers(mllm, AttCoTConfig(lambda_vis=1.0, vis_layers="all"))
        if self.layers == "last":
            return readable[-1:]
        if not set(self.layers) <= set(readable):
            raise TrainingError(
                f"The region reward cannot read layers {sorted(set(self.layers) - set(readable))} "
                f"of {mllm.name}; choose from {list(readable)}, which have full attention."
            )
        return tuple(sorted({int(layer) for layer in self.layers}))
