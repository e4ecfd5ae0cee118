"""Curves of a run: over steps where rationales are alike, over positions where they are not."""

import numpy as np
import pandas as pd
import pytest
from show.test_flow import result

from attcot_analysis.measures.samples import stacked
from attcot_analysis.show.report.arms import (
    access_by_arm,
    access_by_layer,
    commitment_by_arm,
    curve_axis,
    run_curves,
)
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

PROBLEMS = generate_arrows(12, ArrowsConfig(), seed=5)


def forced(lengths, controls=("rationale",)):
    """A commitment table: p of the right answer is the share of the rationale written."""
    rows = []
    for problem, n_steps in zip(PROBLEMS, lengths, strict=True):
        for control in controls:
            for step in range(n_steps + 1):
                share = step / n_steps if control == "rationale" else 0.0
                for candidate in problem.candidates[:3]:
                    best = candidate == problem.candidates[0]
                    p = share if best else (1 - share) / 2
                    rows.append((problem.id, control, step, n_steps, candidate, p, False))
    columns = ["item", "control", "step", "n_steps", "candidate", "p", "leaked"]
    return pd.DataFrame(rows, columns=columns).assign(log_p=0.0)


def looked(lengths, boxes=True, layers=(0, 1)):
    """A table of visual access: mass falls from 0.5 by 0.1 per step, in every layer and head."""
    rows = [
        (problem.id, step, n_steps, layer, head, 0.5 - 0.1 * step, 0.2 if boxes else np.nan)
        for problem, n_steps in zip(PROBLEMS, lengths, strict=True)
        for step in range(1, n_steps + 1)
        for layer in layers
        for head in (0, 1)
    ]
    columns = ["item", "step", "n_steps", "layer", "head", "mass", "evidence_share"]
    return pd.DataFrame(rows, columns=columns).assign(share=0.1, density=1.0, evidence_mass=0.1)


def arm(lengths, **options):
    controls = options.pop("controls", ("rationale",))
    return {0: {"commitment": forced(lengths, controls), "access": looked(lengths, **options)}}


ALIKE = [3] * 12
MIXED = [2, 4] * 6


def test_rationales_of_one_length_are_drawn_over_steps():
    tables = {"base": arm(ALIKE), "att_cot": arm(ALIKE)}
    assert curve_axis(tables) == "step"
    curve = commitment_by_arm(tables, PROBLEMS, "final")
    assert curve.groupby("model")["k"].apply(list).tolist() == [[0, 1, 2, 3]] * 2
    assert curve["value"].round(6).tolist() == [0.0, 0.333333, 0.666667, 1.0] * 2
    assert curve["n"].eq(12).all()


def test_rationales_of_many_lengths_are_drawn_over_positions_with_every_item():
    tables = {"base": arm(ALIKE), "att_cot": arm(MIXED)}
    assert curve_axis(tables) == "position"
    curve = commitment_by_arm(tables, PROBLEMS, "final", axis="position")
    assert curve["n"].eq(12).all()
    np.testing.assert_allclose(curve["value"], curve["position"], atol=1e-9)
    assert curve["position"].nunique() == 11


def test_samples_of_an_item_are_one_curve_of_n_items():
    """Two samples, of 2 and of 4 steps: the mean of both at every position, and no more items."""
    short, long = arm([2] * 12)[0], arm([4] * 12)[0]
    flat = short | {"commitment": short["commitment"].assign(p=1 / 3)}
    sampled = {name: stacked([flat[name], long[name]]) for name in short}
    tables = {"base": {0: sampled}}
    assert curve_axis(tables) == "position"
    curve = commitment_by_arm(tables, PROBLEMS, "final", axis="position")
    assert curve["n"].eq(12).all()
    # p(final) of the second rises from 0 to 1; the first's stays at 1/3.
    np.testing.assert_allclose(curve["value"], (1 / 3 + curve["position"]) / 2, atol=1e-9)
    access = access_by_arm(tables, ("mass",), axis="position")
    assert access["n"].eq(12).all()
    # At the last step: 0.5 - 0.1 K.
    assert access["value"].iloc[-1] == pytest.approx((0.3 + 0.1) / 2)
    assert run_curves(tables, PROBLEMS, "base")


