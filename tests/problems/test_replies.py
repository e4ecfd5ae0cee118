"""Replies that models really wrote, read as a person reads them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real import needs_real_data, real_data

from attcot_analysis.measures.answers import answer_row
from attcot_analysis.models import Generation
from attcot_analysis.problems import FORMATS, Problem, parse_response
from attcot_analysis.problems.data.fields import with_options

KEY = json.loads((Path(__file__).parent / "m3cot_key.json").read_text())
"""What each reply of each file states, in the order of ``items``; ``-`` for none or several.

Made by reading the 900 replies. A letter counts although the words behind it are no option's; a
letter before the words of another option does not, nor does a list of letters behind "Answer:".
"""
FILES = [name for name in KEY if name != "items"]
PICTURE = Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8))


def read(reply, candidates, question, response_format="tags"):
    problem = Problem(
        id="x", image=PICTURE, question=question, candidates=candidates, answer=candidates[0]
    )
    form = FORMATS[response_format]
    return answer_row(problem, Generation((), reply, True), mode="cot", form=form)["answer"]


def agreement(name, form, response_format="tags"):
    """How many replies are read as the key says; none is read as another option."""
    with open(real_data() / "m3cot-replies" / f"{name}.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert [row["id"] for row in rows] == KEY["items"]
    agree = 0
    for row, stated in zip(rows, KEY[name], strict=True):
        choices, asked = tuple(row["choices"]), row["messages"][0]
        letters = "ABCDEFGH"[: len(choices)]
        candidates, question = {
            "adapter": (choices, with_options("Which?", choices)),
            "message": (choices, asked),
            "letters": (tuple(letters), asked),
        }[form]
        answer = read(row["messages"][-1], candidates, question, response_format)
        found = "-" if answer is None else letters[candidates.index(answer)]
        assert found in (stated, "-"), f"{row['id']}: read as {found}, states {stated}"
        agree += found == stated
    return agree


@needs_real_data
@pytest.mark.parametrize("form", ["adapter", "message", "letters"])
def test_published_replies_are_read_as_a_person_reads_them(form):
    found = {name: agreement(name, form) for name in FILES}
    print(form, found)
    assert sum(found.values()) >= 0.98 * 900
    assert min(found.values()) >= 0.96 * 150


@needs_real_data
@pytest.mark.parametrize("response_format", ["prose", "qwen3_vl", "thinking", "boxed"])
def test_formats_without_answer_tags_read_as_many(response_format):
    found = {name: agreement(name, "adapter", response_format) for name in FILES}
    print(response_format, found)
    assert sum(found.values()) >= 0.98 * 900
    assert min(found.values()) >= 0.96 * 150


@needs_real_data
def test_published_rationales_are_cut_and_answered():
    with open(real_data() / "chartqa-think" / "sample.json", encoding="utf-8") as file:
        rows = json.load(file)
    assert len(rows) == 20
    for row in rows:
        parsed = parse_response(row["answer"])
        assert parsed.steps and parsed.answer
        words = parsed.text[slice(*parsed.think)].split()
        assert words == " ".join(parsed.step_texts).split()
        assert len(parse_response(row["answer"].removeprefix("<think>")).steps) == len(parsed.steps)


OPTIONS = ("A shopping mall", "A bird museum", "An office building")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("The building is large.\n\nThe answer should be (B) A bird museum.", OPTIONS[1]),
        ("Based on the picture, the best answer would be:\n(C) An office building.", OPTIONS[2]),
        ("(b) A bird museum", OPTIONS[1]),
        ("(B)</s>", OPTIONS[1]),
        ("[A]", OPTIONS[0]),
        ("The correct answer is (A) and (B). It has shops.", None),
        ("[Question] What? [Choices] (A) A shopping mall (B) A bird museum Answer: (A, B)", None),
        ("[Question] What? [Choices] (A) A shopping mall (B) A bird museum Answer: (B", OPTIONS[1]),
        ("The correct answer is (B) An office building.", None),
        ("It has shops.\nIt is not a bird museum.\nIt is most likely a shopping mall.", OPTIONS[0]),
        ("(A) It has no shops.\n(B) It has no birds.\nNone of these can be inferred.", None),
        ("So choices (A) and (C) can be ruled out. This leaves us with choice (B).", OPTIONS[1]),
        ("Sorry, I cannot help with that.", None),
    ],
)
def test_replies_of_these_forms(reply, expected):
    assert read(reply, OPTIONS, with_options("What is it?", OPTIONS)) == expected
