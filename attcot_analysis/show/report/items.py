"""Items of a run for the report's item browser, read from the run's tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from attcot_analysis.measures.answers import steps_of
from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.measures.outcomes import GROUPS, CotOutcomes
from attcot_analysis.measures.samples import SAMPLE
from attcot_analysis.problems import Problem
from attcot_analysis.show.explorer.gallery import item_means, sort_orders
from attcot_analysis.show.style import arm_label
from attcot_analysis.stats.catalogue import Metric


@dataclass(frozen=True)
class ItemStep:
    """What is known of one rationale step of one arm.

    Attributes:
        text: The step; empty before the first.
        best: The candidate that would be most probable if the answer were forced after it.
        p_best: Its probability.
        p_final: Probability of the answer that is most probable after the last step.
        mass: Mean visual mass of the step's rows; NaN before the first step or if not measured.
        k: Which step it is, where answers were not forced after every one; ``None`` for its place.
    """

    text: str
    best: str
    p_best: float
    p_final: float
    mass: float = float("nan")
    k: int | None = None


@dataclass(frozen=True)
class ItemArm:
    """What one arm did with one item.

    Attributes:
        text: Its response.
        answer: The candidate it gave; ``None`` if it is unparsed.
        steps: Before the first step and after each; empty without a rationale.
        settled: From which step on the final answer stays the most probable; ``None`` if not
            measured.
        edits: What it answered on other pictures, by the name of the edit.
        seed: Its training seed, said if the arm has several.
        samples: How many of several responses gave which answer, most first; ``None`` where it
            cannot be told. Empty where there is one. The others of these fields are the first's.
        unlike: How often it states another answer than it gives when forced after its last step,
            such as ``", as on 3 of 24 items"``; may be empty.
    """

    text: str
    answer: str | None
    steps: tuple[ItemStep, ...] = ()
    settled: int | None = None
    edits: Mapping[str, str | None] = field(default_factory=dict)
    seed: int | None = None
    samples: Mapping[str | None, int] = field(default_factory=dict)
    unlike: str = ""

    @property
    def looked(self) -> bool:
        """Whether visual mass was measured."""
        return any(step.mass == step.mass for step in self.steps)


@dataclass(frozen=True)
class ReportItem:
    """One item of the report.

    Attributes:
        problem: The item.
        arms: What every arm did with it.
        note: Why it is shown, one sentence; may be empty.
        kind: Name of the group in which a reader can choose it, a key of
            `attcot_analysis.measures.outcomes.GROUPS`; empty where a pair of arms is compared.
        values: Its values by metric, by which a reader can sort.
    """

    problem: Problem
    arms: Mapping[str, ItemArm] = field(default_factory=dict)
    note: str = ""
    kind: str = ""
    values: Mapping[str, float] = field(default_factory=dict)

    def right(self, arm: str) -> bool:
        """Whether an arm's answer is the right one."""
        return arm in self.arms and self.arms[arm].answer == self.problem.answer


def item_groups(item: ReportItem, pair: tuple[str, str] | None) -> list[str]:
    """In which groups a reader finds an item: which arm of a pair is right, else its own kind."""
    if pair is None:
        return [GROUPS[item.kind]] if item.kind else []
    right = [arm for arm in pair if item.right(arm)]
    if len(right) == 1:
        return ["only one is right", f"only {arm_label(right[0])} is right"]
    return ["both are right" if right else "both are wrong"]


def report_gallery(
    items: Sequence[ReportItem], pair: tuple[str, str] | None, metrics: Mapping[str, Metric]
) -> dict[str, list[dict[str, Any]]]:
    """The strip of a report's items as of `gallery_spec`; the page has the pictures already."""
    entries = [
        {
            "item": item.problem.id,
            "question": item.problem.question,
            "sort": dict(item.values),
            "groups": item_groups(item, pair),
        }
        for item in items
    ]
    return {"orders": sort_orders([item.values for item in items], metrics), "entries": entries}


