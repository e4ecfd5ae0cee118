"""Executing notebooks gives the same file twice, and leaves it alone when a cell raises."""

import shutil
import sys

import nbformat
import pytest
import run_notebooks
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

CELLS = [
    "import os, sys\nprint('out', flush=True)\nprint('more')\n1 + 1",
    "from ipywidgets import IntSlider\nIntSlider(value=3)",
    "print(os.path.basename(os.getcwd()), sys.prefix)",
]


@pytest.fixture
def notebook(tmp_path):
    folder = tmp_path / "suite"
    folder.mkdir()
    cells = [new_markdown_cell("# T"), *map(new_code_cell, CELLS)]
    path = folder / "00_demo.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_two_runs_give_the_same_bytes_in_the_notebooks_folder(notebook):
    other = notebook.with_name("copy.ipynb")
    shutil.copy(notebook, other)
    run_notebooks.execute(notebook)
    run_notebooks.execute(other)
    assert notebook.read_bytes() == other.read_bytes()
    run = nbformat.read(notebook, as_version=4)
    assert [cell.execution_count for cell in run.cells[1:]] == [1, 2, 3]
    assert [output.output_type for output in run.cells[1].outputs] == ["stream", "execute_result"]
    assert run.cells[3].outputs[0].text == f"suite {sys.prefix}\n"
    assert set(run.metadata) == {"kernelspec", "language_info"}


def test_a_notebook_that_raises_is_left_as_it_was(notebook):
    content = nbformat.read(notebook, as_version=4)
    content.cells.append(new_code_cell("1 / 0"))
    nbformat.write(content, notebook)
    before = notebook.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run_notebooks.execute(notebook)
    assert notebook.read_bytes() == before
    assert list(notebook.parent.iterdir()) == [notebook]


def test_names_choose_notebooks(tmp_path, monkeypatch):
    for name in ("00_a", "01_b", "02_c"):
        (tmp_path / f"{name}.ipynb").touch()
    monkeypatch.setattr(run_notebooks, "FOLDER", tmp_path)
    assert [path.stem for path in run_notebooks.chosen([])] == ["00_a", "01_b", "02_c"]
    assert [path.stem for path in run_notebooks.chosen(["02", "00_a"])] == ["00_a", "02_c"]
    with pytest.raises(SystemExit, match="No notebook starts with '07'"):
        run_notebooks.chosen(["07"])
