"""Stages: what `measure_all` does to one batch of items, each giving the rows of one table."""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import pandas as pd

from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import answer_access, visual_access
from attcot_analysis.measures.answers import COLUMNS as ANSWERS
from attcot_analysis.measures.answers import answer_problems, answer_row
from attcot_analysis.runs.batches import Places
from attcot_analysis.measures.causal import causal_access
from attcot_analysis.measures.commitment import COLUMNS as COMMITMENT
from attcot_analysis.measures.commitment import CONTROLS, commitment
from attcot_analysis.measures.controls import other_items, other_rationales, parsed_responses
from attcot_analysis.measures.dependence import COLUMNS as DEPENDENCE
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.measures.divergence import token_divergence
from attcot_analysis.measures.edits import EditKind, edited_images
from attcot_analysis.runs.generations import Generations
from attcot_analysis.measures.lens import lens_commitment
from attcot_analysis.runs.records import Part
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.measures.unread import paragraph_note
from attcot_analysis.models import Mllm, Mode
from attcot_analysis.problems import Problem

EDITS: tuple[EditKind, ...] = ("twin", "control", "blank")
"""The edits of dependence that are made where an item allows them."""

Extra = Literal["answer_access", "causal", "lens", "divergence"]
"""Measurements that are made only if asked for."""


@dataclass(frozen=True)
class Stages:
    """One model, all items, and the settings of the measurements.

    Attributes:
        mllm: The model.
        problems: All items of the run, also those of other batches.
        layers: Layers whose attention is read; ``None`` for all.
        controls: Controls of the commitment curve.
        edits: Edits of dependence.
        extras: What else to measure.
        batch_size: Items per forward pass or generation.
        max_new_tokens: Length limit of a response.
        generations: Responses that were written elsewhere, instead of the model's own.
    """

    mllm: Mllm
    problems: Sequence[Problem]
    layers: Collection[int] | None = None
    controls: Sequence[str] = CONTROLS
    edits: Sequence[EditKind] = EDITS
    extras: Sequence[Extra] = ()
    batch_size: int = 64
    max_new_tokens: int = 256
    generations: Generations | None = None

    def check(self) -> None:
        """See that the settings fit together, before anything is computed.

        Raises:
            MeasureError: If they do not.
        """
        names = [problem.id for problem in self.problems]
        if not names:
            raise MeasureError("No problems were given to measure; give at least one.")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise MeasureError(f"Item {twice} is there twice; give every problem an id of its own.")
        if self.batch_size < 1:
            raise MeasureError(f"batch_size is {self.batch_size}; give at least 1.")
        for name, given, known in (
            ("controls", self.controls, CONTROLS),
            ("edits", self.edits, get_args(EditKind)),
            ("extras", self.extras, get_args(Extra)),
        ):
            if set(given) - set(known):
                raise MeasureError(f"{name} is {list(given)}; choose from {', '.join(known)}.")
        if "rationale" not in self.controls:
            raise MeasureError(
                f"controls is {list(self.controls)}; add 'rationale', what the others are held "
                "against."
            )
        if self.generations is not None:
            self.generations.check(self.problems)
        if "other_item" in self.controls:
            other_items([p.answer for p in self.problems], [1] * len(names), names)

    def answers(self, at: Places, mode: Mode, text_only: bool = False) -> Part:
        """Rows of `answer_problems`."""
        table = answer_problems(
            self.mllm,
            [self.problems[place] for place in at],
            mode=mode,
            text_only=text_only,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
        )
        return Part(table)

    def written(self, at: Places) -> Part:
        """Rows of `answer_problems` made of responses that were written elsewhere."""
        if self.generations is None:
            raise MeasureError("There are no responses from elsewhere; give generations.")
        rows = [
            answer_row(
                self.problems[place], self.generations.of[self.problems[place].id], mode="cot"
            )
            for place in at
        ]
        return Part(pd.DataFrame(rows, columns=list(ANSWERS)).astype({"habitual": "boolean"}))


