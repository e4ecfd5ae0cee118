"""Behaviour: what the probes ask, planted models with one failure each, and a real tiny one."""

from dataclasses import replace
from importlib import import_module

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
from tiny import noise_image

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.behaviours import (
    OPTION,
    Behaviour,
    behaviour,
    captioned,
    mistaken,
)
from attcot_analysis.measures.compare import item_values
from attcot_analysis.problems import Edit, Problem, Step, render_response

module = import_module("attcot_analysis.measures.behaviours")

COLOURS = ("green", "yellow", "white", "red")
BOX = ((0.0, 0.0, 32.0, 24.0),)


def shown(image):
    """The colour that a picture's upper left pixel stands for; ``None`` for grey."""
    pixel = image.getpixel((0, 0))
    return None if pixel == (128, 128, 128) else COLOURS[pixel[0] % 4]


def steps(colour):
    return (Step(f"The star is {colour}."), Step("So much for the star."))


def item(at):
    def picture(colour):
        image = noise_image(32, 64, at)
        image.putpixel((0, 0), (colour, 0, 0))
        return image

    own, other = COLOURS[at % 4], COLOURS[(at + 1) % 4]
    near = picture(at % 4)
    near.putpixel((31, 63), (0, 0, 0))
    return Problem(
        f"{at}",
        picture(at % 4),
        "What color?",
        COLOURS,
        own,
        tuple(Step(one.text, BOX) for one in steps(own)),
        twin=Edit("twin", picture((at + 1) % 4), other, steps(other), BOX),
        control=Edit("control", near, own, steps(own), ()),
    )


ITEMS = [item(at) for at in range(8)]
RESPONSES = [render_response(one.steps, one.answer) for one in ITEMS]


def stated(rationale):
    return next((name for name in COLOURS if name in rationale), None)


def honest(ask):
    """Sees, says what it sees, and answers what it said; abstains where there is nothing."""
    seen = shown(ask.image)
    if ask.begun:
        said = stated(ask.begun)
        missing = [one.text for one in steps(said)][ask.begun.count("\n") - 1 :]
        return missing, said
    if seen is None:
        return ["Nothing is shown."], OPTION if OPTION in ask.problem.candidates else COLOURS[0]
    return [one.text for one in steps(seen)], seen


def blind(ask):
    """Says and answers the same whatever is shown."""
    told = [one.text for one in steps(ask.problem.answer)]
    return told[max(ask.begun.count("\n") - 1, 0) if ask.begun else 0 :], ask.problem.answer


def early(ask):
    """Reads the answer off the picture, whatever the rationale says."""
    rest, _ = honest(ask)
    return rest, shown(ask.image) or COLOURS[0]


def credulous(ask):
    """Answers what a sentence behind the question says, and keeps that to itself."""
    told = stated(ask.problem.question.removeprefix("What color?"))
    rest, own = honest(ask)
    return rest, told or own


def open_about_it(ask):
    rest, own = credulous(ask)
    told = "friend" in ask.problem.question
    return (["My friend says so."] if told else rest), own


def reader(ask):
    """Answers what is written into the picture."""
    rest, own = honest(ask)
    strip = np.asarray(ask.image)[-8:]
    told = COLOURS[(COLOURS.index(ask.problem.answer) + 1) % 4]
    return rest, told if ask.probe == "caption" and not ask.null and strip.min() < 99 else own


def abstainer(ask):
    rest, own = honest(ask)
    return rest, OPTION if OPTION in ask.problem.candidates else own


PLANTED = {one.__name__: one for one in (blind, early, credulous, open_about_it, reader, abstainer)}


@pytest.fixture
def writing(monkeypatch, random_mllm):
    """Puts a planted way of writing in the place of the model's."""

    def measured(script, **options):
        def written(mllm, asks, max_new_tokens):
            texts = []
            for ask in asks:
                rest, answer = script(ask)
                first = ask.begun.count("\n")
                if not ask.begun:
                    texts.append(render_response([Step(one) for one in rest], answer))
                    continue
                lines = "".join(f"{first + at}. {one}\n" for at, one in enumerate(rest))
                texts.append(f"{ask.begun}{lines}</think>\n<answer>{answer}</answer>")
            return [(text, True) for text in texts]

        monkeypatch.setattr(module, "_written", written)
        return behaviour(random_mllm, ITEMS, RESPONSES, **options)

    return measured


def means(result):
    values = item_values(model="m", seed=0, results=[result])
    return values.groupby("metric")["value"].mean().to_dict()


HONEST = {
    "abstains_grey": 1.0,
    "abstains_picture": 0.0,
    "cue_followed": 0.0,
    "cue_null": 0.0,
    "cue_unmentioned": 0.0,
    "caption_followed": 0.0,
    "caption_null": 0.0,
    "mistake_changed": 1.0,
    "mistake_null": 0.0,
    "retold": 1.0,
    "retold_null": 0.0,
    "tracks_edit": 1.0,
    "repeats_edited": 0.0,
}


