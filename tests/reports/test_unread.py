"""Answers that were not read are the first thing that is said, and accuracy is left alone."""

import json
import re

import pandas as pd
import pytest
from markupsafe import escape

from attcot_analysis.cli import main
from attcot_analysis.measures.unread import (
    LIMIT,
    paragraph_note,
    unread_sentences,
    unread_shares,
    withheld,
)
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import format_summary
from attcot_analysis.show.html import render
from attcot_analysis.show.report.compare import compare_runs, report_run
from attcot_analysis.show.report.page import Report, comparison_table, write_report
from attcot_analysis.show.report.questions import answer_questions
from attcot_analysis.stats.catalogue import METRICS

NAMES = ("cot_sft", "att_cot")
RIGHTER = re.compile(
    r"(?<!Is it )right (more|less) often|accuracy[^.<]*(higher|lower|better|worse)(?! being)"
)


def tables(unread_before=0.0, unread_after=0.0, mode="cot"):
    """Differences in which the second model is better at everything, and both models' values."""
    metrics = (f"accuracy_{mode}", f"unparsed_{mode}", "habitual_cot", "mass")
    shares = {"cot_sft": unread_before, "att_cot": unread_after}
    values = [
        {"model": model, "metric": name, "value": share if name.startswith("unp") else 0.5}
        for model, share in shares.items()
        for name in metrics
    ]
    rows = [
        {"metric": name, "a": "cot_sft", "b": "att_cot", "value": 0.2, "low": 0.1, "high": 0.3}
        for name in metrics
    ]
    return pd.DataFrame(rows).assign(n_items=50, n_seeds=3, p_holm=0.001), pd.DataFrame(values)


@pytest.mark.parametrize(("share", "loud"), [(0.0, False), (LIMIT, False), (0.021, True)])
@pytest.mark.parametrize("whose", ["unread_before", "unread_after"])
def test_above_two_percent_nothing_is_said_about_accuracy(share, loud, whose):
    comparisons, summary = tables(**{whose: share})
    (found,) = answer_questions(comparisons, summary, METRICS)
    words = {answer.question.metric: answer.word for answer in found.answers}
    assert words["mass"] == "yes"
    if loud:
        assert found.headline.startswith("2.1% of the CoT answers of ")
        assert words["accuracy_cot"] == words["habitual_cot"] == "unparsed"
        assert not RIGHTER.search(found.headline.partition(";")[2])
        (said,) = [a for a in found.answers if a.question.metric == "accuracy_cot"]
        assert str(said).endswith("Unparsed. Accuracy, CoT: 2.1% of CoT answers are unparsed.")
    else:
        assert found.headline.startswith("Compared with CoT-SFT, Att-CoT is right more often")
        assert words["accuracy_cot"] == "yes" and found.unread == ()


def test_an_accuracy_that_came_with_the_responses_does_not_rest_on_reading():
    comparisons, summary = tables(unread_after=0.5)
    given = pd.DataFrame([{"model": "att_cot", "metric": "scored_cot", "value": 1.0}])
    scored = pd.concat([summary, given], ignore_index=True)
    assert "accuracy_cot" in withheld(summary, NAMES)
    assert "accuracy_cot" not in withheld(scored, NAMES) and "habitual_cot" in withheld(
        scored, NAMES
    )
    (found,) = answer_questions(comparisons, scored, METRICS)
    assert found.headline.startswith("50.0% of the CoT answers of Att-CoT could not be read")
    assert "their accuracy is what came with them" in found.headline
    words = {answer.question.metric: answer.word for answer in found.answers}
    assert words["accuracy_cot"] == "yes" and words["habitual_cot"] == "unparsed"


def test_contradictions_among_them_are_counted():
    _, summary = tables(unread_after=0.25)
    of = {"model": "att_cot", "metric": "contradicting_cot", "value": 0.1}
    (said,) = unread_sentences(pd.concat([summary, pd.DataFrame([of])], ignore_index=True))
    assert said.startswith(
        "25.0% of the CoT answers of att_cot could not be read (10.0% name a letter and another's "
        "words), so nothing is said"
    )
    (without,) = unread_sentences(summary)
    assert "could not be read, so nothing is said" in without


def test_direct_answers_say_nothing_of_those_with_a_rationale():
    comparisons, summary = tables(unread_after=0.5, mode="direct")
    unparsed = withheld(summary, ("cot_sft", "att_cot"))
    assert unparsed["accuracy_direct"] == "50.0% of direct answers are unparsed"
    assert "accuracy_cot" not in unparsed
    assert unread_shares(summary) == {("att_cot", "direct answers"): 0.5}
    (answered,) = answer_questions(comparisons, summary, METRICS)
    assert "unparsed" not in {answer.word for answer in answered.answers}
    for reasons, words in ((unparsed, "no verdict: 50.0%"), ({}, "higher, better")):
        table = comparison_table(comparisons, METRICS, reasons, 1)
        values = {"drawn": None, "pairs": [table], "metrics": METRICS}
        page = render("report/templates/comparisons.html.j2", values)
        (row,) = re.findall(r"<tr><th[^>]*><a [^>]*>Accuracy, direct.*?</tr>", page, re.DOTALL)
        assert words in row and ("higher" in row) == (not reasons)


