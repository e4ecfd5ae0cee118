"""A claim as a hypothesis that values can contradict, and what an estimate says about it.

The claims themselves, of three papers and of this project, are in ``claims.yaml``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import yaml

from attcot_analysis.errors import MeasureError
from attcot_analysis.runs.values import CHANCE
from attcot_analysis.show.style import arm_label
from attcot_analysis.stats.catalogue import METRICS
from attcot_analysis.stats.crossed import Estimate
from attcot_analysis.stats.intervals import Interval

BASE = "base"
"""The arm without training: its one seed is held against every seed of the others."""

Direction = Literal["higher", "lower", "not higher", "not lower"]
Verdict = Literal["supported", "not supported", "opposite", "undecided"]


@dataclass(frozen=True)
class Term:
    """One part of an effect: a metric of an arm, with its weight."""

    arm: str
    metric: str
    weight: float = 1.0


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        id: Name in tables and files.
        title: The hypothesis in a few words.
        topic: Heading that it belongs under.
        paper: Whose claim it is.
        sentence: What the paper says, or what is expected where the claim is ours.
        terms: The effect is the weighted sum of their values, paired by item and seed; an arm
            with one seed (base) is held against every seed of the others.
        direction: ``"higher"`` or ``"lower"`` than zero; ``"not higher"``, ``"not lower"``: by no
            more than the margin.
        margin: Smallest effect of interest, in the unit of the metric; smaller ones are as good
            as none (the equivalence margin).
        reason: Why that margin.
        caveat: What the effect does not show.
        reference: Constant taken off the effect.

    Raises:
        MeasureError: If it has no term, an unknown metric or direction, or no margin.
    """

    id: str
    title: str
    topic: str
    paper: str
    sentence: str
    terms: tuple[Term, ...]
    direction: Direction
    margin: float
    reason: str
    caveat: str = ""
    reference: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a claim that could not be tested."""
        if not self.terms:
            raise MeasureError(f"Claim {self.id!r} compares nothing; give it terms.")
        unknown = sorted({term.metric for term in self.terms} - {*METRICS, CHANCE})
        if unknown:
            raise MeasureError(
                f"Claim {self.id!r} names {', '.join(unknown)}; choose metrics from METRICS."
            )
        if self.direction not in get_args(Direction):
            raise MeasureError(
                f"Claim {self.id!r} has direction {self.direction!r}; choose one of "
                f"{', '.join(get_args(Direction))}."
            )
        if not self.margin > 0:
            raise MeasureError(
                f"Claim {self.id!r} has margin {self.margin}; say from which size on an effect "
                "would matter."
            )

    @property
    def metric(self) -> str:
        """The metric of the first term, which says the unit."""
        return self.terms[0].metric

    @property
    def unit(self) -> str:
        """Unit of the effect."""
        return METRICS[self.metric].unit

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms it needs, each once."""
        return tuple(dict.fromkeys(term.arm for term in self.terms))

    @property
    def absence(self) -> bool:
        """Whether it claims that there is no effect in a direction."""
        return self.direction.startswith("not ")

    @property
    def sign(self) -> int:
        """1 if it is about "higher", else -1."""
        return 1 if self.direction.endswith("higher") else -1


def verdict(claim: Claim, interval: Interval) -> Verdict:
    """What an effect's interval says about a claim.

    Args:
        claim: The claim.
        interval: Of its effect.

    Returns:
        For a claimed effect: ``"supported"`` if the interval lies entirely on the claimed side of
        zero, ``"opposite"`` if entirely on the other one, ``"not supported"`` if it includes zero
        and lies within the margin on both sides, else ``"undecided"``. For a claimed absence:
        ``"supported"`` if the interval stays below the margin on the side in question,
        ``"opposite"`` if it does not and lies entirely on that side of zero, else
        ``"undecided"``.
    """
    low, high = _turned(claim, interval.low, interval.high)
    if np.isnan(low):
        return "undecided"
    if claim.absence:
        if high < claim.margin:
            return "supported"
        return "opposite" if low > 0 else "undecided"
    if low > 0:
        return "supported"
    if high < 0:
        return "opposite"
    return "not supported" if low > -claim.margin and high < claim.margin else "undecided"


