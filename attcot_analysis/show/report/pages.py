"""The report of a run folder: figures and `report.html`, drawn from its tables."""

from collections.abc import Sequence
from pathlib import Path

from attcot_analysis.measures.compare import METRICS
from attcot_analysis.problems import Problem
from attcot_analysis.runs.differences import brief
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.show.report.curves import run_curves
from attcot_analysis.show.report.items import Tables, report_items
from attcot_analysis.show.report.maps import PairMaps
from attcot_analysis.show.report.page import ReportEmbed, write_report
from attcot_analysis.show.report.texts import TESTBED_LIMITS
from attcot_analysis.show.style import order_arms, styled_arms


def write_run_report(
    run: RunFolder,
    tables: Tables,
    problems: Sequence[Problem],
    *,
    pair: tuple[str, str],
    title: str,
    lead: Sequence[str],
    maps: Sequence[PairMaps] = (),
    explorers: Sequence[ReportEmbed] = (),
    notes: Sequence[str] = (),
    limits: Sequence[str] = TESTBED_LIMITS,
    items: int = 24,
) -> Path:
    """Draw a run's figures into ``figures/`` and write its ``report.html``.

    Args:
        run: The folder, with tables ``summary`` and ``comparisons``.
        tables: What was measured.
        problems: The items.
        pair: The two arms that the report is about, reference first.
        title: Title of the page.
        lead: Its first paragraphs.
        maps: Items whose maps are drawn.
        explorers: Explorers of items.
        notes: What to know before quoting a number.
        limits: Limits of what is shown.
        items: Items in the item browser.
    """
    with styled_arms(order_arms(tables)):
        return write_report(
            run.path / "report.html",
            title=title,
            summary=run.read_table("summary"),
            comparisons=run.read_table("comparisons"),
            metrics=METRICS,
            curves=run_curves(tables, problems, pair[0]),
            heatmaps=[found.figure() for found in maps],
            explorers=explorers,
            examples=report_items(tables, problems, pair, items),
            pair=pair,
            manifest=brief(run.manifest),
            lead=lead,
            notes=notes,
            limits=limits,
            figures=run.path / "figures",
            overwrite=True,
        )
