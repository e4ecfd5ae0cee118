"""Visual access: how much each rationale step attends to the image and to its own evidence.

Attention is a cheap sign of access, not evidence of it: information also reaches a step through
question tokens that read the image before. `dependence` is the causal counterpart.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.kinds import layer_kinds
from attcot_analysis.attention.packing import can_share
from attcot_analysis.attention.prefixes import Behind
from attcot_analysis.attention.probe import (
    LayerCols,
    Probe,
    chosen_layers,
    read_masses,
    run_probe,
)
from attcot_analysis.attention.sinks import BehindFinder, SinkFinder, SinkRule, sink_rule
from attcot_analysis.errors import MeasureError, not_finite
from attcot_analysis.measures._items import Empty, Items, Response, Result, batches, paired
from attcot_analysis.models import Encoded, Mllm, TokenGrid, collate
from attcot_analysis.models.inputs import Shown
from attcot_analysis.problems import Box, Problem
from attcot_analysis.stats.crossed import step_curve

IMAGE, TEXT, SYSTEM, QUESTION, EVIDENCE = range(5)
"""The probe's columns; every block has its own evidence columns from `EVIDENCE` on."""


QUANTITIES = ("mass", "share", "density", "evidence_mass", "evidence_share")
"""The measured columns of `visual_access`."""


OPTIONAL = ("over_system", "sink_free_mass", "sink_share", "image_seen")
"""Measured columns that tables of earlier versions, without sinks or sliding windows, lack."""


ANSWER_QUANTITIES = (*QUANTITIES, "last_evidence_mass", "last_evidence_share")
"""The measured columns of `answer_access`."""

WIDE = 0.5
"""Evidence that covers more of the picture cannot be missed: such steps have no focus."""

Head = tuple[int, int]
"""Layer and head."""

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that become one row of a table, per layer and head.

    Attributes:
        labels: Columns that say what the rows are.
        rows: ``(R,)`` positions.
        evidence: Prefix of two columns, ``..._mass`` and ``..._share`` → the weight of each image
            token in the evidence, ``(N,)`` in [0, 1]; ``None`` where there is none to be seen.
    """

    labels: Mapping[str, int]
    rows: npt.NDArray[np.int64]
    evidence: Mapping[str, Weights | None]


def step_blocks(problem: Problem, item: Encoded) -> list[Block]:
    """One block per rationale step, with the evidence of the problem's step of that number."""
    layout = item.layout
    return [
        Block(
            {"step": number, "n_steps": layout.n_steps},
            layout.rows(span),
            {"evidence": evidence, **_by_picture(item, evidence)},
        )
        for number, (span, evidence) in enumerate(
            zip(layout.steps, step_evidence(problem, item), strict=True), start=1
        )
    ]


def answer_blocks(problem: Problem, item: Encoded) -> list[Block]:
    """The row that predicts the answer's first token, if any, with the evidence of all steps."""
    layout = item.layout
    if layout.answer is None:
        return []
    last = max((n for n, step in enumerate(problem.steps, start=1) if step.boxes), default=0)
    evidence = _coverage(item, problem.boxes_in)
    return [
        Block(
            {"n_steps": layout.n_steps},
            np.array([layout.answer.start - 1]),
            {
                "evidence": evidence,
                "last_evidence": _coverage(item, partial(problem.step_boxes, last)),
                **_by_picture(item, evidence),
            },
        )
    ]


def step_evidence(problem: Problem, item: Encoded) -> list[Weights | None]:
    """Per step of the response, how far the step's evidence boxes cover each image token.

    Returns:
        K arrays ``(N,)`` in [0, 1]; ``None`` where the problem has no boxes for the step, or the
        processor leaves all of them out of what the model sees.
    """
    return [
        _coverage(item, partial(problem.step_boxes, number))
        for number in range(1, item.layout.n_steps + 1)
    ]


