"""Curves of a training run: what the trainer logged, step by step."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attcot_analysis.errors import ShowError
from attcot_analysis.show.style import arm_style, figure_style, new_figure, order_arms
from attcot_analysis.show.tables import need_columns

QUANTITIES: Mapping[str, str] = {
    "loss": "loss",
    "visual_mass": "visual mass of rationale rows",
    "early_confidence": "largest p before the first step",
}
"""Columns that are drawn, where they are there, and what a reader sees of them."""


def training_curves(log: pd.DataFrame, quantities: Mapping[str, str] = QUANTITIES) -> Figure:
    """Draw what was logged while training, one line per arm and one panel per quantity.

    Args:
        log: Columns model, step, and any of the quantities; an arm for which a quantity was not
            logged has no line there.
        quantities: Columns that are drawn, where they are there, and what a reader sees of them.

    Returns:
        The figure. Its lines have no intervals: every point is one run's mean over a few batches.

    Raises:
        ShowError: If a column is missing, or nothing was logged.
    """
    need_columns(log, ("model", "step"), "the training curves")
    drawn = [name for name in quantities if name in log.columns and log[name].notna().any()]
    if not drawn:
        raise ShowError(f"The training log holds none of {list(quantities)}; give what was logged.")
    arms = order_arms(log["model"])
    with figure_style():
        figure = new_figure(1.4 + 2.6 * len(drawn), 2.9)
        axs = figure.subplots(1, len(drawn), squeeze=False)[0]
        for ax, name in zip(axs, drawn, strict=True):
            for arm in arms:
                line = log[(log["model"] == arm) & log[name].notna()].sort_values("step")
                style = arm_style(arm)
                ax.plot(
                    line["step"],
                    line[name],
                    color=style.color,
                    linestyle=style.line,
                    marker=style.marker,
                    label=style.label if name == drawn[0] else "_nolegend_",
                )
            ax.set_title(quantities[name], fontweight="normal")
            ax.set_xlabel("training step")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside lower left", ncols=len(arms))
    return figure
