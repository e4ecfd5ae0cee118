"""All diagnostics from both sides: what rings, what ranks a failure above, and false alarms."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attcot_analysis.shipped import VALIDITY_RESULTS, shipped
from attcot_lab.diagnostics import DIAGNOSTICS, SET, false_alarms, two_sided
from attcot_lab.testbed.planted import BLIND, EARLY, FAILURES, HONEST


def drawn(rng, shift=0.0, share=None, seeds=4, items=60):
    """Normal values, or 0 and 1."""
    if share is None:
        return rng.normal(shift, 1, (seeds, items))
    return (rng.random((seeds, items)) < share).astype(float)


def table(matrices):
    """(model, metric) → seeds × items, as values."""
    parts = [
        pd.DataFrame(matrix)
        .stack()
        .rename_axis(["seed", "item"])
        .rename("value")
        .reset_index()
        .assign(model=model, metric=metric)
        for (model, metric), matrix in matrices.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_what_rings_and_what_ranks_a_failing_model_above_honest_ones():
    rng = np.random.default_rng(0)
    values = table(
        {
            (HONEST, "patch_gap"): drawn(rng),
            (BLIND, "patch_gap"): drawn(rng, -6),
            (EARLY, "patch_gap"): drawn(rng, 6),
            (HONEST, "cue_followed"): drawn(rng, share=0.1),
            (EARLY, "cue_followed"): drawn(rng, share=0.9),
            (BLIND, "cue_followed"): drawn(rng, share=0.1),
        }
    )
    found = two_sided(values, ("patch_gap", "cue_followed", "mass"), n_boot=200)
    found = found.set_index(["metric", "failure"])
    gap, cue = found.loc["patch_gap"], found.loc["cue_followed"]
    assert gap["rings"].to_dict() == {BLIND: True, EARLY: False}
    assert gap["above"].to_dict() == {BLIND: False, EARLY: True}
    assert gap["expected"].notna().to_dict() == {BLIND: True, EARLY: False}
    assert "mass" not in found.index, "it was not measured"
    # Of 0 and 1 an item says little and ten of them enough.
    assert (gap["of"] == "item").all() and (cue["of"] == "set").all()
    assert cue["rings"].to_dict() == {BLIND: False, EARLY: True} and not cue["above"].any()
    assert cue.loc[EARLY, "failing"] == pytest.approx(0.9, abs=0.06)


def test_sets_are_means_of_ten_items_and_hold_the_rest():
    rng = np.random.default_rng(1)
    honest, early = drawn(rng, share=0.2, items=25), drawn(rng, share=0.7, items=25)
    values = table({(HONEST, "retold"): honest, (EARLY, "retold"): early})
    (row,) = two_sided(values, ("retold",), n_boot=20).to_dict("records")

    def sets(matrix):
        return np.stack([matrix[:, :SET].mean(1), matrix[:, SET:].mean(1)])

    bad, good = -sets(early).ravel()[:, None], -sets(honest).ravel()[None]
    assert row["auroc"] == pytest.approx(((bad > good) + 0.5 * (bad == good)).mean())


def test_false_alarms_of_like_seeds_are_at_most_as_many_as_the_level_says():
    rng = np.random.default_rng(2)
    found = [false_alarms(drawn(rng, items=40)) for _ in range(200)]
    assert np.mean(found) <= 0.05 + 3 * np.std(found) / 200**0.5
    assert np.mean(found) > 0.03
    # Planted: one seed that differs raises alarms, though each is as honest.
    unlike = np.stack([rng.normal(2.0 * (seed == 0), 1, 40) for seed in range(4)])
    assert false_alarms(unlike) > 0.1


def test_false_alarms_by_counting():
    scores = np.array([[0.0, 3.0, np.nan], [1.0, 2.0, 5.0]])
    # With so few values no threshold holds the level: none is beyond.
    assert np.isnan(false_alarms(scores)) and np.isnan(false_alarms(scores[:1]))
    rng = np.random.default_rng(3)
    many = rng.normal(0, 1, (3, 30))
    beyond = []
    for seed in range(3):
        rest = sorted(np.delete(many, seed, axis=0).ravel())
        # 60 values: the 58th is passed by at most 3 in 61 new ones.
        beyond += [value > rest[57] for value in many[seed]]
    assert false_alarms(many) == pytest.approx(np.mean(beyond))


def test_every_diagnostic_is_there_for_failures_that_exist():
    for one in DIAGNOSTICS.values():
        assert set(one.rings) <= set(FAILURES)


@pytest.fixture(scope="module")
def measured():
    return two_sided(pd.read_parquet(shipped(f"{VALIDITY_RESULTS}/all_values.parquet")))


def test_the_page_has_a_row_of_every_diagnostic_and_marks_what_fails(measured):
    page = Path(__file__).parents[1] / "docs/validity.md"
    rows = dict(re.findall(r"^[|] \[?`(\w+)`(.*)[|]$", page.read_text(), flags=re.MULTILINE))
    for metric, own in measured.groupby("metric"):
        cells = rows[str(metric)].split("|")[1:-1]
        own = own.set_index("failure")
        assert len(cells) == len(FAILURES)
        for failure, cell in zip(FAILURES, cells, strict=True):
            assert (failure in own.index) != (cell.strip() == "–")
            if failure in own.index:
                row = own.loc[failure]
                planted = isinstance(row["expected"], str)
                assert ("**" in cell) == (planted and row["rings"])
                assert ("†" in cell) == (planted and not row["rings"])
                assert ("↑" in cell) == row["above"]
    assert set(measured["metric"]) == set(DIAGNOSTICS)
