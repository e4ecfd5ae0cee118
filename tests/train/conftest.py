"""Fixtures of the training tests: a random tiny model on disk and a few problems."""

import pytest

# Before any test module here asks trl for torchvision; see models._torchvision.
import attcot_analysis.models  # noqa: F401
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory):
    """A random-weight tiny checkpoint folder."""
    from tiny import tiny_mllm

    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    mllm = tiny_mllm()
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def training_problems():
    """Sixteen prior-laden problems."""
    return generate_arrows(16, ArrowsConfig(prior=0.95), seed=1, split="train")
