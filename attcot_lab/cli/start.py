"""`attcot demo`, `attcot reproduce`: the shipped study, to look at and to run."""

import argparse
from pathlib import Path

from attcot_analysis.cli import options


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    demo = commands.add_parser(
        "demo", parents=[common], help="copy tiny models, problems and notebooks into a new folder"
    )
    demo.add_argument("folder", type=Path, metavar="DIR", help="new folder")
    demo.set_defaults(run=_demo)
    _add_reproduce(commands, common)


def _add_reproduce(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    run = commands.add_parser(
        "reproduce",
        parents=[common],
        help="fine-tune the testbed model with and without Att-CoT, measure both, write a report",
    )
    run.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="run folder")
    run.add_argument("--seeds", type=int, default=3, help="training seeds per arm")
    run.add_argument("--items", type=int, default=200, help="test items")
    options.add_workers(run)
    run.set_defaults(run=_reproduce)


def _demo(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_lab.demo import write_demo

    folder = write_demo(given.folder)
    print((folder / "README.md").read_text(encoding="utf-8").rstrip())
    print(f"\nDemo: {folder}")


def _reproduce(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_lab.reproduce import ReproduceConfig, reproduce

    config = ReproduceConfig(seeds=tuple(range(given.seeds)), items=given.items)
    run = reproduce(given.out, config, workers=options.workers(given), progress=not quiet)
    print(f"Report: {run.path / 'report.html'}")
