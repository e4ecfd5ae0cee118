"""`measure` and `measure_run`: any measurements of one model on one set of problems."""

import json
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from attcot_analysis.attention.packing import can_share
from attcot_analysis.attention.prefixes import Prefixes, while_needed
from attcot_analysis.attention.probe import chosen_layers
from attcot_analysis.errors import MeasureError, NothingMeasuredError, RunError, check_numbers
from attcot_analysis.files import write_whole
from attcot_analysis.measures._items import Result, refuse_several
from attcot_analysis.measures.access import answer_access, visual_access
from attcot_analysis.measures.answers import COLUMNS as ANSWERS
from attcot_analysis.measures.answers import answer_row, answers_by_seed
from attcot_analysis.measures.behaviours import Behaviour, behaviour
from attcot_analysis.measures.causal import causal_access, layer_windows
from attcot_analysis.measures.commitment import (
    CONTROLS,
    EVERY_CONTROL,
    Commitment,
    asked_by,
    commitment,
    other_rationales,
)
from attcot_analysis.measures.compare import summarise
from attcot_analysis.measures.dependence import COLUMNS as DEPENDENCE
from attcot_analysis.measures.dependence import DependenceReader
from attcot_analysis.measures.divergence import token_divergence
from attcot_analysis.measures.lens import lens_commitment
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.measures.open_answers import OpenCommitment, open_commitment
from attcot_analysis.measures.patches import Patching, patching
from attcot_analysis.measures.probed import check_max_steps
from attcot_analysis.measures.samples import SAMPLE, samples_of, stacked
from attcot_analysis.measures.statements import Perceptions, known_truth, perceptions
from attcot_analysis.measures.unread import paragraph_note
from attcot_analysis.models import Mllm, Mode, PromptCache, encode_problem
from attcot_analysis.models.cache import seen_once
from attcot_analysis.models.generate import Sampling, check_sampling, recommended_sampling
from attcot_analysis.problems import Problem
from attcot_analysis.problems.edits import EditKind, EditOptions, edit_function, edited_images
from attcot_analysis.problems.written_boxes import Unit, unit_of
from attcot_analysis.runs.batches import Batched, attempt, by_length, estimated_lengths, in_order
from attcot_analysis.runs.generations import Generations
from attcot_analysis.runs.parts import Part, Places
from attcot_analysis.runs.provenance import build_manifest, processor_record
from attcot_analysis.runs.run import MADE_WITH, MANIFEST, RESPONSES, RunFolder
from attcot_analysis.runs.shards import Shards
from attcot_analysis.runs.values import DEFAULT, EXTRAS, NAMES, What, read_values, with_values

_ON_RATIONALES: frozenset[What] = frozenset(("commitment", "access", "dependence", *EXTRAS, "maps"))
_OF_ONE_PICTURE: frozenset[What] = frozenset(("divergence", "behaviour", "perceptions"))
EDITS: tuple[EditKind, ...] = ("twin", "control", "blank")
"""The edits of dependence that are made where an item allows them."""
LINES = "responses.jsonl"
_RECORDED = ("config", "models", "data", "item_digests")
_STRIDE = 1_000_003
"""Between the seeds of two samples; a prime, so that batches do not share theirs."""


