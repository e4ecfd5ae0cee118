"""Write the pages that are made from code and results: metrics, claims, formats, statistics, ...

Usage: python scripts/write_docs.py            (tests/test_docs.py says when it has to be run)
       python scripts/write_docs.py --pictures (draws docs/images/measures and formats again, too)
"""

import json
import sys
from collections.abc import Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attcot_analysis.measures.check import MEASUREMENTS
from attcot_analysis.problems.formats import FORMATS, ResponseFormat
from attcot_analysis.runs.values import CHANCE
from attcot_analysis.shipped import data_folder
from attcot_analysis.show.style import arm_label, format_interval, format_number
from attcot_analysis.stats.catalogue import METRICS, NOTATION, Metric
from attcot_lab.claims.claim import CLAIMS, PAPERS, Claim
from attcot_lab.claims.table import (
    headline_rows,
    of_one_seed,
    placebo_table,
    read_claims,
    read_values,
)
from attcot_lab.coverage import SEED_SPREADS, coverages

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = "images/measures"

AXES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "accuracy": (
            "Answers",
            "What the model answers by itself, with a rationale (CoT) and without (direct).",
        ),
        "commitment": (
            "Commitment",
            "When is the answer fixed? After every step of its own rationale the model is forced "
            "to answer, and the probabilities of the candidates are read.",
        ),
        "access": (
            "Visual access",
            "Does it look while it writes? Attention from the rows that predict rationale tokens "
            "onto image tokens; and, causally, what is lost when it cannot.",
        ),
        "dependence": (
            "Dependence",
            "Would the answer change if the picture did? The twin changes the right answer, the "
            "control edit changes as much of the picture and not the answer.",
        ),
        "prior": (
            "Prior reliance",
            "What does the wording alone suggest, and how often is that what is answered?",
        ),
        "samples": (
            "Samples of VISTA's training",
            "What sampling with mended prefixes yields, and whether its filter keeps what depends "
            "on the picture; measured on training questions by the recipe vista only.",
        ),
    }
)
CAPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "answers": "One response, its answer matched with the candidates.",
        "commitment": "Forced answers along the rationale: position, area, start.",
        "access": "Rows of a step, image tokens, the evidence boxes of the step.",
        "causal": "Edges cut, mean values in their place, or no image at all.",
        "dependence": "The same question under the twin, the control edit and a grey picture.",
        "prior": "With and without the picture.",
        "samples": "Mended prefixes against as many plain samples.",
    }
)
NOTEBOOKS: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "00_start_here",
        "commitment": "02_answer_commitment",
        "access": "01_visual_access",
        "dependence": "03_counterfactual_dependence",
        "prior": "05_before_and_after",
        "samples": "09_vista_self_improvement",
    }
)
"""Metric axis → the notebook that measures it."""
MODULES: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "attcot_analysis/measures/answers.py",
        "commitment": "attcot_analysis/measures/commitment.py",
        "access": "attcot_analysis/measures/access.py",
        "dependence": "attcot_analysis/measures/dependence.py",
        "prior": "attcot_analysis/measures/dependence.py",
        "samples": "attcot_lab/vista/run.py",
    }
)
_HEAD = "<!-- Written by scripts/write_docs.py; change the code it is made from. -->\n\n"
_BETTER = {"higher": "higher is better", "lower": "lower is better", None: "no direction by itself"}


def metrics_page() -> str:
    """The page of every measurement, from the catalogue."""
    parts = [
        "# Every measurement\n",
        "Every metric is one number per item, averaged over items (and training seeds) with a 95 % "
        "interval. This page is the catalogue `attcot_analysis.METRICS`, which the report prints, "
        "too, with formulas. What it means that most of these are reconstructions is said in "
        "[What to keep in mind](../README.md#what-to-keep-in-mind); whether they find what they "
        "name, in [Do the metrics find what they name?](validity.md)\n",
        f"Notation: {NOTATION}",
    ]
    for axis, (title, about) in AXES.items():
        parts += [f"## {title}\n", f"{about}\n"]
        own = [metric for metric in METRICS.values() if metric.axis == axis]
        shown: list[str] = []
        for metric in own:
            if metric.picture not in shown:
                shown.append(metric.picture)
                caption = CAPTIONS[metric.picture]
                parts.append(f"![{caption}]({PICTURES}/{metric.picture}.svg)\n")
            parts.append(_metric(metric))
    parts.append((Path(__file__).parent / "neighbours.md").read_text(encoding="utf-8"))
    return _HEAD + "\n".join(parts)


