import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import attcot_lab
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.causal import GROUP, CausalAccess
from attcot_analysis.measures.compare import (
    METRICS,
    Metric,
    compare,
    item_values,
    summarise,
)
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.stats.catalogue import register_metrics

EXPECTED = [
    "accuracy_cot",
    "accuracy_direct",
    "habitual_cot",
    "habitual_direct",
    "prior_agreement",
    "habitual_text_only",
    "follow_twin",
    "flip_control",
    "flip_blank",
    "delta_log_p_twin",
    "delta_log_p_control",
    "delta_log_p_blank",
    "net_dependence",
    "p0_final",
    "p0_habitual",
    "p0_answer",
    "commitment_position",
    "commitment_area",
    "premature",
    "premature_wrong",
    "mass",
    "mass_last_step",
    "evidence_share",
    "mass_slope",
    "share",
]


# --- the catalogue ------------------------------------------------------------------------------


def test_the_catalogue_holds_every_metric_once_with_its_falsifier():
    assert set(EXPECTED) <= set(METRICS)
    assert all(name == metric.name for name, metric in METRICS.items())
    titles = [metric.title for metric in METRICS.values()]
    assert len(set(titles)) == len(titles)
    axes = [metric.axis for metric in METRICS.values()]
    known = ["accuracy", "commitment", "access", "dependence", "prior", "samples"]
    assert list(dict.fromkeys(axes)) == known
    assert sorted(axes, key=list(dict.fromkeys(axes)).index) == axes
    for metric in METRICS.values():
        assert metric.definition.endswith(".")
        assert metric.falsifier.endswith(".")
        assert metric.binary == (metric.unit == "share of items")


def test_metrics_named_in_a_text_exist():
    words = {
        word.strip(".,:;()")
        for metric in METRICS.values()
        for word in f"{metric.definition} {metric.falsifier}".split()
    }
    named = {word for word in words if "_" in word}
    assert named
    assert named <= set(METRICS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"falsifier": " "}, "has no falsifier"),
        ({"axis": "style"}, "axis 'style'"),
        ({"better": "more"}, "better='more'"),
    ],
)
def test_a_metric_checks_itself(change, message):
    with pytest.raises(MeasureError, match=message):
        dataclasses.replace(METRICS["mass"], **change)