def test_curves_that_lack_steps_are_drawn_over_positions():
    whole = arm([4] * 12)
    assert curve_axis({"base": whole}) == "step"
    forced = whole[0]["commitment"]
    forced = forced[forced["step"].isin([0, 1, 4])].assign(n_probed=3)
    tables = {"base": {0: whole[0] | {"commitment": forced}}}
    assert curve_axis(tables) == "position"
    curve = commitment_by_arm(tables, PROBLEMS, "final", axis="position")
    np.testing.assert_allclose(curve["value"], curve["position"], atol=1e-9)


def test_controls_stand_beside_the_rationale():
    tables = {"base": arm(ALIKE, controls=("rationale", "filler"))}
    curve = commitment_by_arm(tables, PROBLEMS, "final", controls=("rationale", "filler"))
    last = curve[curve["k"] == 3].set_index("control")["value"]
    assert last["rationale"] == 1.0 and last["filler"] == 0.0


def test_quantities_that_need_boxes_are_left_out_without_them():
    tables = {"base": arm(ALIKE, boxes=False)}
    assert set(access_by_arm(tables, ("mass", "evidence_share"))["quantity"]) == {"mass"}
    with_boxes = access_by_arm({"base": arm(ALIKE)}, ("mass", "evidence_share"))
    assert set(with_boxes["quantity"]) == {"mass", "evidence_share"}
    mass = with_boxes[with_boxes["quantity"] == "mass"]
    np.testing.assert_allclose(mass["value"], [0.4, 0.3, 0.2])


def test_steps_that_few_items_have_are_left_out_of_the_grid():
    tables = {"base": arm([2] * 9 + [5] * 3)}
    assert sorted(set(access_by_layer(tables)["step"])) == [1, 2]
    assert sorted(set(access_by_layer({"base": arm(MIXED)})["step"])) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("other", "panels"),
    [(arm(ALIKE), 3), (arm(ALIKE, layers=(0, 1, 2)), 2)],
    ids=["same depth: a difference", "another depth: none"],
)
def test_every_curve_has_its_data_and_n_in_the_caption(other, panels):
    curves = run_curves({"base": arm(ALIKE), "att_cot": other}, PROBLEMS, "base")
    by_name = {one.name: one for one in curves}
    assert list(by_name) == ["commitment_final", "commitment_habitual", "access", "access_layers"]
    for name in ("commitment_final", "commitment_habitual", "access"):
        assert "items × 1 seed." in by_name[name].caption
        assert {"value", "low", "high", "n"} <= set(by_name[name].data.columns)
    drawn = [ax for ax in by_name["access_layers"].figure.axes if ax.images]
    assert len(drawn) == panels
    assert ("difference" in by_name["access_layers"].caption) == (panels == 3)


def test_patches_are_drawn_where_every_arm_has_some_that_carry():
    """Two layers of what planted patches recover; of two samples the first is drawn."""
    own = result(2.0).table
    both = pd.concat([own.assign(sample=0), own.assign(sample=1, recovered=9.0)])
    tables = {"base": arm(ALIKE), "att_cot": arm(ALIKE)}
    tables["base"][0]["patching"] = both
    assert all(one.name != "flow" for one in run_curves(tables, PROBLEMS, "base"))
    tables["att_cot"][0]["patching"] = result(4.0).table
    *_, flow = run_curves(tables, PROBLEMS, "base")
    assert flow.name == "flow" and len(flow.figure.axes) == 4
    shares = flow.data[flow.data["group"] == "evidence"].groupby(["model", "first_layer"])["value"]
    assert (shares.min() == shares.max()).all()
    assert shares.mean().to_dict() == {
        (model, layer): float(layer == 0) for model in tables for layer in (0, 1)
    }
    tables["base"][0]["patching"] = both[both["sample"] == 1]
    assert all(one.name != "flow" for one in run_curves(tables, PROBLEMS, "base"))
    tables["base"][0]["patching"] = result(0.0).table
    tables["att_cot"][0]["patching"] = result(0.0).table
    assert all(one.name != "flow" for one in run_curves(tables, PROBLEMS, "base"))
