"""The testbed's generator: same seed same bytes, exact twins, controls, boxes and knobs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attcot_analysis.errors import ProblemError
from attcot_lab.testbed.arrows import (
    CELL,
    COLOURS,
    HABITS,
    ArrowsConfig,
    Cell,
    cell_name,
    generate_arrows,
    solve,
    walk,
)


def _changed(first, second):
    return (np.asarray(first) != np.asarray(second)).any(axis=-1)


configs = st.builds(
    ArrowsConfig,
    size=st.integers(3, 5),
    hops=st.integers(1, 4),
    noise=st.sampled_from([0.0, 60.0, 240.0]),
    prior=st.sampled_from([None, 0.0, 0.95]),
    states_evidence=st.booleans(),
)


@settings(max_examples=30, deadline=None)
@given(configs, st.integers(0, 10_000))
def test_every_problem_is_what_it_claims_to_be(config, seed):
    for problem in generate_arrows(3, config, seed=seed):
        assert problem.image.size == (CELL * config.size, CELL * config.size)
        assert len(problem.steps) == config.hops + 1
        assert all(len(step.boxes) == 1 for step in problem.steps)
        twin, control = problem.twin, problem.control
        assert twin.answer != problem.answer
        assert control.answer == problem.answer
        for edit in (twin, control):
            (x0, y0, x1, y1) = edit.boxes[0]
            changed = _changed(problem.image, edit.image)
            assert changed.any()
            outside = changed.copy()
            outside[y0:y1, x0:x1] = False
            assert not outside.any()
        assert twin.boxes[0] == problem.steps[-1].boxes[0]
        assert control.boxes[0] not in [step.boxes[0] for step in problem.steps]
        said = f"a {problem.answer} " in problem.steps[-1].text
        assert said == config.states_evidence


def test_twin_and_control_change_as_many_pixels_on_a_crisp_picture():
    for problem in generate_arrows(40, ArrowsConfig(), seed=3):
        twin, control = (_changed(problem.image, e.image) for e in (problem.twin, problem.control))
        assert twin.sum() == control.sum() > 0


def test_same_seed_same_bytes_and_items_do_not_depend_on_how_many_are_made():
    config = ArrowsConfig(noise=120, prior=0.5)
    few, many = generate_arrows(3, config, seed=7), generate_arrows(9, config, seed=7)
    for a, b in zip(few, many, strict=False):
        assert (a.id, a.question, a.answer, a.steps) == (b.id, b.question, b.answer, b.steps)
        assert a.image.tobytes() == b.image.tobytes()
        assert a.twin.image.tobytes() == b.twin.image.tobytes()
    assert generate_arrows(1, config, seed=8)[0].image.tobytes() != few[0].image.tobytes()
    splits = {generate_arrows(1, config, seed=7, split=s)[0].question for s in ("train", "test")}
    assert len(splits) == 2


def test_noise_hides_but_the_twin_still_differs_only_by_its_edit():
    crisp, noisy = (
        generate_arrows(20, ArrowsConfig(noise=noise), seed=1)[5] for noise in (0.0, 240.0)
    )
    assert crisp.steps == noisy.steps and crisp.answer == noisy.answer
    assert _changed(crisp.image, noisy.image).mean() > 0.8


@pytest.mark.parametrize(("prior", "expected"), [(0.95, 0.95), (0.5, 0.5), (None, 1 / 6), (0, 0)])
def test_the_prior_knob_sets_how_often_the_habitual_answer_is_right(prior, expected):
    problems = generate_arrows(600, ArrowsConfig(prior=prior), seed=2, split="train")
    share = np.mean([problem.answer == problem.habitual for problem in problems])
    assert share == pytest.approx(expected, abs=0.06)
    assert all(problem.habitual == HABITS[problem.metadata["courier"]] for problem in problems)


def test_solve_reads_the_board():
    board = {
        (column, row): Cell("red", "star", "right" if row == 0 else "left")
        for column in range(3)
        for row in range(3)
    }
    board[2, 0] = Cell("blue", "circle", "down")
    assert walk(board, (0, 0), 2) == [(0, 0), (1, 0), (2, 0)]
    assert solve(board, (0, 0), 2) == "blue"
    assert solve(board, (0, 0), 1) == "red"
    assert [cell_name(cell) for cell in ((0, 0), (2, 1))] == ["a1", "c2"]


def test_questions_name_the_start_and_the_hops():
    problem = generate_arrows(1, ArrowsConfig(hops=1), seed=0)[0]
    assert "follows 1 arrow." in problem.question
    assert problem.steps[0].text.split()[0] in problem.question
    assert problem.candidates == tuple(COLOURS)


@pytest.mark.parametrize(
    ("knob", "value"),
    [("size", 1), ("size", 10), ("hops", 0), ("hops", 8), ("noise", -1.0), ("prior", 1.5)],
)
def test_knobs_out_of_range_are_refused(knob, value):
    with pytest.raises(ProblemError, match=r"choose|at least|between"):
        ArrowsConfig(**{knob: value})


def test_a_negative_number_of_problems_is_refused():
    with pytest.raises(ProblemError, match="0 or more"):
        generate_arrows(-1)


@pytest.mark.parametrize("hops", [1, 2])
def test_a_rationale_beside_the_point_has_the_same_form_and_another_end(hops):
    asked, told = (
        generate_arrows(20, ArrowsConfig(hops=hops, relevant=relevant), seed=4)
        for relevant in (True, False)
    )
    for problem in told:
        assert len(problem.steps) == len(asked[0].steps)
        assert problem.steps[-1].boxes != problem.twin.boxes
        assert not problem.steps[0].text.startswith(problem.question.split()[3])
        # Each sentence begins where the one before ended: it is a walk.
        ends = [step.text.rstrip(".").split()[-1] for step in problem.steps[:-1]]
        assert [step.text.split()[0] for step in problem.steps[1:]] == ends
        assert problem.twin.steps == problem.steps


def test_walks_can_be_made_to_end_in_one_cell():
    problems = generate_arrows(20, ArrowsConfig(hops=1, end=(1, 1)), seed=4)
    assert {problem.steps[-1].text for problem in problems} == {"b2 is the end."}
    assert len({problem.question.split()[3] for problem in problems}) > 1
    with pytest.raises(ProblemError, match="not on a 3x3 board"):
        ArrowsConfig(end=(3, 0))
