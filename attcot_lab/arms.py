"""Arms: what one column of a comparison is trained with, read from a file.

What is read from YAML files, arms here and plans in `attcot_lab.plan`, is checked by `Record` and
`checked`: every error is one sentence with file, field, value and what is allowed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pandas as pd
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from transformers import AutoConfig

from attcot_analysis.errors import AttCoTError, TrainingError, one_line
from attcot_analysis.models import Mllm, Mode
from attcot_analysis.plain_yaml import read_plain_yaml
from attcot_analysis.problems import Problem
from attcot_analysis.problems.formats import TAGS, ResponseFormat
from attcot_analysis.shipped import config_file
from attcot_analysis.train.finetune import FinetuneConfig, finetune
from attcot_analysis.train.objective import AttCoTConfig
from attcot_lab.regularised import OPTIONS as REGULARISED_OPTIONS
from attcot_lab.regularised import train_regularised
from attcot_lab.sayo import OPTIONS as SAYO_OPTIONS
from attcot_lab.sayo import train_sayo
from attcot_lab.settings import check_plain
from attcot_lab.testbed.diagnosed import DIAGNOSED, diagnosed
from attcot_lab.testbed.planted import (
    PlantConfig,
    plant,
    planted_tables,
    with_boxes_of_others,
    with_counterfactuals,
    with_pictures_of_others,
)
from attcot_lab.vista.sets import OPTIONS as VISTA_OPTIONS
from attcot_lab.vista.sets import vista_config

UNTRAINED = "none"
"""The recipe of an arm that is measured as it is."""
Images = Literal["own", "shuffled", "counterfactual"]
Boxes = Literal["own", "shuffled"]
Layers = Literal["own", "random"]

_ALLOWED = {
    "bool_type": "true or false",
    "dict_type": "names with values",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "string_type": "text",
    "tuple_type": "a list",
}
"""Pydantic's kind of error → what would have been right."""
_WRONG = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""What values of a wrong type or size meet, where they are first counted, compared or called."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The names and values in a YAML file.

    Raises:
        TrainingError: If it is missing, not YAML, or holds something else.
    """
    try:
        content = read_plain_yaml(Path(path))
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path} is not YAML ({one_line(error)}); correct it.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise TrainingError(f"{path} must hold names with values, as `title: CoT-SFT`.")
    return content


def find_file(name: str | Path, folder: str, what: str) -> Path:
    """A YAML file by its path, or by its name in a folder of ``configs``.

    Raises:
        TrainingError: If there is none of that name.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = config_file(f"{folder}/{name}.yaml")
        if not path.is_file():
            known = ", ".join(sorted(other.stem for other in config_file(folder).glob("*.yaml")))
            raise TrainingError(
                f"There is no {what} {shown([str(name)])}; choose one of {known}, or give the path "
                "of a .yaml file."
            )
    return path


class Record(BaseModel):
    """Settings from a file: no unknown name, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, given: Any) -> Any:
        if isinstance(given, cls):
            return given
        return _with_names(given, cls.model_fields)


Made = TypeVar("Made", bound=Record)


def checked(kind: type[Made], given: Any, where: str) -> Made:
    """A record of the contents of a file.

    Args:
        kind: Of the record.
        given: The contents.
        where: The file, as the sentence of an error begins.

    Raises:
        TrainingError: If they do not hold together.
    """
    try:
        return kind.model_validate(given)
    except AttCoTError as error:
        raise TrainingError(f"{where}: {error}") from error
    except ValidationError as error:
        raise TrainingError(_sentence(error, where)) from error
    except _WRONG as error:
        raise TrainingError(
            f"{where}: a value is of a wrong type or size: {one_line(error)}."
        ) from error


def shown(names: Collection[object]) -> str:
    """Names from a file, as they may stand in a sentence."""
    return ", ".join(sorted(map(str, names)))


def _sentence(error: ValidationError, where: str) -> str:
    """The first of pydantic's complaints as one of our sentences."""
    complaints = error.errors()
    missing = sorted(str(one["loc"][-1]) for one in complaints if one["type"] == "missing")
    if missing:
        return f"{where} has no {' and no '.join(missing)}; write it."
    first = complaints[0]
    # Pydantic puts the alternatives of a union behind the field's own name.
    path = [str(part) for part in first["loc"] if "[" not in str(part)]
    inside = where if not path else f"{where}: {shown(['.'.join(path)])}"
    reason = first.get("ctx", {}).get("error")
    if isinstance(reason, ValidationError):
        return _sentence(reason, inside)
    if isinstance(reason, AttCoTError):
        return f"{inside}: {reason}"
    if reason is not None:
        return f"{inside} {reason}"
    allowed = _ALLOWED.get(first["type"])
    if first["type"] == "literal_error":
        allowed = f"one of {first['ctx']['expected']}".replace("'", "")
    allowed = allowed or first["msg"].removeprefix("Input should be ")
    verb = "choose" if first["type"] == "literal_error" else "give"
    value = repr(first["input"])
    return f"{inside} is {value if len(value) < 80 else value[:77] + '...'}; {verb} {allowed}."


