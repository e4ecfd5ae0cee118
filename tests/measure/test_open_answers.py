"""Commitment on open answers: against full strings and a loop, tables by hand, what is left out."""

import functools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from families import FAMILY_NAMES, shared_family
from PIL import Image
from tiny import noise_image

from attcot_analysis.attention.continuations import AnswerCue, read_continuations
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.answers import parsed_answer
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.open_answers import OpenCommitment, open_commitment
from attcot_analysis.models import encode, encode_problem
from attcot_analysis.problems import ANSWER_CUE, Problem, Step, parse_response, render_response
from attcot_analysis.problems.formats import FORMATS
from attcot_analysis.runs.measure import measure
from attcot_analysis.runs.values import suite_values

STEPS = ("The star is in cell a1 and its arrow points right.", "Cell b1 holds a red circle.")
ANSWERS = ("red", "No", "-3", "12", "a red cup", "(B)", "5%")


@functools.cache
def joining_mllm():
    """Its tokenizer joins the end of a tag with what follows: ``>No``."""
    return tiny.tiny_mllm(tokenizer=tiny.merging_tokenizer())


@pytest.fixture(params=["tags are tokens", "tags join text"])
def mllm(request, random_mllm):
    return random_mllm if request.param == "tags are tokens" else joining_mllm()


def question(name, seed, answer="red", **fields):
    return Problem(name, noise_image(64, 48, seed), "What is it?", (), answer, **fields)


# --- forced texts against full strings ------------------------------------------------------------


def logits_behind(mllm, item, k, ids):
    """Of one plain forward pass over the prefix and more tokens: those at its last token and on."""
    ids = torch.cat([item.input_ids[: item.layout.cuts[k].stop], torch.tensor(ids)])[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **item.vision}
    if item.token_types is not None:
        types = torch.zeros_like(ids)
        types[0, : item.layout.cuts[k].stop] = item.token_types[: item.layout.cuts[k].stop]
        inputs[mllm.family.token_types] = types
    with torch.no_grad():
        return mllm.model(**inputs).logits[0, item.layout.cuts[k].stop :].double()


def spelt(mllm, text, before=""):
    tokens = mllm.tokenizer(f"{before}{ANSWER_CUE}{text}</answer>", add_special_tokens=False)
    return list(tokens["input_ids"])


@pytest.mark.parametrize("text", ANSWERS)
def test_every_token_equals_a_plain_forward_pass_per_step(mllm, text):
    cue = AnswerCue(mllm)
    tagged = "<think>Go right.</think><answer>No</answer>"
    items = [
        encode(mllm, noise_image(64, 48, 0), "What?", response=render_response(STEPS, text)),
        encode(mllm, noise_image(96, 32, 1), "What is it?", response=tagged),
    ]
    asked = [
        [(k, cue.behind(text, cut.rest)) for k, cut in enumerate(item.layout.cuts)]
        for item in items
    ]
    found = read_continuations(mllm, items, asked)
    for item, forced, readings in zip(items, asked, found, strict=True):
        assert len(readings) == item.layout.n_steps + 1
        for (k, one), reading in zip(forced, readings, strict=True):
            ids = spelt(mllm, text, item.layout.cuts[k].rest)
            assert ids == [*one.shared, *one.tail]
            log_p = logits_behind(mllm, item, k, ids)[len(one.shared) - 1 : -1].log_softmax(-1)
            own = log_p[torch.arange(len(one.tail)), list(one.tail)]
            np.testing.assert_allclose(reading.log_p, own, atol=1e-4)
            entropy = -(log_p.exp() * log_p).sum(-1)
            np.testing.assert_allclose(reading.entropy, entropy, atol=1e-4)
            assert reading.greedy.tolist() == (log_p.argmax(-1) == torch.tensor(one.tail)).tolist()


@pytest.mark.parametrize("text", ANSWERS)
def test_the_text_s_tokens_are_those_that_overlap_it(mllm, text):
    cue = AnswerCue(mllm)
    for white in ("", "\n", " "):
        one = cue.behind(f"{white}{text}{white}")
        assert mllm.decode([*one.shared, *one.tail]) == f"{ANSWER_CUE}{white}{text}{white}</answer>"
        start, stop = one.text
        assert text in mllm.decode(one.tail[start:stop])
        assert text not in mllm.decode(one.tail[start + 1 : stop])
        assert text not in mllm.decode(one.tail[start : stop - 1])


