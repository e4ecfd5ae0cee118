"""Several responses to every item: measured one by one, averaged by item, never lost or mixed."""

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from attcot_analysis.errors import MeasureError, RunError
from attcot_analysis.measures.answers import answers_by_seed
from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.measures.compare import compare, item_values
from attcot_analysis.measures.samples import (
    agreement,
    by_sample,
    samples_note,
    samples_of,
    stacked,
)
from attcot_analysis.models import Generation
from attcot_analysis.runs import measure as suite
from attcot_analysis.runs.generations import Generations
from attcot_analysis.runs.measure import Settings, measure, measure_run
from attcot_analysis.runs.parts import Parts
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import suite_values
from attcot_analysis.stats.intervals import bootstrap_mean, mean_over_samples

K, EDITED = 3, 2
WHAT = ("answers", "direct", "text_only", "commitment", "access", "dependence", "lens", "maps")
OPTIONS = {
    "samples": K,
    "edited_samples": EDITED,
    "temperature": 1.0,
    "batch_size": 2,
    "max_new_tokens": 80,
    "controls": ("rationale", "filler"),
    "edits": ("blank",),
    "layers": [1, 2],
}


@pytest.fixture(scope="module")
def run(testbed, tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("samples") / "run"
    return measure_run(folder, testbed.mllm, testbed.problems[:4], WHAT, **OPTIONS)


@pytest.fixture(scope="module")
def tables(run):
    return {name: run.read_table(name) for name in run.tables}


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


# --- what is measured ---------------------------------------------------------------------------


def test_every_table_holds_every_sample_of_every_item(tables, testbed):
    ids = [problem.id for problem in testbed.problems[:4]]
    units = [(item, sample) for item in ids for sample in range(K)]
    for name in ("answers_cot", "answers_direct", "answers_text_only"):
        table = tables[name]
        assert list(zip(table["item"], table["sample"], strict=True)) == units
    texts = tables["answers_cot"]
    assert texts.groupby("item")["text"].nunique().max() > 1
    having = texts[texts["n_steps"] > 0]
    wanted = set(zip(having["item"], having["sample"], strict=True))
    assert wanted
    for name, n in (("commitment", K), ("access", K), ("dependence", EDITED), ("lens", K)):
        found = tables[name]
        assert list(found.columns[:2]) == ["item", "sample"]
        there = set(zip(found["item"], found["sample"], strict=True))
        assert {unit for unit in wanted if unit[1] < n} <= there
        assert set(found["sample"]) == set(range(n))
    assert set(tables["maps"]["sample"]) == {0}


def test_each_sample_is_measured_as_if_it_were_the_only_response(tables, testbed):
    """The slow way: one run of given responses per sample."""
    problems = testbed.problems[:4]
    answers = samples_of(tables["answers_cot"])
    for sample, own in enumerate(answers):
        responses = {
            row.item: Generation(tuple(row.ids), row.text, row.finished) for row in own.itertuples()
        }
        options = {name: OPTIONS[name] for name in ("batch_size", "controls", "layers")}
        given = Generations(responses, foreign=True)
        alone = measure(
            testbed.mllm, problems, ("commitment", "access"), generations=given, **options
        )
        for name, value in (("commitment", "log_p"), ("access", "mass")):
            among = tables[name]
            among = among[among["sample"] == sample].drop(columns="sample").reset_index(drop=True)
            np.testing.assert_allclose(among[value], alone[name][value], atol=1e-5)
            if name == "access":
                assert_frame_equal(among, alone[name], rtol=1e-4, atol=1e-5)
            keys = [key for key in ("item", "step", "control", "candidate", "head") if key in among]
            assert_frame_equal(among[keys], alone[name][keys])


def test_values_are_means_over_an_item_s_samples(tables, testbed):
    problems = testbed.problems[:4]
    names = ("answers_cot", "answers_direct", "answers_text_only", "commitment", "access")
    parts = []
    for sample in range(K):
        own = {
            name: tables[name].query(f"sample == {sample}").drop(columns="sample") for name in names
        }
        parts.append(suite_values(own, problems, model="m", seed=0))
    by_hand = pd.concat(parts).groupby(["metric", "item"])["value"].mean()
    found = tables["values"].set_index(["metric", "item"])["value"]
    for key, value in by_hand.items():
        if key[0] == "rationale_steps" and key not in found:
            steps = {float(part.set_index(["metric", "item"])["value"][key]) for part in parts}
            assert len(steps) > 1  # Samples of unlike length have no common one.
            continue
        assert found[key] == pytest.approx(value, nan_ok=True)
    assert {"self_consistency", "accuracy_majority", "commitment_spread"} <= set(
        tables["values"]["metric"]
    )
    summary = tables["summary"].set_index("metric")
    assert (summary["n_items"] <= 4).all()


def test_one_sample_is_what_it_always_was(testbed):
    tables = measure(testbed.mllm, testbed.problems[:2], ("answers", "access"), layers=[0])
    assert all("sample" not in table for table in tables.values())
    greedy = testbed.responses[:2]
    assert [list(ids) for ids in tables["answers_cot"]["ids"]] == greedy
    plain = Settings().record(("answers", "commitment"))
    assert not {"samples", "temperature", "max_steps"} & set(plain)
    several = Settings(samples=2, temperature=0.5, max_steps=9).record(("answers", "commitment"))
    assert (several["samples"], several["temperature"], several["max_steps"]) == (2, 0.5, 9)


def test_of_how_many_samples_dependence_is_read_is_said():
    edits = ("answers", "dependence")
    assert "edited_samples" not in Settings().record(edits)
    assert Settings(samples=3, temperature=1).record(edits)["edited_samples"] == 1
    # As runs of earlier versions were measured, which do not say it.
    assert "edited_samples" not in Settings(samples=3, edited_samples=3).record(edits)
    assert samples_note({"samples": 3, "edited_samples": 1}) == (
        "Dependence is of the first of 3 responses to every item; --edited-samples 3 reads it of "
        "all."
    )
    assert samples_note({"samples": 3}) == samples_note({}) == ""


def test_tables_of_several_samples_may_lie_beside_others_of_a_run(testbed, tmp_path):
    """What they were called with says how many samples each must hold, not the run's manifest."""
    asked = (testbed.mllm, testbed.problems[:2], ("dependence",))
    options = {"samples": 2, "temperature": 1.0, "max_new_tokens": 40, "edits": ("blank",)}
    folder = RunFolder.create(tmp_path / "run", {"config": {"samples": 7}})
    found = measure(*asked, run=folder, prefix="own.", **options)["dependence"]
    assert set(found["sample"]) == {0}
    assert_frame_equal(found, measure(*asked, **options)["dependence"])


def test_generations_with_several_responses_are_all_measured(testbed):
    problem = testbed.problems[0]
    ids = tuple(testbed.responses[0])
    text = testbed.mllm.decode(ids)
    first, second = Generation(ids, text, True), Generation(ids[:-1], text, True)
    given = Generations({problem.id: first}, more={problem.id: (second,)})
    options = {"generations": given, "layers": [0], "max_new_tokens": 40}
    both = measure(testbed.mllm, [problem], ("direct", "access"), **options)
    assert both["answers_cot"]["sample"].tolist() == [0, 1]
    assert set(both["access"]["sample"]) == {0, 1}
    # Greedy: a second direct answer would be the same.
    assert "sample" not in both["answers_direct"] and len(both["answers_direct"]) == 1
    values = suite_values(both, [problem], model="m", seed=0).set_index("metric")["value"]
    assert values["self_consistency"] == 1.0 and "accuracy_direct" in values
    one = measure(testbed.mllm, [problem], ("access",), samples=1, **options)
    assert "sample" not in one["access"]


def test_samples_that_do_not_fit_together_are_written_one_by_one(testbed, monkeypatch):
    options = {"samples": 2, "temperature": 1.0, "batch_size": 8, "max_new_tokens": 20}
    asked = (testbed.mllm, testbed.problems[:2], ("answers",))
    together = measure(*asked, **options)["answers_cot"]
    seen = []

    def little(*given, seeds, **more):
        seen.append(len(seeds))
        if len(seeds) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answers_by_seed(*given, seeds=seeds, **more)

    monkeypatch.setattr(suite, "answers_by_seed", little)
    assert_frame_equal(measure(*asked, **options)["answers_cot"], together)
    assert seen == [2, 1, 1]


def test_a_sample_of_which_nothing_can_be_said_makes_no_texts_of_numbers():
    table = pd.DataFrame({"item": ["a", "b"], "sample": [0, 1], "value": [0.3, 0.6]})
    found = by_sample(
        table,
        lambda rows: pd.DataFrame(
            rows[rows["item"] == "b"].values.tolist(), columns=["item", "value"]
        ),
    )
    assert found["value"].dtype == float and found["value"].tolist() == [0.6]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(MeasureError, match="3 samples at temperature 0 would all be the same"):
        Settings(samples=3).check()
    with pytest.raises(MeasureError, match="samples is 0"):
        Settings(samples=0).check()
    with pytest.raises(MeasureError, match="edited_samples is 0"):
        Settings(edited_samples=0).check()
    for name in ("samples", "edited_samples"):
        with pytest.raises(MeasureError, match=f"{name} is 1.5; give a whole number"):
            Settings(**{"temperature": 1.0, name: 1.5}).check()
    with pytest.raises(MeasureError, match="max_steps is 1"):
        Settings(max_steps=1).check()


# --- what is lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [3, 12])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    run, testbed, tmp_path, monkeypatch, stop_at
):
    write, calls = Parts.write, []

    def stop(self, *given):
        calls.append(given)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        write(self, *given)

    monkeypatch.setattr(Parts, "write", stop)
    asked = (tmp_path / "cut", testbed.mllm, testbed.problems[:4], WHAT)
    with pytest.raises(KeyboardInterrupt):
        measure_run(*asked, **OPTIONS)
    measure_run(*asked, **OPTIONS)
    assert contents(tmp_path / "cut") == contents(run.path)
    with pytest.raises(RunError, match="samples"):
        measure_run(*asked, **{**OPTIONS, "samples": 2})


