"""`attcot doctor`: what would fail here?"""

import argparse
import dataclasses
import json
from pathlib import Path

from attcot_analysis.cli import options


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    doctor = commands.add_parser(
        "doctor",
        parents=[common],
        help="versions, devices, memory, files: what would fail here?",
        description="Look at this installation and, if a model is named, whether it is known and "
        "fits into memory. Nothing is downloaded.",
    )
    doctor.add_argument("model", metavar="MODEL", nargs="?", help=options.MODEL)
    doctor.add_argument("--folder", type=Path, default=Path(), help="where runs would go")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.add_argument("--presets", action="store_true", help="list the presets, nothing else")
    doctor.set_defaults(run=_doctor)


def _doctor(given: argparse.Namespace, quiet: bool) -> bool:
    from attcot_analysis.doctor import examine, holds
    from attcot_analysis.presets import presets

    if given.presets:
        for preset in presets().values():
            print(str(preset).removeprefix("preset "))
        return True
    found = examine(given.model, folder=given.folder)
    if given.json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=1))
    else:
        for one in found:
            print(one)
        failing = sum(one.word == "fails" for one in found)
        print(f"{failing} things would fail" if failing else "nothing would fail")
    return holds(found)
