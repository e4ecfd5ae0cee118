import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import log_softmax
from tiny import noise_image

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures import answers as answers_module
from attcot_analysis.measures import dependence as module
from attcot_analysis.measures.compare import item_values
from attcot_analysis.measures.dependence import (
    Dependence,
    can_lose,
    control_ratio,
    dependence,
    prior_reliance,
)
from attcot_analysis.models import Generation, collate, encode_problem
from attcot_analysis.problems import Edit, Problem, Step, render_response
from attcot_analysis.problems.edits import EditOptions, edited_images
from attcot_analysis.problems.fills import GREY
from attcot_analysis.stats.intervals import bootstrap_mean

COLOURS = ("red", "blue", "green")
SHOWN = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}
STEPS = (Step("Find it."), Step("Look at it."))


def painted(colour, corner=None):
    image = Image.new("RGB", (64, 64), SHOWN[colour])
    if corner:
        image.paste(corner, (0, 0, 8, 8))
    return image


def problem(name, answer="red", twin="blue", control=True, **changes):
    """Its picture is painted in the answer's colour."""
    edits = {}
    if twin:
        edits["twin"] = Edit("twin", painted(twin), twin, STEPS, ((0, 0, 64, 64),))
    if control:
        edits["control"] = Edit(
            "control", painted(answer, (0, 0, 0)), answer, STEPS, ((0, 0, 8, 8),)
        )
    fields = {
        "id": name,
        "image": painted(answer),
        "question": "Which colour?",
        "candidates": COLOURS,
        "answer": answer,
        "steps": STEPS,
    }
    return Problem(**{**fields, **edits, **changes})


def seen_colour(item):
    """The colour an input's picture is mostly painted in; None for grey."""
    patches = item.vision["pixel_values"]
    channels = patches.reshape(len(patches), 3, -1).mean(dim=(0, 2))
    best = int(channels.argmax())
    spread = float(channels.max() - channels.min())
    return None if spread < 0.5 else ("red", "green", "blue")[best]


@pytest.fixture
def planted(monkeypatch):
    """A model whose answer looks at the picture with a given strength, or not at all."""

    def plant(strength, says=None):
        def forced(mllm, items, candidates, *, steps, names):
            assert all(list(s) == [len(i.layout.steps)] for s, i in zip(steps, items, strict=True))
            rows = []
            for item, own in zip(items, candidates, strict=True):
                colour = seen_colour(item)
                logits = [strength * (c == colour) + 0.1 * (c == "red") for c in own.candidates]
                rows.append(torch.tensor([logits]) - 3.0)
            return rows

        def generate(mllm, prompts, **options):
            texts = [says or render_response(STEPS, seen_colour(p) or "red") for p in prompts]
            tokenize = mllm.tokenizer
            return [
                Generation(tuple(tokenize(t, add_special_tokens=False)["input_ids"]), t, True)
                for t in texts
            ]

        monkeypatch.setattr("attcot_analysis.attention.packing.forced_answers", forced)
        monkeypatch.setattr(answers_module, "generate", generate)

    return plant


ITEMS = [problem("a"), problem("b", "blue", "green"), problem("c", "green", "red")]
RESPONSES = [render_response(STEPS, item.answer) for item in ITEMS]


def test_a_model_that_looks_follows_the_twin_and_not_the_control(random_mllm, planted):
    planted(4.0)
    table = dependence(random_mllm, ITEMS, RESPONSES).table
    assert list(table.columns) == list(module.COLUMNS)
    assert len(table) == 3 * 3 * 2
    for rationale in ("fixed", "regenerated"):
        part = table[table["rationale"] == rationale].set_index(["edit", "item"])
        assert part.loc["twin", "followed"].all()
        assert part.loc["twin", "flipped"].all()
        assert part.loc["control", "followed"].all()
        assert not part.loc["control", "flipped"].any()
        assert part.loc["blank", "followed"].isna().all()
        assert part.loc["blank", "expected"].isna().all()
        assert part.loc["twin", "answer_after"].tolist() == ["blue", "green", "red"]
        assert (part.loc["twin", "delta_log_p"] > 3).all()
        assert part.loc["control", "delta_log_p"].abs().max() < 1e-6


