"""Cells of a grid as points: one effect against another, a panel for every kind of problem."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from attcot_analysis.errors import ShowError
from attcot_analysis.show.intervals import need_columns
from attcot_analysis.show.style import (
    DIVERGING,
    GRID,
    INK,
    PAPER,
    arm_label,
    arm_style,
    figure_style,
    format_counts,
    format_interval,
    format_number,
    new_figure,
    order_arms,
)

_COLORS = ("#0173b2", "#d55e00", "#029e73", "#cc78bc", "#8c6d5a", "#b59f00")

_MARKERS = ("o", "s", "D", "^", "v", "P")

_NAMES = {"qwen2_5_vl": "Qwen2.5-VL", "internvl": "InternVL", "llava": "LLaVA"}


def family_name(family: str) -> str:
    """What a reader sees for a model family."""
    return _NAMES.get(family, family)


@dataclass(frozen=True)
class CellStyle:
    """Colours and markers of the families and scales of one table.

    Attributes:
        families: In the order of the table.
        scales: In the order of the table.
    """

    families: tuple[str, ...]
    scales: tuple[str, ...]

    @classmethod
    def of(cls, cells: pd.DataFrame) -> "CellStyle":
        """Those of a table with the columns ``family`` and ``scale``."""
        return cls(tuple(dict.fromkeys(cells["family"])), tuple(dict.fromkeys(cells["scale"])))

    def color(self, family: str) -> str:
        """Colour of a family."""
        return _COLORS[self.families.index(family) % len(_COLORS)]

    def marker(self, scale: str) -> str:
        """Marker of a scale."""
        return _MARKERS[self.scales.index(scale) % len(_MARKERS)]

    def handles(self) -> list[Line2D]:
        """Entries of a legend."""
        return [
            Line2D([], [], color=self.color(name), linewidth=3, label=family_name(name))
            for name in self.families
        ] + [
            Line2D([], [], color=INK, marker=self.marker(name), linestyle="", label=name)
            for name in self.scales
        ]


def legend_above(figure: Figure, handles: Sequence[Line2D], title: str) -> None:
    """A legend above all panels, under the figure's title."""
    figure.legend(
        handles=list(handles),
        loc="outside upper left",
        ncols=len(handles),
        title=title or None,
        title_fontproperties={"weight": "bold", "size": 10.5},
        alignment="left",
        handlelength=1.6,
    )


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
        for kept, face, name in ((chosen, _COUNTED, "counts"), (~chosen, PAPER, "does not")):
            color = _COUNTED if face == _COUNTED else GRID
            ax.vlines(places[kept], 0, height[kept], color=color, linewidth=1.4)
            ax.plot(
                places[kept],
                height[kept],
                marker="o",
                linestyle="none",
                color=color,
                markerfacecolor=face,
                label=f"{name} ({kept.sum()} of {len(tokens)})",
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
            measured = points[points["model"] == arm]
            style = arm_style(arm)
            ax.plot(
                measured["ratio"],
                measured["reward"],
                marker=style.marker,
                linestyle="none",
                color=style.color,
                markerfacecolor="none",
                label=f"{style.label} ({len(measured)} responses)",
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
            ("rings", "silent", "open" or missing), as `attcot_lab.validity.separations` makes them.
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
        ax.set_yticks(range(len(rows)), [arm_label(name) for name in rows])
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


_CLAIM = ("text", "role", "value", "low", "high", "low_holm", "high_holm", "verdict")


def study_figure(claims: pd.DataFrame) -> Figure:
    """Draw the claims of a registered study, primary ones above.

    Args:
        claims: From `attcot_lab.registered.study_claims`.

    Returns:
        The figure: a row per claim with its 95 % interval (thick) and, of a primary claim, the one
        at Holm's level (thin), its verdict in words and by marker.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    need_columns(claims, _CLAIM, "the claims of a study")
    rows = claims.to_dict("records")
    markers = {"supported": "o", "opposite": "X", "not shown": "s", "": "d"}
    with figure_style(axes_grid_axis="x"):
        figure = new_figure(7.4, 0.9 + 0.34 * len(rows))
        ax = figure.subplots()
        for at, row in enumerate(rows):
            color = INK if row["role"] == "primary" else "#7b8794"
            if row["role"] == "primary":
                ax.plot([row["low_holm"], row["high_holm"]], [at, at], color=color, linewidth=0.8)
            ax.plot([row["low"], row["high"]], [at, at], color=color, linewidth=2.4)
            ax.plot([row["value"]], [at], marker=markers[row["verdict"]], color=color)
        ax.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
        words = [f"{row['text']} ({row['verdict'] or 'exploratory'})" for row in rows]
        ax.set_yticks(range(len(rows)), [fill(one, 58) for one in words])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlabel("difference")
    return figure
