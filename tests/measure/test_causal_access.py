"""Causal access: equal to one plain pass per answer, and it finds what an answer hangs on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILY_NAMES, shared_family
from spelt_out import cut_eagerly, eager_copy, mean_valued, respond
from tiny import noise_image

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures import causal as module
from attcot_analysis.measures.answers import answer_problems, answer_row
from attcot_analysis.measures.causal import (
    GROUP,
    CausalAccess,
    causal_access,
    layer_windows,
)
from attcot_analysis.models import collate, encode_problem, load_mllm
from attcot_analysis.problems import (
    ANSWER_CUE,
    Problem,
    load_problems,
    render_response,
)
from attcot_analysis.problems.response import ANSWER_CLOSE
from attcot_analysis.shipped import TESTBED_MODEL, TESTBED_PROBLEMS, shipped

EXACT = 1e-4
# As many tokens each, or random weights are certain of the shortest.
CANDIDATES = ("green", "yellow", "white")
STEPS = ("The star is in cell a1.", "Cell b1 holds a red circle.", "The arrow points down.")


def problem(name, size=(64, 48), question="What color?", seed=0):
    return Problem(name, noise_image(*size, seed), question, CANDIDATES, "green")


@pytest.fixture(scope="module")
def problems():
    """Prompts of different lengths, so that the shorter one's response starts early."""
    return [
        problem("a"),
        problem("b", (32, 64), "Start at the star. What color do you reach?", 1),
        problem("c", (48, 48), seed=2),
    ]


@pytest.fixture(scope="module")
def responses():
    return [
        render_response(STEPS, "green"),
        render_response(STEPS[:1], "white"),
        render_response(STEPS[:2], "yellow"),
    ]


@pytest.fixture(scope="module")
def table(random_mllm, problems, responses):
    return causal_access(
        random_mllm,
        problems,
        responses,
        kinds=("knockout", "mean_value", "removal", "none"),
        windows=[(0, 2), (1, 1)],
    ).table


def naive(mllm, model, one, response, k=None, *, rows="both", oracle=cut_eagerly, layers=None):
    """Log-probabilities of the candidates: the whole text up to each, alone, cut spelt out."""
    text = response[: response.index("</think>")] + ANSWER_CUE
    found = []
    for candidate in CANDIDATES:
        item = encode_problem(mllm, one, response=text + candidate + ANSWER_CLOSE)
        start = encode_problem(mllm, one, response=text).layout.n_tokens
        batch = collate(mllm, [item])
        ends = item.layout.step_ends
        chosen = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
        if k is not None:
            first = ends[-1] - 1 if rows == "answer" else ends[k] - 1
            chosen[0, first : ends[-1] - 1 if rows == "rationale" else None] = True
        keys = batch["input_ids"] == mllm.image_token_id
        with oracle(model, chosen, keys, layers):
            logits = model(**batch, use_cache=False).logits[0]
        own = logits.log_softmax(-1)[torch.arange(start - 1, item.layout.n_tokens - 1)]
        found.append(float(own.gather(1, item.input_ids[start:, None]).sum()))
    return np.array(found) - np.logaddexp.reduce(found)


@pytest.mark.parametrize("rows", ["both", "rationale", "answer"])
@torch.no_grad()
def test_fixed_rows_equal_one_plain_pass_per_answer(random_mllm, problems, responses, rows):
    eager = eager_copy(random_mllm.model)
    found = causal_access(
        random_mllm, problems, responses, kinds=("knockout",), windows=[(1, 2)], rows=rows
    ).table
    n_steps = [3, 1, 2]
    ks = {
        "both": [range(n + 1) for n in n_steps],
        "rationale": [range(n) for n in n_steps],
        "answer": [[n] for n in n_steps],
    }[rows]
    expected = {(one.id, k) for one, own in zip(problems, ks, strict=True) for k in own}
    assert set(zip(found["item"], found["k"], strict=True)) == expected
    assert (found["rows"] == rows).all() and (found["rationale"] == "fixed").all()
    for at in range(3):
        before = naive(random_mllm, eager, problems[at], responses[at])
        part = found[found["item"] == problems[at].id]
        for row in part.itertuples():
            after = naive(
                random_mllm, eager, problems[at], responses[at], row.k, rows=rows, layers=(1, 2)
            )
            own = before.argmax()
            assert row.answer_before == CANDIDATES[own]
            assert row.answer_after == CANDIDATES[after.argmax()]
            assert row.log_p_before == pytest.approx(before[own], abs=EXACT)
            assert row.log_p_after == pytest.approx(after[own], abs=EXACT)
            assert row.delta_log_p == pytest.approx(before[own] - after[own], abs=EXACT)
            assert row.log_p_right_after == pytest.approx(after[0], abs=EXACT)
            assert row.delta_log_p_right == pytest.approx(before[0] - after[0], abs=EXACT)
            assert row.flipped == (before.argmax() != after.argmax())
            assert row.delta_accuracy == (before.argmax() == 0) - float(after.argmax() == 0)
    assert found["delta_log_p"].abs().max() > 20 * EXACT