def _metric(metric: Metric) -> str:
    kind = ", 0 or 1 per item" if metric.binary else ""
    return (
        f"### {metric.name}\n\n"
        f"**{metric.title}** ({metric.unit}{kind}; {_BETTER[metric.better]}), from "
        f"`{metric.function}`.\n\n"
        f"```text\n{metric.formula}\n```\n\n"
        f"{metric.definition}\n\n"
        f"*When the usual reading is wrong:* {metric.falsifier}\n\n"
        f"*Source:* {metric.source}.\n"
    )


def papers_page() -> str:
    """The map from every claim to the code that measures it and the notebook that shows it."""
    parts = [
        "# The papers' map\n",
        "Every claim that is put to the test (bold: what the paper says), the hypotheses made of "
        "it, the metrics they are about, the code that measures these and the notebook that shows "
        "how. Effects, margins and verdicts are written by `attcot testbed claims`; what rests on "
        "one training seed, as all about SAYO and VISTA that ships, is called not tested there. "
        "The papers' texts are quoted from their abstracts; what stands in no abstract is marked "
        "as ours.\n",
    ]
    for paper, source in PAPERS.items():
        claims = [claim for claim in CLAIMS if claim.paper == paper]
        if not claims:
            continue
        parts.append(f"## {paper}\n\nTaken from: {source}.\n")
        for sentence in dict.fromkeys(claim.sentence for claim in claims):
            parts.append(f"**{sentence}**\n")
            parts.append("| Hypothesis | Arms | Metrics | Code | Notebook |\n|---|---|---|---|---|")
            parts += [_claim_row(claim) for claim in claims if claim.sentence == sentence]
            parts.append("")
    return _HEAD + "\n".join(parts)


def _claim_row(claim: Claim) -> str:
    names = list(dict.fromkeys(term.metric for term in claim.terms if term.metric != CHANCE))
    axes = list(dict.fromkeys(METRICS[name].axis for name in names))
    arms = ", ".join(dict.fromkeys(arm_label(term.arm) for term in claim.terms))
    metrics = ", ".join(f"[{name}](metrics.md#{name})" for name in names)
    code = ", ".join(f"[`{Path(MODULES[axis]).stem}`](../{MODULES[axis]})" for axis in axes)
    notebooks = ", ".join(
        f"[{NOTEBOOKS[axis][:2]}](../notebooks/{NOTEBOOKS[axis]}.ipynb)" for axis in axes
    )
    title = claim.title.replace("|", "/")
    return f"| {title} (`{claim.id}`) | {arms} | {metrics} | {code} | {notebooks} |"


def formats_page() -> str:
    """The page of response formats: the text, and a section with a picture for each."""
    about = (Path(__file__).parent / "formats.md").read_text(encoding="utf-8")
    sections = [_format(form) for form in FORMATS.values()]
    return _HEAD + about.replace("<!-- formats -->\n", "\n".join(sections) + "\n")


def _format(form: ResponseFormat) -> str:
    lines = [f"### {form.name}\n", f"*From:* {escape(form.source, quote=False)}\n"]
    lines.append(f"![A response in the format {form.name}](images/formats/{form.name}.svg)\n")
    shown = {
        "system prompt": form.system,
        "instruction": form.cot,
        "instruction, direct": form.direct,
        "rationale between": None if form.rationale is None else " … ".join(form.rationale),
        "answer between": None if form.answer is None else " … ".join(form.answer),
        "forces an answer": form.cue,
        "in other words": "` or `".join(form.cues),
        "ends an answer": form.close,
    }
    lines += ["| | |", "|---|---|"]
    for what, value in shown.items():
        if value:
            flat = value.strip("\n").replace("\n", "⏎").replace("|", "\\|")
            lines.append(f"| {what} | `{flat}` |")
    return "\n".join(lines) + "\n"


def statistics_page() -> str:
    """The page of statistics: the text, and how often every interval holds what it should."""
    rows = [
        "| Given by | Simulated | "
        + " | ".join(f"seed SD {spread:g}" for spread in SEED_SPREADS)
        + " | Promise |",
        "|---" * (len(SEED_SPREADS) + 3) + "|",
    ]
    for one in coverages():
        cells = [f"{share:.1%}" for share in one.held]
        if len(cells) == 1:
            cells += ["\N{EN DASH}"] * (len(SEED_SPREADS) - 1)
        promise = f"{one.promise:.0%}" if one.promise else "none"
        rows.append(f"| {one.name} | {one.setting} | {' | '.join(cells)} | {promise} |")
    about = (Path(__file__).parent / "statistics.md").read_text(encoding="utf-8")
    return _HEAD + about.replace("<!-- coverage -->\n", "\n".join(rows) + "\n")