def test_what_may_join_the_answer_is_no_stable_part_of_the_cue(random_mllm):
    decode = joining_mllm().decode
    stable = AnswerCue(joining_mllm()).stable()
    assert decode(stable) == ANSWER_CUE.removesuffix(">")
    assert decode(AnswerCue(joining_mllm()).behind("No").tail).startswith(">No")
    assert random_mllm.decode(AnswerCue(random_mllm).stable()) == ANSWER_CUE


def test_what_was_written_is_read_behind_the_cue_and_up_to_the_closing_tag():
    cue = AnswerCue(joining_mllm())

    def said(text):
        return cue.said(joining_mllm().tokenizer(text, add_special_tokens=False)["input_ids"])

    assert said(">No</answer> and more") == ("No", True)
    assert said(">a red cup") == ("a red cup", False)
    assert said(f">a cup{ANSWER_CUE}a cup</answer>") == ("a cup", True)
    assert said("</think>") == ("", False)  # it did not even end the cue


@pytest.mark.parametrize(
    ("form", "written", "said"),
    [
        ("prose", "3.5 cm. Is it?", "3.5 cm"),
        ("prose", "red\n1. Again", "red"),
        ("boxed", r"\frac{1}{2}}.", r"\frac{1}{2}"),
        ("qwen3_vl", "4 * 2**\n", "4 * 2"),
        ("llava_cot", "B </CONCLUSION> and", "B"),
        ("thinking", "12.", "12"),
    ],
)
def test_a_forced_answer_ends_where_its_format_says(random_mllm, form, written, said):
    mllm = replace(random_mllm, format=FORMATS[form])
    stable = AnswerCue(mllm).stable()
    rest = mllm.format.cue.removeprefix(mllm.decode(stable))
    ids = mllm.tokenizer(f"{rest}{written}", add_special_tokens=False)["input_ids"]
    text, ended = AnswerCue(mllm).said(ids)
    assert ended and text.strip() == said
    assert AnswerCue(mllm).said(ids[:1])[1] is False


@pytest.mark.parametrize("form", ["prose", "boxed", "qwen3_vl", "llava_cot"])
def test_answers_are_forced_in_the_model_s_format(random_mllm, form):
    mllm = replace(random_mllm, format=FORMATS[form])
    item = question("a", 0)
    response = mllm.format.render(STEPS, "red")
    found = open_commitment(mllm, [item], [response], max_new_tokens=3)
    assert (found.table["final"] == "red").all() and found.items()["correct"].all()
    encoded = encode_problem(mllm, item, response=response)
    assert len(found.table) == encoded.layout.n_steps + 1 >= 3
    # Behind the whole rationale a forced answer is the response itself.
    one = AnswerCue(mllm).behind("red", encoded.layout.cuts[-1].rest)
    ids = encoded.input_ids.tolist()
    assert ids[-len(one.shared) - len(one.tail) :] == [*one.shared, *one.tail]
    inputs = {"input_ids": encoded.input_ids[None], **encoded.vision}
    inputs[mllm.family.token_types] = encoded.token_types[None]
    with torch.no_grad():
        log_p = mllm.model(**inputs).logits[0, -len(one.tail) - 1 : -1].double().log_softmax(-1)
    own = log_p[torch.arange(len(one.tail)), list(one.tail)]
    last = found.table.iloc[-1]
    assert last.log_p == pytest.approx(float(own[: one.text[1]].sum()), abs=1e-4)
    assert last.log_p_closed == pytest.approx(float(own.sum()), abs=1e-4)


def test_an_empty_text_and_one_that_the_tokenizer_changes_are_refused(random_mllm):
    cue = AnswerCue(random_mllm)
    with pytest.raises(MeasureError, match="An empty text cannot be forced"):
        cue.behind(" \n")


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_packed_equals_plain_in_every_family(name):
    mllm = shared_family(name)
    cue = AnswerCue(mllm)
    item = encode(mllm, noise_image(64, 48, 0), "What?", response=render_response(STEPS, "red"))
    asked = [(k, cue.behind("a red cup", cut.rest)) for k, cut in enumerate(item.layout.cuts)]
    ((_, *_, last),) = read_continuations(mllm, [item], [asked])
    k, one = asked[-1]
    ids = [*one.shared, *one.tail]
    log_p = logits_behind(mllm, item, k, ids)[len(one.shared) - 1 : -1].log_softmax(-1)
    own = log_p[torch.arange(len(one.tail)), list(one.tail)]
    np.testing.assert_allclose(last.log_p, own, atol=2e-4)


# --- the whole against a loop ---------------------------------------------------------------------


