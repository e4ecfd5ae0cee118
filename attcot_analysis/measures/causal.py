"""Causal access: what an answer loses when rows can no longer read the image.

The causal counterpart of `visual_access`. Attention on the image shows where a row could read;
cutting those edges shows whether what is read there matters.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from torch import Tensor

from attcot_analysis.attention.candidates import CandidateTokens, candidate_tokens
from attcot_analysis.attention.hook import Intervention, Revision, attached, intervening
from attcot_analysis.attention.kinds import keeps_state, require_no_state
from attcot_analysis.attention.knockout import Knockout, MeanValue
from attcot_analysis.attention.packing import ForcedAnswers, Packed, final_answers, pack
from attcot_analysis.errors import MeasureError, check_known
from attcot_analysis.measures._items import (
    Empty,
    Items,
    Response,
    Result,
    batches,
    paired,
)
from attcot_analysis.measures.answers import answer_row, parsed_answer
from attcot_analysis.models import Encoded, Mllm, Span, encode_problem, prefix_ids
from attcot_analysis.models import generate as respond
from attcot_analysis.problems import Problem
from attcot_analysis.stats.intervals import bootstrap_mean

Kind = Literal["knockout", "mean_value", "removal", "none"]

Rows = Literal["rationale", "answer", "both"]

Keys = Literal["image", "system", "question"]

Window = tuple[int, int]

BY_LAYER: tuple[Kind, ...] = ("knockout", "mean_value")
"""The kinds that act in a window of layers; the others act everywhere."""


class Item(NamedTuple):
    """One item of the measurement.

    Attributes:
        problem: The problem.
        response: What the model wrote.
        answer: The answer stated there, if one can be told.
        n_steps: K, its rationale steps.
        ks: The steps it is cut from, ascending.
        tokens: Its candidates.
    """

    problem: Problem
    response: Response
    answer: str | None
    n_steps: int
    ks: tuple[int, ...]
    tokens: CandidateTokens


class Cut(NamedTuple):
    """One intervention on a batch; ``slot`` says which of its ``ks`` each item is cut from."""

    kind: Kind
    window: Window
    slot: int

    @property
    def layers(self) -> range:
        """The layers it acts in."""
        return range(self.window[0], self.window[1] + 1)


def layer_windows(n_layers: int, width: int, stride: int | None = None) -> list[Window]:
    """Cut a stack of layers into windows of one width, for a sweep over depth.

    Args:
        n_layers: Layers of the model, L.
        width: Layers per window.
        stride: Layers from one window's start to the next; default ``width``.

    Returns:
        ``(first, last)`` pairs, both included, from layer 0 to L - 1. The last window is moved
        back to end there, so that all are equally wide.

    Raises:
        MeasureError: If the width does not fit the layers, or the stride is below 1.
    """
    stride = width if stride is None else stride
    if not 1 <= width <= n_layers or stride < 1:
        raise MeasureError(
            f"Windows of {width} layers every {stride} do not fit {n_layers} layers; choose a "
            f"width from 1 to {n_layers} and a stride of at least 1."
        )
    firsts = [*range(0, n_layers - width, stride), n_layers - width]
    return [(first, first + width - 1) for first in firsts]


def plan_cuts(
    items: Sequence[Item], kinds: Sequence[Kind], windows: Sequence[Window], n_layers: int
) -> Iterator[Cut]:
    """Every intervention on a batch of items."""
    slots = range(max(len(item.ks) for item in items))
    for kind in kinds:
        for window in windows if kind in BY_LAYER else [(0, n_layers - 1)]:
            yield from (Cut(kind, window, slot) for slot in slots)


def checked_windows(windows: Sequence[Window] | None, n_layers: int) -> list[Window]:
    """The windows asked for; all layers at once by default.

    Raises:
        MeasureError: If there is none, or one does not lie in the model's layers.
    """
    if windows is None:
        return [(0, n_layers - 1)]
    found = [(int(first), int(last)) for first, last in windows]
    if not found or not all(0 <= first <= last < n_layers for first, last in found):
        raise MeasureError(
            f"Layer windows are {found}; give (first, last) pairs, both included, from 0 to "
            f"{n_layers - 1}."
        )
    return found


def check_choices(kinds: Sequence[str], rows: str, keys: str, *, generate: bool) -> None:
    """Refuse what cannot be measured.

    Raises:
        MeasureError: If a choice is unknown, or two contradict each other.
    """
    check_known(list(kinds), Kind, f"kinds is {list(kinds)}")
    check_known(rows, Rows, f"rows is {[rows]}")
    check_known(keys, Keys, f"keys is {[keys]}")
    if keys != "image" and "removal" in kinds:
        raise MeasureError(
            f"The kind 'removal' takes the image away, it cannot remove keys={keys!r}; leave it "
            "out of the kinds."
        )
    if generate and rows == "rationale":
        raise MeasureError(
            "A regenerated response is cut in all rows, its answer's too; use rows='both' or "
            "generate=False."
        )


def plan_items(
    pairs: Items, steps: Sequence[int] | Sequence[float] | None, rows: Rows
) -> list[Item]:
    """The items and the steps they are cut from.

    Raises:
        MeasureError: If steps are neither numbers nor shares, candidates cannot be told apart, or
            nothing is left to measure.
    """
    items = []
    for at, parsed in pairs.parsed.items():
        problem, n_steps = pairs.problems[at], len(parsed.steps)
        own = parsed_answer(parsed, problem, pairs.mllm.format)
        ks = _asked(steps, n_steps, rows)
        if ks:
            tokens = candidate_tokens(pairs.mllm, problem.candidates)
            items.append(Item(problem, pairs.responses[at], own, n_steps, ks, tokens))
    if not items:
        raise MeasureError(
            "No response has the steps to measure from; give other responses or steps."
        )
    return items


def _asked(
    steps: Sequence[int] | Sequence[float] | None, n_steps: int, rows: Rows
) -> tuple[int, ...]:
    """The k of an item with K steps."""
    if rows == "answer":
        if steps is not None:
            raise MeasureError("rows='answer' cuts from the last step on; leave steps out.")
        return (n_steps,)
    last = n_steps - (rows == "rationale")
    if steps is None:
        return tuple(range(last + 1))
    asked = list(steps)
    whole = [isinstance(step, int | np.integer) for step in asked]
    if asked and all(whole) and min(asked) >= 0:
        return tuple(sorted({int(step) for step in asked if step <= last}))
    if not asked or any(whole) or not all(0 <= step <= 1 for step in asked):
        raise MeasureError(
            f"Steps are {asked}; give whole numbers from 0 on, or shares between 0.0 and "
            "1.0, not both."
        )
    return tuple(sorted({min(round(step * n_steps), last) for step in asked}))


GROUP = ("kind", "keys", "rows", "rationale", "first_layer", "last_layer")
"""What tells one intervention from another, but for the step it starts at."""


Quantity = Literal["delta_log_p", "delta_log_p_right", "delta_accuracy", "flipped"]


class CausalAccess(Result):
    """What `causal_access` measured: what an answer loses without the image."""

    name = "causal"
    title = "Causal access"
    columns = (
        "item",
        "kind",
        "keys",
        "rows",
        "first_layer",
        "last_layer",
        "k",
        "n_steps",
        "rationale",
        "answer_before",
        "answer_after",
        "correct_before",
        "correct_after",
        "flipped",
        "delta_accuracy",
        "log_p_before",
        "log_p_after",
        "delta_log_p",
        "log_p_right_before",
        "log_p_right_after",
        "delta_log_p_right",
    )

    def items(self) -> pd.DataFrame:
        """Reduce the table to one row per item and intervention.

        Returns:
            ``item``, `GROUP`, ``n_steps``; ``k``, the first step cut from; ``delta_log_p``,
            ``delta_log_p_right``, ``delta_accuracy``, ``flipped`` of that, the largest cut; and
            of ``delta_log_p`` and ``delta_accuracy`` also ``_last``, of the smallest cut, from
            the last k measured on, and ``_area``, the mean over k/K from the first k to the last
            (trapezoid rule; the value itself for one k). An area near the first value means that
            the image is needed to the end, one near zero that it is needed at the start only.
            Missing where the table has none, as log-probabilities of regenerated rationales.
        """
        rows = []
        for key, part in self._ordered.groupby(["item", *GROUP], sort=False):
            position = (part["k"] / part["n_steps"].clip(lower=1)).to_numpy(float)
            row = dict(zip(("item", *GROUP), key, strict=True))
            row |= {"n_steps": part["n_steps"].iloc[0], "k": part["k"].iloc[0]}
            for name in ("delta_log_p", "delta_log_p_right", "delta_accuracy", "flipped"):
                row[name] = part[name].iloc[0]
            for name in ("delta_log_p", "delta_accuracy"):
                values = part[name].to_numpy(float)
                row[f"{name}_last"] = values[-1]
                row[f"{name}_area"] = values[0]
                if len(values) > 1:
                    span = position[-1] - position[0]
                    row[f"{name}_area"] = float(trapezoid(values, position) / span)
            rows.append(row)
        return pd.DataFrame(rows).astype({"flipped": "boolean"})

    def curve(
        self,
        quantity: Quantity = "delta_log_p",
        *,
        axis: Literal["auto", "k", "position"] = "auto",
        points: int = 11,
        n_boot: int = 2000,
        seed: int = 0,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Average a change over items, per intervention and step cut from, with intervals.

        Args:
            quantity: What to average.
            axis: ``"k"``, steps before the cut; ``"position"``, k/K, on which every item's
                values are read by linear interpolation between the first and last k measured of
                it; ``"auto"`` takes k where all items have the same K.
            points: Points of the position axis, from 0 to 1.
            n_boot: Bootstrap resamples, over items.
            seed: Seed of the bootstrap.
            level: Confidence level.

        Returns:
            One row per intervention (`GROUP`) and point: ``k`` or ``position``, ``value``,
            ``low``, ``high``, ``n`` (items). Points at which nothing was measured are left out.
            For a sweep over depth take the rows of one k.

        Raises:
            MeasureError: If the table has no such quantity.
        """
        table = self._ordered
        if axis == "auto":
            axis = "k" if table["n_steps"].nunique() == 1 else "position"
        measured = table[table[quantity].notna()]
        if measured.empty:
            raise MeasureError(
                f"The table of causal access has no {quantity}; choose another quantity."
            )
        if axis == "position":
            measured = _on_positions(measured, quantity, np.linspace(0.0, 1.0, points))
        rows = []
        for key, part in measured.groupby([*GROUP, axis], sort=False):
            values = part[quantity].to_numpy(float)
            mean = bootstrap_mean(values, part["item"], n_boot=n_boot, seed=seed, level=level)
            rows.append((*key, mean.value, mean.low, mean.high, mean.n))
        return pd.DataFrame(rows, columns=[*GROUP, axis, "value", "low", "high", "n"])

    def _check(self) -> None:
        twice = self.table.duplicated(["item", *GROUP, "k"])
        if twice.any():
            row = self.table[twice].iloc[0]
            raise MeasureError(
                f"Item {row['item']} has the kind {row['kind']} from step {row['k']} on twice; "
                "pass the rows of one run."
            )
        self._ordered = self.table.sort_values("k", kind="stable")

    def _headline(self) -> dict[str, npt.ArrayLike]:
        means: dict[str, npt.ArrayLike] = {}
        groups = self.items().groupby(["kind", "rationale", "first_layer", "last_layer"])
        for (kind, rationale, first, last), part in groups:
            where = f"{kind} in layers {first} to {last}, rationale {rationale}"
            fixed = rationale == "fixed"
            name = "log p lost" if fixed else "accuracy lost"
            means[f"{name}, {where}"] = part["delta_log_p" if fixed else "delta_accuracy"]
        return means


