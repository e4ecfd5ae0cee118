"""`AttentionMaps`: the maps of one response, of one model or two, as the explorer reads them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.problems import Box

if TYPE_CHECKING:
    from attcot_analysis.models import TokenGrid


@dataclass(frozen=True)
class Reading:
    """What one map says, in numbers.

    Attributes:
        label: The model.
        mass: Attention on all image tokens together.
        patch: Row and column of the drawn map's cell with the largest weight: an image token's
            place, unless the picture was cut into tiles.
        peak: That weight.
        evidence: Share of the mass that lies on the evidence boxes; NaN without boxes or mass.
    """

    label: str
    mass: float
    patch: tuple[int, int]
    peak: float
    evidence: float


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention on the image tokens for every layer, head and token of one response.

    Attributes:
        image: The original picture.
        maps: One or two ``(layers, heads, tokens, image tokens)`` arrays; two are compared.
        labels: What each array is called.
        grid: Where the image tokens lie. Of a picture that was cut into tiles the views are
            painted over each other, see `TokenGrid.to_map`.
        tokens: Text of every token; its row is the one that predicts it.
        boxes: Per token the evidence boxes of its step, or ``None`` where there are none.

    Raises:
        ShowError: If the parts do not fit together.
    """

    image: Image.Image
    maps: tuple[np.ndarray, ...]
    labels: tuple[str, ...]
    grid: "TokenGrid"
    tokens: tuple[str, ...]
    boxes: tuple[Sequence[Box], ...] = ()
    _tops: dict[tuple[int | None, int | None], tuple[float, float]] = field(
        default_factory=dict, repr=False
    )

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        n = len(self.grid)
        for label, maps in zip(self.labels, self.maps, strict=True):
            if maps.ndim != 4 or 0 in maps.shape or maps.shape[2:] != (len(self.tokens), n):
                raise ShowError(
                    f"The maps of {label!r} have shape {maps.shape}; expected (layers, heads, "
                    f"{len(self.tokens)} tokens, {n} image tokens), as read_maps returns them."
                )
            if not np.isfinite(maps.sum(dtype=np.float64)):
                raise ShowError(f"The maps of {label!r} hold NaN or infinite values.")
        if len({maps.shape for maps in self.maps}) > 1:
            raise ShowError(
                f"The two sets of maps have shapes {[maps.shape for maps in self.maps]}; "
                "compare models of the same depth on the same response."
            )
        if self.boxes and len(self.boxes) != len(self.tokens):
            raise ShowError(
                f"There are {len(self.boxes)} box lists for {len(self.tokens)} tokens; "
                "give one per token, None where a token has no evidence box."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a drawn map."""
        return self.grid.resolution

    @property
    def n_layers(self) -> int:
        """Number of layers in the maps."""
        return int(self.maps[0].shape[0])

    @property
    def n_heads(self) -> int:
        """Number of heads in the maps."""
        return int(self.maps[0].shape[1])

    def boxes_of(self, token: int) -> Sequence[Box]:
        """Evidence boxes of a token's step; empty if there are none."""
        return self.boxes[token] if self.boxes else ()

    def maps_of(self, layer: int | None, head: int | None, token: int) -> list[np.ndarray]:
        """Return one ``(rows, cols)`` map per model; ``None`` means the mean over all."""
        return [self._drawn(self._pick(maps[:, :, token], layer, head)) for maps in self.maps]

    def tops(self, layer: int | None, head: int | None) -> tuple[float, float]:
        """Return the largest value and absolute difference of the drawn maps of all tokens."""
        key = (layer, head)
        if key not in self._tops:
            picked = [self._drawn(self._pick(maps, layer, head)) for maps in self.maps]
            change = float(np.abs(picked[1] - picked[0]).max()) if len(picked) == 2 else 0.0
            self._tops[key] = (float(max(values.max() for values in picked)), change)
        return self._tops[key]

    def read(self, layer: int | None, head: int | None, token: int) -> list[Reading]:
        """Say in numbers what `maps_of` shows."""
        boxes = self.boxes_of(token)
        cover = self.grid.coverage(boxes) if boxes else None
        readings = []
        for label, maps in zip(self.labels, self.maps, strict=True):
            weights = self._pick(maps[:, :, token], layer, head)
            drawn = self._drawn(weights)
            mass = float(weights.sum())
            row, col = divmod(int(drawn.argmax()), self.shape[1])
            inside = float((weights * cover).sum()) if cover is not None else float("nan")
            evidence = inside / mass if mass > 0 else float("nan")
            readings.append(Reading(label, mass, (row, col), float(drawn.max()), evidence))
        return readings

    def _drawn(self, weights: np.ndarray) -> np.ndarray:
        return np.asarray(self.grid.to_map(weights), dtype=float)

    @staticmethod
    def _pick(maps: np.ndarray, layer: int | None, head: int | None) -> np.ndarray:
        chosen = maps.mean(axis=0, dtype=np.float32) if layer is None else maps[layer]
        return np.asarray(
            chosen.mean(axis=0, dtype=np.float32) if head is None else chosen[head], dtype=float
        )
