"""Metrics of edited pictures beyond one edit's log p: repeats, insensitivity, decay over blur."""

import numpy as np
import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems.whole import BLURS
from attcot_analysis.stats.crossed import step_curve

INSENSITIVE = 0.1
"""Nats within which an answer counts as untouched by an edit."""

BLUR_KINDS = tuple(f"blur_{number}" for number in range(1, len(BLURS) + 1))


def edit_values(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Metrics of each item that a table of `dependence` allows.

    Returns:
        Metric → values by item, floats: ``repeat_occlude``, ``flip_occlude_control``,
        ``insensitive_occlude``, ``blur_area``; see `METRICS`.
    """
    found = {}
    hidden = _rows(table, "occlude", "regenerated")
    if len(hidden):
        found["repeat_occlude"] = 1 - hidden["flipped"].astype("Float64")
    control = _rows(table, "occlude_control", "regenerated")
    if len(control):
        found["flip_occlude_control"] = control["flipped"].astype("Float64")
    fixed = _rows(table, "occlude", "fixed")
    if len(fixed):
        same = ~fixed["flipped"].astype("boolean") & (fixed["delta_log_p"].abs() <= INSENSITIVE)
        found["insensitive_occlude"] = same.astype("Float64")
    blurred = table[table["edit"].isin(BLUR_KINDS) & (table["rationale"] == "fixed")]
    if len(blurred):
        wide = _blurs(blurred).pivot(index="item", columns="blur", values="value")
        p = wide.reindex(columns=range(len(BLURS) + 1)).to_numpy(float)
        # NaN where a strength is missing: an area over fewer would be another quantity.
        area = (p[:, :-1] + p[:, 1:]).mean(axis=1) / 2
        found["blur_area"] = pd.Series(area, index=wide.index)
    return {name: values.astype(float) for name, values in found.items()}


def blur_curve(table: pd.DataFrame, *, n_boot: int = 2000) -> pd.DataFrame:
    """Probability of the own answer over the strength of a blur, rationale fixed, with intervals.

    Args:
        table: Of `dependence` with ``edits=("blur_1", ..., "blur_5")``.
        n_boot: Resamples.

    Returns:
        One row per strength: ``blur`` (0: the picture itself, to 5), ``share`` (standard deviation
        over the shorter side), ``value``, ``low``, ``high``, ``n`` (items).

    Raises:
        MeasureError: If the table has no blurred pictures.

    Source: decay over blur as in arXiv 2606.06890 (reconstruction), whose strengths are not ours.
    """
    rows = table[table["edit"].isin(BLUR_KINDS) & (table["rationale"] == "fixed")]
    if rows.empty:
        raise MeasureError(
            "The table of dependence has no blurred pictures with the rationale fixed; measure "
            f"edits={BLUR_KINDS}."
        )
    curve = step_curve({0: _blurs(rows)}, axis="blur", n_boot=n_boot).drop(columns="n_seeds")
    curve.insert(1, "share", [(0.0, *BLURS)[step] for step in curve["blur"]])
    return curve


def _blurs(rows: pd.DataFrame) -> pd.DataFrame:
    """``item``, ``blur``, ``value``: p of the own answer on every blur, and on the picture as 0."""
    numbers = rows["edit"].map({kind: at for at, kind in enumerate(BLUR_KINDS, 1)})
    after = rows.assign(blur=numbers, value=np.exp(rows["log_p_after"]))
    before = rows.drop_duplicates("item").assign(
        blur=0, value=lambda first: np.exp(first["log_p_before"])
    )
    return pd.concat([before, after])[["item", "blur", "value"]]


def _rows(table: pd.DataFrame, edit: str, rationale: str) -> pd.DataFrame:
    return table[(table["edit"] == edit) & (table["rationale"] == rationale)].set_index("item")
