"""A run of all measurements: killed at any moment, shared by processes, refused, checked."""

import os
import random
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from pandas.testing import assert_frame_equal
from processes import (
    FAKE_ITEMS,
    REAL,
    REAL_ITEMS,
    Child,
    FakeStages,
    fake_dying,
    fake_failing,
    fake_measure,
    free_port,
    real_measure,
)

from attcot_analysis.cli import main
from attcot_analysis.errors import MeasureError, RunError
from attcot_analysis.measures.access import answer_access, visual_access
from attcot_analysis.measures.behaviours import behaviour
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.measures.compare import item_values
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.measures.divergence import token_divergence
from attcot_analysis.measures.lens import lens_commitment
from attcot_analysis.measures.open_answers import open_commitment
from attcot_analysis.measures.patches import patching
from attcot_analysis.measures.statements import perceptions
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import Problem, load_problems, save_problems
from attcot_analysis.runs import measure as suite
from attcot_analysis.runs.measure import ResponseStages, Settings, Stages, measure, measure_run
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.shards import Shards
from attcot_analysis.runs.values import DEFAULT, EXTRAS, TABLES, suite_values
from attcot_analysis.shipped import TESTBED_MODEL, TESTBED_PROBLEMS, shipped
from attcot_lab.testbed.arrows import generate_arrows


