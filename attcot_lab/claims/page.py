"""Every number of a claims table as a page, ``page.md.j2``, and as the terminal's text."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from attcot_analysis.escapes import for_markdown
from attcot_analysis.runs.values import CHANCE
from attcot_analysis.show.style import arm_label, format_counts, format_interval, format_number
from attcot_analysis.stats.catalogue import METRICS
from attcot_lab.claims.claim import CLAIMS, PAPERS, Claim
from attcot_lab.claims.table import VERDICTS, headline_rows, of_one_seed, untested
from attcot_lab.figures import family_name

Row = Mapping[str, Any]

_NAMES = ("kind", "family", "scale")
_MARKS = {"supported": "+", "opposite": "\N{MINUS SIGN}", "not supported": "0"}


@dataclass(frozen=True)
class _Line:
    """What is said of one claim.

    Attributes:
        claim: The claim.
        row: Its row that is pooled over all cells.
        rows: All of its rows.
        instead: What the untrained base does, likewise; ``None`` where the question does not arise.
    """

    claim: Claim
    row: Row
    rows: Sequence[Row]
    instead: Row | None = None

    @property
    def effect(self) -> str:
        """Effect with interval, and its unit where it is no share."""
        return self._effect(self.row)

    @property
    def placebo(self) -> str:
        """The same for the base in place of the first arm; a dash where there is none."""
        return self._effect(self.instead) if self.instead else "\N{EN DASH}"

    def _effect(self, row: Row) -> str:
        value = format_number(row["effect"], signed=True)
        unit = " nats" if METRICS[self.claim.metric].unit == "nats" else ""
        return f"{value} {format_interval(row['low'], row['high'], signed=True)}{unit}"

    def beside(self, lines: Sequence["_Line"]) -> str:
        """Of attention to the picture: what the same two arms' focus on the evidence does."""
        if self.claim.metric not in ("mass", "mass_last_step", "mass_slope", "share"):
            return ""
        for line in lines:
            same = line.claim.arms == self.claim.arms and not line.claim.reference
            if line.claim.metric == "focus" and same:
                return f"; focus on the evidence {line.effect}"
        return "; focus on the evidence: not asked"

    @property
    def n(self) -> str:
        """Items and seeds."""
        return format_counts([self.row["n_items"]], [self.row["n_seeds"]])

    @property
    def verdict(self) -> str:
        """In the mean over these cells."""
        verdict = str(self.row["verdict"])
        small = bool(self.row["negligible"]) and verdict in ("supported", "opposite")
        return f"{verdict} (negligible)" if small else verdict

    @property
    def beyond(self) -> str:
        """Verdict and interval beyond these models and kinds; a dash where there is none."""
        if not isinstance(self.row["verdict_beyond"], str):
            return "\N{EN DASH}"
        ends = format_interval(self.row["low_beyond"], self.row["high_beyond"], signed=True)
        return f"{self.row['verdict_beyond']} {ends}"

    @property
    def cells(self) -> str:
        """Cells with a verdict, before and after correction for their number."""
        up, down = (
            f"{self.row[f'cells_{name}']:.0f}/{self.row[f'cells_{name}_corrected']:.0f}"
            for name in ("supported", "opposite")
        )
        return f"{up} of {self.row['n_cells']} supported, {down} opposite"

    @property
    def definition(self) -> str:
        """What is compared, claimed and negligible, and what it does not show."""
        claim, compared = self.claim, ""
        for term in claim.terms:
            name = "chance" if term.metric == CHANCE else f"`{term.metric}` of "
            name += "" if term.metric == CHANCE else arm_label(term.arm)
            sign = "\N{MINUS SIGN}" if term.weight < 0 else "+"
            compared += f" {sign} {name}" if compared else name
        if claim.reference:
            compared += f" \N{MINUS SIGN} {claim.reference:g}"
        return (
            f"{claim.title}: {compared}, claimed {claim.direction}; margin {claim.margin:g} "
            f"({claim.reason}). {claim.caveat}"
        ).rstrip()

    def by_part(self, parts: Mapping[tuple[str, str], str]) -> list[str]:
        """Effect, interval and mark of the verdict in every part, empty where not measured."""
        rows = {(row["level"], row.get(row["level"])): row for row in self.rows}
        texts = []
        for part in parts:
            row = rows.get(part)
            if row is None:
                texts.append("")
                continue
            value = format_number(row["effect"], signed=True, digits=2)
            ends = format_interval(row["low"], row["high"], signed=True, digits=2)
            texts.append(f"{value} {ends} {_MARKS.get(row['verdict'], '?')}")
        return texts


