"""Bench `beside`: what workers for pictures, a static cache and compiled passes could save a run.

Preparing is all that happens to a picture before the model sees it: reading its file, telling it
from others, the processor; processes beside the model could save no more than its share. It is of a
run that measures given responses to pictures in files, as `suite` does with its model.

Writing is that of responses of a fixed length to prompts of unlike length with a picture each:
*ours* as a run writes, *dynamic*, *static* and *compiled* by `transformers`' own ``generate()``
with that cache, the last one with ``torch.compile`` over a static one. Compiling itself, in the
round that does not count, is reported in seconds.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import CompileConfig, GenerationConfig

from attcot_analysis.attention.prefixes import Prefixes
from attcot_analysis.models import (
    Mllm,
    PromptCache,
    cache,
    collate,
    encode,
    evaluating,
    inputs,
)
from attcot_analysis.models.generate import image_ids, only_settings
from attcot_analysis.problems import save_problems
from attcot_analysis.problems.folder import load_problems
from attcot_analysis.runs import measure as runs
from attcot_lab.testbed.arrows import generate_arrows
from benchmarks.bench import Row, Scale, Shape, interleaved, own_clock, random_mllm, ratio, timed
from benchmarks.suite import FULL as SUITE
from benchmarks.suite import QUICK as SUITE_QUICK
from benchmarks.suite import QUICK_TOWER, READ, larger, responses

WAYS = ("ours", "dynamic", "static", "compiled")
WIDE = Shape(hidden=896, layers=2, heads=14, kv_heads=2, intermediate=4864)
MODELS = {"256 wide": replace(SUITE.shape, layers=2), "896 wide": WIDE}
FULL = Scale(**vars(SUITE), sides=(432, 2048), models=MODELS, prompts=4, written=32, ways=WAYS)
SMALL = {"64 wide": SUITE_QUICK.shape}
QUICK = Scale(**vars(SUITE_QUICK), sides=(64,), models=SMALL, prompts=2, written=4, ways=WAYS[:-1])


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure on random models.

    Returns:
        The share of preparing, and per model how much longer each way to write takes than ours.
    """
    scale = QUICK if quick else FULL
    # Other programs share the cores, but not an accelerator.
    clock = own_clock(device)
    rows = [row for side in scale.sides for row in _preparing(scale, side, device, clock)]
    for name, shape in scale.models.items():
        mllm = random_mllm(shape, device=device, vision=QUICK_TOWER)
        rows += _writing(mllm, name, scale, progress, device, clock)
    return rows


def _preparing(scale: Scale, side: int, device: str, clock: Callable[[], float]) -> list[Row]:
    mllm = random_mllm(scale.shape, device=device, vision=scale.tower)
    made = [larger(one, side) for one in generate_arrows(scale.items, seed=0)]
    written = responses(mllm, made)
    with tempfile.TemporaryDirectory() as folder:
        problems = load_problems(save_problems(made, Path(folder) / "of"), keep_pictures=False)

        def read() -> object:
            return runs.measure(mllm, problems, READ, generations=written, batch_size=scale.items)

        with _clocked(clock) as spent:
            seconds = timed(read, device, clock)
    return [
        Row(f"share of a run, preparing, {side} x {side} pixels", sum(spent) / seconds, "share"),
        Row(f"time, preparing, per item, {side} x {side} pixels", sum(spent) / scale.items, "s"),
        Row(f"time, all, per item, {side} x {side} pixels", seconds / scale.items, "s"),
    ]


@contextmanager
def _clocked(clock: Callable[[], float]) -> Iterator[list[float]]:
    """Seconds of all that prepares pictures, the inner ones of it once."""
    spent: list[float] = []
    depth = [0]
    places: list[tuple[Any, str]] = [(cache, "_digest"), (inputs, "read_image")]
    places += [(inputs, "_process"), (PromptCache, "digest")]
    before = [getattr(*place) for place in places]

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **options: Any) -> Any:
            start, depth[0] = clock(), depth[0] + 1
            try:
                return call(*args, **options)
            finally:
                depth[0] -= 1
                if not depth[0]:
                    spent.append(clock() - start)

        return timing

    for (owner, name), call in zip(places, before, strict=True):
        setattr(owner, name, around(call))
    try:
        yield spent
    finally:
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, call)


def _writing(
    mllm: Mllm, name: str, scale: Scale, progress: bool, device: str, clock: Callable[[], float]
) -> list[Row]:
    problems = [larger(one, 64) for one in generate_arrows(scale.prompts, seed=1)]
    texts = [one.question + " Look closely." * at for at, one in enumerate(problems)]
    prompts = [encode(mllm, one.image, text) for one, text in zip(problems, texts, strict=True)]
    # Nothing ends a response, so that every way writes the same number of tokens.
    banned = [*image_ids(mllm), *mllm.stop_ids]
    prefixes = Prefixes(mllm)
    assert prefixes.shares(mllm, prompts)
    written: dict[str, list[list[int]]] = {}

    def ours() -> None:
        prefixes.clear()
        with evaluating(mllm.model), torch.no_grad():
            written["ours"] = prefixes.write(
                mllm,
                prompts,
                max_new_tokens=scale.written,
                temperature=0.0,
                seeds=[0],
                banned=banned,
                watch=lambda *_: None,
            )

    def own(way: str) -> Callable[[], None]:
        kind = {} if way == "dynamic" else {"cache_implementation": "static"}
        compiled: Any = CompileConfig()
        compiled._compile_all_devices = True  # Else on a GPU only.
        settings = GenerationConfig(
            max_new_tokens=scale.written,
            pad_token_id=mllm.tokenizer.pad_token_id,
            suppress_tokens=banned,
            disable_compile=way != "compiled",
            **kind,
            **({"compile_config": compiled} if way == "compiled" else {}),
        )

        def call() -> None:
            batch = collate(mllm, prompts, padding_side="left")
            with torch.no_grad(), only_settings(mllm.model, settings):
                found = mllm.model.generate(**batch, generation_config=settings)
            written[way] = found[:, batch["input_ids"].shape[1] :].tolist()

        return call

    ways = {way: ours if way == "ours" else own(way) for way in scale.ways}
    first = {way: timed(call, device, time.perf_counter) for way, call in ways.items()}
    seconds = interleaved(
        ways, 3, device=device, warm_up=False, progress=progress, name=name, clock=clock
    )
    rows = [Row(f"time, ours, {name}", float(seconds["ours"].mean()), "s")]
    for way in scale.ways[1:]:
        rows.append(Row(f"time, {way} / ours, {name}", ratio(seconds, way, "ours"), "x"))
        same = float(written[way] == written["ours"])
        rows.append(Row(f"the same tokens as ours, {way}, {name}", same, "1 for yes"))
    return [*rows, Row(f"time, first round of {way}, {name}", first[way], "s")]
