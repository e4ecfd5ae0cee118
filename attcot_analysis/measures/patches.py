"""Patching: which activations carry what tells the picture from its twin into the answer.

What a layer passes on at some tokens in the run on the edited picture is put in its place in the
run on the item's own picture, and the forced answers are read. Attention shows where a row could
read; a patch shows which activations, moved alone, move the answer.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

import pandas as pd

from attcot_analysis.errors import MeasureError, NothingMeasuredError
from attcot_analysis.measures._items import (
    Empty,
    Items,
    Response,
    Result,
    batches,
    paired,
    seen_edits,
)
from attcot_analysis.measures.causal import Window, checked_windows, layer_windows
from attcot_analysis.measures.patched import (
    PARTS,
    Group,
    Method,
    Patch,
    PatchedBatch,
    Site,
    Source,
)
from attcot_analysis.measures.probed import check_max_steps
from attcot_analysis.models import Mllm
from attcot_analysis.models.load import text_stack
from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import EditedImage, EditKind, edited_images
from attcot_analysis.stats.intervals import Interval, bootstrap_mean
from attcot_analysis.stats.significance import max_statistic_test

Step = Literal["first", "last"]

TOLD = 1.0
"""Nats of log-odds by which the edit must move a model's answer for shares of that to be made."""

CELL = ["method", "site", "head", "first_layer", "last_layer", "group"]
"""What tells one patch from another."""

_READ = ["recovered", "recovered_control", "net", "share", "net_share"]


