"""What notebooks start and end with: repeatable, and without a path of the machine."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from attcot_lab.notebook import banner, provenance, set_up
from attcot_lab.testbed.arrows import generate_arrows


@pytest.fixture
def data(tmp_path, monkeypatch):
    for name in ("models/tiny", "problems/arrows"):
        (tmp_path / "data" / name).mkdir(parents=True)
    monkeypatch.setenv("ATTCOT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_banner_says_fast_only_of_what_ships(data, tmp_path):
    shipped = banner(data / "models/tiny", data / "problems/arrows", 8, 1)
    assert shipped == (
        "fast mode (shipped testbed): model tiny, the first 8 problems of arrows, seed 1"
    )
    own = banner("Qwen/Qwen2.5-VL-7B-Instruct", data / "problems/arrows", 8, 1)
    assert own.startswith("full mode (your own): model Qwen/Qwen2.5-VL-7B-Instruct,")
    assert str(tmp_path) not in shipped + own


def test_banner_without_a_data_folder_is_full_mode(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTCOT_DATA", str(tmp_path / "missing"))
    assert banner(Path("a"), Path("b"), 1, 0).startswith("full mode")


def test_set_up_makes_numbers_repeat():
    threads = torch.get_num_threads()
    try:
        set_up(3)
        first = torch.rand(4)
        assert torch.get_num_threads() == 1
        set_up(3, threads=None)
        assert torch.equal(first, torch.rand(4))
    finally:
        torch.set_num_threads(threads)


def test_set_up_keeps_notes_of_transformers_out_and_ours_in():
    def said(module):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            set_up(0, threads=None)
            warnings.warn_explicit("renamed", FutureWarning, "file.py", 1, module=module)
        return [str(one.message) for one in caught]

    assert said("transformers.training_args") == []
    assert said("attcot_analysis.train.data") == ["renamed"]


def test_provenance_is_json_with_hashes_and_settings(random_mllm):
    problems = generate_arrows(2)
    found = json.loads(
        provenance(seed=5, models={"base": random_mllm}, problems=problems, n_items=2)
    )
    assert found["seed"] == 5 and found["config"] == {"n_items": 2}
    assert found["data"]["test"]["n"] == 2 and len(found["data"]["test"]["sha256"]) == 64
    assert "torch" in found["versions"]
