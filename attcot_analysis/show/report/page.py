"""Write a run as one self-contained HTML page that reads like a paper."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from attcot_analysis.errors import RunError
from attcot_analysis.measures.unread import unread_sentence, unread_shares
from attcot_analysis.show.figures import write_atomically
from attcot_analysis.show.markup import Markup, el, trusted
from attcot_analysis.show.report.figures import Figures, ReportEmbed, ReportFigure
from attcot_analysis.show.report.items_html import ReportItem
from attcot_analysis.show.report.parts import (
    answer_part,
    comparison_part,
    curve_part,
    embed_part,
    item_part,
    method_part,
    metric_part,
    text_list,
)
from attcot_analysis.show.report.questions import answer_questions
from attcot_analysis.show.report.tables import metric_notes, provenance_table
from attcot_analysis.show.report.texts import LIMITS, METHODS
from attcot_analysis.show.report.verdicts import FOCUS
from attcot_analysis.show.style import arm_label, arm_style, order_arms, page_color, page_colors
from attcot_analysis.show.tables import counts
from attcot_analysis.stats.catalogue import Metric

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
