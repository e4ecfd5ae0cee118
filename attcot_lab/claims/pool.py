"""Effects of many cells, models × kinds of problems, estimated one by one and together.

Within a kind all models answer the same items after training on the same seeds' problems, so their
effects are not independent; kinds share neither. Hence a pool averages over the models of a kind
first, item by item and seed by seed, and treats what is left as any matrix of seeds × items.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import stats

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.intervals import (
    FloatArray,
    Interval,
    crossed_variance,
    times_drawn,
    weighted_sum,
)

MIN_BEYOND = 3
"""So many models, or kinds, are needed to say something about others."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Cell:
    """The effect in one model and kind.

    Attributes:
        model: Its items and seeds are those of the other models of its kind.
        kind: Kinds share no items, and a seed's training problems differ between them.
        effects: Seeds (index) × items (columns); NaN where it is not defined.
    """

    model: str
    kind: str
    effects: pd.DataFrame


@dataclass(frozen=True)
class Estimate:
    """A mean with what is needed for intervals and p values of any level.

    Both come from the wider of two methods: a percentile bootstrap and a t interval. Where no
    item and seed differs from another neither can say anything; then the interval goes as far as
    the share of items that may differ, by up to 1 each, without one of them being seen.

    Attributes:
        value: The mean over the cells of the cells' means.
        error: Standard error; NaN if it cannot be told.
        df: Degrees of freedom of the t interval.
        draws: (n_boot,) bootstrap means; empty where there is only the t interval.
        n_items: Items with a value, over all kinds.
        n_seeds: Training seeds with a value; the fewest that a cell has.
        n_cells: Cells.
    """

    value: float
    error: float
    df: float
    draws: FloatArray = field(repr=False)
    n_items: int
    n_seeds: int
    n_cells: int

    def interval(self, level: float = 0.95) -> Interval:
        """The wider of bootstrap and t interval."""
        if np.isnan(self.error):
            return Interval(self.value, np.nan, np.nan, self.n_items, level)
        half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.error
        if self.error == 0:
            half = 1 - float(((1 - level) / 2) ** (1 / self.n_items))
        low, high = self.value - half, self.value + half
        if self.draws.size:
            tail = (1 - level) / 2
            ends = np.quantile(self.draws, [tail, 1 - tail])
            low, high = min(low, float(ends[0])), max(high, float(ends[1]))
        return Interval(self.value, low, high, self.n_items, level)

    def p_at_most(self, bound: float) -> float:
        """One-sided p value of "the true mean is at most this": small if it is clearly above."""
        return self._tail(self.value - bound, (self.draws <= bound).sum())

    def p_at_least(self, bound: float) -> float:
        """One-sided p value of "the true mean is at least this": small if it is clearly below."""
        return self._tail(bound - self.value, (self.draws >= bound).sum())

    def _tail(self, distance: float, beyond: int) -> float:
        if np.isnan(self.error):
            return float("nan")
        if self.error == 0:
            p = (1 - min(max(distance, 0.0), 1.0)) ** self.n_items
        else:
            p = float(stats.t.sf(distance / self.error, self.df))
        size = self.draws.size
        return max(p, float(beyond + 1) / (size + 1)) if size else p


