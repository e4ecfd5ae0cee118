"""`attcot`: thin commands over the functions that the notebooks call."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import entry_points

from attcot_analysis import __version__
from attcot_analysis.cli import checks, data, options, reports, runs, start
from attcot_analysis.cli.exits import MEANINGS, Exit, exit_of
from attcot_analysis.cli.logs import JsonLog, json_log


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, see `attcot_analysis.cli.exits`."""
    given = _parser().parse_args(arguments)
    # The libraries' own bars say nothing that ours do not; set before they are imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with json_log(given.log_json) as log:
            return _run(given, log)
    except Exception as error:
        return _said(error, None)


def _run(given: argparse.Namespace, log: JsonLog | None) -> Exit:
    """Run the command and note it in the log."""
    begun = time.monotonic()
    if log is not None:
        log.write("start", command=given.command, version=__version__, options=_options(given))
    # A log asks for progress; a bar is for a person who is watching.
    quiet = log is None and (given.quiet or options.in_ci())
    code = Exit.ERROR
    try:
        code = Exit.DOES_NOT_HOLD if given.run(given, quiet) is False else Exit.DONE
    except BaseException as error:
        code = _said(error, log)
    finally:
        if log is not None:
            log.write("end", exit_code=int(code), seconds=round(time.monotonic() - begun, 3))
    return code


def _said(error: BaseException, log: JsonLog | None) -> Exit:
    """Say what went wrong; an error that nobody foresaw goes on its way."""
    found = exit_of(error)
    if log is not None:
        sentence = found[1] if found else str(error)
        log.write("error", kind=type(error).__name__, message=sentence)
    if found is None:
        raise error
    # Of several processes the first speaks for all.
    if os.environ.get("RANK", "0") == "0":
        print(f"attcot: {found[1]}", file=sys.stderr, flush=True)
    return found[0]


def _options(given: argparse.Namespace) -> dict[str, object]:
    own = {"run", "command", "log_json"}
    return {name: value for name, value in vars(given).items() if name not in own}


def _say(sentence: str) -> int:
    """Print an error; of several processes the first speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        print(f"attcot: {sentence}", file=sys.stderr, flush=True)
    return 1


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())
    parser = argparse.ArgumentParser(
        prog="attcot",
        description="Does a multimodal LLM look before it answers?",
        epilog=f"MODEL is a checkpoint folder, a hub id or a preset (attcot doctor --presets).\n"
        f"`attcot COMMAND --help` says more.\n\nexit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"attcot {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="no progress bars (nor if CI is set)")
    common.add_argument(
        "--log-json",
        metavar="FILE",
        help="append start, progress, errors, end; - for stderr",
    )
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", dest="command", title="commands"
    )
    for group in (start, checks, data, runs, reports):
        group.add(commands, common)
    # Other packages add commands of their own, as the laboratory does.
    for point in entry_points(group="attcot.commands"):
        point.load()(commands, common)
    return parser
