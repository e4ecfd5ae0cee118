"""Measurements in other formats than the project's own: prompts, forcing, reading, training."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from real import CHECKPOINTS, needs_real_files, real_mllm
from tiny import noise_image

from attcot_analysis.errors import LayoutError, ModelError, ProblemError
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.models import encode, encode_problem
from attcot_analysis.problems import FORMATS, Problem, Step, parse_response, response_format
from attcot_analysis.problems.formats import TAGS, ResponseFormat, format_of
from attcot_analysis.runs.generations import read_generations
from attcot_analysis.runs.measure import measure
from attcot_analysis.train.data import RationaleDataset
from attcot_analysis.train.trainer import prompt_completion_rows

COLORS = ("red", "green", "blue")
LISTED = "Which cup is left of the plate?\nA. red\nB. green\nC. blue"
PLAIN = (
    "I look at the plate first. It stands in the middle. The cup on its left is red. "
    "Therefore, the answer is A.",
    "The plate is on the table.\n\nTo its left I see a green cup.\n\n**Answer: B**",
    "1. The plate is round.\n2. The cup is blue.\n\nSo the correct option is (C).",
    "The left cup is green. The right one is blue. The answer should be B.",
)
RIGHT = ("red", "green", "red", "green")
"""Of the third item the response is wrong."""


def problems(question=LISTED):
    return [
        Problem(
            id=f"cup-{at}",
            image=noise_image(64, 48),
            question=question,
            candidates=COLORS,
            answer=right,
            steps=(Step("The plate is here."), Step(f"The cup is {right}.")),
        )
        for at, right in enumerate(RIGHT)
    ]


def generations(tmp_path, mllm, texts):
    file = tmp_path / "plain.jsonl"
    lines = [{"id": f"cup-{at}", "text": text} for at, text in enumerate(texts)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_generations(file, mllm)


def test_plain_outputs_give_commitment_access_and_accuracy(random_mllm, tmp_path):
    mllm = replace(random_mllm, format=FORMATS["prose"])
    found = measure(
        mllm,
        problems(),
        ("answers", "commitment", "access"),
        generations=generations(tmp_path, mllm, PLAIN),
        controls=("rationale", "filler"),
    )
    answers = found["answers_cot"]
    assert list(answers["answer"]) == ["red", "green", "blue", "green"]
    assert list(answers["correct"]) == [True, True, False, True]
    assert list(answers["n_steps"]) == [3, 2, 2, 2]
    assert list(answers["cut"]) == ["sentences", "paragraphs", "numbers", "sentences"]
    steps = found["commitment"].groupby("item")["n_steps"].first()
    assert list(steps) == [3, 2, 2, 2]
    assert set(found["access"]["item"]) == set(answers["item"])


def test_the_default_format_reads_nothing_there(random_mllm, tmp_path):
    """The fault that formats mend: what the project's own format makes of plain outputs."""
    with pytest.warns(UserWarning, match="None of the 4 responses has a rationale step"):
        found = measure(
            random_mllm,
            problems(),
            ("answers", "commitment"),
            generations=generations(tmp_path, random_mllm, PLAIN),
        )
    assert found["commitment"].empty


@needs_real_files
@pytest.mark.parametrize("name", ["qwen3_vl_thinking", "qwen2_5_vl"])
def test_a_thinking_checkpoint_is_measured(name, tmp_path):
    mllm = replace(real_mllm(name), format=FORMATS["thinking"])
    opened = mllm.opens_rationale
    assert opened == (name == "qwen3_vl_thinking")
    start = "" if opened else "<think>\n"
    thoughts = (
        "Got it, the plate is in the middle. Left of it stands a cup.\n\nThe cup is red.",
        "So, let me look. First, the plate. Then the cup, which is green.",
    )
    texts = [
        f"{start}{thought}\n</think>\n\n{said}"
        for thought, said in zip(thoughts, ("The answer is **A**.", "B"), strict=True)
    ]
    found = measure(
        mllm,
        problems()[:2],
        ("answers", "commitment", "access"),
        generations=generations(tmp_path, mllm, texts),
        controls=("rationale",),
    )
    assert list(found["answers_cot"]["answer"]) == ["red", "green"]
    assert list(found["answers_cot"]["n_steps"]) == [2, 3]
    assert set(found["access"]["item"]) == {"cup-0", "cup-1"}
    assert found["commitment"]["p"].between(0, 1).all()


def test_letters_are_shown_forced_and_read(random_mllm):
    form = format_of({"base": "prose", "options": "letters"})
    mllm = replace(random_mllm, format=form)
    problem = problems("Which cup?")[1]
    item = encode_problem(mllm, problem, response=PLAIN[1])
    prompt = mllm.decode(item.input_ids[: item.prompt_length].tolist())
    assert "Which cup?\nA. red\nB. green\nC. blue\nThink step by step." in prompt
    table = commitment(mllm, [problem], [PLAIN[1]], controls=("rationale",)).table
    assert set(table["candidate"]) == set(COLORS)
    assert form.right_response(problem) == (
        "1. The plate is here.\n2. The cup is green.\nTherefore, the answer is B."
    )
    bare = commitment(
        replace(random_mllm, format=FORMATS["prose"]),
        [replace(problem, question=f"{problem.question}\nA. red\nB. green\nC. blue")],
        [PLAIN[1]],
        controls=("rationale",),
    ).table
    assert not torch.allclose(torch.tensor(table["p"]), torch.tensor(bare["p"]), atol=1e-6)


