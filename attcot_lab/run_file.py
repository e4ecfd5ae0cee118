"""Run files: one YAML file that says what a whole run is made of, from checking to comparing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from attcot_analysis.errors import TrainingError
from attcot_analysis.presets import find_preset
from attcot_analysis.problems.edits import EDIT_KINDS
from attcot_analysis.runs.measure import Extra
from attcot_analysis.shipped import config_file
from attcot_analysis.train.finetune import FinetuneConfig
from attcot_lab.arms import Arm, read_arm
from attcot_lab.settings import check_fields, read_yaml

_MEASURE = (
    "items",
    "layers",
    "controls",
    "edits",
    "extras",
    "maps",
    "batch_size",
    "max_new_tokens",
)
_PER_ARM = ("seed", "mode", "attcot")
_LISTS = ("layers", "controls", "edits", "extras")


@dataclass(frozen=True)
class Tuning:
    """What is fine-tuned.

    Attributes:
        problems: Folder of the training problems.
        arms: What is trained, by name.
        seeds: Of every arm.
        items: Only the first so many problems; default all.
        save_every: Steps between checkpoints that an interrupted run goes on from.
        config: Steps, batch size, learning rate and so on; seed, mode and objective are the arm's.
    """

    problems: Path
    arms: Mapping[str, Arm]
    seeds: tuple[int, ...] = (0,)
    items: int | None = None
    save_every: int = 50
    config: FinetuneConfig = field(default_factory=FinetuneConfig)


@dataclass(frozen=True)
class RunFile:
    """A whole run: check the model, measure it, fine-tune it, measure again, compare.

    Attributes:
        about: What it is for.
        model: Folder or hub id.
        problems: Folder of the problems that everything is measured on.
        out: Folder for everything that is made.
        dtype: Of the measured model.
        revision: On the hub.
        check: Whether the model is checked first; one that fails is not measured.
        measure: Arguments of `measure_run`, and ``items``.
        tuning: What is fine-tuned; ``None`` for nothing.
        compare: Whether every arm gets a page with the base and, if it is there, with ``cot_sft``.
        seed: Of the intervals' bootstrap.
        n_layers: What a preset says of the model; ``None`` without one.
    """

    about: str
    model: str
    problems: Path
    out: Path
    dtype: str = "auto"
    revision: str | None = None
    check: bool = True
    measure: Mapping[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None
    compare: bool = True
    seed: int = 0
    n_layers: int | None = None

    def __str__(self) -> str:
        """What is asked for, part by part."""
        lines = [self.about, f"model     {self.model} ({self.dtype})"]
        lines += [f"problems  {self.problems}", f"out       {self.out}"]
        lines.append(f"check     {'yes' if self.check else 'no'}")
        settings = ", ".join(f"{key}={value}" for key, value in self.measure.items())
        lines.append(f"measure   {settings or 'as attcot measure does by default'}")
        if self.tuning is not None:
            arms, seeds = ", ".join(self.tuning.arms), ", ".join(map(str, self.tuning.seeds))
            rank = self.tuning.config.lora
            how = "" if rank is None else f"; LoRA of rank {rank}"
            steps = self.tuning.config.steps
            lines.append(f"finetune  {arms}; seeds {seeds}; {steps} steps each{how}")
        lines.append(f"compare   {'yes' if self.compare and self.tuning else 'no'}")
        return "\n".join(lines)


def read_run_file(path: str | Path, *, out: str | Path | None = None) -> RunFile:
    """Read a run file.

    Args:
        path: A YAML file, or the name of one in ``configs/runs``. It holds ``about``, ``model``
            (folder, hub id or preset), ``problems`` and ``out`` (folders, seen from where the
            command is started), and if wanted ``dtype``, ``revision``, ``check``, ``compare``,
            ``seed``, ``measure`` (arguments of `measure_run`, and ``items``) and ``finetune``
            (``problems``, ``arms``, ``seeds``, ``items``, ``save_every`` and fields of
            `FinetuneConfig`).
        out: Instead of the file's own.

    Raises:
        TrainingError: If the file is missing or does not hold together.
        ModelError: If the presets cannot be read.
    """
    file = Path(path)
    if file.suffix not in (".yaml", ".yml"):
        file = config_file(f"runs/{path}.yaml")
        if not file.is_file():
            known = ", ".join(sorted(one.stem for one in config_file("runs").glob("*.yaml")))
            raise TrainingError(
                f"There is no run file {path}; choose one of {known}, or give the path of a .yaml "
                "file."
            )
    settings = read_yaml(file)
    if out is not None:
        settings["out"] = str(out)
    return run_file_of(settings, where=file.name)


def run_file_of(settings: Mapping[str, Any], *, where: str = "The run file") -> RunFile:
    """A run from the contents of its file.

    Raises:
        TrainingError: If it does not hold together.
        ModelError: If the presets cannot be read.
    """
    own = {one.name for one in fields(RunFile)} - {"tuning", "n_layers"}
    check_fields(where, settings, own | {"finetune"})
    for name in ("about", "model", "problems", "out"):
        if not isinstance(settings.get(name), str) or not settings[name].strip():
            raise TrainingError(f"{where} says nothing about {name}; write it, as text.")
    given = {key: value for key, value in settings.items() if key not in ("finetune", "measure")}
    for name, kind in (("check", bool), ("compare", bool), ("seed", int), ("dtype", str)):
        if name in given and type(given[name]) is not kind:
            raise TrainingError(f"{where}: {name} is {given[name]!r}; give a {kind.__name__}.")
    measure = _measure(settings.get("measure") or {}, where)
    preset = find_preset(settings["model"])
    if preset is not None:
        given |= {"model": preset.hub, "n_layers": preset.n_layers}
        given.setdefault("dtype", preset.dtype)
        measure = {"layers": list(preset.layers), "batch_size": preset.batch_size} | measure
    if measure.get("layers") == "all":
        measure["layers"] = None
    return RunFile(
        **{**given, "problems": Path(settings["problems"]), "out": Path(settings["out"])},
        measure=measure,
        tuning=_tuning(settings["finetune"], where) if settings.get("finetune") else None,
    )


def _measure(given: Any, where: str) -> dict[str, Any]:
    where = f"{where}: measure"
    check_fields(where, given, set(_MEASURE))
    for name in ("items", "batch_size", "max_new_tokens"):
        if name in given and (type(given[name]) is not int or given[name] < 1):
            raise TrainingError(f"{where}: {name} is {given[name]!r}; give a number above 0.")
    for name in _LISTS:
        listed = isinstance(given.get(name), list) or (name, given.get(name)) == ("layers", "all")
        if name in given and not listed:
            raise TrainingError(f"{where}: {name} is {given[name]!r}; give a list.")
    for name, known in (("edits", tuple(EDIT_KINDS)), ("extras", get_args(Extra))):
        unknown = [one for one in given.get(name, ()) if one not in known]
        if unknown:
            raise TrainingError(f"{where}: {name} {unknown[0]!r} is not one of {', '.join(known)}.")
    return dict(given)


def _tuning(given: Any, where: str) -> Tuning:
    where = f"{where}: finetune"
    training = {one.name for one in fields(FinetuneConfig)} - set(_PER_ARM)
    own = {one.name for one in fields(Tuning)} - {"config"}
    check_fields(where, given, own | training)
    if not isinstance(given.get("problems"), str):
        raise TrainingError(f"{where} names no folder of training problems; give problems.")
    names, seeds = given.get("arms"), given.get("seeds", [0])
    if not isinstance(names, list) or not names:
        raise TrainingError(f"{where}: arms is {names!r}; give a list, such as [cot_sft, att_cot].")
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise TrainingError(f"{where}: seeds is {seeds!r}; give a list of whole numbers.")
    arms = {arm.name: arm for arm in map(read_arm, names)}
    if len(arms) < len(names):
        raise TrainingError(f"{where}: an arm is named twice; name each once.")
    untrained = [name for name, arm in arms.items() if not arm.trained]
    if untrained:
        raise TrainingError(
            f"{where}: arm {untrained[0]} is not trained; leave it out, the base is measured too."
        )
    try:
        config = FinetuneConfig(**{key: value for key, value in given.items() if key in training})
    except TypeError as error:
        raise TrainingError(f"{where}: a value has a wrong type: {error}.") from error
    rest = {key: given[key] for key in ("items", "save_every") if key in given}
    return Tuning(Path(given["problems"]), arms, tuple(dict.fromkeys(seeds)), config=config, **rest)
