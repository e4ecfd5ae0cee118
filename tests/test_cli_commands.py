"""The commands of the whole road: logs, exit codes, doctor, generate, report."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from tqdm.auto import tqdm

from attcot_analysis import __version__, doctor
from attcot_analysis.cli import main
from attcot_analysis.cli.exits import MEANINGS, Exit
from attcot_analysis.cli.logs import json_log
from attcot_analysis.doctor import Finding, examine, fits, holds, unmet, weights
from attcot_analysis.errors import MeasureError, RunError
from attcot_analysis.models import encode_problem, generate, load_mllm
from attcot_analysis.presets import presets
from attcot_analysis.problems import ArrowsConfig, generate_arrows
from attcot_analysis.problems.folder import save_problems
from attcot_analysis.runs.responses import generate_run, response_file
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import REFERENCE_RESULTS, TESTBED_MODEL, config_file, shipped
from attcot_analysis.show.report.compare import report_run

ROOT = Path(__file__).parents[1]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- exit codes and logs ------------------------------------------------------------------------


def test_every_exit_code_has_a_meaning_in_the_help_and_the_docs(capsys):
    assert set(MEANINGS) == set(Exit)
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for code, meaning in MEANINGS.items():
        assert f"{int(code)} {meaning}" in told
        assert f"| {int(code)} | {meaning} |" in page


def test_the_help_is_one_page_and_names_the_whole_road(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 60
    road = "doctor demo check-model generate measure finetune compare report run grid"
    assert all(f"\n    {command}" in page for command in road.split())


def test_a_log_says_how_a_command_began_and_ended(tmp_path, capsys):
    log = tmp_path / "logs" / "log.jsonl"
    arguments = ["testbed", "problems", str(tmp_path / "p"), "--items", "2", "--log-json", str(log)]
    assert main(arguments) == Exit.DONE
    assert main(arguments) == Exit.ERROR
    first, second, third, error, last = lines(log)
    assert (first["event"], first["command"], first["version"]) == ("start", "testbed", __version__)
    assert first["options"]["items"] == 2
    assert (second["event"], second["exit_code"], third["event"]) == ("end", 0, "start")
    assert (error["event"], error["kind"]) == ("error", "ProblemError")
    assert error["message"] in capsys.readouterr().err
    assert (last["event"], last["exit_code"]) == ("end", 1) and last["seconds"] >= 0


def test_bars_become_lines_of_the_log_and_are_bars_again_afterwards(tmp_path, capsys):
    before = tqdm.display
    with json_log(str(tmp_path / "log")):
        for _ in tqdm(range(3), desc="items", disable=False):
            pass
        for _ in tqdm(range(2), desc="more", disable=False):
            pass
    assert tqdm.display is before
    found = [(line["what"], line["done"], line["total"]) for line in lines(tmp_path / "log")]
    assert found == [("items", 0, 3), ("items", 3, 3), ("more", 0, 2), ("more", 2, 2)]
    done = lines(tmp_path / "log")[1]
    assert done["rate"] > 0 and done["remaining"] == 0 and done["unit"] == "it"
    assert capsys.readouterr().err == ""


def test_a_log_that_cannot_be_written_is_an_error(tmp_path, capsys):
    assert main(["doctor", "--presets", "--log-json", str(tmp_path)]) == Exit.ERROR
    assert "cannot be written" in capsys.readouterr().err


def test_an_unforeseen_error_is_raised_and_logged(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("attcot_analysis.doctor.examine", fail)
    with pytest.raises(ZeroDivisionError):
        main(["doctor", "--log-json", str(tmp_path / "log")])
    assert [line["event"] for line in lines(tmp_path / "log")] == ["start", "error", "end"]


def test_out_of_memory_has_a_code_and_a_remedy(monkeypatch, capsys):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("attcot_analysis.doctor.examine", fail)
    assert main(["doctor"]) == Exit.NO_ROOM
    assert "--batch-size" in capsys.readouterr().err


def test_bars_are_left_out_where_nobody_watches(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "attcot_analysis.cli.start._doctor", lambda given, quiet: seen.append(quiet)
    )
    for value in ("", "true", "0", "1"):
        monkeypatch.setenv("CI", value)
        main(["doctor"])
    assert seen == [False, True, False, True]


# --- doctor -------------------------------------------------------------------------------------


def test_the_doctor_finds_this_installation_sound(capsys):
    code = main(["doctor", str(shipped(TESTBED_MODEL)), "--json"])
    found = {one["about"]: one for one in json.loads(capsys.readouterr().out)}
    assert code == Exit.DONE, found
    assert found["model"]["detail"].endswith("family qwen2_5_vl")
    assert found["to measure"]["word"] == "ok" and found["torch"]["word"] == "ok"


def test_something_that_would_fail_is_said_and_has_a_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATTCOT_CONFIGS", str(tmp_path / "gone"))
    monkeypatch.setattr(doctor, "_packages", lambda: iter(()))
    assert main(["doctor"]) == Exit.DOES_NOT_HOLD
    told = capsys.readouterr().out
    assert "fails configs" in told and "1 things would fail" in told


def test_requirements_are_held_against_what_is_installed(monkeypatch):
    assert unmet(Requirement("numpy>=1.26")) == ""
    assert "99" in unmet(Requirement("numpy>=99"))
    assert unmet(Requirement("surely-not-there>=1")) == "is not installed"
    monkeypatch.setattr(
        doctor.metadata, "requires", lambda _: ["numpy>=99", 'surely-not; extra == "train"']
    )
    monkeypatch.setattr(doctor.metadata, "version", lambda _: "1.0")
    found = {one.about: one.word for one in doctor._packages()}
    assert found["numpy"] == "fails" and found["[train]"] in ("ok", "note")


def test_memory_is_reckoned_with_weights_and_training(tmp_path):
    mllm = load_mllm(shipped(TESTBED_MODEL))
    count, size = weights(shipped(TESTBED_MODEL))
    stored = sum(one.numel() for one in mllm.model.state_dict().values())
    # Tied weights are stored once and counted twice in the state.
    assert 0.5 * stored < count <= stored and size >= 2 * count
    words = [one.word for one in fits(1e9, 2e9, ("a card", 2.7e9))]
    assert words == ["ok", "note"]
    assert [one.word for one in fits(1e9, 2e9, ("a card", 2.5e9))] == ["fails", "note"]
    assert list(fits(1.0, 2.0, None)) == []
    assert weights(tmp_path) == (0.0, 0.0)
    assert not holds(examine(tmp_path)) and holds([Finding("a", "note", "b")])


def test_presets_are_listed(capsys):
    assert main(["doctor", "--presets"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(presets())


# --- generate and report ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def problems():
    return generate_arrows(3, ArrowsConfig(hops=1), seed=5)


def test_generate_keeps_what_the_model_says_by_itself(random_mllm, problems, tmp_path):
    folder = tmp_path / "run"
    options = {"batch_size": 2, "max_new_tokens": 6}
    run = generate_run(folder, random_mllm, problems, **options)
    prompts = [encode_problem(random_mllm, problem) for problem in problems]
    plain = generate(random_mllm, prompts, max_new_tokens=6, batch_size=2)
    found = lines(response_file(run))
    assert [one["id"] for one in found] == [problem.id for problem in problems]
    assert [tuple(one["ids"]) for one in found] == [one.ids for one in plain]
    assert [one["finish_reason"] == "stop" for one in found] == [one.finished for one in plain]
    with pytest.raises(RunError, match="no sample 1"):
        response_file(run, 1)


def test_generate_goes_on_and_samples_differ(random_mllm, problems, tmp_path, monkeypatch):
    options = {"samples": 2, "temperature": 1.0, "batch_size": 2, "max_new_tokens": 6}
    whole = generate_run(tmp_path / "whole", random_mllm, problems, **options)
    texts = [[one["ids"] for one in lines(response_file(whole, sample))] for sample in (0, 1)]
    assert texts[0] != texts[1]

    from attcot_analysis.runs.records import Records

    write, calls = Records.write, []

    def stop(self, *given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, *given)

    monkeypatch.setattr(Records, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        generate_run(tmp_path / "cut", random_mllm, problems, **options)
    done = generate_run(tmp_path / "cut", random_mllm, problems, **options)
    assert len(calls) == 3
    for sample in (0, 1):
        files = [response_file(run, sample).read_bytes() for run in (whole, done)]
        assert files[0] == files[1]


@pytest.mark.parametrize("wrong", [{"samples": 2}, {"samples": 0}, {"batch_size": 0}])
def test_generate_refuses_what_makes_no_sense(random_mllm, problems, tmp_path, wrong):
    with pytest.raises(MeasureError):
        generate_run(tmp_path / "run", random_mllm, problems, **wrong)
    assert not (tmp_path / "run").exists()


def test_measure_then_report(tmp_path, capsys):
    folder = tmp_path / "problems"
    save_problems(generate_arrows(3, ArrowsConfig(hops=1, noise=240.0), seed=5), folder)
    run = tmp_path / "run"
    command = ["measure", str(shipped(TESTBED_MODEL)), str(folder), "--out", str(run), "--maps"]
    assert main([*command, "--layers", "1-2", "--device", "cpu", "--controls", "rationale"]) == 0
    assert RunFolder.open(run).manifest["config"]["layers"] == [1, 2]
    assert main(["report", str(run), "--examples", "1"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Where it looks on arrows" in page and "Only 3 items" in page
    assert "Paired comparisons" not in page and "and its difference from" not in page
    assert (run / "figures").is_dir()
    assert main(["report", str(run)]) == Exit.ERROR
    assert "--overwrite" in capsys.readouterr().err
    with pytest.raises(RunError, match="no run that can be compared"):
        report_run(shipped(REFERENCE_RESULTS), tmp_path / "page.html")
    shutil.rmtree(run / "tables")
    assert main(["report", str(run), "--overwrite"]) == Exit.ERROR


def test_shipped_run_files_and_presets_are_yaml():
    for path in [config_file("presets.yaml"), *config_file("runs").glob("*.yaml")]:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)
