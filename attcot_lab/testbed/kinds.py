"""The kinds of testbed problems by name: their knobs and their generators."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.problem import Problem
from attcot_lab.testbed.arrows import ArrowsConfig, Split, generate_arrows
from attcot_lab.testbed.charts import ChartsConfig, generate_charts
from attcot_lab.testbed.counting import CountingConfig, generate_counting
from attcot_lab.testbed.scenes import (
    BarsConfig,
    RelationConfig,
    WalkConfig,
    generate_bars,
    generate_relation,
    generate_walk,
)


class Kind(NamedTuple):
    """One kind of testbed problem.

    Attributes:
        config: The dataclass of its knobs; all kinds have ``noise`` and ``prior``.
        generate: ``(n, config, seed=..., split=...) -> problems``.
    """

    config: Callable[..., Any]
    generate: Callable[..., list[Problem]]


KINDS: dict[str, Kind] = {
    "arrows": Kind(ArrowsConfig, generate_arrows),
    "charts": Kind(ChartsConfig, generate_charts),
    "counting": Kind(CountingConfig, generate_counting),
    "relation": Kind(RelationConfig, generate_relation),
    "walk": Kind(WalkConfig, generate_walk),
    "bars": Kind(BarsConfig, generate_bars),
}
"""Every kind that there is."""


def generator_of(config: Any) -> Callable[..., list[Problem]]:
    """What generates problems with such knobs."""
    return KINDS[kind_name(config)].generate


def kind_name(config: Any) -> str:
    """The kind that such knobs are of."""
    return next(name for name, kind in KINDS.items() if kind.config is type(config))


def generate_problems(
    kind: str, n: int, *, seed: int = 0, split: Split = "test", **knobs: Any
) -> list[Problem]:
    """Generate `n` problems of a kind; the i-th depends only on knobs, seed, split and i.

    Args:
        kind: A name in `KINDS`.
        n: How many.
        seed: Of everything drawn.
        split: Train, test and pretraining items share no randomness.
        knobs: Fields of the kind's config.

    Raises:
        ProblemError: If the kind or a knob is unknown or out of range.
    """
    if kind not in KINDS:
        raise ProblemError(f"Problem kind {kind!r} is unknown; choose one of {', '.join(KINDS)}.")
    config, generate = KINDS[kind]
    try:
        chosen = config(**knobs)
    except TypeError as error:
        raise ProblemError(f"The knobs of {kind} do not fit: {error}.") from error
    return generate(n, chosen, seed=seed, split=split)


def read_knobs(settings: Sequence[str]) -> dict[str, Any]:
    """Knobs written as ``name=value``; a value is JSON, or else a word.

    Raises:
        ProblemError: If one has no ``=``.
    """
    knobs = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign or not name:
            raise ProblemError(f"{setting!r} sets no knob; write KNOB=VALUE, such as hops=3.")
        try:
            knobs[name] = json.loads(value)
        except json.JSONDecodeError:
            knobs[name] = value
    return knobs
