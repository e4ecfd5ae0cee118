"""What pictures cost: limits by family, what is said of them, and image processors that mislead."""

import json
import shutil
import warnings

import numpy as np
import pytest
from families import FAMILY_NAMES, save_tiny_family, shared_family, tiny_family
from PIL import Image
from real import CHECKPOINTS, needs_real_files, real_files

from attcot_analysis.doctor import examine
from attcot_analysis.errors import ModelError
from attcot_analysis.measures.check import check_model
from attcot_analysis.models import encode, load_mllm, picture_cost
from attcot_analysis.models.load import load_processor
from attcot_analysis.models.picture_cost import SIZES, describe_cost, image_tokens
from attcot_analysis.models.processors import limit_pictures, overridden_tiles
from attcot_analysis.runs.provenance import model_record

BIG = (2000, 1500)
SHAPES = [BIG, (120, 90), (640, 480), (1500, 300), (300, 1500), (37, 41)]

COSTS = {
    "qwen2_5_vl": (3834, {"max_pixels": 602112}, 768),
    "qwen3_vl": (2914, {"max_pixels": 602112}, 588),
    "qwen3_vl_thinking": (2914, {"max_pixels": 65536}, 54),
    "internvl3": (3328, {"max_patches": 6}, 1792),
    "llava_next_mistral": (2340, {"max_patches": 2}, 1368),
    "llava_onevision": (7309, {"max_patches": 4}, 2929),
    "idefics3_8b": (2197, {"max_patches": 4}, 845),
    "idefics3_granite": (832, {"max_patches": 9}, 640),
    "smolvlm2": (832, {"max_patches": 1}, 64),
}
"""Tokens of a big picture as the checkpoint ships, a limit, and tokens then."""

FIXED = {"gemma3": 256, "llava15": 576}
"""Checkpoints with so many tokens for any picture."""


def test_every_checkpoint_is_tried():
    assert {*COSTS, *FIXED} == set(CHECKPOINTS)


@needs_real_files
@pytest.mark.parametrize("name", COSTS)
def test_a_limit_limits_what_published_processors_make(name):
    before, limits, after = COSTS[name]
    folder = real_files() / name
    plain, limited = load_processor(folder), load_processor(folder, **limits)
    assert limited.limits == limits and not plain.limits
    assert image_tokens(plain, BIG) == before and image_tokens(limited, BIG) == after
    ((what, most),) = limits.items()
    for size in SHAPES:
        tokens = image_tokens(limited, size)
        assert tokens <= image_tokens(plain, size)
        if what == "max_pixels":
            images = limited.processor.image_processor
            assert tokens * (images.patch_size * images.merge_size) ** 2 <= most
        else:
            # A tile of each family, the whole picture, and the tokens that end rows.
            tile = {"internvl": 256, "llava_next": 576, "llava_onevision": 729}
            per_tile = tile.get(limited.family.name) or limited.processor.image_seq_len
            rows = 0 if limited.family.name in ("internvl", "idefics3") else 27 * most
            assert tokens <= per_tile * (most + 1) + rows


@needs_real_files
@pytest.mark.parametrize("name", FIXED)
def test_where_every_picture_costs_the_same_a_limit_is_refused(name):
    mllm = load_processor(real_files() / name)
    assert {image_tokens(mllm, size) for size in SHAPES} == {FIXED[name]}
    assert describe_cost(mllm, SHAPES) == f"Image tokens per picture: {FIXED[name]}."
    for limit in ("max_pixels", "max_patches"):
        with pytest.raises(ModelError, match=rf"{limit} does not limit .*; leave it out, all cost"):
            load_processor(real_files() / name, **{limit: 1000})


LIMITS = {
    "qwen2_5_vl": {"max_pixels": 16 * 256},
    "qwen3_vl": {"max_pixels": 30 * 256},
    "internvl": {"max_patches": 3},
    "llava_next": {"max_patches": 2},
    "llava_onevision": {"max_patches": 2},
    "idefics3": {"max_patches": 3},
    "smolvlm": {"max_patches": 1},
}


