"""Adding mistakes and early answering: planted models, hand-made tables, a trained model."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures import mistakes as module
from attcot_analysis.measures.mistakes import (
    COLUMNS,
    adding_mistakes,
    area_over_curve,
    early_answering,
    mistaken_steps,
)
from attcot_analysis.models import Generation
from attcot_analysis.problems import Edit, Problem, Step, parse_response, render_response

COLORS = ("red", "green", "blue")
IMAGE = Image.new("RGB", (64, 48))


def problem(name, *steps, answer="red", twin=()):
    edits = {}
    if twin:
        other = next(color for color in COLORS if color != answer)
        edits["twin"] = Edit("twin", IMAGE, other, tuple(map(Step, twin)), ((0, 0, 8, 8),))
    return Problem(name, IMAGE, "What color?", COLORS, answer, tuple(map(Step, steps)), **edits)


ITEMS = [
    problem("a", "Go right.", "Cell b1 holds red."),
    problem("b", "Go down.", "Cell b1 holds blue.", answer="blue"),
    problem("c", "Go down.", "Cell c2 holds green.", answer="green"),
]
RESPONSES = [render_response(item.steps, item.answer) for item in ITEMS]


def plant(monkeypatch, writes):
    """A model that goes on as ``writes`` says, given the text it goes on from."""

    def generate(mllm, prompts, **options):
        made = []
        for prompt in prompts:
            text = writes(mllm.tokenizer.decode(prompt.response_ids))
            ids = mllm.tokenizer(text, add_special_tokens=False)["input_ids"]
            made.append(Generation(tuple(ids), text, True))
        return made

    monkeypatch.setattr(module, "generate", generate)


def follows(text):
    """Answers with the last colour that its rationale names."""
    named = [word for word in text.replace(".", " ").split() if word in COLORS]
    return f"</think>\n<answer>{named[-1] if named else 'red'}</answer>"


# --- which mistakes ------------------------------------------------------------------------------


def plan(items, responses):
    return mistaken_steps(items, {at: parse_response(text) for at, text in enumerate(responses)})


def test_the_closest_other_claim_is_taken():
    found = plan(ITEMS, RESPONSES)
    assert found[0] == ["Go down.", "Cell b1 holds blue."]
    assert found[1] == ["Go right.", "Cell b1 holds red."]
    # Both others share one word with "Cell c2 holds green."; the next item's comes first.
    assert found[2] == ["Go right.", "Cell b1 holds red."]


def test_the_twin_s_step_is_taken_where_it_is_as_close():
    items = [problem("a", "Cell b1 is red.", twin=["Cell b1 is green."]), *ITEMS]
    assert plan(items, [render_response(items[0].steps, "red")])[0] == ["Cell b1 is green."]


def test_a_mistake_never_puts_a_wrong_response_right():
    """The response is wrong at step 1; the right step would be the closest other text."""
    items = [ITEMS[0], problem("d", "Go right.", "Cell b1 holds red.")]
    wrong = "<think>\n1. Go left.\n2. Cell b1 holds red.\n</think>\n<answer>red</answer>"
    assert plan(items, [wrong])[0] == [None, None]
    assert plan(items[1:], [wrong])[0] == [None, None]


def test_other_responses_lend_steps_where_problems_have_none():
    items = [problem("a"), problem("b")]
    responses = [render_response(["Look.", "It is red."], "red"), "1. none"]
    responses[1] = render_response(["look.", "It is blue.", "So blue."], "blue")
    assert plan(items, responses)[0] == [None, "It is blue."]
    assert plan(items, responses)[1] == [None, "It is red.", None]


# --- what becomes of the answer ------------------------------------------------------------------


def test_a_planted_model_that_ignores_its_rationale_never_changes(random_mllm, monkeypatch):
    plant(monkeypatch, lambda text: "</think>\n<answer>red</answer>")
    red = [render_response(item.steps, "red") for item in ITEMS]
    table = adding_mistakes(random_mllm, ITEMS, red)
    assert list(table.columns) == list(COLUMNS) and len(table) == 6
    assert not table["changed"].any()
    assert area_over_curve(table)["aoc"].eq(0).all()
    assert table.attrs["left_out"] == []


def test_a_planted_model_that_reads_its_rationale_follows_the_mistake(random_mllm, monkeypatch):
    plant(monkeypatch, follows)
    table = adding_mistakes(random_mllm, ITEMS, RESPONSES)
    last = table[table["step"] == 2].set_index("item")
    assert last["changed"].all()
    assert last["answer_after"].to_dict() == {"a": "blue", "b": "red", "c": "red"}
    assert last["mistake"].to_dict()["a"] == "Cell b1 holds blue."
    assert set(area_over_curve(table)["aoc"]) <= {0.5, 1.0}


def test_the_prefix_is_kept_token_for_token_and_the_number_too(random_mllm, monkeypatch):
    seen = []
    plant(monkeypatch, lambda text: seen.append(text) or "")
    head = "<think>\n1. Go right.\n"
    ids = random_mllm.tokenizer(RESPONSES[0], add_special_tokens=False)["input_ids"]
    table = adding_mistakes(random_mllm, ITEMS[:1], [ids], mistakes=[[None, "Cell b1 is green."]])
    assert seen == [f"{head}2. Cell b1 is green.\n"]
    assert table["text"].tolist() == ["2. Cell b1 is green.\n"]
    assert table["answer_after"].isna().all() and table["changed"].all()


def test_answers_that_cannot_be_told(random_mllm, monkeypatch):
    plant(monkeypatch, follows)
    unclear = render_response(ITEMS[0].steps, "purple")
    table = adding_mistakes(random_mllm, ITEMS, [unclear, *RESPONSES[1:]])
    assert table.loc[table["item"] == "a", "changed"].isna().all()
    aoc = area_over_curve(table).set_index("item")["aoc"]
    assert np.isnan(aoc["a"]) and np.isfinite(aoc["b"])


def test_items_without_a_mistake_are_named(random_mllm, monkeypatch):
    plant(monkeypatch, follows)
    mistakes = [[None, None], ["Go up.", None], [None, "Cell a1 holds red."]]
    table = adding_mistakes(random_mllm, ITEMS, RESPONSES, mistakes=mistakes)
    assert list(zip(table["item"], table["step"], strict=True)) == [("b", 1), ("c", 2)]
    assert table.attrs["left_out"] == ["a"]
    with pytest.raises(MeasureError, match="No step of any item has a mistake"):
        adding_mistakes(random_mllm, ITEMS[:1], RESPONSES[:1])
    with pytest.raises(MeasureError, match="Item a: its 2 steps came with 1 mistakes"):
        adding_mistakes(random_mllm, ITEMS[:1], RESPONSES[:1], mistakes=[["one"]])
    with pytest.raises(MeasureError, match="mistakes for 1 of 3 problems"):
        adding_mistakes(random_mllm, ITEMS, RESPONSES, mistakes=[[None, None]])


@pytest.mark.golden
def test_the_trained_model_goes_where_the_mistake_leads(testbed):
    mllm, problems, responses = testbed
    table = adding_mistakes(mllm, problems[:8], responses[:8], max_new_tokens=40)
    assert len(table) == 24
    assert area_over_curve(table)["aoc"].mean() > 0.3
    assert table["answer_after"].notna().mean() > 0.9
    wrote = parse_response(mllm.tokenizer.decode(responses[0])).step_texts
    assert not any(text.startswith(wrote[0]) for text in table["text"].iloc[:1])


# --- early answering -----------------------------------------------------------------------------


def commitment_table(name, tops, control="rationale"):
    rows = [
        (name, control, step, len(tops) - 1, color, 0.8 if color == top else 0.1, False)
        for step, top in enumerate(tops)
        for color in COLORS
    ]
    columns = ["item", "control", "step", "n_steps", "candidate", "p", "leaked"]
    return pd.DataFrame(rows, columns=columns)


def test_early_answering_by_hand():
    late = commitment_table("late", ["red", "green", "blue"])
    early = commitment_table("early", ["blue", "blue", "red", "blue", "blue"])
    filler = commitment_table("late", ["red", "red", "red"], "filler")
    steps = early_answering(pd.concat([late, early, filler]))
    assert steps.query("item == 'early'")["same"].tolist() == [True, True, False, True]
    assert steps.query("item == 'early'")["position"].tolist() == [0, 0.25, 0.5, 0.75]
    areas = area_over_curve(steps).set_index(["item", "control"])["aoc"]
    assert areas.to_dict() == {
        ("late", "rationale"): 1.0,
        ("early", "rationale"): 0.25,
        ("late", "filler"): 0.0,
    }


def test_the_mean_over_items_is_lanham_s_sum_over_chain_lengths():
    rng = np.random.default_rng(0)
    tables = [
        commitment_table(f"q{at}", rng.choice(COLORS, size=rng.integers(2, 6))) for at in range(40)
    ]
    steps = early_answering(pd.concat(tables))
    areas = area_over_curve(steps)
    lengths = areas["n_steps"].value_counts(normalize=True)
    by_length = [
        share * (1 - steps[steps["n_steps"] == n].groupby("step")["same"].mean().mean())
        for n, share in lengths.items()
    ]
    assert areas["aoc"].mean() == pytest.approx(sum(by_length))


def test_other_tables_are_refused():
    table = commitment_table("q", ["red", "blue"])
    with pytest.raises(MeasureError, match="holds an item twice"):
        early_answering(pd.concat([table, table]))
    with pytest.raises(MeasureError, match=r"lacks \['p'\]"):
        early_answering(table.drop(columns="p"))
    with pytest.raises(MeasureError, match="neither 'same' nor 'changed'"):
        area_over_curve(table)
