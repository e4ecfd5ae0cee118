"""The explorer's widget: sliders that redraw PNG images and a readout (needs ipywidgets)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import numpy as np

from attcot_analysis.errors import ShowError
from attcot_analysis.show.maps import AttentionMaps, Reading
from attcot_analysis.show.markup import Markup, el
from attcot_analysis.show.overlay import backdrop, blend, colorize, png_bytes
from attcot_analysis.show.style import DIVERGING, SEQUENTIAL, format_number

_SIDE = 336
_MEAN = -1
_SHARED, _OWN = "one scale for all tokens", "own scale for each token"
_RETURN = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
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
        self.images = tuple(
            widgets.Image(format="png", layout=widgets.Layout(width="100%")) for _ in names
        )
        panes = [
            widgets.VBox(
                [widgets.HTML(el("b", name)), picture],
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
        # No tooltip on the images: ipywidgets 8.1 cannot draw an Image that has one.
        for picture, colors in zip(self.images, layers, strict=True):
            picture.value = png_bytes(blend(self._ground, colors, opacity, size, boxes))
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
    return text.replace("\n", _RETURN).strip(" ") or "space"


def _strip(tokens: tuple[str, ...], chosen: int) -> str:
    shown = [text.replace("\n", f"{_RETURN}\n") for text in tokens]
    parts = [
        el("mark", el("b", text)) if number == chosen else text for number, text in enumerate(shown)
    ]
    return el("div", parts, style="white-space:pre-wrap;line-height:1.5;max-width:60em")


def _scales(top: float, limit: float | None) -> str:
    bars = [_bar("0", f"{top:.2g}", SEQUENTIAL, "weight per image token")]
    if limit is not None:
        ends = f"\N{MINUS SIGN}{limit:.2g}", f"+{limit:.2g}"
        bars.append(_bar(*ends, DIVERGING, "difference"))
    return el("div", bars, style="display:flex;flex-wrap:wrap;gap:0.3em 1.6em")


def _bar(low: str, high: str, cmap: str, what: str) -> Markup:
    stops = colorize(np.linspace(0.0, 1.0, 9)[None], 0.0, 1.0, cmap)[0]
    colors = ",".join(f"rgb({r},{g},{b})" for r, g, b in stops.tolist())
    ramp = f"display:inline-block;width:9em;height:0.8em;background:linear-gradient(90deg,{colors})"
    return el("span", f"{low} ", el("span", style=ramp), f" {high} {what}")


def _readout(where: str, readings: list[Reading]) -> str:
    rows = [
        [
            reading.label,
            format_number(reading.mass),
            f"row {reading.patch[0]}, column {reading.patch[1]} ({reading.peak:.2g})",
            format_number(reading.evidence),
        ]
        for reading in readings
    ]
    if len(readings) == 2:
        first, second = readings
        mass = format_number(second.mass - first.mass, signed=True)
        evidence = format_number(second.evidence - first.evidence, signed=True)
        rows.append(["difference", mass, "", evidence])
    names = ["", "visual mass", "strongest patch", "share on evidence boxes"]
    pad = "text-align:left;padding:0.1em 1.6em 0.1em 0"
    table = el(
        "table",
        el("caption", where, style="text-align:left"),
        el("thead", el("tr", [el("th", name, scope="col", style=pad) for name in names])),
        el(
            "tbody",
            [
                el(
                    "tr",
                    el("th", row[0], scope="row", style=pad),
                    [el("td", cell, style=pad) for cell in row[1:]],
                )
                for row in rows
            ],
        ),
        style="border-collapse:collapse;line-height:1.4",
    )
    return el("div", table, role="status")
