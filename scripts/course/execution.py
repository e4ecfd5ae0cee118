"""Execute a notebook so that a second run gives the same file, and compare two runs.

What differs between two runs with the same results (ids, versions, timings, widget state) is
removed; outputs and execution counts stay, as comparing means nothing without them.
"""

import difflib
import os
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from attcot_analysis.errors import NotebookError, passing
from course.form import COMPARED_TYPES, WIDGET_VIEW, is_bare, is_marked

CELL_TIMEOUT = 600
ENVIRONMENT = {
    # The same as in the Makefile, where `make test` compares.
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
"""What every kernel is started with: one thread, no network, no bars."""
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT_CELL_METADATA = ("jupyter", "tags")
_SHOWN_LINES = 12


def read(path: Path) -> Any:
    """Read a notebook file.

    Raises:
        NotebookError: If it is none.
    """
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise passing(error, path.name, NotebookError) or NotebookError(
            f"{path.name} cannot be read as a notebook ({type(error).__name__}: {error}); "
            "restore it from the repository."
        ) from error


def text(notebook: Any) -> str:
    """What stands in a notebook's file."""
    return f"{nbformat.writes(notebook)}\n"


def write(notebook: Any, path: Path) -> None:
    """Replace a notebook file; a reader sees the old one or the whole new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text(notebook), encoding="utf-8")
    part.replace(path)


def execute(path: Path) -> Any:
    """Run a notebook in a fresh kernel of this very Python, in its own folder.

    Returns:
        The run, normalised; the file is not touched.

    Raises:
        NotebookError: If a cell raises or takes longer than ten minutes.
    """
    notebook = read(path)
    # With no folder to look in, `python3` means the kernel of the Python that runs this.
    specs = KernelSpecManager(kernel_dirs=[])
    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs),
        timeout=CELL_TIMEOUT,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    try:
        client.execute(env={**os.environ, **ENVIRONMENT})
    except (CellExecutionError, TimeoutError) as error:
        raise NotebookError(f"{path.name} does not run: {error}") from error
    normalise(notebook)
    return notebook


def normalise(notebook: Any) -> None:
    """Remove what differs between two runs with the same results."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02d}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA}
        for number, output in enumerate(cell.get("outputs", [])):
            data = output.get("data", {})
            if "text/html" in data:
                # A stored view has no kernel to live on; its static twin works everywhere.
                data.pop(WIDGET_VIEW, None)
            elif WIDGET_VIEW in data:
                data[WIDGET_VIEW]["model_id"] = f"{cell.id}-{number}"


def differences(stored: Any, fresh: Any) -> list[str]:
    """Where the text of two runs of the same cells differs, one entry per cell.

    As nbval: pictures are not compared, nor are cells tagged ``nbval-ignore-output``.
    """
    found = []
    for index, (old, new) in enumerate(zip(stored.cells, fresh.cells, strict=True)):
        if new.cell_type != "code" or is_marked(new, "nbval-ignore-output"):
            continue
        if old.get("execution_count") is None and old.source.strip():
            found.append(f"cell {index} was stored without having run")
        before, after = _texts(old), _texts(new)
        if before != after:
            lines = difflib.unified_diff(before, after, "stored", "now", n=0, lineterm="")
            shown = list(lines)[2 : 2 + _SHOWN_LINES]
            found.append("\n    ".join([f"cell {index} prints something else", *shown]))
    return found


def _texts(cell: Any) -> list[str]:
    """The lines of a cell's outputs that can be compared."""
    lines: list[str] = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            lines += output.text.splitlines()
        elif output.output_type == "error":
            lines.append(f"{output.ename}: {output.evalue}")
        for kind in COMPARED_TYPES:
            text = str(output.get("data", {}).get(kind, ""))
            if not is_bare(text):
                lines += text.splitlines()
    return lines
