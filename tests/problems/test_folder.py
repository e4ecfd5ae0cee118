import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems import Edit, Problem, Step, load_problems, save_problems
from attcot_analysis.problems.folder import problem_record
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows


def picture(seed=0, size=(6, 4)):
    pixels = np.random.default_rng(seed % 1000).integers(
        0, 256, (size[1], size[0], 3), dtype=np.uint8
    )
    return Image.fromarray(pixels)


def small(name="a", **changes):
    fields = {
        "id": name,
        "image": picture(),
        "question": "Which colour?",
        "candidates": ("red", "blue"),
        "answer": "red",
    }
    return Problem(**{**fields, **changes})


def same(first, second):
    """Equality of problems with the pictures compared by pixel."""
    if problem_record(first) != problem_record(second):
        return False
    pairs = list(zip(first.images, second.images, strict=True))
    pairs += [
        (a.image, b.image)
        for a, b in ((first.twin, second.twin), (first.control, second.control))
        if a is not None and b is not None
    ]
    return all(a.size == b.size and a.tobytes() == b.tobytes() for a, b in pairs)


def all_bytes(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_arrows_come_back_as_they_went(tmp_path):
    problems = generate_arrows(5, ArrowsConfig(noise=80.0), seed=3)
    save_problems(problems, tmp_path / "new" / "set")
    back = load_problems(tmp_path / "new" / "set")
    assert [problem.id for problem in back] == [problem.id for problem in problems]
    assert all(map(same, problems, back))
    assert [p.metadata for p in back] == [dict(p.metadata) for p in problems]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["set"]


def test_same_problems_same_bytes(tmp_path):
    problems = generate_arrows(3, ArrowsConfig(), seed=1)
    save_problems(problems, tmp_path / "a")
    save_problems(load_problems(tmp_path / "a"), tmp_path / "b")
    assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")


def test_what_an_image_carries_beside_pixels_is_not_written(tmp_path):
    tagged = picture()
    tagged.info.update(icc_profile=b"x" * 100, exif=b"Exif\0\0", dpi=(72, 72))
    save_problems([small(image=tagged)], tmp_path / "a")
    save_problems([small()], tmp_path / "b")
    assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")


text = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
words = text.filter(lambda s: s.strip())
lines = words.filter(lambda s: len(s.splitlines()) == 1)
numbers = st.floats(0, 8).filter(lambda x: x > 0.01)
boxes = st.lists(
    st.tuples(numbers, numbers, numbers, numbers)
    .filter(lambda b: b[0] != b[2] and b[1] != b[3])
    .map(lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))),
    max_size=2,
).map(tuple)
steps = st.lists(st.builds(Step, text=lines, boxes=boxes), max_size=3).map(tuple)
metadata = st.dictionaries(
    text,
    st.one_of(text, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()),
)


