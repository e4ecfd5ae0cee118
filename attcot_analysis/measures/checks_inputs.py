"""Checks on a model's inputs: prompt, image tokens, pixel boxes, spans of the response.

Each check returns what it found as text, or raises what is wrong.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.painting import paintable_tokens, painted_tokens
from attcot_analysis.models import PROMPTS, Encoded, Mllm, Span, TokenGrid, encode
from attcot_analysis.problems import render_response
from attcot_analysis.problems.response import without_opening

QUESTION = "Start at the star and follow the arrow. What color is the shape you reach?"
STEPS = (
    "The star is in cell a1 and its arrow points right.",
    "Cell b1 holds a red circle, and its arrow points down.",
    "Cell b2 holds a green square.",
)
ANSWER = "green"
RESPONSE = render_response(STEPS, ANSWER)
ANSWERS = (ANSWER, "A", "No", "-3", "(B)", "5%")
"""Answers that some tokenizers join with the tags around them."""

N_SIZES = 12
LARGEST_RATIO = 6.0

PAINTED_SIZES = ((160, 110), (100, 230), (420, 300))
PAINTED_TOKENS = 6
LEAST_HITS = 0.75
"""Share of painted tokens that must move most; towers that mix tokens strongly miss a few."""


def noise_picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def example(mllm: Mllm, size: tuple[int, int] = (120, 90), response: str = RESPONSE) -> Encoded:
    """A picture of noise, a question and a response."""
    return encode(mllm, noise_picture(*size), QUESTION, response=response)


def random_sizes(n: int, seed: int = 0) -> list[tuple[int, int]]:
    """Sizes ``(width, height)`` of pictures from small to large and from wide to high."""
    rng = np.random.default_rng(seed)
    area = np.exp(rng.uniform(np.log(40**2), np.log(600**2), n))
    ratio = np.exp(rng.uniform(-np.log(LARGEST_RATIO), np.log(LARGEST_RATIO), n))
    widths, heights = np.sqrt(area * ratio), np.sqrt(area / ratio)
    return [(round(w), round(h)) for w, h in zip(widths, heights, strict=True)]


def prompt_renders(mllm: Mllm) -> str:
    """Both modes, with and without a picture, hold the question and the instruction."""
    lengths = []
    opens = ", opens the rationale itself" if mllm.opens_rationale else ""
    for mode, instruction in PROMPTS.items():
        for picture in (noise_picture(120, 90), None):
            item = encode(mllm, picture, QUESTION, mode=mode)
            text = mllm.tokenizer.decode(item.input_ids)
            for part in (QUESTION, instruction):
                if part not in text:
                    raise MeasureError(
                        f"The rendered {mode} prompt does not hold {part!r}; check the chat "
                        "template and the tokenizer."
                    )
            if (picture is None) != (len(item.layout.image) == 0):
                raise MeasureError(
                    f"The {mode} prompt {'without' if picture is None else 'with'} a picture has "
                    f"{len(item.layout.image)} image tokens; check the chat template."
                )
            lengths.append(item.prompt_length)
    tokens = f"{lengths[0]} tokens with a picture, {lengths[1]} without"
    return f"chat template renders{opens}; {tokens}"


def image_tokens_match_grids(mllm: Mllm) -> str:
    """For random sizes, as many image tokens as the grid says, and boxes on the picture."""
    counts = []
    for width, height in random_sizes(N_SIZES):
        item = encode(mllm, noise_picture(width, height), QUESTION)
        (grid,) = item.layout.grids
        n_placeholders = int((item.input_ids == mllm.image_token_id).sum())
        if n_placeholders != grid.n_placeholders or len(item.layout.image) != len(grid):
            raise MeasureError(
                f"A picture of {width} x {height} pixels has {n_placeholders} image tokens; its "
                f"grid says {grid.n_placeholders}."
            )
        _check_boxes(grid, (width, height))
        counts.append(len(grid))
    return f"{len(counts)} picture sizes, {min(counts)} to {max(counts)} tokens with a box"


def painted_boxes_move_their_tokens(mllm: Mllm) -> str:
    """Change the pixels of one token's box: its vision feature must move most."""
    hits: list[bool] = []
    for seed, size in enumerate(PAINTED_SIZES):
        picture = noise_picture(*size, seed)
        (grid,) = encode(mllm, picture, "").layout.grids
        places = paintable_tokens(grid, PAINTED_TOKENS, seed=seed)
        hits += painted_tokens(mllm, picture, places)["hit"].tolist()
    found = f"{sum(hits)} of {len(hits)} painted boxes move their own token most"
    if not hits or np.mean(hits) < LEAST_HITS:
        raise MeasureError(
            f"Only {found}; the map from image tokens to pixels is wrong for this checkpoint."
        )
    return found


def spans_are_found(mllm: Mllm) -> str:
    """Steps and answers of responses decode to what was written, to the token."""
    joined = []
    for answer in ANSWERS:
        response = render_response(STEPS, answer)
        item = encode(mllm, None, QUESTION, response=response)
        layout = item.layout

        def text(span: Span, ids: Tensor = item.input_ids) -> str:
            return str(mllm.tokenizer.decode(ids[span.start : span.stop])).strip()

        expected = [f"{number}. {step}" for number, step in enumerate(STEPS, start=1)]
        _check_texts("steps", [text(step) for step in layout.steps], expected)
        found = "" if layout.answer is None else text(layout.answer)
        if layout.answer is None or answer not in found:
            _check_texts("answer", [found], [answer])
        else:
            start, stop = layout.answer
            fewer = [text(Span(start + 1, stop)), text(Span(start, stop - 1))]
            _check_texts("answer", [one for one in fewer if answer in one], [])
        if found != answer:
            joined.append(f"{answer!r} in {found!r}")
        written = mllm.tokenizer.decode(item.input_ids[item.prompt_length :])
        whole = without_opening(response) if item.opened else response
        _check_texts("whole text", [str(written).strip()], [whole.strip()])
    return "; ".join([f"{len(STEPS)} steps, {len(ANSWERS)} answers", *joined])


def _check_boxes(grid: TokenGrid, size: tuple[int, int]) -> None:
    if grid.image_size != size:
        raise MeasureError(f"The grid is of a picture of {grid.image_size} pixels; it has {size}.")
    low, high = grid.boxes[:, :2], grid.boxes[:, 2:]
    centre = np.array(size) / 2
    if not (high > low).all() or not ((low <= centre) & (centre <= high)).all(1).any():
        raise MeasureError(
            f"Boxes of a picture of {size[0]} x {size[1]} pixels are empty or miss its centre."
        )


def _check_texts(what: str, found: Sequence[str], expected: Sequence[str]) -> None:
    if list(found) != list(expected):
        raise MeasureError(
            f"Looking for the {what} of a response finds {list(found)}; expected {list(expected)}."
        )
