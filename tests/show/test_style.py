from pathlib import Path

import matplotlib
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex

import attcot_lab  # noqa: F401  (its arms are registered)
from attcot_analysis.show.arms import SPARE_COLORS, ArmStyle, known_arms, register_arms
from attcot_analysis.show.style import (
    DARK_PAPER,
    DIVERGING,
    OVERLAY,
    PAPER,
    RC,
    arm_style,
    figure_style,
    format_counts,
    format_interval,
    format_number,
    new_figure,
    order_arms,
    page_colors,
    shades,
    styled_arms,
)

ARMS = tuple(name for name, style in known_arms().items() if style.color not in SPARE_COLORS)
"""Those that have a look of their own."""


def test_arms_are_told_apart_by_colour_marker_and_line():
    styles = [arm_style(name) for name in ARMS]
    for part in ("color", "marker", "line", "label"):
        assert len({str(getattr(style, part)) for style in styles}) == len(styles)


def test_an_unknown_arm_always_looks_the_same_and_like_no_known_one():
    first, again = arm_style("my lora"), arm_style("my lora")
    assert first == again
    assert first.label == "my lora"
    assert first.color not in {arm_style(name).color for name in ARMS}


def test_the_projects_own_arms_have_names_for_readers():
    names = {path.stem for path in (Path(__file__).parents[2] / "configs/arms").rglob("*.yaml")}
    assert len(names) > 15
    labels = [arm_style(name).label for name in names]
    assert len(set(labels)) == len(labels) and not names & set(labels)


def test_arms_that_are_registered_are_known_and_replace_none(monkeypatch):
    monkeypatch.setattr("attcot_analysis.show.arms._KNOWN", dict(known_arms()))
    mine, base = (ArmStyle(name, "Mine", "#123456", "o", "-") for name in ("mine", "base"))
    register_arms(lambda: [mine, base])
    assert arm_style("mine") == mine and arm_style("base").label == "Base"
    assert order_arms(["zebra", "mine", "base"]) == ["base", "mine", "zebra"]


def test_arms_of_one_figure_never_share_a_colour():
    names = ["run one", "two", "three", "four", "five", "six", "seven", "eight"]
    assert len({arm_style(name).color for name in names}) < 8, "spare colours are few"
    with styled_arms(["att_cot", *names]):
        assert len({arm_style(name).color for name in ("att_cot", *names)}) == 9
        assert order_arms(["base", "two", "att_cot", "three"]) == [
            "att_cot",
            "two",
            "three",
            "base",
        ]
    assert order_arms(["two", "att_cot", "base"]) == [
        "base",
        "att_cot",
        "two",
    ]


def test_an_arm_keeps_its_colour_where_it_is_free():
    alone = arm_style("my lora")
    with styled_arms(["my lora", "base"]):
        assert arm_style("my lora") == alone


def contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        parts = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in matplotlib.colors.to_rgb(color)
        ]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_arm_shows_on_a_dark_page_and_keeps_what_is_light_enough():
    for color, dark in page_colors().items():
        assert contrast(dark, DARK_PAPER) >= 4.5
        assert (dark == color) == (contrast(color, DARK_PAPER) >= 4.5)
    assert {arm_style(name).color for name in (*ARMS, "my lora")} <= set(page_colors())


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


@pytest.mark.parametrize("paper", [PAPER, DARK_PAPER])
@pytest.mark.parametrize("cmap", [OVERLAY, DIVERGING])
def test_the_ends_of_a_colour_map_show_on_both_pages(cmap, paper):
    """The ends of matplotlib's own maps do not: what is highest would be lost on a dark page."""
    for end in (shades(cmap)[0], shades(cmap)[-1]):
        assert contrast(to_hex(end / 255), paper) > 1.5
    own = [contrast(to_hex(colormaps["magma_r"](end)), paper) for end in (0.0, 1.0)]
    assert min(own) < 1.2
