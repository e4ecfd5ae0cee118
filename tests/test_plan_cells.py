"""Plans carried out: what a cell holds, and that nothing is lost."""

import os
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from processes import Child

from attcot_analysis.cli import main
from attcot_analysis.errors import MeasureError, RunError, TrainingError
from attcot_analysis.models import PromptCache, load_mllm
from attcot_analysis.problems.formats import FORMATS, format_of
from attcot_analysis.runs.measure import measure
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import suite_values
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab.arms import RECIPES, Recipe
from attcot_lab.metrics import MEASURES, headline_values
from attcot_lab.plan import Plan, plan_of
from attcot_lab.run import COLUMNS, plan_values, run_plan
from attcot_lab.testbed.kinds import generate_problems

NAMES = {
    "about": "A test.",
    "models": ["one-small", "some/where/two-large"],
    "problems": {"arrows": {"noise": 240.0}, "charts": None},
    "arms": ["base", "cot_sft"],
    "seeds": [0, 1],
}


def tiny(**changes) -> Plan:
    settings = {
        "about": "A test.",
        "models": [str(shipped(TESTBED_MODEL))],
        "problems": {"arrows": {"noise": 240.0, "hops": 1}},
        "arms": ["base", "att_cot"],
        "seeds": [1],
        "items": 3,
        "batch_size": 100,
        "max_new_tokens": 32,
        "dtype": "float32",
        "train_items": 4,
        "save_every": 10,
        "finetune": {"steps": 10, "batch_size": 2},
    }
    return plan_of({**settings, **changes})


@pytest.fixture
def copied(monkeypatch):
    """Training that takes no time: the base itself."""

    def copy(arm, base, problems, folder, config, **_):
        return Path(shutil.copytree(base, folder))

    monkeypatch.setitem(RECIPES, "sft", Recipe(copy))


@pytest.fixture(scope="module")
def finished(one_thread, tmp_path_factory) -> RunFolder:
    return run_plan(tiny(), tmp_path_factory.mktemp("grid") / "run", progress=False)


# --- what a run writes --------------------------------------------------------------------------


def test_the_table_names_everything_and_the_models_are_gone(finished):
    values = finished.read_table("values")
    assert tuple(values.columns) == COLUMNS
    cells = values[["model", "family", "scale", "kind", "arm", "seed"]].drop_duplicates()
    assert cells.to_numpy().tolist() == [
        ["qwen2_5_vl-tiny", "qwen2_5_vl", "tiny", "arrows", "att_cot", 1],
        ["qwen2_5_vl-tiny", "qwen2_5_vl", "tiny", "arrows", "base", 0],
    ]
    assert not values.duplicated(["arm", "item", "metric"]).any()
    assert values["item"].nunique() == 3
    assert (values.loc[values["metric"] == "chance", "value"] == 1 / 6).all()
    assert list((finished.path / "models").iterdir()) == []
    parts = finished.read_json("grid")
    assert parts["arms"]["att_cot"]["attcot"]["lambda_commit"] == 1.0
    assert parts["models"]["qwen2_5_vl-tiny"]["weights_sha256"]


def test_a_cell_holds_what_the_full_suite_measures(finished):
    config = tiny()
    problems = config.problems["arrows"].test_problems(config.items, config.test_seed)
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    length = {"batch_size": config.batch_size, "max_new_tokens": config.max_new_tokens}
    tables = measure(mllm, problems, **length)
    expected = suite_values(tables, problems, model="base", seed=0)
    values = finished.read_table("values")
    found = values[(values["arm"] == "base") & (values["metric"] != "chance")]
    # The suite leaves out what no item allows.
    found = found[found.groupby("metric", observed=True)["value"].transform("count") > 0]
    columns = ["item", "metric", "value"]
    pd.testing.assert_frame_equal(
        found[columns].reset_index(drop=True), expected[columns], check_exact=False, atol=1e-6
    )


