"""Loading a checkpoint folder, and the sentences for folders that are none."""

import json
import shutil
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from families import tiny_family
from peft import LoraConfig, get_peft_model
from tiny import noise_image, tiny_mllm

from attcot_analysis.attention.hook import NAME
from attcot_analysis.errors import ModelError
from attcot_analysis.measures.access import visual_access
from attcot_analysis.measures.commitment import commitment
from attcot_analysis.models import _torchvision, collate, encode, load_mllm, wrap_mllm
from attcot_analysis.problems import Problem, render_response


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    mllm = tiny_mllm()
    mllm.model.save_pretrained(path)
    mllm.processor.save_pretrained(path)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@torch.no_grad()
def test_a_saved_model_comes_back(folder, random_mllm):
    mllm = load_mllm(folder, device="cpu")
    assert type(mllm.model) is type(random_mllm.model) and not mllm.model.training
    assert (mllm.n_layers, mllm.n_heads) == (3, 4) and mllm.dtype == torch.float32
    assert mllm.name == str(folder) and mllm.revision is None
    assert mllm.image_token_id == mllm.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    one, other = (
        m.model(**collate(m, [encode(m, noise_image(96, 96), "What color?")])).logits
        for m in (mllm, random_mllm)
    )
    assert torch.allclose(one, other, atol=1e-5)
    half = load_mllm(str(folder), dtype=torch.bfloat16, device="cpu")
    assert half.dtype == torch.bfloat16


def test_half_precision_that_a_cpu_overflows_in_is_held_in_full(folder):
    with pytest.warns(UserWarning, match="held in float32: float16 on a CPU"):
        assert load_mllm(folder, dtype="float16", device="cpu").dtype == torch.float32


@torch.no_grad()
def test_a_model_that_is_spread_gives_what_a_whole_one_gives(folder, random_mllm):
    """Two layers stay on the disk until they run; masses and forced answers are the same."""
    text = "model.language_model"
    plan = dict.fromkeys(("model.visual", f"{text}.embed_tokens", f"{text}.layers.0"), "cpu")
    plan |= dict.fromkeys((f"{text}.layers.1", f"{text}.layers.2"), "disk")
    plan |= dict.fromkeys((f"{text}.norm", f"{text}.rotary_emb", "lm_head"), "cpu")
    spread = load_mllm(folder, device=plan)
    assert {weight.device.type for weight in spread.model.parameters()} == {"cpu", "meta"}
    assert spread.device.type == "cpu"
    problem = Problem("a", noise_image(64, 48), "What color?", ("red", "blue"), "red")
    given = ([problem], [render_response(["Go right.", "Cell b1 is red."], "red")])
    for measure in (visual_access, partial(commitment, controls=("rationale",))):
        whole = measure(random_mllm, *given).table
        pd.testing.assert_frame_equal(measure(spread, *given).table, whole, atol=1e-5)


