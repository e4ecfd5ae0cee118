import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from show.samples import make_access

from attcot_analysis.errors import RunError, ShowError
from attcot_analysis.show.curves import access_curves, access_grid, commitment_curves
from attcot_analysis.show.figures import (
    figure_png,
    figure_svg,
    inline_svg,
    save_figure,
)
from attcot_analysis.show.intervals import comparison_intervals, metric_intervals


def texts(figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(match=lambda a: hasattr(a, "get_text")))


def segments(ax) -> list[np.ndarray]:
    """The interval lines of an axes, each (2, 2)."""
    return [
        segment
        for collection in ax.collections
        if hasattr(collection, "get_segments")
        for segment in collection.get_segments()
    ]


def assert_same_intervals(drawn, table) -> None:
    expected = table[["low", "high"]].to_numpy()
    drawn = np.array(drawn)
    assert drawn.shape == expected.shape
    drawn, expected = (ends[np.lexsort(ends.round(6).T)] for ends in (drawn, expected))
    np.testing.assert_allclose(drawn, expected, atol=1e-9)


def test_commitment_curves_draw_every_interval(commitment_table):
    figure = commitment_curves(commitment_table, chance=0.25)
    drawn = [segment[:, 1] for segment in segments(figure.axes[0])]
    assert_same_intervals(drawn, commitment_table)
    assert "192 items × 4 seeds" in texts(figure)
    assert "192 items × 1 seed" in texts(figure)
    assert "chance\n0.25" in texts(figure)


def test_many_positions_get_bands(commitment_table):
    fine = pd.concat(
        [
            commitment_table.assign(position=(commitment_table.k + shift) / 5)
            for shift in np.arange(4) / 4
        ]
    ).drop(columns="k")
    figure = commitment_curves(fine)
    assert len(figure.axes[0].collections) == 3
    assert "share of the rationale" in texts(figure)


def test_controls_get_panels(commitment_table):
    both = pd.concat([commitment_table.assign(control=name) for name in ("rationale", "filler")])
    figure = commitment_curves(both)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "own rationale",
        "filler of the same length",
    ]
    assert all(len(segments(ax)) == len(commitment_table) for ax in figure.axes)


def test_an_unknown_arm_and_a_formula_sign_are_drawn(commitment_table):
    table = commitment_table.assign(model=commitment_table.model.replace("base", "a $x <b>"))
    figure = commitment_curves(table)
    assert "a $x <b>" in texts(figure)
    assert "a $x &lt;b&gt;" in figure_svg(figure)


def test_access_curves_and_missing_column(access_table):
    one_layer = access_table[access_table.layer == 0]
    assert len(segments(access_curves(one_layer).axes[0])) == len(one_layer)
    with pytest.raises(ShowError, match=r"lacks low; it has"):
        access_curves(one_layer.drop(columns="low"))
    with pytest.raises(ShowError, match="none of the columns"):
        access_curves(one_layer.drop(columns="step"))
    with pytest.raises(ShowError, match="no rows"):
        access_curves(one_layer[:0])


def test_quantities_get_panels_with_their_own_axis(access_table):
    both = pd.concat(
        [
            access_table[access_table.layer == 0].assign(quantity="mass"),
            access_table[access_table.layer == 1].assign(quantity="evidence_share"),
        ]
    )
    left, right = access_curves(both).axes
    assert left.get_title(loc="left") == "visual mass"
    assert "evidence" in right.get_title(loc="left")
    assert left.get_ylabel() == "" and left.get_ylim() != right.get_ylim()


def test_access_grid_shares_one_scale_and_centres_differences(access_table):
    figure = access_grid(access_table, reference="base")
    images = [ax.images[0] for ax in figure.axes if ax.images]
    values, differences = images[:3], images[3:]
    assert {image.get_clim() for image in values} == {(0.0, access_table.value.max())}
    assert len(differences) == 2
    low, high = differences[0].get_clim()
    assert low == -high
    assert {image.get_clim() for image in differences} == {(low, high)}
    np.testing.assert_allclose(
        differences[0].get_array(), values[1].get_array() - values[0].get_array()
    )
    with pytest.raises(ShowError, match="reference arm 'sayo'"):
        access_grid(access_table, reference="sayo")


def test_metric_intervals_draw_each_metric_of_each_arm(summary, metrics):
    figure = metric_intervals(summary, metrics)
    assert_same_intervals([s[:, 0] for ax in figure.axes for s in segments(ax)], summary)
    assert not any(ax.patches for ax in figure.axes), "bars"
    words = texts(figure)
    assert "accuracy, CoT ↑" in words
    assert "habitual answers, CoT ↓" in words
    assert "192 items × 4 seeds" in words


