"""The figures of a claims table, saved into a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import MaxNLocator

from attcot_analysis.show.figures import save_figure
from attcot_analysis.show.intervals import error_lengths, need_columns
from attcot_analysis.show.style import (
    GRID,
    INK,
    PAPER,
    figure_style,
    format_counts,
    format_interval,
    format_number,
    new_figure,
)
from attcot_lab.claims.claim import CLAIMS, Claim
from attcot_lab.claims.table import NOT_TESTED
from attcot_lab.figures import CellStyle, family_name, legend_above

_COLUMNS = ("claim", "level", "family", "scale", "kind", "effect", "low", "high", "verdict")

_SIZES = ("n_items", "n_seeds", "n_cells")

_VERDICT_COLORS = {
    "supported": "#0173b2",
    "opposite": "#d55e00",
    "not supported": "#52606d",
    "undecided": "#dce0e5",
    NOT_TESTED: PAPER,
}

_VERDICT_MARKS = {"supported": "+", "opposite": "\N{MINUS SIGN}", "not supported": "0"}


def claim_forest(
    table: pd.DataFrame,
    claim: str,
    *,
    title: str = "",
    unit: str = "",
    margin: float | None = None,
    placebos: pd.DataFrame | None = None,
) -> Figure:
    """Draw one claim: cells as rows, coloured by family, marked by scale, with pooled diamonds.

    Args:
        table: As `claims_table` returns it.
        claim: Value of its column claim.
        title: The hypothesis; default the claim's name.
        unit: Unit of the effect, for the axis.
        margin: Smallest effect of interest, drawn as a band around zero.
        placebos: As `placebo_table` returns it: the untrained base, drawn below each line.

    Returns:
        The figure: kinds one below the other, each with its pool, and all cells together at the
        bottom, with a thin line for what other models and kinds may have; a filled marker means
        that the interval excludes zero. Numbers stand on the right, n below.

    Raises:
        ShowError: If a column is missing or the claim has no rows.
    """
    rows = table[table["claim"] == claim] if "claim" in table.columns else table
    need_columns(rows, (*_COLUMNS, *_SIZES), f"claim {claim}")
    cells = rows[rows["level"] == "cell"]
    look = CellStyle.of(cells)
    instead = _by_place(placebos, claim)
    plan: list[tuple[str, pd.Series]] = []
    for kind in dict.fromkeys(cells["kind"]):
        for _, row in cells[cells["kind"] == kind].iterrows():
            plan.append((f"{family_name(row['family'])} {row['scale']}, {kind}", row))
        pooled = rows[(rows["level"] == "kind") & (rows["kind"] == kind)]
        plan += [(f"mean over models, {kind}", row) for _, row in pooled.iterrows()]
    top = rows[rows["level"] == "all"].iloc[0]
    plan.append(("all cells", top))
    with figure_style(axes_grid_axis="x"):
        figure = new_figure(8.2, 1.3 + 0.235 * len(plan))
        ax = figure.subplots()
        ax.axvline(0.0, color=INK, linewidth=1.0, zorder=1)
        if margin is not None:
            ax.axvspan(-margin, margin, color=GRID, alpha=0.22, linewidth=0, zorder=0)
        for y, (_, row) in enumerate(plan):
            base = instead.get(_place(row))
            if base is not None:
                _dot(ax, base, y + 0.3, INK, "|")
            if row["level"] == "cell":
                _dot(ax, row, y, look.color(row["family"]), look.marker(row["scale"]))
            else:
                _diamond(ax, row, y)
        ax.set_yticks(range(len(plan)), [label for label, _ in plan])
        for tick, (_, row) in zip(ax.get_yticklabels(), plan, strict=True):
            tick.set_fontweight("normal" if row["level"] == "cell" else "bold")
        ax.set_ylim(len(plan) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
        ax.set_xlabel(f"effect ({unit})" if unit else "effect")
        numbers = ax.twinx()
        numbers.set_ylim(ax.get_ylim())
        numbers.set_yticks(range(len(plan)), [_numbers(row) for _, row in plan])
        numbers.tick_params(axis="y", length=0)
        numbers.spines[:].set_visible(False)
        numbers.grid(False)
        handles = look.handles()
        if instead:
            handles.append(Line2D([], [], color=INK, marker="|", label="untrained base instead"))
        legend_above(figure, handles, title or claim)
        figure.supxlabel(_caption(cells, top, margin), x=0.01, ha="left", fontsize=8.5)
    return figure


def claims_overview(
    table: pd.DataFrame,
    claims: Mapping[str, str],
    *,
    title: str = "Which claims hold, where?",
    placebos: pd.DataFrame | None = None,
) -> Figure:
    """Draw all claims by cell: colour and sign say the verdict, the first column the pooled one.

    Args:
        table: As `claims_table` returns it.
        claims: Claim → title, in the order of the rows; claims without rows are left out.
        title: Title of the figure; empty for none.
        placebos: As `placebo_table` returns it: the untrained base, a row below each claim.

    Returns:
        The figure: ``+`` supported, ``−`` opposite, ``0`` not supported, blank undecided, and
        nothing where a cell was not measured or rests on one training seed. The first two columns
        are the mean over these cells, and the same beyond these models and kinds.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    need_columns(table, (*_COLUMNS, *_SIZES), "the claims")
    cells = table[table["level"] == "cell"]
    columns = list(dict.fromkeys(zip(cells["kind"], cells["family"], cells["scale"], strict=True)))
    columns.sort(key=lambda column: list(dict.fromkeys(cells["kind"])).index(column[0]))
    present = set(table["claim"])
    shown: list[tuple[str, pd.DataFrame]] = []
    for name in [name for name in claims if name in present]:
        shown.append((claims[name], table[table["claim"] == name]))
        if placebos is not None and name in set(placebos["claim"]):
            shown.append(("untrained base instead", placebos[placebos["claim"] == name]))
    with figure_style(axes_grid=False):
        figure = new_figure(4.6 + 0.27 * (len(columns) + 3), 2.6 + 0.21 * len(shown))
        ax = figure.subplots()
        for y, (_, rows) in enumerate(shown):
            for _, row in rows.iterrows():
                if row["level"] == "all":
                    _tile(ax, -2.5, y, str(row["verdict"]))
                    if isinstance(row.get("verdict_beyond"), str):
                        _tile(ax, -1.5, y, row["verdict_beyond"])
                elif row["level"] == "cell":
                    x = columns.index((row["kind"], row["family"], row["scale"]))
                    _tile(ax, x, y, str(row["verdict"]))
        labels = ["mean over cells", "beyond them"] + [
            f"{family_name(family)} {scale}, {kind}" for kind, family, scale in columns
        ]
        ax.set_xticks([-2.5, -1.5, *range(len(columns))], labels, rotation=90, fontsize=7.5)
        ax.set_yticks(range(len(shown)), [label for label, _ in shown], fontsize=8)
        ax.set(xlim=(-3.1, len(columns) - 0.4), ylim=(len(shown) - 0.4, -0.6))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        handles = [
            Line2D([], [], marker="s", linestyle="", markersize=8, color=color, label=label)
            for label, color in _VERDICT_COLORS.items()
        ]
        legend_above(figure, handles, title)
        n = format_counts(cells["n_items"], cells["n_seeds"])
        note = f"Cells: {n} each; verdicts from 95% intervals, not corrected for their number"
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8.5)
    return figure


