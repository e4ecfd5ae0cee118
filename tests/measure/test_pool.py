"""Pools of cells: against the plain statistics, known truth, and planted dependence."""

import numpy as np
import pandas as pd
import pytest

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.crossed import seeds_items
from attcot_lab.claims.pool import Cell, Pool

MODELS = [f"m{number}" for number in range(6)]
KINDS = ["arrows", "charts", "counting"]
REPEATS = 40


def frame(matrix) -> pd.DataFrame:
    return pd.DataFrame(np.atleast_2d(matrix))


def drawn(rng, *, mean=0.0, seeds=3, items=16, model=0.0, kind=0.0, seed=0.1, item=0.3, rest=0.3):
    """Cells of 6 models × 3 kinds with all the random effects; the true mean is `mean`."""
    models = rng.normal(0, model, len(MODELS)) if model else np.zeros(len(MODELS))
    cells = []
    for name in KINDS:
        shift = rng.normal(0, kind) if kind else 0.0
        by_seed, by_item = rng.normal(0, seed, (seeds, 1)), rng.normal(0, item, (1, items))
        for number, one in enumerate(MODELS):
            own = rng.normal(0, rest, (seeds, items)) + rng.normal(0, seed, (seeds, 1))
            cells.append(
                Cell(one, name, frame(mean + models[number] + shift + by_seed + by_item + own))
            )
    return cells


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_one_cell_is_the_projects_interval(seeds):
    matrix = np.random.default_rng(0).normal(0.2, 1, (seeds, 30))
    matrix += np.random.default_rng(1).normal(0, 0.4, (seeds, 1))
    estimate = Pool([Cell("m", "k", frame(matrix))]).estimate()
    assert estimate.interval() == seeds_items(matrix).interval()
    assert (estimate.n_items, estimate.n_seeds, estimate.one_run) == (30, seeds, seeds == 1)


def test_the_models_of_a_kind_are_averaged_before_anything_else():
    cells = drawn(np.random.default_rng(3), seeds=3)[: len(MODELS)]
    matrix = np.mean([cell.effects.to_numpy() for cell in cells], axis=0)
    estimate, crossed = Pool(cells).estimate(), seeds_items(matrix)
    t = Pool([Cell("mean", "arrows", frame(matrix))]).estimate()
    assert estimate.value == pytest.approx(crossed.value)
    assert estimate.error == pytest.approx(t.error)
    assert [df for _, df in estimate.parts] == [df for _, df in t.parts]


def test_kinds_that_share_no_seed_add_their_variances():
    cells = drawn(np.random.default_rng(4))
    own = [
        Cell(
            cell.model,
            cell.kind,
            cell.effects.set_axis(cell.effects.index + 10 * KINDS.index(cell.kind)),
        )
        for cell in cells
    ]
    size = len(MODELS)
    alone = [Pool(own).estimate(range(at, at + size)).error for at in range(0, 3 * size, size)]
    apart = np.sqrt(np.square(alone).sum()) / 3
    # Nine seeds of which every kind has three: as many as there are, but for what seeds differ
    # by in the mean over their kinds.
    assert Pool(own).estimate().error == pytest.approx(apart, rel=0.15)


def test_what_seeds_do_in_all_kinds_is_no_luck_that_averages_out():
    rng, wide, missed = np.random.default_rng(14), [], 0
    for _ in range(60):
        by_seed = rng.normal(0, 0.3, (4, 1))
        cells = [Cell("m", kind, frame(by_seed + rng.normal(0, 0.3, (4, 12)))) for kind in KINDS]
        estimate = Pool(cells).estimate()
        missed += not estimate.interval().low <= 0 <= estimate.interval().high
        wide.append(estimate.error)
    # The truth: seeds share their effect over kinds. 60 draws at 0.05: at most 8 but for luck.
    assert missed <= 8
    assert np.sqrt(np.mean(np.square(wide))) == pytest.approx(0.3 / np.sqrt(4), rel=0.25)


def test_a_copied_model_adds_no_certainty():
    matrix = np.random.default_rng(5).normal(0, 1, (3, 50))
    one = Pool([Cell("a", "k", frame(matrix))]).estimate()
    six = Pool([Cell(name, "k", frame(matrix)) for name in MODELS]).estimate()
    assert six.error == pytest.approx(one.error)


@pytest.mark.parametrize(
    "effects",
    [{}, {"seed": 0.0, "item": 0.0}, {"seed": 0.4}, {"item": 1.0, "seed": 0.02}],
    ids=["all", "noise only", "seeds rule", "items rule"],
)
def test_intervals_hold_the_true_mean_as_often_as_they_say(effects):
    rng = np.random.default_rng(6)
    inside = []
    for _ in range(REPEATS):
        interval = Pool(drawn(rng, mean=0.2, **effects)).estimate().interval()
        inside.append(interval.low <= 0.2 <= interval.high)
    # 40 draws at 0.95: fewer than 0.85 happens by luck in about one of 300.
    assert np.mean(inside) >= 0.85


@pytest.mark.parametrize("effects", [{"model": 0.4}, {"model": 0.2, "kind": 0.3}])
def test_beyond_holds_the_mean_of_other_models_and_kinds(effects):
    rng = np.random.default_rng(7)
    inside, here = [], []
    for _ in range(REPEATS):
        pool = Pool(drawn(rng, mean=0.2, **effects))
        beyond = pool.beyond()
        assert beyond is not None
        interval = beyond.interval()
        inside.append(interval.low <= 0.2 <= interval.high)
        fixed = pool.estimate().interval()
        here.append(fixed.low <= 0.2 <= fixed.high)
    assert np.mean(inside) >= 0.85
    assert np.mean(here) < 0.8  # what the narrower one says is another thing


def test_few_models_say_nothing_of_others():
    cells = drawn(np.random.default_rng(8))
    pool = Pool(cells)
    assert pool.beyond([0, 1]) is None and pool.beyond([0, 6]) is None
    one_kind, two_kinds = pool.beyond([0, 1, 2]), pool.beyond([0, 1, 2, 6, 7, 8])
    assert one_kind is not None and two_kinds is not None
    assert one_kind.error >= pool.estimate([0, 1, 2]).error


def test_p_values_agree_with_the_interval():
    rng = np.random.default_rng(9)
    for _ in range(40):
        pool = Pool([Cell("m", "k", frame(rng.normal(0.1, 0.5, (3, 40))))])
        estimate = pool.estimate()
        for bound in rng.normal(0.1, 0.2, 5):
            interval = estimate.interval()
            assert (estimate.p_at_most(bound) < 0.025) == (interval.low > bound)
            assert (estimate.p_at_least(bound) < 0.025) == (interval.high < bound)


def test_missing_values_are_left_out_and_one_item_has_no_interval():
    matrix = np.random.default_rng(10).normal(1, 1, (3, 20))
    matrix[0, :5] = np.nan
    matrix[:, 7] = np.nan
    estimate = Pool([Cell("m", "k", frame(matrix))]).estimate()
    assert estimate.value == pytest.approx(np.nanmean(matrix)) and estimate.n_items == 19
    single = Pool([Cell("m", "k", frame([[1.0], [2.0]]))]).estimate()
    assert single.value == 1.5 and np.isnan(single.interval().low)
    assert np.isnan(single.p_at_most(0.0))


@pytest.mark.parametrize(("items", "half"), [(9, 0.362), (100, 0.0281)])
def test_items_that_never_differ_are_no_certainty(items, half):
    """Two unseen items, one at each end, are added to them."""
    estimate = Pool([Cell("m", "k", frame(np.full((3, items), 0.7 - 0.2)))]).estimate()
    assert estimate.interval().low == pytest.approx(0.5 - half, abs=0.001)
    assert estimate.interval().high == pytest.approx(0.5 + half, abs=0.001)
    for bound in (0.5 - half - 0.01, 0.5 - half + 0.01):
        assert (estimate.p_at_most(bound) < 0.025) == (estimate.interval().low > bound)
    assert estimate.p_at_least(0.5) == pytest.approx(0.5)


def test_what_is_no_pool_is_refused():
    cell = Cell("m", "k", frame([[1.0, 2.0]]))
    with pytest.raises(MeasureError, match="twice"):
        Pool([cell, cell])
    with pytest.raises(MeasureError, match="no value"):
        Pool([Cell("m", "k", frame([[np.nan, np.nan]]))])
    with pytest.raises(MeasureError, match="no cells"):
        Pool([cell]).estimate([])
