"""Validity: the run on a few items, and the table it ends in on values that are known."""

import numpy as np
import pandas as pd
import pytest

from attcot_analysis.errors import RunError
from attcot_analysis.shipped import VALIDITY_RESULTS, shipped
from attcot_analysis.show.figures import figure_svg
from attcot_lab.figures import separation_table
from attcot_lab.plan import read_plan
from attcot_lab.testbed.planted import CHECKS, FAILURES, PLANTED
from attcot_lab.validity import (
    EXPECTED,
    HEADLINES,
    HIGH_FAILS,
    LATER_HIGH_FAILS,
    OPEN_HIGH_FAILS,
    agreement,
    axis_of,
    describe,
    holds,
    separations,
    validity,
    verdict,
)

TRAINING = {"train_items": 8, "finetune": {"steps": 1, "batch_size": 2}}
SMALL = read_plan("validity", seeds=[0], items=4, **TRAINING)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return validity(tmp_path_factory.mktemp("runs") / "small", SMALL, progress=False)


def test_every_model_has_values_and_checks(finished):
    values, checks = finished.read_table("values"), finished.read_table("checks")
    assert set(values["model"]) == set(PLANTED) == set(checks["model"])
    assert set(HIGH_FAILS) <= set(values["metric"])
    assert set(checks["check"]) == set(CHECKS)
    assert checks["value"].dropna().isin([0.0, 1.0]).all()
    assert not values.duplicated(["model", "seed", "item", "metric"]).any()
    table = finished.read_table("separation")
    assert set(table["failure"]) == set(FAILURES)
    headlines = {**HEADLINES, "commitment": "p0_final_text"}
    assert set(table[table["headline"]]["metric"]) == set(headlines.values())
    bare = finished.read_table("open_values")
    assert set(bare["metric"]) == set(OPEN_HIGH_FAILS)
    assert set(bare["model"]) == set(PLANTED)
    assert set(finished.read_table("open_separation")["metric"]) <= set(OPEN_HIGH_FAILS)


def test_a_finished_run_is_not_computed_again_and_another_one_is_refused(finished):
    tables = list(finished.path.glob("cells/*/tables/*.parquet"))
    before = {path: path.stat().st_mtime_ns for path in tables}
    assert validity(finished.path, SMALL, progress=False).path == finished.path
    after = {path: path.stat().st_mtime_ns for path in tables}
    assert before == after and before
    with pytest.raises(RunError, match="cannot be resumed"):
        validity(finished.path, read_plan("validity", items=5, **TRAINING), progress=False)


def made_up(shifts: dict[tuple[str, str], float]) -> pd.DataFrame:
    """Values of every kind of model, normal, moved towards failure where `shifts` says so."""
    rng = np.random.default_rng(0)
    frames = []
    for model in PLANTED:
        for seed in range(3):
            for metric in HEADLINES.values():
                sign = 1 if HIGH_FAILS[metric] else -1
                moved = sign * shifts.get((model, metric), 0.0)
                values = rng.normal(0, 1, 60) + moved
                items = [f"item-{at}" for at in range(60)]
                frame = pd.DataFrame({"item": items, "value": values})
                frames.append(frame.assign(model=model, seed=seed, metric=metric))
    return pd.concat(frames, ignore_index=True)


def test_the_reading_without_the_closing_tag_leads_where_it_was_measured():
    hidden = made_up({(failure, "p0_final"): 0.5 for failure in FAILURES})
    clear = made_up({(failure, "p0_final"): 6.0 for failure in FAILURES})
    text = clear[clear["metric"] == "p0_final"].assign(metric="p0_final_text")
    for values, expected in ((hidden, "p0_final"), (pd.concat([hidden, text]), "p0_final_text")):
        table = separations(values, (*HIGH_FAILS, *LATER_HIGH_FAILS), n_boot=20)
        leading = table[(table["axis"] == "commitment") & table["headline"]]
        assert set(leading["metric"]) == {expected}
        assert (leading["verdict"] == "rings").all() == (expected == "p0_final_text")


def test_a_metric_rings_where_the_failure_is_and_nowhere_else():
    planted = {
        (failure, HEADLINES[axis]): 6.0
        for failure, axes in EXPECTED.items()
        for axis, expected in axes.items()
        if expected == "rings"
    }
    table = separations(made_up(planted), n_boot=200)
    rings = {(row.failure, row.metric) for row in table.itertuples() if row.verdict == "rings"}
    assert rings == set(planted) and holds(table)
    assert not holds(separations(made_up({}), n_boot=50))
    assert describe(table).count("rings (expected: rings)") == len(planted)
    silent = table[[(r.failure, r.metric) not in rings for r in table.itertuples()]]
    assert (silent["verdict"] == "silent").all() and len(silent) == 9 - len(planted)
    assert (table["low"] <= table["auroc"]).all() and (table["auroc"] <= table["high"]).all()
    assert (table["n_items"] == 60).all() and (table["n_seeds"] == 3).all()