GRIDS = {"claims": "First grid", "commitment": "Again", "in_distribution": "Habit kept"}
"""Shipped results → what the page calls them."""
_MARKS = {"supported": "+", "opposite": "\N{MINUS SIGN}", "not supported": "0", "undecided": "?"}


def claims_page() -> str:
    """The page of claims: the text, and every claim of several seeds in the three grids."""
    folders = {grid: data_folder() / "results" / grid for grid in GRIDS}
    tables = {grid: read_claims(folder) for grid, folder in folders.items()}
    untested = set(of_one_seed(tables["claims"]))
    tested = [claim for claim in CLAIMS if claim not in untested]
    found = {grid: headline_rows(table) for grid, table in tables.items()}
    untrained = headline_rows(placebo_table(read_values(folders["commitment"]), tested))
    parts: list[str] = []
    for topic, group in groupby(tested, lambda claim: claim.topic):
        rows = [[claim, *(found[grid].get(claim.id) for grid in GRIDS)] for claim in group]
        rows = [row for row in rows if any(row[1:])]
        if rows:
            parts += [f"**{topic}** ({rows[0][0].paper})\n"]
            parts += [f"| Claim | {' | '.join(GRIDS.values())} | Untrained |", "|---" * 5 + "|"]
        for claim, *cells in rows:
            shown = [*map(_effect, cells), _effect(untrained.get(claim.id), mark=False)]
            parts.append(f"| {claim.title} | {' | '.join(shown)} |")
        parts += [""] * bool(rows)
    about = (Path(__file__).parent / "claims.md").read_text(encoding="utf-8")
    return _HEAD + about.replace("<!-- claims -->\n", "\n".join(parts))


def _effect(row: Mapping[str, Any] | None, *, mark: bool = True) -> str:
    if row is None:
        return "\N{EN DASH}"
    text = f"{format_number(row['effect'], signed=True)} "
    text += format_interval(row["low"], row["high"], signed=True)
    if not mark:
        return text
    verdict = f"**{_MARKS[row['verdict']]}**"
    if row["negligible"] and row["verdict"] in ("supported", "opposite"):
        verdict += " small"
    cells = (row[f"cells_{name}_corrected"] for name in ("supported", "opposite"))
    return f"{text} {verdict} {'/'.join(f'{n:.0f}' for n in cells)}"


def checkpoints_page() -> str:
    """The page of families: the text, and what was found on each in docs/checkpoints."""
    found = [
        json.loads(file.read_text(encoding="utf-8"))
        for file in sorted((DOCS / "checkpoints").glob("*.json"))
    ]
    head = ["Model", "Class", "Processor, tokenizer", "Weights", "transformers", *MEASUREMENTS]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    reasons: dict[str, list[str]] = {}
    for one in found:
        verdicts = {name: one["measurements"][name] for name in MEASUREMENTS}
        cells = [
            one["model"],
            f"`{one['class'].removesuffix('ForConditionalGeneration')}`",
            one.get("parts", "its own"),
            one.get("weights", "its own"),
            one["versions"]["transformers"],
            *(each["verdict"] for each in verdicts.values()),
        ]
        rows.append(f"| {' | '.join(cells)} |")
        for name, each in verdicts.items():
            if "why" in each:
                reason = f"{name}: {each['why'].replace(one['model'], 'it')}"
                reasons.setdefault(reason, []).append(one["model"])
    why = [f"- {', '.join(models)}: {reason}" for reason, models in reasons.items()]
    about = (Path(__file__).parent / "checkpoints.md").read_text(encoding="utf-8")
    about = about.replace("<!-- table -->", "\n".join(rows))
    return _HEAD + about.replace("<!-- reasons -->", "\n".join(why) or "Nothing.")


PAGES = {
    "checkpoints.md": checkpoints_page,
    "claims.md": claims_page,
    "metrics.md": metrics_page,
    "papers.md": papers_page,
    "formats.md": formats_page,
    "statistics.md": statistics_page,
}
"""File in docs → what writes it."""


def main(arguments: list[str]) -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
    if "--pictures" in arguments:
        from measure_pictures import draw_all

        draw_all(DOCS / PICTURES)
        import format_pictures

        format_pictures.draw_all(DOCS / "images" / "formats")


if __name__ == "__main__":
    main(sys.argv[1:])
