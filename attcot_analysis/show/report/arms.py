"""`MeasuredArm`: what one arm's runs have measured, read for a comparison, and its curves."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

# Runs without patches need not load what patches and what draws them.
import attcot_analysis.measures as measures
import attcot_analysis.show as show
from attcot_analysis.errors import AttCoTError, MeasureError, RunError, one_line
from attcot_analysis.measures.access import VisualAccess
from attcot_analysis.measures.answers import COLUMNS as ANSWERS
from attcot_analysis.measures.answers import steps_of
from attcot_analysis.measures.commitment import Commitment
from attcot_analysis.measures.dependence import Dependence
from attcot_analysis.measures.maps import FloatArray
from attcot_analysis.measures.outcomes import CotOutcomes, cot_outcomes
from attcot_analysis.measures.samples import SAMPLE, samples_note, samples_of
from attcot_analysis.problems import Problem
from attcot_analysis.runs.provenance import noted_sources
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.values import DEFAULT, TABLES, suite_values
from attcot_analysis.show.curves import access_curves, access_grid, commitment_curves
from attcot_analysis.show.intervals import counts
from attcot_analysis.show.report.items import Tables
from attcot_analysis.show.report.page import ReportFigure, report_figure
from attcot_analysis.show.style import arm_label
from attcot_analysis.stats.crossed import step_curve
from attcot_analysis.stats.intervals import at_positions, mean_over_samples

Runs = str | Path | Sequence[str | Path]
"""A run folder, or several of one arm, one per training seed."""
_MAPS = "maps"
_MORE = ("causal", "patching")
_COLUMNS: Mapping[str, Sequence[str]] = {
    "commitment": Commitment.columns,
    "access": VisualAccess.columns,
    "dependence": Dependence.columns,
}


@dataclass(frozen=True, eq=False)
class MeasuredArm:
    """One side of a comparison.

    Attributes:
        name: Value of the tables' ``model`` column.
        tables: seed → name → table.
        settings: What it was measured with; empty where a run does not say.
        model: Record of the model in the manifest (of its first seed).
        data: ``n`` and ``sha256`` of the items.
        versions: Of the packages it was measured with.
        path: Folder of its first run.
        checkpoint: Where the model (of its first seed) lay: a folder or a hub id.
        problems: Where the items lay.
        has_maps: Whether the first run has kept the maps of its own rationales.
    """

    name: str
    tables: Mapping[int, Mapping[str, pd.DataFrame]]
    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, Any]
    path: Path
    checkpoint: str | Path | None = None
    problems: Path | None = None
    has_maps: bool = field(default=False)

    def named(self, name: str) -> "MeasuredArm":
        """The same under another name."""
        return replace(self, name=name)

    def on(self, items: Collection[str]) -> "MeasuredArm":
        """The same on some of the items only."""
        tables = {
            seed: {
                name: table[table["item"].isin(set(items))].reset_index(drop=True)
                for name, table in kinds.items()
            }
            for seed, kinds in self.tables.items()
        }
        return replace(self, tables=tables)

    def values(self, problems: Sequence[Problem]) -> pd.DataFrame:
        """Metric values per item; see `item_values`."""
        parts = [
            suite_values(kinds, problems, model=self.name, seed=seed, foreign=self.foreign)
            for seed, kinds in self.tables.items()
        ]
        return pd.concat(parts, ignore_index=True)

    @property
    def foreign(self) -> bool:
        """Whether another model wrote the rationales that were measured."""
        return bool((self.settings.get("generations") or {}).get("foreign"))

    @cached_property
    def outcomes(self) -> CotOutcomes | str:
        """Its CoT answers against its direct ones, or a sentence that says why there is nothing."""
        return self._foreign or outcomes_or_why(self.tables)

    def cot_outcomes(self) -> CotOutcomes:
        """Its CoT answers against its direct ones; see `does_cot_hurt`."""
        if self._foreign:
            raise MeasureError(self._foreign)
        return cot_outcomes(self.tables)

    @property
    def _foreign(self) -> str:
        if not self.foreign:
            return ""
        return (
            f"The rationales of {self.name} were written by another model, so whether CoT hurts is "
            "not known; measure this model on responses of its own."
        )

    def maps(self, items: Sequence[str]) -> dict[str, FloatArray]:
        """Kept step maps ``(K, rows, cols)`` of those of the items that have any."""
        if not self.has_maps:
            return {}
        run = RunFolder.open(self.path)
        kept = set(run.read_table(_MAPS)["item"])
        wanted = [item for item in items if item in kept]
        return run.read_arrays(_MAPS, wanted) if wanted else {}

    def responses(self) -> dict[str, str]:
        """Response by item, of the first seed and sample."""
        answers = samples_of(self.tables[min(self.tables)]["answers_cot"])[0]
        return {
            str(item): str(text)
            for item, text in zip(answers["item"], answers["text"], strict=True)
        }

    def steps(self) -> dict[str, tuple[str, ...]]:
        """Texts of the response's steps by item, of the first seed and sample."""
        answers = samples_of(self.tables[min(self.tables)]["answers_cot"])[0]
        return {str(row["item"]): steps_of(row) for row in answers.to_dict("records")}


