"""`attcot bench`, `attcot check-model`: is it fast, and is it true of this checkpoint?"""

import argparse
from pathlib import Path

from attcot_analysis.cli import options


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    bench = commands.add_parser(
        "bench", parents=[common], help="time and memory of the fast paths against plain ones"
    )
    bench.add_argument(
        "name", metavar="NAME", help="access, commitment, explorer, grpo, sayo, training or vista"
    )
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    bench.add_argument("--device", default="cpu", help="as torch names it, such as cuda")
    bench.add_argument("--quick", action="store_true", help="small shapes, no bar judged")
    bench.set_defaults(run=_bench)

    check = commands.add_parser(
        "check-model", parents=[common], help="is what we measure with true of this checkpoint?"
    )
    check.add_argument("model", metavar="MODEL", help=options.MODEL)
    options.add_loading(check, dtype="float32, which is compared most closely")
    check.add_argument("--trust-remote-code", action="store_true")
    check.set_defaults(run=_check)


def _bench(given: argparse.Namespace, quiet: bool) -> bool:
    from attcot_analysis.bench import run_bench
    from attcot_analysis.bench.rows import check_file, format_rows, write_rows

    if given.json is not None:
        check_file(given.json)
    rows = run_bench(given.name, progress=not quiet, quick=given.quick, device=given.device)
    print(format_rows(rows))
    if given.json is not None:
        write_rows(rows, given.json)
    return all(row.holds is not False for row in rows)


def _check(given: argparse.Namespace, quiet: bool) -> bool:
    from attcot_analysis.measure.check import check_model

    found = check_model(
        options.chosen_model(given, given.model).name,
        dtype=given.dtype or "float32",
        device=given.device,
        revision=given.revision,
        trust_remote_code=given.trust_remote_code,
        report=lambda check: print(check, flush=True),
    )
    print(found.verdict)
    return found.holds
