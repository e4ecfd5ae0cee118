"""`attcot testbed claims`: every claim held against the results of a grid."""

import argparse
from pathlib import Path
from typing import Any

from attcot_analysis.cli import options


def add(kinds: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to those of the testbed."""
    claims = kinds.add_parser(
        "claims",
        parents=[common],
        help="hold the papers' claims against a grid's results: effect, interval, verdict",
        description="Hold every claim against the results of a grid and print the table. With "
        "--results or --grid it is also written there, as claims.parquet and claims.json.",
    )
    where = claims.add_mutually_exclusive_group()
    where.add_argument(
        "--results", type=Path, help="run folder of a grid; default the shipped results"
    )
    where.add_argument("--grid", metavar="FILE", help="run this grid first (needs --out)")
    claims.add_argument("--out", type=Path, help="run folder of --grid")
    claims.add_argument(
        "--docs", type=Path, metavar="PATH", help="write the page there, and its pictures"
    )
    claims.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="draw an overview and one forest per claim"
    )
    options.add_workers(claims)
    claims.set_defaults(run=_claims)


def _claims(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.errors import RunError
    from attcot_analysis.measures.unread import unread_cells
    from attcot_analysis.shipped import CLAIMS_RESULTS, shipped
    from attcot_lab.claims.claim import CLAIMS
    from attcot_lab.claims.page import claims_page, describe
    from attcot_lab.claims.table import claims_table, read_values, run_facts, write_claims

    folder = given.results
    if given.grid:
        from attcot_lab.grid import read_grid, run_grid

        if given.out is None:
            raise RunError("--grid needs a run folder; say where to with --out FOLDER.")
        grid = read_grid(given.grid)
        folder = run_grid(given.out, grid, workers=options.workers(given), progress=not quiet).path
    own = folder is not None
    folder = folder or shipped(CLAIMS_RESULTS)
    values = read_values(folder)
    table = claims_table(values)
    unread = unread_cells(values, {(term.arm, term.metric) for c in CLAIMS for term in c.terms})
    if unread:
        print(f"{unread}\n")
    print(describe(table))
    if own:
        write_claims(folder, table)
        print(f"\nTable: {folder / 'claims.parquet'}")
    if given.docs:
        from attcot_lab.claims.figures import save_page_pictures

        pictures = save_page_pictures(table, given.docs)
        source = f"--results {Path(folder).as_posix()} " if own else ""
        page = claims_page(
            table,
            unread=unread,
            run=run_facts(folder),
            pictures=pictures,
            command=f"attcot testbed claims {source}--docs {given.docs.as_posix()}",
            subtitle=given.docs.stem.removeprefix("claims").replace("_", " ").strip(),
        )
        given.docs.write_text(page, encoding="utf-8")
        print(f"Page: {given.docs}")
    if given.figures:
        from attcot_lab.claims.figures import save_claim_figures

        save_claim_figures(table, given.figures)
        print(f"Figures: {given.figures}")
