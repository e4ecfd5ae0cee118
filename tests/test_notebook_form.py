"""Every committed notebook has the form that makes its comparison meaningful."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_form import MAX_BYTES, MAX_CODE_CELLS, form_faults, is_compared

FOLDER = Path(__file__).parents[1] / "notebooks"
EXPECTED = {
    "00_start_here",
    "01_visual_access",
    "02_answer_commitment",
    "03_counterfactual_dependence",
    "04_att_cot_finetuning",
    "05_before_and_after",
    "06_do_the_diagnostics_work",
}
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
PRESENT = sorted(FOLDER.glob("*.ipynb"))


def test_the_suite_is_complete():
    assert {path.stem for path in PRESENT} >= EXPECTED


@pytest.mark.parametrize("path", PRESENT, ids=lambda path: path.stem)
def test_notebook_has_the_form(path):
    assert form_faults(path) == []


# --- The checker itself: a good notebook passes, each planted fault is found ----------------------


def printing(text: str, count: int, **metadata: Any) -> nbformat.NotebookNode:
    output = new_output("stream", name="stdout", text=text)
    return new_code_cell("print(x)", execution_count=count, outputs=[output], metadata=metadata)


def good_notebook() -> nbformat.NotebookNode:
    start = new_code_cell("x = 1", execution_count=1, metadata={"tags": ["parameters"]})
    shown = new_code_cell(
        "table",
        execution_count=4,
        outputs=[new_output("execute_result", data={"text/html": "<b>0.5</b>"}, execution_count=4)],
    )
    cells = [new_markdown_cell("# Title"), start, printing("0.1", 2), printing("0.2", 3), shown]
    cells.append(new_markdown_cell("## Links\nhttps://example.org/home/page\n```\n# shell\n```"))
    return new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


def faults_after(change: Callable[[nbformat.NotebookNode], object], folder: Path) -> list[str]:
    notebook = good_notebook()
    change(notebook)
    path = folder / "planted.ipynb"
    nbformat.write(notebook, path)
    return form_faults(path)


def test_a_good_notebook_has_no_fault(tmp_path):
    assert faults_after(lambda notebook: None, tmp_path) == []


def error_output() -> nbformat.NotebookNode:
    return new_output("error", ename="ValueError", evalue="no", traceback=[])


def figure_output() -> nbformat.NotebookNode:
    return new_output("display_data", data={"text/plain": "<Figure size 640x480 with 1 Axes>"})


PLANTED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no count": (lambda n: n.cells[2].update(execution_count=None), "no execution count"),
    "out of order": (lambda n: n.cells[2].update(execution_count=3), "execution counts are"),
    "not from one": (lambda n: n.cells.pop(1), "execution counts are"),
    "error": (lambda n: n.cells[1].outputs.append(error_output()), "an output is an error"),
    "figure only": (lambda n: n.cells[2].update(outputs=[figure_output()]), "only 2 cells"),
    "empty stream": (lambda n: n.cells[2].outputs[0].update(text="\n"), "only 2 cells"),
    "ignored by tag": (
        lambda n: n.cells[2].metadata.update(tags=["nbval-ignore-output"]),
        "only 2 cells",
    ),
    "ignored by comment": (
        lambda n: n.cells[2].update(source="# NBVAL_IGNORE_OUTPUT\nprint(x)"),
        "only 2 cells",
    ),
    "skipped": (lambda n: n.cells[2].metadata.update(tags=["nbval-skip"]), "skipped by nbval"),
    "no parameters": (lambda n: n.cells[1].metadata.update(tags=[]), "tagged `parameters`"),
    "no title": (lambda n: n.cells[0].update(source="Title"), "only H1"),
    "two titles": (lambda n: n.cells[0].update(source="# A\n# B"), "only H1"),
    "title in code": (lambda n: n.cells.pop(0), "only H1"),
    "late title": (lambda n: n.cells.append(new_markdown_cell("# B")), "only H1"),
    "too big": (
        lambda n: n.cells.append(new_markdown_cell("x" * MAX_BYTES)),
        "bytes; at most",
    ),
    "too many cells": (
        lambda n: n.cells.extend(new_code_cell("") for _ in range(MAX_CODE_CELLS)),
        "code cells; at most",
    ),
    "long cell": (lambda n: n.cells[1].update(source="x = 1\n" * 21), "has 21 lines"),
    "path in source": (lambda n: n.cells[1].update(source="p = '/home/me/x'"), "path /home/me"),
    "path in output": (lambda n: n.cells[2].outputs[0].update(text="/tmp/abc\n"), "path /tmp/abc"),
    "path in html": (
        lambda n: n.cells[4].outputs[0].data.update({"text/html": "<i>C:\\Users</i>"}),
        r"path C:\Users",
    ),
    "widget state": (lambda n: n.metadata.update(widgets={}), "widget state"),
    "kernel": (lambda n: n.metadata.kernelspec.update(name="my-env"), "kernelspec"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault, tmp_path):
    change, expected = PLANTED[fault]
    faults = faults_after(change, tmp_path)
    assert any(expected in found for found in faults), faults


def test_a_widget_view_is_no_comparison():
    view = "application/vnd.jupyter.widget-view+json"
    cell = printing("", 1)
    cell.outputs = [new_output("display_data", data={view: {}, "text/plain": "Explorer(layer=1)"})]
    assert not is_compared(cell)
