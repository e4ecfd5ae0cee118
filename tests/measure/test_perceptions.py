"""Perceptions: statements of steps held against known scenes, and boxes that models write."""

import json
from dataclasses import replace

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from dataset_files import clevr
from tiny import noise_image

from attcot_analysis.errors import MeasureError, ProblemError
from attcot_analysis.measures.compare import item_values
from attcot_analysis.measures.statements import Perceptions, perceptions, scene_truth
from attcot_analysis.problems import Problem, Step
from attcot_analysis.problems.data import read_data
from attcot_analysis.problems.written_boxes import iou, written_boxes
from attcot_lab import generate_problems
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows
from attcot_lab.testbed.truth import board_truth, words_truth

OBJECTS = (
    ("red", "cube", "large", "metal"),
    ("red", "sphere", "small", "rubber"),
    ("cyan", "sphere", "small", "metal"),
)
SCENE = [dict(zip(("color", "shape", "size", "material"), one, strict=True)) for one in OBJECTS]


def item(name="q", steps=(), **metadata):
    image = noise_image(100, 50, 0)
    return Problem(name, image, "What?", ("yes", "no"), "yes", steps, metadata=metadata)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is a large red metal cube.", [True]),
        ("The big shiny block is in front of a small matte ball.", [True, True]),
        ("A blue cube stands behind the red cylinder.", [False, False]),
        ("Two spheres and three cubes.", [True, False]),
        ("I see 2 small balls, one red thing and no cylinders.", [True, False, True]),
        ("It is not a red cube.", [None]),
        ("If there were a blue cube, the object would be hidden.", [None, None]),
        ("So the answer is yes.", []),
        ("There isn't a blue cube, and there are no other red cubes.", [None, None]),
        ("There are zero blue cubes, and I see eight red cubes.", [True, False]),
        ("At least one sphere; more than one red thing; is there any blue cube?", [None] * 3),
    ],
)
def test_statements_on_a_scene_by_hand(text, expected):
    assert scene_truth(item(scene=json.dumps(SCENE)), text) == expected


def test_clevr_keeps_its_scene(tmp_path):
    problem = next(iter(read_data(clevr(tmp_path), "clevr")))
    objects = json.loads(problem.metadata["scene"])
    assert all(set(one) == {"color", "shape", "size", "material"} for one in objects)
    for one in objects:
        right = f"There is a {one['size']} {one['color']} {one['material']} {one['shape']}."
        assert scene_truth(problem, right) == [True]
    with pytest.raises(MeasureError, match="Item q has no scene in its metadata; give truth="):
        scene_truth(item(), "A cube.")


@pytest.mark.parametrize(
    ("kind", "knobs"),
    [
        ("relation", {"by": "line"}),
        ("relation", {"by": "cell"}),
        ("walk", {}),
        ("bars", {"bars": 3}),
    ],
)
def test_right_rationales_are_true_and_those_of_the_twin_are_not(kind, knobs):
    """Planted: a rationale read off another picture, and one off the right one."""
    problems = generate_problems(kind, 20, seed=0, **knobs)
    own = perceptions(problems, [[s.text for s in p.steps] for p in problems], truth=words_truth)
    other = perceptions(
        problems, [[s.text for s in p.twin.steps] for p in problems], truth=words_truth
    )
    assert own.items()["false"].max() == 0 and own.items()["checked"].min() >= 2
    assert (other.items()["false"] > 0).all()
    assert other.items()["first_false"].between(0.3, 1).all()
    values = item_values(model="m", seed=0, results=[other])
    assert set(values["metric"]) == {"false_perceptions", "first_false"}
    bare = replace(problems[0], metadata={})
    with pytest.raises(ProblemError, match="has no words in its metadata"):
        words_truth(bare, "The star is in a1.")


