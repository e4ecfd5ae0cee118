"""One record for every source, drawn by the same functions and compared in one table."""

import math
from typing import get_args

import numpy as np
import pytest
from tiny import noise_image

from attcot_analysis.errors import LayoutError, MeasureError
from attcot_analysis.measures.maps import QUANTITIES, ResponseMaps, Source
from attcot_analysis.measures.relevance import (
    Relevance,
    compare_maps,
    relevance,
    relevance_maps,
)
from attcot_analysis.models import TokenGrid
from attcot_analysis.problems import Problem, Step
from attcot_analysis.show.explorer.page import explorer_page
from attcot_analysis.show.explorer.record import ExplorerModel, ExplorerRecord
from attcot_analysis.show.heatmaps import before_after, heatmap_row

RESPONSE = (
    "<think>\n1. The star is in cell a1.\n2. Cell b1 holds a red circle.\n</think>\n"
    "<answer>red</answer>"
)
OPTIONS = {
    "shapley": {"n_samples": 2, "regions": (2, 2)},
    "integrated_gradients": {"n_steps": 4, "tolerance": math.inf},
    "occlusion": {"regions": (2, 2)},
}


@pytest.fixture(scope="module")
def problem():
    steps = (Step("One.", ((0, 0, 32, 32),)), Step("Two.", ((32, 0, 64, 32),)))
    return Problem("p", noise_image(64, 64, 1), "What color?", ("red", "blue"), "red", steps)


@pytest.fixture(scope="module")
def every(random_mllm, problem):
    return {
        source: relevance_maps(
            random_mllm, problem, RESPONSE, source=source, **OPTIONS.get(source, {})
        )
        for source in get_args(Source)
    }


def test_every_source_ends_in_the_same_record(every):
    assert set(every) == set(QUANTITIES) == set(get_args(Source))
    for source, maps in every.items():
        assert maps.source == source and maps.quantity == QUANTITIES[source]
        assert maps.weights.dtype == np.float32 and np.isfinite(maps.weights).all()
        assert maps.weights.shape[2:] == (len(maps.tokens), len(maps.grid))
        assert len(maps.tokens) == len(maps.steps) == len(maps.boxes)
        assert maps.step_maps().shape == (2, 4, 4) and maps.answer_map().shape == (4, 4)
        assert maps.weights.shape[:2] == ((3, 4) if source == "attention" else (1, 1))


@pytest.mark.parametrize("source", ["rollout", "occlusion"])
def test_other_sources_are_drawn_by_the_same_functions(every, problem, source):
    attention, maps = every["attention"].shares(), every[source]
    labels = [step.text for step in problem.steps]
    shared = maps.shares()
    heatmap_row(problem.image, maps.step_maps(), labels, quantity=maps.quantity)
    before_after(problem.image, attention.step_maps(), shared.step_maps(), labels)
    record = ExplorerRecord(problem, (ExplorerModel("model", (maps,)),))
    assert record.sources == (source,) and not record.layered(source)
    assert maps.quantity in explorer_page(record)


def test_shares_are_positive_and_sum_to_one(every):
    for maps in every.values():
        shared = maps.shares()
        assert shared.weights.shape == (1, 1, *maps.weights.shape[2:]) and shared.weights.min() >= 0
        totals, any_positive = shared.weights.sum(-1), (maps.weights.mean((0, 1)) > 0).any(-1)
        np.testing.assert_allclose(totals[0, 0], any_positive, atol=1e-5)
        assert (shared.source, shared.tokens, shared.steps) == (
            maps.source,
            maps.tokens,
            maps.steps,
        )


def planted(rows, source="attention", answer=None, steps=(1, 2)):
    """Maps of a 2 x 2 grid over 64 x 64 pixels, one row per step and perhaps the answer."""
    weights = np.asarray(rows, dtype=np.float32)[None, None]
    n = weights.shape[2]
    numbers = (*steps, *[0] * (n - len(steps)))
    grid = TokenGrid.regular((64, 64), 2, 2)
    return ResponseMaps(weights, grid, ("x",) * n, numbers, ((),) * n, answer, source)


