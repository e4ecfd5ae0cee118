"""Execute notebooks again and store their outputs, so that only what changed shows in a diff.

    python scripts/run_notebooks.py            all of them
    python scripts/run_notebooks.py 01 05      those whose names start so

Each runs in a fresh kernel of this very Python, in its own folder.  A notebook that raises is left
as it was; one that runs but lacks the form of `notebook_form.py` is stored and reported.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from notebook_form import form_faults

FOLDER = Path(__file__).parents[1] / "notebooks"
CELL_TIMEOUT = 600
ENVIRONMENT = {
    # The same as in the Makefile, where `make test` compares.
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT_CELL_METADATA = ("jupyter", "tags")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def execute(path: Path) -> None:
    """Run one notebook and replace the file by the run, normalised.

    Raises:
        CellExecutionError: If a cell raises; the file is then untouched.
    """
    notebook = nbformat.read(path, as_version=4)
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
    client.execute()
    normalise(notebook)
    fresh = path.with_suffix(".tmp")
    nbformat.write(notebook, fresh)
    fresh.replace(path)


def normalise(notebook: Any) -> None:
    """Remove what differs between two runs with the same results: ids, versions, timings."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02d}"
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA}
        for number, output in enumerate(cell.get("outputs", [])):
            view = output.get("data", {}).get(WIDGET_VIEW)
            if view:
                view["model_id"] = f"{cell.id}-{number}"


def chosen(names: list[str]) -> list[Path]:
    """The notebooks whose names start with one of these; all of them if none is given."""
    paths = sorted(FOLDER.glob("*.ipynb"))
    for name in names:
        if not any(path.stem.startswith(name) for path in paths):
            sys.exit(f"No notebook starts with {name!r}; there are {[p.stem for p in paths]}.")
    return [path for path in paths if path.stem.startswith(tuple(names) or "")]


def main() -> int:
    """Run the chosen notebooks; the exit code says whether all ran and have the form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="how the names of the notebooks start")
    paths = chosen(parser.parse_args().names)
    os.environ.update(ENVIRONMENT)
    failed = 0
    for path in paths:
        start = time.perf_counter()
        try:
            execute(path)
            faults = form_faults(path)
        except CellExecutionError as error:
            faults = [str(error)]
        print(f"{path.stem:32s} {time.perf_counter() - start:6.1f} s")
        for fault in faults:
            print(f"  {fault}")
        failed += bool(faults)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
