"""Plans: what is combined with what, what a file may leave out, and what is refused."""

import itertools

import pytest

from attcot_analysis.cli import main
from attcot_analysis.errors import TrainingError
from attcot_analysis.presets import presets
from attcot_lab.arms import arm_names
from attcot_lab.plan import Cell, find_folder, plan_of, read_plan

NAMES = {
    "about": "A test.",
    "models": ["one-small", "some/where/two-large"],
    "problems": {"arrows": {"noise": 240.0}, "charts": None},
    "arms": ["base", "cot_sft"],
    "seeds": [0, 1],
}


FOLDERS = {
    "about": "A try.",
    "models": ["a/b"],
    "problems": {"photos": {"test": "test", "train": "train"}},
    "arms": ["base", "cot_sft", "att_cot"],
    "measure": {},
    "out": "runs/x",
}


def test_cells_are_all_combinations_once_with_seeds_outermost():
    cells = plan_of(NAMES).cells()
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
        {"models": ["one-small"], "problems": ["charts"], "arms": ["att_cot", "cot_sft"]},
        {"models": ["three-tiny"], "arms": ["base"], "seeds": [7]},
    ]
    cells = plan_of({**NAMES, "blocks": blocks}).cells()
    assert len(set(cells)) == len(cells)
    assert {cell for cell in cells if cell.arm == "att_cot"} == {
        Cell("one-small", "charts", "att_cot", seed) for seed in (0, 1)
    }
    assert sum(cell.arm == "cot_sft" for cell in cells) == 8
    assert {cell for cell in cells if cell.arm == "base"} == {
        Cell("three-tiny", kind, "base", 0) for kind in ("arrows", "charts")
    }


def test_a_kind_may_have_its_own_training():
    sets = {"arrows": {"noise": 100.0, "train_items": 5, "finetune": {"steps": 7}}, "charts": {}}
    grid = plan_of(
        {**NAMES, "problems": sets, "train_prior": 1.0, "finetune": {"steps": 3, "batch_size": 2}}
    )
    arrows, charts = grid.problems["arrows"], grid.problems["charts"]
    assert (arrows.finetune.steps, arrows.finetune.batch_size) == (7, 2)
    assert (charts.finetune.steps, len(charts.training_problems(0))) == (3, 384)
    training, test = arrows.training_problems(4), arrows.test_problems(30, 0)
    assert len(training) == 5 and all(p.answer == p.habitual for p in training)
    assert not all(p.answer == p.habitual for p in test)
    assert arrows.training(4).seed == 4


def test_the_shipped_grids_can_be_read():
    for name in ("small", "claims"):
        grid = read_plan(name)
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
    grid, claims = read_plan("siblings"), read_plan("claims")
    assert set(grid.arms) == {"base", "cot_sft", "att_cot", "att_cot_sayo"} | {
        name for name in arm_names() if name.startswith(("sayo", "vista"))
    }
    for name in ("problems", "models", "items", "test_seed", "batch_size", "max_new_tokens"):
        assert getattr(grid, name) == getattr(claims, name), name
    assert len(grid.cells()) == 6 * 3 * (1 + 2 * (len(grid.arms) - 1))
    for seed in (0, 1):
        shared = {cell for cell in grid.cells() if cell.arm in ("base", "cot_sft", "att_cot")}
        assert {cell for cell in shared if cell.seed == seed} <= set(claims.cells())


def test_commitment_is_confirmed_on_problems_and_seeds_that_the_claims_have_not():
    grid, claims = read_plan("commitment"), read_plan("claims")
    for name in ("problems", "models", "batch_size", "max_new_tokens"):
        assert getattr(grid, name) == getattr(claims, name), name
    trained = [cell for cell in grid.cells() if grid.arms[cell.arm].trained]
    assert len(trained) == 6 * 3 * 2 * 8
    assert not {cell.seed for cell in trained} & {cell.seed for cell in claims.cells()}
    for kind in grid.problems.values():
        own, others = (
            {problem.image.tobytes() for problem in kind.test_problems(8, config.test_seed)}
            for config in (grid, claims)
        )
        assert not own & others


def test_the_test_problems_may_have_a_prior_of_their_own():
    sets = {"arrows": {}, "charts": {"test_prior": 0.0}}
    grid = plan_of({**NAMES, "problems": sets, "test_prior": 1.0})
    arrows, charts = (grid.problems[kind].test_problems(30, 0) for kind in ("arrows", "charts"))
    assert all(problem.answer == problem.habitual for problem in arrows)
    assert not any(problem.answer == problem.habitual for problem in charts)


