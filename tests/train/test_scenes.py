"""Testbed B's problems: exact twins, nothing given away, pictures that agree with their words."""

import itertools
import re

import numpy as np
import pytest

from attcot_analysis.errors import ProblemError
from attcot_lab.testbed.kinds import generate_problems
from attcot_lab.testbed.scenes import (
    SIDES,
    WAYS,
    BarsConfig,
    RelationConfig,
    possible_answers,
)

KINDS = [
    ("relation", {"by": "cell"}),
    ("relation", {"by": "line"}),
    ("relation", {"by": "search"}),
    ("walk", {}),
    *(("bars", {"bars": n}) for n in range(2, 7)),
]


def solved(words: str, question: str) -> str:
    """The answer by a plain reading of the picture in words, written apart from the generator."""
    at = {s: ("abc".index(c), int(r)) for s, c, r in re.findall(r"The (\w+) in (\w)(\d) is", words)}
    colour = {place: c for place, c in re.findall(r"in (\w\d) is (\w+)\.", words)}
    high = {c: int(v) for c, v in re.findall(r"The (\w+) bar reaches (\d)\.", words)}
    if found := re.search(r"from the (\w+) to the (\w+)\?", question):
        (x, y), (u, v) = at[found[1]], at[found[2]]
        north_south = "north" if v < y else "south" if v > y else ""
        return north_south + ("west" if u < x else "east" if u > x else "")
    if found := re.search(r"the piece (.+) the (\w+)\?", question):
        (x, y), (dx, dy) = at[found[2]], SIDES[found[1]]
        return colour[f"{'abc'[x + dx]}{y + dy}"]
    named = [c for c in re.findall(r"\w+", question) if c in high]
    return str(max(high[c] for c in named[:-1]) - high[named[-1]])


@pytest.mark.parametrize(("kind", "knobs"), KINDS)
def test_answers_twins_and_rationales_are_right_and_nothing_is_known_early(kind, knobs):
    for problem in generate_problems(kind, 60, seed=3, **knobs):
        assert solved(str(problem.metadata["words"]), problem.question) == problem.answer
        assert problem.twin.answer != problem.answer == problem.control.answer
        for steps, answer in (
            (problem.steps, problem.answer),
            (problem.twin.steps, problem.twin.answer),
        ):
            texts = [step.text for step in steps]
            assert possible_answers(problem.question, texts) == {answer}
            for k in range(len(texts)):
                assert len(possible_answers(problem.question, texts[:k])) > 1, (problem, k)


@pytest.mark.parametrize("kind", ["relation", "walk", "bars"])
def test_an_edit_changes_the_picture_in_its_boxes_only(kind):
    for problem in generate_problems(kind, 20, seed=5, noise=30.0):
        own = np.asarray(problem.image).astype(int)
        for edit in (problem.twin, problem.control):
            changed = np.abs(np.asarray(edit.image) - own).sum(-1) > 0
            inside = np.zeros_like(changed)
            for x0, y0, x1, y1 in edit.boxes:
                inside[int(y0) : int(y1), int(x0) : int(x1)] = True
                assert changed[int(y0) : int(y1), int(x0) : int(x1)].any()
            assert not (changed & ~inside).any()


def test_letters_name_four_options_with_the_twins_answer_among_them():
    for problem in generate_problems("relation", 30, seed=1, form="letters"):
        options = dict(re.findall(r"([A-D])\) (\w+)", problem.question))
        assert len(set(options.values())) == 4 and set(options.values()) <= set(WAYS)
        words = str(problem.metadata["words"])
        assert options[problem.answer] == solved(words, problem.question)
        assert problem.twin.answer in options and problem.candidates == tuple(options)
    places = [p.answer for p in generate_problems("walk", 200, seed=1, form="letters")]
    assert all(30 < places.count(letter) < 70 for letter in "ABCD")


def test_balanced_answers_do_not_depend_on_the_name_and_laden_ones_do():
    for prior, least, most in ((None, 0.05, 0.25), (0.95, 0.9, 0.99)):
        problems = generate_problems("relation", 300, seed=2, prior=prior)
        share = np.mean([problem.answer == problem.habitual for problem in problems])
        assert least <= share <= most
    open_ones = generate_problems("bars", 3, form="open")
    assert all(problem.candidates == () for problem in open_ones)


def test_knobs_out_of_range_are_refused():
    with pytest.raises(ProblemError, match="choose 2 to 6"):
        BarsConfig(bars=1)
    with pytest.raises(ProblemError, match="cell, line or search"):
        RelationConfig(by="row")
    with pytest.raises(ProblemError, match="words, letters, open"):
        RelationConfig(form="essay")
    with pytest.raises(ProblemError, match="no question of testbed B"):
        possible_answers("What is it?", [])


def test_possible_answers_agree_with_going_through_all_charts():
    question = "by how much is the highest of the red and green bars higher than the blue one?"
    steps = ["The red bar reaches 2.", "The blue bar reaches 1."]
    found = {str(max(2, green) - 1) for green in range(1, 6) if 1 <= max(2, green) - 1 <= 4}
    assert possible_answers(question, steps) == found
    assert possible_answers(question, []) == {
        str(max(a, b) - c)
        for a, b, c in itertools.product(range(1, 6), repeat=3)
        if max(a, b) - c >= 1
    }
