"""Parts of a response: their tokens, their log-probabilities, and answers put in their place."""

import pytest
import torch
from tiny import noise_image

from attcot_analysis.errors import LayoutError, MeasureError
from attcot_analysis.measures.maps import response_parts
from attcot_analysis.models import collate
from attcot_analysis.problems import Problem, Step

RATIONALE = "<think>\n1. Cell b1 holds a red circle.\n2. It is red.\n"
RESPONSE = f"{RATIONALE}</think>\n<answer>red</answer>"


@pytest.fixture(scope="module")
def problem():
    steps = (Step("One.", ((0, 0, 32, 32),)), Step("Two."))
    return Problem("p", noise_image(64, 64), "What color?", ("red", "dark blue"), "red", steps)


def test_steps_and_answer(random_mllm, problem):
    asked = response_parts(random_mllm, problem, RESPONSE)
    assert [part.text for part in asked.parts] == [
        "1. Cell b1 holds a red circle.",
        "2. It is red.",
        "red",
    ]
    assert [part.step for part in asked.parts] == [1, 2, 0]
    assert [part.boxes for part in asked.parts] == [((0, 0, 32, 32),), (), ()]
    assert asked.answer == 2
    only = response_parts(random_mllm, problem, RESPONSE, "answer")
    assert [part.text for part in only.parts] == ["red"] and only.answer == 0


def test_tokens_are_the_whole_response(random_mllm, problem):
    asked = response_parts(random_mllm, problem, RESPONSE, "tokens")
    assert "".join(part.text for part in asked.parts) == RESPONSE
    assert "".join(part.text for part in asked.parts if part.step == 2) == "2. It is red.\n"
    assert asked.parts[asked.answer].text == "red"
    assert len(asked.rows) == len(asked.parts)


@torch.no_grad()
def test_log_p_is_the_sum_over_tokens_of_what_predicts_them(random_mllm, problem):
    asked = response_parts(random_mllm, problem, RESPONSE)
    logits = random_mllm.model(**collate(random_mllm, [asked.item])).logits
    found = asked.log_probs(logits[:, asked.rows])
    ids, table = asked.item.input_ids, logits[0].log_softmax(-1)
    for part, value in zip(asked.parts, found[0], strict=True):
        expected = sum(table[t - 1, ids[t]] for t in range(*part.span))
        torch.testing.assert_close(value, expected)
    with pytest.raises(MeasureError, match="not finite"):
        asked.log_probs(logits[:, asked.rows] * float("nan"))


@pytest.mark.parametrize("ending", ["</think>\n<answer>red</answer>", "</think>", ""])
def test_another_answer_takes_the_place_of_what_was_said(random_mllm, problem, ending):
    ids = random_mllm.tokenizer(RATIONALE + ending, add_special_tokens=False)["input_ids"]
    for response in (RATIONALE + ending, ids):
        asked = response_parts(random_mllm, problem, response, answer="dark blue")
        text = random_mllm.tokenizer.decode(asked.item.response_ids)
        assert text == f"{RATIONALE}</think>\n<answer>dark blue</answer>"
        assert asked.parts[asked.answer].text == "dark blue"
        assert [part.step for part in asked.parts] == [1, 2, 0]


def test_the_rationale_keeps_its_own_tokens(random_mllm, problem):
    """Letter by letter, as a model may write what its tokenizer would not."""
    letters = [random_mllm.tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in "red."]
    head = random_mllm.tokenizer("<think>\n1. ", add_special_tokens=False)["input_ids"]
    asked = response_parts(random_mllm, problem, [*head, *letters], answer="red")
    assert asked.item.response_ids[: len(head) + 4] == (*head, *letters)


def test_a_token_that_runs_into_the_tag_is_cut(random_mllm, problem, monkeypatch):
    """The text stays whole where ``.<`` is one token, as some tokenizers have it."""
    from attcot_analysis.measures import maps as targets

    tokenizer = random_mllm.tokenizer
    text = RATIONALE + "</think>\n<answer>red</answer>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    _, starts = targets.token_starts(tokenizer, ids)
    at = int((starts < len(RATIONALE)).sum()) - 1
    # The rationale's last token is made to end behind its first letter of the tag.
    moved = starts.copy()
    moved[at + 1] = len(RATIONALE) + 1
    monkeypatch.setattr(targets, "token_starts", lambda *_: (text, moved))
    asked = response_parts(random_mllm, problem, ids, answer="red")
    assert tokenizer.decode(asked.item.response_ids) == text
    assert asked.item.response_ids[:at] == tuple(ids[:at])


def test_what_cannot_be_asked_about_is_refused(random_mllm, problem):
    with pytest.raises(MeasureError, match="Targets 'words' are unknown"):
        response_parts(random_mllm, problem, RESPONSE, "words")
    with pytest.raises(LayoutError, match="has no step"):
        response_parts(random_mllm, problem, "<answer>red</answer>", "steps")
    with pytest.raises(LayoutError, match="states no answer"):
        response_parts(random_mllm, problem, RATIONALE, "answer")
    with pytest.raises(LayoutError, match="no rationale"):
        response_parts(random_mllm, problem, "<answer>red</answer>", answer="red")
    assert response_parts(random_mllm, problem, "<answer>red</answer>", "answer").answer == 0