@st.composite
def problems(draw, name):
    candidates = tuple(draw(st.lists(words, min_size=2, max_size=4, unique=True)))
    image = picture(draw(st.integers(0, 99)), (8, 8))
    seeds = st.integers(0, 99)

    more = [picture(seed, (8, 8)) for seed in draw(st.lists(seeds, max_size=2))]
    number = st.integers(1, 1 + len(more))

    def edit(kind, answer):
        shown = picture(draw(seeds), (8, 8))
        return Edit(kind, shown, answer, draw(steps), draw(boxes), draw(number))

    def placed(step):
        size = len(step.boxes) if draw(st.booleans()) else 1
        return Step(step.text, step.boxes, draw(st.lists(number, min_size=size, max_size=size)))

    return Problem(
        id=name,
        image=image,
        question=draw(words),
        candidates=candidates,
        answer=candidates[0],
        steps=[placed(step) for step in draw(steps)] if more else draw(steps),
        more_images=more,
        evidence_pictures=(draw(number),) if more else (),
        twin=edit("twin", candidates[1]) if draw(st.booleans()) else None,
        control=edit("control", candidates[0]) if draw(st.booleans()) else None,
        habitual=draw(st.sampled_from([None, *candidates])),
        metadata=draw(metadata),
    )


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_round_trip_of_any_problem(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("round") / "set"
    before = [
        data.draw(problems(name))
        for name in ("one", "two-2", "3.x_y")[: data.draw(st.integers(1, 3))]
    ]
    save_problems(before, folder)
    after = load_problems(folder)
    assert len(after) == len(before)
    assert all(map(same, before, after))


@pytest.mark.parametrize("keep", [True, False])
def test_several_pictures_lie_beside_each_other_and_single_ones_where_they_did(tmp_path, keep):
    more = [picture(1, (5, 5)), picture(2, (7, 3))]
    one, other = small("a"), small("b", more_images=more)
    folder = save_problems([one, other], tmp_path / "set")
    assert {name for name in all_bytes(folder) if name.startswith("images")} == {
        *("images/a.png", "images/b.png", "images/2/b.png", "images/3/b.png")
    }
    assert "n_images" not in problem_record(one)
    back = load_problems(folder, keep_pictures=keep)
    assert [found.n_images for found in back] == [1, 3]
    assert back[1].sizes == ((6, 4), (5, 5), (7, 3))
    assert same(back[1].alone(3), small("b", image=more[1]))
    (folder / "images" / "3" / "b.png").unlink()
    with pytest.raises(ProblemError, match=r"images/3/b\.png does not exist"):
        load_problems(folder, keep_pictures=keep)


def test_limit_reads_no_further(tmp_path):
    save_problems([small("a"), small("b"), small("c")], tmp_path / "set")
    path = tmp_path / "set" / "problems.jsonl"
    path.write_text(path.read_text() + "not json\n")
    assert [p.id for p in load_problems(tmp_path / "set", limit=2)] == ["a", "b"]
    with pytest.raises(ProblemError, match="limit is 0"):
        load_problems(tmp_path / "set", limit=0)


def test_never_overwrites_silently(tmp_path):
    folder = tmp_path / "set"
    save_problems([small("a"), small("b")], folder)
    before = all_bytes(folder)
    with pytest.raises(ProblemError, match="exists already"):
        save_problems([small("c")], folder)
    assert all_bytes(folder) == before
    save_problems([small("c")], folder, overwrite=True)
    assert [p.id for p in load_problems(folder)] == ["c"]
    assert not (folder / "images" / "a.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ProblemError, match="not a problem folder"):
        save_problems([small()], tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch):
    folder = tmp_path / "set"
    save_problems([small("a")], folder)
    before = all_bytes(folder)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_problems([small("b")], folder, overwrite=True)
    assert all_bytes(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_empty_folder_is_filled(tmp_path):
    save_problems([small()], tmp_path)
    assert len(load_problems(tmp_path)) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "No problems were given"),
        ([small("a"), small("a")], "occurs twice"),
    ],
)
def test_what_cannot_be_saved(tmp_path, bad, message):
    with pytest.raises(ProblemError, match=message) as caught:
        save_problems(bad, tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()


NAMES = [
    *("a", "A", "../up", "a/b", "a\\b", ".hidden", "_x", "nul\0", "é", "e\u0301", "a b", "a b "),
    *("x.twin", "x", "x.control", "con", "NUL.txt", "a\nb", "漢字", "y" * 220, "y" * 221, "<b>"),
]


def test_every_id_is_data_and_every_file_name_ours(tmp_path):
    folder = save_problems(
        [
            small(name, image=picture(at), twin=Edit("twin", picture(-at - 1), "blue", (), ()))
            for at, name in enumerate(NAMES)
        ],
        tmp_path / "set",
    )
    found = load_problems(folder, keep_pictures=False)
    assert [problem.id for problem in found] == NAMES
    for at, problem in enumerate(found):
        assert problem.image.tobytes() == picture(at).tobytes()
        assert problem.twin.image.tobytes() == picture(-at - 1).tobytes()
    files = [path.name for path in (folder / "images").iterdir()]
    assert len({file.lower() for file in files}) == len(files) == 2 * len(NAMES)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,120}\.png", file) for file in files)


