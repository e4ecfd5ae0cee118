from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.intervals import (
    Interval,
    bootstrap_mean,
    bootstrap_seeds_items,
    crossed_t_interval,
    paired_difference,
    paired_matrix,
    share_difference,
    share_interval,
    weighted_sum,
)
from attcot_analysis.stats.significance import (
    benjamini_hochberg,
    cohens_dz,
    holm,
    mcnemar,
    permutation_test,
    seeds_items_test,
)

finite = st.floats(-1e6, 1e6, allow_nan=False)


def test_interval_reads_well():
    assert str(Interval(0.5123, 0.4701, 0.5532, 192)) == "0.512 [0.470, 0.553] n=192"
    assert str(Interval(0.5, np.nan, np.nan, 1)) == "0.500 [undefined] n=1"
    assert str(Interval(np.nan, np.nan, np.nan, 0)) == "undefined n=0"
    assert f"{Interval(0.5123, 0.4701, 0.5532, 192):.2f}" == "0.51 [0.47, 0.55] n=192"
    assert f"{Interval(0.5, np.nan, np.nan, 1):+.1f}" == "+0.5 [undefined] n=1"
    assert f"{Interval(np.nan, np.nan, np.nan, 0):.2f}" == "undefined n=0"


def test_interval_knows_whether_it_excludes_zero():
    assert Interval(0.2, 0.1, 0.3, 9).excludes_zero
    assert Interval(-0.2, -0.3, -0.1, 9).excludes_zero
    assert not Interval(0.2, -0.1, 0.3, 9).excludes_zero
    assert not Interval(0.2, np.nan, np.nan, 1).excludes_zero


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5, 0.6, 0.4, 3), "lower end must come first"),
        ((0.5, np.nan, 0.4, 3), "give both or neither"),
        ((0.5, 0.4, 0.6, -1), "n is -1"),
        ((0.5, 0.4, 0.6, 3, 95.0), "level is 95"),
    ],
)
def test_interval_refuses_nonsense(arguments, message):
    with pytest.raises(MeasureError, match=message):
        Interval(*arguments)


def test_mean_agrees_with_scipy_bootstrap():
    x = np.random.default_rng(0).normal(size=120)
    ours = bootstrap_mean(x, n_boot=20_000)
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    assert ours.value == pytest.approx(x.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    assert ours.n == 120


def test_same_seed_same_interval_and_nan_dropped():
    x = np.array([0.0, 1.0, 1.0, 0.0, np.nan, 1.0])
    assert bootstrap_mean(x, seed=3) == bootstrap_mean(x, seed=3)
    assert bootstrap_mean(x).n == 5
    assert bootstrap_mean(x).value == pytest.approx(0.6)


def test_clusters_widen_the_interval_by_what_repeats():
    rng = np.random.default_rng(1)
    items = rng.normal(size=60)
    repeated = np.repeat(items, 10)
    clusters = np.repeat(np.arange(60), 10)
    once = bootstrap_mean(items, n_boot=4000)
    clustered = bootstrap_mean(repeated, clusters, n_boot=4000)
    naive = bootstrap_mean(repeated, n_boot=4000)
    assert clustered.n == 60
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=1e-9)
    assert naive.high - naive.low < 0.45 * (clustered.high - clustered.low)


def test_clusters_may_be_any_labels_and_of_any_size():
    interval = bootstrap_mean([1.0, 1.0, 1.0, 0.0], [("a", 1), ("a", 1), ("a", 1), ("b", 2)])
    assert interval.value == pytest.approx(0.75)
    assert interval.n == 2


