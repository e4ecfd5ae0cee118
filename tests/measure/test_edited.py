"""Metrics of edited pictures: by hand, and whether they tell apart planted ways of looking."""

from math import log

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageStat

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.compare import item_values
from attcot_analysis.measures.dependence import Dependence
from attcot_analysis.measures.edited import BLUR_KINDS, blur_curve, edit_values
from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import edited_images
from attcot_analysis.runs.measure import Settings

BOX = (8, 8, 24, 24)
KINDS = ("occlude", "occlude_control", *BLUR_KINDS)


def items(n=6):
    """A red or blue block in `BOX` on noise; which of the two is the answer."""
    found = []
    for at in range(n):
        answer = ("red", "blue")[at % 2]
        noise = np.random.default_rng(at).integers(90, 160, (64, 64, 1), dtype=np.uint8)
        picture = Image.fromarray(np.repeat(noise, 3, axis=2))
        picture.paste({"red": (220, 30, 30), "blue": (30, 30, 220)}[answer], BOX)
        boxes = ((float(BOX[0]), float(BOX[1]), float(BOX[2]), float(BOX[3])),)
        found.append(Problem(f"i{at}", picture, "Which?", ("red", "blue"), answer, evidence=boxes))
    return found


def looks(problem, image):
    """p of the item's answer: by how much redder than blue the evidence box is, if clearly."""
    red, _, blue = ImageStat.Stat(image.crop(BOX)).mean
    if abs(red - blue) < 40:
        return 0.4
    towards = (red - blue) / 190 * (1 if problem.answer == "red" else -1)
    return min(max(0.5 + 0.45 * towards, 0.05), 0.95)


def ignores(problem, image):
    return 0.95


def reacts_to_any_edit(problem, image):
    return 0.95 if image.tobytes() == problem.image.tobytes() else 0.2


def sees_detail(problem, image):
    """p by how rough the picture still is: what any blur takes."""
    return 0.05 + 0.9 * rough(image) / rough(problem.image)


def rough(image):
    return np.abs(np.diff(np.asarray(image).astype(float), axis=1)).mean()


def measured(reader):
    """The table of `dependence` if a model were this reader, with or without its rationale."""
    problems, rows = items(), []
    for kind in KINDS:
        for one in edited_images(problems, kind):
            problem = problems[one.at]
            before, after = reader(problem, problem.image), reader(problem, one.image)
            for rationale in ("fixed", "regenerated"):
                rows.append(
                    {
                        "item": problem.id,
                        "edit": kind,
                        "rationale": rationale,
                        "flipped": (after > 0.5) != (before > 0.5),
                        "log_p_before": log(before),
                        "log_p_after": log(after),
                        "delta_log_p": log(before) - log(after),
                        "area": one.area,
                    }
                )
    table = pd.DataFrame(rows).reindex(columns=[*Dependence.columns, "area"])
    return table.astype({"flipped": "boolean", "followed": "boolean"})


def means(reader):
    values = item_values(model="m", seed=0, dependence=measured(reader))
    return values.groupby("metric")["value"].mean()


def test_planted_ways_of_looking_are_told_apart():
    found = {one.__name__: means(one) for one in (looks, ignores, reacts_to_any_edit)}
    repeat = {name: one["repeat_occlude"] for name, one in found.items()}
    assert repeat == {"looks": 0, "ignores": 1, "reacts_to_any_edit": 0}
    control = {name: one["flip_occlude_control"] for name, one in found.items()}
    assert control == {"looks": 0, "ignores": 0, "reacts_to_any_edit": 1}
    untouched = {name: one["insensitive_occlude"] for name, one in found.items()}
    assert untouched == {"looks": 0, "ignores": 1, "reacts_to_any_edit": 0}
    assert found["looks"]["net_occlusion"] > 0.5
    assert found["ignores"]["net_occlusion"] == 0
    assert found["reacts_to_any_edit"]["net_occlusion"] == pytest.approx(0)


def test_the_area_over_blur_tells_detail_from_colour():
    area = {one.__name__: means(one)["blur_area"] for one in (looks, ignores, sees_detail)}
    assert area["ignores"] == pytest.approx(0.95)
    assert area["sees_detail"] < 0.35 < 0.6 < area["looks"] < 0.95


def test_the_area_is_the_trapezoid_by_hand_and_missing_where_a_strength_is():
    p = [0.9, 0.8, 0.6, 0.5, 0.3, 0.1]
    rows = [
        {
            "item": "a",
            "edit": kind,
            "rationale": "fixed",
            "log_p_before": log(p[0]),
            "log_p_after": log(after),
        }
        for kind, after in zip(BLUR_KINDS, p[1:], strict=True)
    ]
    table = pd.DataFrame(rows).assign(flipped=False, delta_log_p=0.0)
    (area,) = edit_values(table)["blur_area"]
    by_hand = sum((p[k] + p[k + 1]) / 2 for k in range(5)) / 5
    assert area == pytest.approx(by_hand)
    assert np.isnan(edit_values(table[1:])["blur_area"]["a"])
    curve = blur_curve(table, n_boot=10)
    assert curve["value"].tolist() == pytest.approx(p)
    assert curve["blur"].tolist() == list(range(6)) and curve["share"].iloc[-1] == 0.16
    with pytest.raises(MeasureError, match="no blurred pictures"):
        blur_curve(table[table["edit"] == "occlude"])


def test_an_answer_that_could_not_be_told_is_missing_and_a_small_move_is_none():
    base = {"item": "a", "edit": "occlude", "log_p_before": -0.1, "log_p_after": -0.15}
    table = pd.DataFrame(
        [
            {**base, "rationale": "fixed", "flipped": False, "delta_log_p": 0.05},
            {**base, "rationale": "regenerated", "flipped": None, "delta_log_p": 0.05},
        ]
    ).astype({"flipped": "boolean"})
    found = edit_values(table)
    assert found["insensitive_occlude"].tolist() == [1.0]
    assert found["repeat_occlude"].isna().all()


def test_a_run_says_with_what_evidence_was_filled_where_it_is_not_the_mean():
    assert "fill" not in Settings().record({"dependence"})
    assert Settings(fill="telea").record({"dependence"})["fill"] == "telea"
    with pytest.raises(MeasureError, match="Fill is 'black'"):
        Settings(fill="black").check()
    with pytest.raises(MeasureError, match="There is no edit 'sepia'"):
        Settings(edits=("sepia",)).check()
