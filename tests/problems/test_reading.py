# ruff: noqa: RUF001
"""What replies state: letters, words and numbers, alone and in sentences; or nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attcot_analysis.problems.numerals import numbers, one_number
from attcot_analysis.problems.phrases import plain_text
from attcot_analysis.problems.reading import match_answer, open_answer, states

COLOURS = ("red", "blue", "green")
LISTED = "Which colour?\nA) red\nB) blue\nC) green"
LETTERS = ("A", "B", "C", "D")
ANIMALS = "What is it?\n(A) a dog\n(B) a cat\n(C) a cow\n(D) a pig"
NUMBERS = ("3", "5", "-5", "0.5", "10,000", "1,200", "1/5")

BLUE = r"""
B | b | (B) | (b) | B. | B) | [B] | B: | **B** | `B` | "B" | Option B | option (b) | Choice B
Answer: B | **Answer:** B | **Answer: B** | Answer B | Final answer: B | ANSWER: B | Ans: B
The answer is B | The answer is (B). | The answer is: **B** | answer is b | The answer: B
The answer is therefore B | The answer is definitely B | The answer is option (B).
The answer to the question is B. | The correct answer is option B. | The right answer is B)
Therefore, the answer is B | the correct option is B | The correct choice would be B.
\boxed{B} | \boxed{\text{B}} | $\boxed{\text{(B)}}$ | \[\boxed{\textbf{B}}\]
The final answer is $\boxed{B}$ | B. blue | B) blue | (B) blue | B: blue | B - blue | B, blue
Option B: blue | blue (B) | The answer is blue (B) | The correct answer is **B** (blue).
Answer: B, because A is red | The answer is (B) blue, not (A) red. | A is wrong, so B
I think B | I believe it is B. | I choose B | I would go with B | I'd pick (B) | Choose B
My choice is B | B is correct | B is the correct answer. | (B) is correct | Option B is correct.
It's B | So B. | Therefore B | Hence, B | Selected option: B | answer=B | B</s> | B<|im_end|>
<b>B</b> | _B_ | Answer → B | 答案B | ANSWER:B | <Answer>B</Answer> | A is incorrect. B is correct.
[[B]] | {"answer": "B"} | Thus, option B is the correct one. | The options are A, B, C. I choose B.
I think B is right, A is not | The answer must be B: blue | So, the answer is **(B) blue**.
Ｂ | （Ｂ） | Ｂ． | 答案是B | 答案：Ｂ | 答案为B。 | 正确答案是B | 答：B | 答案应该选B
选B | 故选B。 | 选择B | 所以答案选B | 答案选择B | 我认为是B | B是正确的 | 正确的是B
正解はB | 正解はBです。 | 答えはBです | 答えは「B」 | 정답은 B | 정답은 B입니다. | 정답: B
blue | BLUE. | The colour is blue. | It is blue | the blue one | The blue one. | Blue, not red
not red but blue | It isn't red, it's blue | can't be red, must be blue | I think it's blue
There are no red or green objects, only blue | The image shows a blue car | Die Antwort ist B.
"""
NOTHING = """
A or maybe B | B, perhaps C
Both A and B | A or B | A and B | A, B | A/B | (A) and (B) | (A, B) | (A)(B) | either A or B
The answer is A and C | The answer is either B or C | A, B, and C | 答案是A和B
Option A or Option B | It's neither | Neither A nor B | none of the above | None | all of the above
Either one | B and C
(A) blue | A. blue | A: blue | Option A: blue | blue (A) | The answer is A) blue | (B) red
The correct answer is **B** (red). | E | (E) | (E) blue | first option | Option 2 | A B
This is a cat | a cat | I like a lot | A cat | purple | The answer is purple | bluish | red-orange
not red | It is not red | isn't red | It's neither red nor blue | I don't think it is red | 不是A
It does not look like the red one | not B | The answer is not B | The answer isn't B.
red or blue | red and blue | Could be red, could be blue | ... | I cannot tell.
It cannot be determined whether it is red | I do not know whether it is red | \\boxed{purple}
The answer is | Answer: | option | answer | I'm torn between A and B.
"""


def replies(text):
    return [reply.strip() for reply in text.replace("\n", " | ").split(" | ") if reply.strip()]


@pytest.mark.parametrize(
    "question", [LISTED, "Which? (A) red (B) blue (C) green", "a. red b. blue"]
)
@pytest.mark.parametrize("reply", replies(BLUE))
def test_an_option_is_stated(reply, question):
    assert match_answer(reply, COLOURS, question=question) == "blue"


@pytest.mark.parametrize("reply", [*replies(NOTHING), ""])
def test_no_option_is_stated_or_several_are(reply):
    assert match_answer(reply, COLOURS, question=LISTED) is None


@pytest.mark.parametrize("reply", ["A", "(B)", "Option B", "The answer is C", "答案是B", "A or B"])
def test_letters_count_only_where_the_question_gives_them(reply):
    assert match_answer(reply, COLOURS, question="Which colour?") is None


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Answer:\nB", "blue"),
        ("Answer:\n\n**B. blue**", "blue"),
        ("The final answer is:\n\n(B) blue", "blue"),
        ("Final Answer\n\\boxed{B}", "blue"),
        ("So it is A or B. <|begin_of_box|>B<|end_of_box|>", "blue"),
        ("<|begin_of_box|>(B) blue<|end_of_box|><|user|>", "blue"),
        ("I considered A and C.\nThe answer is B.", "blue"),
        ("The answer is A? No.\nThe answer is B.", "blue"),
        ("The answer is B.\n\nI hope that this helps with red!", "blue"),
        ("B\n\nThe sky is not red and the grass is green.", "blue"),
        ("(B) blue\nBecause red and green are elsewhere.", "blue"),
        ("Let me see.\nIt is blue.", "blue"),
        ("It may be red.\nNo, it is blue.", "blue"),
        ("Answer: (B)\nExplanation: red is A.", "blue"),
        ("1. The car is red\n2. The bus is blue\nThe answer is B.", "blue"),
        ("A) red\nB) blue\nC) green\nIt is most likely blue.", "blue"),
        ("A. red\nB. blue\nC. green", None),
        ("(A) red\n(B) blue", None),
        ("B\nC", None),
        ("It may be red.\nI cannot tell.", None),
        ("It is red.\nThat is all.", "red"),
    ],
)
def test_replies_of_several_lines(reply, expected):
    assert match_answer(reply, COLOURS, question=LISTED) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("option d", "D"),
        ("Ｄ", "D"),
        ("The answer is (B).", "B"),
        ("I think it is C.", "C"),
        ("A is right", "A"),
        ("a cat", "B"),
        ("This is a cat", "B"),
        ("The answer is a cow", "C"),
        ("It is a pig", "D"),
        ("A dog", "A"),
        ("The answer is A cat", "B"),
        ("The answer is C) the cow", "C"),
        ("The answer is C) the dog", None),
        ("B) a dog", None),
        ("A bird", None),
        ("This is a bird", None),
        ("Both A and B", None),
        ("It is a dog or a cat", None),
        ("I", None),
    ],
)
def test_candidates_that_are_letters(reply, expected):
    assert match_answer(reply, LETTERS, question=ANIMALS) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A", "A"),
        ("a", "A"),
        ("It is A", "A"),
        ("The answer is A", "A"),
        ("So it must be B.", "B"),
        ("This is a cat", None),
        ("A cat", None),
        ("The answer is a cat", None),
        ("I see a dog and a cat", None),
        ("Both A and B", None),
    ],
)
def test_letters_without_a_list_and_the_article(reply, expected):
    assert match_answer(reply, LETTERS, question="Which letter?") == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("5", "5"),
        ("+5", "5"),
        ("5.", "5"),
        ("5.0", "5"),
        ("(5)", "5"),
        ("５", "5"),
        ("5 cm", "5"),
        ("5cm", "5"),
        ("5%", "5"),
        ("$5$", "5"),
        ("€5", "5"),
        ("~5", "5"),
        ("about 5", "5"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("–5", "-5"),
        ("－５", "-5"),
        ("minus 5", "-5"),
        ("-5.0", "-5"),
        ("-5 °C", "-5"),
        (".5", "0.5"),
        ("0.50", "0.5"),
        ("½", "0.5"),
        ("1/5", "1/5"),
        ("1 / 5", "1/5"),
        ("0.2", "1/5"),
        (r"\frac{1}{5}", "1/5"),
        ("10 000", "10,000"),
        ("10\u00a0000", "10,000"),
        ("10\u202f000", "10,000"),
        ("10'000", "10,000"),
        ("10’000", "10,000"),
        ("10000", "10,000"),
        ("10 thousand", "10,000"),
        ("1,200", "1,200"),
        ("１，２００", "1,200"),
        ("1200.0", "1,200"),
        ("-3", None),
        ("-.5", None),
        ("5/3", None),
        ("2/5", None),
        ("3/5", None),
        ("3-5", None),
        ("5:30", None),
        ("5.3", None),
        ("53", None),
        ("5²", None),
        ("5th", None),
        ("5D", None),
        ("1.200", None),
        ("5 000", None),
        ("5,000", None),
        ("5 million", None),
        ("10", None),
        ("1", None),
        ("000", None),
        ("200", None),
        ("20%", None),
        ("- 5", None),
        ("<5", None),
        ("more than 5", None),
        ("±5", None),
        ("3 or 5", None),
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        *("{}", "**{}**", "Answer: {}", "The answer is {}", "The answer is: {}.", "It is {}"),
        *("答案是{}", "x = {}", r"\boxed{{{}}}", "So the final answer is {}."),
    ],
)
def test_numbers_are_read_as_they_are_written(form, written, expected):
    assert match_answer(form.format(written), NUMBERS) == expected


@pytest.mark.parametrize(
    ("reply", "candidates", "expected"),
    [
        ("five", NUMBERS, "5"),
        ("There are 5 cubes", NUMBERS, "5"),
        ("3 + 2 = 5", ("5", "7"), "5"),
        ("The glass is half full", ("half", "full glass"), "half"),
        ("There are two", ("two", "three"), "two"),
        ("There are 2", ("two", "three"), "two"),
        ("I see two dogs and a third one", ("2", "3"), "2"),
        ("It is one of the two", ("1", "2"), "2"),
        ("5 m", ("5 mm", "5 km"), None),
        ("5 meters", ("5 mm", "5 m"), "5 m"),
        ("5 apples and 3 pears", NUMBERS, None),
        ("approximately 1,200 people", NUMBERS, "1,200"),
        ("A: 5", NUMBERS, "5"),
        ("5 cm", ("5 cm", "10 cm"), "5 cm"),
        ("5", ("5 cm", "10 cm"), "5 cm"),
        ("5 mm", ("5 cm", "10 cm"), None),
        ("There are 3 dogs", ("3 cats", "3 dogs"), "3 dogs"),
        ("3", ("3 cats", "3 dogs"), None),
        ("1.5 million", ("1.5 million", "1.5 billion"), "1.5 million"),
        ("12:30", ("12:30", "12"), "12:30"),
        ("12:30", ("12", "30"), None),
        ("2019-2020", ("2019", "2020"), None),
    ],
)
def test_numbers_in_sentences_and_units(reply, candidates, expected):
    assert match_answer(reply, candidates) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        *(("B", "5"), ("B) 5", "5"), ("B: 5", "5"), ("(C)", "7"), ("The answer is C) 7", "7")),
        *(("5", "5"), ("3 cubes", "3"), ("A) 5", None), ("A: 5", None), ("C. 5", None)),
    ],
)
def test_letters_beside_numbers(reply, expected):
    question = "How many?\nA) 3\nB) 5\nC) 7"
    assert match_answer(reply, ("3", "5", "7"), question=question) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Yes, there is a red cube", "Yes"),
        ("No, there are no yes signs", "No"),
        ("yes.", "Yes"),
        ("**Yes**, it is", "Yes"),
        ("Yes — it is", "Yes"),
        ("Yes. No cube is red.", "Yes"),
        ("No", "No"),
        ("No red cube is there", "No"),
        ("The answer is no, there is none", "No"),
        ("I would say yes.", "Yes"),
        ("There is no cube, so the answer is No", "No"),
        ("(B) No", "No"),
        ("A", "Yes"),
        ("(A) No", None),
        ("There is no red cube", None),
        ("There is no doubt that it is red", None),
        ("Yes and no", None),
        ("yes or no", None),
        ("Yes/No", None),
        ("Not really", None),
        ("Yesterday", None),
        ("Noble", None),
    ],
)
def test_yes_and_no(reply, expected):
    question = "Is there a red cube?\nA) Yes\nB) No"
    assert match_answer(reply, ("Yes", "No"), question=question) == expected


@pytest.mark.parametrize(
    ("reply", "candidates", "question", "expected"),
    [
        ("红色", ("红色", "蓝色"), "", "红色"),
        ("答案是红色。", ("红色", "蓝色"), "", "红色"),
        ("是蓝色的", ("红色", "蓝色"), "", "蓝色"),
        ("不是红色", ("红色", "蓝色"), "", None),
        ("红色和蓝色", ("红色", "蓝色"), "", None),
        ("B", ("红色", "蓝色"), "哪个？Ａ．红色　Ｂ．蓝色", "蓝色"),
        ("(A) red and blue", ("red", "red and blue"), "(A) red (B) red and blue", None),
        ("(B) red and blue", ("red", "red and blue"), "(A) red (B) red and blue", "red and blue"),
        ("B", ("red", "red and blue"), "(A) red (B) red and blue", "red and blue"),
        ("A", ("us", "US"), "(A) us (B) US", "us"),
        ("(B) US", ("us", "US"), "(A) us (B) US", "US"),
        ("(B) us", ("us", "US"), "(A) us (B) US", None),
        ("B", ("(A) red", "(B) blue"), "", "(B) blue"),
        ("b. blue", ("(A) red", "(B) blue"), "", "(B) blue"),
        ("red", ("A. red", "B. blue"), "", "A. red"),
        ("Not sure", ("Not sure", "red"), "", "Not sure"),
        ("It is not known", ("It is not known", "red"), "", "It is not known"),
        ("none of the above", ("red", "None of the above"), "", "None of the above"),
        ("a light red one", ("red", "light red"), "", "light red"),
    ],
)
def test_other_candidates(reply, candidates, question, expected):
    assert match_answer(reply, candidates, question=question) == expected


@given(st.text(max_size=30), st.lists(st.text(min_size=1, max_size=6), min_size=2, unique=True))
def test_reading_never_fails_and_never_invents(reply, candidates):
    assert match_answer(reply, candidates, question=reply) in (*candidates, None)
    assert match_answer(candidates[0], candidates, question=reply) == candidates[0]
    open_answer(reply, candidates)


@given(
    st.decimals(-(10**6), 10**6, places=2, allow_nan=False), st.sampled_from(["{}", "{:,}", "+{}"])
)
def test_a_number_is_its_value(value, form):
    written = form.format(value).replace("+-", "-")
    found = one_number(plain_text(written))
    assert found is not None and math.isclose(found.value, float(value), abs_tol=1e-9)
    other = f"{value + 1}"
    assert match_answer(written, (other, str(value))) == str(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 12:30, or 3-5, or 1.2.3", [None, None, None]),
        ("1,200 and 1 200 and 1'200", [1200, 1200, 1200]),
        ("-1 is not 1, nor more than 2", [-1, 1, None]),
        ("1½ or 2 1/4", [1.5, 2.25]),
        ("3D, 5th, c3, x10", [None, None]),
        ("0,200 and 1,5", [None, None]),
        ("1.2e3 and 5k, " + "9" * 400, [1200, 5000, None]),
    ],
)
def test_numbers_of_a_text(text, expected):
    found = [one.value for one in numbers(plain_text(text))]
    assert [None if math.isnan(one) else one for one in found] == expected


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("It is -5.", "5", False),
        ("It is -5.", "-5", True),
        ("It is 1/5 of it.", "5", False),
        ("10 000 people", "10", False),
        ("10 000 people", "10000", True),
        ("3.5 cm", "5", False),
        ("a dark-red cup", "red", False),
        ("红色的杯子", "红色", True),
        ("two red cups", "two", True),
    ],
)
def test_what_a_text_contains(text, answer, expected):
    assert states(text, answer) is expected


@pytest.mark.parametrize(
    ("stated", "known", "tolerance", "expected"),
    [
        ("-5", ["5"], 0, "-5"),
        ("−5", ["-5"], 0, "-5"),
        (".5", ["5", "0.5"], 0, "0.5"),
        ("1/5", ["5", "0.2"], 0, "0.2"),
        ("10 000", ["10", "10,000"], 0, "10,000"),
        ("5 %", ["5%"], 0, "5%"),
        ("5", ["5%"], 0, "5%"),
        ("12.5 million euros", ["12.5 million"], 0, "12.5 million"),
        ("The answer is 1250.", ["1200"], 0.05, "1200"),
        (r"\boxed{42}", ["42"], 0, "42"),
        ("I add them.\nThe answer is 42.", ["42"], 0, "42"),
        ("I add 40 and 2.\n42", ["42"], 0, "42"),
        ("The turnover was 2094.6 million", ["2094.6 million"], 0, "2094.6 million"),
        ("It is a car.", ["car"], 0, "car"),
        ("George Brett.", ["George Brett"], 0, "George Brett"),
        ("The answer is George Brett", ["George Brett"], 0, "George Brett"),
        ("a bus", ["car"], 0, "bus"),
        ("No, it is not.", ["No"], 0, "No"),
        ("Yes, it is.", ["No"], 0, "yes"),
        ("I see a street with many cars and houses but cannot tell", ["car"], 0, None),
    ],
)
def test_open_questions(stated, known, tolerance, expected):
    assert open_answer(stated, known, tolerance=tolerance) == expected


def test_long_texts_and_runs_of_white_space_are_read_as_short_ones():
    prose = "The sky is clear and the cat sat. " * 3000
    for text in (
        f"{prose}\nSo it is red.",
        " " * 50000 + "red",
        "\n \n" * 20000 + "red" + "\n" * 20000,
    ):
        assert match_answer(text, ("red", "blue")) == "red"
    assert match_answer("It is not a very bright red.", ("red", "blue")) is None


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
    assert open_answer(f" {stated} ", known, tolerance=tolerance) == expected
