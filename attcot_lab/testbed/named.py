"""The testbed's models by name: how each is built, and where it lies."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

# Before any module here asks transformers for torchvision; see models._torchvision.
import attcot_analysis.models  # noqa: F401
from attcot_analysis.errors import TrainingError
from attcot_analysis.shipped import data_folder
from attcot_lab.jobs import run_jobs
from attcot_lab.testbed.arrows import ArrowsConfig
from attcot_lab.testbed.build import BUILD_FILE, BuildConfig, build_testbed_model
from attcot_lab.testbed.charts import ChartsConfig
from attcot_lab.testbed.counting import CountingConfig
from attcot_lab.testbed.mechanism import MechanismConfig, build_mechanism_model
from attcot_lab.testbed.tiny import TinySpec

KNOWN_KINDS = (
    ArrowsConfig(hops=2, noise=240.0, prior=0.6),
    ChartsConfig(task="combine", states_evidence=True, names_places=True, noise=240.0, prior=0.6),
    CountingConfig(
        any_shape=True,
        colour="red",
        states_evidence=True,
        enumerates=True,
        noise=120.0,
        prior=0.6,
    ),
)
"""What all of them are trained on, each kind with its largest noise."""

_SCALES = {
    "small": {"hidden": 96, "text_layers": 4},
    "large": {"hidden": 128, "text_layers": 4},
}
MAIN_MODEL = "qwen2_5_vl-tiny"
"""The model of the main job; it knows `arrows` only."""
TESTBED_MODELS: dict[str, BuildConfig] = {
    f"{family}-{scale}": BuildConfig(
        kinds=KNOWN_KINDS,
        often=(2, 1, 1),
        vision_steps=200,
        language_steps=900,
        describing=0.34,
        grounded=0.6,
        answer_weight=5.0,
        blind=0.5,
        learning_rate=0.02,
        spec=TinySpec(family=family, **sizes),
    )
    for family in ("qwen2_5_vl", "internvl", "llava")
    for scale, sizes in _SCALES.items()
}
"""Name of a model of testbed A, ``FAMILY-SCALE``, → how it is built."""

_FAMILIES_B = {"qwen2_5_vl": 12, "internvl": 2, "llava": 2}
TESTBED_B: dict[str, MechanismConfig] = {
    f"{family}-b{seed}": MechanismConfig(seed=seed, spec=TinySpec(family=family, hidden=96))
    for family, seeds in _FAMILIES_B.items()
    for seed in range(seeds)
} | {"qwen2_5_vl-large-b1": MechanismConfig(seed=1, spec=TinySpec(hidden=128))}
"""Name of a model of testbed B, ``FAMILY-bSEED`` with its pretraining seed, → how it is built."""


def build_config(name: str, *, seed: int = 0) -> BuildConfig | MechanismConfig:
    """How a model of the testbeds is built, `MAIN_MODEL` included; those of B have their own seed.

    Raises:
        TrainingError: If there is no such model.
    """
    if name == MAIN_MODEL:
        return BuildConfig(seed=seed)
    if name in TESTBED_B:
        return TESTBED_B[name]
    if name not in TESTBED_MODELS:
        known = ", ".join([*TESTBED_MODELS, *TESTBED_B, MAIN_MODEL])
        raise TrainingError(f"There is no testbed model {name!r}; choose one of {known}.")
    return replace(TESTBED_MODELS[name], seed=seed)


def testbed_model(name: str, *, progress: bool = True) -> Path:
    """The checkpoint of a testbed model: the shipped one, else the cached one, else built now.

    Building takes some minutes to a quarter of an hour; the result is kept in `cache_folder`.

    Args:
        name: One of `TESTBED_MODELS`, `TESTBED_B`, or `MAIN_MODEL`.
        progress: Show a progress bar while building.

    Raises:
        RunError: If the installation lacks its data folder.
        TrainingError: If there is no such model.
    """
    config = build_config(name)
    ours = data_folder() / "models" / name
    if ours.exists():
        return ours
    folder = cache_folder() / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _train(folder, config, progress)
    return folder


def known_kinds(folder: str | Path) -> list[str]:
    """The kinds of problems that a model of testbed B has learned, by its own record.

    Raises:
        TrainingError: If the folder has no such record.
    """
    try:
        record = json.loads((Path(folder) / BUILD_FILE).read_text(encoding="utf-8"))
        return [str(kind["kind"]) for kind in record["config"]["kinds"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise TrainingError(
            f"{folder} does not say which problems of testbed B it has learned; name them (--kind)."
        ) from error


def build_models(
    names: Sequence[str],
    out: str | Path | None = None,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> list[Path]:
    """Build several models side by side; those that are there already are left as they are.

    Args:
        names: As for `testbed_model`.
        out: Build them anew into this folder; default see `testbed_model`.
        seed: Of weights and data, with `out`.
        workers: Processes.
        progress: Show progress.

    Returns:
        Their folders, in the order of `names`.

    Raises:
        TrainingError: If there is no such model, or seed is given without `out`.
    """
    configs = {name: build_config(name, seed=seed) for name in names}
    if out is None and seed:
        raise TrainingError("Cached models have seed 0; name a folder to build others into.")
    run_jobs(
        partial(_build, configs, out, progress and workers == 1),
        names,
        workers=workers,
        progress=progress and workers > 1,
    )
    if out is None:
        return [testbed_model(name) for name in names]
    return [Path(out) / name for name in names]


def _train(folder: Path, config: BuildConfig | MechanismConfig, progress: bool) -> None:
    if isinstance(config, MechanismConfig):
        build_mechanism_model(folder, config, progress=progress)
    else:
        build_testbed_model(folder, config, progress=progress)


def _build(
    configs: Mapping[str, BuildConfig | MechanismConfig],
    out: str | Path | None,
    progress: bool,
    name: str,
) -> None:
    if out is None:
        testbed_model(name, progress=progress)
    elif not (Path(out) / name).exists():
        Path(out).mkdir(parents=True, exist_ok=True)
        _train(Path(out) / name, configs[name], progress)


def cache_folder() -> Path:
    """Where built models are kept: in ``$ATTCOT_CACHE``, else in the user's cache folder."""
    chosen = os.environ.get("ATTCOT_CACHE")
    if chosen:
        return Path(chosen) / "models"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "attcot" / "models"
