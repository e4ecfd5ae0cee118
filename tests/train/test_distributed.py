"""Two processes train what one does, with both terms: DDP through TRL, and FSDP2."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from attcot_analysis.models import load_mllm

SCRIPT = Path(__file__).parent / "distributed_steps.py"


def _steps(kind, checkpoint, output, *, processes, items):
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        command += ["--master_addr=127.0.0.1", f"--master_port={port}"]
    arguments = [str(SCRIPT), kind, str(checkpoint), str(output), str(items)]
    done = subprocess.run(
        [*command, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(output)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_does(kind, random_checkpoint, tmp_path):
    one = _steps(kind, random_checkpoint, tmp_path / "one.safetensors", processes=1, items=4)
    two = _steps(kind, random_checkpoint, tmp_path / "two.safetensors", processes=2, items=2)
    assert one.keys() == two.keys()
    before = load_mllm(random_checkpoint).model.state_dict()
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert (one[name] - before[name]).abs().max() > 1e-4
    for key, value in one.items():
        assert (two[key] - value).abs().max() <= 1e-5, key


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2"])
def test_shipped_configurations_are_what_accelerate_reads(name):
    path = Path(__file__).parents[2] / "configs" / "accelerate" / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "bf16" and config.num_processes == 8
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if name == "zero2":
        assert config.deepspeed_config["zero_stage"] == 2
