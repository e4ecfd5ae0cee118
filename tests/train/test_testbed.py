"""Building a tiny MLLM: an ordinary checkpoint, small, deterministic, and it learns."""

import json

import pytest
import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import encode_problem, load_mllm
from attcot_analysis.problems import ArrowsConfig, generate_arrows, render_response
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.train.testbed import BuildConfig, build_testbed_model

QUICK = BuildConfig(vision_steps=2, language_steps=2, batch_size=4)


def test_the_result_is_an_ordinary_checkpoint_and_the_same_each_time(tmp_path):
    first = build_testbed_model(tmp_path / "a", QUICK, progress=False)
    second = build_testbed_model(tmp_path / "b", QUICK, progress=False)
    weights = (first / "model.safetensors").read_bytes()
    assert weights == (second / "model.safetensors").read_bytes()
    assert len(weights) <= 4_000_000
    config = json.loads((first / "config.json").read_text())
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    assert {"tokenizer.json", "processor_config.json", "chat_template.jinja"} <= {
        path.name for path in first.iterdir()
    }
    record = json.loads((first / "testbed_build.json").read_text())
    assert [entry["stage"] for entry in record["history"]] == ["vision", "language"]
    assert load_mllm(first).family.name == "qwen2_5_vl"
    with pytest.raises(TrainingError, match="exists already"):
        build_testbed_model(first, QUICK, progress=False)


def test_the_vision_stage_learns(tmp_path):
    config = BuildConfig(
        arrows=ArrowsConfig(noise=0.0), vision_steps=50, language_steps=1, batch_size=2
    )
    folder = build_testbed_model(tmp_path / "model", config, progress=False)
    history = json.loads((folder / "testbed_build.json").read_text())["history"]
    vision = [entry["loss"] for entry in history if entry["stage"] == "vision"]
    assert vision[-1] < 0.5 * vision[0]


def test_the_shipped_model_speaks_the_testbed_s_words_in_whole_tokens():
    mllm = load_mllm(shipped(TESTBED_MODEL))
    problem = generate_arrows(1, ArrowsConfig(), seed=0)[0]
    assert all(len(mllm.tokenizer.tokenize(c)) == 1 for c in problem.candidates)
    item = encode_problem(mllm, problem, response=render_response(problem.steps, problem.answer))
    assert len(item.layout.image) == 36
    assert item.layout.n_steps == len(problem.steps)
    assert mllm.tokenizer.decode(item.response_ids) == render_response(
        problem.steps, problem.answer
    )


def test_the_shipped_model_was_trained():
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    problem = generate_arrows(1, ArrowsConfig(), seed=0)[0]
    item = encode_problem(mllm, problem, response=render_response(problem.steps, problem.answer))
    from attcot_analysis.models import collate

    batch = collate(mllm, [item])
    labels = batch["input_ids"].clone()
    labels[:, : item.prompt_length] = -100
    with torch.no_grad():
        assert mllm.model(**batch, labels=labels).loss.item() < 0.3