def _coverage(item: Encoded, boxes: Callable[[int], Sequence[Box]]) -> Weights | None:
    """How far boxes cover each image token; ``boxes`` gives those in a picture of that number."""
    covered = [grid.coverage(boxes(at)) for at, grid in enumerate(item.layout.grids, start=1)]
    return np.concatenate(covered) if any(one.any() for one in covered) else None


def _by_picture(item: Encoded, evidence: Weights | None) -> dict[str, Weights | None]:
    """Of several pictures, each one's tokens, and the evidence in it."""
    if len(item.layout.grids) < 2:
        return {}
    numbers = np.repeat(
        np.arange(1, len(item.layout.grids) + 1), [len(grid) for grid in item.layout.grids]
    )
    found: dict[str, Weights | None] = {}
    for number in range(1, len(item.layout.grids) + 1):
        own = (numbers == number).astype(float)
        inside = None if evidence is None else evidence * own
        found[f"picture_{number}"] = own
        seen = inside is not None and inside.any()
        found[f"picture_{number}_evidence"] = inside if seen else None
    return found


def access_columns(item: Encoded, evidence: Sequence[Weights | None]) -> Tensor:
    """The probe's columns for one item.

    Args:
        item: With an image.
        evidence: Weights of the image tokens, each ``(N,)`` in [0, 1]; ``None`` counts as zero.

    Returns:
        ``(T, 4 + E)``: image, text, system, question, then each evidence.
    """
    layout = item.layout
    cols = torch.zeros(layout.n_tokens, EVIDENCE + len(evidence))
    cols[:, TEXT] = 1
    for column, places in (
        (IMAGE, layout.image),
        (SYSTEM, layout.system),
        (QUESTION, layout.question),
    ):
        cols[torch.from_numpy(places), column] = 1
    image = torch.from_numpy(layout.image)
    cols[image, TEXT] = 0
    for index, weights in enumerate(evidence):
        if weights is not None:
            cols[image, EVIDENCE + index] = torch.tensor(weights).float()
    return cols


def with_sinks(cols: Tensor, sinks: Tensor) -> Tensor:
    """Columns with one more, the last: image tokens that are sinks, ``sinks`` being ``(B, T)``."""
    return torch.cat([cols, cols[..., [IMAGE]] * sinks[..., None].to(cols)], dim=-1)


def quantities(
    masses: Weights,
    *,
    n_image: int,
    n_visible: npt.NDArray[np.int64],
    evidence: Mapping[str, int | None],
    sinks: bool,
) -> dict[str, Any]:
    """The measured quantities of one block.

    Args:
        masses: ``(L * H, R, C)``.
        n_image: Number of image tokens.
        n_visible: ``(R,)`` tokens that each row sees.
        evidence: Prefix → the probe's column, ``None`` where there is no evidence.
        sinks: Whether the last column is that of `with_sinks`.

    Returns:
        Column → ``(L * H,)``. Ratios are ratios of means over rows; ``over_system`` is NaN to one
        so small that float32 keeps few of its digits, or none, as it happens.
    """
    mean = masses.mean(axis=1)
    image = mean[:, IMAGE]
    # Shares stay within 0 and 1 whatever they are of; this ratio grows without bound.
    system = np.where(mean[:, SYSTEM] >= np.finfo(np.float32).tiny, mean[:, SYSTEM], np.nan)
    per_text = (masses[:, :, TEXT] / (n_visible - n_image)).mean(axis=1)
    nan = np.full(len(mean), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "mass": image,
            "share": image / (mean[:, SYSTEM] + image + mean[:, QUESTION]),
            "over_system": image / system,
            "density": (image / n_image) / per_text if n_image else nan,
        }
        for prefix, column in evidence.items():
            on_it = nan if column is None else mean[:, column]
            found |= {f"{prefix}_mass": on_it, f"{prefix}_share": on_it / image}
        if sinks:
            # Two sums of the same weights: without the clip rounding could leave less than none.
            on_sinks = np.minimum(mean[:, -1], image)
            found |= {"sink_free_mass": image - on_sinks, "sink_share": on_sinks / image}
    return found


