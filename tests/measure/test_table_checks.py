"""Tables are checked where they are read: shares, whole items, answers, and whose they are."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from attcot_analysis.errors import RunError
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import load_problems
from attcot_analysis.runs.manifests import ITEMS
from attcot_analysis.runs.measure import measure_run
from attcot_analysis.runs.parts import Part
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import DEFAULT, EXTRAS
from attcot_analysis.shipped import TESTBED_MODEL, TESTBED_PROBLEMS, data_folder, shipped
from attcot_analysis.show.report.arms import read_arm

# Behaviour writes a dozen responses per item; its tables are those of `test_suite.py`.
WHAT = (*DEFAULT, *(name for name in EXTRAS if name != "behaviour"), "maps")
SETTINGS = {"max_new_tokens": 40, "batch_size": 2, "what": WHAT}


@pytest.fixture(scope="module")
def mllm():
    return load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)


@pytest.fixture(scope="module")
def problems():
    """Problems of every kind: with edits, without, and an open question."""
    found = load_problems(shipped(TESTBED_PROBLEMS), limit=5)
    found[1] = replace(found[1], twin=None)
    found[2] = replace(found[2], control=None)
    found[3] = replace(found[3], candidates=(), habitual=None)
    return found


@pytest.fixture(scope="module")
def measured(mllm, problems, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured") / "run"
    return measure_run(folder, mllm, problems, **SETTINGS)


@pytest.fixture
def run(measured, tmp_path):
    return RunFolder(shutil.copytree(measured.path, tmp_path / "run"))


def changed(run, name, change, write):
    """Change a table that a run has, as one who has only the file, or through the run."""
    table = change(run.read_table(name).copy())
    if write == "file":
        table.to_parquet(run.table_path(name), index=False)
    else:
        run.write_table(name, table, overwrite=True)


def setting(column, value, row=1):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table.infer_objects()

    return change


def without(mask):
    return lambda table: table[~mask(table)].reset_index(drop=True)


def second_item(table):
    return table["item"] == table["item"].unique()[1]


# --- what is whole ------------------------------------------------------------------------------


def test_every_table_of_a_run_is_read(measured, run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in measured.tables:
            found = measured.read_table(name)
            if "item" in found:
                blocks = list(measured.read_blocks(name))
                assert len(pd.concat(blocks)) == len(found)
        read_arm(run.path)


def test_open_questions_and_missing_edits_are_no_gaps(measured, problems):
    forced = set(measured.read_table("commitment")["item"])
    assert problems[3].id not in forced and problems[3].id in set(
        measured.read_table("access")["item"]
    )
    edits = measured.read_table("dependence")
    assert problems[1].id not in set(edits.loc[edits["edit"] == "twin", "item"])


def test_shipped_tables_are_read():
    for folder in (data_folder() / "results").iterdir():
        run = RunFolder(folder)
        for name in run.tables:
            assert len(run.read_table(name))


# --- what is not --------------------------------------------------------------------------------

CASES = [
    ("commitment", setting("p", 1.7), r"row 1, item .*: p is 1\.7, expected 0 to 1"),
    ("commitment", setting("p", -0.2), r"row 1, item .*: p is -0\.2, expected"),
    ("commitment", setting("p", np.inf), r"row 1, item .*: p is inf, expected"),
    ("commitment", setting("p", 0.9, row=0), r"p over all candidates adds up to .*, not 1"),
    ("lens", setting("p", 0.99, row=0), r"p over all candidates adds up to .*, not 1"),
    ("access", setting("mass", 1.5), r"row 1, item .*: mass is 1\.5, expected 0 to 1"),
    ("access", setting("evidence_share", -1.0), r"evidence_share is -1, expected"),
    ("answer_access", setting("mass", 2.0), r"mass is 2, expected"),
    ("answers_cot", lambda t: pd.concat([t, t[:1]]), r"row 5, item .*same item is there already"),
    ("access", lambda t: pd.concat([t[:1], t]), r"row 1, .*item, step, layer, head is there al"),
    ("dependence", lambda t: pd.concat([t, t[2:3]]), r"item, edit, rationale is there already"),
    ("values", lambda t: pd.concat([t, t[:1]]), r"model, seed, item, metric is there already"),
    ("answers_cot", without(second_item), r"lacks the answer to item .*00001; delete"),
    ("answers_text_only", without(second_item), r"lacks the answer to item .*00001"),
    ("commitment", without(second_item), r"not whole, it lacks the forced answer of item .*00001"),
    ("access", without(second_item), r"lacks the step of item .*00001"),
    ("divergence", without(second_item), r"lacks the step of item .*00001"),
    ("dependence", without(lambda t: second_item(t) & (t["edit"] == "blank")), "blank picture of"),
    (
        "dependence",
        without(lambda t: (t["item"] == t["item"].iloc[0]) & (t["edit"] == "twin")),
        "lacks the twin picture of item .*00000",
    ),
    ("commitment", without(lambda t: second_item(t) & (t["step"] == 1)), r"steps, expected 0 to"),
    ("answers_direct", setting("item", "stranger"), "holds item stranger, which its run has not"),
    (
        "answers_cot",
        lambda t: t.assign(correct=~t["correct"].astype(bool)),
        r"row 0, item .*: correct is (True|False) with answer",
    ),
    (
        "answers_cot",
        lambda t: t.assign(answer=None, correct=True),
        r"row 0, item .*: correct is True with answer None",
    ),
    (
        "causal",
        lambda t: t.assign(correct_after=~t["correct_after"].astype(bool)),
        r"correct_after is (True|False) with answer_after",
    ),
]


@pytest.mark.parametrize("write", ["file", "run"])
@pytest.mark.parametrize(("name", "change", "message"), CASES)
def test_what_cannot_be_is_refused(run, name, change, message, write):
    changed(run, name, change, write)
    for read in (lambda: run.read_table(name), lambda: list(run.read_blocks(name))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RunError, match=message) as caught:
                read()
        said = str(caught.value)
        assert str(run.table_path(name)) in said and len(said.splitlines()) == 1


def test_answers_that_are_missing_are_no_fault(run):
    changed(run, "answers_cot", lambda t: t.assign(answer=None, correct=False), "run")
    assert not run.read_table("answers_cot")["correct"].any()
    changed(run, "commitment", lambda t: t.assign(p=np.nan), "run")
    assert run.read_table("commitment")["p"].isna().all()


def test_a_run_of_an_earlier_version_is_held_against_what_it_says(run):
    held = run.manifest
    del held[ITEMS]
    run.write_json("manifest", held, overwrite=True)
    for name in run.tables:
        run.read_table(name).to_parquet(run.table_path(name), index=False)
        assert len(run.read_table(name))
    changed(run, "answers_cot", without(second_item), "file")
    with pytest.raises(RunError, match="it holds 4 of 5"):
        run.read_table("answers_cot")


# --- whose it is --------------------------------------------------------------------------------


def test_a_table_of_another_model_is_noticed(run, mllm, problems, tmp_path):
    other = load_mllm(shipped("models/qwen2_5_vl-tiny-cot_sft"), dtype=torch.float32)
    found = measure_run(tmp_path / "other", other, problems, **SETTINGS)
    for name in ("commitment", "answers_direct", "access"):
        held, own = tmp_path / "held", run.parts(name).path
        own.rename(held)
        shutil.copytree(found.parts(name).path, own)
        for read in (lambda name=name: run.read_table(name), lambda: read_arm(run.path)):
            with pytest.raises(RunError, match=rf"{name}\S*.parquet is a table of another run"):
                read()
        shutil.rmtree(own)
        held.rename(own)
    read_arm(run.path)


def test_a_copy_of_another_table_of_the_run_is_noticed(run):
    shutil.rmtree(run.parts("answers_text_only").path)
    shutil.copytree(run.parts("answers_cot").path, run.parts("answers_text_only").path)
    with pytest.raises(RunError, match="is a copy of the run's table answers_cot"):
        run.read_table("answers_text_only")


def test_a_part_of_another_run_is_noticed(tmp_path):
    runs = [RunFolder.create(tmp_path / str(seed), {"seed": seed}) for seed in (0, 1)]
    for run, item in zip(runs, "ab", strict=True):
        rows = pd.DataFrame({"item": [item], "x": [1.0]})
        run.parts("t").write("ab".index(item), [[0], [1]], ["a", "b"], Part(rows))
    (part,) = runs[1].parts("t").path.iterdir()
    shutil.copy(part, runs[0].parts("t").path)
    for read in (runs[0].read_table, lambda name: list(runs[0].read_blocks(name))):
        with pytest.raises(RunError, match=f"{part.name} is a table of another run"):
            read("t")


def test_a_table_that_something_else_wrote_is_read_with_a_warning(run):
    table = run.read_table("commitment")
    table.to_parquet(run.table_path("commitment"), index=False)
    with pytest.warns(UserWarning, match="does not say what run it is of"):
        assert len(run.read_table("commitment")) == len(table)
