"""Memory: how many items a batch can have, from what one of them takes."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch

from attcot_analysis.attention.packing import candidate_tokens
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Encoded, Mllm, encode_problem
from attcot_analysis.problems import Problem
from attcot_analysis.runs.batches import estimated_lengths
from attcot_analysis.runs.run import MANIFEST, RunFolder

_HEAP = 1.75
"""Without a GPU: what the process holds over what its tensors take, since freed blocks of unlike
size stay in the heap; the bench `memory` holds it against runs."""

MOST = 256
"""Items per batch at most: a batch is what is lost when a run is killed."""

_MLP_TENSORS = 4
"""Of an MLP's width, held per token or patch while a layer runs."""

_STEP = 32
"""Tokens of a step, about; an answer is forced after each."""

_READ = 8
"""Rows of logits after every step of an open question's rationale, about."""

_LOGITS = 3
"""Copies of the logits that forced answers are read from."""

_PIXELS = 3
"""Copies of the prepared pictures in the computer's memory: the item's, an edit's, a batch's."""


def filling(
    folder: str | Path,
    mllm: Mllm,
    problems: Sequence[Problem],
    budget: int,
    *,
    response: int,
    samples: int = 1,
) -> tuple[int, str]:
    """How many items per batch fill some memory, by arithmetic on the model's shape.

    It is an estimate; a batch that does not fit all the same is halved.

    Args:
        folder: Of the run; one that was begun keeps its batches.
        mllm: The model.
        problems: The items; the one with the largest picture and question counts.
        budget: Bytes in all, the weights and what else is held already among them.
        response: Tokens of the longest response.
        samples: Responses per item.

    Returns:
        Items per batch, and a sentence that says why.

    Raises:
        MeasureError: If there are no problems, or the model takes the whole budget.
    """
    run = RunFolder(folder)
    config = run.manifest.get("config") if run.has(MANIFEST) else None
    if isinstance(config, dict) and isinstance(size := config.get("batch_size"), int):
        return size, f"Batches of {size}, which this run was begun with."
    if not problems:
        raise MeasureError("No problems were given to plan a batch for; give at least one.")
    free = budget - held(mllm.device)
    if free <= 0:
        raise MeasureError(
            f"The model and its libraries take {(budget - free) / 1e9:.1f} GB, and --max-memory "
            f"states {budget / 1e9:.1f} GB; raise it."
        )
    lengths = estimated_lengths(problems)
    largest = problems[lengths.index(max(lengths))]
    forced = max((one.candidates for one in problems), key=len)
    read = len(candidate_tokens(mllm, forced).tree.read_nodes) if forced else _READ
    item = encode_problem(mllm, largest)
    needed = item_bytes(mllm, item, response, samples, read)
    kept, passing = (in_process(one, mllm.device) for one in needed)
    size = max(1, min(free // (kept + passing), len(problems), MOST))
    return size, (
        f"Batches of {size}: an item takes about {kept / 1e6:.0f} MB of keys and values and "
        f"{passing / 1e6:.0f} MB while the model runs, and {free / 1e9:.1f} GB are free."
    )


def item_bytes(
    mllm: Mllm, item: Encoded, response: int, samples: int = 1, read: int = _READ
) -> tuple[int, int]:
    """What an item takes: keys and values that are kept, and the largest forward pass.

    Kept are those of the item, of one edited picture, of a copy of one while responses are written,
    and of further samples. A pass holds the pictures and, whichever is more, the widest layer, of
    the tower or of the text, with the attention that is read, or ``read`` rows of logits after
    every step.
    """
    text, vision = mllm.text_config, getattr(mllm.model.config, "vision_config", None)
    tokens = item.layout.n_tokens + response
    wide = tokens * int(getattr(text, "intermediate_size", 0) or 4 * text.hidden_size)
    shown = 0
    for pixels in item.vision.values():
        if pixels.is_floating_point() and vision is not None:
            side = getattr(vision, "patch_size", 14)
            patch = side**2 if isinstance(side, int) else prod(side)
            patch *= 3 * getattr(vision, "temporal_patch_size", 1)
            own = getattr(vision, "intermediate_size", 0) or 4 * vision.hidden_size
            most = int(max(own) if isinstance(own, list) else own)
            wide = max(wide, pixels.numel() // patch * most)
            shown += pixels.numel() * (1 if mllm.device.type == "cuda" else _PIXELS)
    rows = int(text.num_attention_heads) * response * tokens
    logits = _LOGITS * read * (response // _STEP + 1) * int(text.vocab_size)
    kept = token_bytes(mllm) * (3 * tokens + (samples - 1) * response)
    layer = _MLP_TENSORS * wide * mllm.dtype.itemsize + 4 * rows
    return kept, max(layer, 4 * logits) + 4 * shown


def in_process(amount: int, device: torch.device) -> int:
    """What a process needs to hold so many bytes of tensors."""
    return amount if device.type == "cuda" else int(_HEAP * amount)


def token_bytes(mllm: Mllm) -> int:
    """What a token's keys and values take, in all layers."""
    text: Any = mllm.text_config
    heads = int(text.num_attention_heads)
    size = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    of_keys = int(getattr(text, "num_key_value_heads", None) or heads)
    return 2 * mllm.n_layers * of_keys * size * mllm.dtype.itemsize


def held(device: torch.device) -> int:
    """Bytes that this process holds where the model is, as `memory_limit` counts them."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    status = Path("/proc/self/status")
    lines = status.read_text("ascii").splitlines() if status.exists() else []
    return next((1024 * int(one.split()[1]) for one in lines if one.startswith("VmData:")), 0)
