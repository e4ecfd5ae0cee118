"""Commitment: controls and leaks, tables by hand, properties, and the whole against a loop."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import noise_image

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.commitment import (
    CONTROLS,
    Commitment,
    commitment,
    filler_rationale,
    first_lasting,
    other_items,
    other_rationales,
    random_position,
)
from attcot_analysis.models import encode_problem
from attcot_analysis.problems import ANSWER_CUE, Problem, Step, parse_response, render_response
from attcot_analysis.problems.reading import states

BLANK = Image.new("RGB", (64, 48))
COLORS = ("red", "green", "blue")


def problem(name, answer="red", habitual=None, image=BLANK, candidates=COLORS):
    return Problem(name, image, "What color?", candidates, answer, habitual=habitual)


def table(name, curve, control="rationale", candidates=COLORS, leaked=()):
    """A commitment table by hand; ``curve[k]`` are the candidates' probabilities."""
    curve = np.asarray(curve, dtype=float)
    n_k = len(curve)
    return pd.DataFrame(
        {
            "item": name,
            "control": control,
            "step": np.repeat(range(n_k), len(candidates)),
            "n_steps": n_k - 1,
            "candidate": list(candidates) * n_k,
            "log_p": np.log(np.maximum(curve, 1e-9)).ravel(),
            "p": curve.ravel(),
            "leaked": [(k, c) in leaked for k in range(n_k) for c in candidates],
        }
    )


def items(table, problems, **options):
    return Commitment(table, problems).items(**options)


def only(curve, **options):
    """The one row of a one-item table."""
    item = problem("q", **options)
    return items(table("q", curve, leaked=[(2, "red"), (3, "red")]), [item]).iloc[0]


LATE = [[0.2, 0.5, 0.3], [0.2, 0.6, 0.2], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]]
EARLY = [[0.6, 0.2, 0.2]] * 5
WAVER = [[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.7, 0.2, 0.1], [0.85, 0.1, 0.05], [0.95, 0.03, 0.02]]


# --- tables by hand -----------------------------------------------------------------------------


def test_a_late_decision_by_hand():
    row = only(LATE, answer="red", habitual="green")
    assert row.final == "red" and row.correct and row.n_steps == 3
    assert row.commitment_step == 2 and row.commitment_position == pytest.approx(2 / 3)
    assert row.area == pytest.approx((0.1 + 0.2 + 0.4 + 0.45) / 3)
    assert (row.p0_final, row.p0_answer, row.p0_habitual) == pytest.approx((0.2, 0.2, 0.5))
    assert row.corrective and not row.corruptive and not row.premature
    assert row.leak_step == 2
    assert row["commitment_step_0.5"] == row["commitment_step_0.9"] == 3


def test_an_early_wrong_decision_by_hand():
    row = only(EARLY, answer="blue")
    assert row.commitment_step == 0 and row.commitment_position == 0 and row.premature
    assert row.area == pytest.approx(0.6)
    assert not row.correct and not row.corrective and not row.corruptive
    assert row["commitment_step_0.5"] == 0 and np.isnan(row["commitment_position_0.8"])
    assert np.isnan(row.p0_habitual)


def test_a_decision_that_is_left_and_taken_again_counts_from_the_second_time():
    row = only(WAVER, answer="green")
    assert row.commitment_step == 2 and row["commitment_step_0.8"] == 3
    assert row["commitment_position_0.9"] == 1.0


def test_a_right_first_answer_that_is_lost_is_corruptive():
    row = only(LATE, answer="green")
    assert row.corruptive and not row.corrective and not row.correct


def test_a_table_without_steps_has_position_zero_and_the_area_is_p0():
    row = items(table("q", [[0.5, 0.3, 0.2]]), [problem("q")]).iloc[0]
    assert row.n_steps == 0 and row.commitment_position == 0 and row.area == 0.5
    assert np.isnan(row.leak_step)


def test_a_never_stated_answer_has_no_leak_step():
    found = items(table("q", LATE), [problem("q")])
    assert found["leak_step"].isna().all()


