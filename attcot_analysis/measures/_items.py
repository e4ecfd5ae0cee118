"""What every measurement does with its items and its table, once."""

import pandas as pd

from attcot_analysis.errors import MeasureError


def need_columns(table: pd.DataFrame, name: str, columns: tuple[str, ...]) -> None:
    """Raise `MeasureError` naming the columns that a table lacks."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise MeasureError(
            f"The table {name} lacks {', '.join(missing)}; give it as the measurement returned it."
        )
