"""SAYO: rewards as TRL calls them, a short GRPO run, its resumption, and the recipe."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import encode_problem, load_mllm
from attcot_analysis.problems import render_response
from attcot_analysis.train import FinetuneConfig
from attcot_analysis.train.checkpoints import KeepLast, last_complete
from attcot_analysis.train.region_reward import RegionRewardConfig, region_attention
from attcot_analysis.train.rewards import (
    AccuracyReward,
    FormatReward,
    RegionReward,
    grpo_rows,
    is_right,
)
from attcot_lab.arms import RECIPES, arm_of, read_arm, train_arm
from attcot_lab.sayo import SayoConfig, finetune_sayo, make_sayo_trainer, sayo_config
from attcot_lab.testbed.arrows import generate_arrows

TINY = SayoConfig(
    steps=2,
    questions=2,
    num_generations=2,
    max_completion=8,
    learning_rate=1e-3,
    beta=0.01,
    reward=RegionRewardConfig(entropy_top=0.5, mass_weight=0.5),
)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(random_checkpoint, training_problems, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sayo") / "tuned"
    return finetune_sayo(random_checkpoint, training_problems[:6], folder, TINY)


def ids_of(mllm, text, end=True):
    ids = mllm.tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, mllm.tokenizer.eos_token_id] if end else ids


# --- Format and accuracy --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "end", "form", "right"),
    [
        (render_response(["The star is in a1."], "red"), True, 1.0, 1.0),
        (render_response(["The star is in a1."], "blue"), True, 1.0, 0.0),
        (render_response(["The star is in a1."], "red"), False, 0.0, 1.0),
        ("<answer>red</answer>", True, 0.0, 1.0),
        ("<think>\nA\n</think>\n<answer> </answer>", True, 0.0, 0.0),
        ("<think>\nA\n</think>\n<answer>red</answer><answer>blue</answer>", True, 0.0, 0.0),
        ("<think>\nA\n</think>\n<answer>red</answer> so", True, 0.0, 1.0),
        ("<think>\nA <answer>red</answer>", True, 0.0, 1.0),
        ("It is red.", True, 0.0, 1.0),
        ("It is red.", False, 0.0, 0.0),
        ("", True, 0.0, 0.0),
    ],
)
def test_form_and_right_answer(random_mllm, text, end, form, right):
    ids = [ids_of(random_mllm, text, end)]
    columns = {"answer": ["red"], "candidates": [["red", "blue"]], "boxes": [[]]}
    assert FormatReward(random_mllm)(completion_ids=ids, **columns) == [form]
    assert AccuracyReward(random_mllm)(completion_ids=ids, **columns) == [right]


@pytest.mark.parametrize(
    ("rule", "stated", "reward"),
    [
        ({}, "105", 0.0),
        ({"tolerance": 0.05}, "105", 1.0),
        ({"tolerance": 0.05}, "106", 0.0),
        ({"scoring": "anls", "answer": "hello"}, "hallo", 0.8),
        ({"references": ("one hundred units",)}, "one hundred units", 1.0),
    ],
)
def test_open_answers_are_rewarded_by_the_rule_of_their_problem(random_mllm, rule, stated, reward):
    (closed, made) = generate_arrows(2, seed=0)
    bare = {"candidates": (), "twin": None, "control": None, "habitual": None}
    asked = replace(made, **{"answer": "100", **bare, **rule})
    ids = [ids_of(random_mllm, f"<answer>{stated}</answer>")]
    (row,) = grpo_rows([asked])
    columns = {name: [value] for name, value in row.items() if name != "prompt"}
    assert AccuracyReward(random_mllm)(completion_ids=ids, **columns) == [pytest.approx(reward)]
    assert is_right(random_mllm, ids[0], row) is (reward >= 0.5)
    assert "scoring" not in grpo_rows([closed])[0]


def test_answers_by_letter_and_rows_without_one(random_mllm):
    ids = [ids_of(random_mllm, "<answer>B</answer>")] * 2
    columns = {
        "answer": ["blue", None],
        "candidates": [["red", "blue"]] * 2,
        "question": ["A) red B) blue"] * 2,
    }
    assert AccuracyReward(random_mllm)(completion_ids=ids, **columns) == [1.0, None]
    with pytest.raises(TrainingError, match="accuracy reward needs column candidates"):
        AccuracyReward(random_mllm)(completion_ids=ids, answer=["blue"] * 2)


# --- The region reward as TRL calls it ------------------------------------------------------------


def as_trl(problems, completion_ids):
    """Prompts with their pictures filled in, and columns, as `GRPOTrainer` hands them over."""
    rows = list(grpo_rows(problems))
    prompts = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": row["images"][0]},
                    {"type": "text", "text": row["prompt"][0]["content"]},
                ],
            }
        ]
        for row in rows
    ]
    names = ("boxes", "answer", "candidates", "question")
    columns = {name: [row[name] for row in rows] for name in names}
    return {"prompts": prompts, "completion_ids": completion_ids, **columns}


@pytest.mark.parametrize("region", ["problem", "step"])
def test_rewards_are_those_of_the_problems_and_what_is_missing_is_counted(
    random_mllm, training_problems, region
):
    problems = [training_problems[0], training_problems[1], training_problems[0]]
    problems.append(replace(problems[1], steps=()))
    texts = [render_response(one.steps, one.answer) for one in training_problems[:2]]
    ids = [ids_of(random_mllm, text) for text in (*texts, texts[1])]
    ids[2:2] = [[random_mllm.tokenizer.eos_token_id]]
    logged = {}
    config = RegionRewardConfig(mass_weight=0.25, region=region)
    reward = RegionReward(random_mllm, config)
    found = reward(**as_trl(problems, ids), log_metric=logged.__setitem__)
    items = [
        encode_problem(random_mllm, problem, response=one)
        for problem, one in zip(problems, ids, strict=True)
    ]
    boxes = [[step.boxes for step in problem.steps] for problem in problems]
    for one, value in zip(region_attention(random_mllm, items, boxes, config), found, strict=True):
        if one.reward is None:
            assert value is None
        else:
            assert value == pytest.approx(one.reward + 0.25 * one.visual_mass, abs=1e-6)
    assert [value is None for value in found] == [False, False, True, True]
    assert reward.counts == {"empty": 1, "no_box": 1}
    assert logged["region/none"] == 0.5 and logged["region/none/empty"] == 0.25
    ratios = [one.ratio for one in reward.seen if one.missing is None]
    assert logged["region/ratio"] == pytest.approx(np.mean(ratios))


def test_the_gate_leaves_wrong_answers_without_a_reward(random_mllm, training_problems):
    problems = training_problems[:2]
    answers = [
        problems[0].answer,
        next(c for c in problems[1].candidates if c != problems[1].answer),
    ]
    texts = [render_response(p.steps, a) for p, a in zip(problems, answers, strict=True)]
    ids = [ids_of(random_mllm, text) for text in texts]
    free = RegionReward(random_mllm)(**as_trl(problems, ids))
    gated = RegionReward(random_mllm, RegionRewardConfig(only_correct=True))
    assert gated(**as_trl(problems, ids)) == [free[0], None] and None not in free
    assert gated.counts == {"wrong": 1}


def test_a_prompt_is_processed_once_for_all_its_completions(
    random_mllm, training_problems, monkeypatch
):
    calls = []
    kind = type(random_mllm.processor)
    own = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda *a, **k: calls.append(1) or own(*a, **k))
    problems = [training_problems[0]] * 3 + [training_problems[1]] * 3
    ids = [ids_of(random_mllm, "so", end=False)] * 6
    assert None not in RegionReward(random_mllm)(**as_trl(problems, ids))
    assert len(calls) == 2


def test_prompts_are_those_the_trainer_samples_from(random_checkpoint, training_problems, tmp_path):
    mllm = load_mllm(random_checkpoint, dtype=torch.float32)
    problems = training_problems[:3]
    trainer = make_sayo_trainer(mllm, problems, TINY, tmp_path)
    region = trainer.reward_funcs[0]
    given = as_trl(problems, [[]] * 3)
    sampled, _, fields = trainer._tokenize_prompts(given["prompts"])
    ours = region._encoded(given["prompts"], given["completion_ids"])
    for at, problem in enumerate(problems):
        assert ours[at].input_ids.tolist() == list(sampled[at])
        assert ours[at].input_ids.equal(encode_problem(mllm, problem).input_ids)
        assert ours[at].token_types.tolist() == list(fields["mm_token_type_ids"][at])


# --- What is refused ------------------------------------------------------------------------------


def test_what_would_count_wrongly_is_refused(random_mllm, training_problems):
    reward = RegionReward(random_mllm)
    columns = as_trl(training_problems[:1], [ids_of(random_mllm, "so")])
    with pytest.raises(TrainingError, match="bound to no trainer"):
        reward(**columns, trainer_state=object())
    with pytest.raises(TrainingError, match="region reward needs column boxes"):
        reward(**{name: value for name, value in columns.items() if name != "boxes"})
    with pytest.raises(TrainingError, match="needs conversational prompts"):
        reward(**{**columns, "prompts": ["What?"]})
    trainer = SimpleNamespace(
        model=random_mllm.model,
        reward_weights=torch.tensor([1.0, 0.5]),
        multi_objective_aggregation="sum_then_normalize",
    )
    with pytest.raises(TrainingError, match=r"would count as 0 .*normalize_then_sum"):
        reward.bind(trainer)
    trainer.reward_weights = torch.tensor([1.0, 0.0])
    side = random_mllm.tokenizer.padding_side
    try:
        random_mllm.tokenizer.padding_side = "right"
        with pytest.raises(TrainingError, match="pads on the right"):
            reward.bind(trainer)
        random_mllm.tokenizer.padding_side = "left"
        assert reward.bind(trainer) is reward
    finally:
        random_mllm.tokenizer.padding_side = side
    trainer.model = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingError, match="does not train the model"):
        reward.bind(trainer)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"num_generations": 1}, "whole number from 2"),
        ({"learning_rate": "1e-4"}, "learning_rate is '1e-4'"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": 0}, "above 0"),
        ({"attention": 0, "accuracy": 0, "form": 0}, "nothing is rewarded"),
        ({"aggregation": "sum"}, "choose normalize_then_sum or"),
        ({"accumulation": 3}, "do not split into 3"),
        ({"reward": {"layer": 1}}, "it has layers, entropy_top"),
        ({"depth": 1}, "it has steps, questions"),
    ],
)
def test_options_without_sense_are_refused(options, sentence):
    with pytest.raises(TrainingError, match=sentence):
        sayo_config(options, steps=3, seed=0)


def test_options_become_the_run():
    found = sayo_config({"reward": {"layers": [1, 2]}, "accuracy": 0}, steps=7, seed=3)
    assert (found.steps, found.seed, found.weights) == (7, 3, (1.0, 0, 1.0))
    assert found.reward == RegionRewardConfig(layers=(1, 2))
    assert sayo_config({"steps": 2, "sft_first": True}, steps=7, seed=0).steps == 2


# --- Runs -----------------------------------------------------------------------------------------


def test_two_steps_train_the_model_and_log_every_reward(trained, random_checkpoint):
    before, after = (load_file(f / "model.safetensors") for f in (random_checkpoint, trained))
    assert before.keys() == after.keys()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    log = json.loads((trained / "training_log.json").read_text())
    assert len(log["history"]) == 2 and log["config"]["num_generations"] == 2
    for entry in log["history"]:
        assert entry["region/none"] == 0 and entry["region/none/no_box"] == 0
        ratio, mass = entry["region/ratio"], entry["region/visual_mass"]
        assert ratio > 0 and 0 < entry["region/box_mass"] < mass < 1
        assert -1 < entry["rewards/region/mean"] - 0.5 * mass < 1
        assert entry["rewards/accuracy/mean"] == entry["rewards/format/mean"] == 0
        assert entry["kl"] >= 0 and "step_time" not in entry
    files = {path.name for path in trained.iterdir()}
    assert "README.md" not in files and not any("unfinished" in name for name in files)
    assert load_mllm(trained).tokenizer.padding_side == "right"


def test_an_interrupted_run_ends_with_the_weights_and_log_of_one_that_was_not(
    random_checkpoint, training_problems, tmp_path, monkeypatch
):
    problems, config = training_problems[:6], replace(TINY, steps=3, beta=0.0)
    whole = finetune_sayo(random_checkpoint, problems, tmp_path / "whole", config)
    own = KeepLast.on_save

    def stop(self, args, state, control, **kwargs):
        own(self, args, state, control, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(KeepLast, "on_save", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune_sayo(random_checkpoint, problems, tmp_path / "cut", config, save_every=1)
    assert last_complete(tmp_path / ".cut.unfinished").name == "checkpoint-1"
    monkeypatch.setattr(KeepLast, "on_save", own)
    cut = finetune_sayo(random_checkpoint, problems, tmp_path / "cut", config, save_every=1)
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    logs = [json.loads((one / "training_log.json").read_text()) for one in (whole, cut)]
    assert logs[0]["history"] == logs[1]["history"]
    assert {one.name for one in whole.iterdir()} == {one.name for one in cut.iterdir()}
    with pytest.raises(TrainingError, match="exists already"):
        finetune_sayo(random_checkpoint, problems, cut, config)


def test_adapters_are_merged_and_only_the_text_stack_changes(
    random_checkpoint, training_problems, tmp_path
):
    config = replace(TINY, steps=1, lora=2, beta=0.0, learning_rate=0.05)
    tuned = finetune_sayo(random_checkpoint, training_problems[:4], tmp_path / "tuned", config)
    before, after = (load_file(f / "model.safetensors") for f in (random_checkpoint, tuned))
    assert before.keys() == after.keys()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert changed and all("proj" in name and "visual" not in name for name in changed)


def test_too_few_problems_are_refused(random_checkpoint, training_problems, tmp_path):
    with pytest.raises(TrainingError, match="1 problems do not fill a step of 2"):
        finetune_sayo(random_checkpoint, training_problems[:1], tmp_path / "few", TINY)


# --- The recipe -----------------------------------------------------------------------------------


def test_the_shipped_arms_differ_in_their_weights_only():
    arms = {name: read_arm(name) for name in ("sayo", "sayo_accuracy", "sayo_attention")}
    runs = {
        name: sayo_config(arm.options, steps=1, seed=0)
        for name, arm in arms.items()
        if arm.recipe == "sayo"
    }
    assert [runs[name].weights for name in arms] == [(1, 1, 1), (0, 1, 1), (1, 0, 1)]
    assert len({replace(run, attention=1.0, accuracy=1.0) for run in runs.values()}) == 1
    combined = read_arm("att_cot_sayo")
    assert combined.attcot == read_arm("att_cot").attcot and combined.options["sft_first"]


def test_an_arm_reaches_its_run(random_checkpoint, training_problems, tmp_path, monkeypatch):
    texts = {"title": "An arm", "about": "Trained somehow.", "recipe": "sayo"}
    options = {"questions": 2, "num_generations": 2, "max_completion": 4, "sft_first": True}
    arm = arm_of("new", {**texts, "attcot": {"lambda_vis": 0.1}, "options": options})
    config = FinetuneConfig(steps=1, batch_size=2, seed=5)
    folder = train_arm(arm, random_checkpoint, training_problems[:4], tmp_path / "arm", config)
    log = json.loads((folder / "training_log.json").read_text())
    assert log["base"].endswith("sft") and log["config"]["steps"] == 1
    assert log["config"]["seed"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["arm"]
    plain = arm_of("new", {**texts, "attcot": {"lambda_vis": 0.1}})
    with pytest.raises(TrainingError, match=r"GRPO has no place .* sft_first"):
        train_arm(plain, random_checkpoint, training_problems, tmp_path / "x", config)
    with pytest.raises(TrainingError, match="mode 'direct'"):
        train_arm(
            arm_of("new", {**texts, "mode": "direct"}),
            random_checkpoint,
            training_problems,
            tmp_path / "x",
            config,
        )
    with pytest.raises(TrainingError, match="has no option depth"):
        arm_of("new", {**texts, "options": {"depth": 3}})
    assert "sayo" in RECIPES
