"""Provenance: what a run was made with, for its manifest."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from attcot_analysis.errors import RunError
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem
from attcot_analysis.problems.folder import problem_record
from attcot_analysis.runs.manifests import answer_digest
from attcot_analysis.runs.run import RunFolder

PACKAGES = (
    *("attcot-analysis", "torch", "torchvision", "transformers", "tokenizers", "accelerate"),
    *("peft", "trl", "numpy", "pandas", "pillow", "pyarrow", "scipy", "statsmodels"),
)
"""Packages whose versions can change a number."""


_PATHS = ("name_or_path", "_name_or_path", "auto_map", "transformers_version", "_commit_hash")

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")

_SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py", "*chat_templates/*")
"""Files beside the weights that a number can depend on: configuration, processor, tokenizer."""

_NOTES = ("training_log", "testbed_build", "unfinished", "trainer_state", "*_results")
"""Files among them that say how a checkpoint was made, and that nobody reads to use it."""

_CHUNK = 1 << 22

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def build_manifest(
    *,
    seed: int,
    config: Mapping[str, Any],
    models: Mapping[str, Mllm | str | Path] | None = None,
    data: Mapping[str, Sequence[Problem]] | None = None,
) -> dict[str, Any]:
    """Gather what is needed to tell two runs apart or repeat one.

    Folders are named by their last part only, and neither host nor user is recorded, so a
    manifest can be published.

    Args:
        seed: The run's seed.
        config: Every setting of the run, JSON values.
        models: Models by role (such as ``"base"``): loaded ones, or checkpoint folders.
        data: Problem sets by role (such as ``"test"``).

    Returns:
        ``seed``, ``config``, ``models``, ``data``, ``item_digests``, ``versions``, ``platform``;
        JSON values.

    Raises:
        RunError: If a checkpoint folder holds no weights.
    """
    return {
        "seed": seed,
        "config": dict(config),
        "models": {role: model_record(model) for role, model in (models or {}).items()},
        **problems_records(data or {}),
        "versions": versions(),
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed ones of `PACKAGES`."""
    numbers = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            numbers[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return numbers


def model_record(model: Mllm | str | Path) -> dict[str, Any]:
    """Identify a model by everything that a number can depend on.

    Returns:
        ``name``, ``family``, ``revision``, ``format``; ``limits`` of what a picture costs, if it
        was loaded with some; ``weights_sha256`` and ``files``, digests of the weights and of each
        other file of a checkpoint folder; ``loaded``, digests of a model that is loaded, as it is
        now.
    """
    loaded = model if isinstance(model, Mllm) else None
    name = str(model) if loaded is None else loaded.name
    folder = Path(name)
    local = folder.is_dir()
    if loaded is None and not local:
        raise RunError(f"{name} is not a checkpoint folder; load the model and give that instead.")
    record: dict[str, Any] = {
        "name": folder.resolve().name if local else name,
        "family": None if loaded is None else loaded.family.name,
        "revision": None if loaded is None else loaded.revision,
        "weights_sha256": weights_hash(folder) if local else None,
        "files": settings_files(folder) if local else {},
    }
    if loaded is not None:
        if loaded.limits:
            record["limits"] = dict(loaded.limits)
        record |= {"format": loaded.format.record(), "loaded": _loaded(loaded)}
    return record


def settings_files(folder: str | Path) -> dict[str, str]:
    """Digests of a checkpoint folder's files beside the weights that a number can depend on."""
    files = {path for pattern in _SETTINGS for path in Path(folder).glob(pattern)}
    return {
        path.relative_to(folder).as_posix(): _short_digest(path.read_bytes())
        for path in sorted(files)
        if path.is_file() and not any(path.match(f"{note}.json") for note in _NOTES)
    }


def _loaded(mllm: Mllm) -> dict[str, Any]:
    """Digests of what is in memory, which need not be what a folder or the hub holds."""
    model, tokenizer = mllm.model, mllm.tokenizer
    generation = getattr(model, "generation_config", None)
    parts = {
        "configuration": _settings(model.config),
        "generation_configuration": None if generation is None else _settings(generation),
        "adapters": {
            name: _settings(adapter) for name, adapter in getattr(model, "peft_config", {}).items()
        },
        "processor": _settings(mllm.processor),
        "tokenizer": _tokenizer(tokenizer),
        "chat_template": mllm.processor.chat_template,
        "prompts": {"cot": mllm.format.cot, "direct": mllm.format.direct},
    }
    return {
        "attention": getattr(model.config, "_attn_implementation", None),
        **{name: _short_digest(_text(part)) for name, part in parts.items()},
        "parameters": parameters_hash(model),
    }


def _settings(configured: Any) -> Any:
    """The settings of a configuration or processor that are not the library's own defaults."""
    read = getattr(configured, "to_diff_dict", None) or getattr(configured, "to_dict", None)
    return _without_paths(dict(read()) if read is not None else {})


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_paths(one) for key, one in value.items() if key not in _PATHS}
    return [_without_paths(one) for one in value] if isinstance(value, list | tuple) else value


