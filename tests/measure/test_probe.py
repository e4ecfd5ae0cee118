"""The probe against eager attention, which shows every weight and is kept as the oracle here."""

import copy

import pytest
import torch
from tiny import noise_image, tiny_mllm
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from attcot_analysis.attention.hook import NAME, attached
from attcot_analysis.attention.probe import Probe, group_masses, key_weights, read_maps, read_masses
from attcot_analysis.errors import MeasureError
from attcot_analysis.models import collate, encode, positions

EXACT = 1e-5
RESPONSE = (
    "<think>\n1. The star is in cell a1 and its arrow points right.\n"
    "2. Cell b1 holds a red circle.\n</think>\n<answer>red</answer>"
)


@pytest.fixture(scope="module")
def eager(random_mllm):
    model = copy.deepcopy(random_mllm.model)
    model.set_attn_implementation({"text_config": "eager"})
    return model


@pytest.fixture
def items(random_mllm):
    first = encode(random_mllm, noise_image(96, 96, 1), "What color?", response=RESPONSE)
    second = encode(
        random_mllm, noise_image(64, 96, 2), "Start at the star.", response="<answer>blue</answer>"
    )
    return [first, second]


def groups(batch, mllm):
    """Image, padding-free text, and a group of fractional weights: (B, T, 3)."""
    image = batch["input_ids"] == mllm.image_token_id
    real = batch["attention_mask"].bool()
    generator = torch.Generator().manual_seed(0)
    part = torch.rand(image.shape, generator=generator) * real
    return torch.stack([image, real & ~image, part], dim=-1).float()


def oracle(model, batch, cols, rows, **forward):
    """Masses from all T x T weights: {layer: (B, H, R, C)}."""
    weights = model(**batch, output_attentions=True, **forward).attentions
    masses = {}
    for layer, weight in enumerate(weights):
        chosen = torch.stack([w[:, r.clamp(min=0)] for w, r in zip(weight, rows, strict=True)])
        masses[layer] = torch.einsum("bhrt,btc->bhrc", chosen, cols) * (rows >= 0)[:, None, :, None]
    return masses


def far(found, expected):
    """Largest absolute difference over layers, items, heads, rows and groups."""
    assert found.keys() == expected.keys()
    return max(float((found[k] - expected[k]).abs().max()) for k in found)


def last_rows(batch, n, offset=0):
    """The last n real rows of right- or left-padded items."""
    mask = batch["attention_mask"]
    ends = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return ends[:, None] + torch.arange(1 - n, 1) - offset


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_masses_equal_eager_with_padding_and_fractional_columns(random_mllm, eager, items, side):
    batch = collate(random_mllm, items, padding_side=side)
    assert not batch["attention_mask"].all()
    cols, rows = groups(batch, random_mllm), last_rows(batch, 20)
    rows[1, :3] = -1
    found = read_masses(random_mllm, batch, cols, rows)
    assert far(found, oracle(eager, batch, cols, rows)) <= EXACT
    assert all(not mass[1, :, :3].any() for mass in found.values())
    whole = found[0][..., 0] + found[0][..., 1]
    assert torch.allclose(whole[0], torch.ones(())) and torch.allclose(
        whole[1, :, 3:], whole[0, 0, 0]
    )


@torch.no_grad()
def test_masses_equal_eager_without_a_mask(random_mllm, eager, items):
    batch = collate(random_mllm, items[:1])
    cols, rows = groups(batch, random_mllm), torch.tensor([[0, 5, 7, 90, 3]])
    assert (
        far(read_masses(random_mllm, batch, cols, rows), oracle(eager, batch, cols, rows)) <= EXACT
    )
    batch.pop("attention_mask")
    every = torch.arange(batch["input_ids"].shape[1])[None]
    assert (
        far(read_masses(random_mllm, batch, cols, every), oracle(eager, batch, cols, every))
        <= EXACT
    )


