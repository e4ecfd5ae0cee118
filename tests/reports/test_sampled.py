"""Runs of several responses per item, and of few probed steps, as pages."""

import torch

from attcot_analysis.models import load_mllm
from attcot_analysis.runs.measure import measure_run
from attcot_analysis.runs.provenance import note_sources
from attcot_analysis.shipped import TESTBED_ATT_COT, shipped
from attcot_analysis.show.report.compare import compare_runs, report_run


def test_a_sampled_run_is_reported_and_compared(pair, tmp_path):
    mllm = load_mllm(shipped(TESTBED_ATT_COT), dtype=torch.float32)
    options = {"samples": 2, "temperature": 1.0, "max_steps": 3, "max_new_tokens": 40}
    run = measure_run(tmp_path / "run", mllm, pair.problems, batch_size=6, **options)
    note_sources(run, model=shipped(TESTBED_ATT_COT), problems=pair.folder / "problems")
    page = report_run(run.path).read_text(encoding="utf-8")
    assert "The first of 2 responses. All of them:" in page
    assert "Dependence is of the first of 2 responses to every item" in page
    assert "elf-consistency" in page and "ommitment position, spread between samples" in page
    found = compare_runs(
        pair.path("att_cot"), run.path, tmp_path / "both", names=("one", "two"), models=False
    )
    said = "1 response per item and two on 2 responses (1 for dependence)"
    assert any(said in note for note in found.notes)
    assert any("after at most 3 steps of two" in note for note in found.notes)
    assert any("Only two has self_consistency" in note for note in found.notes)
