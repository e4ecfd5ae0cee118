"""The one model of seeds × items: against a naive loop, plain statistics, and its own p value."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from attcot_analysis.stats.crossed import (
    Estimate,
    allot,
    mean_of,
    paired_difference,
    seeds_items,
    variance_parts,
)
from attcot_analysis.stats.intervals import bootstrap_mean


def drawn(rng, seeds, items, by_seed=0.1, by_item=0.3, rest=0.3):
    return (
        by_seed * rng.normal(size=(seeds, 1))
        + by_item * rng.normal(size=(1, items))
        + rest * rng.normal(size=(seeds, items))
    )


def naive(cells):
    """Every mean square of models × seeds × items in plain loops, as a variance of the mean."""
    shape = cells.shape
    squares = {}
    for size in (1, 2, 3):
        for axes in combinations(range(3), size):
            if min(shape[axis] for axis in axes) < 2:
                continue
            total = 0.0
            for place in np.ndindex(*(shape[axis] for axis in axes)):
                effect = 0.0
                for fixed in range(size + 1):
                    for inner in combinations(range(size), fixed):
                        at = [slice(None)] * 3
                        for one in inner:
                            at[axes[one]] = place[one]
                        effect += (-1) ** (size - fixed) * cells[tuple(at)].mean()
                total += effect**2
            others = np.prod([shape[axis] for axis in range(3) if axis not in axes])
            free = np.prod([shape[axis] - 1 for axis in axes])
            squares[axes] = others * total / free / cells.size
    variance = sum((-1) ** (len(axes) + 1) * square for axes, square in squares.items())
    return squares, max([variance, *(squares.get((axis,), 0.0) for axis in range(3))])


@pytest.mark.parametrize("shape", [(1, 4, 9), (3, 1, 7), (3, 2, 6), (4, 3, 5)])
def test_parts_of_the_variance_by_hand(shape):
    cells = np.random.default_rng(sum(shape)).normal(size=shape)
    moved = (cells - cells.mean()) / cells.size
    squares, variance = naive(cells)
    parts = variance_parts([moved])
    assert sum(part for part, _ in parts) == pytest.approx(variance)
    assert [df for _, df in parts] == sorted(n - 1 for n in shape if n > 1)
    first = min((axis for axis in range(2) if shape[axis] > 1), key=lambda axis: shape[axis])
    assert parts[0][0] == pytest.approx(min(variance, squares[first,]))


def test_many_draws_at_once_are_each_by_itself():
    rng = np.random.default_rng(0)
    kinds = [rng.normal(size=(5, 2, 3, n)) for n in (6, 9)]
    together = variance_parts(kinds)
    for at in range(5):
        alone = variance_parts([kind[at] for kind in kinds])
        assert [float(part[at]) for part, _ in together] == pytest.approx(
            [float(part) for part, _ in alone]
        )


def test_at_its_ends_it_is_the_t_test_of_what_varies():
    means = np.random.default_rng(2).normal(0.5, 1, 6)
    expected = stats.ttest_1samp(means, 0)
    for matrix in (np.repeat(means[:, None], 400, axis=1), np.repeat(means[None], 3, axis=0)):
        found = seeds_items(matrix)
        assert found.p_value() == pytest.approx(expected.pvalue, rel=1e-6)
        ends = found.interval(0.9)
        low, high = expected.confidence_interval(0.9)
        assert (ends.low, ends.high) == pytest.approx((low, high))


@pytest.mark.parametrize("seeds", [1, 2, 3, 8])
def test_the_p_value_is_below_where_the_interval_excludes(seeds):
    rng = np.random.default_rng(seeds)
    for _ in range(20):
        found = seeds_items(drawn(rng, seeds, 30))
        for level in (0.8, 0.95, 0.997):
            ends = found.interval(level)
            for end, inward in ((ends.low, 1), (ends.high, -1)):
                assert found.p_value(end + inward * 1e-6) > 1 - level
                assert found.p_value(end - inward * 1e-6) < 1 - level
        assert found.p_at_most(0.0) + found.p_at_least(0.0) == pytest.approx(1)
        assert min(found.p_at_most(0.0), found.p_at_least(0.0)) == pytest.approx(
            found.p_value() / 2
        )


def test_seeds_that_differ_widen_it_and_missing_cells_move_less():
    rng = np.random.default_rng(3)
    same, apart = (drawn(rng, 4, 40, by_seed=spread) for spread in (0.0, 0.5))
    assert seeds_items(apart).error > 2 * seeds_items(same).error
    holes = same.copy()
    holes[0, :5] = np.nan
    holes[:, 7] = np.nan
    found = seeds_items(holes)
    assert found.value == pytest.approx(np.nanmean(holes)) and found.n_items == 39
    assert found.error == pytest.approx(seeds_items(same).error, rel=0.2)


def test_yes_and_no_that_nobody_saw_are_not_ruled_out():
    never = seeds_items(np.zeros((3, 50)))
    assert never.interval().high == pytest.approx(stats.t.ppf(0.975, 49) * np.sqrt(2) / 50)
    assert never.p_value() == 1.0
    numbers = np.random.default_rng(4).normal(size=(1, 50))
    error = numbers.std(ddof=1) / np.sqrt(50)
    assert seeds_items(numbers).error == pytest.approx(error)
    half = (numbers > 0).astype(float)
    assert seeds_items(half).error == pytest.approx(half.std(ddof=1) / np.sqrt(50))
    one = np.eye(50)[:1]
    assert seeds_items(one).error == pytest.approx(np.sqrt(2) / 50)
    assert one.std(ddof=1) / np.sqrt(50) < np.sqrt(2) / 50


def test_too_little_tells_nothing():
    for matrix in (np.full((2, 3), np.nan), np.ones((3, 1)), np.empty((0, 4))):
        found = seeds_items(matrix)
        assert np.isnan(found.p_value()) and np.isnan(found.interval().low)
        assert np.isnan(found.error)
        assert np.isnan(mean_of(matrix).p_value)
    assert seeds_items(np.random.default_rng(5).normal(1e9, 1, (3, 9))).p_value() == 1e-15


def test_one_run_is_the_bootstrap_over_items_and_several_are_not():
    x = np.random.default_rng(6).normal(0.2, 1, 80)
    one = mean_of(x)
    assert one.interval == bootstrap_mean(x) == paired_difference(np.zeros(80), x)
    assert (one.test, one.n_seeds) == ("bootstrap, items", 1)
    assert one.p_value == pytest.approx(stats.ttest_1samp(x, 0).pvalue, abs=0.03)
    both = mean_of(np.vstack([x, x + 0.1]))
    assert both.interval == seeds_items(np.vstack([x, x + 0.1])).interval()
    assert (both.test, both.n_seeds) == ("t, seeds × items", 2)


def test_a_variance_is_given_to_few_degrees_first():
    parts = allot(1.0, [(0.4, 9), (0.3, 2), (0.6, 99), (0.2, 0)])
    assert [(float(part), df) for part, df in parts] == [
        pytest.approx((0.3, 2)),
        pytest.approx((0.4, 9)),
        pytest.approx((0.3, 99)),
    ]
    assert Estimate(0.0, (), 0, 0).one_run
