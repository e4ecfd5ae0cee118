"""Fine-tune a checkpoint on problems with their rationales: CoT-SFT, or Att-CoT on top of it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from transformers import PrinterCallback, TrainingArguments

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm, Mode
from attcot_analysis.problems import Problem
from attcot_analysis.problems.formats import TAGS, ResponseFormat
from attcot_analysis.train.checkpoints import new_folder, run_arguments, train_into
from attcot_analysis.train.data import RationaleCollator, RationaleDataset
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.settings import Count, Limits, Positive, check_settings
from attcot_analysis.train.trainer import AttCoTTrainer

if TYPE_CHECKING:
    from peft import LoraConfig

LANGUAGE_MODULES = (
    r".*(?:language_model|text_model)\.(?:.*\.)?"
    r"(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)
"""Attention and MLP of the text stack; ``"all-linear"`` would train the vision tower as well.

Supervised attention can only act through queries and keys, so both are in it.
"""


def language_lora(r: int = 16, **options: Any) -> "LoraConfig":
    """A LoRA configuration for the text stack of any supported family.

    Args:
        r: Rank; ``lora_alpha`` is twice that unless given.
        options: Further fields of `peft.LoraConfig`.
    """
    from peft import LoraConfig

    settings = {"lora_alpha": 2 * r, "target_modules": LANGUAGE_MODULES, "task_type": "CAUSAL_LM"}
    return LoraConfig(r=r, **{**settings, **options})


def add_adapters(mllm: Mllm, rank: int, alpha: float | None = None) -> Any:
    """Put fresh adapters into a model's text stack and freeze everything else, in place.

    They are float32 whatever the model's own type, and change nothing before they are trained.

    Args:
        mllm: The model.
        rank: Of the adapters.
        alpha: See `language_lora`.

    Returns:
        The `peft.PeftModel` that is to be trained; `mllm.model` is the model inside.

    Raises:
        TrainingError: If `peft` is not installed, or the model has no layers that they go into.
    """
    if find_spec("peft") is None:
        raise TrainingError(
            "LoRA needs peft, which is not installed; pip install 'attcot-analysis[train]', or "
            "leave lora out."
        )
    from peft import get_peft_model

    options = {} if alpha is None else {"lora_alpha": alpha}
    try:
        return get_peft_model(mllm.model, language_lora(rank, **options))
    except ValueError as error:
        if "Target modules" not in str(error):
            raise
        raise TrainingError(
            f"{type(mllm.model).__name__} has none of the projections of attention and MLP that "
            "LoRA is put into (q_proj to down_proj of its language model); leave lora out, or use "
            "a peft_config of your own in your own trainer."
        ) from error


LOG_EVERY = 10
"""Steps between two entries of the log."""


def _is_rate(value: Any) -> bool:
    try:
        # YAML reads 1e-4 as a text.
        return 0 < float(value) < math.inf
    except (TypeError, ValueError):
        return False


Rate = Annotated[float, Limits(_is_rate, "give a rate above 0")]
Warmup = Annotated[
    float,
    Limits(
        lambda share: isinstance(share, int | float) and 0 <= share < 1,
        "give the share of the steps that warms up, from 0 to below 1",
    ),
]
Rank = Annotated[
    int,
    Limits(
        lambda rank: type(rank) is int and rank > 0,
        "give the adapters' rank, a whole number from 1 (16, say), or leave it out to train all "
        "weights",
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16"],
    Limits(
        lambda name: name in ("float32", "bfloat16"),
        "train in float32 or bfloat16 (float16 needs its loss scaled, which the terms are not)",
    ),
]


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run.

    Attributes:
        steps: Optimizer steps.
        batch_size: Items per step.
        accumulation: Parts a batch is split into to save memory.
        learning_rate: Peak of AdamW's rate; linear warm-up, then linear decay.
        warmup: Share of the steps that warms up.
        seed: Order of the data and any dropout.
        mode: ``"cot"`` learns rationale and answer, ``"direct"`` the answer only.
        attcot: The objective; all weights 0 is plain SFT.
        lora: Rank of the adapters on the language model that are trained in place of its weights
            (see `language_lora`); ``None`` trains all weights.
        lora_alpha: What their product is scaled with, over the rank; default twice the rank.
        dtype: What is computed in. Trained weights, all or the adapters', are float32 all the
            same; those that adapters leave as they are are kept in it.
        gradient_checkpointing: Whether layers are computed again going backward in place of
            keeping what they have computed: less memory, the same gradient.
        max_pixels: What a picture may cost, as for `load_mllm`; saved with the processor, so that
            the trained model sees pictures as it was trained.
        max_patches: Likewise.

    Raises:
        TrainingError: If a size is below 1, a value is out of range, or settings do not fit
            together.
    """

    steps: Count = 150
    batch_size: Count = 16
    accumulation: Count = 1
    learning_rate: Rate = 1e-3
    warmup: Warmup = 0.1
    seed: int = 0
    mode: Mode = "cot"
    attcot: AttCoTConfig = field(default_factory=AttCoTConfig)
    lora: Rank | None = None
    lora_alpha: Positive | None = None
    dtype: Dtype = "float32"
    gradient_checkpointing: bool = False
    max_pixels: Count | None = None
    max_patches: Count | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        check_settings(self)
        if self.batch_size % self.accumulation:
            raise TrainingError(
                f"A batch of {self.batch_size} does not split into {self.accumulation} equal "
                "parts; choose an accumulation that divides it."
            )
        if self.lora_alpha is not None and self.lora is None:
            raise TrainingError("lora_alpha scales adapters, and there are none; give lora, too.")

    @property
    def limits(self) -> dict[str, Any]:
        """What a picture may cost, as `load_mllm` takes it."""
        return {"max_pixels": self.max_pixels, "max_patches": self.max_patches}

    @property
    def loaded_in(self) -> torch.dtype:
        """Type that the base is loaded in."""
        frozen = self.lora is not None and self.dtype == "bfloat16"
        return torch.bfloat16 if frozen else torch.float32


