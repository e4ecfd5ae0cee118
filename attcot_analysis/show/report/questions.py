"""The questions of a comparison, each answered in one sentence that its interval allows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from attcot_analysis.measures.unread import unread_sentence, unread_shares, withheld
from attcot_analysis.show.intervals import counts, need_columns, order_metrics, p_of
from attcot_analysis.show.style import arm_label, capital, format_interval, format_number
from attcot_analysis.stats.catalogue import Better, Metric
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
                texts["undecided"].append(f"{_verdicts_title(name, metrics)} ({silent[name]})")
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


def _verdicts_title(name: str, metrics: Mapping[str, Metric]) -> str:
    return metrics[name].title if name in metrics else name


def _size(name: str, row: Mapping[str, Any], said: Verdict, metrics: Mapping[str, Metric]) -> str:
    title = _verdicts_title(name, metrics)
    direction = "" if said.direction == "undecided" else f"{said.direction}, "
    value = format_number(row["value"], signed=True)
    return f"{title} ({direction}{value} {format_interval(row['low'], row['high'], signed=True)})"


Word = Literal["yes", "no", "undecided", "inconclusive"]

WORDS: Mapping[Word, str] = {
    "yes": "Yes",
    "no": "The opposite",
    "undecided": "Undecided",
    "inconclusive": "Inconclusive",
}

"""What is written for each."""

_ALPHA = 0.05


@dataclass(frozen=True)
class Question:
    """What a reader wants to know of two models.

    Attributes:
        asked: The question, about the second model.
        metric: The metric that answers it.
        wanted: The direction of the metric that is a yes.
        yes: Clause for a yes, without subject.
        no: Clause for the opposite.
    """

    asked: str
    metric: str
    wanted: Better
    yes: str
    no: str


QUESTIONS: tuple[Question, ...] = (
    Question(
        "Is it right more often?",
        "accuracy_cot",
        "higher",
        "is right more often",
        "is right less often",
    ),
    Question(
        "Does its answer follow the picture?",
        "follow_twin",
        "higher",
        "follows a changed picture more often",
        "follows a changed picture less often",
    ),
    Question(
        "Does it decide later?",
        "commitment_position",
        "higher",
        "decides later",
        "decides earlier",
    ),
    Question(
        "Is it less sure before it writes?",
        "p0_final",
        "lower",
        "is less sure of its answer before it writes",
        "is surer of its answer before it writes",
    ),
    Question(
        "Does it look more while it writes?",
        "mass",
        "higher",
        "looks more at the picture while it writes",
        "looks less at the picture while it writes",
    ),
    Question(
        "Does its look fade less?",
        "mass_slope",
        "higher",
        "looks away less as it writes on",
        "looks away more as it writes on",
    ),
    Question(
        "Does it look at the evidence?",
        "evidence_share",
        "higher",
        "looks more at each step's evidence",
        "looks less at each step's evidence",
    ),
    Question(
        "Does it lean less on the prior?",
        "habitual_cot",
        "lower",
        "gives the habitual answer less often",
        "gives the habitual answer more often",
    ),
)

"""The questions of the main job, in the order in which a report answers them."""


@dataclass(frozen=True)
class Answer:
    """A question and what the measurements say.

    Attributes:
        question: What was asked.
        word: ``"yes"``, ``"no"`` for the opposite, ``"undecided"`` if the interval holds zero,
            ``"inconclusive"`` if too many answers were not read.
        numbers: Both values, the difference, its interval and n, in words.
    """

    question: Question
    word: Word
    numbers: str

    def __str__(self) -> str:
        """Write it as one sentence."""
        return f"{self.question.asked} {WORDS[self.word]}. {self.numbers}."


@dataclass(frozen=True)
class Answers:
    """All answers about one pair of models.

    Attributes:
        a: The model compared with.
        b: The model that the questions are about.
        n: Items and seeds; empty if not known.
        answers: One per question that was measured.
        unread: A sentence for every model of which too many answers were not read.
    """

    a: str
    b: str
    n: str
    answers: tuple[Answer, ...]
    unread: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Which models."""
        return f"{arm_label(self.b)} compared with {arm_label(self.a)}"

    @property
    def headline(self) -> str:
        """Say first what was not read, then all verdicts without numbers."""
        return " ".join([*self.unread, self.verdicts])

    @property
    def verdicts(self) -> str:
        """Say all verdicts in one or two sentences, without numbers."""
        clauses: dict[Word, list[str]] = {word: [] for word in WORDS}
        for answer in self.answers:
            asked = answer.question
            clauses[answer.word].append(asked.no if answer.word == "no" else asked.yes)
        names = f"Compared with {arm_label(self.a)}, {arm_label(self.b)}"
        good, bad = _list(clauses["yes"]), _list(clauses["no"])
        if not good and not bad:
            return f"{names} differs in nothing that these items can decide."
        said = f"{names} {', but '.join(part for part in (good, bad) if part)}."
        if clauses["undecided"]:
            said += f" Undecided is whether it {_list(clauses['undecided'], last='or')}."
        return said


