"""The claims about SAYO and VISTA on made-up values: every verdict where it is due."""

import numpy as np
import pandas as pd
import pytest
from claims_values import grid_values

from attcot_analysis.runs.values import CHANCE
from attcot_lab.claims import CLAIMS, Claim, claims_table, headline, untested
from attcot_lab.plan import read_plan

TOGETHER = ("Att-CoT and SAYO one after the other", "The three systems side by side")
NEW = tuple(
    claim for claim in CLAIMS if claim.paper in ("SAYO", "VISTA") or claim.topic in TOGETHER
)
BY_ID = {claim.id: claim for claim in NEW}
CASES = {
    "supported": ("llava-small", 4.0, 0.2),
    "opposite": ("llava-large", -4.0, 0.2),
    "not supported": ("internvl-small", 0.0, 0.2),
    "undecided": ("internvl-large", 0.0, 20.0),
}
"""Verdict → model; true effect, on the claimed side, and spread of its values, in margins."""


def values_of(
    claim: Claim, effect: float, spread: float, model: str = "llava-small", **options
) -> pd.DataFrame:
    """Values of one model and kind whose mean effect on a claim is as given."""
    means = {(term.arm, term.metric): 0.25 for term in claim.terms}
    first, *others = claim.terms
    rest = sum(0.25 * term.weight for term in others)
    means[first.arm, first.metric] = (effect + claim.reference - rest) / first.weight
    options = {"items": 24, "seeds": 3, **options}
    return grid_values(means, models=[model], kinds=["arrows"], spread=spread, **options)


def verdicts(claim: Claim, parts: list[pd.DataFrame]) -> dict[str, str]:
    """Model → verdict."""
    table = claims_table(pd.concat(parts), [claim])
    alone = table[table["level"] == "cell"]
    return dict(zip(alone["family"] + "-" + alone["scale"], alone["verdict"], strict=True))


@pytest.mark.parametrize("claim", NEW, ids=list(BY_ID))
def test_every_claim_gets_every_verdict_that_it_can(claim):
    sign = claim.sign if not claim.absence else -claim.sign
    parts = [
        values_of(claim, sign * size * claim.margin, spread * claim.margin, model)
        for model, size, spread in CASES.values()
    ]
    expected = {model: name for name, (model, _, _) in CASES.items()}
    if claim.absence:  # no effect at all is what it claims
        expected["internvl-small"] = "supported"
    assert verdicts(claim, parts) == expected


def test_alike_is_no_worse_and_no_better():
    worse, better = (BY_ID[f"sayo_alone_no_{one}"] for one in ("worse", "better"))
    assert worse.terms == better.terms and worse.margin == better.margin == 0.05
    for effect, spread, said in (
        (0.0, 0.01, ("supported", "supported")),
        (0.2, 0.01, ("supported", "opposite")),
        (-0.2, 0.01, ("opposite", "supported")),
        (0.0, 2.0, ("undecided", "undecided")),
    ):
        values = values_of(worse, effect, spread)
        found = [verdicts(one, [values])["llava-small"] for one in (worse, better)]
        assert tuple(found) == said


def test_claims_are_left_out_where_their_arms_or_metrics_are_missing():
    means = {(term.arm, term.metric): 0.3 for claim in NEW for term in claim.terms}
    some = {key: value for key, value in means.items() if key[0] in ("base", "cot_sft", "sayo")}
    values = grid_values(some, models=["llava-small"], kinds=["charts"], items=6, seeds=2)
    tested = set(claims_table(values, NEW)["claim"])
    assert tested == {claim.id for claim in NEW if set(claim.arms) <= {"base", "cot_sft", "sayo"}}
    assert {"weak_focus_base", "sayo_focus", "sayo_over_sft_twin", "habit_base"} <= tested
    assert "sayo_adds_focus" not in tested and "unsolved" not in tested
    # A run that did not draw for comparison has no plain gains to hold the others against.
    lone = {("vista_sft", "gain_mended_answer"): 0.3, ("vista_sft", "unsolved"): 0.3}
    values = grid_values(lone, models=["llava-small"], kinds=["charts"], items=6, seeds=2)
    table = claims_table(values, NEW)
    assert set(table["claim"]) == {"unsolved"}
    assert BY_ID["prefix_answer"] in untested(table, NEW)


def test_training_questions_are_items_of_their_seed_and_no_others():
    claim = BY_ID["prefix_rationale"]
    values = values_of(claim, 0.3, 0.1, seeds=2)
    own = values.assign(item=values["item"] + "-" + values["seed"].astype(str))
    beside = grid_values({("base", CHANCE): 0.2}, models=["llava-small"], kinds=["arrows"])
    row = headline(claims_table(pd.concat([own, beside]), [claim])).iloc[0]
    assert (row["n_items"], row["n_seeds"]) == (48, 2)
    terms = own.pivot_table(index=["seed", "item"], columns="metric", values="value")
    effects = terms["gain_mended_rationale"] - terms["gain_plain_rationale"]
    assert row["effect"] == pytest.approx(effects.mean())
    # No narrower than if questions were drawn one by one, nor than seeds that differ.
    alone = effects.std() / np.sqrt(len(effects))
    assert row["high"] - row["low"] > 2 * 1.9 * alone
    moved = own.assign(value=own["value"] + own["seed"] * (own["metric"] == "gain_plain_rationale"))
    shaken = headline(claims_table(moved, [claim])).iloc[0]
    assert shaken["high"] - shaken["low"] > 1.0


def test_items_of_other_metrics_change_nothing():
    claim = BY_ID["sayo_accuracy"]
    values = values_of(claim, 0.1, 0.2)
    questions = values_of(BY_ID["unsolved"], 0.1, 0.2, items=100)
    questions = questions.assign(item="train-" + questions["item"])
    plain = claims_table(values, [claim])
    both = claims_table(pd.concat([values, questions]), [claim, BY_ID["unsolved"]])
    pd.testing.assert_frame_equal(plain, both[both["claim"] == claim.id])


def test_the_grid_of_the_siblings_has_every_arm_that_is_claimed_about():
    grid = read_plan("siblings")
    assert {arm for claim in NEW for arm in claim.arms} == set(grid.arms)
    assert CLAIMS[-len(NEW) :] == NEW
    assert {claim.paper for claim in CLAIMS[: -len(NEW)]} == {"Att-CoT", "this project"}


def test_what_is_trained_is_said_of_focus_and_share():
    for claim in NEW:
        if {"focus", "share"} & {term.metric for term in claim.terms}:
            assert "evidence" in claim.caveat or "boxes" in claim.caveat