def test_what_of_further_samples_is_measured_alone_has_the_numbers_it_has_beside_others(testbed):
    """Also where one sample's response is the rationale that another sample's control puts in."""
    mllm, problems = testbed.mllm, testbed.problems[:4]
    wrote = [Generation(tuple(ids), mllm.decode(ids), True) for ids in testbed.responses[:4]]
    ids = [problem.id for problem in problems]
    first = dict(zip(ids, wrote, strict=True))
    more = {one: (wrote[(at + 1) % 4], wrote[(at + 2) % 4]) for at, one in enumerate(ids)}
    given = {"generations": Generations(first, more=more), "batch_size": 4}
    what = ("access", "commitment", "open_commitment")
    every = measure(mllm, problems, what, **given)
    for name in what[1:]:
        alone = measure(mllm, problems, (name,), **given)[name]
        assert len(alone)
        assert_frame_equal(alone, every[name], check_exact=True)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("answers_cot", "answer to"),
        ("commitment", "forced answer of"),
        ("access", "step of"),
        ("lens", "forced answer of"),
        ("dependence", "blank picture of"),
    ],
)
def test_a_sample_that_is_gone_is_missed(run, tables, tmp_path, name, what):
    from shutil import copytree

    from attcot_analysis.runs.run import RunFolder

    copytree(run.path, tmp_path / "run")
    changed = RunFolder(tmp_path / "run")
    table = tables[name]
    of_edits = name == "dependence"
    last = EDITED - 1 if of_edits else K - 1
    # A response without a step has rows of new responses only, which are not missed.
    kept = table[table["sample"] == last].query("rationale == 'fixed'" if of_edits else "item > ''")
    unit = (table["item"] == kept["item"].iloc[-1]) & (table["sample"] == last)
    assert unit.any() and not unit.all()
    changed.write_table(name, table[~unit], overwrite=True)
    with pytest.raises(RunError, match=rf"lacks the {what} item .*, sample {last};"):
        changed.read_table(name)
    changed.write_table(name, pd.concat([table, table[unit]]), overwrite=True)
    with pytest.raises(RunError, match=r"row of the same item, sample.* is there already"):
        changed.read_table(name)


