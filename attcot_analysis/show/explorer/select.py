"""Choices within a record: checked, and as the explorer's script counts them."""

from typing import Any, cast

from attcot_analysis.errors import ShowError
from attcot_analysis.show.explorer.choice import (
    CODES,
    HeadChoice,
    LayerChoice,
    PlaneKey,
    Selection,
    Unit,
)
from attcot_analysis.show.explorer.record import ExplorerRecord


def check_choice(record: ExplorerRecord, source: str, layer: object, head: object) -> None:
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
    record: ExplorerRecord,
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
    if not isinstance(token, int) or not 0 <= token < len(record.tokens):
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


def read_key(record: ExplorerRecord, name: str) -> PlaneKey:
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
