"""`attcot`: thin commands over the functions that the notebooks call.

Nothing heavy is imported before a command runs, so that help and completion answer at once.
"""

import dataclasses
import inspect
import json
import os
import re
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from enum import IntEnum
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, cast, get_type_hints

import typer
from typer import Argument, Option, Typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from attcot_analysis import __version__
from attcot_analysis.errors import (
    AttCoTError,
    MeasureError,
    ProblemError,
    RunError,
    lacks_memory,
    refused_write,
)
from attcot_analysis.escapes import for_terminal


class Exit(IntEnum):
    """The exit codes; `MEANINGS` says them in words."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    DOES_NOT_HOLD = 3
    NO_ROOM = 4
    INTERRUPTED = 130
    CLOSED = 141


MEANINGS = {
    Exit.DONE: "done, and everything that was checked holds",
    Exit.ERROR: "an error: one sentence says what is wrong and what to do",
    Exit.USAGE: "the command line cannot be understood",
    Exit.DOES_NOT_HOLD: "done, but something that was checked does not hold",
    Exit.NO_ROOM: "memory ran out; what is finished is kept",
    Exit.INTERRUPTED: "interrupted: the same command resumes",
    Exit.CLOSED: "the output was closed by what reads it, as head does",
}
_SHOWN = 20
_HOME = re.compile(r"^~(?=/|$)|(?<=,)~(?=/)|(?<==)~(?=/)")
"""The home folder where a path may begin; the shell leaves it to us in ``--out=~/run``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, one of `Exit`."""
    # The libraries' own bars say nothing that ours do not; set before they are imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.formatwarning = _warning
    for name in ("stdout", "stderr"):  # Who closed them (``>&-``) hears nothing.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - to the end
    words = sys.argv[1:] if arguments is None else arguments
    before = None
    with suppress(ValueError):  # Only the main thread may; what somebody else handles is theirs.
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            os.getcwd()
        except OSError as error:
            raise RunError("The current folder is gone; change to one that is there.") from error
        for word in words:
            if word.encode(errors="replace").decode() != word:
                raise ProblemError(
                    f"The command line holds {word!r}, which is not UTF-8; rename it."
                )
        result = command_line()(
            [_HOME.sub(lambda _: os.path.expanduser("~"), word) for word in words],
            prog_name="attcot",
            standalone_mode=False,
        )
        sys.stdout.flush()
        if result == Exit.INTERRUPTED:
            raise KeyboardInterrupt
    except BaseException as error:
        # Typer and rich make an exit of it.
        broken = BrokenPipeError in (type(error), type(error.__context__))
        if broken and (_output_closed() or isinstance(error, SystemExit)):
            return Exit.CLOSED
        known = exit_of(error)
        if known is None:
            raise
        code, sentence = known
        if not _heard_elsewhere():
            say(f"attcot: {sentence}", file=sys.stderr)
        return code
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    if isinstance(result, bool):
        return Exit.DONE if result else Exit.DOES_NOT_HOLD
    return result or Exit.DONE


def _heard_elsewhere() -> bool:
    """Whether this is one of several processes, of which the first speaks for all."""
    with suppress(ValueError):
        return 0 < int(os.environ.get("RANK", "0")) < int(os.environ.get("WORLD_SIZE", "1"))
    return False


def say(text: object, file: TextIO | None = None) -> None:
    """Print what may quote a model, a data set or a file, without what steers a terminal."""
    print(for_terminal(text), file=file, flush=True)


def _warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    """A warning as one line, without the place in our sources that no user looks for."""
    return f"attcot: {category.__name__}: {for_terminal(message)}\n"


@lru_cache
def command_line() -> TyperGroup:
    """All commands, those included that other packages add, as the laboratory does."""
    for point in entry_points(group="attcot.commands"):
        point.load()(app)
    return cast(TyperGroup, get_command(app))


def exit_of(error: BaseException) -> tuple[Exit, str] | None:
    """The exit code of an error and the sentence to print; ``None`` for an unexpected error."""
    # Python itself may put another error over an interruption, in the midst of an import.
    if any(isinstance(one, KeyboardInterrupt) for one in _chain(error)):
        return Exit.INTERRUPTED, "interrupted; run the same command again to resume."
    if isinstance(error, AttCoTError):
        return Exit.NO_ROOM if isinstance(error, MemoryError) else Exit.ERROR, str(error)
    if isinstance(error, typer.TyperException):
        return Exit.USAGE, _usage(error)
    if lacks_memory(error):
        return Exit.NO_ROOM, (
            "Memory ran out; what is finished is kept. Give a smaller --batch-size (a run that was "
            "begun with another one needs a new folder), a smaller model or --dtype bfloat16."
        )
    if isinstance(error, OSError):
        sentence = refused_write(error)
        return None if sentence is None else (Exit.ERROR, sentence)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from, each once: one may be its own cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _output_closed() -> bool:
    """Whether nobody reads the output any more; it then goes nowhere, at Python's end too."""
    with suppress(OSError, AttributeError), open(os.devnull, "w") as nowhere:
        output = sys.__stdout__.fileno()  # type: ignore[union-attr]
        poll = select.poll()
        poll.register(output, 0)
        if closed := bool(poll.poll(0)):
            os.dup2(nowhere.fileno(), output)
        return closed
    return True


def _usage(error: typer.TyperException) -> str:
    """What cannot be understood in the command line, what may be meant, and where to look."""
    meant = getattr(error, "possibilities", None)
    sentence = error.message if meant else error.format_message()
    if meant:
        sentence += f". Did you mean {' or '.join(sorted(meant))}?"
    elif not sentence.endswith((".", "?")):
        sentence += "."
    context = getattr(error, "ctx", None)
    return f"{sentence} See `{context.command_path if context else 'attcot'} --help`."


# --- what several commands share, here and in the laboratory ------------------------------------