def test_the_largest_jump_and_the_step_that_made_it_by_hand():
    late = only(LATE)
    assert late.jump == pytest.approx(0.5) and late.jump_step == 3 and late.jump_position == 1
    flat = only(EARLY)
    assert flat.jump == 0 and flat.jump_step == 1 and flat.jump_position == 0.25
    waver = only(WAVER)
    assert waver.jump == pytest.approx(0.4) and waver.jump_step == 2
    falling = only([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.75, 0.25, 0.0]])
    assert falling.jump == pytest.approx(-0.05) and falling.jump_step == 2
    stepless = items(table("q", [[0.5, 0.3, 0.2]]), [problem("q")]).iloc[0]
    assert stepless[["jump", "jump_step", "jump_position"]].isna().all()


def test_the_first_of_equals_is_final():
    assert only([[0.4, 0.4, 0.2]] * 2).final == "red"


def test_answers_of_other_pictures_replace_the_problems_own():
    found = items(table("q", LATE), [problem("q", "red")], answers={"q": "green"})
    assert found.iloc[0]["corruptive"] and found.iloc[0]["p0_answer"] == 0.5


def test_controls_are_measured_by_the_rationale_s_final_answer():
    filler = [[0.2, 0.5, 0.3], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3], [0.1, 0.6, 0.3]]
    both = pd.concat([table("q", LATE), table("q", filler, "filler")])
    rows = items(both, [problem("q")]).set_index("control")
    assert rows.loc["filler", "final"] == "green" and rows.loc["filler", "target"] == "red"
    assert rows.loc["filler", "commitment_step"] == 0
    assert rows.loc["filler", "area"] == pytest.approx((0.1 + 0.2 + 0.1 + 0.05) / 3)
    assert rows["p0_final"].nunique() == 1


def test_a_planted_early_committer_is_told_from_an_honest_stepper():
    rng = np.random.default_rng(0)
    frames, problems = [], []
    for at in range(40):
        early = at < 20
        peak = np.array([0.8, 0.85, 0.9, 0.95] if early else [0.3, 0.35, 0.5, 0.95])
        peak = (peak + rng.uniform(-0.04, 0.04, 4)).clip(0, 1)
        rest = 1 - peak
        curve = np.stack([peak, rest * 0.7, rest * 0.3], axis=1)
        frames.append(table(f"q{at}", curve))
        problems.append(problem(f"q{at}", "green"))
    rows = items(pd.concat(frames), problems)
    early, honest = rows.iloc[:20], rows.iloc[20:]
    assert early["premature"].all() and not honest["premature"].any()
    assert early["area"].min() > honest["area"].max()
    assert early["commitment_position"].max() < honest["commitment_position"].min()


def read_both_ways(name, curve, text, mass):
    """A table by hand with the reading without the closing tag."""
    both = np.asarray(text, dtype=float), np.asarray(mass, dtype=float)[:, None]
    return table(name, curve).assign(
        log_p_text=np.log(both[0] * both[1]).ravel(),
        p_text=both[0].ravel(),
        candidate_mass=np.repeat(mass, len(COLORS)),
    )


def test_a_decision_that_the_closing_tag_hides_is_read_without_it():
    """Planted: before any step every closing tag is unlikely, so that p with it is noise."""
    early = read_both_ways("q", [[0.1, 0.2, 0.7], *EARLY[:2]], EARLY[:3], [0.98, 0.99, 0.9])
    row = Commitment(early, [problem("q")]).items().iloc[0]
    assert row.commitment_step == 1 and row.p0_final == 0.1
    assert (row.final_text, row.commitment_position_text) == ("red", 0)
    assert row.p0_final_text == row.area_text == pytest.approx(0.6)
    assert (row.candidate_mass0, row.candidate_mass_least) == (0.98, 0.9)
    late = read_both_ways("q", LATE, LATE, [1.0, 1.0, 1.0, 1.0])
    row = Commitment(late, [problem("q")]).items().iloc[0]
    assert row.area_text == row.area and row.p0_final_text == row.p0_final
    curve = Commitment(early, [problem("q")]).curve(reading="text")
    np.testing.assert_allclose(curve["value"], 0.6)
    with pytest.raises(MeasureError, match="no column p_text"):
        Commitment(table("q", LATE)).curve(reading="text")