def finetune(
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig | None = None,
    *,
    dataset: type[RationaleDataset] = RationaleDataset,
    save_every: int | None = None,
    report_to: Sequence[str] = (),
    format: ResponseFormat = TAGS,
    progress: bool = False,
) -> Path:
    """Fine-tune `base` on `problems` and save model, processor and log into `folder`.

    With adapters, `folder` holds the model they are merged into, and they lie by themselves in its
    ``adapter``, as `peft` reads them.

    The folder appears only when the run has finished, so one that exists is complete. With
    `save_every` a run that was killed resumes from its last complete checkpoint when it is called
    again in the same way, and ends with the weights and the log of one that was not (to the last
    bit on the CPU); remains of a run with other settings, problems or base are thrown away.

    Args:
        base: Local folder or hub id.
        problems: Items with rationale steps.
        folder: Where to save; must not exist.
        config: The run.
        dataset: Makes the examples of the problems.
        save_every: Steps between checkpoints, a multiple of `LOG_EVERY`; default none.
        report_to: Where the log goes beside ``training_log.json``, as `transformers` names it,
            such as ``"tensorboard"``, whose files then lie in `folder`.
        format: How the examples are asked for and written.
        progress: Show a progress bar.

    Returns:
        `folder`, a checkpoint that `load_mllm` reads.

    Raises:
        TrainingError: If the folder exists, problems have no rationale or are fewer than a batch,
            `save_every` or the device does not fit, the loss or a weight is not finite, the
            checkpoint to resume from is damaged, or the disk is full.
        RunError: If another run is training into the folder.
    """
    config = config or FinetuneConfig()
    folder = new_folder(folder)
    _check_device(config)

    def make(mllm: Mllm, working: Path, **arguments: Any) -> AttCoTTrainer:
        arguments["report_to"] = list(report_to)
        return make_trainer(
            mllm, problems, config, working, dataset=dataset, progress=progress, **arguments
        )

    return train_into(
        folder,
        make,
        base,
        problems,
        asdict(config),
        seed=config.seed,
        dtype=config.loaded_in,
        limits=config.limits,
        inputs={"dataset": dataset.__name__},
        log_every=LOG_EVERY,
        save_every=save_every,
        format=format,
    )


def make_trainer(
    mllm: Mllm,
    problems: Sequence[Problem],
    config: FinetuneConfig,
    folder: str | Path,
    *,
    dataset: type[RationaleDataset] = RationaleDataset,
    progress: bool = False,
    **arguments: Any,
) -> AttCoTTrainer:
    """The trainer that `finetune` runs; `arguments` override its `TrainingArguments`.

    It logs to tensorboard, where that is installed, under ``<folder>/runs``. With adapters its
    ``model`` is the wrapper of `peft`, and `mllm.model` the model inside, which holds them.

    Args:
        mllm: Model to train, in place, loaded in ``config.loaded_in``.
        problems: Items with rationale steps.
        config: The run.
        folder: Where checkpoints would go.
        dataset: Makes the examples of the problems.
        progress: Show a progress bar.
        arguments: Any field of `transformers.TrainingArguments`.

    Raises:
        TrainingError: If the problems are too few for a batch.
    """
    half = config.dtype == "bfloat16"
    settings = {
        **run_arguments(folder, config, progress=progress),
        "per_device_train_batch_size": config.batch_size // config.accumulation,
        "bf16": half,
        "logging_steps": LOG_EVERY,
        "report_to": ["tensorboard"] if find_spec("tensorboard") else [],
        "dataloader_drop_last": True,
    }
    if half and mllm.device.type == "cpu":
        settings["use_cpu"] = True
    if config.gradient_checkpointing:
        # transformers is renaming these settings, and warns of the old name where it has the new.
        known = {one.name for one in fields(TrainingArguments)}
        name = next(n for n in ("activation", "gradient") if f"{n}_checkpointing" in known)
        settings[f"{name}_checkpointing"] = True
        settings[f"{name}_checkpointing_kwargs"] = {"use_reentrant": False}
    args = TrainingArguments(**{**settings, **arguments})
    examples = dataset(mllm, problems, mode=config.mode)
    needed = config.batch_size * args.world_size
    if args.dataloader_drop_last and len(examples) < needed:
        raise TrainingError(
            f"{len(examples)} examples do not fill a batch of {needed}, so that nothing would be "
            "trained; give more problems, or a smaller batch_size."
        )
    model = mllm.model
    if config.lora is not None:
        model = add_adapters(mllm, config.lora, config.lora_alpha)
    trainer = AttCoTTrainer(
        model=model,
        args=args,
        train_dataset=examples,
        data_collator=RationaleCollator(mllm),
        mllm=mllm,
        attcot=config.attcot,
    )
    # It prints every log entry; they are all in the training log.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _check_device(config: FinetuneConfig) -> None:
    able = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    if config.dtype == "bfloat16" and not able:
        raise TrainingError(
            f"{torch.cuda.get_device_name(0)} cannot compute in bfloat16; train in float32, or on "
            "a newer device (Ampere and later)."
        )
