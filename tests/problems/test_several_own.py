"""Your own records with several pictures, and videos as pictures with their times."""

import base64
import json

import cv2
import numpy as np
import pytest
from dataset_files import lines, picture, save
from PIL import Image

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems import load_problems, save_problems
from attcot_analysis.problems.data import check_data, convert_data, read_data
from attcot_analysis.problems.data.film import film_frames

NAMES = ["1.png", "2.png", "3.png"]
ROW = {"id": "a", "images": NAMES, "question": "Which is red?", "answer": "B"}


def read(tmp_path, row, **options):
    for at, name in enumerate(NAMES, start=1):
        save(tmp_path / name, at, size=(64, 32 + 8 * at))
    (found,) = read_data(lines(tmp_path / "own.jsonl", [row]), **options)
    return found


def pixels(images):
    return [(one.size, one.tobytes()) for one in images]


def asked(*content):
    return {"messages": [{"role": "user", "content": content}], "answer": "B"}


def part(name):
    return {"type": "image", "image": name}


def said(text):
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        (ROW, ()),
        (ROW | {"images": json.dumps(NAMES)}, ()),
        (ROW | {"question": "<image><image>\n<image>\nWhich is red?"}, ()),
        (ROW | {"question": "Which is red? <image> <image> <image>"}, ()),
        (
            ROW
            | {"question": "Image-1: <image>\nImage-2: 0.5 s: <image>\n(c) <image>\nWhich is red?"},
            ("Image-1:", "Image-2: 0.5 s:", "(c)"),
        ),
        (ROW | {"picture_labels": ["A", "B", "C"]}, ("A", "B", "C")),
        (ROW | {"frame_times": [0, 0.5, 12]}, ("0 s:", "0.5 s:", "12 s:")),
        (asked(*map(part, NAMES), said("Which is red?")), ()),
        (
            {"images": NAMES} | asked(*[{"type": "image"}] * 3, said("Which is red?")),
            (),
        ),
        (
            asked(
                *[one for name in NAMES for one in (said(f"Picture {name[0]}"), part(name))],
                said("Which is red?"),
            ),
            ("Picture 1", "Picture 2", "Picture 3"),
        ),
        (
            {"images": NAMES, "answer": "B"}
            | {"conversations": [{"from": "human", "value": "<image>" * 3 + "\nWhich is red?"}]},
            (),
        ),
    ],
)
def test_several_pictures_in_every_usual_form(tmp_path, row, labels):
    found = read(tmp_path, row)
    assert pixels(found.images) == pixels(picture(at, (64, 32 + 8 * at)) for at in (1, 2, 3))
    assert (found.question, found.picture_labels) == ("Which is red?", labels)
    (again,) = load_problems(save_problems([found], tmp_path / "saved"))
    assert pixels(again.images) == pixels(found.images) and again.picture_labels == labels
    assert again.alone(3).picture_labels == labels[2:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": "<image><image>Which?"}, "holds <image> 2 times and it has 3"),
        ({"question": "Is <image> or <image> like <image>?"}, "says more between its pictures"),
        ({"question": "Which? A: <image> B: <image> C: <image>"}, "says more between its pictures"),
        ({"question": "Is it (a) <image> (b) <image> (c) <image>"}, "says more between"),
        ({"picture_labels": ["a", "b"]}, "picture_labels are"),
        ({"picture_labels": ["a", "b", " "]}, "picture_labels are"),
        ({"picture_labels": ["a", "b", "<image>"]}, "a label holds"),
        (
            {"picture_labels": ["a", "b", "c"], "frame_times": [1, 2, 3]},
            "picture_labels and frame_times",
        ),
        (
            {"picture_labels": list("abc"), "question": "A: <image>B: <image>C: <image>?"},
            "labels in its",
        ),
        ({"frame_times": "soon"}, "frame_times is 'soon'"),
        ({"images": []}, "image is []"),
        ({"images": [*NAMES, "no.png"]}, "no.png does not exist"),
        ({"steps": [{"text": "a", "boxes": [[0, 0, 9, 9]], "pictures": [4]}]}, "names picture 4"),
        ({"steps": [{"text": "a", "boxes": [[0, 0, 9, 45]]}]}, "does not lie in its 64x40"),
        ({"video": "x.mp4"}, "both image and video"),
    ],
)
def test_what_does_not_fit_its_pictures_is_refused(tmp_path, change, message):
    with pytest.raises(ProblemError) as refused:
        read(tmp_path, ROW | change)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_boxes_and_edits_say_which_picture_they_are_of(tmp_path):
    save(tmp_path / "twin.png", 9, size=(64, 48))
    row = ROW | {
        "steps": [{"text": "Red.", "boxes": [[0, 0, 0.5, 1], [0, 0, 1, 0.5]], "pictures": [1, 3]}],
        "boxes": [[0, 0.5, 1, 1]],
        "evidence_pictures": [2],
        "twin": {"image": "twin.png", "answer": "A", "boxes": [[0, 0, 1, 0.5]], "picture": 2},
    }
    found = read(tmp_path, row, boxes="unit")
    assert found.step_boxes(1) == ((0, 0, 32, 40),)
    assert found.step_boxes(1, 3) == ((0, 0, 64, 28),)
    assert found.step_boxes(2, 2) == ((0, 24, 64, 48),)
    assert (found.twin.picture, found.twin.boxes) == (2, ((0, 0, 64, 24),))
    convert_data(tmp_path / "own.jsonl", tmp_path / "saved", boxes="unit")
    assert load_problems(tmp_path / "saved")[0].twin.picture == 2


