"""`compare_runs`: two measured runs on the same items as one page; `report_run`: one, likewise."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from attcot_analysis.errors import LayoutError, MeasureError, RunError
from attcot_analysis.files import check_free, own_folder, path_of
from attcot_analysis.measures.compare import METRICS, compare, summarise
from attcot_analysis.measures.outcomes import CotOutcomes
from attcot_analysis.measures.unread import unread_sentences
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem
from attcot_analysis.problems.coverage import data_coverage
from attcot_analysis.runs.manifests import brief
from attcot_analysis.runs.provenance import build_manifest
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import DEFAULT
from attcot_analysis.show.report.arms import (
    MeasuredArm,
    Runs,
    everywhere,
    outcomes_or_why,
    read_arm,
    run_curves,
    sample_notes,
    time_notes,
)
from attcot_analysis.show.report.items import Tables, example_problems, report_items
from attcot_analysis.show.report.maps import StepMaps, embeds, kept_maps, model_maps
from attcot_analysis.show.report.page import (
    Report,
    ReportEmbed,
    ReportFigure,
    report_figures,
    write_report,
)
from attcot_analysis.show.report.pairing import (
    cut_off,
    find_model,
    find_problems,
    format_notes,
    mass_notes,
    metric_notes,
    note,
    pairing_notes,
    paragraph_notes,
    precision_notes,
    seed_notes,
    size_notes,
)
from attcot_analysis.show.report.questions import Answers, answer_questions
from attcot_analysis.show.style import arm_label, order_arms, styled_arms

Checkpoints = tuple[str | Path | None, str | Path | None] | Literal[False] | None

RESULTS = "results"
"""The file that is written last: a folder that has it is finished."""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
        run: Its folder, with ``report.html``, ``figures/``, ``results.json`` and the tables
            ``values``, ``summary`` and ``comparisons``.
        answers: The verdicts.
        notes: What to know before quoting a number.
        asked: What is said first: that the two were not asked alike.
    """

    run: RunFolder
    answers: Answers
    notes: tuple[str, ...]
    asked: tuple[str, ...] = ()

    @property
    def report(self) -> Path:
        """The page."""
        return self.run.path / "report.html"

    def __str__(self) -> str:
        """Write verdicts and notes as lines of text."""
        lines = [
            *self.asked,
            self.answers.headline,
            "",
            f"{self.answers.heading}, {self.answers.n}:",
        ]
        lines += [f"  {answer}" for answer in self.answers.answers]
        return "\n".join(lines + [f"Note: {note}" for note in self.notes])


