"""The course of notebooks: executed again, held to its form, its contents and links written.

Notebooks are read in the order of their file names. A further one is a further file: links and
contents follow from the files that are there.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from attcot_analysis.errors import NotebookError
from course.chapters import course_folder, notebook_paths, read_chapter
from course.form import form_faults
from course.links import CONTENTS, contents_page, links_of, set_links

__all__ = ["Built", "build_notebooks", "course_folder", "link_notebooks"]


@dataclass(frozen=True)
class Built:
    """What became of one notebook.

    Attributes:
        path: The file.
        seconds: How long it ran.
        faults: What is wrong: it does not run, lacks the form, or, when checked, differs from
            what is stored. Empty if nothing is.
    """

    path: Path
    seconds: float
    faults: tuple[str, ...]

    def __str__(self) -> str:
        """One line, and one per fault."""
        lines = [f"{self.path.stem:32s} {self.seconds:6.1f} s"]
        return "\n".join([*lines, *(f"  {fault}" for fault in self.faults)])


def build_notebooks(
    names: Sequence[str] = (),
    *,
    folder: str | Path | None = None,
    check: bool = False,
    report: Callable[[Built], object] | None = None,
) -> list[Built]:
    """Execute notebooks again and store their outputs; then write contents and links of them all.

    Each runs in a fresh kernel of this Python, in its own folder, on one thread and without a
    network. A notebook that raises is left as it was; one that runs but lacks the form of
    `form_faults` is stored and reported.

    Args:
        names: How the names of the notebooks start, such as ``"01"``; default all.
        folder: Where they are; default ``notebooks``, here or beside the package.
        check: Only compare: with what is stored, text by text; nothing is written.
        report: Called with each notebook when it is done.

    Returns:
        One entry per notebook, and with `check` one for the contents page if it is out of date.

    Raises:
        NotebookError: If a name fits no notebook, a file is no notebook or says nothing of
            itself, or nbclient is not installed.
    """
    where = course_folder(folder)
    execution = _execution()
    done = []
    for path in notebook_paths(where, names):
        done.append(_built(execution, path, check))
        if report is not None:
            report(done[-1])
    for late in link_notebooks(where, check=check):
        done.append(late)
        if report is not None:
            report(late)
    return done


def link_notebooks(folder: str | Path | None = None, *, check: bool = False) -> list[Built]:
    """Write the contents page and every notebook's links; nothing is executed.

    Args:
        folder: Where the notebooks are.
        check: Only compare.

    Returns:
        With `check` the files that are out of date, else nothing.

    Raises:
        NotebookError: If a file is no notebook or says nothing of itself.
    """
    where = course_folder(folder)
    execution = _execution()
    stale = []
    for path, text in _linked(execution, where):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                path.write_text(text, encoding="utf-8")
    fault = "contents or links are out of date; run `python scripts/notebooks.py --links`"
    return [Built(path, 0.0, (fault,)) for path in stale if check]


def _built(execution: ModuleType, path: Path, check: bool) -> Built:
    start = time.perf_counter()
    faults: list[str] = []
    try:
        run = execution.execute(path)
    except NotebookError as error:
        faults.append(str(error))
    else:
        if check:
            faults += execution.differences(execution.read(path), run)
        else:
            execution.write(run, path)
    seconds = time.perf_counter() - start
    if not faults:
        faults += form_faults(path, execution.read(path))
    return Built(path, seconds, tuple(faults))


def _linked(execution: ModuleType, folder: Path) -> Iterator[tuple[Path, str]]:
    """The files of the course whose text depends on which notebooks there are, and that text."""
    paths = notebook_paths(folder)
    notebooks = [execution.read(path) for path in paths]
    chapters = [read_chapter(*pair) for pair in zip(paths, notebooks, strict=True)]
    for chapter, notebook in zip(chapters, notebooks, strict=True):
        set_links(notebook, links_of(chapters, chapter))
        yield chapter.path, execution.text(notebook)
    yield folder / CONTENTS, contents_page(chapters)


def _execution() -> ModuleType:
    """The part that needs nbclient and nbformat, which only the notebooks extra brings."""
    try:
        from course import execution
    except ModuleNotFoundError as error:
        if error.name not in ("jupyter_client", "nbclient", "nbformat"):
            raise
        raise NotebookError(
            f"Building notebooks needs {error.name}, which is not installed; "
            "run `pip install 'attcot-analysis[notebooks]'`."
        ) from error
    return execution
