"""The Att-CoT terms inside a Trainer: as a mixin for a class, or attached to somebody's object."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer
from trl import SFTTrainer
from trl.data_utils import apply_chat_template, is_conversational, prepare_multimodal_messages

from attcot_analysis.attention.hook import NAME, attached
from attcot_analysis.attention.packing import CandidateTokens, candidate_tokens
from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Encoded, Mllm, encode_prompt
from attcot_analysis.models.inputs import prompt_text
from attcot_analysis.problems import Problem
from attcot_analysis.train.checkpoints import SafeCheckpoints
from attcot_analysis.train.data import Example, collate_examples, lazy_rows, step_weights
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.terms import NOTES, AttCoTTerms


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
            zero3(trainer) and _has_adapters(trainer) and _checkpointing(args),
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
            "A compiled model does not notice that hooks change, and would keep those of its "
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


def zero3(trainer: Any) -> bool:
    """Whether DeepSpeed shards the weights of a trainer's model."""
    plugin = getattr(getattr(trainer.accelerator, "state", None), "deepspeed_plugin", None)
    return plugin is not None and getattr(plugin, "zero_stage", 0) == 3


def _has_adapters(trainer: Any) -> bool:
    return hasattr(trainer.model, "peft_config")


KEY = "attcot"
"""Under this key a batch carries its `Example` objects from the collator to the loss."""

_EVAL = "eval_"

_NONE = torch.zeros(())


class AttCoTMixin(SafeCheckpoints):
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
        self._take(mllm, attcot or AttCoTConfig())
        super().__init__(*args, **kwargs)
        self._set_up()

    def _take(self, mllm: Mllm, attcot: AttCoTConfig) -> None:
        self.mllm, self.attcot = mllm, attcot
        self._terms = AttCoTTerms(mllm, attcot)
        self._notes = Notes(attcot)

    def _set_up(self) -> None:
        """Check the settings of a trainer that is built, and let parts weigh by their tokens.

        Qwen's classes say that they take no token count, and trainers then average the means of
        unequal parts, so that the loss would depend on how a batch is split.
        """
        check_arguments(self, self.attcot)
        if self.attcot.active:
            self.model_accepts_loss_kwargs = True

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, with the probe's attention in place if L_vis needs it.

        Raises:
            TrainingError: If no step was taken, or the checkpoint to resume from is damaged.
        """
        with _attention(self.mllm, self.attcot):
            return super().train(*args, **kwargs)

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
        trainer: Any = self
        own: Any = super()
        terms, inputs = self._terms, dict(inputs)
        examples: list[Example] | None = inputs.pop(KEY, None)
        options = {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
        if not self.attcot.active or examples is None:
            result = own.compute_loss(model, inputs, **options)
            _check_finite(trainer, result[0] if return_outputs else result)
            return result
        # Evaluation outside train() has no backward pass, so it can switch on its own.
        switched = self.mllm.text_config._attn_implementation == NAME
        with contextlib.nullcontext() if switched else _attention(self.mllm, self.attcot):
            batch = terms.prepare(inputs, examples)
            with terms.running(batch):
                result = own.compute_loss(model, batch.inputs, **options)
        loss = result[0] if return_outputs else result
        _check_finite(trainer, loss)
        auxiliary, values = terms.loss(batch)
        self._notes.add(values, training=trainer.model.training)
        state = trainer.state
        ramp = self.attcot.ramp((state.global_step + 1) / max(state.max_steps, 1))
        loss = loss + ramp * auxiliary.to(loss.device) / _parts(trainer, num_items_in_batch)
        return (loss, result[1]) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the auxiliary terms' means since the last log beside the trainer's own values."""
        own: Any = super()
        trainer: Any = self
        own.log({**logs, **self._notes.means(trainer.accelerator, logs)}, *args, **kwargs)


class AttCoTTrainer(AttCoTMixin, Trainer):
    """`transformers.Trainer` with the Att-CoT terms."""


def attach(trainer: Any, mllm: Mllm, attcot: AttCoTConfig) -> Any:
    """Add the Att-CoT terms to a Trainer object that exists already.

    `AttCoTMixin` is put before the object's class, as it would stand in a class of its own; its
    data and settings stay. Batches without `Example` objects (see `CotCollator`) train as before.

    Args:
        trainer: A `transformers.Trainer` or any subclass.
        mllm: Its model as `transformers` knows it (not the PEFT wrapper) and the processor.
        attcot: The objective.

    Returns:
        The same trainer.

    Raises:
        TrainingError: If the trainer trains another model, has the terms already or methods
            replaced on the object, or its settings would silently drop the auxiliary gradient.
    """
    check_model(trainer, mllm)
    own = type(trainer)
    if issubclass(own, AttCoTMixin):
        raise TrainingError("The trainer has the Att-CoT terms already; attach them only once.")
    hiding = [name for name in vars(trainer) if callable(getattr(AttCoTMixin, name, None))]
    if hiding:
        raise TrainingError(
            f"{hiding[0]} was replaced on the trainer object itself, which would hide that of the "
            "Att-CoT terms; replace it in a subclass, and attach the terms to an object of that."
        )
    check_arguments(trainer, attcot)
    trainer.__class__ = type(f"AttCoT{own.__name__}", (AttCoTMixin, own), {})
    trainer._take(mllm, attcot)
    trainer._set_up()
    trainer._seal()
    return trainer


