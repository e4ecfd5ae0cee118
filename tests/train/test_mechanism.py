"""Testbed B's models: what they are shown, what is pointed to, and what their gates say."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from attcot_analysis.errors import TrainingError
from attcot_analysis.models import load_mllm, wrap_mllm
from attcot_analysis.problems import render_response
from attcot_analysis.train.data import IGNORED
from attcot_lab.testbed import gates as gating
from attcot_lab.testbed import mechanism
from attcot_lab.testbed.build import batch_of, inside_answers
from attcot_lab.testbed.gates import GATES, gates
from attcot_lab.testbed.kinds import generate_problems
from attcot_lab.testbed.lessons import Row
from attcot_lab.testbed.mechanism import (
    MechanismConfig,
    build_mechanism_model,
    start_as_a_copier,
)
from attcot_lab.testbed.named import TESTBED_B, build_config
from attcot_lab.testbed.tiny import TinySpec, tiny_model, tiny_processor

QUICK = MechanismConfig(
    vision_steps=2, text_steps=2, align_steps=3, describing=1, batch_size=4, replay=2
)
FAMILIES = ("qwen2_5_vl", "internvl", "llava")


def untrained(family="qwen2_5_vl"):
    spec = TinySpec(family=family, hidden=96)
    processor = tiny_processor(mechanism._sentences(QUICK.kinds), spec)
    return wrap_mllm(tiny_model(processor, spec, seed=0), processor, name="new")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_an_ordinary_checkpoint_and_the_same_each_time(tmp_path, family):
    config = replace(QUICK, spec=TinySpec(family=family, hidden=96))
    first = build_mechanism_model(tmp_path / "a", config, progress=False)
    second = build_mechanism_model(tmp_path / "b", config, progress=False)
    weights = (first / "model.safetensors").read_bytes()
    assert weights == (second / "model.safetensors").read_bytes() and len(weights) <= 4_000_000
    assert load_mllm(first).family.name == family
    with pytest.raises(TrainingError, match="exists already"):
        build_mechanism_model(first, config, progress=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layer_starts_by_looking_back(family):
    mllm = untrained(family)
    start_as_a_copier(mllm)
    mllm.model.set_attn_implementation("eager")
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        read = mllm.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True
        )
    for head in range(4):
        assert read.attentions[0][0, head, 12].argmax() == 12 - (head + 1)
        assert read.attentions[0][0, head, 12].max() > 0.9


def test_no_rationale_about_a_picture_is_shown_unless_it_is_asked_for():
    for share in (0.0, 0.5):
        teacher = mechanism._Teacher(untrained(), replace(QUICK, image_cot=share), 6)
        rows = [teacher.picture(0.2, 0.3) for _ in range(200)]
        thought = [row for row in rows if row.response.startswith("<think>")]
        assert all(row.image is not None for row in rows)
        assert (len(thought) > 0) == (share > 0)
    text = [teacher.text(repeat=0.3, direct=0.3) for _ in range(60)]
    assert all(row.image is None for row in text)
    assert any(row.response.startswith("<think>") for row in text)
    for _ in range(20):
        row = teacher.text(repeat=0.0, direct=0.0, pictured=True)
        assert row.image is not None and re.search(r"The \w+ (in|bar)", row.prompt)


def test_descriptions_point_to_what_they_speak_of_and_answers_to_nothing():
    teacher = mechanism._Teacher(untrained(), QUICK, 6)
    for _ in range(60):
        row = teacher.picture(0.5, 0.25)
        if "<answer>" in row.response:
            assert row.sources == ()
            continue
        lines = row.response.split("\n")
        assert len(row.sources) == len(lines) == 3
        for line, source in zip(lines, row.sources, strict=True):
            x0, y0, x1, y1 = map(int, source.box)
            part = np.asarray(row.image)[y0:y1, x0:x1].astype(int)
            colour = next(name for name in mechanism.COLOURS if name in line)
            distance = np.abs(part - np.array(mechanism.COLOURS[colour])).sum(-1)
            assert (distance < 150).any()


@pytest.mark.parametrize("kind", ["relation", "walk", "bars"])
def test_copied_words_are_pointed_to_where_they_stand(kind):
    mllm = untrained()
    rows, problems = [], generate_problems(kind, 8, seed=2)
    for problem in problems:
        prompt = f"{problem.metadata['words']}\n{problem.question}\n"
        rows.append(Row(None, prompt, render_response(problem.steps, problem.answer)))
    batch = batch_of(mllm, rows)
    places, groups, cols = mechanism._copied(mllm, batch["input_ids"], batch["labels"])
    answers = inside_answers(mllm, batch["input_ids"])
    for at in range(len(problems)):
        ids = batch["input_ids"][at]
        found = places[at][places[at] >= 0]
        # One per word that the description holds: places of pieces, a colour, heights.
        assert len(found) >= {"relation": 4, "walk": 2, "bars": 2}[kind]
        for row, group in zip(found, groups[at], strict=False):
            source = cols[at, :, group].nonzero()[:, 0]
            assert len(source) == 1 and ids[source] == ids[row + 1]
            assert batch["labels"][at, source] == IGNORED != batch["labels"][at, row + 1]
            assert not answers[at, row + 1]


class _Answers:
    """Stands in for a model: what it answers per mode, with a picture and without."""

    def __init__(self, **right):
        self.right = right

    def __call__(self, mllm, problems, *, mode, text_only=False, images=None, answers=None, **_):
        of = "twin" if images else "text" if text_only else mode
        n = round(self.right[of] * len(problems))
        unread = round(self.right.get("unread", 0.0) * len(problems)) if of == "cot" else 0
        correct = [at < n for at in range(len(problems))]
        answer = [None if at < unread else "x" for at in range(len(problems))]
        return pd.DataFrame(
            {"correct": correct, "answer": answer, "text": ["<answer>x"] * len(answer)}
        )


@pytest.mark.parametrize(
    ("right", "failed"),
    [
        ({"direct": 0.9, "cot": 0.5, "text": 1.0, "twin": 0.9}, []),
        ({"direct": 0.6, "cot": 0.5, "text": 1.0, "twin": 0.9}, ["direct"]),
        ({"direct": 0.9, "cot": 0.5, "text": 0.8, "twin": 0.5}, ["text_cot", "twin"]),
        ({"direct": 0.9, "cot": 0.5, "text": 1.0, "twin": 0.9, "unread": 0.1}, ["unparsed"]),
    ],
)
def test_a_gate_fails_for_its_own_reason_only(monkeypatch, right, failed):
    monkeypatch.setattr(gating, "answer_problems", _Answers(**right))
    monkeypatch.setattr(gating, "_evidence", lambda *_: 3.0)
    table = gates(None, generate_problems("relation", 50))
    assert list(table["gate"]) == list(GATES)
    assert list(table[~table["holds"]]["gate"]) == failed


def test_an_untrained_model_passes_no_gate_of_skill():
    table = gates(untrained(), generate_problems("relation", 8), max_new_tokens=4).set_index("gate")
    assert not table.loc[["direct", "text_cot", "twin"], "holds"].any()


def test_names_carry_their_pretraining_seed():
    assert build_config("qwen2_5_vl-b3").seed == 3
    large, small = build_config("qwen2_5_vl-large-b1"), build_config("qwen2_5_vl-b1")
    assert large.spec.hidden > small.spec.hidden
    assert replace(large, spec=small.spec) == small
    assert {config.spec.family for config in TESTBED_B.values()} == set(FAMILIES)
    with pytest.raises(TrainingError, match="qwen2_5_vl-b0"):
        build_config("qwen2_5_vl-b99")
    with pytest.raises(TrainingError, match="shares"):
        MechanismConfig(captions=0.8, lookups=0.4)
