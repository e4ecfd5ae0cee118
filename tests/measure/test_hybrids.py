"""Models whose layers keep a state: forced answers in turn, and what is refused on them."""

import copy

import numpy as np
import pytest
import torch
from families import shared_family, tiny_family
from tiny import noise_image

from attcot_analysis.attention import forked, packing
from attcot_analysis.attention.candidates import candidate_tokens
from attcot_analysis.attention.continuations import AnswerCue, read_continuations
from attcot_analysis.attention.kinds import keeps_state, layer_kinds
from attcot_analysis.attention.packing import forced_answers
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.causal import causal_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.lens import lens_commitment
from attcot_analysis.measures.relevance import relevance_maps
from attcot_analysis.models import collate, encode_problem
from attcot_analysis.problems import ANSWER_CUE, Problem, render_response

HYBRIDS = ("qwen3_5", "qwen3_5_moe", "lfm2_vl", "minicpmv4_6")


def problem(name, seed, *candidates):
    picture = noise_image(60 + 9 * seed, 50, seed)
    return Problem(name, picture, "What color?", candidates, candidates[0])


PROBLEMS = [problem("a", 1, "red", "green"), problem("b", 2, "blue", "blue green", "red")]
RESPONSES = [
    render_response(["Go right.", "Cell b1 holds a red circle.", "So red."], "red"),
    render_response(["The square is blue."], "blue"),
]


@torch.no_grad()
def in_full_passes(mllm, problem, response):
    """Oracle: p by one forward pass per step and candidate, each on freshly written text."""
    lines = response[: response.index("</think>")].splitlines(keepends=True)
    tokens = [
        mllm.tokenizer(f"{ANSWER_CUE}{one}</answer>", add_special_tokens=False)["input_ids"]
        for one in problem.candidates
    ]
    same = [len(set(column)) == 1 for column in zip(*tokens, strict=False)].index(False)
    table = []
    for k in range(len(lines)):
        head = mllm.tokenizer("".join(lines[: 1 + k]), add_special_tokens=False)["input_ids"]
        for own in tokens:
            batch = collate(mllm, [encode_problem(mllm, problem, response=[*head, *own])])
            scores = mllm.model(**batch, use_cache=False).logits[0].log_softmax(-1)
            ids = batch["input_ids"][0]
            places = range(len(ids) - len(own) + same, len(ids))
            table.append(sum(float(scores[at - 1, ids[at]]) for at in places))
    return np.array(table).reshape(len(lines), len(tokens))


@pytest.mark.parametrize("name", HYBRIDS)
def test_commitment_equals_a_loop_of_full_passes(name):
    mllm = shared_family(name)
    assert keeps_state(mllm) and layer_kinds(mllm).count("full_attention") == 1
    table = commitment(mllm, PROBLEMS, RESPONSES, controls=("rationale",), batch_size=2).table
    for item, response in zip(PROBLEMS, RESPONSES, strict=True):
        expected = in_full_passes(mllm, item, response)
        found = table.loc[table["item"] == item.id, "log_p"].to_numpy()
        np.testing.assert_allclose(found, expected.ravel(), rtol=1e-5, atol=1e-5)


def test_branches_behind_each_other_would_be_off(monkeypatch):
    """Why they are not packed: a branch would read the state that the one before it left."""
    mllm = shared_family("qwen3_5")
    item = encode_problem(mllm, PROBLEMS[0], response=RESPONSES[0])
    tokens = candidate_tokens(mllm, PROBLEMS[0].candidates)
    (apart,) = forced_answers(mllm, [item], [tokens])
    assert not keeps_state(shared_family("qwen3_vl"))
    monkeypatch.setattr(packing, "keeps_state", lambda mllm: False)
    with pytest.raises(MeasureError, match="has linear_attention layers; packed branches"):
        forced_answers(mllm, [item], [tokens])
    monkeypatch.setattr(packing, "PACKABLE", {*packing.PACKABLE, "linear_attention"})
    masks = {"full_attention": None, "linear_attention": None}
    monkeypatch.setattr(packing, "_own_masks", lambda mllm, batch: masks)
    make = packing.block_mask

    def without_mask_in_linear_layers(*given):
        return {**make(*given), "linear_attention": None}

    monkeypatch.setattr(packing, "block_mask", without_mask_in_linear_layers)
    (behind,) = forced_answers(mllm, [item], [tokens])
    assert float((behind - apart).abs().max()) > 0.05


