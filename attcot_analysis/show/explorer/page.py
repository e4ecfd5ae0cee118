"""The explorer as HTML: what a page carries, the page itself, and its still picture.

A page needs neither kernel nor network; a frame is for notebooks and reports. A widget carries the
same `Content`.
"""

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from io import BytesIO
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from attcot_analysis.errors import ShowError
from attcot_analysis.problems.pictures import open_picture
from attcot_analysis.show import html
from attcot_analysis.show.arms import known_arms
from attcot_analysis.show.explorer.planes import (
    Parcel,
    Plane,
    choose_planes,
    index_of,
    is_signed,
    masses_of,
    pack_plane,
    plane_cells,
    plane_weights,
    same_source,
    say_parcel,
)
from attcot_analysis.show.explorer.record import (
    SOURCE_LABELS,
    ExplorerModel,
    ExplorerRecord,
    PlaneKey,
    Selection,
    answer_end,
    labels_of,
    select,
    traits_of,
)
from attcot_analysis.show.figures import figure_png
from attcot_analysis.show.heatmaps import OPACITY, colorize, overlay, png_bytes
from attcot_analysis.show.style import (
    DIVERGING,
    GRID,
    INK,
    OVERLAY,
    ArmStyle,
    arm_label,
    arm_style,
    figure_style,
    new_figure,
    page_color,
    page_colors,
    styled_arms,
)

PAGE_BUDGET = 24_000_000
"""Bytes of maps in a page of `explorer_page`, before compression."""
FRAME_BUDGET = 260_000
"""Bytes of maps in a frame of `explorer_fragment`, before compression."""

_EXPORT = "export default { render };"


_LONGEST_SIDE = 512

_MASS_NAMES = {"attention": "visual mass", "sink_free": "visual mass without sinks"}


@dataclass(frozen=True, eq=False)
class Content:
    """What one page or widget carries.

    Attributes:
        record: The record.
        parcel: Its planes that are sent at first.
        live: Whether a kernel can send more.
    """

    record: ExplorerRecord
    parcel: Parcel
    live: bool

    @cached_property
    def planes(self) -> list[Plane]:
        """The planes, packed."""
        pairs = zip(self.parcel.keys, self.parcel.factors, strict=True)
        return [pack_plane(self.record, key, factor) for key, factor in pairs]

    @cached_property
    def data(self) -> bytes:
        """The planes' bytes, then visual mass by layer and head of every model, if sent."""
        return b"".join([*(plane.data for plane in self.planes), *self._masses[0]])

    @cached_property
    def spec(self) -> dict[str, Any]:
        """Everything else, JSON values only."""
        record, problem = self.record, self.record.problem
        boxes = list(dict.fromkeys(record.boxes))
        masses, top = self._masses
        return {
            "live": self.live,
            "note": say_parcel(record, self.parcel, live=self.live),
            "item": problem.id,
            "question": problem.question,
            "right": problem.answer if record.judged else None,
            "habitual": problem.habitual,
            "candidates": list(record.candidates),
            "open": not problem.candidates,
            "text": record.text,
            "picture": picture_url(record.picture),
            "size": list(record.picture.size),
            "tokens": list(record.tokens),
            "steps": list(record.steps),
            "stepParts": list(record.step_parts),
            "parts": len(record.parts),
            "answer": record.answer,
            "stated": stated_answer(record),
            "answerEnd": 0
            if record.answer is None
            else answer_end(record.tokens, record.answer, stated_answer(record) or ""),
            "boxSets": [[list(map(float, box)) for box in some] for some in boxes],
            "boxOf": [boxes.index(some) for some in record.boxes],
            "even": [float(record.grid.coverage(some).mean()) for some in boxes],
            "rows": record.shape[0],
            "cols": record.shape[1],
            "layers": record.n_layers,
            "layerNames": list(record.layers),
            "heads": record.n_heads,
            "imageTokens": len(record.grid),
            "visual": [list(map(int, head)) for head in record.heads],
            "visualNote": record.heads_note,
            "sources": [_source(record, source) for source in record.sources],
            "models": model_specs(record),
            "colours": {"sequential": _colours(OVERLAY), "diverging": _colours(DIVERGING)},
            "index": index_of(self.planes),
            "headMasses": len(masses[0]) if masses else 0,
            "headTop": top,
        }

    @cached_property
    def _masses(self) -> tuple[list[bytes], float]:
        """Per model, visual mass ``(parts, L, H)`` as bytes, levels as in a plane; their end."""
        record = self.record
        if "attention" not in record.sources or not record.layered("attention"):
            return [], 0.0
        by_model = [
            masses_of(record, record.maps_of("attention", at).weights)
            for at in range(len(record.models))
        ]
        top = float(max(np.nanmax(masses) for masses in by_model)) or 1.0
        levels = [
            np.rint(255 * np.sqrt(np.nan_to_num(one) / top)).astype(np.uint8) for one in by_model
        ]
        return [one.tobytes() for one in levels], top


