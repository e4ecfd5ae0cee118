"""VISTA: a model that is trained on its own responses, those that are right and look (2605.11931).

Round by round: the last model's K responses per question are split by their answers; wrong ones
are cut at their critical token, mended and continued; of the right ones those are dropped that
look less than their question's others; and the *base* is trained on the rest. What every round has
drawn stays beside the trained checkpoint, ``<folder>.vista``::

    manifest.json                        what the run is made with
    tables/round1.responses.parquet      every response with its answer and its attention
    tables/round1.critical.parquet       where the wrong ones left what looking last would say
    tables/round1.positives.parquet      scores, and which are kept
    tables/round1.pairs.parquet          with DPO
    tables/round1.yields.parquet         hard questions gained
    round1.json                          how many of what
    models/round1                        the trained model, as long as the next round needs it
"""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image

from attcot_analysis.errors import TrainingError
from attcot_analysis.measures.dependence import dependence
from attcot_analysis.models import Mllm, encode_problem, load_mllm
from attcot_analysis.problems import Problem
from attcot_analysis.runs.provenance import build_manifest
from attcot_analysis.runs.run import RunFolder
from attcot_analysis.stats.intervals import Interval, bootstrap_mean
from attcot_analysis.train.checkpoints import new_folder
from attcot_analysis.train.finetune import FinetuneConfig
from attcot_lab.separating import auroc
from attcot_lab.settings import check_plain
from attcot_lab.vista.draw import draw_round, read_vista_round, take_over_first_round
from attcot_lab.vista.prefix import response_logits
from attcot_lab.vista.sets import VistaConfig, VistaRound, is_positive
from attcot_lab.vista.train import train_vista_round


def run_vista(
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: VistaConfig | None = None,
    training: FinetuneConfig | None = None,
    *,
    save_every: int | None = None,
    siblings: Iterable[str | Path] = (),
    progress: bool = False,
) -> Path:
    """Let a model improve itself on problems of which only the answers are used.

    Called again after an interruption it resumes: with the block of questions that was being
    drawn, with the round that was being trained, and, with `save_every`, with the last checkpoint.

    Args:
        base: Local folder or hub id; the model of the first round, and what every round trains.
        problems: Questions with answers; rationales, if there are any, only tell right ones from
            guesses in the yields, and give evidence boxes to Att-CoT terms.
        folder: Where to save the last round's model; must not exist. The sets go to
            `vista_folder`.
        config: VISTA's settings.
        training: Of every round; with steps for each.
        save_every: Steps between checkpoints, a multiple of `LOG_EVERY`; default none.
        siblings: Folders of sets (`vista_folder`) of other runs, whose first round is taken over
            if it was drawn by the same base with the same settings; see `take_over_first_round`.
        progress: Show a progress bar.

    Returns:
        `folder`, a checkpoint that `load_mllm` reads.

    Raises:
        TrainingError: If the folder exists, problems share an id, the mode is not ``"cot"``, or a
            round has nothing to train on.
        RunError: If the sets' folder is of a run with other settings, problems or base.

    Source: arXiv 2605.11931, known to us from public summaries; see `VistaConfig` for what of it
    is a reconstruction.
    """
    config, training = config or VistaConfig(), training or FinetuneConfig()
    folder = Path(folder)
    _check(problems, folder, training)
    manifest = _manifest(base, problems, config, training)
    with RunFolder.begun(vista_folder(folder), manifest, resume=True) as run:
        take_over_first_round(run, siblings, config)
        done = max((t for t in range(1, config.rounds) if _model(run, t).exists()), default=0)
        for number in range(done + 1, config.rounds + 1):
            writer = base if number == 1 else _model(run, number - 1)
            drawn = draw_round(writer, problems, run, number, config, training.seed, progress)
            _write_sets(run, number, drawn, config, training.seed)
            target = folder if number == config.rounds else _model(run, number)
            train_vista_round(
                base,
                problems,
                drawn,
                target,
                config,
                training,
                save_every=save_every,
                progress=progress,
            )
            if not config.keep_models and number > 1:
                shutil.rmtree(_model(run, number - 1))
    return folder


def vista_folder(folder: str | Path) -> Path:
    """Where `run_vista` keeps what the rounds of a checkpoint's training have drawn."""
    folder = Path(folder)
    return folder.with_name(f"{folder.name}.vista")