def read_arm(runs: Runs) -> MeasuredArm:
    """Read one side of a comparison.

    Args:
        runs: A folder that `measure_run` has written, or several of these, one per training seed.
            Their order gives the seeds, 0, 1, ...

    Raises:
        RunError: If a run is missing, unfinished or of another kind, or the several were not
            measured alike.
    """
    if isinstance(runs, str | Path):
        return _read(runs)
    arms = [_read(run) for run in runs]
    if not arms:
        raise RunError("No run was given for one side of the comparison; give at least one.")
    first = arms[0]
    for other in arms[1:]:
        if (other.settings, other.data) != (first.settings, first.data):
            raise RunError(
                f"{first.path} and {other.path} were to be seeds of one arm, but were measured on "
                "other items or with other settings; measure all seeds alike."
            )
    tables = [kinds for arm in arms for kinds in arm.tables.values()]
    return replace(first, tables=dict(enumerate(tables)))


def outcomes_or_why(seeds: Mapping[int, Mapping[str, pd.DataFrame]]) -> CotOutcomes | str:
    """What `cot_outcomes` makes of an arm's tables, or the sentence that says why it cannot."""
    try:
        return cot_outcomes(seeds)
    except MeasureError as error:
        return str(error)


def does_cot_hurt(run: Runs | Mapping[str, pd.DataFrame]) -> CotOutcomes:
    """Find the items that CoT hurt and that it helped, and what else was measured of them.

    Hurt: the direct answer is right and the one with a rationale wrong; helped: the reverse. Of
    both, and of the rest, the result counts how many had been decided before the first step, had
    stopped looking, do not follow the edit (`SIGNS` has definitions and falsifiers). It says what
    goes together, never why.

    Args:
        run: A folder that `measure_run` has written, several of these, one per training seed, or
            the tables of `measure`. Needed are CoT and direct answers; what else is there is used.

    Returns:
        The items with their groups and signs (``.table``), ``.shares()``, ``.differences()``,
        ``.patterns()``, ``.items(group)``, ``.describe()`` and ``.figure()``.

    Raises:
        MeasureError: If there are no direct answers, or the rationales are another model's.
        RunError: If a run is missing, unfinished or of another kind.
    """
    return cot_outcomes({0: run}) if isinstance(run, Mapping) else read_arm(run).cot_outcomes()


def _read(path: str | Path) -> MeasuredArm:
    run = RunFolder.open(path)
    manifest = run.manifest
    try:
        if "model" not in manifest.get("models", {}):
            raise RunError(
                f"{run.path} is no run that can be compared; give a folder that attcot measure "
                "has written, or a cell's folder of a plan."
            )
        asked = manifest.get("config", {}).get("what", DEFAULT)
        if "answers" not in asked:
            raise RunError(
                f"{run.path} holds {', '.join(asked)} and no answers with a rationale; have attcot "
                "measure add them (--only answers), or measure into a new folder."
            )
        spared = {
            table
            for name, table in zip(DEFAULT, TABLES, strict=True)
            if name not in asked and name != "answers"
        }
        missing = [
            name for name in (*TABLES, "values") if name not in run.tables and name not in spared
        ]
        if missing:
            raise RunError(
                f"{run.path} is not finished: it lacks {', '.join(missing)}; run the attcot "
                "measure command that made it again."
            )
        sources = noted_sources(run)
        model = manifest["models"]["model"]
        names = (*TABLES, *(name for name in _MORE if name in run.tables))
        tables = {
            name: run.read_table(name)
            if name in run.tables
            else pd.DataFrame(columns=list(_COLUMNS.get(name, ANSWERS)))
            for name in names
        }
        return MeasuredArm(
            name=str(model["name"]),
            tables={int(manifest.get("seed", 0)): tables},
            settings=manifest.get("config", {}),
            model=model,
            data=manifest["data"]["test"],
            versions=manifest.get("versions", {}),
            path=run.path,
            checkpoint=sources.model or str(model["name"]),
            problems=sources.problems,
            has_maps=_MAPS in run.tables,
        )
    except AttCoTError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run.path / 'manifest.json'} is damaged ({one_line(error)}).") from error


