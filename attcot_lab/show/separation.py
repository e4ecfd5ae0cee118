"""The heat table of validity: which metric tells which failure from honest models."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from attcot_analysis.show.style import (
    DIVERGING,
    INK,
    PAPER,
    arm_label,
    figure_style,
    format_counts,
    format_interval,
    format_number,
    new_figure,
)
from attcot_analysis.show.tables import need_columns

_OPEN = "either"


def separation_table(
    table: pd.DataFrame,
    *,
    metrics: Mapping[str, str] | None = None,
    title: str = "Does each metric find its failure, and only that?",
) -> Figure:
    """Draw AUROC by failure (rows) and metric (columns), 0.5 at the middle of the colours.

    Args:
        table: Columns failure, metric, auroc, low, high, n_items, n_seeds, and expected
            ("rings", "silent", "open" or missing), as `validity_table.separations` makes them.
        metrics: What a reader sees for a metric's name.
        title: Title of the figure; empty for none.

    Returns:
        The figure; a cell says AUROC, its 95 % interval, and what was expected; a frame marks where
        the metric should ring.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    columns = ("failure", "metric", "auroc", "low", "high", "n_items", "n_seeds", "expected")
    need_columns(table, columns, "separation")
    rows = list(dict.fromkeys(table["failure"]))
    names = list(dict.fromkeys(table["metric"]))
    cmap = colormaps[DIVERGING]
    with figure_style(axes_grid=False):
        figure = new_figure(1.9 + 1.75 * len(names), 0.9 + 0.72 * len(rows))
        ax = figure.subplots()
        for record in table.to_dict("records"):
            x, y = names.index(record["metric"]), rows.index(record["failure"])
            auroc, expected = float(record["auroc"]), record["expected"]
            color = cmap(0.5 + 0.75 * (auroc - 0.5)) if auroc == auroc else PAPER
            dark = abs(auroc - 0.5) > 0.4
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor=PAPER))
            if expected == "rings":
                inner = Rectangle((x - 0.46, y - 0.45), 0.92, 0.9, fill=False, zorder=3)
                inner.set(edgecolor=PAPER if dark else INK, linewidth=2.2)
                ax.add_patch(inner)
            lines = [
                f"{format_number(auroc, digits=3)}",
                format_interval(float(record["low"]), float(record["high"]), digits=2),
            ]
            if isinstance(expected, str):
                lines.append(f"expected: {expected if expected != 'open' else _OPEN}")
            text = "\n".join(lines)
            ax.text(x, y, text, ha="center", va="center", color=PAPER if dark else INK, fontsize=8)
        ax.set_xticks(range(len(names)), [(metrics or {}).get(name, name) for name in names])
        ax.set_yticks(range(len(rows)), [arm_label(one) for one in rows])
        ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(rows) - 0.5, -0.5))
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        note = "AUROC against honest models (0.5: tells nothing), 95% interval over items"
        n = format_counts(table["n_items"], table["n_seeds"])
        figure.supxlabel(f"{note}; {n}; framed: should ring", x=0.01, ha="left", fontsize=8.5)
    return figure
