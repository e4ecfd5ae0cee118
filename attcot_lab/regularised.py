"""CoT-SFT with a regulariser that knows nothing of pictures or early answers: Att-CoT must beat it.

Without these arms any gain of a fine-tuning objective could be that of a smaller step or a softer
output. Each takes CoT-SFT's data, steps and rates: fewer steps, a smoothed target (Szegedy et al.,
arXiv 1512.00567), a penalty on the Kullback–Leibler divergence from the base, or L_commit's hinge
on confidence (arXiv 1701.06548 penalises entropy alike) at random places of the response.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem
from attcot_analysis.train.checkpoints import train_into
from attcot_analysis.train.data import IGNORED
from attcot_analysis.train.finetune import LOG_EVERY, FinetuneConfig, make_trainer

OPTIONS = ("form", "weight", "margin", "places")
"""What an arm of the recipe can set."""


@dataclass(frozen=True)
class Regulariser:
    """What is added to the cross-entropy.

    Attributes:
        form: ``"stop"`` takes a share `weight` of the steps and adds nothing; ``"smoothing"`` gives
            a share `weight` of the target to all tokens alike; ``"kl"`` adds `weight` times the
            divergence KL(base ‖ model), in nats, mean over response tokens; ``"confidence"`` adds
            `weight` times the mean hinge on the largest next-token probability above `margin`.
        weight: See `form`.
        margin: Of ``"confidence"``: probability that costs nothing.
        places: Of ``"confidence"``: response tokens per item, drawn at random in every step.

    Raises:
        TrainingError: If a value is out of range.
    """

    form: Literal["stop", "smoothing", "kl", "confidence"]
    weight: float
    margin: float = 0.3
    places: int = 2

    def __post_init__(self) -> None:
        """Check the values."""
        if self.form not in ("stop", "smoothing", "kl", "confidence"):
            raise TrainingError(
                f"Regulariser {self.form!r} is unknown; choose stop, smoothing, kl or confidence."
            )
        share = self.form in ("stop", "smoothing")
        if not (0 < self.weight < (1 if share else float("inf"))):
            raise TrainingError(
                f"The weight of {self.form} is {self.weight}; give a number above 0"
                f"{' and below 1' if share else ''}."
            )
        if not 0 <= self.margin < 1 or self.places < 1:
            raise TrainingError(
                f"margin={self.margin} must be a probability and places={self.places} at least 1."
            )


def divergence(logits: Tensor, reference: Tensor, labels: Tensor) -> Tensor:
    """KL(reference ‖ model), in nats, mean over the predictions of the response.

    Args:
        logits: ``(B, T, V)`` of the model.
        reference: ``(B, T, V)`` of the base.
        labels: ``(B, T)``, `IGNORED` outside the response.
    """
    counted = labels[:, 1:] != IGNORED
    own = logits[:, :-1][counted].float().log_softmax(-1)
    base = reference[:, :-1][counted].float().log_softmax(-1)
    return F.kl_div(own, base, reduction="batchmean", log_target=True)


def random_confidence(
    logits: Tensor, labels: Tensor, margin: float, places: int, generator: torch.Generator
) -> Tensor:
    """Mean of ``max(0, largest probability − margin)`` at random predictions of each response.

    Args:
        logits: ``(B, T, V)``.
        labels: ``(B, T)``, `IGNORED` outside the response.
        margin: Probability that costs nothing.
        places: Predictions per item, drawn with replacement.
        generator: Draws them.
    """
    counted = (labels[:, 1:] != IGNORED).float()
    drawn = torch.multinomial(counted.cpu(), places, replacement=True, generator=generator)
    rows = drawn.to(logits.device)[..., None].expand(-1, -1, logits.shape[-1])
    largest = logits[:, :-1].gather(1, rows).float().softmax(-1).amax(-1)
    return torch.relu(largest - margin).mean()


def train_regularised(
    options: Mapping[str, Any],
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig,
    *,
    save_every: int | None = None,
    progress: bool = False,
) -> Path:
    """Train `base` as `finetune` does, with a regulariser in place of Att-CoT's terms.

    Args:
        options: Fields of `Regulariser`.
        base: Local folder or hub id.
        problems: Items with rationale steps.
        folder: Where to save; must not exist.
        config: The run.
        save_every: Steps between checkpoints that an interrupted run resumes from.
        progress: Show a progress bar.

    Raises:
        TrainingError: As `Regulariser` and `finetune` raise it.
    """
    try:
        chosen = Regulariser(**options)
    except TypeError as error:
        raise TrainingError(f"The options of a regulariser do not fit: {error}.") from error
    if chosen.form == "stop":
        config = replace(config, steps=max(1, round(config.steps * chosen.weight)))

    def make(mllm: Mllm, working: Path, **arguments: Any) -> Any:
        if chosen.form == "smoothing":
            arguments["label_smoothing_factor"] = chosen.weight
        trainer = make_trainer(
            mllm, problems, config, working, progress=progress, report_to=[], **arguments
        )
        if chosen.form in ("kl", "confidence"):
            _add(trainer, mllm, chosen, config.seed)
        return trainer

    return train_into(
        folder,
        make,
        base,
        problems,
        {**asdict(config), "regulariser": asdict(chosen)},
        seed=config.seed,
        dtype=config.loaded_in,
        limits=config.limits,
        log_every=LOG_EVERY,
        save_every=save_every,
    )


def _add(trainer: Any, mllm: Mllm, chosen: Regulariser, seed: int) -> None:
    """Add the penalty to what the trainer computes."""
    own = type(trainer)
    reference = deepcopy(mllm.model).eval().requires_grad_(False) if chosen.form == "kl" else None

    class Regularised(own):  # type: ignore[misc, valid-type]
        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **more: Any
        ) -> Any:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **more)
            labels = inputs["labels"]
            if reference is not None:
                given = {
                    name: one for name, one in inputs.items() if name not in ("labels", "attcot")
                }
                with torch.no_grad():
                    base = reference(**given).logits
                penalty = divergence(outputs.logits, base, labels)
            else:
                # Drawn by the step, so that a resumed run draws what the first would have.
                drawer = torch.Generator().manual_seed(seed * 100_003 + self.state.global_step)
                penalty = random_confidence(
                    outputs.logits, labels, chosen.margin, chosen.places, drawer
                )
            loss = loss + chosen.weight * penalty
            return (loss, outputs) if return_outputs else loss

    trainer.__class__ = Regularised