def compare_runs(
    a: Runs,
    b: Runs,
    out: str | Path,
    *,
    names: tuple[str, str] | None = None,
    problems: str | Path | None = None,
    models: Checkpoints = None,
    examples: int = 3,
    items: int = 24,
    seed: int = 0,
) -> Comparison:
    """Compare two measured runs on the same items and write the report.

    The report has verdicts, curves of commitment and visual access with intervals, all metrics
    paired by item with tests, maps of both on one scale with their difference, explorers, and the
    items with their twins. Maps are those that the runs kept (``attcot measure --maps``), or read
    from the checkpoints; where there are neither, a sentence says so.

    Called again on the folder of the same comparison it does nothing if that is finished, else
    it writes what is missing. Any other folder that holds something is refused.

    Args:
        a: The run compared with: a folder of `measure_run`, or several of these, one per training
            seed, in the same order as ``b``'s.
        b: The run compared.
        out: Folder to write to.
        names: What the two are called; an arm's name (``cot_sft``) gives it the arm's label and
            colour. Default: the models' names.
        problems: Folder of the items, if not where the runs have them from.
        models: The two checkpoints, if not where the runs have them from; ``False`` loads none.
        examples: Items whose maps are shown, at most.
        items: Items in the item browser, at most.
        seed: Of the intervals' bootstrap.

    Raises:
        RunError: If the runs cannot be compared (unfinished, other items, other layers, responses
            cut off at other limits), or the folder is in use or another run's.
        MeasureError: If they share no metric.
    """
    first, second = _named(read_arm(a), read_arm(b), names)
    notes, asked = pairing_notes(first, second), format_notes(first, second)
    shared, more = find_problems(first, second, problems)
    arms = [arm.on([problem.id for problem in shared]) for arm in (first, second)]
    values = pd.concat([arm.values(shared) for arm in arms], ignore_index=True)
    pair = (first.name, second.name)
    notes += more + size_notes(len(shared)) + seed_notes(*arms) + metric_notes(*pair, values)
    notes += mass_notes(values)
    notes += [said for arm in arms for said in sample_notes(arm)]
    notes += [*precision_notes(*arms), *paragraph_notes(*arms), *data_coverage(shared).gaps]
    settings = {"examples": examples, "items": items, "models": models is not False}
    manifest = _manifest(arms, shared, values, settings, seed)
    with RunFolder.begun(out, manifest, resume=True) as run, styled_arms(pair):
        if run.has(RESULTS):
            held = run.read_json(RESULTS)
            summary, comparisons = (run.read_table(name) for name in ("summary", "comparisons"))
            answers = _answers(comparisons, summary)
            return Comparison(run, answers, tuple(held["notes"]), tuple(asked))
        summary = summarise(values, seed=seed)
        comparisons = compare(values, *pair, seed=seed)
        for name, table in (("values", values), ("summary", summary), ("comparisons", comparisons)):
            run.write_table(name, table, overwrite=True)
        maps, explorers, missing = _maps(arms, shared, models, examples)
        notes += missing
        report = Report(
            title=f"{arm_label(pair[1])} compared with {arm_label(pair[0])}",
            summary=summary,
            comparisons=comparisons,
            outcomes={arm.name: arm.outcomes for arm in arms},
            pair=pair,
            lead=[*asked, _lead(arms, len(shared))],
            notes=notes,
            limits=[note("limit")],
            explorers=explorers,
            manifest=brief(run.manifest),
        )
        page = run.path / "report.html"
        write_run_report(report, page, _tables(arms), shared, maps=maps, items=items, values=values)
        answers = _answers(comparisons, summary)
        results = {
            "headline": answers.headline,
            "unread": list(answers.unread),
            "answers": [str(answer) for answer in answers.answers],
            "asked": asked,
            "notes": notes,
            "summary": summary.to_dict("records"),
            "comparisons": comparisons.to_dict("records"),
        }
        run.write_json(RESULTS, results)
    return Comparison(run, answers, tuple(notes), tuple(asked))


