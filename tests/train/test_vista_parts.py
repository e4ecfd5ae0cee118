"""VISTA's parts: critical tokens, attention scores, sets and yields, each against plain code."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from spelt_out import eager_copy
from tiny import noise_image

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import PROMPTS, collate, encode, encode_problem, encode_prompt
from attcot_analysis.problems import Step
from attcot_lab.vista.draw import Start, attention_shares, middle_layer, sample_responses
from attcot_lab.vista.prefix import (
    critical_tokens,
    mended_prefix,
    reordered_prompt,
)
from attcot_lab.vista.run import image_dependence, pseudo_positives
from attcot_lab.vista.sets import VistaConfig, VistaRound, vision_scores, vista_config

TEXTS = (
    "<think>\n1. Cell b1 holds a red circle.\n</think>\n<answer>red</answer>",
    "<answer>blue</answer>",
)


def tokens(mllm, text):
    return mllm.tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def next_logits(mllm, item):
    """What comes after an item, by a forward pass of its own."""
    return mllm.model(**collate(mllm, [item])).logits[0, -1]


def reordered(mllm, problem, response):
    prompt = reordered_prompt(mllm, problem.question)
    return encode_prompt(mllm, prompt, [problem.image], response=response)


class _PicturesFirst:
    """A processor whose template puts pictures first, whatever the message says."""

    image_token = "<image>"
    chat_template = "pictures first"
    image_processor = object()

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def apply_chat_template(self, messages, **_options):
        (message,) = messages
        texts = [part["text"] for part in message["content"] if part["type"] == "text"]
        return f"USER: <image>\n{''.join(texts)} ASSISTANT:"


def test_the_picture_goes_behind_the_instruction(random_mllm, training_problems):
    problem = training_problems[0]
    layout = reordered(random_mllm, problem, tokens(random_mllm, TEXTS[0])).layout
    plain = encode_problem(random_mllm, problem, response=TEXTS[0]).layout
    assert len(layout.system) > len(plain.system) and layout.n_tokens == plain.n_tokens
    assert len(layout.image) == len(plain.image) and layout.n_steps == 1
    first = replace(random_mllm, processor=_PicturesFirst(random_mllm.tokenizer))
    instruction = PROMPTS["cot"]
    assert reordered_prompt(first, "Why?") == f"USER: Why?\n{instruction}\n<image> ASSISTANT:"
    first.processor.image_token = "<elsewhere>"
    with pytest.raises(TrainingError, match="cannot be reordered"):
        reordered_prompt(first, "Why?")


def test_the_critical_token_is_that_of_a_naive_loop(random_mllm, training_problems, monkeypatch):
    problems = training_problems[:2]
    banned = [random_mllm.image_token_id, int(random_mllm.model.config.video_token_id)]
    plausible = []
    for _ in range(4):
        logits = next_logits(random_mllm, reordered(random_mllm, problems[1], plausible))
        logits[banned] = float("-inf")
        plausible.append(int(logits.topk(5).indices[len(plausible)]))
    responses = [plausible[:1] + tokens(random_mllm, TEXTS[0]), plausible]
    expected = None
    for at, token in enumerate(responses[0]):
        logits = next_logits(random_mllm, reordered(random_mllm, problems[0], responses[0][:at]))
        logits[banned] = float("-inf")
        order = logits.argsort(descending=True).tolist()
        if token not in order[:5]:
            expected = (at, token, order, float(logits.softmax(0)[token]))
            break
    found = critical_tokens(random_mllm, problems, responses)
    at, token, order, p = expected
    assert torch.is_grad_enabled()
    first = found.iloc[0]
    assert (first["position"], first["token"], first["replacement"]) == (at, token, order[0])
    assert first["top"] == order[:5] and first["rank"] == order.index(token)
    assert first["p_token"] == pytest.approx(p, abs=1e-6)
    assert found.iloc[1].isna().all()
    # A replacement that ended the response would leave nothing to continue.
    monkeypatch.setattr(random_mllm.model.generation_config, "eos_token_id", [order[0]])
    again = critical_tokens(random_mllm, problems[:1], responses[:1]).iloc[0]
    assert (again["position"], again["replacement"]) == (at, order[1])
    assert mended_prefix([4, 5, 6], 1, 9) == (4, 9)
    with pytest.raises(TrainingError, match="at least one token"):
        critical_tokens(random_mllm, problems[:1], [[]])


def test_shares_are_those_of_eager_attention(random_mllm):
    items = [
        encode(random_mllm, noise_image(96, 64, at), "What color?", response=text)
        for at, text in enumerate(TEXTS)
    ]
    found = attention_shares(random_mllm, items)
    model = eager_copy(random_mllm.model)
    for item, (_, row) in zip(items, found.iterrows(), strict=True):
        with torch.no_grad():
            weights = model(**collate(random_mllm, [item]), output_attentions=True).attentions[1][0]
        image, start = set(item.layout.image.tolist()), min(item.layout.image)
        sums = dict.fromkeys(("system", "image", "instruction"), 0.0)
        for token in range(item.prompt_length, len(item.input_ids)):
            for key in range(item.prompt_length):
                name = "image" if key in image else "system" if key < start else "instruction"
                sums[name] += float(weights[:, token - 1, key].mean())
        for name, value in sums.items():
            assert row[name] == pytest.approx(value, rel=1e-5)
        assert row["share"] == pytest.approx(sums["image"] / sum(sums.values()), rel=1e-5)
    other = attention_shares(random_mllm, items, layer=2)
    assert not np.allclose(other["share"], found["share"], rtol=1e-3)
    empty = encode(random_mllm, noise_image(64, 64, 3), "What color?", response="")
    mixed = attention_shares(random_mllm, [empty, items[1]])
    assert np.isnan(mixed["share"][0]) and mixed["share"][1] == pytest.approx(found["share"][1])


def test_the_middle_layer_sees_the_picture():
    def model(*kinds):
        config = SimpleNamespace(layer_types=[f"{kind}_attention" for kind in kinds])
        return SimpleNamespace(n_layers=len(kinds), n_heads=2, text_config=config, name="m")

    assert middle_layer(model("full", "full", "full")) == 1
    assert middle_layer(model("full", "sliding", "sliding", "full")) == 3
    assert middle_layer(model("full", "full", "sliding", "full")) == 1
    with pytest.raises(TrainingError, match="full attention"):
        middle_layer(model("sliding", "sliding"))


def test_scores_are_within_a_question():
    shares = [0.2, 0.4, 0.6, 0.5, 0.3, 0.3, 0.3000001, np.nan, 0.1, 0.1002]
    questions = ["a", "a", "a", "alone", *"ccc", "missing", "d", "d"]
    found = vision_scores(shares, questions)
    deviation = np.std([0.2, 0.4, 0.6])
    np.testing.assert_allclose(found[:3], [-0.2 / deviation, 0, 0.2 / deviation], atol=1e-12)
    np.testing.assert_array_equal(found[3:7], 0)
    assert np.isnan(found[7])
    np.testing.assert_allclose(found[8:], [-1, 1])
    np.testing.assert_allclose(vision_scores([0.1, np.nan, 0.2], ["a"] * 3), [-1, np.nan, 1])
    with pytest.raises(TrainingError, match="one each"):
        vision_scores([0.1], ["a", "b"])


def test_pairs_of_different_questions_have_equal_scores():
    """Or their ranks, and any AUROC, would hang on the last bit of the shares."""
    shares = np.random.default_rng(0).uniform(0.4, 0.6, 200)
    questions = np.repeat(np.arange(100), 2)
    assert set(vision_scores(shares, questions.tolist())) == {-1.0, 1.0}
    moved = shares * (1 + 1e-7 * np.random.default_rng(1).standard_normal(200))
    np.testing.assert_array_equal(
        vision_scores(moved, questions.tolist()), vision_scores(shares, questions.tolist())
    )


def responses(*rows):
    """Responses as (item, origin, ids, correct, finished, share, sound)."""
    names = ["item", "origin", "ids", "correct", "finished", "share", "sound"]
    table = pd.DataFrame(rows, columns=names).astype({"sound": "boolean"})
    table["number"] = table.groupby("item").cumcount()
    return table.assign(kept=0, parent=pd.NA)


DRAWN = responses(
    ("a", "sampled", [1, 2], True, True, 0.5, True),
    ("a", "sampled", [1, 2], True, True, 0.5, True),
    ("a", "sampled", [3], True, True, 0.1, False),
    ("a", "sampled", [4], True, False, np.nan, False),
    ("a", "sampled", [5], False, True, np.nan, False),
    ("b", "sampled", [6], False, True, np.nan, False),
    ("b", "sampled", [6], False, True, np.nan, False),
    ("b", "continued", [6, 7], True, True, 0.3, True),
    ("b", "plain", [8], False, True, np.nan, False),
    ("c", "sampled", [9], True, True, 0.2, False),
    ("d", "sampled", [10], False, False, np.nan, False),
    ("d", "continued", [11], False, True, np.nan, False),
    ("d", "plain", [12], True, True, 0.4, False),
)


def drawn(table):
    return VistaRound(table, critical=pd.DataFrame())


def numbers(table, name="number"):
    return list(zip(table["item"], table[name], strict=True))


def test_positives_are_distinct_finished_and_filtered_by_their_question():
    found = drawn(DRAWN).positives(VistaConfig())
    assert numbers(found) == [("a", 0), ("a", 2), ("b", 2), ("c", 0)]
    np.testing.assert_allclose(found["vas"], [1, -1, 0, 0])
    assert found["kept"].tolist() == [True, False, True, True]
    assert drawn(DRAWN).positives(VistaConfig(vas=False))["kept"].all()
    assert drawn(DRAWN).positives(VistaConfig(tau=-1.0))["kept"].all()
    plain = drawn(DRAWN).positives(VistaConfig(extra="plain"))
    assert numbers(plain) == [("a", 0), ("a", 2), ("c", 0), ("d", 2)]
    none = drawn(DRAWN[DRAWN["item"] == "d"]).positives(VistaConfig(extra="none"))
    assert len(none) == 0 and none["kept"].dtype == bool


def test_pairs_are_of_one_question_and_drawn_at_random():
    config = VistaConfig(vas=False)
    found = drawn(DRAWN).pairs(config, seed=0)
    # c has nothing wrong to be preferred to; what was cut off after its answer is not wrong.
    assert numbers(found, "chosen") == [("a", 0), ("a", 2), ("b", 2)]
    assert numbers(found, "rejected") == [("a", 4), ("a", 4), ("b", 0)]
    many = responses(
        ("a", "sampled", [0], True, True, 0.5, True),
        *[("a", "sampled", [at], False, True, np.nan, False) for at in range(1, 9)],
    )
    wrong = [drawn(many).pairs(config, seed=s)["rejected"][0] for s in range(20)]
    assert len(set(wrong)) > 3 and set(wrong) <= set(range(1, 9))
    assert wrong[7] == drawn(many).pairs(config, seed=7)["rejected"][0]


def test_yields_count_hard_questions():
    table = drawn(DRAWN).yields().set_index(["success", "draw"])
    assert table.loc[("answer", "sampled"), "value"] == 0.5
    for draw, value in (("continued", 0.5), ("plain", 0.5), ("continued - plain", 0.0)):
        assert table.loc[("answer", draw), "value"] == value
        assert table.loc[("answer", draw), "n"] == 2
    # By rationale c is hard too, and d's right answer is a guess.
    assert table.loc[("rationale", "sampled"), "value"] == 0.25
    assert table.loc[("rationale", "continued"), "value"] == pytest.approx(1 / 3)
    assert table.loc[("rationale", "plain"), "value"] == 0
    assert table.loc[("rationale", "continued"), "responses"] == 2
    assert table.loc[("answer", "continued"), "tokens"] == 3
    mended = DRAWN.assign(kept=(DRAWN["origin"] == "continued").astype(int))
    cut = drawn(mended).yields().set_index(["success", "draw"])
    assert cut.loc[("answer", "continued"), "tokens"] == 1
    unknown = drawn(DRAWN.assign(sound=pd.NA).astype({"sound": "boolean"})).yields()
    assert unknown.set_index("success").loc["rationale", "n"].max() == 0
    with pytest.raises(TrainingError, match="draw some"):
        drawn(DRAWN.iloc[:0]).yields()


def test_samples_are_read_with_their_prefix(random_mllm, training_problems):
    problem = replace(training_problems[0], steps=(Step("Cell b1 holds a red circle."),))
    prefix = tuple(tokens(random_mllm, TEXTS[0].replace("red</", f"{problem.answer}</")))
    config = VistaConfig(max_new_tokens=3)
    starts = [Start(problem), Start(problem), Start(problem, prefix, parent=7)]
    found = sample_responses(random_mllm, starts, origin="continued", config=config, seed=1)
    again = sample_responses(random_mllm, starts, origin="continued", config=config, seed=1)
    pd.testing.assert_frame_equal(found, again)
    assert found["kept"].tolist() == [0, 0, len(prefix)] and found["parent"][2] == 7
    assert found["ids"][0] != found["ids"][1]
    last = found.iloc[2]
    assert tuple(last["ids"][: len(prefix)]) == prefix and len(last["ids"]) <= len(prefix) + 3
    assert last["correct"] and last["sound"] and last["answer"] == problem.answer
    other = replace(problem, steps=(Step("Cell b1 holds a blue circle."),))
    bare = replace(problem, steps=())
    both = [Start(other, prefix), Start(bare, prefix)]
    found = sample_responses(random_mllm, both, origin="plain", config=config, seed=1)
    assert not found["sound"][0] and pd.isna(found["sound"][1])


@torch.no_grad()
def log_p(mllm, problem, image, ids):
    """Of a response, one token and forward pass at a time."""
    total = 0.0
    for at, token in enumerate(ids):
        item = encode_problem(mllm, problem, image=image, response=ids[:at])
        total += float(next_logits(mllm, item).log_softmax(0)[token])
    return total


def test_image_dependence_is_that_of_a_naive_loop(random_mllm, training_problems):
    first, second = training_problems[:2]
    second = replace(second, control=None)
    ids = [tokens(random_mllm, TEXTS[1]), tokens(random_mllm, TEXTS[0])]
    table = pd.DataFrame({"item": [first.id, second.id], "number": 0, "ids": ids})
    found = image_dependence(random_mllm, [first, second], table)
    own = [
        log_p(random_mllm, first, edit.image, ids[0]) for edit in (first, first.twin, first.control)
    ]
    columns = ["log_p", "log_p_twin", "log_p_control"]
    np.testing.assert_allclose(found.loc[0, columns].astype(float), own, atol=1e-4)
    assert found["drop"][0] == pytest.approx(own[2] - own[1], abs=1e-4)
    assert found["drop"][1] == pytest.approx(found["log_p"][1] - found["log_p_twin"][1])
    assert (found["independent"] == (found["drop"] < np.log(2))).all()
    assert pd.isna(found["unfollowed"][0]) and found["unfollowed"][1] in (True, False)
    twice = pd.DataFrame({"item": first.id, "number": [0, 1], "ids": [ids[1], ids[1]]})
    assert (
        image_dependence(random_mllm, [first], twice)["unfollowed"].notna().tolist() == [True] * 2
    )
    same = replace(first, twin=replace(first.twin, image=first.control.image))
    assert image_dependence(random_mllm, [same], table[:1])["drop"][0] == 0
    with pytest.raises(TrainingError, match="with a twin"):
        image_dependence(random_mllm, [replace(first, twin=None)], table)


def test_dropped_positives_are_held_against_kept_ones_of_their_question():
    table = pd.DataFrame(
        {
            "item": list("aaabbbcd"),
            "vas": [1.0, 0.5, -1.5, 1.0, 0.4, -1.4, 0.0, 0.0],
            "kept": [True, True, False, True, True, False, True, True],
            "independent": [False, False, True, True, False, True, True, False],
        }
    )
    found = pseudo_positives(table)
    assert found.kept.value == pytest.approx(2 / 6) and found.kept.n == 4
    assert found.dropped.value == 1 and found.dropped.n == 2
    assert found.difference.value == pytest.approx(0.75) and found.difference.n == 2
    # Of 4 × 4 pairs: -1.5 and -1.4 lie below all four, 1.0 below none, 0.0 below 0.5, 0.4, ties 0.
    dependent, independent = [1.0, 0.5, 0.4, 0.0], [-1.5, 1.0, -1.4, 0.0]
    wins = [(a < b) + 0.5 * (a == b) for a in independent for b in dependent]
    assert found.auroc == pytest.approx(np.mean(wins))
    none = pseudo_positives(table[table["kept"]])
    assert np.isnan(none.dropped.value) and np.isnan(none.difference.value)
    with pytest.raises(TrainingError, match="lacks unfollowed"):
        pseudo_positives(table, of="unfollowed")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "ppo"}, "objective is 'ppo'; choose sft or dpo"),
        ({"extra": "more"}, "extra is 'more'"),
        ({"samples": 0}, "samples is 0"),
        ({"temperature": 0}, "temperature is 0; give a number above 0"),
        ({"nll": -1}, "nll is -1"),
        ({"k": 3}, "it has objective, rounds"),
        ({"samples": "ten"}, "samples is 'ten'; give a whole number"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, sentence):
    with pytest.raises(TrainingError, match=sentence):
        vista_config(options)
