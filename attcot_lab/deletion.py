"""Deletion and insertion: does a map rank first what the response hangs on?

For maps of any source: attention, rollout, relevance, and captum's occlusion, Shapley values and
integrated gradients.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.integrate import trapezoid
from torch import Tensor

from attcot_analysis.errors import LayoutError, MeasureError
from attcot_analysis.measures.attributions import Fill, shown_pictures, shown_scores
from attcot_analysis.measures.maps import ResponseMaps, response_parts
from attcot_analysis.models import Mllm
from attcot_analysis.models.inputs import Shown
from attcot_analysis.problems import Problem


def deletion_curves(
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    maps: Sequence[ResponseMaps],
    *,
    step: int = 0,
    image: Shown | None = None,
    fill: Fill = "mean",
    n_points: int = 10,
    n_random: int = 5,
    seed: int = 0,
    batch_size: int = 8,
) -> pd.DataFrame:
    """Paint over the picture in the order in which a map ranks it, and show it in that order.

    A map that finds what log p hangs on loses it early when its first tokens are painted over
    (deletion), and gains it early when they alone are shown (insertion). Random orders are the
    null: a map no better than them says nothing of what the response hangs on.

    Args:
        mllm: The model.
        problem: The item.
        response: The one that the maps are of.
        maps: From any source (`attribution_maps`, `relevance_maps`, `response_maps`).
        step: Whose map and log p, from 1; 0 for the answer's.
        image: The picture that the maps are of, if not the item's own.
        fill: See `attribution_maps`.
        n_points: Shares of the tokens, evenly from none to all.
        n_random: Random orders.
        seed: Of these.
        batch_size: Pictures per forward pass.

    Returns:
        One row per order, way and point: ``source`` (of the map, or ``"random"``), ``draw``,
        ``way`` (``"deletion"``, ``"insertion"``), ``share`` of the tokens painted over or shown,
        ``log_p``. `deletion_areas` sums it up. A map costs 2 · ``n_points`` passes, as does each
        random order.

    Raises:
        MeasureError: If maps are of another picture, or two are of one source.
        LayoutError: If the response has no such step or answer.

    Source: Petsiuk et al., RISE, arXiv 1806.07421 (deletion and insertion), on log p.
    """
    pictures = shown_pictures(problem, image)
    asked = response_parts(mllm, problem, response, "steps" if step else "answer", image=pictures)
    place = next((at for at, part in enumerate(asked.parts) if part.step == step), None)
    if place is None:
        raise LayoutError(f"The response to problem {problem.id} has no step {step} with a map.")
    grids = asked.item.layout.grids
    n_tokens = sum(map(len, grids))
    names = [one.source for one in maps]
    if any(len(one.grid) != n_tokens for one in maps) or len(set(names)) < len(names):
        raise MeasureError(
            f"Problem {problem.id}: maps of {', '.join(names)} are not one of each source on "
            f"{n_tokens} image tokens; give those of this picture."
        )
    weights: dict[str, npt.NDArray[np.floating]] = {
        one.source: one.step_weights()[step - 1] if step else one.answer_weights() for one in maps
    }
    score = shown_scores(mllm, problem, asked, pictures, [one.boxes for one in grids], fill)
    return order_curves(
        lambda shown: score(shown)[:, place], weights, n_points, n_random, seed, batch_size
    )


def order_curves(
    score: Callable[[Tensor], Tensor],
    weights: Mapping[str, npt.NDArray[np.floating]],
    n_points: int = 10,
    n_random: int = 5,
    seed: int = 0,
    batch_size: int = 8,
) -> pd.DataFrame:
    """`deletion_curves` of any score.

    Args:
        score: ``(B, N)`` floats, 1 where a region is shown, to ``(B,)`` scores.
        weights: Source → what it makes of each region, ``(N,)``; the largest come first.
        n_points: As there.
        n_random: As there.
        seed: As there.
        batch_size: Most rows per call of the score.
    """
    n, rng = len(next(iter(weights.values()))), np.random.default_rng(seed)
    orders = [(name, 0, np.argsort(-one, kind="stable")) for name, one in weights.items()]
    orders += [("random", draw, rng.permutation(n)) for draw in range(n_random)]
    counts = np.unique(np.rint(np.linspace(0, n, n_points + 1)).astype(int))
    rows: list[tuple[str, int, str, float]] = []
    shown = []
    for name, draw, order in orders:
        for count in counts.tolist():
            first = torch.zeros(n)
            first[order[:count].copy()] = 1
            shown += [1 - first, first]
            rows += [(name, draw, way, count / n) for way in ("deletion", "insertion")]
    every, back = torch.stack(shown).unique(dim=0, return_inverse=True)
    found = torch.cat([score(some) for some in every.split(batch_size)])[back]
    table = pd.DataFrame(rows, columns=["source", "draw", "way", "share"])
    return table.assign(log_p=found.double().numpy())


def deletion_areas(curves: pd.DataFrame) -> pd.DataFrame:
    """Areas under `deletion_curves`: low under deletion and high under insertion is good.

    Returns:
        ``source``; ``deletion``, ``insertion`` (nats, mean over draws); ``gain``, the second minus
        the first; ``beyond_random``, the gain less that of random orders (missing without any).
    """

    def area(rows: pd.DataFrame) -> float:
        return float(trapezoid(rows["log_p"], rows["share"]))

    keys = ["source", "way", "draw"]
    areas = curves.sort_values("share").groupby(keys, sort=False)[["share", "log_p"]].apply(area)
    wide = areas.groupby(["source", "way"], sort=False).mean().unstack("way")
    wide["gain"] = wide["insertion"] - wide["deletion"]
    wide["beyond_random"] = wide["gain"] - wide["gain"].get("random", float("nan"))
    return wide.rename_axis(columns=None).reset_index()
