"""What VISTA trains with: its two trainers on TRL's, and responses as training examples."""

from collections.abc import Sequence
from typing import Any

import torch

from attcot_analysis.models import Mllm, encode_problem
from attcot_analysis.problems import Problem
from attcot_analysis.train.data import Example, RationaleDataset, step_weights
from attcot_analysis.train.trainer import AttCoTMixin

# isort: split
# After our models package, which makes torchvision importable.
from trl import DPOTrainer, SFTTrainer


class LengthNormalisedSFTTrainer(SFTTrainer):
    """TRL's `SFTTrainer` whose loss is the mean over items of each item's mean over its tokens.

    TRL's own is a mean over all tokens of a batch, in which long responses weigh more.

    Source: arXiv 2605.11931, −E[log M(r, ŷ | x) / (|r| + |ŷ|)].
    """

    # The parts of an accumulated batch have equally many items, so their means are averaged.
    loss_is_scaled_for_ga: Any = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch; `num_items_in_batch`, a number of tokens, is not needed."""
        outputs = model(**{**inputs, "use_cache": False}, fused_lm_head=True)
        lengths = outputs.label_mask.sum(1).clamp(min=1)
        loss = -(outputs.log_probs.sum(1) / lengths).mean()
        return (loss, outputs) if return_outputs else loss


class VistaSFTTrainer(AttCoTMixin, LengthNormalisedSFTTrainer):
    """Length-normalised likelihood, with the Att-CoT terms where they have weights."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Have parts averaged also by trainers that do not know `loss_is_scaled_for_ga`."""
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False


class VistaDPOTrainer(AttCoTMixin, DPOTrainer):
    """TRL's `DPOTrainer`, stopped by a loss that is not finite, and resumed with its weights."""


class ResponseDataset(RationaleDataset):
    """Responses that a model wrote as examples, token for token.

    Args:
        mllm: The model to train.
        problems: What each response answers.
        responses: Token ids, without end token.
        finished: Whether the end token belongs behind them.
    """

    def __init__(
        self,
        mllm: Mllm,
        problems: Sequence[Problem],
        responses: Sequence[Sequence[int]],
        finished: Sequence[bool],
    ) -> None:
        """Take them; they are encoded when asked for."""
        super().__init__(mllm, problems, mode="direct")
        self._responses, self._finished = responses, finished

    def _encode(self, index: int) -> Example:
        problem = self._problems[index]
        encoded = encode_problem(
            self._mllm, problem, response=self._responses[index], end=self._finished[index]
        )
        candidates, answer = self._candidates(problem)
        boxes = [problem.step_boxes(number) for number in range(1, encoded.layout.n_steps + 1)]
        return Example(
            name=problem.id,
            encoded=encoded,
            candidates=candidates,
            answer=answer,
            evidence=step_weights(encoded, boxes),
        )