def test_a_blind_model_shows_nothing(random_mllm, planted):
    planted(0.0, says=render_response(STEPS, "red"))
    table = dependence(
        random_mllm,
        ITEMS,
        [render_response(STEPS, "red")] * 3,
        edits=("twin", "control", "blank", "swap"),
    ).table
    assert not table["flipped"].any()
    assert table["delta_log_p"].abs().max() < 1e-6
    assert set(table["answer_before"]) == {"red"}
    assert table.loc[table["edit"] == "twin", "followed"].sum() == 2  # item c's twin is red


def test_log_p_is_normalised_over_the_candidates(random_mllm, planted):
    planted(2.0)
    (row,) = dependence(
        random_mllm, ITEMS[:1], RESPONSES[:1], edits=("twin",), rationales=("fixed",)
    ).table.to_dict("records")
    before = 2.1 - np.log(np.exp(2.1) + 2)
    after = 0.1 - np.log(np.exp(0.1) + np.exp(2) + 1)
    assert row["answer_before"] == "red"
    assert row["answer_after"] == "blue"
    assert row["log_p_before"] == pytest.approx(before, abs=1e-6)
    assert row["log_p_after"] == pytest.approx(after, abs=1e-6)
    assert row["delta_log_p"] == pytest.approx(before - after, abs=1e-6)


def test_items_without_an_edit_have_no_rows(random_mllm, planted):
    planted(4.0)
    items = [problem("a"), problem("b", twin=None), problem("c", control=False)]
    table = dependence(random_mllm, items, [RESPONSES[0]] * 3, rationales=("fixed",)).table
    found = table.groupby("edit")["item"].agg(list).to_dict()
    assert found == {"twin": ["a", "c"], "control": ["a", "b"], "blank": ["a", "b", "c"]}
    with pytest.raises(MeasureError, match="No item allows the edit 'twin'"):
        dependence(random_mllm, items[1:2], RESPONSES[:1])


def test_answers_that_cannot_be_told(random_mllm, planted):
    planted(4.0, says="<think>\n1. Hm.\n</think>\n<answer>purple</answer>")
    unclear = render_response(STEPS, "purple")
    table = dependence(
        random_mllm,
        ITEMS[:2],
        [RESPONSES[0], unclear],
        edits=("twin",),
        rationales=("regenerated",),
    ).table.set_index("item")
    assert table["answer_after"].isna().all()
    assert not table["followed"].any()
    assert table.loc["a", "flipped"]
    assert pd.isna(table.loc["b", "flipped"])
    assert pd.isna(table.loc["b", "answer_before"])
    assert np.isnan(table.loc["b", "delta_log_p"])
    assert np.isfinite(table.loc["a", "delta_log_p"])


def test_responses_without_steps(random_mllm, planted):
    planted(4.0, says="<answer>blue</answer>")
    responses = [RESPONSES[0], "<answer>blue</answer>"]
    with pytest.raises(MeasureError, match="Item b: its response has no rationale steps"):
        dependence(random_mllm, ITEMS[:2], responses)
    table = dependence(random_mllm, ITEMS[:2], responses, edits=("twin",), empty="skip").table
    fixed = table[table["rationale"] == "fixed"]
    fresh = table[table["rationale"] == "regenerated"].set_index("item")
    assert fixed["item"].tolist() == ["a"]
    assert fresh["answer_after"].tolist() == ["blue", "blue"]
    assert fresh["flipped"].tolist() == [True, False]
    assert fresh["delta_log_p"].isna().all()
    assert np.isfinite(fresh.loc["a", "log_p_before"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problems": []}, "Got 0 problems, 3 responses"),
        ({"base_responses": RESPONSES[:1]}, "Got 3 problems, 1 responses"),
        ({"edits": ("sepia",)}, "There is no edit 'sepia'; choose one of twin, control, blank"),
        ({"edits": ()}, "edits is"),
        ({"rationales": ("none",)}, "choose from fixed, regenerated"),
    ],
)
def test_bad_input_is_one_sentence(random_mllm, change, message):
    arguments = {"problems": ITEMS, "base_responses": RESPONSES, **change}
    with pytest.raises(MeasureError, match=message):
        dependence(random_mllm, **arguments)


