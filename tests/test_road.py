"""Run files, and the whole road they describe, with the slow parts replaced by quick ones."""

import shutil
from types import SimpleNamespace

import pytest
import yaml

from attcot_analysis.cli import main
from attcot_analysis.errors import ModelError, RunError, TrainingError
from attcot_analysis.measures.check import Check, ModelCheck
from attcot_analysis.presets import presets
from attcot_analysis.problems import ArrowsConfig, generate_arrows
from attcot_analysis.problems.folder import save_problems
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab import road
from attcot_lab.run_file import read_run_file, run_file_of

LEAST = {"about": "A try.", "model": "a/b", "problems": "test", "out": "runs/x"}
TUNED = {"problems": "train", "arms": ["cot_sft", "att_cot"]}


def test_a_preset_fills_what_the_file_leaves_open():
    preset = presets()["internvl3-2b"]
    plain = run_file_of({**LEAST, "model": "internvl3-2b"})
    assert (plain.model, plain.dtype, plain.n_layers) == (preset.hub, preset.dtype, preset.n_layers)
    assert plain.measure == {"layers": list(preset.layers), "batch_size": preset.batch_size}
    own = {"measure": {"layers": "all", "items": 9}, "dtype": "float32"}
    mine = run_file_of({**LEAST, "model": "internvl3-2b", **own})
    assert mine.measure == {"layers": None, "batch_size": preset.batch_size, "items": 9}
    assert mine.dtype == "float32" and run_file_of(LEAST).n_layers is None


def test_the_demo_is_read_and_described(capsys, tmp_path):
    assert main(["run", "demo", "--dry", "--out", str(tmp_path / "x")]) == 0
    told = capsys.readouterr().out
    assert "cot_sft, att_cot; seeds 0; 40 steps each" in told and str(tmp_path / "x") in told
    assert not (tmp_path / "x").exists()
    config = read_run_file("demo")
    assert config.tuning.config.steps == 40 and config.tuning.arms["att_cot"].attcot.active


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": ""}, "nothing about model"),
        ({"modell": "x"}, "no field modell"),
        ({"check": "no"}, "check is 'no'; give a bool"),
        ({"measure": {"items": 0}}, "items is 0"),
        ({"measure": {"layers": 3}}, "layers is 3; give a list"),
        ({"measure": {"extras": ["lense"]}}, "'lense' is not one of"),
        ({"measure": [1]}, "give names with values"),
        ({"finetune": {"arms": ["cot_sft"]}}, "names no folder of training problems"),
        ({"finetune": {"problems": "t"}}, "arms is None"),
        ({"finetune": {**TUNED, "arms": ["nobody"]}}, "There is no arm nobody"),
        ({"finetune": {**TUNED, "arms": ["base"]}}, "base is not trained"),
        ({"finetune": {**TUNED, "arms": ["cot_sft", "cot_sft"]}}, "named twice"),
        ({"finetune": {**TUNED, "seeds": ["a"]}}, "whole numbers"),
        ({"finetune": {**TUNED, "seed": 3}}, "no field seed"),
        ({"finetune": {**TUNED, "steps": "many"}}, "wrong type"),
    ],
)
def test_what_does_not_hold_together_is_refused(change, sentence):
    with pytest.raises(TrainingError, match=sentence):
        run_file_of({**LEAST, **change})


def test_an_unknown_run_file_is_named_with_those_there_are():
    with pytest.raises(TrainingError, match="There is no run file nothing; choose one of demo"):
        read_run_file("nothing")


@pytest.fixture
def way(tmp_path, monkeypatch):
    """A run file on tiny problems, and what was called for it."""
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

    monkeypatch.setattr(road, "check_model", check)
    monkeypatch.setattr(road, "train_arm", train)
    monkeypatch.setattr(road, "compare_runs", compared)
    config = ArrowsConfig(hops=1, noise=240.0)
    save_problems(generate_arrows(2, config, seed=5), tmp_path / "test")
    save_problems(generate_arrows(3, config, seed=6, split="train"), tmp_path / "train")
    file = {
        "about": "A try.",
        "model": str(shipped(TESTBED_MODEL)),
        "problems": str(tmp_path / "test"),
        "out": str(tmp_path / "out"),
        "measure": {"layers": [1], "controls": ["rationale"], "edits": ["blank"]},
        "finetune": {
            "problems": str(tmp_path / "train"),
            "arms": ["cot_sft", "att_cot"],
            "seeds": [0, 1],
            "items": 2,
        },
    }
    path = tmp_path / "run.yaml"

    def go(**changes):
        path.write_text(yaml.safe_dump({**file, **changes}))
        called.clear()
        return main(["run", str(path)])

    return go, called, tmp_path


