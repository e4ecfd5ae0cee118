"""Grids: what is combined, what a cell holds, and that nothing is lost."""

import itertools
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
from attcot_analysis.models import PromptMemory, load_mllm, remembering
from attcot_analysis.runs.headline import MEASURES, headline_values
from attcot_analysis.runs.measure import measure_all, suite_values
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.shipped import TESTBED_MODEL, shipped
from attcot_lab.arms import RECIPES, Recipe, arm_names, arm_of
from attcot_lab.grid import COLUMNS, grid_values, read_grid, run_grid
from attcot_lab.grid_config import Cell, GridConfig, grid_of
from attcot_lab.testbed.kinds import generate_problems

NAMES = {
    "about": "A test.",
    "models": ["one-small", "some/where/two-large"],
    "kinds": {"arrows": {"noise": 240.0}, "charts": None},
    "arms": ["base", "cot_sft"],
    "seeds": [0, 1],
}


def tiny(**changes) -> GridConfig:
    settings = {
        "about": "A test.",
        "models": [str(shipped(TESTBED_MODEL))],
        "kinds": {"arrows": {"noise": 240.0, "hops": 1}},
        "arms": ["base", "att_cot"],
        "seeds": [1],
        "items": 3,
        "max_new_tokens": 32,
        "train_items": 4,
        "save_every": 10,
        "finetune": {"steps": 10, "batch_size": 2},
    }
    return grid_of({**settings, **changes})


@pytest.fixture
def copied(monkeypatch):
    """Training that takes no time: the base itself."""

    def copy(arm, base, problems, folder, config, **_):
        return Path(shutil.copytree(base, folder))

    monkeypatch.setitem(RECIPES, "sft", Recipe(copy))


@pytest.fixture(scope="module")
def finished(one_thread, tmp_path_factory) -> RunFolder:
    return run_grid(tmp_path_factory.mktemp("grid") / "run", tiny(), progress=False)


# --- what a grid is made of ---------------------------------------------------------------------


def test_cells_are_all_combinations_once_with_seeds_outermost():
    cells = grid_of(NAMES).cells()
    spelt = []
    for seed, model, kind, arm in itertools.product(
        (0, 1), ("one-small", "two-large"), ("arrows", "charts"), ("base", "cot_sft")
    ):
        if arm != "base" or seed == 0:
            spelt.append(Cell(model, kind, arm, seed))
    assert cells == spelt


def test_blocks_take_from_the_grid_what_they_leave_out_and_share_cells():
    blocks = [
        {"arms": ["cot_sft"]},
        {"models": ["one-small"], "kinds": ["charts"], "arms": ["att_cot", "cot_sft"]},
        {"models": ["three-tiny"], "arms": ["base"], "seeds": [7]},
    ]
    cells = grid_of({**NAMES, "blocks": blocks}).cells()
    assert len(set(cells)) == len(cells)
    assert {cell for cell in cells if cell.arm == "att_cot"} == {
        Cell("one-small", "charts", "att_cot", seed) for seed in (0, 1)
    }
    assert sum(cell.arm == "cot_sft" for cell in cells) == 8
    assert {cell for cell in cells if cell.arm == "base"} == {
        Cell("three-tiny", kind, "base", 0) for kind in ("arrows", "charts")
    }


def test_a_kind_may_have_its_own_training():
    kinds = {"arrows": {"noise": 100.0, "train_items": 5, "finetune": {"steps": 7}}, "charts": {}}
    grid = grid_of(
        {**NAMES, "kinds": kinds, "train_prior": 1.0, "finetune": {"steps": 3, "batch_size": 2}}
    )
    arrows, charts = grid.kinds["arrows"], grid.kinds["charts"]
    assert (arrows.finetune.steps, arrows.finetune.batch_size) == (7, 2)
    assert (charts.finetune.steps, charts.train_items) == (3, 384)
    training, test = arrows.training_problems(4), arrows.test_problems(30, 0)
    assert len(training) == 5 and all(p.answer == p.habitual for p in training)
    assert not all(p.answer == p.habitual for p in test)
    assert arrows.training(4).seed == 4


def test_the_shipped_grids_can_be_read():
    for name in ("small", "claims"):
        grid = read_grid(name)
        assert {"base", "direct_sft", "cot_sft", "att_cot"} <= set(grid.arms)
    cells = grid.cells()
    models, kinds = {cell.model for cell in cells}, {cell.kind for cell in cells}
    assert len(models) == 6 and len(kinds) == 3
    for model, kind in itertools.product(models, kinds):
        here = [cell for cell in cells if (cell.model, cell.kind) == (model, kind)]
        assert sum(cell.arm == "att_cot" for cell in here) >= 3
    asked = set(grid.arms) - {"base", "direct_sft", "cot_sft", "att_cot"}
    assert asked >= {"att_cot_paper", "avar", "random_layers", "shuffled_images"}


