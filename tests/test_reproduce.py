"""The main job on a few items: what it writes, that it resumes, and that it overwrites nothing."""

import json
import shutil
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pytest

from attcot_analysis.measures import compare as metrics
from attcot_analysis.problems.folder import load_problems
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_B_PROBLEMS, TESTBED_PROBLEMS, shipped
from attcot_lab import pages as module
from attcot_lab.plan import read_plan
from attcot_lab.run import run_plan
from attcot_lab.testbed.kinds import generate_problems


def reproduce(folder) -> RunFolder:
    changes = {"seeds": [0], "items": 4, "train_items": 8}
    plan = read_plan("reproduce", **changes, finetune={"steps": 2, "batch_size": 4})
    return run_plan(plan, folder, fresh=True, progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    return reproduce(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def without_report(monkeypatch):
    """A second run, whose tables are what is looked at."""
    monkeypatch.setattr(module, "write_run_report", lambda *_, **__: None)
    monkeypatch.setattr(module, "model_maps", lambda *_: None)
    monkeypatch.setattr(module, "embeds", lambda *_: ([], []))
    few = partial(metrics.compare, n_boot=20)
    monkeypatch.setattr(module, "compare", few)
    monkeypatch.setattr(module, "summarise", partial(metrics.summarise, n_boot=20))


def test_results_hold_every_metric_of_every_arm_with_its_interval(finished):
    results = json.loads((finished.path / "results.json").read_text())
    summary = pd.DataFrame(results["summary"])
    assert set(summary["model"]) == {"base", "cot_sft", "att_cot_paper", "evidence_access"}
    asked = {"accuracy_cot", "accuracy_direct", "p0_final", "mass", "follow_twin"}
    for _, rows in summary.groupby("model"):
        assert asked <= set(rows["metric"])
    found = summary.dropna(subset=["value", "low"])
    assert (found["low"] <= found["value"] + 1e-9).all()
    assert (found["value"] <= found["high"] + 1e-9).all()
    assert (summary["n_items"] <= 4).all()
    pairs = {(row["a"], row["b"]) for row in results["comparisons"]}
    cures = ("att_cot_paper", "evidence_access")
    assert pairs == {("base", "cot_sft"), *product(("base", "cot_sft"), cures)}


def test_tables_figures_and_report_are_there(finished):
    assert {"values", "summary", "comparisons"} <= set(finished.tables)
    cell = RunFolder.open(finished.path / "cells" / "qwen2_5_vl-b0.relation.base-0")
    assert "access" in cell.tables
    drawn = {path.stem for path in (finished.path / "figures").glob("*.svg")}
    assert {"commitment_final", "commitment_habitual", "access", "access_layers"} <= drawn
    assert any(name.startswith("maps_") for name in drawn)
    page = (finished.path / "report.html").read_text()
    assert "<svg" in page and "Evidence access" in page and "reconstruction" in page
    assert "://" not in page.replace("http://www.w3.org", "")
    manifest = finished.manifest
    assert manifest["plan"]["seeds"] == [0]
    assert str(shipped(TESTBED_B_PROBLEMS)) not in json.dumps(manifest)


def test_the_report_shows_curves_and_maps_in_a_browser_and_asks_for_nothing(finished, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((finished.path / "report.html").as_uri())
    for section in ("curves", "metrics", "comparisons", "heatmaps", "items", "meaning"):
        assert page.locator(f"section#{section}").bounding_box()["height"] > 50
    for section in ("curves", "heatmaps"):
        drawings = page.locator(f"section#{section} svg, section#{section} img")
        assert drawings.count() >= 3
        for number in range(drawings.count()):
            box = drawings.nth(number).bounding_box()
            assert box["width"] > 200 and box["height"] > 100
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert complaints == []
    page.close()


@pytest.mark.long
def test_a_finished_run_is_left_alone_and_the_next_one_has_its_own_folder(finished, without_report):
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*.parquet")}
    second = reproduce(finished.path)
    assert second.path.name == "small-2"
    assert {path: path.stat().st_mtime_ns for path in finished.path.rglob("*.parquet")} == before
    first, again = finished.read_table("values"), second.read_table("values")
    pd.testing.assert_frame_equal(first, again)


def test_an_interrupted_run_goes_on_where_it_stopped(finished, without_report, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(finished.path, folder)
    (folder / "results.json").unlink()
    for path in list(folder.glob("*/*evidence_access-0")):
        shutil.rmtree(path)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/*cot_sft-0/**/*")}
    resumed = reproduce(folder)
    assert resumed.path == folder and kept
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    pd.testing.assert_frame_equal(finished.read_table("values"), resumed.read_table("values"))


def test_shipped_problems_are_balanced_and_whole():
    problems = load_problems(shipped(TESTBED_PROBLEMS))
    assert len(problems) == 200
    assert all(problem.twin and problem.control and problem.habitual for problem in problems)
    habitual = sum(problem.answer == problem.habitual for problem in problems) / len(problems)
    assert habitual == pytest.approx(1 / 6, abs=0.08)


def test_shipped_problems_of_testbed_b_are_made_again_by_their_command():
    stored = load_problems(shipped(TESTBED_B_PROBLEMS))
    made = generate_problems("relation", 20, seed=7000, noise=30.0)
    assert len(stored) == 200
    for one, again in zip(stored, made, strict=False):
        assert (one.id, one.question, one.answer, one.steps) == (
            again.id,
            again.question,
            again.answer,
            again.steps,
        )
        assert np.array_equal(one.image, again.image)
        assert np.array_equal(one.twin.image, again.twin.image)
