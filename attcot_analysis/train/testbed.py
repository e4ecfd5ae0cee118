"""Build the testbed's tiny MLLM: a real `Qwen2_5_VLForConditionalGeneration`, a megabyte or two.

Two stages, both needed: the vision tower first learns to read cells through a linear probe, then
the whole model learns to describe boards, to answer directly, and to answer after a rationale.
The result is an ordinary Hugging Face checkpoint with processor, tokenizer and chat template.
"""

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import set_seed

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import PROMPTS, Mllm, Mode, build_messages, load_mllm, wrap_mllm
from attcot_analysis.problems import ArrowsConfig, Problem, generate_arrows, render_response
from attcot_analysis.problems.arrows import cell_name
from attcot_analysis.problems.board import (
    CELL,
    COLOURS,
    DIRECTIONS,
    SHAPES,
    Board,
    Cell,
    cast_field,
    draw_board,
)
from attcot_analysis.problems.response import ANSWER_CLOSE, ANSWER_CUE, THINK_OPEN
from attcot_analysis.train.data import IGNORED
from attcot_analysis.train.tiny import TinySpec, tiny_model, tiny_processor

BUILD_FILE = "testbed_build.json"
_DESCRIBED = 4
Row = tuple[Image.Image, str, str]
"""A picture, the prompt about it and the response to learn."""
History = list[dict[str, str | float]]
"""What a stage logs: stage, step and loss."""
_KINDS = (tuple(COLOURS), SHAPES, tuple(DIRECTIONS))


@dataclass(frozen=True)
class BuildConfig:
    """How a testbed model is made.

    Attributes:
        seed: Weights, boards and order.
        arrows: The training problems; its noise is the largest one used, its prior holds where
            the response is short (direct, or a rationale that stops early). Problems with their
            whole rationale are balanced, or the model would never learn to read the colour.
        vision_steps: Steps of the vision stage.
        language_steps: Steps of the language stage.
        batch_size: Items per step of the language stage.
        learning_rate: Muon's peak rate; AdamW runs at 0.3 of it.
        shares: Shares of questions answered directly, after the whole rationale, and after a
            rationale that stops early; the last keep forced answers in distribution.
        spec: Sizes of the model.
    """

    seed: int = 0
    arrows: ArrowsConfig = field(
        default_factory=lambda: ArrowsConfig(hops=2, noise=240.0, prior=0.6)
    )
    vision_steps: int = 150
    language_steps: int = 750
    batch_size: int = 32
    learning_rate: float = 0.01
    shares: tuple[float, float, float] = (0.15, 0.65, 0.2)
    spec: TinySpec = field(default_factory=TinySpec)


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
    folder = Path(folder)
    if folder.exists():
        raise TrainingError(f"{folder} exists already; remove it or choose another folder.")
    set_seed(config.seed)
    mllm = new_testbed_model(config.spec, seed=config.seed)
    history = train_vision(mllm, config, progress=progress)
    history += train_language(mllm, config, progress=progress)
    working = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(working, ignore_errors=True)
    save_testbed_model(mllm, working)
    record = {"config": asdict(config), "history": history}
    (working / BUILD_FILE).write_text(json.dumps(record, indent=1))
    os.replace(working, folder)
    return folder


def new_testbed_model(spec: TinySpec, *, seed: int) -> Mllm:
    """An untrained tiny MLLM with a tokenizer for the testbed's sentences."""
    processor = tiny_processor(_sentences(), spec)
    return wrap_mllm(tiny_model(processor, spec, seed=seed), processor, name="testbed")


def save_testbed_model(mllm: Mllm, folder: Path) -> None:
    """Save weights in bfloat16 (half the size) beside the processor, and check they load."""
    mllm.model.to(torch.bfloat16).save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    mllm.model.to(torch.float32)
    load_mllm(folder)


