"""The items at one end of a metric, to be looked at first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from attcot_analysis.errors import ShowError
from attcot_analysis.measures.samples import samples_of
from attcot_analysis.problems import Problem
from attcot_analysis.problems.fit import plain_line
from attcot_analysis.show.report.arms import MeasuredArm
from attcot_analysis.show.style import format_number
from attcot_analysis.show.tables import known_metrics
from attcot_analysis.stats.catalogue import METRICS

End = Literal["worst", "lowest", "highest"]


@dataclass(frozen=True)
class RankedItems:
    """Items in the order of a metric.

    Attributes:
        table: ``item``, ``value``, ``question``, ``right``, and ``cot`` and ``direct`` (the
            answers of the first seed and sample, ``None`` if unparsed) where these were measured.
        notes: What the metric is, how many items have no value, how many are tied.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Write them for a terminal: no text of an item or a model can command it."""
        lines = list(self.notes)
        for row in self.table.to_dict("records"):
            said = [
                f"{mode}: {'(unparsed)' if row[mode] is None else plain_line(row[mode], 40)}"
                for mode in ("cot", "direct")
                if mode in row
            ]
            said.append(f"right: {plain_line(row['right'], 40)}")
            lines.append(f"{format_number(row['value']):>8}  {plain_line(row['item'])}")
            lines.append(f"{'':10}{plain_line(row['question'], 86)}")
            lines.append(f"{'':10}{'; '.join(said)}")
        return "\n".join(lines)


def ranked_items(
    arm: MeasuredArm,
    problems: Sequence[Problem],
    metric: str,
    *,
    end: End = "worst",
    n: int = 10,
) -> RankedItems:
    """Find the items with the worst, lowest or highest values of a metric.

    Args:
        arm: What was measured; values of several seeds are averaged.
        problems: The items.
        metric: A name of `METRICS`.
        end: ``"worst"`` is highest where lower is better, else lowest; where neither direction is
            better a note says so.
        n: How many items, at most.

    Raises:
        ShowError: If the metric was not measured, or n is below 1.
    """
    values = arm.values(problems)
    [name] = known_metrics(values["metric"], [metric])
    better = METRICS[name].better
    if n < 1:
        raise ShowError(f"n is {n}; ask for at least one item.")
    lowest = end == "lowest" or (end == "worst" and better != "lower")
    own = values[values["metric"] == name]
    means = own.groupby("item", sort=False)["value"].mean().dropna()
    ordered = means.reindex([problem.id for problem in problems if problem.id in means.index])
    ordered = ordered.sort_values(ascending=lowest, kind="stable")
    shown = ordered.head(n)
    direction = {None: "", "higher": "; higher is better", "lower": "; lower is better"}[better]
    word = "lowest" if lowest else "highest"
    notes = [
        f"{name}, {METRICS[name].title} ({METRICS[name].unit}{direction}): the {len(shown)} "
        f"{word} of {len(ordered)} items."
    ]
    if end == "worst" and better is None:
        notes.append(
            "Neither direction of it is better by itself: these are the lowest, --highest shows "
            "the other end."
        )
    if missing := len(problems) - len(ordered):
        notes.append(f"{missing} of {len(problems)} items have no value and are left out.")
    tied = int((ordered == shown.iloc[-1]).sum())
    if tied > int((shown == shown.iloc[-1]).sum()):
        notes.append(
            f"{tied} items share the value {format_number(shown.iloc[-1])}; of these the first in "
            "the order of the problems are shown."
        )
    by_id = {problem.id: problem for problem in problems}
    table = pd.DataFrame({"item": shown.index, "value": shown.to_numpy()})
    table["question"] = [by_id[item].question for item in shown.index]
    table["right"] = [str(by_id[item].answer) for item in shown.index]
    for mode in ("cot", "direct"):
        answers = samples_of(arm.tables[min(arm.tables)][f"answers_{mode}"])[0]
        if len(answers):
            said = dict(zip(answers["item"], answers["answer"], strict=True))
            given = [one if isinstance(one, str) else None for one in map(said.get, shown.index)]
            table[mode] = pd.Series(given, dtype=object)
    return RankedItems(table, tuple(notes))