def _on_positions(
    table: pd.DataFrame, quantity: str, places: npt.NDArray[np.float64]
) -> pd.DataFrame:
    """Every item's values read at positions k/K; between its first and last k only."""
    frames = []
    for key, part in table.groupby(["item", *GROUP], sort=False):
        position = (part["k"] / part["n_steps"].clip(lower=1)).to_numpy(float)
        inside = places[(places >= position[0]) & (places <= position[-1])]
        values = np.interp(inside, position, part[quantity].to_numpy(float))
        names = {
            name: [value] * len(inside) for name, value in zip(("item", *GROUP), key, strict=True)
        }
        frames.append(pd.DataFrame({**names, "position": inside, quantity: values}))
    return pd.concat(frames, ignore_index=True)


_EDITS: dict[str, type[Knockout] | type[MeanValue]] = {
    "knockout": Knockout,
    "mean_value": MeanValue,
}


def causal_access(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    kinds: Sequence[Kind] = ("knockout", "mean_value", "removal"),
    windows: Sequence[Window] | None = None,
    steps: Sequence[int] | Sequence[float] | None = None,
    rows: Rows = "both",
    keys: Keys = "image",
    picture: int | None = None,
    generate: bool = False,
    empty: Empty = "error",
    batch_size: int = 16,
    max_new_tokens: int = 256,
    progress: bool = False,
) -> CausalAccess:
    """Take the image from the rows after step k on, and see what becomes of the answer.

    Kinds:

    * ``"knockout"``: the edges row → image are cut (`Knockout`);
    * ``"mean_value"``: they carry the mean image value instead (`MeanValue`), so that no attention
      is freed to go elsewhere;
    * ``"removal"``: the prompt is encoded again without the image, the first k steps follow word
      for word, and the model goes on from text only, in all layers;
    * ``"none"``: nothing is changed, as a control.

    Knockout and removal answer different questions. Under a knockout from step k on, the rows
    before it (question and first steps) have read the image and keep what they read; later rows
    may still learn of it from them. It asks for *direct* access. Removal leaves nothing but the
    words. An answer that survives knockout and not removal lives on what earlier rows stored.

    Rationale ``"fixed"``: the response's rationale stays, word for word, and the answer is forced
    after all of it. Removal then leaves no row with an image whatever k is, so it has one fixed
    row per item, at k = K. ``"regenerated"`` (with ``generate=True``): the first k steps stay, the
    rest is written again (greedily), all of it under the cut.

    Args:
        mllm: The model.
        problems: The items.
        responses: Per item the model's response, as token ids (as in the ``ids`` of
            `answer_problems`) or text; for the regenerated form it should be a greedy one, the
            kind ``"none"`` shows whether it is.
        kinds: Any of the above.
        windows: Layers to intervene in, as ``(first, last)``, both included; default all layers
            at once. See `layer_windows`.
        steps: From which steps on: whole numbers k (items with fewer steps have no row for them)
            or shares of each item's K such as ``(0.0, 0.5)``, rounded; default 0 to K.
        rows: ``"rationale"``: rows of the rationale's tokens from step k + 1 on; ``"answer"``: rows
            of the forced answer with its cue (k is K); ``"both"``. Regenerated responses are cut
            in all rows, so they cannot go with ``"rationale"``.
        keys: What is cut off, ``"image"``, or as a control the prompt's text: ``"system"`` (all
            before the image) or ``"question"`` (all after it).
        picture: Of items with several pictures: cut off this one alone, counted from 1. The others
            stay in sight, and what they hold of it (as rows between them do); default all.
        generate: Regenerate responses too; costs one generation per kind, window and k.
        empty: What to do with items that cannot be measured; see `commitment`.
        batch_size: Items per forward pass or generation.
        max_new_tokens: Length limit of what is regenerated.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item, kind, window, k and rationale:

        * ``item``, ``kind``, ``keys``, ``rows`` (``"both"`` where rationale is regenerated),
          ``first_layer``, ``last_layer``, ``k``, ``n_steps``, ``rationale``;
        * ``answer_before``: fixed: the candidate most probable after the rationale with nothing
          cut; regenerated: the response's own answer (missing if none can be told);
          ``answer_after``: likewise under the cut; ``correct_before``, ``correct_after``;
          ``flipped``: the answers differ (missing without an answer before);
          ``delta_accuracy``: correct before − after, so high means that the edges were needed;
        * fixed rows only: ``log_p_before``, ``log_p_after`` (nats, normalised over the
          candidates) of ``answer_before``, ``delta_log_p``: before − after, high when needed;
          ``log_p_right_before``, ``log_p_right_after``, ``delta_log_p_right``: the same of the
          right answer.

    Raises:
        MeasureError: If the arguments do not fit together, or a response has no rationale step
            (``empty="error"``).

    Source: knockout after Geva et al. (arXiv 2304.14767), in layers × time as arXiv 2607.12815;
    removal after TVC (arXiv 2503.13360); mean value after CFPO (arXiv 2606.23206).
    """
    check_choices(kinds, rows, keys, generate=generate)
    _check_picture(problems, kinds, keys, picture)
    if set(kinds) & set(_EDITS):
        require_no_state(
            mllm, "A cut of attention (knockout, mean_value)", "use kinds=('removal',)"
        )
    windows = checked_windows(windows, mllm.n_layers)
    pairs = paired(mllm, problems, responses, forced=True, empty=empty, several=True)
    items = plan_items(pairs, steps, rows)
    found: list[dict[str, Any]] = []
    with attached(mllm.model):
        for chunk in batches(items, batch_size, "causal access", progress):
            batch = _Batch(mllm, chunk, keys, picture)
            found += batch.fixed(list(plan_cuts(batch.items, kinds, windows, mllm.n_layers)), rows)
            if generate:
                cuts = plan_cuts(batch.items, kinds, windows, mllm.n_layers)
                found += batch.regenerated(cuts, max_new_tokens)
    table = pd.DataFrame(found, columns=list(CausalAccess.columns)).assign(
        keys=keys if picture is None else f"picture {picture}"
    )
    return CausalAccess(table.astype({"flipped": "boolean"}), pairs.measured, skipped=pairs.skipped)


