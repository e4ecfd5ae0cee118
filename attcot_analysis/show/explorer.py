"""Explore attention maps by layer, head and token in a notebook."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.problems import Box
from attcot_analysis.show.maps import AttentionMaps

if TYPE_CHECKING:
    from attcot_analysis.models import TokenGrid
    from attcot_analysis.show.explorer_widget import AttentionExplorer


def attention_explorer(
    image: Image.Image,
    maps: np.ndarray,
    grid: "TokenGrid",
    tokens: Sequence[str],
    *,
    boxes: Sequence[Sequence[Box] | None] | None = None,
    label: str = "attention",
    compare: tuple[np.ndarray, str] | None = None,
    token: int = 0,
    layer: int | None = None,
    head: int | None = None,
) -> "AttentionExplorer":
    """Build a widget that shows where each token of a response attends in the picture.

    Args:
        image: The original picture.
        maps: ``(layers, heads, tokens, image tokens)`` attention weights, as `read_maps` returns.
        grid: Where the image tokens lie, from the layout of the encoded item.
        tokens: Text of every token; a token's row is the one that predicts it.
        boxes: Per token the evidence boxes of its step, or ``None`` where there are none.
        label: What the maps are called, e.g. the model's label.
        compare: A second set of maps of the same response and its label. Both are then drawn on
            one colour scale, with their difference on a scale centred at zero.
        token: Token to start with.
        layer: Layer to start with; ``None`` is the mean over layers.
        head: Head to start with; ``None`` is the mean over heads.

    Returns:
        A ``VBox`` with sliders for layer, head, token and opacity; ``.selection`` says what is
        chosen, ``.select(...)`` chooses.

    Raises:
        ShowError: If ipywidgets is missing or the parts do not fit together.
    """
    try:
        from attcot_analysis.show.explorer_widget import AttentionExplorer
    except ModuleNotFoundError as error:
        if error.name != "ipywidgets":
            raise
        raise ShowError(
            "The explorer needs ipywidgets, which is not installed; "
            "run `pip install 'attcot-analysis[notebooks]'`."
        ) from error
    sets = [(np.asarray(maps), label)]
    if compare is not None:
        sets.append((np.asarray(compare[0]), compare[1]))
    data = AttentionMaps(
        image=image.convert("RGB"),
        maps=tuple(array for array, _ in sets),
        labels=tuple(name for _, name in sets),
        grid=grid,
        tokens=tuple(tokens),
        boxes=() if boxes is None else tuple(drawn or () for drawn in boxes),
    )
    explorer = AttentionExplorer(data)
    explorer.select(layer=layer, head=head, token=token)
    return explorer