def _write_sets(
    run: RunFolder, number: int, drawn: VistaRound, config: VistaConfig, seed: int
) -> None:
    """What the next training uses, and how many of what there are, to look at."""
    selected, yields = drawn.positives(config), drawn.yields()
    positions = drawn.critical["position"].dropna()
    run.write_table(f"round{number}.positives", selected, overwrite=True)
    run.write_table(f"round{number}.yields", yields, overwrite=True)
    counts = {
        "questions": drawn.responses["item"].nunique(),
        "without a positive": drawn.responses["item"].nunique() - selected["item"].nunique(),
        "responses": drawn.responses["origin"].value_counts().to_dict(),
        "wrong": len(drawn.critical),
        "with a critical token": len(positions),
        "median place of critical tokens": float(positions.median()) if len(positions) else None,
        "positives": len(selected),
        "kept": int(selected["kept"].sum()),
    }
    if config.objective == "dpo":
        pairs = drawn.pairs(config, seed=seed)
        run.write_table(f"round{number}.pairs", pairs, overwrite=True)
        counts["pairs"] = len(pairs)
    run.write_json(f"round{number}", counts, overwrite=True)


def _model(run: RunFolder, number: int) -> Path:
    return run.path / "models" / f"round{number}"


def _manifest(
    base: str | Path, problems: Sequence[Problem], config: VistaConfig, training: FinetuneConfig
) -> dict[str, Any]:
    local = Path(base).is_dir()
    settings = {"vista": asdict(config), "training": asdict(training)}
    return build_manifest(
        seed=training.seed,
        config=settings if local else {**settings, "base": str(base)},
        models={"base": base} if local else None,
        data={"train": problems},
    )


def _check(problems: Sequence[Problem], folder: Path, training: FinetuneConfig) -> None:
    new_folder(folder)
    if not problems:
        raise TrainingError("There are no problems to train on; give at least one.")
    ids = [problem.id for problem in problems]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise TrainingError(f"Problem {twice} is there twice; give every problem an id of its own.")
    check_plain(training, "VISTA")
    if training.mode != "cot":
        raise TrainingError(
            "VISTA is about rationales, which mode 'direct' has none of; use mode 'cot'."
        )


QUESTIONS = 64
"""Of so many questions the positives are shown the twin: several forward passes each."""

_DRAWS = {"continued": "mended", "plain": "plain"}
INDEPENDENT = float(np.log(2))
"""A response that the twin's picture makes less than half as probable hangs on the picture."""


def vista_values(
    base: str | Path,
    problems: Sequence[Problem],
    folder: str | Path,
    config: VistaConfig,
) -> pd.DataFrame:
    """Values of the axis "samples", per training question, of a finished run's first round.

    Its responses are the base's own, so they do not depend on what was trained on, and all arms
    that sample alike share them with a seed. Hence the costly part, whether positives hang on the
    picture, is only asked of a run that draws for comparison (`VistaConfig.control`) and filters:
    of the first `QUESTIONS` questions with a twin and with positives of both sorts.

    Args:
        base: The model of the first round.
        problems: What `run_vista` was given.
        folder: What `run_vista` has made.
        config: Its settings.

    Returns:
        ``item``, ``metric`` (a name in `METRICS`), ``value``. Gains are there for draws that were
        made; questions for which a metric is not defined have no row.

    Raises:
        RunError: If the first round is missing or damaged.
    """
    drawn = read_vista_round(vista_folder(folder), 1)
    gains = drawn.gains()
    sampled = (gains["draw"] == "sampled") & (gains["success"] == "answer")
    parts = {
        "unsolved": 1 - gains[sampled].set_index("item")["value"],
        "easy_excess": easy_excess(drawn.responses),
    }
    for (success, draw), own in gains.groupby(["success", "draw"], sort=False):
        if draw in _DRAWS:
            parts[f"gain_{_DRAWS[draw]}_{success}"] = own.set_index("item")["value"]
    if config.control and config.vas:
        parts |= _hanging(base, problems, drawn, config)
    tables = [
        pd.DataFrame({"item": values.index, "metric": name, "value": values.to_numpy(float)})
        for name, values in parts.items()
        if len(values)
    ]
    return pd.concat(tables, ignore_index=True)


