"""A training run in a folder: begun or resumed, with checkpoints that say when they are complete.

`train_into` is the whole of it, whatever trainer it runs.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import distributed, nn
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from attcot_analysis.errors import AttCoTError, TrainingError, one_line, passing, writing
from attcot_analysis.files import (
    locked,
    no_linked_folders,
    own_folder,
    path_of,
    regular,
    write_bytes,
)
from attcot_analysis.models import Mllm, load_mllm
from attcot_analysis.problems import Problem
from attcot_analysis.problems.formats import TAGS, ResponseFormat
from attcot_analysis.runs.manifests import first_difference
from attcot_analysis.runs.provenance import problems_hash, settings_files, weights_hash

LOG_FILE = "training_log.json"
"""The log of a finished run, in its folder."""
ADAPTER = "adapter"
"""Folder of a finished run's adapters, beside the weights that they are merged into."""
RUN_FILE = "unfinished.json"
"""Says what an unfinished run was started with."""
COMPLETE = "complete"
"""File that a checkpoint gets last, with the hash of every other file; one without it may lack
anything."""
PIECES = ("trainer_state.json", "optimizer*", "scheduler.pt", "rng_state*")
"""What a trainer resumes without, and without a word, where it is not there."""
_REFUSED = ("I/O error", "IoError", "PytorchStreamWriter", "unexpected pos")
"""What safetensors and torch say of a write that the disk has refused."""
_TIME = "step_time"
"""What differs between two equal runs has no place in their logs."""


def train_into(
    folder: str | Path,
    make: Callable[..., Any],
    base: str | Path,
    problems: Sequence[Problem],
    config: Mapping[str, Any],
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    limits: Mapping[str, Any] | None = None,
    noted: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    log_every: int = 1,
    save_every: int | None = None,
    format: ResponseFormat = TAGS,
) -> Path:
    """Train `base` in a trainer of any kind and save model, processor and log into `folder`.

    The folder appears only when the run has finished, so one that exists is complete. With
    `save_every` a run that was killed resumes from its last complete checkpoint when it is called
    again in the same way; checkpoints of a run with another base, other problems, `config` or
    `inputs` are kept aside, and a warning says where. Adapters are merged into the weights, and
    saved by themselves in `ADAPTER`.

    Args:
        folder: Where to save; must not exist.
        make: ``(mllm, working, **arguments) -> trainer``; `working` is the folder for checkpoints,
            and the arguments are those of `transformers.TrainingArguments` that save them.
        base: Local folder or hub id.
        problems: What is trained on.
        config: What the run is made with, JSON values; it is in the log.
        seed: Of whatever is drawn from here on.
        dtype: Type that the base is loaded in.
        limits: What a picture may cost, as `load_mllm` takes it.
        noted: Further entries of the log.
        inputs: What else must be the same for an unfinished run to be resumed.
        log_every: Steps between two entries of the log.
        save_every: Steps between checkpoints, a multiple of `log_every`; default none.
        format: What the examples are written in; in the log, unless it is the default.

    Returns:
        `folder`, a checkpoint that `load_mllm` reads.

    Raises:
        TrainingError: If the folder exists, `save_every` does not fit, the trainer ends early, no
            weight has changed or one is not finite, the checkpoint to resume from is damaged, or
            the disk is full.
        RunError: If another run is training into the folder.
    """
    folder = new_folder(folder)
    if format != TAGS:
        config = {**config, "format": format.record()}
    if save_every is not None and (save_every < 1 or save_every % log_every):
        raise TrainingError(
            f"save_every is {save_every}; give a multiple of {log_every}, the steps between two "
            "log entries, so that no entry spans an interruption."
        )
    saving = {"save_strategy": "steps", "save_steps": save_every} if save_every else {}
    working = own_folder(folder.parent, f".{folder.name}.unfinished")
    with alone(folder):
        # Another run may have finished it since.
        new_folder(folder)
        set_seed(seed)
        mllm = load_mllm(base, dtype=dtype, format=format, **(limits or {}))
        # GRPO pads on the left; what is saved pads as the base does.
        side = mllm.tokenizer.padding_side
        trainer = make(mllm, working, **saving)
        last = None
        with trainer.accelerator.main_process_first():
            if save_every is not None:
                record = run_record(base, problems, {**config, **(inputs or {})})
                last = open_unfinished(working, record)
            elif trainer.is_world_process_zero():
                _set_aside(working, "this one keeps no checkpoints")
        trainer.add_callback(KeepLast())
        _train(trainer, last)
        mllm.tokenizer.padding_side = side
        if trainer.is_world_process_zero():
            _save(trainer, mllm, working)
            history = [
                {name: value for name, value in entry.items() if name != _TIME}
                for entry in trainer.state.log_history
                if "train_runtime" not in entry
            ]
            log = {"config": dict(config), "base": str(base), **(noted or {}), "history": history}
            (working / LOG_FILE).write_text(json.dumps(log, indent=1))
            (working / RUN_FILE).unlink(missing_ok=True)
            for checkpoint in _checkpoints(working):
                shutil.rmtree(checkpoint)
            os.replace(working, folder)
        trainer.accelerator.wait_for_everyone()
    return folder


