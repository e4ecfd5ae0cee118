"""How claims are written down: the usual margins, and words for effects."""

from collections.abc import Mapping
from types import MappingProxyType

from attcot_analysis.show.style import arm_label
from attcot_analysis.stats.catalogue import METRICS
from attcot_lab.claims.claim import Claim, Direction, Term

_SEEDS = "training seeds of one arm differ by about so much"
MARGINS: Mapping[str, tuple[float, str]] = MappingProxyType(
    {
        "share of items": (0.05, f"one item in twenty; {_SEEDS}"),
        "probability": (0.05, f"{_SEEDS}; chance is 0.1 to 0.5"),
        "share of the rationale": (0.05, "in rationales of four steps, one step in every fifth"),
        "share of attention": (0.02, "a twentieth of the tiny models' mass of about 0.4"),
        "share of attention per rationale": (0.02, "from first to last step, the same twentieth"),
        "share of visual mass": (0.02, "a seventh of the boxes' usual share of about 0.14"),
        "nats": (0.2, "odds changed by a fifth"),
        "focus score": (0.1, "evidence gets a tenth more attention, from an even spread on"),
    }
)
"""Unit → smallest effect of interest, and why; fixed before the first grid was run."""

EFFECTS: dict[tuple[str, Direction], str] = {
    ("p0_final", "lower"): "lower p(final answer) before the first step",
    ("p0_habitual", "lower"): "lower p(habitual answer) before the first step",
    ("commitment_position", "higher"): "commits later",
    ("commitment_area", "lower"): "less certain of its final answer along the rationale",
    ("mass_last_step", "higher"): "more visual mass at the last step",
    ("mass_last_step", "not higher"): "no more visual mass at the last step",
    ("mass_slope", "higher"): "visual mass declines less",
    ("mass_last_step", "not lower"): "no less visual mass at the last step",
    ("evidence_share", "higher"): "more of its mass on the evidence",
    ("share", "higher"): "more of its attention to the prompt on the picture",
    ("focus", "higher"): "more focus on the evidence",
    ("unfocused_first_step", "lower"): "fewer first steps off their evidence",
    ("refocused", "higher"): "comes back to missed evidence more often",
    ("follow_twin", "higher"): "follows the twin more",
    ("follow_twin", "lower"): "follows the twin less",
    ("follow_twin", "not higher"): "does not follow the twin more",
    ("net_dependence", "higher"): "more net dependence",
    ("net_dependence", "lower"): "less net dependence",
    ("habitual_cot", "higher"): "more habitual answers",
    ("habitual_cot", "lower"): "fewer habitual answers",
    ("prior_agreement", "higher"): "agrees more with the text alone",
    ("accuracy_cot", "higher"): "better CoT accuracy",
    ("accuracy_cot", "not higher"): "no better CoT accuracy",
    ("accuracy_cot", "not lower"): "no worse CoT accuracy",
}
"""Metric and claimed direction → what is claimed, in a few words."""
CAVEATS = {
    "p0_final": "It falls as well when a model is less sure throughout: see its accuracy.",
    "commitment_area": "It falls as well when a model is less sure throughout: see its accuracy.",
    "commitment_position": "Later is trained for where L_commit has a weight, and no gain by "
    "itself.",
    "mass_last_step": "Mass is trained for where L_vis has a weight, and is no evidence used.",
    "share": "VISTA keeps what has more of it, in the middle layer: it is no evidence used.",
    "focus": "SAYO rewards it, in the last layer: where in the picture, not how much, and no "
    "evidence used.",
    "unfocused_first_step": "Evidence can have been read before the first step.",
    "refocused": "Arms differ in the items whose first step misses; only those of both count.",
    "net_dependence": "It grows with confidence: hold it against following the twin.",
    "follow_twin": "It cannot exceed what a model's accuracy allows.",
    "habitual_cot": "Fewer habitual answers need not be right ones.",
}
"""Metric → what a difference in it does not show."""


def between(
    id: str,
    b: str,
    a: str,
    metric: str,
    direction: Direction,
    *,
    topic: str,
    sentence: str,
    paper: str,
) -> Claim:
    """A claim that arm b differs from arm a on a metric, with the usual margin of its unit.

    Args:
        id: Its name.
        b: The arm it is about.
        a: The arm compared with.
        metric: A name in `METRICS`.
        direction: The claimed sign of b − a.
        topic: Heading.
        sentence: What is said.
        paper: By whom.
    """
    return stated(
        id,
        f"{arm_label(b)} against {arm_label(a)}: {EFFECTS[metric, direction]}",
        (Term(b, metric), Term(a, metric, -1.0)),
        direction,
        topic=topic,
        sentence=sentence,
        paper=paper,
        caveat=CAVEATS.get(metric, ""),
    )


def stated(
    id: str,
    title: str,
    terms: tuple[Term, ...],
    direction: Direction,
    *,
    topic: str,
    sentence: str,
    paper: str,
    caveat: str = "",
    reference: float = 0.0,
    margin: tuple[float, str] | None = None,
) -> Claim:
    """A claim about any sum of terms.

    Args:
        id: Its name.
        title: In one line.
        terms: What is added up.
        direction: The claimed sign of the sum, from `reference` on.
        topic: Heading.
        sentence: What is said.
        paper: By whom.
        caveat: What it does not show.
        reference: What the sum is held against.
        margin: Smallest effect of interest, and why; default the usual one of the first term's
            unit.
    """
    smallest, reason = margin or MARGINS[METRICS[terms[0].metric].unit]
    return Claim(
        id=id,
        title=title,
        topic=topic,
        paper=paper,
        sentence=sentence,
        terms=terms,
        direction=direction,
        margin=smallest,
        reason=reason,
        caveat=caveat,
        reference=reference,
    )
