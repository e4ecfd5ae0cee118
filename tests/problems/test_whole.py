"""Edits of whole pictures: what each keeps and takes; when a turned picture's answer is known."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import EDIT_KINDS, edit_function, edited_images
from attcot_analysis.problems.lettering import has_text, text_lines
from attcot_analysis.problems.whole import BLURS, evidence_crop, turned_answer


def scene():
    """Two blocks on an uneven ground: red at the left, blue at the right, below."""
    y, x = np.mgrid[:96, :128]
    ground = 110 + 30 * np.sin(x / 40) + 20 * np.cos(y / 30)
    image = Image.fromarray(np.stack([ground] * 3, axis=-1).astype(np.uint8))
    image.paste((200, 40, 40), (10, 20, 40, 50))
    image.paste((40, 60, 200), (80, 50, 120, 80))
    return image


def item(question="Which colour is the larger block?", answer="red", candidates=None, **more):
    candidates = ("red", "blue") if candidates is None else candidates
    more = {"image": scene(), "id": "a", **more}
    return Problem(question=question, candidates=candidates, answer=answer, **more)


def edited(kind, **more):
    return edited_images([item(**more)], kind)[0]


def pixels(image):
    return np.asarray(image).astype(int)


def test_blanks_hold_nothing_of_the_picture():
    mean = pixels(edited("blank_mean").image)
    assert (mean == pixels(scene()).mean(axis=(0, 1)).round()).all()
    noise = pixels(edited("blank_noise").image)
    assert abs(np.corrcoef(noise.ravel(), pixels(scene()).ravel())[0, 1]) < 0.03
    assert (noise == pixels(edited("blank_noise").image)).all()
    assert (noise != pixels(edited("blank_noise", id="b").image)).any()


def test_five_blurs_take_more_and_more():
    edges = [
        np.abs(np.diff(pixels(edited(f"blur_{n}").image), axis=1)).max()
        for n in range(1, len(BLURS) + 1)
    ]
    assert edges == sorted(edges, reverse=True) and len(set(edges)) == 5


def test_diffusion_noise_is_that_of_the_forward_process():
    """The oracle multiplies step by step what the formula takes at once."""
    kept = 1.0
    for t in range(501):
        beta = 1 / (1 + np.exp(-(-6 + 12 * t / 999))) * (0.5e-2 - 1e-5) + 1e-5
        kept *= 1 - beta
    flat = Image.new("RGB", (256, 256), (128, 128, 128))
    (one,) = edited_images([item(image=flat)], "diffusion")
    found = pixels(one.image)
    spread = 0.27 * 255 * np.sqrt(1 - kept)
    inside = np.abs(found - 128) < 127
    assert inside.mean() > 0.9
    assert np.quantile(found, 0.8413) - 128 == pytest.approx(spread, rel=0.03)


def test_patches_pixels_and_colours():
    before = pixels(scene())
    moved = pixels(edited("patch_shuffle").image)
    assert (np.sort(moved.reshape(-1, 3), axis=0) == np.sort(before.reshape(-1, 3), axis=0)).all()
    assert (moved != before).any()
    squares = pixels(edited("pixelate").image)
    assert len(np.unique(squares.reshape(-1, 3), axis=0)) <= 16 * 21
    grey = pixels(edited("greyscale").image)
    assert (grey == grey[..., :1]).all()
    assert (pixels(edited("channel_swap").image) == before[..., ::-1]).all()


def test_a_crop_holds_all_evidence_and_the_answer_stays():
    one = edited("crop", evidence=((80, 50, 120, 80), (90, 40, 100, 60)))
    assert one.image.size == (40, 40)
    assert (pixels(one.image) == pixels(scene())[40:80, 80:120]).all()
    assert one.expected == "red" and one.why
    assert evidence_crop(scene(), [(120, 90, 124, 94)]) == (100, 68, 128, 96)
    with pytest.raises(MeasureError, match="No item allows the edit 'crop'"):
        edited("crop")


SIDES = ("left", "right", "above")


@pytest.mark.parametrize(
    ("question", "answer", "candidates", "mirror", "rotate"),
    [
        ("Where is the red block?", "left", SIDES, "right", "right"),
        ("Is it on the left or on the right?", "Left.", ("Left.", "Right."), "Right.", "Right."),
        ("Where is it?", "top left", ("top left", "top right"), "top right", None),
        ("Where is it?", "Upper LEFT", (), "Upper RIGHT", "Lower RIGHT"),
        ("Where is it?", "above", ("above", "below"), "above", "below"),
        ("Which colour is larger?", "red", ("red", "blue"), "red", "red"),
        ("What is left of the blue block?", "red", ("red", "blue"), None, None),
        ("Is the red one left of the blue one?", "yes", ("yes", "no"), None, None),
        ("What is above?", "red", ("red", "blue"), "red", None),
        ("Which word is written?", "red", ("red", "blue"), None, None),
        ("What time does the clock show?", "nine", ("nine", "ten"), None, None),
        ("Left or right?", "neither", ("neither", "left"), None, None),
        ("What is bright?", "upright", ("upright", "blue"), "upright", "upright"),
    ],
)
def test_a_turned_pictures_answer_is_computed_or_refused(
    question, answer, candidates, mirror, rotate
):
    one = item(question, answer, candidates)
    for heights, expected in ((False, mirror), (True, rotate)):
        found = turned_answer(one, heights=heights)
        assert (found and found[0]) == expected


def test_turned_pictures_are_turned():
    assert (pixels(edited("mirror").image) == pixels(scene())[:, ::-1]).all()
    assert (pixels(edited("rotate").image) == pixels(scene())[::-1, ::-1]).all()
    assert edited("mirror").why == "neither question nor answer names a side that changes place"


def lettered(colour, at=(20, 30), size=14, text="Total 1984"):
    image = scene()
    ImageDraw.Draw(image).text(at, text, fill=colour, font=ImageFont.load_default(size))
    return image


@pytest.mark.parametrize("colour", ["white", "black"])
def test_pictures_with_text_are_not_turned(colour):
    image = lettered(colour)
    assert turned_answer(item(image=image), heights=False) is None
    x0, y0, x1, y1 = text_lines(image)[0]
    assert x0 >= 15 and y0 >= 28 and x1 <= 110 and y1 <= 50


def test_pictures_without_text_are():
    assert not has_text(scene())
    assert not has_text(Image.new("RGB", (128, 96), "grey"))
    rng = np.random.default_rng(0)
    assert not has_text(Image.fromarray(rng.normal(128, 6, (96, 128, 3)).astype(np.uint8)))
    assert not has_text(Image.new("RGB", (4, 4)))


def test_a_function_of_ones_own_takes_part_by_its_place(tmp_path, monkeypatch):
    (tmp_path / "own_edits_of_a_test.py").write_text(
        "from dataclasses import replace\n"
        "from attcot_analysis.problems.edits import EditedImage\n"
        "def dark(problems, at, options):\n"
        "    image = problems[at].image.point(lambda value: value // 2)\n"
        "    return EditedImage(at, 'whatever', image, problems[at].answer)\n"
        "def plain(problems, at, options):\n"
        "    return problems[at].image\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MeasureError, match="returned a Image; expected an EditedImage"):
        edited("own_edits_of_a_test:plain")
    kind = "own_edits_of_a_test:dark"
    one = edited(kind)
    assert one.kind == kind and one.expected == "red"
    assert (pixels(one.image) == pixels(scene()) // 2).all()
    for wrong, message in (
        ("own_edits_of_a_test:light", "has no function 'light'"),
        ("no_such_module_at_all:f", "cannot be imported"),
        ("sepia", "There is no edit 'sepia'"),
        (":f", "There is no edit ':f'"),
    ):
        with pytest.raises(MeasureError, match=message):
            edit_function(wrong)


@pytest.mark.parametrize("kind", [k for k in EDIT_KINDS if k not in ("twin", "control")])
def test_every_edit_says_what_it_did_and_leaves_the_original_alone(kind):
    problems = [
        item(evidence=((80, 50, 120, 80),)),
        item(id="b", answer="blue", evidence=((10, 20, 40, 50),)),
    ]
    one = edited_images(problems, kind)[0]
    assert one.change and one.kind == kind
    assert bool(one.why) == (one.expected is not None)
    assert (pixels(problems[0].image) == pixels(scene())).all()
    assert 0 < one.area <= 1
