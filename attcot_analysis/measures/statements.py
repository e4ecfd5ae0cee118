"""Perceptions: is what the steps of a rationale say of the picture true?

Held against scenes that are known, and boxes against evidence boxes; nothing is judged by a model.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures._items import Result, refuse_several
from attcot_analysis.problems import Problem
from attcot_analysis.problems.data.clevr import ATTRIBUTES
from attcot_analysis.problems.written_boxes import Unit, iou, unit_of, written_boxes
from attcot_analysis.stats.catalogue import METRICS
from attcot_analysis.stats.crossed import step_curve

Truth = Callable[[Problem, str], Sequence[bool | None]]
"""Problem and a step's text → per statement in it whether it is true; ``None``: cannot be told."""

SCENE = "scene"
"""Where `Problem.metadata` holds the objects of the picture, as JSON: a list of attributes."""

_SAME = {
    **{"grey": "gray", "big": "large", "tiny": "small", "little": "small"},
    **{"shiny": "metal", "metallic": "metal", "matte": "rubber"},
    **{"ball": "sphere", "block": "cube"},
}
_VALUES = tuple(value for values in ATTRIBUTES.values() for value in values)
_COUNTS = {
    **{"no": 0, "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6},
    **{"seven": 7, "eight": 8, "nine": 9, "ten": 10},
}
_KINDS = (*ATTRIBUTES["shape"], "ball", "block", "object", "thing")
_CLAIM = re.compile(
    r"(?P<not>(?:\b(?:not|if|whether|without|neither|nor|never|any|no\s+other)|n['\u2019]t"
    r"|\b(?:at\s+(?:least|most)|(?:more|fewer|less)\s+than))\s+(?:\w+\s+){0,2})?"
    rf"(?:\b(?P<count>\d+|a|an|the|other|another|{'|'.join(_COUNTS)})\s+)?"
    rf"(?P<words>(?:\b(?:{'|'.join([*_VALUES, *_SAME])}),?\s+){{0,4}})"
    rf"\b(?P<noun>{'|'.join(_KINDS)})s?\b",
    re.IGNORECASE,
)


def scene_truth(problem: Problem, text: str) -> list[bool | None]:
    """Hold what a step says of objects against the item's scene (`SCENE`), as CLEVR has it.

    ``the large red cube`` is true where the scene has one, ``two metal spheres`` where it has
    exactly two, ``no cyan cylinder`` where it has none. Relations, comparisons and what is said
    under ``not``, ``if``, ``any``, ``no other``, ``at least`` and the like are not checked.

    Raises:
        MeasureError: If the item has no scene.
    """
    if SCENE not in problem.metadata:
        raise MeasureError(
            f"Item {problem.id} has no scene in its metadata; give truth=, a function of problem "
            "and step, or problems of CLEVR."
        )
    objects = json.loads(str(problem.metadata[SCENE]))
    found: list[bool | None] = []
    for claim in _CLAIM.finditer(text):
        words = [_SAME.get(word, word) for word in re.findall(r"\w+", claim["words"].lower())]
        noun = _SAME.get(claim["noun"].lower(), claim["noun"].lower())
        asked = {*words, noun} - {"object", "thing"}
        if not asked or claim["not"]:
            found.append(None)
            continue
        n = sum(asked <= set(one.values()) for one in objects)
        count = (claim["count"] or "").lower()
        told = int(count) if count.isdecimal() else _COUNTS.get(count)
        found.append(n >= 1 if told is None else n == told)
    return found


def known_truth(problem: Problem, text: str) -> list[bool | None]:
    """`scene_truth` where an item has a scene; of others only written boxes are checked."""
    return scene_truth(problem, text) if SCENE in problem.metadata else []


class Perceptions(Result):
    """What `perceptions` measured: true and false statements of every step, and its boxes."""

    name = "perceptions"
    title = "Written perceptions"
    columns = ("item", "k", "n_steps", "n_true", "n_false", "n_unchecked", "iou", "n_unread_boxes")

    def items(self) -> pd.DataFrame:
        """Sum up the steps of every item.

        Returns:
            ``item``, ``false`` (share of the checked statements; missing without any),
            ``first_false`` (k of the first false one over the number of steps; missing without
            one), ``iou`` (mean over the steps that write boxes), ``checked`` (statements).
        """
        table = self.table.assign(first=self.table["k"] / self.table["n_steps"])
        table["first"] = table["first"].where(table["n_false"] > 0)
        grouped = table.groupby("item", sort=False)
        found = grouped[["n_true", "n_false"]].sum()
        checked = found.sum(axis=1)
        return pd.DataFrame(
            {
                "false": found["n_false"] / checked.where(checked > 0),
                "first_false": grouped["first"].min(),
                "iou": grouped["iou"].mean(),
                "checked": checked,
            }
        ).reset_index()

    def curve(self, *, n_boot: int = 2000) -> pd.DataFrame:
        """Share of false statements at every step, on the axis of `Commitment.curve`.

        Returns:
            ``k`` (from 1), ``value``, ``low``, ``high``, ``n`` (items with a checked statement).
        """
        checked = self.table["n_true"] + self.table["n_false"]
        rows = self.table.assign(value=self.table["n_false"] / checked)[checked > 0]
        if rows.empty:
            raise MeasureError("No statement could be checked, so there is no curve.")
        return step_curve({0: rows}, axis="k", n_boot=n_boot).drop(columns="n_seeds")

    def values(self) -> dict[str, pd.Series]:
        """The metrics."""
        items = self.items().set_index("item")
        names = {"false": "false_perceptions", "first_false": "first_false", "iou": "box_iou"}
        return {to: items[name] for name, to in names.items() if items[name].notna().any()}

    def _check(self) -> None:
        if self.table.duplicated(["item", "k"]).any():
            raise MeasureError("The table perceptions holds a step twice; pass one run's rows.")

    def _warnings(self) -> list[str]:
        sums = self.table[["n_true", "n_false", "n_unchecked", "n_unread_boxes"]].sum().astype(int)
        said = []
        if sums["n_unchecked"]:
            told = sums[["n_true", "n_false", "n_unchecked"]].sum()
            said.append(f"{sums['n_unchecked']} of {told} statements could not be checked.")
        if sums["n_unread_boxes"]:
            said.append(f"{sums['n_unread_boxes']} boxes lie outside their pictures.")
        return said

    def _headline(self) -> Mapping[str, npt.ArrayLike]:  # type: ignore[override]
        return {METRICS[metric].title: values for metric, values in self.values().items()}


def perceptions(
    problems: Sequence[Problem],
    steps: Sequence[Sequence[str]],
    *,
    truth: Truth | None = scene_truth,
    seen: tuple[int, int] | None = None,
    unit: Unit = "auto",
) -> Perceptions:
    """Hold every step of rationales against what the pictures show.

    Needs no model: it reads what was written, such as ``steps`` of `answer_problems`. The share of
    false statements at step k stands beside the forced answer after step k (`commitment`): an
    answer that is fixed before the first false perception does not come from it.

    Args:
        problems: The items.
        steps: Per item the texts of its steps; items without any are left out and named.
        truth: Tells of every statement of a step whether it is true; ``None`` for boxes only.
        seen: Size of the pictures as the model saw them, see `written_boxes`.
        unit: Of boxes in JSON; ``"auto"`` finds one for all that was written, see `unit_of`.

    Returns:
        A result whose table has one row per item and step: ``k`` (from 1), ``n_steps``;
        ``n_true``, ``n_false``, ``n_unchecked``; ``iou``, the mean over the boxes it writes of the
        best overlap with an evidence box of the step (missing without either); ``n_unread_boxes``.

    Raises:
        MeasureError: If inputs differ in number, an item has several pictures, or it lacks what
            ``truth`` reads.

    Source: reconstruction; unfaithful-perception rate as in arXiv 2512.12218, by truth.
    """
    if len(problems) != len(steps):
        raise MeasureError(
            f"Got {len(problems)} problems and {len(steps)} rationales; give one of each."
        )
    refuse_several(problems)
    if unit == "auto":
        both = zip(problems, steps, strict=True)
        unit = unit_of((text, seen or problem.size) for problem, own in both for text in own)
    rows, bare = [], []
    for problem, texts in zip(problems, steps, strict=True):
        if not len(texts):
            bare.append(problem.id)
        for k, text in enumerate(texts, 1):
            told = [] if truth is None else list(truth(problem, text))
            written = written_boxes(text, problem.size, seen=seen, unit=unit)
            evidence = problem.step_boxes(k)
            best = [max(iou(box, one) for one in evidence) for box in written.boxes if evidence]
            counts = [told.count(kind) for kind in (True, False, None)]
            overlap = float(np.mean(best)) if best else float("nan")
            rows.append((problem.id, k, len(texts), *counts, overlap, written.unread))
    table = pd.DataFrame(rows, columns=list(Perceptions.columns))
    return Perceptions(table, problems, skipped={"no rationale step": tuple(bare)} if bare else {})
