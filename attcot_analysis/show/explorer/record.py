"""`ExplorerRecord`: what the explorer shows, made of measurements, and the choices within it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from attcot_analysis.attention.sinks import Sinks
from attcot_analysis.errors import ShowError
from attcot_analysis.measures.maps import QUANTITIES, ResponseMaps
from attcot_analysis.models import TokenGrid
from attcot_analysis.problems import Box, Problem

LayerChoice = int | Literal["mean", "max"]

HeadChoice = int | Literal["mean", "max", "visual"]

Unit = Literal["token", "step"]
"""What has a map: every token, or every step, the mean over its tokens."""

Head = tuple[int, int]
"""Layer and head."""

CODES = {"mean": -1, "max": -2, "visual": -3}
"""Choices of layers and heads that are no number, as the page counts them."""


class PlaneKey(NamedTuple):
    """Which maps of a record, one per token.

    Attributes:
        source: One of the record's sources.
        model: Index of the model.
        layer: A layer, or the mean or maximum over layers.
        head: A head, the mean or maximum over heads, or the mean over the visual heads.
    """

    source: str
    model: int
    layer: LayerChoice = "mean"
    head: HeadChoice = "mean"

    @property
    def name(self) -> str:
        """The key as the page writes it."""
        return ".".join(str(part) for part in self)


@dataclass(frozen=True)
class Selection:
    """What an explorer shows.

    Attributes:
        source: Where the maps come from, e.g. ``"attention"``.
        layer: A layer, ``"mean"`` or ``"max"``.
        head: A head, ``"mean"``, ``"max"`` or ``"visual"``.
        token: Index of the token; the map is of the row that predicts it.
        text: Its text.
        step: The step it belongs to, 1..K; 0 outside of steps.
        unit: ``"step"`` where the map is the mean over that step's tokens, else ``"token"``.
    """

    source: str
    layer: LayerChoice
    head: HeadChoice
    token: int
    text: str
    step: int
    unit: Unit = "token"


FloatArray = npt.NDArray[np.float32]


SINK_FREE = "sink_free"

SOURCE_LABELS = {
    "attention": "attention",
    SINK_FREE: "attention without sinks",
    "rollout": "attention rollout",
    "gradient_relevance": "gradient relevance",
    "occlusion": "occlusion",
    "shapley": "Shapley values",
    "integrated_gradients": "integrated gradients",
}
"""Sources in the order in which they are offered, as people read them."""


@dataclass(frozen=True, eq=False)
class ExplorerModel:
    """What was measured of one model on the record's text.

    Attributes:
        label: What it is called; an arm's name or label gives it the arm's colour.
        maps: One `ResponseMaps` per source, with one row per token of the text; a row of NaN is
            a token without a map. Attention first; sources without layers have L = H = 1.
        sinks: Sink tokens of the same sequence; adds the source ``"sink_free"``.
        image_tokens: Positions of the image tokens in that sequence, ``(N,)``; needed with sinks.
        commitment: A table of `commitment` for the item, its control ``"rationale"`` is shown; or
            `open_curve` of an open question.
        response: What the model writes by itself.
        answer: The answer it then gives.
        image: The picture it was shown, if not the record's.
    """

    label: str
    maps: tuple[ResponseMaps, ...]
    sinks: Sinks | None = None
    image_tokens: npt.NDArray[np.int64] | None = None
    commitment: pd.DataFrame | None = None
    response: str | None = None
    answer: str | None = None
    image: Image.Image | None = None

    @cached_property
    def by_source(self) -> dict[str, ResponseMaps]:
        """The maps by their source."""
        return {maps.source: maps for maps in self.maps}

    @cached_property
    def sink_mask(self) -> npt.NDArray[np.bool_] | None:
        """Which image tokens are sinks in which layer, ``(L, N)``."""
        if self.sinks is None or self.image_tokens is None:
            return None
        return self.sinks.tokens[:, self.image_tokens]


@dataclass(frozen=True, eq=False)
class ExplorerRecord:
    """One item's text as one or more models see it: all that an explorer draws.

    Attributes:
        problem: The item.
        models: At least one, all with the same tokens, layers, heads and grid.
        heads: The visual heads, ``(layer, head)``; the same for all models, so that they compare.
        heads_note: How these were chosen.
        text: Whose words the tokens are.
        image: The picture shown, if not the problem's own.
        layers: What the L layers are called in the model; default, 0 to L - 1. A choice of a layer
            counts those that there are maps of.
        judged: Whether the problem's answer is known to be right; if not, no answer is called
            right or wrong.

    Raises:
        ShowError: If the parts do not fit together.
    """

    problem: Problem
    models: tuple[ExplorerModel, ...]
    heads: tuple[Head, ...] = ()
    heads_note: str = ""
    text: str = ""
    image: Image.Image | None = None
    layers: tuple[int, ...] = ()
    judged: bool = True

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        if not self.models or not all(model.maps for model in self.models):
            raise ShowError("An explorer needs at least one model with at least one set of maps.")
        for model in self.models:
            self._check(model)
        if not self.layers:
            object.__setattr__(self, "layers", tuple(range(self.n_layers)))
        if len(self.layers) != self.n_layers:
            raise ShowError(
                f"{len(self.layers)} layers are named, but there are maps of {self.n_layers}; "
                "name each once."
            )
        known = set(np.ndindex(self.n_layers, self.n_heads))
        wrong = [head for head in self.heads if tuple(head) not in known]
        if wrong:
            raise ShowError(
                f"There are no heads {wrong} (layer, head) among {self.n_layers} layers of "
                f"{self.n_heads}; name heads of these."
            )

    def _check(self, model: ExplorerModel) -> None:
        first = self.models[0]
        if model.maps[0].source != first.maps[0].source or [maps.source for maps in model.maps] != [
            maps.source for maps in first.maps
        ]:
            raise ShowError(
                f"{model.label!r} has maps from {list(model.by_source)}, {first.label!r} from "
                f"{list(first.by_source)}; measure the same sources on all models."
            )
        for maps in model.maps:
            n_tokens, n_image = len(self.tokens), len(self.grid)
            if maps.tokens != self.tokens or maps.steps != self.steps:
                raise ShowError(
                    f"The {maps.source} maps of {model.label!r} have {len(maps.tokens)} tokens "
                    f"that are not the {n_tokens} of the first maps; all maps of one explorer "
                    "must be of the same text, tokenised alike."
                )
            shape = maps.weights.shape
            if len(shape) != 4 or 0 in shape or shape[2:] != (n_tokens, n_image):
                raise ShowError(
                    f"The {maps.source} maps of {model.label!r} have shape {shape}; expected "
                    f"(layers, heads, {n_tokens} tokens, {n_image} image tokens)."
                )
            if shape[:2] not in ((1, 1), (self.n_layers, self.n_heads)):
                raise ShowError(
                    f"The {maps.source} maps of {model.label!r} have {shape[0]} layers of "
                    f"{shape[1]} heads, the first maps {self.n_layers} of {self.n_heads}; "
                    "compare models of the same depth, or sources without layers."
                )
        mask = model.sink_mask
        if (model.sinks is None) != (first.sinks is None):
            raise ShowError("Sinks are given for some models only; give them for all or none.")
        if model.sinks is not None and (mask is None or mask.shape != (self.n_layers, n_image)):
            raise ShowError(
                f"The sinks of {model.label!r} do not fit {self.n_layers} layers and {n_image} "
                "image tokens; find them on the same sequence, and give its image_tokens."
            )

    def __repr__(self) -> str:
        """Say what is in it, the same in every session."""
        rows, cols = self.shape
        return (
            f"ExplorerRecord({labels_of(self.models)}: item {self.problem.id}, "
            f"{len(self.tokens)} tokens, {self.n_layers} layers x {self.n_heads} heads, "
            f"grid {rows}x{cols})"
        )

    @property
    def picture(self) -> Image.Image:
        """The picture shown; of several pictures all, side by side."""
        return self.image or self.problem.sheet.image

    def picture_of(self, model: ExplorerModel) -> Image.Image | None:
        """The picture that a model was shown, if it is another than the record's."""
        return model.image if self.image is None else None

    def judges(self, model: ExplorerModel) -> bool:
        """Whether the problem's answer is right on the picture that a model was shown."""
        return self.judged and self.picture_of(model) is None

    @property
    def candidates(self) -> tuple[str, ...]:
        """The answers whose probability is read: of an open question the one that is stated."""
        tables = [model.commitment for model in self.models if model.commitment is not None]
        return self.problem.candidates or tuple(
            dict.fromkeys(str(name) for table in tables for name in table["candidate"])
        )

    @property
    def grid(self) -> TokenGrid:
        """Where the image tokens lie."""
        return self.models[0].maps[0].grid

    @property
    def tokens(self) -> tuple[str, ...]:
        """Text of the R tokens."""
        return self.models[0].maps[0].tokens

    @property
    def steps(self) -> tuple[int, ...]:
        """Per token its step, 1..K; 0 outside of steps."""
        return self.models[0].maps[0].steps

    @property
    def boxes(self) -> tuple[tuple[Box, ...], ...]:
        """Per token the evidence boxes of its step."""
        return self.models[0].maps[0].boxes

    @cached_property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of everything that has a map: of each token, then of each step."""
        steps = sorted(set(self.steps) - {0})
        alone = tuple((at,) for at in range(len(self.tokens)))
        return alone + tuple(
            tuple(at for at, of in enumerate(self.steps) if of == step) for step in steps
        )

    @cached_property
    def coverage(self) -> npt.NDArray[np.float64]:
        """Per part how far its step's boxes cover each image token, ``(parts, N)``."""
        known = {boxes: self.grid.coverage(boxes) for boxes in set(self.boxes)}
        return np.stack([known[self.boxes[tokens[0]]] for tokens in self.parts])

    @cached_property
    def step_parts(self) -> tuple[int, ...]:
        """Per token the part that is its step; the token itself outside of steps."""
        part_of_token = list(range(len(self.tokens)))
        for at, tokens in enumerate(self.parts):
            for token in tokens:
                part_of_token[token] = at
        return tuple(part_of_token)

    def part_of(self, selection: Selection) -> int:
        """Which of `parts` a selection shows."""
        return selection.token if selection.unit == "token" else self.step_parts[selection.token]

    @property
    def answer(self) -> int | None:
        """The token that the stated answer starts with."""
        return self.models[0].maps[0].answer

    @property
    def n_layers(self) -> int:
        """Number of layers, L."""
        return int(self.models[0].maps[0].weights.shape[0])

    @property
    def n_heads(self) -> int:
        """Number of heads per layer, H."""
        return int(self.models[0].maps[0].weights.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the maps drawn."""
        return self.grid.resolution

    @property
    def sources(self) -> tuple[str, ...]:
        """What the maps can be taken from."""
        names = set(self.models[0].by_source)
        if self.models[0].sinks is not None and "attention" in names:
            names.add(SINK_FREE)
        return tuple(name for name in SOURCE_LABELS if name in names)

    def layered(self, source: str) -> bool:
        """Whether a source tells layers and heads apart."""
        return self.maps_of(source, 0).weights.shape[:2] != (1, 1)

    def maps_of(self, source: str, model: int) -> ResponseMaps:
        """The measured maps behind a source.

        Raises:
            ShowError: If the record has no such source.
        """
        if source not in self.sources:
            raise ShowError(
                f"There is no source {source!r}; this explorer has {', '.join(self.sources)}."
            )
        return self.models[model].by_source["attention" if source == SINK_FREE else source]

    def quantity(self, source: str) -> str:
        """What the weights of a source are."""
        if source == SINK_FREE:
            return f"{QUANTITIES['attention']}, sink tokens left out"
        return self.maps_of(source, 0).quantity

    def token_of(self, name: str) -> int:
        """The first token of ``"answer"`` or ``"step 2"``.

        Raises:
            ShowError: If the text has no such part.
        """
        if name == "answer" and self.answer is not None:
            return self.answer
        number = name.removeprefix("step ")
        if number.isdecimal() and 0 < int(number) <= max(self.steps, default=0):
            return self.steps.index(int(number))
        raise ShowError(
            f"The text has no {name!r}; choose a token's number, 'step 1' to "
            f"'step {max(self.steps, default=0)}', or 'answer' if it states one."
        )


def answer_end(tokens: Sequence[str], start: int, stated: str) -> int:
    """The token behind the last one of an answer that starts at a token."""
    text = ""
    for at in range(start, len(tokens)):
        text += tokens[at]
        if len(text.strip()) >= len(stated):
            return at + 1
    return len(tokens)


def labels_of(models: Sequence[ExplorerModel]) -> str:
    """The models' labels in one phrase."""
    return " vs ".join(model.label for model in models)


def check_choice(record: ExplorerRecord, source: str, layer: object, head: object) -> None:
    """Refuse a layer or head that a record does not have.

    Raises:
        ShowError: If there is none.
    """
    record.maps_of(source, 0)
    for name, value, count, words in (
        ("layer", layer, record.n_layers, ("mean", "max")),
        ("head", head, record.n_heads, ("mean", "max", "visual")),
    ):
        if isinstance(value, str) and value in words:
            if value == "visual" and not record.heads:
                raise ShowError(
                    "No head of this record counts as visual; pass heads=[(layer, head), ...]."
                )
            continue
        if isinstance(value, str) or not isinstance(value, int) or not 0 <= value < count:
            raise ShowError(
                f"There is no {name} {value}; choose from 0 to {count - 1}, or one of "
                f"{', '.join(words)}."
            )


def select(
    record: ExplorerRecord,
    *,
    source: str | None = None,
    layer: LayerChoice | None = None,
    head: HeadChoice | None = None,
    token: int | str | None = None,
) -> Selection:
    """A selection of a record, checked.

    Args:
        record: The record.
        source: One of its sources; the first if ``None``.
        layer: A layer, ``"mean"`` (also ``None``) or ``"max"``.
        head: A head, ``"mean"`` (also ``None``), ``"max"`` or ``"visual"``.
        token: A token's number, ``"answer"`` (its first token) or ``"step 2"`` (the whole step).
            ``None`` is step 1, or the first token of a text without steps.

    Raises:
        ShowError: If the record has no such source, layer, head or token.
    """
    source = record.sources[0] if source is None else source
    layer = "mean" if layer is None else layer
    head = "mean" if head is None else head
    check_choice(record, source, layer, head)
    unit: Unit = "token"
    if token is None:
        token = f"step {min(set(record.steps) - {0})}" if any(record.steps) else 0
    if isinstance(token, str):
        unit = "token" if token == "answer" else "step"
        token = record.token_of(token)
    if not isinstance(token, int) or not 0 <= token < len(record.tokens):
        raise ShowError(f"There is no token {token}; choose from 0 to {len(record.tokens) - 1}.")
    text, step = record.tokens[token], record.steps[token]
    return Selection(source, layer, head, token, text, step, unit)


def traits_of(selection: Selection) -> dict[str, str | int]:
    """A selection as the page's script keeps it."""

    def code(choice: LayerChoice | HeadChoice) -> int:
        return CODES[choice] if isinstance(choice, str) else choice

    return {
        "source": selection.source,
        "layer": code(selection.layer),
        "head": code(selection.head),
        "token": selection.token,
        "unit": selection.unit,
    }


def read_key(record: ExplorerRecord, name: str) -> PlaneKey:
    """The key that `PlaneKey.name` has written.

    Raises:
        ShowError: If the record has no such plane.
    """
    parts = name.split(".")
    if len(parts) == 4 and parts[1].isdecimal() and int(parts[1]) < len(record.models):
        layer, head = (cast(Any, int(part) if part.isdecimal() else part) for part in parts[2:])
        chosen = select(record, source=parts[0], layer=layer, head=head)
        return PlaneKey(chosen.source, int(parts[1]), chosen.layer, chosen.head)
    raise ShowError(f"There is no plane {name!r}; name source, model, layer and head.")
