"""Put a finished grid's values and claims table into data/, where notebook and docs read them.

Usage: python scripts/ship_claims.py runs/claims
       python scripts/ship_claims.py runs/commitment commitment
       python scripts/ship_claims.py runs/testbed_b testbed_b
       python scripts/ship_claims.py runs/testbed_b_classes testbed_b_classes testbed_b_all

The second word is the folder in data/results; where a registered study has this name, it must be
finished, and what ships are its values. A third word names the study whose claims a replication
repeats; the second one is then its plan. Values are rounded to four digits and sorted so
that they pack well; the table is made from these very values, so that it can be recomputed from
what ships.
"""

import shutil
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import CHANCE
from attcot_analysis.shipped import config_file, data_folder
from attcot_lab.claims.claim import CLAIMS
from attcot_lab.claims.table import VALUES_FILE, claims_table, read_values, write_claims
from attcot_lab.plan import read_plan
from attcot_lab.registered import describe_study, read_study, study_claims, study_values

BESIDE = ("unparsed_cot", "unparsed_direct", "flip_control", "premature", "p0_answer")
"""Metrics that no claim is about, and that help to read one."""
CONTROLS = (
    *("candidate_mass0", "commitment_area", "filler_area", "other_item_area", "p_dots"),
    *("commitment_position", "commitment_position_null", "focus", "sink_free_mass"),
    *("habitual_cot", "habitual_text_only", "prior_agreement", "prior_agreement_grey"),
)
"""What a study's tables show beside: what a curve, a position or a look would be by itself."""
RESULTS = "results"
DIGITS = 4
MAX_BYTES = 2_000_000


def main(folder: str, name: str = "claims", repeated: str = "") -> None:
    """Copy what claims need."""
    run = RunFolder.open(folder)
    if repeated or config_file(f"studies/{name}.yaml").exists():
        study = read_study(repeated or name)
        plan = read_plan(name if repeated else study.plan)
        values = study_values(run, study, plan)
        values = values[values["kind"].isin(list(plan.problems))]
        if not repeated:
            print(describe_study(study_claims(values, study)))
        ship_values(run, values, name, {*CONTROLS, *(term.metric for term in study.terms)})
        return
    metrics = {term.metric for claim in CLAIMS for term in claim.terms}
    results = ship_values(run, run.read_table("values"), name, metrics)
    write_claims(results, claims_table(read_values(results)))


def ship_values(run: RunFolder, values: pd.DataFrame, name: str, metrics: Collection[str]) -> Path:
    """Copy a run's values of some metrics, what helps to read them, and what it is a run of."""
    values = reduced(values, {CHANCE, *BESIDE, *metrics})
    results = data_folder() / RESULTS / name
    path = results / VALUES_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    values.to_parquet(path, index=False, compression="zstd", compression_level=19)
    size = path.stat().st_size
    if size > MAX_BYTES:
        path.unlink()
        sys.exit(f"The values take {size:,} bytes, more than {MAX_BYTES:,}; leave out metrics.")
    for file in ("manifest.json", "grid.json"):
        if (run.path / file).exists():
            shutil.copy(run.path / file, results / file)
    print(f"{len(values):,} values, {size:,} bytes: {results}")
    return results


def reduced(values: pd.DataFrame, metrics: Collection[str]) -> pd.DataFrame:
    """The values of some metrics, small: float32 of few digits, names as categories."""
    rows = values[values["metric"].isin(metrics) & values["value"].notna()]
    keys = ["metric", "arm", "model", "kind", "seed", "item"]
    rows = rows.sort_values(keys, kind="stable", ignore_index=True)
    names = {name: "category" for name in ("model", "family", "scale", "kind", "arm", "item")}
    return rows.assign(
        value=rows["value"].round(DIGITS).astype(np.float32), seed=rows["seed"].astype(np.int16)
    ).astype({**names, "metric": "category"})


if __name__ == "__main__":
    main(*sys.argv[1:])
