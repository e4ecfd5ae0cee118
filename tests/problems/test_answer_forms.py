# ruff: noqa: E501, RUF001
"""Hard cases of reading an answer, by kind: the forms in which models really write one."""

from collections.abc import Iterator

import pytest

from attcot_analysis.problems import FORMATS, parse_response
from attcot_analysis.problems.reading import match_answer, open_answer, read_choice, stated_answer

COLOURS = ("red", "blue", "green")
LISTED = "Which colour?\nA) red\nB) blue\nC) green"
LETTERS = ("A", "B", "C", "D")
ANIMALS = "What is it?\n(A) a dog\n(B) a cat\n(C) a cow\n(D) a pig"
YES_NO = ("Yes", "No")

BLUE = {
    "the letter alone": r"""
(B) | B. | B) | B: | [B] | {B} | «B» | 'B' | “B” | B! | B? | (B). | (B), | -B | • B | - (B)
option B | Option (B) | OPTION B. | choice B | Choice: B | Letter B | letter (B)
""",
    "the letter in a sentence": r"""
The answer is (B). | The answer is B | The answer is: (B) | The answer would be (B).
The correct answer is (B) | The correct answer: (B) | Correct answer: B | Correct option: B
Final Answer: (B) | Final answer - B | FINAL ANSWER: B. | The final answer is (B).
So the answer is (B). | Hence the answer is option B. | Thus the correct choice is (B).
My answer is B. | My final answer: (B) | The answer, then, is B. | The answer must therefore be B.
I'm going with B. | I am going with option B | I'd say B. | I would answer B. | I select option B.
I'll choose (B). | Let's go with B. | We choose B. | We select (B). | We pick option B.
It has to be B. | It should be (B). | That makes it B. | That leaves B. | This corresponds to option B.
This matches option B. | which matches option (B) | B is the best choice. | B fits best. | B is right.
Option B is the right one. | Of the options, B is correct. | Selecting B. | "B" is my answer. | The answer is A. Wait, actually B.
The answer is A. No, it is B. | The answer is C. Sorry, I mean (B).
The answer is B. It actually looks dark. | The answer is B. Actually, the paint is dark. | B seems correct. | B it is.
Among the options, (B) is the best fit. | B would be the answer. | B must be it.
Answer: Option B | Answer: (B). | answer: b | Answer = B | Answer is B | Answer- B | Answer B.
Ans. B | Ans - (B) | Solution: B | Result: B | Selected answer: B | Chosen option: B
Therefore, the correct option is: **B** | Therefore, B is the answer | => B | ==> B | ∴ B
""",
    "markdown, tags and JSON": r"""
**B** | __B__ | *B* | ***B*** | **(B)** | **B.** | **Answer**: B | **Answer: (B)** | ### B | # Answer: B
### Answer\nB | ## Final answer\n\n(B) | **Final Answer**\n\n**B** | > B | `(B)` | ~~A~~ B | ```\nB\n```
<answer>B</answer> | <answer>(B)</answer> | <final>B</final> | {"answer": "(B)"} | {"choice": "B"}
{'answer': 'B'} | {"final_answer": "B"} | [Answer] B | [ANSWER]: B | 【B】 | (Answer: B) | Answer: "B"
<|begin_of_box|>B<|end_of_box|> | B<|endoftext|> | B\n</answer> | <CONCLUSION>B</CONCLUSION>
""",
    "boxed": r"""
\boxed{B} | \boxed{\text{B}} | \boxed{(B)} | \boxed{\textbf{B}} | \boxed{\mathrm{B}} | $\boxed{B}$
\boxed{\mathbf{B}} | \boxed{\text{(B) blue}} | \boxed{\text{blue}} | \boxed{blue} | \boxed{B. blue}
The answer is \boxed{B}. | \boxed{\text{Option B}} | \boxed{\textsf{B}} | \boxed{ B } | \boxed B
\fbox{B} | \[\boxed{B}\] | \(\boxed{B}\) | \boxed{\mathit{B}} | \boxed{\mbox{B}} | $$\boxed{B}$$
\boxed{\operatorname{B}} | \boxed{\mathsf{B}} | \boxed{\texttt{B}} | \boxed{\boxed{B}} | \boxed{\{B\}}
\boxed{A}? No. \boxed{B} | First \boxed{A}, but looking again: \boxed{B} | \boxed{C}\nWait.\n\boxed{B}
""",
    "full-width and CJK": r"""
Ｂ | （B） | （Ｂ） | Ｂ． | Ｂ： | Ｂ、 | B、blue | 【B】 | 《B》 | 「B」 | 『B』 | 〔B〕 | Ⓑ
答案是B | 答案是B。 | 答案是（B）。 | 答案是：B | 答案：B | 答案: (B) | 答案为：B | 答案選B | 選B | 选（B）
正确答案是B。 | 正确答案：B | 正确选项是B。 | 正确选项为B | 因此答案是B。 | 所以，答案是B。 | 故答案为B | 故选：B
因此，正确答案是选项B。 | 应选B | 应该选择B | 我选B。 | 我选择B | 选项B | 选项B正确 | B选项 | B选项正确 | B项正确
最终答案：B | 最终答案是：**B** | 综上，选B | 本题选B | 答え：B | 答えはB | 答えはBです。 | 正解：B | 解答：B | 回答：B
정답은 B입니다. | 정답: B | 답: B | 답은 B | 정답은 (B)입니다. | 선택: B | B번 | B입니다. | Bです。 | Bが正解です。
""",
    "other languages": r"""
La réponse est B. | Réponse : B | La respuesta es B. | Respuesta: B | Die Antwort ist B. | Antwort: B
A resposta é B. | Resposta: B | La risposta è B. | Risposta: B | Ответ: B | Правильный ответ: B
""",
    "the letter with its own words": r"""
B) blue | (B) blue | B. blue | B: blue | B - blue | B, blue | B – blue | B — blue | B blue | [B] blue
**B) blue** | **B**: blue | B) Blue. | (B) the blue one | B, the blue one | B (blue) | blue (B)
The answer is B, blue. | The answer is (B) blue. | The answer is B: blue | The answer is blue, B.
Option B: blue | Option B (blue) | Answer: B) blue | Answer: (B) - blue | blue, i.e. option B
The answer is B, because the car is blue. | B, since it is blue and not red | B. The car is blue.
B because the others are red and green | (B), not (A) | B and not A | B rather than A | B, not red.
Eliminating A leaves us with B. | We rule out option A, so B. | I exclude A and C. The answer is B.
Not A but B | Neither A nor C, so B | Not A, not C. B. | A and C are wrong, so it is B.
""",
    "the words alone": r"""
blue | Blue | BLUE | Blue. | "blue" | **blue** | It is blue. | It's blue. | It is the blue one.
The answer is blue. | The answer is: blue | Answer: blue | The car is blue. | the colour blue
the blue car | A blue car | blue (not red) | blue, not red | blue rather than red | not red, blue
""",
}
"""Replies that state the option B, which is blue."""