@torch.no_grad()
def test_mean_values_equal_one_plain_pass_per_answer(random_mllm, problems, responses, table):
    eager = eager_copy(random_mllm.model)
    part = table[(table["kind"] == "mean_value") & (table["first_layer"] == 1)]
    row = part[(part["item"] == "b") & (part["k"] == 0)].iloc[0]
    after = naive(random_mllm, eager, problems[1], responses[1], 0, oracle=mean_valued, layers=(1,))
    own = CANDIDATES.index(row["answer_before"])
    assert row["log_p_after"] == pytest.approx(after[own], abs=EXACT)
    assert abs(row["delta_log_p"]) > 1e-3


@torch.no_grad()
def test_removal_is_the_text_alone(random_mllm, problems, responses, table):
    part = table[table["kind"] == "removal"].set_index("item")
    assert part["k"].tolist() == [3, 1, 2] and not part.index.duplicated().any()
    for one, response in zip(problems, responses, strict=True):
        text = response[: response.index("</think>")] + ANSWER_CUE
        item = encode_problem(random_mllm, one, response=text, text_only=True)
        scores = []
        for candidate in CANDIDATES:
            more = f"{text}{candidate}{ANSWER_CLOSE}"
            whole = encode_problem(random_mllm, one, response=more, text_only=True)
            logits = random_mllm.model(**collate(random_mllm, [whole])).logits[0].log_softmax(-1)
            places = range(item.layout.n_tokens, whole.layout.n_tokens)
            scores.append(sum(float(logits[t - 1, whole.input_ids[t]]) for t in places))
        after = torch.tensor(scores).double().log_softmax(-1)
        own = CANDIDATES.index(part.loc[one.id, "answer_before"])
        assert part.loc[one.id, "log_p_after"] == pytest.approx(float(after[own]), abs=EXACT)


def test_nothing_cut_changes_nothing(table):
    none = table[table["kind"] == "none"]
    assert len(none) == 4 + 2 + 3
    assert (none["delta_log_p"] == 0).all() and (none["delta_log_p_right"] == 0).all()
    assert not none["flipped"].any() and (none["delta_accuracy"] == 0).all()


def test_the_table_is_tidy(table, random_mllm):
    assert tuple(table.columns) == CausalAccess.columns
    assert not table.duplicated(["item", *GROUP, "k"]).any()
    cuts = table[table["kind"].isin(["knockout", "mean_value"])]
    assert len(cuts) == 2 * 2 * (4 + 2 + 3)
    whole = table[~table["kind"].isin(["knockout", "mean_value"])]
    assert set(zip(whole["first_layer"], whole["last_layer"], strict=True)) == {(0, 2)}
    assert table["log_p_before"].le(0).all() and table["log_p_after"].le(0).all()
    assert random_mllm.model.config.text_config._attn_implementation == "sdpa"


