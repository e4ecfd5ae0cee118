"""Run folders whose direct and CoT answers, and what was measured on them, are planted."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from attcot_analysis.measures.access import VisualAccess
from attcot_analysis.measures.answers import COLUMNS as ANSWERS
from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.measures.dependence import Dependence
from attcot_analysis.problems import Problem, render_response
from attcot_analysis.problems.folder import save_problems
from attcot_analysis.runs.provenance import build_manifest, note_sources
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import DEFAULT, suite_values
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

Plant = Callable[[str, np.random.Generator], bool]
"""Whether an item of a group (``hurt``, ``helped``, ``right``, ``wrong``) shows something."""

GROUPS = ("hurt", "helped", "right", "wrong")


def at_random(group: str, rng: np.random.Generator) -> bool:
    return bool(rng.random() < 0.3)


def never(group: str, rng: np.random.Generator) -> bool:
    return False


def planted_tables(
    problems: Sequence[Problem],
    *,
    sizes: Sequence[int],
    early: Plant = at_random,
    stopped: Plant = at_random,
    weak: Plant = at_random,
    unparsed: int = 0,
    seed: int = 0,
    text: str = "look",
) -> dict[str, pd.DataFrame]:
    """Tables as `measure` returns them; ``sizes`` items are in each of `GROUPS`, in turns.

    Args:
        problems: The items.
        sizes: Of the groups; their sum is the number of items.
        early: Which items are decided before the first step.
        stopped: Which have stopped looking.
        weak: Which neither follow the twin nor depend on the evidence.
        unparsed: How many of the last items have a CoT answer that was not read.
        seed: Of what is random.
        text: Of the steps.
    """
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(GROUPS, sizes))
    answers: dict[str, list[dict]] = {"cot": [], "direct": [], "text_only": []}
    forced, looked, edits = [], [], []
    for number, (problem, group) in enumerate(zip(problems, groups, strict=True)):
        edited = {problem.answer, problem.twin.answer}
        other = next(one for one in problem.candidates if one not in edited)
        unread = number >= len(problems) - unparsed
        said = {
            "cot": None if unread else problem.answer if group in ("helped", "right") else other,
            "direct": problem.answer if group in ("hurt", "right") else other,
        }
        said["text_only"] = said["cot"]
        for mode, answer in said.items():
            steps = [f"{text} {k}" for k in (1, 2, 3)] if mode != "direct" else []
            answers[mode].append(
                dict.fromkeys(ANSWERS)
                | {"item": problem.id, "mode": "direct" if mode == "direct" else "cot"}
                | {"text_only": mode == "text_only", "ids": [1], "finished": True}
                | {"text": render_response(steps, answer or "?"), "answer": answer}
                | {"stated": answer, "match": "exact", "correct": answer == problem.answer}
                | {"habitual": answer == problem.habitual, "n_steps": len(steps)}
                | {"steps": steps, "cut": "lines" if steps else None}
            )
        is_early, is_stopped, is_weak = (plant(group, rng) for plant in (early, stopped, weak))
        final = said["cot"] or other
        others = [one for one in problem.candidates if one != final]
        before = final if is_early else others[0]
        for k in range(4):
            best = final if k == 3 else before
            for candidate in problem.candidates:
                p = 0.6 if candidate == best else 0.4 / (len(problem.candidates) - 1)
                row = (problem.id, "rationale", k, 3, candidate, np.log(p), p, False)
                forced.append(row)
        for k in (1, 2, 3):
            fall = (0.4 if is_stopped else 0.1) * (k - 1)
            for layer in (0, 1):
                values = (0.5 * (1 - fall), 0.8 * (1 - fall), 1.0, 0.1, 0.2)
                looked.append((problem.id, k, 3, layer, 0, *values))
        for edit in ("twin", "control", "blank"):
            lost = 3.0 if edit == "twin" and not is_weak else 0.5
            expected = {"twin": problem.twin.answer, "control": problem.answer}.get(edit)
            after = final if is_weak or edit == "control" else expected or other
            for rationale in ("fixed", "regenerated"):
                said_of = (final, after, expected, after == expected, after != final)
                edits.append((problem.id, edit, rationale, *said_of, -0.1, -0.1 - lost, lost))
    return {
        **{
            f"answers_{mode}": pd.DataFrame(rows).astype({"habitual": "boolean"})
            for mode, rows in answers.items()
        },
        "commitment": pd.DataFrame(forced, columns=list(Commitment.columns)),
        "access": pd.DataFrame(looked, columns=list(VisualAccess.columns)),
        "dependence": pd.DataFrame(edits, columns=list(Dependence.columns)),
    }


def planted_problems(n: int) -> list[Problem]:
    return generate_arrows(n, ArrowsConfig(noise=240.0), seed=5, split="test")


def planted_run(
    folder: Path,
    problems: Sequence[Problem],
    tables: dict[str, pd.DataFrame],
    what: Sequence[str] = DEFAULT,
    **config: object,
) -> Path:
    """Write a run folder, with its problems beside it, as `measure_run` leaves one."""
    manifest = build_manifest(
        seed=0, config={"what": list(what), "layers": None, **config}, data={"test": problems}
    )
    manifest["models"] = {"model": {"name": "planted"}}
    run = RunFolder.create(folder, manifest)
    for name, table in tables.items():
        run.write_table(name, table)
    run.write_table("values", suite_values(tables, problems, model="planted", seed=0))
    place = folder.parent / f"{folder.name}-problems"
    save_problems(problems, place)
    note_sources(run, model="planted", problems=place)
    return folder
