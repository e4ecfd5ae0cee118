"""`TokenGrid`: which pixel rectangle of the original image each image token stands for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from attcot_analysis.errors import LayoutError
from attcot_analysis.problems import Box
from attcot_analysis.problems.pictures import beside

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """The image tokens of one image, in the order in which they stand in the sequence.

    Some families look at an image more than once, as a whole and cut into tiles; each such look
    is a *view*. Some put placeholder tokens between the others that stand for no pixels
    (LLaVA-NeXT ends each row of tokens with one); these are in no grid, see ``slots``.

    Attributes:
        image_size: ``(width, height)`` of the ORIGINAL image in pixels.
        boxes: ``(N, 4)`` float, ``(x0, y0, x1, y1)`` half open, in original pixels. Where the
            processor pads, boxes reach beyond the image; where it crops, they leave some of the
            image out.
        shape: ``(rows, cols)`` if the tokens form one row-major grid of equal cells that covers
            exactly the image, else ``None``.
        views: Per view the tokens in its rows and columns, long ``(rows, cols)``, coarse views
            and fine ones together holding every token once. Default: the grid of ``shape``.
        slots: Which of the image's placeholder tokens these are, ``(N,)``; ``None`` for all.
        n_slots: How many placeholder tokens the image has in the sequence; default N.

    Raises:
        LayoutError: If these do not describe the same number of tokens.
    """

    image_size: tuple[int, int]
    boxes: FloatArray
    shape: tuple[int, int] | None = None
    views: tuple[IntArray, ...] = ()
    slots: IntArray | None = None
    n_slots: int | None = None

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise LayoutError(
                f"Token boxes have shape {self.boxes.shape}; expected (number of tokens, 4)."
            )
        if self.shape is not None and self.shape[0] * self.shape[1] != len(self.boxes):
            raise LayoutError(
                f"{len(self.boxes)} token boxes do not fill a grid of "
                f"{self.shape[0]} x {self.shape[1]}; give one box per grid cell."
            )
        every = np.arange(len(self))
        if self.shape is not None and not self.views:
            object.__setattr__(self, "views", (every.reshape(self.shape),))
        if self.views:
            seen = np.sort(np.concatenate([view.ravel() for view in self.views]))
            if not np.array_equal(seen, every):
                raise LayoutError(
                    f"The views hold {len(seen)} places for {len(self)} tokens; "
                    "give each token one place in one view."
                )
        if self.n_slots is None:
            object.__setattr__(self, "n_slots", len(self))
        if self.slots is None:
            object.__setattr__(self, "slots", every)
        if len(self.placeholders) != len(self) or len(self) > self.n_placeholders:
            raise LayoutError(
                f"{len(self.placeholders)} slots of {self.n_slots} placeholders do not fit "
                f"{len(self)} token boxes; give one slot per box."
            )

    @classmethod
    def regular(cls, image_size: tuple[int, int], rows: int, cols: int) -> "TokenGrid":
        """A row-major grid of equal cells that covers the whole image."""
        width, height = image_size
        xs = np.linspace(0.0, width, cols + 1)
        ys = np.linspace(0.0, height, rows + 1)
        boxes = np.empty((rows, cols, 4))
        boxes[..., 0], boxes[..., 2] = xs[:-1], xs[1:]
        boxes[..., 1], boxes[..., 3] = ys[:-1, None], ys[1:, None]
        return cls(image_size, boxes.reshape(-1, 4), (rows, cols))

    @classmethod
    def of_views(
        cls,
        image_size: tuple[int, int],
        views: Sequence[tuple[FloatArray, IntArray]],
        n_slots: int,
    ) -> "TokenGrid":
        """Join views.

        Args:
            image_size: ``(width, height)`` of the original image.
            views: Per view the boxes ``(rows, cols, 4)`` of its tokens and their slots
                ``(rows, cols)`` among the image's placeholders.
            n_slots: Number of placeholders.

        Views without tokens are left out.
        """
        views = [view for view in views if view[1].size]
        slots = np.concatenate([places.ravel() for _, places in views])
        order = np.argsort(slots)
        rank = np.empty(len(slots), dtype=np.int64)
        rank[order] = np.arange(len(slots))
        ends = np.cumsum([places.size for _, places in views])[:-1]
        parts = [
            part.reshape(places.shape)
            for part, (_, places) in zip(np.split(rank, ends), views, strict=True)
        ]
        boxes = np.concatenate([found.reshape(-1, 4) for found, _ in views])[order]
        shape = None
        if len(views) == 1 and np.array_equal(parts[0].ravel(), np.arange(len(boxes))):
            rows = len(parts[0])
            whole = cls.regular(image_size, rows, len(boxes) // rows)
            shape = whole.shape if np.allclose(whole.boxes, boxes, atol=1e-6) else None
        return cls(image_size, boxes, shape, tuple(parts), slots[order], n_slots)

    @classmethod
    def beside(cls, grids: Sequence["TokenGrid"]) -> "TokenGrid":
        """One grid of several pictures, side by side as on `Problem.sheet`; of one, itself."""
        if len(grids) == 1:
            return grids[0]
        places, size = beside([grid.image_size for grid in grids])
        tokens = np.cumsum([0, *map(len, grids)])
        slots = np.cumsum([0, *(grid.n_placeholders for grid in grids)])
        whole = range(len(grids))
        return cls(
            size,
            np.concatenate(
                [grid.boxes + np.tile(at, 2) for grid, at in zip(grids, places, strict=True)]
            ),
            None,
            tuple(view + tokens[at] for at in whole for view in grids[at].views),
            np.concatenate([grids[at].placeholders + slots[at] for at in whole]),
            int(slots[-1]),
        )

    def __len__(self) -> int:
        """Number of image tokens."""
        return len(self.boxes)

    @property
    def placeholders(self) -> IntArray:
        """``slots``, never ``None``."""
        assert self.slots is not None
        return self.slots

    @property
    def n_placeholders(self) -> int:
        """``n_slots``, never ``None``."""
        assert self.n_slots is not None
        return self.n_slots

    @property
    def resolution(self) -> tuple[int, int]:
        """Rows and columns of the picture that `to_map` draws.

        ``shape`` if there is one; else as many as tokens of the smallest size would fill the image.
        """
        if self.shape is not None:
            return self.shape
        x0, y0, x1, y1 = self.boxes.T
        width, height = self.image_size
        return max(1, round(height / (y1 - y0).min())), max(1, round(width / (x1 - x0).min()))

    def coverage(self, boxes: Sequence[Box]) -> FloatArray:
        """Share of each token's area that the union of ``boxes`` covers: ``(N,)`` in [0, 1].

        ``boxes`` are in original pixels and may overlap each other. Area beyond the image, where
        the processor padded, counts as area of the token.
        """
        if not len(boxes):
            return np.zeros(len(self))
        evidence = np.asarray(boxes, dtype=float)
        xs = np.unique(evidence[:, [0, 2]])
        ys = np.unique(evidence[:, [1, 3]])
        if len(xs) < 2 or len(ys) < 2:
            return np.zeros(len(self))
        middle_x, middle_y = (xs[:-1] + xs[1:]) / 2, (ys[:-1] + ys[1:]) / 2
        in_x = (evidence[:, :1] < middle_x) & (middle_x < evidence[:, 2:3])
        in_y = (evidence[:, 1:2] < middle_y) & (middle_y < evidence[:, 3:])
        covered = np.einsum("ey,ex->yx", in_y.astype(float), in_x.astype(float)) > 0
        x0, y0, x1, y1 = self.boxes.T[..., None]
        overlap_x = np.clip(np.minimum(x1, xs[1:]) - np.maximum(x0, xs[:-1]), 0, None)
        overlap_y = np.clip(np.minimum(y1, ys[1:]) - np.maximum(y0, ys[:-1]), 0, None)
        area = np.einsum("ny,yx,nx->n", overlap_y, covered.astype(float), overlap_x)
        return area / ((x1 - x0) * (y1 - y0))[:, 0]

    def sees(self, boxes: Sequence[Box]) -> bool:
        """Whether any token stands for a part of ``boxes``; a processor that crops may leave none.

        What the model is not shown has no attention to be measured: it is missing, not 0.
        """
        return bool(self.coverage(boxes).any())

    def to_map(self, values: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Lay values ``(..., N)`` of the tokens out as a picture ``(..., rows, cols)``.

        One grid over the image is reshaped. Several views, or a view of a part of the image, are
        painted over each other by `to_canvas`, at `resolution`: a map of masses still sums to the
        mass, less what lies beyond the image.

        Raises:
            LayoutError: If there is not one value per token.
        """
        array = np.asarray(values)
        if self.shape is None:
            return self.to_canvas(array, *self.resolution)
        self._check_values(array)
        return array.reshape(*array.shape[:-1], *self.shape)

    def to_canvas(
        self, values: npt.ArrayLike, rows: int, cols: int, *, view: int | None = None
    ) -> FloatArray:
        """Paint values ``(..., N)`` on the image cut into ``(..., rows, cols)`` equal cells.

        Each token's value is spread evenly over its box, and each cell sums what falls on it. What
        lies beyond the image is not painted.

        Args:
            values: One per token, in the last dimension.
            rows: Of the canvas.
            cols: Of the canvas.
            view: Paint the tokens of one view only.

        Raises:
            LayoutError: If there is not one value per token, or no such view.
        """
        array = np.asarray(values, dtype=float)
        self._check_values(array)
        if view is not None and not 0 <= view < len(self.views):
            raise LayoutError(f"There is no view {view}; this grid has {len(self.views)}.")
        chosen = np.arange(len(self)) if view is None else self.views[view].ravel()
        x0, y0, x1, y1 = self.boxes[chosen].T
        width, height = self.image_size
        down = _overlap(y0, y1, np.linspace(0.0, height, rows + 1))
        across = _overlap(x0, x1, np.linspace(0.0, width, cols + 1))
        painted = array[..., chosen].reshape(-1, len(chosen)) @ _products(down, across)
        return np.asarray(painted).reshape(*array.shape[:-1], rows, cols)

    def _check_values(self, array: npt.NDArray[np.generic]) -> None:
        if array.ndim == 0 or array.shape[-1] != len(self):
            given = array.shape[-1] if array.ndim else 1
            raise LayoutError(f"Values for {given} tokens do not fit a grid of {len(self)} tokens.")


def _products(down: FloatArray, across: FloatArray) -> sparse.csr_array:
    """Each token's share of each cell, ``(N, rows * cols)``: a token lies on few of them."""
    n, cols = across.shape
    token, row = np.nonzero(down)
    other, col = np.nonzero(across)
    times = np.bincount(other, minlength=n)[token]
    first = np.searchsorted(other, np.arange(n))[token] - (np.cumsum(times) - times)
    pairs = np.arange(times.sum()) + np.repeat(first, times)
    token, row = np.repeat(token, times), np.repeat(row, times)
    shares = down[token, row] * across[token, col[pairs]]
    cells = (token, row * cols + col[pairs])
    return sparse.csr_array((shares, cells), shape=(n, down.shape[1] * cols))


def _overlap(starts: FloatArray, stops: FloatArray, edges: FloatArray) -> FloatArray:
    """Share of each stretch that lies between each two edges: ``(N, len(edges) - 1)``."""
    low = np.maximum(starts[:, None], edges[:-1])
    high = np.minimum(stops[:, None], edges[1:])
    return np.clip(high - low, 0, None) / (stops - starts)[:, None]
