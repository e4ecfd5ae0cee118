"""Bench `training`: what the Att-CoT terms add to a step of CoT-SFT.

A step is the trainer's own: forward pass, loss and backward pass of one batch. The optimizer's
step is the same for all and not counted, which makes the ratios larger. Beside it stands the
eager way, see `eager_step`.
"""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TrainingArguments

from attcot_analysis.attention.candidates import candidate_tokens
from attcot_analysis.attention.hook import attached
from attcot_analysis.models import Mllm, collate, load_mllm
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.train.data import (
    IGNORED,
    Example,
    RationaleCollator,
    RationaleDataset,
    collate_examples,
    forced_candidates,
    probe_rows,
)
from attcot_analysis.train.objective import AttCoTConfig, visual_access_loss, visual_mass
from attcot_analysis.train.terms import AttCoTTerms, commitment_loss
from attcot_analysis.train.trainer import AttCoTTrainer
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows
from benchmarks import commitment
from benchmarks.bench import (
    QWEN_0_5B,
    SMALL,
    Row,
    Scale,
    interleaved,
    judged,
    own_clock,
    random_mllm,
)
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


BASE = "CoT-SFT"

SFT = AttCoTConfig()

FORMS: Mapping[str, AttCoTConfig] = {
    "ours": AttCoTConfig(lambda_vis=0.1, lambda_commit=1.0, warmup=0.0),
    "paper form": replace(AttCoTConfig.reconstruction(), warmup=0.0),
}
"""Both terms on: forced answers after the early half of the steps, and after all of them."""


FULL = Scale(
    items=16,  # batch size of the testbed model
    layers=QWEN_0_5B.layers,  # of the wide model
    steps=16,  # K of its one item
    step_tokens=20,  # about how many each of them has
    side=384,  # of its picture, in pixels
    repeats=(21, 5, 1),  # rounds: testbed model, wide one, and the eager way there
)
QUICK = Scale(items=2, layers=2, steps=3, step_tokens=12, side=64, repeats=(1, 1, 1))


def run(*, progress: bool = False, quick: bool = False, device: str = "cpu") -> list[Row]:
    """Measure on the testbed model with its own problems, and on a wide one at T = 1,024.

    Returns:
        Per model and form of the objective the time of a step over that of a CoT-SFT step, with
        its bar and interval, and that of the eager way; on the testbed model also how far the
        gradients of the two ways are apart.
    """
    scale = QUICK if quick else FULL
    often, rounds, eager_rounds = scale.repeats
    tiny = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32, device=device)
    bench = _Bench("testbed model", tiny, _testbed_batch(tiny, scale), 1.15, progress)
    rows = [*bench.times(often), *bench.eager_times(often)]
    _move(tiny)
    rows += bench.equality()
    shape = replace(SMALL if quick else QWEN_0_5B, layers=scale.layers)
    wide = random_mllm(shape, device=device)
    name = "small" if quick else "0.5B-shaped"
    bench = _Bench(name, wide, _wide_batch(wide, scale), 1.05, progress)
    return [*rows, *bench.times(rounds), *bench.eager_times(eager_rounds)]


class Step:
    """A trainer's step on one batch, again and again from the same weights.

    Attributes:
        model: The model, whose gradients are those of the last step.
    """

    def __init__(self, mllm: Mllm, batch: Mapping[str, Any], attcot: AttCoTConfig) -> None:
        """Make the trainer."""
        self.model = mllm.model
        self._batch = batch
        self._folder = tempfile.TemporaryDirectory()
        device = str(mllm.device)
        self._trainer = AttCoTTrainer(
            model=mllm.model,
            args=TrainingArguments(
                output_dir=self._folder.name,
                remove_unused_columns=False,
                report_to=[],
                bf16=False,
                use_cpu=device == "cpu",
            ),
            data_collator=RationaleCollator(mllm),
            mllm=mllm,
            attcot=attcot,
        )
        self._attention = attached if attcot.active else contextlib.nullcontext
        self._tokens = (batch["labels"] >= 0).sum()
        # The trainer sets it when it starts to train.
        self._trainer.current_gradient_accumulation_steps = 1

    def __call__(self) -> float:
        """Run it; returns the loss."""
        self.model.zero_grad()
        with self._attention(self.model):
            loss = self._trainer.training_step(self.model, dict(self._batch), self._tokens)
        return float(loss)


def _testbed_batch(mllm: Mllm, scale: Scale) -> dict[str, Any]:
    problems = generate_arrows(scale.items, ArrowsConfig(prior=0.95), seed=0, split="train")
    data = RationaleDataset(mllm, problems)
    return collate_examples(mllm, [data[at] for at in range(len(data))])