BLUE["answers that would be right otherwise"] = r"""
Answer: B\n\nNote: if you meant the bus, the answer is A. | **B**\n\nIf it were darker, the answer would be C.
The answer is B. Otherwise the answer would be A. | The answer would be A if it was red. So it is B.
Answer: B. Some might say the answer is A, but it is not red. | If it had been red, the answer would be A, but the answer is B.
\boxed{B}. If it was red, it would be \boxed{A}. | If we look at the car, the answer is B. | The answer would be B.
Had it been red, the answer would have been A.\nB | You may think the answer is A. It is B.
✅ B. blue\n\n❌ A. red – it is not\n❌ C. green – no way | - A. red ❌\n- B. blue ✅\n- C. green ❌
"""

CONTRADICTIONS = r"""
B) red | (B) red | B. red | B: red | B - red | B, red | B – red | B (red) | [B] red | B. Red. | **B) red**
**B** red | (B) the red one | B, the red one | Option B: red | Option B (red) | option B, which is red
The answer is B) red | The answer is (B) red. | The answer is B: red. | The answer is B, red.
The answer is B, which is red. | The answer is B (red). | The answer is red (B). | The answer is red, B.
Answer: B) red | Answer: (B) red | \boxed{B. red} | \boxed{\text{(B) red}} | red (B) | red, B | red: B
red, i.e. option B | red, so B | The correct answer is **B. red** | B、red | 答案是B，red | Ｂ．red
B, i.e. red | B, that is, red | B = red | B → red | It is B, the red car. | B is red. | B is the one that is red.
"""
"""Replies whose letter is B, which is blue, and whose words are another option's."""

