"""Sink tokens where a massive activation was planted, and none where there is none."""

import contextlib
import copy

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILY_NAMES, shared_family
from tiny import noise_image, tiny_mllm

from attcot_analysis.attention.probe import chosen_layers
from attcot_analysis.attention.sinks import SinkRule, find_sinks, sink_strength
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import VisualAccess, visual_access
from attcot_analysis.measures.heads import visual_heads
from attcot_analysis.models import collate, encode_problem
from attcot_analysis.problems import Problem, Step, render_response

PLANTED_LAYER = 1
SINK_DIM = 5


@contextlib.contextmanager
def massive(model, places):
    """Give tokens ``(item, position)`` a massive activation where layer 1 takes them in."""

    def plant(module, args, kwargs):
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        for item, position in places:
            hidden[item, position, SINK_DIM] = 1000.0
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    layer = model.get_decoder().layers[PLANTED_LAYER]
    handle = layer.register_forward_pre_hook(plant, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def items():
    def problem(name, seed, steps, size):
        return Problem(
            id=name,
            image=noise_image(*size, seed),
            question="What color is the shape you reach?",
            candidates=("red", "blue"),
            answer="red",
            steps=steps,
        )

    first = (Step("The star is in cell a1.", ((0, 0, 16, 16),)), Step("Cell b1 holds a circle."))
    return [
        problem("a", 1, first, (96, 96)),
        problem("b", 2, (Step("The square is green.", ((0, 0, 64, 96),)),), (64, 96)),
    ]


@pytest.fixture(scope="module")
def responses(items):
    return [render_response(item.steps, item.answer) for item in items]


def naive_strength(hidden, dims):
    """phi by the definition, one token at a time."""
    found = []
    for x in hidden.double():
        normed = x / (x**2).mean().sqrt()
        found.append(max((abs(float(normed[d])) for d in dims), default=0.0))
    return np.array(found)


def test_strength_is_the_definition():
    hidden = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    real = torch.ones(2, 7, dtype=torch.bool)
    strength, dims = sink_strength(hidden, real, SinkRule(dims=(3, 11)), 20.0)
    for one, expected in zip(strength, hidden, strict=True):
        np.testing.assert_allclose(one, naive_strength(expected, (3, 11)), rtol=1e-5)
    assert dims.tolist() == [[3, 11], [3, 11]]


def test_the_sink_dimension_is_found_and_one_that_is_always_large_is_not():
    hidden = torch.randn(1, 1500, 2048, generator=torch.Generator().manual_seed(0))
    hidden[..., 7] = 60.0  # large everywhere: no sink, however large
    rule = SinkRule()
    threshold = rule.threshold_for(2048)
    assert threshold == 20.0
    real = torch.ones(1, 1500, dtype=torch.bool)
    strength, dims = sink_strength(hidden, real, rule, threshold)
    assert not strength.any() and (dims == -1).all()
    hidden[0, [0, 1200], 99] = 400.0
    strength, dims = sink_strength(hidden, real, rule, threshold)
    assert [dim for dim in dims[0].tolist() if dim >= 0] == [99]
    assert np.flatnonzero(strength[0] >= threshold).tolist() == [0, 1200]
    np.testing.assert_allclose(strength[0], naive_strength(hidden[0], [99]), rtol=1e-4)


def test_no_more_dimensions_than_asked_for_and_never_those_of_padding():
    hidden = torch.randn(1, 20, 1024, generator=torch.Generator().manual_seed(0))
    for token, dim in enumerate((10, 20, 30)):
        hidden[0, token, dim] = 300.0 - 50 * token
    real = torch.ones(1, 20, dtype=torch.bool)
    strength, dims = sink_strength(hidden, real, SinkRule(), 20.0)
    assert dims[dims >= 0].tolist() == [10, 20]
    assert np.flatnonzero(strength[0] >= 20).tolist() == [0, 1]
    _, dims = sink_strength(hidden, real, SinkRule(max_dims=3), 20.0)
    assert dims[dims >= 0].tolist() == [10, 20, 30]
    real[0, 0] = False
    strength, dims = sink_strength(hidden, real, SinkRule(), 20.0)
    assert dims[dims >= 0].tolist() == [20, 30]
    assert strength[0, 0] == 0


def test_planted_sinks_are_found_where_they_are(random_mllm, items, responses):
    encoded = encode_problem(random_mllm, items[0], response=responses[0])
    clean = find_sinks(random_mllm, encoded)
    assert clean.tokens.shape == (3, encoded.layout.n_tokens)
    assert not clean.tokens.any()
    places = [0, int(encoded.layout.image[4]), encoded.layout.n_tokens - 1]
    with massive(random_mllm.model, [(0, place) for place in places]):
        found = find_sinks(random_mllm, encoded)
        last = find_sinks(random_mllm, encoded, layers=[2])
    assert not found.tokens[0].any()
    for layer in (1, 2):
        assert np.flatnonzero(found.tokens[layer]).tolist() == places
        assert found.dims[layer] == (SINK_DIM,)
    assert last.layers == (2,) and (last.tokens == found.tokens[2:]).all()
    assert found.threshold == pytest.approx(0.7 * 8)


@torch.no_grad()
def test_sink_free_mass_equals_eager_attention_on_the_other_image_tokens(
    random_mllm, items, responses
):
    encoded = [
        encode_problem(random_mllm, item, response=response)
        for item, response in zip(items, responses, strict=True)
    ]
    sinks = [encoded[0].layout.image[[3, 20]], encoded[1].layout.image[[0]]]
    places = [(index, int(place)) for index, some in enumerate(sinks) for place in some]
    with massive(random_mllm.model, places):
        table = visual_access(random_mllm, items, responses, sinks=True).table.set_index(
            ["item", "step", "layer", "head"]
        )
    eager = copy.deepcopy(random_mllm.model)
    eager.set_attn_implementation({"text_config": "eager"})
    for index, item in enumerate(encoded):
        here = [(0, place) for at, place in places if at == index]
        with massive(eager, here):
            weights = eager(**collate(random_mllm, [item]), output_attentions=True).attentions
        for number, step in enumerate(item.layout.steps, start=1):
            for layer, head in np.ndindex(3, 4):
                rows = weights[layer][0, head, step.start - 1 : step.stop - 1].numpy()
                mass = rows[:, item.layout.image].sum(1).mean()
                ours = [place for _, place in here] if layer >= PLANTED_LAYER else []
                on_sinks = rows[:, ours].sum(1).mean()
                found = table.loc[(items[index].id, number, layer, head)]
                assert found["mass"] == pytest.approx(mass, abs=1e-5)
                assert found["sink_free_mass"] == pytest.approx(mass - on_sinks, abs=1e-5)
                assert found["sink_share"] == pytest.approx(on_sinks / mass, abs=1e-4)
    planted = table[table.index.get_level_values("layer") >= PLANTED_LAYER]
    assert (planted["sink_share"] > 0).all()


def test_without_sinks_all_mass_is_free_and_the_rest_of_the_table_is_the_same(
    random_mllm, items, responses
):
    plain = visual_access(random_mllm, items, responses).table
    table = visual_access(random_mllm, items, responses, sinks=SinkRule(), batch_size=1).table
    assert (table["sink_share"] == 0).all()
    assert (table["sink_free_mass"] == table["mass"]).all()
    both = table.drop(columns=["sink_free_mass", "sink_share"])
    pd.testing.assert_frame_equal(both, plain, rtol=1e-4, atol=1e-6)
    assert "sink_share" not in VisualAccess(plain).items()
    found = VisualAccess(table).items()
    assert (found["sink_free_mass"] == found["mass"]).all()
    np.testing.assert_allclose(found["sink_free_mass_slope"], found["mass_slope"])


def test_a_threshold_no_token_can_reach_is_refused(items, responses):
    mllm = tiny_mllm(layers=1)
    with pytest.raises(MeasureError, match="No token can reach the sink threshold 20"):
        visual_access(mllm, items, responses, sinks=SinkRule(threshold=20.0))
    with pytest.raises(MeasureError, match=r"Sink dimensions \[64\] are not all in 0..63"):
        visual_access(mllm, items, responses, sinks=SinkRule(dims=(64,)))
    with pytest.raises(MeasureError, match="give a positive number"):
        SinkRule(threshold=0.0)
    with pytest.raises(MeasureError, match="at least one sink dimension"):
        SinkRule(dims=())
    encoded = encode_problem(mllm, items[0], response=responses[0])
    with pytest.raises(MeasureError, match=r"Layers are \[1\]; choose from 0 to 0"):
        find_sinks(mllm, encoded, layers=[1])
    assert chosen_layers(mllm, np.arange(1)) == [0]


def test_no_hook_stays_even_after_an_error(items, responses):
    mllm = tiny_mllm(layers=2)

    def fail(*_):
        raise KeyError("planted")

    handle = mllm.model.get_decoder().layers[1].self_attn.register_forward_hook(fail)
    with pytest.raises(KeyError, match="planted"):
        visual_access(mllm, items, responses, sinks=True)
    handle.remove()
    visual_access(mllm, items, responses, sinks=True)
    assert not [m for m in mllm.model.modules() if m._forward_pre_hooks or m._forward_hooks]


@pytest.mark.parametrize("name", [*FAMILY_NAMES, "lfm2_vl"])
def test_every_family_shows_a_planted_sink_to_access_and_heads(name, items, responses):
    mllm = shared_family(name)
    encoded = encode_problem(mllm, items[0], response=responses[0])
    place = int(encoded.layout.image[0])
    plain = visual_access(mllm, items[:1], responses[:1]).table
    clean = visual_access(mllm, items[:1], responses[:1], sinks=True).table
    pd.testing.assert_frame_equal(clean[plain.columns], plain, rtol=1e-4, atol=1e-6)
    with massive(mllm.model, [(0, place)]):
        found = find_sinks(mllm, encoded)
        access = visual_access(mllm, items[:1], responses[:1], sinks=True).table
        heads = visual_heads(mllm, items[:1], responses[:1]).table
    assert np.flatnonzero(found.tokens[PLANTED_LAYER]).tolist() == [place]
    read = [layer for layer in set(access["layer"]) if found.tokens[layer, place]]
    assert read
    for table in (access, heads):
        planted = table["layer"].isin(read)
        assert (table.loc[planted, "sink_share"] > 0).all()
        assert (table.loc[~planted, "sink_share"] == 0).all()