def test_relevance_on_the_evidence_is_told_from_relevance_elsewhere(problem):
    right = planted([[1, 0, 0, 0], [0, 2, 0, 0], [1, 1, 0, 0]], answer=2)
    wrong = planted([[0, 0, 1, 1], [0, 0, 0, 3], [0, 0, 0, 1]], "rollout", answer=2)
    table = compare_maps(problem, [right, wrong])
    assert tuple(table.columns) == Relevance.columns
    assert table["step"].tolist() == [0, 1, 2, 0, 1, 2]
    assert table["evidence_share"].tolist() == [1, 1, 1, 0, 0, 0]
    assert table["peak_on_evidence"].tolist() == [True] * 3 + [False] * 3
    assert table["evidence_area"].tolist() == [0.5, 0.25, 0.25] * 2
    assert table["spearman"][:3].tolist() == [1, 1, 1] and (table["spearman"][3:] < 0).all()


def test_a_map_without_preference_has_the_share_of_the_area_and_no_rank(problem):
    table = compare_maps(problem, [planted(np.ones((2, 4)))])
    assert table["evidence_share"].tolist() == table["evidence_area"].tolist() == [0.25, 0.25]
    assert table["spearman"].isna().all() and table["step"].tolist() == [1, 2]


def test_negative_weights_are_no_relevance_but_have_a_rank(problem):
    first = planted([[4, 3, 2, 1]] * 2)
    table = compare_maps(
        problem, [first, planted([[2, -1, -2, -6], [-1, -2, -3, -4]], "occlusion")]
    )
    found = table[table["source"] == "occlusion"]
    assert found["evidence_share"].iloc[0] == 1 and np.isnan(found["evidence_share"].iloc[1])
    assert found["spearman"].tolist() == pytest.approx([1, 1])


def test_steps_without_boxes_have_no_share(problem):
    bare = Problem("b", problem.image, "Q?", ("a", "b"), "a", (Step("One."),))
    table = compare_maps(bare, [planted([[1, 0, 0, 0], [0, 1, 0, 0]])])
    assert table["evidence_share"].isna().all() and table["peak_on_evidence"].isna().all()


def test_maps_of_different_responses_are_refused(problem):
    with pytest.raises(MeasureError, match="do not belong to one response"):
        compare_maps(problem, [planted(np.ones((2, 4))), planted(np.ones((1, 4)), steps=(1,))])
    with pytest.raises(MeasureError, match="do not belong to one response"):
        compare_maps(problem, [])


def test_the_table_holds_what_the_maps_say(random_mllm, problem, every):
    sources = ("attention", "rollout", "occlusion")
    table = relevance(
        random_mllm,
        [problem],
        [RESPONSE],
        sources=sources,
        options={"occlusion": OPTIONS["occlusion"]},
    ).table
    expected = compare_maps(problem, [every[source] for source in sources])
    assert table.equals(expected) and len(table) == 9


def test_what_cannot_be_compared_is_refused(random_mllm, problem):
    with pytest.raises(MeasureError, match="Source 'saliency' is unknown"):
        relevance_maps(random_mllm, problem, RESPONSE, source="saliency")
    with pytest.raises(MeasureError, match="1 problems, 0 responses"):
        relevance(random_mllm, [problem], [])


def test_maps_without_steps_have_no_step_maps(random_mllm, problem):
    maps = relevance_maps(random_mllm, problem, RESPONSE, source="rollout", targets="answer")
    assert maps.tokens == ("red",) and maps.n_steps == 0
    assert maps.answer_map().shape == (4, 4)
    with pytest.raises(LayoutError, match="belongs to a step"):
        maps.step_maps()
    assert compare_maps(problem, [maps])["step"].tolist() == [0]
