"""Commitment in the hidden states: is the answer decodable before it is written, and is it used?

Forced answers ask what a model would say if it had to; hidden states may hold the answer earlier.
A linear decoder is trained on some items and read on others, and steering asks whether what it
finds does anything.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from attcot_analysis.attention.hook import attached
from attcot_analysis.attention.packing import candidate_tokens, forced_answers, pack
from attcot_analysis.attention.probe import chosen_layers
from attcot_analysis.attention.taps import Place, tapped
from attcot_analysis.errors import MeasureError, check_numbers
from attcot_analysis.measures._items import Empty, Items, Response, Result, batches, paired
from attcot_analysis.measures.answers import parsed_answer
from attcot_analysis.measures.probed import check_max_steps, probed
from attcot_analysis.models import Encoded, Mllm, collate, encode_problem, evaluating
from attcot_analysis.models.inputs import last_row
from attcot_analysis.models.load import hidden_states, text_stack
from attcot_analysis.problems import Problem
from attcot_analysis.stats.decoding import IntVector, decoded, fold_numbers
from attcot_analysis.stats.intervals import FloatArray, bootstrap_mean

Control = Literal["none", "shuffled", "text_only"]

CONTROLS: tuple[Control, ...] = ("shuffled", "text_only")

_Push = tuple[str, int, float, FloatArray]
"""Direction, draw, scale and what is added, ``(d,)``."""

SHUFFLES = 10
"""Draws of the shuffled labels."""


class HiddenCommitment(Result):
    """What `hidden_commitment` measured: whether states tell the answer that will be given."""

    name = "states"
    title = "Commitment in the hidden states"
    columns = ("item", "control", "layer", "step", "n_steps", "answer", "correct")

    def items(self, *, layer: int | None = None) -> pd.DataFrame:
        """What the states of one layer tell, per item and step, beside the controls.

        Args:
            layer: Default the one two thirds up the stack, which no result has chosen.

        Returns:
            ``item``, ``step``, ``n_steps``, ``none`` (decoded from the model's states), and the
            controls measured; ``forced`` where there are forced answers. 0 or 1, shuffled a share.

        Raises:
            MeasureError: If the table has no such layer.
        """
        layers = sorted(map(int, self.table["layer"].unique()))
        chosen = layers[(2 * len(layers)) // 3] if layer is None else layer
        if chosen not in layers:
            raise MeasureError(f"No states of layer {chosen} were read; choose one of {layers}.")
        rows = self.table[self.table["layer"] == chosen]
        keys = ["item", "step", "n_steps"]
        wide = rows.pivot(index=keys, columns="control", values="correct")
        if "forced" in rows:
            own = rows[rows["control"] == "none"].set_index(keys)["forced"]
            wide = wide.join(own.astype(float))
        return wide.rename_axis(columns=None).reset_index()

    def curve(self, *, n_boot: int = 2000) -> pd.DataFrame:
        """Share of items whose answer is decoded, by control, layer and step, with intervals.

        Returns:
            ``control``, ``layer``, ``step``, ``value``, ``low``, ``high``, ``n`` (items).
        """
        rows = []
        for key, part in self.table.groupby(["control", "layer", "step"], sort=False):
            mean = bootstrap_mean(part["correct"], n_boot=n_boot)
            rows.append((*key, mean.value, mean.low, mean.high, mean.n))
        columns = ["control", "layer", "step", "value", "low", "high", "n"]
        return pd.DataFrame(rows, columns=columns)

    def _check(self) -> None:
        if self.table.duplicated(["item", "control", "layer", "step"]).any():
            raise MeasureError("The table states holds an item twice; pass the rows of one run.")

    def values(self) -> dict[str, pd.Series]:
        """What is decoded before the first step, beside the controls."""
        first = self._first().set_index("item")
        names = {"none": "decoded0"} | {one: f"decoded0_{one}" for one in CONTROLS}
        return {metric: first[name] for name, metric in names.items() if name in first}

    def _first(self) -> pd.DataFrame:
        items = self.items()
        return items[items["step"] == 0]

    def _headline(self) -> dict[str, npt.ArrayLike]:
        names = {"none": "decoded", "forced": "forced answer the same"}
        first = self._first()
        return {
            f"{names.get(name, f'decoded, {name}')}, before the first step": first[name]
            for name in ("none", "shuffled", "text_only", "forced")
            if name in first
        }


def hidden_commitment(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    layers: Collection[int] | None = None,
    controls: Sequence[Control] = CONTROLS,
    forced: bool = True,
    max_steps: int | None = None,
    folds: int = 5,
    seed: int = 0,
    empty: Empty = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> HiddenCommitment:
    """Decode the answer that a response will give from the hidden states after each of its steps.

    The state is that of the last token before step k + 1, behind each layer, from one plain pass
    over the response: nothing is forced. A ridge classifier is trained on the other folds' items
    (standardised there, its penalty chosen there by leave-one-out), one per layer and step, and
    read on the held-out ones. Folds hold each answer's share.

    Controls: ``"shuffled"``, the same with answers drawn from each other's items (mean of 10
    draws): what a decoder makes of nothing; ``"text_only"``, the same responses without the
    picture: what question and words tell. Decodable is not used (`steering`), and not decodable by
    a linear reading of some hundred items is not absent.

    Args:
        mllm: The model.
        problems: The items; their answers must recur, as options or a set of colours do.
        responses: Per item the model's response, as token ids or text.
        layers: Which layers, from 0; default all.
        controls: Any of the above.
        forced: Hold them against forced answers on the same items: one more pass.
        max_steps: Read at most so many steps; see `commitment`.
        folds: Parts that the items are cut into.
        seed: Of folds and shuffles.
        empty: What to do with items that cannot be measured; see `commitment`.
        batch_size: Items per forward pass. States are held in memory: items × steps × layers × d
            floats.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item, control (``"none"`` for the measurement), layer
        and step: ``item``, ``control``, ``layer``, ``step`` (0 to ``n_steps``), ``n_steps``,
        ``answer`` (the response's own), ``correct`` (decoded right; of shuffles the share), and
        ``forced``, whether the answer forced there is that one. Steps that fewer than two items
        per fold have are left out.

    Raises:
        MeasureError: If the arguments do not fit together, responses state no answer
            (``empty="error"``), or answers do not recur.

    Source: reconstruction; probes before the rationale and steering as in arXiv 2603.01437; control
    tasks after Hewitt & Liang, arXiv 1909.03368.
    """
    check_numbers(seed=seed)
    check_max_steps(max_steps)
    chosen = chosen_layers(mllm, layers)
    unknown = set(controls) - set(CONTROLS)
    if unknown or folds < 2:
        raise MeasureError(
            f"controls is {list(controls)} and folds {folds}; choose controls from shuffled, "
            "text_only, and at least 2 folds."
        )
    items, answers, skipped = _answered(mllm, problems, responses, empty, forced)
    _check_recurring(answers, folds)
    places = list(answers)
    rows: list[pd.DataFrame] = []
    steps: dict[int, tuple[int, ...]] = {}
    labels, names = _labels([answers[at] for at in places])
    for control in dict.fromkeys(("none", *controls)):
        if control == "shuffled":
            continue
        states, steps = _states(
            items,
            places,
            partial(probed, max_steps=max_steps),
            chosen,
            control == "text_only",
            batch_size,
            progress,
        )
        for step in sorted({k for ks in steps.values() for k in ks}):
            here = [n for n, at in enumerate(places) if step in steps[at]]
            if len(here) < 2 * folds or len(set(labels[here])) < 2:
                continue
            parts = fold_numbers(labels[here], folds, seed)
            drawn = [labels[here]]
            if control == "none" and "shuffled" in controls:
                rng = np.random.default_rng([seed, step])
                drawn += [rng.permutation(labels[here]) for _ in range(SHUFFLES)]
            for number, layer in enumerate(chosen):
                one = [states[places[n]][steps[places[n]].index(step), number] for n in here]
                found = decoded(np.stack(one), np.stack(drawn), parts, len(names))
                right = (found == np.stack(drawn)).astype(float)
                kept = pd.DataFrame(
                    {
                        "item": [problems[places[n]].id for n in here],
                        "control": control,
                        "layer": layer,
                        "step": step,
                        "n_steps": [steps[places[n]][-1] for n in here],
                        "answer": [answers[places[n]] for n in here],
                        "correct": right[0],
                    }
                )
                rows.append(kept)
                if len(drawn) > 1:
                    rows.append(kept.assign(control="shuffled", correct=right[1:].mean(0)))
    if not rows:
        raise MeasureError("No step is shared by two items per fold; give more items.")
    table = pd.concat(rows, ignore_index=True)
    if forced:
        table = table.merge(_forced(items, answers, steps, batch_size), on=["item", "step"])
    return HiddenCommitment(table, [problems[at] for at in places], skipped=skipped)


class Steering(Result):
    """What `steering` measured: whether a decoded direction moves the answer."""

    name = "steering"
    title = "Steering along the decoded direction"
    columns = ("item", "direction", "draw", "scale", "answer_before", "target", "answer_after")

    def items(self) -> pd.DataFrame:
        """Share of draws that reach the target or flip the answer, per item.

        Returns:
            ``item``, ``scale``, ``direction``, ``to_target``, ``flipped``.
        """
        table = self.table.assign(
            to_target=(self.table["answer_after"] == self.table["target"]).astype(float),
            flipped=(self.table["answer_after"] != self.table["answer_before"]).astype(float),
        )
        keys = ["item", "scale", "direction"]
        return table.groupby(keys, sort=False)[["to_target", "flipped"]].mean().reset_index()

    def curve(self, quantity: str = "to_target", *, n_boot: int = 2000) -> pd.DataFrame:
        """Average over items: ``direction``, ``scale``, ``value``, ``low``, ``high``, ``n``."""
        rows = []
        for key, part in self.items().groupby(["direction", "scale"], sort=False):
            mean = bootstrap_mean(part[quantity], n_boot=n_boot)
            rows.append((*key, mean.value, mean.low, mean.high, mean.n))
        return pd.DataFrame(rows, columns=["direction", "scale", "value", "low", "high", "n"])

    def values(self) -> dict[str, pd.Series]:
        """Pushes of the largest scale that reach their target, decoded and random."""
        items = self.items()
        largest = items[items["scale"] == items["scale"].max()].set_index("item")
        names = {"decoded": "steered", "random": "steered_random"}
        return {
            names[str(direction)]: part["to_target"]
            for direction, part in largest.groupby("direction", sort=False)
        }

    def _headline(self) -> dict[str, npt.ArrayLike]:
        names = {"steered": "decoded", "steered_random": "random"}
        return {f"moved to the target, {names[at]}": one for at, one in self.values().items()}


def steering(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    layer: int,
    step: int = 0,
    scales: Sequence[float] = (1.0, 2.0, 4.0),
    n_random: int = 5,
    folds: int = 5,
    seed: int = 0,
    empty: Empty = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> Steering:
    """Push an answer towards another one along the line between their mean hidden states.

    The direction from the item's own answer to a target (another answer, drawn) is the difference
    of mean states behind a layer, over the other folds' items, at the last token before step k + 1
    (as `hidden_commitment` reads them). It is added there and in the rows of the answer forced
    after step k. Random directions of the same length are the null: any push of that size moves
    some answers, few to the target.

    Args:
        mllm: The model.
        problems: The items; their answers must recur.
        responses: Per item the model's response, as token ids or text.
        layer: Behind which layer to push, from 0.
        step: k; items with fewer steps are left out.
        scales: Lengths, in distances between the means.
        n_random: Random directions per item and scale.
        folds: Parts that the items are cut into.
        seed: Of folds, targets and random directions.
        empty: What to do with items that cannot be measured.
        batch_size: Items per forward pass.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item, scale and push: ``item``, ``direction``
        (``"decoded"``, ``"random"``), ``draw``, ``scale``, ``answer_before`` (forced, unpushed),
        ``target``, ``answer_after``.

    Raises:
        MeasureError: As `hidden_commitment`.

    Source: reconstruction of the steering in arXiv 2603.01437; mean differences as directions after
    arXiv 2310.06824.
    """
    check_numbers(seed=seed)
    chosen_layers(mllm, [layer])
    items, answers, skipped = _answered(mllm, problems, responses, empty, True)
    steps: dict[int, tuple[int, ...]]
    steps = {at: (step,) for at in answers if len(items.parsed[at].steps) >= step}
    answers = {at: answers[at] for at in steps}
    _check_recurring(answers, folds)
    places = list(answers)
    labels, names = _labels([answers[at] for at in places])
    read, _ = _states(items, places, lambda _: (step,), [layer], False, batch_size, progress)
    states, rng = np.stack([read[at][0, 0] for at in places]), np.random.default_rng(seed)
    parts = fold_numbers(labels, folds, seed)
    pushes: dict[int, list[_Push]] = {}
    targets: dict[int, str] = {}
    lonely: list[str] = []
    for n, at in enumerate(places):
        others = (parts != parts[n]) & np.isin(np.array(names)[labels], problems[at].candidates)
        known = [one for one in np.unique(labels[others]) if one != labels[n]]
        if not known or not (others & (labels == labels[n])).any():
            lonely.append(problems[at].id)
            continue
        goal = int(rng.choice(known))
        targets[at] = names[goal]
        line = states[others & (labels == goal)].mean(0)
        line = line - states[others & (labels == labels[n])].mean(0)
        pushes[at] = []
        for scale in scales:
            pushes[at].append(("decoded", 0, scale, scale * line))
            for draw in range(n_random):
                other = rng.standard_normal(len(line))
                length = scale * np.linalg.norm(line) / np.linalg.norm(other)
                pushes[at].append(("random", draw, scale, length * other))
    if lonely:
        skipped["no other item with its answer"] = tuple(lonely)
    if not pushes:
        raise MeasureError("No answer recurs in other folds; give more items.")
    rows: list[tuple[Any, ...]] = []
    for chunk in batches(list(pushes), batch_size, "steering", progress):
        before, *after = _pushed(items, chunk, layer, step, [pushes[at] for at in chunk])
        for number, read_after in enumerate(after):
            for n, at in enumerate(chunk):
                direction, draw, scale, _ = pushes[at][number]
                own = (problems[at].id, direction, draw, scale, before[n], targets[at])
                rows.append((*own, read_after[n]))
    table = pd.DataFrame(rows, columns=list(Steering.columns))
    return Steering(table, [problems[at] for at in pushes], skipped=skipped)


def _answered(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    empty: Empty,
    forced: bool,
) -> tuple[Items, dict[int, str], dict[str, tuple[str, ...]]]:
    """The items whose response states an answer that can be told."""
    items = paired(mllm, problems, responses, forced=forced, empty=empty, several=True)
    found = {at: parsed_answer(one, problems[at], mllm.format) for at, one in items.parsed.items()}
    told = {at: one for at, one in found.items() if one is not None}
    untold = tuple(problems[at].id for at in found if at not in told)
    if untold and empty == "error":
        raise MeasureError(
            f"Item {untold[0]}: no answer can be told from its response; give it one, or pass "
            "empty='skip' to leave such items out."
        )
    skipped = dict(items.skipped)
    if untold:
        skipped["no answer that can be told"] = untold
    return items, told, skipped


def _check_recurring(answers: dict[int, str], folds: int) -> None:
    counts = pd.Series(answers, dtype=object).value_counts()
    if (counts >= 2).sum() < 2 or len(answers) < 2 * folds:
        raise MeasureError(
            f"The {len(answers)} responses state {len(counts)} answers, {int((counts >= 2).sum())} "
            f"of them twice or more; a decoder needs at least {2 * folds} items and two answers "
            "that recur."
        )


def _labels(answers: Sequence[str]) -> tuple[IntVector, list[str]]:
    names = sorted(set(answers))
    return np.array([names.index(one) for one in answers], dtype=np.int64), names


def _states(
    items: Items,
    places: Sequence[int],
    choose: Callable[[Encoded], tuple[int, ...]],
    layers: Sequence[int],
    text_only: bool,
    batch_size: int,
    progress: bool,
) -> tuple[dict[int, FloatArray], dict[int, tuple[int, ...]]]:
    """Per item states ``(n_k, n_layers, d)`` of the last token before each chosen step; these."""
    mllm, stack = items.mllm, text_stack(items.mllm)
    found: dict[int, FloatArray] = {}
    steps: dict[int, tuple[int, ...]] = {}
    for chunk in batches(places, batch_size, "states", progress):
        encoded = [
            encode_problem(
                mllm, items.problems[at], response=items.responses[at], text_only=text_only
            )
            for at in chunk
        ]
        steps |= {at: choose(one) for at, one in zip(chunk, encoded, strict=True)}
        rows = [
            torch.tensor([one.layout.cuts[k].stop - 1 for k in steps[at]])
            for at, one in zip(chunk, encoded, strict=True)
        ]
        union = torch.unique(torch.cat(rows))
        with (
            torch.no_grad(),
            evaluating(mllm.model),
            hidden_states(stack, layers, union) as states,
        ):
            batch = collate(mllm, encoded)
            mllm.model(**batch, logits_to_keep=last_row(batch), use_cache=False)
        for number, (at, own) in enumerate(zip(chunk, rows, strict=True)):
            here = torch.searchsorted(union, own)
            read = torch.stack([states[layer][number].cpu()[here] for layer in layers], dim=1)
            found[at] = read.float().numpy()
    return found, steps


def _forced(
    items: Items, answers: dict[int, str], steps: dict[int, tuple[int, ...]], batch_size: int
) -> pd.DataFrame:
    """``item``, ``step``, ``forced``: whether the answer forced there is the item's own."""
    rows = []
    for chunk in batches(list(answers), batch_size, "forced answers", False):
        tokens = [candidate_tokens(items.mllm, items.problems[at].candidates) for at in chunk]
        read = forced_answers(
            items.mllm,
            [items.encode(at) for at in chunk],
            tokens,
            steps=[steps[at] for at in chunk],
            names=[items.problems[at].id for at in chunk],
        )
        for at, log_p in zip(chunk, read, strict=True):
            problem = items.problems[at]
            best = [problem.candidates[one] for one in log_p.argmax(-1).tolist()]
            rows += [
                (problem.id, k, one == answers[at]) for k, one in zip(steps[at], best, strict=True)
            ]
    return pd.DataFrame(rows, columns=["item", "step", "forced"])


def _pushed(
    items: Items,
    chunk: Sequence[int],
    layer: int,
    step: int,
    pushes: Sequence[Sequence[_Push]],
) -> list[list[str]]:
    """Forced answers of a batch: unpushed, then under each push."""
    mllm, stack = items.mllm, text_stack(items.mllm)
    encoded = [items.encode(at) for at in chunk]
    packed = pack(
        mllm,
        encoded,
        [candidate_tokens(mllm, items.problems[at].candidates) for at in chunk],
        steps=[[step]] * len(chunk),
        names=[items.problems[at].id for at in chunk],
    )
    rows = torch.zeros(packed.inputs["input_ids"].shape, dtype=torch.bool, device=mllm.device)
    for number, one in enumerate(encoded):
        rows[number, one.layout.cuts[step].stop - 1] = True
    rows[:, packed.base_length :] = True
    added: list[Tensor | None] = [None]
    for many in zip(*pushes, strict=True):
        added.append(torch.from_numpy(np.stack([one[-1] for one in many])).to(mllm.device))
    found = []
    for push in added:

        def pushed(place: Place, at: int, value: Tensor, push: Tensor | None = push) -> Tensor:
            if push is None or at != layer:
                return value
            return torch.where(rows[..., None], value + push[:, None].to(value.dtype), value)

        with (
            torch.no_grad(),
            evaluating(mllm.model),
            attached(mllm.model),
            tapped(stack, pushed, ["residual"]),
        ):
            output = mllm.model(**packed.inputs, logits_to_keep=packed.keep, use_cache=False)
        best = [int(one[0].argmax()) for one in packed.log_probs(output.logits)]
        names = [items.problems[at].candidates for at in chunk]
        found.append([one[at] for one, at in zip(names, best, strict=True)])
    return found