@dataclass(frozen=True)
class Settings:
    """How things are measured; the keyword arguments of `measure` and `measure_run`.

    Attributes:
        layers: Layers whose attention is read; ``None`` for all.
        controls: Controls of the commitment curve.
        edits: Edits of dependence; those that no item allows are left out. ``"blank@2"`` is of the
            second of several pictures; by default each of up to four is made blank, one by one.
        fill: What occluded evidence and its control show, a name in `FILLS`.
        regenerated_log_p: Read the log-probabilities after the rationales that dependence
            regenerates; see `dependence`.
        max_steps: At most so many steps of a rationale after which answers are forced, for
            commitment and lens; ``None`` for all. See `commitment`.
        generations: CoT responses that were written elsewhere, to be measured instead of the
            model's own, which it then does not write. If they are another model's, dependence has
            no regenerated rationales.
        batch_size: Items per forward pass or generation, and per part in the run folder. Of fewer
            items, several samples are written together.
        max_new_tokens: Length limit of a response.
        mode: Of ``"responses"``: ``"cot"`` or ``"direct"``.
        text_only: Of ``"responses"``: leave the pictures out.
        samples: Responses per item; more than one need a temperature or ``sampling``. ``None`` for
            one, or as many as the generations have.
        edited_samples: Of how many of them, the first ones, dependence is read: each costs a new
            response and a forced answer per edited picture.
        temperature: Of all responses that the model writes: 0 for greedy.
        sampling: ``"recommended"``: every response is drawn as the checkpoint's publisher
            recommends, those of dependence included; see `recommended_sampling`.
        seed: Of sampling, which also depends on ``batch_size``, and of the intervals' bootstrap.
    """

    layers: Collection[int] | None = None
    controls: Sequence[str] = CONTROLS
    edits: Sequence[EditKind] = EDITS
    fill: str = "mean"
    regenerated_log_p: bool = True
    max_steps: int | None = None
    generations: Generations | None = None
    batch_size: int = 64
    max_new_tokens: int = 256
    mode: Mode = "cot"
    text_only: bool = False
    samples: int | None = None
    edited_samples: int = 1
    temperature: float = 0.0
    sampling: Sampling | None = None
    seed: int = 0

    @property
    def n_samples(self) -> int:
        """How many CoT responses per item are measured."""
        if self.samples is not None:
            return self.samples
        return 1 if self.generations is None else self.generations.n_samples

    @property
    def n_written(self) -> int:
        """How many responses per item the model writes: greedy ones would all be the same."""
        return self.n_samples if self.temperature or self.sampling else 1

    def check(self) -> None:
        """See that the settings fit together.

        Raises:
            MeasureError: If they do not.
        """
        check_numbers(
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            samples=self.n_samples,
            edited_samples=self.edited_samples,
            seed=self.seed,
        )
        check_max_steps(self.max_steps)
        check_sampling(self.temperature, self.sampling)
        if self.n_samples > 1 and self.n_written == 1 and self.generations is None:
            raise MeasureError(
                f"{self.n_samples} samples at temperature 0 would all be the same; give a "
                "temperature above 0."
            )
        if set(self.controls) - set(EVERY_CONTROL):
            raise MeasureError(
                f"controls is {list(self.controls)}; choose from {', '.join(EVERY_CONTROL)}."
            )
        for kind in self.edits:
            edit_function(kind)
        if len(set(self.edits)) < len(self.edits):
            raise MeasureError(f"edits is {list(self.edits)}; name each once.")
        EditOptions(fill=self.fill)
        if "rationale" not in self.controls:
            raise MeasureError(
                f"controls is {list(self.controls)}; add 'rationale', what the others are held "
                "against."
            )

    def record(self, what: Collection[What]) -> dict[str, Any]:
        """Those that the numbers of some measurements depend on, as JSON values."""
        names = ["batch_size", "max_new_tokens"]
        names += ["mode", "text_only", "temperature"] if "responses" in what else []
        names += ["controls", "edits", "regenerated_log_p"] if _ON_RATIONALES & set(what) else []
        record = {name: getattr(self, name) for name in names}
        # What is new is not there by default: earlier runs, which do not say it, go on.
        if "responses" in what or self.n_samples > 1:
            record["samples"] = self.n_samples
        if self.edited_samples < self.n_samples and "dependence" in what:
            record["edited_samples"] = self.edited_samples
        if self.temperature:
            record["temperature"] = self.temperature
        if self.fill != "mean" and _ON_RATIONALES & set(what):
            record["fill"] = self.fill
        if self.max_steps is not None and _ON_RATIONALES & set(what):
            record["max_steps"] = self.max_steps
        if _ON_RATIONALES & set(what):
            record["layers"] = None if self.layers is None else sorted(self.layers)
        if self.generations is not None:
            record["generations"] = self.generations.record()
        return record


