"""The Att-CoT terms inside a Trainer: as a mixin for a class, or attached to somebody's object."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from attcot_analysis.attention.hook import NAME, attached
from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm
from attcot_analysis.train.checkpoints import Seals, load_weights
from attcot_analysis.train.data import Example
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.preflight import check_arguments
from attcot_analysis.train.terms import NOTES, AttCoTTerms
from attcot_analysis.train.weights import check_trained, check_weights

KEY = "attcot"
"""Under this key a batch carries its `Example` objects from the collator to the loss."""
_EVAL = "eval_"
_NONE = torch.zeros(())


class AttCoTMixin:
    """Adds λ_vis · L_vis + λ_commit · L_commit to a Trainer's loss.

    Mix it in before the trainer, ``class AttCoTTrainer(AttCoTMixin, Trainer)``, and use
    `attcot_analysis.train.data.RationaleCollator`, or `CotCollator` with TRL's data. With both
    weights 0 the trainer is untouched. With a weight, the loss of an accumulated batch does not
    depend on how it is split: cross-entropy is a mean over its tokens, the terms over its items.
    """

    mllm: Mllm
    attcot: AttCoTConfig

    def __init__(
        self, *args: Any, mllm: Mllm, attcot: AttCoTConfig | None = None, **kwargs: Any
    ) -> None:
        """Take the model's `Mllm` and the objective beside the trainer's own arguments.

        Raises:
            TrainingError: If the trainer's settings would silently drop the auxiliary gradient.
        """
        self.mllm = mllm
        self.attcot = attcot or AttCoTConfig()
        self._terms = AttCoTTerms(mllm, self.attcot)
        self._notes = Notes(self.attcot)
        super().__init__(*args, **kwargs)
        _set_up(self, self.attcot)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, with the probe's attention in place if L_vis needs it.

        Raises:
            TrainingError: If no step was taken, or the checkpoint to go on from is damaged.
        """
        with _attention(self.mllm, self.attcot):
            found = super().train(*args, **kwargs)  # type: ignore[misc]
        check_trained(self)
        return found

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
        if not load_weights(self, resume_from_checkpoint):
            own._load_from_checkpoint(resume_from_checkpoint, model)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The trainer's loss plus the auxiliary terms.

        Raises:
            TrainingError: If the loss is not finite, or a term has no gradient.
        """
        own: Any = super()
        return _loss_with_terms(
            self,
            self._terms,
            self._notes,
            own.compute_loss,
            model,
            inputs,
            return_outputs,
            num_items_in_batch,
        )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the auxiliary terms' means since the last log beside the trainer's own values."""
        means = self._notes.means(self.accelerator, logs)  # type: ignore[attr-defined]
        super().log({**logs, **means}, *args, **kwargs)  # type: ignore[misc]


class AttCoTTrainer(AttCoTMixin, Trainer):
    """`transformers.Trainer` with the Att-CoT terms."""