def easy_excess(responses: pd.DataFrame) -> pd.Series:
    """How far easy questions have more than their share of the right samples.

    The first half of a question's samples says whether it is easy (half of them right, at least),
    the second half is counted: were one half to do both, questions that differ by luck only would
    look unequal.

    Args:
        responses: Of one round; only plain first samples are looked at, equal ones each for
            itself.

    Returns:
        Item → its right samples over the mean question's, minus 1, if it is easy, else 0. The mean
        is the easy questions' share of the right samples minus their share of the questions.
        Empty with fewer than two samples per question, or no right one in the second half.

    Source: reconstruction of the data imbalance of arXiv 2605.11931.
    """
    own = responses[responses["origin"] == "sampled"]
    right = is_positive(own)
    items = own.groupby("item", sort=False)
    early = items.cumcount() < items["number"].transform("size") // 2
    easy = right[early].groupby(own["item"], sort=False).mean() >= 0.5
    count = right[~early].groupby(own["item"], sort=False).sum()
    if not len(easy) or not count.sum():
        return pd.Series(dtype=float)
    excess = count / count.mean() - 1
    return excess.where(easy.reindex(count.index, fill_value=False), 0.0)


def _hanging(
    base: str | Path, problems: Sequence[Problem], drawn: VistaRound, config: VistaConfig
) -> dict[str, pd.Series]:
    """Per question, how image-independent its kept and its dropped positives are."""
    positives = drawn.positives(config)
    with_twin = {problem.id for problem in problems if problem.twin is not None}
    sorts = positives[positives["item"].isin(with_twin)].groupby("item", sort=False)["kept"]
    chosen = [item for item, kept in sorts if kept.nunique() > 1][:QUESTIONS]
    if not chosen:
        return {}
    ids = drawn.responses[["item", "number", "ids"]]
    asked = positives[positives["item"].isin(chosen)].merge(ids, on=["item", "number"])
    mllm = load_mllm(base, dtype=torch.float32)
    table = image_dependence(mllm, problems, asked, batch_size=config.batch_size)
    values = {}
    for kept, name in ((True, "kept"), (False, "dropped")):
        own = table[table["kept"] == kept].groupby("item", sort=False)
        values[f"independent_{name}"] = own["independent"].mean().astype(np.float64)
        values[f"response_dependence_{name}"] = own["drop"].mean()
    return values


@dataclass(frozen=True)
class PseudoPositives:
    """Whether dropped positives are image-independent more often than kept ones.

    Attributes:
        kept: Share of the kept positives that are; interval over questions.
        dropped: Share of the dropped positives that are.
        difference: Dropped − kept within a question, mean over questions that have both: above
            zero the filter does what it is for. Scores compare responses to one question, so this
            is the fair test.
        auroc: Probability that an independent positive has a lower score than a dependent one.
        of: The column that says so, ``"independent"`` or ``"unfollowed"``.
    """

    kept: Interval
    dropped: Interval
    difference: Interval
    auroc: float
    of: str