class Pool:
    """The cells of one effect; estimates of each and of any set of them.

    Args:
        cells: At most one per model and kind.
        n_boot: Bootstrap resamples, shared by all estimates.
        seed: Seed of the bootstrap.

    Raises:
        MeasureError: If a model and kind is there twice, or a cell has no value at all.
    """

    def __init__(self, cells: Sequence[Cell], *, n_boot: int = 2000, seed: int = 0) -> None:
        """Bring the cells of every kind to the same seeds and items."""
        names = [(cell.model, cell.kind) for cell in cells]
        if len(set(names)) < len(names):
            raise MeasureError("A model and kind is there twice; give every cell once.")
        for cell in cells:
            if cell.effects.isna().to_numpy().all():
                raise MeasureError(f"{cell.model} on {cell.kind} has no value; leave it out.")
        self.cells = tuple(cells)
        self._n_boot = n_boot
        self._seed = seed
        self._kinds = list(dict.fromkeys(cell.kind for cell in cells))
        self._matrices = self._aligned()
        self._means = np.array([np.nanmean(matrix) for matrix in self._matrices])

    def estimate(self, chosen: Sequence[int] | None = None) -> Estimate:
        """The mean effect in these very cells, were seeds and items drawn anew.

        The t interval's variance is that of `crossed_t_interval` on the mean over a kind's models,
        summed over kinds, with Satterthwaite's degrees of freedom; the bootstrap draws each kind's
        seeds and items, the same for all its models. Few seeds: see
        ``docs/statistics.md``.

        Args:
            chosen: Which of the cells; default all. Each weighs the same.

        Source: Satterthwaite 1946; Owen 2007; the pooling is ours.
        """
        chosen = self._chosen(chosen)
        variance, df = self._variance(chosen)
        if np.isnan(variance):
            return self._made(chosen, np.nan, 1.0, np.empty(0))
        draws = np.mean([self._draws[at] for at in chosen], axis=0)
        return self._made(chosen, np.sqrt(variance), df, draws[~np.isnan(draws)])

    def beyond(self, chosen: Sequence[int] | None = None) -> Estimate | None:
        """The mean effect with models, and kinds where there are enough, drawn anew as well.

        Variance between cells, from the crossed random effects of models and kinds on the cells'
        means, plus what the cells share because they share items and seeds; never below that of
        `estimate`. Models count as independent draws, although two scales of one family are more
        alike than two families.

        Returns:
            ``None`` with fewer than `MIN_BEYOND` models; with fewer kinds than that, the kinds
            are taken as they are.

        Source: standard crossed random effects (as `crossed_t_interval`, one level higher).
        """
        chosen = self._chosen(chosen)
        models = [self.cells[at].model for at in chosen]
        kinds = [self.cells[at].kind for at in chosen]
        here, df_here = self._variance(chosen)
        if len(set(models)) < MIN_BEYOND or np.isnan(here):
            return None
        means, share = self._means[list(chosen)], 1 / len(chosen)
        many = len(set(kinds)) >= MIN_BEYOND
        center = np.full(len(means), means.mean())
        if not many:
            for kind in set(kinds):
                of_kind = np.array(kinds) == kind
                center[of_kind] = means[of_kind].mean()
        parts = (means - center) * share
        between = [_clustered(parts, models)]
        degrees = [len(set(models)) - 1]
        if many:
            between.append(_clustered(parts, kinds))
            degrees.append(len(set(kinds)) - 1)
            rest = len(parts) / max(len(parts) - 1, 1) * float(parts @ parts)
            cells = max(sum(between) - rest, *between)
        else:
            cells = between[0]
        alone = sum(self._alone[at] for at in chosen) * share**2
        variance = max(here, cells + max(0.0, here - alone))
        spread = sum(v**2 / n for v, n in zip(between, degrees, strict=True)) + here**2 / df_here
        df = max(variance**2 / spread, float(min(degrees))) if spread > 0 else df_here
        return self._made(chosen, np.sqrt(variance), df, np.empty(0))

    def _chosen(self, chosen: Sequence[int] | None) -> tuple[int, ...]:
        cells = tuple(range(len(self.cells)) if chosen is None else chosen)
        if not cells:
            raise MeasureError("A pool of no cells was asked for; name at least one.")
        return cells

    def _made(self, chosen: Sequence[int], error: float, df: float, draws: FloatArray) -> Estimate:
        n_items = sum(
            int((~np.isnan(np.vstack(parts))).any(axis=0).sum())
            for kind in self._kinds
            if (parts := [self._matrices[at] for at in chosen if self.cells[at].kind == kind])
        )
        n_seeds = min(int((~np.isnan(self._matrices[at])).any(axis=1).sum()) for at in chosen)
        value = float(self._means[list(chosen)].mean())
        error = 0.0 if error < _ROUNDING else float(error)
        return Estimate(value, error, df, draws, n_items, n_seeds, len(chosen))

    def _aligned(self) -> list[FloatArray]:
        """Every cell as seeds × items of its whole kind, NaN where it has none."""
        shapes = {}
        for kind in self._kinds:
            frames = [cell.effects for cell in self.cells if cell.kind == kind]
            shapes[kind] = tuple(
                sorted(set().union(*(getattr(frame, axis) for frame in frames)))
                for axis in ("index", "columns")
            )
        return [
            cell.effects.reindex(index=shapes[cell.kind][0], columns=shapes[cell.kind][1]).to_numpy(
                float
            )
            for cell in self.cells
        ]

    def _variance(self, chosen: Sequence[int]) -> tuple[float, float]:
        """Variance of the chosen cells' mean with these cells fixed, and degrees of freedom."""
        variances, weights = [], []
        for kind in self._kinds:
            of_kind = [at for at in chosen if self.cells[at].kind == kind]
            if of_kind:
                variance, df = _two_way([self._matrices[at] for at in of_kind], len(chosen))
                variances.append(variance)
                weights.append(variance**2 / df)
        total = float(sum(variances))
        spread = float(sum(weights))
        return total, (total**2 / spread if spread > 0 else float(len(variances)))

    @cached_property
    def _alone(self) -> list[float]:
        """Every cell's own variance."""
        return [self._variance((at,))[0] for at in range(len(self.cells))]

    @cached_property
    def _draws(self) -> list[FloatArray]:
        """Per cell its bootstrap means; the cells of a kind share the draws."""
        rng = np.random.default_rng(self._seed)
        draws = [np.empty(0)] * len(self.cells)
        for kind in self._kinds:
            of_kind = [at for at, cell in enumerate(self.cells) if cell.kind == kind]
            n_seeds, n_items = self._matrices[of_kind[0]].shape
            rows = times_drawn(rng, n_seeds, self._n_boot)
            columns = times_drawn(rng, n_items, self._n_boot)
            for at in of_kind:
                matrix = self._matrices[at]
                there = (~np.isnan(matrix)).astype(float)
                total = (weighted_sum(rows, np.nan_to_num(matrix)) * columns).sum(axis=1)
                count = (weighted_sum(rows, there) * columns).sum(axis=1)
                with np.errstate(invalid="ignore"):
                    draws[at] = total / count
        return draws


