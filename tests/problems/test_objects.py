"""Objects: their masks, what each edit does to them, and twin and control from a box."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from attcot_analysis.errors import MeasureError, ProblemError
from attcot_analysis.problems import Problem
from attcot_analysis.problems.fills import lab, mask_of
from attcot_analysis.problems.lettering import text_lines
from attcot_analysis.problems.objects import (
    edit,
    grown,
    object_mask,
    read_mask,
    recoloured,
    rle_mask,
    shifted,
    with_twin,
)

BOX = (38, 28, 90, 72)


def scene():
    """A shaded red disc inside `BOX` on an uneven, noisy ground."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :160]
    ground = 120 + 20 * np.sin(x / 30) + 15 * np.cos(y / 20)
    pixels = ground[..., None] + rng.normal(0, 3, (96, 160, 3))
    disc = disc_mask()
    shade = 1 - 0.4 * (x - 44) / 40
    pixels[disc] = (np.array([200, 40, 40]) * shade[..., None])[disc]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def disc_mask():
    canvas = Image.new("L", (160, 96))
    ImageDraw.Draw(canvas).ellipse((44, 33, 84, 67), fill=255)
    return np.asarray(canvas) > 0


def item(**more):
    more = {"evidence": (BOX,), "id": "a", **more}
    return Problem(
        image=scene(), question="Which colour?", candidates=("red", "blue"), answer="red", **more
    )


def pixels(image):
    return np.asarray(image).astype(int)


def changed(edited):
    return (pixels(edited.problem.image) != pixels(edited.edited.image)).any(axis=-1)


def test_grabcut_finds_the_object_in_its_box():
    found = object_mask(scene(), BOX)
    true = disc_mask()
    assert (found & true).sum() / (found | true).sum() > 0.9
    assert not found[~mask_of([BOX], (160, 96))].any()


def test_without_a_ground_to_learn_from_the_box_is_the_mask():
    assert object_mask(scene(), (0, 0, 160, 96)).all()
    assert object_mask(scene(), (10, 10, 12, 12)).sum() == 4
    flat = Image.new("RGB", (60, 40), "grey")
    assert object_mask(flat, (10, 10, 30, 30)).any()


def runs_of(mask):
    """COCO's counts by the book: column by column, zeros first."""
    runs, value, length = [], False, 0
    for pixel in mask.T.ravel():
        if pixel == value:
            length += 1
        else:
            runs.append(length)
            value, length = pixel, 1
    return [*runs, length]


def packed(runs):
    """COCO's string: difference to the count before last, five bits a character, sign last."""
    text = ""
    for at, count in enumerate(runs):
        value = count - runs[at - 2] if at > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr((bits | 0x20 if more else bits) + 48)
    return text


def test_masks_are_read_from_run_lengths_pictures_and_files(tmp_path):
    mask = disc_mask()
    runs = runs_of(mask)
    size = [96, 160]
    assert (rle_mask({"size": size, "counts": runs}) == mask).all()
    assert (rle_mask({"size": size, "counts": packed(runs)}) == mask).all()
    assert (rle_mask({"size": size, "counts": packed(runs).encode()}) == mask).all()
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    image.save(tmp_path / "mask.png")
    for source in (mask, image, tmp_path / "mask.png", {"size": size, "counts": runs}):
        assert (read_mask(source) == mask).all()
    with pytest.raises(MeasureError, match="add up to 15360 pixels and its size is 4x4"):
        rle_mask({"size": [4, 4], "counts": runs})


def test_a_recoloured_object_has_another_mean_colour_and_its_own_shading():
    before, after = scene(), recoloured(scene(), disc_mask(), "#3c5ab4")
    inside = disc_mask()
    first, second = (lab(np.asarray(one))[inside] for one in (before, after))
    wanted = lab(np.array([[[0x3C, 0x5A, 0xB4]]], dtype=np.uint8))[0, 0]
    assert second.mean(axis=0) == pytest.approx(wanted, abs=3)
    assert np.corrcoef(first[:, 0], second[:, 0])[0, 1] > 0.98
    assert (pixels(before) == pixels(after))[~inside].all()


def test_a_removed_object_is_gone_and_a_moved_one_is_elsewhere():
    gone = edit(item(), "remove")
    assert gone.residual.colours < 0.15 and gone.residual.edges < 0.2
    assert not changed(gone)[~gone.edited.region].any()
    moved = edit(item(), "move", mask=disc_mask(), by=(60, 10))
    there = shifted(disc_mask(), (60, 10))
    assert (pixels(moved.edited.image)[there] == pixels(scene())[disc_mask()]).all()
    assert not changed(moved)[~moved.edited.region].any()
    here = disc_mask() & ~there
    reds = pixels(moved.edited.image)[here]
    assert (reds[:, 0] - reds[:, 1]).mean() < 20 < (pixels(scene())[here][:, 0] - 60).mean()


def test_what_is_pasted_fills_the_region_only():
    done = edit(item(), "paste", source=Image.new("RGB", (8, 8), "lime"))
    inside = mask_of([BOX], (160, 96))
    assert (pixels(done.edited.image)[inside] == (0, 255, 0)).all()
    assert not changed(done)[~inside].any()


