"""`Chapter`: one notebook of the course, as its file name and first cell describe it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attcot_analysis.errors import NotebookError

H1 = re.compile(r"# (?P<name>[^:\n]+): (?P<question>[^\n]+\?)")
"""The first line of a notebook: its name and the question it answers."""
NEEDS = re.compile(r"^\*\*You need\*\* (?P<needs>[^\n]+?\.)(?:\s|$)", re.MULTILINE)
"""What its reader needs; the first sentence goes into the contents."""
_FILE = re.compile(r"(?P<number>\d\d)_\w+")


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


def course_folder(folder: str | Path | None = None) -> Path:
    """The folder of notebooks: the given one, else ``notebooks`` here or beside the package.

    Raises:
        NotebookError: If it is no folder.
    """
    beside = Path(__file__).resolve().parents[2] / "notebooks"
    here = Path("notebooks")
    found = Path(folder) if folder is not None else here if here.is_dir() else beside
    if not found.is_dir():
        raise NotebookError(
            f"There is no folder of notebooks at {found}; run from a checkout of the project or "
            "a folder that `attcot demo` made, or name the folder."
        )
    return found


def notebook_paths(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """The notebooks whose file names start with one of these; all of them if none is given.

    Raises:
        NotebookError: If a name fits no notebook, or there are none.
    """
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
