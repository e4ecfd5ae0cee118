"""Visual access: how much each rationale step attends to the image and to its own evidence.

Attention is a cheap sign of access, not evidence of it: information also reaches a step through
question tokens that read the image before. `dependence` is the causal counterpart.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from attcot_analysis.errors import LayoutError, MeasureError
from attcot_analysis.measure.attention import attached
from attcot_analysis.measure.probe import read_masses
from attcot_analysis.models import Encoded, Mllm, collate, encode_problem, token_starts
from attcot_analysis.models.inputs import ImageLike
from attcot_analysis.problems import Problem, parse_response

IMAGE, TEXT, SYSTEM, QUESTION, EVIDENCE = range(5)
"""The probe's columns; every step has its own evidence column from `EVIDENCE` on."""

QUANTITIES = ("mass", "share", "density", "evidence_mass", "evidence_share")
"""The measured columns of `visual_access`."""


def visual_access(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int] | str],
    *,
    images: Sequence[ImageLike] | None = None,
    layers: Collection[int] | None = None,
    batch_size: int = 16,
    skip_empty: bool = False,
    progress: bool = False,
) -> pd.DataFrame:
    """Attention of each rationale step on the image, per layer and head.

    A step's values are means over its rows; the row of token t is position t - 1, whose query
    predicts t. Definitions ("visual-token access", a reconstruction of the Att-CoT paper's idea):

    * ``mass``: attention on all image tokens, in [0, 1].
    * ``share``: ``mass`` over the attention on system, image and question, so that the growing
      rationale does not dilute it (the segment-normalised form of VISTA).
    * ``density``: mean attention per image token over mean attention per other visible token;
      1 means that the image gets what uniform attention would give it.
    * ``evidence_mass``: attention on image tokens, each weighted by the share of its area that
      lies in the step's evidence boxes; NaN for a step without boxes.
    * ``evidence_share``: ``evidence_mass`` over ``mass``.

    Ratios are ratios of step means. Step number k of a response is held against the boxes of the
    problem's step k; give problems with other steps if an edit has moved the evidence.

    Args:
        mllm: The model.
        problems: The items.
        responses: One response per item, text or token ids, with a rationale.
        images: Pictures to show instead of the problems' own.
        layers: Layers to read; all with full attention if ``None``.
        batch_size: Items per forward pass.
        skip_empty: Leave out items whose response has no step, instead of refusing them.
        progress: Show a progress bar.

    Returns:
        One row per item, step, layer and head: ``item, step (1..K), n_steps, layer, head``, the
        quantities above, and ``rows``, the number of rows averaged.

    Raises:
        MeasureError: If the numbers of problems, responses and images differ.
        LayoutError: If a response has no step, unless ``skip_empty``.
    """
    _check_lengths(problems, responses, images)
    kept = _with_steps(mllm, problems, responses, skip_empty)
    tables = []
    with attached(mllm.model):
        starts = range(0, len(kept), batch_size)
        for start in tqdm(starts, desc="visual access", disable=not progress):
            part = []
            for index in kept[start : start + batch_size]:
                image = None if images is None else images[index]
                problem, response = problems[index], responses[index]
                item = encode_problem(mllm, problem, response=response, image=image)
                part.append((problem, item))
            tables += _read(mllm, part, layers)
    if not tables:
        return pd.DataFrame(
            columns=["item", "step", "n_steps", "layer", "head", *QUANTITIES, "rows"]
        )
    return pd.concat(tables, ignore_index=True)


def access_trajectory(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up `visual_access` per item: level and course over the rationale.

    Layers and heads are averaged first; select rows of the table to sum up some of them only.

    Returns:
        One row per item: ``item, n_steps``; ``mass``, ``share``, ``density``, ``evidence_mass``
        and ``evidence_share``, means over steps; ``mass_first_step``, ``mass_last_step``;
        ``mass_slope``, the least-squares slope of mass against step position k/K (NaN for one
        step); ``late_over_early``, mean mass of the last third of steps over the first third
        (NaN for one step).

    Raises:
        MeasureError: If the table lacks a column.
    """
    missing = {"item", "step", "n_steps", *QUANTITIES} - set(table.columns)
    if missing:
        raise MeasureError(
            f"The table lacks {', '.join(sorted(missing))}; give one made by visual_access()."
        )
    columns = ["n_steps", *QUANTITIES]
    steps = table.groupby(["item", "step"], sort=False)[columns].mean().reset_index()
    steps = steps.sort_values("step", kind="stable")
    items = steps.groupby("item", sort=False)
    level = items[columns].mean()
    course = pd.DataFrame.from_records(
        [{"item": item, **_course(group["mass"].to_numpy())} for item, group in items],
        columns=["item", "mass_first_step", "mass_last_step", "mass_slope", "late_over_early"],
    )
    found = level.reset_index().merge(course, on="item")
    return found.astype({"n_steps": int})


def _course(mass: npt.NDArray[np.float64]) -> dict[str, float]:
    n_steps = len(mass)
    slope = late = float("nan")
    if n_steps > 1:
        third = -(-n_steps // 3)
        slope = float(np.polyfit(np.arange(1, n_steps + 1) / n_steps, mass, 1)[0])
        late = float(mass[-third:].mean() / mass[:third].mean())
    return {
        "mass_first_step": float(mass[0]),
        "mass_last_step": float(mass[-1]),
        "mass_slope": slope,
        "late_over_early": late,
    }


def access_columns(item: Encoded, evidence: Sequence[npt.NDArray[np.float64]]) -> Tensor:
    """The probe's columns for one item.

    Args:
        item: With an image.
        evidence: Per step, the weight of each image token, ``(N,)`` in [0, 1].

    Returns:
        ``(T, 4 + K)``: image, text, system, question, then the evidence of steps 1..K.
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
    cols[torch.from_numpy(layout.image), TEXT] = 0
    for step, weights in enumerate(evidence):
        cols[torch.from_numpy(layout.image), EVIDENCE + step] = torch.tensor(weights).float()
    return cols


def step_evidence(problem: Problem, item: Encoded) -> list[npt.NDArray[np.float64] | None]:
    """Per step of the response, how far the step's evidence boxes cover each image token.

    Returns:
        K arrays ``(N,)`` in [0, 1]; ``None`` where the problem has no such step or no boxes for it.
    """
    found: list[npt.NDArray[np.float64] | None] = []
    for index in range(item.layout.n_steps):
        boxes = problem.steps[index].boxes if index < len(problem.steps) else ()
        covered = [grid.coverage(boxes) for grid in item.layout.grids]
        found.append(np.concatenate(covered) if boxes and covered else None)
    return found


def _with_steps(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int] | str],
    skip_empty: bool,
) -> list[int]:
    """Which items have steps; checked before any forward pass, so that nothing is lost."""
    kept = []
    for index, response in enumerate(responses):
        if not isinstance(response, str):
            response = token_starts(mllm.tokenizer, response)[0]
        if parse_response(response).steps:
            kept.append(index)
        elif not skip_empty:
            raise LayoutError(
                f"Problem {problems[index].id}: its response has an empty rationale; visual "
                "access needs at least one step inside <think>...</think> (skip_empty=True "
                "leaves such items out)."
            )
    return kept


