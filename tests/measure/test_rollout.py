"""Rollout and gradient relevance against T x T products of eager attention, kept as oracle here."""

import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import noise_image

from attcot_analysis.attention.flow import Capture, carry, carry_gradients, frozen
from attcot_analysis.attention.hook import AttentionCall, reading
from attcot_analysis.errors import LayoutError, MeasureError
from attcot_analysis.measures.maps import ResponseParts, response_parts
from attcot_analysis.measures.relevance import relevance_maps
from attcot_analysis.models import collate
from attcot_analysis.problems import Problem, Step

EXACT = 1e-5
RESPONSE = (
    "<think>\n1. The star is in cell a1 and its arrow points right.\n"
    "2. Cell b1 holds a red circle.\n</think>\n<answer>red</answer>"
)

rollout_maps = partial(relevance_maps, source="rollout")
gradient_maps = partial(relevance_maps, source="gradient_relevance")


@pytest.fixture(scope="module")
def problem():
    steps = (Step("One.", ((0, 0, 32, 32),)), Step("Two.", ((32, 0, 64, 32),)))
    return Problem("p", noise_image(96, 64, 1), "What color?", ("red", "blue"), "red", steps)


@pytest.fixture(scope="module")
def eager(random_mllm):
    model = copy.deepcopy(random_mllm.model)
    model.set_attn_implementation({"text_config": "eager"})
    return model


def rows_of(asked, matrix):
    """Means of a T x T matrix's rows over each part, at the image tokens."""
    layout = asked.item.layout
    means = [matrix[layout.rows(part.span)].mean(0) for part in asked.parts]
    return torch.stack(means)[:, layout.image].detach().numpy()


def naive_rollout(mllm, model, asked):
    weights = model(**collate(mllm, [asked.item]), output_attentions=True).attentions
    eye = torch.eye(asked.item.layout.n_tokens)
    product = eye
    for weight in weights:
        passed = weight[0].mean(0) + eye
        product = (passed / passed.sum(-1, keepdim=True)) @ product
    return rows_of(asked, product)


def naive_relevance(mllm, model, asked):
    found = []
    for at in range(len(asked.parts)):
        output = model(
            **collate(mllm, [asked.item]), output_attentions=True, logits_to_keep=asked.rows
        )
        weights = output.attentions
        grads = torch.autograd.grad(asked.log_probs(output.logits)[0, at], weights)
        relevance = torch.eye(asked.item.layout.n_tokens)
        for weight, grad in zip(weights, grads, strict=True):
            relevance = relevance + (weight * grad)[0].clamp(min=0).mean(0) @ relevance
        found.append(rows_of(asked, relevance)[at])
    return np.stack(found)


@pytest.mark.parametrize("targets", ["tokens", "steps"])
@pytest.mark.parametrize("block", [None, 7])
def test_rollout_equals_the_product_of_all_layers(random_mllm, eager, problem, targets, block):
    asked = response_parts(random_mllm, problem, RESPONSE, targets)
    maps = rollout_maps(random_mllm, problem, RESPONSE, targets=targets, block=block)
    expected = naive_rollout(random_mllm, eager, asked)
    assert maps.weights.shape == (1, 1, *expected.shape)
    np.testing.assert_allclose(maps.weights[0, 0], expected, atol=EXACT)
    assert maps.source == "rollout" and (maps.weights.sum(-1) <= 1).all()
    assert maps.weights.min() >= 0 and expected.std() > 1e-3


@pytest.mark.parametrize(("targets", "block"), [("steps", None), ("steps", 7), ("answer", None)])
def test_gradient_relevance_equals_autograd_on_eager(random_mllm, eager, problem, targets, block):
    asked = response_parts(random_mllm, problem, RESPONSE, targets)
    maps = gradient_maps(random_mllm, problem, RESPONSE, targets=targets, block=block)
    expected = naive_relevance(random_mllm, eager, asked)
    assert maps.weights.shape == (1, 1, *expected.shape)
    np.testing.assert_allclose(
        maps.weights[0, 0], expected, atol=EXACT * np.abs(expected).max(), rtol=1e-3
    )
    assert maps.source == "gradient_relevance" and expected.max() > 0


def test_relevance_is_of_the_answer_asked_about(random_mllm, eager, problem):
    asked = response_parts(random_mllm, problem, RESPONSE, "answer", answer="blue")
    blue = gradient_maps(random_mllm, problem, RESPONSE, targets="answer", answer="blue")
    red = gradient_maps(random_mllm, problem, RESPONSE, targets="answer")
    expected = naive_relevance(random_mllm, eager, asked)
    np.testing.assert_allclose(
        blue.weights[0, 0], expected, atol=EXACT * np.abs(expected).max(), rtol=1e-3
    )
    assert blue.tokens == ("blue",) and red.tokens == ("red",)
    assert np.abs(blue.weights - red.weights).max() > 100 * EXACT * np.abs(expected).max()