def test_too_little_data_gives_no_ends():
    assert np.isnan(bootstrap_mean([]).value)
    assert bootstrap_mean([np.nan]).n == 0
    one = bootstrap_mean([0.4])
    assert one.value == 0.4
    assert np.isnan(one.low)
    assert np.isnan(bootstrap_seeds_items([[np.nan, np.nan]]).value)
    assert np.isnan(crossed_t_interval([[np.nan, 1.0], [1.0, np.nan]]).value)
    assert np.isnan(crossed_t_interval([[1.0], [2.0]]).low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([[1.0]]), "one number per item"),
        (lambda: bootstrap_mean([1.0, np.inf]), "infinite"),
        (lambda: bootstrap_mean([1.0, 2.0], ["a"]), "one label each"),
        (lambda: bootstrap_mean([1.0, 2.0], ["a", None]), "label is missing"),
        (lambda: bootstrap_mean([1.0, 2.0], n_boot=0), "n_boot is 0"),
        (lambda: bootstrap_mean([1.0, 2.0], level=1.5), "level is 1.5"),
        (lambda: bootstrap_seeds_items(np.zeros((2, 2, 2))), r"\(seeds, items\)"),
        (lambda: bootstrap_seeds_items([[np.inf, 1.0]]), "infinite"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "same items"),
        (lambda: paired_matrix(np.zeros((2, 4)), np.zeros((3, 4))), "equal numbers of seeds"),
        (lambda: mcnemar([0.0, 0.5], [1.0, 1.0]), "0.5 in a"),
        (lambda: mcnemar([0.0], [1.0, 1.0]), "same items"),
        (lambda: holm([0.1, 1.2]), r"in \[0, 1\]"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(MeasureError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_one_seed_is_the_item_bootstrap():
    x = np.random.default_rng(2).normal(size=80)
    assert bootstrap_seeds_items(x) == bootstrap_mean(x)


def test_missing_cells_are_left_out():
    matrix = np.array([[1.0, 0.0, np.nan], [1.0, np.nan, np.nan]])
    interval = bootstrap_seeds_items(matrix)
    assert interval.value == pytest.approx(2 / 3)
    assert interval.n == 2


@given(
    st.lists(finite, min_size=2, max_size=12),
    st.floats(-100, 100),
    st.floats(0.1, 10),
)
@settings(max_examples=30, deadline=None)
def test_intervals_move_and_stretch_with_the_data(values, shift, scale):
    x = np.array(values)
    size = np.abs(x).max() + 200
    for make in (lambda y: bootstrap_mean(y, n_boot=200), crossed_t_interval):
        before, after = make(x), make(scale * x + shift)
        for end in ("value", "low", "high"):
            expected = scale * getattr(before, end) + shift
            assert getattr(after, end) == pytest.approx(expected, abs=1e-9 * size * 100)


def _crossed(rng, seeds, items, sd_seed, sd_item, sd_rest):
    return (
        sd_seed * rng.normal(size=(seeds, 1))
        + sd_item * rng.normal(size=(1, items))
        + sd_rest * rng.normal(size=(seeds, items))
    )


def _coverage(make, draw, rounds):
    return np.mean([interval.low <= 0 <= interval.high for interval in map(make, draw(rounds))])


def test_item_bootstrap_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = _coverage(
        lambda x: bootstrap_mean(x, n_boot=500),
        lambda rounds: (rng.normal(size=100) for _ in range(rounds)),
        600,
    )
    assert 0.92 <= covered <= 0.98


def test_clustered_bootstrap_covers_the_truth_where_the_naive_one_does_not():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(80), 4)

    def draw(rounds):
        return (
            np.repeat(rng.normal(size=80), 4) + 0.3 * rng.normal(size=320) for _ in range(rounds)
        )

    assert 0.92 <= _coverage(lambda x: bootstrap_mean(x, clusters, n_boot=400), draw, 500) <= 0.98
    assert _coverage(lambda x: bootstrap_mean(x, n_boot=400), draw, 100) < 0.8


def test_two_way_bootstrap_covers_the_truth_with_enough_seeds():
    rng = np.random.default_rng(2)

    def draw(rounds):
        return (_crossed(rng, 8, 100, 0.05, 0.4, 0.3) for _ in range(rounds))

    covered = _coverage(lambda m: bootstrap_seeds_items(m, n_boot=400), draw, 600)
    assert 0.92 <= covered <= 0.98


def test_three_seeds_what_the_docstring_warns_of():
    rng = np.random.default_rng(3)

    def draw(rounds):
        return (_crossed(rng, 3, 100, 0.2, 0.1, 0.1) for _ in range(rounds))

    assert _coverage(lambda m: bootstrap_seeds_items(m, n_boot=300), draw, 400) < 0.82
    assert 0.91 <= _coverage(crossed_t_interval, draw, 1000) <= 0.98


@pytest.mark.parametrize("spread", [(0.02, 0.4, 0.3), (0.05, 0.4, 0.3), (0.05, 0.1, 0.4)])
def test_crossed_t_interval_covers_the_truth_with_three_seeds(spread):
    rng = np.random.default_rng(4)
    covered = _coverage(
        crossed_t_interval,
        lambda rounds: (_crossed(rng, 3, 192, *spread) for _ in range(rounds)),
        1000,
    )
    assert 0.92 <= covered <= 0.98


def test_crossed_t_interval_with_one_seed_is_the_t_interval():
    x = np.random.default_rng(5).normal(size=30)
    ours = crossed_t_interval(x)
    low, high = stats.t.interval(0.95, 29, loc=x.mean(), scale=stats.sem(x))
    assert (ours.low, ours.high) == pytest.approx((low, high))


def test_one_row_pairs_with_every_seed():
    base = np.array([0.0, 1.0])
    arm = np.array([[1.0, 1.0], [1.0, 3.0]])
    assert paired_matrix(base, arm).tolist() == [[1.0, 0.0], [1.0, 2.0]]
    assert paired_difference(base, arm).value == pytest.approx(1.0)
    assert paired_difference(arm, base).value == pytest.approx(-1.0)


def test_pairing_removes_what_the_arms_share():
    rng = np.random.default_rng(6)
    items = rng.normal(size=200) * 5
    a, b = items + 0.1 * rng.normal(size=200), items + 0.1 + 0.1 * rng.normal(size=200)
    assert paired_difference(a, b).excludes_zero
    assert not bootstrap_mean(b).low > bootstrap_mean(a).high


@pytest.mark.parametrize("level", [0.9, 0.95, 0.9875])
def test_share_interval_agrees_with_scipy(level):
    for k, n in ((0, 5), (5, 5), (1, 1), (3, 17), (150, 200)):
        found = share_interval(k / n, n, level=level)
        expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert found.low <= found.value <= found.high and found.n == n
    assert np.isnan(share_interval(np.nan, 0).low)


def test_share_difference_is_that_of_the_paper():
    """Newcombe 1998, table II, columns a and e, method 10."""
    for (a, m), (b, n), low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ):
        found = share_difference(share_interval(a / m, m), share_interval(b / n, n))
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
        assert found.value == pytest.approx(a / m - b / n) and found.n == min(m, n)
    nothing = share_difference(share_interval(0.5, 4), share_interval(np.nan, 0))
    assert np.isnan(nothing.low) and not nothing.excludes_zero


