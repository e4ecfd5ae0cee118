"""Put what was measured of the bridge into data/, where docs/bridge.md reads it.

Usage: python scripts/ship_bridge.py BRIDGE PROBLEMS RUNS

BRIDGE is the checkpoint, PROBLEMS the folder that its runs are of, RUNS a folder of run folders:
`base`, and ARM-SEED of what was trained from it. Beside the metrics of the runs stand, per item,
the shares of both colours that are told right in the rationale (`told_rationale`), whether the
answer follows from the two colours that are told (`follows_itself`), and, of the base, the share of
colours told right when asked for directly on the same picture (`told_directly`).
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

import attcot_analysis as ac
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem
from attcot_analysis.problems.formats import FORMATS
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import suite_values
from attcot_analysis.shipped import data_folder
from attcot_lab.testbed.arrows import COLOURS

METRICS = (
    *("accuracy_cot", "accuracy_direct", "unparsed_cot", "unparsed_direct", "follow_twin"),
    *("mass", "mass_last_step", "evidence_share", "focus", "candidate_mass0"),
    *("commitment_position", "commitment_position_null", "commitment_area", "filler_area"),
    *("corrective", "corruptive", "p0_answer"),
)


def main(bridge: str, problem_folder: str, runs: str) -> None:
    """Collect the values of all runs."""
    problems = ac.load_problems(problem_folder)
    parts = []
    for path in sorted(Path(runs).iterdir()):
        arm, _, digits = path.name.partition("-")
        seed = int(digits or 0)
        run = RunFolder.open(path)
        tables = {name: run.read_table(name) for name in run.tables}
        values = suite_values(tables, problems, model="bridge", seed=seed)
        values = values[values["metric"].isin(METRICS)]
        answers = tables["answers_cot"].set_index("item")
        texts, given = answers["text"], answers["answer"]
        told = {p.id: np.mean([step.text in texts[p.id] for step in p.steps]) for p in problems}
        colours = {p.id: re.findall(r"The \w+ is (\w+)\.", texts[p.id]) for p in problems}
        itself = {
            item: float((two[0] == two[1]) == (given[item] == "yes"))
            for item, two in colours.items()
            if len(two) == 2
        }
        parts.append(values[["item", "metric", "value"]].assign(arm=arm, seed=seed))
        parts.append(_rows(told, "told_rationale", arm, seed))
        parts.append(_rows(itself, "follows_itself", arm, seed))
    mllm = replace(ac.load_mllm(bridge, dtype="float32"), format=FORMATS["prose"])
    parts.append(_rows(told_directly(mllm, problems), "told_directly", "base", 0))
    table = pd.concat(parts, ignore_index=True).dropna(subset="value")
    keys = ["metric", "arm", "seed", "item"]
    table = table.sort_values(keys, kind="stable", ignore_index=True)[[*keys, "value"]]
    table["value"] = table["value"].astype(float).round(4).astype(np.float32)
    folder = data_folder() / "results" / "bridge"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / "values.parquet", index=False, compression="zstd")
    print(table.groupby(["metric", "arm"])["value"].mean().unstack().round(3).to_string())


def told_directly(mllm: Mllm, problems: Sequence[Problem]) -> dict[str, float]:
    """Per item the share of its steps' colours that are told right when asked for directly."""
    lookups, owners = [], []
    for problem in problems:
        for number, step in enumerate(problem.steps):
            found = re.fullmatch(r"The (\w+) is (\w+)\.", step.text)
            assert found is not None
            lookups.append(
                Problem(
                    id=f"{problem.id}-{number}",
                    image=problem.image,
                    question=f"What colour is the {found[1]}?",
                    candidates=tuple(COLOURS),
                    answer=found[2],
                )
            )
            owners.append(problem.id)
    answers = ac.answer_problems(mllm, lookups, mode="direct", max_new_tokens=16, batch_size=20)
    right = answers["correct"].astype(float).groupby(pd.Series(owners), sort=False).mean()
    return {str(item): float(share) for item, share in right.items()}


def _rows(shares: dict[str, float], metric: str, arm: str, seed: int) -> pd.DataFrame:
    rows = {"item": list(shares), "value": list(shares.values())}
    return pd.DataFrame(rows).assign(metric=metric, arm=arm, seed=seed)


if __name__ == "__main__":
    main(*sys.argv[1:4])