def test_edited_pictures():
    (blank, *_) = edited_images(ITEMS, "blank")
    assert blank.image.size == ITEMS[0].image.size
    assert blank.image.getcolors() == [(64 * 64, GREY)]
    swaps = edited_images([*ITEMS, problem("d", "green")], "swap")
    assert [s.image.getpixel((9, 9)) for s in swaps] == [
        SHOWN[c] for c in ("blue", "green", "red", "red")
    ]
    with pytest.raises(MeasureError, match="'swap'"):
        edited_images([problem("a"), problem("b")], "swap")


def test_fixed_equals_one_plain_forward_pass_per_candidate(random_mllm):
    """The oracle: write the answer out, no packing, and add up its tokens' log-probabilities."""
    model, tokenizer = random_mllm.model, random_mllm.tokenizer
    item = problem("a", image=noise_image(64, 64, 1))
    rationale = render_response(STEPS, "red").split("</think>")[0]

    def log_p(image):
        found = []
        for candidate in COLOURS:
            text = f"{rationale}</think>\n<answer>{candidate}</answer>"
            encoded = encode_problem(random_mllm, item, response=text, image=image)
            batch = collate(random_mllm, [encoded])
            with torch.no_grad():
                logits = model(**batch).logits[0].double().log_softmax(-1)
            head = tokenizer(f"{rationale}</think>\n<answer>", add_special_tokens=False)
            start = encoded.prompt_length + len(head["input_ids"])
            places = torch.arange(start, encoded.layout.n_tokens)
            found.append(float(logits[places - 1, encoded.input_ids[places]].sum()))
        return np.array(found) - np.log(np.exp(found).sum())

    before, after = log_p(item.image), log_p(item.twin.image)
    (row,) = dependence(
        random_mllm,
        [item],
        [render_response(STEPS, "red")],
        edits=("twin",),
        rationales=("fixed",),
    ).table.to_dict("records")
    best = before.argmax()
    assert row["answer_before"] == COLOURS[best]
    assert row["answer_after"] == COLOURS[after.argmax()]
    assert row["log_p_before"] == pytest.approx(before[best], abs=1e-4)
    assert row["delta_log_p"] == pytest.approx(before[best] - after[best], abs=1e-4)


def test_a_real_model_end_to_end_whatever_the_batches(random_mllm):
    tables = [
        dependence(random_mllm, ITEMS, RESPONSES, batch_size=size, max_new_tokens=5).table
        for size in (1, 16)
    ]
    pd.testing.assert_frame_equal(*tables, atol=1e-4)
    same = tables[0].loc[lambda t: t["rationale"] == "fixed", "delta_log_p"]
    assert np.isfinite(same).all()


# --- occlusion and net dependence -----------------------------------------------------------------

BAND = (0, 0, 64, 24)


def banded(name, colour):
    """A black picture with one band in the answer's colour: the evidence of its first step."""
    image = Image.new("RGB", (64, 64))
    image.paste(SHOWN[colour], BAND)
    return problem(
        name, colour, twin=None, control=False, image=image, steps=(Step("Look.", (BAND,)),)
    )


@pytest.mark.parametrize("strength", [4.0, 0.0])
def test_occlusion_moves_a_model_that_looks_and_its_control_does_not(
    random_mllm, planted, strength
):
    planted(strength, says=None if strength else render_response(STEPS, "red"))
    items = [banded("a", "green"), banded("b", "blue"), problem("none")]
    responses = [render_response(STEPS, i.answer if strength else "red") for i in items]
    result = dependence(
        random_mllm,
        items,
        responses,
        edits=("occlude", "occlude_control", "blank"),
        options=EditOptions(fill="grey"),
    )
    assert result.skipped == {"no edit occlude": ("none",), "no edit occlude_control": ("none",)}
    table = result.table
    found = table.groupby("edit")["flipped"].mean()
    assert found["occlude_control"] == 0
    assert found["occlude"] == (1 if strength else 0)
    control = table[table["edit"] == "occlude_control"]
    assert control["expected"].tolist() == ["green", "blue"] * 2
    assert control["followed"].all() == bool(strength)
    net = result.net("occlude")
    assert net["item"].tolist() == ["a", "b"] * 2
    assert (net["net"] > 1).all() if strength else net["net"].abs().max() < 1e-6
    assert (net["net_flipped"] == int(bool(strength))).all()


