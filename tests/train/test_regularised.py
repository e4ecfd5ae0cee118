"""The regularisers that Att-CoT is held against: each does what it says and nothing more."""

import pytest
import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import load_mllm
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.train.data import IGNORED, RationaleCollator, RationaleDataset
from attcot_analysis.train.finetune import FinetuneConfig, finetune
from attcot_lab.arms import read_arm, train_arm
from attcot_lab.regularised import Regulariser, divergence, random_confidence
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows

ARMS = ("early_stop", "kl_base", "label_smoothing", "random_confidence")
BASE = str(shipped(TESTBED_MODEL))
RUN = FinetuneConfig(steps=4, batch_size=4, seed=0)


@pytest.fixture(scope="module")
def problems():
    return generate_arrows(16, ArrowsConfig(noise=60.0), split="train")


def logits(seed=0):
    return torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([[IGNORED, IGNORED, 1, 2, 3, IGNORED], [IGNORED, 0, 4, IGNORED, 2, 2]])


def test_divergence_is_that_of_a_plain_loop_and_nothing_between_equals():
    own, base = logits(1), logits(2)
    terms = []
    for item in range(2):
        for at in range(5):
            if LABELS[item, at + 1] != IGNORED:
                p, q = base[item, at].softmax(-1), own[item, at].softmax(-1)
                terms.append((p * (p.log() - q.log())).sum())
    assert divergence(own, base, LABELS) == pytest.approx(
        torch.stack(terms).mean().item(), rel=1e-5
    )
    assert divergence(own, own, LABELS).item() == pytest.approx(0.0, abs=1e-6)


def test_the_confidence_penalty_sees_responses_only_and_stops_at_its_margin():
    own = torch.zeros(2, 6, 5)
    counted = (LABELS[:, 1:] != IGNORED).nonzero()
    drawer = torch.Generator().manual_seed(0)
    assert random_confidence(own, LABELS, 0.2, 3, drawer).item() == pytest.approx(0.0, abs=1e-6)
    # Only predictions of the response are sure of themselves.
    for item, at in counted:
        own[item, at, 0] = 50.0
    assert random_confidence(own, LABELS, 0.2, 40, drawer).item() == pytest.approx(0.8, abs=1e-5)
    # Only the others.
    other = 50.0 * torch.eye(5)[0] - own
    assert random_confidence(other, LABELS, 0.3, 40, drawer).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_trains_another_model_than_plain_sft(tmp_path, problems, name):
    plain = finetune(BASE, problems, tmp_path / "plain", RUN)
    other = train_arm(read_arm(name), BASE, problems, tmp_path / name, RUN)
    again = train_arm(read_arm(name), BASE, problems, tmp_path / f"{name}-2", RUN)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (plain, other, again)]
    assert weights[0] != weights[1] == weights[2]
    assert load_mllm(other).n_layers == load_mllm(plain).n_layers


def test_kl_keeps_a_model_nearer_to_its_base(tmp_path, problems):
    def moved(folder):
        outputs = []
        for place in (folder, BASE):
            mllm = load_mllm(place, dtype=torch.float32)
            batch = RationaleCollator(mllm)(
                [RationaleDataset(mllm, problems)[at] for at in range(4)]
            )
            batch.pop("attcot")
            labels = batch.pop("labels")
            with torch.no_grad():
                outputs.append(mllm.model(**batch).logits)
        return divergence(*outputs, labels).item()

    arm = read_arm("kl_base")
    strong = arm.model_copy(update={"options": {"form": "kl", "weight": 50.0}})
    run = FinetuneConfig(steps=12, batch_size=8, seed=0)
    free = finetune(BASE, problems, tmp_path / "free", run)
    held = train_arm(strong, BASE, problems, tmp_path / "held", run)
    assert moved(held) < 0.8 * moved(free)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": "dropout", "weight": 0.1}, "choose stop, smoothing, kl or confidence"),
        ({"form": "smoothing", "weight": 1.0}, "below 1"),
        ({"form": "kl", "weight": 0.0}, "above 0"),
        ({"form": "confidence", "weight": 1.0, "places": 0}, "at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(TrainingError, match=sentence):
        Regulariser(**options)
