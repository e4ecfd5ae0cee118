"""What the explorer's script is told about a record, as JSON, and the packed maps beside it."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from attcot_analysis.show.explorer.budget import Parcel, choose_planes, same_source, say_parcel
from attcot_analysis.show.explorer.choice import PlaneKey, Selection
from attcot_analysis.show.explorer.planes import Plane, is_signed, pack_plane, with_steps
from attcot_analysis.show.explorer.record import (
    SOURCE_LABELS,
    ExplorerModel,
    ExplorerRecord,
    FloatArray,
)
from attcot_analysis.show.overlay import colorize, png_bytes
from attcot_analysis.show.style import (
    ARMS,
    DIVERGING,
    SEQUENTIAL,
    ArmStyle,
    arm_label,
    arm_style,
    styled_arms,
)

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
            "right": problem.answer,
            "habitual": problem.habitual,
            "candidates": list(problem.candidates),
            "text": record.text,
            "picture": picture_url(record.picture),
            "size": list(record.picture.size),
            "tokens": list(record.tokens),
            "steps": list(record.steps),
            "stepParts": list(record.step_parts),
            "parts": len(record.parts),
            "answer": record.answer,
            "answerEnd": answer_end(record),
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
            "colours": {"sequential": _colours(SEQUENTIAL), "diverging": _colours(DIVERGING)},
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
        found = [
            masses_of(record, record.maps_of("attention", at).weights)
            for at in range(len(record.models))
        ]
        top = float(max(np.nanmax(masses) for masses in found)) or 1.0
        levels = [
            np.rint(255 * np.sqrt(np.nan_to_num(one) / top)).astype(np.uint8) for one in found
        ]
        return [one.tobytes() for one in levels], top


def masses_of(record: ExplorerRecord, weights: FloatArray) -> FloatArray:
    """Visual mass of every part by layer and head, ``(parts, L, H)``."""
    tokens = weights.sum(axis=-1, dtype=np.float32)
    flat = tokens.reshape(-1, tokens.shape[-1]).T
    return with_steps(record, flat).reshape(-1, *tokens.shape[:2])


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


def index_of(planes: Iterable[Plane]) -> list[list[Any]]:
    """Where the script finds each plane in their joined bytes."""
    return [[plane.key.name, plane.rows, plane.cols] for plane in planes]


def answer_end(record: ExplorerRecord) -> int:
    """The token behind the answer's last."""
    if record.answer is None:
        return 0
    text, stated = "", stated_answer(record) or ""
    for at in range(record.answer, len(record.tokens)):
        text += record.tokens[at]
        if len(text.strip()) >= len(stated):
            return at + 1
    return len(record.tokens)


def stated_answer(record: ExplorerRecord) -> str | None:
    """The candidate that the text gives as its answer, ``None`` if it names none."""
    if record.answer is None:
        return None
    tail = "".join(record.tokens[record.answer :]).strip()
    found = [name for name in record.problem.candidates if tail.startswith(name)]
    return max(found, key=len, default=None)


def model_specs(record: ExplorerRecord) -> list[dict[str, Any]]:
    """Per model its label, its look and what it answers."""
    arms = [arm_of(model.label) for model in record.models]
    with styled_arms(arms):
        looks = [arm_style(arm) for arm in arms]
    return [_model(record, model, look) for model, look in zip(record.models, looks, strict=True)]


def _model(record: ExplorerRecord, model: ExplorerModel, look: ArmStyle) -> dict[str, Any]:
    p, leaked = commitment_arrays(record, model)
    return {
        "label": model.label,
        "color": look.color,
        "dash": "" if isinstance(look.line, str) else " ".join(str(2 * on) for on in look.line[1]),
        "marker": look.marker if isinstance(look.marker, str) else "o",
        "answer": model.answer,
        "correct": model.answer == record.problem.answer,
        "response": model.response,
        "p": None if p is None else [[round(float(value), 5) for value in row] for row in p],
        "leaked": None if leaked is None else leaked.tolist(),
    }


def arm_of(label: str) -> str:
    """The arm that a label is the name or the label of; the label itself if it is none's."""
    return {arm_label(arm): arm for arm in ARMS}.get(label, label)


def commitment_arrays(
    record: ExplorerRecord, model: ExplorerModel
) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.bool_] | None]:
    """Forced answers of a model: probabilities and leaks, both ``(K + 1, candidates)``."""
    table = model.commitment
    if table is None:
        return None, None
    own = table[(table["item"] == record.problem.id) & (table["control"] == "rationale")]
    order = list(record.problem.candidates)
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


def picture_url(image: Image.Image) -> str:
    """A picture as data URL: PNG, or JPEG where that is much smaller; at most 512 pixels."""
    scale = _LONGEST_SIDE / max(image.size)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    exact = png_bytes(image.convert("RGB"), compress_level=9)
    buffer = BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=88)
    kind, data = ("jpeg", buffer.getvalue()) if len(exact) > 60_000 else ("png", exact)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
