"""Synthetic tables, problems and maps in the shapes that measurements return."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from attcot_analysis.problems import Edit, Problem, Step, render_response
from attcot_analysis.show.curves import access_curves, access_grid, commitment_curves
from attcot_analysis.show.heatmaps import before_after
from attcot_analysis.show.report.items import ItemArm, ItemStep, ReportItem
from attcot_analysis.show.report.page import Report, ReportEmbed, ReportFigure, write_report
from attcot_analysis.stats.catalogue import METRICS, Metric

ARMS = ("base", "cot_sft", "att_cot")
SEEDS = {"base": 1, "cot_sft": 4, "att_cot": 4}
PALETTE = {
    "red": (205, 60, 50),
    "green": (70, 150, 80),
    "blue": (60, 90, 190),
    "gold": (220, 180, 60),
}
NAMES = (
    "accuracy_cot",
    "accuracy_direct",
    "p0_final",
    "commitment_position",
    "commitment_area",
    "mass",
    "evidence_share",
    "follow_twin",
    "flip_control",
    "net_dependence",
    "habitual_cot",
    "prior_agreement",
)
SIDE = 96
HOSTILE = "<script>alert(1)</script></script></style><img src=x onerror=alert(2)>\"'&"


def make_metrics() -> dict[str, Metric]:
    """Take a part of the catalogue: several axes and units, some metrics not in the focus."""
    return {name: METRICS[name] for name in NAMES}


def make_summary(metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Draw plausible values."""
    rng = np.random.default_rng(0)
    rows = []
    for name in metrics:
        for arm in ARMS:
            value, half = rng.uniform(0.2, 0.8), rng.uniform(0.015, 0.06)
            rows.append(
                {
                    "model": arm,
                    "metric": name,
                    "value": value,
                    "low": value - half,
                    "high": value + half * 1.2,
                    "n_items": 192,
                    "n_seeds": SEEDS[arm],
                }
            )
    return pd.DataFrame(rows)


def make_comparisons(metrics: Mapping[str, Metric]) -> pd.DataFrame:
    """Draw plausible differences, some of which cannot be told from zero."""
    rng = np.random.default_rng(1)
    rows = []
    for a, b in (("base", "cot_sft"), ("cot_sft", "att_cot"), ("base", "att_cot")):
        for name in metrics:
            value, half = rng.normal(0, 0.06), rng.uniform(0.02, 0.05)
            rows.append(
                {
                    "metric": name,
                    "a": a,
                    "b": b,
                    "value": value,
                    "low": value - half,
                    "high": value + half,
                    "n_items": 192,
                    "n_seeds": 4,
                    "p_value": min(1.0, 2 * np.exp(-abs(value) / half * 2)),
                    "test": "permutation",
                }
            )
    return pd.DataFrame(rows)


def make_commitment() -> pd.DataFrame:
    """Draw curves that rise at the end."""
    rows = []
    for number, arm in enumerate(ARMS):
        for k in range(5):
            value = 0.25 + 0.7 * (k / 4) ** (1 + number) - 0.05 * (number == 1)
            rows.append(
                {
                    "model": arm,
                    "k": k,
                    "value": value,
                    "low": value - 0.03,
                    "high": value + 0.04,
                    "n": 192,
                    "n_seeds": SEEDS[arm],
                }
            )
    return pd.DataFrame(rows)


def make_access() -> pd.DataFrame:
    """Draw masses that sink, less for one arm."""
    rng = np.random.default_rng(2)
    rows = []
    for number, arm in enumerate(ARMS):
        for layer in range(4):
            for step in range(1, 5):
                value = 0.3 + 0.08 * layer - 0.05 * step * (number == 1) + rng.normal(0, 0.01)
                rows.append(
                    {
                        "model": arm,
                        "layer": layer,
                        "step": step,
                        "value": value,
                        "low": value - 0.02,
                        "high": value + 0.02,
                        "n": 192,
                    }
                )
    return pd.DataFrame(rows)


