"""Visual heads: planted ones are found, and every number equals what eager attention shows."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import noise_image, tiny_mllm

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures import heads as head_probe
from attcot_analysis.measures.access import VisualAccess, visual_access
from attcot_analysis.measures.heads import (
    HeadRule,
    VisualHeads,
    row_quantities,
    visual_heads,
)
from attcot_analysis.models import collate, encode_problem
from attcot_analysis.problems import Problem, Step, render_response

SLOW = 7
"""The dimension of a head that rotary positions turn least; head size 16 pairs it with 15."""


@pytest.fixture(scope="module")
def items():
    return [
        Problem(
            id=str(seed),
            image=noise_image(*size, seed),
            question="What color is the shape you reach?",
            candidates=("red", "blue"),
            answer="red",
            steps=(Step("The star is in cell a1."), Step("It is red.", ((0, 0, 16, 16),)))[:steps],
        )
        for seed, size, steps in ((1, (96, 96), 2), (2, (64, 96), 1), (3, (96, 96), 2))
    ]


@pytest.fixture(scope="module")
def responses(items):
    return [render_response(item.steps, item.answer) for item in items]


def planted_mllm(look):
    """Heads that look at the image (look > 0), away from it (< 0), or evenly (0), in all layers.

    Image tokens are marked by dimension 0 of the hidden state, which no layer writes to.
    """
    mllm = tiny_mllm(layers=2)
    text = mllm.model.get_decoder()
    with torch.no_grad():
        text.embed_tokens.weight[:, 0] = 0
        merger = mllm.model.model.visual.merger.mlp[2]
        merger.weight[0] = 0
        merger.bias[0] = 2.0  # far from massive, or it would make sinks of them
        for layer in text.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                part.weight.zero_()
                part.bias.zero_()
            layer.self_attn.k_proj.weight[[SLOW, 16 + SLOW], 0] = 1.0
            for head, strength in enumerate(look):
                layer.self_attn.q_proj.bias[16 * head + SLOW] = 160.0 * strength
    return mllm


def test_a_head_that_looks_is_visual_and_the_others_are_not(items, responses):
    mllm = planted_mllm((-1, 1, -1, -1))
    result = visual_heads(mllm, items, responses, n_boot=50)
    table = result.table
    assert list(zip(table["layer"], table["head"], strict=True)) == list(np.ndindex(2, 4))
    assert set(result.select()) == {(0, 1), (1, 1)}
    looking = table["head"] == 1
    assert (table.loc[looking, "mass"] > 0.9).all() and (table.loc[~looking, "mass"] < 0.1).all()
    assert (table["support"] == looking).all()
    assert (table["n"] == 3).all()

    none = visual_heads(planted_mllm((-1, -1, -1, -1)), items, responses, n_boot=50)
    assert none.select() == []


def test_the_focused_criterion_takes_the_head_whose_look_is_narrow(items, responses):
    result = visual_heads(
        planted_mllm((-1, 0, 1, 0)),
        items,
        responses,
        rule=HeadRule("focused", efr_quantile=0.25, ratio_quantile=0.75),
        n_boot=20,
    )
    assert {head for _, head in result.select()} == {2}
    table = result.table
    even = table[table["head"].isin([1, 3])]
    np.testing.assert_allclose(even["ratio"], 1.0, rtol=1e-4)
    # Spread evenly: log N, averaged over pictures of 36, 24 and 36 tokens.
    np.testing.assert_allclose(even["entropy"], (2 * np.log(36) + np.log(24)) / 3, rtol=1e-4)
    # Half the heads look evenly and have a mass above 0.2 by that alone.
    assert even["image_centric"].all()


def by_hand(weights, item, rows):
    """Mass, ratio and entropy of one head's rows from its T x T weights."""
    found = []
    for row in rows:
        seen = weights[row, : row + 1]
        inside = weights[row, item.layout.image]
        part = inside / inside.sum()
        entropy = -(part[part > 0] * np.log(part[part > 0])).sum()
        found.append((inside.sum(), inside.mean() / seen.mean(), entropy))
    return np.mean(found, axis=0)