def test_one_by_one_equals_a_batch(random_mllm, problems, responses, table):
    alone = causal_access(
        random_mllm, problems, responses, windows=[(0, 2), (1, 1)], batch_size=1
    ).table.set_index(["item", *GROUP, "k"])
    batch = table[table["kind"] != "none"].set_index(["item", *GROUP, "k"]).loc[alone.index]
    same = ["answer_before", "answer_after", "flipped"]
    pd.testing.assert_frame_equal(batch[same], alone[same])
    numbers = ["log_p_before", "log_p_after", "log_p_right_after"]
    assert np.abs(batch[numbers] - alone[numbers]).to_numpy().max() <= EXACT


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_what_is_run_once_changes_nothing(name, monkeypatch):
    """Prompts of one length share their prefix; run from the first token the result is the same."""
    mllm = shared_family(name)
    ones = [problem("a"), problem("b", seed=3)]
    texts = [render_response(STEPS[:2], "green"), render_response(STEPS[1:], "green")]
    starts = []

    class Watched(module.ForcedAnswers):
        def __init__(self, *given):
            super().__init__(*given)
            starts.append(self.start)

    class Whole(module.ForcedAnswers):
        def __init__(self, *given):
            super().__init__(*given)
            self.start = 0

    tables = []
    for kind in (Watched, Whole):
        monkeypatch.setattr(module, "ForcedAnswers", kind)
        found = causal_access(mllm, ones, texts, kinds=("knockout", "mean_value"), steps=[0, 1])
        tables.append(found.table)
    prompt = encode_problem(mllm, ones[0]).layout
    if name == "gemma3":  # sliding layers
        assert starts == [0]
    else:
        assert prompt.n_tokens <= starts[0] < prompt.n_tokens + 12
    difference = tables[0]["log_p_after"] - tables[1]["log_p_after"]
    assert difference.abs().max() <= EXACT
    assert tables[0]["delta_log_p"].abs().max() > 10 * EXACT


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_every_family(name):
    mllm = shared_family(name)
    found = causal_access(
        mllm,
        [problem("a", question="What?"), problem("b", (40, 64), seed=1)],
        ["<think>\n1. It is red.\n2. Go.\n</think>\n<answer>green</answer>"] * 2,
        kinds=("knockout", "mean_value", "removal", "none"),
        steps=[0],
        generate=True,
        max_new_tokens=2,
    ).table
    assert len(found) == 2 * 2 * 4
    fixed = found[found["rationale"] == "fixed"].set_index(["kind", "item"])
    assert (fixed.loc["none", "delta_log_p"] == 0).all()
    assert fixed.loc["removal", "delta_log_p"].abs().min() > 1e-4
    cut = fixed.loc["knockout", "delta_log_p"].abs()
    assert cut.min() > 1e-4 and (fixed.loc["mean_value", "log_p_after"].notna()).all()


# --- Planted truth: a model that reads its answers off the picture -------------------------------


@pytest.fixture(scope="module")
def seeing():
    # Saved in bf16, in which near ties fall by the order of additions.
    return load_mllm(shipped(TESTBED_MODEL), dtype="float32")


@pytest.fixture(scope="module")
def read_off(seeing):
    """Items, and what the model says of them."""
    items = load_problems(shipped(TESTBED_PROBLEMS))[:30]
    return items, answer_problems(seeing, items, max_new_tokens=64)


@pytest.mark.golden
def test_an_answer_read_off_the_picture_needs_the_edges(seeing, read_off):
    items, answers = read_off
    before = answers["correct"].mean()
    chance = 1 / len(items[0].candidates)
    responses = answers["ids"].tolist()
    options = {"steps": [0], "batch_size": 30}
    image = causal_access(seeing, items, responses, **options).table
    written = causal_access(
        seeing,
        items,
        responses,
        kinds=("knockout", "none"),
        generate=True,
        max_new_tokens=64,
        **options,
    ).table
    text = causal_access(
        seeing, items, responses, kinds=("knockout",), keys="system", **options
    ).table
    assert before >= 0.75
    written = written[written["rationale"] == "regenerated"].set_index("kind")
    assert not written.loc["none", "flipped"].any()
    for part in (*(part for _, part in image.groupby("kind")), written.loc["knockout"]):
        assert part["correct_after"].mean() <= chance + 0.25
        assert part["delta_accuracy"].mean() >= 0.5
    assert image["delta_log_p"].mean() > 1.5
    assert text["correct_after"].mean() >= before - 0.15
    assert text["delta_log_p"].mean() < 0.3


