"""Spans and candidates' probabilities under published tokenizers, against full strings.

The tokenizers of Qwen, Llama 3 and others join a tag with what stands next to it: ``<answer>A`` is
``<``, ``answer``, ``>A``. A small tokenizer with the same habit stands in where the real ones are
absent.
"""

import functools
import string
from dataclasses import replace

import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from real import CHECKPOINTS, needs_real_files, real_mllm
from tiny import noise_image

from attcot_analysis.attention.continuations import AnswerCue
from attcot_analysis.attention.packing import (
    candidate_tokens,
    forced_answers,
    forced_readings,
)
from attcot_analysis.errors import LayoutError, MeasureError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.maps import response_parts
from attcot_analysis.models import Generation, encode
from attcot_analysis.problems import FORMATS, Problem, Step, render_response
from attcot_lab.vista.draw import Start, _row

EVERY = ["stand_in", *(pytest.param(name, marks=needs_real_files) for name in CHECKPOINTS)]
STEPS = ("The star is in cell a1.", "Cell b1 holds 3 cups.", "So it is done")
ANSWERS = (
    *string.ascii_uppercase, "a", "No", "Yes", "The dog", "I", "-3", "3", "12", "1950", ".5", "1/5",
    "$5", "5%", "(B)", "B.", '"red"', "red", "yes", "A.", "x)", "10,000", "是", "答え", "é", "🙂",
    "</b>",
)  # fmt: skip
SETS = (
    ("Yes", "No"),
    ("yes", "no"),
    tuple("QUWYABC"),
    tuple("ABCD"),
    ("Monday", "Tuesday", "Money"),
    ("N", "S"),
    ("-1", "1"),
    ("I", "you"),
    ("1", "10", "100"),
    ("red", "red cup", "Red"),
    ("(A)", "(B)", "A"),
    ("5%", "5", "50%"),
    ("The cat", "the cat", "cat"),
    ("是", "不是", "yes"),
)


@functools.cache
def stand_in():
    return tiny.tiny_mllm(tokenizer=tiny.merging_tokenizer())


@pytest.fixture(scope="module", params=EVERY)
def mllm(request):
    """One after the other: the tests of one tokenizer run together."""
    return stand_in() if request.param == "stand_in" else real_mllm(request.param)


def tokens(mllm, text):
    return mllm.tokenizer(text, add_special_tokens=False)["input_ids"]


def decoded(mllm, ids):
    return mllm.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def test_the_stand_in_joins_tags_and_text():
    tokenizer = stand_in().tokenizer

    def pieces(text):
        return tokenizer.convert_ids_to_tokens(tokens(stand_in(), text))

    assert pieces("<answer>A")[-1] == ">A" and pieces("<answer>No</answer>")[1:3] == [">No", "</"]
    assert pieces("<answer>Yes")[1] == ">" and ".</" in pieces("right.</think>")


def test_spans_are_the_tokens_that_overlap_the_text(mllm):
    for answer in ANSWERS:
        item = encode(mllm, None, "What?", response=render_response(STEPS, answer))
        span = item.layout.answer
        ids = item.input_ids[span.start : span.stop].tolist()
        assert answer in decoded(mllm, ids), answer
        for fewer in (ids[1:], ids[:-1]):
            assert answer not in decoded(mllm, fewer), answer
        assert item.layout.rows(span)[0] == span.start - 1
        texts = [decoded(mllm, item.input_ids[s.start : s.stop]) for s in item.layout.steps]
        for number, (text, step) in enumerate(zip(texts, STEPS, strict=True), start=1):
            assert text.strip() == f"{number}. {step}"


@pytest.mark.parametrize("form", ["tags", "prose", "boxed", "qwen3_vl"])
def test_open_answers_are_forced_and_read_as_they_stand(mllm, form):
    """Whatever joins the cue or the closing text, with and without a response before the cue."""
    asked = replace(mllm, format=FORMATS[form])
    cue = AnswerCue(asked)
    for first in (False, True):
        stable = cue.stable(first=first)
        for answer in ANSWERS:
            if form == "prose" and answer.endswith("."):
                continue  # its closing point is the format's
            one = cue.behind(answer, first=first)
            start, stop = one.text
            assert answer in decoded(mllm, [*one.shared, *one.tail])
            assert answer in decoded(mllm, [*one.shared, *one.tail][: len(one.shared) + stop])
            for fewer in (one.tail[start + 1 : stop], one.tail[start : stop - 1]):
                assert answer not in decoded(mllm, fewer), answer
            written = [*one.shared, *one.tail][len(stable) :]
            assert one.shared == stable and cue.said(written, first=first) == (answer, True)