def _read(
    mllm: Mllm, part: Sequence[tuple[Problem, Encoded]], layers: Collection[int] | None
) -> list[pd.DataFrame]:
    items = [item for _, item in part]
    evidence = [step_evidence(problem, item) for problem, item in part]
    nothing = [np.zeros(len(item.layout.image)) for item in items]
    columns = [
        access_columns(item, [none if weights is None else weights for weights in steps])
        for item, steps, none in zip(items, evidence, nothing, strict=True)
    ]
    widest = max(column.shape[1] for column in columns)
    longest = max(len(column) for column in columns)
    cols = torch.stack(
        [
            torch.nn.functional.pad(column, (0, widest - column.shape[1], 0, longest - len(column)))
            for column in columns
        ]
    )
    chosen = [
        torch.from_numpy(np.concatenate([item.layout.rows(step) for step in item.layout.steps]))
        for item in items
    ]
    rows = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)
    masses = read_masses(mllm, collate(mllm, items), cols, rows, layers=layers)
    stacked = torch.stack(list(masses.values()), dim=1).cpu().double().numpy()
    return [
        _table(problem, item, stacked[index], tuple(masses), evidence[index])
        for index, (problem, item) in enumerate(part)
    ]


def _table(
    problem: Problem,
    item: Encoded,
    masses: npt.NDArray[np.float64],
    layers: Sequence[int],
    evidence: Sequence[npt.NDArray[np.float64] | None],
) -> pd.DataFrame:
    """One item's rows of the table; ``masses`` are ``(L, H, R, C)``."""
    layout = item.layout
    n_layers, n_heads = masses.shape[:2]
    layer, head = (axis.ravel() for axis in np.meshgrid(layers, range(n_heads), indexing="ij"))
    tables = []
    start = 0
    for number, span in enumerate(layout.steps, start=1):
        stop = start + span.size
        tables.append(
            pd.DataFrame(
                {
                    "item": problem.id,
                    "step": number,
                    "n_steps": layout.n_steps,
                    "layer": layer,
                    "head": head,
                    **_quantities(
                        masses[:, :, start:stop].reshape(n_layers * n_heads, span.size, -1),
                        n_image=len(layout.image),
                        n_visible=layout.rows(span) + 1,
                        evidence=None if evidence[number - 1] is None else EVIDENCE + number - 1,
                    ),
                    "rows": span.size,
                }
            )
        )
        start = stop
    return pd.concat(tables, ignore_index=True)


def _quantities(
    masses: npt.NDArray[np.float64],
    *,
    n_image: int,
    n_visible: npt.NDArray[np.int64],
    evidence: int | None,
) -> Mapping[str, Any]:
    """The measured quantities of one step from masses ``(L * H, rows, C)``."""
    mean = masses.mean(axis=1)
    image = mean[:, IMAGE]
    per_text = (masses[:, :, TEXT] / (n_visible - n_image)).mean(axis=1)
    nan = np.full(len(mean), np.nan)
    evidence_mass = nan if evidence is None else mean[:, evidence]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "mass": image,
            "share": image / (mean[:, SYSTEM] + image + mean[:, QUESTION]),
            "density": (image / n_image) / per_text if n_image else nan,
            "evidence_mass": evidence_mass,
            "evidence_share": evidence_mass / image,
        }


def _check_lengths(
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int] | str],
    images: Sequence[ImageLike] | None,
) -> None:
    if len(problems) != len(responses) or (images is not None and len(images) != len(problems)):
        shown = "" if images is None else f" and {len(images)} images"
        raise MeasureError(
            f"{len(problems)} problems came with {len(responses)} responses{shown}; "
            "give one per problem."
        )
