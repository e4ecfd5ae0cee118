"""Visual heads: which attention heads look at the picture, by published criteria.

A head that looks is not a head that matters: cut it (`knockout`) to see what it does.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from attcot_analysis.attention.hook import AttentionCall
from attcot_analysis.attention.probe import Probe, chosen_layers, key_weights, run_probe
from attcot_analysis.attention.sinks import SinkFinder, SinkRule, sink_rule
from attcot_analysis.errors import MeasureError, check_known, check_numbers
from attcot_analysis.measures._items import Empty, Need, Response, Result, batches, paired
from attcot_analysis.models import Encoded, Mllm, collate
from attcot_analysis.problems import Problem
from attcot_analysis.stats.intervals import Interval
from attcot_analysis.stats.significance import resample_items

Where = Literal["rationale", "answer", "prompt"]


_NUMBERS_AT_ONCE = 2**23
"""Attention weights held at once (32 MB in fp32, a few times over)."""


class HeadProbe(Probe):
    """Collects what tells visual heads, per row: ``(B, H, R, 4)`` fp32.

    Mass, ratio, entropy and mass on sinks; columns are the image tokens, then its sinks.
    """

    def reads(self, module: object) -> bool:
        """Whether this layer is one to read; ratios have no meaning in a sliding window."""
        return super().reads(module) and getattr(module, "sliding_window", None) is None

    def _collect(self, call: AttentionCall, cols: Tensor | None, rows: Tensor | None) -> Tensor:
        if cols is None or rows is None:
            raise MeasureError("A HeadProbe needs columns, (B, T, 2), and rows.")
        if self.layer_cols is not None:
            cols = self.layer_cols(call.module.layer_idx, cols)
        batch, heads = call.query.shape[:2]
        at_once = max(1, _NUMBERS_AT_ONCE // (batch * heads * call.key.shape[2]))
        image, sinks = cols.to(call.query.device).float().unbind(-1)
        found = []
        # Entropy needs single weights: some rows at a time, never T x T.
        for some in rows.split(at_once, dim=1):
            weights = key_weights(call.query, call.key, call.mask, None, some, call.scaling)
            found.append(row_quantities(weights, image, sinks, some))
        return torch.cat(found, dim=2)


def row_quantities(weights: Tensor, image: Tensor, sinks: Tensor, rows: Tensor) -> Tensor:
    """Mass, ratio, entropy and mass on sinks of rows of attention weights.

    Args:
        weights: ``(B, H, R, T)``, each row summing to 1.
        image: ``(B, T)``, 1 on image tokens.
        sinks: ``(B, T)``, 1 on image tokens that are sinks.
        rows: ``(B, R)`` positions in sequences that are padded on the right, -1 for none.

    Returns:
        ``(B, H, R, 4)``.
    """
    inside = weights * image[:, None, None]
    mass = inside.sum(-1)
    n_image = image.sum(-1)[:, None, None].clamp(min=1)
    ratio = mass / n_image * (rows + 1)[:, None]
    some = mass.clamp(min=torch.finfo(weights.dtype).tiny)
    spread = some.log() - torch.special.xlogy(inside, inside).sum(-1) / some
    entropy = torch.where(mass == some, spread.clamp(min=0), n_image.log())
    return torch.stack([mass, ratio, entropy, (weights * sinks[:, None, None]).sum(-1)], dim=-1)


def head_rows(item: Encoded, where: Where) -> npt.NDArray[np.int64]:
    """The rows of an item to read; none if its response has no such part."""
    layout = item.layout
    if where == "prompt":
        return np.array([item.prompt_length - 1])
    if where == "answer":
        return np.array([] if layout.answer is None else [layout.answer.start - 1], dtype=np.int64)
    return np.concatenate([np.empty(0, np.int64), *(layout.rows(step) for step in layout.steps)])


def read_heads(
    mllm: Mllm,
    items: Sequence[Encoded],
    where: Where,
    layers: Collection[int] | None,
    rule: SinkRule | None,
) -> tuple[tuple[int, ...], npt.NDArray[np.float64]]:
    """The layers read, and means over rows ``(B, L * H, 4)``."""
    batch = collate(mllm, items)
    image = torch.zeros(batch["input_ids"].shape)
    for index, item in enumerate(items):
        image[index, torch.from_numpy(item.layout.image)] = 1
    cols = torch.stack([image, torch.zeros_like(image)], dim=-1).to(mllm.device)
    chosen = [torch.from_numpy(head_rows(item, where)) for item in items]
    rows = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)
    probe = HeadProbe(layers if layers is None else chosen_layers(mllm, layers))
    if rule is None:
        found = run_probe(mllm, batch, probe, rows, cols)
    else:
        finder = SinkFinder(mllm, rule, batch["attention_mask"])
        probe.layer_cols = lambda layer, given: torch.stack(
            [given[..., 0], given[..., 0] * finder.tokens[layer].to(given)], dim=-1
        )
        with finder.watching():
            found = run_probe(mllm, batch, probe, rows, cols)
    real = (rows >= 0)[:, None, :, None].to(mllm.device)
    means = [torch.where(real, values, 0.0).sum(2) / real.sum(2) for values in found.values()]
    stacked = torch.stack(means, dim=1).flatten(1, 2)
    return tuple(found), stacked.cpu().double().numpy()


Criterion = Literal["image_centric", "focused", "both", "either"]

Head = tuple[int, int]
"""Layer and head."""


_NO_FOCUS = 1e9


FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeadRule:
    """When a head counts as visual.

    Attributes:
        criterion: ``"image_centric"``, ``"focused"``, ``"both"`` or ``"either"``.
        min_mass: Image-centric (VisAttnSink, arXiv 2503.03321): visual mass of at least this, and
        max_sink_share: no more than this of it on sink tokens. The paper decides for each row; we
            decide on means over rows and items. A head that attends evenly has as much mass as the
            image has tokens among those visible, which may be more than 0.2: look at ``ratio``,
            which is then 1.
        efr_quantile: Focused (VRGA, arXiv 2603.14184): ``efr`` in this lowest share of all heads
            read, and
        ratio_quantile: ``ratio`` at or above this quantile of them. Quantiles always have heads on
            their far side, whether or not any head looks: hold the values against another model.
    """

    criterion: Criterion = "image_centric"
    min_mass: float = 0.2
    max_sink_share: float = 0.5
    efr_quantile: float = 0.05
    ratio_quantile: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what is no criterion."""
        check_known(self.criterion, Criterion, f"Criterion {self.criterion!r} is unknown")
        for name in ("min_mass", "max_sink_share", "efr_quantile", "ratio_quantile"):
            if not 0 <= getattr(self, name) <= 1:
                raise MeasureError(f"{name} is {getattr(self, name)}; expected a share, 0 to 1.")


