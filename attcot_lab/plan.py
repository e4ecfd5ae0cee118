"""Plans: one YAML file that says which models are trained on what, and how they are measured.

A plan is models × problems × arms × seeds. Every combination is a `Cell`: a model that is trained
(or not) and measured into a run folder of its own; `attcot_lab.run` does it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from attcot_analysis.errors import RunError, TrainingError
from attcot_analysis.presets import find_preset
from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import EDIT_KINDS
from attcot_analysis.problems.folder import load_problems
from attcot_analysis.problems.formats import TAGS, ResponseFormat, response_format
from attcot_analysis.runs.values import DEFAULT
from attcot_analysis.shipped import shipped
from attcot_analysis.train.finetune import FinetuneConfig
from attcot_lab.arms import (
    Arm,
    Record,
    Text,
    checked,
    find_file,
    read_arm,
    read_yaml,
    settings_of,
    shown,
)
from attcot_lab.metrics import MEASURES, Measure
from attcot_lab.testbed.kinds import KINDS, generate_problems

BASE = "base"
COT_SFT = "cot_sft"
ITEMS = 100
"""Generated test items, where a plan does not say how many."""
TRAIN_ITEMS = 384
"""Generated training items, where a plan does not say how many."""
Extra = Literal["answer_access", "causal", "lens", "divergence", "open_commitment"]
Pages = Literal["none", "pairs", "study"]


def _positive(number: int) -> int:
    if number < 1:
        raise ValueError(f"is {number}; give a number above 0.")
    return number


def _edit(kind: str) -> str:
    if kind not in EDIT_KINDS:
        raise ValueError(f"is {kind!r}; choose one of {', '.join(EDIT_KINDS)}.")
    return kind


def _format(name: str) -> str:
    response_format(name)
    return name


def _tuples(knobs: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(one) if isinstance(one, list) else one for key, one in knobs.items()}


Edit = Annotated[str, AfterValidator(_edit)]
Positive = Annotated[int, AfterValidator(_positive)]
_NOT_OF_TRAINING = ("seed", "mode", "attcot", "max_pixels", "max_patches")
Training = Annotated[FinetuneConfig, settings_of(FinetuneConfig, without=_NOT_OF_TRAINING)]


@dataclass(frozen=True)
class Cell:
    """One model to fine-tune (or not) and measure: what one process does at a time.

    Attributes:
        model: Name of the checkpoint it starts from.
        kind: Name of the problems, in training and test.
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

    def folder(self, run: Path) -> Path:
        """Its own run folder inside that of the plan."""
        return run / "cells" / str(self)

    def model_folder(self, run: Path) -> Path:
        """Its checkpoint, where it is trained and kept."""
        return run / "models" / str(self)


class Block(Record):
    """All combinations of some models, problems, arms and seeds, by their names in a plan."""

    models: list[str] = Field(default_factory=list)
    problems: list[str] = Field(default_factory=list)
    arms: list[str] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=lambda: [0])


class ProblemSet(Record):
    """Problems of one kind, generated or from folders, and how arms are trained on them.

    Attributes:
        kind: Of generated problems, one of `attcot_lab.testbed.kinds.KINDS`.
        knobs: The kind's knobs but the prior, the same in training and test.
        train_items: Training problems per seed; default all of a folder, else `TRAIN_ITEMS`.
        train_prior: Share of generated training problems whose answer is the habitual one; ``None``
            means balanced.
        finetune: The training run; seed, mode and objective are set per arm.
        test_prior: The same share of test problems; ``None`` means balanced, the habitual answer is
            then right as often as any other.
        test: Folder of the test problems; ``None`` generates them.
        train: Folder of the training problems, the same for all seeds; ``None`` generates them.
    """

    kind: str
    knobs: Annotated[dict[str, Any], AfterValidator(_tuples)] = Field(default_factory=dict)
    train_items: Positive | None = None
    train_prior: float | None = 0.95
    finetune: Training = Field(default_factory=FinetuneConfig)
    test_prior: float | None = None
    test: str | None = None
    train: str | None = None

    @model_validator(mode="after")
    def _can_be_made(self) -> "ProblemSet":
        if "prior" in self.knobs:
            raise ValueError(
                "sets its prior, which training and test problems have each their own; set "
                "train_prior and test_prior instead."
            )
        # Made once here so that a wrong knob is an error before anything is trained.
        if self.test is None:
            self.test_problems(1, 0)
        return self

    def training_problems(self, seed: int) -> list[Problem]:
        """The problems that the arms of one seed are trained on."""
        if self.train is not None:
            return load_problems(
                find_folder(self.train), limit=self.train_items, keep_pictures=False
            )
        knobs = {**self.knobs, "prior": self.train_prior}
        n = self.train_items or TRAIN_ITEMS
        return generate_problems(self.kind, n, seed=seed, split="train", **knobs)

    def training(self, seed: int) -> FinetuneConfig:
        """The training run of one seed."""
        return replace(self.finetune, seed=seed)

    def test_problems(self, items: int | None, seed: int) -> list[Problem]:
        """The problems that all arms are measured on."""
        if self.test is not None:
            return load_problems(find_folder(self.test), limit=items, keep_pictures=False)
        knobs = {**self.knobs, "prior": self.test_prior}
        return generate_problems(self.kind, items or ITEMS, seed=seed, split="test", **knobs)


