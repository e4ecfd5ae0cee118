"""The form every committed notebook must have, so that comparing its outputs means something.

nbval compares a cell only if it was committed with an execution count and an output that is text.
A stripped notebook, or one of pictures alone, passes without a single comparison; so the form is
checked here, by `scripts/run_notebooks.py` after it has run and by `tests/test_notebook_form.py`.
"""

import re
from pathlib import Path
from typing import Any

import nbformat

MAX_BYTES = 1_000_000
MAX_CODE_CELLS = 30
MAX_CELL_LINES = 20
MIN_COMPARED_CELLS = 3

_COMPARED_TYPES = ("text/plain", "text/html", "text/latex", "image/svg+xml")
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# `<Figure size ...>` and other bare reprs stay the same whatever the figure shows.
_BARE_REPR = re.compile(r"\s*<[\w.]+[^<>]*>\s*")
_ABSOLUTE_PATH = re.compile(
    r"(?<![\w.])(?:/(?:content|home|mnt|opt|private|root|tmp|usr|Users|var|work|workspace)/[\w.-]+"
    r"|(?<!\w)[A-Za-z]:\\\w+)"
)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_H1 = re.compile(r"^# ", re.MULTILINE)


def form_faults(path: Path) -> list[str]:
    """Everything that is wrong with the form of one notebook file, one sentence each."""
    notebook = nbformat.read(path, as_version=4)
    return [
        *_size_faults(path),
        *_title_faults(notebook),
        *_metadata_faults(notebook),
        *_cell_faults(notebook),
        *_count_faults(notebook),
        *_comparison_faults(notebook),
        *_path_faults(notebook),
    ]


def is_compared(cell: Any) -> bool:
    """Whether nbval compares an output of this cell that depends on what the cell computed."""
    if _is_marked(cell, "nbval-ignore-output") or cell.get("execution_count") is None:
        return False
    return any(_output_is_compared(output) for output in cell.outputs)


def _is_marked(cell: Any, tag: str) -> bool:
    """Whether a cell has one of nbval's marks, which it reads from tags and from comments."""
    return tag in cell.metadata.get("tags", []) or tag.upper().replace("-", "_") in cell.source


def _output_is_compared(output: Any) -> bool:
    if output.output_type == "stream":
        return bool(output.text.strip())
    data = output.get("data", {})
    if _WIDGET_VIEW in data:
        return False
    texts = [str(data[kind]) for kind in _COMPARED_TYPES if kind in data]
    return any(text.strip() and not _BARE_REPR.fullmatch(text) for text in texts)


def _size_faults(path: Path) -> list[str]:
    size = path.stat().st_size
    if size > MAX_BYTES:
        return [f"the file has {size:,} bytes; at most {MAX_BYTES:,} are allowed"]
    return []


def _title_faults(notebook: Any) -> list[str]:
    titles = [
        index
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown"
        for _ in _H1.findall(_FENCED.sub("", cell.source))
    ]
    if titles != [0]:
        return ["the first cell must be markdown and hold the only H1 of the notebook"]
    return []


def _metadata_faults(notebook: Any) -> list[str]:
    faults = []
    if "widgets" in notebook.metadata:
        faults.append("widget state is stored in the metadata; run scripts/run_notebooks.py")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        faults.append("the kernelspec must be python3")
    if not any("parameters" in cell.metadata.get("tags", []) for cell in _code_cells(notebook)):
        faults.append("no code cell is tagged `parameters`")
    return faults


def _cell_faults(notebook: Any) -> list[str]:
    faults = []
    cells = _code_cells(notebook)
    if len(cells) > MAX_CODE_CELLS:
        faults.append(f"{len(cells)} code cells; at most {MAX_CODE_CELLS} are allowed")
    for index, cell in enumerate(notebook.cells):
        if _is_marked(cell, "nbval-skip"):
            faults.append(f"cell {index} is skipped by nbval; every cell must run")
        lines = len(cell.source.splitlines())
        if cell.cell_type == "code" and lines > MAX_CELL_LINES:
            faults.append(f"cell {index} has {lines} lines; at most {MAX_CELL_LINES} are allowed")
    return faults


def _count_faults(notebook: Any) -> list[str]:
    faults = []
    cells = [cell for cell in _code_cells(notebook) if cell.source.strip()]
    counts = [cell.get("execution_count") for cell in cells]
    if None in counts:
        faults.append(f"{counts.count(None)} code cells have no execution count")
    elif counts != list(range(1, len(counts) + 1)):
        faults.append(f"execution counts are {counts}; run the notebook once from top to bottom")
    errors = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    faults += [f"an output is an error: {error.ename}: {error.evalue}" for error in errors]
    return faults


def _comparison_faults(notebook: Any) -> list[str]:
    compared = sum(is_compared(cell) for cell in _code_cells(notebook))
    if compared < MIN_COMPARED_CELLS:
        return [
            f"only {compared} cells have an output that is compared; at least "
            f"{MIN_COMPARED_CELLS} must print the numbers behind their figures"
        ]
    return []


def _path_faults(notebook: Any) -> list[str]:
    faults = []
    for index, cell in enumerate(notebook.cells):
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += [output.get("text", "")]
            texts += [str(v) for k, v in output.get("data", {}).items() if k in _COMPARED_TYPES]
        found = {match for text in texts for match in _ABSOLUTE_PATH.findall(text)}
        faults += [f"cell {index} holds the absolute path {match}" for match in sorted(found)]
    return faults


def _code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