def test_steps_are_counted_and_what_cannot_be_checked_is_said_first():
    steps = (Step("A red cube.", ((0.0, 0.0, 50.0, 50.0),)), Step("Then."))
    problem = item(steps=steps, scene=json.dumps(SCENE))
    texts = [
        'A red cube [{"bbox_2d": [0, 0, 50, 25]}] and a blue cube, {"bbox_2d": [0, 0, 500, 25]}.',
        "The object is not a red cube.",
    ]
    result = perceptions([problem, item("bare")], [texts, []], unit="pixels")
    first, second = result.table.to_dict("records")
    assert (first["n_true"], first["n_false"], first["n_unchecked"]) == (1, 1, 0)
    assert (first["iou"], first["n_unread_boxes"]) == (0.5, 1)
    assert second["n_true"] == second["n_false"] == 0 and np.isnan(second["iou"])
    said = result.describe()
    assert said.startswith(
        "1 item left out (no rationale step): bare. 2 of 4 statements could not be checked. 1 boxes"
    )
    assert "overlap of written boxes with the evidence 0.5" in said
    curve = result.curve()
    assert curve["k"].tolist() == [1] and curve["value"].tolist() == [0.5]
    assert isinstance(result.figure(), matplotlib.figure.Figure)
    with pytest.raises(MeasureError, match="holds a step twice"):
        Perceptions(pd.concat([result.table, result.table]))
    with pytest.raises(MeasureError, match="Got 1 problems and 2 rationales"):
        perceptions([problem], [texts, texts])
    with pytest.raises(MeasureError, match="No statement could be checked"):
        perceptions([problem], [texts[1:]]).curve()


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ('```json\n[{"bbox_2d": [10, 5, 60, 45], "label": "cube"}]\n```', {}, [(10, 5, 60, 45)]),
        ('{"bbox_2d": [20, 10, 120, 90]}', {"seen": (200, 100)}, [(10, 5, 60, 45)]),
        ('{"bbox_2d": [100, 100, 600, 900]}', {}, [(10, 5, 60, 45)]),
        ('{"bbox_2d": [10, 10, 60, 90]}', {"unit": "thousand"}, [(1, 0.5, 6, 4.5)]),
        ("<ref>cube</ref><box>[[100, 100, 600, 900]]</box>", {}, [(10, 5, 60, 45)]),
        (
            "<box>[[0, 0, 500, 500], [500, 500, 1000, 1000]]</box>",
            {},
            [(0, 0, 50, 25), (50, 25, 100, 50)],
        ),
        ("<|box_start|>(100,100),(600,900)<|box_end|>", {}, [(10, 5, 60, 45)]),
        ("The array [1, 2, 3, 4] is no box.", {}, []),
    ],
)
def test_boxes_of_every_form_are_the_same_pixels(text, options, expected):
    found = written_boxes(text, (100, 50), **options)
    np.testing.assert_allclose(np.array(found.boxes).reshape(-1, 4), np.reshape(expected, (-1, 4)))
    assert found.unread == 0


def test_one_unit_holds_for_all_that_a_model_wrote():
    """Thousandths of one step that happen to lie in the picture are no pixels."""
    boxes = ((0.0, 0.0, 5.0, 2.5),), ((50.0, 25.0, 100.0, 50.0),)
    problem = item(steps=(Step("Here.", boxes[0]), Step("There.", boxes[1])))
    texts = ['{"bbox_2d": [0, 0, 50, 50]}', '{"bbox_2d": [500, 500, 1000, 1000]}']
    assert perceptions([problem], [texts], truth=None).table["iou"].tolist() == [1.0, 1.0]
    pixels = ['{"bbox_2d": [0, 0, 5, 2.5]}', '{"bbox_2d": [50, 25, 100, 50]}']
    assert perceptions([problem], [pixels], truth=None).table["iou"].tolist() == [1.0, 1.0]


def test_items_with_several_pictures_are_refused():
    problem = replace(item(), more_images=(noise_image(40, 40, 1),))
    with pytest.raises(MeasureError, match="Item q has 2 pictures, and this measurement is"):
        perceptions([problem], [["A cube."]], truth=None)


def test_overlap_by_hand_and_boxes_that_are_none():
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 2, 2), (2, 2, 3, 3)) == 0.0
    found = written_boxes('{"bbox_2d": [60, 5, 10, 45]} <box>[[0, 0, 2000, 9]]</box>', (100, 50))
    assert found == ((), 2)


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_arrows_are_held_against_the_board_that_the_picture_shows(noise):
    problems = generate_arrows(8, ArrowsConfig(noise=noise), seed=4)
    for one, other in zip(problems, problems[1:] + problems[:1], strict=True):
        steps = [step.text for step in one.steps]
        (own,) = perceptions([one], [steps], truth=board_truth).items().to_dict("records")
        assert own["false"] == 0 and own["checked"] == len(steps) - 1
        turned = [text.replace("points up", "points down") for text in steps]
        turned = [text.replace("points left", "points right") for text in turned]
        wrong = sum(a != b for a, b in zip(steps, turned, strict=True))
        held = [board_truth(one, text)[0] for text in turned]
        assert held.count(False) == wrong and held[-1] is None
        assert board_truth(other, "It is a board.") == [None]