Blocks = Callable[[Problem, Encoded], list[Block]]

Part = list[tuple[Problem, Encoded]]
"""Items that go through one forward pass."""


def _read(
    items: Items,
    blocks: Blocks,
    layers: Collection[int] | None,
    sinks: bool | SinkRule,
    batch_size: int,
    progress: bool,
    behind: bool = False,
) -> pd.DataFrame:
    """The rows of every item's blocks; ``behind`` kept prompts where there are any."""
    rule = sink_rule(sinks)
    tables = []
    with attached(items.mllm.model):
        for chunk in batches(items.places, batch_size, "visual access", progress):
            part = [(items.problems[at], items.encode(at)) for at in chunk]
            tables += _read_part(items.mllm, part, blocks, layers, rule, behind)
    return pd.concat(tables, ignore_index=True)


def _read_part(
    mllm: Mllm,
    part: Part,
    blocks: Blocks,
    layers: Collection[int] | None,
    rule: SinkRule | None,
    behind: bool,
) -> list[pd.DataFrame]:
    """One table per block, from one forward pass."""
    found = [blocks(*pair) for pair in part]
    columns = [
        access_columns(item, [weights for block in own for weights in block.evidence.values()])
        for (_, item), own in zip(part, found, strict=True)
    ]
    widest = max(column.shape[1] for column in columns)
    longest = max(len(column) for column in columns)
    cols = torch.stack(
        [
            torch.nn.functional.pad(column, (0, widest - column.shape[1], 0, longest - len(column)))
            for column in columns
        ]
    )
    chosen = [torch.from_numpy(np.concatenate([block.rows for block in own])) for own in found]
    rows = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)
    items = [item for _, item in part]
    masses = _masses(mllm, items, cols.to(mllm.device), rows, layers, rule, behind)
    kinds = layer_kinds(mllm)
    windows = {
        layer: int(mllm.text_config.sliding_window)
        for layer in masses
        if kinds[layer] == "sliding_attention"
    }
    stacked = torch.stack(list(masses.values()), dim=1).cpu().double().numpy()
    tables = []
    for (problem, item), own, read in zip(part, found, stacked, strict=True):
        if not np.isfinite(read[:, :, : sum(len(block.rows) for block in own)]).all():
            raise not_finite(f"Item {problem.id}: the model's attention is not finite")
        row, column = 0, EVIDENCE
        for block in own:
            stop = row + len(block.rows)
            table = _table(problem, item, block, read[:, :, row:stop], masses, column, rule)
            if windows:
                _see_less(table, item, block, windows)
            tables.append(table)
            row, column = stop, column + len(block.evidence)
    return tables


def _masses(
    mllm: Mllm,
    items: Sequence[Encoded],
    cols: Tensor,
    rows: Tensor,
    layers: Collection[int] | None,
    rule: SinkRule | None,
    behind: bool,
) -> dict[int, Tensor]:
    """The masses of a batch, behind the prompts of sequences that were run whole or from its own.

    What is run is kept, if the model can share.
    """
    shared = can_share(mllm, items)
    openings = mllm.prefixes.openings(mllm, items) if shared and behind else None
    usual = rule == SinkRule()
    if openings is not None and (rule is None or (usual and openings.noted)):
        found = _masses_behind(mllm, openings, cols, rows, layers, rule)
        if found is not None:
            mllm.prefixes.take_behind(items, openings)
            return found
    batch: dict[str, Any] = collate(mllm, items)
    finder = cache = None
    if rule is not None:
        finder = SinkFinder(mllm, rule, batch["attention_mask"], noting=shared and usual)
    with nullcontext() if finder is None else finder.watching():
        if shared and openings is None:
            batch, cache = mllm.prefixes.opened(mllm, batch)
        layer_cols = None if finder is None else _sink_cols(finder)
        masses = read_masses(mllm, batch, cols, rows, layers=layers, layer_cols=layer_cols)
    if cache is not None:
        mllm.prefixes.take(items, cache, None if finder is None else finder.massive or None)
    return masses


