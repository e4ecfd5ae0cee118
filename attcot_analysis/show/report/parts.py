"""The parts of a report's page: verdicts, curves, metrics, comparisons, explorers, methods."""

from collections.abc import Mapping, Sequence

import pandas as pd

from attcot_analysis.measures.unread import withheld
from attcot_analysis.show.intervals import comparison_intervals, metric_intervals
from attcot_analysis.show.markup import Markup, el
from attcot_analysis.show.report.figures import Figures, ReportEmbed, ReportFigure
from attcot_analysis.show.report.items_html import ReportItem, item_browser
from attcot_analysis.show.report.questions import WORDS, Answers
from attcot_analysis.show.report.tables import comparison_table, metric_table
from attcot_analysis.show.report.verdicts import focus_metrics
from attcot_analysis.show.style import arm_label
from attcot_analysis.stats.catalogue import Metric


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
