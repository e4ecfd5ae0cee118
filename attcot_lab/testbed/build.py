"""The testbed's tiny MLLMs: checkpoints of real classes, a megabyte or two each, built and by name.

The vision tower first learns to read pictures through a linear probe; then the whole model learns
to describe them, to answer directly, and to answer after a rationale. The result is an ordinary
Hugging Face checkpoint with processor, tokenizer and chat template.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import set_seed

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.probe import Probe
from attcot_analysis.errors import TrainingError
from attcot_analysis.models import Mllm, Mode, build_messages, load_mllm, wrap_mllm
from attcot_analysis.models.grid import TokenGrid
from attcot_analysis.problems import Problem
from attcot_analysis.problems.response import ANSWER_CLOSE, ANSWER_CUE, DIRECT_CUE, THINK_OPEN
from attcot_analysis.train.checkpoints import check_weights, new_folder
from attcot_analysis.train.data import IGNORED
from attcot_lab.testbed.arrows import ArrowsConfig
from attcot_lab.testbed.lessons import (
    KindConfig,
    Labels,
    Lesson,
    Row,
    Teacher,
    chat_prompt,
    lesson_of,
    sentences,
)
from attcot_lab.testbed.tiny import TinySpec, tiny_model, tiny_processor

BUILD_FILE = "testbed_build.json"
_TEXT_PARTS = ("model.language_model.", "lm_head.")
_PICTURES = 64
"""Pictures per step of the vision stage."""
History = list[dict[str, str | float]]
"""What a stage logs: stage, step and loss."""


@dataclass(frozen=True)
class BuildConfig:
    """How a testbed model is made.

    Attributes:
        seed: Weights, pictures and order.
        kinds: The training problems, each kind once; a kind's noise is the
            largest one used, its prior holds where the response is short (direct, or a rationale
            that stops early). Problems with their whole rationale are balanced, or the model
            would never learn to read the answer from the picture.
        often: How often each kind comes in relation to the others; empty means equally often.
        vision_steps: Steps of the vision stage.
        language_steps: Steps of the language stage.
        describing: The share of them at the beginning that teaches to describe only; later a
            quarter of every batch does.
        grounding: Weight of a loss that points half of the heads of some layers to the part of the
            picture that a line speaks of, and, in answers without a whole rationale, the other
            half to the person whose habit they may follow. Without it a tiny model takes hundreds
            of steps to find out that words stand for places, and people for answers.
        pointing_layers: Which ones. An answer's place is named lines before it, and a row needs
            layers to fetch the name before it can point.
        grounded: The share of the language steps, at the beginning, with that loss.
        blind: Weight of a loss that asks every problem without its picture as well, where the
            habitual answer is the one to give. With several kinds there are too many habits to be
            picked up on the way.
        answer_weight: How much more a token of an answer weighs than another one: an answer is
            one token in forty, and comes last.
        batch_size: Items per step of the language stage.
        learning_rate: Muon's peak rate; AdamW runs at 0.3 of it.
        shares: Shares of questions answered directly, after the whole rationale, and after a
            rationale that stops early; the last keep forced answers in distribution.
        spec: Family and sizes of the model.

    Raises:
        TrainingError: If a size is below 1, or there are no such layers to point.
    """

    seed: int = 0
    kinds: tuple[KindConfig, ...] = field(
        default_factory=lambda: (ArrowsConfig(hops=2, noise=240.0, prior=0.6),)
    )
    often: tuple[int, ...] = ()
    vision_steps: int = 150
    language_steps: int = 750
    describing: float = 0.3
    grounding: float = 1.0
    pointing_layers: tuple[int, ...] = (2,)
    grounded: float = 0.3
    blind: float = 0.0
    answer_weight: float = 1.0
    batch_size: int = 32
    learning_rate: float = 0.01
    shares: tuple[float, float, float] = (0.15, 0.65, 0.2)
    spec: TinySpec = field(default_factory=TinySpec)

    def __post_init__(self) -> None:
        """Check that something is trained, and that the layers exist."""
        sizes = (self.vision_steps, self.language_steps, self.batch_size, len(self.kinds))
        if min(sizes) < 1 or not 0 < self.learning_rate < math.inf:
            raise TrainingError(
                f"vision_steps={self.vision_steps}, language_steps={self.language_steps}, "
                f"batch_size={self.batch_size} and {len(self.kinds)} kinds must all be at least 1, "
                f"and learning_rate={self.learning_rate} above 0, or nothing is trained."
            )
        missing = set(self.pointing_layers) - set(range(self.spec.text_layers))
        if self.grounding > 0 and (missing or not self.pointing_layers):
            raise TrainingError(
                f"Layers {list(self.pointing_layers)} are to point, but the model has layers 0 to "
                f"{self.spec.text_layers - 1}; choose some of them as pointing_layers."
            )


def build_testbed_model(
    folder: str | Path, config: BuildConfig | None = None, *, progress: bool = True
) -> Path:
    """Train a tiny MLLM from nothing and save it into `folder`.

    Args:
        folder: A new checkpoint folder, complete when it appears.
        config: What to build.
        progress: Show a progress bar per stage.

    Raises:
        TrainingError: If the folder exists or the training diverges.
    """
    config = config or BuildConfig()
    folder = new_folder(folder)
    set_seed(config.seed)
    mllm = new_testbed_model(config)
    history = train_vision(mllm, config, progress=progress)
    history += train_language(mllm, config, progress=progress)
    return save_built_model(mllm, folder, {"config": asdict(config), "history": history})


def new_testbed_model(config: BuildConfig) -> Mllm:
    """An untrained tiny MLLM with a tokenizer for the testbed's sentences."""
    processor = tiny_processor(sentences(config.kinds), config.spec)
    model = tiny_model(processor, config.spec, seed=config.seed)
    return wrap_mllm(model, processor, name="testbed")


