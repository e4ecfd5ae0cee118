"""Boxes that are no pixel boxes are refused, or converted where their form is said."""

import json
import random

import pytest
from dataset_files import lines, made, save, viscot
from PIL import Image
from real import needs_real_data, real_data

from attcot_analysis.cli import main
from attcot_analysis.errors import ProblemError
from attcot_analysis.problems import Edit, Problem, load_problems, save_problems
from attcot_analysis.problems.box_forms import FORMS, BoxForms, fits, to_pixels
from attcot_analysis.problems.data import check_data, convert_data, read_data
from attcot_analysis.problems.data.fields import corner_boxes

SIZE = (640, 480)
PIXELS = (320.0, 240.0, 480.0, 432.0)
WRITTEN = {
    "unit": [0.5, 0.5, 0.75, 0.9],
    "thousand": [500, 500, 750, 900],
    "xywh": [320, 240, 160, 192],
    "centre": [400, 336, 160, 192],
    "percent": [50, 50, 75, 90],
    "unit-xywh": [0.5, 0.5, 0.25, 0.4],
    "unit-centre": [0.625, 0.7, 0.25, 0.4],
    "thousand-xywh": [500, 500, 250, 400],
    "pixels": [320, 240, 480, 432],
}


def one(box, **changes):
    return Problem("a", Image.new("RGB", SIZE), "What?", (), "x", evidence=(tuple(box),), **changes)


@pytest.mark.parametrize("form", ["unit", "thousand", "xywh"])
def test_a_problem_refuses_what_is_no_pixel_box_and_says_what_it_may_be(form):
    assert one(WRITTEN["pixels"]).evidence == (PIXELS,)
    with pytest.raises(ProblemError, match=rf"Problem a: box .*does not lie.*\({form}\)"):
        one(WRITTEN[form])
    with pytest.raises(ProblemError, match=rf"\({form}\)"):
        image = Image.new("RGB", SIZE)
        twin = Edit("twin", image, "y", (), (tuple(WRITTEN[form]),))
        Problem("a", image, "What?", ("x", "y"), "x", twin=twin)


@pytest.mark.parametrize("form", WRITTEN)
def test_every_form_of_the_same_box_is_the_same_pixels(form):
    assert to_pixels(WRITTEN[form], SIZE, form) == pytest.approx(PIXELS)
    assert form in FORMS and fits(WRITTEN[form], SIZE, form)


@pytest.mark.parametrize("form", ["unit-xywh", "unit-centre", "centre"])
def test_corners_and_sizes_of_other_conventions_are_asked_about(form):
    with pytest.raises(ProblemError, match=rf"\({form}\)"):
        one(WRITTEN[form])


def test_a_check_says_how_evidence_was_read_and_how_large_it_is(tmp_path, capsys):
    path, _ = own(tmp_path / "set", "pixels")
    assert main(["data", "check", str(path)]) == 0
    said = capsys.readouterr().out
    assert "Evidence of 16 items was read as pixels (x0, y0, x1, y1); it covers" in said
    assert "smaller than an image token" not in said
    held = [json.loads(line) for line in path.read_text().splitlines()]
    lines(path, [one | {"boxes": [[9, 9, 15, 15]], "steps": None} for one in held])
    assert any("of 16 of them is smaller than" in one for one in check_data(path).coverage.warnings)


def test_nothing_lies_in_the_first_pixel_of_a_photograph():
    for box in ((0, 0, 1, 1), (0.1, 0.2, 0.3, 0.4)):
        with pytest.raises(ProblemError, match="shares of the picture from 0 to 1"):
            one(box)
    small = Image.new("RGB", (8, 8))
    assert Problem("a", small, "What?", (), "x", evidence=((0, 0, 1, 1),)).evidence


