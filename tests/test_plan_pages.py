"""Plans that measure in full, from check to pages, with the slow parts replaced by quick ones."""

import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from attcot_analysis.cli import main
from attcot_analysis.errors import ModelError, RunError
from attcot_analysis.measures.check import Check, ModelCheck
from attcot_analysis.models import load_mllm
from attcot_analysis.problems.folder import save_problems
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab import pages, run
from attcot_lab.plan import Cell, plan_of
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

CELL = "qwen2_5_vl-tiny.arrows"


def least(folder):
    sets = {"arrows": {"test": str(folder / "test")}}
    about = {"about": "A try.", "models": ["a/b"], "arms": ["base"], "measure": {}}
    return plan_of({**about, "problems": sets, "out": str(folder / "out")})


@pytest.fixture
def way(tmp_path, monkeypatch):
    """A plan on tiny problems, and what was called for it."""
    called = []

    def check(model, **_):
        called.append(("check", model))
        return ModelCheck("tiny", (Check("loads", True, "yes"),))

    def train(arm, base, problems, folder, config, **_):
        called.append(("train", arm.name, config.seed, len(problems)))
        shutil.copytree(base, folder)
        return folder

    def compared(before, after, out, *, names, **_):
        called.append((*names, len(before), len(after)))
        return SimpleNamespace(answers=SimpleNamespace(headline="so."), report=out / "report.html")

    monkeypatch.setattr(run, "check_model", check)
    monkeypatch.setattr(run, "train_arm", train)
    monkeypatch.setattr(pages, "compare_runs", compared)
    config = ArrowsConfig(hops=1, noise=240.0)
    save_problems(generate_arrows(2, config, seed=5), tmp_path / "test")
    save_problems(generate_arrows(3, config, seed=6, split="train"), tmp_path / "train")
    file = {
        "about": "A try.",
        "models": [str(shipped(TESTBED_MODEL))],
        "problems": {"arrows": {"test": str(tmp_path / "test"), "train": str(tmp_path / "train")}},
        "out": str(tmp_path / "out"),
        "measure": {"layers": [1], "controls": ["rationale"], "edits": ["blank"]},
        "arms": ["base", "cot_sft", "att_cot"],
        "seeds": [0, 1],
        "train_items": 2,
    }
    path = tmp_path / "run.yaml"

    def go(**changes):
        path.write_text(yaml.safe_dump({**file, **changes}))
        called.clear()
        return main(["run", str(path)])

    return go, called, tmp_path


def test_the_whole_plan_and_again(way, capsys):
    go, called, folder = way
    assert go() == 0
    arms = ("cot_sft", "att_cot")
    trained = [("train", arm, seed, 2) for seed in (0, 1) for arm in arms]
    assert called[1:5] == trained and called[0][0] == "check"
    assert called[5:] == [
        ("base", "cot_sft", 1, 2),
        ("base", "att_cot", 1, 2),
        ("cot_sft", "att_cot", 2, 2),
    ]
    for name in ("base-0", "cot_sft-0", "att_cot-1"):
        assert RunFolder.open(folder / "out" / "cells" / f"{CELL}.{name}").has("summary")
    capsys.readouterr()
    assert go() == 0
    assert [one[0] for one in called] == ["base", "base", "cot_sft"]
    assert "check: tiny: all 1 checks hold." in capsys.readouterr().out
    assert go(measure={"layers": [2]}) == 1
    assert "cannot be resumed: its config.measure" in capsys.readouterr().err


def test_a_run_is_resumed_with_the_models_it_was_begun_with(way, capsys):
    go, called, folder = way
    own = shutil.copytree(shipped(TESTBED_MODEL), folder / "own")
    assert go(models=[str(own)], pages="none") == 0
    template = own / "chat_template.jinja"
    held = template.read_text()
    template.write_text(held + " ")
    assert go(models=[str(own)], pages="none") == 1 and called == []
    assert (
        "cannot be resumed: it was begun with another model own (chat_template.jinja differs"
        in (capsys.readouterr().err)
    )
    template.write_text(held)
    assert go(models=[str(own)], pages="none") == 0
    tuned = folder / "out" / "models" / "own.arrows.att_cot-0" / "generation_config.json"
    tuned.write_text(tuned.read_text() + " ")
    assert go(models=[str(own)], pages="none") == 1
    said = capsys.readouterr().err
    assert "att_cot-0 was measured with another model" in said
    assert "generation_config.json differs" in said


