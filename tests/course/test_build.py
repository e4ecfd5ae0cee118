"""Building notebooks gives the same files twice, and leaves a file alone when a cell raises."""

import sys

import nbformat
import pytest
from course_files import FIRST, LAST
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from attcot_analysis.errors import NotebookError
from notebooks import (
    WIDGET_VIEW,
    build_notebooks,
    differences,
    main,
    normalise,
    notebook_paths,
    write,
)

CELLS = [
    ("NUMBER = 2", ["parameters"]),
    ("import os, sys\nprint('fast mode', flush=True)\nprint('more')\n1 + NUMBER", []),
    ("from ipywidgets import IntSlider\nIntSlider(value=3)", []),
    ("print(os.path.basename(os.getcwd()), sys.prefix == os.environ.get('PREFIX'))", []),
    ("print(os.environ['HF_HUB_OFFLINE'], os.environ['OMP_NUM_THREADS'])", []),
    ("provenance = repr\nprint(provenance(0))", ["nbval-ignore-output"]),
]


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIX", sys.prefix)
    folder = tmp_path / "suite"
    folder.mkdir()
    cells = [new_code_cell(source, metadata={"tags": tags}) for source, tags in CELLS]
    cells = [new_markdown_cell(FIRST), new_markdown_cell("## Parameters"), *cells]
    cells.append(new_markdown_cell(LAST))
    path = folder / "00_demo.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_a_build_runs_in_the_notebooks_folder_and_repeats_to_the_byte(notebook, capsys):
    folder = str(notebook.parent)
    assert main(["--folder", folder]) == 0
    assert "00_demo" in capsys.readouterr().out
    built, contents = notebook.read_bytes(), notebook.with_name("README.md").read_text()
    run = nbformat.read(notebook, as_version=4)
    code = [cell for cell in run.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5, 6]
    assert [output.output_type for output in code[1].outputs] == ["stream", "execute_result"]
    assert code[3].outputs[0].text == "suite True\n"
    assert code[4].outputs[0].text == "1 1\n"
    assert set(run.metadata) == {"kernelspec", "language_info"}

    # A planted difference and stale contents are found, and left as they are.
    run.cells[3].outputs[-1].data["text/plain"] = "4"
    nbformat.write(run, notebook)
    notebook.with_name("README.md").write_text("# Old\n")
    planted = notebook.read_bytes()
    assert main(["--check", "--folder", folder]) == 3
    said = capsys.readouterr().out
    assert said.count("prints something else") == 1
    assert "cell 3 prints something else" in said and "-4" in said and "+3" in said
    assert "contents or links are out of date" in said
    assert notebook.read_bytes() == planted
    assert notebook.with_name("README.md").read_text() == "# Old\n"

    assert main(["--quiet", "--folder", folder]) == 0
    assert capsys.readouterr().out == ""
    assert notebook.read_bytes() == built
    assert notebook.with_name("README.md").read_text() == contents


def test_differences_ignore_pictures_marks_and_bare_reprs():
    cell = new_code_cell("draw()", execution_count=1)
    cell.outputs = [
        nbformat.v4.new_output(
            "display_data", data={"image/png": "b25l", "text/plain": "<Figure size 1x1>"}
        )
    ]
    other = nbformat.from_dict(cell)
    other.outputs[0].data.update({"image/png": "dHdv", "text/plain": "<Figure size 2x2>"})
    stored, fresh = new_notebook(cells=[cell]), new_notebook(cells=[other])
    assert differences(stored, fresh) == []
    other.outputs[0].data["text/html"] = "<b>2</b>"
    assert len(differences(stored, fresh)) == 1
    other.metadata.tags = ["nbval-ignore-output"]
    assert differences(stored, fresh) == []


def test_a_cell_stored_without_having_run_is_a_difference():
    ran = new_notebook(cells=[new_code_cell("x = 1", execution_count=1)])
    stripped = new_notebook(cells=[new_code_cell("x = 1")])
    assert differences(stripped, ran) == ["cell 0 was stored without having run"]


def test_a_view_with_a_static_twin_is_stored_as_the_twin():
    view = {"model_id": "random"}
    bundles = [{WIDGET_VIEW: dict(view), "text/html": "<iframe>"}, {WIDGET_VIEW: dict(view)}]
    cell = new_code_cell("explorer", metadata={"tags": ["a"], "collapsed": True})
    cell.outputs = [nbformat.v4.new_output("display_data", data=data) for data in bundles]
    notebook = new_notebook(cells=[cell], metadata={"widgets": {}})
    normalise(notebook)
    assert set(cell.outputs[0].data) == {"text/html"}
    assert cell.outputs[1].data[WIDGET_VIEW] == {"model_id": "cell-00-1"}
    assert cell.metadata == {"tags": ["a"]}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_a_notebook_that_raises_is_left_as_it_was(notebook):
    content = nbformat.read(notebook, as_version=4)
    content.cells.insert(2, new_code_cell("1 / 0"))
    content.cells[0].source = FIRST.replace("\n\n", "\n\n[contents](README.md)\n\n", 1)
    content.cells.append(new_markdown_cell("[contents](README.md)"))
    write(content, notebook)
    before = notebook.read_bytes()
    (built,) = build_notebooks(["00"], folder=notebook.parent)
    assert "00_demo.ipynb does not run" in built.faults[0]
    assert "ZeroDivisionError" in built.faults[0] and built.faults[0] in str(built)
    assert notebook.read_bytes() == before
    assert sorted(path.name for path in notebook.parent.iterdir()) == ["00_demo.ipynb", "README.md"]


def test_names_choose_notebooks(tmp_path):
    for name in ("00_a", "01_b", "02_c", ".02_c"):
        (tmp_path / f"{name}.ipynb").touch()
    assert [path.stem for path in notebook_paths(tmp_path)] == ["00_a", "01_b", "02_c"]
    assert [path.stem for path in notebook_paths(tmp_path, ["02", "00_a"])] == ["00_a", "02_c"]
    with pytest.raises(NotebookError, match="No notebook starts with '07'"):
        notebook_paths(tmp_path, ["07"])
