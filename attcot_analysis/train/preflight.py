"""What would silently lose the auxiliary gradient or misplace tokens is refused before training."""

from typing import Any

from attcot_analysis.errors import TrainingError
from attcot_analysis.train.objective import AttCoTConfig


def check_arguments(trainer: Any, config: AttCoTConfig) -> None:
    """Check a trainer's settings; nothing is refused when both weights are 0.

    Args:
        trainer: A `transformers.Trainer` or a subclass, already built.
        config: The objective it is to train.

    Raises:
        TrainingError: Says what is wrong, why, and what to set instead.
    """
    if not config.active:
        return
    args = trainer.args
    for wrong, sentence in (
        (
            args.remove_unused_columns,
            "remove_unused_columns is on and would drop the examples that Att-CoT needs; set "
            "remove_unused_columns=False in the training arguments",
        ),
        (
            _reentrant(args),
            "Reentrant gradient checkpointing loses the auxiliary gradient without a word; set "
            "gradient_checkpointing_kwargs={'use_reentrant': False}",
        ),
        (
            getattr(args, "packing", False) or getattr(args, "padding_free", False),
            "Packing and padding-free batches put several items in one row, where token layouts "
            "do not hold; set packing=False and padding_free=False",
        ),
        (
            getattr(args, "max_length", None) is not None,
            f"max_length={getattr(args, 'max_length', None)} would cut sequences, and image tokens "
            "with them; set max_length=None and bound the pixels in the processor instead",
        ),
        (
            _context_parallel(trainer),
            "Context or sequence parallelism splits sequences over devices, where rows no longer "
            "see their image tokens; use data parallelism (DDP, FSDP2, ZeRO-2) instead",
        ),
        (
            _zero3(trainer) and _has_adapters(trainer) and _checkpointing(args),
            "DeepSpeed ZeRO-3 with LoRA and gradient checkpointing falls back to reentrant "
            "checkpointing and loses the auxiliary gradient; use ZeRO-2 or FSDP2, or switch "
            "checkpointing off",
        ),
        (
            getattr(args, "use_liger_kernel", False),
            "Liger's fused loss bypasses the output head; set use_liger_kernel=False",
        ),
        (
            getattr(args, "torch_compile", False),
            "A compiled model does not notice that hooks change, and would go on with those of its "
            "first step; set torch_compile=False",
        ),
        (
            getattr(args, "n_gpu", 1) > 1,
            "Several devices in one process (DataParallel) split a batch where its examples do "
            "not; start one process per device with accelerate launch, or show it one device only",
        ),
    ):
        if wrong:
            raise TrainingError(f"{sentence}.")


def _checkpointing(args: Any) -> bool:
    # transformers is renaming these settings; while it does, both names hold the same.
    return any(getattr(args, f"{name}_checkpointing", None) for name in ("activation", "gradient"))


def _reentrant(args: Any) -> bool:
    options = [
        getattr(args, f"{name}_checkpointing_kwargs", None) or {}
        for name in ("activation", "gradient")
    ]
    return _checkpointing(args) and any(one.get("use_reentrant", False) for one in options)


def _context_parallel(trainer: Any) -> bool:
    parallel = getattr(getattr(trainer, "accelerator", None), "parallelism_config", None)
    sizes = [getattr(parallel, name, 1) or 1 for name in ("cp_size", "sp_size")]
    return max(sizes) > 1


def _zero3(trainer: Any) -> bool:
    plugin = getattr(getattr(trainer.accelerator, "state", None), "deepspeed_plugin", None)
    return plugin is not None and getattr(plugin, "zero_stage", 0) == 3


def _has_adapters(trainer: Any) -> bool:
    return hasattr(trainer.model, "peft_config")