@torch.no_grad()
def test_more_groups_than_head_dimensions(random_mllm, eager, items):
    batch = collate(random_mllm, items)
    n_tokens = batch["input_ids"].shape[1]
    cols = torch.eye(n_tokens).expand(2, -1, -1) * batch["attention_mask"][..., None]
    rows = last_rows(batch, 4)
    assert n_tokens > 4 * random_mllm.text_config.hidden_size // random_mllm.n_heads
    found = read_masses(random_mllm, batch, cols, rows)
    assert far(found, oracle(eager, batch, cols, rows)) <= EXACT
    assert all(torch.allclose(mass.sum(-1), torch.ones(())) for mass in found.values())


@pytest.mark.parametrize("additive", [False, True])
@torch.no_grad()
def test_packed_branches_under_a_four_dimensional_mask(random_mllm, eager, items, additive):
    """The second half of the response cannot see the first: a branch, as `branches.pack` makes."""
    batch = collate(random_mllm, items[:1])
    n_tokens, start = batch["input_ids"].shape[1], items[0].prompt_length
    middle = (start + n_tokens) // 2
    visible = torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()
    visible[middle:, start:middle] = False
    visible = visible[None, None]
    blocked = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    place = positions(random_mllm, batch)
    place[..., middle:] -= middle - start
    cols, rows = groups(batch, random_mllm), torch.arange(start, n_tokens)[None]
    inputs = {**batch, "attention_mask": blocked if additive else visible, "position_ids": place}
    found = read_masses(random_mllm, inputs, cols, rows)
    expected = oracle(eager, {**inputs, "attention_mask": blocked}, cols, rows)
    assert far(found, expected) <= EXACT
    plain = read_masses(random_mllm, batch, cols, rows)
    assert far(found, plain) > 1e-2


@torch.no_grad()
def test_generation_with_cache_and_left_padding(random_mllm, eager, items):
    prompts = [
        encode(random_mllm, noise_image(96, 96, 1), "What color?"),
        encode(random_mllm, noise_image(64, 96, 2), "Start at the star."),
    ]
    batch = collate(random_mllm, prompts, padding_side="left")
    width, cols, probe = batch["input_ids"].shape[1], groups(batch, random_mllm), Probe()
    banned = [random_mllm.image_token_id]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    options["suppress_tokens"] = banned
    with attached(random_mllm.model), probe.active(cols):
        ids = random_mllm.model.generate(**batch, **options)
    assert torch.equal(ids, eager.generate(**batch, **options))

    found = probe.masses()
    assert found[0].shape == (2, random_mllm.n_heads, 6, 3)
    longer = {
        **batch,
        "input_ids": ids,
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones(2, 6).long()], 1),
        "mm_token_type_ids": torch.cat([batch["mm_token_type_ids"], torch.zeros(2, 6).long()], 1),
    }
    padded = torch.nn.functional.pad(cols, (0, 0, 0, 6))
    rows = torch.arange(width - 1, width + 5).expand(2, -1)
    assert far(found, oracle(eager, longer, padded, rows)) <= EXACT


@torch.no_grad()
def test_a_long_prefix_from_the_cache(random_mllm, eager, items):
    """Several queries at once on top of cached keys: rows count the queries of the call."""
    batch = collate(random_mllm, items[:1])
    cut = items[0].prompt_length
    cols = groups(batch, random_mllm)
    model, probe = random_mllm.model, Probe()
    prefix = {k: v[:, :cut] if v.shape == batch["input_ids"].shape else v for k, v in batch.items()}
    cache = model(**prefix, use_cache=True).past_key_values
    rest = torch.arange(batch["input_ids"].shape[1] - cut)[None]
    with attached(model):
        model(
            input_ids=batch["input_ids"][:, cut:],
            attention_mask=batch["attention_mask"],
            position_ids=positions(random_mllm, batch)[..., cut:],
            past_key_values=cache,
            attcot_probe=probe,
            attcot_cols=cols,
            attcot_rows=rest,
        )
    assert far(probe.masses(), oracle(eager, batch, cols, rest + cut)) <= EXACT


