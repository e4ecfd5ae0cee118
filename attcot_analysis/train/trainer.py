"""`AttCoTMixin`: the Att-CoT terms inside a `transformers` Trainer, without touching the model."""

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from attcot_analysis.errors import TrainingError
from attcot_analysis.measure.attention import attached
from attcot_analysis.measure.branches import pack
from attcot_analysis.measure.probe import Probe
from attcot_analysis.models import Mllm
from attcot_analysis.train.data import IGNORED, Example, rationale_rows
from attcot_analysis.train.objective import (
    AttCoTConfig,
    commitment_loss,
    visual_access_loss,
)


class AttCoTMixin:
    """Adds λ_vis · L_vis + λ_commit · L_commit to a Trainer's loss.

    Mix it in before the trainer, ``class AttCoTTrainer(AttCoTMixin, Trainer)``, and use
    `attcot_analysis.train.data.RationaleCollator`. With both weights 0 the trainer's own loss is
    returned untouched.
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
        self._seen: dict[str, list[float]] = {}
        super().__init__(*args, **kwargs)
        self._preflight()

    def _preflight(self) -> None:
        args: Any = self.args  # type: ignore[attr-defined]
        if args.remove_unused_columns:
            raise TrainingError(
                "remove_unused_columns is on and would drop the examples that Att-CoT needs; "
                "set remove_unused_columns=False in the training arguments."
            )
        options = args.gradient_checkpointing_kwargs or {}
        if args.gradient_checkpointing and options.get("use_reentrant", False):
            raise TrainingError(
                "Reentrant gradient checkpointing loses the auxiliary gradient without a word; "
                "set gradient_checkpointing_kwargs={'use_reentrant': False}."
            )
        self.attcot.layers(self.mllm.n_layers)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, with the probe's attention in place if L_vis needs it."""
        if self.attcot.lambda_vis == 0:
            return super().train(*args, **kwargs)  # type: ignore[misc]
        with attached(self.mllm.model):
            return super().train(*args, **kwargs)  # type: ignore[misc]

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
        inputs = dict(inputs)
        examples: list[Example] | None = inputs.pop("attcot", None)
        own: Any = super()
        if not self.attcot.active or examples is None:
            result = own.compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
            self._check_finite(result[0] if return_outputs else result)
            return result

        probe, groups, packed = None, None, None
        steps = [self.attcot.early_steps(len(e.encoded.layout.steps)) for e in examples]
        if self.attcot.lambda_commit > 0:
            packed = pack(
                self.mllm,
                [example.encoded for example in examples],
                [example.candidates for example in examples],
                steps=steps,
                names=[example.name for example in examples],
            )
            labels = inputs["labels"]
            added = packed.inputs["input_ids"].shape[1] - labels.shape[1]
            inputs = {
                **packed.inputs,
                "labels": torch.nn.functional.pad(labels, (0, added), value=IGNORED),
            }
        if self.attcot.lambda_vis > 0:
            evidence = self.attcot.vis_region == "evidence"
            rows, groups, cols = rationale_rows(examples, evidence=evidence)
            device = inputs["input_ids"].device
            missing = inputs["input_ids"].shape[1] - cols.shape[1]
            cols = torch.nn.functional.pad(cols, (0, 0, 0, missing))
            groups = groups.to(device)
            probe = Probe(self.attcot.layers(self.mllm.n_layers))
            inputs |= {
                "attcot_probe": probe,
                "attcot_rows": rows.to(device),
                "attcot_cols": cols.to(device),
            }

        loss, outputs = own.compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        self._check_finite(loss)
        # Where the trainer hands over the token count it does not divide by the accumulation
        # steps itself, so the auxiliary terms must.
        divisor = 1
        if num_items_in_batch is not None and self.mllm.model.training:
            divisor = getattr(self, "current_gradient_accumulation_steps", 1)
        auxiliary = loss.new_zeros((), dtype=torch.float32)
        if probe is not None and groups is not None:
            term = self._visual_access(probe, groups, inputs["attcot_rows"])
            auxiliary = auxiliary + self.attcot.lambda_vis * term
        if packed is not None:
            term = self._commitment(packed.log_probs(outputs.logits), steps, examples)
            auxiliary = auxiliary + self.attcot.lambda_commit * term
        loss = loss + self.attcot.ramp(self._progress()) * auxiliary / divisor
        self._check_finite(loss)
        return (loss, outputs) if return_outputs else loss

    def _visual_access(self, probe: Probe, groups: Tensor, rows: Tensor) -> Tensor:
        training = self.mllm.model.training
        masses = probe.masses(differentiable=training)
        picked = [
            mass.gather(3, groups[:, None, :, None].expand(*mass.shape[:3], 1)).squeeze(3)
            for mass in masses.values()
        ]
        counted = rows >= 0
        loss = visual_access_loss(picked, counted, self.attcot)
        mass = torch.stack([layer.detach().float().mean(1) for layer in picked]).mean(0)
        self._note("visual_mass", mass[counted].mean())
        self._note("loss_vis", loss)
        return loss

    def _commitment(
        self, log_probs: list[Tensor], steps: list[tuple[int, ...]], examples: list[Example]
    ) -> Tensor:
        loss = commitment_loss(
            log_probs,
            steps,
            [len(example.encoded.layout.steps) for example in examples],
            [example.answer for example in examples],
            self.attcot,
        )
        if self.mllm.model.training and not loss.requires_grad:
            raise TrainingError(
                "The commitment term has no gradient; train with gradients enabled and without "
                "reentrant gradient checkpointing."
            )
        early = torch.stack([scores.detach()[0].softmax(-1).max() for scores in log_probs])
        self._note("early_confidence", early.mean())
        self._note("loss_commit", loss)
        return loss

    def _progress(self) -> float:
        state: Any = self.state  # type: ignore[attr-defined]
        return (state.global_step + 1) / max(state.max_steps, 1)

    def _check_finite(self, loss: Tensor) -> None:
        if not bool(torch.isfinite(loss.detach()).all()):
            step = self.state.global_step + 1  # type: ignore[attr-defined]
            raise TrainingError(
                f"The loss is {float(loss.detach().float().mean())} at step {step}; lower the "
                "learning rate or train in bf16/fp32, and resume from the last checkpoint."
            )

    def _note(self, name: str, value: Tensor) -> None:
        self._seen.setdefault(name, []).append(float(value.detach()))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the auxiliary terms' means since the last log beside the trainer's own values."""
        means = {name: sum(values) / len(values) for name, values in self._seen.items()}
        self._seen.clear()
        super().log({**logs, **means}, *args, **kwargs)  # type: ignore[misc]


class AttCoTTrainer(AttCoTMixin, Trainer):
    """`transformers.Trainer` with the Att-CoT terms."""
