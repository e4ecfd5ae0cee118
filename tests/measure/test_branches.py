"""Packed branches against the naive loop: one plain forward pass per item, step and candidate."""

from itertools import pairwise

import pytest
import tiny
import torch
from families import FAMILY_NAMES, shared_family, tiny_family
from tiny import noise_image, tiny_mllm

from attcot_analysis.attention.hook import attached, intervening
from attcot_analysis.attention.packing import (
    CandidateTokens,
    candidate_tokens,
    forced_answers,
    pack,
)
from attcot_analysis.attention.probe import Probe
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import collate, encode
from attcot_analysis.problems import ANSWER_CUE, render_response

SINGLE = ("red", "green", "blue")
MULTI = ("reddish", "redly", "red", "blue", "blue green", "blue green red")
STEPS = (
    "The star is in cell a1 and its arrow points right.",
    "Cell b1 holds a red circle.",
    "The square in cell c2 is green; its arrow points down, left or up.",
)


@pytest.fixture
def mllm(random_mllm):
    return random_mllm


def example(mllm, n_steps=3, size=(64, 48), seed=0, image=True, question="What color?"):
    return encode(
        mllm,
        noise_image(*size, seed) if image else None,
        question,
        response=render_response([STEPS[k % 3] for k in range(n_steps)], "red"),
    )


def mixed_batch(mllm):
    """Different lengths, step counts, image sizes (also wider than high), candidate sets."""
    items = [
        example(mllm, 3),
        example(mllm, 1, (96, 32), 1, question="Start at the star. What color do you reach?"),
        example(mllm, 5, (32, 80), 2),
    ]
    return items, [candidate_tokens(mllm, c) for c in (SINGLE, MULTI, ("yes", "no"))]


