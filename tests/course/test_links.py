"""Contents and links follow from the files that are there, and from nothing else."""

import re
from pathlib import Path

import nbformat
import pytest
from course_files import course

from attcot_analysis.errors import NotebookError
from notebooks import CONTENTS, contents_page, link_notebooks, read_chapter, repository

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = ("00_begin", "01_middle", "02_end")


def links(path: Path, cell: int) -> list[tuple[str, str]]:
    """Text and target of every link of a cell."""
    source = nbformat.read(path, as_version=4).cells[cell].source
    return re.findall(r"\[([^\]]*)\]\(([^)]*)\)", source)


def test_the_committed_contents_and_links_are_up_to_date():
    assert link_notebooks(FOLDER, check=True) == []


def test_every_relative_link_of_the_course_leads_somewhere():
    for path in sorted(FOLDER.glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        targets = re.findall(r"\]\(([^)\s]+)\)", text)
        local = [target for target in targets if not target.startswith("http")]
        assert local
        assert [t for t in local if not (FOLDER / t.split("#")[0]).exists()] == [], path.name


def test_links_lead_before_and_after_at_both_ends_of_a_notebook(tmp_path):
    folder = course(tmp_path / "suite", *NAMES)
    link_notebooks(folder)
    for cell in (0, -1):
        assert links(folder / "00_begin.ipynb", cell) == [
            ("contents", CONTENTS),
            ("01 Middle", "01_middle.ipynb"),
        ]
        assert links(folder / "01_middle.ipynb", cell) == [
            ("00 Begin", "00_begin.ipynb"),
            ("contents", CONTENTS),
            ("02 End", "02_end.ipynb"),
        ]
        assert links(folder / "02_end.ipynb", cell)[-1] == ("contents", CONTENTS)
    first = nbformat.read(folder / "01_middle.ipynb", as_version=4).cells[0].source.split("\n\n")
    assert first[0] == "# Middle: does it hold?" and first[2] == "An introduction."


def test_a_public_address_adds_links_that_open_notebooks_hosted(tmp_path):
    folder = course(tmp_path / "suite", *NAMES)
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\n[project.urls]\nRepository = "https://github.com/me/mine"\n')
    place = repository(project)
    link_notebooks(folder)
    chapters = [
        read_chapter(path, nbformat.read(path, 4)) for path in sorted(folder.glob("*.ipynb"))
    ]
    page = contents_page(chapters, place)
    for host in ("colab.research.google.com/github/", "mybinder.org/v2/gh/"):
        assert page.count(f"https://{host}me/mine/") == len(NAMES)
    assert "/blob/main/notebooks/01_middle.ipynb)" in page
    table = [line.count("|") for line in page.splitlines() if line.startswith("|")]
    assert set(table) == {5} and len(table) == len(NAMES) + 2
    project.write_text("[project]\n")
    assert repository(project) == ""
    assert "colab.research" not in contents_page(chapters, repository(project))


def test_a_further_notebook_needs_no_edit_by_hand(tmp_path):
    folder = course(tmp_path / "suite", *NAMES[:2])
    link_notebooks(folder)
    cells = len(nbformat.read(folder / "01_middle.ipynb", as_version=4).cells)
    (course(tmp_path / "more", NAMES[2]) / "02_end.ipynb").rename(folder / "02_end.ipynb")
    stale = link_notebooks(folder, check=True)
    assert {built.path.name for built in stale} == {"01_middle.ipynb", "02_end.ipynb", CONTENTS}
    assert all("--links" in built.faults[0] for built in stale)
    link_notebooks(folder)
    assert link_notebooks(folder, check=True) == []
    assert links(folder / "01_middle.ipynb", -1)[-1] == ("02 End", "02_end.ipynb")
    assert len(nbformat.read(folder / "01_middle.ipynb", as_version=4).cells) == cells
    rows = [line for line in (folder / CONTENTS).read_text().splitlines() if "ipynb" in line]
    assert rows[2] == "| [02 End](02_end.ipynb) | Does it hold? | A minute of time. |"
    assert len(rows) == 3


def test_writing_links_twice_changes_nothing(tmp_path):
    folder = course(tmp_path / "suite", *NAMES)
    link_notebooks(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    link_notebooks(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_what_cannot_be_linked_is_named(tmp_path):
    with pytest.raises(NotebookError, match="no folder of notebooks"):
        link_notebooks(tmp_path / "missing")
    folder = course(tmp_path / "suite", "00_begin", "end")
    with pytest.raises(NotebookError, match=r"end\.ipynb is no name for a notebook"):
        link_notebooks(folder)
    (folder / "end.ipynb").unlink()
    (folder / "01_broken.ipynb").write_text("{")
    with pytest.raises(NotebookError, match=r"01_broken\.ipynb cannot be read as a notebook"):
        link_notebooks(folder)
