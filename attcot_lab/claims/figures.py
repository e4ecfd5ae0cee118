"""The figures of a claims table, saved into a folder."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from attcot_analysis.show.figures import figure_png, save_figure
from attcot_lab.claims import sayo, vista
from attcot_lab.claims.catalogue import CLAIMS
from attcot_lab.claims.claim import Claim
from attcot_lab.claims.forest import claim_forest, claims_overview


def save_claim_figures(
    table: pd.DataFrame, folder: str | Path, claims: Sequence[Claim] = CLAIMS
) -> None:
    """Save the overview and one forest plot per claim, each with its numbers; replaces old ones.

    Args:
        table: From `claims_table`.
        folder: Where to.
        claims: What was tested.
    """
    folder = Path(folder)
    overview = claims_overview(table, {claim.id: claim.title for claim in claims})
    save_figure(overview, folder / "overview", data=table, overwrite=True)
    present = set(table["claim"])
    for claim in claims:
        if claim.id in present:
            figure = claim_forest(
                table, claim.id, title=claim.title, unit=claim.unit, margin=claim.margin
            )
            rows = table[table["claim"] == claim.id]
            save_figure(figure, folder / claim.id, data=rows, overwrite=True)


PICTURED = ("att_accuracy", "att_later", "sayo_adds_focus", "prefix_rationale", "vas_independent")
"""Claims whose forest plots stand on the page, as far as they were tested."""
_FEW = 2
"""No more claims than that need no overview."""


def save_page_pictures(
    table: pd.DataFrame, page: str | Path, claims: Sequence[Claim] = CLAIMS
) -> dict[str, str]:
    """Save the overviews and the `PICTURED` forests as PNG beside a page.

    Args:
        table: From `claims_table`.
        page: The page; its pictures go to ``images`` beside it and begin with its name.
        claims: What was tested.

    Returns:
        Title → path seen from the page.
    """
    page = Path(page)
    images = page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    present = set(table["claim"])
    figures = {}
    for title, name, own in _overviews(claims):
        if len(present & set(own)) > _FEW:
            figures[title] = (name, claims_overview(table, own, title=title))
    for claim in claims:
        if claim.id in PICTURED and claim.id in present:
            forest = claim_forest(
                table, claim.id, title=claim.title, unit=claim.unit, margin=claim.margin
            )
            figures[claim.title] = (claim.id, forest)
    for name, figure in figures.values():
        (images / f"{page.stem}_{name}.png").write_bytes(figure_png(figure))
    return {title: f"images/{page.stem}_{name}.png" for title, (name, _) in figures.items()}


def _overviews(claims: Sequence[Claim]) -> list[tuple[str, str, dict[str, str]]]:
    """Title, file and claims of each overview: one of all would be too tall to read."""
    alone = (sayo.PAPER, vista.PAPER)
    rest = {claim.id: claim.title for claim in claims if claim.paper not in alone}
    found = [("Which claims hold, where", "overview", rest)]
    for paper in alone:
        own = {claim.id: claim.title for claim in claims if claim.paper == paper}
        found.append((f"{paper}: which claims hold, where", f"overview_{paper.lower()}", own))
    return found