def test_controls_without_the_tag_are_measured_by_the_rationale_s_final_answer():
    own = read_both_ways("q", LATE, LATE, [1.0] * 4)
    filler = read_both_ways("q", EARLY[:4], [[0.1, 0.8, 0.1]] * 4, [1.0] * 4)
    both = pd.concat([own, filler.assign(control="filler")])
    rows = Commitment(both, [problem("q")]).items().set_index("control")
    assert rows.loc["filler", "final_text"] == "green"
    assert rows.loc["filler", "area_text"] == pytest.approx(0.1)


def test_low_candidate_mass_is_said_first():
    low = read_both_ways("q", LATE, LATE, [0.2, 0.4, 0.9, 0.9])
    text = Commitment(low, [problem("q")]).describe()
    assert text.startswith("At 2 of 4 forced answers (1 of 1 at k = 0) the model would more likely")
    high = read_both_ways("q", LATE, LATE, [0.9] * 4)
    text = Commitment(high, [problem("q")]).describe()
    assert text.startswith("Answer commitment of 1 item") and "candidate mass at k = 0 0.9" in text


@pytest.mark.parametrize(
    ("steps", "n"), [([0, 1, 2], 6), ([0, 1, 2, 3, 4], 2), ([0, 2, 7, 9], 3), ([0], 4), ([0, 1], 5)]
)
def test_the_position_of_random_argmaxes_is_that_of_a_simulation(steps, n):
    steps = np.array(steps)
    best = np.random.default_rng(0).integers(n, size=(20_000, len(steps)))
    drawn = [first_lasting(one == one[-1], steps) / max(steps[-1], 1) for one in best]
    error = np.std(drawn) / np.sqrt(len(drawn))
    assert abs(random_position(steps, n) - np.mean(drawn)) <= 4 * error


def test_the_position_of_random_argmaxes_stands_beside_the_position():
    row = only(LATE)
    assert row.commitment_position_null == pytest.approx(1 - (1 - 3**-3) / (2 * 3))
    assert "commitment position of random argmaxes 0.8" in items_of(LATE).describe()


def items_of(curve):
    return Commitment(table("q", curve), [problem("q")])


def test_broken_tables_are_refused():
    whole = table("q", LATE)
    known = [problem("q")]
    with pytest.raises(MeasureError, match=r"Item q, rationale: .* one run"):
        items(pd.concat([whole, whole]), known)
    with pytest.raises(MeasureError, match="per step from 0 to 3"):
        items(whole[whole["step"] != 1], known)
    with pytest.raises(MeasureError, match="lacks leaked"):
        items(whole.drop(columns="leaked"), known)
    with pytest.raises(MeasureError, match=r"Item q .* not among the 0 problems"):
        items(whole, [])
    with pytest.raises(MeasureError, match="'yes' is not among the table's candidates"):
        items(whole, [problem("q", "yes", candidates=("yes", "no"))])


# --- properties ---------------------------------------------------------------------------------


@st.composite
def curves(draw):
    n_k = draw(st.integers(1, 7))
    weights = st.lists(st.floats(0.001, 1), min_size=3, max_size=3)
    raw = np.array([draw(weights) for _ in range(n_k)])
    return raw / raw.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=60)
@given(curves())
def test_properties_of_any_curve(curve):
    thresholds = (0.3, 0.5, 0.7, 0.9)
    known = [problem("q", "green", "blue")]
    row = items(table("q", curve), known, thresholds=thresholds).iloc[0]
    n_steps = len(curve) - 1
    best = curve.argmax(axis=1)
    assert 0 <= row.commitment_step <= n_steps
    assert 0 <= row.commitment_position <= 1
    assert curve.min() - 1e-12 <= row.area <= curve.max() + 1e-12
    assert (best[row.commitment_step :] == best[-1]).all()
    assert row.commitment_step == 0 or best[row.commitment_step - 1] != best[-1]
    assert not (row.corrective and row.corruptive)
    stricter = [row.commitment_step, *(row[f"commitment_step_{t:g}"] for t in thresholds)]
    # Missing means "never": later than any step.
    stricter = [n_steps + 1 if np.isnan(step) else step for step in stricter]
    assert stricter == sorted(stricter)


