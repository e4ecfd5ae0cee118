"""Layouts handed over to TransformerLens and nnsight, Inspect's logs, bitsandbytes' weights.

Apart from `make test`, in an environment of its own: `make neighbours`.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_scale import shards
from tiny import noise_image, tiny_mllm
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

import attcot_analysis as ac
from attcot_analysis.attention.probe import read_maps
from attcot_analysis.cli import main
from attcot_analysis.measures.check import check_model
from attcot_analysis.models import collate, encode, encode_problem
from attcot_analysis.problems import render_response
from attcot_analysis.runs.generations import lines_of, read_bytes, read_line

ROOT = Path(__file__).parents[2]
MODELS = {"qwen2_5_vl-b0": "relation", "llava-small": "arrows"}
"""Shipped checkpoints, each with items that it was trained for."""


@pytest.fixture(scope="module", params=MODELS)
def handed(request):
    """A checkpoint's folder, what another package gets of an item, and what our probe reads."""
    folder = ROOT / "data" / "models" / request.param
    mllm = ac.load_mllm(folder, dtype="float32", device="cpu")
    problem = ac.load_problems(ROOT / "data" / "problems" / MODELS[request.param], limit=1)[0]
    response = render_response([step.text for step in problem.steps], problem.answer)
    item = encode_problem(mllm, problem, response=response)
    plain = json.loads(json.dumps(item.plain()))
    ours = read_maps(mllm, item, _rows(plain))  # (layers, heads, rows, image tokens)
    batch = collate(mllm, [item])
    assert batch["input_ids"].tolist() == [plain["ids"]]
    return folder, dict(batch), plain, ours, mllm


def _rows(plain):
    """The rows that predict the tokens of all steps."""
    assert len(plain["steps"]) > 1
    return [row for start, stop in plain["steps"] for row in range(start - 1, stop - 1)]


def _same(theirs, plain, ours):
    """Attention (layers, heads, T, T) at the positions handed over is what the probe reads."""
    found = np.stack([one.float().numpy() for one in theirs])[:, :, _rows(plain)]
    assert np.abs(found.sum(-1) - 1).max() < 1e-5
    found = found[..., plain["image"]]
    assert found.shape == ours.shape and found.sum(-1).max() > 0.01
    assert np.abs(found - ours).max() < 1e-5
    moved = np.abs(found[:, :, 1:] - ours[:, :, :-1]).max()
    assert moved > 1e-3, "a row beside it is another one"


def test_spans_and_grids_say_what_the_tokens_are(handed):
    _, batch, plain, _, mllm = handed
    text = mllm.tokenizer.decode(plain["ids"][slice(*plain["answer"])])
    assert text and text in mllm.tokenizer.decode(plain["ids"][slice(*plain["response"])])
    assert {plain["ids"][at] for at in plain["image"]} == {mllm.image_token_id}
    (grid,) = plain["grids"]
    boxes = np.array(grid["boxes"])
    assert len(boxes) == len(plain["image"]) == int(np.prod(grid["shape"]))
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert areas.sum() == pytest.approx(np.prod(grid["image_size"]), rel=1e-3)
    assert batch["input_ids"].shape[1] == len(plain["ids"])


def test_transformer_lens_reads_the_same_attention(handed):
    from transformer_lens.model_bridge import TransformerBridge

    folder, batch, plain, ours, mllm = handed
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=model.eval(), tokenizer=mllm.tokenizer, device="cpu"
    )
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(len(ours))]
    ids = batch.pop("input_ids")
    with torch.no_grad():
        _, cache = bridge.run_with_cache(ids, names_filter=patterns, **batch)
    batch["input_ids"] = ids
    _same([cache[name][0] for name in patterns], plain, ours)


def test_nnsight_reads_the_same_attention(handed):
    from nnsight import NNsight

    folder, batch, plain, ours, _ = handed
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    inside = NNsight(model.eval().requires_grad_(False))
    with inside.trace(**batch):
        found = list().save()
        for layer in inside.model.language_model.layers:
            found.append(layer.self_attn.output[1])
    _same([one[0] for one in found], plain, ours)


@pytest.fixture(params=["4 bits", "8 bits"])
def in_bits(request, tmp_path):
    """A checkpoint of random weights that `transformers` has quantised and saved."""
    exact = tiny_mllm(intermediate_size=128)  # On a CPU rows are whole blocks of 64.
    exact.model.save_pretrained(tmp_path / "exact")
    left = ["model.visual", "lm_head"]
    settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=left)
    if request.param == "4 bits":
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=left
        )
    model = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "exact", quantization_config=settings
    )
    model.save_pretrained(tmp_path / "bits")
    exact.processor.save_pretrained(tmp_path / "bits")
    return request.param, tmp_path / "bits"


