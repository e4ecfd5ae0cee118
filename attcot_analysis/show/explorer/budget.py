"""Which planes a page of limited size carries, and in words what it leaves out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attcot_analysis.show.explorer.choice import HeadChoice, LayerChoice, PlaneKey
from attcot_analysis.show.explorer.planes import STATS, head_choices, layer_choices
from attcot_analysis.show.explorer.record import SINK_FREE, ExplorerRecord

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
