"""A family of claims: against plain statistics, with planted effects and planted nothing."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.crossed import seeds_items
from attcot_analysis.stats.family import _holm_levels, claim_family
from attcot_analysis.stats.significance import holm


def table(values, claim="later", kinds=("arrows",), own_seeds=False):
    """Effects (kinds, models, seeds, items) as a table."""
    rows = []
    for kind, of_kind in zip(kinds, np.asarray(values, float), strict=True):
        for (model, seed, item), value in np.ndenumerate(of_kind):
            label = f"{model}.{seed}" if own_seeds else seed
            rows.append((claim, f"m{model}", kind, label, f"{kind}-{item}", value))
    return pd.DataFrame(rows, columns=["claim", "model", "kind", "seed", "item", "value"])


def drawn(rng, models, seeds, items, *, kinds=1, mean=0.0, model=0.0, seed=0.0, own=0.0):
    shared = model * rng.normal(size=(models, 1, 1)) + seed * rng.normal(size=(1, seeds, 1))
    shared = shared + own * rng.normal(size=(models, seeds, 1))
    noise = rng.normal(size=(kinds, models, seeds, items)) * 0.4
    return mean + shared + noise + 0.3 * rng.normal(size=(kinds, 1, 1, items))


def test_one_model_and_kind_is_the_estimate_over_seeds_and_items():
    values = drawn(np.random.default_rng(0), 1, 4, 30, mean=0.1, seed=0.1)
    row = claim_family(table(values), ["later"]).iloc[0]
    one = seeds_items(values[0, 0])
    assert row["value"] == pytest.approx(one.value)
    assert (row["low"], row["high"]) == pytest.approx((one.interval().low, one.interval().high))
    assert row["p_value"] == row["p_holm"] == pytest.approx(one.p_value())
    assert row["low_holm"] == pytest.approx(row["low"])
    assert (row["n_items"], row["n_seeds"], row["n_models"], row["n_kinds"]) == (30, 4, 1, 1)
    assert (row["role"], row["scope"]) == ("primary", "seeds × items")


def test_a_seed_of_its_own_is_part_of_its_model():
    values = drawn(np.random.default_rng(1), 5, 2, 30, kinds=2, model=0.1, own=0.1)
    kinds = ("arrows", "charts")
    own = claim_family(table(values, kinds=kinds, own_seeds=True), ["later"]).iloc[0]
    averaged = claim_family(table(values.mean(2, keepdims=True), kinds=kinds), ["later"]).iloc[0]
    names = ["value", "low", "high", "p_value", "n_items", "n_models"]
    assert own[names].tolist() == pytest.approx(averaged[names].tolist())
    shared = claim_family(table(values, kinds=kinds), ["later"]).iloc[0]
    assert shared["high"] - shared["low"] > own["high"] - own["low"]
    assert shared["scope"] == "models × seeds × items"


def test_where_only_models_differ_it_is_the_t_test_of_models():
    means = np.random.default_rng(2).normal(0.5, 1, 6)
    values = np.repeat(means, 40).reshape(1, 6, 1, 40)
    row = claim_family(table(values), ["later"]).iloc[0]
    assert row["p_value"] == pytest.approx(stats.ttest_1samp(means, 0).pvalue, rel=1e-6)
    assert row["scope"] == "models × items"


@pytest.mark.parametrize(
    "design",
    [
        {"models": 5, "seeds": 1, "kinds": 2, "model": 0.1},
        {"models": 3, "seeds": 3, "kinds": 2, "model": 0.1, "seed": 0.1, "own": 0.05},
        {"models": 1, "seeds": 8, "kinds": 2, "seed": 0.05},
    ],
    ids=["pretraining seeds", "both", "training seeds"],
)
def test_nothing_planted_is_found_no_more_often_than_stated(design):
    rng = np.random.default_rng(3)
    kinds = ("arrows", "charts")
    found = [
        claim_family(table(drawn(rng, items=20, **design), kinds=kinds), ["later"]).p_value[0]
        for _ in range(12)
    ]
    # 12 draws at 0.05: more than 3 happens by luck in about one of 400; the size is simulated in
    # test_coverage.
    assert (np.array(found) < 0.05).sum() <= 3
    there = claim_family(
        table(drawn(rng, items=20, mean=2.0, **design), kinds=kinds), ["later"]
    ).iloc[0]
    assert there["low_holm"] > 0 and there["p_holm"] < 0.05


def test_primary_claims_are_corrected_and_the_rest_is_exploratory():
    rng = np.random.default_rng(4)
    effects = {"a": 1.0, "b": 0.28, "c": 0.0, "seen": 1.0}
    parts = [table(drawn(rng, 1, 5, 30, mean=x), claim) for claim, x in effects.items()]
    found = claim_family(pd.concat(parts), ["c", "b", "a"])
    assert found["claim"].tolist() == ["c", "b", "a", "seen"]
    assert found["role"].tolist() == ["primary"] * 3 + ["exploratory"]
    assert found["p_holm"][:3].tolist() == pytest.approx(holm(found["p_value"][:3]).tolist())
    assert np.isnan(found["p_holm"][3]) and np.isnan(found["low_holm"][3])
    first = found.iloc[:3]
    excluded = (first["low_holm"] > 0) | (first["high_holm"] < 0)
    assert (excluded == (first["p_holm"] < 0.05)).all()
    # The largest p value is tested at the whole level where all smaller ones were below theirs.
    assert first["low_holm"].lt(first["low"]).tolist() == [False, True, True]


def test_the_level_of_holms_procedure_decides_as_the_corrected_p_does():
    rng = np.random.default_rng(5)
    for _ in range(200):
        p_values = rng.uniform(size=4) ** 4
        adjusted, levels = _holm_levels(p_values, 0.05)
        assert ((p_values < levels) == (adjusted < 0.05)).all()


def test_one_training_is_this_checkpoint_and_gets_no_claim():
    both = pd.concat(
        [
            table(drawn(np.random.default_rng(6), 1, 1, 40, mean=2.0)),
            table(drawn(np.random.default_rng(7), 1, 5, 40, mean=0.3), "other"),
        ]
    )
    found = claim_family(both, ["later", "other"]).set_index("claim")
    alone, other = found.loc["later"], found.loc["other"]
    assert alone["scope"] == "this checkpoint" and alone["low"] > 0
    assert np.isnan(alone[["p_value", "p_holm", "low_holm"]].astype(float)).all()
    assert other["p_holm"] == pytest.approx(2 * other["p_value"])  # it was counted all the same


@pytest.mark.parametrize(
    ("change", "primary", "message"),
    [
        (lambda rows: rows.drop(columns="seed"), ["later"], "lacks seed"),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), ["later"], "twice"),
        (lambda rows: rows, ["later", "sooner"], "claims sooner are not in"),
        (lambda rows: rows, [], "are none"),
        (
            lambda rows: rows[(rows["model"] == "m0") | (rows["kind"] == "arrows")],
            ["later"],
            "no value of m1 on charts",
        ),
    ],
)
def test_what_cannot_be_tested_is_refused(change, primary, message):
    rows = table(np.zeros((2, 2, 2, 3)), kinds=("arrows", "charts"))
    with pytest.raises(MeasureError, match=message) as caught:
        claim_family(change(rows), primary)
    assert "\n" not in str(caught.value)