UNREAD = r"""
A red cup is on the table, and a blue one | A or B | A and B | A, B | A/B | (A) and (B) | AB | A B C
Either A or B. | Both (A) and (B) | A & B | A; B | \boxed{A} and \boxed{B} | \boxed{A, B} | \boxed{A} or \boxed{B}
\boxed{A}, \boxed{B} | 答案是A和B | A或B | A、B | 选A或B | red and blue | red or blue | The answer is red or blue.
None of the above | All of the above | Neither. | Unknown | I don't know. | I cannot tell. | n/a | ?
It is impossible to tell. | Sorry, I can't help with that. | The image does not show it. | ... | \boxed{}
D | (D) | Option D | option 2 | the second | second option | purple | a purple one | It is purple.
not blue | It is not blue. | It isn't blue. | anything but blue | no blue | The answer is not B.
The answer is not (B). | B is wrong. | B is incorrect | B can be ruled out. | not B | 不是B | B不对 | B是错的
Option B does not match the picture. | B doesn't fit. | I would eliminate option B. | So we exclude B. | We can rule out (B). | B > A > C | Answer: C > B
选项B不符合图片内容。 | B选项错误 | B可以排除 | B均不正确
The blue one is nearer.\nThis is because the red one is elsewhere.
<tool_call>\n{"name": "zoom", "arguments": {"label": "B", "text": "blue"}}\n</tool_call> | <tool_call>{"label": "(B) blue"}
The answer is A. Actually, B or C. | I considered A, B and C. | Let me look at the image. | The answer is | Answer: | The answer is: | \boxed
"""
"""Replies that state none of the options, or several."""

ANIMAL = {
    "A": r"A | a | (A) | A. | A dog | a dog | It is a dog. | A is right | The answer is A. | The answer is a dog",
    "B": r"A cat | a cat | This is a cat. | The answer is a cat | The answer is A cat. | B | a cat (B)",
    "C": r"A cow is on the meadow | I see a cow. | There is a cow in the picture. | A cow, not a dog.",
    "D": r"A pig | I think that it is a pig. | (D) a pig | The animal is a pig, I believe.",
    None: r"""
A bird | a bird | A red cup is on the table | This is a bird. | A | I see an animal. | I do. | A horse.
A photo of an animal | The answer is a bird. | Answer: A bird | A long time ago | a lot
""".replace(" A |", ""),
}
"""What replies to `ANIMALS` state; the article is no option."""

YES = {
    "Yes": r"""
Yes | yes | YES. | Yes! | **Yes** | "Yes" | (Yes) | Yes, there is. | Yes — because it is red. | Yes - it is
Yes; it is red. | Yes: one cat | Yes (one cat) | Yes, no doubt. | Yes, there is no cat. | Yes. No cat is here.
The answer is yes. | The answer is yes, there is no doubt. | Answer: Yes | Answer: yes, it is | \boxed{\text{Yes}}
\boxed{yes} | There is no dog, so yes | There is no dog, so the answer is yes. | So yes. | Well, yes.
I would say yes | I think yes. | It is a cat. Yes. | Is it a cat? Yes. | Is it? Yes, it is. | My answer is yes
Yeah | Yep | Yes it is | Yes there is a cat | Yes, it's not red. | Hmm, yes. | Definitely yes. | Absolutely, yes
In short: yes | Final answer: Yes. | Therefore, yes. | Therefore, the answer is **Yes**. | yes</answer>
""",
    "No": r"""
No | no | NO. | No! | **No** | No, there isn't a cat | No, there isn't. | No — because it is red. | No. Yes would be wrong.
No, it is not. | No; there are none | No cat | No cats are there. | No, there is no cat. | The answer is no.
The answer is no, there is none. | There is no cat, so no. | There isn't a cat, so the answer is no.
There is a dog, so no | So no. | I would say no. | I think the answer is no | Is there a cat? No. | Nope
Nope, none. | \boxed{\text{No}} | \boxed{no} | Answer: No | Answer: no, it isn't | Definitely not, no.
Therefore, no. | Therefore, the answer is **No**. | My answer: no
""",
    None: r"""
Maybe | Yes and no | yes/no | Yes or no? | Not sure | I don't know. | There is no cat | It is unclear. | Yesterday
Nobody | Now | Know | There is no doubt about it. | no doubt it is | I cannot say. | Unknown | ? | Not necessarily
The sign says no parking. | There are no yes signs. | No idea. | No clue | No image was provided, so I cannot answer.
No problem! There is a cat. | No clear answer can be given. | No wonder, it is a cat
""",
}
"""What replies to a question of yes or no state."""

