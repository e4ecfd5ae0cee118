"""Checkpoints and devices that are named: tried first, and one sentence where they will not do."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from faults import sentence

from attcot_analysis.errors import ModelError
from attcot_analysis.models import load_mllm, untrusted
from attcot_analysis.models.load import load_processor, memory_limit
from attcot_analysis.models.untrusted import check_template, usable_device
from attcot_analysis.shipped import TESTBED_MODEL, shipped


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(shipped(TESTBED_MODEL), tmp_path / "model")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99", "xla", ":", "-1", "a b"])
def test_a_device_that_is_not_there_is_a_sentence(name):
    with pytest.raises(ModelError, match="cannot be used here") as caught:
        usable_device(name)
    assert "choose from cpu" in sentence(caught.value) and len(str(caught.value)) < 300
    with pytest.raises(ModelError, match="cannot be used here"):
        load_mllm("nowhere/at-all", device=name)
    with pytest.raises(ModelError, match="cannot be used here"), memory_limit(2**40, name):
        pass


def test_a_device_that_is_there_is_taken():
    assert usable_device("cpu") == torch.device("cpu")
    assert usable_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


LOOP = "{% for a in range(100000) %}" * 3 + "{% endfor %}" * 3


@pytest.mark.parametrize(
    ("template", "said"),
    [(LOOP, "more than 1 seconds"), ("{{ 'x' * 10**11 }}", "more than 4 GiB")],
)
def test_a_template_without_end_is_refused(folder, monkeypatch, template, said):
    monkeypatch.setattr(untrusted, "_SECONDS", 1)
    (folder / "chat_template.jinja").write_text(template)
    for load in (load_mllm, load_processor):
        with pytest.raises(ModelError, match=said) as caught:
            load(folder)
        assert "template or the tokenizer" in sentence(caught.value)


def test_a_tokenizer_without_end_is_refused_and_an_error_is_left_to_its_user(monkeypatch):
    monkeypatch.setattr(untrusted, "_SECONDS", 1)

    def for_ever(text):
        while True:
            pass

    def fails(text):
        raise ValueError("no")

    def mllm(tokenizer):
        return SimpleNamespace(name="m", prompt=lambda messages: "?", tokenizer=tokenizer)

    with pytest.raises(ModelError, match="more than 1 seconds"):
        check_template(mllm(for_ever))
    check_template(mllm(fails))
    check_template(mllm(len))
