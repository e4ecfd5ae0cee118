"""Several responses to every item: tables read sample by sample, and what samples say together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

SAMPLE = "sample"
"""Column that tells the responses to an item apart, from 0; not there where there is one."""


def samples_of(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of every sample, in order, without the column; the table itself if it has none."""
    if SAMPLE not in table:
        return [table]
    parts = table.groupby(SAMPLE, sort=True)
    return [part.drop(columns=SAMPLE).reset_index(drop=True) for _, part in parts]


def stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put tables of samples 0, 1, ... into one, with a second column ``sample``."""
    marked = []
    for sample, table in enumerate(tables):
        table = table.copy()
        table.insert(1, SAMPLE, sample)
        marked.append(table)
    return _joined(marked)


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table; those without rows, whose columns have no type, count only where all are."""
    return pd.concat([one for one in parts if len(one)] or parts[:1], ignore_index=True)


def samples_note(settings: Mapping[str, Any]) -> str:
    """A sentence where dependence is not of all samples; ``settings`` as a run's manifest says."""
    n, of = settings.get("edited_samples"), settings.get("samples")
    if n is None:
        return ""
    first = "the first" if n == 1 else f"the first {n}"
    return (
        f"Dependence is of {first} of {of} responses to every item; --edited-samples {of} reads it "
        "of all."
    )


def by_sample(table: pd.DataFrame, read: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Read a table that may hold several samples of each item, one sample after the other.

    Args:
        table: With or without a column ``sample``.
        read: Makes a table with a first column ``item`` of the rows of one sample, such as
            ``lambda rows: Commitment(rows, problems).items()``.

    Returns:
        What it makes of all of them, told apart by a second column ``sample`` if the table has it.
    """
    if SAMPLE not in table:
        return read(table)
    numbers = sorted(table[SAMPLE].unique())
    parts = []
    for number, rows in zip(numbers, samples_of(table), strict=True):
        made = read(rows)
        made.insert(1, SAMPLE, number)
        parts.append(made)
    return _joined(parts)


def agreement(answers: pd.DataFrame) -> pd.DataFrame:
    """How far the samples of an item agree on an answer, and whether most of them are right.

    Args:
        answers: Rows of `answer_problems` with a column ``sample``.

    Returns:
        One row per item: ``item``; ``self_consistency``, the share of its samples that give the
        answer most of them give (a sample whose answer cannot be told gives none, and counts);
        ``accuracy_majority``, 1 if that answer is right, else 0, and between them where several
        answers are given equally often: the share of these that are right.

    Source: self-consistency as in Wang et al., arXiv 2203.11171; ties are our own.
    """
    rows = []
    for item, own in answers.groupby("item", sort=False):
        given = own[own["answer"].notna()]
        right = given.groupby("answer", sort=False)["correct"].agg(["size", "first"])
        most = right[right["size"] == right["size"].max()]
        share = float(most["size"].iloc[0]) / len(own) if len(most) else 0.0
        rows.append((item, share, float(most["first"].mean()) if len(most) else 0.0))
    return pd.DataFrame(rows, columns=["item", "self_consistency", "accuracy_majority"])
