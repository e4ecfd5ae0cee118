"""`docs/claims.md`, written from a claims table: every result in it, the negative ones too."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from attcot_analysis.runs.headline import CHANCE
from attcot_analysis.show.style import arm_label, format_counts, format_interval, format_number
from attcot_analysis.stats.catalogue import METRICS
from attcot_lab.claims.claim import CLAIMS, PAPERS, Claim
from attcot_lab.claims.table import VERDICTS, headline_rows, untested
from attcot_lab.figures import family_name

Row = Mapping[str, Any]

_READ = """\
A **cell** is one model on one kind of problem. An effect is paired by item and training seed; the
base, which is not trained, is held against every seed of the other arms.

- **supported**: the 95 % interval lies entirely on the claimed side of zero. *(negligible)* is
  added where it lies within the margin as well: an effect that can be told from zero and does not
  matter.
- **opposite**: entirely on the other side.
- **not supported**: it includes zero and lies within plus and minus the margin, the smallest
  effect of interest. There is no effect that would matter.
- **undecided**: it includes zero and is too wide to say that. More seeds or items would decide.

A claim that something is *not* higher is supported where the interval stays below the margin. Two
arms do alike where *no better* and *no worse* are both supported.

**Cells.** Interval over seeds × items: the wider of two-way bootstrap and crossed t interval. The
column "cells" counts supported and opposite cells by these intervals; after the slash, with the p
values that belong to them corrected by Holm for the claim's number of cells, which is to keep
even one verdict that is due to chance alone as rare as 5 %. With few training seeds it does not
quite: where seeds differ about as much as items do, p values of 0.05 over 18 come up to 1.7 times
too often with eight seeds, 2.9 times with five, 4.2 times with four, 8 times with three
(simulated).

**Mean over these cells.** Every cell weighs the same. The models of a kind answer the same items
and a seed draws the same training problems for all of them, so the effect is averaged over models
first, item by item and seed by seed, and that matrix is treated like a cell's; kinds share
neither items nor training problems, so their variances add. The interval speaks about new seeds
and items on these very models and kinds.

**Beyond.** The same with models and kinds as draws from more of their like (crossed random
effects). A handful of tiny models and kinds are few, two scales of a family are more alike than
two families, and nobody drew them at random: read it as a warning where it disagrees, not as a
promise about others."""

_NOT = """\
- These are tiny models, trained from nothing on generated pictures. What holds here need not hold
  at 7 B parameters on photographs; what fails here shows that a claim is not true of every MLLM.
- The papers' models and numbers are not public to us, nor all of their formulas: a claim is tested
  in our reading of one sentence, with our reconstruction of the method. *Att-CoT, paper's form* is
  the form nearest to the abstract, *Att-CoT* the one that we would use.
- The training data are prior-laden on purpose. Where test items are balanced, a model that
  follows habits is punished; where they have the same prior, it is rewarded for them. On data
  without such a prior there may be nothing to cure.
- Commitment and visual mass are what the objective trains. That they move shows that training
  works; whether it helps shows in accuracy and in following the twin.
- Where training questions are the items (what VISTA samples), every training seed has its own.
- Verdicts are not corrected for the number of claims: of forty claims without any effect, one is
  expected to be called supported.
