"""Write a run as one self-contained HTML page that reads like a paper."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from attcot_analysis.errors import RunError
from attcot_analysis.measures.unread import unread_sentence, unread_shares, withheld
from attcot_analysis.show.figures import (
    FigureData,
    figure_svg,
    inline_svg,
    save_figure,
    write_atomically,
)
from attcot_analysis.show.intervals import comparison_intervals, counts, metric_intervals
from attcot_analysis.show.markup import Markup, el, trusted
from attcot_analysis.show.report.items import ReportItem, item_browser
from attcot_analysis.show.report.questions import (
    FOCUS,
    WORDS,
    Answers,
    answer_questions,
    focus_metrics,
)
from attcot_analysis.show.report.tables import (
    comparison_table,
    metric_notes,
    metric_table,
    provenance_table,
)
from attcot_analysis.show.report.texts import LIMITS, METHODS
from attcot_analysis.show.style import arm_label, arm_style, order_arms, page_color, page_colors
from attcot_analysis.stats.catalogue import Metric

_COLUMN = 6.0  # inches; a wider figure would be too small in half the page

_NAME = re.compile(r"[^A-Za-z0-9_-]+")


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


class Figures:
    """Numbers the figures and tables of one page, and remembers the figures."""

    def __init__(self) -> None:
        """Start at one."""
        self._last: dict[str, int] = {}
        self._shown: dict[str, tuple[ReportFigure, str]] = {}

    def next(self, kind: str) -> int:
        """The next number of a kind, ``"Figure"`` or ``"Table"``."""
        self._last[kind] = self._last.get(kind, 0) + 1
        return self._last[kind]

    def write(self, item: ReportFigure) -> Markup:
        """Write a figure under the next number."""
        number = self.next("Figure")
        name = _NAME.sub("-", item.name or item.title.lower()).strip("-") or f"figure-{number}"
        svg = figure_svg(item.figure)
        self._shown[name if name not in self._shown else f"{name}-{number}"] = item, svg
        alt = item.alt or item.title
        drawing = trusted(inline_svg(item.figure, f"figure{number}", alt, svg=svg))
        if item.wide or item.figure.get_figwidth() > _COLUMN:
            drawing = _scrolling(drawing, item.title, "scroll wide")
        return el("figure", drawing, caption(f"Figure {number}. {item.title}", item.caption))

    def save(self, folder: Path, overwrite: bool) -> None:
        """Save every figure that was written, with its data."""
        for name, (item, svg) in self._shown.items():
            # The layout that the page shows; laying out again takes as long as drawing.
            item.figure.set_layout_engine("none")
            save_figure(
                item.figure,
                folder / name,
                data=item.data,
                about={"title": item.title, "caption": item.caption},
                svg=svg,
                overwrite=overwrite,
            )


def caption(title: str, text: str) -> Markup:
    """Write a caption whose title is bold and ends in a stop."""
    stop = "" if title.endswith(("?", "!", ".")) else "."
    return el("figcaption", el("b", f"{title}{stop}"), " ", text)


def _scrolling(content: Markup, name: str, class_: str = "scroll") -> Markup:
    return el("div", content, class_=class_, tabindex=0, role="region", aria_label=name)


def answer_part(
    lead: Sequence[str],
    found: Sequence[Answers],
    notes: Sequence[str],
    unread: Sequence[str] = (),
) -> list[Markup]:
    """Write the headline, the lead, every pair's verdicts, and what to know before quoting.

    What was not read comes before all of these.
    """
    parts = [el("p", text, class_="headline") for text in unread]
    parts += [el("p", found[0].verdicts, class_="headline")] if found else []
    parts += [el("p", text, class_="lead") for text in lead]
    for number, answers in enumerate(found):
        rows = [
            el(
                "li",
                el("span", WORDS[answer.word], class_=f"word {answer.word}"),
                el("span", answer.question.asked, class_="asked"),
                el("span", answer.numbers, ".", class_="numbers"),
            )
            for answer in answers.answers
        ]
        heading = [answers.heading, " ", el("span", answers.n, class_="n")]
        verdicts = el("ul", rows, class_="verdicts")
        if number:
            parts.append(
                el(
                    "details",
                    el("summary", heading),
                    el("p", answers.verdicts),
                    verdicts,
                    class_="more",
                )
            )
        else:
            parts += [el("h3", heading), verdicts]
    if notes:
        parts += [el("h3", "Before you quote this"), text_list("notes", notes)]
    return parts


def curve_part(curves: Sequence[ReportFigure], shown: Figures) -> list[Markup]:
    """Write the curves, two in a row where they are narrow."""
    drawn = [shown.write(one) for one in curves]
    return [el("div", drawn, class_="figures")] if drawn else []


def metric_part(
    summary: pd.DataFrame,
    metrics: Mapping[str, Metric],
    focus: Sequence[str],
    shown: Figures,
) -> list[Markup]:
    """Write the main metrics as a figure and all as a table."""
    chosen = summary[summary["metric"].isin(focus_metrics(summary["metric"], metrics, focus))]
    figure = ReportFigure(
        metric_intervals(chosen, metrics),
        "The main metrics by arm",
        "Dots are means over items and training seeds, lines their 95% intervals; "
        "each panel has its own axis. The table below holds all metrics.",
        alt="Dot-and-interval plot of numbers that are in the table below.",
        wide=True,
        name="metrics",
        data=chosen,
    )
    drawn = shown.write(figure)
    caption = (
        el("b", f"Table {shown.next('Table')}. Metrics by arm."),
        " Mean with 95% interval; n (test items and training seeds) is in the head, and in a cell "
        "where it is another.",
    )
    return [drawn, metric_table(summary, metrics, caption)]


def comparison_part(
    comparisons: pd.DataFrame,
    metrics: Mapping[str, Metric],
    focus: Sequence[str],
    pair: tuple[str, str] | None,
    shown: Figures,
    summary: pd.DataFrame,
) -> list[Markup]:
    """Write the main differences as a figure and all as a table per pair.

    Differences that rest on answers which were not read are in the tables, without a verdict.
    """
    named = focus_metrics(comparisons["metric"], metrics, focus)
    silent = {
        (a, b): withheld(summary, (str(a), str(b)))
        for a, b in zip(comparisons["a"], comparisons["b"], strict=True)
    }
    pairs_of = zip(comparisons["metric"], comparisons["a"], comparisons["b"], strict=True)
    said = [name in named and name not in silent[a, b] for name, a, b in pairs_of]
    chosen = comparisons[said]
    parts = []
    if len(chosen):
        figure = ReportFigure(
            comparison_intervals(chosen, metrics),
            "Paired differences of the main metrics",
            "Second arm minus first, on the same items. A filled marker's 95% interval excludes "
            "zero, a hollow one's does not. The table below holds all metrics.",
            alt="Dot-and-interval plot of differences that are in the table below, with a zero "
            "line.",
            wide=True,
            name="comparisons",
            data=chosen,
        )
        parts.append(shown.write(figure))
    pairs = list(comparisons.groupby(["a", "b"], sort=False))
    pairs.sort(key=lambda found: found[0] != pair)
    for number, ((a, b), rows) in enumerate(pairs):
        title = f"{arm_label(str(b))} \N{MINUS SIGN} {arm_label(str(a))}"
        caption = (
            el("b", f"Table {shown.next('Table')}. Paired differences, {title}."),
            " Verdicts are computed from the intervals: undecided unless the interval excludes "
            "zero.",
        )
        table = comparison_table(rows, metrics, caption, silent[a, b])
        parts.append(el("details", el("summary", title), table, class_="more") if number else table)
    return parts


def item_part(examples: Sequence[ReportItem], pair: tuple[str, str] | None) -> list[Markup]:
    """Write the item browser."""
    return [item_browser(examples, pair)] if examples else []


def method_part(methods: Sequence[tuple[str, str]]) -> list[Markup]:
    """Write how it was measured."""
    return (
        [el("dl", [[el("dt", name), el("dd", text)] for name, text in methods])] if methods else []
    )


def embed_part(explorers: Sequence[ReportEmbed]) -> list[Markup]:
    """The first is open; the others cost nothing until they are opened."""
    parts = []
    for number, item in enumerate(explorers):
        figure = el("figure", item.html, el("figcaption", item.caption))
        parts.append(
            el("details", el("summary", item.title), figure, class_="more", open=not number)
        )
    return parts


def text_list(class_: str, texts: Sequence[str]) -> Markup:
    """Write texts as a list."""
    return el("ul", [el("li", text) for text in texts], class_=class_)


__all__ = ["ReportEmbed", "ReportFigure", "write_report"]


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: pd.DataFrame,
    comparisons: pd.DataFrame,
    metrics: Mapping[str, Metric],
    curves: Sequence[ReportFigure] = (),
    heatmaps: Sequence[ReportFigure] = (),
    explorers: Sequence[ReportEmbed] = (),
    examples: Sequence[ReportItem] = (),
    pair: tuple[str, str] | None = None,
    manifest: Mapping[str, Any] | None = None,
    lead: Sequence[str] = (),
    notes: Sequence[str] = (),
    focus: Sequence[str] = FOCUS,
    methods: Sequence[tuple[str, str]] = METHODS,
    limits: Sequence[str] = LIMITS,
    figures: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``report.html``: one file, no network, no script but its own, every text escaped.

    Args:
        path: The file to write.
        title: Title of the page.
        summary: Columns model, metric, value, low, high, n_items, n_seeds.
        comparisons: Columns metric, a, b, value, low, high, n_items, n_seeds, and optionally
            p_value, p_holm, test. May be empty.
        metrics: Catalogue by metric name, e.g. `METRICS`.
        curves: Figures of commitment and visual access over the rationale.
        heatmaps: Figures of token maps, e.g. from `before_after`.
        explorers: What the reader can play with.
        examples: Items to step through, with their twins and controls.
        pair: The two arms that the page is about: their verdicts come first, and the items are
            sorted by their answers. Default: the last pair of ``comparisons``.
        manifest: Versions, seeds, hashes and configuration, nested as it likes.
        lead: Paragraphs to put first. The verdicts follow by themselves, in words that are
            computed from the intervals.
        notes: What to know before quoting a number of this very report.
        focus: Metrics that the figures name; the tables hold all.
        methods: How it was measured: name and text.
        limits: One sentence or two each.
        figures: A folder to also save every figure in, with its data; see `save_figure`.
        overwrite: Replace a report (and figures) already there.

    Returns:
        The path.

    Raises:
        RunError: If a file is already there and ``overwrite`` is not set.
        ShowError: If a table lacks a column or the summary has no rows.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise RunError(f"{path} is already there; choose another name or pass overwrite=True.")
    shown = Figures()
    answers = answer_questions(comparisons, summary, metrics) if len(comparisons) else []
    if pair is None and answers:
        pair = answers[-1].a, answers[-1].b
    answers.sort(key=lambda found: (found.a, found.b) != pair)
    unread = [
        unread_sentence(share, what, arm_label(model))
        for (model, what), share in unread_shares(summary).items()
    ]
    named = sorted({*summary["metric"], *comparisons.get("metric", ())})
    sections = [
        _section("answer", "In short", answer_part(lead, answers, notes, unread)),
        _section("curves", "Curves over the rationale", curve_part(curves, shown)),
        _section("metrics", "Metrics by arm", metric_part(summary, metrics, focus, shown)),
        _section(
            "comparisons",
            "Paired comparisons",
            comparison_part(comparisons, metrics, focus, pair, shown, summary)
            if len(comparisons)
            else [],
        ),
        _section("heatmaps", "Where it looks", [shown.write(one) for one in heatmaps]),
        _section("explore", "Look for yourself", embed_part(explorers)),
        _section("items", "Item by item", item_part(examples, pair)),
        _section("methods", "How it was measured", method_part(methods)),
        _section(
            "meaning",
            "What each metric means, and what would falsify the reading",
            [metric_notes(named, metrics)],
        ),
        _section("limits", "Limits", [text_list("limits", limits)] if limits else []),
        _section("provenance", "Provenance", [provenance_table(manifest)] if manifest else []),
    ]
    present = [section for section in sections if section is not None]
    page = _page(title, summary, present, {one.scripts for one in explorers if one.scripts})
    if figures is not None:
        shown.save(Path(figures), overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path


@dataclass(frozen=True)
class _Section:
    name: str
    title: str
    html: Markup


def _section(name: str, title: str, parts: Sequence[Markup]) -> _Section | None:
    if not parts:
        return None
    return _Section(name, title, el("section", el("h2", title), parts, id=name))


def _page(
    title: str, summary: pd.DataFrame, sections: Sequence[_Section], scripts: set[str]
) -> str:
    package = files("attcot_analysis.show.report") / "static"
    style = (package / "report.css").read_text(encoding="utf-8")
    dark = "".join(f"--c-{light[1:]}:{dark};" for light, dark in page_colors().items())
    style += f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    script = (package / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = " ".join([f"'sha256-{digest}'", *sorted(scripts)])
    policy = f"{_POLICY}; script-src {allowed}"
    arms = []
    for arm in order_arms(summary["model"]):
        look = arm_style(arm)
        n = counts(summary[summary["model"] == arm])
        dot = el("span", class_="swatch", style=f"--arm:{page_color(look.color)}")
        arms.append(el("li", dot, f"{look.label} ({n})" if n else look.label))
    links = [el("li", el("a", part.title, href=f"#{part.name}")) for part in sections]
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("link", rel="icon", href="data:,"),
        el("title", title),
        el("style", trusted(style)),
    )
    body = el(
        "body",
        el("a", "To the results", href="#results", class_="skip"),
        el(
            "header",
            el("p", "Att-CoT Analysis, report of a run", class_="kicker"),
            el("h1", title),
            el("ul", arms, class_="arms"),
        ),
        el("nav", el("ul", links), aria_label="Contents"),
        el("main", [part.html for part in sections], id="results"),
        el("footer", "This page is one file: it loads nothing from anywhere."),
        el("script", trusted(script)),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"