Axis = Literal["step", "position"]

_SAME = 0.9
"""Share of rationales that must have as many steps as most for curves over steps."""


def run_curves(tables: Tables, problems: Sequence[Problem], reference: str) -> list[ReportFigure]:
    """Curves of commitment and visual access over the rationale, with intervals, of every arm.

    Args:
        tables: What was measured.
        problems: The items.
        reference: The arm from which the others' visual access is subtracted.

    Returns:
        None at all if some arm has not written a single rationale step.
    """
    if not everywhere(tables, "access"):
        return []
    axis = curve_axis(tables)
    forced = everywhere(tables, "commitment")
    curves = _commitment_curves(tables, problems, axis) if forced else []
    return curves + _access_curves(tables, problems, axis, reference) + _flow(tables)


def sample_notes(arm: MeasuredArm) -> list[str]:
    """Say what of a run with several responses to every item is shown of one only."""
    answers = arm.tables[min(arm.tables)]["answers_cot"]
    if SAMPLE not in answers:
        return []
    notes = [
        f"{arm.name} gave {answers[SAMPLE].nunique()} responses to every item: numbers and curves "
        "are means over these, maps and the responses that are shown are the first.",
        samples_note(arm.settings),
    ]
    return [note for note in notes if note]


def time_notes(arm: MeasuredArm) -> list[str]:
    """Where the time of a run went, if it was measured with a profile."""
    run = RunFolder.open(arm.path)
    found = run.read_json("profile") if (run.path / "profile.json").is_file() else None
    said = found.get("sentence") if isinstance(found, dict) else None
    return [said] if isinstance(said, str) else []


def everywhere(tables: Tables, name: str) -> bool:
    """Whether a table has rows in every arm and seed."""
    return all(len(kinds.get(name, ())) for seeds in tables.values() for kinds in seeds.values())


def _commitment_curves(
    tables: Tables, problems: Sequence[Problem], axis: Axis
) -> list[ReportFigure]:
    sizes = {len(problem.candidates) for problem in problems if problem.candidates}
    chance = 1 / sizes.pop() if len(sizes) == 1 else None
    line = " The thin grey line is chance." if chance else ""

    def figure(
        which: Literal["final", "habitual"], name: str, quantity: str, controls: Sequence[str] = ()
    ) -> ReportFigure:
        curve = commitment_by_arm(tables, problems, which, axis=axis, controls=controls)
        drawn = commitment_curves(curve, quantity=quantity, chance=chance, title="")
        return report_figure(name, drawn, curve, chance=line, n=_n(curve))

    curves = [figure("final", "commitment_final", "p(final answer)")]
    if any(problem.habitual is not None and problem.candidates for problem in problems):
        curves.append(figure("habitual", "commitment_habitual", "p(habitual answer)"))
    controls = _controls(tables)
    if len(controls) > 1:
        curves.append(figure("final", "commitment_controls", "p(final answer)", controls))
    return curves


def _access_curves(
    tables: Tables, problems: Sequence[Problem], axis: Axis, reference: str
) -> list[ReportFigure]:
    access = access_by_arm(tables, ("mass", "evidence_share"), axis=axis)
    layers = access_by_layer(tables)
    same_layers = layers.groupby("model")["layer"].unique().map(tuple).nunique() == 1
    alike = same_layers and len(tables) > 1
    difference = f", and its difference from {arm_label(reference)}" if alike else ""
    shares = access["quantity"].nunique() > 1
    evidence = ", and which share of that lies on the evidence boxes of the step being written"
    return [
        report_figure(
            "access",
            access_curves(access, title=""),
            access,
            wide=shares,
            evidence=evidence if shares else "",
            n=_n(access),
        ),
        report_figure(
            "access_layers",
            access_grid(layers, reference=reference if alike else None),
            layers,
            items=str(len(problems)),
            difference=difference,
        ),
    ]


def curve_axis(tables: Tables) -> Axis:
    """Steps where nearly all rationales of all arms have as many, else positions in them.

    Positions, too, where answers were not forced after every step.
    """
    lengths = pd.concat(
        [
            rows.drop_duplicates("item")["n_steps"]
            for seeds in tables.values()
            for kinds in seeds.values()
            for rows in samples_of(kinds["access"])
        ]
    )
    probed = [kinds["commitment"] for seeds in tables.values() for kinds in seeds.values()]
    if any("n_probed" in one and (one["n_probed"] <= one["n_steps"]).any() for one in probed):
        return "position"
    return "step" if lengths.value_counts(normalize=True).iloc[0] >= _SAME else "position"


