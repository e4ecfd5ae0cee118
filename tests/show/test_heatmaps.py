import numpy as np
import pytest
from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.show.heatmaps import backdrop, before_after, colorize, heatmap_row, overlay

LABELS = ["step 1", "step 2", "step 3"]


def panels(figure):
    return [ax for ax in figure.axes if (ax.get_gid() or "").startswith("map")]


def bars(figure):
    return [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]


@pytest.fixture
def steps(maps):
    return maps[0, 0, :3].reshape(-1, 6, 6), maps[1, 2, :3].reshape(-1, 6, 6)


def test_before_and_after_share_one_scale_and_differences_are_centred(problem, steps):
    before, after = steps
    boxes = [step.boxes for step in problem.steps]
    figure = before_after(
        problem.image, before, after, LABELS, names=("CoT-SFT", "Att-CoT"), boxes=boxes
    )
    scales = [ax.get_gid() for ax in panels(figure)]
    top = max(before.max(), after.max())
    limit = np.abs(after.astype(float) - before).max()
    assert scales[:6] == [f"map {0:.6g} to {top:.6g}"] * 6
    assert scales[6:] == [f"map {-limit:.6g} to {limit:.6g}"] * 3
    shared, signed = bars(figure)
    assert shared.get_ylim() == pytest.approx((0, top))
    assert signed.get_ylim() == pytest.approx((-limit, limit))
    assert f"one scale for both rows, 0 to {top:.2g}" in figure.get_supxlabel()
    assert "evidence" in figure.get_supxlabel()


def test_equal_maps_give_blank_differences(problem, steps):
    figure = before_after(problem.image, steps[0], steps[0], LABELS, opacity=1.0)
    last = np.asarray(panels(figure)[-1].images[0].get_array())
    assert (last == last[..., :1]).all(), "grey: no colour of the map"


def test_the_sign_of_a_difference_is_seen(problem):
    before, after = np.zeros((2, 2)), np.array([[1.0, 0.0], [0.0, 0.0]])
    shown = panels(before_after(problem.image, [before], [after], ["one"], opacity=1.0))[2]
    pixels = np.asarray(shown.images[0].get_array())
    up, rest = pixels[0, 0].astype(int), pixels[-1, -1].astype(int)
    assert up[0] > up[2] + 50, "more is orange"
    assert rest.min() > 200, "no change is near white"


def test_a_row_holds_the_picture_and_one_scale(problem, steps):
    figure = heatmap_row(problem.image, steps[0], LABELS, high=0.5)
    assert {ax.get_gid() for ax in panels(figure)} == {"map 0 to 0.5"}
    assert [ax.get_title(loc="left") for ax in figure.axes[:4]] == ["picture", *LABELS]
    many = heatmap_row(problem.image, [steps[0][0]] * 11, [f"token {i}" for i in range(11)])
    assert len(panels(many)) == 11


def test_long_labels_are_broken_and_arms_get_their_label(problem, steps):
    long = "3. c2 holds a star whose colour is read from the picture and not from the question"
    figure = before_after(problem.image, *steps, [long, "x", "y"], names=("cot_sft", "att_cot"))
    lines = figure.axes[0].get_title(loc="left").split("\n")
    assert len(lines) == 3 and max(map(len, lines)) <= 22 and lines[-1].endswith("…")
    assert [figure.axes[i].get_ylabel() for i in (0, 3)] == ["CoT-SFT", "Att-CoT"]


def test_evidence_boxes_are_drawn_where_they_lie(problem):
    plain = overlay(problem.image, np.zeros((6, 6)), side=96)
    boxed = overlay(problem.image, np.zeros((6, 6)), boxes=[(64, 32, 96, 64)], side=96)
    changed = (np.asarray(plain) != np.asarray(boxed)).any(-1)
    rows, cols = np.nonzero(changed)
    assert (cols.min(), cols.max() + 1, rows.min(), rows.max() + 1) == (64, 96, 32, 64)
    assert not changed[40:56, 72:88].any(), "only the outline"


def test_overlay_puts_each_token_over_its_pixels():
    image = Image.new("RGB", (80, 40), (128, 128, 128))
    values = np.zeros((2, 4))
    values[1, 2] = 1.0
    painted = np.asarray(overlay(image, values, opacity=1.0, side=80)).astype(int)
    assert painted.shape == (40, 80, 3)
    darkest = painted.sum(-1) == painted.sum(-1).min()
    rows, cols = np.nonzero(darkest)
    assert (cols.min(), cols.max(), rows.min(), rows.max()) == (40, 59, 20, 39)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_weight_shows_on_any_picture_and_zero_leaves_it_as_it_is(level):
    picture = Image.new("RGB", (8, 8), (level,) * 3)
    shown = np.asarray(overlay(picture, np.array([[0.0, 0.5], [0.75, 1.0]]), side=8)).astype(int)
    none, half, more, most = (shown[at] for at in ((0, 0), (0, 7), (7, 0), (7, 7)))
    assert (none == np.asarray(backdrop(picture, 8))[0, 0]).all()
    coloured = [np.ptp(one) for one in (none, half, more, most)]
    assert coloured[0] == 0 and coloured == sorted(coloured) and coloured[-1] > 60
    assert np.abs(most - none).max() > 60


def test_opacity_zero_shows_the_picture_in_grey(problem):
    shown = overlay(problem.image, np.ones((6, 6)), opacity=0.0, side=96)
    assert shown.tobytes() == backdrop(problem.image, 96).tobytes()


def test_a_flat_map_and_values_outside_the_scale_are_drawn():
    assert colorize(np.zeros((1, 1)), 0.0, 0.0).shape == (1, 1, 3)
    low, high = colorize(np.array([[-5.0, 5.0]]), 0.0, 1.0)[0]
    ends = colorize(np.array([[0.0, 1.0]]), 0.0, 1.0)[0]
    assert (low == ends[0]).all() and (high == ends[1]).all()


@pytest.mark.parametrize(
    ("before", "after", "labels", "message"),
    [
        ([], [], [], "no maps"),
        ([np.zeros((2, 2))], [np.zeros((2, 3))], ["a"], "same token grid"),
        ([np.zeros((2, 2))], [np.zeros((2, 2))], ["a", "b"], "one of each per map"),
        ([np.zeros(4)], [np.zeros(4)], ["a"], r"expected \(rows, cols\)"),
        ([np.full((2, 2), np.nan)], [np.zeros((2, 2))], ["a"], "NaN"),
        ([np.zeros((2, 2)), np.zeros((3, 3))], [np.zeros((2, 2))] * 2, ["a", "b"], "others have"),
    ],
)
def test_what_does_not_fit_is_refused(problem, before, after, labels, message):
    with pytest.raises(ShowError, match=message):
        before_after(problem.image, before, after, labels)


def test_opacity_outside_its_range_is_refused(problem):
    with pytest.raises(ShowError, match="from 0 to 1"):
        overlay(problem.image, np.zeros((2, 2)), opacity=1.5)