def test_what_is_remembered_is_what_would_be_encoded(one_thread):
    problems = generate_problems("arrows", 2, noise=240.0, hops=1)
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(mllm.processor, name)

        def __call__(self, *args, **kwargs):
            calls.append(kwargs["text"])
            return mllm.processor(*args, **kwargs)

    counting, length = replace(mllm, processor=Counting()), {"max_new_tokens": 32}
    plain = headline_values(counting, problems, **length)
    often = len(calls)
    caching = replace(counting, cache=PromptCache())
    calls.clear()
    pd.testing.assert_frame_equal(headline_values(caching, problems, **length), plain)
    # CoT, direct, text only, twin, control and a blank picture, once each.
    assert len(calls) == 2 * 6 < often
    calls.clear()
    other = [replace(problem, image=problem.twin.image) for problem in problems]
    assert not headline_values(caching, other, mode="direct").equals(plain)
    assert len(calls) == 2
    calls.clear()
    headline_values(counting, problems, mode="direct")
    assert len(calls) == 2


def test_a_model_that_writes_no_rationale_has_values_all_the_same(random_mllm):
    problems = generate_problems("arrows", 2)
    found = set(headline_values(random_mllm, problems, max_new_tokens=4)["metric"])
    assert {"accuracy_cot", "accuracy_direct", "prior_agreement", "chance"} <= found
    assert not found & {"mass", "p0_final", "follow_twin"}
    direct = set(headline_values(random_mllm, problems, mode="direct", max_new_tokens=4)["metric"])
    assert direct == {"accuracy_direct", "unparsed_direct", "habitual_direct", "chance"}


