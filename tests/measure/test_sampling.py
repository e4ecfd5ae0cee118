"""Runs whose responses are drawn as the checkpoint's publisher recommends."""

import pytest
from tiny import tiny_mllm

from attcot_analysis.errors import MeasureError, ModelError, RunError
from attcot_analysis.measures import dependence as module
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.problems import render_response
from attcot_analysis.runs.measure import measure, measure_run
from attcot_lab.testbed.arrows import generate_arrows

SMALL = {"batch_size": 2, "max_new_tokens": 8}
RECOMMENDED = {"do_sample": True, "temperature": 1.5, "top_k": 40}


@pytest.fixture(scope="module")
def problems():
    return generate_arrows(3, seed=0)


@pytest.fixture
def mllm():
    mllm = tiny_mllm()
    for name, value in RECOMMENDED.items():
        setattr(mllm.model.generation_config, name, value)
    return mllm


def test_what_was_recommended_is_recorded_and_a_run_keeps_to_it(mllm, problems, tmp_path):
    run = measure_run(
        tmp_path / "run", mllm, problems, ["answers", "direct"], sampling="recommended", **SMALL
    )
    assert run.manifest["config"]["sampling"] == RECOMMENDED
    drawn = run.read_table("answers_cot")
    greedy = measure(mllm, problems, ["answers", "direct"], **SMALL)["answers_cot"]
    assert list(greedy["text"]) == list(answer_problems(mllm, problems, **SMALL)["text"])
    assert list(drawn["text"]) != list(greedy["text"])
    again = measure(mllm, problems, ["answers", "direct"], sampling="recommended", **SMALL)
    assert list(again["answers_cot"]["text"]) == list(drawn["text"])
    other = measure(mllm, problems, ["answers"], sampling="recommended", seed=7, **SMALL)
    assert list(other["answers_cot"]["text"]) != list(drawn["text"])
    with pytest.raises(RunError, match=r"its config\.sampling is \{.*now it is None"):
        measure_run(tmp_path / "run", mllm, problems, ["answers", "direct"], **SMALL)


def test_a_greedy_run_says_nothing_of_it(mllm, problems, tmp_path):
    run = measure_run(tmp_path / "run", mllm, problems, ["answers"], **SMALL)
    assert "sampling" not in run.manifest["config"]


def test_what_cannot_be_drawn_is_refused_before_anything_is_computed(mllm, problems):
    with pytest.raises(ModelError, match="recommends no sampling"):
        measure(tiny_mllm(), problems, ["answers"], sampling="recommended", **SMALL)
    with pytest.raises(MeasureError, match="temperature of its own"):
        measure(mllm, problems, ["responses"], sampling="recommended", temperature=1.0, **SMALL)
    mllm.model.generation_config.do_sample = False
    with pytest.raises(MeasureError, match="recommends greedy responses, of which 2 samples"):
        measure(mllm, problems, ["responses"], sampling="recommended", samples=2, **SMALL)


def test_samples_of_a_recommendation_differ(mllm, problems):
    table = measure(mllm, problems, ["responses"], sampling="recommended", samples=2, **SMALL)
    texts = table["responses"].groupby("item")["text"].nunique()
    assert texts.max() == 2


def test_regenerated_rationales_are_drawn_alike(mllm, problems, monkeypatch):
    seen = []

    def watched(*arguments, **options):
        seen.append((options["sampling"], options["seed"]))
        return answer_problems(*arguments, **options)

    monkeypatch.setattr(module, "answer_problems", watched)
    module.dependence(
        mllm,
        problems,
        [render_response([step.text for step in one.steps], one.answer) for one in problems],
        edits=("blank",),
        rationales=("regenerated",),
        sampling="recommended",
        seed=4,
        **SMALL,
    )
    assert seen == [("recommended", 4)]