def own(folder, form, n=16, size=SIZE, seed=0):
    """Lines of one's own, their boxes in some form, and the same in pixels."""
    drawn = random.Random(seed)
    held, pixels = [], []
    folder.mkdir()
    for at in range(n):
        Image.new("RGB", size).save(folder / f"{at}.png")
        width, height = size
        w, h = drawn.randrange(width // 8, width // 3), drawn.randrange(height // 8, height // 3)
        x, y = drawn.randrange(width - w), drawn.randrange(height - h)
        if at < 2:
            x, y = ((width - w, height - h), (1, 1))[at]
        pixels.append((x, y, x + w, y + h))
        ends = (width, height) * 2
        box = {
            "pixels": list(pixels[-1]),
            "unit": [end / side for end, side in zip(pixels[-1], ends, strict=True)],
            "thousand": [1000 * end / side for end, side in zip(pixels[-1], ends, strict=True)],
            "xywh": [x, y, w, h],
        }[form]
        line = {"image": f"{at}.png", "question": "What?", "answer": "x", "boxes": [box]}
        held.append(line | {"steps": [{"text": "Look.", "boxes": [list(box)]}]})
    return lines(folder / "own.jsonl", held), pixels


@pytest.mark.parametrize("form", ["unit", "thousand", "xywh"])
def test_boxes_of_a_said_form_become_pixels(tmp_path, form):
    path, pixels = own(tmp_path / "set", form)
    out = tmp_path / "out"
    command = ["data", "convert", str(path), "--out", str(out), "--boxes", form]
    assert main(command) == 0
    for problem, box in zip(load_problems(out), pixels, strict=True):
        assert problem.evidence[0] == pytest.approx(box)
        assert problem.steps[0].boxes[0] == pytest.approx(box)


@pytest.mark.parametrize("form", ["thousand", "xywh"])
def test_those_that_would_pass_are_not_kept_when_others_show_the_form(tmp_path, form, capsys):
    path, _ = own(tmp_path / "set", form)
    assert main(["data", "check", str(path)]) == 3
    said = capsys.readouterr().out
    assert "boxes are no pixels (x0, y0, x1, y1) of their pictures and all may be" in said
    assert f"--boxes {form}" in said or f"or {form}" in said
    with pytest.raises(ProblemError, match=r"say what they are with --boxes"):
        convert_data(path, tmp_path / "out", skip_faulty=True)
    assert not (tmp_path / "out").exists()
    # Whoever says that they are pixels gets those that can be.
    found = convert_data(path, tmp_path / "out", skip_faulty=True, boxes="pixels")
    assert found.faults and 0 < found.coverage.n == 16 - len(found.faults)


def test_one_slip_among_many_pixel_boxes_is_only_that(tmp_path):
    path, _ = own(tmp_path / "set", "pixels", n=60, size=(64, 48))
    held = [json.loads(line) for line in path.read_text().splitlines()]
    held[7]["boxes"] = [[3, 3, 900, 9]]
    lines(path, held)
    found = convert_data(path, tmp_path / "out", skip_faulty=True)
    assert len(found.faults) == 1 and found.coverage.n == 59
    assert not any("boxes are" in one for one in found.coverage.warnings)


def test_boxes_within_1000_of_large_pictures_are_doubted():
    def seen(end, size, n):
        forms = BoxForms()
        for _ in range(n):
            forms.add((10, 10, end, end), size)
        return forms

    assert "pictures have up to 3000 pixels" in seen(900, (3000, 2000), 5).doubt
    assert seen(1200, (3000, 2000), 5).doubt is None
    assert (
        "--boxes percent" in seen(95, (640, 480), 5).doubt and seen(95, (90, 80), 5).doubt is None
    )
    assert seen(900, (1000, 800), 500).doubt is None and seen(900, (1300, 900), 5).doubt is None


def test_a_doubt_is_said_when_a_folder_is_loaded(tmp_path):
    path, _ = own(tmp_path / "set", "thousand", size=(2400, 2400))
    assert any("reaches beyond 1000" in one for one in check_data(path).coverage.warnings)
    convert_data(path, tmp_path / "out")
    with pytest.warns(UserWarning, match="No box reaches beyond 1000"):
        load_problems(tmp_path / "out")
    problems = list(read_data(path, boxes="thousand"))
    assert problems[0].evidence[0][2:] == (2400, 2400)
    save_problems(problems, tmp_path / "right")
    load_problems(tmp_path / "right")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0.1, 0.1, 0.4, 0.5], "shares of the picture"),
        ([500, 300, 80, 90], r"pixels \(x, y, width, height\)"),
        ([300, 300, 700, 900], "thousandths of the picture"),
        ([0, 0, 128, 5000], "check that it is the right picture"),
    ],
)
def test_published_boxes_are_not_cut_into_shape(tmp_path, box, message):
    path = made(tmp_path, "visual-cot")
    held = [json.loads(line) for line in path.read_text().splitlines()]
    size = {"width": 640, "height": 480}
    lines(path, [one | size | {"bboxs": [box]} for one in held])
    found = check_data(path, "visual-cot")
    assert len(found.faults) == 2 and "line 1: box" in found.faults[0]
    with pytest.raises(ProblemError, match=message):
        list(read_data(path, "visual-cot"))
    lines(path, [one | size | {"bboxs": [[600, 400, 641.5, 481]]} for one in held])
    (rounded,) = {p.evidence for p in read_data(path, "visual-cot")}
    assert rounded == ((60.0, 40.0, 64.0, 48.0),)