def test_early_decisions_are_looked_for_where_the_habit_holds_as_in_training():
    grid, claims = read_plan("in_distribution"), read_plan("claims")
    known = {cell.seed for name in ("claims", "commitment") for cell in read_plan(name).cells()}
    trained = [cell for cell in grid.cells() if grid.arms[cell.arm].trained]
    assert len(trained) == 6 * 3 * 2 * 4 and not known & {cell.seed for cell in trained}
    for name, kind in grid.problems.items():
        assert kind.test_prior == kind.train_prior
        assert kind.model_copy(update={"test_prior": None}) == claims.problems[name]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"problems": ["arrows"]}, "problems is .*; give names with values"),
        ({"problems": {"arrows": {"hops": 99}}}, "99 hops do not fit"),
        ({"problems": {"arrows": {"prior": 0.5}}}, "set train_prior and test_prior"),
        ({"test_prior": 95}, "Prior is 95.0; it is a share"),
        ({"arms": "base"}, "arms is 'base'; give a list"),
        ({"arms": ["nonsense"]}, "There is no arm nonsense"),
        ({"seeds": ["0"]}, "seeds.0 is '0'; give a whole number"),
        ({"seeds": [], "arms": ["cot_sft"]}, "has no cell"),
        ({"items": 0}, "give a number above 0"),
        ({"itmes": 3}, "has no field itmes"),
        ({"measures": "access"}, "measures is 'access'; give a list"),
        ({"measures": ["acess"]}, "'acess'; choose one of direct, text_only"),
        ({"finetune": {"step": 3}}, "finetune has no field step"),
        ({"finetune": {"seed": 3}}, "finetune has no field seed"),
        ({"blocks": [{"kind": ["arrows"]}]}, "blocks.0 has no field kind"),
        ({"blocks": [{"problems": ["dots"]}]}, "which problems lacks"),
        ({"models": ["a/x-small", "b/x-small"]}, "the same name; rename one"),
        ({"arms": ["base", "BESIDE/base.yaml"]}, "base.yaml and base have the same name"),
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
        plan_of({**NAMES, **changes})


def test_a_grid_that_is_not_there_is_named(tmp_path):
    known = (
        "claims, commitment, demo, in_distribution, reproduce, siblings, small, testbed_a, "
        "testbed_b, testbed_b_arms, testbed_b_classes, testbed_b_counterfactual, "
        "testbed_b_kinds, testbed_b_prior60, testbed_b_prior95, validity"
    )
    with pytest.raises(TrainingError, match=f"choose one of {known}"):
        read_plan("nonsense")
    with pytest.raises(TrainingError, match=r"nonsense\.yaml cannot be read"):
        read_plan(tmp_path / "nonsense.yaml")
    with pytest.raises(TrainingError, match="has no problems; write it"):
        plan_of({"about": "Nothing."})


# --- plans that measure in full -------------------------------------------------------------------


def test_a_preset_fills_what_the_file_leaves_open():
    preset = presets()["internvl3-2b"]
    plain = plan_of({**FOLDERS, "models": ["internvl3-2b"]})
    assert plain.models == {"internvl3-2b": preset.hub}
    assert (plain.dtype, plain.n_layers) == (preset.dtype, preset.n_layers)
    assert plain.measure.options() == {"layers": list(preset.layers)}
    assert plain.batch_size == preset.batch_size
    own = {"measure": {"layers": "all"}, "items": 9, "dtype": "float32"}
    mine = plan_of({**FOLDERS, "models": ["internvl3-2b"], **own})
    assert mine.measure.options() == {} and (mine.batch_size, mine.items) == (preset.batch_size, 9)
    assert mine.dtype == "float32" and plan_of(FOLDERS).n_layers is None


def test_the_demo_is_read_and_described(capsys, tmp_path):
    assert main(["run", "demo", "--dry", "--out", str(tmp_path / "x")]) == 0
    told = capsys.readouterr().out
    assert "cot_sft, att_cot; seeds 0; 40 steps each" in told and str(tmp_path / "x") in told
    assert not (tmp_path / "x").exists()
    plan = read_plan("demo")
    assert plan.problems["arrows"].finetune.steps == 40 and plan.arms["att_cot"].attcot.active


def test_measuring_in_full_checks_compares_and_keeps_unless_the_file_says_otherwise():
    full = plan_of(FOLDERS)
    assert (full.check, full.pages, full.keep_models) == (True, "pairs", True)
    less = plan_of({**FOLDERS, "check": False, "pages": "none", "keep_models": False})
    assert (less.check, less.pages, less.keep_models) == (False, "none", False)
    drawn = plan_of({**FOLDERS, "measure": {"sampling": "recommended", "samples": 2}})
    assert drawn.measure.options() == {"sampling": "recommended", "samples": 2}
    values = plan_of(NAMES)
    assert (values.check, values.pages, values.keep_models) == (False, "none", False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"about": ""}, "about is empty"),
        ({"model": "x"}, "no field model;"),
        ({"check": "no"}, "check is 'no'; give true or false"),
        ({"items": 0}, "items is 0"),
        ({"measure": {"layers": 3}}, "layers is 3; give a list"),
        ({"measure": {"extras": ["lense"]}}, "'lense'; choose one of answer_access"),
        ({"measure": {"sampling": "best"}}, "sampling is 'best'"),
        ({"max_pixels": 0}, "max_pixels is 0; give a number above 0"),
        ({"format": "rhymes"}, "There is no format 'rhymes'; choose from tags"),
        ({"finetune": {"max_pixels": 9}}, "no field max_pixels"),
        ({"measure": [1]}, "give names with values"),
        ({"problems": {"photos": {"test": "t"}}}, "names no folder of training problems"),
        ({"arms": None}, "arms is None"),
        ({"arms": ["nobody"]}, "There is no arm nobody"),
        ({"seeds": ["a"]}, "whole number"),
        ({"finetune": {"seed": 3}}, "no field seed"),
        ({"finetune": {"steps": "many"}}, "steps is 'many'; give a whole number"),
        ({"finetune": {"lora": True}}, "lora is True; give another value"),
        ({"measure": None, "pages": "pairs"}, "need all tables"),
        ({"pages": "study", "arms": ["base"]}, "a report over base, cot_sft and other arms"),
    ],
)
def test_a_full_plan_that_does_not_hold_together_is_refused(change, sentence):
    with pytest.raises(TrainingError, match=f"^mine.yaml.*{sentence}|{sentence}"):
        plan_of({**FOLDERS, **change}, where="mine.yaml")


def test_a_folder_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder("~/problems") == tmp_path / "problems"
