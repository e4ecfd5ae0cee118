"""`attcot check-model`: is what we measure with true of this checkpoint?"""

import argparse

from attcot_analysis.cli import options


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    check = commands.add_parser(
        "check-model", parents=[common], help="is what we measure with true of this checkpoint?"
    )
    check.add_argument("model", metavar="MODEL", help=options.MODEL)
    options.add_loading(check, dtype="float32, which is compared most closely")
    check.add_argument("--trust-remote-code", action="store_true")
    check.set_defaults(run=_check)


def _check(given: argparse.Namespace, quiet: bool) -> bool:
    from attcot_analysis.measures.check import check_model

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
