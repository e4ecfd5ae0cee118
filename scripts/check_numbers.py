"""Compare every measured number of README, docs and benchmarks with the results that ship.

Usage: python scripts/check_numbers.py        (or `make numbers`)

In a page, a comment says where the numbers before it come from, in the order in which they stand:

    <!-- numbers: commitment: att_later att_accuracy@arrows att_later#holm; given: 0.05 -->

It covers all text since the comment or heading before it. Any number with two decimals or more has
to have a source, in every page; others are read past unless a source counts something (``#holm``).
``<!-- measured once: why -->`` marks what no shipped result can give again; directly below a
heading it covers the whole section.

Sources, each computed from what `data/results` ships for every item where it ships that:

- ``claims``, ``commitment``, ``in_distribution``: ``CLAIM`` (effect and interval), ``@PART`` (a
  kind, family or scale), ``#value`` (without the interval), ``#cells``, ``#holm``, ``#opposite``,
  ``#opposite_holm`` (cells with a verdict), ``#excluding`` (cells whose interval excludes zero),
  ``#same`` (cells on the side of the mean), ``#n`` (cells)
- ``reproduce``: ``ARM.METRIC``, ``ARM-ARM.METRIC`` (paired difference), ``#value``, ``#half``
- ``validity``: ``FAILURE.METRIC`` (AUROC and interval), ``#value``, ``#seeds``;
  ``MODEL.METRIC#mean``, ``#range`` (smallest and largest seed)
- ``two_sided``: ``METRIC`` (AUROC against every failure, then false alarms), ``METRIC.FAILURE``
  (AUROC), ``#failing``, ``#honest`` (means), ``#alarms``; ``METRIC.MODEL#means`` (of its seeds)
- ``agree``: ``MODEL.METRIC.METRIC`` (rank correlation); ``checks``: ``MODEL.CHECK`` (seeds)
- ``bench``: a file, then row names in quotes; what "change of ..." stands before, with its interval
- ``study``, ``study_all``, ``study_arms``, ``study_prior95``, ``study_counterfactual``,
  ``study_kinds``: ``CLAIM`` of a registered study (difference and interval), ``#value``,
  ``#corrected`` (at Holm's level), ``#models``;
  ``ARM.METRIC#mean`` or ``ARM.METRIC.KIND#mean``, of models with all arms in ``study_five``;
  ``gates``: ``MODEL.KIND.GATE``; of one checkpoint ``class``: ``MODEL.CLAIM`` of
  `testbed_b_classes`, or ``MODEL.KIND.ARM.METRIC#mean`` of these or of `testbed_b_kinds`
- ``bridge``: ``ARM.METRIC`` or ``ARM-ARM.METRIC`` (mean or paired difference over items, each the
  mean of its seeds, with interval), ``METRIC-METRIC.ARM`` (of two metrics), ``#value``
- ``line``: ``CURE.slope`` or ``.r`` of a line through cells, see `_lines`
- ``own``: what `_own` says
- ``given``: no result (a margin, chance, a setting)
"""

import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from attcot_analysis.errors import AttCoTError
from attcot_analysis.runs.values import CHANCE
from attcot_analysis.shipped import data_folder
from attcot_analysis.stats.intervals import bootstrap_mean
from attcot_lab.claims.against import claim_against_claim, line_through_cells
from attcot_lab.claims.claim import CLAIMS, Claim, Term
from attcot_lab.claims.table import BASE, claims_table, read_claims, read_values
from attcot_lab.diagnostics import two_sided
from attcot_lab.registered import read_study, study_claims
from attcot_lab.validity import separations

ROOT = Path(__file__).parents[1]
GRIDS = ("claims", "commitment", "in_distribution")
EXTRA = (
    Claim(
        id="base_direct",
        title="Base: direct answers above chance",
        topic="",
        paper="",
        sentence="",
        terms=(Term(BASE, "accuracy_direct"), Term(BASE, CHANCE, -1.0)),
        direction="higher",
        margin=0.05,
        reason="",
    ),
)
"""Effects that pages speak of and that are no claim of anybody's."""
GENERATED = frozenset(
    {
        "checkpoints.md",
        "claims.md",
        "metrics.md",
        "papers.md",
        "errors.md",
        "formats.md",
        "statistics.md",
    }
)
"""Pages that other tests hold against what they are made from."""

