"""Arms: what the shipped files say, what is refused, and what a recipe gets to train on."""

from dataclasses import asdict

import pytest

from attcot_analysis.errors import TrainingError
from attcot_analysis.problems import FORMATS
from attcot_analysis.problems.problem import replaced
from attcot_analysis.train import AttCoTConfig, FinetuneConfig, checkpoints
from attcot_lab.arms import (
    RECIPES,
    Recipe,
    arm_names,
    arm_of,
    random_layers,
    read_arm,
    train_arm,
)

SHIPPED = {
    "base",
    "direct_sft",
    "cot_sft",
    "att_cot",
    "att_cot_vis",
    "att_cot_commit",
    "att_cot_paper",
    "avar",
    "random_layers",
    "shuffled_images",
}
TEXTS = {"title": "An arm", "about": "Trained somehow."}
TERMS = {"lambda_vis": 0.1, "lambda_commit": 1.0}


@pytest.fixture
def trained(monkeypatch):
    """What a recipe that only looks was called with."""
    calls = []

    def look(arm, base, problems, folder, config, **options):
        calls.append((arm, base, problems, folder, config, options))
        return folder

    monkeypatch.setitem(RECIPES, "sft", Recipe(look, options=("depth",)))
    return calls


def test_the_shipped_arms_are_what_they_are_called():
    arms = {name: read_arm(name) for name in arm_names()}
    assert set(arms) >= SHIPPED
    assert not arms["base"].trained and arms["direct_sft"].mode == "direct"
    assert not arms["cot_sft"].attcot.active
    assert arms["att_cot"].attcot == AttCoTConfig(lambda_vis=0.1, lambda_commit=1.0)
    assert arms["att_cot_paper"].attcot == AttCoTConfig.reconstruction()
    vis, commit = arms["att_cot_vis"].attcot, arms["att_cot_commit"].attcot
    assert {**asdict(vis), "lambda_commit": 1.0} == asdict(arms["att_cot"].attcot)
    assert {**asdict(commit), "lambda_vis": 0.1} == asdict(arms["att_cot"].attcot)
    assert arms["avar"].attcot.vis_rows == "question" and arms["avar"].attcot.lambda_commit == 0
    for name in ("random_layers", "shuffled_images"):
        assert arms[name].attcot == arms["att_cot"].attcot


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "has no about and no title"),
        ({**TEXTS, "recipes": "sft"}, "has no field recipes"),
        ({**TEXTS, "recipe": "rl"}, "recipe is 'rl'; choose one of .*sft"),
        ({**TEXTS, "images": "none"}, "images is 'none'"),
        ({**TEXTS, "attcot": {"lambda": 1}}, "attcot has no field lambda"),
        ({**TEXTS, "attcot": {"lambda_vis": -1}}, "a weight is a number from 0 on"),
        ({**TEXTS, "attcot": {"lambda_vis": "much"}}, "lambda_vis is 'much'; give a number"),
        ({**TEXTS, "attcot": [1]}, "give names with values"),
        ({**TEXTS, "mode": "direct", "attcot": TERMS}, "has none of"),
        ({**TEXTS, "layers": "random"}, "whose weight is 0"),
        ({**TEXTS, "recipe": "none", "images": "shuffled"}, "is not trained"),
        ({**TEXTS, "boxes": "shuffled"}, "which its objective does not read"),
        ({**TEXTS, "options": {"depth": 3}}, "has no option depth"),
        ({**TEXTS, "about": " "}, "about is empty"),
    ],
)
def test_what_does_not_hold_together_is_refused(settings, sentence):
    with pytest.raises(TrainingError, match=sentence):
        arm_of("new", settings)


def test_an_arm_is_read_from_any_file_and_lists_become_tuples(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: Mine\nabout: Two heads.\nattcot: {lambda_vis: 0.2, vis_heads: [[0, 1], [2, 3]]}\n"
    )
    arm = read_arm(file)
    assert arm.name == "mine" and arm.attcot.vis_heads == ((0, 1), (2, 3))
    file.write_text("title: [")
    with pytest.raises(TrainingError, match="is not YAML"):
        read_arm(file)
    with pytest.raises(TrainingError, match="cannot be read"):
        read_arm(tmp_path / "missing.yaml")
    with pytest.raises(TrainingError, match="There is no arm nonsense; choose one of att_cot"):
        read_arm("nonsense")


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4, 6, 12])
def test_random_layers_are_as_many_and_others_where_there_are_others(n_layers):
    objective = AttCoTConfig(lambda_vis=0.1)
    own = set(objective.layers(n_layers))
    drawn = [random_layers(objective, n_layers, seed=seed) for seed in range(20)]
    for layers in drawn:
        assert len(set(layers)) == len(layers) == len(own)
        assert set(layers) <= set(range(n_layers)) and list(layers) == sorted(layers)
        assert len(set(layers) & own) == max(0, 2 * len(own) - n_layers)
    if n_layers > 2 * len(own):
        assert len(set(drawn)) > 1
    assert drawn[3] == random_layers(objective, n_layers, seed=3)


