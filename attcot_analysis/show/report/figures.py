"""What a report's page is made of: figures with their words, numbered and saved, and embeds."""

import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from attcot_analysis.show.figures import FigureData, figure_svg, inline_svg, save_figure
from attcot_analysis.show.markup import Markup, el, trusted

_COLUMN = 6.0  # inches; a wider figure would be too small in half the page
_NAME = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class ReportFigure:
    """A figure with the words that belong to it.

    Attributes:
        figure: A matplotlib figure.
        title: One line.
        caption: What is drawn, from how many items and seeds, and how to read it.
        alt: What a reader who cannot see it should know; the title if empty.
        wide: Whether it takes the whole width (and scrolls on a small screen), as every figure
            of more than six inches does.
        name: What its files are called if figures are saved; made from the title if empty.
        data: What it shows, kept beside the saved figure; see `save_figure`.
    """

    figure: Figure
    title: str
    caption: str
    alt: str = ""
    wide: bool = False
    name: str = ""
    data: FigureData = None


@dataclass(frozen=True)
class ReportEmbed:
    """Something to play with inside the page, such as an explorer.

    Attributes:
        title: One line.
        caption: What it shows and how to use it.
        html: The element, made in this package.
        scripts: Which scripts it runs, as sources of a Content-Security-Policy; may be empty.
    """

    title: str
    caption: str
    html: Markup
    scripts: str = ""


class Figures:
    """Numbers the figures and tables of one page, and remembers the figures."""

    def __init__(self) -> None:
        """Start at one."""
        self._last: dict[str, int] = {}
        self._shown: dict[str, tuple[ReportFigure, str]] = {}

    def next(self, kind: str) -> int:
        """The next number of a kind, ``"Figure"`` or ``"Table"``."""
        self._last[kind] = self._last.get(kind, 0) + 1
        return self._last[kind]

    def write(self, item: ReportFigure) -> Markup:
        """Write a figure under the next number."""
        number = self.next("Figure")
        name = _NAME.sub("-", item.name or item.title.lower()).strip("-") or f"figure-{number}"
        svg = figure_svg(item.figure)
        self._shown[name if name not in self._shown else f"{name}-{number}"] = item, svg
        alt = item.alt or item.title
        drawing = trusted(inline_svg(item.figure, f"figure{number}", alt, svg=svg))
        if item.wide or item.figure.get_figwidth() > _COLUMN:
            drawing = _scrolling(drawing, item.title, "scroll wide")
        return el("figure", drawing, caption(f"Figure {number}. {item.title}", item.caption))

    def save(self, folder: Path, overwrite: bool) -> None:
        """Save every figure that was written, with its data."""
        for name, (item, svg) in self._shown.items():
            # The layout that the page shows; laying out again takes as long as drawing.
            item.figure.set_layout_engine("none")
            save_figure(
                item.figure,
                folder / name,
                data=item.data,
                about={"title": item.title, "caption": item.caption},
                svg=svg,
                overwrite=overwrite,
            )


def caption(title: str, text: str) -> Markup:
    """Write a caption whose title is bold and ends in a stop."""
    stop = "" if title.endswith(("?", "!", ".")) else "."
    return el("figcaption", el("b", f"{title}{stop}"), " ", text)


def _scrolling(content: Markup, name: str, class_: str = "scroll") -> Markup:
    return el("div", content, class_=class_, tabindex=0, role="region", aria_label=name)
