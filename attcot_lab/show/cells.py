"""Cells of a grid as points: one effect against another, a panel for every kind of problem."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attcot_analysis.show.style import GRID, INK, figure_style, new_figure
from attcot_analysis.show.tables import need_columns
from attcot_lab.show.cell_style import CellStyle, legend_above

_EFFECTS = ("failure", "failure_low", "failure_high", "cure", "cure_low", "cure_high")


def cells_figure(
    cells: pd.DataFrame,
    *,
    failure: str,
    cure: str,
    line: tuple[float, float] | None = None,
    title: str = "",
) -> Figure:
    """Draw every cell of a grid by two effects.

    Args:
        cells: From `claim_against_claim`.
        failure: What the horizontal axis shows.
        cure: What the vertical axis shows.
        line: Slope and intercept of the line through all cells, drawn in every panel.
        title: Title of the figure.

    Returns:
        The figure: a panel per kind on common axes, families by colour and scales by marker as in
        `claim_forest`, 95 % intervals as crosses.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    need_columns(cells, ("family", "scale", "kind", *_EFFECTS), "the cells")
    kinds = list(dict.fromkeys(cells["kind"]))
    look = CellStyle.of(cells)
    with figure_style():
        figure = new_figure(1.2 + 2.7 * len(kinds), 3.6)
        panels = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
        for ax, kind in zip(panels, kinds, strict=True):
            ax.axhline(0.0, color=INK, linewidth=1.0, zorder=1)
            ax.axvline(0.0, color=GRID, linewidth=1.0, zorder=1)
            for _, row in cells[cells["kind"] == kind].iterrows():
                _point(ax, row, look.color(row["family"]), look.marker(row["scale"]))
            ax.set_title(str(kind))
        if line is not None:
            slope, at_zero = line
            ends = [float(cells["failure"].min()), float(cells["failure"].max())]
            for ax in panels:
                ax.plot(ends, [at_zero + slope * x for x in ends], color=INK, linewidth=0.9)
        panels[0].set_ylabel(cure)
        panels[len(kinds) // 2].set_xlabel(failure)
        legend_above(figure, look.handles(), title)
        note = f"{len(cells)} cells; crosses: 95% intervals over items and seeds"
        if line is not None:
            note += f"; line through all cells: {line[1]:+.3f} {line[0]:+.2f} x"
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5)
    return figure


def _point(ax: Axes, row: pd.Series, color: str, marker: str) -> None:
    ax.errorbar(
        [row["failure"]],
        [row["cure"]],
        xerr=[[row["failure"] - row["failure_low"]], [row["failure_high"] - row["failure"]]],
        yerr=[[row["cure"] - row["cure_low"]], [row["cure_high"] - row["cure"]]],
        fmt=marker,
        color=color,
        markersize=5,
        elinewidth=1.0,
    )
