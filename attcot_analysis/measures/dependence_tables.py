"""Dependence tables reduced: edits against their controls, answers with and without picture."""

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd

from attcot_analysis.errors import MeasureError

CONTROL_OF: Mapping[str, str] = MappingProxyType({"twin": "control", "occlude": "occlude_control"})
"""Edits that change the evidence → the edit as large that leaves it."""
_COLUMNS = ("item", "edit", "rationale", "flipped", "delta_log_p")


def net_dependence(table: pd.DataFrame, edit: str = "twin") -> pd.DataFrame:
    """What an edit of the evidence does beyond an edit as large that leaves the evidence.

    Args:
        table: From `dependence`, one run, with the edit and its control.
        edit: ``"twin"`` (against ``"control"``) or ``"occlude"`` (against
            ``"occlude_control"``).

    Returns:
        One row per item and rationale that has both: ``item``, ``edit``, ``rationale``;
        ``delta_log_p``, ``delta_log_p_control``, ``net`` (their difference, nats);
        ``flipped``, ``flipped_control``, ``net_flipped`` (their difference, −1, 0 or 1; missing
        where either is). Average ``net`` with `bootstrap_mean`.

    Raises:
        MeasureError: If the table lacks columns, an edit or its control, holds an item twice, or
            no item has both.

    Source: net form as in CED, arXiv 2608.08021; reconstruction of arXiv 2606.01558.
    """
    if edit not in CONTROL_OF:
        raise MeasureError(
            f"{edit!r} has no matched control; choose {' or '.join(map(repr, CONTROL_OF))}."
        )
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise MeasureError(
            f"The table of dependence lacks {', '.join(missing)}; make it with dependence()."
        )
    keys = ["item", "rationale"]
    parts = {}
    for kind in (edit, CONTROL_OF[edit]):
        part = table.loc[table["edit"] == kind, [*keys, "delta_log_p", "flipped"]]
        if part.empty or part.duplicated(keys).any():
            fault = "no rows" if part.empty else "an item twice"
            raise MeasureError(
                f"The table of dependence has {fault} for the edit {kind!r}; give one run of "
                f"dependence(..., edits=({edit!r}, {CONTROL_OF[edit]!r}))."
            )
        parts[kind] = part
    both = parts[edit].merge(parts[CONTROL_OF[edit]], on=keys, suffixes=("", "_control"))
    if both.empty:
        raise MeasureError(
            f"No item has both {edit!r} and {CONTROL_OF[edit]!r}; measure both on the same items."
        )
    flips = [both[name].astype("Int64") for name in ("flipped", "flipped_control")]
    return pd.DataFrame(
        {
            "item": both["item"],
            "edit": edit,
            "rationale": both["rationale"],
            "delta_log_p": both["delta_log_p"],
            "delta_log_p_control": both["delta_log_p_control"],
            "net": both["delta_log_p"] - both["delta_log_p_control"],
            "flipped": both["flipped"],
            "flipped_control": both["flipped_control"],
            "net_flipped": flips[0] - flips[1],
        }
    )


def prior_reliance(answers: pd.DataFrame, text_only: pd.DataFrame) -> pd.DataFrame:
    """Hold answers given with the picture against those given without it.

    Args:
        answers: From `answer_problems`, with the picture.
        text_only: From ``answer_problems(..., text_only=True)`` on the same items.

    Returns:
        One row per item: ``item``, ``answer``, ``answer_text_only``; ``agrees`` (the same
        candidate; an answer that cannot be told agrees with none); ``overridden`` (``agrees``,
        where the text-only answer is wrong, so that agreement cannot come from both being right;
        missing elsewhere); ``habitual``, ``habitual_text_only``.

    Raises:
        MeasureError: If the tables hold different items or an item twice.

    Source: reconstruction (textual-prior reliance of arXiv 2606.01558).
    """
    for name, table in (("answers", answers), ("text_only", text_only)):
        missing = {"item", "answer", "correct", "habitual"} - set(table.columns)
        if missing or table["item"].duplicated().any():
            raise MeasureError(
                f"The table {name} lacks {', '.join(sorted(missing)) or 'nothing'} or holds an "
                "item twice; give one table of answer_problems(), one run."
            )
    both = answers.merge(text_only, on="item", suffixes=("", "_text_only"))
    if len(both) != len(answers) or len(both) != len(text_only):
        raise MeasureError(
            f"The tables share {len(both)} of {len(answers)} and {len(text_only)} items; "
            "answer the same problems with and without the picture."
        )
    agrees = (both["answer"] == both["answer_text_only"]) & both["answer"].notna()
    wrong = ~both["correct_text_only"].astype(bool)
    return pd.DataFrame(
        {
            "item": both["item"],
            "answer": both["answer"],
            "answer_text_only": both["answer_text_only"],
            "agrees": agrees.astype(bool),
            "overridden": agrees.astype("boolean").where(wrong),
            "habitual": both["habitual"],
            "habitual_text_only": both["habitual_text_only"],
        }
    )