@settings(deadline=None, max_examples=30)
@given(curves(), st.integers(1, 3))
def test_a_curve_that_is_merely_longer_keeps_its_area(curve, repeats):
    """Reading the piecewise linear curve at more points changes nothing."""
    n_steps = len(curve) - 1
    grid = np.linspace(0, n_steps, n_steps * repeats + 1)
    finer = np.stack([np.interp(grid, range(n_steps + 1), p) for p in curve.T], axis=1)
    known = [problem("q")]
    first = items(table("q", curve), known).iloc[0]
    second = items(table("q", finer), known).iloc[0]
    assert first.area == pytest.approx(second.area)


# --- curves over items --------------------------------------------------------------------------


def test_a_curve_over_items_with_the_same_k():
    both = pd.concat([table("a", LATE), table("b", LATE[::-1])])
    found = Commitment(both).curve()
    assert list(found.columns) == ["control", "k", "value", "low", "high", "n"]
    assert found["k"].tolist() == [0, 1, 2, 3] and (found["n"] == 2).all()
    # "a" ends with red, "b" with green.
    expected = (np.array(LATE)[:, 0] + np.array(LATE)[::-1, 1]) / 2
    np.testing.assert_allclose(found["value"], expected)
    assert (found["low"] <= found["value"]).all() and (found["value"] <= found["high"]).all()


def test_a_curve_over_items_with_different_k_is_read_by_position():
    both = pd.concat([table("a", LATE), table("b", EARLY)])
    found = Commitment(both).curve(points=7)
    assert "k" not in found and found["position"].tolist() == pytest.approx(np.arange(7) / 6)
    assert (found["n"] == 2).all()
    np.testing.assert_allclose(found["value"].iloc[[0, 2, 6]], [0.4, 0.4, 0.75])
    assert found["value"].iloc[1] == pytest.approx((0.2 + 0.6) / 2)
    with pytest.raises(MeasureError, match="have 3, 4 steps"):
        Commitment(both).curve(axis="k")
    assert "position" in Commitment(table("a", LATE)).curve(axis="position")


def test_curves_of_the_right_and_of_the_habitual_answer():
    both = pd.concat([table("a", LATE), table("b", LATE), table("b", LATE, "filler")])
    known = [problem("a", "red", "green"), problem("b", "blue")]
    right = Commitment(both, known).curve(which="answer").query("control == 'rationale'")
    np.testing.assert_allclose(right["value"], np.array(LATE)[:, [0, 2]].mean(axis=1))
    habitual = Commitment(both, known).curve(which="habitual")
    assert set(habitual["control"]) == {"rationale"} and (habitual["n"] == 1).all()
    np.testing.assert_allclose(habitual["value"], np.array(LATE)[:, 1])


# --- controls and leaks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("It is red.", "red", True),
        ("It is Red", "red", True),
        ("The reddish cell, then blue-green.", "red", False),
        ("colored", "red", False),
        ("cell c3 holds 13 stars", "3", False),
        ("There are 3.", "3", True),
        ("It weighs 3.5 or 2,3 kg", "3", False),
        ("option (B) fits", "(B)", True),
        ("light blue", "blue", True),
        ("light\nblue", "light blue", False),
        ("", "red", False),
    ],
)
def test_a_stated_answer_is_a_word_of_its_own(text, answer, expected):
    assert states(text, answer) is expected


def test_filler_keeps_layout_numbers_and_line_ends(random_mllm):
    steps = [Step("Cell b1 holds a red circle."), Step("Go right, then down.")]
    own = encode_problem(random_mllm, problem("q"), response=render_response(steps, "red"))
    filler = filler_rationale(random_mllm, own)
    assert filler.layout is own.layout and filler.input_ids.shape == own.input_ids.shape
    decode = random_mllm.tokenizer.decode
    for number, span in enumerate(own.layout.steps, start=1):
        text = decode(filler.input_ids[span.start : span.stop].tolist())
        assert text.startswith(f"{number}.") and text.endswith("\n")
        assert not any(char.isalpha() for char in text) and "..." in text
        changed = filler.input_ids[span.start : span.stop] != own.input_ids[span.start : span.stop]
        assert changed.any()
    outside = torch.ones(len(own.input_ids), dtype=torch.bool)
    for span in own.layout.steps:
        outside[span.start : span.stop] = False
    assert filler.input_ids[outside].equal(own.input_ids[outside])


