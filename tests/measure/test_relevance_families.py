"""Rollout, gradient relevance and attributions in every family, against eager attention."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from families import FAMILY_NAMES, shared_family
from PIL import Image
from tiny import noise_image

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.attributions import attribution_maps, token_sums
from attcot_analysis.measures.maps import response_parts
from attcot_analysis.measures.relevance import relevance_maps
from attcot_analysis.models import collate, encode
from attcot_analysis.problems import Problem, Step

rollout_maps = partial(relevance_maps, source="rollout")
gradient_maps = partial(relevance_maps, source="gradient_relevance")

RESPONSE = "<think>\n1. Cell b1 holds a red circle.\n</think>\n<answer>red</answer>"
BY_PIXELS = ("qwen2_5_vl", "qwen3_vl", "llava", "gemma3")
"""Families whose one picture has its pixels laid out as its tokens."""
TILED = ("internvl", "idefics3", "smolvlm")
"""Families whose tiles have."""


@pytest.fixture(scope="module")
def problem():
    steps = (Step("One.", ((0, 0, 32, 32),)),)
    return Problem("p", noise_image(80, 60, 1), "What color?", ("red", "blue"), "red", steps)


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def mllm(request):
    return shared_family(request.param)


def test_rollout_and_relevance_equal_eager(mllm, problem):
    asked = response_parts(mllm, problem, RESPONSE)
    model = copy.deepcopy(mllm.model)
    model.set_attn_implementation({"text_config": "eager"})
    output = model(**collate(mllm, [asked.item]), output_attentions=True, logits_to_keep=asked.rows)
    weights = output.attentions
    assert len(weights) == mllm.n_layers
    log_p = asked.log_probs(output.logits)[0]
    layout, eye = asked.item.layout, torch.eye(asked.item.layout.n_tokens)
    passed = eye
    for weight in weights:
        passed = (weight[0].mean(0) + eye) / 2 @ passed
    rolled = rollout_maps(mllm, problem, RESPONSE, targets="steps").weights[0, 0]
    raised = gradient_maps(mllm, problem, RESPONSE, block=31).weights[0, 0]
    for at, part in enumerate(asked.parts):
        rows = layout.rows(part.span)
        relevance = eye
        grads = torch.autograd.grad(log_p[at], weights, retain_graph=True)
        for weight, grad in zip(weights, grads, strict=True):
            relevance = relevance + (weight * grad)[0].clamp(min=0).mean(0) @ relevance
        for found, matrix in ((rolled, passed), (raised, relevance)):
            expected = matrix[rows].mean(0)[layout.image].detach().numpy()
            assert expected.max() > 0
            np.testing.assert_allclose(found[at], expected, atol=1e-5 * expected.max(), rtol=1e-3)


def test_shapley_values_add_up_in_every_family(mllm, problem):
    options = {"method": "shapley", "regions": (2, 2), "n_samples": 1, "targets": "answer"}
    found = attribution_maps(mllm, problem, RESPONSE, **options).weights.sum()
    assert abs(found - gain(mllm, problem)) < 1e-3 and abs(found) > 1e-4


def test_integrated_gradients_add_up_or_are_refused(mllm, problem):
    """What must not happen is a number for pixels of other tokens."""
    options = {"method": "integrated_gradients", "n_steps": 12, "targets": "answer"}
    if mllm.family.name not in (*BY_PIXELS, *TILED):
        with pytest.raises(MeasureError, match="use occlusion or shapley"):
            attribution_maps(mllm, problem, RESPONSE, **options)
        return
    found = attribution_maps(mllm, problem, RESPONSE, **options).weights.sum()
    expected = gain(mllm, problem)
    assert abs(found - expected) <= 0.1 * max(1.0, abs(expected)) + 1e-4 and abs(found) > 1e-4


@pytest.mark.parametrize("name", (*BY_PIXELS, "internvl"))
def test_pixels_belong_to_the_token_whose_box_was_painted(name):
    """Paint one token's box: that token's pixels must change most. The picture makes one tile."""
    mllm, image = shared_family(name), noise_image(32, 32, 3)
    before = encode(mllm, image, "What?")
    grid = before.layout.grids[0]
    for token, box in enumerate(grid.boxes):
        painted = image.copy()
        painted.paste((255, 255, 255), tuple(round(edge) for edge in box))
        after = encode(mllm, painted, "What?")
        change = (after.vision["pixel_values"] - before.vision["pixel_values"]).abs()
        assert token_sums(mllm, before, change.double().numpy()).argmax() == token


@pytest.mark.parametrize("name", TILED)
def test_pixels_of_tiles_belong_to_the_token_whose_box_was_painted(name):
    """The same where tiles overlap with the whole picture: the token is first in its own view."""
    mllm, image = shared_family(name), noise_image(96, 64, 3)
    before = encode(mllm, image, "What?")
    grid = before.layout.grids[0]
    assert len(grid.views) > 1
    for view in grid.views:
        for token in view.ravel()[:: max(view.size // 4, 1)]:
            painted = image.copy()
            painted.paste((255, 255, 255), tuple(round(edge) for edge in grid.boxes[token]))
            after = encode(mllm, painted, "What?")
            change = (after.vision["pixel_values"] - before.vision["pixel_values"]).abs()
            sums = token_sums(mllm, before, change.double().numpy())
            assert view.ravel()[sums[view.ravel()].argmax()] == token


@torch.no_grad()
def gain(mllm, problem):
    """Log p of the answer on the picture, less that on its mean colour."""
    colour = tuple(round(float(v)) for v in np.asarray(problem.image).mean(axis=(0, 1)))
    values = []
    for image in (problem.image, Image.new("RGB", problem.image.size, colour)):
        asked = response_parts(mllm, problem, RESPONSE, "answer", image=image)
        output = mllm.model(**collate(mllm, [asked.item]), logits_to_keep=asked.rows)
        values.append(float(asked.log_probs(output.logits)))
    return values[0] - values[1]