class VisualHeads(Result):
    """What `visual_heads` measured: which attention heads look at the picture."""

    name = "heads"
    title = "Visual heads"
    columns = (
        "layer",
        "head",
        "mass",
        "mass_low",
        "mass_high",
        "ratio",
        "efr",
        "sink_share",
        "visual",
        "support",
        "n",
    )

    @property
    def n(self) -> int:
        """Number of items that the heads were judged on."""
        return int(self.table["n"].iloc[0])

    def select(self, *, support: float = 0.0) -> list[Head]:
        """The visual heads, most visual mass first.

        Args:
            support: Leave out heads with less support than this.
        """
        sure = self.table["support"].fillna(1.0) >= support
        chosen = self.table[self.table["visual"].astype(bool) & sure]
        chosen = chosen.sort_values("mass", ascending=False)
        pairs = zip(chosen["layer"], chosen["head"], strict=True)
        return [(int(layer), int(head)) for layer, head in pairs]

    def curve(self) -> pd.DataFrame:
        """One row per layer: ``layer``, ``visual`` (number of heads), mean ``mass``, ``ratio``."""
        layers = self.table.groupby("layer")
        means = layers.agg(visual=("visual", "sum"), mass=("mass", "mean"), ratio=("ratio", "mean"))
        return means.reset_index()

    def _numbers(self) -> list[str]:
        said = [f"{len(self.select())} of {len(self.table)} heads look at the picture"]
        for row in self.table.nlargest(3, "mass").to_dict("records"):
            mean = Interval(row["mass"], row["mass_low"], row["mass_high"], row["n"])
            said.append(f"layer {row['layer']}, head {row['head']}: mass {mean}")
        return said


_NEEDS: dict[Where, Need] = {"rationale": "rationale", "answer": "answer", "prompt": "nothing"}


