import dataclasses

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import noise_image

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures import answers as module
from attcot_analysis.measures.answers import COLUMNS, answer_problems, answer_row
from attcot_analysis.models import Generation
from attcot_analysis.problems import Problem
from attcot_analysis.problems.reading import match_answer
from attcot_analysis.runs.run import RunFolder

COLOURS = ("red", "light red", "blue", "3", "13")


def problem(name, **changes):
    fields = {
        "id": name,
        "image": noise_image(64, 48),
        "question": "Which colour?",
        "candidates": ("red", "blue", "green"),
        "answer": "red",
        "habitual": "blue",
    }
    return Problem(**{**fields, **changes})


@pytest.fixture
def say(monkeypatch):
    """Let the model say given texts, in order; collects what it was asked with."""
    asked = []

    def plan(*texts, finished=True):
        queue = list(texts)

        def generate(mllm, prompts, **options):
            asked.extend(prompts)
            return [Generation((1, 2), queue.pop(0), finished) for _ in prompts]

        monkeypatch.setattr(module, "generate", generate)
        return asked

    return plan


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("red", "red"),
        (" Red. ", "red"),
        ("**RED**", "red"),
        ("the answer is red", "red"),
        ("light red", "light red"),
        ("It is light red!", "light red"),
        ("red or blue", None),
        ("credible", None),
        ("3", "3"),
        ("13", "13"),
        ("it is 13 in all", "13"),
        ("3.5", None),
        ("", None),
        ("purple", None),
        ("a", None),
        ("A red one", "red"),
    ],
)
def test_matching(stated, expected):
    assert match_answer(stated, COLOURS) == expected


def test_option_letters_count_only_where_the_question_gives_them():
    question = "Which colour? A) red (b) light red C. blue"
    candidates = ("red", "light red", "blue")
    for stated, expected in (("A", "red"), ("(b)", "light red"), ("c.", "blue"), ("d", None)):
        assert match_answer(stated, candidates, question=question) == expected
        assert match_answer(stated, candidates) is None
    assert match_answer("B", ("A", "B"), question="A) B B) A") == "B"


def test_two_candidates_that_differ_in_case_only_need_the_exact_one():
    assert match_answer("Us", ("us", "US")) is None
    assert match_answer("US", ("us", "US")) == "US"


@given(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=5, unique=True), st.data())
def test_a_candidate_always_matches_itself(candidates, data):
    one = data.draw(st.sampled_from(candidates))
    assert match_answer(one, candidates) == one


@given(st.text(max_size=20))
def test_matching_never_fails_and_never_invents(stated):
    assert match_answer(stated, COLOURS) in (*COLOURS, None)


def test_table_by_hand(random_mllm, say):
    say(
        "<think>\n1. Look.\n2. See red.\n</think>\n<answer>red</answer>",
        "<think>\n1. Look.\n</think>\n<answer>Blue.</answer>",
        "<think>\n1. Look.\n</think>\n<answer>purple</answer>",
        "<think>\n1. Look.\n</think>\nSo it must be green.",
        "",
    )
    items = [problem(name) for name in "abcd"] + [problem("e", habitual=None)]
    table = answer_problems(random_mllm, items)
    assert list(table.columns) == list(COLUMNS)
    assert table["answer"].isna().tolist() == [False, False, True, False, True]
    assert table["answer"].dropna().tolist() == ["red", "blue", "green"]
    assert table["match"].tolist() == ["exact", "loose", "none", "loose", "none"]
    assert table["correct"].tolist() == [True, False, False, False, False]
    assert table["habitual"].tolist()[:4] == [False, True, False, False]
    assert table["habitual"].isna().tolist() == [False] * 4 + [True]
    assert table["n_steps"].tolist() == [2, 1, 1, 1, 0]
    assert table["correct"].dtype == bool


def test_cut_responses_answer_only_inside_tags(random_mllm, say):
    texts = ("<think>\n1. It is red", "<answer>red</answer> I", "I think it is red", "<answer>red")
    say(*texts, finished=False)
    table = answer_problems(random_mllm, [problem(name) for name in "abcd"], mode="direct")
    assert table["answer"].isna().tolist() == [True, False, True, True]
    assert not table["finished"].any()


def test_right_answers_may_be_given(random_mllm, say):
    say("<answer>blue</answer>", "<answer>red</answer>")
    table = answer_problems(random_mllm, [problem("a"), problem("b")], answers={"a": "blue"})
    assert table["correct"].tolist() == [True, True]


