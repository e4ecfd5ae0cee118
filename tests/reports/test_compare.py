"""Two measured runs become a report; what it says is what the runs hold."""

import json
import shutil
import weakref
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markupsafe import escape

from attcot_analysis.cli import main
from attcot_analysis.errors import RunError, ShowError
from attcot_analysis.measures import compare as metrics
from attcot_analysis.problems import folder, load_problems, pictures
from attcot_analysis.problems.formats import FORMATS, changed
from attcot_analysis.problems.pictures import open_picture
from attcot_analysis.show.report import compare, maps
from attcot_analysis.show.report.arms import read_arm
from attcot_analysis.show.report.compare import compare_runs
from attcot_analysis.show.report.maps import kept_maps, model_maps, on_one_canvas
from attcot_analysis.show.report.pairing import find_model

NAMES = ("cot_sft", "att_cot")


@pytest.fixture(scope="module")
def compared(pair, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "ab"
    return compare_runs(
        pair.path("cot_sft"), pair.path("att_cot"), out, names=NAMES, examples=1, items=4
    )


@pytest.fixture
def drawn(monkeypatch):
    """What would be drawn, without drawing it, with few resamples and no word on few items."""
    asked = {}
    monkeypatch.setattr(compare, "size_notes", lambda _: [])
    monkeypatch.setattr(compare, "seed_notes", lambda *_: [])
    monkeypatch.setattr(compare, "summarise", partial(metrics.summarise, n_boot=20))
    few = partial(metrics.compare, n_boot=20)
    monkeypatch.setattr(compare, "compare", few)
    monkeypatch.setattr(
        compare,
        "write_run_report",
        lambda report, *_, **parts: asked.update(vars(report) | parts),
    )
    return asked


def compared_anew(pair, out, **options):
    options = {"names": NAMES, "examples": 1} | options
    return compare_runs(pair.path("cot_sft"), pair.path("att_cot"), out, **options)


def test_differences_are_the_items_paired_by_hand(pair, compared):
    rows = compared.run.read_table("comparisons").set_index("metric")
    answers = {name: pair.run(name).read_table("answers_cot").set_index("item") for name in NAMES}
    by_item = [
        float(answers["att_cot"].loc[problem.id, "correct"])
        - float(answers["cot_sft"].loc[problem.id, "correct"])
        for problem in pair.problems
    ]
    assert rows.loc["accuracy_cot", "value"] == pytest.approx(np.mean(by_item))
    assert rows.loc["accuracy_cot", "test"] == "bootstrap, items"
    mass = {
        name: pair.run(name).read_table("access").groupby(["item", "step"])["mass"].mean()
        for name in NAMES
    }
    means = {name: found.groupby("item").mean() for name, found in mass.items()}
    expected = (means["att_cot"] - means["cot_sft"]).mean()
    assert rows.loc["mass", "value"] == pytest.approx(expected, rel=1e-6)
    assert set(rows["a"]) == {"cot_sft"} and set(rows["b"]) == {"att_cot"}


def test_the_page_has_everything_and_shows_what_was_measured(pair, compared):
    page = compared.report.read_text()
    sections = "answer curves metrics comparisons heatmaps explore items methods limits provenance"
    for name in sections.split():
        assert f'<section id="{name}"' in page
    assert escape(compared.answers.headline) in page
    assert "Att-CoT compared with CoT-SFT" in page
    few, one_run = compared.notes
    assert few.startswith("Only 6 items") and "this checkpoint" in one_run
    assert all(escape(note) in page for note in compared.notes)
    assert page.count("<article") == 4 and "srcdoc=" in page
    assert "://" not in page.replace("http://www.w3.org", "")
    assert str(pair.folder) not in page
    held = json.loads((compared.run.path / "results.json").read_text())
    assert held["headline"] == compared.answers.headline
    assert {row["metric"] for row in held["comparisons"]} > {"accuracy_cot", "mass", "p0_final"}


def test_maps_are_those_that_the_runs_kept(pair, compared):
    stems = sorted((compared.run.path / "figures").glob("maps_*.json"))
    (stem,) = stems
    item = stem.stem.removeprefix("maps_")
    data = json.loads(stem.read_text())["data"]
    for name, key in (("cot_sft", "before"), ("att_cot", "after")):
        kept = pair.run(name).read_arrays("maps", [item])[item]
        np.testing.assert_allclose(data[key], kept, atol=1e-7)


def test_curves_are_saved_with_intervals(compared):
    for name in ("commitment_final", "access", "commitment_controls"):
        file = compared.run.path / "figures" / f"{name}.json"
        curve = pd.DataFrame(json.loads(file.read_text())["data"])
        assert set(curve["model"]) == set(NAMES)
        assert (curve["low"] <= curve["value"] + 1e-9).all()
        assert (curve["value"] <= curve["high"] + 1e-9).all()


def test_again_on_a_finished_folder_nothing_is_done(pair, compared, drawn):
    before = {path: path.stat().st_mtime_ns for path in compared.run.path.rglob("*[a-z].*")}
    again = compared_anew(pair, compared.run.path, items=4)
    assert again.answers == compared.answers and again.notes == compared.notes
    after = {path: path.stat().st_mtime_ns for path in compared.run.path.rglob("*[a-z].*")}
    assert after == before and len(before) >= 20
    assert drawn == {}


def test_another_comparison_does_not_go_into_the_folder(pair, compared):
    with pytest.raises(RunError, match="cannot be resumed"):
        compare_runs(pair.path("att_cot"), pair.path("cot_sft"), compared.run.path)
    with pytest.raises(RunError, match="no run"):
        compared_anew(pair, pair.folder / "problems")


def test_what_was_stopped_is_finished(pair, compared, drawn, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(compare, "write_run_report", stop)
        compared_anew(pair, tmp_path / "ab", models=False)
    assert not (tmp_path / "ab" / "results.json").exists()
    done = compared_anew(pair, tmp_path / "ab", models=False)
    assert (tmp_path / "ab" / "results.json").exists()
    pd.testing.assert_frame_equal(done.run.read_table("values"), compared.run.read_table("values"))


def test_pictures_are_read_when_they_are_shown_and_let_go(pair, drawn, tmp_path, monkeypatch):
    """As many stay in memory as the few that were read last."""
    held = weakref.WeakValueDictionary()
    most = []

    def opened(*arguments, **options):
        image = open_picture(*arguments, **options)
        held[len(most)] = image
        most.append(len(held))
        return image

    for module in (pictures, folder):
        monkeypatch.setattr(module, "open_picture", opened)
    few = lru_cache(maxsize=2)(pictures._read_stored.__wrapped__)
    monkeypatch.setattr(pictures, "_read_stored", few)
    compared_anew(pair, tmp_path / "ab", models=False, items=0, examples=0)
    assert len(most) >= 3 * len(pair.problems) and max(most) <= 4
    # The planted opposite: who keeps them has them all.
    most.clear()
    held.clear()
    kept = load_problems(pair.path("problems"))
    assert len(kept) == len(pair.problems) and max(most) >= 3 * len(kept)


def test_a_run_compared_with_itself_differs_in_nothing(pair, drawn, tmp_path):
    found = compare_runs(
        pair.path("att_cot"),
        pair.copy("att_cot", tmp_path / "again"),
        tmp_path / "out",
        models=False,
    )
    assert (found.answers.a, found.answers.b) == ("att_cot", "again"), "the models' names are one"
    assert {answer.word for answer in found.answers.answers} == {"inconclusive"}
    assert found.run.read_table("comparisons")["value"].abs().max() == 0
    assert "differs in nothing" in found.answers.headline
    assert any("same weights" in note for note in found.notes)


def without_maps(pair, tmp_path, name):
    path = pair.copy(name, tmp_path / name)
    shutil.rmtree(path / "tables" / "maps")
    return path


def test_without_kept_maps_they_are_read_from_the_checkpoints(pair, drawn, tmp_path):
    runs = [without_maps(pair, tmp_path, name) for name in NAMES]
    found = compare_runs(*runs, tmp_path / "out", names=NAMES, examples=1)
    (read,) = drawn["maps"]
    assert read.maps[0].shape == read.maps[1].shape == (len(read.labels), 6, 6)
    assert "right rationale is teacher-forced" in read.whose
    assert read.boxes == tuple(step.boxes for step in read.problem.steps)
    assert len(drawn["explorers"]) == 1 and found.notes == ()


def test_without_maps_and_checkpoints_a_sentence_says_so(pair, drawn, tmp_path):
    runs = [without_maps(pair, tmp_path, name) for name in NAMES]
    gone = tmp_path / "gone"
    found = compare_runs(*runs, tmp_path / "out", names=NAMES, models=(gone, gone))
    assert drawn["maps"] == [] and drawn["explorers"] == []
    (note,) = found.notes
    assert note.startswith("There are no maps: the checkpoint of cot_sft is not where it was")
    kept = compared_anew(pair, tmp_path / "kept", models=(gone, gone))
    (note,) = kept.notes
    assert note.startswith("There is no explorer: ") and len(drawn["maps"]) == 1


def test_maps_of_other_grids_share_a_canvas_and_keep_their_mass():
    coarse, fine = np.ones((2, 3, 3)), np.ones((2, 6, 4)) / 3
    one, other = on_one_canvas((96, 48), coarse, fine)
    assert one.shape == other.shape == (2, 6, 4)
    np.testing.assert_allclose(one.sum((1, 2)), coarse.sum((1, 2)))
    np.testing.assert_allclose(other.sum((1, 2)), fine.sum((1, 2)))
    assert on_one_canvas((96, 48), fine, fine)[0] is fine


def test_rationales_of_other_lengths_show_the_steps_that_both_have(pair):
    kept = (np.ones((3, 2, 2)), np.ones((2, 2, 2)))
    texts = (["1. look", "2. read", "3. say"], ["1. look", "2. guess"])
    found = kept_maps(pair.problems[0], NAMES, kept, texts)
    assert found.labels == ("1. look", "step 2") and found.maps[0].shape == (2, 2, 2)
    assert found.boxes == () and "its own rationale" in found.whose


def test_models_that_cannot_share_an_explorer_get_a_sentence(pair, drawn, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ShowError("The models differ in depth.")

    monkeypatch.setattr(maps, "explorer_embed", refuse)
    found = compared_anew(pair, tmp_path / "out")
    assert found.notes == ("There is no explorer of both models: The models differ in depth.",)


def test_items_without_a_rationale_borrow_the_second_arms_words(pair):
    models = {name: find_model(read_arm(pair.path(name))) for name in NAMES}
    said = read_arm(pair.path("att_cot")).responses()
    bare = replace(pair.problems[0], steps=(), twin=None, control=None)
    found = model_maps(models, bare, response=said[bare.id])
    right = model_maps(models, pair.problems[0])
    assert "rationale of Att-CoT is teacher-forced" in found.whose and found.boxes == ()
    assert found.labels == tuple(f"step {k + 1}" for k in range(len(found.maps[0])))
    assert right.labels[0].startswith("1. ") and len(right.boxes) == len(right.labels)


def test_names_tell_the_two_apart(pair, drawn, tmp_path):
    found = compare_runs(pair.path("cot_sft"), pair.path("att_cot"), tmp_path / "a", models=False)
    assert found.answers.a == "qwen2_5_vl-tiny-cot_sft"
    with pytest.raises(RunError, match="--names before after"):
        compare_runs(pair.path("cot_sft"), pair.path("cot_sft"), tmp_path / "c", models=False)


def test_the_command_prints_the_verdicts_and_where_the_report_is(
    pair, drawn, tmp_path, capsys: pytest.CaptureFixture[str]
):
    runs = [str(pair.path(name)) for name in NAMES]
    out = tmp_path / "out"
    given = ["compare", *runs, "--out", str(out), "--names", *NAMES, "--quiet"]
    assert main([*given, "--no-models", "--examples", "0"]) == 0
    assert drawn["maps"] == drawn["explorers"] == drawn["notes"] == []
    said = capsys.readouterr().out
    assert said.startswith("Compared with CoT-SFT, this checkpoint of Att-CoT ")
    assert "Does it decide later?" in said and str(Path(out) / "report.html") in said
    assert main(["compare", runs[0], str(tmp_path / "nowhere"), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("attcot: ") and error.count("\n") == 1


def test_runs_that_were_asked_in_other_ways_are_compared_with_a_first_sentence(
    pair, drawn, tmp_path, monkeypatch
):
    def compared_with(name, **changes):
        other = pair.copy("att_cot", tmp_path / name, model=changes)
        return compare_runs(
            pair.path("cot_sft"), other, tmp_path / f"{name}-out", names=NAMES, models=False
        )

    prose = compared_with("prose", format=FORMATS["prose"].record())
    first = str(prose).splitlines()[0]
    assert first.startswith(
        "cot_sft was asked and read in the format tags, att_cot in prose (other:"
    )
    assert "cot," in first and "rationale," in first and drawn["lead"][0] == first

    prompted = changed(FORMATS["tags"], prompt="Reason.").record()
    assert "tags, att_cot in tags (other: cot)" in str(compared_with("prompt", format=prompted))

    # Runs of earlier versions say nothing of a format.
    assert compared_with("old", format=None).asked == ()
    assert drawn["lead"][0].startswith("CoT-SFT") or "paired by item" in drawn["lead"][0]


def test_models_are_loaded_with_the_format_that_they_were_measured_in(pair, tmp_path):
    prose = pair.copy("att_cot", tmp_path / "prose", model={"format": FORMATS["prose"].record()})
    assert find_model(read_arm(prose)).format == FORMATS["prose"]
    assert find_model(read_arm(pair.path("att_cot"))).format == FORMATS["tags"]
    # What a manifest names is not run.
    own = {**FORMATS["prose"].record(), "cut": "os:system"}
    foreign = pair.copy("att_cot", tmp_path / "own", model={"format": own})
    with pytest.raises(RunError, match="names a function"):
        find_model(read_arm(foreign))
