"""The logit lens: against full hidden states, against the model's own output, and planted."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILY_NAMES, shared_family
from tiny import noise_image, tiny_mllm

from attcot_analysis.attention.candidates import candidate_tokens
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.lens import LensCommitment, lens_commitment
from attcot_analysis.models import encode_problem
from attcot_analysis.models import load as stack_module
from attcot_analysis.problems import Problem, Step, render_response

COLORS = ("green", "white", "yellow", "green up")
STEPS = (Step("Go right."), Step("Cell b1 holds a red circle."))


def problem(name, seed):
    return Problem(name, noise_image(64, 48, seed), "What color?", COLORS, "green")


ITEMS = [problem("b", 1), problem("a", 2)]
RESPONSES = [render_response(STEPS, "green"), render_response(STEPS[:1], "white")]


@pytest.fixture(scope="module")
def found(random_mllm):
    return lens_commitment(random_mllm, ITEMS, RESPONSES).table


def naive_lens(mllm, item, response, k, layer):
    """Oracle: one forward pass per candidate, all hidden states, norm and head by hand."""
    tokens = candidate_tokens(mllm, item.candidates)
    encoded = encode_problem(mllm, item, response=response)
    prefix = encoded.response_ids[: encoded.layout.step_ends[k] - encoded.prompt_length]
    log_p = []
    for tail in tokens.tails:
        one = encode_problem(mllm, item, response=[*prefix, *tokens.shared, *tail])
        inputs = {"input_ids": one.input_ids[None], "mm_token_type_ids": one.token_types[None]}
        with torch.no_grad():
            output = mllm.model(**inputs, **one.vision, output_hidden_states=True)
            state = output.hidden_states[layer + 1][0]
            if layer + 1 < mllm.n_layers:  # the last of them is normed already
                state = mllm.model.model.language_model.norm(state)
            scores = mllm.model.lm_head(state).log_softmax(-1)
        n = len(one.input_ids)
        places = range(n - len(tail), n)
        log_p.append(sum(float(scores[t - 1, one.input_ids[t]]) for t in places))
    return np.array(log_p)


def test_every_layer_equals_its_hidden_states_through_norm_and_head(random_mllm, found):
    assert tuple(found.columns) == LensCommitment.columns
    assert found["item"].unique().tolist() == ["b", "a"]
    for item, response, n_steps in zip(ITEMS, RESPONSES, (2, 1), strict=True):
        for k in range(n_steps + 1):
            for layer in range(3):
                part = found.query("item == @item.id and step == @k and layer == @layer")
                assert part["candidate"].tolist() == list(COLORS)
                expected = naive_lens(random_mllm, item, response, k, layer)
                np.testing.assert_allclose(part["log_p"], expected, atol=2e-4)
                weights = np.exp(expected - expected.max())
                np.testing.assert_allclose(part["p"], weights / weights.sum(), atol=1e-4)


def test_the_last_layer_is_the_model_s_own_output(random_mllm, found):
    own = commitment(random_mllm, ITEMS, RESPONSES, controls=["rationale"]).table
    last = found[found["layer"] == random_mllm.n_layers - 1].reset_index(drop=True)
    assert last[["item", "step", "candidate"]].equals(own[["item", "step", "candidate"]])
    np.testing.assert_allclose(last["log_p"], own["log_p"], atol=1e-5)
    earlier = found[found["layer"] == 0].reset_index(drop=True)
    assert (earlier["log_p"] - own["log_p"]).abs().max() > 0.1


@pytest.mark.parametrize("name", [*FAMILY_NAMES, "gemma4", "cohere2_vision"])
def test_the_last_layer_is_the_output_in_every_family(name):
    mllm = shared_family(name)
    own = commitment(mllm, ITEMS, RESPONSES, controls=["rationale"]).table
    last = lens_commitment(mllm, ITEMS, RESPONSES, layers=[mllm.n_layers - 1]).table
    np.testing.assert_allclose(last["log_p"], own["log_p"], atol=2e-5)


def test_few_layers_small_batches_and_few_rows_at_once_change_nothing(
    random_mllm, found, monkeypatch
):
    monkeypatch.setattr(stack_module, "_LOGITS_AT_ONCE", 1)
    some = lens_commitment(random_mllm, ITEMS, RESPONSES, layers=[1], batch_size=1).table
    expected = found[found["layer"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, expected, atol=1e-5, check_dtype=False)


def test_a_planted_early_layer_decides_and_later_ones_only_pass_it_on():
    """Layers that add nothing to the stream: what the lens reads there is already the end."""
    mllm = tiny_mllm()
    layers = mllm.model.model.language_model.layers
    with torch.no_grad():
        for layer in layers[1:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    result = lens_commitment(mllm, ITEMS, RESPONSES)
    by_layer = result.table.pivot(
        index=["item", "step", "candidate"], columns="layer", values="log_p"
    )
    np.testing.assert_allclose(by_layer[0], by_layer[2], atol=1e-5)
    decided = result.items()
    assert decided["settled_layer"].dropna().eq(0).all()
    assert (decided["step"] == decided["n_steps"]).sum() == 2
    honest = lens_commitment(tiny_mllm(), ITEMS, RESPONSES).items()
    ends = honest[honest["step"] == honest["n_steps"]]
    assert ends["settled_layer"].notna().all() and ends["settled_layer"].gt(0).any()


def test_items_by_hand():
    best = {0: "aba", 1: "bbb", 2: "bab"}  # step → most probable candidate by layer
    rows = [
        ("q", step, 2, layer, candidate, 0.0, 0.9 if candidate == top else 0.1)
        for step, tops in best.items()
        for layer, top in enumerate(tops)
        for candidate in "ab"
    ]
    table = pd.DataFrame(rows, columns=list(LensCommitment.columns))
    found = LensCommitment(table).items()
    assert found["final"].tolist() == ["b"] * 3
    assert found["first_layer"].tolist() == [1, 0, 0]
    np.testing.assert_array_equal(found["settled_layer"], [np.nan, 0, 2])
    with pytest.raises(MeasureError, match="Item q: the table does not hold"):
        LensCommitment(pd.concat([table, table]))
    with pytest.raises(MeasureError, match="Item q: the table does not hold"):
        LensCommitment(table[(table["layer"] != 1) | (table["step"] != 1)])
    with pytest.raises(MeasureError, match="lacks p;"):
        LensCommitment(table.drop(columns="p"))


def test_a_model_that_changes_its_logits_after_the_head_is_refused_and_leaves_no_hooks():
    mllm = tiny_mllm()

    def halve(_module, _inputs, output):
        output.logits = output.logits / 2
        return output

    mllm.model.register_forward_hook(halve)
    with pytest.raises(MeasureError, match="do not turn its last hidden states into its logits"):
        lens_commitment(mllm, ITEMS, RESPONSES)
    layers = mllm.model.model.language_model.layers
    assert not any(layer._forward_hooks for layer in layers)


def test_bad_input_is_one_sentence(random_mllm):
    with pytest.raises(MeasureError, match="choose from 0 to 2"):
        lens_commitment(random_mllm, ITEMS, RESPONSES, layers=[3])
    with pytest.raises(MeasureError, match="Item b: its response has no rationale steps"):
        lens_commitment(random_mllm, ITEMS, ["<answer>red</answer>", RESPONSES[1]])
    table = lens_commitment(
        random_mllm, ITEMS, ["<answer>red</answer>", RESPONSES[1]], empty="skip", layers=[2]
    ).table
    assert table["item"].unique().tolist() == ["a"]


@pytest.mark.golden
def test_the_trained_model_s_answer_is_settled_late_in_the_stack_and_after_the_last_step(testbed):
    table = lens_commitment(*testbed).items()
    ends = table[table["step"] == table["n_steps"]]
    assert ends["settled_layer"].mean() > 1
    assert table.groupby("step")["settled_layer"].count().idxmax() == 3
