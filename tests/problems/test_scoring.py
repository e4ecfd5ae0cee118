"""Open answers are scored as their benchmarks' published rules say: values worked out by hand."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems import FORMATS, Problem, parse_response
from attcot_analysis.problems.folder import load_problems, save_problems
from attcot_analysis.problems.scoring import (
    anls,
    asks_year,
    same_list,
    same_mathematics,
    score_open,
    vqa_accuracy,
)

PICTURE = Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8))


def problem(**fields):
    fields = {"question": "What is it?", "candidates": (), "answer": "red", **fields}
    return Problem(id="x", image=PICTURE, **fields)


def score(stated, answer, scoring, **options):
    found = score_open(stated, [answer], scoring=scoring, **options)
    return found.scores[answer]


@pytest.mark.parametrize(
    ("question", "stated", "answer", "expected"),
    [
        ("What is the value?", "105", "100", 1),
        ("What is the value?", "95", "100", 1),
        ("What is the value?", "105.1", "100", 0),
        ("What is the value?", "94.9", "100", 0),
        ("What is the value?", "-100", "100", 0),
        ("What is the share?", "12%", "12", 1),
        ("What is the share?", "12%", "0.12", 1),
        ("What is the share?", "0.12", "12%", 1),
        ("What is the share?", "12.5%", "0.12", 1),
        ("What is the share?", "14%", "0.12", 0),
        ("What is the share?", "12", "0.12", 0),
        ("What is the value?", "0", "0.1", 0),
        ("Which country?", "The USA.", "USA", 1),
        ("Which country?", "US", "USA", 0),
        ("Which year has the highest bar?", "1950", "2018", 0),
        ("Which year has the highest bar?", "2017", "2018", 0),
        ("Which year has the highest bar?", "2018", "2018", 1),
        ("Which year has the highest bar?", "The year 2018.", "2018", 1),
        ("What is the value in the year 2010?", "1950", "2018", 1),
        ("How many people were there?", "1950", "2018", 1),
    ],
)
def test_relaxed_numbers_may_be_off_by_five_percent_and_years_not_at_all(
    question, stated, answer, expected
):
    assert score(stated, answer, "relaxed", question=question) == expected


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("In which year was the rate highest?", "2018", True),
        ("What year did it start?", "1999", True),
        ("When did it start?", "1999", True),
        ("When was the number of births the highest?", "1999", True),
        ("What is the year with the highest value?", "2012", True),
        ("Which fiscal year had the lowest revenue?", "2012", True),
        ("Which year's bar is the tallest?", "2012", True),
        ("Which year is it?", "2,012", False),
        ("Which year is it?", "12", False),
        ("Which year is it?", "2012.5", False),
        ("Which year is it?", "3012", False),
        ("What was the revenue in the year 2010?", "2018", False),
        ("How many cars were sold in 2010?", "2018", False),
        ("What is the average over all years?", "1950", False),
        ("What is the value when the line peaks?", "1950", False),
    ],
)
def test_what_is_a_year(question, answer, expected):
    assert asks_year(question, answer) is expected


@pytest.mark.parametrize(
    ("stated", "accepted", "expected"),
    [
        ("hello", ["hello"], 1.0),
        ("Hello  World", ["hello world"], 1.0),
        ("hallo", ["hello"], 0.8),  # One of five letters: 1 - 1/5.
        ("helloo", ["hello"], 1 - 1 / 6),
        ("kitten", ["sitting"], 1 - 3 / 7),  # Wagner and Fischer's example: three edits of seven.
        ("abcd", ["abxy"], 0.0),  # Half of the letters: the threshold is 0.5, not reached.
        ("abcde", ["abcxy"], 0.6),
        ("xyz", ["abc"], 0.0),
        ("hallo", ["salute", "hello", "halo"], 0.8),
        ("", ["hello"], 0.0),
    ],
)
def test_anls_is_one_minus_the_distance_above_one_half(stated, accepted, expected):
    assert anls(stated, accepted) == pytest.approx(expected)


def edits(first, second):
    """Levenshtein distance, straight from its definition."""
    if not first or not second:
        return len(first) + len(second)
    return min(
        edits(first[1:], second) + 1,
        edits(first, second[1:]) + 1,
        edits(first[1:], second[1:]) + (first[0] != second[0]),
    )


@given(st.text("ab", max_size=5), st.text("ab", min_size=1, max_size=5))
def test_anls_equals_its_definition(first, second):
    similarity = 1 - edits(first, second) / max(len(first), len(second))
    assert anls(first, [second]) == pytest.approx(similarity if similarity > 0.5 else 0.0)


@pytest.mark.parametrize(
    ("n_same", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)]
)
def test_vqa_accuracy_of_ten_humans(n_same, expected):
    # Of n who said it, n sets of nine hold n - 1 and 10 - n hold n: (n min(n-1, 3) + ...) / 30.
    humans = ["red"] * n_same + ["blue"] * (10 - n_same)
    assert vqa_accuracy("red", humans) == pytest.approx(expected)


@given(st.lists(st.sampled_from(["red", "blue", "green"]), min_size=4, max_size=10))
def test_vqa_accuracy_equals_its_definition(humans):
    sets = list(combinations(humans, len(humans) - 1))
    expected = sum(min(one.count("red") / 3, 1) for one in sets) / len(sets)
    assert vqa_accuracy("red", humans) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("stated", "human"),
    [
        *(
            ("A red car.", "red car"),
            ("two", "2"),
            ("none", "0"),
            ("yes!", "yes"),
            ("Dont", "don't"),
        ),
        *(("it's 1,200", "it's 1200"), ("t-shirt", "t shirt"), ("red/blue", "red blue")),
        *(("3.5", "3.5"), ("red , blue", "red blue"), ("couldntve", "couldn't've")),
    ],
)
def test_vqa_compares_in_its_normal_form(stated, human):
    assert vqa_accuracy(stated, [human] * 10) == 1
    assert vqa_accuracy(f"{stated} x", [human] * 10) == 0


@pytest.mark.parametrize(
    ("stated", "accepted", "expected"),
    [
        ("red, blue", "blue, red", 1),
        ("red and blue", "blue, red", 1),
        ("blue; red", "red\nblue", 1),
        ("[3, 1, 2]", "1,2,3", 1),
        ("- Red\n- the blue", "blue, red", 1),
        ("1. red\n2. blue", "blue, red", 1),
        ("1,200 and 5", "5, 1200", 1),
        ("red", "blue, red", 0),
        ("red, red", "blue, red", 0),
        ("red, blue, green", "blue, red", 0),
        ("red, red, blue", "red, blue, blue", 0),
        ("", "red", 0),
    ],
)
def test_lists_in_any_order(stated, accepted, expected):
    assert same_list(stated, [accepted]) == expected
    assert score(stated, accepted, "list") == expected


def test_mathematics():
    pytest.importorskip("math_verify")
    same = [
        ("x+1", "1+x"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        ("$2\\sqrt{2}$", r"\sqrt{8}"),
        ("The answer is 3/4.", "0.75"),
        ("I add them.\nThe answer is $x^2 - 1$", "(x-1)(x+1)"),
        ("So we get 12", "12"),
        (r"\sin(x)^2 + \cos(x)^2", r"\cos(x)^2 + \sin(x)^2"),
    ]
    for stated, answer in same:
        assert same_mathematics(stated, [answer]) == 1, stated
        assert score_open(stated, [answer], scoring="math").answer == answer
    assert same_mathematics("x-1", ["1+x"]) == 0
    assert same_mathematics("x+1", ["1"]) == 0
    assert same_mathematics("no idea", ["7"]) == 0
    assert same_mathematics("5", ["4", "5"]) == 1


def test_mathematics_without_the_package_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProblemError, match=r"install attcot-analysis\[math\]"):
        score_open("1", ["1"], scoring="math")


@pytest.mark.parametrize(
    ("stated", "scoring", "options", "answer"),
    [
        ("hallo", "anls", {}, "hello"),
        ("xyz", "anls", {}, "xyz"),
        ("two", "exact", {"references": ["2"]}, "hello"),
        ("Hi!", "exact", {"references": ["hi"]}, "hello"),
        ("Hi!", "anls", {"references": ["hi"]}, "hello"),
        ("...", "anls", {}, None),
        ("", "list", {}, None),
        ("Hello.", "vqa", {"references": ["hello"] * 2 + ["hi"] * 8}, "hello"),
        ("hallo", "vqa", {"references": ["hello"] * 10}, "hallo"),
        ("other", "anls", {}, "other"),
        ("Other one", "anls", {}, "other one"),
    ],
)
def test_the_answer_is_the_known_one_that_it_is_scored_as(stated, scoring, options, answer):
    known = ["hello", "quite different"]
    assert score_open(stated, known, scoring=scoring, **options).answer == answer


def test_references_are_of_the_right_answer_alone():
    found = score_open("hi", ["hello", "bye"], references=["hi"])
    assert found.scores == {"hello": 1.0, "bye": 0.0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scoring": "bleu"}, "scoring is 'bleu'; choose one of exact, relaxed, anls"),
        ({"scoring": "vqa"}, "needs the answers of all humans as references, at least 4"),
        ({"scoring": "vqa", "references": ("blue",) * 10}, "'red' among them"),
        ({"scoring": "anls", "tolerance": 0.1}, "tolerance is for scoring relaxed"),
        ({"references": ("scarlet", " ")}, "one is empty"),
        ({"candidates": ("red", "blue"), "references": ("scarlet",)}, "it has candidates"),
        ({"candidates": ("red", "blue"), "scoring": "anls"}, "it has candidates"),
        ({"candidates": ("red", "red.")}, "'red' and 'red.' differ in nothing"),
        ({"candidates": ("red", "\uff52\uff45\uff44")}, "differ in nothing"),
        ({"candidates": ("red", "(red)", "blue")}, "Problem x: candidates 'red' and '\\(red\\)'"),
        ({"candidates": ("red", "blue  car", "blue car")}, "'blue  car' and 'blue car'"),
    ],
)
def test_rules_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ProblemError, match=message):
        problem(**fields)


@pytest.mark.parametrize(
    "candidates",
    [("us", "US"), ("+", "-"), ("5", "-5"), ("x2", "x\u00b2"), ("?", "!"), ("$5", "5")],
)
def test_candidates_that_differ(candidates):
    assert problem(candidates=candidates, answer=candidates[0]).candidates == candidates


def test_a_tolerance_and_the_relaxed_rule_go_together():
    assert problem(answer="7", tolerance=0.1).scoring == "relaxed"
    assert problem(answer="7", scoring="relaxed").tolerance == 0.05
    assert problem(answer="7").tolerance == 0


def test_folders_keep_rule_and_references(tmp_path):
    fields = [
        {},
        {"scoring": "relaxed", "answer": "7"},
        {"tolerance": 0.1, "answer": "7"},
        {"scoring": "vqa", "references": ("red",) * 6 + ("blue",) * 4},
        {"scoring": "anls", "references": ("scarlet",)},
        {"references": ("scarlet",)},
    ]
    made = [
        Problem(id=f"p{at}", image=PICTURE, question="?", candidates=(), **{"answer": "red", **one})
        for at, one in enumerate(fields)
    ]
    save_problems(made, tmp_path / "set")
    read = load_problems(tmp_path / "set")
    assert [(p.scoring, p.references, p.tolerance) for p in read] == [
        (p.scoring, p.references, p.tolerance) for p in made
    ]
    first = (tmp_path / "set" / "problems.jsonl").read_text().splitlines()[0]
    assert "scoring" not in first and "references" not in first


@pytest.mark.parametrize(
    ("stated", "humans", "expected"),
    [
        ("Yes, the man wears a hat.", ["yes"] * 10, 1),
        ("Yes, the man wears a hat.", ["no"] * 10, 0),
        ("There are 2 dogs.", ["2"] * 10, 1),
        ("There are 2 dogs.", ["3"] * 10, 0),
        ("No idea at all.", ["no"] * 10, 0),
    ],
)
def test_a_sentence_is_read_before_it_is_compared_with_what_humans_said(stated, humans, expected):
    assert score(stated, humans[0], "vqa", references=humans) == expected


@pytest.mark.parametrize("reply", ["Answer:\n1. blue\n2. red", "They are:\n- red\n- blue"])
def test_a_list_of_lines_is_one_answer(reply):
    parsed = parse_response(reply, FORMATS["prose"])
    assert score(parsed.answer, "red, blue", "list") == 1
    assert score(parsed.answer, "blue", "list") == 0
