"""What a run's tables are called, and a number per item and metric from them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import pandas as pd

# A comparison of runs that have none of these tables need not load what measures them.
import attcot_analysis.measures as measures
from attcot_analysis.measures.access import VisualAccess
from attcot_analysis.measures.causal import CausalAccess
from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.measures.compare import item_values, wide_values
from attcot_analysis.measures.open_answers import OpenCommitment
from attcot_analysis.measures.samples import by_sample
from attcot_analysis.measures.unread import unread_sentences
from attcot_analysis.problems import Problem
from attcot_analysis.runs.parts import joined

What = Literal[
    "responses",
    "answers",
    "direct",
    "text_only",
    "commitment",
    "access",
    "dependence",
    "answer_access",
    "causal",
    "lens",
    "divergence",
    "open_commitment",
    "patching",
    "behaviour",
    "perceptions",
    "maps",
]
"""What can be measured, in the order in which it is."""
DEFAULT: tuple[What, ...] = ("answers", "direct", "text_only", "commitment", "access", "dependence")
"""What is measured if nothing else is asked for."""
EXTRAS: tuple[What, ...] = (
    *("answer_access", "causal", "lens", "divergence", "open_commitment"),
    *("patching", "behaviour", "perceptions"),
)
"""Further tables that read the same responses."""
NAMES: Mapping[What, str] = {
    "answers": "answers_cot",
    "direct": "answers_direct",
    "text_only": "answers_text_only",
}
"""Tables that are called otherwise than what was asked for."""
TABLES = tuple(NAMES.get(name, name) for name in DEFAULT)
"""Names of the tables of `DEFAULT`."""
CHANCE = "chance"
"""A metric beside those of the catalogue: one over the number of the item's candidates."""


def suite_values(
    tables: Mapping[str, pd.DataFrame],
    problems: Sequence[Problem],
    *,
    model: str,
    seed: int,
    foreign: bool = False,
    keep_empty: bool = False,
) -> pd.DataFrame:
    """Turn the tables of `measure` into metric values per item; see `item_values`.

    Args:
        tables: From `measure`, those that there are.
        problems: The items.
        model: What to call the model.
        seed: Its training seed.
        foreign: Whether another model wrote the rationales: then no value holds its answers
            against this model's.
        keep_empty: Also metrics that no item allows, without a value.
    """
    values = read_values(
        lambda name: [tables[name]] if name in tables else (),
        problems,
        model=model,
        seed=seed,
        foreign=foreign,
    )
    return values if keep_empty else with_values(values)


def read_values(
    blocks: Callable[[str], Iterable[pd.DataFrame]],
    problems: Sequence[Problem],
    *,
    model: str,
    seed: int,
    foreign: bool,
) -> pd.DataFrame:
    """`suite_values`, with the long tables reduced to items as they are read."""
    names = [problem.id for problem in problems]

    def reduced(
        name: str, reduce: Callable[[pd.DataFrame], pd.DataFrame] = lambda block: block
    ) -> pd.DataFrame | None:
        rows = [reduce(block) for block in blocks(name) if len(block)]
        return joined(rows, names) if len(rows) > 1 else next(iter(rows), None)

    def items(name: str, reduce: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame | None:
        return reduced(name, lambda block: by_sample(block, reduce))

    return item_values(
        model=model,
        seed=seed,
        cot=reduced("answers_cot"),
        direct=reduced("answers_direct"),
        text_only=None if foreign else reduced("answers_text_only"),
        commitment=items("commitment", lambda block: Commitment(block, problems).items()),
        open_commitment=items(
            "open_commitment", lambda block: OpenCommitment(block, problems).items()
        ),
        access=items("access", lambda block: VisualAccess(block).items()),
        dependence=reduced("dependence"),
        causal=items("causal", lambda block: CausalAccess(block).items()),
        patching=items("patching", lambda block: wide_values(measures.Patching(block))),
        behaviour=items("behaviour", lambda block: wide_values(measures.Behaviour(block))),
        perceptions=items("perceptions", lambda block: wide_values(measures.Perceptions(block))),
        focus=items("access", lambda block: VisualAccess(block, problems).focus()),
    )


def with_values(values: pd.DataFrame) -> pd.DataFrame:
    """Without the metrics that no item allows: not there, rather than there without a value."""
    known = values.groupby("metric")["value"].transform("count") > 0
    return values[known].reset_index(drop=True)


def format_summary(summary: pd.DataFrame) -> str:
    """A summary as lines of text: metric, value, 95 % interval, items.

    Answers that were not read come first, if they are more than `LIMIT`.
    """
    unnamed = summary.drop(columns="model", errors="ignore")
    lines = unread_sentences(unnamed)
    lines += [f"{'metric':<24}{'value':>9}   {'95 % interval':<20}{'items':>7}"]
    for row in summary.itertuples():
        interval = f"[{row.low:z.3f}, {row.high:z.3f}]"
        lines.append(f"{row.metric:<24}{row.value:>z9.3f}   {interval:<20}{row.n_items:>7}")
    return "\n".join(lines)
