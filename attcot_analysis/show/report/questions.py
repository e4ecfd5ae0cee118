"""The questions of a comparison, each answered in one sentence that its interval allows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
import yaml

from attcot_analysis.measures.unread import unread_sentences, withheld
from attcot_analysis.show.html import static_text
from attcot_analysis.show.intervals import counts, need_columns, order_metrics, p_of
from attcot_analysis.show.style import arm_label, capital, format_interval, format_number
from attcot_analysis.stats.catalogue import Better, Metric

_TABLE = yaml.safe_load(static_text("report/questions.yaml"))
FOCUS: tuple[str, ...] = tuple(_TABLE["focus"])
"""Metrics that the report's figures name; its tables hold all of them."""
ALPHA = 0.05
UNCORRECTED = "uncorrected"
"""Said of a verdict whose interval excludes zero and whose p (Holm) is above `ALPHA`."""

Word = Literal["yes", "no", "inconclusive", "unparsed"]


@dataclass(frozen=True)
class Verdict:
    """What an interval of a difference allows to say.

    Attributes:
        direction: ``"inconclusive"`` unless the interval excludes zero.
        good: Whether that is an improvement; ``None`` if inconclusive or neither is better.
        one_run: Whether it rests on one training run of each, so that it is about this checkpoint
            and no better or worse is said of a way of training.
        uncorrected: Whether correction for the number of metrics takes it back.
    """

    direction: Literal["higher", "lower", "inconclusive"]
    good: bool | None
    one_run: bool = False
    uncorrected: bool = False

    def __str__(self) -> str:
        """Write it as ``higher, better``, of one run as ``higher, this checkpoint``."""
        if self.direction == "inconclusive":
            return self.direction
        said = {True: "better", False: "worse", None: ""}[self.good]
        parts = ["this checkpoint" if self.one_run else said, UNCORRECTED * self.uncorrected]
        return ", ".join([self.direction, *filter(None, parts)])


def verdict(low: float, high: float, better: str | None) -> Verdict:
    """Say what the 95 % interval of a difference, second minus first, shows.

    Args:
        low: Its lower end; NaN if not known.
        high: Its upper end; NaN if not known.
        better: ``"higher"``, ``"lower"`` or ``None``, as in the metric catalogue.
    """
    if low > 0:
        return Verdict("higher", None if better is None else better == "higher")
    if high < 0:
        return Verdict("lower", None if better is None else better == "lower")
    return Verdict("inconclusive", None)


def focus_metrics(
    present: Iterable[str], metrics: Mapping[str, Metric], focus: Sequence[str] = FOCUS
) -> list[str]:
    """Return the metrics of ``focus`` that are present, or all if none of them is."""
    present = set(present)
    named = [name for name in focus if name in present]
    return named or [name for names in order_metrics(present, metrics).values() for name in names]


@dataclass(frozen=True)
class Question:
    """What a reader wants to know of two models.

    Attributes:
        asked: The question, about the second model.
        metric: The metric that answers it.
        wanted: The direction of the metric that is a yes.
        yes: Clause for a yes, without subject.
        no: Clause for the opposite.
        beside: Metrics that stand beside it in the same sentence, the first of them in the headline
            too: a change of `metric` without them says too much.
    """

    asked: str
    metric: str
    wanted: Better
    yes: str
    no: str
    beside: tuple[str, ...] = ()


WORDS: Mapping[Word, str] = _TABLE["words"]
"""What is written for each verdict."""
QUESTIONS: tuple[Question, ...] = tuple(
    Question(**row | {"beside": tuple(row.get("beside", ()))}) for row in _TABLE["questions"]
)
"""The questions of the main job, in the order in which a report answers them."""


@dataclass(frozen=True)
class Answer:
    """A question and what the measurements say.

    Attributes:
        question: What was asked.
        word: ``"yes"``, ``"no"`` for the opposite, ``"inconclusive"`` if the interval holds zero,
            ``"unparsed"`` if too many answers were not read.
        numbers: Both values, the difference, its interval and n, in words.
        beside: What the first metric beside it says, in brackets; empty if nothing is to.
        uncorrected: Whether correction for the number of metrics takes a yes or no back.
    """

    question: Question
    word: Word
    numbers: str
    beside: str = ""
    uncorrected: bool = False

    @property
    def said(self) -> str:
        """The word as a reader sees it, such as ``Yes, uncorrected``."""
        return f"{WORDS[self.word]}, {UNCORRECTED}" if self.uncorrected else WORDS[self.word]

    def __str__(self) -> str:
        """Write it as one sentence."""
        return f"{self.question.asked} {self.said}. {self.numbers}."


