"""Fills of a region: what changes, what stays, and whether the residual tells one from another."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems.fills import (
    FILLS,
    bounding_box,
    lab,
    mask_of,
    occluded,
    residual,
    rgb,
    shuffled,
)

BOX = (40, 30, 88, 70)


def photo(seed=0):
    """A textured, unevenly lit ground with a red, striped disc in `BOX`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :128]
    ground = 90 + 0.5 * x + 0.3 * y + 12 * np.sin(x / 3) * np.sin(y / 4)
    pixels = ground[..., None] + np.array([0, 12, 4]) + rng.normal(0, 4, (96, 128, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((44, 34, 84, 66), fill=(210, 30, 30))
    for at in range(48, 82, 6):
        draw.line((at, 40, at, 60), fill=(250, 230, 60), width=2)
    return image


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("fill", FILLS)
def test_a_fill_changes_the_region_and_no_pixel_outside(fill):
    image = photo()
    mask = np.zeros((96, 128), dtype=bool)
    mask[30:70, 40:60] = mask[30:40, 60:88] = True
    shown = occluded(image, mask, fill, seed=3)
    changed = (pixels(image) != pixels(shown)).any(axis=-1)
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.6
    assert pixels(shown).tolist() == pixels(occluded(image, mask, fill, seed=3)).tolist()


@pytest.mark.parametrize("fill", ["mean", "grey", "noise", "telea", "navier_stokes"])
def test_what_is_filled_is_gone_and_what_is_not_is_all_there(fill):
    image = photo()
    gone = residual(image, occluded(image, [BOX], fill), [BOX])
    assert gone.edges < 0.1 and gone.colours < 0.35
    assert gone.area == pytest.approx(48 * 40 / (96 * 128))
    there = residual(image, image, [BOX])
    assert there.edges == there.colours == 1
    assert there.unnatural < 0.15
    elsewhere = residual(image, occluded(image, [(0, 0, 30, 20)], fill), [BOX])
    assert elsewhere.edges == elsewhere.colours == 1


def test_the_residual_grows_with_what_is_left():
    image = photo()
    left = [
        residual(image, Image.blend(image, occluded(image, [BOX]), share), [BOX])
        for share in (0.2, 0.5, 0.8)
    ]
    assert [one.edges for one in left] == pytest.approx([0.8, 0.5, 0.2], abs=0.12)
    assert left[0].colours > left[1].colours > left[2].colours


def test_a_blurred_object_loses_its_edges_and_keeps_its_colour():
    image = photo()
    blurred = residual(image, occluded(image, [BOX], "blur"), [BOX])
    filled = residual(image, occluded(image, [BOX], "telea"), [BOX])
    assert blurred.edges < 0.1
    assert blurred.colours > 0.4 > filled.colours


def test_flat_and_noisy_fills_leave_the_pictures_range_and_its_own_texture_does_not():
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(128, 192)), 3)
    values = (128 + 300 * smooth).clip(0, 255).astype(np.uint8)
    image, box = Image.fromarray(values).convert("RGB"), (96, 32, 168, 104)

    def unnatural(fill):
        return residual(image, occluded(image, [box], fill), [box]).unnatural

    def moved(pixels, mask, rng):
        return np.roll(pixels, 72, axis=1)

    assert unnatural("mean") > 0.5 and unnatural("noise") > 0.5
    assert unnatural(moved) < 0.3


def test_a_region_with_nothing_to_lose_has_no_residual():
    image = Image.new("RGB", (64, 64), (120, 140, 90))
    one = residual(image, occluded(image, [(8, 8, 40, 40)], "noise"), [(8, 8, 40, 40)])
    assert np.isnan(one.edges) and np.isnan(one.colours)
    assert "none to lose" in str(one)


def test_a_function_is_a_fill_whatever_its_size_and_touches_the_region_only():
    image = photo()
    asked = {}

    def diffusion(pixels, mask, rng):
        asked.update(shape=pixels.shape, hidden=int(mask.sum()))
        return Image.new("RGB", (64, 48), "blue")

    shown = occluded(image, [BOX], diffusion)
    assert asked == {"shape": (96, 128, 3), "hidden": 48 * 40}
    assert pixels(shown)[50, 60].tolist() == [0, 0, 255]
    assert (pixels(shown)[:30] == pixels(image)[:30]).all()


def test_patches_change_places_and_none_is_lost():
    picture = np.random.default_rng(0).integers(0, 255, (67, 83, 3), dtype=np.uint8)
    moved = shuffled(picture, np.random.default_rng(1))
    assert (moved != picture).any()
    assert (moved[64:] == picture[64:]).all() and (moved[:, 80:] == picture[:, 80:]).all()

    def patches(image):
        return sorted(
            image[y : y + 8, x : x + 10].tobytes()
            for y in range(0, 64, 8)
            for x in range(0, 80, 10)
        )

    assert patches(moved) == patches(picture)


def test_colours_go_to_cielab_and_back():
    """White, black and sRGB red as published (D65): L* 53.2, a* 80.1, b* 67.2."""
    known = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0]]], dtype=np.uint8)
    found = lab(known)
    assert found[0] == pytest.approx(
        np.array([[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2]]), abs=0.2
    )
    picture = pixels(photo()).astype(np.uint8)
    assert np.abs(rgb(lab(picture)).astype(int) - picture).max() <= 1


def test_masks_and_boxes_say_the_same():
    mask = mask_of([(3, 4, 10, 9), (8, 2, 12, 6)], (20, 15))
    assert bounding_box(mask) == (3, 2, 12, 9)
    assert mask.sum() == 7 * 5 + 4 * 4 - 2 * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: occluded(photo(), [BOX], "black"), "Fill is 'black'"),
        (lambda: occluded(photo(), np.ones((4, 4), dtype=bool)), "The mask is 4x4"),
        (lambda: occluded(photo(), [(0, 0, 128, 96)], "telea"), "is the whole picture"),
        (lambda: residual(photo(), Image.new("RGB", (4, 4)), [BOX]), "The edited picture is 4x4"),
        (lambda: residual(photo(), photo(), []), "The region is empty"),
    ],
)
def test_what_cannot_be_filled_is_one_sentence(call, message):
    with pytest.raises(MeasureError, match=message):
        call()
