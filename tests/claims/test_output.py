"""What is made of a claims table: files, page, figures, and the command that writes them."""

import importlib.util
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from claims_values import grid_values

from attcot_analysis.cli import main
from attcot_analysis.errors import RunError, ShowError
from attcot_analysis.measures.unread import unread_cells
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import CHANCE
from attcot_analysis.shipped import shipped
from attcot_analysis.show.figures import figure_svg
from attcot_analysis.show.style import format_interval, format_number
from attcot_lab.claims import CLAIMS, claims_table, headline
from attcot_lab.claims.claim import placebo
from attcot_lab.claims.figures import claim_forest, claims_overview, save_claim_figures
from attcot_lab.claims.page import claims_page, describe
from attcot_lab.claims.table import (
    VALUES_FILE,
    of_one_seed,
    placebo_table,
    read_claims,
    read_values,
    run_facts,
)

MEANS = {
    ("base", "accuracy_cot"): 0.8,
    ("base", "accuracy_direct"): 0.4,
    ("base", "p0_final"): 0.5,
    ("base", CHANCE): 0.25,
    ("cot_sft", "accuracy_cot"): 0.3,
    ("att_cot", "accuracy_cot"): 0.7,
    ("att_cot_vis", "accuracy_cot"): 0.3,
}
TESTED = {"cot_base", "early_p0_base", "sft_accuracy", "att_accuracy", "att_base_accuracy"} | {
    "vis_accuracy",
    "both_vis",
}


@pytest.fixture(scope="module")
def values() -> pd.DataFrame:
    return grid_values(MEANS, items=12, seeds=2, spread=0.1)


@pytest.fixture(scope="module")
def table(values) -> pd.DataFrame:
    return claims_table(values)


@pytest.fixture
def folder(values, tmp_path) -> Path:
    run = RunFolder.create(tmp_path / "grid", {"created": "2026-06-01", "config": {}})
    run.write_table("values", values)
    kind = {
        "knobs": {"noise": 9},
        "train_items": 7,
        "train_prior": 0.95,
        "finetune": {"steps": 3, "learning_rate": 0.001},
    }
    kinds = {"arrows": kind, "charts": {**kind, "test_prior": 0.9}}
    run.write_json("grid", {"kinds": kinds, "arms": {"base": {}, "cot_sft": {}}})
    return run.path


def test_only_what_was_measured_is_tested(table):
    assert set(table["claim"]) == TESTED


def test_the_page_has_every_number_with_its_n_and_every_claim(table):
    page = claims_page(table)
    for claim in CLAIMS:
        assert claim.title in page or f"{claim.paper}: {claim.topic}, " in page
    for row in headline(table).to_dict("records"):
        assert f"{row['effect']:+.3f}".replace("-", "\N{MINUS SIGN}") in page
    lines = [
        line for line in page.splitlines() if re.search(r"\| [+\N{MINUS SIGN}]0\.\d{3} ", line)
    ]
    assert len(lines) == len(TESTED)
    assert all(re.search(r"36 items × [12] seed", line) for line in lines)
    assert max(len(line) for line in page.split("## Claims:")[0].splitlines()) < 250
    assert "## What it does not say" in page and "nan" not in page.lower()


def test_negative_results_are_named_as_such(table):
    page = claims_page(table).split("## Negative results")[1].split("## How to read")[0]
    title = {claim.id: claim.title for claim in CLAIMS}
    assert f"**opposite**: {title['cot_base']}, +0.4" in page
    assert f"**opposite**: {title['sft_accuracy']}" in page
    assert title["att_accuracy"] not in page
    better = claims_table(
        grid_values({("base", "accuracy_cot"): 0.3, ("cot_sft", "accuracy_cot"): 0.8}, items=9)
    )
    assert "None: every claim" in claims_page(better)


