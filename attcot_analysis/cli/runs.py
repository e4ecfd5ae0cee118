"""`attcot generate`, `attcot measure`, `attcot compare`: run folders."""

import argparse
from pathlib import Path

from attcot_analysis.cli import options


def add(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    _add_generate(commands, common)
    measure = commands.add_parser(
        "measure",
        parents=[common],
        help="measure one model on one folder of problems; again on the same folder goes on",
        description="Measure one model on one folder of problems. Run again after an interruption "
        "it goes on where it was; under accelerate launch or torchrun the processes share the "
        "items.",
    )
    measure.add_argument("model", metavar="MODEL", help=options.MODEL)
    measure.add_argument("problems", type=Path, help="problem folder (problems.jsonl, images/)")
    measure.add_argument("--out", type=Path, required=True, help="run folder")
    measure.add_argument("--items", type=int, default=None, help="only the first so many problems")
    measure.add_argument(
        "--batch-size",
        type=int,
        default=None,
        help="items per forward pass, default 64; halved by itself where memory does not do",
    )
    measure.add_argument(
        "--max-memory",
        metavar="AMOUNT",
        help="most memory of each process, such as 20GiB: of its GPU, else of the computer",
    )
    measure.add_argument("--max-new-tokens", type=int, default=256, help="limit of a response")
    measure.add_argument("--layers", nargs="+", help="to read, such as 9-18; default all")
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
    options.add_loading(measure)
    measure.add_argument(
        "--generations",
        type=Path,
        metavar="FILE",
        help="JSON lines of responses written elsewhere (vLLM, an API), measured instead of "
        "responses written here",
    )
    measure.add_argument(
        "--foreign",
        action="store_true",
        help="another model wrote the generations: measure nothing that mixes both models' answers",
    )
    measure.add_argument("--seed", type=int, default=0, help="of the intervals' bootstrap")
    measure.set_defaults(run=_measure)
    _add_compare(commands, common)


def _add_generate(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    generate = commands.add_parser(
        "generate",
        parents=[common],
        help="let a model answer a folder of problems; again goes on",
        description="Let a model answer a folder of problems and keep its responses with their "
        "tokens. Run again after an interruption it goes on where it was; under accelerate launch "
        "the processes share the items. With --requests nothing is loaded: the prompts are "
        "written as the input of vllm run-batch, for a MODEL that goes by this name there.",
    )
    generate.add_argument("model", metavar="MODEL", help=options.MODEL)
    generate.add_argument("problems", type=Path, help="problem folder (problems.jsonl, images/)")
    to = generate.add_mutually_exclusive_group(required=True)
    to.add_argument("--out", type=Path, help="run folder")
    to.add_argument(
        "--requests",
        type=Path,
        metavar="FILE",
        help="write requests for vllm run-batch to this new file (.jsonl) instead",
    )
    generate.add_argument(
        "--link-pictures",
        action="store_true",
        help="requests name the pictures' files: start vLLM with --allowed-local-media-path",
    )
    generate.add_argument("--items", type=int, default=None, help="only the first so many problems")
    generate.add_argument(
        "--mode", choices=("cot", "direct"), default="cot", help="with rationale?"
    )
    generate.add_argument("--text-only", action="store_true", help="without the pictures")
    generate.add_argument("--samples", type=int, default=1, help="responses per item")
    generate.add_argument("--temperature", type=float, default=0.0, help="0: greedy")
    generate.add_argument("--batch-size", type=int, default=None, help="items at once; default 64")
    generate.add_argument("--max-new-tokens", type=int, default=256, help="limit of a response")
    options.add_loading(generate)
    generate.add_argument("--seed", type=int, default=0, help="of sampling")
    generate.set_defaults(run=_generate)


def _add_compare(commands: options.Commands, common: argparse.ArgumentParser) -> None:
    compare = commands.add_parser(
        "compare",
        parents=[common],
        help="two measured runs on the same items: verdicts, curves, maps, items, as a report",
        description="Compare two runs of attcot measure on the same items, or arms of attcot "
        "reproduce written as FOLDER:ARM. Several training seeds of one side are joined by commas.",
    )
    compare.add_argument("before", metavar="RUN_A", help="the run compared with")
    compare.add_argument("after", metavar="RUN_B", help="the run compared")
    compare.add_argument("--out", type=Path, required=True, help="run folder for the report")
    compare.add_argument(
        "--names", nargs=2, metavar=("A", "B"), help="what the two are called; default: the models"
    )
    compare.add_argument("--problems", type=Path, help="problem folder, if it has moved")
    compare.add_argument("--models", nargs=2, metavar=("A", "B"), help="checkpoints, if moved")
    compare.add_argument("--no-models", action="store_true", help="load no model for maps")
    compare.add_argument("--examples", type=int, default=3, help="items whose maps are shown")
    compare.add_argument("--items", type=int, default=24, help="items in the item browser")
    compare.add_argument("--seed", type=int, default=0, help="of the intervals' bootstrap")
    compare.set_defaults(run=_compare)


def _generate(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.errors import MeasureError
    from attcot_analysis.measures.unread import LIMIT, unread_sentence
    from attcot_analysis.models import load_mllm
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.runs.responses import generate_run, response_file
    from attcot_analysis.runs.shards import Shards

    chosen = options.chosen_model(given, given.model)
    if given.requests is not None:
        _write_requests(given, chosen.name)
        return
    if given.link_pictures:
        raise MeasureError("--link-pictures is for requests; give --requests FILE, too.")
    with Shards.here() as shards, shards.together():
        problems = load_problems(given.problems, limit=given.items)
        mllm = load_mllm(
            chosen.name,
            dtype=chosen.dtype or "auto",
            device=given.device or shards.device,
            revision=given.revision,
        )
        run = generate_run(
            given.out,
            mllm,
            problems,
            mode=given.mode,
            text_only=given.text_only,
            samples=given.samples,
            temperature=given.temperature,
            batch_size=chosen.batch_size,
            max_new_tokens=given.max_new_tokens,
            seed=given.seed,
            shards=shards,
            progress=not quiet,
        )
        if shards.main:
            answers = run.read_table("responses")
            right, ended = answers["correct"].mean(), answers["finished"].mean()
            if (unread := answers["answer"].isna().mean()) > LIMIT:
                print(unread_sentence(unread, "answers"))
            print(f"{len(answers)} responses, {right:.1%} right, {ended:.1%} came to their end")
            print(f"Responses: {response_file(run)}")


def _write_requests(given: argparse.Namespace, model: str) -> None:
    from attcot_analysis.errors import MeasureError
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.runs.generations import write_requests

    own = ("batch_size", "dtype", "device", "revision")
    useless = [name for name in own if getattr(given, name) is not None]
    if useless or given.samples != 1:
        name = (useless or ["samples"])[0].replace("_", "-")
        raise MeasureError(f"Requests ask for one response each, of a server; leave --{name} out.")
    problems = load_problems(given.problems, limit=given.items, keep_pictures=False)
    path = write_requests(
        given.requests,
        problems,
        model=model,
        mode=given.mode,
        text_only=given.text_only,
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        seed=given.seed,
        folder=given.problems if given.link_pictures else None,
    )
    place = given.problems.resolve()
    allowed = f" --allowed-local-media-path {place}" if given.link_pictures else ""
    print(f"Requests: {path} ({len(problems)})")
    print(f"Run them: vllm run-batch -i {path} -o FILE --model {model}{allowed}")
    print("Then: attcot measure ... --generations FILE")


def _measure(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.errors import MeasureError
    from attcot_analysis.measures.unread import paragraph_note
    from attcot_analysis.models import load_mllm
    from attcot_analysis.models.load import memory_limit, parse_memory
    from attcot_analysis.problems.coverage import data_coverage
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.runs.generations import read_generations
    from attcot_analysis.runs.measure import format_summary, measure_run
    from attcot_analysis.runs.provenance import note_sources
    from attcot_analysis.runs.shards import Shards

    if given.foreign and given.generations is None:
        raise MeasureError("--foreign says whose generations they are; give them, too.")
    most = None if given.max_memory is None else parse_memory(given.max_memory)
    model = options.chosen_model(given, given.model)
    chosen = {name: getattr(given, name) for name in ("controls", "edits", "extras")}
    with (
        Shards.here() as shards,
        memory_limit(most, given.device or shards.device),
        shards.together(),
    ):
        problems = load_problems(given.problems, limit=given.items, keep_pictures=False)
        mllm = load_mllm(
            model.name,
            dtype=model.dtype or "auto",
            device=given.device or shards.device,
            revision=given.revision,
        )
        model.check(mllm.n_layers)
        if model.preset is not None and shards.main:
            print(model.preset)
        generations = None
        if given.generations is not None:
            generations = read_generations(given.generations, mllm, foreign=given.foreign)
        run = measure_run(
            given.out,
            mllm,
            problems,
            layers=model.layers,
            **{name: value for name, value in chosen.items() if value is not None},
            maps=given.maps,
            batch_size=model.batch_size,
            max_new_tokens=given.max_new_tokens,
            generations=generations,
            seed=given.seed,
            shards=shards,
            progress=not quiet,
        )
        if shards.main:
            note_sources(run, model=model.name, problems=given.problems)
            print(format_summary(run.read_table("summary")))
            if note := paragraph_note(run.read_table("answers_cot")["text"]):
                print(note)
            for gap in data_coverage(problems).gaps:
                print(gap)
            for name, size in run.manifest.get("halved", {}).items():
                print(f"Out of memory: {name} was measured {size} items at a time.")
            print(f"Run: {run.path}")


def _compare(given: argparse.Namespace, quiet: bool) -> None:
    from attcot_analysis.show.report.compare import compare_runs

    found = compare_runs(
        given.before.split(","),
        given.after.split(","),
        given.out,
        names=tuple(given.names) if given.names else None,
        problems=given.problems,
        models=False if given.no_models else tuple(given.models) if given.models else None,
        examples=given.examples,
        items=given.items,
        seed=given.seed,
    )
    print(found)
    print(f"Report: {found.report}")
