"""Check and read the tidy tables that figures are drawn from."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from attcot_analysis.errors import ShowError
from attcot_analysis.show.style import format_counts
from attcot_analysis.stats.catalogue import Metric
from attcot_analysis.stats.significance import ITEMS_ONLY


def need_columns(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise `ShowError` if the table is empty or lacks a column."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ShowError(
            f"The table for {what} lacks the column(s) {missing}; "
            f"it has {list(table.columns)}, so pass the table that the measurement returned."
        )
    if table.empty:
        raise ShowError(f"The table for {what} has no rows; measure at least one item first.")


def first_column(table: pd.DataFrame, names: Iterable[str], what: str) -> str:
    """Return the first of the named columns that the table has.

    Raises:
        ShowError: If it has none of them.
    """
    names = list(names)
    for name in names:
        if name in table.columns:
            return name
    raise ShowError(
        f"The table for {what} has none of the columns {names}; it has {list(table.columns)}."
    )


def counts(table: pd.DataFrame) -> str:
    """Say how many items and seeds are behind a table's rows, or nothing if it does not tell."""
    items = next((table[name] for name in ("n_items", "n") if name in table.columns), None)
    if items is None:
        return ""
    seeds = table["n_seeds"] if "n_seeds" in table.columns else None
    return format_counts(
        items.astype(float), None if seeds is None else seeds.astype(float).to_numpy()
    )


def p_of(row: Mapping[str, Any], column: str) -> float:
    """A row's p value; NaN if it has none, or one of items only though there are several seeds.

    Tables that earlier versions have written hold such.
    """
    if row.get("test") == ITEMS_ONLY and float(row.get("n_seeds", 1)) > 1:
        return float("nan")
    return float(row.get(column, float("nan")))


def error_lengths(table: pd.DataFrame) -> np.ndarray:
    """Return the ``(2, rows)`` distances from value to interval ends that error bars need."""
    value = table["value"].to_numpy(float)
    ends = np.stack([value - table["low"].to_numpy(float), table["high"].to_numpy(float) - value])
    return np.clip(ends, 0.0, None)


def order_metrics(
    names: Iterable[str], metrics: Mapping[str, Metric]
) -> dict[tuple[str, str], list[str]]:
    """Group metric names by ``(axis, unit)`` in the catalogue's order; unknown ones come last."""
    present = set(names)
    groups: dict[tuple[str, str], list[str]] = {}
    for name, metric in metrics.items():
        if name in present:
            groups.setdefault((metric.axis, metric.unit), []).append(name)
    for name in sorted(present - set(metrics)):
        groups.setdefault(("other", ""), []).append(name)
    return groups
