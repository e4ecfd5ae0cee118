"""What a VISTA run tells about its questions: the yields item by item, imbalance, the filter."""

import itertools

import numpy as np
import pandas as pd
import pytest

from attcot_analysis.runs.run import RunFolder
from attcot_analysis.stats.catalogue import METRICS
from attcot_lab.arms import arm_of, read_arm, training_values
from attcot_lab.vista import run as told
from attcot_lab.vista.draw import PARTS, typed
from attcot_lab.vista.run import INDEPENDENT, easy_excess, vista_folder, vista_values
from attcot_lab.vista.sets import VistaConfig, VistaRound

CONFIG = VistaConfig(control=True, batch_size=4)


def drawn(problems, plan, seed=0) -> pd.DataFrame:
    """Responses as a round keeps them; per problem (origin, correct, sound) of each."""
    random = np.random.default_rng(seed)
    rows = []
    for problem, own in zip(problems, plan, strict=True):
        for number, (origin, correct, sound) in enumerate(own):
            ids = [8 + number, *random.integers(8, 300, 3).tolist()]
            share = random.uniform(0.2, 0.8) if correct else np.nan
            rows.append((problem.id, number, origin, correct, sound, 0, ids, share))
    names = ["item", "number", "origin", "correct", "sound", "kept", "ids", "share"]
    table = pd.DataFrame(rows, columns=names).assign(finished=True, parent=None, text="", answer="")
    return typed(table)


def sampled(*flags) -> list[tuple[str, bool, bool]]:
    return [("sampled", bool(flag), bool(flag)) for flag in flags]


YES, NO = ("plain", True, True), ("plain", False, False)
MORE = [
    [*sampled(1, 1, 1, 1), YES, ("continued", False, False)],
    [*sampled(0, 0, 0, 0), NO, ("continued", True, True)],
    [*sampled(0, 0, 0, 0), YES, ("continued", True, False)],
    [("sampled", True, False), *sampled(0, 0, 0), NO, ("continued", True, True)],
]


def test_the_means_of_the_gains_are_the_yields(training_problems):
    made = VistaRound(drawn(training_problems[:4], MORE), critical=pd.DataFrame())
    means = made.gains().groupby(["success", "draw"])["value"].agg(["mean", "size"])
    summed = made.yields().set_index(["success", "draw"])
    assert len(means) == 6
    for key, row in means.iterrows():
        assert row["mean"] == pytest.approx(summed.loc[key, "value"])
        assert row["size"] == summed.loc[key, "n"]


@pytest.mark.parametrize(
    ("flags", "excess"),
    [
        # One question has all of the second halves' right samples, and is one of two.
        (((1, 1, 1, 1), (0, 0, 0, 0)), 0.5),
        (((1, 1, 1, 1), (0, 0, 1, 0)), 2 / 3 - 1 / 2),
        (((1, 0, 1, 0), (0, 1, 0, 1)), 0.0),  # equally hard
        (((0, 0, 1, 1), (1, 1, 0, 0)), -0.5),  # what looked easy was luck
        (((0, 0, 1, 1), (0, 0, 1, 1)), 0.0),
    ],
)
def test_easy_questions_excess_by_hand(training_problems, flags, excess):
    table = drawn(training_problems[:2], [sampled(*own) for own in flags])
    assert easy_excess(table).mean() == pytest.approx(excess)


def test_easy_questions_excess_is_a_difference_of_shares(training_problems):
    random = np.random.default_rng(3)
    flags = random.random((16, 7)) < random.random((16, 1))
    table = drawn(training_problems, [[*sampled(*own), YES] for own in flags])
    easy = [own[:3].sum() >= 1.5 for own in flags]
    counts = [own[3:].sum() for own in flags]
    of_samples = sum(itertools.compress(counts, easy)) / sum(counts)
    assert easy_excess(table).mean() == pytest.approx(of_samples - np.mean(easy))
    nothing = drawn(training_problems[:2], [sampled(1, 0), sampled(1, 0)])
    assert (
        easy_excess(nothing).empty and easy_excess(drawn(training_problems[:1], [sampled(1)])).empty
    )


@pytest.fixture
def finished(training_problems, tmp_path):
    """A run whose first round is on the disk."""
    problems = training_problems[:4]
    run = RunFolder.create(vista_folder(tmp_path / "model"), {"seed": 0, "config": {}})
    plan = [[*sampled(1, 1, 1), NO], MORE[1], [*sampled(1, 0), NO], [*sampled(1, 1, 1, 1), NO]]
    tables = (drawn(problems, plan), pd.DataFrame({"item": [], "number": []}))
    for part, table in zip(PARTS, tables, strict=True):
        run.write_table(f"round1.{part}", table)
    return tmp_path / "model", problems, tables[0]


def test_values_of_a_finished_run(finished, random_checkpoint):
    folder, problems, responses = finished
    values = vista_values(random_checkpoint, problems, folder, CONFIG)
    assert set(values["metric"]) == {
        name for name, metric in METRICS.items() if metric.axis == "samples"
    }
    wide = values.pivot(index="item", columns="metric", values="value")
    by_item = wide.reindex([problem.id for problem in problems])
    assert by_item["unsolved"].tolist() == [0, 1, 0, 0]
    for metric, value in (("gain_mended_answer", 1), ("gain_plain_rationale", 0)):
        assert by_item[metric].dropna().to_dict() == {problems[1].id: value}
    # One question has no positive and one a single one, which is kept: nothing to hold against it.
    hanging = by_item[["independent_kept", "independent_dropped"]]
    assert hanging.notna().all(axis=1).tolist() == [True, False, False, True]
    positives = responses[responses["correct"]]
    asked = told.image_dependence(told.load_mllm(random_checkpoint), problems, positives)
    first = asked[asked["item"] == problems[0].id]
    z = (first["share"] - first["share"].mean()) / first["share"].std(ddof=0)
    kept = first[z >= CONFIG.tau]
    assert 0 < len(kept) < 3
    assert by_item["independent_kept"].iloc[0] == (kept["drop"] < INDEPENDENT).mean()
    for name, own in (("kept", kept), ("dropped", first.drop(kept.index))):
        value = by_item[f"response_dependence_{name}"].iloc[0]
        assert value == pytest.approx(own["drop"].mean(), abs=1e-4)


def test_only_runs_that_compare_are_asked_about_the_twin(finished, monkeypatch):
    folder, problems, _ = finished
    monkeypatch.setattr(told, "image_dependence", None)
    for name in ("vista_sft_plain", "vista_sft_no_vas", "vista_dpo"):
        values = training_values(read_arm(name), "no model", problems, folder)
        assert "unsolved" in set(values["metric"])
        assert not values["metric"].str.startswith(("independent", "response")).any()
    assert read_arm("vista_sft").options["control"] is True
    # Under other problems' pictures there is no twin to show.
    shuffled = arm_of(
        "shuffled",
        {
            "title": "S",
            "about": "Other pictures.",
            "recipe": "vista",
            "images": "shuffled",
            "options": {"control": True},
        },
    )
    values = training_values(shuffled, "no model", problems, folder)
    assert "unsolved" in set(values["metric"])
    for name in ("cot_sft", "sayo", "base"):
        assert training_values(read_arm(name), "no model", problems, folder).empty