def test_the_siblings_are_compared_on_the_grid_of_the_claims():
    grid, claims = read_grid("siblings"), read_grid("claims")
    assert set(grid.arms) == {"base", "cot_sft", "att_cot", "att_cot_sayo"} | {
        name for name in arm_names() if name.startswith(("sayo", "vista"))
    }
    for name in ("kinds", "models", "items", "test_seed", "batch_size", "max_new_tokens"):
        assert getattr(grid, name) == getattr(claims, name), name
    assert len(grid.cells()) == 6 * 3 * (1 + 2 * (len(grid.arms) - 1))
    for seed in (0, 1):
        shared = {cell for cell in grid.cells() if cell.arm in ("base", "cot_sft", "att_cot")}
        assert {cell for cell in shared if cell.seed == seed} <= set(claims.cells())


def test_commitment_is_confirmed_on_problems_and_seeds_that_the_claims_have_not():
    grid, claims = read_grid("commitment"), read_grid("claims")
    for name in ("kinds", "models", "batch_size", "max_new_tokens"):
        assert getattr(grid, name) == getattr(claims, name), name
    trained = [cell for cell in grid.cells() if grid.arms[cell.arm].trained]
    assert len(trained) == 6 * 3 * 2 * 8
    assert not {cell.seed for cell in trained} & {cell.seed for cell in claims.cells()}
    for kind in grid.kinds.values():
        own, others = (
            {problem.image.tobytes() for problem in kind.test_problems(8, config.test_seed)}
            for config in (grid, claims)
        )
        assert not own & others


def test_the_test_problems_may_have_a_prior_of_their_own():
    kinds = {"arrows": {}, "charts": {"test_prior": 0.0}}
    grid = grid_of({**NAMES, "kinds": kinds, "test_prior": 1.0})
    arrows, charts = (grid.kinds[kind].test_problems(30, 0) for kind in ("arrows", "charts"))
    assert all(problem.answer == problem.habitual for problem in arrows)
    assert not any(problem.answer == problem.habitual for problem in charts)


def test_early_decisions_are_looked_for_where_the_habit_holds_as_in_training():
    grid, claims = read_grid("in_distribution"), read_grid("claims")
    known = {cell.seed for name in ("claims", "commitment") for cell in read_grid(name).cells()}
    trained = [cell for cell in grid.cells() if grid.arms[cell.arm].trained]
    assert len(trained) == 6 * 3 * 2 * 4 and not known & {cell.seed for cell in trained}
    for name, kind in grid.kinds.items():
        assert kind.test_prior == kind.train_prior
        assert replace(kind, test_prior=None) == claims.kinds[name]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kinds": ["arrows"]}, "give every kind with its knobs"),
        ({"kinds": {"arrows": {"hops": 99}}}, "99 hops do not fit"),
        ({"kinds": {"arrows": {"prior": 0.5}}}, "set train_prior and test_prior"),
        ({"test_prior": 95}, "Prior is 95; it is a share"),
        ({"arms": "base"}, "give a list"),
        ({"arms": ["nonsense"]}, "There is no arm nonsense"),
        ({"seeds": ["0"]}, "give a list"),
        ({"seeds": [], "arms": ["cot_sft"]}, "has no cell"),
        ({"items": 0}, "give a number above 0"),
        ({"itmes": 3}, "has no field itmes"),
        ({"measures": "access"}, "measures is 'access'; give a list"),
        ({"measures": ["acess"]}, "no measure 'acess'; choose from direct, text_only"),
        ({"finetune": {"step": 3}}, "finetune has no field step"),
        ({"finetune": {"seed": 3}}, "finetune has no field seed"),
        ({"blocks": [{"kind": ["arrows"]}]}, "a block has no field kind"),
        ({"blocks": [{"kinds": ["dots"]}]}, "which kinds lacks"),
        ({"models": ["a/x-small", "b/x-small"]}, "same folder name"),
        ({"arms": ["base", "BESIDE/base.yaml"]}, "two files are called base"),
    ],
)
def test_what_does_not_hold_together_is_refused(changes, sentence, tmp_path):
    (tmp_path / "base.yaml").write_text("title: x\nabout: y\nrecipe: none\n")
    if isinstance(changes.get("arms"), list):  # A path that is known only here.
        changes = {
            **changes,
            "arms": [arm.replace("BESIDE", str(tmp_path)) for arm in changes["arms"]],
        }
    with pytest.raises(ValueError, match=sentence):
        grid_of({**NAMES, **changes})