def test_training_targets_are_in_the_format(random_mllm):
    mllm = replace(random_mllm, format=FORMATS["boxed"])
    own = problems()[:1]
    (row,) = prompt_completion_rows(mllm, own)
    expected = "1. The plate is here.\n2. The cup is red.\nThe final answer is \\boxed{red}"
    assert row["completion"] == expected + mllm.tokenizer.eos_token
    assert FORMATS["boxed"].cot in row["prompt"] and "<think>" not in row["prompt"]
    example = RationaleDataset(mllm, own)[0]
    written = mllm.decode(example.encoded.response_ids)
    assert written == expected + mllm.tokenizer.eos_token
    assert example.encoded.layout.n_steps == 2 and example.answer == 0


@needs_real_files
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_system_prompt_instruction_and_prefill_reach_every_template(name):
    form = format_of(
        {
            "base": "prose",
            "system": "Look closely.",
            "cot": "Reason, then say it.",
            "prefill": "Let me look at the picture.",
        }
    )
    mllm = replace(real_mllm(name), format=form)
    if name == "qwen3_vl_thinking":
        mllm = replace(mllm, format=form.model_copy(update={"rationale": ("<think>", "</think>")}))
    item = encode(mllm, noise_image(64, 48), "What is it?", response=PLAIN[0])
    prompt = mllm.decode(item.input_ids[: item.prompt_length].tolist())
    assert "Look closely." in prompt and "What is it?\nReason, then say it." in prompt
    assert prompt.rstrip().endswith("Let me look at the picture.")
    assert item.layout.n_steps == 3 and len(item.layout.image)


def test_thinking_is_handed_to_the_template(random_mllm):
    mllm = tiny.tiny_mllm()
    mllm.processor.chat_template += "{% if enable_thinking %}<think>\n{% endif %}"
    on = replace(mllm, format=TAGS.model_copy(update={"thinking": True}))
    off = replace(mllm, format=TAGS.model_copy(update={"thinking": False}))
    assert on.opens_rationale and not off.opens_rationale
    text = "1. a\n2. b\n</think>\n<answer>red</answer>"
    assert len(on.parse(text).steps) == 2


def test_a_template_that_fails_is_one_sentence():
    mllm = tiny.tiny_mllm()
    mllm.processor.chat_template = "{{ raise_exception('only text is taken') }}"
    with pytest.raises(ModelError, match=r"chat template of .* fails.*only text is taken; give"):
        encode(mllm, None, "What?")


def test_a_format_that_does_not_read_the_templates_tag_names_one_that_does():
    mllm = tiny.tiny_mllm()
    mllm.processor.chat_template += "\u25c1think\u25b7"
    with pytest.raises(LayoutError, match=r"format tags does not read; choose .*\(kimi\)"):
        encode(mllm, None, "What?")
    own = replace(mllm, format=FORMATS["kimi"])
    assert own.opens_rationale
    item = encode(own, None, "What?", response="It is here. It is red.\u25c1/think\u25b7A")
    assert item.opened and item.layout.n_steps == 2


def by_clauses(text):
    return [at + 1 for at, letter in enumerate(text) if letter == ","]


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (by_clauses, ["One cup,", "two plates stand. Fine"]),
        (3, ["One cup, two", "plates stand. Fine"]),
        ("whole", ["One cup, two plates stand. Fine"]),
        ("sentences", ["One cup, two plates stand.", "Fine"]),
    ],
)
def test_own_rules_cut(cut, expected):
    form = TAGS.model_copy(update={"cut": cut})
    text = "<think>\nOne cup, two plates stand. Fine\n</think>\n<answer>x</answer>"
    assert list(parse_response(text, form).step_texts) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (None, "holds no fields"),
        ({"cue": "x"}, "close: Field required"),
        ({"base": "nothing"}, "is based on 'nothing'; choose from tags"),
        ({"base": "tags", "cut": "chapters"}, "'chapters' is no rule; choose from auto"),
        ({"base": "tags", "cut": 0}, "give at least 1"),
        ({"base": "tags", "rationale": ["<a>", "<a>"]}, "must be two different texts"),
        ({"base": "tags", "colour": "red"}, "colour: Extra inputs"),
    ],
)
def test_a_format_that_is_none_is_one_sentence(fields, message):
    with pytest.raises(ProblemError, match=message) as raised:
        format_of(fields, "mine.yaml")
    assert "\n" not in str(raised.value)


def test_a_format_from_a_file_comes_back_from_its_record(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: prose\nsystem: Look.\ncut: 5\n")
    form = response_format(file)
    assert (form.system, form.cut, form.cue) == ("Look.", 5, FORMATS["prose"].cue)
    assert format_of(json.loads(json.dumps(form.record()))) == form
    own = ResponseFormat(cue="x", close="y", cut=by_clauses)
    assert own.record()["cut"].endswith(":by_clauses")
    with pytest.raises(ProblemError, match="names a function; give the function itself"):
        format_of(json.loads(json.dumps(own.record())))
    with pytest.raises(ProblemError, match="There is no format 'mine'"):
        response_format("mine")
