"""A run is gone on with only if everything that its numbers depend on is as it was."""

import errno
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from attcot_analysis.cli import main
from attcot_analysis.errors import RunError, TrainingError
from attcot_analysis.models import load_mllm, wrap_mllm
from attcot_analysis.problems import save_problems
from attcot_analysis.runs.manifests import ITEMS, brief
from attcot_analysis.runs.measure import measure
from attcot_analysis.runs.provenance import build_manifest, model_record, parameters_hash
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.train.checkpoints import COMPLETE, open_unfinished, run_record
from attcot_lab.plan import plan_of
from attcot_lab.run import _note_parts
from attcot_lab.testbed.arrows import generate_arrows

FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/tool_use.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "modeling_own.py",
)
"""What a checkpoint folder can hold beside its weights that a number depends on."""


@pytest.fixture(scope="module")
def problems():
    return generate_arrows(3, seed=0)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint folder with every kind of file."""
    folder = shutil.copytree(shipped(TESTBED_MODEL), tmp_path / "model")
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_text("{}")
    return folder


def go_on(folder, model, problems, **config):
    manifest = build_manifest(
        seed=0, config=config, models={"model": model}, data={"test": problems}
    )
    return RunFolder.create(folder, manifest, resume=True)


# --- checkpoint folders -------------------------------------------------------------------------


def test_every_file_that_a_number_depends_on_is_held_against_the_first(
    checkpoint, problems, tmp_path
):
    go_on(tmp_path / "run", checkpoint, problems)
    for name in FILES:
        held = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(held + b" ")
        with pytest.raises(RunError, match=rf"cannot be resumed: {name} differs from the one"):
            go_on(tmp_path / "run", checkpoint, problems)
        (checkpoint / name).unlink()
        with pytest.raises(RunError, match=rf"cannot be resumed: {name} is gone; write to"):
            go_on(tmp_path / "run", checkpoint, problems)
        (checkpoint / name).write_bytes(held)
        go_on(tmp_path / "run", checkpoint, problems)
    (checkpoint / "new.jinja").write_text("{{ messages }}")
    with pytest.raises(RunError, match=r"new.jinja was not there"):
        go_on(tmp_path / "run", checkpoint, problems)


def test_weights_are_named_and_notes_are_no_reason(checkpoint, problems, tmp_path):
    go_on(tmp_path / "run", checkpoint, problems)
    for name in ("training_log.json", "testbed_build.json", "trainer_state.json", "README.md"):
        (checkpoint / name).write_text("other")
    go_on(tmp_path / "run", checkpoint, problems)
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(RunError, match="the content of its weight files differs"):
        go_on(tmp_path / "run", checkpoint, problems)


# --- models in memory ---------------------------------------------------------------------------


def changed_weight(mllm):
    with torch.no_grad():
        next(mllm.model.parameters()).view(-1)[3] += 1e-3


def other_decoding(mllm):
    mllm.model.generation_config.repetition_penalty = 1.3


def other_configuration(mllm):
    mllm.model.config.image_token_id += 1


def more_tokens(mllm):
    mllm.tokenizer.add_tokens(["<new>"])


def other_template(mllm):
    mllm.processor.chat_template += " "


def other_resolution(mllm):
    mllm.processor.image_processor.max_pixels = 28 * 28


def other_attention(mllm):
    mllm.model.set_attn_implementation("eager")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (changed_weight, "parameters"),
        (other_decoding, "generation configuration"),
        (other_configuration, "configuration"),
        (more_tokens, "tokenizer"),
        (other_template, "chat template"),
        (other_resolution, "processor"),
        (other_attention, "attention"),
    ],
)
@pytest.mark.parametrize("from_folder", [True, False])
def test_what_has_changed_in_memory_is_seen(change, part, from_folder, problems, tmp_path):
    def loaded():
        mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
        return mllm if from_folder else wrap_mllm(mllm.model, mllm.processor)

    go_on(tmp_path / "run", loaded(), problems)
    go_on(tmp_path / "run", loaded(), problems)
    mllm = loaded()
    change(mllm)
    with pytest.raises(RunError, match=f"what was loaded as {part} differs from the one"):
        go_on(tmp_path / "run", mllm, problems)


def test_measuring_leaves_the_fingerprint_as_it_was(problems):
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    before = model_record(mllm)
    measure(mllm, problems, max_new_tokens=4, batch_size=2)
    assert model_record(mllm) == before


def test_parameters_are_told_apart_by_value_place_and_type():
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6).view(2, 3))
    seen = {parameters_hash(model)}
    with torch.no_grad():
        model.weight.copy_(model.weight.flip(0).clone())
    seen |= {parameters_hash(model), parameters_hash(model.to(torch.bfloat16))}
    assert len(seen) == 3 and parameters_hash(model) in seen


# --- problems -----------------------------------------------------------------------------------


def repainted(image):
    other = image.copy()
    other.putpixel((1, 1), (1, 2, 3))
    return other


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda p: {"image": repainted(p.image)}, "the picture of item"),
        (lambda p: {"twin": replace(p.twin, image=repainted(p.twin.image))}, "the twin picture of"),
        (
            lambda p: {"control": replace(p.control, image=repainted(p.control.image))},
            "the control picture of item",
        ),
        (lambda p: {"question": "Another one?"}, "the text of item"),
        (lambda p: {"candidates": p.candidates[::-1]}, "the text of item"),
        (lambda p: {"steps": p.steps[:1]}, "the text of item"),
        (lambda p: {"twin": None}, "the text of item"),
    ],
)
def test_the_first_item_that_differs_is_named(change, what, problems, tmp_path):
    go_on(tmp_path / "run", shipped(TESTBED_MODEL), problems)
    other = [problems[0], *(replace(one, **change(one)) for one in problems[1:])]
    with pytest.raises(RunError, match=f"{what}.*{problems[1].id} differs from the one"):
        go_on(tmp_path / "run", shipped(TESTBED_MODEL), other)


def test_a_reordered_set_is_another_one(problems, tmp_path):
    go_on(tmp_path / "run", shipped(TESTBED_MODEL), problems)
    with pytest.raises(RunError, match=r"its data\.test\.sha256 is"):
        go_on(tmp_path / "run", shipped(TESTBED_MODEL), problems[::-1])


# --- runs of earlier versions, and of others ----------------------------------------------------


def test_what_an_earlier_version_did_not_note_is_said(checkpoint, problems, tmp_path):
    run = go_on(tmp_path / "run", checkpoint, problems)
    old = brief(run.manifest)
    assert ITEMS not in old and set(old["models"]["model"]) < set(model_record(checkpoint))
    run.write_json("manifest", old, overwrite=True)
    with pytest.warns(
        UserWarning, match="each problem by itself and the files beside the weights were noted"
    ):
        go_on(tmp_path / "run", checkpoint, problems)
    (checkpoint / "model.safetensors").write_bytes(b"other")
    with pytest.raises(RunError, match="weight files differs"):
        go_on(tmp_path / "run", checkpoint, problems)


def test_other_versions_are_said_once_and_noted(checkpoint, problems, tmp_path):
    run = go_on(tmp_path / "run", checkpoint, problems)
    held = run.manifest
    held["versions"]["transformers"] = "4.57.0"
    run.write_json("manifest", held, overwrite=True)
    with pytest.warns(UserWarning, match=r"was begun with transformers 4\.57\.0, now .*digits"):
        go_on(tmp_path / "run", checkpoint, problems)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go_on(tmp_path / "run", checkpoint, problems)


# --- whatever keeps results ---------------------------------------------------------------------


def test_tables_that_are_there_are_of_this_model_and_these_items(problems, tmp_path):
    run = RunFolder.create(tmp_path / "run", {"seed": 0})
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    settings = {"run": run, "prefix": "a.", "max_new_tokens": 4, "batch_size": 2}
    measure(mllm, problems, **settings)
    measure(mllm, problems, **settings)
    with pytest.raises(RunError, match=r"config\.max_new_tokens is 4, now it is 5"):
        measure(mllm, problems, **settings | {"max_new_tokens": 5})
    blank = replace(problems[2], image=Image.new("RGB", problems[2].image.size))
    with pytest.raises(RunError, match=f"the picture of item {problems[2].id} differs"):
        measure(mllm, [*problems[:2], blank], **settings)
    changed_weight(mllm)
    with pytest.raises(RunError, match="what was loaded as parameters differs"):
        measure(mllm, problems, **settings)


def test_a_measured_folder_is_refused_from_the_command_line(checkpoint, tmp_path, capsys, problems):
    for name in set(FILES) - {path.name for path in shipped(TESTBED_MODEL).iterdir()}:
        (checkpoint / name).unlink()
    own = save_problems(problems[:2], tmp_path / "own")
    command = ["measure", str(checkpoint), str(own), "--out", str(tmp_path / "run"), "--quiet"]
    command += ["--max-new-tokens", "4", "--edits", "blank", "--controls", "rationale"]
    assert main(command) == 0
    template = checkpoint / "chat_template.jinja"
    held = template.read_text()
    template.write_text(held + " ")
    assert main(command) == 1
    assert "chat_template.jinja differs from the one it was begun with" in capsys.readouterr().err
    template.write_text(held)
    picture = own / "images" / f"{problems[1].id}.control.png"
    repainted(Image.open(picture)).save(picture)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert f"the control picture of item {problems[1].id} differs" in said


def test_a_grid_is_of_the_checkpoints_that_it_was_begun_with(checkpoint, tmp_path):
    plan = plan_of(
        {
            "about": "One.",
            "models": [str(checkpoint)],
            "problems": {"arrows": {"hops": 1, "train_items": 4, "finetune": {"steps": 1}}},
            "arms": ["base"],
            "items": 2,
        }
    )
    run = RunFolder.create(tmp_path / "grid", {"seed": 0})
    _note_parts(run, plan, {"own-tiny": str(checkpoint)})
    measured = RunFolder.create(run.path / "cells" / "own-tiny.arrows.base-0", {"seed": 0})
    measured.write_table("values", pd.DataFrame({"item": ["a"], "metric": ["m"], "value": [1.0]}))
    template = checkpoint / "chat_template.jinja"
    held = template.read_text()
    template.write_text(held + " ")
    with pytest.raises(RunError, match=r"another model own-tiny \(chat_template.jinja differs"):
        _note_parts(run, plan, {"own-tiny": str(checkpoint)})
    template.write_text(held)
    parts = json.loads((run.path / "grid.json").read_text())
    parts["models"] = brief(parts["models"])
    run.write_json("grid", parts, overwrite=True)
    with pytest.warns(UserWarning, match="before the files beside the weights were noted"):
        _note_parts(run, plan, {"own-tiny": str(checkpoint)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _note_parts(run, plan, {"own-tiny": str(checkpoint)})


def test_a_training_is_of_the_base_that_it_was_begun_with(checkpoint, problems, tmp_path):
    begun = run_record(checkpoint, problems, {"steps": 1})
    assert open_unfinished(tmp_path / "working", begun) is None
    last = tmp_path / "working" / "checkpoint-1"
    last.mkdir()
    (last / COMPLETE).touch()
    assert open_unfinished(tmp_path / "working", begun) == last
    (checkpoint / "chat_template.jinja").write_text("{{ other }}")
    assert open_unfinished(tmp_path / "working", run_record(checkpoint, problems, {})) is None
    assert not last.exists()


def test_a_note_that_cannot_be_read_for_now_costs_no_checkpoint(
    checkpoint, problems, tmp_path, monkeypatch
):
    begun = run_record(checkpoint, problems, {"steps": 1})
    open_unfinished(tmp_path / "working", begun)
    (tmp_path / "working" / "checkpoint-1").mkdir()

    def fails(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fails)
        with pytest.raises(TrainingError, match=r"unfinished\.json cannot be read now"):
            open_unfinished(tmp_path / "working", begun)
    assert (tmp_path / "working" / "checkpoint-1").is_dir()
