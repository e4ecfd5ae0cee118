"""Bench `sayo`: what share of a GRPO step the region reward takes.

A step is the trainer's own, from the first sampled token to the optimizer's step, with all three
rewards. The reward's time is that of its calls inside it: encoding the completions, one
teacher-forced pass with the probe, and the arithmetic. The learning rate is 0, so that all steps do
the same work.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from attcot_analysis.models import Mllm, load_mllm
from attcot_analysis.problems import Problem
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.train.region_reward import RegionRewardConfig
from attcot_lab.sayo import SayoConfig, make_sayo_trainer
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows
from benchmarks.bench import QWEN_0_5B, SMALL, Row, Scale, judged, random_mllm, wait
from benchmarks.training import median_interval

FORMS = {
    "last layer": RegionRewardConfig(),
    "sink-free, middle layers": RegionRewardConfig(layers="middle", sink_free=True),
}


FULL = Scale(
    questions=4,  # per step
    generations=8,  # completions per question
    tokens=64,  # at most, per completion
    layers=4,  # of the wide model, whose completions all have that many tokens
    steps=(11, 3),  # timed on the testbed model and on the wide one; the first does not count
)
QUICK = Scale(questions=1, generations=2, tokens=4, layers=2, steps=(2, 2))


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure on the testbed model with its own problems, and on a wide one with random weights.

    Returns:
        Per model and form of the reward its share of a step, with its bar and interval, and the
        times.
    """
    scale = QUICK if quick else FULL
    shape = replace(SMALL if quick else QWEN_0_5B, layers=scale.layers)
    problems = generate_arrows(4 * scale.questions, ArrowsConfig(prior=0.95), seed=0, split="train")
    tiny = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32, device=device)
    rows = _rows("testbed model", tiny, problems, scale, scale.steps[0], progress)
    wide = random_mllm(shape, device=device)
    name = f"{shape.hidden} wide, {shape.layers} layers"
    return rows + _rows(name, wide, problems, scale, scale.steps[1], progress)


def _rows(
    name: str, mllm: Mllm, problems: Sequence[Problem], scale: Scale, steps: int, progress: bool
) -> list[Row]:
    rows = []
    for form, reward in FORMS.items():
        clock = _times(mllm, problems, scale, reward, steps, progress)
        shares = np.array(clock.rewards[1:]) / np.array(clock.steps[1:])
        low, high = median_interval(shares)
        what = f"{form}, {name}"
        rows += [
            judged(
                f"share of a GRPO step, region reward, {what}",
                float(np.median(shares)),
                "share",
                at_most=0.15,
            ),
            Row(f"low end of it, {what}", low, "share"),
            Row(f"high end of it, {what}", high, "share"),
            Row(f"time, GRPO step, {what}", float(np.median(clock.steps[1:])), "s"),
            Row(f"time, region reward, {what}", float(np.median(clock.rewards[1:])), "s"),
            Row(f"tokens per completion, {what}", float(np.mean(clock.lengths)), "tokens"),
            Row(f"completions per step, {what}", float(clock.completions), "count"),
        ]
    return rows


class _Clock(TrainerCallback):
    """Times steps, and the calls of a reward inside them."""

    def __init__(self, reward: Any, device: str) -> None:
        self.__name__ = reward.__name__
        self.steps: list[float] = []
        self.rewards: list[float] = []
        self.lengths: list[int] = []
        self.completions = 0
        self._reward = reward
        self._device = device
        self._start = 0.0

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: Any) -> Any:
        """The reward, timed."""
        wait(self._device)
        start = time.perf_counter()
        rewards = self._reward(completion_ids=completion_ids, **columns)
        wait(self._device)
        self.rewards.append(time.perf_counter() - start)
        self.lengths += [len(ids) for ids in completion_ids]
        self.completions = len(completion_ids)
        return rewards

    def on_step_begin(self, *_arguments: Any, **_options: Any) -> None:
        """Called before a step's batch is prepared."""
        wait(self._device)
        self._start = time.perf_counter()

    def on_step_end(self, *_arguments: Any, **_options: Any) -> None:
        """Called behind the optimizer's step."""
        wait(self._device)
        self.steps.append(time.perf_counter() - self._start)


def _times(
    mllm: Mllm,
    problems: Sequence[Problem],
    scale: Scale,
    reward: RegionRewardConfig,
    steps: int,
    progress: bool,
) -> _Clock:
    config = SayoConfig(
        steps=steps,
        questions=scale.questions,
        num_generations=scale.generations,
        max_completion=scale.tokens,
        learning_rate=0.0,
        reward=reward,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_sayo_trainer(
            mllm, problems, config, folder, progress=progress, optim="sgd", logging_strategy="no"
        )
        clock = _Clock(trainer.reward_funcs[0], str(mllm.device))
        trainer.reward_funcs[0] = clock
        trainer.add_callback(clock)
        trainer.train()
    return clock