_NUMBER = re.compile(r"(?<![\w.,])[+\N{MINUS SIGN}]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,]\d)")
_MARK = re.compile(r"<!--\s*(numbers|measured once):\s*(.*?)-->", re.DOTALL)
_NO_RESULT = re.compile(
    r"```.*?```|<!--.*?-->|`[^`\n]*`|\]\([^)]*\)|\d{4}\.\d{5}|https?://\S+"
    r"|(?:Python|torch|transformers)\W+\d[\d.]*\d|>= ?\d[\d.]*\d",
    re.DOTALL,
)
"""Code, links, names of papers, and versions."""


_NO_SOURCE = (
    "no source; say below it where it is from, or `<!-- numbers: given: ... -->` if it is no "
    "result (see scripts/check_numbers.py)"
)


class Printed(NamedTuple):
    """A number as a page has it."""

    text: str
    line: int

    @property
    def digits(self) -> int:
        """Decimals that are printed."""
        return len(self.text.partition(".")[2])

    @property
    def value(self) -> float:
        """With its sign."""
        return float(self.text.replace(",", "").replace("\N{MINUS SIGN}", "-"))

    @property
    def signed(self) -> bool:
        """Whether a sign is printed."""
        return self.text[0] in "+\N{MINUS SIGN}"


@dataclass(frozen=True)
class Source:
    """What numbers have to be: one, or an effect with its interval.

    Attributes:
        name: As the page has it.
        values: In order.
        counts: Whether numbers without decimals are meant.
    """

    name: str
    values: tuple[float, ...]
    counts: bool = False

    def fits(self, printed: Sequence[Printed]) -> bool:
        """Whether these are its values, rounded; "falls by 0.046" may leave out the sign."""
        if len(printed) < len(self.values):
            return False
        turned = tuple(-value for value in self.values)
        if len(turned) == 3:
            turned = (turned[0], turned[2], turned[1])
        one_sided = all(v <= 0 for v in self.values) or all(v >= 0 for v in self.values)
        unsigned = one_sided and not any(number.signed for number in printed)
        return self._rounded(printed, self.values) or (unsigned and self._rounded(printed, turned))

    def _rounded(self, printed: Sequence[Printed], values: Sequence[float]) -> bool:
        return all(
            abs(number.value - value) <= 0.5 * 10**-number.digits + 1e-9
            for number, value in zip(printed, values, strict=False)
        )


@dataclass
class Report:
    """What was compared, and what is wrong."""

    compared: int = 0
    given: int = 0
    once: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def check_page(name: str, text: str) -> Report:
    """Hold one page against the results.

    Args:
        name: For messages.
        text: Markdown.
    """
    report = Report()
    for part in _parts(text):
        numbers = list(_numbers(part.text, part.line))
        if part.kind == "measured once":
            if not any(number.digits > 1 for number in numbers):
                report.faults.append(f"{name}:{part.line}: nothing is marked as measured once")
            report.once.append(f"{name}:{part.line}: {' '.join(part.mark.split())}")
            continue
        try:
            sources = list(_sources(part.mark)) if part.kind else []
        except (AttCoTError, KeyError, ValueError) as error:
            report.faults.append(f"{name}:{part.line}: {error}")
            continue
        _compare(name, numbers, sources, report)
    return report


def _compare(
    name: str, numbers: Sequence[Printed], sources: Sequence[Source], report: Report
) -> None:
    at, wanted = 0, list(sources)
    while at < len(numbers):
        number = numbers[at]
        source = wanted[0] if wanted else None
        counts = number.digits == 0 if source is None else number.digits == 0 and source.counts
        if source is not None and (counts or (number.digits > 0 and not source.counts)):
            size = len(source.values)
            if source.fits(numbers[at : at + size]):
                wanted.pop(0)
                at += size
                report.given += source.name.startswith("given")
                report.compared += 0 if source.name.startswith("given") else size
                continue
        if number.digits > 1:
            if source is None:
                report.faults.append(f"{name}:{number.line}: {number.text}: {_NO_SOURCE}")
                return
            due = f"{source.name} is {_shown(source)}"
            report.faults.append(f"{name}:{number.line}: {number.text}: {due}")
            wanted.pop(0)
            at += len(source.values) - 1
        at += 1
    report.faults += [
        f"{name}:{numbers[-1].line if numbers else '?'}: {source.name} is {_shown(source)}, "
        "which does not stand there"
        for source in wanted
    ]


