"""All measurements of one model on one set of problems, as a dictionary of tidy tables."""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args
import pandas as pd
from attcot_analysis.errors import MeasureError
from attcot_analysis.measures.access import VisualAccess, answer_access, visual_access
from attcot_analysis.measures.answers import COLUMNS as ANSWERS
from attcot_analysis.measures.answers import answer_problems, answer_row
from attcot_analysis.runs.batches import Places
from attcot_analysis.measures.causal import CausalAccess, causal_access
from attcot_analysis.measures._items import Result, parsed_responses
from attcot_analysis.measures.commitment import CONTROLS, Commitment, commitment
from attcot_analysis.measures.commitment import other_items, other_rationales
from attcot_analysis.measures.dependence import Dependence, dependence
from attcot_analysis.measures.divergence import token_divergence
from attcot_analysis.problems.edits import EditKind, edited_images
from attcot_analysis.runs.generations import Generations
from attcot_analysis.measures.lens import lens_commitment
from attcot_analysis.runs.records import Part
from attcot_analysis.measures.maps import response_maps
from attcot_analysis.measures.unread import paragraph_note
from attcot_analysis.models import Mllm, Mode
from attcot_analysis.problems import Problem
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from attcot_analysis.runs.batches import Batched
from attcot_analysis.runs.batches import by_length, estimated_lengths, in_order
from attcot_analysis.problems.edits import EDIT_KINDS, EditKind
from attcot_analysis.runs.records import read_blocks
from attcot_analysis.measures.compare import summarise
from attcot_analysis.runs.provenance import build_manifest, processor_record
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.shards import Shards
from attcot_analysis.measures.unread import unread_sentence, unread_shares
from attcot_analysis.measures.compare import item_values
from attcot_analysis.models import Mllm


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
            ("edits", self.edits, tuple(EDIT_KINDS)),
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
            return Part(pd.DataFrame(columns=list(Commitment.columns)))
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
        measure: Callable[..., Result | pd.DataFrame],
        *,
        forced: bool = False,
        **options: Any,
    ) -> Part:
        """What a measurement finds on those items of a batch that have what it needs."""
        kept = self._with_steps(at, forced)
        if not kept:
            return Part(pd.DataFrame({"item": pd.Series(dtype=str)}))
        found = measure(
            self.of.mllm,
            [self.of.problems[place] for place in kept],
            [self.responses[place] for place in kept],
            batch_size=self.of.batch_size,
            **options,
        )
        return Part(found.table if isinstance(found, Result) else found)

    def dependence(self, at: Places) -> Part:
        """Rows of `dependence`, of the edits that the items allow."""
        local = {place: number for number, place in enumerate(at)}
        edited = [
            replace(one, at=local[one.at])
            for kind in self.edits
            for one in edited_images(self.of.problems, kind, only=at)
        ]
        if not edited:
            return Part(pd.DataFrame(columns=list(Dependence.columns)))
        # A fresh response of this model says nothing about an answer that another one gave.
        foreign = self.of.generations is not None and self.of.generations.foreign
        found = dependence(
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
        return Part(found.table)

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


TABLES = (
    "answers_cot",
    "answers_direct",
    "answers_text_only",
    "commitment",
    "access",
    "dependence",
)

"""The tables `measure_all` always makes, in the order it makes them."""

MADE_WITH = "made_with"

"""Note in a run folder of what model, items and settings `measure_all` was called with."""

_SAME = ("config", "models", "data", "item_digests")



def measure_all(
    mllm: Mllm,
    problems: Sequence[Problem],
    *,
    layers: Collection[int] | None = None,
    controls: Sequence[str] = CONTROLS,
    edits: Sequence[EditKind] = EDITS,
    extras: Sequence[Extra] = (),
    maps: bool = False,
    batch_size: int = 64,
    similar: bool = False,
    max_new_tokens: int = 256,
    generations: Generations | None = None,
    run: RunFolder | None = None,
    prefix: str = "",
    shards: Shards | None = None,
    progress: bool = False,
) -> dict[str, pd.DataFrame]:
    """Run every measurement on the rationales that the model writes itself.

    Commitment, access and dependence are measured on the model's own greedy CoT responses;
    responses without a rationale step have no rows there and count as answered in the answer
    tables only; where none has one, a warning says so. Open questions have no rows where answers
    are forced; what the items lack is left out, never guessed (see `data_coverage`).

    Batches are fixed: items 0 to ``batch_size`` − 1, and so on, or, with ``similar``, items of
    like length together (`by_length`). With a run folder each is on the disk as soon as it is
    measured, and one that is there is not measured again. A run that was killed and resumed, or
    shared by several processes, therefore gives the same numbers to the last digit as one that
    was not (on like hardware with the same number of threads). A batch that does not fit into
    memory is halved until it does, with a warning; its numbers can differ in their last digits.

    Args:
        mllm: The model.
        problems: The items.
        layers: Layers whose attention is read; default all.
        controls: Controls of the commitment curve.
        edits: Edits of dependence; those that no item allows are left out.
        extras: Further tables: ``"answer_access"``, ``"causal"`` (`causal_access` from the first
            step and from the middle on), ``"lens"`` (`lens_commitment`), ``"divergence"``
            (`token_divergence` from a blank picture).
        maps: Also keep every rationale's attention maps, as the arrays of a table ``maps``.
        batch_size: Items per forward pass or generation, and per part in the run folder.
        similar: Put items of like length into one batch, so that less is padded.
        max_new_tokens: Length limit of a response.
        generations: CoT responses that were written elsewhere, to be measured instead of the
            model's own, which it then does not write. If they are another model's, dependence has
            no regenerated rationales.
        run: Where to keep the tables; default in memory only, where no maps can be had.
        prefix: Put before the tables' names there.
        shards: The processes that share the work, each with a copy of the model and all with the
            same run folder; default only this one.
        progress: Show progress bars.

    Returns:
        The tables named in `TABLES`, as the functions of the same names return them, with the
        rows in the order of the items, and those of `extras`; ``maps``, if asked for, has one row
        per item with a rationale: ``item``, ``n_steps``, ``rows``, ``cols``, the shape of the
        item's array in ``Records(run, "maps").arrays()`` (see `ResponseMaps.step_maps`).

    Raises:
        MeasureError: If the arguments do not fit together.
        RunError: If what the run folder holds is damaged or was measured with another model, other
            items or settings, or another process has failed.
    """
    stages = Stages(
        mllm,
        problems,
        layers,
        controls,
        edits,
        extras,
        batch_size,
        max_new_tokens,
        generations,
    )
    shards = shards or Shards()
    if run is not None and isinstance(mllm, Mllm):
        kept = run

        def note() -> None:
            made = _manifest(stages, 0, maps, similar)
            kept.made_with(f"{prefix}{MADE_WITH}", {name: made[name] for name in _SAME})

        shards.from_main(note)
    made = _measured(
        stages,
        run=run,
        prefix=prefix,
        maps=maps,
        similar=similar,
        shards=shards,
        progress=progress,
    )
    return {name: made.read(name) for name in made.names}



def _manifest(stages: Stages, seed: int, maps: bool, similar: bool) -> dict[str, Any]:
    """What the measurements are made with."""
    config: dict[str, Any] = {
        "layers": None if stages.layers is None else sorted(stages.layers),
        "controls": list(stages.controls),
        "edits": list(stages.edits),
        "extras": list(stages.extras),
        "maps": maps,
        "batch_size": stages.batch_size,
        "similar": similar,
        "max_new_tokens": stages.max_new_tokens,
        "dtype": str(stages.mllm.dtype).removeprefix("torch."),
    }
    if stages.generations is not None:
        config["generations"] = stages.generations.record()
    return build_manifest(
        seed=seed, config=config, models={"model": stages.mllm}, data={"test": stages.problems}
    )



def _measured(
    stages: Stages,
    *,
    run: RunFolder | None,
    prefix: str,
    maps: bool,
    similar: bool,
    shards: Shards,
    progress: bool,
) -> Batched:
    """Make all tables; those of a run folder are not read."""
    if run is None and (maps or shards.count > 1):
        raise MeasureError("Maps and several processes need a run folder; pass run as well.")
    stages.check()
    problems, size = stages.problems, stages.batch_size
    made = Batched([problem.id for problem in problems], run, prefix, shards, progress)

    def batches(responses: Sequence[Sequence[int]] | None = None) -> list[list[int]]:
        if not similar:
            return in_order(len(problems), size)
        return by_length(estimated_lengths(problems, responses), size)

    first = batches()
    own = partial(stages.answers, mode="cot") if stages.generations is None else stages.written
    made.make("answers_cot", own, first)
    made.make("answers_direct", partial(stages.answers, mode="direct"), first)
    made.make("answers_text_only", partial(stages.answers, mode="cot", text_only=True), first)
    responses = [list(ids) for ids in made.read("answers_cot")["ids"]]
    rest, then = ResponseStages(stages, responses), batches(responses)
    made.make("commitment", rest.commitment, then)
    made.make("access", rest.access, then)
    made.make("dependence", rest.dependence, then)
    for name in stages.extras:
        made.make(name, partial(rest.extra, name=name), then)
    if maps:
        made.make("maps", rest.maps, then)
    return made



def measure_run(
    folder: str | Path,
    mllm: Mllm,
    problems: Sequence[Problem],
    *,
    layers: Collection[int] | None = None,
    controls: Sequence[str] = CONTROLS,
    edits: Sequence[EditKind] = EDITS,
    extras: Sequence[Extra] = (),
    maps: bool = False,
    batch_size: int = 64,
    similar: bool = True,
    max_new_tokens: int = 256,
    generations: Generations | None = None,
    seed: int = 0,
    shards: Shards | None = None,
    progress: bool = False,
) -> RunFolder:
    """Measure a model into a run folder; called again on the same folder it goes on.

    Writes the tables of `measure_all`, ``values`` (a number per item and metric) and ``summary``
    (with intervals), and a manifest that tells model, processor, data, settings and versions. A
    folder of other settings, models or data is refused.

    Args:
        folder: New, empty, or of the same run.
        mllm: The model.
        problems: The items.
        layers: See `measure_all`, as the others up to ``generations``.
        controls: See there.
        edits: See there.
        extras: See there.
        maps: See there.
        batch_size: See there.
        similar: See there.
        max_new_tokens: See there.
        generations: See there; their hash becomes part of the manifest.
        seed: Of the intervals' bootstrap.
        shards: The processes that share the work; default only this one.
        progress: Show progress bars (in the main process).

    Returns:
        The finished run.

    Raises:
        MeasureError: As `measure_all`.
        RunError: As `measure_all`, or if the folder is another run's, or one is writing to it.
    """
    shards = shards or Shards()
    stages = Stages(
        mllm,
        problems,
        layers,
        controls,
        edits,
        extras,
        batch_size,
        max_new_tokens,
        generations,
    )
    with ExitStack() as held:

        def open_folder() -> str:
            manifest = _manifest(stages, seed, maps, similar)
            manifest["models"]["model"]["processor"] = processor_record(mllm)
            noted = manifest | {"processes": shards.count}
            held.enter_context(RunFolder.begun(folder, noted, resume=True))
            return manifest["models"]["model"]["name"]

        name = shards.from_main(open_folder)
        run = RunFolder.open(folder)
        _measured(
            stages,
            run=run,
            prefix="",
            maps=maps,
            similar=similar,
            shards=shards,
            progress=progress and shards.main,
        )
        with shards.together():
            if shards.main:
                foreign = generations is not None and generations.foreign
                made = _reduced(run, problems, extras, foreign)
                values = _with_values(item_values(model=name, seed=seed, **made))
                summary = summarise(values, seed=seed)
                run.write_table("values", values, overwrite=True)
                run.write_table("summary", summary, overwrite=True)
    return run



def _reduced(
    run: RunFolder, problems: Sequence[Problem], extras: Sequence[Extra], foreign: bool
) -> dict[str, pd.DataFrame | None]:
    """What `suite_values` makes values of, the long tables reduced to items as they are read."""

    def reduced(name: str, reduce: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame | None:
        found = [reduce(block) for block in read_blocks(run, name) if len(block)]
        return pd.concat(found, ignore_index=True) if found else None

    return {
        "cot": run.read_table("answers_cot"),
        "direct": run.read_table("answers_direct"),
        "text_only": None if foreign else run.read_table("answers_text_only"),
        "commitment": reduced("commitment", lambda block: Commitment(block, problems).items()),
        "access": reduced("access", lambda block: VisualAccess(block).items()),
        "dependence": run.read_table("dependence"),
        "causal": reduced("causal", lambda block: CausalAccess(block).items()) if "causal" in extras else None,
    }



def suite_values(
    tables: Mapping[str, pd.DataFrame],
    problems: Sequence[Problem],
    *,
    model: str,
    seed: int,
    foreign: bool = False,
) -> pd.DataFrame:
    """Turn the tables of `measure_all` into metric values per item; see `item_values`.

    Args:
        tables: From `measure_all`.
        problems: The items.
        model: What to call the model.
        seed: Its training seed.
        foreign: Whether another model wrote the rationales: then no value holds its answers
            against this model's.
    """
    forced, causal = tables["commitment"], tables.get("causal")
    made = item_values(
        model=model,
        seed=seed,
        cot=tables["answers_cot"],
        direct=tables["answers_direct"],
        text_only=None if foreign else tables["answers_text_only"],
        commitment=Commitment(forced, problems).items() if len(forced) else None,
        access=tables["access"] if len(tables["access"]) else None,
        dependence=tables["dependence"],
        causal=causal if causal is not None and len(causal) else None,
    )
    return _with_values(made)



def _with_values(values: pd.DataFrame) -> pd.DataFrame:
    """Without the metrics that no item allows: not there, rather than there without a value."""
    known = values.groupby("metric")["value"].transform("count") > 0
    return values[known].reset_index(drop=True)



def format_summary(summary: pd.DataFrame) -> str:
    """A summary as lines of text: metric, value, 95 % interval, items.

    Answers that were not read come first, if they are more than `LIMIT`.
    """
    lines = [unread_sentence(share, what) for (_, what), share in unread_shares(summary).items()]
    lines += [f"{'metric':<24}{'value':>9}   {'95 % interval':<20}{'items':>7}"]
    for row in summary.itertuples():
        interval = f"[{row.low:.3f}, {row.high:.3f}]"
        lines.append(f"{row.metric:<24}{row.value:>9.3f}   {interval:<20}{row.n_items:>7}")
    return "\n".join(lines)
