"""Questions and candidates that hold a picture's placeholder or a token of a chat template."""

import json

import pytest
from PIL import Image
from real import CHECKPOINTS, needs_real_files, real_files

from attcot_analysis.errors import ProblemError
from attcot_analysis.problems.data import check_data, read_data
from attcot_analysis.problems.data.fields import RESERVED

TOKENS = (
    "<image>",
    "<video>",
    "<|image_pad|>",
    "<IMG_CONTEXT>",
    "<image_soft_token>",
    "<start_of_image>",
    "<|im_start|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<row_1_col_2>",
    "[INST]",
)
TEXTS = (
    "a <b> c",
    "<image 1>",
    "|im_start|",
    "[img]",
    "x<|y",
    "<think>",
    "<answer>A</answer>",
    "[1]",
)


def records(folder, *texts, where="question"):
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    lines = []
    for number, text in enumerate(texts):
        own = {"question": f"What is {text}?"} if where == "question" else {"question": "What?"}
        options = ["red", text if where == "candidate" else "blue"]
        line = {"id": f"q{number}", "image": "a.png", "candidates": options, "answer": "red"}
        lines.append(json.dumps(line | own))
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("where", ["question", "candidate"])
def test_each_is_a_fault_of_its_own_record(tmp_path, where):
    checked = check_data(records(tmp_path, *TOKENS, "this", where=where))
    assert len(checked.faults) == len(TOKENS) and checked.coverage.n == 1
    for number, (token, fault) in enumerate(zip(TOKENS, checked.faults, strict=True)):
        if where == "question" and token == "<image>":  # It says where the picture stands.
            assert "question 'What is <image>?' says more between its pictures" in fault
            continue
        assert f"Problem q{number}: a {where} holds {token!r}" in fault
    with pytest.raises(ProblemError, match="which models read as a picture or as the end of a"):
        list(read_data(records(tmp_path, TOKENS[1], where=where)))


def test_what_only_looks_alike_is_text(tmp_path):
    checked = check_data(records(tmp_path, *TEXTS))
    assert checked.holds and checked.coverage.n == len(TEXTS)


@needs_real_files
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_family_s_placeholder_and_template_token_is_known(name):
    settings = json.loads((real_files() / name / "tokenizer_config.json").read_text())
    added = settings.get("added_tokens_decoder", {}).values()
    special = [one["content"] for one in added if one.get("special")]
    known = [token for token in special if RESERVED.fullmatch(token)]
    images = [token for token in special if "image" in token.lower() or "img" in token.lower()]
    assert set(images) <= set(known)
