"""Formulas of the metrics, for people: one line each, with what computes it and what shows it.

Signs: K steps; k = 0 before the first, 1 to K after each; p_k(c) the probability of candidate c,
over all candidates, when the answer is forced after step k; y the right answer, ŷ the item's own
(most probable after step K), h the habitual one; A(r, j) attention of row r on token j, whose sums
and ratios are taken per layer and head and then averaged over both (in focus the other way round);
R(k) the rows that predict step k, averaged over; I the image tokens, P the whole prompt, E(k) the
evidence boxes of step k, |·| a share of the picture; 1[·] is 1 where it holds, else 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Formula:
    """How a metric is computed.

    Attributes:
        text: Per item, in the signs above.
        function: The public function whose table it is made from.
        picture: Name of the picture that shows it, in ``docs/images/measures``.
    """

    text: str
    function: str
    picture: str


def _answers(text: str) -> Formula:
    return Formula(text, "answer_problems", "answers")


def _commitment(text: str) -> Formula:
    return Formula(text, "commitment", "commitment")


def _access(text: str) -> Formula:
    return Formula(text, "visual_access", "access")


def _causal(text: str) -> Formula:
    return Formula(text, "causal_access", "causal")


def _dependence(text: str) -> Formula:
    return Formula(text, "dependence", "dependence")


def _samples(text: str) -> Formula:
    return Formula(text, "run_vista", "samples")


_M = "m(k) = mean over r in R(k) of Σ_{j in I} A(r, j)"
_DELTA = "Δ(x) = log p_K(ŷ | picture) − log p_K(ŷ | x), rationale fixed"

FORMULAS: Mapping[str, Formula] = MappingProxyType(
    {
        "accuracy_cot": _answers("1[answer(CoT response) = y]"),
        "accuracy_direct": _answers("1[answer(direct response) = y]"),
        "unparsed_cot": _answers("1[answer(CoT response) is none of the candidates]"),
        "unparsed_direct": _answers("1[answer(direct response) is none of the candidates]"),
        "p0_final": _commitment("p_0(ŷ)"),
        "p0_answer": _commitment("p_0(y)"),
        "p0_habitual": _commitment("p_0(h)"),
        "commitment_position": _commitment(
            "k* / K, with k* = min {k : argmax_c p_i(c) = ŷ for all i ≥ k}"
        ),
        "commitment_area": _commitment("Σ_{k=1..K} (p_{k−1}(ŷ) + p_k(ŷ)) / 2K"),
        "premature": _commitment("1[k* / K ≤ 0.25]"),
        "premature_wrong": _commitment("1[k* / K ≤ 0.25] · 1[ŷ ≠ y]"),
        "corrective": _commitment("1[argmax p_0 ≠ y] · 1[argmax p_K = y]"),
        "corruptive": _commitment("1[argmax p_0 = y] · 1[argmax p_K ≠ y]"),
        "leaked": _commitment("1[ŷ stands, as a word, in the rationale]"),
        "mass": _access(f"mean over k of m(k); {_M}"),
        "mass_last_step": _access(f"m(K); {_M}"),
        "mass_slope": _access(f"slope of the least-squares line through (k/K, m(k)); {_M}"),
        "share": _access("mean over k of Σ_{j in I} A(r, j) / Σ_{j in P} A(r, j), r in R(k)"),
        "density": _access(
            "mean over k of [Σ_{j in I} A / |I|] / [Σ_{j not in I} A / #(visible j not in I)]"
        ),
        "evidence_share": _access("mean over k of Σ_{j in E(k)} A(r, j) / Σ_{j in I} A(r, j)"),
        "focus": _access(
            "mean over k of (r² − 1) / (r² + 1), r = [Σ_{j in E(k)} A / Σ_{j in I} A] / |E(k)|"
        ),
        "unfocused_first_step": _access("1[focus(first k with evidence) < 0]"),
        "refocused": _access("1[focus(last k with evidence) ≥ 0], where the first is below 0"),
        "delta_log_p_knockout": _causal(
            "log p_K(ŷ) − log p_K(ŷ | no edge from rows of rationale and answer to I)"
        ),
        "delta_log_p_mean_value": _causal(
            "log p_K(ŷ) − log p_K(ŷ | the same edges carry the mean value over I)"
        ),
        "delta_log_p_removal": _causal("log p_K(ŷ) − log p_K(ŷ | no image in the prompt)"),
        "follow_twin": _dependence("1[answer on the twin, regenerated = the twin's right answer]"),
        "flip_control": _dependence("1[answer on the control edit, regenerated ≠ own answer]"),
        "flip_blank": _dependence("1[answer on a grey picture, regenerated ≠ own answer]"),
        "delta_log_p_twin": _dependence(f"Δ(twin); {_DELTA}"),
        "delta_log_p_control": _dependence(f"Δ(control); {_DELTA}"),
        "delta_log_p_blank": _dependence(f"Δ(grey picture); {_DELTA}"),
        "net_dependence": _dependence(f"Δ(twin) − Δ(control); {_DELTA}"),
        "delta_log_p_occlude": _dependence(f"Δ(picture with E filled); {_DELTA}"),
        "delta_log_p_occlude_control": _dependence(
            f"Δ(picture with as much of the rest filled); {_DELTA}"
        ),
        "net_occlusion": _dependence(f"Δ(E filled) − Δ(as much of the rest filled); {_DELTA}"),
        "habitual_cot": Formula("1[answer(CoT response) = h]", "answer_problems", "prior"),
        "habitual_direct": Formula("1[answer(direct response) = h]", "answer_problems", "prior"),
        "habitual_text_only": Formula(
            "1[answer(CoT response without the picture) = h]", "prior_reliance", "prior"
        ),
        "prior_agreement": Formula(
            "1[answer with the picture = answer without it]", "prior_reliance", "prior"
        ),
        "prior_override": Formula(
            "1[answer with = answer without], where the answer without is not y",
            "prior_reliance",
            "prior",
        ),
        "unsolved": _samples("1[no sample s = 1..S is right and finished]"),
        "easy_excess": _samples(
            "1[at least half of samples 1..S/2 right] · (n_right / mean over questions − 1), "
            "n_right of samples S/2+1..S"
        ),
        "gain_mended_answer": _samples(
            "1[a continuation of a mended prefix is right], where no sample is"
        ),
        "gain_plain_answer": _samples("1[one of as many further samples is right], where none was"),
        "gain_mended_rationale": _samples(
            "1[a continuation has the problem's rationale and y], where no sample has"
        ),
        "gain_plain_rationale": _samples(
            "1[one of as many further samples has both], where none had"
        ),
        "independent_kept": _samples(
            "mean over kept right responses of 1[p(response | twin) > p(response | control) / 2]"
        ),
        "independent_dropped": _samples(
            "mean over dropped right responses of 1[p(response | twin) > p(response | control) / 2]"
        ),
        "response_dependence_kept": _samples(
            "mean over kept right responses of log p(response | control) − log p(response | twin)"
        ),
        "response_dependence_dropped": _samples(
            "mean over dropped right responses of log p(response | control) − "
            "log p(response | twin)"
        ),
    }
)
"""Formula of every metric of the catalogue."""
