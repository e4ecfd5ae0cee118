"""Where a run's model and problems lay: relative to the run, and never in its manifest."""

import json
import shutil

import pytest

from attcot_analysis.errors import RunError
from attcot_analysis.runs.provenance import Sources, note_sources, noted_sources
from attcot_analysis.runs.run import RunFolder


@pytest.fixture
def run(tmp_path):
    for name in ("model", "problems"):
        (tmp_path / "home" / name).mkdir(parents=True)
    return RunFolder.create(tmp_path / "home" / "runs" / "one", {"seed": 0})


def test_folders_are_found_again_also_after_all_has_moved(run, tmp_path):
    home = tmp_path / "home"
    note_sources(run, model=home / "model", problems=home / "problems")
    written = (run.path / "sources.json").read_text()
    assert str(tmp_path) not in written and "../../model" in written
    assert "sources" not in json.dumps(run.manifest)
    shutil.move(home, tmp_path / "elsewhere")
    moved = noted_sources(RunFolder.open(tmp_path / "elsewhere" / "runs" / "one"))
    assert moved.model.resolve() == tmp_path / "elsewhere" / "model"
    assert moved.problems.resolve() == tmp_path / "elsewhere" / "problems"


def test_a_hub_id_stays_one_and_nothing_noted_is_nothing(run, tmp_path):
    assert noted_sources(run) == Sources()
    note_sources(run, model="Qwen/Qwen2.5-VL-7B-Instruct", problems=tmp_path / "home" / "problems")
    assert noted_sources(run).model == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_a_damaged_note_says_so(run):
    (run.path / "sources.json").write_text("{")
    with pytest.raises(RunError, match=r"sources\.json is damaged"):
        noted_sources(run)