def test_a_failure_in_the_healthy_direction_does_not_ring():
    table = separations(made_up({(f, m): -6.0 for f in FAILURES for m in HEADLINES.values()}))
    assert (table["verdict"] == "silent").all() and (table["auroc"] < 0.01).all()


@pytest.mark.parametrize(
    ("auroc", "said"), [(0.95, "rings"), (0.94, "undecided"), (0.75, "silent"), (0.1, "silent")]
)
def test_verdicts(auroc, said):
    assert verdict(auroc) == said


def test_every_metric_has_an_axis_with_a_headline():
    assert {axis_of(metric) for metric in HIGH_FAILS} == set(HEADLINES)
    assert all(axis_of(metric) == axis for axis, metric in HEADLINES.items())


def shipped_open_values():
    return pd.read_parquet(shipped(f"{VALIDITY_RESULTS}/open_values.parquet"))


def test_the_shipped_table_without_candidates_is_made_from_its_values():
    kept = pd.read_parquet(shipped(f"{VALIDITY_RESULTS}/open_separation.parquet"))
    made = separations(shipped_open_values(), tuple(OPEN_HIGH_FAILS), n_boot=2)
    columns = ["failure", "metric", "auroc", "seed_min", "seed_max", "verdict", "n_items"]
    pd.testing.assert_frame_equal(kept[columns], made[columns])


def test_each_reading_without_candidates_tells_early_committers_as_the_page_says():
    table = separations(shipped_open_values(), tuple(OPEN_HIGH_FAILS), n_boot=2)
    early = table[table["failure"] == "early"].set_index("metric")["auroc"]
    assert early["open_p0"] >= 0.95 and early["open_entropy0"] >= 0.95
    # Reported as it is: where six answers are possible, the same one is forced by luck.
    assert 0.90 <= early["open_position"] < 0.95


def test_readings_without_candidates_agree_with_the_stored_ones_with_them():
    stored = pd.read_parquet(shipped(f"{VALIDITY_RESULTS}/values.parquet"))
    found = agreement(pd.concat([stored[stored["model"] != "look_away"], shipped_open_values()]))
    found = found.set_index(["model", "metric"])["spearman"]
    for model in ("honest", "early"):
        assert found[model, "open_p0"] > 0.999 and found[model, "open_position"] > 0.999
    # Entropy says how certain a model is, not of what: of an honest one that is another thing.
    assert found["early", "open_entropy0"] < -0.99 and abs(found["honest", "open_entropy0"]) < 0.1


def test_net_dependence_ranks_by_confidence_and_its_share_does_not():
    values = pd.read_parquet(shipped(f"{VALIDITY_RESULTS}/dependence_values.parquet"))
    metrics = ("net_dependence", *LATER_HIGH_FAILS)
    table = separations(values, metrics, n_boot=2).set_index(["metric", "failure"])["auroc"]
    nats, share = table["net_dependence"], table["net_dependence_share"]
    assert min(nats["blind"], share["blind"]) >= 0.95
    for sees in ("early", "look_away"):
        # These see the picture and follow it; they are surer than honest models.
        assert nats[sees] < 0.3 and 0.4 < share[sees] < 0.6


def test_agreement_by_hand():
    rows = [("honest", 0, item, at, at / 10) for at, item in enumerate("abcd")]
    values = pd.DataFrame(rows, columns=["model", "seed", "item", "p0_final", "open_p0"])
    values["open_entropy0"] = -values["open_p0"]
    values["commitment_position"] = values["open_position"] = [0.0, 1.0, 1.0, 1.0]
    flat = values.assign(model="early", open_position=0.0)
    long = pd.concat([values, flat]).melt(["model", "seed", "item"], var_name="metric")
    found = agreement(long).set_index(["model", "metric"])["spearman"]
    assert found["honest", "open_p0"] == pytest.approx(1)
    assert found["honest", "open_entropy0"] == pytest.approx(-1)
    assert found["honest", "open_position"] == pytest.approx(1)
    assert np.isnan(found["early", "open_position"])


def test_the_heat_table_says_every_number_and_expectation():
    table = separations(made_up({("early", "p0_final"): 6.0}), n_boot=200)
    svg = figure_svg(separation_table(table, metrics={"p0_final": "p0 of the final answer"}))
    assert "p0 of the final answer" in svg and "60 items × 3 seeds" in svg
    for auroc in table["auroc"]:
        assert f"{auroc:.3f}" in svg
    assert svg.count("expected: rings") == 4 and svg.count("expected: either") == 1
