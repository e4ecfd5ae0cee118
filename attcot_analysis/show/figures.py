"""Turn figures into SVG text, PNG bytes, and files: with their data, or as a paper needs them."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedLocator, MaxNLocator

from attcot_analysis.errors import RunError, ShowError
from attcot_analysis.escapes import for_xml
from attcot_analysis.files import check_free, path_of, write_bytes
from attcot_analysis.show.style import (
    INK,
    PAPER,
    RC,
    draw,
    figure_style,
    font_family,
    page_color,
    page_colors,
    texts_of,
)

FigureData = pd.DataFrame | np.ndarray | Mapping[str, pd.DataFrame | np.ndarray] | None
"""What a figure shows: a table or array, or several by name."""

_PAPER_DPI = 400
PAPER_FORMATS = (".pdf", ".svg", ".png")
"""Endings of a file of its own."""
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_LOOK = "stroke-linejoin:round;stroke-linecap:butt"
_INCHES = {"": 1.0, "in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)\s*(in|cm|mm|pt|)")
_LINE = 1.3 / 72
"""Inches of a line of text, for each point of its size."""
_NAMES = 0.42
"""Most of a figure's width that the names beside its rows may take."""


_PRECISE = 600
"""Dots per inch in which text is measured; in few it is wider than on paper."""
_AROUND = 4.5
"""Lines that title and ticks of a panel take."""
_ID = re.compile(r' id="([^"<>]*)"')
_REFERENCE = re.compile(r'(url\(#|href="#)([^")]+)')


def figure_svg(figure: Figure) -> str:
    """Return the figure as an SVG document: same figure, same text."""
    buffer = StringIO()
    draw(figure, buffer, format="svg", metadata={"Date": None})
    return _own_ids(for_xml(buffer.getvalue()), "id")


