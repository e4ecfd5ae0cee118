"""The pages of a plan that was carried out: a comparison per arm, or one report over all arms."""

from collections.abc import Callable, Mapping
from itertools import product

import pandas as pd
import torch

from attcot_analysis.measures.compare import compare, summarise
from attcot_analysis.models import load_mllm
from attcot_analysis.runs.manifests import brief
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import TABLES
from attcot_analysis.show.report.compare import compare_runs, report_run, write_run_report
from attcot_analysis.show.report.items import example_problems
from attcot_analysis.show.report.maps import embeds, model_maps
from attcot_analysis.show.report.page import Report
from attcot_lab.plan import BASE, COT_SFT, Cell, Pages, Plan, find_folder

PARTS = "grid"
"""Name of the file that says what the arms, problems and models of a plan are."""
_EXAMPLES = 3
_LIMITS = (
    "Att-CoT's formulas are a reconstruction: the paper's own were not available to us. "
    "A result here is about the reconstruction, not about the paper's method.",
    "The testbed is tiny: a small model, generated pictures, a narrow question form. It shows "
    "whether a diagnostic or a cure does what it should where the truth is known; it does not "
    "show that a large model on photographs behaves the same.",
)

Say = Callable[[str], object]


def _none(run: RunFolder, plan: Plan, say: Say) -> None:
    """Nothing: the values are what was asked for."""


def _pairs(run: RunFolder, plan: Plan, say: Say) -> None:
    """A page for every arm against the base and `COT_SFT`; of the base where nothing is trained."""
    for model, kind in product(plan.models, plan.problems):
        cells = [cell for cell in plan.cells() if (cell.model, cell.kind) == (model, kind)]
        sides: dict[str, list[Cell]] = {}
        for cell in cells:
            sides.setdefault(cell.arm, []).append(cell)
        problems = find_folder(str(plan.problems[kind].test))
        trained = [arm for arm in sides if plan.arms[arm].trained]
        references = [arm for arm in (BASE, COT_SFT) if arm in sides]
        if not trained:
            for arm in sides:
                _page(run, sides[arm][0], plan, say)
        for before, after in product(references, trained):
            if before != after:
                comparison = compare_runs(
                    [cell.folder(run.path) for cell in sides[before]],
                    [cell.folder(run.path) for cell in sides[after]],
                    run.path / "pages" / f"{model}.{kind}.{before}-{after}",
                    names=(before, after),
                    problems=problems,
                    seed=plan.seed,
                )
                headline, report = comparison.answers.headline, comparison.report
                say(f"{before} -> {after}: {headline}\nreport: {report}")


def _page(run: RunFolder, cell: Cell, plan: Plan, say: Say) -> None:
    page = run.path / "pages" / f"{cell}.html"
    measured = RunFolder(cell.folder(run.path))
    newest = measured.table_path("values").stat().st_mtime
    if not page.exists() or page.stat().st_mtime < newest:
        problems = find_folder(str(plan.problems[cell.kind].test))
        report_run(measured.path, page, problems=problems, seed=plan.seed, overwrite=True)
    say(f"report: {page}")


def _study(run: RunFolder, plan: Plan, say: Say) -> None:
    """Tables over all arms, one report, and last of all ``results.json``."""
    cells = plan.cells()
    tables: dict[str, dict[int, dict[str, pd.DataFrame]]] = {
        arm: {} for arm in dict.fromkeys(cell.arm for cell in cells)
    }
    values = []
    for arm in tables:
        for cell in (cell for cell in cells if cell.arm == arm):
            measured = RunFolder(cell.folder(run.path))
            tables[arm][cell.seed] = {name: measured.read_table(name) for name in TABLES}
            values.append(measured.read_table("values").assign(model=arm, seed=cell.seed))
    every = pd.concat(values, ignore_index=True)
    summary = summarise(every)
    cures = [arm for arm in tables if arm not in (BASE, COT_SFT)]
    pairs = [(BASE, COT_SFT), *product((BASE, COT_SFT), cures)]
    comparisons = pd.concat([compare(every, a, b) for a, b in pairs], ignore_index=True)
    run.write_table("summary", summary, overwrite=True)
    run.write_table("comparisons", comparisons, overwrite=True)
    seeds = sorted({cell.seed for cell in cells if plan.arms[cell.arm].trained})
    run.note("plan", {"seeds": seeds, **run.read_json(PARTS)})
    (problem_set,) = plan.problems.values()
    problems = problem_set.test_problems(plan.items, plan.test_seed)
    pair = (COT_SFT, cures[-1])
    examples = example_problems(tables, problems, pair, _EXAMPLES)
    first = {arm: next(cell for cell in cells if cell.arm == arm) for arm in pair}
    models = {
        arm: load_mllm(
            cell.model_folder(run.path),
            dtype=torch.float32,
            format=plan.response_format,
            **plan.limits,
        )
        for arm, cell in first.items()
    }
    report = Report(
        title=plan.about,
        summary=summary,
        comparisons=comparisons,
        pair=pair,
        lead=_lead(plan, len(problems), len(seeds)),
        limits=_LIMITS,
        manifest=brief(run.manifest),
        explorers=embeds(models, examples)[0],
    )
    maps = [model_maps(models, problem) for problem in examples]
    page = write_run_report(report, run.path / "report.html", tables, problems, maps=maps)
    run.write_json(
        "results",
        {"summary": summary.to_dict("records"), "comparisons": comparisons.to_dict("records")},
        overwrite=True,
    )
    say(f"report: {page}")


def _lead(plan: Plan, items: int, seeds: int) -> list[str]:
    (problems,) = plan.problems.values()
    arms = dict.fromkeys(cell.arm for cell in plan.cells())
    titles = [plan.arms[arm].title for arm in arms if plan.arms[arm].trained]
    share = problems.train_prior
    prior = "" if share is None else f" whose answer is the habitual one in {share:.0%} of them"
    return [
        f"One tiny multimodal LLM was fine-tuned on {problems.train_items} problems{prior} in "
        f"{len(titles)} ways ({'; '.join(titles)}), with {seeds} training "
        f"{'seed' if seeds == 1 else 'seeds'} each, and measured on {items} balanced problems, "
        "where no habit helps.",
    ]


PAGES: Mapping[Pages, Callable[[RunFolder, Plan, Say], None]] = {
    "none": _none,
    "pairs": _pairs,
    "study": _study,
}
"""Every kind of pages that a plan can ask for."""
