"""`TokenGrid`: which pixel rectangle of the original image each image token stands for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attcot_analysis.errors import LayoutError
from attcot_analysis.problems import Box

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """The image tokens of one image, in the order in which they stand in the sequence.

    Attributes:
        image_size: ``(width, height)`` of the ORIGINAL image in pixels.
        boxes: ``(N, 4)`` float, ``(x0, y0, x1, y1)`` half open, in original pixels.
        shape: ``(rows, cols)`` if the tokens form one row-major grid, else ``None``.

    Raises:
        LayoutError: If boxes and shape do not describe the same number of tokens.
    """

    image_size: tuple[int, int]
    boxes: FloatArray
    shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Check the boxes against the shape."""
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise LayoutError(
                f"Token boxes have shape {self.boxes.shape}; expected (number of tokens, 4)."
            )
        if self.shape is not None and self.shape[0] * self.shape[1] != len(self.boxes):
            raise LayoutError(
                f"{len(self.boxes)} token boxes do not fill a grid of "
                f"{self.shape[0]} x {self.shape[1]}; give one box per grid cell."
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

    def __len__(self) -> int:
        """Number of image tokens."""
        return len(self.boxes)

    def coverage(self, boxes: Sequence[Box]) -> FloatArray:
        """Share of each token's area that the union of ``boxes`` covers: ``(N,)`` in [0, 1].

        ``boxes`` are in original pixels and may overlap each other.
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

    def to_map(self, values: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Lay values ``(..., N)`` of the tokens out as a picture ``(..., rows, cols)``.

        Raises:
            LayoutError: If the tokens form no single grid or their number differs.
        """
        array = np.asarray(values)
        if self.shape is None:
            raise LayoutError(
                "These image tokens form no single grid; draw their boxes one by one instead."
            )
        if array.shape[-1] != len(self):
            raise LayoutError(
                f"Values for {array.shape[-1]} tokens do not fit a grid of {len(self)} tokens."
            )
        return array.reshape(*array.shape[:-1], *self.shape)
