"""Put the tables of a finished validity run into data/, where notebook and docs read them.

Usage: python scripts/ship_validity.py runs/validity
"""

import shutil
import sys
from pathlib import Path

from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import VALIDITY_RESULTS, data_folder
from attcot_lab.diagnostics import DIAGNOSTICS
from attcot_lab.validity import HIGH_FAILS, LATER_HIGH_FAILS


def main(folder: str) -> None:
    """Copy the tables; of the values only those that the table of validity is made from."""
    run = RunFolder.open(folder)
    results = data_folder() / VALIDITY_RESULTS
    results.mkdir(parents=True, exist_ok=True)
    values = run.read_table("values")
    wanted = values["metric"].isin([*HIGH_FAILS, *LATER_HIGH_FAILS, "accuracy_cot"])
    values[wanted].to_parquet(results / "values.parquet", index=False)
    every = values[values["metric"].isin(DIAGNOSTICS)]
    every = every.assign(value=every["value"].round(6))
    every.to_parquet(results / "all_values.parquet", index=False)
    for table in ("checks", "separation", "open_values", "open_separation"):
        run.read_table(table).to_parquet(results / f"{table}.parquet", index=False)
    shutil.copy(run.path / "manifest.json", results / "manifest.json")


if __name__ == "__main__":
    main(*(str(Path(argument)) for argument in sys.argv[1:2]))
