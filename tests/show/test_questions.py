"""The questions at the top of a report: words that only the interval decides."""

import pandas as pd
import pytest

from attcot_analysis.errors import ShowError
from attcot_analysis.show.report.page import comparison_table
from attcot_analysis.show.report.questions import QUESTIONS, answer_questions
from attcot_analysis.stats.catalogue import METRICS


def tables(**intervals):
    """A comparison and a summary of two arms; metric → (low, high)."""
    rows, values = [], []
    for metric, (low, high) in intervals.items():
        rows.append(
            {
                "metric": metric,
                "a": "cot_sft",
                "b": "att_cot",
                "value": (low + high) / 2,
                "low": low,
                "high": high,
                "n_items": 50,
                "n_seeds": 3,
                "p_holm": 0.0002,
            }
        )
        values += [
            {"model": "cot_sft", "metric": metric, "value": 0.25},
            {"model": "att_cot", "metric": metric, "value": 0.5},
        ]
    return pd.DataFrame(rows), pd.DataFrame(values)


def asked(**intervals):
    (found,) = answer_questions(*tables(**intervals), METRICS)
    return found


def test_yes_no_and_inconclusive_follow_the_wanted_direction_of_each_metric():
    found = asked(accuracy_cot=(0.1, 0.2), p0_final=(0.1, 0.2), habitual_cot=(-0.2, -0.1))
    words = {answer.question.metric: answer.word for answer in found.answers}
    assert words == {"accuracy_cot": "yes", "p0_final": "no", "habitual_cot": "yes"}
    open_ones = asked(accuracy_cot=(-0.1, 0.2), p0_final=(0.0, 0.2), mass=(float("nan"),) * 2)
    assert {answer.word for answer in open_ones.answers} == {"inconclusive"}


def test_the_headline_names_every_verdict_once():
    found = asked(
        accuracy_cot=(-0.2, -0.1),
        follow_twin=(-0.2, 0.1),
        commitment_position=(0.1, 0.2),
        mass=(0.1, 0.2),
        habitual_cot=(-0.1, 0.1),
    )
    assert found.headline == (
        "Compared with CoT-SFT, Att-CoT decides later and looks more at the picture while it "
        "writes (at the evidence: not measured), but is right less often. Inconclusive: whether it "
        "follows a changed picture more often or gives the habitual answer less often."
    )
    nothing = asked(accuracy_cot=(-0.2, 0.1))
    assert "differs in nothing that these items can decide" in nothing.headline


def test_one_run_of_each_is_about_this_checkpoint_and_nothing_is_better():
    comparisons, summary = tables(accuracy_cot=(0.1, 0.4), mass=(-0.1, 0.4))
    (found,) = answer_questions(comparisons.assign(n_seeds=1), summary, METRICS)
    said = "Compared with CoT-SFT, this checkpoint of Att-CoT is right more often."
    assert found.headline.startswith(said)
    rows = comparison_table(comparisons.assign(n_seeds=1), METRICS, {}, 1)["rows"]
    assert str(rows["accuracy_cot"]["verdict"]) == "higher, this checkpoint"
    assert str(rows["mass"]["verdict"]) == "inconclusive"
    several = comparison_table(comparisons, METRICS, {}, 1)["rows"]
    assert str(several["accuracy_cot"]["verdict"]) == "higher, better"


def test_a_sentence_has_both_values_the_difference_its_interval_and_p():
    (answer,) = asked(accuracy_cot=(0.1, 0.4)).answers
    assert str(answer).replace("\N{NO-BREAK SPACE}", " ") == (
        "Is it right more often? Yes. Accuracy, CoT: CoT-SFT 0.250, Att-CoT 0.500, difference "
        "+0.250 [+0.100, +0.400], p (Holm) < 0.001."
    )


@pytest.mark.parametrize(
    ("share", "said"),
    [((-0.02, -0.01), "less"), ((0.01, 0.02), "more"), ((-0.01, 0.02), "inconclusive")],
)
def test_looking_more_is_never_said_without_the_evidence(share, said):
    found = asked(mass=(0.1, 0.2), evidence_share=share, focus=(-0.06, -0.04))
    assert f"looks more at the picture while it writes (at the evidence: {said})" in found.headline
    looks = next(one for one in found.answers if one.question.metric == "mass")
    assert "; mass on the step's evidence: CoT-SFT 0.250, Att-CoT 0.500, diff" in looks.numbers
    assert "; focus on the step's evidence: CoT-SFT 0.250" in looks.numbers
    bare = asked(mass_slope=(-0.2, -0.1))
    assert "as it writes on (at the evidence: not measured)" in bare.headline
    assert bare.answers[0].numbers.endswith(
        "; how much of it lies on the evidence was not measured"
    )
    undecided = asked(mass=(-0.1, 0.2), evidence_share=share)
    assert "looks more at the picture while it writes (" not in undecided.headline


def test_a_verdict_that_correction_takes_back_is_called_uncorrected_everywhere():
    comparisons, summary = tables(accuracy_cot=(0.1, 0.4), mass=(-0.1, 0.4))
    for p, seeds, said, verdict in (
        (0.2, 3, "Yes, uncorrected", "higher, better, uncorrected"),
        (0.2, 1, "Yes, uncorrected", "higher, this checkpoint, uncorrected"),
        (0.05, 3, "Yes", "higher, better"),
    ):
        table = comparisons.assign(p_holm=p, n_seeds=seeds)
        (found,) = answer_questions(table, summary, METRICS)
        assert [answer.said for answer in found.answers] == [said, "Inconclusive"]
        assert f"? {said}. " in str(found.answers[0]) and f"p (Holm) {p:.3f}" in str(
            found.answers[0]
        )
        rows = comparison_table(table, METRICS, {}, 1)["rows"]
        assert [str(rows[name]["verdict"]) for name in rows] == [verdict, "inconclusive"]


def test_a_p_that_knows_no_seeds_is_not_said_of_several():
    """Tables of earlier versions hold such."""
    comparisons, summary = tables(accuracy_cot=(0.1, 0.4))
    for seeds, test, there in ((3, "sign-flip", False), (1, "sign-flip", True), (3, "t", True)):
        table = comparisons.assign(n_seeds=seeds, test=test, p_value=0.0001)
        (found,) = answer_questions(table, summary, METRICS)
        assert ("p (Holm)" in found.answers[0].numbers) == there
        shown = comparison_table(table, METRICS, {}, 1)
        assert shown["rows"]["accuracy_cot"]["p"] == ["<0.001" if there else "–"] * 2
        assert shown["inference"] == (test if there else "")


def test_what_was_not_measured_is_not_asked_and_every_question_has_its_metric():
    assert asked(flip_blank=(0.1, 0.2)).answers == ()
    assert {question.metric for question in QUESTIONS} <= set(METRICS)
    for question in QUESTIONS:
        better = METRICS[question.metric].better
        assert better is None or better == question.wanted


def test_tables_without_interval_are_refused():
    comparisons, summary = tables(mass=(0.1, 0.2))
    with pytest.raises(ShowError, match="high"):
        answer_questions(comparisons.drop(columns="high"), summary, METRICS)
