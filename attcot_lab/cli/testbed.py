"""`attcot testbed ...`: make the testbed's models and problems, and try them."""

import argparse
from pathlib import Path

from attcot_analysis.cli import options
from attcot_lab.cli import claims


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    testbed = commands.add_parser("testbed", help="make the testbed's models and problems")
    kinds = testbed.add_subparsers(required=True, metavar="WHAT")
    build = kinds.add_parser(
        "build",
        parents=[common],
        help="train tiny MLLMs from nothing: three families at two scales",
        description="Train the testbed's models: those that are neither shipped nor built already "
        "go to the cache folder; with --out they are built anew.",
    )
    build.add_argument(
        "names", nargs="*", metavar="NAME", help="such as internvl-large; default all six"
    )
    build.add_argument("--out", type=Path, help="folder for checkpoints that are built anew")
    build.add_argument("--seed", type=int, default=0, help="with --out: of weights and data")
    options.add_workers(build)
    build.set_defaults(run=_build)
    make = kinds.add_parser("problems", parents=[common], help="generate a folder of problems")
    make.add_argument("folder", type=Path, help="new problem folder")
    make.add_argument("--items", type=int, default=200)
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--kind", default="arrows", help="arrows, charts or counting")
    make.add_argument("--noise", type=float, default=None, help="grey levels of colour cast")
    make.add_argument("--prior", type=float, default=None, help="share of habitual answers")
    make.add_argument("--states-evidence", action="store_true", help="last step says the colour")
    make.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KNOB=VALUE",
        help="the kind's own knobs, such as hops=3, task=compare or style=line",
    )
    make.set_defaults(run=_problems)
    valid = kinds.add_parser(
        "validity",
        parents=[common],
        help="plant failures by training and see which metrics find them; again goes on",
    )
    valid.add_argument("--out", type=Path, default=Path("runs/validity"), help="run folder")
    valid.add_argument("--seeds", type=int, default=4, help="training seeds per kind of model")
    valid.add_argument("--items", type=int, default=100, help="test items")
    options.add_workers(valid)
    valid.set_defaults(run=_validity)
    claims.add(kinds, common)


def _build(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_lab.testbed.testbed_models import TESTBED_MODELS, build_models

    folders = build_models(
        given.names or list(TESTBED_MODELS),
        given.out,
        seed=given.seed,
        workers=options.workers(given),
        progress=not quiet,
    )
    for folder in folders:
        print(f"Checkpoint: {folder}")


def _problems(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.problems.folder import save_problems
    from attcot_lab.reproduce import ReproduceConfig
    from attcot_lab.testbed.kinds import generate_problems, read_knobs

    noise = ReproduceConfig().noise if given.noise is None else given.noise
    problems = generate_problems(
        given.kind,
        given.items,
        seed=given.seed,
        **{
            "noise": noise,
            "prior": given.prior,
            "states_evidence": given.states_evidence,
            **read_knobs(given.set),
        },
    )
    save_problems(problems, given.folder)
    print(f"Problems: {given.folder}")


def _validity(given: argparse.Namespace, quiet: bool) -> bool:
    from attcot_lab.validity import ValidityConfig, describe, holds, validity

    config = ValidityConfig(seeds=tuple(range(given.seeds)), items=given.items)
    run = validity(given.out, config, workers=options.workers(given), progress=not quiet)
    table = run.read_table("separation")
    print(describe(table))
    print(f"Tables: {run.path / 'tables'}")
    return holds(table)
