"""Planes: a map per token and step for a choice of source, layer and head, packed for a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attcot_analysis.show.explorer.record import (
    SINK_FREE,
    ExplorerRecord,
    FloatArray,
    HeadChoice,
    LayerChoice,
    PlaneKey,
)

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
        spread: On how many image tokens a uniform map of the same entropy would lie,
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
    reduced = np.zeros(maps.shape[2:], dtype=np.float32)
    layers = list(_layers(record, key))
    for layer in layers:
        one = _layer(record, maps, mask, layer, key.head)
        reduced = np.maximum(reduced, one) if key.layer == "max" else reduced + one
    return reduced if key.layer == "max" else reduced / np.float32(max(1, len(layers)))


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
        reduced = (
            maps[layer, chosen].mean(axis=0, dtype=np.float32) if chosen else maps[layer, 0] * 0
        )
    elif head == "mean":
        reduced = maps[layer].mean(axis=0, dtype=np.float32)
    elif head == "max":
        reduced = maps[layer].max(axis=0)
    else:
        reduced = maps[layer, head]
    if mask is not None:
        reduced = np.where(mask[layer], np.float32(0), reduced)
    return np.asarray(reduced, dtype=np.float32)


def _pooled(
    record: ExplorerRecord, maps: FloatArray, mask: npt.NDArray[np.bool_] | None
) -> FloatArray:
    total = np.zeros(maps.shape[2:], dtype=np.float32)
    for layer, head in record.heads:
        total += _layer(record, maps, mask, layer, head)
    return total / np.float32(max(1, len(record.heads)))


def with_steps(record: ExplorerRecord, weights: FloatArray) -> FloatArray:
    """The tokens' weights, then the means of every step: ``(parts, N)``."""
    steps = [list(tokens) for tokens in record.parts[len(record.tokens) :]]
    means = [weights[tokens].mean(axis=0, keepdims=True, dtype=np.float32) for tokens in steps]
    return np.concatenate([weights, *means])


def masses_of(record: ExplorerRecord, weights: FloatArray) -> FloatArray:
    """Visual mass of every part by layer and head, ``(parts, L, H)``."""
    tokens = weights.sum(axis=-1, dtype=np.float32)
    flat = tokens.reshape(-1, tokens.shape[-1]).T
    return with_steps(record, flat).reshape(-1, *tokens.shape[:2])


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


def index_of(planes: Sequence[Plane]) -> list[list[Any]]:
    """Where the script finds each plane in their joined bytes."""
    return [[plane.key.name, plane.rows, plane.cols] for plane in planes]


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
    readings = []
    tokens = record.parts[part]
    for key in keys:
        rows = plane_weights(record, key, slice(tokens[0], tokens[-1] + 1))
        weights = rows.mean(axis=0, keepdims=True, dtype=np.float32)
        cells = plane_cells(record, weights)
        stats = plane_stats(record, weights, cells, slice(part, part + 1))[0]
        mass, evidence, spread, peak, cell, _ = (float(value) for value in stats)
        row, col = divmod(int(cell), record.shape[1])
        label = record.models[key.model].label
        readings.append(Reading(label, mass, (row, col), peak, spread, evidence))
    return readings


def layer_choices(record: ExplorerRecord) -> list[LayerChoice]:
    """Every choice of a layer, in the slider's order."""
    return ["mean", "max", *range(record.n_layers)]


def head_choices(record: ExplorerRecord) -> list[HeadChoice]:
    """Every choice of a head, in the slider's order."""
    visual: list[HeadChoice] = ["visual"] if record.heads else []
    return ["mean", "max", *visual, *range(record.n_heads)]


_FACTORS = (1, 2, 4, 8)

_FEWEST_CELLS = 36


