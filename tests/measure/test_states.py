"""Commitment in the hidden states: against plain passes and a plain ridge, and planted."""

from dataclasses import replace

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import torch
from families import shared_family
from PIL import Image
from tiny import noise_image, tiny_mllm

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures import states as module
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.compare import item_values
from attcot_analysis.measures.states import HiddenCommitment, hidden_commitment, steering
from attcot_analysis.models import encode_problem
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.stats.decoding import STRENGTHS, decoded, fold_numbers

ANSWERS = ("green", "yellow", "white")
STEP = "Go right."


def coloured(name, image):
    return Problem(name, image, "What color?", ANSWERS, "green")


ITEMS = [coloured(f"{at}", noise_image(32, 32, at)) for at in range(30)]


def plain_states(mllm, item, response, k):
    """All layers' states ``(L, d)`` of the last token before step k + 1, from a plain pass."""
    one = encode_problem(mllm, item, response=response)
    inputs = {"input_ids": one.input_ids[None], "mm_token_type_ids": one.token_types[None]}
    with torch.no_grad():
        output = mllm.model(**inputs, **one.vision, output_hidden_states=True)
    row = one.layout.step_ends[k] - 1
    return torch.stack([layer[0, row] for layer in output.hidden_states[1:]]).numpy()


def plain_ridge(states, labels, folds, n_labels):
    """Oracle: primal ridge by least squares, refitted without each item to choose the penalty."""
    found = np.empty_like(labels)
    for fold in set(folds):
        train, test = states[folds != fold], states[folds == fold]
        mean, spread = train.mean(0), train.std(0)
        train, test = ((part - mean) / spread / np.sqrt(states.shape[1]) for part in (train, test))
        target = np.eye(n_labels)[labels[folds != fold]]
        centre = target.mean(0)

        def fit(x, y, strength):
            return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)

        errors = []
        for strength in STRENGTHS:
            left = 0.0
            for at in range(len(train)):
                kept = np.arange(len(train)) != at
                weights = fit(train[kept], (target - centre)[kept], strength)
                left += ((train[at] @ weights - (target - centre)[at]) ** 2).sum()
            errors.append(left)
        best = fit(train, target - centre, STRENGTHS[int(np.argmin(errors))])
        found[folds == fold] = (test @ best + centre).argmax(1)
    return found


def test_the_decoder_equals_a_plain_ridge_with_refitted_leave_one_out():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(24, 5))
    labels = np.stack([(states[:, 0] > 0) + (states[:, 1] > 0.5), rng.integers(0, 3, 24)])
    folds = fold_numbers(labels[0], 4, seed=1)
    found = decoded(states, labels, folds, 3)
    for own, expected in zip(found, labels, strict=True):
        np.testing.assert_array_equal(own, plain_ridge(states, expected, folds, 3))
    assert (found[0] == labels[0]).mean() > 0.7
    for label in range(3):
        sizes = np.bincount(folds[labels[0] == label], minlength=4)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma4"])
def test_states_are_those_of_the_last_token_before_each_step(family, monkeypatch):
    mllm = shared_family(family)
    texts = [render_response([STEP] * (1 + at % 2), ANSWERS[at % 3]) for at in range(12)]
    seen = []

    def kept(states, labels, folds, n_labels):
        seen.append(states)
        return decoded(states, labels, folds, n_labels)

    monkeypatch.setattr(module, "decoded", kept)
    items = ITEMS[:12]
    table = hidden_commitment(mllm, items, texts, controls=(), folds=3, batch_size=5).table
    assert tuple(table.columns) == (*HiddenCommitment.columns, "forced")
    # Six items have a second step: two for each of three folds.
    assert table.groupby("step")["item"].nunique().tolist() == [12, 12, 6]
    assert len(seen) == 3 * mllm.n_layers
    for at in (0, 7):
        expected = plain_states(mllm, items[at], texts[at], 1)
        for layer in range(mllm.n_layers - 1):  # the last one's are normed there
            np.testing.assert_allclose(seen[3 + layer][at], expected[layer], atol=1e-4)
    own = commitment(mllm, items, texts, controls=["rationale"]).table
    best = own.loc[own.groupby(["item", "step"])["p"].idxmax()].set_index(["item", "step"])
    one = table[table["layer"] == 0].set_index(["item", "step"])
    same = best["candidate"].loc[one.index] == one["answer"]
    assert one["forced"].tolist() == same.tolist()


