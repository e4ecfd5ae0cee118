"""Curves over the rationale: commitment and visual access, one colour per arm, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from attcot_analysis.errors import ShowError
from attcot_analysis.show.intervals import counts, error_lengths, first_column, need_columns
from attcot_analysis.show.style import (
    DIVERGING,
    GRID,
    OVERLAY,
    arm_label,
    arm_style,
    figure_style,
    format_number,
    new_figure,
    order_arms,
    shades,
)

_PANEL_TITLES = {
    "mass": "visual mass",
    "mass_last_step": "visual mass, last step",
    "share": "visual share of the prompt",
    "density": "visual density",
    "evidence_mass": "mass on the step's evidence",
    "evidence_share": "share of it on the step's evidence",
    "sink_free_mass": "visual mass without sinks",
    "sink_share": "share of visual mass on sinks",
    "rationale": "own rationale",
    "filler": "filler of the same length",
    "other_item": "another item's rationale",
}

_MAX_BARS = 12


def commitment_curves(
    curves: pd.DataFrame,
    *,
    quantity: str = "p(final answer)",
    chance: float | None = None,
    title: str = "When does the answer settle?",
) -> Figure:
    """Draw the probability of the final answer after each step, one line per arm.

    Args:
        curves: Columns model, k (steps written) or position (share of the rationale written,
            0 to 1), value, low, high, n (items), optionally n_seeds and control; with control
            one panel for each.
        quantity: What value is, for the axis.
        chance: Draw a line at this probability.
        title: Title of the figure; empty for none.

    Returns:
        The figure; every point carries its 95% interval, the legend says n.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    return line_panels(
        curves,
        {
            "k": "rationale steps written before the answer is forced",
            "position": "share of the rationale written before the answer is forced",
        },
        quantity,
        title,
        panels="control",
        limits=(0.0, 1.0),
        reference=None if chance is None else (chance, "chance"),
    )