def spelt(mllm, candidates, before=""):
    """Tokens that all full strings share, and the rest of each, closing tag included."""
    texts = [f"{before}{ANSWER_CUE}{candidate}</answer>" for candidate in candidates]
    ids = [mllm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    same = [len(set(column)) == 1 for column in zip(*ids, strict=False)]
    shared = ids[0][: same.index(False)]
    return shared, [own[len(shared) :] for own in ids]


def plain_inputs(mllm, encoded, length, more):
    """What a user would hand to the model: no position ids, no 4-D mask."""
    ids = torch.cat([encoded.input_ids[:length], torch.tensor(more, dtype=torch.long)])[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **encoded.vision}
    if encoded.token_types is not None:
        types = torch.zeros_like(ids)
        types[0, :length] = encoded.token_types[:length]
        inputs[mllm.family.token_types] = types
    return inputs


def naive_log_probs(mllm, encoded, candidates, steps=None):
    """Oracle: one forward pass per step and candidate."""
    cuts = encoded.layout.cuts
    rows = []
    for k in range(len(cuts)) if steps is None else steps:
        shared, tails = spelt(mllm, candidates, cuts[k].rest)
        row = []
        for tail in tails:
            inputs = plain_inputs(mllm, encoded, cuts[k].stop, [*shared, *tail])
            logits = mllm.model(**inputs).logits[0]
            read = logits[-len(tail) - 1 : -1].log_softmax(-1)
            row.append(read[torch.arange(len(tail)), tail].sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def packed_log_probs(mllm, items, candidates, *, keep=True, **options):
    packed = pack(mllm, items, candidates, **options)
    more = {"logits_to_keep": packed.keep} if keep else {}
    return packed.log_probs(mllm.model(**packed.inputs, **more).logits)


def log_probs_apart(mllm, items, candidates):
    """The same where branches attend apart."""
    with attached(mllm.model):
        return packed_log_probs(mllm, items, candidates, apart=True)


def test_the_tree_of_candidates_that_differ_at_once_holds_each_of_them(mllm):
    tokens = candidate_tokens(mllm, ("red", "up"))
    assert mllm.tokenizer.decode(tokens.shared) == ANSWER_CUE
    close = mllm.tokenizer.convert_tokens_to_ids("</answer>")
    first = [tail[0] for tail in tokens.tails]
    assert [list(tail) for tail in tokens.tails] == [[token, close] for token in first]
    assert tokens.tree.tokens == (*tokens.shared, *first)


def test_the_tree_holds_shared_candidate_tokens_once():
    tokens = CandidateTokens(("a", "b", "c", "d"), (7, 8), ((1, 2, 3), (1, 2, 4), (1, 5), (6,)))
    tree = tokens.tree
    assert tree.tokens == (7, 8, 1, 2)
    assert tree.parents == (-1, 0, 1, 2)
    assert tree.sees.sum(-1).tolist() == [1, 2, 3, 4]
    assert set(tree.edges) == {(1, 1), (1, 6), (2, 2), (2, 5), (3, 3), (3, 4)}
    read = {c: [tree.edges[e] for e in path] for c, path in zip("abcd", tree.paths, strict=True)}
    assert read["b"] == [(1, 1), (2, 2), (3, 4)]


@pytest.mark.parametrize("candidates", [SINGLE, MULTI])
def test_tails_are_all_that_candidates_do_not_share(mllm, candidates):
    tokens = candidate_tokens(mllm, candidates)
    shared, tails = spelt(mllm, candidates)
    assert tokens.shared == tuple(shared)
    assert tokens.tails == tuple(map(tuple, tails))


def test_multi_token_candidates_are_really_multi_token(mllm):
    assert max(map(len, candidate_tokens(mllm, MULTI).tails)) >= 3


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("keep", [True, False])
def test_packed_equals_naive(mllm, padding_side, keep):
    items, candidates = mixed_batch(mllm)
    with torch.no_grad():
        found = packed_log_probs(mllm, items, candidates, keep=keep, padding_side=padding_side)
        for item, own, values in zip(items, candidates, found, strict=True):
            expected = naive_log_probs(mllm, item, own.candidates)
            assert values.dtype == torch.float32
            torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


def test_packed_equals_naive_text_only(mllm):
    items = [example(mllm, 2, image=False), example(mllm, 4, image=False)]
    candidates = [candidate_tokens(mllm, MULTI), candidate_tokens(mllm, SINGLE)]
    with torch.no_grad():
        found = forced_answers(mllm, items, candidates)
        for item, own, values in zip(items, candidates, found, strict=True):
            expected = naive_log_probs(mllm, item, own.candidates)
            torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


def test_chosen_steps_only(mllm):
    items, candidates = mixed_batch(mllm)
    steps = [[3, 1], [0], [5, 0, 2]]
    with torch.no_grad():
        found = packed_log_probs(mllm, items, candidates, steps=steps)
        for item, own, ks, values in zip(items, candidates, steps, found, strict=True):
            expected = naive_log_probs(mllm, item, own.candidates, ks)
            torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


def test_main_tokens_are_untouched(mllm):
    items, candidates = mixed_batch(mllm)
    packed = pack(mllm, items, candidates)
    with torch.no_grad():
        together = mllm.model(**packed.inputs).logits
        for at, item in enumerate(items):
            alone = mllm.model(**plain_inputs(mllm, item, item.layout.n_tokens, [])).logits[0]
            n = item.layout.n_tokens
            assert packed.inputs["input_ids"][at, :n].equal(item.input_ids)
            torch.testing.assert_close(together[at, :n], alone, atol=1e-5, rtol=1e-5)


def test_the_last_forced_answer_is_the_response_s_own(mllm):
    item = example(mllm, 3)
    candidates = candidate_tokens(mllm, ("red", "no"))
    answer = item.layout.answer
    with torch.no_grad():
        logits = mllm.model(**plain_inputs(mllm, item, item.layout.n_tokens, [])).logits[0]
        places = range(answer.start, answer.stop + 1)
        assert mllm.tokenizer.decode(item.input_ids[list(places)]) == "red</answer>"
        own = sum(logits[t - 1].log_softmax(-1)[item.input_ids[t]] for t in places)
        found = forced_answers(mllm, [item], [candidates])[0][-1, 0]
    assert found == pytest.approx(float(own), abs=1e-5)


def test_a_step_token_that_runs_into_the_closing_tag_is_taken_apart(monkeypatch):
    """Tags that are no tokens of their own, and a last step without a line end."""
    monkeypatch.setattr(tiny, "TAGS", ())
    monkeypatch.setattr(tiny, "SENTENCES", (*tiny.SENTENCES, *["right.</think>"] * 9))
    mllm = tiny.tiny_mllm()
    response = "<think>\n1. It is red.\n2. Go right.</think>\n<answer>red</answer>"
    item = encode(mllm, noise_image(64, 48), "What color?", response=response)
    assert mllm.tokenizer.decode(item.input_ids[item.layout.step_ends[-1]]) == ".</"
    cut = item.layout.cuts[-1]
    assert cut.rest == "." and item.layout.steps[-1].stop == cut.stop + 1
    other = example(mllm, 3)
    with torch.no_grad():
        tokens = candidate_tokens(mllm, MULTI)
        found = packed_log_probs(mllm, [item, other], [tokens, tokens])
        for encoded, values in zip((item, other), found, strict=True):
            expected = naive_log_probs(mllm, encoded, MULTI)
            torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)
    # The tokens asked after are those of the whole text.
    shared, tails = spelt(mllm, MULTI, ".")
    written = f"{response.split('</')[0]}{ANSWER_CUE}{MULTI[0]}</answer>"
    before = item.input_ids[item.prompt_length : item.layout.step_ends[-1]].tolist()
    ids = mllm.tokenizer(written, add_special_tokens=False)["input_ids"]
    assert ids == [*before, *shared, *tails[0]]


def test_a_later_step_does_not_change_an_earlier_forced_answer(mllm):
    candidates = [candidate_tokens(mllm, SINGLE)]
    short = forced_answers(mllm, [example(mllm, 2)], candidates)[0]
    long = forced_answers(mllm, [example(mllm, 5)], candidates)[0]
    torch.testing.assert_close(short, long[:3], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(long[2], long[3], atol=1e-3)


@pytest.mark.parametrize(("checkpointing", "apart"), [(False, False), (True, False), (False, True)])
def test_gradients_equal_the_naive_loop_s(checkpointing, apart):
    mllm = tiny_mllm()
    items, candidates = mixed_batch(mllm)

    def gradients(values):
        mllm.model.zero_grad()
        torch.stack([value.sum() for value in values]).sum().backward()
        return {n: p.grad.clone() for n, p in mllm.model.named_parameters() if p.grad is not None}

    expected = gradients(
        [naive_log_probs(mllm, i, c.candidates) for i, c in zip(items, candidates, strict=True)]
    )
    if checkpointing:
        mllm.model.gradient_checkpointing_enable({"use_reentrant": False})
        mllm.model.train()
    read = log_probs_apart if apart else packed_log_probs
    found = gradients(read(mllm, items, candidates))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1.0)
        torch.testing.assert_close(found[name], gradient, atol=1e-4 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("apart", [False, True])
def test_the_probe_reads_the_same_masses_and_answers_under_a_block_mask(mllm, apart):
    items, candidates = mixed_batch(mllm)
    dense = pack(mllm, items, candidates)
    packed = pack(mllm, items, candidates, apart=apart)
    assert ("attcot_base" in packed.inputs) == apart
    plain = collate(mllm, items)
    cols = (plain["input_ids"] == mllm.image_token_id).float()[..., None]
    rows = torch.tensor([list(item.layout.rows(item.layout.steps[0]))[:5] for item in items])
    with torch.no_grad():
        expected = packed.log_probs(mllm.model(**dense.inputs).logits)
        alone, together = Probe(), Probe()
        with attached(mllm.model):
            mllm.model(**plain, attcot_probe=alone, attcot_cols=cols, attcot_rows=rows)
            longer = torch.nn.functional.pad(
                cols, (0, 0, 0, packed.inputs["input_ids"].shape[1] - packed.base_length)
            )
            output = mllm.model(
                **packed.inputs, attcot_probe=together, attcot_cols=longer, attcot_rows=rows
            )
    for own, values in zip(expected, packed.log_probs(output.logits), strict=True):
        torch.testing.assert_close(values, own, atol=1e-5, rtol=1e-5)
    assert alone.masses().keys() == together.masses().keys() == {0, 1, 2}
    for layer, mass in alone.masses().items():
        torch.testing.assert_close(together.masses()[layer], mass, atol=1e-5, rtol=1e-5)


def test_padding_rows_are_finite_forward_and_backward(mllm):
    items, candidates = mixed_batch(mllm)
    for side in ("right", "left"):
        packed = pack(mllm, items, candidates, padding_side=side)
        assert packed.inputs["attention_mask"].any(-1).all()
        embedded = []
        hook = mllm.model.get_input_embeddings().register_forward_hook(
            lambda module, args, out, kept=embedded: kept.append(out.requires_grad_())
        )
        output = mllm.model(**packed.inputs)
        hook.remove()
        sum(v.sum() for v in packed.log_probs(output.logits)).backward()
        assert output.logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in mllm.model.parameters() if p.grad is not None)
    mllm.model.zero_grad()


def test_forced_answers_leave_no_trace(mllm):
    items, candidates = mixed_batch(mllm)
    mllm.model.train()
    try:
        values = forced_answers(mllm, items, candidates)
        assert mllm.model.training
    finally:
        mllm.model.eval()
    assert not any(value.requires_grad for value in values)


def test_branches_do_not_see_each_other(mllm):
    items, candidates = mixed_batch(mllm)
    packed = pack(mllm, items, candidates)
    mask, base = packed.inputs["attention_mask"][:, 0], packed.base_length
    assert not mask[:, :base, base:].any()
    width = max(len(c.tree.tokens) for c in candidates)
    branches = mask[:, base:, base:]
    for low, high in pairwise(range(0, branches.shape[1] + 1, width)):
        assert not branches[:, low:high, :low].any()
        assert not branches[:, low:high, high:].any()


def test_branches_apart_need_a_causal_model_and_our_attention_without_interventions(mllm):
    items, candidates = [one[:1] for one in mixed_batch(mllm)]
    own = pack(mllm, items, candidates, apart=True)
    n_own = own.inputs["input_ids"].shape[1] - own.base_length
    assert own.inputs["attention_mask"].shape[2] == n_own
    slides = tiny_mllm(
        use_sliding_window=True, sliding_window=9, layer_types=["sliding_attention"] * 3
    )
    for other, side in ((slides, "right"), (mllm, "left")):
        packed = pack(other, items, candidates, apart=True, padding_side=side)
        assert "attcot_base" not in packed.inputs

    class Nothing:
        def edit(self, call):
            return call

    refused = pytest.raises(MeasureError, match="apart")
    with refused, torch.no_grad(), attached(mllm.model), intervening(Nothing()):
        mllm.model(**own.inputs)


def test_ambiguous_candidates_are_refused(mllm, monkeypatch):
    with pytest.raises(MeasureError, match="'red' and 'red' tokenise ambiguously"):
        candidate_tokens(mllm, ("red", "red"))
    with pytest.raises(MeasureError, match="at least two candidates"):
        candidate_tokens(mllm, ("red",))
    with pytest.raises(MeasureError, match="ambiguously"):
        CandidateTokens(("a", "ab"), (1,), ((2,), (2, 3)))
    with pytest.raises(MeasureError, match="share no token"):
        CandidateTokens(("a", "b"), (), ((2,), (3,)))


def test_bad_input_is_named(mllm):
    candidates = [candidate_tokens(mllm, SINGLE)]
    direct = encode(mllm, None, "What color?", response="<answer>red</answer>")
    empty = encode(mllm, None, "What color?", response="<think>\n</think>\n<answer>red</answer>")
    for item in (direct, empty):
        with pytest.raises(MeasureError, match="Item q7: its response has no rationale steps"):
            pack(mllm, [item], candidates, names=["q7"])
    item = example(mllm, 2)
    with pytest.raises(MeasureError, match=r"Item q7: .*after steps \[3\].*0 to 2"):
        pack(mllm, [item], candidates, steps=[[3]], names=["q7"])
    with pytest.raises(MeasureError, match="steps for 2 of 1 items"):
        pack(mllm, [item], candidates, steps=[[0], [1]])
    with pytest.raises(MeasureError, match="one candidate set"):
        pack(mllm, [item], [])


def test_non_finite_logits_are_named(mllm):
    items, candidates = mixed_batch(mllm)
    packed = pack(mllm, items, candidates, names=["q1", "q2", "q3"])
    with torch.no_grad():
        logits = mllm.model(**packed.inputs, logits_to_keep=packed.keep).logits
    logits[1] = float("nan")
    with pytest.raises(MeasureError, match="Item q2: the model's logits are not finite"):
        packed.log_probs(logits)
    with pytest.raises(MeasureError, match="Logits have shape"):
        packed.log_probs(logits[:, :-1])


def test_attention_that_takes_no_block_mask_is_refused():
    item_of = tiny_mllm()
    item, candidates = [example(item_of, 1)], [candidate_tokens(item_of, SINGLE)]
    item_of.model.config.get_text_config()._attn_implementation = "flash_attention_2"
    with pytest.raises(MeasureError, match=r"flash_attention_2.*sdpa"):
        pack(item_of, item, candidates)
    for kind in ("chunked_attention", "linear_attention"):
        odd = tiny_mllm()
        odd.model.config.get_text_config().layer_types = ["full_attention", "full_attention", kind]
        with pytest.raises(MeasureError, match=f"{kind} layers"):
            pack(odd, item, candidates)


# --- every family, every kind of layer ------------------------------------------------------------


def assert_packed_equals_naive(mllm, items, candidates, sides=("right",)):
    with torch.no_grad():
        pairs = zip(items, candidates, strict=True)
        expected = [naive_log_probs(mllm, item, own.candidates) for item, own in pairs]
        for side in sides:
            found = packed_log_probs(mllm, items, candidates, padding_side=side)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
        found = log_probs_apart(mllm, items, candidates)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_packed_equals_naive_in_every_family(name):
    mllm = shared_family(name)
    items = [example(mllm, 2), example(mllm, 3, (96, 40), 1, question="Start at the star.")]
    candidates = [candidate_tokens(mllm, c) for c in (("blue", "blue green", "red"), SINGLE)]
    assert_packed_equals_naive(mllm, items, candidates, ("right", "left"))


@pytest.mark.parametrize("window", [3, 9, 40])
def test_packed_equals_naive_where_some_layers_slide(window):
    """Windows shorter than the cue, than a step, and longer than the prompt's text."""
    mllm = tiny_mllm(
        use_sliding_window=True,
        sliding_window=window,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
    )
    items, candidates = [item[:2] for item in mixed_batch(mllm)]
    packed = pack(mllm, items, candidates)
    assert set(packed.inputs["attention_mask"]) == {"full_attention", "sliding_attention"}
    assert_packed_equals_naive(mllm, items, candidates, ("right", "left"))
    wide = tiny_mllm()
    with torch.no_grad():
        full = packed_log_probs(wide, items, candidates)
        slid = packed_log_probs(mllm, items, candidates)
    assert not torch.allclose(full[0], slid[0], atol=1e-3)


def test_packed_equals_naive_where_every_layer_slides():
    mllm = tiny_mllm(
        use_sliding_window=True, sliding_window=9, layer_types=["sliding_attention"] * 3
    )
    items, candidates = mixed_batch(mllm)
    assert isinstance(pack(mllm, items, candidates).inputs["attention_mask"], torch.Tensor)
    assert_packed_equals_naive(mllm, items, candidates)


def test_packed_equals_naive_with_eager_attention():
    mllm = tiny_mllm()
    mllm.model.set_attn_implementation("eager")
    items, candidates = mixed_batch(mllm)
    assert_packed_equals_naive(mllm, items, candidates)


def test_an_image_block_sees_itself_in_both_directions_where_the_model_has_it_so():
    mllm = tiny_family("gemma3")
    item = example(mllm, 2)
    packed = pack(mllm, [item], [candidate_tokens(mllm, SINGLE)], apart=True)
    masks = packed.inputs["attention_mask"]
    first, last = int(item.layout.image[0]), int(item.layout.image[-1])
    assert set(masks) == {"full_attention", "sliding_attention"}
    for mask in masks.values():
        assert mask[0, 0, first, last] and not mask[0, 0, first, last + 1]
