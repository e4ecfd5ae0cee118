"""The claims of the Att-CoT abstract (arXiv 2606.01558), one by one."""

from attcot_analysis.runs.headline import CHANCE
from attcot_analysis.show.style import arm_label
from attcot_lab.claims.builders import between, stated
from attcot_lab.claims.claim import Claim, Direction, Term

PAPER = "Att-CoT"
DIRECT = "CoT against direct answers"
EARLY = "Premature answer commitment"
ACCESS = "Visual access along the rationale"
SFT = "What CoT-SFT does"
ATT = "Att-CoT against CoT-SFT"
BASE = "Att-CoT against the base"
NEAREST = "The form nearest to the paper, against CoT-SFT"

_WORSE = (
    "Across several visual reasoning benchmarks, CoT prompting often degrades performance compared "
    "to direct prompting."
)
_EARLY = "Two recurring failure modes: premature answer commitment"
_ACCESS = "and limited direct visual-token access during rationale generation."
_PARTLY = "Standard CoT-SFT can mitigate these issues only partially,"
_PRIOR = "while often increasing reliance on textual priors"
_LESS = "and reducing counterfactual visual dependence."
_LATER = "Att-CoT encourages CoT trajectories to delay answer commitment"
_KEEPS = "while maintaining sustained visual-token access."
_BETTER = "Att-CoT enhances CoT performance over standard fine-tuning."
_FOLLOWS = "Not said of Att-CoT in the abstract: it follows from the failures that it is to cure."

_SFT_EFFECTS: tuple[tuple[str, str, str, Direction], ...] = (
    ("less_early", _PARTLY, "p0_final", "lower"),
    ("later", _PARTLY, "commitment_position", "higher"),
    ("looks", _PARTLY, "mass_last_step", "higher"),
    ("accuracy", _PARTLY, "accuracy_cot", "higher"),
    ("habit", _PRIOR, "habitual_cot", "higher"),
    ("text_only", _PRIOR, "prior_agreement", "higher"),
    ("twin", _LESS, "follow_twin", "lower"),
    ("dependence", _LESS, "net_dependence", "lower"),
)
_ATT_EFFECTS: tuple[tuple[str, str, str, Direction], ...] = (
    ("less_early", _LATER, "p0_final", "lower"),
    ("less_habit_early", _LATER, "p0_habitual", "lower"),
    ("later", _LATER, "commitment_position", "higher"),
    ("less_area", _LATER, "commitment_area", "lower"),
    ("looks", _KEEPS, "mass_last_step", "higher"),
    ("sustains", _KEEPS, "mass_slope", "higher"),
    ("focus", _FOLLOWS, "focus", "higher"),
    ("twin", _FOLLOWS, "follow_twin", "higher"),
    ("dependence", _FOLLOWS, "net_dependence", "higher"),
    ("less_habit", _FOLLOWS, "habitual_cot", "lower"),
    ("accuracy", _BETTER, "accuracy_cot", "higher"),
)


def att_cot_claims() -> list[Claim]:
    """All of them, by topic."""
    failures = sorted(
        [*_failures("base"), *_failures("cot_sft")], key=lambda claim: claim.topic != EARLY
    )
    return [
        _against_direct(
            "cot_base",
            "Base: CoT less accurate than direct answers",
            "base",
            "base",
            _WORSE,
            "What pretraining made of the direct answers decides this.",
        ),
        _against_direct(
            "cot_sft",
            "CoT-SFT less accurate than direct-SFT",
            "cot_sft",
            "direct_sft",
            _WORSE,
            "The paper says it of prompting; that it holds after each form is fine-tuned on the "
            "same problems is our extension.",
        ),
        _against_direct(
            "cot_own",
            "CoT-SFT: CoT less accurate than its own direct answers",
            "cot_sft",
            "cot_sft",
            _WORSE,
            "Our extension to one fine-tuned model. Fine-tuning on rationales may unlearn the "
            "direct form: see unparsed_direct.",
        ),
        *failures,
        *_arm_against("sft", "cot_sft", "base", SFT, _SFT_EFFECTS),
        *_arm_against("att", "att_cot", "cot_sft", ATT, _ATT_EFFECTS),
        _against_direct(
            "att_direct",
            "Att-CoT more accurate than direct-SFT",
            "att_cot",
            "direct_sft",
            _BETTER,
            "Here against fine-tuning without a rationale.",
            topic=ATT,
            direction="higher",
        ),
        *_arm_against("att_base", "att_cot", "base", BASE, _ATT_EFFECTS),
        *_arm_against("paper", "att_cot_paper", "cot_sft", NEAREST, _ATT_EFFECTS),
    ]


def _arm_against(
    prefix: str,
    b: str,
    a: str,
    topic: str,
    effects: tuple[tuple[str, str, str, Direction], ...],
) -> list[Claim]:
    return [
        between(f"{prefix}_{id}", b, a, metric, direction, topic=topic, sentence=says, paper=PAPER)
        for id, says, metric, direction in effects
    ]


def _against_direct(
    id: str,
    title: str,
    cot: str,
    direct: str,
    sentence: str,
    caveat: str,
    *,
    topic: str = DIRECT,
    direction: Direction = "lower",
) -> Claim:
    """The CoT accuracy of one arm against the direct accuracy of an arm."""
    return stated(
        id,
        title,
        (Term(cot, "accuracy_cot"), Term(direct, "accuracy_direct", -1.0)),
        direction,
        topic=topic,
        sentence=sentence,
        paper=PAPER,
        caveat=caveat,
    )


def _failures(arm: str) -> list[Claim]:
    """The two failure modes, within one arm."""

    def within(
        id: str,
        title: str,
        topic: str,
        sentence: str,
        terms: tuple[Term, ...],
        direction: Direction,
        caveat: str,
        reference: float = 0.0,
    ) -> Claim:
        return stated(
            f"{id}_{arm}",
            f"{arm_label(arm)}: {title}",
            terms,
            direction,
            topic=topic,
            sentence=sentence,
            paper=PAPER,
            caveat=caveat,
            reference=reference,
        )

    return [
        within(
            "early_p0",
            "final answer above chance before the first step",
            EARLY,
            _EARLY,
            (Term(arm, "p0_final"), Term(arm, CHANCE, -1.0)),
            "higher",
            "No failure where direct answers are right as often: the items are then just easy.",
        ),
        within(
            "early_position",
            "committed before the middle of the rationale",
            EARLY,
            _EARLY,
            (Term(arm, "commitment_position"),),
            "lower",
            "Early need not be decided: among near equals one is first by luck.",
            reference=0.5,
        ),
        within(
            "access_declines",
            "visual mass declines over the rationale",
            ACCESS,
            _ACCESS,
            (Term(arm, "mass_slope"),),
            "lower",
            "A growing text dilutes all mass, and mass is no evidence used.",
        ),
    ]
