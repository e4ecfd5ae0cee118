"""Values: from one run's tables to one number per item and metric."""

import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.causal_tables import GROUP, causal_items
from attcot_analysis.measures.dependence import prior_reliance
from attcot_analysis.measures.trajectory import access_trajectory
from attcot_analysis.stats.catalogue import METRICS

COLUMNS = ("model", "seed", "item", "metric", "value")
"""Columns of the table of values."""

_COMMITMENT = {
    "p0_final": "p0_final",
    "p0_answer": "p0_answer",
    "p0_habitual": "p0_habitual",
    "commitment_position": "commitment_position",
    "area": "commitment_area",
    "premature": "premature",
    "corrective": "corrective",
    "corruptive": "corruptive",
}
_ACCESS = ("mass", "mass_last_step", "mass_slope", "share", "density", "evidence_share")
_FOCUS = ("focus", "unfocused_first_step", "refocused")
_DEPENDENCE = {
    ("twin", "regenerated", "followed"): "follow_twin",
    ("control", "regenerated", "flipped"): "flip_control",
    ("blank", "regenerated", "flipped"): "flip_blank",
    ("twin", "fixed", "delta_log_p"): "delta_log_p_twin",
    ("control", "fixed", "delta_log_p"): "delta_log_p_control",
    ("blank", "fixed", "delta_log_p"): "delta_log_p_blank",
    ("occlude", "fixed", "delta_log_p"): "delta_log_p_occlude",
    ("occlude_control", "fixed", "delta_log_p"): "delta_log_p_occlude_control",
}
_NET = {
    "net_dependence": ("delta_log_p_twin", "delta_log_p_control"),
    "net_occlusion": ("delta_log_p_occlude", "delta_log_p_occlude_control"),
}
_CAUSAL = {
    "knockout": "delta_log_p_knockout",
    "mean_value": "delta_log_p_mean_value",
    "removal": "delta_log_p_removal",
}

Columns = dict[str, pd.Series]


