"""Spans of system, question, rationale, steps and answer, found from the ids really present."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import noise_image

from attcot_analysis.errors import LayoutError
from attcot_analysis.models import Span, encode, token_starts
from attcot_analysis.models.layout import Cut, find_layout
from attcot_analysis.problems import render_response

IMAGE = 99


class Pieces:
    """A tokenizer whose token i is the i-th of these byte strings."""

    def __init__(self, *pieces):
        self.pieces = [p.encode() if isinstance(p, str) else p for p in pieces]

    def decode(self, ids, **_):
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="replace")


def layout_of(*pieces, stop_ids=()):
    ids = list(range(len(pieces)))
    return find_layout(
        Pieces(*pieces), [50, 51], ids, image_token_id=IMAGE, grids=(), stop_ids=stop_ids
    )


def text_of(mllm, encoded, span):
    return mllm.tokenizer.decode(encoded.input_ids[span.start : span.stop])


def test_spans_of_a_rendered_response(random_mllm):
    steps = ["The star is in cell a1.", "Cell b1 holds a red circle — ünï, 漢字, 🙂."]
    response = render_response(steps, "red")
    encoded = encode(random_mllm, noise_image(96, 64), "What color?", response=response, end=True)
    layout = encoded.layout
    assert [text_of(random_mllm, encoded, s) for s in layout.steps] == [
        f"{n}. {text}\n" for n, text in enumerate(steps, 1)
    ]
    assert text_of(random_mllm, encoded, layout.answer) == "red"
    assert text_of(random_mllm, encoded, layout.think) == "".join(
        text_of(random_mllm, encoded, step) for step in layout.steps
    )
    assert layout.step_ends == (layout.steps[0].start, layout.steps[0].stop, layout.steps[1].stop)
    assert layout.n_steps == 2
    before = encoded.input_ids[encoded.prompt_length : layout.step_ends[0]]
    assert random_mllm.tokenizer.decode(before) == "<think>\n"
    assert layout.response == Span(encoded.prompt_length, layout.n_tokens)
    assert layout.rows(layout.answer).tolist() == [layout.answer.start - 1]


def test_prompt_positions_are_a_partition(random_mllm):
    encoded = encode(random_mllm, noise_image(96, 64), "What color?", response="<answer>red")
    layout = encoded.layout
    prompt = np.sort(np.concatenate([layout.system, layout.image, layout.question]))
    assert prompt.tolist() == list(range(encoded.prompt_length))
    assert len(layout.image) == 24 and layout.grids[0].shape == (4, 6)
    assert layout.system.max() < layout.image.min() and layout.question.min() > layout.image.max()
    assert "What color?" in random_mllm.tokenizer.decode(encoded.input_ids[layout.question])
    assert "helpful assistant" in random_mllm.tokenizer.decode(encoded.input_ids[layout.system])


def test_a_text_only_prompt_has_no_image_and_no_system(random_mllm):
    layout = encode(random_mllm, None, "What color?", response="<answer>red</answer>").layout
    assert len(layout.image) == len(layout.system) == 0 and layout.grids == ()
    assert layout.question.tolist() == list(range(layout.response.start))
    assert layout.think is None and layout.steps == () and layout.answer is not None


def test_a_span_is_the_tokens_that_overlap_its_text():
    layout = layout_of(
        "<th", "ink>", "\n1", ". a", "\n2. b", "\n</", "think>\n<answer>r", "ed</answer>"
    )
    # "\n1" is a part of the tag's line and of step 1, "\n2. b" of steps 1 and 2.
    assert layout.think == Span(2 + 2, 2 + 6)
    assert layout.steps == (Span(2 + 2, 2 + 4), Span(2 + 4, 2 + 6))
    assert layout.answer == Span(2 + 6, 2 + 8)
    assert layout.cuts == (Cut(2 + 2, "\n"), Cut(2 + 4, "\n"), Cut(2 + 5, "\n"))
    assert layout.step_ends == (4, 6, 7)


def test_white_space_around_an_answer_is_none_of_it():
    layout = layout_of("<answer>", "\n", "red", "\n", "</answer>")
    assert layout.answer == Span(2 + 2, 2 + 3)
    empty = layout_of("<answer>", "\n", "</answer>")
    assert empty.answer == Span(2 + 1, 2 + 2)


def test_characters_of_several_tokens_stay_together():
    smile, kanji = "🙂".encode(), "漢".encode()
    layout = layout_of(
        "<think>\n", "1. ", smile[:1], smile[1:3], smile[3:], "\n", "2. ", kanji[:2], kanji[2:],
        "\n</think>", "<answer>", kanji[:1], kanji[1:] + b"</", "answer>",
    )  # fmt: skip
    assert layout.steps == (Span(3, 8), Span(8, 12))
    assert layout.answer == Span(13, 15)


def test_a_replacement_character_does_not_stop_the_count():
    pieces = ["a", b"\xff", b"\xfe", "b", "c", "�", "d", "e", "f", "g"]
    text, starts = token_starts(Pieces(*pieces), range(len(pieces)))
    assert text == "a\ufffd\ufffdbc\ufffddefg"
    assert text[starts[-1]] == "g" and (np.diff(starts) >= 0).all()
    unfinished, starts = token_starts(Pieces("a", "🙂".encode()[:2]), range(2))
    assert unfinished == "a\ufffd" and starts.tolist() == [0, 1]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(max_size=40))
def test_starts_are_those_of_the_text(random_mllm, text):
    ids = random_mllm.tokenizer(text, add_special_tokens=False)["input_ids"]
    found, starts = token_starts(random_mllm.tokenizer, ids)
    assert found == random_mllm.tokenizer.decode(ids)
    for index, start in enumerate(starts):
        prefix = random_mllm.tokenizer.decode(ids[:index]).rstrip("\ufffd")
        assert start == len(prefix) or "\ufffd" in text


def test_missing_tags():
    direct = layout_of("<answer>", "red", "</answer>")
    assert direct.think is None and direct.steps == () and direct.answer == Span(3, 4)
    with pytest.raises(LayoutError, match="no rationale"):
        _ = direct.step_ends
    empty = layout_of("<think>\n", "</think>\n", "<answer>", "red", "</answer>")
    assert empty.steps == () and empty.step_ends == (3,)
    unclosed = layout_of("<think>\n", "1. ", "a", "\n", "2. ", "b")
    assert unclosed.steps == (Span(3, 6), Span(6, 8)) and unclosed.answer is None
    nothing = layout_of()
    assert nothing.response == Span(2, 2) and nothing.think is None and nothing.answer is None


def test_end_tokens_belong_to_nothing():
    cut = layout_of("<answer>", "red", "<end>", "<end>", stop_ids=(2, 3))
    assert cut.answer == Span(3, 4) and cut.response == Span(2, 6)


def test_image_tokens_must_equal_the_grid(random_mllm):
    encoded = encode(random_mllm, noise_image(96, 96), "What color?")
    ids = encoded.input_ids.tolist()
    cut = [i for i in ids if i != random_mllm.image_token_id]
    options = {"image_token_id": random_mllm.image_token_id, "grids": encoded.layout.grids}
    with pytest.raises(LayoutError, match="holds 0 image tokens but its images make 36"):
        find_layout(random_mllm.tokenizer, cut, [], **options)
    with pytest.raises(LayoutError, match="response itself holds image placeholder"):
        find_layout(random_mllm.tokenizer, ids, [random_mllm.image_token_id], **options)
    with pytest.raises(LayoutError, match="question holds the image placeholder"):
        encode(random_mllm, noise_image(96, 96), "What does <|image_pad|> mean?")
    with pytest.raises(LayoutError, match="processor refused the prompt or its image: absolute"):
        encode(random_mllm, noise_image(2010, 10), "What color?")
