"""How arms are written and drawn: the library's own, and those that others register."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

Marker = str | tuple[int, int, int]


@dataclass(frozen=True)
class ArmStyle:
    """How one arm (one way of training) is written and drawn, everywhere.

    Attributes:
        name: Value of the tables' ``model`` column.
        label: What a reader sees.
        color: Hex colour, colour-blind safe.
        marker: Matplotlib marker, so that colour is never the only cue.
        line: Matplotlib line style.
    """

    name: str
    label: str
    color: str
    marker: Marker
    line: str | tuple[int, tuple[int, ...]]


SPARE_COLORS = (
    "#8f5bb5",
    "#4f7a28",
    "#e07b9a",
    "#3f8f8f",
    "#a34f4f",
    "#8a6d00",
    "#5b6abf",
    "#00857a",
)
"""Colours of arms that have none of their own."""
_SPARE_MARKERS: tuple[Marker, ...] = ("X", "p", "h", "<", ">", "d")
_WAITING: list[Callable[[], Iterable[ArmStyle]]] = []


def read_style(row: Mapping[str, Any]) -> ArmStyle:
    """A style as a file gives it: the fields of `ArmStyle`; one without a colour is a spare one."""
    name, label = row["name"], row["label"]
    if "color" not in row:
        return spare_style(name, label)
    marker, line = row["marker"], row["line"]
    return ArmStyle(
        name,
        label,
        row["color"],
        marker if isinstance(marker, str) else tuple(marker),
        line if isinstance(line, str) else (line[0], tuple(line[1])),
    )


def register_arms(styles: Callable[[], Iterable[ArmStyle]]) -> None:
    """Add arms of a project of its own, behind the known ones and in their order.

    Args:
        styles: Called when an arm is first drawn; a name that is known keeps its style.
    """
    _WAITING.append(styles)


def known_arms() -> dict[str, ArmStyle]:
    """Every known arm by name, in the order in which they are drawn and listed."""
    while _WAITING:
        for style in _WAITING.pop(0)():
            _KNOWN.setdefault(style.name, style)
    return _KNOWN


def spare_style(name: str, label: str | None = None) -> ArmStyle:
    """A style for an arm that has none: the same name always gets the same one."""
    key = zlib.crc32(name.encode("utf-8", "surrogatepass"))
    color = SPARE_COLORS[key % len(SPARE_COLORS)]
    marker = _SPARE_MARKERS[key // len(SPARE_COLORS) % len(_SPARE_MARKERS)]
    return ArmStyle(name, label or name, color, marker, (0, (4, 1, 1, 1)))


_TABLE = (files("attcot_analysis.show") / "arms.yaml").read_text(encoding="utf-8")
_KNOWN = {row["name"]: read_style(row) for row in yaml.safe_load(_TABLE)}
