"""Pictures that are damaged, huge, tiny, turned, or of another mode."""

import pickle
import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from faults import sentence, survives
from PIL import Image

from attcot_analysis.errors import LayoutError, ProblemError
from attcot_analysis.models import encode_problem
from attcot_analysis.models.inputs import read_image
from attcot_analysis.problems import Problem, load_problems, save_problems
from attcot_analysis.problems.folder import problem_record
from attcot_analysis.runs.provenance import problems_hash
from attcot_lab.testbed.arrows import generate_arrows


def problem(image: Image.Image) -> Problem:
    return Problem("p", image, "Which?", ("a", "b"), "a")


def gradient(width: int = 40, height: int = 24) -> Image.Image:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width) * 6
    pixels[..., 1] = np.arange(height)[:, None] * 10
    return Image.fromarray(pixels)


def saved(folder: Path) -> Path:
    """A problem folder with one picture; where that lies."""
    save_problems([problem(gradient())], folder)
    return folder / "images" / "p.png"


def claiming(width: int, height: int) -> bytes:
    """A small PNG whose header claims another size."""
    buffer = BytesIO()
    gradient().save(buffer, "PNG")
    png = buffer.getvalue()
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_cut_pictures_are_named(tmp_path, fault):
    path = saved(tmp_path / "set")
    whole = path.read_bytes()
    for kept in (0, 1, 8, 20, 33, 60, len(whole) // 2):
        path.write_bytes(whole[:kept])
        with fault("cut or corrupt picture"):
            for read in (lambda: load_problems(tmp_path / "set"), lambda: read_image(path)):
                with pytest.raises(ProblemError, match=r"p\.png") as caught:
                    read()
                sentence(caught.value)


def test_pictures_left_on_the_disk_are_those_in_memory(tmp_path):
    given = generate_arrows(3, seed=0)
    save_problems(given, tmp_path / "set")
    light = load_problems(tmp_path / "set", keep_pictures=False)
    assert problems_hash(light) == problems_hash(given)
    assert problems_hash(pickle.loads(pickle.dumps(light))) == problems_hash(given)
    for one, other in zip(light, given, strict=True):
        assert isinstance(one, Problem) and one.size == other.image.size
        assert problem_record(one) == problem_record(other)
        again = replace(one, twin=None, image=one.image)
        assert again.image.tobytes() == other.image.tobytes() and again.size == one.size
        assert again.twin is None and one.twin.answer == other.twin.answer
        held = [part for part in vars(one).values() if isinstance(part, Image.Image)]
        assert not held


def test_a_picture_that_is_damaged_or_gone_later_is_named(tmp_path, fault):
    path = saved(tmp_path / "set")
    (light,) = load_problems(tmp_path / "set", keep_pictures=False)
    path.write_bytes(path.read_bytes()[:60])
    with fault("cut or corrupt picture"), pytest.raises(ProblemError, match="damaged") as caught:
        _ = light.image
    assert str(path) in sentence(caught.value)
    path.unlink()
    with fault("cut or corrupt picture"), pytest.raises(ProblemError, match="does not exist"):
        _ = light.image
    with pytest.raises(ProblemError, match="does not exist"):
        load_problems(tmp_path / "set", keep_pictures=False)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, fault):
    path = saved(tmp_path / "set")
    for size in ((10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)):
        path.write_bytes(claiming(*size))
        with fault("decompression bomb"):
            for read in (lambda: load_problems(tmp_path / "set"), lambda: read_image(path)):
                with pytest.raises(ProblemError) as caught:
                    read()
                assert "pixels" in sentence(caught.value) or "damaged" in str(caught.value)


def test_a_turned_picture_is_read_upright(tmp_path, fault):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "set")
    gradient().save(path, "PNG", exif=exif)
    gradient().save(tmp_path / "turned.jpg", quality=95, exif=exif)
    with fault("EXIF rotation"):
        (found,) = load_problems(tmp_path / "set")
        upright = gradient().transpose(Image.Transpose.ROTATE_270)
        assert found.image.tobytes() == upright.tobytes()
    with fault("EXIF rotation"):
        assert read_image(tmp_path / "turned.jpg").size == (24, 40)


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "LA", "P", "1", "L", "YCbCr"])
def test_other_modes_become_rgb(mode, tmp_path, fault):
    image = gradient().convert(mode)
    path = tmp_path / f"x.{'tiff' if mode in ('CMYK', 'YCbCr') else 'png'}"
    image.save(path)
    with fault("CMYK, alpha and other modes"):
        assert read_image(path).mode == "RGB"
        assert read_image(image).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_no_known_range_are_refused_rather_than_cut(mode, tmp_path, fault):
    image = Image.fromarray(np.full((4, 4), 300, np.uint16)).convert("I").convert(mode)
    image.save(tmp_path / "x.tiff")
    with fault("CMYK, alpha and other modes"):
        for given in (image, tmp_path / "x.tiff"):
            with pytest.raises(ProblemError, match="convert it to 8-bit RGB") as caught:
                read_image(given)
            sentence(caught.value)


def test_pictures_of_any_shape_are_encoded_or_refused(random_mllm, fault):
    outcomes = {}
    for size in ((1, 1), (1, 40), (40, 1), (3, 1000), (10_000, 40), (40, 10_000), (10_000, 60)):
        with fault("1-pixel and 10k-pixel pictures"):
            given = problem(Image.new("RGB", size, (9, 99, 9)))
            outcomes[size] = survives(lambda given=given: encode_problem(random_mllm, given))
    # The processor's own rule: one side at most 200 times the other.
    assert outcomes[1, 1] is None and outcomes[10_000, 60] is None
    assert outcomes[10_000, 40] is not None and "Problem p: " in outcomes[10_000, 40]


def test_a_processor_that_fails_is_quoted(random_mllm, fault, monkeypatch):
    def divide(*_, **__):
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(type(random_mllm.processor), "__call__", divide)
    with fault("1-pixel and 10k-pixel pictures"), pytest.raises(LayoutError) as caught:
        encode_problem(random_mllm, problem(gradient()))
    assert "float division by zero" in sentence(caught.value)
