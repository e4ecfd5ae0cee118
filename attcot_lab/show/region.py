"""Figures of the region reward: which tokens count, and the reward against its ratio."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from attcot_analysis.errors import ShowError
from attcot_analysis.show.style import (
    GRID,
    INK,
    PAPER,
    arm_style,
    figure_style,
    new_figure,
    order_arms,
)
from attcot_analysis.show.tables import need_columns

_COUNTED = "#0173b2"
_TICKS = tuple(2.0**power for power in range(-6, 11))


def entropy_strip(
    tokens: Sequence[str], entropy: npt.ArrayLike, counted: npt.ArrayLike, *, title: str = ""
) -> Figure:
    """Draw how uncertain a model was of each token it wrote, and which of them count.

    Args:
        tokens: What was written, token by token.
        entropy: Of the choice of each token, in nats.
        counted: Which of them count.
        title: Title of the figure; empty for none.

    Returns:
        The figure: a stem per token, filled where it counts.

    Raises:
        ShowError: If there are no tokens, or the three differ in number.
    """
    height = np.asarray(entropy, dtype=float)
    chosen = np.asarray(counted, dtype=bool)
    if not len(tokens) or height.shape != (len(tokens),) or chosen.shape != height.shape:
        raise ShowError(
            f"There are {len(tokens)} tokens, {height.size} entropies and {chosen.size} marks; "
            "give one of each per token, for at least one."
        )
    places = np.arange(len(tokens))
    with figure_style(axes_grid_axis="y"):
        figure = new_figure(min(9.6, 1.2 + 0.19 * len(tokens)), 2.6)
        ax = figure.subplots()
        for own, face, name in ((chosen, _COUNTED, "counts"), (~chosen, PAPER, "does not")):
            color = _COUNTED if face == _COUNTED else GRID
            ax.vlines(places[own], 0, height[own], color=color, linewidth=1.4)
            ax.plot(
                places[own],
                height[own],
                marker="o",
                linestyle="none",
                color=color,
                markerfacecolor=face,
                label=f"{name} ({own.sum()} of {len(tokens)})",
            )
        labels = [_shown(token) for token in tokens]
        ax.set_xticks(places, labels, rotation=90, fontsize=8)
        ax.set_xlim(-0.8, len(tokens) - 0.2)
        ax.set_ylim(0, 1.25 * max(height.max(), 0.1))
        ax.set_ylabel("entropy (nats)")
        if title:
            ax.set_title(title)
        ax.legend(loc="upper right", ncols=2, handlelength=1.0)
    return figure


def reward_curve(points: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw the region reward against its ratio: the closed form, and what was measured.

    Args:
        points: Columns model, ratio (above 0) and reward; one row per response.
        title: Title of the figure; empty for none.

    Returns:
        The figure: ``(ratio^2 - 1) / (ratio^2 + 1)`` as a line, ratios on a logarithmic axis.

    Raises:
        ShowError: If a column is missing, there are no rows, or a ratio is not above 0.
    """
    need_columns(points, ("model", "ratio", "reward"), "the reward curve")
    if not (points["ratio"] > 0).all():
        raise ShowError(
            "A ratio is missing or not above 0, which has no place on a logarithmic axis; leave "
            "out responses that have no reward."
        )
    low = min(0.25, float(points["ratio"].min()) / 1.2)
    high = max(4.0, float(points["ratio"].max()) * 1.2)
    line = np.geomspace(low, high, 200)
    with figure_style():
        figure = new_figure(5.6, 3.1)
        ax = figure.subplots()
        ax.axhline(0.0, color=INK, linewidth=0.8)
        ax.axvline(1.0, color=INK, linewidth=0.8)
        ax.plot(line, (line**2 - 1) / (line**2 + 1), color=GRID, label="closed form")
        for arm in order_arms(points["model"]):
            own = points[points["model"] == arm]
            style = arm_style(arm)
            ax.plot(
                own["ratio"],
                own["reward"],
                marker=style.marker,
                linestyle="none",
                color=style.color,
                markerfacecolor="none",
                label=f"{style.label} ({len(own)} responses)",
            )
        ax.set_xscale("log", base=2)
        ax.set_xticks([tick for tick in _TICKS if low <= tick <= high])
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xlim(low, high)
        ax.set_ylim(-1.05, 1.05)
        ax.set_xlabel("ratio: attention per token of the boxes, over that of the whole image")
        ax.set_ylabel("region reward")
        if title:
            ax.set_title(title)
        ax.legend(loc="lower right", handlelength=1.4)
    return figure


def _shown(token: str) -> str:
    """A token as a label: what cannot be seen is written."""
    bare = token.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}").strip()
    return bare or "\N{OPEN BOX}"
