"""Every dataset's files flow through measuring and the report, with what they have and lack."""

import html

import pytest
from dataset_files import FILES, made
from tiny import tiny_mllm

from attcot_analysis.models import Generation
from attcot_analysis.problems import load_problems, render_response, save_problems
from attcot_analysis.problems.data import read_data
from attcot_analysis.runs.generations import Generations
from attcot_analysis.runs.measure import measure_run
from attcot_analysis.show.report.compare import compare_runs


def generations(mllm, problems, *, foreign=False):
    """A rationale of two steps for every item, wherever an untrained model would write none."""
    found = {}
    for problem in problems:
        text = render_response(["Look at it.", "It is there."], problem.answer)
        ids = tuple(mllm.tokenizer(text, add_special_tokens=False)["input_ids"])
        found[problem.id] = Generation(ids, text, True)
    return Generations(found, foreign)


def measured(folder, problems, *, foreign=False):
    """Two untrained models on the same problems, and their report."""
    save_problems(problems, folder / "problems")
    kept = load_problems(folder / "problems")
    runs = []
    for seed in (0, 1):
        mllm = tiny_mllm(layers=1, seed=seed)
        run = measure_run(
            folder / f"run-{seed}",
            mllm,
            kept,
            controls=("rationale", "other_item"),
            max_new_tokens=2,
            generations=generations(mllm, kept, foreign=foreign),
        )
        runs.append(run)
    report = compare_runs(
        runs[0].path,
        runs[1].path,
        folder / "report",
        names=("one", "two"),
        problems=folder / "problems",
        models=False,
        items=len(kept),
    )
    return runs[0], report


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every")
    problems = [
        problem for format in FILES for problem in list(read_data(made(folder, format), format))[:2]
    ]
    return problems, *measured(folder, problems)


def test_every_dataset_is_measured(every):
    problems, run, _ = every
    ids = {problem.id for problem in problems}
    assert len(ids) == 2 * len(FILES)
    tables = {name: run.read_table(name) for name in ("answers_cot", "access", "commitment")}
    assert set(tables["answers_cot"]["item"]) == set(tables["access"]["item"]) == ids
    closed = {problem.id for problem in problems if problem.candidates}
    assert set(tables["commitment"]["item"]) == closed < ids
    assert run.read_table("answers_cot")["correct"].all()


def test_only_what_items_have_is_measured(every):
    problems, run, _ = every
    access = run.read_table("access").groupby("item")["evidence_share"].mean()
    boxed = {problem.id for problem in problems if problem.evidence_boxes}
    assert set(access.dropna().index) == boxed
    edits = run.read_table("dependence")
    for kind in ("twin", "control"):
        having = {problem.id for problem in problems if getattr(problem, kind) is not None}
        assert set(edits.loc[edits["edit"] == kind, "item"]) == having


def test_the_report_shows_every_dataset(every):
    problems, _, report = every
    page = report.report.read_text()
    assert all(f"<code>{problem.id}</code>" in page for problem in problems)
    assert "An open question" in page and "boxes without a number: evidence" in page
    assert all(html.escape(note) in page for note in report.notes)
    said = " ".join(report.notes)
    assert "written elsewhere" in said
    closed = sum(bool(problem.candidates) for problem in problems)
    assert f"Measured on {closed} of {len(problems)} items: commitment" in said


def test_open_questions_alone_are_measured_and_reported(tmp_path):
    """Nothing but pictures, questions and answers, and rationales of another model."""
    bare = [p for p in read_data(made(tmp_path, "visual-cot"), "visual-cot") if not p.candidates]
    (second, *_) = [p for p in read_data(made(tmp_path, "chartqa"), "chartqa") if not p.candidates]
    run, report = measured(tmp_path, [*bare, second], foreign=True)
    assert run.read_table("commitment").empty
    metrics = set(run.read_table("summary")["metric"])
    assert {"accuracy_cot", "mass", "evidence_share"} <= metrics
    assert not {"p0_final", "follow_twin", "prior_agreement", "flip_blank"} & metrics
    page = report.report.read_text()
    assert "Does it keep looking while it writes?" in page
    assert "When does the answer settle?" not in page
    assert "Not measured: commitment" in " ".join(report.notes)