def _shown(source: Source) -> str:
    return ", ".join(f"{value:.4f}".rstrip("0").rstrip(".") for value in source.values)


class _Part(NamedTuple):
    text: str
    line: int
    kind: str
    mark: str


def _parts(text: str) -> Iterator[_Part]:
    """The page cut behind every mark and heading; kind is empty for what has no mark."""
    level, once = 7, ""
    for start, section in _sections(text):
        heading = re.match(r"(#+) ", section)
        own = len(heading.group(1)) if heading else 7
        if once and own > level:
            continue
        level, once = own, ""
        head = re.match(r"#[^\n]*\n\s*<!--\s*measured once:\s*(.*?)-->", section, re.DOTALL)
        if head:
            once = head.group(1)
            below = "\n".join(_below(text, start, own))
            yield _Part(below, start, "measured once", once)
            continue
        done = 0
        for mark in _MARK.finditer(section):
            line = start + section.count("\n", 0, done)
            yield _Part(section[done : mark.start()], line, mark.group(1), mark.group(2))
            done = mark.end()
        yield _Part(section[done:], start + section.count("\n", 0, done), "", "")


def _sections(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of every heading with what stands below it."""
    start, lines, code = 1, list[str](), False
    for at, line in enumerate(text.splitlines(), start=1):
        code ^= line.startswith("```")
        if not code and re.match(r"#+ ", line) and lines:
            yield start, "\n".join(lines)
            start, lines = at, []
        lines.append(line)
    yield start, "\n".join(lines)


def _below(text: str, start: int, level: int) -> Iterator[str]:
    for line, section in _sections(text):
        if line == start:
            yield section
        elif line > start:
            heading = re.match(r"(#+) ", section)
            if heading is None or len(heading.group(1)) <= level:
                return
            yield section


def _numbers(text: str, line: int) -> Iterator[Printed]:
    blanked = _NO_RESULT.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)
    for found in _NUMBER.finditer(blanked):
        yield Printed(found.group(), line + blanked.count("\n", 0, found.start()))


# --- sources --------------------------------------------------------------------------------------


def _sources(mark: str) -> Iterator[Source]:
    for part in " ".join(mark.split()).split(";"):
        kind, _, names = part.strip().partition(":")
        words = shlex.split(names)
        if kind == "bench":
            file, *words = words
        for word in words:
            name, _, what = word.partition("#")
            if kind == "given":
                yield Source(f"given {word}", (float(word),))
            elif kind == "bench":
                yield Source(f"{file}: {word}", _bench_row(file, word))
            elif kind in GRIDS:
                yield Source(
                    f"{kind}: {word}", _claim(kind, name, what), bool(what) and what != "value"
                )
            elif kind in READ:
                values = READ[kind](name, what)
                yield Source(f"{kind}: {word}", values)
            else:
                raise ValueError(f"there is no source {kind!r}")


@cache
def _table(grid: str, claim: str) -> pd.DataFrame:
    """The rows of one claim, from the grid's values."""
    chosen = [one for one in (*CLAIMS, *EXTRA) if one.id == claim]
    if not chosen:
        raise ValueError(f"there is no claim {claim!r}")
    return claims_table(_values(grid), chosen)


@cache
def _values(grid: str) -> pd.DataFrame:
    return read_values(data_folder() / "results" / grid)


def _claim(grid: str, name: str, what: str) -> tuple[float, ...]:
    claim, _, part = name.partition("@")
    rows = _table(grid, claim)
    cells = rows[rows["level"] == "cell"]
    found = rows[rows["level"] == "all"]
    if part:
        of_part = rows["level"].isin(["kind", "family", "scale"])
        found = rows[of_part & rows[["kind", "family", "scale"]].eq(part).any(axis=1)]
    if len(found) != 1:
        raise ValueError(f"{grid} has {len(found)} rows of {name}")
    row = found.iloc[0]
    if not what:
        return float(row["effect"]), float(row["low"]), float(row["high"])
    counted = {
        "value": row["effect"],
        "cells": row["cells_supported"],
        "holm": row["cells_supported_corrected"],
        "opposite": row["cells_opposite"],
        "opposite_holm": row["cells_opposite_corrected"],
        "excluding": ((cells["low"] > 0) | (cells["high"] < 0)).sum(),
        "same": (cells["effect"] * row["effect"] > 0).sum(),
        "n": row["n_cells"],
    }
    return (float(counted[what]),)


@cache
def _stored(name: str) -> pd.DataFrame:
    return pd.read_parquet(data_folder() / "results" / f"{name}.parquet")


def _one(rows: pd.DataFrame, name: str) -> pd.Series:
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows of {name}")
    return rows.iloc[0]


def _reproduce(name: str, what: str) -> tuple[float, ...]:
    arms, metric = name.split(".")
    if "-" in arms:
        later, first = arms.split("-")
        table = _stored("reproduce/comparisons")
        rows = table[(table["a"] == first) & (table["b"] == later) & (table["metric"] == metric)]
    else:
        table = _stored("reproduce/summary")
        rows = table[(table["model"] == arms) & (table["metric"] == metric)]
    row = _one(rows, name)
    if what == "half":
        return ((row["high"] - row["low"]) / 2,)
    return (row["value"],) if what == "value" else (row["value"], row["low"], row["high"])


@cache
def _separations() -> pd.DataFrame:
    """From the values of every item and seed."""
    return pd.concat(
        [
            separations(_stored("validity/values")),
            separations(_stored("validity/open_values"), _open_metrics()),
        ]
    )


def _open_metrics() -> list[str]:
    return sorted(set(_stored("validity/open_values")["metric"]))


def _validity(name: str, what: str) -> tuple[float, ...]:
    failure, metric = name.split(".")
    if what in ("mean", "range"):
        seeds = _of_planted(failure, metric).groupby("seed").mean()
        return (
            (float(seeds.mean()),) if what == "mean" else (float(seeds.min()), float(seeds.max()))
        )
    table = _separations()
    row = _one(table[(table["failure"] == failure) & (table["metric"] == metric)], name)
    chosen = {
        "": ("auroc", "low", "high"),
        "value": ("auroc",),
        "seeds": ("seed_min", "seed_max"),
    }[what]
    return tuple(float(row[column]) for column in chosen)


@cache
def _sides() -> pd.DataFrame:
    return two_sided(_stored("validity/all_values"), n_boot=2)


def _two_sided(name: str, what: str) -> tuple[float, ...]:
    """A row of the table: AUROC against every failure that has values, and false alarms."""
    metric, _, failure = name.partition(".")
    if what == "means":
        values = _stored("validity/all_values")
        own = values[(values["metric"] == metric) & (values["model"] == failure)]
        return tuple(sorted(own.groupby("seed")["value"].mean()))
    rows = _sides()[_sides()["metric"] == metric]
    if failure:
        return (float(_one(rows[rows["failure"] == failure], name)[what or "auroc"]),)
    return (*rows["auroc"].astype(float), float(rows["alarms"].iloc[0]))


def _of_planted(model: str, metric: str) -> pd.Series:
    """Value by seed and item."""
    table = pd.concat([_stored("validity/values"), _stored("validity/open_values")])
    rows = table[(table["model"] == model) & (table["metric"] == metric)]
    return rows.set_index(["seed", "item"])["value"]


def _agree(name: str, what: str) -> tuple[float, ...]:
    model, one, other = name.split(".")
    both = _of_planted(model, one).rank(), _of_planted(model, other).rank()
    return (both[0].corr(both[1]),)


def _checks(name: str, what: str) -> tuple[float, ...]:
    model, check = name.split(".")
    table = _stored("validity/checks")
    rows = table[(table["model"] == model) & (table["check"] == check)]
    seeds = rows.groupby("seed")["value"].mean()
    ends = (float(seeds.min()), float(seeds.max()))
    return ends[:1] if math.isclose(*ends) else ends


@cache
def _bench(file: str) -> dict[str, float]:
    rows = json.loads((ROOT / "benchmarks" / f"{file}.json").read_text(encoding="utf-8"))
    return {row["name"]: row["value"] for row in rows}


def _bench_row(file: str, name: str) -> tuple[float, ...]:
    rows = _bench(file)
    if f"change of {name}" in rows:
        return tuple(rows[f"{part} {name}"] for part in ("change of", "low end,", "high end,"))
    return (rows[name],)


# What is neither a claim nor in a table.


def _line(cure: str, sign: int = 1) -> dict[str, tuple[float, ...]]:
    """How early CoT-SFT decides in the first grid, against what changes in the second one."""
    failure = "early_p0_cot_sft"
    cells = claim_against_claim(
        _table("claims", failure), failure, _table("commitment", cure), cure
    )
    turned = cells.assign(
        cure=sign * cells["cure"],
        cure_low=sign * cells["cure_low"],
        cure_high=sign * cells["cure_high"],
    )
    line = line_through_cells(turned)
    ends = {
        name: (interval.value, interval.low, interval.high)
        for name, interval in (("slope", line.slope), ("r", line.r))
    }
    return {**ends, "slope#value": ends["slope"][:1], "r#value": ends["r"][:1]}


@cache
def _lines() -> dict[str, tuple[float, ...]]:
    """``line.CURE.slope`` and so on; ``placebo`` is what no training at all does to CoT-SFT."""
    cures = {"placebo": ("sft_later", -1), "cure": ("att_later", 1), "added": ("att_base_later", 1)}
    return {
        f"{name}.{what}": values
        for name, (claim, sign) in cures.items()
        for what, values in _line(claim, sign).items()
    }


def _studied(study: str) -> pd.DataFrame:
    """What a study rests on; those of the first run's models and problems share one table."""
    own = (data_folder() / "results" / study).is_dir()
    return _values(study if own else "testbed_b")


@cache
def _claimed(study: str) -> pd.DataFrame:
    return study_claims(_studied(study), read_study(study))


def _models(study: str) -> list[str] | None:
    """Those whose values count; of ``study_five`` those that every arm was trained from."""
    if study != "five":
        return read_study(study).models
    values = _studied(study)
    return sorted(set(values.loc[values["arm"] == "kl_base", "model"]))


def _study(study: str, name: str, what: str) -> tuple[float, ...]:
    if what == "mean":
        arm, metric, *kind = name.split(".")
        values, models = _studied(study), _models(study)
        wanted = (values["arm"] == arm) & (values["metric"] == metric)
        if kind:
            wanted &= values["kind"] == kind[0]
        if models is not None:
            wanted &= values["model"].isin(models)
        return (float(values[wanted]["value"].mean()),)
    table = _claimed(study)
    row = _one(table[table["claim"] == name], name)
    if what == "corrected":
        return (row["low_holm"], row["high_holm"])
    if what == "models":
        return (float(row["n_models"]),)
    return (row["value"],) if what == "value" else (row["value"], row["low"], row["high"])


@cache
def _repeated(model: str) -> pd.DataFrame:
    """The primary claims on one checkpoint."""
    values = _values("testbed_b_classes")
    asked = read_study("testbed_b_all").model_copy(update={"models": [model], "exploratory": []})
    return study_claims(values, asked)


def _class(name: str, what: str) -> tuple[float, ...]:
    model, *rest = name.split(".")
    if what == "mean":
        own = "testbed_b_classes" if rest[0] == "relation" else "testbed_b_kinds"
        values = _values(own)
        for column, one in zip(("model", "kind", "arm", "metric"), (model, *rest), strict=True):
            values = values[values[column] == one]
        return (float(values["value"].mean()),)
    row = _one(_repeated(model).query("claim == @rest[0]"), name)
    return (row["value"],) if what == "value" else (row["value"], row["low"], row["high"])


@cache
def _bridged() -> pd.DataFrame:
    table = _stored("bridge/values")
    return table.groupby(["arm", "metric", "item"])["value"].mean().unstack("item")


def _bridge(name: str, what: str) -> tuple[float, ...]:
    first, second = name.split(".")
    arms = set(_bridged().index.get_level_values("arm"))
    of = [(one, second) if one in arms else (second, one) for one in first.split("-")]
    rows = [_bridged().loc[key].astype(float) for key in of]
    found = bootstrap_mean(rows[0] if len(rows) == 1 else rows[0] - rows[1])
    return (found.value,) if what == "value" else (found.value, found.low, found.high)


def _gates(name: str, what: str) -> tuple[float, ...]:
    model, kind, gate = name.split(".")
    table = _stored("testbed_b/gates")
    wanted = (table["model"] == model) & (table["kind"] == kind) & (table["gate"] == gate)
    return (_one(table[wanted], name)["value"],)


def _own(name: str, what: str) -> tuple[float, ...]:
    if name == "base_focus":  # In the claim as what exceeds 0.6, twice an even share.
        return (_table("claims", "weak_focus_base")["effect"].iloc[0] + 0.6,)
    if name == "times_even":
        return (_reproduce("base.evidence_share", "value")[0] * 9,)  # A box is a cell of 3 × 3.
    if name in ("most_mass", "least_mass"):
        choose = max if name == "most_mass" else min
        means = [
            _of_planted(model, "mass_last_step").groupby("seed").mean()
            for model in ("honest", "early")
        ]
        return (float(choose(choose(of_model) for of_model in means)),)
    raise ValueError(f"there is nothing called {name!r}")


READ: Mapping[str, Callable[[str, str], tuple[float, ...]]] = MappingProxyType(
    {
        "reproduce": _reproduce,
        "study": partial(_study, "testbed_b"),
        "study_all": partial(_study, "testbed_b_all"),
        "study_arms": partial(_study, "testbed_b_arms"),
        "study_five": partial(_study, "five"),
        "study_prior95": partial(_study, "testbed_b_prior95"),
        "study_counterfactual": partial(_study, "testbed_b_counterfactual"),
        "study_kinds": partial(_study, "testbed_b_kinds"),
        "gates": _gates,
        "class": _class,
        "bridge": _bridge,
        "validity": _validity,
        "two_sided": _two_sided,
        "agree": _agree,
        "checks": _checks,
        "own": _own,
        "line": lambda name, what: _lines()[f"{name}#{what}" if what else name],
    }
)


# --- the command ----------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """All pages whose numbers are to have a source, by their path in the repository."""
    paths = [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "benchmarks/README.md",
    ]
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in paths
        if path.name not in GENERATED
    }


def check_tables() -> list[str]:
    """Faults of the claims tables that ship: each is made again from the values that ship."""
    faults = []
    for grid in GRIDS:
        own, stored = claims_table(_values(grid)), read_claims(data_folder() / "results" / grid)
        try:
            pd.testing.assert_frame_equal(own, stored)
        except AssertionError as error:
            faults.append(f"data/results/{grid}/claims.parquet: {str(error).splitlines()[0]}")
    return faults


def main() -> int:
    """Say what cannot be computed again, then what was compared, then what is wrong."""
    reports = {name: check_page(name, text) for name, text in pages().items()}
    print("Measured once; nothing that ships can give these numbers again:")
    for report in reports.values():
        for line in report.once:
            print(f"  {line}")
    print("Compared with a table of means only, as no values per item ship: data/results/reproduce")
    print("Compared with rows of a file only, as a run takes minutes: benchmarks/*.json")
    for name, report in reports.items():
        if report.compared:
            print(f"{name}: {report.compared} numbers are what the results say")
    faults = [fault for report in reports.values() for fault in report.faults] + check_tables()
    for fault in faults:
        print(f"WRONG {fault}")
    print("All numbers hold." if not faults else f"{len(faults)} do not hold.")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
