"""nbval, as `make test` runs it, passes what a notebook prints and finds a wrong number in it."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "03_counterfactual_dependence.ipynb"


def test_the_stored_output_passes_and_a_wrong_digit_fails(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [at for at, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    # Down to the first numbers, once as they are stored and once with a digit changed.
    del notebook.cells[code[1] + 1 :]
    planted = nbformat.from_dict({**notebook.cells[-1], "id": "planted"})
    planted.source = notebook.cells[-1].source
    assert "the first 64 problems" in planted.outputs[0].text
    planted.outputs[0].text = planted.outputs[0].text.replace("first 64", "first 65")
    notebook.cells.append(planted)
    nbformat.write(notebook, tmp_path / "planted.ipynb")

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    command = re.search(r"^COMPARE_NOTEBOOKS := \S+/pytest notebooks (.*)$", makefile, re.MULTILINE)
    options = command.group(1).replace("-n 2 --dist loadscope", "-p no:cacheprovider").split()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tmp_path, "--rootdir", ROOT, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1 and "1 failed, 2 passed" in run.stdout, run.stdout
    assert "::Cell 2" in run.stdout and "first 65 problems" in run.stdout, run.stdout