class Measuring(Record):
    """What of a model is measured in full; see `measure_run`, whose defaults these have."""

    layers: list[int] | None = None
    controls: list[str] | None = None
    edits: list[Edit] | None = None
    extras: list[Extra] | None = None
    maps: bool = False
    samples: Positive | None = None
    temperature: float | None = None
    sampling: Literal["recommended"] | None = None
    max_steps: Positive | None = None

    @field_validator("layers", mode="before")
    @classmethod
    def _all_layers(cls, given: Any) -> Any:
        return None if given == "all" else given

    def options(self) -> dict[str, Any]:
        """The arguments of `measure_run` that are given."""
        given = self.model_dump(exclude_none=True, exclude_unset=True)
        extras = [*given.pop("extras", ()), *(["maps"] if given.pop("maps", False) else ())]
        return given | ({"what": [*DEFAULT, *extras]} if extras else {})


class Settings(Record):
    """What a plan says beside its cells.

    Attributes:
        about: What it is for.
        out: Folder for everything that is made.
        items: Test items of each set of problems; default all of a folder, else `ITEMS`.
        test_seed: Draws generated test items.
        batch_size: Items per forward pass or generation in the measurements.
        max_new_tokens: Length limit of a response.
        measures: What is measured beside the answers, some of `MEASURES`, where only values per
            item are kept; fewer leave time for more items and seeds.
        measure: Measure in full, as `measure_run` does, and keep all tables; ``None`` keeps the
            values of `measures` only.
        dtype: Of the measured models.
        max_pixels: What a picture may cost, in training and measuring; see `load_mllm`.
        max_patches: Likewise.
        format: How models are asked and read, in training and measuring: a name, or a YAML file;
            another than tags only for arms of the recipe ``sft``.
        revision: Of models on the hub.
        check: Whether a model is checked first; one that fails is not measured.
        pages: ``"pairs"`` compares every arm with the base and with ``cot_sft``, or describes the
            base where nothing is trained; ``"study"`` writes one report over all arms.
        seed: Of the intervals' bootstrap.
        save_every: Training steps between checkpoints that an interrupted cell resumes from.
        keep_models: Keep every fine-tuned checkpoint.
    """

    about: Text
    out: str | None = None
    items: Positive | None = None
    test_seed: int = 1000
    batch_size: Positive = 64
    max_new_tokens: Positive = 256
    measures: list[Measure] = Field(default_factory=lambda: list(MEASURES))
    measure: Measuring | None = None
    dtype: str = "auto"
    max_pixels: Positive | None = None
    max_patches: Positive | None = None
    format: Annotated[str, AfterValidator(_format)] = TAGS.name
    revision: str | None = None
    check: bool = False
    pages: Pages = "none"
    seed: int = 0
    save_every: Positive = 50
    keep_models: bool = False

    @property
    def response_format(self) -> ResponseFormat:
        """The format that models are asked and read in."""
        return response_format(self.format)

    @property
    def limits(self) -> dict[str, Any]:
        """What a picture may cost, where the plan says so."""
        given = {"max_pixels": self.max_pixels, "max_patches": self.max_patches}
        return {name: most for name, most in given.items() if most is not None}


