"""Drawing a round: samples, critical tokens, continuations and attention, kept block by block."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from attcot_analysis.measures._items import response_text
from attcot_analysis.measures.answers import answer_row
from attcot_analysis.models import (
    Generation,
    Mllm,
    PromptMemory,
    encode_problem,
    generate,
    load_mllm,
)
from attcot_analysis.models.memory import current_memory, remembering
from attcot_analysis.problems import Problem, parse_response
from attcot_analysis.runs.run import RunFolder
from attcot_lab.vista.config import Origin, VistaConfig
from attcot_lab.vista.prefix import CRITICAL, critical_tokens, mended_prefix
from attcot_lab.vista.pseudo_positives import SHARES, attention_shares
from attcot_lab.vista.sets import PARTS, VistaRound, distinct, is_positive

COLUMNS = (
    "item",
    "origin",
    "parent",
    "kept",
    "ids",
    "text",
    "answer",
    "correct",
    "finished",
    "sound",
)

"""Columns of a table of responses."""


@dataclass(frozen=True)
class Start:
    """What a response begins with.

    Attributes:
        problem: Its question.
        prefix: The tokens it begins with.
        parent: Number of the response that the prefix was mended from.
    """

    problem: Problem
    prefix: tuple[int, ...] = ()
    parent: int | None = None


def sample_responses(
    mllm: Mllm,
    starts: Sequence[Start],
    *,
    origin: Origin,
    config: VistaConfig,
    seed: int,
    progress: bool = False,
) -> pd.DataFrame:
    """Sample one response per start.

    Args:
        mllm: The model.
        starts: Name a start K times to get K samples of it.
        origin: What these responses are to be called.
        config: Temperature, length limit and batch size.
        seed: Of the sampling; results also depend on the batch size.
        progress: Show a progress bar.

    Returns:
        One row per start: ``item``; ``origin``; ``parent`` (missing for whole responses);
        ``kept``, the number of tokens that come from the prefix; ``ids`` and ``text`` of prefix
        and continuation together; ``answer``, ``correct`` and ``finished`` as in
        `answer_problems`; ``sound``, whether the rationale is the problem's own, word for word
        (missing where the problem has none): a right answer after another rationale may be a
        guess, so this is a lower bound of the right rationales.
    """
    # Samples of a question share its picture.
    with remembering(current_memory() or PromptMemory()):
        prompts = [encode_problem(mllm, one.problem, response=one.prefix) for one in starts]
    made = generate(
        mllm,
        prompts,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=seed,
        progress=progress,
    )
    rows = [_row(mllm, *pair, origin) for pair in zip(starts, made, strict=True)]
    return typed(pd.DataFrame(rows, columns=list(COLUMNS)))


def typed(responses: pd.DataFrame) -> pd.DataFrame:
    """A table of responses with the types that hold missing values, also if it is empty."""
    return responses.astype(
        {
            "parent": "Int64",
            "kept": "int64",
            "correct": "bool",
            "finished": "bool",
            "sound": "boolean",
        }
    )


def _row(mllm: Mllm, start: Start, made: Generation, origin: Origin) -> dict[str, object]:
    ids = (*start.prefix, *made.ids)
    whole = replace(made, ids=ids, text=response_text(mllm, ids))
    read = answer_row(start.problem, whole, mode="cot")
    return {
        "item": start.problem.id,
        "origin": origin,
        "parent": start.parent,
        "kept": len(start.prefix),
        "sound": _sound(start.problem, whole),
        **{name: read[name] for name in ("ids", "text", "answer", "correct", "finished")},
    }


def _sound(problem: Problem, made: Generation) -> bool | None:
    if not problem.steps:
        return None
    own = tuple(f"{number}. {step.text}" for number, step in enumerate(problem.steps, start=1))
    return parse_response(made.text).step_texts == own


def read_vista_round(folder: str | Path, number: int) -> VistaRound:
    """Read what a round has drawn, to inspect it or to filter it in another way.

    Only the first round's responses do not depend on the filter: later ones are written by models
    that were trained on what it kept.

    Args:
        folder: From `attcot_lab.vista.run.vista_folder`.
        number: Of the round, from 1.

    Raises:
        RunError: If the folder or the round is missing or damaged.
    """
    run = RunFolder.open(folder)
    responses, critical = (run.read_table(f"round{number}.{part}") for part in PARTS)
    return VistaRound(typed(responses), critical)


def draw_round(
    writer: str | Path,
    problems: Sequence[Problem],
    run: RunFolder,
    number: int,
    config: VistaConfig,
    seed: int,
    progress: bool = False,
) -> VistaRound:
    """Draw a round's responses, block by block, as far as they are not drawn yet.

    Args:
        writer: Checkpoint of the model that writes; not loaded if nothing is left to draw.
        problems: The questions.
        run: Where the tables go.
        number: Of the round, from 1.
        config: What to draw.
        seed: Of the training run.
        progress: Show a progress bar.
    """
    names = [f"round{number}.{part}" for part in PARTS]
    if not all(run.has(name) for name in names):
        loaded: list[Mllm] = []

        def model() -> Mllm:
            if not loaded:
                loaded.append(load_mllm(writer, dtype=torch.float32))
            return loaded[0]

        starts = range(0, len(problems), config.block)
        for block, start in enumerate(tqdm(starts, desc=f"round {number}", disable=not progress)):
            own = list(problems[start : start + config.block])
            draws = _seeds([seed, number, block])
            _write_block(run, names, block, partial(_draw, model, own, config, draws))
        for name in names:
            parts = [f"{name}.{block:05d}" for block in range(len(starts))]
            table = pd.concat([run.read_table(part) for part in parts], ignore_index=True)
            run.write_table(name, table, overwrite=True)
        for name in names:
            for part in (run.path / "tables").glob(f"{name}.[0-9]*.parquet"):
                part.unlink()
    return read_vista_round(run.path, number)


def _write_block(
    run: RunFolder, names: Sequence[str], block: int, draw: Callable[[], VistaRound]
) -> None:
    parts = [f"{name}.{block:05d}" for name in names]
    if not all(run.has(part) for part in parts):
        drawn = draw()
        for part, table in zip(parts, (drawn.responses, drawn.critical), strict=True):
            run.write_table(part, table, overwrite=True)


def _draw(
    model: Callable[[], Mllm],
    problems: Sequence[Problem],
    config: VistaConfig,
    seeds: Sequence[int],
) -> VistaRound:
    """Everything that a block of questions is to be drawn, with its attention."""
    mllm = model()
    by_id = {problem.id: problem for problem in problems}
    starts = [Start(problem) for problem in problems for _ in range(config.samples)]
    tables = [sample_responses(mllm, starts, origin="sampled", config=config, seed=seeds[0])]
    tables[0] = tables[0].assign(number=tables[0].groupby("item", sort=False).cumcount())
    critical = _critical(mllm, by_id, tables[0], config)
    cut = critical[critical["position"].notna()]
    if "continued" in config.drawn:
        mended = _mended(by_id, tables[0], cut, config.continuations)
        tables.append(
            sample_responses(mllm, mended, origin="continued", config=config, seed=seeds[1])
        )
    if "plain" in config.drawn:
        more = [Start(by_id[item]) for item in cut["item"] for _ in range(config.continuations)]
        tables.append(sample_responses(mllm, more, origin="plain", config=config, seed=seeds[2]))
    responses = pd.concat([table for table in tables if len(table)], ignore_index=True)
    responses["number"] = responses.groupby("item", sort=False).cumcount()
    return VistaRound(_with_shares(mllm, by_id, responses, config), critical)


def _critical(
    mllm: Mllm, by_id: dict[str, Problem], sampled: pd.DataFrame, config: VistaConfig
) -> pd.DataFrame:
    """Critical tokens of the distinct wrong responses, those that end at once left out."""
    wrong = distinct(sampled[~sampled["correct"] & (sampled["ids"].map(len) > 0)])
    if config.extra == "none":
        wrong = wrong.iloc[:0]
    found = critical_tokens(
        mllm,
        [by_id[item] for item in wrong["item"]],
        wrong["ids"].tolist(),
        top=config.top,
        batch_size=config.batch_size,
    )
    found.insert(0, "item", wrong["item"].to_numpy(object))
    found.insert(1, "number", wrong["number"].to_numpy(np.int64))
    return found[["item", "number", *CRITICAL]]


def _mended(
    by_id: dict[str, Problem], sampled: pd.DataFrame, cut: pd.DataFrame, n: int
) -> list[Start]:
    ids = dict(
        zip(zip(sampled["item"], sampled["number"], strict=True), sampled["ids"], strict=True)
    )
    starts = []
    for row in cut.to_dict("records"):
        item, number = str(row["item"]), int(row["number"])
        place, token = int(row["position"]), int(row["replacement"])
        starts += [Start(by_id[item], mended_prefix(ids[item, number], place, token), number)] * n
    return starts


def _with_shares(
    mllm: Mllm, by_id: dict[str, Problem], responses: pd.DataFrame, config: VistaConfig
) -> pd.DataFrame:
    """The responses with the attention of the positives, each computed on its own tokens."""
    chosen = is_positive(responses)
    columns = {name: np.full(len(responses), np.nan) for name in SHARES}
    # Origin by origin, so that batches, and the last digits, do not depend on what else is drawn.
    for origin in dict.fromkeys(responses["origin"]):
        places = np.flatnonzero(chosen & (responses["origin"] == origin))
        right = responses.iloc[places]
        items = [
            encode_problem(mllm, by_id[item], response=ids)
            for item, ids in zip(right["item"], right["ids"], strict=True)
        ]
        found = attention_shares(mllm, items, layer=config.layer, batch_size=config.batch_size)
        for name, column in columns.items():
            column[places] = found[name]
    return responses.assign(**columns)


def _seeds(path: Sequence[int]) -> list[int]:
    return [int(one) for one in np.random.SeedSequence(list(path)).generate_state(3)]
