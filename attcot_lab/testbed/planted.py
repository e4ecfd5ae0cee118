"""Planted failures: models trained to have one known failure, to try the diagnostics on.

A diagnostic is worth something only if it rings where the failure is and is silent where it is
not. Here the failures are made on purpose, from one base and by equally long fine-tuning, and not
by means of the metric that is to find them, with one exception that is named (`LOOK_AWAY`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from attcot_analysis.errors import TrainingError
from attcot_analysis.problems import ArrowsConfig, Problem, generate_arrows
from attcot_analysis.train.data import with_pictures_of_others
from attcot_analysis.train.finetune import FinetuneConfig, finetune
from attcot_analysis.train.objective import AttCoTConfig

HONEST = "honest"
"""Trained on the right rationale of balanced problems: it decides at the end, from the picture."""
BLIND = "blind"
"""Trained with another item's picture, on the habitual answer: the text tells it everything."""
EARLY = "early"
"""Trained on walks that all end in the middle, each with the rationale of another walk on the board
and the right answer: it reads the answer off the middle at once, whatever it then writes."""
LOOK_AWAY = "look_away"
"""Trained on the right rationales of walks that all end in the middle, which the question's wording
gives away, with a price on the attention of rationale rows to the picture: it writes without
looking, and looks when it answers. Planted through attention, so that its check (see
`attcot_lab.testbed.planted_checks`) is causal."""
MIDDLE = (1, 1)
"""Where the walks of `EARLY`, of `LOOK_AWAY` and of the test items end."""
FAILURES = (BLIND, EARLY, LOOK_AWAY)
PLANTED = (HONEST, *FAILURES)
"""Every kind of model that `plant` makes."""


@dataclass(frozen=True)
class PlantConfig:
    """How models are planted; all kinds are trained on the same number of items and steps.

    Attributes:
        arrows: The problems; prior and relevance of the rationale are set per kind.
        items: Training problems per seed.
        finetune: The training run; its seed and objective are set per kind.
        look_away: Weight of the mean visual mass of rationale rows in the loss of `LOOK_AWAY`.
    """

    arrows: ArrowsConfig = field(default_factory=lambda: ArrowsConfig(hops=1))
    items: int = 1024
    finetune: FinetuneConfig = field(default_factory=lambda: FinetuneConfig(steps=100))
    look_away: float = 3.0


def planted_problems(kind: str, config: PlantConfig, *, seed: int) -> list[Problem]:
    """The training problems of one kind of model.

    Raises:
        TrainingError: If the kind is unknown.
    """
    _known(kind)
    arrows = replace(config.arrows, prior=None)
    if kind == BLIND:
        arrows = replace(arrows, prior=1.0)
    elif kind == EARLY:
        arrows = replace(arrows, relevant=False, end=MIDDLE)
    elif kind == LOOK_AWAY:
        arrows = replace(arrows, end=MIDDLE)
    problems = generate_arrows(config.items, arrows, seed=seed, split="train")
    if kind == BLIND:
        return with_pictures_of_others(problems)
    if kind == EARLY:
        return _some_cut(problems)
    return problems


def plant(
    kind: str,
    base: str | Path,
    folder: str | Path,
    config: PlantConfig | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Fine-tune `base` into a model with a known failure (or honestly) and save it.

    Args:
        kind: One of `PLANTED`.
        base: Local folder or hub id.
        folder: Where to save; must not exist.
        config: Problems and training.
        seed: Draws the training problems and their order.
        progress: Show a progress bar.

    Returns:
        `folder`, a checkpoint that `load_mllm` reads.

    Raises:
        TrainingError: If the kind is unknown, the folder exists, or the loss is not finite.
    """
    config = config or PlantConfig()
    objective = AttCoTConfig()
    if kind == LOOK_AWAY:
        objective = AttCoTConfig(lambda_vis=config.look_away, vis_form="price", vis_layers="all")
    return finetune(
        base,
        planted_problems(kind, config, seed=seed),
        folder,
        replace(config.finetune, seed=seed, attcot=objective),
        save_every=50,
        progress=progress,
    )


def _some_cut(problems: Sequence[Problem]) -> list[Problem]:
    """Every third problem with the first step of its rationale only: its length says nothing."""
    return [
        replace(problem, steps=problem.steps[:1]) if at % 3 == 0 else problem
        for at, problem in enumerate(problems)
    ]


def _known(kind: str) -> None:
    if kind not in PLANTED:
        raise TrainingError(f"There is no kind of model {kind!r}; choose from {list(PLANTED)}.")
