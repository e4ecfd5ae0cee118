"""`attcot`: thin commands over the functions that the notebooks call."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from attcot_analysis import __version__
from attcot_analysis.errors import AttCoTError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0: done, and everything checked holds. 1: an error that says what to do, or a missed bar or
    failed check.
    """
    options = _parser().parse_args(arguments)
    quiet = options.quiet
    # The libraries' own bars say nothing that ours do not; set before they are imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        holds = options.run(options, quiet)
    except AttCoTError as error:
        # Of several processes the first speaks for all.
        if os.environ.get("RANK", "0") == "0":
            print(f"attcot: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("attcot: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    return 1 if holds is False else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attcot", description="Does a multimodal LLM look before it answers?"
    )
    parser.add_argument("--version", action="version", version=f"attcot {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--quiet", action="store_true", help="no progress bars")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "reproduce",
        parents=[common],
        help="fine-tune the testbed model with and without Att-CoT, measure both, write a report",
    )
    run.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="run folder")
    run.add_argument("--seeds", type=int, default=3, help="training seeds per arm")
    run.add_argument("--items", type=int, default=200, help="test items")
    run.add_argument(
        "--workers", type=int, default=0, help="processes; 0: one per core, or 1 with a GPU"
    )
    run.set_defaults(run=_reproduce)

    measure = commands.add_parser(
        "measure",
        parents=[common],
        help="measure one model on one folder of problems; again on the same folder goes on",
        description="Measure one model on one folder of problems. Run again after an interruption "
        "it goes on where it was; under accelerate launch or torchrun the processes share the "
        "items.",
    )
    measure.add_argument("model", help="checkpoint folder or hub id")
    measure.add_argument("problems", type=Path, help="problem folder (problems.jsonl, images/)")
    measure.add_argument("--out", type=Path, required=True, help="run folder")
    measure.add_argument("--items", type=int, default=None, help="only the first so many problems")
    measure.add_argument("--batch-size", type=int, default=64, help="items per forward pass")
    measure.add_argument("--max-new-tokens", type=int, default=256, help="limit of a response")
    measure.add_argument("--layers", type=int, nargs="+", help="layers to read; default all")
    measure.add_argument("--controls", nargs="+", help="rationale, filler, other_item")
    measure.add_argument("--edits", nargs="+", help="such as twin, control, blank, swap")
    measure.add_argument(
        "--also",
        nargs="+",
        metavar="TABLE",
        dest="extras",
        help="answer_access, causal (knockout, mean values, removal), lens, divergence",
    )
    measure.add_argument("--maps", action="store_true", help="also keep attention maps")
    measure.add_argument("--dtype", default="auto", help="such as float32 or bfloat16")
    measure.add_argument("--device", default=None, help="such as cpu or cuda:1")
    measure.add_argument("--revision", default=None, help="branch, tag or commit on the hub")
    measure.add_argument("--seed", type=int, default=0, help="of the intervals' bootstrap")
    measure.set_defaults(run=_measure)

    testbed = commands.add_parser("testbed", help="make the testbed's models and problems")
    kinds = testbed.add_subparsers(required=True, metavar="WHAT")
    build = kinds.add_parser("build", parents=[common], help="train the tiny MLLM from nothing")
    build.add_argument("folder", type=Path, help="new checkpoint folder")
    build.add_argument("--seed", type=int, default=0)
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
    valid.add_argument(
        "--workers", type=int, default=0, help="processes; 0: one per core, or 1 with a GPU"
    )
    valid.set_defaults(run=_validity)

    bench = commands.add_parser(
        "bench", parents=[common], help="time and memory of the fast paths against plain ones"
    )
    bench.add_argument("name", metavar="NAME", help="access or commitment")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    bench.add_argument("--device", default="cpu", help="as torch names it, such as cuda")
    bench.add_argument("--quick", action="store_true", help="small shapes, no bar judged")
    bench.set_defaults(run=_bench)

    check = commands.add_parser(
        "check-model", parents=[common], help="is what we measure with true of this checkpoint?"
    )
    check.add_argument("model", metavar="MODEL", help="checkpoint folder or hub id")
    check.add_argument("--dtype", default="float32", help="auto or bfloat16 to save memory")
    check.add_argument("--device", default=None, help="such as cpu or cuda:1")
    check.add_argument("--revision", default=None, help="branch, tag or commit on the hub")
    check.add_argument("--trust-remote-code", action="store_true")
    check.set_defaults(run=_check)
    return parser


