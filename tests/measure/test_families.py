"""The probe in every family's text stack, against eager attention."""

import copy

import numpy as np
import pytest
import torch
from families import FAMILY_NAMES, shared_family
from tiny import noise_image

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.probe import Probe, read_maps, read_masses
from attcot_analysis.models import collate, encode

EXACT = 1e-5
RESPONSE = (
    "<think>\n1. The star is in cell a1 and its arrow points right.\n"
    "2. Cell b1 holds a red circle.\n</think>\n<answer>red</answer>"
)


@pytest.fixture(params=FAMILY_NAMES)
def family(request):
    """A family, a copy of its model that shows all weights, and two items of different length."""
    mllm = shared_family(request.param)
    eager = copy.deepcopy(mllm.model)
    eager.set_attn_implementation({"text_config": "eager"})
    items = [
        encode(mllm, noise_image(64, 40, 1), "What color?", response=RESPONSE),
        encode(mllm, noise_image(40, 64, 2), "Start.", response="<answer>blue</answer>"),
    ]
    return mllm, eager, items


def columns(mllm, items, side):
    """Image tokens, newlines, and all other tokens but padding: (B, T, 3)."""
    width = max(item.layout.n_tokens for item in items)
    cols = torch.zeros(len(items), width, 3)
    for number, item in enumerate(items):
        own = torch.zeros(item.layout.n_tokens, 3)
        own[:, 2] = 1
        for column, places in ((0, item.layout.image), (1, item.layout.newlines)):
            own[torch.from_numpy(places)] = torch.eye(3)[column]
        start = width - len(own) if side == "left" else 0
        cols[number, start : start + len(own)] = own
    return cols


def full_layers(mllm):
    """Gemma 3 has one layer with a sliding window, which is never read."""
    kinds = getattr(mllm.text_config, "layer_types", None) or ["full_attention"] * mllm.n_layers
    found = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
    assert found == ([1, 2] if mllm.family.name == "gemma3" else [0, 1, 2])
    return found


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_masses_equal_eager(family, side):
    mllm, eager, items = family
    batch = collate(mllm, items, padding_side=side)
    assert not batch["attention_mask"].all()
    real = batch["attention_mask"].bool()
    ends = torch.stack([row.nonzero().max() for row in real])
    rows = ends[:, None] - torch.arange(6)
    cols = columns(mllm, items, side)
    found = read_masses(mllm, batch, cols, rows)
    assert list(found) == full_layers(mllm)
    weights = eager(**batch, output_attentions=True).attentions
    for layer, mass in found.items():
        chosen = torch.stack([w[:, r] for w, r in zip(weights[layer], rows, strict=True)])
        expected = torch.einsum("bhrt,btc->bhrc", chosen, cols)
        assert (mass - expected).abs().max() <= EXACT
        assert torch.allclose(mass.sum(-1), torch.ones(()), atol=EXACT)
        assert mass[..., 0].min() > 0
        has_newlines = mllm.family.name in ("llava_next", "llava_onevision")
        assert bool(mass[..., 1].any()) == has_newlines


@torch.no_grad()
def test_maps_equal_eager_and_paint_to_their_mass(family):
    mllm, eager, items = family
    item = items[0]
    rows = item.layout.rows(item.layout.steps[1])
    maps = read_maps(mllm, item, rows)
    (grid,) = item.layout.grids
    weights = eager(**collate(mllm, [item]), output_attentions=True).attentions
    for at, layer in enumerate(full_layers(mllm)):
        expected = weights[layer][0][:, rows][..., item.layout.image].numpy()
        assert np.abs(maps[at] - expected).max() <= EXACT
    x0, y0, x1, y1 = grid.boxes.T
    inside = (np.minimum(x1, 64) - np.maximum(x0, 0)) * (np.minimum(y1, 40) - np.maximum(y0, 0))
    shown = inside / ((x1 - x0) * (y1 - y0))
    drawn = grid.to_map(maps)
    assert drawn.shape == (*maps.shape[:-1], *grid.resolution)
    assert np.allclose(drawn.sum((-1, -2)), (maps * shown).sum(-1), atol=EXACT)


@torch.no_grad()
def test_rows_of_the_image_block(family):
    """Of Gemma 3 and Molmo 2 they see each other in both directions, elsewhere only backwards."""
    mllm, _, items = family
    batch = collate(mllm, items[:1])
    image = items[0].layout.image
    later = torch.zeros(1, batch["input_ids"].shape[1], 1)
    later[0, torch.from_numpy(image[1:])] = 1
    found = read_masses(mllm, batch, later, torch.tensor([[int(image[0])]]))
    for mass in found.values():
        assert bool(mass.any()) == (mllm.family.name in ("gemma3", "molmo2"))


def test_masses_carry_gradients(family):
    mllm, _, items = family
    model = copy.deepcopy(mllm.model)
    batch = collate(mllm, items)
    probe = Probe()
    with attached(model):
        model(**batch, attcot_probe=probe, attcot_cols=columns(mllm, items, "right"))
    masses = probe.masses(differentiable=True)
    sum(mass[..., 0].mean() for mass in masses.values()).backward()
    tower = [
        weight.grad
        for name, weight in model.named_parameters()
        if ("vision" in name or "visual" in name) and weight.grad is not None
    ]
    assert tower and any(gradient.abs().max() > 0 for gradient in tower)
