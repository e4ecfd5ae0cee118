"""Write a run as one self-contained HTML page that reads like a paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from attcot_analysis.errors import RunError
from attcot_analysis.measure.catalogue import Metric
from attcot_analysis.show.figures import inline_svg, write_atomically
from attcot_analysis.show.intervals import comparison_intervals, metric_intervals
from attcot_analysis.show.markup import Markup, el, trusted
from attcot_analysis.show.report_items import ExampleItem, item_section
from attcot_analysis.show.report_tables import (
    comparison_table,
    metric_notes,
    metric_table,
    provenance_table,
)
from attcot_analysis.show.style import arm_style, capital, order_arms
from attcot_analysis.show.tables import counts
from attcot_analysis.show.verdicts import FOCUS, Finding, findings, focus_metrics

LIMITS: tuple[str, ...] = (
    "Att-CoT's formulas are a reconstruction: the paper's own were not available to us. "
    "A result here is about the reconstruction, not about the paper's method.",
    "The testbed is tiny: a small model, generated pictures, a narrow question form. It shows "
    "whether a diagnostic or a cure does what it should where the truth is known; it does not "
    "show that a large model on photographs behaves the same.",
    "Attention is not evidence: a model can look without using what it sees. Read visual access "
    "beside dependence, which changes the picture and watches the answer.",
    "Intervals are 95% intervals over test items, and over training seeds where there are "
    "several. Verdicts are not corrected for the number of metrics: of twenty true zeros, about "
    "one is expected to look decided. Where a table has a column p (Holm), that one is corrected.",
)
"""Limits that hold for every report of the testbed."""

_COLUMN = 6.0  # inches; a wider figure would be too small in half the page
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
    """

    figure: Figure
    title: str
    caption: str
    alt: str = ""
    wide: bool = False


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: pd.DataFrame,
    comparisons: pd.DataFrame,
    metrics: Mapping[str, Metric],
    curves: Sequence[ReportFigure] = (),
    heatmaps: Sequence[ReportFigure] = (),
    examples: Sequence[ExampleItem] = (),
    manifest: Mapping[str, Any] | None = None,
    lead: Sequence[str] = (),
    focus: Sequence[str] = FOCUS,
    limits: Sequence[str] = LIMITS,
    overwrite: bool = False,
) -> Path:
    """Write ``report.html``: one file, no script, no network, every text escaped.

    Args:
        path: The file to write.
        title: Title of the page.
        summary: Columns model, metric, value, low, high, n_items, n_seeds.
        comparisons: Columns metric, a, b, value, low, high, n_items, n_seeds, and optionally
            p_value, p_holm, test. May be empty.
        metrics: Catalogue by metric name, e.g. `METRICS`.
        curves: Figures of commitment and visual access over the rationale.
        heatmaps: Figures of token maps, e.g. from `before_after`.
        examples: Items to show with their twins and controls.
        manifest: Versions, seeds, hashes and configuration, nested as it likes.
        lead: Paragraphs to put first. What is better, worse or undecided follows by itself, in
            words that are computed from the intervals.
        focus: Metrics that the answer and the figures name; the tables hold all.
        limits: One sentence or two each.
        overwrite: Replace a report that is already there.

    Returns:
        The path.

    Raises:
        RunError: If the file is already there and ``overwrite`` is not set.
        ShowError: If a table lacks a column or the summary has no rows.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise RunError(f"{path} is already there; choose another name or pass overwrite=True.")
    numbered = _Numbers()
    found = findings(comparisons, metrics, focus=focus) if len(comparisons) else []
    sections = [
        _section("answer", "In short", _answer(lead, found)),
        _section("curves", "Curves over the rationale", _figures(curves, numbered, grid=True)),
        _section("metrics", "Metrics by arm", _metric_part(summary, metrics, focus, numbered)),
    ]
    if len(comparisons):
        sections.append(
            _section(
                "comparisons",
                "Paired comparisons",
                _comparison_part(comparisons, metrics, focus, numbered),
            )
        )
    sections += [
        _section("heatmaps", "Where it looks, before and after", _figures(heatmaps, numbered)),
        _section("items", "Example items", [item_section(item) for item in examples]),
        _section(
            "meaning",
            "What each metric means, and what would falsify the reading",
            [metric_notes(sorted({*summary["metric"], *comparisons.get("metric", ())}), metrics)],
        ),
        _section("limits", "Limits", [_limits(limits)] if limits else []),
        _section("provenance", "Provenance", [provenance_table(manifest)] if manifest else []),
    ]
    page = _page(title, summary, [section for section in sections if section is not None])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path


class _Numbers:
    """Counts figures and tables of one page."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def next(self, kind: str) -> int:
        self._last[kind] = self._last.get(kind, 0) + 1
        return self._last[kind]