@dataclass(frozen=True)
class ResponseStages:
    """The stages that look at the responses the model has written.

    Attributes:
        of: Model, items and settings.
        responses: Token ids of the response to every item.
        n_steps: Rationale steps of each.
        controls: Those of the settings that these responses allow.
        others: Per item the rationale that the control ``other_item`` puts in; empty without one.
        edits: The edits that some item allows.
    """

    of: Stages
    responses: Sequence[Sequence[int]]
    n_steps: Sequence[int] = field(init=False)
    controls: Sequence[str] = field(init=False)
    others: Sequence[str] = field(init=False)
    edits: Sequence[EditKind] = field(init=False)

    def __post_init__(self) -> None:
        """Find every item's partner and which edits there are; say what cannot be measured."""
        problems, controls = self.of.problems, list(self.of.controls)
        parsed = parsed_responses(self.of.mllm, self.responses)
        used = [at for at, response in enumerate(parsed) if response.steps]
        if not used:
            warnings.warn(
                f"None of the {len(problems)} responses has a rationale step, so only answers are "
                "measured; look at the text in answers_cot: rationales are read inside <think>, "
                "and a small max_new_tokens cuts them off.",
                stacklevel=2,
            )
        note = paragraph_note(response.text for response in parsed)
        if note:
            warnings.warn(note, stacklevel=2)
        others = [""] * len(problems)
        if "other_item" in controls and len({problems[at].answer for at in used}) < 2:
            controls.remove("other_item")
            if used:
                warnings.warn(
                    f"The responses with a rationale ({len(used)} of {len(problems)}) are all to "
                    "items of one answer, so the control other_item is left out: it needs two.",
                    stacklevel=2,
                )
        if "other_item" in controls:
            texts = other_rationales([problems[at] for at in used], [parsed[at] for at in used])
            for at, text in zip(used, texts, strict=True):
                others[at] = text
        possible = [kind for kind in self.of.edits if _allowed(problems, kind)]
        object.__setattr__(self, "n_steps", [len(response.steps) for response in parsed])
        object.__setattr__(self, "controls", controls)
        object.__setattr__(self, "others", others)
        object.__setattr__(self, "edits", possible)

    def commitment(self, at: Places) -> Part:
        """Rows of `commitment`, of the items that have a rationale and candidates."""
        kept = self._with_steps(at, forced=True)
        if not kept:
            return Part(pd.DataFrame(columns=list(COMMITMENT)))
        others = [self.others[place] for place in kept]
        return self._rows(at, commitment, forced=True, controls=self.controls, others=others)

    def access(self, at: Places) -> Part:
        """Rows of `visual_access`, of the items that have a rationale."""
        return self._rows(at, visual_access, layers=self.of.layers)

    def extra(self, at: Places, name: Extra) -> Part:
        """Rows of a measurement that was asked for, of the items that have a rationale.

        ``causal`` intervenes in all layers, from the first step and from the middle on;
        ``divergence`` holds the picture against a blank one.
        """
        if name == "answer_access":
            return self._rows(at, answer_access, layers=self.of.layers)
        if name == "causal":
            return self._rows(at, causal_access, forced=True, steps=(0.0, 0.5))
        if name == "lens":
            return self._rows(at, lens_commitment, forced=True, layers=self.of.layers)
        return self._rows(at, token_divergence, edit="blank")

    def _with_steps(self, at: Places, forced: bool = False) -> list[int]:
        """Those with a rationale; if answers are to be forced, open questions are left out."""
        kept = [place for place in at if self.n_steps[place]]
        return [place for place in kept if self.of.problems[place].candidates or not forced]

    def _rows(
        self,
        at: Places,
        measure: Callable[..., pd.DataFrame],
        *,
        forced: bool = False,
        **options: Any,
    ) -> Part:
        """What a measurement finds on those items of a batch that have what it needs."""
        kept = self._with_steps(at, forced)
        if not kept:
            return Part(pd.DataFrame({"item": pd.Series(dtype=str)}))
        table = measure(
            self.of.mllm,
            [self.of.problems[place] for place in kept],
            [self.responses[place] for place in kept],
            batch_size=self.of.batch_size,
            **options,
        )
        return Part(table)

    def dependence(self, at: Places) -> Part:
        """Rows of `dependence`, of the edits that the items allow."""
        local = {place: number for number, place in enumerate(at)}
        edited = [
            replace(one, at=local[one.at])
            for kind in self.edits
            for one in edited_images(self.of.problems, kind, only=at)
        ]
        if not edited:
            return Part(pd.DataFrame(columns=list(DEPENDENCE)))
        # A fresh response of this model says nothing about an answer that another one gave.
        foreign = self.of.generations is not None and self.of.generations.foreign
        table = dependence(
            self.of.mllm,
            [self.of.problems[place] for place in at],
            [self.responses[place] for place in at],
            edits=self.edits,
            edited=edited,
            rationales=("fixed",) if foreign else ("fixed", "regenerated"),
            empty="skip",
            batch_size=self.of.batch_size,
            max_new_tokens=self.of.max_new_tokens,
        )
        return Part(table)

    def maps(self, at: Places) -> Part:
        """Attention maps of the items' rationale steps, and a row per item with their shape."""
        arrays, rows = {}, []
        for place in at:
            if self.n_steps[place]:
                problem = self.of.problems[place]
                found = response_maps(
                    self.of.mllm, problem, self.responses[place], layers=self.of.layers
                )
                array = arrays[problem.id] = found.step_maps()
                rows.append((problem.id, *array.shape))
        return Part(pd.DataFrame(rows, columns=["item", "n_steps", "rows", "cols"]), arrays)


def _allowed(problems: Sequence[Problem], kind: EditKind) -> bool:
    return any(edited_images(problems, kind, only=[at]) for at in range(len(problems)))
