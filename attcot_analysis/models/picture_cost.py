"""What pictures cost: how many image tokens they become."""

from collections.abc import Sequence
from statistics import median_low

from PIL import Image

from attcot_analysis.models.inputs import encode
from attcot_analysis.models.load import Mllm

SIZES = 9
"""So many sizes of pictures are looked at, if there are more."""


def image_tokens(mllm: Mllm, size: tuple[int, int]) -> int:
    """Tokens that a picture of ``(width, height)`` becomes, without a forward pass.

    All that stand for it in a prompt count, also those that end a row of tokens.

    Raises:
        LayoutError: If the processor refuses such a picture.
    """
    layout = encode(mllm, Image.new("RGB", size), "?").layout
    return len(layout.image) + len(layout.newlines)


def describe_cost(mllm: Mllm, sizes: Sequence[tuple[int, int]]) -> str:
    """One line: image tokens per picture, the least, the median and the most.

    Tokens follow from a picture's size, so that one blank picture per size is processed, of at
    most `SIZES` sizes, from the smallest area to the largest in equal shares of the pictures.
    """
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    few = len(set(ordered)) <= SIZES
    last = len(ordered) - 1
    chosen = ordered if few else [ordered[last * k // (SIZES - 1)] for k in range(SIZES)]
    tokens = {size: image_tokens(mllm, size) for size in dict.fromkeys(chosen)}
    costs = sorted(tokens[size] for size in chosen)
    least, middle, most = costs[0], median_low(costs), costs[-1]
    what = "Image tokens per picture"
    if least == most:
        return f"{what}: {most:,}."
    among = "" if few else f" of {SIZES} sizes"
    return f"{what}: {least:,} to {most:,}, median {middle:,}{among}."
