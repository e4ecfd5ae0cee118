"""The report of a run folder: figures and `report.html`, drawn from its tables and models."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from attcot_analysis.measure.curves import access_steps, candidate_steps, step_curve
from attcot_analysis.measure.metrics import METRICS
from attcot_analysis.measure.run import RunFolder
from attcot_analysis.measure.step_maps import response_maps
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.show.curves import access_curves, access_grid, commitment_curves
from attcot_analysis.show.figures import save_figure
from attcot_analysis.show.heatmaps import before_after
from attcot_analysis.show.report import ReportFigure, write_report
from attcot_analysis.show.report_items import ExampleItem
from attcot_analysis.show.style import arm_label

Tables = Mapping[str, Mapping[int, Mapping[str, pd.DataFrame]]]
"""arm → seed → name → table, as `attcot_analysis.measure.suite.measure_all` makes them."""


def commitment_by_arm(tables: Tables, problems: Sequence[Problem], which: str) -> pd.DataFrame:
    """Commitment curves of every arm: ``model, k, value, low, high, n, n_seeds``."""
    parts = []
    for arm, seeds in tables.items():
        runs = {
            seed: candidate_steps(kinds["commitment"], problems, which)  # type: ignore[arg-type]
            for seed, kinds in seeds.items()
        }
        parts.append(step_curve(runs, axis="k").assign(model=arm))
    return pd.concat(parts, ignore_index=True)


def access_by_arm(tables: Tables, quantities: Sequence[str]) -> pd.DataFrame:
    """Visual access per step of every arm: ``model, quantity, step, value, low, high, ...``."""
    parts = []
    for arm, seeds in tables.items():
        for quantity in quantities:
            runs = {seed: access_steps(kinds["access"], quantity) for seed, kinds in seeds.items()}
            curve = step_curve(runs, axis="step")
            parts.append(curve.assign(model=arm, quantity=quantity))
    return pd.concat(parts, ignore_index=True)


def access_by_layer(tables: Tables) -> pd.DataFrame:
    """Mean visual mass per arm, layer and step: ``model, layer, step, value, n``."""
    parts = []
    for arm, seeds in tables.items():
        access = pd.concat([kinds["access"] for kinds in seeds.values()])
        grid = access.groupby(["layer", "step"])["mass"].mean().rename("value").reset_index()
        parts.append(grid.assign(model=arm, n=access["item"].nunique()))
    return pd.concat(parts, ignore_index=True)


def write_run_report(
    run: RunFolder,
    tables: Tables,
    problems: Sequence[Problem],
    checkpoints: Mapping[str, str | Path],
    *,
    title: str,
    lead: Sequence[str],
    before: str,
    after: str,
    examples: int = 3,
) -> Path:
    """Draw a run's figures into ``figures/`` and write its ``report.html``.

    Args:
        run: The folder, with tables ``summary`` and ``comparisons``.
        tables: What was measured.
        problems: The items.
        checkpoints: One checkpoint per arm, for the heatmaps.
        title: Title of the page.
        lead: Its first paragraphs.
        before: Arm on the left of the heatmaps.
        after: Arm on the right.
        examples: Items shown.
    """
    chance = 1 / len(problems[0].candidates)
    habitual = commitment_by_arm(tables, problems, "habitual")
    final = commitment_by_arm(tables, problems, "final")
    access = access_by_arm(tables, ("mass", "evidence_share"))
    layers = access_by_layer(tables)
    curves = [
        ReportFigure(
            commitment_curves(final, chance=chance, title=""),
            "When does the answer settle?",
            "Probability of the model's own final answer when it is forced to answer after k "
            "steps of its own rationale. A curve that is high at k = 0 has decided before it "
            "wrote. The thin grey line is chance.",
        ),
        ReportFigure(
            commitment_curves(
                habitual,
                quantity="p(habitual answer)",
                chance=chance,
                title="",
            ),
            "The textual prior along the rationale",
            "Probability of the habitual answer after k steps. The test items are balanced, so "
            "anything above chance is the prior speaking, not the picture.",
        ),
        ReportFigure(
            access_curves(access, title=""),
            "Does it keep looking while it writes?",
            "Left: attention of a rationale token's row on all image tokens. Right: which share "
            "of that lies on the evidence boxes of the step being written. Mean over layers, "
            "heads and rows.",
        ),
        ReportFigure(
            access_grid(layers, reference=before),
            "Visual access by layer and step",
            f"Mean visual mass over heads, rows and {len(problems)} items, all seeds of an arm "
            f"together; second row: difference from {arm_label(before)}.",
            wide=True,
        ),
    ]
    chosen = _examples(tables, problems, before, after)[:examples]
    note = (
        f"Chosen because {arm_label(before)} and {arm_label(after)} differ on it in most seeds: "
        "it shows what differs, not what is typical."
    )
    heatmaps = [_heatmap(problem, checkpoints, before, after) for problem in chosen]
    folder = run.path / "figures"
    data = [final, habitual, access, layers] + [None] * len(heatmaps)
    names = ["commitment_final", "commitment_habitual", "access", "access_layers"]
    names += [f"maps_{problem.id}" for problem in chosen]
    for name, figure, table in zip(names, [*curves, *heatmaps], data, strict=True):
        save_figure(figure.figure, folder / name, data=table, overwrite=True)
    path = write_report(
        run.path / "report.html",
        title=title,
        summary=run.read_table("summary"),
        comparisons=run.read_table("comparisons"),
        metrics=METRICS,
        curves=curves,
        heatmaps=heatmaps,
        examples=[_example(tables, problem, note) for problem in chosen],
        manifest=run.manifest,
        lead=lead,
        overwrite=True,
    )
    return path


def _examples(
    tables: Tables, problems: Sequence[Problem], before: str, after: str
) -> list[Problem]:
    """Items on which the two arms differ most often first, in item order among equals."""

    def right(arm: str) -> pd.Series:
        answers = pd.concat([kinds["answers_cot"] for kinds in tables[arm].values()])
        return answers.groupby("item")["correct"].mean()

    gap = (right(after) - right(before)).abs()
    return sorted(problems, key=lambda problem: -float(gap.get(problem.id, 0.0)))


def _heatmap(
    problem: Problem, checkpoints: Mapping[str, str | Path], before: str, after: str
) -> ReportFigure:
    response = render_response(problem.steps, problem.answer)
    maps = {
        arm: response_maps(load_mllm(checkpoints[arm]), problem, response).step_maps()
        for arm in (before, after)
    }
    figure = before_after(
        problem.image,
        list(maps[before]),
        list(maps[after]),
        [f"{number}. {step.text}" for number, step in enumerate(problem.steps, start=1)],
        names=(arm_label(before), arm_label(after)),
        boxes=[step.boxes for step in problem.steps],
    )
    return ReportFigure(
        figure,
        f"{arm_label(before)} and {arm_label(after)} on {problem.id}",
        "Attention of each step's rows on the image tokens, mean over layers and heads, while "
        "the right rationale is teacher-forced (one item, one training seed per arm). One colour "
        "scale for both models; below, after minus before, with zero in the middle. Frames: "
        "evidence boxes.",
        wide=True,
    )


def _example(tables: Tables, problem: Problem, note: str) -> ExampleItem:
    responses: dict[str, dict[str, str]] = {"original": {}, "twin": {}, "control": {}}
    for arm, seeds in tables.items():
        kinds = seeds[min(seeds)]
        answers = kinds["answers_cot"].set_index("item")
        responses["original"][arm] = str(answers.loc[problem.id, "text"])
        edits = kinds["dependence"]
        edits = edits[(edits["item"] == problem.id) & (edits["rationale"] == "regenerated")]
        for kind in ("twin", "control"):
            after = edits.loc[edits["edit"] == kind, "answer_after"]
            if len(after):
                responses[kind][arm] = f"<answer>{after.iloc[0]}</answer>"
    return ExampleItem(problem, responses, note)
