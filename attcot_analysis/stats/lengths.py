"""RH-AUC: does perception survive longer rationales?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.integrate import trapezoid

from attcot_analysis.errors import MeasureError, check_numbers, check_table
from attcot_analysis.stats.intervals import FloatArray, Interval


@dataclass(frozen=True)
class RhAuc:
    """Perception against reasoning over lengths.

    Attributes:
        area: RH-AUC, 0 to 1, with an interval over items; NaN where one of both accuracies is the
            same at all lengths. Its n is items, the fewer of both.
        points: ``length``, ``reasoning``, ``perception``: accuracies, in the order of lengths.
        reasoning_range: Largest minus smallest accuracy over lengths.
        perception_range: The same of perception. Both are stretched to 1 by the normalisation: read
            no area whose ranges are noise.
    """

    area: Interval
    points: pd.DataFrame
    reasoning_range: float
    perception_range: float

    def __str__(self) -> str:
        """Write the area, then the two ranges that it hides."""
        return (
            f"RH-AUC {self.area}; accuracy ranges over {len(self.points)} lengths by "
            f"{self.reasoning_range:.3f} (reasoning) and {self.perception_range:.3f} (perception)"
        )


def rh_auc(
    reasoning: pd.DataFrame,
    perception: pd.DataFrame,
    *,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> RhAuc:
    """Area under perception against reasoning as rationales grow longer.

    Both accuracies are stretched to 0 to 1 over the lengths, the lengths put in the order of
    reasoning, and the area under perception is summed by trapezoids. 0.5 where perception rises as
    reasoning does, 1 where it is kept until the last, near 0 where it is gone at once.

    What would show that the usual reading is wrong: the stretching hides sizes. A perception that
    falls by 0.01 counts like one that falls by 0.5, so read `RhAuc.perception_range` first.

    Args:
        reasoning: ``length``, ``item``, ``value`` (1 where right): reasoning items answered after
            rationales of every length, such as token budgets or shares of a rationale.
        perception: The same lengths for items that only have to be seen.
        n_boot: Bootstrap resamples of the items, each with its values at all lengths.
        seed: Seed of the bootstrap.
        level: Confidence level.

    Raises:
        MeasureError: If there are fewer than two lengths, the two tables differ in them, or an item
            lacks one.

    Source: RH-AUC of arXiv 2505.21523, whose published definition has no interval and no ranges.
    """
    check_numbers(n_boot=n_boot, seed=seed, level=level)
    tables = [_by_length(*one) for one in (("reasoning", reasoning), ("perception", perception))]
    lengths = list(tables[0].columns)
    if len(lengths) < 2 or lengths != list(tables[1].columns):
        raise MeasureError(
            f"Reasoning has the lengths {lengths} and perception {list(tables[1].columns)}; give "
            "both the same two or more."
        )
    values = [table.to_numpy(float) for table in tables]
    means = [matrix.mean(axis=0) for matrix in values]
    rng = np.random.default_rng(seed)
    drawn = [
        matrix[rng.integers(len(matrix), size=(n_boot, len(matrix)))].mean(axis=1)
        for matrix in values
    ]
    areas = np.array([normalised_area(x, y) for x, y in zip(*drawn, strict=True)])
    low, high = np.nan, np.nan
    if not np.isnan(areas).all():
        low, high = np.nanquantile(areas, [(1 - level) / 2, (1 + level) / 2])
    area = Interval(normalised_area(*means), low, high, min(map(len, values)), level)
    points = pd.DataFrame({"length": lengths, "reasoning": means[0], "perception": means[1]})
    return RhAuc(area, points, *(float(np.ptp(mean)) for mean in means))


def normalised_area(x: FloatArray, y: FloatArray) -> float:
    """Area under y against x, both stretched to 0 to 1; NaN where one of them is constant."""
    if not np.ptp(x) or not np.ptp(y):
        return float("nan")
    order = np.argsort(x, kind="stable")
    x, y = (((one - one.min()) / np.ptp(one))[order] for one in (x, y))
    return float(trapezoid(y, x))


def _by_length(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Items × lengths."""
    check_table(table, name, ("length", "item", "value"))
    if table.duplicated(["item", "length"]).any():
        raise MeasureError(f"The table {name} holds an item twice at one length; give it once.")
    wide = table.pivot(index="item", columns="length", values="value")
    if wide.isna().to_numpy().any():
        raise MeasureError(
            f"Item {wide.index[wide.isna().any(axis=1)][0]} of {name} lacks a length; answer every "
            "item after every length."
        )
    return wide
