"""The flow of the picture's answer: a panel per model and step, a line per group of tokens."""

import pandas as pd
import pytest

from attcot_analysis.errors import ShowError
from attcot_analysis.measures.causal import CausalAccess
from attcot_analysis.measures.patches import PARTS, Patching
from attcot_analysis.show.flow import information_flow


def result(gap):
    """Two items and layers; the evidence holds all of it first, other tokens later."""
    rows = [
        (item, "exact", source, site, -1, layer, layer, group, k, 2, 0.0, gap, moved)
        for item in ("q", "r")
        for source in ("edit", "control")
        for site in ("residual", "mlp")
        for layer in (0, 1)
        for group in PARTS
        for k in (0, 2)
        for moved in [gap * (source == "edit") * ((group == "evidence") != bool(layer))]
    ]
    return Patching(pd.DataFrame(rows, columns=list(Patching.columns)))


def test_panels_lines_and_values():
    figure = information_flow({"base": result(2.0), "cot_sft": result(4.0)})
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == [
        f"{name}, {step} (n=2)"
        for name in ("Base", "CoT-SFT")
        for step in ("before the first step", "after the last step")
    ]
    lines = figure.legends[0].get_lines() or figure.axes[0].lines
    assert sorted(text.get_text() for text in figure.legends[0].get_texts()) == sorted(PARTS)
    assert len({line.get_color() for line in lines}) >= len(PARTS)
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    assert len(information_flow({"base": result(2.0)}, steps=[0]).axes) == 1
    table = result(2.0).table
    one = information_flow({"base": Patching(table[table["item"] == "q"])})
    assert one.axes[0].get_ylim() == pytest.approx((-0.1, 1.1))


def cut(keys, lost):
    """Knockout of the answer's rows in two layers; the second one costs what is given."""
    known = {"kind": "knockout", "keys": keys, "rows": "answer", "rationale": "fixed"}
    rows = [
        dict.fromkeys(CausalAccess.columns, 0.0)
        | known
        | {"item": item, "first_layer": layer, "last_layer": layer, "k": 2, "n_steps": 2}
        | {"delta_log_p": lost * layer, "flipped": False}
        for item in ("q", "r")
        for layer in (0, 1)
    ]
    return CausalAccess(pd.DataFrame(rows))


def test_cuts_are_drawn_beside_patches_on_one_scale_in_nats():
    """Planted: the answer needs the question in layer 1 and no image."""
    cuts = {"base": [cut("image", 0.0), cut("question", 3.0)]}
    figure = information_flow({"base": result(4.0)}, cuts=cuts, steps=["first"])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["Base, before the first step (n=2)", "Base, cut (n=2)"]
    assert len({ax.get_ylim() for ax in figure.axes}) == 1 and figure.axes[0].get_ylim()[1] > 4
    drawn = {tuple(line.get_ydata()) for line in figure.axes[1].lines}
    assert {(0.0, 0.0), (0.0, 3.0)} <= drawn
    names = {text.get_text() for text in figure.legends[0].get_texts()}
    assert names >= {"evidence", "image → answer", "question → answer"}


def test_nothing_to_carry_is_said():
    with pytest.raises(ShowError, match="No result has residual patches on items that tell"):
        information_flow({"base": result(0.5)})