def make_content(
    record: ExplorerRecord, budget: int | None, first: Selection | None = None, *, live: bool
) -> Content:
    """Choose what to send.

    Args:
        record: The record.
        budget: Bytes that the planes may take; ``None`` for no limit.
        first: What is selected at first; sent in full if it can be.
        live: Whether a kernel can send more.
    """
    key = None
    if first is not None:
        source = same_source(record, first.source)
        key = PlaneKey(source, 0, first.layer, first.head)
        if not record.layered(source):
            key = PlaneKey(source, 0)
    return Content(record, choose_planes(record, budget, key), live)


def stated_answer(record: ExplorerRecord) -> str | None:
    """The candidate that the text gives as its answer, ``None`` if it names none."""
    if record.answer is None:
        return None
    tail = "".join(record.tokens[record.answer :]).strip()
    named = [name for name in record.candidates if tail.startswith(name)]
    return max(named, key=len, default=None)


def model_specs(record: ExplorerRecord) -> list[dict[str, Any]]:
    """Per model its label, its look and what it answers."""
    arms = [arm_of(model.label) for model in record.models]
    with styled_arms(arms):
        looks = [arm_style(arm) for arm in arms]
    return [_model(record, model, look) for model, look in zip(record.models, looks, strict=True)]


def _model(record: ExplorerRecord, model: ExplorerModel, look: ArmStyle) -> dict[str, Any]:
    p, leaked = commitment_arrays(record, model)
    own = record.picture_of(model)
    return {
        "label": model.label,
        "color": page_color(look.color),
        "dash": "" if isinstance(look.line, str) else " ".join(str(2 * on) for on in look.line[1]),
        "marker": look.marker if isinstance(look.marker, str) else "o",
        "answer": model.answer,
        "correct": model.answer == record.problem.answer if record.judges(model) else None,
        "picture": None if own is None else picture_url(own),
        "response": model.response,
        "p": None if p is None else [[round(float(value), 5) for value in row] for row in p],
        "leaked": None if leaked is None else leaked.tolist(),
    }


def arm_of(label: str) -> str:
    """The arm that a label is the name or the label of; the label itself if it is none's."""
    return {arm_label(arm): arm for arm in known_arms()}.get(label, label)


def commitment_arrays(
    record: ExplorerRecord, model: ExplorerModel
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.bool_] | None]:
    """Forced answers of a model: probabilities and leaks, both ``(K + 1, candidates)``."""
    table = model.commitment
    if table is None:
        return None, None
    own = table[(table["item"] == record.problem.id) & (table["control"] == "rationale")]
    order = list(record.candidates)
    p, leaked = (
        own.pivot(index="step", columns="candidate", values=name)[order].to_numpy()
        for name in ("p", "leaked")
    )
    return p.astype(float), leaked.astype(bool)


def _source(record: ExplorerRecord, source: str) -> dict[str, Any]:
    own = same_source(record, source)
    label = SOURCE_LABELS[source]
    if own != source:
        label += " (no sink here: the same)"
    return {
        "key": source,
        "own": own,
        "label": label,
        "layered": record.layered(source),
        "signed": is_signed(record, source),
        "quantity": record.quantity(source),
        "massName": _MASS_NAMES.get(source, "sum over the picture"),
    }


def _colours(cmap: str) -> str:
    table = colorize(np.arange(256, dtype=float)[None], 0.0, 255.0, cmap)[0]
    return base64.b64encode(table.astype(np.uint8).tobytes()).decode()


