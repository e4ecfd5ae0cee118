"""The doctor: versions, devices, memory and files of this installation, and what would fail.

Whether installed versions go together is what ``pip check`` says.
"""

import importlib
import math
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from attcot_analysis.errors import AttCoTError, ModelError, one_line, passing, total_memory
from attcot_analysis.presets import DTYPE_BYTES, find_preset
from attcot_analysis.shipped import config_file, data_folder, notebook_folder

DISTRIBUTION = "attcot-analysis"
GIB = 2**30
TRAINING_BYTES = 16
"""Per weight in full fine-tuning with AdamW: fp32 weights, gradients and two moments."""
HEADROOM = 1.3
"""What a forward pass needs beside the weights, as a factor on them."""
LITTLE_DISK = 5.0
"""GiB."""
PICTURES = ((120, 90), (640, 480), (1920, 1080))
"""Sizes whose cost is said."""

Word = Literal["ok", "note", "fails"]
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TRAINING = ("accelerate", "datasets", "peft", "trl")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: What.
        word: ``"ok"``; ``"note"`` for what only some will need; ``"fails"``.
        detail: What was found, and what to do.
    """

    about: str
    word: Word
    detail: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.word:<6}{self.about:<15} {self.detail}"


def examine(
    model: str | Path | None = None,
    *,
    folder: str | Path = ".",
    max_pixels: int | None = None,
    max_patches: int | None = None,
) -> list[Finding]:
    """Look at the installation and, if one is named, at what a model needs.

    Args:
        model: Checkpoint folder, hub id or preset.
        folder: Where runs would be written.
        max_pixels: What a picture may cost, as for `load_mllm`.
        max_patches: What a picture may cost, as for `load_mllm`.

    Returns:
        The findings, in the order in which things would go wrong.
    """
    findings = list(_versions())
    works = holds(findings)
    findings += _memory()
    if works:
        findings += _devices()
    findings += [_disk(Path(folder)), *_files(), _hub()]
    if works and model is not None:
        try:
            findings += _model(model)
            if Path(model).is_dir():
                findings += _pictures(model, max_pixels=max_pixels, max_patches=max_patches)
        except AttCoTError as error:
            findings.append(Finding("model", "fails", str(error)))
    return findings


def holds(findings: Sequence[Finding]) -> bool:
    """Whether nothing fails."""
    return all(finding.word != "fails" for finding in findings)


def _versions() -> Iterator[Finding]:
    """Versions, and what is installed but cannot be imported: built for something else."""
    python = platform.python_version()
    yield Finding("python", "ok", f"{python}, {platform.system()} {platform.machine()}")
    try:
        yield Finding(DISTRIBUTION, "ok", metadata.version(DISTRIBUTION))
    except metadata.PackageNotFoundError:
        remedy = "is not installed, only lying here; run `pip install -e .` or install the wheel."
        yield Finding(DISTRIBUTION, "fails", remedy)
    # Our models come before torchvision: they mend one that was built for another torch.
    for name in ("torch", "attcot_analysis.models", "torchvision", "transformers"):
        try:
            module = importlib.import_module(name)
        # A broken binary raises whatever it likes.
        except Exception as error:
            reason = one_line(error)
            yield Finding(name, "fails", f"cannot be imported ({reason}); install it again")
        else:
            yield Finding(name, "ok", f"imports {getattr(module, '__version__', '')}".rstrip())
    try:
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in _TRAINING)
        yield Finding("[train]", "ok", versions)
    except metadata.PackageNotFoundError as error:
        remedy = f"fine-tuning needs {error.name}; run `pip install '{DISTRIBUTION}[train]'`."
        yield Finding("[train]", "note", remedy)


def _memory() -> Iterator[Finding]:
    total = total_memory()
    if total is not None:
        word: Word = "ok" if total > 2 * GIB else "note"
        yield Finding("memory", word, f"{total / GIB:.1f} GiB, {os.cpu_count()} cores")


def _devices() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        mps = torch.backends.mps.is_available()
        what = "no CUDA device; models of billions of weights will be slow on the CPU"
        yield Finding("devices", "note", what + (" (Apple's mps is there: --device mps)" * mps))
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        half = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16: use --dtype float16"
        detail = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {half}"
        yield Finding(f"cuda:{number}", "ok" if free > GIB else "note", detail)


def _disk(folder: Path) -> Finding:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free / GIB
    if not os.access(there, os.W_OK):
        return Finding("disk", "fails", f"{there} may not be written to; choose another folder.")
    word: Word = "ok" if free > LITTLE_DISK else "note"
    return Finding("disk", word, f"{free:.1f} GiB free for runs in {folder}")


def _files() -> Iterator[Finding]:
    parts: dict[str, Callable[[], Path]] = {
        "data": data_folder,
        "configs": lambda: config_file(""),
        "notebooks": notebook_folder,
    }
    for name, where in parts.items():
        try:
            yield Finding(name, "ok", str(where()))
        except AttCoTError as error:
            yield Finding(name, "fails", str(error))


def _hub() -> Finding:
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)]
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    if offline:
        return Finding("hub", "note", f"{offline[0]} is set: only what is in {home} can be loaded")
    return Finding("hub", "ok", f"downloads go to {home}")


def _model(model: str | Path) -> Iterator[Finding]:
    """Whether a model is there, of a known family, and fits into memory."""
    preset = find_preset(model)
    folder = Path(model)
    if preset is not None:
        yield Finding("model", "ok", str(preset))
        count = preset.parameters * 1e9
        size = count * DTYPE_BYTES[preset.dtype]
    elif folder.is_dir():
        count, size = weights(folder)
        if not size:
            raise ModelError(
                f"{folder} holds no weights ({', '.join(_WEIGHTS)}); give a checkpoint folder."
            )
        yield Finding("model", "ok", f"{folder.name}, family {_family(folder)}")
    else:
        what = "is neither a folder nor a preset, so it is taken for a hub id; it is not asked for"
        yield Finding("model", "note", f"{model} {what} (attcot check-model does)")
        return
    yield from fits(count, size, _largest())


def weights(folder: Path) -> tuple[float, float]:
    """How many weights a checkpoint folder has, and their bytes; both 0 if there are none.

    Files that are not safetensors are taken for two bytes per weight.
    """
    count = size = 0.0
    for path in (path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        own = float(path.stat().st_size)
        size += own
        if path.suffix != ".safetensors":
            count += own / 2
            continue
        try:
            with safe_open(path, framework="numpy") as file:
                count += sum(
                    math.prod(file.get_slice(name).get_shape()) for name in list(file.keys())
                )
        except (OSError, SafetensorError) as error:
            raise passing(error, path, ModelError) or ModelError(
                f"{path} is damaged ({error}); get it again."
            ) from error
    return count, size


def fits(count: float, size: float, room: tuple[str, float] | None) -> Iterator[Finding]:
    """Whether a model can be measured and fine-tuned in the memory there is.

    Args:
        count: Weights.
        size: Their bytes, as they are loaded.
        room: The largest device's name and its bytes; ``None`` if not known.
    """
    if room is None:
        return
    name, most = room
    finetune = "--lora 16 --dtype bfloat16 (docs/training.md)"
    needs: tuple[tuple[str, float, Word, str], ...] = (
        ("to measure", size * HEADROOM, "fails", "a smaller model"),
        ("to finetune", count * TRAINING_BYTES, "note", finetune),
    )
    for what, need, word, instead in needs:
        detail = f"about {need / GIB:.1f} GiB needed, {name} has {most / GIB:.1f}"
        if need <= most:
            yield Finding(what, "ok", detail)
        else:
            yield Finding(what, word, f"{detail}; take {instead} or a larger device.")


def _largest() -> tuple[str, float] | None:
    """The device that `load_mllm` takes, and its memory in bytes."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0), float(torch.cuda.mem_get_info(0)[1])
    total = total_memory()
    return None if total is None else ("this machine", float(total))


def _pictures(folder: str | Path, **limits: Any) -> Iterator[Finding]:
    """How many image tokens pictures of some sizes become."""
    from attcot_analysis.models.load import load_processor
    from attcot_analysis.models.picture_cost import image_tokens
    from attcot_analysis.models.processors import overridden_tiles

    mllm = load_processor(folder, **limits)
    costs = [f"{image_tokens(mllm, size):,} for {size[0]} x {size[1]}" for size in PICTURES]
    yield Finding("pictures", "ok", f"image tokens: {', '.join(costs)} pixels")
    tiles = None if mllm.limits else overridden_tiles(mllm.family, mllm.processor)
    if tiles:
        yield Finding("pictures", "note", f"{tiles}.")


def _family(folder: Path) -> str:
    from transformers import AutoConfig

    from attcot_analysis.models.families import family_of

    try:
        return family_of(AutoConfig.from_pretrained(folder)).name
    except (OSError, ValueError) as error:
        raise ModelError(f"The configuration of {folder} cannot be read: {error}") from error
