"""Execute the notebooks again, hold them to their form, and write their contents and links.

Usage: python scripts/notebooks.py [NAME ...] [--check | --links]    (make notebooks)
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from course import build_notebooks, link_notebooks


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; returns 3 if a notebook has a fault."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="how a name starts, such as 01")
    parser.add_argument("--folder", type=Path, default=None, help="default: notebooks")
    parser.add_argument("--quiet", action="store_true", help="print faults only")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare only; write nothing")
    mode.add_argument("--links", action="store_true", help="contents and links; execute nothing")
    given = parser.parse_args(arguments)
    if given.links:
        link_notebooks(given.folder)
        return 0
    done = build_notebooks(
        given.names,
        folder=given.folder,
        check=given.check,
        report=lambda built: None if given.quiet and not built.faults else print(built, flush=True),
    )
    return 3 if any(built.faults for built in done) else 0


if __name__ == "__main__":
    sys.exit(main())
