"""From models to an explorer: what is measured is what is shown."""

import numpy as np
import pytest
from families import shared_family
from tiny import tiny_mllm

from attcot_analysis.errors import MeasureError, ShowError
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.measures.relevance import relevance_maps
from attcot_analysis.problems import render_response
from attcot_analysis.show.explorer import build as flow
from attcot_analysis.show.explorer.build import by_token, explore, explorer_record
from attcot_analysis.show.explorer.page import explorer_page
from attcot_analysis.show.explorer.planes import plane_weights
from attcot_analysis.show.explorer.record import PlaneKey
from attcot_lab.testbed.kinds import generate_problems


@pytest.fixture(scope="module")
def problem():
    return generate_problems("arrows", 1, seed=3)[0]


@pytest.fixture(scope="module")
def response(problem):
    return render_response(problem.steps, problem.answer)


@pytest.fixture(scope="module")
def record(random_mllm, problem):
    """Before and after; a random model states no answer by itself."""
    models = {"CoT-SFT": random_mllm, "Att-CoT": tiny_mllm(seed=1)}
    return explorer_record(models, problem, max_new_tokens=4)


def test_several_models_get_the_same_words(record, problem, response):
    assert "".join(record.tokens) == response
    assert record.text.startswith("The right rationale")
    assert record.answer is not None and record.sources == (
        "attention",
        "sink_free",
        "rollout",
        "gradient_relevance",
    )
    assert [model.label for model in record.models] == ["CoT-SFT", "Att-CoT"]
    assert not np.allclose(*(model.maps[0].weights for model in record.models))


def test_the_record_holds_what_measure_measures(record, random_mllm, problem, response):
    model = record.models[0]
    maps = response_maps(random_mllm, problem, response)
    assert (model.maps[0].weights == maps.weights).all()
    rolled = relevance_maps(
        random_mllm, problem, response, source="rollout", targets="tokens"
    ).weights
    assert (model.by_source["rollout"].weights == rolled).all()
    table = commitment(random_mllm, [problem], [response], controls=("rationale",)).table
    assert model.commitment["p"].tolist() == table["p"].tolist()
    mass = plane_weights(record, PlaneKey("attention", 0)).sum(axis=1)
    assert mass == pytest.approx(maps.weights.sum(-1).mean((0, 1)), rel=1e-5)


def test_relevance_of_a_step_stands_at_its_tokens(record, random_mllm, problem, response):
    steps = relevance_maps(random_mllm, problem, response, source="gradient_relevance")
    weights = record.models[0].by_source["gradient_relevance"].weights[0, 0]
    for token, step in enumerate(record.steps):
        if step:
            assert (weights[token] == steps.weights[0, 0, step - 1]).all()
    assert (weights[record.answer] == steps.weights[0, 0, steps.answer]).all()
    assert np.isnan(weights[0]).all() and np.isnan(weights[-1]).all()
    again = by_token(steps, record.models[0].maps[0])
    assert np.array_equal(again.weights[0, 0], weights, equal_nan=True)


def test_one_model_speaks_for_itself(random_mllm, problem, response, monkeypatch):
    ids = random_mllm.tokenizer(response, add_special_tokens=False)["input_ids"]
    answers = flow.answer_problems

    def says(*given, **more):
        table = answers(*given, **more)
        table.at[0, "ids"] = ids
        return table

    monkeypatch.setattr(flow, "answer_problems", says)
    explorer = explore(random_mllm, problem, max_new_tokens=4, token="answer", layer=1)
    assert explorer.record.text == "What tiny writes by itself."
    assert "".join(explorer.record.tokens) == response
    chosen = explorer.selection
    assert (chosen.layer, chosen.token) == (1, explorer.record.answer)
    assert repr(explorer).startswith(f"Explorer(tiny: item {problem.id}, ")


def test_sources_and_heads_can_be_chosen(random_mllm, problem, response):
    record = explorer_record(
        random_mllm,
        problem,
        response,
        sources=["attention"],
        heads=[(2, 1), (0, 3)],
        max_new_tokens=4,
    )
    assert record.sources == ("attention",) and record.heads == ((2, 1), (0, 3))
    assert record.heads_note == "Visual heads as given." and record.text == "The response given."
    with pytest.raises(MeasureError, match=r"\['magic'\] are unknown"):
        explorer_record(random_mllm, problem, response, sources=["magic"])
    with pytest.raises(MeasureError, match="No model"):
        explorer_record({}, problem)
    with pytest.raises(ShowError, match="no heads"):
        explorer_record(random_mllm, problem, response, heads=[(2, 9)], max_new_tokens=4)


@pytest.mark.parametrize("family", ["internvl", "llava_next", "gemma3"])
def test_pictures_cut_into_tiles_and_windows_of_attention(family, problem, response):
    """Tiles have no single grid; of Gemma 3 only the layers without a window are read."""
    mllm = shared_family(family)
    record = explorer_record(mllm, problem, response, max_new_tokens=4)
    maps = response_maps(mllm, problem, response)
    assert record.shape == maps.grid.resolution
    weights = plane_weights(record, PlaneKey("attention", 0, 0, 1))
    assert weights == pytest.approx(maps.weights[0, 1])
    assert len(record.layers) == record.n_layers == maps.weights.shape[0]
    if family == "gemma3":
        assert record.n_layers < mllm.n_layers
    assert f"{record.shape[0]}x{record.shape[1]}" in repr(record)
    assert len(explorer_page(record)) > 50_000


def test_what_is_not_defined_for_a_model_is_left_out_and_said(
    random_mllm, problem, response, monkeypatch
):
    def refuse(*given, source, **more):
        if source == "rollout":
            raise MeasureError("This model cannot be followed.")
        return relevance_maps(*given, source=source, **more)

    monkeypatch.setattr(flow, "relevance_maps", refuse)
    record = explorer_record(random_mllm, problem, response, max_new_tokens=4)
    assert record.sources == ("attention", "sink_free", "gradient_relevance")
    assert record.text == "The response given. No rollout: This model cannot be followed."
    with pytest.raises(MeasureError, match="cannot be followed"):
        explorer_record(random_mllm, problem, response, sources=["rollout"], max_new_tokens=4)


def test_without_anywidget_one_sentence_says_what_to_do(random_mllm, problem, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "attcot_analysis.show.explorer.widget", raising=False)
    with pytest.raises(ShowError, match=r"pip install 'attcot-analysis\[notebooks\]'"):
        explore(random_mllm, problem)
