"""The claims table on values whose truth is known: every verdict when it should be."""

import numpy as np
import pandas as pd
import pytest
from claims_values import KINDS, MODELS, grid_values

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.compare import compare
from attcot_analysis.runs.values import CHANCE
from attcot_analysis.stats.intervals import Interval
from attcot_lab.claims import CLAIMS, Claim, Term, claims_table, headline, untested
from attcot_lab.claims.claim import negligible, p_values, verdict
from attcot_lab.claims.pool import Cell, Pool

ACCURACY = "accuracy_cot"


def made(direction="higher", margin=0.05, terms=None, **fields) -> Claim:
    terms = terms or (Term("cot_sft", ACCURACY), Term("base", ACCURACY, -1.0))
    texts = {"title": "a title", "topic": "a topic", "paper": "Att-CoT", "sentence": "says"}
    return Claim(
        "c", terms=terms, direction=direction, margin=margin, reason="r", **texts, **fields
    )


def effect(size: float, **options) -> pd.DataFrame:
    return grid_values({("base", ACCURACY): 0.5, ("cot_sft", ACCURACY): 0.5 + size}, **options)


@pytest.mark.parametrize(
    ("direction", "low", "high", "said"),
    [
        ("higher", 0.01, 0.30, "supported"),
        ("higher", -0.30, -0.01, "opposite"),
        ("higher", -0.04, 0.04, "not supported"),
        ("higher", -0.04, 0.06, "undecided"),
        ("higher", np.nan, np.nan, "undecided"),
        ("lower", 0.01, 0.30, "opposite"),
        ("lower", -0.30, -0.01, "supported"),
        ("not higher", -0.90, 0.04, "supported"),
        ("not higher", 0.01, 0.04, "supported"),
        ("not higher", 0.01, 0.06, "opposite"),
        ("not higher", -0.01, 0.06, "undecided"),
        ("not lower", -0.04, 0.90, "supported"),
        ("not lower", -0.20, -0.06, "opposite"),
    ],
)
def test_a_verdict_follows_from_interval_direction_and_margin(direction, low, high, said):
    assert verdict(made(direction), Interval(low, low, high, 9)) == said


def test_negligible_is_within_the_margin_on_both_sides():
    assert negligible(made(), Interval(0.02, 0.01, 0.04, 9))
    assert not negligible(made(), Interval(0.02, -0.06, 0.04, 9))


@pytest.mark.parametrize("direction", ["higher", "lower", "not higher", "not lower"])
def test_p_values_say_the_same_as_the_interval(direction):
    rng = np.random.default_rng(0)
    seen = set()
    for size in (-0.3, -0.08, -0.02, 0.0, 0.02, 0.08, 0.3):
        for spread in (0.05, 0.4):
            frame = pd.DataFrame(rng.normal(size, spread, (3, 60)))
            estimate = Pool([Cell("m", "k", frame)]).estimate()
            claim = made(direction)
            p = p_values(claim, estimate)
            said = next((name for name in p if p[name] < 0.05), "undecided")
            assert said == verdict(claim, estimate.interval())
            seen.add(said)
    assert {"supported", "opposite", "undecided"} <= seen


@pytest.mark.parametrize(
    ("size", "spread", "said"),
    [
        (0.3, 0.1, "supported"),
        (-0.3, 0.1, "opposite"),
        (0.0, 0.02, "not supported"),
        (0.0, 1.5, "undecided"),
    ],
)
def test_every_verdict_is_reached_in_cells_and_pools(size, spread, said):
    table = claims_table(effect(size, spread=spread), [made()])
    every = table["verdict"].value_counts(normalize=True)
    assert every[said] > (0.8 if said == "undecided" else 0.9)
    top = headline(table).iloc[0]
    if said != "undecided":
        assert top["verdict"] == said and top["verdict_beyond"] == said
        assert top[f"cells_{said.replace(' ', '_')}_corrected"] == 18
    assert top["low"] <= top["effect"] <= top["high"]


def test_rows_for_every_cell_and_pool_never_without_n():
    table = claims_table(effect(0.1, seeds=2, items=10), [made()])
    sizes = table.groupby("level")["n_cells"].agg(["size", "first"]).T.to_dict("list")
    assert sizes == {
        "all": [1, 18],
        "kind": [3, 6],
        "family": [3, 6],
        "scale": [2, 9],
        "cell": [18, 1],
    }
    n_items = table.set_index("level")["n_items"]
    assert (n_items["cell"] == 10).all() and n_items["all"] == 30
    assert (n_items["family"] == 30).all() and (n_items["kind"] == 10).all()
    assert (table["n_seeds"] == 2).all()
    cells = table[table["level"] == "cell"]
    assert set(zip(cells["family"], cells["scale"], strict=True)) == set(MODELS.values())
    assert set(cells["kind"]) == set(KINDS)
    assert (table[table["level"] == "family"]["kind"] == "all").all()
    beyond = table[table["low_beyond"].notna()]
    assert set(beyond["level"]) == {"all", "kind", "scale"}  # a family has two models only
    top = headline(table).iloc[0]
    assert top["effect"] == pytest.approx(cells["effect"].mean())
    assert (top["effect_min"], top["effect_max"]) == (cells["effect"].min(), cells["effect"].max())


def test_a_cell_is_what_compare_says_of_its_two_arms():
    values = effect(0.1, by_seed=0.05, models=["llava-small"], kinds=["charts"])
    row = claims_table(values, [made()]).iloc[-1]
    plain = values.assign(model=values["arm"])[["model", "seed", "item", "metric", "value"]]
    told = compare(plain, "base", "cot_sft").iloc[0]
    assert row["level"] == "cell" and row["effect"] == pytest.approx(told["value"])
    assert (row["low"], row["high"]) == pytest.approx((told["low"], told["high"]), abs=0.05)
    assert (row["n_items"], row["n_seeds"]) == (told["n_items"], told["n_seeds"])