NUMBERS = {
    "1200": r"""
1200 | 1,200 | 1 200 | 1'200 | 1’200 | １２００ | 1200.0 | 1,200.00 | +1200 | $1200 | $1,200 | €1200 | 1200€ | USD 1,200
1200 people | about 1200 | ~1200 | approximately 1,200 | around 1200 | 1200. | **1200** | \boxed{1200} | \boxed{1{,}200}
\boxed{1,200} | $1200$ | 1.2 thousand | 1.2k | 1.2K | The answer is 1200. | It is 1200 people. | = 1200 | x = 1200 | 12e2
1.2e3 | 1.2 × 10^3 | 1.2\times 10^3 | one thousand two hundred | twelve hundred | 1{,}200 | 1\,200 | 1,200 USD | 1200.
700 + 500 = 1200 | It is 1200 (twelve hundred). | Answer: 1200 cm | 答案是1200 | 答案是1200人。 | 一千二百
""",
    "-3": r"-3 | −3 | –3 | －3 | minus 3 | negative 3 | -3.0 | \boxed{-3} | $-3$ | -3 degrees | -3 °C | -3°C | x = -3 | minus three",
    "0.25": r"""
0.25 | .25 | 0.250 | 1/4 | ¼ | \frac{1}{4} | \dfrac{1}{4} | \tfrac14 | $\frac{1}{4}$ | \boxed{\frac{1}{4}} | 1 / 4 | 2/8
a quarter | one quarter | one fourth
""",
    "1.5": r"1.5 | 1 1/2 | 1½ | 3/2 | \frac{3}{2} | \boxed{1\frac{1}{2}} | one and a half | 1.50 | $1.50",
    "12%": r"12% | 12 % | 12 percent | 12 per cent | 12 | 12.0% | twelve percent | 12\% | \boxed{12\%} | １２％ | about 12%",
    "4": r"4^\circ | 4 cm^2 | 4\,\text{cm}^2 | x = 4 | \angle ABC = 4^\circ | 2 + 2 = 4 | x \approx 4 | There are 4 cubes. | \sqrt{16} = 4",
    "21": r"21 | twenty-one | twenty one | Twenty-one. | 21 cats | There are 21. | There are twenty-one cats. | 二十一 | 21个 | 21.",
    "5 cm": r"5 cm | 5cm | 5 | 5.0 cm | five cm | 5 centimeters | 5 centimetres | \boxed{5\text{ cm}} | \boxed{5~\text{cm}} | 5 \mathrm{cm}",
}
"""Numbers as they are written."""

NOT_THESE = {
    "1200": r"1200 = 700 + 400 | 1200 (1300) | 1.200,5 | 1200.5 | 12,00 | 1201 | -1200 | 120 | 12000 | 1,2 | 1200-1300 | 1200/1300 | 1200 or 1300 | 1.2 million",
    "-3": r"3 | +3 | 1-3 | minus 4 | - 4 | three",
    "0.25": r"0.52 | 25 | 4 | 1/5 | 3/4 | 0,5 | three quarters",
    "1.5": r"15 | 1,5,2 | 1/2 | 2.5 | -1.5 | 1-5 | 1:5",
    "12%": r"0.12% | 120% | 21% | -12%",
    "21": r"twenty | one | 1 | 12 | twenty-two | 2 1 | hundred twenty-one",
    "5 cm": r"5 mm | 5 km | 50 cm | five mm",
    "4": r"""
\sqrt{4} | √4 | sqrt(4) | \sqrt[3]{4} | \log_2 4 | \sin 4 | 4\pi | 4π | 4 \pi | 4\sqrt{3} | 4 √3 | \frac{4}{\sqrt{3}} | 4^{2} | 4^x | \pm 4
x \geq 4 | x = 4 or x = -3 | x = -3, y = 4 | not 4 | 4 is wrong | There are over 4 cubes. | It is slightly below 4. | I cannot see 4 cubes.
It is larger than 4. | I cannot determine the number from this 4-panel image. | It is too blurry to count what is in row 4.
<tool_call>\n{"name": "zoom", "arguments": {"n": 4}}\n</tool_call>
""",
}
"""Other numbers."""

