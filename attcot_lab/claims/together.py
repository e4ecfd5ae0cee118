"""Att-CoT beside SAYO and VISTA, and with SAYO: hypotheses of this project, not of a paper.

All train as many optimizer steps, per stage and round; neither data nor time are equal: only
CoT-SFT and Att-CoT are told right rationales, SAYO samples in every step, VISTA in every round.
"""

from attcot_lab.claims.ablations import PAPER
from attcot_lab.claims.builders import between
from attcot_lab.claims.claim import Claim, Direction

BOTH = "Att-CoT and SAYO one after the other"
SIBLINGS = "The three systems side by side"

_EFFECTS: tuple[tuple[str, str, Direction], ...] = (
    ("accuracy", "accuracy_cot", "higher"),
    ("twin", "follow_twin", "higher"),
)
_ROWS: tuple[tuple[str, str, str, str, str], ...] = (
    (BOTH, "both_over_sayo", "att_cot_sayo", "sayo", "Att-CoT is a better start for GRPO,"),
    (BOTH, "both_over_att", "att_cot_sayo", "att_cot", "and GRPO adds something to Att-CoT."),
    (SIBLINGS, "sayo_over_sft", "sayo", "cot_sft", "SAYO does more than CoT-SFT,"),
    (SIBLINGS, "vista_sft_over_sft", "vista_sft", "cot_sft", "and so does VISTA by likelihood"),
    (SIBLINGS, "vista_dpo_over_sft", "vista_dpo", "cot_sft", "or by preferences."),
    (SIBLINGS, "att_over_sayo", "att_cot", "sayo", "Att-CoT does more than SAYO"),
    (SIBLINGS, "att_over_vista", "att_cot", "vista_sft", "and more than VISTA."),
)


def together_claims() -> list[Claim]:
    """All of them, by topic."""
    return [
        between(f"{id}_{effect}", b, a, metric, direction, topic=topic, sentence=says, paper=PAPER)
        for topic, id, b, a, says in _ROWS
        for effect, metric, direction in _EFFECTS
    ]