def greedy(mllm, item, k, cue, limit):
    """Oracle: the most probable token, one forward pass each, until the response ends."""
    ids: list[int] = []
    for _ in range(limit):
        logits = logits_behind(mllm, item, k, [*cue, *ids])[-1]
        logits[mllm.image_token_id] = -torch.inf
        ids.append(int(logits.argmax()))
        if ids[-1] in mllm.stop_ids:
            return ids[:-1]
    return ids


def test_a_trained_model_equals_a_loop_over_steps(testbed):
    """On its own responses: some forced answers are the final one and are not generated."""
    mllm, problems, responses = testbed
    problems = [replace(one, candidates=(), twin=None, control=None) for one in problems[:3]]
    found = open_commitment(mllm, problems, responses[:3], batch_size=2)
    assert tuple(found.table.columns) == OpenCommitment.columns
    cue = AnswerCue(mllm)
    for item, response in zip(problems, responses, strict=False):
        encoded = encode_problem(mllm, item, response=response)
        final = parse_response(mllm.decode(response)).answer
        rows = found.table[found.table["item"] == item.id]
        assert (rows["final"] == final).all() and (rows["n_steps"] == len(rows) - 1).all()
        for k, row in enumerate(rows.itertuples()):
            one = cue.behind(final)
            n = len(one.shared)
            log_p = logits_behind(mllm, encoded, k, [*one.shared, *one.tail])[n - 1 : -1]
            log_p = log_p.log_softmax(-1)[torch.arange(len(one.tail)), list(one.tail)]
            text = log_p[slice(*one.text)]
            assert row.p == pytest.approx(float(text.mean().exp()), abs=1e-4)
            assert row.p_closed == pytest.approx(float(log_p.mean().exp()), abs=1e-4)
            written = mllm.decode(greedy(mllm, encoded, k, one.shared, 8))
            assert row.forced == written.partition("</answer>")[0].strip()
            assert row.same == (row.forced == final)
            ids = cue.behind(row.forced)
            at = logits_behind(mllm, encoded, k, [*ids.shared, *ids.tail])[n - 1 : -1]
            entropy = -(at.softmax(-1) * at.log_softmax(-1)).sum(-1)
            assert row.entropy == pytest.approx(float(entropy[0]), abs=1e-3)
            assert row.entropy_answer == pytest.approx(
                float(entropy[slice(*ids.text)].mean()), abs=1e-3
            )
    assert found.table["same"].any() and not found.table["same"].all()


def test_open_questions_are_measured_without_being_asked(testbed):
    mllm, problems, responses = testbed
    bare = [replace(one, candidates=(), twin=None, control=None) for one in problems[:2]]
    tables = measure(mllm, bare, ("commitment",), max_new_tokens=48)
    assert list(tables) == ["answers_cot", "commitment", "open_commitment"]
    assert tables["commitment"].empty
    expected = open_commitment(mllm, bare, responses[:2]).table
    pd.testing.assert_frame_equal(
        tables["open_commitment"], expected, check_dtype=False, rtol=1e-4, atol=1e-5
    )
    values = suite_values(tables, bare, model="tiny", seed=0)
    shown = values.set_index(["metric", "item"])["value"]
    first = OpenCommitment(expected, bare).items().iloc[0]
    assert shown["open_p0", bare[0].id] == pytest.approx(first.p0, abs=1e-4)
    assert shown["open_position", bare[0].id] == first.commitment_position
    own = ("rationale",)
    mixed = measure(mllm, [bare[0], problems[1]], ("commitment",), max_new_tokens=48, controls=own)
    assert list(mixed) == ["answers_cot", "commitment"]


def test_forced_answers_of_a_joining_tokenizer_equal_the_loop():
    mllm = joining_mllm()
    item = question("q", 0, "No")
    response = render_response(STEPS, "No")
    found = open_commitment(mllm, [item], [response], max_new_tokens=6).table
    encoded = encode_problem(mllm, item, response=response)
    for k, row in enumerate(found.itertuples()):
        cue = AnswerCue(mllm)
        written = greedy(mllm, encoded, k, cue.stable(), 6)
        text, closed = cue.said(written)
        assert (row.forced == text.strip()) if closed else pd.isna(row.forced)
        assert not row.same


