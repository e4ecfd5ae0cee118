"""Maps of a response: they add up to the visual mass, on the right rows, in the right step."""

import numpy as np
import pytest

from attcot_analysis.errors import LayoutError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.problems import render_response
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows


@pytest.fixture(scope="module")
def problem():
    return generate_arrows(1, ArrowsConfig(), seed=4)[0]


def test_step_maps_sum_to_the_mass_that_visual_access_reports(random_mllm, problem):
    response = render_response(problem.steps, problem.answer)
    maps = response_maps(random_mllm, problem, response)
    access = visual_access(random_mllm, [problem], [response]).table
    expected = access.groupby("step")["mass"].mean().to_numpy()
    np.testing.assert_allclose(maps.step_maps().sum(axis=(1, 2)), expected, rtol=1e-4)
    assert maps.step_maps([0]).shape == (len(problem.steps), *maps.grid.shape)


def test_tokens_steps_and_boxes_belong_together(random_mllm, problem):
    maps = response_maps(random_mllm, problem, render_response(problem.steps, problem.answer))
    assert "".join(maps.tokens) == render_response(problem.steps, problem.answer)
    assert len(maps.tokens) == len(maps.steps) == len(maps.boxes) == maps.weights.shape[2]
    for number, boxes in zip(maps.steps, maps.boxes, strict=True):
        assert boxes == (problem.steps[number - 1].boxes if number else ())
    assert sorted(set(maps.steps)) == [0, 1, 2, 3]
    assert "".join(maps.tokens[maps.answer :]).startswith(problem.answer)


def test_the_answer_has_a_map_of_its_own(random_mllm, problem):
    maps = response_maps(random_mllm, problem, render_response(problem.steps, problem.answer))
    expected = maps.weights[1, :, maps.answer].mean(axis=0)
    np.testing.assert_allclose(maps.answer_map([1]).ravel(), expected, rtol=1e-6)
    assert maps.answer_map().shape == maps.grid.shape


def test_a_response_without_an_answer_has_no_answer_map(random_mllm, problem):
    maps = response_maps(random_mllm, problem, "<think>\n1. a1 is red.\n")
    assert maps.answer is None
    with pytest.raises(LayoutError, match="states no answer"):
        maps.answer_map()


def test_a_response_without_steps_has_maps_of_its_tokens_and_an_empty_one_none(
    random_mllm, problem
):
    maps = response_maps(random_mllm, problem, "<answer>red</answer>")
    assert maps.n_steps == 0 and len(maps.tokens) == maps.weights.shape[2] > 0
    with pytest.raises(LayoutError, match="a response that is not empty"):
        response_maps(random_mllm, problem, "")
