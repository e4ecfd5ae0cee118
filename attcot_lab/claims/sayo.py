"""The claims of the SAYO abstract (arXiv 2602.08241), and of its project page, one by one.

Two models are alike if neither is better: "attention alone does as well as the combined reward" is
two claims, no less accurate and no more accurate, each by less than the margin, and holds only
where both are supported (two one-sided tests). One that is opposite says in which way they differ.

Not tested: that misalignment leads to wrong answers. It is a relation between items, and an effect
here is a sum of arms' values on the same item.
"""

from attcot_analysis.show.style import arm_label
from attcot_lab.claims.builders import between, stated
from attcot_lab.claims.claim import Claim, Direction, Term

PAPER = "SAYO"
FOCUS = "Visual focus that nobody rewards"
REWARD = "What the region-level attention reward does"
ALONE = "Attention reward alone, accuracy reward alone, both"
BESIDE = "Commitment and dependence under the attention reward"

_WEAK = "Current MLLMs exhibit weak visual focus:"
_RARELY = "early-stage visual misalignment is rarely corrected during subsequent reasoning."
_RELIABLE = (
    "The region-level visual attention-based reward enables more reliable attention behaviors"
)
_BETTER = "and consistently improves performance."
_LITTLE = "The accuracy reward alone brings marginal gains only,"
_ALIKE = "the attention reward alone does about as well as both (project page, not the abstract)."
_FOLLOWS = "Not said of SAYO in the abstract: what Att-CoT is to do, asked of SAYO."

_TWICE = 0.6
"""Focus of a step whose evidence gets twice the attention of as much of the whole picture."""
_PLACED = "Focus is on the boxes of the right rationale, in all layers and heads."
_DEFINED = (
    "Only items whose first step is off its evidence count; where there are none, no verdict."
)

_TRAINED = ("sayo_attention", "sayo")
_REWARD_ROWS: tuple[tuple[str, str, str, Direction], ...] = (
    ("focus", _RELIABLE, "focus", "higher"),
    ("first_step", _RELIABLE, "unfocused_first_step", "lower"),
    ("comes_back", _RELIABLE, "refocused", "higher"),
    ("accuracy", _BETTER, "accuracy_cot", "higher"),
)
_ADDED_ROWS: tuple[tuple[str, str, str, Direction], ...] = (
    ("focus", _RELIABLE, "focus", "higher"),
    ("accuracy", _BETTER, "accuracy_cot", "higher"),
)
_ALONE_ROWS: tuple[tuple[str, str, str, str, str, Direction], ...] = (
    ("accuracy_alone", _LITTLE, "sayo_accuracy", "base", "accuracy_cot", "not higher"),
    ("alone_no_worse", _ALIKE, "sayo_attention", "sayo", "accuracy_cot", "not lower"),
    ("alone_no_better", _ALIKE, "sayo_attention", "sayo", "accuracy_cot", "not higher"),
)
_BESIDE_ROWS: tuple[tuple[str, str, Direction], ...] = (
    ("less_early", "p0_final", "lower"),
    ("later", "commitment_position", "higher"),
    ("keeps_mass", "mass_last_step", "not lower"),
    ("twin", "follow_twin", "higher"),
    ("dependence", "net_dependence", "higher"),
    ("less_habit", "habitual_cot", "lower"),
)


def sayo_claims() -> list[Claim]:
    """All of them, by topic."""
    return [
        *(claim for arm in ("base", "cot_sft") for claim in _unrewarded(arm)),
        *(
            _claim(f"{arm}_{id}", arm, "base", metric, direction, REWARD, says)
            for arm in _TRAINED
            for id, says, metric, direction in _REWARD_ROWS
        ),
        *(
            _claim(f"sayo_adds_{id}", "sayo", "sayo_accuracy", metric, direction, REWARD, says)
            for id, says, metric, direction in _ADDED_ROWS
        ),
        *(
            _claim(f"sayo_{id}", b, a, metric, direction, ALONE, says)
            for id, says, b, a, metric, direction in _ALONE_ROWS
        ),
        *(
            _claim(f"{arm}_{id}", arm, "base", metric, direction, BESIDE, _FOLLOWS)
            for arm in _TRAINED
            for id, metric, direction in _BESIDE_ROWS
        ),
    ]


def _claim(
    id: str, b: str, a: str, metric: str, direction: Direction, topic: str, sentence: str
) -> Claim:
    return between(id, b, a, metric, direction, topic=topic, sentence=sentence, paper=PAPER)


def _unrewarded(arm: str) -> list[Claim]:
    """Weak focus, and focus that does not come back, within one arm."""

    def within(
        id: str, title: str, metric: str, sentence: str, reference: float, caveat: str
    ) -> Claim:
        return stated(
            f"{id}_{arm}",
            f"{arm_label(arm)}: {title}",
            (Term(arm, metric),),
            "lower",
            topic=FOCUS,
            sentence=sentence,
            paper=PAPER,
            caveat=caveat,
            reference=reference,
        )

    return [
        within(
            "weak_focus",
            "evidence gets less than twice its share of attention",
            "focus",
            _WEAK,
            _TWICE,
            _PLACED,
        ),
        within(
            "uncorrected",
            "comes back to missed evidence in less than half of the items",
            "refocused",
            _RARELY,
            0.5,
            _DEFINED,
        ),
    ]
