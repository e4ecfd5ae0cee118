"""Notebooks made in code: one that has the form, and folders of them."""

from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
FIRST = "# Title: does it hold?\n\nAn introduction.\n\n**You need** a minute of time. And more."
LAST = (
    "## How to read this\n\n## What would falsify it\n\n## On your own model and data\n\n"
    "https://example.org/home/page\n```\n# shell\n## Parameters\n```"
)


def printing(text: str, count: int, source: str = "print(x)", **metadata: Any) -> Any:
    output = new_output("stream", name="stdout", text=text)
    return new_code_cell(source, execution_count=count, outputs=[output], metadata=metadata)


def good_notebook() -> Any:
    start = new_code_cell(
        "from os import sep\n\nMODEL = sep", execution_count=1, metadata={"tags": ["parameters"]}
    )
    shown = new_code_cell(
        "table",
        execution_count=4,
        outputs=[new_output("execute_result", data={"text/html": "<b>0.5</b>"}, execution_count=4)],
    )
    end = printing("{}", 5, "print(provenance(seed=0))", tags=["nbval-ignore-output"])
    return new_notebook(
        cells=[
            new_markdown_cell(FIRST),
            new_markdown_cell("## Parameters"),
            start,
            printing("fast mode: model tiny", 2),
            printing("0.1", 3),
            shown,
            new_markdown_cell(LAST),
            end,
        ],
        metadata={"kernelspec": KERNEL},
    )


def course(folder: Path, *names: str) -> Path:
    """A folder of notebooks that are never executed, each called after its file."""
    folder.mkdir()
    for name in names:
        number, _, rest = name.partition("_")
        cells = [new_markdown_cell(FIRST.replace("Title", rest.capitalize()))]
        cells[0].id = f"first-{number}"
        nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder
