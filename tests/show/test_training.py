"""Training curves draw what was logged, and only that."""

import pandas as pd
import pytest

from attcot_analysis.errors import ShowError
from attcot_analysis.show.curves import QUANTITIES, training_curves

LOG = pd.DataFrame(
    {
        "model": ["cot_sft"] * 3 + ["att_cot"] * 3,
        "step": [2, 4, 6] * 2,
        "loss": [3.0, 2.0, 1.5, 3.1, 2.2, 1.8],
        "visual_mass": [float("nan")] * 3 + [0.4, 0.5, 0.6],
    }
)


def test_one_panel_per_quantity_and_no_line_where_nothing_was_logged():
    figure = training_curves(LOG)
    loss, mass = figure.axes
    assert [ax.get_title("left") for ax in figure.axes] == [
        QUANTITIES["loss"],
        QUANTITIES["visual_mass"],
    ]
    assert [list(line.get_ydata()) for line in loss.lines] == [[3.0, 2.0, 1.5], [3.1, 2.2, 1.8]]
    drawn = [list(line.get_ydata()) for line in mass.lines if len(line.get_ydata())]
    assert drawn == [[0.4, 0.5, 0.6]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CoT-SFT", "Att-CoT"]


def test_other_quantities_can_be_drawn():
    log = LOG.rename(columns={"visual_mass": "rewards/region/mean"})
    figure = training_curves(log, {"rewards/region/mean": "region reward"})
    assert [ax.get_title("left") for ax in figure.axes] == ["region reward"]
    with pytest.raises(ShowError, match="holds none of"):
        training_curves(LOG, {"rewards/region/mean": "region reward"})


def test_bad_logs_are_refused():
    with pytest.raises(ShowError, match="holds none of"):
        training_curves(LOG[["model", "step"]])
    with pytest.raises(ShowError, match="lacks "):
        training_curves(LOG.drop(columns="step"))