def test_what_the_model_is_shown(random_mllm, say):
    answer = "<answer>red</answer>"
    asked = say(*[answer] * 6)
    items = [problem("a"), problem("b")]
    other = [Image.new("RGB", (64, 48), (9, 9, 9))] * 2
    answer_problems(random_mllm, items, mode="direct", batch_size=1)
    answer_problems(random_mllm, items, text_only=True)
    answer_problems(random_mllm, items, images=other)
    seen, blind, edited = asked[:2], asked[2:4], asked[4:]
    decode = random_mllm.tokenizer.decode
    assert "Answer directly" in decode(seen[0].input_ids)
    assert "Think step by step" in decode(blind[0].input_ids)
    assert all(not item.vision and len(item.layout.image) == 0 for item in blind)
    pixels = [item.vision["pixel_values"] for item in (seen[0], edited[0])]
    assert pixels[0].shape == pixels[1].shape
    assert not (pixels[0] == pixels[1]).all()


def test_a_real_model_and_the_disk(random_mllm, tmp_path):
    items = [problem("a"), problem("b", image=noise_image(96, 96, 1)), problem("c")]
    table = answer_problems(random_mllm, items, max_new_tokens=6, batch_size=2)
    assert table["item"].tolist() == ["a", "b", "c"]
    assert all(len(ids) <= 6 for ids in table["ids"])
    for text, ids in zip(table["text"], table["ids"], strict=True):
        assert random_mllm.tokenizer.decode(ids) == text
    again = answer_problems(random_mllm, items, max_new_tokens=6, batch_size=3)
    assert again["ids"].tolist() == table["ids"].tolist()
    run = RunFolder.create(tmp_path / "run", {"seed": 0})
    run.write_table("answers", table)
    back = run.read_table("answers")
    assert back["ids"].tolist() == table["ids"].tolist()
    assert back["answer"].isna().tolist() == table["answer"].isna().tolist()
    assert back["habitual"].dtype == table["habitual"].dtype
    pd.testing.assert_series_equal(back["correct"], table["correct"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problems": []}, "No problems"),
        ({"mode": "slow"}, "Mode 'slow' is unknown; choose one of cot, direct"),
        ({"images": []}, "came with 0 images"),
        ({"text_only": True, "images": [noise_image(8, 8)]}, "takes no images"),
        ({"problems": [problem("a"), problem("a")]}, "Item a is there twice"),
    ],
)
def test_bad_input_is_one_sentence(random_mllm, change, message):
    arguments = {"problems": [problem("a")], **change}
    with pytest.raises(MeasureError, match=message):
        answer_problems(random_mllm, **arguments)


def test_problems_are_left_alone(random_mllm, say):
    say("<answer>red</answer>")
    item = problem("a")
    before = dataclasses.replace(item)
    answer_problems(random_mllm, [item])
    assert item == before


@pytest.mark.parametrize(
    ("text", "answer", "flag"),
    [
        ("<answer>red</answer>", "red", ""),
        ("<answer>B) red</answer>", None, "contradiction"),
        ("<answer>red or blue</answer>", None, "several"),
        ("<answer>purple</answer>", None, ""),
        ("<answer>red</answer> </answer>", "red", "surplus tags"),
    ],
)
def test_what_is_wrong_with_an_answer_is_flagged(text, answer, flag):
    listed = problem("x", question="Which colour?\nA) red\nB) blue\nC) green")
    row = answer_row(listed, Generation((), text, True), mode="direct")
    assert (row["answer"], row["flag"]) == (answer, flag)
    assert row["score"] == float(row["correct"]) == float(answer == "red")


@pytest.mark.parametrize(
    ("rule", "text", "score", "correct", "answer"),
    [
        ({"scoring": "anls"}, "hallo", 0.8, True, "hello"),
        ({"scoring": "anls"}, "xyz", 0.0, False, "xyz"),
        ({"scoring": "vqa", "references": ("hello",) * 9 + ("hi",)}, "hi", 0.3, False, "hi"),
        ({"scoring": "vqa", "references": ("hello",) * 8 + ("hi",) * 2}, "hi", 0.6, True, "hello"),
        ({"references": ("hi",)}, "hi", 1.0, True, "hello"),
        ({"scoring": "list"}, "bye", 0.0, False, "bye"),
        ({"scoring": "list"}, "", 0.0, False, None),
    ],
)
def test_open_answers_are_scored_by_the_rule_of_their_problem(rule, text, score, correct, answer):
    open_one = problem("x", candidates=(), answer="hello", habitual=None, **rule)
    response = Generation((), f"<answer>{text}</answer>", True)
    row = answer_row(open_one, response, mode="direct")
    assert row["score"] == pytest.approx(score)
    assert (row["correct"], row["answer"]) == (correct, answer)


def test_an_edited_picture_has_no_references_of_its_own():
    open_one = problem("x", candidates=(), answer="hello", habitual=None, references=("hi",))
    response = Generation((), "<answer>hi</answer>", True)
    row = answer_row(open_one, response, mode="direct", right={"x": "bye"})
    assert (row["correct"], row["score"], row["answer"]) == (False, 0.0, "hello")