def _with_names(given: Any, known: Collection[str]) -> Any:
    if not isinstance(given, Mapping):
        raise ValueError(f"is {given!r}; give names with values.")
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"has no field {shown(unknown)}; it has {', '.join(sorted(known))}.")
    return given


def settings_of(kind: type, *, without: Collection[str] = ()) -> BeforeValidator:
    """Let a field hold the settings of a dataclass by name, such as those of `FinetuneConfig`.

    Args:
        kind: The dataclass.
        without: Fields of it that a file may not set.
    """
    known = {one.name: one.type for one in fields(kind) if one.name not in without}

    def check(given: Any) -> Any:
        if is_dataclass(given):
            return given
        given = _with_names({} if given is None else given, known)
        for name, value in given.items():
            # Pydantic would take true for 1.
            if isinstance(value, bool) and known[name] is not bool:
                raise ValueError(f"says {name} is {value!r}; give another value.")
        return TypeAdapter(kind).validate_python(given)

    return BeforeValidator(check)


def _words(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; write it.")
    return text


Text = Annotated[str, AfterValidator(_words)]


def _recipe(name: str) -> str:
    known = (*RECIPES, UNTRAINED)
    if name not in known:
        raise ValueError(f"is {name!r}; choose one of {', '.join(known)}.")
    return name


class Look(Record):
    """How an arm is drawn.

    Attributes:
        place: Its place among the arms that have a look.
        color: Hex colour, colour-blind safe.
        marker: Matplotlib marker.
        line: Matplotlib line style: a name, or offset and lengths of dashes and gaps.
    """

    place: int
    color: str
    marker: str | list[int]
    line: Any


class Arm(Record):
    """One way to train (or not) that is compared with others.

    Attributes:
        name: Name of its file, and value of the tables' ``arm`` column.
        title: What a reader sees.
        about: What it is for, in a sentence.
        recipe: A name in `RECIPES`, or `UNTRAINED`.
        mode: Whether rationale and answer are learned, or the answer only.
        images: ``"shuffled"`` puts every training problem under another one's picture;
            ``"counterfactual"`` adds the twin and the control edit of each, with what is right
            there, in as many training steps.
        boxes: ``"shuffled"`` puts every training problem's steps on the evidence boxes of another
            problem with as many steps.
        layers: ``"random"`` puts L_vis on as many layers as the objective names, drawn from the
            seed, from the other layers as far as there are enough.
        attcot: The objective.
        options: Settings of recipes that have their own.
        look: How it is drawn; ``None`` takes a spare colour and marker.
    """

    name: Text
    title: Text
    about: Text
    recipe: Annotated[str, AfterValidator(_recipe)] = "sft"
    mode: Mode = "cot"
    images: Images = "own"
    boxes: Boxes = "own"
    layers: Layers = "own"
    attcot: Annotated[AttCoTConfig, settings_of(AttCoTConfig)] = Field(default_factory=AttCoTConfig)
    options: dict[str, Any] = Field(default_factory=dict)
    look: Look | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Arm":
        if self.mode == "direct" and self.attcot.active:
            raise ValueError(
                "has attcot terms, which are about rationales, and mode 'direct' has none of them; "
                "use mode 'cot' or leave attcot out."
            )
        if self.layers == "random" and not self.attcot.lambda_vis:
            raise ValueError(
                "draws the layers of L_vis, whose weight is 0; set attcot.lambda_vis or leave "
                "layers out."
            )
        if self.boxes == "shuffled" and self.attcot.vis_region != "evidence":
            raise ValueError(
                "shuffles evidence boxes, which its objective does not read; set attcot.vis_region "
                "to evidence or leave boxes out."
            )
        if not self.trained and (self.attcot.active or self.images != "own" or self.options):
            raise ValueError(
                "is not trained, so it takes no attcot, images or options; leave them out or name "
                "a recipe."
            )
        known = RECIPES[self.recipe].options if self.trained else ()
        unknown = [option for option in self.options if option not in known]
        if unknown:
            raise ValueError(
                f"has no option {shown(unknown)}; recipe {self.recipe} has "
                f"{', '.join(known) or 'none'}."
            )
        return self

    @property
    def trained(self) -> bool:
        """Whether anything is trained."""
        return self.recipe != UNTRAINED


Train = Callable[..., Path]
Tables = Callable[[Mllm, Sequence[Problem], pd.DataFrame], Mapping[str, pd.DataFrame]]
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
        tables: ``(mllm, problems, answers) -> tables by name``: what is measured on a trained model
            beside everything else, given its answers to the test problems; ``None`` for nothing.
        slim: Whether it knows LoRA, bfloat16 and gradient checkpointing, the config's ``lora``,
            ``lora_alpha``, ``dtype`` and ``gradient_checkpointing``.
    """

    train: Train
    options: tuple[str, ...] = ()
    values: Values | None = None
    tables: Tables | None = None
    slim: bool = False


def _sft(arm: Arm, *run: Any, **options: Any) -> Path:
    return finetune(*run, **options)


def _regularised(arm: Arm, *run: Any, **options: Any) -> Path:
    return train_regularised(arm.options, *run, **options)


def _sayo(arm: Arm, *run: Any, **options: Any) -> Path:
    return train_sayo(arm.name, arm.options, *run, **options)


def _vista(
    arm: Arm, base: str, problems: Sequence[Problem], folder: Path, *config: Any, **options: Any
) -> Path:
    # Only those who train with it need TRL.
    from attcot_lab.vista.run import run_vista

    # Arms beside each other, as in a grid, draw their first round once.
    siblings = sorted(Path(folder).parent.glob("*.vista"))
    own = vista_config(arm.options)
    return run_vista(base, problems, folder, own, *config, siblings=siblings, **options)


def _vista_values(
    arm: Arm, base: str | Path, problems: Sequence[Problem], folder: Path
) -> pd.DataFrame:
    from attcot_lab.vista.run import vista_values

    return vista_values(base, problems, folder, vista_config(arm.options))


def _planted(
    arm: Arm,
    base: str,
    problems: Sequence[Problem],
    folder: Path,
    config: FinetuneConfig,
    *,
    save_every: int | None = None,
    progress: bool = False,
) -> Path:
    # A failure is planted by problems made for it: as many as there are, and no others.
    how = PlantConfig(items=len(problems), finetune=config)
    return plant(arm.name, base, folder, how, seed=config.seed, progress=progress)


def _planted_tables(
    mllm: Mllm, problems: Sequence[Problem], answers: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    tables = planted_tables(mllm, problems, answers)
    return {**tables, DIAGNOSED: diagnosed(mllm, problems, answers)}


RECIPES: dict[str, Recipe] = {
    "sft": Recipe(_sft, slim=True),
    "regularised": Recipe(_regularised, REGULARISED_OPTIONS),
    "sayo": Recipe(_sayo, SAYO_OPTIONS),
    "vista": Recipe(_vista, VISTA_OPTIONS, _vista_values),
    "planted": Recipe(_planted, tables=_planted_tables),
}
"""Every way to train; further recipes add themselves here."""


def read_arm(name: str | Path) -> Arm:
    """Read an arm.

    Args:
        name: One of the project's arms (`arm_names`), or the path of a YAML file with any fields
            of `Arm` but the name.

    Raises:
        TrainingError: If the file is missing or not YAML, or the arm does not hold together.
    """
    path = find_file(name, "arms", "arm")
    return arm_of(path.stem, read_yaml(path))


def arm_names() -> list[str]:
    """Names of the arms that the project has files for."""
    return sorted(path.stem for path in config_file("arms").glob("*.yaml"))


def arm_of(name: str, settings: Mapping[str, Any]) -> Arm:
    """An arm from the contents of its file.

    Raises:
        TrainingError: If a field is unknown or missing, or the arm does not hold together.
    """
    if "name" in settings:
        raise TrainingError(f"Arm {name} is called as its file is; leave name out.")
    return checked(Arm, {**settings, "name": name}, f"Arm {name}")


def train_arm(
    arm: Arm,
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig,
    *,
    save_every: int | None = None,
    format: ResponseFormat = TAGS,
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
        format: How the examples are asked for and written; another than tags only by ``sft``.
        progress: Show a progress bar.

    Raises:
        TrainingError: If the arm is not trained at all, or as the recipe raises it.
    """
    if not arm.trained:
        raise TrainingError(f"Arm {arm.name} is not trained; measure its base instead.")
    if not RECIPES[arm.recipe].slim:
        check_plain(config, f"Arm {arm.name}: recipe {arm.recipe}")
    own = {} if format == TAGS else {"format": format}
    if own and arm.recipe != "sft":
        raise TrainingError(
            f"Arm {arm.name}: recipe {arm.recipe} trains in tags only; leave the format out."
        )
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
        **own,
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
    """The problems with the pictures and the boxes that the arm is trained on."""
    if arm.images == "shuffled":
        problems = with_pictures_of_others(problems)
    elif arm.images == "counterfactual":
        problems = with_counterfactuals(problems)
    return with_boxes_of_others(problems) if arm.boxes == "shuffled" else problems


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
