"""Put a finished grid's values and claims table into data/, where notebook and docs read them.

Usage: python scripts/ship_claims.py runs/claims
       python scripts/ship_claims.py runs/commitment commitment

The second word is the folder in data/results. Values are rounded to four digits and sorted so
that they pack well; the table is made from these very values, so that it can be recomputed from
what ships.
"""

import shutil
import sys

import numpy as np
import pandas as pd

from attcot_analysis.runs.measure import CHANCE
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import data_folder
from attcot_lab.claims.claim import CLAIMS
from attcot_lab.claims.table import VALUES_FILE, claims_table, read_values, write_claims

BESIDE = ("unparsed_cot", "unparsed_direct", "flip_control", "premature", "p0_answer")
"""Metrics that no claim is about, and that help to read one."""
RESULTS = "results"
DIGITS = 4
MAX_BYTES = 2_000_000


def main(folder: str, name: str = "claims") -> None:
    """Copy what claims need."""
    run = RunFolder.open(folder)
    values = reduced(run.read_table("values"))
    results = data_folder() / RESULTS / name
    path = results / VALUES_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    values.to_parquet(path, index=False, compression="zstd", compression_level=19)
    size = path.stat().st_size
    if size > MAX_BYTES:
        path.unlink()
        sys.exit(f"The values take {size:,} bytes, more than {MAX_BYTES:,}; leave out metrics.")
    write_claims(results, claims_table(read_values(results)))
    for name in ("manifest.json", "grid.json"):
        if (run.path / name).exists():
            shutil.copy(run.path / name, results / name)
    print(f"{len(values):,} values, {size:,} bytes: {results}")


def reduced(values: pd.DataFrame) -> pd.DataFrame:
    """The values that claims are about, small: float32 of few digits, names as categories."""
    metrics = {term.metric for claim in CLAIMS for term in claim.terms} | {CHANCE, *BESIDE}
    rows = values[values["metric"].isin(metrics) & values["value"].notna()]
    keys = ["metric", "arm", "model", "kind", "seed", "item"]
    rows = rows.sort_values(keys, kind="stable", ignore_index=True)
    names = {name: "category" for name in ("model", "family", "scale", "kind", "arm", "item")}
    return rows.assign(
        value=rows["value"].round(DIGITS).astype(np.float32), seed=rows["seed"].astype(np.int16)
    ).astype({**names, "metric": "category"})


if __name__ == "__main__":
    main(*sys.argv[1:])
