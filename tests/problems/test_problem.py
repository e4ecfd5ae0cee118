"""What a `Problem` is given by hand: taken as it is meant, or refused in one sentence."""

import os
from dataclasses import fields

import numpy as np
import pytest
from faults import survives
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems import Edit, Problem, Step

RED = Image.new("RGB", (40, 30), "red")
GOOD = {
    "id": "kettle",
    "image": RED,
    "question": "Which colour?",
    "candidates": ("red", "blue"),
    "answer": "red",
}
TWIN = Edit("twin", RED, "blue", (), ())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("id", 7, "Problem: id is 7; expected a string"),
        ("id", None, "id is None; expected a string"),
        ("question", 3.5, "Problem kettle: question is 3.5; expected a string"),
        ("question", None, "question is None"),
        ("question", "\ud800", "holds half of a surrogate pair"),
        ("answer", float("nan"), "answer is nan; expected a string"),
        pytest.param("answer", 10**5000, "answer is of type int; expected", id="long number"),
        ("habitual", ["red"], r"habitual is \['red'\]"),
        ("image", "photos/1.png", "Problem kettle: image is 'photos/1.png'; expected a PIL image"),
        ("image", np.zeros((4, 4, 3), np.uint8), "image is of type ndarray; expected a PIL image"),
        ("image", None, "image is None"),
        ("image", Image.new("RGB", (0, 3)), r"image has no pixels, its size is \(0, 3\)"),
        ("image", RED.convert("L"), "image mode is L; convert it to RGB"),
        ("candidates", "red", "candidates is 'red'; expected a list of strings"),
        ("candidates", ["red", 1], "candidates, number 2, is 1; expected a string"),
        ("candidates", ["red", None], "candidates, number 2, is None"),
        ("candidates", ["red", " Red. ".lower()], "differ in nothing but"),
        ("candidates", {"red", "blue"}, "candidates is of type set; expected a list"),
        ("references", "red", "references is 'red'; expected a list of strings"),
        ("steps", "It is red.", "steps is 'It is red.'; expected a list of Step objects"),
        ("steps", ["It is red."], "steps, number 1, is 'It is red.'; expected a Step object"),
        ("evidence", (1, 2, 3, 4), "evidence, number 1, is 1; expected four numbers"),
        ("evidence", [[1, 2, 3]], r"evidence, number 1, is \[1, 2, 3\]; expected four numbers"),
        ("evidence", [[1, 2, 3, "4"]], "expected four numbers"),
        ("evidence", [[1, 2, 3, True]], "expected four numbers"),
        ("evidence", [[1, 2, 3, float("nan")]], "expected four numbers"),
        ("evidence", [[1, 2, 3, 10**400]], "expected four numbers"),
        ("evidence", [[1, 2, 300, 9]], "does not lie in its 40x30"),
        ("tolerance", "5%", "tolerance is '5%'; expected a number"),
        ("tolerance", float("nan"), "tolerance is nan; give a share"),
        pytest.param("tolerance", 10**400, "tolerance is 10", id="no float"),
        ("scoring", 3, "scoring is 3; expected a string"),
        ("twin", {"answer": "blue"}, "twin is {'answer': 'blue'}; expected an Edit"),
        ("twin", RED, "twin is of type Image; expected an Edit"),
        ("metadata", ["a"], r"metadata is \['a'\]; expected a mapping"),
        ("metadata", {1: "a"}, "the metadata's name is 1; expected a string"),
        ("metadata", {"a": None}, "metadata 'a' is None; expected a string, a finite number"),
        ("metadata", {"a": float("inf")}, "metadata 'a' is inf"),
        ("metadata", {"a": "\udfff"}, "holds half of a surrogate pair"),
    ],
)  # fmt: skip
def test_what_is_no_problem_is_one_sentence_with_field_and_item(field, value, said):
    with pytest.raises(ProblemError, match=said) as caught:
        Problem(**{**GOOD, field: value})
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Step(3), "A step's text is 3; expected a string"),
        (lambda: Step("a", [1, 2, 3, 4]), "A step's boxes, number 1, is 1"),
        (lambda: Edit("twin", "a.png", "blue", (), ()), "A twin: image is 'a.png'"),
        (lambda: Edit("twin", RED, 3, (), ()), "A twin's answer is 3"),
        (lambda: Edit("control", RED, "red", "It is red.", ()), "A control's steps is 'It is red"),
        (lambda: Edit("other", RED, "red", (), ()), "kind is 'other'; expected 'twin' or"),
        (lambda: Edit("control", RED, "red", (), [[1, 2]]), "A control's boxes, number 1"),
    ],
)
def test_steps_and_edits_are_checked_where_they_are_made(make, said):
    with pytest.raises(ProblemError, match=said):
        make()


def test_lists_become_tuples_and_numbers_of_numpy_numbers():
    boxes = [[1, 2, 30.5, 4], np.array([1, 2, 3, 4.5], np.float32)]
    problem = Problem(
        **{**GOOD, "candidates": ["red", "blue"]},
        steps=[Step("It is red.", boxes)],
        evidence=boxes,
        twin=Edit("twin", RED, "blue", [Step("It is blue.")], boxes),
    )
    expected = ((1, 2, 30.5, 4), (1.0, 2.0, 3.0, 4.5))
    assert problem.evidence == problem.steps[0].boxes == problem.twin.boxes == expected
    assert {type(side) for side in problem.evidence[1]} == {float}
    assert problem.candidates == ("red", "blue") and problem.twin.steps == (Step("It is blue."),)
    assert hash(problem.steps[0]) and problem.evidence_boxes == expected


def test_a_picture_that_was_closed_or_cut_is_refused_where_it_is_given(tmp_path):
    Image.effect_noise((90, 90), 99).convert("RGB").save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as closed:
        pass
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for bad in (closed, Image.open(tmp_path / "cut.png")):
        with pytest.raises(ProblemError, match="Problem kettle: image is damaged"):
            Problem(**{**GOOD, "image": bad})
    lazy = Problem(**{**GOOD, "image": Image.open(tmp_path / "a.png")})
    os.remove(tmp_path / "a.png")
    assert lazy.image.getpixel((0, 0)) is not None


LONG = st.builds(pow, st.just(10), st.just(5000))
ODD = st.sampled_from([RED, b"x", {1}, np.ones(2), Step("a"), TWIN, object()])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | LONG | ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
NAMES = st.sampled_from([field.name for field in fields(Problem)])


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(NAMES, ANY, min_size=1, max_size=2))
def test_any_values_are_a_problem_or_one_sentence(changes):
    survives(lambda: Problem(**{**GOOD, **changes}))
