"""Sentences about a record say what its numbers say, and nothing where it has none."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.measures.maps import ResponseMaps
from attcot_analysis.models import TokenGrid
from attcot_analysis.problems import Problem, Step
from attcot_analysis.show.explorer.build import describe_record
from attcot_analysis.show.explorer.record import ExplorerModel, ExplorerRecord

TOKENS = ("<think>", "1. left", " eye", "2. down", " there", "</think>", "red")
STEPS = (0, 1, 1, 2, 2, 0, 0)
LEFT, RIGHT = (0, 0, 10, 30), (20, 0, 30, 30)
"""A third of the picture each: columns 0 and 2 of 3 x 3 patches."""
GRID = TokenGrid.regular((30, 30), 3, 3)


def problem(**changed):
    fields = {
        "id": "one",
        "image": Image.new("RGB", (30, 30)),
        "question": "?",
        "candidates": ("red", "blue"),
        "answer": "red",
        "habitual": "blue",
        "steps": (Step("left eye", boxes=(LEFT,)), Step("down there", boxes=(RIGHT,))),
    }
    return Problem(**{**fields, **changed})


def commitment(*p_red):
    """Forced answers after 0 to K steps."""
    rows = [
        ("one", "rationale", step, len(p_red) - 1, candidate, p, False)
        for step, value in enumerate(p_red)
        for candidate, p in (("red", value), ("blue", 1 - value))
    ]
    columns = ["item", "control", "step", "n_steps", "candidate", "p", "leaked"]
    return pd.DataFrame(rows, columns=columns).assign(log_p=lambda t: np.log(t["p"]))


def model(label, at, p_red, answer, response="..."):
    """A model that puts 0.5 on one patch at each token (at: token -> patch) and 0.1 elsewhere."""
    weights = np.zeros((2, 2, len(TOKENS), 9), dtype=np.float32)
    for token in range(len(TOKENS)):
        weights[:, :, token, at.get(token, 4)] = 0.5 if token in at else 0.1
    boxes = tuple({1: (LEFT,), 2: (RIGHT,)}.get(step, ()) for step in STEPS)
    maps = ResponseMaps(weights, GRID, TOKENS, STEPS, boxes, answer=6)
    return ExplorerModel(
        label,
        (maps,),
        commitment=None if p_red is None else commitment(*p_red),
        response=response,
        answer=answer,
    )


def record(*models, **changed):
    return ExplorerRecord(problem=problem(**changed), models=models)


def paragraphs(found, **options):
    return [part.split("\n") for part in describe_record(found, **options).split("\n\n")]


# The second step's second token and the answer look at the lower right patch, all of it evidence.
BEFORE = model("Base", {4: 8, 6: 8}, (0.4, 0.45, 0.9), "red")
AFTER = model("CoT-SFT", {4: 6, 6: 0}, (0.1, 0.2, 0.3), "blue")


def test_the_sentences_say_what_was_planted():
    step, answer, mind, written = paragraphs(record(BEFORE, AFTER))
    assert step[0] == "Where did it look when it wrote step 2, “down there”?"
    assert step[1] == "(shares of attention; uniform attention would put 0.33 on the evidence)"
    # Token 3 has 0.1 in the centre, token 4 has 0.5 at the lower right: mean mass 0.3, 5/6 of it.
    assert step[2] == (
        "  Base     strongest lower right; 0.30 on the picture, of that 0.83 on the evidence "
        "(1.00 at “there”)"
    )
    assert "strongest lower left" in step[3] and "of that 0.00 on the evidence" in step[3]
    assert "strongest lower right; 0.50" in answer[2] and "of that 1.00" in answer[2]
    assert "strongest upper left" in answer[3] and "of that 0.00" in answer[3]
    assert mind[1] == "  Base     after step 2 of 2: red (0.40 0.45 0.90)"
    assert mind[2] == "  CoT-SFT  before it wrote anything: blue (0.90 0.80 0.70)"
    assert written[1:] == [
        "  Base     red, which is right",
        "  CoT-SFT  blue, which is wrong (right: red), the habitual answer",
    ]


def test_another_step_is_told_of_when_asked_for():
    step = paragraphs(record(model("Base", {1: 3}, (0.4, 0.9, 0.9), "red")), step=1)[0]
    assert "step 1, “left eye”" in step[0]
    assert "strongest middle left" in step[2] and "(1.00 at “1. left”)" in step[2]


def test_near_equals_are_no_made_up_mind():
    *_, mind, written = paragraphs(record(model("Base", {}, (0.51, 0.45, 0.55), None)))
    assert "after step 2 of 2" in mind[1]
    assert written[1].endswith("none that can be told")
    three = problem(candidates=("red", "blue", "green"))
    table = commitment(0.4, 0.4, 0.4)
    table.loc[table["candidate"] == "blue", "p"] = 0.3
    green = table[table["candidate"] == "blue"].assign(candidate="green")
    unsure = replace(BEFORE, commitment=pd.concat([table, green], ignore_index=True))
    text = describe_record(ExplorerRecord(problem=three, models=(unsure,)))
    assert "never (p stays below 0.5): red (0.40 0.40 0.40)" in text


def test_what_was_not_measured_is_not_told():
    maps = BEFORE.maps[0]
    bare = replace(maps, boxes=((),) * len(TOKENS), answer=None)
    found = paragraphs(
        record(ExplorerModel("mine", (bare,)), steps=(Step("left eye"), Step("down there")))
    )
    assert len(found) == 1
    assert "evidence" not in " ".join(found[0])
    blind = replace(maps, weights=np.zeros_like(maps.weights))
    assert "nan" not in describe_record(record(ExplorerModel("mine", (blind,))))


def test_a_step_that_is_not_there_is_refused():
    with pytest.raises(ShowError, match="no step 3 to describe; the text has steps 1 to 2"):
        describe_record(record(BEFORE), step=3)
