"""The command line: what it makes, and how it says what went wrong."""

import os
import re
import subprocess
import sys

import pytest

from attcot_analysis import __version__
from attcot_analysis.cli import command_line, exit_of, main, run_folders
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


@pytest.mark.parametrize("hidden", [False, True])
def test_an_interrupt_says_how_to_resume(tmp_path, capsys, monkeypatch, hidden):
    def stop(*_, **__):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            if hidden:
                raise RuntimeError("Error calling __set_name__") from error
            raise

    monkeypatch.setattr("attcot_analysis.problems.folder.save_problems", stop)
    assert main(["testbed", "problems", str(tmp_path / "x"), "--items", "1"]) == 130
    assert "resume" in capsys.readouterr().err


def test_an_error_that_is_its_own_cause_ends():
    error = RuntimeError("again")
    error.__cause__ = error
    assert exit_of(error) is None


def test_missing_data_folder_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ATTCOT_DATA", str(tmp_path / "nowhere"))
    assert main(["reproduce", "--out", str(tmp_path / "run")]) == 1
    assert "ATTCOT_DATA" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["testbed", "build", "--help"], ["--version"]])
def test_help_and_version(arguments, capsys):
    assert main(arguments) == 0
    assert (__version__ if arguments == ["--version"] else "Usage: attcot") in (
        capsys.readouterr().out
    )


def test_a_command_is_required(capsys):
    assert main([]) == 2
    assert capsys.readouterr().err == "attcot: Missing command. See `attcot --help`.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mesure"], "No such command 'mesure'. Did you mean 'measure'? See `attcot --help`."),
        (["testbed", "claim"], "Did you mean 'claims'? See `attcot testbed --help`."),
        (["report", "run", "--exampels", "1"], "Did you mean --examples? See `attcot report --h"),
        (["report", "run", "--examples", "x"], "Invalid value for '--examples': "),
        (["report"], "Missing argument 'RUN'. See `attcot report --help`."),
        (["report", "run", "more"], "unexpected extra argument(s) (more). See"),
        (["generate", "m", "p"], "give one of --out and --requests. See `attcot generate --help`"),
        (["generate", "m", "p", "--out", "a", "--requests", "b"], "give one of --out and"),
        (["generate", "m", "p", "--out", "a", "--mode", "x"], "Invalid value for '--mode': "),
    ],
)
def test_a_mistyped_command_line_is_one_sentence_with_what_may_be_meant(
    arguments, sentence, capsys, monkeypatch
):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("attcot: ") and sentence in output.err
    assert output.err.count("\n") == 1 and output.out == ""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(arguments) == 2 and capsys.readouterr().err == ""


def test_an_option_that_is_a_list_takes_several_words():
    def read(*words):
        command = command_line().commands["measure"]
        return command.make_context("measure", ["m", "p", "--out", "r", *words]).params

    options = read("--also", "causal", "lens", "--layers", "1-2", "5", "--maps", "--edits", "twin")
    assert options["extras"] == ["causal", "lens"] and options["layers"] == ["1-2", "5"]
    assert options["edits"] == ["twin"] and options["maps"] and not options["controls"]
    assert read("--edits", "twin", "--edits=blank")["edits"] == ["twin", "blank"]
    assert read("--also", "lens", "--", *())["extras"] == ["lens"]


def test_what_reads_the_output_may_stop_reading():
    """As ``| head`` does: neither a traceback nor a complaint when Python ends."""
    code = "import sys, time; from attcot_analysis.cli import main; sys.stdin.read(1);"
    for arguments, unbuffered in (("['--version']", ""), ("['--version']", "1"), ("['-h']", "")):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{code} sys.exit(main({arguments}))"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        process.stdout.close()
        assert process.communicate(b"x")[1] == b"" and process.returncode == 141


def test_a_pipe_that_breaks_elsewhere_is_no_end_of_reading(monkeypatch):
    def fail(*_, **__):
        raise BrokenPipeError("a worker's")

    monkeypatch.setattr("attcot_analysis.cli.command_line", lambda: fail)
    with pytest.raises(BrokenPipeError, match="a worker's"):
        main(["doctor"])


def test_the_home_folder_is_found_wherever_a_path_begins(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(
        "attcot_analysis.cli.command_line", lambda: lambda words, **_: seen.extend(words)
    )
    kept = ["a~/b", "~x", "--prompt", "is it ~ 3?"]
    assert main(["~/a", "--out=~/b", "~/c,~/d", "~", *kept]) == 0
    home = str(tmp_path)
    assert seen == [f"{home}/a", f"--out={home}/b", f"{home}/c,{home}/d", home, *kept]


def test_a_comma_in_the_name_of_a_run_joins_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "c", "d"):
        (tmp_path / name).mkdir()
    for word, folders in (
        ("a,b", ["a,b"]),
        ("c,d", ["c", "d"]),
        ("c,a,b,d", ["c", "a,b", "d"]),
        ("no,such", ["no", "such"]),
    ):
        assert run_folders(word) == folders
    (tmp_path / "c,d").mkdir()
    assert run_folders("c,d") == ["c,d"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["measure", "models/tinny", "p", "--out", "r"], "no folder p"),
        (["measure", "qwen2.5-vl-7", "models", "--out", "r"], "the preset qwen2.5-vl-7b?"),
        (["report", "model"], "There is no folder model; did you mean models?"),
        (["compare", "model", "models", "--out", "r"], "There is no folder model; did you"),
        (["data", "convert", "nowhere.jsonl", "--out", "r"], "nowhere.jsonl"),
    ],
)
def test_a_mistyped_path_is_a_sentence_about_it(arguments, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def leaves(group, *names):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, *names, name)
        else:
            yield [*names, name], command


@pytest.mark.parametrize(
    ("names", "command"),
    [pytest.param(*leaf, id="-".join(leaf[0])) for leaf in leaves(command_line())],
)
def test_every_command_says_all_of_its_help(names, command, capsys, monkeypatch):
    """Rich reads what stands in square brackets as a style and would leave it out."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*names, "--help"]) == 0
    page = re.sub(r"[\s│]", "", capsys.readouterr().out)
    for text in (command.help, *(option.help for option in command.params if option.help)):
        assert all(word in page for word in text.split()), text
    assert {"--quiet"} <= {name for option in command.params for name in option.opts}


def test_help_imports_nothing_heavy():
    code = "import sys; from attcot_analysis.cli import main; main(['measure', '--help'])\n"
    code += "print({'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_completion_names_the_commands():
    environment = {**os.environ, "_ATTCOT_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from attcot_analysis.cli import main; main()"],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "COMP_WORDS": "attcot d"},
    )
    assert done.stdout.split() == ["doctor", "data", "demo"]
