"""Registered studies: decided before they are run, read when they are done, never in between."""

import json
from pathlib import Path

import pandas as pd
import pytest

from attcot_analysis.errors import RunError, TrainingError
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.figures import figure_svg
from attcot_lab.figures import study_figure
from attcot_lab.plan import plan_of
from attcot_lab.registered import (
    Question,
    Study,
    Term,
    describe_study,
    read_study,
    registration_hash,
    study_claims,
    study_values,
    unread_arms,
)

DRAFT = {
    "about": "Three bases, one training each.",
    "models": ["qwen2_5_vl-b0", "qwen2_5_vl-b1", "qwen2_5_vl-b2"],
    "problems": {"relation": {"train_prior": None}},
    "blocks": [
        {"models": [f"qwen2_5_vl-b{at}"], "arms": ["base", "cot_sft", "att_cot"], "seeds": [at]}
        for at in range(3)
    ],
}
PLAN = plan_of(DRAFT)


def question(name, more, less=("base", "accuracy_cot"), bar=0.0):
    return Question(
        name=name,
        text=f"{name}.",
        more=Term(arm=more[0], metric=more[1]),
        less=None if less is None else Term(arm=less[0], metric=less[1]),
        bar=bar,
    )


STUDY = Study(
    about="Made up.",
    plan="testbed_b",
    primary=[
        question("better", ("att_cot", "accuracy_cot"), ("cot_sft", "accuracy_cot")),
        question("hurts", ("base", "accuracy_direct")),
        question("same", ("cot_sft", "accuracy_cot")),
    ],
    exploratory=[question("much", ("att_cot", "accuracy_cot"), None, bar=0.9)],
)
SHIPPED = (
    "testbed_b",
    "testbed_b_all",
    "testbed_b_arms",
    "testbed_b_prior95",
    "testbed_b_prior60",
    "testbed_b_counterfactual",
    "testbed_b_kinds",
)
RIGHT = {"base": 0.4, "cot_sft": 0.4, "att_cot": 0.6}


def write(folder, cells):
    """A run folder whose cells have values: every tenth item in turn is right or wrong."""
    RunFolder.create(folder, {"schema": 1})
    for cell in cells:
        rows = []
        for item in range(100):
            lucky = (item * 37 + 11 * int(cell.model[-1])) % 100 / 100
            rows.append((f"i{item}", "accuracy_cot", float(lucky < RIGHT[cell.arm])))
            rows.append((f"i{item}", "accuracy_direct", float(lucky < 0.8)))
        own = cell.folder(folder)
        own.mkdir(parents=True)
        run = RunFolder.create(own, {"schema": 1})
        run.write_table("values", pd.DataFrame(rows, columns=["item", "metric", "value"]))
        names = {"model": cell.model, "kind": cell.kind, "arm": cell.arm, "seed": cell.seed}
        (own / "cell.json").write_text(json.dumps({**names, "family": "q", "scale": "b"}))
    return RunFolder(folder)


def study_table(run, study, plan):
    return study_claims(study_values(run, study, plan), study)


def test_claims_are_tested_as_registered_and_the_rest_is_described(tmp_path):
    table = study_table(write(tmp_path / "run", PLAN.cells()), STUDY, PLAN).set_index("claim")
    assert list(table.index) == ["better", "hurts", "same", "much"]
    assert table["verdict"].to_dict() == {
        "better": "supported",
        "hurts": "supported",
        "same": "not shown",
        "much": "",
    }
    assert table.loc["better", "value"] == pytest.approx(0.2)
    assert table.loc["much", "value"] == pytest.approx(0.6)
    assert (table["n_models"] == 3).all()
    assert table.loc["better", "low_holm"] < table.loc["better", "low"]
    page = describe_study(table.reset_index())
    assert "not shown" in page and "exploratory" in page and page.count("\n") == 5
    svg = figure_svg(study_figure(table.reset_index()))
    assert "better. (supported)" in svg and "much. (exploratory)" in svg


def test_models_that_failed_a_gate_do_not_count(tmp_path):
    run = write(tmp_path / "run", PLAN.cells())
    few = STUDY.model_copy(update={"models": ["qwen2_5_vl-b0", "qwen2_5_vl-b2"]})
    table = study_table(run, few, PLAN)
    assert (table["n_models"] == 2).all()
    assert study_table(run, STUDY, PLAN)["n_models"].eq(3).all()


def test_a_difference_the_wrong_way_is_opposite(tmp_path):
    turned = STUDY.model_copy(
        update={
            "primary": [question("worse", ("cot_sft", "accuracy_cot"), ("att_cot", "accuracy_cot"))]
        }
    )
    table = study_table(write(tmp_path / "run", PLAN.cells()), turned, PLAN)
    assert table["verdict"][0] == "opposite"


def test_trainings_on_other_problems_are_compared_on_the_same_items(tmp_path):
    problems = {"plain": {"kind": "relation"}, "biased": {"kind": "relation", "train_prior": 0.95}}
    plan = plan_of({**DRAFT, "problems": problems})
    values = study_values(write(tmp_path / "run", plan.cells()), STUDY, plan)
    worse = values["kind"].eq("biased") & values["arm"].eq("att_cot")
    values.loc[worse & values["metric"].eq("accuracy_cot"), "value"] = 0.0

    def cost(arm, kinds=("plain", "biased")):
        sides = [Term(arm=arm, metric="accuracy_cot", kind=kind) for kind in kinds]
        return Question(name=arm, text=f"{arm}.", more=sides[0], less=sides[1])

    study = STUDY.model_copy(update={"primary": [cost("att_cot"), cost("cot_sft")]})
    table = study_claims(values, study).set_index("claim")
    assert table.loc["att_cot", "value"] == pytest.approx(0.6)
    assert table.loc["cot_sft", "value"] == 0
    assert (table["n_items"][:2] == 100).all()


def test_an_unfinished_study_is_not_read(tmp_path):
    run = write(tmp_path / "run", PLAN.cells()[:-1])
    with pytest.raises(RunError, match="1 of 9 cells still to run"):
        study_values(run, STUDY, PLAN)


def test_the_shipped_registrations_hold_together_and_a_hash_covers_what_decides(tmp_path):
    assert all(1 <= len(read_study(name).primary) <= 4 for name in SHIPPED)
    assert len({registration_hash(name) for name in SHIPPED}) == len(SHIPPED)
    changed = tmp_path / "changed.yaml"
    changed.write_text("about: x\nplan: testbed_b\nprimary: []\n")
    assert registration_hash(changed) != registration_hash("testbed_b")
    changed.write_text("about: x\nplan: testbed_b\nclaims: []\n")
    with pytest.raises(TrainingError, match="claims"):
        read_study(changed)


def test_arms_whose_answers_were_not_read_are_named(tmp_path):
    run = write(tmp_path / "run", PLAN.cells())
    assert unread_arms(study_values(run, STUDY, PLAN), STUDY) == ""
    cell = RunFolder(PLAN.cells()[0].folder(run.path))
    values = cell.read_table("values")
    mute = values[values["metric"] == "accuracy_cot"].assign(metric="unparsed_cot", value=1.0)
    cell.write_table("values", pd.concat([values, mute]), overwrite=True)
    assert PLAN.cells()[0].arm in unread_arms(study_values(run, STUDY, PLAN), STUDY)


def test_the_docs_name_the_hash_of_the_shipped_registration():
    page = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    assert all(registration_hash(name) in page for name in SHIPPED)