def test_nothing_is_left_behind(random_mllm, problem):
    model = copy.deepcopy(random_mllm.model)
    weights = dict(model.named_parameters())
    first = next(iter(weights.values()))
    first.requires_grad_(False)
    model.train()
    before = {name: weight.requires_grad for name, weight in weights.items()}
    # transformers leaves hooks of its own once attention has been asked for.
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()]
    gradient_maps(copy_with(random_mllm, model), problem, RESPONSE)
    rollout_maps(copy_with(random_mllm, model), problem, RESPONSE)
    assert {name: weight.requires_grad for name, weight in weights.items()} == before
    assert all(weight.grad is None for weight in weights.values())
    assert all(module.training for module in model.modules())
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    assert hooks == [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()]


def test_nothing_is_left_behind_by_an_error(random_mllm, problem, monkeypatch):
    def fail(self, logits):
        raise RuntimeError("planted")

    monkeypatch.setattr(ResponseParts, "log_probs", fail)
    with pytest.raises(RuntimeError, match="planted"):
        gradient_maps(random_mllm, problem, RESPONSE)
    assert all(weight.requires_grad for weight in random_mllm.model.parameters())
    assert random_mllm.text_config._attn_implementation == "sdpa"


def test_a_model_without_trainable_weights_gives_the_same(random_mllm, problem):
    model = copy.deepcopy(random_mllm.model).requires_grad_(False)
    with torch.no_grad():
        found = gradient_maps(copy_with(random_mllm, model), problem, RESPONSE)
    expected = gradient_maps(random_mllm, problem, RESPONSE)
    np.testing.assert_array_equal(found.weights, expected.weights)
    assert not any(weight.requires_grad for weight in model.parameters())


def test_frozen_weights_ask_for_gradients_again_after_an_error():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="planted"), frozen(model):
        assert not model.weight.requires_grad
        raise RuntimeError("planted")
    assert model.weight.requires_grad and not model.bias.requires_grad


def copy_with(mllm, model):
    return type(mllm)(model, mllm.processor, mllm.family, "copy")


def pointing(targets):
    """A layer of one head in which position t attends to ``targets[t]`` only, nearly."""
    n = len(targets)
    key = 40 * torch.eye(n)[None, None]
    query = torch.eye(n)[torch.tensor(targets)][None, None]
    return AttentionCall(None, query, key, torch.eye(n)[None, None], None, 1.0)


def test_rollout_finds_what_was_read_by_way_of_another_token():
    """Row 3 reads token 2, which had read token 0: attention sees 2, rollout also 0."""
    calls = [pointing([0, 1, 0, 3]), pointing([0, 1, 2, 2])]
    flow = carry(calls, torch.eye(4)[3:])
    torch.testing.assert_close(flow, torch.tensor([[0.25, 0.0, 0.25, 0.5]]))
    torch.testing.assert_close(carry(calls[1:], torch.eye(4)[3:]), torch.eye(4)[2:].mean(0)[None])


def test_relevance_counts_only_what_raises_the_target():
    call = pointing([0, 1, 2, 2])
    start = torch.eye(4)[3:]
    up, down = torch.zeros(1, 4, 1, 4), torch.zeros(1, 4, 1, 4)
    up[0, 3, 0, 2], down[0, 3, 0, 2] = 0.5, -0.5
    torch.testing.assert_close(
        carry_gradients([call], [up], start), torch.tensor([[0.0, 0.0, 0.5, 1.0]])
    )
    torch.testing.assert_close(carry_gradients([call], [down], start), start)


def test_layers_without_attention_are_refused(random_mllm, problem, monkeypatch):
    monkeypatch.setattr(Capture, "reads", lambda self, module: module.layer_idx != 1)
    with pytest.raises(MeasureError, match=r"Layers \[1\] of tiny have no attention"):
        rollout_maps(random_mllm, problem, RESPONSE)


def test_a_capture_is_not_for_training_or_generation(random_mllm):
    with pytest.raises(MeasureError, match="by context"):
        Capture().read(SimpleNamespace(), None, None)
    capture = Capture()
    call = pointing([0, 0])
    for layer in range(random_mllm.n_layers):
        capture.calls[layer] = AttentionCall(
            None, call.query[:, :, :1], call.key, call.value, None, 1.0
        )
    with pytest.raises(MeasureError, match="without cache"), reading(capture):
        capture.layers(random_mllm)


def test_a_response_without_the_parts_is_refused(random_mllm, problem):
    with pytest.raises(LayoutError, match="has no step"):
        rollout_maps(random_mllm, problem, "<answer>red</answer>")
    with pytest.raises(LayoutError, match="states no answer"):
        gradient_maps(random_mllm, problem, "<think>\n1. It is red.\n", targets="answer")
