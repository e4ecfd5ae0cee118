"""What all results share: their table is checked once, described in words and drawn."""

import ast
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import matplotlib.figure
import pytest

import attcot_analysis
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures._items import FIGURES, Result, paired
from attcot_analysis.measures.access import answer_access, visual_access
from attcot_analysis.measures.behaviours import Behaviour
from attcot_analysis.measures.causal import causal_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.measures.divergence import token_divergence
from attcot_analysis.measures.heads import visual_heads
from attcot_analysis.measures.lens import lens_commitment
from attcot_analysis.measures.open_answers import open_commitment
from attcot_analysis.measures.outcomes import CotOutcomes
from attcot_analysis.measures.patches import patching
from attcot_analysis.measures.relevance import relevance
from attcot_analysis.measures.statements import Perceptions
from attcot_analysis.measures.states import HiddenCommitment, Steering
from attcot_analysis.problems import render_response
from attcot_lab.testbed.arrows import generate_arrows

LIBRARY = Path(attcot_analysis.__file__).parent
PROBLEMS = generate_arrows(4, seed=3)
TEXTS = [render_response(item.steps, item.answer) for item in PROBLEMS]
MEASURES = {
    "commitment": commitment,
    "open_commitment": open_commitment,
    "access": visual_access,
    "answer_access": answer_access,
    "causal": causal_access,
    "heads": visual_heads,
    "relevance": partial(relevance, sources=("attention", "rollout")),
    "divergence": token_divergence,
    "lens": lens_commitment,
    "patching": partial(patching, windows=[(0, 2)]),
    "dependence": partial(dependence, rationales=("fixed",)),
}


@pytest.fixture(scope="module")
def results(random_mllm):
    """By name; the first response has nothing that could be measured."""
    given = [PROBLEMS, ["", *TEXTS[1:]]]
    return {name: measure(random_mllm, *given, empty="skip") for name, measure in MEASURES.items()}


@pytest.mark.parametrize("name", MEASURES)
def test_a_result_is_described_with_what_was_left_out_first_and_drawn(results, name):
    result = results[name]
    said = result.describe()
    (why,) = result.skipped
    left_out, title, _ = said.partition(f"{result.title} of 3 items:")
    assert left_out.startswith(f"1 item left out ({why}): {PROBLEMS[0].id}. ") and title
    assert "n=3" in said and "95 % bootstrap intervals" in said and "nan" not in said
    assert isinstance(result.figure(), matplotlib.figure.Figure)


@pytest.mark.parametrize("name", MEASURES)
def test_a_table_without_columns_or_rows_is_refused(results, name):
    result = results[name]
    for column in result.columns:
        with pytest.raises(MeasureError, match=f"The table {name} lacks {column};"):
            type(result)(result.table.drop(columns=column))
    with pytest.raises(MeasureError, match="has no rows"):
        type(result)(result.table.iloc[:0])


def test_every_result_has_a_figure_and_nothing_else_is_looked_up_by_name(results):
    # Outcomes are read off tables of answers, without a model: tests/reports/test_outcomes.py.
    # Decoders need more items than there are here: test_states.py; for writers and for statements
    # there are test_behaviour.py and test_perceptions.py.
    from_a_model = {type(result) for result in results.values()}
    others = {Behaviour, CotOutcomes, HiddenCommitment, Perceptions, Steering}
    assert from_a_model | others == set(Result.__subclasses__())
    for kind in Result.__subclasses__():
        assert callable(getattr(import_module(FIGURES), kind.name))
    rooms = ("problems", "stats", "models", "attention", "measures", "runs")
    for path in (file for room in rooms for file in (LIBRARY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            # Figures are found by name, and a user's own edit by the module that is named.
            assert name != "import_module" or path.name in ("_items.py", "edits.py")


def test_items_are_paired_and_those_that_cannot_be_measured_counted(random_mllm):
    bare = {"candidates": (), "twin": None, "control": None, "habitual": None}
    items = [*PROBLEMS[:2], replace(PROBLEMS[2], **bare)]
    texts = [TEXTS[0], "red", TEXTS[2]]
    found = paired(random_mllm, items, texts, forced=True, empty="skip")
    assert found.places == [0]
    ids = [item.id for item in items]
    assert found.skipped == {"no rationale step": (ids[1],), "an open question": (ids[2],)}
    with pytest.raises(MeasureError, match=r"it is an open question.*empty='skip'"):
        paired(random_mllm, items[2:], texts[2:], forced=True)
    with pytest.raises(MeasureError, match="All items are open questions"):
        paired(random_mllm, items[2:], texts[2:], forced=True, empty="skip")
    with pytest.raises(MeasureError, match="No response states an answer"):
        paired(random_mllm, items[:1], ["red"], need="answer", empty="skip")
    with pytest.raises(MeasureError, match="choose from error, skip"):
        paired(random_mllm, items, texts, empty="drop")
