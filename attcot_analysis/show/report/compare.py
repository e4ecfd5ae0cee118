"""`compare_runs`: two measured runs on the same items, as the report of a before and after."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from attcot_analysis.errors import LayoutError, MeasureError, RunError, ShowError
from attcot_analysis.measures.compare import METRICS, compare, summarise, wider_intervals
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.models import Mllm, TokenGrid
from attcot_analysis.problems import Box, Problem, parse_response, render_response
from attcot_analysis.problems.coverage import data_coverage
from attcot_analysis.runs.differences import brief
from attcot_analysis.runs.provenance import build_manifest
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.explorer.build import explorer_record
from attcot_analysis.show.explorer.page import explorer_fragment, script_policy
from attcot_analysis.show.heatmaps import before_after, heatmap_row
from attcot_analysis.show.report.arms import MeasuredArm, Runs, everywhere, read_arm, run_curves
from attcot_analysis.show.report.items import Tables, example_problems, report_items
from attcot_analysis.show.report.page import ReportEmbed, ReportFigure, write_report
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
from attcot_analysis.show.report.texts import LIMITS, PAIR_LIMITS, TESTBED_LIMITS
from attcot_analysis.show.style import arm_label, order_arms, styled_arms

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
            heatmaps=_single_maps(arm, shared[:examples]),
            examples=report_items(tables, shared, (arm.name, arm.name), items),
            manifest=brief(RunFolder.open(arm.path).manifest),
            lead=[_single_lead(arm, shared)],
            notes=[*_bare(arm), *_cut_off(arm), *paragraph_notes(arm), *size_notes(len(shared))],
            limits=LIMITS,
            figures=path.parent / "figures",
            overwrite=overwrite,
        )


def _single_maps(arm: MeasuredArm, problems: list[Problem]) -> list[ReportFigure]:
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


def _single_lead(arm: MeasuredArm, problems: list[Problem]) -> str:
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


def write_run_report(
    run: RunFolder,
    tables: Tables,
    problems: Sequence[Problem],
    *,
    pair: tuple[str, str],
    title: str,
    lead: Sequence[str],
    maps: Sequence[PairMaps] = (),
    explorers: Sequence[ReportEmbed] = (),
    notes: Sequence[str] = (),
    limits: Sequence[str] = TESTBED_LIMITS,
    items: int = 24,
) -> Path:
    """Draw a run's figures into ``figures/`` and write its ``report.html``.

    Args:
        run: The folder, with tables ``summary`` and ``comparisons``.
        tables: What was measured.
        problems: The items.
        pair: The two arms that the report is about, reference first.
        title: Title of the page.
        lead: Its first paragraphs.
        maps: Items whose maps are drawn.
        explorers: Explorers of items.
        notes: What to know before quoting a number.
        limits: Limits of what is shown.
        items: Items in the item browser.
    """
    with styled_arms(order_arms(tables)):
        return write_report(
            run.path / "report.html",
            title=title,
            summary=run.read_table("summary"),
            comparisons=run.read_table("comparisons"),
            metrics=METRICS,
            curves=run_curves(tables, problems, pair[0]),
            heatmaps=[found.figure() for found in maps],
            explorers=explorers,
            examples=report_items(tables, problems, pair, items),
            pair=pair,
            manifest=brief(run.manifest),
            lead=lead,
            notes=notes,
            limits=limits,
            figures=run.path / "figures",
            overwrite=True,
        )


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