def numbered(number: int, text: str) -> str:
    """A step with its number, which most models write themselves."""
    own = text[:1].isdigit() or text[:4].lower() == "step"
    return text if own else f"{number}. {text}"


Tables = Mapping[str, Mapping[int, Mapping[str, pd.DataFrame]]]
"""arm → seed → name → table, as `attcot_analysis.runs.measure.measure` makes them."""


def report_items(
    tables: Tables,
    problems: Sequence[Problem],
    pair: tuple[str, str],
    n: int,
    outcomes: CotOutcomes | None = None,
    values: pd.DataFrame | None = None,
) -> list[ReportItem]:
    """Choose items and gather what every arm did with them.

    Of two arms the first half are those on which they differ in most seeds, then a quarter those
    that CoT hurt; of a single one the first half are those that CoT hurt, then a quarter those that
    it helped. The others are simply the first ones. The hurt and the helped come first, the rest
    keeps the order of the items. Of an arm with several seeds its first seed is shown, of several
    samples the first, beside the answers of all.

    Args:
        tables: What was measured.
        problems: The items.
        pair: The two arms that are compared; one twice if there is only one.
        n: How many items.
        outcomes: The second arm's CoT answers against its direct ones, if it has any.
        values: Values per item as of `item_values`; those of the second arm can be sorted by.
    """
    notes: dict[str, str] = {}
    half, quarter = (n + 1) // 2, n // 4
    if pair[0] != pair[1]:
        before, after = map(arm_label, pair)
        for problem in differing_items(tables, problems, pair)[:half]:
            notes[problem.id] = (
                f"Chosen because {before} and {after} differ on it: it shows what differs, not "
                "what is typical."
            )
    by_id = {problem.id: problem for problem in problems}
    first: list[Problem] = []
    if outcomes is not None:
        parts = {"hurt": quarter} if notes else {"hurt": half, "helped": quarter}
        for group, most in parts.items():
            ids = [item for item in outcomes.items(group) if item in by_id and item not in notes]
            for item in ids[:most]:
                notes[item] = _outcome_note(outcomes, group, item)
                first.append(by_id[item])
    left = [problem for problem in problems if problem.id not in notes]
    for problem in left[: n - len(notes)]:
        notes[problem.id] = "One of the first items, not chosen for what it shows."
    shown = [*first, *(p for p in problems if p.id in notes and p not in first)]
    items = []
    unlike = {arm: _unlike(seeds[min(seeds)], problems) for arm, seeds in tables.items()}
    means = item_means(None if values is None else values[values["model"] == pair[1]])
    for problem in shown:
        arms = {
            arm: replace(_arm(seeds, problem), unlike=unlike[arm]) for arm, seeds in tables.items()
        }
        kind = outcomes.group(problem.id) if outcomes is not None else ""
        known = means.get(problem.id, {})
        items.append(ReportItem(problem, arms, notes[problem.id], kind, known))
    return items


def _unlike(tables: Mapping[str, pd.DataFrame], problems: Sequence[Problem]) -> str:
    """How often the answer that is stated is another than the one forced after the last step."""
    forced = tables["commitment"]
    forced = forced[forced["control"] == "rationale"]
    forced, answers = (
        table[table[SAMPLE] == 0] if SAMPLE in table else table
        for table in (forced, tables["answers_cot"])
    )
    if forced.empty:
        return ""
    known = [problem for problem in problems if problem.id in set(forced["item"])]
    forced = forced[forced["item"].isin([problem.id for problem in known])]
    final = Commitment(forced, known).items().set_index("item")["final"]
    stated = answers.set_index("item")["answer"].reindex(final.index)
    read = stated.map(lambda answer: isinstance(answer, str))
    n = int((stated[read] != final[read]).sum())
    return f", as on {n} of {int(read.sum())} items"


