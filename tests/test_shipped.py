"""What ships is found in a checkout and in a wheel, where it lies inside the package."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools import Distribution

from attcot_analysis import shipped
from attcot_analysis.cli import main
from attcot_analysis.errors import RunError
from attcot_analysis.problems.folder import load_problems
from attcot_lab.demo import RUN_FILE, TRAINING, TRAINING_ITEMS, write_demo

ROOT = Path(__file__).parents[1]


def build_step():
    """The module setup.py, which is not on the path."""
    spec = importlib.util.spec_from_file_location("attcot_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The tree that goes into a wheel."""
    folder = tmp_path_factory.mktemp("build")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        step = build_step()
        distribution = Distribution({"script_name": "setup.py"})
        distribution.parse_config_files(["pyproject.toml"])
        command = step.BuildWithShipped(distribution)
        command.build_lib = str(folder)
        command.ensure_finalized()
        command.run()
        outputs = {Path(path) for path in command.get_outputs(include_bytecode=False)}
    finally:
        os.chdir(before)
    return folder, outputs


def test_the_wheel_holds_everything_that_ships_byte_for_byte(built):
    folder, outputs = built
    inside = folder / "attcot_analysis" / "_shipped"
    for name in ("data", "configs", "notebooks"):
        sources = [path for path in (ROOT / name).rglob("*") if path.is_file()]
        wanted = [p for p in sources if not any(q[0] in "._" for q in p.relative_to(ROOT).parts)]
        assert wanted
        for path in wanted:
            copy = inside / path.relative_to(ROOT)
            assert copy.read_bytes() == path.read_bytes()
            assert copy in outputs
    for package in ("attcot_analysis", "attcot_lab"):
        files = {path for path in (ROOT / package).rglob("*.*") if path.is_file()}
        wanted = {path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts}
        assert wanted and {path for path in wanted if not (folder / path).is_file()} == set()
        assert {path.suffix for path in wanted} >= {".py", ".pyi", ".typed", ".yaml", ".j2"}


def test_what_the_wheel_holds_is_found_without_the_checkout(built, tmp_path):
    folder, _ = built
    code = (
        "import sys\n"
        "from attcot_analysis.shipped import config_file, notebook_folder, shipped, TESTBED_MODEL\n"
        "from attcot_analysis.presets import presets\n"
        "print(shipped(TESTBED_MODEL)); print(config_file('arms/att_cot.yaml').is_file())\n"
        "print(len(list(notebook_folder().glob('*.ipynb'))) > 5, len(presets()) > 5)\n"
        "print({'torch', 'transformers', 'pandas'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    model, arm, others, imported = done.stdout.splitlines()
    assert Path(model).is_relative_to(folder / "attcot_analysis" / "_shipped")
    assert (arm, others, imported) == ("True", "True True", "set()")


def test_a_source_distribution_names_the_same_files():
    step = build_step()
    named = set(step.shipped_files())
    assert "data/problems/arrows/problems.jsonl" in named
    assert "notebooks/00_start_here.ipynb" in named and "configs/presets.yaml" in named
    assert not any(part.startswith((".", "_")) for name in named for part in name.split("/"))


def test_without_data_a_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "attcot_analysis" / "shipped.py"))
    for find in (shipped.data_folder, shipped.notebook_folder):
        with pytest.raises(RunError, match="install the wheel again"):
            find()


def test_the_demo_has_all_that_it_names(tmp_path, capsys):
    folder = tmp_path / "demo"
    assert main(["demo", str(folder)]) == 0
    assert "attcot run demo.yaml" in capsys.readouterr().out
    lines = "data/problems/arrows/problems.jsonl"
    assert (folder / lines).read_bytes() == (ROOT / lines).read_bytes()
    assert len(load_problems(folder / TRAINING)) == TRAINING_ITEMS
    assert (folder / "notebooks" / "00_start_here.ipynb").is_file()
    assert (folder / "configs" / "presets.yaml").is_file() and (folder / RUN_FILE).is_file()


def test_the_demo_goes_into_no_folder_that_holds_something(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(RunError, match="new folder"):
        write_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