def test_other_items_are_the_next_with_another_answer_and_enough_steps():
    answers, n_steps = ["red", "red", "blue", "green"], [3, 2, 2, 4]
    assert other_items(answers, n_steps, list("abcd")) == [3, 2, 3, 0]
    with pytest.raises(MeasureError, match="Item a: no other item has a different answer"):
        other_items(["red", "red"], [1, 1], ["a", "b"])


def test_a_part_without_steps_is_no_rationale_of_another_item():
    text = "\n3111.\n.\n233..2.\n333.\n. The star is in row 1.\n</think><answer>red</answer>"
    stammer = parse_response(text)
    assert len(stammer.steps) > 2 and not parse_response(text[: stammer.steps[1][1]]).steps
    plain = parse_response("<think>\n1. A.\n2. B.\n</think>\n<answer>blue</answer>")
    answers = [SimpleNamespace(answer=word, id=word) for word in ("blue", "red")]
    first, second = other_rationales(answers, [plain, stammer])
    assert first == text and second.endswith("2. B.\n")


# --- the whole ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems():
    return [
        problem("a", "red", "blue", noise_image(64, 48, 1)),
        problem("b", "blue", None, noise_image(96, 32, 2), ("blue", "blue green", "red")),
        problem("c", "green", "green", noise_image(32, 80, 3)),
    ]


@pytest.fixture(scope="module")
def responses(random_mllm):
    texts = [
        render_response(["Go right.", "Cell b1 holds a red circle.", "So red."], "red"),
        render_response(["The square is blue."], "blue"),
        render_response(["Go up.", "Go down, left or up."], "green"),
    ]
    end = random_mllm.tokenizer.eos_token_id
    ids = random_mllm.tokenizer(texts[2], add_special_tokens=False)["input_ids"]
    return [texts[0], texts[1], [*ids, end]]


@pytest.fixture(scope="module")
def found(random_mllm, problems, responses):
    return commitment(random_mllm, problems, responses, batch_size=2).table


def naive_commitment(mllm, problem, response):
    """Oracle: p by one forward pass per step and candidate, each on freshly written text."""
    text = response if isinstance(response, str) else mllm.tokenizer.decode(response)
    think = text[: text.index("</think>")]
    lines = think.splitlines(keepends=True)
    cuts = ["".join(lines[: 1 + k]) for k in range(len(lines))]
    written = [f"{ANSWER_CUE}{candidate}</answer>" for candidate in problem.candidates]
    ids = [mllm.tokenizer(one, add_special_tokens=False)["input_ids"] for one in written]
    n_shared = [len(set(column)) == 1 for column in zip(*ids, strict=False)].index(False)
    table = []
    for cut in cuts:
        log_p = []
        for own in ids:
            head = mllm.tokenizer(cut, add_special_tokens=False)["input_ids"]
            item = encode_problem(mllm, problem, response=[*head, *own])
            model_input = {
                "input_ids": item.input_ids[None],
                "mm_token_type_ids": item.token_types[None],
                **item.vision,
            }
            with torch.no_grad():
                scores = mllm.model(**model_input).logits[0].log_softmax(-1)
            places = range(len(item.input_ids) - len(own) + n_shared, len(item.input_ids))
            log_p.append(sum(float(scores[t - 1, item.input_ids[t]]) for t in places))
        table.append(log_p)
    log_p = np.array(table)
    return log_p, np.exp(log_p) / np.exp(log_p).sum(axis=1, keepdims=True)


def test_the_table_equals_the_naive_loop(random_mllm, problems, responses, found):
    for item, response in zip(problems, responses, strict=True):
        log_p, p = naive_commitment(random_mllm, item, response)
        rows = found[(found["item"] == item.id) & (found["control"] == "rationale")]
        np.testing.assert_allclose(rows["log_p"], log_p.ravel(), atol=1e-5)
        np.testing.assert_allclose(rows["p"], p.ravel(), atol=1e-5)


def test_the_table_is_whole(problems, found):
    assert list(found["control"].unique()) == list(CONTROLS)
    sums = found.groupby(["item", "control", "step"])["p"].sum()
    np.testing.assert_allclose(sums, 1.0)
    n_steps = found.groupby(["item", "control"])["n_steps"].first()
    assert n_steps["a", "rationale"] == n_steps["a", "filler"] == 3
    # "a" gets the rationale of "c": the longest one, shorter than its own.
    assert n_steps["a", "other_item"] == 2 and n_steps["b", "other_item"] == 1
    assert len(items(found, problems)) == 9


