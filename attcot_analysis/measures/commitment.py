"""Commitment: when along its rationale a model decides on its answer."""

import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid
from scipy.special import softmax

from attcot_analysis.attention.packing import candidate_tokens, forced_readings
from attcot_analysis.errors import MeasureError, check_known
from attcot_analysis.measures._items import Empty, Response, Result, batches, paired
from attcot_analysis.measures.probed import check_max_steps, probed
from attcot_analysis.models import Encoded, Mllm, token_starts
from attcot_analysis.models.inputs import Shown
from attcot_analysis.problems import ParsedResponse, Problem, parse_response
from attcot_analysis.problems.formats import TAGS, ResponseFormat
from attcot_analysis.problems.problem import replaced
from attcot_analysis.problems.reading import states
from attcot_analysis.problems.steps import number_range
from attcot_analysis.stats.intervals import Interval, bootstrap_mean

Axis = Literal["auto", "k", "position"]
"""Of an average over items: steps written, or their share k/K."""

THRESHOLDS = (0.5, 0.8, 0.9)

PREMATURE = 0.25
"""A commitment position up to this is premature."""

LOW_MASS = 0.5
"""Candidates that have less than this together are not what the model would answer."""

Reading = Literal["closed", "text"]
"""Candidates with the closing tag, or their texts alone; see `commitment`."""


@dataclass(frozen=True)
class _Curve:
    """One item under one control: ``p`` and ``leaked`` are ``(n_probed, candidates)``.

    ``text`` is the same curve read without the closing tag, ``mass`` what the texts have together,
    ``(n_probed,)``; None in tables of earlier versions.
    """

    item: str
    control: str
    candidates: tuple[str, ...]
    steps: NDArray[np.int64]
    p: NDArray[np.float64]
    leaked: NDArray[np.bool_]
    text: "_Curve | None" = None
    mass: NDArray[np.float64] | None = None

    @property
    def final(self) -> str:
        return self.candidates[int(self.p[-1].argmax())]

    @property
    def n_steps(self) -> int:
        return int(self.steps[-1])

    @property
    def whole(self) -> bool:
        return len(self.steps) == self.n_steps + 1

    @property
    def position(self) -> NDArray[np.float64]:
        return self.steps / max(self.n_steps, 1)

    def of(self, candidate: str) -> NDArray[np.float64]:
        if candidate not in self.candidates:
            raise MeasureError(
                f"Item {self.item}: {candidate!r} is not among the table's candidates "
                f"{list(self.candidates)}; give the problems the table was made from."
            )
        return self.p[:, self.candidates.index(candidate)]