def save_built_model(mllm: Mllm, folder: Path, record: Mapping[str, Any]) -> Path:
    """Save a model with the record of how it was built; the folder is complete when it appears."""
    working = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(working, ignore_errors=True)
    save_testbed_model(mllm, working)
    (working / BUILD_FILE).write_text(json.dumps(record, indent=1))
    os.replace(working, folder)
    return folder


def save_testbed_model(mllm: Mllm, folder: Path) -> None:
    """Save weights in bfloat16 (half the size) beside the processor, and check they load."""
    check_weights(mllm.model)
    mllm.model.to(torch.bfloat16).save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    mllm.model.to(torch.float32)
    load_mllm(folder)


def train_vision(
    mllm: Mllm,
    config: BuildConfig,
    *,
    lessons: Sequence[Any] | None = None,
    progress: bool = True,
) -> History:
    """Vision stage: what stands in each part of a picture, read linearly from its tokens.

    Args:
        mllm: The model.
        config: Steps, rate, seed and sizes.
        lessons: What is read (`Lesson.reading`); default those of the config's kinds.
        progress: Show a progress bar.
    """
    lessons = [lesson_of(kind) for kind in config.kinds] if lessons is None else lessons
    token = config.spec.patch * config.spec.merge
    probes = nn.ModuleList(
        nn.Linear(config.spec.hidden, sum(_sizes(one, config))) for one in lessons
    )
    rng = np.random.default_rng([config.seed, 1])
    tower = [p for n, p in mllm.model.named_parameters() if not n.startswith(_TEXT_PARTS)]
    optimizers = [
        *optimizers_of(mllm.model, config.learning_rate, only=tower),
        torch.optim.AdamW(probes.parameters(), lr=config.learning_rate * 0.3),
    ]

    def loss_of_batch() -> Tensor:
        each = _PICTURES // len(lessons)
        drawn = [[lesson.reading(rng) for _ in range(each)] for lesson in lessons]
        features = _image_features(mllm, [image for part in drawn for image, _ in part])
        parts = []
        for at, (lesson, probe) in enumerate(zip(lessons, probes, strict=True)):
            own = features[at * each : (at + 1) * each]
            by_part = torch.stack([_by_part(f, lesson.part // token) for f in own])
            truth = torch.tensor([_with_places(labels) for _, labels in drawn[at]])
            scores = probe(by_part).split(_sizes(lesson, config), dim=-1)
            parts += [
                F.cross_entropy(score.flatten(0, 1), truth[..., i].flatten())
                for i, score in enumerate(scores)
            ]
        return torch.stack(parts).sum()

    return run_stage("vision", config.vision_steps, optimizers, loss_of_batch, progress)


def _sizes(lesson: Lesson, config: BuildConfig) -> list[int]:
    """How many values each property of a part has; the last two are its column and row."""
    side = config.spec.image // lesson.part
    return [*map(len, lesson.properties), side, side]


def _with_places(labels: Labels) -> Labels:
    """Labels with each part's column and row added: a tower must say where it sees what."""
    side = round(len(labels) ** 0.5)
    return [[*own, at % side, at // side] for at, own in enumerate(labels)]


def train_language(mllm: Mllm, config: BuildConfig, *, progress: bool = True) -> History:
    """Language stage: descriptions of named parts, direct answers and rationales.

    Descriptions come first: they teach to find a part of the picture by its name.
    """
    optimizers = optimizers_of(mllm.model, config.learning_rate)
    teacher = Teacher(mllm, config.kinds, config.often, config.shares, config.seed)
    done = 0

    def loss_of_batch() -> Tensor:
        nonlocal done
        share = done / config.language_steps
        done += 1
        rows = teacher.rows(config.batch_size, 1.0 if share < config.describing else 0.25)
        grounded = config.grounding > 0 and share < config.grounded
        loss = response_loss(mllm, rows, config, grounded=grounded)
        problems = [row.problem for row in rows if row.problem]
        if problems and config.blind:
            loss = loss + config.blind * _blind_loss(mllm, problems)
        return loss

    mllm.model.train()
    with attached(mllm.model):
        history = run_stage("language", config.language_steps, optimizers, loss_of_batch, progress)
    mllm.model.eval()
    return history


def _blind_loss(mllm: Mllm, problems: Sequence[Problem]) -> Tensor:
    """Cross-entropy of the habitual answers to problems whose pictures are left out."""
    texts = []
    for at, problem in enumerate(problems):
        mode: Mode = "direct" if at % 2 else "cot"
        cue = DIRECT_CUE if mode == "direct" else THINK_OPEN + ANSWER_CUE
        prompt = chat_prompt(mllm, build_messages(problem.question, mode, n_images=0))
        texts.append(f"{prompt}{cue}{problem.habitual}{ANSWER_CLOSE}")
    inputs = mllm.tokenizer(
        texts,
        padding=True,
        padding_side="right",
        add_special_tokens=False,
        return_tensors="pt",
    )
    ids = inputs["input_ids"]
    logits = mllm.model(input_ids=ids, attention_mask=inputs["attention_mask"]).logits[:, :-1]
    answer = inside_answers(mllm, ids)[:, 1:]
    return F.cross_entropy(logits[answer], ids[:, 1:][answer])


def response_loss(
    mllm: Mllm, rows: Sequence[Row], config: BuildConfig, *, grounded: bool
) -> Tensor:
    """Cross-entropy in which the tokens of answers weigh more, and the grounding."""
    batch = batch_of(mllm, rows)
    targets = batch.pop("labels")
    taught = _Grounding(mllm, rows, batch["input_ids"], targets, config) if grounded else None
    extra = taught.inputs if taught else {}
    logits = mllm.model(**batch, **extra).logits[:, :-1]
    loss = weighted_loss(mllm, logits, batch["input_ids"], targets, config.answer_weight)
    return loss + config.grounding * taught.loss() if taught else loss


def weighted_loss(
    mllm: Mllm, logits: Tensor, ids: Tensor, targets: Tensor, answer_weight: float
) -> Tensor:
    """Cross-entropy of the predictions of ``targets[:, 1:]``, those of answers weighing more."""
    losses = F.cross_entropy(logits.transpose(1, 2), targets[:, 1:], reduction="none")
    answer = inside_answers(mllm, ids)[:, 1:]
    weight = torch.where(answer, answer_weight, 1.0) * (targets[:, 1:] != IGNORED)
    return (losses * weight).sum() / weight.sum()


def inside_answers(mllm: Mllm, ids: Tensor) -> Tensor:
    """Which tokens stand between the tags of an answer, or of the prompt's example of one."""
    opening, closing = mllm.tokenizer.convert_tokens_to_ids([DIRECT_CUE, ANSWER_CLOSE])
    return ((ids == opening).cumsum(1) > (ids == closing).cumsum(1)) & (ids != opening)


class _Grounding:
    """-log of the attention from each line of the responses to where it comes from.

    Rows that predict an answer weigh more here, too.
    """

    def __init__(
        self, mllm: Mllm, rows: Sequence[Row], ids: Tensor, labels: Tensor, config: BuildConfig
    ) -> None:
        image = (ids == mllm.model.config.image_token_id).nonzero()[:, 1].view(len(rows), -1)
        vocabulary = mllm.tokenizer.get_vocab()
        breaks = torch.tensor([at for word, at in vocabulary.items() if "Ċ" in word])
        # The line that each response token belongs to: as many as there are line ends before it.
        ends = torch.isin(ids, breaks) & (labels != IGNORED)
        lines = (ends.cumsum(1) - ends.long()).roll(-1, dims=1)
        most = max(len(row.sources) for row in rows) + 1
        pictures = [row.image for row in rows if row.image is not None]
        grid = TokenGrid.regular(pictures[0].size, *[round(image.shape[1] ** 0.5)] * 2)
        # Two columns per line: its pixels, and its word in the prompt.
        cols = torch.zeros(*ids.shape, 2 * most)
        known = torch.zeros(len(rows), most, 2, dtype=torch.bool)
        for at, row in enumerate(rows):
            for line, (box, word) in enumerate(row.sources):
                if box is not None:
                    covered = torch.as_tensor(grid.coverage([box]), dtype=cols.dtype)
                    cols[at, image[at], line] = covered
                if word is not None:
                    forms = [word, f" {word}", f"Ġ{word}"]
                    spelt = torch.tensor([vocabulary[form] for form in forms if form in vocabulary])
                    named = torch.isin(ids[at], spelt) & (labels[at] == IGNORED)
                    cols[at, named, most + line] = 1.0
                known[at, line] = torch.tensor([box is not None, word is not None])
        lines = lines.clamp(max=most - 1)
        anything = known.any(-1).gather(1, lines)
        probed = (labels != IGNORED).roll(-1, dims=1) & anything
        places = [one.nonzero()[:, 0] for one in probed]
        self._rows = nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)
        self._lines = lines.gather(1, self._rows.clamp(min=0))
        self._known = known.gather(1, self._lines[..., None].expand(-1, -1, 2))
        self._known &= (self._rows >= 0)[..., None]
        self._most = most
        answers = inside_answers(mllm, ids).roll(-1, dims=1).gather(1, self._rows.clamp(min=0))
        self._weight = torch.where(answers, config.answer_weight, 1.0)
        self._heads = config.spec.heads // 2
        self._probe = Probe(config.pointing_layers)
        self.inputs: dict[str, Any] = {
            "attcot_probe": self._probe,
            "attcot_rows": self._rows,
            "attcot_cols": cols,
        }

    def loss(self) -> Tensor:
        """After the forward pass with `inputs`."""
        terms, weights = [], []
        for mass in self._probe.masses(differentiable=True).values():
            for at, heads in enumerate((slice(self._heads), slice(self._heads, None))):
                half = mass[:, heads]
                own = (self._lines + at * self._most)[:, None, :, None].expand(*half.shape[:3], 1)
                known = self._known[..., at]
                pointed = half.gather(3, own)[..., 0].transpose(1, 2)[known]
                terms.append(-(pointed + 1e-12).log().flatten())
                weights.append(self._weight[known][:, None].expand_as(pointed).flatten())
        weight = torch.cat(weights)
        return (torch.cat(terms) * weight).sum() / weight.sum()


def run_stage(
    stage: str,
    steps: int,
    optimizers: list[torch.optim.Optimizer],
    loss_of_batch: Callable[[], Tensor],
    progress: bool,
) -> History:
    """Train for `steps`: 20 steps of warm-up, then constant, linear decay over the last 40 %."""
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    history: History = []
    bar = tqdm(range(steps), desc=f"{stage} stage", disable=not progress)
    for step in bar:
        factor = min(1.0, (step + 1) / 20)
        factor *= 1 - 0.95 * max(0.0, (step / steps - 0.6) / 0.4)
        loss = loss_of_batch()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The {stage} stage's loss is {loss.item()} at step {step + 1}; lower the "
                "learning rate or change the seed."
            )
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.zero_grad()
        loss.backward()
        parameters = [p for o in optimizers for g in o.param_groups for p in g["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % 25 == 0 or step + 1 == steps:
            history.append({"stage": stage, "step": step + 1, "loss": round(loss.item(), 4)})
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return history


def optimizers_of(
    module: nn.Module, rate: float, *, only: Sequence[nn.Parameter] | None = None
) -> list[torch.optim.Optimizer]:
    """Muon for weight matrices, AdamW for embeddings, norms and biases."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    parameters = list(module.parameters() if only is None else only)
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=0.3 * rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def _image_features(mllm: Mllm, images: list[Image.Image]) -> list[Tensor]:
    """Per image its tokens' features, ``(n_tokens, hidden)``."""
    encoded = mllm.processor.image_processor(images=images, return_tensors="pt")
    inputs = {name: encoded[name] for name in ("pixel_values", "image_grid_thw") if name in encoded}
    return list(mllm.model.model.get_image_features(**inputs, return_dict=True).pooler_output)


def _by_part(features: Tensor, per: int) -> Tensor:
    """``(n_tokens, hidden)`` → ``(parts, hidden)``, parts row by row: means, as attention reads."""
    size = round(len(features) ** 0.5) // per
    grid = features.view(size, per, size, per, -1).mean(dim=(1, 3))
    return grid.reshape(size * size, -1)


def batch_of(mllm: Mllm, rows: Sequence[Row]) -> dict[str, Tensor]:
    """Model inputs with labels on the responses, right-padded; all rows have a picture, or none."""
    end = mllm.tokenizer.eos_token
    pictures = [row.image for row in rows if row.image is not None]
    encoded = mllm.processor(
        text=[row.prompt + row.response + end for row in rows],
        images=pictures or None,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    lengths = encoded["attention_mask"].sum(dim=1)
    responses = [row.response + end for row in rows]
    learned = mllm.tokenizer(responses, add_special_tokens=False)["input_ids"]
    places = torch.arange(encoded["input_ids"].shape[1])
    starts = lengths - torch.tensor([len(ids) for ids in learned])
    inside = (places >= starts[:, None]) & (places < lengths[:, None])
    return {**encoded, "labels": encoded["input_ids"].masked_fill(~inside, IGNORED)}