def test_the_terminal_says_verdict_interval_n_and_cells(table):
    said = describe(table)
    title = {claim.id: claim.title for claim in CLAIMS}
    assert f"{title['att_accuracy']}: supported" in said
    assert "36 items × 2 seeds" in said and "18/18 of 18 supported, 0/0 opposite" in said
    begun = {claim.topic for claim in CLAIMS if claim.id in TESTED}
    missing = [claim for claim in CLAIMS if claim.id not in TESTED]
    alone = [claim for claim in missing if claim.topic in begun]
    topics = {claim.topic for claim in missing} - begun
    assert len(topics) > 10 and said.count("Not measured") == len(alone) + len(topics)
    assert "Not measured: VISTA: Data imbalance, 2 claims (vista_sft)" in said


def test_the_forest_shows_every_cell_its_pools_and_n(table):
    svg = figure_svg(claim_forest(table, "att_accuracy", title="Better?", margin=0.05))
    for text in ("Better?", "Qwen2.5-VL small, arrows", "mean over models, charts", "all cells"):
        assert text in svg
    assert "12 items × 2 seeds each, 18 cells, 36 items in all" in svg
    rows = table[(table["claim"] == "att_accuracy") & table["level"].isin(["cell", "kind", "all"])]
    for row in rows.to_dict("records"):
        assert f"{row['effect']:+.3f}".replace("-", "\N{MINUS SIGN}") in svg
    with pytest.raises(ShowError, match="no rows"):
        claim_forest(table, "nothing")


def test_the_forest_of_one_cell():
    values = grid_values(MEANS, items=9, seeds=1, models=["llava-small"], kinds=["charts"])
    svg = figure_svg(claim_forest(claims_table(values), "att_accuracy"))
    assert "LLaVA small, charts" in svg and "9 items × 1 seed each, 1 cell," in svg


def test_the_overview_marks_every_verdict(table):
    names = {"att_accuracy": "ours helps", "sft_accuracy": "SFT helps", "absent": "never measured"}
    svg = figure_svg(claims_overview(table, names))
    assert "ours helps" in svg and "never measured" not in svg
    shown = table[table["claim"].isin(names) & table["level"].isin(["cell", "all"])]
    said = [*shown["verdict"], *shown["verdict_beyond"].dropna()]
    for verdict, mark in (("supported", r"\+"), ("opposite", "\N{MINUS SIGN}")):
        assert len(re.findall(f">{mark}</text>", svg)) == said.count(verdict) > 10


def test_figures_are_saved_with_their_numbers(table, tmp_path):
    one = table[table["claim"] == "att_accuracy"]
    save_claim_figures(one, tmp_path / "figures")
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"overview.svg", "att_accuracy.svg"} <= names


def test_the_command_writes_table_page_and_json(folder, tmp_path, capsys):
    page = tmp_path / "claims_other_items.md"
    assert main(["testbed", "claims", "--results", str(folder), "--docs", str(page)]) == 0
    said = capsys.readouterr().out
    assert "supported" in said and "claims.parquet" in said
    pd.testing.assert_frame_equal(read_claims(folder), claims_table(read_values(folder)))
    entries = json.loads((folder / "claims.json").read_text())["claims"]
    assert len(entries) == len(CLAIMS)
    by_id = {entry["id"]: entry for entry in entries}
    assert (
        by_id["att_accuracy"]["verdict"] == "supported" and by_id["att_accuracy"]["n_items"] == 36
    )
    assert by_id["avar_looks"]["verdict"] == "not measured"
    text = page.read_text()
    assert text.startswith("# The claims, put to the test: other items\n")
    assert len(list(tmp_path.rglob("*.png"))) == 0
    assert "noise 9; trained on 7 problems" in text and "- Begun: 2026-06-01" in text
    assert "0.001; tested on balanced ones" in text
    assert "0.001; tested on ones whose answer is the habitual one in 90%" in text


CURE = [claim for claim in CLAIMS if claim.id == "att_accuracy"]