class Patching(Result):
    """What `patching` measured: what of an edit's effect each patch brings about."""

    name = "patching"
    title = "Patching between picture and twin"
    columns = (
        "item",
        "method",
        "source",
        "site",
        "head",
        "first_layer",
        "last_layer",
        "group",
        "k",
        "n_steps",
        "log_odds_before",
        "log_odds_source",
        "recovered",
    )

    def items(self) -> pd.DataFrame:
        """Hold every patch from the edit against the same from the control edit.

        Returns:
            One row per item, patch (`CELL`) and k: ``item``, `CELL`, ``k``, ``n_steps``; ``gap``,
            the nats of log-odds by which the edit itself moves the answer; ``recovered``,
            ``recovered_control`` (missing where the item has no control), ``net``, their
            difference; ``share`` and ``net_share``, of the gap, missing where that is below
            `TOLD`: there the model does not tell the twin from the picture.
        """
        keys = ["item", *CELL, "k", "n_steps"]
        edit = self.table[self.table["source"] == "edit"]
        control = self.table.loc[self.table["source"] == "control", [*keys, "recovered"]]
        found = edit.merge(control, on=keys, how="left", suffixes=("", "_control"))
        found["gap"] = found["log_odds_source"] - found["log_odds_before"]
        found["net"] = found["recovered"] - found["recovered_control"]
        told = found["gap"].where(found["gap"] >= TOLD)
        found["share"], found["net_share"] = found["recovered"] / told, found["net"] / told
        return found[[*keys, "gap", *_READ]]

    def curve(
        self,
        quantity: str = "net_share",
        *,
        step: Step | int = "last",
        method: Method | None = None,
        n_boot: int = 2000,
    ) -> pd.DataFrame:
        """Average a quantity of `items` over items, for every patch, with intervals.

        Args:
            quantity: A column of `items`.
            step: The forced answer after so many steps, before the first or after the last.
            method: By default exact patches, estimates where there are no others.
            n_boot: Resamples.

        Returns:
            `CELL`, ``value``, ``low``, ``high``, ``n`` (items).

        Raises:
            MeasureError: If there is no such quantity or step.
        """
        return _means(self._at(quantity, step, method), quantity, n_boot)

    def carriers(
        self, *, step: Step | int = "last", least: float = 0.1, alpha: float = 0.05
    ) -> pd.DataFrame:
        """The patches that carry the answer, corrected for how many were tried.

        Args:
            step: As in `curve`.
            least: Mean net share of the gap from which on a patch counts.
            alpha: Chance of even one false patch, by a sign-flip test over items with the maximum
                statistic (`max_statistic_test`); few items (below 5 or so) allow no finding.

        Returns:
            Rows of `curve` of ``"net_share"`` with ``p_family``, largest first; none where nothing
            is found.
        """
        items = self._at("net_share", step)
        wide = items.pivot(index="item", columns=CELL, values="net_share")
        found = wide.columns.to_frame(index=False)
        found["p_family"] = max_statistic_test(wide.to_numpy(float)).p_family
        found = found[(wide.mean() >= least).to_numpy() & (found["p_family"] <= alpha)]
        means = _means(items.merge(found[CELL], on=CELL), "net_share", 2000)
        carriers = means.merge(found, on=CELL)
        return carriers.sort_values("value", ascending=False, ignore_index=True)

    def values(self) -> dict[str, pd.Series]:
        """The gap of each item, and the net share recovered where there is a single patch."""
        last = self._last().set_index("item")
        one = len(self.table.drop_duplicates(CELL)) == 1
        return {"patch_gap": last["gap"]} | ({"patch_net_share": last["net_share"]} if one else {})

    def agreement(self) -> pd.DataFrame:
        """Hold attribution's estimates against exact patches, where both were measured.

        Returns:
            One row per site: ``site``, ``correlation`` of the nats recovered, ``error`` (mean
            absolute difference, nats), ``size`` (mean absolute exact value), ``n`` (patches of
            items).
        """
        keys = ["item", "source", *CELL[1:], "k"]
        exact, estimate = (
            self.table[self.table["method"] == method] for method in get_args(Method)
        )
        both = exact.merge(estimate, on=keys, suffixes=("", "_estimate"))
        rows = []
        for site, part in both.groupby("site", sort=False):
            own, other = part["recovered"], part["recovered_estimate"]
            varies = own.std() > 0 and other.std() > 0
            correlation = float(own.corr(other)) if varies else float("nan")
            rows.append((site, correlation, (own - other).abs().mean(), own.abs().mean(), len(own)))
        return pd.DataFrame(rows, columns=["site", "correlation", "error", "size", "n"])

    def _at(self, quantity: str, step: Step | int, method: Method | None = None) -> pd.DataFrame:
        items = self.items()
        exact = (items["method"] == "exact").any()
        items = items[items["method"] == (method or ("exact" if exact else "attribution"))]
        if quantity not in ("gap", *_READ):
            raise MeasureError(
                f"Patching has no quantity {quantity!r}; choose one of gap, {', '.join(_READ)}."
            )
        k = {"first": 0, "last": items["n_steps"]}.get(str(step), step)
        found = items[items["k"] == k]
        if found.empty:
            raise MeasureError(
                f"No answer was forced after step {step!r}; choose 'first', 'last' or one of "
                f"{sorted(map(int, items['k'].unique()))}."
            )
        return found

    def _check(self) -> None:
        if self.table.duplicated(["item", "source", *CELL, "k"]).any():
            raise MeasureError(
                "The table of patching holds an item's patch twice; pass the rows of one run."
            )
        if not (self.table["source"] == "edit").any():
            raise MeasureError("The table of patching has no patches from the edit; measure them.")

    def _warnings(self) -> list[str]:
        last = self._last()
        said = []
        untold, bare = int((last["gap"] < TOLD).sum()), int(last["net"].isna().sum())
        if untold:
            said.append(
                f"On {untold} of {len(last)} items the edit moves the answer after the last step "
                f"by less than {TOLD:g} nat, so shares leave them out."
            )
        if bare:
            said.append(f"{bare} of {len(last)} items have no control edit, so no net values.")
        return said

    def _last(self) -> pd.DataFrame:
        """A row per item, of the forced answer after its last step."""
        items = self.items()
        return items[items["k"] == items["n_steps"]].drop_duplicates("item")

    def _numbers(self) -> list[str]:
        gap = bootstrap_mean(self._last()["gap"])
        said = [f"log-odds moved by the edit after the last step {gap}"]
        curve = self.curve()
        for row in curve.dropna(subset="value").nlargest(3, "value").to_dict("records"):
            first, last = row["first_layer"], row["last_layer"]
            site = row["site"] if row["head"] < 0 else f"head {row['head']}"
            layers = f"layer {first}" if first == last else f"layers {first} to {last}"
            mean = Interval(row["value"], row["low"], row["high"], row["n"])
            said.append(f"net share of {site}, {layers}, {row['group']}: {mean}")
        return said


def _means(items: pd.DataFrame, quantity: str, n_boot: int) -> pd.DataFrame:
    """A quantity's mean over items for every patch, with intervals."""
    rows = []
    for cell, part in items.groupby(CELL, sort=False):
        mean = bootstrap_mean(part[quantity], n_boot=n_boot)
        rows.append((*cell, mean.value, mean.low, mean.high, mean.n))
    return pd.DataFrame(rows, columns=[*CELL, "value", "low", "high", "n"])