def train_vision(mllm: Mllm, config: BuildConfig, *, progress: bool = True) -> History:
    """Vision stage: colour, shape and direction of every cell, read linearly from its tokens."""
    size = config.arrows.size
    per_side = CELL // (config.spec.patch * config.spec.merge)
    probe = nn.Linear(per_side**2 * config.spec.hidden, sum(map(len, _KINDS)))
    rng = np.random.default_rng([config.seed, 1])
    optimizers = [
        *_optimizers(mllm.model.model.visual, config.learning_rate),
        torch.optim.AdamW(probe.parameters(), lr=config.learning_rate * 0.3),
    ]

    def loss_of_batch() -> Tensor:
        boards = [_random_board(rng, size) for _ in range(64)]
        casts = [cast_field(rng, size, rng.uniform(0, 1) * config.arrows.noise) for _ in boards]
        images = [draw_board(b, size, c) for b, c in zip(boards, casts, strict=True)]
        cells = torch.stack([_by_cell(f, size) for f in _image_features(mllm, images)])
        truth = torch.tensor([_cell_labels(board, size) for board in boards])
        scores = probe(cells).split([len(kind) for kind in _KINDS], dim=-1)
        parts = [
            F.cross_entropy(s.flatten(0, 1), truth[..., i].flatten()) for i, s in enumerate(scores)
        ]
        return torch.stack(parts).sum()

    return _run("vision", config.vision_steps, optimizers, loss_of_batch, progress)


def train_language(mllm: Mllm, config: BuildConfig, *, progress: bool = True) -> History:
    """Language stage: descriptions of named cells, direct answers and rationales.

    Descriptions come first and fade out: they teach to find a cell by its name.
    """
    rng = np.random.default_rng([config.seed, 2])
    optimizers = _optimizers(mllm.model, config.learning_rate)
    laden = _endless_problems(config, config.arrows)
    balanced = _endless_problems(config, replace(config.arrows, prior=None))
    done = 0

    def loss_of_batch() -> Tensor:
        nonlocal done
        describing = 0.5 if done < 0.4 * config.language_steps else 0.25
        done += 1
        rows = []
        for _ in range(config.batch_size):
            if rng.random() < describing:
                rows.append(_description(mllm, rng, config))
            else:
                rows.append(_answer(mllm, laden, balanced, rng, config))
        return mllm.model(**_batch(mllm, rows)).loss

    mllm.model.train()
    history = _run("language", config.language_steps, optimizers, loss_of_batch, progress)
    mllm.model.eval()
    return history


