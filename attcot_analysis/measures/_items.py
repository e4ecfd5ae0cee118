"""What every measurement does with its items and its table, once."""

from collections.abc import Sequence

import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.models import Mllm, encode_problem
from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import EditedImage


def need_columns(table: pd.DataFrame, name: str, columns: tuple[str, ...]) -> None:
    """Raise `MeasureError` naming the columns that a table lacks."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise MeasureError(
            f"The table {name} lacks {', '.join(missing)}; give it as the measurement returned it."
        )


def seen_edits(
    mllm: Mllm, problems: Sequence[Problem], edited: Sequence[EditedImage]
) -> list[EditedImage]:
    """The edits of which the model sees something: a processor that crops may hide all of one.

    Where the model's input stays the same, that its answer does is no finding.
    """
    sees = {
        at: encode_problem(mllm, problems[at]).layout.grids[0].sees
        for at in {one.at for one in edited if one.boxes}
    }
    return [one for one in edited if not one.boxes or sees[one.at](one.boxes)]
