"""Every family: token boxes against the processor's pixels and the tower's features, batches."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from families import FAMILY_NAMES, MORE_FAMILIES, save_tiny_family, shared_family, tiny_family
from PIL import Image
from tiny import noise_image

from attcot_analysis.errors import LayoutError
from attcot_analysis.measures.painting import image_features, paintable_tokens, painted_tokens
from attcot_analysis.models import (
    FAMILIES,
    build_messages,
    collate,
    encode,
    generate,
    load_mllm,
    positions,
)
from attcot_analysis.models.families import ProcessedPrompt
from attcot_analysis.models.generate import image_ids

RESPONSE = "<think>\n1. The star is in cell a1.\n2. Cell b1 is red.\n</think>\n<answer>red</answer>"

VARIANTS = {
    "qwen2_5_vl": {},
    "qwen3_vl": {},
    "internvl": {},
    "llava": {},
    "llava padded": {"do_pad": True},
    "llava_next": {},
    "llava_onevision": {},
    # As in SigLIP at 384 px: the tower drops what is left of a tile after whole patches.
    "llava_onevision remainder": {
        "size": {"height": 36, "width": 36},
        "image_grid_pinpoints": [[36 * r, 36 * c] for r in range(1, 5) for c in range(1, 5)],
    },
    "gemma3": {},
    "idefics3": {"size": {"longest_edge": 160}},
    # No multiple of the tile: the tiles are then not what get_number_of_image_patches says.
    "idefics3 odd": {"size": {"longest_edge": 100}},
    "idefics3 whole": {"do_image_splitting": False},
    "smolvlm": {},
    # Of those with one processor the first stands for all.
    "glm4v": {},
    "glm46v": {},
    "gemma4": {},
    "mistral3": {},
    "pixtral": {},
    "aya_vision": {},
    "cohere2_vision": {},
    "ovis2": {},
    "lfm2_vl": {},
    "molmo2": {},
    "molmo2 unlike margins": {"overlap_margins": [0, 2], "pooling_size": [2, 3]},
    "minicpmv4_6": {},
    "minicpmv4_6 whole": {"slice_mode": False},
}
"""Settings of the image processor, per family and for what else its processors can do."""

EXTREME = [(400, 4), (4, 400), (3, 3), (8, 9), (32, 32), (33, 32), (31, 65), (64, 64), (300, 299)]


def variant(name):
    return tiny_family(name.split()[0], **VARIANTS[name]) if VARIANTS[name] else shared_family(name)


def resizes_one_column():
    """Whether torch does; without AVX2 it repeats the first row of a picture one pixel wide."""
    column = torch.tensor([0, 0, 200, 200], dtype=torch.uint8)[None, None, :, None]
    halved = torch.nn.functional.interpolate(column, (2, 1), mode="bilinear", antialias=True)
    return bool(halved[0, 0, 1, 0] > 100)


def random_sizes(n, seed=0):
    """Widths and heights from 4 to 300 px, even in the logarithm: aspect ratios up to 75."""
    rng = np.random.default_rng(seed)
    return np.exp(rng.uniform(np.log(4), np.log(301), (n, 2))).astype(int).tolist()


def ramp(width, height):
    """A picture whose colour says where it is: red grows to the right, green downwards."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[..., 0] = np.round((np.arange(width) + 0.5) / width * 255)
    pixels[..., 1] = np.round((np.arange(height) + 0.5) / height * 255)[:, None]
    return Image.fromarray(pixels)


