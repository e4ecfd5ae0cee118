"""Formats that come with a tokenizer: transformers' response templates."""

import pytest

from attcot_analysis.problems.fit import detect_format
from attcot_analysis.problems.formats import template_format
from attcot_analysis.problems.response import parse_response

TEMPLATE = {
    "start_anchor": "<|turn>model\n",
    "fields": {
        "reasoning_content": {"open": "<|muse>\n", "close": "<muse|>", "content": "text"},
        "content": {"close": ["<turn|>", "<eos>"], "content": "text"},
    },
}
TEXT = "<|muse>\nThe bar is red. It is tall.\n<muse|>The answer is 5.<turn|>"


def test_a_template_is_a_format_with_its_tags():
    form = template_format(TEMPLATE)
    assert form is not None
    parsed = parse_response(TEXT, form)
    assert parsed.step_texts == ("The bar is red.", "It is tall.") and parsed.answer == "5"
    written = parse_response(form.render(["One.", "Two."], "5"), form)
    assert (len(written.steps), written.answer) == (2, "5")
    assert detect_format([TEXT] * 3, own=[form]).format == form
    assert form.is_open("<|turn>model\n<|muse>\n")


def test_it_is_read_as_transformers_reads_it():
    parsing = pytest.importorskip("transformers.utils.chat_parsing.response_parser")
    theirs = parsing.parse_response(TEXT, TEMPLATE, prefix="<|turn>model\n")
    form = template_format(TEMPLATE)
    assert form is not None
    ours = parse_response(TEXT, form)
    assert ours.think is not None
    assert theirs["reasoning_content"].strip() == TEXT[slice(*ours.think)].strip()
    assert theirs["content"] == TEXT[slice(*ours.outside)]


@pytest.mark.parametrize(
    "template",
    [None, {}, {"fields": {"content": {}}}, {"fields": {"reasoning_content": {"open": "<a>"}}}],
)
def test_templates_without_tags_are_none(template):
    assert template_format(template) is None
