"""Responses cut into rationale, steps and answer, however a model wrote them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attcot_analysis.problems import parse_response, render_response
from attcot_analysis.problems.reading import stated_answer
from attcot_lab.testbed.arrows import generate_arrows

STEPS = ("1. The star is in a1.", "2. b1 is red.")
BODY = "\n".join(STEPS) + "\n"


def read(text, *, opened=False):
    parsed = parse_response(text, opened=opened)
    think = None if parsed.think is None else text[slice(*parsed.think)]
    return think, parsed.step_texts, parsed.answer


def steps(body):
    text = f"<think>\n{body}\n</think>\n<answer>red</answer>"
    parsed = parse_response(text)
    if parsed.steps:
        starts, ends = zip(*parsed.steps, strict=True)
        assert not text[parsed.think[0] : starts[0]].strip() and ends[-1] == parsed.think[1]
        assert starts[1:] == ends[:-1]
    assert parsed.answer == "red"
    return list(parsed.step_texts)


sentences = st.text(min_size=1, max_size=30).filter(
    lambda text: text.strip() == text and len(text.splitlines()) == 1 and "<" not in text
)


@given(st.lists(sentences, min_size=1, max_size=12), sentences)
def test_what_is_rendered_is_read_again(texts, answer):
    parsed = parse_response(render_response(texts, answer))
    assert parsed.step_texts == tuple(f"{n}. {text}" for n, text in enumerate(texts, 1))
    assert parsed.answer == answer
    assert parsed.text[slice(*parsed.think)] == "".join(f"{one}\n" for one in parsed.step_texts)


def test_the_testbeds_problems_are_read_step_by_step():
    for problem in generate_arrows(20, seed=3):
        parsed = parse_response(render_response(problem.steps, problem.answer))
        own = tuple(f"{n}. {step.text}" for n, step in enumerate(problem.steps, 1))
        assert (parsed.step_texts, parsed.answer, parsed.cut) == (own, problem.answer, "numbers")


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        (f"<think>\n{BODY}</think>\n<answer>red</answer>", False),
        (f"<think>\n{BODY}</think>\n<answer>red</answer>", True),
        (f"\n<think>\n{BODY}</think>\n<answer>red</answer>", True),
        (f"{BODY}</think>\n<answer>red</answer>", True),
        (f"\n{BODY}</think>\n\n<answer>red</answer>", True),
        (f"{BODY}</think>\n<answer>red</answer>", False),
        (f"{BODY}<answer>red</answer>", True),
        (f"<think>\n{BODY}<answer>red</answer>", False),
        (f"<think>\n{BODY}<answer>red</answer>\n</think>", False),
        (f"Sure.\n<think>\n{BODY}</think>\n<answer>red</answer>", False),
        (f"<think>\n{BODY}</think>\nThe answer is <answer>red</answer>.", False),
        (f"<think>\n{BODY}</think>\n<answer>red", False),
        (f"<think>\n{BODY}<answer>red", False),
        (f"<think>\n{BODY}</think>\n<answer>blue</answer> No: <answer>red</answer>", False),
        (f"<think>\n{BODY}</think>\n<answer>red</answer> and <answer>bl", False),
    ],
)
def test_a_rationale_and_an_answer(text, opened):
    assert read(text, opened=opened) == (BODY, STEPS, "red")


def test_a_prompt_that_opened_the_rationale():
    assert read(BODY, opened=True) == (BODY, STEPS, None)
    assert read(BODY) == (None, (), None)
    assert read("<answer>red</answer>", opened=True) == ("", (), "red")
    assert read("</think><answer>red</answer>") == ("", (), "red")


@pytest.mark.parametrize(
    "mention",
    [
        "The user wants <think></think> and <answer></answer> tags.",
        "The user wants <think></think> and then\n<answer></answer> tags.",
        "I write <think>...</think><answer>...</answer>.",
        "I should put it in <answer> ... then </think>.",
        "I close with </think> and answer.",
        "I close with `</think>` and write `<answer>`.",
        'The tags are "<think>", "</think>" and "<answer>".',
        "It would be <answer>blue</answer> at first sight.",
        "It would be </think><answer>blue</answer> at first sight.",
        "Then <answer>.",
    ],
)
@pytest.mark.parametrize("place", ["before", "within", "behind"])
def test_tags_that_a_rationale_mentions_are_text(mention, place):
    body = {
        "before": f"{mention}\n{BODY}",
        "within": f"{STEPS[0]}\n{mention}\n{STEPS[1]}\n",
        "behind": f"{BODY}{mention}\n",
    }[place]
    rest = "</think>\n<answer>red</answer>"
    for text, opened in ((f"<think>\n{body}{rest}", False), (f"{body}{rest}", True)):
        think, found, answer = read(text, opened=opened)
        assert (think, len(found), answer) == (body, 2, "red")
    assert read(f"<think>\n{body}</think>\nIt is red.") == (body, found, None)


@pytest.mark.parametrize(
    "mention",
    [
        "The user wants <think></think> and <answer></answer> tags.",
        "I write <think>...</think><answer>...</answer>.",
        "I write <think>reasons</think><answer>your answer</answer> then.",
        "I close with `</think>` and write `<answer>`.",
        "The answer goes into <answer>.",
        "It would be <answer>blue</answer> at first sight.",
    ],
)
def test_a_rationale_that_is_cut_states_nothing(mention):
    body = f"{mention}\n{BODY}"
    for text, opened in ((f"<think>\n{body}", False), (body, True)):
        think, found, answer = read(text, opened=opened)
        assert (think, len(found), answer) == (body, 2, None)


def test_rationales_that_end_without_an_answer():
    assert read("<think>\n\n</think>\n\n<answer>red</answer>") == ("\n", (), "red")
    assert read(f"<think>\n{BODY}</think>\n<answer></answer>") == (BODY, STEPS, "")
    two = "<think>\n1. a\n</think>\n<think>\n2. b\n</think>\n<answer>red</answer>"
    assert read(two)[1:] == (("1. a\n</think>\n<think>", "2. b"), "red")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("1. a\n2) b\nStep 3: c\n**4.** d\n### 5. e\n**Step 6:** f\n**7. g** h", 7),
        ("Step 1: a\nSTEP 2: b\nstep 3: c", 3),
        ("### Step 1\na\n### Step 2\nb", 2),
        ("**Step 1**: a\n**Step 2**: b", 2),
        ("- 1. a\n- 2. b", 2),
        ("(1) a\n(2) b\n(3) c", 3),
        ("1.\na\n2.\nb", 2),
        (" 1. a\n 2. b", 2),
        ("Step 1:\n1. a\n2. b\nStep 2:\n1. c\n2. d", 2),
        ("1. a\n   1. x\n   2. y\n2. b", 2),
        ("\n".join(f"{n}. s" for n in range(1, 13)), 12),
    ],
)
def test_numbered_lines_are_steps(body, expected):
    found = steps(body)
    assert len(found) == expected
    assert "".join("".join(found).split()) == "".join(body.split())


@pytest.mark.parametrize(
    "line",
    [
        "3.5 cm is the length.",
        "2.5 cm is the length.",
        "12:30 is shown.",
        "2:30 is shown.",
        "2019: 30",
        "2019. That year",
        "1,200 people",
        "2/3 of it",
        "2 of them",
        "2",
        "4. Four comes too early.",
        "1. One again.",
        "0. Nought.",
        "-2. Below.",
        "Step by step",
        "Stepping 2. on",
        "2.b1 is red",
    ],
)
def test_other_numbers_are_text_of_their_step(line):
    assert steps(f"1. a\n{line}\n2. b\n3. c") == [f"1. a\n{line}", "2. b", "3. c"]
    assert steps(f"1. a\n2. b\n{line.replace('2', '3')}") == [
        "1. a",
        f"2. b\n{line.replace('2', '3')}",
    ] or line.startswith("4.")


def test_text_before_the_first_number_belongs_to_the_first_step():
    assert steps("\nLet me look.\n\n1. a\n2. b") == ["Let me look.\n\n1. a", "2. b"]
    assert steps("3.5 cm are drawn.\n1. a\n2. b") == ["3.5 cm are drawn.\n1. a", "2. b"]
    text = "<think>\nLet me look.\n1. a\n2. b\n</think>\n<answer>red</answer>"
    assert parse_response(text).steps[0][0] == len("<think>\n")


def test_numbers_that_do_not_run_from_one():
    assert steps("1. a\n2. b\n4. d\n5. e") == ["1. a", "2. b\n4. d\n5. e"]
    assert steps("2. a\n3. b") == ["2. a", "3. b"]
    assert parse_response("<think>\n2. a\n3. b\n</think>").cut == "lines"


@pytest.mark.parametrize(
    ("body", "cut", "number"),
    [
        ("1. a\n2. b", "numbers", 2),
        ("1. a", "numbers", 1),
        ("Let me look.\n\n1. a", "numbers", 1),
        ("It is a.\n\nIt is b.\n\nThe label reads\n1. Persian", "paragraphs", 3),
        ("a\n\nb", "paragraphs", 2),
        ("a\nb", "lines", 2),
        ("### One\na\n### Two\nb", "headings", 2),
        ("It is one paragraph. It has no number.", "sentences", 2),
        ("It is one sentence, 3.5 cm long", "whole", 1),
        ("Look: 1. It is a. 2. It is b. 3. It is c.", "numbers", 3),
        ("1. It is a; 2. it is b; 3. it is c", "numbers", 3),
        ("1. Go to row 2. Then stop", "numbers", 1),
        ("It is in row 1. The next is in row 2. The last is in row 3.", "sentences", 3),
        ("", None, 0),
        (" \n ", None, 0),
    ],
)
def test_where_steps_come_from_is_said(body, cut, number):
    parsed = parse_response(f"<think>\n{body}\n</think>\n<answer>red</answer>")
    assert (parsed.cut, len(parsed.steps)) == (cut, number)


@given(st.text(alphabet=st.sampled_from("<>/thinkanswer123. \n"), max_size=60), st.booleans())
def test_any_text_is_parsed(text, opened):
    parsed = parse_response(text, opened=opened)
    ranges = [*parsed.steps, *[one for one in (parsed.think, parsed.answer_range) if one]]
    assert all(0 <= start <= stop <= len(text) for start, stop in ranges)


tags = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "\n", "1. ", "2. ", "red", " ", "`", "..."]
)


@given(st.lists(tags, max_size=14).map("".join), st.booleans())
def test_steps_tile_the_rationale_in_any_text(text, opened):
    parsed = parse_response(text, opened=opened)
    if parsed.steps:
        starts, ends = zip(*parsed.steps, strict=True)
        assert starts[1:] == ends[:-1] and ends[-1] == parsed.think[1]
        assert not text[parsed.think[0] : starts[0]].strip()
    if parsed.think and parsed.answer_range:
        assert parsed.think[1] <= parsed.answer_range[0]


def test_a_number_with_two_marks_is_a_step():
    assert steps("1. a\n2..\n2 reaches 2.\n3.) c") == ["1. a", "2..\n2 reaches 2.", "3.) c"]
    assert steps("1. a\n2..\nb\n3..\nc\n3.") == ["1. a", "2..\nb", "3..\nc\n3."]


def test_an_answer_that_was_cut_inside_its_tags_is_not_stated():
    for text in ("<think>\n1. a\n</think>\n<answer>1", "<answer>1"):
        parsed = parse_response(text)
        assert parsed.answer == "1"
        assert stated_answer(parsed, finished=False) is None
        assert stated_answer(parsed, finished=True) == "1"
        assert stated_answer(parse_response(f"{text}2</answer> and"), finished=False) == "12"
