"""Maps of single items in both arms of a comparison: kept by their runs, or read from models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attcot_analysis.errors import RunError, ShowError
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.models import Mllm, TokenGrid
from attcot_analysis.problems import Box, Problem, parse_response, render_response
from attcot_analysis.show.explorer.build import explorer_record
from attcot_analysis.show.explorer.page import explorer_fragment, script_policy
from attcot_analysis.show.heatmaps import before_after
from attcot_analysis.show.report.page import ReportEmbed, ReportFigure
from attcot_analysis.show.style import arm_label

FloatArray = npt.NDArray[np.floating]

_FORCED = "while the right rationale is teacher-forced (the same words for both)"
_OWN = "while each writes its own rationale; step by step they need not say the same"
_BORROWED = "while the rationale of {} is teacher-forced to both"


@dataclass(frozen=True, eq=False)
class PairMaps:
    """Step maps of one item in two arms, on one canvas.

    Attributes:
        problem: The item.
        pair: The two arms.
        before: ``(K, rows, cols)``, mean visual mass of each step's rows on each cell.
        after: The same of the second arm.
        labels: What each step is called.
        whose: Whose words were read, as part of a sentence.
        boxes: Per step the evidence boxes; empty if they are not known of these steps.
    """

    problem: Problem
    pair: tuple[str, str]
    before: FloatArray
    after: FloatArray
    labels: tuple[str, ...]
    whose: str
    boxes: tuple[tuple[Box, ...], ...] = ()

    def figure(self) -> ReportFigure:
        """Draw both on one scale, and their difference."""
        first, second = map(arm_label, self.pair)
        drawn = before_after(
            self.problem.image,
            list(self.before),
            list(self.after),
            self.labels,
            names=self.pair,
            boxes=self.boxes or None,
        )
        frames = " Frames: evidence boxes." if self.boxes else ""
        return ReportFigure(
            drawn,
            f"{first} and {second} on {self.problem.id}",
            "Attention of each step's rows on the image tokens, mean over layers and heads, "
            f"{self.whose} (one item, one run per arm; no interval can be drawn). One colour "
            f"scale for both models; below, {second} minus {first}, with zero in the middle."
            f"{frames}",
            wide=True,
            name=f"maps_{self.problem.id}",
            data={"before": np.asarray(self.before), "after": np.asarray(self.after)},
        )


def kept_maps(
    problem: Problem,
    pair: tuple[str, str],
    maps: tuple[FloatArray, FloatArray],
    steps: tuple[Sequence[str], Sequence[str]],
) -> PairMaps:
    """Hold kept maps of two arms' own rationales against each other.

    Where one arm has more steps than the other, the steps that both have are shown; where their
    token grids differ, both are painted on a canvas as fine as the finer one.

    Args:
        problem: The item.
        pair: The two arms.
        maps: Of each ``(K, rows, cols)``, as the table ``maps`` of a run keeps them.
        steps: The texts of each one's steps.
    """
    n = min(len(found) for found in maps)
    before, after = on_one_canvas(problem.image.size, maps[0][:n], maps[1][:n])
    texts = zip(steps[0], steps[1], strict=False)
    labels = [one if one == other else f"step {k}" for k, (one, other) in enumerate(texts, start=1)]
    labels += [f"step {k}" for k in range(len(labels) + 1, n + 1)]
    same = list(steps[0]) == list(steps[1])
    right = parse_response(render_response(problem.steps, problem.answer)).step_texts
    boxes = tuple(step.boxes for step in problem.steps) if list(steps[0]) == list(right) else ()
    return PairMaps(
        problem,
        pair,
        before,
        after,
        tuple(labels[:n]),
        "while each writes its own rationale, here the same words" if same else _OWN,
        boxes if same else (),
    )


def model_maps(
    models: Mapping[str, Mllm], problem: Problem, *, response: str | None = None
) -> PairMaps:
    """Read step maps of one item from two models, with the same words teacher-forced to both.

    Args:
        models: Two models by arm.
        problem: The item.
        response: What to force where the item has no rationale: the second arm's own response.

    Raises:
        LayoutError: If the response has no step, or the item not exactly one image.
    """
    first, second = pair = _pair(models)
    if problem.steps:
        forced, whose = render_response(problem.steps, problem.answer), _FORCED
    else:
        forced, whose = response or "", _BORROWED.format(arm_label(second))
    found = [response_maps(models[arm], problem, forced).step_maps() for arm in (first, second)]
    before, after = on_one_canvas(problem.image.size, found[0], found[1])
    texts = [step.text for step in problem.steps] or [f"step {k + 1}" for k in range(len(before))]
    labels = [f"{k}. {text}" if problem.steps else text for k, text in enumerate(texts, start=1)]
    boxes = tuple(step.boxes for step in problem.steps)
    return PairMaps(problem, pair, before, after, tuple(labels), whose, boxes)


def explorer_embed(
    models: Mapping[str, Mllm], problem: Problem, *, response: str | None = None
) -> ReportEmbed:
    """An explorer of one item in both arms, for a report.

    Args:
        models: Two models by arm.
        problem: The item.
        response: As for `model_maps`.

    Raises:
        ShowError: If the models differ in depth, heads, token grid or tokens.
    """
    first, second = map(arm_label, _pair(models))
    forced = None if problem.steps else response
    labelled = {arm_label(arm): mllm for arm, mllm in models.items()}
    record = explorer_record(labelled, problem, forced, sources=("attention", "sink_free"))
    return ReportEmbed(
        f"{first} and {second} on {problem.id}",
        "Where every token of the rationale looks, by layer and head, before and after on one "
        "scale. Choose a token with the mouse or the arrow keys.",
        explorer_fragment(record),
        script_policy(),
    )


def on_one_canvas(
    size: tuple[int, int], first: FloatArray, second: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Paint two stacks of maps ``(K, rows, cols)`` of one picture on the finer one's cells.

    Maps of the same shape are returned as they are. A map's sum stays what it was.
    """
    if first.shape[1:] == second.shape[1:]:
        return first, second
    rows = max(first.shape[1], second.shape[1])
    cols = max(first.shape[2], second.shape[2])
    painted = [
        TokenGrid.regular(size, *maps.shape[1:]).to_canvas(maps.reshape(len(maps), -1), rows, cols)
        for maps in (first, second)
    ]
    return painted[0], painted[1]


def _pair(models: Mapping[str, Mllm]) -> tuple[str, str]:
    if len(models) != 2:
        raise RunError(f"Maps of {len(models)} models were to be compared; give two.")
    first, second = models
    return first, second


def embeds(
    models: Mapping[str, Mllm],
    problems: Sequence[Problem],
    responses: Mapping[str, str] | None = None,
) -> tuple[list[ReportEmbed], list[str]]:
    """Explorers of several items, and a sentence where models cannot share one.

    Args:
        models: Two models by arm.
        problems: The items.
        responses: By item, as for `model_maps`.
    """
    responses = responses or {}
    found = []
    for problem in problems:
        try:
            found.append(explorer_embed(models, problem, response=responses.get(problem.id)))
        except ShowError as error:
            return found, [f"There is no explorer of both models: {error}"]
    return found, []