def test_edits_of_a_later_sample_are_no_part_of_the_run(run, tables, tmp_path):
    from shutil import copytree

    changed = RunFolder(copytree(run.path, tmp_path / "run"))
    table = tables["dependence"]
    later = table[table["sample"] == 0].assign(sample=EDITED)
    changed.write_table("dependence", pd.concat([table, later]), overwrite=True)
    with pytest.raises(RunError, match=rf"of the first {EDITED} samples only; .* delete it"):
        changed.read_table("dependence")


def test_a_result_is_of_one_sample(tables, testbed):
    forced = tables["commitment"]
    with pytest.raises(MeasureError, match=r"3 samples of each item; .*by_sample"):
        Commitment(forced, testbed.problems)
    items = by_sample(forced, lambda rows: Commitment(rows, testbed.problems).items())
    assert list(items.columns[:2]) == ["item", "sample"]
    assert not items.duplicated(["item", "sample", "control"]).any()


# --- what samples say together ------------------------------------------------------------------


def answers(*given, right="a", item="q"):
    return pd.DataFrame(
        {
            "item": item,
            "sample": range(len(given)),
            "answer": given,
            "correct": [one == right for one in given],
        }
    )


@pytest.mark.parametrize(
    ("given", "consistency", "accuracy"),
    [
        (("a", "a", "a", "a"), 1.0, 1.0),
        (("b", "b", "b", "a"), 0.75, 0.0),
        (("a", "a", "b", "b"), 0.5, 0.5),
        (("c", "a", "b", "c"), 0.5, 0.0),
        (("a", None, None, None), 0.25, 1.0),
        ((None, None, None, None), 0.0, 0.0),
    ],
)
def test_agreement_by_hand(given, consistency, accuracy):
    row = agreement(answers(*given)).iloc[0]
    assert (row["self_consistency"], row["accuracy_majority"]) == (consistency, accuracy)


