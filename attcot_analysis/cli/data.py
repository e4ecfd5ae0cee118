"""`attcot data`: check a dataset, convert it, and read what a batch has answered."""

import argparse
from pathlib import Path

from attcot_analysis.cli import options

_SHOWN = 20


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    data = commands.add_parser(
        "data", help="check a dataset, convert it into a problem folder, export it as a task"
    )
    what = data.add_subparsers(required=True, metavar="WHAT")
    check = what.add_parser(
        "check",
        parents=[common],
        help="what is wrong with a dataset, and what can be measured on it",
        description="Read every record, print one sentence for each that is wrong, then what can "
        "be measured on the others. Exit code 3 if anything is wrong.",
    )
    _add_source(check)
    check.set_defaults(run=_check)

    convert = what.add_parser(
        "convert", parents=[common], help="write a dataset as a folder for attcot measure"
    )
    _add_source(convert)
    convert.add_argument("--out", type=Path, required=True, help="new problem folder")
    convert.add_argument(
        "--skip-faulty", action="store_true", help="leave out records that are wrong"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace a problem folder")
    convert.set_defaults(run=_convert)

    responses = what.add_parser(
        "responses",
        parents=[common],
        help="the output of vllm run-batch as responses for attcot measure --generations",
        description="Turn the output file of vllm run-batch (or of another OpenAI-compatible "
        "batch) into the JSON lines of attcot measure --generations, and say what is missing in "
        "it. Exit code 1 if anything is, unless --skip-faulty.",
    )
    responses.add_argument("path", type=Path, metavar="FILE", help="output of the batch")
    responses.add_argument("--out", type=Path, required=True, help="new file (.jsonl)")
    responses.add_argument("--problems", type=Path, help="folder of the items that were asked")
    responses.add_argument("--items", type=int, default=None, help="only the first so many")
    responses.add_argument(
        "--skip-faulty", action="store_true", help="write what there is where some have failed"
    )
    responses.set_defaults(run=_responses)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="file, folder or hub id")
    parser.add_argument(
        "--format",
        default="jsonl",
        metavar="NAME",
        help="jsonl (one's own, default), clevr, chartqa, visual-cot, m3cot, a-okvqa, vstar, "
        "naturalbench or vilp",
    )
    parser.add_argument("--images", type=Path, help="folder of the pictures, if not beside PATH")
    parser.add_argument("--split", default=None, help="of the dataset; default the format's own")
    parser.add_argument(
        "--boxes",
        choices=("pixels", "unit", "thousand", "xywh"),
        help="form of one's own boxes: x0 y0 x1 y1 in pixels (default), 0 to 1 or 0 to 1000, or "
        "x y width height in pixels",
    )
    parser.add_argument("--items", type=int, default=None, help="only the first so many")


def _check(given: argparse.Namespace, quiet: bool) -> bool:
    from attcot_analysis.problems.data import check_data

    found = check_data(
        given.path,
        given.format,
        images=given.images,
        split=given.split,
        boxes=given.boxes,
        limit=given.items,
    )
    _print_faults(found.faults)
    print(found.coverage)
    return found.holds


def _convert(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.problems.data import convert_data

    found = convert_data(
        given.path,
        given.out,
        given.format,
        images=given.images,
        split=given.split,
        boxes=given.boxes,
        limit=given.items,
        skip_faulty=given.skip_faulty,
        overwrite=given.overwrite,
    )
    _print_faults(found.faults)
    print(found.coverage)
    print(f"Problems: {given.out}")


def _responses(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.errors import MeasureError
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.runs.generations import read_batch, write_generations

    asked: list[str] = []
    if given.problems is not None:
        problems = load_problems(given.problems, limit=given.items, keep_pictures=False)
        asked = [problem.id for problem in problems]
    found = read_batch(given.path, asked)
    for fault in found.faults[:_SHOWN]:
        print(fault)
    wrong = len(found.faults) + len(found.missing)
    if not found.lines or (wrong and not given.skip_faulty):
        raise MeasureError(
            f"{given.path} is not complete: {found}, {len(found.faults)} lines cannot be used; ask "
            "for these again, or pass --skip-faulty."
        )
    print(found)
    print(f"Responses: {write_generations(given.out, found)}")


def _print_faults(faults: tuple[str, ...]) -> None:
    for fault in faults[:_SHOWN]:
        print(fault)
    if len(faults) > _SHOWN:
        print(f"... and {len(faults) - _SHOWN} more.")
    if faults:
        print(f"{len(faults)} records are wrong.\n")
