"""The region reward: its closed form, its boxes, its rows, and that it is eager attention's."""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import FAMILY_NAMES, shared_family
from spelt_out import eager_copy
from tiny import noise_image

from attcot_analysis.attention.sinks import find_sinks
from attcot_analysis.errors import TrainingError
from attcot_analysis.models import PromptCache, collate, encode, evaluating
from attcot_analysis.problems import render_response
from attcot_analysis.train.region_reward import (
    EPSILON,
    Plan,
    RegionAttention,
    RegionRewardConfig,
    most_uncertain,
    plan_rows,
    reduce_masses,
    region_attention,
    shared_prompts,
    squash,
)

ALL = RegionRewardConfig(entropy_top=1.0)
RESPONSE = render_response(["The star is in cell a1.", "Cell b1 holds a red circle."], "red")


def item(mllm, size=(96, 64), *, seed=0, response=RESPONSE, end=True):
    image = noise_image(*size, seed=seed)
    return encode(mllm, image, "What color is the shape?", response=response, end=end)


def hand_made(attention, columns, kept=1.0, entropy=None):
    """The reward of ``(H, R, N)`` attention on the image, boxes covering tokens as ``columns``."""
    n_rows = attention.shape[1]
    cols = torch.cat([torch.ones(len(columns), 1), columns[:, None]], dim=1).double()
    plan = Plan(torch.arange(n_rows), torch.ones(n_rows, dtype=torch.long), cols)
    entropy = torch.arange(n_rows, dtype=torch.double) if entropy is None else entropy
    config = RegionRewardConfig(entropy_top=kept)
    return reduce_masses(plan, entropy, {0: attention @ cols}, {0: cols.sum(0)}, config)


def test_hand_made_attention_has_the_reward_of_the_closed_form():
    random = np.random.default_rng(0)
    for n_tokens in (4, 9, 36):
        attention = torch.tensor(random.dirichlet(np.ones(n_tokens + 3), (2, 7)))[..., :n_tokens]
        focus = random.permutation(n_tokens)[: n_tokens // 3]
        covered = torch.zeros(n_tokens, dtype=torch.double)
        covered[focus] = 1.0
        found = hand_made(attention, covered)
        aim = np.mean(
            [float(attention[h, r, j]) for h in range(2) for r in range(7) for j in focus]
        )
        image = float(attention.mean())
        assert found.ratio == pytest.approx((aim + EPSILON) / (image + EPSILON))
        assert found.reward == pytest.approx(math.tanh(math.log((aim + 1e-8) / (image + 1e-8))))
        rho = found.ratio
        assert found.reward == pytest.approx((rho**2 - 1) / (rho**2 + 1), abs=1e-12)
        assert found.visual_mass == pytest.approx(float(attention.sum(-1).mean()))
        assert found.box_mass == pytest.approx(float(attention[..., focus].sum(-1).mean()))


def test_the_ends_of_the_reward():
    even = torch.full((1, 1, 4), 0.1, dtype=torch.double)
    half = torch.tensor([1.0, 1.0, 0.0, 0.0]).double()
    assert hand_made(even, half).reward == pytest.approx(0.0, abs=1e-12)
    assert hand_made(even * half, half).reward == pytest.approx((4 - 1) / (4 + 1), abs=1e-6)
    assert hand_made(even * (1 - half), half).reward == pytest.approx(-1.0, abs=1e-6)
    assert (squash(0.0), squash(1.0)) == (-1.0, 0.0)
    # A token that is half covered counts half, in what it gets and in what it is held against.
    partly = torch.tensor([1.0, 0.5, 0.0, 0.0]).double()
    assert hand_made(even, partly).reward == pytest.approx(0.0, abs=1e-12)


def test_only_the_most_uncertain_tokens_count():
    attention = torch.tensor([[[0.4, 0.0], [0.0, 0.4], [0.0, 0.4], [0.0, 0.4]]]).double()
    first = torch.tensor([1.0, 0.0]).double()
    entropy = torch.tensor([3.0, 1.0, 2.0, 0.0]).double()
    found = hand_made(attention, first, kept=0.25, entropy=entropy)
    assert found.counted.tolist() == [True, False, False, False]
    assert found.reward == pytest.approx(0.6, abs=1e-6)
    two = hand_made(attention, first, kept=0.5, entropy=entropy)
    assert two.counted.tolist() == [True, False, True, False]
    assert two.reward == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 1.0])