def picture_url(image: Image.Image, longest: int = _LONGEST_SIDE) -> str:
    """A picture as data URL: PNG, or JPEG where that is much smaller; ``longest`` in pixels."""
    scale = longest / max(image.size)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    exact = png_bytes(image.convert("RGB"), compress_level=9)
    buffer = BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=88)
    kind, data = ("jpeg", buffer.getvalue()) if len(exact) > 60_000 else ("png", exact)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def explorer_page(
    record: ExplorerRecord,
    selection: Selection | None = None,
    *,
    title: str | None = None,
    budget: int | None = PAGE_BUDGET,
    look: Mapping[str, Any] | None = None,
) -> str:
    """An explorer as one HTML file that needs neither kernel nor network.

    Its policy lets nothing be loaded and no script run but the explorer's own; every text of
    models and data is data to it.

    Args:
        record: What to explore.
        selection: What to show first; see `select`.
        title: Of the page; default, the item and the models.
        budget: Bytes of maps, before compression; ``None`` for all of them. What does not fit is
            made coarser or left out, and the page says so.
        look: How the explorer is set otherwise: ``opacity``, ``one_scale``, ``first``, ``second``.
    """
    selection = select(record) if selection is None else selection
    name = f"{record.problem.id}: {labels_of(record.models)}" if title is None else title
    content = make_content(record, budget, selection, live=False)
    return _page([(content, selection)], name, look or {}, "ax-page")


def gallery_page(
    records: Iterable[ExplorerRecord | str],
    gallery: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    title: str | None = None,
    budget: int | None = PAGE_BUDGET,
    look: Mapping[str, Any] | None = None,
) -> str:
    """An explorer of several items as one HTML file; it unpacks the item that is chosen.

    Args:
        records: One per item, taken one after the other, or why there is none, a sentence.
        gallery: What `attcot_analysis.show.explorer.gallery.gallery_spec` says of them.
        title: Of the page; default, how many items it has.
        budget: Bytes of maps of all items together, before compression; each gets an equal part.
        look: See `explorer_page`.

    Raises:
        ShowError: If no item has a record.
    """
    entries = gallery["entries"]
    share = None if budget is None else budget // len(entries)
    parts: list[tuple[Content, Selection] | None] = []
    shown = []
    for record, entry in zip(records, entries, strict=True):
        if isinstance(record, str):
            parts.append(None)
            shown.append({**entry, "failed": record})
            continue
        first = select(record)
        parts.append((make_content(record, share, first, live=False), first))
        shown.append(dict(entry))
    if not any(parts):
        raise ShowError(f"None of the {len(parts)} items can be shown: {shown[0]['failed']}")
    name = f"{len(entries)} items" if title is None else title
    return _page(parts, name, look or {}, "ax-page", {**gallery, "entries": shown})


def explorer_fragment(
    record: ExplorerRecord,
    selection: Selection | None = None,
    *,
    budget: int | None = FRAME_BUDGET,
    look: Mapping[str, Any] | None = None,
) -> Markup:
    """An explorer in a frame, for a notebook's stored output or a report.

    A still picture stands before the frame. The frame's script hides it, and fits the frame's
    height; where scripts or frames are stripped, and in print, the picture stays. A frame
    inherits the policy of its page: that must allow `script_policy`, styles and data images.

    Args:
        record: What to explore.
        selection: What to show first; see `select`.
        budget: Bytes of maps, before compression.
        look: See `explorer_page`.
    """
    selection = select(record) if selection is None else selection
    content = make_content(record, budget, selection, live=False)
    name = f"Attention explorer, {record.problem.id}: {labels_of(record.models)}"
    page = _page([(content, selection)], name, look or {}, "ax-frame-page")
    still = base64.b64encode(explorer_png(record, selection)).decode()
    values = {"name": name, "page": page, "still": still}
    return html.render("explorer/templates/fragment.html.j2", values)


def script_policy() -> str:
    """The source expression that lets the explorer's script run, and no other."""
    return html.script_source(page_script())


def static_text(name: str) -> str:
    """``explorer.js`` or ``explorer.css``, behind what the strip of items needs."""
    strip = html.static_text(f"explorer/static/gallery{name.removeprefix('explorer')}")
    return strip + html.static_text(f"explorer/static/{name}")


@cache
def page_script() -> str:
    """The script of a page without kernel: the widget's own, started."""
    script = static_text("explorer.js")
    if script.count(_EXPORT) != 1 or "</script" in script.lower():
        raise ShowError(
            f"explorer.js must hold {_EXPORT!r} once and no closing script tag; reinstall the "
            "package."
        )
    lines = (line.strip() for line in script.replace(_EXPORT, "standalone();").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("//", "/**")))