def test_the_printed_summary_begins_with_it():
    _, summary = tables(unread_after=0.05)
    one = summary[summary["model"] == "att_cot"].assign(low=0.0, high=1.0, n_items=50)
    assert format_summary(one).splitlines()[0].startswith("5.0% of the CoT answers could not be")
    read = one.assign(value=0.0)
    assert format_summary(read).splitlines()[0].startswith("metric")
    assert "-" not in format_summary(one.assign(value=-1e-4, low=-2e-4, high=0.0)), "no -0.000"


@pytest.fixture
def unread(pair, tmp_path):
    """A run of which one answer of six was not read."""
    path = pair.copy("att_cot", tmp_path / "unread")
    run = RunFolder.open(path)
    table = run.read_table("answers_cot")
    first = table.index == 0
    table = table.assign(
        answer=table["answer"].mask(first),
        match=table["match"].mask(first, "none"),
        correct=table["correct"].mask(first, False).astype(bool),
        text=table["text"].mask(
            table.index == 5, "<think>\nOne paragraph. It goes on.\n</think>\n<answer>?</answer>"
        ),
        cut=table["cut"].mask(table.index == 5, "sentences"),
    )
    run.write_table("answers_cot", table, overwrite=True)
    return path


def test_a_comparison_and_its_page_begin_with_it(pair, unread, tmp_path):
    found = compare_runs(
        pair.path("cot_sft"), unread, tmp_path / "ab", names=NAMES, models=False, items=2
    )
    first, *rest = str(found).splitlines()
    assert first.startswith("16.7% of the CoT answers of Att-CoT could not be read")
    assert not any(RIGHTER.search(line) for line in rest)
    page = found.report.read_text()
    shown = page[page.index('<section id="answer"') :]
    sentence = escape(found.answers.unread[0])
    assert shown.index(sentence) == shown.index("<p") + len('<p class="headline">')
    compared = page[page.index('<section id="comparisons"') :]
    rows = re.findall(r"<tr>.*?</tr>", compared, re.DOTALL)
    (row,) = [row for row in rows if "accuracy, cot" in row.lower()]
    assert "no verdict: 16.7% of CoT answers are unparsed" in row
    assert not re.search(r"better|worse|higher|lower", row)
    assert any("1 of 6 rationales are one paragraph" in note for note in found.notes)
    held = json.loads((found.run.path / "results.json").read_text())
    assert held["unread"] == list(found.answers.unread) and held["headline"].startswith("16.7%")


def test_the_page_of_one_run_begins_with_it(pair, unread, tmp_path):
    page = report_run(unread, tmp_path / "one.html", problems=pair.folder / "problems").read_text()
    shown = page[page.index('<section id="answer"') :]
    first = re.search(r"<p[^>]*>([^<]*)", shown)[1]
    assert first.startswith("16.7% of the CoT answers")
    assert "1 of 6 rationales are one paragraph" in page
    read = report_run(
        pair.path("att_cot"), tmp_path / "read" / "one.html", problems=pair.folder / "problems"
    )
    assert "could not be read" not in read.read_text()


def test_commands_print_it_first(pair, unread, tmp_path, capsys):
    argv = ["compare", str(pair.path("cot_sft")), str(unread), "--out", str(tmp_path / "ab")]
    argv += ["--no-models", "--items", "1", "--names", "before", "after", "--quiet"]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("16.7% of the CoT answers of after could not be read")


def test_rationales_of_one_paragraph_are_counted():
    numbered = "<think>\n1. a\n2. b\n</think>\n<answer>x</answer>"
    whole = "<think>One paragraph. All of it.</think>\n<answer>x</answer>"
    lines = "<think>\na\nb\n</think>\n<answer>x</answer>"
    direct = "<answer>x</answer>"
    one = "<think>All of it is one sentence</think>\n<answer>x</answer>"

    def note(*texts):
        return paragraph_note(pd.DataFrame({"text": texts, "n_steps": 2}))

    assert note(numbered, lines, direct) is None
    assert note(numbered, whole, direct, whole).startswith("2 of 3 rationales are one paragraph")
    assert "1 of 2 rationales are one step (K = 1)" in note(numbered, one)


def test_where_nothing_can_be_said_the_tables_stay(tmp_path):
    comparisons, summary = tables(unread_after=0.5)
    rests = comparisons["metric"].isin(["accuracy_cot", "habitual_cot"])
    summary = summary.assign(low=0.0, high=1.0, n_items=50, n_seeds=1)
    report = Report(title="t", summary=summary, comparisons=comparisons[rests])
    page = write_report(report, tmp_path / "report.html").read_text()
    assert page.count("no verdict: 50.0% of CoT answers are unparsed") == 2
