"""Execute the notebooks again, and write their contents and links.

Usage: python scripts/notebooks.py [NAME ...] [--check | --links]    (make notebooks)

Notebooks are read in the order of their file names. A further one is a further file: links and
contents follow from the files that are there. Each runs in a fresh kernel of this Python, in its
own folder, on one thread and without a network. What differs between two runs with the same results
(ids, versions, timings, widget state) is removed; outputs and execution counts stay, as comparing
means nothing without them.
"""

import argparse
import difflib
import os
import re
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_markdown_cell

from attcot_analysis.errors import NotebookError, passing

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
CONTENTS = "README.md"
"""The contents page, in the folder of the notebooks."""
COMPARED_TYPES = ("text/plain", "text/html", "text/latex", "image/svg+xml")
"""What nbval compares of an output."""
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

CELL_TIMEOUT = 600
"""Seconds that a cell may take."""
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

H1 = re.compile(r"# (?P<name>[^:\n]+): (?P<question>[^\n]+\?)")
"""The first line of a notebook: its name and the question it answers."""
NEEDS = re.compile(r"^\*\*You need\*\* (?P<needs>[^\n]+?\.)(?:\s|$)", re.MULTILINE)
"""What its reader needs; the first sentence goes into the contents."""
_FILE = re.compile(r"(?P<number>\d\d)_\w+")

# `<Figure size ...>` and other bare reprs stay the same whatever the figure shows.
_BARE_REPR = re.compile(r"\s*(?:<[\w.]+[^<>]*>)?\s*")
_LINK = r"\[[^\]\n]*\]\([^)\n]*\)"
_LINKS = re.compile(rf"(?:← )?{_LINK}(?: · {_LINK})*(?: →)?")

_CONTENTS_HEAD = """# Notebooks

Read them in this order, or start with the question that is yours. They are stored with the outputs of
fast mode: the model and data that ship with the project, on the CPU, without a network. To run one on your own
model and problems, change its parameters cell; at its end it says what else to change.

| Notebook | Question | Needs |
|---|---|---|
"""  # noqa: E501
_HOSTED = "[Colab]({colab}/{place}/blob/main/notebooks/{name}) · [Binder]({binder}/{place}/main?labpath=notebooks/{name})"  # noqa: E501
_HOSTS = {
    "colab": "https://colab.research.google.com/github",
    "binder": "https://mybinder.org/v2/gh",
}
_CONTENTS_END = """
`make lab` opens them, `python scripts/notebooks.py` executes them again and writes this page and the links between
them, `python scripts/notebooks.py --check` only compares. What a notebook must have: [CONTRIBUTING](../CONTRIBUTING.md#notebooks).
In VS Code, on Colab or on a server: [recipes](../docs/recipes.md#notebooks-in-vs-code-on-colab-on-a-server).
"""  # noqa: E501


@dataclass(frozen=True)
class Chapter:
    """A notebook of the course.

    Attributes:
        path: The file.
        number: The two digits its name starts with, which give the order.
        name: What it is called, from its heading.
        question: What it answers, from its heading.
        needs: Time and memory, from its first cell.
    """

    path: Path
    number: str
    name: str
    question: str
    needs: str

    @property
    def label(self) -> str:
        """Number and name, as links show them."""
        return f"{self.number} {self.name}"


@dataclass(frozen=True)
class Built:
    """What became of one notebook.

    Attributes:
        path: The file.
        seconds: How long it ran.
        faults: What is wrong: it does not run, or, when checked, differs from what is stored. Empty
            if nothing is.
    """

    path: Path
    seconds: float
    faults: tuple[str, ...]

    def __str__(self) -> str:
        """One line, and one per fault."""
        lines = [f"{self.path.stem:32s} {self.seconds:6.1f} s"]
        return "\n".join([*lines, *(f"  {fault}" for fault in self.faults)])


