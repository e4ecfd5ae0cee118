"""Provenance: what a run was made with, for its manifest."""

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from attcot_analysis.errors import RunError
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem
from attcot_analysis.problems.record import problem_record

PACKAGES = (
    "attcot-analysis",
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "trl",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "scipy",
    "statsmodels",
)
"""Packages whose versions can change a number."""

_PATHS = ("name_or_path", "_name_or_path", "auto_map")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model*.bin")


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
        ``seed``, ``config``, ``models``, ``data``, ``versions``, ``platform``; JSON values.

    Raises:
        RunError: If a checkpoint folder holds no weights.
    """
    return {
        "seed": seed,
        "config": dict(config),
        "models": {role: model_record(model) for role, model in (models or {}).items()},
        "data": {
            role: {"n": len(problems), "sha256": problems_hash(problems)}
            for role, problems in (data or {}).items()
        },
        "versions": versions(),
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed ones of `PACKAGES`."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def model_record(model: Mllm | str | Path) -> dict[str, Any]:
    """Name, hub revision and hash of the weight files of a model.

    The hash is there for checkpoint folders only; a model that exists in memory alone has
    neither revision nor hash.
    """
    name = model.name if isinstance(model, Mllm) else str(model)
    folder = Path(name)
    local = folder.is_dir()
    if not isinstance(model, Mllm) and not local:
        raise RunError(f"{name} is no checkpoint folder; load the model and give that instead.")
    return {
        "name": folder.resolve().name if local else name,
        "family": model.family.name if isinstance(model, Mllm) else None,
        "revision": model.revision if isinstance(model, Mllm) else None,
        "weights_sha256": weights_hash(folder) if local else None,
    }


def processor_record(mllm: Mllm) -> dict[str, Any]:
    """What a model's processor makes of pictures and messages, without paths.

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
        (path for pattern in _WEIGHTS for path in Path(folder).glob(pattern)),
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
        record = json.dumps(problem_record(problem), sort_keys=True, default=repr)
        digest.update(record.encode() + b"\n")
        edits = [edit.image for edit in (problem.twin, problem.control) if edit is not None]
        for image in (problem.image, *edits):
            digest.update(f"{image.mode} {image.size}\n".encode())
            digest.update(image.tobytes())
    return digest.hexdigest()