def test_all_controls_agree_before_the_first_step(found):
    first = found[found["step"] == 0].pivot(
        index=["item", "candidate"], columns="control", values="log_p"
    )
    for control in CONTROLS:
        np.testing.assert_allclose(first[control], first["rationale"], atol=1e-5)
    last = found[found["step"] == 1].pivot(
        index=["item", "candidate"], columns="control", values="log_p"
    )
    assert (last["filler"] - last["rationale"]).abs().min() > 1e-4


def test_leaks_follow_the_text(found):
    leaked = found[found["leaked"]]
    own = leaked[leaked["control"] == "rationale"]
    assert set(zip(own["item"], own["step"], own["candidate"], strict=True)) == {
        ("a", 2, "red"),
        ("a", 3, "red"),
        ("b", 1, "blue"),
    }
    assert leaked[leaked["control"] == "filler"].empty
    other = leaked[leaked["control"] == "other_item"]
    assert set(zip(other["item"], other["step"], other["candidate"], strict=True)) == {
        ("c", 2, "red")
    }


def test_the_batch_size_does_not_matter(random_mllm, problems, responses, found):
    alone = commitment(random_mllm, problems, responses, batch_size=1).table
    keys = ["item", "control", "step", "candidate"]
    pd.testing.assert_frame_equal(
        alone.sort_values(keys).reset_index(drop=True),
        found.sort_values(keys).reset_index(drop=True),
        atol=1e-5,
    )


def test_other_pictures_change_the_table(random_mllm, problems, responses, found):
    images = [noise_image(*p.image.size, 9) for p in problems]
    twin = commitment(random_mllm, problems, responses, images=images, controls=["rationale"]).table
    own = found[found["control"] == "rationale"]
    assert np.abs(twin["log_p"].to_numpy() - own["log_p"].to_numpy()).max() > 1e-4


def test_items_without_steps_are_named_or_left_out(random_mllm, problems, responses):
    direct = [responses[0], "<answer>blue</answer>", responses[2]]
    with pytest.raises(MeasureError, match=r"Item b: .* no rationale steps.*empty='skip'"):
        commitment(random_mllm, problems, direct)
    kept = commitment(random_mllm, problems, direct, empty="skip", controls=("rationale",))
    assert set(kept.table["item"]) == {"a", "c"}
    assert kept.skipped == {"no rationale step": ("b",)}
    with pytest.raises(MeasureError, match="nothing to measure"):
        commitment(random_mllm, problems[1:2], direct[1:2], empty="skip")


def test_bad_arguments_are_refused(random_mllm, problems, responses):
    with pytest.raises(MeasureError, match="choose from rationale, filler, other_item"):
        commitment(random_mllm, problems, responses, controls=("dots",))
    with pytest.raises(MeasureError, match="3 problems, 1 responses and no images"):
        commitment(random_mllm, problems, responses[:1])
    with pytest.raises(MeasureError, match="leave 'other_item' out"):
        commitment(random_mllm, problems[:1], responses[:1])


# --- other cues, another order of the options ----------------------------------------------------


def under(controls, curves):
    """One item under several controls, with the reading without the tag equal to that with it."""
    parts = [
        read_both_ways("q", curve, curve, [1.0] * len(curve)).assign(control=control)
        for control, curve in zip(controls, curves, strict=True)
    ]
    return Commitment(pd.concat(parts), [problem("q")])


def test_answers_that_hang_on_the_cue_are_told_from_those_that_do_not():
    controls = ("rationale", "cue_2", "cue_3")
    moved = under(controls, [LATE, [[0.7, 0.2, 0.1]] * 4, [[0.1, 0.8, 0.1]] * 4])
    row = moved.items().iloc[0]
    assert row.p0_cue_spread == pytest.approx(0.6) and row.cue_dependent
    assert "spread over cues 0.6" in moved.describe()
    steady = under(controls, [LATE] * 3).items().iloc[0]
    assert steady.p0_cue_spread == 0 and not steady.cue_dependent
    assert "p0_cue_spread" not in under(["rationale"], [LATE]).items()


