"""Knockout and mean values against attention that is spelt out: eager masks and a naive loop."""

import pytest
import torch
from families import FAMILY_NAMES, llava_over, shared_family
from spelt_out import cut_eagerly, eager_copy, mean_valued, respond
from tiny import noise_image, tiny_mllm

from attcot_analysis.attention.hook import attached, intervening
from attcot_analysis.attention.knockout import Knockout, MeanValue
from attcot_analysis.attention.probe import Probe, read_masses
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import collate, encode, positions
from attcot_analysis.models.generate import image_ids

EXACT = 5e-5
RESPONSE = (
    "<think>\n1. The star is in cell a1 and its arrow points right.\n"
    "2. Cell b1 holds a red circle.\n</think>\n<answer>red</answer>"
)
WINDOWS = [None, (0,), (1, 2), ()]


@pytest.fixture(scope="module")
def eager(random_mllm):
    return eager_copy(random_mllm.model)


@pytest.fixture(scope="module")
def items(random_mllm):
    first = encode(random_mllm, noise_image(96, 96, 1), "What color?", response=RESPONSE)
    second = encode(
        random_mllm, noise_image(64, 96, 2), "Start at the star.", response="<answer>blue</answer>"
    )
    return [first, second]


def chosen(mllm, batch, n_rows=12):
    """The last rows of each item but one, and its image tokens: ``(B, T)`` each."""
    rows = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
    for row, mask in zip(rows, batch["attention_mask"].bool(), strict=True):
        real = mask.nonzero()[:, 0]
        row[real[-n_rows:]] = True
        row[real[-n_rows // 2]] = False
    return rows, batch["input_ids"] == mllm.image_token_id


ORACLES = [(Knockout, cut_eagerly), (MeanValue, mean_valued)]


def logits(model, batch, *edits):
    with attached(model), intervening(*edits):
        return model(**batch, use_cache=False).logits


def far(one, other, batch):
    """Largest difference where there are tokens."""
    real = batch["attention_mask"].bool()
    assert one.isfinite().all()
    return float((one - other)[real].detach().abs().max())


@pytest.mark.parametrize(("kind", "oracle"), ORACLES)
@pytest.mark.parametrize("layers", WINDOWS)
@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_teacher_forcing_equals_the_oracle(random_mllm, eager, items, kind, oracle, layers, side):
    batch = collate(random_mllm, items, padding_side=side)
    assert not batch["attention_mask"].all()
    rows, keys = chosen(random_mllm, batch)
    found = logits(random_mllm.model, batch, kind(rows, keys, layers))
    with oracle(eager, rows, keys, layers):
        expected = eager(**batch, use_cache=False).logits
    assert far(found, expected, batch) <= EXACT
    plain = logits(random_mllm.model, batch)
    if layers == ():
        assert torch.equal(found, plain)
    else:
        assert far(found, plain, batch) > 1e-2


@pytest.mark.parametrize(("kind", "oracle"), ORACLES)
@pytest.mark.parametrize("form", ["none", "bool", "additive", "-inf"])
@torch.no_grad()
def test_every_form_of_mask(random_mllm, eager, items, kind, oracle, form):
    batch = collate(random_mllm, items[:1])
    rows, keys = chosen(random_mllm, batch)
    with oracle(eager, rows, keys, (0, 2)):
        expected = eager(**batch, use_cache=False).logits
    n_tokens = batch["input_ids"].shape[1]
    visible = torch.ones(1, 1, n_tokens, n_tokens, dtype=torch.bool).tril()
    lowest = torch.finfo(torch.float32).min if form == "additive" else float("-inf")
    added = torch.zeros(visible.shape).masked_fill(~visible, lowest)
    given = {"none": batch["attention_mask"], "bool": visible}.get(form, added)
    place = positions(random_mllm, batch)
    inputs = {**batch, "attention_mask": given, "position_ids": place}
    found = logits(random_mllm.model, inputs, kind(rows, keys, (0, 2)))
    assert far(found, expected, batch) <= EXACT


# A sliding layer's mean is over the keys it still holds, which the loop does not know.
@pytest.mark.parametrize(
    ("kind", "oracle", "window"), [(*one, None) for one in ORACLES] + [(*ORACLES[0], 24)]
)
@torch.no_grad()
def test_generation_with_cache_equals_a_loop_without(kind, oracle, window):
    """Left padding, rows of the prompt and of what is generated; also with sliding attention."""
    more = {} if window is None else {"use_sliding_window": True, "sliding_window": window}
    mllm = tiny_mllm(max_window_layers=1, **more)
    prompts = [
        encode(mllm, noise_image(64, 64, 1), "What color?"),
        encode(mllm, noise_image(64, 32, 2), "Start at the star. What color?"),
    ]
    batch = collate(mllm, prompts, padding_side="left")
    rows, keys = chosen(mllm, batch, 3)
    rows[:, -1] = True
    if window is not None:
        keys |= (torch.arange(keys.shape[1]) % 3 == 0) & batch["attention_mask"].bool()
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    banned = [mllm.image_token_id, mllm.model.config.video_token_id, *mllm.stop_ids]
    for layers in (None, (0, 1)):
        edit = kind(rows, keys, layers, generated=True)
        with attached(mllm.model), intervening(edit):
            found = mllm.model.generate(**batch, **options, suppress_tokens=banned)
        model = eager_copy(mllm.model)
        with oracle(model, rows, keys, layers, generated=True):
            expected = respond(model, batch, 4, banned)
        assert torch.equal(found, expected)
        if kind is Knockout:
            assert not torch.equal(found, respond(model, batch, 4, banned))


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_every_family(name):
    """Teacher forcing and generation, in two of its three layers."""
    mllm = shared_family(name)
    eager = eager_copy(mllm.model)
    response = "<think>\n1. It is red.\n</think>\n<answer>red</answer>"
    pictures, questions = [noise_image(48, 40, 1), noise_image(40, 64, 2)], ["What?", "What color?"]
    items = [
        encode(mllm, picture, question, response=response)
        for picture, question in zip(pictures, questions, strict=True)
    ]
    batch = collate(mllm, items)
    rows, keys = chosen(mllm, batch)
    found = logits(mllm.model, batch, Knockout(rows, keys, (0, 2)))
    with cut_eagerly(eager, rows, keys, (0, 2)):
        expected = eager(**batch, use_cache=False).logits
    assert far(found, expected, batch) <= EXACT * float(expected.abs().max().clamp(min=1))
    assert far(found, logits(mllm.model, batch), batch) > 1e-3

    prompts = [
        encode(mllm, picture, question)
        for picture, question in zip(pictures, questions, strict=True)
    ]
    batch = collate(mllm, prompts, padding_side="left")
    rows, keys = chosen(mllm, batch, 3)
    banned = [*image_ids(mllm), *mllm.stop_ids]
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with attached(mllm.model), intervening(Knockout(rows, keys, (0, 2), generated=True)):
        found = mllm.model.generate(**batch, **options, suppress_tokens=banned)
    with cut_eagerly(eager, rows, keys, (0, 2), generated=True):
        assert torch.equal(found, respond(eager, batch, 3, banned))


@pytest.mark.parametrize("kind", [Knockout, MeanValue])
@torch.no_grad()
def test_nothing_chosen_changes_nothing_bit_for_bit(random_mllm, items, kind):
    batch = collate(random_mllm, items, padding_side="left")
    rows, keys = chosen(random_mllm, batch)
    none = torch.zeros_like(rows)
    plain = random_mllm.model(**batch, use_cache=False).logits
    for edit in (kind(none, keys), kind(rows, none), kind(rows, keys, layers=())):
        assert torch.equal(logits(random_mllm.model, batch, edit), plain)


@torch.no_grad()
def test_mean_values_leave_other_rows_alone_bit_for_bit(random_mllm, items):
    batch = collate(random_mllm, items[:1])
    rows, keys = chosen(random_mllm, batch)
    plain = logits(random_mllm.model, batch)
    found = logits(random_mllm.model, batch, MeanValue(rows, keys))
    first = int(rows[0].nonzero()[0])
    assert torch.equal(found[0, :first], plain[0, :first])
    assert not torch.equal(found[0, first], plain[0, first])


@pytest.mark.parametrize("kind", [Knockout, MeanValue])
@torch.no_grad()
def test_nothing_is_left_after_an_exception(random_mllm, items, kind):
    batch = collate(random_mllm, items)
    edit = kind(*chosen(random_mllm, batch))
    plain = random_mllm.model(**batch).logits
    with pytest.raises(KeyError), attached(random_mllm.model), intervening(edit):
        random_mllm.model(**batch)
        raise KeyError
    assert torch.equal(logits(random_mllm.model, batch), plain)
    assert random_mllm.model.config.text_config._attn_implementation == "sdpa"


@pytest.mark.parametrize("form", ["bool", "additive"])
def test_a_row_that_would_see_nothing_keeps_its_own_key(random_mllm, items, form):
    """All rows lose all keys: every token then sees itself only, and no gradient is NaN."""
    model = random_mllm.model
    batch = collate(random_mllm, items[:1])
    n_tokens = batch["input_ids"].shape[1]
    alone = torch.eye(n_tokens, dtype=torch.bool)[None, None]
    causal = torch.ones(1, 1, n_tokens, n_tokens, dtype=torch.bool).tril()
    if form == "additive":
        lowest = torch.finfo(torch.float32).min
        causal = torch.zeros(causal.shape).masked_fill(~causal, lowest)
    every = torch.ones(1, n_tokens, dtype=torch.bool)
    inputs = {**batch, "position_ids": torch.arange(n_tokens).expand(3, 1, -1)}
    found = logits(model, inputs | {"attention_mask": causal}, Knockout(every, every))
    expected = logits(model, inputs | {"attention_mask": alone})
    assert far(found, expected, batch) <= EXACT
    (gradient,) = torch.autograd.grad(found.logsumexp(-1).sum(), [model.lm_head.weight])
    assert gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize(("kind", "oracle"), ORACLES)
def test_gradients_equal_the_oracle(random_mllm, eager, items, kind, oracle):
    batch = collate(random_mllm, items, padding_side="left")
    rows, keys = chosen(random_mllm, batch)

    def gradients(model, logits):
        real = batch["attention_mask"].bool()
        loss = logits.log_softmax(-1)[real][..., 7].sum()
        weights = [layer.self_attn.k_proj.weight for layer in model.model.language_model.layers]
        weights += [model.model.visual.merger.mlp[0].weight]
        return torch.autograd.grad(loss, weights)

    found = gradients(random_mllm.model, logits(random_mllm.model, batch, kind(rows, keys, (0, 2))))
    with oracle(eager, rows, keys, (0, 2)):
        expected = gradients(eager, eager(**batch, use_cache=False).logits)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@torch.no_grad()
def test_the_probe_sees_the_cut(random_mllm, items):
    batch = collate(random_mllm, items)
    rows, keys = chosen(random_mllm, batch)
    cols = keys[..., None].float()
    read = {}
    for name, edits in {
        "plain": (),
        "cut": (Knockout(rows, keys, (1,)),),
        "mean": (MeanValue(rows, keys, (1,)),),
    }.items():
        probe = Probe()
        with attached(random_mllm.model), intervening(*edits):
            random_mllm.model(**batch, attcot_probe=probe, attcot_cols=cols)
        read[name] = probe.masses()[1][..., 0].transpose(1, 2)
    assert not read["cut"][rows].any() and read["plain"][rows].min() > 0
    assert torch.equal(read["cut"][~rows], read["plain"][~rows])
    assert torch.equal(read["mean"], read["plain"])


class Masks:
    """Keeps the masks of all calls."""

    def __init__(self):
        self.seen = []

    def edit(self, call):
        self.seen.append(call.mask)
        return call


@torch.no_grad()
def test_one_mask_without_heads_serves_all_layers(random_mllm, items):
    for part in (items, items[:1]):
        batch = collate(random_mllm, part)
        masks = Masks()
        logits(random_mllm.model, batch, Knockout(*chosen(random_mllm, batch)), masks)
        length = batch["input_ids"].shape[1]
        assert len(masks.seen) == 3 and len({id(mask) for mask in masks.seen}) == 1
        assert masks.seen[0].shape == (len(part), 1, length, length)
        assert masks.seen[0].dtype == torch.bool


@torch.no_grad()
def test_one_edit_serves_batch_after_batch(random_mllm, items):
    """Masks of one forward pass are not mistaken for those of another."""
    batch = collate(random_mllm, items)
    rows, keys = chosen(random_mllm, batch)
    shifted = {**batch, "attention_mask": batch["attention_mask"].clone()}
    shifted["attention_mask"][:, :5] = 0
    edit = Knockout(rows, keys)
    for one in (batch, shifted, batch):
        fresh = logits(random_mllm.model, one, Knockout(rows, keys))
        assert torch.equal(logits(random_mllm.model, one, edit), fresh)


@torch.no_grad()
def test_what_does_not_fit_is_refused_in_a_sentence(random_mllm, items):
    model = random_mllm.model
    batch = collate(random_mllm, items)
    rows, keys = chosen(random_mllm, batch)
    with pytest.raises(MeasureError, match="two boolean tensors"):
        Knockout(rows, keys[:, 1:])
    with pytest.raises(MeasureError, match="two boolean tensors"):
        MeanValue(rows.long(), keys)
    with pytest.raises(MeasureError, match="for 1 items, the model runs 2"):
        logits(model, batch, Knockout(rows[:1], keys[:1]))
    with pytest.raises(MeasureError, match="generated=True or False"):
        logits(model, batch, Knockout(rows[:, :-1], keys[:, :-1]))
    with (
        pytest.raises(MeasureError, match="no attention met it"),
        intervening(Knockout(rows, keys)),
    ):
        model(**batch)
    prompt = collate(random_mllm, [encode(random_mllm, noise_image(64, 64), "What color?")])
    edit = Knockout(*chosen(random_mllm, prompt), generated=True)
    refused = pytest.raises(MeasureError, match="use a dynamic cache")
    with refused, attached(model), intervening(edit):
        model.generate(**prompt, max_new_tokens=2, cache_implementation="static")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            {"model_type": "gemma2", "attn_logit_softcapping": 2.0, "sliding_window": 64},
            "caps its attention scores",
        ),
        (
            {"model_type": "gpt_oss", "num_local_experts": 2, "num_experts_per_tok": 1},
            "adds learned sinks",
        ),
    ],
)
@torch.no_grad()
def test_what_sdpa_leaves_out_is_refused(text, message):
    """Capped scores, learned sinks: by SDPA it would be the attention of another model."""
    mllm = llava_over("eager", layer_types=["full_attention"] * 3, **text)
    model = mllm.model
    batch = collate(mllm, [encode(mllm, noise_image(48, 40), "What?", response=RESPONSE)])
    rows, keys = chosen(mllm, batch)
    assert model(**batch).logits.isfinite().all()
    with pytest.raises(MeasureError, match=f"Layer 0 {message}"):
        logits(model, batch, Knockout(rows, keys))
    with pytest.raises(MeasureError, match=f"Layer 0 {message}"):
        read_masses(mllm, batch, keys[..., None].float(), torch.tensor([[5]]))