def test_a_published_folder_names_pictures_by_ids_of_capitals_too(tmp_path):
    folder = save_problems([small("Kitchen_7")], tmp_path / "set")
    (file,) = (folder / "images").iterdir()
    file.rename(folder / "images" / "Kitchen_7.png")
    assert same(load_problems(folder)[0], small("Kitchen_7"))
    # The picture of a's twin is not that of the item a.twin.
    folder = save_problems([small("a.twin")], tmp_path / "other")
    (file,) = (folder / "images").iterdir()
    file.rename(folder / "images" / "a.twin.png")
    with pytest.raises(ProblemError, match="does not exist"):
        load_problems(folder)


RECORD = {"id": "a", "question": "Which?", "candidates": ["red", "blue"], "answer": "red"}
TWIN = {"answer": "blue", "steps": [], "boxes": [[0, 0, 2, 2]]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[" * 100_000, "line 2 is not valid JSON"),
        ('{"id": NaN}', "NaN is not a JSON number"),
        (b"\xff\xfe", "line 2 is not valid JSON"),
        ("[1, 2]", "line 2 holds \\[1, 2\\]; expected a JSON object"),
        ("{}", "line 2 lacks id, question, candidates, answer"),
        ({k: v for k, v in RECORD.items() if k != "answer"}, "line 2 lacks answer"),
        ({**RECORD, "habitaul": "red"}, "unknown field 'habitaul'"),
        ({**RECORD, "id": "first"}, "occurs twice"),
        ({**RECORD, "id": "../first"}, r"images/first-[0-9a-f]{16}.png does not exist"),
        ({**RECORD, "id": "/etc/passwd"}, r"images/etc-passwd-[0-9a-f]{16}.png does not exist"),
        ({**RECORD, "id": 3}, "id is 3; expected a text"),
        ({**RECORD, "id": ""}, "id is ''; expected a text"),
        ({**RECORD, "id": "absent"}, "images/absent.png does not exist"),
        ({**RECORD, "question": 3}, "question is 3; expected a string"),
        ({**RECORD, "question": " "}, "line 2: Problem a: the question is empty"),
        ({**RECORD, "candidates": "red"}, "candidates is 'red'; expected a list"),
        ({**RECORD, "candidates": ["red", 1]}, "candidates, number 2, is 1; expected a string"),
        ({**RECORD, "answer": "green"}, "'green' is not one of the candidates"),
        ({**RECORD, "habitual": ["red"]}, "habitual is"),
        ({**RECORD, "steps": ["look"]}, "step holds 'look'; expected a JSON object"),
        ({**RECORD, "steps": [{"boxes": []}]}, "step lacks text"),
        ({**RECORD, "steps": [{"text": "a\nb"}]}, "line 2: Step .* spans several lines"),
        ({**RECORD, "steps": [{"text": "x", "boxes": [[0, 0, 9, 9]]}]}, "does not lie in its 6x4"),
        ({**RECORD, "steps": [{"text": "x", "boxes": [[0, 0, 1]]}]}, "expected four numbers"),
        ({**RECORD, "steps": [{"text": "x", "boxes": [[0, 0, 1, True]]}]}, "expected four numbers"),
        ({**RECORD, "steps": [{"text": "x", "boxes": [[0, 0, 1, 10**400]]}]}, "four numbers"),
        ({**RECORD, "metadata": []}, "metadata is \\[\\]"),
        ({**RECORD, "metadata": {"a": None}}, "metadata 'a' is None"),
        ({**RECORD, "twin": 3}, "line 2, twin holds 3"),
        ({**RECORD, "twin": {"answer": "blue"}}, "line 2, twin lacks steps, boxes"),
        ({**RECORD, "twin": {**TWIN, "answer": "red"}}, "the twin's answer must differ"),
        ({**RECORD, "control": TWIN}, "a.control.png does not exist"),
        ({**RECORD, "n_images": 2}, "images/2/a.png does not exist"),
        ({**RECORD, "n_images": 10**9}, "expected a whole number from 1 to 1000"),
        ({**RECORD, "steps": [{"text": "x", "pictures": ["2"]}]}, "whole numbers from 1"),
    ],
)  # fmt: skip
def test_bad_lines_are_one_sentence_with_their_number(tmp_path, record, message):
    save_problems([small("first")], tmp_path)
    for name in ("a", "a.twin"):
        picture().save(tmp_path / "images" / f"{name}.png")
    path = tmp_path / "problems.jsonl"
    line = record if isinstance(record, str | bytes) else json.dumps(record)
    path.write_bytes(
        path.read_bytes() + (line if isinstance(line, bytes) else line.encode()) + b"\n"
    )
    with pytest.raises(ProblemError, match=message) as caught:
        load_problems(tmp_path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_no_such_folder(tmp_path):
    with pytest.raises(ProblemError, match=r"There is no folder .*nowhere"):
        load_problems(tmp_path / "nowhere")
    (tmp_path / "problems.jsonl").write_text("\n\n")
    with pytest.raises(ProblemError, match="holds no problems"):
        load_problems(tmp_path)
    (tmp_path / "odd" / "problems.jsonl").mkdir(parents=True)
    with pytest.raises(ProblemError, match="cannot be read"):
        load_problems(tmp_path / "odd")


def one_image(folder, write):
    save_problems([small()], folder)
    path = folder / "images" / "a.png"
    path.unlink()
    write(path)
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b""), "damaged or not a PNG"),
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40), "damaged or not a PNG"),
        (lambda path: path.write_text("hello"), "damaged or not a PNG"),
        (lambda path: picture().save(path, format="JPEG"), "damaged or not a PNG"),
        (lambda path: path.mkdir(), "damaged or not a PNG"),
        (lambda path: picture().convert("CMYK").save(path, format="TIFF"), "damaged or not a PNG"),
    ],
)
def test_bad_images(tmp_path, write, message):
    path = one_image(tmp_path, write)
    with pytest.raises(ProblemError, match=message) as caught:
        load_problems(tmp_path)
    assert str(path) in str(caught.value)
    assert "line 1" in str(caught.value)


