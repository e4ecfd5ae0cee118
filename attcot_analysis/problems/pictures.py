"""Pictures: the one way in which they are read, from a file, from bytes or from memory."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from attcot_analysis.errors import ProblemError, passing

_LATE = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")
"""Chunks of a PNG that may tell its orientation behind the pixels."""


def upright_rgb(image: Image.Image, name: str = "The image") -> Image.Image:
    """A picture as it is shown: 8-bit RGB, upright, on white where it is transparent.

    The orientation tag turns it. Of 16 bits the upper eight are kept, as Pillow itself does with
    16-bit colour. A picture that is all this already comes back as it is.

    Args:
        image: From memory, or opened.
        name: For messages.

    Raises:
        ProblemError: If its pixels have no known range (32-bit whole numbers, or fractions).
    """
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
        return Image.alpha_composite(white, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def is_plain(image: Image.Image) -> bool:
    """Whether every reader takes it for the same pixels: grey or RGB, upright, nothing clear."""
    upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    return image.mode in ("RGB", "L") and upright and "transparency" not in image.info


def open_picture(
    file: str | Path | BinaryIO | Image.Image,
    name: str,
    *,
    damaged: str = "is damaged or no picture",
    formats: list[str] | None = None,
    blank: bool = False,
) -> Image.Image:
    """Open a file and read it as `upright_rgb` does.

    Args:
        file: Path, an opened file, or a picture in memory, which may still have to be decoded.
        name: For messages.
        damaged: What to say of a file that is no readable picture.
        formats: Of Pillow, which alone are read; default all.
        blank: Give a blank picture of the same size, which need not be decoded for it.

    Raises:
        ProblemError: If it is missing, damaged, too large or of no known range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(file, Image.Image):
                file.load()
                return upright_rgb(file, name)
            with Image.open(file, formats=formats) as image:
                if blank and image.mode not in ("I", "F"):
                    return Image.new("RGB", _shown_size(image, file))
                found = upright_rgb(image, name)
                found.load()
                return found
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise passing(error, name, ProblemError) or ProblemError(
            f"{name} {damaged} ({reason})."
        ) from error


def _shown_size(image: Image.Image, file: str | Path | BinaryIO) -> tuple[int, int]:
    """Width and height once it is upright; the pixels are decoded only if they must be."""
    late = isinstance(file, str | Path) and any(mark in Path(file).read_bytes() for mark in _LATE)
    exif = image.getexif() if late else Image.Image.getexif(image)
    turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size