@dataclass(frozen=True)
class Stages:
    """The stages that ask the model.

    Attributes:
        mllm: The model.
        problems: All items of the run, also those of other batches.
        settings: How to measure.
    """

    mllm: Mllm
    problems: Sequence[Problem]
    settings: Settings = Settings()

    @property
    def sampling(self) -> dict[str, Any]:
        """What is recommended, value by value; nothing if it was not asked for."""
        return {} if self.settings.sampling is None else recommended_sampling(self.mllm)

    def check(self, what: Collection[What] = DEFAULT) -> None:
        """See that everything fits together, before anything is computed.

        Raises:
            MeasureError: If it does not.
        """
        names = [problem.id for problem in self.problems]
        if not names:
            raise MeasureError("No problems were given to measure; give at least one.")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise MeasureError(f"Item {twice} is there twice; give every problem an id of its own.")
        self.settings.check()
        if isinstance(self.mllm, Mllm) and _ON_RATIONALES & set(what):
            # Once responses are written, a folder keeps to these.
            chosen_layers(self.mllm, self.settings.layers)
            asked_by(self.mllm, self.settings.controls)
            for kind in self.settings.edits:
                edited_images(self.problems, kind, only=())
            for name in _OF_ONE_PICTURE & set(what):
                refuse_several(self.problems, name)
        drawn = self.sampling.get("do_sample", True)
        if self.settings.n_written > 1 and not drawn:
            raise MeasureError(
                f"{self.mllm.name} recommends greedy responses, of which {self.settings.n_samples} "
                "samples would all be the same; give a temperature above 0."
            )
        if self.settings.generations is not None:
            self.settings.generations.check(self.problems, self.settings.n_samples)
            if self.settings.generations.foreign and "behaviour" in what:
                raise MeasureError(
                    "Behaviour asks this model again and holds its answers against those of the "
                    "responses, which another model wrote; leave behaviour out."
                )

    def answers(self, at: Places, mode: Mode, text_only: bool = False) -> Part:
        """Rows of `answer_problems`; of several samples also ``sample``, from 0."""
        tables = self._answers(at, mode, text_only, self.settings.n_written)
        return Part(tables[0] if len(tables) == 1 else stacked(tables))

    def responses(self, at: Places) -> Part:
        """Rows of `answer_problems` and ``sample``, from 0."""
        settings = self.settings
        tables = self._answers(at, settings.mode, settings.text_only, settings.n_samples)
        marked = [table.assign(sample=sample) for sample, table in enumerate(tables)]
        return Part(pd.concat(marked, ignore_index=True))

    def _answers(self, at: Places, mode: Mode, text_only: bool, n: int) -> list[pd.DataFrame]:
        def ask(seeds: Sequence[int]) -> list[pd.DataFrame]:
            return answers_by_seed(
                self.mllm,
                [self.problems[place] for place in at],
                mode=mode,
                text_only=text_only,
                batch_size=self.settings.batch_size,
                max_new_tokens=self.settings.max_new_tokens,
                temperature=self.settings.temperature,
                sampling=self.settings.sampling,
                seeds=seeds,
            )

        seeds = [self.sampling_seed(at, sample) for sample in range(n)]
        # Where memory does not do for several at once, a part of the items would be no less.
        found = attempt(lambda: ask(seeds)) if n > 1 else None
        return found or [table for seed in seeds for table in ask([seed])]

    def sampling_seed(self, at: Places, sample: int) -> int:
        """The seed of a batch's sample, of no other batch and sample."""
        return self.settings.seed + at[0] + _STRIDE * sample

    def written(self, at: Places) -> Part:
        """Rows of `answer_problems` made of responses that were written elsewhere."""
        given = self.settings.generations
        if given is None:
            raise MeasureError("There are no responses from elsewhere; give generations.")
        n = self.settings.n_samples
        problems = [self.problems[place] for place in at]
        form = self.mllm.format
        tables = [
            pd.DataFrame(
                [
                    answer_row(
                        one,
                        given.samples(one.id)[sample],
                        mode="cot",
                        form=form,
                        given=given.scores[one.id][sample] if given.scores else None,
                    )
                    for one in problems
                ],
                columns=list(ANSWERS),
            ).astype({"habitual": "boolean"})
            for sample in range(n)
        ]
        return Part(tables[0] if n == 1 else stacked(tables))


