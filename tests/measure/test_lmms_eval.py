"""A task of lmms-eval: its files, and that it reads answers as the suite does."""

import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from dataset_files import made
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attcot_analysis.cli import main
from attcot_analysis.errors import RunError
from attcot_analysis.measures import answers
from attcot_analysis.measures.answers import match_answer, open_answer, stated_answer
from attcot_analysis.models import PROMPTS
from attcot_analysis.problems import parse_response
from attcot_analysis.problems.data import convert_data, read_data
from attcot_analysis.runs.lmms_eval import export_task


class Loader(yaml.SafeLoader):
    """As lmms-eval reads its files."""


Loader.add_constructor("!function", lambda loader, node: ("function", node.value))


@pytest.fixture
def task(tmp_path):
    problems = tmp_path / "problems"
    convert_data(made(tmp_path, "jsonl"), problems)
    out = tmp_path / "task"
    assert main(["data", "lmms-eval", str(problems), "--out", str(out), "--name", "mine"]) == 0
    config = yaml.load((out / "mine.yaml").read_text(), Loader)
    spec = importlib.util.spec_from_file_location("task_utils", out / "utils.py")
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    items = config["dataset_kwargs"]["data_files"]["test"]
    with open(items, encoding="utf-8") as file:
        docs = [json.loads(line) for line in file]
    return SimpleNamespace(folder=out, config=config, utils=utils, docs=docs)


def test_every_version_of_every_item_is_a_document(task):
    named = [(doc["id"], doc["version"], doc["answer"]) for doc in task.docs]
    assert named == [
        ("kettle", "original", "red"),
        ("kettle", "twin", "blue"),
        ("kettle", "control", "red"),
        ("item-2", "original", "3"),
    ]
    assert len({frozenset(doc) for doc in task.docs}) == 1
    assert all(task.utils.doc_to_visual(doc)[0].size == (64, 48) for doc in task.docs)


def test_the_file_names_functions_that_exist_and_the_prompt_is_ours(task):
    config = task.config
    for key in ("doc_to_visual", "doc_to_text", "process_results"):
        kind, name = config[key]
        module, _, function = name.partition(".")
        assert kind == "function" and module == "utils" and hasattr(task.utils, function)
    assert config["task"] == "mine" and config["output_type"] == "generate_until"
    prompts = config["lmms_eval_specific_kwargs"]["default"]
    asked = task.utils.doc_to_text(task.docs[0], prompts)
    assert asked == f"What colour is the kettle?\n{PROMPTS['cot']}"
    metrics = {entry["metric"] for entry in config["metric_list"]}
    assert metrics == {"accuracy", "follow_twin", "keep_control", "unread", "habitual"}


def test_responses_are_scored_by_version(task):
    say = "<think>\n1. x\n</think>\n<answer>{}</answer>".format
    blue = [task.utils.process_results(doc, [say("Blue.")]) for doc in task.docs[:3]]
    scores = [{"accuracy": 0, "habitual": 1}, {"follow_twin": 1}, {"keep_control": 0}]
    assert blue == [{**one, "unread": 0} for one in scores]
    unread = task.utils.process_results(task.docs[0], [say("purple")])
    assert unread == {"accuracy": 0, "unread": 1, "habitual": 0}
    assert task.utils.process_results(task.docs[3], ["3.2"]) == {"accuracy": 1, "unread": 0}
    assert task.utils.process_results(task.docs[3], ["4"]) == {"accuracy": 0, "unread": 0}


def test_nothing_is_overwritten_and_names_are_names(tmp_path, task):
    problems = list(read_data(tmp_path / "jsonl" / "mine.jsonl"))
    with pytest.raises(RunError, match="holds something already"):
        export_task(problems, task.folder, "again")
    with pytest.raises(RunError, match="cannot name a task"):
        export_task(problems, tmp_path / "new", "a/b")
    with pytest.raises(RunError, match="No problems"):
        export_task([], tmp_path / "new", "a")


words = st.text("abAB 12.,%()<>/", max_size=12)
tagged = st.sampled_from(["<answer>{}</answer>", "<think>\n{0}\n</think>\n{0}", "{}", "<think>{}"])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    form=tagged,
    said=words,
    candidates=st.lists(words.filter(str.strip), min_size=2, max_size=3, unique=True),
    tolerance=st.sampled_from([0.0, 0.05]),
)
def test_answers_are_read_as_the_suite_reads_them(task, form, said, candidates, tolerance):
    question = "\n".join(f"{chr(65 + at)}) {one}" for at, one in enumerate(candidates))
    text = form.format(said)
    stated = stated_answer(parse_response(text), finished=True)
    closed = {"question": question, "candidates": candidates}
    expected = None if stated is None else match_answer(stated, candidates, question=question)
    assert task.utils.read_answer(text, closed) == expected
    doc = {"candidates": [], "known": candidates, "tolerance": tolerance}
    expected = None if stated is None else open_answer(stated, candidates, tolerance=tolerance)
    assert task.utils.read_answer(text, doc) == expected


def test_the_file_runs_without_the_suite(task):
    assert "from attcot_analysis" not in task.folder.joinpath("utils.py").read_text()
    code = (
        "import sys; sys.modules['attcot_analysis'] = None; import utils;"
        "doc = {'question': 'Q A) red B) blue', 'candidates': ['red', 'blue'], 'version': 'twin',"
        " 'answer': 'blue'};"
        "print(utils.process_results(doc, ['<think>1. a</think> The answer is (B).']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=task.folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{'follow_twin': 1.0, 'unread': 0.0}"


@pytest.mark.parametrize(
    ("stated", "known", "tolerance", "expected"),
    [
        ("The Car.", ["car"], 0, "car"),
        ("1,200", ["1200"], 0, "1200"),
        ("12%", ["12"], 0, "12"),
        ("1250", ["1200"], 0.05, "1200"),
        ("1250", ["1200"], 0.01, "1250"),
        ("1.26", ["1.2", "1.25"], 0.05, "1.25"),
        ("red  car", ["car"], 0, "red car"),
        ("0", ["0.1"], 0.05, "0"),
        ("...", ["car"], 0, None),
    ],
)
def test_open_answers(stated, known, tolerance, expected):
    assert open_answer(stated, known, tolerance=tolerance) == expected
    assert answers.open_answer(f" {stated} ", known, tolerance=tolerance) == expected
