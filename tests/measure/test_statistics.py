import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.crossed import paired_difference, paired_matrix, seeds_items
from attcot_analysis.stats.intervals import (
    Interval,
    bootstrap_mean,
    share_difference,
    share_interval,
)
from attcot_analysis.stats.significance import (
    benjamini_hochberg,
    cohens_dz,
    holm,
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
    assert np.isnan(seeds_items([[np.nan, np.nan]]).value)
    assert np.isnan(seeds_items([[1.0], [2.0]]).interval().low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([[1.0]]), "one number per item"),
        (lambda: bootstrap_mean([1.0, np.inf]), "infinite"),
        (lambda: bootstrap_mean([1.0, 2.0], ["a"]), "one label each"),
        (lambda: bootstrap_mean([1.0, 2.0], ["a", None]), "label is missing"),
        (lambda: bootstrap_mean([1.0, 2.0], n_boot=0), "n_boot is 0"),
        (lambda: bootstrap_mean([1.0, 2.0], level=1.5), "level is 1.5"),
        (lambda: seeds_items(np.zeros((2, 2, 2))), r"\(seeds, items\)"),
        (lambda: seeds_items([[np.inf, 1.0]]), "infinite"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "same items"),
        (lambda: paired_matrix(np.zeros((2, 4)), np.zeros((3, 4))), "equal numbers of seeds"),
        (lambda: cohens_dz([0.0], [1.0, 1.0]), "same items"),
        (lambda: holm([0.1, 1.2]), r"in \[0, 1\]"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(MeasureError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@given(
    st.lists(finite, min_size=2, max_size=12),
    st.floats(-100, 100),
    st.floats(0.1, 10),
)
@settings(max_examples=30, deadline=None)
def test_intervals_move_and_stretch_with_the_data(values, shift, scale):
    x = np.array(values)
    size = np.abs(x).max() + 200
    before, after = (bootstrap_mean(y, n_boot=200) for y in (x, scale * x + shift))
    for end in ("value", "low", "high"):
        expected = scale * getattr(before, end) + shift
        assert getattr(after, end) == pytest.approx(expected, abs=1e-9 * size * 100)


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


def test_one_seed_has_the_t_interval_over_items():
    x = np.random.default_rng(5).normal(size=30)
    ours = seeds_items(x).interval()
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
