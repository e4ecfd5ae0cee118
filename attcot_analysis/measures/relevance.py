"""Relevance from any source, on one record, and how far the sources agree with each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from attcot_analysis.attention.flow import Capture, carry, carry_gradients, frozen
from attcot_analysis.attention.hook import attached, reading
from attcot_analysis.errors import MeasureError, check_known
from attcot_analysis.measures._items import Empty, Response, Result, batches, paired
from attcot_analysis.measures.attributions import attribution_maps
from attcot_analysis.measures.maps import (
    ResponseMaps,
    ResponseParts,
    Source,
    Targets,
    maps_of_parts,
    response_maps,
    response_parts,
)
from attcot_analysis.models import Mllm, collate, evaluating
from attcot_analysis.models.inputs import Shown, last_row
from attcot_analysis.problems import Box, Problem
from attcot_analysis.stats.crossed import step_curve


def _rollout(mllm: Mllm, asked: ResponseParts, block: int | None = None) -> ResponseMaps:
    """Attention rollout; see `relevance_maps`."""
    capture = Capture()
    model = mllm.model
    batch = collate(mllm, [asked.item])
    with torch.no_grad(), evaluating(model), attached(model), reading(capture):
        model(**batch, logits_to_keep=last_row(batch), use_cache=False)
    flow = carry(capture.layers(mllm), _start(asked).to(mllm.device), block)
    return maps_of_parts(asked, _image(asked, flow).numpy(), "rollout")


def _gradients(mllm: Mllm, asked: ResponseParts, block: int | None = None) -> ResponseMaps:
    """Gradient-weighted relevance; see `relevance_maps`."""
    capture = Capture(gradients=True)
    model = mllm.model
    with (
        torch.enable_grad(),
        frozen(model),
        evaluating(model),
        attached(model),
        reading(capture),
    ):
        batch = collate(mllm, [asked.item])
        rows = asked.rows.to(mllm.device)
        logits = model(**batch, logits_to_keep=rows, use_cache=False).logits
        log_p = asked.log_probs(logits)[0].unbind()
    calls = capture.layers(mllm)
    outputs = [call.output for call in calls if call.output is not None]
    starts = _start(asked).to(mllm.device)
    found = []
    for at, start in enumerate(starts):
        last = at == len(starts) - 1
        grads = torch.autograd.grad(log_p[at], outputs, retain_graph=not last)
        found.append(_image(asked, carry_gradients(calls, list(grads), start[None], block)))
    return maps_of_parts(asked, torch.cat(found).numpy(), "gradient_relevance")


def _start(asked: ResponseParts) -> Tensor:
    """``(P, T)``: per part the mean of its rows of the identity."""
    member = asked.membership()
    start = torch.zeros(len(asked.parts), asked.item.layout.n_tokens)
    start[:, asked.rows] = member / member.sum(1, keepdim=True)
    return start


def _image(asked: ResponseParts, flow: Tensor) -> Tensor:
    """What arrived at the image tokens, ``(P, N)``."""
    return flow.cpu()[:, torch.from_numpy(asked.item.layout.image)]


def relevance_maps(
    mllm: Mllm,
    problem: Problem,
    response: str | Sequence[int],
    *,
    source: Source,
    targets: Targets = "steps",
    answer: str | None = None,
    image: Shown | None = None,
    **options: Any,
) -> ResponseMaps:
    """Maps of a response's parts from one of the sources.

    * ``"attention"``: see `response_maps`; always one map per token, which ``step_weights``
      averages over steps.
    * ``"rollout"``: the product over layers of ``(A + I) / 2``, A the mean over heads. A row of it
      says how much of what stands there was passed on from each input token, if attention alone
      passed things on and every head and layer counted the same; it does not know what the row
      was used for. A part's map is the mean of its rows, ``(1, 1, R, N)``, non-negative; a row
      sums to at most 1.
    * ``"gradient_relevance"``: layer by layer ``R <- R + E_h[(A * dA)^+] R``, with dA the gradient
      of the part's log-probability with respect to the attention A; a part's map is the mean of
      its rows of R, non-negative, without unit. Unlike rollout it asks for what raised this very
      text. One forward pass, and one backward pass per part, which stops at the first layer.
    * ``"occlusion"``, ``"shapley"``, ``"integrated_gradients"``: see `attribution_maps`.

    Rollout and gradients are exact, at the memory of the queries and keys of all layers; a layer's
    T x T attention is never held, nor its gradient.

    Args:
        mllm: The model.
        problem: The item; several pictures are mapped side by side.
        response: Text, or token ids as generated.
        source: See above.
        targets: Parts with a map: ``"tokens"``, ``"steps"`` (and the answer) or ``"answer"``.
        answer: An answer to force after the rationale, instead of what the response says there.
        image: Another picture to show instead of the item's own.
        options: Passed on to the source. Rollout and gradients take ``block``, query positions at
            a time, on which the result does not depend.

    Raises:
        MeasureError: If the source is unknown or not defined for the model, attention cannot be
            followed through every layer, or log p is not finite.
        LayoutError: If the item has no image, or its response not the parts.

    Source: Abnar & Zuidema 2020 (arXiv 2005.00928); Chefer, Gur & Wolf, ICCV 2021 (arXiv
    2103.15679), its rules for self-attention.
    """
    check_known(source, Source, f"Source {source!r} is unknown")
    given: dict[str, Any] = {"answer": answer, "image": image}
    if source == "attention":
        return response_maps(mllm, problem, response, **given, **options)
    given["targets"] = targets
    if source == "rollout" or source == "gradient_relevance":
        asked = response_parts(mllm, problem, response, **given)
        return (_rollout if source == "rollout" else _gradients)(mllm, asked, **options)
    return attribution_maps(mllm, problem, response, method=source, **given, **options)


class Relevance(Result):
    """What `relevance` measured: how sources of maps agree with evidence and each other."""

    name = "relevance"
    title = "Relevance of image tokens"
    columns = (
        "item",
        "source",
        "step",
        "evidence_share",
        "evidence_area",
        "peak_on_evidence",
        "spearman",
    )

    def items(self) -> pd.DataFrame:
        """Means over steps and the answer: ``item``, ``source`` and the measured columns."""
        measured = ["evidence_share", "evidence_area", "peak_on_evidence", "spearman"]
        table = self.table.astype({"peak_on_evidence": "Float64"})
        return table.groupby(["item", "source"], sort=False)[measured].mean().reset_index()

    def curve(self, quantity: str = "evidence_share", *, n_boot: int = 2000) -> pd.DataFrame:
        """Average a quantity over items for every source and step, with intervals.

        Returns:
            One row per source and step (0 is the answer): ``source``, ``step``, ``value``,
            ``low``, ``high``, ``n`` (items).
        """
        values = self.table.rename(columns={quantity: "value"}).astype({"value": float})
        curves = [
            step_curve({0: part[["item", "step", "value"]].dropna()}, axis="step", n_boot=n_boot)
            .drop(columns="n_seeds")
            .assign(source=source)
            for source, part in values.groupby("source", sort=False)
        ]
        return pd.concat(curves, ignore_index=True)

    def _headline(self) -> dict[str, npt.ArrayLike]:
        means: dict[str, npt.ArrayLike] = {}
        for source, part in self.items().groupby("source", sort=False):
            means[f"on evidence, {source}"] = part["evidence_share"]
            means[f"rank correlation with the first source, {source}"] = part["spearman"]
        return means


def relevance(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    sources: Sequence[Source] = ("attention", "rollout", "gradient_relevance", "occlusion"),
    options: Mapping[Source, Mapping[str, Any]] | None = None,
    empty: Empty = "error",
    progress: bool = False,
) -> Relevance:
    """Hold several sources against the evidence boxes, and against the first of them.

    Args:
        mllm: The model.
        problems: The items.
        responses: One response per item, with a rationale.
        sources: What to compare; the others are correlated with the first.
        options: Per source further arguments, as for `relevance_maps`.
        empty: What to do with items whose response has no step: raise an error, or leave them
            out.
        progress: Show a progress bar.

    Returns:
        A result whose table has the rows of `compare_maps` of every item.

    Raises:
        MeasureError: If a source is unknown, the numbers of problems and responses differ, or a
            response has no step (``empty="error"``) or none has.
        LayoutError: If an item has no image.
    """
    if not sources:
        raise MeasureError("No source was given to compare; give at least one.")
    items = paired(mllm, problems, responses, empty=empty, several=True)
    further = {} if options is None else options
    tables = []
    for (at,) in batches(items.places, 1, "relevance", progress):
        maps = [
            relevance_maps(
                mllm, problems[at], responses[at], source=source, **further.get(source, {})
            )
            for source in sources
        ]
        tables.append(compare_maps(problems[at], maps))
    table = pd.concat(tables, ignore_index=True)
    return Relevance(table, items.measured, skipped=items.skipped)


def compare_maps(problem: Problem, maps: Sequence[ResponseMaps]) -> pd.DataFrame:
    """Hold maps of one item, from several sources, against its evidence boxes and each other.

    Layers and heads are averaged. Only positive weights count as relevance in the shares; the
    correlation takes all of them.

    Args:
        problem: The item.
        maps: Of the same response on the same picture, each from another source or model; the
            first is what the others are correlated with.

    Returns:
        One row per map and step, and one for the answer (``step`` 0) if all maps have it:

        * ``item, source, step``;
        * ``evidence_share``: share of the relevance on the step's evidence boxes, each token
          weighted by how far they cover it; of the answer, on the boxes of all steps. NaN
          without boxes or without relevance;
        * ``evidence_area``: the share that a map without any preference would have;
        * ``peak_on_evidence``: whether the largest weight lies on a token that the boxes cover
          by half at least (pointing game); missing without boxes;
        * ``spearman``: rank correlation over image tokens with the first map; NaN for a constant.

    Raises:
        MeasureError: If the maps are of different pictures or steps.

    Source: share of relevance in a box as Arras et al. 2022 (arXiv 2003.07258), pointing game
    Zhang et al. 2018 (arXiv 1608.00507).
    """
    if not maps or len({(len(one.grid), one.n_steps, one.grid.image_size) for one in maps}) > 1:
        raise MeasureError(
            f"Problem {problem.id}: the {len(maps)} maps do not belong to one response on one "
            "picture; give at least one, and all with the same steps and image tokens."
        )
    with_answer = all(one.answer is not None for one in maps)
    weights = [
        [
            *([one.answer_weights()] if with_answer else []),
            *(one.step_weights() if one.n_steps else []),
        ]
        for one in maps
    ]
    sheet = problem.sheet
    numbers = [*([0] if with_answer else []), *range(1, maps[0].n_steps + 1)]
    rows = []
    for one, own in zip(maps, weights, strict=True):
        for number, values, first in zip(numbers, own, weights[0], strict=True):
            cover = one.grid.coverage(_evidence(sheet, number))
            rows.append(
                {
                    "item": problem.id,
                    "source": one.source,
                    "step": number,
                    **_on_evidence(values, cover),
                    "spearman": _spearman(values, first),
                }
            )
    table = pd.DataFrame(rows, columns=list(Relevance.columns))
    return table.astype({"peak_on_evidence": "boolean"})


def _evidence(problem: Problem, number: int) -> tuple[Box, ...]:
    """Boxes of a step; of all steps for number 0."""
    return problem.step_boxes(number) if number else problem.evidence_boxes


def _on_evidence(values: npt.NDArray[Any], cover: npt.NDArray[np.float64]) -> dict[str, Any]:
    if not cover.any():
        return {"evidence_share": np.nan, "evidence_area": np.nan, "peak_on_evidence": None}
    relevance = np.asarray(values, dtype=np.float64).clip(min=0)
    total = relevance.sum()
    return {
        "evidence_share": float(relevance @ cover / total) if total > 0 else np.nan,
        "evidence_area": float(cover.mean()),
        "peak_on_evidence": bool(cover[values.argmax()] >= 0.5),
    }


def _spearman(values: npt.NDArray[Any], first: npt.NDArray[Any]) -> float:
    if np.ptp(values) == 0 or np.ptp(first) == 0:
        return float("nan")
    return float(stats.spearmanr(values, first).statistic)
