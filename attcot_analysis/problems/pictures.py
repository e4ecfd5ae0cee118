"""Pictures: the one way in which they are read, from a file, from bytes or from memory."""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from attcot_analysis.errors import ProblemError, one_line, passing
from attcot_analysis.files import inside, regular

_LATE = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")
"""Chunks of a PNG that may tell its orientation behind the pixels."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")
"""What is read, decided by content; Pillow would start Ghostscript on PostScript named x.png."""

_CACHES = ("HUB", "DATASETS")

DAMAGED_PNG = "is damaged or not a PNG"
"""What to say of a file of a problem folder that is not a readable picture."""


def check_inside(file: Path, name: str, instead: str, *folders: Path) -> None:
    """Refuse a picture elsewhere, which a stranger's data set would have shown in a report.

    The cache of the hub, whose files link to one another, holds nothing of one's own.

    Args:
        file: The picture's.
        name: For messages.
        instead: What to do if it is meant to be read.
        folders: Where pictures may lie.

    Raises:
        ProblemError: If it lies outside of them, or a link leads out of them.
    """
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    caches = [os.environ.get(f"HF_{part}_CACHE", home / part.lower()) for part in _CACHES]
    if not inside(file, *folders, *(Path(cache).expanduser() for cache in caches)):
        raise ProblemError(f"{name} lies outside of the data set's folder; {instead}.")


def upright_rgb(image: Image.Image, name: str = "The image") -> Image.Image:
    """A picture as it is shown: 8-bit sRGB, upright, on white where it is transparent.

    The orientation tag turns it, and colours of another profile (CMYK, Display P3) are converted by
    it. Of 16 bits the upper eight are kept, as Pillow itself does with 16-bit colour. A picture
    that is all this already comes back as it is; one that was put on white has ``on_white`` in its
    ``info``.

    Args:
        image: From memory, or opened.
        name: For messages.

    Raises:
        ProblemError: If its pixels have no known range (32-bit whole numbers, or fractions), or it
            has several frames or pages.
    """
    _check_frames(image, name)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    clear = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if clear is not None:
            grey[values == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ProblemError(
            f"{name} has mode {image.mode}, whose values have no known range; convert it to 8-bit "
            "RGB."
        )
    if clear is not None or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        straight = image.convert("LA") if image.mode == "La" else image
        over = straight.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        flat = Image.alpha_composite(white, over).convert("RGB")
        shown = _in_srgb(flat, _other_profile(image))
        if over.getchannel("A").getextrema() != (255, 255):
            shown.info["on_white"] = True
        return shown
    if image.mode == "P":
        return _in_srgb(image.convert("RGB"), _other_profile(image))
    shown = _in_srgb(image, _other_profile(image))
    return shown if shown.mode == "RGB" else shown.convert("RGB")


def is_plain(file: Path) -> bool:
    """Whether every reader of a PNG sees the same pixels: grey or RGB, upright, nothing clear.

    Raises:
        ProblemError: As `open_picture`.
    """
    with _reading(str(file), DAMAGED_PNG), Image.open(file, formats=["PNG"]) as image:
        plain = image.mode in ("RGB", "L") and "transparency" not in image.info
        return plain and _orientation(image, file) == 1 and _other_profile(image) is None


def _check_frames(image: Image.Image, name: str) -> None:
    """Refuse an animation or several pages; the second picture of a telephone's is a copy."""
    try:
        n = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    except (EOFError, OSError, ValueError):
        return
    if n > 1:
        raise ProblemError(
            f"{name} has {n} frames or pages; save the one that is meant as a picture of its own."
        )


