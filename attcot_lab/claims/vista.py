"""The claims of the VISTA abstract (arXiv 2605.11931), one by one.

What concerns the samples themselves is read from the first round of the arm ``vista_sft``, whose
responses are the base's own; a training question is then an item, and every training seed has other
questions. The abstract's gain is against the base; what either part adds is asked of the arms
without it, which train as many steps on as many samples.
"""

from attcot_analysis.runs.headline import CHANCE
from attcot_analysis.stats.catalogue import METRICS
from attcot_lab.claims.builders import MARGINS, between, stated
from attcot_lab.claims.claim import Claim, Direction, Term

PAPER = "VISTA"
IMBALANCE = "Data imbalance"
PRIOR = "Language prior bias"
RESAMPLING = "What prefix resampling finds"
FILTER = "What the vision-aware attention score drops"
TRAINING = "What VISTA training does"
PARTS = "What resampling and score add to training"
BESIDE = "Commitment and access under VISTA"

_SIMPLE = "Simple samples are over-trained, but the challenging yet crucial samples under-trained."
_BIAS = "MLLMs overly rely on linguistic priors while neglecting the visual cues."
_REUSE = "Prefix resampling reuses the partial correct reasoning traces for efficient collection."
_SCORE = "A vision-aware attention score quantifies the model's focus on visual information."
_BETTER = "VISTA effectively enhances the multimodal reasoning performance"
_APPLIED = "in supervised fine-tuning and in preference learning."
_CURES = "Against both shortcomings: it is to rely on the picture, and not on priors."
_BOTH = "Prefix resampling and the vision-aware attention score are there to help training."
_FOLLOWS = "Not said of VISTA in the abstract: what Att-CoT is to do, asked of VISTA."

_QUESTIONS = "one training question in twenty"
_RESPONSES = "one response in twenty; a filter that tells less drops good data for nothing"
_ARM = "vista_sft"
_OBJECTIVES = ("vista_sft", "vista_dpo")

_EFFECTS: tuple[tuple[str, str, str, Direction], ...] = (
    ("accuracy", f"{_BETTER} {_APPLIED}", "accuracy_cot", "higher"),
    ("twin", _CURES, "follow_twin", "higher"),
    ("share", _CURES, "share", "higher"),
    ("dependence", _CURES, "net_dependence", "higher"),
    ("less_habit", _CURES, "habitual_cot", "lower"),
)
_WITHOUT = ("plain", "no_vas")
_SHORT = ("accuracy", "twin")
"""Of an arm with a part left out, only these are held against the base."""
_ADDED: dict[str, tuple[str, ...]] = {
    "plain": ("accuracy", "twin"),
    "no_vas": ("accuracy", "twin", "share"),
}
_BESIDE_ROWS: tuple[tuple[str, str, Direction], ...] = (
    ("less_early", "p0_final", "lower"),
    ("later", "commitment_position", "higher"),
    ("looks", "mass_last_step", "higher"),
)


def vista_claims() -> list[Claim]:
    """All of them, by topic."""
    against_base = [
        *((arm, _EFFECTS) for arm in _OBJECTIVES),
        *(
            (f"{arm}_{part}", tuple(row for row in _EFFECTS if row[0] in _SHORT))
            for arm in _OBJECTIVES
            for part in _WITHOUT
        ),
    ]
    return [
        *_of_samples(),
        *(
            _against(f"{arm}_{id}", arm, "base", metric, direction, TRAINING, says)
            for arm, rows in against_base
            for id, says, metric, direction in rows
        ),
        *(
            _against(
                f"{arm}_over_{part}_{id}", arm, f"{arm}_{part}", metric, direction, PARTS, _BOTH
            )
            for part, ids in _ADDED.items()
            for arm in _OBJECTIVES
            for id, _, metric, direction in _EFFECTS
            if id in ids
        ),
        *(
            _against(f"{arm}_{id}", arm, "base", metric, direction, BESIDE, _FOLLOWS)
            for arm in _OBJECTIVES
            for id, metric, direction in _BESIDE_ROWS
        ),
    ]


def _against(
    id: str, b: str, a: str, metric: str, direction: Direction, topic: str, sentence: str
) -> Claim:
    return between(id, b, a, metric, direction, topic=topic, sentence=sentence, paper=PAPER)


def _of_samples() -> list[Claim]:
    """What the base's own samples, continuations and filtered responses are like."""

    def told(
        id: str,
        title: str,
        topic: str,
        sentence: str,
        terms: tuple[Term, ...],
        reason: str,
        caveat: str,
        *,
        margin: float = 0.05,
        reference: float = 0.0,
    ) -> Claim:
        return stated(
            id,
            title,
            terms,
            "higher",
            topic=topic,
            sentence=sentence,
            paper=PAPER,
            caveat=caveat,
            reference=reference,
            margin=(margin, reason),
        )

    def gain(success: str) -> tuple[Term, ...]:
        names = (f"gain_mended_{success}", f"gain_plain_{success}")
        return (Term(_ARM, names[0]), Term(_ARM, names[1], -1.0))

    nats, why_nats = MARGINS[METRICS["response_dependence_kept"].unit]
    habits, why_habits = MARGINS[METRICS["habitual_cot"].unit]
    return [
        told(
            "easy_excess",
            "Easy questions have more than their share of the right samples",
            IMBALANCE,
            _SIMPLE,
            (Term(_ARM, "easy_excess"),),
            "one right sample in twenty comes from a question that would not have it",
            "Of samples as they come: equal ones are trained on once, which evens it out again.",
        ),
        told(
            "unsolved",
            "More than one question in twenty has no right sample",
            IMBALANCE,
            _SIMPLE,
            (Term(_ARM, "unsolved"),),
            _QUESTIONS,
            "Right answers come by chance as well, so that it understates what is hard.",
            reference=0.05,
        ),
        told(
            "habit_base",
            "Base: more habitual answers than evenly spread errors would give",
            PRIOR,
            _BIAS,
            (Term("base", "habitual_cot"), Term("base", CHANCE, -1.0)),
            why_habits,
            "On balanced items; how much its pretraining has of a prior is our choice.",
            margin=habits,
        ),
        told(
            "prefix_rationale",
            "Mended prefixes find a right rationale for more hard questions than plain samples",
            RESAMPLING,
            _REUSE,
            gain("rationale"),
            _QUESTIONS,
            "At equal numbers of samples. Right is the problem's own rationale, word for word.",
        ),
        told(
            "prefix_answer",
            "Mended prefixes find a right answer for more hard questions than plain samples",
            RESAMPLING,
            _REUSE,
            gain("answer"),
            _QUESTIONS,
            "At equal numbers of samples. With few candidates guesses are right as well.",
        ),
        told(
            "vas_independent",
            "Dropped right responses are image-independent more often than kept ones",
            FILTER,
            _SCORE,
            (Term(_ARM, "independent_dropped"), Term(_ARM, "independent_kept", -1.0)),
            _RESPONSES,
            "Within a question that has both; told by the twin's picture, which the score never "
            "sees.",
        ),
        told(
            "vas_dependence",
            "Kept right responses lose more on the twin than dropped ones",
            FILTER,
            _SCORE,
            (
                Term(_ARM, "response_dependence_kept"),
                Term(_ARM, "response_dependence_dropped", -1.0),
            ),
            why_nats,
            "A longer response can lose more.",
            margin=nats,
        ),
    ]