def _reproduce(options: argparse.Namespace, quiet: bool) -> None:
    import torch

    from attcot_analysis.reproduce import ReproduceConfig, reproduce

    own = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    config = ReproduceConfig(seeds=tuple(range(options.seeds)), items=options.items)
    run = reproduce(options.out, config, workers=options.workers or own, progress=not quiet)
    print(f"Report: {run.path / 'report.html'}")


def _measure(options: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.measure.shards import Shards
    from attcot_analysis.measure.suite import format_summary, measure_run
    from attcot_analysis.models import load_mllm
    from attcot_analysis.problems.folder import load_problems

    chosen = {name: getattr(options, name) for name in ("layers", "controls", "edits", "extras")}
    with Shards.here() as shards, shards.together():
        problems = load_problems(options.problems, limit=options.items)
        mllm = load_mllm(
            options.model,
            dtype=options.dtype,
            device=options.device or shards.device,
            revision=options.revision,
        )
        run = measure_run(
            options.out,
            mllm,
            problems,
            **{name: value for name, value in chosen.items() if value is not None},
            maps=options.maps,
            batch_size=options.batch_size,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            shards=shards,
            progress=not quiet,
        )
        if shards.main:
            print(format_summary(run.read_table("summary")))
            print(f"Run: {run.path}")


def _build(options: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.train.testbed import BuildConfig, build_testbed_model

    build_testbed_model(options.folder, BuildConfig(seed=options.seed), progress=not quiet)
    print(f"Checkpoint: {options.folder}")


def _validity(options: argparse.Namespace, quiet: bool) -> bool:
    import torch

    from attcot_analysis.validity import ValidityConfig, validity
    from attcot_analysis.validity_table import describe, holds

    own = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    config = ValidityConfig(seeds=tuple(range(options.seeds)), items=options.items)
    run = validity(options.out, config, workers=options.workers or own, progress=not quiet)
    table = run.read_table("separation")
    print(describe(table))
    print(f"Tables: {run.path / 'tables'}")
    return holds(table)


def _problems(options: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.problems.folder import save_problems
    from attcot_analysis.problems.kinds import generate_problems, read_knobs
    from attcot_analysis.reproduce import ReproduceConfig

    noise = ReproduceConfig().noise if options.noise is None else options.noise
    problems = generate_problems(
        options.kind,
        options.items,
        seed=options.seed,
        **{
            "noise": noise,
            "prior": options.prior,
            "states_evidence": options.states_evidence,
            **read_knobs(options.set),
        },
    )
    save_problems(problems, options.folder)
    print(f"Problems: {options.folder}")


def _bench(options: argparse.Namespace, quiet: bool) -> bool:
    from attcot_analysis.bench import run_bench
    from attcot_analysis.bench.rows import check_file, format_rows, write_rows

    if options.json is not None:
        check_file(options.json)
    rows = run_bench(options.name, progress=not quiet, quick=options.quick, device=options.device)
    print(format_rows(rows))
    if options.json is not None:
        write_rows(rows, options.json)
    return all(row.holds is not False for row in rows)


def _check(options: argparse.Namespace, quiet: bool) -> bool:
    from attcot_analysis.measure.check import check_model

    found = check_model(
        options.model,
        dtype=options.dtype,
        device=options.device,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
        report=lambda check: print(check, flush=True),
    )
    print(found.verdict)
    return found.holds


if __name__ == "__main__":
    sys.exit(main())