def figure_png(figure: Figure, *, dpi: float = 96) -> bytes:
    """Return the figure as PNG bytes."""
    buffer = BytesIO()
    draw(figure, buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def inline_svg(figure: Figure, prefix: str, alt: str, *, svg: str | None = None) -> str:
    """Return the figure as an ``<svg>`` element for an HTML page.

    Text takes the page's text colour (``currentColor``), paper and hollow markers its background
    (``var(--paper)``) and arms their variables (see `page_colors`), so the figure suits light and
    dark pages.

    Args:
        figure: The figure.
        prefix: What its ids start with, so that several figures can stand in one page.
        alt: Its text for those who do not see it.
        svg: From `figure_svg`, if it is at hand: drawing takes long.
    """
    svg = figure_svg(figure) if svg is None else svg
    root = ElementTree.fromstring(_own_ids(svg, prefix))
    for child in list(root):
        # What is said of the file, and the style of all its elements, which is `_LOOK`.
        if child.tag == f"{_SVG}metadata" or child.find(f"{_SVG}style") is not None:
            root.remove(child)
    colors = {INK: "currentColor", PAPER: "var(--paper, #fff)"}
    colors |= {color: page_color(color) for color in page_colors()}
    for element in root.iter():
        # A page knows these names without their namespaces.
        element.tag = element.tag.removeprefix(_SVG)
        if target := element.attrib.pop(_LINK, None):
            element.set("xlink:href", target)
        if style := element.get("style"):
            element.set("style", "; ".join(_declarations(style, colors)))
    root.attrib |= {"role": "img", "aria-label": for_xml(alt), "style": _LOOK}
    return ElementTree.tostring(root, encoding="unicode")


def _declarations(style: str, colors: Mapping[str, str]) -> Iterator[str]:
    """The declarations of a style, with other colours."""
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        yield f"{name}: {colors.get(value, value)}"


def _own_ids(svg: str, prefix: str) -> str:
    """Keep each id that is referred to once, and number them.

    Matplotlib derives ids from positions with all their digits, the last of which differ from
    run to run; numbers are the same every time, and the prefix keeps figures of a page apart.
    """
    names = dict.fromkeys(name for _, name in _REFERENCE.findall(svg))
    numbered = {name: f"{prefix}-{number}" for number, name in enumerate(names, start=1)}
    waiting = set(names)

    def rename(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in waiting:
            return ""
        waiting.discard(name)
        return f' id="{numbered[name]}"'

    svg = _REFERENCE.sub(lambda match: f"{match[1]}{numbered[match[2]]}", svg)
    return _ID.sub(rename, svg)


def save_figure(
    figure: Figure,
    path: str | Path,
    *,
    width: float | None = None,
    height: float | None = None,
    font_size: float | None = None,
    font: str | None = None,
    data: FigureData = None,
    about: Mapping[str, Any] | None = None,
    svg: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Save a figure for a paper as ``f1.pdf``, or as ``f1.svg`` and ``f1.json``.

    A path that ends in ``.pdf``, ``.svg`` or ``.png`` is the file that is written: fonts are
    embedded in a PDF, letters are outlines in an SVG, so both look alike everywhere. Data are then
    kept only if they are given. A path without such an ending gets an SVG whose text stays text,
    and the data.

    Args:
        figure: What to save; it keeps width, height and font.
        path: Where to; its folder is made if needed.
        width: In inches, such as 3.3 for a column of a paper; default the figure's.
        height: In inches; default what the text needs.
        font_size: Of all text, in points.
        font: An installed font, such as ``"Times New Roman"``.
        data: The table or array that the figure was drawn from, or several by name; kept under
            ``"data"``: a table as records, an array as nested lists, NaN as null.
        about: Anything else worth keeping (caption, parameters, versions), JSON values.
        svg: From `figure_svg`, if it is at hand.
        overwrite: Replace files that are already there.

    Returns:
        The files written.

    Raises:
        RunError: If a file is already there and ``overwrite`` is not set.
        ShowError: If the font is not installed.
    """
    path = path_of(path)
    if not path.name:
        raise RunError(f"{path} is no name of a file; give one such as figure.pdf.")
    one = path.suffix.lower() in PAPER_FORMATS
    stem = path.with_suffix("") if one else path
    files = [path if one else stem.with_name(f"{stem.name}.svg")]
    if not one or data is not None:
        files.append(stem.with_name(f"{stem.name}.json"))
    for file in files:
        check_free(file, overwrite)
    if (width, height, font_size, font) != (None, None, None, None):
        fit_figure(figure, width=width, height=height, font_size=font_size, font=font)
    sidecar = {"about": dict(about or {}), "data": _plain(data)}
    contents = {
        ".svg": lambda: (figure_svg(figure) if svg is None else svg).encode(),
        ".json": lambda: json.dumps(sidecar, indent=1).encode(),
    }
    for file in files:
        write_bytes(file, _for_paper(figure, path) if file == path else contents[file.suffix]())
    return files


def _for_paper(figure: Figure, path: Path) -> bytes:
    """One file that looks the same everywhere, the same bytes each time."""
    buffer, suffix = BytesIO(), path.suffix.lower()
    named = {".pdf": "CreationDate", ".svg": "Date", ".png": "Software"}[suffix]
    options = {"format": suffix[1:], "dpi": _PAPER_DPI, "metadata": {named: None}}
    draw(figure, buffer, style={"svg_fonttype": "path"}, **options)
    return buffer.getvalue()


def _plain(data: Any) -> Any:
    """Tables as lists of records, arrays as nested lists, NaN as null."""
    if isinstance(data, pd.DataFrame):
        return json.loads(data.to_json(orient="records", double_precision=10))
    if isinstance(data, np.ndarray):
        rounded = np.round(data.astype(float), 8).astype(object)
        rounded[~np.isfinite(data.astype(float))] = None
        return rounded.tolist()
    if isinstance(data, Mapping):
        return {str(name): _plain(part) for name, part in data.items()}
    return data


# --- the width, size and font of a paper --------------------------------------------------------


def inches(length: str) -> float:
    """Inches of a length such as ``3.3in``, ``8.5cm``, ``84mm`` or LaTeX's ``240pt``.

    Raises:
        ShowError: If it is none.
    """
    found = _LENGTH.fullmatch(length.strip())
    if found is None or not 0.5 <= float(found[1]) * _INCHES[found[2]] <= 50:
        raise ShowError(f"{length!r} is no width of a figure; write it as 3.3in, 84mm or 240pt.")
    return float(found[1]) * _INCHES[found[2]]


def fit_figure(
    figure: Figure,
    *,
    width: float | None = None,
    height: float | None = None,
    font_size: float | None = None,
    font: str | None = None,
) -> None:
    """Give a figure the width, text size and font of the page it is made for; it keeps them.

    Args:
        figure: Any figure.
        width: In inches. Names and notes that become too long are broken into lines, legends get
            fewer columns.
        height: In inches; default what the text needs: the height shrinks as the text does.
        font_size: Of all its text, in points.
        font: Name of an installed font.

    Raises:
        ShowError: If the font is not installed, or a size is none.
    """
    for name, value, (least, most, unit) in (
        ("width", width, (0.5, 50, "inches")),
        ("height", height, (0.5, 50, "inches")),
        ("font_size", font_size, (1, 100, "points")),
    ):
        if value is not None and not least <= value <= most:
            raise ShowError(f"{name} is {value}; give {least} to {most} {unit}.")
    family = None if font is None else font_family(font)
    with figure_style():
        for text in texts_of(figure):
            if font_size is not None:
                text.set_fontsize(font_size)
            if family is not None:
                text.set_fontfamily([family, "sans-serif"])
        for axes in figure.axes:
            if font_size is not None:
                axes.tick_params(labelsize=font_size)
            if family is not None:
                axes.tick_params(labelfontfamily=[family, "sans-serif"])
        old = figure.get_figheight()
        tall = old if font_size is None else old * min(1.0, font_size / float(RC["font.size"]))
        figure.set_size_inches(width or figure.get_figwidth(), height or tall)
        if width is None:
            return
        dpi = figure.dpi
        figure.set_dpi(_PRECISE)
        try:
            needed = _break_lines(figure, width, font_size or float(RC["font.size"]))
            if height is None and needed > tall:
                figure.set_figheight(needed)
            _move_titles(figure)
        finally:
            figure.set_dpi(dpi)


def _break_lines(figure: Figure, width: float, size: float) -> float:
    """Break what is too long for the width; returns the height that rows of names then need."""
    _narrow_legends(figure, width)
    for text in figure.texts:
        _break(text, width * 0.97)
    needed = 0.0
    for axes in figure.axes:
        place = axes.get_subplotspec()
        grid = None if place is None else place.get_gridspec()
        columns = 1 if grid is None else grid.ncols
        for child in axes.get_children():
            if isinstance(child, Text) and not isinstance(child, Annotation):
                _break(child, 0.85 * width / columns)
        lines = _break_names(axes, width * _NAMES / columns**0.5, size)
        if lines and place is not None and grid is not None:
            ratios = np.array(grid.get_height_ratios(), dtype=float)
            ratios[place.rowspan.start] = lines
            grid.set_height_ratios(ratios.tolist())
            needed += (lines + _AROUND) * size * _LINE if place.is_first_col() else 0.0
    return needed


def _break_names(axes: Axes, most: float, size: float) -> float:
    """Break the names beside the rows of a panel; returns the lines that its rows need in all."""
    names = [text.get_text() for text in axes.get_yticklabels()]
    letters = any(sign.isalpha() for name in names for sign in name)
    if not letters or not isinstance(axes.yaxis.get_major_locator(), FixedLocator):
        return 0.0
    signs = max(12, int(most / (size * 0.55 / 72)))
    # The arrow behind a name stays with its last word.
    whole = [re.sub(r" (\W)$", "\N{NO-BREAK SPACE}\\1", name) for name in names]
    broken = [textwrap.fill(name, signs) for name in whole]
    axes.set_yticks(axes.get_yticks(), broken)
    ticks = axes.xaxis.get_major_locator()
    if broken != whole and isinstance(ticks, MaxNLocator):
        ticks.set_params(nbins=3)
    most_lines = max(name.count("\n") + 1 for name in broken)
    return len(broken) * max(most_lines + 0.3, 1.7) + 0.4


def _move_titles(figure: Figure) -> None:
    """Begin titles that have a note beside them above the names of the rows: there is room."""
    noted = [
        (axes, note.xycoords)
        for axes in figure.axes
        for note in axes.texts
        if isinstance(note, Annotation) and isinstance(note.xycoords, Text)
    ]
    if not noted:
        return
    figure.draw_without_rendering()
    left = min(text.get_window_extent().x0 for axes, _ in noted for text in axes.get_yticklabels())
    for axes, title in noted:
        title.set_x((left - axes.bbox.x0) / axes.bbox.width)


def _narrow_legends(figure: Figure, width: float) -> None:
    """Give the figure's own legends as many columns as fit, and their texts the lines they need."""
    pairs = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = [handle for some, _ in pairs for handle in some]
    labels = [str(label) for _, some in pairs for label in some]
    for legend in list(figure.legends):
        columns = getattr(legend, "_ncols", 1)
        side = getattr(legend, "_outside_loc", None)
        texts = legend.get_texts()
        if side is None or [text.get_text() for text in texts] != labels:
            continue
        size, family = texts[0].get_fontsize(), texts[0].get_fontfamily()
        while columns > 1 and _inches_of(legend, figure) > width:
            columns -= 1
            legend.remove()
            font = FontProperties(family=family, size=size)
            place: Any = f"outside {side} left"
            legend = figure.legend(handles, labels, loc=place, ncols=columns, prop=font)
        for text in legend.get_texts():
            _break(text, width - 0.6)


def _inches_of(artist: Text | Legend, figure: Figure) -> float:
    return artist.get_window_extent().width / figure.dpi


def _break(text: Text, most: float) -> None:
    figure = text.get_figure(root=True)
    written = text.get_text()
    if figure is None or "\n" in written or not written:
        return
    wide = _inches_of(text, figure)
    if wide > most:
        text.set_text(textwrap.fill(written, max(8, int(len(written) * most / wide))))