@torch.no_grad()
def test_masses_of_quantised_weights_are_those_of_eager_attention(in_bits):
    kind, folder = in_bits
    mllm = ac.load_mllm(folder, device="cpu")
    kinds = {type(one).__name__ for one in mllm.model.modules()}
    assert {"4 bits": "Linear4bit", "8 bits": "Linear8bitLt"}[kind] in kinds
    response = render_response(["The star is in cell a1.", "Cell b1 is red."], "red")
    item = encode(mllm, noise_image(96, 64), "What color?", response=response)
    rows = list(range(item.layout.response.start - 1, item.layout.n_tokens - 1))
    ours = read_maps(mllm, item, rows)
    eager = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager")
    theirs = eager(**collate(mllm, [item]), output_attentions=True).attentions
    found = np.stack([one[0].float().numpy() for one in theirs])[:, :, rows][..., item.layout.image]
    assert found.shape == ours.shape and found.sum(-1).max() > 0.01
    assert np.abs(found[0] - ours[0]).max() < 1e-5
    # In 8 bits what goes into a layer is rounded, too: a last digit may fall to the other side.
    assert np.abs(found - ours).max() < {"4 bits": 1e-5, "8 bits": 0.02}[kind]


def test_quantised_weights_are_checked_by_their_own_precision(in_bits):
    found = check_model(in_bits[1], device="cpu")
    assert found.holds and not found.about["exact"], str(found)
    assert {verdict for verdict, _ in found.measurements.values()} == {"can"}


def test_workers_of_ray_write_the_table_of_datasets(tmp_path):
    shards(tmp_path, "1")
    expected = pd.read_parquet(tmp_path / "commitment.parquet")
    shards(tmp_path, "2", "ray")
    found = pd.read_parquet(tmp_path / "commitment.parquet")[list(expected.columns)]
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_exact=True)


@pytest.mark.parametrize("tracker", ["trackio", "wandb"])
def test_held_out_values_reach_a_tracker(tmp_path, monkeypatch, tracker):
    """Offline; what TensorBoard gets is tested with the others."""
    from transformers import Trainer, TrainingArguments

    from attcot_analysis.train import HeldOut, RationaleCollator, RationaleDataset

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    mllm = ac.load_mllm(ROOT / "data" / "models" / "qwen2_5_vl-b0", dtype="float32", device="cpu")
    problems = ac.load_problems(ROOT / "data" / "problems" / "relation", limit=2)
    settings = {"max_steps": 1, "save_strategy": "no", "use_cpu": True, "project": "attcot"}
    settings |= {"trackio_space_id": None, "trackio_static_space_id": False}  # stay here
    args = TrainingArguments(
        output_dir=str(tmp_path), report_to=tracker, remove_unused_columns=False, **settings
    )
    trainer = Trainer(
        model=mllm.model,
        args=args,
        train_dataset=RationaleDataset(mllm, problems),
        data_collator=RationaleCollator(mllm),
    )
    trainer.add_callback(HeldOut(trainer, mllm, problems, every=1))
    trainer.train()
    logged = [one["eval_mass"] for one in trainer.state.log_history if "eval_mass" in one]
    assert len(logged) == 2
    if tracker == "wandb":
        import wandb

        assert wandb.run.summary["eval/mass"] == pytest.approx(logged[-1])
        wandb.finish()
        return
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("attcot")
    kept = [one["eval/mass"] for one in SQLiteStorage.get_logs("attcot", run) if "eval/mass" in one]
    assert kept == pytest.approx(logged)


@pytest.mark.parametrize("form", ["json", "eval"])
def test_a_log_that_inspect_wrote_is_measured(tmp_path, monkeypatch, capsys, form):
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    folder = ROOT / "data" / "problems" / "relation"
    problems = ac.load_problems(folder, limit=2)
    texts = [
        render_response([step.text for step in problem.steps], problem.answer)
        for problem in problems
    ]
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    outputs = [ModelOutput.from_content("mockllm/model", text) for text in texts]
    for output in outputs:
        output.usage = ModelUsage()  # else it fetches a vocabulary, to count tokens
    model = get_model("mockllm/model", custom_outputs=outputs)
    task = Task([Sample(id=problem.id, input=problem.question) for problem in problems])
    (log,) = eval(task, model=model, max_samples=1, log_dir=str(tmp_path / "logs"), log_format=form)
    assert log.status == "success"
    path = Path(log.location.removeprefix("file://"))
    if form == "eval":
        assert main(["responses", str(path)]) == 1
        assert "inspect log dump" in capsys.readouterr().err
        return
    assert main(["responses", str(path), "--problems", str(folder), "--items", "2"]) == 0
    assert "2" in capsys.readouterr().out
    read = [
        one for where, line in lines_of(path, read_bytes(path)) for one in read_line(line, where)
    ]
    assert [(one["id"], one["text"]) for one in read] == [
        (problem.id, text) for problem, text in zip(problems, texts, strict=True)
    ]