def run_arguments(folder: str | Path, config: Any, *, progress: bool) -> dict[str, Any]:
    """The `transformers.TrainingArguments` that all trainers of `train_into` have in common.

    Args:
        folder: Where checkpoints would go.
        config: Has ``steps``, ``accumulation``, ``learning_rate``, ``warmup`` and ``seed``.
        progress: Show a progress bar.
    """
    return {
        "output_dir": str(folder),
        "max_steps": config.steps,
        "gradient_accumulation_steps": config.accumulation,
        "learning_rate": config.learning_rate,
        "warmup_steps": round(config.warmup * config.steps),
        "lr_scheduler_type": "linear",
        "seed": config.seed,
        "data_seed": config.seed,
        "save_strategy": "no",
        "report_to": [],
        "remove_unused_columns": False,
        "disable_tqdm": not progress,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def _train(trainer: Any, checkpoint: Path | None) -> None:
    """Run a trainer to its last step, and see that it has changed something."""
    before = _sums(trainer.model)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    done, asked = trainer.state.global_step, trainer.state.max_steps
    if done < asked:
        raise TrainingError(
            f"The training ended after {done} of {asked} steps, because its data did; give more "
            "examples, or a smaller batch."
        )
    if _sums(trainer.model) == before:
        raise TrainingError(
            f"Every weight is as it was before, after {done} of {asked} steps; raise the learning "
            "rate or lower its warm-up, and see that the loss has a gradient (in SAYO, that "
            "rewards differ among the completions of a question)."
        )


def _save(trainer: Any, mllm: Mllm, folder: Path) -> None:
    """Save what a run has trained, model and processor, finite weights only."""
    step = trainer.state.global_step
    check_weights(trainer.model, step)
    if hasattr(trainer.model, "peft_config"):
        merge_adapters(trainer.model, folder)
        check_weights(mllm.model, step)
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)


def merge_adapters(model: Any, folder: Path) -> None:
    """Save a model's adapters into ``<folder>/adapter`` and merge them into its weights, in place.

    Args:
        model: A `peft.PeftModel`.
        folder: Where the merged model will be saved.
    """
    model.save_pretrained(folder / ADAPTER)
    # A page about the adapters with nothing filled in.
    (folder / ADAPTER / "README.md").unlink(missing_ok=True)
    model.merge_and_unload(safe_merge=True)