def test_mcnemar_is_the_binomial_test_on_what_changed():
    a = np.array([1] * 10 + [0] * 2 + [1] * 30 + [0] * 30)
    b = np.array([0] * 10 + [1] * 2 + [1] * 30 + [0] * 30)
    result = mcnemar(a, b)
    assert result.p_value == pytest.approx(stats.binomtest(2, 12).pvalue)
    assert result.effect == pytest.approx(-8 / 72)
    assert result.n == 72
    assert mcnemar(a, a).p_value == 1.0
    assert np.isnan(mcnemar([np.nan], [1.0]).p_value)


def test_permutation_is_exact_for_few_pairs():
    d = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert permutation_test(d).p_value == pytest.approx(2 / 32)
    assert permutation_test(np.zeros(5), d) == permutation_test(d)
    assert permutation_test(np.zeros(6)).p_value == 1.0
    assert np.isnan(permutation_test([]).p_value)


def test_permutation_agrees_with_scipy():
    d = np.random.default_rng(7).normal(loc=0.2, size=60)
    theirs = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=20_000, random_state=0
    )
    assert permutation_test(d).p_value == pytest.approx(theirs.pvalue, abs=0.02)


def test_permutation_finds_what_is_there_and_only_that():
    rng = np.random.default_rng(8)
    with_effect = [permutation_test(rng.normal(0.5, 1, 60), n_permutations=999, seed=i)
                   for i in range(50)]  # fmt: skip
    without = [permutation_test(rng.normal(0, 1, 60), n_permutations=999, seed=i).p_value
               for i in range(400)]  # fmt: skip
    assert np.mean([test.p_value < 0.05 for test in with_effect]) > 0.9
    assert 0.02 < np.mean(np.array(without) < 0.05) < 0.08


def drawn(rng, seeds, items, sd_seed, sd_item, sd_rest):
    """Differences of two arms that are alike in the mean over all seeds and items."""
    return (
        sd_seed * rng.normal(size=(seeds, 1))
        + sd_item * rng.normal(size=(1, items))
        + sd_rest * rng.normal(size=(seeds, items))
    )


SPREADS = {
    "commitment_position": (0.042, 0.241, 0.357),
    "accuracy_cot": (0.015, 0.090, 0.373),
    "focus": (0.013, 0.030, 0.056),
    "mass_last_step": (0.009, 0.010, 0.010),
}
"""Metric → standard deviations of seeds, items and the rest in data/results/commitment: medians
over cells, Att-CoT - CoT-SFT."""


@pytest.mark.parametrize("metric", SPREADS)
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_test_of_seeds_and_items_has_its_size(seeds, metric):
    rng = np.random.default_rng(0)
    found = [seeds_items_test(drawn(rng, seeds, 240, *SPREADS[metric])).p_value for _ in range(800)]
    assert np.mean(np.array(found) < 0.05) <= 0.07
    assert np.mean(np.array(found) < 0.005) <= 0.01


