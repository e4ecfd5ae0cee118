"""Every named format takes apart responses in the manner of its models."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.fit import detect_format, fit_format
from attcot_analysis.problems.formats import FORMATS
from attcot_analysis.problems.reading import stated_answer
from attcot_analysis.problems.response import parse_response

FIXTURES = Path(__file__).parents[1] / "formats"


@dataclass(frozen=True)
class Marked:
    """A response of tests/formats without its marks, and what the marks said."""

    format: str
    name: str
    text: str
    opened: bool
    finished: bool
    cut: str | None
    steps: tuple[str, ...]
    answer: tuple[int, int] | None


def read_marked(path: Path) -> list[Marked]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [unmark(content["format"], one) for one in content["responses"]]


def unmark(format_name: str, one: dict) -> Marked:
    """Take the marks out of a response and read from them where its parts are."""
    text = ""
    places: dict[str, list[int]] = {mark: [] for mark in "▸■«»"}
    for piece in re.split("([▸■«»])", one["text"]):
        if piece in places:
            places[piece].append(len(text))
        else:
            text += piece
    bounds = sorted([*places["▸"], *places["■"], len(text)])
    steps = [text[at : min(b for b in bounds if b > at)].strip() for at in places["▸"]]
    answer = None
    if places["«"]:
        answer = places["«"][0], [*places["»"], len(text)][0]
    return Marked(
        format=format_name,
        name=one["name"],
        text=text,
        opened=one.get("opened", False),
        finished=one.get("finished", True),
        cut=one.get("cut"),
        steps=tuple(steps),
        answer=answer,
    )


ALL = [one for path in sorted(FIXTURES.glob("*.yaml")) for one in read_marked(path)]


def test_every_named_format_has_responses() -> None:
    kinds = {one.format for one in ALL}
    assert kinds >= set(FORMATS)
    for name in kinds:
        assert len([one for one in ALL if one.format == name]) >= 6


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.format}-{one.name}")
def test_responses_are_cut_as_marked(one: Marked) -> None:
    parsed = parse_response(one.text, FORMATS[one.format], opened=one.opened)

    stages = FORMATS[one.format].stages
    tags = "|".join(f"<{name}>|</{name}>" for name in stages) or "(?!)"
    steps = tuple(
        re.sub(rf"^(?:{tags})|(?:{tags})$", "", step).strip() for step in parsed.step_texts
    )
    assert steps == one.steps
    assert parsed.cut == one.cut
    expected = None if one.answer is None else one.text[slice(*one.answer)]
    assert parsed.answer == expected
    if expected is not None and (one.finished or parsed.closed):
        assert stated_answer(parsed, finished=one.finished) == expected
    if not one.finished and not parsed.closed:
        assert stated_answer(parsed, finished=False) is None


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_format_of_responses_is_detected(name: str) -> None:
    mine = [one for one in ALL if one.format == name]
    texts = [one.text for one in mine]
    prompt = "<think>\n" if name == "thinking" else ""

    found = detect_format(texts, prompt=prompt, finished=[one.finished for one in mine])

    assert found.format.name == name, str(found)
    assert found.fit.share >= 0.5


def test_a_prompt_alone_decides_where_it_opens_the_rationale() -> None:
    assert detect_format([], prompt="assistant\n<think>\n").format.name == "thinking"
    assert detect_format([], prompt="\u25c1think\u25b7").format.name == "kimi"
    with pytest.raises(ProblemError, match="no responses to decide a format from"):
        detect_format(["", " "], prompt="assistant\n")


@pytest.mark.parametrize(
    "text",
    [
        "<thought>It is red. It is B.</thought>\nB",
        "<THINK>It is red.</THINK><ANSWER>B</ANSWER>",
        "[THINK]It is red.[/THINK]The answer is B.",
        "<|channel|>analysis<|message|>It is red.<|end|>\n<|channel|>final<|message|>B",
        "<seed:think>It is red.</seed:think>B",
    ],
)
def test_tags_that_no_format_knows_are_not_taken_for_prose(text: str) -> None:
    with pytest.raises(ProblemError, match="No named format fits half of the 2 responses"):
        detect_format([text] * 2)
    assert detect_format(["<b>B</b>", "It is <i>red</i>. So B."]).format.name == "prose"
    own = FORMATS["prose"].model_copy(update={"answer": ("<thought>", "</thought>")})
    assert fit_format(["<thought>B</thought>"], own).share == 1


def test_one_format_in_three_is_no_format() -> None:
    texts = ["<think>\na\n</think>\nb", "\u25c1think\u25b7a\u25c1/think\u25b7b", "<channel|>b"]
    with pytest.raises(ProblemError, match="No named format fits half of the 3 responses"):
        detect_format(texts)


@pytest.mark.parametrize("name", list(FORMATS))
def test_what_a_format_writes_it_reads(name: str) -> None:
    form = FORMATS[name]
    steps = ("The left bar ends at 30.", "The right bar ends at 41.")
    parsed = parse_response(form.render(steps, "right"), form)
    assert parsed.answer == "right"
    assert len(parsed.steps) == 2
    assert parse_response(form.render((), "right"), form).answer == "right"


def test_empty_responses_are_nothing_in_every_format() -> None:
    for form in FORMATS.values():
        for text in ("", " \n", "<|im_end|>"):
            parsed = parse_response(text, form)
            assert parsed.steps == ()
            assert stated_answer(parsed, finished=True) is None
