"""`attcot grid`: fine-tune and measure every cell of a grid."""

import argparse
from pathlib import Path

from attcot_analysis.cli import options


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    grid = commands.add_parser(
        "grid",
        parents=[common],
        help="fine-tune and measure models × problems × arms × seeds; again goes on",
        description="Fine-tune and measure every cell of a grid. Run again on the same folder it "
        "goes on where it was, also with a file to which models, arms or seeds were added.",
    )
    grid.add_argument("file", metavar="FILE", help="YAML file, or a name in configs/grids")
    grid.add_argument("--out", type=Path, required=True, help="run folder")
    grid.add_argument(
        "--gather", action="store_true", help="only write the table of the cells finished so far"
    )
    options.add_workers(grid)
    grid.set_defaults(run=_grid)


def _grid(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.runs.run import RunFolder
    from attcot_lab.grid import grid_values, read_grid, run_grid

    if given.gather:
        run = RunFolder.open(given.out)
        run.write_table("values", grid_values(run), overwrite=True)
    else:
        config = read_grid(given.file)
        run = run_grid(given.out, config, workers=options.workers(given), progress=not quiet)
    print(f"Values: {run.path / 'tables' / 'values.parquet'}")