def patching(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    sites: Sequence[Site] = ("residual",),
    groups: Sequence[Group] = PARTS,
    windows: Sequence[Window] | None = None,
    heads: Collection[tuple[int, int]] | None = None,
    methods: Sequence[Method] = ("exact",),
    edit: EditKind = "twin",
    control: EditKind | None = "control",
    max_steps: int | None = None,
    empty: Empty = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> Patching:
    """Move activations from the run on the edited picture into the run on the item's own.

    Both runs hold the same tokens: prompt, the response's rationale, and an answer forced after
    every step. They differ in the picture alone. A patch puts what the edited run passes on at a
    site, in a window of layers and at a group of tokens, in the place of what the own run passes
    on there; all else is computed on. With a the right answer of the picture, b that of the edited
    one and ``LO = log p(b) - log p(a)`` of the forced answer, a patch *recovers*
    ``LO(patched) - LO(own)`` of the *gap* ``LO(edited) - LO(own)``.

    The null is the same patch from a control edit as large, which leaves the answer: activations
    of another picture may push an answer about without carrying it. `Patching.items` takes that
    off.

    Sites: ``"residual"`` (behind the layer, held at the edited run's in every layer of the
    window), ``"attention"`` (all heads' outputs), ``"head"`` (one head's), ``"mlp"``. Groups:
    ``"evidence"`` (image tokens on which the source's pixels differ; where an edit names no boxes,
    those of the item's evidence), ``"image_rest"``, ``"question"`` (the prompt behind the
    picture), ``"rationale"`` (so far: up to step k), ``"answer"`` (the forced answer's rows, its
    cue among them), ``"image"``, ``"all"``.

    One pass reads every step: a forced answer after step k sees no later token, so a patch on the
    whole rationale is for it one on the first k steps. A patch from layer L on runs only the
    layers from there.

    That a patch moves the answer shows that these activations *suffice* to carry what differs, in
    this context; several may, each by itself, so shares need not add up to 1, and what lies before
    or behind a carrier in the stack carries it as well. It does not show that the model has no
    other way (`causal_access` asks that).

    Args:
        mllm: The model.
        problems: The items; those without the edit are left out and named in ``skipped``.
        responses: Per item the model's response, as token ids or text.
        sites: Any of the above.
        groups: Any of the above.
        windows: Layers patched together, as ``(first, last)``, both included; default each layer
            by itself. See `layer_windows`.
        heads: The ``(layer, head)`` of the site ``"head"``; default all in the windows' layers.
        methods: ``"exact"``, a pass per patch; ``"attribution"``, the first-order estimate of all
            of them from one pass with gradients, ``sum (edited - own) · dLO/d(own)``, which needs
            the memory of a training step. `Patching.agreement` holds one against the other.
        edit: An edit with another right answer.
        control: An edit as large that leaves it; ``None`` to do without (and without a null).
        max_steps: Force answers after at most so many steps; see `commitment`.
        empty: What to do with items that cannot be measured; see `commitment`.
        batch_size: Items per forward pass.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item, method, source (``"edit"``, ``"control"``),
        patch and k: ``site``, ``head`` (-1: all), ``first_layer``, ``last_layer``, ``group``,
        ``k``, ``n_steps``; ``log_odds_before`` (own run), ``log_odds_source`` (the source's run),
        ``recovered`` (nats).

    Raises:
        MeasureError: If the arguments do not fit together, or no item is left.

    Source: reconstruction; activation patching (Vig et al., arXiv 2004.12265; Zhang & Nanda, arXiv
    2309.16042) between a picture and its semantic twin as in arXiv 2406.16320; attribution
    patching after Syed et al., arXiv 2310.10348.
    """
    _check_choices(sites, groups, methods)
    check_max_steps(max_steps)
    whole = [(layer, layer) for layer in range(mllm.n_layers)]
    windows = whole if windows is None else checked_windows(windows, mllm.n_layers)
    if "attribution" in methods and "residual" in sites and any(a < b for a, b in windows):
        raise MeasureError(
            "Attribution cannot hold the residual stream in several layers at once; give windows "
            "of one layer, or leave out the site 'residual'."
        )
    groups = list(dict.fromkeys(groups))
    patches = _patches(mllm, sites, groups, windows, heads)
    items = paired(mllm, problems, responses, forced=True, empty=empty, several=True)
    sources, skipped = _sources(items, edit, control)
    stack = text_stack(mllm)
    frames: list[pd.DataFrame] = []
    measured: list[Problem] = []
    for chunk in batches(list(sources), batch_size, "patching", progress):
        batch = PatchedBatch(items, stack, {at: sources[at] for at in chunk}, groups, max_steps)
        skipped.setdefault(_OTHER_TOKENS, []).extend(problems[at].id for at in batch.unequal)
        if batch.places:
            measured += [problems[at] for at in batch.places]
            frames += batch.measure(patches, methods)
    if not frames:
        raise NothingMeasuredError(
            f"No item allows patching from the edit {edit!r} (an edit with another right answer "
            "among the candidates, and as many image tokens); give problems that do."
        )
    left = {why: tuple(ids) for why, ids in skipped.items() if ids}
    return Patching(pd.concat(frames, ignore_index=True), measured, skipped=left)


def patching_search(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    width: int = 4,
    keep: int = 2,
    step: Step | int = "last",
    **options: Any,
) -> Patching:
    """Look for the heads that carry the answer from coarse to fine: windows, layers, heads.

    The attention of whole windows of layers is patched, then that of each layer in the best of
    them, then each head of the best layers; what is passed over in one round is not looked at in
    the next, so a head whose window does nothing as a whole is not found.

    Args:
        mllm: The model.
        problems: As for `patching`.
        responses: As for `patching`.
        width: Layers of a window.
        keep: How many windows and then layers go on, those of the largest mean net recovery (nats)
            at any group; without a control the largest recovery.
        step: The forced answer judged by; see `Patching.curve`.
        options: Further arguments of `patching`, but sites, windows and heads.

    Returns:
        All patches tried, as `patching` does.
    """
    windows = layer_windows(mllm.n_layers, min(width, mllm.n_layers))
    quantity = "recovered" if options.get("control", "control") is None else "net"
    rounds: list[Patching] = []
    tried: tuple[Site, ...] = ("attention", "attention", "head")
    for site in tried:
        found = patching(
            mllm,
            problems,
            responses,
            sites=(site,),
            windows=windows,
            **options,
        )
        rounds.append(found)
        curve = found.curve(quantity, step=step, n_boot=1)
        best = curve.groupby(["first_layer", "last_layer"])["value"].max().nlargest(keep)
        windows = sorted({(at, at) for a, b in best.index for at in range(int(a), int(b) + 1)})
    table = pd.concat([one.table for one in rounds], ignore_index=True)
    # Windows of one layer are tried twice.
    table = table.drop_duplicates(["item", "source", *CELL, "k"], ignore_index=True)
    return Patching(table, rounds[0].problems.values(), skipped=rounds[0].skipped)


_OTHER_TOKENS = "the edited picture makes other tokens"


def _check_choices(sites: Sequence[str], groups: Sequence[str], methods: Sequence[str]) -> None:
    for name, given, known in (
        ("sites", sites, Site),
        ("groups", groups, Group),
        ("methods", methods, Method),
    ):
        if not given or set(given) - set(get_args(known)):
            raise MeasureError(
                f"{name} is {list(given)}; choose from {', '.join(get_args(known))}."
            )


def _patches(
    mllm: Mllm,
    sites: Sequence[Site],
    groups: Sequence[Group],
    windows: Sequence[Window],
    heads: Collection[tuple[int, int]] | None,
) -> list[Patch]:
    """Every patch, by first layer."""
    layers = sorted({layer for a, b in windows for layer in range(a, b + 1)})
    chosen = [(layer, head) for layer in layers for head in range(mllm.n_heads)]
    if heads is not None:
        bad = [
            one for one in heads if not (0 <= one[0] < mllm.n_layers and 0 <= one[1] < mllm.n_heads)
        ]
        if bad or not heads:
            raise MeasureError(
                f"Heads are {list(heads)}; give (layer, head) pairs below ({mllm.n_layers}, "
                f"{mllm.n_heads}), at least one."
            )
        chosen = sorted(heads)
    found = []
    for site in dict.fromkeys(sites):
        here = [((layer, layer), head) for layer, head in chosen]
        if site != "head":
            here = [(window, -1) for window in dict.fromkeys(windows)]
        found += [
            Patch(site, a, head, group) for a, head in here for group in dict.fromkeys(groups)
        ]
    return sorted(found, key=lambda one: one.window[0])


def _sources(
    items: Items, edit: EditKind, control: EditKind | None
) -> tuple[dict[int, dict[Source, EditedImage]], dict[str, list[str]]]:
    """Per item what is patched from, and why items were left out."""
    problems, places = items.problems, items.places
    found: dict[int, dict[Source, EditedImage]] = {at: {} for at in places}
    kinds: list[tuple[Source, EditKind]] = [("edit", edit)]
    if control is not None:
        kinds.append(("control", control))
    for source, kind in kinds:
        made = edited_images(problems, kind, only=places)
        for made_one in seen_edits(items.mllm, problems, made):
            found[made_one.at][source] = made_one
    skipped = {why: list(ids) for why, ids in items.skipped.items()}
    for at in places:
        problem, one = problems[at], found[at].get("edit")
        why = None
        if one is None:
            why = f"no edit {edit}"
        elif one.expected == problem.answer or one.expected not in problem.candidates:
            why = f"the edit {edit} has no other right answer among the candidates"
        if why:
            skipped.setdefault(why, []).append(problem.id)
            del found[at]
    return found, skipped