def test_tags_without_line_ends_are_taken_apart(mllm):
    """``<think>Go right.</think><answer>...``: tokens run across every tag's ends."""
    text = "<think>Go right.</think><answer>No.</answer>"
    item = encode(mllm, None, "What?", response=text)
    prompt = decoded(mllm, item.input_ids[: item.prompt_length])
    texts = []
    for cut in item.layout.cuts:
        text = decoded(mllm, item.input_ids[: cut.stop])[len(prompt) :] + cut.rest
        texts.append(text.removeprefix(" "))  # SentencePiece begins a text with one
    before = "" if item.opened else "<think>"
    assert texts == [before, f"{before}Go right."]
    candidates = candidate_tokens(mllm, ("No.", "Yes."))
    (found,) = forced_answers(mllm, [item], [candidates])
    assert found.isfinite().all()


def brute_force(mllm, encoded, k, candidates):
    """Log-probability of each whole string, one forward pass each, from where they differ on."""
    cut, form = encoded.layout.cuts[k], mllm.format
    head = encoded.input_ids[: cut.stop]
    kept = decoded(mllm, head[encoded.prompt_length :])
    # The rest is tokenised as it stands in the text, not alone.
    ids = []
    for candidate in candidates:
        whole = tokens(mllm, f"{kept}{cut.rest}{form.cue}{candidate}{form.close}")
        before = head[encoded.prompt_length :].tolist()
        if whole[: len(before)] != before:
            alone = tokens(mllm, f"\n{cut.rest}{form.cue}{candidate}{form.close}")
            start = len(tokens(mllm, "\n"))
            assert alone[:start] == tokens(mllm, "\n")
            whole = [*before, *alone[start:]]
        ids.append(whole[len(before) :])
    same = 0
    while len({tuple(one[: same + 1]) for one in ids}) == 1:
        same += 1
    found = []
    for own in ids:
        sequence = torch.cat([head, torch.tensor(own)])[None]
        inputs = {"input_ids": sequence, "attention_mask": torch.ones_like(sequence)}
        if encoded.token_types is not None:
            types = torch.zeros_like(sequence)
            types[0, : len(head)] = encoded.token_types[: len(head)]
            inputs[mllm.family.token_types] = types
        n_read = len(own) - same
        logits = mllm.model(**inputs, **encoded.vision, logits_to_keep=n_read + 1).logits[0, :-1]
        read = logits.log_softmax(-1)[torch.arange(n_read), sequence[0, -n_read:]]
        found.append(float(read.sum()))
    return torch.tensor(found)


@torch.no_grad()
def test_a_candidate_s_probability_is_that_of_its_text(mllm):
    item = encode(mllm, None, "What?", response=render_response(STEPS[:2], "No"))
    every = [candidate_tokens(mllm, candidates) for candidates in SETS]
    found = forced_answers(mllm, [item] * len(SETS), every, steps=[[2]] * len(SETS))
    for candidates, values in zip(SETS, found, strict=True):
        expected = brute_force(mllm, item, 2, candidates)
        torch.testing.assert_close(values[0], expected, atol=1e-4, rtol=1e-5, msg=str(candidates))


