"""Write a run as one self-contained HTML page that reads like a paper."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from attcot_analysis.files import check_free, path_of, write_bytes
from attcot_analysis.measures.outcomes import DRAWN, GROUPS, SIGNS, CotOutcomes
from attcot_analysis.measures.outcomes import WORDS as SIGN_WORDS
from attcot_analysis.measures.unread import unread_sentences, withheld
from attcot_analysis.show import html
from attcot_analysis.show.explorer.page import picture_url
from attcot_analysis.show.figures import (
    FigureData,
    figure_svg,
    inline_svg,
    save_figure,
)
from attcot_analysis.show.intervals import (
    comparison_intervals,
    counts,
    metric_intervals,
    need_columns,
    order_metrics,
    p_of,
)
from attcot_analysis.show.report.items import ReportItem, numbered, report_gallery
from attcot_analysis.show.report.questions import (
    ALPHA,
    answer_questions,
    focus_metrics,
    verdict,
)
from attcot_analysis.show.style import (
    arm_label,
    capital,
    format_interval,
    format_number,
    order_arms,
    page_colors,
)
from attcot_analysis.stats.catalogue import METRICS, Metric

_COLUMN = 6.0  # inches; a wider figure would be too small in half the page
_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_TITLES = {
    "hurt": "Does CoT hurt, and why?",
    "answer": "In short",
    "curves": "Curves over the rationale",
    "metrics": "Metrics by arm",
    "comparisons": "Paired comparisons",
    "heatmaps": "Where it looks",
    "explore": "Look for yourself",
    "items": "Item by item",
    "methods": "How it was measured",
    "meaning": "What each metric means, and what would falsify the reading",
    "limits": "Limits",
    "provenance": "Provenance",
}
"""Sections by the names of their templates."""
_GROUPS = ("hurt", "helped", "right", "wrong")
_LINKS = 12
"""Links that are shown of a group; the rest is one step away, in the item browser."""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


@dataclass(frozen=True)
class ReportFigure:
    """A figure with the words that belong to it.

    Attributes:
        figure: A matplotlib figure.
        title: One line.
        caption: What is drawn, from how many items and seeds, and how to read it.
        alt: What a reader who cannot see it should know; the title if empty.
        wide: Whether it takes the whole width (and scrolls on a small screen), as every figure
            of more than six inches does.
        name: What its files are called if figures are saved; made from the title if empty.
        data: What it shows, kept beside the saved figure; see `save_figure`.
    """

    figure: Figure
    title: str
    caption: str
    alt: str = ""
    wide: bool = False
    name: str = ""
    data: FigureData = None


_FIGURES: Mapping[str, Mapping[str, Any]] = yaml.safe_load(html.static_text("report/figures.yaml"))


def report_figure(
    key: str, figure: Figure, data: FigureData, *, name: str = "", wide: bool = False, **words: str
) -> ReportFigure:
    """A figure with its title and caption of ``figures.yaml``.

    Args:
        key: Its entry.
        figure: What is drawn.
        data: What it was drawn from.
        name: What its files are called; default the entry.
        wide: Whether it takes the whole width even if the entry does not say so.
        **words: What is filled in.
    """
    text = _FIGURES[key]
    return ReportFigure(
        figure,
        text["title"].format(**words),
        text["caption"].format(**words),
        alt=text.get("alt", ""),
        wide=wide or text.get("wide", False),
        name=name or key,
        data=data,
    )


@dataclass(frozen=True)
class ReportEmbed:
    """Something to play with inside the page, such as an explorer.

    Attributes:
        title: One line.
        caption: What it shows and how to use it.
        html: The element, made in this package.
        scripts: Which scripts it runs, as sources of a Content-Security-Policy; may be empty.
    """

    title: str
    caption: str
    html: Markup
    scripts: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What a page shows; every text in it is escaped.

    Attributes:
        title: Title of the page.
        summary: Columns model, metric, value, low, high, n_items, n_seeds.
        comparisons: Columns metric, a, b, value, low, high, n_items, n_seeds, and optionally
            p_value, p_holm, test. Empty for a run that is compared with nothing.
        metrics: Catalogue by metric name.
        outcomes: By arm, its CoT answers against its direct ones, or the sentence that says why
            there is nothing to say; what the page begins with.
        pair: The two arms that the page is about: their verdicts come first, and the items are
            sorted by their answers. Default: the last pair of ``comparisons``.
        lead: Paragraphs to put first. The verdicts follow by themselves, in words that are
            computed from the intervals.
        notes: What to know before quoting a number of this very report.
        limits: One sentence or two each, before those that hold for every report.
        curves: Figures of commitment and visual access over the rationale.
        heatmaps: Figures of token maps, e.g. from `before_after`.
        explorers: What the reader can play with.
        examples: Items to step through, with their twins and controls.
        manifest: Versions, seeds, hashes and configuration, nested as it likes.
    """

    title: str
    summary: pd.DataFrame
    comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    metrics: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    outcomes: Mapping[str, CotOutcomes | str] = field(default_factory=dict)
    pair: tuple[str, str] | None = None
    lead: Sequence[str] = ()
    notes: Sequence[str] = ()
    limits: Sequence[str] = ()
    curves: Sequence[ReportFigure] = ()
    heatmaps: Sequence[ReportFigure] = ()
    explorers: Sequence[ReportEmbed] = ()
    examples: Sequence[ReportItem] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)