def test_a_smaller_controls_effect_is_scaled_to_the_evidence_and_an_equal_one_is_not():
    """Item a: evidence of 0.4 of the picture, control of 0.1; b: as large; c: no control."""
    rows = [
        ("a", "occlude", 2.0, 0.4),
        ("a", "occlude_control", 0.25, 0.1),
        ("b", "occlude", 2.0, 0.2),
        ("b", "occlude_control", 0.25, 0.2),
        ("c", "occlude", 2.0, 1.0),
    ]
    table = pd.DataFrame(rows, columns=["item", "edit", "delta_log_p", "area"])
    table = table.assign(rationale="fixed", flipped=True, followed=pd.NA)
    table = table.reindex(columns=[*Dependence.columns, "area"])
    net = Dependence(table).net("occlude")
    assert net["item"].tolist() == ["a", "b"]
    assert net["delta_log_p_control"].tolist() == [1.0, 0.25]
    assert net["net"].tolist() == [1.0, 1.75]
    values = item_values(model="m", seed=0, dependence=table).set_index(["metric", "item"])
    assert values.loc["net_occlusion", "value"].dropna().tolist() == [1.0, 1.75]
    assert control_ratio(table).to_dict() == {"a": pytest.approx(4), "b": 1, "c": 1}
    without = table.drop(columns="area")
    assert Dependence(without).net("occlude")["net"].tolist() == [1.75, 1.75]


@pytest.mark.parametrize("strength", [3.0, 12.0])
def test_a_surer_model_loses_more_nats_but_no_larger_share(random_mllm, planted, strength):
    planted(strength)
    net = dependence(random_mllm, ITEMS, RESPONSES, rationales=("fixed",)).net()
    # On the twin its answer becomes a wrong one like the other, but for 0.1 by which red is liked.
    assert net["net"].to_numpy() == pytest.approx(strength, abs=0.2)
    assert net["net_share"].to_numpy() == pytest.approx(1, abs=0.2 / strength)


def test_what_hardly_looks_loses_a_small_share_however_sure_it_is(random_mllm, planted):
    planted(0.0, says=render_response(STEPS, "red"))
    red = [render_response(STEPS, "red")] * 3
    assert dependence(random_mllm, ITEMS, red).net()["net_share"].abs().max() < 1e-6
    # It nearly always says red and moves as many nats as an undecided model that looks.
    sure, undecided = np.array([9.0, 0, 0]), np.array([0.9, 0, 0])
    assert 0.9 / can_lose(log_softmax(sure), 0) == pytest.approx(0.1)
    assert 0.9 / can_lose(log_softmax(undecided), 0) == pytest.approx(1)


def test_what_can_be_lost_is_that_of_a_naive_loop():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.dirichlet(np.full(5, 0.4)) + 1e-12
        p /= p.sum()
        for place in range(5):
            others = sum(p[c] for c in range(5) if c != place) / 4
            wanted = max(np.log(p[place] / others), np.log(2))
            assert can_lose(np.log(p), place) == pytest.approx(wanted)


def test_the_share_that_follows_the_twin_is_said_first(random_mllm, planted):
    planted(4.0)
    said = dependence(random_mllm, ITEMS, RESPONSES).describe()
    assert "3 items: answer follows the twin, rationale regenerated 1.000" in said
    share = said.index("log p lost on twin minus control, rationale fixed, of what can be lost")
    assert (
        said.index("follows the twin") < share < said.index("log p lost on twin, rationale fixed")
    )