def commitment_by_arm(
    tables: Tables,
    problems: Sequence[Problem],
    which: Literal["final", "answer", "habitual"],
    *,
    axis: Axis = "step",
    controls: Sequence[str] = (),
) -> pd.DataFrame:
    """Commitment curves of every arm: ``model, k | position, value, low, high, n, n_seeds``.

    Args:
        tables: What was measured.
        problems: The items.
        which: Whose probability; see `Commitment.steps`.
        axis: Steps written, for items with the most common number of steps, or positions, for all.
        controls: One curve for each, named in a column ``control``.
    """
    lengths: Literal["common", "all"] = "common" if axis == "step" else "all"
    parts = []
    for control in controls or ("rationale",):

        def read(rows: pd.DataFrame, control: str = control) -> pd.DataFrame:
            return Commitment(rows, problems).steps(which, control=control, lengths=lengths)

        curve = _by_arm(tables, "commitment", read, "k", axis)
        parts.append(curve.assign(control=control) if controls else curve)
    return pd.concat(parts, ignore_index=True)


def access_by_arm(
    tables: Tables, quantities: Sequence[str], *, axis: Axis = "step"
) -> pd.DataFrame:
    """Visual access of every arm: ``model, quantity, step | position, value, low, high, ...``.

    Quantities that need evidence boxes are left out where an arm's steps have none.
    """
    parts = []
    for quantity in quantities:

        def read(rows: pd.DataFrame, quantity: str = quantity) -> pd.DataFrame:
            return VisualAccess(rows).steps(quantity)

        parts.append(_by_arm(tables, "access", read, "step", axis).assign(quantity=quantity))
    return pd.concat(parts, ignore_index=True)


def _flow(tables: Tables) -> list[ReportFigure]:
    """Where the picture's answer is held, of each arm's first seed and sample."""
    if not everywhere(tables, "patching"):
        return []
    found = {}
    for arm, seeds in tables.items():
        table = seeds[min(seeds)]["patching"]
        table = table[table[SAMPLE] == 0] if SAMPLE in table else table
        if table.empty:
            return []
        found[arm] = measures.Patching(table)
    steps: tuple[Literal["first", "last"], ...] = ("first", "last")
    curves = [
        one.curve(step=step).assign(model=arm, step=step)
        for arm, one in found.items()
        for step in steps
    ]
    drawn = pd.concat(curves, ignore_index=True)
    if drawn["value"].isna().all():
        return []
    return [report_figure("flow", show.information_flow(found, title=""), drawn)]


def _by_arm(
    tables: Tables,
    name: str,
    read: Callable[[pd.DataFrame], pd.DataFrame],
    steps: str,
    axis: Axis,
) -> pd.DataFrame:
    """The mean curve of every arm in whose runs something is read of a table."""
    parts = []
    for arm, seeds in tables.items():
        runs = {seed: _by_item(kinds[name], read, steps, axis) for seed, kinds in seeds.items()}
        if all(len(table) for table in runs.values()):
            curve = step_curve(runs, axis=steps if axis == "step" else axis)
            parts.append(curve.assign(model=arm))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _by_item(
    table: pd.DataFrame, read: Callable[[pd.DataFrame], pd.DataFrame], steps: str, axis: Axis
) -> pd.DataFrame:
    """A curve of every item: read off its rows, or the mean of those of its samples."""
    curves = [read(rows) for rows in samples_of(table)]
    if axis == "position":
        curves = [at_positions(one, steps) if len(one) else one for one in curves]
    if len(curves) == 1:
        return curves[0]
    return mean_over_samples(pd.concat(curves), ["item", steps if axis == "step" else axis])


def access_by_layer(tables: Tables) -> pd.DataFrame:
    """Mean visual mass per arm, layer and step: ``model, layer, step, value, n``.

    Late steps that fewer than half of an arm's items have are left out: they would show other
    items, not other steps.
    """
    parts = []
    for arm, seeds in tables.items():
        access = pd.concat([kinds["access"] for kinds in seeds.values()])
        n = access["item"].nunique()
        having = access.groupby("step")["item"].nunique()
        access = access[access["step"].isin(having.index[having * 2 >= n])]
        grid = access.groupby(["layer", "step"])["mass"].mean().rename("value").reset_index()
        parts.append(grid.assign(model=arm, n=n))
    return pd.concat(parts, ignore_index=True)


def _controls(tables: Tables) -> list[str]:
    """The controls that every arm was measured under, the own rationale first."""
    every = [
        list(dict.fromkeys(kinds["commitment"]["control"]))
        for seeds in tables.values()
        for kinds in seeds.values()
    ]
    return [control for control in every[0] if all(control in arm for arm in every)]


def _n(curve: pd.DataFrame) -> str:
    return f" Lines and bands are 95% intervals; n: {counts(curve)}."