def test_open_answers_are_read_in_turn():
    mllm = shared_family("qwen3_5")
    item = encode_problem(mllm, PROBLEMS[0], response=RESPONSES[0])
    one = AnswerCue(mllm).behind("green")
    readings = read_continuations(mllm, [item], [[(2, one), (0, one)]])[0]
    for k, reading in zip((2, 0), readings, strict=True):
        ids = item.input_ids[: item.layout.cuts[k].stop].tolist()[item.prompt_length :]
        whole = encode_problem(mllm, PROBLEMS[0], response=[*ids, *one.shared, *one.tail])
        with torch.no_grad():
            logits = mllm.model(**collate(mllm, [whole]), use_cache=False).logits[0]
        rows = logits.log_softmax(-1)[-len(one.tail) - 1 : -1]
        expected = [float(row[token]) for row, token in zip(rows, one.tail, strict=True)]
        np.testing.assert_allclose(reading.log_p, expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_forgets_its_state_is_refused(monkeypatch):
    """Planted: layers begin anew where several tokens continue a cache, as old versions did."""
    mllm = tiny_family("qwen3_5")
    run = mllm.model.forward

    def forgetful(*given, past_key_values=None, **options):
        if past_key_values is not None:
            past_key_values = copy.deepcopy(past_key_values)
            for layer in past_key_values.layers:
                for state in getattr(layer, "recurrent_states", {}).values():
                    if state is not None:
                        state.zero_()
        return run(*given, past_key_values=past_key_values, **options)

    monkeypatch.setattr(mllm.model, "forward", forgetful)
    item = encode_problem(mllm, PROBLEMS[0], response=RESPONSES[0])
    tokens = candidate_tokens(mllm, PROBLEMS[0].candidates)
    with pytest.raises(MeasureError, match="other log-probabilities from its cache than in one"):
        forced_answers(mllm, [item], [tokens])
    assert mllm.model not in forked._CONTINUES


def test_what_needs_attention_in_every_layer_is_refused_by_name():
    mllm = shared_family("qwen3_5")
    with pytest.raises(MeasureError, match=r"A cut of attention .* 2 of its 3 layers .*'removal'"):
        causal_access(mllm, PROBLEMS, RESPONSES)
    with pytest.raises(MeasureError, match="linear_attention layers"):
        lens_commitment(mllm, PROBLEMS, RESPONSES)
    with pytest.raises(MeasureError, match=r"[Ll]ayers \[0, 2\]"):
        relevance_maps(mllm, PROBLEMS[0], RESPONSES[0], source="rollout")


def test_removal_is_measured_and_equals_forced_answers():
    mllm = shared_family("qwen3_5")
    table = causal_access(mllm, PROBLEMS[:1], RESPONSES[:1], kinds=("removal",)).table
    text = encode_problem(mllm, PROBLEMS[0], response=RESPONSES[0], text_only=True)
    tokens = candidate_tokens(mllm, PROBLEMS[0].candidates)
    (read,) = forced_answers(mllm, [text], [tokens], steps=[[3]])
    after = read[0].log_softmax(-1)
    best = PROBLEMS[0].candidates.index(table["answer_before"].iloc[0])
    assert table["log_p_after"].iloc[0] == pytest.approx(float(after[best]), abs=1e-4)


def test_sliding_layers_say_how_much_of_the_image_is_in_sight():
    """Gemma 3: a window of 24 tokens, read where the layer is named."""
    mllm = shared_family("gemma3")
    plain = visual_access(mllm, PROBLEMS[:1], RESPONSES[:1])
    assert set(plain.table["layer"]) == {1, 2} and "image_seen" not in plain.table
    table = visual_access(mllm, PROBLEMS[:1], RESPONSES[:1], layers=(0, 1)).table
    layout = encode_problem(mllm, PROBLEMS[0], response=RESPONSES[0]).layout
    for step, span in enumerate(layout.steps, start=1):
        own = table[table["step"] == step]
        sliding, full = (own[own["layer"] == layer] for layer in (0, 1))
        inside = [
            np.mean([row - token < 24 for token in layout.image]) for row in layout.rows(span)
        ]
        assert sliding["image_seen"].unique() == pytest.approx([np.mean(inside)])
        assert full["image_seen"].eq(1).all() and full["density"].notna().all()
        assert sliding["density"].isna().all()
        if not any(inside):
            assert sliding["mass"].eq(0).all()
    assert table.query("layer == 0")["image_seen"].iloc[-1] == 0


def test_access_says_in_which_layers_it_was_read():
    whole, hybrid = (
        visual_access(shared_family(name), PROBLEMS, RESPONSES) for name in ("qwen3_vl", "qwen3_5")
    )
    assert set(hybrid.table["layer"]) == {1}
    said = "Attention was read in 1 layer only (1)"
    assert said in hybrid.describe() and "was read in" not in whole.describe()