def brute_force_text(mllm, encoded, k, candidates, form):
    """Probability of each text and of anything behind it that goes on with no letter or digit.

    One forward pass per candidate over the tokens that end with it or before; each token of the
    vocabulary is appended and the whole decoded, to see what it would write.
    """
    cut = encoded.layout.cuts[k]
    head = encoded.input_ids[: cut.stop].tolist()
    opening = tokens(mllm, "\n")
    every = [
        tokens(mllm, f"\n{cut.rest}{form.cue}{one}{form.close}")[len(opening) :]
        for one in candidates
    ]
    same = next(at for at, column in enumerate(zip(*every, strict=False)) if len({*column}) > 1)
    found = []
    for own, candidate in zip(every, candidates, strict=True):
        cue = len(decoded(mllm, opening)) + len(f"{cut.rest}{form.cue}")
        text = decoded(mllm, [*opening, *own])[: cue + len(candidate)]
        n = max(n for n in range(len(own)) if text.startswith(decoded(mllm, [*opening, *own[:n]])))
        logits = mllm.model(input_ids=torch.tensor([head + own[:n]])).logits[0]
        log_p = logits.double().log_softmax(-1)
        value = sum(float(log_p[len(head) + at - 1, own[at]]) for at in range(same, n))
        ends = [
            token
            for token in range(len(mllm.tokenizer))
            if (written := decoded(mllm, [*opening, *own[:n], token])).startswith(text)
            and not written[len(text) : len(text) + 1].isalnum()
        ]
        found.append((value + float(log_p[-1, ends].logsumexp(-1)), text))
    whole = {}
    for value, text in sorted(found, key=lambda one: len(one[1]), reverse=True):
        longer = [
            p
            for other, p in whole.items()
            if other.startswith(text) and not other[len(text)].isalnum()
        ]
        whole[text] = float(torch.tensor(value).exp()) - sum(longer)
    return torch.tensor([whole[text] for _, text in found])


@torch.no_grad()
def test_a_text_s_probability_is_that_of_all_its_endings():
    mllm = stand_in()
    item = encode(mllm, None, "What?", response=render_response(STEPS[:2], "No"))
    sets = [*SETS, ("No.", "Yes."), ("x)", "x"), ("blue", "blue green", "blue green red")]
    for candidates in sets:
        own = candidate_tokens(mllm, candidates)
        ((_, values),) = forced_readings(mllm, [item], [own], steps=[[0, 2]])
        for row, k in enumerate((0, 2)):
            expected = brute_force_text(mllm, item, k, candidates, mllm.format)
            torch.testing.assert_close(
                values[row].exp(), expected.double(), atol=1e-6, rtol=1e-3, msg=str(candidates)
            )
        assert (values.exp().sum(-1) <= 1 + 1e-6).all()
    odd = candidate_tokens(mllm, ("a", "a</b>"))
    with pytest.raises(MeasureError, match="part of the closing text"):
        forced_readings(mllm, [item], [odd], steps=[[0]])


def test_a_text_ends_where_its_tokens_say(mllm):
    """Under published tokenizers, too: what lies before the end, and what the next token holds."""
    for form in ("tags", "prose", "boxed", "llava_cot"):
        asked = replace(mllm, format=FORMATS[form])
        for candidates in SETS:
            own = candidate_tokens(asked, candidates)
            assert len(own.ends) == len(candidates)
            for candidate, tail, (depth, rest) in zip(candidates, own.tails, own.ends, strict=True):
                before = decoded(mllm, [*own.shared, *tail[:depth]])
                assert f"{before}{rest}".endswith(candidate), (form, candidate)
                after = decoded(mllm, [*own.shared, *tail[: depth + 1]])
                assert after.startswith(f"{before}{rest}"), (form, candidate)


@torch.no_grad()
def test_with_a_picture_and_tags_without_line_ends():
    mllm = stand_in()
    text = "<think>1. Go right.\n2. It is the cup.</think><answer>No</answer>"
    item = encode(mllm, noise_image(64, 48), "What?", response=text)
    assert [bool(cut.rest) for cut in item.layout.cuts] == [False, False, True]
    for candidates in SETS:
        (values,) = forced_answers(mllm, [item], [candidate_tokens(mllm, candidates)])
        for k in range(3):
            expected = brute_force(mllm, item, k, candidates)
            torch.testing.assert_close(values[k], expected, atol=1e-4, rtol=1e-5)


SENTENCES = "The star is in cell a1. Cell b1 holds 3 cups. So it is done. "
RENDERED = {
    "tags": "<think>\nSo it is.\n</think>\n<answer>No</answer>",
    "thinking": f"<think>\n{SENTENCES}\n</think>\n\nThe answer is No.",
    "prose": f"{SENTENCES}Therefore, the answer is No.",
    "qwen3_vl": "### Look\n\nIt is a1.\n\n### Compare\n\nSo it is b1.\n\n**Answer: No**",
    "boxed": f"{SENTENCES}The final answer is $\\boxed{{No}}$.",
    "boxed_think": f"<think>{SENTENCES}</think>\n\\boxed{{No}}",
    "glm": f"<think>{SENTENCES}</think><answer><|begin_of_box|>No<|end_of_box|></answer>",
    "gemma": f"<|channel>thought\n{SENTENCES}<channel|>The answer is No.",
    "kimi": f"\u25c1think\u25b7{SENTENCES}\u25c1/think\u25b7The answer is No.",
    "llava_cot": (
        "<SUMMARY> I count. </SUMMARY>\n\n<CAPTION> Cups. </CAPTION>\n\n"
        f"<REASONING> {SENTENCES}</REASONING>\n\n<CONCLUSION> No </CONCLUSION>"
    ),
    "sayo": f"{SENTENCES}<answer>No</answer>",
}
"""A response in each format, most of them in sentences: cuts lie inside of tokens."""