def test_a_conversation_s_box_on_a_picture_of_another_size_is_refused(tmp_path):
    path = viscot(tmp_path)
    assert check_data(path, "visual-cot").holds
    save(tmp_path / "cot" / "v7w" / "v7w_276.jpg", 1, (128, 96))
    with pytest.raises(ProblemError, match=r"entry 1: box .* not in a picture of 128x96"):
        list(read_data(path, "visual-cot"))


def test_forms_that_make_no_sense_are_refused(tmp_path):
    path = made(tmp_path, "vstar")
    with pytest.raises(ProblemError, match="no form of boxes 'yolo'; choose from pixels"):
        check_data(path, boxes="yolo")
    with pytest.raises(ProblemError, match="leave --boxes out"):
        check_data(path, "vstar", boxes="unit")


def test_marks_of_charts_are_cut_at_the_edge_and_other_boxes_are_not():
    box, where = [50, 40, 30, 30], "chart"
    cut = corner_boxes([box], (64, 48), where, form="xywh", cut=True)
    assert cut == ((50.0, 40.0, 64.0, 48.0),)
    for given in (box, [70, 50, 3, 3]):
        with pytest.raises(ProblemError, match=r"chart: box .*covers nothing"):
            corner_boxes([given], (64, 48), where, form="xywh", cut=given != box)


def test_visual_cot_s_boxes_that_are_said_to_be_pixels_are_not_doubted(tmp_path):
    path = made(tmp_path, "visual-cot")
    held = [json.loads(line) for line in path.read_text().splitlines()]
    boxes = ([40, 30, 50, 60], [80, 40, 20, 30])
    lines(path, [one | {"bboxs": [box]} for one, box in zip(held, boxes, strict=True)])
    options = {"format": "visual-cot", "skip_faulty": True}
    with pytest.raises(ProblemError, match="say what they are with --boxes"):
        convert_data(path, tmp_path / "out", **options)
    assert convert_data(path, tmp_path / "out", boxes="pixels", **options).coverage.n == 1
    boxes = {p.evidence for p in read_data(path, "visual-cot", boxes="xywh")}
    assert boxes == {((20.0, 15.0, 45.0, 45.0),), ((40.0, 20.0, 50.0, 35.0),)}


@needs_real_data
@pytest.mark.parametrize("name", ["cub", "docvqa", "dude", "emotic", "flickr30k", "gqa",
                                  "infographicsvqa", "openimages", "sroie", "textcap", "textvqa",
                                  "visual7w", "vsr"])  # fmt: skip
def test_published_boxes_of_visual_cot_are_pixels_but_for_a_slip(tmp_path, name):
    root = real_data() / "visual-cot"
    for line in (root / "benchmark_det" / f"{name}.jsonl").read_text().splitlines():
        one = json.loads(line)
        path = tmp_path / one["img_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (one["width"], one["height"])).save(path)
    faults = []
    found = list(
        read_data(root / "benchmark" / f"{name}.json", "visual-cot", images=tmp_path, faults=faults)
    )
    boxed = [one for one in faults if "does not exist" not in one]
    assert len(found) + len(boxed) >= 10
    assert len(boxed) == (name == "dude")  # One box lies below its page.
    assert all("check that it is the right picture" in one for one in boxed)
    assert all(one.evidence for one in found)