def write_report(
    report: Report,
    path: str | Path,
    *,
    figures: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``report.html``: one file, no network, no script but its own, every text escaped.

    Args:
        report: What it shows.
        path: The file to write.
        figures: A folder to also save every figure in, with its data; see `save_figure`.
        overwrite: Replace a report (and figures) already there.

    Returns:
        The path.

    Raises:
        RunError: If a file is already there and ``overwrite`` is not set.
        ShowError: If a table lacks a column or the summary has no rows.
    """
    path = path_of(path)
    check_free(path, overwrite)
    drawings = _Drawings()
    page = _page(report, _sections(report, drawings))
    if figures is not None:
        drawings.save(Path(figures), overwrite)
    write_bytes(path, page.encode())
    return path


def _page(report: Report, sections: Sequence[Mapping[str, Any]]) -> str:
    names = "explorer/static/gallery.js", "report/static/report.js"
    script = "".join(map(html.static_text, names))
    embedded = {item.scripts for item in report.explorers if item.scripts}
    allowed = " ".join([html.script_source(script), *sorted(embedded)])
    summary = report.summary
    values = {
        "title": report.title,
        "policy": f"{_POLICY}; script-src {allowed}",
        "colors": page_colors(),
        "arms": {
            arm: counts(summary[summary["model"] == arm]) for arm in order_arms(summary["model"])
        },
        "sections": sections,
        "script": Markup(script),
    }
    return str(html.render("report/templates/report.html.j2", values))


def _sections(report: Report, drawings: "_Drawings") -> list[dict[str, Any]]:
    """The sections that have something to show, in the page's order, which numbers the figures."""
    compared = len(report.comparisons) > 0
    answers = []
    if compared:
        answers = answer_questions(report.comparisons, report.summary, report.metrics)
    pair = report.pair
    if pair is None and answers:
        pair = answers[-1].a, answers[-1].b
    answers.sort(key=lambda answered: (answered.a, answered.b) != pair)
    unread = unread_sentences(report.summary, arm_label)
    answer = {"unread": unread, "answered": answers, "lead": report.lead, "notes": report.notes}
    values: dict[str, Mapping[str, Any] | None] = {
        "hurt": _hurt(report, drawings) if report.outcomes else None,
        "answer": answer if any(answer.values()) else None,
        "curves": drawings.all(report.curves),
        "metrics": _metrics(report, drawings),
        "comparisons": _comparisons(report, pair, drawings) if compared else None,
        "heatmaps": drawings.all(report.heatmaps),
        "explore": {"explorers": report.explorers} if report.explorers else None,
        "items": _items(report, pair, drawings) if report.examples else None,
        "methods": {},
        "meaning": {"notes": _notes(report)},
        "limits": {"limits": report.limits},
        "provenance": {"manifest": _flat(report.manifest)} if report.manifest else None,
    }
    return [
        {
            "name": name,
            "title": _TITLES[name],
            "html": html.render(f"report/templates/{name}.html.j2", shown),
        }
        for name, shown in values.items()
        if shown is not None
    ]


class _Drawings:
    """Numbers the figures of one page, and remembers them."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[ReportFigure, str]] = {}

    def all(self, figures: Sequence[ReportFigure]) -> dict[str, Any] | None:
        """What a section of figures shows, if there are any."""
        return {"figures": [self.draw(item) for item in figures]} if figures else None

    def draw(self, item: ReportFigure) -> dict[str, Any]:
        """Draw a figure under the next number."""
        number = len(self._shown) + 1
        name = figure_name(item) or f"figure-{number}"
        svg = figure_svg(item.figure)
        self._shown[name if name not in self._shown else f"{name}-{number}"] = item, svg
        drawing = inline_svg(item.figure, f"figure{number}", item.alt or item.title, svg=svg)
        wide = item.wide or item.figure.get_figwidth() > _COLUMN
        text = {"title": item.title, "caption": item.caption}
        return {"number": number, **text, "svg": Markup(drawing), "wide": wide}

    def number(self, name: str) -> int:
        """Under which number a figure of this name is shown; 0 if it is not."""
        shown = [*self._shown]
        return shown.index(_slug(name)) + 1 if _slug(name) in shown else 0

    def save(self, folder: Path, overwrite: bool) -> None:
        """Save every figure that was drawn, with its data."""
        for name, (item, svg) in self._shown.items():
            save_figure(
                item.figure,
                folder / name,
                data=item.data,
                about={"title": item.title, "caption": item.caption},
                svg=svg,
                overwrite=overwrite,
            )


def report_figures(report: Report) -> list[ReportFigure]:
    """The figures of a report, in its order, without the page."""
    figures = [_outcomes_figure(report), *report.curves, _metrics_figure(report)]
    if len(report.comparisons):
        figures.append(_comparisons_figure(report))
    figures += report.heatmaps
    return [figure for figure in figures if figure is not None]


def figure_name(item: ReportFigure) -> str:
    """What the files of a figure are called; empty if it has neither name nor title."""
    return _slug(item.name or item.title.lower())


def _slug(name: str) -> str:
    return _NAME.sub("-", name).strip("-")


def _outcomes_figure(report: Report) -> ReportFigure | None:
    """What goes with answers that CoT hurt, of a single arm where there are any answers."""
    found = next(iter(report.outcomes.values()), None)
    if len(report.outcomes) != 1 or not isinstance(found, CotOutcomes):
        return None
    shares = found.shares()
    # Where all answers are unparsed, no group that is drawn has an item.
    if not (shares["group"].isin(DRAWN) & (shares["n"] > 0)).any():
        return None
    return report_figure("outcomes", found.figure(), shares)


def _metrics_figure(report: Report) -> ReportFigure:
    """The main metrics by arm."""
    summary, metrics = report.summary, report.metrics
    need_columns(summary, ("model", "metric", "value", "low", "high"), "metrics by arm")
    chosen = summary[summary["metric"].isin(focus_metrics(summary["metric"], metrics))]
    return report_figure("metrics", metric_intervals(chosen, metrics), chosen)


def _comparisons_figure(report: Report) -> ReportFigure | None:
    """The main differences, without those that rest on answers which were not read."""
    comparisons, metrics = report.comparisons, report.metrics
    named = focus_metrics(comparisons["metric"], metrics)
    keys = list(zip(comparisons["metric"], comparisons["a"], comparisons["b"], strict=True))
    unparsed = {(a, b): withheld(report.summary, (a, b)) for _, a, b in keys}
    chosen = comparisons[[name in named and name not in unparsed[a, b] for name, a, b in keys]]
    if not len(chosen):
        return None
    return report_figure("comparisons", comparison_intervals(chosen, metrics), chosen)


def _hurt(report: Report, drawings: _Drawings) -> dict[str, Any]:
    """The section on direct and CoT answers; of a single arm with a figure."""
    places = {item.problem.id: place for place, item in enumerate(report.examples)}
    figure = _outcomes_figure(report)
    arms = []
    for arm, found in report.outcomes.items():
        shown: dict[str, Any] = {"label": arm_label(arm), "found": None, "why": found}
        if isinstance(found, CotOutcomes):
            shown |= {
                "found": found,
                "why": "",
                "links": [_links(found, group, places) for group in ("hurt", "helped")],
                "rows": _sign_rows(found),
                "patterns": found.patterns().to_dict("records"),
                "answers": found.answers(),
            }
        arms.append(shown)
    return {
        "arms": arms,
        "groups": [capital(GROUPS[group]) for group in _GROUPS],
        "signs": SIGNS,
        "words": SIGN_WORDS,
        "drawn": None if figure is None else drawings.draw(figure),
    }


def _links(found: CotOutcomes, group: str, places: Mapping[str, int]) -> dict[str, Any]:
    """Items of a group: those linked, how many others are in the item browser, how many are not."""
    items = found.items(group)
    inside = {item: places[item] for item in items if item in places}
    linked = dict(list(inside.items())[:_LINKS])
    more, absent = len(inside) - len(linked), len(items) - len(inside)
    return {"title": GROUPS[group], "places": linked, "more": more, "absent": absent}


def _sign_rows(found: CotOutcomes) -> list[dict[str, Any]]:
    """One row per sign: the share of every group, with its interval and n."""
    rows: dict[str, list[dict[str, str]]] = {}
    for row in found.shares().to_dict("records"):
        if row["group"] in _GROUPS:
            cell = {
                "count": f"{row['count']} of {row['of']}",
                "value": format_number(row["value"], digits=2),
                "interval": format_interval(row["low"], row["high"], digits=2),
            }
            rows.setdefault(row["sign"], []).append(cell)
    return [{"sign": name, "cells": cells} for name, cells in rows.items()]


def _metrics(report: Report, drawings: _Drawings) -> dict[str, Any]:
    """The main metrics as a figure and all as a table, a column per arm."""
    summary, metrics = report.summary, report.metrics
    figure = _metrics_figure(report)
    columns = []
    for arm in order_arms(summary["model"]):
        cells = _rows(summary[summary["model"] == arm])
        every = [cell["n"] for cell in cells.values()]
        columns.append({"name": arm, "n": max(every, key=every.count), "cells": cells})
    return {
        "drawn": drawings.draw(figure),
        "table": 1,
        "columns": columns,
        "groups": _groups(summary["metric"], metrics),
        "metrics": metrics,
    }


def _comparisons(
    report: Report, pair: tuple[str, str] | None, drawings: _Drawings
) -> dict[str, Any]:
    """The main differences as a figure and all as a table per pair.

    Differences that rest on answers which were not read are in the tables, without a verdict.
    """
    comparisons, metrics = report.comparisons, report.metrics
    pairs = sorted(comparisons.groupby(["a", "b"], sort=False), key=lambda group: group[0] != pair)
    unparsed = {key: withheld(report.summary, (str(key[0]), str(key[1]))) for key, _ in pairs}
    figure = _comparisons_figure(report)
    drawn = None if figure is None else drawings.draw(figure)
    tables = [
        comparison_table(rows, metrics, unparsed[key], number)
        for number, (key, rows) in enumerate(pairs, start=2)
    ]
    return {"drawn": drawn, "pairs": tables, "metrics": metrics}


def comparison_table(
    comparisons: pd.DataFrame,
    metrics: Mapping[str, Metric],
    unparsed: Mapping[str, str],
    number: int,
) -> dict[str, Any]:
    """One pair's differences with interval, n, test and verdict, as the template reads them.

    Metrics of ``unparsed`` have its reason in place of a verdict and test.
    """
    tested = [name for name in ("p_value", "p_holm") if name in comparisons.columns]
    rows = _rows(comparisons)
    kinds = {str(row.get("test") or "") for row in rows.values() if p_of(row, "p_value") >= 0}
    inference = kinds.pop() if len(kinds) == 1 else ""
    for name, row in rows.items():
        better = metrics[name].better if name in metrics else None
        found = verdict(float(row["low"]), float(row["high"]), better)
        if row.get("n_seeds") == 1:
            found = replace(found, good=None, one_run=True)
        row["verdict"] = found = replace(found, uncorrected=p_of(row, "p_holm") > ALPHA)
        tone = {True: "better", False: "worse", None: ""}[found.good]
        row["tone"] = "inconclusive" if found.direction == "inconclusive" else tone
        row["unparsed"] = unparsed.get(name)
        row["p"] = [
            "–" if name in unparsed else _p_value(row, column, inference) for column in tested
        ]
    first = comparisons.iloc[0]
    return {
        "table": number,
        "title": f"{arm_label(str(first['b']))} \N{MINUS SIGN} {arm_label(str(first['a']))}",
        "tested": tested,
        "inference": inference,
        "groups": _groups(comparisons["metric"], metrics),
        "rows": rows,
    }


def _items(report: Report, pair: tuple[str, str] | None, drawings: _Drawings) -> dict[str, Any]:
    ids = [item.problem.id for item in report.examples]
    return {
        "items": report.examples,
        "gallery": json.dumps(report_gallery(report.examples, pair, report.metrics)),
        "maps": {item: drawings.number(f"maps_{item}") for item in ids},
        "numbered": numbered,
        "picture_url": picture_url,
    }


def _notes(report: Report) -> list[Metric]:
    """The catalogue's entries of the metrics that the page names, in its order."""
    names = {*report.summary["metric"], *report.comparisons.get("metric", ())}
    groups = order_metrics(names, report.metrics).values()
    return [report.metrics[name] for group in groups for name in group if name in report.metrics]


def _groups(names: pd.Series, metrics: Mapping[str, Metric]) -> dict[str, list[str]]:
    """Metric names by the title of their group."""
    return {
        capital(f"{axis}, {unit}" if unit else axis): group
        for (axis, unit), group in order_metrics(names, metrics).items()
    }


def _rows(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The first row of each metric, with its n in words."""
    rows: dict[str, dict[str, Any]] = {}
    for at, row in enumerate(table.to_dict("records")):
        n = counts(table.iloc[[at]])
        rows.setdefault(str(row["metric"]), {**{str(k): v for k, v in row.items()}, "n": n})
    return rows


def _p_value(row: Mapping[str, Any], column: str, said: str) -> str:
    """A p value, with its test where that is not the one said above the table."""
    value = p_of(row, column)
    if not math.isfinite(value):
        return "\N{EN DASH}"
    test = row.get("test") if column == "p_value" else ""
    named = f" ({test})" if test and test != said else ""
    return f"{'<0.001' if value < 0.001 else f'{value:.3f}'}{named}"


def _flat(manifest: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A manifest, nested or not, as rows of name and value."""
    rows: list[tuple[str, str]] = []
    for key, value in manifest.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows += _flat(value, f"{name}.")
        elif isinstance(value, list | tuple):
            rows.append((name, ", ".join(str(part) for part in value)))
        else:
            rows.append((name, str(value)))
    return rows