class SafeCheckpoints:
    """What every trainer of this package does with checkpoints, mixed in before its class.

    Those that it writes are marked when they are complete (`Seals`) and hold finite weights; it
    resumes from whole ones only, with the weights that were saved (`load_weights`); and a training
    that took no step is an error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build the trainer."""
        super().__init__(*args, **kwargs)
        self._seal()

    def _seal(self) -> None:
        trainer: Any = self
        trainer.add_callback(Seals())

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train.

        Raises:
            TrainingError: If no step was taken, or the checkpoint to resume from is damaged.
        """
        own: Any = super()
        output = own.train(*args, **kwargs)
        check_trained(self)
        return output

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save finite weights only.

        Raises:
            TrainingError: If one is not.
        """
        own: Any = super()
        trainer: Any = self
        check_weights(trainer.model, trainer.state.global_step)
        own.save_model(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        own: Any = super()
        with _whole(resume_from_checkpoint, "its weights"):
            if not load_weights(self, resume_from_checkpoint):
                own._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        own: Any = super()
        with _whole(checkpoint, "its optimizer or scheduler"):
            own._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        own: Any = super()
        with _whole(checkpoint, "its state of the random numbers"):
            own._load_rng_state(checkpoint)


@contextmanager
def _whole(checkpoint: str | Path | None, part: str) -> Iterator[None]:
    """Say in a sentence that a part of a checkpoint cannot be loaded; nothing is unpickled."""
    try:
        yield
    except AttCoTError:
        raise
    # Archives, tensors, pickles that are refused: each is damaged in its own way.
    except Exception as error:
        said = f"{part} cannot be loaded ({one_line(error):.200})"
        raise passing(error, str(checkpoint), TrainingError) or _damaged(
            checkpoint, said
        ) from error


def _damaged(checkpoint: str | Path | None, wrong: str) -> TrainingError:
    return TrainingError(
        f"{checkpoint} is damaged: {wrong}. Nothing was trained; put the file back, or remove this "
        "checkpoint and run the same command again, which resumes from the one before it or "
        "from the beginning."
    )


def check_weights(model: Any, step: int | None = None) -> None:
    """See that every weight is finite, before the weights are called a checkpoint.

    Args:
        model: With or without adapters; of a sharded one each process looks at its own part.
        step: The last step, for the message.

    Raises:
        TrainingError: Names the first tensor that is not.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    floating = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    bad = [name for name, tensor in floating if not _finite(tensor)]
    if bad:
        after = "" if step is None else f" after step {step}"
        raise TrainingError(
            f"{len(bad)} of {len(floating)} tensors of the weights hold NaN or infinity{after} "
            f"(first: {bad[0]}), so they are not saved; lower the learning rate, or train in "
            "bfloat16 or float32. Checkpoints from before are kept."
        )


def check_trained(trainer: Any) -> None:
    """See that a trainer that has come to its end has taken a step.

    Raises:
        TrainingError: If it has not.
    """
    if trainer.state.global_step == 0:
        args = trainer.args
        raise TrainingError(
            "The trainer took no optimizer step, so that the model is the one it was given; there "
            f"were fewer examples than one batch takes ({args.per_device_train_batch_size} per "
            "device, incomplete ones dropped), or no steps or epochs were asked for: give more "
            "examples, a smaller batch, or dataloader_drop_last=False."
        )


def _finite(tensor: torch.Tensor) -> bool:
    own = _local(tensor)
    # One-byte floats cannot be asked, and hold frozen weights only.
    return own.element_size() == 1 or bool(torch.isfinite(own).all())


def _sums(model: nn.Module) -> list[float]:
    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    return torch.stack([_local(one).double().sum().cpu() for one in trained]).tolist()


def _local(tensor: torch.Tensor) -> torch.Tensor:
    own: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own


def new_folder(folder: str | Path) -> Path:
    """The folder of a run's result, which must not be there yet.

    Raises:
        TrainingError: If it is.
    """
    folder = path_of(folder, TrainingError)
    if folder.exists() or folder.is_symlink():
        raise TrainingError(f"{folder} exists already; remove it or choose another folder.")
    return folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Train into `folder` as the only run, and say in one sentence what the disk refuses.

    Of several processes of one run the first holds the lock.

    Raises:
        RunError: If another run is training into it.
        TrainingError: If the disk is full or may not be written to; a checkpoint that was
            complete before stays.
    """
    main = os.environ.get("RANK", "0") == "0"
    with writing(folder, TrainingError), locked(folder, beside=True) if main else nullcontext():
        try:
            yield
        except (SafetensorError, RuntimeError) as error:
            reason = one_line(error)
            if not any(sign in reason for sign in _REFUSED):
                raise
            raise TrainingError(
                f"{folder} cannot be written ({reason}); make room and run the same command "
                "again: the last complete checkpoint is kept."
            ) from error


def run_record(
    base: str | Path, problems: Sequence[Problem], config: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run must share with an unfinished one to resume it; see `open_unfinished`."""
    local = Path(base).is_dir()
    return {
        "base": {"weights": weights_hash(base), **settings_files(base)} if local else str(base),
        "problems": problems_hash(problems),
        "config": json.loads(json.dumps(config)),
    }


class Seals(TrainerCallback):
    """Marks every checkpoint that is complete with the hashes of its files."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Called when a checkpoint has been written."""
        if distributed.is_available() and distributed.is_initialized():
            # Every process writes a part of it.
            distributed.barrier()
        newest = _newest(args, state)
        if newest is not None:
            text = json.dumps(_hashes(newest), indent=1)
            write_bytes(newest / COMPLETE, text.encode())


class KeepLast(TrainerCallback):
    """Removes older checkpoints once a newer one is marked (`Seals`)."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Called when a checkpoint has been written."""
        newest = _newest(args, state)
        if newest is not None and (newest / COMPLETE).is_file():
            for old in _checkpoints(newest.parent):
                if old != newest:
                    shutil.rmtree(old, ignore_errors=True)


def _newest(args: TrainingArguments, state: TrainerState) -> Path | None:
    """The checkpoint that has just been written, in the process that looks after checkpoints."""
    folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
    return folder if state.is_world_process_zero and folder.is_dir() else None


def check_checkpoint(checkpoint: str | Path) -> None:
    """See that a checkpoint is what was written, before a run resumes from it.

    One that `Seals` has not marked must at least have its `PIECES`: `transformers.Trainer` goes
    on without them, with a fresh optimizer or from the first step.

    Raises:
        TrainingError: If a file is missing or another one.
    """
    folder = Path(checkpoint)
    mark = folder / COMPLETE
    if mark.is_file():
        try:
            wrong = _first_difference(json.loads(mark.read_text()), _hashes(folder))
        except (ValueError, AttributeError, RecursionError):
            wrong = f"{COMPLETE}, its list of files, cannot be read"
    else:
        lacking = [one for one in PIECES if not any(folder.glob(one))]
        wrong = f"{lacking[0].replace('*', '')} is missing" if lacking else None
    if wrong:
        raise _damaged(folder, wrong)
    with _whole(folder, f"its {PIECES[0]}"):
        state = TrainerState.load_from_json(str(regular(folder / PIECES[0])))
        counts = (state.global_step, state.max_steps)
        if not all(isinstance(one, int) and 0 <= one < 2**31 for one in counts):
            raise ValueError(f"it says step {counts[0]!r:.40} of {counts[1]!r:.40}")
        if not all(isinstance(entry, dict) for entry in state.log_history):
            raise ValueError("its log is no list of entries")


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that `Seals` has marked."""
    marked = [one for one in _checkpoints(folder) if (one / COMPLETE).is_file()]
    return max(marked, key=_step, default=None)


def open_unfinished(folder: Path, record: Mapping[str, Any]) -> Path | None:
    """Resume the unfinished run in `folder` if it is the same one, else start it anew beside it.

    Args:
        folder: The run's working folder, which need not exist.
        record: What the run is made with, JSON values.

    Returns:
        The checkpoint to resume from, ``None`` to begin at the first step.

    Warns:
        UserWarning: If checkpoints of another run were there; says where they are now.
    """
    no_linked_folders(folder)
    note = folder / RUN_FILE
    try:
        begun = json.loads(regular(note).read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        begun = None
    except OSError as error:
        # What cannot be read for now is not started anew.
        raise passing(error, note, TrainingError) or TrainingError(
            f"{note} cannot be read ({error.strerror}); put the file back, or remove {folder}."
        ) from error
    if begun == record:
        return last_complete(folder)
    known = isinstance(begun, dict)
    difference = first_difference(begun, dict(record)) if known else None
    _set_aside(folder, difference or f"its {RUN_FILE} cannot be read or says something else")
    write_bytes(note, json.dumps(record).encode())
    return None


def _set_aside(folder: Path, why: str) -> None:
    """Make place for a run; what an unfinished one of other settings has trained is kept."""
    if any(folder.rglob(COMPLETE)) or any(folder.glob("*/config.json")):
        names = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
        aside = next(free for free in names if not free.exists())
        os.rename(folder, aside)
        warnings.warn(
            f"{folder} held an unfinished run with other settings ({why}); it is kept as {aside}: "
            "remove it, or move it back and give the same settings to go on with it.",
            stacklevel=4,
        )
    shutil.rmtree(folder, ignore_errors=True)


def load_weights(trainer: Any, checkpoint: str | Path) -> bool:
    """Load a checkpoint's weights into a trainer's model by the names they were saved under.

    `save_pretrained` writes the weights of vision-language models under the names of older
    versions, and `transformers.Trainer`, when it resumes, looks for today's: it finds none, warns,
    and continues with the weights it happens to have (huggingface/transformers issue 43701).

    The checkpoint is first checked (`check_checkpoint`).

    Returns:
        Whether the weights were loaded. Where they are sharded over processes or belong to an
        adapter, they are not saved in that way, and the trainer must load them itself.
    """
    if trainer.is_world_process_zero() and not trainer.is_deepspeed_enabled:
        check_checkpoint(checkpoint)
    model = trainer.model
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded or not isinstance(model, PreTrainedModel):
        return False
    saved = type(model).from_pretrained(checkpoint, dtype=model.dtype)
    model.load_state_dict(saved.state_dict())
    return True


def _hashes(folder: Path) -> dict[str, str]:
    """Every file of a checkpoint, but for the mark, with its hash."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / COMPLETE and not path.name.endswith(".part"):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            hashes[path.relative_to(folder).as_posix()] = digest
    return hashes


def _first_difference(written: Mapping[str, str], present: Mapping[str, str]) -> str | None:
    for name, digest in written.items():
        if name not in present:
            return f"{name} is missing"
        if present[name] != digest:
            return f"{name} is not what was written"
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return [one for one in folder.glob("checkpoint-*") if one.name.split("-")[-1].isdigit()]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[-1])
