"""Planes: a map per token and step for a choice of source, layer and head, packed for a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attcot_analysis.show.explorer.choice import HeadChoice, LayerChoice, PlaneKey
from attcot_analysis.show.explorer.record import SINK_FREE, ExplorerRecord, FloatArray

STATS = ("mass", "evidence_share", "spread", "peak", "cell", "scale")
"""Numbers sent with every map, fp32: see `plane_stats`; the last is what quantised levels mean."""


@dataclass(frozen=True)
class Reading:
    """What one map says, in numbers.

    Attributes:
        label: The model.
        mass: Sum of the weights: of attention, the visual mass.
        patch: Row and column of the largest weight in the map that is drawn.
        peak: That weight.
        spread: On how many image tokens an even map of the same entropy would lie,
            ``exp(entropy)``; of the positive weights.
        evidence: Share of the positive weights on the evidence boxes; NaN without boxes, or
            without any of them in what the model sees.
    """

    label: str
    mass: float
    patch: tuple[int, int]
    peak: float
    spread: float
    evidence: float


@dataclass(frozen=True, eq=False)
class Plane:
    """Packed maps of all parts of a record, its tokens and its steps.

    Attributes:
        key: Which maps.
        rows: Of a map.
        cols: Of a map.
        data: `STATS` of every part as fp32, then every map as one byte per cell; a multiple of
            four bytes.
    """

    key: PlaneKey
    rows: int
    cols: int
    data: bytes


def plane_weights(record: ExplorerRecord, key: PlaneKey, rows: slice = slice(None)) -> FloatArray:
    """The weights of a plane's tokens on the image tokens, ``(R, N)``.

    Heads are reduced before layers: ``layer="max", head="mean"`` is the largest layer mean. The
    mean over visual heads of all layers counts every visual head once.

    Args:
        record: The record.
        key: Which maps.
        rows: Of these tokens only.
    """
    maps = record.maps_of(key.source, key.model).weights[:, :, rows]
    mask = record.models[key.model].sink_mask if key.source == SINK_FREE else None
    if not record.layered(key.source):
        return np.asarray(maps[0, 0], dtype=np.float32)
    if isinstance(key.layer, int):
        return _layer(record, maps, mask, key.layer, key.head)
    if key.layer == "mean" and key.head == "visual":
        return _pooled(record, maps, mask)
    found = np.zeros(maps.shape[2:], dtype=np.float32)
    layers = list(_layers(record, key))
    for layer in layers:
        one = _layer(record, maps, mask, layer, key.head)
        found = np.maximum(found, one) if key.layer == "max" else found + one
    return found if key.layer == "max" else found / np.float32(max(1, len(layers)))


def _layers(record: ExplorerRecord, key: PlaneKey) -> Iterator[int]:
    some = {layer for layer, _ in record.heads}
    for layer in range(record.n_layers):
        if key.head != "visual" or layer in some:
            yield layer


def _layer(
    record: ExplorerRecord,
    maps: FloatArray,
    mask: npt.NDArray[np.bool_] | None,
    layer: int,
    head: HeadChoice,
) -> FloatArray:
    """Heads of one layer, reduced: ``(R, N)``; zero for a layer without visual heads."""
    if head == "visual":
        chosen = [number for at, number in record.heads if at == layer]
        found = maps[layer, chosen].mean(axis=0, dtype=np.float32) if chosen else maps[layer, 0] * 0
    elif head == "mean":
        found = maps[layer].mean(axis=0, dtype=np.float32)
    elif head == "max":
        found = maps[layer].max(axis=0)
    else:
        found = maps[layer, head]
    if mask is not None:
        found = np.where(mask[layer], np.float32(0), found)
    return np.asarray(found, dtype=np.float32)


def _pooled(
    record: ExplorerRecord, maps: FloatArray, mask: npt.NDArray[np.bool_] | None
) -> FloatArray:
    found = np.zeros(maps.shape[2:], dtype=np.float32)
    for layer, head in record.heads:
        found += _layer(record, maps, mask, layer, head)
    return found / np.float32(max(1, len(record.heads)))


def with_steps(record: ExplorerRecord, weights: FloatArray) -> FloatArray:
    """The tokens' weights, then the means of every step: ``(parts, N)``."""
    steps = [list(tokens) for tokens in record.parts[len(record.tokens) :]]
    means = [weights[tokens].mean(axis=0, keepdims=True, dtype=np.float32) for tokens in steps]
    return np.concatenate([weights, *means])


def plane_cells(record: ExplorerRecord, weights: FloatArray) -> FloatArray:
    """Weights ``(P, N)`` laid out as pictures ``(P, rows, cols)``."""
    return np.asarray(record.grid.to_map(weights), dtype=np.float32)


