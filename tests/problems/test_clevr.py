"""CLEVR's boxes are those of what is drawn, and a twin shows nothing of what it hides."""

import json

import numpy as np
import pytest
from dataset_files import clevr, clevr_picture, thing
from PIL import Image
from real import needs_real_data, real_data
from scipy import ndimage

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data import check_data, read_data
from attcot_analysis.problems.data.clevr import object_boxes


def extent(mask):
    rows, cols = np.nonzero(mask)
    return cols.min(), rows.min(), cols.max() + 1, rows.max() + 1


@pytest.mark.parametrize("shape", ["cube", "sphere", "cylinder"])
@pytest.mark.parametrize("size", ["large", "small"])
def test_a_box_is_what_the_camera_sees_of_a_shape(shape, size):
    beside = [thing(-3.0, -2.5, "red"), thing(-2.5, 2.8, "blue", "small")]
    for rotation in (0.0, 17.0, 101.3, 200.0):
        objects = [thing(0.6, -0.4, "green", size, shape, rotation), *beside]
        _, shown = clevr_picture(objects)
        box, *_ = object_boxes(objects, (480, 320))
        np.testing.assert_allclose(box, extent(shown == 0), atol=1)
        double, *_ = object_boxes(objects, (960, 640))
        np.testing.assert_allclose(double, np.multiply(box, 2))


def test_places_that_no_clevr_camera_shows_are_refused(tmp_path):
    objects = [thing(0.6, -0.4, "green"), thing(-3.0, -2.5, "red"), thing(-2.5, 2.8, "blue")]
    objects[1]["pixel_coords"][0] += 30
    with pytest.raises(ValueError, match=r"objects lie \d+ pixels from where"):
        object_boxes(objects, (480, 320))
    with pytest.raises(ValueError, match="480x480 is no CLEVR picture"):
        object_boxes(objects, (480, 480))
    path = clevr(tmp_path)
    image = path / "images" / "val" / "CLEVR_val_000007.png"
    Image.new("RGB", (320, 320)).save(image)
    assert "320x320 is no CLEVR picture" in check_data(path, "clevr").faults[0]


def test_nothing_of_a_hidden_object_is_left(tmp_path):
    count, _ = read_data(clevr(tmp_path), "clevr")
    before, after = np.asarray(count.image), np.asarray(count.twin.image)
    red = before[..., 0] == 200
    left = after[..., 0] == 200
    cube = red & (np.arange(480) < 200)
    assert cube.any() and not left[cube].any() and (left == (red & ~cube)).all()


def test_no_twin_hides_a_part_of_what_stays(tmp_path):
    path = clevr(tmp_path)
    scenes = path / "scenes" / "CLEVR_val_scenes.json"
    held = json.loads(scenes.read_text())
    objects = held["scenes"][0]["objects"]
    objects[2] = thing(-1.9, -0.5, "blue", "small")  # Its box meets that of the red cube.
    scenes.write_text(json.dumps(held))
    boxes = object_boxes(objects, (480, 320))
    count, _ = read_data(path, "clevr")
    assert boxes[0][2] > boxes[2][0] and boxes[0][0] < boxes[2][2]
    (hidden,) = count.twin.boxes
    assert hidden[0] < boxes[1][0] and hidden[2] > boxes[1][2]  # The sphere alone.


# --- published pictures -------------------------------------------------------------------------


def drawn(image, one):
    """The pixels of an object's hue that hang together around its centre, less its glow."""
    pixels = np.asarray(image).astype(int)
    hue = np.asarray(image.convert("HSV"))[..., 0].astype(int)
    x, y, _ = one["pixel_coords"]
    near = np.s_[y - 3 : y + 4, x - 3 : x + 4]
    colour = pixels.max(-1) - pixels.min(-1)
    own = colour > max(25, 0.4 * np.median(colour[near]))
    parts, _ = ndimage.label(own & (np.abs((hue - np.median(hue[near]) + 128) % 256 - 128) < 22))
    return parts == parts[y, x]


def apart(box, others):
    return not any(
        box[0] < b[2] + 3 and b[0] < box[2] + 3 and box[1] < b[3] + 3 and b[1] < box[3] + 3
        for b in others
    )


@needs_real_data
def test_boxes_on_published_pictures_are_what_is_drawn():
    root = real_data() / "clevr"
    scenes = json.loads((root / "scenes" / "CLEVR_train_scenes.json").read_text())["scenes"]
    off, ratios, shapes = [], [], set()
    for scene in scenes:
        image = Image.open(root / "images" / "train" / scene["image_filename"]).convert("RGB")
        boxes = object_boxes(scene["objects"], image.size)
        for at, one in enumerate(scene["objects"]):
            if one["color"] == "gray" or not apart(boxes[at], boxes[:at] + boxes[at + 1 :]):
                continue
            found = np.array(extent(drawn(image, one)), dtype=float)
            off.append(np.abs(found - boxes[at]).max())
            shapes.add(one["shape"])
            if one["shape"] == "cube":
                own = np.subtract(boxes[at][2:], boxes[at][:2])
                ratios.extend(own / (found[2:] - found[:2]))
    assert len(off) > 20 and len(shapes) == 3
    assert max(off) < 2 and np.median(off) < 1
    assert abs(np.mean(ratios) - 1) < 0.01 and max(np.abs(np.subtract(ratios, 1))) < 0.04


@needs_real_data
def test_no_twin_of_a_published_picture_shows_what_it_hides():
    root = real_data() / "clevr"
    scenes = json.loads((root / "scenes" / "CLEVR_train_scenes.json").read_text())["scenes"]
    by_picture = {
        Image.open(root / "images" / "train" / scene["image_filename"]).convert("RGB").tobytes(): (
            scene["objects"]
        )
        for scene in scenes
    }
    twins = [p for p in read_data(root, "clevr", split="train") if p.twin is not None]
    assert len(twins) >= 8
    for problem in twins:
        objects = by_picture[problem.image.tobytes()]
        boxes = object_boxes(objects, problem.size)
        left = np.asarray(problem.twin.image)
        for x0, y0, x1, y1 in problem.twin.boxes:
            fill = left[int(y0), int(x0)]
            assert (left[int(y0) : int(y1), int(x0) : int(x1)] == fill).all()
            (hidden,) = [
                at
                for at, one in enumerate(objects)
                if x0 <= one["pixel_coords"][0] < x1 and y0 <= one["pixel_coords"][1] < y1
            ]
            u0, v0, u1, v1 = boxes[hidden]
            assert x0 <= max(u0 - 1.5, 0) and y0 <= max(v0 - 1.5, 0)
            assert x1 >= min(u1 + 1.5, 480) and y1 >= min(v1 + 1.5, 320)
            if objects[hidden]["color"] != "gray":
                there = drawn(problem.image, objects[hidden])
                rest = there & (left == np.asarray(problem.image)).all(-1)
                assert not rest.any()


def test_scenes_that_are_not_clevrs_are_a_fault(tmp_path):
    path = clevr(tmp_path)
    scenes = path / "scenes" / "CLEVR_val_scenes.json"
    scenes.write_text(scenes.read_text().replace('"3d_coords"', '"coords"'))
    with pytest.raises(ProblemError, match="not as CLEVR has them"):
        list(read_data(path, "clevr"))
