"""`AttCoTTerms`: both Att-CoT terms of a batch, from one forward pass of whatever trainer runs it.

The forward pass needs a few things that trainers know nothing of: branches behind the sequences,
their block mask and positions, and the probe. They are put in, and the final hidden states taken
out, by hooks on the model's backbone (the model without its output head), which every trainer
calls, also where PEFT wraps the model or TRL replaces the head. Trainers themselves only see
longer sequences whose added tokens have no labels.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from attcot_analysis.errors import TrainingError
from attcot_analysis.measure.branches import Packed, pack
from attcot_analysis.measure.probe import Probe
from attcot_analysis.models import Mllm
from attcot_analysis.train.data import IGNORED, Example, probe_rows
from attcot_analysis.train.objective import (
    AttCoTConfig,
    commitment_loss,
    visual_access_loss,
    visual_mass,
)


@dataclass(eq=False)
class Batch:
    """One batch on its way through the model.

    Attributes:
        inputs: What the trainer gives to the model.
        examples: The items.
        steps: Per item the k whose forced answers are read.
        extra: What the backbone gets beside, or instead of, the trainer's inputs.
        packed: The branches, if there are any.
        probe: Collects masses, if they are wanted.
        groups: ``(B, R)`` the key group that each probed row belongs to.
        rows: ``(B, R)`` the probed rows, -1 for none.
        hidden: The backbone's last hidden states at the branches' rows, once it has run.
    """

    inputs: dict[str, Any]
    examples: Sequence[Example]
    steps: list[tuple[int, ...]]
    extra: dict[str, Any] = field(default_factory=dict)
    packed: Packed | None = None
    probe: Probe | None = None
    groups: Tensor | None = None
    rows: Tensor | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True, eq=False)
class AttCoTTerms:
    """Computes λ_vis · L_vis + λ_commit · L_commit, and what to log about them.

    Attributes:
        mllm: The model as `transformers` knows it, whatever wraps it while it trains.
        config: The objective.

    Raises:
        TrainingError: If the objective names layers the model does not have.
    """

    mllm: Mllm
    config: AttCoTConfig

    def __post_init__(self) -> None:
        """Check the objective against the model."""
        for layer in self.config.layers(self.mllm.n_layers):
            self.config.heads(layer, self.mllm.n_heads)

    def prepare(self, inputs: Mapping[str, Any], examples: Sequence[Example]) -> Batch:
        """Add branches to a collated batch and set up the probe.

        Args:
            inputs: Model inputs with ``labels``, right-padded.
            examples: Its items, in the same order.

        Raises:
            TrainingError: If inputs and examples do not hold the same tokens.
        """
        self._check(inputs, examples)
        steps = [self.config.early_steps(len(e.encoded.layout.steps)) for e in examples]
        batch = Batch(dict(inputs), examples, steps)
        if self.config.lambda_commit > 0:
            self._add_branches(batch)
        if self.config.lambda_vis > 0:
            self._add_probe(batch)
        return batch

    @contextlib.contextmanager
    def running(self, batch: Batch) -> Iterator[None]:
        """Let one forward pass of the model be that of this batch; the first one counts."""

        def before(
            _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, **batch.extra}

        def after(_module: Any, _args: tuple[Any, ...], output: Any) -> None:
            if batch.packed is not None and batch.hidden is None:
                batch.hidden = output.last_hidden_state[:, batch.packed.keep]

        backbone = self.mllm.model.base_model
        with contextlib.ExitStack() as hooks:
            hooks.callback(backbone.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(backbone.register_forward_hook(after).remove)
            yield

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted terms of a batch that has run, and values to log.

        Returns:
            fp32 scalar, a mean over items; and ``visual_mass``, ``loss_vis``,
            ``early_confidence`` (largest candidate probability at the first k),
            ``commitment_position`` (the first k, over K, from which on the forced answer is the
            right one at all k read; 1 where it is not) and ``loss_commit``, as far as computed.

        Raises:
            TrainingError: If a term is not finite, or has lost its gradient.
        """
        notes: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.inputs["input_ids"].device)
        if batch.probe is not None:
            total = total + self.config.lambda_vis * self._visual_access(batch, notes)
        if batch.packed is not None:
            total = total + self.config.lambda_commit * self._commitment(batch, notes)
        for name in ("loss_vis", "loss_commit"):
            if name in notes and not bool(torch.isfinite(notes[name])):
                raise TrainingError(
                    f"{name} is {float(notes[name])}; lower the learning rate or train in "
                    "bf16 or fp32, and resume from the last checkpoint."
                )
        return total, {name: value.detach() for name, value in notes.items()}

    def _check(self, inputs: Mapping[str, Any], examples: Sequence[Example]) -> None:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        lengths = mask.sum(-1).tolist()
        for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
            own = example.encoded.input_ids.to(ids.device)
            if length != len(own) or not torch.equal(ids[row, : len(own)], own):
                raise TrainingError(
                    f"Item {example.name}: the batch holds other tokens than its layout was made "
                    f"for ({length} and {len(own)}); use max_length=None, no packing, no "
                    "padding-free batches, and right padding."
                )
        key = self.mllm.family.token_types
        if key is not None and key not in inputs:
            raise TrainingError(
                f"The batch lacks {key}, so the model would place its image tokens wrongly; use "
                "a collator that passes on everything the processor returns."
            )

    def _add_branches(self, batch: Batch) -> None:
        packed = pack(
            self.mllm,
            [example.encoded for example in batch.examples],
            [example.candidates for example in batch.examples],
            steps=batch.steps,
            names=[example.name for example in batch.examples],
            batch={k: v for k, v in batch.inputs.items() if k != "labels"},
        )
        added = packed.inputs["input_ids"].shape[1] - packed.base_length
        # The trainer counts tokens in the plain mask; the backbone gets the block mask.
        mask = F.pad(batch.inputs["attention_mask"], (0, added))
        labels = F.pad(batch.inputs["labels"], (0, added), value=IGNORED)
        batch.extra["attention_mask"] = packed.inputs["attention_mask"]
        batch.inputs = {**packed.inputs, "attention_mask": mask, "labels": labels}
        batch.packed = packed

    def _add_probe(self, batch: Batch) -> None:
        length = batch.inputs["input_ids"].shape[1]
        rows, groups, cols = probe_rows(
            batch.examples,
            evidence=self.config.vis_region == "evidence",
            question=self.config.vis_rows == "question",
        )
        device = batch.inputs["input_ids"].device
        batch.probe = Probe(self.config.layers(self.mllm.n_layers))
        batch.groups, batch.rows = groups.to(device), rows.to(device)
        batch.extra |= {
            "attcot_probe": batch.probe,
            "attcot_rows": batch.rows,
            "attcot_cols": F.pad(cols, (0, 0, 0, length - cols.shape[1])).to(device),
        }

    def _visual_access(self, batch: Batch, notes: dict[str, Tensor]) -> Tensor:
        if batch.probe is None or batch.groups is None or batch.rows is None:
            raise TrainingError("The batch was prepared without a probe.")
        found = batch.probe.masses(differentiable=self._trains)
        mass = visual_mass(
            {
                layer: one.gather(3, batch.groups[:, None, :, None].expand(*one.shape[:3], 1))[
                    ..., 0
                ]
                for layer, one in found.items()
            },
            self.config,
        )
        counted = batch.rows >= 0
        loss = visual_access_loss(mass, counted, self.config)
        notes["visual_mass"] = mass.detach()[counted].mean()
        notes["loss_vis"] = loss
        return loss

    def _commitment(self, batch: Batch, notes: dict[str, Tensor]) -> Tensor:
        if batch.packed is None or batch.hidden is None:
            raise TrainingError(
                f"{type(self.mllm.model).__name__} did not run its backbone, so there is nothing "
                "to read forced answers from; use a model class of transformers."
            )
        log_probs = batch.packed.log_probs(self._logits(batch.hidden))
        loss = commitment_loss(
            log_probs,
            batch.steps,
            [len(example.encoded.layout.steps) for example in batch.examples],
            [example.answer for example in batch.examples],
            self.config,
        )
        if self._trains and not loss.requires_grad:
            raise TrainingError(
                "The commitment term has no gradient; train with gradients enabled and without "
                "reentrant gradient checkpointing."
            )
        scores = [one.detach().softmax(-1) for one in log_probs]
        notes["early_confidence"] = torch.stack([one[0].max() for one in scores]).mean()
        notes["commitment_position"] = torch.stack(
            [
                _position(one.argmax(-1) == example.answer, ks, len(example.encoded.layout.steps))
                for one, ks, example in zip(scores, batch.steps, batch.examples, strict=True)
            ]
        ).mean()
        notes["loss_commit"] = loss
        return loss

    @property
    def _trains(self) -> bool:
        return bool(self.mllm.model.training) and torch.is_grad_enabled()

    def _logits(self, hidden: Tensor) -> Tensor:
        """What the output head makes of hidden states; FSDP2 keeps its weight in parts."""
        head = self.mllm.model.get_output_embeddings()
        if isinstance(head.weight, DTensor):
            bias = None if head.bias is None else head.bias.full_tensor()
            logits = F.linear(hidden, head.weight.full_tensor().to(hidden.dtype), bias)
        else:
            logits = head(hidden)
        cap = getattr(self.mllm.text_config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits.float() / cap) * cap


def _position(right: Tensor, steps: Sequence[int], n_steps: int) -> Tensor:
    """Where the forced answer settles on the right one, as a share of the steps."""
    wrong = (~right).nonzero()
    first = 0 if not len(wrong) else int(wrong[-1]) + 1
    settled = n_steps if first == len(steps) else steps[first]
    return torch.tensor(settled / n_steps)
