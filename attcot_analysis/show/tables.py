"""Metrics as the table of a paper: LaTeX (booktabs), Markdown, or CSV to go on with."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from attcot_analysis.errors import ShowError
from attcot_analysis.escapes import for_csv, for_latex, for_markdown, for_sentence
from attcot_analysis.measures.compare import summarise
from attcot_analysis.measures.unread import unread_sentences, withheld
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.intervals import counts, need_columns, order_metrics, p_of
from attcot_analysis.show.report.arms import read_arm
from attcot_analysis.show.report.questions import focus_metrics
from attcot_analysis.show.style import arm_label, format_interval, format_number, order_arms
from attcot_analysis.stats.catalogue import METRICS

_TEX = {"\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "\N{NO-BREAK SPACE}": "~"}
_TEX |= {"\N{MULTIPLICATION SIGN}": r"$\times$"}
"""Signs of our own numbers that not every LaTeX knows."""
_NUMBERS = ("value", "low", "high", "n_items", "n_seeds")


def run_summary(
    folders: Sequence[str | Path], *, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The summary of a measured run, of several of one arm, or of a comparison of two.

    Args:
        folders: One that `measure_run` or `compare_runs` has written, or a measured run per
            training seed.
        seed: Of the intervals' bootstrap.

    Returns:
        The summary and the paired differences, which are empty for what was not compared.

    Raises:
        RunError: If a folder is no such run, or the several were not measured alike.
    """
    runs = [RunFolder.open(folder) for folder in folders]
    if len(runs) == 1 and runs[0].has("comparisons"):
        return runs[0].read_table("summary"), runs[0].read_table("comparisons")
    name = read_arm(folders).name
    values = [
        run.read_table("values").assign(model=name, seed=number) for number, run in enumerate(runs)
    ]
    return summarise(pd.concat(values, ignore_index=True), seed=seed), pd.DataFrame()


def known_metrics(present: Iterable[str], asked: Sequence[str]) -> list[str]:
    """The metrics asked for, by default the main ones.

    Raises:
        ShowError: If one is not there.
    """
    there = _every(present)
    for name in asked:
        if name not in there:
            near = get_close_matches(name, there, n=1)
            meant = f"did you mean {near[0]}?" if near else _some(there)
            raise ShowError(f"No metric {for_sentence(name)} was measured; {meant}")
    return list(asked) or focus_metrics(there, METRICS)


def _some(there: Sequence[str]) -> str:
    main = ", ".join(focus_metrics(there, METRICS)[:6])
    return f"{len(there)} were, such as {main}; attcot table RUN --metrics all lists them."


def _every(present: Iterable[str]) -> list[str]:
    """Metrics in the catalogue's order."""
    return [name for names in order_metrics(present, METRICS).values() for name in names]


def metric_table(
    summary: pd.DataFrame,
    comparisons: pd.DataFrame | None = None,
    *,
    metrics: Sequence[str] = (),
    to: Literal["latex", "csv", "md"] = "latex",
) -> str:
    r"""Write metrics with their 95% intervals and n as a table.

    LaTeX needs ``\usepackage{booktabs}``. LaTeX and Markdown have a row for each metric and a
    column for each model and difference; before them stands what could not be read. CSV has a row
    for each metric of each model, its numbers unrounded.

    Args:
        summary: From `summarise`.
        comparisons: From `compare`; default none.
        metrics: Which of them; default the main ones (`FOCUS`), ``["all"]`` for all.
        to: The language.

    Raises:
        ShowError: If a metric is not in the summary, or a table lacks columns.
    """
    need_columns(summary, ("model", "metric", "value", "low", "high"), "metrics")
    differences = pd.DataFrame() if comparisons is None else comparisons
    if len(differences):
        need_columns(differences, ("metric", "a", "b", "value", "low", "high"), "comparisons")
    there = {*summary["metric"], *differences.get("metric", ())}
    wanted = known_metrics(there, _every(there) if list(metrics) == ["all"] else metrics)
    parts = [
        summary[summary["model"] == name].assign(model=arm_label(name))
        for name in order_arms(summary["model"])
    ]
    models = {arm_label(name) for name in summary["model"]}
    for (a, b), rows in differences.groupby(["a", "b"], sort=False) if len(differences) else ():
        unread = withheld(summary, (str(a), str(b)))
        tested = [
            float("nan") if row["metric"] in unread else p_of(row, "p_holm")
            for row in rows.to_dict("records")
        ]
        name = f"{arm_label(str(b))} \N{MINUS SIGN} {arm_label(str(a))}"
        parts.append(rows.assign(model=name, p_holm=tested))
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows["metric"].isin(wanted)]
    rows = rows.sort_values("metric", key=lambda names: names.map(wanted.index), kind="stable")
    for field in ("title", "unit"):
        rows[field] = [getattr(METRICS.get(name), field, "") or name for name in rows["metric"]]
    if to == "csv":
        columns = ["metric", "title", "unit", "model", *_NUMBERS]
        columns += ["p_holm"] if "p_holm" in rows else []
        for column in columns[:4]:
            rows[column] = rows[column].map(for_csv)
        return rows[columns].to_csv(index=False)
    notes = unread_sentences(summary, arm_label)
    shown = _shown(rows, models)
    return "\n".join((_latex if to == "latex" else _markdown)(shown, notes)) + "\n"


def _shown(rows: pd.DataFrame, models: set[str]) -> pd.DataFrame:
    """A row of text for each metric, a column for each model and difference."""
    columns = list(dict.fromkeys(rows["model"]))
    table = []
    for metric, own in rows.groupby("metric", sort=False):
        cells = dict.fromkeys(columns, "\N{EN DASH}")
        for row in own.to_dict("records"):
            signed = row["model"] not in models
            interval = format_interval(row["low"], row["high"], signed=signed)
            cells[row["model"]] = f"{format_number(row['value'], signed=signed)} {interval}"
        title, unit = (str(own[name].iloc[0]) for name in ("title", "unit"))
        about = title if unit == metric else f"{title} ({unit})"
        table.append([about, *cells.values(), counts(own)])
    return pd.DataFrame(table, columns=["metric", *columns, "n"])


def _rows(table: pd.DataFrame) -> list[list[Any]]:
    """The names of the columns, then the rows."""
    return [list(table.columns), *table.to_numpy().tolist()]


def _latex(table: pd.DataFrame, notes: Sequence[str]) -> list[str]:
    rows = [[_tex(cell) for cell in row] for row in _rows(table)]
    lines = [f"{' & '.join(row)} \\\\" for row in rows]
    columns = "l" + "r" * (len(table.columns) - 2) + "l"
    return [
        *(f"% {for_sentence(note)}" for note in notes),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _tex(cell: object) -> str:
    """A cell in LaTeX, with the signs of our own numbers that not every LaTeX knows."""
    text = for_latex(cell)
    for sign, command in _TEX.items():
        text = text.replace(sign, command)
    return text


def _markdown(table: pd.DataFrame, notes: Sequence[str]) -> list[str]:
    lines = [f"| {' | '.join(map(for_markdown, row))} |" for row in _rows(table)]
    rule = f"|{' --- |' * len(table.columns)}"
    return [*(f"{for_markdown(note)}\n" for note in notes), lines[0], rule, *lines[1:]]
