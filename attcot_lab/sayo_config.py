"""One SAYO run: which rewards with which weights, and how it samples and steps."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from attcot_analysis.errors import TrainingError
from attcot_analysis.train.region_config import RegionRewardConfig

Aggregation = Literal["normalize_then_sum", "sum_then_normalize"]


@dataclass(frozen=True)
class SayoConfig:
    """One run of GRPO with the region reward (SAYO, arXiv 2602.08241).

    What its published code and script set is named as theirs; the rest is a reconstruction.

    Attributes:
        steps: Optimizer steps.
        questions: Per step and process.
        num_generations: Completions per question, whose rewards are compared (theirs: 16).
        accumulation: Parts a step's completions are split into to save memory.
        attention: Weight of the region reward; theirs has this and the form, 1 each.
        accuracy: Weight of the right answer (theirs: not in the run).
        form: Weight of the form.
        reward: What the region reward looks at.
        aggregation: ``"normalize_then_sum"``: each reward is normalised among a question's
            completions, and one that cannot be computed counts as their mean (ours).
            ``"sum_then_normalize"`` (theirs): the weighted sum is normalised, in which a missing
            reward would count as 0; refused with more than one weight.
        learning_rate: Peak of AdamW's rate (theirs: 5e-6, with LoRA); linear decay.
        warmup: Share of the steps that warms up.
        temperature: Of the sampling (theirs: 1).
        top_p: Of the sampling (theirs: 0.9; here 1, so that what is sampled is what is trained).
        beta: Weight of the KL term to the base (theirs: 0.001; at 0 no second model is kept).
        max_completion: Tokens (theirs: 110).
        lora: Rank of adapters on the text stack, merged at the end; 0 trains all weights (theirs:
            16 on all linear layers).
        seed: Order of the data and the sampling.

    Raises:
        TrainingError: If a value is out of range.
    """

    steps: int = 100
    questions: int = 4
    num_generations: int = 8
    accumulation: int = 1
    attention: float = 1.0
    accuracy: float = 1.0
    form: float = 1.0
    reward: RegionRewardConfig = field(default_factory=RegionRewardConfig)
    aggregation: Aggregation = "normalize_then_sum"
    learning_rate: float = 5e-6
    warmup: float = 0.0
    temperature: float = 1.0
    top_p: float = 1.0
    beta: float = 0.0
    max_completion: int = 256
    lora: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (
            ("steps", 1),
            ("questions", 1),
            ("num_generations", 2),
            ("accumulation", 1),
            ("max_completion", 1),
            ("lora", 0),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise TrainingError(f"{name} is {value!r}; expected a whole number from {least}.")
        for name in ("attention", "accuracy", "form", "learning_rate", "temperature", "beta"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise TrainingError(f"{name} is {value!r}; expected a number from 0.")
        for name in ("warmup", "top_p"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise TrainingError(f"{name} is {value!r}; expected 0 to 1.")
        if not self.temperature or not self.top_p:
            raise TrainingError("temperature and top_p must be above 0, or all samples are one.")
        if not any(self.weights):
            raise TrainingError(
                "attention, accuracy and form all have weight 0, so that nothing is rewarded; give "
                "one of them a weight."
            )
        if self.aggregation not in get_args(Aggregation):
            raise TrainingError(
                f"aggregation is {self.aggregation!r}; choose {' or '.join(get_args(Aggregation))}."
            )
        if self.completions % self.accumulation:
            raise TrainingError(
                f"{self.completions} completions per step do not split into {self.accumulation} "
                "equal parts; choose an accumulation that divides them."
            )

    @property
    def completions(self) -> int:
        """Per step and process."""
        return self.questions * self.num_generations

    @property
    def weights(self) -> tuple[float, float, float]:
        """Of the region, accuracy and format rewards."""
        return self.attention, self.accuracy, self.form


SFT_FIRST = "sft_first"
"""The option of an arm that runs its CoT-SFT or Att-CoT stage before GRPO."""
OPTIONS = (*(one.name for one in fields(SayoConfig) if one.name != "seed"), SFT_FIRST)
"""What an arm of the recipe ``sayo`` can set."""


def sayo_config(options: Mapping[str, Any], *, steps: int, seed: int) -> SayoConfig:
    """The run that an arm's options describe.

    Args:
        options: Fields of `SayoConfig`, ``reward`` with fields of `RegionRewardConfig`; others
            are not looked at.
        steps: Where the options name none.
        seed: Of the run.

    Raises:
        TrainingError: If a field is unknown, or a value does not fit.
    """
    given = {key: value for key, value in options.items() if key != SFT_FIRST}
    reward = given.pop("reward", None) or {}
    known = [one.name for one in fields(RegionRewardConfig)]
    if not isinstance(reward, Mapping) or not set(reward) <= set(known):
        raise TrainingError(f"The option reward is {reward!r}; it has {', '.join(known)}.")
    own: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in reward.items()
    }
    try:
        config = SayoConfig(**{"steps": steps, **given}, seed=seed)
        return replace(config, reward=RegionRewardConfig(**own))
    except TypeError as error:
        raise TrainingError(f"A SAYO option does not fit: {error}.") from error
