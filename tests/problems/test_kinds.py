"""Charts and counting: exact twins, controls, boxes and knobs, and what all kinds share."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from num2words import num2words

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.response import parse_response, render_response
from attcot_lab.testbed.arrows import NAMES
from attcot_lab.testbed.charts import UNIT, ChartsConfig, generate_charts, solve_chart
from attcot_lab.testbed.counting import (
    CountingConfig,
    Thing,
    _Asked,
    generate_counting,
    solve_scene,
)
from attcot_lab.testbed.kinds import KINDS, generate_problems, read_knobs


def _changed(first, second):
    return (np.asarray(first) != np.asarray(second)).any(axis=-1)


charts = st.one_of(
    st.builds(ChartsConfig, task=st.just("compare")),
    st.builds(ChartsConfig, task=st.sampled_from(["read", "combine"]), names_places=st.booleans()),
)
charts = st.builds(
    replace,
    charts,
    style=st.sampled_from(["bar", "line"]),
    noise=st.sampled_from([0.0, 120.0]),
    prior=st.sampled_from([None, 0.0, 0.95]),
    states_evidence=st.booleans(),
)
scenes = st.builds(
    CountingConfig,
    task=st.sampled_from(["count", "compare"]),
    any_shape=st.booleans(),
    enumerates=st.booleans(),
    size=st.integers(3, 5),
    fill=st.sampled_from([0.8, 1.0]),
    noise=st.sampled_from([0.0, 120.0]),
    prior=st.sampled_from([None, 0.0, 0.95]),
    states_evidence=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(st.one_of(charts, scenes), st.integers(0, 10_000))
def test_every_problem_is_what_it_claims_to_be(config, seed):
    generate = generate_charts if isinstance(config, ChartsConfig) else generate_counting
    for problem in generate(3, config, seed=seed):
        assert problem.candidates == config.answers
        assert all(step.boxes for step in problem.steps)
        assert problem.twin.answer not in (problem.answer, "None")
        assert problem.control.answer == problem.answer
        for edit in (problem.twin, problem.control):
            (x0, y0, x1, y1) = edit.boxes[0]
            changed = _changed(problem.image, edit.image)
            assert changed.any()
            changed[y0:y1, x0:x1] = False
            assert not changed.any()
        written = parse_response(render_response(problem.steps, problem.answer))
        assert len(written.steps) == len(problem.steps)
        assert written.answer == problem.answer


@pytest.mark.parametrize("kind", KINDS)
def test_twin_and_control_change_as_many_pixels_on_a_crisp_picture(kind):
    for problem in generate_problems(kind, 40, seed=3):
        twin, control = (_changed(problem.image, e.image) for e in (problem.twin, problem.control))
        # A line's neighbours, a shape's place and a bar's rules differ by a few pixels.
        assert twin.sum() == pytest.approx(control.sum(), rel=0.1) and twin.any()


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes_and_items_do_not_depend_on_how_many_are_made(kind):
    few = generate_problems(kind, 3, seed=7, noise=60.0)
    many = generate_problems(kind, 6, seed=7, noise=60.0)
    for a, b in zip(few, many, strict=False):
        assert (a.id, a.question, a.answer, a.steps) == (b.id, b.question, b.answer, b.steps)
        assert a.image.tobytes() == b.image.tobytes()
    assert generate_problems(kind, 1, seed=8)[0].image.tobytes() != few[0].image.tobytes()
    train = generate_problems(kind, 1, seed=7, noise=60.0, split="train")[0]
    assert train.image.tobytes() != few[0].image.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prior", [0.95, None])
def test_the_prior_knob_sets_how_often_the_habitual_answer_is_right(kind, prior):
    problems = generate_problems(kind, 400, seed=2, split="train", prior=prior)
    share = np.mean([problem.answer == problem.habitual for problem in problems])
    expected = 1 / len(problems[0].candidates) if prior is None else prior
    assert share == pytest.approx(expected, abs=0.07)
    assert len({problem.metadata.get("person") for problem in problems} - {None}) in (0, len(NAMES))


@pytest.mark.parametrize("kind", ["arrows", "charts", "counting"])
def test_balanced_answers_are_spread_and_the_rationale_does_not_give_them_away(kind):
    problems = generate_problems(kind, 400, seed=5)
    counted = Counter(problem.answer for problem in problems)
    n = len(problems[0].candidates)
    assert set(counted) == set(problems[0].candidates)
    assert max(counted.values()) / 400 < 1.6 / n
    assert len({len(problem.steps) for problem in problems}) == 1
    for problem in problems:
        assert all(
            problem.twin.steps[at].text == step.text for at, step in enumerate(problem.steps)
        )


def test_stated_evidence_is_what_the_picture_shows():
    for problem in generate_charts(30, ChartsConfig(states_evidence=True), seed=4):
        values = [int(step.text.rstrip(".").split()[-1]) for step in problem.steps[:2]]
        assert str(values[0] - values[1]) == problem.answer
        assert problem.steps[2].text == f"Take {values[1]} from {values[0]}."
        for step, value in zip(problem.steps, values, strict=False):
            (x0, y0, _, y1) = step.boxes[0]
            column = np.asarray(problem.image)[y0:y1, x0 + UNIT // 2]
            coloured = (column.max(-1).astype(int) - column.min(-1) > 60).sum()
            assert round(coloured / UNIT) == value
    for problem in generate_counting(30, CountingConfig(states_evidence=True), seed=4):
        rows = [int(step.text.rstrip(".").split()[-1]) for step in problem.steps[:3]]
        assert str(sum(rows)) == problem.answer


def test_columns_can_be_named_by_place_and_rows_enumerated():
    config = ChartsConfig(names_places=True, states_evidence=True)
    for problem in generate_charts(30, config, seed=4):
        said = [re.fullmatch(r"Bar (\d) reaches (\d)\.", s.text) for s in problem.steps[:2]]
        places, values = ([int(found[at]) for found in said] for at in (1, 2))
        assert f"bar {places[0]} higher than bar {places[1]}?" in problem.question
        assert str(values[0] - values[1]) == problem.answer
        for step, place in zip(problem.steps, places, strict=False):
            assert step.boxes[0][0] == (place - 1) * UNIT
    with pytest.raises(ProblemError, match="named by colour"):
        ChartsConfig(task="compare", names_places=True)
    config = CountingConfig(any_shape=True, colour="red", states_evidence=True, enumerates=True)
    for problem in generate_counting(30, config, seed=4):
        asked = "red"
        assert "How many red shapes" in problem.question
        said = []
        for row, step in enumerate(problem.steps[:3], start=1):
            cells = re.fullmatch(rf"Row {row}: (\w+ \w+), (\w+ \w+), (\w+ \w+)\.", step.text)
            said += [cell.split() for cell in cells.groups()]
        words = [word for word, _ in said]
        for at, (_, so_far) in enumerate(said, start=1):
            assert so_far == num2words(words[:at].count(asked))
        assert said[-1][1] == num2words(problem.answer)
        assert words.count("empty") == 9 - config.n_things


def test_charts_are_read_compared_and_combined():
    chart = {"red": 3, "green": 5, "blue": 1}
    assert solve_chart(chart, ["red"], "read") == "3"
    assert solve_chart(chart, ["blue", "green", "red"], "compare") == "green"
    assert solve_chart({**chart, "red": 5}, ["green", "red", "blue"], "compare") is None
    assert solve_chart(chart, ["green", "blue"], "combine") == "4"
    assert solve_chart(chart, ["blue", "green"], "combine") is None


def test_scenes_are_counted_and_compared():
    scene = {
        (0, 0): Thing("red", "star", (0, 0)),
        (1, 0): Thing("red", "circle", (0, 0)),
        (2, 2): Thing("blue", "star", (0, 0)),
    }
    assert solve_scene(scene, _Asked("count", ("red",), "star")) == "1"
    assert solve_scene(scene, _Asked("count", ("green",), "star")) is None
    assert solve_scene(scene, _Asked("compare", ("blue", "red"), None)) == "red"
    assert solve_scene(scene, _Asked("compare", ("blue", "green"), None)) == "blue"
    assert solve_scene(scene, _Asked("compare", ("green", "purple"), None)) is None


@pytest.mark.parametrize(
    ("kind", "knob", "value"),
    [
        ("charts", "task", "guess"),
        ("charts", "style", "pie"),
        ("charts", "noise", -1.0),
        ("counting", "task", "guess"),
        ("counting", "size", 2),
        ("counting", "fill", 0.2),
        ("counting", "fill", 1.2),
        ("counting", "prior", 1.5),
        ("charts", "hops", 2),
        ("maps", "noise", 0.0),
    ],
)
def test_what_does_not_fit_is_refused(kind, knob, value):
    with pytest.raises(ProblemError, match=r"choose|at least|between|at most|do not fit"):
        generate_problems(kind, 1, **{knob: value})


@pytest.mark.parametrize("kind", KINDS)
def test_a_negative_number_of_problems_is_refused(kind):
    with pytest.raises(ProblemError, match="0 or more"):
        generate_problems(kind, -1)


def test_knobs_are_read_from_words():
    found = read_knobs(["hops=3", "task=compare", "fill=0.9", "prior=null", "end=[1, 1]"])
    assert found == {"hops": 3, "task": "compare", "fill": 0.9, "prior": None, "end": [1, 1]}
    with pytest.raises(ProblemError, match="KNOB=VALUE"):
        read_knobs(["hops"])
