import matplotlib
import pytest

from attcot_analysis.show.style import (
    ARMS,
    RC,
    arm_style,
    figure_style,
    format_counts,
    format_interval,
    format_number,
    new_figure,
    order_arms,
)


def test_arms_are_told_apart_by_colour_marker_and_line():
    styles = [arm_style(name) for name in ARMS]
    for part in ("color", "marker", "line", "label"):
        assert len({str(getattr(style, part)) for style in styles}) == len(styles)


def test_an_unknown_arm_always_looks_the_same_and_like_no_known_one():
    first, again = arm_style("my lora"), arm_style("my lora")
    assert first == again
    assert first.label == "my lora"
    assert first.color not in {arm_style(name).color for name in ARMS}


def test_arms_are_ordered_known_first():
    assert order_arms(["zeta", "att_cot", "base", "alpha", "att_cot"]) == [
        "base",
        "att_cot",
        "alpha",
        "zeta",
    ]


def test_style_ends_with_its_block():
    before = matplotlib.rcParams["font.size"]
    with pytest.raises(KeyError), figure_style(font_size=33):
        assert matplotlib.rcParams["font.size"] == 33
        raise KeyError
    assert matplotlib.rcParams["font.size"] == before
    assert RC["figure.dpi"] <= 100


def test_colour_blind_safe_enough_arms_differ_in_lightness_or_hue():
    colors = [matplotlib.colors.to_rgb(arm_style(name).color) for name in ARMS[:3]]
    for i, one in enumerate(colors):
        for other in colors[i + 1 :]:
            assert sum(abs(a - b) for a, b in zip(one, other, strict=True)) > 0.5


@pytest.mark.parametrize(
    ("value", "signed", "expected"),
    [
        (0.1234, False, "0.123"),
        (0.1234, True, "+0.123"),
        (-0.5, True, "−0.500"),
        (-0.00001, True, "0.000"),
        (float("nan"), False, "–"),
        (123.456, False, "123.5"),
    ],
)
def test_numbers(value, signed, expected):
    assert format_number(value, signed=signed) == expected


def test_intervals_do_not_break():
    assert format_interval(-0.1, 0.2, signed=True) == "[−0.100,\N{NO-BREAK SPACE}+0.200]"


def test_counts_say_ranges():
    assert format_counts([192.0, 192.0], [1, 1]) == "192 items × 1 seed"
    assert format_counts([64, 192]) == "64–192 items"
    assert format_counts([float("nan")]) == ""


def test_a_dollar_starts_no_formula_and_png_is_stable():
    def draw() -> bytes:
        with figure_style():
            figure = new_figure(2, 1)
            figure.subplots().set_title("costs $5 and $x^")
        return figure._repr_png_()

    assert draw() == draw()
