"""`python -m benchmarks NAME`: time and memory of the fast paths against plain ones."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from attcot_analysis.errors import AttCoTError
from benchmarks import BENCHES, run_bench
from benchmarks.bench import check_file, format_rows, write_rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a bench; returns 1 if it cannot be run, 3 if a bar does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "name",
        metavar="NAME",
        help=", ".join(BENCHES),
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    parser.add_argument("--device", default="cpu", help="as torch names it, such as cuda")
    parser.add_argument("--quick", action="store_true", help="small shapes, no bar judged")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    given = parser.parse_args(arguments)
    try:
        if given.json is not None:
            check_file(given.json)
        rows = run_bench(
            given.name, progress=not given.quiet, quick=given.quick, device=given.device
        )
        print(format_rows(rows))
        if given.json is not None:
            write_rows(rows, given.json)
    except AttCoTError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 3 if any(row.holds is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