def claims_page(
    table: pd.DataFrame,
    claims: Sequence[Claim] = CLAIMS,
    *,
    placebos: pd.DataFrame | None = None,
    run: Row | None = None,
    command: str = "attcot testbed claims --docs PAGE",
    subtitle: str = "",
    unread: str = "",
) -> str:
    """The page as Markdown.

    Args:
        table: From `claims_table`.
        claims: What was tested.
        placebos: From `placebo_table`: the untrained base in place of the trained arm.
        run: What is worth saying about the run, name → text.
        command: How the page was made.
        subtitle: What tells it from other pages of claims.
        unread: In which cells answers were not read, see `unread_cells`; the first line.
    """
    # The names come from a folder of results, which may be anybody's.
    names = {key: table[key].map(for_markdown, na_action="ignore") for key in _NAMES}
    table = table.assign(**names)
    lines = _lines(table, claims, placebos)
    by_paper = {paper: [line for line in lines if line.claim.paper == paper] for paper in PAPERS}
    negative = [
        line
        for verdict in ("opposite", "not supported", "undecided")
        for line in lines
        if line.row["verdict"] == verdict
    ]
    mixed = [
        line
        for line in lines
        if line.row["verdict"] == "supported" and line.row["cells_opposite"] > 0
    ]
    parts = {
        (level, str(name)): family_name(name) if level == "family" else str(name)
        for level in _NAMES
        for name in dict.fromkeys(table[table["level"] == level][level])
    }
    return _template().render(
        subtitle=subtitle,
        command=command,
        unread=unread,
        setting=_setting(table),
        run=run or {},
        papers=PAPERS,
        every=lines,
        by_paper={paper: tested for paper, tested in by_paper.items() if tested},
        negative=negative,
        mixed=mixed,
        parts=parts,
        untried=_by_arms(of_one_seed(table, claims)),
        missing=_missing(table, claims),
    )


def describe(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> str:
    """A claims table for a terminal: the pooled effect of every claim, by topic."""
    text = []
    every = _lines(table, claims)
    for topic, lines in _by_topic(every):
        text += ["", topic, "-" * len(topic)]
        for line in lines:
            text += [f"{line.claim.title}{line.beside(every)}: {line.verdict}"]
            text += [f"    {line.effect}; {line.n}"]
            text += [f"    cells: {line.cells}; beyond: {line.beyond}"]
    text += [f"Not tested, one seed: {one}" for one in _by_arms(of_one_seed(table, claims))]
    text += [f"Not measured: {missing}" for missing in _missing(table, claims)]
    return "\n".join(text).strip()


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "wrapped": lambda text: textwrap.fill(text, 100),
        "counted": _counted,
        "by_topic": _by_topic,
    }
    return environment.get_template("page.md.j2")


def _lines(
    table: pd.DataFrame, claims: Sequence[Claim], placebos: pd.DataFrame | None = None
) -> list[_Line]:
    """One per claim that was tested, in the order of the claims."""
    untried = {claim.id for claim in of_one_seed(table, claims)}
    instead = {} if placebos is None else headline_rows(placebos)
    rows: dict[str, list[Row]] = {}
    for row in table.to_dict("records"):
        fields = {str(column): value for column, value in row.items()}
        rows.setdefault(str(row["claim"]), []).append(fields)
    pooled = headline_rows(table)
    return [
        _Line(claim, pooled[claim.id], rows[claim.id], instead.get(claim.id))
        for claim in claims
        if claim.id in pooled and claim.id not in untried
    ]


def _by_topic(lines: Sequence[_Line]) -> list[tuple[str, list[_Line]]]:
    return [(topic, list(group)) for topic, group in groupby(lines, lambda line: line.claim.topic)]


def _counted(lines: Sequence[_Line], column: str) -> str:
    """How many lines have each verdict."""
    verdicts = [line.row[column] for line in lines]
    return ", ".join(f"{verdicts.count(name)} {name}" for name in VERDICTS if name in verdicts)


def _missing(table: pd.DataFrame, claims: Sequence[Claim]) -> list[str]:
    """What was not measured: claim by claim, or whole topics."""
    missing = untested(table, claims)
    begun = {claim.topic for claim in claims if claim not in missing}
    texts = []
    for claim in missing:
        if claim.topic in begun:
            texts.append(f"{claim.title} ({', '.join(claim.arms)})")
    return texts + _by_arms([claim for claim in missing if claim.topic not in begun])


def _by_arms(claims: Sequence[Claim]) -> list[str]:
    """Claims by topic: how many, and about which arms."""
    texts = []
    for topic in dict.fromkeys(claim.topic for claim in claims):
        whole = [claim for claim in claims if claim.topic == topic]
        arms = dict.fromkeys(arm for claim in whole for arm in claim.arms)
        n = f"{len(whole)} claim{'s' * (len(whole) > 1)}"
        texts.append(f"{whole[0].paper}: {topic}, {n} ({', '.join(arms)})")
    return texts


def _setting(table: pd.DataFrame) -> str:
    """Models, kinds and counts, in one paragraph."""
    cells = table[table["level"] == "cell"]
    families = ", ".join(family_name(name) for name in dict.fromkeys(cells["family"]))
    n = format_counts(cells["n_items"], cells["n_seeds"])
    models = len(cells[["family", "scale"]].drop_duplicates())
    kinds = ", ".join(dict.fromkeys(cells["kind"]))
    return (
        f"{models} models ({families}; {', '.join(dict.fromkeys(cells['scale']))}) on "
        f"{cells['kind'].nunique()} kinds of problems ({kinds}), {n} in every cell; differences "
        "from the base rest on one base per model. All intervals are 95 %."
    )
