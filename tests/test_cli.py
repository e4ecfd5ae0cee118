"""The command line: what it makes, and how it says what went wrong."""

import pytest

from attcot_analysis import __version__
from attcot_analysis.cli import main
from attcot_analysis.problems.folder import load_problems


def test_problems_are_written_and_read_back(tmp_path, capsys):
    folder = tmp_path / "arrows"
    assert main(["testbed", "problems", str(folder), "--items", "3", "--set", "hops=1"]) == 0
    assert str(folder) in capsys.readouterr().out
    problems = load_problems(folder)
    assert len(problems) == 3 and len(problems[0].steps) == 2


def test_an_error_is_one_sentence_and_exit_code_one(tmp_path, capsys):
    folder = tmp_path / "arrows"
    assert main(["testbed", "problems", str(folder), "--items", "2", "--set", "hops=99"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("attcot: 99 hops do not fit") and "Traceback" not in error
    assert not folder.exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    folder = tmp_path / "arrows"
    arguments = ["testbed", "problems", str(folder), "--items", "2"]
    assert main(arguments) == 0
    assert main(arguments) == 1
    assert "exist" in capsys.readouterr().err or folder.exists()


def test_an_interrupt_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("attcot_analysis.problems.folder.save_problems", stop)
    assert main(["testbed", "problems", str(tmp_path / "x"), "--items", "1"]) == 130
    assert "go on" in capsys.readouterr().err


def test_missing_data_folder_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ATTCOT_DATA", str(tmp_path / "nowhere"))
    assert main(["reproduce", "--out", str(tmp_path / "run")]) == 1
    assert "ATTCOT_DATA" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["testbed", "build", "--help"], ["--version"]])
def test_help_and_version(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    assert (__version__ if arguments == ["--version"] else "usage: attcot") in (
        capsys.readouterr().out
    )


def test_a_command_is_required(capsys):
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