@dataclass(frozen=True)
class Answers:
    """All answers about one pair of models.

    Attributes:
        a: The model compared with.
        b: The model that the questions are about.
        n: Items and seeds; empty if not known.
        answers: One per question that was measured.
        unread: A sentence for every model of which too many answers were not read.
        one_run: Whether they are about one checkpoint of it, for want of training seeds.
    """

    a: str
    b: str
    n: str
    answers: tuple[Answer, ...]
    unread: tuple[str, ...] = ()
    one_run: bool = False

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
            said = asked.no if answer.word == "no" else asked.yes
            clauses[answer.word].append(said + answer.beside * (answer.word in ("yes", "no")))
        which = "this checkpoint of " if self.one_run else ""
        names = f"Compared with {arm_label(self.a)}, {which}{arm_label(self.b)}"
        good, bad = _list(clauses["yes"]), _list(clauses["no"])
        if not good and not bad:
            return f"{names} differs in nothing that these items can decide."
        sentence = f"{names} {', but '.join(part for part in (good, bad) if part)}."
        if clauses["inconclusive"]:
            sentence += f" Inconclusive: whether it {_list(clauses['inconclusive'], last='or')}."
        return sentence


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
    answered = []
    for (a, b), pair in comparisons.groupby(["a", "b"], sort=False):
        a, b = str(a), str(b)
        rows = {str(row["metric"]): row for row in pair.to_dict("records")}
        unparsed = withheld(summary, (a, b))
        answers = []
        for question in questions:
            name = question.metric
            title = capital(metrics[name].title if name in metrics else name)
            if name in rows and name in unparsed:
                answers.append(Answer(question, "unparsed", f"{title}: {unparsed[name]}"))
            elif name in rows:
                answer = _answer(question, rows[name], title, _sides(values, a, b, name))
                answers.append(_with_beside(answer, rows, values, metrics))
        pair_summary = summary[summary["model"].isin((a, b))]
        unread = tuple(unread_sentences(pair_summary, arm_label))
        one_run = "n_seeds" in pair and pair["n_seeds"].max() == 1
        answered.append(Answers(a, b, counts(pair), tuple(answers), unread, one_run))
    return answered


def _answer(question: Question, row: Mapping[Any, Any], title: str, sides: Sequence[str]) -> Answer:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    improved = verdict(low, high, question.wanted).good
    word: Word = "inconclusive" if improved is None else "yes" if improved else "no"
    interval = format_interval(low, high, signed=True)
    parts = [*sides, f"difference {format_number(value, signed=True)} {interval}"]
    p_value = p_of(row, "p_holm")
    if p_value == p_value:
        parts.append("p (Holm) < 0.001" if p_value < 0.001 else f"p (Holm) {p_value:.3f}")
    uncorrected = word != "inconclusive" and p_value > ALPHA
    return Answer(question, word, f"{title}: {', '.join(parts)}", uncorrected=uncorrected)


def _sides(values: Mapping[tuple[str, str], float], a: str, b: str, name: str) -> list[str]:
    return [
        f"{arm_label(arm)} {format_number(values[arm, name])}"
        for arm in (a, b)
        if (arm, name) in values
    ]


_MORE = {"higher": "more", "lower": "less", "inconclusive": "inconclusive"}


def _with_beside(
    answer: Answer,
    rows: Mapping[str, Mapping[Any, Any]],
    values: Mapping[tuple[str, str], float],
    metrics: Mapping[str, Metric],
) -> Answer:
    """The answer with the metrics beside it, or with the word that they were not measured."""
    names = answer.question.beside
    if not names:
        return answer
    numbers, said = [answer.numbers], []
    for name in (name for name in names if name in rows):
        row = rows[name]
        value, low, high = (float(row[column]) for column in ("value", "low", "high"))
        sides = _sides(values, str(row["a"]), str(row["b"]), name)
        change = f"difference {format_number(value, signed=True)}"
        interval = format_interval(low, high, signed=True)
        title = metrics[name].title if name in metrics else name
        numbers.append(f"{title}: {', '.join([*sides, f'{change} {interval}'])}")
        said.append(_MORE[verdict(low, high, None).direction])
    if not said:
        numbers.append("how much of it lies on the evidence was not measured")
    beside = f" (at the evidence: {said[0] if said else 'not measured'})"
    return replace(answer, numbers="; ".join(numbers), beside=beside)


def _list(clauses: Sequence[str], last: str = "and") -> str:
    if len(clauses) < 2:
        return "".join(clauses)
    return f"{', '.join(clauses[:-1])} {last} {clauses[-1]}"