@dataclass(frozen=True)
class _Section:
    name: str
    title: str
    html: Markup


def _section(name: str, title: str, parts: Sequence[Markup]) -> _Section | None:
    if not parts:
        return None
    return _Section(name, title, el("section", el("h2", title), parts, id=name))


def _page(title: str, summary: pd.DataFrame, sections: Sequence[_Section]) -> str:
    style = trusted((files("attcot_analysis.show") / "report.css").read_text(encoding="utf-8"))
    arms = []
    for arm in order_arms(summary["model"]):
        look = arm_style(arm)
        n = counts(summary[summary["model"] == arm])
        dot = el("span", class_="swatch", style=f"--arm:{look.color}")
        arms.append(el("li", dot, f"{look.label} ({n})" if n else look.label))
    links = [el("li", el("a", part.title, href=f"#{part.name}")) for part in sections]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("link", rel="icon", href="data:,"),
        el("title", title),
        el("style", style),
    )
    body = el(
        "body",
        el(
            "header",
            el("p", "Att-CoT Analysis, report of a run", class_="kicker"),
            el("h1", title),
            el("ul", arms, class_="arms"),
        ),
        el("nav", el("ul", links), aria_label="Contents"),
        el("main", [part.html for part in sections]),
        el("footer", "This page is one file: it loads nothing and runs no script."),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _answer(lead: Sequence[str], found: Sequence[Finding]) -> list[Markup]:
    parts = [el("p", text, class_="lead") for text in lead]
    for finding in found:
        kinds = [
            el("li", el("span", f"{name}: ", class_=name.lower()), capital("; ".join(texts)), ".")
            for name, texts in finding.parts()
        ]
        heading = el("h3", finding.heading, " ", el("span", finding.n, class_="n"))
        parts += [heading, el("ul", kinds, class_="findings")]
    return parts


def _metric_part(
    summary: pd.DataFrame,
    metrics: Mapping[str, Metric],
    focus: Sequence[str],
    numbers: _Numbers,
) -> list[Markup]:
    named = focus_metrics(summary["metric"], metrics, focus)
    figure = ReportFigure(
        metric_intervals(summary[summary["metric"].isin(named)], metrics),
        "The main metrics by arm",
        "Dots are means over items and training seeds, lines their 95% intervals; "
        "each panel has its own axis. The table below holds all metrics.",
        alt="Dot-and-interval plot of numbers that are in the table below.",
        wide=True,
    )
    caption = (
        el("b", f"Table {numbers.next('Table')}. Metrics by arm."),
        " Mean with 95% interval; n counts test items and training seeds.",
    )
    return [
        _figure(figure, numbers),
        metric_table(summary, metrics, caption),
    ]


def _comparison_part(
    comparisons: pd.DataFrame,
    metrics: Mapping[str, Metric],
    focus: Sequence[str],
    numbers: _Numbers,
) -> list[Markup]:
    named = focus_metrics(comparisons["metric"], metrics, focus)
    figure = ReportFigure(
        comparison_intervals(comparisons[comparisons["metric"].isin(named)], metrics),
        "Paired differences of the main metrics",
        "Second arm minus first, on the same items. A filled marker's 95% interval excludes "
        "zero, a hollow one's does not. The table below holds all metrics.",
        alt="Dot-and-interval plot of differences that are in the table below, with a zero line.",
        wide=True,
    )
    caption = (
        el("b", f"Table {numbers.next('Table')}. Paired differences."),
        " Verdicts are computed from the intervals: undecided unless the interval excludes zero.",
    )
    return [
        _figure(figure, numbers),
        comparison_table(comparisons, metrics, caption),
    ]


def _figures(
    figures: Sequence[ReportFigure], numbers: _Numbers, *, grid: bool = False
) -> list[Markup]:
    drawn = [_figure(figure, numbers) for figure in figures]
    return [el("div", drawn, class_="figures")] if drawn and grid else drawn


def _figure(item: ReportFigure, numbers: _Numbers) -> Markup:
    number = numbers.next("Figure")
    drawing = trusted(inline_svg(item.figure, f"figure{number}", item.alt or item.title))
    if item.wide or item.figure.get_figwidth() > _COLUMN:
        drawing = el(
            "div", drawing, class_="scroll wide", tabindex=0, role="region", aria_label=item.title
        )
    stop = "" if item.title.endswith(("?", "!", ".")) else "."
    lead = el("b", f"Figure {number}. {item.title}{stop}")
    return el("figure", drawing, el("figcaption", lead, " ", item.caption))


def _limits(limits: Sequence[str]) -> Markup:
    return el("ul", [el("li", text) for text in limits], class_="limits")