class Plan(Settings):
    """Models × problems × arms × seeds: what is trained, how it is measured, what is shown.

    Attributes:
        models: Name → checkpoint folder, hub id or testbed model.
        problems: Name → problems and training.
        arms: Name → arm.
        blocks: What is combined with what; a cell that several blocks hold is run once.
        n_layers: What a preset says of the model; ``None`` without one.
    """

    models: dict[str, str]
    problems: dict[str, ProblemSet]
    arms: dict[str, Arm]
    blocks: list[Block]
    n_layers: int | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> "Plan":
        if not self.cells():
            raise ValueError("has no cell; name models, problems, arms and seeds.")
        sets = self.problems.values()
        if self.pages != "none" and (
            self.measure is None
            or (self.pages == "pairs" and any(one.test is None for one in sets))
        ):
            raise ValueError(
                f"asks for pages {self.pages}, which need all tables and, for pairs, test problems "
                "in a folder; give measure (as `measure: {}`) and test, or leave pages out."
            )
        single = len(self.models) == len(self.problems) == 1 and self.keep_models
        if self.pages == "study" and not (single and {BASE, COT_SFT} < set(self.arms)):
            raise ValueError(
                "asks for pages study, a report over base, cot_sft and other arms of one model on "
                "one set of problems, with models that are kept; name these or leave pages out."
            )
        trained = any(self.arms[cell.arm].trained for cell in self.cells())
        for name, problems in self.problems.items():
            if trained and problems.train is None and problems.kind not in KINDS:
                raise ValueError(
                    f"names no folder of training problems for {name}; give train beside test."
                )
        return self

    def cells(self) -> list[Cell]:
        """Every cell once, seeds outermost, so that whatever is done first is balanced."""
        seeds = sorted({seed for block in self.blocks for seed in block.seeds} | {0})
        cells: dict[Cell, None] = {}
        for seed in seeds:
            for block in self.blocks:
                for model in block.models:
                    for kind in block.problems:
                        for arm in block.arms:
                            trained = self.arms[arm].trained
                            if seed in block.seeds if trained else seed == 0:
                                cells[Cell(model, kind, arm, seed)] = None
        return list(cells)

    def __str__(self) -> str:
        """What is asked for, part by part."""
        cells = self.cells()
        trained = [cell for cell in cells if self.arms[cell.arm].trained]
        models = [
            place if place == name else f"{name} ({place})" for name, place in self.models.items()
        ]
        limits = "".join(f", {name} {most}" for name, most in self.limits.items())
        lines = [self.about, f"models    {', '.join(models)}; {self.dtype}{limits}"]
        lines += [f"problems  {name}: {_described(one)}" for name, one in self.problems.items()]
        lines.append(f"out       {self.out or 'as --out says'}")
        lines.append(f"check     {'yes' if self.check else 'no'}")
        if self.measure is None:
            lines.append(f"measure   CoT answers, {', '.join(self.measures)}")
        else:
            given = ", ".join(f"{key}={value}" for key, value in self.measure.options().items())
            lines.append(f"measure   in full{', ' if given else ''}{given}")
        training = []
        for name, one in self.problems.items():
            here = [cell for cell in trained if cell.kind == name]
            arms = ", ".join(dict.fromkeys(cell.arm for cell in here))
            seeds = ", ".join(dict.fromkeys(str(cell.seed) for cell in here))
            rank = one.finetune.lora
            lora = "" if rank is None else f"; LoRA of rank {rank}"
            training.append(
                f"finetune  {arms}; seeds {seeds}; {one.finetune.steps} steps each{lora}"
            )
        lines += dict.fromkeys(training) if trained else []
        return "\n".join([*lines, f"pages     {self.pages}", f"cells     {len(cells)}"])


def read_plan(path: str | Path, **changes: Any) -> Plan:
    """Read a plan.

    Args:
        path: A YAML file, or the name of one in ``configs/plans``. It holds ``about``, ``models``
            (checkpoint folders, hub ids, testbed models, or one preset), ``problems`` (each set
            with its knobs, or its folders ``test`` and ``train``, and, if they are its own,
            ``kind``, ``train_items``, ``train_prior``, ``test_prior`` and ``finetune``), ``arms``
            (see `read_arm`), ``seeds``, ``train_items``, ``train_prior``, ``test_prior``,
            ``finetune`` (fields of `FinetuneConfig`), ``blocks`` (each naming some of models,
            problems, arms and seeds; what it leaves out is the plan's; default one block of
            everything) and any other field of `Plan`. With ``measure``, which may be empty,
            ``check``, ``pages`` and ``keep_models`` are set unless the file says otherwise.
            Folders are seen from where the command is started, or are parts of the shipped data.
        **changes: Fields set instead of the file's own; ``None`` changes nothing.

    Raises:
        TrainingError: If the file is missing, or the plan does not hold together.
    """
    file = find_file(path, "plans", "plan")
    given = {name: value for name, value in changes.items() if value is not None}
    return plan_of({**read_yaml(file), **given}, where=file.name)