@pytest.mark.parametrize("where", ["rationale", "answer", "prompt"])
@torch.no_grad()
def test_numbers_equal_eager_attention(random_mllm, items, responses, where, monkeypatch):
    table = visual_heads(random_mllm, items, responses, where=where, n_boot=20).table
    eager = copy.deepcopy(random_mllm.model)
    eager.set_attn_implementation({"text_config": "eager"})
    expected = []
    for item, response in zip(items, responses, strict=True):
        encoded = encode_problem(random_mllm, item, response=response)
        layout = encoded.layout
        rows = {
            "rationale": [t - 1 for step in layout.steps for t in range(step.start, step.stop)],
            "answer": [layout.answer.start - 1],
            "prompt": [encoded.prompt_length - 1],
        }[where]
        weights = eager(**collate(random_mllm, [encoded]), output_attentions=True).attentions
        expected.append(
            [
                by_hand(w[0, head].double().numpy(), encoded, rows)
                for w in weights
                for head in range(4)
            ]
        )
    mass, ratio, entropy = np.mean(expected, axis=0).T
    np.testing.assert_allclose(table["mass"], mass, rtol=1e-4)
    np.testing.assert_allclose(table["ratio"], ratio, rtol=1e-4)
    np.testing.assert_allclose(table["entropy"], entropy, rtol=1e-4)
    np.testing.assert_allclose(table["efr"], entropy / ratio, rtol=1e-4)
    assert (table["sink_share"] == 0).all()
    for name in ("mass", "entropy", "efr"):
        assert (table[f"{name}_low"] <= table[f"{name}_high"]).all()

    monkeypatch.setattr(head_probe, "_NUMBERS_AT_ONCE", 1)
    again = visual_heads(random_mllm, items, responses, where=where, n_boot=20, batch_size=1).table
    pd.testing.assert_frame_equal(table, again, rtol=1e-4, atol=1e-6)


def test_mass_agrees_with_visual_access(random_mllm, items, responses):
    table = visual_heads(random_mllm, items, responses, layers=[1], sinks=False, n_boot=20).table
    assert table["sink_share"].isna().all()
    access = visual_access(random_mllm, items, responses, layers=[1]).table
    weighted = access.assign(sums=access["mass"] * access["rows"])
    sums = weighted.groupby(["item", "head"], sort=False)[["sums", "rows"]].sum()
    expected = (sums["sums"] / sums["rows"]).groupby("head").mean()
    np.testing.assert_allclose(table["mass"], expected, rtol=1e-4)


def test_row_quantities_by_hand():
    weights = torch.tensor([[[[0.2, 0.3, 0.1, 0.4], [0.5, 0.0, 0.0, 0.5]]]])
    image = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    sinks = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    rows = torch.tensor([[3, 3]])
    looking, blind = row_quantities(weights, image, sinks, rows)[0, 0]
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert looking.tolist() == pytest.approx([0.4, 0.8, entropy, 0.1])
    assert blind.tolist() == pytest.approx([0.0, 0.0, np.log(2), 0.0])


def head_table(**columns):
    fixed = {"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "support": [1.0, 0.6, 1.0, np.nan]}
    unread = dict.fromkeys(("mass_low", "mass_high", "ratio", "efr", "sink_share"), np.nan)
    return pd.DataFrame(fixed | columns).assign(n=1, **unread)


def test_selected_heads_filter_an_access_table(random_mllm, items, responses):
    table = head_table(visual=[True, True, False, True], mass=[0.3, 0.5, 0.9, 0.4])
    assert VisualHeads(table).select() == [(0, 1), (1, 1), (0, 0)]
    assert VisualHeads(table).select(support=0.9) == [(1, 1), (0, 0)]
    access = visual_access(random_mllm, items, responses)
    found = access.at([(1, 1), (0, 0)]).table
    assert set(zip(found["layer"], found["head"], strict=True)) == {(0, 0), (1, 1)}
    assert len(found) == len(access.table) / 6
    with pytest.raises(MeasureError, match=r"lacks the heads \[\(7, 0\)\]"):
        access.at([(7, 0)])
    with pytest.raises(MeasureError, match="lacks head"):
        VisualAccess(access.table.drop(columns="head"))
    with pytest.raises(MeasureError, match=r"lacks .*visual, support"):
        VisualHeads(access.table)


def test_bad_input_is_refused_in_a_sentence(random_mllm, items, responses):
    with pytest.raises(MeasureError, match="3 problems, 1 responses and no images"):
        visual_heads(random_mllm, items, responses[:1])
    with pytest.raises(MeasureError, match="where='image' is unknown"):
        visual_heads(random_mllm, items, responses, where="image")
    cut = ["<think>\n1. It is red.\n"]
    with pytest.raises(MeasureError, match="Item 1: its response states no answer"):
        visual_heads(random_mllm, items[:1], cut, where="answer")
    with pytest.raises(MeasureError, match="No response states an answer"):
        visual_heads(random_mllm, items[:1], cut, where="answer", empty="skip")
    with pytest.raises(MeasureError, match="Criterion 'all' is unknown"):
        HeadRule("all")
    with pytest.raises(MeasureError, match=r"min_mass is 2.0; expected a share"):
        HeadRule(min_mass=2.0)
    one = visual_heads(random_mllm, items[:1], responses[:1], n_boot=20).table
    assert one["support"].isna().all() and one["mass_low"].isna().all()
