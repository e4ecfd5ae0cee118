"""Lessons in both orders of the prompt."""

import pytest
import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import collate, encode_prompt, load_mllm
from attcot_analysis.problems import render_response
from attcot_analysis.train import FinetuneConfig
from attcot_analysis.train.data import RationaleDataset
from attcot_lab.vista.prefix import BothOrders, learn_both_orders, reordered_prompt


def test_every_problem_is_there_in_both_orders(random_mllm, training_problems):
    problems = training_problems[:3]
    both, usual = BothOrders(random_mllm, problems), RationaleDataset(random_mllm, problems)
    assert len(both) == 6
    for at, problem in enumerate(problems):
        assert torch.equal(both[at].encoded.input_ids, usual[at].encoded.input_ids)
        own = encode_prompt(
            random_mllm,
            reordered_prompt(random_mllm, problem.question),
            [problem.image],
            response=render_response(problem.steps, problem.answer),
            end=True,
        )
        again = both[at + 3].encoded
        assert torch.equal(again.input_ids, own.input_ids)
        assert not torch.equal(again.input_ids, usual[at].encoded.input_ids)
        assert again.layout.image[0] > usual[at].encoded.layout.image[0]


def test_a_model_learns_what_to_say_behind_the_other_order(
    random_checkpoint, training_problems, tmp_path
):
    problems = training_problems[:4]
    config = FinetuneConfig(steps=12, batch_size=8, learning_rate=3e-3)
    folder = learn_both_orders(random_checkpoint, problems, tmp_path / "both", config)

    @torch.no_grad()
    def loss(checkpoint):
        mllm = load_mllm(checkpoint, dtype="float32", device="cpu")
        example = BothOrders(mllm, problems)[5].encoded
        logits = mllm.model(**collate(mllm, [example])).logits[0]
        start = example.prompt_length
        loss = torch.nn.functional.cross_entropy(logits[start - 1 : -1], example.input_ids[start:])
        return float(loss)

    assert loss(folder) < loss(random_checkpoint) - 1


def test_what_is_not_plain_cot_is_refused(random_checkpoint, training_problems, tmp_path):
    with pytest.raises(TrainingError, match="leave out mode"):
        learn_both_orders(
            random_checkpoint,
            training_problems[:2],
            tmp_path / "both",
            FinetuneConfig(mode="direct"),
        )
    with pytest.raises(TrainingError, match="exists already"):
        learn_both_orders(random_checkpoint, training_problems[:2], tmp_path)