@torch.no_grad()
def test_every_format_forces_whole_texts(mllm):
    assert set(RENDERED) == set(FORMATS)
    chosen = list(FORMATS) if mllm is stand_in() else ["prose", "boxed", "llava_cot"]
    if mllm.opens_rationale:
        chosen = ["thinking", "boxed_think", "glm"]
    for name in chosen:
        own = replace(mllm, format=FORMATS[name])
        item = encode(own, None, "What?", response=RENDERED[name])
        n_steps = item.layout.n_steps
        assert n_steps >= 1 and item.layout.answer is not None, name
        for candidates in (("Yes", "No"), tuple("ABC"), ("1", "10", "-1")):
            (values,) = forced_answers(own, [item], [candidate_tokens(own, candidates)])
            for k in {0, 1, n_steps}:
                expected = brute_force(own, item, k, candidates)
                torch.testing.assert_close(values[k], expected, atol=1e-4, rtol=1e-5, msg=name)


@torch.no_grad()
def test_planted_no_is_seen_where_the_tag_joins_it():
    """A model that says ``>No`` with certainty; what ``>`` alone is worth must not count."""
    mllm = tiny.tiny_mllm(tokenizer=tiny.merging_tokenizer())
    ids = candidate_tokens(mllm, ("Yes", "No"))
    (no,) = mllm.tokenizer.convert_tokens_to_ids([">No"])
    assert ids.tails[1][0] == no
    item = encode(mllm, None, "What?", response=render_response(STEPS[:1], "No"))

    def favour(module, args, output, said):
        output.logits[..., list(said)] += 30.0
        return output

    for likely, said in enumerate(ids.tails):
        hook = mllm.model.register_forward_hook(functools.partial(favour, said=said))
        try:
            (values,) = forced_answers(mllm, [item], [ids])
        finally:
            hook.remove()
        assert (values.argmax(-1) == likely).all()


PARTS = [*"ABQUabno019-.,%()$ ", "é", "是", "\uff21", "1/2", "Yes", "No", " the"]
ANSWER_TEXT = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("".join).map(str.strip)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(ANSWER_TEXT.filter(bool), min_size=2, max_size=5, unique=True))
def test_any_set_of_candidates(candidates):
    mllm = stand_in()
    item = encode(mllm, None, "What?", response=render_response(STEPS[:1], "No"))
    try:
        own = candidate_tokens(mllm, candidates)
    except MeasureError:
        pytest.fail(f"{candidates} are different texts")
    with torch.no_grad():
        (values,) = forced_answers(mllm, [item], [own])
        for k in range(2):
            expected = brute_force(mllm, item, k, candidates)
            torch.testing.assert_close(values[k], expected, atol=1e-4, rtol=1e-5)


# --- Templates that open the rationale -----------------------------------------------------------


OPENING = tiny.CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


@functools.cache
def opening():
    mllm = tiny.tiny_mllm(tokenizer=tiny.merging_tokenizer())
    mllm.processor.chat_template = OPENING
    return mllm


def opening_of(name):
    return opening() if name == "stand_in" else real_mllm(name)


THINKING = ["stand_in", pytest.param("qwen3_vl_thinking", marks=needs_real_files)]


