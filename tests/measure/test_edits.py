"""Edited pictures: what occlusion hides, that its control is matched, and who is left out."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import noise_image

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems import Problem, Step
from attcot_analysis.problems.edits import (
    GREY,
    EditOptions,
    control_rectangles,
    edited_images,
    evidence_rectangles,
    left_out,
)

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


def test_items_without_evidence_or_room_are_left_out_and_named():
    items = [problem("none", []), problem("full", [(0, 0, 48, 48)]), problem("ok", [(0, 0, 9, 9)])]
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
