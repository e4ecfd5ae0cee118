"""`HeldOut`: what held-out items say of a model while anybody's trainer trains it."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from transformers import Trainer, TrainerCallback

from attcot_analysis.errors import TrainingError
from attcot_analysis.measures._items import Response
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.compare import item_values
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem
from attcot_analysis.train.trainer import check_model, zero3

LOGGED = ("mass", "evidence_share", "commitment_area")
"""The metrics that are logged, as ``eval_mass`` and so on."""


class HeldOut(TrainerCallback):
    """Logs visual mass, evidence share and commitment area of a few items every so many steps.

    The means over the items of `visual_access` and `commitment` (on the item's own rationale), as
    the metrics ``mass``, ``evidence_share`` and ``commitment_area`` of the catalogue, under
    ``eval_mass`` and so on, to whatever the trainer reports to: before the first step and after
    every ``every`` steps. Evidence share needs boxes, commitment candidates: what no item has is
    not logged. Training goes on as without it, to the last bit.

    The responses stay the same, so that the values differ by the weights alone: they say how the
    model reads these rationales, not which ones it would write.
    """

    def __init__(
        self,
        trainer: Any,
        mllm: Mllm,
        problems: Sequence[Problem],
        *,
        responses: Sequence[Response] | None = None,
        every: int = 100,
        layers: Collection[int] | None = None,
        batch_size: int = 16,
    ) -> None:
        """Take what is measured; add it by ``trainer.add_callback(HeldOut(trainer, ...))``.

        Args:
            trainer: A `transformers.Trainer` or any subclass, such as TRL's.
            mllm: Its model as `transformers` knows it (not the PEFT wrapper) and the processor.
            problems: Items that are not trained on; a dozen take seconds on most models.
            responses: Text or token ids, one with a rationale per item; default the right ones
                that the problems hold.
            every: Steps of the optimizer between two logs.
            layers: Layers whose attention is read; default all.
            batch_size: Items per forward pass.

        Raises:
            TrainingError: If the trainer trains another model or shards its weights, ``every`` is
                below 1, or a problem has no steps while no responses are given.
        """
        check_model(trainer, mllm)
        if zero3(trainer) or getattr(trainer, "is_fsdp_enabled", False):
            raise TrainingError(
                "Weights that are sharded over processes (FSDP, ZeRO-3) cannot be measured between "
                "two steps; measure the checkpoints with attcot measure instead."
            )
        if every < 1:
            raise TrainingError(f"every is {every}; give at least 1 step.")
        bare = [problem.id for problem in problems if not problem.steps]
        if responses is None and (bare or not problems):
            raise TrainingError(
                f"{len(bare)} of {len(problems)} held-out problems have no rationale steps; give "
                "responses to measure, or problems with steps."
            )
        self.trainer, self.problems, self.every = trainer, problems, every
        # Nothing that was computed with other weights may be used again.
        self.mllm = replace(mllm, prefixes=None)
        self.responses = responses or [mllm.format.right_response(one) for one in problems]
        self.layers, self.batch_size = layers, batch_size

    def values(self) -> dict[str, float]:
        """Measure now: the means over the items that have a value, by what they are logged as."""
        given: Any = (self.mllm, self.problems, self.responses)
        options: Any = {"batch_size": self.batch_size, "empty": "skip"}
        tables: Any = {"access": visual_access(*given, layers=self.layers, **options)}
        if any(problem.candidates for problem in self.problems):
            tables["commitment"] = commitment(*given, controls=("rationale",), **options)
        values = item_values(model=self.mllm.name, seed=0, **tables)
        means = values.groupby("metric")["value"].mean().dropna()
        return {f"eval_{name}": float(means[name]) for name in LOGGED if name in means}

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Log the values of the model that training starts from."""
        self._log(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Log the values after every so many steps."""
        if state.global_step % self.every == 0:
            self._log(control)

    def _log(self, control: Any) -> None:
        due = control.should_log
        # Not the subclass's own, which would add what it has gathered for its next entry; and
        # logging counts as done, which it is not for what the trainer has to say.
        Trainer.log(self.trainer, self.values())
        control.should_log = due
