"""Frames of a video, or of a folder of frames, as pictures with their times."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.pictures import open_picture

FRAMES = 8
"""How many frames of a video are shown where a record does not say."""

_MOST = 256
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_HEADS = re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL)
"""How MP4 and MOV, WebM and Matroska, and AVI begin; others may name further files or addresses."""


def film_frames(
    film: Path, where: str, n_frames: Any = FRAMES, times: Any = None
) -> tuple[list[Image.Image], list[float] | None]:
    """Some frames of a video, evenly spread, each from the middle of its part.

    Args:
        film: A video (MP4, MOV, WebM, Matroska, AVI), or a folder of its frames, which are taken in
            the order of the numbers in their names.
        where: For messages.
        n_frames: How many frames, at most.
        times: Of a folder: its frames' times in seconds.

    Returns:
        The frames, and their times in seconds, ``None`` where they are not known.

    Raises:
        ProblemError: If it cannot be read, or what is said of its frames does not fit it.
    """
    if type(n_frames) is not int or not 1 <= n_frames <= _MOST:
        raise ProblemError(
            f"{where}: n_frames is {n_frames!r:.60}; expected a whole number from 1 to {_MOST}."
        )
    if not film.is_dir():
        if times is not None:
            raise ProblemError(f"{where}: {film} has times of its own; leave frame_times out.")
        return _of_video(film, where, n_frames)
    there = [one for one in film.iterdir() if one.suffix.casefold() in _ENDINGS]
    numbers = {
        one: [int(part) for part in re.findall(r"\d+", one.stem)]
        for one in there
        if not one.is_symlink()  # It may lead out of what the user has named.
    }
    files = sorted(numbers, key=lambda one: numbers[one])
    if not files or len({tuple(found) for found in numbers.values()}) < len(files):
        raise ProblemError(
            f"{where}: {film} holds {len(files)} pictures, expected frames with a number each in "
            "their names (frame-12.png)."
        )
    if times is not None and (not isinstance(times, list) or len(times) != len(files)):
        raise ProblemError(
            f"{where}: frame_times is {times!r:.60}; {film} holds {len(files)} frames, expected as "
            "many seconds in a list."
        )
    chosen = _spread(len(files), n_frames)
    shown = [open_picture(files[at], f"{where}: frame {files[at].name}") for at in chosen]
    return shown, None if times is None else [times[at] for at in chosen]


def _spread(n: int, wanted: int) -> list[int]:
    """Up to so many of n places, each in the middle of an equal part."""
    return [int((at + 0.5) * n / wanted) for at in range(wanted)] if n > wanted else list(range(n))


def _of_video(film: Path, where: str, n_frames: int) -> tuple[list[Image.Image], list[float]]:
    # Before OpenCV, whose readers would follow a play list to other files and addresses.
    with film.open("rb") as file:
        if not _HEADS.match(file.read(16)):
            raise ProblemError(
                f"{where}: {film} is no MP4, MOV, WebM, Matroska or AVI video; convert it, or give "
                "a folder of its frames."
            )
    import cv2

    reader = cv2.VideoCapture(str(film), cv2.CAP_FFMPEG)
    try:
        size = reader.get(cv2.CAP_PROP_FRAME_WIDTH), reader.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or np.inf):
            raise ProblemError(
                f"{where}: frames of {film} have more than {Image.MAX_IMAGE_PIXELS} pixels; make "
                "them smaller."
            )
        # Counted, since what a file says of its length may be an estimate.
        times = []
        while reader.grab():
            times.append(reader.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        reader.release()
        chosen = _spread(len(times), n_frames)
        reader.open(str(film), cv2.CAP_FFMPEG)
        shown: dict[int, Image.Image] = {}
        for at in range(max(chosen, default=-1) + 1):
            if reader.grab() and at in chosen:
                read, frame = reader.retrieve()
                if read:
                    shown[at] = _picture(frame)
    except cv2.error as error:
        raise ProblemError(f"{where}: {film} cannot be read ({error.err}).") from error
    finally:
        reader.release()
    if not chosen or len(shown) < len(chosen):
        raise ProblemError(
            f"{where}: {film} gives {len(shown)} of {len(chosen)} frames; it is damaged or of a "
            "kind that OpenCV does not read, so convert it or give a folder of its frames."
        )
    return [shown[at] for at in chosen], [times[at] for at in chosen]


def _picture(frame: Any) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.asarray(frame, dtype=np.uint8)[..., ::-1]))
