"""`attcot run`: everything that a run file asks for."""

import argparse
from pathlib import Path

from attcot_analysis.cli import options


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    road = commands.add_parser(
        "run",
        parents=[common],
        help="check, measure, fine-tune, compare, as a YAML file says; again goes on",
        description="Do all that a run file asks for: check the model, measure it, fine-tune it as "
        "every arm, measure those, and write a page per comparison. Run again it goes on.",
    )
    road.add_argument("file", metavar="FILE", help="YAML file, or a name in configs/runs")
    road.add_argument("--out", type=Path, help="folder, instead of the file's own")
    road.add_argument("--dry", action="store_true", help="read the file and say what it asks for")
    road.set_defaults(run=_road)


def _road(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_lab.run_file import read_run_file

    config = read_run_file(given.file, out=given.out)
    if given.dry:
        print(config)
        return
    from attcot_lab.road import follow_road

    folder = follow_road(config, progress=not quiet, say=lambda line: print(line, flush=True))
    print(f"Run: {folder}")
