"""Bench `grpo`: what GRPO raises with each of SAYO's rewards, at equal steps.

Not a bench of time: the same model is trained with the region reward, with right answers, and with
both, each beside the form, and asked before and after. One training seed; intervals are over
questions.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.models import Mllm, encode_problem, load_mllm
from attcot_analysis.problems import Problem
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.stats.crossed import paired_difference
from attcot_analysis.stats.intervals import bootstrap_mean
from attcot_analysis.train.region_reward import region_attention
from attcot_lab.sayo import SayoConfig, finetune_sayo
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows
from benchmarks.bench import Row, Scale, judged

KINDS = {"balanced": None, "habit-laden": 0.95}
"""Share of the training questions whose answer is the habitual one; ``None`` for chance."""
ARMS = {
    "region": SayoConfig(accuracy=0.0),
    "right answers": SayoConfig(attention=0.0),
    "both": SayoConfig(),
}
"""What is rewarded beside the form."""
RUNS = (
    ("region", "balanced"),
    ("right answers", "balanced"),
    ("both", "balanced"),
    ("right answers", "habit-laden"),
)
_TITLES = {"region": "region reward", "right": "right answers", "mass": "visual mass"}


FULL = Scale(
    steps=60,  # of every run
    lessons=256,  # training questions
    asked=96,  # questions of each set that are asked before and after
    generations=8,  # completions per question and step
    tokens=48,  # at most, per completion
)
QUICK = Scale(steps=1, lessons=4, asked=4, generations=2, tokens=8)


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Train with each reward and ask before and after.

    Returns:
        Per run the change of region reward, right answers and visual mass, on questions it was
        trained on and on balanced ones it was not, with intervals; a bar for what was rewarded, on
        the former: its lower end is to lie above zero.
    """
    scale = QUICK if quick else FULL
    noisy = ArrowsConfig(noise=240.0)
    test = generate_arrows(scale.asked, noisy, seed=1, split="test")
    rows = []
    base = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    lessons = {
        kind: generate_arrows(scale.lessons, replace(noisy, prior=prior), seed=1, split="train")
        for kind, prior in KINDS.items()
    }
    learned = {kind: own[: scale.asked] for kind, own in lessons.items()}
    before = _read(base, test, scale)
    knew = {kind: _read(base, own, scale) for kind, own in learned.items()}
    for arm, kind in RUNS:
        config = replace(
            ARMS[arm],
            steps=scale.steps,
            num_generations=scale.generations,
            learning_rate=1e-4,
            max_completion=scale.tokens,
        )
        with tempfile.TemporaryDirectory() as scratch:
            model = Path(scratch) / "model"
            finetune_sayo(shipped(TESTBED_MODEL), lessons[kind], model, config, progress=progress)
            trained = load_mllm(model, dtype=torch.float32)
        weights = {"region": config.attention, "right": config.accuracy}
        rewarded = [name for name, weight in weights.items() if weight]
        name = f"rewarded for {arm}, {kind}"
        after = _read(trained, learned[kind], scale)
        rows += _changes(f"questions trained on, {name}", knew[kind], after, rewarded)
        after = _read(trained, test, scale)
        rows += _changes(f"questions not seen, {name}", before, after, ())
    levels = [
        Row(f"{title} of the base, questions not seen", bootstrap_mean(before[one]).value, "mean")
        for one, title in _TITLES.items()
    ]
    return [*levels, *rows]


def _read(mllm: Mllm, problems: Sequence[Problem], scale: Scale) -> pd.DataFrame:
    """One sampled response to each question, and what the rewards see in it."""
    answers = answer_problems(mllm, problems, max_new_tokens=scale.tokens, temperature=1.0, seed=1)
    pairs = zip(problems, answers["ids"], strict=True)
    items = [encode_problem(mllm, problem, response=ids) for problem, ids in pairs]
    boxes = [[step.boxes for step in problem.steps] for problem in problems]
    seen = region_attention(mllm, items, boxes)
    columns = {
        "region": [one.reward for one in seen],
        "right": answers["correct"].astype(float).tolist(),
        "mass": [one.visual_mass for one in seen],
    }
    return pd.DataFrame(columns, dtype=float)


def _changes(where: str, first: pd.DataFrame, then: pd.DataFrame, own: Sequence[str]) -> list[Row]:
    rows = []
    for one, title in _TITLES.items():
        change = paired_difference(first[one], then[one])
        name = f"{title}, {where}"
        rows.append(Row(f"change of {name}", change.value, "mean"))
        bar = 0.0 if one in own else None
        rows += [
            judged(f"low end, {name}", change.low, "mean", at_least=bar),
            Row(f"high end, {name}", change.high, "mean"),
        ]
    return rows
