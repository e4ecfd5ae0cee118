"""`Frame`: follows a picture through a processor's resizing, padding and cropping."""

from dataclasses import dataclass

import numpy as np

from attcot_analysis.models.grid import FloatArray


@dataclass(frozen=True)
class Frame:
    """Where the original picture lies on the canvas that a processor made of it.

    Original pixel x lies at ``scale * x + offset`` on the canvas, on each axis.

    Attributes:
        size: ``(width, height)`` of the canvas.
        scale: Canvas pixels per original pixel, ``(x, y)``.
        offset: Canvas position of the original's upper left corner, ``(x, y)``.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def resize(self, width: int, height: int) -> "Frame":
        """Stretch the canvas."""
        across, down = width / self.size[0], height / self.size[1]
        return Frame(
            (width, height),
            (self.scale[0] * across, self.scale[1] * down),
            (self.offset[0] * across, self.offset[1] * down),
        )

    def place(self, width: int, height: int, left: int, top: int) -> "Frame":
        """Put the canvas on another one at ``(left, top)``; a smaller one crops it."""
        return Frame((width, height), self.scale, (self.offset[0] + left, self.offset[1] + top))

    def boxes(self, columns: FloatArray, rows: FloatArray) -> FloatArray:
        """Original boxes ``(R, C, 4)`` of columns ``(C, 2)`` and rows ``(R, 2)`` of the canvas."""
        xs = (columns - self.offset[0]) / self.scale[0]
        ys = (rows - self.offset[1]) / self.scale[1]
        found = np.empty((len(ys), len(xs), 4))
        found[..., 0::2] = xs
        found[..., 1::2] = ys[:, None]
        return found


def cells(n: int, size: float, *, tiles: int = 1, tile: float = 0.0) -> FloatArray:
    """Start and end of the tokens along one axis of a canvas, ``(tiles * n, 2)``.

    Args:
        n: Tokens per tile.
        size: Pixels per token. The tower drops what is left of a tile after n tokens.
        tiles: Number of tiles.
        tile: Pixels per tile.
    """
    starts = (np.arange(tiles)[:, None] * tile + np.arange(n) * size).ravel()
    return np.stack([starts, starts + size], axis=-1)


def shares(stretch: FloatArray, n: int) -> FloatArray:
    """Cut a stretch of cells ``(m, 2)`` into n equal shares ``(n, 2)``, as resampling does."""
    edges = np.linspace(0.0, len(stretch), n + 1).round(9)
    first = np.floor(edges[:-1]).astype(int)
    last = np.ceil(edges[1:]).astype(int) - 1
    size = stretch[:, 1] - stretch[:, 0]
    starts = stretch[first, 0] + (edges[:-1] - first) * size[first]
    stops = stretch[last, 1] - (last + 1 - edges[1:]) * size[last]
    return np.stack([starts, stops], axis=-1)