def test_a_grid_that_is_not_there_is_named(tmp_path):
    known = "claims, commitment, in_distribution, siblings, small"
    with pytest.raises(TrainingError, match=f"choose one of {known}"):
        read_grid("nonsense")
    with pytest.raises(TrainingError, match=r"nonsense\.yaml cannot be read"):
        read_grid(tmp_path / "nonsense.yaml")
    with pytest.raises(TrainingError, match="says nothing about kinds, models"):
        grid_of({"about": "Nothing."})


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
    problems = config.kinds["arrows"].test_problems(config.items, config.test_seed)
    mllm = load_mllm(shipped(TESTBED_MODEL), dtype=torch.float32)
    length = {"batch_size": config.batch_size, "max_new_tokens": config.max_new_tokens}
    tables = measure_all(mllm, problems, **length)
    expected = suite_values(tables, problems, model="base", seed=0)
    values = finished.read_table("values")
    more = ("chance", "focus", "unfocused_first_step", "refocused")
    found = values[(values["arm"] == "base") & ~values["metric"].isin(more)]
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
    with remembering(PromptMemory()):
        calls.clear()
        pd.testing.assert_frame_equal(headline_values(counting, problems, **length), plain)
        # CoT, direct, text only, twin, control and a blank picture, once each.
        assert len(calls) == 2 * 6 < often
        calls.clear()
        other = [replace(problem, image=problem.twin.image) for problem in problems]
        assert not headline_values(counting, other, mode="direct").equals(plain)
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
    for measure in MEASURES:
        few = headline_values(mllm, problems, measures=[measure], max_new_tokens=32)
        of_every = every[every["metric"].isin(few["metric"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(few, of_every)
        found |= set(few["metric"])
    assert found == set(every["metric"])
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
    run_grid(folder, tiny(), progress=False)


def test_a_killed_grid_goes_on_and_ends_with_the_same_table(finished, tmp_path):
    folder = tmp_path / "run"
    child = Child(partial(grid_killed_at, killed_at="training_log.json"), folder)
    assert child.wait() == -signal.SIGKILL, child.error
    run = RunFolder.open(folder)
    (base,) = run.tables
    before = (folder / "tables" / f"{base}.parquet").stat().st_mtime_ns
    assert base.endswith("base-0") and len(grid_values(run)["arm"].unique()) == 1
    run_grid(folder, tiny(), progress=False)
    assert (folder / "tables" / f"{base}.parquet").stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(
        run.read_table("values"), finished.read_table("values"), check_exact=True
    )


def test_a_grid_may_grow_but_not_change(finished, copied, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder)
    kept = {path: path.stat().st_mtime_ns for path in (folder / "tables").glob("cell.*")}
    grown = tiny(arms=["att_cot", "direct_sft"])
    values = run_grid(folder, grown, progress=False).read_table("values")
    assert set(values["arm"]) == {"base", "att_cot", "direct_sft"}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert set(RunFolder.open(folder).read_json("grid")["arms"]) == set(values["arm"])
    with pytest.raises(RunError, match="begun with another kind arrows"):
        run_grid(folder, tiny(kinds={"arrows": {"noise": 0.0}}), progress=False)
    other = arm_of("att_cot", {"title": "x", "about": "y", "attcot": {"lambda_vis": 9}})
    with pytest.raises(RunError, match="begun with another arm att_cot"):
        run_grid(folder, replace(tiny(), arms={**tiny().arms, "att_cot": other}), progress=False)
    with pytest.raises(RunError, match=r"config\.items"):
        run_grid(folder, tiny(items=2), progress=False)
    with pytest.raises(RunError, match=r"config\.measures"):
        run_grid(folder, tiny(measures=["access"]), progress=False)


def test_a_setting_that_did_not_exist_yet_must_have_its_default(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished.path, folder)
    run = RunFolder.open(folder)
    noted = run.read_json("grid")
    arm = noted["arms"]["att_cot"]
    del arm["attcot"]["vis_form"], arm["about"], noted["kinds"]["arrows"]["finetune"]["warmup"]
    run.write_json("grid", noted, overwrite=True)
    run_grid(folder, tiny(), progress=False)
    assert run.read_json("grid") == finished.read_json("grid")
    del noted["arms"]["att_cot"]["attcot"]["lambda_vis"]
    run.write_json("grid", noted, overwrite=True)
    with pytest.raises(RunError, match="begun with another arm att_cot"):
        run_grid(folder, tiny(), progress=False)


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
        run_grid(tmp_path / "run", config, progress=False)
    assert "fragile-1 failed" in capsys.readouterr().err
    run = RunFolder.open(tmp_path / "run")
    assert set(run.read_table("values")["arm"]) == {"direct_sft"}
    assert "Traceback" in next((run.path / "errors").iterdir()).read_text()
    monkeypatch.setitem(RECIPES, "sft", good)
    run_grid(run.path, config, progress=False)
    assert set(run.read_table("values")["arm"]) == {"fragile", "direct_sft"}
    assert list((run.path / "errors").iterdir()) == []


def test_what_a_training_tells_stands_beside_what_its_model_does(copied, monkeypatch, tmp_path):
    asked = []

    def tell(arm, base, problems, folder):
        asked.append((arm.name, Path(base), folder.exists(), len(problems)))
        ids = [problem.id for problem in problems]
        return pd.DataFrame({"item": ids, "metric": "unsolved", "value": 1.0})

    monkeypatch.setitem(RECIPES, "sft", replace(RECIPES["sft"], values=tell))
    run = run_grid(tmp_path / "run", tiny(arms=["base", "direct_sft"]), progress=False)
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
        run_grid(tmp_path / "x", grid_of({**NAMES, "models": ["nobody"]}), progress=False)
