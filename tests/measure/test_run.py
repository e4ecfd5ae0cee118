import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from attcot_analysis.errors import RunError
from attcot_analysis.problems import load_problems, save_problems
from attcot_analysis.runs.provenance import (
    build_manifest,
    model_record,
    problems_hash,
    versions,
    weights_hash,
)
from attcot_analysis.runs.run import RunFolder, next_free
from attcot_analysis.stats.intervals import Interval
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

MANIFEST = {"seed": 0, "config": {"n": 3, "lambda": {"v": 0.1}}, "models": {}, "data": {}}


def table():
    return pd.DataFrame(
        {
            "item": ["a", "b", "c"],
            "answer": ["red", None, "blue"],
            "correct": [True, False, True],
            "p": [0.25, np.nan, 1.0],
            "ids": [[1, 2, 3], [], [4]],
        }
    )


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", MANIFEST)


def test_tables_come_back_as_they_went(run):
    run.write_table("answers", table())
    back = RunFolder.open(run.path).read_table("answers")
    assert_frame_equal(back, table())
    assert back["ids"].tolist() == [[1, 2, 3], [], [4]]
    assert run.has("answers")
    assert not run.has("other")
    assert run.tables == ["answers"]


def test_an_unnamed_index_is_dropped_and_a_named_one_refused(run):
    run.write_table("part", table().iloc[1:])
    assert run.read_table("part").index.tolist() == [0, 1]
    with pytest.raises(RunError, match=r"named index \['item'\]"):
        run.write_table("named", table().set_index("item"))
    assert not run.has("named")


def test_nothing_is_overwritten_silently(run):
    run.write_table("answers", table())
    with pytest.raises(RunError, match=r"already there; .*overwrite=True"):
        run.write_table("answers", table().head(1))
    assert len(run.read_table("answers")) == 3
    run.write_table("answers", table().head(1), overwrite=True)
    assert len(run.read_table("answers")) == 1
    run.write_json("results", {"a": 1})
    with pytest.raises(RunError, match="already there"):
        run.write_json("results", {"a": 2})
    assert run.read_json("results") == {"a": 1}


def test_json_takes_what_results_are_made_of(run):
    data = {
        "interval": Interval(0.5, np.nan, np.nan, 1),
        "array": np.array([1.5, np.inf]),
        "count": np.int64(3),
        "yes": np.bool_(True),
        "tuple": (1, "é", None),
        "set": {"b", "a"},
        7: "key",
    }
    path = run.write_json("results", data)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "interval": {"value": 0.5, "low": None, "high": None, "n": 1, "level": 0.95},
        "array": [1.5, None],
        "count": 3,
        "yes": True,
        "tuple": [1, "é", None],
        "set": ["a", "b"],
        "7": "key",
    }
    with pytest.raises(RunError, match=r"odd\.x\[1\] is a object, which has no JSON form"):
        run.write_json("odd", {"x": [1, object()]})
    assert not run.has("odd")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a\\b", ".hidden", "x" * 101, "a b", "nul\0"])
def test_names_stay_in_the_folder(run, name):
    for call in (lambda: run.write_table(name, table()), lambda: run.has(name)):
        with pytest.raises(RunError, match="cannot name a table or result"):
            call()


