"""The way through the course: links to the notebooks before and after, and the contents page.

Both are made from the files that are there, so a further notebook needs no edit by hand.
"""

import re
from collections.abc import Sequence
from typing import Any

from course.chapters import Chapter

CONTENTS = "README.md"
"""The contents page, in the folder of the notebooks."""

_LINK = r"\[[^\]\n]*\]\([^)\n]*\)"
_LINKS = re.compile(rf"(?:← )?{_LINK}(?: · {_LINK})*(?: →)?")


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
    from nbformat.v4 import new_markdown_cell

    first, last = notebook.cells[0], notebook.cells[-1]
    heading, *rest = first["source"].split("\n\n")
    if rest and _LINKS.fullmatch(rest[0].strip()):
        rest = rest[1:]
    first["source"] = "\n\n".join([heading, line, *rest])
    if last["cell_type"] == "markdown" and _LINKS.fullmatch(last["source"].strip()):
        last["source"] = line
    else:
        notebook.cells.append(new_markdown_cell(line, id=f"cell-{len(notebook.cells):02d}"))


def contents_page(chapters: Sequence[Chapter]) -> str:
    """The contents of the course, as Markdown."""
    rows = [
        f"| [{chapter.label}]({chapter.path.name}) | {_sentence(chapter.question)} "
        f"| {_sentence(chapter.needs)} |"
        for chapter in chapters
    ]
    return "\n".join(
        [
            "# Notebooks",
            "",
            "Read them in this order, or start with the question that is yours. They are stored "
            "with the outputs of",
            "fast mode: the model and data that ship with the project, on the CPU, without a "
            "network. Each runs on your own",
            "model and problems when the strings of its parameters cell are changed, and says at "
            "its end what else to change.",
            "",
            "| Notebook | Question | Needs |",
            "|---|---|---|",
            *rows,
            "",
            "`make lab` opens them, `python scripts/notebooks.py` executes them again and writes "
            "this page and the links between",
            "them, `python scripts/notebooks.py --check` only compares. What a notebook must have: "
            "[CONTRIBUTING](../CONTRIBUTING.md#notebooks).",
            "",
        ]
    )


def _link(chapter: Chapter) -> str:
    return f"[{chapter.label}]({chapter.path.name})"


def _sentence(text: str) -> str:
    return (text[:1].upper() + text[1:]).replace("|", "\\|")