def explorer_state(
    content: Content, selection: Selection, look: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """What the explorer's script starts with where no widget tells it, without the maps."""
    return {
        "spec": content.spec,
        "opacity": OPACITY,
        "one_scale": True,
        "first": 0,
        "second": 1,
        **look,
        **traits_of(selection),
    }


def _page(
    parts: Sequence[tuple[Content, Selection] | None],
    title: str,
    look: Mapping[str, Any],
    kind: str,
    gallery: Mapping[str, Any] | None = None,
) -> str:
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {script_policy()}; base-uri 'none'; form-action 'none'"
    )
    values = {
        "title": title,
        "policy": policy,
        "kind": kind,
        "parts": [None if part is None else _packed(*part, look) for part in parts],
        "gallery": Markup(json_text(gallery)) if gallery else "",
        "script": Markup(page_script()),
        "colors": page_colors(),
    }
    return str(html.render("explorer/templates/explorer.html.j2", values))


def _packed(content: Content, selection: Selection, look: Mapping[str, Any]) -> tuple[Markup, str]:
    """What a page holds of an item: its state, and its maps."""
    # mtime 0: the same bytes at any time.
    packed = base64.b64encode(gzip.compress(content.data, 9, mtime=0)).decode()
    return Markup(json_text(explorer_state(content, selection, look))), packed


def json_text(value: object) -> str:
    """JSON that may stand in any element of a page: no tag, comment or entity can end it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


_SIDE = 240


def explorer_figure(
    record: ExplorerRecord, selection: Selection, models: tuple[int, ...] | None = None
) -> Figure:
    """Draw what an explorer shows for a selection.

    Args:
        record: The record.
        selection: What is selected.
        models: Indices of one model, or of two to compare; default, the first two.

    Returns:
        Above, the maps of the token on one colour scale, and with two models their difference;
        below, over the tokens of the text, visual mass and the probability of the stated answer
        when an answer is forced.
    """
    chosen = tuple(range(len(record.models)))[:2] if models is None else models
    keys = [PlaneKey(selection.source, at, selection.layer, selection.head) for at in chosen]
    weights = [plane_weights(record, key) for key in keys]
    part = list(record.parts[record.part_of(selection)])
    shown = [plane_cells(record, one[part].mean(axis=0, keepdims=True))[0] for one in weights]
    labels = [record.models[at].label for at in chosen]
    arms = [arm_of(label) for label in labels]
    curves = [("mass", [one.sum(axis=1, dtype=np.float64) for one in weights])]
    forced = [commitment_arrays(record, record.models[at])[0] for at in chosen]
    if any(p is not None for p in forced):
        curves.append(_answer_lines(record, forced))
    with figure_style(), styled_arms(arms):
        figure = new_figure(7.2, 2.9 + 1.2 * len(curves))
        parts: Any = figure.subfigures(2, 1, height_ratios=[2.3, 1.1 * len(curves)])
        upper, lower = parts
        _maps(upper, record, selection, shown, [record.models[at] for at in chosen])
        axs = lower.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
        for ax, (name, lines) in zip(axs, curves, strict=True):
            _curve(ax, record, lines, arms, labels, selection.token, steps=name != "mass")
            ax.set_ylabel(_cut(name, 18))
        axs[0].set_ylim(0, 1.1 * max(float(np.nanmax(line)) for line in curves[0][1]) or 1)
        _name_steps(axs[0], record)
        axs[-1].set_xlabel("token of the text")
        if len(labels) > 1:
            axs[0].legend(loc="lower right", bbox_to_anchor=(1, 1.12), ncols=2, fontsize=7.5)
    return figure


def _answer_lines(
    record: ExplorerRecord, forced: Sequence[npt.NDArray[np.float64] | None]
) -> tuple[str, list[npt.NDArray[np.float64]]]:
    """Per model the probability of the answer that it ends with, over the tokens."""
    after = steps_before(record.steps)
    nothing = np.full(len(after), np.nan)
    lines = [
        nothing if p is None else p[np.minimum(after, len(p) - 1), int(p[-1].argmax())]
        for p in forced
    ]
    return "p(final answer)", lines


def explorer_png(record: ExplorerRecord, selection: Selection) -> bytes:
    """The figure as a small PNG of 256 colours, for viewers that strip scripts."""
    buffer = BytesIO(figure_png(explorer_figure(record, selection), dpi=90))
    image = open_picture(buffer, "The figure")
    return png_bytes(
        image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE),
        compress_level=9,
    )


def steps_before(steps: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Per token, how many steps are finished when it is predicted, ``(R,)``."""
    last = {step: at for at, step in enumerate(steps) if step}
    ends = np.array(sorted(last.values()), dtype=np.int64)
    return np.searchsorted(ends, np.arange(len(steps)), side="left")


