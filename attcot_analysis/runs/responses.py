"""`generate_run`: responses of a model to problems, kept in a run folder and resumed there."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from attcot_analysis.errors import MeasureError, RunError
from attcot_analysis.measures.answers import answer_problems
from attcot_analysis.files import write_whole
from attcot_analysis.runs.provenance import build_manifest, processor_record
from attcot_analysis.runs.records import Part, Records
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.runs.shards import Shards
from attcot_analysis.models import Mllm, Mode
from attcot_analysis.problems import Problem

TABLE = "responses"
LINES = "responses.jsonl"
_STRIDE = 1_000_003
"""Between the seeds of two samples; a prime, so that batches do not share theirs."""


def generate_run(
    folder: str | Path,
    mllm: Mllm,
    problems: Sequence[Problem],
    *,
    mode: Mode = "cot",
    text_only: bool = False,
    samples: int = 1,
    temperature: float = 0.0,
    batch_size: int = 64,
    max_new_tokens: int = 256,
    seed: int = 0,
    shards: Shards | None = None,
    progress: bool = False,
) -> RunFolder:
    """Let a model answer problems into a run folder; called again on the same folder it goes on.

    Writes a table ``responses`` (the columns of `answer_problems`, with ``sample`` from 0) and,
    per sample, JSON lines with ``id``, ``ids`` (tokens of the response), ``text``,
    ``finish_reason`` (``stop`` or ``length``) and ``model``: ``responses.jsonl`` for sample 0,
    ``responses-1.jsonl`` and so on for the others.

    Args:
        folder: New, empty, or of the same run.
        mllm: The model.
        problems: The items.
        mode: ``"cot"`` or ``"direct"``.
        text_only: Leave the pictures out.
        samples: Responses per item; more than one needs a temperature.
        temperature: 0 for greedy.
        batch_size: Items generated at once, and per part in the run folder.
        max_new_tokens: Length limit of a response.
        seed: Of sampling, which also depends on ``batch_size``.
        shards: The processes that share the work; default only this one.
        progress: Show a progress bar (in the main process).

    Returns:
        The finished run.

    Raises:
        MeasureError: If the arguments do not fit together.
        RunError: If the folder is another run's or damaged, or one is writing to it.
    """
    shards = shards or Shards()
    if samples < 1 or batch_size < 1:
        raise MeasureError(
            f"samples={samples} and batch_size={batch_size} must both be at least 1."
        )
    if samples > 1 and temperature == 0:
        raise MeasureError(
            f"{samples} samples at temperature 0 would all be the same; give a temperature above 0."
        )
    config = {
        "mode": mode,
        "text_only": text_only,
        "samples": samples,
        "temperature": temperature,
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "dtype": str(mllm.dtype).removeprefix("torch."),
    }
    items = [problem.id for problem in problems]
    starts = range(0, len(problems), batch_size)
    with ExitStack() as held:

        def open_folder() -> str:
            manifest = build_manifest(
                seed=seed, config=config, models={"model": mllm}, data={"test": problems}
            )
            manifest["models"]["model"]["processor"] = processor_record(mllm)
            noted = manifest | {"processes": shards.count}
            held.enter_context(RunFolder.begun(folder, noted, resume=True))
            return str(manifest["models"]["model"]["name"])

        name = shards.from_main(open_folder)
        run = RunFolder.open(folder)
        records = Records(run, TABLE)

        def to_do() -> list[int]:
            if run.has(TABLE):
                return []
            there = records.items()
            return [n for n, start in enumerate(starts) if items[start] not in there]

        missing = shards.from_main(to_do)
        with shards.together():
            mine = shards.mine(missing)
            for number in tqdm(mine, desc=TABLE, disable=not (progress and shards.main)):
                chunk = problems[starts[number] : starts[number] + batch_size]
                tables = [
                    answer_problems(
                        mllm,
                        chunk,
                        mode=mode,
                        text_only=text_only,
                        batch_size=batch_size,
                        max_new_tokens=max_new_tokens,
                        temperature=temperature,
                        seed=seed + starts[number] + _STRIDE * sample,
                    ).assign(sample=sample)
                    for sample in range(samples)
                ]
                rows = pd.concat(tables, ignore_index=True)
                records.write(number, [problem.id for problem in chunk], Part(rows))
        with shards.together():
            if shards.main:
                if not run.has(TABLE):
                    records.merge(items)
                for sample in range(samples):
                    _write_lines(run, sample, name)
    return run


def response_file(run: RunFolder, sample: int = 0) -> Path:
    """The JSON lines of one sample.

    Raises:
        RunError: If there is no such sample.
    """
    path = _lines(run, sample)
    if not path.is_file():
        raise RunError(f"{run.path} has no sample {sample}; generate more, or name another.")
    return path


def _lines(run: RunFolder, sample: int) -> Path:
    return run.path / (LINES if sample == 0 else f"{Path(LINES).stem}-{sample}.jsonl")


def _write_lines(run: RunFolder, sample: int, model: str) -> None:
    table = run.read_table(TABLE)
    table = table[table["sample"] == sample]
    lines = [
        json.dumps(
            {
                "id": item,
                "ids": [int(one) for one in ids],
                "text": text,
                "finish_reason": "stop" if finished else "length",
                "model": model,
            },
            ensure_ascii=False,
        )
        for item, ids, text, finished in zip(
            table["item"], table["ids"], table["text"], table["finished"], strict=True
        )
    ]
    content = "\n".join(lines) + "\n"
    write_whole(_lines(run, sample), lambda part: part.write_text(content, encoding="utf-8"))
