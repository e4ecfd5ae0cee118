"""Figures of problems: every picture with its answer, every box where it belongs."""

from dataclasses import replace

import pytest
from matplotlib.patches import Rectangle

from attcot_analysis.errors import ShowError
from attcot_analysis.show.pictures import problem_pictures


def boxes(ax):
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_a_problem_is_drawn_with_evidence_twin_and_control(problem):
    figure = problem_pictures(problem)
    picture, twin, control = figure.axes
    assert picture.get_title("left") == f"picture: {problem.answer}"
    assert twin.get_title("left") == f"twin: {problem.twin.answer}"
    assert control.get_title("left") == f"control: {problem.control.answer}"
    assert [text.get_text() for text in picture.texts] == ["1", "2", "3"]
    assert len(boxes(picture)) == 3
    for drawn, step in zip(boxes(picture), problem.steps, strict=True):
        x0, y0, x1, y1 = step.boxes[0]
        assert (drawn.get_x(), drawn.get_y()) == pytest.approx((x0, y0), abs=1)
        assert (drawn.get_width(), drawn.get_height()) == pytest.approx((x1 - x0, y1 - y0), abs=2)
        assert drawn.get_linestyle() == "-"
    assert [len(boxes(ax)) for ax in (twin, control)] == [1, 1]
    assert boxes(twin)[0].get_linestyle() != "-"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_every_picture_of_a_problem_has_a_row_with_its_own_boxes_and_edits(problem):
    several = replace(problem, more_images=(problem.image.resize((30, 20)),))
    first, second = (
        ax for ax in problem_pictures(several).axes if ax.get_title("left")[:3] == "pic"
    )
    assert len(boxes(first)) == len(problem.steps) and not boxes(second)


def test_problems_stand_in_rows_and_missing_edits_leave_no_panel(problem):
    bare = replace(problem, twin=None, control=None)
    assert len(problem_pictures(bare).axes) == 1
    shown = [ax.get_visible() for ax in problem_pictures([problem, bare]).axes]
    assert shown == [True, True, True, True, False, False]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ShowError, match="at least one"):
        problem_pictures([])