def negligible(claim: Claim, interval: Interval) -> bool:
    """Whether the interval lies within the margin on both sides: no effect of interest."""
    return bool(interval.low > -claim.margin and interval.high < claim.margin)


def p_values(claim: Claim, estimate: Estimate) -> dict[Verdict, float]:
    """Two-sided p values against each verdict's contrary, in the order of precedence.

    A verdict holds at level 0.95 where its p value is below 0.05, so that they can be corrected
    for the number of cells before a verdict is drawn.
    """
    margin = claim.margin

    def up(bound: float) -> float:
        """Small if the effect, "higher" being the direction in question, is clearly above."""
        return estimate.p_at_most(bound) if claim.sign > 0 else estimate.p_at_least(-bound)

    def down(bound: float) -> float:
        return estimate.p_at_least(bound) if claim.sign > 0 else estimate.p_at_most(-bound)

    if claim.absence:
        by_verdict: dict[Verdict, float] = {"supported": down(margin), "opposite": up(0.0)}
    else:
        by_verdict = {
            "supported": up(0.0),
            "opposite": down(0.0),
            "not supported": max(up(-margin), down(margin)),
        }
    return {name: min(1.0, 2 * p) for name, p in by_verdict.items()}


def placebo(claim: Claim) -> Claim | None:
    """The same claim with the base, which nobody trained, in place of its first arm.

    Returns:
        ``None`` for a claim about one arm, or about the base already.
    """
    if BASE in claim.arms or len(claim.arms) < 2:
        return None
    first, *others = claim.terms
    title = claim.title.replace(arm_label(first.arm), f"{arm_label(BASE)} (placebo)", 1)
    return replace(claim, title=title, terms=(replace(first, arm=BASE), *others))


def _turned(claim: Claim, low: float, high: float) -> tuple[float, float]:
    """The interval with "higher" as the direction in question."""
    return (low, high) if claim.sign > 0 else (-high, -low)


def _read(path: Path) -> tuple[Mapping[str, str], tuple[Claim, ...]]:
    """The papers of a file like ``claims.yaml``, each with its source, and all claims by topic."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    papers = {name: paper["source"] for name, paper in content["papers"].items()}
    claims = tuple(
        _claim(id, entry, topic, about["paper"], content)
        for topic, about in content["topics"].items()
        for id, entry in about["claims"].items()
    )
    return MappingProxyType(papers), claims


def _claim(
    id: str, entry: list[str] | dict[str, Any], topic: str, paper: str, content: dict[str, Any]
) -> Claim:
    """A claim from its entry: a line about two arms, or all fields that are not the usual ones."""
    if isinstance(entry, list):
        arm, other, metric, direction, sentence = entry
        effect = content["effects"][metric][direction]
        entry = {
            "title": f"{arm_label(arm)} against {arm_label(other)}: {effect}",
            "sentence": sentence,
            "terms": [
                {"arm": arm, "metric": metric},
                {"arm": other, "metric": metric, "weight": -1.0},
            ],
            "direction": direction,
            "caveat": content["caveats"].get(metric, ""),
        }
    terms = tuple(Term(**term) for term in entry["terms"])
    usual = content["margins"].get(METRICS[terms[0].metric].unit, {})
    sentence = content["papers"][paper]["sentences"][entry["sentence"]]
    fields = usual | entry | {"terms": terms, "sentence": sentence}
    return Claim(id=id, topic=topic, paper=paper, **fields)


_FILE = _read(Path(__file__).with_name("claims.yaml"))
PAPERS = _FILE[0]
"""Paper → where its claims are taken from."""
CLAIMS = _FILE[1]
"""All claims, by topic."""