def test_answers_that_hang_on_the_order_are_told_from_those_that_do_not():
    controls = ("rationale", "permuted")
    moved = under(controls, [LATE, [[0.4, 0.5, 0.1]] * 4]).items().iloc[0]
    assert moved.p0_final_orders == pytest.approx(0.3) and moved.order_dependent
    steady = under(controls, [LATE, LATE]).items().iloc[0]
    assert steady.p0_final_orders == pytest.approx(0.2) and not steady.order_dependent


def test_p_after_as_many_dots_is_the_filler_s_last():
    both = under(("rationale", "filler"), [LATE, [[0.1, 0.8, 0.1], *[[0.3, 0.6, 0.1]] * 3]])
    rows = both.items().set_index("control")
    assert (
        rows.loc["filler", "p_end"] == pytest.approx(0.3) and rows.loc["rationale", "p_end"] > 0.8
    )
    assert "p(final) after as many dots 0.3" in both.describe()


NUMBERS = ["log_p", "p", "log_p_text", "p_text", "candidate_mass"]


def test_another_cue_is_what_a_format_with_that_cue_measures(random_mllm, problems, responses):
    controls = ("rationale", "cue_2", "cue_3")
    found = commitment(random_mllm, problems, responses, controls=controls).table
    for control, cue in zip(controls[1:], random_mllm.format.cues, strict=True):
        form = random_mllm.format.model_copy(update={"cue": cue})
        own = dataclasses.replace(random_mllm, format=form)
        alone = commitment(own, problems, responses, controls=("rationale",)).table
        rows = found[found["control"] == control].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows.drop(columns="control"), alone.drop(columns="control"))
    values = {control: part["p"].to_numpy() for control, part in found.groupby("control")}
    assert not np.allclose(values["rationale"], values["cue_2"], atol=1e-6)
    bare = random_mllm.format.model_copy(update={"cues": ()})
    with pytest.raises(MeasureError, match="has 0 other cues"):
        own = dataclasses.replace(random_mllm, format=bare)
        commitment(own, problems, responses, controls=controls)


def test_another_order_is_what_the_problem_in_that_order_measures(random_mllm, problems):
    form = random_mllm.format.model_copy(update={"options": "letters"})
    mllm = dataclasses.replace(random_mllm, format=form)
    texts = [render_response(["Go right.", "So it is."], "A")] * 2
    two = problems[:2]
    found = commitment(mllm, two, texts, controls=("rationale", "permuted")).table
    for one, text in zip(two, texts, strict=True):
        shown = mllm.format.question(one.question, one.candidates)
        turned = [
            dataclasses.replace(one, candidates=(*one.candidates[by:], *one.candidates[:by]))
            for by in (1, 2)
        ]
        assert shown != mllm.format.question(one.question, turned[0].candidates)
        rows = found[(found["item"] == one.id) & (found["control"] == "permuted")]
        order = rows.sort_values(["step", "candidate"])[NUMBERS].to_numpy()
        expected = [
            commitment(mllm, [other], [text], controls=("rationale",))
            .table.sort_values(["step", "candidate"])[NUMBERS]
            .to_numpy()
            for other in turned
        ]
        assert any(np.allclose(order, other, atol=1e-5) for other in expected)
    with pytest.raises(MeasureError, match="lists no options by letters"):
        commitment(random_mllm, two, texts, controls=("permuted",))


def test_a_planted_preference_for_a_letter_hangs_on_the_order(random_mllm, problems):
    form = random_mllm.format.model_copy(update={"options": "letters"})
    mllm = dataclasses.replace(random_mllm, format=form)
    (first,) = mllm.tokenizer("A", add_special_tokens=False)["input_ids"]
    texts = [render_response(["Go right."], "A")] * 2

    def favour(module, args, output):
        output.logits[..., first] += 30.0
        return output

    hook = mllm.model.register_forward_hook(favour)
    try:
        found = commitment(mllm, problems[:2], texts, controls=("rationale", "permuted"))
    finally:
        hook.remove()
    rows = found.items()
    own = rows[rows["control"] == "rationale"]
    assert own["order_dependent"].all()
    assert own["p0_final_orders"].to_numpy() == pytest.approx([0.5, 0.5], abs=0.05)
