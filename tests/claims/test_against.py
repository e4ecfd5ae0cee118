"""One claim against another over cells: a planted line is found, and none where there is none."""

import numpy as np
import pandas as pd
import pytest
from claims_values import grid_values
from scipy.stats import pearsonr

from attcot_analysis.errors import MeasureError, ShowError
from attcot_analysis.runs.values import CHANCE
from attcot_analysis.shipped import shipped
from attcot_analysis.show.figures import figure_svg
from attcot_lab.claims import claims_table
from attcot_lab.claims.against import claim_against_claim, line_through_cells
from attcot_lab.claims.table import read_claims
from attcot_lab.figures import cells_figure

MEANS = {
    ("cot_sft", "p0_final"): 0.5,
    ("cot_sft", CHANCE): 0.25,
    ("cot_sft", "commitment_position"): 0.4,
    ("att_cot", "commitment_position"): 0.7,
}
FAMILIES, SCALES, KINDS = (
    ("llava", "internvl", "own"),
    ("small", "large"),
    ("arrows", "charts", "counting"),
)


def cells_of(slope: float, at_zero: float, noise: float, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product([FAMILIES, SCALES, KINDS], names=["family", "scale", "kind"])
    cells = index.to_frame(index=False)
    failure = rng.uniform(0, 0.5, len(cells))
    cure = at_zero + slope * failure + noise * rng.standard_normal(len(cells))
    for name, effect in (("failure", failure), ("cure", cure)):
        cells = cells.assign(
            **{name: effect, f"{name}_low": effect - 0.1, f"{name}_high": effect + 0.1}
        )
    return cells


def test_no_training_at_all_lies_on_the_same_line():
    """Whoever keeps CoT-SFT's damage away does: a line is no sign of a cure."""
    first, again = (read_claims(shipped(f"results/{one}")) for one in ("claims", "commitment"))

    def r(claim, sign=1):
        cells = claim_against_claim(first, "early_p0_cot_sft", again, claim)
        return line_through_cells(cells.assign(cure=sign * cells["cure"])).r.value

    assert r("att_later") == pytest.approx(0.930, abs=0.001)
    assert r("sft_later", -1) == pytest.approx(0.928, abs=0.001)
    assert r("att_base_later") == pytest.approx(-0.149, abs=0.001)


def test_a_planted_line_is_found():
    cells = cells_of(0.6, 0.05, 0.02)
    line = line_through_cells(cells)
    assert line.slope.low < 0.6 < line.slope.high and line.slope.excludes_zero
    assert line.at_zero.low < 0.05 < line.at_zero.high
    assert line.r.value > 0.9 and line.r.n == len(cells) == 18
    slope, at_zero = np.polyfit(cells["failure"], cells["cure"], 1)
    assert [line.slope.value, line.at_zero.value] == pytest.approx([slope, at_zero])
    assert line.r.value == pytest.approx(np.corrcoef(cells["failure"], cells["cure"])[0, 1])


def test_no_line_is_found_where_there_is_none():
    found = [line_through_cells(cells_of(0.0, 0.1, 0.05, seed)) for seed in range(20)]
    assert sum(line.slope.excludes_zero for line in found) <= 4
    assert all(line.at_zero.high > 0 for line in found)


def test_r_is_told_without_each_part():
    cells = cells_of(0.6, 0.05, 0.1)
    found = line_through_cells(cells).r_without
    assert set(found.index) == {*FAMILIES, *SCALES, *KINDS}
    rest = cells[cells["kind"] != "charts"]
    assert found["charts"] == pytest.approx(pearsonr(rest["failure"], rest["cure"]).statistic)
    few = cells[(cells["family"] != "own") & (cells["scale"] == "small")]
    assert set(line_through_cells(few).r_without.index) == set(KINDS)


def test_cells_of_two_grids_are_matched_by_name():
    first = claims_table(grid_values(MEANS, items=9, seeds=2))
    other = claims_table(grid_values(MEANS, items=7, seeds=3, kinds=["charts"]))
    cells = claim_against_claim(first, "early_p0_cot_sft", other, "att_later")
    assert set(cells["kind"]) == {"charts"} and len(cells) == 6
    for name, table, claim in (
        ("failure", first, "early_p0_cot_sft"),
        ("cure", other, "att_later"),
    ):
        for row in cells.to_dict("records"):
            own = table[(table["claim"] == claim) & (table["level"] == "cell")]
            for key in ("family", "scale", "kind"):
                own = own[own[key] == row[key]]
            effect = own[["effect", "low", "high"]].to_numpy()[0]
            assert effect == pytest.approx([row[name], row[f"{name}_low"], row[f"{name}_high"]])
    with pytest.raises(MeasureError, match="no cell in common"):
        claim_against_claim(first, "nothing", other, "att_later")


def test_a_line_needs_cells_that_differ():
    cells = cells_of(0.6, 0.05, 0.1)
    with pytest.raises(MeasureError, match=r"needs 4 cells .* there are 3"):
        line_through_cells(cells.iloc[:3])
    with pytest.raises(MeasureError, match="differ in the failure"):
        line_through_cells(cells.assign(failure=0.25))


def test_cells_are_drawn_by_kind():
    cells = cells_of(0.6, 0.05, 0.1)
    names = {"failure": "how early", "cure": "how much later"}
    svg = figure_svg(cells_figure(cells, **names, line=(0.6, 0.05), title="More where more?"))
    for text in ("how early", "how much later", "arrows", "charts", "More where more?", "LLaVA"):
        assert text in svg
    assert "18 cells" in svg and "+0.050 +0.60 x" in svg
    without = cells_figure(cells, **names)
    assert len(without.axes) == 3 and "line through" not in figure_svg(without)
    with pytest.raises(ShowError, match="cure_low"):
        cells_figure(cells.drop(columns="cure_low"), **names)
