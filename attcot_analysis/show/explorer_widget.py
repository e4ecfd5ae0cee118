"""The explorer's widget: sliders that redraw PNG images and a readout (needs ipywidgets)."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np

from attcot_analysis.errors import ShowError
from attcot_analysis.show.maps import AttentionMaps, Reading
from attcot_analysis.show.overlay import backdrop, blend, colorize, png_bytes
from attcot_analysis.show.style import DIVERGING, SEQUENTIAL, format_number

_SIDE = 336
_MEAN = -1
_SHARED, _OWN = "one scale for all tokens", "own scale for each token"
_KEEP: Any = object()


@dataclass(frozen=True)
class Selection:
    """What the explorer shows.

    Attributes:
        layer: Layer, or ``None`` for the mean over layers.
        head: Head, or ``None`` for the mean over heads.
        token: Index of the token.
        text: Its text.
    """

    layer: int | None
    head: int | None
    token: int
    text: str


class AttentionExplorer(widgets.VBox):  # type: ignore[misc, unused-ignore]
    """Layer, head and token sliders over attention maps; see `attention_explorer`."""

    def __init__(self, data: AttentionMaps) -> None:
        """Build the controls and draw the first picture."""
        self._data = data
        self._ground = backdrop(data.image, _SIDE)
        self._quiet = False
        wide = widgets.Layout(width="100%", max_width="560px")
        self.layer = _slider("layer", _with_mean(data.n_layers), "Layer; mean is over all", wide)
        self.head = _slider("head", _with_mean(data.n_heads), "Head; mean is over all", wide)
        self.token = _slider(
            "token",
            [(f"{i}: {_visible(text)}", i) for i, text in enumerate(data.tokens)],
            "Token of the response; the map is of the row that predicts it",
            wide,
        )
        self.opacity = widgets.FloatSlider(
            value=0.65,
            min=0.0,
            max=1.0,
            step=0.05,
            description="overlay",
            tooltip="Opacity of the map over the picture",
            layout=wide,
        )
        self.scale = widgets.Dropdown(
            options=[_SHARED, _OWN],
            description="colours",
            tooltip="Whether colours can be compared between tokens",
            layout=wide,
        )
        self.strip = widgets.HTML()
        self.readout = widgets.HTML()
        self.scales = widgets.HTML()
        names = list(data.labels)
        if len(names) == 2:
            names.append(f"{names[1]} \N{MINUS SIGN} {names[0]}")
        self._names = names
        self.images = tuple(
            widgets.Image(format="png", layout=widgets.Layout(width="100%")) for _ in names
        )
        panes = [
            widgets.VBox(
                [widgets.HTML(f"<b>{html.escape(name)}</b>"), picture],
                layout=widgets.Layout(width=f"{_SIDE}px", max_width="100%", margin="0 8px 0 0"),
            )
            for name, picture in zip(names, self.images, strict=True)
        ]
        controls = [self.layer, self.head, self.token, self.opacity, self.scale]
        for control in controls:
            control.observe(self._changed, names="value")
        super().__init__(
            [
                *controls,
                self.strip,
                widgets.HBox(panes, layout=widgets.Layout(flex_flow="row wrap")),
                self.scales,
                self.readout,
            ]
        )
        self._draw()

    def __repr__(self) -> str:
        """Say what is explored, the same in every session."""
        data = self._data
        rows, cols = data.shape
        return (
            f"AttentionExplorer({' vs '.join(data.labels)}: {data.n_layers} layers, "
            f"{data.n_heads} heads, {len(data.tokens)} tokens, grid {rows}x{cols})"
        )

    @property
    def selection(self) -> Selection:
        """What is shown now."""
        token = int(self.token.value)
        return Selection(
            _unmean(self.layer.value), _unmean(self.head.value), token, self._data.tokens[token]
        )

    @property
    def readings(self) -> list[Reading]:
        """The numbers of the maps shown now, one reading per model."""
        chosen = self.selection
        return self._data.read(chosen.layer, chosen.head, chosen.token)

    def select(
        self, *, layer: int | None = _KEEP, head: int | None = _KEEP, token: int = _KEEP
    ) -> None:
        """Move the sliders; what is not named stays, ``None`` is the mean.

        Raises:
            ShowError: If there is no such layer, head or token.
        """
        wanted = {"layer": (self.layer, layer), "head": (self.head, head)}
        wanted["token"] = (self.token, token)
        moves = []
        for name, (slider, value) in wanted.items():
            if value is _KEEP:
                continue
            target = _MEAN if value is None else value
            known = [option for _, option in slider.options]
            if target not in known:
                raise ShowError(
                    f"There is no {name} {value}; choose from 0 to {max(known)}"
                    + (", or None for the mean." if _MEAN in known else ".")
                )
            moves.append((slider, target))
        with self._one_drawing():
            for slider, target in moves:
                slider.value = target

    @contextmanager
    def _one_drawing(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False
        self._draw()

    def _changed(self, _: object) -> None:
        if not self._quiet:
            self._draw()

    def _draw(self) -> None:
        data, chosen, opacity = self._data, self.selection, float(self.opacity.value)
        maps = data.maps_of(chosen.layer, chosen.head, chosen.token)
        change = maps[1] - maps[0] if len(maps) == 2 else None
        top, limit = data.tops(chosen.layer, chosen.head)
        if self.scale.value == _OWN:
            top = max(float(values.max()) for values in maps)
            limit = 0.0 if change is None else float(np.abs(change).max())
        layers = [colorize(values, 0.0, top) for values in maps]
        if change is not None:
            layers.append(colorize(change, -limit, limit, DIVERGING))
        boxes, size = data.boxes_of(chosen.token), data.image.size
        where = (
            f"layer {_name(chosen.layer)}, head {_name(chosen.head)}, "
            f"token {chosen.token} ({_visible(chosen.text)})"
        )
        for picture, name, colors in zip(self.images, self._names, layers, strict=True):
            picture.value = png_bytes(blend(self._ground, colors, opacity, size, boxes))
            picture.tooltip = f"Attention map of {name}: {where}"
        self.strip.value = _strip(data.tokens, chosen.token)
        self.scales.value = _scales(top, limit if change is not None else None)
        self.readout.value = _readout(where, data.read(chosen.layer, chosen.head, chosen.token))


def _slider(
    name: str, options: list[tuple[str, int]], tooltip: str, layout: widgets.Layout
) -> widgets.SelectionSlider:
    return widgets.SelectionSlider(
        options=options, description=name, tooltip=tooltip, layout=layout, continuous_update=True
    )


def _with_mean(n: int) -> list[tuple[str, int]]:
    return [("mean", _MEAN), *((str(i), i) for i in range(n))]


def _unmean(value: int) -> int | None:
    return None if value == _MEAN else int(value)


def _name(value: int | None) -> str:
    return "mean" if value is None else str(value)


def _visible(text: str) -> str:
    return text.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}").strip(" ") or "space"


def _strip(tokens: tuple[str, ...], chosen: int) -> str:
    parts = []
    for number, text in enumerate(tokens):
        shown = html.escape(text).replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n")
        parts.append(f"<mark><b>{shown}</b></mark>" if number == chosen else shown)
    style = "white-space:pre-wrap;line-height:1.5;max-width:60em;margin:0.4em 0"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _scales(top: float, limit: float | None) -> str:
    bars = [_bar("0", f"{top:.2g}", SEQUENTIAL, "weight per image token")]
    if limit is not None:
        bars.append(_bar(f"\N{MINUS SIGN}{limit:.2g}", f"+{limit:.2g}", DIVERGING, "difference"))
    return f'<div style="display:flex;flex-wrap:wrap;gap:0.3em 1.6em">{"".join(bars)}</div>'


def _bar(low: str, high: str, cmap: str, what: str) -> str:
    stops = colorize(np.linspace(0.0, 1.0, 9)[None], 0.0, 1.0, cmap)[0]
    colors = ",".join(f"rgb({r},{g},{b})" for r, g, b in stops.tolist())
    ramp = f"display:inline-block;width:9em;height:0.8em;background:linear-gradient(90deg,{colors})"
    return f'<span>{low} <span style="{ramp}"></span> {high} {what}</span>'


def _readout(where: str, readings: list[Reading]) -> str:
    rows = [
        "<tr>"
        f'<th scope="row" style="text-align:left">{html.escape(reading.label)}</th>'
        f"<td>{format_number(reading.mass)}</td>"
        f"<td>row {reading.patch[0]}, column {reading.patch[1]} ({reading.peak:.2g})</td>"
        f"<td>{format_number(reading.evidence)}</td>"
        "</tr>"
        for reading in readings
    ]
    if len(readings) == 2:
        first, second = readings
        rows.append(
            '<tr><th scope="row" style="text-align:left">difference</th>'
            f"<td>{format_number(second.mass - first.mass, signed=True)}</td><td></td>"
            f"<td>{format_number(second.evidence - first.evidence, signed=True)}</td></tr>"
        )
    head = "".join(
        f'<th scope="col" style="text-align:left;padding-right:1.5em">{name}</th>'
        for name in ("", "visual mass", "strongest patch", "share on evidence boxes")
    )
    return (
        f'<table role="status"><caption style="text-align:left">{html.escape(where)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
