"""The contact sheet of edits: every edited picture beside its original, to accept or reject."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from attcot_analysis.errors import ShowError
from attcot_analysis.files import write_bytes
from attcot_analysis.problems.decisions import DECISIONS, Decisions
from attcot_analysis.problems.edits import EditKind, EditOptions, edited_images
from attcot_analysis.problems.objects import PictureEdit
from attcot_analysis.problems.problem import Problem
from attcot_analysis.show.html import render, script_source, static_text

_SCRIPT = "templates/edit_sheet.js"


def write_edit_sheet(
    problems: Sequence[Problem],
    kinds: Sequence[EditKind],
    path: str | Path,
    *,
    only: Sequence[int] | None = None,
    decisions: Decisions | None = None,
    options: EditOptions | None = None,
) -> dict[str, int]:
    """Write a page with before, after, mask and difference of every edit, to go through by key.

    The page holds its pictures and asks for nothing over the network. It keeps decisions while it
    is open and saves them as a file (key s), which ``attcot edits keep`` puts into the folder.

    Args:
        problems: The items.
        kinds: Which edits.
        path: The page.
        only: Places of the items to show; the others are there to lend their pictures.
        decisions: Earlier ones, to start from.
        options: How to blur and occlude.

    Returns:
        Per edit how many of the items shown allow it, and are on the page with it.

    Raises:
        MeasureError: If there is no such edit.
        ShowError: If no item shown allows any of them.
        RunError: If the page cannot be written.
    """
    places = range(len(problems)) if only is None else only
    rows: list[dict[str, Any]] = []
    for at in places:
        for kind in kinds:
            for one in edited_images(problems, kind, only=[at], options=options):
                own = (
                    problems[at] if problems[at].n_images == 1 else problems[at].alone(one.picture)
                )
                # Safe: made of our own tags, with all text escaped.
                shown = Markup(PictureEdit(own, one)._repr_html_())
                before = (decisions or {}).get(problems[at].id, {}).get(kind, "")
                rows.append(
                    {"problem": problems[at], "kind": kind, "shown": shown, "decision": before}
                )
    if not rows:
        raise ShowError(
            f"None of the {len(places)} items shown allows any of the edits {', '.join(kinds)}; "
            "name others, or give items with twins or evidence boxes."
        )
    script = static_text(_SCRIPT)
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {script_source(script)}"
    )
    values = {
        "title": f"{len(rows)} edits of {len({row['problem'].id for row in rows})} items",
        "policy": policy,
        "script": Markup(script),
        "rows": rows,
        "file": DECISIONS,
    }
    write_bytes(Path(path), render("templates/edit_sheet.html.j2", values).encode())
    return {kind: sum(row["kind"] == kind for row in rows) for kind in kinds}