def test_what_no_training_does_stands_beside_a_claim(values):
    """Planted: the base is as good as the cure, or as bad as what it is held against."""
    as_good = placebo_table(values, CURE)
    assert set(as_good["claim"]) == {"att_accuracy"}
    assert headline(as_good)["effect"].item() == pytest.approx(0.5, abs=0.05)
    page = claims_page(claims_table(values), placebos=placebo_table(values))
    row = next(line for line in page.splitlines() if line.startswith(f"| {CURE[0].title} |"))
    assert [float(row.split("|")[at].split()[0]) for at in (2, 3)] == pytest.approx(
        [0.4, 0.5], abs=0.05
    )
    assert "| Untrained base instead |" in page
    as_bad = MEANS | {("base", "accuracy_cot"): 0.3}
    flat = headline(placebo_table(grid_values(as_bad, items=12, seeds=2, spread=0.1), CURE))
    assert flat["low"].item() < 0 < flat["high"].item() and abs(flat["effect"].item()) < 0.05
    assert placebo_table(values[values["arm"] != "base"], CURE).empty


def test_a_placebo_is_held_against_the_seeds_and_cells_of_its_claim(values):
    """Planted: CoT-SFT is far better in a seed and a model that Att-CoT was not trained in."""
    there = (values["seed"] == 0) & (values["model"] == "llava-small")
    shifted = values.assign(value=values["value"] + 9.0 * ((values["arm"] == "cot_sft") & ~there))
    table = placebo_table(shifted[(shifted["arm"] != "att_cot") | there], CURE)
    assert headline(table)["effect"].item() == pytest.approx(0.5, abs=0.1)
    assert set(table["n_seeds"]) == {1} and (table["level"] == "cell").sum() == 3


def test_a_placebo_is_asked_of_two_trained_arms_only():
    by_id = {claim.id: claim for claim in CLAIMS}
    assert placebo(by_id["cot_base"]) is None and placebo(by_id["att_base_later"]) is None
    assert placebo(by_id["early_p0_cot_sft"]) is None
    instead = placebo(by_id["att_later"])
    assert instead is not None and instead.arms == ("base", "cot_sft")
    assert instead.title == "Base (placebo) against CoT-SFT: commits later"


def test_what_rests_on_one_seed_is_not_tested(values):
    assert of_one_seed(claims_table(values)) == []
    table = claims_table(values[values["seed"] == 0])
    untried = {claim.id for claim in of_one_seed(table)}
    assert untried == TESTED - {"cot_base", "early_p0_base"}
    without = table[table["claim"].isin(untried)]
    for column in ("verdict", "verdict_corrected", "verdict_beyond"):
        assert set(without[column].dropna()) == {"not tested"}
        assert "not tested" not in set(table[~table["claim"].isin(untried)][column])
    assert (without[without["level"] != "cell"]["cells_supported"] == 0).all()
    assert "not tested" in figure_svg(claims_overview(table, {"att_accuracy": "helps"}))
    page = claims_page(table)
    assert f"| {CURE[0].title} |" not in page
    assert "## Not tested" in page and "- Att-CoT: Att-CoT against CoT-SFT, 1 claim (att" in page
    assert "Not tested, one seed: Att-CoT: Att-CoT against CoT-SFT, 1 claim" in describe(table)
    assert "## Not tested" not in claims_page(claims_table(values))


def test_figures_show_the_base_where_it_is_given(table, values):
    placebos = placebo_table(values, CURE)
    assert "untrained base instead" not in figure_svg(claim_forest(table, "att_accuracy"))
    forest = figure_svg(claim_forest(table, "att_accuracy", placebos=placebos))
    overview = figure_svg(claims_overview(table, {"att_accuracy": "helps"}, placebos=placebos))
    assert "untrained base instead" in forest and "untrained base instead" in overview


def test_training_seeds_that_are_missing_are_named(folder, values):
    assert run_facts(folder)["Training seeds"] == "0, 1"
    more = [values, values.assign(seed=values["seed"] + 4)]
    pd.concat(more).to_parquet(folder / VALUES_FILE)
    assert run_facts(folder)["Training seeds"] == "0, 1, 4, 5; 2 and 3 of this range missing"


def test_what_is_missing_is_named(tmp_path, capsys):
    assert main(["testbed", "claims", "--results", str(tmp_path)]) == 1
    assert f"has no {VALUES_FILE}" in capsys.readouterr().err
    assert main(["testbed", "claims", "--grid", "claims"]) == 1
    assert "--out FOLDER" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"claims\.parquet"):
        read_claims(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / VALUES_FILE).write_text("no parquet")
    with pytest.raises(RunError, match="damaged"):
        read_values(tmp_path)


