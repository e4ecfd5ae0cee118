"""What all testbed generators draw alike: items from seeds, and answers under a textual prior."""

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from attcot_analysis.errors import ProblemError

T = TypeVar("T")
Split = Literal["train", "test", "pretrain"]
_SPLITS: dict[Split, int] = {"train": 0, "test": 1, "pretrain": 2}

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix")
"""The people that questions name; each has a habitual answer, which is the textual prior."""


def habits(answers: Sequence[T]) -> dict[str, T]:
    """Person -> habitual answer; with fewer answers than people some share one."""
    return {name: answers[at % len(answers)] for at, name in enumerate(NAMES)}


def item_rng(seed: int, split: Split, index: int) -> np.random.Generator:
    """The randomness of one item, which depends on nothing else."""
    return np.random.default_rng([seed, _SPLITS[split], index])


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def draw_answer(
    rng: np.random.Generator, habitual: T, prior: float | None, answers: Sequence[T]
) -> T:
    """The habitual answer in a share `prior` of the draws, else one of the others.

    ``None`` means balanced: the answer does not depend on the habit.
    """
    share = 1 / len(answers) if prior is None else prior
    if rng.random() < share:
        return habitual
    return pick(rng, [answer for answer in answers if answer != habitual])


def check_count(n: int) -> None:
    """Refuse a negative number of problems.

    Raises:
        ProblemError: If `n` is negative.
    """
    if n < 0:
        raise ProblemError(f"Cannot generate {n} problems; ask for 0 or more.")


def check_clarity(noise: float, prior: float | None) -> None:
    """Check the two knobs that all generators have.

    Raises:
        ProblemError: If noise is negative or the prior no share.
    """
    if noise < 0:
        raise ProblemError(f"Noise is {noise}; it is a standard deviation, at least 0.")
    if prior is not None and not 0 <= prior <= 1:
        raise ProblemError(f"Prior is {prior}; it is a share between 0 and 1, or None.")
