"""`look`: one's own picture and question; the numbers are those of the measurements."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import attcot_analysis as ac
from attcot_analysis.errors import MeasureError, ProblemError, RunError
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.measures.open_answers import forced_answer, open_commitment
from attcot_analysis.models import encode_problem, generate, load_mllm
from attcot_analysis.models.generate import Generation
from attcot_analysis.problems import load_problems
from attcot_analysis.problems.fit import detect_format
from attcot_analysis.shipped import TESTBED_B_MODEL, TESTBED_B_PROBLEMS, shipped
from attcot_analysis.show import photo
from attcot_analysis.show.explorer.build import explorer_record
from attcot_analysis.show.explorer.page import explorer_figure, make_content
from attcot_analysis.show.explorer.record import select


@pytest.fixture(scope="module")
def mllm():
    return load_mllm(shipped(TESTBED_B_MODEL), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def problem():
    return load_problems(shipped(TESTBED_B_PROBLEMS), limit=1)[0]


@pytest.fixture(scope="module")
def seen(mllm, problem):
    """Without candidates and without a right answer."""
    pixels = np.asarray(problem.image)
    return photo.look(mllm, pixels, problem.question, sources=["attention"], token="step 1")


def test_what_is_shown_is_what_is_measured(mllm, problem, seen):
    asked = replace(problem, candidates=(), answer="?", habitual=None, twin=None, control=None)
    [made] = generate(mllm, [encode_problem(mllm, asked)])
    assert seen.response == made.text
    maps = response_maps(mllm, asked, made.ids)
    forced = open_commitment(mllm, [asked], [made.ids]).table
    table = seen.table
    steps = [f"step {step}" for step in range(1, maps.n_steps + 1)]
    assert table["part"].tolist() == ["before", *steps, "answer"]
    masses = maps.step_weights().sum(axis=1)
    assert table["mass"][1:-1].to_numpy() == pytest.approx(masses, rel=1e-5)
    assert table["forced"][:-1].tolist() == forced["forced"].tolist()
    assert table["p"][:-1].tolist() == pytest.approx(forced["p"].tolist(), rel=1e-6)
    assert seen.answer == forced["final"][0] == table["text"].iloc[-1]


def test_without_a_right_answer_nothing_is_judged(seen, problem):
    spec = make_content(seen.record, None, live=False).spec
    assert spec["right"] is None and spec["models"][0]["correct"] is None
    assert spec["candidates"] == [seen.answer] and spec["open"]
    assert photo.UNKNOWN not in str(seen)
    known = make_content(replace(seen.record, judged=True), None, live=False).spec
    assert known["right"] == photo.UNKNOWN and known["models"][0]["correct"] is False


def test_it_is_told_shown_drawn_and_saved(seen, tmp_path):
    lines = str(seen).splitlines()
    assert lines[-1] == f"It answers {seen.answer}."
    assert "on the picture, most " in lines[4] and "would answer " in lines[4]
    assert repr(seen).startswith("Look(qwen2_5_vl-b0: item picture, ")
    assert seen.explorer.selection.step == 1 and "text/html" in seen._repr_mimebundle_()[0]
    assert len(seen.figure().axes) >= 4
    page = seen.save_html(tmp_path / "new" / "look.html")
    assert page.read_text(encoding="utf-8").count("<script") == 3
    with pytest.raises(RunError, match="already there"):
        seen.save_html(page)


def test_options_give_the_curve_of_their_probabilities(mllm, problem, tmp_path):
    problem.image.save(tmp_path / "my photo.png")
    found = photo.look(
        mllm,
        str(tmp_path / "my photo.png"),
        problem.question,
        options=problem.candidates,
        answer=problem.answer,
        sources=["attention"],
    )
    table = commitment(mllm, [problem], [found.response], controls=("rationale",)).table
    final = table[table["candidate"] == found.table["forced"].dropna().iloc[-1]]
    assert found.table["p"].dropna().tolist() == pytest.approx(final["p"].tolist(), rel=1e-4)
    spec = make_content(found.record, None, live=False).spec
    assert spec["item"] == "my photo" and spec["right"] == problem.answer and not spec["open"]
    assert spec["models"][0]["correct"] == (found.answer == problem.answer)


def test_a_response_without_a_step_has_maps_and_no_curve(mllm, problem):
    asked = photo.own_problem(problem.image, problem.question)
    text = "<answer>east</answer>"
    ids = tuple(mllm.tokenizer(text, add_special_tokens=False)["input_ids"])
    found = photo.look_into(mllm, asked, Generation(ids, text, finished=True))
    assert found.answer == "east" and found.notes[0].endswith("its text has no step.")
    assert found.table["part"].tolist() == ["before", "answer"]
    assert found.table["forced"].isna().all() and found.table["mass"].iloc[-1] > 0
    assert "at the end of the prompt" in found.record.heads_note
    assert "No gradient relevance: " in found.record.text


def test_the_format_is_detected_where_nothing_can_be_read(mllm, problem, monkeypatch):
    asked = photo.own_problem(problem.image, problem.question)
    prose = replace(mllm, format=ac.problems.FORMATS["prose"])
    [right] = generate(mllm, [encode_problem(mllm, asked)])
    made = iter([Generation(right.ids[:1], "<", finished=True), right])
    monkeypatch.setattr(photo, "generate", lambda *_, **__: [next(made)])
    found = detect_format([right.text])
    monkeypatch.setattr(photo, "detected_format", lambda *_, **__: found)
    chosen, kept, notes = photo.write(prose, asked, None, max_new_tokens=8)
    assert chosen.format.name == "tags" and kept == right and notes == (str(found),)

    def nothing_fits(*_, **__):
        raise ProblemError("None fits.")

    made = iter([Generation(right.ids[:1], "<", finished=False)])
    monkeypatch.setattr(photo, "detected_format", nothing_fits)
    chosen, _, notes = photo.write(prose, asked, None, max_new_tokens=1)
    assert chosen is prose and "give format=" in notes[0] and "cut at 1 tokens" in notes[1]


def test_an_answer_is_forced_after_any_step_of_an_unfinished_text(mllm, problem, seen):
    ids = seen.response.split("</think>")[0]
    item = encode_problem(mllm, problem, response=ids)
    asked = [forced_answer(mllm, item, k) for k in range(item.layout.n_steps + 1)]
    assert asked == seen.table["forced"].dropna().tolist()
    with pytest.raises(MeasureError, match="no step 9 to answer after; give 0 to 4"):
        forced_answer(mllm, item, 9)


def test_one_model_beside_itself_on_another_picture(mllm, problem):
    models = {"original": mllm, "twin": mllm}
    twin = {"twin": problem.twin.image}
    ids = generate(mllm, [encode_problem(mllm, problem)])[0].ids
    record = explorer_record(
        models, problem, ids, image=twin, sources=["attention"], max_new_tokens=64
    )
    alone = response_maps(mllm, problem, ids, image=problem.twin.image)
    assert (record.models[1].maps[0].weights == alone.weights).all()
    first, second = make_content(record, None, live=False).spec["models"]
    assert first["picture"] is None and second["picture"].startswith("data:image/png")
    # The twin has another right answer, so the item's does not judge it.
    assert first["correct"] is not None and second["correct"] is None
    behind = [
        np.asarray(one.images[0].get_array())
        for one in explorer_figure(record, select(record)).axes[:2]
    ]
    assert (behind[0] != behind[1]).any()
    with pytest.raises(MeasureError, match=r"\['other'\], which are none of"):
        explorer_record(models, problem, ids, image={"other": problem.image})


@pytest.mark.parametrize(
    ("image", "question", "options", "message"),
    [
        (np.zeros((4, 4)), "What?", (), "array of float64"),
        (np.zeros((4, 4, 2), np.uint8), "What?", (), "3 or 4 colours"),
        ("nowhere.png", "What?", (), "nowhere.png"),
        (Image.new("RGB", (8, 8)), " ", (), "question is empty"),
        (Image.new("RGB", (8, 8)), "What?", ("one",), "at least two"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_sentence(image, question, options, message):
    with pytest.raises(ProblemError, match=message):
        photo.own_problem(image, question, options=options)
