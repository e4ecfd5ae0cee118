"""The shipped testbed model and its own responses, for tests of what a trained model does."""

from typing import NamedTuple

import pytest
import torch

from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.models import Mllm, load_mllm
from attcot_analysis.problems import Problem, load_problems
from attcot_analysis.shipped import TESTBED_MODEL, TESTBED_PROBLEMS, shipped


class Testbed(NamedTuple):
    """A trained model, items it was not trained on, and what it wrote on them."""

    mllm: Mllm
    problems: list[Problem]
    responses: list[list[int]]


@pytest.fixture(scope="session")
def testbed():
    """Leave it as you found it."""
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32, device="cpu")
    problems = load_problems(shipped(TESTBED_PROBLEMS))[:24]
    return Testbed(mllm, problems, answer_problems(mllm, problems)["ids"].tolist())