def _tokenizer(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    settings = json.loads(backend.to_str())
    # How the last batch was padded.
    return {key: value for key, value in settings.items() if key not in ("padding", "truncation")}


def _text(value: Any) -> bytes:
    def written(value: Any) -> str:
        return type(value).__name__ if " at 0x" in str(value) else str(value)

    return json.dumps(value, sort_keys=True, default=written).encode()


def parameters_hash(model: torch.nn.Module) -> str:
    """Digest of all parameters and buffers that are saved, computed where they lie.

    Sums of whole numbers, which are the same on every device, weighted by place.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            continue
        kind = _WHOLE[tensor.element_size()]
        bits = tensor.detach().contiguous().reshape(-1).view(kind)
        total = 0
        for start in range(0, len(bits), _CHUNK):
            chunk = bits[start : start + _CHUNK].to(torch.int64)
            places = torch.arange(1, len(chunk) + 1, device=chunk.device)
            total = (total * 31 + int((chunk * places).sum())) % (1 << 64)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {total}\n".encode())
    return digest.hexdigest()[:16]


def _short_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def processor_record(mllm: Mllm) -> dict[str, Any]:
    """Describe a model's processor: how pictures and messages are prepared, without paths.

    Returns:
        ``class``; ``image_processor``, its settings; ``tokenizer``, class and size;
        ``chat_template_sha256``. JSON values.
    """
    settings = json.loads(json.dumps(mllm.processor.image_processor.to_dict(), default=str))
    template = json.dumps(mllm.processor.chat_template, sort_keys=True)
    return {
        "class": type(mllm.processor).__name__,
        "image_processor": {
            key: value
            for key, value in sorted(settings.items())
            if key not in _PATHS and value is not None
        },
        "tokenizer": {"class": type(mllm.tokenizer).__name__, "n_tokens": len(mllm.tokenizer)},
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
    }


def weights_hash(folder: str | Path) -> str:
    """SHA-256 over names and contents of a checkpoint folder's weight files.

    Raises:
        RunError: If there are none.
    """
    files = sorted(
        (one for pattern in _WEIGHTS for one in Path(folder).glob(pattern) if one.is_file()),
        key=lambda path: path.name,
    )
    if not files:
        raise RunError(f"{folder} holds no weights ({', '.join(_WEIGHTS)}) to hash.")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.name}\0{inner}\n".encode())
    return digest.hexdigest()


def problems_hash(problems: Sequence[Problem]) -> str:
    """SHA-256 over everything in the problems, pixels included, in their order."""
    digest = hashlib.sha256()
    for problem in problems:
        for _, content in _contents(problem):
            digest.update(content)
    return digest.hexdigest()


def problems_records(data: Mapping[str, Sequence[Problem]]) -> dict[str, Any]:
    """Describe sets of problems for a manifest.

    Returns:
        ``data``: of each set how many there are, and its `problems_hash`. ``item_digests``: of each
        item, in one string, the digests of its text, pictures and right answer, and how many
        candidates it has.
    """
    sets: dict[str, dict[str, Any]] = {}
    items: dict[str, dict[str, str]] = {}
    for role, problems in data.items():
        digest = hashlib.sha256()
        items[role] = {}
        for problem in problems:
            parts = []
            for name, content in _contents(problem):
                digest.update(content)
                parts.append(f"{name}:{_short_digest(content)}")
            parts.append(f"right:{answer_digest(problem.id, problem.answer)}")
            parts.append(f"candidates:{len(problem.candidates)}")
            items[role][problem.id] = " ".join(parts)
        sets[role] = {"n": len(problems), "sha256": digest.hexdigest()}
    return {"data": sets, "item_digests": items}


def _contents(problem: Problem) -> Iterator[tuple[str, bytes]]:
    """The bytes of a problem's text and of its pictures."""
    record = json.dumps(problem_record(problem), sort_keys=True, default=repr)
    yield "text", record.encode() + b"\n"
    edits = [(edit.kind, edit.image) for edit in (problem.twin, problem.control) if edit]
    more = [(f"picture {number}", one) for number, one in enumerate(problem.more_images, start=2)]
    for name, image in (("picture", problem.image), *edits, *more):
        yield name, f"{image.mode} {image.size}\n".encode() + image.tobytes()


SOURCES = "sources"


@dataclass(frozen=True)
class Sources:
    """Where model and problems of a run were; they may have moved.

    Attributes:
        model: A checkpoint folder, or a hub id.
        problems: A problem folder.
    """

    model: str | Path | None = None
    problems: Path | None = None


def note_sources(run: RunFolder, *, model: str | Path, problems: str | Path) -> None:
    """Note where the model (a folder or hub id) and the problems lie, relative to the run's."""
    noted = {"model": _noted(run, model), "problems": _noted(run, problems)}
    run.write_json(SOURCES, noted, overwrite=True)


def noted_sources(run: RunFolder) -> Sources:
    """Read what `note_sources` wrote; nothing if it was not called.

    Raises:
        RunError: If the file is damaged.
    """
    if not (run.path / f"{SOURCES}.json").is_file():
        return Sources()
    noted = run.read_json(SOURCES)
    places: dict[str, str | Path | None] = {}
    for name in ("model", "problems"):
        entry = noted.get(name) if isinstance(noted, dict) else None
        entry = entry if isinstance(entry, dict) else {}
        folder = entry.get("folder")
        places[name] = run.path / folder if isinstance(folder, str) else entry.get("hub")
    problems = places["problems"]
    return Sources(places["model"], problems if isinstance(problems, Path) else None)


def _noted(run: RunFolder, place: str | Path) -> dict[str, str]:
    folder = Path(place)
    if not folder.is_dir():
        return {"hub": str(place)}
    try:
        return {"folder": Path(os.path.relpath(folder, run.path)).as_posix()}
    except ValueError:  # on another drive
        return {"folder": folder.resolve().as_posix()}
