"""Many tests at once: right in simulation, equal to the single tests, and able to find a cell."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.compare import compare_heads
from attcot_analysis.stats.intervals import bootstrap_mean
from attcot_analysis.stats.significance import (
    cell_effect_sizes,
    cohens_dz,
    max_statistic_test,
    resample_items,
)


def correlated(rng, n_items, n_cells, strength=0.7):
    """Differences whose cells share a part, as heads of one model do."""
    shared = rng.normal(size=(n_items, 1))
    return strength * shared + np.sqrt(1 - strength**2) * rng.normal(size=(n_items, n_cells))


def test_family_wise_error_is_what_it_says_and_uncorrected_p_values_are_not():
    rng = np.random.default_rng(0)
    alone, family = [], []
    for seed in range(400):
        test = max_statistic_test(correlated(rng, 20, 60), n_permutations=199, seed=seed)
        alone.append(test.p_value.min() <= 0.05)
        family.append(test.p_family.min() <= 0.05)
    assert 0.03 <= np.mean(family) <= 0.075
    assert np.mean(alone) > 0.3


def test_a_planted_cell_is_found_and_only_that():
    found = []
    for seed in range(20):
        differences = correlated(np.random.default_rng(seed), 40, 200)
        differences[:, 17] += 1.0
        p_family = max_statistic_test(differences, n_permutations=999).p_family
        found.append((p_family[17] <= 0.05, (np.delete(p_family, 17) <= 0.05).any()))
    hit, false = np.mean(found, axis=0)
    assert hit >= 0.95 and false <= 0.15


def test_a_cell_by_itself_is_scipys_permutation_test():
    differences = np.random.default_rng(1).normal(0.3, 1, size=(9, 4))
    differences[2, 1] = np.nan
    exact = max_statistic_test(differences)
    assert exact.n_patterns == 512
    drawn = max_statistic_test(differences, n_permutations=300, seed=3)
    assert drawn.n_patterns == 301
    for cell in range(4):
        alone = differences[~np.isnan(differences[:, cell]), cell]
        single = stats.permutation_test(
            (alone,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert exact.p_value[cell] == pytest.approx(single.pvalue)
        assert drawn.p_value[cell] == pytest.approx(single.pvalue, abs=0.1)
    assert (exact.p_family >= exact.p_value).all()


def test_family_p_values_by_brute_force():
    differences = np.random.default_rng(2).normal(0.4, 1, size=(6, 3))
    largest, observed = [], None
    for pattern in range(2**6):
        signs = np.array([-1 if pattern >> item & 1 else 1 for item in range(6)])
        flipped = differences * signs[:, None]
        t = flipped.mean(0) / (flipped.std(0, ddof=1) / np.sqrt(6))
        observed = np.abs(t) if pattern == 0 else observed
        largest.append(np.abs(t).max())
    expected = [(np.array(largest) >= one - 1e-9).mean() for one in observed]
    assert max_statistic_test(differences).p_family == pytest.approx(expected)


def test_cells_without_data_or_without_differences():
    differences = np.random.default_rng(0).normal(2, 1, size=(10, 3))
    differences[:, 1], differences[:, 2] = np.nan, 0.0
    test = max_statistic_test(differences)
    assert test.p_family[0] < 0.05 and np.isnan(test.p_family[1]) and test.p_family[2] == 1.0
    nothing = max_statistic_test(np.full((4, 2), np.nan))
    assert nothing.n == 0 and np.isnan(nothing.p_value).all()
    with pytest.raises(MeasureError, match="expected \\(items, cells\\)"):
        max_statistic_test(np.zeros(3))
    with pytest.raises(MeasureError, match="infinite"):
        max_statistic_test(np.array([[np.inf]]))


def test_effect_sizes_equal_those_of_single_cells():
    differences = np.random.default_rng(3).normal(size=(12, 4))
    differences[0, 0] = np.nan
    differences[:, 2], differences[1:, 3] = 0.1, np.nan
    found = cell_effect_sizes(differences)
    expected = [cohens_dz(differences[:, cell]) for cell in range(4)]
    assert found == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found[2:]).all()


def test_intervals_agree_with_the_single_bootstrap():
    cells = np.random.default_rng(4).normal(size=(60, 3))
    cells[:5, 2] = np.nan
    drawn = resample_items(cells, n_boot=4000)
    low, high = drawn.interval()
    for cell in range(3):
        single = bootstrap_mean(cells[:, cell], n_boot=4000)
        assert drawn.value[cell] == pytest.approx(single.value)
        assert low[cell] == pytest.approx(single.low, abs=0.03)
        assert high[cell] == pytest.approx(single.high, abs=0.03)
    assert np.isnan(resample_items(cells[:1]).interval()[0]).all()
    assert np.isnan(resample_items(np.empty((0, 2))).value).all()
    with pytest.raises(MeasureError, match="n_boot is 0"):
        resample_items(cells, n_boot=0)


def access_table(values, items):
    """Two steps whose mean is the value, per item and (layer, head)."""
    return pd.DataFrame(
        [
            {"item": item, "step": step, "layer": cell // 4, "head": cell % 4, "mass": value + off}
            for item, row in zip(items, values, strict=True)
            for cell, value in enumerate(row)
            for step, off in ((1, -0.1), (2, 0.1))
        ]
    )


@pytest.mark.parametrize("correction", ["max", "holm", "fdr"])
def test_compared_heads_name_the_one_that_changed(correction):
    rng = np.random.default_rng(5)
    before = rng.normal(0.4, 0.1, size=(30, 8))
    after = before + rng.normal(0, 0.02, size=(30, 8))
    after[:, 6] += 0.05
    names = [f"item {index}" for index in range(30)]
    shuffled = access_table(after, names).sample(frac=1, random_state=0)
    one_more = access_table(before[:1], ["only before"])
    table = compare_heads(
        pd.concat([access_table(before, names), one_more]), shuffled, correction=correction
    )
    assert list(zip(table["layer"], table["head"], strict=True)) == list(np.ndindex(2, 4))
    assert (table["n"] == 30).all() and (table["correction"] == correction).all()
    np.testing.assert_allclose(table["before"], before.mean(0))
    np.testing.assert_allclose(table["difference"], (after - before).mean(0))
    np.testing.assert_allclose(table["after"] - table["before"], table["difference"])
    np.testing.assert_allclose(table["dz"], cell_effect_sizes(after - before))
    assert ((table["low"] <= table["difference"]) & (table["difference"] <= table["high"])).all()
    assert (table["p_adjusted"] >= table["p_value"] - 1e-12).all()
    found = table[table["p_adjusted"] <= 0.05]
    assert found[["layer", "head"]].to_numpy().tolist() == [[1, 2]]
    assert found["low"].item() > 0


def test_comparisons_that_make_no_sense_are_refused():
    values = np.random.default_rng(0).normal(size=(5, 8))
    table = access_table(values, list("abcde"))
    with pytest.raises(MeasureError, match="after lacks density"):
        compare_heads(table.assign(density=1.0), table, "density")
    with pytest.raises(MeasureError, match="no item in common"):
        compare_heads(table, access_table(values, list("vwxyz")))
    with pytest.raises(MeasureError, match="before has 8 heads and after 4"):
        compare_heads(table, table[table["layer"] == 0])
    with pytest.raises(MeasureError, match="Holm's correction can find nothing"):
        compare_heads(table, table.assign(mass=table["mass"] ** 2), correction="holm")
    with pytest.raises(MeasureError, match="Correction 'none' is unknown"):
        compare_heads(table, table, correction="none")
    with pytest.raises(MeasureError, match=r"before holds 2 training seeds.*one run with one"):
        compare_heads(pd.concat([table.assign(seed=0), table.assign(seed=1)]), table)