CHINESE = {
    ("是", "否"): {
        "是": "是 | 是。 | 是的 | 是的，有一只猫。 | 答案是：是 | “是”",
        "否": "否 | 否。 | 否，没有猫。 | 答案是否 | 答案：否",
        None: "不是 | 不知道",
    },
    ("有", "没有"): {"有": "有 | 有。 | 有的", "没有": "没有 | 没有。 | 没有猫 | 答案是没有"},
    ("红色", "蓝色", "绿色"): {
        "蓝色": "蓝色 | 蓝色。 | 是蓝色。 | 它是蓝色的 | 答案是蓝色 | 不是红色，是蓝色 | 不是红色而是蓝色 | 「蓝色」 | 颜色：蓝色",
        None: "不是蓝色 | 红色和蓝色 | 红色或蓝色 | 蓝的 | 黄色",
    },
    ("はい", "いいえ"): {
        "はい": "はい | はい。 | はい、います。",
        "いいえ": "いいえ | いいえ、いません。",
    },
    ("예", "아니요"): {"예": "예 | 예. | 예, 있습니다.", "아니요": "아니요 | 아니요, 없습니다."},
    ("猫", "熊猫"): {
        "猫": "猫 | 猫。 | 一只猫 | 这是猫",
        "熊猫": "熊猫 | 熊猫。 | 一只熊猫 | 这是熊猫",
    },
}
"""What replies state of candidates that are written without spaces."""


def cases(table: object, *at: object) -> Iterator[tuple[object, ...]]:
    """The replies of a table with the keys that lead to them; ``\\n`` is a line end."""
    if isinstance(table, dict):
        for key, inner in table.items():
            yield from cases(inner, *at, key)
        return
    for reply in str(table).replace("\n", " | ").split(" | "):
        if reply.strip():
            yield (*at, reply.strip().replace(r"\n", "\n"))


@pytest.mark.parametrize(("kind", "reply"), cases(BLUE))
def test_an_option_in_any_dress(kind, reply):
    assert match_answer(reply, COLOURS, question=LISTED) == "blue"


@pytest.mark.parametrize(("reply",), cases(CONTRADICTIONS))
def test_a_letter_beside_the_words_of_another_option_is_a_contradiction(reply):
    assert read_choice(reply, COLOURS, question=LISTED) == (None, "contradiction")


@pytest.mark.parametrize("reply", ["A or B", "red and blue", r"\boxed{A}, \boxed{B}", "A\nB"])
def test_several_options_are_flagged(reply):
    assert read_choice(reply, COLOURS, question=LISTED) == (None, "several")


@pytest.mark.parametrize("reply", ["", "purple", "I cannot tell.", "E", "B is wrong."])
def test_what_states_nothing_is_no_contradiction(reply):
    assert read_choice(reply, COLOURS, question=LISTED) == (None, "")


@pytest.mark.parametrize(("reply",), cases(UNREAD))
def test_none_or_several(reply):
    assert match_answer(reply, COLOURS, question=LISTED) is None


@pytest.mark.parametrize(("expected", "reply"), cases(ANIMAL))
def test_the_article_is_no_option(expected, reply):
    assert match_answer(reply, LETTERS, question=ANIMALS) == expected


@pytest.mark.parametrize(("expected", "reply"), cases(YES))
def test_yes_and_no(expected, reply):
    assert match_answer(reply, YES_NO, question="Is there a cat?") == expected


@pytest.mark.parametrize(("known", "reply"), cases(NUMBERS))
def test_numbers(known, reply):
    assert open_answer(reply, [known]) == known


