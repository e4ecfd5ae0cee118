"""The commands: exit codes, doctor, generate, report."""

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from attcot_analysis import doctor
from attcot_analysis.cli import MEANINGS, Exit, main
from attcot_analysis.doctor import Finding, examine, fits, holds, weights
from attcot_analysis.errors import MeasureError, RunError
from attcot_analysis.models import encode_problem, generate, load_mllm
from attcot_analysis.presets import presets
from attcot_analysis.problems.folder import save_problems
from attcot_analysis.runs.measure import measure_run, response_file
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import (
    REFERENCE_RESULTS,
    TESTBED_MODEL,
    TESTBED_PROBLEMS,
    config_file,
    shipped,
)
from attcot_analysis.show.report.compare import report_run
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

ROOT = Path(__file__).parents[1]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- exit codes ---------------------------------------------------------------------------------


def test_every_exit_code_has_a_meaning_in_the_help_and_the_docs(capsys):
    assert set(MEANINGS) == set(Exit)
    assert main(["--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for code, meaning in MEANINGS.items():
        assert f"{int(code)} {meaning}" in told
        assert f"| {int(code)} | {meaning} |" in page


def test_the_help_is_one_page_and_names_the_whole_road(capsys):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert len(page.splitlines()) <= 55
    road = "doctor demo check-model generate measure finetune compare report run grid"
    assert all(f"\n│ {command} " in page for command in road.split())


def test_an_unexpected_error_is_raised(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("attcot_analysis.doctor.examine", fail)
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        # As torch says it of main memory.
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: can't allocate memory"
        ),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_has_a_code_and_a_remedy(monkeypatch, capsys, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("attcot_analysis.doctor.examine", fail)
    assert main(["doctor"]) == Exit.NO_ROOM
    assert "--batch-size" in capsys.readouterr().err


def test_a_termination_is_an_interrupt(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def stop(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("attcot_analysis.doctor.examine", stop)
    assert main(["doctor"]) == Exit.INTERRUPTED
    assert capsys.readouterr().err == "attcot: interrupted; run the same command again to resume.\n"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(("world", "said"), [("", True), ("1", True), ("2", False)])
def test_only_of_several_processes_the_first_speaks(monkeypatch, capsys, world, said):
    """A cluster's shell may have RANK set where only one process runs."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", world)
    assert main(["report", "nowhere"]) == Exit.ERROR
    assert bool(capsys.readouterr().err) == said


@pytest.mark.parametrize("world", ["abc", "0", "-1", "1.5", "\u0663"])
def test_a_number_of_processes_that_is_none_is_a_sentence(monkeypatch, capsys, tmp_path, world):
    monkeypatch.setenv("WORLD_SIZE", world)
    run = ["generate", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(run) == Exit.ERROR
    assert f"WORLD_SIZE is {world!r} in the environment" in capsys.readouterr().err


def test_bars_are_left_out_where_nobody_watches(monkeypatch):
    seen = []

    def build(names, out, *, progress, **_):
        seen.append(progress)
        return []

    monkeypatch.setattr("attcot_lab.testbed.named.build_models", build)
    for value in ("", "true", "0", "1"):
        monkeypatch.setenv("CI", value)
        assert main(["testbed", "build"]) == Exit.DONE
    monkeypatch.setenv("CI", "")
    assert main(["testbed", "build", "--quiet"]) == Exit.DONE
    assert seen == [True, False, True, False, False]


# --- doctor -------------------------------------------------------------------------------------


def test_the_doctor_finds_this_installation_sound(capsys):
    code = main(["doctor", str(shipped(TESTBED_MODEL)), "--json"])
    found = {one["about"]: one for one in json.loads(capsys.readouterr().out)}
    assert code == Exit.DONE, found
    assert found["model"]["detail"].endswith("family qwen2_5_vl")
    assert found["to measure"]["word"] == "ok" and found["torch"]["word"] == "ok"


def test_something_that_would_fail_is_said_and_has_a_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATTCOT_CONFIGS", str(tmp_path / "gone"))
    monkeypatch.setattr(doctor, "_versions", lambda: iter(()))
    assert main(["doctor"]) == Exit.DOES_NOT_HOLD
    told = capsys.readouterr().out
    assert "fails configs" in told and "1 things would fail" in told


def test_memory_is_estimated_from_weights_and_training(tmp_path):
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
    run = measure_run(folder, random_mllm, problems, ("responses",), **options)
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
    whole = measure_run(tmp_path / "whole", random_mllm, problems, ("responses",), **options)
    texts = [[one["ids"] for one in lines(response_file(whole, sample))] for sample in (0, 1)]
    assert texts[0] != texts[1]

    from attcot_analysis.runs.parts import Parts

    write, calls = Parts.write, []

    def stop(self, *given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(self, *given)

    monkeypatch.setattr(Parts, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        measure_run(tmp_path / "cut", random_mllm, problems, ("responses",), **options)
    done = measure_run(tmp_path / "cut", random_mllm, problems, ("responses",), **options)
    assert len(calls) == 3
    for sample in (0, 1):
        files = [response_file(run, sample).read_bytes() for run in (whole, done)]
        assert files[0] == files[1]


@pytest.mark.parametrize("wrong", [{"samples": 2}, {"samples": 0}, {"batch_size": 0}])
def test_generate_refuses_what_makes_no_sense(random_mllm, problems, tmp_path, wrong):
    with pytest.raises(MeasureError):
        measure_run(tmp_path / "run", random_mllm, problems, ("responses",), **wrong)
    assert not (tmp_path / "run").exists()


def test_a_run_says_first_what_its_pictures_cost_and_keeps_the_limit(tmp_path, capsys):
    folder = tmp_path / "problems"
    save_problems(generate_arrows(2, ArrowsConfig(hops=1), seed=5), folder)
    command = ["generate", str(shipped(TESTBED_MODEL)), str(folder), "--device", "cpu"]
    command += ["--max-new-tokens", "4"]
    for name, limit, tokens in (("own", [], 36), ("less", ["--max-pixels", "4096"], 16)):
        assert main([*command, "--out", str(tmp_path / name), *limit]) == 0
        first = capsys.readouterr().out.splitlines()[0]
        assert first == f"Image tokens per picture: {tokens}."
    manifest = RunFolder.open(tmp_path / "less").manifest
    assert manifest["models"]["model"]["limits"] == {"max_pixels": 4096}
    assert "limits" not in RunFolder.open(tmp_path / "own").manifest["models"]["model"]
    assert main([*command, "--out", str(tmp_path / "less")]) == Exit.ERROR
    assert "limits" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "no"), "--max-patches", "4"]) == Exit.ERROR
    assert "give max_pixels" in capsys.readouterr().err
    assert main([*command, "--requests", str(tmp_path / "r"), "--sampling", "recommended"]) == 1
    assert "--temperature" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "no"), "--sampling", "recommended"]) == 1
    assert "recommends no sampling" in capsys.readouterr().err


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


def test_shipped_plans_and_presets_are_yaml():
    for path in [config_file("presets.yaml"), *config_file("plans").glob("*.yaml")]:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_a_planted_failure_is_no_fine_tuning_on_one_s_problems(tmp_path, capsys):
    problems = str(shipped(TESTBED_PROBLEMS))
    arguments = [str(shipped(TESTBED_MODEL)), problems, "--out", str(tmp_path / "model")]
    assert main(["finetune", *arguments, "--arm", "planted/blind"]) == Exit.ERROR
    assert "plants a failure with problems of its own" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize("command", ["report run", "figures run", "testbed problems x"])
def test_seeds_that_are_none_are_refused_before_anything_is_done(command, seed, capsys):
    assert main([*command.split(), "--seed", str(seed)]) == Exit.USAGE
    assert f"--seed is {seed}; give 0 to 4294967295" in capsys.readouterr().err
