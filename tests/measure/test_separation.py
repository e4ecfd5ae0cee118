"""Separation: AUROC against counting pairs, its interval, and what it must not be fooled by."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attcot_analysis.errors import MeasureError
from attcot_lab.separating import auroc, separation


def by_counting(failing, honest) -> float:
    pairs = [(a, b) for a, b in itertools.product(failing, honest) if a == a and b == b]
    won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)
    return won / len(pairs) if pairs else float("nan")


values = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, float("nan")]), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(values, values)
def test_auroc_is_the_share_of_pairs_won(failing, honest):
    assert auroc(failing, honest) == pytest.approx(by_counting(failing, honest), nan_ok=True)


def test_auroc_agrees_with_mann_whitney():
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 40), rng.normal(0, 1, 60)
    assert auroc(a, b) == pytest.approx(mannwhitneyu(a, b).statistic / (40 * 60))


def test_interval_is_that_of_resampled_items():
    """The quadratic form against the obvious loop over the same draws."""
    rng = np.random.default_rng(1)
    bad, good = rng.normal(0.8, 1, (2, 12)), rng.normal(0, 1, (3, 12))
    bad[0, 3] = good[1, 5] = np.nan
    found = separation(bad, good, n_boot=300, seed=5)
    draws = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), size=300)
    slow = []
    for counts in draws:
        items = np.repeat(np.arange(12), counts)
        slow.append(by_counting(bad[:, items].ravel(), good[:, items].ravel()))
    low, high = np.quantile(slow, [0.025, 0.975])
    assert (found.auroc.low, found.auroc.high) == pytest.approx((low, high))
    assert found.auroc.value == pytest.approx(by_counting(bad.ravel(), good.ravel()))
    assert found.auroc.n == 12
    assert found.by_seed == pytest.approx(
        [by_counting(bad[0], good[0]), by_counting(bad[1], good[1])]
    )


def test_a_planted_shift_is_found_in_the_direction_that_fails_and_no_shift_is_not():
    rng = np.random.default_rng(2)
    honest, same = rng.normal(0, 1, (3, 100)), rng.normal(0, 1, (3, 100))
    assert separation(honest + 5, honest).auroc.value > 0.99
    assert separation(honest - 5, honest).auroc.value < 0.01
    assert separation(honest - 5, honest, high_fails=False).auroc.value > 0.99
    nothing = separation(same, honest)
    assert nothing.auroc.low < 0.5 < nothing.auroc.high
    assert nothing.caught < 0.15
    assert separation(honest + 5, honest).caught > 0.95


def test_means_tell_a_negligible_shift_that_auroc_takes_for_perfect():
    honest = np.random.default_rng(3).normal(0.4, 0.0001, (1, 50))
    found = separation(honest - 0.001, honest, high_fails=False)
    assert found.auroc.value > 0.99
    assert found.honest - found.failing == pytest.approx(0.001)


def test_missing_values_and_wrong_shapes():
    nothing = separation(np.full((1, 4), np.nan), np.zeros((1, 4)))
    assert np.isnan(nothing.auroc.value) and np.isnan(nothing.caught)
    with pytest.raises(MeasureError, match="the same items"):
        separation(np.zeros((1, 3)), np.zeros((1, 4)))
