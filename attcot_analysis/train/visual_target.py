"""The target of L_vis, taken from the model that is to be trained."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.packing import forced_answers
from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm, evaluating
from attcot_analysis.problems import Problem
from attcot_analysis.train.data import RationaleDataset, collate_examples, forced_candidates
from attcot_analysis.train.objective import AttCoTConfig
from attcot_analysis.train.terms import AttCoTTerms


@torch.no_grad()
def visual_target(
    mllm: Mllm,
    problems: Sequence[Problem],
    config: AttCoTConfig | None = None,
    *,
    quantile: float = 0.75,
    batch_size: int = 16,
) -> float:
    """A quantile of the visual mass of items that a model answers right, for ``vis_target``.

    How much a model looks differs by an order of magnitude between models, so that one target
    for all is out of reach for some and no target for others. The items' own rationales are
    given, and an item is answered right if its forced answer behind them is. Reconstruction: the
    quantile, and that the untrained model is asked.

    Args:
        mllm: The model before fine-tuning.
        problems: Items with rationale steps; some dozens will do.
        config: Which layers, heads, rows and region; default ``AttCoTConfig()``.
        quantile: Of the items' mean masses, 0 to 1.
        batch_size: Items per forward pass.

    Raises:
        TrainingError: If no item is answered right, or none has rows that count.
    """
    terms = AttCoTTerms(mllm, replace(config or AttCoTConfig(), lambda_vis=1.0, lambda_commit=0.0))
    data = RationaleDataset(mllm, problems)
    found: list[float] = []
    with evaluating(mllm.model), attached(mllm.model):
        for start in range(0, len(data), batch_size):
            examples = [data[at] for at in range(start, min(start + batch_size, len(data)))]
            collated = collate_examples(mllm, examples)
            inputs = {
                key: value.to(mllm.device)
                for key, value in collated.items()
                if isinstance(value, Tensor) and key != "labels"
            }
            answers = forced_answers(
                mllm,
                [one.encoded for one in examples],
                forced_candidates(examples),
                steps=[[len(one.encoded.layout.steps)] for one in examples],
            )
            batch = terms.prepare(inputs, examples)
            if batch.probe is None:
                continue
            with terms.running(batch):
                mllm.model(**batch.inputs, use_cache=False, logits_to_keep=1)
            mass, counted = terms.row_masses(batch)
            means = (mass * counted).sum(1) / counted.sum(1)
            found += [
                float(mean)
                for mean, rows, scores, one in zip(means, counted, answers, examples, strict=True)
                if rows.any() and int(scores[-1].argmax()) == one.answer
            ]
    if not found:
        raise TrainingError(
            f"Of {len(problems)} items none with rows that count is answered right, so that there "
            "is no mass to take a target from; give more or easier items."
        )
    return float(np.quantile(found, quantile))
