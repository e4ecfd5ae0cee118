"""The Att-CoT terms as one would write them without probe and branches, for bench `training`.

Eager attention hands out all weights of all layers, and every forced answer takes a forward and a
backward pass of its own. Gradients add up in the weights as in a step of a trainer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attcot_analysis.models import Mllm, collate
from attcot_analysis.train.commitment_term import commitment_loss
from attcot_analysis.train.data import IGNORED, Example, forced_candidates, probe_rows
from attcot_analysis.train.objective import AttCoTConfig, visual_access_loss, visual_mass
from benchmarks.commitment import continued, last_log_p


def eager_step(mllm: Mllm, batch: Mapping[str, Any], config: AttCoTConfig) -> float:
    """Forward and backward passes of L_CE, L_vis on the whole image and L_commit.

    Args:
        mllm: The model, in training mode; it is put back to SDPA.
        batch: From `collate_examples`, on the model's device.
        config: The objective, both weights above 0; no warm-up is applied.

    Returns:
        The loss.
    """
    inputs = {key: value for key, value in batch.items() if key not in ("attcot", "labels")}
    examples: list[Example] = batch["attcot"]
    mllm.model.set_attn_implementation({"text_config": "eager"})
    try:
        output = mllm.model(**inputs, use_cache=False, output_attentions=True)
        labels = batch["labels"][:, 1:]
        loss = F.cross_entropy(
            output.logits[:, :-1].float().transpose(1, 2), labels, ignore_index=IGNORED
        )
        access = _visual_access(mllm, output.attentions, examples, config)
        loss = loss + config.lambda_vis * access
        loss.backward()
        del output
        return float(loss.detach()) + config.lambda_commit * _commitment(mllm, examples, config)
    finally:
        mllm.model.set_attn_implementation({"text_config": "sdpa"})


def _visual_access(
    mllm: Mllm, weights: Sequence[Tensor], examples: Sequence[Example], config: AttCoTConfig
) -> Tensor:
    rows, _, cols = probe_rows(examples)
    rows, image = rows.to(mllm.device), cols[:, None, None, :, 0].to(mllm.device)
    masses = {}
    for layer in config.layers(mllm.n_layers):
        own = weights[layer]
        places = rows.clamp(min=0)[:, None, :, None]
        chosen = own.gather(2, places.expand(-1, own.shape[1], -1, own.shape[3]))
        masses[layer] = (chosen * image).sum(-1)
    return visual_access_loss(visual_mass(masses, config), rows >= 0, config)


def _commitment(mllm: Mllm, examples: Sequence[Example], config: AttCoTConfig) -> float:
    """One forward and backward pass per k, so that only one graph is held at a time."""
    steps = [config.early_steps(len(example.encoded.layout.steps)) for example in examples]
    first: list[Tensor] = []
    total = 0.0
    for k in range(max(map(len, steps))):
        mine = [at for at, own in enumerate(steps) if k < len(own)]
        scores = _forced(mllm, [examples[at] for at in mine], k)
        if k == 0:
            first = list(scores.detach())
        parts = [
            _excess(examples[at], first[at], own, k, config) / len(steps[at])
            for at, own in zip(mine, scores, strict=True)
        ]
        loss = torch.stack(parts).sum() / len(examples)
        (config.lambda_commit * loss).backward()
        total += float(loss.detach())
    return total


def _excess(example: Example, first: Tensor, own: Tensor, k: int, config: AttCoTConfig) -> Tensor:
    """What an item's forced answer after step k adds; margins may start from that at k = 0."""

    def mean(scores: list[Tensor], ks: tuple[int, ...]) -> Tensor:
        n_steps = len(example.encoded.layout.steps)
        return commitment_loss([torch.stack(scores)], [ks], [n_steps], [example.answer], config)

    if k == 0:
        return mean([own], (0,))
    return 2 * mean([first, own], (0, k)) - mean([first], (0,))


def _forced(mllm: Mllm, examples: Sequence[Example], k: int) -> Tensor:
    """Log-probabilities ``(B, n_candidates)``, each candidate's text behind the first k steps."""
    texts, n_read = [], []
    for example, own in zip(examples, forced_candidates(examples), strict=True):
        end = example.encoded.layout.step_ends[k]
        texts += [continued(example.encoded, end, [*own.shared, *tail]) for tail in own.tails]
        n_read += [len(tail) for tail in own.tails]
    logits = mllm.model(**collate(mllm, texts), use_cache=False).logits
    return last_log_p(logits, texts, n_read).view(len(examples), -1)