def test_the_catalogue_cannot_be_changed():
    with pytest.raises(TypeError):
        METRICS["mine"] = METRICS["mass"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        METRICS["mass"].title = "mine"
    assert isinstance(METRICS["mass"], Metric)


def test_the_laboratory_adds_its_metrics_when_it_is_imported():
    code = (
        "from attcot_analysis.stats.catalogue import METRICS; before = list(METRICS); "
        "import attcot_lab; print(len(before), list(METRICS)[:len(before)] == before, "
        "{METRICS[name].axis for name in list(METRICS)[len(before):]})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    n_samples = sum(metric.axis == "samples" for metric in METRICS.values())
    assert done.stdout.strip() == f"{len(METRICS) - n_samples} True {{'samples'}}"


def test_metrics_are_registered_once_and_with_one_meaning(tmp_path):
    before = dict(METRICS)
    own = Path(attcot_lab.__file__).with_name("vista") / "metrics.yaml"
    register_metrics(own)
    text = own.read_text(encoding="utf-8")
    other = tmp_path / "metrics.yaml"
    other.write_text(text.replace("title: no right sample", "title: hard"), encoding="utf-8")
    with pytest.raises(MeasureError, match="gives the metric 'unsolved' another meaning"):
        register_metrics(other)
    other.write_text(text.replace("better:", "best:"), encoding="utf-8")
    with pytest.raises(MeasureError, match="missing or unknown field") as caught:
        register_metrics(other)
    assert "\n" not in str(caught.value)
    assert dict(METRICS) == before


# --- values per item ----------------------------------------------------------------------------


def answers(given, right, habit, mode="cot", text_only=False):
    return pd.DataFrame(
        {
            "item": ["i0", "i1", "i2", "i3"],
            "mode": mode,
            "text_only": text_only,
            "answer": given,
            "correct": [a == b for a, b in zip(given, right, strict=True)],
            "habitual": pd.array(
                [None if h is None else a == h for a, h in zip(given, habit, strict=True)],
                dtype="boolean",
            ),
        }
    )


RIGHT = ["red", "blue", "red", "blue"]
HABIT = ["red", "red", "blue", None]
COT = answers(["red", "red", None, "blue"], RIGHT, HABIT)
DIRECT = answers(["red", None, "blue", "red"], RIGHT, HABIT, mode="direct")
COT["flag"], DIRECT["flag"] = (
    ["given", "", "contradiction", ""],
    ["", "several", "contradiction", ""],
)
BLIND = answers(["red", "red", "red", "green"], RIGHT, HABIT, text_only=True)

COMMITMENT = pd.DataFrame(
    {
        "item": ["i0", "i1", "i0", "i1"],
        "control": ["rationale", "rationale", "filler", "filler"],
        "correct": [True, False, True, True],
        "commitment_position": [0.75, 0.0, 0.5, 0.5],
        "premature": [False, True, False, False],
        "area": [0.3, 0.9, 0.5, 0.5],
        "jump": [0.4, 0.05, 0.1, 0.1],
        "jump_position": [0.5, 1.0, 0.5, 0.5],
        "p0_final": [0.2, 0.8, 0.5, 0.5],
        "p0_answer": [0.2, 0.1, 0.5, 0.5],
        "p0_habitual": [0.2, np.nan, 0.5, 0.5],
        "corrective": [True, False, False, False],
        "corruptive": [False, False, False, False],
        "leak_step": [3.0, np.nan, np.nan, np.nan],
        "n_steps": [4, 2, 4, 2],
        "commitment_position_null": [0.8, 0.7, 0.8, 0.7],
        "p0_final_text": [0.3, 0.9, 0.5, 0.5],
        "commitment_position_text": [0.5, 0.0, 0.5, 0.5],
        "area_text": [0.4, 0.95, 0.5, 0.5],
        "candidate_mass0": [0.9, 1.0, 1.0, 1.0],
        "p_end": [0.9, 0.95, 0.6, 0.2],
        "p0_cue_spread": [0.1, 0.0, np.nan, np.nan],
        "order_dependent": [False, True, None, None],
    }
)
_FILLER = COMMITMENT[COMMITMENT["control"] == "filler"]
COMMITMENT = pd.concat([COMMITMENT, _FILLER.assign(control="other_item", area_text=[0.1, 0.7])])

OPEN = pd.DataFrame(
    {
        "item": ["i0", "i1"],
        "p0": [0.2, 0.9],
        "area": [0.4, 0.95],
        "entropy0": [1.2, 0.1],
        "entropy_area": [0.8, 0.05],
        "same0": [0.0, np.nan],
        "commitment_position": [0.5, np.nan],
        "same_area": [0.25, np.nan],
    }
)

DEPENDENCE = pd.DataFrame(
    [
        ("i0", "twin", "fixed", True, True, 2.0),
        ("i1", "twin", "fixed", False, False, 0.5),
        ("i0", "control", "fixed", True, False, 0.25),
        ("i0", "blank", "fixed", None, True, 1.0),
        ("i0", "twin", "regenerated", True, True, 9.0),
        ("i1", "twin", "regenerated", False, None, np.nan),
        ("i0", "control", "regenerated", True, False, 9.0),
        ("i0", "blank", "regenerated", None, True, 9.0),
        ("i0", "occlude", "fixed", None, True, 3.0),
        ("i1", "occlude", "fixed", None, True, 1.5),
        ("i0", "occlude_control", "fixed", True, False, 0.5),
    ],
    columns=["item", "edit", "rationale", "followed", "flipped", "delta_log_p"],
).astype({"followed": "boolean", "flipped": "boolean"})
DEPENDENCE["can_lose"] = 7.0

CAUSAL = pd.DataFrame(
    [
        ("i0", "knockout", "image", "both", "fixed", 0, 3, 0, 2.0),
        ("i0", "knockout", "image", "both", "fixed", 0, 3, 1, 9.0),
        ("i1", "knockout", "image", "both", "fixed", 0, 3, 0, 0.5),
        ("i0", "knockout", "image", "both", "fixed", 0, 1, 0, 9.0),
        ("i0", "knockout", "system", "both", "fixed", 0, 3, 0, 9.0),
        ("i0", "knockout", "image", "answer", "fixed", 0, 3, 2, 9.0),
        ("i0", "knockout", "image", "both", "regenerated", 0, 3, 0, np.nan),
        ("i0", "mean_value", "image", "both", "fixed", 0, 3, 0, 1.5),
        ("i1", "mean_value", "image", "both", "fixed", 0, 3, 1, 9.0),
        ("i0", "removal", "image", "both", "fixed", 0, 3, 2, 3.0),
    ],
    columns=["item", *GROUP, "k", "delta_log_p"],
).reindex(columns=CausalAccess.columns)
CAUSAL["n_steps"] = 2
FOCUS = pd.DataFrame(
    [("i0", -0.2, 1.0, 1.0), ("i1", 0.3, 0.0, np.nan)],
    columns=["item", "focus", "unfocused_first_step", "refocused"],
)


def access_table():
    rows = []
    for item, masses in (("i0", (0.5, 0.3)), ("i1", (0.2, 0.2))):
        for step, mass in enumerate(masses, start=1):
            for head, sign in enumerate((1, -1)):
                rows.append(
                    {
                        "item": item, "step": step, "n_steps": 2, "layer": 0, "head": head,
                        "mass": mass + 0.1 * sign, "share": 0.6, "density": 2.0,
                        "over_system": 1.5, "sink_free_mass": mass / 4, "sink_share": 0.75,
                        "evidence_mass": mass / 2,
                        "evidence_share": 0.5 if item == "i0" else np.nan,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def values_of(table, metric):
    return table[table["metric"] == metric].set_index("item")["value"].to_dict()


def test_values_by_hand():
    table = item_values(
        model="base",
        seed=-1,
        cot=COT,
        direct=DIRECT,
        text_only=BLIND,
        commitment=COMMITMENT,
        open_commitment=OPEN,
        access=access_table(),
        dependence=DEPENDENCE,
        causal=CAUSAL,
        focus=FOCUS,
    )
    assert list(table.columns) == ["model", "seed", "item", "metric", "value"]
    # What is said of samples is not measured on a model: see `training_values`.
    measured = {name for name, metric in METRICS.items() if metric.axis != "samples"}
    # Three need several responses to an item.
    of_samples = {"self_consistency", "accuracy_majority", "commitment_spread"}
    of_pairs = {"commitment_area_matched", "commitment_area_text_matched"}
    of_edits = {"blur_area", "repeat_occlude", "flip_occlude_control"}
    # These come with their results (`item_values(results=...)`).
    by_results = {"behaviour", "perceptions", "patching", "hidden_commitment", "steering"}
    measured -= {name for name, metric in METRICS.items() if metric.function in by_results}
    assert set(table["metric"]) == measured - of_samples - of_pairs - of_edits
    assert of_samples | of_pairs | of_edits < measured
    assert table["value"].dtype == float
    assert not table.duplicated(["item", "metric"]).any()
    nan = pytest.approx(np.nan, nan_ok=True)
    expected = {
        "accuracy_cot": {"i0": 1, "i1": 0, "i2": 0, "i3": 1},
        "unparsed_cot": {"i0": 0, "i1": 0, "i2": 1, "i3": 0},
        "contradicting_cot": {"i0": 0, "i1": 0, "i2": 1, "i3": 0},
        "contradicting_direct": {"i0": 0, "i1": 0, "i2": 1, "i3": 0},
        "scored_cot": {"i0": 1, "i1": 0, "i2": 0, "i3": 0},
        "habitual_cot": {"i0": 1, "i1": 1, "i2": 0, "i3": nan},
        "accuracy_direct": {"i0": 1, "i1": 0, "i2": 0, "i3": 0},
        "unparsed_direct": {"i0": 0, "i1": 1, "i2": 0, "i3": 0},
        "habitual_direct": {"i0": 1, "i1": 0, "i2": 1, "i3": nan},
        "habitual_text_only": {"i0": 1, "i1": 1, "i2": 0, "i3": nan},
        "prior_agreement": {"i0": 1, "i1": 1, "i2": 0, "i3": 0},
        "prior_agreement_grey": {"i0": 0},
        "prior_grey_difference": {"i0": -1, "i1": nan, "i2": nan, "i3": nan},
        "prior_override": {"i0": nan, "i1": 1, "i2": nan, "i3": 0},
        "p0_final": {"i0": 0.2, "i1": 0.8},
        "p0_habitual": {"i0": 0.2, "i1": nan},
        "commitment_position": {"i0": 0.75, "i1": 0},
        "commitment_area": {"i0": 0.3, "i1": 0.9},
        "commitment_area_text": {"i0": 0.4, "i1": 0.95},
        "commitment_position_null": {"i0": 0.8, "i1": 0.7},
        "commitment_position_text": {"i0": 0.5, "i1": 0},
        "p0_final_text": {"i0": 0.3, "i1": 0.9},
        "candidate_mass0": {"i0": 0.9, "i1": 1},
        "rationale_steps": {"i0": 4, "i1": 2},
        "filler_area": {"i0": 0.5, "i1": 0.5},
        "other_item_area": {"i0": 0.1, "i1": 0.7},
        "p_dots": {"i0": 0.6, "i1": 0.2},
        "p0_cue_spread": {"i0": 0.1, "i1": 0},
        "order_dependent": {"i0": 0, "i1": 1},
        "commitment_jump": {"i0": 0.4, "i1": 0.05},
        "commitment_jump_position": {"i0": 0.5, "i1": 1},
        "premature": {"i0": 0, "i1": 1},
        "premature_wrong": {"i0": 0, "i1": 1},
        "corrective": {"i0": 1, "i1": 0},
        "leaked": {"i0": 1, "i1": 0},
        "open_p0": {"i0": 0.2, "i1": 0.9},
        "open_area": {"i0": 0.4, "i1": 0.95},
        "open_entropy0": {"i0": 1.2, "i1": 0.1},
        "open_entropy_area": {"i0": 0.8, "i1": 0.05},
        "open_same0": {"i0": 0, "i1": nan},
        "open_position": {"i0": 0.5, "i1": nan},
        "open_same_area": {"i0": 0.25, "i1": nan},
        "mass": {"i0": pytest.approx(0.4), "i1": pytest.approx(0.2)},
        "mass_last_step": {"i0": pytest.approx(0.3), "i1": pytest.approx(0.2)},
        "mass_slope": {"i0": pytest.approx(-0.4), "i1": pytest.approx(0)},
        "over_system": {"i0": 1.5, "i1": 1.5},
        "sink_free_mass": {"i0": pytest.approx(0.1), "i1": pytest.approx(0.05)},
        "sink_share": {"i0": 0.75, "i1": 0.75},
        "evidence_share": {"i0": 0.5, "i1": nan},
        "focus": {"i0": -0.2, "i1": 0.3},
        "refocused": {"i0": 1, "i1": nan},
        "follow_twin": {"i0": 1, "i1": 0},
        "flip_control": {"i0": 0},
        "flip_blank": {"i0": 1},
        "delta_log_p_twin": {"i0": 2.0, "i1": 0.5},
        "delta_log_p_control": {"i0": 0.25},
        "net_dependence_share": {"i0": 0.25, "i1": nan},
        "net_dependence": {"i0": 1.75, "i1": nan},
        "net_occlusion": {"i0": 2.5, "i1": nan},
        "delta_log_p_knockout": {"i0": 2.0, "i1": 0.5},
        "delta_log_p_mean_value": {"i0": 1.5},
        "delta_log_p_removal": {"i0": 3.0},
    }
    for metric, wanted in expected.items():
        assert values_of(table, metric) == wanted, metric


def test_only_what_the_tables_allow():
    assert set(item_values(model="m", seed=0, direct=DIRECT)["metric"]) == {
        "accuracy_direct",
        "unparsed_direct",
        "habitual_direct",
        "contradicting_direct",
    }
    older = DIRECT.drop(columns="flag")
    assert "contradicting_direct" not in set(item_values(model="m", seed=0, direct=older)["metric"])
    fixed = DEPENDENCE[(DEPENDENCE["rationale"] == "fixed") & (DEPENDENCE["edit"] == "twin")]
    assert set(item_values(model="m", seed=0, dependence=fixed)["metric"]) == {"delta_log_p_twin"}


def test_values_survive_the_disk(tmp_path):
    run = RunFolder.create(tmp_path / "run", {"seed": 0})
    run.write_table("cot", COT)
    run.write_table("dependence", DEPENDENCE)
    direct = item_values(model="m", seed=0, cot=COT, dependence=DEPENDENCE)
    stored = item_values(
        model="m", seed=0, cot=run.read_table("cot"), dependence=run.read_table("dependence")
    )
    pd.testing.assert_frame_equal(direct, stored)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "No table was given"),
        ({"cot": DIRECT}, "table cot was not made by"),
        ({"cot": BLIND}, "table cot was not made by"),
        ({"text_only": COT}, "table text_only was made with the picture"),
        ({"cot": COT.drop(columns="correct")}, "table cot lacks correct"),
        ({"cot": pd.concat([COT, COT])}, "table cot holds item i0 twice"),
        ({"commitment": COMMITMENT.assign(candidate="red")}, "reduce it with Commitment"),
        ({"commitment": COMMITMENT.drop(columns="area")}, "table commitment lacks area"),
        ({"dependence": COT}, "table dependence lacks edit"),
        ({"access": COT}, "table access lacks step, "),
    ],
)  # fmt: skip
def test_bad_tables_are_one_sentence(tables, message):
    with pytest.raises(MeasureError, match=message) as caught:
        item_values(model="m", seed=0, **tables)
    assert "\n" not in str(caught.value)


# --- estimates and comparisons ------------------------------------------------------------------


def long(model, matrix, metric="mass", seeds=None, items=None):
    """Values from a (seeds, items) matrix."""
    matrix = np.atleast_2d(np.asarray(matrix, dtype=float))
    n_seeds, n_items = matrix.shape
    seeds = range(n_seeds) if seeds is None else seeds
    items = [f"i{at:04d}" for at in range(n_items)] if items is None else items
    return pd.DataFrame(
        {
            "model": model,
            "seed": np.repeat(list(seeds), n_items),
            "item": list(items) * n_seeds,
            "metric": metric,
            "value": matrix.ravel(),
        }
    )


def test_summary_by_hand():
    values = pd.concat(
        [
            long("base", [[1, 0, 1, np.nan]], "accuracy_cot", seeds=[-1]),
            long("base", [[0.1, 0.2, 0.3, 0.4]], "mass", seeds=[-1]),
            long("arm", [[1, 1, 1, 0], [1, 1, 1, 1]], "accuracy_cot"),
            long("arm", [[1, 2, 3, 4]], "home_made"),
        ]
    )
    table = summarise(values).set_index(["model", "metric"])
    assert table.index.tolist() == [
        ("base", "accuracy_cot"), ("base", "mass"), ("arm", "accuracy_cot"), ("arm", "home_made"),
    ]  # fmt: skip
    assert table["value"].tolist() == pytest.approx([2 / 3, 0.25, 7 / 8, 2.5])
    assert table["n_items"].tolist() == [3, 4, 4, 4]
    assert table["n_seeds"].tolist() == [1, 1, 2, 1]
    assert (table["low"] <= table["value"]).all()
    assert (table["high"] >= table["value"]).all()


def test_a_metric_defined_on_no_item_is_there_with_n_zero():
    (row,) = summarise(long("base", [[np.nan, np.nan]])).to_dict("records")
    assert np.isnan(row["value"])
    assert (row["n_items"], row["n_seeds"]) == (0, 0)
    both = pd.concat([long("a", [[np.nan, np.nan]]), long("b", [[1.0, 2.0]])])
    (row,) = compare(both, "a", "b").to_dict("records")
    assert np.isnan(row["value"])
    assert np.isnan(row["p_value"])
    assert np.isnan(row["p_holm"])


def test_comparison_by_hand():
    a = long("base", [[0, 0, 1, 1]], "accuracy_cot", seeds=[-1])
    b = long("arm", [[1, 0, 1, 1], [1, 1, 1, 0]], "accuracy_cot")
    (row,) = compare(pd.concat([a, b]), "base", "arm").to_dict("records")
    assert row["value"] == pytest.approx(0.25)
    assert (row["seed_min"], row["seed_max"]) == (0.25, 0.25)
    assert (row["n_items"], row["n_seeds"]) == (4, 2)
    assert row["test"] == "t, seeds × items"
    # Both seeds have the same mean, so that only items vary; two unseen ones vary more.
    by_item = np.array([1, 0.5, 0, -0.5])
    error = np.sqrt(max(by_item.var(ddof=1) / 4, 2 / 4**2))
    assert (row["p_value"] < 0.05) == (row["low"] > 0)
    assert row["high"] == pytest.approx(min(1, 0.25 + stats.t.ppf(0.975, 3) * error))
    assert row["effect_size"] == pytest.approx(0.25 / by_item.std(ddof=1))


def test_swapping_the_arms_turns_the_sign():
    rng = np.random.default_rng(0)
    values = pd.concat([long("a", rng.normal(size=(3, 40))), long("b", rng.normal(size=(3, 40)))])
    forth, back = compare(values, "a", "b").iloc[0], compare(values, "b", "a").iloc[0]
    assert forth["value"] == pytest.approx(-back["value"])
    assert (forth["low"], forth["high"]) == pytest.approx((-back["high"], -back["low"]))
    assert forth["p_value"] == pytest.approx(back["p_value"])


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_p_is_below_five_percent_exactly_where_the_interval_excludes_zero(seeds):
    rng, frames = np.random.default_rng(1), []
    for at in range(60):
        shift = rng.normal(0, 0.3)
        kinds = rng.random((seeds, 40)) < 0.5 + shift, rng.normal(shift, 0.5, (seeds, 40))
        for name, drawn in zip(("yes", "number"), kinds, strict=True):
            base = np.zeros((seeds, 40)) if name == "number" else rng.random((seeds, 40)) < 0.5
            frames += [long("a", base, f"{name}{at}"), long("b", drawn, f"{name}{at}")]
    table = compare(pd.concat(frames), "a", "b")
    excluded = (table["low"] > 0) | (table["high"] < 0)
    assert ((table["p_value"] < 0.05) == excluded).all()
    assert 10 < excluded.sum() < len(table) - 10
    assert set(table["test"]) == {"bootstrap, items" if seeds == 1 else "t, seeds × items"}


def areas(model, steps, area, seed=0):
    """Commitment area and number of steps of a few items."""
    rows = [("rationale_steps", steps), ("commitment_area", area)]
    return pd.DataFrame(
        {"model": model, "seed": seed, "item": f"q{at}", "metric": name, "value": float(value)}
        for name, values in rows
        for at, value in enumerate(values)
    )


def test_areas_are_compared_at_matched_steps_first():
    """Planted: a model that decides at the last step and is merely briefer has more area."""
    long, short = [5, 5, 3, 3], [5, 2, 2, 3]
    late = {k: 1 / (2 * k) for k in (2, 3, 5)}  # p is 0 and at the last step 1
    values = pd.concat(
        [areas(name, ks, [late[k] for k in ks]) for name, ks in (("a", long), ("b", short))]
    )
    found = compare(values, "a", "b").set_index("metric")
    assert list(found.index).index("commitment_area_matched") < list(found.index).index(
        "commitment_area"
    )
    assert found.loc["commitment_area", "value"] == pytest.approx((0.15 + 1 / 4 - 1 / 6) / 4)
    matched = found.loc["commitment_area_matched"]
    assert matched["value"] == 0 and matched["n_items"] == 2
    # What differs at the same number of steps is found.
    values.loc[(values["model"] == "b") & (values["metric"] == "commitment_area"), "value"] += 0.3
    found = compare(values, "a", "b").set_index("metric")
    assert found.loc["commitment_area_matched", "value"] == pytest.approx(0.3)


def test_without_a_shared_number_of_steps_no_area_is_matched():
    values = pd.concat([areas("a", [2, 2], [0.5, 0.5]), areas("b", [3, 4], [0.5, 0.5])])
    assert "commitment_area_matched" not in set(compare(values, "a", "b")["metric"])
    bare = values[values["metric"] == "commitment_area"]
    assert list(compare(bare, "a", "b")["metric"]) == ["commitment_area"]


def test_areas_are_matched_by_item_and_seed():
    values = pd.concat(
        areas(model, ks, [0.5 + 0.1 * (model == "b")] * 2, seed)
        for model, seed, ks in (
            ("a", 0, [2, 3]),
            ("a", 1, [2, 2]),
            ("b", 0, [2, 2]),
            ("b", 1, [2, 3]),
        )
    )
    row = compare(values, "a", "b").set_index("metric").loc["commitment_area_matched"]
    assert row["value"] == pytest.approx(0.1) and (row["n_items"], row["n_seeds"]) == (1, 2)
    one = compare(values[(values["model"] == "b") | (values["seed"] == 0)], "a", "b")
    row = one.set_index("metric").loc["commitment_area_matched"]
    assert (row["n_items"], row["n_seeds"]) == (2, 2)


def test_pairing_is_by_item_and_seed_not_by_place():
    a = long("a", [[1, 2, 3], [4, 5, 6]], seeds=[0, 1], items=["x", "y", "z"])
    b = long("b", [[7, 6, 5], [4, 3, 2]], seeds=[1, 0], items=["z", "y", "x"])
    (row,) = compare(pd.concat([a, b]), "a", "b").to_dict("records")
    assert row["value"] == pytest.approx(1.0)
    assert (row["seed_min"], row["seed_max"]) == (1, 1)
    assert row["low"] < 1 == row["high"]  # three items that do not differ are no certainty


def test_only_shared_items_and_seeds_are_compared():
    a = long("a", [[0, 0, 0], [0, 0, 9]], seeds=[0, 1], items=["x", "y", "z"])
    b = long("b", [[1, 2, 9], [9, 9, 9]], seeds=[0, 5], items=["x", "y", "w"])
    (row,) = compare(pd.concat([a, b]), "a", "b").to_dict("records")
    assert row["value"] == pytest.approx(1.5)
    assert (row["n_items"], row["n_seeds"]) == (2, 1)


def test_holm_counts_the_metrics():
    rng = np.random.default_rng(2)
    frames = []
    for metric, shift in (("mass", 0.5), ("share", 0.0), ("density", 0.45)):
        x = rng.normal(size=(1, 50))
        y = x + rng.normal(shift, 1, size=x.shape)
        frames += [long("a", x, metric), long("b", y, metric)]
    table = compare(pd.concat(frames), "a", "b")
    assert (table["p_holm"] >= table["p_value"]).all()
    best = table["p_value"].idxmin()
    assert table.loc[best, "p_holm"] == pytest.approx(3 * table.loc[best, "p_value"])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_p_of_several_seeds_knows_that_seeds_differ(seeds, binary):
    """Two arms that are alike, but for their seeds' luck, are told apart in 5 % of the cases."""
    rng, n, frames = np.random.default_rng(9), 80, []
    for at in range(200):
        lucky = 0.12 * rng.normal(size=(2, seeds, 1))
        both = lucky + 0.1 * rng.normal(size=(1, 1, n)) + 0.1 * rng.normal(size=(2, seeds, n))
        if binary:
            both = rng.random((2, seeds, n)) < 0.5 + lucky
        frames += [long("a", both[0], f"m{at}"), long("b", both[1], f"m{at}")]
    table = compare(pd.concat(frames), "a", "b")
    assert set(table["test"]) == {"t, seeds × items"} and set(table["n_seeds"]) == {seeds}
    assert (table["p_value"] < 0.05).mean() <= 0.07


def test_planted_effects_are_found_and_absent_ones_are_not():
    rng = np.random.default_rng(3)
    found, false, rounds = 0, 0, 40
    for at in range(rounds):
        item = rng.normal(size=(1, 150))
        base = item + 0.3 * rng.normal(size=(1, 150))
        null = item + 0.3 * rng.normal(size=(3, 150))
        arm = null + 0.15
        values = pd.concat([long("base", base), long("null", null), long("arm", arm)])
        effect = compare(values, "base", "arm", n_boot=400, seed=at).iloc[0]
        absent = compare(values, "base", "null", n_boot=400, seed=at).iloc[0]
        found += effect["low"] > 0 and effect["p_value"] < 0.05
        false += absent["low"] > 0 or absent["high"] < 0
    assert found >= 0.9 * rounds
    assert false <= 0.15 * rounds


@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 12), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_difference_is_the_difference_of_the_means(seeds_a, seeds_b, n_items, draw):
    rng = np.random.default_rng(draw)
    a = long("a", rng.normal(size=(seeds_a, n_items)))
    b = long("b", rng.normal(size=(seeds_b, n_items)))
    values = pd.concat([a, b]).sample(frac=1, random_state=draw)
    row = compare(values, "a", "b", n_boot=50).iloc[0]
    if min(seeds_a, seeds_b) > 1:
        shared = range(min(seeds_a, seeds_b))
        a, b = a[a["seed"].isin(shared)], b[b["seed"].isin(shared)]
    assert row["value"] == pytest.approx(b["value"].mean() - a["value"].mean(), abs=1e-12)
    assert row["n_seeds"] == (
        max(seeds_a, seeds_b) if 1 in (seeds_a, seeds_b) else min(seeds_a, seeds_b)
    )