def _maps(
    part: SubFigure,
    record: ExplorerRecord,
    selection: Selection,
    maps: list[npt.NDArray[np.float32]],
    shown: list[ExplorerModel],
) -> None:
    labels = [model.label for model in shown]
    text = _cut(selection.text, 24) or "line end"
    place = f", step {selection.step}" if selection.step else ""
    what = f"token {selection.token} “{text}”{place}"
    if selection.unit == "step":
        what = f"step {selection.step}, mean over its tokens"
    source = selection.source.replace("_", " ")
    question = _cut(record.problem.question, 100)
    part.suptitle(
        f"{question}\n{what}; {source}, layer {selection.layer}, head {selection.head}",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    drawn = [np.nan_to_num(one) for one in maps]
    top = max(float(np.abs(one).max()) for one in drawn)
    signed = is_signed(record, selection.source)
    low, cmap = (-top, DIVERGING) if signed else (0.0, OVERLAY)
    panels = [(one, low, top, cmap) for one in drawn]
    titles = [f"{_cut(label, 22)}: {low:.2g} to {top:.2g}" for label in labels]
    if len(drawn) == 2:
        change = drawn[1] - drawn[0]
        limit = float(np.abs(change).max())
        panels.append((change, -limit, limit, DIVERGING))
        titles.append(f"difference: ±{limit:.2g}")
    boxes = record.boxes[selection.token]
    behind = [record.picture_of(model) or record.picture for model in shown]
    pictures = [
        overlay(picture, values, low=low, high=high, cmap=cmap, boxes=boxes, side=_SIDE)
        for picture, (values, low, high, cmap) in zip(
            [*behind, record.picture], panels, strict=False
        )
    ]
    if len(pictures) == 1:
        pictures.insert(0, record.picture)
        titles.insert(0, "picture")
    axs = part.subplots(1, len(pictures), squeeze=False)[0]
    for ax, picture, title in zip(axs, pictures, titles, strict=True):
        ax.imshow(np.asarray(picture), interpolation="nearest")
        ax.set_title(title, fontsize=8.5)
        ax.axis("off")


def _curve(
    ax: Axes,
    record: ExplorerRecord,
    lines: list[npt.NDArray[np.float64]],
    arms: list[str],
    labels: list[str],
    token: int,
    *,
    steps: bool = False,
) -> None:
    places = np.arange(len(record.tokens))
    for step, (first, last) in _spans(record).items():
        ax.axvspan(first - 0.5, last + 0.5, color=GRID, alpha=0.1 + 0.1 * (step % 2), lw=0)
    for line, arm, label in zip(lines, arms, labels, strict=True):
        look = arm_style(arm)
        kind = "steps-mid" if steps else "default"
        name = _cut(label, 32)
        ax.plot(places, line, color=look.color, ls=look.line, drawstyle=kind, label=name)
    ax.axvline(token, color=INK, lw=1)
    ax.set_xlim(-0.5, len(places) - 0.5)
    if steps:
        ax.set_ylim(-0.04, 1.04)


def _cut(text: str, length: int) -> str:
    """A text in one line, cut off with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _spans(record: ExplorerRecord) -> dict[int, tuple[int, int]]:
    """Per step its first and last token."""
    return {
        record.steps[tokens[0]]: (tokens[0], tokens[-1])
        for tokens in record.parts[len(record.tokens) :]
    }


def _name_steps(ax: Axes, record: ExplorerRecord) -> None:
    for step, (first, last) in _spans(record).items():
        wide = (last - first + 1) / len(record.tokens) > 0.08
        ax.annotate(
            f"step {step}" if wide else f"{step}",
            ((first + last) / 2, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
        )
