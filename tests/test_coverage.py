"""Every kind of interval holds the true value as often as the docs promise, simulated."""

import numpy as np
import pytest

from attcot_analysis.stats.crossed import seeds_items
from attcot_lab.coverage import ROUNDS, SEED_SPREADS, Design, coverages, crossed, differences, held


@pytest.fixture(scope="module")
def table():
    return coverages()


def test_every_interval_keeps_its_promise(table):
    missed = [
        f"{one.name}, {one.setting}: {min(one.held):.3f} < {one.bar:.3f}"
        for one in table
        if min(one.held) < one.bar
    ]
    assert not missed


def test_what_is_simulated_at_once_is_what_a_user_calls():
    for design in (Design(seeds=3, items=12), Design(seeds=2, items=12, binary=True)):
        (kind,) = differences(np.random.default_rng(0), design, 0.1)
        some = kind[:200]
        inside = [
            (found := seeds_items(draw[0]).interval()).low <= 0 <= found.high for draw in some
        ]
        assert held([some]) == pytest.approx(np.mean(inside))


def test_a_simulation_finds_an_interval_that_is_too_narrow(table):
    """Items alone know nothing of seeds: planted, so that the bars above can fail, and by far."""
    design = Design(seeds=3)
    (kind,) = differences(np.random.default_rng(0), design, 0.2)
    assert held([kind.mean(axis=2, keepdims=True)]) < 0.8
    rare = [one for one in table if "yes in 2 %" in one.setting and one.setting.startswith("24")]
    assert rare[0].held[0] < 0.6


def test_p_values_corrected_for_eighteen_cells_keep_their_size():
    """At a level where few degrees of freedom matter most."""
    alpha = 0.05 / 18
    error = np.sqrt(alpha * (1 - alpha) / ROUNDS)
    for seeds in (2, 3, 5):
        missed = 1 - np.array(crossed(Design(seeds=seeds), 1 - alpha))
        assert missed.shape == (len(SEED_SPREADS),)
        assert missed.max() <= alpha + 4 * error
