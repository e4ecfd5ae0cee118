"""What the ablations should show if the terms of the objective work as we think they do."""

from attcot_lab.claims.builders import between
from attcot_lab.claims.claim import Claim, Direction

PAPER = "this project"
TERMS = "Each term alone"
ALIKE = "Look-alikes: what should not work"

_ROWS: tuple[tuple[str, str, str, str, str, Direction], ...] = (
    (TERMS, "vis_looks", "att_cot_vis", "cot_sft", "mass_last_step", "higher"),
    (TERMS, "vis_twin", "att_cot_vis", "cot_sft", "follow_twin", "higher"),
    (TERMS, "vis_accuracy", "att_cot_vis", "cot_sft", "accuracy_cot", "higher"),
    (TERMS, "commit_less_early", "att_cot_commit", "cot_sft", "p0_final", "lower"),
    (TERMS, "commit_looks", "att_cot_commit", "cot_sft", "mass_last_step", "not higher"),
    (TERMS, "commit_twin", "att_cot_commit", "cot_sft", "follow_twin", "higher"),
    (TERMS, "commit_accuracy", "att_cot_commit", "cot_sft", "accuracy_cot", "higher"),
    (TERMS, "both_commit", "att_cot", "att_cot_commit", "accuracy_cot", "higher"),
    (TERMS, "both_vis", "att_cot", "att_cot_vis", "accuracy_cot", "higher"),
    (TERMS, "ours_paper", "att_cot", "att_cot_paper", "accuracy_cot", "higher"),
    (ALIKE, "avar_looks", "avar", "cot_sft", "mass_last_step", "higher"),
    (ALIKE, "avar_twin", "avar", "cot_sft", "follow_twin", "not higher"),
    (ALIKE, "avar_accuracy", "avar", "cot_sft", "accuracy_cot", "not higher"),
    (ALIKE, "layers_accuracy", "att_cot", "random_layers", "accuracy_cot", "higher"),
    (ALIKE, "shuffled_looks", "shuffled_images", "cot_sft", "mass_last_step", "higher"),
    (ALIKE, "shuffled_twin", "shuffled_images", "cot_sft", "follow_twin", "not higher"),
    (ALIKE, "shuffled_accuracy", "shuffled_images", "cot_sft", "accuracy_cot", "not higher"),
)
_SAYS = {
    "vis_looks": "L_vis alone raises the mass that it trains,",
    "vis_twin": "makes answers follow the picture",
    "vis_accuracy": "and helps.",
    "commit_less_early": "L_commit alone delays the commitment that it trains,",
    "commit_looks": "leaves visual mass as it is,",
    "commit_twin": "makes answers follow the picture",
    "commit_accuracy": "and helps.",
    "both_commit": "L_vis adds something to L_commit,",
    "both_vis": "and L_commit to L_vis.",
    "ours_paper": "Our form of L_commit helps more than the one nearest to the paper.",
    "avar_looks": "A loss on the prompt's own rows (AVAR, arXiv 2603.03825) raises the mass of the "
    "rationale's rows as well,",
    "avar_twin": "but it does not make answers follow the picture",
    "avar_accuracy": "and does not help.",
    "layers_accuracy": "It matters which layers L_vis reads.",
    "shuffled_looks": "Mass can be trained on the wrong pictures,",
    "shuffled_twin": "but that does not make answers follow the picture",
    "shuffled_accuracy": "and does not help.",
}


def ablation_claims() -> list[Claim]:
    """All of them, by topic."""
    return [
        between(id, b, a, metric, direction, topic=topic, sentence=_SAYS[id], paper=PAPER)
        for topic, id, b, a, metric, direction in _ROWS
    ]