def _masses_behind(
    mllm: Mllm,
    behind: Behind,
    cols: Tensor,
    rows: Tensor,
    layers: Collection[int] | None,
    rule: SinkRule | None,
) -> dict[int, Tensor] | None:
    """The same behind kept prompts; ``None`` if what is a sink there cannot be told."""
    finder = None if rule is None else BehindFinder(mllm, rule, behind)
    probe = Probe(
        None if layers is None else chosen_layers(mllm, layers),
        layer_cols=None if finder is None else _sink_cols(finder),
    )
    rows = torch.where(rows < 0, rows, rows - behind.lengths.cpu()[:, None])
    with nullcontext() if finder is None else finder.watching():
        masses = run_probe(mllm, behind.inputs, probe, rows, behind.by_key(cols))
    return None if finder is not None and finder.lost else masses


def _sink_cols(finder: SinkFinder) -> LayerCols:
    return lambda layer, cols: with_sinks(cols, finder.tokens[layer])


def _table(
    problem: Problem,
    item: Encoded,
    block: Block,
    masses: npt.NDArray[np.float64],
    layers: Collection[int],
    column: int,
    rule: SinkRule | None,
) -> pd.DataFrame:
    """One block's rows of the table; ``masses`` are ``(L, H, R, C)``."""
    n_layers, n_heads, n_rows, n_columns = masses.shape
    layer, head = np.meshgrid(list(layers), range(n_heads), indexing="ij")
    evidence = {
        prefix: None if weights is None else column + offset
        for offset, (prefix, weights) in enumerate(block.evidence.items())
    }
    found = quantities(
        masses.reshape(n_layers * n_heads, n_rows, n_columns),
        n_image=len(item.layout.image),
        n_visible=block.rows + 1,
        evidence=evidence,
        sinks=rule is not None,
    )
    if "step" in block.labels:
        for prefix, seen in block.evidence.items():
            found[f"{prefix}_area"] = np.nan if seen is None else seen.mean()
    labels = {"item": problem.id, **block.labels, "layer": layer.ravel(), "head": head.ravel()}
    return pd.DataFrame({**labels, **found, "rows": n_rows})


def _see_less(table: pd.DataFrame, item: Encoded, block: Block, windows: Mapping[int, int]) -> None:
    """Say how much of the image a block's rows have in sight; density has no even share there."""
    away = block.rows[:, None] - item.layout.image
    table["image_seen"] = 1.0
    for layer, window in windows.items():
        own = table["layer"] == layer
        table.loc[own, "image_seen"] = float((away < window).mean()) if away.size else np.nan
        table.loc[own, "density"] = np.nan


_COURSES = {"mass": "", "share": "share_", "sink_free_mass": "sink_free_"}
"""Quantities whose course over the steps is summed up, and how late over early is called."""


def _layers_read(table: pd.DataFrame) -> list[str]:
    """A sentence if attention was not read in all layers up to the last one read."""
    layers = sorted({int(layer) for layer in table["layer"]})
    if len(layers) > layers[-1]:
        return []
    named = ", ".join(map(str, layers))
    return [
        f"Attention was read in {len(layers)} {'layer' if len(layers) == 1 else 'layers'} only "
        f"({named}); what the others carry of the image is not in it."
    ]