def test_a_planted_null_is_not_supported_more_often_than_nominal():
    tables = [
        claims_table(effect(0.0, by_seed=0.1, rng=rng, kinds=["arrows"], items=12), [made()])
        for rng in range(20)
    ]
    verdicts = pd.concat([table[table["level"] == "cell"] for table in tables])
    # 120 cells at 2.5 % a side: more than seven happen by luck in one of a hundred.
    assert (verdicts["verdict"] == "supported").sum() <= 7
    assert (verdicts["verdict"] == "opposite").sum() <= 7
    pooled = pd.concat([headline(table) for table in tables])
    assert (pooled["verdict"] == "supported").sum() <= 3
    corrected = verdicts["verdict_corrected"].isin(["supported", "opposite"]).sum()
    assert corrected <= verdicts["verdict"].isin(["supported", "opposite"]).sum()


def test_correction_keeps_strong_cells_and_drops_lucky_ones():
    moved = {(model, "arrows", "cot_sft"): 1.0 for model in MODELS}
    values = effect(0.0, moved=moved, spread=0.3, seeds=5)
    table = claims_table(values, [made()])
    cells = table[table["level"] == "cell"]
    strong = cells["kind"] == "arrows"
    assert (cells[strong]["verdict_corrected"] == "supported").all()
    assert not cells[~strong]["verdict_corrected"].isin(["supported", "opposite"]).any()
    top = headline(table).iloc[0]
    assert top["cells_supported_corrected"] == 6
    assert top["verdict"] == "supported" and top["verdict_beyond"] == "undecided"


def test_an_effect_against_chance_or_a_constant():
    values = grid_values({("base", "p0_final"): 0.5, ("base", "commitment_position"): 0.2})
    claims = [
        made(terms=(Term("base", "p0_final"), Term("base", CHANCE, -1.0))),
        made("lower", terms=(Term("base", "commitment_position"),), reference=0.5),
    ]
    chance = {"arrows": 0.25, "charts": 0.25, "counting": 0.5}
    above = headline(claims_table(values, claims[:1], chance=chance)).iloc[0]
    assert above["effect"] == pytest.approx(0.5 - 1 / 3, abs=0.05) and above["n_seeds"] == 1
    rows = values[values["metric"] == "p0_final"].assign(
        metric=CHANCE, value=lambda table: table["kind"].map(chance)
    )
    told = headline(claims_table(pd.concat([values, rows]), claims[:1])).iloc[0]
    assert told["effect"] == pytest.approx(above["effect"])
    position = headline(claims_table(values, claims[1:])).iloc[0]
    assert position["effect"] == pytest.approx(-0.3, abs=0.05)
    assert position["verdict"] == "supported"
    with pytest.raises(MeasureError, match="None of the claims"):
        claims_table(values, claims[:1])


def test_seeds_are_paired_and_those_of_one_arm_only_left_out():
    terms = (Term("att_cot", ACCURACY), Term("cot_sft", ACCURACY, -1.0))
    values = grid_values({("cot_sft", ACCURACY): 0.5, ("att_cot", ACCURACY): 0.7}, seeds=3)
    lost = (values["arm"] == "att_cot") & (values["seed"] == 2)
    table = claims_table(values[~lost], [made(terms=terms)])
    assert (table["n_seeds"] == 2).all()
    shifted = values.assign(
        value=values["value"] + 5.0 * values["seed"]  # cancels if seeds are paired
    )
    again = claims_table(shifted[~lost], [made(terms=terms)])
    assert again["effect"].to_numpy() == pytest.approx(table["effect"].to_numpy())
    assert again["low"].to_numpy() == pytest.approx(table["low"].to_numpy())


def test_cells_without_an_arm_are_left_out():
    values = effect(0.2, items=8)
    lost = (values["arm"] == "cot_sft") & (values["kind"] == "charts")
    table = claims_table(values[~lost], [made()])
    assert set(table[table["level"] == "cell"]["kind"]) == {"arrows", "counting"}
    assert headline(table)["n_cells"].item() == 12
    assert {claim.id for claim in untested(table)} == {claim.id for claim in CLAIMS}


def test_what_is_no_table_of_values_is_refused():
    values = effect(0.2, items=4, seeds=1)
    with pytest.raises(MeasureError, match="lacks arm"):
        claims_table(values.drop(columns="arm"), [made()])
    with pytest.raises(MeasureError, match="there twice"):
        claims_table(pd.concat([values, values]), [made()])
    with pytest.raises(MeasureError, match="without training has one"):
        claims_table(pd.concat([values, values.assign(seed=7)]), [made()])


def test_the_claims_hold_together():
    ids = [claim.id for claim in CLAIMS]
    assert len(set(ids)) == len(ids) and len(ids) > 40
    for claim in CLAIMS:
        assert claim.unit and claim.reason and claim.arms and claim.sentence
    topics = [claim.topic for claim in CLAIMS]
    assert len(dict.fromkeys(topics)) == sum(
        one != other for one, other in zip(topics, ["", *topics], strict=False)
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"margin": 0.0}, "from which size on"),
        ({"direction": "better"}, "choose one of"),
        ({"terms": (Term("base", "beauty"),)}, "beauty"),
    ],
)
def test_a_claim_that_cannot_be_tested_is_refused(fields, message):
    with pytest.raises(MeasureError, match=message):
        made(**fields)
