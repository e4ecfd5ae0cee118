"""Does CoT hurt? The first section of a report: counts, signs, patterns, links to the items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attcot_analysis.measures.outcomes import GROUPS, SIGNS, WORDS, CotOutcomes
from attcot_analysis.show.report.items import ReportItem
from attcot_analysis.show.style import arm_label, capital, format_interval, format_number

_SHOWN = ("hurt", "helped", "right", "wrong")
_FEW = 12
"""Links that are shown of a group; the rest is one step away, in the item browser."""


@dataclass(frozen=True)
class Links:
    """Items of one group.

    Attributes:
        title: Of the group.
        places: Item → its place in the item browser; those that are linked.
        more: How many others are in the item browser.
        absent: How many are not.
    """

    title: str
    places: Mapping[str, int]
    more: int
    absent: int


def outcomes_section(
    outcomes: Mapping[str, CotOutcomes | str], examples: Sequence[ReportItem]
) -> dict[str, Any]:
    """What the template shows of every arm.

    Args:
        outcomes: By arm: the result, or the sentence that says why there is none.
        examples: The items of the item browser.
    """
    places = {item.problem.id: place for place, item in enumerate(examples)}
    arms = []
    for arm, found in outcomes.items():
        shown: dict[str, Any] = {"label": arm_label(arm), "found": found, "why": ""}
        if isinstance(found, str):
            shown |= {"found": None, "why": found}
        else:
            shown["links"] = [_links(found, group, places) for group in ("hurt", "helped")]
            shown["rows"] = _rows(found)
            shown["patterns"] = found.patterns().to_dict("records")
            shown["answers"] = found.answers()
        arms.append(shown)
    groups = [capital(GROUPS[group]) for group in _SHOWN]
    return {"arms": arms, "groups": groups, "signs": SIGNS, "words": WORDS}


def _links(found: CotOutcomes, group: str, places: Mapping[str, int]) -> Links:
    items = found.items(group)
    inside = {item: places[item] for item in items if item in places}
    linked = dict(list(inside.items())[:_FEW])
    return Links(GROUPS[group], linked, len(inside) - len(linked), len(items) - len(inside))


def _rows(found: CotOutcomes) -> list[dict[str, Any]]:
    """One row per sign: the share of every group, with its interval and n."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in found.shares().to_dict("records"):
        if row["group"] in _SHOWN:
            cell = {
                "count": f"{row['count']} of {row['of']}",
                "value": format_number(row["value"], digits=2),
                "interval": format_interval(row["low"], row["high"], digits=2),
            }
            rows.setdefault(row["sign"], []).append(cell)
    return [{"sign": name, "cells": cells} for name, cells in rows.items()]
