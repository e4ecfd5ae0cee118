"""Rows of datasets for `GRPOTrainer`: problems as rows, and what rewards get back of them."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import PROMPTS, read_image
from attcot_analysis.problems import Problem


def grpo_rows(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Problems as rows for `GRPOTrainer`, with the columns that the rewards read."""
    return [
        {
            "id": problem.id,
            "prompt": [{"role": "user", "content": f"{problem.question}\n{PROMPTS['cot']}"}],
            "images": [problem.image],
            "question": problem.question,
            "candidates": list(problem.candidates),
            "answer": problem.answer,
            "boxes": [[list(box) for box in step.boxes] for step in problem.steps],
        }
        for problem in problems
    ]


def rows_of(columns: Mapping[str, Any], needed: Sequence[str], name: str) -> list[dict[str, Any]]:
    """Per completion the columns that a reward reads, with ``question`` if there is one.

    Args:
        columns: What `GRPOTrainer` passes on, one value per completion in each.
        needed: Which must be there.
        name: The reward's, for the error.

    Raises:
        TrainingError: If one is not.
    """
    missing = [column for column in needed if column not in columns]
    if missing:
        raise TrainingError(
            f"The {name} reward needs column {', '.join(missing)} in the dataset; add it, and keep "
            "remove_unused_columns=False."
        )
    known = {key: columns[key] for key in (*needed, "question") if key in columns}
    return [dict(zip(known, values, strict=True)) for values in zip(*known.values(), strict=True)]


def pictures_of(messages: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
    """The pictures of a prompt as `GRPOTrainer` puts them into its messages, in order."""
    parts = [
        part
        for message in messages
        if not isinstance(message.get("content"), str)
        for part in message.get("content") or ()
    ]
    return [read_image(part["image"]) for part in parts if part["type"] == "image"]


def picture_key(picture: Image.Image) -> tuple[tuple[int, int], bytes]:
    """Equal for pictures with equal pixels; datasets decode a picture anew each time it is used."""
    return picture.size, hashlib.blake2b(picture.tobytes()).digest()