def answer_questions(
    comparisons: pd.DataFrame,
    summary: pd.DataFrame,
    metrics: Mapping[str, Metric],
    *,
    questions: Sequence[Question] = QUESTIONS,
) -> list[Answers]:
    """Answer the questions for every pair of models.

    Args:
        comparisons: Columns metric, a, b, value, low, high, n_items, n_seeds, and p_holm if tests
            were made.
        summary: Columns model, metric, value: what the two models' values are.
        metrics: Catalogue by metric name, for their titles.
        questions: What to ask; those whose metric was not measured are left out.

    Returns:
        One record per pair, in the table's order.

    Raises:
        ShowError: If a column is missing or there are no rows.
    """
    need_columns(comparisons, ("metric", "a", "b", "value", "low", "high"), "the answers")
    need_columns(summary, ("model", "metric", "value"), "the answers")
    values = {
        (str(row["model"]), str(row["metric"])): float(row["value"])
        for row in summary.to_dict("records")
    }
    found = []
    unread = unread_shares(summary)
    for (a, b), pair in comparisons.groupby(["a", "b"], sort=False):
        rows = {str(row["metric"]): row for row in pair.to_dict("records")}
        silent = withheld(summary, (str(a), str(b)))
        answers = []
        for question in questions:
            if question.metric in rows and question.metric in silent:
                title = capital(_title(question.metric, metrics))
                reason = silent[question.metric].removeprefix("inconclusive: ")
                answers.append(Answer(question, "inconclusive", f"{title}: {reason}"))
            elif question.metric in rows:
                row = {str(key): value for key, value in rows[question.metric].items()}
                both = (
                    values.get((str(a), question.metric)),
                    values.get((str(b), question.metric)),
                )
                answers.append(_answer(question, row, both, metrics))
        first = tuple(
            unread_sentence(share, what, arm_label(model))
            for (model, what), share in unread.items()
            if model in (str(a), str(b))
        )
        found.append(Answers(str(a), str(b), counts(pair), tuple(answers), first))
    return found


def _title(name: str, metrics: Mapping[str, Metric]) -> str:
    return metrics[name].title if name in metrics else name


def _answer(
    question: Question,
    row: Mapping[str, Any],
    values: tuple[float | None, float | None],
    metrics: Mapping[str, Metric],
) -> Answer:
    said = verdict_of(float(row["low"]), float(row["high"]), question.wanted)
    word: Word = "undecided" if said.good is None else "yes" if said.good else "no"
    title = capital(_title(question.metric, metrics))
    sides = [
        f"{arm_label(str(row[side]))} {format_number(value)}"
        for side, value in zip(("a", "b"), values, strict=True)
        if value is not None
    ]
    difference = f"difference {format_number(float(row['value']), signed=True)} " + format_interval(
        float(row["low"]), float(row["high"]), signed=True
    )
    parts = [*sides, difference]
    p_value = p_of(row, "p_holm")
    if p_value == p_value:
        parts.append("p (Holm) < 0.001" if p_value < 0.001 else f"p (Holm) {p_value:.3f}")
        if word != "undecided" and p_value > _ALPHA:
            parts.append("not decided once corrected for the number of metrics")
    return Answer(question, word, f"{title}: {', '.join(parts)}")


def _list(clauses: Sequence[str], last: str = "and") -> str:
    if len(clauses) < 2:
        return "".join(clauses)
    return f"{', '.join(clauses[:-1])} {last} {clauses[-1]}"
