"""Edited pictures: what occlusion hides, that its control is matched, and who is left out."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import noise_image

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems import Problem, Step, data_coverage
from attcot_analysis.problems.controls import (
    control_rectangles,
    covered_area,
    evidence_rectangles,
    matched_control,
)
from attcot_analysis.problems.edits import EditOptions, edited_images, left_out
from attcot_analysis.problems.fills import GREY

SIZE = (64, 48)


def problem(name, *boxes, image=None, answer="red"):
    """One step per argument, each with its evidence boxes."""
    steps = tuple(Step("Look.", tuple(own)) for own in boxes)
    picture = noise_image(*SIZE, 1) if image is None else image
    return Problem(name, picture, "Which?", ("red", "blue"), answer, steps)


def pixels(image):
    return np.asarray(image).astype(int)


def covered(rectangles, size=SIZE):
    """Boolean picture of what rectangles cover, painted pixel by pixel."""
    canvas = np.zeros(size[::-1], dtype=bool)
    for x0, y0, x1, y1 in rectangles:
        canvas[y0:y1, x0:x1] = True
    return canvas


def changed(before, after):
    return (pixels(before) != pixels(after)).any(axis=-1)


def test_occlusion_fills_the_evidence_of_all_steps_and_nothing_else():
    item = problem("a", [(0, 0, 16, 16)], [(32, 16, 48, 32), (0, 0, 16, 16)])
    (one,) = edited_images([item], "occlude")
    hidden = covered([(0, 0, 16, 16), (32, 16, 48, 32)])
    assert one.boxes == ((0, 0, 16, 16), (32, 16, 48, 32))
    assert one.expected is None
    assert not changed(item.image, one.image)[~hidden].any()
    mean = pixels(item.image).mean(axis=(0, 1)).round()
    assert (pixels(one.image)[hidden] == mean).all()
    (grey,) = edited_images([item], "occlude", options=EditOptions(fill="grey"))
    assert (pixels(grey.image)[hidden] == GREY).all()


def test_occlusion_of_chosen_steps_leaves_the_others_evidence():
    items = [problem("a", [(0, 0, 16, 16)], [(32, 16, 48, 32)]), problem("b", [(0, 0, 8, 8)])]
    (one,) = edited_images(items, "occlude", options=EditOptions(steps=(2,)))
    assert one.at == 0 and one.boxes == ((32, 16, 48, 32),)
    (control,) = edited_images(items, "occlude_control", options=EditOptions(steps=(2,)))
    assert not (covered(control.boxes) & covered(evidence_rectangles(items[0]))).any()


def test_fractional_boxes_are_hidden_to_the_last_pixel():
    assert evidence_rectangles(problem("a", [(1.2, 2.9, 4.0, 5.1)])) == ((1, 2, 4, 6),)


boxes = st.tuples(st.integers(0, 50), st.integers(0, 40), st.integers(3, 20), st.integers(3, 16))


@settings(deadline=None, max_examples=60)
@given(st.lists(boxes, min_size=1, max_size=4), st.integers(0, 3))
def test_the_control_has_the_same_shapes_and_areas_and_hides_no_evidence(found, seed):
    inside = [(x, y, min(x + w, SIZE[0]), min(y + h, SIZE[1])) for x, y, w, h in found]
    item = problem("a", *[[box] for box in inside])
    evidence = evidence_rectangles(item)
    moved = control_rectangles(item, evidence, seed=seed)
    assume(moved is not None)
    shape = [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in evidence]
    assert [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in moved] == shape
    assert all(min(x0, y0) >= 0 and x1 <= SIZE[0] and y1 <= SIZE[1] for x0, y0, x1, y1 in moved)
    assert covered(moved).sum() == covered(evidence).sum()
    assert not (covered(moved) & covered(evidence)).any()
    assert moved == control_rectangles(item, evidence, seed=seed)


def test_a_tight_place_is_found():
    """Two cells of four are evidence: the other two are the only place, whatever the seed."""
    item = problem("a", [(0, 0, 32, 24)], [(32, 24, 64, 48)])
    for seed in range(5):
        (one,) = edited_images([item], "occlude_control", options=EditOptions(seed=seed))
        assert set(one.boxes) == {(32, 0, 64, 24), (0, 24, 32, 48)}


def test_other_seeds_find_other_places_and_the_answer_must_stay():
    item = problem("a", [(0, 0, 8, 8)])
    places = set()
    for seed in range(8):
        (one,) = edited_images([item], "occlude_control", options=EditOptions(seed=seed))
        assert one.expected == "red"
        places.add(one.boxes)
    assert len(places) > 3


def test_items_without_evidence_or_any_room_are_left_out_and_named():
    items = [problem("none", []), problem("full", [(0, 0, 62, 48)]), problem("ok", [(0, 0, 9, 9)])]
    kinds = ("occlude", "occlude_control", "blank")
    edited = [one for kind in kinds for one in edited_images(items, kind)]
    assert [one.at for one in edited if one.kind == "occlude"] == [1, 2]
    assert [one.at for one in edited if one.kind == "occlude_control"] == [2]
    assert left_out(items, edited, kinds) == {
        "occlude": ["none"],
        "occlude_control": ["none", "full"],
    }
    with pytest.raises(MeasureError, match="No item allows the edit 'occlude_control'"):
        edited_images(items[:2], "occlude_control")
    assert edited_images(items, "occlude_control", only=[0]) == []


def test_without_room_for_as_much_the_control_is_the_largest_smaller_one():
    """Free are 24 columns beside evidence 40 wide and as high: 24/40 of each side fit."""
    item = problem("a", [(0, 0, 40, 48)])
    hidden = evidence_rectangles(item)
    control = matched_control(item, hidden)
    ((x0, y0, x1, y1),) = control.boxes
    assert control.form == "smaller"
    assert (x1 - x0) / (y1 - y0) == pytest.approx(40 / 48, abs=0.03)
    assert control.share == pytest.approx((24 / 40) ** 2, abs=0.05)
    assert control.share == covered(control.boxes).sum() / covered(hidden).sum()
    assert not (covered(control.boxes) & covered(hidden)).any()
    (one,) = edited_images([item], "occlude_control")
    assert one.expected == "red" and f"{control.share:.0%} of the evidence" in one.change
    assert one.area == pytest.approx(covered(control.boxes).mean())


def test_where_only_a_frame_is_free_the_control_is_strips():
    item = problem("a", [(6, 6, 58, 42)])
    control = matched_control(item, evidence_rectangles(item))
    free = ~covered([(6, 6, 58, 42)])
    assert control.form == "strips"
    assert (covered(control.boxes) == free).all()
    assert control.share == free.sum() / (52 * 36)


@settings(deadline=None, max_examples=60)
@given(st.lists(boxes, min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 3))
def test_whatever_the_evidence_a_control_hides_none_of_it_and_no_more_area(found, grow, seed):
    inside = [
        (x, y, min(x + w * grow, SIZE[0]), min(y + h * grow, SIZE[1])) for x, y, w, h in found
    ]
    item = problem("a", *[[box] for box in inside])
    hidden = evidence_rectangles(item)
    control = matched_control(item, hidden, seed=seed)
    free = ~covered(hidden)
    assert covered_area(hidden) == covered(hidden).sum()
    assume(control is not None)
    assert (covered(control.boxes) <= free).all()
    assert control.share == pytest.approx(covered(control.boxes).sum() / (~free).sum())
    assert control.share <= 1.02
    assert (control.form == "same") == (control_rectangles(item, hidden, seed=seed) is not None)
    assert control == matched_control(item, hidden, seed=seed)


def test_a_set_says_what_its_evidence_is_held_against():
    items = [
        problem("small", [(0, 0, 9, 9)]),
        problem("large", [(0, 0, 40, 48)]),
        problem("full", [(0, 0, 64, 48)]),
        problem("none", []),
    ]
    (said,) = (one for one in data_coverage(items).warnings if "held against" in one)
    assert "1 of 3 with as much of the rest (evidence is 3% of the picture, median)" in said
    assert "1 of 3 with a smaller region of the same shape (evidence is 62%" in said
    assert "1 of 3 with nothing, for lack of room, so that they leave the net" in said
    assert not any("held against" in one for one in data_coverage(items[:1]).warnings)


def test_blur_takes_details_and_keeps_colours():
    image = Image.new("RGB", SIZE, (200, 40, 40))
    image.paste(noise_image(32, 48, 2), (32, 0))
    (one,) = edited_images([problem("a", image=image)], "blur")
    before, after = pixels(image), pixels(one.image)
    assert after[:, 48:].std() < before[:, 48:].std() / 4
    assert np.abs(after[:, :8] - before[:, :8]).max() < 12
    assert np.abs(after.mean(axis=(0, 1)) - before.mean(axis=(0, 1))).max() < 4
    (more,) = edited_images([problem("a", image=image)], "blur", options=EditOptions(blur=0.5))
    assert pixels(more.image).std() < after.std()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"blur": 0.0}, "Blur is"), ({"steps": (0,)}, "Steps"), ({"fill": "black"}, "Fill is")],
)
def test_bad_options_are_one_sentence(options, message):
    with pytest.raises(MeasureError, match=message):
        EditOptions(**options)
