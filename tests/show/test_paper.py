"""Figures in the width, size and font of a paper, and signs that no font holds."""

import json
import re
import warnings
from itertools import pairwise

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from attcot_analysis.errors import RunError, ShowError
from attcot_analysis.show import style
from attcot_analysis.show.curves import commitment_curves
from attcot_analysis.show.figures import figure_png, figure_svg, fit_figure, inches, save_figure
from attcot_analysis.show.intervals import comparison_intervals, metric_intervals
from attcot_analysis.show.style import figure_style, font_family, texts_of


@pytest.mark.parametrize(
    ("length", "expected"),
    [("3.3in", 3.3), ("84mm", 3.307), ("8.5 cm", 3.346), ("240pt", 3.321), ("7", 7.0)],
)
def test_lengths_are_inches(length, expected):
    assert inches(length) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("length", ["", "wide", "3.3px", "-3in", "0in", "3000in"])
def test_other_lengths_are_refused(length):
    with pytest.raises(ShowError, match=r"is no width of a figure; write it as 3\.3in"):
        inches(length)


def test_a_pdf_has_its_width_and_holds_its_font(commitment_table, tmp_path):
    figure = commitment_curves(commitment_table)
    options = {"width": 3.3, "font_size": 8, "font": "dejavu serif"}
    assert save_figure(figure, tmp_path / "f1.pdf", **options) == [tmp_path / "f1.pdf"]
    assert [path.name for path in tmp_path.iterdir()] == ["f1.pdf"]
    content = (tmp_path / "f1.pdf").read_bytes()
    assert content.startswith(b"%PDF") and b"/FontFile2" in content and b"/Type3" not in content
    assert b"DejaVuSerif" in content and b"DejaVuSans " not in content
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)
    assert float(box[1]) == pytest.approx(3.3 * 72)
    assert {text.get_fontsize() for text in texts_of(figure)} == {8}
    with pytest.raises(RunError, match="already there"):
        save_figure(figure, tmp_path / "f1.pdf")
    save_figure(figure, tmp_path / "f1.pdf", overwrite=True)
    assert (tmp_path / "f1.pdf").read_bytes() == content


def test_other_endings_and_data(commitment_table, tmp_path):
    figure = commitment_curves(commitment_table)
    save_figure(figure, tmp_path / "f.svg", width=3)
    svg = (tmp_path / "f.svg").read_text()
    assert "<text" not in svg and 'width="216pt"' in svg and "<text" in figure_svg(figure)
    files = save_figure(figure, tmp_path / "f.png", data=commitment_table)
    assert [path.name for path in files] == ["f.png", "f.json"]
    assert len(json.loads(files[1].read_text())["data"]) == len(commitment_table)
    assert len(save_figure(figure, tmp_path / "g.v2")) == 2


def outside(figure):
    """Texts that reach out of a figure, and pairs of names of rows that overlap."""
    figure.set_dpi(600)
    with figure_style():
        figure.draw_without_rendering()
    page = figure.bbox
    found = []
    for text in texts_of(figure):
        box = text.get_window_extent()
        if text.get_visible() and re.search("[a-z]", text.get_text()):  # no ticks out of view
            off = (page.x0 - box.x0, box.x1 - page.x1, page.y0 - box.y0, box.y1 - page.y1)
            found += [text.get_text()] * int(max(off) > 0.03 * 600)
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.get_yticklabels() if text.get_text()]
        found += ["rows"] * int(any(a.overlaps(b) for a, b in pairwise(boxes)))
    return found


def test_nothing_is_cut_off_in_a_narrow_column(summary, comparisons, metrics, commitment_table):
    def drawn():
        one = comparisons[comparisons["a"] == comparisons["a"].iloc[0]]
        pair = one[one["b"] == one["b"].iloc[0]]
        yield metric_intervals(summary, metrics)
        yield comparison_intervals(pair, metrics)
        yield commitment_curves(commitment_table)

    for figure in drawn():
        fit_figure(figure, width=3.3, font_size=8)
        assert outside(figure) == []
    plain = next(drawn())
    with figure_style():
        plain.set_size_inches(3.3, plain.get_figheight())
    assert outside(plain) != []


@pytest.mark.parametrize("size", [{"width": 1e9}, {"height": float("nan")}, {"font_size": 0}])
def test_a_size_that_is_none_is_said(commitment_table, size):
    with pytest.raises(ShowError, match=f"{next(iter(size))} is .*; give"):
        fit_figure(commitment_curves(commitment_table), **size)


def test_a_font_that_is_not_installed_is_named_with_some_that_are(commitment_table, tmp_path):
    with pytest.raises(ShowError, match=r"The font DejaVu Serf is not installed; .* DejaVu Serif"):
        save_figure(commitment_curves(commitment_table), tmp_path / "f.pdf", font="DejaVu Serf")
    assert not (tmp_path / "f.pdf").exists()
    assert font_family("DEJAVU SANS") == "DejaVu Sans"


# --- signs that the font of figures does not hold ------------------------------------------------


@pytest.fixture
def few_fonts(monkeypatch):
    """Only the font that comes with matplotlib, and nothing said before."""
    monkeypatch.setattr(style, "_families", lambda: ("DejaVu Sans",))
    monkeypatch.setattr(style, "_SAID", set())
    listed = list(fontManager.ttflist)
    style._families_for.cache_clear()
    yield
    fontManager.ttflist[:] = listed
    style._families_for.cache_clear()
    style._signs.cache_clear()


def planted_font(path, signs):
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(sign): "square" for sign in signs})
    builder.setupGlyf({".notdef": square, "square": square})
    builder.setupHorizontalMetrics({".notdef": (800, 0), "square": (800, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Planted", "styleName": "Regular", "psName": "Planted"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    fontManager.addfont(path)


def messages(*figures):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for figure in figures:
            figure_png(figure)
            figure_svg(figure)
    return [str(one.message) for one in caught]


def test_signs_without_a_font_are_said_once_by_kind(few_fonts, commitment_table):
    names = ("模型漢字", "โมเดล", "model 🔍", "→ café ≤ −1")
    figures = [commitment_curves(commitment_table.replace("base", name)) for name in names]
    said = messages(*figures)
    assert [re.search(r"holds (.*?), so .* such as (.*)\.$", one).groups() for one in said] == [
        ("Chinese, Japanese and Korean signs", "Noto Sans CJK"),
        ("Thai letters", "Noto Sans Thai"),
        ("emoji", "Noto Emoji (the one in black and white)"),
    ]
    assert messages(*figures) == []


def test_an_installed_font_is_found_for_them(few_fonts, commitment_table, tmp_path, monkeypatch):
    planted_font(tmp_path / "planted.ttf", "模型")
    monkeypatch.setattr(style, "_families", lambda: ("DejaVu Sans", "Planted"))
    figure = commitment_curves(commitment_table.replace("base", "模型"))
    assert messages(figure) == []
    families = [text.get_fontfamily() for text in texts_of(figure) if "模" in text.get_text()]
    assert families and all(found[-1] == "Planted" for found in families)
    [missing] = messages(commitment_curves(commitment_table.replace("base", "模型漢")))
    assert "Noto Sans CJK" in missing
    save_figure(figure, tmp_path / "f.pdf")
    named = re.findall(rb"/FontName /(\S+)", (tmp_path / "f.pdf").read_bytes())
    assert b"Planted" in {name.rpartition(b"+")[2] for name in named}