@pytest.mark.parametrize(
    ("values", "a", "b", "message"),
    [
        (long("a", [[1, 2]]), "a", "z", "There is no model 'z'; there are a"),
        (long("a", [[1, 2]]), "a", "a", "compared with itself"),
        (pd.concat([long("a", [[1]]), long("b", [[1]], "share")]), "a", "b", "no metric in common"),
        (
            pd.concat([long("a", [[1]]), long("b", [[1]], items=["q"])]),
            "a", "b", "no item in common",
        ),
        (
            pd.concat([long("a", [[1], [2]]), long("b", [[1], [2]], seeds=[7, 8])]),
            "a", "b", r"a has seeds \[0, 1\] and b \[7, 8\]",
        ),
        (pd.concat([long("a", [[1]]), long("a", [[2]])]), "a", "b", "is there twice for a, seed 0"),
        (long("a", [[1]]).drop(columns="seed"), "a", "b", "table values lacks seed"),
        (long("a", [[1]]).head(0), "a", "b", "has no rows"),
    ],
)  # fmt: skip
def test_bad_values_are_one_sentence(values, a, b, message):
    with pytest.raises(MeasureError, match=message) as caught:
        compare(values, a, b)
    assert "\n" not in str(caught.value)


def test_shares_end_at_what_is_possible():
    rng = np.random.default_rng(4)
    matrix = (rng.random((3, 6)) < 0.8).astype(float)
    values = pd.concat([long("b", matrix, "accuracy_cot"), long("b", matrix, "density")])
    found = summarise(values).set_index("metric")
    assert found.loc["accuracy_cot", "high"] == 1.0 < found.loc["density", "high"]
    base = pd.concat([long("a", 1 - matrix, "accuracy_cot"), long("a", 1 - matrix, "density")])
    found = compare(pd.concat([values, base]), "a", "b").set_index("metric")
    assert found.loc["accuracy_cot", "high"] == 1.0 < found.loc["density", "high"]
    assert {name for name, metric in METRICS.items() if not metric.bounded} == {
        "commitment_jump",
        "rationale_steps",
        "open_entropy0",
        "open_entropy_area",
        "mass_slope",
        "density",
        "over_system",
        "focus",
        "easy_excess",
        "response_dependence_kept",
        "response_dependence_dropped",
        "delta_log_p_twin",
        "delta_log_p_control",
        "delta_log_p_blank",
        "net_dependence_share",
        "net_dependence",
        "delta_log_p_occlude",
        "delta_log_p_occlude_control",
        "net_occlusion",
        "delta_log_p_knockout",
        "delta_log_p_mean_value",
        "delta_log_p_removal",
        "prior_grey_difference",
        "patch_gap",
        "patch_net_share",
    }
