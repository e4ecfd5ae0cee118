"""Lessons in both orders of the prompt, for models that have only seen the picture first.

Prefix resampling (VISTA) asks what a model would say if the picture stood behind the question. A
model that has never read such a prompt has no opinion there, and what is found critical is noise.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm, encode_prompt, load_mllm
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.train.data import Example, RationaleDataset
from attcot_analysis.train.finetune import FinetuneConfig, make_trainer
from attcot_analysis.train.prefix_resampling import reordered_prompt

# isort: split
# After our models package, which makes torchvision importable.
from transformers import set_seed


class BothOrders(RationaleDataset):
    """Every problem twice: as usual, and behind a prompt with the picture last."""

    def __init__(self, mllm: Mllm, problems: Sequence[Problem]) -> None:
        """The first half of the examples is as usual, the second reordered."""
        super().__init__(mllm, [*problems, *problems])
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
    *,
    progress: bool = False,
) -> Path:
    """Fine-tune `base` on rationales behind both orders of the prompt.

    Args:
        base: Local folder or hub id.
        problems: Items with rationale steps; each is learned in both orders.
        folder: Where to save; must not exist.
        config: The run: plain CoT-SFT, without the Att-CoT terms.
        progress: Show a progress bar.

    Returns:
        `folder`, a checkpoint that `load_mllm` reads.

    Raises:
        TrainingError: If the folder exists, the prompt cannot be reordered, or the objective is
            active or answers are direct.
    """
    config, folder = config or FinetuneConfig(), Path(folder)
    if config.attcot.active or config.mode != "cot":
        raise TrainingError(
            "Both orders of the prompt are learned by cross-entropy on rationales; leave out "
            "attcot and mode='direct'."
        )
    if folder.exists():
        raise TrainingError(f"{folder} exists; name a new folder.")
    set_seed(config.seed)
    mllm = load_mllm(base, dtype=torch.float32)
    trainer = make_trainer(mllm, problems, config, folder, progress=progress, report_to=[])
    trainer.train_dataset = BothOrders(mllm, problems)
    trainer.train()
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return folder