def image_dependence(
    mllm: Mllm,
    problems: Sequence[Problem],
    positives: pd.DataFrame,
    *,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Ask of every right response whether it hangs on what the twin changes.

    Two answers, because neither alone is enough. ``drop``: by how much the whole response becomes
    less probable under the twin's picture, less what the control edit's picture does; a response
    that was made up from the question alone is as probable as before. ``unfollowed``: behind the
    response's own rationale the twin's picture is shown, and the forced answer is not the twin's;
    where the rationale states the evidence that says little, as the answer is copied from it.

    Args:
        mllm: The model that wrote them.
        problems: What they answer; those without a twin have no rows.
        positives: ``item``, ``number``, ``ids``, and whatever else, kept as it is.
        batch_size: Responses per forward pass.

    Returns:
        The rows with ``log_p``, ``log_p_twin`` and ``log_p_control`` (nats, of the whole
        response; NaN without a control), ``drop`` (control, or without one the original, − twin),
        ``independent`` (drop below `INDEPENDENT`), ``unfollowed`` (missing without a rationale
        step).

    Raises:
        TrainingError: If no positive's problem has a twin.

    Source: reconstruction; arXiv 2605.11931 calls such responses pseudo-positives and has no test
    of them.
    """
    by_id = {problem.id: problem for problem in problems if problem.twin is not None}
    rows = positives[positives["item"].isin(list(by_id))].reset_index(drop=True)
    if not len(rows):
        raise TrainingError(
            "None of the positives answers a problem with a twin; give problems that have one."
        )
    asked = [by_id[item] for item in rows["item"]]
    ids = rows["ids"].tolist()
    pictures: dict[str, list[Image.Image | None]] = {
        "log_p": [one.image for one in asked],
        "log_p_twin": [None if one.twin is None else one.twin.image for one in asked],
        "log_p_control": [None if one.control is None else one.control.image for one in asked],
    }
    log_p = {
        name: _log_p(mllm, asked, ids, images, batch_size) for name, images in pictures.items()
    }
    before = np.where(np.isnan(log_p["log_p_control"]), log_p["log_p"], log_p["log_p_control"])
    drop = before - log_p["log_p_twin"]
    return rows.assign(
        **log_p,
        drop=drop,
        independent=drop < INDEPENDENT,
        unfollowed=_unfollowed(mllm, asked, ids, batch_size),
    )


def pseudo_positives(table: pd.DataFrame, *, of: str = "independent") -> PseudoPositives:
    """Hold dropped positives against kept ones.

    Args:
        table: From `image_dependence`, with ``vas`` and ``kept`` as `positives` gives them.
        of: ``"independent"`` or ``"unfollowed"``; rows where it is missing are left out.

    Raises:
        TrainingError: If a column is missing.
    """
    missing = {"item", "vas", "kept", of} - set(table.columns)
    if missing:
        raise TrainingError(
            f"The table lacks {', '.join(sorted(missing))}; merge what positives() and "
            "image_dependence() give."
        )
    table = table[table[of].notna()]
    flag = table[of].astype(float)
    by_question = flag.groupby([table["item"], table["kept"]]).mean().unstack()
    both = by_question.reindex(columns=[False, True]).dropna()
    shares = {
        kept: bootstrap_mean(flag[table["kept"] == kept], table["item"][table["kept"] == kept])
        for kept in (True, False)
    }
    return PseudoPositives(
        kept=shares[True],
        dropped=shares[False],
        difference=bootstrap_mean((both[False] - both[True]).to_numpy()),
        auroc=auroc(-table["vas"][flag > 0], -table["vas"][flag == 0]),
        of=of,
    )


def _log_p(
    mllm: Mllm,
    problems: Sequence[Problem],
    responses: Sequence[Sequence[int]],
    images: Sequence[Image.Image | None],
    batch_size: int,
) -> npt.NDArray[np.float64]:
    """Log-probability of each response under a picture, NaN where there is none."""
    totals = np.full(len(problems), np.nan)
    there = [at for at, image in enumerate(images) if image is not None]
    for start in range(0, len(there), batch_size):
        chunk = there[start : start + batch_size]
        items = [
            encode_problem(mllm, problems[at], response=responses[at], image=images[at])
            for at in chunk
        ]
        for at, item, parts in zip(chunk, items, response_logits(mllm, items), strict=True):
            tokens = item.input_ids[item.prompt_length :]
            total, read = 0.0, 0
            for logits in parts:
                own = tokens[read : read + len(logits)].to(logits.device)[:, None]
                total += float(logits.log_softmax(1).gather(1, own).double().sum())
                read += len(logits)
            totals[at] = total
    return totals


def _unfollowed(
    mllm: Mllm, problems: Sequence[Problem], responses: Sequence[Sequence[int]], batch_size: int
) -> pd.Series:
    parsed = [mllm.parse(response) for response in responses]
    there = [at for at, response in enumerate(parsed) if response.steps]
    followed = pd.Series(pd.NA, index=range(len(problems)), dtype="boolean")
    if there:
        table = dependence(
            mllm,
            # Several responses may answer one item, and a result holds every item once.
            [replace(problems[at], id=str(at)) for at in there],
            [responses[at] for at in there],
            edits=("twin",),
            rationales=("fixed",),
            batch_size=batch_size,
        ).table
        followed.iloc[there] = table["followed"].to_numpy()
    return ~followed
