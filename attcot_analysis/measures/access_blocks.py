"""Which rows visual access averages, which keys it groups, and the quantities that come of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attcot_analysis.models import Encoded
from attcot_analysis.problems import Box, Problem

IMAGE, TEXT, SYSTEM, QUESTION, EVIDENCE = range(5)
"""The probe's columns; every block has its own evidence columns from `EVIDENCE` on."""

QUANTITIES = ("mass", "share", "density", "evidence_mass", "evidence_share")
"""The measured columns of `visual_access`."""

SINK_QUANTITIES = ("sink_free_mass", "sink_share")
"""The measured columns that sinks add."""

ANSWER_QUANTITIES = (*QUANTITIES, "last_evidence_mass", "last_evidence_share")
"""The measured columns of `answer_access`."""

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that become one row of a table, per layer and head.

    Attributes:
        labels: Columns that say what the rows are.
        rows: ``(R,)`` positions.
        evidence: Prefix of two columns, ``..._mass`` and ``..._share`` → the weight of each image
            token in the evidence, ``(N,)`` in [0, 1]; ``None`` where there is none to be seen.
    """

    labels: Mapping[str, int]
    rows: npt.NDArray[np.int64]
    evidence: Mapping[str, Weights | None]


def step_blocks(problem: Problem, item: Encoded) -> list[Block]:
    """One block per rationale step, with the evidence of the problem's step of that number."""
    layout = item.layout
    return [
        Block(
            {"step": number, "n_steps": layout.n_steps},
            layout.rows(span),
            {"evidence": evidence},
        )
        for number, (span, evidence) in enumerate(
            zip(layout.steps, step_evidence(problem, item), strict=True), start=1
        )
    ]


def answer_blocks(problem: Problem, item: Encoded) -> list[Block]:
    """The row that predicts the answer's first token, if any, with the evidence of all steps."""
    layout = item.layout
    if layout.answer is None:
        return []
    own = [step.boxes for step in problem.steps if step.boxes]
    return [
        Block(
            {"n_steps": layout.n_steps},
            np.array([layout.answer.start - 1]),
            {
                "evidence": _coverage(item, problem.evidence_boxes),
                "last_evidence": _coverage(item, own[-1] if own else problem.evidence),
            },
        )
    ]


def step_evidence(problem: Problem, item: Encoded) -> list[Weights | None]:
    """Per step of the response, how far the step's evidence boxes cover each image token.

    Returns:
        K arrays ``(N,)`` in [0, 1]; ``None`` where the problem has no boxes for the step, or the
        processor leaves all of them out of what the model sees.
    """
    return [
        _coverage(item, problem.step_boxes(number)) for number in range(1, item.layout.n_steps + 1)
    ]


def _coverage(item: Encoded, boxes: Sequence[Box]) -> Weights | None:
    if not any(grid.sees(boxes) for grid in item.layout.grids):
        return None
    return np.concatenate([grid.coverage(boxes) for grid in item.layout.grids])


def access_columns(item: Encoded, evidence: Sequence[Weights | None]) -> Tensor:
    """The probe's columns for one item.

    Args:
        item: With an image.
        evidence: Weights of the image tokens, each ``(N,)`` in [0, 1]; ``None`` counts as zero.

    Returns:
        ``(T, 4 + E)``: image, text, system, question, then each evidence.
    """
    layout = item.layout
    cols = torch.zeros(layout.n_tokens, EVIDENCE + len(evidence))
    cols[:, TEXT] = 1
    for column, places in (
        (IMAGE, layout.image),
        (SYSTEM, layout.system),
        (QUESTION, layout.question),
    ):
        cols[torch.from_numpy(places), column] = 1
    image = torch.from_numpy(layout.image)
    cols[image, TEXT] = 0
    for index, weights in enumerate(evidence):
        if weights is not None:
            cols[image, EVIDENCE + index] = torch.tensor(weights).float()
    return cols


def with_sinks(cols: Tensor, sinks: Tensor) -> Tensor:
    """Columns with one more, the last: image tokens that are sinks, ``sinks`` being ``(B, T)``."""
    return torch.cat([cols, cols[..., [IMAGE]] * sinks[..., None].to(cols)], dim=-1)


def quantities(
    masses: Weights,
    *,
    n_image: int,
    n_visible: npt.NDArray[np.int64],
    evidence: Mapping[str, int | None],
    sinks: bool,
) -> dict[str, Any]:
    """The measured quantities of one block.

    Args:
        masses: ``(L * H, R, C)``.
        n_image: Number of image tokens.
        n_visible: ``(R,)`` tokens that each row sees.
        evidence: Prefix → the probe's column, ``None`` where there is no evidence.
        sinks: Whether the last column is that of `with_sinks`.

    Returns:
        Column → ``(L * H,)``. Ratios are ratios of means over rows.
    """
    mean = masses.mean(axis=1)
    image = mean[:, IMAGE]
    per_text = (masses[:, :, TEXT] / (n_visible - n_image)).mean(axis=1)
    nan = np.full(len(mean), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "mass": image,
            "share": image / (mean[:, SYSTEM] + image + mean[:, QUESTION]),
            "density": (image / n_image) / per_text if n_image else nan,
        }
        for prefix, column in evidence.items():
            on_it = nan if column is None else mean[:, column]
            found |= {f"{prefix}_mass": on_it, f"{prefix}_share": on_it / image}
        if sinks:
            # Two sums of the same weights: without the clip rounding could leave less than none.
            on_sinks = np.minimum(mean[:, -1], image)
            found |= {"sink_free_mass": image - on_sinks, "sink_share": on_sinks / image}
    return found
