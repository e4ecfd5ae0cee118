"""Did a run train anything, and is what it leaves a model? Asked before weights are saved."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from attcot_analysis.errors import TrainingError


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


def train(trainer: Any, checkpoint: Path | None = None) -> None:
    """Run a trainer to its last step, from a checkpoint if there is one, and see that it trained.

    Raises:
        TrainingError: If it ended before its last step, or no weight has changed.
    """
    before = _sums(trainer.model)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    check_trained(trainer)
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


def _finite(tensor: torch.Tensor) -> bool:
    own = _local(tensor)
    # One-byte floats cannot be asked, and hold frozen weights only.
    return own.element_size() == 1 or bool(torch.isfinite(own).all())


def _sums(model: nn.Module) -> list[float]:
    trained = [p.detach() for p in model.parameters() if p.requires_grad]
    return torch.stack([_local(one).double().sum().cpu() for one in trained]).tolist()


def _local(tensor: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return found