def make_problem(question: str = "Which color is the star in c2?", number: int = 0) -> Problem:
    """Draw 3x3 coloured shapes with patch noise."""
    rng = np.random.default_rng(number)
    names = list(PALETTE)
    colors = [[names[int(rng.integers(4))] for _ in range(3)] for _ in range(3)]
    noise = rng.normal(0, 30, (SIDE // 8, SIDE // 8, 3)).repeat(8, 0).repeat(8, 1)
    answer = colors[1][2]
    other = next(name for name in names if name != answer)
    twin = [list(row) for row in colors]
    twin[1][2] = other
    control = [list(row) for row in colors]
    control[2][0] = next(name for name in names if name != colors[2][0])
    evidence = ((64.0, 32.0, 96.0, 64.0),)
    return Problem(
        id=f"item-{number:03d}",
        image=_draw(colors, noise),
        question=question,
        candidates=tuple(names),
        answer=answer,
        steps=(
            Step("Start in a1 and follow the arrow.", ((0.0, 0.0, 32.0, 32.0),)),
            Step("It points to c2.", ((32.0, 0.0, 64.0, 32.0),)),
            Step("Read c2.", evidence),
        ),
        twin=Edit("twin", _draw(twin, noise), other, (Step("Read c2."),), evidence),
        control=Edit(
            "control",
            _draw(control, noise),
            answer,
            (Step("Read c2."),),
            ((0.0, 64.0, 32.0, 96.0),),
        ),
        habitual=names[(names.index(answer) + 1) % 4],
        metadata={"hops": 2},
    )


def _draw(colors: list[list[str]], noise: np.ndarray) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (236, 232, 224))
    pen = ImageDraw.Draw(image)
    for row in range(3):
        for column in range(3):
            x, y = column * 32, row * 32
            pen.ellipse((x + 5, y + 5, x + 27, y + 27), fill=PALETTE[colors[row][column]])
    array = np.clip(np.asarray(image, float) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(array)


def make_maps(seed: int, layers: int = 3, heads: int = 4, tokens: int = 6) -> np.ndarray:
    """Draw maps with a moving peak."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(6), indexing="ij"), -1).reshape(-1, 2)
    centers = rng.uniform(0, 6, (layers, heads, tokens, 1, 2))
    weight = np.exp(-((grid - centers) ** 2).sum(-1) / 2) + 0.05
    share = rng.uniform(0.3, 0.8, (layers, heads, tokens, 1))
    return (weight / weight.sum(-1, keepdims=True) * share).astype(np.float32)


def make_item(problem: Problem, arms: Mapping[str, str | None], hostile: str = "") -> ReportItem:
    """Let every arm answer, half of them early."""
    done = {}
    for number, (arm, answer) in enumerate(arms.items()):
        texts = ["", *(step.text for step in problem.steps), *([hostile] if hostile else [])]
        last = len(texts) - 1
        settled = 0 if number % 2 else last
        steps = tuple(
            ItemStep(
                text,
                str(answer) if k >= settled else problem.candidates[0],
                0.4 + 0.5 * k / last,
                0.2 + 0.7 * k / last,
                float("nan") if k == 0 else 0.5 - 0.1 * k,
            )
            for k, text in enumerate(texts)
        )
        done[arm] = ItemArm(
            render_response(texts[1:], str(answer)) if answer else f"I do not know. {hostile}",
            answer,
            steps if answer else (),
            settled if answer else None,
            {"twin": answer, "control": answer, "blank": None, "mine:<b>": "red"},
        )
    return ReportItem(problem, done, f"It is the first.{hostile}")


def make_report(
    path: Path,
    *,
    hostile: str = "",
    figures: Path | None = None,
    explorers: Sequence[ReportEmbed] = (),
    values: Sequence[Mapping[str, float]] = (),
) -> Path:
    """Write a whole report from made-up parts; ``hostile`` is put into every text from outside."""
    metrics = make_metrics()
    summary, comparisons = make_summary(metrics), make_comparisons(metrics)
    if hostile:
        extra = summary[summary["model"] == "att_cot"].assign(model=f"arm {hostile}")
        summary = pd.concat([summary, extra], ignore_index=True)
    problem = make_problem(f"Which color is the disc in c2?{hostile}")
    if hostile:
        problem = dataclasses.replace(problem, candidates=(*problem.candidates, hostile))
    said = {"base": problem.habitual, "cot_sft": hostile or problem.habitual}
    said["att_cot"] = problem.answer
    if hostile:
        said[f"arm {hostile}"] = hostile
    right = make_problem(number=2)
    steps = [f"step {k}{hostile}" for k in (1, 2, 3)]
    before, after = (make_maps(seed)[0, 0, :3].reshape(-1, 6, 6) for seed in (0, 5))
    boxes = [step.boxes for step in problem.steps]
    access = make_access().groupby(["model", "step"], as_index=False)[["value", "low", "high", "n"]]
    examples = [
        make_item(problem, said, hostile),
        make_item(make_problem(number=1), {"base": None, "cot_sft": None, "att_cot": None}),
        make_item(right, dict.fromkeys(("base", "cot_sft", "att_cot"), right.answer)),
    ]
    for at, some in enumerate(values):
        examples[at] = dataclasses.replace(examples[at], values=some)
    report = Report(
        title=f"Base, CoT-SFT and Att-CoT on arrows{hostile}",
        summary=summary,
        comparisons=comparisons,
        metrics=metrics,
        curves=[
            ReportFigure(
                commitment_curves(make_commitment(), chance=0.25, title=""),
                "Commitment",
                "Probability of the final answer when it is forced after each step; vertical "
                "lines are 95% intervals. n is in the legend.",
            ),
            ReportFigure(
                access_curves(access.mean(), title=""),
                "Visual access",
                "Attention mass on the picture at each step; vertical lines are 95% intervals.",
            ),
            ReportFigure(
                access_grid(make_access(), reference="base"),
                "Visual access by layer and step",
                "Mean visual mass, and its difference from the base.",
            ),
        ],
        heatmaps=[
            ReportFigure(
                before_after(
                    problem.image, before, after, steps, names=("CoT-SFT", "Att-CoT"), boxes=boxes
                ),
                f"Item {problem.id}: where each step's row attends{hostile}",
                "Mean over layers and heads. The two upper rows share one colour scale.",
                wide=True,
                name=f"maps_{problem.id}",
            )
        ],
        explorers=explorers,
        examples=examples,
        pair=("cot_sft", "att_cot"),
        lead=[f"Three arms on made-up numbers.{hostile}"],
        notes=[f"These numbers are made up.{hostile}"],
        manifest={
            "versions": {"torch": "2.9", "transformers": "5.10"},
            "seeds": [0, 1, 2, 3],
            "data": hostile or "arrows",
        },
    )
    return write_report(report, path, figures=figures)