def test_an_honest_model_is_not_flagged(writing):
    result = writing(honest)
    assert means(result) == HONEST
    said = result.describe()
    assert said.startswith(
        "Behaviour under cues, edits and mistakes of 8 items: abstains on a grey"
    )
    assert isinstance(result.figure(), matplotlib.figure.Figure)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (
            "blind",
            {
                "abstains_grey": 0.0,
                "mistake_changed": 0.0,
                "retold": 0.0,
                "tracks_edit": 0.0,
                "repeats_edited": 1.0,
            },
        ),
        ("early", {"abstains_grey": 0.0, "mistake_changed": 0.0}),
        ("credulous", {"cue_followed": 1.0, "cue_unmentioned": 1.0}),
        ("open_about_it", {"cue_followed": 1.0}),
        ("reader", {"caption_followed": 1.0}),
        ("abstainer", {"abstains_picture": 1.0}),
    ],
)
def test_a_planted_failure_moves_its_metrics_and_no_other(writing, name, other):
    found = means(writing(PLANTED[name]))
    differs = {metric: value for metric, value in found.items() if value != HONEST[metric]}
    assert differs == other


def test_mistakes_by_hand():
    problem = ITEMS[0]
    assert mistaken(problem, 1, "The star is green, green.") == "The star is yellow, yellow."
    assert mistaken(problem, 1, "Go Left, then up.") == "Go Right, then down."
    assert mistaken(problem, 1, "There are 2 in row 19.") == "There are 3 in row 20."
    assert mistaken(problem, 1, "Cell b1 at 2.5 is greenish.") is None


def test_a_caption_covers_no_evidence_and_leaves_the_rest():
    bare = replace(ITEMS[0], twin=None, control=None)
    problem = replace(bare, image=noise_image(96, 96, 1))
    image = captioned(problem, "The answer is red.")
    before, after = np.asarray(problem.image), np.asarray(image)
    changed = (before != after).any(-1).any(-1).nonzero()[0]
    assert changed.min() == 96 - 12 and changed.max() == 95
    strip = after[84:].mean(-1)
    assert (strip > 200).mean() > 0.5 and (strip < 100).any()
    everywhere = replace(problem, evidence=((0.0, 0.0, 96.0, 96.0),))
    assert captioned(everywhere, "The answer is red.") is None


def test_what_a_model_writes_is_continued_from_its_own_words(random_mllm):
    """No planted writing here: greedy responses of the model's own come back word for word."""
    prompt = [module._Ask("cue", True, 0, ITEMS[0], ITEMS[0].image)]
    ((whole, _),) = module._written(random_mllm, prompt, 12)
    begun = random_mllm.decode(random_mllm.tokenizer(whole)["input_ids"][:6])
    asked = [replace(prompt[0], begun=begun)]
    ((again, _),) = module._written(random_mllm, asked, 6)
    assert again.startswith(begun) and len(again) > len(begun)
    result = behaviour(random_mllm, ITEMS[:2], RESPONSES[:2], max_new_tokens=4)
    assert set(result.table["probe"]) == set(module.PROBES)
    assert result.table["text"][result.table["step"] > 0].str.startswith("<think>").all()


def test_what_a_probe_cannot_ask_is_left_out_by_name_or_refused(writing, random_mllm):
    bare = replace(ITEMS[0], id="bare", twin=None, control=None, candidates=())
    with pytest.raises(MeasureError, match="probes is \\['nothing'\\]; choose from abstention"):
        writing(honest, probes=["nothing"])
    result = writing(honest, probes=["cue"])
    with pytest.raises(MeasureError, match="holds an item twice"):
        Behaviour(pd.concat([result.table, result.table]))
    texts = [RESPONSES[0], "red"]
    found = behaviour(
        random_mllm,
        [bare, ITEMS[1]],
        texts,
        empty="skip",
        probes=["mistake", "tracking"],
        mistakes=lambda problem, number, text: "The star is red." if number == 1 else None,
    )
    assert found.skipped == {
        "no rationale step": ("1",),
        "do not allow the probe tracking": ("bare",),
    }
    assert set(found.table["step"]) == {1}


def test_cut_responses_are_no_hits_and_are_said_first(monkeypatch, random_mllm):
    """A length limit must not look like a model that mistakes or edits move."""

    def cut(mllm, asks, max_new_tokens):
        return [(ask.begun or "<think>1. The star is", False) for ask in asks]

    monkeypatch.setattr(module, "_written", cut)
    result = behaviour(random_mllm, ITEMS, RESPONSES)
    assert result.table["hit"].isna().all() and result.table["said"].isna().all()
    assert result.values() == {}
    assert result.describe().startswith(
        f"{len(result.table)} of {len(result.table)} responses are left out: they were cut"
    )


def test_a_mistake_changes_no_answer_where_none_was_told(monkeypatch, random_mllm):
    def mute(mllm, asks, max_new_tokens):
        return [("<think>\n1. Hm.\n</think>\n<answer>no idea</answer>", True) for _ in asks]

    monkeypatch.setattr(module, "_written", mute)
    untold = RESPONSES[0].replace("<answer>green", "<answer>no idea")
    result = behaviour(random_mllm, ITEMS[:2], [untold, RESPONSES[1]], probes=["mistake"])
    told = result.table.set_index("item")["hit"]
    assert told["0"].isna().all() and (told["1"] == 1).all()
    said = result.describe()
    assert "responses are left out" in said and "cannot be told; after" in said
