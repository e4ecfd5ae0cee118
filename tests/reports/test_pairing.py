"""What may be compared, what is refused, and what a reader is told."""

import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from attcot_analysis.errors import RunError
from attcot_analysis.measures.compare import METRICS
from attcot_analysis.models.picture_cost import image_tokens
from attcot_analysis.problems import save_problems
from attcot_analysis.runs.provenance import problems_hash
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_analysis.show.report.arms import read_arm
from attcot_analysis.show.report.pairing import (
    find_model,
    find_problems,
    mass_notes,
    metric_notes,
    pairing_notes,
    precision_notes,
    seed_notes,
    size_notes,
)
from attcot_lab.testbed.arrows import ArrowsConfig, generate_arrows


@pytest.fixture
def first(pair):
    return read_arm(pair.path("cot_sft")).named("cot_sft")


def second(pair, tmp_path, **changes):
    return read_arm(pair.copy("att_cot", tmp_path / "other", **changes)).named("att_cot")


def test_half_precision_is_said_before_a_number_is_quoted(pair, first, tmp_path):
    half = second(pair, tmp_path, settings={"dtype": "bfloat16"})
    (note,) = precision_notes(first, half)
    assert note.startswith("att_cot was measured in bfloat16") and "off by 0.04" in note


def test_runs_measured_alike_are_compared_without_a_word(pair, first, tmp_path):
    assert pairing_notes(first, second(pair, tmp_path)) == []
    assert pairing_notes(first, second(pair, tmp_path / "b", settings={"batch_size": 1})) == []
    assert pairing_notes(first, second(pair, tmp_path / "c", settings={"max_new_tokens": 99})) == []


def test_layers_of_a_run_that_read_none_are_no_difference(first, pair, tmp_path):
    other = second(pair, tmp_path, settings={"layers": [0, 1]})
    answers = {
        seed: {**kinds, "access": kinds["access"][:0]} for seed, kinds in other.tables.items()
    }
    assert pairing_notes(first, replace(other, tables=answers)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"sha256": "0" * 64}}, "measured on other items; measure both on the same"),
        ({"settings": {"layers": [0, 1]}}, "all layers and .* at layers 0, 1, .*same --layers"),
    ],
)
def test_what_makes_numbers_incomparable_is_refused(pair, first, tmp_path, changes, sentence):
    with pytest.raises(RunError, match=sentence):
        pairing_notes(first, second(pair, tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"settings": {"dtype": "bfloat16"}}, "in float32 and att_cot in bfloat16"),
        (
            {"settings": {"sampling": {"do_sample": True, "top_k": 1}}},
            r"cot_sft are greedy and .* drawn as recommended \(do_sample True, top_k 1\)",
        ),
        ({"settings": {"temperature": 0.7}}, r"greedy and .* drawn at temperature 0\.7;"),
        (
            {"settings": {"samples": 8}},
            r"cot_sft was measured on 1 response per item and att_cot on 8 responses:",
        ),
        (
            {"settings": {"max_steps": 16}},
            r"after all steps of cot_sft and after at most 16 steps of att_cot",
        ),
        ({"versions": {"torch": "1.0"}}, r"torch [\d.+a-z]+ and 1\.0"),
        ({"model": {"family": "llava"}}, "family qwen2_5_vl and att_cot of llava"),
        ({"model": {"weights_sha256": None}}, None),
    ],
)
def test_what_a_reader_should_know_is_one_sentence(pair, first, tmp_path, changes, sentence):
    notes = pairing_notes(first, second(pair, tmp_path, **changes))
    assert len(notes) == (sentence is not None)
    if sentence is not None:
        assert re.search(sentence, notes[0])


def test_the_same_weights_and_other_eyes_are_said(pair, first, tmp_path):
    twin = read_arm(pair.copy("cot_sft", tmp_path / "twin"))
    (note,) = pairing_notes(first, twin)
    assert "same weights" in note
    eyes = dict(first.model["processor"])
    eyes["image_processor"] = eyes["image_processor"] | {"patch_size": 99}
    (note,) = pairing_notes(first, second(pair, tmp_path, model={"processor": eyes}))
    assert "other settings (patch_size)" in note


def test_a_model_is_loaded_with_the_limit_it_was_measured_with(pair, tmp_path):
    limits = {"max_pixels": 4096}
    arm = read_arm(pair.copy("cot_sft", tmp_path / "other", model={"limits": limits}))
    mllm = find_model(arm)
    assert mllm.limits == limits and image_tokens(mllm, (96, 96)) <= 16
    assert image_tokens(find_model(read_arm(pair.path("cot_sft"))), (96, 96)) == 36


def cut_off(path, share):
    run = RunFolder.open(path)
    answers = run.read_table("answers_cot")
    answers.loc[: share - 1, "finished"] = False
    run.write_table("answers_cot", answers, overwrite=True)
    return path