@pytest.mark.golden
@pytest.mark.parametrize("results", ["claims", "commitment", "in_distribution"])
def test_what_ships_fits_together(results):
    folder = shipped(f"results/{results}")
    later = [claim for claim in CLAIMS if claim.id == "att_later"]
    own = claims_table(read_values(folder), later)
    stored = read_claims(folder)
    stored = stored[stored["claim"] == "att_later"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, stored)
    assert own["n_cells"].iloc[0] == 18
    text = (Path(__file__).parents[2] / "docs" / "claims.md").read_text(encoding="utf-8")
    top = stored.iloc[0]
    ends = format_interval(top["low"], top["high"], signed=True)
    row = next(line for line in text.splitlines() if line.startswith(f"| {later[0].title} |"))
    assert f" {format_number(top['effect'], signed=True)} {ends} **+** " in row


@pytest.mark.parametrize("results", ["claims", "commitment", "in_distribution"])
def test_the_shipped_results_are_about_these_claims(results):
    path = shipped(f"results/{results}") / "claims.json"
    entries = json.loads(path.read_text(encoding="utf-8"))["claims"]
    fields = ["id", "title", "topic", "paper", "sentence", "metric", "unit", "direction", "margin"]
    assert [[entry[field] for field in fields] for entry in entries] == [
        [getattr(claim, field) for field in fields] for claim in CLAIMS
    ]


def test_more_visual_mass_never_stands_without_the_evidence():
    table = read_claims(shipped("results/claims"))
    focus = headline(table).set_index("claim").loc["att_focus"]
    ends = format_interval(focus["low"], focus["high"], signed=True)
    beside = f"; focus on the evidence {format_number(focus['effect'], signed=True)} {ends}"
    title = {claim.id: claim.title for claim in CLAIMS}
    page, said = claims_page(table), describe(table)
    for claim in ("att_looks", "att_sustains"):
        assert f"| {title[claim]}{beside} |" in page
    # Arms whose focus no claim is about; and what is not about attention to the picture.
    assert f"| {title['vis_looks']}; focus on the evidence: not asked |" in page
    assert f"| {title['att_twin']} |" in page
    assert focus["effect"] < 0 and said.count(beside) == 2


def test_shipping_keeps_the_verdicts(folder, tmp_path, monkeypatch, capsys):
    path = Path(__file__).parents[2] / "scripts" / "ship_claims.py"
    spec = importlib.util.spec_from_file_location("ship_claims", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ATTCOT_DATA", str(tmp_path / "data"))
    script.main(str(folder))
    assert "values" in capsys.readouterr().out
    results = tmp_path / "data" / "results" / "claims"
    shipped, own = read_claims(results), claims_table(read_values(folder))
    assert shipped["claim"].tolist() == own["claim"].tolist()
    assert (shipped["verdict"] == own["verdict"]).mean() > 0.98
    assert (shipped["effect"] - own["effect"]).abs().max() < 1e-4
    pd.testing.assert_frame_equal(shipped, claims_table(read_values(results)))
    assert (results / "manifest.json").exists() and (results / "grid.json").exists()
    monkeypatch.setattr(script, "MAX_BYTES", 10)
    with pytest.raises(SystemExit, match="more than 10"):
        script.main(str(folder))


def test_cells_with_answers_that_were_not_read_are_the_first_line(table):
    values = grid_values({("base", "accuracy_cot"): 0.5, ("base", "unparsed_cot"): 1.0}, items=9)
    used = {("base", "accuracy_cot"), ("cot_sft", "accuracy_cot")}
    said = unread_cells(values, used)
    assert said.startswith("More than 2% of the answers could not be read of base of ")
    page = claims_page(table, unread=said)
    assert page.split("-->")[1].split()[:5] == ["More", "than", "2%", "of", "the"]
    assert unread_cells(values, {("base", "mass")}) == ""
    assert unread_cells(grid_values({("base", "unparsed_cot"): 0.0}, items=9, spread=0), used) == ""