@pytest.mark.golden
@torch.no_grad()
def test_regenerated_responses_equal_a_loop_without_cache(seeing, read_off, monkeypatch):
    """Token for token; prompts of different length, cut from step 1 on."""
    items, answers = read_off
    longer = replace(items[1], question=f"{items[1].question} {items[1].question}")
    items, responses = [items[0], longer], answers["ids"].tolist()[:2]
    written = []

    def kept(problem, generation, **options):
        written.append(list(generation.ids))
        return answer_row(problem, generation, **options)

    monkeypatch.setattr(module, "answer_row", kept)
    found = causal_access(
        seeing,
        items,
        responses,
        kinds=("knockout", "removal"),
        windows=[(0, 0)],
        steps=[1],
        generate=True,
        max_new_tokens=24,
    ).table
    assert found.loc[found["rationale"] == "regenerated", "kind"].tolist() == [
        "knockout", "knockout", "removal", "removal"
    ]  # fmt: skip
    eager = eager_copy(seeing.model)
    expected = []
    for kind in ("knockout", "removal"):
        for one, ids in zip(items, responses, strict=True):
            layout = encode_problem(seeing, one, response=ids).layout
            first = ids[: layout.step_ends[1] - layout.response.start]
            prompt = encode_problem(seeing, one, response=first, text_only=kind == "removal")
            batch = collate(seeing, [prompt])
            rows = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
            rows[0, -1] = kind == "knockout"
            keys = batch["input_ids"] == seeing.image_token_id
            with cut_eagerly(eager, rows, keys, (0,), generated=kind == "knockout"):
                whole = respond(eager, batch, 24, [seeing.image_token_id])[0]
            new = whole[prompt.prompt_length :].tolist()
            ends = [at for at, token in enumerate(new) if token in seeing.stop_ids]
            expected.append(new[: ends[0]] if ends else new)
    assert written == expected
    assert len({tuple(ids) for ids in written}) == 4


# --- Choices and refusals ------------------------------------------------------------------------