def attach(trainer: Any, mllm: Mllm, attcot: AttCoTConfig) -> Any:
    """Add the Att-CoT terms to a Trainer object that exists already.

    Its ``compute_loss``, ``train``, ``log``, ``save_model`` and how it resumes are replaced on the
    object; its class, data and settings stay. Batches without `Example` objects (see `CotCollator`)
    train as before.

    Args:
        trainer: A `transformers.Trainer` or any subclass.
        mllm: Its model as `transformers` knows it (not the PEFT wrapper) and the processor.
        attcot: The objective.

    Returns:
        The same trainer.

    Raises:
        TrainingError: If the trainer trains another model, or its settings would silently drop
            the auxiliary gradient.
    """
    if not any(module is mllm.model for module in trainer.model.modules()):
        raise TrainingError(
            "The trainer does not train the given model; wrap the model object that was handed "
            "to the trainer (wrap_mllm(model, processor)), before PEFT or FSDP wrap it."
        )
    _set_up(trainer, attcot)
    terms, notes = AttCoTTerms(mllm, attcot), Notes(attcot)
    own_loss, own_train, own_log = trainer.compute_loss, trainer.train, trainer.log
    own_load, own_save = trainer._load_from_checkpoint, trainer.save_model

    def compute_loss(
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        return _loss_with_terms(
            trainer, terms, notes, own_loss, model, inputs, return_outputs, num_items_in_batch
        )

    def train(*args: Any, **kwargs: Any) -> Any:
        with _attention(mllm, attcot):
            found = own_train(*args, **kwargs)
        check_trained(trainer)
        return found

    def save(*args: Any, **kwargs: Any) -> None:
        check_weights(trainer.model, trainer.state.global_step)
        own_save(*args, **kwargs)

    def log(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        own_log({**logs, **notes.means(trainer.accelerator, logs)}, *args, **kwargs)

    def load(checkpoint: str, model: Any = None) -> None:
        if not load_weights(trainer, checkpoint):
            own_load(checkpoint, model)

    trainer.compute_loss, trainer.train, trainer.log = compute_loss, train, log
    trainer._load_from_checkpoint, trainer.save_model = load, save
    return trainer


class Notes:
    """Values to log, averaged over the batches since the last log; those of evaluation apart."""

    def __init__(self, attcot: AttCoTConfig) -> None:
        """Start empty; an objective without weights notes nothing."""
        self._active = attcot.active
        self._seen: dict[str, list[Tensor]] = {}

    def add(self, values: dict[str, Tensor], *, training: bool) -> None:
        """Take one batch's values."""
        for name, value in values.items():
            self._seen.setdefault(name if training else f"{_EVAL}{name}", []).append(value)

    def means(self, accelerator: Any, logs: dict[str, float]) -> dict[str, float]:
        """The means that belong to a log entry, over all processes; call it in each of them.

        Args:
            accelerator: The trainer's.
            logs: The entry they are to stand beside, of training or of evaluation.
        """
        if not self._active:
            return {}
        prefix = _EVAL if any(name.startswith(_EVAL) for name in logs) else ""
        # Always the same names: a process may have seen no item that a term counts.
        seen = [self._seen.pop(f"{prefix}{name}", []) for name in NOTES]
        sums = torch.stack([torch.stack(own).float().sum().cpu() if own else _NONE for own in seen])
        counts = torch.tensor([float(len(own)) for own in seen])
        both = torch.stack([sums.to(accelerator.device), counts.to(accelerator.device)])
        total, number = accelerator.reduce(both, reduction="sum").tolist()
        return {
            f"{prefix}{name}": value / n
            for name, value, n in zip(NOTES, total, number, strict=True)
            if n
        }


def _set_up(trainer: Any, attcot: AttCoTConfig) -> None:
    """Check the settings, and let accumulated parts weigh by their tokens.

    Qwen's classes say that they take no token count, and trainers then average the means of
    unequal parts, so that the loss would depend on how a batch is split.
    """
    check_arguments(trainer, attcot)
    trainer.add_callback(Seals())
    if attcot.active:
        trainer.model_accepts_loss_kwargs = True


def _attention(mllm: Mllm, attcot: AttCoTConfig) -> contextlib.AbstractContextManager[None]:
    return attached(mllm.model) if attcot.active else contextlib.nullcontext()


def _loss_with_terms(
    trainer: Any,
    terms: AttCoTTerms,
    notes: Notes,
    own: Callable[..., Any],
    model: Any,
    inputs: dict[str, Any],
    return_outputs: bool,
    num_items_in_batch: Tensor | int | None,
) -> Any:
    inputs = dict(inputs)
    examples: list[Example] | None = inputs.pop(KEY, None)
    options = {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
    if not terms.config.active or examples is None:
        result = own(model, inputs, **options)
        _check_finite(trainer, result[0] if return_outputs else result)
        return result
    # Evaluation outside train() has no backward pass, so it can switch on its own.
    switched = terms.mllm.text_config._attn_implementation == NAME
    with contextlib.nullcontext() if switched else _attention(terms.mllm, terms.config):
        batch = terms.prepare(inputs, examples)
        with terms.running(batch):
            result = own(model, batch.inputs, **options)
    loss = result[0] if return_outputs else result
    _check_finite(trainer, loss)
    auxiliary, seen = terms.loss(batch)
    notes.add(seen, training=trainer.model.training)
    state = trainer.state
    ramp = terms.config.ramp((state.global_step + 1) / max(state.max_steps, 1))
    divisor = _parts(trainer, num_items_in_batch)
    loss = loss + ramp * auxiliary.to(loss.device) / divisor
    return (loss, result[1]) if return_outputs else loss


def _parts(trainer: Any, num_items_in_batch: Tensor | int | None) -> int:
    """What to divide the terms by: the accumulation's parts, unless the trainer does it itself.

    It does not where it takes the loss as one over the tokens of all parts.
    """
    if not trainer.model.training:
        return 1
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        counted = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
        scaled = counted or trainer.compute_loss_func is not None
    return int(getattr(trainer, "current_gradient_accumulation_steps", 1)) if scaled else 1


def _check_finite(trainer: Any, loss: Tensor) -> None:
    if not bool(torch.isfinite(loss.detach()).all()):
        raise TrainingError(
            f"The loss is {float(loss.detach().float().mean())} at step "
            f"{trainer.state.global_step + 1}; lower the learning rate or train in bf16/fp32, and "
            "resume from the last checkpoint."
        )