class Commitment(Result):
    """What `commitment` measured: when along its rationale a model decides on its answer."""

    name = "commitment"
    title = "Answer commitment"
    columns = ("item", "control", "step", "n_steps", "candidate", "log_p", "p", "leaked")

    def items(
        self,
        *,
        answers: Mapping[str, str] | None = None,
        thresholds: Sequence[float] = THRESHOLDS,
    ) -> pd.DataFrame:
        """Reduce the table to one row per item and control.

        Args:
            answers: Right answers by item id where they are not the problems' own (pictures of
                twins).
            thresholds: Probabilities θ for the stricter commitment steps.

        Returns:
            ``item``, ``control``, ``n_steps`` and

            * ``final``: most probable candidate after the last step (the first of equals);
              ``correct``: it is the right answer;
            * ``commitment_step``: τ, the first step from which on ``final`` stays the most
              probable, 0 to K; ``commitment_position``: τ/K, 0 when K = 0; ``premature``:
              position ≤ 0.25; ``resolution``: how far before τ the last probed step lies, 1
              where all are: the decision fell within so many steps up to τ, if the final answer
              stayed the most probable between probed steps that agree;
            * ``commitment_step_θ``, ``commitment_position_θ``: the same with p(final) ≥ θ as
              well; missing when the probability after the last step is below θ;
            * ``target``: the final answer of the item's own rationale where the table has it,
              else ``final``; ``area``: p_k(target) over k/K by the trapezoid rule (p_0 when
              K = 0), high when decided early; ``p0_final``: p_0(target). Because the target is
              the same, the areas of the controls can be held against the rationale's;
            * ``jump``: the largest increase p_k(target) − p_{k−1}(target) by a single step,
              negative if every step lowers it; ``jump_step``: that step, 1 to K, the first of
              equals; ``jump_position``: over K; with ``max_steps`` from one probed step to the
              next. All three are missing when K = 0;
            * ``p0_answer``, ``p0_habitual``: p_0 of the right and of the habitual answer
              (missing when the problem has none);
            * ``corrective``: wrong at k = 0 and right at the end; ``corruptive``: the reverse;
            * ``leak_step``: first step up to which the rationale states ``final``; missing if
              never;
            * ``commitment_position_null``: the commitment position to be expected if the most
              probable candidate were drawn anew after every step, see `random_position`;
            * ``p_end``: p_K(target), read without the closing tag where the table has that; of
              the control ``filler`` the p after as many dots as the
              rationale has tokens, hence of computing as long before k = 0 without a word;
            * in rows of the own rationale, where those controls were measured, p_0 being read
              without the closing tag where the table has that: ``p0_cue_spread``, largest minus
              smallest p_0(target) over the cues; ``cue_dependent``: the final answer differs
              between cues; ``p0_final_orders``: p_0(target) averaged over both orders of the
              options; ``order_dependent``: the final answer differs between them;
            * read without the closing tag, where the table has that: ``final_text``,
              ``commitment_position_text``, ``area_text``, ``p0_final_text`` as above, the target
              being ``final_text`` of the item's own rationale; ``candidate_mass0`` and
              ``candidate_mass_least``: what the candidates' texts have together at k = 0, and the
              least after any step.

        Raises:
            MeasureError: If an item is not among the problems, or their candidates are others.

        Source: reconstruction (arXiv 2606.01558); area as in ConfLens, arXiv 2609.35074, with
        probability in place of negative entropy.
        """
        rows = []
        for curve in self._curves:
            problem = self._problem(curve.item)
            answer = (answers or {}).get(curve.item, problem.answer)
            best = [curve.candidates[index] for index in curve.p.argmax(axis=1)]
            final, n_steps = curve.final, curve.n_steps
            holds = np.array([candidate == final for candidate in best])
            step = first_lasting(holds, curve.steps)
            earlier = curve.steps[curve.steps < step]
            target = self._targets.get(curve.item, final)
            jump, jump_step = largest_jump(curve.of(target), curve.steps)
            leaks = np.flatnonzero(curve.leaked[:, curve.candidates.index(final)])
            habitual = problem.habitual
            row: dict[str, object] = {
                "item": curve.item,
                "control": curve.control,
                "n_steps": n_steps,
                "final": final,
                "correct": final == answer,
                "commitment_step": int(step),
                "commitment_position": step / max(n_steps, 1),
                "premature": step / max(n_steps, 1) <= PREMATURE,
                "resolution": int(step - earlier[-1]) if len(earlier) else 1,
                "target": target,
                "area": curve_area(curve.of(target), curve.steps),
                "jump": jump,
                "jump_step": jump_step,
                "jump_position": jump_step / max(n_steps, 1),
                "p0_final": float(curve.of(target)[0]),
                "p_end": self._end(curve),
                "p0_answer": float(curve.of(answer)[0]),
                "p0_habitual": np.nan if habitual is None else float(curve.of(habitual)[0]),
                "corrective": best[0] != answer and final == answer,
                "corruptive": best[0] == answer and final != answer,
                "leak_step": float(curve.steps[leaks[0]]) if len(leaks) else np.nan,
                "commitment_position_null": random_position(curve.steps, len(curve.candidates)),
            }
            if curve.text is not None and curve.mass is not None:
                row |= self._read_as_text(curve.text) | {
                    "candidate_mass0": float(curve.mass[0]),
                    "candidate_mass_least": float(curve.mass.min()),
                }
            if curve.control == "rationale":
                row |= self._under_cues_and_orders(curve)
            for theta in thresholds:
                strict = first_lasting(holds & (curve.of(final) >= theta), curve.steps)
                row[f"commitment_step_{theta:g}"] = strict
                row[f"commitment_position_{theta:g}"] = strict / max(n_steps, 1)
            rows.append(row)
        return pd.DataFrame(rows)

    def curve(
        self,
        which: Literal["final", "answer", "habitual"] = "final",
        *,
        answers: Mapping[str, str] | None = None,
        reading: Reading = "closed",
        axis: Axis = "auto",
        points: int = 11,
        n_boot: int = 2000,
        seed: int = 0,
        level: float = 0.95,
    ) -> pd.DataFrame:
        """Average p_k over items, with intervals, on one axis.

        Args:
            which: Whose probability: ``"final"`` the final answer of the item's own rationale
                (of the control itself where the table has no ``"rationale"``), ``"answer"`` the
                right answer, ``"habitual"`` the habitual one (items without one are left out).
            answers: Right answers by item id where they are not the problems' own.
            reading: ``"closed"`` with the closing tag, ``"text"`` without it.
            axis: ``"k"``, steps written, for curves that all have the same K and all steps of it;
                ``"position"``,
                k/K, on which every item's curve is read by linear interpolation (as its area
                is), so that every item counts at every point; ``"auto"`` takes k where it is
                defined. To compare runs on one axis choose it.
            points: Points of the position axis, from 0 to 1.
            n_boot: Bootstrap resamples.
            seed: Seed of the bootstrap.
            level: Confidence level.

        Returns:
            One row per control and point: ``control``, ``k`` or ``position``, ``value``,
            ``low``, ``high``, ``n`` (items).

        Raises:
            MeasureError: As `items`, or if ``axis="k"`` and curves differ in K or lack steps.
        """
        read_as = self._texts() if reading == "text" else self._curves
        targets = self._text_targets if reading == "text" else self._targets
        whole = all(curve.whole for curve in read_as)
        n_steps = {curve.n_steps for curve in read_as}
        axis, places = curve_places(axis, n_steps, whole, points, "curves")
        values: dict[str, list[NDArray[np.float64]]] = {}
        for curve in read_as:
            wanted: str | None
            if which == "final":
                wanted = targets.get(curve.item, curve.final)
            else:
                problem = self._problem(curve.item)
                right = (answers or {}).get(curve.item, problem.answer)
                wanted = right if which == "answer" else problem.habitual
            if wanted is not None:
                read = np.interp(places, curve.position, curve.of(wanted))
                values.setdefault(curve.control, []).append(read)
        rows = []
        for control, curves in values.items():
            means = [
                bootstrap_mean(column, n_boot=n_boot, seed=seed, level=level)
                for column in np.array(curves).T
            ]
            rows += [(control, *row) for row in curve_rows(axis, places, means)]
        return pd.DataFrame(rows, columns=["control", axis, "value", "low", "high", "n"])

    def steps(
        self,
        which: Literal["final", "answer", "habitual"] = "final",
        *,
        control: str = "rationale",
        lengths: Literal["common", "all"] = "common",
    ) -> pd.DataFrame:
        """One candidate's probability after every step, item by item.

        Args:
            which: The final answer of the item's own rationale, the right one, or the habitual
                one (items without one are left out).
            control: Whose rationale.
            lengths: ``"common"`` leaves out items whose number of steps is not the most common
                one, so that every item counts at every k; ``"all"`` keeps them, for
                `at_positions`.

        Returns:
            ``item``, ``k``, ``value``.
        """
        target: Mapping[str, str | None] = self._targets
        if which != "final":
            target = {
                problem.id: problem.answer if which == "answer" else problem.habitual
                for problem in self.problems.values()
            }
        rows = self.table[self.table["control"] == control]
        rows = rows[rows["candidate"] == rows["item"].map(target)]
        if lengths == "common":
            rows = rows[rows["n_steps"] == rows["n_steps"].mode().iloc[0]]
        return rows.rename(columns={"step": "k", "p": "value"})[["item", "k", "value"]]

    def _check(self) -> None:
        table = self.table.sort_values("step", kind="stable")
        groups = table.groupby(["item", "control"], sort=False)
        self._curves = [_curve(str(item), str(control), part) for (item, control), part in groups]
        self._targets = {
            curve.item: curve.final for curve in self._curves if curve.control == "rationale"
        }
        self._by_item: dict[str, list[_Curve]] = {}
        for curve in self._curves:
            self._by_item.setdefault(curve.item, []).append(curve)
        self._text_targets = {
            curve.item: curve.text.final
            for curve in self._curves
            if curve.control == "rationale" and curve.text is not None
        }

    def _texts(self) -> list[_Curve]:
        texts = [curve.text for curve in self._curves if curve.text is not None]
        if not texts:
            raise MeasureError(
                "The table commitment has no column p_text, so there is no reading without the "
                "closing tag; measure again, or use reading='closed'."
            )
        return texts

    def _read_as_text(self, curve: _Curve) -> dict[str, object]:
        """An item's row, of its curve without the closing tag."""
        target = self._text_targets.get(curve.item, curve.final)
        final = curve.candidates.index(curve.final)
        step = first_lasting(curve.p.argmax(axis=1) == final, curve.steps)
        return {
            "final_text": curve.final,
            "commitment_position_text": step / max(curve.n_steps, 1),
            "area_text": curve_area(curve.of(target), curve.steps),
            "p0_final_text": float(curve.of(target)[0]),
        }

    def _end(self, curve: _Curve) -> float:
        """The target's p after the last step, without the closing tag where that was read."""
        if curve.text is None:
            return float(curve.of(self._targets.get(curve.item, curve.final))[-1])
        target = self._text_targets.get(curve.item, curve.text.final)
        return float(curve.text.of(target)[-1])

    def _under_cues_and_orders(self, own: _Curve) -> dict[str, object]:
        """How far an item's answers hang on the words of the cue and the order of the options."""

        def read(curve: _Curve) -> _Curve:
            return curve if curve.text is None else curve.text

        target = read(own).final
        others = self._by_item[own.item]
        by_cue = [read(one) for one in others if one.control in ("rationale", *CUES)]
        by_order = [read(one) for one in others if one.control in ("rationale", "permuted")]
        row: dict[str, object] = {}
        if len(by_cue) > 1:
            p0 = [one.of(target)[0] for one in by_cue]
            row["p0_cue_spread"] = float(max(p0) - min(p0))
            row["cue_dependent"] = any(one.final != target for one in by_cue)
        if len(by_order) > 1:
            row["p0_final_orders"] = float(np.mean([one.of(target)[0] for one in by_order]))
            row["order_dependent"] = any(one.final != target for one in by_order)
        return row

    def _warnings(self) -> list[str]:
        """Say where the candidates are not what the model would answer.

        So it is where their texts have together less than `LOW_MASS`: p, which is over the
        candidates, then compares answers of which the model would give none.
        """
        masses = [curve.mass for curve in self._curves if curve.mass is not None]
        low = [mass < LOW_MASS for mass in masses]
        n_low = sum(int(one.sum()) for one in low)
        if not n_low:
            return []
        return [
            f"At {n_low} of {sum(map(len, low))} forced answers ({sum(one[0] for one in low)} "
            f"of {len(low)} at k = 0) the model would more likely say something else than any "
            f"candidate (they have less than {LOW_MASS:g} together), and p there compares what it "
            "would not say."
        ]

    def _headline(self) -> dict[str, ArrayLike]:
        every = self.items()
        own = every[every["control"] == "rationale"] if self._targets else every
        shown = {
            "p(final) at k = 0, without the closing tag": "p0_final_text",
            "candidate mass at k = 0": "candidate_mass0",
            "p(final) at k = 0, with it": "p0_final",
            "commitment position": "commitment_position",
            "commitment position of random argmaxes": "commitment_position_null",
            "area": "area",
            "premature": "premature",
            "corrective": "corrective",
            "corruptive": "corruptive",
            "p(final) at k = 0, spread over cues": "p0_cue_spread",
            "final answer hangs on the cue": "cue_dependent",
            "p(final) at k = 0, over both orders": "p0_final_orders",
            "final answer hangs on the order": "order_dependent",
        }
        numbers: dict[str, ArrayLike] = {
            name: own[column] for name, column in shown.items() if column in own
        }
        filler = every[every["control"] == "filler"]
        if self._targets and len(filler):
            numbers["p(final) after as many dots"] = filler["p_end"]
        return numbers


