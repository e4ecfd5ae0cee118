"""`PromptCache`: what is remembered is what would be made anew, in every family."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from families import FAMILY_NAMES, shared_family
from PIL import ImageDraw
from real import CHECKPOINTS, needs_real_files, real_files
from tiny import noise_image

from attcot_analysis.attention.candidates import candidate_tokens
from attcot_analysis.models import PromptCache, encode
from attcot_analysis.models.load import load_processor
from attcot_analysis.problems.pictures import StoredPicture

RESPONSES = (
    None,
    "<think>\n1. The star is in a1.\n2. It is red.\n</think>\n<answer>red</answer>",
    "<think>\n1. Ünï, 漢字, 🙂.\n</think>\n<answer>blue</answer>",
)
PICTURES = (noise_image(64, 96, 1), noise_image(96, 64, 2), noise_image(64, 96, 1))
"""The first and the last are two pictures with the same pixels."""


def encodings(mllm, pictures=PICTURES):
    """Every picture and none, in both modes, with every response."""
    return [
        encode(mllm, picture, "What color is it?", mode=mode, response=response, end=bool(response))
        for response in RESPONSES
        for mode in ("cot", "direct")
        for picture in (*pictures, None)
    ]


def alike(one, other):
    """See that two encodings hold the same, part by part."""
    for name in (field.name for field in fields(one.layout)):
        mine, theirs = getattr(one.layout, name), getattr(other.layout, name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs)
        elif name != "grids":
            assert mine == theirs, name
    for grid, again in zip(one.layout.grids, other.layout.grids, strict=True):
        np.testing.assert_array_equal(grid.placeholders, again.placeholders)
        np.testing.assert_array_equal(grid.boxes, again.boxes)
    assert torch.equal(one.input_ids, other.input_ids)
    assert (one.prompt_length, one.opened) == (other.prompt_length, other.opened)
    assert (one.token_types is None) == (other.token_types is None)
    assert one.token_types is None or torch.equal(one.token_types, other.token_types)
    assert one.vision.keys() == other.vision.keys()
    for name, tensor in one.vision.items():
        torch.testing.assert_close(tensor, other.vision[name], rtol=0, atol=0)


def held_against_plain(mllm, monkeypatch):
    plain = encodings(mllm)
    kind, prepared = type(mllm.processor.image_processor), []
    own = kind.preprocess

    def counting(self, *args, **options):
        prepared.append(args)
        return own(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "preprocess", counting)
        encodings(mllm)
        often, at_once = len(prepared), {}
        for still in (False, True):
            caching = replace(mllm, cache=PromptCache(still=still))
            prepared.clear()
            for _ in range(2):
                for one, other in zip(plain, encodings(caching), strict=True):
                    alike(one, other)
            at_once[still] = len(prepared)
    assert at_once[False] == at_once[True] == 2 < often
    assert "preprocess" not in vars(mllm.processor.image_processor)
    tokens = [candidate_tokens(caching, ("red", "blue")) for _ in range(2)]
    assert tokens[0] is tokens[1] and tokens[0] == candidate_tokens(mllm, ("red", "blue"))


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_remembered_inputs_are_those_made_anew(name, monkeypatch):
    held_against_plain(shared_family(name), monkeypatch)


@needs_real_files
@pytest.mark.long
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_remembered_inputs_of_published_checkpoints_are_those_made_anew(name, monkeypatch):
    held_against_plain(load_processor(real_files() / name), monkeypatch)


def test_a_picture_that_changes_is_seen_to_have_changed(random_mllm, tmp_path):
    caching = replace(random_mllm, cache=PromptCache())
    picture, file = noise_image(64, 96, 1), tmp_path / "picture.png"
    picture.save(file)
    stored = StoredPicture.at(file, "picture")

    def pixels(image):
        return encode(caching, image, "What?").vision["pixel_values"]

    before = pixels(picture)
    torch.testing.assert_close(pixels(stored), before, rtol=0, atol=0)
    assert pixels(picture) is before, "the same pixels are not prepared again"
    ImageDraw.Draw(picture).rectangle((0, 0, 40, 40), fill="red")
    assert not torch.equal(pixels(picture), before)
    picture.save(file)
    assert torch.equal(pixels(stored), pixels(picture))
    with_still = PromptCache(still=True)
    assert with_still.digest(picture) == caching.cache.digest(stored)
    assert with_still.digest(noise_image(64, 96, 1)) != with_still.digest(picture)


def test_what_fails_is_not_remembered(random_mllm):
    caching = replace(random_mllm, cache=PromptCache())
    for _ in range(2):
        with pytest.raises(ValueError, match="question holds the image placeholder"):
            encode(caching, PICTURES[0], "What does <|image_pad|> mean?")


def test_responses_are_kept_up_to_a_number(monkeypatch):
    monkeypatch.setattr("attcot_analysis.models.cache._RESPONSES", 2)
    cache, made = PromptCache(), []

    def make(key):
        return cache.response(key, lambda: made.append(key) or key)

    assert [make(key) for key in "aabbca"] == list("aabbca")
    assert made == list("abca")
