"""Presets: the settings that a known model is loaded and read with, by a short name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from attcot_analysis.errors import MeasureError, ModelError, one_line
from attcot_analysis.plain_yaml import read_plain_yaml
from attcot_analysis.shipped import config_file

FILE = "presets.yaml"
DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of one weight."""
ITEMS_PER_BATCH = 64
"""Where neither the command line nor a preset says how many."""


@dataclass(frozen=True)
class Preset:
    """A known model.

    Attributes:
        name: What it is called on a command line.
        hub: Its hub id.
        parameters: In billions, vision tower included.
        n_layers: Layers of the text stack.
        layers: Those whose attention is read.
        dtype: Of the weights, as torch names it.
        batch_size: Items per forward pass.

    Raises:
        ModelError: If a value is of the wrong kind or out of range.
    """

    name: str
    hub: str
    parameters: float
    n_layers: int
    layers: tuple[int, ...]
    dtype: str
    batch_size: int

    def __post_init__(self) -> None:
        """Check the values."""
        inside = self.layers and all(0 <= layer < self.n_layers for layer in self.layers)
        if not inside or list(self.layers) != sorted(set(self.layers)):
            raise ModelError(
                f"Preset {self.name}: layers are {list(self.layers)} of {self.n_layers}; give them "
                "in order, each once, from 0 on."
            )
        if self.dtype not in DTYPE_BYTES or self.batch_size < 1 or self.parameters <= 0:
            raise ModelError(
                f"Preset {self.name}: dtype is {self.dtype!r}, batch_size {self.batch_size} and "
                f"parameters {self.parameters}; expected one of {', '.join(DTYPE_BYTES)}, at least "
                "1, and above 0."
            )

    def __str__(self) -> str:
        """One line: what naming it stands for."""
        return (
            f"preset {self.name}: {self.hub}, {self.dtype}, layers {written(self.layers)} of "
            f"{self.n_layers}, batches of {self.batch_size}"
        )


def presets(path: str | Path | None = None) -> dict[str, Preset]:
    """Every preset, by name.

    Args:
        path: YAML with the fields of `Preset` by name; ``layers`` is ``[first, last]`` or
            ``{of: [...]}``. Default the shipped ``configs/presets.yaml``.

    Raises:
        ModelError: If the file cannot be read or a preset in it is not valid.
    """
    path = config_file(FILE) if path is None else Path(path)
    try:
        content = read_plain_yaml(path)
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise ModelError(
            f"The presets in {path} cannot be read ({one_line(error)}); correct it."
        ) from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} must hold presets by name, as `my-model: {{hub: ...}}`.")
    return {str(name): _preset(str(name), settings) for name, settings in content.items()}


def _preset(name: str, settings: Any) -> Preset:
    wanted = [field.name for field in fields(Preset) if field.name != "name"]
    if not isinstance(settings, Mapping) or set(settings) != set(wanted):
        raise ModelError(f"Preset {name} must have exactly the fields {', '.join(wanted)}.")
    band = settings["layers"]
    match band:
        case {"of": [*layers]} if all(type(layer) is int for layer in layers):
            pass
        case [int(first), int(last)]:
            layers = list(range(first, last + 1))
        case _:
            raise ModelError(
                f"Preset {name}: layers is {band!r}; give [first, last] or {{of: [...]}}."
            )
    try:
        return Preset(name=name, **{**settings, "layers": tuple(layers)})
    except TypeError as error:
        raise ModelError(f"Preset {name} has a value of a wrong type: {error}.") from error


def find_preset(name: str | Path) -> Preset | None:
    """The preset of that name or hub id; ``None`` for a folder and for what no preset has."""
    if Path(name).exists():
        return None
    found = presets()
    of_hub = {preset.hub.lower(): preset for preset in found.values()}
    return found.get(str(name)) or of_hub.get(str(name).lower())


def written(layers: Sequence[int]) -> str:
    """Layers as people write them: ``9-18``, ``11, 17``."""
    whole = len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1
    return f"{layers[0]}-{layers[-1]}" if whole else ", ".join(map(str, layers))


@dataclass(frozen=True)
class Chosen:
    """What a model is loaded and read with: options of the command line, or else a preset's.

    Attributes:
        name: What `load_mllm` is given: a folder or a hub id.
        dtype: Of the weights, ``None`` if neither says.
        batch_size: Items per forward pass.
        layers: Those whose attention is read; ``None`` for all.
        preset: The preset that was named, or whose hub id was, if one was.
    """

    name: str
    dtype: str | None
    batch_size: int
    layers: tuple[int, ...] | None
    preset: Preset | None

    def check(self, n_layers: int) -> None:
        """See that a preset speaks of the model that was loaded.

        Raises:
            ModelError: If the checkpoint has another number of layers.
        """
        if self.preset is not None and self.preset.n_layers != n_layers:
            raise ModelError(
                f"Preset {self.preset.name} says {self.preset.n_layers} layers, but {self.name} "
                f"has {n_layers}; give its folder instead, with --layers, or correct presets.yaml."
            )


def choose(
    model: str,
    *,
    dtype: str | None = None,
    batch_size: int | None = None,
    layers: Sequence[str] | None = None,
) -> Chosen:
    """The model of a command line; explicit options override those of its preset.

    Args:
        model: Checkpoint folder, hub id or preset.
        dtype: Of the weights, if the command line says.
        batch_size: Items per forward pass, if the command line says.
        layers: Words such as ``9-18``, ``3`` or ``all``, if the command line says.

    Raises:
        ModelError: If the presets cannot be read, or a name is nearly one of theirs.
        MeasureError: If ``layers`` cannot be understood.
    """
    preset = find_preset(model)
    band = _read_layers(layers) if layers and list(layers) != ["all"] else None
    if preset is None:
        near = get_close_matches(model, presets(), n=1, cutoff=0.8)
        if near and not Path(model).exists() and "/" not in model:
            raise ModelError(
                f"There is neither a folder nor a preset {model}; did you mean the preset "
                f"{near[0]}?"
            )
        return Chosen(
            model, dtype, ITEMS_PER_BATCH if batch_size is None else batch_size, band, None
        )
    return Chosen(
        preset.hub,
        dtype or preset.dtype,
        preset.batch_size if batch_size is None else batch_size,
        band if layers else preset.layers,
        preset,
    )


def _read_layers(words: Sequence[str]) -> tuple[int, ...]:
    layers: set[int] = set()
    for word in words:
        named = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        first, last = (int(named[1]), int(named[2] or named[1])) if named else (1, 0)
        if last < first:
            raise MeasureError(
                f"--layers {word!r} names no layers; give numbers, a range as 9-18, or all."
            )
        layers |= set(range(first, last + 1))
    return tuple(sorted(layers))