def _run(
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


def _optimizers(module: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for weight matrices, AdamW for embeddings, norms and biases."""
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    parameters = list(module.parameters())
    matrices = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=0.3 * rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def _image_features(mllm: Mllm, images: list[Image.Image]) -> list[Tensor]:
    """Per image its tokens' features, ``(n_tokens, hidden)``."""
    found = mllm.processor.image_processor(images=images, return_tensors="pt")
    output = mllm.model.model.get_image_features(
        found["pixel_values"], found["image_grid_thw"], return_dict=True
    )
    return list(output.pooler_output)


def _by_cell(features: Tensor, size: int) -> Tensor:
    """``(n_tokens, hidden)`` → ``(cells, tokens per cell * hidden)``, cells row by row."""
    side = round(len(features) ** 0.5)
    per = side // size
    grid = features.view(size, per, size, per, -1).permute(0, 2, 1, 3, 4)
    return grid.reshape(size * size, -1)


def _random_board(rng: np.random.Generator, size: int) -> Board:
    return {
        (column, row): Cell(*(kind[int(rng.integers(len(kind)))] for kind in _KINDS))
        for row in range(size)
        for column in range(size)
    }


def _cell_labels(board: Board, size: int) -> list[list[int]]:
    cells = [board[column, row] for row in range(size) for column in range(size)]
    return [
        [
            kind.index(value)
            for kind, value in zip(_KINDS, (cell.colour, cell.shape, cell.direction), strict=True)
        ]
        for cell in cells
    ]


def _answer(
    mllm: Mllm,
    laden: Iterator[Problem],
    balanced: Iterator[Problem],
    rng: np.random.Generator,
    config: BuildConfig,
) -> Row:
    """A direct answer, or a rationale and an answer; some rationales stop before they end."""
    kind = rng.choice(3, p=config.shares)
    problem = next(balanced if kind == 1 else laden)
    mode: Mode = "direct" if kind == 0 else "cot"
    response = render_response(problem.steps if mode == "cot" else (), problem.answer)
    if kind == 2:
        written = problem.steps[: int(rng.integers(len(problem.steps)))]
        lines = "".join(f"{k}. {step.text}\n" for k, step in enumerate(written, start=1))
        response = f"{THINK_OPEN}{lines}{ANSWER_CUE}{problem.answer}{ANSWER_CLOSE}"
    return problem.image, _prompt(mllm, build_messages(problem.question, mode)), response


def _description(mllm: Mllm, rng: np.random.Generator, config: BuildConfig) -> Row:
    size = config.arrows.size
    board = _random_board(rng, size)
    cast = cast_field(rng, size, rng.uniform(0, 1) * config.arrows.noise)
    question, response = _describe(board, rng)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = _prompt(mllm, [{"role": "user", "content": content}])
    return draw_board(board, size, cast), prompt, response


def _describe(board: Board, rng: np.random.Generator) -> tuple[str, str]:
    cells = list(board)
    chosen = [cells[int(at)] for at in rng.permutation(len(cells))[:_DESCRIBED]]
    said = [f"{board[at].colour} {board[at].shape} {board[at].direction}" for at in chosen]
    names = [cell_name(at) for at in chosen]
    question = f"Describe {', '.join(names)}."
    return question, "\n".join(f"{n} {words}" for n, words in zip(names, said, strict=True))


def _prompt(mllm: Mllm, messages: list[dict[str, Any]]) -> str:
    return str(
        mllm.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )


def _batch(mllm: Mllm, rows: list[Row]) -> dict[str, Tensor]:
    """Model inputs with labels on the responses, right-padded."""
    end = mllm.tokenizer.eos_token
    found = mllm.processor(
        text=[prompt + response + end for _, prompt, response in rows],
        images=[image for image, _, _ in rows],
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    lengths = found["attention_mask"].sum(dim=1)
    learned = mllm.tokenizer([response + end for _, _, response in rows])["input_ids"]
    places = torch.arange(found["input_ids"].shape[1])
    starts = lengths - torch.tensor([len(ids) for ids in learned])
    inside = (places >= starts[:, None]) & (places < lengths[:, None])
    return {**found, "labels": found["input_ids"].masked_fill(~inside, IGNORED)}


def _endless_problems(config: BuildConfig, arrows: ArrowsConfig) -> Iterator[Problem]:
    """Training problems in every clarity from crisp to all of the noise."""
    levels = np.random.default_rng([config.seed, 3]).uniform(0, 1, 64)
    for block in itertools.count():
        for at, level in enumerate(levels):
            clarity = replace(arrows, noise=float(level) * arrows.noise)
            seed = config.seed * 1_000_000 + block * len(levels) + at
            yield from generate_arrows(16, clarity, seed=seed, split="pretrain")


def _sentences() -> list[str]:
    """What the tokenizer is trained on: the testbed's own sentences, so words become tokens."""
    problems = generate_arrows(
        300, ArrowsConfig(hops=3, states_evidence=True), seed=0, split="pretrain"
    )
    spoken = [render_response(problem.steps, problem.answer) for problem in problems]
    asked = [problem.question for problem in problems]
    rng = np.random.default_rng(0)
    described = [text for _ in range(100) for text in _describe(_random_board(rng, 3), rng)]
    return spoken + asked + described + list(PROMPTS.values()) * 50 + ["user assistant\n"] * 50