def test_items_alone_are_no_test_of_seeds():
    """What a report printed as p of several seeds before."""
    rng = np.random.default_rng(0)
    found = [drawn(rng, 3, 240, *SPREADS["mass_last_step"]).mean(0) for _ in range(100)]
    found = [permutation_test(one, n_permutations=999).p_value for one in found]
    assert np.mean(np.array(found) < 0.05) > 0.5


def test_the_test_of_seeds_and_items_finds_what_is_there():
    rng = np.random.default_rng(1)
    shift = {"mass_last_step": 0.08, "commitment_position": 0.2}
    for metric, effect in shift.items():
        differences = effect + drawn(rng, 5, 240, *SPREADS[metric])
        assert seeds_items_test(differences).p_value < 0.01
        assert seeds_items_test(-differences) == replace(
            seeds_items_test(differences), effect=-differences.mean()
        )


def test_the_test_of_seeds_and_items_at_its_ends_is_the_t_test_of_what_varies():
    means = np.random.default_rng(2).normal(0.5, 1, 6)
    of_seeds = seeds_items_test(np.repeat(means[:, None], 40, axis=1))
    assert of_seeds.p_value == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    of_items = seeds_items_test(np.repeat(means[None, :], 3, axis=0))
    assert of_items.p_value == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert (of_seeds.n, of_items.n) == (40, 6)


def test_the_test_of_seeds_and_items_where_there_is_nothing_to_tell():
    assert np.isnan(seeds_items_test(np.ones((3, 8))).p_value)
    assert seeds_items_test(np.zeros((3, 8))).p_value == 1.0
    noise = np.random.default_rng(3).normal(size=(2, 8))
    assert np.isnan([seeds_items_test(noise[:n]).p_value for n in (1, 2)]).all()
    assert np.isnan(seeds_items_test(np.full((2, 3), np.nan)).p_value)
    some = np.random.default_rng(3).normal(size=(3, 9))
    more = np.hstack([some, [[np.nan], [1.0], [2.0]]])
    assert seeds_items_test(more) == seeds_items_test(some)
    assert seeds_items_test(some * 1e-3 + 1e9).p_value == 1e-15


@pytest.mark.parametrize(("seeds", "least"), [(2, 0.84), (3, 0.89), (5, 0.91)])
def test_the_wider_interval_covers_as_the_report_says(seeds, least):
    rng = np.random.default_rng(4)
    covered = 0
    for at in range(200):
        values = drawn(rng, seeds, 80, 0.13, 0.3, 0.3)
        both = bootstrap_seeds_items(values, n_boot=300, seed=at), crossed_t_interval(values)
        covered += min(one.low for one in both) <= 0 <= max(one.high for one in both)
    assert covered / 200 >= least
    assert seeds > 2 or covered / 200 < 0.93


def test_holm_by_hand():
    adjusted = holm([0.01, 0.04, np.nan, 0.03])
    assert adjusted[[0, 1, 3]] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(adjusted[2])
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
@settings(deadline=None)
def test_holm_only_raises_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= -1e-12).all()
    assert (adjusted <= 1).all()


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_holm_agrees_with_statsmodels(n):
    p_values = np.random.default_rng(n).uniform(size=n) ** 3
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_benjamini_hochberg_agrees_with_statsmodels(n):
    p_values = np.random.default_rng(n).uniform(size=n) ** 3
    expected = multipletests(p_values, method="fdr_bh")[1]
    assert benjamini_hochberg(p_values) == pytest.approx(expected)
    with_gap = benjamini_hochberg([np.nan, *p_values])
    assert np.isnan(with_gap[0]) and with_gap[1:] == pytest.approx(expected)
    assert (expected <= holm(p_values) + 1e-12).all()


def test_corrections_refuse_what_is_no_p_value():
    assert benjamini_hochberg([]).size == 0
    for correct in (holm, benjamini_hochberg):
        with pytest.raises(MeasureError, match=r"each must lie in \[0, 1\]"):
            correct([0.2, 1.5])


def test_effect_sizes():
    assert cohens_dz([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]) == pytest.approx(2.0)
    assert np.isnan(cohens_dz([1.0]))
    assert np.isnan(cohens_dz([1.0, 1.0]))


def test_a_weighted_sum_is_added_in_one_order_on_every_processor():
    """To the last bit, which a matrix product leaves to the processor."""
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, size=(50, 7)).astype(float)
    rows = rng.integers(0, 4, size=(7, 40)) / 3
    expected = [
        [sum(float(w) * float(x) for w, x in zip(one, column, strict=True)) for column in rows.T]
        for one in weights
    ]
    np.testing.assert_array_equal(weighted_sum(weights, rows), expected)
