"""Drawing a round: samples, critical tokens, continuations and attention, kept block by block."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from attcot_analysis.attention.probe import read_masses
from attcot_analysis.errors import AttCoTError, TrainingError
from attcot_analysis.measures.access import IMAGE, QUESTION, SYSTEM, access_columns
from attcot_analysis.measures.answers import answer_row
from attcot_analysis.models import (
    Encoded,
    Generation,
    Mllm,
    PromptCache,
    collate,
    encode_problem,
    generate,
    load_mllm,
)
from attcot_analysis.problems import Problem, parse_response
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.train.objective import AttCoTConfig, readable_layers
from attcot_lab.vista.prefix import CRITICAL, critical_tokens, mended_prefix
from attcot_lab.vista.sets import (
    Origin,
    VistaConfig,
    VistaRound,
    distinct,
    is_positive,
    vista_config,
)

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
SHARES = ("system", "image", "instruction", "share")
"""Columns of the table of attention."""
PARTS = ("responses", "critical")
"""Tables of what a round has drawn."""
_DRAWING = (
    "samples",
    "continuations",
    "top",
    "temperature",
    "max_new_tokens",
    "layer",
    "batch_size",
    "block",
)
"""Settings that what is drawn depends on, beside which origins there are."""

_SAME = ("seed", "models", "data", "versions", "platform")


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
    caching = replace(mllm, cache=mllm.cache or PromptCache())
    prompts = [encode_problem(caching, one.problem, response=one.prefix) for one in starts]
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
    whole = replace(made, ids=ids, text=mllm.response_text(ids))
    read = answer_row(start.problem, whole, mode="cot", form=mllm.format)
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
        mllm: Mllm | None = None
        starts = range(0, len(problems), config.block)
        blocks = [[f"{name}.{block:05d}" for name in names] for block in range(len(starts))]
        for block, start in enumerate(tqdm(starts, desc=f"round {number}", disable=not progress)):
            if all(run.has(name) for name in blocks[block]):
                continue
            mllm = mllm or load_mllm(writer, dtype=torch.float32)
            own = problems[start : start + config.block]
            drawn = _draw(mllm, own, config, _seeds([seed, number, block]))
            for name, table in zip(blocks[block], (drawn.responses, drawn.critical), strict=True):
                run.write_table(name, table, overwrite=True)
        for name, parts in zip(names, zip(*blocks, strict=True), strict=True):
            table = pd.concat([run.read_table(part) for part in parts], ignore_index=True)
            run.write_table(name, table, overwrite=True)
        for name in names:
            for part in (run.path / "tables").glob(f"{name}.[0-9]*.parquet"):
                part.unlink()
    return read_vista_round(run.path, number)


def _draw(
    mllm: Mllm,
    problems: Sequence[Problem],
    config: VistaConfig,
    seeds: Sequence[int],
) -> VistaRound:
    """Everything that a block of questions is to be drawn, with its attention."""
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
    table = critical_tokens(
        mllm,
        [by_id[item] for item in wrong["item"]],
        wrong["ids"].tolist(),
        top=config.top,
        batch_size=config.batch_size,
    )
    table.insert(0, "item", wrong["item"].to_numpy(object))
    table.insert(1, "number", wrong["number"].to_numpy(np.int64))
    return table[["item", "number", *CRITICAL]]


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
        shares = attention_shares(mllm, items, layer=config.layer, batch_size=config.batch_size)
        for name, column in columns.items():
            column[places] = shares[name]
    return responses.assign(**columns)


def _seeds(path: Sequence[int]) -> list[int]:
    return [int(one) for one in np.random.SeedSequence(list(path)).generate_state(3)]


def middle_layer(mllm: Mllm) -> int:
    """The layer nearest to the middle, ⌊L/2⌋, that has full attention (the lower of two).

    Raises:
        TrainingError: If no layer has full attention.

    Source: "middle layer" in arXiv 2605.11931; which one exactly is a reconstruction.
    """
    middle = mllm.n_layers // 2
    for layer in sorted(range(mllm.n_layers), key=lambda one: (abs(one - middle), one)):
        if readable_layers(mllm, AttCoTConfig(vis_layers=(layer,))):
            return layer
    raise TrainingError(
        f"No layer of {mllm.name} has full attention, so that no attention on the picture can be "
        "scored; use vas=False."
    )


def attention_shares(
    mllm: Mllm, items: Sequence[Encoded], *, layer: int | None = None, batch_size: int = 16
) -> pd.DataFrame:
    """Attention of responses on the parts of their prompts, from the probe.

    Args:
        mllm: The model that wrote the responses.
        items: Encoded with an image and the response, without end token.
        layer: Which one; default `middle_layer`.
        batch_size: Items per forward pass.

    Returns:
        One row per item. ``system``, ``image``, ``instruction``: attention on what stands before
        the image tokens, on them, and on the rest of the prompt, mean over the layer's heads,
        summed over the rows that predict the response's tokens (rationale, tags and answer);
        ``share``: S = image / (system + image + instruction), NaN for an empty response.

    Raises:
        MeasureError: If the layer does not exist or has no full attention.

    Source: arXiv 2605.11931; mean over heads and sum over tokens are a reconstruction.
    """
    chosen = middle_layer(mllm) if layer is None else layer
    sums = np.zeros((len(items), 3))
    for start in range(0, len(items), batch_size):
        part = items[start : start + batch_size]
        batch = collate(mllm, part)
        length = batch["input_ids"].shape[1]
        cols = torch.stack(
            [
                F.pad(access_columns(item, []), (0, 0, 0, length - len(item.input_ids)))
                for item in part
            ]
        )
        rows = torch.nn.utils.rnn.pad_sequence(
            [torch.as_tensor(item.layout.rows(item.layout.response)) for item in part],
            batch_first=True,
            padding_value=-1,
        )
        if not rows.numel():
            continue
        masses = read_masses(mllm, batch, cols.to(mllm.device), rows, layers=[chosen])[chosen]
        parts = masses.double().mean(1).sum(1)[:, [SYSTEM, IMAGE, QUESTION]]
        sums[start : start + len(part)] = parts.cpu().numpy()
    with np.errstate(invalid="ignore"):
        share = sums[:, 1] / sums.sum(1)
    return pd.DataFrame(np.column_stack([sums, share]), columns=list(SHARES))


def take_over_first_round(
    run: RunFolder, siblings: Iterable[str | Path], config: VistaConfig
) -> Path | None:
    """Copy the first round's responses from a run that has drawn the same, and at least as much.

    The first round is written by the base, so runs that differ in objective, filter or in what
    they train on draw the same. Each origin has its own seed and is scored by itself, so that what
    is taken over is what would have been drawn.

    Args:
        run: The run that is to draw.
        siblings: Folders of other runs, as `vista_folder` names them; those that are damaged,
            unfinished, or of another base, seed, problems, versions or settings are passed over.
        config: Settings of `run`.

    Returns:
        The folder that was taken from, also noted in the run's manifest as ``first_round_from``;
        ``None`` if nothing was, or the round was begun already.
    """
    names = [f"round1.{part}" for part in PARTS]
    # A round that was begun has blocks of its own, with which draw_round resumes.
    if any(table.startswith("round1.") for table in run.tables):
        return None
    for folder in map(Path, siblings):
        if folder.resolve() == run.path.resolve():
            continue
        try:
            tables = _drawn_alike(run, RunFolder.open(folder), config, names)
        except AttCoTError:
            continue
        if tables is not None:
            for name, table in zip(names, tables, strict=True):
                run.write_table(name, table)
            run.note("first_round_from", folder.name)
            return folder
    return None


def _drawn_alike(
    run: RunFolder, other: RunFolder, config: VistaConfig, names: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    settings = other.manifest.get("config", {})
    if "vista" not in settings or not all(other.has(name) for name in names):
        return None
    drawn_by = vista_config(settings["vista"])
    alike = _drawing(run.manifest, config) == _drawing(other.manifest, drawn_by)
    if not alike or not set(config.drawn) <= set(drawn_by.drawn):
        return None
    responses, critical = (other.read_table(name) for name in names)
    kept = responses[responses["origin"].isin(config.drawn)].reset_index(drop=True)
    kept["number"] = kept.groupby("item", sort=False).cumcount()
    return kept, critical


def _drawing(manifest: Mapping[str, Any], config: VistaConfig) -> dict[str, Any]:
    """What a first round depends on, beside which origins there are."""
    return {
        **{key: manifest.get(key) for key in _SAME},
        # A base that is no local folder is among the settings.
        "base": manifest["config"].get("base"),
        **{name: getattr(config, name) for name in _DRAWING},
        # Without extra samples no critical token is looked for.
        "critical": config.extra != "none",
    }