def test_metrics_outside_the_catalogue_are_drawn_under_their_name(summary, metrics):
    figure = metric_intervals(summary.replace("mass", "my_metric"), metrics)
    assert "my_metric" in texts(figure)


def test_comparison_intervals_show_zero_and_hollow_undecided(comparisons, metrics):
    figure = comparison_intervals(comparisons, metrics)
    assert sum(len(segments(ax)) for ax in figure.axes) == len(comparisons)
    assert all(any(set(line.get_xdata()) == {0.0} for line in ax.lines) for ax in figure.axes)
    hollow = sum(
        len(line.get_xdata())
        for ax in figure.axes
        for line in ax.lines
        if line.get_marker() not in ("None", "", None) and line.get_markerfacecolor() == "#ffffff"
    )
    assert hollow == ((comparisons.low <= 0) & (comparisons.high >= 0)).sum()
    assert "Att-CoT − CoT-SFT" in texts(figure)


def test_a_value_without_interval_is_still_drawn(summary, metrics):
    one = summary[summary.metric == "mass"].assign(low=np.nan, high=np.nan)
    assert figure_png(metric_intervals(one, metrics)).startswith(b"\x89PNG")


def test_svg_is_stable_and_inline_svg_suits_a_page(commitment_table):
    first, again = (commitment_curves(commitment_table) for _ in range(2))
    assert figure_svg(first) == figure_svg(again)
    page = inline_svg(first, "one", 'a "curve" <b>')
    assert page.startswith("<svg ") and page.endswith("</svg>")
    assert 'aria-label="a &quot;curve&quot; &lt;b&gt;"' in page
    assert "currentColor" in page and "<metadata" not in page and "<style" not in page
    assert "stroke: var(--c-0173b2, #0173b2)" in page
    assert page.count("#0173b2") == page.count("var(--c-0173b2, #0173b2)") > 10
    other = inline_svg(again, "two", "")
    ids = [{part.split('"')[0] for part in text.split(' id="')[1:]} for text in (page, other)]
    assert ids[0] and not ids[0] & ids[1]
    assert "ns0" not in page and page.count("xlink:href") > 10
    used = {
        part.split('"')[0].split(")")[0]
        for part in page.replace("url(#", 'href="#').split('href="#')[1:]
    }
    assert used <= ids[0]


def test_text_that_looks_like_svg_or_is_no_xml_stays_text(commitment_table):
    name = 'fill: #1f2933; <metadata> \x00\x1b\uffff "#0173b2" ]]>'
    figure = commitment_curves(commitment_table.replace("base", name))
    page = inline_svg(figure, "one", name)
    assert "fill: #1f2933; &lt;metadata&gt; " in page and '"#0173b2" ]]&gt;' in page
    assert not set("\x00\x1b\uffff") & set(page.partition("<g>")[2])


def test_no_pyplot_figure_is_left():
    before = plt.get_fignums()
    access_grid(make_access())
    assert plt.get_fignums() == before


def test_save_figure_keeps_its_data_and_what_is_there(commitment_table, tmp_path):
    figure = commitment_curves(commitment_table)
    stem = tmp_path / "figures" / "commitment"
    files = save_figure(figure, stem, data=commitment_table, about={"seed": 0})
    assert [file.name for file in files] == ["commitment.svg", "commitment.json"]
    kept = json.loads(files[1].read_text())
    assert kept["about"] == {"seed": 0}
    pd.testing.assert_frame_equal(pd.DataFrame(kept["data"]), commitment_table)
    with pytest.raises(RunError, match="already there"):
        save_figure(figure, stem)
    save_figure(figure, stem, overwrite=True)
    assert json.loads(files[1].read_text())["data"] is None


def test_saved_maps_come_back_and_holes_stay_holes(commitment_table, tmp_path):
    maps = np.arange(12.0).reshape(2, 2, 3) / 7
    maps[0, 0, 0] = np.nan
    figure = commitment_curves(commitment_table)
    save_figure(figure, tmp_path / "maps", data={"before": maps, "labels": commitment_table})
    back = json.loads((tmp_path / "maps.json").read_text())["data"]
    np.testing.assert_allclose(np.array(back["before"], float), maps, atol=1e-7)
    pd.testing.assert_frame_equal(pd.DataFrame(back["labels"]), commitment_table)
    assert "NaN" not in (tmp_path / "maps.json").read_text()