def notebook_paths(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """The notebooks whose file names start with one of these; all of them if none is given.

    Raises:
        NotebookError: If there is no such folder, a name fits no notebook, or there are none.
    """
    if not folder.is_dir():
        raise NotebookError(f"There is no folder of notebooks at {folder}; name another folder.")
    paths = sorted(path for path in folder.glob("*.ipynb") if not path.name.startswith("."))
    for name in names:
        if not any(path.name.startswith(name) for path in paths):
            raise NotebookError(
                f"No notebook starts with {name!r}; there are {[path.stem for path in paths]}."
            )
    if not paths:
        raise NotebookError(f"There is no notebook in {folder}; name another folder.")
    return [path for path in paths if path.name.startswith(tuple(names) or "")]


def read_chapter(path: Path, notebook: Any) -> Chapter:
    """Read what a notebook says of itself.

    Args:
        path: Its file.
        notebook: Its content, as nbformat reads it.

    Raises:
        NotebookError: If the file name or the first cell lacks something.
    """
    file = _FILE.fullmatch(path.stem)
    if file is None:
        raise NotebookError(f"{path.name} is no name for a notebook; expected such as 07_name.")
    first = notebook.cells[0] if notebook.cells else {"cell_type": "", "source": ""}
    source = first["source"] if first["cell_type"] == "markdown" else ""
    heading = H1.fullmatch(source.split("\n", 1)[0])
    if heading is None:
        raise NotebookError(
            f"{path.name} must start with the line '# Name: question?', its name and what it asks."
        )
    needs = NEEDS.search(source)
    if needs is None:
        raise NotebookError(
            f"{path.name} does not say in its first cell what its reader needs; expected a "
            "paragraph that starts with **You need**."
        )
    return Chapter(path, file["number"], heading["name"], heading["question"], needs["needs"])


def build_notebooks(
    names: Sequence[str] = (), *, folder: Path = FOLDER, check: bool = False
) -> Iterator[Built]:
    """Execute notebooks again and store their outputs; then write contents and links of them all.

    A notebook that raises is left as it was.

    Args:
        names: How the names of the notebooks start, such as ``"01"``; default all.
        folder: Where they are.
        check: Only compare: with what is stored, text by text; nothing is written.

    Yields:
        What became of each notebook when it is done, and with `check` of every file whose contents
        or links are out of date.

    Raises:
        NotebookError: If a name fits no notebook, or a file is no notebook or says nothing of
            itself.
    """
    for path in notebook_paths(folder, names):
        yield _built(path, check)
    yield from link_notebooks(folder, check=check)


def link_notebooks(folder: Path = FOLDER, *, check: bool = False) -> list[Built]:
    """Write the contents page and every notebook's links; nothing is executed.

    Args:
        folder: Where the notebooks are.
        check: Only compare.

    Returns:
        With `check` the files that are out of date, else nothing.

    Raises:
        NotebookError: If a file is no notebook or says nothing of itself.
    """
    stale = []
    for path, content in _linked(folder):
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            stale.append(path)
            if not check:
                path.write_text(content, encoding="utf-8")
    fault = "contents or links are out of date; run `python scripts/notebooks.py --links`"
    return [Built(path, 0.0, (fault,)) for path in stale if check]


def _built(path: Path, check: bool) -> Built:
    start = time.perf_counter()
    faults: list[str] = []
    try:
        run = execute(path)
    except NotebookError as error:
        faults.append(str(error))
    else:
        if check:
            faults += differences(read(path), run)
        else:
            write(run, path)
    seconds = time.perf_counter() - start
    return Built(path, seconds, tuple(faults))


def _linked(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files of the course whose text depends on which notebooks there are, and that text."""
    paths = notebook_paths(folder)
    notebooks = [read(path) for path in paths]
    chapters = [read_chapter(*pair) for pair in zip(paths, notebooks, strict=True)]
    for chapter, notebook in zip(chapters, notebooks, strict=True):
        set_links(notebook, links_of(chapters, chapter))
        yield chapter.path, text(notebook)
    yield folder / CONTENTS, contents_page(chapters, repository())


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
    reports = []
    for index, (old, new) in enumerate(zip(stored.cells, fresh.cells, strict=True)):
        if new.cell_type != "code" or is_marked(new, "nbval-ignore-output"):
            continue
        if old.get("execution_count") is None and old.source.strip():
            reports.append(f"cell {index} was stored without having run")
        before, after = _texts(old), _texts(new)
        if before != after:
            lines = difflib.unified_diff(before, after, "stored", "now", n=0, lineterm="")
            shown = list(lines)[2 : 2 + _SHOWN_LINES]
            reports.append("\n    ".join([f"cell {index} prints something else", *shown]))
    return reports


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


def is_marked(cell: Any, tag: str) -> bool:
    """Whether a cell has one of nbval's marks, which it reads from tags and from comments."""
    return tag in cell.metadata.get("tags", []) or tag.upper().replace("-", "_") in cell.source


def is_bare(text: str) -> bool:
    """Whether a text is empty or a repr that says nothing of what an object holds."""
    return _BARE_REPR.fullmatch(text) is not None


def links_of(chapters: Sequence[Chapter], chapter: Chapter) -> str:
    """The line of links of one notebook: ← before · contents · after →."""
    at = [other.path.name for other in chapters].index(chapter.path.name)
    parts = []
    if at > 0:
        parts.append(f"← {_link(chapters[at - 1])}")
    parts.append(f"[contents]({CONTENTS})")
    if at + 1 < len(chapters):
        parts.append(f"{_link(chapters[at + 1])} →")
    return " · ".join(parts)


def set_links(notebook: Any, line: str) -> None:
    """Put a line of links under the heading and into the last cell, replacing older ones.

    Args:
        notebook: As nbformat reads it; it must have a heading.
        line: From `links_of`.
    """
    first, last = notebook.cells[0], notebook.cells[-1]
    heading, *rest = first["source"].split("\n\n")
    if rest and _LINKS.fullmatch(rest[0].strip()):
        rest = rest[1:]
    first["source"] = "\n\n".join([heading, line, *rest])
    if last["cell_type"] == "markdown" and _LINKS.fullmatch(last["source"].strip()):
        last["source"] = line
    else:
        notebook.cells.append(new_markdown_cell(line, id=f"cell-{len(notebook.cells):02d}"))


def repository(project: Path = FOLDER.parent / "pyproject.toml") -> str:
    """Owner and name on GitHub, as ``[project.urls]`` says where; empty if it says nothing."""
    urls = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("urls", {})
    return urls.get("Repository", "").removeprefix("https://github.com/").strip("/")


def contents_page(chapters: Sequence[Chapter], place: str = "") -> str:
    """The contents of the course, as Markdown.

    Args:
        chapters: The notebooks.
        place: A public repository, ``owner/name``: each notebook has links that open it hosted.
    """
    rows = [
        f"| [{chapter.label}]({chapter.path.name}) | {_sentence(chapter.question)} "
        f"| {_sentence(chapter.needs)} |"
        + (f" {_HOSTED.format(place=place, name=chapter.path.name, **_HOSTS)} |" if place else "")
        for chapter in chapters
    ]
    head = _CONTENTS_HEAD
    if place:
        head = head.replace("Needs |", "Needs | Open |").replace("---|\n", "---|---|\n")
    return f"{head}{chr(10).join(rows)}\n{_CONTENTS_END}"


def _link(chapter: Chapter) -> str:
    return f"[{chapter.label}]({chapter.path.name})"


def _sentence(text: str) -> str:
    return (text[:1].upper() + text[1:]).replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; returns 3 if a notebook has a fault."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="how a name starts, such as 01")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: notebooks")
    parser.add_argument("--quiet", action="store_true", help="print faults only")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare only; write nothing")
    mode.add_argument("--links", action="store_true", help="contents and links; execute nothing")
    given = parser.parse_args(arguments)
    if given.links:
        link_notebooks(given.folder)
        return 0
    faulty = False
    for built in build_notebooks(given.names, folder=given.folder, check=given.check):
        faulty |= bool(built.faults)
        if built.faults or not given.quiet:
            print(built, flush=True)
    return 3 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
