"""RH-AUC on planted accuracies, and against the same said in plain code."""

import numpy as np
import pandas as pd
import pytest

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.lengths import normalised_area, rh_auc

LENGTHS = (0, 10, 20, 40)


def answers(accuracies, items=200, seed=0):
    """Items that are right at a length as often as is said."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((items, 1)) < np.array(accuracies)
    rows = [
        (length, f"i{at}", float(drawn[at, k]))
        for at in range(items)
        for k, length in enumerate(LENGTHS)
    ]
    return pd.DataFrame(rows, columns=["length", "item", "value"])


def naive(x, y):
    points = sorted(zip(x, y, strict=True), key=lambda point: point[0])
    a, b = [(v - min(x)) / (max(x) - min(x)) for v, _ in points], [v for _, v in points]
    b = [(v - min(y)) / (max(y) - min(y)) for v in b]
    return sum((a[k + 1] - a[k]) * (b[k] + b[k + 1]) / 2 for k in range(len(a) - 1))


def test_the_area_is_that_of_a_naive_loop():
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, y = rng.random(5), rng.random(5)
        assert normalised_area(x, y) == pytest.approx(naive(list(x), list(y)))


def test_perception_that_goes_at_once_is_told_from_one_that_is_kept():
    reasoning = answers((0.3, 0.5, 0.7, 0.9))
    lost = rh_auc(reasoning, answers((0.9, 0.4, 0.4, 0.4), seed=1), n_boot=200)
    kept = rh_auc(reasoning, answers((0.9, 0.9, 0.9, 0.4), seed=1), n_boot=200)
    assert lost.area.high < 0.3 < 0.7 < kept.area.low
    assert kept.area.n == 200 and list(kept.points["length"]) == list(LENGTHS)


def test_the_ranges_say_what_the_stretching_hides():
    reasoning = answers((0.3, 0.5, 0.7, 0.9))
    hardly = rh_auc(reasoning, answers((0.90, 0.88, 0.88, 0.88), seed=1), n_boot=200)
    assert hardly.perception_range < 0.05 and "(perception)" in str(hardly)
    never = rh_auc(reasoning, answers((1.0, 1.0, 1.0, 1.0)), n_boot=20)
    assert np.isnan(never.area.value) and never.perception_range == 0


def test_bad_input_is_refused_in_a_sentence():
    table = answers((0.3, 0.5, 0.7, 0.9), items=5)
    with pytest.raises(MeasureError, match="the same two or more"):
        rh_auc(table, table[table["length"] > 0])
    with pytest.raises(MeasureError, match="lacks a length"):
        rh_auc(table, table.iloc[1:])
    with pytest.raises(MeasureError, match="lacks value"):
        rh_auc(table.drop(columns="value"), table)
