"""Put a finished run's tables and first checkpoints into data/, where the notebooks read them.

Usage: python scripts/ship_run.py runs/study        (attcot run testbed_a: tables and checkpoints)
       python scripts/ship_run.py runs/reproduce    (attcot reproduce: checkpoints)
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
    TESTBED_B_COT_SFT,
    TESTBED_B_EVIDENCE,
    TESTBED_COT_SFT,
    data_folder,
)
from attcot_lab.plan import Cell
from attcot_lab.testbed.named import MAIN_MODEL

ARMS = {
    (MAIN_MODEL, "arrows", "cot_sft"): TESTBED_COT_SFT,
    (MAIN_MODEL, "arrows", "att_cot"): TESTBED_ATT_COT,
    ("qwen2_5_vl-b0", "relation", "cot_sft"): TESTBED_B_COT_SFT,
    ("qwen2_5_vl-b0", "relation", "evidence_access"): TESTBED_B_EVIDENCE,
}
"""Model, kind and arm of a cell → where its checkpoint ships."""
TABLES = ("summary", "comparisons")


def main(folder: str) -> None:
    """Copy what the notebooks need; weights in bfloat16, half the size."""
    run = RunFolder.open(folder)
    seed = min(run.manifest["plan"]["seeds"])
    cells = {Cell(*names, seed): data_folder() / target for names, target in ARMS.items()}
    trained = {
        cell: target for cell, target in cells.items() if cell.model_folder(run.path).exists()
    }
    for cell, target in trained.items():
        shutil.rmtree(target, ignore_errors=True)
        mllm = load_mllm(cell.model_folder(run.path))
        mllm.model.to(torch.bfloat16).save_pretrained(target)
        mllm.processor.save_pretrained(target)
    if MAIN_MODEL not in {cell.model for cell in trained}:
        return
    results = data_folder() / REFERENCE_RESULTS
    results.mkdir(parents=True, exist_ok=True)
    for table in TABLES:
        run.read_table(table).to_parquet(results / f"{table}.parquet", index=False)
    shutil.copy(run.path / "manifest.json", results / "manifest.json")
    shutil.copy(run.path / "results.json", results / "results.json")


if __name__ == "__main__":
    main(*(str(Path(argument)) for argument in sys.argv[1:2]))
