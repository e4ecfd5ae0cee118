"""Which pixels an image token stands for: held against the processor and the vision tower."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import noise_image

from attcot_analysis.errors import LayoutError, ModelError
from attcot_analysis.models import TokenGrid, encode, family_of
from attcot_analysis.models.families import ProcessedPrompt

side = st.integers(9, 400)


def token_pixels(mllm, encoded):
    """Mean normalised colour that the processor put into each token's patches: (N, 3)."""
    rows = encoded.vision["pixel_values"]
    per_token = mllm.processor.image_processor.merge_size**2
    patch = mllm.processor.image_processor.patch_size
    return rows.view(-1, per_token, 3, 2 * patch * patch).mean((1, 3))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(width=side, height=side)
def test_boxes_are_where_the_processor_took_its_patches(random_mllm, width, height):
    """A picture whose colour says where it is: red grows to the right, green downwards."""
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.linspace(0, 255, width)
    ramp[..., 1] = np.linspace(0, 255, height)[:, None]
    encoded = encode(random_mllm, Image.fromarray(ramp), "What color?")
    (grid,) = encoded.layout.grids
    processor = random_mllm.processor.image_processor
    _, rows, cols = (encoded.vision["image_grid_thw"][0] // processor.merge_size).tolist()
    assert grid.image_size == (width, height) and grid.shape == (rows, cols)
    assert len(grid) == len(encoded.layout.image)

    x0, y0, x1, y1 = grid.boxes.T
    assert np.allclose(((x1 - x0) * (y1 - y0)).sum(), width * height)
    assert np.allclose(grid.coverage([(0, 0, width, height)]), 1)
    colour = token_pixels(random_mllm, encoded).numpy() * np.array(processor.image_std)
    colour = colour + np.array(processor.image_mean)
    # Resampling blurs and rounding to 256 levels steps: a few per cent of the side at most.
    assert np.abs(colour[:, 0] - (x0 + x1) / 2 / width).max() < 0.5 / cols + 0.02
    assert np.abs(colour[:, 1] - (y0 + y1) / 2 / height).max() < 0.5 / rows + 0.02
    for axis, n in ((0, cols), (1, rows)):
        if n > 2:
            assert np.corrcoef(colour[:, axis], ((x0 + x1), (y0 + y1))[axis])[0, 1] > 0.99


@pytest.mark.parametrize(("width", "height"), [(96, 96), (160, 64), (75, 130)])
@torch.no_grad()
def test_painting_a_box_moves_its_own_token_most(random_mllm, width, height):
    image = noise_image(width, height, 3)
    plain = encode(random_mllm, image, "What color?")
    (grid,) = plain.layout.grids
    for token in range(0, len(grid), 5):
        x0, y0, x1, y1 = grid.boxes[token]
        painted = image.copy()
        painted.paste((255, 0, 255), (round(x0), round(y0), round(x1), round(y1)))
        moved = encode(random_mllm, painted, "What color?")
        shift = (features(random_mllm, moved) - features(random_mllm, plain)).norm(dim=-1)
        assert int(shift.argmax()) == token


def features(mllm, encoded):
    out = mllm.model.get_image_features(**encoded.vision, return_dict=True).pooler_output
    return torch.cat(list(out))


def test_coverage_counts_the_union_once():
    grid = TokenGrid.regular((30, 20), 2, 3)
    assert grid.boxes[4].tolist() == [10, 10, 20, 20]
    found = grid.coverage([(0, 0, 5, 10), (2.5, 0, 15, 10), (0, 0, 5, 10)])
    assert found.tolist() == [1.0, 0.5, 0, 0, 0, 0]
    assert grid.coverage([(5, 5, 15, 15), (25, 15, 35, 25)]).tolist() == [0.25] * 2 + [0] + [
        0.25,
        0.25,
        0.25,
    ]
    assert grid.coverage([]).tolist() == [0] * 6


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(*[st.integers(0, 39)] * 4), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_coverage_equals_counting_pixels(corners, rows, cols):
    width, height = 8 * cols, 8 * rows
    boxes = [(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in corners]
    painted = np.zeros((height, width))
    for x0, y0, x1, y1 in boxes:
        painted[y0:y1, x0:x1] = 1
    expected = painted.reshape(rows, 8, cols, 8).mean((1, 3)).ravel()
    assert np.allclose(TokenGrid.regular((width, height), rows, cols).coverage(boxes), expected)


def test_maps_are_row_major():
    grid = TokenGrid.regular((30, 20), 2, 3)
    assert grid.to_map(np.arange(12).reshape(2, 6))[1].tolist() == [[6, 7, 8], [9, 10, 11]]
    with pytest.raises(LayoutError, match="5 tokens do not fit a grid of 6"):
        grid.to_map(np.arange(5))
    with pytest.raises(LayoutError, match="do not fill a grid of 2 x 2"):
        TokenGrid((30, 20), grid.boxes, (2, 2))
    with pytest.raises(LayoutError, match="expected \\(number of tokens, 4\\)"):
        TokenGrid((30, 20), grid.boxes[:, :3])


def test_grids_and_images_must_agree_in_number(random_mllm):
    encoded = encode(random_mllm, noise_image(96, 96), "What color?")
    prompt = ProcessedPrompt(
        processor=random_mllm.processor,
        config=random_mllm.model.config,
        ids=encoded.input_ids.numpy(),
        image_token_id=random_mllm.image_token_id,
        vision=encoded.vision,
        image_sizes=[(96, 96)],
    )
    assert prompt.runs == (36,)
    family = random_mllm.family
    with pytest.raises(LayoutError, match="1 image grids for 2 images"):
        family.grids(dataclasses.replace(prompt, image_sizes=[(96, 96)] * 2))
    video = {"image_grid_thw": torch.tensor([[2, 12, 12]])}
    with pytest.raises(LayoutError, match="2 frames"):
        family.grids(dataclasses.replace(prompt, vision=video))


def test_an_unknown_family_is_named(random_mllm):
    class Config:
        model_type = "blip_9"

    with pytest.raises(ModelError, match=r"'blip_9' belongs to no supported family.*qwen2_5_vl"):
        family_of(Config())
    assert family_of(random_mllm.model.config).name == "qwen2_5_vl"
