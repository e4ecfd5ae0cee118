"""`compare_runs`: two measured runs on the same items, as the report of a before and after."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from attcot_analysis.errors import LayoutError, MeasureError, RunError
from attcot_analysis.measures.compare import METRICS, compare, summarise, wider_intervals
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem, parse_response
from attcot_analysis.problems.coverage import data_coverage
from attcot_analysis.runs.provenance import build_manifest
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.report.arms import MeasuredArm, Runs, read_arm
from attcot_analysis.show.report.items import Tables, example_problems
from attcot_analysis.show.report.maps import PairMaps, embeds, kept_maps, model_maps
from attcot_analysis.show.report.page import ReportEmbed
from attcot_analysis.show.report.pages import write_run_report
from attcot_analysis.show.report.pairing import (
    find_model,
    find_problems,
    metric_notes,
    pairing_notes,
    paragraph_notes,
    seed_notes,
    size_notes,
)
from attcot_analysis.show.report.questions import Answers, answer_questions
from attcot_analysis.show.report.texts import PAIR_LIMITS
from attcot_analysis.show.style import arm_label, styled_arms

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
    """

    run: RunFolder
    answers: Answers
    notes: tuple[str, ...]

    @property
    def report(self) -> Path:
        """The page."""
        return self.run.path / "report.html"

    def __str__(self) -> str:
        """Write verdicts and notes as lines of text."""
        lines = [self.answers.headline, "", f"{self.answers.heading}, {self.answers.n}:"]
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
        a: The run compared with: a folder of `measure_run`, ``FOLDER:ARM`` for an arm of
            `reproduce`, or several of these, one per training seed, in the same order as ``b``'s.
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
    notes = pairing_notes(first, second)
    shared, more = find_problems(first, second, problems)
    first, second = (arm.on([problem.id for problem in shared]) for arm in (first, second))
    values = pd.concat([first.values(shared), second.values(shared)], ignore_index=True)
    pair = (first.name, second.name)
    notes += more + size_notes(len(shared)) + seed_notes(first, second)
    notes += metric_notes(*pair, values)
    notes += [*paragraph_notes(first, second), *data_coverage(shared).gaps]
    settings = {"examples": examples, "items": items, "models": models is not False}
    manifest = _manifest(first, second, shared, values, settings, seed)
    with RunFolder.begun(out, manifest, resume=True) as run, styled_arms(pair):
        if run.has(RESULTS):
            held = run.read_json(RESULTS)
            summary, comparisons = (run.read_table(name) for name in ("summary", "comparisons"))
            return Comparison(run, _answers(comparisons, summary), tuple(held["notes"]))
        summary = wider_intervals(summarise(values, seed=seed))
        comparisons = wider_intervals(compare(values, *pair, seed=seed))
        for name, table in (("values", values), ("summary", summary), ("comparisons", comparisons)):
            run.write_table(name, table, overwrite=True)
        maps, explorers, missing = _maps(first, second, shared, models, examples)
        notes += missing
        tables: Tables = {arm.name: arm.tables for arm in (first, second)}
        write_run_report(
            run,
            tables,
            shared,
            pair=pair,
            title=f"{arm_label(pair[1])} compared with {arm_label(pair[0])}",
            lead=[_lead(first, second, shared)],
            maps=maps,
            explorers=explorers,
            notes=notes,
            limits=PAIR_LIMITS,
            items=items,
        )
        answers = _answers(comparisons, summary)
        results = {
            "headline": answers.headline,
            "unread": list(answers.unread),
            "answers": [str(answer) for answer in answers.answers],
            "notes": notes,
            "summary": summary.to_dict("records"),
            "comparisons": comparisons.to_dict("records"),
        }
        run.write_json(RESULTS, results)
    return Comparison(run, answers, tuple(notes))


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


def _manifest(
    a: MeasuredArm,
    b: MeasuredArm,
    problems: Sequence[Problem],
    values: pd.DataFrame,
    settings: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    digest = hashlib.sha256(values.to_csv(index=False).encode()).hexdigest()
    config = {
        "before": a.name,
        "after": b.name,
        "settings": {arm.name: dict(arm.settings) for arm in (a, b)},
        "values_sha256": digest,
        **settings,
    }
    manifest = build_manifest(seed=seed, config=config, data={"test": problems})
    measured = {arm.name: dict(arm.versions) for arm in (a, b)}
    return manifest | {
        "models": {arm.name: dict(arm.model) for arm in (a, b)},
        "measured_with": measured,
    }


def _maps(
    a: MeasuredArm,
    b: MeasuredArm,
    problems: Sequence[Problem],
    models: Checkpoints,
    n: int,
) -> tuple[list[PairMaps], list[ReportEmbed], list[str]]:
    """Maps and explorers of some items, and a sentence for what there is not."""
    pair = (a.name, b.name)
    shown = example_problems({arm.name: arm.tables for arm in (a, b)}, problems, pair, n)
    if not shown:
        return [], [], []
    loaded, reason = _load(a, b, models)
    responses = b.responses()
    kept = [arm.maps([problem.id for problem in shown]) for arm in (a, b)]
    said = [arm.responses() for arm in (a, b)]
    maps: list[PairMaps] = []
    explorers: list[ReportEmbed] = []
    notes: list[str] = []
    for problem in shown:
        if all(problem.id in one for one in kept):
            steps = [parse_response(texts[problem.id]).step_texts for texts in said]
            found = (kept[0][problem.id], kept[1][problem.id])
            maps.append(kept_maps(problem, pair, found, (steps[0], steps[1])))
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


def _load(a: MeasuredArm, b: MeasuredArm, models: Checkpoints) -> tuple[dict[str, Mllm], str]:
    if models is False:
        return {}, "no model was to be loaded"
    given = models or (None, None)
    loaded = {}
    for arm, place in zip((a, b), given, strict=True):
        try:
            loaded[arm.name] = find_model(arm, place)
        except RunError as error:
            return {}, str(error)
    return loaded, ""


def _answers(comparisons: pd.DataFrame, summary: pd.DataFrame) -> Answers:
    found = answer_questions(comparisons, summary, METRICS)
    if not found:
        raise MeasureError("The two runs share no metric; measure both alike.")
    return found[0]


def _lead(a: MeasuredArm, b: MeasuredArm, problems: Sequence[Problem]) -> str:
    seeds = [
        f"{arm_label(arm.name)} ({len(arm.tables)} run{'s' * (len(arm.tables) > 1)})"
        for arm in (a, b)
    ]
    return (
        f"{seeds[0]} and {seeds[1]} were measured on the same {len(problems)} items; all "
        "differences are paired by item."
    )