def plane_stats(
    record: ExplorerRecord, weights: FloatArray, cells: FloatArray, parts: slice = slice(None)
) -> FloatArray:
    """The numbers of `STATS` for the record's parts, ``(P, 6)``; NaN where one has no map.

    ``mass``, ``evidence_share``, ``spread`` and ``peak`` are those of `Reading`; ``cell`` is the
    peak's index in the map, row by row; ``scale`` is left zero.
    """
    positive = weights.astype(np.float64).clip(min=0)
    total = positive.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = positive / total[:, None]
        entropy = -np.where(shares > 0, shares * np.log(shares), 0.0).sum(axis=1)
        on_boxes = (positive * record.coverage[parts]).sum(axis=1) / total
    boxed = record.coverage[parts].any(axis=1)
    flat = cells.reshape(len(cells), -1)
    there = np.isfinite(weights).all(axis=1)
    place = np.where(there, np.nan_to_num(flat, nan=-np.inf).argmax(axis=1), 0)
    stats = np.stack(
        [
            weights.sum(axis=1, dtype=np.float64),
            np.where(boxed, on_boxes, np.nan),
            np.where(total > 0, np.exp(entropy), np.nan),
            flat[np.arange(len(flat)), place],
            place,
            np.zeros(len(flat)),
        ],
        axis=1,
    )
    stats[~there, :4] = np.nan
    return stats.astype(np.float32)


def pack_plane(record: ExplorerRecord, key: PlaneKey, factor: int = 1) -> Plane:
    """Reduce, quantise and pack one plane.

    A byte q stands for ``scale * (q / 255) ** 2`` of its map, so that small weights keep their
    digits; in sources with negative weights for ``scale * s * |s|`` with ``s = (q - 128) / 127``.
    The numbers are those of the full weights.

    Args:
        record: The record.
        key: Which maps.
        factor: Draw the mean of every ``factor x factor`` cells as one.
    """
    weights = with_steps(record, plane_weights(record, key))
    cells = plane_cells(record, weights)
    stats = plane_stats(record, weights, cells)
    drawn = np.nan_to_num(coarse(cells, factor)).reshape(len(cells), -1)
    scale = np.abs(drawn).max(axis=1, keepdims=True)
    level = np.sqrt(np.abs(drawn) / np.where(scale > 0, scale, 1))
    if is_signed(record, key.source):
        levels = 128 + np.rint(127 * np.copysign(level, drawn))
    else:
        levels = np.rint(255 * level)
    stats[:, STATS.index("scale")] = scale[:, 0]
    data = stats.astype("<f4").tobytes() + levels.astype(np.uint8).tobytes()
    rows, cols = coarse(cells[:1], factor).shape[1:]
    return Plane(key, rows, cols, data + bytes(-len(data) % 4))


def coarse(cells: FloatArray, factor: int) -> FloatArray:
    """Means of blocks of ``factor x factor`` cells; the last ones may be cut off at the edge."""
    if factor == 1:
        return cells
    _, rows, cols = cells.shape
    tops, lefts = np.arange(0, rows, factor), np.arange(0, cols, factor)
    sums = np.add.reduceat(np.add.reduceat(cells, tops, axis=1), lefts, axis=2)
    heights = np.diff([*tops, rows])[:, None]
    return np.asarray(sums / (heights * np.diff([*lefts, cols])), dtype=np.float32)


def is_signed(record: ExplorerRecord, source: str) -> bool:
    """Whether a source has negative weights, so that it is drawn on a scale around zero."""
    if record.layered(source):
        return False
    return any(
        bool((np.nan_to_num(record.maps_of(source, at).weights) < 0).any())
        for at in range(len(record.models))
    )


def plane_readings(record: ExplorerRecord, keys: Sequence[PlaneKey], part: int) -> list[Reading]:
    """The numbers of the map of one of the record's parts, per key."""
    found = []
    tokens = record.parts[part]
    for key in keys:
        rows = plane_weights(record, key, slice(tokens[0], tokens[-1] + 1))
        weights = rows.mean(axis=0, keepdims=True, dtype=np.float32)
        cells = plane_cells(record, weights)
        stats = plane_stats(record, weights, cells, slice(part, part + 1))[0]
        mass, evidence, spread, peak, cell, _ = (float(value) for value in stats)
        row, col = divmod(int(cell), record.shape[1])
        label = record.models[key.model].label
        found.append(Reading(label, mass, (row, col), peak, spread, evidence))
    return found


def layer_choices(record: ExplorerRecord) -> list[LayerChoice]:
    """Every choice of a layer, in the slider's order."""
    return ["mean", "max", *range(record.n_layers)]


def head_choices(record: ExplorerRecord) -> list[HeadChoice]:
    """Every choice of a head, in the slider's order."""
    visual: list[HeadChoice] = ["visual"] if record.heads else []
    return ["mean", "max", *visual, *range(record.n_heads)]
