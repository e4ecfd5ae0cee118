"""Every committed notebook has the form that makes reading and comparing it meaningful."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from course_files import FIRST, LAST, good_notebook, printing
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from notebook_form import (
    MAX_BYTES,
    MAX_CODE_CELLS,
    MAX_UNCOMPARED_CELLS,
    form_faults,
    is_compared,
)

FOLDER = Path(__file__).parents[2] / "notebooks"
PRESENT = sorted(FOLDER.glob("*.ipynb"))


def test_the_course_is_complete_and_numbered_without_gaps():
    numbers = [int(path.stem[:2]) for path in PRESENT]
    assert len(numbers) >= 7 and numbers == list(range(len(numbers)))


@pytest.mark.parametrize("path", PRESENT, ids=lambda path: path.stem)
def test_notebook_has_the_form(path):
    assert form_faults(path, nbformat.read(path, as_version=4)) == []


# --- The checker itself: a good notebook passes, each planted fault is found ----------------------


def faults_after(change: Callable[[Any], object], folder: Path) -> list[str]:
    notebook = good_notebook()
    change(notebook)
    path = folder / "00_planted.ipynb"
    nbformat.write(notebook, path)
    return form_faults(path, nbformat.read(path, as_version=4))


def test_a_good_notebook_has_no_fault(tmp_path):
    assert faults_after(lambda notebook: None, tmp_path) == []


def error_output() -> nbformat.NotebookNode:
    return new_output("error", ename="ValueError", evalue="no", traceback=[])


def figure_output() -> nbformat.NotebookNode:
    data = {"text/plain": "<Figure size 640x480 with 1 Axes>", "image/png": "aGVsbG8="}
    return new_output("display_data", data=data)


def far_figure(notebook: Any) -> None:
    """A figure with silent cells on both sides."""
    silent = [new_code_cell("y = 1", execution_count=count) for count in (6, 7, 8)]
    silent[1].outputs = [figure_output()]
    notebook.cells[-1].execution_count = 9
    for cell, count in zip(silent, (5, 6, 7), strict=True):
        cell.execution_count = count
    notebook.cells[-1].execution_count = 8
    notebook.cells[-1:-1] = silent


def excused(text: str = "0.1") -> nbformat.NotebookNode:
    return printing(text, 4, "# Not compared: sampled.\ntable", tags=["nbval-ignore-output"])


def sources(**changed: str) -> Callable[[Any], None]:
    """Replace the source of the first or last markdown cell."""

    def change(notebook: Any) -> None:
        for at, text in changed.items():
            notebook.cells[{"first": 0, "last": -2}[at]].source = text

    return change


PLANTED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no count": (lambda n: n.cells[4].update(execution_count=None), "no execution count"),
    "out of order": (lambda n: n.cells[4].update(execution_count=4), "execution counts are"),
    "not from one": (lambda n: n.cells.pop(2), "execution counts are"),
    "error": (lambda n: n.cells[2].outputs.append(error_output()), "an output is an error"),
    "figure only": (lambda n: n.cells[4].update(outputs=[figure_output()]), "only 2 cells"),
    "empty stream": (lambda n: n.cells[4].outputs[0].update(text="\n"), "only 2 cells"),
    "ignored by tag": (
        lambda n: n.cells[4].metadata.update(tags=["nbval-ignore-output"]),
        "only 2 cells",
    ),
    "ignored by comment": (
        lambda n: n.cells[4].update(source="# NBVAL_IGNORE_OUTPUT\nprint(x)"),
        "only 2 cells",
    ),
    "not compared without a reason": (
        lambda n: n.cells[4].metadata.update(tags=["nbval-ignore-output"]),
        "cell 4 is not compared and does not begin with '# Not compared: why'",
    ),
    "too many not compared": (
        lambda n: n.cells.extend(excused() for _ in range(MAX_UNCOMPARED_CELLS + 1)),
        "9 cells are not compared; at most 8",
    ),
    "figure far from numbers": (far_figure, "draws, and no cell next to it prints"),
    "skipped": (lambda n: n.cells[4].metadata.update(tags=["nbval-skip"]), "skipped by nbval"),
    "no parameters": (lambda n: n.cells[2].metadata.update(tags=[]), "0 code cells are tagged"),
    "busy parameters": (
        lambda n: n.cells[2].update(source="MODEL = 'a'\nprint(MODEL)"),
        "more than NAME = value: print",
    ),
    "lower-case parameter": (
        lambda n: n.cells[2].update(source="model = 'a'"),
        "more than NAME = value: model",
    ),
    "no mode": (lambda n: n.cells[3].outputs[0].update(text="model tiny"), "prints its mode"),
    "no provenance": (lambda n: n.cells[-1].update(source="print(1)"), "print the provenance"),
    "compared provenance": (lambda n: n.cells[-1].metadata.update(tags=[]), "and be tagged"),
    "no title": (lambda n: n.cells[0].update(source="Title"), "only H1"),
    "two titles": (lambda n: n.cells[0].update(source="# A: b?\n# B"), "only H1"),
    "title in code": (lambda n: n.cells.pop(0), "only H1"),
    "late title": (lambda n: n.cells.append(new_markdown_cell("# B")), "only H1"),
    "no question": (sources(first=FIRST.replace("?", ".")), "'# Name: question?'"),
    "no needs": (sources(first=FIRST.replace("**You need**", "It takes")), "**You need**"),
    "a section missing": (sources(last=LAST.replace("falsify", "show")), "sections"),
    "sections out of order": (sources(last="## On your own model and data\n" + LAST), "sections"),
    "too big": (
        lambda n: n.cells.append(new_markdown_cell("x" * MAX_BYTES)),
        "bytes; at most",
    ),
    "too many cells": (
        lambda n: n.cells.extend(new_code_cell("") for _ in range(MAX_CODE_CELLS)),
        "code cells; at most",
    ),
    "long cell": (lambda n: n.cells[4].update(source="x = 1\n" * 21), "has 21 lines"),
    "path in source": (lambda n: n.cells[4].update(source="p = '/home/me/x'"), "path /home/me"),
    "path in output": (lambda n: n.cells[4].outputs[0].update(text="/tmp/abc\n"), "path /tmp/abc"),
    "path in html": (
        lambda n: n.cells[5].outputs[0].data.update({"text/html": "<i>C:\\Users</i>"}),
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


@pytest.mark.parametrize(("text", "faults"), [("0.1", 0), ("\n", 1)])
def test_a_figure_of_what_is_not_compared_needs_its_numbers_too(text, faults, tmp_path):
    def change(notebook):
        far_figure(notebook)
        (at,) = (
            at for at, c in enumerate(notebook.cells) if figure_output() in c.get("outputs", [])
        )
        cell = excused(text)
        cell.outputs.append(figure_output())
        cell.execution_count = notebook.cells[at].execution_count
        notebook.cells[at] = cell

    assert len(faults_after(change, tmp_path)) == faults


def test_a_widget_view_is_no_comparison():
    view = "application/vnd.jupyter.widget-view+json"
    cell = printing("", 1)
    cell.outputs = [new_output("display_data", data={view: {}, "text/plain": "Explorer(layer=1)"})]
    assert not is_compared(cell)
