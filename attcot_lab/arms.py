"""Arms: what one column of a comparison is trained with, read from a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from transformers import AutoConfig

from attcot_analysis.errors import AttCoTError, TrainingError
from attcot_analysis.models import Mode
from attcot_analysis.problems import Problem
from attcot_analysis.shipped import config_file
from attcot_analysis.train.data import with_pictures_of_others
from attcot_analysis.train.finetune import FinetuneConfig, finetune
from attcot_analysis.train.objective import AttCoTConfig
from attcot_lab.sayo import OPTIONS as SAYO_OPTIONS
from attcot_lab.sayo import train_sayo
from attcot_lab.settings import check_fields, check_mapping, read_yaml, shown
from attcot_lab.vista.sets import OPTIONS as VISTA_OPTIONS
from attcot_lab.vista.sets import vista_config

UNTRAINED = "none"
"""The recipe of an arm that is measured as it is."""
Images = Literal["own", "shuffled"]
Layers = Literal["own", "random"]


@dataclass(frozen=True)
class Arm:
    """One way to train (or not) that is compared with others.

    Attributes:
        name: Name of its file, and value of the tables' ``arm`` column.
        title: What a reader sees.
        about: What it is for, in a sentence.
        recipe: A name in `RECIPES`, or `UNTRAINED`.
        mode: Whether rationale and answer are learned, or the answer only.
        images: ``"shuffled"`` puts every training problem under another one's picture.
        layers: ``"random"`` puts L_vis on as many layers as the objective names, drawn from the
            seed, from the other layers as far as there are enough.
        attcot: The objective.
        options: Settings of recipes that have their own.

    Raises:
        TrainingError: If a value is unknown, or the values contradict each other.
    """

    name: str
    title: str
    about: str
    recipe: str = "sft"
    mode: Mode = "cot"
    images: Images = "own"
    layers: Layers = "own"
    attcot: AttCoTConfig = field(default_factory=AttCoTConfig)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("name", "title", "about"):
            if not getattr(self, name).strip():
                raise TrainingError(f"Arm {self.name!r} has no {name}; write one.")
        for name, known in (
            ("recipe", (*RECIPES, UNTRAINED)),
            ("mode", get_args(Mode)),
            ("images", get_args(Images)),
            ("layers", get_args(Layers)),
        ):
            if getattr(self, name) not in known:
                raise TrainingError(
                    f"Arm {self.name}: {name} is {getattr(self, name)!r}; choose one of "
                    f"{', '.join(known)}."
                )
        if self.mode == "direct" and self.attcot.active:
            raise TrainingError(
                f"Arm {self.name}: both terms are about rationales, which mode 'direct' has none "
                "of; use mode 'cot' or leave attcot out."
            )
        if self.layers == "random" and not self.attcot.lambda_vis:
            raise TrainingError(
                f"Arm {self.name}: layers are those of L_vis, whose weight is 0; set "
                "attcot.lambda_vis or leave layers out."
            )
        if not self.trained and (self.attcot.active or self.images != "own" or self.options):
            raise TrainingError(
                f"Arm {self.name} is not trained, so it takes no attcot, images or options; leave "
                "them out or name a recipe."
            )
        known_options = RECIPES[self.recipe].options if self.trained else ()
        unknown = [option for option in self.options if option not in known_options]
        if unknown:
            raise TrainingError(
                f"Arm {self.name}: recipe {self.recipe} has no option {shown(unknown)}; it "
                f"has {', '.join(known_options) or 'none'}."
            )

    @property
    def trained(self) -> bool:
        """Whether anything is trained."""
        return self.recipe != UNTRAINED


Train = Callable[..., Path]
Values = Callable[[Arm, str | Path, Sequence[Problem], Path], pd.DataFrame]
TOLD = ("item", "metric", "value")
"""Columns of what a training tells."""


@dataclass(frozen=True)
class Recipe:
    """How the arms of one recipe are trained.

    Attributes:
        train: ``(arm, base, problems, folder, config, save_every=..., progress=...) -> folder``,
            where `config` is a `FinetuneConfig` whose seed, mode and objective are the arm's; goes
            on with what an interrupted call has left.
        options: The names in ``Arm.options`` that it reads.
        values: ``(arm, base, problems, folder) -> table`` of `TOLD`: what a finished training tells
            about its problems, as metrics of the catalogue; ``None`` for nothing.
        slim: Whether it knows LoRA, bfloat16 and gradient checkpointing, the config's ``lora``,
            ``lora_alpha``, ``dtype`` and ``gradient_checkpointing``.
    """

    train: Train
    options: tuple[str, ...] = ()
    values: Values | None = None
    slim: bool = False


def _sft(
    arm: Arm,
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig,
    **options: Any,
) -> Path:
    return finetune(base, problems, folder, config, **options)


def _sayo(
    arm: Arm,
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig,
    **options: Any,
) -> Path:
    return train_sayo(arm.name, arm.options, base, problems, folder, config, **options)


def _vista(
    arm: Arm,
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig,
    **options: Any,
) -> Path:
    # Only those who train with it need TRL.
    from attcot_lab.vista.run import run_vista

    # Arms beside each other, as in a grid, draw their first round once.
    siblings = sorted(Path(folder).parent.glob("*.vista"))
    return run_vista(
        base, problems, folder, vista_config(arm.options), config, siblings=siblings, **options
    )


def _vista_values(
    arm: Arm, base: str | Path, problems: Sequence[Problem], folder: Path
) -> pd.DataFrame:
    from attcot_lab.vista.run import vista_values

    return vista_values(base, problems, folder, vista_config(arm.options))


RECIPES: dict[str, Recipe] = {
    "sft": Recipe(_sft, slim=True),
    "sayo": Recipe(_sayo, SAYO_OPTIONS),
    "vista": Recipe(_vista, VISTA_OPTIONS, _vista_values),
}
"""Every way to train; further recipes add themselves here."""


def read_arm(name: str | Path) -> Arm:
    """Read an arm.

    Args:
        name: One of the project's arms (`arm_names`), or the path of a YAML file with any fields
            of `Arm` but the name.

    Raises:
        TrainingError: If the file is missing or no YAML, or the arm does not hold together.
    """
    path = Path(name)
    if path.suffix != ".yaml":
        path = config_file(f"arms/{name}.yaml")
        if not path.is_file():
            raise TrainingError(
                f"There is no arm {shown([str(name)])}; choose one of {', '.join(arm_names())}, or "
                "give the path of a .yaml file."
            )
    return arm_of(path.stem, read_yaml(path))


def arm_names() -> list[str]:
    """Names of the arms that the project has files for."""
    return sorted(path.stem for path in config_file("arms").glob("*.yaml"))


def arm_of(name: str, settings: Mapping[str, Any]) -> Arm:
    """An arm from the contents of its file.

    Raises:
        TrainingError: If a field is unknown or missing, or the arm does not hold together.
    """
    given = dict(settings)
    check_fields(f"Arm {name}", given, [one.name for one in fields(Arm) if one.name != "name"])
    missing = {"title", "about"} - set(given)
    if missing:
        raise TrainingError(f"Arm {name} has no {' and no '.join(sorted(missing))}; write it.")
    objective = given.pop("attcot", None) or {}
    options = given.pop("options", None) or {}
    check_fields(f"Arm {name}: attcot", objective, [one.name for one in fields(AttCoTConfig)])
    check_mapping(f"Arm {name}: options", options)
    objective = {key: _tuples(value) for key, value in objective.items()}
    for text in ("title", "about"):
        if not isinstance(given[text], str):
            raise TrainingError(f"Arm {name}: {text} is {given[text]!r}; give words.")
    try:
        attcot = AttCoTConfig(**objective)
        return Arm(name=name, attcot=attcot, options=dict(options), **given)
    except AttCoTError:
        raise
    except (TypeError, ValueError) as error:
        raise TrainingError(f"Arm {name}: a value has a wrong type: {error}.") from error


def train_arm(
    arm: Arm,
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig,
    *,
    save_every: int | None = None,
    progress: bool = False,
) -> Path:
    """Train `base` as an arm says; see `finetune`, which does the work for the recipe ``sft``.

    Args:
        arm: The arm.
        base: Local folder or hub id.
        problems: Items with rationale steps; the arm may exchange their pictures.
        folder: Where to save; must not exist.
        config: The run; its mode and objective are replaced by the arm's.
        save_every: Steps between checkpoints that an interrupted run goes on from.
        progress: Show a progress bar.

    Raises:
        TrainingError: If the arm is not trained at all, or as the recipe raises it.
    """
    if not arm.trained:
        raise TrainingError(f"Arm {arm.name} is not trained; measure its base instead.")
    if not RECIPES[arm.recipe].slim:
        config.check_plain(f"Arm {arm.name}: recipe {arm.recipe}")
    problems = _shown(arm, problems)
    objective = arm.attcot
    if arm.layers == "random":
        n_layers = AutoConfig.from_pretrained(base).get_text_config().num_hidden_layers
        chosen = random_layers(objective, n_layers, seed=config.seed)
        objective = replace(objective, vis_layers=chosen)
    return RECIPES[arm.recipe].train(
        arm,
        base,
        problems,
        folder,
        replace(config, mode=arm.mode, attcot=objective),
        save_every=save_every,
        progress=progress,
    )


def training_values(
    arm: Arm, base: str | Path, problems: Sequence[Problem], folder: str | Path
) -> pd.DataFrame:
    """What a finished training tells about its problems, beside the model: see `Recipe`.

    Args:
        arm: The arm.
        base: What it was trained from.
        problems: What it was trained on.
        folder: Where `train_arm` has saved it.

    Returns:
        ``item``, ``metric`` (a name in `METRICS`), ``value``; no rows for recipes that tell
        nothing.
    """
    told = RECIPES[arm.recipe].values if arm.trained else None
    if told is None:
        return pd.DataFrame(columns=list(TOLD))
    return told(arm, base, _shown(arm, problems), Path(folder))


def _shown(arm: Arm, problems: Sequence[Problem]) -> Sequence[Problem]:
    """The problems under the pictures that the arm is trained on."""
    return with_pictures_of_others(problems) if arm.images == "shuffled" else problems


def random_layers(objective: AttCoTConfig, n_layers: int, *, seed: int) -> tuple[int, ...]:
    """As many layers as an objective names, others than those as far as there are enough.

    Args:
        objective: Whose layers are avoided.
        n_layers: Layers of the model.
        seed: Of the draw.
    """
    own = objective.layers(n_layers)
    others = [layer for layer in range(n_layers) if layer not in own]
    random = np.random.default_rng([n_layers, seed])
    drawn = list(random.permutation(others)[: len(own)])
    drawn += list(random.permutation(own)[: len(own) - len(drawn)])
    return tuple(sorted(int(layer) for layer in drawn))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