def test_an_adapter_beside_full_weights_is_named(copied):
    (copied / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds a LoRA adapter beside full weights, .* merge it"):
        load_mllm(copied, device="cpu")


@pytest.mark.parametrize("kind", ["sdpa", "eager", NAME])
@torch.no_grad()
def test_padding_on_the_left_gives_no_nan(random_mllm, kind):
    """Its rows see nothing at all."""
    model = tiny_mllm().model
    items = [
        encode(random_mllm, noise_image(*size), "What color?") for size in ((32, 32), (96, 96))
    ]
    batch = collate(random_mllm, items, padding_side="left")
    assert not batch["attention_mask"].all()
    model.set_attn_implementation({"text_config": kind})
    assert model(**batch).logits.isfinite().all()


def test_a_tokenizer_without_padding_gets_one(random_mllm):
    processor = tiny_mllm(layers=1).processor
    processor.tokenizer.pad_token = None
    mllm = wrap_mllm(random_mllm.model, processor)
    assert mllm.tokenizer.pad_token_id == mllm.tokenizer.eos_token_id
    assert mllm.stop_ids == (mllm.tokenizer.eos_token_id,)


def rewrite(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def test_a_folder_without_processor(copied):
    for path in copied.glob("*processor_config.json"):
        path.unlink()
    with pytest.raises(ModelError, match="has no processor"):
        load_mllm(copied)


def test_a_folder_without_tokenizer(copied):
    for path in copied.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="not the image token"):
        load_mllm(copied, device="cpu")


def test_a_folder_without_chat_template(copied):
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_mllm(copied, device="cpu")


def test_a_folder_without_config_and_a_file(copied):
    with pytest.raises(ModelError, match="is a file"):
        load_mllm(copied / "config.json")
    (copied / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_mllm(copied)


def test_a_folder_without_weights(copied):
    for path in copied.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError, match=r"The model of .* cannot be loaded"):
        load_mllm(copied)


def test_a_family_nobody_prepared(copied):
    rewrite(copied / "config.json", model_type="gpt2")
    with pytest.raises(ModelError, match="'gpt2' belongs to no supported family"):
        load_mllm(copied)
    rewrite(copied / "config.json", model_type="blip_9")
    with pytest.raises(ModelError, match=r"configuration of .* cannot be loaded"):
        load_mllm(copied)


def test_a_path_that_is_nowhere(tmp_path, monkeypatch):
    """What looks like a path is not looked for on the hub, and the nearest folder is named."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path, sentence in (
        ("./no/such/model", r"^There is no folder no/such/model; check the path\.$"),
        ("./org/other", r"^There is no folder org/other; check the path\.$"),
        (tmp_path / "model" / "tiny", r"did you mean .*/models/tiny\?$"),
        ("~/model/tiny", r"did you mean .*/models/tiny\?$"),
        ("models/tinny", r"^There is no folder models/tinny; did you mean models/tiny\? The conf"),
        (
            "models/other",
            r"^There is no folder models/other; check the path\. The configuration of",
        ),
        ("org/other", r"^The configuration of org/other cannot be loaded"),
    ):
        with pytest.raises(ModelError, match=sentence):
            load_mllm(path)
    with pytest.raises(ModelError, match=r"models/tiny is not a checkpoint folder"):
        load_mllm("~/models/tiny")


def test_a_processor_of_something_else(random_mllm):
    class Processor:
        tokenizer = random_mllm.tokenizer

    with pytest.raises(ModelError, match="has no image_processor"):
        wrap_mllm(random_mllm.model, Processor())


def test_operators_that_torchvision_misses_are_defined(monkeypatch):
    """As beside a torch build that its library does not fit: one missing operator after another."""
    missing = ["torchvision::attcot_test_a", "torchvision::attcot_test_b"]

    def import_module(name):
        for operator in missing:
            try:
                torch._C._dispatch_has_kernel_for_dispatch_key(operator, "Meta")
            except RuntimeError as error:
                raise RuntimeError(f"operator {operator} does not exist") from error

    monkeypatch.setattr(_torchvision.importlib, "import_module", import_module)
    modules = {"torchvision.io": None, "other": None}
    monkeypatch.setattr(_torchvision, "sys", SimpleNamespace(modules=modules))
    _torchvision.ensure_torchvision()
    assert list(modules) == ["other"]

    def broken(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(_torchvision.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        _torchvision.ensure_torchvision()


@torch.no_grad()
def test_a_class_that_computes_all_logits_keeps_those_asked_for():
    """MiniCPM-V's has no ``logits_to_keep``; wrapping a model twice or in PEFT changes nothing."""
    mllm = tiny_family("minicpmv4_6")
    batch = collate(mllm, [encode(mllm, noise_image(96, 64), "What color?")])
    whole = mllm.model(**batch).logits
    peft = get_peft_model(mllm.model, LoraConfig(target_modules=["q_proj"]))
    wrap_mllm(peft, mllm.processor)
    for model in (mllm.model, peft):
        for keep, expected in ((2, whole[:, -2:]), (torch.tensor([3, 1]), whole[:, [3, 1]])):
            torch.testing.assert_close(model(**batch, logits_to_keep=keep).logits, expected)
