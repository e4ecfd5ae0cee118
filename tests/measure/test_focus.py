"""Focus: where a step's attention lies, against an even spread and against the step before."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import VisualAccess
from attcot_analysis.problems import Step
from attcot_lab.testbed.arrows import generate_arrows


@pytest.fixture(scope="module")
def problems():
    """Four problems; steps with a quarter, an eighth (two boxes that overlap), none, and all."""
    width, height = generate_arrows(1)[0].image.size
    quarter = (0.0, 0.0, width / 2, height / 2)
    eighth = ((0.0, 0.0, width / 4, height / 4), (width / 8, 0.0, width / 2, height / 4))
    steps = (
        Step("A quarter.", (quarter,)),
        Step("An eighth.", eighth),
        Step("None."),
        Step("All.", ((0.0, 0.0, width, height),)),
    )
    return [replace(one, steps=steps) for one in generate_arrows(4)]


AREAS = (0.25, 0.125, np.nan, np.nan)


def access(problems, shares) -> pd.DataFrame:
    """Two heads with unlike mass; per item and step the share of all mass on the evidence."""
    rows = []
    for problem, own in zip(problems, shares, strict=True):
        for step, share in enumerate(own, start=1):
            for head, (mass, tilt) in enumerate(((0.2, 0.05), (0.6, -0.05))):
                on_it = share * mass + tilt * share
                rows.append((problem.id, step, 0, head, mass, on_it))
    columns = ["item", "step", "layer", "head", "mass", "evidence_mass"]
    rest = {"n_steps": 4, "share": 0.0, "density": 0.0, "evidence_share": 0.0}
    return pd.DataFrame(rows, columns=columns).assign(**rest)


def focus_items(table, problems):
    return VisualAccess(table, problems).focus()


def spelt_out(table, item):
    scores = []
    for step, area in enumerate(AREAS, start=1):
        own = table[(table["item"] == item) & (table["step"] == step)]
        if len(own) and not np.isnan(area):
            ratio = own["evidence_mass"].mean() / own["mass"].mean() / area
            scores.append(np.tanh(np.log(ratio)))
    return scores


def test_focus_is_that_of_a_naive_loop_and_says_who_comes_back(problems):
    table = access(
        problems,
        [
            (0.5, 0.25, 0.9, 0.9),  # twice its share in both steps
            (0.1, 0.25, 0.0, 0.0),  # misses, and comes back
            (0.1, 0.05, 0.9, 0.9),  # misses, and does not
            (0.1,),  # one step only
        ],
    ).sample(frac=1, random_state=0)
    found = focus_items(table, problems).set_index("item")
    for problem in problems:
        scores = spelt_out(table, problem.id)
        row = found.loc[problem.id]
        assert row["focus"] == pytest.approx(np.mean(scores))
        assert row["unfocused_first_step"] == (scores[0] < 0)
    by_item = found.loc[[problem.id for problem in problems]]
    assert by_item["focus"].iloc[0] == pytest.approx(0.6)
    np.testing.assert_array_equal(by_item["refocused"], [np.nan, 1.0, 0.0, np.nan])


def test_steps_that_cannot_miss_have_no_focus(problems):
    table = access(problems[:1], [(0.5, 0.25, 0.9, 0.9)])
    late = table[table["step"] > 2].assign(evidence_mass=0.1)
    assert focus_items(late, problems).empty
    blind = table.assign(mass=0.0, evidence_mass=0.0)
    assert focus_items(blind, problems).empty
    longer = pd.concat([table, table.assign(step=table["step"] + 4)])
    pd.testing.assert_frame_equal(focus_items(longer, problems), focus_items(table, problems))
    with pytest.raises(MeasureError, match="lacks evidence_mass"):
        focus_items(table.drop(columns="evidence_mass"), problems)


def test_an_even_spread_is_over_what_is_seen_where_the_table_says_it(problems):
    table = access(problems[:1], [(0.5, 0.25)])
    table["evidence_area"] = table["step"].map({1: 0.5, 2: np.nan})
    (focus,) = focus_items(table, problems[:1])["focus"]
    # The first step gets its share of what is seen; the second twice that of the whole picture.
    plain = spelt_out(table, problems[0].id)
    assert focus == pytest.approx((0 + plain[1]) / 2, abs=0.05)
    table["evidence_area"] = 0.6
    assert focus_items(table, problems[:1]).empty