def test_a_failing_write_leaves_the_old_table_and_no_litter(run, monkeypatch):
    run.write_table("answers", table())

    def fail(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            run.write_table("answers", table().head(1), overwrite=True)
    assert len(run.read_table("answers")) == 3
    assert [path.name for path in (run.path / "tables").iterdir()] == ["answers.parquet"]


def test_what_was_computed_before_an_exception_is_there_after_it(tmp_path):
    made = []

    def make(name):
        made.append(name)
        return table()

    def work(run, fail):
        run.table("first", lambda: make("first"))
        if fail:
            raise KeyboardInterrupt
        run.table("second", lambda: make("second"))

    with pytest.raises(KeyboardInterrupt):
        work(RunFolder.create(tmp_path / "run", MANIFEST), True)
    work(RunFolder.create(tmp_path / "run", MANIFEST, resume=True), False)
    assert made == ["first", "second"]
    assert RunFolder.open(tmp_path / "run").tables == ["first", "second"]


def test_create_refuses_what_is_there(run, tmp_path):
    with pytest.raises(RunError, match=r"pass resume=True .* or write to .*run-2"):
        RunFolder.create(run.path, MANIFEST)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for resume in (False, True):
        with pytest.raises(RunError, match=r"no manifest\.json, so it is no run"):
            RunFolder.create(tmp_path / "mine", MANIFEST, resume=resume)
    with pytest.raises(RunError, match="is a file"):
        RunFolder.create(tmp_path / "mine" / "thesis.tex", MANIFEST)
    RunFolder.create(tmp_path / "new" / "deep", MANIFEST, resume=True)


def test_resume_only_with_the_same_settings(run):
    other = {**MANIFEST, "config": {"n": 3, "lambda": {"v": 0.2}}}
    with pytest.raises(RunError, match=r"config\.lambda\.v is 0\.1, now it is 0\.2; write to"):
        RunFolder.create(run.path, other, resume=True)
    with pytest.raises(RunError, match="seed is 0, now it is 1"):
        RunFolder.create(run.path, {**MANIFEST, "seed": 1}, resume=True)
    strange = {**MANIFEST, "config": {**MANIFEST["config"], "a\u2028b\nc": 1}}
    with pytest.raises(RunError, match="cannot be resumed") as caught:
        RunFolder.create(run.path, strange, resume=True)
    assert len(str(caught.value).splitlines()) == 1


def test_another_number_of_items_is_said_in_words(tmp_path):
    few, more = ({**MANIFEST, "data": {"test": {"n": n}}} for n in (4, 5))
    RunFolder.create(tmp_path / "few", few).write_table("answers", table())
    with pytest.raises(RunError, match="it was begun with 4 items, now there are 5; write to"):
        RunFolder.create(tmp_path / "few", more, resume=True)


def test_settings_are_corrected_until_something_was_computed_with_them(run):
    other = {**MANIFEST, "seed": 7}
    with RunFolder.begun(run.path, other, resume=True) as found:
        assert found.manifest["seed"] == 7
        found.write_table("answers", table())
    assert len(run.read_table("answers"))
    with (
        pytest.raises(RunError, match="seed is 7, now"),
        RunFolder.begun(run.path, MANIFEST, resume=True),
    ):
        pass


def test_resume_notes_other_versions(run):
    created = run.manifest["created"]
    RunFolder.create(run.path, {**MANIFEST, "versions": {"torch": "9"}}, resume=True)
    assert run.manifest["created"] == created
    assert run.manifest["resumed"][0]["versions"] == {"torch": "9"}


def test_damage_is_one_sentence(run, tmp_path):
    path = run.write_table("answers", table())
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-10] + b"x" * 10):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"is damaged .*; delete it") as caught:
            run.read_table("answers")
        assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="has no table commitment; it has answers"):
        run.read_table("commitment")
    with pytest.raises(RunError, match=r"has no results\.json"):
        run.read_json("results")
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json is damaged"):
        RunFolder.open(run.path)
    (run.path / "manifest.json").write_text("[]")
    with pytest.raises(RunError, match="holds no JSON object"):
        _ = RunFolder.open(run.path).manifest
    with pytest.raises(RunError, match="is no run folder"):
        RunFolder.open(tmp_path)
    with pytest.raises(RunError, match=f"no folder .*nowhere; did you mean {tmp_path / 'nowhen'}"):
        (tmp_path / "nowhen").mkdir()
        RunFolder.open(tmp_path / "nowhere")


def test_a_table_parquet_cannot_hold(run):
    with pytest.raises(RunError, match="Table odd cannot be written as parquet"):
        run.write_table("odd", pd.DataFrame({"x": [1, "a", object()]}))
    assert not run.has("odd")


def test_next_free(tmp_path):
    path = tmp_path / "reproduce"
    assert next_free(path) == path
    path.mkdir()
    assert next_free(path) == path
    (path / "x").write_text("x")
    assert next_free(path) == tmp_path / "reproduce-2"
    (tmp_path / "reproduce-2").write_text("a file")
    assert next_free(path) == tmp_path / "reproduce-3"


# --- provenance ---------------------------------------------------------------------------------


def test_manifest_holds_no_name_of_the_machine(tmp_path, random_mllm):
    folder = tmp_path / "tiny-base"
    random_mllm.model.save_pretrained(folder)
    problems = generate_arrows(2, ArrowsConfig(), seed=0)
    manifest = build_manifest(
        seed=3,
        config={"steps": 150},
        models={"base": folder, "memory": random_mllm},
        data={"test": problems},
    )
    run = RunFolder.create(tmp_path / "run", manifest)
    text = (run.path / "manifest.json").read_text()
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert os.uname().nodename not in re.split(r"[\s\",]+", text)
    stored = run.manifest
    assert stored["seed"] == 3
    assert stored["models"]["base"]["name"] == "tiny-base"
    assert stored["models"]["base"]["weights_sha256"] == weights_hash(folder)
    assert stored["models"]["memory"]["weights_sha256"] is None
    assert stored["models"]["memory"]["family"] == random_mllm.family.name
    assert stored["data"]["test"] == {"n": 2, "sha256": problems_hash(problems)}
    assert stored["versions"]["torch"] == versions()["torch"]
    assert "python" in stored["versions"]


def test_weights_hash_follows_the_weights(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    (tmp_path / "training_args.bin").write_bytes(b"x")
    first = weights_hash(tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"y")
    assert weights_hash(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert weights_hash(tmp_path) != first
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no weights"):
        weights_hash(tmp_path / "empty")
    with pytest.raises(RunError, match="is not a checkpoint folder"):
        model_record("Qwen/Qwen2.5-VL-7B-Instruct")


def test_problems_hash_follows_content_and_survives_the_disk(tmp_path):
    problems = generate_arrows(3, ArrowsConfig(), seed=0)
    before = problems_hash(problems)
    assert problems_hash(load_problems(save_problems(problems, tmp_path / "set"))) == before
    assert problems_hash(problems[::-1]) != before
    assert problems_hash(problems[:2]) != before
    changed = [dataclasses.replace(problems[0], question="Another one?"), *problems[1:]]
    assert problems_hash(changed) != before
    pixel = problems[0].image.copy()
    pixel.putpixel((0, 0), (1, 2, 3))
    assert problems_hash([dataclasses.replace(problems[0], image=pixel), *problems[1:]]) != before
