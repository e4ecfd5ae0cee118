"""Commitment tables reduced: to one row per item, and to curves with intervals."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from attcot_analysis.errors import MeasureError
from attcot_analysis.problems import Problem
from attcot_analysis.stats.intervals import bootstrap_mean

THRESHOLDS = (0.5, 0.8, 0.9)
PREMATURE = 0.25
"""A commitment position up to this is premature."""
COLUMNS = ("item", "control", "step", "n_steps", "candidate", "p", "leaked")
"""What a commitment table must hold."""


@dataclass(frozen=True)
class _Curve:
    """One item under one control: ``p`` and ``leaked`` are ``(K + 1, candidates)``."""

    item: str
    control: str
    candidates: tuple[str, ...]
    p: NDArray[np.float64]
    leaked: NDArray[np.bool_]

    @property
    def final(self) -> str:
        return self.candidates[int(self.p[-1].argmax())]

    def of(self, candidate: str) -> NDArray[np.float64]:
        if candidate not in self.candidates:
            raise MeasureError(
                f"Item {self.item}: {candidate!r} is not among the table's candidates "
                f"{list(self.candidates)}; give the problems the table was made from."
            )
        return self.p[:, self.candidates.index(candidate)]


def commitment_items(
    table: pd.DataFrame,
    problems: Iterable[Problem],
    *,
    answers: Mapping[str, str] | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
) -> pd.DataFrame:
    """Reduce a commitment table to one row per item and control.

    Args:
        table: From `commitment`, one run.
        problems: The items, for their right and habitual answers.
        answers: Right answers by item id where they are not the problems' own (pictures of
            twins).
        thresholds: Probabilities θ for the stricter commitment steps.

    Returns:
        ``item``, ``control``, ``n_steps`` and

        * ``final``: most probable candidate after the last step (the first of equals);
          ``correct``: it is the right answer;
        * ``commitment_step``: τ, the first step from which on ``final`` stays the most probable,
          0 to K; ``commitment_position``: τ/K, 0 when K = 0; ``premature``: position ≤ 0.25;
        * ``commitment_step_θ``, ``commitment_position_θ``: the same with p(final) ≥ θ as well;
          missing when the probability after the last step is below θ;
        * ``target``: the final answer of the item's own rationale where the table has it, else
          ``final``; ``area``: p_k(target) over k/K by the trapezoid rule (p_0 when K = 0), high
          when decided early; ``p0_final``: p_0(target). Because the target is the same, the
          areas of the controls can be held against the rationale's;
        * ``p0_answer``, ``p0_habitual``: p_0 of the right and of the habitual answer (missing
          when the problem has none);
        * ``corrective``: wrong at k = 0 and right at the end; ``corruptive``: the reverse;
        * ``leak_step``: first step up to which the rationale states ``final``; missing if never.

    Raises:
        MeasureError: If the table lacks columns or steps, holds several runs, or does not fit
            the problems.

    Source: reconstruction (arXiv 2606.01558); area as in ConfLens, arXiv 2609.35074, with
    probability in place of negative entropy.
    """
    curves = list(_curves(table))
    targets = _targets(curves)
    known = {problem.id: problem for problem in problems}
    rows = []
    for curve in curves:
        problem = _problem(known, curve.item)
        answer = (answers or {}).get(curve.item, problem.answer)
        best = [curve.candidates[index] for index in curve.p.argmax(axis=1)]
        final, n_steps = curve.final, len(best) - 1
        holds = np.array([candidate == final for candidate in best])
        step = _first_lasting(holds)
        target = targets.get(curve.item, final)
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
            "target": target,
            "area": _area(curve.of(target)),
            "p0_final": float(curve.of(target)[0]),
            "p0_answer": float(curve.of(answer)[0]),
            "p0_habitual": np.nan if habitual is None else float(curve.of(habitual)[0]),
            "corrective": best[0] != answer and final == answer,
            "corruptive": best[0] == answer and final != answer,
            "leak_step": float(leaks[0]) if len(leaks) else np.nan,
        }
        for theta in thresholds:
            strict = _first_lasting(holds & (curve.of(final) >= theta))
            row[f"commitment_step_{theta:g}"] = strict
            row[f"commitment_position_{theta:g}"] = strict / max(n_steps, 1)
        rows.append(row)
    return pd.DataFrame(rows)


def commitment_curve(
    table: pd.DataFrame,
    problems: Iterable[Problem] = (),
    *,
    which: Literal["final", "answer", "habitual"] = "final",
    answers: Mapping[str, str] | None = None,
    axis: Literal["auto", "k", "position"] = "auto",
    points: int = 11,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Average p_k over items, with intervals, on one axis.

    Args:
        table: From `commitment`, one run.
        problems: The items; needed for ``"answer"`` and ``"habitual"``.
        which: Whose probability: ``"final"`` the final answer of the item's own rationale (of
            the control itself where the table has no ``"rationale"``), ``"answer"`` the right
            answer, ``"habitual"`` the habitual one (items without one are left out).
        answers: Right answers by item id where they are not the problems' own.
        axis: ``"k"``, steps written, for curves that all have the same K; ``"position"``, k/K,
            on which every item's curve is read by linear interpolation (as its area is), so that
            every item counts at every point; ``"auto"`` takes k where it is defined. To compare
            runs on one axis choose it.
        points: Points of the position axis, from 0 to 1.
        n_boot: Bootstrap resamples.
        seed: Seed of the bootstrap.
        level: Confidence level.

    Returns:
        One row per control and point: ``control``, ``k`` or ``position``, ``value``, ``low``,
        ``high``, ``n`` (items).

    Raises:
        MeasureError: As `commitment_items`, or if ``axis="k"`` and curves differ in K.
    """
    curves = list(_curves(table))
    targets = _targets(curves)
    known = {problem.id: problem for problem in problems}
    lengths = {len(curve.p) for curve in curves}
    if axis == "auto":
        axis = "k" if len(lengths) == 1 else "position"
    if axis == "k" and len(lengths) > 1:
        raise MeasureError(
            f"The curves have {', '.join(str(n - 1) for n in sorted(lengths))} steps, so they "
            "share no axis of steps; use axis='position'."
        )
    places = np.linspace(0.0, 1.0, max(lengths) if axis == "k" else points)
    values: dict[str, list[NDArray[np.float64]]] = {}
    for curve in curves:
        wanted: str | None
        if which == "final":
            wanted = targets.get(curve.item, curve.final)
        else:
            problem = _problem(known, curve.item)
            right = (answers or {}).get(curve.item, problem.answer)
            wanted = right if which == "answer" else problem.habitual
        if wanted is not None:
            position = np.arange(len(curve.p)) / max(len(curve.p) - 1, 1)
            read = np.interp(places, position, curve.of(wanted))
            values.setdefault(curve.control, []).append(read)
    rows = []
    for control, found in values.items():
        for index, column in enumerate(np.array(found).T):
            interval = bootstrap_mean(column, n_boot=n_boot, seed=seed, level=level)
            place = index if axis == "k" else float(places[index])
            rows.append((control, place, interval.value, interval.low, interval.high, interval.n))
    return pd.DataFrame(rows, columns=["control", axis, "value", "low", "high", "n"])


