"""Maps of pictures that are cut into tiles: drawn as one map, read from the tokens."""

import numpy as np
import pytest
from families import shared_family
from PIL import Image

from attcot_analysis.measures.maps import ResponseMaps, response_maps
from attcot_analysis.models import TokenGrid
from attcot_analysis.problems import Problem, Step, render_response
from attcot_analysis.show.explorer.planes import (
    plane_cells,
    plane_readings,
    plane_weights,
    with_steps,
)
from attcot_analysis.show.explorer.record import ExplorerModel, ExplorerRecord, PlaneKey
from attcot_analysis.show.heatmaps import before_after

TILED = ("llava_next", "internvl", "smolvlm")


@pytest.fixture
def overview_and_half():
    """A 2 x 2 overview, and the left half of the picture again as 2 x 1 tokens."""
    whole = TokenGrid.regular((80, 80), 2, 2).boxes
    half = np.array([[0, 0, 40, 40], [0, 40, 40, 80]], dtype=float)
    views = (np.array([[0, 1], [2, 3]]), np.array([[4], [5]]))
    return TokenGrid((80, 80), np.concatenate([whole, half]), None, views)


def test_views_are_painted_over_each_other_and_read_once(overview_and_half):
    weights = np.array([0.1, 0.2, 0.0, 0.0, 0.3, 0.05], dtype=np.float32)
    image = Image.new("RGB", (80, 80))
    box = (0.0, 0.0, 40.0, 40.0)
    problem = Problem("tiled", image, "What color?", ("red", "blue"), "red")
    maps = ResponseMaps(
        weights[None, None, None], overview_and_half, ("red",), (0,), ((box,),), None
    )
    record = ExplorerRecord(problem, (ExplorerModel("model", (maps,)),))
    key = PlaneKey("attention", 0)
    (drawn,) = plane_cells(record, plane_weights(record, key))
    assert record.shape == (2, 2)
    assert np.allclose(drawn, [[0.4, 0.2], [0.05, 0.0]])
    (reading,) = plane_readings(record, [key], 0)
    assert reading.mass == pytest.approx(0.65) and reading.peak == pytest.approx(0.4)
    assert reading.patch == (0, 0)
    assert reading.evidence == pytest.approx(0.4 / 0.65)


@pytest.mark.parametrize("name", TILED)
def test_families_that_cut_pictures_into_tiles_are_drawn(name):
    mllm = shared_family(name)
    colors = np.random.default_rng(0).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    problem = Problem(
        id="tiled",
        image=Image.fromarray(colors),
        question="What color?",
        candidates=("red", "blue"),
        answer="red",
        steps=(Step("Look left.", ((0.0, 0.0, 48.0, 48.0),)), Step("It is red.")),
    )
    found = response_maps(mllm, problem, render_response(problem.steps, "red"))
    assert found.grid.shape is None, "the picture was to be cut"
    steps = found.step_maps()
    assert np.allclose(steps.sum((1, 2)), found.step_weights().sum(-1), rtol=0.3)
    record = ExplorerRecord(problem, (ExplorerModel(name, (found,)),))
    drawn = plane_cells(record, with_steps(record, plane_weights(record, PlaneKey("attention", 0))))
    assert drawn.shape[1:] == record.shape
    assert np.allclose(drawn[len(found.tokens)], steps[0], rtol=1e-4)
    figure = before_after(
        problem.image, list(steps), list(steps[::-1]), ["1. look", "2. red"], boxes=None
    )
    assert len(figure.axes) >= 6