def test_steps_as_numbers_and_as_shares(random_mllm, problems, responses):
    def ks(**options):
        found = causal_access(random_mllm, problems, responses, kinds=("none",), **options).table
        return found.groupby("item")["k"].agg(list).to_dict()

    assert ks(steps=[2, 0]) == {"a": [0, 2], "b": [0], "c": [0, 2]}
    assert ks(steps=np.linspace(0, 1, 3)) == {"a": [0, 2, 3], "b": [0, 1], "c": [0, 1, 2]}
    assert ks(steps=[1.0], rows="rationale") == {"a": [2], "b": [0], "c": [1]}
    assert ks(steps=[3]) == {"a": [3]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": ()}, "kinds is"),
        ({"kinds": ("cut",)}, "choose from knockout"),
        ({"rows": "all"}, "rows is"),
        ({"keys": "evidence"}, "keys is"),
        ({"empty": "drop"}, "empty is"),
        ({"keys": "system"}, "takes the image away"),
        ({"rows": "rationale", "generate": True}, "cut in all rows"),
        ({"rows": "answer", "steps": [0]}, "leave steps out"),
        ({"steps": [0, 0.5]}, "not both"),
        ({"steps": [-1]}, "not both"),
        ({"steps": []}, "not both"),
        ({"steps": [1.5]}, "not both"),
        ({"steps": [9]}, "nothing is left|other responses or steps"),
        ({"windows": []}, "Layer windows are"),
        ({"windows": [(0, 3)]}, "from 0 to 2"),
        ({"windows": [(2, 1)]}, "Layer windows are"),
        ({"responses": []}, "one of each per problem"),
        ({"responses": ["<answer>red</answer>"] * 3}, "no rationale step"),
        ({"responses": ["<answer>red</answer>"] * 3, "empty": "skip"}, "No response has"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    random_mllm, problems, responses, change, message
):
    options = {"responses": responses} | change
    with pytest.raises(MeasureError, match=message):
        causal_access(random_mllm, problems, **options)


def test_items_without_rationale_are_left_out_on_request(random_mllm, problems, responses):
    texts = [responses[0], "<answer>red</answer>", responses[2]]
    found = causal_access(random_mllm, problems, texts, kinds=("none",), empty="skip").table
    assert list(found["item"].unique()) == ["a", "c"]


def test_layer_windows():
    assert layer_windows(6, 2) == [(0, 1), (2, 3), (4, 5)]
    assert layer_windows(7, 3) == [(0, 2), (3, 5), (4, 6)]
    assert layer_windows(6, 4, 1) == [(0, 3), (1, 4), (2, 5)]
    assert layer_windows(5, 5) == [(0, 4)]
    for wrong in ((4, 5), (4, 0), (4, 2, 0)):
        with pytest.raises(MeasureError, match="do not fit"):
            layer_windows(*wrong)


# --- Reduced tables ------------------------------------------------------------------------------


def made(item, values, n_steps=None, **change):
    """A table of one item: delta_log_p at k = 0, 1, ..."""
    n = len(values)
    row = {
        "item": item,
        "kind": "knockout",
        "keys": "image",
        "rows": "both",
        "first_layer": 0,
        "last_layer": 3,
        "rationale": "fixed",
        "k": range(n),
        "n_steps": n - 1 if n_steps is None else n_steps,
        "delta_log_p": values,
        "delta_log_p_right": [2 * value for value in values],
        "delta_accuracy": [float(value > 1) for value in values],
        "flipped": pd.array([value > 1 for value in values], dtype="boolean"),
        **change,
    }
    return pd.DataFrame(row).reindex(columns=CausalAccess.columns)


def test_items_hold_the_largest_cut_the_smallest_and_the_area():
    table = pd.concat([made("a", [4.0, 2.0, 0.0]), made("b", [3.0]), made("a", [1.0], kind="none")])
    found = CausalAccess(table.iloc[::-1]).items().set_index(["item", "kind"])
    a, b = found.loc[("a", "knockout")], found.loc[("b", "knockout")]
    assert (a["delta_log_p"], a["delta_log_p_last"], a["delta_log_p_area"]) == (4, 0, 2)
    assert (a["delta_accuracy"], a["delta_accuracy_last"]) == (1, 0)
    assert a["delta_accuracy_area"] == 0.75 and a["delta_log_p_right"] == 8
    assert a["flipped"] and a["n_steps"] == 2 and a["k"] == 0
    assert (b["delta_log_p"], b["delta_log_p_last"], b["delta_log_p_area"]) == (3, 3, 3)
    assert len(found) == 3


def test_curves_average_over_items_with_intervals():
    table = pd.concat([made(str(at), [at + 2.0, at + 1.0, 0.0]) for at in range(8)])
    curve = CausalAccess(table).curve()
    assert curve["k"].tolist() == [0, 1, 2] and (curve["n"] == 8).all()
    assert curve["value"].tolist() == pytest.approx([5.5, 4.5, 0.0])
    assert (curve["low"][:2] < curve["value"][:2]).all()
    assert (curve["high"][:2] > curve["value"][:2]).all()
    shares = CausalAccess(table).curve("flipped")
    assert shares["value"].tolist() == pytest.approx([1.0, 7 / 8, 0.0])


def test_curves_of_different_length_share_the_axis_of_positions():
    table = pd.concat([made("a", [4.0, 0.0]), made("b", [2.0, 4.0, 0.0]), made("c", [6.0], 4)])
    curve = CausalAccess(table).curve(points=5).set_index("position")
    assert curve["value"].tolist() == pytest.approx([4.0, 3.0, 3.0, 1.5, 0.0])
    assert curve["n"].tolist() == [3, 2, 2, 2, 2]


def test_tables_that_do_not_fit_are_refused():
    table = made("a", [1.0, 2.0])
    with pytest.raises(MeasureError, match="twice"):
        CausalAccess(pd.concat([table, table]))
    with pytest.raises(MeasureError, match="lacks"):
        CausalAccess(table.drop(columns="rows"))
    with pytest.raises(MeasureError, match="no delta_log_p"):
        CausalAccess(table.assign(delta_log_p=np.nan)).curve()


def test_columns_of_a_real_table_reduce(table):
    items = CausalAccess(table).items()
    assert len(items) == 3 * (2 + 2 + 1 + 1)
    curve = CausalAccess(table).curve()
    assert curve.groupby(list(GROUP)).ngroups == 6 and np.isfinite(curve["value"]).all()
