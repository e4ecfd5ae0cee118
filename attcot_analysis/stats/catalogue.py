"""The metric catalogue: every metric's name, meaning and falsifier, in one place."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from attcot_analysis.errors import MeasureError

Axis = Literal["accuracy", "commitment", "access", "dependence", "prior", "samples"]

Better = Literal["higher", "lower"]


_PAPER = "reconstruction of arXiv 2606.01558, whose formulas are not public"

_VISTA = "reconstruction; yields of VISTA's sampling, arXiv 2605.11931"

_VISTA_TRUTH = "ours; a test of the filter of VISTA, arXiv 2605.11931, against the twin"


@dataclass(frozen=True)
class Metric:
    """One metric: a number per item, averaged over items.

    Attributes:
        name: Value of the tables' ``metric`` column.
        title: What a reader sees.
        axis: Which question it belongs to.
        unit: Unit of its values.
        better: The direction that is an improvement; ``None`` where neither is, by itself.
        definition: What is computed, per item.
        falsifier: What would show that the usual reading of it is wrong.
        source: Paper and section, or "reconstruction".
        binary: Whether an item's value is 0 or 1.

    Raises:
        MeasureError: If a text is missing, or axis or direction is unknown.
    """

    name: str
    title: str
    axis: Axis
    unit: str
    better: Better | None
    definition: str
    falsifier: str
    source: str
    binary: bool = False

    @property
    def bounded(self) -> bool:
        """Whether its values lie between 0 and 1, and differences between -1 and 1."""
        share = self.unit.startswith("share of ") and not self.unit.endswith("per rationale")
        return share or self.unit == "probability"

    def __post_init__(self) -> None:
        """Refuse a metric nobody could read."""
        for field in ("name", "title", "unit", "definition", "falsifier", "source"):
            if not getattr(self, field).strip():
                raise MeasureError(f"Metric {self.name!r} has no {field}; write one.")
        if self.axis not in get_args(Axis):
            raise MeasureError(
                f"Metric {self.name!r} has axis {self.axis!r}; choose one of "
                f"{', '.join(get_args(Axis))}."
            )
        if self.better not in (None, *get_args(Better)):
            raise MeasureError(
                f"Metric {self.name!r} has better={self.better!r}; choose 'higher', 'lower' or "
                "None."
            )


def _share(
    name: str,
    title: str,
    axis: Axis,
    better: Better | None,
    definition: str,
    falsifier: str,
    source: str,
) -> Metric:
    return Metric(
        name, title, axis, "share of items", better, definition, falsifier, source, binary=True
    )


_ALL = (
    _share(
        "accuracy_cot",
        "accuracy, CoT",
        "accuracy",
        "higher",
        "The generated response in CoT mode gives the right answer; an answer that cannot be told "
        "counts as wrong.",
        "Not a gain in reasoning if unparsed_cot falls by as much, or if the gain is on items "
        "whose habitual answer is right.",
        "standard",
    ),
    _share(
        "accuracy_direct",
        "accuracy, direct",
        "accuracy",
        "higher",
        "The generated response in direct mode (no rationale) gives the right answer.",
        "Says nothing about CoT if unparsed_direct is high: a model fine-tuned on rationales may "
        "have unlearned the direct form.",
        "standard; arXiv 2606.01558 compares CoT with it",
    ),
    _share(
        "unparsed_cot",
        "no answer told, CoT",
        "accuracy",
        "lower",
        "No candidate can be told from the generated CoT response.",
        "A matter of form, not of sight: rises with too small a length limit (see finished).",
        "standard",
    ),
    _share(
        "unparsed_direct",
        "no answer told, direct",
        "accuracy",
        "lower",
        "No candidate can be told from the generated direct response.",
        "A matter of form, not of sight: see the responses' text.",
        "standard",
    ),
    Metric(
        "p0_final",
        "p(final answer) before the first step",
        "commitment",
        "probability",
        "lower",
        "Probability, over the candidates, of the final answer when the answer is forced before "
        "any step is written.",
        "High values are no premature commitment where direct answers are right as often "
        "(accuracy_direct, p0_answer): the item is then just easy. Low values are no deliberation "
        "if the filler rationale raises p as much as the real one, and chance is no proof of an "
        "open mind on balanced items: a model that is certain of the habit and corrects itself "
        "ends elsewhere. p0_habitual tells, and so do items on which the habit is right.",
        f"{_PAPER}; early answering: Lanham et al., arXiv 2307.13702",
    ),
    Metric(
        "p0_answer",
        "p(right answer) before the first step",
        "commitment",
        "probability",
        None,
        "The same for the right answer: what the model can see without a rationale.",
        "Above chance without the picture as well (habitual_text_only), it shows a prior, not "
        "sight.",
        f"{_PAPER}; early answering: Lanham et al., arXiv 2307.13702",
    ),
    Metric(
        "p0_habitual",
        "p(habitual answer) before the first step",
        "commitment",
        "probability",
        "lower",
        "The same for the answer that the question's wording suggests.",
        "No textual prior where it is no higher than chance (one over the number of candidates), "
        "or equal when the habit in the wording is exchanged.",
        _PAPER,
    ),
    Metric(
        "commitment_position",
        "commitment position",
        "commitment",
        "share of the rationale",
        "higher",
        "First step from which on the final answer stays the most probable, over the number of "
        "steps: 0 before the first, 1 only after the last.",
        "Early does not mean decided where p is flat near chance: the most probable of near "
        "equals can stay first by luck. Late means nothing where the last step states the answer "
        "(leaked): the answer is then read off the text.",
        _PAPER,
    ),
    Metric(
        "commitment_area",
        "commitment area",
        "commitment",
        "probability",
        "lower",
        "Area under the forced-answer probability of the final answer over the rationale "
        "(trapezoid over step/steps): high when decided early.",
        "Falls as well when the model merely gets less certain throughout, final answer "
        "included: compare accuracy_cot and the curve's end. Not the rationale's doing if the "
        "filler rationale's area is the same.",
        f"{_PAPER}; area as in ConfLens, arXiv 2609.35074",
    ),
    _share(
        "premature",
        "premature commitment",
        "commitment",
        "lower",
        "Commitment position at most 0.25.",
        "No failure on items that are answered right: see premature_wrong. Steps are coarse: with "
        "fewer than four, only a decision before the first step counts.",
        _PAPER,
    ),
    _share(
        "premature_wrong",
        "premature and wrong",
        "commitment",
        "lower",
        "Premature commitment to a final answer that is wrong.",
        "Bounded by the error rate: it falls when accuracy rises for any reason, so hold it "
        "against premature.",
        _PAPER,
    ),
    _share(
        "corrective",
        "corrected by the rationale",
        "commitment",
        "higher",
        "The forced answer is wrong before the first step and right after the last.",
        "Not the rationale's content if the filler rationale corrects as many.",
        "reconstruction; cf. arXiv 2604.14888",
    ),
    _share(
        "corruptive",
        "corrupted by the rationale",
        "commitment",
        "lower",
        "The forced answer is right before the first step and wrong after the last.",
        "Not the rationale's content if the filler rationale corrupts as many.",
        "reconstruction; cf. arXiv 2604.14888",
    ),
    _share(
        "leaked",
        "rationale states the final answer",
        "commitment",
        None,
        "The final answer stands, as a word, somewhere in the rationale.",
        "Where it does, forced answers after it are read off the text: commitment from there on "
        "is no hidden decision. A word can also stand there by chance, or be denied.",
        "leak check; reconstruction",
    ),
    Metric(
        "mass",
        "visual mass",
        "access",
        "share of attention",
        None,
        "Attention from the rows that predict rationale tokens onto image tokens, averaged over "
        "steps, layers and heads.",
        "Attention is not evidence: more mass without more follow_twin or evidence_share is mass "
        "on sinks or background. It also falls as the model's own text grows: see share.",
        f"{_PAPER}; sinks: arXiv 2503.03321",
    ),
    Metric(
        "mass_last_step",
        "visual mass, last step",
        "access",
        "share of attention",
        None,
        "Visual mass of the last step only.",
        "As for mass; the last step has the most text before it.",
        _PAPER,
    ),
    Metric(
        "mass_slope",
        "visual mass, slope",
        "access",
        "share of attention per rationale",
        None,
        "Least-squares slope of visual mass against step/steps.",
        "A fall that share does not show is dilution by the model's own text, not turning away.",
        _PAPER,
    ),
    Metric(
        "share",
        "visual share of the prompt",
        "access",
        "share of attention",
        None,
        "Visual mass over the mass on the whole prompt (system, image, question): free of "
        "dilution by the response.",
        "As for mass; and it rises if only the question loses attention.",
        "segment-normalised form as in VISTA, arXiv 2605.11931",
    ),
    Metric(
        "density",
        "visual density",
        "access",
        "ratio",
        None,
        "Mean attention per image token over mean attention per other visible token.",
        "Ruled by the first tokens' sinks: with a strong text sink it is low at any mass.",
        "reconstruction; length-free form of visual mass",
    ),
    Metric(
        "evidence_share",
        "mass on the step's evidence",
        "access",
        "share of visual mass",
        "higher",
        "Share of a step's visual mass that lies on the evidence boxes of that step, averaged over "
        "steps.",
        "No grounding where it is no higher than the boxes' share of the picture's area, or where "
        "the text already says what stands in the box.",
        "reconstruction; region ratio as in SAYO, arXiv 2602.08241",
    ),
    Metric(
        "focus",
        "focus on the step's evidence",
        "access",
        "focus score",
        "higher",
        "(r² - 1) / (r² + 1), where r is a step's attention on its evidence boxes over its visual "
        "mass, divided by the boxes' share of the picture; averaged over steps. 0 where attention "
        "is spread evenly, 0.6 at twice that, -0.6 at half.",
        "Where in the picture, not how much: it can rise while mass falls. No grounding where the "
        "text already says what stands in the box.",
        "score of SAYO, arXiv 2602.08241, on every step's own boxes and all layers",
    ),
    _share(
        "unfocused_first_step",
        "first step off its evidence",
        "access",
        "lower",
        "Focus of the first step that has evidence is below 0: its boxes get less attention than "
        "as much of the rest.",
        "Harmless where the evidence was read by earlier rows, or answers are right all the same.",
        "reconstruction of SAYO's early misalignment, arXiv 2602.08241",
    ),
    _share(
        "refocused",
        "comes back to the evidence",
        "access",
        "higher",
        "Of items whose first step is off its evidence: the last step that has evidence is not.",
        "No correction where as many of the other items' last steps are on theirs. The items it is "
        "defined on differ between arms.",
        "reconstruction of SAYO's correction, arXiv 2602.08241",
    ),
    Metric(
        "delta_log_p_knockout",
        "log p lost without the image's edges",
        "access",
        "nats",
        "higher",
        "Log-probability (over the candidates) of the item's own answer, forced after its own "
        "rationale, minus the same with every edge cut from the rows of rationale and answer to "
        "the image, in all layers.",
        "Near zero is no blindness where the question's rows have read the image before: see "
        "delta_log_p_removal. High may be the shock of attention forced elsewhere if "
        "delta_log_p_mean_value stays low.",
        "reconstruction; attention knockout as in Geva et al., arXiv 2304.14767",
    ),
    Metric(
        "delta_log_p_mean_value",
        "log p lost on mean image values",
        "access",
        "nats",
        "higher",
        "As delta_log_p_knockout, but the edges stay and carry the mean image value.",
        "Low where the mean of the picture says enough, as for its overall colour.",
        "counterfactual of CFPO, arXiv 2606.23206, on all edges of the rows",
    ),
    Metric(
        "delta_log_p_removal",
        "log p lost without the image",
        "access",
        "nats",
        "higher",
        "Log-probability (over the candidates) of the item's own answer, forced after its own "
        "rationale, minus the same with no image in the prompt.",
        "Near zero where the rationale states the evidence: the answer is copied from the text.",
        "image removal as in TVC, arXiv 2503.13360, after the last step",
    ),
    _share(
        "follow_twin",
        "follows the twin",
        "dependence",
        "higher",
        "With the twin's picture, rationale regenerated, the answer is the twin's right answer.",
        "Not dependence on the evidence if flip_control is as high: any edit would do. Bounded by "
        "accuracy: a blind or weak model fails it too.",
        f"{_PAPER}; semantic edit with recomputed answer",
    ),
    _share(
        "flip_control",
        "flips on the control edit",
        "dependence",
        "lower",
        "With the control edit's picture, rationale regenerated, the answer is another one.",
        "Unsteady generation looks the same: repeat with another noise on the picture.",
        f"{_PAPER}; matched control as in CED, arXiv 2608.08021",
    ),
    _share(
        "flip_blank",
        "flips on a blank picture",
        "dependence",
        "higher",
        "With a mid-grey picture, rationale regenerated, the answer is another one.",
        "A grey picture is unlike anything trained on, and a guess flips in (n-1)/n of items by "
        "chance: high values alone show no use of the evidence.",
        _PAPER,
    ),
    Metric(
        "delta_log_p_twin",
        "log p lost on the twin",
        "dependence",
        "nats",
        "higher",
        "Log-probability (over the candidates) of the item's own answer, forced after its own "
        "rationale, on its picture minus on the twin's.",
        "Near zero is no blindness where the rationale states the evidence: the answer is copied "
        "from the text. High is no use of the evidence if delta_log_p_control is as high.",
        f"{_PAPER} (CVD, fixed rationale)",
    ),
    Metric(
        "delta_log_p_control",
        "log p lost on the control edit",
        "dependence",
        "nats",
        "lower",
        "The same with the control edit, which must not change the answer.",
        "Above zero it measures sensitivity to any change of the picture.",
        f"{_PAPER}; matched control as in CED, arXiv 2608.08021",
    ),
    Metric(
        "delta_log_p_blank",
        "log p lost on a blank picture",
        "dependence",
        "nats",
        "higher",
        "The same with a mid-grey picture.",
        "A grey picture is unlike anything trained on: the loss may be surprise, not evidence.",
        _PAPER,
    ),
    Metric(
        "net_dependence",
        "net dependence",
        "dependence",
        "nats",
        "higher",
        "Log p lost on the twin minus log p lost on the control edit, rationale fixed: what is "
        "due to the evidence.",
        "Near zero is no blindness where the rationale states the evidence. Scales with "
        "confidence: a surer model loses more nats for the same flip, so hold it against "
        "follow_twin.",
        f"{_PAPER}; net form as in CED, arXiv 2608.08021",
    ),
    Metric(
        "delta_log_p_occlude",
        "log p lost with the evidence hidden",
        "dependence",
        "nats",
        "higher",
        "Log-probability (over the candidates) of the item's own answer, forced after its own "
        "rationale, on its picture minus on the same with the evidence boxes of all steps filled.",
        "A filled box is unlike anything trained on: no use of the evidence if "
        "delta_log_p_occlude_control is as high.",
        f"{_PAPER} (key-region occlusion)",
    ),
    Metric(
        "delta_log_p_occlude_control",
        "log p lost with as much of the rest hidden",
        "dependence",
        "nats",
        "lower",
        "The same with boxes of the same shapes and areas that overlap no evidence.",
        "Above zero it measures sensitivity to filled boxes, or evidence that the boxes miss.",
        f"{_PAPER}; matched control as in CED, arXiv 2608.08021",
    ),
    Metric(
        "net_occlusion",
        "net dependence, occlusion",
        "dependence",
        "nats",
        "higher",
        "Log p lost with the evidence hidden minus log p lost with as much of the rest hidden, "
        "rationale fixed. Missing where no room is left for the control.",
        "As for net_dependence; and a box of evidence may hold more than the evidence.",
        f"{_PAPER}; net form as in CED, arXiv 2608.08021",
    ),
    _share(
        "habitual_cot",
        "habitual answers, CoT",
        "prior",
        "lower",
        "The generated CoT answer is the habitual one.",
        "No prior where it is no higher than the share of items whose habitual answer is right "
        "plus errors spread evenly; only on balanced items is that one over the candidates.",
        f"{_PAPER}; testbed",
    ),
    _share(
        "habitual_direct",
        "habitual answers, direct",
        "prior",
        "lower",
        "The generated direct answer is the habitual one.",
        "As for habitual_cot.",
        f"{_PAPER}; testbed",
    ),
    _share(
        "habitual_text_only",
        "habitual answers without the picture",
        "prior",
        None,
        "The answer generated without the picture is the habitual one: how strong the prior in "
        "the weights is.",
        "Without a picture the model is off its training data; one fixed answer to everything "
        "looks like a prior on the items that share it.",
        _PAPER,
    ),
    _share(
        "prior_agreement",
        "agrees with the text-only answer",
        "prior",
        None,
        "The CoT answer with the picture equals the one without it.",
        "Both can be right for different reasons, and agree by chance: see prior_override.",
        _PAPER,
    ),
    _share(
        "prior_override",
        "keeps a wrong text-only answer",
        "prior",
        "lower",
        "Of items whose text-only answer is wrong: the CoT answer with the picture equals it.",
        "No reliance where it is no higher than evenly spread errors would give. The items it is "
        "defined on differ between arms.",
        f"reconstruction; cf. {_PAPER.removeprefix('reconstruction of ')}",
    ),
    _share(
        "unsolved",
        "no right sample",
        "samples",
        "lower",
        "None of the K responses sampled to a training question gives its right answer and comes "
        "to its end.",
        "With few candidates right answers come by chance, so it understates what is hard.",
        _VISTA,
    ),
    Metric(
        "easy_excess",
        "excess of right samples on easy questions",
        "samples",
        "excess share of samples",
        None,
        "The right samples of a training question over the mean question's, minus 1; 0 unless the "
        "question is easy. Easy is what half of the first half of its samples get right, counted "
        "are those of the second half. The mean is the easy questions' share of the right samples "
        "minus their share of the questions.",
        "Zero where all questions are equally hard. Some excess is inevitable where they are not; "
        "equal responses count once in training, which evens it out again.",
        _VISTA,
    ),
    _share(
        "gain_mended_answer",
        "gained an answer by mended prefixes",
        "samples",
        "higher",
        "Of training questions without a right sample: one of the continuations of mended prefixes "
        "gives the right answer.",
        "No merit of the prefix where as many plain samples gain as much (gain_plain_answer); "
        "guesses count.",
        _VISTA,
    ),
    _share(
        "gain_plain_answer",
        "gained an answer by plain samples",
        "samples",
        None,
        "Of the same questions: one of as many further plain samples gives the right answer.",
        "Guesses count; plain samples are longer, so that equal numbers are not equal tokens.",
        _VISTA,
    ),
    _share(
        "gain_mended_rationale",
        "gained a rationale by mended prefixes",
        "samples",
        "higher",
        "Of training questions without a sample that has the problem's own rationale and the right "
        "answer: one of the continuations of mended prefixes has both.",
        "As for gain_mended_answer (gain_plain_rationale); and other rationales may be right as "
        "well.",
        _VISTA,
    ),
    _share(
        "gain_plain_rationale",
        "gained a rationale by plain samples",
        "samples",
        None,
        "Of the same questions: one of as many further plain samples has both.",
        "As for gain_plain_answer; and other rationales may be right as well.",
        _VISTA,
    ),
    Metric(
        "independent_kept",
        "image-independent among the kept",
        "samples",
        "share of responses",
        "lower",
        "Of a training question's right responses that a filter keeps: the share that is more than "
        "half as probable on the twin's picture as on the control's.",
        "A response that states no evidence is as probable on the twin whatever it was made from.",
        _VISTA_TRUTH,
    ),
    Metric(
        "independent_dropped",
        "image-independent among the dropped",
        "samples",
        "share of responses",
        None,
        "The same of those that it drops.",
        "As for independent_kept, and a filter that drops at random drops as many.",
        _VISTA_TRUTH,
    ),
    Metric(
        "response_dependence_kept",
        "log p of the kept lost on the twin",
        "samples",
        "nats",
        "higher",
        "Log-probability of a training question's kept right responses on the control's picture "
        "minus on the twin's, whole responses, their mean.",
        "As for independent_kept; long responses that repeat the evidence lose more.",
        _VISTA_TRUTH,
    ),
    Metric(
        "response_dependence_dropped",
        "log p of the dropped lost on the twin",
        "samples",
        "nats",
        None,
        "The same of the dropped ones.",
        "As for response_dependence_kept.",
        _VISTA_TRUTH,
    ),
)


METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})

"""All metrics by name, grouped by axis."""


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