@pytest.mark.parametrize("name", THINKING)
def test_a_rationale_that_the_template_opened_is_found(name):
    mllm = opening_of(name)
    assert mllm.opens_rationale
    response = render_response(STEPS, "No")
    written = response.removeprefix("<think>\n")
    given = [response, written, tokens(mllm, written)]
    items = [encode(mllm, None, "What?", response=one) for one in given]
    for item in items:
        assert item.opened and item.layout.n_steps == 3
        assert item.layout.step_ends[0] == item.prompt_length
        assert decoded(mllm, item.input_ids).endswith(f"<think>\n{written}")
        assert item.input_ids.equal(items[0].input_ids)
    direct = encode(mllm, None, "What?", mode="direct", response="<answer>No</answer>")
    assert not direct.opened and direct.layout.think is None and direct.layout.answer is not None
    assert decoded(mllm, direct.input_ids).endswith("<think>\n\n</think>\n\n<answer>No</answer>")


def problems(n=3):
    texts = ("red", "green", "red")
    return [
        Problem(f"p{at}", noise_image(64, 48, at), "What color?", ("red", "green"), texts[at])
        for at in range(n)
    ]


@pytest.mark.parametrize("name", THINKING)
def test_what_a_thinking_model_wrote_is_measured_as_with_the_tag_in_its_response(name):
    """Commitment, access and answers; as ids it wrote, as text with and without the tag."""
    mllm = opening_of(name)
    items = problems()
    texts = [render_response(STEPS[: 1 + at], item.answer) for at, item in enumerate(items)]
    bare = [text.removeprefix("<think>\n") for text in texts]
    ids = [tokens(mllm, text) for text in bare]
    tables = [
        (commitment(mllm, items, given).table, visual_access(mllm, items, given).table)
        for given in (texts, bare, ids)
    ]
    assert tables[0][0].groupby("item")["n_steps"].first().tolist() == [1, 2, 3]
    for found in tables[1:]:
        for own, first in zip(found, tables[0], strict=True):
            pd.testing.assert_frame_equal(own, first)
    parsed = [mllm.parse(one) for one in ids]
    assert [one.text for one in parsed] == texts and parsed[1].answer == "green"
    cut = mllm.parse("1. It is red.\n2. So it")
    assert len(cut.steps) == 2 and cut.answer is None


@pytest.mark.parametrize("tag", ["<thinking>", "[THINK]", "\u25c1think\u25b7", "<seed:think>"])
def test_a_template_that_opens_the_rationale_in_another_way_is_refused(tag):
    mllm = tiny.tiny_mllm()
    mllm.processor.chat_template = OPENING.replace("<think>", tag)
    with pytest.raises(LayoutError, match="The chat template of tiny opens the rationale with"):
        encode(mllm, None, "What?")
    closed = OPENING.replace("<think>\n", f"{tag}\n</think>\n\n")
    mllm.processor.chat_template = closed
    assert not encode(mllm, None, "What?").opened


def test_an_answer_that_a_tag_joins_is_named_by_its_text():
    item = Problem("a", noise_image(64, 48), "What?", ("No", "Yes"), "No")
    response = render_response(STEPS[:1], "No")
    last = response_parts(stand_in(), item, response, targets="answer").parts[-1]
    assert last.text == "No" and last.span.size == 1


def test_a_generated_rationale_has_the_tag_that_the_template_wrote():
    found = answer_problems(opening(), problems(2), max_new_tokens=6)
    assert found["text"].str.startswith("<think>\n").all() and (found["n_steps"] > 0).all()
    for text, ids in zip(found["text"], found["ids"], strict=True):
        assert decoded(opening(), ids) == text.removeprefix("<think>\n")
    direct = answer_problems(opening(), problems(2), mode="direct", max_new_tokens=6)
    assert not direct["text"].str.startswith("<think>").any()


def test_vista_s_own_responses_have_the_tag_that_the_template_wrote():
    mllm, (item, *_) = opening(), problems(1)
    item = replace(item, steps=(Step("The star is in cell a1.", ()),))
    ids = tuple(tokens(mllm, "1. The star is in cell a1.\n2. So"))
    start = Start(item, ids[:3], None)
    row = _row(mllm, start, Generation(ids[3:], "", False), "plain")
    assert row["text"] == "<think>\n1. The star is in cell a1.\n2. So" and row["sound"] is False
    whole = tuple(tokens(mllm, "1. The star is in cell a1.\n"))
    done = _row(mllm, Start(item), Generation(whole, "", False), "plain")
    assert done["text"] == "<think>\n1. The star is in cell a1.\n" and done["sound"] is True


def test_only_thinking_templates_open_the_rationale(mllm):
    assert mllm.opens_rationale == (mllm.name == "qwen3_vl_thinking")