def check_model(trainer: Any, mllm: Mllm) -> None:
    """See that a trainer trains a model.

    Raises:
        TrainingError: If it trains another one.
    """
    if not any(module is mllm.model for module in trainer.model.modules()):
        raise TrainingError(
            "The trainer does not train the given model; wrap the model object that was handed "
            "to the trainer (wrap_mllm(model, processor)), before PEFT or FSDP wrap it."
        )


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


def _attention(mllm: Mllm, attcot: AttCoTConfig) -> contextlib.AbstractContextManager[None]:
    return attached(mllm.model) if attcot.active else contextlib.nullcontext()


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


@dataclass(frozen=True, eq=False)
class CotCollator:
    """Batches prompt-completion rows as TRL does, and adds what the Att-CoT terms need of them.

    Attributes:
        mllm: The model whose processor is used.
    """

    mllm: Mllm
    _known: dict[tuple[str, ...], CandidateTokens] = field(default_factory=dict, repr=False)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collate.

        Raises:
            TrainingError: If a row lacks a column that it needs.
            LayoutError: If a prompt and its images do not fit.
        """
        return collate_examples(self.mllm, [self.example(row, at) for at, row in enumerate(rows)])

    def example(self, row: Mapping[str, Any], at: int) -> Example:
        """One row as an example; `at` names it in errors if it has no ``id``."""
        name = str(row.get("id", f"number {at}"))
        encoded = self._encode(row, name)
        candidates = tuple(row.get("candidates") or ())
        answer = row.get("answer")
        if not candidates or answer not in candidates:
            raise TrainingError(
                f"Row {name}: its answer {answer!r} is not among its candidates "
                f"{list(candidates)}; give both columns for the commitment term."
            )
        if candidates not in self._known:
            self._known[candidates] = candidate_tokens(self.mllm, candidates)
        boxes = row.get("boxes") or ()
        n_steps = len(encoded.layout.steps)
        per_step = [boxes[step] if step < len(boxes) else () for step in range(n_steps)]
        return Example(
            name=name,
            encoded=encoded,
            candidates=self._known[candidates],
            answer=candidates.index(answer),
            evidence=step_weights(encoded, per_step),
        )

    def _encode(self, row: Mapping[str, Any], name: str) -> Encoded:
        missing = {"prompt", "completion"} - set(row)
        if missing:
            raise TrainingError(
                f"Row {name} lacks {', '.join(sorted(missing))}; Att-CoT takes TRL's "
                "prompt-completion form, with the rationale and answer as the completion."
            )
        images = [row["image"]] if row.get("image") is not None else list(row.get("images") or ())
        texts: Mapping[str, Any] = row
        if is_conversational(dict(row)):
            texts = apply_chat_template(
                {
                    "prompt": prepare_multimodal_messages(row["prompt"], images=images),
                    "completion": prepare_multimodal_messages(row["completion"]),
                },
                self.mllm.processor,
            )
        return encode_prompt(self.mllm, texts["prompt"], images, response=texts["completion"])


class AttCoTSFTTrainer(AttCoTMixin, SFTTrainer):
    """`trl.SFTTrainer` with the Att-CoT terms; with both weights 0 it is `SFTTrainer`, exactly."""

    def __init__(
        self,
        *args: Any,
        mllm: Mllm,
        attcot: AttCoTConfig | None = None,
        data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        """Use `CotCollator`, unless another collator is given or no term has a weight."""
        if data_collator is None and attcot is not None and attcot.active:
            data_collator = CotCollator(mllm)
        super().__init__(*args, mllm=mllm, attcot=attcot, data_collator=data_collator, **kwargs)


def prompt_completion_rows(mllm: Mllm, problems: Sequence[Problem]) -> Any:
    """Problems as rows for TRL, with the columns that `CotCollator` reads.

    Args:
        mllm: The model whose prompts and end token are used.
        problems: Items with rationale steps.

    Returns:
        A `datasets.Dataset`, whose pictures are decoded when they are looked at.
    """
    rows = []
    for problem in problems:
        form = mllm.format
        prompt = prompt_text(
            mllm,
            problem.question,
            "cot",
            problem.n_images,
            problem.candidates,
            problem.picture_labels,
        )
        response = form.right_response(problem)
        if form.is_open(prompt):
            response = form.without_opening(response)
        rows.append(
            {
                "id": problem.id,
                "prompt": prompt,
                "completion": response + mllm.tokenizer.eos_token,
                "candidates": list(problem.candidates),
                "answer": problem.answer,
                "boxes": [
                    [list(box) for box in step.boxes or problem.evidence] for step in problem.steps
                ],
            }
        )
    return lazy_rows(rows, problems)