def test_the_whole_road_and_again(way, capsys):
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
    for name in ("base", "cot_sft-0", "att_cot-1"):
        assert RunFolder.open(folder / "out" / name).has("summary")
    capsys.readouterr()
    assert go() == 0
    assert [one[0] for one in called] == ["base", "base", "cot_sft"]
    assert "check: tiny: all 1 checks hold." in capsys.readouterr().out
    assert go(measure={"layers": [2]}) == 1
    assert "cannot be resumed: its config.measure" in capsys.readouterr().err


def test_a_road_is_gone_on_with_by_the_models_it_was_begun_with(way, capsys):
    go, called, folder = way
    own = shutil.copytree(shipped(TESTBED_MODEL), folder / "own")
    assert go(model=str(own), compare=False) == 0
    template = own / "chat_template.jinja"
    held = template.read_text()
    template.write_text(held + " ")
    assert go(model=str(own), compare=False) == 1 and called == []
    assert "cannot be resumed: chat_template.jinja differs" in capsys.readouterr().err
    template.write_text(held)
    assert go(model=str(own), compare=False) == 0
    tuned = folder / "out" / "models" / "att_cot-0" / "generation_config.json"
    tuned.write_text(tuned.read_text() + " ")
    assert go(model=str(own), compare=False) == 1
    said = capsys.readouterr().err
    assert "att_cot-0 was measured with another model" in said
    assert "generation_config.json differs" in said


def test_what_is_tuned_is_the_revision_that_is_measured(way, monkeypatch):
    go, _, _ = way
    bases = []
    train = road.train_arm

    def noted(arm, base, *rest, **options):
        bases.append(base)
        return train(arm, shipped(TESTBED_MODEL), *rest, **options)

    measured = []
    monkeypatch.setattr(road, "train_arm", noted)
    monkeypatch.setattr(road, "_measure", lambda run, name, model, *_: measured.append(model))
    monkeypatch.setattr(
        road, "cached_file", lambda name, file, revision: f"cache/{name}@{revision}/{file}"
    )
    assert go(model="a/b", revision="abc", compare=False) == 0
    assert set(bases) == {"cache/a/b@abc"} and measured[0] == "a/b"


def test_a_hub_model_is_of_the_commit_that_was_measured(tmp_path, monkeypatch):
    record = {"name": "a/b", "revision": "abc"}
    run = RunFolder.create(tmp_path / "base", {"seed": 0, "models": {"model": record}})
    for commit in ("abc", None):
        monkeypatch.setattr(road, "_commit", lambda *_, commit=commit: commit)
        road._check_measured(run, "a/b", None)
    monkeypatch.setattr(road, "_commit", lambda *_: "def")
    with pytest.raises(RunError, match=r"another model than is at a/b now: .*'abc', now .*'def'"):
        road._check_measured(run, "a/b", None)


def test_a_page_is_of_the_values_that_are_there(way, monkeypatch):
    go, _, folder = way
    pages = []

    def written(run, page, **_):
        page.parent.mkdir(exist_ok=True)
        page.touch()
        pages.append(page)

    monkeypatch.setattr(road, "report_run", written)
    for _ in range(2):
        assert go(finetune=None, check=False) == 0
    assert len(pages) == 1
    shutil.rmtree(folder / "out" / "base")
    assert go(finetune=None, check=False) == 0
    assert len(pages) == 2


def test_a_model_that_is_not_read_right_is_not_measured(way, monkeypatch):
    _, _, folder = way

    def fails(model, **_):
        return ModelCheck("tiny", (Check("prompt", False, "no image token"),))

    monkeypatch.setattr(road, "check_model", fails)
    config = run_file_of({**LEAST, "problems": str(folder / "test"), "out": str(folder / "out")})
    with pytest.raises(ModelError, match=r"must not be measured: .*no image token"):
        road.follow_road(config, say=lambda _: None)
    assert not (folder / "out" / "base").exists()


def test_without_training_there_is_a_page_of_the_base(way, monkeypatch):
    go, called, folder = way
    pages = []
    monkeypatch.setattr(road, "report_run", lambda run, page, **_: pages.append((run, page)))
    assert go(finetune=None, check=False) == 0
    assert called == [] and pages == [(folder / "out/base", folder / "out/pages/base.html")]


def test_a_road_in_use_is_refused(way):
    _, _, folder = way
    config = run_file_of({**LEAST, "problems": str(folder / "test"), "out": str(folder / "out")})
    run = RunFolder.create(folder / "out", {"seed": 1})
    with pytest.raises(RunError):
        road.follow_road(config, say=lambda _: None)
    assert run.manifest["seed"] == 1