def _place(row: pd.Series) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("level", "family", "scale", "kind"))


def _by_place(placebos: pd.DataFrame | None, claim: str) -> dict[tuple[str, ...], pd.Series]:
    if placebos is None:
        return {}
    rows = placebos[placebos["claim"] == claim]
    return {_place(row): row for _, row in rows.iterrows()}


def _dot(ax: Axes, row: pd.Series, y: float, color: str, marker: str) -> None:
    line = _as_values(row)
    clear = row["low"] > 0 or row["high"] < 0
    ax.errorbar(
        line["value"],
        [y],
        xerr=error_lengths(line),
        fmt=marker,
        color=color,
        markerfacecolor=color if clear else PAPER,
        elinewidth=1.6,
    )


def _diamond(ax: Axes, row: pd.Series, y: float) -> None:
    low, high, middle = row["low"], row["high"], row["effect"]
    if {"low_beyond", "high_beyond"} <= set(row.index) and row["low_beyond"] == row["low_beyond"]:
        ax.plot([row["low_beyond"], row["high_beyond"]], [y, y], color=INK, linewidth=0.9)
    corners = [(low, y), (middle, y - 0.32), (high, y), (middle, y + 0.32)]
    ax.add_patch(Polygon(corners, closed=True, facecolor=INK, edgecolor=INK, linewidth=0.8))


def _tile(ax: Axes, x: float, y: float, verdict: str) -> None:
    color = _VERDICT_COLORS[verdict]
    ax.add_patch(Rectangle((x - 0.44, y - 0.44), 0.88, 0.88, facecolor=color, linewidth=0))
    mark = _VERDICT_MARKS.get(verdict, "")
    ax.text(x, y, mark, ha="center", va="center", color=PAPER, fontsize=8.5, fontweight="bold")


def _as_values(row: pd.Series) -> pd.DataFrame:
    return pd.DataFrame([{"value": row["effect"], "low": row["low"], "high": row["high"]}])


def _numbers(row: pd.Series) -> str:
    effect = format_number(float(row["effect"]), signed=True)
    return f"{effect} {format_interval(float(row['low']), float(row['high']), signed=True)}"


def _caption(cells: pd.DataFrame, top: pd.Series, margin: float | None) -> str:
    n = format_counts(cells["n_items"], cells["n_seeds"])
    band = "" if margin is None else f"; band: \N{PLUS-MINUS SIGN}{margin:g}, no effect of interest"
    of = _cells(int(top["n_cells"]))
    return (
        f"Lines: 95% interval over items and seeds; cells: {n} each, {of}, "
        f"{int(top['n_items'])} items in all{band}.\n"
        "Diamonds: means over these cells; thin line: were models and kinds drawn anew as well."
    )


def _cells(n: int) -> str:
    return f"{n} cell{'' if n == 1 else 's'}"


def save_claim_figures(
    table: pd.DataFrame, folder: str | Path, claims: Sequence[Claim] = CLAIMS
) -> None:
    """Save the overview and one forest plot per claim, each with its numbers; replaces old ones.

    Args:
        table: From `claims_table`.
        folder: Where to.
        claims: What was tested.
    """
    folder = Path(folder)
    overview = claims_overview(table, {claim.id: claim.title for claim in claims})
    save_figure(overview, folder / "overview", data=table, overwrite=True)
    present = set(table["claim"])
    for claim in claims:
        if claim.id in present:
            figure = claim_forest(
                table, claim.id, title=claim.title, unit=claim.unit, margin=claim.margin
            )
            rows = table[table["claim"] == claim.id]
            save_figure(figure, folder / claim.id, data=rows, overwrite=True)
