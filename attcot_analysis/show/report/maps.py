"""Where models look, item by item: kept or newly read step maps, and explorers, for a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attcot_analysis.errors import LayoutError, RunError, ShowError
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.models import Mllm, TokenGrid
from attcot_analysis.problems import Box, Problem
from attcot_analysis.show.heatmaps import before_after, heatmap_row
from attcot_analysis.show.report.items import numbered
from attcot_analysis.show.report.page import ReportEmbed, ReportFigure, report_figure
from attcot_analysis.show.style import arm_label

FloatArray = npt.NDArray[np.floating]

_FORCED = "while the right rationale is teacher-forced (the same words for both)"
_BORROWED = "while the rationale of {} is teacher-forced to both"
_OWN = "while each writes its own rationale; step by step they need not say the same"
_SAME = "while each writes its own rationale, here the same words"


@dataclass(frozen=True, eq=False)
class StepMaps:
    """Step maps of one item in one arm, or in two arms on one canvas.

    Attributes:
        problem: The item.
        arms: The arm, or the two arms.
        maps: Of each arm ``(K, rows, cols)``, mean visual mass of each step's rows on each cell.
        labels: What each step is called.
        whose: Whose words were read, as part of a sentence; empty for one arm.
        boxes: Per step the evidence boxes; empty if they are not known of these steps.
    """

    problem: Problem
    arms: tuple[str, ...]
    maps: tuple[FloatArray, ...]
    labels: tuple[str, ...]
    whose: str = ""
    boxes: tuple[tuple[Box, ...], ...] = ()

    def figure(self) -> ReportFigure:
        """Draw the maps of one arm, or both on one scale with their difference."""
        image, item = self.problem.sheet.image, self.problem.id
        name = f"maps_{item}"
        if len(self.arms) == 1:
            drawn = heatmap_row(image, list(self.maps[0]), self.labels)
            return report_figure("maps_of_one", drawn, {"maps": self.maps[0]}, name=name, item=item)
        before, after = self.maps
        drawn = before_after(
            image,
            list(before),
            list(after),
            self.labels,
            names=(self.arms[0], self.arms[1]),
            boxes=self.boxes or None,
        )
        first, second = map(arm_label, self.arms)
        return report_figure(
            "maps_of_two",
            drawn,
            {"before": np.asarray(before), "after": np.asarray(after)},
            name=name,
            first=first,
            second=second,
            item=item,
            whose=self.whose,
            frames=" Frames: evidence boxes." if self.boxes else "",
        )


def kept_maps(
    problem: Problem,
    arms: Sequence[str],
    maps: Sequence[FloatArray],
    steps: Sequence[Sequence[str]],
) -> StepMaps:
    """Show the maps that runs have kept of the arms' own rationales.

    Where one of two arms has more steps than the other, the steps that both have are shown; where
    their token grids differ, both are painted on a canvas as fine as the finer one.

    Args:
        problem: The item.
        arms: One arm or two.
        maps: Of each ``(K, rows, cols)``, as the table ``maps`` of a run keeps them.
        steps: The texts of each one's steps.

    Raises:
        LayoutError: If the one arm has other steps than maps.
    """
    if len(arms) == 1:
        labels = [f"{k}. {text}" for k, text in enumerate(steps[0], start=1)]
        if len(labels) != len(maps[0]):
            raise LayoutError(
                f"Item {problem.id} has maps of {len(maps[0])} steps and a response of "
                f"{len(labels)}; measure it again."
            )
        return StepMaps(problem, tuple(arms), tuple(maps), tuple(labels))
    n = min(map(len, maps))
    sheet = problem.sheet
    painted = on_one_canvas(sheet.size, maps[0][:n], maps[1][:n])
    texts = zip(*steps, strict=False)
    labels = [
        first if first == second else f"step {k}" for k, (first, second) in enumerate(texts, 1)
    ]
    labels += [f"step {k}" for k in range(len(labels) + 1, n + 1)]
    same = list(steps[0]) == list(steps[1])
    right = [f"{number}. {step.text}" for number, step in enumerate(problem.steps, start=1)]
    known = same and list(steps[0]) == right
    return StepMaps(
        problem,
        tuple(arms),
        painted,
        tuple(labels[:n]),
        _SAME if same else _OWN,
        tuple(step.boxes for step in sheet.steps) if known else (),
    )


def model_maps(
    models: Mapping[str, Mllm], problem: Problem, *, response: str | None = None
) -> StepMaps:
    """Read step maps of one item from two models, with the same words teacher-forced to both.

    Args:
        models: Two models by arm.
        problem: The item.
        response: What to force where the item has no rationale: the second arm's own response.

    Raises:
        LayoutError: If the response has no step, or the item not exactly one image.
    """
    pair = _pair(models)
    if problem.steps:
        forced, whose = models[pair[0]].format.right_response(problem), _FORCED
    else:
        forced, whose = response or "", _BORROWED.format(arm_label(pair[1]))
    read = [response_maps(models[arm], problem, forced).step_maps() for arm in pair]
    sheet = problem.sheet
    maps = on_one_canvas(sheet.size, read[0], read[1])
    labels = [numbered(k, step.text) for k, step in enumerate(problem.steps, start=1)]
    labels = labels or [f"step {k + 1}" for k in range(len(maps[0]))]
    boxes = tuple(step.boxes for step in sheet.steps)
    return StepMaps(problem, pair, maps, tuple(labels), whose, boxes)


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
    from attcot_analysis.show.explorer.build import explorer_record
    from attcot_analysis.show.explorer.page import explorer_fragment, script_policy

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
    made = []
    for problem in problems:
        try:
            made.append(explorer_embed(models, problem, response=responses.get(problem.id)))
        except ShowError as error:
            return made, [f"There is no explorer of both models: {error}"]
    return made, []


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