class VisualAccess(Result):
    """What `visual_access` measured: how much each rationale step attends to the image."""

    name = "access"
    title = "Visual access"
    columns = ("item", "step", "n_steps", "layer", "head", *QUANTITIES)

    def at(self, heads: Iterable[Head]) -> "VisualAccess":
        """The same of some heads only.

        Args:
            heads: Pairs of layer and head.

        Raises:
            MeasureError: If the table lacks one of these.
        """
        wanted = {(int(layer), int(head)) for layer, head in heads}
        known = list(zip(self.table["layer"], self.table["head"], strict=True))
        missing = wanted - set(known)
        if missing:
            raise MeasureError(
                f"The table lacks the heads {sorted(missing)} (layer, head); measure those layers "
                "too."
            )
        table = self.table[[pair in wanted for pair in known]].reset_index(drop=True)
        return VisualAccess(table, self.problems.values(), skipped=self.skipped)

    def items(self, *, rho: float | None = None) -> pd.DataFrame:
        """Sum up every item: level and course over the rationale; layers and heads averaged first.

        Args:
            rho: Also count the steps that look less than this.

        Returns:
            One row per item: ``item, n_steps``; ``mass``, ``share``, ``density``,
            ``evidence_mass`` and ``evidence_share``, means over steps; ``mass_first_step``,
            ``mass_last_step``; ``mass_slope``, the least-squares slope of mass against step
            position k/K (NaN for one step); ``late_over_early``, mean mass of the last third of
            steps over the first third (NaN for one step); ``share_slope`` and
            ``share_late_over_early``, the same of share: a fall of mass that share does not show
            is dilution by the model's own text; ``over_system``. Where the table has sinks also
            ``sink_free_mass``, ``sink_share``, ``sink_free_mass_slope`` and
            ``sink_free_late_over_early``. With ``rho`` also ``steps_below``, the share of steps
            whose mass is less than it.
        """
        more = [name for name in OPTIONAL if name in self.table.columns]
        columns = ["n_steps", *QUANTITIES, *more]
        steps = self.table.groupby(["item", "step"], sort=False)[columns].mean().reset_index()
        items = steps.sort_values("step", kind="stable").groupby("item", sort=False)
        course = pd.DataFrame([{"item": item, **_courses(own, rho)} for item, own in items])
        means = items[columns].mean().reset_index().merge(course, on="item")
        return means.astype({"n_steps": int})

    def focus(self) -> pd.DataFrame:
        """Focus of every item's rationale, and whether it comes back to evidence that it missed.

        A step's focus is (r² - 1) / (r² + 1), where r is the share of its visual mass that lies
        on its evidence boxes over the share that an even spread over all image tokens would put
        there (their share of the picture's area where the table does not hold
        ``evidence_area``); means over layers and heads are taken first. It is 0 where attention
        is spread evenly, 0.6 at twice and -0.6 at half of that. Steps without boxes, with boxes
        of which the model sees nothing, or with boxes on more than `WIDE` of the picture, have
        none.

        Returns:
            One row per item that has such a step: ``item``; ``focus``, mean over these steps;
            ``unfocused_first_step``, 1 if the first one's is below 0, else 0; ``refocused``,
            whether the last one's is 0 or above, missing (NaN) unless the first one's is below
            and there are two of them.

        Source: score of arXiv 2602.08241 (there: last layer, chosen tokens, all boxes); steps,
        layers and what counts as a correction are a reconstruction.
        """
        even = ["evidence_area"] if "evidence_area" in self.table.columns else []
        groups = self.table.groupby(["item", "step"], sort=False)
        steps = groups[["mass", "evidence_mass", *even]].mean()
        area = np.array([self._area(item, int(step)) for item, step in steps.index])
        if even:
            seen = steps["evidence_area"].to_numpy()
            fits = np.where((seen > 0) & (seen <= WIDE), seen, np.nan)
            area = np.where(np.isnan(seen) | np.isnan(area), area, fits)
        with np.errstate(divide="ignore", invalid="ignore"):
            squared = (steps["evidence_mass"] / steps["mass"] / area) ** 2
        focus = ((squared - 1) / (squared + 1)).dropna().rename("focus").reset_index()
        rows = []
        for item, own in focus.sort_values("step", kind="stable").groupby("item", sort=False):
            scores = own["focus"].to_numpy()
            missed = scores[0] < 0
            back = float(scores[-1] >= 0) if missed and len(scores) > 1 else np.nan
            rows.append((item, float(scores.mean()), float(missed), back))
        return pd.DataFrame(rows, columns=["item", "focus", "unfocused_first_step", "refocused"])

    def pictures(self) -> pd.DataFrame:
        """Attention of every step on each of several pictures, means over layers and heads.

        Returns:
            One row per item, step and picture: ``item``, ``step``, ``picture`` (from 1); ``mass``,
            which sums to the step's over the pictures; ``share`` of the step's mass; ``even``, what
            that would be if all image tokens got the same attention (large pictures have more of
            them); ``evidence_mass`` on the step's boxes in the picture, missing where there are
            none, and ``evidence_share`` of the picture's mass; ``named``, whether the problem's
            step of that number speaks of the picture, missing where it does not say.

        Raises:
            MeasureError: If no item has several pictures, or one of them is not among the problems
                given.
        """
        known = set(self.table.columns)
        numbers = [n for n in range(1, len(known)) if f"picture_{n}_mass" in known]
        if not numbers:
            raise MeasureError(
                "No item of the table access has several pictures, so there are none to tell apart."
            )
        groups = self.table.groupby(["item", "step"], sort=False)
        frames = []
        for number in numbers:
            own = f"picture_{number}"
            names = {
                "mass": "whole",
                f"{own}_mass": "mass",
                f"{own}_area": "even",
                f"{own}_evidence_mass": "evidence_mass",
            }
            means = groups[list(names)].mean().rename(columns=names).reset_index()
            frames.append(means.assign(picture=number))
        found = pd.concat(frames).dropna(subset="mass")
        found = found.sort_values(["item", "step", "picture"], kind="stable", ignore_index=True)
        found["share"] = found["mass"] / found["whole"]
        found["evidence_share"] = found["evidence_mass"] / found["mass"]
        said = [
            self._problem(item).step_pictures(step)
            for item, step in zip(found["item"], found["step"], strict=True)
        ]
        found["named"] = [
            number in names if names else None
            for number, names in zip(found["picture"], said, strict=True)
        ]
        columns = ["item", "step", "picture", "mass", "share", "even", "evidence_mass"]
        return found[[*columns, "evidence_share", "named"]].astype({"named": "boolean"})

    def attention_accuracy(self) -> pd.DataFrame:
        """Whether the picture that a step speaks of is the one that it looks at most.

        Of items with several pictures, over the steps that name one of them (`Step.pictures`).

        Returns:
            One row per item with such a step: ``item``; ``steps``, how many there are;
            ``attention_accuracy``, the share of them whose picture has the largest mass;
            ``per_token``, the same of mass per image token, which does not favour large pictures;
            ``chance``, one over the number of pictures.

        Raises:
            MeasureError: As `pictures`.

        Source: reconstruction of what work on several pictures calls attention accuracy.
        """
        rows = []
        for (item, _), own in self.pictures().groupby(["item", "step"], sort=False):
            if own["named"].sum() == 1 and len(own) > 1:
                right = own["named"].to_numpy(bool)
                by_mass, by_token = own["mass"].to_numpy(), (own["share"] / own["even"]).to_numpy()
                first, second = right[by_mass.argmax()], right[by_token.argmax()]
                rows.append((item, float(first), float(second), 1 / len(own)))
        names = ["item", "attention_accuracy", "per_token", "chance"]
        items = pd.DataFrame(rows, columns=names).groupby("item", sort=False)
        means = items.mean().reset_index()
        means.insert(1, "steps", items.size().to_numpy())
        return means

    def steps(self, quantity: str = "mass") -> pd.DataFrame:
        """A quantity per item and step, mean over layers and heads.

        Returns:
            ``item``, ``step``, ``value``; steps without evidence boxes are left out of the
            quantities that need them.
        """
        means = self.table.groupby(["item", "step"], sort=False)[quantity].mean().dropna()
        return means.rename("value").reset_index()

    def curve(self, quantity: str = "mass", *, n_boot: int = 2000) -> pd.DataFrame:
        """Average a quantity over items at every step, with intervals.

        Returns:
            One row per step: ``step``, ``value``, ``low``, ``high``, ``n`` (items).
        """
        curve = step_curve({0: self.steps(quantity)}, axis="step", n_boot=n_boot)
        return curve.drop(columns="n_seeds")

    def _warnings(self) -> list[str]:
        return _layers_read(self.table)

    def _headline(self) -> dict[str, npt.ArrayLike]:
        items = self.items()
        names = ("mass", "mass_slope", "share", "density", "evidence_share")
        said: dict[str, npt.ArrayLike] = {name.replace("_", " "): items[name] for name in names}
        return said | {"focus on the evidence": self.focus()["focus"]}

    def _area(self, item: str, number: int) -> float:
        """The share of the picture that a step's boxes cover; NaN for none, or too much of it."""
        if item not in self.problems:
            return np.nan
        problem = self.problems[item]
        pixels = sum(prod(size) for size in problem.sizes)
        area = 0.0
        for at, size in enumerate(problem.sizes, start=1):
            covered = TokenGrid.regular(size, 1, 1).coverage(problem.step_boxes(number, at))
            area += float(covered[0]) * (prod(size) / pixels)
        return area if 0 < area <= WIDE else np.nan