def _other_profile(image: Image.Image) -> bytes | None:
    """The colour profile of a picture whose colours are not sRGB."""
    held = image.info.get("icc_profile")
    try:
        said = held and ImageCms.getProfileDescription(ImageCms.getOpenProfile(io.BytesIO(held)))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None  # A profile that cannot be read: the colours are taken as they are.
    return held if said and "srgb" not in said.lower() else None


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile is None:
        return image
    ours = ImageCms.createProfile("sRGB")
    try:
        theirs = ImageCms.getOpenProfile(io.BytesIO(profile))
        shown = ImageCms.profileToProfile(image, theirs, ours, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image  # A profile of another kind of picture.
    if shown is None:
        return image
    shown.info.pop("icc_profile", None)
    return shown


def open_picture(
    file: str | Path | BinaryIO | Image.Image,
    name: str,
    *,
    damaged: str = "is damaged or no picture",
    formats: Sequence[str] = FORMATS,
) -> Image.Image:
    """Open a file and read it as `upright_rgb` does.

    Args:
        file: Path, an opened file, or a picture in memory, which may still have to be decoded.
        name: For messages.
        damaged: What to say of a file that is not a readable picture.
        formats: Of Pillow, which alone are read, whatever the file is called.

    Raises:
        ProblemError: If it is missing, damaged, too large or of no known range.
    """
    with _reading(name, damaged):
        if isinstance(file, Image.Image):
            file.load()
            return upright_rgb(file, name)
        opened = regular(Path(file)) if isinstance(file, str | Path) else file
        with Image.open(opened, formats=list(formats)) as image:
            upright = upright_rgb(image, name)
            upright.load()
            return upright


@dataclass(frozen=True)
class StoredPicture:
    """A picture that stays in its PNG file until it is read.

    Attributes:
        file: Where it lies.
        name: For messages.
        size: Width and height once it is upright.
    """

    file: Path
    name: str
    size: tuple[int, int]
    mode = "RGB"

    @classmethod
    def at(cls, file: Path, name: str) -> "StoredPicture":
        """A stored picture of the size that its header gives; pixels are decoded only if they must.

        Raises:
            ProblemError: As `open_picture`.
        """
        with _reading(name, DAMAGED_PNG), Image.open(regular(file), formats=["PNG"]) as image:
            _check_frames(image, name)
            if image.mode in ("I", "F"):
                upright_rgb(image, name)
            return cls(file, name, _shown_size(image, file))

    def read(self) -> Image.Image:
        """The picture, read now or at one of the last looks.

        Raises:
            ProblemError: As `open_picture`.
        """
        return _read_stored(self, self.stamp())

    def stamp(self) -> tuple[int, ...]:
        """What tells the file from one that is written anew; empty if it cannot be looked at."""
        try:
            status = self.file.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino


# Looks are often at the same few pictures; the stamp tells a file that was written anew.
@lru_cache(maxsize=16)
def _read_stored(picture: StoredPicture, stamp: tuple[int, ...]) -> Image.Image:
    return open_picture(picture.file, picture.name, damaged=DAMAGED_PNG, formats=["PNG"])


def beside(sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Where several pictures lie on one sheet, four in a row, and the sheet's width and height."""
    rows = [sizes[at : at + _IN_A_ROW] for at in range(0, len(sizes), _IN_A_ROW)]
    places: list[tuple[int, int]] = []
    top = widest = 0
    for row in rows:
        left = 0
        for width, _ in row:
            places.append((left, top))
            left += width + _GAP
        widest, top = max(widest, left - _GAP), top + max(height for _, height in row) + _GAP
    return places, (widest, top - _GAP)


_IN_A_ROW = 4
_GAP = 12
"""Pixels between pictures on a sheet."""


@contextmanager
def _reading(name: str, damaged: str) -> Iterator[None]:
    """Turn whatever a file that cannot be read raises into one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except ProblemError:
        raise
    except FileNotFoundError:
        raise ProblemError(f"{name} does not exist; check the path.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ProblemError(
            f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust the file."
        ) from error
    # The many formats fail on damaged files in many ways.
    except Exception as error:
        reason = one_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise passing(error, name, ProblemError) or ProblemError(
            f"{name} {damaged} ({reason})."
        ) from error


def _shown_size(image: Image.Image, file: Path) -> tuple[int, int]:
    """Width and height once it is upright."""
    turned = _orientation(image, file) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def _orientation(image: Image.Image, file: Path) -> int:
    """How a PNG is turned, 1 for upright; its pixels are decoded only if they must be."""
    late = any(mark in file.read_bytes() for mark in _LATE)
    exif = image.getexif() if late else Image.Image.getexif(image)
    return int(exif.get(ExifTags.Base.Orientation, 1))
