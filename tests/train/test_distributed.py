"""Two processes train what one does, with both terms: DDP through TRL, and FSDP2."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from attcot_analysis.models import load_mllm

SCRIPT = Path(__file__).parent / "distributed_steps.py"


def _steps(checkpoint, output, *, processes, items):
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        command += ["--master_addr=127.0.0.1", f"--master_port={port}"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(checkpoint), str(output), str(items)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output


pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def one_and_two(random_checkpoint, tmp_path_factory):
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    _steps(random_checkpoint, one, processes=1, items=4)
    return one, _steps(random_checkpoint, two, processes=2, items=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_does(kind, random_checkpoint, one_and_two):
    one, two = (load_file(folder / f"{kind}.safetensors") for folder in one_and_two)
    assert one.keys() == two.keys()
    before = load_mllm(random_checkpoint).model.state_dict()
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert (one[name] - before[name]).abs().max() > 1e-4
    for key, value in one.items():
        assert (two[key] - value).abs().max() <= 1e-5, key


@pytest.mark.slow
def test_two_processes_reward_what_they_sample(random_checkpoint, one_and_two):
    folder = one_and_two[1] / "sayo"
    before, after = (load_file(f / "model.safetensors") for f in (random_checkpoint, folder))
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    history = json.loads((folder / "training_log.json").read_text())["history"]
    assert len(history) == 2 and not (one_and_two[1] / ".sayo.unfinished").exists()
    assert all(0 < entry["region/none"] == entry["region/none/no_box"] < 1 for entry in history)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2"])
def test_shipped_configurations_are_what_accelerate_reads(name):
    path = Path(__file__).parents[2] / "configs" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "bf16" and config.num_processes == 8
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name == "zero2":
        assert config.deepspeed_config["zero_stage"] == 2
