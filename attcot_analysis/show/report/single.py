"""`report_run`: one measured run, or several seeds of one arm, as a page."""

from pathlib import Path

import pandas as pd

from attcot_analysis.errors import LayoutError, RunError
from attcot_analysis.measures.compare import METRICS, summarise, wider_intervals
from attcot_analysis.problems import Problem, parse_response
from attcot_analysis.runs.differences import brief
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.heatmaps import heatmap_row
from attcot_analysis.show.report.arms import MeasuredArm, Runs, read_arm
from attcot_analysis.show.report.curves import everywhere, run_curves
from attcot_analysis.show.report.items import report_items
from attcot_analysis.show.report.page import ReportFigure, write_report
from attcot_analysis.show.report.pairing import find_problems, paragraph_notes, size_notes
from attcot_analysis.show.report.texts import LIMITS
from attcot_analysis.show.style import arm_label, styled_arms


def report_run(
    run: Runs,
    out: str | Path | None = None,
    *,
    problems: str | Path | None = None,
    examples: int = 3,
    items: int = 24,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write the page of what was measured on one model: metrics, curves, maps, items, provenance.

    There are no verdicts: those need something to compare with, see `compare_runs`.

    Args:
        run: A folder that `measure_run` has written, ``FOLDER:ARM`` for an arm of `reproduce`, or
            one of these per training seed.
        out: The page; default ``report.html`` in the (first) run's folder. Figures go to
            ``figures`` beside it.
        problems: Folder of the items, if it has moved.
        examples: Items whose maps are shown, of those the run has kept.
        items: Items in the item browser.
        seed: Of the intervals' bootstrap.
        overwrite: Replace a page that is there.

    Returns:
        The page.

    Raises:
        RunError: If the run is unfinished, its items cannot be found, or a page is there.
    """
    arm = read_arm(run)
    path = arm.path / "report.html" if out is None else Path(out)
    if path.exists() and not overwrite:
        raise RunError(
            f"{path} is already there; choose another place with --out, or replace it with "
            "--overwrite."
        )
    shared, _ = find_problems(arm, arm, problems)
    values = arm.values(shared)
    tables = {arm.name: arm.tables}
    with styled_arms([arm.name]):
        return write_report(
            path,
            title=f"{arm_label(arm.name)} on {len(shared)} items",
            summary=wider_intervals(summarise(values, seed=seed)),
            comparisons=pd.DataFrame(columns=["metric"]),
            metrics=METRICS,
            curves=run_curves(tables, shared, arm.name),
            heatmaps=_maps(arm, shared[:examples]),
            examples=report_items(tables, shared, (arm.name, arm.name), items),
            manifest=brief(RunFolder.open(arm.path).manifest),
            lead=[_lead(arm, shared)],
            notes=[*_bare(arm), *_cut_off(arm), *paragraph_notes(arm), *size_notes(len(shared))],
            limits=LIMITS,
            figures=path.parent / "figures",
            overwrite=overwrite,
        )


def _maps(arm: MeasuredArm, problems: list[Problem]) -> list[ReportFigure]:
    """Step maps that the run has kept, of its own rationales."""
    kept = arm.maps([problem.id for problem in problems])
    responses = arm.responses()
    figures = []
    for problem in problems:
        if problem.id not in kept:
            continue
        maps = kept[problem.id]
        texts = parse_response(responses[problem.id]).step_texts
        labels = [f"{k}. {text}" for k, text in enumerate(texts, start=1)]
        if len(labels) != len(maps):
            raise LayoutError(
                f"Item {problem.id} has maps of {len(maps)} steps and a response of {len(labels)}; "
                "measure it again."
            )
        figures.append(
            ReportFigure(
                heatmap_row(problem.image, list(maps), labels),
                f"Where it looks on {problem.id}",
                "Attention of each step's rows on the image tokens while the model writes its own "
                "rationale, mean over rows, layers and heads (one item; no interval can be drawn).",
                wide=True,
                name=f"maps_{problem.id}",
                data={"maps": maps},
            )
        )
    return figures


def _lead(arm: MeasuredArm, problems: list[Problem]) -> str:
    seeds = f"{len(arm.tables)} seeds of " if len(arm.tables) > 1 else ""
    return (
        f"What {seeds}{arm_label(arm.name)} does on {len(problems)} items. Numbers of one model "
        "say what it does, not whether that is good: hold it against another one, or against "
        "itself before training, with attcot compare."
    )


def _bare(arm: MeasuredArm) -> list[str]:
    if everywhere({arm.name: arm.tables}, "access"):
        return []
    return [
        "No response has a rationale step between think tags, so there are no curves, and nothing "
        "is said about commitment or visual access; look at the responses below."
    ]


def _cut_off(arm: MeasuredArm) -> list[str]:
    finished = [kinds["answers_cot"]["finished"].astype(bool) for kinds in arm.tables.values()]
    share = 1 - float(pd.concat(finished).mean())
    if not share:
        return []
    return [
        f"{share:.0%} of the responses were cut off at the length limit; they count as they are."
    ]
