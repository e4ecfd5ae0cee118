"""Figures of a VISTA round: a mended rationale, scores kept and dropped, yields."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attcot_analysis.errors import ShowError
from attcot_analysis.show.intervals import error_lengths, need_columns
from attcot_analysis.show.style import GRID, INK, PAPER, figure_style, format_counts, new_figure

_KEPT, _DROPPED = "#0173b2", "#d55e00"

_COLUMN = 8 / 96
"""Inches that a letter of the fixed-width font takes at `_SIZE`: whole pixels."""

_SIZE = 9.5

_LINE = 0.24

_RETURN = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"

_DRAWS = {"continued": "mended prefixes, continued", "plain": "as many plain samples"}

_DIFFERENCE = "continued - plain"

_SUCCESS = {"answer": "right answer", "rationale": "right rationale"}


def mended_rationale(
    tokens: Sequence[str],
    position: int,
    replacement: str,
    *,
    plausible: Sequence[str] = (),
    columns: int = 88,
) -> Figure:
    """Draw a wrong response with its critical token, what replaces it, and what is cut.

    Args:
        tokens: The response, token by token, as the tokenizer decodes them.
        position: Of the critical token, from 0.
        replacement: The token that takes its place.
        plausible: The tokens that were most probable there, in order.
        columns: Letters per line.

    Returns:
        The figure: what is kept in dark letters, the critical token framed, what is cut in grey;
        below it what replaces it.

    Raises:
        ShowError: If the position is none of the response's.
    """
    if not 0 <= position < len(tokens):
        raise ShowError(
            f"The critical token has position {position} in a response of {len(tokens)} tokens; "
            "give one from 0 on, of a response that has a critical token."
        )
    places = _flow([_seen(token) for token in tokens], columns)
    first = f"{_quoted(tokens[position])} is replaced by {_quoted(replacement)}; the rest is cut."
    notes = [first]
    if plausible:
        said = ", ".join(_quoted(token) for token in plausible)
        text = f"Most probable there, had it looked last: {said}."
        notes += wrap(text, columns, break_long_words=False, break_on_hyphens=False)
    lines = max(line for _, line, _ in places) + 1
    with figure_style(axes_grid=False):
        width, height = columns * _COLUMN + 0.2, _LINE * (lines + len(notes) + 0.9)
        figure = new_figure(width, height)
        figure.set_layout_engine("none")
        ax = figure.add_axes((0.1 / width, 0.0, 1 - 0.2 / width, 1.0))
        ax.set(xlim=(0, columns), ylim=(lines + len(notes) + 0.6, -0.3))
        ax.set_axis_off()
        for at, (text, line, column) in enumerate(places):
            look = {"color": INK if at < position else GRID}
            if at == position:
                look = {"color": _DROPPED}
                _frame(ax, column, line, len(text))
            _letters(ax, column, line, text, **look)
        for number, note in enumerate(notes):
            _letters(ax, 0, lines + 0.5 + number, note, color=INK, fontstyle="italic")
    return figure


def score_distribution(scores: pd.DataFrame, *, tau: float, title: str = "") -> Figure:
    """Draw the vision-aware scores of right responses, and which of them are kept.

    Args:
        scores: Columns item, share, vas and kept, one row per right response.
        tau: The threshold.
        title: Title of the figure; empty for none.

    Returns:
        The figure: the scores' histogram with the threshold; and question by question the shares
        of attention that they are made from, dropped responses hollow.

    Raises:
        ShowError: If a column is missing or there is no score.
    """
    need_columns(scores, ("item", "share", "vas", "kept"), "the distribution of scores")
    there = scores[scores["vas"].notna()]
    if there.empty:
        raise ShowError(
            "The table holds no score: the attention of no response was read; draw a round of "
            "which some responses are right."
        )
    kept = there["kept"].to_numpy(bool)
    order = there.groupby("item", sort=False)["share"].mean().sort_values(kind="stable").index
    rank = {item: number for number, item in enumerate(order, start=1)}
    with figure_style():
        figure = new_figure(8.2, 2.9)
        bars, dots = figure.subplots(1, 2)
        vas = there["vas"].to_numpy(float)
        edges = np.arange(np.floor(min(vas.min(), -2)), max(vas.max(), 2) + 0.5, 0.25)
        height = np.zeros(len(edges) - 1)
        for own, face, color, name in (
            (kept, _KEPT, _KEPT, "kept"),
            (~kept, PAPER, _DROPPED, "dropped"),
        ):
            number, _ = np.histogram(vas[own], edges)
            there_are = number > 0
            bars.bar(
                edges[:-1][there_are],
                number[there_are],
                width=0.25,
                bottom=height[there_are],
                align="edge",
                color=face,
                edgecolor=color,
                label=f"{name} ({own.sum()})",
            )
            height += number
        bars.axvline(tau, color=INK, linestyle=(0, (4, 2)), linewidth=1.2)
        bars.set_xlabel(f"vision-aware score (threshold {tau:g})")
        bars.set_ylabel("right responses")
        bars.yaxis.set_major_locator(MaxNLocator(integer=True))
        bars.legend(loc="upper left", handlelength=1.2)
        places = np.array([rank[item] for item in there["item"]])
        for own, face, color in ((kept, _KEPT, _KEPT), (~kept, PAPER, _DROPPED)):
            dots.plot(
                places[own],
                there["share"].to_numpy(float)[own],
                marker="o",
                linestyle="none",
                color=color,
                markerfacecolor=face,
                markersize=4,
            )
        dots.set_xlabel(f"question, ordered by mean (n = {len(order)})")
        dots.set_ylabel("image's share of attention")
        dots.xaxis.set_major_locator(MaxNLocator(integer=True))
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def yield_intervals(yields: pd.DataFrame, *, title: str = "") -> Figure:
    """Draw which share of the hard questions each further draw gains, with 95% intervals.

    Args:
        yields: Columns success, draw, value, low, high and n, as `VistaRound.yields` gives them.
        title: Title of the figure; empty for none.

    Returns:
        The figure: shares of the hard questions by draw, and beside them the paired difference
        with the zero line; a row per kind of success. A hollow marker says that the interval
        includes zero.

    Raises:
        ShowError: If a column is missing, or no further draw is there.
    """
    need_columns(yields, ("success", "draw", "value", "low", "high", "n"), "yields")
    drawn = yields[yields["draw"].isin([*_DRAWS, _DIFFERENCE])]
    if drawn.empty:
        raise ShowError(
            "The table of yields has neither continued nor plain draws; draw a round with extra "
            "responses."
        )
    kinds = list(dict.fromkeys(drawn["success"]))
    draws = [name for name in _DRAWS if name in set(drawn["draw"])]
    with figure_style(axes_grid_axis="x"):
        figure = new_figure(8.2, 0.9 + 0.32 * len(kinds) * (len(draws) + 1))
        axs = figure.subplots(len(kinds), 2, squeeze=False, sharex="col")
        for row, kind in zip(axs, kinds, strict=True):
            own = drawn[drawn["success"] == kind].set_index("draw")
            for at, name in enumerate(draws):
                color = _KEPT if name == "continued" else _DROPPED
                if name in own.index:
                    _interval(row[0], own.loc[[name]], at, color)
            row[0].set_yticks(range(len(draws)), [_DRAWS[name] for name in draws])
            row[0].set(xlim=(-0.03, 1.03), ylim=(len(draws) - 0.4, -0.6))
            n = format_counts(own["n"].astype(float)).replace("item", "hard question")
            row[0].set_title(f"{_SUCCESS.get(kind, kind)} ({n})")
            row[1].axvline(0.0, color=INK, linewidth=1.0, zorder=1)
            if _DIFFERENCE in own.index:
                _interval(row[1], own.loc[[_DIFFERENCE]], 0, _KEPT, hollow=True)
            row[1].set_yticks([])
            row[1].set(xlim=(-1.05, 1.05), ylim=(0.6, -0.6))
            row[1].spines["left"].set_visible(False)
        axs[-1, 0].set_xlabel("share of hard questions that gain one")
        axs[-1, 1].set_xlabel("mended \N{MINUS SIGN} plain, paired by question")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def _interval(ax: Axes, row: pd.DataFrame, at: float, color: str, hollow: bool = False) -> None:
    spans_zero = hollow and bool((row["low"] <= 0).all() and (row["high"] >= 0).all())
    ax.errorbar(
        row["value"],
        [at],
        xerr=error_lengths(row),
        marker="o",
        linestyle="none",
        color=color,
        markerfacecolor=PAPER if spans_zero else color,
        elinewidth=1.6,
    )


def _flow(texts: Sequence[str], columns: int) -> list[tuple[str, int, int]]:
    """Each text with the line and column where it starts; a return ends its line."""
    places, line, column = [], 0, 0
    for text in texts:
        if column and column + len(text) > columns:
            line, column = line + 1, 0
        places.append((text, line, column))
        column += len(text)
        if text.endswith(_RETURN):
            line, column = line + 1, 0
    return places


def _seen(token: str) -> str:
    return token.replace("\n", _RETURN)


def _quoted(token: str) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{_seen(token)}\N{RIGHT DOUBLE QUOTATION MARK}"


def _letters(ax: Axes, column: float, line: float, text: str, **look: Any) -> None:
    ax.text(column, line + 0.5, text, family="monospace", fontsize=_SIZE, va="center", **look)


def _frame(ax: Axes, column: float, line: float, length: int) -> None:
    x, y = [column, column + length], [line + 0.05, line + 0.95]
    ax.plot(
        [x[0], x[1], x[1], x[0], x[0]],
        [y[0], y[0], y[1], y[1], y[0]],
        color=_DROPPED,
        linewidth=1.2,
    )
