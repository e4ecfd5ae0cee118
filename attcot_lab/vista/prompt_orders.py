"""Lessons in both orders of the prompt, for models that have only seen the picture first.

Prefix resampling (VISTA) asks what a model would say if the picture stood behind the question. A
model that has never read such a prompt has no opinion there, and what is found critical is noise.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm, Mode, encode_prompt
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.train.data import Example, RationaleDataset
from attcot_analysis.train.finetune import FinetuneConfig, finetune
from attcot_lab.vista.prefix import reordered_prompt


class BothOrders(RationaleDataset):
    """Every problem twice: as usual, and behind a prompt with the picture last.

    Raises:
        TrainingError: As `RationaleDataset`, or if answers are to be direct.
    """

    def __init__(self, mllm: Mllm, problems: Sequence[Problem], *, mode: Mode = "cot") -> None:
        """The first half of the examples is as usual, the second reordered."""
        if mode != "cot":
            raise TrainingError(
                "Both orders of the prompt are learned on rationales; leave out mode='direct'."
            )
        super().__init__(mllm, [*problems, *problems], mode=mode)
        self._usual = len(problems)

    def _encode(self, index: int) -> Example:
        example = super()._encode(index)
        if index < self._usual:
            return example
        problem = self._problems[index]
        encoded = encode_prompt(
            self._mllm,
            reordered_prompt(self._mllm, problem.question),
            [problem.image],
            response=render_response(problem.steps, problem.answer),
            end=True,
        )
        return replace(example, encoded=encoded)


def learn_both_orders(
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: FinetuneConfig | None = None,
    **options: Any,
) -> Path:
    """Fine-tune `base` on rationales behind both orders of the prompt; see `finetune`.

    Args:
        base: Local folder or hub id.
        problems: Items with rationale steps; each is learned in both orders.
        folder: Where to save; must not exist.
        config: The run.
        options: As `finetune` takes them, ``save_every`` and ``progress`` among them.

    Returns:
        `folder`, a checkpoint that `load_mllm` reads.

    Raises:
        TrainingError: As `finetune`, or if the prompt cannot be reordered.
    """
    return finetune(base, problems, folder, config, dataset=BothOrders, **options)
