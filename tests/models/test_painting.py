"""Painting one token's pixels: what is painted, what the table says, what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from families import shared_family
from PIL import Image
from tiny import noise_image

from attcot_analysis.errors import LayoutError
from attcot_analysis.measures.painting import image_features, paintable_tokens, painted_tokens
from attcot_analysis.models import TokenGrid, encode


@torch.no_grad()
def test_the_table_says_what_a_loop_by_hand_finds(random_mllm):
    image = noise_image(96, 64, 5)
    table = painted_tokens(random_mllm, image, [3, 20])
    assert list(table.columns) == ["token", "view", "moved", "hit", "shift", "runner_up"]
    plain = image_features(random_mllm, encode(random_mllm, image, ""))
    assert plain.shape == (24, 64)
    for row in table.itertuples():
        left, top = row.token % 6 * 16, row.token // 6 * 16
        box = (left, top, left + 16, top + 16)
        mean = np.asarray(image.crop(box)).mean((0, 1))
        painted = image.copy()
        painted.paste(tuple(int(255 * (channel <= 127.5)) for channel in mean), box)
        shift = (image_features(random_mllm, encode(random_mllm, painted, "")) - plain).norm(dim=-1)
        assert np.isclose(row.shift, shift[row.token]) and row.moved == int(shift.argmax())
        shift[row.token] = 0
        assert np.isclose(row.runner_up, shift.max())
        assert row.hit == (row.moved == row.token) and row.view == 0


def test_features_follow_the_sequence_without_newlines():
    """The rows are those that stand at the image tokens of the input embeddings."""
    mllm = shared_family("llava_next")
    encoded = encode(mllm, [noise_image(96, 64, 1), noise_image(40, 90, 2)], "What color?")
    caught = []
    decoder = mllm.model.model.get_decoder()
    handle = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        mllm.model(input_ids=encoded.input_ids[None], **encoded.vision)
    handle.remove()
    placed = caught[0][0, torch.from_numpy(encoded.layout.image)]
    assert torch.allclose(image_features(mllm, encoded), placed, atol=1e-6)
    lines = caught[0][0, torch.from_numpy(encoded.layout.newlines)]
    assert torch.equal(lines, mllm.model.model.image_newline.expand(lines.shape))


def test_paintable_tokens_lie_inside_and_are_drawn_from_every_view():
    coarse = TokenGrid.regular((40, 20), 2, 2).boxes.reshape(2, 2, 4)
    fine = TokenGrid.regular((40, 20), 10, 20).boxes.reshape(10, 20, 4) - [1, 0, 1, 0]
    views = [(coarse, np.arange(4).reshape(2, 2)), (fine, 4 + np.arange(200).reshape(10, 20))]
    grid = TokenGrid.of_views((40, 20), views, 204)
    assert set(paintable_tokens(grid)) == set(range(204)) - set(grid.views[1][:, 0])
    drawn = paintable_tokens(grid, 10, seed=1)
    assert len(drawn) == 10 and set(range(4)) <= set(drawn)
    assert np.array_equal(drawn, paintable_tokens(grid, 10, seed=1))
    assert not np.array_equal(drawn, paintable_tokens(grid, 10, seed=2))
    assert set(paintable_tokens(grid, least=3)) == set(range(4))


def test_what_cannot_be_painted_is_refused(random_mllm):
    image = noise_image(96, 64)
    with pytest.raises(LayoutError, match="no token 24 to paint; the image has 24"):
        painted_tokens(random_mllm, image, [24])
    with pytest.raises(LayoutError, match="Token 0 has no whole pixel"):
        painted_tokens(shared_family("llava_next"), Image.new("RGB", (2, 2)), [0])
    blind = encode(random_mllm, None, "What color?")
    with pytest.raises(LayoutError, match="text-only prompt has no image features"):
        image_features(random_mllm, blind)
    plain = encode(random_mllm, image, "")
    other = encode(random_mllm, noise_image(64, 64), "")
    with pytest.raises(LayoutError, match="makes 16 image features for 24 image tokens"):
        image_features(random_mllm, dataclasses.replace(plain, vision=other.vision))
