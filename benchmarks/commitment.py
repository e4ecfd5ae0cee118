"""Bench `commitment`: all forced answers of an item in one pass, against one pass each.

The naive loop is what one would write without branches: for every k from 0 to K it gives the
model the picture, the prompt, the rationale up to step k and every candidate behind the answer
cue, as one batch.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attcot_analysis.attention.candidates import CandidateTokens, candidate_tokens
from attcot_analysis.attention.packing import forced_answers
from attcot_analysis.models import Encoded, Mllm, collate, encode, evaluating, load_mllm
from attcot_analysis.problems import render_response
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from benchmarks.bench import (
    QWEN_0_5B,
    SMALL,
    Row,
    Scale,
    interleaved,
    judged,
    own_clock,
    random_mllm,
    ratio,
)

CANDIDATES = ("red", "green", "blue", "yellow")
SENTENCE = "The star is in cell a1 and its arrow points right."


FULL = Scale(
    steps=16,  # K
    step_tokens=20,  # about how many each step has; number and line end add four
    side=256,  # of the picture, in pixels; the testbed's processor makes a token of 16 x 16
    layers=4,  # of the model as wide as a real one
    repeats=9,  # timed rounds
)
QUICK = Scale(steps=3, step_tokens=12, side=64, layers=2, repeats=2)


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure on the testbed model and on a wide one with random weights.

    Returns:
        The speed-up and the largest difference of log p, with bars at full scale, per model.
    """
    scale = QUICK if quick else FULL
    shape = replace(SMALL if quick else QWEN_0_5B, layers=scale.layers)
    tiny = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32, device=device)
    wide = random_mllm(shape, device=device)
    rows = _rows("testbed model", tiny, scale, device, progress)
    return rows + _rows(
        f"{shape.hidden} wide, {shape.layers} layers", wide, scale, device, progress
    )


def example(mllm: Mllm, scale: Scale) -> Encoded:
    """An item with a picture of noise and a rationale of equal steps."""
    pixels = np.random.default_rng(0).integers(0, 256, (scale.side, scale.side, 3), dtype=np.uint8)
    words = [*SENTENCE.split()]
    per_sentence = len(mllm.tokenizer(SENTENCE, add_special_tokens=False)["input_ids"])
    n_words = max(1, round(len(words) * scale.step_tokens / per_sentence))
    step = " ".join(words[at % len(words)] for at in range(n_words))
    response = render_response([step] * scale.steps, CANDIDATES[0])
    return encode(mllm, Image.fromarray(pixels), "What color?", response=response)


def naive_answers(mllm: Mllm, item: Encoded, candidates: CandidateTokens) -> Tensor:
    """Log-probabilities ``(K + 1, n_candidates)``, one forward pass of all candidates per k."""
    scores = []
    for end in item.layout.step_ends:
        texts = [continued(item, end, [*candidates.shared, *tail]) for tail in candidates.tails]
        n_read = [len(tail) for tail in candidates.tails]
        with torch.no_grad(), evaluating(mllm.model):
            output = mllm.model(
                **collate(mllm, texts), use_cache=False, logits_to_keep=max(n_read) + 1
            )
        scores.append(last_log_p(output.logits, texts, n_read).cpu())
    return torch.stack(scores)


def continued(item: Encoded, end: int, more: Sequence[int]) -> Encoded:
    """An item up to a token, with others behind it."""
    ids = torch.cat([item.input_ids[:end], torch.tensor(more)])
    types = item.token_types
    if types is not None:
        types = torch.nn.functional.pad(types[:end], (0, len(more)))
    return replace(item, input_ids=ids, token_types=types)


def last_log_p(logits: Tensor, items: Sequence[Encoded], n_read: Sequence[int]) -> Tensor:
    """Log-probability of each item's last tokens, ``(B,)``.

    Args:
        logits: Of the right-padded batch; of its last positions, as far as they are read.
        items: The batch.
        n_read: How many tokens of each.
    """
    scores = []
    left_out = max(len(item.input_ids) for item in items) - logits.shape[1]
    for at, (item, n) in enumerate(zip(items, n_read, strict=True)):
        stop = len(item.input_ids) - left_out
        read = logits[at, stop - n - 1 : stop - 1].float().log_softmax(-1)
        scores.append(read.gather(1, item.input_ids[-n:, None].to(read.device)).sum())
    return torch.stack(scores)


def _rows(name: str, mllm: Mllm, scale: Scale, device: str, progress: bool) -> list[Row]:
    item, candidates = example(mllm, scale), candidate_tokens(mllm, CANDIDATES)
    seconds = interleaved(
        {
            "packed": lambda: forced_answers(mllm, [item], [candidates]),
            "naive": lambda: naive_answers(mllm, item, candidates),
        },
        scale.repeats,
        device=device,
        progress=progress,
        name=f"commitment, {name}",
        clock=own_clock(device),
    )
    (packed,) = forced_answers(mllm, [item], [candidates])
    worst = float((packed - naive_answers(mllm, item, candidates)).abs().max())
    what = f"{name}, K={scale.steps}"
    steps = [step.size for step in item.layout.steps]
    return [
        judged(
            f"time, naive / packed, {what}",
            ratio(seconds, "naive", "packed"),
            "x",
            at_least=10,
        ),
        judged(
            f"largest difference of log p, {what}",
            worst,
            "nat",
            at_most=1e-4,
        ),
        Row(f"time, packed, {what}", float(np.median(seconds["packed"])), "s"),
        Row(f"time, naive, {what}", float(np.median(seconds["naive"])), "s"),
        Row(f"tokens, {what}", float(item.layout.n_tokens), "tokens"),
        Row(f"image tokens, {what}", float(len(item.layout.image)), "tokens"),
        Row(f"tokens per step, {what}", float(np.mean(steps)), "tokens"),
    ]
