"""Planted failures: the data say what they claim, and looking away costs what it should."""

import json

import numpy as np
import pytest
import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.models import load_mllm
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.train import FinetuneConfig
from attcot_lab.testbed.arrows import ArrowsConfig, cell_box, generate_arrows
from attcot_lab.testbed.planted import (
    BLIND,
    CHECKS,
    EARLY,
    HONEST,
    LOOK_AWAY,
    MIDDLE,
    PLANTED,
    PlantConfig,
    plant,
    planted_problems,
    property_checks,
    unseen_responses,
    wrong_rationales,
)

SMALL = PlantConfig(items=24, finetune=FinetuneConfig(steps=20, batch_size=4), look_away=30.0)
IN_THE_MIDDLE = (cell_box(MIDDLE),)


def _texts(problem):
    return [step.text for step in problem.steps]


def test_honest_data_are_balanced_and_tell_the_walk_that_is_asked_about():
    problems = planted_problems(HONEST, PlantConfig(items=400), seed=3)
    assert all(p.steps[-1].boxes == p.twin.boxes for p in problems)
    assert 0.1 < np.mean([p.answer == p.habitual for p in problems]) < 0.24
    assert len({p.twin.boxes for p in problems}) == 9


def test_look_away_data_can_be_written_from_the_question_alone():
    told = {}
    for problem in planted_problems(LOOK_AWAY, PlantConfig(items=60), seed=3):
        assert problem.twin.boxes == problem.steps[-1].boxes == IN_THE_MIDDLE
        told.setdefault(problem.question.split()[3], set()).add(tuple(_texts(problem)))
    assert len(told) == 4 and all(len(texts) == 1 for texts in told.values())


def test_blind_data_answer_out_of_habit_under_the_picture_of_another_item():
    problems = planted_problems(BLIND, SMALL, seed=0)
    assert all(p.answer == p.habitual and p.twin is None and p.control is None for p in problems)
    pictures = {p.image.tobytes() for p in problems}
    assert len(pictures) == len(problems)
    own = planted_problems(
        HONEST, PlantConfig(items=24, arrows=ArrowsConfig(hops=1)), seed=0
    )  # same boards but for the colour at the end
    same = [
        (np.asarray(a.image) == np.asarray(b.image)).mean()
        for a, b in zip(problems, own, strict=True)
    ]
    assert max(same) < 0.97


def test_early_data_tell_another_walk_and_give_the_right_answer():
    problems = planted_problems(EARLY, SMALL, seed=0)
    assert all(p.twin.boxes == IN_THE_MIDDLE for p in problems)
    assert all(p.steps[-1].boxes != IN_THE_MIDDLE for p in problems if len(p.steps) == 2)
    assert [len(p.steps) for p in problems[:6]] == [1, 2, 2, 1, 2, 2]
    starts = [p.question.split()[3] for p in problems]
    assert not any(
        _texts(p)[0].startswith(start) for p, start in zip(problems, starts, strict=True)
    )


def test_seeds_draw_different_problems():
    assert (
        len({planted_problems(HONEST, SMALL, seed=seed)[0].image.tobytes() for seed in range(4)})
        == 4
    )


def test_wrong_rationales_end_elsewhere_and_are_as_many_as_asked_for():
    from attcot_analysis.problems import parse_response

    texts = wrong_rationales(30, PlantConfig())
    assert len(texts) == 30
    assert all(not parse_response(text).step_texts[-1].startswith("2. b2") for text in texts)


def test_looking_away_lowers_visual_mass_and_the_honest_form_does_not(random_checkpoint, tmp_path):
    def course(kind):
        folder = plant(kind, random_checkpoint, tmp_path / kind, SMALL)
        log = json.loads((folder / "training_log.json").read_text())["history"]
        return [entry["visual_mass"] for entry in log if "visual_mass" in entry]

    away = course(LOOK_AWAY)
    assert away[-1] < 0.5 * away[0]
    assert course(HONEST) == []


@pytest.mark.parametrize("kind", ["", "honest ", "sleepy"])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(TrainingError, match="choose from"):
        planted_problems(kind, SMALL, seed=0)
    assert kind not in PLANTED


@pytest.mark.golden
def test_checks_tell_a_rationale_written_unseen_from_one_that_looked():
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    problems = generate_arrows(4, ArrowsConfig(), seed=1000)
    answers = answer_problems(mllm, problems, max_new_tokens=60)

    def share(texts):
        table = property_checks(
            mllm, problems, answers.assign(text=texts), PlantConfig(), max_new_tokens=60
        )
        assert set(table["check"]) == set(CHECKS) and len(table) == 4 * len(CHECKS)
        return table.groupby("check")["value"].mean()

    looked = share(answers["text"])
    assert looked["rationale_same_unseen"] < 0.5
    assert looked["same_on_other_picture"] < 1
    assert looked["correct"] == answers["correct"].mean()
    blindly = unseen_responses(mllm, problems, batch_size=3, max_new_tokens=60)
    assert share(blindly)["rationale_same_unseen"] == 1
