"""What a grid of training runs is made of, read from a file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from attcot_analysis.errors import AttCoTError, TrainingError
from attcot_analysis.problems import Problem
from attcot_analysis.runs.headline import MEASURES, Measure, check_measures
from attcot_analysis.shipped import config_file
from attcot_analysis.train.finetune import FinetuneConfig
from attcot_lab.arms import Arm, read_arm
from attcot_lab.settings import check_fields, read_yaml
from attcot_lab.testbed.kinds import generate_problems

_SPECIAL = ("blocks", "kinds", "arms", "models")
_BLOCK = ("models", "kinds", "arms", "seeds")
_OWN = ("train_items", "train_prior", "test_prior", "finetune")
_PER_ARM = ("seed", "mode", "attcot")


@dataclass(frozen=True)
class Cell:
    """One model to fine-tune (or not) and measure: what one process does at a time.

    Attributes:
        model: Name of the checkpoint it starts from.
        kind: Name of the kind of problems, in training and test.
        arm: Name of the arm.
        seed: Draws the training problems and their order; 0 for an arm that is not trained.
    """

    model: str
    kind: str
    arm: str
    seed: int

    def __str__(self) -> str:
        """Its name in files."""
        return f"{self.model}.{self.kind}.{self.arm}-{self.seed}"


@dataclass(frozen=True)
class Block:
    """All combinations of some models, kinds, arms and seeds."""

    models: tuple[str, ...]
    kinds: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class KindSetup:
    """The problems of one kind, and how arms are trained on them.

    Attributes:
        name: One of `attcot_lab.testbed.kinds.KINDS`.
        knobs: The kind's knobs but the prior, the same in training and test.
        train_items: Training problems per seed.
        train_prior: Share of training problems whose answer is the habitual one.
        finetune: The training run; seed, mode and objective are set per arm.
        test_prior: The same of test problems; ``None`` means balanced, the habitual answer is then
            right as often as any other.
    """

    name: str
    knobs: Mapping[str, Any]
    train_items: int
    train_prior: float
    finetune: FinetuneConfig
    test_prior: float | None = None

    def training_problems(self, seed: int) -> list[Problem]:
        """The prior-laden problems that the arms of one seed are trained on."""
        knobs = {**self.knobs, "prior": self.train_prior}
        return generate_problems(self.name, self.train_items, seed=seed, split="train", **knobs)

    def training(self, seed: int) -> FinetuneConfig:
        """The training run of one seed."""
        return replace(self.finetune, seed=seed)

    def test_problems(self, items: int, seed: int) -> list[Problem]:
        """The problems that all arms are measured on."""
        knobs = {**self.knobs, "prior": self.test_prior}
        return generate_problems(self.name, items, seed=seed, split="test", **knobs)


@dataclass(frozen=True)
class GridConfig:
    """A grid of training runs.

    Attributes:
        about: What it is for.
        blocks: What is combined with what; a cell that several blocks hold is run once.
        kinds: Kind → its problems and training.
        arms: Name → arm.
        models: Name → testbed model or checkpoint folder.
        items: Test items per kind.
        test_seed: Draws the test items.
        batch_size: Items per forward pass or generation in the measurements.
        max_new_tokens: Length limit of a response.
        measures: What is measured beside the answers, some of `MEASURES`; fewer leave time for
            more items and seeds.
        save_every: Training steps between checkpoints that an interrupted cell goes on from.
        keep_models: Keep every fine-tuned checkpoint instead of its values alone.
    """

    about: str
    blocks: tuple[Block, ...]
    kinds: Mapping[str, KindSetup]
    arms: Mapping[str, Arm]
    models: Mapping[str, str]
    items: int = 100
    test_seed: int = 1000
    batch_size: int = 100
    max_new_tokens: int = 96
    measures: tuple[Measure, ...] = MEASURES
    save_every: int = 50
    keep_models: bool = field(default=False, compare=False)

    def cells(self) -> list[Cell]:
        """Every cell once, seeds outermost, so that whatever is done first is balanced."""
        seeds = sorted({seed for block in self.blocks for seed in block.seeds} | {0})
        found: dict[Cell, None] = {}
        for seed in seeds:
            for block in self.blocks:
                for model in block.models:
                    for kind in block.kinds:
                        for arm in block.arms:
                            trained = self.arms[arm].trained
                            if seed in block.seeds if trained else seed == 0:
                                found[Cell(model, kind, arm, seed)] = None
        return list(found)


def read_grid(path: str | Path) -> GridConfig:
    """Read a grid.

    Args:
        path: A YAML file, or the name of one in ``configs/grids``. It holds ``about``, ``models``
            (testbed models or checkpoint folders), ``kinds`` (each with its knobs and, if they are
            its own, ``train_items``, ``train_prior``, ``test_prior`` and ``finetune``), ``arms``
            (see `read_arm`), ``seeds``, ``train_items``, ``train_prior``, ``test_prior``,
            ``finetune`` (fields of `FinetuneConfig`), ``blocks`` (each naming some of models,
            kinds, arms and seeds; what it leaves out is the grid's; default one block of
            everything) and any other field of `GridConfig`.

    Raises:
        TrainingError: If the file is missing, or the grid does not hold together.
    """
    file = Path(path)
    if file.suffix != ".yaml":
        file = config_file(f"grids/{path}.yaml")
        if not file.is_file():
            known = ", ".join(sorted(one.stem for one in config_file("grids").glob("*.yaml")))
            raise TrainingError(
                f"There is no grid {path}; choose one of {known}, or give the path of a .yaml file."
            )
    return grid_of(read_yaml(file), where=file.name)


def grid_of(settings: Mapping[str, Any], *, where: str = "The grid") -> GridConfig:
    """A grid from the contents of its file.

    Raises:
        TrainingError: If it does not hold together.
    """
    try:
        return _grid_of(settings, where)
    except AttCoTError:
        raise
    # Values of a wrong type are met by whatever first counts, compares or calls them.
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{where}: a value is of a wrong type or size: {reason}.") from error


def _grid_of(settings: Mapping[str, Any], where: str) -> GridConfig:
    own = [one.name for one in fields(GridConfig)]
    check_fields(where, settings, {*own, *_BLOCK, *_OWN})
    given = {key: settings[key] for key in own if key in settings and key not in _SPECIAL}
    needed = {"about", "models", "kinds"} - set(settings)
    if needed:
        raise TrainingError(f"{where} says nothing about {', '.join(sorted(needed))}.")
    for name in ("items", "batch_size", "max_new_tokens", "save_every"):
        if name in given and (not isinstance(given[name], int) or given[name] < 1):
            raise TrainingError(f"{where}: {name} is {given[name]!r}; give a number above 0.")
    if "measures" in given:
        given["measures"] = _measures(given["measures"], where)
    blocks = [_block(one, where) for one in [settings, *settings.get("blocks", ())]]
    defaults = {**dict.fromkeys(_BLOCK, ()), "seeds": (0,), **blocks[0]}
    combined = [Block(**{**defaults, **one}) for one in blocks[1:] or blocks[:1]]
    paths = {p for one in [Block(**defaults), *combined] for p in one.models}
    models = {Path(one).name: one for one in sorted(paths)}
    if len(models) < len(paths):
        raise TrainingError(f"{where}: two models have the same folder name; rename one.")
    kinds = settings["kinds"]
    if not isinstance(kinds, Mapping):
        raise TrainingError(f"{where}: kinds is {kinds!r}; give every kind with its knobs.")
    for name, knobs in kinds.items():
        if knobs is not None and not isinstance(knobs, Mapping):
            raise TrainingError(f"{where}: {name} is {knobs!r}; give its knobs with values.")
    setups = {name: _setup(name, knobs or {}, settings, where) for name, knobs in kinds.items()}
    unknown = {kind for block in combined for kind in block.kinds} - set(setups)
    if unknown:
        raise TrainingError(f"{where}: a block names {sorted(unknown)}, which kinds lacks.")
    arms = [read_arm(one) for one in sorted({arm for block in combined for arm in block.arms})]
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TrainingError(f"{where}: two files are called {twice[0]}; rename one.")
    by_file = {one: Path(one).stem for block in combined for one in block.arms}
    config = GridConfig(
        blocks=tuple(
            Block(
                tuple(Path(one).name for one in block.models),
                block.kinds,
                tuple(by_file[one] for one in block.arms),
                block.seeds,
            )
            for block in combined
        ),
        kinds=setups,
        arms={arm.name: arm for arm in arms},
        models=models,
        **given,
    )
    if not config.cells():
        raise TrainingError(f"{where} has no cell; name models, kinds, arms and seeds.")
    return config


def _measures(given: Any, where: str) -> tuple[str, ...]:
    """The measures that a grid names, in one order whatever the file's."""
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise TrainingError(f"{where}: measures is {given!r}; give a list of them.")
    check_measures(given)
    return tuple(one for one in MEASURES if one in given)


