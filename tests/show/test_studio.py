"""The studio without a page: what it tells is what the measurements say, and it fails in words."""

import io
import threading
from functools import partial

import numpy as np
import pytest
from PIL import Image

from attcot_analysis.measures.maps import response_maps
from attcot_analysis.measures.open_answers import open_commitment
from attcot_analysis.models import encode_problem, generate, load_mllm
from attcot_analysis.problems import load_problems
from attcot_analysis.problems.fills import occluded
from attcot_analysis.shipped import TESTBED_B_MODEL, TESTBED_B_PROBLEMS, shipped
from attcot_analysis.show.photo import own_problem
from attcot_analysis.show.studio.session import StudioSession, region

STAR = [2, 3, 8, 9]


class Page:
    """What a page was told, by kind."""

    def __init__(self, session):
        self.session, self.told = session, []

    def send(self, kind, data=b"", **more):
        self.told.clear()
        self.session.handle({"kind": kind, **more}, data, lambda *one: self.told.append(one))
        return self.told

    def all(self, kind):
        return [(event, data) for event, data in self.told if event["kind"] == kind]


@pytest.fixture(scope="module")
def mllm():
    return load_mllm(shipped(TESTBED_B_MODEL), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def problem():
    item = load_problems(shipped(TESTBED_B_PROBLEMS), limit=1)[0]
    return own_problem(item.image, item.question)


@pytest.fixture(scope="module")
def response(mllm, problem):
    return generate(mllm, [encode_problem(mllm, problem)])[0]


@pytest.fixture
def page(mllm):
    return Page(StudioSession(mllm))


@pytest.fixture(scope="module")
def asked(mllm, problem):
    """A page that has asked, and what it was told then."""
    page = Page(StudioSession(mllm))
    page.first = list(page.send("ask", png(problem.image), question=problem.question))
    return page


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_tokens_arrive_with_the_maps_of_the_rows_that_predict_them(asked, mllm, problem, response):
    asked.told = list(asked.first)
    tokens = asked.all("token")
    assert "".join(event["text"] for event, _ in tokens) == response.text
    maps = response_maps(mllm, problem, response.ids)
    expected = maps.grid.to_map(maps.weights.mean(axis=(0, 1)))
    drawn = np.stack([np.frombuffer(data, "<f4").reshape(6, 6) for _, data in tokens])
    # Token by token, with a cache, against one forward pass.
    np.testing.assert_allclose(drawn, expected, atol=1e-5)
    [(shown, data)] = asked.all("shown")
    assert shown["answers"] == [asked.session.asked.look.answer] and shown["whole"] == 4
    assert shown["steps"][0] == "1. The star is in column b." and len(data) > 10_000
    [(event, packed)] = asked.send("planes", names=["attention.0.1.2"])
    assert event["index"] == [["attention.0.1.2", 6, 6]] and packed


def test_an_answer_is_forced_after_any_step(asked, mllm, problem, response):
    table = open_commitment(mllm, [problem], [response.ids]).table
    for step in (0, 2, 4):
        [(event, _)] = asked.send("force", after=step)
        assert event["answer"] == table["forced"][step]
        assert event["p"] == pytest.approx(table["p"][step], abs=1e-4)


def test_a_hidden_region_is_asked_about_again(asked, mllm, problem, response):
    page, before = asked, asked.session.asked.look.record
    page.send("edit", cells=STAR, fill="mean")
    edited = occluded(problem.image, region(STAR, (6, 6), problem.size), "mean")
    [(_, picture)] = page.all("edited")
    assert (np.asarray(Image.open(io.BytesIO(picture))) == np.asarray(edited)).all()
    [again] = generate(mllm, [encode_problem(mllm, problem, image=edited)])
    [(shown, _)] = page.all("shown")
    assert [one["response"] for one in shown["state"]["spec"]["models"]] == [
        response.text,
        again.text,
    ]
    assert shown["answers"] == ["southeast", "east"]
    first, second = page.session.record.models
    assert (first.maps[0].weights == before.models[0].maps[0].weights).all()
    alone = response_maps(mllm, problem, response.ids, image=edited)
    assert (second.maps[0].weights == alone.weights).all()


def test_the_region_is_the_painted_cells_and_nothing_else():
    mask = region([0, 5], (2, 3), (7, 4))
    expected = np.zeros((4, 7), dtype=bool)
    expected[:2, :2] = expected[2:, 5:] = True
    assert (mask == expected).all()


def test_stop_keeps_what_was_written_and_answers_can_still_be_forced(page, problem):
    def tell(event, data):
        page.told.append((event, data))
        if len(page.all("token")) == 15:
            page.session.handle({"kind": "stop"}, b"", tell)

    message = {"kind": "ask", "question": problem.question}
    page.session.handle(message, png(problem.image), tell)
    [(shown, _)] = page.all("shown")
    assert len(page.all("token")) == 15 and shown["notes"][-1] == "Stopped after 15 tokens."
    # The second step was not finished.
    assert len(shown["steps"]) == 2 and shown["whole"] == 1
    [(event, _)] = page.send("force", after=1)
    assert event["kind"] == "forced" and event["answer"] and event["p"] is None


def test_a_message_while_the_model_writes_is_refused(page, problem):
    refused = []

    def tell(event, data):
        if event["kind"] == "token" and not refused:
            page.session.handle({"kind": "force"}, b"", lambda *one: refused.append(one))

    page.session.handle({"kind": "ask", "question": "?"}, png(problem.image), tell)
    assert "still at work" in refused[0][0]["text"]


def test_a_page_may_ask_on_as_it_hears_the_last_event(page, problem):
    """What a page sends at once arrives before the message that told it has been ended."""
    heard, waiting = [], []

    def tell(event, data):
        if event["kind"] == "shown":
            send = partial(page.session.handle, {"kind": "force"}, b"", lambda *e: heard.append(e))
            waiting.append(threading.Thread(target=send))
            waiting[0].start()
            waiting[0].join(0.1)

    page.session.handle({"kind": "ask", "question": problem.question}, png(problem.image), tell)
    waiting[0].join()
    assert [event["kind"] for event, _ in heard] == ["forced"]


@pytest.mark.parametrize(
    ("message", "data", "words"),
    [
        ({"kind": "ask", "question": "?"}, b"", "no picture yet"),
        ({"kind": "ask", "question": "?"}, b"GIF", "picture"),
        ({"kind": "force"}, b"", "Nothing was asked yet"),
        ({"kind": "edit", "cells": [0]}, b"", "Nothing was asked yet"),
        ({"kind": "planes", "names": ["x"]}, b"", "no maps yet"),
        ({"kind": "dance"}, b"", "no message 'dance'"),
        ({}, b"", "no message"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(page, message, data, words):
    page.session.handle(message, data, lambda *one: page.told.append(one))
    [(event, _)] = page.told
    assert event["kind"] == "error" and words in event["text"]
    page.session.handle({"kind": "start"}, b"", lambda *one: page.told.append(one))
    assert len(page.told) == 1  # Nothing to begin with, and not busy any more.


def test_wrong_regions_fills_formats_and_questions(page, problem, capsys):
    [(event, _)] = page.send("ask", png(problem.image), question=" ")
    assert "question is empty" in event["text"]
    [(event, _)] = page.send("ask", question="?", format="/etc/passwd")
    assert "no format '/etc/passwd'" in event["text"]
    page.send("ask", question=problem.question, options=["east", " ", "west"], format="tags")
    assert page.session.asked.problem.candidates == ("east", "west")
    [(event, _)] = page.send("edit", cells=[36], fill="mean")
    assert "Cells [36] are no region" in event["text"]
    [(event, _)] = page.send("edit", cells=[3], fill="magic")
    assert "Fill is 'magic'" in event["text"]
    [(event, _)] = page.send("force", after="two")
    assert "unexpected" in event["text"] and "ValueError" in capsys.readouterr().err


def test_a_picture_to_begin_with_and_an_example(mllm, problem):
    page = Page(StudioSession(mllm, image=problem.image, question="What is it?"))
    [(event, data)] = page.send("start")
    assert event["question"] == "What is it?" and data == png_of(data)
    assert page.session.about()["fills"][0] == ["telea", "inpaint"]
    [(event, _)] = page.send("example")
    assert "which way is it" in event["question"]


def png_of(data):
    assert Image.open(io.BytesIO(data)).format == "PNG"
    return data


def test_a_generation_tells_of_its_tokens_and_ends_when_told(mllm, problem, response):
    told = []
    prompts = [encode_problem(mllm, problem)] * 2
    made = generate(mllm, prompts, on_token=lambda ids: told.append(ids) or len(told) == 5)
    assert [one.ids for one in made] == [response.ids[:5]] * 2
    assert told == [[token] * 2 for token in response.ids[:5]]
    assert not made[0].finished