def gradients(model, batch, masses):
    """Gradients of a loss on tokens and, with random weights, on masses; all parameters."""
    model.zero_grad()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    masses, loss = masses(labels)
    generator = torch.Generator().manual_seed(3)
    for mass in masses.values():
        loss = loss + (mass * torch.randn(mass.shape, generator=generator)).mean()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_equal_eager(random_mllm, eager, items, checkpointing):
    model = copy.deepcopy(random_mllm.model)
    batch = collate(random_mllm, items)
    cols, rows = groups(batch, random_mllm), last_rows(batch, 12)
    rows[1, 0] = -1
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()

    def probed(labels):
        probe = Probe()
        probe.begin()
        loss = model(
            **batch, labels=labels, attcot_probe=probe, attcot_cols=cols, attcot_rows=rows
        ).loss
        return probe.masses(differentiable=True), loss

    def plain(labels):
        out = eager(**batch, labels=labels, output_attentions=True)
        return oracle(eager, batch, cols, rows), out.loss

    with attached(model):
        found = gradients(model, batch, probed)
    expected = gradients(eager, batch, plain)
    eager.zero_grad()
    assert found.keys() == expected.keys() and len(found) == len(list(model.parameters()))
    for name, gradient in found.items():
        scale = expected[name].norm().clamp(min=1e-6)
        assert (gradient - expected[name]).norm() / scale <= 1e-4, name


def test_reentrant_checkpointing_is_detected(items):
    mllm = tiny_mllm()
    mllm.model.gradient_checkpointing_enable({"use_reentrant": True})
    mllm.model.enable_input_require_grads()
    mllm.model.train()
    batch = collate(mllm, items)
    probe = Probe()
    with attached(mllm.model):
        mllm.model(**batch, attcot_probe=probe, attcot_cols=groups(batch, mllm))
    with pytest.raises(MeasureError, match="carries no gradient"):
        probe.masses(differentiable=True)