def report_run(
    run: Runs | MeasuredArm,
    out: str | Path | None = None,
    *,
    problems: str | Path | None = None,
    examples: int = 3,
    items: int = 24,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Write the page of what was measured on one model: metrics, curves, maps, items, provenance.

    It begins with CoT against direct answers (`does_cot_hurt`). Other verdicts need something to
    compare with, see `compare_runs`.

    Args:
        run: A folder that `measure_run` has written, or one of these per training seed; or what
            `read_arm` has read of them.
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
    arm = run if isinstance(run, MeasuredArm) else read_arm(run)
    path = arm.path / "report.html" if out is None else path_of(out)
    check_free(path, overwrite)
    shared, _ = find_problems(arm, arm, problems)
    values = arm.values(shared)
    notes = [*sample_notes(arm), *precision_notes(arm), *paragraph_notes(arm)]
    notes += size_notes(len(shared)) + mass_notes(values) + time_notes(arm)
    if share := cut_off(arm):
        notes.insert(0, note("cut_off", share=share, whose=""))
    unmeasured = [name for name in DEFAULT if name not in arm.settings.get("what", DEFAULT)]
    if unmeasured:
        notes.insert(0, note("unmeasured", names=", ".join(unmeasured)))
    elif not everywhere({arm.name: arm.tables}, "access"):
        notes.insert(0, note("no_step"))
    seeds = f"{len(arm.tables)} seeds of " if len(arm.tables) > 1 else ""
    with styled_arms([arm.name]):
        maps, _, _ = _maps([arm], shared, False, examples)
        report = Report(
            title=f"{arm_label(arm.name)} on {len(shared)} items",
            summary=summarise(values, seed=seed),
            outcomes={arm.name: arm.outcomes},
            lead=[note("lead_of_one", seeds=seeds, model=arm_label(arm.name), n=len(shared))],
            notes=notes,
            manifest=brief(RunFolder.open(arm.path).manifest),
        )
        tables = _tables([arm])
        return write_run_report(
            report,
            path,
            tables,
            shared,
            maps=maps,
            items=items,
            values=values,
            overwrite=overwrite,
        )


def run_figures(
    a: Runs,
    b: Runs | None = None,
    *,
    names: tuple[str, str] | None = None,
    problems: str | Path | None = None,
    examples: int = 3,
    seed: int = 0,
) -> tuple[list[ReportFigure], list[str]]:
    """Draw the figures of the report on one run, or on two compared, without the page.

    Args:
        a: A measured run, or several of one arm, one per training seed.
        b: The run compared with it, if any.
        names: What the two are called; see `compare_runs`.
        problems: Folder of the items, if it has moved.
        examples: Items whose maps are drawn, of those that the runs have kept.
        seed: Of the intervals' bootstrap.

    Returns:
        The figures, and what to know before quoting a number; what was not read comes first.

    Raises:
        RunError: As `report_run` and `compare_runs`.
    """
    arms = [read_arm(a)] if b is None else [*_named(read_arm(a), read_arm(b), names)]
    notes = [] if b is None else [*format_notes(*arms), *pairing_notes(*arms)]
    shared, more = find_problems(arms[0], arms[-1], problems)
    arms = [arm.on([problem.id for problem in shared]) for arm in arms]
    values = pd.concat([arm.values(shared) for arm in arms], ignore_index=True)
    summary = summarise(values, seed=seed)
    pair = (arms[0].name, arms[-1].name)
    with styled_arms(dict.fromkeys(pair)):
        maps, _, _ = _maps(arms, shared, False, examples)
        report = Report(
            title="",
            summary=summary,
            comparisons=pd.DataFrame() if b is None else compare(values, *pair, seed=seed),
            outcomes={arm.name: arm.outcomes for arm in arms},
            pair=pair,
            curves=run_curves(_tables(arms), shared, pair[0]),
            heatmaps=[item.figure() for item in maps],
        )
        figures = report_figures(report)
    notes += more + size_notes(len(shared)) + [said for arm in arms for said in sample_notes(arm)]
    return figures, unread_sentences(summary, arm_label) + notes


def write_run_report(
    report: Report,
    path: Path,
    tables: Tables,
    problems: Sequence[Problem],
    *,
    maps: Sequence[StepMaps] = (),
    items: int = 24,
    values: pd.DataFrame | None = None,
    overwrite: bool = True,
) -> Path:
    """Write a report with the curves, maps and items of what was measured.

    Args:
        report: The rest of the page.
        path: The page; its figures go to ``figures`` beside it.
        tables: What was measured.
        problems: The items.
        maps: Items whose maps are drawn.
        items: Items in the item browser.
        values: By which these can be sorted, as of `item_values`.
        overwrite: Replace a page and figures that are there.
    """
    with styled_arms(order_arms(tables)):
        first = order_arms(tables)[0]
        pair = report.pair or (first, first)
        outcomes = report.outcomes or {arm: outcomes_or_why(seeds) for arm, seeds in tables.items()}
        own = outcomes.get(pair[1])
        full = replace(
            report,
            outcomes=outcomes,
            curves=run_curves(tables, problems, pair[0]),
            heatmaps=[item.figure() for item in maps],
            examples=report_items(
                tables, problems, pair, items, own if isinstance(own, CotOutcomes) else None, values
            ),
        )
        return write_report(
            full, path, figures=own_folder(path.parent, "figures"), overwrite=overwrite
        )


def _named(
    a: MeasuredArm, b: MeasuredArm, names: tuple[str, str] | None
) -> tuple[MeasuredArm, MeasuredArm]:
    """Give the two arms names that tell them apart."""
    for first, second in (names or (a.name, b.name), (a.path.name, b.path.name)):
        if first != second:
            return a.named(first), b.named(second)
    raise RunError(
        f"Both sides of the comparison are called {a.name}; name them apart, as in --names before "
        "after."
    )


def _tables(arms: Sequence[MeasuredArm]) -> Tables:
    return {arm.name: arm.tables for arm in arms}


def _manifest(
    arms: Sequence[MeasuredArm],
    problems: Sequence[Problem],
    values: pd.DataFrame,
    settings: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    digest = hashlib.sha256(values.to_csv(index=False).encode()).hexdigest()
    config = {
        "before": arms[0].name,
        "after": arms[1].name,
        "settings": {arm.name: dict(arm.settings) for arm in arms},
        "values_sha256": digest,
        **settings,
    }
    manifest = build_manifest(seed=seed, config=config, data={"test": problems})
    return manifest | {
        "models": {arm.name: dict(arm.model) for arm in arms},
        "measured_with": {arm.name: dict(arm.versions) for arm in arms},
    }


def _maps(
    arms: Sequence[MeasuredArm], problems: Sequence[Problem], models: Checkpoints, n: int
) -> tuple[list[StepMaps], list[ReportEmbed], list[str]]:
    """Maps and explorers of some items, and a sentence for what there is not."""
    names = [arm.name for arm in arms]
    shown = example_problems(_tables(arms), problems, (names[0], names[-1]), n)
    if not shown:
        return [], [], []
    loaded, reason = _load(arms, models)
    responses, written = arms[-1].responses(), [arm.steps() for arm in arms]
    kept = [arm.maps([problem.id for problem in shown]) for arm in arms]
    maps: list[StepMaps] = []
    explorers: list[ReportEmbed] = []
    notes: list[str] = []
    for problem in shown:
        if all(problem.id in by_item for by_item in kept):
            steps = [texts[problem.id] for texts in written]
            of_item = [by_item[problem.id] for by_item in kept]
            maps.append(kept_maps(problem, names, of_item, steps))
        elif loaded:
            try:
                maps.append(model_maps(loaded, problem, response=responses[problem.id]))
            except LayoutError as error:
                notes.append(f"There is no map of {problem.id}: {error}")
    if loaded:
        explorers, more = embeds(loaded, shown, responses)
        notes += more
    elif not maps:
        notes.append(
            f"There are no maps: {reason}, and the runs kept none (attcot measure --maps)."
        )
    elif models is not False:
        notes.append(f"There is no explorer: {reason}.")
    return maps, explorers, notes


def _load(arms: Sequence[MeasuredArm], models: Checkpoints) -> tuple[dict[str, Mllm], str]:
    """The models by arm; none, and the reason, if one of them cannot be loaded."""
    if models is False:
        return {}, "models were not to be loaded (--no-models)"
    loaded = {}
    for arm, place in zip(arms, models or (None, None), strict=True):
        try:
            loaded[arm.name] = find_model(arm, place)
        except RunError as error:
            return {}, str(error)
    return loaded, ""


def _answers(comparisons: pd.DataFrame, summary: pd.DataFrame) -> Answers:
    answered = answer_questions(comparisons, summary, METRICS)
    if not answered:
        raise MeasureError("The two runs share no metric; measure both alike.")
    return answered[0]


def _lead(arms: Sequence[MeasuredArm], items: int) -> str:
    first, second = (
        f"{arm_label(arm.name)} ({len(arm.tables)} run{'s' * (len(arm.tables) > 1)})"
        for arm in arms
    )
    return note("lead_of_two", first=first, second=second, n=items)