# --- videos -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two seconds at ten frames a second, each as grey as its place says."""
    file = tmp_path_factory.mktemp("film") / "clip.mp4"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for at in range(20):
        frame = np.full((48, 64, 3), 10 * at, dtype=np.uint8)
        frame[:, 32:, 0] = 255  # OpenCV's first channel is blue.
        writer.write(frame)
    writer.release()
    return file


def grey(image):
    left, right = np.asarray(image)[:, :24], np.asarray(image)[:, 40:]
    assert abs(right[..., 2].mean() - 255) < 12
    return left.mean()


def test_frames_of_a_video_come_from_the_middles_of_equal_parts(film):
    shown, times = film_frames(film, "x", 4)
    assert times == pytest.approx([0.2, 0.7, 1.2, 1.7])
    assert [grey(one) for one in shown] == pytest.approx([20, 70, 120, 170], abs=4)
    assert len(film_frames(film, "x", 100)[0]) == 20


def test_a_video_is_an_item_of_frames_with_their_times(film):
    row = {"video": "clip.mp4", "n_frames": 2, "question": "<video>\nWhat?", "answer": "fog"}
    (found,) = read_data(lines(film.parent / "own.jsonl", [row]))
    assert (found.question, found.picture_labels) == ("What?", ("0.5 s:", "1.5 s:"))
    assert [one.size for one in found.images] == [(64, 48)] * 2
    assert not found.metadata


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path):
    for at in range(12):
        Image.new("RGB", (40, 40), (at, 0, 0)).save(tmp_path / f"f{at}.png")
    (tmp_path / "f99.png").symlink_to(tmp_path / "f0.png")
    shown, times = film_frames(tmp_path, "x", 3, times=[at / 2 for at in range(12)])
    assert [one.getpixel((0, 0))[0] for one in shown] == [2, 6, 10] and times == [1, 3, 5]
    assert film_frames(tmp_path, "x")[1] is None
    for wrong in ({"times": [1]}, {"n_frames": 0}, {"n_frames": 10**6}):
        with pytest.raises(ProblemError, match=next(iter(wrong))):
            film_frames(tmp_path, "x", **wrong)
    Image.new("RGB", (40, 40)).save(tmp_path / "g3.png")
    with pytest.raises(ProblemError, match="a number each"):
        film_frames(tmp_path, "x")


def test_what_is_no_video_never_reaches_opencv(tmp_path, film, monkeypatch):
    """A play list may name addresses; a cut file gives fewer frames than it says."""
    whole = film.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ProblemError, match="damaged or of a kind"):
        film_frames(tmp_path / "cut.mp4", "x")
    monkeypatch.setattr(cv2, "VideoCapture", None)
    for text in ("#EXTM3U\nhttp://example.com/a.ts", "ffconcat version 1.0\nfile /etc/hosts", ""):
        (tmp_path / "list.mp4").write_text(text)
        with pytest.raises(ProblemError, match="is no MP4"):
            film_frames(tmp_path / "list.mp4", "x")


def test_a_video_lies_in_the_folder_of_its_records(tmp_path, film):
    row = {"video": str(film), "question": "What?", "answer": "fog"}
    path = lines(tmp_path / "own.jsonl", [row, row | {"video": "no.mp4"}, row | {"video": 3}])
    outside, missing, number = check_data(path).faults
    assert "lies outside of the data set's folder" in outside and "does not exist" in missing
    assert "video is 3" in number
    held = base64.b64encode(film.read_bytes()).decode()
    assert "does not exist" in check_data(lines(path, [row | {"video": held}])).faults[0]
