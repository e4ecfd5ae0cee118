"""Put a finished run's tables and first checkpoints into data/, where the notebooks read them.

Usage: python scripts/ship_run.py runs/study
"""

import shutil
import sys
from pathlib import Path

import torch

from attcot_analysis.models import load_mllm
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import (
    REFERENCE_RESULTS,
    TESTBED_ATT_COT,
    TESTBED_COT_SFT,
    data_folder,
)
from attcot_lab.plan import Cell
from attcot_lab.testbed.named import MAIN_MODEL

KIND = "arrows"
ARMS = {"cot_sft": TESTBED_COT_SFT, "att_cot": TESTBED_ATT_COT}
TABLES = ("summary", "comparisons")


def main(folder: str) -> None:
    """Copy what the notebooks need; weights in bfloat16, half the size."""
    run = RunFolder.open(folder)
    seed = min(run.manifest["plan"]["seeds"])
    for arm, name in ARMS.items():
        target = data_folder() / name
        shutil.rmtree(target, ignore_errors=True)
        mllm = load_mllm(Cell(MAIN_MODEL, KIND, arm, seed).model_folder(run.path))
        mllm.model.to(torch.bfloat16).save_pretrained(target)
        mllm.processor.save_pretrained(target)
    results = data_folder() / REFERENCE_RESULTS
    results.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        run.read_table(table).to_parquet(results / f"{table}.parquet", index=False)
    shutil.copy(run.path / "manifest.json", results / "manifest.json")
    shutil.copy(run.path / "results.json", results / "results.json")


if __name__ == "__main__":
    main(*(str(Path(argument)) for argument in sys.argv[1:2]))