def _block(given: Any, where: str) -> dict[str, tuple[Any, ...]]:
    """What one block, or the grid itself, names."""
    if not isinstance(given, Mapping):
        raise TrainingError(f"{where}: a block is {given!r}; give names with values.")
    if "about" not in given:
        check_fields(f"{where}: a block", given, set(_BLOCK))
    found = {}
    for name in _BLOCK:
        if name in given:
            values = tuple(given[name])
            wanted = int if name == "seeds" else str
            if isinstance(given[name], str) or not all(type(one) is wanted for one in values):
                raise TrainingError(f"{where}: {name} is {given[name]!r}; give a list of them.")
            found[name] = values
    return found


def _setup(name: str, knobs: Mapping[str, Any], grid: Mapping[str, Any], where: str) -> KindSetup:
    if "prior" in knobs:
        raise TrainingError(
            f"{where}: {name} sets its prior, which training and test problems have each their "
            "own; set train_prior and test_prior instead."
        )
    chosen = {**grid, **knobs}
    training = {**grid.get("finetune", {}), **knobs.get("finetune", {})}
    known = {one.name for one in fields(FinetuneConfig)} - set(_PER_ARM)
    check_fields(f"{where}: finetune", training, known)
    setup = KindSetup(
        name=name,
        knobs={key: value for key, value in knobs.items() if key not in _OWN},
        train_items=chosen.get("train_items", 384),
        train_prior=chosen.get("train_prior", 0.95),
        finetune=FinetuneConfig(**training),
        test_prior=chosen.get("test_prior"),
    )
    # Made once here so that a wrong knob is an error before anything is trained.
    setup.test_problems(1, 0)
    return setup
