"""Figures of the region reward: what is covered, what counts, and the closed form."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PatchCollection

from attcot_analysis.errors import ShowError
from attcot_analysis.models import TokenGrid
from attcot_analysis.show.pictures import region_picture
from attcot_lab.figures import entropy_strip, reward_curve


def test_every_image_token_is_shaded_by_how_far_boxes_cover_it(problem):
    width, height = problem.image.size
    grid = TokenGrid.regular(problem.image.size, 2, 4)
    # The left half of the first token, all of the last, and the same again in another step.
    first = (0, 0, width // 8, height // 2)
    last = (3 * width // 4, height // 2, width, height)
    picture, tokens = region_picture(problem.image, grid, [[first], [last], np.array([last])]).axes
    (cells,) = (one for one in tokens.collections if isinstance(one, PatchCollection))
    alphas = cells.get_facecolor()[:, 3]
    assert alphas / alphas.max() == pytest.approx([0.5, 0, 0, 0, 0, 0, 0, 1])
    corners = [path.get_extents().get_points().ravel() for path in cells.get_paths()]
    assert np.allclose(corners, grid.boxes)
    assert [text.get_text() for text in tokens.texts] == ["0.5", "1"]
    assert [text.get_position() for text in tokens.texts][1] == pytest.approx(
        (7 * width / 8, 3 * height / 4)
    )
    assert [text.get_text() for text in picture.texts] == ["1", "2", "3"]


def test_a_grid_of_another_picture_is_refused(problem):
    grid = TokenGrid.regular((10, 10), 2, 2)
    with pytest.raises(ShowError, match=r"of \(10, 10\) pixels"):
        region_picture(problem.image, grid, [[(0, 0, 4, 4)]])


def test_stems_are_filled_where_a_token_counts():
    figure = entropy_strip(["\n", " up", "."], [0.5, 0.25, 0.0], [True, False, False], title="t")
    (ax,) = figure.axes
    counts, others = ax.lines
    assert list(zip(*counts.get_data(), strict=True)) == [(0, 0.5)]
    assert list(zip(*others.get_data(), strict=True)) == [(1, 0.25), (2, 0.0)]
    assert counts.get_markerfacecolor() != others.get_markerfacecolor()
    assert [line.get_label() for line in (counts, others)] == [
        "counts (1 of 3)",
        "does not (2 of 3)",
    ]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["↵", "up", "."]


@pytest.mark.parametrize(
    ("entropy", "counted"), [([0.1], [True, False]), ([0.1, 0.2], [True]), ([], [])]
)
def test_tokens_without_entropy_or_mark_are_refused(entropy, counted):
    with pytest.raises(ShowError, match="give one of each per token"):
        entropy_strip(["a", "b"] if entropy else [], entropy, counted)


def test_the_curve_is_tanh_of_the_logarithm_and_holds_every_point():
    points = pd.DataFrame(
        {"model": ["base", "base", "sayo"], "ratio": [0.1, 2.0, 8.0], "reward": [-0.98, 0.6, 0.97]}
    )
    (ax,) = reward_curve(points).axes
    curve = next(line for line in ax.lines if line.get_label() == "closed form")
    x, y = curve.get_data()
    assert np.allclose(y, np.tanh(np.log(x)))
    assert x[0] <= 0.1 and x[-1] >= 8
    drawn = {line.get_label(): line.get_data() for line in ax.lines}
    assert np.array_equal(drawn["Base (2 responses)"], ([0.1, 2.0], [-0.98, 0.6]))
    assert np.array_equal(drawn["SAYO (1 responses)"], ([8.0], [0.97]))


def test_responses_without_a_ratio_are_refused():
    points = pd.DataFrame({"model": ["base"], "ratio": [float("nan")], "reward": [0.0]})
    with pytest.raises(ShowError, match="leave out"):
        reward_curve(points)
    with pytest.raises(ShowError, match="lacks "):
        reward_curve(points.drop(columns="reward"))