def test_autocast_does_not_touch_the_arithmetic(random_mllm):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 9, 16, generator=generator)
    key = torch.randn(1, 2, 9, 16, generator=generator)
    cols = torch.rand(1, 9, 2, generator=generator)
    plain = group_masses(query, key, None, cols, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = group_masses(query, key, None, cols, None)
        weights = key_weights(query, key, None, None, None)
    assert cast.dtype == torch.float32 and torch.equal(plain, cast)
    assert torch.allclose(torch.einsum("bhrt,btc->bhrc", weights, cols), plain, atol=EXACT)


@torch.no_grad()
def test_only_the_fused_kernel_is_used(random_mllm, items):
    """On CPU the fallback would hold all weights at once; it is switched off here."""
    batch = collate(random_mllm, items)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        found = read_masses(random_mllm, batch, groups(batch, random_mllm), last_rows(batch, 5))
    assert found


@torch.no_grad()
def test_maps_are_the_weights_on_image_tokens(random_mllm, eager, items):
    item = items[0]
    rows = item.layout.rows(item.layout.steps[1])
    maps = read_maps(random_mllm, item, rows, layers=[0, 2])
    assert maps.shape == (2, random_mllm.n_heads, len(rows), 36)
    weights = eager(**collate(random_mllm, [item]), output_attentions=True).attentions
    for at, layer in enumerate((0, 2)):
        expected = weights[layer][0][:, rows][..., item.layout.image]
        assert abs(maps[at] - expected.numpy()).max() <= EXACT


@torch.no_grad()
def test_sliding_layers_are_read_where_they_are_named():
    mllm = tiny_mllm(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert mllm.text_config.layer_types[1] == "sliding_attention"
    batch = collate(mllm, [encode(mllm, noise_image(96, 96, 0), "What color?")])
    cols = groups(batch, mllm)
    found = read_masses(mllm, batch, cols, last_rows(batch, 2))
    assert set(found) == {0}
    found = read_masses(mllm, batch, cols, last_rows(batch, 2), layers=[1])
    assert set(found) == {1}
    # The oracle: eager attention, whose window is in its mask.
    mllm.model.set_attn_implementation({"text_config": "eager"})
    weights = mllm.model(**batch, output_attentions=True).attentions[1]
    rows = last_rows(batch, 2)[0]
    expected = weights.float() @ cols[:, None].to(weights)
    assert (found[1] - expected[:, :, rows]).abs().max() <= EXACT
    image = (batch["input_ids"] == mllm.image_token_id)[0].nonzero()[:, 0]
    hidden = weights[0][:, rows][..., image[rows[0] - image >= 8]]
    assert hidden.numel() and not hidden.any()


@torch.no_grad()
def test_the_row_of_a_token_is_the_position_before_it(random_mllm):
    """The row that predicts a token cannot know it: replace a span's last token, rows stay."""
    image = noise_image(96, 96, 1)
    ids = random_mllm.tokenizer(RESPONSE)["input_ids"]
    one = encode(random_mllm, image, "What color?", response=ids)
    step = one.layout.steps[0]
    changed = list(ids)
    changed[step.stop - 1 - one.prompt_length] = random_mllm.tokenizer("blue")["input_ids"][0]
    other = encode(random_mllm, image, "What color?", response=changed)
    rows = torch.as_tensor(one.layout.rows(step))[None]
    assert rows[0, 0] == step.start - 1
    read = []
    for item in (one, other):
        batch = collate(random_mllm, [item])
        cols = groups(batch, random_mllm)
        read.append(
            (
                read_masses(random_mllm, batch, cols, rows),
                read_masses(random_mllm, batch, cols, rows + 1),
            )
        )
    assert far(read[0][0], read[1][0]) == 0
    assert far(read[0][1], read[1][1]) > 1e-3


@torch.no_grad()
def test_a_missing_mask_function_would_show(random_mllm, eager, items, monkeypatch):
    """Without its mask function the name gets no mask at all, and padding is attended."""
    batch = collate(random_mllm, items, padding_side="left")
    cols, rows = groups(batch, random_mllm), last_rows(batch, 4)
    mapping = dict(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping)
    mapping.pop(NAME)
    monkeypatch.setattr(type(ALL_MASK_ATTENTION_FUNCTIONS), "_global_mapping", mapping)
    wrong = read_masses(random_mllm, batch, cols, rows)
    assert far(wrong, oracle(eager, batch, cols, rows)) > 1e-2


def state(model):
    configs = [model.config, model.config.text_config, model.config.vision_config]
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    return [config._attn_implementation for config in configs], hooks


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_nothing_is_left_on_the_model(before, items):
    mllm = tiny_mllm(layers=1)
    model = mllm.model
    model.set_attn_implementation({"text_config": before})
    untouched = state(model)
    batch = collate(mllm, items)
    with pytest.raises(KeyError), attached(model), Probe().active(groups(batch, mllm)):
        with attached(model):
            assert model.config.text_config._attn_implementation == NAME
            assert model.config.vision_config._attn_implementation == "sdpa"
        assert model.config.text_config._attn_implementation == NAME
        raise KeyError
    assert state(model) == untouched

    model.train()
    model.lm_head.eval()
    read_masses(mllm, batch, groups(batch, mllm), last_rows(batch, 2))
    with pytest.raises(RuntimeError):
        wrong = torch.zeros(3, 2, 1, 7, dtype=torch.long)
        read_masses(mllm, batch, groups(batch, mllm), last_rows(batch, 2), position_ids=wrong)
    assert state(model) == untouched and model.training and not model.lm_head.training


@torch.no_grad()
def test_no_probe_is_active_after_an_exception(random_mllm, items):
    batch = collate(random_mllm, items)
    probe = Probe()
    with pytest.raises(KeyError), probe.active(groups(batch, random_mllm)):
        raise KeyError
    with attached(random_mllm.model):
        random_mllm.model(**batch)
    assert probe.sink == {}


def test_what_does_not_fit_is_refused_in_a_sentence(random_mllm, items):
    batch = collate(random_mllm, items)
    cols, rows = groups(batch, random_mllm), last_rows(batch, 2)
    with pytest.raises(MeasureError, match="below 1"):
        read_masses(random_mllm, batch, cols, rows + 500)
    with pytest.raises(MeasureError, match="Rows have shape"):
        read_masses(random_mllm, batch, cols, rows[:1])
    with pytest.raises(MeasureError, match="Probe columns have shape"):
        read_masses(random_mllm, batch, cols[:, 1:], rows)
    with pytest.raises(MeasureError, match=r"choose from 0 to 2"):
        read_masses(random_mllm, batch, cols, rows, layers=[7])
    with pytest.raises(MeasureError, match="collected nothing"):
        Probe().masses()
    refused = pytest.raises(MeasureError, match="without gradient")
    with refused, attached(random_mllm.model), Probe().active(cols):
        random_mllm.model(**batch)