def test_fewer_measures_give_the_same_values_of_fewer_metrics(one_thread):
    problems = generate_problems("arrows", 2, noise=240.0, hops=1)
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    every = headline_values(mllm, problems, max_new_tokens=32)
    found = set()
    for one in MEASURES:
        few = headline_values(mllm, problems, measures=[one], max_new_tokens=32)
        of_every = every[every["metric"].isin(few["metric"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(few, of_every)
        found |= set(few["metric"])
    # What holds a grey picture against no picture needs both measures.
    assert set(every["metric"]) - found == {"prior_grey_difference"}
    answers = headline_values(mllm, problems, measures=[], max_new_tokens=32)
    assert set(answers["metric"]) == {"accuracy_cot", "unparsed_cot", "habitual_cot", "chance"}
    with pytest.raises(MeasureError, match="no measure 'acces'"):
        headline_values(mllm, problems, measures=["acces"])


# --- going on -----------------------------------------------------------------------------------


def grid_killed_at(folder: Path, killed_at: str) -> None:
    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(killed_at):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run_plan(tiny(), folder, progress=False)


def test_a_killed_grid_goes_on_and_ends_with_the_same_table(finished, tmp_path):
    folder = tmp_path / "run"
    child = Child(partial(grid_killed_at, killed_at="training_log.json"), folder)
    assert child.wait() == -signal.SIGKILL, child.error
    run = RunFolder.open(folder)
    (base,) = (folder / "cells").glob("*/tables/values.parquet")
    before = base.stat().st_mtime_ns
    assert base.parents[1].name.endswith("base-0") and len(plan_values(run)["arm"].unique()) == 1
    run_plan(tiny(), folder, progress=False)
    assert base.stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(
        run.read_table("values"), finished.read_table("values"), check_exact=True
    )


def test_a_grid_may_grow_but_not_change(finished, copied, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder)
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("*/tables/*")}
    grown = tiny(arms=["att_cot", "direct_sft"])
    values = run_plan(grown, folder, progress=False).read_table("values")
    assert set(values["arm"]) == {"base", "att_cot", "direct_sft"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert set(RunFolder.open(folder).read_json("grid")["arms"]) == set(values["arm"])
    with pytest.raises(RunError, match="begun with another kind arrows"):
        run_plan(tiny(problems={"arrows": {"noise": 0.0}}), folder, progress=False)
    other = tmp_path / "att_cot.yaml"
    other.write_text("title: x\nabout: y\nattcot: {lambda_vis: 9}\n")
    with pytest.raises(RunError, match="begun with another arm att_cot"):
        run_plan(tiny(arms=["base", str(other)]), folder, progress=False)
    with pytest.raises(RunError, match=r"config\.items"):
        run_plan(tiny(items=2), folder, progress=False)
    with pytest.raises(RunError, match=r"config\.measures"):
        run_plan(tiny(measures=["access"]), folder, progress=False)


def test_a_setting_is_corrected_as_long_as_it_had_no_effect(copied, monkeypatch, tmp_path):
    def fails(*given, **options):
        raise TrainingError("The learning rate is a text.")

    def wrong(**changes):
        return tiny(finetune={"steps": 10, "batch_size": 2, "learning_rate": 9.0}, **changes)

    good = RECIPES["sft"]
    monkeypatch.setitem(RECIPES, "sft", Recipe(fails))
    folder = tmp_path / "run"
    with pytest.raises(RunError, match="1 of 2 cells failed"):
        run_plan(wrong(), folder, progress=False)
    # The base was measured, nothing was trained: the rate is free, the problems are not.
    with pytest.raises(RunError, match=r"another kind arrows .its knobs\.noise"):
        run_plan(wrong(problems={"arrows": {"noise": 0.0, "hops": 1}}), folder, progress=False)
    monkeypatch.setitem(RECIPES, "sft", good)
    kept = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("*/tables/*")}
    run = run_plan(tiny(), folder, progress=False)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert run.read_json("grid")["kinds"]["arrows"]["finetune"]["learning_rate"] != 9.0
    with pytest.raises(RunError, match=r"another kind arrows .its finetune\.learning_rate"):
        run_plan(wrong(), folder, progress=False)


def test_a_setting_that_did_not_exist_yet_must_have_its_default(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder)
    run = RunFolder.open(folder)
    noted = run.read_json("grid")
    arm = noted["arms"]["att_cot"]
    del arm["attcot"]["vis_form"], arm["about"], noted["kinds"]["arrows"]["finetune"]["warmup"]
    run.write_json("grid", noted, overwrite=True)
    run_plan(tiny(), folder, progress=False)
    assert run.read_json("grid") == finished.read_json("grid")
    del noted["arms"]["att_cot"]["attcot"]["lambda_vis"]
    run.write_json("grid", noted, overwrite=True)
    with pytest.raises(RunError, match="begun with another arm att_cot"):
        run_plan(tiny(), folder, progress=False)


def test_the_format_holds_in_training_and_in_measuring(monkeypatch, tmp_path):
    trained = []

    def copy(arm, base, problems, folder, config, *, format, **_):
        trained.append(format.name)
        return Path(shutil.copytree(base, folder))

    monkeypatch.setitem(RECIPES, "sft", Recipe(copy, slim=True))
    asked = {"arms": ["base", "cot_sft"], "measures": ["access"], "format": "boxed"}
    run = run_plan(tiny(**asked), tmp_path / "run", progress=False)
    assert trained == ["boxed"]
    for cell in run.path.glob("cells/*"):
        model = RunFolder.open(cell).manifest["models"]["model"]
        assert format_of(model["format"]) == FORMATS["boxed"]
    with pytest.raises(RunError, match="format"):
        run_plan(tiny(**{**asked, "format": "tags"}), tmp_path / "run", progress=False)


def test_what_a_picture_costs_holds_in_training_and_in_measuring(monkeypatch, tmp_path):
    trained, said = [], []

    def copy(arm, base, problems, folder, config, **_):
        trained.append(config.limits)
        return Path(shutil.copytree(base, folder))

    monkeypatch.setitem(RECIPES, "sft", Recipe(copy, slim=True))
    small = {"arms": ["base", "cot_sft"], "measures": ["access"], "max_pixels": 4096}
    run = run_plan(tiny(**small), tmp_path / "run", progress=False)
    assert trained == [{"max_pixels": 4096, "max_patches": None}]
    for cell in run.path.glob("cells/*"):
        model = RunFolder.open(cell).manifest["models"]["model"]
        assert model["limits"] == {"max_pixels": 4096}
    with pytest.raises(RunError, match=r"max_pixels is 4096, now it is None"):
        run_plan(tiny(**{**small, "max_pixels": None}), tmp_path / "run", progress=False)
    assert "max_pixels 4096" in str(tiny(**small))
    with pytest.raises(TrainingError, match="max_pixels"):
        tiny(finetune={"max_pixels": 4096})
    # A plan that measures in full says first what its pictures cost.
    from attcot_lab.run import _say_cost

    whole = tiny(**small)
    _say_cost(whole, whole.models, said.append)
    assert said == [f"{shipped(TESTBED_MODEL).name}, arrows: Image tokens per picture: 16."]


def test_an_error_in_one_cell_is_told_and_the_others_are_kept(
    copied, monkeypatch, tmp_path, capsys
):
    good = RECIPES["sft"]

    def fail_once(arm, *given, **options):
        if arm.name == "fragile":
            raise TrainingError("The loss is nan at step 3.")
        return good.train(arm, *given, **options)

    monkeypatch.setitem(RECIPES, "sft", Recipe(fail_once))
    (tmp_path / "fragile.yaml").write_text("title: x\nabout: Fails.\nmode: direct\n")
    config = tiny(arms=[str(tmp_path / "fragile.yaml"), "direct_sft"])
    with pytest.raises(RunError, match=r"1 of 2 cells failed.*fragile-1, with: The loss is nan"):
        run_plan(config, tmp_path / "run", progress=False)
    assert "fragile-1 failed" in capsys.readouterr().err
    run = RunFolder.open(tmp_path / "run")
    assert set(run.read_table("values")["arm"]) == {"direct_sft"}
    assert "Traceback" in next((run.path / "errors").iterdir()).read_text()
    monkeypatch.setitem(RECIPES, "sft", good)
    run_plan(config, run.path, progress=False)
    assert set(run.read_table("values")["arm"]) == {"fragile", "direct_sft"}
    assert list((run.path / "errors").iterdir()) == []


def test_what_a_training_tells_stands_beside_what_its_model_does(copied, monkeypatch, tmp_path):
    asked = []

    def tell(arm, base, problems, folder):
        asked.append((arm.name, Path(base), folder.exists(), len(problems)))
        ids = [problem.id for problem in problems]
        return pd.DataFrame({"item": ids, "metric": "unsolved", "value": 1.0})

    monkeypatch.setitem(RECIPES, "sft", replace(RECIPES["sft"], values=tell))
    run = run_plan(tiny(arms=["base", "direct_sft"]), tmp_path / "run", progress=False)
    assert asked == [("direct_sft", shipped(TESTBED_MODEL), True, 4)]
    values = run.read_table("values")
    unsolved = values[values["metric"] == "unsolved"]
    assert (unsolved["arm"] == "direct_sft").all() and len(unsolved) == 4
    assert unsolved["item"].str.startswith("arrows-train-1-").all()
    assert tuple(values.columns) == COLUMNS and not values["model"].isna().any()


def test_the_command_gathers_and_says_where(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder)
    (folder / "tables" / "values.parquet").unlink()
    assert main(["grid", "small", "--out", str(folder), "--gather"]) == 0
    assert str(folder / "tables" / "values.parquet") in capsys.readouterr().out
    assert RunFolder(folder).read_table("values").equals(finished.read_table("values"))
    assert main(["grid", "small", "--out", str(tmp_path), "--gather"]) == 1
    with pytest.raises(RunError, match="neither a checkpoint folder nor a testbed model"):
        run_plan(plan_of({**NAMES, "models": ["nobody"]}), tmp_path / "x", progress=False)