def item_values(
    *,
    model: str,
    seed: int,
    cot: pd.DataFrame | None = None,
    direct: pd.DataFrame | None = None,
    text_only: pd.DataFrame | None = None,
    commitment: pd.DataFrame | None = None,
    access: pd.DataFrame | None = None,
    dependence: pd.DataFrame | None = None,
    causal: pd.DataFrame | None = None,
    focus: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Turn one run's tables into one long table of metric values per item.

    Args:
        model: Name of the arm, such as ``"base"`` or ``"att_cot"``.
        seed: Its training seed; any one number for an arm that has only one.
        cot: From `answer_problems`.
        direct: From ``answer_problems(..., mode="direct")``.
        text_only: From ``answer_problems(..., text_only=True)``.
        commitment: From `commitment_items`; rows of control rationales are left out.
        access: From `visual_access` or `access_trajectory`.
        dependence: From `dependence`.
        causal: From `causal_access` or `causal_items`; read are the fixed rationales, cut in all
            layers from step 0 on.
        focus: From `focus_items`.

    Returns:
        ``model``, ``seed``, ``item``, ``metric`` (a name in `METRICS`), ``value`` (float; shares
        as 0 and 1; NaN where the metric is not defined for the item). Only what the given
        tables allow is there.

    Raises:
        MeasureError: If no table is given, one lacks columns or holds an item twice, or a table
            of answers was made in another mode.
    """
    columns: Columns = {}
    if cot is not None:
        columns |= _answers(cot, "cot")
    if direct is not None:
        columns |= _answers(direct, "direct")
    if text_only is not None:
        found = _by_item(text_only, "text_only", ("habitual", "text_only"))
        if not found["text_only"].all():
            raise MeasureError(
                "The table text_only was made with the picture; use text_only=True for it."
            )
        columns["habitual_text_only"] = _floats(found["habitual"])
        if cot is not None:
            reliance = prior_reliance(cot, text_only).set_index("item")
            columns["prior_agreement"] = _floats(reliance["agrees"])
            columns["prior_override"] = _floats(reliance["overridden"])
    if commitment is not None:
        columns |= _commitment(commitment)
    if access is not None:
        items = access if "mass_slope" in access.columns else access_trajectory(access)
        found = _by_item(items, "access", _ACCESS)
        columns |= {name: _floats(found[name]) for name in _ACCESS}
    if focus is not None:
        found = _by_item(focus, "focus", _FOCUS)
        columns |= {name: _floats(found[name]) for name in _FOCUS}
    if dependence is not None:
        columns |= _dependence(dependence)
    if causal is not None:
        columns |= _causal(causal)
    if not columns:
        raise MeasureError(
            "No table was given, or none with rows; give at least one measurement's table."
        )
    frames = [
        pd.DataFrame(
            {
                "model": model,
                "seed": seed,
                "item": columns[name].index,
                "metric": name,
                "value": columns[name].to_numpy(),
            }
        )
        for name in METRICS
        if name in columns
    ]
    return pd.concat(frames, ignore_index=True)


def _answers(table: pd.DataFrame, mode: str) -> Columns:
    found = _by_item(table, mode, ("correct", "habitual", "answer", "mode", "text_only"))
    if (found["mode"] != mode).any() or found["text_only"].any():
        raise MeasureError(
            f"The table {mode} was not made by answer_problems(..., mode={mode!r}) with the "
            "picture; give that one."
        )
    return {
        f"accuracy_{mode}": _floats(found["correct"]),
        f"unparsed_{mode}": _floats(found["answer"].isna()),
        f"habitual_{mode}": _floats(found["habitual"]),
    }


def _commitment(table: pd.DataFrame) -> Columns:
    if "candidate" in table.columns:
        raise MeasureError(
            "The commitment table has a row per candidate; reduce it with commitment_items() first."
        )
    if "control" in table.columns:
        table = table[table["control"] == "rationale"]
    found = _by_item(table, "commitment", (*_COMMITMENT, "correct", "leak_step"))
    columns = {metric: _floats(found[column]) for column, metric in _COMMITMENT.items()}
    premature = found["premature"].astype(bool) & ~found["correct"].astype(bool)
    columns["premature_wrong"] = _floats(premature)
    columns["leaked"] = _floats(found["leak_step"].notna())
    return columns


def _dependence(table: pd.DataFrame) -> Columns:
    need_columns(
        table, "dependence", ("item", "edit", "rationale", "followed", "flipped", "delta_log_p")
    )
    columns: Columns = {}
    for (edit, rationale, column), name in _DEPENDENCE.items():
        part = table[(table["edit"] == edit) & (table["rationale"] == rationale)]
        if len(part):
            columns[name] = _floats(_by_item(part, "dependence", (column,))[column])
    for name, (edit, control) in _NET.items():
        if edit in columns and control in columns:
            columns[name] = columns[edit] - columns[control]
    return columns


def _causal(table: pd.DataFrame) -> Columns:
    items = table if "delta_log_p_area" in table.columns else causal_items(table)
    need_columns(items, "causal", ("item", "k", "delta_log_p", *GROUP))
    whole = (items["first_layer"] == 0) & (items["last_layer"] == items["last_layer"].max())
    items = items[whole & (items["keys"] == "image") & (items["rationale"] == "fixed")]
    columns: Columns = {}
    for kind, name in _CAUSAL.items():
        part = items[(items["kind"] == kind) & (items["rows"] == "both")]
        if kind != "removal":
            part = part[part["k"] == 0]
        if len(part):
            columns[name] = _floats(_by_item(part, "causal", ("delta_log_p",))["delta_log_p"])
    return columns


def _by_item(table: pd.DataFrame, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
    need_columns(table, name, ("item", *columns))
    twice = table["item"][table["item"].duplicated()]
    if len(twice):
        raise MeasureError(
            f"The table {name} holds item {twice.iloc[0]} twice; give the table of one run."
        )
    return table.set_index("item")


def need_columns(table: pd.DataFrame, name: str, columns: tuple[str, ...]) -> None:
    """Raise `MeasureError` naming the columns that a table lacks."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise MeasureError(
            f"The table {name} lacks {', '.join(missing)}; give it as the measurement returned it."
        )


def _floats(column: pd.Series) -> pd.Series:
    if column.dtype == object:
        column = column.astype("boolean")
    return column.astype("Float64").astype(float)
