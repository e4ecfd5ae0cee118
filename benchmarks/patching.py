"""Bench `patching`: a sweep over layers, groups of tokens and steps, against plain hooks.

And what decoding answers from hidden states adds to the pass that it reads. Times are of the
processor, not of the clock on the wall, where the machine is a CPU.

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
from attcot_analysis.measures.states import hidden_commitment
from attcot_analysis.models import Encoded, Mllm, collate, encode_problem, evaluating
from attcot_analysis.models.load import text_stack
from attcot_analysis.problems import Edit, Problem, Step, render_response
from attcot_analysis.stats.decoding import decoded, fold_numbers
from benchmarks.bench import (
    QWEN_0_5B,
    SMALL,
    Row,
    Scale,
    interleaved,
    judged,
    own_clock,
    peak_memory,
    random_mllm,
    ratio,
    timed,
)
from benchmarks.commitment import continued, last_log_p

Hook = Callable[[int, Tensor], Tensor]

ANSWERS = ("red", "green")
SENTENCE = "The star is in cell a1 and its arrow points right."
GROUPS: tuple[Group, ...] = ("evidence", "image_rest", "question", "rationale")

MIB = 2**20

SHAPES = {"0.5B": QWEN_0_5B, "small": SMALL}

FULL = Scale(
    shape="0.5B",
    steps=2,  # K, so three forced answers
    side=480,  # of the picture, in pixels: 900 image tokens, 1,000 or so in all
    layers=28,  # of the model as wide as a real one
    repeats=1,  # timed rounds
    items=8,  # to decode from
    decoded=(500, 28, 3),  # items, layers and steps of a decoder by itself
)
QUICK = Scale(shape="small", steps=2, side=64, layers=2, repeats=1, items=10, decoded=(10, 1, 1))


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure one item's sweep, and decoding of several, on a wide model with random weights.

    Returns:
        Ratios of times and of memory and the largest difference of log-odds, with bars at full
        scale.
    """
    scale = QUICK if quick else FULL
    shape = replace(SHAPES[scale.shape], layers=scale.layers)
    mllm, item = random_mllm(shape, device=device), example(scale.side, scale.steps)
    response = render_response([SENTENCE] * scale.steps, ANSWERS[0])
    clock = own_clock(device)

    # Equality first, on a small picture: it warms up what is timed.
    small = example(min(scale.side, 128), scale.steps)
    differences = packed_sweep(mllm, small, response) - plain_sweep(
        mllm, small, response, whole=True
    )
    sweep = interleaved(
        {
            "packed": lambda: packed_sweep(mllm, item, response),
            "naive": lambda: plain_sweep(mllm, item, response, whole=False),
        },
        scale.repeats,
        device=device,
        warm_up=False,
        progress=progress,
        name=f"patching, {shape.hidden} wide, {shape.layers} layers",
        clock=clock,
    )
    items = [
        replace(example(scale.side, scale.steps, at), id=f"item {at}") for at in range(scale.items)
    ]
    texts = [render_response([SENTENCE] * scale.steps, ANSWERS[at % 2]) for at in range(len(items))]
    reading = interleaved(
        {
            "decoded": lambda: hidden_commitment(
                mllm, items, texts, controls=("shuffled",), forced=False, folds=2, batch_size=4
            ),
            "plain": lambda: plain_passes(mllm, items, texts, 4),
        },
        scale.repeats,
        device=device,
        progress=progress,
        name="decoding",
        clock=clock,
    )
    peaks = {
        variant: peak_memory(
            __name__,
            "prepare",
            {
                "variant": variant,
                "shape": scale.shape,
                "layers": scale.layers,
                "side": scale.side,
                "steps": scale.steps,
            },
        )
        for variant in ("sweep", "plain")
    }
    tokens = encode_problem(mllm, item, response=response).layout.n_tokens
    what = f"{shape.layers} layers x {len(GROUPS)} groups x {scale.steps + 1} steps"
    n, n_layers, n_steps = scale.decoded
    return [
        judged(f"time, packed / naive, {what}", ratio(sweep, "packed", "naive"), "x", at_most=0.5),
        judged(
            "largest difference of log-odds",
            float(differences.abs().max()),
            "nat",
            at_most=1e-5,
        ),
        judged(
            f"peak memory, sweep / plain pass, {scale.layers} layers",
            peaks["sweep"].peak / peaks["plain"].peak,
            "x",
            at_most=1.2,
        ),
        judged(
            f"time, decoding / plain pass, {scale.items} items",
            ratio(reading, "decoded", "plain"),
            "x",
            at_most=1.15,
        ),
        *(
            Row(f"time, {name}", float(np.median(one)), "s")
            for name, one in (sweep | reading).items()
        ),
        *(Row(f"peak memory, {name}", one.peak / MIB, "MiB") for name, one in peaks.items()),
        Row(
            f"time, decoder alone, {n} items, {n_layers} layers, {n_steps} steps",
            n_layers * n_steps * timed(lambda: decoder(n, shape.hidden), clock=clock),
            "s",
        ),
        Row("tokens", float(tokens), "tokens"),
    ]


def packed_sweep(mllm: Mllm, item: Problem, response: str) -> Tensor:
    """What `patching` recovers, in the order of `plain_sweep`."""
    table = patching(mllm, [item], [response], groups=GROUPS, control=None).table
    table = table.assign(order=table["group"].map(list(GROUPS).index))
    return torch.tensor(table.sort_values(["first_layer", "order", "k"])["recovered"].to_numpy())


def plain_passes(mllm: Mllm, items: Sequence[Problem], texts: Sequence[str], size: int) -> None:
    """A forward pass over every item and its response, no more."""
    for start in range(0, len(items), size):
        some = [
            encode_problem(mllm, one, response=text)
            for one, text in zip(items[start : start + size], texts[start:], strict=False)
        ]
        with torch.no_grad(), evaluating(mllm.model):
            mllm.model(**collate(mllm, some), logits_to_keep=1, use_cache=False)


def decoder(n: int, width: int) -> object:
    """Read labels off one layer's states of n items, and of ten shuffles, as is measured."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % len(ANSWERS)
    drawn = np.stack([labels, *(rng.permutation(labels) for _ in range(10))])
    states = rng.standard_normal((n, width))
    return decoded(states, drawn, fold_numbers(labels, 5, 0), len(ANSWERS))


def prepare(variant: str, shape: str, layers: int, side: int, steps: int) -> Callable[[], object]:
    """Build a model of so many layers; what is returned sweeps them, or passes once."""
    mllm, item = random_mllm(replace(SHAPES[shape], layers=layers)), example(side, steps)
    response = render_response([SENTENCE] * steps, ANSWERS[0])
    # Threads and kernels take their own memory on first use, the same for both.
    plain_passes(mllm, [example(64, steps)], [response], 1)
    if variant == "plain":
        return lambda: plain_passes(mllm, [item], [response], 1)
    return lambda: patching(mllm, [item], [response], groups=("all",), control=None)


def example(side: int, n_steps: int, seed: int = 0) -> Problem:
    """An item with a picture of noise, and a twin with other noise in a corner."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    other, half = pixels.copy(), side // 2
    other[:half, :half] = rng.integers(0, 256, (half, half, 3), dtype=np.uint8)
    steps = (Step(SENTENCE),) * n_steps
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
