"""What an explorer can be asked for: a source, a layer, a head, a token or a step."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

LayerChoice = int | Literal["mean", "max"]
HeadChoice = int | Literal["mean", "max", "visual"]
Unit = Literal["token", "step"]
"""What has a map: every token, or every step, the mean over its tokens."""
Head = tuple[int, int]
"""Layer and head."""
CODES = {"mean": -1, "max": -2, "visual": -3}
"""Choices of layers and heads that are no number, as the page counts them."""


class PlaneKey(NamedTuple):
    """Which maps of a record, one per token.

    Attributes:
        source: One of the record's sources.
        model: Index of the model.
        layer: A layer, or the mean or maximum over layers.
        head: A head, the mean or maximum over heads, or the mean over the visual heads.
    """

    source: str
    model: int
    layer: LayerChoice = "mean"
    head: HeadChoice = "mean"

    @property
    def name(self) -> str:
        """The key as the page writes it."""
        return ".".join(str(part) for part in self)


@dataclass(frozen=True)
class Selection:
    """What an explorer shows.

    Attributes:
        source: Where the maps come from, e.g. ``"attention"``.
        layer: A layer, ``"mean"`` or ``"max"``.
        head: A head, ``"mean"``, ``"max"`` or ``"visual"``.
        token: Index of the token; the map is of the row that predicts it.
        text: Its text.
        step: The step it belongs to, 1..K; 0 outside of steps.
        unit: ``"step"`` where the map is the mean over that step's tokens, else ``"token"``.
    """

    source: str
    layer: LayerChoice
    head: HeadChoice
    token: int
    text: str
    step: int
    unit: Unit = "token"