@pytest.mark.parametrize("name", LIMITS)
def test_boxes_and_attention_of_a_limited_model_hold(name, tmp_path):
    """The checks paint single boxes and compare with the processor and the tower."""
    folder = save_tiny_family(name, tmp_path / name)
    mllm = load_mllm(folder, device="cpu", **LIMITS[name])
    size = (300, 200)
    assert image_tokens(mllm, size) < image_tokens(shared_family(name), size)
    found = check_model(mllm)
    assert found.holds, str(found)
    # What is saved keeps its limit, as a checkpoint that was trained with it must.
    mllm.model.save_pretrained(tmp_path / "saved")
    mllm.processor.save_pretrained(tmp_path / "saved")
    again = load_mllm(tmp_path / "saved", device="cpu")
    assert image_tokens(again, size) == image_tokens(mllm, size) and not again.limits


def test_small_pictures_cost_no_more_than_the_limit():
    """They are enlarged to the least number of pixels, rounded up to whole tokens."""
    mllm = shared_family("qwen3_vl")
    draw = np.random.default_rng(0)
    for name, most in zip(2 * ["qwen3_vl", "glm4v"], (256, 2560, 5000, 30000), strict=True):
        other = tiny_family(name)
        limits = {"max_pixels": most, "max_patches": None}
        limit_pictures(other.family, other.processor, other.model.config, limits)
        for _ in range(40):
            width = int(draw.integers(20, 400))
            size = (width, int(width * draw.uniform(0.5, 2)))
            assert image_tokens(other, size) * 256 <= most
    assert image_tokens(mllm, (20, 20)) == 4
    limits = {"max_pixels": 256 * 100, "max_patches": None}
    for name in ("qwen3_vl", "glm4v"):
        other = tiny_family(name)
        limit_pictures(other.family, other.processor, other.model.config, limits)
        assert image_tokens(other, (900, 900)) == 100


def test_limits_of_another_kind_or_size_are_refused():
    family = shared_family("internvl").family

    def limited(name, **limits):
        mllm = tiny_family(name)
        limit_pictures(mllm.family, mllm.processor, mllm.model.config, limits)

    with pytest.raises(ModelError, match=r"max_pixels .* in family internvl; give max_patches"):
        limited("internvl", max_pixels=10**6)
    with pytest.raises(ModelError, match=r"max_patches .* in family qwen3_vl; give max_pixels"):
        limited("qwen3_vl", max_patches=2)
    with pytest.raises(ModelError, match=r"max_pixels is 100, and one image token .* for 256"):
        limited("qwen3_vl", max_pixels=100)
    with pytest.raises(ModelError, match="max_patches is 0; give at least 1"):
        limited("internvl", max_patches=0)
    with pytest.raises(ModelError, match=r"max_patches is 1, and the smallest .* 2 tiles"):
        pinpoints = {"image_grid_pinpoints": [[32, 64], [64, 64]]}
        mllm = tiny_family("llava_next", **pinpoints)
        limit_pictures(mllm.family, mllm.processor, mllm.model.config, {"max_patches": 1})
    assert family.limits


def test_a_limit_is_part_of_the_record(tmp_path):
    folder = save_tiny_family("internvl", tmp_path / "model")
    plain = model_record(load_mllm(folder, device="cpu"))
    limited = model_record(load_mllm(folder, device="cpu", max_patches=2))
    assert "limits" not in plain and limited["limits"] == {"max_patches": 2}
    assert plain["loaded"]["processor"] != limited["loaded"]["processor"]


# --- what is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fine"), [("ovis2", 32), ("lfm2_vl", 32), ("molmo2", 12), ("minicpmv4_6", 18)]
)
def test_fewer_tiles_make_fewer_tokens(name, fine, tmp_path):
    mllm = load_mllm(save_tiny_family(name, tmp_path / name), device="cpu", max_patches=2)
    (grid,) = encode(mllm, Image.effect_noise((300, 200), 50).convert("RGB"), "What?").layout.grids
    assert fine in {view.size for view in grid.views}
    assert image_tokens(mllm, (300, 200)) == len(grid)
    assert len(grid) < image_tokens(shared_family(name), (300, 200))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_tokens_of_a_size_are_those_of_a_picture_of_that_size(name):
    mllm = shared_family(name)
    picture = Image.effect_noise((90, 70), 50).convert("RGB")
    encoded = encode(mllm, picture, "What color?")
    found = (encoded.input_ids == mllm.image_token_id).sum()
    assert image_tokens(mllm, picture.size) == int(found)