@pytest.mark.parametrize(("known", "reply"), cases(NOT_THESE))
def test_other_numbers(known, reply):
    assert open_answer(reply, [known]) != known


@pytest.mark.parametrize(("candidates", "expected", "reply"), cases(CHINESE))
def test_words_without_spaces(candidates, expected, reply):
    assert match_answer(reply, candidates) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("The area is 20π.", "20\\pi"),
        ("\\boxed{20 \\pi}", "20\\pi"),
        ("The area is $20\\pi$ cm.", "20\\pi"),
        ("20", "20"),
        ("5√2", "5\\sqrt{2}"),
        ("5\\sqrt 2", "5\\sqrt{2}"),
        ("√2", None),
        ("20√2", None),
        ("\\sqrt{20}", None),
        ("x \\geq 20", None),
    ],
)
def test_options_that_are_formulas(reply, expected):
    assert match_answer(reply, ("20", "20\\pi", "5\\sqrt{2}", "5")) == expected


@pytest.mark.parametrize(
    "name",
    [
        "St. Louis",
        "Dr. Smith",
        "J. K. Rowling",
        "U.S. Army",
        "John F. Kennedy",
        "Mt. Fuji",
        "Who & Co. Ltd",
    ],
)
def test_a_name_with_an_abbreviation_is_read_as_a_whole(name):
    for reply in (
        f"The answer is {name}.",
        f"**Answer:** {name}",
        f"Final answer: {name}. It is so.",
    ):
        parsed = parse_response(reply, FORMATS["prose"])
        if reply.endswith("so.") and " F. " in name:
            continue  # "point B. It" and "John F. Kennedy" look alike.
        assert parsed.answer == name
        assert open_answer(parsed.answer, [name]) == name
    for answer in ("4", "Point B", "No", "red"):
        text = f"The answer is {answer}. The cat is red."
        assert parse_response(text, FORMATS["prose"]).answer == answer


@pytest.mark.parametrize(
    ("reply", "known", "expected"),
    [
        ("**Yes**\n\nThe dog is on the left.", "Yes", "Yes"),
        ("No.\n\nThe dog is on the left.", "Yes", "no"),
        ("**3**\n\nThe last one is behind sphere 1.", "1", "3"),
        ("3\n\nTwo are on the left.", "3", "3"),
        ("3\n\nWait, it is 4.", "4", "4"),
        ("**Yes**\n\nOn second thought, no.", "Yes", None),
        ("### Final answer\n\nThere are 4 dogs.", "4", "4"),
        ("**Conclusion**\n\nThere are 4 dogs.", "4", "4"),
        ("**dog**\n\nIt has floppy ears.", "dog", None),
        ("**Steps**\n\nIt has ears.\n\n**dog**", "dog", "dog"),
        ("Answer:\n- red\n- blue", "blue", None),
        ("Answer:\n- red", "red", "red"),
        ("They are:\n- red\n- blue", "blue", None),
    ],
)
@pytest.mark.parametrize("name", ["prose", "thinking"])
def test_the_reason_behind_an_open_answer_is_not_the_answer(reply, known, expected, name):
    text = f"x\n</think>\n\n{reply}" if name == "thinking" else reply
    parsed = parse_response(text, FORMATS[name], opened=name == "thinking")
    stated = stated_answer(parsed, finished=True)
    assert open_answer(stated, [known]) == expected


def test_a_row_of_a_table_states_nothing():
    rows = "| Option | Animal |\n|---|---|\n| A | red |\n| B | blue |"
    assert match_answer(rows, COLOURS, question=LISTED) is None
    assert match_answer(f"It is blue.\n\n{rows}", COLOURS, question=LISTED) == "blue"
    parsed = parse_response(f"x\n</think>\n\n{rows}", FORMATS["thinking"], opened=True)
    assert open_answer(stated_answer(parsed, finished=True), ["blue"]) is None


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("Answer: 2", None), ("2", "2"), ("three", None), ("4", "4"), ("Answer: 4", "4")],
)
def test_a_number_that_is_an_option_and_the_place_of_another(reply, expected):
    question = "How many?\n1) 2\n2) 3\n3) 4"
    if reply == "three":
        expected = None  # The place of 4.
    assert match_answer(reply, ("2", "3", "4"), question=question) == expected