def contents(folder):
    """Every file's bytes, but for those that hold a time or a place."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "sources.json")
    }


def finished(child):
    assert child.wait() == 0, child.error
    return child


def together(work, folder, count=2):
    port = free_port()
    children = [Child(work, folder, rank=rank, port=port, count=count) for rank in range(count)]
    codes = [child.wait() for child in children]
    return codes, [child.error for child in children]


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fake") / "whole"
    return folder, finished(Child(fake_measure, folder)).events


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "whole"
    return folder, finished(Child(real_measure, folder)).events


# --- killed -------------------------------------------------------------------------------------


def killed_and_resumed(work, folder, kills):
    """How often a run was killed before it was done; `kills` gives the moments."""
    for number, moment in enumerate(kills):
        if Child(work, folder, kill_at=moment).wait() == 0:
            return number
    finished(Child(work, folder))
    return len(kills)


def test_a_run_killed_again_and_again_equals_one_that_was_not(fake, tmp_path):
    whole, events = fake
    draw = random.Random(0)
    folder = tmp_path / "killed"
    kills = [draw.randint(1, events // 5) for _ in range(25)]
    assert killed_and_resumed(fake_measure, folder, kills) >= 8
    assert contents(folder) == contents(whole)


def test_one_kill_anywhere_loses_nothing(fake, tmp_path):
    whole, events = fake
    for moment in random.Random(1).sample(range(1, events + 1), 10):
        folder = tmp_path / str(moment)
        assert killed_and_resumed(fake_measure, folder, [moment]) == 1
        assert contents(folder) == contents(whole), f"killed before change {moment}"


def test_a_kill_costs_no_more_than_the_batch_under_way(fake, tmp_path):
    _, events = fake
    folder = tmp_path / "killed"
    assert Child(fake_measure, folder, kill_at=events * 2 // 3).wait() == -9
    before = contents(folder)
    whole = {name for name in before if name.endswith(".parquet") and "/." not in name}
    written = {name: (folder / name).stat().st_mtime_ns for name in whole}
    assert len(written) > 3
    finished(Child(fake_measure, folder))
    after = contents(folder)
    for name in whole & after.keys():
        assert (folder / name).stat().st_mtime_ns == written[name], f"{name} was computed again"


def test_a_model_measured_under_kills_equals_one_that_was_not(real, tmp_path):
    whole, events = real
    draw = random.Random(2)
    folder = tmp_path / "killed"
    kills = [draw.randint(events // 8, events // 3) for _ in range(2)]
    assert killed_and_resumed(real_measure, folder, kills) == 2
    assert contents(folder) == contents(whole)


def test_kills_by_the_clock(fake, tmp_path):
    whole, _ = fake
    draw = random.Random(3)
    folder = tmp_path / "killed"
    for _ in range(5):
        child = Child(fake_measure, folder)
        time.sleep(draw.uniform(0.0, 0.6))
        child.process.kill()
        assert child.wait() in (-9, 0)
    finished(Child(fake_measure, folder))
    assert contents(folder) == contents(whole)


# --- several processes --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_processes_that_share_a_run_write_what_one_writes(fake, tmp_path, count):
    folder = tmp_path / "shared"
    assert together(fake_measure, folder, count) == ([0] * count, [""] * count)
    assert contents(folder) == contents(fake[0])


def test_a_run_killed_alone_is_finished_by_two(fake, tmp_path):
    folder = tmp_path / "shared"
    assert Child(fake_measure, folder, kill_at=fake[1] // 3).wait() == -9
    assert together(fake_measure, folder)[0] == [0, 0]
    assert contents(folder) == contents(fake[0])


def test_a_failure_in_one_process_ends_all_with_its_reason(fake, tmp_path):
    folder = tmp_path / "shared"
    codes, errors = together(fake_failing, folder)
    assert codes == [1, 1]
    assert errors[0] == "RunError: Process 2 of 2 failed: The answer is 42; ask again."
    assert errors[1] == "MeasureError: The answer is 42; ask again."
    finished(Child(fake_measure, folder))
    assert contents(folder) == contents(fake[0])


def test_a_process_that_is_killed_does_not_leave_the_other_waiting(fake, tmp_path):
    folder = tmp_path / "shared"
    codes, errors = together(fake_dying, folder)
    assert codes == [1, -9]
    assert "ended without a word" in errors[0]
    assert together(fake_measure, folder)[0] == [0, 0]
    assert contents(folder) == contents(fake[0])


@pytest.mark.long
@pytest.mark.slow
def test_accelerate_launch_measures_what_one_process_measures(real, tmp_path):
    folder = tmp_path / "launched"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--main_process_port", str(free_port())]
    command += ["-m", "attcot_analysis.cli", "measure"]
    command += [shipped(TESTBED_MODEL), shipped(TESTBED_PROBLEMS), "--out", folder, "--quiet"]
    command += ["--items", REAL_ITEMS, "--batch-size", REAL["batch_size"], "--dtype", "float32"]
    command += ["--max-new-tokens", REAL["max_new_tokens"], "--edits", *REAL["edits"]]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy_cot") == 1
    assert contents(folder) == contents(real[0])
    assert RunFolder.open(folder).manifest["processes"] == 2


def test_accelerate_on_cpus_without_mpi_says_that_it_is_alone(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.warns(UserWarning, match="only one process"), Shards.here() as shards:
        assert (shards.rank, shards.count, shards.main) == (0, 1, True)


# --- what is measured ---------------------------------------------------------------------------


def test_batches_see_the_items_outside_them(real):
    """Partners and swapped pictures are those of a call on all items at once."""
    run = RunFolder.open(real[0])
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    problems = load_problems(shipped(TESTBED_PROBLEMS), limit=REAL_ITEMS)
    written = run.read_table("answers_cot")["ids"].tolist()

    def check(name, at_once):
        order = at_once["item"].argsort(kind="stable")
        expected = at_once.iloc[order].reset_index(drop=True)
        found = run.read_table(name)
        assert_frame_equal(found, expected, check_dtype=False, rtol=1e-4, atol=1e-5)

    check("commitment", commitment(mllm, problems, written).table)
    check("access", visual_access(mllm, problems, written, sinks=True).table)
    at_once = dependence(
        mllm, problems, written, edits=REAL["edits"], max_new_tokens=REAL["max_new_tokens"]
    ).table
    check("dependence", at_once)
    assert set(at_once["edit"]) == {"twin", "swap"}


def test_what_else_is_asked_for_is_measured_batch_by_batch(real):
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    problems = load_problems(shipped(TESTBED_PROBLEMS), limit=4)
    settings = {"batch_size": 2, "max_new_tokens": REAL["max_new_tokens"]}
    extras = [name for name in EXTRAS if name not in ("behaviour", "perceptions")]
    tables = measure(mllm, problems, (*DEFAULT, *extras), **settings)
    assert list(tables) == [*TABLES, *extras]
    written = tables["answers_cot"]["ids"].tolist()
    for name, at_once in (
        ("answer_access", answer_access(mllm, problems, written).table),
        ("lens", lens_commitment(mllm, problems, written).table),
        ("divergence", token_divergence(mllm, problems, written, edit="blank").table),
        ("open_commitment", open_commitment(mllm, problems, written).table),
        ("patching", patching(mllm, problems, written).table),
    ):
        in_order = at_once.sort_values("item", kind="stable", ignore_index=True)
        assert_frame_equal(tables[name], in_order, check_dtype=False, rtol=1e-4, atol=1e-5)
    values = suite_values(tables, problems, model="tiny", seed=0)
    lost = values[values["metric"] == "delta_log_p_knockout"]["value"]
    assert len(lost) == 4 and lost.mean() > 0.5
    assert (values["metric"] == "patch_gap").sum() == 4


def test_behaviour_and_perceptions_are_measured_by_name(tmp_path, monkeypatch):
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    problems = load_problems(shipped(TESTBED_PROBLEMS), limit=4)
    some = {"probes": ("cue",), "max_new_tokens": REAL["max_new_tokens"]}
    monkeypatch.setattr(
        suite, "behaviour", lambda *args, **options: behaviour(*args, **options | some)
    )
    wrote = '1. A box <box>(0,0),(500,500)</box>. 2. {"bbox_2d": [0, 0, 900, 900]}.'
    monkeypatch.setattr(
        suite,
        "perceptions",
        lambda own, _, **given: perceptions(own, [[wrote]] * len(own), **given),
    )
    what = ("behaviour", "perceptions")
    run = measure_run(tmp_path / "run", mllm, problems, what, batch_size=2, max_new_tokens=40)
    written = run.read_table("answers_cot")["ids"].tolist()
    asked = behaviour(mllm, problems, written, batch_size=2, **some)
    assert_frame_equal(run.read_table("behaviour"), asked.table, check_dtype=False)
    said = perceptions(problems, [[wrote]] * 4, truth=None, unit="pixels")
    assert_frame_equal(run.read_table("perceptions"), said.table, check_dtype=False)
    expected = item_values(model=mllm.name, seed=0, results=[asked, said])
    values = run.read_table("values").set_index(["metric", "item"])["value"]
    assert {"cue_followed", "cue_null", "box_iou"} <= set(expected["metric"])
    for row in expected.itertuples():
        assert values[row.metric, row.item] == pytest.approx(row.value, nan_ok=True)


def test_without_a_folder_the_tables_are_the_same(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "Stages", FakeStages)
    monkeypatch.setattr(suite, "ResponseStages", FakeStages)
    tables = measure(None, generate_arrows(FAKE_ITEMS, seed=0), batch_size=3)
    assert list(tables) == list(TABLES)
    kept, run = RunFolder.open(fake[0]), RunFolder.create(tmp_path / "run", {"seed": 0})
    for name, table in tables.items():
        run.write_table(name, table)
        assert_frame_equal(kept.read_table(f"base-0.{name}"), run.read_table(name))


def test_the_run_says_what_it_was_made_with(real):
    run = RunFolder.open(real[0])
    assert {*TABLES, "values", "summary"} == set(run.tables)
    summary = run.read_table("summary").set_index("metric")
    assert {"accuracy_cot", "p0_final", "mass", "follow_twin"} <= set(summary.index)
    assert (summary["n_items"] <= REAL_ITEMS).all()
    model = run.manifest["models"]["model"]
    assert len(model["weights_sha256"]) == 64
    assert model["processor"]["image_processor"]["patch_size"] == 16
    assert len(model["processor"]["chat_template_sha256"]) == 64
    assert run.manifest["config"]["batch_size"] == REAL["batch_size"]
    assert str(shipped(TESTBED_MODEL).parent) not in (run.path / "manifest.json").read_text()


def test_maps_are_kept_beside_their_table(fake):
    run = RunFolder.open(fake[0])
    table = run.read_table("base-0.maps")
    arrays = run.read_arrays("base-0.maps")
    assert list(arrays) == table["item"].tolist()
    assert len(arrays) == sum(place % 3 > 0 for place in range(FAKE_ITEMS))
    assert {array.shape[:2] for array in arrays.values()} == {(2, 3)}


# --- refused ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(real):
    """The arguments that go on with the run of the fixture `real`."""
    given = [shipped(TESTBED_MODEL), shipped(TESTBED_PROBLEMS), "--out", real[0], "--quiet"]
    given += ["--items", REAL_ITEMS, "--batch-size", REAL["batch_size"], "--dtype", "float32"]
    given += ["--max-new-tokens", REAL["max_new_tokens"], "--edits", *REAL["edits"]]
    return ["measure", *map(str, given)]


def test_a_finished_run_is_read_not_measured_again(real, command, capsys):
    folders = [RunFolder(real[0]).parts(name).path for name in TABLES]
    tables = [path for folder in folders for path in folder.iterdir()]
    before = [path.stat().st_mtime_ns for path in tables]
    assert main(command) == 0
    assert [path.stat().st_mtime_ns for path in tables] == before
    out = capsys.readouterr().out
    assert "accuracy_cot" in out and "95 % interval" in out and str(real[0]) in out


def test_tables_that_are_added_equal_those_measured_together(testbed, tmp_path):
    given = (testbed.mllm, testbed.problems[:2])
    settings = {"layers": [1], "batch_size": 2, "max_new_tokens": 60}
    whole = measure_run(tmp_path / "whole", *given, ("answers", "direct", "access"), **settings)
    for what in (("direct",), ("answers",)):
        run = measure_run(tmp_path / "parts", *given, what, **settings)
    answers = next(run.parts("answers_cot").path.iterdir())
    before = answers.stat().st_mtime_ns
    # What is to be read on the responses is not held against settings of tables without any.
    run = measure_run(run.path, *given, ("access",), **settings)
    assert answers.stat().st_mtime_ns == before
    for name in (*whole.tables, "values", "summary"):
        assert_frame_equal(run.read_table(name), whole.read_table(name))
    assert set(run.tables) == set(whole.tables)
    assert run.manifest["config"] == whole.manifest["config"]
    assert "added" not in whole.manifest
    assert [entry["what"] for entry in run.manifest["added"]] == [["answers"], ["access"]]
    # A part of it asked for again takes nothing away; other settings are refused as ever.
    assert_frame_equal(
        measure_run(run.path, *given, ("direct",), **settings).read_table("values"),
        whole.read_table("values"),
    )
    with pytest.raises(RunError, match=r"config\.layers is \[1\], now it is \[2\]"):
        measure_run(run.path, *given, ("lens",), **{**settings, "layers": [2]})
    assert len(run.manifest["added"]) == 2


def test_what_needs_responses_is_not_measured_without_any(command, tmp_path, capsys):
    elsewhere = [*command, "--out", str(tmp_path / "new")]
    assert main([*elsewhere, "--only", "direct,dependence", "access"]) == 1
    assert "dependence, access cannot be measured alone" in capsys.readouterr().err
    assert main([*elsewhere, "--only", "everything"]) == 1
    assert "no measure 'everything'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "3"], r"config\.batch_size is 2, now it is 3; write to .*whole-2"),
        (["--items", "4"], r"it was begun with 3 items, now there are 4; write to .*whole-2"),
        (["--seed", "1"], r"seed is 0, now it is 1"),
        (["--dtype", "bfloat16"], r"config\.dtype is 'float32', now it is 'bfloat16'"),
    ],
)
def test_other_settings_are_refused(real, command, capsys, more, message):
    assert main([*command, *more]) == 1
    error = capsys.readouterr().err
    sentence = error[error.index("attcot: ") :]
    assert sentence.count("\n") == 1 and re.search(message, sentence)


def test_a_run_that_is_being_written_to_is_refused(real, command, capsys):
    with RunFolder.open(real[0]).locked():
        assert main(command) == 1
    assert f"another process (number {os.getpid()})" in capsys.readouterr().err
    manifest = RunFolder.open(real[0]).manifest
    assert main([*command, "--only", "dependence"]) == 0
    assert RunFolder.open(real[0]).manifest == manifest


def test_a_damaged_part_is_named_and_the_rest_is_kept(fake, tmp_path):
    folder = tmp_path / "killed"
    assert Child(fake_measure, folder, kill_at=fake[1] // 3).wait() == -9
    part = sorted((folder / "tables").rglob("*.parquet"))[-1]
    part.write_bytes(part.read_bytes()[:-9])
    child = Child(fake_measure, folder)
    assert child.wait() == 1
    assert child.error.startswith(f"RunError: {part} is damaged")
    part.unlink()
    finished(Child(fake_measure, folder))
    assert contents(folder) == contents(fake[0])


def test_parts_of_other_batches_are_refused(tmp_path):
    problems = generate_arrows(4, seed=0)
    run = RunFolder.create(tmp_path / "run", {"seed": 0})
    part = FakeStages(None, problems, Settings()).answers([1, 2], "cot")
    names = [problem.id for problem in problems]
    run.parts("answers_cot").write(0, [[1, 2], [0, 3]], names, part)
    with pytest.raises(RunError, match="made with another batch_size"):
        measure(None, problems, batch_size=2, run=run)


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        (0, {}, "at least one"),
        (2, {"what": (*DEFAULT, "maps")}, "need a run folder"),
        (2, {"shards": Shards(0, 2)}, "need a run folder"),
        (2, {"batch_size": 0}, "batch_size is 0"),
        (2, {"controls": ("filler",)}, "add 'rationale'"),
        (2, {"controls": ("rationale", "noise")}, "controls is .* choose from rationale, filler"),
        (2, {"edits": ("melt",)}, "no edit .melt.; choose one of twin, control"),
        (2, {"what": ("dreams",)}, "no measure 'dreams'; choose from responses, answers, direct"),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_once(items, settings, message):
    with pytest.raises(MeasureError, match=message):
        measure(None, generate_arrows(2, seed=0)[:items], **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [99]}, "choose from 0 to 3"),
        ({"controls": ("rationale", "permuted")}, "lists no options by letters"),
        ({"controls": ("rationale", "rationale")}, "name each once"),
        ({"edits": ("swap", "swap")}, "name each once"),
        ({"edits": ("swap",)}, "say which one the edit 'swap' is of"),
        ({"what": (*DEFAULT, "divergence")}, "and divergence is defined for one"),
    ],
)
def test_what_would_be_refused_later_is_refused_before_responses_are_kept(
    testbed, tmp_path, settings, message
):
    one, other = testbed.problems[:2]
    several = Problem("two", one.image, one.question, one.candidates, one.answer)
    problems = [replace(several, more_images=(other.image,)), other]
    with pytest.raises(MeasureError, match=message):
        measure_run(tmp_path / "run", testbed.mllm, problems, **settings)
    assert not (tmp_path / "run").exists()


def test_responses_alone_are_no_failure_and_no_report(tmp_path, capsys):
    out, model = tmp_path / "run", str(shipped(TESTBED_MODEL))
    command = ["measure", model, str(shipped(TESTBED_PROBLEMS)), "--out", str(out), "--quiet"]
    command += ["--items", "2", "--max-new-tokens", "5", "--only", "responses"]
    assert main([*command, "--batch-size", "0"]) == 1
    assert "batch_size is 0" in capsys.readouterr().err and not out.exists()
    assert main(command) == 0 and (out / "responses.jsonl").is_file()
    assert main(["report", str(out)]) == 1
    assert "holds responses and no answers with a rationale" in capsys.readouterr().err


def test_an_edit_asked_for_that_no_item_allows_is_said(random_mllm):
    problems = generate_arrows(2, seed=0)
    text = "<think>\n1. The star is in cell a1.\n</think>\n<answer>red</answer>"
    responses = [random_mllm.tokenizer(text)["input_ids"]] * 2
    stages = Stages(random_mllm, problems, Settings(edits=("blank", "blank@2")))
    with pytest.warns(UserWarning, match="No item allows the edit blank@2, so dependence has no"):
        assert ResponseStages(stages, responses).edits == ["blank"]


def test_open_answers_of_a_resumed_run_go_on_from_what_access_ran(testbed, tmp_path):
    """Two questions about one picture: alone, the second would go on behind the first."""
    one, other = testbed.problems[:2]
    problems = [one, replace(one, id="again", question=other.question)]
    problems.append(replace(other, question=f"What colour is at {other.question}"))
    what, folders = ("access", "open_commitment"), [tmp_path / "whole", tmp_path / "resumed"]
    for folder in folders:
        measure_run(folder, testbed.mllm, problems, what)
    (part,) = (folders[1] / "tables" / "open_commitment").iterdir()
    part.unlink()
    measure_run(folders[1], testbed.mllm, problems, what)
    assert contents(folders[0]) == contents(folders[1])


def test_an_item_given_twice_is_refused():
    problems = generate_arrows(2, seed=0)
    with pytest.raises(MeasureError, match=f"{problems[1].id} is there twice"):
        measure(None, [*problems, problems[1]])


def test_a_missing_problem_folder_is_named(tmp_path, capsys):
    arguments = ["measure", str(shipped(TESTBED_MODEL)), str(tmp_path / "no"), "--out"]
    assert main([*arguments, str(tmp_path / "run")]) == 1
    assert "There is no folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_own_problems_without_edits_are_measured(tmp_path):
    shown = load_problems(shipped(TESTBED_PROBLEMS), limit=8)
    pair = [shown[0], next(problem for problem in shown if problem.answer != shown[0].answer)]
    bare = [replace(problem, twin=None, control=None) for problem in pair]
    save_problems(bare, tmp_path / "own")
    arguments = ["measure", str(shipped(TESTBED_MODEL)), str(tmp_path / "own"), "--quiet"]
    arguments += ["--out", str(tmp_path / "run"), "--edits", "twin", "control"]
    arguments += ["--max-new-tokens", "40", "--dtype", "float32"]
    assert main(arguments) == 0
    run = RunFolder.open(tmp_path / "run")
    assert len(run.read_table("dependence")) == 0
    assert "follow_twin" not in set(run.read_table("summary")["metric"])
    assert "mass" in set(run.read_table("summary")["metric"])


def test_answers_are_measured_where_no_response_has_a_rationale(tmp_path, capsys):
    save_problems(load_problems(shipped(TESTBED_PROBLEMS), limit=4), tmp_path / "own")
    run, arguments = tmp_path / "run", ["--quiet", "--dtype", "float32", "--maps"]
    # Cut off before its first step.
    arguments += ["--max-new-tokens", "1", "--out", str(run)]
    with pytest.warns(UserWarning, match="None of the 4 responses has a rationale step"):
        assert (
            main(["measure", str(shipped(TESTBED_MODEL)), str(tmp_path / "own"), *arguments]) == 0
        )
    metrics = set(RunFolder.open(run).read_table("summary")["metric"])
    assert {"accuracy_cot", "accuracy_direct"} <= metrics
    assert not {"mass", "commitment_position"} & metrics
    assert len(RunFolder.open(run).read_table("commitment")) == 0
    assert main(["report", str(run), "--quiet"]) == 0
    both = ["compare", str(run), str(run), "--names", "a", "b", "--quiet", "--no-models"]
    assert main([*both, "--out", str(tmp_path / "both")]) == 0


def test_one_rationale_alone_has_no_other_items_to_be_held_against(random_mllm):
    shown = load_problems(shipped(TESTBED_PROBLEMS), limit=8)
    problems = [shown[0], next(one for one in shown if one.answer != shown[0].answer)]
    own = "<think>\n1. Cell b1 holds a red circle.\n</think>\n<answer>red</answer>"
    ids = [
        random_mllm.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (own, "<answer>blue</answer>")
    ]
    with pytest.warns(UserWarning, match=r"\(1 of 2\) are all .* other_item is left out"):
        rest = ResponseStages(Stages(random_mllm, problems), ids)
    found = rest.commitment([0, 1]).rows
    assert set(found["item"]) == {problems[0].id}
    assert set(found["control"]) == {"rationale", "filler"}