def test_the_line_says_least_median_and_most_of_few_sizes(monkeypatch):
    mllm = shared_family("qwen3_vl")
    sizes = [(32, 32), (64, 64), (64, 64), (160, 160)]
    assert describe_cost(mllm, sizes) == "Image tokens per picture: 4 to 100, median 16."
    assert describe_cost(mllm, sizes[1:3]) == "Image tokens per picture: 16."
    asked = []

    def counted(mllm, size):
        asked.append(size)
        return size[0]

    monkeypatch.setattr(picture_cost, "image_tokens", counted)
    many = [(width, 10) for width in range(1, 1002)]
    assert describe_cost(mllm, many) == (
        f"Image tokens per picture: 1 to 1,001, median 501 of {SIZES} sizes."
    )
    assert len(asked) == SIZES


def test_the_doctor_says_what_pictures_cost(tmp_path):
    folder = save_tiny_family("internvl", tmp_path / "model", crop_to_patches=False)
    first, second = (one for one in examine(folder) if one.about == "pictures")
    assert first.word == "ok" and "for 640 x 480" in first.detail
    assert second.word == "note" and "--max-patches" in second.detail
    (only,) = (one for one in examine(folder, max_patches=1) if one.about == "pictures")
    assert "image tokens: 16 for 120 x 90, 16 for 640 x 480, 16 for 1920 x 1080" in only.detail
    (wrong,) = (one for one in examine(folder, max_pixels=9) if one.word == "fails")
    assert "give max_patches" in wrong.detail


# --- image processors that mislead ----------------------------------------------------------------


@needs_real_files
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tiles_that_a_processor_class_turns_on_are_found(name):
    mllm = load_processor(real_files() / name)
    found = overridden_tiles(mllm.family, mllm.processor)
    assert (found is not None) == (name == "internvl3")
    if found:
        assert "becomes 13 tiles and not 1" in found
        assert "crop_to_patches is False and InternVLProcessor sets True" in found
        one = load_processor(real_files() / name, max_patches=1)
        assert overridden_tiles(one.family, one.processor) is None
        assert image_tokens(one, (120, 90)) == 256 < image_tokens(mllm, (120, 90)) == 3328


def test_tiles_that_the_file_does_not_say_are_warned_of_at_loading(tmp_path):
    off = save_tiny_family("internvl", tmp_path / "off", crop_to_patches=False)
    with pytest.warns(UserWarning, match=r"tiles and not 1, .*give max_patches"):
        load_mllm(off, device="cpu")
    on = save_tiny_family("internvl", tmp_path / "on", crop_to_patches=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_mllm(off, device="cpu", max_patches=1)
        load_mllm(off, device="cpu", max_patches=4)
        load_mllm(on, device="cpu")


@pytest.mark.parametrize(
    ("named", "right"),
    [("Qwen2_5_VLImageProcessor", "Qwen2VLImageProcessor"), ("Foo", "Qwen2VLImageProcessor")],
)
def test_an_image_processor_that_does_not_exist_is_renamed(tmp_path, named, right):
    folder = save_tiny_family("qwen2_5_vl", tmp_path / "model")
    whole = folder / "processor_config.json"
    settings = json.loads(whole.read_text())
    images = settings["image_processor"] | {"image_processor_type": named}
    whole.write_text(json.dumps(settings | {"image_processor": images}))
    sentence = rf"image processor {named}, which .* rename image_processor_type to {right},"
    with pytest.raises(ModelError, match=sentence):
        load_mllm(folder)
    # As checkpoints of earlier versions have it.
    whole.unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    with pytest.raises(ModelError, match=sentence):
        load_mllm(folder)


def test_another_damage_is_not_taken_for_a_wrong_name(tmp_path):
    folder = save_tiny_family("qwen2_5_vl", tmp_path / "model")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError) as caught:
        load_mllm(folder)
    assert "rename" not in str(caught.value)
    shutil.rmtree(folder)