def committed(positions, n_steps=4):
    """Items of `Commitment.items` with given positions, one per sample."""
    one = {
        "item": "q", "control": "rationale", "p0_final": 0.5, "p0_answer": 0.5,
        "p0_habitual": np.nan, "area": 0.5, "jump": 0.1, "jump_step": 1.0, "jump_position": 0.25,
        "corrective": False, "corruptive": False, "correct": True, "leak_step": np.nan,
        "n_steps": n_steps,
    }  # fmt: skip
    return stacked(
        [
            pd.DataFrame([one | {"commitment_position": at, "premature": at <= 0.25}])
            for at in positions
        ]
    )


def test_spread_tells_a_wavering_item_from_a_steady_one():
    def spread(*positions):
        values = item_values(model="m", seed=0, commitment=committed(positions))
        values = values.set_index("metric")["value"]
        return values["commitment_spread"], values["commitment_position"]

    assert spread(0.5, 0.5, 0.5) == (0.0, 0.5)
    assert spread(0.0, 1.0, 0.0, 1.0) == pytest.approx((np.std([0, 1, 0, 1], ddof=1), 0.5))
    assert np.isnan(spread(0.75)[0])


def test_shares_of_samples_are_not_held_for_yes_and_no():
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "model": model, "seed": 0, "item": range(40), "metric": "accuracy_cot",
                "value": rng.integers(5, size=40) / 4,
            }
        )
        for model in "ab"
    ]  # fmt: skip
    assert compare(pd.concat(parts), "a", "b")["test"].tolist() == ["bootstrap, items"]


def test_intervals_over_rows_are_too_narrow_and_those_over_items_are_not():
    """Items with a rightness of their own, 8 samples each: coverage of the true mean, 0.5."""
    rng = np.random.default_rng(0)
    n_items, k, rounds = 60, 8, 300
    items = np.repeat(np.arange(n_items), k)
    held = {"rows": 0, "items": 0, "clusters": 0}
    for number in range(rounds):
        right = rng.beta(0.5, 0.5, n_items)
        value = (rng.random(n_items * k) < right[items]).astype(float)
        table = pd.DataFrame({"item": items, "value": value})
        options = {"n_boot": 400, "seed": number}
        found = {
            "rows": bootstrap_mean(table["value"], **options),
            "items": bootstrap_mean(mean_over_samples(table, ["item"])["value"], **options),
            "clusters": bootstrap_mean(table["value"], table["item"], **options),
        }
        for name, interval in found.items():
            held[name] += interval.low <= 0.5 <= interval.high
        # With as many samples of every item the two say the same.
        assert found["items"].value == pytest.approx(found["clusters"].value)
    coverage = {name: count / rounds for name, count in held.items()}
    assert coverage["rows"] < 0.75
    assert 0.91 <= coverage["items"] <= 0.98
    assert coverage["items"] == pytest.approx(coverage["clusters"], abs=0.02)


def test_an_item_counts_once_however_many_samples_have_a_value():
    table = pd.DataFrame(
        {"item": ["a"] * 3 + ["b"] * 3, "value": [1.0, 1.0, 1.0, 0.0, np.nan, np.nan]}
    )
    means = mean_over_samples(table, ["item"])
    assert means["item"].tolist() == ["a", "b"] and means["value"].tolist() == [1.0, 0.0]
    assert bootstrap_mean(means["value"]).value == 0.5
