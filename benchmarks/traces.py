"""Bench `traces`: memory of `commitment` on a long rationale, with some and with all steps probed.

Plain is one forward pass of the same prompt, picture and response, which keeps the logits of one
row. Each variant runs in a process of its own; see `peak_memory`.
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from attcot_analysis.measures.commitment import commitment
from attcot_analysis.models import Mllm, collate, encode_problem, evaluating
from attcot_analysis.problems import Problem, render_response
from benchmarks.bench import SMALL, Peak, Row, Scale, judged, peak_memory, random_mllm

CANDIDATES = ("red", "green", "blue", "yellow")
SENTENCE = "The star is in cell a1 and its arrow points right."
MIB = 2**20

FULL = Scale(
    steps=300,  # K
    tokens=20,  # of a step, with its number and line end
    probed=16,  # N, the most steps that are probed
)
QUICK = Scale(steps=12, tokens=20, probed=4)


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure on a small model with random weights; on the CPU whatever the device.

    Returns:
        The memory of the pass alone over that of a plain pass, with a bar for N steps.
    """
    scale = QUICK if quick else FULL

    def measured(variant: str) -> Peak:
        return peak_memory(__name__, "prepare", {"variant": variant, **vars(scale)})

    plain, some, every = (measured(variant) for variant in ("plain", "some", "every"))
    problem, response = trace(random_mllm(SMALL), scale.steps, scale.tokens)
    item = encode_problem(random_mllm(SMALL), problem, response=response)
    at = f"K={scale.steps}"
    names = {"plain": plain, f"N={scale.probed}": some, "all steps": every}
    return [
        judged(
            f"memory of the pass alone, commitment / plain, N={scale.probed}, {at}",
            some.added / plain.added,
            "x",
            at_most=1.3,
        ),
        Row(
            f"memory of the pass alone, commitment / plain, all steps, {at}",
            every.added / plain.added,
            "x",
        ),
        judged(
            f"peak memory, commitment / plain, N={scale.probed}, {at}",
            some.peak / plain.peak,
            "x",
            at_most=1.3,
        ),
        Row(f"peak memory, commitment / plain, all steps, {at}", every.peak / plain.peak, "x"),
        *(Row(f"memory of the pass alone, {name}, {at}", one.added / MIB, "MiB")
          for name, one in names.items()),
        Row(f"tokens, {at}", float(item.layout.n_tokens), "tokens"),
    ]  # fmt: skip


def trace(mllm: Mllm, steps: int, tokens: int) -> tuple[Problem, str]:
    """An item with a picture of noise, and a response of equal steps of about so many tokens."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    problem = Problem("trace", Image.fromarray(pixels), "What color?", CANDIDATES, CANDIDATES[0])
    words = SENTENCE.split()
    step = ""
    for at in range(tokens):
        longer = f"{step} {words[at % len(words)]}".strip()
        if len(mllm.tokenizer(longer, add_special_tokens=False)["input_ids"]) > tokens - 5:
            break
        step = longer
    return problem, render_response([step] * steps, CANDIDATES[0])


def prepare(variant: str, steps: int, tokens: int, probed: int) -> Callable[[], object]:
    """Build the model and the item; what is returned runs a variant once."""
    mllm = random_mllm(SMALL)
    problem, response = trace(mllm, steps, tokens)

    def call(response: str) -> object:
        if variant == "plain":
            batch = collate(mllm, [encode_problem(mllm, problem, response=response)])
            with torch.no_grad(), evaluating(mllm.model):
                return mllm.model(**batch, use_cache=False, logits_to_keep=1)
        most = probed if variant == "some" else None
        controls = ("rationale",)
        return commitment(mllm, [problem], [response], controls=controls, max_steps=most)

    # Threads and kernels take their own memory on first use, the same for all variants.
    call(trace(mllm, 3, tokens)[1])
    return lambda: call(response)
