"""All measurements of one model on one set of problems, as a dictionary of tidy tables."""

from collections.abc import Callable, Collection, Mapping, Sequence

import pandas as pd

from attcot_analysis.measure.access import visual_access
from attcot_analysis.measure.answers import answer_problems
from attcot_analysis.measure.commitment import commitment
from attcot_analysis.measure.commitment_tables import commitment_items
from attcot_analysis.measure.dependence import dependence
from attcot_analysis.measure.values import item_values
from attcot_analysis.models import Mllm, Mode
from attcot_analysis.problems import Problem

TABLES = (
    "answers_cot",
    "answers_direct",
    "answers_text_only",
    "commitment",
    "access",
    "dependence",
)
"""The tables `measure_all` makes, in the order it makes them."""

Keep = Callable[[str, Callable[[], pd.DataFrame]], pd.DataFrame]
"""How a table is kept: gets its name and the function that computes it, returns the table."""


def measure_all(
    mllm: Mllm,
    problems: Sequence[Problem],
    *,
    layers: Collection[int] | None = None,
    controls: Sequence[str] = ("rationale", "filler", "other_item"),
    batch_size: int = 64,
    max_new_tokens: int = 256,
    keep: Keep | None = None,
    progress: bool = False,
) -> dict[str, pd.DataFrame]:
    """Run every measurement on the rationales that the model writes itself.

    Commitment, access and dependence are measured on the model's own greedy CoT responses;
    responses without a rationale step have no rows there and count as answered in the answer
    tables only.

    Args:
        mllm: The model.
        problems: The items.
        layers: Layers whose attention is read; default all.
        controls: Controls of the commitment curve.
        batch_size: Items per forward pass or generation.
        max_new_tokens: Length limit of a response.
        keep: Called for each table, e.g. to take it from a run folder if it is there already.
        progress: Show progress bars.

    Returns:
        The tables named in `TABLES`, as the functions of the same names return them.

    Raises:
        MeasureError: If no response has a rationale.
    """
    keep = keep or (lambda _, make: make())

    def answers(mode: Mode, text_only: bool = False) -> pd.DataFrame:
        return answer_problems(
            mllm,
            problems,
            mode=mode,
            text_only=text_only,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )

    tables = {
        "answers_cot": keep("answers_cot", lambda: answers("cot")),
        "answers_direct": keep("answers_direct", lambda: answers("direct")),
        "answers_text_only": keep("answers_text_only", lambda: answers("cot", text_only=True)),
    }
    written = [list(ids) for ids in tables["answers_cot"]["ids"]]
    return tables | {
        "commitment": keep(
            "commitment",
            lambda: commitment(
                mllm,
                problems,
                written,
                controls=controls,
                empty="skip",
                batch_size=batch_size,
                progress=progress,
            ),
        ),
        "access": keep(
            "access",
            lambda: visual_access(
                mllm,
                problems,
                written,
                layers=layers,
                skip_empty=True,
                batch_size=batch_size,
                progress=progress,
            ),
        ),
        "dependence": keep(
            "dependence",
            lambda: dependence(
                mllm,
                problems,
                written,
                empty="skip",
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                progress=progress,
            ),
        ),
    }


def suite_values(
    tables: Mapping[str, pd.DataFrame], problems: Sequence[Problem], *, model: str, seed: int
) -> pd.DataFrame:
    """Turn the tables of `measure_all` into metric values per item; see `item_values`."""
    return item_values(
        model=model,
        seed=seed,
        cot=tables["answers_cot"],
        direct=tables["answers_direct"],
        text_only=tables["answers_text_only"],
        commitment=commitment_items(tables["commitment"], problems),
        access=tables["access"],
        dependence=tables["dependence"],
    )
