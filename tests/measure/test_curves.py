"""Curves over steps: means over seeds and items, the right candidate, most common length."""

import numpy as np
import pandas as pd
import pytest

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import QUANTITIES, VisualAccess
from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.stats.crossed import step_curve
from attcot_analysis.stats.intervals import at_positions
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows


def test_a_curve_averages_over_seeds_and_items_with_an_interval():
    rng = np.random.default_rng(0)
    runs = {
        seed: pd.DataFrame(
            {
                "item": [f"i{n}" for n in range(50)] * 2,
                "k": [0] * 50 + [1] * 50,
                "value": np.concatenate([rng.uniform(0, 0.4, 50), rng.uniform(0.6, 1.0, 50)]),
            }
        )
        for seed in range(3)
    }
    curve = step_curve(runs, axis="k", n_boot=300)
    stacked = pd.concat(runs.values())
    assert curve["k"].tolist() == [0, 1]
    np.testing.assert_allclose(curve["value"], stacked.groupby("k")["value"].mean())
    assert (curve["low"] < curve["value"]).all() and (curve["value"] < curve["high"]).all()
    assert curve["n"].tolist() == [50, 50] and curve["n_seeds"].tolist() == [3, 3]


def test_a_curve_refuses_what_is_not_reduced_and_what_is_empty():
    twice = pd.DataFrame({"item": ["a", "a"], "k": [0, 0], "value": [0.1, 0.2]})
    with pytest.raises(MeasureError, match="twice"):
        step_curve({0: twice}, axis="k")
    with pytest.raises(MeasureError, match="at least one run"):
        step_curve({}, axis="k")


def _commitment(problems, curves):
    """`curves`: per problem (K + 1, candidates) probabilities."""
    rows = []
    for problem, p in zip(problems, curves, strict=True):
        for step, values in enumerate(p):
            for candidate, value in zip(problem.candidates, values, strict=True):
                rows.append((problem.id, "rationale", step, len(p) - 1, candidate, value))
    columns = ["item", "control", "step", "n_steps", "candidate", "p"]
    return pd.DataFrame(rows, columns=columns).assign(leaked=False, log_p=0.0)


def test_candidate_steps_follow_the_final_the_right_and_the_habitual_answer():
    problems = generate_arrows(3, ArrowsConfig(), seed=2)
    eye = np.eye(6) * 0.4 + 0.1
    final = [0, 3, 5]
    table = _commitment(problems, [[np.full(6, 1 / 6), eye[f]] for f in final])
    own = Commitment(table, problems).steps("final")
    assert own["value"].round(6).tolist() == [round(1 / 6, 6), 0.5] * 3
    for which in ("answer", "habitual"):
        chosen = Commitment(table, problems).steps(which)
        expected = [
            0.5 if problem.candidates.index(getattr(problem, which)) == f else 0.1
            for problem, f in zip(problems, final, strict=True)
        ]
        assert chosen[chosen["k"] == 1]["value"].round(6).tolist() == expected


def test_candidate_steps_keep_the_most_common_number_of_steps():
    problems = generate_arrows(3, ArrowsConfig(), seed=2)
    even = np.full(6, 1 / 6)
    table = _commitment(problems, [[even] * 3, [even] * 3, [even] * 2])
    assert set(Commitment(table, problems).steps("final")["item"]) == {p.id for p in problems[:2]}


def test_access_steps_average_layers_and_heads_and_drop_steps_without_boxes():
    table = pd.DataFrame(
        {
            "item": "a",
            "step": [1, 1, 2, 2],
            "n_steps": 2,
            **dict.fromkeys(QUANTITIES, 0.0),
            "layer": [0, 1, 0, 1],
            "head": 0,
            "mass": [0.2, 0.4, 0.6, 0.8],
            "evidence_share": [0.5, 0.5, np.nan, np.nan],
        }
    )
    access = VisualAccess(table)
    assert access.steps()["value"].tolist() == pytest.approx([0.3, 0.7])
    assert access.steps("evidence_share")["step"].tolist() == [1]


def test_at_positions_reads_every_curve_at_the_same_shares_of_its_rationale():
    table = pd.DataFrame(
        {
            "item": ["short"] * 2 + ["long"] * 5,
            "k": [0, 1, 0, 1, 2, 3, 4],
            "value": [0.0, 1.0, 0.0, 0.0, 0.0, 0.5, 1.0],
        }
    )
    found = at_positions(table, "k", points=5).pivot(
        index="item", columns="position", values="value"
    )
    assert found.columns.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.loc["short"].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.loc["long"].tolist() == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert step_curve({0: at_positions(table, "k", points=5)}, axis="position")["n"].eq(2).all()


def test_curves_that_start_at_step_one_have_no_position_zero():
    table = pd.DataFrame({"item": ["a", "a"], "step": [1, 2], "value": [0.2, 0.4]})
    found = at_positions(table, "step", points=5)
    assert found["position"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert found["value"].round(6).tolist() == [0.2, 0.2, 0.3, 0.4]