def token_colours(mllm, encoded):
    """Mean colour (N, 3) in [0, 1] of the pixels that the processor made each token of."""
    settings = mllm.processor.image_processor
    pixels = encoded.vision["pixel_values"]
    grids = encoded.layout.grids
    if "image_grid_thw" in encoded.vision:
        per_token, patch = settings.merge_size**2, settings.patch_size
        colours = pixels.view(-1, per_token, 3, 2 * patch * patch).mean((1, 3))
    elif "image_position_ids" in encoded.vision:
        width, pool = int(encoded.vision["image_position_ids"][0, :, 0].max()) + 1, 3
        patches = pixels[0].view(-1, 8 * 8, 3).mean(1)
        patches = patches[: 9 * len(grids[0])].view(-1, pool, width // pool, pool, 3)
        colours = patches.mean((1, 3)).reshape(-1, 3)
    elif "spatial_shapes" in encoded.vision:
        shapes = encoded.vision["spatial_shapes"].tolist()
        pieces = [
            piece[: down * across].view(down // 2, 2, across // 2, 2, -1, 3).mean((1, 3, 4))
            for piece, (down, across) in zip(pixels, shapes, strict=True)
        ]
        colours = torch.cat([piece.reshape(-1, 3) for piece in pieces])
    elif "image_token_pooling" in encoded.vision:
        patches, pools = pixels.reshape(-1, 4 * 4, 3).mean(1), encoded.vision["image_token_pooling"]
        real = (pools >= 0)[..., None]
        colours = (patches[pools.clamp(min=0)] * real).sum(1) / real.sum(1)
    elif "target_sizes" in encoded.vision:
        shapes = encoded.vision["target_sizes"].tolist()
        pieces = pixels[0].split([4 * down * across for down, across in shapes], dim=-1)
        colours = torch.cat(
            [
                piece.view(3, 4, down // 4, 4, across // 4, 4 * 4).mean((1, 3, 5)).flatten(1).T
                for piece, (down, across) in zip(pieces, shapes, strict=True)
            ]
        )
    else:
        size = 16 if mllm.name.split()[1] in ("gemma3", "mistral3", "pixtral") else 8
        tiles = torch.nn.functional.avg_pool2d(pixels.flatten(0, -4), size)
        colours = tiles.flatten(2).transpose(1, 2)
        if hasattr(mllm.model.model, "pack_image_features"):
            colours = packed(mllm, encoded, colours)
        colours = colours.reshape(-1, 3)
    ends = np.cumsum([grid.n_placeholders for grid in grids])
    assert len(colours) == ends[-1]
    places = [e - g.n_placeholders + g.placeholders for e, g in zip(ends, grids, strict=True)]
    chosen = colours[np.concatenate(places)].numpy()
    return chosen * np.array(settings.image_std) + np.array(settings.image_mean)


def packed(mllm, encoded, colours):
    """The model's own unpadding, resampling and newlines, run on colours instead of features."""
    model, sizes = mllm.model.model, encoded.vision["image_sizes"]
    per_image = colours.split(encoded.vision["pixel_values"].shape[1])
    options = {"image_newline": torch.full((3,), torch.nan)}
    if mllm.family.name == "llava_next":
        options["vision_feature_select_strategy"] = "default"
    else:
        options["vision_aspect_ratio"] = model.config.vision_aspect_ratio
    features, _ = model.pack_image_features(per_image, sizes, **options)
    return torch.cat(list(features))


def check_views(name, grid):
    """Each view is a grid without overlap, without gaps, and over the whole image.

    Except that the tower drops the remainder of tiles, that LLaVA-1.5 crops, and that LLaVA-NeXT
    and OneVision may cut off less than a token with the padding.
    """
    width, height = grid.image_size
    for number, view in enumerate(grid.views):
        boxes = grid.boxes[view] / [width, height, width, height]
        (x0, x1), (y0, y1) = boxes[0, :, [0, 2]], boxes[:, 0, [1, 3]].T
        assert (boxes[..., [0, 2]] == np.stack([x0, x1], -1)).all()
        assert (boxes[..., [1, 3]] == np.stack([y0, y1], -1)[:, None]).all()
        for low, high in ((x0, x1), (y0, y1)):
            assert (high > low).all() and (low[1:] - high[:-1] > -1e-9).all()
            if "remainder" in name:
                continue
            assert np.allclose(low[1:], high[:-1], atol=1e-9)
            if "onevision" in name or "next" in name:
                assert low[0] < (high - low)[0] * (number > 0) + 1e-9
                assert 1 - high[-1] < (high - low)[0] * (number > 0) + 1e-9
            elif name != "llava":
                assert np.allclose([low[0], high[-1]], [0, 1], atol=1e-9) or "padded" in name


@pytest.mark.parametrize("name", VARIANTS)
def test_boxes_are_where_the_processor_took_its_pixels(name):
    """100 random sizes per way of cutting: as many boxes as tokens, and each in its place."""
    mllm = variant(name)
    settings = mllm.processor.image_processor
    n_sizes = 30 if " " in name or name in ("smolvlm", *MORE_FAMILIES) else 100
    sizes = [*random_sizes(n_sizes), *EXTREME]
    if mllm.family.name == "idefics3" and not resizes_one_column():
        shrunk = settings.size["longest_edge"]
        sizes = [(w, h) for w, h in sizes if w * shrunk / max(w, h) >= 2]
        assert len(sizes) > n_sizes / 2
    for width, height in sizes:
        encoded = encode(mllm, ramp(width, height), "What color?")
        (grid,) = encoded.layout.grids
        where = f"{name} {width} x {height}"
        assert grid.image_size == (width, height)
        placeholders = int((encoded.input_ids == mllm.image_token_id).sum())
        assert grid.n_placeholders == placeholders == len(grid) + len(encoded.layout.newlines)
        check_views(name, grid)
        x0, y0, x1, y1 = grid.boxes.T
        inside = (x0 > -1e-6) & (y0 > -1e-6) & (x1 < width + 1e-6) & (y1 < height + 1e-6)
        colours = token_colours(mllm, encoded)
        # Resampling clamps within half a pixel of the edge and rounds to 256 levels; resampled
        # tokens beside the remainder of a tile are a little off centre.
        for axis, (low, high, size) in enumerate(((x0, x1, width), (y0, y1, height))):
            error = np.abs(colours[:, axis] - (low + high) / 2 / size)[inside]
            left = size
            if mllm.family.name == "idefics3":  # makes the longer side this long first
                left = min(size, max(1, size * settings.size["longest_edge"] / max(width, height)))
            gap = 0.02 if "remainder" in name else 0.0
            assert error.max(initial=0) < 0.6 / left + 0.012 + gap, where


@pytest.mark.parametrize("name", VARIANTS)
def test_painting_a_box_moves_its_own_token_most(name):
    """Every token of those drawn, in every view."""
    mllm = variant(name) if " " in name else shared_family(name)
    for number, size in enumerate([(96, 64), (64, 130)][: 1 if " " in name else 2]):
        image = noise_image(*size, 3)
        (grid,) = encode(mllm, image, "").layout.grids
        places = paintable_tokens(grid, 8, seed=number)
        found = painted_tokens(mllm, image, places)
        assert found["token"].tolist() == places.tolist()
        assert len(found) == 8 and set(found["view"]) == set(range(len(grid.views)))
        assert found["hit"].all(), found[~found["hit"]]
        assert (found["shift"] > found["runner_up"]).all()


@pytest.mark.parametrize("name", ["internvl", "llava_next", "idefics3", "qwen3_vl"])
def test_painting_catches_a_wrong_order(name):
    """Boxes in reading order of the picture where the tokens come tile by tile, or mirrored."""
    mllm = shared_family(name)

    def wrong(prompt):
        (grid,) = mllm.family.grids(prompt)
        order = np.concatenate([np.fliplr(view).ravel() for view in grid.views])
        if name in ("internvl", "idefics3"):
            order = np.concatenate([view.ravel() for view in grid.views])
        places = np.concatenate([np.sort(view.ravel()) for view in grid.views])
        boxes = grid.boxes.copy()
        boxes[places] = grid.boxes[order]
        views = [np.sort(view.ravel()).reshape(view.shape) for view in grid.views]
        return (dataclasses.replace(grid, boxes=boxes, views=tuple(views)),)

    broken = dataclasses.replace(mllm, family=dataclasses.replace(mllm.family, grids=wrong))
    found = painted_tokens(broken, noise_image(200, 96, 3), range(0, 32, 4))
    assert found["hit"].mean() < 0.8


@pytest.mark.parametrize("name", FAMILY_NAMES + MORE_FAMILIES)
def test_ids_are_the_processors_own(name):
    mllm = shared_family(name)
    images = [noise_image(96, 64), noise_image(40, 50)]
    for given in (images[:1], images):
        encoded = encode(mllm, given, "What color?", mode="direct")
        messages = build_messages("What color?", "direct", n_images=len(given))
        for part, image in zip(messages[0]["content"], given, strict=False):
            part["image"] = image
        expected = mllm.processor.apply_chat_template(
            messages,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        assert torch.equal(encoded.input_ids, expected["input_ids"][0])
        for key, tensor in encoded.vision.items():
            assert torch.equal(tensor, expected[key]), key
        if mllm.family.token_types is not None:
            assert torch.equal(encoded.token_types, expected[mllm.family.token_types][0])
        start = mllm.tokenizer.bos_token_id
        if start is not None:
            assert encoded.input_ids[0] == start != encoded.input_ids[1]


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_several_images_in_one_prompt(name):
    """One grid per image, in order: painting a token of the second moves that token."""
    mllm = shared_family(name)
    first, second = noise_image(64, 96, 1), noise_image(120, 60, 2)
    plain = encode(mllm, [first, second], "What color?", response=RESPONSE)
    layout = plain.layout
    assert [grid.image_size for grid in layout.grids] == [(64, 96), (120, 60)]
    assert len(layout.image) == sum(len(grid) for grid in layout.grids)
    assert layout.n_steps == 2 and layout.answer is not None
    grid = layout.grids[1]
    for token in paintable_tokens(grid, 4, least=3.0):
        painted = second.copy()
        painted.paste((255, 0, 0), tuple(grid.boxes[token].round().astype(int).tolist()))
        other = encode(mllm, [first, painted], "What color?")
        shift = (image_features(mllm, other) - image_features(mllm, plain)).norm(dim=-1)
        assert not shift[: len(layout.grids[0])].any()
        view = next(view for view in grid.views if token in view).ravel()
        assert view[shift[len(layout.grids[0]) :][view].argmax()] == token


@pytest.fixture(params=[*FAMILY_NAMES, "minicpmv4_6"])
def family(request):
    """A family with items of different sizes, one without image and one with two."""
    mllm = shared_family(request.param)
    items = [
        encode(mllm, noise_image(96, 64, 1), "What color?", response=RESPONSE),
        encode(mllm, noise_image(40, 100, 2), "Start at the star."),
        encode(mllm, None, "What color is the shape you reach?"),
        encode(mllm, [noise_image(40, 40, 3), noise_image(70, 30, 4)], "Start at the star."),
    ]
    return mllm, items


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_a_batch_gives_what_single_items_give(family, side):
    mllm, items = family
    batch = collate(mllm, items, padding_side=side)
    logits = mllm.model(**batch).logits
    for index, item in enumerate(items):
        alone = mllm.model(**collate(mllm, [item])).logits[0]
        together = logits[index][batch["attention_mask"][index].bool()]
        assert torch.allclose(alone, together, atol=5e-4)


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_positions_are_the_models_own(family, side, monkeypatch):
    """Catch the position ids that the rotary embedding of the text stack is given."""
    mllm, items = family
    batch = collate(mllm, items, padding_side=side)
    rotary = mllm.model.model.get_decoder().rotary_emb
    caught, forward = [], rotary.forward

    def spy(x, position_ids, *args, **kwargs):
        caught.append(position_ids)
        return forward(x, position_ids, *args, **kwargs)

    monkeypatch.setattr(rotary, "forward", spy)
    expected = mllm.model(**batch).logits
    found = positions(mllm, batch)
    assert found.numel() > 0 and (found == caught[0]).all()
    assert torch.equal(mllm.model(**batch, position_ids=found).logits, expected)


@torch.no_grad()
def test_generation_of_a_batch_is_that_of_single_items(family):
    mllm, items = family
    prompts = items[1:3]
    together = generate(mllm, prompts, max_new_tokens=4)
    for prompt, expected in zip(prompts, together, strict=True):
        again = dataclasses.replace(
            prompt, input_ids=torch.cat([prompt.input_ids, torch.tensor(expected.ids[:-1]).long()])
        )
        if prompt.token_types is not None:
            types = torch.nn.functional.pad(prompt.token_types, (0, len(expected.ids) - 1))
            again = dataclasses.replace(again, token_types=types)
        logits = mllm.model(**collate(mllm, [again])).logits[0, prompt.prompt_length - 1 :]
        logits[:, [*image_ids(mllm), *mllm.stop_ids]] = -torch.inf
        assert logits[: len(expected.ids)].argmax(-1).tolist() == list(expected.ids)


@pytest.mark.parametrize("name", FAMILY_NAMES + MORE_FAMILIES)
@torch.no_grad()
def test_a_saved_checkpoint_comes_back_through_the_auto_classes(name, tmp_path):
    before = shared_family(name)
    after = load_mllm(save_tiny_family(name, tmp_path), device="cpu")
    assert type(after.model) is type(before.model)
    assert type(after.processor) is type(before.processor)
    assert after.family is before.family and (after.n_layers, after.n_heads) == (3, 4)
    one, other = (
        encode(mllm, noise_image(96, 64), "What color?", response=RESPONSE)
        for mllm in (before, after)
    )
    assert torch.equal(one.input_ids, other.input_ids)
    assert np.array_equal(one.layout.grids[0].boxes, other.layout.grids[0].boxes)
    # Before torchvision 0.27 Lanczos gets another image processor on loading, and other pixels.
    same = type(after.processor.image_processor) is type(before.processor.image_processor)
    first = before.model(**collate(before, [one])).logits
    again = after.model(**collate(after, [other if same else one])).logits
    assert torch.allclose(first, again, atol=1e-5)


PUBLISHED = {
    # Image processor, processor, configuration; per size the shapes of the views.
    "internvl": (
        {"size": {"height": 448, "width": 448}, "max_patches": 12},
        {"image_seq_length": 256},
        {"patch_size": (14, 14)},
        {
            (1000, 500): [(16, 32), (16, 16)],
            (448, 448): [(16, 16)],
            (700, 900): [(64, 48), (16, 16)],
        },
    ),
    "llava": (
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
        {"patch_size": 14},
        {"patch_size": 14},
        {(1000, 500): [(24, 24)]},
    ),
    "llava_next": (
        {
            "size": {"shortest_edge": 336},
            "crop_size": {"height": 336, "width": 336},
            "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        },
        {"patch_size": 14},
        {"patch_size": 14},
        {(1000, 500): [(24, 24), (24, 48)], (640, 480): [(24, 24), (36, 48)]},
    ),
    "llava_onevision": (
        {
            "size": {"height": 384, "width": 384},
            "image_grid_pinpoints": [[384 * r, 384 * c] for r in range(1, 7) for c in range(1, 7)],
        },
        {"num_image_tokens": 729, "vision_aspect_ratio": "anyres_max_9"},
        {"patch_size": 14},
        {(640, 480): [(27, 27), (40, 54)], (2000, 2000): [(27, 27), (81, 81)]},
    ),
    "gemma3": (
        {"size": {"height": 896, "width": 896}},
        {"full_image_sequence": "<image_soft_token>" * 256, "image_seq_length": 256},
        {"patch_size": 14},
        {(1000, 500): [(16, 16)]},
    ),
    "idefics3": (
        {"size": {"longest_edge": 1456}, "max_image_size": {"longest_edge": 364}},
        {"image_seq_len": 169},
        {"patch_size": 14},
        {(1000, 500): [(26, 52), (13, 13)]},
    ),
    "smolvlm": (
        {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}},
        {"image_seq_len": 81},
        {"patch_size": 14, "scale_factor": 3},
        {(1000, 500): [(18, 36), (9, 9)]},
    ),
}
"""Settings of published checkpoints, and the views that they make of pictures of some sizes."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    image, processor, vision, expected = PUBLISHED[name]
    tiny = tiny_family(name, **image)
    for key, value in processor.items():
        setattr(tiny.processor, key, value)
    config = copy.deepcopy(tiny.model.config)
    for key, value in vision.items():
        setattr(config if key == "scale_factor" else config.vision_config, key, value)
    mllm = dataclasses.replace(tiny, model=SimpleNamespace(config=config))
    for size, views in expected.items():
        layout = encode(mllm, noise_image(*size), "What color?").layout
        assert [view.shape for view in layout.grids[0].views] == views
        # Near the middle of the picture lies the middle of every view.
        (grid,) = layout.grids
        for view in grid.views:
            middle = grid.boxes[view.ravel()].reshape(-1, 2, 2).mean((0, 1))
            assert np.allclose(middle / size, 0.5, atol=0.02)


def test_all_model_types_have_a_tiny_checkpoint():
    kinds = {kind for family in FAMILIES for kind in family.model_types}
    assert kinds | {"pixtral"} == {
        *FAMILY_NAMES,
        *MORE_FAMILIES,
    }


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_newlines_are_no_visual_tokens(name):
    """They stand behind each row of the fine view, in the question, and in no grid."""
    mllm = shared_family(name)
    layout = encode(mllm, noise_image(96, 64), "What color?").layout
    (grid,) = layout.grids
    rows, cols = grid.views[1].shape
    first = layout.image[grid.views[1][0, 0]]
    assert layout.newlines.tolist() == [first + cols + row * (cols + 1) for row in range(rows)]
    assert not set(layout.newlines) & set(layout.image)
    assert set(layout.newlines) <= set(layout.question)
    prompt = np.concatenate([layout.system, layout.image, layout.question])
    assert np.sort(prompt).tolist() == list(range(layout.response.start))


def test_gemma3_lets_an_image_see_itself_in_both_directions():
    """Without token types the image block would be causal: they must be in every batch."""
    mllm = shared_family("gemma3")
    encoded = encode(mllm, noise_image(64, 64), "What color?", response=RESPONSE)
    blank = encode(mllm, None, "What color?")
    assert encoded.token_types[encoded.layout.image].eq(1).all()
    assert encoded.token_types.sum() == len(encoded.layout.image) and not blank.token_types.any()
    batch = collate(mllm, [encoded, blank])
    with torch.no_grad():
        right = mllm.model(**batch).logits
        batch.pop("token_type_ids")
        assert not torch.allclose(right, mllm.model(**batch).logits, atol=1e-2)


def test_both_spellings_of_an_image_are_refused_in_questions():
    mllm = shared_family("gemma3")
    for placeholder in ("<start_of_image>", "<image_soft_token>"):
        with pytest.raises(LayoutError, match=f"holds the image placeholder '{placeholder}'"):
            encode(mllm, noise_image(64, 64), f"What is {placeholder}?")


def refusal(match, name, spoil=lambda processor: None, **changes):
    mllm = tiny_family(name, **changes)
    spoil(mllm.processor)
    with pytest.raises(LayoutError, match=match):
        encode(mllm, noise_image(96, 64), "What color?")


def test_processors_that_do_something_else_are_refused():
    def pan_and_scan(processor):
        options = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 16}
        merged = processor._merge_kwargs

        def merge(*args, **kwargs):
            found = merged(*args, **kwargs)
            return {**found, "images_kwargs": {**found["images_kwargs"], **options}}

        processor._merge_kwargs = merge

    def short(processor):
        processor.image_seq_length = 9

    def untagged(processor):
        processor.replace_image_token = lambda *_, **__: "<image>" * 16

    refusal("pan and scan is not supported", "gemma3", pan_and_scan)
    refusal("resizes to", "llava", size={"max_height": 32, "max_width": 32})
    refusal("do not fit each other", "llava_next", size={"shortest_edge": 24})
    refusal("9 tokens of 8 pixels make no square tile", "internvl", short)
    refusal("0 whole images", "idefics3", untagged)


def test_processor_output_of_another_image_is_refused():
    mllm = shared_family("llava")
    encoded = encode(mllm, noise_image(96, 64), "What color?")
    prompt = ProcessedPrompt(
        mllm.processor,
        mllm.model.config,
        encoded.input_ids.numpy(),
        mllm.image_token_id,
        {"pixel_values": torch.zeros(1, 3, 32, 40)},
        [(96, 64)],
    )
    with pytest.raises(LayoutError, match=r"is \(40, 32\) and not \(32, 32\) pixels"):
        mllm.family.grids(prompt)