def _outcome_note(outcomes: CotOutcomes, group: str, item: str) -> str:
    """Why an item is shown whose direct or CoT answer is the only right one."""
    rows = outcomes.table[(outcomes.table["item"] == item) & (outcomes.table["group"] == group)]
    row = rows.iloc[0]
    right, wrong = ("direct", "CoT") if group == "hurt" else ("CoT", "direct")
    said = {"direct": row["direct"], "CoT": row["cot"]}
    pairs = int((outcomes.table["item"] == item).sum())
    several = f" So in {len(rows)} of {pairs} pairs of answers." if pairs > 1 else ""
    return (
        f"Chosen because {GROUPS[group]}: the {right} answer ({said[right]}) is right, the {wrong} "
        f"answer ({said[wrong]}) wrong.{several} It shows what to look at, not what is typical."
    )


def example_problems(
    tables: Tables, problems: Sequence[Problem], pair: tuple[str, str], n: int
) -> list[Problem]:
    """Items to look at closely: those on which the pair differs most often, then the first."""
    differing = differing_items(tables, problems, pair)
    return [*differing, *(problem for problem in problems if problem not in differing)][:n]


def differing_items(
    tables: Tables, problems: Sequence[Problem], pair: tuple[str, str]
) -> list[Problem]:
    """Items on which one arm is right more often than the other, largest difference first."""

    def right(arm: str) -> pd.Series:
        answers = pd.concat([kinds["answers_cot"] for kinds in tables[arm].values()])
        return answers.groupby("item")["correct"].mean()

    gap = (right(pair[1]) - right(pair[0])).abs()
    differing = [problem for problem in problems if gap.get(problem.id, 0.0) > 0]
    return sorted(differing, key=lambda problem: -float(gap[problem.id]))


def _arm(seeds: Mapping[int, Mapping[str, pd.DataFrame]], problem: Problem) -> ItemArm:
    seed = min(seeds)
    every = {name: table[table["item"] == problem.id] for name, table in seeds[seed].items()}
    rows = {
        name: table[table[SAMPLE] == 0] if SAMPLE in table else table
        for name, table in every.items()
    }
    answered = rows["answers_cot"].iloc[0]
    said = Counter(map(_candidate, every["answers_cot"]["answer"]))
    steps, settled = _steps(rows, problem, steps_of(answered.to_dict()))
    edits = rows["dependence"]
    edits = edits[edits["rationale"] == "regenerated"]
    after = {
        str(kind): _candidate(answer)
        for kind, answer in zip(edits["edit"], edits["answer_after"], strict=True)
    }
    return ItemArm(
        text=str(answered["text"]),
        answer=_candidate(answered["answer"]),
        steps=steps,
        settled=settled,
        edits=after,
        seed=seed if len(seeds) > 1 else None,
        samples=dict(said.most_common()) if said.total() > 1 else {},
    )


def _steps(
    rows: Mapping[str, pd.DataFrame], problem: Problem, written: Sequence[str]
) -> tuple[tuple[ItemStep, ...], int | None]:
    forced = rows["commitment"]
    forced = forced[forced["control"] == "rationale"]
    if forced.empty:
        return (), None
    item = Commitment(forced, [problem]).items().iloc[0]
    looked = rows["access"].groupby("step")["mass"].mean()
    texts = ("", *written)
    steps = []
    for k, part in forced.groupby("step", sort=True):
        number = int(str(k))
        best = part.iloc[int(part["p"].to_numpy().argmax())]
        steps.append(
            ItemStep(
                text=texts[number] if number < len(texts) else "",
                best=str(best["candidate"]),
                p_best=float(best["p"]),
                p_final=float(part.loc[part["candidate"] == item["final"], "p"].iloc[0]),
                mass=float(looked.get(number, float("nan"))),
                k=number,
            )
        )
    return tuple(steps), int(item["commitment_step"])


def _candidate(answer: object) -> str | None:
    return answer if isinstance(answer, str) else None