class ListCommand(TyperCommand):
    """A command whose list options take several words each: ``--also causal lens``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat an option before each of its words, the form in which typer reads a list."""
        listed = [param for param in self.params if getattr(param, "multiple", False)]
        lists = {name for param in listed for name in param.opts}
        words: list[str] = []
        current = None
        for position, word in enumerate(args):
            if word == "--":
                words += args[position:]
                break
            if word.startswith("-"):
                current = word if word in lists else None
            elif current is not None and words[-1] != current:
                words.append(current)
            words.append(word)
        return super().parse_args(ctx, words)


class Commands(Typer):
    """Commands that all take ``--quiet``, and a dataclass of options as one parameter."""

    def command(self, *names: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """Register a function with the fields of its dataclasses as options of their own."""
        register = super().command(*names, **options)
        return lambda function: register(_spelt_out(function))


def _spelt_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in the form that typer reads: every parameter is one option or argument."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {
        name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    spelt: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if group := groups.get(name):
            own = get_type_hints(group, include_extras=True)
            spelt += [
                inspect.Parameter(one.name, keyword, default=one.default, annotation=own[one.name])
                for one in dataclasses.fields(group)
            ]
        else:
            spelt.append(parameter.replace(kind=keyword, annotation=hints[name]))
    if "quiet" not in hints:
        spelt.append(inspect.Parameter("quiet", keyword, default=False, annotation=Quiet))

    def called(**values: Any) -> Any:
        # What numpy and torch both take; they say it in words of their own, and late.
        if not 0 <= (values.get("seed") or 0) < 2**32:
            raise typer.BadParameter(f"--seed is {values['seed']}; give 0 to {2**32 - 1}")
        for name, group in groups.items():
            own = {one.name: values.pop(one.name) for one in dataclasses.fields(group)}
            values[name] = group(**own)
        if "quiet" not in hints:
            del values["quiet"]
        return function(**values)

    called.__doc__, called.__name__ = function.__doc__, function.__name__
    called.__signature__ = inspect.Signature(spelt)  # type: ignore[attr-defined]
    return called


def in_ci() -> bool:
    """Whether nobody is watching: continuous integration sets ``CI``."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def processes(workers: int) -> int:
    """How many processes ``--workers`` asks for."""
    import torch

    return workers or (1 if torch.cuda.is_available() else os.cpu_count() or 1)


def run_folders(word: str) -> list[str]:
    """The run folders that a word joins by commas; a comma in a folder's name joins nothing."""
    folders, parts = [], word.split(",")
    while parts:
        names = [",".join(parts[:n]) for n in range(len(parts), 0, -1)]
        folders.append(next((name for name in names if Path(name).is_dir()), parts[0]))
        parts = parts[folders[-1].count(",") + 1 :]
    return folders


Model = Annotated[str, Argument(metavar="MODEL", help="checkpoint folder, hub id or preset")]
Run = Annotated[str, Argument(metavar="RUN", help="folder that attcot measure has written")]
Problems = Annotated[
    Path, Argument(metavar="PROBLEMS", help="problem folder (problems.jsonl, images/)")
]
RunOut = Annotated[Path, Option(help="run folder")]
Items = Annotated[int | None, Option(help="only the first so many")]
BatchSize = Annotated[
    int | None,
    Option(help="items per forward pass, default 64; halved automatically when memory runs out"),
]


def _number_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


BatchOrAuto = Annotated[
    Any,
    Option(
        parser=_number_or_auto,
        metavar="INTEGER|auto",
        help="items per forward pass, default 64; auto: as many as --max-memory holds; halved "
        "automatically when memory runs out",
    ),
]
MaxNewTokens = Annotated[int, Option(help="limit of a response")]
MaxSeconds = Annotated[
    float | None, Option(help="time after which a batch of responses is cut; default 4 hours")
]
MaxPixels = Annotated[
    int | None,
    Option(metavar="N", help="largest picture after resizing, width x height (Qwen-VL)"),
]
MaxPatches = Annotated[
    int | None,
    Option(metavar="N", help="most tiles of a picture (InternVL, LLaVA-NeXT, Idefics3, ...)"),
]
BootstrapSeed = Annotated[int, Option("--seed", help="of the intervals' bootstrap")]
MovedProblems = Annotated[Path | None, Option("--problems", help="problem folder, if it has moved")]
Examples = Annotated[int, Option(help="items whose maps are shown")]
Overwrite = Annotated[bool, Option("--overwrite", help="replace what is there")]
Workers = Annotated[int, Option(help="processes; 0: one per core, or 1 with a GPU")]
Quiet = Annotated[
    bool,
    Option(
        "--quiet",
        callback=lambda quiet: quiet or in_ci(),
        help="no progress bars (nor where CI is set)",
    ),
]

Format = Annotated[
    str | None,
    Option(
        "--format",
        metavar="NAME",
        help="how responses are asked for and read: a named format, a YAML file or auto, see "
        "docs/formats.md",
    ),
]


@dataclasses.dataclass(frozen=True)
class Asking:
    """How responses are asked for and read."""

    form: Format = None
    system: Annotated[str | None, Option(metavar="TEXT", help="system prompt")] = None
    prompt: Annotated[
        str | None,
        Option(metavar="TEXT", help="instruction after the question; in measure, the CoT one"),
    ] = None
    thinking: Annotated[
        Literal["on", "off"] | None, Option(help="thinking mode of the chat template")
    ] = None
    prefill: Annotated[
        str | None, Option(metavar="TEXT", help="what every response is made to start with")
    ] = None

    def changes(self, mode: str = "cot") -> dict[str, Any]:
        """What the options change in a format."""
        thinking = None if self.thinking is None else self.thinking == "on"
        options = {name: value for name, value in vars(self).items() if name != "form"}
        return {"mode": mode, **options, "thinking": thinking}

    def format(self, mode: str = "cot", *, auto: bool = False) -> Any:
        """The format asked for; of ``auto``, where responses will decide, what stands in."""
        from attcot_analysis.problems.formats import TAGS, changed, response_format

        if self.form == "auto" and not auto:
            raise typer.BadParameter(
                "auto decides from responses, and there are none; name a format"
            )
        form = TAGS if self.form in (None, "auto") else response_format(self.form)
        return changed(form, **self.changes(mode))


@dataclasses.dataclass(frozen=True)
class Loading:
    """How a model is loaded."""

    dtype: Annotated[
        str | None, Option(help="such as bfloat16; default auto (check-model: float32)")
    ] = None
    device: Annotated[str | None, Option(help="such as cpu, cuda:1, or auto (all GPUs)")] = None
    revision: Annotated[str | None, Option(help="branch, tag or commit on the hub")] = None
    max_pixels: MaxPixels = None
    max_patches: MaxPatches = None


@dataclasses.dataclass(frozen=True)
class Writing:
    """How a model writes."""

    max_new_tokens: MaxNewTokens = 256
    sampling: Annotated[
        Literal["recommended"] | None,
        Option(help="recommended: as the checkpoint's publisher says (generation_config)"),
    ] = None
    temperature: Annotated[float, Option(help="of sampling; 0: greedy")] = 0.0


@dataclasses.dataclass(frozen=True)
class Paging:
    """What a page shows."""

    problems: MovedProblems = None
    examples: Examples = 3
    items: Annotated[int, Option(help="items in the item browser")] = 24
    seed: BootstrapSeed = 0


app = Commands(
    help="Does a multimodal LLM look before it answers?\n\nMODEL is a checkpoint folder, a hub id "
    "or a preset\n(attcot doctor --presets). `attcot COMMAND --help` says more.",
    epilog="Exit codes:\n" + "\n".join(f"{code:>5}  {text}" for code, text in MEANINGS.items()),
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        say(f"attcot {__version__}")
        raise typer.Exit


@app.callback()
def _attcot(
    version: Annotated[
        bool,
        Option("--version", callback=_version, is_eager=True, help="show the version"),
    ] = False,
) -> None:
    pass


# --- installation and model ---------------------------------------------------------------------


@app.command("doctor")
def _doctor(
    model: Annotated[
        str | None, Argument(metavar="MODEL", help="checkpoint folder, hub id or preset")
    ] = None,
    folder: Annotated[Path, Option(help="where runs would go")] = Path(),
    max_pixels: MaxPixels = None,
    max_patches: MaxPatches = None,
    as_json: Annotated[bool, Option("--json", help="print the findings as JSON")] = False,
    list_presets: Annotated[
        bool, Option("--presets", help="list the presets, nothing else")
    ] = False,
) -> bool:
    """Versions, devices, memory, files: what would fail here?

    Look at this installation and, if a model is named, whether it is known
    and fits into memory. Nothing is downloaded.
    """
    from attcot_analysis.doctor import examine, holds
    from attcot_analysis.presets import presets

    if list_presets:
        for preset in presets().values():
            say(str(preset).removeprefix("preset "))
        return True
    findings = examine(model, folder=folder, max_pixels=max_pixels, max_patches=max_patches)
    if as_json:
        say(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            say(finding)
        failing = sum(finding.word == "fails" for finding in findings)
        say(f"{failing} things would fail" if failing else "nothing would fail")
    return holds(findings)


@app.command("check-model")
def _check_model(
    model: Model,
    loading: Loading,
    asking: Asking,
    trust_remote_code: Annotated[
        bool, Option("--trust-remote-code", help="run code that comes with the checkpoint")
    ] = False,
    as_json: Annotated[bool, Option("--json", help="print all of it as JSON")] = False,
) -> bool:
    """Is this checkpoint read right? What can be measured on it?"""
    from attcot_analysis.measures.check import check_model
    from attcot_analysis.presets import choose

    outcome = check_model(
        choose(model).name,
        **vars(loading) | {"dtype": loading.dtype or "float32"},
        trust_remote_code=trust_remote_code,
        format=asking.format(),
        report=None if as_json else say,
    )
    if as_json:
        say(json.dumps(outcome.record(), indent=1))
        return outcome.holds
    for line in outcome.lines():
        say(line)
    say(outcome.verdict)
    return outcome.holds


@app.command("studio")
def _studio(
    model: Model,
    loading: Loading,
    picture: Annotated[str | None, Option(metavar="FILE", help="a picture to begin with")] = None,
    question: Annotated[str, Option(metavar="TEXT", help="a question to begin with")] = "",
    port: Annotated[int, Option(help="of the page; 0: any that is free")] = 0,
    max_new_tokens: MaxNewTokens = 512,
    max_seconds: MaxSeconds = None,
    form: Format = None,
) -> None:
    """A local page: ask about a picture, see where it is looked at.

    Drop a picture, type a question; force an answer after any step; paint over
    a region and ask again. Only this machine can open the page (127.0.0.1), by
    an address with a random token. Ctrl-C ends it.
    """
    from attcot_analysis.presets import choose
    from attcot_analysis.show.studio.server import StudioServer
    from attcot_analysis.show.studio.session import StudioSession

    chosen = choose(model, dtype=loading.dtype)
    mllm = _loaded(chosen, loading, Asking(form).format(), seconds=max_seconds)
    session = StudioSession(mllm, image=picture, question=question, max_new_tokens=max_new_tokens)
    server = StudioServer(session, port)
    say(f"Studio: {server.address} (Ctrl-C ends it)")
    server.serve()
    say("The studio is closed.")


# --- data ---------------------------------------------------------------------------------------

_data = Commands()
app.add_typer(
    _data,
    name="data",
    help="Check and convert datasets; read a batch's responses.",
)

DataPath = Annotated[str, Argument(metavar="PATH", help="file, folder or hub id")]
SkipFaulty = Annotated[bool, Option("--skip-faulty", help="leave out what is wrong")]


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """How a dataset is read."""

    data_format: Annotated[
        str,
        Option(
            "--format",
            metavar="NAME",
            help="jsonl (your own), clevr, chartqa, visual-cot, m3cot, a-okvqa, vstar, "
            "naturalbench, vilp, mm-gcot, treebench, we-math, cv-bench, blink, mmstar, scienceqa, "
            "vqa-rad, slake, charxiv, geometry3k or hallusionbench",
        ),
    ] = "jsonl"
    images: Annotated[
        Path | None, Option(help="folder or ZIP of the pictures, if not beside PATH")
    ] = None
    split: Annotated[str | None, Option(help="of the dataset; default the format's own")] = None
    boxes: Annotated[
        str | None,
        Option(
            metavar="FORM",
            help="form of your own boxes: pixels (x0 y0 x1 y1, the default), unit (0 to 1), "
            "percent, thousand; or xywh, centre (both pixels), unit-xywh, unit-centre, ...",
        ),
    ] = None
    names: Annotated[
        list[str] | None,
        Option(
            "--map", metavar="OURS=THEIRS", help="what a field of your own is called; repeatable"
        ),
    ] = None
    outside: Annotated[
        bool, Option("--allow-outside", help="read pictures outside of PATH and --images, too")
    ] = False
    limit: Annotated[
        int | None,
        Option("--items", min=1, help="only so many, drawn from every type in proportion"),
    ] = None
    seed: Annotated[int, Option(help="of the draw of --items")] = 0

    def arguments(self) -> dict[str, Any]:
        """The same as the library's functions take them."""
        pairs = [one.partition("=") for one in self.names or []]
        for ours, mark, theirs in pairs:
            if not (ours and mark and theirs):
                raise ProblemError(f"--map {ours}{mark}{theirs} is not of the form question=query.")
        names = {ours: theirs for ours, _, theirs in pairs}
        options = {name: value for name, value in vars(self).items() if name != "data_format"}
        return {"format": self.data_format, **options, "names": names}


@_data.command("check")
def _check_data(path: DataPath, options: DataOptions) -> bool:
    """What is wrong with a dataset, and what can be measured on it.

    Read every record, print one sentence for each that is wrong, then what
    can be measured on the others. Exit code 3 if anything is wrong.
    """
    from attcot_analysis.problems.data import check_data

    checked = check_data(path, **options.arguments())
    _print_faults(checked.faults)
    say(checked.coverage)
    return checked.holds


@_data.command("convert")
def _convert_data(
    path: DataPath,
    out: Annotated[Path, Option(help="new problem folder")],
    options: DataOptions,
    skip_faulty: SkipFaulty = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a dataset as a folder for attcot measure."""
    from attcot_analysis.problems.data import convert_data

    more = {"skip_faulty": skip_faulty, "overwrite": overwrite}
    converted = convert_data(path, out, **options.arguments() | more)
    _print_faults(converted.faults)
    say(converted.coverage)
    say(f"Problems: {out}")


def _print_faults(faults: tuple[str, ...]) -> None:
    for fault in faults[:_SHOWN]:
        say(fault)
    if len(faults) > _SHOWN:
        say(f"... and {len(faults) - _SHOWN} more.")
    if faults:
        say(f"{len(faults)} records are wrong.\n")


@_data.command("responses")
def _convert_responses(
    path: Annotated[Path, Argument(metavar="FILE", help="output of the batch")],
    out: Annotated[Path, Option(help="new file (.jsonl)")],
    problems: Annotated[Path | None, Option(help="folder of the items asked for")] = None,
    items: Items = None,
    skip_faulty: SkipFaulty = False,
) -> None:
    """The output of vllm run-batch as responses for attcot measure --generations.

    Turn the output file of vllm run-batch (or of another OpenAI-compatible
    batch) into the JSON lines of attcot measure --generations, and say what
    is missing in it. Exit code 1 if anything is, unless --skip-faulty.
    """
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.runs.generations import read_batch, write_generations

    asked: list[str] = []
    if problems is not None:
        loaded = load_problems(problems, limit=items, keep_pictures=False)
        asked = [problem.id for problem in loaded]
    batch = read_batch(path, asked)
    for fault in batch.faults[:_SHOWN]:
        say(fault)
    wrong = len(batch.faults) + len(batch.missing)
    if not batch.lines or (wrong and not skip_faulty):
        raise MeasureError(
            f"{path} is not complete: {batch}, {len(batch.faults)} lines cannot be used; ask "
            "for these again, or pass --skip-faulty."
        )
    say(batch)
    say(f"Responses: {write_generations(out, batch)}")


# --- edits --------------------------------------------------------------------------------------

_edits = Commands()
app.add_typer(_edits, name="edits", help="Look at edited pictures and reject those that failed.")


@_edits.command("preview", cls=ListCommand)
def _preview_edits(
    problems: Problems,
    edits: Annotated[
        list[str] | None,
        Option(
            help="such as twin, control, occlude, mirror or module:function; default twin, "
            "control, occlude, occlude_control, and blank and swap where items have none of these"
        ),
    ] = None,
    out: Annotated[
        Path | None, Option(help="the page; default edits.html in the problem folder")
    ] = None,
    items: Annotated[int, Option(help="how many items to show")] = 24,
    fill: Annotated[str, Option(help="of occluded evidence, such as mean, telea")] = "mean",
    overwrite: Overwrite = False,
) -> None:
    """A page with every edited picture beside its original, to accept or reject by key."""
    from attcot_analysis.errors import ShowError
    from attcot_analysis.problems.decisions import read_decisions
    from attcot_analysis.problems.edits import EditOptions
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.show.edit_sheet import write_edit_sheet

    page = out or problems / "edits.html"
    if page.exists() and not overwrite:
        raise ShowError(f"{page} exists; give --overwrite to replace it, or another --out.")
    loaded = load_problems(problems, keep_pictures=False)
    n = min(items, len(loaded))
    own = any(one.twin or one.control or one.evidence_boxes for one in loaded[:n])
    default = ["twin", "control", "occlude", "occlude_control"] if own else ["blank", "swap"]
    shown = write_edit_sheet(
        loaded,
        edits or default,
        page,
        only=range(n),
        decisions=read_decisions(problems),
        options=EditOptions(fill=fill),
    )
    say(f"{sum(shown.values())} edits of {n} of {len(loaded)} items.")
    for kind, count in shown.items():
        if count < n:
            say(f"{n - count} of {n} items do not allow {kind}, or it was rejected before.")
    say(f"Page: {page}")


@_edits.command("keep")
def _keep_edits(
    problems: Problems,
    decisions: Annotated[Path, Argument(metavar="FILE", help="edits.json, saved from the page")],
) -> None:
    """Put decisions on edits into the problem folder; rejected edits are not measured."""
    from attcot_analysis.problems.decisions import keep_decisions
    from attcot_analysis.problems.folder import load_problems

    known = {problem.id for problem in load_problems(problems, keep_pictures=False)}
    kept = keep_decisions(problems, decisions, known)
    words = [word for own in kept.values() for word in own.values()]
    say(f"{words.count('accept')} edits accepted, {words.count('reject')} rejected.")


@app.command("responses")
def _look_at_responses(
    path: Annotated[Path, Argument(metavar="FILE", help="JSON lines of responses, with text")],
    form: Annotated[
        str,
        Option("--format", metavar="NAME", help="a named format, a YAML file, or auto"),
    ] = "auto",
    show: Annotated[int, Option(help="responses shown, as they are cut")] = 3,
    problems: Annotated[
        Path | None, Option(help="folder of the items asked for, to read the answers")
    ] = None,
    opened: Annotated[
        bool,
        Option("--opened", help="the chat template had opened the rationale"),
    ] = False,
    items: Items = None,
) -> None:
    """How are these responses read? Format, steps, answers.

    No model is needed. Say which format responses are in and why, what share
    of them can be read, and show some as they are cut and some that cannot be
    read. Exit code 1 if the format fits fewer than half of them.
    """
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.runs.look import look_at_responses

    asked = () if problems is None else load_problems(problems, limit=items, keep_pictures=False)
    look = look_at_responses(path, form, opened=opened, problems=asked)
    _print_faults(look.faults)
    say(look.report(show))
    look.check()


# --- run folders --------------------------------------------------------------------------------


def _loaded(
    chosen: Any, loading: Loading, form: Any, device: Any = None, seconds: float | None = None
) -> Any:
    """The model that options and a preset name; ``device`` where the options leave it open."""
    from attcot_analysis.models import load_mllm

    options = vars(loading) | {"dtype": chosen.dtype or "auto", "device": loading.device or device}
    mllm = load_mllm(chosen.name, format=form, **options)
    return mllm if seconds is None else dataclasses.replace(mllm, max_seconds=seconds)


def _opened(
    chosen: Any,
    loading: Loading,
    asking: Asking,
    writing: Writing,
    problems: Any,
    shards: Any,
    *,
    mode: str = "cot",
    generations: Path | None = None,
    pictures: bool = True,
    seconds: float | None = None,
) -> Any:
    """The model for a run, with the format that it speaks where responses are to decide on it."""
    from attcot_analysis.models.picture_cost import describe_cost
    from attcot_analysis.problems.formats import changed
    from attcot_analysis.runs.look import detected_format, shown_detection

    form = asking.format(mode, auto=True)
    mllm = _loaded(chosen, loading, form, shards.device, seconds)
    if shards.main and pictures:
        say(describe_cost(mllm, [problem.size for problem in problems]))
    if asking.form == "auto" or (asking.form is None and generations is not None):
        limit = writing.max_new_tokens
        found = detected_format(mllm, problems, generations, max_new_tokens=limit)
        if shards.main:
            say(shown_detection(found))
        form = changed(found.format, **asking.changes(mode))
        mllm = dataclasses.replace(mllm, format=form)
    return mllm


@app.command("generate")
def _generate(
    model: Model,
    problems: Problems,
    loading: Loading,
    asking: Asking,
    writing: Writing,
    out: Annotated[Path | None, Option(help="run folder")] = None,
    max_seconds: MaxSeconds = None,
    requests: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="write requests for vllm run-batch to this new file (.jsonl) instead",
        ),
    ] = None,
    server: Annotated[
        str | None,
        Option(
            metavar="URL",
            help="ask this server (vLLM, SGLang, llama.cpp: OpenAI's protocol) instead; --out is "
            "then a file (.jsonl), and a key is read from ATTCOT_API_KEY",
        ),
    ] = None,
    at_once: Annotated[int | None, Option(help="requests under way at a server; default 8")] = None,
    link_pictures: Annotated[
        bool,
        Option(
            "--link-pictures",
            help="requests name the pictures' files: start vLLM with --allowed-local-media-path",
        ),
    ] = False,
    items: Items = None,
    mode: Annotated[Literal["cot", "direct"], Option(help="with rationale?")] = "cot",
    text_only: Annotated[bool, Option("--text-only", help="without the pictures")] = False,
    samples: Annotated[int, Option(help="responses per item")] = 1,
    batch_size: BatchSize = None,
    seed: Annotated[int, Option(help="of sampling")] = 0,
    quiet: Quiet = False,
) -> None:
    """Let a model answer a folder of problems; re-running resumes.

    Responses are kept with their tokens. Under accelerate launch the processes
    share the items. With --requests nothing is loaded: the prompts are written
    as the input of vllm run-batch, for a MODEL that goes by this name there.
    With --server they are sent to it, and what comes back is written to --out.
    """
    if (out is None) == (requests is None):
        raise typer.BadParameter("give one of --out and --requests")
    if requests is not None and server is not None:
        raise typer.BadParameter("give --server its file with --out")
    if at_once is not None and server is None:
        raise typer.BadParameter("--at-once is for --server")
    from attcot_analysis.measures.unread import LIMIT, unread_sentence
    from attcot_analysis.presets import choose
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.runs import generations
    from attcot_analysis.runs.measure import measure_run, response_file
    from attcot_analysis.runs.server import ask_server
    from attcot_analysis.runs.shards import Shards

    chosen = choose(model, dtype=loading.dtype, batch_size=batch_size)
    if requests is not None or server is not None:
        own = {"batch_size": batch_size, "max_seconds": max_seconds, **vars(loading)}
        useless = [name.replace("_", "-") for name, value in own.items() if value is not None]
        if writing.sampling is not None:
            raise MeasureError(
                "--sampling recommended is read from a checkpoint, and requests load none; give "
                "them a --temperature."
            )
        if useless:
            raise MeasureError(f"Requests are answered by a server; leave --{useless[0]} out.")
        asked = load_problems(problems, limit=items, keep_pictures=False)
        options: dict[str, Any] = {
            "model": chosen.name,
            "mode": mode,
            "text_only": text_only,
            "max_new_tokens": writing.max_new_tokens,
            "samples": samples,
            "temperature": writing.temperature,
            "seed": seed,
            "folder": problems if link_pictures else None,
            "form": asking.format(mode),
        }
        if server is not None and out is not None:
            lines = generations.requests(asked, **options)
            n = ask_server(server, lines, out, at_once=at_once or 8)
            say(f"Responses: {out} ({n} of {len(asked)} items asked for now)")
            say(f"Then: attcot measure ... --generations {out}")
            return
        assert requests is not None
        path = generations.write_requests(requests, asked, **options)
        allowed = f" --allowed-local-media-path {problems.resolve()}" if link_pictures else ""
        say(f"Requests: {path} ({len(asked)})")
        say(f"Run them: vllm run-batch -i {path} -o FILE --model {chosen.name}{allowed}")
        say("Then: attcot measure ... --generations FILE")
        return
    if link_pictures:
        raise MeasureError(
            "--link-pictures is for requests; give --requests FILE or --server URL, too."
        )
    assert out is not None
    with Shards.here() as shards, shards.together():
        loaded = load_problems(problems, limit=items, keep_pictures=False)
        mllm = _opened(
            chosen,
            loading,
            asking,
            writing,
            loaded,
            shards,
            mode=mode,
            pictures=not text_only,
            seconds=max_seconds,
        )
        run = measure_run(
            out,
            mllm,
            loaded,
            ("responses",),
            mode=mode,
            text_only=text_only,
            samples=samples,
            **vars(writing),
            batch_size=chosen.batch_size,
            seed=seed,
            shards=shards,
            progress=not quiet,
        )
        if shards.main:
            answers = run.read_table("responses")
            # Tables of earlier versions have no score.
            right = answers.get("score", answers["correct"]).mean()
            ended = answers["finished"].mean()
            if (unread := answers["answer"].isna().mean()) > LIMIT:
                say(unread_sentence(unread, "answers"))
            say(f"{len(answers)} responses, {right:.1%} right, {ended:.1%} came to their end")
            say(f"Responses: {response_file(run)}")


@app.command("measure", cls=ListCommand)
def _measure(
    model: Model,
    problems: Problems,
    out: RunOut,
    loading: Loading,
    asking: Asking,
    writing: Writing,
    max_seconds: MaxSeconds = None,
    items: Items = None,
    batch_size: BatchOrAuto = None,
    max_memory: Annotated[
        str | None,
        Option(
            metavar="AMOUNT",
            help="most memory of each process, such as 20GiB: of its GPU, else of the computer",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        Option(
            help="responses per item, each measured; default 1, or as many as the generations have"
        ),
    ] = None,
    edited_samples: Annotated[
        int, Option(help="of dependence: so many of an item's samples, the first ones")
    ] = 1,
    max_steps: Annotated[
        int | None,
        Option(help="force answers after at most so many steps of a rationale; default all"),
    ] = None,
    layers: Annotated[
        list[str] | None, Option(help="whose attention is read, such as 9-18; default all")
    ] = None,
    controls: Annotated[
        list[str] | None,
        Option(
            help="of commitment: rationale, filler, other_item (these by default), cue_2, cue_3, "
            "permuted"
        ),
    ] = None,
    edits: Annotated[
        list[str] | None,
        Option(
            help="of dependence: twin, control, blank (these by default), swap, ..., or your own "
            "module:function; blank@2 is of the second of several pictures"
        ),
    ] = None,
    fill: Annotated[
        str | None, Option(help="of occluded evidence: mean (default), blur, noise, telea, ...")
    ] = None,
    extras: Annotated[
        list[str] | None,
        Option(
            "--also",
            metavar="TABLE",
            help="measure in addition: answer_access, causal (knockout, mean values, removal), "
            "lens, divergence, open_commitment, patching, behaviour, perceptions",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        Option(
            metavar="TABLE",
            help="measure these alone, such as dependence access, on the answers that --out holds",
        ),
    ] = None,
    maps: Annotated[bool, Option("--maps", help="also keep attention maps")] = False,
    profile: Annotated[
        bool,
        Option("--profile", help="say where the time goes, and write it to profile.json"),
    ] = False,
    generations: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="JSON lines of responses written elsewhere (vLLM, an API), measured instead of "
            "responses written here",
        ),
    ] = None,
    foreign: Annotated[
        bool,
        Option(
            "--foreign",
            help="another model wrote the generations: measure nothing that mixes both models' "
            "answers",
        ),
    ] = False,
    seed: Annotated[int, Option(help="of the intervals' bootstrap, and of sampling")] = 0,
    quiet: Quiet = False,
) -> None:
    """Measure a model on a folder of problems; re-running resumes.

    Under accelerate launch or torchrun the processes share the items.
    Explicit options override those of a preset. Without --format responses
    are asked for in tags; those of --generations are read as auto decides.
    """
    if foreign and generations is None:
        raise MeasureError("--foreign says whose generations they are; give them, too.")
    from attcot_analysis.measures.samples import samples_note
    from attcot_analysis.measures.unread import paragraph_note
    from attcot_analysis.models.load import memory_limit, parse_memory
    from attcot_analysis.presets import choose
    from attcot_analysis.problems.coverage import data_coverage
    from attcot_analysis.problems.folder import load_problems
    from attcot_analysis.runs.generations import read_generations
    from attcot_analysis.runs.look import check_generations, misfit_note
    from attcot_analysis.runs.measure import check_only, measure_run
    from attcot_analysis.runs.memory import filling
    from attcot_analysis.runs.profile import profiled
    from attcot_analysis.runs.provenance import note_sources
    from attcot_analysis.runs.run import has_results
    from attcot_analysis.runs.shards import Shards
    from attcot_analysis.runs.values import DEFAULT, format_summary

    most = None if max_memory is None else parse_memory(max_memory)
    fill_memory = batch_size == "auto"
    if fill_memory and most is None:
        raise MeasureError(
            "--batch-size auto fills the memory that --max-memory states; give it, or a number of "
            "items."
        )
    size = None if fill_memory else batch_size
    chosen = choose(model, dtype=loading.dtype, batch_size=size, layers=layers)
    alone = [name for word in only or () for name in word.split(",")]
    what = [*(alone or DEFAULT), *(extras or ()), *(("maps",) if maps else ())]
    if only is not None:
        check_only(out, what)
    parts: dict[str, Any] = {"controls": controls, "edits": edits, "fill": fill}
    with (
        Shards.here() as shards,
        memory_limit(most, loading.device or shards.device),
        shards.together(),
    ):
        loaded = load_problems(problems, limit=items, keep_pictures=False)
        mllm = _opened(
            chosen,
            loading,
            asking,
            writing,
            loaded,
            shards,
            generations=generations,
            seconds=max_seconds,
        )
        chosen.check(mllm.n_layers)
        if chosen.preset is not None and shards.main:
            say(chosen.preset)
        written = None
        if generations is not None:
            written = read_generations(generations, mllm, foreign=foreign)
            check_generations(mllm, written)
            if written.scores and shards.main:
                say(f"What is right is taken from {generations}, not read from the responses.")
        size = chosen.batch_size
        if fill_memory and most is not None:
            own = [] if written is None else [*map(written.samples, written.of)]
            given = [len(one.ids) for each in own for one in each]
            needs = {
                "response": max(writing.max_new_tokens, *given, 0),
                "samples": samples or (1 if written is None else written.n_samples),
            }
            size, why = shards.from_main(lambda: filling(out, mllm, loaded, most, **needs))
            if shards.main:
                say(why)
        with profiled(mllm, has_results(out)) if profile else nullcontext() as timed:
            run = measure_run(
                out,
                mllm,
                loaded,
                what,
                layers=chosen.layers,
                **{name: value for name, value in parts.items() if value is not None},
                batch_size=size,
                **vars(writing),
                generations=written,
                samples=samples,
                edited_samples=edited_samples,
                max_steps=max_steps,
                seed=seed,
                shards=shards,
                progress=not quiet,
            )
        if shards.main:
            if timed is not None:
                run.write_json("profile", timed.record(len(loaded)), overwrite=True)
                say(timed.sentence(len(loaded)))
            note_sources(run, model=chosen.name, problems=problems)
            answers = run.read_table("answers_cot") if "answers_cot" in run.tables else None
            if answers is not None and (note := misfit_note(mllm.format, answers)):
                say(note)
            if note := samples_note(run.manifest["config"]):
                say(note)
            if "summary" in run.tables:  # Not of responses alone.
                say(format_summary(run.read_table("summary")))
            if answers is not None and (note := paragraph_note(answers)):
                say(note)
            for gap in data_coverage(loaded).gaps:
                say(gap)
            for name, size in run.manifest.get("halved", {}).items():
                say(f"Out of memory: {name} was measured {size} items at a time.")
            say("The metrics are defined in docs/metrics.md; attcot report makes a page of it.")
            say(f"Run: {run.path}")


@app.command("compare")
def _compare(
    before: Annotated[str, Argument(metavar="RUN_A", help="the run compared with (the base)")],
    after: Annotated[str, Argument(metavar="RUN_B", help="the run that is judged")],
    out: Annotated[Path, Option(help="run folder for the report")],
    paging: Paging,
    names: Annotated[
        tuple[str, str] | None,
        Option(metavar="A B", help="what the two are called; default: the models"),
    ] = None,
    models: Annotated[
        tuple[str, str] | None, Option(metavar="A B", help="checkpoints, if moved")
    ] = None,
    no_models: Annotated[bool, Option("--no-models", help="load no model for maps")] = False,
) -> None:
    """Two measured runs on the same items, as one page.

    Compare two runs of attcot measure on the same items. Several training
    seeds of one side are joined by commas.
    """
    from attcot_analysis.show.report.compare import compare_runs

    comparison = compare_runs(
        run_folders(before),
        run_folders(after),
        out,
        names=names,
        models=False if no_models else models,
        **vars(paging),
    )
    say(comparison)
    say(f"Report: {comparison.report}")


@app.command("report")
def _report(
    run_folder: Run,
    paging: Paging,
    out: Annotated[
        Path | None, Option(help="the page; default report.html in the run folder")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """One measured run as one page: does CoT hurt, and why?

    Several training seeds are joined by commas.
    """
    from attcot_analysis.show.report.arms import read_arm
    from attcot_analysis.show.report.compare import report_run

    arm = read_arm(run_folders(run_folder))
    page = report_run(arm, out, **vars(paging), overwrite=overwrite)
    say(arm.outcomes if isinstance(arm.outcomes, str) else arm.outcomes.headline)
    say(f"Report: {page}")


# --- for a paper --------------------------------------------------------------------------------


@app.command("figures")
def _figures(
    run: Run,
    other: Annotated[
        str | None, Argument(metavar="[RUN_B]", help="a run to compare with the first")
    ] = None,
    out: Annotated[
        Path | None, Option(help="folder; default figures in the (first) run's folder")
    ] = None,
    form: Annotated[
        Literal["pdf", "svg", "png"], Option("--format", help="pdf: vector, fonts embedded")
    ] = "pdf",
    width: Annotated[
        str | None, Option(metavar="LENGTH", help="such as 3.3in, 84mm, 240pt; default as drawn")
    ] = None,
    wide: Annotated[
        str | None,
        Option(metavar="LENGTH", help="of figures with several panels; default --width"),
    ] = None,
    font_size: Annotated[
        float | None, Option(metavar="PT", min=1, help="of all text, in points")
    ] = None,
    font: Annotated[
        str | None, Option(metavar="NAME", help='an installed font, such as "Times New Roman"')
    ] = None,
    names: Annotated[
        tuple[str, str] | None,
        Option(metavar="A B", help="what two runs are called; default: the models"),
    ] = None,
    problems: MovedProblems = None,
    examples: Examples = 3,
    seed: BootstrapSeed = 0,
    overwrite: Overwrite = False,
) -> None:
    """The report's figures, for a paper.

    Of one measured run, or of two compared. Several training seeds are
    joined by commas. No model is loaded; maps are those that the run kept.
    """
    from attcot_analysis.files import own_folder
    from attcot_analysis.show.figures import inches, save_figure
    from attcot_analysis.show.report.compare import run_figures
    from attcot_analysis.show.report.page import figure_name
    from attcot_analysis.show.style import font_family

    widths = [None if one is None else inches(one) for one in (width, wide or width)]
    chosen = None if font is None else font_family(font)
    folders = run_folders(run)
    others = None if other is None else run_folders(other)
    figures, notes = run_figures(
        folders, others, names=names, problems=problems, examples=examples, seed=seed
    )
    for note in notes:
        say(f"Note: {note}")
    folder = own_folder(Path(folders[0]), "figures") if out is None else out
    for number, item in enumerate(figures, start=1):
        [path] = save_figure(
            item.figure,
            folder / f"{figure_name(item) or number}.{form}",
            width=widths[item.wide],
            font_size=font_size,
            font=chosen,
            overwrite=overwrite,
        )
        say(f"{path}: {item.title}")


@app.command("table", cls=ListCommand)
def _table(
    run: Annotated[str, Argument(metavar="RUN", help="folder of attcot measure or attcot compare")],
    to: Annotated[
        Literal["latex", "csv", "md"], Option(help="latex needs the package booktabs")
    ] = "latex",
    metrics: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="which metrics, or all; default the report's main ones"),
    ] = None,
    out: Annotated[Path | None, Option(help="new file; default: printed")] = None,
    seed: BootstrapSeed = 0,
    overwrite: Overwrite = False,
) -> None:
    """The metrics of a run or a comparison, as a table.

    Several training seeds are joined by commas. What could not be read stands
    before the table; with csv it is printed beside it.
    """
    from attcot_analysis.errors import ShowError
    from attcot_analysis.files import write_bytes
    from attcot_analysis.measures.unread import unread_sentences
    from attcot_analysis.show.style import arm_label
    from attcot_analysis.show.tables import metric_table, run_summary

    if out is not None and out.exists() and not overwrite:
        raise ShowError(f"{out} exists; give --overwrite to replace it, or another --out.")
    summary, comparisons = run_summary(run_folders(run), seed=seed)
    text = metric_table(summary, comparisons, metrics=metrics or (), to=to)
    if to == "csv":
        for sentence in unread_sentences(summary, arm_label):
            say(sentence, file=sys.stderr)
    if out is None:
        say(text.rstrip("\n"))
    else:
        write_bytes(out, text.encode())
        say(f"Table: {out}")


@app.command("items")
def _items(
    run: Run,
    worst: Annotated[
        str | None, Option(metavar="METRIC", help="by the direction that is better")
    ] = None,
    lowest: Annotated[str | None, Option(metavar="METRIC", help="from its lowest value up")] = None,
    highest: Annotated[
        str | None, Option(metavar="METRIC", help="from its highest value down")
    ] = None,
    n: Annotated[int, Option("--n", help="how many items")] = 10,
    problems: MovedProblems = None,
) -> None:
    """The items with the worst value of a metric.

    Values of several training seeds, joined by commas, are averaged.
    """
    from attcot_analysis.show.ranking import End, ranked_items
    from attcot_analysis.show.report.arms import read_arm
    from attcot_analysis.show.report.pairing import find_problems

    ends: dict[End, str | None] = {"worst": worst, "lowest": lowest, "highest": highest}
    asked = [(end, metric) for end, metric in ends.items() if metric is not None]
    if len(asked) != 1:
        raise typer.BadParameter("give one of --worst, --lowest and --highest")
    [(end, metric)] = asked
    arm = read_arm(run_folders(run))
    shared, _ = find_problems(arm, arm, problems)
    say(ranked_items(arm, shared, metric, end=end, n=n))


if __name__ == "__main__":
    sys.exit(main())