@pytest.fixture(scope="module")
def committed():
    """A model that sees every picture at every row alike, and says what it sees.

    Layer 0 attends evenly and all else adds nothing, so a picture is one and the same direction in
    every row. Items are a few pictures with a little noise. Their answers are those that the model
    would give before its first step, or, for the negative, another item's.
    """
    mllm = tiny_mllm(seed=3)
    with torch.no_grad():
        for number, layer in enumerate(mllm.model.model.language_model.layers):
            layer.self_attn.q_proj.weight.zero_()
            layer.self_attn.q_proj.bias.zero_()
            layer.self_attn.o_proj.weight.mul_(8.0 if number == 0 else 0.0)
            layer.mlp.down_proj.weight.zero_()
    texts = [render_response([STEP], "green")] * len(ITEMS)
    forced = commitment(mllm, ITEMS, texts, controls=["rationale"]).table
    forced = forced[forced["step"] == 0]
    said = forced.loc[forced.groupby("item")["p"].idxmax()].set_index("item")
    kinds = said.sort_values("p").groupby("candidate").tail(1)["candidate"]
    assert len(kinds) >= 2
    rng, items, answers = np.random.default_rng(0), [], []
    for at in range(30):
        name, answer = list(kinds.items())[at % len(kinds)]
        pixels = np.asarray(ITEMS[int(name)].image).astype(int)
        noisy = np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)
        items.append(coloured(f"{at}", Image.fromarray(noisy)))
        answers.append(answer)
    early = [render_response([STEP], answer) for answer in answers]
    return mllm, items, early, [early[at] for at in rng.permutation(len(early))]


def test_an_answer_that_the_states_fix_is_decoded_and_a_random_one_is_not(committed):
    mllm, pictures, early, chance = committed
    found = {}
    for name, texts in (("early", early), ("chance", chance)):
        result = hidden_commitment(mllm, pictures, texts, layers=[1, 2], folds=5)
        items = result.items(layer=2)
        found[name] = items[items["step"] == 0].mean(numeric_only=True)
    assert found["early"]["none"] > 0.9 and found["early"]["forced"] > 0.9
    even = 1 / len(set(early))
    for values in (found["early"]["text_only"], found["chance"]["none"]):
        assert values < even + 0.2
    for values in found.values():
        assert abs(values["shuffled"] - even) < 0.15
    values = item_values(model="m", seed=0, results=[result])
    means = values.groupby("metric", sort=False)["value"].mean()
    assert dict(means) == {
        f"decoded0{end}": pytest.approx(found["chance"][name])
        for end, name in (("", "none"), ("_text_only", "text_only"), ("_shuffled", "shuffled"))
    }
    said = result.describe()
    assert "decoded, shuffled, before the first step" in said and "nan" not in said
    assert isinstance(result.figure(), matplotlib.figure.Figure)
    with pytest.raises(MeasureError, match=r"No states of layer 0 were read; .* \[1, 2\]"):
        result.items(layer=0)
    with pytest.raises(MeasureError, match="holds an item twice"):
        HiddenCommitment(pd.concat([result.table, result.table]))


def test_the_decoded_direction_moves_more_than_random_ones_of_its_length(committed):
    mllm, pictures, early, chance = committed
    options = {"layer": 2, "scales": (0.0, 3.0), "n_random": 4}
    result = steering(mllm, pictures, early, **options)
    still = result.table[result.table["scale"] == 0]
    assert (still["answer_after"] == still["answer_before"]).all()
    moved = result.curve().set_index(["direction", "scale"])["value"]
    assert moved["decoded", 3.0] > moved["random", 3.0] + 0.2
    # Where answers are those of other items, the line between their means leads nowhere.
    lucky = steering(mllm, pictures, chance, **options).curve().set_index(["direction", "scale"])
    assert lucky["value"]["decoded", 3.0] < moved["decoded", 3.0] - 0.2
    values = item_values(model="m", seed=0, results=[result]).groupby("metric")["value"].mean()
    assert values["steered"] == moved["decoded", 3.0]
    assert values["steered_random"] == moved["random", 3.0]
    assert "moved to the target, decoded" in result.describe()
    assert isinstance(result.figure(), matplotlib.figure.Figure)
    assert not any(layer._forward_hooks for layer in mllm.model.model.language_model.layers)


def test_what_cannot_be_decoded_is_refused_or_left_out_by_name(random_mllm):
    texts = [render_response([STEP], ANSWERS[at % 2]) for at in range(12)]
    untold = [*texts[:-1], f"<think>\n1. {STEP}\n</think>\n<answer>pink</answer>"]
    items, some = ITEMS[:12], {"layers": [0], "forced": False, "folds": 3, "controls": ()}
    with pytest.raises(MeasureError, match="Item 11: no answer can be told"):
        hidden_commitment(random_mllm, items, untold, **some)
    result = hidden_commitment(random_mllm, items, untold, empty="skip", **some)
    assert result.skipped == {"no answer that can be told": ("11",)} and result.n == 11
    alone = [*[render_response([STEP], "green")] * 11, render_response([STEP], "white")]
    with pytest.raises(MeasureError, match="state 2 answers, 1 of them twice"):
        hidden_commitment(random_mllm, items, alone, **some)
    with pytest.raises(MeasureError, match="choose controls from shuffled, text_only"):
        hidden_commitment(random_mllm, items, texts, controls=("blank",))
    with pytest.raises(MeasureError, match=r"Layers are \[3\]"):
        steering(random_mllm, items, texts, layer=3)
    mixed = [*texts[:-1], render_response([STEP], "white")]
    found = steering(random_mllm, items, mixed, layer=0, folds=3, scales=(1.0,), n_random=1)
    assert found.skipped == {"no other item with its answer": ("11",)}
    with pytest.raises(MeasureError, match="open question"):
        steering(random_mllm, [replace(ITEMS[0], candidates=(), answer="x")], texts[:1], layer=0)