@torch.no_grad()
def _move(mllm: Mllm) -> None:
    """Put a trained model off its optimum, where gradients are no more than rounding errors."""
    generator = torch.Generator().manual_seed(0)
    for parameter in mllm.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter += 0.02 * noise.to(parameter)


def _wide_batch(mllm: Mllm, scale: Scale) -> dict[str, Any]:
    encoded = commitment.example(mllm, scale)
    candidates = candidate_tokens(mllm, commitment.CANDIDATES)
    return collate_examples(mllm, [Example("noise", encoded, candidates, 0, (None,) * scale.steps)])


class _Bench:
    """All ways to make a step, on one model and batch."""

    def __init__(
        self, name: str, mllm: Mllm, batch: dict[str, Any], bar: float, progress: bool
    ) -> None:
        self.name, self.mllm, self.bar = name, mllm, bar
        device = str(mllm.device)
        self.batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        self.options: dict[str, Any] = {
            "device": device,
            "progress": progress,
            "name": f"training, {name}",
            "clock": own_clock(device),
        }
        mllm.model.train()
        self.steps = {
            form: Step(mllm, self.batch, config) for form, config in {BASE: SFT, **FORMS}.items()
        }

    def eager(self, form: str) -> float:
        """The step of a form in the eager way."""
        self.mllm.model.zero_grad()
        return eager_step(self.mllm, self.batch, FORMS[form])

    def equality(self) -> list[Row]:
        """How far both ways' gradients are apart."""
        rows = []
        for form in FORMS:
            self.steps[form]()
            ours = self._gradients()
            self.eager(form)
            apart = [
                float((ours[name] - plain).norm() / plain.norm().clamp(min=1e-6))
                for name, plain in self._gradients().items()
            ]
            rows.append(
                judged(
                    f"largest relative difference of gradients to the eager way, {form}",
                    max(apart),
                    "x",
                    at_most=1e-4,
                )
            )
        return rows

    def times(self, repeats: int) -> list[Row]:
        """Our steps over the plain one, and by how many tokens they are longer."""
        seconds = interleaved(self.steps, repeats, **self.options)
        rows = []
        for form in FORMS:
            ratios = seconds[form] / seconds[BASE]
            low, high = median_interval(ratios)
            rows += [
                judged(
                    f"time, both terms / {BASE}, {form}, {self.name}",
                    float(np.median(ratios)),
                    "x",
                    at_most=self.bar,
                ),
                Row(f"low end of it, {form}, {self.name}", low, "x"),
                Row(f"high end of it, {form}, {self.name}", high, "x"),
                Row(f"tokens, the same ratio, {form}, {self.name}", self._longer(form), "x"),
            ]
        rows.append(Row(f"rounds, {self.name}", float(repeats), "count"))
        rows += [
            Row(f"time, {form}, {self.name}", float(np.median(values)), "s")
            for form, values in seconds.items()
        ]
        lengths = self.batch["attention_mask"].sum(-1).tolist()
        n_steps = max(len(example.encoded.layout.steps) for example in self.batch["attcot"])
        return [
            *rows,
            Row(f"items, {self.name}", float(len(lengths)), "count"),
            Row(f"tokens per item, {self.name}", float(max(lengths)), "tokens"),
            Row(f"steps per item, {self.name}", float(n_steps), "count"),
        ]

    def _longer(self, form: str) -> float:
        """Tokens of a batch with its forced answers over those without."""
        inputs: dict[str, Any] = dict(self.batch)
        examples = inputs.pop("attcot")
        with attached(self.mllm.model):
            terms = AttCoTTerms(self.mllm, FORMS[form])
            longer: Tensor = terms.prepare(inputs, examples).extra["input_ids"]
        return longer.shape[1] / self.batch["input_ids"].shape[1]

    def eager_times(self, repeats: int) -> list[Row]:
        """The eager way over the plain step."""
        ways: dict[str, Callable[[], float]] = {BASE: self.steps[BASE]}
        ways |= {form: partial(self.eager, form) for form in FORMS}
        seconds = interleaved(ways, repeats, **{**self.options, "warm_up": repeats > 1})
        rows = [
            Row(
                f"time, eager way / {BASE}, {form}, {self.name}",
                float(np.median(seconds[form] / seconds[BASE])),
                "x",
            )
            for form in FORMS
        ]
        return [*rows, Row(f"rounds of the eager way, {self.name}", float(repeats), "count")]

    def _gradients(self) -> dict[str, Tensor]:
        named = self.mllm.model.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}


def median_interval(
    values: npt.NDArray[np.float64], *, n_boot: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a median over rounds."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(values, size=(n_boot, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)