def test_an_edit_shows_four_panels_and_escapes_what_it_says():
    done = edit(item(id="a"), "fill", answer="blue")
    assert list(done.pictures()) == ["before", "after", "region", "difference"]
    assert done.panels().size == (240 * 4 + 12, done.pictures()["before"].height)
    assert "Right answer: 'blue' (as given)." in str(done)
    html = edit(item(), "fill", fill="mean")._repr_html_()
    assert html.count("<img") == 4 and "data:image/png;base64," in html
    named = edit(item(), "fill", fill=lambda pixels, mask, rng: pixels)
    assert "<lambda>" in str(named) and "<lambda>" not in named._repr_html_()


def test_edits_of_whole_pictures_are_shown_alike():
    done = edit(item(), "mirror")
    assert done.edited.expected == "red" and done.residual.area == 1
    cropped = edit(item(), "crop")
    assert cropped.residual is None and list(cropped.pictures()) == ["before", "after", "region"]


def chart(text="1984", ground=(250, 248, 240), ink=(20, 60, 160)):
    image = Image.new("RGB", (200, 120), ground)
    ImageDraw.Draw(image).text((60, 40), text, fill=ink, font=ImageFont.load_default(20))
    return Problem("c", image, "How many?", (), text, evidence=((55, 38, 115, 66),))


def test_a_value_is_replaced_in_its_colour_size_and_place():
    """What is drawn over the old text is what would have been drawn on an empty chart."""
    done = edit(chart(), "text", text="7", fill="navier_stokes")
    after, region = pixels(done.edited.image), done.edited.region
    fresh = pixels(chart("7").image)
    ink = np.abs(fresh - (250, 248, 240)).sum(axis=-1) > 60
    written = np.abs(after - (250, 248, 240)).sum(axis=-1) > 60
    assert written.sum() == pytest.approx(ink.sum(), rel=0.35)
    assert not changed(done)[~region].any()
    dark = after[written][after[written].sum(axis=1).argmin()]
    assert np.abs(dark - (20, 60, 160)).max() <= 12
    rows, old = (
        np.flatnonzero(written.any(axis=1)),
        np.flatnonzero(
            (np.abs(pixels(chart().image) - (250, 248, 240)).sum(axis=-1) > 60).any(axis=1)
        ),
    )
    assert abs(rows.mean() - old.mean()) <= 1.5 and abs(len(rows) - len(old)) <= 3
    assert not [box for box in text_lines(done.edited.image) if box[2] - box[0] > 30]


def test_a_chart_gets_a_twin_and_a_control_by_its_value():
    made = with_twin(chart(), "42", "text", text="42")
    assert (made.twin.answer, made.control.answer) == ("42", "1984")


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("remove", {}),
        ("fill", {"fill": "mean"}),
        ("recolour", {"colour": "blue"}),
        ("move", {"by": (60, 0)}),
        ("paste", {"source": Image.new("RGB", (8, 8), "blue")}),
    ],
)
def test_twin_and_control_come_from_a_box_and_an_answer(how, options):
    made = with_twin(item(), "blue", how, **options)
    assert (made.twin.answer, made.control.answer) == ("blue", "red")
    inside = mask_of([BOX], (160, 96))
    for one, touched in ((made.twin, True), (made.control, False)):
        differs = (pixels(one.image) != pixels(scene())).any(axis=-1)
        assert differs.any() and (differs & inside).any() == touched
        rectangles = [tuple(map(int, box)) for box in one.boxes]
        assert not differs[~mask_of(rectangles, (160, 96))].any()


def test_a_twin_without_room_for_a_control_has_none():
    made = with_twin(item(evidence=((0, 0, 160, 96),)), "blue", "fill", fill="mean")
    assert made.twin is not None and made.control is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edit(item(), "recolour"), "needs a colour"),
        (lambda: edit(item(), "recolour", colour="bleu"), "Colour is 'bleu'"),
        (lambda: edit(item(), "move"), "needs by="),
        (lambda: edit(item(), "move", by=(500, 0)), "leaves the picture"),
        (lambda: edit(item(), "paste"), "needs the picture to paste"),
        (lambda: edit(item(evidence=()), "remove"), "has no evidence boxes"),
        (lambda: edit(item(), "remove", mask=np.zeros((96, 160))), "with 0 pixels in it"),
        (lambda: edit(item(), "sepia"), "There is no edit 'sepia'"),
        (lambda: edit(item(), "text"), "needs the new text"),
        (lambda: edit(chart(), "text", text=" "), "The new text is ' '"),
        (lambda: edit(chart(), "text", text="7", box=(0, 0, 20, 20)), "No text was found"),
        (lambda: edit(chart(), "text", text="7", font="none.ttf"), "cannot be read as a font"),
    ],
)
def test_what_an_edit_lacks_is_one_sentence(call, message):
    with pytest.raises(MeasureError, match=message):
        call()


def test_a_twins_answer_must_be_another_candidate():
    with pytest.raises(ProblemError, match="not one of the candidates"):
        with_twin(item(), "green")
    with pytest.raises(ProblemError, match="must differ from"):
        with_twin(item(), "red")


def test_what_is_removed_is_wider_than_the_object():
    mask = np.zeros((40, 40), dtype=bool)
    mask[20, 20] = True
    assert grown(mask).sum() == 25 and grown(mask, 1).sum() == 9


def test_the_code_of_the_page_runs_and_says_what_it_shows(capsys):
    page = Path(__file__).parents[2] / "docs" / "counterfactuals.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    shown = {}
    for block in blocks:
        exec(block, shown)
    assert "recoloured, blue. Right answer: 'blue' (as given)." in capsys.readouterr().out
    assert shown["darker"]([item()], 0, None).expected == "red"
