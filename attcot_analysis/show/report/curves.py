"""Curves over the rationale of every arm of a run, from its tables, with intervals."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from attcot_analysis.problems import Problem
from attcot_analysis.show.curves import access_curves, access_grid, commitment_curves
from attcot_analysis.show.report.items import Tables
from attcot_analysis.show.report.page import ReportFigure
from attcot_analysis.show.style import arm_label
from attcot_analysis.show.tables import counts
from attcot_analysis.stats.curves import access_steps, at_positions, candidate_steps, step_curve

Axis = Literal["step", "position"]
_SAME = 0.9
"""Share of rationales that must have as many steps as most for curves over steps."""


def run_curves(tables: Tables, problems: Sequence[Problem], reference: str) -> list[ReportFigure]:
    """Curves of commitment and visual access over the rationale, with intervals, of every arm.

    Args:
        tables: What was measured.
        problems: The items.
        reference: The arm from which the others' visual access is subtracted.

    Returns:
        None at all if some arm has not written a single rationale step.
    """
    if not everywhere(tables, "access"):
        return []
    axis = curve_axis(tables)
    forced = everywhere(tables, "commitment")
    curves = _commitment_curves(tables, problems, axis) if forced else []
    return curves + _access_curves(tables, problems, axis, reference)


def everywhere(tables: Tables, name: str) -> bool:
    """Whether a table has rows in every arm and seed."""
    return all(len(kinds[name]) for seeds in tables.values() for kinds in seeds.values())


def _commitment_curves(
    tables: Tables, problems: Sequence[Problem], axis: Axis
) -> list[ReportFigure]:
    sizes = {len(problem.candidates) for problem in problems if problem.candidates}
    chance = 1 / sizes.pop() if len(sizes) == 1 else None
    line = " The thin grey line is chance." if chance else ""
    final = commitment_by_arm(tables, problems, "final", axis=axis)
    curves = [
        ReportFigure(
            commitment_curves(final, chance=chance, title=""),
            "When does the answer settle?",
            "Probability of the model's own final answer when it is forced to answer within its "
            "own rationale. A curve that is high at the left has decided before it wrote."
            f"{line}{_n(final)}",
            name="commitment_final",
            data=final,
        )
    ]
    if any(problem.habitual is not None and problem.candidates for problem in problems):
        habitual = commitment_by_arm(tables, problems, "habitual", axis=axis)
        curves.append(
            ReportFigure(
                commitment_curves(habitual, quantity="p(habitual answer)", chance=chance, title=""),
                "The textual prior along the rationale",
                "Probability of the habitual answer. Where items are balanced, anything above "
                f"chance is the prior speaking, not the picture.{line}{_n(habitual)}",
                name="commitment_habitual",
                data=habitual,
            )
        )
    controls = _controls(tables)
    if len(controls) > 1:
        held = commitment_by_arm(tables, problems, "final", axis=axis, controls=controls)
        curves.append(
            ReportFigure(
                commitment_curves(held, chance=chance, title=""),
                "Is it the rationale that settles the answer?",
                "Probability of the same final answer when the rationale is replaced: where a "
                "filler or another item's rationale raises it as much, the words do not matter."
                f"{line}{_n(held)}",
                wide=True,
                name="commitment_controls",
                data=held,
            )
        )
    return curves


def _access_curves(
    tables: Tables, problems: Sequence[Problem], axis: Axis, reference: str
) -> list[ReportFigure]:
    access = access_by_arm(tables, ("mass", "evidence_share"), axis=axis)
    layers = access_by_layer(tables)
    same_layers = layers.groupby("model")["layer"].unique().map(tuple).nunique() == 1
    alike = same_layers and len(tables) > 1
    difference = f", and its difference from {arm_label(reference)}" if alike else ""
    shares = access["quantity"].nunique() > 1
    evidence = ", and which share of that lies on the evidence boxes of the step being written"
    evidence = evidence if shares else ""
    return [
        ReportFigure(
            access_curves(access, title=""),
            "Does it keep looking while it writes?",
            f"Attention of a rationale token's row on all image tokens{evidence}. "
            f"Mean over layers, heads and rows.{_n(access)}",
            wide=shares,
            name="access",
            data=access,
        ),
        ReportFigure(
            access_grid(layers, reference=reference if alike else None),
            "Visual access by layer and step",
            f"Mean visual mass over heads, rows and {len(problems)} items, all seeds of an arm "
            f"together{difference}. For intervals see the curves.",
            wide=True,
            name="access_layers",
            data=layers,
        ),
    ]


def curve_axis(tables: Tables) -> Axis:
    """Steps where nearly all rationales of all arms have as many, else positions in them."""
    lengths = pd.concat(
        [
            kinds["access"].drop_duplicates("item")["n_steps"]
            for seeds in tables.values()
            for kinds in seeds.values()
        ]
    )
    return "step" if lengths.value_counts(normalize=True).iloc[0] >= _SAME else "position"


def commitment_by_arm(
    tables: Tables,
    problems: Sequence[Problem],
    which: Literal["final", "answer", "habitual"],
    *,
    axis: Axis = "step",
    controls: Sequence[str] = (),
) -> pd.DataFrame:
    """Commitment curves of every arm: ``model, k | position, value, low, high, n, n_seeds``.

    Args:
        tables: What was measured.
        problems: The items.
        which: Whose probability; see `candidate_steps`.
        axis: Steps written, for items with the most common number of steps, or positions, for all.
        controls: One curve for each, named in a column ``control``.
    """
    parts = []
    for control in controls or ("rationale",):
        for arm, seeds in tables.items():
            runs = {}
            for seed, kinds in seeds.items():
                lengths: Literal["common", "all"] = "common" if axis == "step" else "all"
                found = candidate_steps(
                    kinds["commitment"], problems, which, control=control, lengths=lengths
                )
                runs[seed] = found if axis == "step" else at_positions(found, "k")
            curve = step_curve(runs, axis="k" if axis == "step" else "position")
            parts.append(curve.assign(model=arm, **({"control": control} if controls else {})))
    return pd.concat(parts, ignore_index=True)


def access_by_arm(
    tables: Tables, quantities: Sequence[str], *, axis: Axis = "step"
) -> pd.DataFrame:
    """Visual access of every arm: ``model, quantity, step | position, value, low, high, ...``.

    Quantities that need evidence boxes are left out where an arm's steps have none.
    """
    parts = []
    for arm, seeds in tables.items():
        for quantity in quantities:
            runs = {seed: access_steps(kinds["access"], quantity) for seed, kinds in seeds.items()}
            if all(len(table) for table in runs.values()):
                if axis == "position":
                    runs = {seed: at_positions(table, "step") for seed, table in runs.items()}
                parts.append(step_curve(runs, axis=axis).assign(model=arm, quantity=quantity))
    return pd.concat(parts, ignore_index=True)


def access_by_layer(tables: Tables) -> pd.DataFrame:
    """Mean visual mass per arm, layer and step: ``model, layer, step, value, n``.

    Late steps that fewer than half of an arm's items have are left out: they would show other
    items, not other steps.
    """
    parts = []
    for arm, seeds in tables.items():
        access = pd.concat([kinds["access"] for kinds in seeds.values()])
        n = access["item"].nunique()
        having = access.groupby("step")["item"].nunique()
        access = access[access["step"].isin(having.index[having * 2 >= n])]
        grid = access.groupby(["layer", "step"])["mass"].mean().rename("value").reset_index()
        parts.append(grid.assign(model=arm, n=n))
    return pd.concat(parts, ignore_index=True)


def _controls(tables: Tables) -> list[str]:
    """The controls that every arm was measured under, the own rationale first."""
    every = [
        list(dict.fromkeys(kinds["commitment"]["control"]))
        for seeds in tables.values()
        for kinds in seeds.values()
    ]
    return [control for control in every[0] if all(control in one for one in every)]


def _n(curve: pd.DataFrame) -> str:
    return f" Lines and bands are 95% intervals; n: {counts(curve)}."
