"""The figures of a claims table, saved into a folder."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from attcot_analysis.claims.catalogue import CLAIMS
from attcot_analysis.measure.claim import Claim
from attcot_analysis.show.figures import save_figure
from attcot_analysis.show.forest import claim_forest, claims_overview


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