@dataclass(frozen=True)
class Parcel:
    """The planes to send.

    Attributes:
        keys: Which, in order.
        factors: Per plane, how many cells in each direction become one.
        n_all: How many planes there are.
        coarse: What is sent coarser than it is, in words.
        missing: What is not sent, in words.
    """

    keys: tuple[PlaneKey, ...]
    factors: tuple[int, ...]
    n_all: int
    coarse: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is left out or made coarser."""
        return not self.coarse and not self.missing


def choose_planes(
    record: ExplorerRecord, budget: int | None, first: PlaneKey | None = None
) -> Parcel:
    """Take groups of planes, the most useful first, as fine as they fit into the budget.

    Means over heads come before maxima and visual heads, these before single heads. A group may
    take half of what is left, so that coarse maps of much come before fine ones of little: it is
    made coarser, by means over blocks of cells, and left out if it does not fit even so. The first
    group, one plane per source and model, may take all, and is always taken.

    Args:
        record: The record.
        budget: Bytes that all planes together may take; ``None`` for no limit.
        first: The selection that the page starts with; its planes belong to the first group.
    """
    groups = list(_groups(record, first))
    every = tuple(dict.fromkeys(key for _, group in groups for key in group))
    if budget is None or len(every) * _size(record, 1) <= budget:
        return Parcel(every, (1,) * len(every), len(every))
    keys: dict[PlaneKey, int] = {}
    coarse, missing = [], []
    left = budget
    for words, group in groups:
        group = [key for key in group if key not in keys]
        sizes = {one: _size(record, one) * len(group) for one in _possible(record)}
        most = left / 2 if keys else left
        coarsest = None if keys else max(sizes)
        factor = next((one for one, size in sizes.items() if size <= most), coarsest)
        if factor is None:
            missing.append(words)
            continue
        if factor > 1:
            coarse.append(words)
        left -= sizes[factor]
        keys |= dict.fromkeys(group, factor)
    return Parcel(tuple(keys), tuple(keys.values()), len(every), tuple(coarse), tuple(missing))


def _possible(record: ExplorerRecord) -> list[int]:
    rows, cols = record.shape
    return [one for one in _FACTORS if one == 1 or rows * cols / one**2 >= _FEWEST_CELLS]


def _size(record: ExplorerRecord, factor: int) -> int:
    rows, cols = (-(-side // factor) for side in record.shape)
    return len(record.parts) * (4 * len(STATS) + rows * cols)


def _groups(
    record: ExplorerRecord, first: PlaneKey | None
) -> Iterator[tuple[str, Sequence[PlaneKey]]]:
    """Every plane once, in groups that go together."""
    models = range(len(record.models))
    layers, heads = layer_choices(record), head_choices(record)
    sources = own_sources(record)
    start = [PlaneKey(source, model) for source in sources for model in models]
    if first is not None and first.source in sources:
        start += [first._replace(model=model) for model in models]
    yield "means over layers and heads", list(dict.fromkeys(start))
    single: Sequence[HeadChoice] = range(record.n_heads)
    layered = [source for source in sources if record.layered(source)]
    ranks: tuple[tuple[str, Sequence[LayerChoice], Sequence[HeadChoice]], ...] = (
        ("means over the heads of each layer", layers, ["mean"]),
        ("maxima and visual heads", layers, [one for one in heads if one in ("max", "visual")]),
        ("single heads, mean and maximum over layers", ["mean", "max"], single),
        ("single heads of single layers", range(record.n_layers), single),
    )
    for words, some_layers, some_heads in ranks:
        for source in layered:
            name = words if source == "attention" else f"{words}, sinks left out"
            yield (
                name,
                [
                    PlaneKey(source, model, layer, head)
                    for layer in some_layers
                    for head in some_heads
                    for model in models
                ],
            )


def own_sources(record: ExplorerRecord) -> list[str]:
    """The record's sources less those that are the same as another; see `same_source`."""
    return [source for source in record.sources if same_source(record, source) == source]


def same_source(record: ExplorerRecord, source: str) -> str:
    """``"attention"`` for ``"sink_free"`` where no image token of any model is a sink."""
    if source != SINK_FREE:
        return source
    masks = [model.sink_mask for model in record.models]
    none = all(mask is not None and not mask.any() for mask in masks)
    return "attention" if none else source


def say_parcel(record: ExplorerRecord, parcel: Parcel, *, live: bool) -> str:
    """What a page says about what it carries; empty where it carries everything."""
    if parcel.whole:
        return ""
    rows, cols = record.shape
    total = _size(record, 1) * parcel.n_all / 1e6
    parts = [
        f"All maps of this record would take {total:,.0f} MB "
        f"({record.n_layers} layers × {record.n_heads} heads × {len(record.tokens)} tokens × "
        f"{rows}×{cols})."
    ]
    if parcel.coarse:
        finest = max(parcel.factors)
        parts.append(
            f"Sent coarser, at {-(-rows // finest)}×{-(-cols // finest)} or finer: "
            f"{'; '.join(parcel.coarse)}."
        )
    if parcel.missing:
        parts.append(f"Not sent: {'; '.join(parcel.missing)}.")
    parts.append(
        "What you select is fetched from the kernel in full."
        if live
        else "Numbers are always those of the full maps. For all maps use the live explorer or "
        "to_html(budget=None)."
    )
    return " ".join(parts)
