"""`DataCoverage`: what can be measured on a set of problems, and what it lacks for the rest."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from attcot_analysis.problems.controls import covered_area, evidence_rectangles, matched_control
from attcot_analysis.problems.problem import Problem


@dataclass(frozen=True)
class Measurable:
    """One measurement and how many items allow it.

    Attributes:
        name: What is measured.
        n: Items that allow it.
        needs: What an item must have for it.
    """

    name: str
    n: int
    needs: str


@dataclass(frozen=True)
class DataCoverage:
    """What a set of problems allows.

    Attributes:
        n: Items.
        parts: Every measurement, in the order of the report.
        n_rationales: Items with a rationale to fine-tune on.
        warnings: What else to know before measuring, one sentence each.
    """

    n: int
    parts: tuple[Measurable, ...]
    n_rationales: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def gaps(self) -> tuple[str, ...]:
        """A sentence for everything that cannot be measured, or on some items only."""
        said = []
        for part in self.parts if self.n else ():
            if part.n == 0:
                said.append(f"Not measured: {part.name} (no item has {part.needs}).")
            elif part.n < self.n:
                said.append(
                    f"Measured on {part.n} of {self.n} items: {part.name} (the others lack "
                    f"{part.needs})."
                )
        return tuple(said)

    def __str__(self) -> str:
        """Write it as lines of text."""
        whole = [part.name for part in self.parts if part.n == self.n and self.n]
        lines = [f"{self.n} items."]
        if whole:
            lines.append(f"Measured on all: {'; '.join(whole)}.")
        lines += self.gaps
        if self.n:
            lines.append(f"With a rationale to fine-tune on: {self.n_rationales} of {self.n}.")
        return "\n".join([*lines, *self.warnings])


class CoverageCount:
    """Counts problems one by one, so that a large set need not be held."""

    def __init__(self) -> None:
        """Start with none."""
        self._n = self._n_rationales = 0
        self._having: Counter[str] = Counter()
        self._answers: set[str] = set()
        self._controls: dict[str, list[float]] = {}

    def add(self, problem: Problem) -> None:
        """Count one more."""
        self._n += 1
        self._answers.add(problem.answer)
        self._n_rationales += bool(problem.steps)
        self._having.update(name for name, _, has in _MEASURED if has(problem))
        alone = (problem,) if problem.n_images == 1 else map(problem.alone, problem.numbers)
        for one in alone:
            evidence = evidence_rectangles(one)
            if evidence:
                control = matched_control(one, evidence)
                width, height = one.size
                share = covered_area(evidence) / (width * height)
                self._controls.setdefault(control.form if control else "none", []).append(share)

    @property
    def coverage(self) -> DataCoverage:
        """Of what was counted so far."""
        parts = tuple(Measurable(name, self._having[name], need) for name, need, _ in _MEASURED)
        warnings = []
        if self._n and len(self._answers) == 1:
            warnings.append(
                "All items have the same answer: the control other_item needs two different ones, "
                "so leave it out (--controls rationale filler)."
            )
        if set(self._controls) - {"same"}:
            warnings.append(_controls(self._controls))
        return DataCoverage(self._n, parts, self._n_rationales, tuple(warnings))


def data_coverage(problems: Iterable[Problem]) -> DataCoverage:
    """Say what can be measured on problems, and what they lack for the rest."""
    count = CoverageCount()
    for problem in problems:
        count.add(problem)
    return count.coverage


_FORMS = {
    "same": "with as much of the rest",
    "smaller": "with a smaller region of the same shape",
    "strips": "with strips",
    "none": "with nothing, for lack of room, so that they leave the net",
}


def _controls(shares: dict[str, list[float]]) -> str:
    """What occluded evidence is held against, and how the items differ in the evidence's size."""
    total = sum(map(len, shares.values()))
    parts = [
        f"{len(shares[form])} of {total} {words} (evidence is {median(shares[form]):.0%} of the "
        "picture, median)"
        for form, words in _FORMS.items()
        if form in shares
    ]
    return (
        f"Occluded evidence is held against the rest of its picture: {'; '.join(parts)}. Where the "
        "control is smaller, its effect is scaled to the evidence's area."
    )


_MEASURED: tuple[tuple[str, str, Callable[[Problem], bool]], ...] = (
    (
        "accuracy, visual access, agreement with the text-only answer, blank pictures",
        "all",
        lambda problem: True,
    ),
    (
        "commitment, causal access, and log-probabilities of forced answers",
        "candidate answers",
        lambda problem: bool(problem.candidates),
    ),
    (
        "the share of attention on the evidence, and occlusion of the evidence",
        "evidence boxes",
        lambda problem: bool(problem.evidence_boxes),
    ),
    (
        "whether the answer follows an edited picture",
        "a twin",
        lambda problem: problem.twin is not None,
    ),
    (
        "dependence on a twin net of a matched control edit",
        "a twin and a control edit",
        lambda problem: problem.twin is not None and problem.control is not None,
    ),
    (
        "how often the habitual answer is given",
        "a habitual answer",
        lambda problem: problem.habitual is not None,
    ),
)
"""What is measured, what an item needs for it, and whether one has it."""