class AnswerAccess(Result):
    """What `answer_access` measured: how much the answer's row attends to the image."""

    name = "answer_access"
    title = "Visual access of the answer"
    columns = ("item", "n_steps", "layer", "head", *ANSWER_QUANTITIES)

    def items(self) -> pd.DataFrame:
        """Means over layers and heads: ``item`` and the measured columns, one row per item."""
        return self.table.groupby("item", sort=False)[list(ANSWER_QUANTITIES)].mean().reset_index()

    def curve(self, quantity: str = "mass", *, n_boot: int = 2000) -> pd.DataFrame:
        """Average a quantity over heads and items at every layer, with intervals.

        Returns:
            One row per layer: ``layer``, ``value``, ``low``, ``high``, ``n`` (items).
        """
        means = self.table.groupby(["item", "layer"], sort=False)[quantity].mean().dropna()
        own = means.rename("value").reset_index()
        return step_curve({0: own}, axis="layer", n_boot=n_boot).drop(columns="n_seeds")

    def _warnings(self) -> list[str]:
        return _layers_read(self.table)

    def _headline(self) -> dict[str, npt.ArrayLike]:
        items = self.items()
        names = ("mass", "share", "density", "evidence_share", "last_evidence_share")
        return {name.replace("_", " "): items[name] for name in names}