def access_curves(
    curves: pd.DataFrame,
    *,
    quantity: str = "visual mass per row",
    title: str = "Does it keep looking while it writes?",
) -> Figure:
    """Draw visual access at each rationale step, one line per arm.

    Args:
        curves: Columns model, step or position, value, low, high, n (items), optionally n_seeds
            and quantity; with quantity (e.g. mass, evidence_share) one panel for each.
        quantity: What value is, for the axis; with several panels their titles say it.
        title: Title of the figure; empty for none.

    Returns:
        The figure; every point carries its 95% interval, the legend says n.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    return line_panels(
        curves,
        {"step": "rationale step", "position": "position in the rationale (share)"},
        quantity,
        title,
    )


def access_grid(
    table: pd.DataFrame,
    *,
    reference: str | None = None,
    quantity: str = "visual mass",
    column: Literal["step", "head"] = "step",
) -> Figure:
    """Draw visual access by layer (rows) and step (columns), one panel per arm on one scale.

    Args:
        table: Columns model, layer, step (or head), value, optionally n.
        reference: Arm to subtract; adds panels with the differences on a diverging scale centred
            at zero, in a second row if there are more than two arms.
        quantity: What value is, for the colour bar.
        column: What the columns of a panel are.

    Raises:
        ShowError: If a column is missing, there are no rows, or the reference is not among them.
    """
    need_columns(table, ("model", "layer", column, "value"), "the access grid")
    arms = order_arms(table["model"])
    if reference is not None and reference not in arms:
        raise ShowError(f"The reference arm {reference!r} is not in the table; it has {arms}.")
    layers, steps = sorted(set(table["layer"])), sorted(set(table[column]))
    grids = {
        arm: rows.pivot_table(index="layer", columns=column, values="value", aggfunc="mean")
        .reindex(index=layers, columns=steps)
        .to_numpy(float)
        for arm, rows in table.groupby("model")
    }
    differences = {
        arm: grids[arm] - grids[reference] for arm in arms if reference and arm != reference
    }
    top = float(np.nanmax([np.nanmax(grid) for grid in grids.values()]))
    one_row = len(arms) == 2 and bool(differences)
    n_rows = 1 if one_row or not differences else 2
    n_columns = 3 if one_row else len(arms)
    height = 0.9 + n_rows * (0.75 + min(3.2, max(1.3, 0.22 * len(layers))))
    with figure_style(axes_grid=False):
        figure = new_figure((2.4 if one_row else 1.2) + 2.1 * n_columns, height)
        axs = figure.subplots(n_rows, n_columns, squeeze=False)
        upper = axs[0, : len(arms)]
        lower = axs[0, 2:] if one_row else axs[-1]
        for ax, arm in zip(upper, arms, strict=True):
            mesh = _grid_panel(ax, grids[arm], steps, layers, OVERLAY, 0.0, top)
            n = counts(table[table["model"] == arm])
            name = arm_label(arm)
            ax.set_title(f"{name} ({n})" if n else name, fontweight="normal")
        upper[0].set_ylabel("layer")
        figure.colorbar(mesh, ax=upper.tolist(), label=quantity)
        if differences:
            limit = float(np.nanmax([np.nanmax(np.abs(d)) for d in differences.values()])) or 1.0
            shown = [arm for arm in arms if arm != reference]
            if not one_row:
                lower[arms.index(str(reference))].set_visible(False)
                lower = np.delete(lower, arms.index(str(reference)))
            for ax, arm in zip(lower, shown, strict=True):
                mesh = _grid_panel(ax, differences[arm], steps, layers, DIVERGING, -limit, limit)
                name = f"{arm_label(arm)} \N{MINUS SIGN} {arm_label(str(reference))}"
                ax.set_title(name, fontweight="normal")
            if not one_row:
                lower[0].set_ylabel("layer")
            figure.colorbar(mesh, ax=lower.tolist(), label="difference")
        alone = upper if n_rows == 1 else [upper[arms.index(str(reference))]]
        for ax in [*alone, *lower]:
            ax.set_xlabel("rationale step" if column == "step" else "head")
    return figure


def _grid_panel(
    ax: Axes,
    grid: np.ndarray,
    steps: Sequence[int],
    layers: Sequence[int],
    cmap: str,
    low: float,
    high: float,
) -> AxesImage:
    colors = ListedColormap(shades(cmap) / 255)
    mesh = ax.imshow(grid, cmap=colors, vmin=low, vmax=high, aspect="auto", origin="lower")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    for axis, names in ((ax.xaxis, steps), (ax.yaxis, layers)):
        every = max(1, len(names) // 8)
        axis.set_ticks(range(0, len(names), every), [str(name) for name in names[::every]])
    return mesh


def line_panels(
    curves: pd.DataFrame,
    labels: Mapping[str, str],
    quantity: str,
    title: str,
    *,
    panels: str = "quantity",
    limits: tuple[float | None, float | None] = (None, None),
    reference: tuple[float, str] | None = None,
) -> Figure:
    """Draw one line per arm with intervals, and one panel per value of a column.

    Args:
        curves: Columns model, value, low, high, n, one of the labels' and optionally that of the
            panels.
        labels: Columns that may be the horizontal axis → what to call it.
        quantity: What value is, for the axis.
        title: Title of the figure; empty for none.
        panels: Column whose values get a panel each.
        limits: Ends of the vertical axis.
        reference: A line to draw: its height and name.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    need_columns(curves, ("model", "value", "low", "high"), "the curves")
    x_name = first_column(curves, tuple(labels), "the curves")
    groups = [None] if panels not in curves.columns else list(dict.fromkeys(curves[panels]))
    share_y = panels == "control"
    with figure_style():
        figure = new_figure(5.4 if len(groups) == 1 else 1.4 + 3.0 * len(groups), 3.6)
        axs = figure.subplots(1, len(groups), squeeze=False, sharey=share_y)[0]
        named: set[str] = set()
        for ax, group in zip(axs, groups, strict=True):
            rows = curves if group is None else curves[curves[panels] == group]
            _lines(ax, rows, x_name, named)
            ax.set_ylim(*limits)
            ax.set_xlabel(
                labels[x_name] if len(groups) == 1 else labels[x_name].split(" before")[0]
            )
            if group is not None:
                ax.set_title(_PANEL_TITLES.get(str(group), str(group)), fontweight="normal")
            if reference is not None:
                ax.axhline(reference[0], color=GRID, linewidth=1.0, zorder=1)
                if ax is axs[-1]:  # beside the axis, where no line can hide it
                    ax.annotate(
                        f"{reference[1]}\n{format_number(reference[0], digits=2)}",
                        (1.0, reference[0]),
                        xycoords=("axes fraction", "data"),
                        textcoords="offset points",
                        xytext=(4, 0),
                        ha="left",
                        va="center",
                        fontsize=8,
                    )
        if share_y or len(groups) == 1:
            axs[0].set_ylabel(quantity)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        figure.legend(loc="outside lower left", ncols=1 if len(groups) == 1 else 3)
    return figure


def _lines(ax: Axes, rows: pd.DataFrame, x_name: str, named: set[str]) -> None:
    """Draw a panel's arms; those that no panel before has named get an entry of the legend."""
    arms = order_arms(rows["model"])
    spots = np.unique(rows[x_name].to_numpy(float))
    gap = float(np.diff(spots).min()) if len(spots) > 1 else 1.0
    for number, arm in enumerate(arms):
        line = rows[rows["model"] == arm].sort_values(x_name)
        style = arm_style(arm)
        shift = (number - (len(arms) - 1) / 2) * gap * 0.07
        x, n = line[x_name].to_numpy(float), counts(line)
        label = "_nolegend_"
        if arm not in named:
            label = style.label + (f" ({n})" if n else "")
            named.add(arm)
        look: dict[str, Any] = {"color": style.color, "linestyle": style.line}
        if len(spots) <= _MAX_BARS:
            ax.errorbar(
                x + shift,
                line["value"],
                yerr=error_lengths(line),
                marker=style.marker,
                capsize=2.5,
                elinewidth=1.4,
                label=label,
                **look,
            )
        else:
            ax.plot(x, line["value"], label=label, **look)
            ax.fill_between(
                x, line["low"], line["high"], color=style.color, alpha=0.18, linewidth=0
            )
    if x_name != "position":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))


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