def visual_heads(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    where: Where = "rationale",
    rule: HeadRule | None = None,
    sinks: bool | SinkRule = True,
    layers: Collection[int] | None = None,
    empty: Empty = "error",
    batch_size: int = 8,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    progress: bool = False,
) -> VisualHeads:
    """Find the heads that look at the picture.

    Per row: ``mass``, attention on image tokens; ``ratio``, mean attention per image token over
    mean attention per visible token (VRGA's R); ``entropy`` of attention inside the image, in nats
    (VRGA's H: 0 on one token, log N when spread evenly over N; a row without any visual mass
    counts as spread evenly). They are averaged over an item's rows, then over items;
    ``efr = entropy / ratio`` (low: a focused look) and ``sink_share``, the part of the mass that
    lies on sink tokens, are ratios of these means.

    Args:
        mllm: The model.
        problems: The items.
        responses: One response per item, text or token ids.
        where: Whose rows: those predicting the rationale's steps, the one predicting the answer's
            first token, or, as in VRGA, the prompt's last one.
        rule: When a head counts as visual; default ``HeadRule()``.
        sinks: Whether to look for sink tokens, or by which rule; without, ``sink_share`` is NaN
            and no head is left out for it.
        layers: Layers to read; all with full attention if ``None``.
        empty: What to do with items whose response lacks these rows: raise an error, or leave
            them out.
        batch_size: Items per forward pass.
        n_boot: Bootstrap resamples of the items.
        seed: Seed of the bootstrap.
        level: Confidence level of the intervals.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per layer and head: ``layer``, ``head``; ``mass``,
        ``ratio``, ``entropy``, ``efr``, ``sink_share``, each with ``..._low`` and ``..._high``
        (bootstrap over items; NaN for one item); ``image_centric``, ``focused`` (bool);
        ``visual``, by the rule's criterion; ``support``, the share of resamples in which it holds
        (NaN for one item); ``n``, items.

    Raises:
        MeasureError: If the numbers of problems and responses differ, ``where`` is unknown, or a
            response lacks such rows (``empty="error"``) or all do.
    """
    check_known(where, Where, f"where={where!r} is unknown")
    check_numbers(n_boot=n_boot, seed=seed, level=level)
    pairs = paired(mllm, problems, responses, need=_NEEDS[where], empty=empty, several=True)
    rule, found = rule or HeadRule(), []
    for chunk in batches(pairs.places, batch_size, "heads", progress):
        part = [pairs.encode(at) for at in chunk]
        read, values = read_heads(mllm, part, where, layers, sink_rule(sinks))
        found.append(values)
    items = np.concatenate(found)
    table = _table(items, rule, n_boot=n_boot, seed=seed, level=level)
    layer, head = np.meshgrid(list(read), range(mllm.n_heads), indexing="ij")
    table.insert(0, "layer", layer.ravel())
    table.insert(1, "head", head.ravel())
    if sink_rule(sinks) is None:
        table[["sink_share", "sink_share_low", "sink_share_high"]] = np.nan
    return VisualHeads(table, pairs.measured, skipped=pairs.skipped)


def _table(
    items: FloatArray, rule: HeadRule, *, n_boot: int, seed: int, level: float
) -> pd.DataFrame:
    """The table without layer and head, from ``(N, L * H, 4)``."""
    drawn = resample_items(items.reshape(len(items), -1), n_boot=n_boot, seed=seed)
    value, resampled = _summed_up(drawn.value[None], items.shape), None
    if len(items) > 1:
        resampled = _summed_up(drawn.resampled, items.shape)
    table = {}
    tail = (1 - level) / 2
    for name, found in value.items():
        table[name] = found[0]
        ends = np.full((2, found.shape[1]), np.nan)
        if resampled is not None:
            ends = np.nanquantile(resampled[name], [tail, 1 - tail], axis=0)
        table[f"{name}_low"], table[f"{name}_high"] = ends
    judged = _judge(value, rule)
    table |= {name: held[0] for name, held in judged.items()}
    support = np.full(items.shape[1], np.nan)
    if resampled is not None:
        support = _judge(resampled, rule)["visual"].mean(axis=0)
    return pd.DataFrame({**table, "support": support, "n": len(items)})


def _summed_up(means: FloatArray, shape: tuple[int, ...]) -> dict[str, FloatArray]:
    """Quantity → ``(resamples, L * H)``."""
    parts = means.reshape(len(means), *shape[1:])
    mass, ratio, entropy, sinks = (parts[..., index] for index in range(4))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "mass": mass,
            "ratio": ratio,
            "entropy": entropy,
            "efr": entropy / ratio,
            "sink_share": np.minimum(sinks / mass, 1.0),
        }


def _judge(values: dict[str, FloatArray], rule: HeadRule) -> dict[str, npt.NDArray[np.bool_]]:
    """Which heads meet which criterion, ``(resamples, L * H)``."""
    centric = values["mass"] >= rule.min_mass
    centric &= ~(values["sink_share"] > rule.max_sink_share)
    # A head that never looks has no efr, and counts as the least focused.
    efr = np.nan_to_num(values["efr"], nan=_NO_FOCUS, posinf=_NO_FOCUS)
    low = np.quantile(efr, rule.efr_quantile, axis=1, keepdims=True)
    high = np.quantile(values["ratio"], rule.ratio_quantile, axis=1, keepdims=True)
    focused = (efr <= low) & (efr < _NO_FOCUS) & (values["ratio"] >= high)
    visual = {
        "image_centric": centric,
        "focused": focused,
        "both": centric & focused,
        "either": centric | focused,
    }[rule.criterion]
    return {"image_centric": centric, "focused": focused, "visual": visual}
