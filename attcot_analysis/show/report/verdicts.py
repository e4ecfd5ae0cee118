"""Words for differences, computed from their intervals and from nothing else."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from attcot_analysis.measures.unread import withheld
from attcot_analysis.show.style import arm_label, format_interval, format_number
from attcot_analysis.show.tables import counts, need_columns, order_metrics
from attcot_analysis.stats.catalogue import Metric
from attcot_analysis.stats.intervals import Interval

Direction = Literal["higher", "lower", "undecided"]

FOCUS: tuple[str, ...] = (
    "accuracy_cot",
    "accuracy_direct",
    "habitual_cot",
    "follow_twin",
    "net_dependence",
    "p0_final",
    "p0_habitual",
    "commitment_position",
    "mass",
    "evidence_share",
)
"""Metrics that the report's answer and figures name; its tables hold all of them."""


@dataclass(frozen=True)
class Verdict:
    """What an interval of a difference allows to say.

    Attributes:
        direction: ``"undecided"`` unless the interval excludes zero.
        good: Whether that is an improvement; ``None`` if undecided or neither is better.
    """

    direction: Direction
    good: bool | None

    def __str__(self) -> str:
        """Write it as ``higher, better``."""
        if self.good is None:
            return self.direction
        return f"{self.direction}, {'better' if self.good else 'worse'}"


@dataclass(frozen=True)
class Finding:
    """What the paired differences of two arms show.

    Attributes:
        heading: Which arms.
        n: How many items and seeds; empty if not known.
        better: Metrics whose interval shows an improvement, each with value and interval.
        worse: The same for the wrong direction.
        changed: Decided, but neither direction is better by itself.
        undecided: The interval holds zero.
    """

    heading: str
    n: str
    better: tuple[str, ...]
    worse: tuple[str, ...]
    changed: tuple[str, ...]
    undecided: tuple[str, ...]

    def parts(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return the kinds of verdict that occur, with their metrics."""
        named = (
            ("Better", self.better),
            ("Worse", self.worse),
            ("Changed", self.changed),
            ("Undecided", self.undecided),
        )
        return [(name, texts) for name, texts in named if texts]

    def __str__(self) -> str:
        """Write it as one paragraph."""
        counted = f" ({self.n})" if self.n else ""
        said = [f"{name}: {'; '.join(texts)}." for name, texts in self.parts()]
        return " ".join([f"{self.heading}{counted}.", *said])


def verdict(interval: Interval, better: str | None) -> Verdict:
    """Say what the interval of a difference shows.

    Args:
        interval: Of the difference second minus first.
        better: ``"higher"``, ``"lower"`` or ``None``, as in the metric catalogue.
    """
    return verdict_of(interval.low, interval.high, better)


def verdict_of(low: float, high: float, better: str | None) -> Verdict:
    """Say what an interval from ``low`` to ``high`` of a difference shows; see `verdict`."""
    if low > 0:
        return Verdict("higher", None if better is None else better == "higher")
    if high < 0:
        return Verdict("lower", None if better is None else better == "lower")
    return Verdict("undecided", None)


def row_verdict(row: Mapping[str, Any], metrics: Mapping[str, Metric]) -> Verdict:
    """Say what one row of the comparisons table shows."""
    metric = metrics.get(row["metric"])
    return verdict_of(float(row["low"]), float(row["high"]), metric.better if metric else None)


def focus_metrics(
    present: Iterable[str], metrics: Mapping[str, Metric], focus: Sequence[str] = FOCUS
) -> list[str]:
    """Return the metrics of ``focus`` that are present, or all if none of them is."""
    present = set(present)
    named = [name for name in focus if name in present]
    return named or [name for names in order_metrics(present, metrics).values() for name in names]


def findings(
    comparisons: pd.DataFrame,
    metrics: Mapping[str, Metric],
    *,
    focus: Sequence[str] = FOCUS,
    summary: pd.DataFrame | None = None,
) -> list[Finding]:
    """Sort the paired differences into what is better, worse, changed and undecided.

    Args:
        comparisons: Columns metric, a, b, value, low, high, n_items, n_seeds.
        metrics: Catalogue by metric name.
        focus: Metrics to name; all of the table's if none of these is in it.
        summary: Columns model, metric and value; where it says that too many answers were not
            read, what rests on them is undecided.

    Returns:
        One finding per pair of arms, in the table's order.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    need_columns(comparisons, ("metric", "a", "b", "value", "low", "high"), "the findings")
    named = focus_metrics(comparisons["metric"], metrics, focus)
    found = []
    for (a, b), pair in comparisons.groupby(["a", "b"], sort=False):
        texts: dict[str, list[str]] = {"better": [], "worse": [], "changed": [], "undecided": []}
        rows = {str(row["metric"]): row for row in pair.to_dict("records")}
        silent = {} if summary is None else withheld(summary, (str(a), str(b)))
        for name in named:
            if name in rows and name in silent:
                texts["undecided"].append(f"{_title(name, metrics)} ({silent[name]})")
            elif name in rows:
                row = {str(key): value for key, value in rows[name].items()}
                said = row_verdict(row, metrics)
                texts[_kind(said)].append(_size(name, row, said, metrics))
        heading = f"{arm_label(str(b))} compared with {arm_label(str(a))}"
        kinds = {kind: tuple(parts) for kind, parts in texts.items()}
        found.append(Finding(heading, counts(pair), **kinds))
    return found


def _kind(said: Verdict) -> str:
    if said.direction == "undecided":
        return "undecided"
    return {True: "better", False: "worse", None: "changed"}[said.good]


def _title(name: str, metrics: Mapping[str, Metric]) -> str:
    return metrics[name].title if name in metrics else name


def _size(name: str, row: Mapping[str, Any], said: Verdict, metrics: Mapping[str, Metric]) -> str:
    title = _title(name, metrics)
    direction = "" if said.direction == "undecided" else f"{said.direction}, "
    value = format_number(row["value"], signed=True)
    return f"{title} ({direction}{value} {format_interval(row['low'], row['high'], signed=True)})"
