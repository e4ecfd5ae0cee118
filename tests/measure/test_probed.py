"""Answers forced after some of the steps only: which, what is read there, what is known then."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.commitment import Commitment, commitment
from attcot_analysis.measures.lens import lens_commitment
from attcot_analysis.measures.probed import probed_steps
from attcot_analysis.problems import Problem, render_response
from tests.tiny import noise_image

COLORS = ("red", "blue", "green")


def test_steps_of_equal_length_are_chosen_evenly():
    assert probed_steps([10 * k for k in range(301)], 16) == tuple(20 * i for i in range(16))


def test_what_counts_is_tokens_written_not_steps():
    """The first step has as many tokens as the other eight together."""
    written = [0, 80, *range(90, 170, 10)]
    assert probed_steps(written, 3) == (0, 1, 9)
    assert probed_steps(written, 5) == (0, 1, 2, 5, 9)


def test_both_ends_alone_and_all_steps():
    assert probed_steps([0, 5, 9, 12], 2) == (0, 3)
    assert probed_steps([0, 5, 9, 12], 4) == probed_steps([0, 5, 9, 12]) == (0, 1, 2, 3)
    assert probed_steps([7], 2) == (0,)
    with pytest.raises(MeasureError, match=r"max_steps is 1; give one from 2"):
        probed_steps([0, 1], 1)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 50), max_size=40), st.integers(2, 20))
def test_any_choice_has_both_ends_no_step_twice_and_as_many_as_it_may(lengths, most):
    written = np.cumsum([3, *lengths]).tolist()
    chosen = probed_steps(written, most)
    assert len(chosen) == min(most, len(written))
    assert (chosen[0], chosen[-1]) == (0, len(lengths))
    assert list(chosen) == sorted(set(chosen))


# --- what is read there -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems():
    return [
        Problem("a", noise_image(64, 48, 1), "What color?", COLORS, "red"),
        Problem("b", noise_image(32, 32, 2), "What color?", COLORS, "blue"),
    ]


@pytest.fixture(scope="module")
def responses():
    long = [f"Cell b{k} holds a red circle." if k % 2 else "Go right." for k in range(9)]
    return [render_response(long, "red"), render_response(["Go up."], "blue")]


def same_rows(some, every, keys):
    """Rows of a table with fewer steps, beside those of the table with all."""
    assert (some["n_steps"] == some.merge(every, on=keys, suffixes=("", "_all"))["n_steps"]).all()
    both = some.merge(every, on=keys, suffixes=("", "_all"))
    assert len(both) == len(some)
    np.testing.assert_allclose(both["log_p"], both["log_p_all"], atol=1e-5)
    return both


def test_a_probed_step_reads_what_it_reads_among_all(random_mllm, problems, responses):
    every = commitment(random_mllm, problems, responses).table
    some = commitment(random_mllm, problems, responses, max_steps=4).table
    both = same_rows(some, every, ["item", "control", "step", "candidate"])
    assert (both["leaked"] == both["leaked_all"]).all()
    own = some[(some["item"] == "a") & (some["control"] == "rationale")]
    assert set(own["n_steps"]) == {9} and set(own["n_probed"]) == {4}
    assert own["step"].nunique() == 4 and {0, 9} < set(own["step"])
    short = some[some["item"] == "b"]
    assert set(short["n_probed"]) == {2} and set(short["step"]) == {0, 1}
    assert "n_probed" not in every


def test_the_lens_probes_the_same_steps(random_mllm, problems, responses):
    every = lens_commitment(random_mllm, problems, responses, layers=[1, 2]).table
    found = lens_commitment(random_mllm, problems, responses, layers=[1, 2], max_steps=4)
    same_rows(found.table, every, ["item", "step", "layer", "candidate"])
    forced = commitment(random_mllm, problems, responses, controls=("rationale",), max_steps=4)
    assert set(found.table["step"]) == set(forced.table["step"])
    assert set(found.items().query("item == 'a'")["n_steps"]) == {9}


# --- what is known then -------------------------------------------------------------------------


def table(p_final, steps, n_steps, name="q"):
    """A table of two candidates by hand, probed after some steps."""
    p = np.stack([p_final, 1 - np.asarray(p_final)], axis=1)
    return pd.DataFrame(
        {
            "item": name,
            "control": "rationale",
            "step": np.repeat(steps, 2),
            "n_steps": n_steps,
            "candidate": ["red", "blue"] * len(steps),
            "log_p": np.log(p).ravel(),
            "p": p.ravel(),
            "leaked": False,
            "n_probed": len(steps),
        }
    )


def result(*tables):
    names = [one["item"].iloc[0] for one in tables]
    problems = [Problem(name, noise_image(32, 32), "?", ("red", "blue"), "red") for name in names]
    return Commitment(pd.concat(tables, ignore_index=True), problems)


@pytest.mark.parametrize("decided", [0, 1, 37, 100, 299, 300])
def test_the_bracket_holds_the_step_at_which_it_was_decided(decided):
    """Planted anywhere in 300 steps, found within the step and its resolution."""
    steps = np.array(probed_steps([20 * k for k in range(301)], 16))
    row = result(table(np.where(steps >= decided, 0.9, 0.2), steps, 300)).items().iloc[0]
    low = row["commitment_step"] - row["resolution"]
    assert low < decided <= row["commitment_step"] or decided == row["commitment_step"] == 0
    assert row["resolution"] == (1 if decided == 0 else 20)
    assert row["n_steps"] == 300
    assert row["commitment_position"] == row["commitment_step"] / 300


def test_with_all_steps_the_resolution_is_one_step():
    steps = np.arange(7)
    row = result(table(np.where(steps >= 4, 0.9, 0.2), steps, 6)).items().iloc[0]
    assert (row["commitment_step"], row["resolution"]) == (4, 1)


def test_positions_and_areas_are_those_of_the_steps_not_of_their_number():
    """A straight line is read alike on any grid; its place is not its index."""
    steps = np.array([0, 1, 2, 10])
    found = result(table(0.1 + 0.08 * steps, steps, 10))
    row = found.items().iloc[0]
    assert row["area"] == pytest.approx(0.5)
    assert row["area"] == pytest.approx(trapezoid(0.1 + 0.08 * steps, x=steps / 10))
    assert (row["jump_step"], row["jump_position"]) == (10, 1.0)
    assert row["jump"] == pytest.approx(0.64)
    curve = found.curve()
    np.testing.assert_allclose(curve["position"], np.linspace(0, 1, 11))
    np.testing.assert_allclose(curve["value"], np.linspace(0.1, 0.9, 11))
    with pytest.raises(MeasureError, match=r"some of 10 steps.*axis='position'"):
        found.curve(axis="k")


def test_a_probed_step_that_is_missing_is_refused():
    whole = table([0.2, 0.3, 0.9], [0, 3, 6], 6)
    for gone in (0, 3, 6):
        with pytest.raises(MeasureError, match=r"from 0 to 6 \(3 probed\)"):
            result(whole[whole["step"] != gone])
    with pytest.raises(MeasureError, match="from 0 to 6"):
        result(whole.drop(columns="n_probed"))
