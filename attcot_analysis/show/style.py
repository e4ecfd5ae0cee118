"""The project's one look: rc settings, arm colours, colour maps and number formats."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from attcot_analysis.show.arms import SPARE_COLORS, ArmStyle, known_arms, spare_style

INK = "#1f2933"
"""Colour of text and axes; the report replaces it by the page's own text colour."""
PAPER = "#ffffff"
"""Colour behind hollow markers; the report replaces it by the page's own background."""
DARK_PAPER = "#16191d"
"""Background of the report's dark look."""
GRID = "#9aa5b1"
SEQUENTIAL = "magma_r"
"""Perceptually uniform map for values from zero up: light is little, so the picture shows."""
DIVERGING = "PuOr_r"
"""Colour-blind-safe map for signed differences, always centred at zero (purple -, orange +)."""
BOX_COLOR = "#ffffff"
"""Evidence boxes: white inside a dark line, so that they show on every picture and map."""

RC: Mapping[str, Any] = {
    "figure.dpi": 96,
    "savefig.dpi": 96,
    "figure.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "image.cmap": SEQUENTIAL,
    "image.interpolation": "none",
    "text.parse_math": False,  # a "$" from a model or data set starts no formula
    "svg.fonttype": "none",
    "svg.hashsalt": "attcot",
    "pdf.fonttype": 42,
}
"""Settings of the style; ``seaborn.set_theme(rc=dict(RC))`` takes them as they are."""

_OWN: ContextVar[Mapping[str, ArmStyle]] = ContextVar("own arm styles")
_LEAST_CONTRAST = 4.5  # with a dark page, as for text


def arm_style(name: str) -> ArmStyle:
    """Return the style of an arm; an unknown name always gets the same spare colour and marker.

    Inside `styled_arms` no two of its arms share a colour.
    """
    own = _OWN.get({})
    if name in own:
        return own[name]
    return known_arms().get(name) or spare_style(name)


def arm_label(name: str) -> str:
    """Return what a reader sees for an arm's name."""
    return arm_style(name).label


def order_arms(names: Iterable[str]) -> list[str]:
    """Put arms in the project's order: known ones first, then the others by name.

    Inside `styled_arms` its arms come first, in its order.
    """
    unique = set(names)
    first = [name for name in dict.fromkeys((*_OWN.get({}), *known_arms())) if name in unique]
    return first + sorted(unique - set(first))


@contextmanager
def styled_arms(names: Iterable[str]) -> Iterator[None]:
    """Give each of these arms a colour of its own inside a ``with`` block, in this order.

    Names that the project does not know share a few spare colours, so two models of one figure
    could get the same one; here the later of them takes the next that is free.
    """
    own: dict[str, ArmStyle] = {}
    for name in names:
        style = arm_style(name)
        taken = {other.color for other in own.values()}
        if style.color in taken:
            start = SPARE_COLORS.index(style.color) if style.color in SPARE_COLORS else 0
            turned = SPARE_COLORS[start:] + SPARE_COLORS[:start]
            free = [color for color in turned if color not in taken]
            style = replace(style, color=free[0]) if free else style
        own[name] = style
    token = _OWN.set(own)
    try:
        yield
    finally:
        _OWN.reset(token)


def dark_color(color: str) -> str:
    """Return the colour, mixed with white until it stands out from a dark page as text must."""
    paper = _luminance(to_rgb(DARK_PAPER))
    mixed = to_rgb(color)
    while (_luminance(mixed) + 0.05) / (paper + 0.05) < _LEAST_CONTRAST:
        red, green, blue = (part + (1 - part) * 0.08 for part in mixed)
        mixed = (red, green, blue)
    return to_hex(mixed)


def page_color(color: str) -> str:
    """Write an arm's colour for a page that has both looks: `page_colors` defines the variable."""
    return f"var(--c-{color.lstrip('#')}, {color})"


def page_colors() -> Mapping[str, str]:
    """Every colour that an arm can have and what becomes of it on a dark page."""
    every = [*(style.color for style in known_arms().values()), *SPARE_COLORS]
    return {color: dark_color(color) for color in every}


def _luminance(rgb: tuple[float, float, float]) -> float:
    """Relative luminance, WCAG 2."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@contextmanager
def figure_style(**overrides: Any) -> Iterator[None]:
    """Use the project's rc settings inside a ``with`` block, whatever was set before.

    Args:
        **overrides: rc settings with ``_`` for ``.`` in their names, e.g. ``font_size=12``.
    """
    rc: Any = dict(RC) | {key.replace("_", "."): value for key, value in overrides.items()}
    with matplotlib.rc_context(rc):
        yield


class StyledFigure(Figure):
    """A figure that notebooks show once, as PNG, without any pyplot state behind it."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        with figure_style():
            self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def new_figure(width: float, height: float) -> StyledFigure:
    """Make an empty figure of ``width`` x ``height`` inches; call it inside `figure_style`."""
    return StyledFigure(figsize=(width, height), layout="constrained")


def capital(text: str) -> str:
    """Write the first letter large, unless it belongs to a formula such as ``p(answer)``."""
    return text if text.startswith("p(") else text[:1].upper() + text[1:]


def format_number(value: float, *, signed: bool = False, digits: int = 3) -> str:
    """Write a number for people: fixed digits, true minus sign, an en dash for NaN."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    places = digits if abs(value) < 10 else max(digits - 2, 0)
    text = f"{value:+.{places}f}" if signed else f"{value:.{places}f}"
    if float(text) == 0.0:
        text = text.lstrip("+-")
    return text.replace("-", "\N{MINUS SIGN}")


def format_interval(low: float, high: float, *, signed: bool = False, digits: int = 3) -> str:
    """Write an interval as ``[low, high]``, with a space that does not break."""
    ends = [format_number(end, signed=signed, digits=digits) for end in (low, high)]
    return f"[{ends[0]},\N{NO-BREAK SPACE}{ends[1]}]"


def format_counts(items: Iterable[float], seeds: Iterable[float] | None = None) -> str:
    """Write what n is: ``192 items × 3 seeds``; ranges where it varies.

    Args:
        items: Number of items behind each value.
        seeds: Number of training seeds behind each value, if known.
    """
    text = _count(items, "item")
    if seeds is not None and (counted := _count(seeds, "seed")):
        text = f"{text} \N{MULTIPLICATION SIGN} {counted}"
    return text


def _count(values: Iterable[float], noun: str) -> str:
    whole = sorted({round(value) for value in values if math.isfinite(value)})
    if not whole:
        return ""
    if whole[0] == whole[-1]:
        return f"{whole[0]} {noun}{'' if whole[0] == 1 else 's'}"
    return f"{whole[0]}\N{EN DASH}{whole[-1]} {noun}s"