def test_what_is_tuned_is_the_revision_that_is_measured(way, monkeypatch):
    go, _, _ = way
    bases = []
    train = run.train_arm

    def noted(arm, base, *rest, **options):
        bases.append(base)
        return train(arm, shipped(TESTBED_MODEL), *rest, **options)

    measured = []
    monkeypatch.setattr(run, "train_arm", noted)

    def loaded(model, revision=None, **_):
        measured.append((model, revision))
        return load_mllm(shipped(TESTBED_MODEL) if model == "a/b" else model)

    monkeypatch.setattr(run, "load_mllm", loaded)
    monkeypatch.setattr(run, "load_processor", lambda *_, **__: load_mllm(shipped(TESTBED_MODEL)))
    monkeypatch.setattr(
        run, "cached_file", lambda name, file, revision: f"cache/{name}@{revision}/{file}"
    )
    assert go(models=["a/b"], revision="abc", pages="none") == 0
    assert set(bases) == {"cache/a/b@abc"} and measured[0] == ("a/b", "abc")


def test_a_hub_model_is_of_the_commit_that_was_measured(tmp_path, monkeypatch):
    record = {"name": "a/b", "revision": "abc"}
    cell, whole = Cell("b", "arrows", "base", 0), RunFolder(tmp_path)
    RunFolder.create(cell.folder(tmp_path), {"seed": 0, "models": {"model": record}})
    for commit in ("abc", None):
        monkeypatch.setattr(run, "_commit", lambda *_, commit=commit: commit)
        run._check_measured(whole, least(tmp_path), {"b": "a/b"}, cell)
    monkeypatch.setattr(run, "_commit", lambda *_: "def")
    with pytest.raises(RunError, match=r"another model than is at a/b now: .*'abc', now .*'def'"):
        run._check_measured(whole, least(tmp_path), {"b": "a/b"}, cell)


def test_a_page_is_of_the_values_that_are_there(way, monkeypatch):
    go, _, folder = way
    paths = []

    def written(run, page, **_):
        page.parent.mkdir(exist_ok=True)
        page.touch()
        paths.append(page)

    monkeypatch.setattr(pages, "report_run", written)
    for _ in range(2):
        assert go(arms=["base"], check=False) == 0
    assert len(paths) == 1
    shutil.rmtree(folder / "out" / "cells")
    assert go(arms=["base"], check=False) == 0
    assert len(paths) == 2


def test_a_model_that_is_not_read_right_is_not_measured(way, monkeypatch):
    _, _, folder = way

    def fails(model, **_):
        return ModelCheck("tiny", (Check("prompt", False, "no image token"),))

    monkeypatch.setattr(run, "check_model", fails)
    with pytest.raises(ModelError, match=r"must not be measured: .*no image token"):
        run.run_plan(least(folder), say=lambda _: None)
    assert not (folder / "out" / "cells").exists()


def test_without_training_there_is_a_page_of_the_base(way, monkeypatch):
    go, called, folder = way
    written = []
    monkeypatch.setattr(pages, "report_run", lambda run, page, **_: written.append((run, page)))
    assert go(arms=["base"], check=False) == 0
    page = (folder / f"out/cells/{CELL}.base-0", folder / f"out/pages/{CELL}.base-0.html")
    assert called == [] and written == [page]


def test_the_folder_of_another_run_is_refused(way):
    _, _, folder = way
    other = RunFolder.create(folder / "out", {"seed": 1})
    other.write_table("values", pd.DataFrame({"item": ["a"]}))
    with pytest.raises(RunError):
        run.run_plan(least(folder), say=lambda _: None)
    assert other.manifest["seed"] == 1
