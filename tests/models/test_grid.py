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


def two_views():
    """A coarse view of 2 x 2 and a fine one of 2 x 4 tokens, in the order of two tiles."""
    coarse = TokenGrid.regular((40, 20), 2, 2).boxes.reshape(2, 2, 4)
    fine = TokenGrid.regular((40, 20), 2, 4).boxes.reshape(2, 4, 4)
    tiles = np.array([[0, 1, 4, 5], [2, 3, 6, 7]])
    return TokenGrid.of_views(
        (40, 20), [(fine, tiles), (coarse, 8 + np.arange(4).reshape(2, 2))], 12
    )


def test_views_hold_tokens_where_they_lie():
    grid = two_views()
    assert grid.shape is None and grid.resolution == (2, 4) and grid.n_placeholders == 12
    assert [view.shape for view in grid.views] == [(2, 4), (2, 2)]
    assert grid.boxes[4].tolist() == [20, 0, 30, 10] and grid.boxes[2].tolist() == [0, 10, 10, 20]
    assert grid.views[0][1].tolist() == [2, 3, 6, 7]
    values = np.arange(12.0)
    whole = grid.to_map(values)
    assert whole.shape == (2, 4) and np.isclose(whole.sum(), values.sum())
    assert grid.to_canvas(values, 2, 4, view=0).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert grid.to_canvas(values, 2, 4, view=1)[0].tolist() == [4, 4, 4.5, 4.5]
    assert np.allclose(grid.to_canvas(values, 1, 1), [[66]])


def test_one_view_in_reading_order_is_a_plain_grid():
    boxes = TokenGrid.regular((40, 20), 2, 4).boxes.reshape(2, 4, 4)
    order = np.arange(8).reshape(2, 4)
    assert TokenGrid.of_views((40, 20), [(boxes, order)], 8).shape == (2, 4)
    assert TokenGrid.of_views((40, 20), [(boxes, order[::-1])], 8).shape is None
    # A crop: tokens do not cover the image, so their grid may not be stretched over it.
    assert TokenGrid.of_views((60, 20), [(boxes, order)], 8).shape is None
    empty = (boxes[:, :0], order[:, :0])
    assert len(TokenGrid.of_views((40, 20), [(boxes, order), empty], 8).views) == 1


def test_newlines_have_slots_but_no_boxes():
    boxes = TokenGrid.regular((20, 20), 2, 2).boxes.reshape(2, 2, 4)
    grid = TokenGrid.of_views((20, 20), [(boxes, np.array([[0, 1], [3, 4]]))], 6)
    assert grid.placeholders.tolist() == [0, 1, 3, 4] and grid.n_placeholders == 6
    assert len(grid) == 4 and grid.shape == (2, 2)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(*[st.integers(-12, 43)] * 4), min_size=1, max_size=5),
    st.sampled_from([(1, 1), (2, 4), (8, 16)]),
)
def test_canvas_equals_counting_pixels(corners, shape):
    """Boxes with whole corners, also beyond the image: each value spread over its pixels."""
    width, height = 32, 16
    boxes = [(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in corners]
    grid = TokenGrid((width, height), np.array(boxes, dtype=float))
    values = np.arange(1.0, len(boxes) + 1)
    pixels = np.zeros((height + 60, width + 60))
    for value, (x0, y0, x1, y1) in zip(values, boxes, strict=True):
        pixels[y0 + 20 : y1 + 20, x0 + 20 : x1 + 20] += value / ((x1 - x0) * (y1 - y0))
    pixels = pixels[20 : 20 + height, 20 : 20 + width]
    rows, cols = shape
    expected = pixels.reshape(rows, height // rows, cols, width // cols).sum((1, 3))
    assert np.allclose(grid.to_canvas(values, rows, cols), expected)
    both = grid.to_canvas(np.stack([values, 2 * values]), rows, cols)
    assert np.allclose(both[1], 2 * expected)


def test_parts_that_do_not_fit_are_refused():
    grid = two_views()
    with pytest.raises(LayoutError, match="11 tokens do not fit a grid of 12"):
        grid.to_map(np.zeros(11))
    with pytest.raises(LayoutError, match="1 tokens do not fit"):
        grid.to_canvas(0.5, 2, 2)
    with pytest.raises(LayoutError, match="no view 2; this grid has 2"):
        grid.to_canvas(np.zeros(12), 2, 2, view=2)
    with pytest.raises(LayoutError, match="hold 8 places for 12 tokens"):
        dataclasses.replace(grid, views=grid.views[:1])
    with pytest.raises(LayoutError, match="one slot per box"):
        dataclasses.replace(grid, n_slots=11)


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
    Config.model_type = "paligemma"
    with pytest.raises(ModelError, match=r"no chat template, .* caps its attention scores"):
        family_of(Config())
    assert family_of(random_mllm.model.config).name == "qwen2_5_vl"