def test_with_candidates_p_of_an_answer_is_that_of_the_candidate(testbed):
    """One token each: the probability is that over the vocabulary, not over the candidates."""
    mllm, problems, responses = testbed
    given = problems[:4], responses[:4]
    found = open_commitment(mllm, *given).items()
    closed = commitment(mllm, *given, controls=["rationale"])
    table = closed.table.merge(found[["item", "final", "p0"]], on="item")
    own = table[(table["step"] == 0) & (table["candidate"] == table["final"])]
    assert len(own) == 4
    # Nearly all of the probability is on the candidates, since the model was trained on them.
    np.testing.assert_allclose(own["p0"], own["p"], atol=0.02)
    assert (own["p0"] <= own["p"] + 1e-6).all()


# --- tables by hand -------------------------------------------------------------------------------


def table(name, p, same, entropy=None, final="red", read="red", forced=None):
    n_k = len(p)
    entropy = [1.0] * n_k if entropy is None else entropy
    log_p = np.log(p)
    return pd.DataFrame(
        {
            "item": name, "step": range(n_k), "n_steps": n_k - 1, "final": final, "read": read,
            "log_p": 2 * log_p, "n_tokens": 2, "p": p,
            "log_p_closed": 2 * log_p, "n_closed": 4, "p_closed": np.sqrt(p),
            "entropy": entropy, "entropy_answer": np.array(entropy) / 2,
            "forced": final if forced is None else forced,
            "same": pd.array(same, dtype="boolean"), "leaked": [False] * (n_k - 1) + [True],
        }
    )  # fmt: skip


def flat(name, answer="red", **fields):
    return Problem(name, Image.new("RGB", (64, 48)), "What?", (), answer, **fields)


def test_a_late_decision_by_hand():
    late = table("q", [0.1, 0.2, 0.2, 0.9], [False, True, False, True], [2.0, 2.0, 1.0, 0.0])
    row = OpenCommitment(late, [flat("q")]).items().iloc[0]
    assert row.final == "red" and row.correct and row.n_steps == 3 and row.leak_step == 3
    assert row.p0 == 0.1 and row.area == pytest.approx((0.15 + 0.2 + 0.55) / 3)
    assert row.p0_closed == pytest.approx(0.1**0.5)
    assert row.jump == pytest.approx(0.7) and row.jump_step == 3 and row.jump_position == 1
    assert row.entropy0 == 2 and row.entropy_area == pytest.approx((2 + 1.5 + 0.5) / 3)
    assert row.entropy_answer0 == 1
    assert row.same0 == 0 and row.commitment_step == 3 and row.commitment_position == 1
    assert row.premature == 0 and row.same_area == pytest.approx((0.5 + 0.5 + 0.5) / 3)


def test_an_early_decision_by_hand():
    early = table("q", [0.9, 0.9, 0.95], [True] * 3, [0.1] * 3, final="A red one.", read="red one")
    row = OpenCommitment(early, [flat("q", "red one")]).items().iloc[0]
    assert row.correct and row.same0 == 1 and row.commitment_position == 0 and row.premature == 1
    assert row.same_area == 1 and row.entropy_area == pytest.approx(0.1)


def test_an_answer_that_is_never_forced_has_no_commitment_step():
    row = OpenCommitment(table("q", [0.1, 0.1], [True, False]), [flat("q")]).items().iloc[0]
    assert np.isnan(row.commitment_step) and np.isnan(row.premature) and row.same0 == 1


def test_curves_leave_out_what_is_missing_and_share_one_axis():
    both = pd.concat(
        [table("a", [0.2, 0.6, 0.8], [False, True, True]), table("b", [0.4, 0.8], [None, None])]
    )
    found = OpenCommitment(both, [flat("a"), flat("b")])
    curve = found.curve("p", points=3)
    assert curve["position"].tolist() == [0, 0.5, 1] and curve["n"].tolist() == [2, 2, 2]
    assert curve["value"].tolist() == pytest.approx([0.3, 0.6, 0.8])
    same = found.curve("same", points=3)
    assert same["value"].tolist() == [0, 1, 1] and same["n"].tolist() == [1, 1, 1]
    with pytest.raises(MeasureError, match="have 1, 2 steps"):
        found.curve(axis="k")
    with pytest.raises(MeasureError, match="no reading 'q'; choose from p, p_closed"):
        found.curve("q")
    assert found.describe().startswith("Of 1 of 2 items the final answer cannot be read")


def test_answers_without_an_end_are_said_first():
    endless = table("q", [0.2, 0.6], [False, True], forced=[None, "red"])
    said = OpenCommitment(endless, [flat("q")]).describe()
    assert said.startswith("1 of 2 forced answers did not end within the length limit and count")


