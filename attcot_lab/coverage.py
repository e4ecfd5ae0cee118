"""How often every kind of interval holds the true value: simulated, for a test and for the docs.

Arms that are alike but for luck: seeds, pretrained models and items are drawn anew each time, the
true mean is 0 (a share: known), and the true value is counted as held or missed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from attcot_analysis.stats.crossed import half_width, variance_parts
from attcot_analysis.stats.intervals import (
    FloatArray,
    share_difference,
    share_interval,
    times_drawn,
)

ROUNDS = 1000
"""Draws of a setting; 0.7 percentage points are one standard error at 95 %."""
ITEMS = 40
SEED_SPREADS = (0.0, 0.02, 0.05, 0.1, 0.2)
"""Standard deviations of what a seed does, in the unit of a share."""
LEVEL = 0.95


@dataclass(frozen=True)
class Coverage:
    """How often one kind of interval held the true value.

    Attributes:
        name: The functions that give it.
        setting: What was drawn.
        held: Share of the draws, per entry of `SEED_SPREADS`, or a single one.
        promise: What the docs promise.
        rounds: Draws of each; 0 if it was computed exactly.
    """

    name: str
    setting: str
    held: tuple[float, ...]
    promise: float
    rounds: int = ROUNDS

    @property
    def bar(self) -> float:
        """The promise less three standard errors of the simulation."""
        error = np.sqrt(self.promise * (1 - self.promise) / self.rounds) if self.rounds else 0.0
        return float(self.promise - 3 * error)


@dataclass(frozen=True)
class Design:
    """What is drawn: kinds share models and seeds, and what these do."""

    models: int = 1
    seeds: int = 1
    kinds: int = 1
    binary: bool = False
    items: int = ITEMS


def differences(rng: np.random.Generator, design: Design, spread: float) -> list[FloatArray]:
    """Per kind (rounds, models, seeds, items), with a true mean of 0.

    Args:
        rng: Where chance comes from.
        design: What is drawn.
        spread: Standard deviation of what a model, and of what a seed, does in all kinds.
    """
    shape = (ROUNDS, design.models, design.seeds, 1)
    shared = np.zeros(shape)
    if design.models > 1:
        shared = shared + spread * rng.normal(size=(ROUNDS, design.models, 1, 1))
    if design.seeds > 1:
        shared = shared + spread * rng.normal(size=(ROUNDS, 1, design.seeds, 1))
    kinds = []
    for _ in range(design.kinds):
        size = (ROUNDS, design.models, design.seeds, design.items)
        items = rng.normal(size=(ROUNDS, 1, 1, design.items))
        if design.binary:
            # Two arms whose chance of a right answer differs by what the seeds do, 0 in the mean.
            chance = 0.5 + 0.15 * np.clip(items, -2, 2)
            right = [rng.random(size) < chance + sign * shared / 2 for sign in (1, -1)]
            kinds.append(right[0].astype(float) - right[1])
        else:
            kinds.append(shared + 0.3 * items + 0.3 * rng.normal(size=size))
    return kinds


def held(kinds: list[FloatArray], level: float = LEVEL) -> float:
    """Share of draws in which the interval of `seeds_items` and its kin holds 0."""
    axes = (-3, -2, -1)
    weight = 1 / len(kinds)
    value = np.mean([one.mean(axis=axes) for one in kinds], axis=0)
    moved = [
        (one - one.mean(axis=axes, keepdims=True)) * weight / np.prod(one.shape[1:])
        for one in kinds
    ]
    # As `unseen_items`: values of yes and no only.
    unseen = sum(
        2 * (weight / one.shape[-1]) ** 2 for one in kinds if np.isin(one, (-1.0, 0.0, 1.0)).all()
    )
    half = half_width(variance_parts(moved, unseen=unseen), (1 - level) / 2)
    return float((np.abs(value) <= half).mean())


def crossed(design: Design, level: float = LEVEL, seed: int = 0) -> tuple[float, ...]:
    """`held` at every one of `SEED_SPREADS`."""
    rng = np.random.default_rng(seed)
    return tuple(held(differences(rng, design, spread), level) for spread in SEED_SPREADS)


def bootstrap(
    items: int, draw: Callable[[np.random.Generator, tuple[int, int]], FloatArray], truth: float
) -> float:
    """Share of draws in which `bootstrap_mean` (1000 resamples) holds the truth."""
    rng = np.random.default_rng(0)
    values = draw(rng, (ROUNDS, items))
    means = values @ times_drawn(rng, items, 1000).T / items
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return float(((low <= truth) & (truth <= high)).mean())


def share(n: int, truth: float) -> float:
    """Exactly how often `share_interval` holds a share."""
    counts = np.arange(n + 1)
    found = [share_interval(count / n, n) for count in counts]
    inside = np.array([one.low <= truth <= one.high for one in found])
    return float(stats.binom.pmf(counts, n, truth) @ inside)


def shares_apart(sizes: tuple[int, int], truths: tuple[float, float]) -> float:
    """Exactly how often `share_difference` holds a difference of shares."""
    chances, intervals = [], []
    for n, truth in zip(sizes, truths, strict=True):
        chances.append(stats.binom.pmf(np.arange(n + 1), n, truth))
        intervals.append([share_interval(count / n, n) for count in range(n + 1)])
    truth, total = truths[0] - truths[1], 0.0
    for p, first in zip(chances[0], intervals[0], strict=True):
        for q, second in zip(chances[1], intervals[1], strict=True):
            if p * q > 1e-9:
                found = share_difference(first, second)
                total += p * q * (found.low <= truth <= found.high)
    return float(total)


def lines(rounds: int = 100) -> tuple[float, float]:
    """How often the intervals of `line_through_cells` hold a slope of 0.5 and an r of 0.

    Six models on three kinds, both of which bend the line.
    """
    # Imports torch, which nothing else here needs.
    from attcot_lab.claims.against import line_through_cells

    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [("a", "b", "c"), ("small", "large"), ("x", "y", "z")], names=["family", "scale", "kind"]
    )
    cells = index.to_frame(index=False)
    of_slope, of_r = 0, 0
    for _ in range(rounds):
        failure = rng.normal(size=(6, 1)) + rng.normal(size=(1, 3)) + rng.normal(size=(6, 3))
        noise = (rng.normal(size=(6, 1)) + rng.normal(size=(1, 3))) / 2 + rng.normal(size=(6, 3))
        tilted = cells.assign(failure=failure.ravel(), cure=(0.5 * failure + noise).ravel())
        slope = line_through_cells(tilted).slope
        r = line_through_cells(tilted.assign(cure=noise.ravel())).r
        of_slope += slope.low <= 0.5 <= slope.high
        of_r += r.low <= 0 <= r.high
    return of_slope / rounds, of_r / rounds


def coverages() -> list[Coverage]:
    """Every kind of interval in every setting, some seconds."""
    table = "summarise, compare, paired_difference, step_curve, seeds_items"
    found = [
        Coverage(table, f"{seeds} seeds, {what}", crossed(Design(seeds=seeds, binary=binary)), 0.95)
        for seeds in (2, 3, 5, 8)
        for what, binary in (("numbers", False), ("yes or no", True))
    ]
    pooled = "claim_family"
    found += [
        Coverage(pooled, "5 seeds, the same effects in 3 kinds", crossed(Design(1, 5, 3)), 0.95),
        Coverage(
            pooled,
            "3 seeds, yes or no, the same effects in 3 kinds",
            crossed(Design(1, 3, 3, binary=True)),
            0.95,
        ),
        Coverage(
            "claim_family",
            "5 pretrained models, one seed each, 2 kinds",
            crossed(Design(5, 1, 2)),
            0.95,
        ),
        Coverage(
            "claim_family", "4 pretrained models × 3 seeds, 2 kinds", crossed(Design(4, 3, 2)), 0.95
        ),
    ]
    run = "one run: bootstrap_mean, summarise, compare, paired_difference"
    for items, promise in ((24, 0.90), (60, 0.93), (240, 0.93)):
        numbers = bootstrap(items, lambda rng, size: rng.normal(size=size), 0.0)
        yes = bootstrap(items, lambda rng, size: (rng.random(size) < 0.5).astype(float), 0.5)
        rare = bootstrap(items, lambda rng, size: (rng.random(size) < 0.02).astype(float), 0.02)
        found += [
            Coverage(run, f"{items} items, numbers", (numbers,), promise),
            Coverage(run, f"{items} items, yes in half of them", (yes,), promise),
            Coverage(run, f"{items} items, yes in 2 %", (rare,), 0.0),
        ]
    for n, promise in ((24, 0.0), (60, 0.92), (240, 0.92)):
        worst = min(share(n, truth) for truth in (0.02, 0.1, 0.3, 0.5))
        setting = f"{n} items, worst of four shares"
        found.append(Coverage("share_interval", setting, (worst,), promise, 0))
    apart = min(shares_apart((24, 60), truths) for truths in ((0.5, 0.3), (0.1, 0.1), (0.02, 0.3)))
    found.append(
        Coverage("share_difference", "24 and 60 items, worst of three pairs", (apart,), 0.92, 0)
    )
    slope, r = lines()
    name = "line_through_cells"
    found += [
        Coverage(name, "slope; 6 models × 3 kinds", (slope,), 0.95, 100),
        Coverage(name, "r of nothing; 6 models × 3 kinds", (r,), 0.95, 100),
    ]
    return found
