"""Edits of a whole picture: from blank to mirrored, and what a mirrored picture's answer is."""

import re
from collections.abc import Collection

import numpy as np
from PIL import Image, ImageFilter

from attcot_analysis.problems.fills import Rectangle
from attcot_analysis.problems.lettering import has_text
from attcot_analysis.problems.problem import Problem

BLURS = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Strengths of the blurs ``blur_1`` to ``blur_5``: standard deviation over the shorter side."""

DIFFUSION_STEP = 500
"""Of 1000, the step of the noise that VCD uses by default; 0 is as good as none."""

_SPREAD = 0.27
"""Standard deviation of pixels, 0 to 1, by which CLIP's processor divides; VCD's noise is in it."""

_SMALLEST_CROP = 28


def mean_colour(image: Image.Image) -> Image.Image:
    """A picture of one colour, the mean."""
    red, green, blue = np.asarray(image).mean(axis=(0, 1)).round().astype(int)
    return Image.new("RGB", image.size, (int(red), int(green), int(blue)))


def white_noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Independent uniform pixels."""
    return Image.fromarray(rng.integers(0, 256, (*image.size[::-1], 3), dtype=np.uint8))


def blurred(image: Image.Image, share: float) -> Image.Image:
    """Gaussian blur with a standard deviation that is a share of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(share * min(image.size)))


def diffused(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Noise of a diffusion's forward process at `DIFFUSION_STEP`, cut to what pixels can hold.

    Source: VCD, arXiv 2311.16922, whose code adds it to the normalised input of a processor; here
    it is added to the picture, in CLIP's units, so that it means the same for every family.
    """
    betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (0.5e-2 - 1e-5) + 1e-5
    kept = np.cumprod(1 - betas)[DIFFUSION_STEP]
    values = (np.asarray(image) / 255 - 0.5) / _SPREAD
    noisy = np.sqrt(kept) * values + np.sqrt(1 - kept) * rng.standard_normal(values.shape)
    return Image.fromarray(((noisy * _SPREAD + 0.5) * 255).round().clip(0, 255).astype(np.uint8))


def pixelated(image: Image.Image) -> Image.Image:
    """Mean colours of squares, 16 of them along the shorter side."""
    size = max(round(min(image.size) / 16), 1)
    small = (max(image.width // size, 1), max(image.height // size, 1))
    box = Image.Resampling.BOX
    return image.resize(small, box).resize(image.size, Image.Resampling.NEAREST)


def evidence_crop(image: Image.Image, evidence: Collection[Rectangle]) -> Rectangle:
    """The smallest rectangle around evidence, widened to 28 pixels a side if the picture has them.

    Many processors take nothing smaller.
    """
    starts, ends = [], []
    for axis, extent in enumerate(image.size):
        low, high = min(one[axis] for one in evidence), max(one[axis + 2] for one in evidence)
        missing = max(min(_SMALLEST_CROP, extent) - (high - low), 0)
        low = min(max(low - missing // 2, 0), extent - (high - low + missing))
        starts.append(low)
        ends.append(max(high, low + min(_SMALLEST_CROP, extent)))
    return starts[0], starts[1], ends[0], ends[1]


_SIDES = (
    *(("left", "right"), ("leftmost", "rightmost"), ("left-hand", "right-hand")),
    ("leftward", "rightward"),
)
_HEIGHTS = (
    *(("top", "bottom"), ("up", "down"), ("above", "below"), ("upper", "lower")),
    *(("upward", "downward"), ("topmost", "bottommost"), ("higher", "lower"), ("over", "under")),
)
_READ = re.compile(
    r"\b(text|texts|word|words|letter|letters|written|writes?|says?|reads?|spell\w*|number plate|"
    r"license|licence|logo|brand|title|label\w*|caption|legend|axis|chart|graph|plot|table|map|"
    r"clock|clockwise|counterclockwise|anticlockwise|time|east|west|north|south|page|sign|"
    r"handed|direction is it facing)\b",
    re.IGNORECASE,
)


def turned_answer(problem: Problem, *, heights: bool) -> tuple[str, str] | None:
    """The right answer when the picture is mirrored or, with ``heights``, turned by half a turn.

    It is computed where that is safe. Where the answer names a side and the question none, or
    both sides of a pair alike ("Is it on the left or on the right?"), the answer's words are
    exchanged. Where neither names a side, the answer stays. A question that names one side only
    ("What is left of the car?") has another answer on the turned picture, which is not known.

    Args:
        problem: The item.
        heights: Whether top and bottom change places as well.

    Returns:
        The answer and why it is right; ``None`` where it is not known, or the question, the answer
        or the picture (`has_text`) speak of text, clocks or the points of the compass, which a
        turn spoils.
    """
    if _READ.search(problem.question) or _READ.search(problem.answer):
        return None
    pairs = (*_SIDES, *(_HEIGHTS if heights else ()))
    asked = [(_names(one, problem.question), _names(two, problem.question)) for one, two in pairs]
    if any(one != two for one, two in asked):
        return None
    named = any(_names(word, problem.answer) for pair in pairs for word in pair)
    if not named and any(one for one, _ in asked):
        return None
    answer = exchanged(problem.answer, pairs) if named else problem.answer
    if (problem.candidates and answer not in problem.candidates) or has_text(problem.image):
        return None
    if named:
        return answer, "the sides it names change places with the picture's"
    return answer, "neither question nor answer names a side that changes place"


def _names(word: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){word}(?![\w-])", text, re.IGNORECASE) is not None


def exchanged(text: str, pairs: Collection[tuple[str, str]] = (*_SIDES, *_HEIGHTS)) -> str:
    """A text whose words for sides are those for the opposite ones."""
    other: dict[str, str] = {}
    for one, two in reversed(list(pairs)):  # "lower" stands in two pairs: the first decides.
        other |= {one: two, two: one}

    def turned(match: re.Match[str]) -> str:
        word = match.group()
        new = other[word.lower()]
        if word.isupper():
            return new.upper()
        return new.capitalize() if word[0].isupper() else new

    words = "|".join(sorted(other, key=len, reverse=True))
    return re.sub(rf"(?<![\w-])({words})(?![\w-])", turned, text, flags=re.IGNORECASE)