def _curves(table: pd.DataFrame) -> Iterator[_Curve]:
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing or table.empty:
        raise MeasureError(
            f"The commitment table is empty or lacks {missing}; make it with commitment()."
        )
    table = table.sort_values("step", kind="stable")
    for key, part in table.groupby(["item", "control"], sort=False):
        item, control = map(str, key)
        n_k = int(part["n_steps"].iloc[0]) + 1
        candidates = part["candidate"].to_numpy()[: max(len(part) // n_k, 1)]
        whole = (
            len(part) == n_k * len(candidates)
            and len(set(candidates)) == len(candidates)
            and (part["step"].to_numpy() == np.repeat(np.arange(n_k), len(candidates))).all()
            and (part["candidate"].to_numpy() == np.tile(candidates, n_k)).all()
        )
        if not whole:
            raise MeasureError(
                f"Item {item}, {control}: the table does not hold each of its candidates once "
                f"per step from 0 to {n_k - 1}; pass the rows of one run, and all of them."
            )
        yield _Curve(
            item,
            control,
            tuple(map(str, candidates)),
            part["p"].to_numpy(dtype=np.float64).reshape(n_k, -1),
            part["leaked"].to_numpy(dtype=bool).reshape(n_k, -1),
        )


def _targets(curves: Iterable[_Curve]) -> dict[str, str]:
    return {curve.item: curve.final for curve in curves if curve.control == "rationale"}


def _problem(known: Mapping[str, Problem], item: str) -> Problem:
    if item not in known:
        raise MeasureError(
            f"Item {item} of the commitment table is not among the {len(known)} problems given; "
            "give the problems the table was made from."
        )
    return known[item]


def _first_lasting(holds: NDArray[np.bool_]) -> float:
    """First index from which on a condition holds to the end; NaN if it does not at the end."""
    if holds.all():
        return 0.0
    last_failure = int(np.flatnonzero(~holds)[-1])
    return float(last_failure + 1) if last_failure + 1 < len(holds) else float("nan")


def _area(p: NDArray[np.float64]) -> float:
    return float(p[0]) if len(p) == 1 else float(trapezoid(p, dx=1 / (len(p) - 1)))
