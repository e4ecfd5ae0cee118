"""Turn figures into SVG text, PNG bytes, and files with the data they show."""

import json
import re
from collections.abc import Iterator, Mapping
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from attcot_analysis.errors import RunError, writing
from attcot_analysis.escapes import for_xml
from attcot_analysis.files import write_bytes
from attcot_analysis.show.style import INK, PAPER, figure_style, page_color, page_colors

FigureData = pd.DataFrame | np.ndarray | Mapping[str, pd.DataFrame | np.ndarray] | None
"""What a figure shows: a table or array, or several by name."""

_PRINT_DPI = 200
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_LOOK = "stroke-linejoin:round;stroke-linecap:butt"
_ID = re.compile(r' id="([^"<>]*)"')
_REFERENCE = re.compile(r'(url\(#|href="#)([^")]+)')


def figure_svg(figure: Figure) -> str:
    """Return the figure as an SVG document: same figure, same text."""
    buffer = StringIO()
    with figure_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _own_ids(for_xml(buffer.getvalue()), "id")


def figure_png(figure: Figure, *, dpi: float = 96) -> bytes:
    """Return the figure as PNG bytes."""
    buffer = BytesIO()
    with figure_style():
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
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
    stem: str | Path,
    *,
    data: FigureData = None,
    about: Mapping[str, Any] | None = None,
    svg: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write ``stem.svg``, ``stem.png`` and ``stem.json``, the data that the figure shows.

    Args:
        figure: What to save.
        stem: Path without suffix; its folder is made if needed.
        data: The table or array that the figure was drawn from, or several by name; kept under
            ``"data"``: a table as records, an array as nested lists, NaN as null.
        about: Anything else worth keeping (caption, parameters, versions), JSON values.
        svg: From `figure_svg`, if it is at hand.
        overwrite: Replace files that are already there.

    Returns:
        The files written.

    Raises:
        RunError: If a file is already there and ``overwrite`` is not set.
    """
    stem = Path(stem)
    sidecar = {"about": dict(about or {}), "data": _plain(data)}
    contents = {
        "svg": (figure_svg(figure) if svg is None else svg).encode(),
        "png": figure_png(figure, dpi=_PRINT_DPI),
        "json": json.dumps(sidecar, indent=1).encode(),
    }
    files = [stem.with_name(f"{stem.name}.{suffix}") for suffix in contents]
    for file in files:
        if file.exists() and not overwrite:
            raise RunError(f"{file} is already there; choose another name or pass overwrite=True.")
    with writing(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
    for file, content in zip(files, contents.values(), strict=True):
        write_bytes(file, content)
    return files


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
