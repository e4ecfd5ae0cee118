"""Bench `patching`: a sweep over layers, groups of tokens and steps, against plain hooks.

The naive sweep is what one would write without packed answers and resumed passes: one whole
forward pass, picture included, per layer, group and step, with a hook that puts in the twin's
states.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attcot_analysis.attention.candidates import candidate_tokens
from attcot_analysis.measures.patched import Group
from attcot_analysis.measures.patches import patching
from attcot_analysis.models import Encoded, Mllm, collate, encode_problem, evaluating
from attcot_analysis.models.load import text_stack
from attcot_analysis.problems import Edit, Problem, Step, render_response
from benchmarks.bench import (
    QWEN_0_5B,
    SMALL,
    Row,
    Scale,
    interleaved,
    judged,
    random_mllm,
    ratio,
)
from benchmarks.commitment import continued, last_log_p

Hook = Callable[[int, Tensor], Tensor]

ANSWERS = ("red", "green")
SENTENCE = "The star is in cell a1 and its arrow points right."
GROUPS: tuple[Group, ...] = ("evidence", "image_rest", "question", "rationale")

FULL = Scale(
    steps=2,  # K, so three forced answers
    side=448,  # of the picture, in pixels: 784 image tokens
    layers=4,  # of the model as wide as a real one
    repeats=2,  # timed rounds
)
QUICK = Scale(steps=2, side=64, layers=2, repeats=1)


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure one item's sweep on a wide model with random weights.

    Returns:
        The ratio of times and the largest difference of log-odds, with bars at full scale.
    """
    scale = QUICK if quick else FULL
    shape = replace(SMALL if quick else QWEN_0_5B, layers=scale.layers)
    mllm, item = random_mllm(shape, device=device), example(scale)
    response = render_response([SENTENCE] * scale.steps, ANSWERS[0])

    def packed() -> Tensor:
        table = patching(mllm, [item], [response], groups=GROUPS, control=None).table
        order = {group: at for at, group in enumerate(GROUPS)}
        table = table.assign(order=table["group"].map(order))
        found = table.sort_values(["first_layer", "order", "k"])["recovered"]
        return torch.tensor(found.to_numpy())

    def naive() -> Tensor:
        return plain_sweep(mllm, item, response, whole=False)

    name = f"patching, {shape.hidden} wide, {shape.layers} layers"
    seconds = interleaved(
        {"packed": packed, "naive": naive},
        scale.repeats,
        device=device,
        progress=progress,
        name=name,
    )
    worst = float((packed() - plain_sweep(mllm, item, response, whole=True)).abs().max())
    tokens = encode_problem(mllm, item, response=response).layout.n_tokens
    what = f"{shape.layers} layers x {len(GROUPS)} groups x {scale.steps + 1} steps"
    return [
        judged(
            f"time, packed / naive, {what}", ratio(seconds, "packed", "naive"), "x", at_most=0.5
        ),
        judged("largest difference of log-odds", worst, "nat", at_most=1e-4),
        Row("time, packed", float(np.median(seconds["packed"])), "s"),
        Row("time, naive", float(np.median(seconds["naive"])), "s"),
        Row("tokens", float(tokens), "tokens"),
    ]


def example(scale: Scale) -> Problem:
    """An item with a picture of noise, and a twin with other noise in a corner."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (scale.side, scale.side, 3), dtype=np.uint8)
    other, half = pixels.copy(), scale.side // 2
    other[:half, :half] = rng.integers(0, 256, (half, half, 3), dtype=np.uint8)
    steps = (Step(SENTENCE),) * scale.steps
    box = ((0.0, 0.0, float(half), float(half)),)
    twin = Edit("twin", Image.fromarray(other), ANSWERS[1], steps, box)
    image = Image.fromarray(pixels)
    return Problem("item", image, "What color?", ANSWERS, ANSWERS[0], steps, twin=twin)


def plain_sweep(mllm: Mllm, item: Problem, response: str, *, whole: bool) -> Tensor:
    """Recovered log-odds, layer by layer, group by group, step by step, ``(L * G * (K + 1),)``.

    Args:
        mllm: The model.
        item: With a twin.
        response: With K steps.
        whole: Read the candidates' whole texts, in a batch of both; else the odds of their first
            tokens, which one sequence tells.
    """
    assert item.twin is not None
    own, twin = (
        encode_problem(mllm, item, response=response, image=image)
        for image in (item.image, item.twin.image)
    )
    tokens, ends = candidate_tokens(mllm, ANSWERS), own.layout.step_ends
    tails = tokens.tails if whole else ((),)
    on = own.layout.grids[0].coverage(item.twin.boxes) > 0
    image = own.layout.image
    rationale = np.arange(own.prompt_length, ends[-1])
    groups = (image[on], image[~on], own.layout.question, rationale)

    def odds(batch: dict[str, Tensor], texts: Sequence[Encoded], hook: Hook | None) -> float:
        stack = text_stack(mllm)
        hooks: list[Any] = []
        for at, block in enumerate(stack.layers if hook is not None else ()):
            hooks.append(block.register_forward_hook(_calling(hook, at)))
        with torch.no_grad(), evaluating(mllm.model):
            kept = max(map(len, tails)) + 1
            logits = mllm.model(**batch, use_cache=False, logits_to_keep=kept).logits
        for one in hooks:
            one.remove()
        if whole:
            log_p = last_log_p(logits, texts, [len(tail) for tail in tails])
            return float(log_p[1] - log_p[0])
        first, second = (tail[0] for tail in tokens.tails)
        return float(logits[0, -1, second] - logits[0, -1, first])

    found = []
    for k, end in enumerate(ends):
        texts, others = (
            [continued(one, end, [*tokens.shared, *tail]) for tail in tails] for one in (own, twin)
        )
        batch, states = collate(mllm, texts), dict[int, Tensor]()
        odds(collate(mllm, others), others, states.setdefault)
        before = odds(batch, texts, None)
        for layer in range(mllm.n_layers):
            for number, group in enumerate(groups):
                rows = torch.from_numpy(group[group < end])

                hook = _patched(layer, rows, states[layer])
                found.append((layer, number, k, odds(batch, texts, hook) - before))
    return torch.tensor([value for *_, value in sorted(found)], dtype=torch.float64)


def _calling(hook: Hook | None, at: int) -> Callable[..., Tensor]:
    """A module's forward hook."""
    return lambda _module, _given, out: out if hook is None else hook(at, out)


def _patched(layer: int, rows: Tensor, states: Tensor) -> Hook:
    def hook(at: int, out: Tensor) -> Tensor:
        if at != layer:
            return out
        out = out.clone()
        out[:, rows] = states[:, rows]
        return out

    return hook
