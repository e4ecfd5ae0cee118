"""Dot-and-interval plots of metrics by arm and of paired differences; never bars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attcot_analysis.errors import ShowError, check_table
from attcot_analysis.show.style import (
    INK,
    PAPER,
    arm_label,
    arm_style,
    figure_style,
    format_counts,
    new_figure,
    order_arms,
)
from attcot_analysis.stats.catalogue import Metric


def need_columns(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise `ShowError` if the table is empty, lacks a column or holds texts for numbers."""
    check_table(table, f"for {what}", columns, ShowError)
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


def p_of(row: Mapping[Any, Any], column: str) -> float:
    """A row's p value; NaN if it has none, or one of items only though there are several seeds.

    Tables that earlier versions have written hold such.
    """
    if row.get("test") == "sign-flip" and float(row.get("n_seeds", 1)) > 1:
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


_ARROWS = {"higher": " \N{UPWARDS ARROW}", "lower": " \N{DOWNWARDS ARROW}"}

_LEGEND = 85
"""Letters of the legend that fit into one line."""

_NOTE = (
    "\N{UPWARDS ARROW} higher is better, \N{DOWNWARDS ARROW} lower is better; lines: 95% interval"
)


def metric_intervals(summary: pd.DataFrame, metrics: Mapping[str, Metric]) -> Figure:
    """Draw every metric's value and 95% interval, one dot per arm.

    Args:
        summary: Columns model, metric, value, low, high, n_items, n_seeds.
        metrics: Catalogue by metric name, for titles, units and order.

    Returns:
        The figure: a panel per kind of metric and unit, each with its own axis.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    need_columns(summary, ("model", "metric", "value", "low", "high"), "metrics by arm")
    groups = order_metrics(summary["metric"], metrics)
    arms = order_arms(summary["model"])
    with figure_style(axes_grid_axis="x"):
        figure = new_figure(7.4, _height(groups, 0.11 * len(arms) + 0.13) + 0.3)
        axs = figure.subplots(len(groups), 1, squeeze=False, height_ratios=_ratios(groups))[:, 0]
        for ax, (group, names) in zip(axs, groups.items(), strict=True):
            for number, arm in enumerate(arms):
                rows = summary[(summary["model"] == arm) & summary["metric"].isin(names)]
                offset = (number - (len(arms) - 1) / 2) * 0.62 / max(len(arms), 2)
                _dots(ax, rows, names, arm, offset)
            _dress(ax, names, metrics, group)
        for arm in arms:
            n = counts(summary[summary["model"] == arm])
            style = arm_style(arm)
            axs[0].plot(
                [],
                [],
                marker=style.marker,
                color=style.color,
                label=style.label + (f" ({n})" if n else ""),
            )
        labels = [str(label) for label in axs[0].get_legend_handles_labels()[1]]
        in_line = len(arms) <= 3 and sum(map(len, labels)) <= _LEGEND
        figure.legend(loc="outside upper left", ncols=len(arms) if in_line else 2)
        figure.supxlabel(_NOTE, x=0.01, ha="left", fontsize=8.5)
    return figure


def comparison_intervals(comparisons: pd.DataFrame, metrics: Mapping[str, Metric]) -> Figure:
    """Draw paired differences ``b - a`` with 95% intervals and the zero line.

    A filled marker means that the interval excludes zero, a hollow one that it does not.

    Args:
        comparisons: Columns metric, a, b, value, low, high, n_items, n_seeds.
        metrics: Catalogue by metric name.

    Returns:
        The figure: a column per pair of arms, a row of panels per kind of metric and unit.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    need_columns(comparisons, ("metric", "a", "b", "value", "low", "high"), "comparisons")
    groups = order_metrics(comparisons["metric"], metrics)
    pairs = list(dict.fromkeys(zip(comparisons["a"], comparisons["b"], strict=True)))
    with figure_style(axes_grid_axis="x"):
        labels = [_label(name, metrics) for names in groups.values() for name in names]
        margin = 0.4 + 0.07 * max(map(len, labels))
        figure = new_figure(margin + 2.1 * len(pairs), _height(groups, 0.27) + 0.6)
        axs = figure.subplots(
            len(groups),
            len(pairs),
            squeeze=False,
            sharex="row",
            sharey="row",
            height_ratios=_ratios(groups),
        )
        for row, (group, names) in zip(axs, groups.items(), strict=True):
            for ax, (a, b) in zip(row, pairs, strict=True):
                rows = comparisons[(comparisons["a"] == a) & (comparisons["b"] == b)]
                ax.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
                _dots(ax, rows[rows["metric"].isin(names)], names, b, 0.0, hollow=True)
                _dress(ax, names, metrics, group if ax is row[0] else None)
        for ax, (a, b) in zip(axs[0], pairs, strict=True):
            rows = comparisons[(comparisons["a"] == a) & (comparisons["b"] == b)]
            name = f"{arm_label(b)} \N{MINUS SIGN} {arm_label(a)}"
            ax.annotate(
                f"{name}\n{counts(rows)}".strip(),
                (0.5, 1.0),
                xycoords="axes fraction",
                xytext=(0, 24),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )
        figure.supxlabel(f"{_NOTE}; hollow: it includes zero", x=0.01, ha="left", fontsize=8.5)
    return figure


def _dots(
    ax: Axes,
    rows: pd.DataFrame,
    names: Sequence[str],
    arm: str,
    offset: float,
    hollow: bool = False,
) -> None:
    style = arm_style(arm)
    open_ones = (rows["low"] <= 0) & (rows["high"] >= 0) & hollow
    for chosen, face in ((rows[~open_ones], style.color), (rows[open_ones], PAPER)):
        if len(chosen):
            ax.errorbar(
                chosen["value"],
                [names.index(name) + offset for name in chosen["metric"]],
                xerr=error_lengths(chosen),
                marker=style.marker,
                linestyle="none",
                color=style.color,
                markerfacecolor=face,
                elinewidth=1.6,
            )


def _dress(
    ax: Axes,
    names: Sequence[str],
    metrics: Mapping[str, Metric],
    group: tuple[str, str] | None,
) -> None:
    ax.set_yticks(range(len(names)), [_label(name, metrics) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    if group is not None:
        axis, unit = group
        title = ax.set_title(axis.capitalize())
        note = ax.annotate(
            unit,
            (1.0, 0.0),
            xycoords=title,
            xytext=(7, 0),
            textcoords="offset points",
            va="bottom",
            fontsize=8.5,
        )
        note.set_in_layout(False)  # else the first column would be made wider than the others


def _label(name: str, metrics: Mapping[str, Metric]) -> str:
    if name not in metrics:
        return name
    return metrics[name].title + _ARROWS.get(metrics[name].better or "", "")


def _ratios(groups: Mapping[tuple[str, str], Sequence[str]]) -> list[float]:
    return [len(names) + 0.2 for names in groups.values()]


def _height(groups: Mapping[tuple[str, str], Sequence[str]], row: float) -> float:
    return sum(_ratios(groups)) * row + 0.6 * len(groups)
