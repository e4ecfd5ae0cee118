"""The report's tables: metrics by arm, paired comparisons, what each metric means, provenance."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from attcot_analysis.show.intervals import counts, need_columns, order_metrics, p_of
from attcot_analysis.show.markup import Markup, el
from attcot_analysis.show.report.questions import row_verdict
from attcot_analysis.show.style import (
    arm_label,
    arm_style,
    capital,
    format_interval,
    format_number,
    order_arms,
    page_color,
)
from attcot_analysis.stats.catalogue import Metric

_TEST_HEADS = {"p_value": "p (test)", "p_holm": "p (Holm)"}
_BETTER = {"higher": "higher is better", "lower": "lower is better"}


def metric_table(
    summary: pd.DataFrame, metrics: Mapping[str, Metric], caption: Sequence[object]
) -> Markup:
    """Write values, 95% intervals and n of every metric, a column per arm."""
    need_columns(summary, ("model", "metric", "value", "low", "high"), "metrics by arm")
    arms = order_arms(summary["model"])
    by_arm = {arm: summary[summary["model"] == arm] for arm in arms}
    usual = {arm: _usual(rows) for arm, rows in by_arm.items()}
    body = []
    for (axis, unit), names in order_metrics(summary["metric"], metrics).items():
        body.append(_group(f"{axis}, {unit}" if unit else axis, len(arms) + 1))
        for name in names:
            cells = [_value(by_arm[arm][by_arm[arm]["metric"] == name], usual[arm]) for arm in arms]
            body.append(el("tr", _metric_head(name, metrics, hint=True), cells))
    heads = [
        el(
            "th",
            _swatch(arm),
            arm_label(arm),
            [el("br"), el("span", usual[arm], class_="n")] if usual[arm] else None,
            scope="col",
        )
        for arm in arms
    ]
    return _table(caption, [el("th", "Metric", scope="col"), *heads], body, "Metrics by arm")


def comparison_table(
    comparisons: pd.DataFrame,
    metrics: Mapping[str, Metric],
    caption: Sequence[object],
    silent: Mapping[str, str] | None = None,
) -> Markup:
    """Write one pair's differences with interval, n, test and verdict.

    Metrics of ``silent`` have its reason in place of a verdict and test.
    """
    need_columns(comparisons, ("metric", "a", "b", "value", "low", "high"), "comparisons")
    tested = [name for name in ("p_value", "p_holm") if name in comparisons.columns]
    heads = ["Metric", "Verdict", "Difference", "95% interval", "n"]
    heads += [_TEST_HEADS[name] for name in tested]
    body = []
    for (axis, unit), names in order_metrics(comparisons["metric"], metrics).items():
        body.append(_group(f"{axis}, {unit}" if unit else axis, len(heads)))
        for name in names:
            row = comparisons[comparisons["metric"] == name]
            body.append(_comparison(name, row, metrics, tested, (silent or {}).get(name)))
    return _table(
        caption, [el("th", head, scope="col") for head in heads], body, "Paired comparisons"
    )


def metric_notes(names: Sequence[str], metrics: Mapping[str, Metric]) -> Markup:
    """Write what each metric means and what would falsify the usual reading of it, folded up."""
    parts = []
    for (axis, _), group in order_metrics(names, metrics).items():
        for name in group:
            if name not in metrics:
                continue
            note = metrics[name]
            direction = _BETTER.get(note.better or "", "neither direction is better by itself")
            parts.append(
                el(
                    "details",
                    el("summary", el("b", capital(note.title)), " ", el("code", name)),
                    el("p", f"{note.definition} Axis: {axis}; unit: {note.unit}; {direction}."),
                    el(
                        "p",
                        el("span", "What would falsify the reading: ", class_="label"),
                        note.falsifier,
                    ),
                    el("p", el("span", "Source: ", class_="label"), note.source),
                    id=f"metric-{_slug(name)}",
                )
            )
    return el("div", parts, class_="meanings")


def provenance_table(manifest: Mapping[str, Any]) -> Markup:
    """Write a manifest, nested or not, as rows of name and value."""
    rows = [
        el("tr", el("th", name, scope="row"), el("td", value)) for name, value in _flat(manifest)
    ]
    return el(
        "details",
        el("summary", "Settings, data, models and versions"),
        el(
            "div",
            el("table", el("tbody", rows), class_="provenance"),
            class_="scroll",
            tabindex=0,
            role="region",
            aria_label="Provenance",
        ),
    )


def _comparison(
    name: str,
    row: pd.DataFrame,
    metrics: Mapping[str, Metric],
    tested: Sequence[str],
    silent: str | None,
) -> Markup:
    record = {str(key): value for key, value in row.iloc[0].items()}
    said = row_verdict(record, metrics)
    tone = {True: "better", False: "worse", None: ""}[said.good]
    if said.direction == "undecided":
        tone = "undecided"
    sign = {
        "higher": "\N{BLACK UP-POINTING TRIANGLE} ",
        "lower": "\N{BLACK DOWN-POINTING TRIANGLE} ",
    }
    words = el("span", sign.get(said.direction, ""), str(said), class_=tone)
    if silent is not None:
        words = el("span", silent, class_="undecided")
    cells = [
        el("td", words, class_="verdict"),
        el("td", format_number(record["value"], signed=True), class_="value"),
        el("td", format_interval(record["low"], record["high"], signed=True), class_="interval"),
        el("td", counts(row), class_="n"),
    ]
    for column in tested:
        value = math.nan if silent is not None else p_of(record, column)
        named = column == "p_value" and math.isfinite(value) and record.get("test")
        test = f" ({record['test']})" if named else ""
        cells.append(el("td", f"{_p_value(value)}{test}", class_="n"))
    return el("tr", _metric_head(name, metrics), cells)


def _value(row: pd.DataFrame, usual: str) -> Markup:
    """A cell; n is said where it is not the column's usual one."""
    if row.empty:
        return el("td", "\N{EN DASH}")
    value, low, high = (float(row.iloc[0][name]) for name in ("value", "low", "high"))
    return el(
        "td",
        format_number(value),
        " ",
        el("span", format_interval(low, high), class_="interval"),
        [el("br"), el("span", counts(row), class_="n")] if counts(row) != usual else None,
        class_="value",
    )


def _metric_head(name: str, metrics: Mapping[str, Metric], *, hint: bool = False) -> Markup:
    if name not in metrics:
        return el("th", name, scope="row")
    note = metrics[name]
    words = _BETTER.get(note.better or "")
    return el(
        "th",
        el("a", capital(note.title), href=f"#metric-{_slug(name)}"),
        el("span", f" ({words})", class_="n") if hint and words else None,
        scope="row",
    )


def _usual(rows: pd.DataFrame) -> str:
    """The n that most of an arm's metrics have."""
    every = [counts(rows.iloc[[at]]) for at in range(len(rows))]
    return max(every, key=every.count)


def _group(title: str, columns: int) -> Markup:
    return el("tr", el("th", capital(title), colspan=columns, scope="rowgroup"), class_="group")


def _table(
    caption: Sequence[object], heads: Sequence[Markup], body: Sequence[Markup], name: str
) -> Markup:
    table = el("table", el("caption", caption), el("thead", el("tr", heads)), el("tbody", body))
    return el("div", table, class_="scroll", tabindex=0, role="region", aria_label=name)


def _swatch(arm: str) -> Markup:
    return el("span", class_="swatch", style=f"--arm:{page_color(arm_style(arm).color)}")


def _p_value(value: float) -> str:
    if not math.isfinite(value):
        return "\N{EN DASH}"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _slug(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name)


def _flat(manifest: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
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