def _two_way(matrices: Sequence[FloatArray], n_cells: int) -> tuple[float, float]:
    """What the cells of one kind add to the variance of a mean over `n_cells`, and its df.

    As `crossed_t_interval` on the matrices' mean; a value that is missing counts as its matrix's
    mean, so that an item or seed with fewer values moves less.
    """
    moved = np.zeros(matrices[0].shape)
    counts = np.zeros(matrices[0].shape)
    for matrix in matrices:
        there = ~np.isnan(matrix)
        counts += there
        moved += np.nan_to_num(matrix - np.nanmean(matrix)) / (there.sum() * n_cells)
    moved = moved[counts.any(axis=1)][:, counts.any(axis=0)]
    n_seeds, n_items = int(counts.any(axis=1).sum()), int(counts.any(axis=0).sum())
    if n_items < 2:
        return np.nan, 1.0
    seeds, items = moved.sum(axis=1), moved.sum(axis=0)
    by_seed, by_both = 0.0, 0.0
    by_item = n_items / (n_items - 1) * float(items @ items)
    if n_seeds > 1:
        by_seed = n_seeds / (n_seeds - 1) * float(seeds @ seeds)
        rest = moved - seeds[:, None] / n_items - items[None, :] / n_seeds
        left = (n_seeds - 1) * (n_items - 1)
        by_both = n_seeds * n_items / left * float((rest**2).sum())
    return crossed_variance(by_seed, by_item, by_both, n_seeds=n_seeds, n_items=n_items)


def _clustered(parts: FloatArray, labels: Sequence[str]) -> float:
    """Variance of a sum whose parts are dependent within a label."""
    codes, names = pd.factorize(pd.Series(labels))
    sums = np.bincount(codes, weights=parts)
    return len(names) / (len(names) - 1) * float(sums @ sums)
