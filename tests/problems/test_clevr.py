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
from attcot_analysis.problems.data.clevr import object_boxes, object_masks, run
from attcot_analysis.problems.fills import lab, residual


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


def shapes(path, things=None):
    """The files with a question on shapes, which no other colour answers otherwise."""
    scenes = path / "scenes" / "CLEVR_val_scenes.json"
    held = json.loads(scenes.read_text())
    for at, one in (things or {}).items():
        held["scenes"][0]["objects"][at] = one
    scenes.write_text(json.dumps(held))
    objects = held["scenes"][0]["objects"]
    clevr_picture(objects)[0].save(path / "images" / "val" / "CLEVR_val_000007.png")
    questions = path / "questions" / "CLEVR_val_questions.json"
    held = json.loads(questions.read_text())
    count = held["questions"][0]
    count["program"][1] |= {"function": "filter_shape", "value_inputs": ["cube"]}
    count["answer"] = str(sum(one["shape"] == "cube" for one in objects))
    held["questions"] = [count]
    questions.write_text(json.dumps(held))
    return path, objects


def test_nothing_of_a_removed_object_is_left(tmp_path):
    path, objects = shapes(clevr(tmp_path))
    (count,) = read_data(path, "clevr")
    assert (count.answer, count.twin.answer, count.metadata["twin"]) == ("2", "1", "removed")
    before, after = np.asarray(count.image), np.asarray(count.twin.image)
    _, shown = clevr_picture(objects)
    gone = shown == 0
    assert (before[gone] == (200, 20, 20)).all() and after[gone].std(-1).max() < 10
    assert (after == before)[(shown == 1) | (shown == 2)].all()
    # The sphere is not asked about: the same edit of it leaves the answer.
    assert count.control.answer == "2"
    assert np.asarray(count.control.image)[shown == 1].std(-1).max() < 10


def test_outlines_are_what_is_drawn_of_a_shape():
    for shape in ("cube", "sphere", "cylinder"):
        objects = [thing(0.6, -0.4, "green", "large", shape, 17.0), thing(-3.0, -2.5, "red"),
                   thing(-2.5, 2.8, "blue", "small")]  # fmt: skip
        _, shown = clevr_picture(objects)
        for at, mask in enumerate(object_masks(objects, (480, 320))):
            drawn_here = shown == at
            off = (mask != drawn_here).sum()
            assert off < 3 * np.sqrt(drawn_here.sum())  # Pixels of the edge.


def test_no_twin_touches_what_stays(tmp_path):
    # The blue cube stands before the red one.
    path, objects = shapes(clevr(tmp_path), {2: thing(-1.9, -0.9, "blue", "small")})
    _, shown = clevr_picture(objects)
    red, _, blue = object_masks(objects, (480, 320))
    assert (red & blue).any()
    (count,) = read_data(path, "clevr")
    # Neither by itself, but both at once.
    assert (count.answer, count.twin.answer, len(count.twin.boxes)) == ("2", "0", 2)
    after = np.asarray(count.twin.image)
    assert after[(shown == 0) | (shown == 2)].std(-1).max() < 10
    objects[1] = thing(-1.9, -0.9, "green", shape="sphere")
    path, _ = shapes(path, {1: objects[1]})
    (count,) = read_data(path, "clevr")
    assert count.twin is None and "twin" not in count.metadata


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


def seen_colours(scenes, pictures):
    """Mean colours in CIELAB of the objects that nothing hides, by what their colour is called."""
    found = {}
    for scene in scenes:
        image = pictures[scene["image_index"]]
        masks, values = object_masks(scene["objects"], image.size), lab(np.asarray(image))
        for at, one in enumerate(scene["objects"]):
            near = [other for other in range(len(masks)) if other != at]
            if not any((masks[at] & masks[other]).any() for other in near):
                found.setdefault(one["color"], []).append(values[masks[at]].mean(axis=0))
    return {colour: np.mean(values, axis=0) for colour, values in found.items()}


@needs_real_data
def test_twins_of_published_pictures_show_what_their_answer_says():
    root = real_data() / "clevr"
    scenes = json.loads((root / "scenes" / "CLEVR_train_scenes.json").read_text())["scenes"]
    asked = json.loads((root / "questions" / "CLEVR_train_questions.json").read_text())
    questions = {one["question_index"]: one for one in asked["questions"]}
    folder = root / "images" / "train"
    pictures = {one["image_index"]: Image.open(folder / one["image_filename"]).convert("RGB")
                for one in scenes}  # fmt: skip
    by_index = {scene["image_index"]: scene for scene in scenes}
    colours = seen_colours(scenes, pictures)
    twins = [p for p in read_data(root, "clevr", split="train") if p.twin is not None]
    kinds = [p.metadata["twin"] for p in twins]
    assert kinds.count("recoloured") >= 20 and kinds.count("removed") >= 4
    assert sum(p.control is not None for p in twins) >= 20
    for problem in twins:
        question = questions[int(problem.id.rpartition("-")[2])]
        scene = by_index[question["image_index"]]
        masks = object_masks(scene["objects"], problem.size)
        for edit in filter(None, (problem.twin, problem.control)):
            changed = (np.asarray(edit.image) != np.asarray(problem.image)).any(-1)
            touched = [at for at, mask in enumerate(masks) if (mask & changed).sum() > 8]
            objects, gone = [dict(one) for one in scene["objects"]], frozenset(touched)
            if problem.metadata["twin"] == "recoloured":
                (at,), gone = touched, frozenset()
                mean = lab(np.asarray(edit.image))[masks[at]].mean(axis=0)
                near = min(colours, key=lambda name: np.linalg.norm(colours[name] - mean))
                objects[at]["color"] = near
            else:
                for at in touched:
                    left = residual(problem.image, edit.image, masks[at])
                    assert not left.edges > 0.2 and not left.colours > 0.25
            program = question["program"]
            assert run(program, objects, scene["relationships"], gone).answer == edit.answer


def test_scenes_that_are_not_clevrs_are_a_fault(tmp_path):
    path = clevr(tmp_path)
    scenes = path / "scenes" / "CLEVR_val_scenes.json"
    scenes.write_text(scenes.read_text().replace('"3d_coords"', '"coords"'))
    with pytest.raises(ProblemError, match="not as CLEVR has them"):
        list(read_data(path, "clevr"))