def test_a_recipe_gets_the_arms_mode_objective_and_options(trained, training_problems, tmp_path):
    arm = arm_of("new", {**TEXTS, "options": {"depth": 3}, "attcot": TERMS})
    config = FinetuneConfig(steps=7, seed=5)
    assert train_arm(arm, "base", training_problems, tmp_path / "a", config) == tmp_path / "a"
    (_, base, problems, _, used, options) = trained[0]
    assert base == "base" and problems == training_problems
    assert (used.steps, used.seed, used.mode) == (7, 5, "cot")
    assert used.attcot == AttCoTConfig(**TERMS) and options["save_every"] is None
    train_arm(read_arm("direct_sft"), "base", training_problems, tmp_path / "b", config)
    assert trained[1][4].mode == "direct"
    with pytest.raises(TrainingError, match="is not trained"):
        train_arm(read_arm("base"), "base", training_problems, tmp_path / "c", config)


def test_shuffled_pictures_are_those_of_other_problems(trained, training_problems, tmp_path):
    train_arm(read_arm("shuffled_images"), "base", training_problems, tmp_path, FinetuneConfig())
    shown = trained[0][2]
    pictures = [problem.image for problem in training_problems]
    for at, (before, after) in enumerate(zip(training_problems, shown, strict=True)):
        assert after.steps == before.steps and after.answer == before.answer
        assert after.image is not pictures[at] and any(after.image is one for one in pictures)


def test_counterfactual_pictures_are_each_problems_own_with_what_is_right_there(
    trained, training_problems, tmp_path
):
    some = training_problems[:3]
    train_arm(read_arm("counterfactual"), "base", some, tmp_path, FinetuneConfig())
    shown = trained[0][2]
    assert len({problem.id for problem in shown}) == len(shown) == 9
    for before, own, twin, control in zip(some, shown[::3], shown[1::3], shown[2::3], strict=True):
        assert own is before and twin.question == control.question == before.question
        assert twin.answer == before.twin.answer != before.answer == control.answer
        for after, edit in ((twin, before.twin), (control, before.control)):
            assert after.image.tobytes() == edit.image.tobytes() != before.image.tobytes()
            assert after.steps == edit.steps and after.twin is after.control is None
    bare = [replaced(some[0], control=None)]
    with pytest.raises(TrainingError, match=f"{some[0].id} has no twin and control edit"):
        train_arm(read_arm("counterfactual"), "base", bare, tmp_path, FinetuneConfig())


def test_shuffled_boxes_are_those_of_problems_with_as_many_steps(
    trained, training_problems, tmp_path
):
    train_arm(read_arm("other_boxes"), "base", training_problems, tmp_path, FinetuneConfig())
    for before, after in zip(training_problems, trained[0][2], strict=True):
        assert after.image is before.image and after.answer == before.answer
        assert [step.text for step in after.steps] == [step.text for step in before.steps]
    given = [[step.boxes for step in after.steps] for after in trained[0][2]]
    own = [[step.boxes for step in before.steps] for before in training_problems]
    assert sorted(given) == sorted(own) and given != own
    with pytest.raises(TrainingError, match="the only problem with"):
        train_arm(
            read_arm("other_boxes"), "base", training_problems[:1], tmp_path, FinetuneConfig()
        )


def test_random_layers_reach_the_objective_of_this_model(
    trained, random_checkpoint, training_problems, tmp_path
):
    arm = read_arm("random_layers")
    config = FinetuneConfig(seed=4)
    train_arm(arm, random_checkpoint, training_problems, tmp_path, config)
    (layer,) = trained[0][4].attcot.vis_layers
    assert layer in {0, 2} and layer == random_layers(arm.attcot, 3, seed=4)[0]


def test_a_format_reaches_the_model_that_is_trained(training_problems, tmp_path, monkeypatch):
    seen = {}

    def stop(base, **options):
        seen.update(options)
        raise TrainingError("stopped")

    monkeypatch.setattr(checkpoints, "load_mllm", stop)
    run = ("base", training_problems, tmp_path / "new", FinetuneConfig(steps=1))
    with pytest.raises(TrainingError, match="stopped"):
        train_arm(read_arm("cot_sft"), *run, format=FORMATS["prose"])
    assert seen["format"] == FORMATS["prose"]
    with pytest.raises(TrainingError, match="recipe sayo trains in tags only"):
        train_arm(read_arm("sayo"), *run, format=FORMATS["prose"])
