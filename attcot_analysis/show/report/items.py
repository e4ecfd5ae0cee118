"""Items of a run for the report's item browser, made of the run's tables."""

from collections.abc import Mapping, Sequence

import pandas as pd

from attcot_analysis.measures.commitment_tables import commitment_items
from attcot_analysis.problems import Problem, parse_response
from attcot_analysis.show.report.items_html import ItemArm, ItemStep, ReportItem
from attcot_analysis.show.style import arm_label

Tables = Mapping[str, Mapping[int, Mapping[str, pd.DataFrame]]]
"""arm → seed → name → table, as `attcot_analysis.runs.measure.measure_all` makes them."""


def report_items(
    tables: Tables, problems: Sequence[Problem], pair: tuple[str, str], n: int
) -> list[ReportItem]:
    """Choose items and gather what every arm did with them.

    The first half are those on which the two arms of the pair differ in most seeds, the others
    simply the first ones; they keep the order of the items. Of an arm with several seeds its first
    seed is shown.

    Args:
        tables: What was measured.
        problems: The items.
        pair: The two arms that are compared.
        n: How many items.
    """
    before, after = map(arm_label, pair)
    differing = differing_items(tables, problems, pair)[: (n + 1) // 2]
    rest = [problem for problem in problems if problem not in differing]
    chosen = {problem.id for problem in (*differing, *rest[: n - len(differing)])}
    told = {problem.id for problem in differing}
    items = []
    for problem in problems:
        if problem.id in chosen:
            note = "One of the first items, not chosen for what it shows."
            if problem.id in told:
                note = (
                    f"Chosen because {before} and {after} differ on it: it shows what differs, "
                    "not what is typical."
                )
            arms = {arm: _arm(seeds, problem) for arm, seeds in tables.items()}
            items.append(ReportItem(problem, arms, note))
    return items


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
    found = [problem for problem in problems if gap.get(problem.id, 0.0) > 0]
    return sorted(found, key=lambda problem: -float(gap[problem.id]))


def _arm(seeds: Mapping[int, Mapping[str, pd.DataFrame]], problem: Problem) -> ItemArm:
    seed = min(seeds)
    found = {name: table[table["item"] == problem.id] for name, table in seeds[seed].items()}
    said = found["answers_cot"].iloc[0]
    steps, settled = _steps(found, problem, str(said["text"]))
    edits = found["dependence"]
    edits = edits[edits["rationale"] == "regenerated"]
    after = {
        str(kind): _candidate(answer)
        for kind, answer in zip(edits["edit"], edits["answer_after"], strict=True)
        if kind in ("twin", "control", "blank")
    }
    return ItemArm(
        text=str(said["text"]),
        answer=_candidate(said["answer"]),
        steps=steps,
        settled=settled,
        edits=after,
        seed=seed if len(seeds) > 1 else None,
    )


def _steps(
    found: Mapping[str, pd.DataFrame], problem: Problem, text: str
) -> tuple[tuple[ItemStep, ...], int | None]:
    forced = found["commitment"]
    forced = forced[forced["control"] == "rationale"]
    if forced.empty:
        return (), None
    item = commitment_items(forced, [problem]).iloc[0]
    looked = found["access"].groupby("step")["mass"].mean()
    texts = ("", *parse_response(text).step_texts)
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
            )
        )
    return tuple(steps), int(item["commitment_step"])


def _candidate(answer: object) -> str | None:
    return answer if isinstance(answer, str) else None
