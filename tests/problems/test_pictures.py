"""The same picture gives the same pixels, whichever way it comes in."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms

from attcot_analysis.errors import ProblemError
from attcot_analysis.models.inputs import read_image
from attcot_analysis.problems import Edit, Problem, load_problems, save_problems
from attcot_analysis.problems.data import check_data, read_data
from attcot_analysis.problems.data.place import picture as adapter_picture
from attcot_analysis.problems.pictures import is_plain


def gradient():
    rows, cols = np.mgrid[:24, :40]
    pixels = np.stack([cols * 6, rows * 10, np.full_like(rows, 90)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def half_clear(mode):
    """Left half opaque, right half transparent black."""
    image = gradient().convert("RGBA")
    image.paste((0, 0, 0, 0), (20, 0, 40, 24))
    return image.convert(mode)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


SIXTEEN = (np.arange(24 * 40).reshape(24, 40) * 68).astype(np.uint16)
PALETTE = gradient().quantize(16)

CASES = {
    "turned": (gradient(), turned(), np.rot90(np.asarray(gradient()), -1)),
    "alpha": (half_clear("RGBA"), {}, None),
    "grey alpha": (half_clear("LA"), {}, None),
    "palette": (PALETTE, {}, np.asarray(PALETTE.convert("RGB"))),
    "clear palette": (PALETTE, {"transparency": 3}, None),
    "bits": (gradient().convert("1"), {}, np.asarray(gradient().convert("1").convert("RGB"))),
    "16 bits": (Image.fromarray(SIXTEEN), {}, np.repeat(SIXTEEN[..., None] >> 8, 3, axis=2)),
    "clear colour": (Image.new("RGB", (40, 24), (1, 2, 3)), {"transparency": (1, 2, 3)},
                     np.full((24, 40, 3), 255)),
}  # fmt: skip


def ways(tmp_path, image, options):
    """The picture as a file by five readers, as bytes in a table, and in memory."""
    file = tmp_path / "images" / "a.png"
    file.parent.mkdir()
    image.save(file, "PNG", **options)
    data = file.read_bytes()
    opened = Image.open(io.BytesIO(data))
    line = {"id": "a", "question": "What?", "candidates": [], "answer": "x", "steps": []}
    (tmp_path / "problems.jsonl").write_text(json.dumps(line) + "\n")
    own = {"image": "images/a.png", "question": "What?", "answer": "x"}
    (tmp_path / "own.jsonl").write_text(json.dumps(own) + "\n")
    row = {"question": "What?", **{f"answer{n}": "xyz"[n - 1] for n in (1, 2, 3)}}
    row |= {f"image{n}": data for n in (1, 2, 3)}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    (kept,) = load_problems(tmp_path)
    (light,) = load_problems(tmp_path, keep_pictures=False)
    assert light.size == kept.size == light.image.size
    (from_lines,) = read_data(tmp_path / "own.jsonl")
    from_table, *_ = read_data(tmp_path / "train.parquet", "vilp")
    save_problems([from_lines], tmp_path / "again")
    return {
        "path": read_image(file),
        "memory": read_image(opened),
        "twice": read_image(read_image(opened)),
        "folder": kept.image,
        "folder, later": light.image,
        "own data": from_lines.image,
        "saved again": load_problems(tmp_path / "again")[0].image,
        "bytes in a table": from_table.image,
        "dict": adapter_picture({"bytes": data, "path": None}, "here"),
        "path in a dict": adapter_picture({"bytes": None, "path": str(file)}, "here"),
        "in memory, by an adapter": adapter_picture(opened, "here"),
    }


@pytest.mark.parametrize("case", CASES)
def test_a_picture_is_the_same_whichever_way_it_comes(tmp_path, case):
    image, options, expected = CASES[case]
    found = {way: np.asarray(one) for way, one in ways(tmp_path, image, options).items()}
    first = found["path"] if expected is None else expected
    for way, pixels in found.items():
        np.testing.assert_array_equal(pixels, first, err_msg=way)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode):
    pixels = np.asarray(read_image(half_clear(mode)))
    assert (pixels[:, 20:] == 255).all()
    shown = gradient().convert(mode.removesuffix("A")).convert("RGB")
    np.testing.assert_array_equal(pixels[:, :20], np.asarray(shown)[:, :20])


def test_sixteen_bits_become_eight_over_their_whole_range(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "x.tiff")
    for given in (Image.fromarray(values), tmp_path / "x.png", tmp_path / "x.tiff"):
        assert np.asarray(read_image(given))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_no_known_range_are_refused(tmp_path, mode):
    image = Image.new(mode, (4, 4), 300)
    image.save(tmp_path / "x.tiff")
    for given in (image, tmp_path / "x.tiff"):
        with pytest.raises(ProblemError, match=f"mode {mode}, .*convert it to 8-bit RGB"):
            read_image(given)


def wide_profile():
    """A profile whose red, green and blue are stronger than those of sRGB."""
    held = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # The name alone tells the profiles apart here; a real one differs in its primaries, too.
    named = held.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be"))
    at = named.index(b"rXYZ", 128)
    where = int.from_bytes(named[at + 4 : at + 8], "big") + 8
    x = int(int.from_bytes(named[where : where + 4], "big") * 0.8)
    return named[:where] + x.to_bytes(4, "big") + named[where + 4 :]


def test_colours_of_another_profile_are_converted(tmp_path):
    plain = gradient()
    ours = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain.save(tmp_path / "ours.png", icc_profile=ours)
    plain.save(tmp_path / "wide.png", icc_profile=wide_profile())
    same, wide = (np.asarray(read_image(tmp_path / f"{one}.png")) for one in ("ours", "wide"))
    np.testing.assert_array_equal(same, np.asarray(plain))
    assert np.abs(wide.astype(int) - same).max() > 5
    opened = Image.open(tmp_path / "wide.png")
    assert not is_plain(tmp_path / "wide.png") and is_plain(tmp_path / "ours.png")
    problem = Problem("a", opened, "What?", (), "x")
    np.testing.assert_array_equal(np.asarray(problem.image), wide)
    np.testing.assert_array_equal(np.asarray(read_image(read_image(opened))), wide)
    plain.convert("CMYK").save(tmp_path / "ink.jpg", quality=100)
    ink = np.asarray(read_image(tmp_path / "ink.jpg")).astype(int)
    assert np.abs(ink - np.asarray(plain)).mean() < 12
    plain.save(tmp_path / "odd.png", icc_profile=b"no profile")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "odd.png")), np.asarray(plain))


@pytest.mark.parametrize("name", ["a.gif", "a.tiff", "a.webp", "a.png"])
def test_animations_and_pages_are_refused_by_name(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), (at, 0, 0)) for at in (0, 90, 200)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(ProblemError, match=rf"{name} has 3 frames or pages; save the one"):
        read_image(tmp_path / name)
    frames[0].save(tmp_path / name)
    assert read_image(tmp_path / name).size == (8, 8)


def test_a_check_says_what_was_put_on_white(tmp_path):
    half_clear("RGBA").save(tmp_path / "1.png")
    gradient().convert("RGBA").save(tmp_path / "2.png")
    rows = [{"image": f"{at}.png", "question": "What?", "answer": "x"} for at in (1, 2)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        "1 pictures are clear in places" in check_data(tmp_path / "a.jsonl").coverage.warnings[-1]
    )


def test_a_picture_in_memory_that_is_damaged_is_refused_in_a_sentence():
    buffer = io.BytesIO()
    gradient().save(buffer, "PNG")
    cut = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    with pytest.raises(ProblemError, match="The image cannot be read"):
        read_image(Image.open(io.BytesIO(cut)))
    with pytest.raises(ProblemError, match="here: its picture is damaged or no picture"):
        adapter_picture(Image.open(io.BytesIO(cut)), "here")


def test_boxes_are_of_the_upright_picture_in_memory_too(tmp_path):
    buffer = io.BytesIO()
    gradient().save(buffer, "JPEG", quality=95, **turned())
    photo = Image.open(buffer)
    low = ((0.0, 30.0, 10.0, 38.0),)  # Below the lower edge of the picture as it is stored.
    twin = Edit("twin", Image.open(buffer), "b", (), low)
    problem = Problem("a", photo, "What?", ("a", "b"), "a", evidence=low, twin=twin)
    assert problem.size == problem.image.size == problem.twin.image.size == (24, 40)
    save_problems([problem], tmp_path / "set")
    (back,) = load_problems(tmp_path / "set")
    assert back.image.tobytes() == problem.image.tobytes() == read_image(photo).tobytes()


def test_a_tag_behind_the_pixels_counts_as_well(tmp_path):
    buffer = io.BytesIO()
    gradient().save(buffer, "PNG", **turned())
    png = buffer.getvalue()
    at = png.index(b"eXIf") - 4
    length = 12 + int.from_bytes(png[at : at + 4], "big")
    chunk, rest = png[at : at + length], png[:at] + png[at + length :]
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(rest[:-12] + chunk + rest[-12:])
    line = {"id": "a", "question": "What?", "candidates": [], "answer": "x", "steps": []}
    (tmp_path / "problems.jsonl").write_text(json.dumps(line) + "\n")
    (kept,) = load_problems(tmp_path)
    (light,) = load_problems(tmp_path, keep_pictures=False)
    assert light.size == light.image.size == kept.size == (24, 40)