- "Not measured" is not "not supported"."""


def claims_page(
    table: pd.DataFrame,
    claims: Sequence[Claim] = CLAIMS,
    *,
    run: Row | None = None,
    pictures: Mapping[str, str] | None = None,
    command: str = "attcot testbed claims --results data/results/claims --docs docs/claims.md",
    subtitle: str = "",
    unread: str = "",
) -> str:
    """The page as Markdown.

    Args:
        table: From `claims_table`.
        claims: What was tested.
        run: What is worth saying about the run, name → text.
        pictures: Title → path of a picture, seen from the page.
        command: How the page was made.
        subtitle: What tells it from other pages of claims.
        unread: In which cells answers were not read, see `unread_cells`; the first line.
    """
    rows = headline_rows(table)
    parts = [
        "# The claims, put to the test" + (f": {subtitle}" if subtitle else ""),
        f"<!-- Made from the results by `{command}`; edit the generator, not this page. -->",
        *([_wrapped(unread)] if unread else []),
        _wrapped(_setting(table)),
        *([_facts(run)] if run else []),
        "## In short",
        _short(table, claims, rows),
        *(f"![{title}]({path})" for title, path in (pictures or {}).items()),
        "## Negative results",
        _negative(claims, rows),
        "## How to read this",
        _READ,
    ]
    for paper, source in PAPERS.items():
        own = [claim for claim in claims if claim.paper == paper]
        if any(claim.id in rows for claim in own):
            parts += [f"## Claims: {paper}", f"Source: {source}."]
            parts += _topics(own, table, rows)
    missing = _missing(table, claims)
    if missing:
        listed = "\n".join(f"- {said}" for said in missing)
        parts += ["## Not measured", "The arms or metrics of these are not in the results.", listed]
    parts += ["## What it does not say", _NOT]
    return "\n\n".join(parts) + "\n"


def describe(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> str:
    """A claims table for a terminal: the pooled effect of every claim, by topic."""
    rows = headline_rows(table)
    lines, topic = [], ""
    for claim in claims:
        if claim.id not in rows:
            continue
        if claim.topic != topic:
            topic = claim.topic
            lines += ["", topic, "-" * len(topic)]
        row = rows[claim.id]
        lines += [f"{claim.title}: {_said(row)}", f"    {_effect(row, claim)}; {_n(row)}"]
        lines += [f"    cells: {_cells(row)}; beyond: {_beyond(row)}"]
    lines += [f"Not measured: {said}" for said in _missing(table, claims)]
    return "\n".join(lines).strip()


def _missing(table: pd.DataFrame, claims: Sequence[Claim]) -> list[str]:
    """What was not measured: claim by claim, or whole topics."""
    missing = untested(table, claims)
    begun = {claim.topic for claim in claims if claim not in missing}
    said = [f"{one.title} ({', '.join(one.arms)})" for one in missing if one.topic in begun]
    for topic in dict.fromkeys(claim.topic for claim in missing if claim.topic not in begun):
        own = [claim for claim in missing if claim.topic == topic]
        arms = dict.fromkeys(arm for claim in own for arm in claim.arms)
        said.append(f"{own[0].paper}: {topic}, {len(own)} claims ({', '.join(arms)})")
    return said


def _setting(table: pd.DataFrame) -> str:
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


def _facts(run: Row) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in run.items())


def _short(table: pd.DataFrame, claims: Sequence[Claim], rows: Mapping[str, Row]) -> str:
    lines = []
    for paper in PAPERS:
        own = [rows[claim.id] for claim in claims if claim.paper == paper and claim.id in rows]
        if own:
            told = [_count(own, "verdict"), _count(own, "verdict_beyond")]
            lines.append(
                f"- **{paper}**, {len(own)} claims: {told[0]} in the mean over these cells"
                + (f"; {told[1]} beyond them." if told[1] else ".")
            )
    return "\n".join(lines)


def _count(rows: Sequence[Row], column: str) -> str:
    said = [row[column] for row in rows if isinstance(row[column], str)]
    return ", ".join(f"{said.count(name)} {name}" for name in VERDICTS if name in said)


def _negative(claims: Sequence[Claim], rows: Mapping[str, Row]) -> str:
    lines = []
    for name in ("opposite", "not supported", "undecided"):
        for claim in claims:
            row = rows.get(claim.id)
            if row is not None and row["verdict"] == name:
                lines.append(
                    f"- **{_said(row)}**: {claim.title}, {_effect(row, claim)}; cells "
                    f"{_cells(row)}."
                )
    few = [
        claim.title
        for claim in claims
        if (row := rows.get(claim.id)) is not None
        and row["verdict"] == "supported"
        and row["cells_opposite"] > 0
    ]
    if few:
        lines.append(f"- Supported in the mean, yet opposite in some cells: {'; '.join(few)}.")
    return "\n".join(lines) or "None: every claim measured is supported in every cell."


def _topics(claims: Sequence[Claim], table: pd.DataFrame, rows: Mapping[str, Row]) -> list[str]:
    parts = []
    for topic in dict.fromkeys(claim.topic for claim in claims):
        own = [claim for claim in claims if claim.topic == topic and claim.id in rows]
        if own:
            parts += [f"### {topic}", _quoted(own), _main(own, rows), _by_part(own, table)]
            parts.append(_notes(own))
    return parts


def _quoted(claims: Sequence[Claim]) -> str:
    return "> " + " ".join(dict.fromkeys(claim.sentence for claim in claims))


def _main(claims: Sequence[Claim], rows: Mapping[str, Row]) -> str:
    lines = [
        "| Claim | Mean over these cells | n | Verdict | Beyond | Cells |",
        "|---|---|---|---|---|---|",
    ]
    for claim in claims:
        row = rows[claim.id]
        lines.append(
            f"| {claim.title} | {_effect(row, claim)} | {_n(row)} | **{_said(row)}** | "
            f"{_beyond(row)} | {_cells(row)} |"
        )
    return "\n".join(lines)


def _by_part(claims: Sequence[Claim], table: pd.DataFrame) -> str:
    """Effects by kind, family and scale, as far as they were pooled."""
    columns: dict[tuple[str, str], str] = {}
    for level in ("kind", "family", "scale"):
        for name in dict.fromkeys(table[table["level"] == level][level]):
            columns[level, name] = family_name(name) if level == "family" else str(name)
    if not columns:
        return ""
    head = " | ".join(columns.values())
    lines = [f"| Effect by | {head} |", "|---" * (len(columns) + 1) + "|"]
    for claim in claims:
        own = table[table["claim"] == claim.id]
        found = []
        for level, name in columns:
            row = own[(own["level"] == level) & (own[level] == name)]
            found.append(_brief(row.iloc[0]) if len(row) else "")
        lines.append(f"| {claim.title} | {' | '.join(found)} |")
    return "\n".join(lines)


def _notes(claims: Sequence[Claim]) -> str:
    lines = [
        f"- {claim.title}: {_compared(claim)}, claimed {claim.direction}; margin {claim.margin:g} "
        f"({claim.reason}). {claim.caveat}".rstrip()
        for claim in claims
    ]
    notes = "\n".join(lines)
    return f"<details><summary>Definitions and margins</summary>\n\n{notes}\n\n</details>"


def _compared(claim: Claim) -> str:
    said = ""
    for term in claim.terms:
        name = "chance" if term.metric == CHANCE else f"`{term.metric}` of {arm_label(term.arm)}"
        sign = "\N{MINUS SIGN}" if term.weight < 0 else "+"
        said += f" {sign} {name}" if said else name
    return said + (f" \N{MINUS SIGN} {claim.reference:g}" if claim.reference else "")


def _effect(row: Row, claim: Claim) -> str:
    value = format_number(row["effect"], signed=True)
    return f"{value} {format_interval(row['low'], row['high'], signed=True)}{_unit(claim)}"


def _unit(claim: Claim) -> str:
    return " nats" if METRICS[claim.metric].unit == "nats" else ""


def _said(row: Row) -> str:
    small = bool(row["negligible"]) and row["verdict"] in ("supported", "opposite")
    return f"{row['verdict']} (negligible)" if small else str(row["verdict"])


def _beyond(row: Row) -> str:
    if not isinstance(row["verdict_beyond"], str):
        return "\N{EN DASH}"
    ends = format_interval(row["low_beyond"], row["high_beyond"], signed=True)
    return f"{row['verdict_beyond']} {ends}"


def _cells(row: Row) -> str:
    n = row["n_cells"]
    up, down = (
        f"{row[f'cells_{name}']:.0f}/{row[f'cells_{name}_corrected']:.0f}"
        for name in ("supported", "opposite")
    )
    return f"{up} of {n} supported, {down} opposite"


def _n(row: Row) -> str:
    return format_counts([row["n_items"]], [row["n_seeds"]])


def _brief(row: pd.Series) -> str:
    marks = {"supported": "+", "opposite": "\N{MINUS SIGN}", "not supported": "0"}
    value = format_number(float(row["effect"]), signed=True, digits=2)
    ends = format_interval(float(row["low"]), float(row["high"]), signed=True, digits=2)
    mark = marks.get(str(row["verdict"]), "?")
    return f"{value} {ends} {mark}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100)