def _curve(item: str, control: str, part: pd.DataFrame) -> _Curve:
    """One item's rows under one control, in order of steps."""
    n_steps = int(part["n_steps"].iloc[0])
    n_k = int(part["n_probed"].iloc[0]) if "n_probed" in part else n_steps + 1
    steps = np.unique(part["step"].to_numpy(dtype=np.int64))
    candidates = part["candidate"].to_numpy()[: max(len(part) // n_k, 1)]
    whole = (
        len(part) == n_k * len(candidates)
        and len(set(candidates)) == len(candidates)
        and len(steps) == n_k
        and (steps[0], steps[-1]) == (0, n_steps)
        and (part["step"].to_numpy() == np.repeat(steps, len(candidates))).all()
        and (part["candidate"].to_numpy() == np.tile(candidates, n_k)).all()
    )
    if not whole:
        raise MeasureError(
            f"Item {item}, {control}: the table does not hold each of its candidates once "
            f"per step from 0 to {n_steps}{'' if n_k > n_steps else f' ({n_k} probed)'}; pass the "
            "rows of one run, and all of them."
        )
    curve = _Curve(
        item,
        control,
        tuple(map(str, candidates)),
        steps,
        part["p"].to_numpy(dtype=np.float64).reshape(n_k, -1),
        part["leaked"].to_numpy(dtype=bool).reshape(n_k, -1),
    )
    if "p_text" not in part or part["p_text"].isna().any():
        return curve
    text = part["p_text"].to_numpy(dtype=np.float64).reshape(n_k, -1)
    mass = part["candidate_mass"].to_numpy(dtype=np.float64).reshape(n_k, -1)[:, 0]
    return replace(curve, text=replace(curve, p=text), mass=mass)


def random_position(steps: NDArray[np.int64], n_candidates: int) -> float:
    """Commitment position to be expected if the most probable candidate were drawn at random.

    Each of the n candidates alike, anew after each probed step: then it is the last one from the
    j-th of J + 1 probed steps on with probability n^−(J − j). With all steps probed and K of them,
    that makes 1 − (1 − n^−K) / (n − 1) K: 0.90 for two steps and six candidates. What is measured
    says something by its distance from this. 0 when K = 0.

    Args:
        steps: ``(n_probed,)``, 0 and K among them, ascending.
        n_candidates: How many candidates there are.
    """
    before = float(n_candidates) ** -np.arange(len(steps) - 1, 0, -1.0)
    return float(np.diff(steps) @ (1 - before)) / max(float(steps[-1]), 1.0)


def first_lasting(holds: NDArray[np.bool_], steps: NDArray[np.int64] | None = None) -> float:
    """First step from which on a condition holds to the end; NaN if it does not at the end.

    Args:
        holds: ``(n,)``, whether it holds after each step.
        steps: ``(n,)``, their numbers; default 0 to n − 1.
    """
    if holds.all():
        return 0.0
    last_failure = int(np.flatnonzero(~holds)[-1])
    if last_failure + 1 == len(holds):
        return float("nan")
    return float(last_failure + 1 if steps is None else steps[last_failure + 1])


def curve_places(
    axis: Axis, n_steps: Collection[int], whole: bool, points: int, what: str
) -> tuple[Axis, NDArray[np.float64]]:
    """The axis of an average over items, and where on it, as k/K, every item is read.

    Args:
        axis: As asked for.
        n_steps: The K that occur.
        whole: Whether every item was read after all its steps.
        points: Points of the position axis.
        what: What has the steps, for the error.

    Raises:
        MeasureError: If ``axis="k"`` and items differ in K or lack steps.
    """
    shared = len(n_steps) == 1 and whole
    if axis == "auto":
        axis = "k" if shared else "position"
    if axis == "k" and not shared:
        of = "some of " if len(n_steps) == 1 else ""
        raise MeasureError(
            f"The {what} have {of}{', '.join(map(str, sorted(n_steps)))} steps, so they share no "
            "axis of steps; use axis='position'."
        )
    return axis, np.linspace(0.0, 1.0, max(n_steps) + 1 if axis == "k" else points)


def curve_rows(
    axis: Axis, places: NDArray[np.float64], means: Sequence[Interval]
) -> list[tuple[float, float, float, float, int]]:
    """One row per point of a curve: its place on the axis, value, low, high, n."""
    return [
        (at if axis == "k" else float(place), mean.value, mean.low, mean.high, mean.n)
        for at, (place, mean) in enumerate(zip(places, means, strict=True))
    ]


def curve_area(p: NDArray[np.float64], steps: NDArray[np.int64] | None = None) -> float:
    """Area under values over k/K, by the trapezoid rule; the value itself if K = 0.

    Args:
        p: ``(n,)``, the values.
        steps: ``(n,)``, at which k, 0 and K among them; default 0 to K.
    """
    if len(p) == 1:
        return float(p[0])
    # Equal widths as one number: their differences would change the last digit.
    if steps is None or len(steps) == steps[-1] + 1:
        return float(trapezoid(p, dx=1 / (len(p) - 1)))
    return float(trapezoid(p, x=steps / steps[-1]))


def largest_jump(
    p: NDArray[np.float64], steps: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """The largest increase of p from one step to the next, and behind which step; NaN if K = 0.

    Args:
        p: ``(n,)``, the values.
        steps: ``(n,)``, after which steps; default 0 to K.
    """
    if len(p) == 1:
        return float("nan"), float("nan")
    rises = np.diff(p)
    place = int(rises.argmax()) + 1
    return float(rises.max()), float(place if steps is None else steps[place])


FILLER = " ..."
"""Text whose tokens replace a step's (Lanham et al., arXiv 2307.13702, use the same)."""


_NUMBERING = re.compile(
    r"^[ \t#>*_(-]*(?:step[ \t]*)?\d+[*_]*[.:)](?=[\s*_]|$)", re.IGNORECASE | re.MULTILINE
)


def filler_rationale(mllm: Mllm, encoded: Encoded) -> Encoded:
    """Replace the words of every step by dots, token for token.

    A step keeps its number and its line end, so the filler has the same number of steps, the
    same number of tokens in each, and the same layout.

    Raises:
        MeasureError: If the tokenizer cannot write the filler without letters or digits.
    """
    dots = list(mllm.tokenizer(FILLER, add_special_tokens=False)["input_ids"])
    if not dots or any(char.isalnum() for char in mllm.tokenizer.decode(dots)):
        raise MeasureError(
            f"The tokenizer cannot write {FILLER!r}, so there is no filler rationale; leave "
            "'filler' out of the controls."
        )
    ids = encoded.input_ids.clone()
    cuts = encoded.layout.cuts
    for span, cut in zip(encoded.layout.steps, cuts[1:], strict=True):
        step = ids[span.start : span.stop].tolist()
        kept = {span.start + at for at in _number_tokens(mllm, step)}
        # Tokens that hold a part of the tags around the rationale stay as they are.
        start = max(span.start, cuts[0].stop + bool(cuts[0].rest))
        stop = min(span.stop - _ends_line(mllm, step), cut.stop)
        words = [at for at in range(start, stop) if at not in kept]
        fill = (dots * (len(words) // len(dots) + 1))[: len(words)]
        ids[words] = torch.tensor(fill, dtype=ids.dtype, device=ids.device)
    return replace(encoded, input_ids=ids)


def other_items(answers: Sequence[str], n_steps: Sequence[int], names: Sequence[str]) -> list[int]:
    """Pair every item with the one whose rationale it gets as a control.

    The partner is the next item, counted cyclically, with a different answer and at least as
    many steps; where no such item has enough steps, the next one of those with the most steps.

    Raises:
        MeasureError: If all other items have the same answer.
    """
    n = len(answers)
    partners = []
    for at, (answer, needed, name) in enumerate(zip(answers, n_steps, names, strict=True)):
        best: int | None = None
        for other in (place % n for place in range(at + 1, at + n)):
            if answers[other] != answer and (best is None or n_steps[other] > n_steps[best]):
                best = other
                if n_steps[best] >= needed:
                    break
        if best is None:
            raise MeasureError(
                f"Item {name}: no other item has a different answer, so there is no rationale "
                "for the other_item control; add items or leave 'other_item' out of the controls."
            )
        partners.append(best)
    return partners


def other_rationales(
    problems: Sequence[Problem],
    responses: Sequence[ParsedResponse],
    format: ResponseFormat = TAGS,
) -> list[str]:
    """Per item the text of its partner's response (see `other_items`), up to its own K.

    All of the partner's response where no steps can be told in that part of it, as in lines of
    digits whose closing tag is missing.

    Raises:
        MeasureError: If all other items have the same answer.
    """
    n_steps = [len(response.steps) for response in responses]
    partners = other_items([p.answer for p in problems], n_steps, [p.id for p in problems])
    texts = []
    for partner, wanted in zip(partners, n_steps, strict=True):
        source = responses[partner]
        part = source.text[: source.steps[:wanted][-1][1]]
        texts.append(part if parse_response(part, format).steps else source.text)
    return texts


def prefix_texts(mllm: Mllm, encoded: Encoded, steps: Sequence[int] | None = None) -> list[str]:
    """Decode the rationale up to every step, or up to some: one text each, that of step 0 empty.

    Step numbers are taken out, so that they are not mistaken for numeric answers.
    """
    first, *cuts = encoded.layout.cuts
    texts = []
    for k in range(len(cuts) + 1) if steps is None else steps:
        if k == 0:
            texts.append("")
            continue
        cut = cuts[k - 1]
        ids = encoded.input_ids[first.stop : cut.stop].tolist()
        text = str(mllm.tokenizer.decode(ids))[len(first.rest) :] + cut.rest
        texts.append(_NUMBERING.sub(" ", text))
    return texts


def _number_tokens(mllm: Mllm, step: Sequence[int]) -> list[int]:
    """The places of a step's tokens that write nothing but its number."""
    text, starts = token_starts(mllm.tokenizer, step)
    first, last = number_range(text)
    ends = [*starts[1:].tolist(), len(text)]
    return [at for at, end in enumerate(ends) if first <= starts[at] and end <= last]


def _ends_line(mllm: Mllm, step: Sequence[int]) -> int:
    text = mllm.tokenizer.decode(step[-1:])
    return int(text.endswith("\n") and not any(char.isalnum() for char in text))


CONTROLS = ("rationale", "filler", "other_item")
"""The item's own rationale, and the two rationales it is held against."""

CUES = ("cue_2", "cue_3")
"""The own rationale, asked for the answer in the other words that a format has for its cue."""

EVERY_CONTROL = (*CONTROLS, *CUES, "permuted")
"""All that can be asked for."""


def commitment(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Response],
    *,
    images: Sequence[Shown] | None = None,
    controls: Sequence[str] = CONTROLS,
    others: Sequence[str] | None = None,
    max_steps: int | None = None,
    empty: Empty = "error",
    batch_size: int = 16,
    progress: bool = False,
) -> Commitment:
    """Force an answer after every step and read the candidates' probabilities.

    Controls: ``"rationale"`` is the response's own; ``"filler"`` replaces the words of each step
    by dots, same number of steps and tokens (what mere length does); ``"other_item"`` puts in
    the first K steps of the next item (cyclic) with a different answer and at least K steps, or
    all steps of the longest such rationale if none has K (what any rationale does). Not measured
    unless asked for: ``"cue_2"`` and ``"cue_3"`` force the answers after the own rationale by the
    other cues of the format (what hangs on its wording), and ``"permuted"`` shows the options in
    another order, in formats that name them by letters (what hangs on the letter): each candidate
    moves by as many places as the item's id says, so that all get another letter. A rationale that
    names letters does not fit that order.

    Args:
        mllm: The model.
        problems: The items.
        responses: Per item the response, as token ids (what the model wrote) or as text.
        images: Other pictures to show instead of the items' own, e.g. of their twins.
        controls: Any of ``"rationale"``, ``"filler"``, ``"other_item"``, ``"cue_2"``, ``"cue_3"``,
            ``"permuted"``; each is a forward pass.
        others: Per item the rationale that ``"other_item"`` puts in, where partners are to be
            sought among more items than these; see `other_rationales`.
        max_steps: Force answers after at most so many steps, 0 and K among them and the others
            evenly by tokens written (see `probed_steps`), for long rationales: without it memory
            grows with their number. Default after all.
        empty: What to do with items that cannot be measured, because their response has no
            rationale step or they are open questions: raise an error, or leave them out.
        batch_size: Items per forward pass; each pass holds all forced answers of its items.
        progress: Show a progress bar.

    Returns:
        A result whose table has one row per item, control, step and candidate: ``item``,
        ``control``, ``step`` (0 to ``n_steps``), ``n_steps``, ``candidate``, ``log_p`` (nats; of
        the candidate's whole text with the closing tag, wherever the tokenizer cuts it, from the
        last token on that all candidates share), ``p`` (softmax of ``log_p`` over the
        candidates), ``leaked`` (the rationale up to this step states this candidate as a word,
        so its probability may be read off the text); and without the closing tag ``log_p_text``
        (nats; of the candidate's text and of anything behind it but a letter or a digit, which
        would make another word of it; what begins with several candidates counts for the longest),
        ``p_text`` (softmax of it over the candidates) and ``candidate_mass`` (the sum of
        exp(log_p_text) over the candidates: how probable it is that any of them is said). With
        ``max_steps`` also ``n_probed``, after how many steps an answer was forced.

    Raises:
        MeasureError: If a response has no rationale step (``empty="error"``), candidates
            tokenise ambiguously, a control cannot be built, or logits are not finite. Responses,
            candidates and pairing are checked before the first forward pass.

    Source: reconstruction of the premature answer commitment of arXiv 2606.01558, whose formulas
    are not public; early answering and filler as in Lanham et al., arXiv 2307.13702.
    """
    check_max_steps(max_steps)
    asked = asked_by(mllm, controls)
    items = paired(mllm, problems, responses, images=images, forced=True, empty=empty, several=True)
    tokens = {at: candidate_tokens(mllm, problems[at].candidates) for at in items.places}
    partners: dict[int, str] = {}
    if "other_item" in controls:
        if others is None:
            own_texts = list(items.parsed.values())
            texts = other_rationales(items.measured, own_texts, mllm.format)
        else:
            texts = [others[at] for at in items.places]
        partners = dict(zip(items.places, texts, strict=True))
    frames = []
    for chunk in batches(items.places, batch_size, "commitment", progress):
        own = [items.encode(at) for at in chunk]
        for control in controls:
            shown = [problems[at] for at in chunk]
            inputs = [tokens[at] for at in chunk]
            if control == "rationale":
                encoded = own
            elif control == "filler":
                encoded = [filler_rationale(mllm, item) for item in own]
            elif control == "other_item":
                encoded = [items.encode(at, partners[at]) for at in chunk]
            else:
                if control == "permuted":
                    shown = [_permuted(one) for one in shown]
                by_cue = replace(items, mllm=asked[control])
                encoded = [
                    by_cue.encode(at, problem=one) for at, one in zip(chunk, shown, strict=True)
                ]
                inputs = [candidate_tokens(asked[control], one.candidates) for one in shown]
            names = [problems[at].id for at in chunk]
            steps = [probed(item, max_steps) for item in encoded]
            read = forced_readings(
                mllm,
                encoded,
                inputs,
                steps=steps,
                names=names,
                apart=max_steps is not None,
            )
            every = zip(chunk, shown, encoded, steps, read, strict=True)
            for at, seen, item, ks, (closed, text) in every:
                place = [seen.candidates.index(one) for one in problems[at].candidates]
                both = closed.double().numpy()[:, place], text.numpy()[:, place]
                rows = _rows(problems[at], control, ks, *both, prefix_texts(mllm, item, ks))
                frames.append(rows if max_steps is None else rows.assign(n_probed=len(ks)))
    table = pd.concat(frames, ignore_index=True)
    return Commitment(table, items.measured, skipped=items.skipped)


def asked_by(mllm: Mllm, controls: Sequence[str]) -> dict[str, Mllm]:
    """By control the model with the cue that it forces answers by.

    Raises:
        MeasureError: If a control is unknown, named twice or none of the model's format.
    """
    check_known(list(controls), EVERY_CONTROL, f"Controls are {list(controls)}")
    if len(set(controls)) < len(controls):
        raise MeasureError(f"Controls are {list(controls)}; name each once.")
    if "permuted" in controls and mllm.format.options != "letters":
        raise MeasureError(
            f"The format {mllm.format.name} lists no options by letters, so there is no order to "
            "change; leave 'permuted' out of the controls or use a format with letters."
        )
    return {control: _asked_by(mllm, control) for control in controls}


def _asked_by(mllm: Mllm, control: str) -> Mllm:
    if control not in CUES:
        return mllm
    cues = mllm.format.cues
    if len(cues) <= CUES.index(control):
        raise MeasureError(
            f"The format {mllm.format.name} has {len(cues)} other cues; give it {len(CUES)} under "
            f"cues, or leave {control!r} out of the controls."
        )
    form = mllm.format.model_copy(update={"cue": cues[CUES.index(control)]})
    return replace(mllm, format=form)


def _permuted(problem: Problem) -> Problem:
    """The same problem with its options in another order, in which none keeps its letter."""
    n = len(problem.candidates)
    by = 1 + zlib.crc32(problem.id.encode()) % (n - 1)
    return replaced(problem, candidates=(*problem.candidates[by:], *problem.candidates[:by]))


def _rows(
    problem: Problem,
    control: str,
    steps: Sequence[int],
    log_p: NDArray[np.float64],
    log_p_text: NDArray[np.float64],
    texts: Sequence[str],
) -> pd.DataFrame:
    n_k, n_candidates = log_p.shape
    mass = np.exp(log_p_text).sum(axis=1)
    return pd.DataFrame(
        {
            "item": problem.id,
            "control": control,
            "step": np.repeat(np.array(steps), n_candidates),
            "n_steps": steps[-1],
            "candidate": list(problem.candidates) * n_k,
            "log_p": log_p.ravel(),
            "p": softmax(log_p, axis=1).ravel(),
            "leaked": [states(text, c) for text in texts for c in problem.candidates],
            "log_p_text": log_p_text.ravel(),
            "p_text": softmax(log_p_text, axis=1).ravel(),
            "candidate_mass": np.repeat(mass, n_candidates),
        }
    )