def test_a_table_that_lacks_a_step_is_refused():
    with pytest.raises(MeasureError, match="does not hold each step from 0 to 2 once"):
        OpenCommitment(table("q", [0.1] * 3, [True] * 3).drop(index=1), [flat("q")])


# --- items ----------------------------------------------------------------------------------------


def test_items_without_a_stated_answer_are_refused_or_left_out_and_counted(random_mllm):
    items = [question("a", 0), question("b", 1), question("c", 2)]
    texts = [render_response(STEPS, "red"), f"<think>\n1. {STEPS[0]}\n", "red"]
    with pytest.raises(MeasureError, match=r"Item b: its response states no answer.*'skip'"):
        open_commitment(random_mllm, items[:2], texts[:2])
    found = open_commitment(random_mllm, items, texts, empty="skip", max_new_tokens=2)
    assert found.skipped == {"no rationale step": ("c",), "no stated answer": ("b",)}
    assert found.table["item"].unique().tolist() == ["a"]
    with pytest.raises(MeasureError, match="No response with a rationale states an answer"):
        open_commitment(random_mllm, items[1:2], texts[1:2], empty="skip")


def test_a_final_answer_that_cannot_be_read_leaves_only_its_reading_empty(random_mllm):
    vague = "it is hard to say what this may be, since there are so many things in the picture"
    item, response = question("a", 0, "red"), render_response(STEPS, vague)
    assert parsed_answer(parse_response(response), item) is None
    found = open_commitment(random_mllm, [item], [response], max_new_tokens=2)
    assert found.table["same"].isna().all() and found.table["p"].between(0, 1).all()
    row = found.items().iloc[0]
    assert np.isnan(row.same0) and np.isnan(row.commitment_step) and np.isfinite(row.p0)


def test_other_pictures_are_shown_instead(random_mllm):
    item, response = question("a", 0), render_response(STEPS, "red")
    own = open_commitment(random_mllm, [item], [response], max_new_tokens=2).table
    other = noise_image(64, 48, 9)
    moved = open_commitment(random_mllm, [item], [response], images=[other], max_new_tokens=2).table
    swapped = replace(item, image=other)
    expected = open_commitment(random_mllm, [swapped], [response], max_new_tokens=2).table
    assert (own["p"] - moved["p"]).abs().max() > 1e-6
    pd.testing.assert_frame_equal(moved, expected)


def test_only_some_steps_are_probed(random_mllm):
    item, response = question("a", 0), render_response([*STEPS, *STEPS], "red")
    every = open_commitment(random_mllm, [item], [response], max_new_tokens=4)
    some = open_commitment(random_mllm, [item], [response], max_new_tokens=4, max_steps=3)
    assert some.table["step"].tolist()[::2] == [0, 4] and (some.table["n_probed"] == 3).all()
    kept = every.table[every.table["step"].isin(some.table["step"])].reset_index(drop=True)
    np.testing.assert_allclose(kept["log_p"], some.table["log_p"], atol=1e-4)
    assert kept["forced"].equals(some.table["forced"])
    row, whole = some.items().iloc[0], every.items().iloc[0]
    assert row.n_steps == 4 and row.p0 == pytest.approx(whole.p0, abs=1e-5)
    p, k = some.table["p"].to_numpy(), some.table["step"].to_numpy() / 4
    assert row.area == pytest.approx(((p[1:] + p[:-1]) / 2 * np.diff(k)).sum())
    assert list(some.curve(points=5)["position"]) == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(MeasureError, match="have some of 4 steps"):
        some.curve(axis="k")
    with pytest.raises(MeasureError, match="max_steps is 1"):
        open_commitment(random_mllm, [item], [response], max_steps=1)


def test_a_batch_of_items_of_different_length_equals_them_one_by_one(random_mllm):
    items = [question("a", 0), replace(question("b", 1), steps=(Step("Go right."),))]
    texts = [render_response(STEPS, "red"), render_response(STEPS[:1], "a red cup")]
    both = open_commitment(random_mllm, items, texts, max_new_tokens=4).table
    apart = [
        open_commitment(random_mllm, [one], [text], max_new_tokens=4).table
        for one, text in zip(items, texts, strict=True)
    ]
    numbers = ["log_p", "log_p_closed", "entropy", "entropy_answer"]
    one_by_one = pd.concat(apart, ignore_index=True)
    np.testing.assert_allclose(both[numbers], one_by_one[numbers], atol=1e-4)
    rest = ["item", "step", "n_steps", "final", "n_tokens", "n_closed", "forced", "same"]
    pd.testing.assert_frame_equal(both[rest], one_by_one[rest])
