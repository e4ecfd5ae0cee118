"""What `causal_access` cuts, for which items and from which steps, checked before any work."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from attcot_analysis.attention.candidates import CandidateTokens, candidate_tokens
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.answers import read_answer, stated_answer
from attcot_analysis.measures.controls import parsed_responses
from attcot_analysis.models import Mllm
from attcot_analysis.problems import Problem

Kind = Literal["knockout", "mean_value", "removal", "none"]
Rows = Literal["rationale", "answer", "both"]
Keys = Literal["image", "system", "question"]
Window = tuple[int, int]
BY_LAYER: tuple[Kind, ...] = ("knockout", "mean_value")
"""The kinds that act in a window of layers; the others act everywhere."""


class Item(NamedTuple):
    """One item of the measurement.

    Attributes:
        problem: The problem.
        response: What the model wrote.
        answer: The answer stated there, if one can be told.
        n_steps: K, its rationale steps.
        ks: The steps it is cut from, ascending.
        tokens: Its candidates.
    """

    problem: Problem
    response: Sequence[int] | str
    answer: str | None
    n_steps: int
    ks: tuple[int, ...]
    tokens: CandidateTokens


class Cut(NamedTuple):
    """One intervention on a batch; ``slot`` says which of its ``ks`` each item is cut from."""

    kind: Kind
    window: Window
    slot: int

    @property
    def layers(self) -> range:
        """The layers it acts in."""
        return range(self.window[0], self.window[1] + 1)


def layer_windows(n_layers: int, width: int, stride: int | None = None) -> list[Window]:
    """Cut a stack of layers into windows of one width, for a sweep over depth.

    Args:
        n_layers: Layers of the model, L.
        width: Layers per window.
        stride: Layers from one window's start to the next; default ``width``.

    Returns:
        ``(first, last)`` pairs, both included, from layer 0 to L - 1. The last window is moved
        back to end there, so that all are equally wide.

    Raises:
        MeasureError: If the width does not fit the layers, or the stride is below 1.
    """
    stride = width if stride is None else stride
    if not 1 <= width <= n_layers or stride < 1:
        raise MeasureError(
            f"Windows of {width} layers every {stride} do not fit {n_layers} layers; choose a "
            f"width from 1 to {n_layers} and a stride of at least 1."
        )
    firsts = [*range(0, n_layers - width, stride), n_layers - width]
    return [(first, first + width - 1) for first in firsts]


def plan_cuts(
    items: Sequence[Item], kinds: Sequence[Kind], windows: Sequence[Window], n_layers: int
) -> Iterator[Cut]:
    """Every intervention on a batch of items."""
    slots = range(max(len(item.ks) for item in items))
    for kind in kinds:
        for window in windows if kind in BY_LAYER else [(0, n_layers - 1)]:
            yield from (Cut(kind, window, slot) for slot in slots)


def checked_windows(windows: Sequence[Window] | None, n_layers: int) -> list[Window]:
    """The windows asked for; all layers at once by default.

    Raises:
        MeasureError: If there is none, or one does not lie in the model's layers.
    """
    if windows is None:
        return [(0, n_layers - 1)]
    found = [(int(first), int(last)) for first, last in windows]
    if not found or not all(0 <= first <= last < n_layers for first, last in found):
        raise MeasureError(
            f"Layer windows are {found}; give (first, last) pairs, both included, from 0 to "
            f"{n_layers - 1}."
        )
    return found


def check_choices(
    kinds: Sequence[str], rows: str, keys: str, empty: str, *, generate: bool
) -> None:
    """Refuse what cannot be measured.

    Raises:
        MeasureError: If a choice is unknown, or two contradict each other.
    """
    for name, given, known in (
        ("kinds", list(kinds), get_args(Kind)),
        ("rows", [rows], get_args(Rows)),
        ("keys", [keys], get_args(Keys)),
        ("empty", [empty], ("error", "skip")),
    ):
        if not given or set(given) - set(known):
            raise MeasureError(f"{name} is {given}; choose from {', '.join(known)}.")
    if keys != "image" and "removal" in kinds:
        raise MeasureError(
            f"The kind 'removal' takes the image away, it cannot remove keys={keys!r}; leave it "
            "out of the kinds."
        )
    if generate and rows == "rationale":
        raise MeasureError(
            "A regenerated response is cut in all rows, its answer's too; use rows='both' or "
            "generate=False."
        )


def plan_items(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int] | str],
    steps: Sequence[int] | Sequence[float] | None,
    rows: Rows,
    empty: str,
) -> list[Item]:
    """The items and the steps they are cut from.

    Raises:
        MeasureError: If a response has no rationale step (``empty="error"``), steps are neither
            numbers nor shares, candidates cannot be told apart, or nothing is left to measure.
    """
    items = []
    for problem, response, parsed in zip(
        problems, responses, parsed_responses(mllm, responses), strict=True
    ):
        if not parsed.steps:
            if empty == "error":
                raise MeasureError(
                    f"Item {problem.id}: its response has no rationale step to cut off; give it "
                    "steps inside <think>, or pass empty='skip'."
                )
            continue
        said = stated_answer(parsed, finished=True)
        own = None
        if said is not None:
            own = read_answer(said, problem)
        n_steps = len(parsed.steps)
        ks = _asked(steps, n_steps, rows)
        if ks:
            if not problem.candidates:
                raise MeasureError(
                    f"Item {problem.id} is an open question, so no answer can be forced on it; "
                    "give it candidates or leave it out."
                )
            tokens = candidate_tokens(mllm, problem.candidates)
            items.append(Item(problem, response, own, n_steps, ks, tokens))
    if not items:
        raise MeasureError(
            "No response has a rationale step to measure from; give other responses or steps."
        )
    return items


def _asked(
    steps: Sequence[int] | Sequence[float] | None, n_steps: int, rows: Rows
) -> tuple[int, ...]:
    """The k of an item with K steps."""
    if rows == "answer":
        if steps is not None:
            raise MeasureError("rows='answer' cuts from the last step on; leave steps out.")
        return (n_steps,)
    last = n_steps - (rows == "rationale")
    if steps is None:
        return tuple(range(last + 1))
    asked = list(steps)
    whole = [isinstance(step, int | np.integer) for step in asked]
    if asked and all(whole) and min(asked) >= 0:
        return tuple(sorted({int(step) for step in asked if step <= last}))
    if not asked or any(whole) or not all(0 <= step <= 1 for step in asked):
        raise MeasureError(
            f"Steps are {asked}; give whole numbers from 0 on, or shares between 0.0 and "
            "1.0, not both."
        )
    return tuple(sorted({min(round(step * n_steps), last) for step in asked}))
