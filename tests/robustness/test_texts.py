"""Rationales and candidates at the edges, and text of any kind in every field."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from faults import HOSTILE, sentence
from show.samples import make_item, make_metrics, make_summary

from attcot_analysis.errors import ProblemError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.problems import (
    Step,
    load_problems,
    parse_response,
    render_response,
    save_problems,
)
from attcot_analysis.runs.measure import ResponseStages, Settings, Stages
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.explorer.page import explorer_fragment, explorer_page
from attcot_analysis.show.report.page import Report, write_report
from attcot_lab.testbed.arrows import generate_arrows
from benchmarks.explorer import planted_record


@pytest.fixture(scope="module")
def problems():
    return generate_arrows(3, seed=0)


# --- rationales and candidates ------------------------------------------------------------------


def test_a_response_without_steps_is_left_out_and_none_at_all_is_said(random_mllm, problems, fault):
    def tokens(text):
        return random_mllm.tokenizer(text, add_special_tokens=False)["input_ids"]

    bare = [tokens(text) for text in ("<answer>red</answer>", "", "<think>\n</think>\n<answer>")]
    stages = Stages(random_mllm, problems, Settings(controls=("rationale",)))
    with fault("rationale without steps"):
        with pytest.warns(UserWarning, match="None of the 3 responses has a rationale step"):
            found = ResponseStages(stages, bare)
        for part in (found.commitment, found.access, found.maps):
            assert len(part(range(3)).rows) == 0
    whole = tokens(render_response(problems[0].steps, problems[0].answer))
    with fault("rationale without steps"):
        found = ResponseStages(stages, [whole, *bare[1:]])
        for part in (found.commitment, found.access, found.maps):
            assert set(part(range(3)).rows["item"]) == {problems[0].id}
            assert len(part([1, 2]).rows) == 0


def test_a_rationale_of_four_thousand_tokens_is_measured(random_mllm, problems, fault):
    # A token per letter and sign, as the tiny tokenizer has it.
    steps = [f"{'xq' * 110} {number}" for number in range(20)]
    response = render_response(steps, problems[0].answer)
    assert len(random_mllm.tokenizer(response)["input_ids"]) > 4000
    with fault("4k-token rationale"):
        table = commitment(random_mllm, problems[:1], [response], controls=("rationale",)).table
        assert table["step"].max() == 20
        access = visual_access(random_mllm, problems[:1], [response], layers=[1]).table
        assert access["step"].max() == 20 and access["mass"].between(0, 1).all()


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (("a",), "at least two"),
        (("a", "a"), "all different"),
        (("a", ""), "is empty"),
        (("a", " \t"), "is empty"),
    ],
)
def test_candidates_that_cannot_be_told_apart_are_refused(problems, fault, candidates, said):
    with fault("empty or duplicate candidates"), pytest.raises(ProblemError, match=said) as caught:
        dataclasses.replace(
            problems[0], candidates=candidates, answer="a", habitual=None, twin=None, control=None
        )
    sentence(caught.value)


# --- any text -----------------------------------------------------------------------------------


def hostile_problem(text):
    problem = generate_arrows(1, seed=0)[0]
    candidates = (text, f"{text} {text}", *problem.candidates)
    steps = tuple(Step(f"{text} {step.text}", step.boxes) for step in problem.steps)
    return dataclasses.replace(
        problem,
        question=text,
        candidates=candidates,
        steps=steps,
        habitual=text,
        metadata={text: text},
    )


def test_any_text_survives_the_disk(tmp_path, fault):
    given = hostile_problem(HOSTILE)
    with fault("unicode and HTML in every field"):
        save_problems([given], tmp_path / "set")
        (found,) = load_problems(tmp_path / "set")
        for name in ("question", "candidates", "steps", "habitual", "metadata"):
            assert getattr(found, name) == getattr(given, name)


@pytest.mark.parametrize("sign", ["\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_step_is_one_line_by_every_count(sign, fault):
    with fault("unicode and HTML in every field"):
        with pytest.raises(ProblemError, match="several lines") as caught:
            Step(f"first{sign}2. second")
        sentence(caught.value)
    written = render_response(["first\t2. second"], "x")
    assert len(parse_response(written).steps) == 1


@pytest.mark.parametrize("field", ["question", "answer", "candidates", "steps", "metadata"])
def test_half_characters_are_refused_where_they_are_read(tmp_path, fault, field):
    save_problems(generate_arrows(1, seed=0), tmp_path / "set")
    path = tmp_path / "set" / "problems.jsonl"
    record = json.loads(path.read_text())
    half = "\ud800"
    change = {"candidates": [half, "b"], "steps": [{"text": half}], "metadata": {"x": half}}
    record[field] = change.get(field, half)
    path.write_text(json.dumps(record))
    with fault("unicode and HTML in every field"):
        with pytest.raises(ProblemError, match="surrogate") as caught:
            load_problems(tmp_path / "set")
        sentence(caught.value).encode()


def test_any_text_survives_a_run_folder(tmp_path, fault):
    run = RunFolder.create(tmp_path / "run", {"seed": 0, "config": {HOSTILE: HOSTILE}})
    table = pd.DataFrame({"item": [HOSTILE], "text": [HOSTILE]})
    with fault("unicode and HTML in every field"):
        run.write_table("t", table)
        assert RunFolder.open(run.path).read_table("t").equals(table)
        assert run.manifest["config"] == {HOSTILE: HOSTILE}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "srcdoc" and value:
                inner = Page(value)
                self.tags |= inner.tags
                self.text += inner.text

    def handle_data(self, data):
        self.text += data


def report(folder):
    """A page with hostile text in whatever comes from models and data; figures have tests."""
    metrics, problem = make_metrics(), hostile_problem(HOSTILE)
    summary = make_summary(metrics).head(1).assign(model=HOSTILE)
    report = Report(
        title=HOSTILE,
        summary=summary,
        metrics=metrics,
        examples=[make_item(problem, {HOSTILE: HOSTILE, "other": None}, HOSTILE)],
        lead=[HOSTILE],
        notes=[HOSTILE],
        manifest={HOSTILE: {HOSTILE: [HOSTILE]}},
    )
    return write_report(report, folder / "report.html").read_text()


def test_the_parser_sees_what_is_not_escaped():
    found = Page(f"<p>{HOSTILE}</p>")
    assert "xss-canary" in found.tags and "onload" in found.attributes


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(report, id="report"),
        pytest.param(
            lambda folder: explorer_page(planted_record(models=2, text=HOSTILE)), id="explorer"
        ),
        pytest.param(
            lambda folder: explorer_page(planted_record(), title=HOSTILE), id="explorer title"
        ),
        pytest.param(
            lambda folder: str(explorer_fragment(planted_record(models=2, text=HOSTILE))),
            id="explorer in a frame",
        ),
    ],
)
def test_nothing_from_outside_becomes_an_element(made, tmp_path, fault):
    with fault("unicode and HTML in every field"):
        page = made(tmp_path)
        found = Page(page)
        assert "xss-canary" not in found.tags
        assert not {name for name in found.attributes if name.startswith("on")}
        # It is there, as text.
        assert re.search(r"xss-canary", found.text)
        assert "漢字" in page or "\\u6f22" in page
