"""What could not be read of responses: answers that cannot be told, and steps."""

from collections.abc import Callable, Collection

import pandas as pd

from attcot_analysis.problems import parse_response

LIMIT = 0.02
"""With a larger share of answers that were not read, nothing is said about what rests on them."""

GIVEN = "given"
"""Flag of an answer whose score came with its response."""

_SHARES = {"unparsed_cot": "CoT answers", "unparsed_direct": "direct answers"}
_RESTING = {
    "accuracy_cot": "unparsed_cot",
    "accuracy_direct": "unparsed_direct",
    "habitual_cot": "unparsed_cot",
    "habitual_direct": "unparsed_direct",
    "prior_agreement": "unparsed_cot",
    "prior_override": "unparsed_cot",
    "follow_twin": "unparsed_cot",
    "flip_control": "unparsed_cot",
    "flip_blank": "unparsed_cot",
}


def unread_shares(summary: pd.DataFrame) -> dict[tuple[str, str], float]:
    """The shares of answers that were not read, where they are above `LIMIT`.

    Args:
        summary: Columns metric and value, and model where it has several.

    Returns:
        By model (empty without one) and by what was not read, such as ``"CoT answers"``.
    """
    found = {}
    for row in summary.to_dict("records"):
        if row["metric"] in _SHARES and float(row["value"]) > LIMIT:
            found[str(row.get("model", "")), _SHARES[row["metric"]]] = float(row["value"])
    return found


def unread_sentence(
    share: float, what: str, whose: str = "", scored: bool = False, contradicting: float = 0.0
) -> str:
    """Say that answers were not read; the first line of whatever reports their accuracy.

    Args:
        share: Of the answers.
        what: Which answers.
        whose: The model.
        scored: Whether their scores came with the responses.
        contradicting: Share that names an option's letter with the words of another, in ``share``.
    """
    of = f" of {whose}" if whose else ""
    part = f" ({contradicting:.1%} name a letter and another's words)" if contradicting else ""
    rests = "nothing is said about their accuracy being better or worse"
    if scored:
        rests = "their accuracy is what came with them, and nothing is said that rests on reading"
    start = f"{share:.1%} of the {what}{of} could not be read{part}"
    return f"{start}, so {rests}; look at the responses."


def unread_sentences(summary: pd.DataFrame, name: Callable[[str], str] = str) -> list[str]:
    """A sentence for every model and kind of answers of which too many were not read.

    Args:
        summary: As in `unread_shares`.
        name: What a model is called.
    """
    scored = _scored(summary)
    contradicting = {
        (str(row.get("model", "")), _SHARES[f"unparsed_{mode}"]): float(row["value"])
        for row in summary.to_dict("records")
        for mode in ("cot", "direct")
        if row["metric"] == f"contradicting_{mode}"
    }
    return [
        unread_sentence(
            share,
            what,
            name(model) if model else "",
            (model, what) in scored,
            contradicting.get((model, what), 0.0),
        )
        for (model, what), share in unread_shares(summary).items()
    ]


def withheld(summary: pd.DataFrame, models: Collection[str]) -> dict[str, str]:
    """Metrics that say nothing of some models because their answers were not read, and why.

    An accuracy whose scores came with the responses does not rest on reading.
    """
    found, scored = unread_shares(summary), _scored(summary)
    reasons = {}
    for metric, rests_on in _RESTING.items():
        what = _SHARES[rests_on]
        shares = [
            share
            for (model, of), share in found.items()
            if of == what
            and model in models
            and not (metric.startswith("accuracy") and (model, of) in scored)
        ]
        if shares:
            reasons[metric] = f"{max(shares):.1%} of {what} are unparsed"
    return reasons


def _scored(summary: pd.DataFrame) -> set[tuple[str, str]]:
    """Models and kinds of answers whose scores all came with the responses."""
    return {
        (str(row.get("model", "")), _SHARES["unparsed_cot"])
        for row in summary.to_dict("records")
        if row["metric"] == "scored_cot" and float(row["value"]) == 1
    }


def unread_cells(values: pd.DataFrame, used: Collection[tuple[str, str]]) -> str:
    """Say in which cells of a grid too many answers of an arm were not read; empty if in none.

    Args:
        values: Columns model, kind, arm, metric and value.
        used: The arms and metrics that are compared.
    """
    cells = []
    for metric, what in _SHARES.items():
        rests = {arm for arm, name in used if _RESTING.get(name) == metric}
        part = values[(values["metric"] == metric) & values["arm"].isin(rests)]
        means = part.groupby(["model", "kind", "arm"], observed=True)["value"].mean()
        cells += [
            f"{row['arm']} of {row['model']} on {row['kind']} ({row['value']:.1%} of the {what})"
            for row in means[means > LIMIT].reset_index().to_dict("records")
        ]
    if not cells:
        return ""
    return (
        f"More than {LIMIT:.0%} of the answers could not be read of {', '.join(cells)}: nothing is "
        "said about their accuracy being better or worse, whatever these cells show."
    )


def paragraph_note(answers: pd.DataFrame) -> str | None:
    """Say how many rationales have no numbered lines, and what they were cut by instead.

    Args:
        answers: Rows of `answer_problems`.

    Returns:
        ``None`` if all rationales have numbered lines, headings, paragraphs or lines.
    """
    cuts = answers.get("cut")
    if cuts is None:
        cuts = pd.Series([parse_response(text).cut for text in answers["text"]], answers.index)
    cuts = cuts.dropna()
    sentences = answers.loc[cuts.index[cuts == "sentences"], "n_steps"]
    notes = []
    if len(sentences):
        low, high = int(sentences.min()), int(sentences.max())
        steps = f"{low} steps" if low == high else f"{low} to {high} steps"
        notes.append(
            f"{len(sentences)} of {len(cuts)} rationales are one paragraph without numbered lines; "
            f"each of their sentences is a step ({steps})."
        )
    whole = int((cuts == "whole").sum())
    if whole:
        notes.append(
            f"{whole} of {len(cuts)} rationales are one step (K = 1): of them there is nothing to "
            "see between before and after."
        )
    return " ".join(notes) or None