def _check_picture(
    problems: Sequence[Problem], kinds: Sequence[Kind], keys: Keys, picture: int | None
) -> None:
    if picture is None:
        return
    if keys != "image" or "removal" in kinds:
        raise MeasureError(
            f"picture={picture} cuts off one picture's tokens, which goes with keys='image' and "
            "without the kind 'removal', that takes all pictures away; leave one of them out."
        )
    lacking = next((one for one in problems if not 1 <= picture <= one.n_images), None)
    if lacking is not None:
        raise MeasureError(
            f"Item {lacking.id} has {lacking.n_images} pictures and no picture {picture}; number "
            "them from 1."
        )


class _Batch:
    """Items measured together."""

    def __init__(self, mllm: Mllm, items: Sequence[Item], keys: Keys, picture: int | None) -> None:
        self.mllm, self.items, self.keys, self.picture = mllm, items, keys, picture
        self.encoded = [encode_problem(mllm, one.problem, response=one.response) for one in items]

    def fixed(self, cuts: Sequence[Cut], rows: Rows) -> Iterator[dict[str, Any]]:
        """Table rows with the responses' own rationales."""
        state = keeps_state(self.mllm)
        forced = None if state else self._forced(self.encoded)
        before = self._in_turn(self.encoded) if forced is None else forced.read()
        for cut in cuts:
            if cut.kind == "removal" or forced is None:
                continue
            after = forced.read(*self._edits(cut, forced.packed, rows))
            for item, one, other in zip(self.items, before, after, strict=True):
                if cut.slot < len(item.ks):
                    row = _row(item, cut, item.ks[cut.slot], "fixed", rows)
                    yield row | _probabilities(item, one, other)
        removals = [cut for cut in cuts if cut.kind == "removal"][:1]
        for cut in removals:
            texts = [
                encode_problem(self.mllm, item.problem, response=one.response_ids, text_only=True)
                for item, one in zip(self.items, self.encoded, strict=True)
            ]
            after = self._in_turn(texts) if state else self._forced(texts).read()
            for item, one, other in zip(self.items, before, after, strict=True):
                row = _row(item, cut, item.n_steps, "fixed", "both")
                yield row | _probabilities(item, one, other)

    def regenerated(self, cuts: Iterable[Cut], max_new_tokens: int) -> Iterator[dict[str, Any]]:
        """Table rows with responses written again from step k on."""
        for cut in cuts:
            here = [at for at, item in enumerate(self.items) if cut.slot < len(item.ks)]
            items = [self.items[at] for at in here]
            prompts = [self._prompt(at, cut) for at in here]
            edits: list[Intervention | Revision] = []
            if cut.kind in _EDITS:
                # Padded on the left by generate(), so all prompts end at the last position, and
                # its row writes the first token.
                longest = max(len(prompt.input_ids) for prompt in prompts)
                rows = torch.zeros(len(here), longest, dtype=torch.bool)
                rows[:, -1] = True
                keys = torch.zeros_like(rows)
                for at, prompt in enumerate(prompts):
                    keys[at, self._keys(prompt) + longest - len(prompt.input_ids)] = True
                edits = [_EDITS[cut.kind](rows, keys, cut.layers, generated=True)]
            with intervening(*edits):
                written = respond(
                    self.mllm, prompts, max_new_tokens=max_new_tokens, batch_size=len(prompts)
                )
            for item, prompt, new in zip(items, prompts, written, strict=True):
                ids = (*prompt.response_ids, *new.ids)
                whole = replace(new, ids=ids, text=self.mllm.response_text(ids))
                answer = answer_row(item.problem, whole, mode="cot", form=self.mllm.format)[
                    "answer"
                ]
                row = _row(item, cut, item.ks[cut.slot], "regenerated", "both")
                yield row | _answers(item, item.answer, answer)

    def _forced(self, encoded: Sequence[Encoded]) -> ForcedAnswers:
        packed = pack(
            self.mllm,
            encoded,
            [item.tokens for item in self.items],
            steps=[[item.n_steps] for item in self.items],
            names=[item.problem.id for item in self.items],
        )
        return ForcedAnswers(self.mllm, packed, encoded)

    def _in_turn(self, encoded: Sequence[Encoded]) -> list[NDArray[np.float64]]:
        """What `ForcedAnswers` reads without edits, of models whose layers keep a state."""
        tokens, names = zip(*((item.tokens, item.problem.id) for item in self.items), strict=True)
        return final_answers(self.mllm, encoded, tokens, names)

    def _edits(self, cut: Cut, packed: Packed, rows: Rows) -> list[Intervention | Revision]:
        """The cut on a packed batch, whose branches hold the answers' cues."""
        if cut.kind not in _EDITS:
            return []
        chosen = torch.zeros(packed.inputs["input_ids"].shape, dtype=torch.bool)
        keys = torch.zeros_like(chosen)
        for at, (item, encoded) in enumerate(zip(self.items, self.encoded, strict=True)):
            if cut.slot >= len(item.ks):
                continue
            ends = encoded.layout.step_ends
            # The last row of the rationale predicts the cue: it is the answer's first row.
            if rows != "answer":
                chosen[at, ends[item.ks[cut.slot]] - 1 : ends[-1] - 1] = True
            if rows != "rationale":
                chosen[at, ends[-1] - 1] = True
                chosen[at, packed.base_length :] = True
            keys[at, self._keys(encoded)] = True
        return [_EDITS[cut.kind](chosen, keys, cut.layers)]

    def _keys(self, encoded: Encoded) -> Tensor:
        if self.picture is None:
            found = torch.as_tensor(getattr(encoded.layout, self.keys))
        else:
            found = torch.as_tensor(encoded.layout.pictures[self.picture - 1])
        if not len(found):
            raise MeasureError(
                f"A prompt has no {self.keys} tokens to cut off; choose other keys for this model."
            )
        return found

    def _prompt(self, at: int, cut: Cut) -> Encoded:
        """The prompt and the response's first k steps."""
        item, encoded = self.items[at], self.encoded[at]
        ids = prefix_ids(self.mllm, encoded, item.ks[cut.slot])
        if cut.kind == "removal":
            return encode_problem(self.mllm, item.problem, response=ids, text_only=True)
        end = encoded.prompt_length + len(ids)
        prompt = encoded.input_ids[: encoded.prompt_length]
        types = encoded.token_types
        if types is not None:
            types = torch.nn.functional.pad(types[: encoded.prompt_length], (0, len(ids)))
        layout = replace(
            encoded.layout,
            n_tokens=end,
            response=Span(encoded.prompt_length, end),
            think=None,
            steps=(),
            answer=None,
            cuts=(),
        )
        return replace(
            encoded,
            input_ids=torch.cat([prompt, torch.tensor(ids).to(prompt)]),
            token_types=types,
            layout=layout,
        )


def _row(item: Item, cut: Cut, k: int, rationale: str, rows: Rows) -> dict[str, Any]:
    return {
        "item": item.problem.id,
        "kind": cut.kind,
        "rows": rows,
        "first_layer": cut.window[0],
        "last_layer": cut.window[1],
        "k": k,
        "n_steps": item.n_steps,
        "rationale": rationale,
    }


def _answers(item: Item, before: str | None, after: str | None) -> dict[str, Any]:
    right = item.problem.answer
    return {
        "answer_before": before,
        "answer_after": after,
        "correct_before": before == right,
        "correct_after": after == right,
        "flipped": None if before is None else after != before,
        "delta_accuracy": float(before == right) - float(after == right),
    }


def _probabilities(
    item: Item, before: NDArray[np.float64], after: NDArray[np.float64]
) -> dict[str, Any]:
    names = item.problem.candidates
    own, right = int(before.argmax()), names.index(item.problem.answer)
    return _answers(item, names[own], names[int(after.argmax())]) | {
        "log_p_before": before[own],
        "log_p_after": after[own],
        "delta_log_p": before[own] - after[own],
        "log_p_right_before": before[right],
        "log_p_right_after": after[right],
        "delta_log_p_right": before[right] - after[right],
    }
