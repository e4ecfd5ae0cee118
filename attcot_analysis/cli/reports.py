"""`attcot report`: one measured run as a page."""

import argparse
from pathlib import Path

from attcot_analysis.cli import options


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    report = commands.add_parser(
        "report",
        parents=[common],
        help="one measured run as one page: metrics, curves, maps, items",
        description="Write one measured run as a page. Several training seeds are joined by "
        "commas; an arm of attcot reproduce is FOLDER:ARM.",
    )
    report.add_argument("run_folder", metavar="RUN", help="folder that attcot measure has written")
    report.add_argument("--out", type=Path, help="the page; default report.html in the run folder")
    report.add_argument("--problems", type=Path, help="problem folder, if it has moved")
    report.add_argument("--examples", type=int, default=3, help="items whose maps are shown")
    report.add_argument("--items", type=int, default=24, help="items in the item browser")
    report.add_argument("--seed", type=int, default=0, help="of the intervals' bootstrap")
    report.add_argument("--overwrite", action="store_true", help="replace a page that is there")
    report.set_defaults(run=_report)


def _report(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.show.report.compare import report_run

    page = report_run(
        given.run_folder.split(","),
        given.out,
        problems=given.problems,
        examples=given.examples,
        items=given.items,
        seed=given.seed,
        overwrite=given.overwrite,
    )
    print(f"Report: {page}")
