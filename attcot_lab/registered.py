"""Registered studies: what is asked, of how many, and what decides, written before the first run.

A registration is one YAML file: a plan, primary claims and exploratory ones. Its hash covers the
plan and the arms it names as well. `study_values` reads a finished run of the plan and refuses one
that is not finished, so that nobody looks in between.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from attcot_analysis.errors import RunError
from attcot_analysis.measures.unread import unread_cells
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import config_file
from attcot_analysis.stats.family import claim_family
from attcot_lab.arms import Record, Text, checked, find_file, read_yaml
from attcot_lab.plan import Plan, read_plan
from attcot_lab.run import plan_values

UNTRAINED_SEED = 0
"""The seed of cells that are not trained, which are held against every training seed."""


class Term(Record):
    """One arm's value of a metric.

    Attributes:
        arm: Name of the arm.
        metric: A name in `METRICS`.
        kind: Name of the plan's problems, where arms are trained on several; default all of them.
    """

    arm: Text
    metric: Text
    kind: Text | None = None


class Question(Record):
    """One claim: that a difference, or a value, is above a bar.

    Attributes:
        name: Short name.
        text: What is claimed, in a sentence.
        more: What is claimed to be larger.
        less: What it is larger than; ``None`` for the bar alone.
        bar: What the mean difference must exceed; its whole interval must.
    """

    name: Text
    text: Text
    more: Term
    less: Term | None = None
    bar: float = 0.0


class Study(Record):
    """A registration.

    Attributes:
        about: What is studied, and why these numbers of models and items.
        plan: Name or path of the plan.
        models: Those of the plan that count; default all.
        primary: The claims that are tested, corrected together by Holm's procedure.
        exploratory: Differences that are described, without a verdict.
        level: Of the intervals, and one minus the error that Holm's procedure keeps.
    """

    about: Text
    plan: Text
    models: list[Text] | None = None
    primary: list[Question]
    exploratory: list[Question] = Field(default_factory=list)
    level: float = 0.95

    @property
    def terms(self) -> list[Term]:
        """What its claims compare."""
        claims = (*self.primary, *self.exploratory)
        sides = (side for one in claims for side in (one.more, one.less))
        return [side for side in sides if side is not None]


def read_study(path: str | Path) -> Study:
    """Read a registration: a YAML file, or the name of one in ``configs/studies``.

    Raises:
        TrainingError: If it is missing or does not hold together.
    """
    file = find_file(path, "studies", "study")
    return checked(Study, read_yaml(file), file.name)


def registration_hash(path: str | Path) -> str:
    """SHA-256 over the registration, its plan and the arms of the plan, as their files are."""
    file = find_file(path, "studies", "study")
    study = read_study(path)
    plan = find_file(study.plan, "plans", "plan")
    arms = sorted(read_plan(study.plan).arms)
    digest = hashlib.sha256()
    for one in (file, plan, *(config_file(f"arms/{arm}.yaml") for arm in arms)):
        digest.update(one.read_bytes())
    return digest.hexdigest()


def study_values(run: RunFolder, study: Study, plan: Plan | None = None) -> pd.DataFrame:
    """The values of a finished run of a study's plan, see `plan_values`.

    Args:
        run: The run.
        study: The registration.
        plan: Its plan; default as the registration names it.

    Raises:
        RunError: If cells of the plan are not finished.
    """
    plan = plan or read_plan(study.plan)
    waiting = [cell for cell in plan.cells() if not RunFolder(cell.folder(run.path)).has("cell")]
    if waiting:
        raise RunError(
            f"{run.path} has {len(waiting)} of {len(plan.cells())} cells still to run (first: "
            f"{waiting[0]}); a registered study is read when all are there."
        )
    return plan_values(run)


def study_claims(values: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Every claim of a study with its estimate, intervals, p values and verdict.

    Args:
        values: From `study_values`, or as the project ships them.
        study: The registration.

    Returns:
        Columns of `claim_family`, and ``text``, ``bar`` and ``verdict``: of a primary claim
        ``"supported"`` (its interval at Holm's level lies above the bar), ``"opposite"`` (below) or
        ``"not shown"``; empty for the others. `value` and the intervals are those of the
        difference itself.

    Raises:
        MeasureError: If values of a claim are missing.
    """
    if study.models is not None:
        values = values[values["model"].isin(study.models)]
    questions = {one.name: one for one in (*study.primary, *study.exploratory)}
    effects = pd.concat([_effects(values, one) for one in questions.values()], ignore_index=True)
    table = claim_family(effects, [one.name for one in study.primary], level=study.level)
    asked = [questions[name] for name in table["claim"]]
    table["bar"] = [one.bar for one in asked]
    for column in ("value", "low", "high", "low_holm", "high_holm"):
        table[column] += table["bar"]
    table["text"] = [one.text for one in asked]
    primary = table["role"] == "primary"
    above, below = table["low_holm"] > table["bar"], table["high_holm"] < table["bar"]
    verdict = np.select([above, below], ["supported", "opposite"], "not shown")
    return table.assign(verdict=np.where(primary, verdict, ""))


def unread_arms(values: pd.DataFrame, study: Study) -> str:
    """Say in which cells too many answers of a compared arm were not read; empty if in none."""
    return unread_cells(values, {(term.arm, term.metric) for term in study.terms})


def describe_study(table: pd.DataFrame) -> str:
    """A study's claims as a Markdown table, primary ones first."""
    lines = [
        "| claim | difference | 95 % | corrected | p (Holm) | models × seeds × items | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        corrected = p_holm = ""
        if row["role"] == "primary":
            corrected = f"{row['low_holm']:.3f} to {row['high_holm']:.3f}"
            p_holm = f"{row['p_holm']:.2g}"
        counts = f"{row['n_models']} × {row['n_seeds']} × {row['n_items']}"
        lines.append(
            f"| {row['text']} | {row['value']:+.3f} | {row['low']:.3f} to {row['high']:.3f} "
            f"| {corrected} | {p_holm} | {counts} | {row['verdict'] or 'exploratory'} |"
        )
    return "\n".join(lines)


def _effects(values: pd.DataFrame, question: Question) -> pd.DataFrame:
    """Per model, kind, seed and item the difference less its bar."""
    keys = ["model", "kind", "seed", "item"]
    more = _values(values, question.more)
    if question.less is None:
        table = more
    else:
        less = _values(values, question.less)
        trained = [set(one["seed"]) != {UNTRAINED_SEED} for one in (more, less)]
        if trained[0] != trained[1]:
            # A base has one measurement, which stands against every training from it.
            del (less if trained[0] else more)["seed"]
        if question.more.kind != question.less.kind:
            del less["kind"]  # The same test items, after training on other problems.
        shared = [key for key in keys if key in more and key in less]
        table = more.merge(less, on=shared, suffixes=("", "_less"), validate="many_to_many")
        table["value"] = table["value"] - table["value_less"]
    table["value"] = table["value"] - question.bar
    return table.assign(claim=question.name)[["claim", *keys, "value"]].dropna(subset="value")


def _values(values: pd.DataFrame, term: Term) -> pd.DataFrame:
    own = values[(values["arm"] == term.arm) & (values["metric"] == term.metric)]
    if term.kind is not None:
        own = own[own["kind"] == term.kind]
    return own[["model", "kind", "seed", "item", "value"]].copy()
