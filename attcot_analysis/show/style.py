"""The project's one look: rc settings, fonts, arm colours, colour maps and number formats."""

import math
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from difflib import get_close_matches
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager, get_font
from matplotlib.text import Text

from attcot_analysis.errors import ShowError
from attcot_analysis.escapes import for_sentence
from attcot_analysis.show.arms import SPARE_COLORS, ArmStyle, known_arms, spare_style

_FILE: Any = matplotlib.rc_params_from_file(
    Path(__file__).with_name("attcot.mplstyle"), use_default_template=False
)
RC: Mapping[str, Any] = dict(_FILE)
"""Settings of the style; ``seaborn.set_theme(rc=dict(RC))`` takes them as they are."""
INK = str(RC["text.color"])
"""Colour of text and axes; the report replaces it by the page's own text colour."""
PAPER = str(RC["figure.facecolor"])
"""Colour behind hollow markers; the report replaces it by the page's own background."""
DARK_PAPER = "#16191d"
"""Background of the report's dark look."""
GRID = str(RC["grid.color"])
OVERLAY = str(RC["image.cmap"])
"""Map for values from zero up, from orange to purple: it shows on light and on dark."""
DIVERGING = "PuOr_r"
"""Colour-blind-safe map for signed differences, always centred at zero (purple -, orange +)."""
_ENDS = {OVERLAY: (0.15, 0.7), DIVERGING: (0.12, 0.88)}
BOX_COLOR = "#ffffff"
"""Evidence boxes: white inside a dark line, so that they show on every picture and map."""

_OWN: ContextVar[Mapping[str, ArmStyle]] = ContextVar("own arm styles")
_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH", "BOPOMOFO")
_SAID: set[str] = set()
"""What was said already: once is enough for all figures of a report."""
_LEAST_CONTRAST = 4.5  # with a dark page, as for text


@cache
def shades(cmap: str) -> np.ndarray:
    """A map's 256 colours ``(256, 3)`` bytes, its ends neither as pale nor as dark as pages are."""
    start, stop = _ENDS.get(cmap, (0.0, 1.0))
    return np.asarray(colormaps[cmap](np.linspace(start, stop, 256), bytes=True))[:, :3]


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


def font_family(name: str) -> str:
    """The name of an installed font, as matplotlib spells it.

    Raises:
        ShowError: If it is not installed; the sentence names those that are.
    """
    installed = {one.lower(): one for one in _families()}
    if name.lower() not in installed:
        near = [installed[one] for one in get_close_matches(name.lower(), installed, n=3)]
        some = near or list(installed.values())[:12]
        raise ShowError(
            f"The font {for_sentence(name)} is not installed; install it, or take one that is, "
            f"such as {', '.join(some)} ({len(installed)} in all)."
        )
    return installed[name.lower()]


def texts_of(figure: Figure) -> list[Text]:
    """Every text of a figure."""
    return [text for text in figure.findobj(Text) if isinstance(text, Text)]


def complete_fonts(figure: Figure) -> None:
    """Give texts of a figure further fonts for signs that theirs do not hold.

    Warns:
        UserWarning: Once for each kind of signs that no installed font holds, with the font to
            install.
    """
    for text in texts_of(figure):
        written = text.get_text()
        if written.isascii():
            continue
        families = list(text.get_fontfamily())
        lacking = {sign for sign in written if sign.isprintable() and not sign.isspace()}
        lacking -= {sign for sign in lacking if unicodedata.combining(sign) or sign == "\ufe0f"}
        for family in families:
            lacking = {sign for sign in lacking if ord(sign) not in _signs(family)}
        if not lacking:
            continue
        more = _families_for(frozenset(lacking))
        text.set_fontfamily([*families, *more])
        _say_missing(
            sign for sign in lacking if not any(ord(sign) in _signs(family) for family in more)
        )


def _say_missing(signs: Iterable[str]) -> None:
    for kind, font in sorted({_kind(sign) for sign in signs}):
        if kind not in _SAID:
            _SAID.add(kind)
            warnings.warn(
                f"No installed font holds {kind}, so figures show boxes in their place; install "
                f"one, such as {font}.",
                stacklevel=4,
            )


def _kind(sign: str) -> tuple[str, str]:
    """What kind of sign one is, and a font that holds such."""
    first = unicodedata.name(sign, "").split(" ")[0].split("-")[0]
    if first in _ASIAN:
        return "Chinese, Japanese and Korean signs", "Noto Sans CJK"
    if unicodedata.category(sign)[0] in "LMN" and first:
        return f"{first.capitalize()} letters", f"Noto Sans {first.capitalize()}"
    if ord(sign) >= 0x1F000:
        return "emoji", "Noto Emoji (the one in black and white)"
    return "some symbols", "Noto Sans Symbols 2"


@lru_cache
def _families_for(signs: frozenset[str]) -> tuple[str, ...]:
    """Installed fonts that hold the signs, those first that hold most of them."""
    wanted, found = {ord(sign) for sign in signs}, []
    while wanted:
        best = max(_families(), key=lambda family: len(wanted & _signs(family)))
        if not wanted & _signs(best):
            break
        found.append(best)
        wanted -= _signs(best)
    return tuple(found)


@lru_cache
def _families() -> tuple[str, ...]:
    """Every installed font, those included that were installed after matplotlib's list was made."""
    known = {entry.fname for entry in fontManager.ttflist}
    for path in findSystemFonts():
        if path not in known:
            try:
                fontManager.addfont(path)
            except (OSError, RuntimeError, ValueError):  # a bitmap font or a damaged one
                continue
    return tuple(sorted({entry.name for entry in fontManager.ttflist}))


@cache
def _signs(family: str) -> frozenset[int]:
    """The code points that a font can draw; none if it is not there or holds bitmaps only."""
    try:
        font = get_font(findfont(FontProperties(family=[family]), fallback_to_default=False))
        font.set_size(10, 72)
        return frozenset(font.get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def draw(
    figure: Figure, buffer: IO[Any], *, style: Mapping[str, Any] | None = None, **options: Any
) -> None:
    """Draw a figure into memory in the project's style, with fonts for all its signs.

    Args:
        figure: The figure.
        buffer: Where to.
        style: Other settings, as of `figure_style`.
        **options: Of ``Figure.savefig``.

    Warns:
        UserWarning: Once, if no installed font holds some signs; see `complete_fonts`.
    """
    with figure_style(**(style or {})):
        complete_fonts(figure)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from (current )?font")
            figure.savefig(buffer, **options)


class StyledFigure(Figure):
    """A figure that notebooks show once, as PNG, without any pyplot state behind it."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        draw(self, buffer, format="png", metadata={"Software": None})
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