class ResponseStages:
    """The stages that look at the responses the model has written, one to every item.

    Attributes:
        of: Model, items and settings.
        responses: Token ids of the response to every item.
        n_steps: Rationale steps of each.
        states_answer: Whether each states an answer.
        controls: Those of the settings that these responses allow.
        others: Per item the rationale that the control ``other_item`` puts in; empty without one.
        edits: The edits that some item allows.
        sample: Which of several responses to every item these are; 0 if it is the only one.
    """

    def __init__(self, of: Stages, responses: Sequence[Sequence[int]], sample: int = 0) -> None:
        """Find every item's partner and which edits there are; say what cannot be measured."""
        self.of, self.responses, self.sample = of, responses, sample
        which = f"Sample {sample}: " if of.settings.n_samples > 1 else ""
        problems, self.controls = of.problems, list(of.settings.controls)
        parsed = [of.mllm.parse(response) for response in responses]
        self.n_steps = [len(response.steps) for response in parsed]
        self._texts = [response.step_texts for response in parsed]
        self.states_answer = [response.answer_range is not None for response in parsed]
        used = [place for place, steps in enumerate(self.n_steps) if steps]
        if not used:
            warnings.warn(
                f"{which}None of the {len(problems)} responses has a rationale step, so only "
                "answers are measured; look at the text in answers_cot: rationales are read in the "
                f"format {of.mllm.format.name}, and a small max_new_tokens cuts them off.",
                stacklevel=2,
            )
        note = paragraph_note(
            pd.DataFrame({"cut": [one.cut for one in parsed], "n_steps": self.n_steps})
        )
        if note:
            warnings.warn(f"{which}{note}", stacklevel=2)
        self.others = [""] * len(problems)
        if "other_item" in self.controls and len({problems[place].answer for place in used}) < 2:
            self.controls.remove("other_item")
            if used:
                warnings.warn(
                    f"{which}The responses with a rationale ({len(used)} of {len(problems)}) are "
                    "all to items of one answer, so the control other_item is left out: it needs "
                    "two.",
                    stacklevel=2,
                )
        if "other_item" in self.controls:
            rest = [problems[at] for at in used], [parsed[at] for at in used]
            texts = other_rationales(*rest, of.mllm.format)
            for place, text in zip(used, texts, strict=True):
                self.others[place] = text
        self.edits = [kind for kind in of.settings.edits if _allowed(problems, kind)]
        left = [kind for kind in of.settings.edits if kind not in (*self.edits, *EDITS)]
        if left and not sample:
            warnings.warn(
                f"No item allows the edit {' or '.join(left)}, so dependence has no rows of it.",
                stacklevel=2,
            )

    def commitment(self, at: Places) -> Part:
        """Rows of `commitment`, of the items that have a rationale and candidates."""
        kept = self._with_steps(at, forced=True)
        if not kept:
            return Part(pd.DataFrame(columns=list(Commitment.columns)))
        self.fill(at)
        others = [self.others[place] for place in kept]
        return self._rows(
            at,
            commitment,
            forced=True,
            controls=self.controls,
            others=others,
            max_steps=self.of.settings.max_steps,
        )

    def access(self, at: Places) -> Part:
        """Rows of `visual_access`, of the items that have a rationale."""
        return self._rows(at, visual_access, layers=self.of.settings.layers, sinks=True)

    def answer_access(self, at: Places) -> Part:
        """Rows of `answer_access`, of the items that have a rationale and a stated answer."""
        stated = [place for place in at if self.states_answer[place]]
        return self._rows(stated, answer_access, layers=self.of.settings.layers)

    def causal(self, at: Places) -> Part:
        """Rows of `causal_access` in all layers, from the first step and from the middle on."""
        return self._rows(at, causal_access, forced=True, steps=(0.0, 0.5))

    def lens(self, at: Places) -> Part:
        """Rows of `lens_commitment`, of the items that have a rationale and candidates."""
        settings = self.of.settings
        layers, steps = settings.layers, settings.max_steps
        return self._rows(at, lens_commitment, forced=True, layers=layers, max_steps=steps)

    def divergence(self, at: Places) -> Part:
        """Rows of `token_divergence` from a blank picture."""
        return self._rows(at, token_divergence, edit="blank")

    def open_commitment(self, at: Places) -> Part:
        """Rows of `open_commitment`, of the items that have a rationale and a stated answer."""
        self.fill(at)
        try:
            steps = self.of.settings.max_steps
            return self._rows(at, open_commitment, max_steps=steps, empty="skip")
        except NothingMeasuredError:
            return Part(pd.DataFrame(columns=list(OpenCommitment.columns)))

    def patching(self, at: Places) -> Part:
        """Rows of `patching` of the residual stream, in at most eight windows of layers."""
        n_layers = self.of.mllm.n_layers
        windows = layer_windows(n_layers, -(-n_layers // 8))
        steps = self.of.settings.max_steps
        try:
            return self._rows(at, patching, forced=True, windows=windows, max_steps=steps)
        except NothingMeasuredError:
            return Part(pd.DataFrame(columns=list(Patching.columns)))

    def behaviour(self, at: Places) -> Part:
        """Rows of `behaviour`, of the items that have a rationale."""
        prefixes = self.of.mllm.prefixes
        with prefixes.while_needed() if prefixes else nullcontext():
            try:
                longest = self.of.settings.max_new_tokens
                return self._rows(at, behaviour, max_new_tokens=longest)
            except NothingMeasuredError:
                return Part(pd.DataFrame(columns=list(Behaviour.columns)))

    def perceptions(self, at: Places) -> Part:
        """Rows of `perceptions`, of the items that have a rationale."""
        kept = self._with_steps(at)
        if not kept:
            return Part(pd.DataFrame(columns=list(Perceptions.columns)))
        problems, steps = (
            [self.of.problems[one] for one in kept],
            [self._texts[one] for one in kept],
        )
        return Part(perceptions(problems, steps, truth=known_truth, unit=self._unit).table)

    @cached_property
    def _unit(self) -> Unit:
        """Of boxes in JSON: one for all that the model wrote, not one for each batch."""
        both = zip(self.of.problems, self._texts, strict=True)
        return unit_of((text, problem.size) for problem, own in both for text in own)

    def fill(self, at: Places) -> None:
        """Keep the items' own sequences, if the model can share.

        All of a batch, whatever is measured of them, so that a resumed run gives the same numbers.
        """
        mllm, kept = self.of.mllm, self._with_steps(at)
        if mllm.prefixes is None or not kept:
            return
        items = [
            encode_problem(mllm, self.of.problems[place], response=self.responses[place])
            for place in kept
        ]
        if mllm.prefixes.shares(mllm, items):
            mllm.prefixes.fill(mllm, items, whole=True)

    def _with_steps(self, at: Places, forced: bool = False) -> list[int]:
        """Those with a rationale; if answers are to be forced, open questions are left out."""
        kept = [place for place in at if self.n_steps[place]]
        return [place for place in kept if self.of.problems[place].candidates or not forced]

    def _rows(
        self,
        at: Places,
        measure: Callable[..., Result | pd.DataFrame],
        *,
        forced: bool = False,
        **options: Any,
    ) -> Part:
        """What a measurement gives on those items of a batch that have what it needs."""
        kept = self._with_steps(at, forced)
        if not kept:
            return Part(pd.DataFrame({"item": pd.Series(dtype=str)}))
        result = measure(
            self.of.mllm,
            [self.of.problems[place] for place in kept],
            [self.responses[place] for place in kept],
            batch_size=self.of.settings.batch_size,
            **options,
        )
        return Part(result.table if isinstance(result, Result) else result)

    def dependence(self, at: Places) -> Part:
        """Rows of `dependence`, of the edits that the items allow."""
        return _dependence([self], at)[0]

    def reader(self, at: Places) -> DependenceReader:
        """What reads dependence on these responses edit by edit."""
        self.fill(at)
        settings = self.of.settings
        # A fresh response of this model says nothing about an answer that another one gave.
        foreign = settings.generations is not None and settings.generations.foreign
        return DependenceReader(
            self.of.mllm,
            [self.of.problems[place] for place in at],
            [self.responses[place] for place in at],
            rationales=("fixed",) if foreign else ("fixed", "regenerated"),
            regenerated_log_p=settings.regenerated_log_p,
            empty="skip",
            batch_size=settings.batch_size,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            sampling=settings.sampling,
            # Not the seeds of the responses themselves: a flip needs draws of its own.
            seed=self.of.sampling_seed(at, settings.n_samples + self.sample),
        )

    def maps(self, at: Places) -> Part:
        """Attention maps of the items' rationale steps, and a row per item with their shape."""
        arrays, rows = {}, []
        for place in self._with_steps(at):
            problem = self.of.problems[place]
            maps = response_maps(
                self.of.mllm, problem, self.responses[place], layers=self.of.settings.layers
            )
            array = arrays[problem.id] = maps.step_maps()
            rows.append((problem.id, *array.shape))
        return Part(pd.DataFrame(rows, columns=["item", "n_steps", "rows", "cols"]), arrays)


class SampledStages:
    """`ResponseStages` of every sample, in one table with a column ``sample``.

    A batch has all samples of its items, so that an item's rows are in one part.
    """

    def __init__(self, of: Stages, samples: Sequence[Sequence[Sequence[int]]]) -> None:
        """Take the responses of every sample: ``samples[s]`` has one per item."""
        self._each = [ResponseStages(of, one, at) for at, one in enumerate(samples)]

    def rows(self, name: str, at: Places) -> Part:
        """What the stage of a name gives for each sample, or for the first ones."""
        edited = self._each[0].of.settings.edited_samples
        each = self._each[: {"maps": 1, "dependence": edited}.get(name, len(self._each))]
        if name in ("commitment", "open_commitment"):
            # As where access was read: last digits hang on what else is kept to go on from.
            for stages in self._each:
                stages.fill(at)
        if name == "dependence":
            parts = _dependence(each, at)
        else:
            parts = [getattr(stages, name)(at) for stages in each]
        return Part(stacked([part.rows for part in parts]), parts[0].arrays)


def _dependence(each: Sequence[ResponseStages], at: Places) -> list[Part]:
    """Rows of `dependence` of every sample, which share what an edited picture is prefilled for."""
    of = each[0].of
    mllm, problems, options = of.mllm, of.problems, EditOptions(fill=of.settings.fill)
    local = {place: number for number, place in enumerate(at)}
    readers: list[DependenceReader] = []
    for kind in each[0].edits:
        edited = edited_images(problems, kind, only=at, options=options)
        if edited and not readers:
            readers = [stages.reader(at) for stages in each]
        with while_needed(mllm):
            if len(each) > 1:
                shown = [
                    encode_problem(mllm, problems[one.at], image=one.shown(problems[one.at]))
                    for one in edited
                ]
                if shown and can_share(mllm, shown):
                    mllm.prefixes.fill(mllm, shown)
            for reader in readers:
                reader.read(kind, [replace(one, at=local[one.at]) for one in edited])
    if not readers:
        return [Part(_dependence_rows(None)) for _ in each]
    return [Part(_dependence_rows(reader)) for reader in readers]


def _dependence_rows(reader: DependenceReader | None) -> pd.DataFrame:
    """What was read; no rows where there was no edit, or none that a measurement can use."""
    try:
        if reader is not None:
            return reader.result().table
    except NothingMeasuredError:
        pass  # Open questions with given responses, or edits that this model's crop hides.
    return pd.DataFrame(columns=list(DEPENDENCE))


def _allowed(problems: Sequence[Problem], kind: EditKind) -> bool:
    return any(edited_images(problems, kind, only=[at]) for at in range(len(problems)))


def measure(
    mllm: Mllm,
    problems: Sequence[Problem],
    what: Collection[str] = DEFAULT,
    *,
    run: RunFolder | None = None,
    prefix: str = "",
    shards: Shards | None = None,
    progress: bool = False,
    **settings: Any,
) -> dict[str, pd.DataFrame]:
    """Measure a model on problems, on the rationales that it writes itself.

    Commitment, access, dependence and what else looks at rationales are measured on the model's
    own CoT responses (greedy, unless ``sampling`` says otherwise), the table ``answers_cot``;
    responses without a rationale step have no rows there and count as answered in the answer
    tables only; where none has one, a warning says so. Open questions have no rows where answers
    are forced; what the items lack is left out, never guessed (see `data_coverage`).

    With ``samples=K`` and a temperature (or ``sampling``), the model writes K responses to every
    item in every mode. Every table that is read on responses has them all,
    told apart by a second column ``sample`` (0 to K − 1; without it there is one), and what is
    forced is measured on each. Maps are those of sample 0, and so is dependence, unless
    ``edited_samples`` says that of more.

    Batches are fixed: items of like length together (`by_length`), the same whenever it is called.
    With a run folder each is on the disk as soon as it is measured, and one that is there is not
    measured again. A run that was killed and resumed, or shared by several processes, therefore
    gives the same numbers to the last digit as one that was not (on like hardware with the same
    number of threads). A batch that does not fit into memory is halved until it does, with a
    warning; its numbers can differ in their last digits.

    Args:
        mllm: The model.
        problems: The items.
        what: Any of ``"answers"`` (CoT answers, table ``answers_cot``; made wherever
            something below is), ``"direct"`` (``answers_direct``), ``"text_only"``
            (``answers_text_only``), ``"commitment"``, ``"access"``, ``"dependence"``,
            ``"answer_access"``, ``"causal"`` (`causal_access` from the first step and from the
            middle on), ``"lens"`` (`lens_commitment`), ``"divergence"`` (`token_divergence` from a
            blank picture), ``"patching"`` (`patching` of the residual stream, in at most eight
            windows of layers), ``"behaviour"`` (`behaviour`, which writes greedily, two responses
            per item and probe), ``"perceptions"`` (`perceptions`: boxes, and statements where
            items have a scene), ``"maps"`` (every rationale's attention maps, which needs a run
            folder) and ``"responses"`` (sampled, in any mode; independent of the others).
        run: Where to keep the tables; default in memory only.
        prefix: Put before the tables' names there.
        shards: The processes that share the work, each with a copy of the model and all with the
            same run folder; default only this one.
        progress: Show progress bars.
        **settings: Fields of `Settings`, such as ``batch_size``, ``layers`` or ``max_new_tokens``.

    Returns:
        The tables by name, as the functions of the same names return them, with the rows in the
        order of the items. ``maps`` has one row per item with a rationale: ``item``, ``n_steps``,
        ``rows``, ``cols``, the shape of the item's array in ``run.read_arrays("maps")`` (see
        `ResponseMaps.step_maps`). ``responses`` has a column ``sample``, from 0.

    Raises:
        MeasureError: If the arguments do not fit together.
        RunError: If what the run folder holds is damaged or was measured with another model, other
            items or settings, or another process has failed.
    """
    chosen, shards = _chosen(what, problems), shards or Shards()
    mllm, clear = sharing(mllm)
    stages = Stages(mllm, problems, _settings(problems, settings))
    if run is None and ("maps" in chosen or shards.count > 1):
        raise MeasureError("Maps and several processes need a run folder; pass run as well.")
    stages.check(chosen)
    if run is not None and isinstance(mllm, Mllm):
        folder = run

        def note() -> None:
            manifest = _manifest(stages, chosen)
            folder.made_with(f"{prefix}{MADE_WITH}", {key: manifest[key] for key in _RECORDED})

        shards.from_main(note)
    made = Batched([problem.id for problem in problems], run, prefix, shards, progress)
    _make(made, stages, chosen, clear)
    return {name: made.read(name) for name in (NAMES.get(one, one) for one in chosen)}


def _settings(problems: Sequence[Problem], given: dict[str, Any]) -> Settings:
    """Settings, with the edits that there are by default of several pictures each."""
    most = max((problem.n_images for problem in problems), default=1)
    if most > 1 and "edits" not in given:
        blank = [f"blank@{number}" for number in range(1, min(most, 4) + 1)]
        given = {**given, "edits": [*EDITS[:2], *blank]}
    return Settings(**given)


def measure_run(
    folder: str | Path,
    mllm: Mllm,
    problems: Sequence[Problem],
    what: Collection[str] = DEFAULT,
    *,
    shards: Shards | None = None,
    progress: bool = False,
    **settings: Any,
) -> RunFolder:
    """`measure` into a run folder; called again on the same folder it resumes.

    Writes the tables of `measure`, ``values`` (a number per item and metric) and ``summary`` (with
    intervals), and a manifest with model, processor, data, settings and versions. A folder of other
    settings, models or data is refused. What it holds is not measured again: other tables are added
    to those that are there, ``values`` and ``summary`` are of all that are whole, and the manifest
    says under ``added`` which came later and when. Of ``"responses"`` it also writes, per sample,
    JSON lines with ``id``, ``ids`` (tokens of the response), ``text``, ``finish_reason`` (``stop``
    or ``length``) and ``model``: ``responses.jsonl`` for sample 0, ``responses-1.jsonl`` and so on.

    Args:
        folder: New, empty, or of the same run.
        mllm: The model.
        problems: The items.
        what: What to measure; see `measure`.
        shards: The processes that share the work; default only this one.
        progress: Show progress bars (in the main process).
        **settings: Fields of `Settings`.

    Returns:
        The finished run.

    Raises:
        MeasureError: As `measure`.
        RunError: As `measure`, or if the folder is another run's, or one is writing to it.
    """
    chosen, shards = _chosen(what, problems), shards or Shards()
    mllm, clear = sharing(mllm)
    stages = Stages(mllm, problems, _settings(problems, settings))
    stages.check(chosen)
    with ExitStack() as held:

        def open_folder() -> str:
            before = _measured_before(folder) or chosen
            manifest = _manifest(stages, before)
            manifest["models"]["model"]["processor"] = processor_record(mllm)
            noted = manifest | {"processes": shards.count}
            begun = held.enter_context(RunFolder.begun(folder, noted, resume=True))
            if added := [name for name in chosen if name not in before]:
                both = [name for name in get_args(What) if name in {*before, *added}]
                begun.add(_manifest(stages, both)["config"], added)
            return str(manifest["models"]["model"]["name"])

        name = shards.from_main(open_folder)
        run = RunFolder.open(folder)
        items = [problem.id for problem in problems]
        made = Batched(items, run, "", shards, progress and shards.main)
        _make(made, stages, chosen, clear)
        with shards.together():
            if shards.main:
                _finish(run, stages.settings, chosen, problems, name)
    return run


def _chosen(what: Collection[str], problems: Sequence[Problem]) -> list[What]:
    """What is measured, in order: with the answers, if something reads them.

    Where all items are open questions, commitment is measured without candidates.
    """
    unknown = [name for name in what if name not in get_args(What)]
    if unknown:
        raise MeasureError(
            f"There is no measure {', '.join(map(repr, unknown))}; choose from "
            f"{', '.join(get_args(What))}."
        )
    wanted = {*what, "answers"} if _ON_RATIONALES & set(what) else set(what)
    if not wanted:
        raise MeasureError(f"Nothing is to be measured; choose from {', '.join(get_args(What))}.")
    if "commitment" in wanted and not any(problem.candidates for problem in problems):
        wanted.add("open_commitment")
    return [name for name in get_args(What) if name in wanted]


def check_only(folder: str | Path, what: Collection[str]) -> None:
    """See that some measurements can be made alone, with what a run folder holds.

    Args:
        folder: Of the run, or where it is to be.
        what: As in `measure_run`, where nothing is to be measured that is not named.

    Raises:
        MeasureError: If one is unknown, or is read on responses that are neither there nor named.
    """
    _chosen(what, ())
    needing = [name for name in what if name in _ON_RATIONALES]
    if needing and "answers" not in what and RESPONSES not in RunFolder(folder).tables:
        raise MeasureError(
            f"{', '.join(needing)} cannot be measured alone: {folder} has no table {RESPONSES}, "
            "whose responses are read; name answers as well."
        )


def _measured_before(folder: str | Path) -> list[What]:
    """What a run folder was measured for, as its manifest says it; nothing if it is new."""
    run = RunFolder(folder)
    config = run.manifest.get("config") if run.has(MANIFEST) else None
    what = config.get("what") if isinstance(config, dict) else None
    asked = what if isinstance(what, list) else []
    return asked if all(name in get_args(What) for name in asked) else []


def _manifest(stages: Stages, what: Sequence[What]) -> dict[str, Any]:
    """What the measurements are made with."""
    config = {
        "what": list(what),
        **stages.settings.record(what),
        **({"sampling": stages.sampling} if stages.sampling else {}),
        "dtype": str(stages.mllm.dtype).removeprefix("torch."),
    }
    return build_manifest(
        seed=stages.settings.seed,
        config=config,
        models={"model": stages.mllm},
        data={"test": stages.problems},
    )


def sharing(mllm: Mllm | None) -> tuple[Any, Callable[[], None]]:
    """A model that prepares every picture of a batch once and runs what passes share once.

    Returns:
        The model, and what lets go of all that was kept for a batch.
    """
    if mllm is None:  # Stages of one's own need none.
        return mllm, lambda: None
    prefixes, cache = Prefixes(mllm), PromptCache(still=True)

    def clear() -> None:
        prefixes.clear()
        cache.clear()

    return replace(mllm, prefixes=prefixes, cache=mllm.cache or cache), clear


def _make(made: Batched, stages: Stages, what: Sequence[What], clear: Callable[[], None]) -> None:
    """Make all tables; those of a run folder are not read."""
    problems, size = stages.problems, stages.settings.batch_size
    plain = by_length(estimated_lengths(problems), size)
    own = partial(stages.answers, mode="cot")
    asked: dict[What, Callable[[Places], Part]] = {
        "answers": own if stages.settings.generations is None else stages.written,
        "direct": partial(stages.answers, mode="direct"),
        "text_only": partial(stages.answers, mode="cot", text_only=True),
    }
    with seen_once(stages.mllm) as forget:

        def begin() -> None:
            forget()
            clear()

        if "responses" in what:
            # In order, since a batch's seed follows from its first item.
            made.make({"responses": stages.responses}, in_order(len(problems), size), begin)
        answers = {NAMES[name]: asked[name] for name in what if name in asked}
        if answers:
            made.make(answers, plain, begin)
        if _ON_RATIONALES & set(what):
            _make_on_rationales(made, stages, what, begin)
        clear()


def _make_on_rationales(
    made: Batched, stages: Stages, what: Sequence[What], clear: Callable[[], None]
) -> None:
    """Make the tables that are read on responses, those of a batch one after the other."""
    problems = stages.problems
    answers = made.read("answers_cot")
    samples = [[list(ids) for ids in rows["ids"]] for rows in samples_of(answers)]
    longest = [max(ids, key=len) for ids in zip(*samples, strict=True)]
    batches = by_length(estimated_lengths(problems, longest), stages.settings.batch_size)
    # Access first: what it runs from beginning to end, the others go on from.
    names = sorted((name for name in what if name in _ON_RATIONALES), key="access".__ne__)
    if SAMPLE in answers:
        stage = SampledStages(stages, samples)
        every = {str(name): partial(stage.rows, name) for name in names}
    else:
        rest = ResponseStages(stages, samples[0])
        every = {str(name): getattr(rest, name) for name in names}
    made.make(every, batches, clear)


def _finish(
    run: RunFolder,
    settings: Settings,
    what: Sequence[What],
    problems: Sequence[Problem],
    model: str,
) -> None:
    """Write what is made of the tables of a run."""
    if "responses" in what:
        for sample in range(settings.n_samples):
            _write_lines(run, sample, model)
    if set(what) - {"responses"}:
        names = {NAMES.get(name, name) for name in (*what, *_measured_before(run.path))}
        names &= {*run.tables}
        every = read_values(
            lambda name: run.read_blocks(name) if name in names else (),
            problems,
            model=model,
            seed=settings.seed,
            foreign=settings.generations is not None and settings.generations.foreign,
        )
        values = with_values(every)
        run.write_table("values", values, overwrite=True)
        run.write_table("summary", summarise(values, seed=settings.seed), overwrite=True)


def response_file(run: RunFolder, sample: int = 0) -> Path:
    """The JSON lines of one sample of ``"responses"``.

    Raises:
        RunError: If there is no such sample.
    """
    path = _lines(run, sample)
    if not path.is_file():
        raise RunError(f"{run.path} has no sample {sample}; generate more, or name another.")
    return path


def _lines(run: RunFolder, sample: int) -> Path:
    return run.path / (LINES if sample == 0 else f"{Path(LINES).stem}-{sample}.jsonl")


def _write_lines(run: RunFolder, sample: int, model: str) -> None:
    table = run.read_table("responses")
    table = table[table["sample"] == sample]
    lines = [
        json.dumps(
            {
                "id": item,
                "ids": [int(token) for token in ids],
                "text": text,
                "finish_reason": "stop" if finished else "length",
                "model": model,
            }
            | ({"sample": sample} if sample else {}),
            ensure_ascii=False,
        )
        for item, ids, text, finished in zip(
            table["item"], table["ids"], table["text"], table["finished"], strict=True
        )
    ]
    content = "\n".join(lines) + "\n"
    write_whole(_lines(run, sample), lambda part: part.write_text(content, encoding="utf-8"))