def test_net_dependence_by_hand():
    rows = [
        ("a", "twin", "fixed", True, 2.0),
        ("b", "twin", "fixed", True, 1.0),
        ("c", "twin", "fixed", None, 5.0),
        ("b", "control", "fixed", True, 0.25),
        ("a", "control", "fixed", False, 0.5),
        ("c", "control", "regenerated", False, 1.0),
    ]
    table = pd.DataFrame(rows, columns=["item", "edit", "rationale", "flipped", "delta_log_p"])
    table = table.reindex(columns=Dependence.columns).astype({"flipped": "boolean"})
    net = Dependence(table).net()
    assert net["item"].tolist() == ["a", "b"]
    assert net["net"].tolist() == [1.5, 0.75]
    assert net["net_share"].isna().all()
    told = Dependence(table.assign(can_lose=[3.0, 0.7, 1.0, 0.7, 3.0, 1.0])).net()
    assert told["net_share"].tolist() == [0.5, 1.0]
    assert net["net_flipped"].tolist() == [1, 0]
    with pytest.raises(MeasureError, match="no rows for the edit 'occlude'"):
        Dependence(table).net("occlude")
    with pytest.raises(MeasureError, match="an item twice for the edit 'twin'"):
        Dependence(pd.concat([table, table]))
    with pytest.raises(MeasureError, match="'blank' has no matched control"):
        Dependence(table).net("blank")
    with pytest.raises(MeasureError, match="No item has both"):
        Dependence(table[table["rationale"].ne("fixed") | table["edit"].eq("twin")]).net()
    with pytest.raises(MeasureError, match="lacks flipped"):
        Dependence(table.drop(columns="flipped"))


@pytest.mark.golden
def test_a_trained_model_depends_on_the_evidence_more_than_on_the_rest(testbed):
    result = dependence(*testbed, edits=("occlude", "occlude_control"), rationales=("fixed",))
    net = result.net("occlude")
    assert bootstrap_mean(net["net"], net["item"]).low > 0
    assert net["flipped"].mean() > net["flipped_control"].mean() + 0.2


# --- prior reliance -----------------------------------------------------------------------------


def answer_table(answers, right="red", habitual="blue"):
    answers = list(answers)
    return pd.DataFrame(
        {
            "item": [f"i{at}" for at in range(len(answers))],
            "answer": answers,
            "correct": [a == right for a in answers],
            "habitual": pd.array([a == habitual for a in answers], dtype="boolean"),
        }
    )


def test_prior_reliance_by_hand():
    seen = answer_table(["red", "blue", "red", None, "green", "blue"])
    blind = answer_table(["red", "blue", "blue", None, "green", None])
    table = prior_reliance(seen, blind)
    assert table["agrees"].tolist() == [True, True, False, False, True, False]
    assert table["overridden"].isna().tolist() == [True] + [False] * 5
    assert table["overridden"].tolist()[1:] == [True, False, False, True, False]
    assert table["habitual"].sum() == 2
    assert table["habitual_text_only"].sum() == 2


def test_a_grey_picture_stands_beside_no_picture():
    seen = answer_table(["red", "blue", "red", None])
    blind = answer_table(["red", "blue", "blue", None])
    alike = prior_reliance(seen, blind, blind)
    assert (alike["agrees_difference"] == 0).all()
    assert (alike["answer_grey"].fillna("") == alike["answer_text_only"].fillna("")).all()
    # A model that says blue to any grey picture.
    other = prior_reliance(seen, blind, answer_table(["blue"] * 4))
    assert other["agrees_difference"].tolist() == [-1, 0, 0, 0]
    assert other["agrees_grey"].tolist() == [False, True, False, False]
    assert other["overridden_grey"].tolist() == [False, True, False, False]
    assert other["habitual_grey"].all() and other["agrees"].equals(alike["agrees"])
    with pytest.raises(MeasureError, match="The table grey holds an item twice"):
        prior_reliance(seen, blind, pd.concat([blind, blind]))


def test_prior_reliance_pairs_by_item_not_by_place():
    seen = answer_table(["red", "blue", "green"])
    table = prior_reliance(seen, seen.iloc[::-1])
    assert table["agrees"].all()


def test_prior_reliance_refuses_other_items():
    seen = answer_table(["red", "blue"])
    with pytest.raises(MeasureError, match="share 1 of 2 and 1 items"):
        prior_reliance(seen, seen.head(1))
    with pytest.raises(MeasureError, match="holds an item twice"):
        prior_reliance(seen, pd.concat([seen, seen]))
    with pytest.raises(MeasureError, match="lacks answer"):
        prior_reliance(seen.drop(columns="answer"), seen)
