"""Control regions: as large as what an edit hides, and free of evidence."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

import numpy as np

from attcot_analysis.errors import check_numbers
from attcot_analysis.problems.fills import Rectangle
from attcot_analysis.problems.problem import Box, Problem

Form = Literal["same", "smaller", "strips"]
"""How a control region compares with what it is held against."""

_TRIES = 20_000
_RANDOM_PLACES = 16
_SHARES = tuple(round(0.95 - 0.05 * at, 2) for at in range(18))
"""Areas tried where the whole does not fit, as shares of it: 0.95 to 0.1."""
_SMALLEST = 0.25
"""Share of the area below which a smaller region gives way to strips that cover more."""
_THINNEST = 4
"""Pixels; narrower strips a model hardly sees."""


@dataclass(frozen=True)
class Control:
    """A region that holds no evidence, to be edited as the evidence is.

    Attributes:
        boxes: Its rectangles.
        form: ``"same"``: the evidence's shapes and areas, elsewhere; ``"smaller"``: its shapes,
            all smaller by one factor; ``"strips"``: several rectangles of what is free.
        share: Its area over that of what it is held against; its effect over this is what would
            be compared if effects grew with area.
    """

    boxes: tuple[Rectangle, ...]
    form: Form
    share: float


def evidence_rectangles(
    problem: Problem, steps: Sequence[int] | None = None
) -> tuple[Rectangle, ...]:
    """Evidence boxes of a problem, each once, widened to whole pixels.

    Args:
        problem: The item.
        steps: Of which steps, from 1; default of all, and of the item as a whole. Steps that the
            item does not have add nothing.
    """
    if steps is None:
        return whole_pixels(problem.evidence_boxes)
    asked = [k for k in range(1, len(problem.steps) + 1) if k in steps]
    return whole_pixels([box for k in asked for box in problem.step_boxes(k)])


def whole_pixels(boxes: Iterable[Box]) -> tuple[Rectangle, ...]:
    """Boxes widened to whole pixels, each once."""
    found = [(floor(x0), floor(y0), ceil(x1), ceil(y1)) for x0, y0, x1, y1 in boxes]
    return tuple(dict.fromkeys(found))


def control_rectangles(
    problem: Problem,
    hidden: Sequence[Rectangle],
    *,
    avoid: Sequence[Rectangle] = (),
    seed: int = 0,
) -> tuple[Rectangle, ...] | None:
    """Find a place of no evidence for rectangles of the same shapes and areas.

    Rectangles that overlap each other are moved together, so that what they cover together stays
    as large. Places are tried in an order drawn from ``seed`` and the item's id: those flush with
    the picture's edge, with evidence, or with each other (where there is room, there is room at
    such a place), and some at random.

    Args:
        problem: The item; no evidence of any of its steps is covered.
        hidden: The rectangles to match.
        avoid: What else is not to be covered.
        seed: For the order.

    Returns:
        One rectangle per rectangle, or ``None`` if no place is found.
    """
    check_numbers(seed=seed)
    groups = sorted(_groups(hidden), key=_area, reverse=True)
    rng = np.random.default_rng([seed, zlib.crc32(problem.id.encode())])
    width, height = problem.size
    search = _Search(groups, [*evidence_rectangles(problem), *avoid], (width, height), rng)
    moved = search.place([])
    if moved is None:
        return None
    place_of = {
        before: after
        for group, there in zip(groups, moved, strict=True)
        for before, after in zip(group, there, strict=True)
    }
    return tuple(place_of[rectangle] for rectangle in hidden)


def matched_control(
    problem: Problem, hidden: Sequence[Rectangle], *, seed: int = 0
) -> Control | None:
    """A region without evidence to hold rectangles against, wherever the picture has any.

    The same shapes elsewhere (`control_rectangles`) if there is room; else the same shapes made
    smaller, the largest for which there is room; else, where these would have less than a quarter
    of the area, strips: rectangles of what is free, up to the same area, if they cover more.
    Leaving out the items whose evidence is large would select items by the size of their objects.

    Args:
        problem: The item; no evidence of any of its steps is covered.
        hidden: The rectangles to match.
        seed: Decides which of several places is taken.

    Returns:
        ``None`` only if nothing is hidden, or no free rectangle has 4 pixels on both sides.
    """
    if not hidden:
        return None
    same = control_rectangles(problem, hidden, seed=seed)
    if same is not None:
        return Control(same, "same", 1.0)
    area = covered_area(hidden)
    found = []
    shrunk = _smaller(problem, hidden, seed)
    if shrunk is not None:
        found.append(Control(shrunk, "smaller", covered_area(shrunk) / area))
    if not found or found[0].share < _SMALLEST:
        taken = [*evidence_rectangles(problem), *hidden]
        rng = np.random.default_rng([seed, zlib.crc32(problem.id.encode())])
        strips = _strips(taken, problem.size, area, rng)
        if strips:
            found.append(Control(strips, "strips", covered_area(strips) / area))
    return max(found, key=lambda one: one.share, default=None)


def covered_area(rectangles: Sequence[Rectangle]) -> int:
    """Pixels that rectangles cover together, each counted once."""
    if not rectangles:
        return 0
    xs, ys, covered = _cells(rectangles)
    return int((covered * np.outer(np.diff(ys), np.diff(xs))).sum())


def _cells(
    rectangles: Sequence[Rectangle], size: tuple[int, int] | None = None
) -> tuple[list[int], list[int], np.ndarray]:
    """The grid of all edges, and which of its cells (rows, columns) are covered."""
    edges = [sorted({edge for one in rectangles for edge in (one[a], one[a + 2])}) for a in (0, 1)]
    if size is not None:
        edges = [sorted({0, size[a], *edges[a]}) for a in (0, 1)]
    xs, ys = edges
    covered = np.zeros((len(ys) - 1, len(xs) - 1), dtype=bool)
    for x0, y0, x1, y1 in rectangles:
        covered[ys.index(y0) : ys.index(y1), xs.index(x0) : xs.index(x1)] = True
    return xs, ys, covered


def _smaller(
    problem: Problem, hidden: Sequence[Rectangle], seed: int
) -> tuple[Rectangle, ...] | None:
    """The largest of `_SHARES` for which there is a place, by bisection."""
    best, low, high = None, 0, len(_SHARES) - 1
    while low <= high:
        middle = (low + high) // 2
        scaled = [_scaled(group, _SHARES[middle] ** 0.5) for group in _groups(hidden)]
        shapes = [one for group in scaled for one in group]
        moved = control_rectangles(problem, shapes, avoid=hidden, seed=seed)
        if moved is None:
            low = middle + 1
        else:
            best, high = moved, middle - 1
    return best


def _scaled(group: tuple[Rectangle, ...], factor: float) -> list[Rectangle]:
    """A group made smaller towards its upper left corner, nothing below a pixel."""
    left, top = min(one[0] for one in group), min(one[1] for one in group)

    def at(start: int, value: int) -> int:
        return start + int((value - start) * factor)

    return [
        (
            at(left, x0),
            at(top, y0),
            max(at(left, x1), at(left, x0) + 1),
            max(at(top, y1), at(top, y0) + 1),
        )
        for x0, y0, x1, y1 in group
    ]


def _strips(
    taken: Sequence[Rectangle], size: tuple[int, int], area: int, rng: np.random.Generator
) -> tuple[Rectangle, ...]:
    """Free rectangles in an order of chance, up to an area; the last one is cut to fit."""
    xs, ys, covered = _cells(taken, size)
    tops: dict[tuple[int, int], int] = {}
    free: list[Rectangle] = []
    for row in range(len(ys) - 1):
        edges = np.flatnonzero(np.diff([1, *covered[row].astype(int), 1]))
        here = {
            (xs[first], xs[last]): ys[row]
            for first, last in zip(edges[::2], edges[1::2], strict=True)
        }
        # A run that is as wide as the one above it continues it.
        free += [(x0, top, x1, ys[row]) for (x0, x1), top in tops.items() if (x0, x1) not in here]
        tops = {key: tops.get(key, top) for key, top in here.items()}
    free += [(x0, top, x1, ys[-1]) for (x0, x1), top in tops.items()]
    free = [one for one in free if min(one[2] - one[0], one[3] - one[1]) >= _THINNEST]
    strips: list[Rectangle] = []
    left = area
    for at in rng.permutation(len(free)):
        x0, y0, x1, y1 = free[at]
        wide, high = x1 - x0, y1 - y0
        if wide * high > left:
            if wide >= high:
                x1 = x0 + max(round(left / high), 1)
            else:
                y1 = y0 + max(round(left / wide), 1)
        strips.append((x0, y0, x1, y1))
        left -= (x1 - x0) * (y1 - y0)
        if left <= 0:
            break
    return tuple(strips)


class _Search:
    """Depth-first search for a place of every group."""

    def __init__(
        self,
        groups: Sequence[tuple[Rectangle, ...]],
        evidence: Sequence[Rectangle],
        size: tuple[int, int],
        rng: np.random.Generator,
    ) -> None:
        self.groups, self.evidence, self.size, self.rng = groups, evidence, size, rng
        self.tries = 0

    def place(self, placed: list[tuple[Rectangle, ...]]) -> list[tuple[Rectangle, ...]] | None:
        """Place the groups that are left, given those that are placed."""
        if len(placed) == len(self.groups):
            return placed
        group = self.groups[len(placed)]
        taken = [*self.evidence, *(one for other in placed for one in other)]
        for moved in self._places(group, taken):
            self.tries += 1
            if self.tries > _TRIES:
                return None
            if any(_overlap(one, other) for one in moved for other in taken):
                continue
            found = self.place([*placed, moved])
            if found is not None:
                return found
        return None

    def _places(
        self, group: tuple[Rectangle, ...], taken: Sequence[Rectangle]
    ) -> Iterator[tuple[Rectangle, ...]]:
        """The group moved to every place to try, inside the picture."""
        x0, y0 = min(one[0] for one in group), min(one[1] for one in group)
        width, height = max(one[2] for one in group) - x0, max(one[3] for one in group) - y0
        places = {
            (x, y) for x in self._starts(width, 0, taken) for y in self._starts(height, 1, taken)
        }
        for _ in range(_RANDOM_PLACES):
            spare = (self.size[0] - width + 1, self.size[1] - height + 1)
            if min(spare) > 0:
                places.add((int(self.rng.integers(spare[0])), int(self.rng.integers(spare[1]))))
        ordered = sorted(places)
        for at in self.rng.permutation(len(ordered)):
            dx, dy = ordered[at][0] - x0, ordered[at][1] - y0
            yield tuple((a + dx, b + dy, c + dx, d + dy) for a, b, c, d in group)

    def _starts(self, extent: int, axis: int, taken: Sequence[Rectangle]) -> list[int]:
        edges = {0, self.size[axis]}
        edges |= {edge for one in taken for edge in (one[axis], one[axis + 2])}
        starts = edges | {edge - extent for edge in edges}
        return sorted(start for start in starts if 0 <= start <= self.size[axis] - extent)


def _groups(rectangles: Sequence[Rectangle]) -> list[tuple[Rectangle, ...]]:
    """Rectangles that overlap, directly or through others, belong together."""
    groups: list[tuple[Rectangle, ...]] = []
    for rectangle in rectangles:
        touched = [g for g in groups if any(_overlap(rectangle, one) for one in g)]
        groups = [g for g in groups if g not in touched]
        groups.append((*(one for g in touched for one in g), rectangle))
    return groups


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _area(group: Sequence[Rectangle]) -> int:
    return sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in group)
