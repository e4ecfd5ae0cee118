"""The form every committed notebook must have, so that reading and comparing it means something.

nbval compares a cell only if it was committed with an execution count and an output that is text.
A stripped notebook, or one of pictures alone, passes without a single comparison.
"""

import ast
import re
from pathlib import Path
from typing import Any

from attcot_analysis.errors import NotebookError
from notebooks import COMPARED_TYPES, WIDGET_VIEW, is_bare, is_marked, read_chapter

MAX_BYTES = 1_000_000
MAX_CODE_CELLS = 25
MAX_CELL_LINES = 20
MIN_COMPARED_CELLS = 3
MAX_UNCOMPARED_CELLS = 8
REASON = "# Not compared: "
"""How the first line of a cell that prints but is not compared begins; why, follows."""
SECTIONS = (
    "Parameters",
    "How to read this",
    "What would falsify it",
    "On your own model and data",
)
"""Headings every notebook has, in this order."""

_MODES = ("fast mode", "full mode")
_ABSOLUTE_PATH = re.compile(
    r"(?<![\w.])(?:/(?:content|home|mnt|opt|private|root|tmp|usr|Users|var|work|workspace)/[\w.-]+"
    r"|(?<!\w)[A-Za-z]:\\\w+)"
)
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_H1 = re.compile(r"^# ", re.MULTILINE)
_H2 = re.compile(r"^## (.+?)\s*$", re.MULTILINE)


def form_faults(path: Path, notebook: Any) -> list[str]:
    """Everything that is wrong with the form of one notebook, one sentence each.

    Args:
        path: Its file, for name and size.
        notebook: Its content, as nbformat reads it.
    """
    return [
        *_size_faults(path),
        *_title_faults(path, notebook),
        *_section_faults(notebook),
        *_parameter_faults(notebook),
        *_metadata_faults(notebook),
        *_cell_faults(notebook),
        *_count_faults(notebook),
        *_comparison_faults(notebook),
        *_figure_faults(notebook),
        *_path_faults(notebook),
    ]


def is_compared(cell: Any) -> bool:
    """Whether nbval compares an output of this cell that depends on what the cell computed."""
    if is_marked(cell, "nbval-ignore-output") or cell.get("execution_count") is None:
        return False
    return any(_output_is_compared(output) for output in cell.outputs)


def _output_is_compared(output: Any) -> bool:
    if output.output_type == "stream":
        return bool(output.text.strip())
    data = output.get("data", {})
    if WIDGET_VIEW in data:
        return False
    return any(not is_bare(str(data[kind])) for kind in COMPARED_TYPES if kind in data)


def _size_faults(path: Path) -> list[str]:
    size = path.stat().st_size
    if size > MAX_BYTES:
        return [f"the file has {size:,} bytes; at most {MAX_BYTES:,} are allowed"]
    return []


def _title_faults(path: Path, notebook: Any) -> list[str]:
    titles = [
        index
        for index, cell in enumerate(notebook.cells)
        if cell.cell_type == "markdown"
        for _ in _H1.findall(_FENCED.sub("", cell.source))
    ]
    if titles != [0]:
        return ["the first cell must be markdown and hold the only H1 of the notebook"]
    try:
        read_chapter(path, notebook)
    except NotebookError as error:
        return [str(error)]
    return []


def _section_faults(notebook: Any) -> list[str]:
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    headings = _H2.findall(_FENCED.sub("", "\n".join(texts)))
    held = [heading for heading in headings if heading in SECTIONS]
    if held != list(SECTIONS):
        return [f"the sections {list(SECTIONS)} must be there once each, in order; found {held}"]
    return []


def _parameter_faults(notebook: Any) -> list[str]:
    faults = []
    cells = _code_cells(notebook)
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        faults.append(f"{len(tagged)} code cells are tagged `parameters`; expected one")
    for node in [node for cell in tagged for node in ast.parse(cell.source).body]:
        named = isinstance(node, ast.Assign) and all(
            isinstance(target, ast.Name) and target.id.isupper() for target in node.targets
        )
        if not named and not isinstance(node, ast.Import | ast.ImportFrom):
            faults.append(f"the parameters cell holds more than NAME = value: {ast.unparse(node)}")
    if not any(text.startswith(_MODES) for cell in cells for text in _streams(cell)):
        faults.append("no cell prints its mode; print the banner after the parameters")
    last = cells[-1] if cells else None
    if last is None or "provenance(" not in last.source or not is_marked(last, _IGNORED):
        faults.append(f"the last code cell must print the provenance and be tagged {_IGNORED}")
    return faults


_IGNORED = "nbval-ignore-output"


def _metadata_faults(notebook: Any) -> list[str]:
    faults = []
    if "widgets" in notebook.metadata:
        faults.append("widget state is stored in the metadata; run `python scripts/notebooks.py`")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        faults.append("the kernelspec must be python3")
    return faults


def _cell_faults(notebook: Any) -> list[str]:
    faults = []
    cells = _code_cells(notebook)
    if len(cells) > MAX_CODE_CELLS:
        faults.append(f"{len(cells)} code cells; at most {MAX_CODE_CELLS} are allowed")
    for index, cell in enumerate(notebook.cells):
        if is_marked(cell, "nbval-skip"):
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
    faults = []
    compared = sum(is_compared(cell) for cell in _code_cells(notebook))
    if compared < MIN_COMPARED_CELLS:
        faults.append(
            f"only {compared} cells have an output that is compared; at least "
            f"{MIN_COMPARED_CELLS} must print the numbers behind their figures"
        )
    excused = 0
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and is_marked(cell, _IGNORED):
            shown = "provenance(" in cell.source or "explore(" in cell.source
            excused += not shown
            if not shown and not cell.source.startswith(REASON):
                faults.append(f"cell {index} is not compared and does not begin with '{REASON}why'")
    if excused > MAX_UNCOMPARED_CELLS:
        faults.append(
            f"{excused} cells are not compared; at most {MAX_UNCOMPARED_CELLS} are allowed"
        )
    return faults


def _figure_faults(notebook: Any) -> list[str]:
    """Figures and widgets whose own cell and neighbours print no number."""

    def prints(cell: Any) -> bool:
        excused = cell.source.startswith(REASON) and any(map(str.strip, _streams(cell)))
        return is_compared(cell) or excused

    cells = _code_cells(notebook)
    indices = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    faults = []
    for at, (index, cell) in enumerate(zip(indices, cells, strict=True)):
        drawn = any(
            kind in output.get("data", {})
            for output in cell.outputs
            for kind in ("image/png", "image/jpeg", WIDGET_VIEW)
        )
        near = cells[max(0, at - 1) : at + 2]
        if drawn and not any(map(prints, near)):
            faults.append(f"cell {index} draws, and no cell next to it prints the numbers")
    return faults


def _path_faults(notebook: Any) -> list[str]:
    faults = []
    for index, cell in enumerate(notebook.cells):
        texts = [cell.source]
        for output in cell.get("outputs", []):
            texts += [output.get("text", "")]
            texts += [str(v) for k, v in output.get("data", {}).items() if k in COMPARED_TYPES]
        found = {match for text in texts for match in _ABSOLUTE_PATH.findall(text)}
        faults += [f"cell {index} holds the absolute path {match}" for match in sorted(found)]
    return faults


def _streams(cell: Any) -> list[str]:
    return [output.text for output in cell.outputs if output.output_type == "stream"]


def _code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