def test_the_number_of_tokens_is_that_of_the_published_code(share):
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3, 4, 10, 33, 110):
        entropies = torch.rand(n, generator=generator)
        chosen = most_uncertain(entropies, share).tolist()
        wanted = max(1, math.floor(round(share * n, 9)))
        assert chosen == sorted(np.argsort(-entropies.numpy())[:wanted].tolist())


# --- Boxes ----------------------------------------------------------------------------------------


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    return width * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_boxes_become_exactly_the_tokens_they_cover(name):
    """Each token by its own rectangle; and in each view no part of a box is lost or doubled."""
    mllm = shared_family(name)
    random = np.random.default_rng(len(name))
    for _ in range(4):
        width, height = (int(n) for n in random.integers(40, 200, 2))
        encoded = item(mllm, (width, height), seed=width)
        (grid,) = encoded.layout.grids
        x0, y0 = random.uniform(0, width * 0.7), random.uniform(0, height * 0.7)
        one = (x0, y0, random.uniform(x0 + 4, width), random.uniform(y0 + 4, height))
        two = (x0 / 2, y0 / 2, min(width, x0 + 9.5), min(height, y0 + 3.25))
        both = (max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3]))
        plan = plan_rows(mllm, encoded, [[one], [two]], ALL)
        areas = np.array([(b[2] - b[0]) * (b[3] - b[1]) for b in grid.boxes])
        expected = [
            (overlap(b, one) + overlap(b, two) - overlap(b, both)) / area
            for b, area in zip(grid.boxes, areas, strict=True)
        ]
        found = plan.cols[:, 1].double().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
        steps = plan_rows(mllm, encoded, [[one], [two]], RegionRewardConfig(region="step"))
        for column, box in ((1, one), (2, two)):
            alone = [overlap(b, box) / area for b, area in zip(grid.boxes, areas, strict=True)]
            np.testing.assert_allclose(steps.cols[:, column].double().numpy(), alone, atol=1e-6)
            for view in grid.views:
                tokens = view.ravel()
                corners = grid.boxes[tokens]
                seen = (*corners[:, :2].min(0), *corners[:, 2:].max(0))
                there = (steps.cols[:, column].double().numpy() * areas)[tokens].sum()
                assert there == pytest.approx(overlap(seen, box), rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_neither_a_constant_token_size_nor_clamping_before_scaling(name):
    """A box far outside the resized picture's pixels lies where it lies in the original."""
    mllm = shared_family(name)
    width, height = 600, 400
    encoded = item(mllm, (width, height))
    _, rows, cols = (int(n) for n in encoded.vision["image_grid_thw"][0])
    rows, cols = rows // 2, cols // 2  # the processors merge 2 x 2 patches
    box = (width * 0.75, height * 0.75, float(width), float(height))
    # Pitfall one: the original is larger than what the model sees, of which this box is no part.
    assert box[0] > cols * 16 and box[1] > rows * 16
    # Pitfall two: tokens of 28 px would make another grid of it.
    assert (rows, cols) != (math.ceil(rows * 16 / 28), math.ceil(cols * 16 / 28))
    expected = np.zeros((rows, cols))
    for row in range(rows):
        for col in range(cols):
            down = np.clip([row / rows, (row + 1) / rows], 0.75, 1.0)
            across = np.clip([col / cols, (col + 1) / cols], 0.75, 1.0)
            expected[row, col] = (down[1] - down[0]) * (across[1] - across[0]) * rows * cols
    plan = plan_rows(mllm, encoded, [[box]], ALL)
    np.testing.assert_allclose(plan.cols[:, 1].reshape(rows, cols), expected, atol=1e-6)
    assert expected[-1, -1] == pytest.approx(1.0) and expected[0].sum() == 0


# --- What is missing ------------------------------------------------------------------------------


def test_what_cannot_be_computed_is_none_with_its_reason(random_mllm):
    box = (10.0, 10.0, 40.0, 40.0)
    end = random_mllm.tokenizer.eos_token_id
    plain = item(random_mllm)
    text_only = encode(random_mllm, None, "What color?", response=RESPONSE)
    cases = [
        (plain, [[box], []], RegionRewardConfig(), None),
        (plain, [[], []], RegionRewardConfig(), "no_box"),
        (plain, [], RegionRewardConfig(), "no_box"),
        (text_only, [[box]], RegionRewardConfig(), "no_image"),
        (item(random_mllm, response=[end], end=False), [[box]], RegionRewardConfig(), "empty"),
        (item(random_mllm, response=[], end=False), [[box]], RegionRewardConfig(), "empty"),
        (plain, [[(200.0, 200.0, 220.0, 220.0)]], RegionRewardConfig(), "unseen"),
        (plain, [[], [], [box]], RegionRewardConfig(region="step"), "no_step"),
    ]
    for encoded, boxes, config, reason in cases:
        (alone,) = region_attention(random_mllm, [encoded], [boxes], config)
        assert alone.missing == reason
        assert (alone.reward is None) == (alone.ratio is None) == (reason is not None)
    same = [case for case in cases if case[2].region == "problem"]
    together = region_attention(
        random_mllm, [case[0] for case in same], [case[1] for case in same], batch_size=3
    )
    assert [one.missing for one in together] == [case[3] for case in same]
    (alone,) = region_attention(random_mllm, [plain], [[[box], []]])
    assert together[0].reward == pytest.approx(alone.reward, abs=1e-5)


def test_settings_without_sense_are_refused(random_mllm):
    for settings, sentence in (
        ({"layers": ()}, "name at least one layer"),
        ({"layers": "first"}, "choose last, middle"),
        ({"entropy_top": 0.0}, "share above 0"),
        ({"region": "token"}, "choose problem or step"),
        ({"mass_weight": -1.0}, "a weight is a number"),
    ):
        with pytest.raises(TrainingError, match=sentence):
            RegionRewardConfig(**settings)
    with pytest.raises(TrainingError, match=r"cannot read layers \[3\].*choose from \[0, 1, 2\]"):
        RegionRewardConfig(layers=(1, 3)).chosen_layers(random_mllm)
    with pytest.raises(TrainingError, match=r"layers \[0\].*choose from \[1, 2\]"):
        RegionRewardConfig(layers=(0, 1)).chosen_layers(shared_family("gemma3"))
    with pytest.raises(TrainingError, match="1 responses came with boxes for 0"):
        region_attention(random_mllm, [item(random_mllm)], [])


# --- Eager attention ------------------------------------------------------------------------------


@contextlib.contextmanager
def massive(model, places, prompts=None):
    """Give tokens ``(item, position)`` a massive activation where layer 1 takes them in.

    With the lengths of the items' `prompts`, in the pass over all their tokens but the last.
    """

    def plant(_module, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        if prompts is None or hidden.shape[1] == max(prompts) - 1:
            for at, position in places:
                padded = 0 if prompts is None else max(prompts) - prompts[at]
                hidden[at, padded + position, 5] = 1000.0
        return (
            ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
        )

    layer = model.get_decoder().layers[1]
    handle = layer.register_forward_pre_hook(plant, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def eager_reward(mllm, encoded, boxes, config, temperature, sinks):
    """Row by row from whole attention matrices of one item alone."""
    model = eager_copy(mllm.model)
    batch = collate(mllm, [encoded])
    places = [(0, at) for at in sinks]
    with torch.no_grad(), massive(model, places), evaluating(model):
        output = model(**batch, output_attentions=True, use_cache=False)
    with massive(mllm.model, places):
        found = find_sinks(mllm, encoded).tokens
    stop = encoded.input_ids.tolist().index(mllm.tokenizer.eos_token_id, encoded.prompt_length)
    if config.region == "problem":
        every = [box for step in boxes for box in step]
        targets = {token: every for token in range(encoded.prompt_length, stop)}
    else:
        targets = {
            token: boxes[number]
            for number, span in enumerate(encoded.layout.steps)
            for token in range(span.start, span.stop)
            if boxes[number]
        }
    entropy = {}
    for token in targets:
        p = (output.logits[0, token - 1].double() / temperature).softmax(-1)
        entropy[token] = float(-(p * p.log()).sum())
    wanted = max(1, math.floor(round(config.entropy_top * len(targets), 9)))
    kept = sorted(targets, key=lambda token: -entropy[token])[:wanted]
    image = encoded.layout.image
    (grid,) = encoded.layout.grids
    aims, wholes, total = [], [], []
    for layer in config.chosen_layers(mllm):
        looks = ~found[layer][image] if config.sink_free else np.ones(len(image), bool)
        for head in range(mllm.n_heads):
            weights = output.attentions[layer][0, head].double().numpy()
            for token in kept:
                row = weights[token - 1][image]
                covered = grid.coverage(targets[token]) * looks
                aims.append((row * covered).sum() / covered.sum())
                wholes.append((row * looks).sum() / looks.sum())
                total.append((row * looks).sum())
    ratio = (np.mean(aims) + EPSILON) / (np.mean(wholes) + EPSILON)
    return math.tanh(math.log(ratio)), float(np.mean(total)), {token - 1 for token in kept}


@pytest.mark.parametrize(
    ("name", "config", "temperature"),
    [
        ("qwen2_5_vl", RegionRewardConfig(), 1.0),
        ("qwen2_5_vl", RegionRewardConfig(region="step", layers=(0, 2), entropy_top=0.5), 0.7),
        ("qwen2_5_vl", RegionRewardConfig(sink_free=True), 1.0),
        ("internvl", RegionRewardConfig(layers="middle"), 1.3),
        ("gemma3", RegionRewardConfig(), 1.0),
        ("llava_next", RegionRewardConfig(), 1.0),
    ],
)
def test_the_reward_is_that_of_eager_attention(name, config, temperature):
    """Of three items in one padded batch, with sinks planted among the image tokens of two."""
    mllm = shared_family(name)
    items = [
        item(mllm, (96, 64)),
        item(mllm, (64, 90), seed=1, response=render_response(["A.", "B.", "C."], "blue")),
        item(mllm, (70, 70), seed=2),
    ]
    boxes = [
        [[(0.0, 0.0, 40.0, 40.0)], [(50.0, 10.0, 96.0, 60.0), (0.0, 30.0, 20.0, 64.0)]],
        [[(5.0, 5.0, 50.0, 50.0)], [], [(20.0, 40.0, 64.0, 90.0)]],
        [[(0.0, 0.0, 30.0, 30.0)], [(10.0, 10.0, 70.0, 50.0)]],
    ]
    sinks = [encoded.layout.image[:2].tolist() for encoded in items]
    sinks[2] = []
    planted = [(at, place) for at in range(3) for place in sinks[at]]
    lengths = [encoded.prompt_length for encoded in items]
    assert min(lengths) - 1 > max(len(encoded.response_ids) for encoded in items)
    with massive(mllm.model, planted, lengths):
        found = region_attention(mllm, items, boxes, config, temperature=temperature, batch_size=3)
    for at, one in enumerate(found):
        reward, mass, rows = eager_reward(
            mllm, items[at], boxes[at], config, temperature, sinks[at]
        )
        assert set(one.rows[one.counted].tolist()) == rows
        assert one.reward == pytest.approx(reward, abs=2e-5)
        assert one.visual_mass == pytest.approx(mass, abs=2e-5)
        assert abs(reward) > 1e-3
    if config.sink_free:
        with massive(mllm.model, planted, lengths):
            sunk = region_attention(mllm, items, boxes, batch_size=3)
        assert sunk[0].reward != pytest.approx(found[0].reward, abs=1e-3)


@pytest.mark.parametrize("name", [*FAMILY_NAMES, "gemma4", "lfm2_vl"])
def test_responses_that_share_a_prompt_are_read_as_if_each_were_alone(name):
    """Two of one prompt, one of another with another length, and one that says nothing."""
    mllm = shared_family(name)
    mine, other = noise_image(96, 64), noise_image(50, 90, seed=1)
    texts = (RESPONSE, render_response(["So.", "Then."], "blue"), RESPONSE, "")
    pictures, question = (mine, mine, other, mine), "What color is the shape?"
    boxes = [[[(10.0, 10.0, 45.0, 50.0)], [(0.0, 0.0, 30.0, 64.0)]]] * 4
    caching = replace(mllm, cache=PromptCache())
    items = [
        encode(caching, picture, question, response=text, end=True)
        for picture, text in zip(pictures, texts, strict=True)
    ]
    assert shared_prompts(mllm, items).which.tolist() == [0, 0, 1, 0]
    for config in (RegionRewardConfig(), RegionRewardConfig(region="step")):
        together = region_attention(mllm, items, boxes, config, batch_size=4)
        for one, own, found in zip(items, boxes, together, strict=True):
            (expected,) = region_attention(mllm, [one], [own], config)
            assert found.missing == expected.missing
            np.testing.assert_allclose(found.entropy, expected.entropy, atol=1e-4)
            if found.missing is None:
                assert found.reward == pytest.approx(expected.reward, abs=1e-4)
        assert [one.missing is None for one in together] == [True, True, True, False]


def test_boxes_that_are_all_sink_have_no_reward(random_mllm):
    encoded = item(random_mllm, (96, 64))
    token = encoded.layout.grids[0].boxes[0].tolist()
    config = RegionRewardConfig(sink_free=True)
    places = [(0, int(encoded.layout.image[0]))]
    with massive(random_mllm.model, places, [encoded.prompt_length]):
        (found,) = region_attention(random_mllm, [encoded], [[[tuple(token)]]], config)
    assert isinstance(found, RegionAttention)
    assert found.missing == "sinks" and found.reward is None
