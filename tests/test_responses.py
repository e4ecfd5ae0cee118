"""Outputs that exist already: `attcot responses`, `--format auto`, and measuring them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from attcot_analysis.cli import main
from attcot_analysis.errors import MeasureError, ProblemError
from attcot_analysis.models import Generation
from attcot_analysis.problems import Problem
from attcot_analysis.problems.folder import save_problems
from attcot_analysis.problems.formats import FORMATS, changed
from attcot_analysis.runs import look
from attcot_analysis.runs.generations import read_generations, write_requests
from attcot_analysis.runs.look import (
    check_generations,
    detected_format,
    look_at_responses,
    misfit_note,
)
from attcot_analysis.runs.measure import measure
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab.testbed.arrows import generate_arrows

ROOT = Path(__file__).parents[1]

THINKING = "So, the star is in a1.\n\nIts arrow points right, to b1.\n</think>\n\nThe answer is {}."
PROSE = "The star is in cell a1. Its arrow points right. Therefore, the answer is {}."


def outputs(path: Path, problems: list[Problem], form: str, answers: list[str]) -> Path:
    lines = [
        {"id": problem.id, "text": form.format(answer), "finish_reason": "stop"}
        for problem, answer in zip(problems, answers, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def problems() -> list[Problem]:
    return generate_arrows(3, seed=4)


def wrong(problem: Problem) -> str:
    return next(one for one in problem.candidates if one != problem.answer)


def test_the_command_says_what_it_read_and_shows_it(problems, tmp_path, capsys):
    answers = [problems[0].answer, wrong(problems[1]), "nothing of the kind"]
    file = outputs(tmp_path / "a.jsonl", problems, PROSE, answers)
    save_problems(problems, tmp_path / "problems")

    assert main(["responses", str(file), "--problems", str(tmp_path / "problems")]) == 0

    said = capsys.readouterr().out
    assert "33.3% of the answers could not be read" in said.splitlines()[0]
    assert "Format prose: 100% of 3 responses hold no other tags." in said
    assert "100% have steps (cut by: 3 sentences)" in said
    assert "2 of 3 answers could be read." in said
    assert "  step  2 | Its arrow points right." in said
    assert f"  answer  | {answers[0]}" in said
    assert "1 could not be read, such as:" in said


def test_a_format_that_does_not_fit_is_refused_with_one_that_does(problems, tmp_path, capsys):
    file = outputs(tmp_path / "a.jsonl", problems, PROSE, ["red"] * 3)

    assert main(["responses", str(file), "--format", "llava_cot"]) == 1

    refused = capsys.readouterr().err
    assert "llava_cot fits 0% of 3 responses; prose fits 100%: give --format prose." in refused
    assert main(["responses", str(file), "--format", "prose"]) == 0
    assert main(["responses", str(file), "--format", "nothing"]) == 1


def test_cut_responses_of_a_thinking_model_need_to_be_told_so(problems, tmp_path, capsys):
    lines = [{"id": p.id, "text": "So, look.\n\nThen", "finish_reason": "length"} for p in problems]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert main(["responses", str(file), "--opened"]) == 0

    said = capsys.readouterr().out
    assert said.startswith("Format thinking: the chat template ends in '<think>'")
    assert "3 were cut at the length limit." in said and "answer  | none stated" in said


def test_nothing_that_a_model_wrote_reaches_the_terminal_as_a_command(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    text = "A bar.\x1b[2J\x07 Two \u202ebars. The answer is \x1b]0;x\x07B."
    file.write_text(json.dumps({"id": "a\x1b[1m", "text": text}) + "\n")

    assert main(["responses", str(file)]) == 0

    said = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said)
    assert "\\x1b[2J" in said and "\\u202e" in said


def test_files_without_text_are_refused(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": "a", "ids": [1, 2]}\n')
    assert main(["responses", str(file)]) == 1
    assert "holds no response as text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "texts"),
    [("prose", PROSE), ("boxed", "It is red. The final answer is \\boxed{{{}}}")],
)
def test_plain_outputs_are_measured_with_steps_and_the_right_accuracy(
    random_mllm, problems, tmp_path, form, texts
):
    answers = [problems[0].answer, wrong(problems[1]), problems[2].answer]
    file = outputs(tmp_path / "a.jsonl", problems, texts, answers)

    found = detected_format(random_mllm, problems, file)
    assert found.format.name == form
    mllm = replace(random_mllm, format=found.format)
    written = read_generations(file, mllm)
    check_generations(mllm, written)
    tables = measure(
        mllm, problems, generations=written, layers=[0], controls=["rationale"], edits=[]
    )

    read = tables["answers_cot"]
    assert list(read["correct"]) == [True, False, True]
    assert (read["n_steps"] > 0).all()
    curve = tables["commitment"]
    assert set(curve["item"]) == {problem.id for problem in problems}
    assert len(tables["access"])


def test_generations_in_another_format_are_refused_before_anything_is_measured(
    random_mllm, problems, tmp_path
):
    file = outputs(tmp_path / "a.jsonl", problems, "<think>\nIt is.\n</think>\n{}", ["red"] * 3)
    kimi = replace(random_mllm, format=FORMATS["kimi"])
    with pytest.raises(ProblemError, match="kimi fits 0% of 3 responses; thinking fits 100%"):
        check_generations(kimi, read_generations(file, kimi))


def test_a_thinking_checkpoint_is_recognised_by_its_template(random_mllm, problems, tmp_path):
    from tiny import CHAT_TEMPLATE, tiny_processor

    processor = tiny_processor(random_mllm.tokenizer)
    processor.chat_template = CHAT_TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
    thinking = replace(random_mllm, processor=processor)
    answers = [problem.answer for problem in problems]
    file = outputs(tmp_path / "a.jsonl", problems, THINKING, answers)

    found = detected_format(thinking, problems, file)
    assert found.format.name == "thinking" and "'<think>'" in found.why
    mllm = replace(thinking, format=found.format)
    tables = measure(
        mllm,
        problems,
        generations=read_generations(file, mllm),
        layers=[0],
        controls=["rationale"],
        edits=[],
    )

    assert tables["answers_cot"]["correct"].all()
    assert list(tables["answers_cot"]["n_steps"]) == [2, 2, 2]
    assert set(tables["commitment"]["item"]) == {problem.id for problem in problems}


def test_the_example_of_the_page_works_as_it_says(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8").split("## One of your own")[1]
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL))
    monkeypatch.chdir(tmp_path)
    Path("brackets.yaml").write_text(blocks["yaml"])
    Path("FILE.jsonl").write_text(blocks["json"])
    command = re.search(r"`attcot (responses FILE[^`]*)`", page)
    assert command is not None

    assert main(command[1].split()) == 0

    assert capsys.readouterr().out.strip() == blocks["text"].strip()


def test_a_look_without_a_command(problems, tmp_path):
    file = outputs(tmp_path / "a.jsonl", problems, PROSE, ["red"] * 3)
    found = look_at_responses(file, "prose")
    assert found.fit.share == 1.0 and found.unread == () and found.answers is None


def test_requests_say_whether_to_think_and_cannot_start_a_response(problems, tmp_path):
    path = write_requests(
        tmp_path / "a.jsonl",
        problems,
        model="m",
        form=changed(FORMATS["gemma"], system="Be brief.", thinking=False),
    )
    body = json.loads(path.read_text().splitlines()[0])["body"]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["messages"][0] == {
        "role": "system",
        "content": [{"type": "text", "text": "Be brief."}],
    }
    plain = write_requests(tmp_path / "plain.jsonl", problems, model="m")
    assert "chat_template_kwargs" not in json.loads(plain.read_text().splitlines()[0])["body"]
    with pytest.raises(MeasureError, match="cannot be asked to start a response with 'So'"):
        write_requests(
            tmp_path / "b.jsonl", problems, model="m", form=changed(FORMATS["tags"], prefill="So")
        )


def test_a_model_that_follows_the_prompt_is_read_in_tags_another_as_it_speaks(
    random_mllm, problems, monkeypatch
):
    asked = []

    def speaks(*texts):
        def write(mllm, prompts, **_):
            asked.append(mllm.format.name)
            text = texts[len(asked) - 1]
            return [Generation((), text, True) for _ in prompts]

        asked.clear()
        monkeypatch.setattr(look, "generate", write)
        return detected_format(random_mllm, problems).format.name

    tagged = "<think>\n1. It is.\n</think>\n<answer>red</answer>"
    boxed = "It is red. The final answer is \\boxed{red}."
    assert (speaks(tagged), asked) == ("tags", ["tags"])
    assert (speaks("It is. The answer is red.", boxed), asked) == ("boxed", ["tags", "prose"])


def test_a_run_says_first_that_its_responses_are_in_another_format():
    answers = pd.DataFrame({"text": [PROSE.format("red")] * 3, "finished": True})
    said = misfit_note(FORMATS["tags"], answers)
    assert said == "Format tags fits 0% of 3 responses; prose fits 100%: give --format prose."
    assert misfit_note(FORMATS["prose"], answers) is None


def test_measure_reads_generations_as_they_are_and_refuses_a_wrong_format(
    problems, tmp_path, capsys
):
    answers = [problems[0].answer, wrong(problems[1]), problems[2].answer]
    file = outputs(tmp_path / "a.jsonl", problems, PROSE, answers)
    save_problems(problems, tmp_path / "problems")
    command = ["measure", str(shipped(TESTBED_MODEL)), str(tmp_path / "problems"), "--quiet"]
    command += ["--generations", str(file), "--layers", "1", "--controls", "rationale", "--edits"]

    assert main([*command, "blank", "--out", str(tmp_path / "no"), "--format", "tags"]) == 1
    assert "give --format prose." in capsys.readouterr().err
    assert not (tmp_path / "no").exists()

    run = [*command, "blank", "--out", str(tmp_path / "run"), "--system", "Be brief."]
    assert main(run) == 0
    assert "Format prose: 100% of 3 responses hold no other tags." in capsys.readouterr().out
    found = RunFolder.open(tmp_path / "run")
    recorded = found.manifest["models"]["model"]["format"]
    assert (recorded["name"], recorded["system"]) == ("prose", "Be brief.")
    assert list(found.read_table("answers_cot")["correct"]) == [True, False, True]
    # Another prompt is another run.
    assert main([*run[:-1], "Be long."]) == 1
    assert "cannot be resumed" in capsys.readouterr().err