def _courses(steps: pd.DataFrame, rho: float | None) -> dict[str, float]:
    """The course of one item's steps, given in order."""
    mass = steps["mass"].to_numpy()
    found = {
        "mass_first_step": float(mass[0]),
        "mass_last_step": float(mass[-1]),
    }
    for quantity, prefix in _COURSES.items():
        if quantity in steps.columns:
            slope, late = _course(steps[quantity].to_numpy())
            found |= {f"{quantity}_slope": slope, f"{prefix}late_over_early": late}
    if rho is not None:
        found["steps_below"] = float((mass < rho).mean())
    return found


def _course(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Slope against k/K, and mean of the last third over mean of the first."""
    n_steps = len(values)
    if n_steps < 2:
        return float("nan"), float("nan")
    third = -(-n_steps // 3)
    slope = float(np.polyfit(np.arange(1, n_steps + 1) / n_steps, values, 1)[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return slope, float(values[-third:].mean() / values[:third].mean())


def visual_access(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    images: Sequence[Shown] | None = None,
    layers: Collection[int] | None = None,
    sinks: bool | SinkRule = False,
    empty: Empty = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> VisualAccess:
    """Attention of each rationale step on the image, per layer and head.

    A step's values are means over its rows; the row of token t is position t - 1, whose query
    predicts t. Definitions ("visual-token access", a reconstruction of the Att-CoT paper's idea):

    * ``mass``: attention on all image tokens, in [0, 1].
    * ``share``: ``mass`` over the attention on system, image and question, so that the growing
      rationale does not dilute it (the segment-normalised form of VISTA).
    * ``over_system``: ``mass`` over the attention on the system tokens (the visual attention score
      of AVAR, arXiv 2603.03825, there of the user's tokens, here of the step's rows).
    * ``density``: mean attention per image token over mean attention per other visible token;
      1 means that the image gets what uniform attention would give it.
    * ``evidence_mass``: attention on image tokens, each weighted by the share of its area that
      lies in the step's evidence boxes; NaN for a step without boxes, or with boxes of which the
      processor's crop leaves the model nothing to see.
    * ``evidence_share``: ``evidence_mass`` over ``mass``; ``evidence_area``: what it would be if
      all image tokens got the same attention.
    * with ``sinks``, ``sink_free_mass``: attention on image tokens that are no sink where the
      layer takes them in (arXiv 2503.03321); ``sink_share``: the sinks' part of ``mass``.
    * of items with several pictures, ``picture_1_mass`` and so on, which sum to ``mass``, and the
      evidence in each: see `VisualAccess.pictures` and `VisualAccess.attention_accuracy`. Columns
      of pictures that an item does not have are missing.
    * where ``layers`` name some with a sliding window, ``image_seen``: the share of the image
      tokens that a step's rows have in sight; ``density`` has no value in such layers.

    Ratios are ratios of step means. Step number k of a response is held against the boxes of the
    problem's step k; give problems with other steps if an edit has moved the evidence.

    Args:
        mllm: The model.
        problems: The items.
        responses: One response per item, text or token ids, with a rationale.
        images: Pictures to show instead of the problems' own; of several, all of them.
        layers: Layers to read, with a sliding window too; all with full attention if ``None``.
        sinks: Also look for sink tokens, in the same forward pass: ``True``, or by which rule.
        empty: What to do with items whose response has no step: raise an error, or leave them
            out.
        batch_size: Items per forward pass.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item, step, layer and head: ``item, step (1..K),
        n_steps, layer, head``, the quantities above, and ``rows``, the number of rows averaged.

    Raises:
        MeasureError: If the numbers of problems, responses and images differ, a response has no
            step (``empty="error"``) or none has, or the sink rule does not fit the model.
    """
    items = paired(mllm, problems, responses, images=images, empty=empty, several=True)
    table = _read(items, step_blocks, layers, sinks, batch_size, progress, behind=True)
    return VisualAccess(table, items.measured, skipped=items.skipped)


def answer_access(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    images: Sequence[Shown] | None = None,
    layers: Collection[int] | None = None,
    sinks: bool | SinkRule = False,
    empty: Empty = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> AnswerAccess:
    """Attention of the row that predicts the answer's first token, per layer and head.

    Where does the model look at the moment it commits to an answer? The quantities are those of
    `visual_access`; the evidence here is that of all steps of the problem together, and
    ``last_evidence_mass`` and ``last_evidence_share`` speak of the boxes of the problem's last
    step that has any. A response whose rationale states the evidence can be answered rightly
    without a look: low values are no failure by themselves. Reconstruction.

    Args:
        mllm: The model.
        problems: The items.
        responses: One response per item, text or token ids, that states an answer.
        images: Pictures to show instead of the problems' own; of several, all of them.
        layers: Layers to read; all with full attention if ``None``.
        sinks: Also look for sink tokens; see `visual_access`.
        empty: What to do with items whose response states no answer: raise an error, or leave
            them out.
        batch_size: Items per forward pass.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item, layer and head: ``item, n_steps, layer,
        head``, the quantities, and ``rows``, which is 1.

    Raises:
        MeasureError: As `visual_access`, of answers in place of steps.
    """
    items = paired(
        mllm, problems, responses, images=images, need="answer", empty=empty, several=True
    )
    table = _read(items, answer_blocks, layers, sinks, batch_size, progress)
    return AnswerAccess(table, items.measured, skipped=items.skipped)
