"""Checkpoints that are damaged, and models whose numbers are none."""

import json
import shutil

import pytest
import torch
from faults import sentence
from safetensors.torch import load_file, save_file
from tiny import tiny_mllm

from attcot_analysis.errors import MeasureError, ModelError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.models import load_mllm
from attcot_analysis.problems import render_response
from attcot_lab.testbed.arrows import generate_arrows


@pytest.fixture(scope="module")
def checkpoint(random_mllm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    random_mllm.model.save_pretrained(folder)
    random_mllm.processor.save_pretrained(folder)
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def garbled(path):
    path.write_bytes(b"\xff\x00garbage" * 20)


def halved(path):
    text = path.read_text()
    path.write_text(text[: len(text) // 2])


def without_a_weight(path):
    weights = load_file(path)
    weights.pop(next(name for name in weights if "layers.1" in name))
    save_file(weights, path, {"format": "pt"})


def of_another_shape(path):
    weights = load_file(path)
    name = next(name for name in weights if "layers.1.mlp" in name)
    weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("model.safetensors", cut),
        ("model.safetensors", garbled),
        ("model.safetensors", without_a_weight),
        ("model.safetensors", of_another_shape),
        ("config.json", halved),
        ("config.json", garbled),
        ("tokenizer.json", halved),
        ("tokenizer.json", garbled),
        ("processor_config.json", halved),
    ],
)
def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path, fault, file, harm):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    harm(folder / file)
    with fault("corrupt checkpoint"), pytest.raises(ModelError) as caught:
        load_mllm(folder)
    assert "model" in sentence(caught.value)


def test_a_whole_checkpoint_is_loaded(checkpoint, random_mllm):
    found = load_mllm(checkpoint, dtype=torch.float32).model.state_dict()
    expected = random_mllm.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert json.loads((checkpoint / "config.json").read_text())


def test_numbers_that_are_none_are_not_measured(fault):
    mllm = tiny_mllm()
    problems = generate_arrows(2, seed=0)
    responses = [render_response(problem.steps, problem.answer) for problem in problems]
    answer_problems(mllm, problems, max_new_tokens=2)
    with torch.no_grad():
        mllm.model.model.language_model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    for measure, error in (
        (lambda: answer_problems(mllm, problems, max_new_tokens=2), ModelError),
        (lambda: commitment(mllm, problems, responses, controls=("rationale",)), MeasureError),
        (lambda: visual_access(mllm, problems, responses), MeasureError),
    ):
        with fault("NaN logits"):
            with pytest.raises(error, match="not finite") as caught:
                measure()
            assert "dtype" in sentence(caught.value)