def test_responses_cut_off_at_other_limits_do_not_compare(pair, first, tmp_path):
    longer = cut_off(pair.copy("att_cot", tmp_path / "longer", settings={"max_new_tokens": 99}), 3)
    with pytest.raises(RunError, match=r"cut off at 99 tokens.*larger --max-new-tokens"):
        pairing_notes(first, read_arm(longer))
    same = cut_off(pair.copy("att_cot", tmp_path / "same"), 3)
    (note,) = pairing_notes(first, read_arm(same))
    assert "50% of the responses" in note and "cut off" in note


def test_an_unfinished_run_and_no_run_are_refused(pair, tmp_path):
    half = pair.copy("att_cot", tmp_path / "half")
    shutil.rmtree(half / "tables" / "dependence")
    with pytest.raises(RunError, match="not finished: it lacks dependence; run the attcot measure"):
        read_arm(half)
    with pytest.raises(RunError, match="There is no folder"):
        read_arm(tmp_path / "nowhere")
    other = RunFolder.create(tmp_path / "other", {"seed": 0, "models": {}, "data": {}})
    with pytest.raises(RunError, match="no run that can be compared"):
        read_arm(other.path)


def test_runs_of_several_seeds_are_joined(pair, tmp_path):
    joined = read_arm([pair.path("att_cot"), pair.copy("att_cot", tmp_path / "again")])
    assert list(joined.tables) == [0, 1]
    other = pair.copy("att_cot", tmp_path / "other", settings={"layers": [0]})
    with pytest.raises(RunError, match="measure all seeds alike"):
        read_arm([pair.path("att_cot"), other])


def test_items_are_found_where_they_were_and_checked(pair, first, tmp_path):
    other = second(pair, tmp_path)
    found, notes = find_problems(first, other)
    assert problems_hash(found) == problems_hash(pair.problems) and notes == []
    wrong = generate_arrows(6, ArrowsConfig(), seed=99)
    save_problems(wrong, tmp_path / "wrong")
    with pytest.raises(RunError, match="not those that"):
        find_problems(first, other, tmp_path / "wrong")


def test_a_run_on_the_first_items_compares_on_these(pair, first, tmp_path):
    few = pair.problems[:4]
    shorter = second(pair, tmp_path, data={"n": 4, "sha256": problems_hash(few)})
    assert pairing_notes(first, shorter) == []
    found, (note,) = find_problems(first, shorter)
    assert [problem.id for problem in found] == [problem.id for problem in few]
    assert "cot_sft was measured on 6 items; compared are the first 4" in note
    others = pair.problems[2:]
    odd = second(pair, tmp_path / "odd", data={"n": 4, "sha256": problems_hash(others)})
    with pytest.raises(RunError, match="no problem folder is known that begins with both"):
        find_problems(first, odd)


def test_items_that_are_gone_are_asked_for(pair, first, tmp_path):
    gone = replace(first, problems=tmp_path / "gone")
    with pytest.raises(RunError, match="give their folder with --problems"):
        find_problems(gone, gone.named("other"))
    found, _ = find_problems(gone, gone.named("other"), pair.folder / "problems")
    assert len(found) == 6


def test_few_items_are_warned_of():
    (note,) = size_notes(29)
    assert note.startswith("Only 29 items")
    assert size_notes(30) == []


def test_few_seeds_are_warned_of(first):
    def seeds(n):
        return replace(first, tables=dict.fromkeys(range(n), first.tables[0]))

    for a, b, n in ((2, 2, 2), (1, 3, 3), (3, 5, 3)):
        (note,) = seed_notes(seeds(a), seeds(b))
        assert note.startswith(f"Only {n} training seeds")
    assert seed_notes(seeds(4), seeds(1)) == []
    (note,) = seed_notes(seeds(1), seeds(1))
    assert "this checkpoint" in note


def test_answers_that_a_model_would_not_give_are_said():
    masses = {"base": [0.2, 0.9, None], "att_cot": [0.9, 0.99, 1.0]}
    values = pd.DataFrame(
        {"model": name, "metric": "candidate_mass0", "value": value}
        for name, own in masses.items()
        for value in own
    )
    (note,) = mass_notes(values)
    assert note.startswith("base: before the first step") and "in 1 of 2 items" in note
    assert mass_notes(values[values["model"] == "att_cot"]) == []


def test_metrics_that_only_one_has_are_named(pair, first):
    values = first.values(pair.problems)
    other = values[values["metric"] != "follow_twin"].assign(model="att_cot")
    (note,) = metric_notes("cot_sft", "att_cot", pd.concat([values, other]))
    assert note.startswith("Only cot_sft has follow_twin; measure att_cot")
    assert set(values["metric"]) <= set(METRICS)


def test_the_model_that_was_measured_is_loaded_and_no_other(first, tmp_path):
    mllm = find_model(first)
    assert str(mllm.dtype) == "torch.float32"
    with pytest.raises(RunError, match="are not those measured"):
        find_model(first, shipped(TESTBED_MODEL))
    with pytest.raises(RunError, match="not where it was"):
        find_model(first, tmp_path / "gone")
