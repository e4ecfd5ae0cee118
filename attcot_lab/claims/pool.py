"""Effects of many cells, models × kinds of problems, estimated one by one and together.

Within a kind all models answer the same items after training on the same seeds' problems, so their
effects are not independent. Hence a pool averages over the models of a kind first, item by item and
seed by seed, and treats what is left as any matrix of seeds × items (`variance_parts`). Kinds share
no items; what a seed does may be the same in all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.stats.crossed import Estimate, allot, estimate_of, moved_cells, unseen_items
from attcot_analysis.stats.intervals import FloatArray

MIN_BEYOND = 3
"""So many models, or kinds, are needed to say something about others."""


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


class Pool:
    """The cells of one effect; estimates of each and of any set of them.

    Args:
        cells: At most one per model and kind.

    Raises:
        MeasureError: If a model and kind is there twice, or a cell has no value at all.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        """Bring the cells of every kind to the same seeds and items."""
        names = [(cell.model, cell.kind) for cell in cells]
        if len(set(names)) < len(names):
            raise MeasureError("A model and kind is there twice; give every cell once.")
        for cell in cells:
            if cell.effects.isna().to_numpy().all():
                raise MeasureError(f"{cell.model} on {cell.kind} has no value; leave it out.")
        self.cells = tuple(cells)
        self._kinds = list(dict.fromkeys(cell.kind for cell in cells))
        self._seeds = sorted(set().union(*(cell.effects.index for cell in cells)))
        self._matrices = self._aligned()
        self._means = np.array([np.nanmean(matrix) for matrix in self._matrices])

    def estimate(self, chosen: Sequence[int] | None = None) -> Estimate:
        """The mean effect in these very cells, were seeds and items drawn anew; see `seeds_items`.

        Args:
            chosen: Which of the cells; default all. Each weighs the same.
        """
        chosen = self._chosen(chosen)
        moved, seeds, unseen = [], [], 0.0
        for kind in self._kinds:
            stack = [self._matrices[at] for at in chosen if self.cells[at].kind == kind]
            if not stack:
                continue
            cells = np.stack(stack)
            there = np.asarray(~np.isnan(cells).all(axis=0))
            rows, columns = there.any(axis=1), there.any(axis=0)
            cells = cells[:, rows][:, :, columns]
            moved.append(np.sum([moved_cells(one, 1 / len(chosen)) for one in cells], axis=0))
            seeds.append(np.flatnonzero(rows))
            unseen += unseen_items(cells, len(stack) / len(chosen))
        least = min(int((~np.isnan(self._matrices[at])).any(axis=1).sum()) for at in chosen)
        value = float(self._means[list(chosen)].mean())
        return estimate_of(value, moved, seeds=seeds, unseen=unseen, n_seeds=least)

    def beyond(self, chosen: Sequence[int] | None = None) -> Estimate | None:
        """The mean effect with models, and kinds where there are enough, drawn anew as well.

        Variance between cells, from the crossed random effects of models and kinds on the cells'
        means, plus what the cells share because they share items and seeds; never below that of
        `estimate`. Models count as independent draws, although two scales of one family are more
        alike than two families.

        Returns:
            ``None`` with fewer than `MIN_BEYOND` models; with fewer kinds than that, the kinds
            are taken as they are.

        Source: standard crossed random effects (as `seeds_items`, one level higher).
        """
        chosen = self._chosen(chosen)
        models = [self.cells[at].model for at in chosen]
        kinds = [self.cells[at].kind for at in chosen]
        fixed = self.estimate(chosen)
        if len(set(models)) < MIN_BEYOND or not fixed.parts:
            return None
        here = fixed.error**2
        means, share = self._means[list(chosen)], 1 / len(chosen)
        many = len(set(kinds)) >= MIN_BEYOND
        center = np.full(len(means), means.mean())
        if not many:
            for kind in set(kinds):
                of_kind = np.array(kinds) == kind
                center[of_kind] = means[of_kind].mean()
        parts = (means - center) * share
        between = [(_clustered(parts, models), len(set(models)) - 1)]
        cells = between[0][0]
        if many:
            between.append((_clustered(parts, kinds), len(set(kinds)) - 1))
            rest = len(parts) / max(len(parts) - 1, 1) * float(parts @ parts)
            found = [part for part, _ in between]
            cells = max(sum(found) - rest, *found)
        alone = sum(self._alone[at] for at in chosen) * share**2
        variance = max(here, cells + max(0.0, here - alone))
        split = allot(variance, [*between, *fixed.parts])
        own = tuple((float(part), df) for part, df in split)
        return replace(fixed, parts=own, n_models=len(set(models)))

    def _chosen(self, chosen: Sequence[int] | None) -> tuple[int, ...]:
        cells = tuple(range(len(self.cells)) if chosen is None else chosen)
        if not cells:
            raise MeasureError("A pool of no cells was asked for; name at least one.")
        return cells

    def _aligned(self) -> list[FloatArray]:
        """Every cell as seeds × items of its whole kind, NaN where it has none."""
        items = {
            kind: sorted(
                set().union(*(cell.effects.columns for cell in self.cells if cell.kind == kind))
            )
            for kind in self._kinds
        }
        return [
            cell.effects.reindex(index=self._seeds, columns=items[cell.kind]).to_numpy(float)
            for cell in self.cells
        ]

    @cached_property
    def _alone(self) -> list[float]:
        """Every cell's own variance."""
        return [self.estimate((at,)).error ** 2 for at in range(len(self.cells))]


def _clustered(parts: FloatArray, labels: Sequence[str]) -> float:
    """Variance of a sum whose parts are dependent within a label."""
    codes, names = pd.factorize(pd.Series(labels))
    sums = np.bincount(codes, weights=parts)
    return len(names) / (len(names) - 1) * float(sums @ sums)
