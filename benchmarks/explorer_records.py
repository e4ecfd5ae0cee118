"""Explorer records of any size, made without a model, for benches and tests."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from attcot_analysis.measures.maps import ResponseMaps, Source
from attcot_analysis.models import TokenGrid
from attcot_analysis.problems import Box, Problem, Step
from attcot_analysis.show.explorer.record import ExplorerModel, ExplorerRecord

LABELS = ("CoT-SFT", "Att-CoT", "Base", "SAYO")
WORDS = (" the", " arrow", " in", " b", "2", " points", " down", " to", " c", "3", ".\n")


def planted_record(
    *,
    models: int = 2,
    layers: int = 4,
    heads: int = 4,
    steps: int = 3,
    step_tokens: int = 8,
    rows: int = 6,
    cols: int = 6,
    labels: Sequence[str] = LABELS,
    text: str | None = None,
) -> ExplorerRecord:
    """A record in which a bright spot walks over the picture with token, layer and head.

    Its attention is a strided view of few numbers, so that a record of hundreds of millions takes
    no more memory than its tokens.

    Args:
        models: How many, at most four.
        layers: Of attention.
        heads: Of each layer.
        steps: Of the rationale, K.
        step_tokens: Of each step; the text has seven more.
        rows: Of the token grid.
        cols: Of the token grid.
        labels: Of the models.
        text: Put into question, candidates, labels and tokens, to see that it stays text.
    """
    side = 16 * max(rows, cols)
    boxes = [_box(number, rows, cols) for number in range(steps)]
    names = ("blue", "red", text or "green", "yellow")
    problem = Problem(
        id="planted",
        image=_picture(16 * cols, 16 * rows, side),
        question=f"Anna starts at a1 and follows {steps} arrows. On which colour?{text or ''}",
        candidates=names,
        answer="blue",
        steps=tuple(Step(f"step {number}", (box,)) for number, box in enumerate(boxes, start=1)),
        habitual="red",
    )
    tokens = ["<think>", "\n"]
    of_step = [0, 0]
    for number in range(1, steps + 1):
        words = [str(number), ".", *(WORDS[at % len(WORDS)] for at in range(step_tokens - 3)), "\n"]
        tokens += words[:step_tokens]
        of_step += [number] * step_tokens
    tokens += ["</think>", "\n", text or "<answer>", "blue", "</answer>"]
    of_step += [0] * 5
    answer = len(tokens) - 2
    grid = TokenGrid.regular(problem.image.size, rows, cols)
    per_token = tuple((boxes[step - 1],) if step else () for step in of_step)

    def maps(weights: npt.NDArray[np.float32], source: Source) -> ResponseMaps:
        return ResponseMaps(weights, grid, tuple(tokens), tuple(of_step), per_token, answer, source)

    found = []
    for at in range(models):
        walk = _walk(len(tokens) + 3 * layers + 5 * heads, rows, cols, speed=0.37 + 0.11 * at)
        strides = (3 * walk.strides[0], 5 * walk.strides[0], *walk.strides)
        shape = (layers, heads, len(tokens), rows * cols)
        attention = np.lib.stride_tricks.as_strided(walk, shape, strides, writeable=False)
        slow = _walk(len(tokens), rows, cols, speed=0.15 + 0.05 * at)[None, None]
        by_step = slow[:, :, [2 + (step - 1) * step_tokens if step else 0 for step in of_step]]
        by_step = np.where(np.array(of_step)[:, None] > 0, by_step, np.nan).astype(np.float32)
        found.append(
            ExplorerModel(
                label=f"{labels[at]}{text or ''}",
                maps=(
                    maps(attention, "attention"),
                    maps(slow, "rollout"),
                    maps(by_step, "gradient_relevance"),
                ),
                commitment=_commitment(problem, steps, at),
                response=f"<think>\n1. {text or 'a1 points to b1.'}\n</think>",
                answer=names[(at + 1) % 2],
            )
        )
    visual = tuple((layer, head) for layer in range(layers) for head in range(layer % 2, heads, 2))
    return ExplorerRecord(problem, tuple(found), visual, "Every other head.", "Planted words.")


def _walk(n: int, rows: int, cols: int, speed: float) -> npt.NDArray[np.float32]:
    """``(n, rows * cols)``: a spot on a path through the grid, its mass between 0.2 and 0.9."""
    at = np.arange(n)
    y = (rows - 1) * (0.5 + 0.45 * np.sin(speed * at))
    x = (cols - 1) * (0.5 + 0.45 * np.cos(1.3 * speed * at))
    down = np.exp(-(((np.arange(rows) - y[:, None]) / (0.14 * rows)) ** 2))
    across = np.exp(-(((np.arange(cols) - x[:, None]) / (0.14 * cols)) ** 2))
    spot = (down[:, :, None] * across[:, None, :] + 0.01).reshape(n, -1)
    mass = 0.55 + 0.35 * np.sin(0.9 * speed * at)
    return (spot / spot.sum(axis=1, keepdims=True) * mass[:, None]).astype(np.float32)


def _box(number: int, rows: int, cols: int) -> Box:
    """A box of a third of the picture's side, another one for every step."""
    width, height = 16 * cols / 3, 16 * rows / 3
    row, col = divmod(4 * number % 9, 3)
    return (col * width, row * height, (col + 1) * width, (row + 1) * height)


def _picture(width: int, height: int, side: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    rings = np.hypot(x - width / 3, y - height / 2) % (side / 6) < side / 12
    pixels = np.stack([255 * x / width, 255 * y / height, 90 + 120 * rings], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def _commitment(problem: Problem, steps: int, at: int) -> pd.DataFrame:
    """The first model is sure of the habit from the start, the others learn it step by step."""
    rows = []
    for step in range(steps + 1):
        rising = step / steps
        p = [0.05 + 0.8 * rising, 0.85 - 0.8 * rising, 0.05, 0.05]
        if at == 0:
            p = [0.04, 0.9, 0.03, 0.03]
        for name, value in zip(problem.candidates, p, strict=True):
            rows.append(
                {
                    "item": problem.id,
                    "control": "rationale",
                    "step": step,
                    "n_steps": steps,
                    "candidate": name,
                    "log_p": float(np.log(value)),
                    "p": value,
                    "leaked": step == steps and name == "blue",
                }
            )
    return pd.DataFrame(rows)
