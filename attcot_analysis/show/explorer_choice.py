"""What an explorer can be asked for: a source, a layer, a head, a token or a step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from attcot_analysis.errors import ShowError

if TYPE_CHECKING:
    from attcot_analysis.show.explorer_data import ExplorerRecord

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


def check_choice(record: "ExplorerRecord", source: str, layer: object, head: object) -> None:
    """Refuse a layer or head that a record does not have.

    Raises:
        ShowError: If there is none.
    """
    record.maps_of(source, 0)
    for name, value, count, words in (
        ("layer", layer, record.n_layers, ("mean", "max")),
        ("head", head, record.n_heads, ("mean", "max", "visual")),
    ):
        if isinstance(value, str) and value in words:
            if value == "visual" and not record.heads:
                raise ShowError(
                    "No head of this record counts as visual; pass heads=[(layer, head), ...]."
                )
            continue
        if isinstance(value, str) or not isinstance(value, int) or not 0 <= value < count:
            raise ShowError(
                f"There is no {name} {value}; choose from 0 to {count - 1}, or one of "
                f"{', '.join(words)}."
            )


def select(
    record: "ExplorerRecord",
    *,
    source: str | None = None,
    layer: LayerChoice | None = None,
    head: HeadChoice | None = None,
    token: int | str | None = None,
) -> Selection:
    """A selection of a record, checked.

    Args:
        record: The record.
        source: One of its sources; the first if ``None``.
        layer: A layer, ``"mean"`` (also ``None``) or ``"max"``.
        head: A head, ``"mean"`` (also ``None``), ``"max"`` or ``"visual"``.
        token: A token's number, ``"answer"`` (its first token) or ``"step 2"`` (the whole step).
            ``None`` is step 1, or the first token of a text without steps.

    Raises:
        ShowError: If the record has no such source, layer, head or token.
    """
    source = record.sources[0] if source is None else source
    layer = "mean" if layer is None else layer
    head = "mean" if head is None else head
    check_choice(record, source, layer, head)
    unit: Unit = "token"
    if token is None:
        token = f"step {min(set(record.steps) - {0})}" if any(record.steps) else 0
    if isinstance(token, str):
        unit = "token" if token == "answer" else "step"
        token = record.token_of(token)
    if not 0 <= token < len(record.tokens):
        raise ShowError(f"There is no token {token}; choose from 0 to {len(record.tokens) - 1}.")
    text, step = record.tokens[token], record.steps[token]
    return Selection(source, layer, head, token, text, step, unit)


def traits_of(selection: Selection) -> dict[str, str | int]:
    """A selection as the page's script keeps it."""

    def code(choice: LayerChoice | HeadChoice) -> int:
        return CODES[choice] if isinstance(choice, str) else choice

    return {
        "source": selection.source,
        "layer": code(selection.layer),
        "head": code(selection.head),
        "token": selection.token,
        "unit": selection.unit,
    }


def read_key(record: "ExplorerRecord", name: str) -> PlaneKey:
    """The key that `PlaneKey.name` has written.

    Raises:
        ShowError: If the record has no such plane.
    """
    parts = name.split(".")
    if len(parts) == 4 and parts[1].isdecimal() and int(parts[1]) < len(record.models):
        layer, head = (cast(Any, int(part) if part.isdecimal() else part) for part in parts[2:])
        chosen = select(record, source=parts[0], layer=layer, head=head)
        return PlaneKey(chosen.source, int(parts[1]), chosen.layer, chosen.head)
    raise ShowError(f"There is no plane {name!r}; name source, model, layer and head.")