def plan_of(settings: Mapping[str, Any], *, where: str = "The plan") -> Plan:
    """A plan from the contents of its file.

    Raises:
        TrainingError: If it does not hold together.
    """
    return checked(_File, settings, where).plan(where)


class _File(Settings):
    """A plan as its file writes it."""

    models: list[str] = Field(default_factory=list)
    problems: dict[str, dict[str, Any] | None]
    arms: list[str] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=lambda: [0])
    blocks: list[Block] = Field(default_factory=list)
    train_items: Positive | None = None
    train_prior: float | None = 0.95
    test_prior: float | None = None
    finetune: dict[str, Any] = Field(default_factory=dict)

    def plan(self, where: str) -> Plan:
        """The plan, with what its parts take from the whole and with the arms' own files read."""
        whole = {
            "models": self.models,
            "problems": list(self.problems),
            "arms": self.arms,
            "seeds": self.seeds,
        }
        own = [{name: getattr(one, name) for name in one.model_fields_set} for one in self.blocks]
        blocks = [{**whole, **one} for one in own] or [whole]
        unknown = {kind for one in blocks for kind in one["problems"]} - set(self.problems)
        if unknown:
            raise TrainingError(f"{where}: a block names {shown(unknown)}, which problems lacks.")
        files = {arm for one in blocks for arm in one["arms"]}
        models = _by_name({model for one in (whole, *blocks) for model in one["models"]}, where)
        arms = {name: read_arm(arm) for name, arm in _by_name(files, where).items()}
        full = self.measure is not None
        given = {
            # What a plan that measures in full does unless its file says otherwise.
            **{"check": full, "pages": "pairs" if full else "none", "keep_models": full},
            **{
                name: getattr(self, name) for name in self.model_fields_set & set(Plan.model_fields)
            },
            "measures": [measure for measure in MEASURES if measure in self.measures],
            "models": models,
            "arms": arms,
            "problems": {name: self._set(name, one or {}) for name, one in self.problems.items()},
            "blocks": [
                {
                    **one,
                    "models": [Path(model).name for model in one["models"]],
                    "arms": [Path(arm).stem for arm in one["arms"]],
                }
                for one in blocks
            ],
        }
        return checked(Plan, self._with_preset(given), where)

    def _set(self, name: str, own: Mapping[str, Any]) -> dict[str, Any]:
        fields = set(ProblemSet.model_fields) - {"knobs"}
        training = own.get("finetune", {})
        return {
            "kind": name,
            "train_items": self.train_items,
            "train_prior": self.train_prior,
            "test_prior": self.test_prior,
            **{key: value for key, value in own.items() if key in fields},
            "knobs": {key: value for key, value in own.items() if key not in fields},
            "finetune": {**self.finetune, **training} if isinstance(training, dict) else training,
        }

    def _with_preset(self, given: dict[str, Any]) -> dict[str, Any]:
        preset = find_preset(self.models[0]) if len(self.models) == 1 and self.measure else None
        if preset is None:
            return given
        layers = self.measure and "layers" in self.measure.model_fields_set
        chosen = {} if layers else {"layers": list(preset.layers)}
        return {
            "dtype": preset.dtype,
            "batch_size": preset.batch_size,
            **given,
            "models": {preset.name: preset.hub},
            "measure": self.measure and self.measure.model_copy(update=chosen),
            "n_layers": preset.n_layers,
        }


def find_folder(place: str) -> Path:
    """A folder, seen from where the command is started, or a part of the shipped data."""
    path = Path(place).expanduser()
    if not path.exists():
        try:
            return shipped(place)
        except RunError:
            return path
    return path


def _by_name(places: Collection[str], where: str) -> dict[str, str]:
    """Folders and files by the last part of their path."""
    names: dict[str, str] = {}
    for place in sorted(places):
        path = Path(place)
        name = path.stem if path.suffix in (".yaml", ".yml") else path.name
        if name in names:
            raise TrainingError(
                f"{where}: {shown([names[name]])} and {shown([place])} have the same name; rename "
                "one."
            )
        names[name] = place
    return names


def _described(problems: ProblemSet) -> str:
    if problems.test is None:
        knobs = ", ".join(f"{key}={value}" for key, value in problems.knobs.items())
        return f"generated {problems.kind}{', ' if knobs else ''}{knobs}"
    trained = problems.train or f"generated {problems.kind}"
    return f"{problems.test}; trained on {trained}"