def test_truncated_image(tmp_path):
    path = one_image(tmp_path, lambda p: picture(size=(300, 300)).save(p))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ProblemError, match=r"a\.png is damaged"):
        load_problems(tmp_path)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_decompression_bomb(tmp_path, side):
    one_image(tmp_path, lambda path: Image.new("1", (side, side)).save(path))
    with pytest.raises(ProblemError, match=r"has more than .* pixels"):
        load_problems(tmp_path)


def test_compressed_text_bomb(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 10_000_000, zip=True)
    one_image(tmp_path, lambda path: picture().save(path, pnginfo=info))
    with pytest.raises(ProblemError, match="damaged or not a PNG"):
        load_problems(tmp_path)


def test_orientation_tags_turn_a_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    one_image(tmp_path, lambda path: picture().save(path, exif=exif))
    (problem,) = load_problems(tmp_path)
    upright = picture().transpose(Image.Transpose.ROTATE_270)
    assert problem.size == upright.size and problem.image.tobytes() == upright.tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1"])
def test_other_eight_bit_pictures_become_rgb(tmp_path, mode):
    one_image(tmp_path, lambda path: picture().convert(mode).save(path))
    assert load_problems(tmp_path)[0].image.mode == "RGB"


def test_blank_lines_windows_ends_and_a_byte_order_mark_are_fine(tmp_path):
    save_problems([small("a"), small("b")], tmp_path)
    path = tmp_path / "problems.jsonl"
    text = path.read_text().replace("\n", "\r\n\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [p.id for p in load_problems(tmp_path)] == ["a", "b"]
